/* time_backend_cuda.c - times of whole steps of a model with random weights.
 *
 * usage: time-backend-cuda [--fp8] DIR [BATCH]    DIR/config.json names the model
 *
 * Decode steps of 1 to 256 sequences with 1,024 tokens of context and prompts
 * of 512 to 8,192 tokens, median of the repeats, in ms.
 *   alone   from a step's begin to its end, nothing under way before it
 *   ahead   a step of many, greedy, each issued before the last one's ids are
 *           known, as the engine does: what a token takes
 *   issued  without graphs; serial: without PDL; first: cuBLASLt's first
 *           guess, not timed; invar.: batch-invariant
 * and the parts of a decode step: each op of all layers by itself.
 * The KV cache is filled by prompts of random tokens.  BATCH: that decode step
 * only, without a warm-up, for a profiler.  --fp8: an fp8 KV cache, the first
 * variant only. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/backend_load.h"
#include "engine/backend/cuda/backend_cuda.h"
#include "engine/base/clock.h"
#include "engine/model/forward.h"
#include "engine/model/model.h"

#define CONTEXT      1024
#define SEQS_MAX     256
#define TOKENS_MAX   8192
#define BLOCK_SIZE   32
#define NUM_BLOCKS   (SEQS_MAX * (CONTEXT / BLOCK_SIZE + 1) + 1)
#define REPEATS      15
#define WARMUP       3

static int
compare_ns(const void *a, const void *b)
{
    const int64_t  *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static void
stop_on(int rc, const struct err *err)
{
    if (rc != OK) {
        printf("%s\n", err->message);
        exit(1);
    }
}

static double
step_ms(struct model *m, const struct batch *b)
{
    struct err  err = { 0 };
    int64_t     t0 = clock_now_ns();
    model_issue(m, b);
    stop_on(model_sync(m, &err), &err);
    return (double) (clock_now_ns() - t0) * 1e-6;
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
        if (i == WARMUP) {
            t0 = clock_now_ns();          /* the ids of step WARMUP - 1 */
        }
    }
    stop_on(model_sampled(m, ids, &err), &err);
    int64_t  t1 = clock_now_ns();
    for (int row = 0; row < b->num_tokens; row++) {
        b->input_ids[row] = ids[row];
    }
    return (double) (t1 - t0) * 1e-6 / steps;
}

static void
append(struct model *m, struct batch *b, int seq, int len, int position)
{
    static int32_t  ids[TOKENS_MAX], blocks[TOKENS_MAX / BLOCK_SIZE + 1];
    for (int i = 0; i < len; i++) {
        ids[i] = (seq * 7919 + i * 31) % m->config.vocab_size;
    }
    for (int i = 0; i <= (position + len - 1) / BLOCK_SIZE; i++) {
        blocks[i] = 1 + (seq + i * SEQS_MAX) % (NUM_BLOCKS - 1);
    }
    (void) batch_append(b, &(struct batch_seq) {
        .token_ids = ids, .query_len = len, .position = position,
        .block_ids = blocks, .block_size = BLOCK_SIZE, .num_logits = 1 });
}

static double
median_ms(struct model *m, const struct batch *b, int repeats)
{
    int64_t  ns[REPEATS];
    for (int i = 0; i < WARMUP; i++) {
        (void) step_ms(m, b);
    }
    for (int i = 0; i < repeats; i++) {
        ns[i] = (int64_t) (step_ms(m, b) * 1e6);
    }
    qsort(ns, (size_t) repeats, sizeof *ns, compare_ns);
    return (double) ns[repeats / 2] * 1e-6;
}

static void
fill_contexts(struct model *m, struct batch *b)
{
    for (int seq = 0; seq < SEQS_MAX; seq++) {
        append(m, b, seq, CONTEXT - 1, 0);
        if (b->num_tokens + CONTEXT > TOKENS_MAX || seq == SEQS_MAX - 1) {
            (void) step_ms(m, b);
            batch_reset(b);
        }
    }
}

/* Every op of a step by itself, for all layers; ms a step. */
enum part { PART_QKV, PART_ROPE, PART_ATTENTION, PART_O, PART_GATE_UP,
            PART_DOWN, PART_LM_HEAD, NUM_PARTS };

