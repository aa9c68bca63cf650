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

#include "engine/base/clock.h"
#include "tests/gpu/time_common.h"

#define REPEATS  15
#define WARMUP   3

static int
compare_ms(const void *a, const void *b)
{
    const double  *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static double
median_ms(struct timed *t, int repeats)
{
    double  ms[REPEATS];
    for (int i = 0; i < WARMUP; i++) {
        (void) step_ms(t);
    }
    for (int i = 0; i < repeats; i++) {
        ms[i] = step_ms(t);
    }
    qsort(ms, (size_t) repeats, sizeof *ms, compare_ms);
    return ms[repeats / 2];
}

/* Every op of a step by itself, for all layers; ms a step. */
enum part { PART_QKV, PART_ROPE, PART_ATTENTION, PART_O, PART_GATE_UP,
            PART_DOWN, PART_LM_HEAD, NUM_PARTS };

static void
issue_part(struct timed *t, int layer, int part)
{
    struct model                *m = t->m;
    const struct backend_ops    *ops = m->be->ops;
    const struct layer_weights  *w = &m->weights.layers[layer];
    const struct model_config   *c = &m->config;
    float                        eps = (float) c->rms_norm_eps;
    switch ((enum part) part) {
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
        issue_attention(t, layer, 0);
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
time_parts(struct timed *t)
{
    static const char *const  names[] = { "norm + qkv", "rope + append",
        "attention", "o + add", "norm + gate_up + silu", "down + add",
        "norm + lm_head" };
    for (int part = 0; part < NUM_PARTS; part++) {
        uint64_t  model_id = t->m->id + 2 + 2 * (uint64_t) part;
        printf("    %-22s %8.3f ms\n", names[part],
               layers_ms(t, model_id, issue_part, part));
    }
}

/* What a step takes besides its ops, in us. */
static void
time_rest(struct timed *t)
{
    static struct sample_row  rows[TIME_SEQS_MAX];
    static int32_t            ids[TIME_SEQS_MAX];
    struct model             *m = t->m;
    struct step_inputs        in = step_inputs_of(t, 0);
    struct err                err = { 0 };
    enum { TIMES = 200 };
    for (int kind = 0; kind < 4; kind++) {
        static const char *const  names[] = { "begin + end", "sample, greedy",
            "sample, temperature", "sample, top_p" };
        for (int i = 0; i < TIME_SEQS_MAX; i++) {
            rows[i] = (struct sample_row) { .temperature = kind > 1 ? 1.0f : 0,
                .top_p = kind > 2 ? 0.9f : 1.0f, .seed = 1 };
        }
        stop_on(model_sync(m, &err), &err);
        int64_t  t0 = clock_now_ns();
        for (int i = 0; i < TIMES; i++) {
            if (kind == 0) {
                (void) t->be->ops->step_begin(t->be, &in);
                t->be->ops->step_end(t->be);
            } else {
                model_sample(m, rows, t->b.num_logits);
                stop_on(model_sampled(m, ids, &err), &err);
            }
        }
        stop_on(model_sync(m, &err), &err);
        printf("    %-22s %8.1f us\n", names[kind],
               ms_since(t0) * 1e3 / TIMES);
    }
}

static void
append_decodes(struct timed *t, int num_seqs)
{
    for (int seq = 0; seq < num_seqs; seq++) {
        timed_append(t, seq, 1, TIME_CONTEXT - 1, 1);
    }
}

static void
time_steps(struct timed *t, const char *label, bool parts)
{
    static const int  seqs[] = { 1, 8, 32, 64, 128, 256 };
    static const int  prompts[] = { 512, 2048, 8192 };
    if (parts) {
        timed_fill(t);           /* once: memory comes back as it was */
    }
    for (size_t i = 0; i < sizeof seqs / sizeof *seqs; i++) {
        append_decodes(t, seqs[i]);
        double  alone = median_ms(t, REPEATS);
        printf("%s  batch %4d, context %d: alone %8.3f, ahead %8.3f ms\n",
               label, seqs[i], TIME_CONTEXT, alone, ahead_ms(t, 40));
        if (parts && (seqs[i] == 1 || seqs[i] == 64 || seqs[i] == 256)) {
            time_parts(t);
            time_rest(t);
        }
        batch_reset(&t->b);
    }
    if (!parts) {
        return;
    }
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++) {
        timed_append(t, 0, prompts[i], 0, 1);
        printf("prefill %5d tokens:             %8.3f ms\n", prompts[i],
               median_ms(t, 5));
        batch_reset(&t->b);
    }
}

static void
profile_decode(struct timed *t, int num_seqs)
{
    num_seqs = num_seqs < 1 ? 1 : num_seqs > TIME_SEQS_MAX ? TIME_SEQS_MAX
                                                           : num_seqs;
    append_decodes(t, num_seqs);
    for (int i = 0; i < 2; i++) {
        printf("decode  batch %4d: %8.3f ms\n", num_seqs, step_ms(t));
    }
}

int
main(int argc, char **argv)
{
    struct timed  t;
    bool          fp8 = argc > 1 && strcmp(argv[1], "--fp8") == 0;
    argc -= fp8;
    argv += fp8;
    if (argc < 2) {
        printf("usage: time-backend-cuda [--fp8] DIR [BATCH]\n");
        return 2;
    }
    for (int variant = 0; variant < (fp8 || argc > 2 ? 1 : 5); variant++) {
        static const char *const  labels[] = { "decode", "issued", "serial",
                                               "first ", "invar." };
        struct backend_cuda_options  options = {
            .no_graphs = variant == 1, .no_pdl = variant == 2,
            .no_tuning = variant == 3, .batch_invariant = variant == 4
        };
        if (!timed_open(&t, options, argv[1], TIME_TOKENS_MAX,
                        fp8 ? DTYPE_F8_E4M3 : DTYPE_NONE))
        {
            return 0;
        }
        printf("%s, %s: %d layers, opened in %.1f s\n", t.be->ops->name,
               argv[1], t.m->config.num_hidden_layers, t.opened_s);
        if (argc > 2) {
            profile_decode(&t, atoi(argv[2]));
        } else {
            time_steps(&t, labels[variant], variant == 0);
        }
        timed_close(&t);
    }
    return 0;
}
