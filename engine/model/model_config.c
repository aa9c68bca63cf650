/* model_config.c - reads what the forward pass needs, refuses what it would
 * get wrong.
 *
 * A reader keeps the first error and turns later reads into no-ops, so the
 * parse reads like a list of fields.  Defaults for absent keys are those of
 * the architecture's configuration class in transformers. */
#include "engine/model/model_config.h"
#include "engine/base/arena.h"
#include "engine/base/check.h"
#include "engine/base/json.h"
#include "engine/base/log.h"
#include "engine/model/model_file.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#define CONFIG_ARENA_BYTES  ((size_t) 64 << 20)
#define REQUIRED            INT_MIN

struct config_reader {
    const char        *file;     /* for messages */
    const struct json *root;     /* object being read */
    struct err        *err;
    bool               failed;
};

#define config_fail(r, ...)                                                   \
    do {                                                                      \
        if (!(r)->failed) {                                                   \
            (void) err_set((r)->err, __VA_ARGS__);                            \
            (r)->failed = true;                                               \
        }                                                                     \
    } while (0)

/* ---- reading values -------------------------------------------------------- */

/* The member, or NULL when absent or null. */
static const struct json *
config_find(const struct config_reader *r, const char *key)
{
    const struct json  *v = json_find(r->root, key);
    return v == NULL || v->type == JSON_NULL ? NULL : v;
}

static bool
config_has_null(const struct config_reader *r, const char *key)
{
    const struct json  *v = json_find(r->root, key);
    return v != NULL && v->type == JSON_NULL;
}

static int
config_int_of(struct config_reader *r, const struct json *v, const char *key,
              int min, int max)
{
    if (v->type != JSON_INT || !v->int_fits || v->i < min || v->i > max) {
        config_fail(r, "%s: %s is %.*s (%s), must be an integer in %d .. %d",
                    r->file, key, STR_ARG(v->string), json_type_name(v->type),
                    min, max);
        return min;
    }
    return (int) v->i;
}

/* fallback REQUIRED: the key must be there. */
static int
config_int(struct config_reader *r, const char *key, int fallback, int min,
           int max)
{
    const struct json  *v = config_find(r, key);
    if (v == NULL) {
        if (fallback == REQUIRED) {
            config_fail(r, "%s: %s is missing", r->file, key);
            return min;
        }
        return fallback;
    }
    return config_int_of(r, v, key, min, max);
}

/* fallback NAN: absent is NAN. */
static double
config_double(struct config_reader *r, const char *key, double fallback,
              double min, double max)
{
    const struct json  *v = config_find(r, key);
    if (v == NULL) {
        return fallback;
    }
    if ((v->type != JSON_INT && v->type != JSON_FLOAT)
        || !(v->f >= min && v->f <= max))
    {
        config_fail(r, "%s: %s is %.*s (%s), must be a number in %g .. %g",
                    r->file, key, STR_ARG(v->string), json_type_name(v->type),
                    min, max);
        return min;
    }
    return v->f;
}

static double
config_double_required(struct config_reader *r, const char *key, double min,
                       double max)
{
    double  x = config_double(r, key, NAN, min, max);
    if (isnan(x)) {
        config_fail(r, "%s: %s is missing", r->file, key);
    }
    return x;
}

static bool
config_bool(struct config_reader *r, const char *key, bool fallback)
{
    const struct json  *v = config_find(r, key);
    if (v == NULL) {
        return fallback;
    }
    if (v->type != JSON_BOOL) {
        config_fail(r, "%s: %s must be true or false, not %s", r->file, key,
                    json_type_name(v->type));
        return fallback;
    }
    return v->b;
}

/* Empty when absent. */
static struct str
config_string(struct config_reader *r, const char *key)
{
    const struct json  *v = config_find(r, key);
    if (v == NULL) {
        return (struct str) { NULL, 0 };
    }
    if (v->type != JSON_STRING) {
        config_fail(r, "%s: %s must be a string, not %s", r->file, key,
                    json_type_name(v->type));
        return (struct str) { NULL, 0 };
    }
    return v->string;
}

/* ---- architecture ------------------------------------------------------------ */

