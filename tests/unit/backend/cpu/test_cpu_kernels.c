/* test_cpu_kernels.c - the vector kernels give the twin's bits, and the twin
 * is close enough to float64 arithmetic.
 *
 * Bounds are derived, not tuned (kernels.md C): a sum of n products in 16
 * lanes of fp32 is within (n / 16 + 8) * 2^-23 * sum |a_k b_k|. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/backend/cpu/backend_cpu.h"
#include "engine/backend/cpu/cpu_kernels.h"
#include "engine/backend/e4m3.h"

#define SEED      20261123u
#define K_MAX     700
#define ROWS_MAX  13
#define X_MAX     37

static uint64_t  rng;

static uint32_t
random_bits(void)
{
    rng = rng * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t) (rng >> 32);
}

/* Uniform in [-1, 1). */
static float
random_float(void)
{
    return (float) (int32_t) random_bits() * 0x1p-31f;
}

static void
random_row(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        x[i] = random_float();
    }
}

static const struct cpu_kernels *
best_kernels(void)
{
    switch (cpu_isa_best()) {
    case CPU_ISA_AVX512:
        return &cpu_kernels_avx512;
    case CPU_ISA_AVX2:
        return &cpu_kernels_avx2;
    default:
        return &cpu_kernels_plain;
    }
}

/* Every instruction set this CPU has, the twin included. */
static int
all_kernels(const struct cpu_kernels *out[3])
{
    int  num = 0;
    out[num++] = &cpu_kernels_plain;
    if (cpu_isa_best() >= CPU_ISA_AVX2) {
        out[num++] = &cpu_kernels_avx2;
    }
    if (cpu_isa_best() >= CPU_ISA_AVX512) {
        out[num++] = &cpu_kernels_avx512;
    }
    return num;
}

static double
widen_one(const void *p, enum dtype dtype, int64_t i)
{
    float  x[CPU_LANES];
    cpu_kernels_plain.widen(x, (const char *) p
                            + (size_t) i * dtype_bytes(dtype), dtype, 1);
    return (double) x[0];
}

/* ---- conversions -------------------------------------------------------------- */

static void
test_all_16_bit_values_widen_alike_and_exactly(void **state)
{
    const struct cpu_kernels  *all[3];
    int                        num = all_kernels(all);
    static uint16_t            in[65536];
    static float               want[65536], got[65536];
    (void) state;
    for (int i = 0; i < 65536; i++) {
        in[i] = (uint16_t) i;
    }
    for (int d = DTYPE_BF16; d <= DTYPE_F16; d++) {
        cpu_kernels_plain.widen(want, in, (enum dtype) d, 65536);
        for (int i = 0; i < num; i++) {
            all[i]->widen(got, in, (enum dtype) d, 65536);
            assert_memory_equal(got, want, sizeof want);
        }
    }
    for (int i = 0; i < 0x7c00; i++) {         /* IEEE binary16 by definition */
        int     e = i >> 10, f = i & 0x3ff;
        double  x = e == 0 ? ldexp(f, -24) : ldexp(1024 + f, e - 25);
        assert_true((double) want[i] == x);
        assert_true((double) want[i | 0x8000] == -x);
    }
}

/* test_e4m3.c has the values. */
static void
test_all_8_bit_values_widen_alike(void **state)
{
    const struct cpu_kernels  *all[3];
    int                        num = all_kernels(all);
    uint8_t                    in[256 + CPU_LANES];
    float                      want[256 + CPU_LANES], got[256 + CPU_LANES];
    (void) state;
    for (int i = 0; i < 256; i++) {
        in[i] = (uint8_t) i;
    }
    for (int n = 241; n <= 256; n++) {         /* every length of the tail */
        memset(want, 0xff, sizeof want);
        cpu_kernels_plain.widen(want, in, DTYPE_F8_E4M3, n);
        for (int i = 0; i < n; i++) {
            float  x = e4m3_to_float(in[i]);
            assert_memory_equal(&want[i], &x, sizeof x);
        }
        for (int i = 0; i < num; i++) {
            memset(got, 0xff, sizeof got);
            all[i]->widen(got, in, DTYPE_F8_E4M3, n);
            assert_memory_equal(got, want, sizeof want);
            all[i]->narrow(in, DTYPE_F8_E4M3, got, n);
            assert_int_equal(in[255], n < 256 ? 255 : 0x7f);
            in[255] = 255;
            assert_int_equal(in[127], 0x7f);
            assert_int_equal(in[200], 200);
        }
    }
}

