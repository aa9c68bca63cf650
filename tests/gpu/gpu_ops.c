/* gpu_ops.c - embed, linear and lm_head: CUDA against the CPU backend. */
#include "tests/gpu/gpu_test.h"
#include "engine/backend/backend_load.h"
#include "engine/backend/cuda/backend_cuda.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/backend_load.h"
#include "engine/backend/cuda/backend_cuda.h"

struct linear_case {
    enum dtype            dtype, w_dtype;
    int                   num, in, out;
    bool                  bias, norm;
    enum linear_epilogue  epilogue;
};

struct linear_data {
    struct tensor  x, y, w[2], bias[2], norm;
};

static struct tensor
run_linear(struct backend *be, const struct linear_case *c,
           const struct linear_data *d)
{
    struct weight      *w, *norm = NULL;
    struct err          err = { 0 };
    struct weight_desc  desc = {
        .kind = c->epilogue == EPILOGUE_SILU_MUL ? WEIGHT_GATE_UP
                                                 : WEIGHT_LINEAR,
        .num_parts = 2, .parts = { d->w[0], d->w[1] } };
    if (c->bias) {
        desc.bias[0] = d->bias[0];        /* the second part has none when
                                             it is not gate and up */
        if (c->epilogue == EPILOGUE_SILU_MUL) {
            desc.bias[1] = d->bias[1];
        }
    }
    require(be->ops->weight_create(be, &desc, &w, &err), &err, "weight");
    if (c->norm) {
        require(be->ops->weight_create(be, &(struct weight_desc) {
            .kind = WEIGHT_VECTOR, .num_parts = 1, .parts = { d->norm } },
            &norm, &err), &err, "norm");
    }
    struct tensor  x = to_backend(be, &d->x), y = to_backend(be, &d->y);
    step_begin(be, rows_step(c->num));
    be->ops->linear(be, &(struct linear_args) {
        .y = y, .x = x, .norm = { norm, 1e-5f }, .weight = w,
        .epilogue = c->epilogue });
    be->ops->step_end(be);
    struct tensor  out = from_backend(be, &y);
    be->ops->free(be, x.data);
    be->ops->weight_destroy(be, w);
    be->ops->weight_destroy(be, norm);
    return out;
}

static float *
wide_copy(const struct tensor *t)
{
    size_t  num = tensor_elems(t);
    float  *wide = need(calloc(num + CPU_LANES, sizeof *wide));
    cpu_kernels_plain.widen(wide, t->data, t->dtype, (int64_t) num);
    return wide;
}

/* Row m of x as the product sees it, with the size of its rounding doubt. */
static double
product_input(const struct linear_case *c, const struct linear_data *d, int m,
              float *x)
{
    double  mean = 0.0;
    for (int k = 0; k < c->in; k++) {
        x[k] = elem(&d->x, (size_t) m * (size_t) c->in + (size_t) k);
        mean += (double) x[k] * (double) x[k] / c->in;
    }
    if (!c->norm) {
        return 0.0;
    }
    for (int k = 0; k < c->in; k++) {
        x[k] = rounded(c->dtype, (float) ((double) x[k] / sqrt(mean + 1e-5)
                                          * (double) elem(&d->norm,
                                                          (size_t) k)));
    }
    /* a value near a tie may round either way: one ulp of some inputs */
    return c->dtype == DTYPE_F32 ? 0x1p-21 : 2.0 * half_ulp(c->dtype, 1.0);
}

static double
sum_abs(const float *w, int row, const float *x, int in, double *sum)
{
    double  all = 0.0;
    *sum = 0.0;
    for (int k = 0; k < in; k++) {
        double  p = (double) w[row * in + k] * (double) x[k];
        all += fabs(p);
        *sum += p;
    }
    return all;
}

