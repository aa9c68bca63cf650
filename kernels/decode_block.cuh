/* decode_block.cuh - attention_decode_block.cu's shapes, its shared memory, and
 * the producers, which bring tiles of K and V into the ring. */
#ifndef LLM_KERNELS_DECODE_BLOCK_CUH
#define LLM_KERNELS_DECODE_BLOCK_CUH

#include "kernels/decode_share.cuh"

#define HEADS       8        /* query heads of a column tile */
#define PIECE       4        /* keys of a copy */
#define PAD         16       /* bytes after each */

/* T: of qkv, cache and out.  HD: head_dim.  GROUP: most query heads. */
template <typename T_, int HD_, int GROUP_> struct block_shape {
    using T = T_;
    static constexpr int  HD = HD_;
    static constexpr int  GROUP = GROUP_;
    static constexpr int  TILES = (GROUP + HEADS - 1) / HEADS;
    static constexpr int  ROW_BYTES = HD * 2;
    static constexpr int  PIECE_BYTES = PIECE * ROW_BYTES;
    /* a tile of K or of V */
    static constexpr int  STAGE_BYTES = KEYS / PIECE * (PIECE_BYTES + PAD);
    static constexpr int  WARPS = GROUP <= 8 ? 10 : 8;     /* consumers */
    static constexpr int  THREADS = (WARPS + 2) * WARP;
    /* every stage is one warp's: it never waits for another's round of it */
    static constexpr int  STAGES = 2 * WARPS * (HD == 64 ? 2 : 1);
    /* what warps have of an item: places for so many items */
    static constexpr int  PART_STRIDE = HD + 4;  /* floats; other banks */
    static constexpr int  PART_FLOATS = GROUP * (PART_STRIDE + 2);
    static constexpr int  PLACES = GROUP <= 4 ? 2 : 1;
    static constexpr int  SMEM_BYTES = STAGES * STAGE_BYTES
                                       + PLACES * WARPS * PART_FLOATS * 4;
    static constexpr int  PAIR_LANES = HD / 4;  /* a lane has two pairs of
                                                   elements that rotate */
    static_assert(SMEM_BYTES <= 225 * 1024, "what a block may have");
};

static_assert(KEYS == 8 * PIECE, "rows of a product, see scores()");

#if SM90_CODE

template <typename S> struct block_smem {
    char         *stages;            /* [STAGES][STAGE_BYTES] */
    float        *parts;             /* [PLACES][WARPS][PART_FLOATS] */
    uint64_t      full[S::STAGES], empty[S::STAGES];
    unsigned int  arrived[S::PLACES];    /* warps that have left theirs */
    unsigned int  merged[S::PLACES];     /* items */
};

/* Byte of element `col` of the tile's key `key`. */
template <typename S> static __device__ __forceinline__ int
byte_of(int key, int col)
{
    return key * S::ROW_BYTES + key / PIECE * PAD + col * 2;
}

/* ---- producers ---- */

/* A tile whose first 16 keys are rows row0 and following of K or V, the others
 * row1 and following. */
template <typename S> static __device__ __forceinline__ void
bring(const char *cache, int row0, int row1, struct block_smem<S> &m,
      const struct stage_at<S::STAGES> &at)
{
    char        *to = m.stages + at.stage * S::STAGE_BYTES;
    uint64_t    *full = &m.full[at.stage];
    const char  *half[2] = { cache + static_cast<int64_t>(row0) * S::ROW_BYTES,
                             cache + static_cast<int64_t>(row1)
                                     * S::ROW_BYTES };
    barrier_wait(&m.empty[at.stage], at.parity ^ 1);
    barrier_arrive_expect(full, KEYS * S::ROW_BYTES);
#pragma unroll
    for (int i = 0; i < KEYS / PIECE; i++) {
        bulk_load(to + i * (S::PIECE_BYTES + PAD),
                  half[i * PIECE / 16] + i * PIECE % 16 * S::ROW_BYTES,
                  S::PIECE_BYTES, full);
    }
}

/* The tiles of an item: rows of the cache of 32 tiles at a time, one a lane, so
 * that table reads overlap. */
template <typename S> static __device__ __forceinline__ void
bring_item(const struct attention_params &p, const struct decode_item &item,
           const char *cache, struct block_smem<S> &m,
           struct stage_at<S::STAGES> &at)
{
    const int32_t  *table = p.block_tables + item.table;
    int  begin = item_begin(p, item) / KEYS;
    int  tiles = item_tiles(item_begin(p, item), item.key_end);
    for (int first = 0; first < tiles; first += WARP) {
        int  lane = threadIdx.x % WARP, row0 = 0, row1 = 0;
        int  key = (begin + first + lane) * KEYS;
        if (key < item.key_end) {
            row0 = map_row(p, table, item.kv_head, key);
            /* if it has no block: brought twice, and masked */
            row1 = p.kv.block_shift >= 5 ? row0 + 16
                   : key + 16 < item.key_end
                     ? map_row(p, table, item.kv_head, key + 16) : row0;
        }
        for (int i = 0; i < min(WARP, tiles - first); i++) {
            int  a = __shfl_sync(0xffffffffu, row0, i);
            int  b = __shfl_sync(0xffffffffu, row1, i);
            if (elect_lane()) {
                bring<S>(cache, a, b, m, at);
            }
            __syncwarp();
            at.skip(2);
        }
    }
}

/* Two warps, one for K, in even stages, and one for V. */
template <typename S> static __device__ __forceinline__ void
produce(const struct attention_params &p, int is_v, struct block_smem<S> &m)
{
    int          end = p.decode_first[blockIdx.x + 1];
    const char  *cache = static_cast<const char *>(is_v ? p.kv.v : p.kv.k);
    struct stage_at<S::STAGES>  at = { is_v, 0 };
    for (int i = p.decode_first[blockIdx.x]; i < end; i++) {
        const struct decode_item  item = p.decode_items[i];
        bring_item<S>(p, item, cache, m, at);
    }
}

#endif /* SM90_CODE */

#endif
