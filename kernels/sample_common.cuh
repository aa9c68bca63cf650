/* sample_common.cuh - what both samplers need, sample.cu and sample_sm90.cu: rank
 * keys, sums over a warp, a row's end. */
#ifndef LLM_KERNELS_SAMPLE_COMMON_CUH
#define LLM_KERNELS_SAMPLE_COMMON_CUH

#include "kernels/common.cuh"
#include "kernels/sample_math.h"

#define ALL            0xffffffffu      /* lanes; keys */
#define KEY_INF        0x007fffffu      /* of +inf; NaN is given 0 */
#define KEY_MINUS_INF  0xff800000u

static __device__ __forceinline__ float
logit_of_key(uint32_t key)
{
    return __uint_as_float(key >> 31 ? key : ~key & 0x7fffffffu);
}

/* Of a row by its best token: its key, then its id. */
static __device__ __forceinline__ bool
is_error(uint64_t best)
{
    uint32_t  key = static_cast<uint32_t>(best >> 32);
    return key <= KEY_INF || key >= KEY_MINUS_INF;
}

static __device__ __forceinline__ uint64_t
warp_sum64(uint64_t x)
{
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) {
        x += __shfl_xor_sync(ALL, x, step);
    }
    return x;
}

/* The sum up to and with this lane. */
static __device__ __forceinline__ uint64_t
warp_scan64(uint64_t x)
{
    int  lane = threadIdx.x % WARP;
#pragma unroll
    for (int step = 1; step < WARP; step *= 2) {
        uint64_t  y = __shfl_up_sync(ALL, x, step);
        x += lane >= step ? y : 0;
    }
    return x;
}

static __device__ __forceinline__ void
finish(const struct sample_launch &p, int row, int id)
{
    p.ids[row] = id < 0 ? 0 : id;
    p.host_ids[row] = id;
}

#endif
