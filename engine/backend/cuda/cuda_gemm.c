/* cuda_gemm.c - matrix products through cuBLASLt, algorithms remembered.
 *
 * Row-major y = x w^T is column-major y^T = w x^T: cuBLASLt's A is w
 * (transposed), B is x, D is y.  Sums are fp32; the reduction of split sums is
 * allowed in fp32 only, so that what is rounded is rounded once.  The first
 * algorithm of the heuristic is taken; nothing is timed. */
#include "engine/backend/cuda/cuda_internal.h"

#include <stdlib.h>
#include <string.h>

#define GEMM_PROBES     8
#define GEMM_ALIGNMENT  16     /* bytes, of every matrix and row */

struct gemm_layouts {
    cublasLtMatmulDescOpaque_t    op;
    cublasLtMatrixLayoutOpaque_t  w, x, y;
};

static cudaDataType_t
gemm_type(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_BF16:
        return CUDA_R_16BF;
    case DTYPE_F16:
        return CUDA_R_16F;
    case DTYPE_F32:
    case DTYPE_NONE:
        break;
    }
    return CUDA_R_32F;
}

int
cuda_gemm_init(struct cuda_backend *cb, struct err *err)
{
    cb->plans = calloc(CUDA_GEMM_PLANS, sizeof *cb->plans);
    if (cb->plans == NULL) {
        return err_set(err, "cuda backend: out of memory");
    }
    cublasStatus_t  s = cublasLtCreate(&cb->lt);
    if (s != CUBLAS_STATUS_SUCCESS) {
        return err_set(err, "cublasLtCreate: %s",
                       cublasLtGetStatusString(s));
    }
    return cuda_alloc(&cb->base, CUDA_GEMM_WORKSPACE, &cb->gemm_workspace,
                      err);
}

void
cuda_gemm_destroy(struct cuda_backend *cb)
{
    if (cb->lt != NULL) {
        (void) cublasLtDestroy(cb->lt);
    }
    cuda_free(&cb->base, cb->gemm_workspace);
    free(cb->plans);
}

static cublasStatus_t
gemm_layouts_init(struct gemm_layouts *l, const struct cuda_gemm *g)
{
    cublasOperation_t  transposed = CUBLAS_OP_T;
    cudaDataType_t     in = gemm_type(g->x_dtype), out = gemm_type(g->y_dtype);
    uint64_t           n = (uint64_t) g->n, k = (uint64_t) g->k;
    cublasStatus_t     s = cublasLtMatmulDescInit(&l->op, CUBLAS_COMPUTE_32F,
                                                  CUDA_R_32F);
    if (s == CUBLAS_STATUS_SUCCESS) {
        s = cublasLtMatmulDescSetAttribute(&l->op, CUBLASLT_MATMUL_DESC_TRANSA,
                                           &transposed, sizeof transposed);
    }
    if (s == CUBLAS_STATUS_SUCCESS && g->bias != NULL) {
        cublasLtEpilogue_t  epilogue = CUBLASLT_EPILOGUE_BIAS;
        s = cublasLtMatmulDescSetAttribute(&l->op,
                                           CUBLASLT_MATMUL_DESC_EPILOGUE,
                                           &epilogue, sizeof epilogue);
        if (s == CUBLAS_STATUS_SUCCESS) {
            s = cublasLtMatmulDescSetAttribute(
                &l->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &g->bias,
                sizeof g->bias);
        }
    }
    if (s == CUBLAS_STATUS_SUCCESS) {
        s = cublasLtMatrixLayoutInit(&l->w, in, k, n, g->k);
    }
    if (s == CUBLAS_STATUS_SUCCESS) {
        s = cublasLtMatrixLayoutInit(&l->x, in, k, (uint64_t) g->num, g->k);
    }
    if (s == CUBLAS_STATUS_SUCCESS) {
        s = cublasLtMatrixLayoutInit(&l->y, out, n, (uint64_t) g->num,
                                     g->y_stride);
    }
    return s;
}