static const struct {
    const char      *name;
    enum model_arch  arch;
} architectures[] = {
    { "LlamaForCausalLM", ARCH_LLAMA },
    { "MistralForCausalLM", ARCH_MISTRAL },
    { "Qwen2ForCausalLM", ARCH_QWEN2 },
    { "Qwen3ForCausalLM", ARCH_QWEN3 },
};

static void
read_architecture(struct config_reader *r, struct model_config *c)
{
    const struct json  *list = config_find(r, "architectures");
    if (list == NULL || list->type != JSON_ARRAY || list->child == NULL
        || list->child->type != JSON_STRING)
    {
        config_fail(r, "%s: architectures is missing or not a list of names",
                    r->file);
        return;
    }
    struct str  name = list->child->string;
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++) {
        if (str_eq(name, str_from(architectures[i].name))) {
            c->arch = architectures[i].arch;
            c->architecture = architectures[i].name;
            return;
        }
    }
    config_fail(r, "%s: architecture %.*s is not supported; supported are "
                "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM and "
                "Qwen3ForCausalLM", r->file, STR_ARG(name));
}

static enum dtype
dtype_parse(struct str name)
{
    static const enum dtype  all[] = { DTYPE_F32, DTYPE_BF16, DTYPE_F16 };
    for (int i = 0; i < 3; i++) {
        if (str_eq(name, str_from(dtype_name(all[i])))) {
            return all[i];
        }
    }
    return DTYPE_NONE;
}

static void
read_dtype(struct config_reader *r, struct model_config *c)
{
    const char  *key = config_find(r, "dtype") != NULL ? "dtype"
                                                       : "torch_dtype";
    struct str   name = config_string(r, key);
    if (name.len == 0) {
        return;
    }
    c->dtype = dtype_parse(name);
    if (c->dtype == DTYPE_NONE) {
        config_fail(r, "%s: %s %.*s is not supported; supported are float32, "
                    "bfloat16 and float16", r->file, key, STR_ARG(name));
    }
}

/* Keys that change the computation and that no code here implements, with the
 * value that changes nothing. */
static const struct {
    const char *key;
    double      neutral;
} unsupported_numbers[] = {
    { "pretraining_tp", 1 },
    { "partial_rotary_factor", 1 },
    { "attn_logit_softcapping", 0 },
    { "final_logit_softcapping", 0 },
    { "embedding_multiplier", 1 },
    { "residual_multiplier", 1 },
    { "logits_scaling", 1 },
    { "logit_scale", 1 },
    { "num_experts", 0 },
    { "num_local_experts", 0 },
};

static bool
json_is(const struct json *object, const char *key, const char *text)
{
    const struct json  *v = json_find(object, key);
    return v != NULL && v->type == JSON_STRING
           && str_eq(v->string, str_from(text));
}

/* compressed-tensors with scales for an fp8 KV cache and nothing else: the
 * weights are as they were; see kv_scales.h. */
static bool
quantizes_kv_only(const struct json *quant)
{
    if (quant->type != JSON_OBJECT
        || !json_is(quant, "quant_method", "compressed-tensors"))
    {
        return false;
    }
    const struct json  *groups = json_find(quant, "config_groups");
    const struct json  *kv = json_find(quant, "kv_cache_scheme");
    const struct json  *bits = kv != NULL && kv->type == JSON_OBJECT
                               ? json_find(kv, "num_bits") : NULL;
    return (groups == NULL || groups->type == JSON_NULL
            || (groups->type == JSON_OBJECT && groups->num_children == 0))
           && bits != NULL && bits->type == JSON_INT && bits->f == 8
           && json_is(kv, "type", "float") && json_is(kv, "strategy", "tensor");
}

