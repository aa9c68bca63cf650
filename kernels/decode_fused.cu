/* decode_fused.cu - a whole decode step as one launch, see decode_fused.h.
 *
 * What bounds a small step is reading the weights; between the kernels of a step
 * nothing is read.  Here a producer warp of each block copies the block's weights
 * of all products, in order, into a ring in shared memory and stops only where
 * the ring is full, so while blocks meet, norm their rows or do attention, the
 * weights of what follows arrive.  Keys and values of earlier steps come the same
 * way, in their turn.
 *
 * A conditional load into an array of registers, with nothing in the other case,
 * keeps those registers for the whole program, because the loop over its ops may
 * bring the old content: such arrays are always filled.  Functions that are not
 * inlined get few registers of their own.
 *
 * Blocks meet between any two ops by a counter in memory: each adds one when it
 * has written its part and waits until all have.  All blocks are resident (a
 * cooperative launch); a wait that takes seconds ends the kernel by a trap. */
#include "kernels/fused_attention.cuh"
#include "kernels/fused_linear.cuh"
#include "kernels/kv_map.cuh"

#include <stddef.h>
#include <string.h>

#define PIECES_MAX    2       /* of a tile */
#define FUSED_CACHE_ROWS  0x7fffffff    /* of a map: how many there are is not
                                           known */

#if SM90_CODE

static __device__ __forceinline__ void
embed_op(const struct fused_params &p, const struct fused_op &op)
{
    int  row = static_cast<int>(blockIdx.x);
    if (row >= p.num_rows) {
        return;
    }
    const uint4  *from = static_cast<const uint4 *>(op.x)
                         + static_cast<size_t>(__ldg(&p.ids[row]))
                           * (op.k / 8);
    uint4        *to = static_cast<uint4 *>(op.y)
                       + static_cast<size_t>(row) * (op.k / 8);
    for (int i = threadIdx.x; i < op.k / 8; i += FUSED_CONSUMERS) {
        to[i] = __ldg(&from[i]);
    }
}

/* The op after `index` is under way to shared memory while this one runs. */
static __device__ __forceinline__ void
op_bring(const struct fused_params &p, const struct fused_block &b, int index)
{
    static_assert(offsetof(struct fused_op, map) == FUSED_HEAD_BYTES,
                  "16 bytes a thread");
    if (index < p.num_ops && threadIdx.x < FUSED_HEAD_BYTES / 16) {
        copy_16(reinterpret_cast<char *>(&b.s->op[index & 1])
                + threadIdx.x * 16,
                reinterpret_cast<const char *>(&p.ops[index])
                + threadIdx.x * 16);
    }
    copy_commit();
}

template <int HD> static __device__ __forceinline__ void
produce_all(const struct fused_params &p, const struct fused_block &b)
{
    struct producer_place  place = {};
    uint64_t               policy = policy_evict_first();
    struct weight_stream   w = stream_of(p.ops);
    bool                   leads = threadIdx.x % WARP == 0;
    for (int i = 0; i < p.num_ops; i++) {
        const struct fused_op  *op = p.ops + i;
        struct weight_stream    next = stream_of(
            p.ops + min(i + 1, p.num_ops - 1));
        if (leads && next.kind == FUSED_LINEAR) {
            tma_prefetch_map(op[i + 1 < p.num_ops].map);
        }
        if (leads && w.kind == FUSED_LINEAR) {
            produce(p, b, place, w, op, policy);
        }
        if (leads && w.kind == FUSED_ATTENTION) {
            produce_keys<HD>(p, b, place, op, policy);
        }
        __syncwarp();
        w = next;
    }
}

template <typename T, int HD, int ROWS> static __device__ __forceinline__ void
consume(const struct fused_params &p, const struct fused_block &b)
{
    struct ring_place  at = { 0, 0 };
    op_bring(p, b, 0);
    attention_begin(p, b);
    copy_wait<0>();
    consumers_sync();
    for (int i = 0; i < p.num_ops; i++) {
        const struct fused_op  &op = b.s->op[i & 1];
        unsigned int            target = static_cast<unsigned int>(
            i * p.num_blocks);
        op_bring(p, b, i + 1);
        switch (op.kind) {
        case FUSED_EMBED:
            meet_wait(p.barrier, target);
            embed_op(p, op);
            break;
        case FUSED_LINEAR:
            linear_op<T, ROWS>(p, op, b, at, target);
            break;
        default:
            attention_op<T, HD>(p, op, b, at, target);
            break;
        }
        copy_wait<0>();
        if (i + 1 < p.num_ops) {
            meet_arrive(p.barrier);
        }
    }
}