static void
check_linear(const struct linear_case *c, const struct linear_data *d,
             const struct tensor *want, const struct tensor *got)
{
    bool     gate_up = c->epilogue == EPILOGUE_SILU_MUL;
    int64_t  cols = d->y.shape[1];
    float    x[ROW_MAX];
    float   *w[2] = { wide_copy(&d->w[0]), wide_copy(&d->w[1]) };
    for (int m = 0; m < c->num; m++) {
        double  doubt = product_input(c, d, m, x) / 4.0 + dot_c(c->in);
        for (int64_t r = 0; r < cols; r++) {
            size_t  at = (size_t) (m * cols + r);
            double  w_v = (double) elem(want, at), g = 0.0, u, bound;
            int     part = !gate_up && r >= c->out;
            int     row = (int) (part ? r - c->out : r);
            double  err_g = doubt * (sum_abs(w[part], row, x, c->in, &g)
                                     + 2.0);
            if (c->epilogue != EPILOGUE_NONE) {    /* a product is rounded */
                err_g += 2.0 * half_ulp(c->dtype, fabs(g) + 1.0);
            }
            bound = 2.0 * half_ulp(c->dtype, w_v) + err_g;
            if (gate_up) {
                double  err_u = doubt * (sum_abs(w[1], row, x, c->in, &u)
                                         + 2.0);
                err_u += 2.0 * half_ulp(c->dtype, fabs(u) + 1.0);
                bound = 2.0 * half_ulp(c->dtype, w_v)
                        + 1.1 * err_g * (fabs(u) + 1.0)
                        + err_u * (fabs(g) + 1.0);
            }
            compare((double) elem(got, at), w_v, bound);
        }
    }
    free(w[0]);
    free(w[1]);
    size_t  used = (size_t) c->num * (size_t) cols * dtype_bytes(c->dtype);
    if (memcmp((char *) got->data + used, (char *) d->y.data + used,
               tensor_bytes(&d->y) - used) != 0)
    {
        complain("rows past num_tokens were written");
    }
}

static void
linear_one(const struct linear_case *c)
{
    int64_t             cols = c->epilogue == EPILOGUE_SILU_MUL ? c->out
                                                                : 2 * c->out;
    struct linear_data  d = {
        .x = host_random(c->dtype, c->num + 3, c->in),
        .y = host_random(c->dtype, c->num + 3, cols),
        .w = { host_random(c->w_dtype, c->out, c->in),
               host_random(c->w_dtype, c->out, c->in) },
        .bias = { host_random(c->w_dtype, c->out, 0),
                  host_random(c->w_dtype, c->out, 0) },
        .norm = host_random(c->dtype, c->in, 0) };
    size_t  poison = (size_t) c->num * (size_t) c->in * dtype_bytes(c->dtype);
    memset((char *) d.x.data + poison, 0xff, tensor_bytes(&d.x) - poison);
    int     before = run.messages;
    struct tensor  want = run_linear(run.cpu, c, &d);
    struct tensor  got = run_linear(run.cuda, c, &d);
    check_linear(c, &d, &want, &got);
    if (run.messages > before && run.messages < 20) {
        printf("#   in x %s w %s rows %d in %d out 2 x %d bias %d norm %d "
               "epilogue %d\n", dtype_name(c->dtype), dtype_name(c->w_dtype),
               c->num, c->in, c->out, c->bias, c->norm, (int) c->epilogue);
    }
    struct tensor *const  all[] = { &d.x, &d.y, &d.w[0], &d.w[1], &d.bias[0],
                                    &d.bias[1], &d.norm, &want, &got };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i]->data);
    }
}

void
test_linear_with_every_epilogue(void)
{
    static const int  nums[] = { 1, 3, 17, 130, 300 };
    static const int  sizes[][2] = { { 48, 24 }, { 75, 41 }, { 128, 128 },
                                     { 512, 192 }, { 1024, 96 } };
    for (int dtype = DTYPE_F32; dtype <= DTYPE_F16; dtype++) {
        for (int n = 0; n < (run.small ? 3 : 5); n++) {
            for (int s = n == 4 ? 2 : 0; s < (run.small || n == 4 ? 3 : 5);
                 s++)
            {
                for (int v = 0; v < 12; v++) {
                    linear_one(&(struct linear_case) {
                        .dtype = (enum dtype) dtype,
                        .w_dtype = (enum dtype) dtype, .num = nums[n],
                        .in = sizes[s][0], .out = sizes[s][1],
                        .bias = v & 1, .norm = v >> 1 & 1,
                        .epilogue = (enum linear_epilogue) (v >> 2) });
                }
            }
        }
    }
}

