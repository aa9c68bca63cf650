/* cuda_linear.c - linear() and lm_head() in terms of kernels/ and cuBLASLt.
 *
 * Products of few rows, and of those of decode steps the large ones, are
 * kernels of our own that do what follows the product as well.  cuBLASLt writes
 * its result where it belongs when nothing follows, otherwise to `product`, for
 * an epilogue kernel.  Its residual addition stays pending: the next linear(),
 * which norms what it is added to, does both in one kernel, and any other op or
 * the step's end does it before.  With many rows a kernel of ours does it all
 * where that is faster (cuda_large.c), or cuBLASLt adds, which saves a pass over
 * memory.  What cuBLASLt does not take goes through fp32. */
#include "engine/backend/cuda/cuda_internal.h"
#include "engine/base/check.h"

/* Where the Hopper kernel was measured to be faster than gemv.cu, or cuBLASLt
 * and what follows it: rows of x, elements of weights. */
#define GEMM_ROWS_MIN       5
#define GEMM_ROWS_SILU_MUL  128
#define GEMM_ROWS_F32       32        /* lm_head */
#define GEMM_ROWS_OTHER     96
#define GEMM_ELEMS_MIN      (16 << 20)

void
cuda_flush(struct cuda_backend *cb)
{
    if (cb->pending.y != NULL) {
        (void) cuda_keep(cb, add_launch(&(struct product_params) {
            .y = cb->pending.y, .product = cb->product,
            .dtype = cuda_kernel_dtype(cb->pending.dtype),
            .num = cb->pending.num, .n = cb->pending.n, .pdl = cuda_overlap(cb) },
            cb->stream), "residual");
        cb->pending.y = NULL;
    }
    cuda_rope_flush(cb);
}

static void *
at_byte(const void *data, int64_t elems, enum dtype dtype)
{
    return (char *) (uintptr_t) data + (size_t) elems * dtype_bytes(dtype);
}

/* Does a pending addition to x on the way.  early: a product of gemm_launch()
 * follows. */
static const void *
norm_rows(struct cuda_backend *cb, const struct tensor *x,
          const struct norm *norm, const int32_t *rows, int num, bool early)
{
    const void  *add = NULL;
    check_eq(norm->weight->in, x->shape[1]);
    check_le(x->shape[1], cb->limits.row_elems_max);
    if (cb->pending.y == x->data && rows == NULL && cb->pending.num == num) {
        add = cb->product;
        cb->pending.y = NULL;
    }
    cuda_flush(cb);
    (void) cuda_keep(cb, norm_launch(&(struct norm_params) {
        .y = cb->normed, .x = x->data, .add = add,
        .weight = norm->weight->vector, .rows = rows,
        .dtype = cuda_kernel_dtype(x->dtype), .num = num,
        .n = (int) x->shape[1], .eps = norm->eps, .pdl = cuda_overlap(cb),
        .early = early }, cb->stream), "rmsnorm");
    return cb->normed;
}

/* fp32 y [num, w->rows] = x w^T, by cuBLASLt or without it. */
static void
matmul_f32(struct cuda_backend *cb, const struct weight *w, const void *x,
           enum dtype x_dtype, int num, float *y)
{
    int64_t  col = 0;
    for (int i = 0; i < w->num_parts; i++) {
        const struct cuda_weight_part  *part = &w->part[i];
        struct cuda_gemm  g = {
            .y = y + col, .x = x, .w = part->data, .y_dtype = DTYPE_F32,
            .x_dtype = x_dtype, .w_dtype = part->dtype, .num = num,
            .n = part->rows, .k = w->in, .y_stride = w->rows };
        if (!cuda_gemm_run(cb, &g)) {
            (void) cuda_keep(cb, matmul_simple_launch(&(struct matmul_params) {
                .y = y + col, .x = x, .w = part->data,
                .x_dtype = cuda_kernel_dtype(x_dtype),
                .w_dtype = cuda_kernel_dtype(part->dtype), .num = num,
                .n = (int) part->rows, .k = (int) w->in,
                .y_stride = w->rows }, cb->stream), "matmul");
        }
        col += part->rows;
    }
}

