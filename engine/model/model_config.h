/* model_config.h - config.json and generation_config.json, read once,
 * checked once, then trusted.
 *
 * Field names are config.json's.  Both forms are read: transformers 4
 * (rope_theta, rope_scaling, torch_dtype) and 5 (rope_parameters, dtype).
 * Anything that would change the result and is not understood refuses the
 * model with its name and value: architecture, rope type, dtype, hidden_act,
 * quantization_config, pretraining_tp > 1 ...  Keys without influence are
 * listed at debug level.
 *
 *     struct model_config cfg;
 *     if (model_config_load(&cfg, "/models/qwen", err) != OK) ... */
#ifndef LLM_MODEL_MODEL_CONFIG_H
#define LLM_MODEL_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/backend/tensor.h"
#include "engine/base/err.h"
#include "engine/base/str.h"

#define MODEL_EOS_IDS_MAX     16
#define MODEL_LAYERS_MAX      256     /* largest open model: 126 */
#define MODEL_DIM_MAX         (1 << 20)   /* of hidden and intermediate_size */
#define MODEL_VOCAB_MAX       (1 << 22)
#define MODEL_HEAD_DIM_MAX    512
#define MODEL_HEADS_MAX       1024
#define MODEL_POSITIONS_MAX   (1 << 24)   /* a float32 counts them exactly */
#define MODEL_CONFIG_BYTES_MAX (4 << 20)

enum model_arch { ARCH_LLAMA, ARCH_MISTRAL, ARCH_QWEN2, ARCH_QWEN3 };

enum rope_type { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN };

struct rope_config {
    enum rope_type  rope_type;
    double          rope_theta;
    double          factor;                /* linear, llama3, yarn */
    double          low_freq_factor;       /* llama3 */
    double          high_freq_factor;      /* llama3 */
    int             original_max_position_embeddings;   /* llama3, yarn */
    double          beta_fast, beta_slow;  /* yarn, 32 and 1 */
    double          attention_factor;      /* yarn; cos and sin times this;
                                              1 for other types */
    bool            truncate;              /* yarn, true */
};

/* What generation_config.json suggests; a request's own value wins.  NAN or
 * -1: not given. */
struct generation_defaults {
    double temperature;           /* do_sample is ignored, as vLLM does */
    double top_p;
    int    top_k;                 /* -1: not given */
    double min_p;
    double repetition_penalty;
    int    max_new_tokens;        /* -1 */
};

struct model_config {
    enum model_arch  arch;
    const char      *architecture;     /* "LlamaForCausalLM", static */
    int              hidden_size;
    int              intermediate_size;
    int              num_hidden_layers;
    int              num_attention_heads;
    int              num_key_value_heads;
    int              head_dim;
    int              vocab_size;
    int              max_position_embeddings;
    double           rms_norm_eps;
    bool             tie_word_embeddings;
    bool             qkv_bias;         /* Qwen2 always; attention_bias */
    bool             o_bias;           /* attention_bias of Llama, Qwen3 */
    bool             mlp_bias;
    bool             qk_norm;          /* Qwen3 */
    enum dtype       dtype;            /* as config.json says; NONE: absent */
    struct rope_config rope;
    /* [num_hidden_layers]: keys a query sees, 0 = all. */
    int              sliding_window[MODEL_LAYERS_MAX];

    int              bos_token_id;                     /* -1: none */
    int              pad_token_id;                     /* -1: none */
    int              num_eos_token_ids;
    int              eos_token_ids[MODEL_EOS_IDS_MAX]; /* generation_config's
                                                          where it has them,
                                                          else config's */
    struct generation_defaults generation;
};

/* Reads DIR/config.json and, where present, DIR/generation_config.json. */
int model_config_load(struct model_config *out, const char *dir,
                      struct err *err);

/* The same from text; generation_text.data may be NULL. */
int model_config_parse(struct model_config *out, struct str config_text,
                       struct str generation_text, struct err *err);

/* The longest context the model is made for: max_position_embeddings, or for
 * yarn original_max_position_embeddings * factor where that is more. */
int model_config_max_len(const struct model_config *cfg);

/* Parameters of the model (tied weights once). */
int64_t model_config_num_parameters(const struct model_config *cfg);

const char *rope_type_name(enum rope_type type);

#endif
