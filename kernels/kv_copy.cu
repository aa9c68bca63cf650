/* kv_copy.cu - copies whole KV blocks, all planes, in one launch. */
#include "kernels/common.cuh"

#define THREADS  128

template <typename WORD> static __global__ void
copy_blocks_kernel(struct copy_params p)
{
    char        *plane = p.data + p.plane_bytes * blockIdx.y;
    const char  *src = plane + p.block_bytes * p.pairs[2 * blockIdx.x];
    char        *dst = plane + p.block_bytes * p.pairs[2 * blockIdx.x + 1];
    for (size_t i = threadIdx.x; i < p.block_bytes / sizeof(WORD);
         i += THREADS)
    {
        reinterpret_cast<WORD *>(dst)[i]
            = reinterpret_cast<const WORD *>(src)[i];
    }
}

cudaError_t
copy_blocks_launch(const struct copy_params *p, cudaStream_t stream)
{
    dim3  grid(static_cast<unsigned int>(p->num),
               static_cast<unsigned int>(p->num_planes));
    if (p->block_bytes % sizeof(uint4) == 0) {
        copy_blocks_kernel<uint4><<<grid, THREADS, 0, stream>>>(*p);
    } else if (p->block_bytes % sizeof(uint16_t) == 0) {
        copy_blocks_kernel<uint16_t><<<grid, THREADS, 0, stream>>>(*p);
    } else {
        copy_blocks_kernel<char><<<grid, THREADS, 0, stream>>>(*p);
    }
    return cudaGetLastError();
}