/* The nearer of the two neighbours, ties to the even one, by exhaustion. */
static uint16_t
nearest_half(double x, enum dtype dtype)
{
    static float  table[2][65536];
    static bool   filled;
    int           t = dtype == DTYPE_F16, low = 0, high;
    if (!filled) {
        static uint16_t  in[65536];
        for (int i = 0; i < 65536; i++) {
            in[i] = (uint16_t) i;
        }
        cpu_kernels_plain.widen(table[0], in, DTYPE_BF16, 65536);
        cpu_kernels_plain.widen(table[1], in, DTYPE_F16, 65536);
        filled = true;
    }
    int     top = t ? 0x7bff : 0x7f7f;      /* largest finite */
    double  a = fabs(x), max = (double) table[t][top];
    double  ulp = max - (double) table[t][top - 1];
    int     sign = signbit(x) ? 0x8000 : 0;
    if (a >= max + ulp / 2) {
        return (uint16_t) (sign | (top + 1));
    }
    high = top;
    while (low < high) {                    /* largest value <= a */
        int  mid = (low + high + 1) / 2;
        if ((double) table[t][mid] <= a) {
            low = mid;
        } else {
            high = mid - 1;
        }
    }
    if (low < top) {
        double  below = a - (double) table[t][low];
        double  above = (double) table[t][low + 1] - a;
        low += above < below || (above == below && low % 2 == 1);
    }
    return (uint16_t) (sign | low);
}

static void
test_narrow_rounds_to_nearest_even(void **state)
{
    const struct cpu_kernels  *all[3];
    int                        num = all_kernels(all);
    static const float         special[] = {
        0.0f, -0.0f, 1.0f, 65504.0f, 65519.9f, 65520.0f, 65536.0f, 1e30f,
        -1e30f, FLT_MAX, 0x1p-24f, 0x1p-25f, 0x1.8p-25f, 0x1p-26f, 0x1p-14f,
        0x1.ffcp-15f, 0x1.ffep-15f, 0x1.ffffp-15f, 0x1p-133f, 0x1p-149f,
        0x1.008p0f, 0x1.018p0f, 0x1.01p0f, 0x1.03p0f, 0x1.01001p0f
    };
    (void) state;
    rng = SEED;
    print_message("seed %u\n", SEED);
    for (int round = 0; round < 40000; round++) {
        float     x[CPU_LANES];
        uint16_t  got[CPU_LANES];
        for (int i = 0; i < CPU_LANES; i++) {
            size_t    s = random_bits() % (sizeof special / sizeof *special);
            uint32_t  bits = random_bits();
            memcpy(&x[i], &bits, sizeof bits);
            if (round % 2 == 0) {          /* the range of both dtypes */
                x[i] = ldexpf(random_float(), (int) (random_bits() % 44) - 26);
            }
            x[i] = i == 0 || isnan(x[i]) ? special[s] : x[i];
        }
        for (int d = DTYPE_BF16; d <= DTYPE_F16; d++) {
            for (int k = 0; k < num; k++) {
                all[k]->narrow(got, (enum dtype) d, x, CPU_LANES);
                for (int i = 0; i < CPU_LANES; i++) {
                    assert_int_equal(got[i], nearest_half((double) x[i],
                                                          (enum dtype) d));
                }
            }
        }
    }
}

static void
test_nan_and_infinity_survive_narrowing(void **state)
{
    const struct cpu_kernels  *all[3];
    int                        num = all_kernels(all);
    uint32_t                   nan_bits[] = { 0x7f800001, 0xffffffff,
                                              0x7fc00000, 0xff800001 };
    (void) state;
    for (int k = 0; k < num; k++) {
        for (int d = DTYPE_F32; d <= DTYPE_F16; d++) {
            float     x[6], back[CPU_LANES];
            uint32_t  room[6];
            memcpy(x, nan_bits, sizeof nan_bits);
            x[4] = INFINITY;
            x[5] = -INFINITY;
            all[k]->narrow(room, (enum dtype) d, x, 6);
            all[k]->widen(back, room, (enum dtype) d, 6);
            for (int i = 0; i < 4; i++) {
                assert_true(isnan(back[i]));
            }
            assert_true(back[4] == INFINITY && back[5] == -INFINITY);
            assert_true(back[6] == 0.0f && back[15] == 0.0f);   /* padding */
        }
    }
}

