/* cuda_internal.h - what the files of the CUDA backend share.
 *
 *   backend_cuda.c  life, memory, weights
 *   cuda_step.c     sizes of a step, its upload, the attention work lists
 *   cuda_ops.c      the ops
 *   cuda_gemm.c     cuBLASLt
 *
 * Errors: CUDA's own are sticky.  The first one is kept by cuda_keep() and
 * every later sync() answers with it; ops go on issuing, harmlessly. */
#ifndef LLM_BACKEND_CUDA_CUDA_INTERNAL_H
#define LLM_BACKEND_CUDA_CUDA_INTERNAL_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "engine/backend/cuda/backend_cuda.h"
#include "kernels/kernels.h"

#define CUDA_ALIGN             256
#define CUDA_GEMM_WORKSPACE    ((size_t) 64 << 20)   /* split-K partial sums */
#define CUDA_GEMM_PLANS        1024    /* algorithms remembered */
#define CUDA_ACC_ROWS          1024    /* rows whose fp32 products are kept
                                          for an epilogue of ours */
#define CUDA_SPLITS_PER_SEQ    8       /* room for partial attention results */
#define CUDA_SPLITS_EXTRA      512
#define CUDA_COPIES_MAX        1024    /* block copies of one launch */
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
    float                   *vector;     /* VECTOR: [in] fp32, is memory */
};

/* One product shape and the algorithm chosen for it. */
struct cuda_gemm_key {
    int64_t n, k, num;
    int32_t dtype, out_dtype, accumulate;
    int32_t used;
};

struct cuda_gemm_plan {
    struct cuda_gemm_key    key;
    bool                    found;      /* false: cuBLASLt takes it not */
    cublasLtMatmulAlgo_t    algo;
};

/* Device copies of the step's arrays, and what is derived from them. */
struct cuda_step_arrays {
    const int32_t               *input_ids, *positions, *slot_mapping;
    const int32_t               *row_seq, *block_tables, *logits_idx;
    const struct attention_item *decode, *prefill;
};

struct cuda_backend {
    struct backend           base;       /* first */
    struct backend_ops       ops;
    char                     name[320];
    int                      device_idx;
    bool                     simple_kernels;
    cudaStream_t             stream;
    bool                     failed;     /* sticky */
    struct err               failure;
    struct backend_limits    limits;     /* zero before reserve() */

    cublasLtHandle_t         lt;
    void                    *gemm_workspace;
    struct cuda_gemm_plan   *plans;      /* [CUDA_GEMM_PLANS] */

    /* scratch, device */
    void                    *normed;     /* [max_num_batched_tokens,
                                            row_elems_max], 4 bytes each */
    float                   *acc;        /* [acc_rows, 2 * row_elems_max] */
    int                      acc_rows;
    float                   *partial_out;
    float                   *partial_ml;
    unsigned int            *counters;
    int                      max_splits;
    int32_t                 *copies;     /* [CUDA_COPIES_MAX][2] */

    /* the step */
    bool                     in_step;
    struct step_inputs       step;       /* counts, and pointers into host */
    struct cuda_step_arrays  dev;
    int                      num_decode, num_prefill;
    char                    *step_host;  /* pinned; the same layout as */
    char                    *step_device;
    size_t                   step_bytes;
    cudaEvent_t              step_uploaded;
};

/* Remembers the first CUDA error; `what` was being done.  True when ok. */
bool cuda_keep(struct cuda_backend *cb, cudaError_t e, const char *what);
void cuda_keep_status(struct cuda_backend *cb, cublasStatus_t s,
                      const char *what);

/* Device memory; ERROR says what to change. */
int cuda_alloc(struct backend *be, size_t bytes, void **out, struct err *err);
void cuda_free(struct backend *be, void *data);

/* cuda_step.c */
int cuda_reserve(struct backend *be, const struct backend_limits *limits,
                 struct err *err);
void cuda_release_step(struct cuda_backend *cb);
enum step_action cuda_step_begin(struct backend *be,
                                 const struct step_inputs *in);
void cuda_step_end(struct backend *be);

/* cuda_gemm.c: y [num, n] (+)= x [num, k] w^T, rows of y y_stride apart.
 * y_dtype is x's dtype or F32; accumulate: y is added before rounding. */
struct cuda_gemm {
    void        *y;
    const void  *x, *w;
    enum dtype   y_dtype, x_dtype, w_dtype;
    int64_t      num, n, k, y_stride;
    bool         accumulate;
};

int cuda_gemm_init(struct cuda_backend *cb, struct err *err);
void cuda_gemm_destroy(struct cuda_backend *cb);
/* False: cuBLASLt does not take these dtypes, sizes or addresses. */
bool cuda_gemm_run(struct cuda_backend *cb, const struct cuda_gemm *g);

/* cuda_ops.c */
void cuda_embed(struct backend *be, struct tensor x,
                const struct weight *embed_tokens);
void cuda_linear(struct backend *be, const struct linear_args *args);
void cuda_qk_norm_rope_append(struct backend *be,
                              const struct qk_norm_rope_append_args *args);
void cuda_attention(struct backend *be, const struct attention_args *args);
void cuda_lm_head(struct backend *be, const struct lm_head_args *args);
void cuda_copy_blocks(struct backend *be, const struct kv_cache *kv,
                      const struct block_copy *copies, int num_copies);

static inline enum kernel_dtype
cuda_kernel_dtype(enum dtype dtype)
{
    _Static_assert((int) KERNEL_F32 == (int) DTYPE_F32
                   && (int) KERNEL_BF16 == (int) DTYPE_BF16
                   && (int) KERNEL_F16 == (int) DTYPE_F16,
                   "kernels.h and tensor.h count dtypes alike");
    return (enum kernel_dtype) dtype;
}

static inline size_t
cuda_align(size_t bytes)
{
    return (bytes + CUDA_ALIGN - 1) / CUDA_ALIGN * CUDA_ALIGN;
}

#endif