/* NULL where there is no CUDA. */
static struct backend *
invariant_backend(void)
{
    struct backend  *be;
    struct err       err = { 0 };
    if (run.cuda->ops->sample == NULL) {
        printf("#   skipped: %s is invariant\n", run.cuda->ops->name);
        return NULL;
    }
    require(backend_load_cuda(&be, &(struct backend_cuda_options) {
        .abi = BACKEND_CUDA_ABI, .batch_invariant = true }, &err), &err,
        "a backend more");
    reserve(be);
    return be;
}

/* Shapes that the Hopper kernel takes: every width of its tiles, rows that fill
 * them or not, tiles cut anywhere, k cut or not.  Batch-invariant, so that it
 * does take them: otherwise it is for large ones. */
void
test_linear_of_decode_steps(void)
{
    static const int  nums[] = { 9, 16, 31, 64, 90, 100, 160, 191, 256 };
    static const int  sizes[][2] = { { 64, 16 }, { 192, 104 }, { 320, 40 },
                                     { 2048, 72 }, { 1088, 200 } };
    struct backend   *plain = run.cuda, *be = invariant_backend();
    if (be == NULL) {
        return;
    }
    run.cuda = be;
    for (int i = 0; i < 2 * 9; i++) {
        if (run.small && i % 4 != 0) {
            continue;
        }
        for (int v = 0; v < 6; v++) {
            const int  *size = sizes[(i + v) % 5];
            linear_one(&(struct linear_case) {
                .dtype = i < 9 ? DTYPE_BF16 : DTYPE_F16,
                .w_dtype = i < 9 ? DTYPE_BF16 : DTYPE_F16,
                .num = nums[i % 9], .in = size[0], .out = size[1],
                .bias = v & 1, .epilogue = (enum linear_epilogue) (v >> 1) });
        }
    }
    run.cuda = plain;
    be->ops->destroy(be);
}

/* One product with other numbers of rows: the same bits of those that are
 * common. */
static void
rows_alone(struct backend *be, struct linear_case c)
{
    static const int    nums[] = { 1, 7, 16, 17, 48, 64, 77, 128, 130, 200,
                                   256, 257 };
    int64_t             cols = c.epilogue == EPILOGUE_SILU_MUL ? c.out
                                                               : 2 * c.out;
    int                 all = c.num;
    struct linear_data  d = {
        .x = host_random(c.dtype, all, c.in),
        .y = host_random(c.dtype, all, cols),
        .w = { host_random(c.dtype, c.out, c.in),
               host_random(c.dtype, c.out, c.in) },
        .bias = { host_random(c.dtype, c.out, 0),
                  host_random(c.dtype, c.out, 0) } };
    struct tensor       want = run_linear(be, &c, &d);
    for (size_t i = 0; i < sizeof nums / sizeof *nums; i++) {
        c.num = nums[i];
        struct tensor  got = run_linear(be, &c, &d);
        if (memcmp(got.data, want.data, (size_t) c.num * (size_t) cols
                                        * dtype_bytes(c.dtype)) != 0)
        {
            complain("%s, in %d, out 2 x %d, epilogue %d: %d rows differ from "
                     "the same among %d", dtype_name(c.dtype), c.in, c.out,
                     (int) c.epilogue, c.num, all);
        }
        free(got.data);
    }
    struct tensor *const  data[] = { &d.x, &d.y, &d.w[0], &d.w[1], &d.bias[0],
                                     &d.bias[1], &want };
    for (size_t i = 0; i < sizeof data / sizeof *data; i++) {
        free(data[i]->data);
    }
}

void
test_batch_invariant_products_do_not_depend_on_the_rows(void)
{
    static const int  sizes[][2] = { { 128, 64 }, { 4096, 96 }, { 1216, 104 } };
    struct backend   *be = invariant_backend();
    if (be == NULL) {
        return;
    }
    for (int i = 0; i < (run.small ? 4 : 18); i++) {
        rows_alone(be, (struct linear_case) {
            .dtype = i & 1 ? DTYPE_F16 : DTYPE_BF16, .num = 300,
            .in = sizes[i / 2 % 3][0], .out = sizes[i / 2 % 3][1],
            .bias = i % 5 < 2, .epilogue = (enum linear_epilogue) (i / 6) });
    }
    be->ops->destroy(be);
}

