/* cuda_step.c - sizes of a step, and its arrays in one upload.
 *
 * step_begin() packs the arrays and the attention work lists into pinned
 * memory and copies them to the device in one go; sizes are the step's, so a
 * small step is a small copy.
 *
 * WORK LISTS.  A sequence with one row is split by key position: chunks of 256
 * keys up to position 4096, of 2048 from there.  So a row's sum has the same
 * shape whatever it is batched with, except when the step needs more splits
 * than there is room for: then chunks double until it fits.  Longer queries
 * are cut into items of ATTENTION_ROWS rows, the last rows first, because they
 * see the most keys. */
#include "engine/backend/cuda/cuda_internal.h"
#include "engine/base/check.h"

#include <string.h>

#define CHUNK_KEYS       256
#define CHUNK_KEYS_LONG  2048
#define CHUNK_LONG_FROM  4096
#define FILL_BYTE        0xff     /* NaN in every dtype */

static int
max_int(int a, int b)
{
    return a > b ? a : b;
}

static int
min_int(int a, int b)
{
    return a < b ? a : b;
}

static struct backend_limits
limits_max(const struct backend_limits *a, const struct backend_limits *b)
{
    return (struct backend_limits) {
        .max_num_batched_tokens = max_int(a->max_num_batched_tokens,
                                          b->max_num_batched_tokens),
        .max_num_seqs = max_int(a->max_num_seqs, b->max_num_seqs),
        .max_num_logits = max_int(a->max_num_logits, b->max_num_logits),
        .max_blocks_per_seq = max_int(a->max_blocks_per_seq,
                                      b->max_blocks_per_seq),
        .max_model_len = max_int(a->max_model_len, b->max_model_len),
        .row_elems_max = max_int(a->row_elems_max, b->row_elems_max),
    };
}

/* ---- reserve ------------------------------------------------------------------ */

/* Bytes of the largest step: nine arrays, each aligned. */
static size_t
step_bytes_max(const struct cuda_backend *cb, const struct backend_limits *l)
{
    size_t  tokens = (size_t) l->max_num_batched_tokens;
    size_t  seqs = (size_t) l->max_num_seqs;
    size_t  ints = 4 * tokens + seqs * (size_t) l->max_blocks_per_seq
                   + (size_t) l->max_num_logits;
    size_t  items = seqs + (size_t) cb->max_splits
                    + tokens / ATTENTION_ROWS + seqs;
    return ints * sizeof(int32_t) + items * sizeof(struct attention_item)
           + 9 * CUDA_ALIGN;
}

void
cuda_release_step(struct cuda_backend *cb)
{
    void *const  device[] = { cb->normed, cb->acc, cb->partial_out,
                              cb->partial_ml, cb->counters, cb->step_device };
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) {
        cuda_free(&cb->base, device[i]);
    }
    if (cb->step_host != NULL) {
        (void) cudaFreeHost(cb->step_host);
    }
    cb->normed = NULL;
    cb->acc = NULL;
    cb->partial_out = NULL;
    cb->partial_ml = NULL;
    cb->counters = NULL;
    cb->step_device = NULL;
    cb->step_host = NULL;
}

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
    void   *normed, *acc, *partial_out, *partial_ml, *counters, *step;
    cb->acc_rows = min_int(l->max_num_batched_tokens, CUDA_ACC_ROWS);
    if (reserve_one(cb, tokens * row * sizeof(float), FILL_BYTE, &normed, err)
        != OK)
    {
        return ERROR;
    }
    cb->normed = normed;
    if (reserve_one(cb, (size_t) cb->acc_rows * 2 * row * sizeof(float),
                    FILL_BYTE, &acc, err) != OK)
    {
        return ERROR;
    }
    cb->acc = acc;
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
    if (reserve_one(cb, cb->step_bytes, FILL_BYTE, &step, err) != OK) {
        return ERROR;
    }
    cb->step_device = step;
    return OK;
}

