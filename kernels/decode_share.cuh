/* decode_share.cuh - what the Hopper decode kernels have in common: the tiles
 * of a warp's share, and partial results.
 *
 * A warp is on its own: it runs the items decode_first[w] .. decode_first[w +
 * 1] - 1, each one (sequence, kv head, range of keys), brings their tiles of 32
 * keys of K and V through a ring of its own by TMA, one ring ahead of what it
 * computes and without a pause between items, and never waits for another
 * warp.
 *
 * Ranges that do not hold all keys of their sequence leave a partial result;
 * the warp that counts itself last merges them in the order of the parts.  So
 * results depend on the plan, never on timing.
 *
 * NaN: rows of a block outside the item's keys are what the cache holds: their
 * scores are masked by index and their V overwritten with zeros. */
#ifndef LLM_KERNELS_DECODE_SHARE_CUH
#define LLM_KERNELS_DECODE_SHARE_CUH

#include "kernels/attention_tile.cuh"
#include "kernels/kv_map.cuh"

#define KEYS        ATTENTION_DECODE_KEYS      /* of a tile */

static_assert(KEYS == 32, "one table entry a lane, two 16-key products");

#if SM90_CODE

/* A place in a ring of `STAGES` and the parity of its barrier. */
template <int STAGES> struct stage_at {
    int          stage;
    unsigned int parity;
    __device__ __forceinline__ void
    next(void)
    {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
    __device__ __forceinline__ void
    skip(int stages)                    /* at most STAGES */
    {
        if ((stage += stages) >= STAGES) {
            stage -= STAGES;
            parity ^= 1;
        }
    }
};

/* The keys of an item that this layer's window leaves: [begin, end). */
static __device__ __forceinline__ int
item_begin(const struct attention_params &p, const struct decode_item &item)
{
    return p.window > 0 ? max(item.key_begin, item.position + 1 - p.window)
                        : item.key_begin;
}

static __device__ __forceinline__ int
item_tiles(int begin, int end)
{
    return begin < end ? (end + KEYS - 1) / KEYS - begin / KEYS : 0;
}

/* ---- the tiles of a share ---- */

/* Where the next tile comes from; row0, row1 are a lane's: of tile `batch` +
 * lane of the item. */
struct cursor {
    int  item, end_item;
    int  tile, tiles, batch;
    int  row0, row1;
};

/* Row of the map where a key lies. */
static __device__ __forceinline__ int
map_row(const struct attention_params &p, const int32_t *table, int kv_head,
        int key)
{
    int  block = table[key >> p.kv.block_shift];
    return ((block * p.kv.num_kv_heads + kv_head) << p.kv.block_shift)
           + (key & ((1 << p.kv.block_shift) - 1));
}

/* Rows of 32 tiles at a time, one a lane, so that table reads overlap.  The
 * second half of a tile (blocks of 16 tokens) may have no block: then the first
 * is brought twice, and masked. */
static __device__ __forceinline__ void
cursor_rows(const struct attention_params &p, const struct decode_item &item,
            struct cursor &c)
{
    int  begin = item_begin(p, item);
    int  key = (begin / KEYS + c.tile + static_cast<int>(threadIdx.x) % WARP)
               * KEYS;
    const int32_t  *table = p.block_tables + item.table;
    c.batch = c.tile;
    c.tiles = item_tiles(begin, item.key_end);
    c.row0 = c.row1 = 0;
    if (key < item.key_end) {
        c.row0 = map_row(p, table, item.kv_head, key);
        c.row1 = key + 16 < item.key_end
                 ? map_row(p, table, item.kv_head, key + 16) : c.row0;
    }
}

/* The rows of the share's next tile; false: there is none. */
static __device__ __forceinline__ bool
cursor_next(const struct attention_params &p, struct cursor &c, int *row0,
            int *row1)
{
    while (c.tile == c.tiles) {
        if (++c.item >= c.end_item) {
            c.tile = c.tiles = 0;
            c.item = c.end_item;
            return false;
        }
        c.tile = 0;
        cursor_rows(p, p.decode_items[c.item], c);
    }
    if (c.tile == c.batch + WARP) {
        cursor_rows(p, p.decode_items[c.item], c);
    }
    *row0 = __shfl_sync(0xffffffffu, c.row0, c.tile - c.batch);
    *row1 = __shfl_sync(0xffffffffu, c.row1, c.tile - c.batch);
    c.tile++;
    return true;
}

/* Byte of a 16-byte chunk in swizzled rows of 128 or 64 bytes. */
template <int ROW_BYTES> static __device__ __forceinline__ int
chunk_at(int row, int chunk)
{
    int  swizzle = ROW_BYTES == SWIZZLE_BYTES ? row & 7 : row >> 1 & 3;
    return row * ROW_BYTES + ((chunk ^ swizzle) << 4);
}

/* ---- results ---- */

/* e = 0 for a part that saw no key. */
static __device__ __forceinline__ float
weight_of(float m, float l, float m_all)
{
    return l == 0.0f ? 0.0f : exp2f(m - m_all);
}

template <typename IO, int HD> static __device__ __forceinline__ IO *
out_row(const struct attention_params &p, const struct decode_item &item,
        int group, int row)
{
    return static_cast<IO *>(p.out)
           + (static_cast<size_t>(item.row) * p.num_heads
              + item.kv_head * group + row) * HD;
}

/* True in all lanes of the warp that leaves the last of an item's parts. */
static __device__ __forceinline__ bool
is_last(const struct attention_params &p, const struct decode_item &item)
{
    int  last = 0;
    __threadfence();
    __syncwarp();
    if (threadIdx.x % WARP == 0) {
        unsigned int  *counter = p.counters
                                 + static_cast<size_t>(item.seq)
                                   * p.kv.num_kv_heads + item.kv_head;
        unsigned int   limit = static_cast<unsigned int>(item.num_parts) - 1;
        last = atomicInc(counter, limit) == limit;    /* wraps to 0 */
        __threadfence();
    }
    return __shfl_sync(0xffffffffu, last, 0) != 0;
}

/* Four columns a lane, the parts of a head in their order. */
template <typename IO, int HD> static __device__ __forceinline__ void
merge_parts(const struct attention_params &p, const struct decode_item &item,
            int group)
{
    float          scale = p.kv.v_scale;
    const float2  *ml = reinterpret_cast<const float2 *>(p.partial_ml);
    for (int i = threadIdx.x % WARP; i < group * (HD / 4); i += WARP) {
        int     row = i / (HD / 4), col = i % (HD / 4) * 4;
        size_t  first = static_cast<size_t>(item.partial) * group + row;
        float   m = -INFINITY, l = 0.0f;
        float4  o = { 0.0f, 0.0f, 0.0f, 0.0f };
#pragma unroll 8
        for (int k = 0; k < item.num_parts; k++) {
            m = fmaxf(m, __ldcg(&ml[first + static_cast<size_t>(k) * group]).x);
        }
#pragma unroll 8
        for (int k = 0; k < item.num_parts; k++) {
            size_t  at = first + static_cast<size_t>(k) * group;
            float2  part = __ldcg(&ml[at]);
            float4  o_k = __ldcg(reinterpret_cast<const float4 *>(
                p.partial_out + at * HD + col));
            float   e = weight_of(part.x, part.y, m);
            l += e * part.y;
            o.x += e * o_k.x;
            o.y += e * o_k.y;
            o.z += e * o_k.z;
            o.w += e * o_k.w;
        }
        *reinterpret_cast<uint2 *>(out_row<IO, HD>(p, item, group, row) + col)
            = make_uint2(pack<IO>(o.x / l * scale, o.y / l * scale),
                         pack<IO>(o.z / l * scale, o.w / l * scale));
    }
}

#endif /* SM90_CODE */

#endif
