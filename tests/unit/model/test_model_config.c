/* test_model_config.c - both forms of config.json give one meaning; what would
 * change the result and is not understood is refused by name and value. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/model/model_config.h"
#include "engine/model/model_file.h"

#define TEXT_MAX  4096

static int
parse(struct model_config *c, const char *config, const char *generation,
      struct err *err)
{
    *err = (struct err) { 0 };
    return model_config_parse(c, str_from(config), str_from(generation), err);
}

/* A small Llama with `extra` members added at the end. */
static const char *
llama(const char *arch, const char *extra)
{
    static char  text[TEXT_MAX];
    (void) snprintf(text, sizeof text,
                    "{\"architectures\":[\"%s\"],\"hidden_size\":64,"
                    "\"intermediate_size\":96,\"num_hidden_layers\":4,"
                    "\"num_attention_heads\":4,\"num_key_value_heads\":2,"
                    "\"vocab_size\":100,\"max_position_embeddings\":128%s%s}",
                    arch, extra[0] == '\0' ? "" : ",", extra);
    return text;
}

static void
load(struct model_config *c, const char *arch, const char *extra)
{
    struct err  err;
    if (parse(c, llama(arch, extra), NULL, &err) != OK) {
        fail_msg("%s", err.message);
    }
}

static void
assert_refused(const char *arch, const char *extra, const char *reason)
{
    struct model_config  c;
    struct err           err;
    assert_int_equal(parse(&c, llama(arch, extra), NULL, &err), ERROR);
    if (strstr(err.message, reason) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", err.message, reason);
    }
}

static void
test_defaults_are_those_of_the_architecture(void **state)
{
    struct model_config  c;
    (void) state;
    load(&c, "LlamaForCausalLM", "");
    assert_int_equal(c.head_dim, 16);
    assert_true(c.rms_norm_eps == 1e-6 && c.rope.rope_theta == 10000.0);
    assert_int_equal(c.rope.rope_type, ROPE_DEFAULT);
    assert_false(c.tie_word_embeddings || c.qkv_bias || c.qk_norm);
    assert_int_equal(c.bos_token_id, -1);
    assert_int_equal(c.num_eos_token_ids, 0);
    assert_int_equal(c.sliding_window[0], 0);
    assert_int_equal(c.dtype, DTYPE_NONE);

    load(&c, "MistralForCausalLM", "");
    assert_int_equal(c.sliding_window[3], 4096);
    load(&c, "MistralForCausalLM", "\"sliding_window\":null");
    assert_int_equal(c.sliding_window[3], 0);
    load(&c, "Qwen2ForCausalLM", "\"sliding_window\":16");
    assert_true(c.qkv_bias && !c.o_bias);
    assert_int_equal(c.sliding_window[3], 0);
    load(&c, "Qwen3ForCausalLM", "");
    assert_true(c.qk_norm && !c.qkv_bias);
    assert_int_equal(c.head_dim, 128);
    load(&c, "Qwen3ForCausalLM", "\"head_dim\":32,\"attention_bias\":true");
    assert_true(c.head_dim == 32 && c.qkv_bias && c.o_bias);
    load(&c, "LlamaForCausalLM", "\"attention_bias\":true,\"mlp_bias\":true");
    assert_true(c.qkv_bias && c.o_bias && c.mlp_bias);
}

static void
test_sliding_window_layers_follow_the_architecture(void **state)
{
    struct model_config  c;
    (void) state;
    load(&c, "Qwen2ForCausalLM", "\"use_sliding_window\":true,"
         "\"sliding_window\":16,\"max_window_layers\":3");
    assert_int_equal(c.sliding_window[2], 0);
    assert_int_equal(c.sliding_window[3], 16);
    load(&c, "Qwen3ForCausalLM", "\"use_sliding_window\":true,"
         "\"sliding_window\":16,\"layer_types\":[\"sliding_attention\","
         "\"full_attention\",\"full_attention\",\"sliding_attention\"]");
    assert_int_equal(c.sliding_window[0], 16);
    assert_int_equal(c.sliding_window[1], 0);
    assert_int_equal(c.sliding_window[3], 16);
    assert_refused("Qwen2ForCausalLM", "\"layer_types\":[\"full_attention\"]",
                   "layer_types");
    assert_refused("Qwen2ForCausalLM", "\"layer_types\":[\"full_attention\","
                   "\"linear_attention\",\"full_attention\","
                   "\"full_attention\"]", "layer_types[1] linear_attention");
    assert_refused("MistralForCausalLM", "\"sliding_window\":0",
                   "sliding_window is 0");
}

