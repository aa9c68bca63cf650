/* time_steps.c - step times of a model with random weights, "name value" lines
 * for tools/gpu_report.sh.
 *
 * usage: time-steps DIR [all|short|prefill|decode] [GEMM_CACHE]
 *
 * weights_bytes, kv_bytes_token, linear_flops_token (of one prompt token)
 * decode.BATCH.CONTEXT       ms a step, one ahead, greedy, as the engine runs
 * alone.BATCH.CONTEXT        ms from a step's issue to its end
 * prefill.TOKENS             ms, in chunks of 8,192
 * attention.decode.256       GB/s of keys and values, all layers
 * attention.prefill.8192     TFLOP/s, causal
 * opened                     s, model_open()
 *
 * short: decode at 1, 64 and 256 and one prompt of 2,048; prefill, decode: one
 * of the two. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/backend_load.h"
#include "engine/backend/cuda/backend_cuda.h"
#include "engine/base/clock.h"
#include "engine/model/forward.h"
#include "engine/model/model.h"

#define SEQS_MAX     256
#define CHUNK        8192
#define LONGEST      32768
#define BLOCK_SIZE   32
#define NUM_BLOCKS   (SEQS_MAX * (1024 / BLOCK_SIZE + 1) + 1)
#define WARMUP       10

static void
stop_on(int rc, const struct err *err)
{
    if (rc != OK) {
        printf("# %s\n", err->message);
        exit(1);
    }
}

static double
ms_since(int64_t t0)
{
    return (double) (clock_now_ns() - t0) * 1e-6;
}

static void
append(struct model *m, struct batch *b, int seq, int len, int position,
       int num_logits)
{
    static int32_t  ids[CHUNK], blocks[LONGEST / BLOCK_SIZE + 1];
    for (int i = 0; i < len; i++) {
        ids[i] = (seq * 7919 + (position + i) * 31) % m->config.vocab_size;
    }
    for (int i = 0; i <= (position + len - 1) / BLOCK_SIZE; i++) {
        blocks[i] = 1 + (seq + i * SEQS_MAX) % (NUM_BLOCKS - 1);
    }
    (void) batch_append(b, &(struct batch_seq) {
        .token_ids = ids, .query_len = len, .position = position,
        .block_ids = blocks, .block_size = BLOCK_SIZE,
        .num_logits = num_logits });
}

/* Steps issued one ahead; every id of a step is the last one's.  From the ids of
 * one step to those of a later one: whole steps, none of them half over. */
static double
ahead_ms(struct model *m, struct batch *b, int steps)
{
    static struct sample_row  rows[SEQS_MAX];
    static int32_t            ids[SEQS_MAX];
    struct err                err = { 0 };
    int64_t                   t0 = 0;
    for (int i = 0; i < steps + WARMUP; i++) {
        for (int row = 0; row < b->num_tokens && i > 0; row++) {
            b->input_ids[row] = INPUT_SAMPLED(row);
        }
        model_issue(m, b);
        model_sample(m, rows, b->num_logits);
        if (i > 0) {
            stop_on(model_sampled(m, ids, &err), &err);
        }
        t0 = i == WARMUP ? clock_now_ns() : t0;    /* ids of WARMUP - 1 */
    }
    stop_on(model_sampled(m, ids, &err), &err);
    double  ms = ms_since(t0) / steps;
    for (int row = 0; row < b->num_tokens; row++) {
        b->input_ids[row] = ids[row];
    }
    return ms;
}

/* The best of several; what is issued is b's step. */
static double
alone_ms(struct model *m, const struct batch *b, int repeats)
{
    double      best = 1e9;
    struct err  err = { 0 };
    for (int i = 0; i < repeats; i++) {
        int64_t  t0 = clock_now_ns();
        model_issue(m, b);
        stop_on(model_sync(m, &err), &err);
        double  ms = ms_since(t0);
        best = ms < best ? ms : best;
    }
    return best;
}

/* Attention of all layers of b's step, by itself.  Under a model_id of its own:
 * the backend shares the keys among its warps once it knows the ops, that is
 * after the first step. */
static double
attention_ms(struct model *m, const struct batch *b)
{
    const struct backend_ops  *ops = m->be->ops;
    struct err                 err = { 0 };
    double                     best = 1e9;
    struct step_inputs  in = {
        .num_tokens = b->num_tokens, .num_seqs = b->num_seqs,
        .num_logits = b->num_logits,
        .max_blocks_per_seq = b->limits.max_blocks_per_seq,
        .model_id = m->id + 2,
        .input_ids = b->input_ids, .positions = b->positions,
        .slot_mapping = b->slot_mapping, .cu_seqlens_q = b->cu_seqlens_q,
        .context_lens = b->context_lens, .block_tables = b->block_tables,
        .logits_idx = b->logits_idx };
    for (int n = 0; n < 6; n++) {
        bool     issue = ops->step_begin(m->be, &in) == STEP_ISSUE;
        int64_t  t0 = clock_now_ns();
        for (int i = 0; issue && i < m->config.num_hidden_layers; i++) {
            ops->attention(m->be, &(struct attention_args) {
                .out = m->attn, .qkv = m->qkv, .kv = &m->kv.cache,
                .layer_idx = i, .num_heads = m->config.num_attention_heads,
                .scale = 0.1f });
        }
        ops->step_end(m->be);
        stop_on(ops->sync(m->be, &err), &err);
        double  ms = ms_since(t0);
        best = ms < best && n > 1 ? ms : best;
    }
    return best;
}

