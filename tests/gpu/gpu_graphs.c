/* gpu_graphs.c - recorded steps against issued ones, bit for bit.
 *
 * The same model on two CUDA backends, one that records and starts kernels
 * early and one that does neither, through the same random steps: prompts,
 * decode steps of every size in any order, mixed steps.  Activations are filled
 * with NaN before each step, so a padded row that is read shows; and the null
 * block must stay as it was, so a padded row that is written shows. */
#include "tests/gpu/gpu_side.h"
#include "tests/gpu/gpu_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/backend_load.h"
#include "engine/backend/cuda/backend_cuda.h"

#define GRAPH_SEQS    40

#define SMALL_LLAMA \
    "{\"architectures\": [\"LlamaForCausalLM\"], \"dtype\": " \
    "\"bfloat16\", \"hidden_size\": 512, \"intermediate_size\": " \
    "1024, \"num_hidden_layers\": 3, \"num_attention_heads\": 8, " \
    "\"num_key_value_heads\": 2, \"head_dim\": 128, " \
    "\"vocab_size\": 1000, \"max_position_embeddings\": 512, " \
    "\"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, " \
    "\"hidden_act\": \"silu\", \"tie_word_embeddings\": false}"

static const struct side_shape  graph_shape = {
    .num_seqs = GRAPH_SEQS, .seq_blocks = 14, .max_num_batched_tokens = 600,
    .max_model_len = 440
};

static void
check_null_block(struct side *s)
{
    const struct kv_cache  *kv = &s->m->kv.cache;
    size_t    bytes = (size_t) kv->num_kv_heads * (size_t) kv->block_size
                      * (size_t) kv->head_dim * dtype_bytes(kv->dtype);
    uint8_t  *host = need(malloc(bytes));
    s->be->ops->download(s->be, host, kv->data, bytes);
    for (size_t i = 0; i < bytes; i++) {
        if (host[i] != 0xff) {
            complain("byte %zu of the null block was written", i);
            break;
        }
    }
    free(host);
}

/* One step on both; sequences first .. first + num - 1 of `order`. */
static void
both_step(struct side sides[2], const int *order, int num, int *lens,
          int long_seq, int long_len)
{
    const float  *logits[2];
    int32_t       ids[512];
    int           nums[GRAPH_SEQS];
    side_random_ids(ids, 512);
    for (int i = 0; i < num; i++) {
        nums[i] = i == long_seq ? long_len : 1;
    }
    sides_step(sides, order, nums, num, ids, lens, logits);
    for (int i = 0; i < num; i++) {
        if (memcmp(logits[0] + i * SIDE_VOCAB, logits[1] + i * SIDE_VOCAB,
                   SIDE_VOCAB * sizeof **logits) != 0)
        {
            complain("%d sequences, row %d: logits differ", num, i);
        }
        if (logits[0][i * SIDE_VOCAB] != logits[0][i * SIDE_VOCAB]) {
            complain("%d sequences, row %d: NaN", num, i);
        }
    }
}

static void
graph_model(struct backend *const be[2], const char *config)
{
    char         dir[] = "/tmp/test-backend-cuda-XXXXXX";
    struct side  sides[2];
    int          lens[GRAPH_SEQS] = { 0 }, order[GRAPH_SEQS];
    config_write(dir, config);
    side_open(&sides[0], be[0], dir, &graph_shape);
    side_open(&sides[1], be[1], dir, &graph_shape);
    for (int i = 0; i < GRAPH_SEQS; i++) {
        order[i] = i;
        both_step(sides, &order[i], 1, lens, 0, 1 + random_below(250));
    }
    for (int round = 0; round < (run.small ? 20 : 120); round++) {
        for (int i = GRAPH_SEQS - 1; i > 0; i--) {
            int  j = random_below(i + 1), t = order[i];
            order[i] = order[j];
            order[j] = t;
        }
        int  num = 1 + random_below(round % 2 ? 5 : GRAPH_SEQS);
        both_step(sides, order, num, lens,
                  round % 11 == 5 ? random_below(num) : -1,
                  2 + random_below(9));
    }
    check_null_block(&sides[0]);
    check_null_block(&sides[1]);
    side_close(&sides[0]);
    side_close(&sides[1]);
    config_remove(dir);
}