static void
refuse_unsupported(struct config_reader *r, const struct model_config *c)
{
    for (size_t i = 0;
         i < sizeof unsupported_numbers / sizeof *unsupported_numbers; i++)
    {
        const char         *key = unsupported_numbers[i].key;
        const struct json  *v = config_find(r, key);
        if (v != NULL && (v->type == JSON_INT || v->type == JSON_FLOAT)
            && v->f != unsupported_numbers[i].neutral)
        {
            config_fail(r, "%s: %s %.*s is not supported for %s", r->file, key,
                        STR_ARG(v->string), c->architecture);
        }
    }
    const struct json  *quant = config_find(r, "quantization_config");
    if (quant != NULL && !quantizes_kv_only(quant)) {
        const struct json  *method = quant->type == JSON_OBJECT
                                     ? json_find(quant, "quant_method") : NULL;
        struct str          name = method != NULL && method->type == JSON_STRING
                                   ? method->string : STR("unknown");
        config_fail(r, "%s: quantization_config (%.*s) is not supported; use "
                    "the float32, bfloat16 or float16 model", r->file,
                    STR_ARG(name));
    }
    const struct json  *scale = config_find(r, "attention_multiplier");
    if (scale != NULL) {
        config_fail(r, "%s: attention_multiplier %.*s is not supported",
                    r->file, STR_ARG(scale->string));
    }
    struct str  act = config_string(r, "hidden_act");
    if (act.len != 0 && !str_eq(act, STR("silu")) && !str_eq(act, STR("swish")))
    {
        config_fail(r, "%s: hidden_act %.*s is not supported; only silu is",
                    r->file, STR_ARG(act));
    }
}

/* ---- shapes ------------------------------------------------------------------ */

static void
read_heads(struct config_reader *r, struct model_config *c)
{
    c->num_attention_heads = config_int(r, "num_attention_heads", REQUIRED, 1,
                                        MODEL_HEADS_MAX);
    /* Only Llama's class falls back to num_attention_heads; the others' fixed
     * defaults are never what a file without the key meant. */
    int  kv_fallback = c->arch == ARCH_LLAMA
                       || config_has_null(r, "num_key_value_heads")
                       ? c->num_attention_heads : REQUIRED;
    c->num_key_value_heads = config_int(r, "num_key_value_heads", kv_fallback,
                                        1, MODEL_HEADS_MAX);
    if (r->failed) {
        return;
    }
    if (c->num_attention_heads % c->num_key_value_heads != 0) {
        config_fail(r, "%s: num_key_value_heads %d does not divide "
                    "num_attention_heads %d", r->file, c->num_key_value_heads,
                    c->num_attention_heads);
        return;
    }
    bool  absent = json_find(r->root, "head_dim") == NULL;
    int   fallback = absent && c->arch == ARCH_QWEN3
                     ? 128 : c->hidden_size / c->num_attention_heads;
    if (config_find(r, "head_dim") == NULL
        && !(absent && c->arch == ARCH_QWEN3)
        && c->hidden_size % c->num_attention_heads != 0)
    {
        config_fail(r, "%s: num_attention_heads %d does not divide hidden_size "
                    "%d, and there is no head_dim", r->file,
                    c->num_attention_heads, c->hidden_size);
        return;
    }
    c->head_dim = config_int(r, "head_dim", fallback, 2, MODEL_HEAD_DIM_MAX);
    if (!r->failed
        && (c->head_dim % 2 != 0 || c->head_dim < 2
            || c->head_dim > MODEL_HEAD_DIM_MAX))
    {
        config_fail(r, "%s: head_dim %d must be even and in 2 .. %d", r->file,
                    c->head_dim, MODEL_HEAD_DIM_MAX);
    }
}

static void
read_shapes(struct config_reader *r, struct model_config *c)
{
    c->hidden_size = config_int(r, "hidden_size", REQUIRED, 1, MODEL_DIM_MAX);
    c->intermediate_size = config_int(r, "intermediate_size", REQUIRED, 1,
                                      MODEL_DIM_MAX);
    c->num_hidden_layers = config_int(r, "num_hidden_layers", REQUIRED, 1,
                                      MODEL_LAYERS_MAX);
    c->vocab_size = config_int(r, "vocab_size", REQUIRED, 1, MODEL_VOCAB_MAX);
    c->max_position_embeddings = config_int(r, "max_position_embeddings",
                                            REQUIRED, 1, MODEL_POSITIONS_MAX);
    c->rms_norm_eps = config_double(r, "rms_norm_eps", 1e-6, 0.0, 1.0);
    c->tie_word_embeddings = config_bool(r, "tie_word_embeddings", false);
    if (!r->failed) {
        read_heads(r, c);
    }
}

