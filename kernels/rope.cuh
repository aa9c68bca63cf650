/* rope.cuh - the rotation of rotary embedding, the same arithmetic in all fast
 * kernels that do it. */
#ifndef LLM_KERNELS_ROPE_CUH
#define LLM_KERNELS_ROPE_CUH

/* Element j of a head and element j + head_dim / 2, in fp32. */
static __device__ __forceinline__ void
rotate_pair(float &a, float &b, float c, float s)
{
    float  u = a;
    a = u * c - b * s;
    b = b * c + u * s;
}

#endif
