/* cuda_gemm.c - matrix products through cuBLASLt, algorithms remembered.
 *
 * Row-major y = x w^T is column-major y^T = w x^T: cuBLASLt's A is w
 * (transposed), B is x, D is y.  Sums are fp32; the reduction of split sums is
 * allowed in fp32 only, so that what is rounded is rounded once.
 *
 * Shapes are remembered by bucket of rows.  The first product of a shape times
 * what the heuristic proposes, on its own data with the L2 cache flushed, and
 * keeps the fastest; cuda_tune.c keeps the choices in a file.  Not while a step
 * is being recorded, nor when a time limit is used up: then the heuristic's
 * first is taken.
 *
 * Batch-invariant, for what gemm_sm90.cu does not take: one algorithm for any
 * number of rows, without split sums, so that an output's sum over k has one
 * order. */
#include "engine/backend/cuda/cuda_internal.h"

#include <stdlib.h>
#include <string.h>

#define GEMM_PROBES     8
#define GEMM_CANDIDATES 16
#define GEMM_RUNS       7      /* timed, the first not counted */
#define GEMM_BETTER     0.98f  /* of the heuristic's first, decode: less is
                                  noise; large products are timed well */
#define GEMM_TUNE_MS    5000.0f   /* for all shapes together */
#define GEMM_INVARIANT_ROWS  64   /* that the one algorithm is chosen for */
#define GEMM_FEW        6      /* candidates where a run takes long */
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
    case DTYPE_F8_E4M3:
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
        cuda_keep_status(cb, s, "cublasLtCreate");
        return err_set(err, "%s", cb->failure.message);
    }
    if (!cuda_keep(cb, cudaEventCreate(&cb->tune_begin), "cudaEventCreate")
        || !cuda_keep(cb, cudaEventCreate(&cb->tune_end), "cudaEventCreate"))
    {
        return err_set(err, "%s", cb->failure.message);
    }
    cuda_tune_load(cb);
    return cuda_alloc(&cb->base, CUDA_GEMM_WORKSPACE, &cb->gemm_workspace,
                      err);
}

void
cuda_gemm_destroy(struct cuda_backend *cb)
{
    if (cb->lt != NULL) {
        (void) cublasLtDestroy(cb->lt);
    }
    if (cb->tune_begin != NULL) {
        (void) cudaEventDestroy(cb->tune_begin);
    }
    if (cb->tune_end != NULL) {
        (void) cudaEventDestroy(cb->tune_end);
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

/* What the heuristic proposes for a shape, best guess first. */
static int
gemm_candidates(struct cuda_backend *cb, struct gemm_layouts *l,
                cublasLtMatmulHeuristicResult_t *out)
{
    cublasLtMatmulPreferenceOpaque_t  pref;
    size_t    workspace = CUDA_GEMM_WORKSPACE;
    uint32_t  reductions = cb->invariant
                           ? CUBLASLT_REDUCTION_SCHEME_NONE
                           : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
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
        return 0;
    }
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
        if (cublasLtMatmulPreferenceSetAttribute(&pref, attributes[i].name,
                                                 attributes[i].value,
                                                 attributes[i].bytes)
            != CUBLAS_STATUS_SUCCESS)
        {
            return 0;
        }
    }
    if (cublasLtMatmulAlgoGetHeuristic(cb->lt, &l->op, &l->w, &l->x, &l->y,
                                       &l->y, &pref, GEMM_CANDIDATES, out,
                                       &num) != CUBLAS_STATUS_SUCCESS)
    {
        return 0;
    }
    return num;
}

static cublasStatus_t
gemm_issue(struct cuda_backend *cb, const struct cuda_gemm *g,
           struct gemm_layouts *l, const cublasLtMatmulAlgo_t *algo, void *out)
{
    float  one = 1.0f, beta = g->add ? 1.0f : 0.0f;
    return cublasLtMatmul(cb->lt, &l->op, &one, g->w, &l->w, g->x, &l->x,
                          &beta, g->y, &l->y, out, &l->y, algo,
                          cb->gemm_workspace, CUDA_GEMM_WORKSPACE,
                          cb->stream);
}