/* ---- dot ------------------------------------------------------------------------ */

struct dot_case {
    float     x[X_MAX * (K_MAX + CPU_LANES)];
    float     w32[ROWS_MAX * K_MAX];
    uint16_t  w16[ROWS_MAX * K_MAX];
    float     scratch[CPU_ROW_BLOCK_MAX * (K_MAX + CPU_LANES)];
    float     out[X_MAX * ROWS_MAX], want[X_MAX * ROWS_MAX];
};

static void
dot_fill(struct dot_case *c, struct cpu_dot *a)
{
    int64_t  pad = cpu_pad(a->k);
    memset(c->x, 0, sizeof c->x);
    for (int m = 0; m < a->num_x; m++) {
        random_row(c->x + m * pad, a->k);
    }
    random_row(c->w32, a->num_rows * a->k);
    a->x = c->x;
    a->w = c->w32;
    a->out = c->out;
    a->out_stride = ROWS_MAX;
    a->scratch = c->scratch;
    if (a->w_dtype != DTYPE_F32) {
        cpu_kernels_plain.narrow(c->w16, a->w_dtype, c->w32,
                                 a->num_rows * a->k);
        a->w = c->w16;
    }
}

static void
dot_check_reference(const struct cpu_dot *a)
{
    double  c = (double) a->k / 16.0 + 8.0;
    for (int m = 0; m < a->num_x; m++) {
        for (int r = 0; r < a->num_rows; r++) {
            double  sum = 0.0, sum_abs = 0.0;
            for (int64_t k = 0; k < a->k; k++) {
                double  p = widen_one(a->w, a->w_dtype, r * a->k + k)
                            * (double) a->x[m * cpu_pad(a->k) + k];
                sum += p;
                sum_abs += fabs(p);
            }
            double  got = (double) a->out[m * a->out_stride + r];
            assert_true(fabs(got - sum) <= c * 0x1p-23 * sum_abs);
        }
    }
}

static void
test_dot_is_within_its_bound_and_equals_the_twin(void **state)
{
    struct dot_case           *c = malloc(sizeof *c);
    const struct cpu_kernels  *all[3];
    int                        num = all_kernels(all);
    (void) state;
    rng = SEED;
    print_message("seed %u, twin against %s\n", SEED, best_kernels()->name);
    if (num < 3) {
        print_message("skipped: avx512 kernels, this CPU has no AVX-512\n");
    }
    for (int round = 0; round < 300; round++) {
        struct cpu_dot  a = {
            .w_dtype = (enum dtype) (DTYPE_F32 + round % 3),
            .num_rows = 1 + (int) (random_bits() % ROWS_MAX),
            .num_x = round % 4 == 0 ? 1 : 1 + (int) (random_bits() % X_MAX),
            .k = 1 + random_bits() % (round % 5 == 0 ? K_MAX : 80),
        };
        dot_fill(c, &a);
        cpu_kernels_plain.dot(&a);
        memcpy(c->want, c->out, sizeof c->out);
        if (round < 60) {
            dot_check_reference(&a);
        }
        for (int i = 1; i < num; i++) {
            memset(c->out, 0xff, sizeof c->out);
            all[i]->dot(&a);
            for (int m = 0; m < a.num_x; m++) {
                assert_memory_equal(c->out + m * ROWS_MAX,
                                    c->want + m * ROWS_MAX,
                                    (size_t) a.num_rows * sizeof *c->out);
            }
        }
    }
    free(c);
}

