/* cpu_ops.c - the op table's math, cut into work items.
 *
 * An item is a range of weight rows for a tile of activation rows, or one
 * (row, kv head) of attention; results of different items never meet in a
 * sum.  That, and kernels with a fixed order, is all there is to exactness.
 * Rounding to T happens where backend.h says and nowhere else. */
#include "engine/backend/cpu/cpu_backend_internal.h"
#include "engine/base/check.h"

#include <string.h>

/* Rows below this many are prepared by the caller: waking workers costs more. */
#define CPU_ROWS_PARALLEL_MIN  8

static struct cpu_backend *
cpu_of(struct backend *be)
{
    struct cpu_backend  *cb = (struct cpu_backend *) be;
    check(cb->in_step);
    return cb;
}

static void
check_activation(const struct cpu_backend *cb, const struct tensor *t,
                 int64_t row_elems)
{
    check(t->dtype != DTYPE_NONE);
    check_eq(t->ndim, 2);
    check_eq(t->shape[1], row_elems);
    check_le(cb->step.num_tokens, t->shape[0]);
}

/* Address of row `row` of a 2-D tensor, `col` elements in. */
static void *
row_at(const struct tensor *t, int64_t row, int64_t col)
{
    size_t  elem = (size_t) (row * t->shape[1] + col);
    return (char *) t->data + elem * dtype_bytes(t->dtype);
}

/* Rounds x[0..n) to dtype in place; room holds n elements. */
static void
round_to(const struct cpu_kernels *kernels, enum dtype dtype, float *x,
         int64_t n, void *room)
{
    if (dtype != DTYPE_F32) {
        kernels->narrow(room, dtype, x, n);
        kernels->widen(x, room, dtype, n);
    }
}

static void
run_rows(struct cpu_backend *cb, cpu_pool_fn *fn, void *job, int num_rows)
{
    if (num_rows >= CPU_ROWS_PARALLEL_MIN) {
        cpu_pool_run(cb->pool, fn, job, num_rows);
        return;
    }
    for (int i = 0; i < num_rows; i++) {
        fn(job, i, 0);
    }
}

/* ---- embed ---------------------------------------------------------------- */

void
cpu_embed(struct backend *be, struct tensor x, const struct weight *w)
{
    struct cpu_backend            *cb = cpu_of(be);
    const struct cpu_weight_part  *part = &w->part[0];
    size_t                         row_bytes = (size_t) w->in
                                               * dtype_bytes(part->dtype);
    check(w->kind == WEIGHT_EMBEDDING);
    check_activation(cb, &x, w->in);
    for (int i = 0; i < cb->step.num_tokens; i++) {
        int32_t  id = cb->step.input_ids[i];
        check(id >= 0 && id < part->rows);
        const char  *src = (const char *) part->data + (size_t) id * row_bytes;
        if (part->dtype == x.dtype) {
            memcpy(row_at(&x, i, 0), src, row_bytes);
            continue;
        }
        cb->kernels->widen(cb->scratch[0].row, src, part->dtype, w->in);
        cb->kernels->narrow(row_at(&x, i, 0), x.dtype, cb->scratch[0].row,
                            w->in);
    }
}

/* ---- matrix times rows ------------------------------------------------------ */

/* One tile of activation rows times one weight. */
struct matmul_job {
    struct cpu_backend   *cb;
    const struct weight  *weight;
    const struct tensor  *x;
    const int32_t        *row_idx;   /* rows of x to take; NULL: in order */
    int                   first_row; /* of the tile, in y */
    int                   num_rows;  /* of the tile */
    struct norm           norm;
    struct tensor         y;
    enum linear_epilogue  epilogue;
    int64_t               item_rows; /* weight rows per item */
};

/* Row i of the tile: fp32, normed, rounded, zero padded. */
static void
matmul_prepare(void *data, int i, int worker_idx)
{
    struct matmul_job         *job = data;
    struct cpu_backend        *cb = job->cb;
    const struct cpu_kernels  *kernels = cb->kernels;
    int64_t                    in = job->weight->in;
    float                     *x = cb->x + i * cpu_pad(in);
    int64_t                    row = job->first_row + i;
    if (job->row_idx != NULL) {
        row = job->row_idx[row];
    }
    kernels->widen(x, row_at(job->x, row, 0), job->x->dtype, in);
    if (job->norm.weight != NULL) {
        kernels->rmsnorm(x, job->norm.weight->vector, in, job->norm.eps);
        round_to(kernels, job->x->dtype, x, in, cb->scratch[worker_idx].row);
    }
}

