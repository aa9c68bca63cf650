/* model.h - a model ready to run: configuration, weights, activations, KV.
 *
 *     struct model_options opt = { .path = "/models/demo", ... };
 *     if (model_open(&m, &opt, be, err) != OK) { ... }
 *     ... fill a batch ...
 *     const float *logits;
 *     if (model_forward(m, &batch, &logits, err) != OK) { ... }
 *     model_close(m);
 *
 * Everything is allocated by model_open(); a step allocates nothing.  One thread
 * at a time.
 *
 * model_forward() waits for the step.  Where the backend samples, steps can be
 * issued ahead instead, as backend.h says under SAMPLING; no logits reach the
 * host then:
 *
 *     model_issue(m, &batch);
 *     model_sample(m, rows, num_rows);
 *     ... the same for the next step ...
 *     if (model_sampled(m, token_ids, err) != OK) { ... }     the first one's */
#ifndef LLM_MODEL_MODEL_H
#define LLM_MODEL_MODEL_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/backend/backend.h"
#include "engine/base/err.h"
#include "engine/model/batch.h"
#include "engine/model/kv_pool.h"
#include "engine/model/model_config.h"
#include "engine/model/weights.h"

enum load_format {
    LOAD_AUTO,     /* *.safetensors of the directory */
    LOAD_DUMMY     /* random weights of config.json's shapes, for measuring */
};

struct model_options {
    const char        *path;             /* model directory */
    enum load_format   load_format;
    uint64_t           dummy_seed;       /* LOAD_DUMMY */
    int                max_model_len;    /* 0: max_position_embeddings */
    int                block_size;       /* 0: KV_BLOCK_SIZE_DEFAULT */
    enum dtype         kv_cache_dtype;   /* NONE: the model's dtype; any
                                            other goes with any model */
    int                num_blocks;       /* with the null block; 0: as many as
                                            kv_cache_bytes holds */
    size_t             kv_cache_bytes;   /* used when num_blocks is 0; 0 too:
                                            what the device has left */
    double             gpu_memory_utilization;   /* (0, 1]: share of the device
                                            that everything may take then */
    int                max_num_batched_tokens;   /* >= 1 */
    int                max_num_seqs;             /* >= 1 */
    int                max_num_logits;   /* 0: max_num_seqs */
};

struct model {
    struct model_config   config;
    struct backend       *be;             /* borrowed */
    uint64_t              id;             /* of its ops, for step_inputs */
    enum dtype            dtype;          /* of activations: the dtype
                                             embed_tokens is stored in */
    struct weights        weights;
    struct kv_pool        kv;
    struct batch_limits   limits;         /* give these to batch_init() */
    int                   max_model_len;  /* lowered to what the KV cache holds
                                             when it was not asked for */
    int                   block_size;
    float                *cos_sin;        /* backend memory, [max_model_len][2]
                                             [head_dim / 2] */
    /* activations, backend memory; cap = max_num_batched_tokens */
    struct tensor         hidden;         /* [cap, hidden_size], the residual
                                             stream */
    struct tensor         qkv;            /* [cap, (A + 2 KVH) * head_dim] */
    struct tensor         attn;           /* [cap, A * head_dim] */
    struct tensor         mlp;            /* [cap, intermediate_size] */
    struct tensor         logits;         /* [max_num_logits, vocab_size], F32 */
    float                *host_logits;    /* NULL when the host reads logits
                                             directly */
    size_t                activation_bytes;
    size_t                scratch_bytes;  /* the backend's, by reserve() */
};

/* Refuses, with the reason in *err, a model it cannot compute exactly as
 * stored: see model_config.h and weights.h.  `be` must outlive the model. */
int model_open(struct model **out, const struct model_options *options,
               struct backend *be, struct err *err);
void model_close(struct model *m);        /* NULL and half-built are fine */

/* Bytes by purpose, for the log. */
struct model_memory {
    size_t weights, kv, activations, scratch;  /* scratch: the backend's */
    size_t device_free, device_total;          /* 0: host memory */
};
void model_memory(const struct model *m, struct model_memory *out);

/* Runs steps of the usual sizes with nothing in them, so that the backend has
 * chosen algorithms and recorded graphs before the first request.  Nothing for
 * backends in host memory. */
int model_warm_up(struct model *m, struct err *err);

/* Runs one step: appends the KV of every row and computes the logits of the
 * rows in logits_idx.  *logits is [num_logits, vocab_size] fp32, owned by the
 * model, valid until the next call.  The batch's content is the program's own:
 * token ids, slots and tables out of range fail a check().  ERROR only when
 * the device is lost. */
int model_forward(struct model *m, const struct batch *batch,
                  const float **logits, struct err *err);

/* Issues one step and waits for nothing.  input_ids may hold INPUT_SAMPLED(k)
 * where the backend samples. */
void model_issue(struct model *m, const struct batch *batch);

/* Whether the next two may be called. */
bool model_samples(const struct model *m);

/* Samples the step just issued, one of rows[] per entry of its logits_idx; none
 * is fine, and model_sampled() then waits for the step. */
void model_sample(struct model *m, const struct sample_row *rows,
                  int num_rows);

/* Waits for the oldest model_sample() not collected and writes its ids,
 * [num_rows]; SAMPLE_NUMERIC_ERROR among them.  ERROR: the device is lost. */
int model_sampled(struct model *m, int32_t *token_ids, struct err *err);

/* Whether model_sampled() would not have to wait; true when the backend does not
 * know. */
bool model_sample_is_done(const struct model *m);

/* Times steps from the next one on, where the backend can; model_step_time() is
 * false or that of the step that model_sampled() gave last. */
void model_time_steps(struct model *m);
bool model_step_time(struct model *m, struct step_time *out);

/* Waits for everything issued. */
int model_sync(struct model *m, struct err *err);

/* KV bytes one token takes, over all layers. */
size_t model_kv_bytes_per_token(const struct model_config *cfg,
                                enum dtype kv_dtype);

#endif
