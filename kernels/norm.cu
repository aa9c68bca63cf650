/* norm.cu - RMSNorm of rows, optionally gathered. */
#include "kernels/common.cuh"

#define THREADS  256

/* V elements that are loaded and stored at once. */
template <typename T, int V> struct alignas(sizeof(T) * V) vector {
    T at[V];
};

template <typename T, int V> static __global__ void
norm_kernel(struct norm_params p)
{
    using X = struct vector<T, V>;
    __shared__ float  warp_sums[THREADS / WARP];
    size_t            row = p.rows == NULL ? blockIdx.x : p.rows[blockIdx.x];
    const X          *x = reinterpret_cast<const X *>(
        static_cast<const T *>(p.x) + row * p.n);
    X                *y = reinterpret_cast<X *>(
        static_cast<T *>(p.y) + static_cast<size_t>(blockIdx.x) * p.n);
    float             sum = 0.0f;

    for (int i = threadIdx.x; i < p.n / V; i += THREADS) {
        X  v = x[i];
#pragma unroll
        for (int j = 0; j < V; j++) {
            sum += to_float(v.at[j]) * to_float(v.at[j]);
        }
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
    for (int i = threadIdx.x; i < p.n / V; i += THREADS) {
        X  v = x[i];
#pragma unroll
        for (int j = 0; j < V; j++) {
            v.at[j] = from_float<T>(to_float(v.at[j]) * r
                                    * p.weight[i * V + j]);
        }
        y[i] = v;
    }
}

/* 16 bytes at once where rows allow it. */
template <typename T> static cudaError_t
norm_typed(const struct norm_params *p, cudaStream_t stream)
{
    constexpr int  wide = 16 / sizeof(T);
    uintptr_t      bits = reinterpret_cast<uintptr_t>(p->x)
                          | reinterpret_cast<uintptr_t>(p->y);
    if (p->n % wide == 0 && bits % 16 == 0) {
        norm_kernel<T, wide><<<p->num, THREADS, 0, stream>>>(*p);
    } else {
        norm_kernel<T, 1><<<p->num, THREADS, 0, stream>>>(*p);
    }
    return cudaGetLastError();
}

cudaError_t
norm_launch(const struct norm_params *p, cudaStream_t stream)
{
    return DISPATCH_DTYPE(p->dtype, norm_typed, p, stream);
}
