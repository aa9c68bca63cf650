/* cuda_internal.h - what the files of the CUDA backend share.
 *
 *   backend_cuda.c  life, memory, weights
 *   cuda_scratch.c  reserve(): what steps need, at addresses that stay
 *   cuda_step.c     a step's arrays and attention work lists, and their upload
 *   cuda_plan.c     shares of the keys for the Hopper decode kernels
 *   cuda_graph.c    recorded steps
 *   cuda_fuse.c     small decode steps in one launch
 *   cuda_ops.c      the small ops, what all ops share
 *   cuda_linear.c   linear() and lm_head()
 *   cuda_attention.c  rope, append and attention
 *   cuda_gemm.c     cuBLASLt
 *   cuda_large.c    products of many rows by a kernel of ours
 *   cuda_tune.c     which of all these, as timed, kept in a file
 *   cuda_sample.c   token ids from logits
 *   cuda_timing.c   how long steps take and what is between them
 *
 * Errors: CUDA's own are sticky.  The first one is kept by cuda_keep() and
 * every later sync() answers with it; ops go on issuing, harmlessly. */
#ifndef LLM_BACKEND_CUDA_CUDA_INTERNAL_H
#define LLM_BACKEND_CUDA_CUDA_INTERNAL_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "engine/backend/cuda/backend_cuda.h"
#include "engine/backend/cuda/cuda_plan.h"
#include "kernels/kernels.h"

#define CUDA_ALIGN             256
#define CUDA_GEMM_WORKSPACE    ((size_t) 64 << 20)   /* split-K partial sums */
#define CUDA_GEMM_PLANS        1024    /* algorithms remembered */
#define CUDA_PRODUCT_ROWS      2048    /* fp32 rows of two times
                                          row_elems_max: room for products that
                                          an epilogue of ours follows */
#define CUDA_SPLITS_PER_SEQ    8       /* room for partial attention results */
#define CUDA_SPLITS_EXTRA      512
#define CUDA_COPIES_MAX        1024    /* block copies of one launch */
#define CUDA_MODELS_MAX        32      /* model_ids with recorded steps */
#define CUDA_GRAPHS_MAX        96
#define CUDA_DECODE_ROWS_MAX   256     /* rows that buckets follow the graphs' */
#define CUDA_SHARE_HEADS_MAX   16      /* kv heads that work lists of shares
                                          have room for */
#define CUDA_FUSED_OPS         768     /* of a step in one launch */
#define CUDA_PROGRAMS_MAX      16      /* such steps: (model, rows) */
#define CUDA_BLOCK_SIZE_MIN    16      /* struct kv_cache */
#define CUDA_HEAD_DIM_MIN      8       /* bounds heads by row_elems_max */

struct cuda_weight_part {
    void       *data;      /* [rows, in], inside weight.memory */
    enum dtype  dtype;
    int64_t     rows;
};

struct weight {
    enum weight_kind         kind;
    int                      num_parts;  /* parts of one dtype are one part */
    int64_t                  in;         /* input size; length of a VECTOR */
    int64_t                  rows;       /* of all parts */
    struct cuda_weight_part  part[WEIGHT_PARTS_MAX];
    void                    *memory;
    float                   *bias;       /* [rows] fp32, inside memory; NULL:
                                            none */
    void                    *bias16;     /* the same in part[0].dtype where the
                                            checkpoint has it so, or NULL */
    float                   *vector;     /* VECTOR: [in] fp32, is memory */
};

/* One product shape and the algorithm chosen for it. */
struct cuda_gemm_key {
    int64_t n, k, num;
    int32_t dtype, out_dtype, flags;     /* 1: bias, 2: add, 4: silu_mul, 8:
                                            of cuda_large.c */
    int32_t used;
};

struct cuda_gemm_plan {
    struct cuda_gemm_key    key;
    bool                    found;      /* false: cuBLASLt takes it not */
    int32_t                 large;      /* of cuda_large.c: its tile, or 0 */
    cublasLtMatmulAlgo_t    algo;
};

/* A step's arrays and what is derived from them, on the device.  The addresses
 * stay from one reserve() to the next, so graphs can hold them. */
struct cuda_step_arrays {
    int32_t               *input_ids, *positions, *slot_mapping;
    int32_t               *row_table, *block_tables, *logits_idx;
    struct attention_item *decode, *prefill;
    struct decode_item    *shared;          /* items of the shares */
    int32_t               *shared_first;
    int32_t               *num_decode;      /* [1] */
};

