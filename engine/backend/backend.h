/* backend.h - the device interface: one flat table of ops that the forward
 * pass is written in.  cpu/ and cuda/ implement it; forward.c knows neither.
 *
 *     struct backend *be;
 *     backend_cpu_create(&be, &options, err);        (engine/backend/cpu)
 *     be->ops->weight_create(be, &desc, &w, err);    at start
 *     be->ops->reserve(be, &limits, err);            at start
 *     if (be->ops->step_begin(be, &inputs) == STEP_ISSUE) {
 *         be->ops->embed(be, x, embed_tokens);
 *         be->ops->linear(be, &(struct linear_args) { ... });
 *     }
 *     be->ops->step_end(be);
 *     be->ops->sync(be, err);
 *
 * STEPS.  What changes from step to step (token ids, positions, block tables,
 * how many rows) is given once, to step_begin(); the backend copies it (CUDA:
 * one upload).  Ops take only what is the same in every step: weights,
 * activation buffers, constants.  So a backend may record the ops of one step
 * as a graph and replay it: step_begin() then answers STEP_REPLAY and the
 * caller skips the ops up to step_end(), lm_head() included.  Every op works on
 * the step's rows: num_tokens rows of the activations, num_logits rows of the
 * logits.  Buffers have room for limits.max_num_batched_tokens rows; rows past
 * num_tokens hold garbage.
 *
 * SAMPLING.  Where ops->sample is set the device turns the logits into token
 * ids, keeps them for the next step and copies them to the host, so the next
 * step can be issued before the host knows them:
 *
 *     step_begin(N) ... step_end(); sample(N);
 *     step_begin(N + 1), input_ids[i] = INPUT_SAMPLED(k): the id that the last
 *         sample() gave its row k; ... step_end(); sample(N + 1);
 *     sampled(ids of N);                    (waits for step N, not for N + 1)
 *
 * At most SAMPLES_IN_FLIGHT sample() calls are not yet collected by sampled().
 * A step without logits is given a sample() of no rows, for sampled() to wait
 * for.
 * A row's result is the one that sample/sampler.h's sampler_sample() gives on
 * the same logits, bit for bit (its weights are integers, so sums have no
 * order); SAMPLE_NUMERIC_ERROR where it says so, and then the id that the next
 * step sees is 0.
 *
 * ROUNDING.  T is the activations' dtype, the same for all tensors of a step.
 * Sums, norms, softmax, RoPE and activation functions are computed in fp32; a
 * value is rounded to T (nearest even) exactly where an op's comment writes
 * round(): after the norm, after every matrix product with its bias, after
 * RoPE, P before P*V, the attention output, silu(gate) * up, the residual after
 * an addition; so does Hugging Face transformers, which also rounds silu(gate).
 * Inside an op nothing else is rounded, so a fused kernel and a chain of
 * kernels agree up to the order of summation.  With T = float32 round() does
 * nothing.  Weights are used in the dtype they have.
 *
 * FP8 CACHE.  With a cache of DTYPE_F8_E4M3 each layer has a scale for K and one
 * for V (struct kv_cache).  What is stored is e4m3(k' / k_scale) and e4m3(v /
 * v_scale): the fp32 value divided in fp32, rounded once to nearest even, cut at
 * +-448 (e4m3.h).  Stored values are used as they are: K's scale is a factor of
 * the softmax scale, V's of the output, in fp32, so that nothing else is
 * rounded.  P is rounded to T, or to float16, which is finer, by a kernel that
 * multiplies in it.  NaN is stored and read as NaN.
 *
 * INVARIANCE.  What a row gets depends on that row's token, position and KV
 * alone: never on the other rows, their number, the split of a prompt into
 * chunks, which blocks hold the keys, or the number of threads.  The CPU
 * backend guarantees it bit for bit.
 *
 * ERRORS.  Ops return nothing: arguments are the program's own (check()
 * aborts on a wrong shape) and device errors are sticky and reported by
 * sync().  Functions returning int follow base/err.h.
 *
 * THREADS.  One thread at a time calls a backend; ops are issued in order and
 * may run later; host code may look at results after sync() only. */
#ifndef LLM_BACKEND_BACKEND_H
#define LLM_BACKEND_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/backend/tensor.h"
#include "engine/base/err.h"
#include "engine/base/minmax.h"

