/* common.cuh - conversions, reductions and dtype dispatch of all kernels. */
#ifndef LLM_KERNELS_COMMON_CUH
#define LLM_KERNELS_COMMON_CUH

#include "kernels/kernels.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define WARP  32

template <typename T> __device__ __forceinline__ float
to_float(T x)
{
    return static_cast<float>(x);
}

template <typename T> __device__ __forceinline__ T
from_float(float x)
{
    return static_cast<T>(x);
}

template <> __device__ __forceinline__ float
to_float(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}

template <> __device__ __forceinline__ float
to_float(__half x)
{
    return __half2float(x);
}

template <> __device__ __forceinline__ __nv_bfloat16
from_float(float x)
{
    return __float2bfloat16_rn(x);
}

template <> __device__ __forceinline__ __half
from_float(float x)
{
    return __float2half_rn(x);
}

template <typename T> __device__ __forceinline__ float
round_to(float x)
{
    return to_float(from_float<T>(x));
}

/* Element i of an array whose dtype is known at run time only. */
__device__ __forceinline__ float
load_as(const void *p, enum kernel_dtype dtype, size_t i)
{
    switch (dtype) {
    case KERNEL_BF16:
        return to_float(static_cast<const __nv_bfloat16 *>(p)[i]);
    case KERNEL_F16:
        return to_float(static_cast<const __half *>(p)[i]);
    default:
        return static_cast<const float *>(p)[i];
    }
}

__device__ __forceinline__ void
store_as(void *p, enum kernel_dtype dtype, size_t i, float x)
{
    switch (dtype) {
    case KERNEL_BF16:
        static_cast<__nv_bfloat16 *>(p)[i] = from_float<__nv_bfloat16>(x);
        break;
    case KERNEL_F16:
        static_cast<__half *>(p)[i] = from_float<__half>(x);
        break;
    default:
        static_cast<float *>(p)[i] = x;
    }
}

/* The sum over the warp, in every lane, always in the same order. */
__device__ __forceinline__ float
warp_sum(float x)
{
    for (int step = WARP / 2; step > 0; step /= 2) {
        x += __shfl_xor_sync(0xffffffffu, x, step);
    }
    return x;
}

/* Calls function<T>(args) for the C++ type of a dtype. */
#define DISPATCH_DTYPE(dtype, function, ...)                                  \
    ((dtype) == KERNEL_BF16 ? function<__nv_bfloat16>(__VA_ARGS__)            \
     : (dtype) == KERNEL_F16 ? function<__half>(__VA_ARGS__)                  \
                             : function<float>(__VA_ARGS__))

#endif
