/* gpu_models.c - whole models on the GPU: against what transformers computed
 * (tests/model/golden) and against the CPU backend. */
#include "tests/gpu/gpu_side.h"
#include "tests/gpu/gpu_test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/model.h"
#include "engine/model/model_file.h"

#define GOLDEN_DIR  "tests/model/golden"
#define PROMPT_MAX  300

struct model_run {
    struct model *m;
    struct batch  batch;
};

static void
model_run_open(struct model_run *r, const char *dir, struct backend *be,
               enum load_format format, enum dtype kv_dtype)
{
    struct err  err = { 0 };
    require(model_open(&r->m, &(struct model_options) {
        .path = dir, .load_format = format, .dummy_seed = SEED,
        .kv_cache_dtype = kv_dtype,
        .num_blocks = 60, .max_num_batched_tokens = 320, .max_num_seqs = 8,
        .max_num_logits = 64, .max_model_len = format == LOAD_DUMMY ? 512 : 0,
        }, be, &err), &err, dir);
    require(batch_init(&r->batch, &r->m->limits, &err), &err, "batch");
}

static void
model_run_close(struct model_run *r)
{
    batch_destroy(&r->batch);
    model_close(r->m);
}

/* Sequence q has the blocks q + 1, q + 8, q + 15 ... */
static void
model_append(struct model_run *r, int q, const int32_t *ids, int num,
             int position, int num_logits)
{
    int32_t  blocks[16];
    for (int i = 0; i < 8; i++) {
        blocks[i] = 1 + q + 7 * ((i * 5 + q) % 8);
    }
    (void) batch_append(&r->batch, &(struct batch_seq) {
        .token_ids = ids, .query_len = num, .position = position,
        .block_ids = blocks, .block_size = r->m->block_size,
        .num_logits = num_logits });
}

static const float *
model_step(struct model_run *r)
{
    const float  *logits;
    struct err    err = { 0 };
    require(model_forward(r->m, &r->batch, &logits, &err), &err, "forward");
    batch_reset(&r->batch);
    return logits;
}

