/* test_golden.c - small random models of every architecture against what
 * Hugging Face transformers computes on them (tests/model/make_golden.py).
 *
 * float32: logits within an fp32 error bound of the reference.  16-bit: the
 * reference ran the same stored weights in float32, so our difference is our
 * rounding; it must stay within twice what transformers' own 16-bit run shows.
 * Greedy continuations must be equal token by token. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/backend/cpu/backend_cpu.h"
#include "engine/model/model.h"
#include "engine/model/model_file.h"

#define GOLDEN_DIR   "tests/model/golden"
#define NUM_GREEDY   16
#define FILE_MAX     ((size_t) 1 << 20)
#define BLOCKS_MAX   8

struct golden {
    struct model        *m;
    struct backend      *be;
    struct batch         batch;
    struct safetensors  *expected;
    struct str           image;
};

static const void *
expected(struct golden *g, const char *name, int prompt, int64_t *num)
{
    char  full[32];
    (void) snprintf(full, sizeof full, "%s.%d", name, prompt);
    const struct safetensors_entry  *e = safetensors_find(g->expected,
                                                          str_from(full));
    assert_non_null(e);
    *num = e->tensor.shape[0];
    return e->tensor.data;
}

static void
setup(struct golden *g, const char *name)
{
    char        dir[256];
    struct err  err = { 0 };
    (void) snprintf(dir, sizeof dir, GOLDEN_DIR "/%s", name);
    if (backend_cpu_create(&g->be, &(struct backend_cpu_options) {
            .num_threads = 2 }, &err) != OK
        || model_open(&g->m, &(struct model_options) {
               .path = dir, .num_blocks = BLOCKS_MAX + 1,
               .max_num_batched_tokens = 64, .max_num_seqs = 4,
               .max_num_logits = 64 }, g->be, &err) != OK
        || batch_init(&g->batch, &g->m->limits, &err) != OK
        || model_file_read(&g->image, dir, "expected.st", FILE_MAX, &err) != OK
        || safetensors_create(&g->expected, &err) != OK
        || safetensors_append(g->expected, "expected.st", g->image.data,
                              g->image.len, &err) != OK)
    {
        fail_msg("%s: %s", name, err.message);
    }
    assert_int_equal(g->m->weights.num_unused, 0);
}

static void
teardown(struct golden *g)
{
    safetensors_close(g->expected);
    model_file_free(&g->image);
    batch_destroy(&g->batch);
    model_close(g->m);
    g->be->ops->destroy(g->be);
}

static const float *
step(struct golden *g, const int32_t *ids, int num, int position, int num_logits)
{
    static const int32_t  block_ids[BLOCKS_MAX] = { 3, 1, 8, 5, 2, 7, 4, 6 };
    const float          *logits;
    struct err            err = { 0 };
    batch_reset(&g->batch);
    (void) batch_append(&g->batch, &(struct batch_seq) {
        .token_ids = ids, .query_len = num, .position = position,
        .block_ids = block_ids, .block_size = g->m->block_size,
        .num_logits = num_logits });
    assert_int_equal(model_forward(g->m, &g->batch, &logits, &err), OK);
    return logits;
}

static int32_t
argmax(const float *logits, int num)
{
    int32_t  best = 0;
    for (int i = 1; i < num; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}

/* fp32 sums of ~100 terms through two layers: some tens of ulp of the largest
 * logit.  The reference has an error of the same kind. */
static double
logits_bound(const struct golden *g, double hf_error, double logit_max)
{
    return g->m->dtype == DTYPE_F32 ? 32.0 * 0x1p-23 * logit_max
                                    : 2.0 * hf_error;
}