#define WEIGHT_PARTS_MAX  3       /* q, k, v */
#define SLOT_PADDING      (-1)    /* slot_mapping: write no key, no value */
#define SAMPLES_IN_FLIGHT 2
#define SAMPLE_NUMERIC_ERROR  (-1)
#define INPUT_SAMPLED(k)  (-1 - (k))  /* input_ids: row k of the last sample() */

/* A weight as the backend keeps it (packed, repacked or mapped): opaque. */
struct weight;

enum weight_kind {
    WEIGHT_VECTOR,     /* norm weight: one part [n] */
    WEIGHT_LINEAR,     /* parts [out_i, in] stacked along out: y = x W^T + b */
    WEIGHT_GATE_UP,    /* two parts, gate [I, H] and up [I, H] */
    WEIGHT_EMBEDDING   /* one part [vocab_size, hidden_size]; also good for
                          lm_head(), which is how tied weights are shared */
};

/* A random tensor, for timing without files: element i is (int16) (r >> 16 (i
 * mod 4)) * scale, truncated to its dtype, where r is splitmix64's output number
 * i / 4 (from 0) from `state`; scale 0: every element is 1. */
struct weight_random {
    uint64_t state;
    float    scale;
};

/* Host tensors to build a weight from.  A backend that computes in host
 * memory keeps the pointers instead of a copy (see borrows_weights), so the
 * file mapping must live until weight_destroy(). */
struct weight_desc {
    enum weight_kind     kind;
    int                  num_parts;
    struct tensor        parts[WEIGHT_PARTS_MAX];  /* same in-size */
    struct tensor        bias[WEIGHT_PARTS_MAX];   /* [out_i]; dtype NONE: no
                                                      bias for this part */
    /* where data is NULL, with makes_random only */
    struct weight_random random[WEIGHT_PARTS_MAX], bias_random[WEIGHT_PARTS_MAX];
};

/* Largest sizes of any step, given before the first.  A second model on the
 * same backend reserves again, between steps; sizes only grow. */
struct backend_limits {
    int max_num_batched_tokens;
    int max_num_seqs;
    int max_num_logits;
    int max_blocks_per_seq;
    int max_model_len;       /* keys one query can see */
    int row_elems_max;       /* widest activation row, elements */
};

static inline struct backend_limits
backend_limits_max(const struct backend_limits *a, const struct backend_limits *b)
{
    return (struct backend_limits) {
        .max_num_batched_tokens = max_int(a->max_num_batched_tokens,
                                          b->max_num_batched_tokens),
        .max_num_seqs = max_int(a->max_num_seqs, b->max_num_seqs),
        .max_num_logits = max_int(a->max_num_logits, b->max_num_logits),
        .max_blocks_per_seq = max_int(a->max_blocks_per_seq,
                                      b->max_blocks_per_seq),
        .max_model_len = max_int(a->max_model_len, b->max_model_len),
        .row_elems_max = max_int(a->row_elems_max, b->row_elems_max),
    };
}

/* One step's arrays, host memory, read during step_begin() only.  A sequence's
 * rows are contiguous; its query_len is cu_seqlens_q[s + 1] - cu_seqlens_q[s],
 * at least 1; its keys are positions 0 .. context_lens[s] - 1, of which the
 * last query_len are this step's own rows. */
struct step_inputs {
    int             num_tokens;      /* rows, 1 .. max_num_batched_tokens */
    int             num_seqs;        /* 1 .. max_num_seqs */
    int             num_logits;      /* 0 .. max_num_logits */
    int             max_blocks_per_seq;  /* row length of block_tables, at
                                            most the reserved one */
    uint64_t        model_id;        /* which ops follow: two steps of the same
                                        model_id issue the same ops with the
                                        same arguments; 0: do not record */
    const int32_t  *input_ids;       /* [num_tokens], in [0, vocab_size) or
                                        INPUT_SAMPLED(k) */
    const int32_t  *positions;       /* [num_tokens], in [0, max_model_len) */
    const int32_t  *slot_mapping;    /* [num_tokens], where the row's key goes:
                                        block_id * block_size + offset, or
                                        SLOT_PADDING */
    const int32_t  *cu_seqlens_q;    /* [num_seqs + 1], starts with 0, ends
                                        with num_tokens */
    const int32_t  *context_lens;    /* [num_seqs], keys after this step */
    const int32_t  *block_tables;    /* [num_seqs, max_blocks_per_seq], block
                                        ids; entries past
                                        div_ceil(context_len, block_size) are
                                        not read */
    const int32_t  *logits_idx;      /* [num_logits], rows whose logits are
                                        wanted, in [0, num_tokens) */
};

