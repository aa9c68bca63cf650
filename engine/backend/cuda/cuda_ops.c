/* cuda_ops.c - the op table in terms of kernels/ and cuBLASLt.
 *
 * Arguments are checked as the CPU backend checks them.  A product writes its
 * result where it belongs when nothing follows, otherwise to `product`, for an
 * epilogue kernel.  A residual addition stays pending: the next linear(), which
 * norms what it is added to, does both in one kernel, and any other op or the
 * step's end does it before; with many rows cuBLASLt adds, which saves a pass
 * over memory.  What cuBLASLt does not take goes through fp32. */
#include "engine/backend/cuda/cuda_internal.h"
#include "engine/base/check.h"

static struct cuda_backend *
cuda_of(struct backend *be)
{
    struct cuda_backend  *cb = (struct cuda_backend *) be;
    check(cb->in_step);
    return cb;
}

/* Whether the kernel launched now may start before the last one has ended: not
 * the first of a step, see kernels.h. */
static int
overlap(struct cuda_backend *cb)
{
    int  on = cb->pdl && !cb->fresh;
    cb->fresh = false;
    return on;
}

void
cuda_flush(struct cuda_backend *cb)
{
    if (cb->pending.y != NULL) {
        (void) cuda_keep(cb, add_launch(&(struct product_params) {
            .y = cb->pending.y, .product = cb->product,
            .dtype = cuda_kernel_dtype(cb->pending.dtype),
            .num = cb->pending.num, .n = cb->pending.n, .pdl = overlap(cb) },
            cb->stream), "residual");
        cb->pending.y = NULL;
    }
}

/* Rows to compute for a tensor with room for so many. */
static int
rows_of(const struct cuda_backend *cb, const struct tensor *t)
{
    return cb->rows < t->shape[0] ? cb->rows : (int) t->shape[0];
}

static void
check_activation(const struct cuda_backend *cb, const struct tensor *t,
                 int64_t row_elems)
{
    check(t->dtype != DTYPE_NONE);
    check_eq(t->ndim, 2);
    check_eq(t->shape[1], row_elems);
    check_le(cb->step.num_tokens, t->shape[0]);
}

static void *
at_byte(const void *data, int64_t elems, enum dtype dtype)
{
    return (char *) (uintptr_t) data + (size_t) elems * dtype_bytes(dtype);
}

void
cuda_embed(struct backend *be, struct tensor x, const struct weight *w)
{
    struct cuda_backend            *cb = cuda_of(be);
    const struct cuda_weight_part  *part = &w->part[0];
    check(w->kind == WEIGHT_EMBEDDING);
    check_activation(cb, &x, w->in);
    check_lt(cb->id_max, part->rows);
    cuda_flush(cb);
    if (cb->model != NULL) {
        cb->model->num_ids = part->rows;
    }
    (void) cuda_keep(cb, gather_launch(&(struct gather_params) {
        .y = x.data, .x = part->data, .ids = cb->dev.input_ids,
        .y_dtype = cuda_kernel_dtype(x.dtype),
        .x_dtype = cuda_kernel_dtype(part->dtype),
        .num = rows_of(cb, &x), .n = (int) w->in, .pdl = overlap(cb) },
        cb->stream), "embed");
}

/* ---- linear --------------------------------------------------------------------- */

