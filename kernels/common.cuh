/* common.cuh - what all kernels share: conversions, reductions, launches and their
 * shared memory, dtype dispatch. */
#ifndef LLM_KERNELS_COMMON_CUH
#define LLM_KERNELS_COMMON_CUH

#include "kernels/kernels.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#define WARP    32
#define LOG2_E  1.4426950408889634f

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

/* 2^x to two units in the last place; what is below 2^-126 is 0. */
__device__ __forceinline__ float
exp2_fast(float x)
{
    float  y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

/* The address that PTX's shared memory instructions take. */
__device__ __forceinline__ unsigned int
smem_u32(const void *p)
{
    return static_cast<unsigned int>(__cvta_generic_to_shared(p));
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
    case KERNEL_F8_E4M3:
        return __half2float(__half(__nv_cvt_fp8_to_halfraw(
            static_cast<const __nv_fp8_storage_t *>(p)[i], __NV_E4M3)));
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
    case KERNEL_F8_E4M3:
        static_cast<__nv_fp8_storage_t *>(p)[i]
            = __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
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

/* V elements that are loaded and stored at once. */
template <typename T, int V> struct alignas(sizeof(T) * V) vector {
    T at[V];
};

/* Elements of 16 bytes, or 1 where rows of n of them do not begin at multiples
 * of 16 bytes. */
static inline int
wide_elems(int n, size_t elem_bytes, const void *a, const void *b)
{
    uintptr_t  bits = reinterpret_cast<uintptr_t>(a)
                      | reinterpret_cast<uintptr_t>(b);
    int        wide = static_cast<int>(16 / elem_bytes);
    return n % wide == 0 && bits % 16 == 0 ? wide : 1;
}

/* ---- programmatic dependent launch, see kernels.h ---- */

__device__ __forceinline__ void
pdl_wait(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The next kernel's blocks may start where there is room for them, once every
 * block of this one has come here or ended.  After this kernel's own pdl_wait():
 * before it, the kernels after the next one start as well and take the places
 * that blocks of this one still need (a step of one row took 5.2 ms instead of
 * 4.4).  Except in gemv.cu, whose last wave is the bottleneck. */
__device__ __forceinline__ void
pdl_launch_next(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

template <typename... P, typename... A> static inline cudaError_t
launch_kernel(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem_bytes,
              cudaStream_t stream, int pdl, const A &...args)
{
    cudaLaunchConfig_t   config = {};
    cudaLaunchAttribute  attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = smem_bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = pdl ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, args...);
}

/* A kernel and what its blocks need of shared memory besides what they declare. */
struct kernel_smem {
    const void *kernel;
    int         bytes;
};

/* What a block may have on every GPU from Ampere on: 99 KB of 8.6, 8.9 and 12. */
#define SMEM_BYTES_EVERYWHERE  (99 * 1024)

/* The most that a block may have on this device. */
static inline cudaError_t
smem_max_of_device(int *out)
{
    int          device = 0;
    cudaError_t  e = cudaGetDevice(&device);
    return e == cudaSuccess
           ? cudaDeviceGetAttribute(
                 out, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) : e;
}

/* Lets them have it where it is more than 48 KB.  A kernel for which the device
 * has too little is left as it is, or the engine would not start on other GPUs
 * than Hopper: its _takes() says no, or its launch is an error. */
template <size_t N> static inline cudaError_t
allow_smem(const struct kernel_smem (&all)[N])
{
    int          most = 0;
    cudaError_t  e = smem_max_of_device(&most);
    for (size_t i = 0; i < N && e == cudaSuccess; i++) {
        if (all[i].bytes <= most) {
            e = cudaFuncSetAttribute(
                all[i].kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                all[i].bytes);
        }
    }
    return e;
}

/* Calls function<T>(args) for the C++ type of a dtype. */
#define DISPATCH_DTYPE(dtype, function, ...)                                  \
    ((dtype) == KERNEL_BF16 ? function<__nv_bfloat16>(__VA_ARGS__)            \
     : (dtype) == KERNEL_F16 ? function<__half>(__VA_ARGS__)                  \
                             : function<float>(__VA_ARGS__))

#endif
