/* prefill_units.cuh - attention_prefill_sm90.cu's shapes, its shared memory, and
 * the producers: what a block does next, its K and V, its Q. */
#ifndef LLM_KERNELS_PREFILL_UNITS_CUH
#define LLM_KERNELS_PREFILL_UNITS_CUH

#include "kernels/kv_map.cuh"
#include "kernels/mma.cuh"
#include "kernels/wgmma.cuh"

#define ROWS           128      /* of an item */
#define KEYS           128      /* of a tile */
#define STAGES         3
#define UNITS          4        /* said ahead at most */
#define THREADS        (3 * WARPGROUP)
#define CONSUMERS      (2 * WARPGROUP)
#define CONSUMER_WARPS 8
#define BAR_TURN       1        /* and 2: whose turn it is at the tensor core */
#define BAR_CONSUMERS  3

/* Rows of one sequence with consecutive positions, against all their keys. */
struct alignas(16) unit {
    int row;                    /* the first of q and out */
    int num_rows;               /* 0: there is no more work */
    int position;               /* of the first row */
    int head;
};

template <int HD> struct prefill_smem {
    alignas(1024) unsigned short  q[ROWS * HD];
    unsigned short  k[STAGES][KEYS * HD];
    unsigned short  v[STAGES][KEYS * HD];
    struct unit     units[UNITS];
    uint64_t        unit_full[UNITS], unit_empty[UNITS];
    uint64_t        q_full[2], q_empty[2];      /* of a warpgroup's rows */
    uint64_t        k_full[STAGES], k_empty[STAGES];
    uint64_t        v_full[STAGES], v_empty[STAGES];
};

#if SM90_CODE

static __device__ __forceinline__ int
num_keys_of(const struct unit &u)
{
    return u.position + u.num_rows;
}

static __device__ __forceinline__ int
last_tile_of(const struct unit &u)
{
    return (num_keys_of(u) - 1) / KEYS;
}

static __device__ __forceinline__ void
release(uint64_t *empty)
{
    if (threadIdx.x % WARP == 0) {
        barrier_arrive(empty);
    }
}

/* One tile of K or V: each lane a block of the cache. */
template <int HD> static __device__ __forceinline__ void
load_tile(const struct attention_params &p, const CUtensorMap *map,
          const int32_t *table, int kv_head, int first_key, int num_keys,
          unsigned short *tile, uint64_t *full)
{
    int  lane = threadIdx.x % WARP, block_size = 1 << p.kv.block_shift;
    int  last = min(KEYS, num_keys - first_key);
    int  num_blocks = (last + block_size - 1) >> p.kv.block_shift;
    if (lane == 0) {
        barrier_arrive_expect(full, static_cast<unsigned int>(
                                        num_blocks * block_size * HD * 2));
    }
    __syncwarp();
    if (lane < num_blocks) {
        int  block = table[(first_key >> p.kv.block_shift) + lane];
        int  row = (block * p.kv.num_kv_heads + kv_head) << p.kv.block_shift;
#pragma unroll
        for (int half = 0; half < HD / SWIZZLE_ELEMS; half++) {
            tma_load_2d(tile + (half * KEYS + lane * block_size)
                               * SWIZZLE_ELEMS,
                        map, half * SWIZZLE_ELEMS, row, full);
        }
    }
}

/* The work of a block, one unit after the other, and where its tables begin. */
struct work {
    struct unit      unit;
    const int32_t   *table;
    unsigned int     ticket;            /* of lane 0: what comes next */
};

/* Unit `index` of all of them, longest first where items are: said to all
 * warps. */
template <int HD> static __device__ __forceinline__ void
say_unit(const struct attention_params &p, unsigned int index,
         struct work &work, struct stage_at<UNITS> &at,
         struct prefill_smem<HD> *smem)
{
    unsigned int  heads = p.num_heads;
    work.unit = { 0, 0, 0, 0 };
    if (index < heads * p.num) {
        const struct attention_item  *item = &p.items[index / heads];
        work.unit = { item->row, item->num_rows, item->position,
                      static_cast<int>(index % heads) };
        work.table = p.block_tables + item->table;
    }
    barrier_wait(&smem->unit_empty[at.stage], at.parity);
    if (threadIdx.x % WARP == 0) {
        smem->units[at.stage] = work.unit;
        barrier_arrive(&smem->unit_full[at.stage]);
    }
    at.next();
}

/* Lane 0's copy: the compiler then knows that a warp has one unit, and keeps what
 * follows from it, stages and descriptors, in uniform registers. */
