/* activation.cu - what follows a matrix product: bias, residual, silu * up. */
#include "kernels/common.cuh"

#define THREADS  256

static __device__ __forceinline__ float
silu(float x)
{
    return x / (1.0f + __expf(-x));
}

/* ---- from fp32 products ---- */

static __device__ __forceinline__ float
bias_at(const struct epilogue_params &p, int col)
{
    return p.bias == NULL ? 0.0f : p.bias[col];
}

template <typename T> static __global__ void
epilogue_kernel(struct epilogue_params p)
{
    int     col = blockIdx.x * THREADS + threadIdx.x;
    size_t  row = blockIdx.y;
    pdl_wait();
    if (col >= p.n) {
        return;
    }
    T     *y = static_cast<T *>(p.y) + row * p.n + col;
    float  a;
    if (p.silu_mul) {
        const float  *acc = p.acc + row * 2 * p.n;
        float         gate = round_to<T>(acc[col] + bias_at(p, col));
        float         up = round_to<T>(acc[p.n + col]
                                       + bias_at(p, p.n + col));
        a = silu(gate) * up;
    } else {
        a = round_to<T>(p.acc[row * p.n + col] + bias_at(p, col));
        a += p.add ? to_float(*y) : 0.0f;
    }
    *y = from_float<T>(a);
}

template <typename T> static cudaError_t
epilogue_typed(const struct epilogue_params *p, cudaStream_t stream)
{
    dim3  grid(static_cast<unsigned int>((p->n + THREADS - 1) / THREADS),
               static_cast<unsigned int>(p->num));
    return launch_kernel(epilogue_kernel<T>, grid, THREADS, 0, stream, p->pdl,
                         *p);
}

cudaError_t
epilogue_launch(const struct epilogue_params *p, cudaStream_t stream)
{
    return DISPATCH_DTYPE(p->dtype, epilogue_typed, p, stream);
}

/* ---- from products in T ---- */

template <typename T, int V> static __global__ void
silu_mul_kernel(struct product_params p)
{
    using X = struct vector<T, V>;
    int     col = blockIdx.x * THREADS + threadIdx.x;
    size_t  row = blockIdx.y, n = static_cast<size_t>(p.n / V);
    pdl_wait();
    if (col < p.n / V) {
        const X  *product = static_cast<const X *>(p.product) + row * 2 * n;
        X         gate = product[col], up = product[n + col];
#pragma unroll
        for (int j = 0; j < V; j++) {
            gate.at[j] = from_float<T>(silu(to_float(gate.at[j]))
                                       * to_float(up.at[j]));
        }
        static_cast<X *>(p.y)[row * n + col] = gate;
    }
    pdl_launch_next();
}

template <typename T, int V> static __global__ void
add_kernel(struct product_params p)
{
    using X = struct vector<T, V>;
    int     col = blockIdx.x * THREADS + threadIdx.x;
    size_t  at = blockIdx.y * static_cast<size_t>(p.n / V) + col;
    pdl_wait();
    if (col < p.n / V) {
        X  a = static_cast<const X *>(p.product)[at];
        X  y = static_cast<X *>(p.y)[at];
#pragma unroll
        for (int j = 0; j < V; j++) {
            y.at[j] = from_float<T>(to_float(y.at[j]) + to_float(a.at[j]));
        }
        static_cast<X *>(p.y)[at] = y;
    }
    pdl_launch_next();
}

template <typename T> static cudaError_t
product_typed(const struct product_params *p, cudaStream_t stream,
              void (*wide_kernel)(struct product_params),
              void (*narrow_kernel)(struct product_params))
{
    int        v = wide_elems(p->n, sizeof(T), p->y, p->product);
    dim3       grid(static_cast<unsigned int>((p->n / v + THREADS - 1)
                                              / THREADS),
                    static_cast<unsigned int>(p->num));
    return launch_kernel(v > 1 ? wide_kernel : narrow_kernel, grid, THREADS, 0,
                         stream, p->pdl, *p);
}

template <typename T> static cudaError_t
silu_mul_typed(const struct product_params *p, cudaStream_t stream)
{
    return product_typed<T>(p, stream, silu_mul_kernel<T, 16 / sizeof(T)>,
                            silu_mul_kernel<T, 1>);
}

template <typename T> static cudaError_t
add_typed(const struct product_params *p, cudaStream_t stream)
{
    return product_typed<T>(p, stream, add_kernel<T, 16 / sizeof(T)>,
                            add_kernel<T, 1>);
}

cudaError_t
silu_mul_launch(const struct product_params *p, cudaStream_t stream)
{
    return DISPATCH_DTYPE(p->dtype, silu_mul_typed, p, stream);
}

cudaError_t
add_launch(const struct product_params *p, cudaStream_t stream)
{
    return DISPATCH_DTYPE(p->dtype, add_typed, p, stream);
}
