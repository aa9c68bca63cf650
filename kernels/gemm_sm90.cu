/* gemm_sm90.cu - matrix products of 1 to 256 rows on Hopper, with what follows
 * them: bound by reading the weights up to some 128 rows.
 *
 * Weights are the left operand of wgmma, 64 of their rows an instruction, the
 * rows of x its columns.  A tile is up to 128 weight rows in groups of 16, a
 * warp's; two warpgroups multiply, further warps bring weights and x by TMA,
 * stages of 64 k, as many as shared memory holds.  For silu_mul a group is 8
 * rows of gate and the 8 of up that belong to them: a thread has both of an
 * output in registers.
 *
 * Where there are fewer tiles than multiprocessors, the blocks of a cluster
 * share the k of a tile; the partial sums of a group meet in the shared memory
 * of one of them and are added in the order of k.  (Through global memory, with
 * equal ranges of all tiles and all k for every block, the sums took 6 us to
 * meet instead of one.)
 *
 * The sum of an output: k ascending, 16 at a time, in each split, then the
 * splits in order.  Splits and tiles depend on n and k alone, and the width of
 * wgmma does not change what it adds, so a row of y depends on that row of x
 * alone.
 *
 * Weights do not depend on the kernel before this one: with p->overlap the
 * first stages are under way before the wait for x. */
#include "kernels/gemm_store.cuh"
#include "kernels/kv_map.cuh"

#define GROUPS_MAX     8                 /* of a tile: of two warpgroups */
#define STAGE_K        64
#define CONSUMERS      (2 * WARPGROUP)
#define CONSUMER_WARPS (CONSUMERS / WARP)
#define THREADS        (CONSUMERS + 2 * WARP)   /* and who loads w, x */
#define STAGES_MAX     24
#define GROUP_BYTES    (GROUP_ROWS * STAGE_K * 2)
#define SMEM_SM        (228 * 1024)      /* of a multiprocessor, .. */
#define SMEM_BLOCK     2048              /* .. of a block besides its ring */

#if SM90_CODE

/* What a block does: tiles first, first + step .., of each its part of k. */
struct share {
    int  split;
    int  first, step;
    int  begin, num;                     /* units of a tile */
    int  total;                          /* units of all its tiles */
};

struct barriers {
    uint64_t  full[STAGES_MAX], empty[STAGES_MAX];
};

static __device__ __forceinline__ struct share
share_of(const struct gemm_args &a)
{
    struct share  s;
    s.split = a.splits > 1 ? cluster_rank() : 0;
    s.first = static_cast<int>(blockIdx.x) / a.splits;
    s.step = static_cast<int>(gridDim.x) / a.splits;
    s.begin = a.units * s.split / a.splits;
    s.num = a.units * (s.split + 1) / a.splits - s.begin;
    s.total = (a.tiles - s.first + s.step - 1) / s.step * s.num;
    return s;
}

/* ---- the warps that load ----
 *
 * One thread each, which is all that keeps up with memory: a turn needs nothing
 * but registers.  (One thread for both, with more arithmetic, took as long for a
 * turn as memory takes for 16 KB.) */
struct turn {
    int           stage, unit, tile;
    unsigned int  parity;
};

static __device__ __forceinline__ void
turn_next(struct turn *t, int stages, int num, int step)
{
    if (++t->stage == stages) {
        t->stage = 0;
        t->parity ^= 1;
    }
    if (++t->unit == num) {
        t->unit = 0;
        t->tile += step;
    }
}

static __device__ __forceinline__ void
load_weights(const struct gemm_args &a, const struct share &s,
             const CUtensorMap *map, char *ring, struct barriers *b)
{
    int          bytes = a.stage_bytes, stages = a.stages, num = s.num;
    int          groups = a.groups;
    uint64_t     policy = policy_evict_first();
    struct turn  t = { 0, 0, s.first, 1 };
    for (int i = 0; i < s.total; i++) {
        uint64_t  *full = &b->full[t.stage];
        barrier_wait_one(&b->empty[t.stage], t.parity);
        barrier_arrive_expect(full, static_cast<unsigned int>(bytes));
        tma_load_4d(ring + t.stage * bytes, map, (s.begin + t.unit) * STAGE_K,
                    0, 0, t.tile * groups, full, policy);
        turn_next(&t, stages, num, s.step);
    }
}

