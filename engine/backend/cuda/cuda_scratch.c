/* cuda_scratch.c - reserve(): everything that steps need, allocated once. */
#include "engine/backend/cuda/cuda_internal.h"
#include "engine/base/check.h"
#include "engine/base/minmax.h"

#include <stdlib.h>

#define FILL_BYTE        0xff     /* NaN in every dtype */

/* ---- release --------------------------------------------------------------------- */

void
cuda_release_step(struct cuda_backend *cb)
{
    void *const  device[] = { cb->normed, cb->product, cb->partial_out,
                              cb->partial_ml, cb->counters, cb->step_device };
    cuda_graphs_drop(cb);
    cuda_fuse_release(cb);
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) {
        cuda_free(&cb->base, device[i]);
    }
    for (int i = 0; i < 2; i++) {
        if (cb->half[i].host != NULL) {
            (void) cudaFreeHost(cb->half[i].host);
        }
        if (cb->half[i].unpacked != NULL) {
            (void) cudaEventDestroy(cb->half[i].unpacked);
        }
        cb->half[i] = (struct cuda_half) { .host = NULL };
    }
    cb->normed = NULL;
    cb->product = NULL;
    cb->partial_out = NULL;
    cb->partial_ml = NULL;
    cb->counters = NULL;
    cb->step_device = NULL;
    free(cb->seq_tables);
    free(cb->seq_rows);
    free(cb->drafts);
    cb->seq_tables = cb->seq_rows = NULL;
    cb->drafts = NULL;
    cuda_sample_release(cb);
}

/* ---- reserve ----------------------------------------------------------------------- */

static int
reserve_one(struct cuda_backend *cb, size_t bytes, int fill, void **out,
            struct err *err)
{
    if (cuda_alloc(&cb->base, bytes, out, err) != OK) {
        return err_prefix(err, "scratch of a step");
    }
    cb->ops.fill(&cb->base, *out, fill, bytes);
    return OK;
}

static int
reserve_scratch(struct cuda_backend *cb, const struct backend_limits *l,
                struct err *err)
{
    size_t  tokens = (size_t) max_int(l->max_num_batched_tokens,
                                      l->max_num_logits);
    size_t  row = (size_t) l->row_elems_max, seqs = (size_t) l->max_num_seqs;
    size_t  heads = row / CUDA_HEAD_DIM_MIN + 1;
    size_t  splits = (size_t) cb->max_splits;
    size_t  product_rows = (size_t) min_int((int) tokens, CUDA_PRODUCT_ROWS);
    void   *normed, *product, *partial_out, *partial_ml, *counters;
    cb->product_bytes = product_rows * 2 * row * sizeof(float);
    if (reserve_one(cb, tokens * row * sizeof(float), FILL_BYTE, &normed, err)
        != OK)
    {
        return ERROR;
    }
    cb->normed = normed;
    if (reserve_one(cb, cb->product_bytes, FILL_BYTE, &product, err) != OK) {
        return ERROR;
    }
    cb->product = product;
    if (reserve_one(cb, splits * row * sizeof(float), FILL_BYTE, &partial_out,
                    err) != OK)
    {
        return ERROR;
    }
    cb->partial_out = partial_out;
    if (reserve_one(cb, splits * heads * 2 * sizeof(float), FILL_BYTE,
                    &partial_ml, err) != OK)
    {
        return ERROR;
    }
    cb->partial_ml = partial_ml;
    if (reserve_one(cb, seqs * heads * sizeof(unsigned int), 0, &counters, err)
        != OK)
    {
        return ERROR;
    }
    cb->counters = counters;
    return OK;
}