/* out[m * item_rows + r] = round(weight row (first + r) of `part` . x row m
 * + bias); logits are fp32, for which round() does nothing */
static void
matmul_part(const struct matmul_job *job, const struct cpu_weight_part *part,
            int64_t first, int num, struct cpu_scratch *s, float *out)
{
    size_t  row_bytes = (size_t) job->weight->in * dtype_bytes(part->dtype);
    struct cpu_dot  dot = {
        .w = (const char *) part->data + (size_t) first * row_bytes,
        .w_dtype = part->dtype,
        .num_rows = num,
        .num_x = job->num_rows,
        .k = job->weight->in,
        .x = job->cb->x,
        .out = out,
        .out_stride = job->item_rows,
        .scratch = s->wide,
    };
    job->cb->kernels->dot(&dot);
    for (int m = 0; m < job->num_rows; m++) {
        float   wide[CPU_ITEM_ROWS_MAX + CPU_LANES], room[CPU_ITEM_ROWS_MAX];
        float  *o = out + m * job->item_rows;
        for (int r = 0; part->bias != NULL && r < num; r++) {
            o[r] += part->bias[first + r];
        }
        if (job->epilogue != EPILOGUE_NONE) {
            /* not in place: widen() writes whole vectors */
            memcpy(wide, o, (size_t) num * sizeof *o);
            round_to(job->cb->kernels, job->y.dtype, wide, num, room);
            memcpy(o, wide, (size_t) num * sizeof *o);
        }
    }
}

/* Writes `num` columns from `col` on of every row of the tile. */
static void
matmul_store(const struct matmul_job *job, int64_t col, int num,
             struct cpu_scratch *s)
{
    const struct cpu_kernels  *kernels = job->cb->kernels;
    for (int m = 0; m < job->num_rows; m++) {
        float  *out = s->out_a + m * job->item_rows;
        void   *y = row_at(&job->y, job->first_row + m, col);
        switch (job->epilogue) {
        case EPILOGUE_NONE:
            break;
        case EPILOGUE_ADD: {
            float  before[CPU_ITEM_ROWS_MAX];
            kernels->widen(before, y, job->y.dtype, num);
            for (int r = 0; r < num; r++) {
                out[r] += before[r];
            }
            break;
        }
        case EPILOGUE_SILU_MUL:
            kernels->silu_mul(out, s->out_b + m * job->item_rows, num);
            break;
        }
        kernels->narrow(y, job->y.dtype, out, num);
    }
}

static int
min_rows(int64_t a, int64_t b)
{
    return (int) (a < b ? a : b);
}

/* Item -> a range of rows within one part (of both, for gate and up). */
static void
matmul_item(void *data, int item_idx, int worker_idx)
{
    struct matmul_job    *job = data;
    const struct weight  *w = job->weight;
    struct cpu_scratch   *s = &job->cb->scratch[worker_idx];
    int64_t               item = item_idx, col = 0;
    if (w->kind == WEIGHT_GATE_UP) {
        int64_t  first = item * job->item_rows;
        int      num = min_rows(job->item_rows, w->part[0].rows - first);
        matmul_part(job, &w->part[0], first, num, s, s->out_a);
        matmul_part(job, &w->part[1], first, num, s, s->out_b);
        matmul_store(job, first, num, s);
        return;
    }
    for (int p = 0; p < w->num_parts; p++) {
        int64_t  rows = w->part[p].rows;
        int64_t  num_items = (rows + job->item_rows - 1) / job->item_rows;
        if (item < num_items) {
            int64_t  first = item * job->item_rows;
            int      num = min_rows(job->item_rows, rows - first);
            matmul_part(job, &w->part[p], first, num, s, s->out_a);
            matmul_store(job, col + first, num, s);
            return;
        }
        item -= num_items;
        col += rows;
    }
    check(false);
}