static __device__ __forceinline__ void
load_rows(const struct gemm_args &a, const struct share &s,
          const CUtensorMap *map, char *ring, struct barriers *b)
{
    int          bytes = a.stage_bytes, stages = a.stages, num = s.num;
    char        *x = ring + a.groups * GROUP_BYTES;
    struct turn  t = { 0, 0, s.first, 1 };
    for (int i = 0; i < s.total; i++) {
        barrier_wait_one(&b->empty[t.stage], t.parity);
        tma_load_2d(x + t.stage * bytes, map, (s.begin + t.unit) * STAGE_K, 0,
                    &b->full[t.stage]);
        turn_next(&t, stages, num, s.step);
    }
}

/* ---- the warpgroups that multiply ---- */

/* Adds the sums of the splits, in order: those of a warp in the shared memory
 * of the block that finishes them.  False: another one does. */
template <int N> static __device__ __forceinline__ bool
reduce_splits(const struct gemm_args &a, const struct share &s,
              float (&acc)[N / 2], char *ring)
{
    int     warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int     owner = min(((warp + 1) * a.splits - 1) / a.groups, a.splits - 1);
    int     slot = warp - a.groups * owner / a.splits;
    int     apart = (a.groups + a.splits - 1) / a.splits * (N / 8) * WARP * 16;
    char   *mine = ring + (slot * (N / 8) * WARP + lane) * 16;
    bool    own = owner == s.split;
    cluster_sync();               /* no ring is in use any more */
    if (!own && warp < a.groups) {
        unsigned int  to = cluster_address(mine + s.split * apart, owner);
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            cluster_store(to + j * WARP * 16,
                          make_float4(acc[4 * j], acc[4 * j + 1],
                                      acc[4 * j + 2], acc[4 * j + 3]));
        }
    }
    cluster_sync();
    if (!own || warp >= a.groups) {
        return false;
    }
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
        float4  sum = make_float4(acc[4 * j], acc[4 * j + 1], acc[4 * j + 2],
                                  acc[4 * j + 3]), part = sum;
        for (int i = 0; i < a.splits; i++) {
            float4  v = i == s.split ? part : *reinterpret_cast<float4 *>(
                mine + i * apart + j * WARP * 16);
            sum = i == 0 ? v : make_float4(sum.x + v.x, sum.y + v.y,
                                           sum.z + v.z, sum.w + v.w);
        }
        acc[4 * j] = sum.x;
        acc[4 * j + 1] = sum.y;
        acc[4 * j + 2] = sum.z;
        acc[4 * j + 3] = sum.w;
    }
    return true;
}

/* ---- the main loop ---- */

template <typename T, int N> static __device__ __forceinline__ void
multiply_stage(float (&acc)[N / 2], uint64_t w, uint64_t x, bool first)
{
    pin(acc);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < STAGE_K / 16; k++) {     /* 32 bytes a step, / 16 */
        wgmma_ss(acc, w + 2 * k, x + 2 * k, !first || k > 0, T());
    }
    wgmma_commit();
}

struct pipe {
    unsigned int  stage, parity, last;
};

/* A tile's units of this block.  The next product is issued before the last one
 * has ended. */