/* The last block of all to end leaves the counters as they were. */
static __device__ __forceinline__ void
leave(const struct fused_params &p)
{
    if (threadIdx.x == 0) {
        __threadfence();
        unsigned int  limit = static_cast<unsigned int>(p.num_blocks) - 1;
        if (atomicInc(p.barrier + 32, limit) == limit) {
            atomicExch(p.barrier, 0);
        }
    }
}

template <typename T, int HD, int ROWS> static __device__ __forceinline__ void
run_block(const struct fused_args &args)
{
    extern __shared__ __align__(1024) char  bytes[];
    struct fused_block  b;
    b.ring = bytes;
    b.x = b.ring + args.stages * FUSED_STAGE_BYTES;
    b.sum = reinterpret_cast<float *>(b.x + args.x_bytes);
    b.s = reinterpret_cast<struct fused_smem *>(b.x + args.x_bytes
                                                + args.sum_bytes);
    b.stages = args.stages;
    /* volatile: kept in registers, not read for every use */
    asm volatile("mov.u32 %0, %%tid.x;\n" : "=r"(b.warp));
    b.lane = b.warp % WARP;
    b.warp = b.warp / WARP;
    if (threadIdx.x == 0) {
        for (int i = 0; i < b.stages; i++) {
            barrier_init(&b.s->full[i], 1);
            barrier_init(&b.s->empty[i], FUSED_WARPS / FUSED_GROUPS);
        }
        barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x >= FUSED_CONSUMERS) {
        produce_all<HD>(args.p, b);
        return;
    }
    consume<T, HD, ROWS>(args.p, b);
    leave(args.p);
}

#endif /* SM90_CODE */

template <typename T, int HD, int ROWS> static __global__ void
__launch_bounds__(FUSED_THREADS, 1)
fused_kernel(const __grid_constant__ struct fused_args args)
{
#if SM90_CODE
    run_block<T, HD, ROWS>(args);
#endif
}

/* ---- host ---- */

static int
max_int(int a, int b)
{
    return a > b ? a : b;
}

static int
linear_takes(const struct fused_op *op)
{
    uintptr_t  bits = reinterpret_cast<uintptr_t>(op->x)
                      | reinterpret_cast<uintptr_t>(op->w)
                      | reinterpret_cast<uintptr_t>(op->norm_weight);
    return bits % 16 == 0 && op->k % FUSED_CHUNK == 0
           && (!op->silu_mul || (op->n % 8 == 0 && op->norm_weight != NULL))
           && (op->norm_weight == NULL || op->k <= FUSED_NORM_K_MAX);
}

static int
attention_takes(const struct fused_op *op, const struct fused_params *p)
{
    uintptr_t  bits = reinterpret_cast<uintptr_t>(op->x)
                      | reinterpret_cast<uintptr_t>(op->y)
                      | reinterpret_cast<uintptr_t>(op->k_cache)
                      | reinterpret_cast<uintptr_t>(op->v_cache)
                      | reinterpret_cast<uintptr_t>(op->q_norm)
                      | reinterpret_cast<uintptr_t>(op->k_norm)
                      | reinterpret_cast<uintptr_t>(p->cos_sin);
    return bits % 16 == 0 && (p->head_dim == 64 || p->head_dim == 128)
           && p->num_heads % p->num_kv_heads == 0
           && p->num_heads / p->num_kv_heads <= FUSED_GROUP_MAX
           && (1 << p->block_shift) >= FUSED_KEYS;
}

