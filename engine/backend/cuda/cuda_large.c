/* cuda_large.c - linear() of many rows: the kernel that does all of it, or
 * cuBLASLt and what follows, whichever is faster.
 *
 * Gate and up of more than SILU_ROWS rows are always the kernel's: run for
 * seconds it is faster by 2 to 7 per cent, which a few cold runs do not show
 * (docs/performance.md).  All else is decided once per shape and bucket of rows
 * as cuda_gemm.c chooses its algorithms: by timing, on the product's own data;
 * without timing it is the kernel, with the tile that it proposes. */
#include "engine/backend/cuda/cuda_internal.h"

#include <string.h>

#define SILU_ROWS  512

static const int  tiles[] = { 256, 192, 128 };

struct large_trial {
    const struct gemm_large_params *p;
    struct cuda_gemm                g;
};

static bool
issue_kernel(struct cuda_backend *cb, const void *what)
{
    const struct large_trial  *t = what;
    return gemm_large_launch(t->p, cb->stream) == cudaSuccess;
}

static bool
issue_cublas(struct cuda_backend *cb, const void *what)
{
    const struct large_trial  *t = what;
    bool  ok = cuda_gemm_run(cb, &t->g);
    if (ok && t->p->silu_mul) {
        ok = silu_mul_launch(&(struct product_params) {
            .y = t->p->y, .product = cb->product, .dtype = t->p->dtype,
            .num = t->p->num, .n = t->p->n }, cb->stream) == cudaSuccess;
    }
    return ok;
}

/* The fastest for a product: a tile, or 0 for cuBLASLt.  What is added is added
 * to something else. */
static int32_t
choose(struct cuda_backend *cb, const struct linear_args *args,
       struct gemm_large_params p)
{
    const struct weight  *w = args->weight;
    enum dtype            dtype = args->y.dtype;
    int                   most = (int) (cb->product_bytes
                                        / ((size_t) w->rows * dtype_bytes(dtype)));
    const void           *bias = dtype == w->part[0].dtype ? w->bias16 : NULL;
    if ((p.silu_mul && p.num > SILU_ROWS) || !cuda_gemm_may_time(cb)
        || (w->bias != NULL && bias == NULL) || (p.add && p.num > most))
    {
        return gemm_large_tile(&p);
    }
    p.num = p.num < most ? p.num : most;
    p.pdl = 0;
    p.y = p.add ? cb->product : p.y;
    struct large_trial  t = { .p = &p, .g = {
        .y = p.silu_mul ? cb->product : p.y, .x = p.x, .w = p.w, .bias = bias,
        .y_dtype = dtype, .x_dtype = dtype, .w_dtype = dtype, .num = p.num,
        .n = w->rows, .k = w->in, .y_stride = w->rows, .add = p.add } };
    int32_t  best = 0;
    float    best_ms = cuda_gemm_run(cb, &t.g)
                       ? cuda_gemm_time(cb, issue_cublas, &t) : -1.0f;
    for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++) {
        p.tile = tiles[i];
        float  ms = p.silu_mul && p.tile == 192
                    ? -1.0f : cuda_gemm_time(cb, issue_kernel, &t);
        if (ms >= 0.0f && (best_ms < 0.0f || ms < best_ms)) {
            best = p.tile;
            best_ms = ms;
        }
    }
    cb->tuned++;
    return best;
}

bool
cuda_linear_large(struct cuda_backend *cb, const struct linear_args *args,
                  const void *x, int num)
{
    const struct weight      *w = args->weight;
    struct gemm_large_params  p = {
        .y = args->y.data, .x = x, .w = w->part[0].data, .bias = w->bias,
        .dtype = cuda_kernel_dtype(args->x.dtype), .num = num,
        .n = (int) args->y.shape[1], .k = (int) w->in,
        .add = args->epilogue == EPILOGUE_ADD,
        .silu_mul = args->epilogue == EPILOGUE_SILU_MUL,
        .num_sms = cb->num_sms };
    if (num <= CUDA_DECODE_ROWS_MAX || cb->simple_kernels || cb->invariant
        || w->num_parts != 1 || w->part[0].dtype != args->x.dtype
        || !gemm_large_takes(&p))
    {
        return false;
    }
    struct cuda_gemm_key    key = { w->rows, w->in, cuda_gemm_bucket(num),
                                    (int32_t) args->x.dtype,
                                    (int32_t) args->y.dtype,
                                    (w->bias != NULL) | p.add << 1
                                    | p.silu_mul << 2 | 8, 1 };
    struct cuda_gemm_plan  *plan = cuda_gemm_place(cb, &key);
    if (memcmp(&plan->key, &key, sizeof key) != 0) {
        int32_t  large = choose(cb, args, p);
        plan = cuda_gemm_place(cb, &key);
        *plan = (struct cuda_gemm_plan) { .key = key, .found = true,
                                          .large = large };
    }
    if (plan->large == 0) {
        return false;
    }
    p.tile = plan->large;
    p.pdl = cuda_overlap(cb);
    (void) cuda_keep(cb, gemm_large_launch(&p, cb->stream), "linear");
    return true;
}