/* transformers lets the key outside of the dictionary win. */
static void
test_original_max_position_embeddings_outside_of_the_rope_wins(void **state)
{
    struct model_config  a;
    (void) state;
    load(&a, "Qwen3ForCausalLM", "\"original_max_position_embeddings\":64,"
         "\"rope_scaling\":{\"factor\":8,\"rope_type\":\"yarn\"}");
    assert_int_equal(a.rope.original_max_position_embeddings, 64);
    assert_int_equal(model_config_max_len(&a), 512);
    load(&a, "Qwen3ForCausalLM", "\"original_max_position_embeddings\":64,"
         "\"rope_scaling\":{\"factor\":8,\"rope_type\":\"yarn\","
         "\"original_max_position_embeddings\":32}");
    assert_int_equal(a.rope.original_max_position_embeddings, 64);
}

static void
test_rope_scaling_wins_over_rope_parameters_unless_it_is_empty(void **state)
{
    struct model_config  a;
    (void) state;
    load(&a, "LlamaForCausalLM", "\"rope_parameters\":{\"rope_type\":"
         "\"default\",\"rope_theta\":7e5},\"rope_scaling\":{\"type\":"
         "\"linear\",\"factor\":2}");
    assert_int_equal(a.rope.rope_type, ROPE_LINEAR);
    assert_true(a.rope.rope_theta == 10000.0);
    load(&a, "LlamaForCausalLM", "\"rope_parameters\":{\"rope_type\":"
         "\"default\",\"rope_theta\":7e5},\"rope_scaling\":{}");
    assert_int_equal(a.rope.rope_type, ROPE_DEFAULT);
    assert_true(a.rope.rope_theta == 700000.0);
}

static void
test_rope_of_transformers_4_and_5_is_read_alike(void **state)
{
    struct model_config  a, b;
    (void) state;
    load(&a, "LlamaForCausalLM", "\"rope_theta\":5e5,\"rope_scaling\":"
         "{\"type\":\"linear\",\"factor\":4}");
    load(&b, "LlamaForCausalLM", "\"rope_parameters\":{\"rope_theta\":500000,"
         "\"rope_type\":\"linear\",\"factor\":4.0}");
    assert_memory_equal(&a.rope, &b.rope, sizeof a.rope);
    assert_int_equal(a.rope.rope_type, ROPE_LINEAR);
    assert_true(a.rope.factor == 4.0 && a.rope.rope_theta == 500000.0);

    load(&a, "LlamaForCausalLM", "\"rope_scaling\":null");
    assert_int_equal(a.rope.rope_type, ROPE_DEFAULT);
    load(&a, "Qwen2ForCausalLM", "\"rope_scaling\":{\"factor\":4.0,"
         "\"original_max_position_embeddings\":32,\"type\":\"yarn\"}");
    assert_int_equal(a.rope.rope_type, ROPE_YARN);
    assert_true(a.rope.beta_fast == 32.0 && a.rope.beta_slow == 1.0);
    assert_true(fabs(a.rope.attention_factor - (0.1 * log(4.0) + 1.0)) < 1e-12);
    assert_int_equal(model_config_max_len(&a), 128);
    load(&a, "Qwen2ForCausalLM", "\"rope_scaling\":{\"factor\":4.0,"
         "\"rope_type\":\"yarn\"}");
    assert_int_equal(a.rope.original_max_position_embeddings, 128);
    assert_int_equal(model_config_max_len(&a), 512);
    load(&a, "LlamaForCausalLM", "\"rope_scaling\":{\"factor\":4.0,\"low_freq_"
         "factor\":1,\"high_freq_factor\":4,\"rope_type\":\"llama3\"}");
    assert_int_equal(a.rope.original_max_position_embeddings, 128);
}

static const char *const  golden[] = {
    "llama-f32-tied", "llama-f32-bias-linear", "llama-bf16-llama3",
    "llama-f16-shards", "mistral-f32-window", "mistral-bf16-full",
    "mistral-bf16-window", "qwen2-f32-group7", "qwen2-f32-window",
    "qwen2-bf16-yarn", "qwen3-f32-tied", "qwen3-f32-yarn", "qwen3-bf16"
};