static void
compare_prompt(struct golden *g, const char *name, int prompt)
{
    int64_t         num, num_rows, one, num_greedy;
    int             vocab = g->m->config.vocab_size;
    const int32_t  *ids = expected(g, "prompt", prompt, &num);
    const float    *want = expected(g, "logits", prompt, &num_rows);
    const float    *hf_error = expected(g, "hf_error", prompt, &one);
    const int32_t  *greedy = expected(g, "greedy", prompt, &num_greedy);
    double          worst = 0.0, logit_max = 0.0, mean = 0.0;

    assert_int_equal(num, num_rows);
    assert_int_equal(num_greedy, NUM_GREEDY);
    const float  *got = step(g, ids, (int) num, 0, (int) num);
    for (int64_t i = 0; i < num * vocab; i++) {
        double  diff = (double) got[i] - (double) want[i];
        assert_true(isfinite(got[i]));
        worst = fmax(worst, fabs(diff));
        logit_max = fmax(logit_max, fabs((double) want[i]));
        mean += diff / (double) (num * vocab);
    }
    double  bound = logits_bound(g, (double) *hf_error, logit_max);
    print_message("%s prompt %d: max error %.3g, bound %.3g (ratio %.2f), "
                  "mean %.2g\n", name, prompt, worst, bound, worst / bound,
                  mean);
    assert_true(worst <= bound);
    assert_true(fabs(mean) <= 0.1 * bound);

    int32_t  next = argmax(got + (num - 1) * vocab, vocab);
    for (int i = 0; i < NUM_GREEDY; i++) {
        assert_int_equal(next, greedy[i]);
        next = argmax(step(g, &next, 1, (int) num + i, 1), vocab);
    }
}

static void
compare_model(const char *name)
{
    struct golden  g = { 0 };
    setup(&g, name);
    compare_prompt(&g, name, 0);
    compare_prompt(&g, name, 1);
    teardown(&g);
}

#define GOLDEN(symbol, name)                                                  \
    static void                                                               \
    test_##symbol##_equals_transformers(void **state)                         \
    {                                                                         \
        (void) state;                                                         \
        compare_model(name);                                                  \
    }

GOLDEN(llama_f32_tied, "llama-f32-tied")
GOLDEN(llama_f32_bias_linear, "llama-f32-bias-linear")
GOLDEN(llama_bf16_llama3, "llama-bf16-llama3")
GOLDEN(llama_f16_shards, "llama-f16-shards")
GOLDEN(mistral_f32_window, "mistral-f32-window")
GOLDEN(mistral_bf16_full, "mistral-bf16-full")
GOLDEN(mistral_bf16_window, "mistral-bf16-window")
GOLDEN(qwen2_f32_group7, "qwen2-f32-group7")
GOLDEN(qwen2_f32_window, "qwen2-f32-window")
GOLDEN(qwen2_bf16_yarn, "qwen2-bf16-yarn")
GOLDEN(qwen3_f32_tied, "qwen3-f32-tied")
GOLDEN(qwen3_f32_yarn, "qwen3-f32-yarn")
GOLDEN(qwen3_bf16, "qwen3-bf16")

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_llama_f32_tied_equals_transformers),
        cmocka_unit_test(test_llama_f32_bias_linear_equals_transformers),
        cmocka_unit_test(test_llama_bf16_llama3_equals_transformers),
        cmocka_unit_test(test_llama_f16_shards_equals_transformers),
        cmocka_unit_test(test_mistral_f32_window_equals_transformers),
        cmocka_unit_test(test_mistral_bf16_full_equals_transformers),
        cmocka_unit_test(test_mistral_bf16_window_equals_transformers),
        cmocka_unit_test(test_qwen2_f32_group7_equals_transformers),
        cmocka_unit_test(test_qwen2_f32_window_equals_transformers),
        cmocka_unit_test(test_qwen2_bf16_yarn_equals_transformers),
        cmocka_unit_test(test_qwen3_f32_tied_equals_transformers),
        cmocka_unit_test(test_qwen3_f32_yarn_equals_transformers),
        cmocka_unit_test(test_qwen3_bf16_equals_transformers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
