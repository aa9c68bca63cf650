/* gemm_large_sm90.cu - products of many rows on Hopper with what follows them.
 *
 * y [num, n] = x [num, k] w [n, k]^T.  A cluster of two blocks, which stay,
 * takes one tile of 256 rows of x and TILE rows of w after the other, each block
 * 128 rows of x.  One warp is the producer: TMA brings 64 of k at a time into a
 * ring of stages, x for its own block, half of w for both blocks.  Two
 * warpgroups multiply 64 rows each by all rows of w: TILE / 2 accumulators a
 * thread.  What is done to a tile's accumulators happens in registers; the
 * result leaves through swizzled boxes of 64 x 64, stored by TMA while the
 * next tile is multiplied, or added to y by TMA, which rounds once.  One
 * warpgroup is two stages ahead of the other, so that they do not both stop
 * multiplying at the end of a tile.
 *
 * silu_mul: the first half of a tile's w rows are gate rows, the other half up
 * rows of the same outputs, so that one thread has both.
 *
 * Edges are TMA's: it reads zeros outside of a matrix and writes nothing there.
 * Tiles are taken in bands of GROUP times 256 rows, all of w for one band, so
 * that what the GPU works on at a time stays in its L2 cache.
 * Source: PTX ISA 8.5. */
#include "kernels/kv_map.cuh"
#include "kernels/wgmma.cuh"

#define BLOCK_ROWS  128      /* of x, of a block */
#define CLUSTER     2
#define PAIR_ROWS   256      /* of a cluster */
#define STAGE_K     64
#define BOX         64       /* rows and columns of what is stored at once */
#define BOXES       2        /* of a warpgroup, on their way */
#define GROUP       8        /* clusters' rows of a band */
#define LEAD        2        /* stages that one warpgroup is ahead */
#define TILE_COST   128      /* see gemm_large_tile() */
#define THREADS     (3 * WARPGROUP)
#define CONSUMER_WARPS  8
#define BAR_GROUP   1        /* and 2: the threads of a warpgroup */
#define BAR_LEAD    3        /* both */

template <int TILE> constexpr int  num_stages = TILE == 128 ? 6 : 4;

template <int TILE> struct large_smem {
    alignas(1024) unsigned short  x[num_stages<TILE>][BLOCK_ROWS * STAGE_K];
    unsigned short  w[num_stages<TILE>][TILE * STAGE_K];
    unsigned short  y[2][BOXES][BOX * BOX];
    uint64_t        full[num_stages<TILE>], empty[num_stages<TILE>];
};

struct large_maps {
    CUtensorMap  x, w, y;
};

/* A tile of a block: its first row of x and first column of y. */
struct tile {
    int  row, col;
};

#if SM90_CODE

static __device__ __forceinline__ struct tile
tile_at(const struct gemm_large_params &p, int index, int tile_cols, int rank)
{
    int  pairs = (p.num + PAIR_ROWS - 1) / PAIR_ROWS;
    int  cols = (p.n + tile_cols - 1) / tile_cols;
    int  first = index / (GROUP * cols) * GROUP;
    int  height = min(GROUP, pairs - first), rest = index - first * cols;
    return { (first + rest % height) * PAIR_ROWS + rank * BLOCK_ROWS,
             rest / height * tile_cols };
}

static __device__ __forceinline__ int
num_tiles(const struct gemm_large_params &p, int tile_cols)
{
    return (p.num + PAIR_ROWS - 1) / PAIR_ROWS
           * ((p.n + tile_cols - 1) / tile_cols);
}

/* One stage of w: this block's half of it, for both blocks. */
template <int TILE> static __device__ __forceinline__ void
load_w(const struct large_maps &maps, struct large_smem<TILE> *smem, int stage,
       int k, int row)
{
    int  half = cluster_rank() * (TILE / 2);
    tma_load_2d_multicast(smem->w[stage] + half * STAGE_K, &maps.w, k, row,
                          &smem->full[stage], (1 << CLUSTER) - 1);
}