static void
matmul_run(struct matmul_job *job, int num_rows)
{
    struct cpu_backend   *cb = job->cb;
    const struct weight  *w = job->weight;
    int64_t               rows = w->kind == WEIGHT_GATE_UP ? w->part[0].rows
                                                           : w->rows;
    int64_t  per_item = rows / (cb->num_threads * CPU_ITEMS_PER_THREAD);
    per_item -= per_item % CPU_ITEM_ROWS_MIN;
    per_item = per_item < CPU_ITEM_ROWS_MIN ? CPU_ITEM_ROWS_MIN : per_item;
    per_item = min_rows(per_item, CPU_ITEM_ROWS_MAX);
    job->item_rows = per_item;

    int64_t  num_items = 0;
    int      num_parts = w->kind == WEIGHT_GATE_UP ? 1 : w->num_parts;
    for (int p = 0; p < num_parts; p++) {
        num_items += (w->part[p].rows + per_item - 1) / per_item;
    }
    check_le(w->in, cb->row_pad);
    for (int first = 0; first < num_rows; first += CPU_X_ROWS) {
        job->first_row = first;
        job->num_rows = min_rows(num_rows - first, CPU_X_ROWS);
        run_rows(cb, matmul_prepare, job, job->num_rows);
        cpu_pool_run(cb->pool, matmul_item, job, (int) num_items);
    }
}

void
cpu_linear(struct backend *be, const struct linear_args *args)
{
    struct cpu_backend   *cb = cpu_of(be);
    const struct weight  *w = args->weight;
    check(w->kind == WEIGHT_LINEAR || w->kind == WEIGHT_GATE_UP);
    check((w->kind == WEIGHT_GATE_UP)
          == (args->epilogue == EPILOGUE_SILU_MUL));
    check_activation(cb, &args->x, w->in);
    check_activation(cb, &args->y, w->kind == WEIGHT_GATE_UP ? w->part[0].rows
                                                             : w->rows);
    check(args->norm.weight == NULL || args->norm.weight->in == w->in);
    check(args->y.dtype == args->x.dtype);
    struct matmul_job  job = {
        .cb = cb,
        .weight = w,
        .x = &args->x,
        .norm = args->norm,
        .y = args->y,
        .epilogue = args->epilogue,
    };
    matmul_run(&job, cb->step.num_tokens);
}

void
cpu_lm_head(struct backend *be, const struct lm_head_args *args)
{
    struct cpu_backend   *cb = cpu_of(be);
    const struct weight  *w = args->weight;
    check(w->kind == WEIGHT_LINEAR || w->kind == WEIGHT_EMBEDDING);
    check_activation(cb, &args->x, w->in);
    check(args->logits.dtype == DTYPE_F32);
    check_eq(args->logits.shape[1], w->rows);
    check_le(cb->step.num_logits, args->logits.shape[0]);
    struct matmul_job  job = {
        .cb = cb,
        .weight = w,
        .x = &args->x,
        .row_idx = cb->step.logits_idx,
        .norm = args->norm,
        .y = args->logits,
        .epilogue = EPILOGUE_NONE,
    };
    if (cb->step.num_logits > 0) {
        matmul_run(&job, cb->step.num_logits);
    }
}

/* ---- rotary embedding and the KV cache ------------------------------------- */

/* Where (layer, K or V, block 0, kv head) begins. */
static char *
kv_at(const struct kv_cache *kv, int layer_idx, int is_v, int kv_head)
{
    size_t  head_bytes = (size_t) kv->block_size * (size_t) kv->head_dim
                         * dtype_bytes(kv->dtype);
    size_t  block_bytes = head_bytes * (size_t) kv->num_kv_heads;
    size_t  plane = (size_t) layer_idx * 2 + (size_t) is_v;
    return (char *) kv->data + plane * (size_t) kv->num_blocks * block_bytes
           + (size_t) kv_head * head_bytes;
}

static size_t
kv_block_stride(const struct kv_cache *kv)
{
    return (size_t) kv->num_kv_heads * (size_t) kv->block_size
           * (size_t) kv->head_dim * dtype_bytes(kv->dtype);
}

