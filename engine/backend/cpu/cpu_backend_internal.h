/* cpu_backend_internal.h - what backend_cpu.c (life, memory, weights, steps)
 * and cpu_ops.c (the ops) share.  Private to this folder. */
#ifndef LLM_BACKEND_CPU_CPU_BACKEND_INTERNAL_H
#define LLM_BACKEND_CPU_CPU_BACKEND_INTERNAL_H

#include "engine/backend/backend.h"
#include "engine/backend/cpu/cpu_kernels.h"
#include "engine/backend/cpu/cpu_pool.h"

#define CPU_HEAD_DIM_MAX       512  /* model_config's limit */
#define CPU_X_ROWS             256  /* activation rows widened at a time */
#define CPU_ITEM_ROWS_MAX      96   /* weight rows per work item: a multiple of
                                       the register blocks 3 and 4 */
#define CPU_ITEM_ROWS_MIN      12
#define CPU_ITEMS_PER_THREAD   4    /* so that a slow core does not hold all */

struct cpu_weight_part {
    const void *data;      /* [rows, in], borrowed */
    enum dtype  dtype;
    int64_t     rows;
    float      *bias;      /* [rows], owned; NULL: none */
};

struct weight {
    enum weight_kind        kind;
    int                     num_parts;
    int64_t                 in;      /* input size; length of a VECTOR */
    int64_t                 rows;    /* of all parts */
    struct cpu_weight_part  part[WEIGHT_PARTS_MAX];
    float                  *vector;  /* VECTOR: [cpu_pad(in)], zero padded,
                                        owned */
};

/* One worker's private memory. */
struct cpu_scratch {
    float *out_a;     /* [CPU_X_ROWS, CPU_ITEM_ROWS_MAX] */
    float *out_b;     /* the same, for up */
    float *wide;      /* [CPU_ROW_BLOCK_MAX, row_pad] */
    float *row;       /* [row_pad] */
    float *q;         /* [CPU_HEADS_MAX, CPU_HEAD_DIM_MAX] */
    float *tile;      /* [CPU_KEYS_PER_TILE, CPU_HEAD_DIM_MAX] */
    float *attn_out;  /* [CPU_HEADS_MAX, CPU_HEAD_DIM_MAX] */
    float *scores;    /* [CPU_HEADS_MAX, scores_stride] */
};

struct cpu_backend {
    struct backend            base;       /* first */
    struct backend_ops        ops;
    char                      name[64];
    const struct cpu_kernels *kernels;
    struct cpu_pool          *pool;
    int                       num_threads;
    struct backend_limits     limits;     /* zero before reserve() */
    int64_t                   row_pad;    /* cpu_pad(row_elems_max) */
    int64_t                   scores_stride;
    float                    *x;          /* [CPU_X_ROWS, row_pad] */
    void                     *scratch_memory;
    struct cpu_scratch       *scratch;    /* [num_threads] */
    struct step_inputs        step;       /* points into the arrays below */
    bool                      in_step;
    int32_t                  *step_memory;
    int32_t                  *row_seq;    /* [num_tokens], the row's sequence */
};

void cpu_embed(struct backend *be, struct tensor x,
               const struct weight *embed_tokens);
void cpu_linear(struct backend *be, const struct linear_args *args);
void cpu_qk_norm_rope_append(struct backend *be,
                             const struct qk_norm_rope_append_args *args);
void cpu_attention(struct backend *be, const struct attention_args *args);
void cpu_lm_head(struct backend *be, const struct lm_head_args *args);

#endif
