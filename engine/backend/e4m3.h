/* e4m3.h - 8-bit floating point "E4M3", the KV cache's (OCP 8-bit floating
 * point specification; torch.float8_e4m3fn): 1 sign, 4 exponent bits of bias 7,
 * 3 of fraction.  No infinity; 0x7f and 0xff are NaN; the largest value is 448,
 * the smallest 2^-9.
 *
 * Values that are too large become +-448, infinity too ("satfinite"); NaN of
 * either sign becomes 0x7f: as the GPU's cvt.rn.satfinite.e4m3x2.f32. */
#ifndef LLM_BACKEND_E4M3_H
#define LLM_BACKEND_E4M3_H

#include <stdint.h>
#include <string.h>

#define E4M3_MAX  448.0f
#define E4M3_NAN  0x7f

/* Exact; NaN is quiet and keeps its sign. */
static inline float
e4m3_to_float(uint8_t code)
{
    uint32_t  sign = (uint32_t) (code & 0x80) << 24;
    uint32_t  exponent = (uint32_t) code >> 3 & 15, fraction = code & 7;
    uint32_t  bits = sign | (exponent + 120) << 23 | fraction << 20;
    float     x;
    if ((code & 0x7f) == E4M3_NAN) {
        bits = sign | 0x7fc00000;
    } else if (exponent == 0) {
        x = (float) fraction * 0x1p-9f;
        return sign != 0 ? -x : x;
    }
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* To nearest, ties to even. */
static inline uint8_t
e4m3_from_float(float x)
{
    uint32_t  u, sign;
    memcpy(&u, &x, sizeof u);
    sign = u >> 24 & 0x80;
    u &= 0x7fffffff;
    if (u > 0x7f800000) {
        return E4M3_NAN;
    }
    if (u >= 0x43e00000) {                 /* 448 or more */
        return (uint8_t) (sign | 0x7e);
    }
    if (u < 0x3c800000) {                  /* below 2^-6: subnormal */
        /* the FPU rounds a sum of 2^14 at 2^-9, the subnormals' unit */
        float  shifted;
        memcpy(&shifted, &u, sizeof shifted);
        shifted += 0x1p14f;
        memcpy(&u, &shifted, sizeof u);
        return (uint8_t) (sign | (u - 0x46800000));
    }
    u += 0x7ffff + (u >> 20 & 1);
    return (uint8_t) (sign | (u - 0x3c000000) >> 20);
}

#endif
