/* test_backend_cpu.c - each op against float64 arithmetic on the same inputs.
 *
 * Inputs are rounded to their dtypes first, so that only the order of sums and
 * the documented rounding remain: |error| <= half an ulp of the output plus
 * (K / 16 + 8) * 2^-23 * sum |a_k b_k| (kernels.md C).  The largest ratio of
 * error to bound is printed and must not exceed 1. */
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

#define SEED        5u
#define ROWS        6
#define IN          75
#define OUT         41
#define HEADS       6
#define KV_HEADS    2
#define HEAD_DIM    20
#define QKV         ((HEADS + 2 * KV_HEADS) * HEAD_DIM)
#define NUM_BLOCKS  8
#define BLOCK_SIZE  16

static uint64_t  rng;

static double
random_value(void)
{
    rng = rng * 6364136223846793005ULL + 1442695040888963407ULL;
    return (double) (int32_t) (rng >> 32) * 0x1p-31;
}

/* A tensor with random values, and the same values in float64. */
struct data {
    struct tensor  t;
    double         v[OUT * QKV];
    char           bytes[OUT * QKV * 4];
};

static void
data_set(struct data *d)
{
    int64_t  num = d->t.shape[0] * (d->t.ndim == 2 ? d->t.shape[1] : 1);
    for (int64_t i = 0; i < num; i++) {
        float  x = (float) d->v[i];
        cpu_kernels_plain.narrow(d->bytes + (size_t) i
                                 * dtype_bytes(d->t.dtype), d->t.dtype, &x, 1);
    }
}

static void
data_read(struct data *d)
{
    int64_t  num = d->t.shape[0] * (d->t.ndim == 2 ? d->t.shape[1] : 1);
    for (int64_t i = 0; i < num; i++) {
        float  x[CPU_LANES];
        cpu_kernels_plain.widen(x, d->bytes + (size_t) i
                                * dtype_bytes(d->t.dtype), d->t.dtype, 1);
        d->v[i] = (double) x[0];
    }
}

static void
data_random(struct data *d, enum dtype dtype, int64_t rows, int64_t cols)
{
    d->t = cols == 0 ? tensor_1d(dtype, d->bytes, rows)
                     : tensor_2d(dtype, d->bytes, rows, cols);
    for (int64_t i = 0; i < rows * (cols == 0 ? 1 : cols); i++) {
        d->v[i] = random_value();
    }
    data_set(d);
    data_read(d);
}

/* bfloat16 has 8 significant bits: at the bottom of a binade half an ulp is
 * 2^-8 of the value. */
static double
half_ulp(enum dtype dtype, double x)
{
    double  eps = dtype == DTYPE_F32 ? 0x1p-24
                  : dtype == DTYPE_BF16 ? 0x1p-8 : 0x1p-11;
    return eps * fabs(x) * 1.001 + (dtype == DTYPE_F16 ? 0x1p-25 : 0.0);
}

struct fixture {
    struct backend *be;
    int32_t         ids[ROWS], positions[ROWS], slots[ROWS], cu[ROWS + 1];
    int32_t         context[ROWS], tables[ROWS * NUM_BLOCKS], logits_idx[ROWS];
    struct data     x, y, w, w2, bias, norm;
    double          worst;     /* error / bound */
};

static struct fixture  f;

static void
setup(void)
{
    struct err  err = { 0 };
    rng = SEED;
    f.worst = 0.0;
    assert_int_equal(backend_cpu_create(&f.be, &(struct backend_cpu_options) {
        .num_threads = 2 }, &err), OK);
    assert_int_equal(f.be->ops->reserve(f.be, &(struct backend_limits) {
        .max_num_batched_tokens = ROWS, .max_num_seqs = ROWS,
        .max_num_logits = ROWS, .max_blocks_per_seq = NUM_BLOCKS,
        .max_model_len = NUM_BLOCKS * BLOCK_SIZE, .row_elems_max = QKV },
        &err), OK);
}

