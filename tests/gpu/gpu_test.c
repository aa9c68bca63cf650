/* gpu_test.c - backends, tensors, comparisons and steps for the GPU tests. */
#include "tests/gpu/gpu_test.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct run  run;

/* ---- small things ------------------------------------------------------------- */

void
complain(const char *format, ...)
{
    va_list  args;
    run.bad = true;
    if (run.messages++ >= 12) {
        return;
    }
    printf("#   ");
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
}

void
require(int rc, const struct err *err, const char *what)
{
    if (rc != OK) {
        printf("not ok - %s: %s\n", what, err->message);
        printf("%d passed, %d failed\n", run.passed, run.failed + 1);
        exit(1);
    }
}

void *
need(void *p)
{
    if (p == NULL) {
        printf("out of memory\n");
        exit(1);
    }
    return p;
}

uint32_t
random_bits(void)
{
    run.rng = run.rng * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t) (run.rng >> 32);
}

int
random_below(int n)
{
    return (int) (random_bits() % (uint32_t) n);
}

float
random_value(void)
{
    return (float) (int32_t) random_bits() * 0x1p-31f;
}

float
value_at(const void *data, enum dtype dtype, size_t i)
{
    float  x[CPU_LANES];
    cpu_kernels_plain.widen(x, (const char *) data + i * dtype_bytes(dtype),
                            dtype, 1);
    return x[0];
}

float
rounded(enum dtype dtype, float x)
{
    char  bytes[4 * CPU_LANES];
    cpu_kernels_plain.narrow(bytes, dtype, &x, 1);
    return value_at(bytes, dtype, 0);
}

/* Half the distance of neighbours around x; two roundings of nearly the same
 * value differ by at most twice that. */
double
half_ulp(enum dtype dtype, double x)
{
    double  eps = dtype == DTYPE_F32 ? 0x1p-24
                  : dtype == DTYPE_BF16 ? 0x1p-8
                  : dtype == DTYPE_F8_E4M3 ? 0x1p-4 : 0x1p-11;
    return eps * fabs(x) * 1.001 + (dtype == DTYPE_F16 ? 0x1p-25
                                    : dtype == DTYPE_F8_E4M3 ? 0x1p-10 : 1e-38);
}

double
dot_c(int64_t k)
{
    return 2.0 * ((double) k / 16.0 + 9.0) * 0x1p-23;    /* both sides err */
}

void
compare(double got, double want, double bound)
{
    double  ratio = fabs(got - want) / bound;
    if (isnan(got) || isnan(want) || ratio > 1.0) {
        complain("got %.9g, want %.9g, bound %.3g", got, want, bound);
    }
    run.worst = fmax(run.worst, ratio);
}

/* A tensor in host memory. */
struct tensor
host_tensor(enum dtype dtype, int64_t rows, int64_t cols)
{
    size_t  num = (size_t) rows * (size_t) (cols == 0 ? 1 : cols);
    void   *data = need(calloc(num + CPU_LANES, dtype_bytes(dtype)));
    return cols == 0 ? tensor_1d(dtype, data, rows)
                     : tensor_2d(dtype, data, rows, cols);
}

size_t
tensor_elems(const struct tensor *t)
{
    return (size_t) t->shape[0] * (size_t) (t->ndim == 2 ? t->shape[1] : 1);
}

size_t
tensor_bytes(const struct tensor *t)
{
    return tensor_elems(t) * dtype_bytes(t->dtype);
}

struct tensor
host_random(enum dtype dtype, int64_t rows, int64_t cols)
{
    struct tensor  t = host_tensor(dtype, rows, cols);
    for (size_t i = 0; i < tensor_elems(&t); i++) {
        float  x = random_value();
        cpu_kernels_plain.narrow((char *) t.data + i * dtype_bytes(dtype),
                                 dtype, &x, 1);
    }
    return t;
}

float
elem(const struct tensor *t, size_t i)
{
    return value_at(t->data, t->dtype, i);
}

/* The same tensor in the backend's memory, and back. */
struct tensor
to_backend(struct backend *be, const struct tensor *host)
{
    struct tensor  t = *host;
    struct err     err = { 0 };
    require(be->ops->alloc(be, tensor_bytes(host), &t.data, &err), &err,
            "alloc");
    be->ops->upload(be, t.data, host->data, tensor_bytes(host));
    return t;
}

struct tensor
from_backend(struct backend *be, struct tensor *t)
{
    struct tensor  host = host_tensor(t->dtype, t->shape[0],
                                      t->ndim == 2 ? t->shape[1] : 0);
    struct err     err = { 0 };
    require(be->ops->sync(be, &err), &err, "sync");
    be->ops->download(be, host.data, t->data, tensor_bytes(t));
    be->ops->free(be, t->data);
    t->data = NULL;
    return host;
}

void
reserve(struct backend *be)
{
    struct err  err = { 0 };
    require(be->ops->reserve(be, &(struct backend_limits) {
        .max_num_batched_tokens = TOKENS_MAX, .max_num_seqs = SEQS_MAX,
        .max_num_logits = TOKENS_MAX, .max_blocks_per_seq = TABLE_MAX,
        .max_model_len = LEN_MAX, .row_elems_max = ROW_MAX }, &err), &err,
        "reserve");
}

/* ---- steps -------------------------------------------------------------------- */

void
step_add(struct step *s, int query_len, int context_len)
{
    for (int i = 0; i < query_len; i++) {
        s->positions[s->num_tokens + i] = context_len - query_len + i;
        s->slots[s->num_tokens + i] = SLOT_PADDING;
    }
    s->context[s->num_seqs] = context_len;
    s->num_tokens += query_len;
    s->cu[++s->num_seqs] = s->num_tokens;
}

void
step_begin(struct backend *be, const struct step *s)
{
    struct step_inputs  in = {
        .num_tokens = s->num_tokens, .num_seqs = s->num_seqs,
        .num_logits = s->num_logits, .max_blocks_per_seq = TABLE_MAX,
        .input_ids = s->ids, .positions = s->positions,
        .slot_mapping = s->slots, .cu_seqlens_q = s->cu,
        .context_lens = s->context, .block_tables = s->tables,
        .logits_idx = s->logits_idx, .model_id = s->model_id };
    if (be->ops->step_begin(be, &in) != STEP_ISSUE) {
        complain("step_begin wants a replay");
    }
}

/* One sequence of num rows. */
struct step *
rows_step(int num)
{
    static struct step  s;
    s = (struct step) { .num_tokens = 0 };
    step_add(&s, num, num);
    return &s;
}
