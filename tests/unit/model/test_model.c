/* test_model.c - a model that does not fit its config.json is refused by the
 * tensor's name; options out of range are refused before weights are read. */
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/backend/cpu/backend_cpu.h"
#include "engine/model/model.h"
#include "engine/model/model_file.h"

#define GOLDEN  "tests/model/golden/"

static struct backend  *be;
static char             dir[] = "/tmp/test_model.XXXXXX";

static int
setup(void **state)
{
    struct err  err = { 0 };
    (void) state;
    return backend_cpu_create(&be, &(struct backend_cpu_options) {
               .num_threads = 1 }, &err) != OK || mkdtemp(dir) == NULL;
}

static int
teardown(void **state)
{
    char  path[256];
    (void) state;
    (void) snprintf(path, sizeof path, "%s/config.json", dir);
    (void) unlink(path);
    (void) snprintf(path, sizeof path, "%s/model.safetensors", dir);
    (void) unlink(path);
    be->ops->destroy(be);
    return rmdir(dir);
}

static struct model_options
options(const char *path)
{
    return (struct model_options) { .path = path, .num_blocks = 4,
                                    .max_num_batched_tokens = 8,
                                    .max_num_seqs = 2 };
}

static void
write_file(const char *name, const char *data, size_t len)
{
    char  path[256];
    (void) snprintf(path, sizeof path, "%s/%s", dir, name);
    int  fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, len), (ssize_t) len);
    close(fd);
}

/* Replaces the first `from` by `to` of the same length. */
static void
edit(char *data, size_t len, const char *from, const char *to)
{
    char  *at = from == NULL ? NULL : memmem(data, len, from, strlen(from));
    if (from != NULL) {
        assert_non_null(at);
        assert_int_equal(strlen(from), strlen(to));
        memcpy(at, to, strlen(to));
    }
}

/* A golden model with one edit in config.json and one in the header. */
static void
assert_refused(const char *golden, const char *const edits[4],
               const char *reason)
{
    struct str            config, weights;
    struct err            err = { 0 };
    struct model         *m;
    char                  path[256];
    struct model_options  o = options(dir);
    (void) snprintf(path, sizeof path, GOLDEN "%s", golden);
    assert_int_equal(model_file_read(&config, path, "config.json", 1 << 20,
                                     &err), OK);
    assert_int_equal(model_file_read(&weights, path, "model.safetensors",
                                     1 << 20, &err), OK);
    edit((char *) (uintptr_t) config.data, config.len, edits[0], edits[1]);
    edit((char *) (uintptr_t) weights.data, weights.len, edits[2], edits[3]);
    write_file("config.json", config.data, config.len);
    write_file("model.safetensors", weights.data, weights.len);
    model_file_free(&config);
    model_file_free(&weights);
    assert_int_equal(model_open(&m, &o, be, &err), ERROR);
    assert_null(m);
    if (strstr(err.message, reason) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", err.message, reason);
    }
}

static void
test_weights_that_do_not_fit_the_config_are_refused(void **state)
{
    static const struct {
        const char *golden, *edits[4], *reason;
    } cases[] = {
        { "llama-bf16-llama3", { NULL, NULL, "layers.1.mlp.up_proj",
                                 "layers.1.mlp.uq_proj" },
          "tensor model.layers.1.mlp.up_proj.weight is missing" },
        { "llama-bf16-llama3", { "\"intermediate_size\": 80",
                                 "\"intermediate_size\": 81", NULL, NULL },
          "tensor model.layers.0.mlp.gate_proj.weight has shape [80, 48], "
          "config.json implies [81, 48]" },
        { "llama-bf16-llama3", { "\"vocab_size\": 131", "\"vocab_size\": 132",
                                 NULL, NULL },
          "tensor model.embed_tokens.weight has shape [131, 48]" },
        { "llama-bf16-llama3", { "\"num_hidden_layers\": 2",
                                 "\"num_hidden_layers\": 3", NULL, NULL },
          "tensor model.layers.2.input_layernorm.weight is missing" },
        { "llama-bf16-llama3", { "\"head_dim\": 32", "\"head_dim\": 16",
                                 NULL, NULL },
          "tensor model.layers.0.self_attn.q_proj.weight has shape" },
        { "llama-bf16-llama3", { "LlamaForCausalLM", "Qwen2ForCausalLM", NULL,
                                 NULL },
          "tensor model.layers.0.self_attn.q_proj.bias is missing" },
        { "llama-bf16-llama3", { NULL, NULL, "\"lm_head.weight\"",
                                 "\"lm_haed.weight\"" },
          "tensor lm_head.weight is missing" },
        { "qwen3-bf16", { NULL, NULL, "self_attn.q_norm", "self_attn.q_nrom" },
          "q_norm.weight is missing" },
        { "llama-bf16-llama3", { NULL, NULL, "BF16", "I16\"" }, "header" },
        { "llama-bf16-llama3", { NULL, NULL, ":\"BF16\"", ": \"I16\"" },
          "has dtype I16" },
    };
    (void) state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_refused(cases[i].golden, cases[i].edits, cases[i].reason);
    }
}