float
cuda_gemm_time(struct cuda_backend *cb,
               bool (*issue)(struct cuda_backend *cb, const void *what),
               const void *what)
{
    float  ms[GEMM_RUNS], median = 0.0f;
    for (int i = 0; i < GEMM_RUNS; i++) {
        /* the workspace is larger than the L2 cache */
        (void) cudaMemsetAsync(cb->gemm_workspace, 0, CUDA_GEMM_WORKSPACE,
                               cb->stream);
        (void) cudaEventRecord(cb->tune_begin, cb->stream);
        if (!issue(cb, what)) {
            return -1.0f;
        }
        (void) cudaEventRecord(cb->tune_end, cb->stream);
        if (cudaEventSynchronize(cb->tune_end) != cudaSuccess
            || cudaEventElapsedTime(&ms[i], cb->tune_begin, cb->tune_end)
               != cudaSuccess)
        {
            return -1.0f;
        }
        cb->tune_ms += ms[i];
    }
    for (int i = 1; i < GEMM_RUNS; i++) {
        int  below = 0;
        for (int j = 1; j < GEMM_RUNS; j++) {
            below += ms[j] < ms[i] || (ms[j] <= ms[i] && j < i);
        }
        median = below == (GEMM_RUNS - 1) / 2 ? ms[i] : median;
    }
    return median;
}

bool
cuda_gemm_may_time(const struct cuda_backend *cb)
{
    return cb->tune && cb->recording == NULL && !cb->failed
           && cb->tune_ms <= GEMM_TUNE_MS;
}

struct gemm_trial {
    const struct cuda_gemm      *g;
    struct gemm_layouts         *l;
    const cublasLtMatmulAlgo_t  *algo;
};

static bool
issue_trial(struct cuda_backend *cb, const void *what)
{
    const struct gemm_trial  *t = what;
    /* y is added once only */
    return gemm_issue(cb, t->g, t->l, t->algo, t->g->add ? cb->product : t->g->y)
           == CUBLAS_STATUS_SUCCESS;
}

static bool
is_split(const cublasLtMatmulAlgo_t *algo)
{
    int32_t  splits = 1;
    size_t   bytes = 0;
    return cublasLtMatmulAlgoConfigGetAttribute(
               algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &splits, sizeof splits,
               &bytes) == CUBLAS_STATUS_SUCCESS && splits > 1;
}

/* Chooses an algorithm for a shape; false when there is none. */
static bool
gemm_choose(struct cuda_backend *cb, const struct cuda_gemm *g,
            struct gemm_layouts *l, cublasLtMatmulAlgo_t *algo)
{
    cublasLtMatmulHeuristicResult_t  found[GEMM_CANDIDATES];
    int    num = gemm_candidates(cb, l, found), best = -1;
    bool   few = g->num > CUDA_DECODE_ROWS_MAX;
    float  best_ms = 0.0f;
    for (int i = 0; i < num && !(few && i == GEMM_FEW); i++) {
        if (found[i].state != CUBLAS_STATUS_SUCCESS
            || (cb->invariant && is_split(&found[i].algo)))
        {
            continue;
        }
        if (!cuda_gemm_may_time(cb)) {
            *algo = found[i].algo;
            return true;
        }
        float  ms = cuda_gemm_time(cb, issue_trial, &(struct gemm_trial) {
            .g = g, .l = l, .algo = &found[i].algo });
        if (ms >= 0.0f && (best < 0 || ms < best_ms)) {
            best = i;
            best_ms = i == 0 && !few ? ms * GEMM_BETTER : ms;
        }
    }
    if (best < 0) {
        return false;
    }
    *algo = found[best].algo;
    cb->tuned++;
    return true;
}

