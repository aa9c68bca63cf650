/* e4m3.cuh - stored fp8 as operands of tensor core products in f16.
 *
 * Every e4m3 value is an f16 value, and one instruction turns two into two; so
 * products with an fp8 cache are f16 whatever T is.  The other operands are
 * brought into f16's range by powers of two, which cost no bits: a row of Q by
 * query_factor() of its largest element, P by 2^P_SHIFT (P <= 1).  What f16
 * still loses is below 2^-24 of the row's largest.
 *
 * B fragments of m16n8k16 from bytes.  K: a lane has 16 (or 8) neighbouring
 * codes of one key, which are its share of 4 (2) products: which element of
 * head_dim a product calls k is free as long as Q's fragment agrees.  V: an
 * ldmatrix.trans of 16-bit pairs brings (key 2t, key 2t + 1) x (column 2g,
 * column 2g + 1); the even columns are one tile of eight, the odd ones another.
 * columns_in_order() undoes that in the result. */
#ifndef LLM_KERNELS_E4M3_CUH
#define LLM_KERNELS_E4M3_CUH

#include "kernels/common.cuh"

#define P_SHIFT  15.0f

/* Codes of the low (high) half of a register as two f16. */
static __device__ __forceinline__ unsigned int
e4m3_low(unsigned int codes)
{
    __half2_raw   h = __nv_cvt_fp8x2_to_halfraw2(
        static_cast<__nv_fp8x2_storage_t>(codes & 0xffff), __NV_E4M3);
    return h.x | static_cast<unsigned int>(h.y) << 16;
}

static __device__ __forceinline__ unsigned int
e4m3_high(unsigned int codes)
{
    return e4m3_low(codes >> 16);
}

/* Codes of a product of K: 4 neighbours of one key. */
static __device__ __forceinline__ void
e4m3_key_fragment(unsigned int codes, unsigned int b[2])
{
    b[0] = e4m3_low(codes);
    b[1] = e4m3_high(codes);
}

/* V: keys 0 - 7 and 8 - 15 of 16 columns, as ldmatrix.trans left them: the
 * fragments of the even columns and of the odd ones. */
static __device__ __forceinline__ void
e4m3_value_fragments(unsigned int keys_low, unsigned int keys_high,
                     unsigned int even[2], unsigned int odd[2])
{
    even[0] = e4m3_low(__byte_perm(keys_low, 0, 0x20));
    even[1] = e4m3_low(__byte_perm(keys_high, 0, 0x20));
    odd[0] = e4m3_low(__byte_perm(keys_low, 0, 0x31));
    odd[1] = e4m3_low(__byte_perm(keys_high, 0, 0x31));
}

/* Accumulators of NUM tiles of eight columns, even and odd ones in turns ->
 * o[i][0], o[i][1] are neighbours, from column_of(i) on. */
template <int NUM> static __device__ __forceinline__ void
columns_in_order(float (&o)[NUM][4])
{
#pragma unroll
    for (int i = 0; i < NUM; i += 2) {
#pragma unroll
        for (int half = 0; half < 4; half += 2) {
            float  x = o[i][half + 1];
            o[i][half + 1] = o[i + 1][half];
            o[i + 1][half] = x;
        }
    }
}

/* The first of a lane's two columns of tile i. */
template <bool FP8> static __device__ __forceinline__ int
column_of(int i)
{
    int  lane = threadIdx.x % WARP;
    return FP8 ? i / 2 * 16 + lane % 4 * 4 + i % 2 * 2 : i * 8 + lane % 4 * 2;
}

/* 2^k so that a row's largest |x| becomes 2^14 .. 2^15; *inverse is 2^-k. */
static __device__ __forceinline__ float
query_factor(float largest, float *inverse)
{
    int  exponent = max(__float_as_int(largest) >> 23, 15);
    *inverse = __int_as_float((exponent - 14) << 23);
    return __int_as_float((268 - exponent) << 23);
}

#endif