static void
test_dot_of_a_row_does_not_depend_on_its_neighbours(void **state)
{
    struct dot_case           *c = malloc(sizeof *c);
    const struct cpu_kernels  *kernels = best_kernels();
    (void) state;
    rng = SEED + 1;
    for (int d = DTYPE_F32; d <= DTYPE_F16; d++) {
        struct cpu_dot  a = { .w_dtype = (enum dtype) d, .num_rows = ROWS_MAX,
                              .num_x = X_MAX, .k = 331 };
        dot_fill(c, &a);
        kernels->dot(&a);
        memcpy(c->want, c->out, sizeof c->out);
        for (int m = 0; m < X_MAX; m++) {
            struct cpu_dot  one = a;
            one.x = a.x + m * cpu_pad(a.k);
            one.num_x = 1;
            kernels->dot(&one);
            assert_memory_equal(c->out, c->want + m * ROWS_MAX,
                                ROWS_MAX * sizeof *c->out);
        }
    }
    free(c);
}

/* ---- elementwise ------------------------------------------------------------------ */

static void
test_exp_is_within_2_ulp_and_equals_the_twin(void **state)
{
    const struct cpu_kernels  *all[3];
    int                        num = all_kernels(all);
    double                     worst = 0.0;
    (void) state;
    for (float x = -86.9f; x < 87.9f; x += 0.0037f) {
        float  want[3] = { x, -x * 0.5f, x * 0.001f }, got[3];
        for (int i = 0; i < 3; i++) {
            double  e = exp((double) want[i]);
            got[i] = want[i];
            cpu_kernels_plain.exp(&got[i], 1);
            double  ulp = (double) nextafterf((float) e, INFINITY)
                          - (double) (float) e;
            worst = fmax(worst, fabs((double) got[i] - e) / ulp);
        }
        for (int k = 1; k < num; k++) {
            float  v[3] = { want[0], want[1], want[2] };
            all[k]->exp(v, 3);
            assert_memory_equal(v, got, sizeof v);
        }
    }
    print_message("worst error %.3f ulp\n", worst);
    assert_true(worst <= 2.0);
}

static void
test_exp_of_extremes_is_tiny_huge_or_nan(void **state)
{
    const struct cpu_kernels  *all[3];
    int                        num = all_kernels(all);
    (void) state;
    for (int k = 0; k < num; k++) {
        float  x[5] = { -INFINITY, -1e30f, INFINITY, NAN, 0.0f };
        all[k]->exp(x, 5);
        assert_true(x[0] >= 0.0f && x[0] < 1e-37f);
        assert_true(x[1] >= 0.0f && x[1] < 1e-37f);
        assert_true(x[2] > 1e38f);
        assert_true(isnan(x[3]));
        assert_true(x[4] == 1.0f);
    }
}

static void
test_silu_mul_follows_float64_and_the_twin(void **state)
{
    const struct cpu_kernels  *all[3];
    int                        num = all_kernels(all);
    (void) state;
    rng = SEED;
    for (int n = 1; n < 70; n++) {
        float  gate[70] = { 0 }, up[70], want[70], got[70];
        for (int i = 0; i < n; i++) {
            gate[i] = random_float() * (i % 3 == 0 ? 100.0f : 5.0f);
            up[i] = random_float() * 3.0f;
        }
        memcpy(want, gate, sizeof gate);
        cpu_kernels_plain.silu_mul(want, up, n);
        for (int i = 0; i < n; i++) {
            double  g = (double) gate[i];
            double  h = g / (1.0 + exp(-g)) * (double) up[i];
            assert_true(fabs((double) want[i] - h)
                        <= 8 * 0x1p-23 * fabs(h) + 1e-33);
        }
        for (int k = 1; k < num; k++) {
            memcpy(got, gate, sizeof gate);
            all[k]->silu_mul(got, up, n);
            assert_memory_equal(got, want, (size_t) n * sizeof *got);
        }
    }
}

static void
test_rmsnorm_follows_float64_and_the_twin(void **state)
{
    const struct cpu_kernels  *all[3];
    int                        num = all_kernels(all);
    (void) state;
    rng = SEED;
    for (int n = 1; n < 200; n += 7) {
        float   x[256] = { 0 }, w[256] = { 0 }, want[256], got[256];
        double  mean = 0.0;
        random_row(x, n);
        random_row(w, n);
        for (int i = 0; i < n; i++) {
            mean += (double) x[i] * (double) x[i] / n;
        }
        memcpy(want, x, sizeof x);
        cpu_kernels_plain.rmsnorm(want, w, n, 1e-6f);
        for (int i = 0; i < n; i++) {
            double  y = (double) x[i] / sqrt(mean + 1e-6) * (double) w[i];
            assert_true(fabs((double) want[i] - y)
                        <= (n / 16.0 + 8.0) * 0x1p-23 * fabs(y));
        }
        for (int k = 1; k < num; k++) {
            memcpy(got, x, sizeof x);
            all[k]->rmsnorm(got, w, n, 1e-6f);
            assert_memory_equal(got, want, (size_t) cpu_pad(n) * sizeof *got);
        }
    }
}