/* In fp32, some rows at a time: for what cuBLASLt does not take. */
static void
linear_through_fp32(struct cuda_backend *cb, const struct linear_args *args,
                    const void *x, int num)
{
    const struct weight  *w = args->weight;
    int64_t               n = args->y.shape[1];
    int  most = (int) (cb->product_bytes / ((size_t) w->rows * sizeof(float)));
    check(most >= 1);
    for (int first = 0; first < num; first += most) {
        int  rest = num - first, part = rest < most ? rest : most;
        matmul_f32(cb, w, at_byte(x, first * w->in, args->x.dtype),
                   args->x.dtype, part, cb->product);
        (void) cuda_keep(cb, epilogue_launch(&(struct epilogue_params) {
            .y = at_byte(args->y.data, first * n, args->y.dtype),
            .acc = cb->product, .bias = w->bias,
            .dtype = cuda_kernel_dtype(args->y.dtype), .num = part,
            .n = (int) n, .add = args->epilogue == EPILOGUE_ADD,
            .silu_mul = args->epilogue == EPILOGUE_SILU_MUL,
            .pdl = cuda_overlap(cb) }, cb->stream), "linear epilogue");
    }
}

/* What follows rows first .. first + num - 1, whose product is there. */
static void
linear_epilogue(struct cuda_backend *cb, const struct linear_args *args,
                int first, int num, bool all)
{
    int64_t  n = args->y.shape[1];
    void    *y = at_byte(args->y.data, first * n, args->y.dtype);
    switch (args->epilogue) {
    case EPILOGUE_NONE:
        return;
    case EPILOGUE_ADD:
        cb->pending.y = y;
        cb->pending.dtype = args->y.dtype;
        cb->pending.num = num;
        cb->pending.n = (int) n;
        if (!all) {
            cuda_flush(cb);
        }
        return;
    case EPILOGUE_SILU_MUL:
        (void) cuda_keep(cb, silu_mul_launch(&(struct product_params) {
            .y = y, .product = cb->product,
            .dtype = cuda_kernel_dtype(args->y.dtype), .num = num,
            .n = (int) n, .pdl = cuda_overlap(cb) }, cb->stream), "silu_mul");
        return;
    }
}

/* Few rows, read once with everything around them; false when not taken. */
static bool
linear_gemv(struct cuda_backend *cb, const struct linear_args *args,
            const void *x, int num)
{
    const struct weight  *w = args->weight;
    struct gemv_params    p = {
        .y = args->y.data, .x = x, .w = w->part[0].data, .bias = w->bias,
        .dtype = cuda_kernel_dtype(args->x.dtype), .num = num,
        .n = (int) args->y.shape[1], .k = (int) w->in,
        .add = args->epilogue == EPILOGUE_ADD,
        .silu_mul = args->epilogue == EPILOGUE_SILU_MUL };
    if (cb->simple_kernels || cb->invariant || num > GEMV_ROWS_MAX
        || w->num_parts != 1
        || w->part[0].dtype != args->x.dtype || !gemv_takes(&p))
    {
        return false;
    }
    p.overlap = cuda_overlap(cb);
    (void) cuda_keep(cb, gemv_launch(&p, cb->stream), "gemv");
    return true;
}

/* Is kernels/gemm_sm90.cu for this product?  Where it is faster, or always when a
 * row must not depend on their number. */
static bool
wants_gemm(const struct cuda_backend *cb, const struct weight *w,
           const struct gemm_params *p, enum dtype x_dtype)
{
    int   most = p->silu_mul ? GEMM_ROWS_SILU_MUL
                 : p->y_f32 ? GEMM_ROWS_F32 : GEMM_ROWS_OTHER;
    bool  faster = p->num >= GEMM_ROWS_MIN && p->num <= most
                   && w->rows * w->in >= GEMM_ELEMS_MIN;
    return !cb->simple_kernels && (cb->invariant || faster)
           && w->num_parts == 1 && w->part[0].dtype == x_dtype
           && gemm_takes(p);
}