enum step_action { STEP_ISSUE, STEP_REPLAY };

/* The paged KV cache, [layer][K/V][block][kv_head][token][head_dim].  Block 0
 * is the null block: filled with NaN, never written, never read by a correct
 * step.  See model/kv_pool.h, which owns the memory. */
struct kv_cache {
    enum dtype  dtype;           /* keys and values are rounded to it; it may
                                    be another than T */
    int         num_layers;
    int         num_blocks;      /* with the null block */
    int         block_size;      /* tokens: 16, 32 or 64 */
    int         num_kv_heads;
    int         head_dim;
    void       *data;            /* backend memory */
    const float *scales;         /* host, [num_layers][2]: K's and V's, finite
                                    and positive; F8_E4M3 only; NULL: all 1 */
};

static inline float
kv_cache_scale(const struct kv_cache *kv, int layer_idx, int is_v)
{
    return kv->scales == NULL ? 1.0f : kv->scales[2 * layer_idx + is_v];
}

/* RMSNorm: round(x * rsqrt(mean(x^2) + eps) * weight), all in fp32. */
struct norm {
    const struct weight *weight;    /* WEIGHT_VECTOR; NULL: no norm */
    float                eps;
};

enum linear_epilogue {
    EPILOGUE_NONE,      /* y = a */
    EPILOGUE_ADD,       /* y = round(y + a): the residual addition */
    EPILOGUE_SILU_MUL   /* y = round(silu(a_gate) * a_up); WEIGHT_GATE_UP */
};

/* a = round(norm(x) W^T + b) for each row.  y and x do not overlap. */
struct linear_args {
    struct tensor         y;    /* [cap, out], T; out = I for WEIGHT_GATE_UP */
    struct tensor         x;    /* [cap, in], T */
    struct norm           norm; /* applied to x first; weight NULL: not */
    const struct weight  *weight;
    enum linear_epilogue  epilogue;
};

/* Per row: splits qkv [num_heads + 2 * num_kv_heads heads of head_dim]; where
 * q_norm/k_norm are set, RMSNorms every q and k head over head_dim (rounds);
 * rotates q and k (rotate-half form: element j pairs with j + head_dim/2),
 *     q'_j = q_j cos - q_{j+h} sin,  q'_{j+h} = q_{j+h} cos + q_j sin,
 * with cos/sin of the row's position; writes round(q') back over q, and k'
 * and v, rounded to the cache's dtype (see FP8 CACHE), to the row's slot.  The k and v parts
 * of qkv are left undefined. */
struct qk_norm_rope_append_args {
    struct tensor           qkv;      /* [cap, (A + 2 KVH) * head_dim], T */
    struct norm             q_norm;   /* over head_dim; weight NULL: none */
    struct norm             k_norm;
    const float            *cos_sin;  /* backend memory, [max_model_len][2]
                                         [head_dim / 2]: cos then sin, with
                                         the attention factor of yarn */
    const struct kv_cache  *kv;
    int                     layer_idx;
    int                     num_heads;
};

/* Causal attention over the paged cache; the step's keys must have been
 * appended.  A query at position p sees keys max(0, p - sliding_window + 1)
 * .. p; query head h reads kv head h / (num_heads / num_kv_heads).
 *     s_j = scale * (q . k_j),  p_j = exp(s_j - max s),
 *     out = round(sum_j round(p_j) v_j / sum_j p_j)
 * and with an fp8 cache, k_j and v_j as stored,
 *     s_j = (scale * k_scale) * (q . k_j),
 *     out = round(sum_j round(p_j) v_j / sum_j p_j * v_scale) */
struct attention_args {
    struct tensor           out;      /* [cap, num_heads * head_dim], T */
    struct tensor           qkv;      /* q part read */
    const struct kv_cache  *kv;
    int                     layer_idx;
    int                     num_heads;
    int                     sliding_window;   /* keys seen; 0: all */
    float                   scale;            /* 1 / sqrt(head_dim) */
};

/* logits[i] = norm(x[logits_idx[i]]) W^T, fp32, not rounded. */
struct lm_head_args {
    struct tensor         logits;   /* [max_num_logits, vocab_size], F32 */
    struct tensor         x;        /* [cap, hidden_size], T */
    struct norm           norm;
    const struct weight  *weight;   /* WEIGHT_LINEAR or WEIGHT_EMBEDDING */
};

