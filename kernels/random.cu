/* random.cu - random weights of a model that is timed without its files. */
#include "kernels/common.cuh"

#define THREADS  256

/* splitmix64's output number i. */
static __device__ __forceinline__ uint64_t
random_at(uint64_t state, uint64_t i)
{
    uint64_t  z = state + (i + 1) * 0x9e3779b97f4a7c15ULL;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
    return z ^ z >> 31;
}

/* Truncated as engine/model/weights.c does it. */
static __device__ __forceinline__ void
store_truncated(void *p, enum kernel_dtype dtype, int64_t i, float x)
{
    uint32_t  u = __float_as_uint(x), exponent = u >> 23 & 0xff;
    if (dtype == KERNEL_F32) {
        static_cast<uint32_t *>(p)[i] = u;
        return;
    }
    uint16_t  half = static_cast<uint16_t>(u >> 16);
    if (dtype == KERNEL_F16) {
        half &= 0x8000;
        if (exponent > 112 && exponent < 143) {
            half |= static_cast<uint16_t>((exponent - 112) << 10
                                          | (u >> 13 & 0x3ff));
        }
    }
    static_cast<uint16_t *>(p)[i] = half;
}

static __global__ void
random_kernel(void *p, enum kernel_dtype dtype, int64_t n, uint64_t state,
              float scale)
{
    int64_t  step = static_cast<int64_t>(gridDim.x) * THREADS;
    for (int64_t g = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
         g * 4 < n; g += step)
    {
        uint64_t  r = random_at(state, static_cast<uint64_t>(g));
        for (int64_t i = g * 4; i < n && i < g * 4 + 4; i++, r >>= 16) {
            float  x = static_cast<float>(static_cast<int16_t>(
                           static_cast<uint16_t>(r))) * scale;
            store_truncated(p, dtype, i, scale == 0.0f ? 1.0f : x);
        }
    }
}

cudaError_t
random_launch(void *p, enum kernel_dtype dtype, int64_t n, uint64_t state,
              float scale, cudaStream_t stream)
{
    int64_t  blocks = (n / 4 + THREADS) / THREADS;
    random_kernel<<<static_cast<unsigned int>(blocks < 4096 ? blocks : 4096),
                    THREADS, 0, stream>>>(p, dtype, n, state, scale);
    return cudaGetLastError();
}