/* Addresses of a step's arrays, and two halves of pinned memory. */
static int
reserve_arrays(struct cuda_backend *cb, const struct backend_limits *l,
               struct err *err)
{
    size_t  tokens = (size_t) l->max_num_batched_tokens;
    size_t  seqs = (size_t) l->max_num_seqs, total = 0, at = 0;
    size_t  prefill = tokens / ATTENTION_ROWS + seqs;
    int     shares = cb->num_sms * ATTENTION_DECODE_WARPS;
    void   *device;
    cb->shared_max = decode_plan_items_max(l->max_num_seqs,
                                           CUDA_SHARE_HEADS_MAX, shares);
    const size_t  bytes[] = {
        tokens * sizeof(int32_t), tokens * sizeof(int32_t),
        tokens * sizeof(int32_t), tokens * sizeof(int32_t),
        (size_t) l->max_num_logits * sizeof(int32_t),
        seqs * (size_t) l->max_blocks_per_seq * sizeof(int32_t),
        (size_t) cb->max_splits * sizeof(struct attention_item),
        prefill * sizeof(struct attention_item),
        (size_t) cb->shared_max * sizeof(struct decode_item),
        ((size_t) shares + 1) * sizeof(int32_t), sizeof(int32_t) };
    void **const  arrays[] = {
        (void **) &cb->dev.input_ids, (void **) &cb->dev.positions,
        (void **) &cb->dev.slot_mapping, (void **) &cb->dev.row_table,
        (void **) &cb->dev.logits_idx, (void **) &cb->dev.block_tables,
        (void **) &cb->dev.decode, (void **) &cb->dev.prefill,
        (void **) &cb->dev.shared, (void **) &cb->dev.shared_first,
        (void **) &cb->dev.num_decode };
    _Static_assert(sizeof bytes / sizeof *bytes
                   == sizeof cb->dev_bytes / sizeof *cb->dev_bytes, "all");
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
        cb->dev_bytes[i] = cuda_align(bytes[i]);
        total += cb->dev_bytes[i];
    }
    if (total >= UINT32_MAX) {           /* unpack_segment.dst */
        return err_set(err, "step arrays of %zu sequences of %d tokens take "
                       "%zu bytes, the limit is %u: lower --max-num-seqs or "
                       "--max-model-len", seqs, l->max_model_len, total,
                       UINT32_MAX);
    }
    if (reserve_one(cb, total, FILL_BYTE, &device, err) != OK) {
        return ERROR;
    }
    cb->step_device = device;
    cb->step_bytes = total;
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
        *arrays[i] = cb->step_device + at;
        at += cb->dev_bytes[i];
    }
    cb->seq_tables = calloc(seqs, sizeof *cb->seq_tables);
    cb->seq_rows = calloc(seqs, sizeof *cb->seq_rows);
    cb->drafts = calloc(2 * (size_t) cb->shared_max, sizeof *cb->drafts);
    if (cb->seq_tables == NULL || cb->seq_rows == NULL || cb->drafts == NULL) {
        return err_set(err, "out of memory for %zu sequences", seqs);
    }
    for (int i = 0; i < 2; i++) {
        void         *host = NULL;
        cudaError_t   e = cudaMallocHost(&host, total);
        cb->half[i].host = host;
        if (e == cudaSuccess) {
            e = cudaEventCreateWithFlags(&cb->half[i].unpacked,
                                         cudaEventDisableTiming);
        }
        if (e != cudaSuccess) {
            return err_set(err, "%zu bytes of pinned memory for step arrays: "
                           "%s; lower --max-num-seqs or --max-model-len",
                           total, cudaGetErrorString(e));
        }
    }
    return OK;
}

int
cuda_reserve(struct backend *be, const struct backend_limits *limits,
             struct err *err)
{
    struct cuda_backend    *cb = (struct cuda_backend *) be;
    struct backend_limits   l = backend_limits_max(&cb->limits, limits);
    check(!cb->in_step);
    check_eq(cb->samples_issued, cb->samples_collected);
    check(l.max_num_batched_tokens >= 1 && l.max_num_seqs >= 1);
    if (cb->ops.sync(be, err) != OK) {
        return ERROR;
    }
    cuda_release_step(cb);
    cb->limits = (struct backend_limits) { .max_num_seqs = 0 };
    cb->max_splits = cb->invariant
                     ? l.max_num_seqs * cuda_splits_of(l.max_model_len)
                     : l.max_num_seqs * CUDA_SPLITS_PER_SEQ
                       + CUDA_SPLITS_EXTRA;
    if (reserve_scratch(cb, &l, err) != OK || reserve_arrays(cb, &l, err) != OK
        || cuda_sample_reserve(cb, &l, err) != OK
        || cuda_fuse_reserve(cb, err) != OK)
    {
        return ERROR;
    }
    cb->limits = l;
    return cb->ops.sync(be, err);
}
