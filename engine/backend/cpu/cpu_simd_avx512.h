/* cpu_simd_avx512.h - 16 lanes as one AVX-512 register (F, BW, DQ, VL). */
#ifndef LLM_BACKEND_CPU_CPU_SIMD_AVX512_H
#define LLM_BACKEND_CPU_CPU_SIMD_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define V16_NAME        "avx512"
#define V16_BLOCK_ROWS  4    /* 4 x 4 blocks: 16 of 32 registers */
#define V16_BLOCK_X     4
#define V16_GEMV_ROWS   4

typedef __m512 v16;

static inline v16
v16_set1(float x)
{
    return _mm512_set1_ps(x);
}

static inline v16
v16_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline void
v16_store(float *p, v16 a)
{
    _mm512_storeu_ps(p, a);
}

static inline v16
v16_load_bf16(const uint16_t *p)
{
    __m512i  x = _mm512_cvtepu16_epi32(
        _mm256_loadu_si256((const __m256i *) p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
}

static inline v16
v16_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p));
}

/* Exponent and fraction stand in binary16 as they are, with another bias: 2^8
 * times too small, subnormals too. */
static inline v16
v16_load_e4m3(const uint8_t *p)
{
    __m256i  x = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *) p));
    __m256i  magnitude = _mm256_and_si256(x, _mm256_set1_epi16(0x7f));
    __m256i  is_nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7f));
    __m256i  half = _mm256_blendv_epi8(_mm256_slli_epi16(magnitude, 7),
                                       _mm256_set1_epi16(0x7e00), is_nan);
    __m256i  sign = _mm256_slli_epi16(_mm256_srli_epi16(x, 7), 15);
    return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(half, sign)),
                         _mm512_set1_ps(256.0f));
}

static inline void
v16_store_bf16(uint16_t *p, v16 a)
{
    __m512i    u = _mm512_castps_si512(a);
    __m512i    odd = _mm512_and_si512(_mm512_srli_epi32(u, 16),
                                      _mm512_set1_epi32(1));
    __m512i    even = _mm512_add_epi32(u, _mm512_add_epi32(odd,
                                       _mm512_set1_epi32(0x7fff)));
    __mmask16  is_nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    __m512i    r = _mm512_mask_or_epi32(even, is_nan, u,
                                        _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256((__m256i *) p,
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16)));
}

static inline void
v16_store_f16(uint16_t *p, v16 a)
{
    _mm256_storeu_si256((__m256i *) p,
                        _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

static inline v16
v16_add(v16 a, v16 b)
{
    return _mm512_add_ps(a, b);
}

static inline v16
v16_sub(v16 a, v16 b)
{
    return _mm512_sub_ps(a, b);
}

static inline v16
v16_mul(v16 a, v16 b)
{
    return _mm512_mul_ps(a, b);
}

static inline v16
v16_div(v16 a, v16 b)
{
    return _mm512_div_ps(a, b);
}

static inline v16
v16_fma(v16 a, v16 b, v16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline v16
v16_max(v16 a, v16 b)
{
    return _mm512_max_ps(a, b);
}

static inline v16
v16_min(v16 a, v16 b)
{
    return _mm512_min_ps(a, b);
}

static inline v16
v16_pow2(v16 t)
{
    __m512i  n = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
    return _mm512_castsi512_ps(
        _mm512_add_epi32(n, _mm512_set1_epi32(0x3f800000)));
}

static inline float
v16_sum(v16 a)
{
    __m256  s8 = _mm256_add_ps(_mm512_castps512_ps256(a),
                               _mm512_extractf32x8_ps(a, 1));
    __m128  s4 = _mm_add_ps(_mm256_castps256_ps128(s8),
                            _mm256_extractf128_ps(s8, 1));
    __m128  s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

#endif