static char *
kv_slot(const struct kv_cache *kv, char *base, int32_t slot)
{
    size_t  block_id = (size_t) (slot / kv->block_size);
    size_t  offset = (size_t) (slot % kv->block_size);
    return base + block_id * kv_block_stride(kv)
           + offset * (size_t) kv->head_dim * dtype_bytes(kv->dtype);
}

struct rope_job {
    struct cpu_backend                     *cb;
    const struct qk_norm_rope_append_args  *args;
};

/* A head of k or v, in x, to the row's slot. */
static void
append_head(const struct rope_job *job, int is_v, int kv_head, int32_t slot,
            float *x)
{
    const struct kv_cache  *kv = job->args->kv;
    char                   *base = kv_at(kv, job->args->layer_idx, is_v,
                                         kv_head);
    if (kv->dtype == DTYPE_F8_E4M3) {
        float  scale = kv_cache_scale(kv, job->args->layer_idx, is_v);
        for (int j = 0; j < kv->head_dim; j++) {
            x[j] /= scale;
        }
    }
    job->cb->kernels->narrow(kv_slot(kv, base, slot), kv->dtype, x,
                             kv->head_dim);
}

/* One head in fp32: norm (rounded), then the rotation (not rounded). */
static void
rope_head(struct rope_job *job, const struct norm *norm, const float *cos_sin,
          struct cpu_scratch *s)
{
    const struct cpu_kernels  *kernels = job->cb->kernels;
    int                        head_dim = job->args->kv->head_dim;
    int                        half = head_dim / 2;
    float                     *x = s->q;
    if (norm->weight != NULL) {
        kernels->rmsnorm(x, norm->weight->vector, head_dim, norm->eps);
        round_to(kernels, job->args->qkv.dtype, x, head_dim, s->row);
    }
    for (int j = 0; j < half; j++) {
        float  a = x[j], b = x[j + half];
        float  cos = cos_sin[j], sin = cos_sin[half + j];
        x[j] = a * cos - b * sin;
        x[j + half] = b * cos + a * sin;
    }
}

static void
rope_row(void *data, int row, int worker_idx)
{
    struct rope_job                        *job = data;
    struct cpu_backend                     *cb = job->cb;
    const struct qk_norm_rope_append_args  *a = job->args;
    const struct cpu_kernels               *kernels = cb->kernels;
    const struct kv_cache                  *kv = a->kv;
    struct cpu_scratch                     *s = &cb->scratch[worker_idx];
    int                                     head_dim = kv->head_dim;
    int32_t                                 slot = cb->step.slot_mapping[row];
    const float  *cos_sin = a->cos_sin
                            + (int64_t) cb->step.positions[row] * head_dim;

    for (int h = 0; h < a->num_heads; h++) {
        void  *q = row_at(&a->qkv, row, (int64_t) h * head_dim);
        kernels->widen(s->q, q, a->qkv.dtype, head_dim);
        rope_head(job, &a->q_norm, cos_sin, s);
        kernels->narrow(q, a->qkv.dtype, s->q, head_dim);
    }
    if (slot == SLOT_PADDING) {
        return;
    }
    check(slot >= kv->block_size);       /* never into the null block */
    check(slot / kv->block_size < kv->num_blocks);
    for (int h = 0; h < kv->num_kv_heads; h++) {
        int64_t      k_col = (int64_t) (a->num_heads + h) * head_dim;
        int64_t      v_col = k_col + (int64_t) kv->num_kv_heads * head_dim;
        kernels->widen(s->q, row_at(&a->qkv, row, k_col), a->qkv.dtype,
                       head_dim);
        rope_head(job, &a->k_norm, cos_sin, s);
        append_head(job, 0, h, slot, s->q);
        kernels->widen(s->q, row_at(&a->qkv, row, v_col), a->qkv.dtype,
                       head_dim);
        append_head(job, 1, h, slot, s->q);
    }
}

