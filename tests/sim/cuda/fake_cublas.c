/* fake_cublas.c - cuBLASLt: takes every product and looks at its matrices.
 *
 * The heuristic proposes a few algorithms, some with split sums; an algorithm is
 * its number. */
#include "tests/sim/cuda/fake_gpu.h"

#include <string.h>

#define ALGORITHMS     4
#define SPLITS_FROM    2        /* these have split sums */

struct layout {
    uint64_t  rows, cols;
    int64_t   stride;
    int       type;
};

_Static_assert(sizeof(struct layout) <= sizeof(cublasLtMatrixLayoutOpaque_t),
               "room in cuBLASLt's own");

/* ---- handles and descriptions ------------------------------------------------------ */

cublasStatus_t
cublasLtCreate(cublasLtHandle_t *handle)
{
    if (fake_fails(FAKE_HANDLE)) {
        return CUBLAS_STATUS_ALLOC_FAILED;
    }
    *handle = (cublasLtHandle_t) (void *) &fake;
    fake.live_handles++;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasLtDestroy(cublasLtHandle_t handle)
{
    FAKE_CHECK(handle != NULL);
    fake.live_handles--;
    return CUBLAS_STATUS_SUCCESS;
}

const char *
cublasLtGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_SUCCESS ? "success" : "an error";
}

size_t
cublasLtGetVersion(void)
{
    return 1;
}

cublasStatus_t
cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t layout, size_t bytes,
                                  cudaDataType type, uint64_t rows,
                                  uint64_t cols, int64_t stride)
{
    struct layout  l = { rows, cols, stride, (int) type };
    memset(layout, 0, bytes);
    memcpy(layout, &l, sizeof l);
    return CUBLAS_STATUS_SUCCESS;
}

/* Of a product's description only the bias is kept. */
cublasStatus_t
cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t desc, size_t bytes,
                                cublasComputeType_t compute,
                                cudaDataType_t scale)
{
    FAKE_CHECK(compute == CUBLAS_COMPUTE_32F && scale == CUDA_R_32F);
    memset(desc, 0, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                               cublasLtMatmulDescAttributes_t name,
                               const void *value, size_t bytes)
{
    if (name == CUBLASLT_MATMUL_DESC_BIAS_POINTER) {
        memcpy(desc, value, bytes);
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t pref,
                                      size_t bytes)
{
    memset(pref, 0, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t pref,
                                     cublasLtMatmulPreferenceAttributes_t name,
                                     const void *value, size_t bytes)
{
    (void) pref;
    (void) name;
    (void) value;
    (void) bytes;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle,
                               cublasLtMatmulDesc_t desc,
                               cublasLtMatrixLayout_t a,
                               cublasLtMatrixLayout_t b,
                               cublasLtMatrixLayout_t c,
                               cublasLtMatrixLayout_t d,
                               cublasLtMatmulPreference_t pref, int max,
                               cublasLtMatmulHeuristicResult_t results[],
                               int *num)
{
    FAKE_CHECK(handle != NULL && desc != NULL && a != NULL && b != NULL
               && c != NULL && d != NULL && pref != NULL);
    *num = max < ALGORITHMS ? max : ALGORITHMS;
    memset(results, 0, (size_t) *num * sizeof *results);
    for (int i = 0; i < *num; i++) {
        results[i].algo.data[0] = (uint64_t) i;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo,
                                     cublasLtMatmulAlgoConfigAttributes_t name,
                                     void *value, size_t bytes,
                                     size_t *written)
{
    int32_t  splits = algo->data[0] >= SPLITS_FROM ? 2 : 1;
    FAKE_CHECK(name == CUBLASLT_ALGO_CONFIG_SPLITK_NUM
               && bytes == sizeof splits);
    memcpy(value, &splits, sizeof splits);
    *written = sizeof splits;
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- a product ------------------------------------------------------------------------ */

struct matmul {
    const void    *a, *b, *c, *d, *bias, *workspace;
    struct layout  of_a, of_b, of_c, of_d;
    size_t         workspace_bytes;
};

static void
check_matrix(const void *data, const struct layout *l, const char *what)
{
    size_t  elem = l->type == CUDA_R_32F ? 4 : 2;
    FAKE_CHECK(l->cols >= 1 && (uint64_t) l->stride >= l->rows);
    (void) fake_at(data, ((l->cols - 1) * (uint64_t) l->stride + l->rows)
                         * elem, what);
}

static void
run_matmul(void *args)
{
    const struct matmul  *m = args;
    check_matrix(m->a, &m->of_a, "cublasLtMatmul: w");
    check_matrix(m->b, &m->of_b, "cublasLtMatmul: x");
    check_matrix(m->c, &m->of_c, "cublasLtMatmul: y, read");
    check_matrix(m->d, &m->of_d, "cublasLtMatmul: y");
    if (m->bias != NULL) {
        (void) fake_at(m->bias, m->of_d.rows
                                * (m->of_d.type == CUDA_R_32F ? 4 : 2),
                       "cublasLtMatmul: bias");
    }
    (void) fake_at(m->workspace, m->workspace_bytes,
                   "cublasLtMatmul: workspace");
}

cublasStatus_t
cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
               const void *alpha, const void *a, cublasLtMatrixLayout_t of_a,
               const void *b, cublasLtMatrixLayout_t of_b, const void *beta,
               const void *c, cublasLtMatrixLayout_t of_c, void *d,
               cublasLtMatrixLayout_t of_d, const cublasLtMatmulAlgo_t *algo,
               void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    struct matmul  m = { .a = a, .b = b, .c = c, .d = d,
                         .workspace = workspace,
                         .workspace_bytes = workspace_bytes };
    FAKE_CHECK(handle != NULL && alpha != NULL && beta != NULL
               && algo->data[0] < ALGORITHMS);
    memcpy(&m.bias, desc, sizeof m.bias);
    memcpy(&m.of_a, of_a, sizeof m.of_a);
    memcpy(&m.of_b, of_b, sizeof m.of_b);
    memcpy(&m.of_c, of_c, sizeof m.of_c);
    memcpy(&m.of_d, of_d, sizeof m.of_d);
    /* y^T = w x^T, columns first, w transposed */
    FAKE_CHECK(m.of_a.rows == m.of_b.rows && m.of_a.cols == m.of_d.rows
               && m.of_b.cols == m.of_d.cols && m.of_a.type == m.of_b.type);
    fake_launch(FAKE_CUBLAS, stream, 0);
    FAKE_PUSH(run_matmul, &m);
    return CUBLAS_STATUS_SUCCESS;
}