/* Does a pending addition to x on the way. */
static const void *
norm_rows(struct cuda_backend *cb, const struct tensor *x,
          const struct norm *norm, const int32_t *rows, int num)
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
        .n = (int) x->shape[1], .eps = norm->eps, .pdl = overlap(cb) },
        cb->stream), "rmsnorm");
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
            .pdl = overlap(cb) }, cb->stream), "linear epilogue");
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
            .n = (int) n, .pdl = overlap(cb) }, cb->stream), "silu_mul");
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
        .silu_mul = args->epilogue == EPILOGUE_SILU_MUL,
        .overlap = overlap(cb) };
    if (cb->simple_kernels || cb->invariant || num > GEMV_ROWS_MAX
        || w->num_parts != 1
        || w->part[0].dtype != args->x.dtype || !gemv_takes(&p))
    {
        return false;
    }
    (void) cuda_keep(cb, gemv_launch(&p, cb->stream), "gemv");
    return true;
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
    check_activation(cb, &args->x, w->in);
    check_activation(cb, &args->y, w->kind == WEIGHT_GATE_UP ? w->rows / 2
                                                             : w->rows);
    check(args->y.dtype == args->x.dtype);
    check_le(w->rows, 2 * (int64_t) cb->limits.row_elems_max);
    int  num = rows_of(cb, &args->x), y_rows = rows_of(cb, &args->y);
    num = num < y_rows ? num : y_rows;
    if (args->norm.weight != NULL) {
        x = norm_rows(cb, &args->x, &args->norm, NULL, num);
    }
    cuda_flush(cb);
    if (!linear_gemv(cb, args, x, num) && !linear_direct(cb, args, x, num)) {
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
    check_activation(cb, &args->x, w->in);
    check(args->logits.dtype == DTYPE_F32 && w->bias == NULL);
    check_eq(args->logits.shape[1], w->rows);
    check_le(cb->step.num_logits, args->logits.shape[0]);
    check_le(w->in, cb->limits.row_elems_max);
    if (num == 0) {
        return;
    }
    cuda_flush(cb);
    if (args->norm.weight != NULL) {
        (void) norm_rows(cb, &args->x, &args->norm, cb->dev.logits_idx, num);
    } else {
        enum kernel_dtype  dtype = cuda_kernel_dtype(args->x.dtype);
        (void) cuda_keep(cb, gather_launch(&(struct gather_params) {
            .y = cb->normed, .x = args->x.data, .ids = cb->dev.logits_idx,
            .y_dtype = dtype, .x_dtype = dtype, .num = num,
            .n = (int) w->in, .pdl = overlap(cb) }, cb->stream),
            "gather of logits rows");
    }
    struct gemv_params  p = {
        .y = args->logits.data, .x = cb->normed, .w = w->part[0].data,
        .dtype = cuda_kernel_dtype(args->x.dtype), .num = num,
        .n = (int) w->rows, .k = (int) w->in, .y_f32 = 1,
        .overlap = overlap(cb) };
    if (!cb->simple_kernels && !cb->invariant && num <= GEMV_ROWS_MAX
        && w->num_parts == 1
        && w->part[0].dtype == args->x.dtype && gemv_takes(&p))
    {
        (void) cuda_keep(cb, gemv_launch(&p, cb->stream), "gemv");
        return;
    }
    matmul_f32(cb, w, cb->normed, args->x.dtype, num, args->logits.data);
}

/* ---- rope, the cache, attention --------------------------------------------------- */

static int
block_shift(const struct kv_cache *kv)
{
    int  shift = __builtin_ctz((unsigned int) kv->block_size);
    check_eq(1 << shift, kv->block_size);
    return shift;
}

static struct kv_layer
kv_layer_of(const struct kv_cache *kv, int layer_idx)
{
    size_t  plane = (size_t) kv->num_blocks * (size_t) kv->num_kv_heads
                    * (size_t) kv->block_size * (size_t) kv->head_dim
                    * dtype_bytes(kv->dtype);
    char   *k = (char *) kv->data + 2 * (size_t) layer_idx * plane;
    check(layer_idx >= 0 && layer_idx < kv->num_layers);
    return (struct kv_layer) {
        .k = k, .v = k + plane, .dtype = cuda_kernel_dtype(kv->dtype),
        .num_blocks = kv->num_blocks, .num_kv_heads = kv->num_kv_heads,
        .head_dim = kv->head_dim, .block_shift = block_shift(kv),
        .k_scale = kv_cache_scale(kv, layer_idx, 0),
        .v_scale = kv_cache_scale(kv, layer_idx, 1) };
}

static const float *
norm_vector(const struct norm *norm, int64_t len)
{
    if (norm->weight == NULL) {
        return NULL;
    }
    check_eq(norm->weight->in, len);
    return norm->weight->vector;
}

/* See struct cuda_model: all layers of a model are alike in this. */
static void
learn_kv(struct cuda_backend *cb, const struct kv_cache *kv)
{
    struct cuda_model  *m = cb->model;
    if (m != NULL && !m->known) {
        m->block_size = kv->block_size;
        m->num_blocks = kv->num_blocks;
        m->num_kv_heads = kv->num_kv_heads;
        m->kv_fp8 = kv->dtype == DTYPE_F8_E4M3;
    }
}

void
cuda_qk_norm_rope_append(struct backend *be,
                         const struct qk_norm_rope_append_args *args)
{
    struct cuda_backend    *cb = cuda_of(be);
    const struct kv_cache  *kv = args->kv;
    check_le(kv->head_dim, KERNEL_HEAD_DIM_MAX);
    check_eq(kv->head_dim % 2, 0);
    check_activation(cb, &args->qkv,
                     (int64_t) (args->num_heads + 2 * kv->num_kv_heads)
                     * kv->head_dim);
    /* never the null block */
    check(cb->slot_max < 0 || cb->slot_min >= kv->block_size);
    check_lt(cb->slot_max / kv->block_size, kv->num_blocks);
    cuda_flush(cb);
    learn_kv(cb, kv);
    const struct rope_params  p = {
        .qkv = args->qkv.data,
        .q_norm = norm_vector(&args->q_norm, kv->head_dim),
        .k_norm = norm_vector(&args->k_norm, kv->head_dim),
        .q_eps = args->q_norm.eps, .k_eps = args->k_norm.eps,
        .cos_sin = args->cos_sin, .positions = cb->dev.positions,
        .slots = cb->dev.slot_mapping,
        .kv = kv_layer_of(kv, args->layer_idx),
        .dtype = cuda_kernel_dtype(args->qkv.dtype),
        .num = rows_of(cb, &args->qkv), .num_heads = args->num_heads,
        .pdl = overlap(cb) };
    bool  wide = !cb->simple_kernels && rope_wide_takes(&p);
    (void) cuda_keep(cb, wide ? rope_wide_launch(&p, cb->stream)
                              : rope_append_launch(&p, cb->stream),
                     "rope and append");
}

