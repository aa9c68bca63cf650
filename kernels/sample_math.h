/* sample_math.h - the arithmetic of sampling, the same bits on host and device.
 *
 * Plain C11 that CUDA C compiles too: no CUDA header, no library call, every
 * function a static inline (nvcc: for both sides).  engine/sample/sampler.c
 * and the sampling kernel include it, so they cannot differ.  It lives here
 * because kernels/ includes nothing of the engine.
 *
 * THE RESULT of a row of logits l[vocab_size], vocab_size <= 2^22, is defined
 * by these steps; every step is exact, so how it is computed, in what order
 * and by how many threads, cannot be seen in it.
 *
 *  1. Masked ids get -inf.  m = the largest logit.  A NaN anywhere, or m
 *     infinite: a numeric error.
 *  2. temperature < SAMPLE_TEMPERATURE_MIN or top_k == 1: the lowest id whose
 *     logit equals m (-0 equals 0).  Done.
 *  3. RANKING: smaller sample_rank_key(l_i) first, of equal keys the lower id.
 *     0 < top_k < vocab_size: the first top_k of it are kept, else all.
 *  4. w_i = sample_weight(l_i, m, temperature) of the kept: an integer, at
 *     most 2^40, so any sum is below 2^63.  The best token's is 2^40.
 *  5. top_p < 1: the shortest beginning of the ranking whose sum of weights is
 *     at least sample_top_p_mass(top_p, sum of all kept weights).
 *  6. min_p > 0: of those the ones with w_i >= sample_min_p_weight(min_p).
 *  7. r = sample_target(seed, position, sum of the weights still kept): below
 *     that sum.  The lowest id whose running sum, in the order of ids, exceeds
 *     r.
 *
 * A weight keeps 40 bits after the point, so a token less probable than the
 * best one by 2^-40 (a logit lower by 27.7 at temperature 1) is never drawn;
 * the whole of a vocabulary below that has a probability under 2^-18. */
#ifndef LLM_KERNELS_SAMPLE_MATH_H
#define LLM_KERNELS_SAMPLE_MATH_H

#include <stdint.h>

#ifdef __CUDACC__
#define SAMPLE_FN  static __host__ __device__ __forceinline__
#else
#define SAMPLE_FN  static inline
#endif

#define SAMPLE_TEMPERATURE_MIN  1e-5f   /* below it: greedy, as in vLLM */
#define SAMPLE_WEIGHT_ONE       ((uint64_t) 1 << 40)

/* ---- fp32, one rounding an operation: nothing may be contracted ---- */

SAMPLE_FN float
sample_mul(float a, float b)
{
#ifdef __CUDA_ARCH__
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}

SAMPLE_FN float
sample_add(float a, float b)
{
#ifdef __CUDA_ARCH__
    return __fadd_rn(a, b);
#else
    return a + b;
#endif
}

SAMPLE_FN float
sample_div(float a, float b)
{
#ifdef __CUDA_ARCH__
    return __fdiv_rn(a, b);
#else
    return a / b;
#endif
}

union sample_bits {
    float    f;
    uint32_t u;
};

/* e^x for x <= 0, relative error below 2e-7; 0 below -87 and for NaN.
 * e^x = 2^n e^r, |r| <= ln 2 / 2; polynomial of Cephes' expf.  Multiplications
 * and additions apart and not fmaf(), which is a library call of some 20 ns on
 * a CPU that is not known to have the instruction. */
SAMPLE_FN float
sample_exp(float x)
{
    const float        shift = 12582912.0f;  /* 1.5 * 2^23: to an integer */
    union sample_bits  t, scale;
    float              n, r, p;

    if (!(x >= -87.0f)) {
        return 0.0f;
    }
    t.f = sample_add(sample_mul(x, 1.44269504088896341f), shift);
    n = sample_add(t.f, -shift);
    r = sample_add(x, -sample_mul(n, 0.693359375f));
    r = sample_add(r, -sample_mul(n, -2.12194440e-4f));
    p = sample_add(sample_mul(1.9875691500e-4f, r), 1.3981999507e-3f);
    p = sample_add(sample_mul(p, r), 8.3334519073e-3f);
    p = sample_add(sample_mul(p, r), 4.1665795894e-2f);
    p = sample_add(sample_mul(p, r), 1.6666665459e-1f);
    p = sample_add(sample_mul(p, r), 5.0000001201e-1f);
    p = sample_add(sample_add(sample_mul(p, sample_mul(r, r)), r), 1.0f);
    scale.u = (t.u << 23) + 0x3f800000u;     /* 2^n: n is in t's low bits */
    return sample_mul(p, scale.f);
}

