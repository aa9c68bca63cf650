/* cpu_simd_plain.h - 16 lanes in plain C: the twin of the vector headers. */
#ifndef LLM_BACKEND_CPU_CPU_SIMD_PLAIN_H
#define LLM_BACKEND_CPU_CPU_SIMD_PLAIN_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#include "engine/backend/e4m3.h"

#define V16_NAME        "plain"
#define V16_BLOCK_ROWS  1    /* weight rows per register block */
#define V16_BLOCK_X     1    /* activation rows per register block */
#define V16_GEMV_ROWS   1

typedef struct { float f[16]; } v16;

#define V16_EACH(expr)                                                        \
    v16  r_;                                                                  \
    for (int i = 0; i < 16; i++) { r_.f[i] = (expr); }                        \
    return r_

static inline v16
v16_set1(float x)
{
    V16_EACH(x);
}

static inline v16
v16_load(const float *p)
{
    v16  r;
    memcpy(&r, p, sizeof r);
    return r;
}

static inline void
v16_store(float *p, v16 a)
{
    memcpy(p, &a, sizeof a);
}

static inline float
v16_bits_float(uint32_t u)
{
    float  f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint32_t
v16_float_bits(float f)
{
    uint32_t  u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline v16
v16_load_bf16(const uint16_t *p)
{
    V16_EACH(v16_bits_float((uint32_t) p[i] << 16));
}

/* IEEE binary16 to binary32, exact; signalling NaN becomes quiet as in
 * hardware. */
static inline float
v16_half_float(uint16_t h)
{
    uint32_t  sign = (uint32_t) (h & 0x8000) << 16;
    uint32_t  exponent = (h >> 10) & 31, fraction = h & 0x3ff;
    if (exponent == 31) {
        uint32_t  quiet = fraction != 0 ? 0x400000 : 0;
        return v16_bits_float(sign | 0x7f800000 | fraction << 13 | quiet);
    }
    if (exponent != 0) {
        return v16_bits_float(sign | (exponent + 112) << 23 | fraction << 13);
    }
    float  magnitude = (float) fraction * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
}

static inline v16
v16_load_f16(const uint16_t *p)
{
    V16_EACH(v16_half_float(p[i]));
}

static inline v16
v16_load_e4m3(const uint8_t *p)
{
    V16_EACH(e4m3_to_float(p[i]));
}

static inline void
v16_store_bf16(uint16_t *p, v16 a)
{
    for (int i = 0; i < 16; i++) {
        uint32_t  u = v16_float_bits(a.f[i]);
        p[i] = (u & 0x7fffffff) > 0x7f800000
               ? (uint16_t) (u >> 16 | 0x40)
               : (uint16_t) ((u + 0x7fff + (u >> 16 & 1)) >> 16);
    }
}

/* Round to nearest even, with subnormals and overflow to infinity. */
static inline uint16_t
v16_float_half(float f)
{
    uint32_t  u = v16_float_bits(f), sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;
    if (u > 0x7f800000) {
        return (uint16_t) (sign | 0x7e00 | (u >> 13 & 0x1ff));
    }
    if (u >= 0x477ff000) {                 /* rounds to 65536 or more */
        return (uint16_t) (sign | 0x7c00);
    }
    if (u < 0x38800000) {                  /* below 2^-14: subnormal */
        /* adding 0.5 lets the FPU round at 2^-24, the subnormals' unit */
        float  shifted = v16_bits_float(u) + 0.5f;
        return (uint16_t) (sign | (v16_float_bits(shifted) - 0x3f000000));
    }
    u += 0xfff + (u >> 13 & 1);
    return (uint16_t) (sign | (u - 0x38000000) >> 13);
}

static inline void
v16_store_f16(uint16_t *p, v16 a)
{
    for (int i = 0; i < 16; i++) {
        p[i] = v16_float_half(a.f[i]);
    }
}

static inline v16
v16_add(v16 a, v16 b)
{
    V16_EACH(a.f[i] + b.f[i]);
}

static inline v16
v16_sub(v16 a, v16 b)
{
    V16_EACH(a.f[i] - b.f[i]);
}

static inline v16
v16_mul(v16 a, v16 b)
{
    V16_EACH(a.f[i] * b.f[i]);
}

static inline v16
v16_div(v16 a, v16 b)
{
    V16_EACH(a.f[i] / b.f[i]);
}

/* a * b + c, rounded once. */
static inline v16
v16_fma(v16 a, v16 b, v16 c)
{
    V16_EACH(fmaf(a.f[i], b.f[i], c.f[i]));
}

/* As vmaxps and vminps: the second operand when either is NaN. */
static inline v16
v16_max(v16 a, v16 b)
{
    V16_EACH(a.f[i] > b.f[i] ? a.f[i] : b.f[i]);
}

static inline v16
v16_min(v16 a, v16 b)
{
    V16_EACH(a.f[i] < b.f[i] ? a.f[i] : b.f[i]);
}

/* 2^n where t = 1.5 * 2^23 + n: n stands in t's lowest bits. */
static inline v16
v16_pow2(v16 t)
{
    V16_EACH(v16_bits_float((v16_float_bits(t.f[i]) << 23) + 0x3f800000));
}

static inline float
v16_sum(v16 a)
{
    for (int step = 8; step >= 1; step /= 2) {
        for (int i = 0; i < step; i++) {
            a.f[i] += a.f[i + step];
        }
    }
    return a.f[0];
}

#undef V16_EACH

#endif
