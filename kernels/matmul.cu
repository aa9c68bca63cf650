/* matmul.cu - a matrix product for any dtypes and sizes; right, not fast. */
#include "kernels/common.cuh"

#define TILE  16

static __global__ void
matmul_simple_kernel(struct matmul_params p)
{
    __shared__ float  xs[TILE][TILE + 1], ws[TILE][TILE + 1];
    int    tx = threadIdx.x, ty = threadIdx.y;
    int    col = blockIdx.x * TILE + tx, row = blockIdx.y * TILE + ty;
    int    w_row = blockIdx.x * TILE + ty;
    float  sum = 0.0f;

    for (int k0 = 0; k0 < p.k; k0 += TILE) {
        int   k = k0 + tx;
        bool  x_in = k < p.k && row < p.num, w_in = k < p.k && w_row < p.n;
        xs[ty][tx] = x_in ? load_as(p.x, p.x_dtype,
                                    static_cast<size_t>(row) * p.k + k) : 0.0f;
        ws[ty][tx] = w_in ? load_as(p.w, p.w_dtype,
                                    static_cast<size_t>(w_row) * p.k + k)
                          : 0.0f;
        __syncthreads();
        for (int i = 0; i < TILE; i++) {
            sum = fmaf(xs[ty][i], ws[tx][i], sum);
        }
        __syncthreads();
    }
    if (row < p.num && col < p.n) {
        p.y[static_cast<size_t>(row) * p.y_stride + col] = sum;
    }
}

cudaError_t
matmul_simple_launch(const struct matmul_params *p, cudaStream_t stream)
{
    dim3  grid(static_cast<unsigned int>((p->n + TILE - 1) / TILE),
               static_cast<unsigned int>((p->num + TILE - 1) / TILE));
    matmul_simple_kernel<<<grid, dim3(TILE, TILE), 0, stream>>>(*p);
    return cudaGetLastError();
}