template <typename T, int N> static __device__ __forceinline__ void
multiply(const struct gemm_args &a, int num, float (&acc)[N / 2], char *ring,
         struct barriers *b, struct pipe *p)
{
    bool          signals = threadIdx.x % WARP == 0;
    unsigned int  bytes = static_cast<unsigned int>(a.stage_bytes);
    unsigned int  stages = static_cast<unsigned int>(a.stages);
    char         *w = ring + threadIdx.x / WARPGROUP * (4 * GROUP_BYTES);
    uint64_t      w_at = matrix_descriptor(w, 16, 8 * SWIZZLE_BYTES);
    uint64_t      x_at = matrix_descriptor(ring + a.groups * GROUP_BYTES, 16,
                                           8 * SWIZZLE_BYTES);
    for (int unit = 0; unit < num; unit++) {
        unsigned int  at = p->stage * (bytes / 16);
        barrier_wait(&b->full[p->stage], p->parity);
        multiply_stage<T, N>(acc, w_at + at, x_at + at, unit == 0);
        if (unit > 0) {
            wgmma_wait<1>();
            if (signals) {
                barrier_arrive(&b->empty[p->last]);
            }
        }
        p->last = p->stage;
        if (++p->stage == stages) {
            p->stage = 0;
            p->parity ^= 1;
        }
    }
    wgmma_wait<0>();
    pin(acc);
    if (signals) {
        barrier_arrive(&b->empty[p->last]);
    }
}

template <typename T, int N> static __device__ __forceinline__ void
consume(const struct gemm_args &a, const struct share &s, char *ring,
        struct barriers *b)
{
    float        acc[N / 2];
    struct pipe  p = { 0, 0, 0 };
    for (int tile = s.first; tile < a.tiles; tile += s.step) {
        multiply<T, N>(a, s.num, acc, ring, b, &p);
        if (a.splits == 1 || reduce_splits<N>(a, s, acc, ring)) {
            finish<T, N>(a, acc, tile);
        }
    }
}

#endif /* SM90_CODE */

/* Registers: with few columns not all, so that blocks of the next kernel find
 * room beside this one. */
template <typename T, int N> static __global__ void
__launch_bounds__(N <= 128 ? 512 : THREADS, 1)
gemm_sm90_kernel(const __grid_constant__ struct gemm_args a,
                 const __grid_constant__ CUtensorMap w_map,
                 const __grid_constant__ CUtensorMap x_map)
{
#if SM90_CODE
    extern __shared__ char      bytes[];
    __shared__ struct barriers  b;
    char               *ring = bytes + (-smem_u32(bytes) & 1023);
    const struct share  s = share_of(a);
    int                 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int                 consumers = a.groups > 4 ? 8 : 4;     /* warps */

    if (warp == CONSUMER_WARPS) {
        if (lane < a.stages) {
            barrier_init(&b.full[lane], 1);
            barrier_init(&b.empty[lane], static_cast<unsigned int>(consumers));
        }
        barrier_init_fence();
    } else if (warp == 0 && lane == 0) {
        tma_prefetch_map(&w_map);
        tma_prefetch_map(&x_map);
    }
    __syncthreads();
    if (warp == CONSUMER_WARPS) {
        if (lane == 0) {
            load_weights(a, s, &w_map, ring, &b);
        }
        return;
    }
    pdl_wait();
    pdl_launch_next();
    if (warp > CONSUMER_WARPS) {
        if (lane == 0) {
            load_rows(a, s, &x_map, ring, &b);
        }
    } else if (warp < consumers) {
        consume<T, N>(a, s, ring, &b);
    }
#else
    (void) a;
#endif
}

/* ---- host ---- */

struct gemm_plan {
    int  columns;                        /* rows of x, rounded up: N */
    int  groups, splits, stages;
    int  clusters;                       /* at most */
};