/* Qwen2 has q, k, v biases and no field for them; Llama and Qwen3 have
 * attention_bias for all four; Mistral has none. */
static void
read_biases(struct config_reader *r, struct model_config *c)
{
    bool  attention_bias = config_bool(r, "attention_bias", false);
    bool  mlp_bias = config_bool(r, "mlp_bias", false);
    c->qk_norm = c->arch == ARCH_QWEN3;
    c->qkv_bias = c->arch == ARCH_QWEN2;
    if (c->arch == ARCH_LLAMA || c->arch == ARCH_QWEN3) {
        c->qkv_bias = c->o_bias = attention_bias;
    } else if (attention_bias && c->arch == ARCH_MISTRAL) {
        config_fail(r, "%s: attention_bias true is not supported for %s",
                    r->file, c->architecture);
    }
    if (c->arch == ARCH_LLAMA) {
        c->mlp_bias = mlp_bias;
    } else if (mlp_bias) {
        config_fail(r, "%s: mlp_bias true is not supported for %s", r->file,
                    c->architecture);
    }
}

/* ---- sliding window ---------------------------------------------------------- */

static void
read_layer_types(struct config_reader *r, struct model_config *c,
                 const struct json *list, int window)
{
    int  i = 0;
    if (list->type != JSON_ARRAY
        || list->num_children != (uint32_t) c->num_hidden_layers)
    {
        config_fail(r, "%s: layer_types must list one type for each of the %d "
                    "layers", r->file, c->num_hidden_layers);
        return;
    }
    for (const struct json *v = list->child; v != NULL; v = v->next, i++) {
        bool  is_text = v->type == JSON_STRING;
        if (is_text && str_eq(v->string, STR("full_attention"))) {
            c->sliding_window[i] = 0;
        } else if (is_text && str_eq(v->string, STR("sliding_attention"))) {
            if (window == 0) {
                config_fail(r, "%s: layer_types has sliding_attention, but "
                            "there is no sliding_window", r->file);
            }
            c->sliding_window[i] = window;
        } else {
            config_fail(r, "%s: layer_types[%d] %.*s is not supported", r->file,
                        i, STR_ARG(v->string));
        }
    }
}

/* Mistral: every layer, 4096 unless given, null for none.  Qwen: layers from
 * max_window_layers on, and only with use_sliding_window.  Llama: none. */
static void
read_sliding_window(struct config_reader *r, struct model_config *c)
{
    const struct json  *types = config_find(r, "layer_types");
    int                 window = 0, first = 0;
    if (c->arch == ARCH_LLAMA) {
        return;
    }
    if (!config_has_null(r, "sliding_window")) {
        window = config_int(r, "sliding_window", 4096, 1, INT_MAX);
    }
    if (c->arch != ARCH_MISTRAL) {
        if (!config_bool(r, "use_sliding_window", false)) {
            window = 0;
        }
        first = config_int(r, "max_window_layers", 28, 0, INT_MAX);
        if (types != NULL) {
            read_layer_types(r, c, types, window);
            return;
        }
    }
    for (int i = first; i < c->num_hidden_layers; i++) {
        c->sliding_window[i] = window;
    }
}

/* ---- rope -------------------------------------------------------------------- */

const char *
rope_type_name(enum rope_type type)
{
    static const char *const  names[] = { "default", "linear", "llama3",
                                          "yarn" };
    return names[type];
}

static void
read_rope_type(struct config_reader *r, struct rope_config *rope)
{
    struct str  type = config_string(r, "rope_type");
    if (type.len == 0) {
        type = config_string(r, "type");
    }
    if (type.len == 0) {
        rope->rope_type = ROPE_DEFAULT;
        return;
    }
    for (int i = ROPE_DEFAULT; i <= ROPE_YARN; i++) {
        if (str_eq(type, str_from(rope_type_name((enum rope_type) i)))) {
            rope->rope_type = (enum rope_type) i;
            return;
        }
    }
    config_fail(r, "%s: rope_type %.*s is not supported; supported are "
                "default, linear, llama3 and yarn", r->file, STR_ARG(type));
}