/* Bytes of shared memory for x that an op needs. */
static int
x_bytes_of(const struct fused_op *op, const struct fused_params *p)
{
    int  group = p->num_heads / max_int(1, p->num_kv_heads);
    switch (op->kind) {
    case FUSED_LINEAR:
        return op->norm_weight != NULL
               ? p->num_rows * (op->k * 2 + FUSED_X_PAD)
               : FUSED_WARPS * fifo_depth(p->num_rows) * 4 * 64 * p->num_rows;
    case FUSED_ATTENTION:
        return static_cast<int>(p->head_dim == 64
                                ? sizeof(struct attention_smem<64>)
                                : sizeof(struct attention_smem<128>))
               + FUSED_WARPS * group * p->head_dim * 4;
    default:
        return 0;
    }
}

/* Shared memory for so many bytes of x and pieces of a tile. */
static struct fused_args
args_of(const struct fused_params *p, int x_bytes, int pieces, int smem_max)
{
    struct fused_args  a = { *p, 0, 0, 0 };
    a.x_bytes = (x_bytes + 127) / 128 * 128;
    a.sum_bytes = (FUSED_WARPS * pieces * p->num_rows * FUSED_SUM_PITCH * 4
                   + 127) / 128 * 128;
    a.stages = (smem_max - a.x_bytes - a.sum_bytes
                - static_cast<int>(sizeof(struct fused_smem)))
               / FUSED_STAGE_BYTES;
    a.stages = a.stages > FUSED_STAGES_MAX ? FUSED_STAGES_MAX : a.stages;
    return a;
}