/* Pinned room for one step's arrays, packed; two, because the device may not
 * have read the last step's when the next one is packed. */
struct cuda_half {
    char        *host;
    cudaEvent_t  unpacked;
};

/* What the ops of a model said in its first step: needed to plan and to check
 * steps whose ops are not called because they are replayed. */
struct cuda_model {
    uint64_t  id;               /* 0: free */
    bool      known;            /* its first step is over */
    int64_t   num_ids;          /* rows of embed_tokens; 0: no embed() */
    int       block_size, num_blocks, num_kv_heads;     /* 0: no cache */
    bool      shares;           /* decode_sm90 takes its attention */
    bool      kv_fp8;
};

enum cuda_graph_state { GRAPH_FREE, GRAPH_WARM, GRAPH_READY };

struct cuda_graph {
    enum cuda_graph_state  state;
    uint64_t               model_id;
    int                    rows;
    bool                   shares, block_shares, fused;
    cudaGraphExec_t        exec;
};

/* The ops of the small steps of a model, on the device, see cuda_fuse.c. */
struct cuda_program {
    uint64_t          model_id;       /* 0: free */
    int               rows;
    bool              refused;        /* some op is not taken: do not try */
    int               num_ops;        /* that the device has; 0: none yet */
    struct fused_op  *host, *device;  /* [CUDA_FUSED_OPS] */
};

struct cuda_fuse {
    bool                 on;          /* ops of this step are noted */
    bool                 open;        /* `rope` waits for its attention */
    struct rope_params   rope;
    struct fused_params  params;      /* of this step */
    struct fused_op     *ops;         /* [CUDA_FUSED_OPS], of this step, and
                                         the host's copies of the programs */
    int                  num_ops;
    struct cuda_program *program;     /* of this step */
    struct cuda_program  programs[CUDA_PROGRAMS_MAX];
    unsigned int        *barrier;     /* device, also the programs' memory */
};

/* One sample() that has not been collected. */
struct cuda_sample {
    int32_t              *ids;        /* pinned, [max_num_logits] */
    struct sample_params *rows;       /* pinned, [max_num_logits] */
    int32_t              *masks;      /* pinned, [masks_max][2]: row, id */
    cudaEvent_t           done;
    int                   num_rows;
};

#define CUDA_STEPS_TIMED  4    /* SAMPLES_IN_FLIGHT, the one before them and the
                                  one that is begun */

struct cuda_timing {
    cudaEvent_t  begin, end;
};

struct cuda_backend {
    struct backend           base;       /* first */
    struct backend_ops       ops;
    char                     name[320];
    int                      device_idx;
    bool                     simple_kernels, graphs, pdl, invariant, fuses;
    int                      num_sms;
    struct gemm_limits       gemm_limits;
    cudaStream_t             stream;
    bool                     failed;     /* sticky */
    struct err               failure;
    struct backend_limits    limits;     /* zero before reserve() */

    cublasLtHandle_t         lt;
    void                    *gemm_workspace;
    struct cuda_gemm_plan   *plans;      /* [CUDA_GEMM_PLANS] */
    bool                     tune;       /* time what the heuristic proposes */
    unsigned int             tuned, tuned_saved;   /* shapes timed, in file */
    float                    tune_ms;    /* spent so far */
    char                    *tune_path;  /* NULL: no file */
    cudaEvent_t              tune_begin, tune_end;

    /* scratch, device */
    void                    *normed;     /* [max_num_batched_tokens,
                                            row_elems_max], 4 bytes each */
    void                    *product;
    size_t                   product_bytes;
    float                   *partial_out;
    float                   *partial_ml;
    unsigned int            *counters;
    int                      max_splits;
    int32_t                 *copies;     /* [CUDA_COPIES_MAX][2] */

    /* the step */
    bool                     in_step;
    bool                     fresh;      /* no kernel launched in it so far */
    struct step_inputs       step;       /* counts; the caller's pointers during
                                            step_begin() only */
    int                      rows, logit_rows;   /* num_tokens and num_logits,
                                                    or the bucket they are
                                                    padded to */
    int32_t                  id_max, slot_min, slot_max;   /* of known ids and
                                            of rows that have a slot */
    int                      num_decode, num_prefill, num_shares;
    bool                     block_shares;   /* shares are decode_block's, not
                                                decode_sm90's */
    struct cuda_model       *model;      /* NULL: not to be recorded */
    struct cuda_graph       *recording, *replaying;
    struct {                             /* y += product is still to be done */
        void      *y;
        enum dtype dtype;
        int        num, n;
    } pending;
    bool                     rope_waits; /* rope and append are still to be
                                            done, attention() may */
    struct rope_params       rope;