void
test_linear_with_weights_of_another_dtype(void)
{
    for (int i = 0; i < 9; i++) {
        linear_one(&(struct linear_case) {
            .dtype = (enum dtype) (DTYPE_F32 + i / 3),
            .w_dtype = (enum dtype) (DTYPE_F32 + i % 3), .num = 5, .in = 64,
            .out = 40, .bias = true,
            .epilogue = (enum linear_epilogue) (i % 3) });
    }
}

/* The kernel for many rows, which a backend that times nothing always takes:
 * shapes that each tile is proposed for, with edges on all sides. */
void
test_linear_of_many_rows_with_every_epilogue(void)
{
    static const struct {
        int  num, in, out;
    } cases[] = { { 257, 136, 200 }, { 300, 64, 2200 }, { 511, 24, 3304 },
                  { 301, 1024, 96 } };
    struct backend  *timed = run.cuda;
    struct err       err = { 0 };
    if (run.cuda->ops->sample == NULL || run.simple) {
        printf("#   skipped: %s has no such kernel\n", run.cuda->ops->name);
        return;
    }
    require(backend_load_cuda(&run.cuda, &(struct backend_cuda_options) {
        .abi = BACKEND_CUDA_ABI, .no_tuning = true }, &err), &err,
        "a backend more");
    reserve(run.cuda);
    for (int dtype = DTYPE_BF16; dtype <= DTYPE_F16; dtype++) {
        for (int i = 0; i < (run.small ? 1 : 4); i++) {
            for (int v = 0; v < 6; v++) {
                linear_one(&(struct linear_case) {
                    .dtype = (enum dtype) dtype, .w_dtype = (enum dtype) dtype,
                    .num = cases[i].num, .in = cases[i].in,
                    .out = cases[i].out, .bias = v & 1, .norm = i == 0,
                    .epilogue = (enum linear_epilogue) (v >> 1) });
            }
        }
    }
    run.cuda->ops->destroy(run.cuda);
    run.cuda = timed;
}

static struct tensor
run_lm_head(struct backend *be, const struct tensor *x, const struct tensor *w,
            const struct tensor *norm, const struct step *s)
{
    struct weight  *weight, *norm_weight = NULL;
    struct err      err = { 0 };
    require(be->ops->weight_create(be, &(struct weight_desc) {
        .kind = WEIGHT_EMBEDDING, .num_parts = 1, .parts = { *w } }, &weight,
        &err), &err, "weight");
    if (norm != NULL) {
        require(be->ops->weight_create(be, &(struct weight_desc) {
            .kind = WEIGHT_VECTOR, .num_parts = 1, .parts = { *norm } },
            &norm_weight, &err), &err, "norm");
    }
    struct tensor  host = host_tensor(DTYPE_F32, s->num_logits + 2,
                                      w->shape[0]);
    memset(host.data, 0xff, tensor_bytes(&host));
    struct tensor  logits = to_backend(be, &host), on = to_backend(be, x);
    step_begin(be, s);
    be->ops->lm_head(be, &(struct lm_head_args) {
        .logits = logits, .x = on, .norm = { norm_weight, 1e-6f },
        .weight = weight });
    be->ops->step_end(be);
    free(host.data);
    host = from_backend(be, &logits);
    be->ops->free(be, on.data);
    be->ops->weight_destroy(be, weight);
    be->ops->weight_destroy(be, norm_weight);
    return host;
}