void
test_recorded_steps_equal_issued_ones_bit_for_bit(void)
{
    struct backend  *be[2];
    struct err       err = { 0 };
    if (run.cuda->ops->sample == NULL) {
        printf("#   skipped: %s records nothing\n", run.cuda->ops->name);
        return;
    }
    /* not timed, so that both take the same algorithms of cuBLASLt */
    for (int i = 0; i < 2; i++) {
        require(backend_load_cuda(&be[i], &(struct backend_cuda_options) {
            .abi = BACKEND_CUDA_ABI, .no_graphs = i == 1, .no_pdl = i == 1,
            .no_tuning = true }, &err), &err, "a backend more");
    }
    graph_model(be, SMALL_LLAMA);
    graph_model(be,
                "{\"architectures\": [\"Qwen2ForCausalLM\"], \"dtype\": "
                "\"float16\", \"hidden_size\": 448, \"intermediate_size\": "
                "896, \"num_hidden_layers\": 2, \"num_attention_heads\": 7, "
                "\"num_key_value_heads\": 1, \"vocab_size\": 1000, "
                "\"max_position_embeddings\": 512, \"rms_norm_eps\": 1e-6, "
                "\"rope_theta\": 10000.0, \"hidden_act\": \"silu\", "
                "\"tie_word_embeddings\": true}");
    /* fp32: the slow attention kernel */
    graph_model(be,
                "{\"architectures\": [\"Qwen3ForCausalLM\"], \"dtype\": "
                "\"float32\", \"hidden_size\": 96, \"intermediate_size\": "
                "128, \"num_hidden_layers\": 2, \"num_attention_heads\": 6, "
                "\"num_key_value_heads\": 3, \"head_dim\": 16, "
                "\"vocab_size\": 1000, \"max_position_embeddings\": 512, "
                "\"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0, "
                "\"hidden_act\": \"silu\", \"tie_word_embeddings\": true}");
    be[0]->ops->destroy(be[0]);
    be[1]->ops->destroy(be[1]);
}

/* Sequence 0 among `num` sequences, which come and go, for INVARIANT_STEPS
 * greedy tokens; its logits of every step. */
#define INVARIANT_STEPS  32
#define INVARIANT_PROMPT 37

static void
follow_sequence(struct backend *be, const char *dir, int num, float *logits)
{
    struct side    s;
    struct err     err = { 0 };
    int            lens[GRAPH_SEQS] = { 0 };
    int32_t        next = 0, ids[512];
    const float   *got;
    side_open(&s, be, dir, &graph_shape);
    for (int step = 0; step <= INVARIANT_STEPS; step++) {
        int  before = step == 0 ? num / 2 : random_below(num), row = 0;
        for (int i = 0; i < num; i++) {
            int  seq = (i + num - before) % num;
            int  len = lens[seq] > 0 ? 1 : seq == 0 ? INVARIANT_PROMPT
                       : 2 + random_below(12);
            for (int j = 0; j < len; j++) {
                ids[j] = seq == 0 && step == 0 ? (j * 37 + 5) % SIDE_VOCAB
                         : seq == 0 ? next : random_below(SIDE_VOCAB);
            }
            if (seq != 0 && step > 0 && random_below(3) == 0) {
                continue;
            }
            row = seq == 0 ? s.batch.num_logits : row;
            side_append(&s, seq, ids, len, lens[seq]);
            lens[seq] += len;
        }
        require(model_forward(s.m, &s.batch, &got, &err), &err, "forward");
        got += row * SIDE_VOCAB;
        memcpy(logits + step * SIDE_VOCAB, got, SIDE_VOCAB * sizeof *logits);
        next = 0;
        for (int32_t i = 1; i < SIDE_VOCAB; i++) {
            next = got[i] > got[next] ? i : next;
        }
        batch_reset(&s.batch);
    }
    side_close(&s);
}