int
cuda_reserve(struct backend *be, const struct backend_limits *limits,
             struct err *err)
{
    struct cuda_backend    *cb = (struct cuda_backend *) be;
    struct backend_limits   l = limits_max(&cb->limits, limits);
    void                   *host = NULL;
    check(!cb->in_step);
    check(l.max_num_batched_tokens >= 1 && l.max_num_seqs >= 1);
    if (cb->ops.sync(be, err) != OK) {
        return ERROR;
    }
    cuda_release_step(cb);
    cb->limits = (struct backend_limits) { .max_num_seqs = 0 };
    cb->max_splits = l.max_num_seqs * CUDA_SPLITS_PER_SEQ + CUDA_SPLITS_EXTRA;
    cb->step_bytes = step_bytes_max(cb, &l);
    cudaError_t  e = cudaMallocHost(&host, cb->step_bytes);
    if (e != cudaSuccess) {
        return err_set(err, "%zu bytes of pinned memory for step arrays: %s",
                       cb->step_bytes, cudaGetErrorString(e));
    }
    cb->step_host = host;
    if (reserve_scratch(cb, &l, err) != OK) {
        return ERROR;
    }
    cb->limits = l;
    return cb->ops.sync(be, err);
}

/* ---- a step ----------------------------------------------------------------------- */

/* The next array of the packed step; both addresses. */
struct packer {
    struct cuda_backend *cb;
    size_t               used;
};

static void *
pack_room(struct packer *p, size_t bytes, const void **device)
{
    void  *host = p->cb->step_host + p->used;
    *device = p->cb->step_device + p->used;
    p->used += cuda_align(bytes);
    check_le(p->used, p->cb->step_bytes);
    return host;
}

static const int32_t *
pack_ints(struct packer *p, const int32_t *src, int64_t num,
          const int32_t **device)
{
    const void  *dev;
    size_t       bytes = (size_t) num * sizeof *src;
    void        *host = pack_room(p, bytes, &dev);
    if (bytes > 0) {
        memcpy(host, src, bytes);
    }
    *device = dev;
    return host;
}

static int
chunk_end(int begin, int grow)
{
    int  chunk = begin < CHUNK_LONG_FROM ? CHUNK_KEYS : CHUNK_KEYS_LONG;
    return begin + (chunk << grow);
}

static int
count_splits(const struct step_inputs *in, int grow)
{
    int  total = 0;
    for (int s = 0; s < in->num_seqs; s++) {
        if (in->cu_seqlens_q[s + 1] - in->cu_seqlens_q[s] > 1) {
            continue;
        }
        for (int key = 0; key < in->context_lens[s];
             key = chunk_end(key, grow))
        {
            total++;
        }
    }
    return total;
}

static void
plan_decode(struct cuda_backend *cb, struct packer *p)
{
    const struct step_inputs  *in = &cb->step;
    const void                *dev;
    int                        grow = 0, num = count_splits(in, 0);
    /* a chunk of 2^30 keys holds any context: one split a sequence */
    while (num > cb->max_splits) {
        grow++;
        num = count_splits(in, grow);
    }
    struct attention_item  *items = pack_room(p, (size_t) num * sizeof *items,
                                              &dev);
    cb->dev.decode = dev;
    cb->num_decode = num;
    int  at = 0;
    for (int s = 0; s < in->num_seqs; s++) {
        int  row = in->cu_seqlens_q[s], first = at;
        if (in->cu_seqlens_q[s + 1] - row > 1) {
            continue;
        }
        for (int key = 0; key < in->context_lens[s];
             key = chunk_end(key, grow))
        {
            items[at] = (struct attention_item) {
                .seq = s, .row = row, .num_rows = 1,
                .position = in->context_lens[s] - 1, .key_begin = key,
                .key_end = min_int(chunk_end(key, grow),
                                   in->context_lens[s]),
                .partial = first, .part = at - first };
            at++;
        }
        for (int i = first; i < at; i++) {
            items[i].num_parts = at - first;
        }
    }
    check_eq(at, num);
}

static void
plan_prefill(struct cuda_backend *cb, struct packer *p)
{
    const struct step_inputs  *in = &cb->step;
    const void                *dev;
    int                        num = 0, at = 0;
    for (int s = 0; s < in->num_seqs; s++) {
        int  len = in->cu_seqlens_q[s + 1] - in->cu_seqlens_q[s];
        num += len > 1 ? (len + ATTENTION_ROWS - 1) / ATTENTION_ROWS : 0;
    }
    struct attention_item  *items = pack_room(p, (size_t) num * sizeof *items,
                                              &dev);
    cb->dev.prefill = dev;
    cb->num_prefill = num;
    for (int s = 0; s < in->num_seqs; s++) {
        int  row = in->cu_seqlens_q[s], len = in->cu_seqlens_q[s + 1] - row;
        int  last = len > 1 ? (len - 1) / ATTENTION_ROWS : -1;
        for (int i = last; i >= 0; i--) {
            int  rest = len - i * ATTENTION_ROWS;
            items[at++] = (struct attention_item) {
                .seq = s, .row = row + i * ATTENTION_ROWS,
                .num_rows = min_int(rest, ATTENTION_ROWS),
                .position = in->context_lens[s] - rest, .num_parts = 1 };
        }
    }
    check_eq(at, num);
}

