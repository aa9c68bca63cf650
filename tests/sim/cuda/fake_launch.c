/* fake_launch.c - the launch functions of kernels.h but attention's.
 *
 * What a kernel would read and write is looked at when it would: in run_*().
 * What _takes() says is written down here as kernels.h has it. */
#include "tests/sim/cuda/fake_gpu.h"

#include <string.h>

#define GRID_Y_MAX   65535
#define TILE_ROWS    16       /* matmul.cu's, of weights a gemv or gemm block */

/* ---- a step's arrays -------------------------------------------------------------- */

struct unpack {
    struct unpack_params  p;
    size_t                bytes;
    char                  src[];     /* as it was when launched */
};

static void
check_apart(const struct unpack_params *p, int i)
{
    uint64_t  begin = p->segments[i].dst;
    uint64_t  end = begin + 16 * (uint64_t) p->segments[i].words;
    for (int j = 0; j < i; j++) {
        uint64_t  other = p->segments[j].dst;
        uint64_t  other_end = other + 16 * (uint64_t) p->segments[j].words;
        FAKE_CHECK(end <= other || other_end <= begin);
    }
}

static void
run_unpack(void *args)
{
    const struct unpack         *u = args;
    const struct unpack_params  *p = &u->p;
    int32_t                     *ids = NULL;
    size_t                       at = 0;
    if (memcmp(u->src, p->src, u->bytes) != 0) {
        fake_fault("pinned arrays of a step were written before the device "
                   "has read them");
    }
    for (int i = 0; i < p->num_segments; i++) {
        size_t  bytes = 16 * (size_t) p->segments[i].words;
        char   *to = fake_at(p->dst + p->segments[i].dst, bytes, "unpack");
        check_apart(p, i);
        memcpy(to, u->src + at, bytes);
        at += bytes;
        ids = i == 0 ? (int32_t *) (void *) to : ids;
    }
    for (int i = 0; i < 4 * p->segments[0].words; i++) {
        if (ids[i] < 0) {
            const int32_t  *sampled = fake_at(p->sampled + (-1 - ids[i]),
                                              sizeof *sampled, "unpack");
            ids[i] = *sampled;
        }
    }
    fake_step_run(ids);
}

cudaError_t
unpack_launch(const struct unpack_params *p, cudaStream_t stream)
{
    struct unpack  u = { .p = *p };
    FAKE_CHECK(fake.recording == NULL);
    FAKE_CHECK(p->num_segments >= 1 && p->num_segments <= UNPACK_SEGMENTS_MAX);
    for (int i = 0; i < p->num_segments; i++) {
        FAKE_CHECK(p->segments[i].words >= 0);
        u.bytes += 16 * (size_t) p->segments[i].words;
    }
    fake_in_pinned(p->src, u.bytes, "unpack");
    fake_launch(FAKE_UNPACK, stream, p->pdl);
    fake_push(run_unpack, &u, sizeof u, p->src, u.bytes);
    return cudaSuccess;
}

/* ---- embedding, norms, weights ------------------------------------------------------- */

static void
run_gather(void *args)
{
    const struct gather_params  *p = args;
    size_t          row = (size_t) p->n * fake_dtype_bytes(p->x_dtype);
    const int32_t  *ids = fake_at(p->ids, (size_t) p->num * sizeof *ids,
                                  "gather: ids");
    (void) fake_at(p->y, (size_t) p->num * (size_t) p->n
                         * fake_dtype_bytes(p->y_dtype), "gather: y");
    fake_check_ids(ids, p->num);
    for (int i = 0; i < p->num; i++) {
        FAKE_CHECK(ids[i] >= 0);
        (void) fake_at((const char *) p->x + (size_t) ids[i] * row, row,
                       "gather: x");
    }
}

cudaError_t
gather_launch(const struct gather_params *p, cudaStream_t stream)
{
    FAKE_CHECK(p->num >= 1);
    fake_launch(FAKE_GATHER, stream, p->pdl);
    FAKE_PUSH(run_gather, p);
    return cudaSuccess;
}

static void
run_norm(void *args)
{
    const struct norm_params  *p = args;
    size_t  row = (size_t) p->n * fake_dtype_bytes(p->dtype);
    size_t  bytes = (size_t) p->num * row;
    (void) fake_at(p->y, bytes, "norm: y");
    (void) fake_at(p->weight, (size_t) p->n * sizeof(float), "norm: weight");
    if (p->rows == NULL) {
        (void) fake_at(p->x, bytes, "norm: x");
        if (p->add != NULL) {
            (void) fake_at(p->add, bytes, "norm: add");
        }
        return;
    }
    const int32_t  *rows = fake_at(p->rows, (size_t) p->num * sizeof *rows,
                                   "norm: rows");
    fake_check_logits(rows, p->num);
    for (int i = 0; i < p->num; i++) {
        (void) fake_at((const char *) p->x + (size_t) rows[i] * row, row,
                       "norm: x");
    }
}