static uint64_t
key_hash(const struct cuda_gemm_key *key)
{
    const uint32_t  parts[] = { (uint32_t) key->n, (uint32_t) key->k,
                                (uint32_t) key->num, (uint32_t) key->dtype,
                                (uint32_t) key->out_dtype,
                                (uint32_t) key->flags };
    uint64_t        h = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        h = (h + parts[i]) * UINT64_C(0x9e3779b97f4a7c15);
    }
    return h ^ h >> 29;
}

/* Rows that share an algorithm: past the buckets of decode steps 2^n and
 * 3 * 2^n. */
int64_t
cuda_gemm_bucket(int64_t num)
{
    int64_t  rows = CUDA_DECODE_ROWS_MAX;
    if (num <= rows) {
        return cuda_graph_bucket((int) num);
    }
    while (rows < num && rows + rows / 2 < num) {
        rows *= 2;
    }
    return rows < num ? rows + rows / 2 : rows;
}

/* Where a shape is remembered, or may be: when all places are taken, the first
 * is given up. */
struct cuda_gemm_plan *
cuda_gemm_place(struct cuda_backend *cb, const struct cuda_gemm_key *key)
{
    uint64_t                at = key_hash(key) % CUDA_GEMM_PLANS;
    struct cuda_gemm_plan  *plan = &cb->plans[at];
    for (uint64_t i = 0; i < GEMM_PROBES; i++) {
        struct cuda_gemm_plan  *p = &cb->plans[(at + i) % CUDA_GEMM_PLANS];
        if (memcmp(&p->key, key, sizeof *key) == 0 || !p->key.used) {
            return p;
        }
    }
    return plan;
}

static struct cuda_gemm_plan *
gemm_plan(struct cuda_backend *cb, const struct cuda_gemm *g,
          struct gemm_layouts *l)
{
    struct cuda_gemm_key    key = { g->n, g->k,
                                    cb->invariant ? 0 : cuda_gemm_bucket(g->num),
                                    (int32_t) g->x_dtype,
                                    (int32_t) g->y_dtype,
                                    (g->bias != NULL) | g->add << 1, 1 };
    struct cuda_gemm_plan  *plan = cuda_gemm_place(cb, &key);
    if (memcmp(&plan->key, &key, sizeof key) != 0) {
        struct gemm_layouts  fixed;
        struct cuda_gemm     any = *g;
        any.num = GEMM_INVARIANT_ROWS;
        plan->key = key;
        plan->found = cb->invariant
                      ? gemm_layouts_init(&fixed, &any)
                        == CUBLAS_STATUS_SUCCESS
                        && gemm_choose(cb, g, &fixed, &plan->algo)
                      : gemm_choose(cb, g, l, &plan->algo);
    }
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
    if (cb->simple_kernels || g->x_dtype != g->w_dtype
        || !is_aligned(g->w, g->k, g->w_dtype)
        || !is_aligned(g->x, g->k, g->x_dtype)
        || !is_aligned(g->y, g->y_stride, g->y_dtype)
        || gemm_layouts_init(&l, g) != CUBLAS_STATUS_SUCCESS)
    {
        return false;
    }
    struct cuda_gemm_plan  *plan = gemm_plan(cb, g, &l);
    if (!plan->found) {
        return false;
    }
    cublasStatus_t  s = gemm_issue(cb, g, &l, &plan->algo, g->y);
    if (s != CUBLAS_STATUS_SUCCESS && !cb->invariant) {
        /* chosen for other rows of the bucket, or read from a file */
        plan->found = gemm_choose(cb, g, &l, &plan->algo);
        if (!plan->found) {
            return false;
        }
        s = gemm_issue(cb, g, &l, &plan->algo, g->y);
    }
    cuda_keep_status(cb, s, "cublasLtMatmul");
    return true;
}