    struct cuda_fuse         fuse;
    struct cuda_step_arrays  dev;
    size_t                   dev_bytes[11];  /* room of each, in their order */
    int32_t                 *seq_tables, *seq_rows;  /* host, [max_num_seqs] */
    char                    *step_device;
    size_t                   step_bytes;     /* packed, at most */
    struct cuda_half         half[2];
    unsigned int             num_steps;
    int                      shared_max;     /* items */
    struct decode_draft     *drafts;         /* host, [2 * shared_max] */
    struct cuda_model        models[CUDA_MODELS_MAX];
    struct cuda_graph        record[CUDA_GRAPHS_MAX];

    /* sampling */
    int32_t                 *sampled;    /* device, [max_num_logits] */
    int                      num_sampled;    /* rows of the last sample() */
    int                      sample_cluster_max;    /* of sample_launch, */
    int                      sample_at_once[2];     /* for this vocabulary: */
    int                      sample_vocab;
    struct sample_state      sampling;   /* scratch, device */
    size_t                   sampling_words;
    struct cuda_sample       samples[SAMPLES_IN_FLIGHT];
    unsigned int             samples_issued, samples_collected;
    bool                     timing;     /* begin and end of steps are recorded */
    unsigned int             timed_from; /* the first sample() that is */
    struct cuda_timing       timings[CUDA_STEPS_TIMED];  /* by number of the
                                            step's sample() */
};

/* Remembers the first CUDA error; `what` was being done.  True when ok. */
bool cuda_keep(struct cuda_backend *cb, cudaError_t e, const char *what);
void cuda_keep_status(struct cuda_backend *cb, cublasStatus_t s,
                      const char *what);

/* Device memory; ERROR says what to change. */
int cuda_alloc(struct backend *be, size_t bytes, void **out, struct err *err);
void cuda_free(struct backend *be, void *data);

/* cuda_scratch.c */
int cuda_reserve(struct backend *be, const struct backend_limits *limits,
                 struct err *err);
void cuda_release_step(struct cuda_backend *cb);

/* cuda_step.c */
enum step_action cuda_step_begin(struct backend *be,
                                 const struct step_inputs *in);
void cuda_step_end(struct backend *be);
int cuda_splits_of(int context_len);    /* work items of one decode row */

/* cuda_graph.c */
int cuda_graph_bucket(int rows);     /* rows a step is padded to; 0: not */
void cuda_graph_begin(struct cuda_backend *cb);    /* sets recording, or
                                                      replaying */
void cuda_graph_end(struct cuda_backend *cb);
void cuda_graphs_drop(struct cuda_backend *cb);
struct cuda_model *cuda_model_of(struct cuda_backend *cb, uint64_t model_id);

/* cuda_fuse.c.  The ops answer whether they have been noted: then there is
 * nothing else to do. */
int cuda_fuse_reserve(struct cuda_backend *cb, struct err *err);
void cuda_fuse_release(struct cuda_backend *cb);
void cuda_fuse_begin(struct cuda_backend *cb, bool is_decode);
void cuda_fuse_end(struct cuda_backend *cb);
bool cuda_fuse_embed(struct cuda_backend *cb, const struct tensor *x,
                     const struct weight *w);
bool cuda_fuse_linear(struct cuda_backend *cb, const struct linear_args *args);
bool cuda_fuse_lm_head(struct cuda_backend *cb,
                       const struct lm_head_args *args);
bool cuda_fuse_rope(struct cuda_backend *cb, const struct rope_params *p);
bool cuda_fuse_attention(struct cuda_backend *cb,
                         const struct attention_params *p, enum dtype dtype);

/* cuda_sample.c */
int cuda_sample_reserve(struct cuda_backend *cb,
                        const struct backend_limits *l, struct err *err);
void cuda_sample_release(struct cuda_backend *cb);
void cuda_sample(struct backend *be, const struct sample_args *args);
int cuda_sampled(struct backend *be, int32_t *token_ids, struct err *err);
bool cuda_sample_is_done(struct backend *be);

