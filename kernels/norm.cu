/* norm.cu - RMSNorm of rows, optionally gathered. */
#include "kernels/common.cuh"

#define THREADS  256

template <typename T> static __global__ void
norm_kernel(struct norm_params p)
{
    __shared__ float  warp_sums[THREADS / WARP];
    size_t            row = p.rows == NULL ? blockIdx.x : p.rows[blockIdx.x];
    const T          *x = static_cast<const T *>(p.x) + row * p.n;
    T                *y = static_cast<T *>(p.y)
                          + static_cast<size_t>(blockIdx.x) * p.n;
    float             sum = 0.0f;

    for (int i = threadIdx.x; i < p.n; i += THREADS) {
        float  v = to_float(x[i]);
        sum += v * v;
    }
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) {
        warp_sums[threadIdx.x / WARP] = sum;
    }
    __syncthreads();
    sum = 0.0f;
    for (int i = 0; i < THREADS / WARP; i++) {
        sum += warp_sums[i];
    }
    float  r = __frsqrt_rn(sum / static_cast<float>(p.n) + p.eps);
    for (int i = threadIdx.x; i < p.n; i += THREADS) {
        y[i] = from_float<T>(to_float(x[i]) * r * p.weight[i]);
    }
}

template <typename T> static cudaError_t
norm_typed(const struct norm_params *p, cudaStream_t stream)
{
    norm_kernel<T><<<p->num, THREADS, 0, stream>>>(*p);
    return cudaGetLastError();
}

cudaError_t
norm_launch(const struct norm_params *p, cudaStream_t stream)
{
    return DISPATCH_DTYPE(p->dtype, norm_typed, p, stream);
}