/* A key of the rope dictionary that its type does not define would be silently
 * lost: refuse it by name. */
static void
refuse_unknown_rope_keys(struct config_reader *r, const struct rope_config *rope)
{
    static const char *const  known[] = {
        "rope_type", "type", "rope_theta", "factor", "low_freq_factor",
        "high_freq_factor", "original_max_position_embeddings", "beta_fast",
        "beta_slow", "attention_factor", "mscale", "mscale_all_dim",
        "truncate", "partial_rotary_factor", "max_position_embeddings",
        "finetuned"
    };
    for (const struct json *v = r->root->child; v != NULL; v = v->next) {
        bool  found = v->type == JSON_NULL;
        for (size_t i = 0; !found && i < sizeof known / sizeof *known; i++) {
            found = str_eq(v->key, str_from(known[i]));
        }
        if (!found) {
            config_fail(r, "%s: rope parameter %.*s is not supported (rope_type"
                        " %s)", r->file, STR_ARG(v->key),
                        rope_type_name(rope->rope_type));
        }
    }
    double  part = config_double(r, "partial_rotary_factor", 1.0, 0.0, 1.0);
    if (!r->failed && part != 1.0) {
        config_fail(r, "%s: partial_rotary_factor %g is not supported", r->file,
                    part);
    }
}

