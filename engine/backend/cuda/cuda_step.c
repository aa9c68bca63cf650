/* cuda_step.c - a step's arrays, packed and read by the device in one go.
 *
 * step_begin() packs the arrays and the attention work lists into pinned
 * memory; a kernel spreads them to fixed addresses, so sizes are the step's and
 * a small step is a small read, and ids that only the device knows are put in
 * on the way.  Two halves of pinned memory take turns.
 *
 * WORK LISTS.  A sequence with one row is split by key position: chunks of 256
 * keys up to position 4096, of 2048 from there.  So a row's sum has the same
 * shape whatever it is batched with, with four exceptions: when the step needs
 * more splits than there is room for, chunks double until it fits; when it
 * leaves most of the GPU without work, chunks are halved down to one tile; a
 * step in one launch has chunks that give every multiprocessor one item at most;
 * and in steps of more than a few rows on Hopper cuda_plan.c gives every
 * multiprocessor, and in large ones every warp, a share of all keys.
 * Batch-invariant, there is room for any step's splits and none of these.
 * Longer queries are cut into items of ATTENTION_ROWS rows, the last rows
 * first, because they see the most keys. */
#include "engine/backend/cuda/cuda_internal.h"
#include "engine/backend/cuda/cuda_plan.h"
#include "engine/base/check.h"
#include "engine/base/minmax.h"

#include <string.h>

#define CHUNK_KEYS        256
#define CHUNK_KEYS_LONG   2048
#define CHUNK_LONG_FROM   4096
#define GROW_MIN          (-2)     /* CHUNK_KEYS >> 2 is one tile */
#define FEW_BLOCKS_PER_SM 1
#define WORD              16       /* bytes the device reads at once */
#define SHARES_PER_SM     4        /* warps of a 16-bit cache's kernel */
#define BLOCK_ROWS_MIN    5        /* a multiprocessor a share: from so many rows */
#define BLOCK_TILES_MAX   8000     /* on, below so many tiles of 32 keys and one kv
                                      head, where a step is not one launch */
#define SHARE_TILES_MIN   12000    /* a warp a share: from so many tiles on, or, */
#define SHARE_WHOLE_MIN   8000     /* where no row is cut, so many */
#define SHARES_FP8_PER_SM 8        /* with an fp8 cache, from so many tiles */
#define SHARES_FP8_MIN    24000

/* ---- packing -------------------------------------------------------------------- */

/* The next array of the packed step. */
struct packer {
    struct cuda_backend   *cb;
    struct cuda_half      *half;
    size_t                 used;
    struct unpack_params   params;
};

/* Room for `bytes`, to go to the array at `device`. */
static void *
pack_room(struct packer *p, const void *device, size_t bytes)
{
    struct unpack_params  *params = &p->params;
    void                  *host = p->half->host + p->used;
    size_t                 words = (bytes + WORD - 1) / WORD;
    check_lt(params->num_segments, UNPACK_SEGMENTS_MAX);
    params->segments[params->num_segments++] = (struct unpack_segment) {
        .dst = (uint32_t) ((const char *) device - p->cb->step_device),
        .words = (int32_t) words };
    p->used += words * WORD;
    check_le(p->used, p->cb->step_bytes);
    return host;
}

/* `num` ints of src, then `fill` up to `padded`, then zeros. */
static void
pack_ints(struct packer *p, const void *device, const int32_t *src, int num,
          int padded, int32_t fill)
{
    size_t    bytes = (size_t) padded * sizeof *src;
    int32_t  *to = pack_room(p, device, bytes);
    int       end = (padded + 3) / 4 * 4;
    if (num > 0) {
        memcpy(to, src, (size_t) num * sizeof *src);
    }
    for (int i = num; i < end; i++) {
        to[i] = i < padded ? fill : 0;
    }
}

/* Tables one after the other, no more of each than its keys need; tables[s]
 * and row_table say where. */