/* num rows, each a sequence of its own at its position. */
static void
begin(int num)
{
    for (int i = 0; i < num; i++) {
        f.cu[i + 1] = i + 1;
        f.context[i] = f.positions[i] + 1;
    }
    enum step_action  action = f.be->ops->step_begin(f.be,
        &(struct step_inputs) {
            .num_tokens = num, .num_seqs = num, .num_logits = num / 2,
            .max_blocks_per_seq = NUM_BLOCKS, .input_ids = f.ids,
            .positions = f.positions, .slot_mapping = f.slots,
            .cu_seqlens_q = f.cu, .context_lens = f.context,
            .block_tables = f.tables, .logits_idx = f.logits_idx });
    assert_int_equal(action, STEP_ISSUE);
}

static void
teardown(void)
{
    print_message("seed %u, worst error / bound %.2f\n", SEED, f.worst);
    assert_true(f.worst <= 1.0);
    f.be->ops->destroy(f.be);
}

static void
compare(double got, double want, double bound)
{
    assert_true(isfinite(got));
    f.worst = fmax(f.worst, fabs(got - want) / bound);
}

static struct weight *
weight_of(enum weight_kind kind, const struct data *a, const struct data *b,
          const struct data *bias)
{
    struct weight_desc  d = { .kind = kind, .num_parts = b == NULL ? 1 : 2 };
    struct weight      *w;
    struct err          err = { 0 };
    d.parts[0] = a->t;
    if (b != NULL) {
        d.parts[1] = b->t;
    }
    if (bias != NULL) {
        d.bias[0] = bias->t;
    }
    assert_int_equal(f.be->ops->weight_create(f.be, &d, &w, &err), OK);
    return w;
}

/* RMSNorm rounded to T through our own narrow: the input of the product. */
static void
reference_norm(const double *x, const double *w, int n, enum dtype dtype,
               double *out)
{
    double  mean = 0.0;
    for (int i = 0; i < n; i++) {
        mean += x[i] * x[i] / n;
    }
    for (int i = 0; i < n; i++) {
        struct data  one = { .t = tensor_1d(dtype, one.bytes, 1) };
        one.v[0] = x[i] / sqrt(mean + 1e-5) * w[i];
        data_set(&one);
        data_read(&one);
        out[i] = one.v[0];
    }
}

/* Sum of w row . x row and of the absolute products. */
static double
reference_dot(const double *w, const double *x, int n, double *sum_abs)
{
    double  sum = 0.0;
    *sum_abs = 0.0;
    for (int i = 0; i < n; i++) {
        sum += w[i] * x[i];
        *sum_abs += fabs(w[i] * x[i]);
    }
    return sum;
}

static const double  dot_c = (IN / 16.0 + 9.0) * 0x1p-23;

static void
test_linear_with_bias_and_residual_follows_float64(void **state)
{
    static struct data  before;
    (void) state;
    setup();
    for (int d = DTYPE_F32; d <= DTYPE_F16; d++) {
        for (int add = 0; add < 2; add++) {
            enum dtype  dtype = (enum dtype) d;
            data_random(&f.x, dtype, ROWS, IN);
            data_random(&f.w, dtype, OUT, IN);
            data_random(&f.w2, dtype, OUT - 9, IN);
            data_random(&f.bias, dtype, OUT, 0);
            data_random(&f.y, dtype, ROWS, 2 * OUT - 9);
            before = f.y;
            struct weight  *w = weight_of(WEIGHT_LINEAR, &f.w, &f.w2, &f.bias);
            begin(ROWS);
            f.be->ops->linear(f.be, &(struct linear_args) {
                .y = f.y.t, .x = f.x.t, .weight = w,
                .epilogue = add ? EPILOGUE_ADD : EPILOGUE_NONE });
            f.be->ops->step_end(f.be);
            data_read(&f.y);
            for (int m = 0; m < ROWS; m++) {
                for (int r = 0; r < 2 * OUT - 9; r++) {
                    double         sum_abs;
                    const double  *row = r < OUT ? f.w.v + r * IN
                                                 : f.w2.v + (r - OUT) * IN;
                    double  a = reference_dot(row, f.x.v + m * IN, IN,
                                              &sum_abs);
                    int     at = m * (2 * OUT - 9) + r;
                    a += r < OUT ? f.bias.v[r] : 0.0;
                    double  bound = dot_c * (sum_abs + 2.0);
                    if (add) {                 /* the product is rounded too */
                        bound += half_ulp(dtype, a);
                        a += before.v[at];
                    }
                    compare(f.y.v[at], a, half_ulp(dtype, a) + bound);
                }
            }
            f.be->ops->weight_destroy(f.be, w);
        }
    }
    teardown();
}