static double
yarn_mscale(double factor, double mscale)
{
    return factor <= 1.0 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

static void
read_yarn(struct config_reader *r, struct rope_config *rope)
{
    double  mscale = config_double(r, "mscale", 0.0, 0.0, 1e3);
    double  mscale_all = config_double(r, "mscale_all_dim", 0.0, 0.0, 1e3);
    double  factor = rope->factor;
    double  fallback = mscale != 0.0 && mscale_all != 0.0
                       ? yarn_mscale(factor, mscale)
                         / yarn_mscale(factor, mscale_all)
                       : yarn_mscale(factor, 1.0);
    rope->attention_factor = config_double(r, "attention_factor", fallback,
                                           1e-3, 1e3);
    rope->beta_fast = config_double(r, "beta_fast", 32.0, 1e-3, 1e6);
    rope->beta_slow = config_double(r, "beta_slow", 1.0, 1e-3, 1e6);
    rope->truncate = config_bool(r, "truncate", true);
}

/* r->root is the rope dictionary. */
static void
read_rope_dict(struct config_reader *r, struct model_config *c)
{
    struct rope_config  *rope = &c->rope;
    rope->rope_theta = config_double(r, "rope_theta", rope->rope_theta, 1.0,
                                     1e12);
    read_rope_type(r, rope);
    refuse_unknown_rope_keys(r, rope);
    if (r->failed || rope->rope_type == ROPE_DEFAULT) {
        return;
    }
    rope->factor = config_double_required(r, "factor", 1.0, 1e6);
    if (rope->rope_type == ROPE_LINEAR) {
        return;
    }
    if (rope->original_max_position_embeddings == 0) {
        rope->original_max_position_embeddings =
            config_int(r, "original_max_position_embeddings",
                       c->max_position_embeddings, 1, MODEL_POSITIONS_MAX);
    }
    if (rope->rope_type == ROPE_YARN) {
        read_yarn(r, rope);
        return;
    }
    rope->low_freq_factor = config_double_required(r, "low_freq_factor", 1e-6,
                                                   1e6);
    rope->high_freq_factor = config_double_required(r, "high_freq_factor",
                                                    1e-6, 1e6);
    if (!r->failed && rope->high_freq_factor <= rope->low_freq_factor) {
        config_fail(r, "%s: high_freq_factor %g must be greater than "
                    "low_freq_factor %g", r->file, rope->high_freq_factor,
                    rope->low_freq_factor);
    }
}

/* Where a file says a thing twice, the winner is transformers': a rope_scaling
 * that is not empty, original_max_position_embeddings outside of it. */
static void
read_rope(struct config_reader *r, struct model_config *c)
{
    const struct json  *dict = config_find(r, "rope_scaling");
    if (dict == NULL || (dict->type == JSON_OBJECT && dict->child == NULL)) {
        dict = config_find(r, "rope_parameters");
    }
    c->rope = (struct rope_config) { .rope_type = ROPE_DEFAULT, .factor = 1.0,
                                     .attention_factor = 1.0,
                                     .truncate = true };
    c->rope.rope_theta = config_double(r, "rope_theta", 10000.0, 1.0, 1e12);
    c->rope.original_max_position_embeddings =
        config_int(r, "original_max_position_embeddings", 0, 1,
                   MODEL_POSITIONS_MAX);
    if (dict == NULL || r->failed) {
        return;
    }
    if (dict->type != JSON_OBJECT) {
        config_fail(r, "%s: the rope parameters must be an object, not %s",
                    r->file, json_type_name(dict->type));
        return;
    }
    struct config_reader  inner = { r->file, dict, r->err, false };
    read_rope_dict(&inner, c);
    r->failed = inner.failed;
}

/* ---- token ids and sampling defaults ------------------------------------------ */

/* An id or a list of ids; leaves *c alone when the key is absent. */
static void
read_eos(struct config_reader *r, struct model_config *c)
{
    const struct json  *v = config_find(r, "eos_token_id");
    if (v == NULL) {
        return;
    }
    c->num_eos_token_ids = 0;
    if (v->type != JSON_ARRAY) {
        c->eos_token_ids[c->num_eos_token_ids++] =
            config_int_of(r, v, "eos_token_id", 0, MODEL_VOCAB_MAX);
        return;
    }
    if (v->num_children > MODEL_EOS_IDS_MAX) {
        config_fail(r, "%s: eos_token_id lists %u ids, the limit is %d",
                    r->file, v->num_children, MODEL_EOS_IDS_MAX);
        return;
    }
    for (const struct json *id = v->child; id != NULL; id = id->next) {
        c->eos_token_ids[c->num_eos_token_ids++] =
            config_int_of(r, id, "eos_token_id[]", 0, MODEL_VOCAB_MAX);
    }
}

static void
read_token_ids(struct config_reader *r, struct model_config *c)
{
    c->bos_token_id = config_int(r, "bos_token_id", c->bos_token_id, -1,
                                 MODEL_VOCAB_MAX);
    c->pad_token_id = config_int(r, "pad_token_id", c->pad_token_id, -1,
                                 MODEL_VOCAB_MAX);
    read_eos(r, c);
}

static void
read_generation(struct config_reader *r, struct generation_defaults *g)
{
    g->temperature = config_double(r, "temperature", NAN, 0.0, 100.0);
    g->top_p = config_double(r, "top_p", NAN, 0.0, 1.0);
    g->min_p = config_double(r, "min_p", NAN, 0.0, 1.0);
    g->repetition_penalty = config_double(r, "repetition_penalty", NAN, 1e-3,
                                          100.0);
    g->top_k = config_int(r, "top_k", -1, -1, INT_MAX);
    g->max_new_tokens = config_int(r, "max_new_tokens", -1, 1, INT_MAX);
}

/* ---- whole files ---------------------------------------------------------------- */

static void
log_ignored_keys(const struct json *root)
{
    static const char *const  used[] = {
        "architectures", "hidden_size", "intermediate_size",
        "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "head_dim", "vocab_size", "max_position_embeddings", "rms_norm_eps",
        "tie_word_embeddings", "attention_bias", "mlp_bias", "hidden_act",
        "dtype", "torch_dtype", "rope_theta", "rope_scaling",
        "rope_parameters", "sliding_window", "use_sliding_window",
        "original_max_position_embeddings", "max_window_layers",
        "layer_types", "bos_token_id", "eos_token_id",
        "pad_token_id", "pretraining_tp"
    };
    for (const struct json *v = root->child; v != NULL; v = v->next) {
        bool  found = false;
        for (size_t i = 0; !found && i < sizeof used / sizeof *used; i++) {
            found = str_eq(v->key, str_from(used[i]));
        }
        if (!found) {
            log_debug("config.json: %.*s is not used", STR_ARG(v->key));
        }
    }
}

static const struct json *
parse_object(struct str text, const char *file, struct arena *arena,
             struct err *err)
{
    struct json  *root;
    if (json_parse(&root, text, arena, &json_limits_file, err) != OK) {
        (void) err_prefix(err, "%s", file);
        return NULL;
    }
    if (root->type != JSON_OBJECT) {
        (void) err_set(err, "%s: must hold a JSON object, not %s", file,
                       json_type_name(root->type));
        return NULL;
    }
    return root;
}

static int
parse_files(struct model_config *c, struct str config_text,
            struct str generation_text, struct arena *arena, struct err *err)
{
    struct config_reader  r = { "config.json", NULL, err, false };
    r.root = parse_object(config_text, r.file, arena, err);
    if (r.root == NULL) {
        return ERROR;
    }
    read_architecture(&r, c);
    if (!r.failed) {
        refuse_unsupported(&r, c);
        read_dtype(&r, c);
        read_shapes(&r, c);
        read_biases(&r, c);
    }
    if (!r.failed) {
        read_sliding_window(&r, c);
        read_rope(&r, c);
        read_token_ids(&r, c);
        log_ignored_keys(r.root);
    }
    if (r.failed || generation_text.data == NULL) {
        return r.failed ? ERROR : OK;
    }
    r.file = "generation_config.json";
    r.root = parse_object(generation_text, r.file, arena, err);
    if (r.root == NULL) {
        return ERROR;
    }
    read_token_ids(&r, c);
    read_generation(&r, &c->generation);
    return r.failed ? ERROR : OK;
}

int
model_config_parse(struct model_config *out, struct str config_text,
                   struct str generation_text, struct err *err)
{
    struct arena  arena;
    *out = (struct model_config) {
        .bos_token_id = -1,
        .pad_token_id = -1,
        .generation = { NAN, NAN, -1, NAN, NAN, -1 },
    };
    arena_init(&arena, CONFIG_ARENA_BYTES);
    int  rc = parse_files(out, config_text, generation_text, &arena, err);
    arena_destroy(&arena);
    return rc;
}

int
model_config_load(struct model_config *out, const char *dir, struct err *err)
{
    struct str  config, generation;
    int         rc = model_file_read(&config, dir, "config.json",
                                     MODEL_CONFIG_BYTES_MAX, err);
    if (rc == AGAIN) {
        return err_set(err, "%s: there is no config.json; is this a Hugging "
                       "Face model directory?", dir);
    }
    if (rc != OK) {
        return ERROR;
    }
    rc = model_file_read(&generation, dir, "generation_config.json",
                         MODEL_CONFIG_BYTES_MAX, err);
    if (rc != ERROR) {
        rc = model_config_parse(out, config, generation, err);
        if (rc != OK) {
            (void) err_prefix(err, "%s", dir);
        }
    }
    model_file_free(&config);
    model_file_free(&generation);
    return rc;
}

int
model_config_max_len(const struct model_config *cfg)
{
    double  len = cfg->max_position_embeddings;
    if (cfg->rope.rope_type == ROPE_YARN) {
        len = fmax(len, cfg->rope.original_max_position_embeddings
                        * cfg->rope.factor);
    }
    return (int) fmin(len, MODEL_POSITIONS_MAX);
}

int64_t
model_config_num_parameters(const struct model_config *c)
{
    int64_t  h = c->hidden_size, inter = c->intermediate_size;
    int64_t  q = (int64_t) c->num_attention_heads * c->head_dim;
    int64_t  kv = (int64_t) c->num_key_value_heads * c->head_dim;
    int64_t  layer = h * (q + 2 * kv) + q * h + 3 * h * inter + 2 * h;
    layer += c->qkv_bias ? q + 2 * kv : 0;
    layer += c->o_bias ? h : 0;
    layer += c->mlp_bias ? 2 * inter + h : 0;
    layer += c->qk_norm ? 2 * (int64_t) c->head_dim : 0;
    int64_t  embed = (int64_t) c->vocab_size * h;
    return layer * c->num_hidden_layers + h
           + (c->tie_word_embeddings ? embed : 2 * embed);
}
