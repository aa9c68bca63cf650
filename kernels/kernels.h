/* kernels.h - the CUDA kernels, one launcher each, callable from C.
 *
 * Every launcher puts its work on `stream` and returns the launch's error (0:
 * launched; what happens on the device shows at the next synchronisation).
 * All pointers are device memory.  Rows are contiguous; T is the dtype of the
 * activations; sums are fp32.  Rounding to T happens where each paragraph says
 * round().  Sizes are elements unless a name says bytes.
 *
 * PDL.  Kernels of a step wait for the one before them by griddepcontrol.wait
 * before they touch what it read or wrote, all of them, because a wait covers
 * the direct predecessor only.  pdl != 0: the kernel is launched with
 * programmatic stream serialization, so its blocks may start, and do what does
 * not depend on the predecessor, while that one still runs.  The first kernel
 * of a step after unpack, which waits like all, has 0, so a step's arrays, and
 * keys of earlier steps, may be read without a wait. */
#ifndef LLM_KERNELS_KERNELS_H
#define LLM_KERNELS_KERNELS_H

#include <stdint.h>
#include <cuda_runtime_api.h>

#include "kernels/attention_items.h"
#include "kernels/decode_fused.h"

#ifdef __cplusplus
extern "C" {
#endif

enum kernel_dtype {
    KERNEL_F32 = 1, KERNEL_BF16, KERNEL_F16,
    KERNEL_F8_E4M3                   /* struct kv_layer only */
};

#define KERNEL_HEAD_DIM_MAX    512   /* rope, simple attention */

/* Once per process and device: lets the attention kernels use more than 48 KB
 * of shared memory a block.  An error means that they do not fit the device. */
cudaError_t attention_init(void);

/* Copies the segments of a step, one after the other in pinned host memory from
 * src on, to their places, 16-byte words.  Segment 0 are token ids:
 * a negative one, -1 - k, becomes sampled[k].  pdl: src is read, but nothing
 * written, while the kernel before it runs. */
#define UNPACK_SEGMENTS_MAX  12
struct unpack_segment {
    uint32_t dst;
    int32_t  words;
};
struct unpack_params {
    const char            *src;
    char                  *dst;
    const int32_t         *sampled;
    int                    num_segments, pdl;
    struct unpack_segment  segments[UNPACK_SEGMENTS_MAX];
};
cudaError_t unpack_launch(const struct unpack_params *p, cudaStream_t stream);

/* y[i] = x[ids[i]] converted to y's dtype (round(); the same dtype: a copy of
 * the bits).  x [rows, n], y [num, n]; ids in range.  One block a row. */
struct gather_params {
    void                *y;
    const void          *x;
    const int32_t       *ids;
    enum kernel_dtype    y_dtype, x_dtype;
    int                  num, n;
    int                  pdl;
};
cudaError_t gather_launch(const struct gather_params *p, cudaStream_t stream);

/* y = x converted to fp32, `n` elements. */
cudaError_t widen_launch(float *y, const void *x, enum kernel_dtype x_dtype,
                         int64_t n, cudaStream_t stream);

/* n random elements: element i is (int16) (r >> 16 (i mod 4)) * scale, truncated
 * to dtype, r = splitmix64's output number i / 4 from `state`; scale 0: ones. */
cudaError_t random_launch(void *p, enum kernel_dtype dtype, int64_t n,
                          uint64_t state, float scale, cudaStream_t stream);

/* y[i] = round(x[r] * rsqrt(mean(x[r]^2) + eps) * weight), r = rows == NULL ? i
 * : rows[i].  x [.., n] and y [num, n] in T, weight [n] fp32.  add != NULL: x[r]
 * = round(x[r] + add[r]) first, and stored (rows, if any, then differ).  The
 * order of the sum depends on n alone. */
struct norm_params {
    void                *y;
    void                *x;              /* written with `add` only */
    const void          *add;            /* [.., n] in T, or NULL */
    const float         *weight;
    const int32_t       *rows;
    enum kernel_dtype    dtype;
    int                  num, n;
    float                eps;
    int                  pdl;
    int                  early;          /* the next kernel may start before
                                            this one's wait has ended: it keeps
                                            those after it back itself */
};
cudaError_t norm_launch(const struct norm_params *p, cudaStream_t stream);

/* What follows a matrix product whose fp32 result is acc:
 *   silu_mul == 0: acc [num, n],     y = round(acc + bias), and if add
 *                  y = round(y + round(acc + bias))
 *   silu_mul != 0: acc [num, 2 * n], y = round(silu(gate) * up), gate the
 *                  first n columns, both round(acc + bias).
 * y [num, n] in T; bias fp32 [n] or [2 n], or NULL.  One thread an element. */
struct epilogue_params {
    void                *y;
    const float         *acc;
    const float         *bias;
    enum kernel_dtype    dtype;
    int                  num, n;
    int                  add, silu_mul;
    int                  pdl;
};
cudaError_t epilogue_launch(const struct epilogue_params *p,
                            cudaStream_t stream);

/* The same when the product is in T and has its bias:
 *   add:      product [num, n],     y = round(y + product)
 *   silu_mul: product [num, 2 * n], y = round(silu(gate) * up) */
struct product_params {
    void                *y;
    const void          *product;
    enum kernel_dtype    dtype;
    int                  num, n;
    int                  pdl;
};
cudaError_t add_launch(const struct product_params *p, cudaStream_t stream);
cudaError_t silu_mul_launch(const struct product_params *p,
                            cudaStream_t stream);

/* y = x w^T in fp32 for what cuBLASLt does not take: x and w of different
 * dtypes, rows that are not 16-byte aligned.  x [num, k], w [n, k], y [num, ..]
 * with rows y_stride apart.  16 x 16 tiles, k ascending: right, not fast. */
struct matmul_params {
    float               *y;
    const void          *x, *w;
    enum kernel_dtype    x_dtype, w_dtype;
    int                  num, n, k;
    int64_t              y_stride;
};
cudaError_t matmul_simple_launch(const struct matmul_params *p,
                                 cudaStream_t stream);

/* A product of few rows with everything after it:
 *   a = x w^T + bias
 *   y_f32:    y = a, fp32; else a = round(a) and
 *   silu_mul: w [2 n, k], gate rows first: y = round(silu(a_gate) * a_up)
 *   add:      y = round(y + a);   neither: y = a
 * x [num, k], y [num, n]; w and x of `dtype`, bf16 or f16; bias fp32 or NULL.
 * gemv_takes(): num at most GEMV_ROWS_MAX, k a multiple of 64, n of 16
 * (silu_mul: 8), x and w 16-byte aligned.  overlap: may start before the kernel
 * before it in the stream has ended. */
#define GEMV_ROWS_MAX  8
struct gemv_params {
    void                *y;
    const void          *x, *w;
    const float         *bias;
    enum kernel_dtype    dtype;
    int                  num, n, k;
    int                  add, silu_mul, y_f32, overlap;
};
int gemv_takes(const struct gemv_params *p);
cudaError_t gemv_launch(const struct gemv_params *p, cudaStream_t stream);

/* The same of up to GEMM_ROWS_MAX rows on Hopper:
 *   y_f32:    y = x w^T + bias, fp32; else a = round(x w^T + bias) and
 *   silu_mul, add, neither: as above.
 * A row of y depends on that row of x alone, bit for bit, not on num.
 * gemm_takes(), for any num: k a multiple of 64, n of 16 (silu_mul: 8), x, w
 * and y 16-byte aligned.  gemm_init(), once per process and device: what the
 * device runs at once; none where it is no Hopper GPU. */
#define GEMM_ROWS_MAX    256
#define GEMM_SPLITS_MAX  4
struct gemm_limits {
    int                  clusters[GEMM_SPLITS_MAX + 1];  /* of so many blocks */
};
struct gemm_params {
    void                     *y;
    const void               *x, *w;
    const float              *bias;
    const struct gemm_limits *limits;
    enum kernel_dtype         dtype;
    int                       num, n, k;
    int                       add, silu_mul, y_f32, overlap;
};
cudaError_t gemm_init(struct gemm_limits *out);
int gemm_takes(const struct gemm_params *p);
cudaError_t gemm_launch(const struct gemm_params *p, cudaStream_t stream);

/* A product of many rows with everything after it, on Hopper:
 *   a = round(x w^T + bias); silu_mul: w [2 n, k], gate rows first: y =
 *   round(silu(a_gate) * a_up); add: y = round(y + a); neither: y = a
 * x [num, k], y [num, n], w of `dtype`, bf16 or f16; bias fp32 or NULL.
 * gemm_large_takes(): n and k multiples of 8, all 16-byte aligned.  tile: rows
 * of w that a block multiplies at once, 256, 128 or, without silu_mul, 192;
 * gemm_large_tile() says which is likely the fastest. */
struct gemm_large_params {
    void                *y;
    const void          *x, *w;
    const float         *bias;
    enum kernel_dtype    dtype;
    int                  num, n, k;
    int                  add, silu_mul;
    int                  tile, num_sms;
    int                  pdl;
};
int gemm_large_takes(const struct gemm_large_params *p);
int gemm_large_tile(const struct gemm_large_params *p);
cudaError_t gemm_large_launch(const struct gemm_large_params *p,
                              cudaStream_t stream);

/* The paged cache of one layer, [block][kv_head][token][head_dim]. */
struct kv_layer {
    void                *k, *v;
    enum kernel_dtype    dtype;
    int                  num_blocks, num_kv_heads, head_dim;
    int                  block_shift;     /* tokens a block = 1 << shift */
    float                k_scale, v_scale;    /* F8_E4M3: what is stored is
                                                 e4m3(k / k_scale), nearest even,
                                                 cut at +-448; others: 1 */
};

/* Splits qkv [num, (num_heads + 2 * num_kv_heads) * head_dim], norms q and k
 * heads where the weight is set (round()), rotates them by the position's
 * cos/sin (element j with j + head_dim / 2), writes round(q) back and k, v,
 * rounded to the cache's dtype, to the row's slot (negative: nowhere).
 * cos_sin [max_len][2][head_dim / 2].  One warp a (row, head); head_dim even,
 * at most KERNEL_HEAD_DIM_MAX. */
struct rope_params {
    void                *qkv;
    const float         *q_norm, *k_norm;      /* [head_dim] or NULL */
    float                q_eps, k_eps;
    const float         *cos_sin;
    const int32_t       *positions;            /* [num] */
    const int32_t       *slots;                /* [num] */
    struct kv_layer      kv;
    enum kernel_dtype    dtype;
    int                  num, num_heads;
    int                  pdl;
};
int rope_wide_takes(const struct rope_params *p);      /* 16 bytes a lane: */
cudaError_t rope_wide_launch(const struct rope_params *p,
                             cudaStream_t stream);     /* the same, faster */
cudaError_t rope_append_launch(const struct rope_params *p,
                               cudaStream_t stream);

/* What rope_params does, as part of decode_block: q is normed and rotated as it
 * is read, the row's k and v are written to its slot, which must be where the
 * block table has its position, and are what attention sees. */
struct attention_rope {
    const float         *q_norm, *k_norm;      /* as in rope_params */
    float                q_eps, k_eps;
    const float         *cos_sin;              /* NULL: done before */
    const int32_t       *slots;                /* [num_tokens] */
};

/* Causal attention over the paged cache: a query at position p sees keys
 * max(0, p - window + 1) .. p (window 0: all); out = round(sum round(p_j) v_j
 * / sum p_j), where p_j = exp(scale * (q . k_j) - m) and m is a running
 * maximum.  Keys that no row of an item sees are never read, so table entries
 * may be stale and blocks may hold NaN.
 *
 * scale has kv.k_scale in it, the output is multiplied by kv.v_scale before it
 * is rounded.
 *
 * decode: the number of items is read on the device, so that a graph can hold
 * the launch; blocks of four warps, as many as fill the GPU once, take one
 * (item, kv head) after the other.  The query heads of the kv head are the rows
 * of one 16-row tensor core tile, the warps split each tile of 64 keys.
 * Partial results meet in the block that ends last, in the order of the parts,
 * so results do not depend on timing.  counters are zero before and after.
 * prefill: one block of four warps per (64 rows of an item, query head), 16
 * rows a warp.
 * Both take T bf16 or f16, the cache in T or fp8, head_dim 64, 96, 128 or 256;
 * decode groups up to ATTENTION_GROUP_MAX.  q, k, v rows 16-byte aligned.  With
 * an fp8 cache products are f16, which holds K and V exactly; Q and P come into
 * its range by powers of two, P is rounded to it.
 * prefill_sm90: the same on Hopper with wgmma and TMA, where _takes() says so:
 * head_dim 64 or 128, blocks of at most 64 tokens, no window, no fp8.  At most
 * decode_blocks blocks share the (item, query head)s by counters[0], in the order
 * of the items: long ones first.
 * decode_sm90: on Hopper, head_dim 64 or 128, blocks of 16 to 64 tokens, groups
 * up to ATTENTION_GROUP_MAX; partial results are [partial][group][head_dim] and
 * [partial][group][2].  Shares are of warps.
 * decode_block: the same for a cache in T; shares are of blocks, one a
 * multiprocessor, and rope is done where asked for.
 * simple: everything else (fp32, odd head sizes, mixed dtypes); one warp per
 * (row, query head), the maximum in a first pass over the keys.  Items unused.
 * Measured times: README.md beside this file. */
struct attention_params {
    void                        *out;        /* [.., num_heads * head_dim] */
    const void                  *qkv;
    int64_t                      qkv_stride; /* elements from row to row */
    enum kernel_dtype            dtype;
    struct kv_layer              kv;
    int                          num_heads;
    int                          window;
    float                        scale;      /* of q . k as stored */
    const int32_t               *positions;    /* [num_tokens], simple only */
    const int32_t               *row_table;    /* [num_tokens], simple only: as
                                                  item.table; negative: a row
                                                  that is left out */
    const int32_t               *block_tables; /* of all sequences, packed */
    int                          num;          /* prefill: items; decode: the
                                                  most items there can be;
                                                  simple: rows */
    const struct attention_item *items;
    const int32_t               *num_items;    /* device, decode only */
    const struct decode_item    *decode_items; /* decode_sm90, _block */
    const int32_t               *decode_first; /* [decode_shares + 1], for
                                                  decode_block [decode_blocks
                                                  + 1]: the items of each
                                                  share */
    int                          decode_shares;  /* at most decode_blocks *
                                                    ATTENTION_DECODE_WARPS;
                                                    decode_block: unused */
    int                          decode_blocks;  /* multiprocessors; prefill_sm90
                                                    too */
    float                       *partial_out;  /* [partial][num_heads]
                                                  [head_dim] */
    float                       *partial_ml;   /* [partial][num_heads][2] */
    unsigned int                *counters;     /* [seq][num_kv_heads];
                                                  prefill_sm90: [1] */
    struct attention_rope        rope;         /* decode_block */
    int                          pdl;
};
int attention_tile_takes(const struct attention_params *p);
cudaError_t attention_decode_launch(const struct attention_params *p,
                                    cudaStream_t stream);
cudaError_t attention_prefill_launch(const struct attention_params *p,
                                     cudaStream_t stream);
int attention_prefill_sm90_takes(const struct attention_params *p);
cudaError_t attention_prefill_sm90_launch(const struct attention_params *p,
                                          cudaStream_t stream);
int attention_decode_sm90_takes(const struct attention_params *p);
cudaError_t attention_decode_sm90_launch(const struct attention_params *p,
                                         cudaStream_t stream);
int attention_decode_block_takes(const struct attention_params *p);
cudaError_t attention_decode_block_launch(const struct attention_params *p,
                                          cudaStream_t stream);
cudaError_t attention_simple_launch(const struct attention_params *p,
                                    cudaStream_t stream);

/* Token ids from rows of fp32 logits, as sample_math.h defines them to the bit;
 * -1 in host_ids (and 0 in ids) for a numeric error.  params and host_ids are
 * pinned host memory; the rest is the device's.  all_greedy: every row has a
 * temperature of 0 or top_k 1, params are not read; any_filter: some row has
 * top_k or top_p.  state's arrays have room for num_rows rows of
 * div_ceil(vocab_size, SAMPLE_BLOCK_TOKENS) blocks; counters are zero before
 * and after.  Masked (row, id) pairs get -inf in the logits, before.
 *
 * sample_sm90: the same on Hopper, a cluster a row, without state; where
 * _takes() says so and no temperature is above SAMPLE_SM90_TEMPERATURE_MAX.
 * _init(), once a device, gives cluster_max: the thread blocks that a cluster
 * may have, 0 where there are none.  _at_once(): how many clusters the device
 * holds, without and with filters; so many take the rows in turns.  0: there is
 * one for every row. */
#define SAMPLE_BLOCK_TOKENS  256
#define SAMPLE_SLICES_MAX    64       /* thread blocks of a row */
#define SAMPLE_SM90_TEMPERATURE_MAX  1e30f

struct sample_params {
    float    temperature, top_p, min_p;
    int32_t  top_k;
    uint64_t seed;
    int64_t  position;
};

struct sample_row_state {
    struct sample_params params;
    float                max;
    int32_t              done;
};

struct sample_state {
    uint32_t                *keys;      /* [num_rows][blocks] */
    uint64_t                *sums;      /* [num_rows][blocks] */
    uint64_t                *parts;     /* [num_rows][SAMPLE_SLICES_MAX] */
    struct sample_row_state *rows;      /* [num_rows] */
    unsigned int            *counters;  /* [num_rows] */
};

struct sample_launch {
    const float                *logits;     /* [num_rows, vocab_size] */
    int                         vocab_size, num_rows, num_sms;
    int                         all_greedy, any_filter;
    int                         pdl, cluster_max;     /* sample_sm90 */
    int                         clusters_at_once[2];
    const struct sample_params *params;
    int32_t                    *ids, *host_ids;
    struct sample_state         state;
};
cudaError_t sample_mask_launch(float *logits, int vocab_size,
                               const int32_t *masks, int num_masks,
                               cudaStream_t stream);
cudaError_t sample_launch_rows(const struct sample_launch *p,
                               cudaStream_t stream);
cudaError_t sample_sm90_init(int *cluster_max);
cudaError_t sample_sm90_at_once(int vocab_size, int clusters_at_once[2]);
int sample_sm90_takes(const struct sample_launch *p);
cudaError_t sample_sm90_launch(const struct sample_launch *p,
                               cudaStream_t stream);

/* Copies `bytes` from block src to block dst of every plane: planes are
 * plane_bytes apart.  pairs [num][2]: src, dst; no dst is also a src. */
struct copy_params {
    char                *data;
    const int32_t       *pairs;
    int                  num, num_planes;
    size_t               plane_bytes, block_bytes;
};
cudaError_t copy_blocks_launch(const struct copy_params *p,
                               cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