void
cpu_qk_norm_rope_append(struct backend *be,
                        const struct qk_norm_rope_append_args *args)
{
    struct cpu_backend     *cb = cpu_of(be);
    const struct kv_cache  *kv = args->kv;
    check_le(kv->head_dim, CPU_HEAD_DIM_MAX);
    check_eq(kv->head_dim % 2, 0);
    check_activation(cb, &args->qkv,
                     (int64_t) (args->num_heads + 2 * kv->num_kv_heads)
                     * kv->head_dim);
    struct rope_job  job = { cb, args };
    run_rows(cb, rope_row, &job, cb->step.num_tokens);
}

/* ---- attention --------------------------------------------------------------- */

struct attention_job {
    struct cpu_backend           *cb;
    const struct attention_args  *args;
};

/* Item -> (row, kv head): all query heads of one kv head. */
static void
attention_item(void *data, int item_idx, int worker_idx)
{
    struct attention_job         *job = data;
    struct cpu_backend           *cb = job->cb;
    const struct attention_args  *a = job->args;
    const struct kv_cache        *kv = a->kv;
    struct cpu_scratch           *s = &cb->scratch[worker_idx];
    int      row = item_idx / kv->num_kv_heads;
    int      kv_head = item_idx % kv->num_kv_heads;
    int      group = a->num_heads / kv->num_kv_heads;
    int64_t  head_pad = cpu_pad(kv->head_dim);
    int      position = cb->step.positions[row];
    int      key_begin = 0;
    if (a->sliding_window > 0 && position >= a->sliding_window) {
        key_begin = position - a->sliding_window + 1;
    }
    struct cpu_attention  c = {
        .q = s->q,
        .head_dim = kv->head_dim,
        .k = kv_at(kv, a->layer_idx, 0, kv_head),
        .v = kv_at(kv, a->layer_idx, 1, kv_head),
        .block_stride = (int64_t) kv_block_stride(kv),
        .block_table = cb->step.block_tables
                       + (int64_t) cb->row_seq[row]
                         * cb->step.max_blocks_per_seq,
        .block_size = kv->block_size,
        .key_begin = key_begin,
        .key_end = position + 1,
        .kv_dtype = kv->dtype,
        .dtype = a->out.dtype,
        .scale = a->scale * kv_cache_scale(kv, a->layer_idx, 0),
        .out_scale = kv_cache_scale(kv, a->layer_idx, 1),
        .scores = s->scores,
        .scores_stride = cb->scores_stride,
        .tile = s->tile,
        .out = s->attn_out,
    };
    for (int b = key_begin / kv->block_size; b <= position / kv->block_size;
         b++)
    {
        check(c.block_table[b] >= 0 && c.block_table[b] < kv->num_blocks);
    }
    for (int first = 0; first < group; first += CPU_HEADS_MAX) {
        c.num_heads = min_rows(group - first, CPU_HEADS_MAX);
        for (int h = 0; h < c.num_heads; h++) {
            int64_t  col = (int64_t) (kv_head * group + first + h)
                           * kv->head_dim;
            cb->kernels->widen(s->q + h * head_pad, row_at(&a->qkv, row, col),
                               a->qkv.dtype, kv->head_dim);
        }
        cb->kernels->attention(&c);
        for (int h = 0; h < c.num_heads; h++) {
            int64_t  col = (int64_t) (kv_head * group + first + h)
                           * kv->head_dim;
            cb->kernels->narrow(row_at(&a->out, row, col), a->out.dtype,
                                s->attn_out + h * head_pad, kv->head_dim);
        }
    }
}

void
cpu_attention(struct backend *be, const struct attention_args *args)
{
    struct cpu_backend     *cb = cpu_of(be);
    const struct kv_cache  *kv = args->kv;
    check_le(kv->head_dim, CPU_HEAD_DIM_MAX);
    check_eq(args->num_heads % kv->num_kv_heads, 0);
    check_activation(cb, &args->out,
                     (int64_t) args->num_heads * kv->head_dim);
    check_activation(cb, &args->qkv,
                     (int64_t) (args->num_heads + 2 * kv->num_kv_heads)
                     * kv->head_dim);
    struct attention_job  job = { cb, args };
    cpu_pool_run(cb->pool, attention_item, &job,
                 cb->step.num_tokens * kv->num_kv_heads);
}