static cudaError_t
map_encode(CUtensorMap *map, enum kernel_dtype dtype, const void *data,
           unsigned int dims, const cuuint64_t *size, const cuuint64_t *pitch,
           const cuuint32_t *box)
{
    const cuuint32_t  step[4] = { 1, 1, 1, 1 };
    kv_map_encoder    encode;
    cudaError_t       e = kv_map_find_encoder(&encode);
    if (e != cudaSuccess) {
        return e;
    }
    return encode(map, dtype == KERNEL_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                            : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                  dims, const_cast<void *>(data), size, pitch, box, step,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS
           ? cudaSuccess : cudaErrorInvalidValue;
}

/* Weights: eight rows, their second half (of up, or the next eight), groups of
 * these 16. */
static cudaError_t
maps_init(CUtensorMap *w_map, CUtensorMap *x_map, const struct gemm_params *p,
          const struct gemm_plan *plan)
{
    cuuint64_t  n = static_cast<cuuint64_t>(p->n);
    cuuint64_t  k = static_cast<cuuint64_t>(p->k), row = 2 * k;
    cuuint64_t  w_size[4] = { k, 8, 2, p->silu_mul ? n / 8 : n / 16 };
    cuuint64_t  w_pitch[3] = { row, p->silu_mul ? n * row : 8 * row,
                               p->silu_mul ? 8 * row : 16 * row };
    cuuint32_t  w_box[4] = { STAGE_K, 8, 2,
                               static_cast<cuuint32_t>(plan->groups) };
    cuuint64_t  x_size[2] = { k, static_cast<cuuint64_t>(p->num) };
    cuuint64_t  x_pitch[1] = { row };
    cuuint32_t  x_box[2] = { STAGE_K, static_cast<cuuint32_t>(
                                          plan->columns) };
    cudaError_t  e = map_encode(w_map, p->dtype, p->w, 4, w_size, w_pitch,
                                w_box);
    return e == cudaSuccess ? map_encode(x_map, p->dtype, p->x, 2, x_size,
                                         x_pitch, x_box) : e;
}

static int
groups_of(const struct gemm_params *p)
{
    return (p->silu_mul ? 2 * p->n : p->n) / GROUP_ROWS;
}

/* What warpgroups read past a tile of fewer groups than they have warps. */
static int
ring_slack(const struct gemm_plan *plan)
{
    return (4 - plan->groups % 4) % 4 * GROUP_BYTES;
}

template <typename T, int N> static cudaError_t
run(const struct gemm_params *p, const struct gemm_plan *plan,
    cudaStream_t stream)
{
    CUtensorMap          w_map, x_map;
    cudaLaunchAttribute  attributes[2];
    cudaLaunchConfig_t   config = {};
    int                  tiles = (groups_of(p) + plan->groups - 1)
                                 / plan->groups;
    int                  clusters = tiles < plan->clusters ? tiles
                                                           : plan->clusters;
    int                  stage_bytes = plan->groups * GROUP_BYTES
                                       + N * STAGE_K * 2;
    struct gemm_args     a = {
        p->y, p->bias, p->num, p->n, tiles, plan->groups, p->k / STAGE_K,
        plan->splits, plan->stages, stage_bytes, p->add, p->silu_mul,
        p->y_f32 };
    cudaError_t          e = maps_init(&w_map, &x_map, p, plan);
    if (e != cudaSuccess) {
        return e;
    }
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = p->overlap;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = static_cast<unsigned int>(plan->splits);
    attributes[1].val.clusterDim.y = 1;
    attributes[1].val.clusterDim.z = 1;
    config.gridDim = dim3(static_cast<unsigned int>(clusters * plan->splits));
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = static_cast<size_t>(
        plan->stages * stage_bytes + ring_slack(plan) + 1024);
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = plan->splits > 1 ? 2 : 1;
    return cudaLaunchKernelEx(&config, gemm_sm90_kernel<T, N>, a, w_map, x_map);
}

template <typename T> static cudaError_t
run_typed(const struct gemm_params *p, const struct gemm_plan *plan,
          cudaStream_t stream)
{
    switch (plan->columns) {
    case 16:
        return run<T, 16>(p, plan, stream);
    case 32:
        return run<T, 32>(p, plan, stream);
    case 64:
        return run<T, 64>(p, plan, stream);
    case 96:
        return run<T, 96>(p, plan, stream);
    case 128:
        return run<T, 128>(p, plan, stream);
    case 192:
        return run<T, 192>(p, plan, stream);
    default:
        return run<T, 256>(p, plan, stream);
    }
}

template <typename T, int N> static struct kernel_smem
smem_of(void)
{
    return { (const void *) gemm_sm90_kernel<T, N>, SMEM_SM - SMEM_BLOCK };
}

#define SMEM_OF(T)                                                            \
    smem_of<T, 16>(), smem_of<T, 32>(), smem_of<T, 64>(), smem_of<T, 96>(),   \
    smem_of<T, 128>(), smem_of<T, 192>(), smem_of<T, 256>()

/* Clusters of so many blocks that the device runs at once. */
static cudaError_t
clusters_at_once(int blocks, int *out)
{
    cudaLaunchAttribute  attribute = {};
    cudaLaunchConfig_t   config = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned int>(blocks);
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
    config.gridDim = dim3(static_cast<unsigned int>(blocks) * 1024);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = SMEM_SM - SMEM_BLOCK;
    config.attrs = &attribute;
    config.numAttrs = 1;
    return cudaOccupancyMaxActiveClusters(
        out, gemm_sm90_kernel<__nv_bfloat16, 16>, &config);
}

cudaError_t
gemm_init(struct gemm_limits *out)
{
    *out = {};
    if (!device_is_sm90()) {
        return cudaSuccess;
    }
    cudaError_t  e = allow_smem({ SMEM_OF(__nv_bfloat16), SMEM_OF(__half) });
    for (int i = 1; i <= GEMM_SPLITS_MAX && e == cudaSuccess; i++) {
        e = clusters_at_once(i, &out->clusters[i]);
    }
    return e;
}

/* Tiles and splits with the least work of a block, in groups of weight rows by
 * units; x of a unit counts as a few groups, a reduction as so many as are read
 * in its time.  All blocks of split tiles run at once.  By n and k alone. */
static void
plan_split(const struct gemm_params *p, struct gemm_plan *plan)
{
    const int  x_groups = 2, reduction = 20, units_min = 4;
    int        groups = groups_of(p), units = p->k / STAGE_K, best = 0;
    for (int splits = 1; splits <= GEMM_SPLITS_MAX; splits++) {
        int  at_once = p->limits->clusters[splits];
        if (at_once == 0 || (splits > 1 && units < splits * units_min)) {
            continue;
        }
        for (int tile = GROUPS_MAX; tile >= 1; tile--) {
            int  tiles = (groups + tile - 1) / tile;
            int  waves = (tiles + at_once - 1) / at_once;
            int  cost = waves * (tile + x_groups)
                        * ((units + splits - 1) / splits)
                        + (splits > 1 ? reduction : 0);
            if ((splits == 1 || waves == 1) && (best == 0 || cost < best)) {
                best = cost;
                plan->groups = tile;
                plan->splits = splits;
                plan->clusters = at_once;
            }
        }
    }
}

/* Stages: as many as fit; the partial sums take the place of the ring. */
static void
plan_of(const struct gemm_params *p, struct gemm_plan *plan)
{
    static const int  columns[] = { 16, 32, 64, 96, 128, 192, 256 };
    int               i = 0;
    while (columns[i] < p->num) {
        i++;
    }
    plan->columns = columns[i];
    plan_split(p, plan);
    int  stages = (SMEM_SM - SMEM_BLOCK - 1024 - ring_slack(plan))
                  / (plan->groups * GROUP_BYTES + plan->columns * STAGE_K * 2);
    plan->stages = stages < STAGES_MAX ? stages : STAGES_MAX;
}

int
gemm_takes(const struct gemm_params *p)
{
    uintptr_t  bits = reinterpret_cast<uintptr_t>(p->x)
                      | reinterpret_cast<uintptr_t>(p->w)
                      | reinterpret_cast<uintptr_t>(p->y);
    return p->limits->clusters[1] > 0 && p->dtype != KERNEL_F32
           && p->k % STAGE_K == 0 && p->k > 0
           && p->n % (p->silu_mul ? GROUP_ROWS / 2 : GROUP_ROWS) == 0
           && bits % 16 == 0;
}

cudaError_t
gemm_launch(const struct gemm_params *p, cudaStream_t stream)
{
    struct gemm_plan  plan;
    plan_of(p, &plan);
    return p->dtype == KERNEL_BF16 ? run_typed<__nv_bfloat16>(p, &plan, stream)
                                   : run_typed<__half>(p, &plan, stream);
}