/* ---- attention -------------------------------------------------------------------- */

#define HEAD_DIM_MAX  80
#define KEYS_MAX      400
#define ATTN_BLOCKS   (KEYS_MAX / 16 + 2)

struct attn_case {
    float     q[CPU_HEADS_MAX * HEAD_DIM_MAX];
    float     k32[ATTN_BLOCKS * 16 * HEAD_DIM_MAX];
    float     v32[ATTN_BLOCKS * 16 * HEAD_DIM_MAX];
    char      k[ATTN_BLOCKS * 16 * HEAD_DIM_MAX * 4];
    char      v[ATTN_BLOCKS * 16 * HEAD_DIM_MAX * 4];
    int32_t   table[ATTN_BLOCKS];
    float     scores[CPU_HEADS_MAX * (KEYS_MAX + CPU_LANES)];
    float     tile[CPU_KEYS_PER_TILE * HEAD_DIM_MAX];
    float     out[CPU_HEADS_MAX * HEAD_DIM_MAX];
    float     want[CPU_HEADS_MAX * HEAD_DIM_MAX];
};

/* Unused blocks stay NaN; blocks of the table are in random order. */
static struct cpu_attention
attn_fill(struct attn_case *c, int round)
{
    static const int      dims[] = { 4, 16, 24, 32, 64, 80 };
    int                   keys = 1 + (int) (random_bits() % KEYS_MAX);
    struct cpu_attention  a = {
        .q = c->q, .num_heads = 1 + (int) (random_bits() % CPU_HEADS_MAX),
        .head_dim = dims[random_bits() % 6], .k = c->k, .v = c->v,
        .block_table = c->table, .block_size = 16,
        .key_begin = (int) (random_bits() % (uint32_t) keys) * (round % 2),
        .key_end = keys, .kv_dtype = (enum dtype) (DTYPE_F32 + round % 4),
        .scores = c->scores, .scores_stride = KEYS_MAX + CPU_LANES,
        .tile = c->tile, .out = c->out,
    };
    size_t  elems = (size_t) 16 * (size_t) a.head_dim;
    a.dtype = a.kv_dtype;
    a.scale = 1.0f / sqrtf((float) a.head_dim);
    a.out_scale = 1.0f;
    if (a.kv_dtype == DTYPE_F8_E4M3) {
        a.dtype = (enum dtype) (DTYPE_F32 + round / 4 % 3);
        a.scale *= 1.25f;
        a.out_scale = 0.75f;
    }
    a.block_stride = (int64_t) (elems * dtype_bytes(a.kv_dtype));
    memset(c->q, 0, sizeof c->q);
    for (int h = 0; h < a.num_heads; h++) {
        random_row(c->q + h * cpu_pad(a.head_dim), a.head_dim);
    }
    memset(c->k, 0xff, sizeof c->k);
    memset(c->v, 0xff, sizeof c->v);
    int  num_blocks = (keys + 15) / 16;
    for (int b = 0; b < num_blocks; b++) {
        c->table[b] = num_blocks - b;        /* block 0 stays poisoned */
    }
    for (int key = a.key_begin; key < keys; key++) {
        float   row[HEAD_DIM_MAX];
        size_t  at = (size_t) c->table[key / 16] * elems
                     + (size_t) (key % 16) * (size_t) a.head_dim;
        random_row(row, a.head_dim);
        cpu_kernels_plain.narrow(c->k + at * dtype_bytes(a.kv_dtype),
                                 a.kv_dtype, row, a.head_dim);
        random_row(row, a.head_dim);
        cpu_kernels_plain.narrow(c->v + at * dtype_bytes(a.kv_dtype),
                                 a.kv_dtype, row, a.head_dim);
    }
    return a;
}

