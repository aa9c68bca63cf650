/* weights.h - names in the files -> weights of the backend.
 *
 * Every tensor the architecture needs must be there with the shape config.json
 * implies; a missing or misshapen one refuses the model by name.  Tensors of
 * the files that nothing asked for are counted and logged; known leftovers
 * (rotary_emb.inv_freq, a stored lm_head of a tied model) at debug level.
 * Weights are computed as stored: float32, bfloat16 or float16, tensor by
 * tensor. */
#ifndef LLM_MODEL_WEIGHTS_H
#define LLM_MODEL_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>
#include "engine/backend/backend.h"
#include "engine/base/err.h"
#include "engine/model/model_config.h"
#include "engine/model/safetensors.h"

struct layer_weights {
    struct weight *input_layernorm;            /* [H] */
    struct weight *qkv_proj;                   /* [(A + 2 KVH) * D, H] (+bias) */
    struct weight *q_norm, *k_norm;            /* [D]; NULL without qk_norm */
    struct weight *o_proj;                     /* [H, A * D] */
    struct weight *post_attention_layernorm;   /* [H] */
    struct weight *gate_up_proj;               /* 2 x [I, H] */
    struct weight *down_proj;                  /* [H, I] */
};

struct weights {
    struct backend        *be;
    struct safetensors    *files;       /* owned; kept while the backend
                                           borrows from the mapping */
    void                  *dummy;       /* owned; LOAD_DUMMY's memory */
    int                    num_layers;
    enum dtype             dtype;       /* stored dtype of embed_tokens */
    size_t                 bytes;       /* read once by a step, embed_tokens
                                           only when it is the lm_head */
    size_t                 num_unused;  /* tensors nothing asked for */
    struct weight         *embed_tokens;   /* [V, H] */
    struct weight         *norm;           /* [H] */
    struct weight         *lm_head;        /* [V, H]; == embed_tokens: tied */
    struct layer_weights  *layers;         /* [num_layers] */
    float                 *kv_scales;      /* [num_layers][2], as kv_scales.h
                                              finds them; zeros: none */
};

/* Takes `files` in every case, also on ERROR (weights_destroy() closes it). */
int weights_load_take(struct weights *w, struct backend *be,
                      const struct model_config *cfg,
                      struct safetensors *files, struct err *err);

/* Random values of the same shapes, in dtype (config.json's, or bf16). */
int weights_load_dummy(struct weights *w, struct backend *be,
                       const struct model_config *cfg, uint64_t seed,
                       struct err *err);

void weights_destroy(struct weights *w);    /* safe on a zeroed struct */

#endif
