/* cuda_ops.c - the op table in terms of kernels/ and cuBLASLt.
 *
 * Arguments are checked as the CPU backend checks them.  A product writes its
 * result where it belongs when nothing follows; otherwise, and where cuBLASLt
 * cannot write y, its fp32 result goes to `acc` and an epilogue kernel rounds
 * it once.  A residual in 16 bits goes through acc too: with beta = 1
 * cuBLASLt 13 rounds the product before it adds y (seen on an H200: errors of
 * 32 times the bound where the sum cancels). */
#include "engine/backend/cuda/cuda_internal.h"
#include "engine/base/check.h"

static struct cuda_backend *
cuda_of(struct backend *be)
{
    struct cuda_backend  *cb = (struct cuda_backend *) be;
    check(cb->in_step);
    return cb;
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
    for (int i = 0; i < cb->step.num_tokens; i++) {
        int32_t  id = cb->step.input_ids[i];
        check(id >= 0 && id < part->rows);
    }
    (void) cuda_keep(cb, gather_launch(&(struct gather_params) {
        .y = x.data, .x = part->data, .ids = cb->dev.input_ids,
        .y_dtype = cuda_kernel_dtype(x.dtype),
        .x_dtype = cuda_kernel_dtype(part->dtype),
        .num = cb->step.num_tokens, .n = (int) w->in }, cb->stream), "embed");
}

/* ---- linear --------------------------------------------------------------------- */