static void
test_saved_models_mean_the_same_in_both_forms(void **state)
{
    (void) state;
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        struct model_config  *c = calloc(2, sizeof *c);
        char                  dir[128];
        struct str            texts[2];
        struct err            err = { 0 };
        static const char *const  names[] = { "config.json", "config_v4.json" };
        (void) snprintf(dir, sizeof dir, "tests/model/golden/%s", golden[i]);
        for (int k = 0; k < 2; k++) {
            assert_int_equal(model_file_read(&texts[k], dir, names[k], 1 << 20,
                                             &err), OK);
            if (model_config_parse(&c[k], texts[k], STR("{}"), &err) != OK) {
                fail_msg("%s/%s: %s", golden[i], names[k], err.message);
            }
            model_file_free(&texts[k]);
            c[k].generation = (struct generation_defaults) { 0 };
        }
        assert_memory_equal(&c[0].rope, &c[1].rope, sizeof c[0].rope);
        assert_memory_equal(c[0].sliding_window, c[1].sliding_window,
                            sizeof c[0].sliding_window);
        assert_int_equal(c[0].dtype, c[1].dtype);
        assert_int_equal(c[0].head_dim, c[1].head_dim);
        assert_int_equal(c[0].eos_token_ids[0], 2);
        assert_int_equal(c[1].eos_token_ids[0], 2);
        free(c);
    }
}

static void
test_what_is_not_supported_is_refused_by_name(void **state)
{
    static const struct {
        const char *extra, *reason;
    } cases[] = {
        { "\"hidden_act\":\"gelu\"", "hidden_act gelu" },
        { "\"torch_dtype\":\"float8_e4m3fn\"", "torch_dtype float8_e4m3fn" },
        { "\"dtype\":\"int8\"", "dtype int8" },
        { "\"quantization_config\":{\"quant_method\":\"awq\"}",
          "quantization_config (awq)" },
        { "\"pretraining_tp\":2", "pretraining_tp 2" },
        { "\"partial_rotary_factor\":0.5", "partial_rotary_factor 0.5" },
        { "\"attn_logit_softcapping\":50.0", "attn_logit_softcapping 50.0" },
        { "\"logits_scaling\":8", "logits_scaling 8" },
        { "\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}",
          "rope_type dynamic" },
        { "\"rope_parameters\":{\"rope_type\":\"longrope\",\"factor\":2}",
          "rope_type longrope" },
        { "\"rope_scaling\":{\"type\":\"linear\"}", "factor is missing" },
        { "\"rope_scaling\":{\"type\":\"linear\",\"factor\":\"4\"}", "factor" },
        { "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,"
          "\"mrope_section\":[1]}", "mrope_section" },
        { "\"rope_parameters\":{\"full_attention\":{}}", "full_attention" },
        { "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,"
          "\"original_max_position_embeddings\":32,\"low_freq_factor\":4,"
          "\"high_freq_factor\":1}", "high_freq_factor 1" },
        { "\"rope_scaling\":[]", "rope parameters" },
        { "\"num_key_value_heads\":3",
          "num_key_value_heads 3 does not divide num_attention_heads 4" },
        { "\"num_attention_heads\":5,\"num_key_value_heads\":5",
          "does not divide hidden_size" },
        { "\"head_dim\":15", "head_dim 15" },
        { "\"hidden_size\":0", "hidden_size is 0" },
        { "\"hidden_size\":\"64\"", "hidden_size" },
        { "\"hidden_size\":1.5", "hidden_size is 1.5" },
        { "\"vocab_size\":99999999999", "vocab_size is 99999999999" },
        { "\"num_hidden_layers\":null", "num_hidden_layers is missing" },
        { "\"tie_word_embeddings\":1", "tie_word_embeddings" },
        { "\"eos_token_id\":[1,\"x\"]", "eos_token_id" },
        { "\"eos_token_id\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]",
          "limit is 16" },
        { "\"rms_norm_eps\":-1", "rms_norm_eps is -1" },
    };
    struct model_config  c;
    struct err           err;
    (void) state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_refused("LlamaForCausalLM", cases[i].extra, cases[i].reason);
    }
    assert_refused("PhiForCausalLM", "", "architecture PhiForCausalLM");
    assert_refused("MistralForCausalLM", "\"attention_bias\":true",
                   "attention_bias");
    assert_refused("Qwen3ForCausalLM", "\"mlp_bias\":true", "mlp_bias");
    assert_refused("Qwen2ForCausalLM", "\"num_experts\":8", "num_experts 8");
    assert_int_equal(parse(&c, "{}", NULL, &err), ERROR);
    assert_non_null(strstr(err.message, "architectures"));
    assert_int_equal(parse(&c, "[]", NULL, &err), ERROR);
    assert_int_equal(parse(&c, "{", NULL, &err), ERROR);
    assert_int_equal(parse(&c, "", NULL, &err), ERROR);
}

static void
test_neutral_values_of_unsupported_keys_are_fine(void **state)
{
    struct model_config  c;
    (void) state;
    load(&c, "LlamaForCausalLM", "\"pretraining_tp\":1,\"hidden_act\":\"silu\","
         "\"quantization_config\":null,\"partial_rotary_factor\":1.0,"
         "\"attn_logit_softcapping\":null,\"torch_dtype\":\"bfloat16\","
         "\"use_cache\":true,\"initializer_range\":0.02");
    assert_int_equal(c.dtype, DTYPE_BF16);
}