static void
test_options_out_of_range_are_refused(void **state)
{
    struct model  *m;
    struct err     err = { 0 };
    (void) state;
    struct model_options  o = options(GOLDEN "qwen3-bf16");
    o.max_model_len = 257;
    assert_int_equal(model_open(&m, &o, be, &err), ERROR);
    assert_non_null(strstr(err.message, "max_model_len 257"));
    o = options(GOLDEN "qwen3-bf16");
    o.block_size = 20;
    assert_int_equal(model_open(&m, &o, be, &err), ERROR);
    assert_non_null(strstr(err.message, "block_size 20"));
    o = options(GOLDEN "qwen3-bf16");
    o.num_blocks = 0;
    o.kv_cache_bytes = 1000;
    assert_int_equal(model_open(&m, &o, be, &err), ERROR);
    assert_non_null(strstr(err.message, "KV cache of 1000 bytes"));
    o = options(GOLDEN "qwen3-bf16");
    o.max_num_seqs = 0;
    assert_int_equal(model_open(&m, &o, be, &err), ERROR);
}

static void
test_kv_blocks_follow_from_bytes(void **state)
{
    struct model  *m;
    struct err     err = { 0 };
    (void) state;
    struct model_options  o = options(GOLDEN "qwen3-bf16");
    o.num_blocks = 0;
    o.kv_cache_bytes = 100000;
    assert_int_equal(model_open(&m, &o, be, &err), OK);
    size_t  per_token = model_kv_bytes_per_token(&m->config, DTYPE_BF16);
    assert_int_equal(per_token, 2 * 2 * 2 * 32 * 2);
    assert_int_equal(m->kv.cache.num_blocks, 100000 / (per_token * 32));
    assert_int_equal(m->kv.cache.dtype, DTYPE_BF16);
    assert_int_equal(m->limits.max_blocks_per_seq, 256 / 32);
    assert_int_equal(m->limits.max_num_logits, 2);
    model_close(m);
}

static const float *one_step(struct model *m);

static void
test_an_fp8_cache_has_twice_the_blocks_and_nearly_the_logits(void **state)
{
    static const char *const  dirs[] = { GOLDEN "qwen3-bf16",
                                         GOLDEN "llama-f16-shards",
                                         GOLDEN "qwen2-f32-window" };
    (void) state;
    for (int i = 0; i < 3; i++) {
        struct model         *m;
        struct err            err = { 0 };
        float                 wide[131];
        double                diff = 0.0, size = 0.0;
        struct model_options  o = options(dirs[i]);
        o.num_blocks = 0;
        o.kv_cache_bytes = 1 << 20;
        assert_int_equal(model_open(&m, &o, be, &err), OK);
        size_t  block_bytes = m->kv.block_bytes / dtype_bytes(m->dtype);
        memcpy(wide, one_step(m), sizeof wide);
        model_close(m);
        o.kv_cache_dtype = DTYPE_F8_E4M3;
        assert_int_equal(model_open(&m, &o, be, &err), OK);
        assert_int_equal(m->kv.block_bytes, block_bytes);
        assert_int_equal(m->kv.cache.num_blocks, (1 << 20) / block_bytes);
        assert_true(m->kv.cache.scales[0] == 1.0f);
        const float  *logits = one_step(m);
        for (int j = 0; j < 131; j++) {
            diff += pow((double) (logits[j] - wide[j]), 2.0);
            size += pow((double) wide[j], 2.0);
        }
        assert_true(diff > 0.0 && diff < 0.01 * size);
        model_close(m);
    }
}

/* One step of 3 tokens; the logits of the last. */
static const float *
one_step(struct model *m)
{
    static const int32_t  ids[] = { 9, 8, 7 }, block = 1;
    struct batch          b;
    const float          *logits;
    struct err            err = { 0 };
    assert_int_equal(batch_init(&b, &m->limits, &err), OK);
    (void) batch_append(&b, &(struct batch_seq) { ids, 3, 0, &block,
                                                  m->block_size, 1 });
    assert_int_equal(model_forward(m, &b, &logits, &err), OK);
    batch_destroy(&b);
    return logits;
}