static void
pack_tables(struct packer *p, const struct step_inputs *in, int32_t *tables)
{
    struct cuda_backend  *cb = p->cb;
    size_t                total = 0;
    int  block_size = cb->model != NULL && cb->model->block_size > 0
                      ? cb->model->block_size : CUDA_BLOCK_SIZE_MIN;
    for (int s = 0; s < in->num_seqs; s++) {
        int  num = (in->context_lens[s] + block_size - 1) / block_size;
        tables[s] = (int32_t) total;
        total += (size_t) min_int(num, in->max_blocks_per_seq);
    }
    int32_t  *to = pack_room(p, cb->dev.block_tables, total * sizeof *to);
    for (int s = 0; s < in->num_seqs; s++) {
        size_t  end = s + 1 < in->num_seqs ? (size_t) tables[s + 1] : total;
        memcpy(to + tables[s], in->block_tables
               + (size_t) s * (size_t) in->max_blocks_per_seq,
               (end - (size_t) tables[s]) * sizeof *to);
    }
    int32_t  *row_table = pack_room(p, cb->dev.row_table,
                                    (size_t) cb->rows * sizeof *row_table);
    for (int s = 0; s < in->num_seqs; s++) {
        for (int row = in->cu_seqlens_q[s]; row < in->cu_seqlens_q[s + 1];
             row++)
        {
            row_table[row] = tables[s];
        }
    }
    for (int row = in->num_tokens; row < cb->rows; row++) {
        row_table[row] = -1;
    }
}

/* ---- work lists ------------------------------------------------------------------- */

static int
query_len(const struct step_inputs *in, int seq)
{
    return in->cu_seqlens_q[seq + 1] - in->cu_seqlens_q[seq];
}

static int
chunk_end(int begin, int grow)
{
    int  chunk = begin < CHUNK_LONG_FROM ? CHUNK_KEYS : CHUNK_KEYS_LONG;
    return begin + (grow < 0 ? chunk >> -grow : chunk << grow);
}

int
cuda_splits_of(int context_len)
{
    int  num = 0;
    for (int key = 0; key < context_len; key = chunk_end(key, 0)) {
        num++;
    }
    return num;
}

static int
count_splits(const struct step_inputs *in, int grow)
{
    int  total = 0;
    for (int s = 0; s < in->num_seqs; s++) {
        for (int key = 0; query_len(in, s) == 1 && key < in->context_lens[s];
             key = chunk_end(key, grow))
        {
            total++;
        }
    }
    return total;
}

/* How often chunks are doubled, or halved (negative); *num: the splits. */
static int
choose_grow(const struct cuda_backend *cb, const struct step_inputs *in,
            int *num)
{
    int  grow = 0, next;
    int  heads = cb->model != NULL ? cb->model->num_kv_heads : 0;
    *num = count_splits(in, 0);
    /* a chunk of 2^30 keys holds any context: one split a sequence */
    while (*num > cb->max_splits) {
        *num = count_splits(in, ++grow);
    }
    while (heads > 0 && !cb->invariant && grow <= 0 && grow > GROW_MIN
           && (next = count_splits(in, grow - 1)) <= cb->max_splits
           && next * heads <= cb->num_sms * FEW_BLOCKS_PER_SM)
    {
        *num = next;
        grow--;
    }
    return grow;
}

static int64_t
count_keys(const struct step_inputs *in)
{
    int64_t  keys = 0;
    for (int s = 0; s < in->num_seqs; s++) {
        keys += in->context_lens[s];
    }
    return keys;
}

/* For a step in one launch: keys of an item, so that every multiprocessor has
 * one item and kv head at most where there is a choice; *num: the items. */
static int
choose_chunk(const struct cuda_backend *cb, const struct step_inputs *in,
             int *num)
{
    int      most = cb->num_sms / cb->model->num_kv_heads, chunk;
    int64_t  keys = count_keys(in);
    most = min_int(most > in->num_seqs ? most : in->num_seqs, cb->max_splits);
    chunk = (int) ((keys - 1) / most) / FUSED_ITEM_KEYS * FUSED_ITEM_KEYS;
    do {
        chunk += FUSED_ITEM_KEYS;
        *num = 0;
        for (int s = 0; s < in->num_seqs; s++) {
            *num += (in->context_lens[s] + chunk - 1) / chunk;
        }
    } while (*num > most);
    return chunk;
}