/* The producer's thread.  Weights do not depend on the kernel before this one:
 * the first stages of them are asked for before the wait for it. */
template <int TILE, bool SILU> static __device__ __forceinline__ void
produce(const struct gemm_large_params &p, const struct large_maps &maps,
        struct large_smem<TILE> *smem)
{
    constexpr int  stages = num_stages<TILE>, half = TILE / 2;
    constexpr int  bytes = (BLOCK_ROWS + TILE) * STAGE_K * 2;
    constexpr int  cols = SILU ? half : TILE;
    int  rank = cluster_rank();
    int  tiles = num_tiles(p, cols), step = gridDim.x / CLUSTER;
    int  num_k = (p.k + STAGE_K - 1) / STAGE_K, early = min(stages, num_k);
    struct stage_at<stages>  at = { 0, 1 };
    for (int index = blockIdx.x / CLUSTER; index < tiles; index += step) {
        struct tile  t = tile_at(p, index, cols, rank);
        int  w_row = t.col + rank * (SILU ? p.n : half);
        for (int i = 0; i < num_k; i++) {
            if (early > 0 && i == 0) {
                for (int s = 0; s < early; s++) {
                    barrier_arrive_expect(&smem->full[s], bytes);
                    load_w<TILE>(maps, smem, s, s * STAGE_K, w_row);
                }
                pdl_wait();
            }
            if (early > 0) {
                early--;
            } else {
                barrier_wait(&smem->empty[at.stage], at.parity);
                barrier_arrive_expect(&smem->full[at.stage], bytes);
                load_w<TILE>(maps, smem, at.stage, i * STAGE_K, w_row);
            }
            tma_load_2d(smem->x[at.stage], &maps.x, i * STAGE_K, t.row,
                        &smem->full[at.stage]);
            at.next();
        }
    }
}

/* Both blocks' producers wait for all readers of a stage: they write to both. */
static __device__ __forceinline__ void
release(uint64_t *empty)
{
    unsigned int  lane = threadIdx.x % WARP;
    if (lane < CLUSTER) {
        barrier_arrive_at(empty, lane);
    }
}

/* Half a stage. */
template <typename T, int TILE> static __device__ __forceinline__ void
multiply(float (&acc)[TILE / 2], const unsigned short *x,
         const unsigned short *w, bool add)
{
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < STAGE_K / 2; k += 16) {
        wgmma_ss(acc, matrix_descriptor(x + k, 16, 8 * SWIZZLE_BYTES),
                 matrix_descriptor(w + k, 16, 8 * SWIZZLE_BYTES),
                 add || k > 0, T());
    }
    wgmma_commit();
}

/* x / (1 + exp(-x)) */
static __device__ __forceinline__ float
silu(float x)
{
    float  r;
    asm("rcp.approx.ftz.f32 %0, %1;\n"
        : "=f"(r) : "f"(1.0f + exp2_fast(x * -LOG2_E)));
    return x * r;
}

static __device__ __forceinline__ unsigned int
pack2(float low, float high, __nv_bfloat16)
{
    __nv_bfloat162  pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<unsigned int *>(&pair);
}

static __device__ __forceinline__ unsigned int
pack2(float low, float high, __half)
{
    __half2  pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<unsigned int *>(&pair);
}

static __device__ __forceinline__ float2
unpack2(unsigned int pair, __nv_bfloat16)
{
    return { __uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u) };
}

static __device__ __forceinline__ float2
unpack2(unsigned int pair, __half)
{
    return __half22float2(*reinterpret_cast<__half2 *>(&pair));
}

/* The bias of N columns from `first` on, as far as there are so many, to their
 * accumulators; a thread has two neighbouring ones of every eight. */