static cudaError_t
smem_max_of(int *out, int *major)
{
    int          device = 0;
    cudaError_t  e = cudaGetDevice(&device);
    if (e == cudaSuccess) {
        e = cudaDeviceGetAttribute(
            out, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    }
    if (e == cudaSuccess) {
        e = cudaDeviceGetAttribute(major, cudaDevAttrComputeCapabilityMajor,
                                   device);
    }
    return e;
}

extern "C" int
fused_takes(const struct fused_op *op, const struct fused_params *p)
{
    int  smem_max = 0, major = 0;
    if (p->num_rows < 1 || p->num_rows > FUSED_ROWS_MAX
        || (p->num_rows & (p->num_rows - 1)) != 0
        || (p->dtype != KERNEL_BF16 && p->dtype != KERNEL_F16)
        || smem_max_of(&smem_max, &major) != cudaSuccess || major != 9)
    {
        return 0;
    }
    if (args_of(p, x_bytes_of(op, p), PIECES_MAX, smem_max).stages
        < FUSED_STAGES_MIN)
    {
        return 0;
    }
    switch (op->kind) {
    case FUSED_EMBED:
        return op->k % 8 == 0;
    case FUSED_LINEAR:
        return linear_takes(op);
    default:
        return attention_takes(op, p);
    }
}

static int
pieces_of(const struct fused_op *op, const struct fused_params *p)
{
    return op->kind == FUSED_LINEAR
           ? pieces_of_rows(p->num_rows, op->norm_weight != NULL) : 1;
}

/* TMA's map of rows of k elements: 64 columns, the rows, and the 64s of columns;
 * a box is box_rows of box_k.  Promoted to 256 bytes in L2, a step takes 1 to 2 %
 * longer. */
static cudaError_t
rows_map(uint64_t (&to)[16], kv_map_encoder encode, int dtype,
         const void *data, int64_t rows, int k, int box_rows, int box_k)
{
    alignas(64) CUtensorMap  map;
    cuuint64_t  row = static_cast<cuuint64_t>(k) * 2;
    cuuint64_t  size[3] = { SWIZZLE_ELEMS, static_cast<cuuint64_t>(rows),
                            static_cast<cuuint64_t>(k) / SWIZZLE_ELEMS };
    cuuint64_t  pitch[2] = { row, SWIZZLE_BYTES };
    cuuint32_t  box[3] = { SWIZZLE_ELEMS, static_cast<cuuint32_t>(box_rows),
                           static_cast<cuuint32_t>(box_k) / SWIZZLE_ELEMS };
    cuuint32_t  step[3] = { 1, 1, 1 };
    CUresult    e = encode(
        &map, dtype == KERNEL_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                   : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        3, const_cast<void *>(data), size, pitch, box, step,
        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    static_assert(sizeof map == sizeof to, "its place");
    memcpy(to, &map, sizeof map);
    return e == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

static cudaError_t
op_maps(struct fused_op *op, kv_map_encoder encode,
        const struct fused_params *p)
{
    int          rows = keys_of_box(p->head_dim, p->block_shift);
    cudaError_t  e = cudaSuccess;
    if (op->kind == FUSED_LINEAR) {
        return rows_map(op->map, encode, p->dtype, op->w,
                        op->silu_mul ? 2 * op->n : op->n, op->k, 8,
                        FUSED_STAGE_K);
    }
    if (op->kind == FUSED_ATTENTION) {
        e = rows_map(op->map, encode, p->dtype, op->k_cache,
                     FUSED_CACHE_ROWS, p->head_dim, rows, p->head_dim);
    }
    if (op->kind == FUSED_ATTENTION && e == cudaSuccess) {
        e = rows_map(op->v_map, encode, p->dtype, op->v_cache,
                     FUSED_CACHE_ROWS, p->head_dim, rows, p->head_dim);
    }
    return e;
}

extern "C" cudaError_t
fused_plan(struct fused_op *ops, const struct fused_params *p)
{
    int             first = 0;
    kv_map_encoder  encode;
    cudaError_t     e = kv_map_find_encoder(&encode);
    for (int i = 0; i < p->num_ops && e == cudaSuccess; i++) {
        struct fused_op  *op = &ops[i];
        op->pieces = pieces_of(op, p);
        op->tiles = 0;
        if (op->kind == FUSED_LINEAR) {
            int  outs = op->silu_mul ? 8 : 16 * op->pieces;
            op->tiles = (op->n + outs - 1) / outs;
        }
        e = op_maps(op, encode, p);
        /* blocks with a tile more than others are others from op to op */
        op->first = first;
        first = (first + op->tiles) % p->num_blocks;
    }
    return e;
}

template <typename T, int HD, int ROWS> static cudaError_t
fused_run(const struct fused_args *args, int smem_max, cudaStream_t stream)
{
    cudaLaunchConfig_t   config = {};
    cudaLaunchAttribute  together = {};
    cudaError_t  e = allow_smem({ { (const void *) fused_kernel<T, HD, ROWS>,
                                    smem_max } });
    if (e != cudaSuccess) {
        return e;
    }
    together.id = cudaLaunchAttributeCooperative;
    together.val.cooperative = 1;
    config.gridDim = dim3(static_cast<unsigned int>(args->p.num_blocks));
    config.blockDim = dim3(FUSED_THREADS);
    config.dynamicSmemBytes = static_cast<size_t>(smem_max);
    config.stream = stream;
    config.attrs = &together;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, fused_kernel<T, HD, ROWS>, *args);
}

template <typename T, int HD> static cudaError_t
fused_rows(const struct fused_args *args, int smem_max, cudaStream_t stream)
{
    switch (args->p.num_rows) {
    case 1:
        return fused_run<T, HD, 1>(args, smem_max, stream);
    case 2:
        return fused_run<T, HD, 2>(args, smem_max, stream);
    case 4:
        return fused_run<T, HD, 4>(args, smem_max, stream);
    case 8:
        return fused_run<T, HD, 8>(args, smem_max, stream);
    default:
        return cudaErrorInvalidValue;
    }
}

extern "C" cudaError_t
fused_launch(const struct fused_op *ops, const struct fused_params *p,
             cudaStream_t stream)
{
    int          smem_max = 0, major = 0, x_bytes = 0, pieces = 1;
    cudaError_t  e = smem_max_of(&smem_max, &major);
    if (e != cudaSuccess) {
        return e;
    }
    for (int i = 0; i < p->num_ops; i++) {
        x_bytes = max_int(x_bytes, x_bytes_of(&ops[i], p));
        pieces = max_int(pieces, pieces_of(&ops[i], p));
    }
    struct fused_args  a = args_of(p, x_bytes, pieces, smem_max);
    bool               wide = p->head_dim != 64;
    return p->dtype == KERNEL_BF16
           ? (wide ? fused_rows<__nv_bfloat16, 128>(&a, smem_max, stream)
                   : fused_rows<__nv_bfloat16, 64>(&a, smem_max, stream))
           : (wide ? fused_rows<__half, 128>(&a, smem_max, stream)
                   : fused_rows<__half, 64>(&a, smem_max, stream));
}
