/* time_common.c - a model with random weights and the clock around its steps. */
#include "tests/gpu/time_common.h"

#include <stdio.h>
#include <stdlib.h>

#include "engine/backend/backend_load.h"
#include "engine/base/check.h"
#include "engine/base/clock.h"

#define BLOCK_SIZE    32
#define SEQ_BLOCKS    (TIME_CONTEXT / BLOCK_SIZE)
#define NUM_BLOCKS    (TIME_SEQS_MAX * SEQ_BLOCKS + 1)
#define FAR           37          /* longer ones go on in that sequence's blocks */
#define AHEAD_WARMUP  10
#define LAYERS_TIMES  6
#define LAYERS_FROM   2         /* those before it are not for the best */

void
stop_on(int rc, const struct err *err)
{
    if (rc != OK) {
        printf("# %s\n", err->message);
        exit(1);
    }
}

double
ms_since(int64_t t0_ns)
{
    return (double) (clock_now_ns() - t0_ns) * 1e-6;
}

bool
timed_open(struct timed *t, struct backend_cuda_options options,
           const char *dir, int max_model_len, enum dtype kv_dtype)
{
    struct err  err = { 0 };
    options.abi = BACKEND_CUDA_ABI;
    int  rc = backend_load_cuda(&t->be, &options, &err);
    if (rc == AGAIN) {
        printf("# SKIP: no CUDA device (%s)\n", err.message);
        return false;
    }
    stop_on(rc, &err);
    int64_t  t0 = clock_now_ns();
    stop_on(model_open(&t->m, &(struct model_options) {
        .path = dir, .load_format = LOAD_DUMMY, .max_model_len = max_model_len,
        .block_size = BLOCK_SIZE, .kv_cache_dtype = kv_dtype,
        .num_blocks = NUM_BLOCKS, .max_num_batched_tokens = TIME_TOKENS_MAX,
        .max_num_seqs = TIME_SEQS_MAX }, t->be, &err), &err);
    stop_on(batch_init(&t->b, &t->m->limits, &err), &err);
    t->opened_s = ms_since(t0) * 1e-3;
    return true;
}

void
timed_close(struct timed *t)
{
    batch_destroy(&t->b);
    model_close(t->m);
    t->be->ops->destroy(t->be);
}

void
timed_append(struct timed *t, int seq, int len, int position, int num_logits)
{
    static int32_t  ids[TIME_TOKENS_MAX], blocks[TIME_LEN_MAX / BLOCK_SIZE];
    check_le(len, TIME_TOKENS_MAX);
    check_le(position + len, TIME_LEN_MAX);
    for (int i = 0; i < len; i++) {
        ids[i] = (seq * 7919 + (position + i) * 31) % t->m->config.vocab_size;
    }
    for (int i = 0; i <= (position + len - 1) / BLOCK_SIZE; i++) {
        int  owner = (seq + i / SEQ_BLOCKS * FAR) % TIME_SEQS_MAX;
        blocks[i] = 1 + owner + i % SEQ_BLOCKS * TIME_SEQS_MAX;
    }
    (void) batch_append(&t->b, &(struct batch_seq) {
        .token_ids = ids, .query_len = len, .position = position,
        .block_ids = blocks, .block_size = BLOCK_SIZE,
        .num_logits = num_logits });
}

void
timed_fill(struct timed *t)
{
    for (int seq = 0; seq < TIME_SEQS_MAX; seq++) {
        timed_append(t, seq, TIME_CONTEXT, 0, 0);
        if (t->b.num_tokens + TIME_CONTEXT > TIME_TOKENS_MAX
            || seq == TIME_SEQS_MAX - 1)
        {
            (void) step_ms(t);
            batch_reset(&t->b);
        }
    }
}

double
step_ms(struct timed *t)
{
    struct err  err = { 0 };
    int64_t     t0 = clock_now_ns();
    model_issue(t->m, &t->b);
    stop_on(model_sync(t->m, &err), &err);
    return ms_since(t0);
}

/* Every id of a step is the last one's.  From the ids of step AHEAD_WARMUP - 1
 * to those of step AHEAD_WARMUP + steps - 1: whole steps, none half over. */
double
ahead_ms(struct timed *t, int steps)
{
    static struct sample_row  rows[TIME_SEQS_MAX];
    static int32_t            ids[TIME_SEQS_MAX];
    struct batch             *b = &t->b;
    struct err                err = { 0 };
    int64_t                   t0 = 0;
    check_eq(b->num_logits, b->num_tokens);
    for (int i = 0; i < AHEAD_WARMUP + steps; i++) {
        for (int row = 0; row < b->num_tokens && i > 0; row++) {
            b->input_ids[row] = INPUT_SAMPLED(row);
        }
        model_issue(t->m, b);
        model_sample(t->m, rows, b->num_logits);
        if (i > 0) {
            stop_on(model_sampled(t->m, ids, &err), &err);    /* of i - 1 */
        }
        t0 = i == AHEAD_WARMUP ? clock_now_ns() : t0;
    }
    stop_on(model_sampled(t->m, ids, &err), &err);
    double  ms = ms_since(t0) / steps;
    for (int row = 0; row < b->num_tokens; row++) {
        b->input_ids[row] = ids[row];
    }
    return ms;
}

struct step_inputs
step_inputs_of(const struct timed *t, uint64_t model_id)
{
    const struct batch  *b = &t->b;
    return (struct step_inputs) {
        .num_tokens = b->num_tokens, .num_seqs = b->num_seqs,
        .num_logits = b->num_logits,
        .max_blocks_per_seq = b->limits.max_blocks_per_seq,
        .model_id = model_id,
        .input_ids = b->input_ids, .positions = b->positions,
        .slot_mapping = b->slot_mapping, .cu_seqlens_q = b->cu_seqlens_q,
        .context_lens = b->context_lens, .block_tables = b->block_tables,
        .logits_idx = b->logits_idx };
}

double
layers_ms(struct timed *t, uint64_t model_id,
          void (*issue)(struct timed *t, int layer, int data), int data)
{
    const struct backend_ops  *ops = t->be->ops;
    struct step_inputs         in = step_inputs_of(t, model_id);
    struct err                 err = { 0 };
    double                     best = 1e9;
    for (int n = 0; n < LAYERS_TIMES; n++) {
        bool     do_issue = ops->step_begin(t->be, &in) == STEP_ISSUE;
        int64_t  t0 = clock_now_ns();
        for (int i = 0; do_issue && i < t->m->config.num_hidden_layers; i++) {
            issue(t, i, data);
        }
        ops->step_end(t->be);
        stop_on(ops->sync(t->be, &err), &err);
        double  ms = ms_since(t0);
        best = ms < best && n >= LAYERS_FROM ? ms : best;
    }
    return best;
}

void
issue_attention(struct timed *t, int layer, int data)
{
    struct model  *m = t->m;
    (void) data;
    t->be->ops->attention(t->be, &(struct attention_args) {
        .out = m->attn, .qkv = m->qkv, .kv = &m->kv.cache,
        .layer_idx = layer, .num_heads = m->config.num_attention_heads,
        .scale = 0.1f });
}
