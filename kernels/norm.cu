/* norm.cu - RMSNorm of rows, optionally gathered, optionally of a residual
 * addition.  A row stays in registers between its sum and its output. */
#include "kernels/common.cuh"

#define THREADS  512
#define KEPT     4         /* vectors of a thread */

template <typename T, int V> static __device__ __forceinline__ float
sum_squares(const struct vector<T, V> &v)
{
    float  sum = 0.0f;
#pragma unroll
    for (int j = 0; j < V; j++) {
        sum += to_float(v.at[j]) * to_float(v.at[j]);
    }
    return sum;
}

/* Vector i of the row; with `add` the new residual, which is stored. */
template <typename T, int V> static __device__ __forceinline__
struct vector<T, V>
load_row(struct vector<T, V> *x, const struct vector<T, V> *add, int i)
{
    struct vector<T, V>  v = x[i];
    if (add != NULL) {
        struct vector<T, V>  a = add[i];
#pragma unroll
        for (int j = 0; j < V; j++) {
            v.at[j] = from_float<T>(to_float(v.at[j]) + to_float(a.at[j]));
        }
        x[i] = v;
    }
    return v;
}

template <typename T, int V> static __device__ __forceinline__ void
store_row(const struct norm_params &p, struct vector<T, V> *y,
          struct vector<T, V> v, int i, float r)
{
#pragma unroll
    for (int j = 0; j < V; j++) {
        v.at[j] = from_float<T>(to_float(v.at[j]) * r * p.weight[i * V + j]);
    }
    y[i] = v;
}

static __device__ __forceinline__ float
block_sum(float sum)
{
    __shared__ float  warp_sums[THREADS / WARP];
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) {
        warp_sums[threadIdx.x / WARP] = sum;
    }
    __syncthreads();
    sum = 0.0f;
#pragma unroll
    for (int i = 0; i < THREADS / WARP; i++) {
        sum += warp_sums[i];
    }
    return sum;
}

template <typename T, int V> static __global__ void __launch_bounds__(THREADS)
norm_kernel(struct norm_params p)
{
    using X = struct vector<T, V>;
    if (p.early) {
        pdl_launch_next();
    }
    pdl_wait();
    size_t     row = p.rows == NULL ? blockIdx.x : p.rows[blockIdx.x];
    X         *x = reinterpret_cast<X *>(static_cast<T *>(p.x) + row * p.n);
    X         *y = reinterpret_cast<X *>(
        static_cast<T *>(p.y) + static_cast<size_t>(blockIdx.x) * p.n);
    const X   *add = p.add == NULL ? NULL : reinterpret_cast<const X *>(
        static_cast<const T *>(p.add) + row * p.n);
    int        n = p.n / V;
    X          kept[KEPT];
    float      sum = 0.0f;

#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        int  i = threadIdx.x + k * THREADS;
        if (i < n) {
            kept[k] = load_row<T, V>(x, add, i);
            sum += sum_squares<T, V>(kept[k]);
        }
    }
    for (int i = threadIdx.x + KEPT * THREADS; i < n; i += THREADS) {
        sum += sum_squares<T, V>(load_row<T, V>(x, add, i));
    }
    sum = block_sum(sum);
    if (!p.early) {
        pdl_launch_next();
    }
    float  r = __frsqrt_rn(sum / static_cast<float>(p.n) + p.eps);
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        int  i = threadIdx.x + k * THREADS;
        if (i < n) {
            store_row<T, V>(p, y, kept[k], i, r);
        }
    }
    for (int i = threadIdx.x + KEPT * THREADS; i < n; i += THREADS) {
        store_row<T, V>(p, y, x[i], i, r);
    }
}

/* 16 bytes at once where rows allow it. */
template <typename T> static cudaError_t
norm_typed(const struct norm_params *p, cudaStream_t stream)
{
    constexpr int  wide = 16 / sizeof(T);
    bool  is_wide = wide_elems(p->n, sizeof(T), p->y, p->x) > 1
                    && wide_elems(p->n, sizeof(T), p->add, p->add) > 1;
    return launch_kernel(is_wide ? norm_kernel<T, wide> : norm_kernel<T, 1>,
                         static_cast<unsigned int>(p->num), THREADS, 0, stream,
                         p->pdl, *p);
}

cudaError_t
norm_launch(const struct norm_params *p, cudaStream_t stream)
{
    return DISPATCH_DTYPE(p->dtype, norm_typed, p, stream);
}