template <int N> static __device__ __forceinline__ void
add_bias(float *acc, const float *bias, int first, int limit)
{
#pragma unroll
    for (int i = 0; i < N / 8; i++) {
        int  col = first + i * 8 + threadIdx.x % 4 * 2;
        if (col < limit) {
            float2  b = *reinterpret_cast<const float2 *>(bias + col);
            acc[4 * i] += b.x;
            acc[4 * i + 1] += b.y;
            acc[4 * i + 2] += b.x;
            acc[4 * i + 3] += b.y;
        }
    }
}

/* Two neighbouring columns of the result. */
template <typename T, int TILE, bool SILU>
static __device__ __forceinline__ unsigned int
result(const float (&acc)[TILE / 2], int at)
{
    unsigned int  a = pack2(acc[at], acc[at + 1], T());
    if (SILU) {
        float2  gate = unpack2(a, T());
        float2  up = unpack2(pack2(acc[TILE / 4 + at], acc[TILE / 4 + at + 1],
                                   T()), T());
        a = pack2(silu(gate.x) * up.x, silu(gate.y) * up.y, T());
    }
    return a;
}

static __device__ __forceinline__ void
store_shared(unsigned int to, unsigned int value)
{
    asm volatile("st.shared.b32 [%0], %1;\n" :: "r"(to), "r"(value) : "memory");
}

/* A warpgroup's 64 rows of a tile, box by box. */
template <typename T, int TILE, bool SILU>
static __device__ __forceinline__ void
store_tile(const struct gemm_large_params &p, const CUtensorMap *map,
           const float (&acc)[TILE / 2], unsigned short (*box)[BOX * BOX],
           int &slot, int row, int first_col)
{
    int  lane = threadIdx.x % WARP, group = threadIdx.x / WARPGROUP - 1;
    int  in = threadIdx.x % WARPGROUP / WARP * 16 + lane / 4;
#pragma unroll
    for (int b = 0; b < (SILU ? TILE / 2 : TILE) / BOX; b++) {
        int  col = first_col + b * BOX;
        if (threadIdx.x % WARPGROUP == 0) {
            tma_store_wait<BOXES - 1>();
        }
        named_sync(BAR_GROUP + group, WARPGROUP);
        unsigned int  to = smem_u32(box[slot]) + in * SWIZZLE_BYTES
                           + lane % 4 * 4;
#pragma unroll
        for (int i = 0; i < BOX / 8; i++) {         /* 8 columns, 2 rows */
            int           at = (b * BOX / 8 + i) * 4;
            unsigned int  chunk = to + (i ^ (in & 7)) * 16;
            store_shared(chunk, result<T, TILE, SILU>(acc, at));
            store_shared(chunk + 8 * SWIZZLE_BYTES,
                         result<T, TILE, SILU>(acc, at + 2));
        }
        async_proxy_fence();
        named_sync(BAR_GROUP + group, WARPGROUP);
        if (threadIdx.x % WARPGROUP == 0) {
            if (row < p.num && col < p.n) {
                if (p.add) {
                    tma_add_2d(map, box[slot], col, row);
                } else {
                    tma_store_2d(map, box[slot], col, row);
                }
            }
            tma_store_commit();
        }
        slot ^= 1;
    }
}