static double
attn_kv(const struct cpu_attention *a, const char *base, int key, int d)
{
    int64_t  at = (int64_t) a->block_table[key / 16] * 16 * a->head_dim
                  + (key % 16) * a->head_dim + d;
    return widen_one(base, a->kv_dtype, at);
}

/* P rounded to 16 bits: at most 2^-8 of max |V| (values are below 1). */
static void
attn_check_reference(const struct cpu_attention *a)
{
    double  bound = a->dtype == DTYPE_F32 ? 1e-5 : 0x1p-8;
    for (int h = 0; h < a->num_heads; h++) {
        const float  *q = a->q + h * cpu_pad(a->head_dim);
        double        p[KEYS_MAX], sum = 0.0;
        for (int key = a->key_begin; key < a->key_end; key++) {
            double  s = 0.0;
            for (int d = 0; d < a->head_dim; d++) {
                s += (double) q[d] * attn_kv(a, a->k, key, d);
            }
            p[key] = exp(s * (double) a->scale);
            sum += p[key];
        }
        for (int d = 0; d < a->head_dim; d++) {
            double  o = 0.0;
            for (int key = a->key_begin; key < a->key_end; key++) {
                o += p[key] / sum * attn_kv(a, a->v, key, d);
            }
            o *= (double) a->out_scale;
            double  got = (double) a->out[h * cpu_pad(a->head_dim) + d];
            assert_true(fabs(got - o) <= bound);
        }
    }
}

static void
test_attention_is_within_its_bound_and_equals_the_twin(void **state)
{
    struct attn_case          *c = malloc(sizeof *c);
    const struct cpu_kernels  *all[3];
    int                        num = all_kernels(all);
    (void) state;
    rng = SEED;
    print_message("seed %u\n", SEED);
    for (int round = 0; round < 120; round++) {
        struct cpu_attention  a = attn_fill(c, round);
        size_t  bytes = (size_t) (a.num_heads * cpu_pad(a.head_dim))
                        * sizeof *c->out;
        memset(c->scores, 0xff, sizeof c->scores);
        memset(c->tile, 0xff, sizeof c->tile);
        cpu_kernels_plain.attention(&a);
        memcpy(c->want, c->out, bytes);
        if (round % 7 == 0) {
            attn_check_reference(&a);
        }
        for (int i = 1; i < num; i++) {
            memset(c->out, 0xff, sizeof c->out);
            all[i]->attention(&a);
            assert_memory_equal(c->out, c->want, bytes);
        }
    }
    free(c);
}

static void
test_attention_over_a_poisoned_block_is_nan(void **state)
{
    struct attn_case  *c = malloc(sizeof *c);
    (void) state;
    rng = SEED;
    for (int round = 0; round < 4; round++) {       /* every cache dtype */
        struct cpu_attention  a = attn_fill(c, 2 * round);
        c->table[0] = 0;
        a.key_begin = 0;
        best_kernels()->attention(&a);
        assert_true(isnan(c->out[0]));
        a = attn_fill(c, 2 * round + 1);
        c->table[a.key_begin / 16] = 0;
        best_kernels()->attention(&a);
        assert_true(isnan(c->out[0]));
    }
    free(c);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_all_16_bit_values_widen_alike_and_exactly),
        cmocka_unit_test(test_all_8_bit_values_widen_alike),
        cmocka_unit_test(test_narrow_rounds_to_nearest_even),
        cmocka_unit_test(test_nan_and_infinity_survive_narrowing),
        cmocka_unit_test(test_dot_is_within_its_bound_and_equals_the_twin),
        cmocka_unit_test(test_dot_of_a_row_does_not_depend_on_its_neighbours),
        cmocka_unit_test(test_exp_is_within_2_ulp_and_equals_the_twin),
        cmocka_unit_test(test_exp_of_extremes_is_tiny_huge_or_nan),
        cmocka_unit_test(test_silu_mul_follows_float64_and_the_twin),
        cmocka_unit_test(test_rmsnorm_follows_float64_and_the_twin),
        cmocka_unit_test(test_attention_is_within_its_bound_and_equals_the_twin),
        cmocka_unit_test(test_attention_over_a_poisoned_block_is_nan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