static int32_t
argmax(const float *logits, int num, float *margin)
{
    int32_t  best = 0;
    float    second = -INFINITY;
    for (int i = 1; i < num; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    for (int i = 0; i < num; i++) {
        second = i != best && logits[i] > second ? logits[i] : second;
    }
    *margin = logits[best] - second;
    return best;
}

static const void *
expected(struct safetensors *files, const char *name, int prompt,
         int64_t *num)
{
    char  full[32];
    (void) snprintf(full, sizeof full, "%s.%d", name, prompt);
    const struct safetensors_entry  *e = safetensors_find(files,
                                                          str_from(full));
    if (e == NULL) {
        printf("%s is missing from expected.st\n", full);
        exit(1);
    }
    *num = e->tensor.shape[0];
    return e->tensor.data;
}

/* What transformers computed, as tests/unit/model/test_golden.c demands of the
 * CPU backend; the prompt in chunks, so that decode and prefill both run. */
static void
golden_prompt(struct model_run *r, const char *name,
              struct safetensors *files, int prompt)
{
    int64_t         num, rows, one, num_greedy;
    int             vocab = r->m->config.vocab_size;
    const int32_t  *ids = expected(files, "prompt", prompt, &num);
    const float    *want = expected(files, "logits", prompt, &rows);
    const float    *hf_error = expected(files, "hf_error", prompt, &one);
    const int32_t  *greedy = expected(files, "greedy", prompt, &num_greedy);
    double          logit_max = 0.0, bound;
    float           margin = 0.0f;
    int32_t         next = 0;
    for (int64_t i = 0; i < rows * vocab; i++) {
        logit_max = fmax(logit_max, fabs((double) want[i]));
    }
    bound = r->m->dtype == DTYPE_F32 ? 64.0 * 0x1p-23 * logit_max
                                     : 2.0 * (double) *hf_error;
    for (int at = 0, len = 5; at < num; at += len, len = len % 3 + 1) {
        len = at + len > num ? (int) num - at : len;
        model_append(r, prompt, ids + at, len, at, len);
        const float  *logits = model_step(r);
        for (int i = 0; i < len * vocab; i++) {
            compare((double) logits[i], (double) want[at * vocab + i], bound);
        }
        next = argmax(logits + (len - 1) * vocab, vocab, &margin);
    }
    for (int i = 0; i < num_greedy; i++) {
        if (next != greedy[i]) {
            if ((double) margin > 2.0 * bound) {
                complain("%s: greedy token %d is %d, not %d", name, i, next,
                         greedy[i]);
            }
            return;               /* a tie within the error: texts part */
        }
        model_append(r, prompt, &next, 1, (int) num + i, 1);
        next = argmax(model_step(r), vocab, &margin);
    }
}

static void
golden_model(const char *name)
{
    char                 dir[256];
    struct err           err = { 0 };
    struct str           image;
    struct safetensors  *files;
    struct model_run     r = { 0 };
    double               before = run.worst;
    (void) snprintf(dir, sizeof dir, GOLDEN_DIR "/%s", name);
    run.worst = 0.0;
    model_run_open(&r, dir, run.cuda, LOAD_AUTO, DTYPE_NONE);
    require(model_file_read(&image, dir, "expected.st", (size_t) 1 << 20,
                            &err), &err, dir);
    require(safetensors_create(&files, &err), &err, dir);
    require(safetensors_append(files, "expected.st", image.data, image.len,
                               &err), &err, dir);
    golden_prompt(&r, name, files, 0);
    golden_prompt(&r, name, files, 1);
    printf("#   %s: error / bound %.2f\n", name, run.worst);
    run.worst = fmax(run.worst, before);
    safetensors_close(files);
    model_file_free(&image);
    model_run_close(&r);
}

void
test_small_models_equal_transformers(void)
{
    static const char *const  names[] = {
        "llama-f32-tied", "llama-f32-bias-linear", "llama-bf16-llama3",
        "llama-f16-shards", "mistral-f32-window", "mistral-bf16-full",
        "mistral-bf16-window", "qwen2-f32-group7", "qwen2-f32-window",
        "qwen2-bf16-yarn", "qwen3-f32-tied", "qwen3-f32-yarn", "qwen3-bf16" };
    for (int i = 0; i < 13; i++) {
        golden_model(names[i]);
    }
}

/* Random models that use the tensor core kernels, several sequences in a
 * step, against the CPU: ||difference|| / ||logits|| of every row below 2^-6,
 * some bf16 ulps after four layers; 2^-4 with an fp8 cache, where the rounding
 * of one key in some falls the other way, by a sixteenth. */
static void
dummy_logits(const float *got, const float *want, int vocab, double bound)
{
    double  diff = 0.0, size = 0.0;
    float   margin;
    for (int i = 0; i < vocab; i++) {
        double  d = (double) got[i] - (double) want[i];
        diff += d * d;
        size += (double) want[i] * (double) want[i];
    }
    compare(sqrt(diff / size), 0.0, bound);
    int32_t  best = argmax(want, vocab, &margin), other;
    float    ignored;
    other = argmax(got, vocab, &ignored);
    if (best != other && (double) margin > 4.0 * sqrt(diff / vocab)) {
        complain("top token %d, not %d, margin %g", other, best,
                 (double) margin);
    }
}

static void
dummy_model(const char *config, enum dtype kv_dtype)
{
    char               dir[] = "/tmp/test-backend-cuda-XXXXXX";
    struct model_run   r[2] = { { 0 } };
    int32_t            ids[PROMPT_MAX];
    float             *want = NULL;
    static const int   lens[] = { 30, 1, 64, 65, 7 };
    config_write(dir, config);
    for (int i = 0; i < PROMPT_MAX; i++) {
        ids[i] = random_below(1000);
    }
    for (int b = 0; b < 2; b++) {
        model_run_open(&r[b], dir, b == 0 ? run.cpu : run.cuda, LOAD_DUMMY,
                       kv_dtype);
    }
    int     vocab = r[0].m->config.vocab_size;
    size_t  room = (size_t) vocab * 8 * sizeof *want;
    want = need(malloc(room));
    for (int round = 0; round < 4; round++) {      /* prompts, then tokens of
                                                      all but one, twice */
        for (int b = 0; b < 2; b++) {
            for (int q = 0; q < 5; q++) {
                int  len = round == 0 || (round == 2 && q == 3) ? lens[q] : 1;
                int  at = round == 0 ? 0 : lens[q] + (round - 1)
                          + (q == 3 && round == 3 ? lens[q] - 1 : 0);
                model_append(&r[b], q, ids + at % 200, len, at, 1);
            }
            const float  *logits = model_step(&r[b]);
            if (b == 0) {
                memcpy(want, logits, (size_t) vocab * 5 * sizeof *want);
            }
            for (int q = 0; b == 1 && q < 5; q++) {
                dummy_logits(logits + q * vocab, want + q * vocab, vocab,
                             kv_dtype == DTYPE_F8_E4M3 ? 0x1p-4 : 0x1p-6);
            }
        }
    }
    free(want);
    model_run_close(&r[0]);
    model_run_close(&r[1]);
    config_remove(dir);
}

void
test_random_models_equal_the_cpu(void)
{
    static const char *const  configs[] = {
        "{\"architectures\": [\"LlamaForCausalLM\"], \"dtype\": "
        "\"bfloat16\", \"hidden_size\": 512, \"intermediate_size\": "
        "1024, \"num_hidden_layers\": 4, \"num_attention_heads\": 8, "
        "\"num_key_value_heads\": 2, \"head_dim\": 128, "
        "\"vocab_size\": 1000, \"max_position_embeddings\": 512, "
        "\"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, "
        "\"hidden_act\": \"silu\", \"tie_word_embeddings\": false}",
        "{\"architectures\": [\"Qwen3ForCausalLM\"], \"dtype\": "
        "\"bfloat16\", \"hidden_size\": 256, \"intermediate_size\": "
        "768, \"num_hidden_layers\": 4, \"num_attention_heads\": 16, "
        "\"num_key_value_heads\": 8, \"head_dim\": 64, "
        "\"vocab_size\": 1000, \"max_position_embeddings\": 512, "
        "\"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0, "
        "\"hidden_act\": \"silu\", \"tie_word_embeddings\": true}",
        "{\"architectures\": [\"Qwen2ForCausalLM\"], \"dtype\": "
        "\"float16\", \"hidden_size\": 448, \"intermediate_size\": "
        "896, \"num_hidden_layers\": 4, \"num_attention_heads\": 7, "
        "\"num_key_value_heads\": 1, \"vocab_size\": 1000, "
        "\"max_position_embeddings\": 512, \"rms_norm_eps\": 1e-6, "
        "\"rope_theta\": 10000.0, \"hidden_act\": \"silu\", "
        "\"tie_word_embeddings\": true}",
    };
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        dummy_model(configs[i], DTYPE_NONE);
        dummy_model(configs[i], DTYPE_F8_E4M3);
    }
}