template <typename T, int TILE, bool SILU>
static __device__ __forceinline__ void
consume(const struct gemm_large_params &p, const struct large_maps &maps,
        struct large_smem<TILE> *smem)
{
    constexpr int  stages = num_stages<TILE>;
    constexpr int  cols = SILU ? TILE / 2 : TILE;
    int    group = threadIdx.x / WARPGROUP - 1, slot = 0;
    int    rank = cluster_rank();
    int    tiles = num_tiles(p, cols), step = gridDim.x / CLUSTER;
    int    num_k = (p.k + STAGE_K - 1) / STAGE_K, lead = min(LEAD, num_k);
    float  acc[TILE / 2];
    struct stage_at<stages>  at = { 0, 0 };
    pdl_wait();
    pdl_launch_next();
    if (group == 1 && lead > 0) {
        named_sync(BAR_LEAD, 2 * WARPGROUP);
    }
    for (int index = blockIdx.x / CLUSTER; index < tiles; index += step) {
        struct tile  t = tile_at(p, index, cols, rank);
        int          last = 0;
        for (int i = 0; i < num_k; i++) {
            const unsigned short  *x = smem->x[at.stage]
                                       + group * 64 * STAGE_K;
            const unsigned short  *w = smem->w[at.stage];
            barrier_wait(&smem->full[at.stage], at.parity);
            multiply<T, TILE>(acc, x, w, i > 0);
            if (i > 0) {
                wgmma_wait<1>();
                release(&smem->empty[last]);
            }
            multiply<T, TILE>(acc, x + STAGE_K / 2, w + STAGE_K / 2, true);
            if (group == 0 && lead > 0 && --lead == 0) {
                named_arrive(BAR_LEAD, 2 * WARPGROUP);
            }
            last = at.stage;
            at.next();
        }
        wgmma_wait<0>();
        pin(acc);
        release(&smem->empty[last]);
        if (p.bias != NULL) {
            add_bias<cols>(acc, p.bias, t.col, p.n);
            if (SILU) {
                add_bias<cols>(acc + TILE / 4, p.bias + p.n, t.col, p.n);
            }
        }
        store_tile<T, TILE, SILU>(p, &maps.y, acc, smem->y[group], slot,
                                  t.row + group * 64, t.col);
    }
    if (threadIdx.x % WARPGROUP == 0) {
        tma_store_wait<0>();
    }
}

#endif /* SM90_CODE */

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define CLUSTER_DIMS
#else
#define CLUSTER_DIMS  __cluster_dims__(CLUSTER)
#endif

template <typename T, int TILE, bool SILU> static __global__ void
CLUSTER_DIMS __launch_bounds__(THREADS, 1)
gemm_large_kernel(struct gemm_large_params p,
                  const __grid_constant__ struct large_maps maps)
{
#if SM90_CODE
    extern __shared__ char    smem_bytes[];
    struct large_smem<TILE>  *smem
        = reinterpret_cast<struct large_smem<TILE> *>(
            (reinterpret_cast<uintptr_t>(smem_bytes) + 1023)
            & ~static_cast<uintptr_t>(1023));
    if (threadIdx.x == 0) {
        tma_prefetch_map(&maps.x);
        tma_prefetch_map(&maps.w);
        tma_prefetch_map(&maps.y);
        for (int i = 0; i < num_stages<TILE>; i++) {
            barrier_init(&smem->full[i], 1);
                        barrier_init(&smem->empty[i], CLUSTER * CONSUMER_WARPS);
        }
        barrier_init_fence();
    }
    cluster_sync();
    if (threadIdx.x < WARPGROUP) {
        registers_give<40>();
        if (threadIdx.x == 0) {
            produce<TILE, SILU>(p, maps, smem);
        }
    } else {
        registers_take<232>();
        consume<T, TILE, SILU>(p, maps, smem);
    }
    /* no block ends while the other may still write to it */
    cluster_sync();
#else
    (void) p;
    (void) maps;
#endif
}

/* ---- host ---- */

