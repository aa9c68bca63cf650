/* time_backend_cuda.c - times of whole steps of a model with random weights.
 *
 * usage: time-backend-cuda DIR [BATCH]      DIR/config.json names the model
 *
 * Decode steps of 1 to 256 sequences with 1,024 tokens of context and prompts
 * of 512 to 8,192 tokens, median of the repeats, in ms.  A step is timed from
 * its upload to the end of its last kernel; the copy of the logits to the host
 * is not in it.  The KV cache is filled by prompts of random tokens.  BATCH:
 * that decode step only, without a warm-up, for a profiler. */
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

/* One step without the download of its logits. */
static double
step_ms(struct model *m, const struct batch *b)
{
    struct backend      *be = m->be;
    struct err           err = { 0 };
    struct step_inputs   in = {
        .num_tokens = b->num_tokens, .num_seqs = b->num_seqs,
        .num_logits = b->num_logits,
        .max_blocks_per_seq = b->limits.max_blocks_per_seq,
        .input_ids = b->input_ids, .positions = b->positions,
        .slot_mapping = b->slot_mapping, .cu_seqlens_q = b->cu_seqlens_q,
        .context_lens = b->context_lens, .block_tables = b->block_tables,
        .logits_idx = b->logits_idx };
    int64_t  t0 = clock_now_ns();
    if (be->ops->step_begin(be, &in) == STEP_ISSUE) {
        forward_issue(m);
    }
    be->ops->step_end(be);
    if (be->ops->sync(be, &err) != OK) {
        printf("%s\n", err.message);
        exit(1);
    }
    return (double) (clock_now_ns() - t0) * 1e-6;
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

static void
time_steps(struct model *m, struct batch *b)
{
    static const int  seqs[] = { 1, 8, 32, 64, 128, 256 };
    static const int  prompts[] = { 512, 2048, 8192 };
    fill_contexts(m, b);
    for (size_t i = 0; i < sizeof seqs / sizeof *seqs; i++) {
        for (int seq = 0; seq < seqs[i]; seq++) {
            append(m, b, seq, 1, CONTEXT - 1);
        }
        printf("decode  batch %4d, context %d: %8.3f ms\n", seqs[i], CONTEXT,
               median_ms(m, b, REPEATS));
        batch_reset(b);
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
    if (argc < 2) {
        printf("usage: time-backend-cuda DIR [BATCH]\n");
        return 2;
    }
    int  rc = backend_load_cuda(&be, &(struct backend_cuda_options) {
        .abi = BACKEND_CUDA_ABI }, &err);
    if (rc == AGAIN) {
        printf("SKIP: no CUDA device (%s)\n", err.message);
        return 0;
    }
    int64_t  t0 = clock_now_ns();
    if (rc != OK || model_open(&m, &(struct model_options) {
            .path = argv[1], .load_format = LOAD_DUMMY,
            .max_model_len = TOKENS_MAX, .block_size = BLOCK_SIZE,
            .num_blocks = NUM_BLOCKS, .max_num_batched_tokens = TOKENS_MAX,
            .max_num_seqs = SEQS_MAX }, be, &err) != OK
        || batch_init(&b, &m->limits, &err) != OK)
    {
        printf("%s\n", err.message);
        return 1;
    }
    printf("%s, %s: %d layers, opened in %.1f s\n", be->ops->name, argv[1],
           m->config.num_hidden_layers, (double) (clock_now_ns() - t0) * 1e-9);
    if (argc > 2) {
        int  num_seqs = atoi(argv[2]);
        profile_decode(m, &b, num_seqs < 1 ? 1 : num_seqs > SEQS_MAX
                              ? SEQS_MAX : num_seqs);
    } else {
        time_steps(m, &b);
    }
    batch_destroy(&b);
    model_close(m);
    be->ops->destroy(be);
    return 0;
}