cudaError_t
norm_launch(const struct norm_params *p, cudaStream_t stream)
{
    FAKE_CHECK(p->num >= 1 && (p->rows == NULL || p->add == NULL));
    fake_launch(FAKE_NORM, stream, p->pdl);
    FAKE_PUSH(run_norm, p);
    return cudaSuccess;
}

cudaError_t
widen_launch(float *y, const void *x, enum kernel_dtype x_dtype, int64_t n,
             cudaStream_t stream)
{
    (void) fake_at(y, (size_t) n * sizeof *y, "widen: y");
    (void) fake_at(x, (size_t) n * fake_dtype_bytes(x_dtype), "widen: x");
    fake_launch(FAKE_WIDEN, stream, 0);
    return cudaSuccess;
}

cudaError_t
random_launch(void *p, enum kernel_dtype dtype, int64_t n, uint64_t state,
              float scale, cudaStream_t stream)
{
    (void) state;
    (void) scale;
    (void) fake_at(p, (size_t) n * fake_dtype_bytes(dtype), "random");
    fake_launch(FAKE_RANDOM, stream, 0);
    return cudaSuccess;
}

/* ---- products ------------------------------------------------------------------------- */

void
fake_check_product(const struct fake_product *p)
{
    size_t  elem = fake_dtype_bytes(p->dtype);
    size_t  num = (size_t) p->num, n = (size_t) p->n, k = (size_t) p->k;
    size_t  rows = p->silu_mul ? 2 * n : n;
    (void) fake_at(p->y, num * n * (p->y_f32 ? sizeof(float) : elem), "y");
    (void) fake_at(p->x, num * k * elem, "x");
    (void) fake_at(p->w, rows * k * elem, "w");
    if (p->bias != NULL) {
        (void) fake_at(p->bias, rows * sizeof(float), "bias");
    }
}

static void
run_product(void *args)
{
    fake_check_product(args);
}

static bool
is_aligned(const void *a, const void *b, const void *c)
{
    return (((uintptr_t) a | (uintptr_t) b | (uintptr_t) c) & 15) == 0;
}

int
gemv_takes(const struct gemv_params *p)
{
    return p->dtype != KERNEL_F32 && p->num <= GEMV_ROWS_MAX && p->k % 64 == 0
           && p->n % (p->silu_mul ? TILE_ROWS / 2 : TILE_ROWS) == 0
           && is_aligned(p->x, p->w, NULL);
}

cudaError_t
gemv_launch(const struct gemv_params *p, cudaStream_t stream)
{
    FAKE_CHECK(p->num >= 1 && gemv_takes(p));
    fake_launch(FAKE_GEMV, stream, p->overlap);
    FAKE_PUSH(run_product, (&(struct fake_product) {
        p->y, p->x, p->w, p->bias, (int) p->dtype, p->num, p->n, p->k,
        p->silu_mul, p->y_f32 }));
    return cudaSuccess;
}

cudaError_t
gemm_init(struct gemm_limits *out)
{
    *out = (struct gemm_limits) { .clusters = { 0 } };
    for (int i = 1; i <= GEMM_SPLITS_MAX && fake_is_hopper(); i++) {
        out->clusters[i] = fake.options.num_sms / i;
    }
    return cudaSuccess;
}

int
gemm_takes(const struct gemm_params *p)
{
    return p->limits->clusters[1] > 0 && p->dtype != KERNEL_F32
           && p->k % 64 == 0 && p->k > 0
           && p->n % (p->silu_mul ? TILE_ROWS / 2 : TILE_ROWS) == 0
           && is_aligned(p->x, p->w, p->y);
}

cudaError_t
gemm_launch(const struct gemm_params *p, cudaStream_t stream)
{
    FAKE_CHECK(p->num >= 1 && p->num <= GEMM_ROWS_MAX && gemm_takes(p));
    fake_launch(FAKE_GEMM, stream, p->overlap);
    FAKE_PUSH(run_product, (&(struct fake_product) {
        p->y, p->x, p->w, p->bias, (int) p->dtype, p->num, p->n, p->k,
        p->silu_mul, p->y_f32 }));
    return cudaSuccess;
}

int
gemm_large_takes(const struct gemm_large_params *p)
{
    return fake_is_hopper() && p->dtype != KERNEL_F32
           && is_aligned(p->x, p->w, p->y) && (uintptr_t) p->bias % 8 == 0
           && p->n % 8 == 0 && p->k % 8 == 0 && p->num > 0 && p->num_sms >= 2;
}

int
gemm_large_tile(const struct gemm_large_params *p)
{
    return p->silu_mul ? 128 : 192;
}

