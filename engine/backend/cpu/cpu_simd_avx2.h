/* cpu_simd_avx2.h - 16 lanes as two AVX2 registers; needs FMA and F16C. */
#ifndef LLM_BACKEND_CPU_CPU_SIMD_AVX2_H
#define LLM_BACKEND_CPU_CPU_SIMD_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#define V16_NAME        "avx2"
#define V16_BLOCK_ROWS  2    /* 2 x 2 blocks of 2 registers: 8 of 16 for sums,
                                6 for operands; 3 x 2 spills */
#define V16_BLOCK_X     2
#define V16_GEMV_ROWS   4

typedef struct { __m256 lo, hi; } v16;

static inline v16
v16_set1(float x)
{
    return (v16) { _mm256_set1_ps(x), _mm256_set1_ps(x) };
}

static inline v16
v16_load(const float *p)
{
    return (v16) { _mm256_loadu_ps(p), _mm256_loadu_ps(p + 8) };
}

static inline void
v16_store(float *p, v16 a)
{
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}

static inline __m256
v16_widen_bf16(__m128i x)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x),
                                                 16));
}

static inline v16
v16_load_bf16(const uint16_t *p)
{
    return (v16) { v16_widen_bf16(_mm_loadu_si128((const __m128i *) p)),
                   v16_widen_bf16(_mm_loadu_si128((const __m128i *) (p + 8))) };
}

static inline v16
v16_load_f16(const uint16_t *p)
{
    return (v16) {
        _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p)),
        _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) (p + 8)))
    };
}

/* Eight codes, one in each 16 bits.  Exponent and fraction stand in binary16 as
 * they are, with another bias: 2^8 times too small, subnormals too. */
static inline __m256
v16_widen_e4m3(__m128i x)
{
    __m128i  magnitude = _mm_and_si128(x, _mm_set1_epi16(0x7f));
    __m128i  is_nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f));
    __m128i  half = _mm_blendv_epi8(_mm_slli_epi16(magnitude, 7),
                                    _mm_set1_epi16(0x7e00), is_nan);
    __m128i  sign = _mm_slli_epi16(_mm_srli_epi16(x, 7), 15);
    return _mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(half, sign)),
                         _mm256_set1_ps(256.0f));
}

static inline v16
v16_load_e4m3(const uint8_t *p)
{
    __m256i  x = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *) p));
    return (v16) { v16_widen_e4m3(_mm256_castsi256_si128(x)),
                   v16_widen_e4m3(_mm256_extracti128_si256(x, 1)) };
}

static inline __m256i
v16_round_bf16(__m256 x)
{
    __m256i  u = _mm256_castps_si256(x);
    __m256i  odd = _mm256_and_si256(_mm256_srli_epi32(u, 16),
                                    _mm256_set1_epi32(1));
    __m256i  even = _mm256_add_epi32(u, _mm256_add_epi32(odd,
                                     _mm256_set1_epi32(0x7fff)));
    __m256i  quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    __m256   is_nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    return _mm256_srli_epi32(
        _mm256_blendv_epi8(even, quiet, _mm256_castps_si256(is_nan)), 16);
}

static inline void
v16_store_bf16(uint16_t *p, v16 a)
{
    /* packus works within 128-bit halves; permute puts them in order */
    __m256i  packed = _mm256_packus_epi32(v16_round_bf16(a.lo),
                                          v16_round_bf16(a.hi));
    _mm256_storeu_si256((__m256i *) p,
                        _mm256_permute4x64_epi64(packed, 0xd8));
}

static inline void
v16_store_f16(uint16_t *p, v16 a)
{
    _mm_storeu_si128((__m128i *) p,
                     _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *) (p + 8),
                     _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}

#define V16_OP(name, intrinsic)                                               \
    static inline v16                                                         \
    name(v16 a, v16 b)                                                        \
    {                                                                         \
        return (v16) { intrinsic(a.lo, b.lo), intrinsic(a.hi, b.hi) };        \
    }

V16_OP(v16_add, _mm256_add_ps)
V16_OP(v16_sub, _mm256_sub_ps)
V16_OP(v16_mul, _mm256_mul_ps)
V16_OP(v16_div, _mm256_div_ps)
V16_OP(v16_max, _mm256_max_ps)
V16_OP(v16_min, _mm256_min_ps)
#undef V16_OP

static inline v16
v16_fma(v16 a, v16 b, v16 c)
{
    return (v16) { _mm256_fmadd_ps(a.lo, b.lo, c.lo),
                   _mm256_fmadd_ps(a.hi, b.hi, c.hi) };
}

static inline __m256
v16_pow2_half(__m256 t)
{
    __m256i  n = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
    return _mm256_castsi256_ps(
        _mm256_add_epi32(n, _mm256_set1_epi32(0x3f800000)));
}

static inline v16
v16_pow2(v16 t)
{
    return (v16) { v16_pow2_half(t.lo), v16_pow2_half(t.hi) };
}

static inline float
v16_sum(v16 a)
{
    __m256  s8 = _mm256_add_ps(a.lo, a.hi);
    __m128  s4 = _mm_add_ps(_mm256_castps256_ps128(s8),
                            _mm256_extractf128_ps(s8, 1));
    __m128  s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

#endif