/* cuda_timing.c */
void cuda_time_steps(struct backend *be);
bool cuda_step_time(struct backend *be, struct step_time *out);
void cuda_timing_begin(struct cuda_backend *cb);   /* before a step's first
                                                      kernel */
void cuda_timing_end(struct cuda_backend *cb);     /* after its last one */
void cuda_timing_release(struct cuda_backend *cb);

/* cuda_gemm.c: y [num, n] = x [num, k] w^T + bias, rows of y y_stride apart;
 * y_dtype is x's dtype or F32, bias is in it, or NULL.  add: y is added, to the
 * product that was or was not rounded before: as cuBLASLt's algorithm does. */
struct cuda_gemm {
    void        *y;
    const void  *x, *w, *bias;
    enum dtype   y_dtype, x_dtype, w_dtype;
    int64_t      num, n, k, y_stride;
    bool         add;
};

int cuda_gemm_init(struct cuda_backend *cb, struct err *err);
void cuda_gemm_destroy(struct cuda_backend *cb);
struct cuda_gemm_plan *cuda_gemm_place(struct cuda_backend *cb,
                                       const struct cuda_gemm_key *key);

/* Median ms of some runs of issue(cb, what), with a cold cache; negative when
 * it does not run.  May that be done now?  The rows that share a choice with
 * `num`. */
float cuda_gemm_time(struct cuda_backend *cb,
                     bool (*issue)(struct cuda_backend *cb, const void *what),
                     const void *what);
bool cuda_gemm_may_time(const struct cuda_backend *cb);
int64_t cuda_gemm_bucket(int64_t num);

/* cuda_large.c: linear() of more than CUDA_DECODE_ROWS_MAX rows in one kernel,
 * where that is faster; false, and nothing done, where not.  x normed. */
bool cuda_linear_large(struct cuda_backend *cb, const struct linear_args *args,
                       const void *x, int num);

/* cuda_tune.c: reads the choices of earlier runs; writes them when there are
 * new ones.  A file that cannot be used is as none. */
void cuda_tune_load(struct cuda_backend *cb);
void cuda_tune_save(struct cuda_backend *cb);

/* False: cuBLASLt does not take these dtypes, sizes or addresses. */
bool cuda_gemm_run(struct cuda_backend *cb, const struct cuda_gemm *g);

/* cuda_ops.c.  cuda_of() checks that a step is under way.  cuda_overlap(): may
 * the kernel launched now start before the last one has ended?  Not the first
 * of a step, see kernels.h.  cuda_rows_of(): rows to compute for a tensor with
 * room for so many. */
struct cuda_backend *cuda_of(struct backend *be);
int cuda_overlap(struct cuda_backend *cb);
int cuda_rows_of(const struct cuda_backend *cb, const struct tensor *t);
void cuda_check_activation(const struct cuda_backend *cb,
                           const struct tensor *t, int64_t row_elems);
void cuda_embed(struct backend *be, struct tensor x,
                const struct weight *embed_tokens);
void cuda_copy_blocks(struct backend *be, const struct kv_cache *kv,
                      const struct block_copy *copies, int num_copies);

/* cuda_linear.c */
void cuda_flush(struct cuda_backend *cb);    /* does what is pending */
void cuda_linear(struct backend *be, const struct linear_args *args);
void cuda_lm_head(struct backend *be, const struct lm_head_args *args);

/* cuda_attention.c */
void cuda_rope_flush(struct cuda_backend *cb);    /* part of cuda_flush() */
void cuda_rope(struct cuda_backend *cb, const struct rope_params *p);
void cuda_qk_norm_rope_append(struct backend *be,
                              const struct qk_norm_rope_append_args *args);
void cuda_attention(struct backend *be, const struct attention_args *args);

static inline enum kernel_dtype
cuda_kernel_dtype(enum dtype dtype)
{
    _Static_assert((int) KERNEL_F32 == (int) DTYPE_F32
                   && (int) KERNEL_BF16 == (int) DTYPE_BF16
                   && (int) KERNEL_F16 == (int) DTYPE_F16
                   && (int) KERNEL_F8_E4M3 == (int) DTYPE_F8_E4M3,
                   "kernels.h and tensor.h count dtypes alike");
    return (enum kernel_dtype) dtype;
}

static inline size_t
cuda_align(size_t bytes)
{
    return (bytes + CUDA_ALIGN - 1) / CUDA_ALIGN * CUDA_ALIGN;
}

#endif