static void
issue_part(struct model *m, const struct layer_weights *w, int layer,
           enum part part)
{
    const struct backend_ops   *ops = m->be->ops;
    const struct model_config  *c = &m->config;
    float                       eps = (float) c->rms_norm_eps;
    switch (part) {
    case PART_QKV:
        ops->linear(m->be, &(struct linear_args) {
            .y = m->qkv, .x = m->hidden, .norm = { w->input_layernorm, eps },
            .weight = w->qkv_proj });
        return;
    case PART_ROPE:
        ops->qk_norm_rope_append(m->be, &(struct qk_norm_rope_append_args) {
            .qkv = m->qkv, .q_norm = { w->q_norm, eps },
            .k_norm = { w->k_norm, eps }, .cos_sin = m->cos_sin,
            .kv = &m->kv.cache, .layer_idx = layer,
            .num_heads = c->num_attention_heads });
        return;
    case PART_ATTENTION:
        ops->attention(m->be, &(struct attention_args) {
            .out = m->attn, .qkv = m->qkv, .kv = &m->kv.cache,
            .layer_idx = layer, .num_heads = c->num_attention_heads,
            .scale = 0.1f });
        return;
    case PART_O:
        ops->linear(m->be, &(struct linear_args) {
            .y = m->hidden, .x = m->attn, .weight = w->o_proj,
            .epilogue = EPILOGUE_ADD });
        return;
    case PART_GATE_UP:
        ops->linear(m->be, &(struct linear_args) {
            .y = m->mlp, .x = m->hidden,
            .norm = { w->post_attention_layernorm, eps },
            .weight = w->gate_up_proj, .epilogue = EPILOGUE_SILU_MUL });
        return;
    case PART_DOWN:
        ops->linear(m->be, &(struct linear_args) {
            .y = m->hidden, .x = m->mlp, .weight = w->down_proj,
            .epilogue = EPILOGUE_ADD });
        return;
    case PART_LM_HEAD:
        if (layer == 0) {
            ops->lm_head(m->be, &(struct lm_head_args) {
                .logits = m->logits, .x = m->hidden,
                .norm = { m->weights.norm, eps },
                .weight = m->weights.lm_head });
        }
        return;
    case NUM_PARTS:
        return;
    }
}

static void
time_parts(struct model *m, const struct batch *b)
{
    static const char *const  names[] = { "norm + qkv", "rope + append",
        "attention", "o + add", "norm + gate_up + silu", "down + add",
        "norm + lm_head" };
    struct step_inputs  in = {
        .num_tokens = b->num_tokens, .num_seqs = b->num_seqs,
        .num_logits = b->num_logits,
        .max_blocks_per_seq = b->limits.max_blocks_per_seq,
        .model_id = m->id + 2,         /* known after its first step */
        .input_ids = b->input_ids, .positions = b->positions,
        .slot_mapping = b->slot_mapping, .cu_seqlens_q = b->cu_seqlens_q,
        .context_lens = b->context_lens, .block_tables = b->block_tables,
        .logits_idx = b->logits_idx };
    for (int part = 0; part < NUM_PARTS; part++) {
        double  best = 1e9;
        for (int n = 0; n < 6; n++) {
            struct err  err = { 0 };
            bool        issue = m->be->ops->step_begin(m->be, &in)
                                == STEP_ISSUE;
            int64_t     t0 = clock_now_ns();
            for (int i = 0; issue && i < m->config.num_hidden_layers; i++) {
                issue_part(m, &m->weights.layers[i], i, (enum part) part);
            }
            m->be->ops->step_end(m->be);
            stop_on(m->be->ops->sync(m->be, &err), &err);
            double  ms = (double) (clock_now_ns() - t0) * 1e-6;
            best = ms < best && n > 1 ? ms : best;
        }
        printf("    %-22s %8.3f ms\n", names[part], best);
        in.model_id += 2;
    }
}

/* What a step takes besides its ops, in us. */
static void
time_rest(struct model *m, const struct batch *b)
{
    static struct sample_row  rows[SEQS_MAX];
    static int32_t            ids[SEQS_MAX];
    struct err                err = { 0 };
    enum { TIMES = 200 };
    for (int kind = 0; kind < 4; kind++) {
        static const char *const  names[] = { "begin + end", "sample, greedy",
            "sample, temperature", "sample, top_p" };
        struct step_inputs  in = {
            .num_tokens = b->num_tokens, .num_seqs = b->num_seqs,
            .num_logits = b->num_logits,
            .max_blocks_per_seq = b->limits.max_blocks_per_seq,
            .input_ids = b->input_ids, .positions = b->positions,
            .slot_mapping = b->slot_mapping, .cu_seqlens_q = b->cu_seqlens_q,
            .context_lens = b->context_lens, .block_tables = b->block_tables,
            .logits_idx = b->logits_idx };
        for (int i = 0; i < SEQS_MAX; i++) {
            rows[i] = (struct sample_row) { .temperature = kind > 1 ? 1.0f : 0,
                .top_p = kind > 2 ? 0.9f : 1.0f, .seed = 1 };
        }
        stop_on(model_sync(m, &err), &err);
        int64_t  t0 = clock_now_ns();
        for (int i = 0; i < TIMES; i++) {
            if (kind == 0) {
                (void) m->be->ops->step_begin(m->be, &in);
                m->be->ops->step_end(m->be);
            } else {
                model_sample(m, rows, b->num_logits);
                stop_on(model_sampled(m, ids, &err), &err);
            }
        }
        stop_on(model_sync(m, &err), &err);
        printf("    %-22s %8.1f us\n", names[kind],
               (double) (clock_now_ns() - t0) * 1e-3 / TIMES);
    }
}