/* Asks the heuristic once for a shape. */
static bool
gemm_choose(struct cuda_backend *cb, struct gemm_layouts *l,
            cublasLtMatmulAlgo_t *algo)
{
    cublasLtMatmulPreferenceOpaque_t  pref;
    cublasLtMatmulHeuristicResult_t   result;
    size_t    workspace = CUDA_GEMM_WORKSPACE;
    uint32_t  reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    uint32_t  align = GEMM_ALIGNMENT;
    int       num = 0;
    const struct {
        cublasLtMatmulPreferenceAttributes_t  name;
        const void                           *value;
        size_t                                bytes;
    } attributes[] = {
        { CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
          sizeof workspace },
        { CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions,
          sizeof reductions },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align, sizeof align },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align, sizeof align },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align, sizeof align },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align, sizeof align },
    };
    if (cublasLtMatmulPreferenceInit(&pref) != CUBLAS_STATUS_SUCCESS) {
        return false;
    }
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
        if (cublasLtMatmulPreferenceSetAttribute(&pref, attributes[i].name,
                                                 attributes[i].value,
                                                 attributes[i].bytes)
            != CUBLAS_STATUS_SUCCESS)
        {
            return false;
        }
    }
    cublasStatus_t  s = cublasLtMatmulAlgoGetHeuristic(
        cb->lt, &l->op, &l->w, &l->x, &l->y, &l->y, &pref, 1, &result, &num);
    if (s != CUBLAS_STATUS_SUCCESS || num < 1
        || result.state != CUBLAS_STATUS_SUCCESS)
    {
        return false;
    }
    *algo = result.algo;
    return true;
}

static uint64_t
key_hash(const struct cuda_gemm_key *key)
{
    const uint32_t  parts[] = { (uint32_t) key->n, (uint32_t) key->k,
                                (uint32_t) key->num, (uint32_t) key->dtype,
                                (uint32_t) key->out_dtype,
                                (uint32_t) key->has_bias };
    uint64_t        h = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        h = (h + parts[i]) * UINT64_C(0x9e3779b97f4a7c15);
    }
    return h ^ h >> 29;
}

/* The remembered plan of a shape, chosen now if it is new.  When all places a
 * shape may take are full, the first is given up. */
static const struct cuda_gemm_plan *
gemm_plan(struct cuda_backend *cb, const struct cuda_gemm *g,
          struct gemm_layouts *l)
{
    struct cuda_gemm_key    key = { g->n, g->k, g->num, (int32_t) g->x_dtype,
                                    (int32_t) g->y_dtype, g->bias != NULL, 1 };
    uint64_t                at = key_hash(&key) % CUDA_GEMM_PLANS;
    struct cuda_gemm_plan  *plan = &cb->plans[at];
    for (uint64_t i = 0; i < GEMM_PROBES; i++) {
        struct cuda_gemm_plan  *p = &cb->plans[(at + i) % CUDA_GEMM_PLANS];
        if (memcmp(&p->key, &key, sizeof key) == 0) {
            return p;
        }
        if (!p->key.used) {
            plan = p;
            break;
        }
    }
    plan->key = key;
    plan->found = gemm_choose(cb, l, &plan->algo);
    return plan;
}

static bool
is_aligned(const void *p, int64_t row_elems, enum dtype dtype)
{
    return (uintptr_t) p % GEMM_ALIGNMENT == 0
           && (size_t) row_elems * dtype_bytes(dtype) % GEMM_ALIGNMENT == 0;
}

bool
cuda_gemm_run(struct cuda_backend *cb, const struct cuda_gemm *g)
{
    struct gemm_layouts  l;
    float                one = 1.0f, zero = 0.0f;
    if (cb->simple_kernels || g->x_dtype != g->w_dtype
        || !is_aligned(g->w, g->k, g->w_dtype)
        || !is_aligned(g->x, g->k, g->x_dtype)
        || !is_aligned(g->y, g->y_stride, g->y_dtype)
        || gemm_layouts_init(&l, g) != CUBLAS_STATUS_SUCCESS)
    {
        return false;
    }
    const struct cuda_gemm_plan  *plan = gemm_plan(cb, g, &l);
    if (!plan->found) {
        return false;
    }
    cuda_keep_status(cb, cublasLtMatmul(cb->lt, &l.op, &one, g->w, &l.w, g->x,
                                        &l.x, &zero, g->y, &l.y, g->y, &l.y,
                                        &plan->algo, cb->gemm_workspace,
                                        CUDA_GEMM_WORKSPACE, cb->stream),
                     "cublasLtMatmul");
    return true;
}