static void
test_gate_up_and_norm_follow_float64(void **state)
{
    (void) state;
    setup();
    for (int d = DTYPE_F32; d <= DTYPE_F16; d++) {
        enum dtype  dtype = (enum dtype) d;
        data_random(&f.x, dtype, ROWS, IN);
        data_random(&f.w, dtype, OUT, IN);
        data_random(&f.w2, dtype, OUT, IN);
        data_random(&f.norm, dtype, IN, 0);
        data_random(&f.y, dtype, ROWS, OUT);
        struct weight  *w = weight_of(WEIGHT_GATE_UP, &f.w, &f.w2, NULL);
        struct weight  *norm = weight_of(WEIGHT_VECTOR, &f.norm, NULL, NULL);
        begin(ROWS);
        f.be->ops->linear(f.be, &(struct linear_args) {
            .y = f.y.t, .x = f.x.t, .norm = { norm, 1e-5f }, .weight = w,
            .epilogue = EPILOGUE_SILU_MUL });
        f.be->ops->step_end(f.be);
        data_read(&f.y);
        for (int m = 0; m < ROWS; m++) {
            double  x[IN], abs_g, abs_u;
            reference_norm(f.x.v + m * IN, f.norm.v, IN, dtype, x);
            for (int r = 0; r < OUT; r++) {
                double  g = reference_dot(f.w.v + r * IN, x, IN, &abs_g);
                double  u = reference_dot(f.w2.v + r * IN, x, IN, &abs_u);
                double  h = g / (1.0 + exp(-g)) * u;
                /* x may be off by one rounding where the norm's own error
                 * crosses a tie; the slope of silu is at most 1.1 */
                double  flip = dtype == DTYPE_F32 ? 0x1p-22 : 0x1p-8;
                compare(f.y.v[m * OUT + r], h, half_ulp(dtype, h)
                        + 1.1 * half_ulp(dtype, g) * fabs(u)
                        + half_ulp(dtype, u) * fabs(g)
                        + (dot_c + flip / 8.0)
                          * (1.1 * abs_g * fabs(u) + abs_u * fabs(g) + 0.1));
            }
        }
        f.be->ops->weight_destroy(f.be, w);
        f.be->ops->weight_destroy(f.be, norm);
    }
    teardown();
}

static void
test_lm_head_takes_the_wanted_rows_only(void **state)
{
    static float  logits[ROWS * OUT];
    (void) state;
    setup();
    data_random(&f.x, DTYPE_BF16, ROWS, IN);
    data_random(&f.w, DTYPE_BF16, OUT, IN);
    struct weight  *w = weight_of(WEIGHT_EMBEDDING, &f.w, NULL, NULL);
    f.logits_idx[0] = 4;
    f.logits_idx[1] = 1;
    f.logits_idx[2] = 4;
    memset(logits, 0xff, sizeof logits);
    begin(ROWS);
    f.be->ops->lm_head(f.be, &(struct lm_head_args) {
        .logits = tensor_2d(DTYPE_F32, logits, ROWS, OUT), .x = f.x.t,
        .weight = w });
    f.be->ops->step_end(f.be);
    for (int i = 0; i < ROWS / 2; i++) {
        for (int r = 0; r < OUT; r++) {
            double  sum_abs;
            double  a = reference_dot(f.w.v + r * IN,
                                      f.x.v + f.logits_idx[i] * IN, IN,
                                      &sum_abs);
            compare((double) logits[i * OUT + r], a, dot_c * sum_abs);
        }
    }
    assert_true(isnan(logits[ROWS / 2 * OUT]));
    f.be->ops->weight_destroy(f.be, w);
    teardown();
}

