/* decode_fused.h - a whole step of 1 to FUSED_ROWS_MAX rows as one launch.
 *
 * The kernel interprets a program, an array of ops in device memory, with one
 * block a multiprocessor.  The weights of all products are streamed through
 * shared memory in the order of the program and never wait for what the step
 * computes, so that memory is read while blocks meet between two ops; so are keys
 * and values of earlier steps.
 *
 *   FUSED_EMBED      y[i] = x[ids[i]], the same dtype
 *   FUSED_LINEAR     what gemv_params says, of x normed as norm_params says
 *                    where there is a norm_weight; gather: row i of x is
 *                    logits_idx[i]
 *   FUSED_ATTENTION  what rope_params and then attention_params (decode) say,
 *                    from x = qkv to y, but q is not written back
 *
 * Rows are num_rows; a row without an item of attention keeps what is in y.
 * The order of every sum depends on k, or on the items, not on num_rows. */
#ifndef LLM_KERNELS_DECODE_FUSED_H
#define LLM_KERNELS_DECODE_FUSED_H

#include <stdint.h>
#include <cuda_runtime_api.h>

#define FUSED_ROWS_MAX   8
#define FUSED_GROUP_MAX  8       /* query heads a kv head */
#define FUSED_NORM_K_MAX 8192    /* k of a product with a norm */
#define FUSED_ITEM_KEYS  64      /* the keys of an item are a multiple, but
                                    for a row's last */

enum fused_kind { FUSED_EMBED = 1, FUSED_LINEAR, FUSED_ATTENTION };

struct fused_op {
    int32_t       kind;
    int32_t       n, k;          /* LINEAR: y [num, n], x [.., k]; EMBED: k */
    int32_t       add, silu_mul, y_f32, gather;
    /* by fused_plan(): */
    int32_t       tiles;         /* pieces of work */
    int32_t       first;         /* block that gets the first */
    int32_t       pieces;        /* 16 rows of weights each, of a tile */
    void         *y;
    const void   *x, *w;
    const float  *bias, *norm_weight;
    float         eps;
    /* ATTENTION: the cache of the layer */
    float         scale, q_eps, k_eps;
    void         *k_cache, *v_cache;
    const float  *q_norm, *k_norm;
    uint64_t      map[16];       /* by fused_plan(): TMA's, 128 bytes each, of
                                    w, or of keys and values */
    uint64_t      v_map[16];
};

struct fused_params {
    const struct fused_op       *ops;         /* device, [num_ops] */
    int                          num_ops;
    int                          num_rows;    /* a power of two, at most
                                                 FUSED_ROWS_MAX */
    int                          num_blocks;  /* multiprocessors */
    int                          dtype;       /* enum kernel_dtype: bf16, f16 */
    const int32_t               *ids, *slots, *logits_idx;
    /* attention, the same for all layers */
    int                          num_heads, num_kv_heads, head_dim;
    int                          block_shift;
    const float                 *cos_sin;
    const int32_t               *block_tables;
    const struct attention_item *items;
    const int32_t               *num_items;
    float                       *partial_out, *partial_ml;
    unsigned int                *counters;    /* as attention_params says */
    unsigned int                *barrier;     /* [FUSED_BARRIER_WORDS], zero
                                                 before and after */
};
#define FUSED_BARRIER_WORDS  64

#ifdef __cplusplus
extern "C" {
#endif

/* Whether an op can be part of a program on this device; of p only num_rows,
 * dtype and what is said of attention are read. */
int fused_takes(const struct fused_op *op, const struct fused_params *p);

/* Fills the fields above of a program's ops, host memory, each of which was
 * taken; the device has them so, 64-byte aligned.  `ops` of a launch need no
 * plan. */
cudaError_t fused_plan(struct fused_op *ops, const struct fused_params *p);
cudaError_t fused_launch(const struct fused_op *ops,
                         const struct fused_params *p, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
