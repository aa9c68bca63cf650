/* gpu_fused.c - small decode steps as one launch against the same kernel by
 * kernel.
 *
 * The same model on two CUDA backends through the same steps.  What differs is
 * the order of fp32 sums, so some roundings fall the other way, and a layer
 * passes that on: logits and cache are compared by the size of the difference,
 * as gpu_models.c does, and what a step must not write by its bytes. */
#include "tests/gpu/gpu_side.h"
#include "tests/gpu/gpu_test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/backend_load.h"
#include "engine/backend/cuda/backend_cuda.h"

#define FUSED_SEQS    8
#define BOUND         0x1p-6     /* some ulps of bf16 after two layers */
#define REPEATS       200

#define SHAPE(arch, dtype, hidden, inter, heads, kv_heads, head_dim, tied)    \
    "{\"architectures\": [\"" arch "ForCausalLM\"], \"dtype\": \"" dtype      \
    "\", \"hidden_size\": " #hidden ", \"intermediate_size\": " #inter        \
    ", \"num_hidden_layers\": 2, \"num_attention_heads\": " #heads            \
    ", \"num_key_value_heads\": " #kv_heads ", \"head_dim\": " #head_dim      \
    ", \"vocab_size\": 1000, \"max_position_embeddings\": 2048, "             \
    "\"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, "                       \
    "\"hidden_act\": \"silu\", \"tie_word_embeddings\": " #tied "}"

static const char *const  shapes[] = {
    SHAPE("Llama", "bfloat16", 512, 1024, 8, 2, 128, false),
    SHAPE("Llama", "bfloat16", 1536, 2496, 12, 12, 128, true),
    SHAPE("Qwen2", "float16", 448, 896, 7, 1, 64, true),        /* biases */
    SHAPE("Qwen2", "bfloat16", 896, 4864, 14, 2, 64, true),
    SHAPE("Qwen3", "bfloat16", 256, 768, 16, 8, 64, true),      /* q, k norm */
    SHAPE("Qwen3", "bfloat16", 4160, 192, 8, 1, 128, false),
};

static size_t
cache_bytes(const struct side *s)
{
    return model_kv_bytes_per_token(&s->m->config, s->m->kv.cache.dtype)
           * (size_t) side_num_blocks(s) * SIDE_BLOCK_SIZE;
}

static const struct side_shape  fused_shape = {
    .num_seqs = FUSED_SEQS, .seq_blocks = 64, .max_num_batched_tokens = 700,
    .max_model_len = 2048
};

/* With a cache whose elements no step has written yet are 0xffff. */
static void
fused_open(struct side *s, struct backend *be, const char *dir)
{
    side_open(s, be, dir, &fused_shape);
    s->be->ops->fill(s->be, s->m->kv.cache.data, 0xff, cache_bytes(s));
}

/* ||a - b|| / ||b||, bounded. */
static void
compare_sizes(double diff, double size)
{
    compare(sqrt(diff / size), 0.0, BOUND);
}

/* nums[i] tokens of sequence seqs[i]. */
static void
both_step(struct side sides[2], const int *seqs, const int *nums, int num,
          int *lens)
{
    const float  *logits[2];
    int32_t       ids[700];
    side_random_ids(ids, 700);
    sides_step(sides, seqs, nums, num, ids, lens, logits);
    for (int i = 0; i < num; i++) {
        double  diff = 0.0, size = 0.0;
        for (int j = i * SIDE_VOCAB; j < (i + 1) * SIDE_VOCAB; j++) {
            double  d = (double) logits[0][j] - (double) logits[1][j];
            diff += d * d;
            size += (double) logits[1][j] * (double) logits[1][j];
        }
        compare_sizes(diff, size);
    }
}