static void
test_embed_copies_rows_and_rounds_other_dtypes(void **state)
{
    (void) state;
    setup();
    for (int d = DTYPE_F32; d <= DTYPE_F16; d++) {
        data_random(&f.w, (enum dtype) d, OUT, IN);
        f.x.t = tensor_2d(DTYPE_BF16, f.x.bytes, ROWS, IN);
        struct weight  *w = weight_of(WEIGHT_EMBEDDING, &f.w, NULL, NULL);
        for (int i = 0; i < ROWS; i++) {
            f.ids[i] = i * 8;
        }
        begin(ROWS);
        f.be->ops->embed(f.be, f.x.t, w);
        f.be->ops->step_end(f.be);
        data_read(&f.x);
        for (int i = 0; i < ROWS * IN; i++) {
            double  want = f.w.v[i / IN * 8 * IN + i % IN];
            compare(f.x.v[i], want, half_ulp(DTYPE_BF16, want) + 1e-30);
        }
        f.be->ops->weight_destroy(f.be, w);
    }
    teardown();
}

/* ---- rope, the cache and attention --------------------------------------------- */

struct cache {
    struct kv_cache  kv;
    char             bytes[2 * 2 * NUM_BLOCKS * KV_HEADS * BLOCK_SIZE
                           * HEAD_DIM * 4];
    float            cos_sin[NUM_BLOCKS * BLOCK_SIZE * HEAD_DIM];
};

static struct cache  cache;

/* Of both layers; those of layer 0 must not be used. */
static const float  cache_scales[] = { NAN, NAN, 0.25f, 0.375f };

static double
scale_of(int is_v)
{
    return cache.kv.scales == NULL ? 1.0 : (double) cache_scales[2 + is_v];
}

/* Half the distance of two values that the cache can hold, near x. */
static double
cache_half_ulp(int is_v, double x)
{
    if (cache.kv.dtype == DTYPE_F8_E4M3) {
        return fabs(x) * 0x1p-4 * 1.001 + 0x1p-10 * scale_of(is_v);
    }
    return half_ulp(cache.kv.dtype, x);
}

static void
cache_init(enum dtype dtype)
{
    cache.kv = (struct kv_cache) { dtype, 2, NUM_BLOCKS, BLOCK_SIZE, KV_HEADS,
                                   HEAD_DIM, cache.bytes, NULL };
    cache.kv.scales = dtype == DTYPE_F8_E4M3 ? cache_scales : NULL;
    memset(cache.bytes, 0xff, sizeof cache.bytes);
    for (int p = 0; p < NUM_BLOCKS * BLOCK_SIZE; p++) {
        for (int j = 0; j < HEAD_DIM / 2; j++) {
            double  angle = p * pow(100.0, -2.0 * j / HEAD_DIM);
            float  *row = cache.cos_sin + p * HEAD_DIM;
            row[j] = (float) cos(angle);
            row[HEAD_DIM / 2 + j] = (float) sin(angle);
        }
    }
}

/* [layer 1][K/V][block][kv_head][token][head_dim], by hand. */
static double
cache_value(int is_v, int slot, int head, int d)
{
    size_t  at = ((((size_t) (2 + is_v) * NUM_BLOCKS
                    + (size_t) (slot / BLOCK_SIZE)) * KV_HEADS
                   + (size_t) head) * BLOCK_SIZE
                  + (size_t) (slot % BLOCK_SIZE)) * HEAD_DIM + (size_t) d;
    float   x[CPU_LANES];
    cpu_kernels_plain.widen(x, cache.bytes + at * dtype_bytes(cache.kv.dtype),
                            cache.kv.dtype, 1);
    return (double) x[0] * scale_of(is_v);
}

static void
reference_rope(const double *x, const double *norm, int position,
               enum dtype dtype, double *out)
{
    const float  *cs = cache.cos_sin + position * HEAD_DIM;
    double        n[HEAD_DIM];
    memcpy(n, x, sizeof n);
    if (norm != NULL) {
        reference_norm(x, norm, HEAD_DIM, dtype, n);
    }
    for (int j = 0; j < HEAD_DIM / 2; j++) {
        double  a = n[j], b = n[j + HEAD_DIM / 2];
        double  c = (double) cs[j], s = (double) cs[HEAD_DIM / 2 + j];
        out[j] = a * c - b * s;
        out[j + HEAD_DIM / 2] = b * c + a * s;
    }
}