static void
plan_decode(struct packer *p, const struct step_inputs *in,
            const int32_t *tables)
{
    struct cuda_backend  *cb = p->cb;
    int                   num, at = 0, grow = 0, chunk = 0;
    if (cb->fuse.on && cb->model->num_kv_heads > 0) {
        chunk = choose_chunk(cb, in, &num);
    } else {
        grow = choose_grow(cb, in, &num);
    }
    struct attention_item  *items = pack_room(p, cb->dev.decode,
                                              (size_t) num * sizeof *items);
    cb->num_decode = num;
    for (int s = 0; s < in->num_seqs; s++) {
        int  first = at, len = in->context_lens[s], end;
        for (int key = 0; query_len(in, s) == 1 && key < len; key = end) {
            end = chunk > 0 ? key + chunk : chunk_end(key, grow);
            items[at] = (struct attention_item) {
                .seq = s, .table = tables[s], .row = in->cu_seqlens_q[s],
                .num_rows = 1, .position = len - 1, .key_begin = key,
                .key_end = min_int(end, len),
                .partial = first, .part = at - first };
            at++;
        }
        for (int i = first; i < at; i++) {
            items[i].num_parts = at - first;
        }
    }
    check_eq(at, num);
}

/* Shares of whole rows, so that no partial results are left, when the `num` rows
 * of a step are about as long as each other and their number fits the GPU; or
 * 0. */
static int
whole_shares(const struct cuda_backend *cb, int64_t num, int64_t heads)
{
    static const int  per_sm[] = { 4, 3, 2 };
    _Static_assert(ATTENTION_DECODE_WARPS >= 4, "shares of a multiprocessor");
    for (size_t i = 0; i < sizeof per_sm / sizeof *per_sm; i++) {
        int64_t  room = (int64_t) cb->num_sms * per_sm[i];
        int64_t  each = (num * heads + room - 1) / room;
        /* few warps idle */
        if (num % each == 0 && num * heads * 100 >= room * each * 93) {
            return (int) (num * heads / each);
        }
    }
    return 0;
}

struct decode_sizes {
    int64_t  num, tiles, most;       /* rows; tiles of 32 keys, of one row */
};

/* first_rows gets the row of every sequence of one row, -1 for others. */
static struct decode_sizes
decode_sizes_of(const struct step_inputs *in, int32_t *first_rows)
{
    struct decode_sizes  d = { .num = 0 };
    for (int s = 0; s < in->num_seqs; s++) {
        int64_t  len = (in->context_lens[s] + ATTENTION_DECODE_KEYS - 1)
                       / ATTENTION_DECODE_KEYS;
        first_rows[s] = query_len(in, s) == 1 ? in->cu_seqlens_q[s] : -1;
        if (first_rows[s] >= 0) {
            d.num++;
            d.tiles += len;
            d.most = len > d.most ? len : d.most;
        }
    }
    return d;
}

/* Whether shares are multiprocessors': where that kernel is faster, alone or
 * because rope is part of it. */
static bool
choose_blocks(const struct cuda_backend *cb, const struct decode_sizes *d)
{
    return !cb->model->kv_fp8 && d->num >= BLOCK_ROWS_MIN
           && d->tiles * cb->model->num_kv_heads < BLOCK_TILES_MAX;
}

/* How many shares a step's keys are cut into for warps; 0: not into shares. */
static int
choose_shares(const struct cuda_backend *cb, const struct decode_sizes *d)
{
    int64_t  heads = cb->model->num_kv_heads;
    if (cb->model->kv_fp8 && d->tiles * heads >= SHARES_FP8_MIN) {
        return cb->num_sms * SHARES_FP8_PER_SM;
    }
    int  whole = d->num > 0 && d->most * d->num * 100 <= d->tiles * 104
                 ? whole_shares(cb, d->num, heads) : 0;
    if (d->tiles * heads >= (whole > 0 ? SHARE_WHOLE_MIN : SHARE_TILES_MIN)) {
        return whole > 0 ? whole : cb->num_sms * SHARES_PER_SM;
    }
    return 0;
}