/* GEMM_ROWS_MAX rows at a time. */
static void
gemm_rows(struct cuda_backend *cb, struct gemm_params *p, size_t elem_bytes)
{
    int          num = p->num;
    const char  *x = p->x;
    char        *y = p->y;
    size_t       x_row = (size_t) p->k * elem_bytes;
    size_t       y_row = (size_t) p->n * (p->y_f32 ? sizeof(float)
                                                   : elem_bytes);
    for (int first = 0; first < num; first += GEMM_ROWS_MAX) {
        p->num = num - first < GEMM_ROWS_MAX ? num - first : GEMM_ROWS_MAX;
        p->x = x + (size_t) first * x_row;
        p->y = y + (size_t) first * y_row;
        p->overlap = cuda_overlap(cb);
        (void) cuda_keep(cb, gemm_launch(p, cb->stream), "gemm");
    }
}

/* False, and nothing done, when cuBLASLt does not take it. */
static bool
linear_direct(struct cuda_backend *cb, const struct linear_args *args,
              const void *x, int num)
{
    const struct weight  *w = args->weight;
    enum dtype            dtype = args->y.dtype;
    bool                  add = args->epilogue == EPILOGUE_ADD
                                && num > CUDA_DECODE_ROWS_MAX
                                && !cb->invariant
                                && (size_t) num * (size_t) w->rows
                                   * dtype_bytes(dtype) <= cb->product_bytes;
    bool                  to_y = args->epilogue == EPILOGUE_NONE || add;
    const void           *bias = w->bias == NULL ? NULL
                                 : dtype == DTYPE_F32 ? (void *) w->bias
                                 : dtype == w->part[0].dtype ? w->bias16
                                                             : NULL;
    int  most = to_y ? num : (int) (cb->product_bytes
                                    / ((size_t) w->rows * dtype_bytes(dtype)));
    check(most >= 1);
    if (w->num_parts != 1 || (w->bias != NULL && bias == NULL)) {
        return false;
    }
    for (int first = 0; first < num; first += most) {
        int               rest = num - first, part = rest < most ? rest : most;
        struct cuda_gemm  g = {
            .y = to_y ? args->y.data : cb->product,
            .x = at_byte(x, first * w->in, args->x.dtype),
            .w = w->part[0].data, .bias = bias, .y_dtype = dtype,
            .x_dtype = args->x.dtype, .w_dtype = w->part[0].dtype,
            .num = part, .n = w->rows, .k = w->in, .y_stride = w->rows,
            .add = add };
        if (!cuda_gemm_run(cb, &g)) {
            check_eq(first, 0);
            return false;
        }
        if (!to_y) {
            linear_epilogue(cb, args, first, part, part == num);
        }
    }
    return true;
}