void
test_batch_invariant_rows_do_not_depend_on_their_company(void)
{
    enum { STEPS = INVARIANT_STEPS + 1 };
    char             dir[] = "/tmp/test-backend-cuda-XXXXXX";
    struct backend  *be;
    struct err       err = { 0 };
    float           *alone = need(calloc(2 * STEPS * SIDE_VOCAB,
                                         sizeof *alone));
    float           *among = alone + STEPS * SIDE_VOCAB;
    static const int  company[] = { 2, 7, 17, GRAPH_SEQS };
    if (run.cuda->ops->sample == NULL) {
        printf("#   skipped: %s is invariant\n", run.cuda->ops->name);
        free(alone);
        return;
    }
    config_write(dir, SMALL_LLAMA);
    require(backend_load_cuda(&be, &(struct backend_cuda_options) {
        .abi = BACKEND_CUDA_ABI, .batch_invariant = true }, &err), &err,
        "a backend more");
    follow_sequence(be, dir, 1, alone);
    for (size_t i = 0; i < sizeof company / sizeof *company; i++) {
        follow_sequence(be, dir, company[i], among);
        for (int step = 0; step < STEPS; step++) {
            if (memcmp(alone + step * SIDE_VOCAB, among + step * SIDE_VOCAB,
                       SIDE_VOCAB * sizeof *alone) != 0)
            {
                complain("token %d differs among %d sequences", step,
                         company[i]);
                break;
            }
        }
    }
    be->ops->destroy(be);
    config_remove(dir);
    free(alone);
}

/* The logits of 16 sequences on a backend that starts with `cache`. */
static void
start_with_cache(const char *dir, const char *cache, float *logits)
{
    struct backend  *be;
    struct side      s;
    struct err       err = { 0 };
    const float     *got;
    require(backend_load_cuda(&be, &(struct backend_cuda_options) {
        .abi = BACKEND_CUDA_ABI, .gemm_cache = cache }, &err), &err,
        "a backend more");
    side_open(&s, be, dir, &graph_shape);
    for (int32_t i = 0; i < 16; i++) {
        side_append(&s, i, &i, 1, 0);
    }
    require(model_forward(s.m, &s.batch, &got, &err), &err, "forward");
    memcpy(logits, got, 16 * SIDE_VOCAB * sizeof *logits);
    side_close(&s);
    be->ops->destroy(be);
}

static long
file_bytes(const char *path)
{
    FILE  *in = fopen(path, "rb");
    long   bytes = -1;
    if (in != NULL) {
        (void) fseek(in, 0, SEEK_END);
        bytes = ftell(in);
        (void) fclose(in);
    }
    return bytes;
}

/* A second start takes the first one's algorithms, so it gives its bits; a file
 * that is broken anywhere is made anew. */
void
test_a_gemm_cache_is_read_and_a_broken_one_made_anew(void)
{
    char    dir[] = "/tmp/test-backend-cuda-XXXXXX", cache[64];
    float  *first = need(calloc(2 * 16 * SIDE_VOCAB, sizeof *first));
    float  *again = first + 16 * SIDE_VOCAB;
    if (run.cuda->ops->sample == NULL) {
        printf("#   skipped: %s has no cuBLASLt\n", run.cuda->ops->name);
        free(first);
        return;
    }
    config_write(dir, SMALL_LLAMA);
    (void) snprintf(cache, sizeof cache, "%s/gemm", dir);
    start_with_cache(dir, cache, first);
    long  bytes = file_bytes(cache);
    if (bytes <= 0) {
        complain("no cache was written");
    }
    start_with_cache(dir, cache, again);
    if (memcmp(first, again, 16 * SIDE_VOCAB * sizeof *first) != 0) {
        complain("another start, other bits");
    }
    for (int i = 0; i < 4 && bytes > 0; i++) {
        FILE  *out = need(fopen(cache, "r+b"));
        (void) fseek(out, i == 0 ? 3 : random_below((int) bytes), SEEK_SET);
        (void) fputc(0x5a, out);
        (void) fclose(out);
        start_with_cache(dir, cache, again);
        for (int j = 0; j < 16 * SIDE_VOCAB; j++) {
            if (!(again[j] > -100.0f && again[j] < 100.0f)) {
                complain("logit %g with a broken cache", (double) again[j]);
            }
        }
        if (file_bytes(cache) != bytes) {
            complain("a broken cache of %ld bytes became %ld", bytes,
                     file_bytes(cache));
        }
    }
    (void) remove(cache);
    config_remove(dir);
    free(first);
}