/* Shares of the keys where choose_blocks() or choose_shares() says so; false: not. */
static bool
plan_shares(struct packer *p, const struct step_inputs *in, int32_t *rows,
            const int32_t *tables)
{
    struct cuda_backend      *cb = p->cb;
    const struct cuda_model  *m = cb->model;
    int                       num_shares;
    if (cb->invariant || m == NULL || !m->known || !m->shares
        || m->num_kv_heads > CUDA_SHARE_HEADS_MAX)
    {
        return false;
    }
    struct decode_sizes  sizes = decode_sizes_of(in, rows);
    bool  blocks = choose_blocks(cb, &sizes);
    num_shares = blocks ? cb->num_sms : choose_shares(cb, &sizes);
    if (num_shares == 0) {
        return false;
    }
    int  places = cb->num_sms * (blocks ? 1 : ATTENTION_DECODE_WARPS);
    int32_t  *first = pack_room(p, cb->dev.shared_first,
                                ((size_t) places + 1) * sizeof *first);
    /* its size is known when it is filled in: it comes last */
    struct decode_item  *items = pack_room(p, cb->dev.shared, 0);
    const struct decode_plan_args  args = {
        .num_seqs = in->num_seqs, .rows = rows, .tables = tables,
        .context_lens = in->context_lens, .num_kv_heads = m->num_kv_heads,
        .num_shares = num_shares, .items = items, .items_max = cb->shared_max,
        .first = first,
        .partials_max = cb->max_splits * m->num_kv_heads,
        .drafts = cb->drafts, .drafts_max = 2 * cb->shared_max };
    int  num = blocks ? decode_plan_rows(&args) : decode_plan(&args);
    if (num < 0) {
        p->params.num_segments -= 2;
        p->used = (size_t) ((char *) first - p->half->host);
        return false;
    }
    for (int i = num_shares + 1; i <= places; i++) {
        first[i] = num;              /* warps without a share */
    }
    p->params.num_segments--;
    (void) pack_room(p, cb->dev.shared, (size_t) num * sizeof *items);
    cb->num_shares = num_shares;
    cb->block_shares = blocks;
    return true;
}

static void
plan_prefill(struct packer *p, const struct step_inputs *in,
             const int32_t *tables)
{
    struct cuda_backend  *cb = p->cb;
    int                   num = 0, at = 0;
    for (int s = 0; s < in->num_seqs; s++) {
        int  len = query_len(in, s);
        num += len > 1 ? (len + ATTENTION_ROWS - 1) / ATTENTION_ROWS : 0;
    }
    cb->num_prefill = num;
    if (num == 0) {
        return;
    }
    struct attention_item  *items = pack_room(p, cb->dev.prefill,
                                              (size_t) num * sizeof *items);
    for (int s = 0; s < in->num_seqs; s++) {
        int  row = in->cu_seqlens_q[s], len = query_len(in, s);
        int  last = len > 1 ? (len - 1) / ATTENTION_ROWS : -1;
        for (int i = last; i >= 0; i--) {
            int  rest = len - i * ATTENTION_ROWS;
            items[at++] = (struct attention_item) {
                .seq = s, .table = tables[s], .row = row + i * ATTENTION_ROWS,
                .num_rows = min_int(rest, ATTENTION_ROWS),
                .position = in->context_lens[s] - rest, .num_parts = 1 };
        }
    }
    check_eq(at, num);
}

/* ---- checks ------------------------------------------------------------------------ */

/* The same facts that the CPU backend checks; leaves the largest id and the
 * range of slots for the ops, or for check_replay(). */
static void
check_step(struct cuda_backend *cb, const struct step_inputs *s)
{
    check_eq(s->cu_seqlens_q[0], 0);
    check_eq(s->cu_seqlens_q[s->num_seqs], s->num_tokens);
    for (int seq = 0; seq < s->num_seqs; seq++) {
        int  begin = s->cu_seqlens_q[seq], end = s->cu_seqlens_q[seq + 1];
        check_lt(begin, end);
        check_le(s->context_lens[seq], cb->limits.max_model_len);
        for (int row = begin; row < end; row++) {
            check_eq(s->positions[row], s->context_lens[seq] - (end - row));
            check_le(0, s->positions[row]);
        }
    }
    cb->id_max = 0;
    cb->slot_min = INT32_MAX;
    cb->slot_max = -1;
    for (int row = 0; row < s->num_tokens; row++) {
        int32_t  id = s->input_ids[row], slot = s->slot_mapping[row];
        check(id >= 0 || -1 - id < cb->num_sampled);
        cb->id_max = id > cb->id_max ? id : cb->id_max;
        if (slot != SLOT_PADDING) {
            cb->slot_min = slot < cb->slot_min ? slot : cb->slot_min;
            cb->slot_max = slot > cb->slot_max ? slot : cb->slot_max;
        }
    }
    for (int i = 0; i < s->num_logits; i++) {
        check(s->logits_idx[i] >= 0 && s->logits_idx[i] < s->num_tokens);
    }
}

static void
check_replay(const struct cuda_backend *cb)
{
    const struct cuda_model  *m = cb->model;
    check(m->num_ids == 0 || cb->id_max < m->num_ids);
    check(m->block_size == 0 || cb->slot_max < 0
          || (cb->slot_min >= m->block_size
              && cb->slot_max / m->block_size < m->num_blocks));
}