static void
time_steps(struct model *m, struct batch *b, const char *label, bool parts)
{
    static const int  seqs[] = { 1, 8, 32, 64, 128, 256 };
    static const int  prompts[] = { 512, 2048, 8192 };
    if (parts) {
        fill_contexts(m, b);     /* once: memory comes back as it was */
    }
    for (size_t i = 0; i < sizeof seqs / sizeof *seqs; i++) {
        for (int seq = 0; seq < seqs[i]; seq++) {
            append(m, b, seq, 1, CONTEXT - 1);
        }
        double  alone = median_ms(m, b, REPEATS);
        printf("%s  batch %4d, context %d: alone %8.3f, ahead %8.3f ms\n",
               label, seqs[i], CONTEXT, alone, ahead_ms(m, b, 40));
        if (parts && (seqs[i] == 1 || seqs[i] == 64 || seqs[i] == 256)) {
            time_parts(m, b);
            time_rest(m, b);
        }
        batch_reset(b);
    }
    if (!parts) {
        return;
    }
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++) {
        append(m, b, 0, prompts[i], 0);
        printf("prefill %5d tokens:             %8.3f ms\n", prompts[i],
               median_ms(m, b, 5));
        batch_reset(b);
    }
}

static void
profile_decode(struct model *m, struct batch *b, int num_seqs)
{
    for (int seq = 0; seq < num_seqs; seq++) {
        append(m, b, seq, 1, CONTEXT - 1);
    }
    for (int i = 0; i < 2; i++) {
        printf("decode  batch %4d: %8.3f ms\n", num_seqs, step_ms(m, b));
    }
}

int
main(int argc, char **argv)
{
    struct err       err = { 0 };
    struct backend  *be;
    struct model    *m;
    struct batch     b;
    bool             fp8 = argc > 1 && strcmp(argv[1], "--fp8") == 0;
    argc -= fp8;
    argv += fp8;
    if (argc < 2) {
        printf("usage: time-backend-cuda [--fp8] DIR [BATCH]\n");
        return 2;
    }
    for (int variant = 0; variant < (fp8 ? 1 : 5); variant++) {
        static const char *const  labels[] = { "decode", "issued", "serial",
                                               "first ", "invar." };
        int  rc = backend_load_cuda(&be, &(struct backend_cuda_options) {
            .abi = BACKEND_CUDA_ABI, .no_graphs = variant == 1,
            .no_pdl = variant == 2, .no_tuning = variant == 3,
            .batch_invariant = variant == 4 }, &err);
        if (rc == AGAIN) {
            printf("SKIP: no CUDA device (%s)\n", err.message);
            return 0;
        }
        stop_on(rc, &err);
        int64_t  t0 = clock_now_ns();
        stop_on(model_open(&m, &(struct model_options) {
            .path = argv[1], .load_format = LOAD_DUMMY,
            .max_model_len = TOKENS_MAX, .block_size = BLOCK_SIZE,
            .kv_cache_dtype = fp8 ? DTYPE_F8_E4M3 : DTYPE_NONE,
            .num_blocks = NUM_BLOCKS, .max_num_batched_tokens = TOKENS_MAX,
            .max_num_seqs = SEQS_MAX }, be, &err), &err);
        stop_on(batch_init(&b, &m->limits, &err), &err);
        printf("%s, %s: %d layers, opened in %.1f s\n", be->ops->name,
               argv[1], m->config.num_hidden_layers,
               (double) (clock_now_ns() - t0) * 1e-9);
        if (argc > 2) {
            int  num_seqs = atoi(argv[2]);
            profile_decode(m, &b, num_seqs < 1 ? 1 : num_seqs > SEQS_MAX
                                  ? SEQS_MAX : num_seqs);
            variant = 5;
        } else {
            time_steps(m, &b, labels[variant], variant == 0);
        }
        batch_destroy(&b);
        model_close(m);
        be->ops->destroy(be);
    }
    return 0;
}