template <int HD> static __device__ __forceinline__ struct unit
hear_unit(struct stage_at<UNITS> &at, struct prefill_smem<HD> *smem)
{
    barrier_wait(&smem->unit_full[at.stage], at.parity);
    struct unit  u = smem->units[at.stage];
    u.row = __shfl_sync(0xffffffffu, u.row, 0);
    u.num_rows = __shfl_sync(0xffffffffu, u.num_rows, 0);
    u.position = __shfl_sync(0xffffffffu, u.position, 0);
    u.head = __shfl_sync(0xffffffffu, u.head, 0);
    release(&smem->unit_empty[at.stage]);
    at.next();
    return u;
}

/* The block's next unit: after the first ones, as many as blocks, those that
 * the counter says.  Every block asks until it gets one that is not there; the
 * last question of all leaves the counter at zero. */
template <int HD> static __device__ __forceinline__ void
next_unit(const struct attention_params &p, struct work &work,
          struct stage_at<UNITS> &at, struct prefill_smem<HD> *smem)
{
    unsigned int  ticket = __shfl_sync(0xffffffffu, work.ticket, 0);
    unsigned int  num = static_cast<unsigned int>(p.num_heads) * p.num;
    if (threadIdx.x == 0 && ticket == num - 1) {
        *p.counters = 0;
    }
    say_unit<HD>(p, gridDim.x + ticket, work, at, smem);
}

/* K is one tile ahead of V, as its readers are.  The counter is asked late, so
 * that blocks that are done first get more. */
template <int HD> static __device__ __forceinline__ void
produce(const struct attention_params &p, const CUtensorMap *k_map,
        const CUtensorMap *v_map, struct prefill_smem<HD> *smem)
{
    struct stage_at<STAGES>  k_at = { 0, 1 }, v_at = { 0, 1 };
    struct stage_at<UNITS>   unit_at = { 0, 1 };
    struct work              work = {};
    say_unit<HD>(p, blockIdx.x, work, unit_at, smem);
    while (work.unit.num_rows > 0) {
        const int32_t  *table = work.table;
        int  kv_head = work.unit.head / (p.num_heads / p.kv.num_kv_heads);
        int  num_keys = num_keys_of(work.unit), last = last_tile_of(work.unit);
        for (int tile = last; tile >= -1; tile--) {
            if (tile == min(last, 2) - 1 && threadIdx.x == 0) {
                work.ticket = atomicAdd(p.counters, 1u);
            }
            if (tile >= 0) {
                barrier_wait(&smem->k_empty[k_at.stage], k_at.parity);
                load_tile<HD>(p, k_map, table, kv_head, tile * KEYS, num_keys,
                              smem->k[k_at.stage], &smem->k_full[k_at.stage]);
                k_at.next();
            }
            if (tile < last) {
                barrier_wait(&smem->v_empty[v_at.stage], v_at.parity);
                load_tile<HD>(p, v_map, table, kv_head, (tile + 1) * KEYS,
                              num_keys, smem->v[v_at.stage],
                              &smem->v_full[v_at.stage]);
                v_at.next();
            }
            if (tile == min(last, 1) - 1) {
                next_unit<HD>(p, work, unit_at, smem);
            }
        }
    }
}

/* A warpgroup's rows of Q, by one warp, into the swizzled image; rows past the
 * item repeat its first. */
template <int HD> static __device__ __forceinline__ void
produce_query(const struct attention_params &p, int group,
              struct prefill_smem<HD> *smem)
{
    constexpr int           chunks = HD / 8;
    struct stage_at<1>      at = { 0, 1 };
    struct stage_at<UNITS>  unit_at = { 0, 0 };
    for (;;) {
        struct unit  u = hear_unit<HD>(unit_at, smem);
        if (u.num_rows == 0) {
            return;
        }
        const char  *from = static_cast<const char *>(p.qkv)
                            + (static_cast<size_t>(u.row) * p.qkv_stride
                               + static_cast<size_t>(u.head) * HD) * 2;
        barrier_wait(&smem->q_empty[group], at.parity);
        for (int i = threadIdx.x % WARP; i < 64 * chunks; i += WARP) {
            int     row = group * 64 + i / chunks, chunk = i % chunks;
            int     half = chunk / 8, c = chunk % 8;
            size_t  skip = static_cast<size_t>(row < u.num_rows ? row : 0)
                           * p.qkv_stride * 2;
            copy_async(smem->q + (half * ROWS + row) * SWIZZLE_ELEMS
                       + (c ^ (row & 7)) * 8, from + skip + chunk * 16);
        }
        copy_wait_all();
        barrier_arrive(&smem->q_full[group]);
        at.next();
    }
}

#endif /* SM90_CODE */

#endif