/* ---- a step ------------------------------------------------------------------------ */

/* Every sequence has one row and wants its logits. */
static bool
is_decode(const struct step_inputs *in)
{
    return in->num_tokens == in->num_seqs && in->num_logits == in->num_seqs;
}

/* Rows of the activations: a decode step's are padded to a bucket. */
static void
choose_rows(struct cuda_backend *cb, const struct step_inputs *in)
{
    const struct backend_limits  *l = &cb->limits;
    int  most = min_int(l->max_num_batched_tokens, l->max_num_logits);
    cb->rows = in->num_tokens;
    cb->logit_rows = in->num_logits;
    if (cb->model != NULL && is_decode(in)) {
        int  bucket = cuda_graph_bucket(in->num_tokens);
        if (bucket > 0) {
            cb->rows = cb->logit_rows = min_int(bucket, most);
        }
    }
}

static void
pack_step(struct cuda_backend *cb, const struct step_inputs *in)
{
    struct packer  p = { .cb = cb, .half = &cb->half[cb->num_steps % 2] };
    int32_t       *tables = cb->seq_tables, *rows = cb->seq_rows;
    p.params = (struct unpack_params) {
        .src = p.half->host, .dst = cb->step_device, .sampled = cb->sampled,
        .pdl = cb->pdl };
    (void) cuda_keep(cb, cudaEventSynchronize(p.half->unpacked),
                     "the step before the last");
    /* the ids come first: see unpack_params */
    pack_ints(&p, cb->dev.input_ids, in->input_ids, in->num_tokens, cb->rows,
              0);
    pack_ints(&p, cb->dev.positions, in->positions, in->num_tokens, cb->rows,
              0);
    pack_ints(&p, cb->dev.slot_mapping, in->slot_mapping, in->num_tokens,
              cb->rows, SLOT_PADDING);
    pack_ints(&p, cb->dev.logits_idx, in->logits_idx, in->num_logits,
              cb->logit_rows, 0);
    pack_tables(&p, in, tables);
    cb->num_decode = cb->num_shares = 0;
    cb->block_shares = false;
    plan_prefill(&p, in, tables);
    cuda_fuse_begin(cb, is_decode(in));
    if (cb->fuse.on || !plan_shares(&p, in, rows, tables)) {
        plan_decode(&p, in, tables);
    }
    pack_ints(&p, cb->dev.num_decode, &cb->num_decode, 1, 1, 0);
    cuda_timing_begin(cb);
    (void) cuda_keep(cb, unpack_launch(&p.params, cb->stream),
                     "upload of a step");
    (void) cuda_keep(cb, cudaEventRecord(p.half->unpacked, cb->stream),
                     "upload of a step");
    cb->num_steps++;
}

enum step_action
cuda_step_begin(struct backend *be, const struct step_inputs *in)
{
    struct cuda_backend          *cb = (struct cuda_backend *) be;
    const struct backend_limits  *l = &cb->limits;

    check(!cb->in_step);
    check(in->num_tokens >= 1 && in->num_tokens <= l->max_num_batched_tokens);
    check(in->num_seqs >= 1 && in->num_seqs <= l->max_num_seqs);
    check(in->num_logits >= 0 && in->num_logits <= l->max_num_logits);
    check_le(in->max_blocks_per_seq, l->max_blocks_per_seq);
    (void) cuda_keep(cb, cudaSetDevice(cb->device_idx), "cudaSetDevice");
    check_step(cb, in);
    cb->model = cuda_model_of(cb, in->model_id);
    choose_rows(cb, in);
    pack_step(cb, in);
    cb->step = *in;
    cb->in_step = cb->fresh = true;
    if (cb->graphs && cb->model != NULL && cb->model->known && is_decode(in)
        && cuda_graph_bucket(in->num_tokens) > 0)
    {
        cuda_graph_begin(cb);
    }
    if (cb->replaying != NULL) {
        check_replay(cb);
        return STEP_REPLAY;
    }
    return STEP_ISSUE;
}

void
cuda_step_end(struct backend *be)
{
    struct cuda_backend  *cb = (struct cuda_backend *) be;
    check(cb->in_step);
    cuda_fuse_end(cb);
    cuda_flush(cb);
    cuda_graph_end(cb);
    cuda_tune_save(cb);
    if (cb->model != NULL) {
        cb->model->known = true;
    }
    cb->in_step = false;
}
