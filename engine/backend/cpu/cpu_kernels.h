/* cpu_kernels.h - the inner loops, once per instruction set, same bits.
 *
 * cpu_kernels.inc is the only body; cpu_kernels_{plain,avx2,avx512}.c compile
 * it over a 16-lane vector type (cpu_simd_*.h).  The plain one is the twin the
 * others are tested against.  The order of every sum is part of the contract:
 *   dot(a, b) over n: lane l sums k = l, l + 16, ... ascending by fused
 *   multiply-add from +0; n is padded to a multiple of 16 with zeros; lanes
 *   are then added i + (i + 8), i + (i + 4), i + (i + 2), i + (i + 1). */
#ifndef LLM_BACKEND_CPU_CPU_KERNELS_H
#define LLM_BACKEND_CPU_CPU_KERNELS_H

#include <stdint.h>
#include "engine/backend/tensor.h"

#define CPU_LANES           16
#define CPU_KEYS_PER_TILE   64   /* keys converted and summed at a time */
#define CPU_HEADS_MAX       8    /* query heads per attention call */
#define CPU_X_TILE          16   /* activation rows kept in cache: 16 x 4864
                                    floats are 304 KiB */
#define CPU_ROW_BLOCK_MAX   4    /* weight rows widened at a time */

static inline int64_t
cpu_pad(int64_t n)
{
    return (n + CPU_LANES - 1) & ~(int64_t) (CPU_LANES - 1);
}

/* out[m * out_stride + r] = dot(w row r, x row m). */
struct cpu_dot {
    const void   *w;             /* [num_rows, k] of w_dtype, contiguous */
    enum dtype    w_dtype;
    int           num_rows;
    int           num_x;
    int64_t       k;
    const float  *x;             /* [num_x, cpu_pad(k)], zeros past k */
    float        *out;
    int64_t       out_stride;
    float        *scratch;       /* [CPU_ROW_BLOCK_MAX, cpu_pad(k)] */
};

/* One query position, one kv head, num_heads <= CPU_HEADS_MAX query heads. */
struct cpu_attention {
    const float   *q;            /* [num_heads, cpu_pad(head_dim)], zero padded */
    int            num_heads;
    int            head_dim;
    const char    *k, *v;        /* this layer's and kv head's rows of block 0 */
    int64_t        block_stride; /* bytes from one block to the next */
    const int32_t *block_table;
    int            block_size;
    int            key_begin;    /* first key seen */
    int            key_end;      /* one past the last */
    enum dtype     kv_dtype;
    enum dtype     dtype;        /* P is rounded to it */
    float          scale;        /* of the scores */
    float          out_scale;    /* of the output */
    float         *scores;       /* [num_heads, scores_stride] */
    int64_t        scores_stride;  /* >= cpu_pad(key_end - key_begin) */
    float         *tile;         /* [CPU_KEYS_PER_TILE, cpu_pad(head_dim)] */
    float         *out;          /* [num_heads, cpu_pad(head_dim)], not
                                    rounded */
};

struct cpu_kernels {
    const char *name;
    void (*dot)(const struct cpu_dot *a);
    void (*attention)(const struct cpu_attention *a);

    /* dst[0..n) = src as fp32; dst[n..cpu_pad(n)) = 0. */
    void (*widen)(float *dst, const void *src, enum dtype dtype, int64_t n);
    /* dst[0..n) = src rounded to nearest even; NaN stays NaN. */
    void (*narrow)(void *dst, enum dtype dtype, const float *src, int64_t n);
    /* x[0..n) *= weight / sqrt(mean(x^2) + eps); x padded with zeros. */
    void (*rmsnorm)(float *x, const float *weight, int64_t n, float eps);
    /* gate[i] = silu(gate[i]) * up[i]. */
    void (*silu_mul)(float *gate, const float *up, int64_t n);
    void (*exp)(float *x, int64_t n);          /* in place; for tests */
};

extern const struct cpu_kernels cpu_kernels_plain;
extern const struct cpu_kernels cpu_kernels_avx2;
extern const struct cpu_kernels cpu_kernels_avx512;

#endif
