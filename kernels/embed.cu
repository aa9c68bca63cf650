/* embed.cu - gathers rows by index and converts dtypes: token embeddings. */
#include "kernels/common.cuh"

#define THREADS  256

static __global__ void
gather_kernel(struct gather_params p)
{
    pdl_wait();
    size_t  src = static_cast<size_t>(p.ids[blockIdx.x]) * p.n;
    size_t  dst = static_cast<size_t>(blockIdx.x) * p.n;
    for (int i = threadIdx.x; i < p.n; i += THREADS) {
        store_as(p.y, p.y_dtype, dst + i, load_as(p.x, p.x_dtype, src + i));
    }
}

/* The same dtype: bits, whatever they are; a row is `words` of them. */
template <typename WORD> static __global__ void
gather_bits_kernel(struct gather_params p, int words)
{
    pdl_wait();
    const WORD  *x = static_cast<const WORD *>(p.x)
                     + static_cast<size_t>(p.ids[blockIdx.x]) * words;
    WORD        *y = static_cast<WORD *>(p.y)
                     + static_cast<size_t>(blockIdx.x) * words;
    for (int i = threadIdx.x; i < words; i += THREADS) {
        y[i] = x[i];
    }
}

static __global__ void
widen_kernel(float *y, const void *x, enum kernel_dtype dtype, int64_t n)
{
    int64_t  i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i < n) {
        y[i] = load_as(x, dtype, static_cast<size_t>(i));
    }
}

cudaError_t
gather_launch(const struct gather_params *p, cudaStream_t stream)
{
    unsigned int  num = static_cast<unsigned int>(p->num);
    int        row_bytes = p->n * (p->x_dtype == KERNEL_F32 ? 4 : 2);
    uintptr_t  bits = reinterpret_cast<uintptr_t>(p->x)
                      | reinterpret_cast<uintptr_t>(p->y);
    if (p->x_dtype != p->y_dtype) {
        return launch_kernel(gather_kernel, num, THREADS, 0, stream, p->pdl,
                             *p);
    }
    if (row_bytes % 16 == 0 && bits % 16 == 0) {
        return launch_kernel(gather_bits_kernel<uint4>, num, THREADS, 0,
                             stream, p->pdl, *p, row_bytes / 16);
    }
    return launch_kernel(gather_bits_kernel<uint16_t>, num, THREADS, 0, stream,
                         p->pdl, *p, row_bytes / 2);
}

cudaError_t
widen_launch(float *y, const void *x, enum kernel_dtype x_dtype, int64_t n,
             cudaStream_t stream)
{
    unsigned int  blocks = static_cast<unsigned int>((n + THREADS - 1)
                                                     / THREADS);
    widen_kernel<<<blocks, THREADS, 0, stream>>>(y, x, x_dtype, n);
    return cudaGetLastError();
}