/* The same facts that the CPU backend checks. */
static void
check_step(const struct cuda_backend *cb, int32_t *row_seq)
{
    const struct step_inputs  *s = &cb->step;
    check_eq(s->cu_seqlens_q[0], 0);
    check_eq(s->cu_seqlens_q[s->num_seqs], s->num_tokens);
    for (int seq = 0; seq < s->num_seqs; seq++) {
        int  begin = s->cu_seqlens_q[seq], end = s->cu_seqlens_q[seq + 1];
        check_lt(begin, end);
        check_le(s->context_lens[seq], cb->limits.max_model_len);
        for (int row = begin; row < end; row++) {
            check_eq(s->positions[row], s->context_lens[seq] - (end - row));
            check_le(0, s->positions[row]);
            row_seq[row] = seq;
        }
    }
    for (int i = 0; i < s->num_logits; i++) {
        check(s->logits_idx[i] >= 0 && s->logits_idx[i] < s->num_tokens);
    }
}

enum step_action
cuda_step_begin(struct backend *be, const struct step_inputs *in)
{
    struct cuda_backend          *cb = (struct cuda_backend *) be;
    const struct backend_limits  *l = &cb->limits;
    struct packer                 p = { cb, 0 };
    const void                   *row_seq_dev;

    check(!cb->in_step);
    check(in->num_tokens >= 1 && in->num_tokens <= l->max_num_batched_tokens);
    check(in->num_seqs >= 1 && in->num_seqs <= l->max_num_seqs);
    check(in->num_logits >= 0 && in->num_logits <= l->max_num_logits);
    check_le(in->max_blocks_per_seq, l->max_blocks_per_seq);
    (void) cuda_keep(cb, cudaSetDevice(cb->device_idx), "cudaSetDevice");
    (void) cuda_keep(cb, cudaEventSynchronize(cb->step_uploaded),
                     "the last step's upload");
    cb->step = *in;
    cb->step.input_ids = pack_ints(&p, in->input_ids, in->num_tokens,
                                   &cb->dev.input_ids);
    cb->step.positions = pack_ints(&p, in->positions, in->num_tokens,
                                   &cb->dev.positions);
    cb->step.slot_mapping = pack_ints(&p, in->slot_mapping, in->num_tokens,
                                      &cb->dev.slot_mapping);
    cb->step.logits_idx = pack_ints(&p, in->logits_idx, in->num_logits,
                                    &cb->dev.logits_idx);
    cb->step.block_tables = pack_ints(&p, in->block_tables,
                                      (int64_t) in->num_seqs
                                      * in->max_blocks_per_seq,
                                      &cb->dev.block_tables);
    int32_t  *row_seq = pack_room(&p, (size_t) in->num_tokens
                                  * sizeof *row_seq, &row_seq_dev);
    cb->dev.row_seq = row_seq_dev;
    check_step(cb, row_seq);
    plan_decode(cb, &p);
    plan_prefill(cb, &p);
    /* the caller's until step_begin() returns */
    cb->step.cu_seqlens_q = NULL;
    cb->step.context_lens = NULL;
    (void) cuda_keep(cb, cudaMemcpyAsync(cb->step_device, cb->step_host,
                                         p.used, cudaMemcpyHostToDevice,
                                         cb->stream), "upload of a step");
    (void) cuda_keep(cb, cudaEventRecord(cb->step_uploaded, cb->stream),
                     "upload of a step");
    cb->in_step = true;
    return STEP_ISSUE;
}

void
cuda_step_end(struct backend *be)
{
    struct cuda_backend  *cb = (struct cuda_backend *) be;
    check(cb->in_step);
    cb->in_step = false;
}