/* What sample() does to one row of the logits; the fields of sampling_params
 * and sampler_row of sample/sampler.h. */
struct sample_row {
    float          temperature;    /* 0: greedy */
    float          top_p;          /* (0, 1]; 1: off */
    float          min_p;          /* [0, 1]; 0: off */
    int32_t        top_k;          /* 0: off */
    uint64_t       seed;
    int64_t        position;       /* of the token to be sampled */
    const int32_t *masked_ids;     /* [num_masked] host, never chosen */
    int32_t        num_masked;
};

struct sample_args {
    struct tensor            logits;   /* [>= num_rows, vocab_size], F32 */
    int                      num_rows; /* 0 .. max_num_logits */
    const struct sample_row *rows;     /* [num_rows] host, read during the
                                          call only */
};

/* By the device's own clock. */
struct step_time {
    int64_t  idle_ns;    /* from the end of the step before to the begin */
    int64_t  run_ns;     /* with sampling */
};

struct block_copy {
    int32_t src_block_id, dst_block_id;
};

struct backend {
    const struct backend_ops *ops;
};

struct backend_ops {
    const char *name;              /* "cpu (avx2, 4 threads)" */
    bool        borrows_weights;   /* see struct weight_desc */
    bool        host_memory;       /* data pointers may be read by the host
                                      after sync() */
    bool        makes_random;      /* weight_create() fills tensors without data
                                      by itself */

    /* NULL is fine.  Weights and memory must have been released before. */
    void (*destroy)(struct backend *be);

    /* ---- memory: 64-byte aligned at least, content undefined ---- */
    int  (*alloc)(struct backend *be, size_t bytes, void **out,
                  struct err *err);
    void (*free)(struct backend *be, void *data);           /* NULL is fine */
    /* The device's memory now, of all processes; NULL: host memory. */
    int  (*memory)(struct backend *be, size_t *free_bytes,
                   size_t *total_bytes, struct err *err);
    void (*fill)(struct backend *be, void *data, int byte, size_t bytes);
    void (*upload)(struct backend *be, void *dst, const void *host_src,
                   size_t bytes);
    void (*download)(struct backend *be, void *host_dst, const void *src,
                     size_t bytes);                 /* done on return */

    /* ---- start-up ---- */
    int  (*weight_create)(struct backend *be, const struct weight_desc *desc,
                          struct weight **out, struct err *err);
    void (*weight_destroy)(struct backend *be, struct weight *w); /* or NULL */
    int  (*reserve)(struct backend *be, const struct backend_limits *limits,
                    struct err *err);

    /* ---- a step ---- */
    enum step_action (*step_begin)(struct backend *be,
                                   const struct step_inputs *in);
    void (*embed)(struct backend *be, struct tensor x,   /* [cap, H], T */
                  const struct weight *embed_tokens);    /* x = round(E[id]) */
    void (*linear)(struct backend *be, const struct linear_args *args);
    void (*qk_norm_rope_append)(struct backend *be,
                                const struct qk_norm_rope_append_args *args);
    void (*attention)(struct backend *be, const struct attention_args *args);
    void (*lm_head)(struct backend *be, const struct lm_head_args *args);
    void (*step_end)(struct backend *be);

    /* Both NULL where the host samples.  sampled() waits for the oldest
     * sample() not collected and writes its ids, [num_rows]. */
    void (*sample)(struct backend *be, const struct sample_args *args);
    int  (*sampled)(struct backend *be, int32_t *token_ids, struct err *err);
    /* Whether sampled() would not have to wait; NULL: nobody knows. */
    bool (*sample_is_done)(struct backend *be);
    /* Both NULL where steps are not timed.  time_steps() begins with the next
     * step; step_time() tells of the one that sampled() gave last, false when
     * it was not timed. */
    void (*time_steps)(struct backend *be);
    bool (*step_time)(struct backend *be, struct step_time *out);

    /* ---- between steps ---- */
    /* Copies whole blocks, all layers, K and V; sources and destinations of
     * one call are disjoint sets. */
    void (*copy_blocks)(struct backend *be, const struct kv_cache *kv,
                        const struct block_copy *copies, int num_copies);
    /* Waits for everything issued.  ERROR is sticky: the device is lost. */
    int  (*sync)(struct backend *be, struct err *err);
};

#endif