void
cuda_linear(struct backend *be, const struct linear_args *args)
{
    struct cuda_backend  *cb = cuda_of(be);
    const struct weight  *w = args->weight;
    const void           *x = args->x.data;
    check(w->kind == WEIGHT_LINEAR || w->kind == WEIGHT_GATE_UP);
    check((w->kind == WEIGHT_GATE_UP)
          == (args->epilogue == EPILOGUE_SILU_MUL));
    cuda_check_activation(cb, &args->x, w->in);
    cuda_check_activation(cb, &args->y, w->kind == WEIGHT_GATE_UP ? w->rows / 2
                                                             : w->rows);
    check(args->y.dtype == args->x.dtype);
    check_le(w->rows, 2 * (int64_t) cb->limits.row_elems_max);
    int  num = cuda_rows_of(cb, &args->x), y_rows = cuda_rows_of(cb, &args->y);
    num = num < y_rows ? num : y_rows;
    if (cuda_fuse_linear(cb, args)) {
        return;
    }
    struct gemm_params  p = {
        .y = args->y.data,
        .x = args->norm.weight != NULL ? cb->normed : args->x.data,
        .w = w->part[0].data, .bias = w->bias, .limits = &cb->gemm_limits,
        .dtype = cuda_kernel_dtype(args->x.dtype), .num = num,
        .n = (int) args->y.shape[1], .k = (int) w->in,
        .add = args->epilogue == EPILOGUE_ADD,
        .silu_mul = args->epilogue == EPILOGUE_SILU_MUL };
    bool  gemm = wants_gemm(cb, w, &p, args->x.dtype);
    if (args->norm.weight != NULL) {
        x = norm_rows(cb, &args->x, &args->norm, NULL, num, gemm);
    }
    cuda_flush(cb);
    if (gemm) {
        gemm_rows(cb, &p, dtype_bytes(args->x.dtype));
    } else if (!linear_gemv(cb, args, x, num)
               && !cuda_linear_large(cb, args, x, num)
               && !linear_direct(cb, args, x, num))
    {
        linear_through_fp32(cb, args, x, num);
    }
}

void
cuda_lm_head(struct backend *be, const struct lm_head_args *args)
{
    struct cuda_backend  *cb = cuda_of(be);
    const struct weight  *w = args->weight;
    int                   num = cb->logit_rows < args->logits.shape[0]
                                ? cb->logit_rows
                                : (int) args->logits.shape[0];
    check(w->kind == WEIGHT_LINEAR || w->kind == WEIGHT_EMBEDDING);
    cuda_check_activation(cb, &args->x, w->in);
    check(args->logits.dtype == DTYPE_F32 && w->bias == NULL);
    check_eq(args->logits.shape[1], w->rows);
    check_le(cb->step.num_logits, args->logits.shape[0]);
    check_le(w->in, cb->limits.row_elems_max);
    if (num == 0 || cuda_fuse_lm_head(cb, args)) {
        return;
    }
    struct gemm_params  p = {
        .y = args->logits.data, .x = cb->normed, .w = w->part[0].data,
        .limits = &cb->gemm_limits,
        .dtype = cuda_kernel_dtype(args->x.dtype), .num = num,
        .n = (int) w->rows, .k = (int) w->in, .y_f32 = 1 };
    bool  gemm = wants_gemm(cb, w, &p, args->x.dtype);
    cuda_flush(cb);
    if (args->norm.weight != NULL) {
        (void) norm_rows(cb, &args->x, &args->norm, cb->dev.logits_idx, num,
                         gemm);
    } else {
        enum kernel_dtype  dtype = cuda_kernel_dtype(args->x.dtype);
        (void) cuda_keep(cb, gather_launch(&(struct gather_params) {
            .y = cb->normed, .x = args->x.data, .ids = cb->dev.logits_idx,
            .y_dtype = dtype, .x_dtype = dtype, .num = num,
            .n = (int) w->in, .pdl = cuda_overlap(cb) }, cb->stream),
            "gather of logits rows");
    }
    struct gemv_params  few = {
        .y = p.y, .x = p.x, .w = p.w, .dtype = p.dtype, .num = num, .n = p.n,
        .k = p.k, .y_f32 = 1 };
    if (gemm) {
        gemm_rows(cb, &p, dtype_bytes(args->x.dtype));
    } else if (!cb->simple_kernels && !cb->invariant && num <= GEMV_ROWS_MAX
               && w->num_parts == 1 && w->part[0].dtype == args->x.dtype
               && gemv_takes(&few))
    {
        few.overlap = cuda_overlap(cb);
        (void) cuda_keep(cb, gemv_launch(&few, cb->stream), "gemv");
    } else {
        matmul_f32(cb, w, cb->normed, args->x.dtype, num, args->logits.data);
    }
}