static const void *
norm_rows(struct cuda_backend *cb, const struct tensor *x,
          const struct norm *norm, const int32_t *rows, int num)
{
    check_eq(norm->weight->in, x->shape[1]);
    check_le(x->shape[1], cb->limits.row_elems_max);
    (void) cuda_keep(cb, norm_launch(&(struct norm_params) {
        .y = cb->normed, .x = x->data, .weight = norm->weight->vector,
        .rows = rows, .dtype = cuda_kernel_dtype(x->dtype), .num = num,
        .n = (int) x->shape[1], .eps = norm->eps }, cb->stream), "rmsnorm");
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

/* Through acc, some rows at a time. */
static void
linear_through_acc(struct cuda_backend *cb, const struct linear_args *args,
                   const void *x)
{
    const struct weight  *w = args->weight;
    int64_t               n = args->y.shape[1];
    check_le(w->rows, 2 * (int64_t) cb->limits.row_elems_max);
    for (int first = 0; first < cb->step.num_tokens; first += cb->acc_rows) {
        int  rest = cb->step.num_tokens - first;
        int  num = rest < cb->acc_rows ? rest : cb->acc_rows;
        matmul_f32(cb, w, at_byte(x, first * w->in, args->x.dtype),
                   args->x.dtype, num, cb->acc);
        (void) cuda_keep(cb, epilogue_launch(&(struct epilogue_params) {
            .y = at_byte(args->y.data, first * n, args->y.dtype),
            .acc = cb->acc, .bias = w->bias,
            .dtype = cuda_kernel_dtype(args->y.dtype), .num = num,
            .n = (int) n, .add = args->epilogue == EPILOGUE_ADD,
            .silu_mul = args->epilogue == EPILOGUE_SILU_MUL }, cb->stream),
            "linear epilogue");
    }
}

void
cuda_linear(struct backend *be, const struct linear_args *args)
{
    struct cuda_backend  *cb = cuda_of(be);
    const struct weight  *w = args->weight;
    const void           *x = args->x.data;
    int                   num = cb->step.num_tokens;
    check(w->kind == WEIGHT_LINEAR || w->kind == WEIGHT_GATE_UP);
    check((w->kind == WEIGHT_GATE_UP)
          == (args->epilogue == EPILOGUE_SILU_MUL));
    check_activation(cb, &args->x, w->in);
    check_activation(cb, &args->y, w->kind == WEIGHT_GATE_UP ? w->rows / 2
                                                             : w->rows);
    check(args->y.dtype == args->x.dtype);
    if (args->norm.weight != NULL) {
        x = norm_rows(cb, &args->x, &args->norm, NULL, num);
    }
    struct cuda_gemm  g = {
        .y = args->y.data, .x = x, .w = w->part[0].data,
        .y_dtype = args->y.dtype, .x_dtype = args->x.dtype,
        .w_dtype = w->part[0].dtype, .num = num, .n = w->rows, .k = w->in,
        .y_stride = w->rows, .accumulate = args->epilogue == EPILOGUE_ADD };
    bool  direct = w->num_parts == 1 && w->bias == NULL
                   && (args->epilogue == EPILOGUE_NONE
                       || (g.accumulate && args->y.dtype == DTYPE_F32));
    if (!direct || !cuda_gemm_run(cb, &g)) {
        linear_through_acc(cb, args, x);
    }
}

void
cuda_lm_head(struct backend *be, const struct lm_head_args *args)
{
    struct cuda_backend  *cb = cuda_of(be);
    const struct weight  *w = args->weight;
    int                   num = cb->step.num_logits;
    check(w->kind == WEIGHT_LINEAR || w->kind == WEIGHT_EMBEDDING);
    check_activation(cb, &args->x, w->in);
    check(args->logits.dtype == DTYPE_F32 && w->bias == NULL);
    check_eq(args->logits.shape[1], w->rows);
    check_le(num, args->logits.shape[0]);
    check_le(w->in, cb->limits.row_elems_max);
    if (num == 0) {
        return;
    }
    if (args->norm.weight != NULL) {
        (void) norm_rows(cb, &args->x, &args->norm, cb->dev.logits_idx, num);
    } else {
        enum kernel_dtype  dtype = cuda_kernel_dtype(args->x.dtype);
        (void) cuda_keep(cb, gather_launch(&(struct gather_params) {
            .y = cb->normed, .x = args->x.data, .ids = cb->dev.logits_idx,
            .y_dtype = dtype, .x_dtype = dtype, .num = num,
            .n = (int) w->in }, cb->stream), "gather of logits rows");
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
        .head_dim = kv->head_dim, .block_shift = block_shift(kv) };
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
    for (int row = 0; row < cb->step.num_tokens; row++) {
        int32_t  slot = cb->step.slot_mapping[row];
        check(slot == SLOT_PADDING
              || (slot >= kv->block_size        /* never the null block */
                  && slot / kv->block_size < kv->num_blocks));
    }
    (void) cuda_keep(cb, rope_append_launch(&(struct rope_params) {
        .qkv = args->qkv.data,
        .q_norm = norm_vector(&args->q_norm, kv->head_dim),
        .k_norm = norm_vector(&args->k_norm, kv->head_dim),
        .q_eps = args->q_norm.eps, .k_eps = args->k_norm.eps,
        .cos_sin = args->cos_sin, .positions = cb->dev.positions,
        .slots = cb->dev.slot_mapping,
        .kv = kv_layer_of(kv, args->layer_idx),
        .dtype = cuda_kernel_dtype(args->qkv.dtype),
        .num = cb->step.num_tokens, .num_heads = args->num_heads },
        cb->stream), "rope and append");
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
        .window = args->sliding_window, .scale = args->scale,
        .positions = cb->dev.positions, .row_seq = cb->dev.row_seq,
        .block_tables = cb->dev.block_tables,
        .table_stride = cb->step.max_blocks_per_seq,
        .partial_out = cb->partial_out, .partial_ml = cb->partial_ml,
        .counters = cb->counters };
    if (cb->simple_kernels || !attention_tile_takes(&p)) {
        p.num = cb->step.num_tokens;
        (void) cuda_keep(cb, attention_simple_launch(&p, cb->stream),
                         "attention");
        return;
    }
    check_le(out_elems, cb->limits.row_elems_max);
    if (cb->num_decode > 0) {
        p.num = cb->num_decode;
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