cudaError_t
gemm_large_launch(const struct gemm_large_params *p, cudaStream_t stream)
{
    FAKE_CHECK(gemm_large_takes(p));
    FAKE_CHECK(p->tile == 256 || p->tile == 128
               || (p->tile == 192 && !p->silu_mul));
    fake_launch(FAKE_GEMM_LARGE, stream, p->pdl);
    FAKE_PUSH(run_product, (&(struct fake_product) {
        p->y, p->x, p->w, p->bias, (int) p->dtype, p->num, p->n, p->k,
        p->silu_mul, 0 }));
    return cudaSuccess;
}

static void
run_matmul(void *args)
{
    const struct matmul_params  *p = args;
    size_t  num = (size_t) p->num, k = (size_t) p->k;
    (void) fake_at(p->y, ((num - 1) * (size_t) p->y_stride + (size_t) p->n)
                         * sizeof *p->y, "matmul: y");
    (void) fake_at(p->x, num * k * fake_dtype_bytes(p->x_dtype), "matmul: x");
    (void) fake_at(p->w, (size_t) p->n * k * fake_dtype_bytes(p->w_dtype),
                   "matmul: w");
}

cudaError_t
matmul_simple_launch(const struct matmul_params *p, cudaStream_t stream)
{
    FAKE_CHECK(p->num >= 1 && p->num <= GRID_Y_MAX * TILE_ROWS);
    fake_launch(FAKE_MATMUL_SIMPLE, stream, 0);
    FAKE_PUSH(run_matmul, p);
    return cudaSuccess;
}

/* ---- after a product ------------------------------------------------------------------- */

static void
run_epilogue(void *args)
{
    const struct epilogue_params  *p = args;
    size_t  num = (size_t) p->num, n = (size_t) p->n;
    size_t  cols = p->silu_mul ? 2 * n : n;
    (void) fake_at(p->y, num * n * fake_dtype_bytes(p->dtype), "epilogue: y");
    (void) fake_at(p->acc, num * cols * sizeof *p->acc, "epilogue: acc");
    if (p->bias != NULL) {
        (void) fake_at(p->bias, cols * sizeof *p->bias, "epilogue: bias");
    }
}

cudaError_t
epilogue_launch(const struct epilogue_params *p, cudaStream_t stream)
{
    FAKE_CHECK(p->num >= 1 && p->num <= GRID_Y_MAX);
    fake_launch(FAKE_EPILOGUE, stream, p->pdl);
    FAKE_PUSH(run_epilogue, p);
    return cudaSuccess;
}

static void
run_add(void *args)
{
    const struct product_params  *p = args;
    size_t  bytes = (size_t) p->num * (size_t) p->n
                    * fake_dtype_bytes(p->dtype);
    (void) fake_at(p->y, bytes, "add: y");
    (void) fake_at(p->product, bytes, "add: product");
}

cudaError_t
add_launch(const struct product_params *p, cudaStream_t stream)
{
    FAKE_CHECK(p->num >= 1 && p->num <= GRID_Y_MAX);
    fake_launch(FAKE_ADD, stream, p->pdl);
    FAKE_PUSH(run_add, p);
    return cudaSuccess;
}

static void
run_silu_mul(void *args)
{
    const struct product_params  *p = args;
    size_t  bytes = (size_t) p->num * (size_t) p->n
                    * fake_dtype_bytes(p->dtype);
    (void) fake_at(p->y, bytes, "silu_mul: y");
    (void) fake_at(p->product, 2 * bytes, "silu_mul: product");
}

cudaError_t
silu_mul_launch(const struct product_params *p, cudaStream_t stream)
{
    FAKE_CHECK(p->num >= 1 && p->num <= GRID_Y_MAX);
    fake_launch(FAKE_SILU_MUL, stream, p->pdl);
    FAKE_PUSH(run_silu_mul, p);
    return cudaSuccess;
}

/* ---- between steps ---------------------------------------------------------------------- */

static void
run_copy_blocks(void *args)
{
    const struct copy_params  *p = args;
    const int32_t  *pairs = fake_at(p->pairs, (size_t) p->num * 2
                                              * sizeof *pairs, "copy: pairs");
    (void) fake_at(p->data, (size_t) p->num_planes * p->plane_bytes,
                   "copy: planes");
    for (int i = 0; i < 2 * p->num; i++) {
        FAKE_CHECK(pairs[i] > 0
                   && (size_t) pairs[i] < p->plane_bytes / p->block_bytes);
    }
}

cudaError_t
copy_blocks_launch(const struct copy_params *p, cudaStream_t stream)
{
    FAKE_CHECK(p->num >= 1);
    fake_launch(FAKE_COPY_BLOCKS, stream, 0);
    FAKE_PUSH(run_copy_blocks, p);
    return cudaSuccess;
}