static void
check_rope_row(const struct data *before, int m, const double *norm,
               enum dtype dtype)
{
    /* a flipped rounding of the normed value turns into one ulp */
    double  flip = norm == NULL ? 0.0 : dtype == DTYPE_F32 ? 0x1p-21 : 0x1p-6;
    for (int h = 0; h < HEADS + 2 * KV_HEADS; h++) {
        const double  *x = before->v + m * QKV + h * HEAD_DIM;
        double         want[HEAD_DIM];
        reference_rope(x, h < HEADS + KV_HEADS ? norm : NULL, f.positions[m],
                       dtype, want);
        for (int d = 0; d < HEAD_DIM; d++) {
            double  bound = half_ulp(dtype, want[d]) + flip + 8 * 0x1p-23;
            if (h < HEADS) {
                compare(f.y.v[m * QKV + h * HEAD_DIM + d], want[d], bound);
            } else if (h < HEADS + KV_HEADS) {
                compare(cache_value(0, f.slots[m], h - HEADS, d), want[d],
                        bound + cache_half_ulp(0, want[d]));
            } else {
                bool  fp8 = cache.kv.dtype == DTYPE_F8_E4M3;
                compare(cache_value(1, f.slots[m], h - HEADS - KV_HEADS, d),
                        x[d], 1e-30 + (fp8 ? cache_half_ulp(1, x[d]) : 0.0));
            }
        }
    }
}

static void
test_rope_and_append_follow_float64_and_the_layout(void **state)
{
    static struct data  before;
    (void) state;
    setup();
    for (int d = 0; d < 6; d++) {             /* the last three: fp8 cache */
        for (int with_norm = 0; with_norm < 2; with_norm++) {
            enum dtype  dtype = (enum dtype) (DTYPE_F32 + d % 3);
            cache_init(d < 3 ? dtype : DTYPE_F8_E4M3);
            data_random(&f.y, dtype, ROWS, QKV);
            data_random(&f.norm, dtype, HEAD_DIM, 0);
            before = f.y;
            struct weight  *norm = weight_of(WEIGHT_VECTOR, &f.norm, NULL,
                                             NULL);
            struct norm     args = { with_norm ? norm : NULL, 1e-5f };
            for (int i = 0; i < ROWS; i++) {
                f.positions[i] = i * 20;
                f.slots[i] = BLOCK_SIZE + i * 17;
            }
            begin(ROWS);
            f.be->ops->qk_norm_rope_append(f.be,
                &(struct qk_norm_rope_append_args) {
                    .qkv = f.y.t, .q_norm = args, .k_norm = args,
                    .cos_sin = cache.cos_sin, .kv = &cache.kv,
                    .layer_idx = 1, .num_heads = HEADS });
            f.be->ops->step_end(f.be);
            data_read(&f.y);
            for (int m = 0; m < ROWS; m++) {
                check_rope_row(&before, m, with_norm ? f.norm.v : NULL, dtype);
            }
            f.be->ops->weight_destroy(f.be, norm);
        }
    }
    teardown();
}

static void
cache_random(void)
{
    size_t  num = sizeof cache.bytes / 4;
    for (size_t i = 0; i < num; i++) {
        float  x = (float) random_value();
        cpu_kernels_plain.narrow(cache.bytes + i * dtype_bytes(cache.kv.dtype),
                                 cache.kv.dtype, &x, 1);
    }
}