void
cuda_attention(struct backend *be, const struct attention_args *args)
{
    struct cuda_backend    *cb = cuda_of(be);
    const struct kv_cache  *kv = args->kv;
    int64_t                 out_elems = (int64_t) args->num_heads
                                        * kv->head_dim;
    check_le(kv->head_dim, KERNEL_HEAD_DIM_MAX);
    check_eq(args->num_heads % kv->num_kv_heads, 0);
    check_activation(cb, &args->out, out_elems);
    check_activation(cb, &args->qkv, out_elems + 2 * (int64_t) kv->num_kv_heads
                                                 * kv->head_dim);
    struct attention_params  p = {
        .out = args->out.data, .qkv = args->qkv.data,
        .qkv_stride = args->qkv.shape[1],
        .dtype = cuda_kernel_dtype(args->out.dtype),
        .kv = kv_layer_of(kv, args->layer_idx), .num_heads = args->num_heads,
        .window = args->sliding_window,
        .scale = args->scale * kv_cache_scale(kv, args->layer_idx, 0),
        .positions = cb->dev.positions, .row_table = cb->dev.row_table,
        .block_tables = cb->dev.block_tables, .num_items = cb->dev.num_decode,
        .decode_items = cb->dev.shared, .decode_first = cb->dev.shared_first,
        .decode_shares = cb->num_sms * ATTENTION_DECODE_WARPS,
        .decode_blocks = cb->num_sms,
        .partial_out = cb->partial_out, .partial_ml = cb->partial_ml,
        .counters = cb->counters, .pdl = overlap(cb) };
    cuda_flush(cb);
    learn_kv(cb, kv);
    if (cb->model != NULL && !cb->model->known) {
        cb->model->shares = !cb->simple_kernels
                            && attention_decode_sm90_takes(&p);
    }
    if (cb->simple_kernels || !attention_tile_takes(&p)) {
        p.num = rows_of(cb, &args->qkv);
        (void) cuda_keep(cb, attention_simple_launch(&p, cb->stream),
                         "attention");
        return;
    }
    check_le(out_elems, cb->limits.row_elems_max);
    if (cb->num_shares > 0) {
        (void) cuda_keep(cb, attention_decode_sm90_launch(&p, cb->stream),
                         "decode attention");
    }
    if (cb->num_decode > 0) {
        p.num = cb->max_splits;
        p.items = cb->dev.decode;
        (void) cuda_keep(cb, attention_decode_launch(&p, cb->stream),
                         "decode attention");
    }
    if (cb->num_prefill > 0) {
        p.num = cb->num_prefill;
        p.items = cb->dev.prefill;
        bool  sm90 = attention_prefill_sm90_takes(&p);
        (void) cuda_keep(cb, sm90 ? attention_prefill_sm90_launch(&p, cb->stream)
                                  : attention_prefill_launch(&p, cb->stream),
                         "prefill attention");
    }
}

/* ---- between steps ------------------------------------------------------------------ */

void
cuda_copy_blocks(struct backend *be, const struct kv_cache *kv,
                 const struct block_copy *copies, int num_copies)
{
    struct cuda_backend  *cb = (struct cuda_backend *) be;
    size_t                block_bytes = (size_t) kv->num_kv_heads
                                        * (size_t) kv->block_size
                                        * (size_t) kv->head_dim
                                        * dtype_bytes(kv->dtype);
    _Static_assert(sizeof *copies == 2 * sizeof(int32_t), "pairs, unpadded");
    for (int i = 0; i < num_copies; i++) {
        check(copies[i].src_block_id > 0
              && copies[i].src_block_id < kv->num_blocks);
        check(copies[i].dst_block_id > 0
              && copies[i].dst_block_id < kv->num_blocks);
    }
    for (int first = 0; first < num_copies; first += CUDA_COPIES_MAX) {
        int  rest = num_copies - first;
        int  num = rest < CUDA_COPIES_MAX ? rest : CUDA_COPIES_MAX;
        be->ops->upload(be, cb->copies, copies + first,
                        (size_t) num * sizeof *copies);
        (void) cuda_keep(cb, copy_blocks_launch(&(struct copy_params) {
            .data = kv->data, .pairs = cb->copies, .num = num,
            .num_planes = 2 * kv->num_layers,
            .plane_bytes = (size_t) kv->num_blocks * block_bytes,
            .block_bytes = block_bytes }, cb->stream), "copy of blocks");
    }
}
