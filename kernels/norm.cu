/* norm.cu - RMSNorm of rows, optionally gathered, optionally of a residual
 * addition.  A row stays in registers between its sum and its output.
 *
 * Many rows are taken two a block, which keeps enough loads under way to use
 * the memory; the sum of a row has the same order either way. */
#include "kernels/common.cuh"

#define THREADS    512
#define KEPT       4       /* vectors of a thread */
#define MANY_ROWS  2       /* of a block, where there are more than MANY */
#define MANY       256

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

/* The sums of MANY_ROWS rows over the block, each as block_sum() adds it. */
static __device__ __forceinline__ void
block_sums(float (&sum)[MANY_ROWS])
{
    __shared__ float  warp_sums[MANY_ROWS][THREADS / WARP];
#pragma unroll
    for (int r = 0; r < MANY_ROWS; r++) {
        sum[r] = warp_sum(sum[r]);
        if (threadIdx.x % WARP == 0) {
            warp_sums[r][threadIdx.x / WARP] = sum[r];
        }
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < MANY_ROWS; r++) {
        sum[r] = 0.0f;
#pragma unroll
        for (int i = 0; i < THREADS / WARP; i++) {
            sum[r] += warp_sums[r][i];
        }
    }
}

/* Keeps the compiler from keeping the floats of a vector in its place. */
template <typename T, int V> static __device__ __forceinline__ void
keep_packed(struct vector<T, V> &v)
{
    unsigned int  words[4];
    static_assert(sizeof v == sizeof words, "16 bytes");
    memcpy(words, &v, sizeof words);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        asm volatile("" : "+r"(words[i]));
    }
    memcpy(&v, words, sizeof words);
}

/* New residuals, n vectors from row to row, which are stored: all are loaded
 * before the first is. */
template <typename T, int V> static __device__ __forceinline__ void
add_rows(struct vector<T, V> (&kept)[MANY_ROWS], struct vector<T, V> *x,
         const struct vector<T, V> *add, int n, int rows)
{
    struct vector<T, V>  a[MANY_ROWS];
#pragma unroll
    for (int r = 0; r < MANY_ROWS; r++) {
        if (r < rows) {
            a[r] = add[static_cast<size_t>(r) * n];
        }
    }
#pragma unroll
    for (int r = 0; r < MANY_ROWS; r++) {
        if (r < rows) {
#pragma unroll
            for (int j = 0; j < V; j++) {
                kept[r].at[j] = from_float<T>(to_float(kept[r].at[j])
                                              + to_float(a[r].at[j]));
            }
            keep_packed<T, V>(kept[r]);
            x[static_cast<size_t>(r) * n] = kept[r];
        }
    }
}

/* MANY_ROWS rows a block, a vector of each a thread: n at most THREADS * V. */
template <typename T, int V> static __global__ void
__launch_bounds__(THREADS, 3)
norm_many_kernel(struct norm_params p)
{
    using X = struct vector<T, V>;
    int     i = threadIdx.x, n = p.n / V;
    int     first = blockIdx.x * MANY_ROWS;
    bool    in = i < n;
    X       kept[MANY_ROWS];
    float   sum[MANY_ROWS], weight[V];

    pdl_wait();
    X      *x = static_cast<X *>(p.x) + static_cast<size_t>(first) * n + i;
    int     rows = in ? min(MANY_ROWS, p.num - first) : 0;
#pragma unroll
    for (int r = 0; r < MANY_ROWS; r++) {
        if (r < rows) {
            kept[r] = x[static_cast<size_t>(r) * n];
        }
    }
    if (p.add != NULL) {
        add_rows<T, V>(kept, x, static_cast<const X *>(p.add)
                                + static_cast<size_t>(first) * n + i, n, rows);
    }
#pragma unroll
    for (int r = 0; r < MANY_ROWS; r++) {
        sum[r] = r < rows ? sum_squares<T, V>(kept[r]) : 0.0f;
        keep_packed<T, V>(kept[r]);
    }
#pragma unroll
    for (int j = 0; j < V; j += 4) {
        *reinterpret_cast<float4 *>(weight + j) = in
            ? *reinterpret_cast<const float4 *>(p.weight + i * V + j)
            : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    block_sums(sum);
    pdl_launch_next();
#pragma unroll
    for (int r = 0; r < MANY_ROWS; r++) {
        float  by = __frsqrt_rn(sum[r] / static_cast<float>(p.n) + p.eps);
        if (r < rows) {
            X  y;
#pragma unroll
            for (int j = 0; j < V; j++) {
                y.at[j] = from_float<T>(to_float(kept[r].at[j]) * by
                                        * weight[j]);
            }
            static_cast<X *>(p.y)[static_cast<size_t>(first + r) * n + i] = y;
        }
    }
}

/* 16 bytes at once where rows allow it. */
template <typename T> static cudaError_t
norm_typed(const struct norm_params *p, cudaStream_t stream)
{
    constexpr int  wide = 16 / sizeof(T);
    bool  is_wide = wide_elems(p->n, sizeof(T), p->y, p->x) > 1
                    && wide_elems(p->n, sizeof(T), p->add, p->add) > 1;
    if (is_wide && p->num > MANY && p->rows == NULL && p->n <= THREADS * wide
        && reinterpret_cast<uintptr_t>(p->weight) % 16 == 0)
    {
        return launch_kernel(norm_many_kernel<T, wide>,
                             static_cast<unsigned int>((p->num + MANY_ROWS - 1)
                                                       / MANY_ROWS),
                             THREADS, 0, stream, p->pdl, *p);
    }
    return launch_kernel(is_wide ? norm_kernel<T, wide> : norm_kernel<T, 1>,
                         static_cast<unsigned int>(p->num), THREADS, 0, stream,
                         p->pdl, *p);
}

cudaError_t
norm_launch(const struct norm_params *p, cudaStream_t stream)
{
    return DISPATCH_DTYPE(p->dtype, norm_typed, p, stream);
}