static void
check_attention_row(int m, int window, enum dtype dtype)
{
    int     end = f.positions[m] + 1, begin_key = 0;
    double  bound = dtype == DTYPE_F32 ? 1e-5 : 0x1p-8;
    begin_key = window > 0 && end > window ? end - window : 0;
    for (int h = 0; h < HEADS; h++) {
        double  p[NUM_BLOCKS * BLOCK_SIZE], sum = 0.0;
        for (int key = begin_key; key < end; key++) {
            int  slot = f.tables[m * NUM_BLOCKS + key / BLOCK_SIZE]
                        * BLOCK_SIZE + key % BLOCK_SIZE;
            double  s = 0.0;
            for (int d = 0; d < HEAD_DIM; d++) {
                s += f.x.v[m * QKV + h * HEAD_DIM + d]
                     * cache_value(0, slot, h / (HEADS / KV_HEADS), d);
            }
            p[key] = exp(s * 0.25);
            sum += p[key];
        }
        for (int d = 0; d < HEAD_DIM; d++) {
            double  o = 0.0;
            for (int key = begin_key; key < end; key++) {
                int  slot = f.tables[m * NUM_BLOCKS + key / BLOCK_SIZE]
                            * BLOCK_SIZE + key % BLOCK_SIZE;
                o += p[key] / sum
                     * cache_value(1, slot, h / (HEADS / KV_HEADS), d);
            }
            compare(f.y.v[m * HEADS * HEAD_DIM + h * HEAD_DIM + d], o,
                    bound + half_ulp(dtype, o));
        }
    }
}

static void
test_paged_attention_follows_float64(void **state)
{
    (void) state;
    setup();
    for (int d = 0; d < 6; d++) {             /* the last three: fp8 cache */
        for (int window = 0; window < 40; window += 17) {
            enum dtype  dtype = (enum dtype) (DTYPE_F32 + d % 3);
            cache_init(d < 3 ? dtype : DTYPE_F8_E4M3);
            cache_random();
            data_random(&f.x, dtype, ROWS, QKV);
            f.y.t = tensor_2d(dtype, f.y.bytes, ROWS, HEADS * HEAD_DIM);
            for (int i = 0; i < ROWS; i++) {
                f.positions[i] = i * i * 4;
                for (int b = 0; b < NUM_BLOCKS; b++) {
                    f.tables[i * NUM_BLOCKS + b] = 1 + (b * 3 + i)
                                                       % (NUM_BLOCKS - 1);
                }
            }
            begin(ROWS);
            f.be->ops->attention(f.be, &(struct attention_args) {
                .out = f.y.t, .qkv = f.x.t, .kv = &cache.kv, .layer_idx = 1,
                .num_heads = HEADS, .sliding_window = window,
                .scale = 0.25f });
            f.be->ops->step_end(f.be);
            data_read(&f.y);
            for (int m = 0; m < ROWS; m++) {
                check_attention_row(m, window, dtype);
            }
        }
    }
    teardown();
}

static void
test_options_out_of_range_are_refused(void **state)
{
    struct backend  *be;
    struct err       err = { 0 };
    (void) state;
    assert_int_equal(backend_cpu_create(&be, &(struct backend_cpu_options) {
        .num_threads = CPU_THREADS_MAX + 1 }, &err), ERROR);
    assert_non_null(strstr(err.message, "257"));
    assert_int_equal(backend_cpu_create(&be, &(struct backend_cpu_options) {
        .num_threads = -1 }, &err), ERROR);
    if (cpu_isa_best() < CPU_ISA_AVX512) {
        assert_int_equal(backend_cpu_create(&be, &(struct backend_cpu_options) {
            .num_threads = 1, .isa = CPU_ISA_AVX512 }, &err), ERROR);
        assert_non_null(strstr(err.message, "avx512"));
    }
    assert_int_equal(backend_cpu_create(&be, &(struct backend_cpu_options) {
        .num_threads = 0 }, &err), OK);
    assert_non_null(strstr(be->ops->name, "cpu ("));
    be->ops->destroy(be);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_linear_with_bias_and_residual_follows_float64),
        cmocka_unit_test(test_gate_up_and_norm_follow_float64),
        cmocka_unit_test(test_lm_head_takes_the_wanted_rows_only),
        cmocka_unit_test(test_embed_copies_rows_and_rounds_other_dtypes),
        cmocka_unit_test(test_rope_and_append_follow_float64_and_the_layout),
        cmocka_unit_test(test_paged_attention_follows_float64),
        cmocka_unit_test(test_options_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