static void
test_random_weights_give_finite_and_repeatable_logits(void **state)
{
    float  first[131];
    (void) state;
    for (int round = 0; round < 2; round++) {
        struct model         *m;
        struct err            err = { 0 };
        struct model_options  o = options(GOLDEN "llama-f16-shards");
        o.load_format = LOAD_DUMMY;
        o.dummy_seed = 42;
        assert_int_equal(model_open(&m, &o, be, &err), OK);
        const float  *logits = one_step(m);
        for (int i = 0; i < 131; i++) {
            assert_true(isfinite(logits[i]));
            if (round == 0) {
                first[i] = logits[i];
            }
            assert_true(logits[i] == first[i]);
        }
        assert_true(first[0] != first[1]);
        model_close(m);
    }
}

static void
test_two_models_share_one_backend(void **state)
{
    struct model  *a, *b;
    struct err     err = { 0 };
    float          alone[131];
    (void) state;
    struct model_options  o = options(GOLDEN "qwen3-bf16");
    assert_int_equal(model_open(&a, &o, be, &err), OK);
    memcpy(alone, one_step(a), sizeof alone);
    o = options(GOLDEN "llama-f32-tied");
    o.max_num_batched_tokens = 100;
    o.max_num_seqs = 9;
    assert_int_equal(model_open(&b, &o, be, &err), OK);
    (void) one_step(b);
    assert_memory_equal(one_step(a), alone, sizeof alone);
    model_close(b);
    model_close(a);
    model_close(NULL);
}

/* A device whose memory others use, too. */
static size_t  device_free;

static int
device_memory(struct backend *b, size_t *free_bytes, size_t *total_bytes,
              struct err *err)
{
    (void) b;
    (void) err;
    *free_bytes = device_free;
    *total_bytes = 1000 << 20;
    return OK;
}

static int
open_on_device(size_t free_bytes, size_t kv_cache_bytes, int max_model_len,
               size_t *kv_bytes, struct err *err)
{
    const struct backend_ops  *ops = be->ops;
    struct backend_ops         on_device = *ops;
    struct model              *m = NULL;
    struct model_options       o = options(GOLDEN "llama-bf16-llama3");

    on_device.memory = device_memory;
    device_free = free_bytes;
    o.num_blocks = 0;
    o.kv_cache_bytes = kv_cache_bytes;
    o.max_model_len = max_model_len;
    o.gpu_memory_utilization = 0.9;
    be->ops = &on_device;
    int  rc = model_open(&m, &o, be, err);
    if (rc == OK) {
        struct model_memory  use;
        model_memory(m, &use);
        *kv_bytes = use.kv;
        model_close(m);
    }
    be->ops = ops;
    return rc;
}

/* Up to its share of the whole, whoever has the rest; and where that does not do,
 * the error is marked: it may pass.  A size that was asked for is no such thing. */
static void
test_the_kv_cache_fills_what_others_leave(void **state)
{
    struct err  err = { 0 };
    size_t      kv = 0;

    (void) state;
    assert_int_equal(open_on_device(120 << 20, 0, 0, &kv, &err), OK);
    assert_true(kv > (19 << 20) && kv <= (20 << 20));

    assert_int_equal(open_on_device(50 << 20, 0, 0, &kv, &err), ERROR);
    assert_non_null(strstr(err.message, "end what else uses the GPU"));
    assert_true(err.device_full);

    assert_int_equal(open_on_device((100 << 20) + 1024, 0, 0, &kv, &err), ERROR);
    assert_non_null(strstr(err.message, "holds 0 blocks"));
    assert_true(err.device_full);

    assert_int_equal(open_on_device((100 << 20) + (64 << 10), 0, 256, &kv,
                                    &err), ERROR);
    assert_non_null(strstr(err.message, "max_model_len 256 needs"));
    assert_true(err.device_full);

    assert_int_equal(open_on_device(120 << 20, 1024, 0, &kv, &err), ERROR);
    assert_non_null(strstr(err.message, "holds 0 blocks"));
    assert_false(err.device_full);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_weights_that_do_not_fit_the_config_are_refused),
        cmocka_unit_test(test_options_out_of_range_are_refused),
        cmocka_unit_test(test_kv_blocks_follow_from_bytes),
        cmocka_unit_test(
            test_an_fp8_cache_has_twice_the_blocks_and_nearly_the_logits),
        cmocka_unit_test(test_random_weights_give_finite_and_repeatable_logits),
        cmocka_unit_test(test_two_models_share_one_backend),
        cmocka_unit_test(test_the_kv_cache_fills_what_others_leave),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