#define FP8_KV  "\"kv_cache_scheme\":{\"num_bits\":8,\"type\":\"float\","      \
                "\"strategy\":\"tensor\",\"dynamic\":false}"

/* The weights of such a checkpoint are as they were. */
static void
test_scales_of_an_fp8_cache_alone_are_no_quantization(void **state)
{
    struct model_config  c;
    struct err           err;
    (void) state;
    load(&c, "LlamaForCausalLM", "\"quantization_config\":{\"quant_method\":"
         "\"compressed-tensors\",\"config_groups\":{}," FP8_KV "}");
    static const char *const  refused[] = {
        "\"config_groups\":{\"group_0\":{}}," FP8_KV,
        "\"config_groups\":{}",
        "\"config_groups\":{},\"kv_cache_scheme\":null",
        "\"config_groups\":{},\"kv_cache_scheme\":{\"num_bits\":4,"
        "\"type\":\"float\",\"strategy\":\"tensor\"}",
        "\"config_groups\":{},\"kv_cache_scheme\":{\"num_bits\":8,"
        "\"type\":\"int\",\"strategy\":\"tensor\"}",
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        char  extra[512];
        (void) snprintf(extra, sizeof extra, "\"quantization_config\":{"
                        "\"quant_method\":\"compressed-tensors\",%s}",
                        refused[i]);
        assert_int_equal(parse(&c, llama("LlamaForCausalLM", extra), NULL,
                               &err), ERROR);
        assert_non_null(strstr(err.message, "compressed-tensors"));
    }
}

static void
test_generation_config_wins_over_config(void **state)
{
    struct model_config  c;
    struct err           err;
    (void) state;
    const char  *config = llama("LlamaForCausalLM", "\"eos_token_id\":7,"
                                "\"bos_token_id\":3");
    assert_int_equal(parse(&c, config, NULL, &err), OK);
    assert_int_equal(c.num_eos_token_ids, 1);
    assert_int_equal(c.eos_token_ids[0], 7);
    assert_true(isnan(c.generation.temperature));
    assert_int_equal(c.generation.top_k, -1);

    assert_int_equal(parse(&c, config, "{\"eos_token_id\":[11,12],"
                           "\"temperature\":0.6,\"top_p\":0.95,\"top_k\":20,"
                           "\"min_p\":0.1,\"repetition_penalty\":1.05,"
                           "\"do_sample\":true}", &err), OK);
    assert_int_equal(c.num_eos_token_ids, 2);
    assert_int_equal(c.eos_token_ids[1], 12);
    assert_int_equal(c.bos_token_id, 3);
    assert_true(c.generation.temperature == 0.6 && c.generation.top_p == 0.95
                && c.generation.min_p == 0.1
                && c.generation.repetition_penalty == 1.05);
    assert_int_equal(c.generation.top_k, 20);
    assert_int_equal(parse(&c, config, "{\"temperature\":-1}", &err), ERROR);
    assert_non_null(strstr(err.message,
                           "generation_config.json: temperature is -1"));
}

static void
test_parameters_are_counted_as_published(void **state)
{
    struct model_config  c;
    struct err           err = { 0 };
    (void) state;
    assert_int_equal(model_config_load(&c, "tests/model/qwen2.5-0.5b", &err),
                     OK);
    assert_int_equal(model_config_num_parameters(&c), 494032768);
}

static void
test_a_missing_directory_is_an_error_with_its_name(void **state)
{
    struct model_config  c;
    struct err           err = { 0 };
    (void) state;
    assert_int_equal(model_config_load(&c, "/nonexistent", &err), ERROR);
    assert_non_null(strstr(err.message, "/nonexistent"));
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_defaults_are_those_of_the_architecture),
        cmocka_unit_test(test_sliding_window_layers_follow_the_architecture),
        cmocka_unit_test(test_rope_of_transformers_4_and_5_is_read_alike),
        cmocka_unit_test(
            test_original_max_position_embeddings_outside_of_the_rope_wins),
        cmocka_unit_test(
            test_rope_scaling_wins_over_rope_parameters_unless_it_is_empty),
        cmocka_unit_test(test_saved_models_mean_the_same_in_both_forms),
        cmocka_unit_test(test_what_is_not_supported_is_refused_by_name),
        cmocka_unit_test(test_neutral_values_of_unsupported_keys_are_fine),
        cmocka_unit_test(test_scales_of_an_fp8_cache_alone_are_no_quantization),
        cmocka_unit_test(test_generation_config_wins_over_config),
        cmocka_unit_test(test_parameters_are_counted_as_published),
        cmocka_unit_test(test_a_missing_directory_is_an_error_with_its_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