static void
time_decode(struct model *m, struct batch *b, int batch, int context)
{
    for (int seq = 0; seq < batch; seq++) {
        append(m, b, seq, 1, context - 1, 1);
    }
    printf("decode.%d.%d %.3f\n", batch, context, ahead_ms(m, b, 30));
    printf("alone.%d.%d %.3f\n", batch, context, alone_ms(m, b, 6));
    if (batch == 256) {
        double  bytes = (double) model_kv_bytes_per_token(&m->config,
            m->kv.cache.dtype) * batch * context;
        printf("attention.decode.256 %.0f\n",
               bytes / (attention_ms(m, b) * 1e6));
    }
    batch_reset(b);
    (void) fflush(stdout);
}

static void
time_prefill(struct model *m, struct batch *b, int tokens)
{
    double      best = 1e9;
    struct err  err = { 0 };
    for (int n = 0; n < (tokens > CHUNK ? 2 : 4); n++) {
        int64_t  t0 = clock_now_ns();
        for (int at = 0; at < tokens; at += CHUNK) {
            int  len = tokens - at < CHUNK ? tokens - at : CHUNK;
            batch_reset(b);
            append(m, b, 0, len, at, at + len == tokens);
            model_issue(m, b);
        }
        stop_on(model_sync(m, &err), &err);
        double  ms = ms_since(t0);
        best = ms < best ? ms : best;
    }
    printf("prefill.%d %.3f\n", tokens, best);
    if (tokens == CHUNK) {
        double  flops = 2.0 * CHUNK * (double) CHUNK * m->config.head_dim
                        * m->config.num_attention_heads
                        * m->config.num_hidden_layers;
        printf("attention.prefill.8192 %.0f\n",
               flops / (attention_ms(m, b) * 1e9));
    }
    batch_reset(b);
    (void) fflush(stdout);
}

static void
print_sizes(const struct model *m)
{
    const struct model_config  *c = &m->config;
    struct model_memory         use;
    double  heads = c->num_attention_heads + 2.0 * c->num_key_value_heads;
    double  layer = (double) c->hidden_size * (heads + c->num_attention_heads)
                    * c->head_dim
                    + 3.0 * (double) c->hidden_size * c->intermediate_size;
    model_memory(m, &use);
    /* a step reads all but the embeddings, unless they are tied */
    printf("weights_bytes %.0f\n", 2.0 * (layer * c->num_hidden_layers
           + (double) c->vocab_size * c->hidden_size));
    printf("weights_allocated %zu\n", use.weights);
    printf("kv_bytes_token %zu\n", model_kv_bytes_per_token(c,
                                       m->kv.cache.dtype));
    printf("linear_flops_token %.0f\n", 2.0 * layer * c->num_hidden_layers);
    printf("attention_flops_pair %.0f\n", 4.0 * c->head_dim
           * c->num_attention_heads * c->num_hidden_layers);
}

static void
time_all(struct model *m, struct batch *b, bool all, bool decode, bool prefill)
{
    static const int  prompts[] = { 512, 2048, 8192, 32768 };
    static const int  batches[] = { 1, 4, 8, 16, 32, 64, 128, 256 };
    for (int seq = 0; decode && seq < SEQS_MAX; seq++) {    /* keys that are numbers */
        append(m, b, seq, 1024, 0, 0);
        if (b->num_tokens + 1024 > CHUNK || seq == SEQS_MAX - 1) {
            (void) alone_ms(m, b, 1);
            batch_reset(b);
        }
    }
    if (all && decode) {
        time_decode(m, b, 1, 512);
    }
    for (size_t i = 0; decode && i < sizeof batches / sizeof *batches; i++) {
        if (all || batches[i] == 1 || batches[i] == 64 || batches[i] == 256) {
            time_decode(m, b, batches[i], 1024);
        }
    }
    for (size_t i = 0; prefill && i < sizeof prompts / sizeof *prompts; i++) {
        if ((all || prompts[i] == 2048)
            && prompts[i] <= m->config.max_position_embeddings)
        {
            time_prefill(m, b, prompts[i]);
        }
    }
}

int
main(int argc, char **argv)
{
    struct err       err = { 0 };
    struct backend  *be;
    struct model    *m;
    struct batch     b;
    if (argc < 2) {
        printf("usage: time-steps DIR [all|short|prefill|decode] [GEMM_CACHE]\n");
        return 2;
    }
    int  rc = backend_load_cuda(&be, &(struct backend_cuda_options) {
        .abi = BACKEND_CUDA_ABI, .gemm_cache = argc > 3 ? argv[3] : NULL },
        &err);
    if (rc == AGAIN) {
        printf("# SKIP: no CUDA device (%s)\n", err.message);
        return 0;
    }
    stop_on(rc, &err);
    int64_t  t0 = clock_now_ns();
    stop_on(model_open(&m, &(struct model_options) {
        .path = argv[1], .load_format = LOAD_DUMMY, .max_model_len = LONGEST,
        .block_size = BLOCK_SIZE, .num_blocks = NUM_BLOCKS,
        .max_num_batched_tokens = CHUNK, .max_num_seqs = SEQS_MAX }, be, &err),
        &err);
    stop_on(batch_init(&b, &m->limits, &err), &err);
    printf("opened %.2f\n", ms_since(t0) * 1e-3);
    print_sizes(m);
    const char  *what = argc < 3 ? "all" : argv[2];
    time_all(m, &b, strcmp(what, "short") != 0, strcmp(what, "prefill") != 0,
             strcmp(what, "decode") != 0);
    batch_destroy(&b);
    model_close(m);
    be->ops->destroy(be);
    return 0;
}