static void
compare_caches(struct side sides[2])
{
    size_t    elems = cache_bytes(&sides[0]) / sizeof(uint16_t);
    uint16_t *kv[2];
    double    diff = 0.0, size = 0.0;
    for (int b = 0; b < 2; b++) {
        kv[b] = need(malloc(elems * sizeof *kv[b]));
        sides[b].be->ops->download(sides[b].be, kv[b],
                                   sides[b].m->kv.cache.data,
                                   elems * sizeof *kv[b]);
    }
    for (size_t i = 0; i < elems; i++) {
        if ((kv[0][i] == 0xffff) != (kv[1][i] == 0xffff)) {
            complain("element %zu of the cache: %04x, %04x", i, kv[0][i],
                     kv[1][i]);
            break;
        }
        if (kv[0][i] != 0xffff) {
            double  want = (double) value_at(kv[1], sides[0].m->dtype, i);
            double  d = (double) value_at(kv[0], sides[0].m->dtype, i) - want;
            diff += d * d;
            size += want * want;
        }
    }
    compare_sizes(diff, size);
    free(kv[0]);
    free(kv[1]);
}

/* The same step again and again, recorded: the same bits. */
static void
repeat_step(struct side *s, int rows, const int *lens)
{
    static float  first[FUSED_SEQS * SIDE_VOCAB];
    const float  *logits;
    struct err    err = { 0 };
    int32_t       id = 7;
    size_t        bytes = (size_t) (rows * SIDE_VOCAB) * sizeof *first;
    for (int n = 0; n < (run.small ? 5 : REPEATS); n++) {
        batch_reset(&s->batch);
        for (int i = 0; i < rows; i++) {
            side_append(s, i, &id, 1, lens[i]);
        }
        require(model_forward(s->m, &s->batch, &logits, &err), &err,
                "forward");
        if (n == 0) {
            memcpy(first, logits, bytes);
        } else if (memcmp(first, logits, bytes) != 0) {
            complain("%d rows: repeat %d has other bits", rows, n);
            return;
        }
    }
}

static void
fused_model(struct backend *const be[2], const char *config)
{
    char         dir[] = "/tmp/test-backend-cuda-XXXXXX";
    struct side  sides[2];
    int          lens[FUSED_SEQS] = { 0 };
    static const int  prompts[] = { 600, 31, 32, 1, 300, 2, 64, 129 };
    static const int  seqs[] = { 0, 1, 2, 3, 4, 5, 6, 7 };
    static const int  ones[] = { 1, 1, 1, 1, 1, 1, 1, 1 };
    config_write(dir, config);
    fused_open(&sides[0], be[0], dir);
    fused_open(&sides[1], be[1], dir);
    for (int i = 0; i < FUSED_SEQS; i++) {
        both_step(sides, &seqs[i], &prompts[i], 1, lens);
    }
    for (int i = 0; i < (run.small ? 1 : 2); i++) {     /* a long one */
        both_step(sides, &seqs[0], &prompts[0], 1, lens);
    }
    /* every number of rows in each bucket, issued, recorded and replayed */
    for (int round = 0; round < (run.small ? 1 : 4); round++) {
        for (int rows = 1; rows <= FUSED_SEQS; rows++) {
            both_step(sides, seqs, ones, rows, lens);
        }
    }
    compare_caches(sides);
    repeat_step(&sides[0], 1, lens);
    repeat_step(&sides[0], 5, lens);
    repeat_step(&sides[0], 8, lens);
    side_close(&sides[0]);
    side_close(&sides[1]);
    config_remove(dir);
}

void
test_small_steps_in_one_launch_equal_kernel_by_kernel(void)
{
    struct backend  *be[2];
    struct err       err = { 0 };
    if (run.cuda->ops->sample == NULL || run.simple) {
        printf("#   skipped: %s\n", run.cuda->ops->name);
        return;
    }
    for (int i = 0; i < 2; i++) {
        require(backend_load_cuda(&be[i], &(struct backend_cuda_options) {
            .abi = BACKEND_CUDA_ABI, .no_fused = i == 1, .no_tuning = true },
            &err), &err, "a backend more");
    }
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        double  before = run.worst;
        run.worst = 0.0;
        fused_model(be, shapes[i]);
        printf("#   shape %zu: error / bound %.2f\n", i, run.worst);
        run.worst = fmax(run.worst, before);
    }
    be[0]->ops->destroy(be[0]);
    be[1]->ops->destroy(be[1]);
}
