/* activation.cu - what follows a matrix product: bias, residual, silu * up. */
#include "kernels/common.cuh"

#define THREADS  256

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
    if (col >= p.n) {
        return;
    }
    T     *y = static_cast<T *>(p.y) + row * p.n + col;
    float  a;
    if (p.silu_mul) {
        const float  *acc = p.acc + row * 2 * p.n;
        float         gate = acc[col] + bias_at(p, col);
        float         up = acc[p.n + col] + bias_at(p, p.n + col);
        a = gate / (1.0f + expf(-gate)) * up;
    } else {
        a = p.acc[row * p.n + col] + bias_at(p, col);
        a += p.add ? to_float(*y) : 0.0f;
    }
    *y = from_float<T>(a);
}

template <typename T> static cudaError_t
epilogue_typed(const struct epilogue_params *p, cudaStream_t stream)
{
    dim3  grid(static_cast<unsigned int>((p->n + THREADS - 1) / THREADS),
               static_cast<unsigned int>(p->num));
    epilogue_kernel<T><<<grid, THREADS, 0, stream>>>(*p);
    return cudaGetLastError();
}

cudaError_t
epilogue_launch(const struct epilogue_params *p, cudaStream_t stream)
{
    return DISPATCH_DTYPE(p->dtype, epilogue_typed, p, stream);
}