static cudaError_t
matrix_map(CUtensorMap *map, kv_map_encoder encode, enum kernel_dtype dtype,
           const void *data, int rows, int cols, int box_rows)
{
    cuuint64_t  size[2] = { static_cast<cuuint64_t>(cols),
                            static_cast<cuuint64_t>(rows) };
    cuuint64_t  pitch[1] = { static_cast<cuuint64_t>(cols) * 2 };
    cuuint32_t  box[2] = { BOX, static_cast<cuuint32_t>(box_rows) };
    cuuint32_t  step[2] = { 1, 1 };
    CUresult    e = encode(
        map, dtype == KERNEL_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                  : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        2, const_cast<void *>(data), size, pitch, box, step,
        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return e == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

static cudaError_t
maps_init(struct large_maps *maps, const struct gemm_large_params *p)
{
    kv_map_encoder  encode;
    cudaError_t     e = kv_map_find_encoder(&encode);
    if (e == cudaSuccess) {
        e = matrix_map(&maps->x, encode, p->dtype, p->x, p->num, p->k,
                       BLOCK_ROWS);
    }
    if (e == cudaSuccess) {
        e = matrix_map(&maps->w, encode, p->dtype, p->w,
                       p->silu_mul ? 2 * p->n : p->n, p->k, p->tile / 2);
    }
    if (e == cudaSuccess) {
        e = matrix_map(&maps->y, encode, p->dtype, p->y, p->num, p->n, BOX);
    }
    return e;
}

template <typename T, int TILE, bool SILU> static cudaError_t
run(const struct gemm_large_params *p, cudaStream_t stream)
{
    constexpr size_t   bytes = sizeof(struct large_smem<TILE>) + 1024;
    struct large_maps  maps;
    cudaError_t        e = maps_init(&maps, p);
    int  cols = SILU ? TILE / 2 : TILE;
    int  tiles = (p->num + PAIR_ROWS - 1) / PAIR_ROWS
                 * ((p->n + cols - 1) / cols);
    int  clusters = p->num_sms / CLUSTER;
    if (e == cudaSuccess) {
        e = allow_smem({ { (const void *) gemm_large_kernel<T, TILE, SILU>,
                           static_cast<int>(bytes) } });
    }
    if (e != cudaSuccess) {
        return e;
    }
    dim3  grid(static_cast<unsigned int>(
        CLUSTER * (tiles < clusters ? tiles : clusters)));
    return launch_kernel(gemm_large_kernel<T, TILE, SILU>, grid, THREADS, bytes,
                         stream, p->pdl, *p, maps);
}

template <typename T> static cudaError_t
run_typed(const struct gemm_large_params *p, cudaStream_t stream)
{
    if (p->silu_mul) {
        return p->tile == 256 ? run<T, 256, true>(p, stream)
                              : run<T, 128, true>(p, stream);
    }
    return p->tile == 256 ? run<T, 256, false>(p, stream)
           : p->tile == 192 ? run<T, 192, false>(p, stream)
                            : run<T, 128, false>(p, stream);
}

/* Rounds of tiles, each as long as its rows of w and what a tile costs besides:
 * measured at 512 and 1,024 rows. */
int
gemm_large_tile(const struct gemm_large_params *p)
{
    int  pairs = (p->num + PAIR_ROWS - 1) / PAIR_ROWS, best = 0, best_cost = 0;
    for (int tile = 256; tile >= 128; tile -= p->silu_mul ? 128 : 64) {
        int  cols = p->silu_mul ? tile / 2 : tile;
        int  tiles = pairs * ((p->n + cols - 1) / cols);
        int  clusters = p->num_sms / CLUSTER;
        int  cost = (tiles + clusters - 1) / clusters * (tile + TILE_COST);
        if (best == 0 || cost < best_cost) {
            best = tile;
            best_cost = cost;
        }
    }
    return best;
}

int
gemm_large_takes(const struct gemm_large_params *p)
{
    uintptr_t  bits = reinterpret_cast<uintptr_t>(p->y)
                      | reinterpret_cast<uintptr_t>(p->x)
                      | reinterpret_cast<uintptr_t>(p->w);
    return device_is_sm90() && p->dtype != KERNEL_F32 && bits % 16 == 0
           && reinterpret_cast<uintptr_t>(p->bias) % 8 == 0
           && p->n % 8 == 0 && p->k % 8 == 0 && p->num > 0
           && p->num_sms >= CLUSTER;
}

cudaError_t
gemm_large_launch(const struct gemm_large_params *p, cudaStream_t stream)
{
    return p->dtype == KERNEL_BF16 ? run_typed<__nv_bfloat16>(p, stream)
                                   : run_typed<__half>(p, stream);
}