void
test_lm_head_takes_the_wanted_rows_only(void)
{
    for (int i = 0; i < 12; i++) {
        int            in = i < 6 ? 96 : 128, out = i < 6 ? 333 : 336;
        enum dtype     dtype = (enum dtype) (DTYPE_F32 + i % 3);
        struct tensor  x = host_random(dtype, 40, in);
        struct tensor  w = host_random(dtype, out, in);
        struct tensor  norm = host_random(dtype, in, 0);
        struct step   *s = rows_step(40);
        s->num_logits = i < 6 ? 7 : 23;
        for (int j = 0; j < s->num_logits; j++) {
            s->logits_idx[j] = random_below(40);
        }
        struct linear_case  c = { .dtype = dtype, .in = in,
                                  .norm = i % 6 >= 3 };
        struct linear_data  d = { .x = x, .norm = norm };
        struct tensor  want = run_lm_head(run.cpu, &x, &w,
                                          c.norm ? &norm : NULL, s);
        struct tensor  got = run_lm_head(run.cuda, &x, &w,
                                         c.norm ? &norm : NULL, s);
        float  *wide = wide_copy(&w);
        for (int m = 0; m < s->num_logits; m++) {
            float   row[ROW_MAX];
            double  doubt = product_input(&c, &d, s->logits_idx[m], row) / 4.0
                            + dot_c(in);
            for (int r = 0; r < out; r++) {
                double  sum, all = sum_abs(wide, r, row, in, &sum);
                compare((double) elem(&got, (size_t) (m * out + r)),
                        (double) elem(&want, (size_t) (m * out + r)),
                        doubt * all);
            }
        }
        size_t  end = (size_t) (s->num_logits * out);
        if (!isnan(elem(&got, end))
            || !isnan(elem(&got, end + (size_t) (2 * out) - 1)))
        {
            complain("rows past num_logits were written");
        }
        free(wide);
        free(x.data);
        free(w.data);
        free(norm.data);
        free(want.data);
        free(got.data);
    }
}

static struct tensor
run_embed(struct backend *be, const struct tensor *w, enum dtype dtype,
          const struct step *s)
{
    struct weight  *weight;
    struct err      err = { 0 };
    struct tensor   host = host_tensor(dtype, s->num_tokens + 1, w->shape[1]);
    memset(host.data, 0xff, tensor_bytes(&host));
    require(be->ops->weight_create(be, &(struct weight_desc) {
        .kind = WEIGHT_EMBEDDING, .num_parts = 1, .parts = { *w } }, &weight,
        &err), &err, "weight");
    struct tensor  x = to_backend(be, &host);
    step_begin(be, s);
    be->ops->embed(be, x, weight);
    be->ops->step_end(be);
    free(host.data);
    host = from_backend(be, &x);
    be->ops->weight_destroy(be, weight);
    return host;
}

void
test_embed_gives_the_same_bits(void)
{
    for (int i = 0; i < 9; i++) {
        struct tensor  w = host_random((enum dtype) (DTYPE_F32 + i / 3), 50,
                                       75);
        struct step   *s = rows_step(33);
        for (int t = 0; t < 33; t++) {
            s->ids[t] = random_below(50);
        }
        enum dtype     dtype = (enum dtype) (DTYPE_F32 + i % 3);
        struct tensor  want = run_embed(run.cpu, &w, dtype, s);
        struct tensor  got = run_embed(run.cuda, &w, dtype, s);
        if (memcmp(want.data, got.data, tensor_bytes(&want)) != 0) {
            complain("%s to %s differs", dtype_name(w.dtype),
                     dtype_name(dtype));
        }
        free(w.data);
        free(want.data);
        free(got.data);
    }
}

/* Sizes around the one from which the source's pages are pinned, from
 * addresses in the middle of a page. */
void
test_uploads_of_any_size_and_address_arrive(void)
{
    static const size_t  sizes[] = { 1, 4097, (1 << 20) - 1, 1 << 20,
                                     (5 << 20) + 77 };
    char                *src = need(malloc((size_t) 8 << 20));
    char                *back = need(malloc((size_t) 8 << 20));
    for (size_t i = 0; i < (size_t) 8 << 20; i++) {
        src[i] = (char) random_bits();
    }
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        void        *data;
        struct err   err = { 0 };
        const char  *from = src + 1 + random_below(9999);
        require(run.cuda->ops->alloc(run.cuda, sizes[i], &data, &err), &err,
                "alloc");
        run.cuda->ops->fill(run.cuda, data, 0xff, sizes[i]);
        run.cuda->ops->upload(run.cuda, data, from, sizes[i]);
        run.cuda->ops->download(run.cuda, back, data, sizes[i]);
        if (memcmp(back, from, sizes[i]) != 0) {
            complain("%zu bytes differ", sizes[i]);
        }
        run.cuda->ops->free(run.cuda, data);
    }
    free(src);
    free(back);
}
