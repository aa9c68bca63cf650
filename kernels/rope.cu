/* rope.cu - q and k norms, rotary embedding and the append to the KV cache. */
#include "kernels/common.cuh"

#define WARPS      4
#define PAIRS_MAX  (KERNEL_HEAD_DIM_MAX / 2 / WARP)   /* a lane's (j, j + half) */

/* The address of head `head` of a slot, in elements from k or v. */
static __device__ __forceinline__ size_t
slot_offset(const struct kv_layer &kv, int slot, int head)
{
    size_t  block = static_cast<size_t>(slot >> kv.block_shift);
    size_t  token = static_cast<size_t>(slot & ((1 << kv.block_shift) - 1));
    return (((block * kv.num_kv_heads + head) << kv.block_shift) + token)
           * kv.head_dim;
}

template <typename T> static __global__ void
rope_append_kernel(struct rope_params p)
{
    int     lane = threadIdx.x % WARP;
    int     head = blockIdx.y * WARPS + threadIdx.x / WARP;
    int     head_dim = p.kv.head_dim, half = head_dim / 2;
    int     num_kv = p.kv.num_kv_heads, num_heads = p.num_heads + 2 * num_kv;
    size_t  row = blockIdx.x;
    float   a[PAIRS_MAX], b[PAIRS_MAX];
    pdl_wait();
    if (head >= num_heads) {
        return;
    }
    bool   is_q = head < p.num_heads, is_v = head >= p.num_heads + num_kv;
    int    slot = p.slots[row];
    T     *x = static_cast<T *>(p.qkv) + (row * num_heads + head) * head_dim;
    float  sum = 0.0f;
    if (!is_q && slot < 0) {
        return;
    }
#pragma unroll
    for (int i = 0; i < PAIRS_MAX; i++) {
        int  j = lane + i * WARP;
        a[i] = j < half ? to_float(x[j]) : 0.0f;
        b[i] = j < half ? to_float(x[j + half]) : 0.0f;
        sum += a[i] * a[i] + b[i] * b[i];
    }
    const float  *weight = is_v ? NULL : is_q ? p.q_norm : p.k_norm;
    const float  *cs = p.cos_sin + static_cast<size_t>(p.positions[row])
                                   * head_dim;
    float  r = 0.0f;
    if (weight != NULL) {
        r = __frsqrt_rn(warp_sum(sum) / static_cast<float>(head_dim)
                        + (is_q ? p.q_eps : p.k_eps));
    }
    pdl_launch_next();
    int     kv_head = is_v ? head - p.num_heads - num_kv : head - p.num_heads;
    size_t  at = is_q ? 0 : slot_offset(p.kv, slot, kv_head);
    void   *cache = is_v ? p.kv.v : p.kv.k;
    float   scale = is_v ? p.kv.v_scale : p.kv.k_scale;
#pragma unroll
    for (int i = 0; i < PAIRS_MAX; i++) {
        int    j = lane + i * WARP;
        float  u = a[i], v = b[i];
        if (j >= half) {
            break;
        }
        if (weight != NULL) {
            u = round_to<T>(u * r * weight[j]);
            v = round_to<T>(v * r * weight[j + half]);
        }
        if (!is_v) {
            float  c = cs[j], s = cs[half + j], u0 = u;
            u = u * c - v * s;
            v = v * c + u0 * s;
        }
        if (is_q) {
            x[j] = from_float<T>(u);
            x[j + half] = from_float<T>(v);
        } else {
            store_as(cache, p.kv.dtype, at + j, __fdiv_rn(u, scale));
            store_as(cache, p.kv.dtype, at + j + half, __fdiv_rn(v, scale));
        }
    }
}

template <typename T> static cudaError_t
rope_append_typed(const struct rope_params *p, cudaStream_t stream)
{
    int   num_heads = p->num_heads + 2 * p->kv.num_kv_heads;
    dim3  grid(static_cast<unsigned int>(p->num),
               static_cast<unsigned int>((num_heads + WARPS - 1) / WARPS));
    return launch_kernel(rope_append_kernel<T>, grid, WARPS * WARP, 0, stream,
                         p->pdl, *p);
}

cudaError_t
rope_append_launch(const struct rope_params *p, cudaStream_t stream)
{
    if (rope_wide_takes(p)) {
        return rope_wide_launch(p, stream);
    }
    return DISPATCH_DTYPE(p->dtype, rope_append_typed, p, stream);
}
