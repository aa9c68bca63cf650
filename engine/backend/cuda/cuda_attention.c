/* cuda_attention.c - qk_norm_rope_append() and attention(): which kernel. */
#include "engine/backend/cuda/cuda_internal.h"
#include "engine/base/check.h"

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
cuda_rope(struct cuda_backend *cb, const struct rope_params *p)
{
    bool  wide = !cb->simple_kernels && rope_wide_takes(p);
    (void) cuda_keep(cb, wide ? rope_wide_launch(p, cb->stream)
                              : rope_append_launch(p, cb->stream),
                     "rope and append");
}

void
cuda_qk_norm_rope_append(struct backend *be,
                         const struct qk_norm_rope_append_args *args)
{
    struct cuda_backend    *cb = cuda_of(be);
    const struct kv_cache  *kv = args->kv;
    check_le(kv->head_dim, KERNEL_HEAD_DIM_MAX);
    check_eq(kv->head_dim % 2, 0);
    cuda_check_activation(cb, &args->qkv,
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
        .num = cuda_rows_of(cb, &args->qkv), .num_heads = args->num_heads,
        .pdl = cuda_overlap(cb) };
    if (!cuda_fuse_rope(cb, &p)) {
        cuda_rope(cb, &p);
    }
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
    cuda_check_activation(cb, &args->out, out_elems);
    cuda_check_activation(cb, &args->qkv, out_elems + 2 * (int64_t) kv->num_kv_heads
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
        .counters = cb->counters, .pdl = cuda_overlap(cb) };
    cuda_flush(cb);
    learn_kv(cb, kv);
    if (cb->model != NULL && !cb->model->known) {
        cb->model->shares = !cb->simple_kernels
                            && attention_decode_sm90_takes(&p);
    }
    if (cuda_fuse_attention(cb, &p, args->out.dtype)) {
        return;
    }
    if (cb->simple_kernels || !attention_tile_takes(&p)) {
        p.num = cuda_rows_of(cb, &args->qkv);
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