/* floor(e * 2^40) for e in [0, 1]: the product is exact. */
SAMPLE_FN uint64_t
sample_fixed(float e)
{
    return (uint64_t) (int64_t) sample_mul(e, 1099511627776.0f);
}

/* The weight of a token; `max` is the row's largest logit. */
SAMPLE_FN uint64_t
sample_weight(float logit, float max, float temperature)
{
    return sample_fixed(sample_exp(sample_div(sample_add(logit, -max),
                                              temperature)));
}

/* Ascending keys = descending logits; -0 and 0 are equal.  -inf is the
 * largest key of a row without NaN, 0xff800000. */
SAMPLE_FN uint32_t
sample_rank_key(float logit)
{
    union sample_bits  b;

    b.f = sample_add(logit, 0.0f);
    return b.u >> 31 ? b.u : ~b.u & 0x7fffffffu;
}

/* ---- 64 bits ---- */

/* floor(a * b / 2^64) */
SAMPLE_FN uint64_t
sample_mul_high(uint64_t a, uint64_t b)
{
#ifdef __CUDA_ARCH__
    return __umul64hi(a, b);
#else
    return (uint64_t) ((unsigned __int128) a * b >> 64);
#endif
}

/* ceil(top_p * total), at least 1, for 0 < top_p < 1. */
SAMPLE_FN uint64_t
sample_top_p_mass(float top_p, uint64_t total)
{
    uint64_t  p = (uint64_t) sample_mul(top_p, 18446744073709551616.0f);
    uint64_t  mass = sample_mul_high(p, total) + (p * total != 0);

    return mass > 0 ? mass : 1;
}

/* floor(min_p * 2^40) for 0 <= min_p <= 1. */
SAMPLE_FN uint64_t
sample_min_p_weight(float min_p)
{
    return sample_fixed(min_p);
}

/* ---- random numbers as a function of (seed, position) ---- */

/* Ten rounds of Philox4x32; source: Salmon et al., "Parallel random numbers:
 * as easy as 1, 2, 3", 2011.  The counter is replaced by the result. */
SAMPLE_FN void
sample_philox(uint32_t k0, uint32_t k1, uint32_t c[4])
{
    for (int round = 0; round < 10; round++) {
        uint64_t  p0 = (uint64_t) 0xD2511F53u * c[0];
        uint64_t  p1 = (uint64_t) 0xCD9E8D57u * c[2];
        c[0] = (uint32_t) (p1 >> 32) ^ c[1] ^ k0;
        c[1] = (uint32_t) p1;
        c[2] = (uint32_t) (p0 >> 32) ^ c[3] ^ k1;
        c[3] = (uint32_t) p0;
        k0 += 0x9E3779B9u;                   /* golden ratio */
        k1 += 0xBB67AE85u;                   /* sqrt(3) - 1 */
    }
}

/* 64 random bits: key = seed, counter = (position, 0, 0). */
SAMPLE_FN uint64_t
sample_random(uint64_t seed, uint64_t position)
{
    uint32_t  c[4];

    c[0] = (uint32_t) position;
    c[1] = (uint32_t) (position >> 32);
    c[2] = 0;
    c[3] = 0;
    sample_philox((uint32_t) seed, (uint32_t) (seed >> 32), c);
    return (uint64_t) c[1] << 32 | c[0];
}

/* floor(u * total) for the row's random u in [0, 1). */
SAMPLE_FN uint64_t
sample_target(uint64_t seed, uint64_t position, uint64_t total)
{
    return sample_mul_high(sample_random(seed, position), total);
}

#endif
