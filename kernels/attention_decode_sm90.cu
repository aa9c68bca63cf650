/* attention_decode_sm90.cu - attention of one new token a sequence on Hopper:
 * every warp with a share reads as many keys as the others (decode_plan()).
 *
 * A warp is on its own: it runs the items decode_first[w] .. decode_first[w +
 * 1] - 1, each one (sequence, kv head, range of keys), brings their tiles of 32
 * keys of K and V through a ring of its own, one ring ahead of what it computes
 * and without a pause between items, and never waits for another warp.  The
 * query heads of the kv head are the rows of a 16-row mma.sync tile.  Shares lie
 * across the multiprocessors: share s is warp s / blocks of block s % blocks.
 *
 * Tiles come by cp.async.bulk, as they lie in memory: boxes of a TMA map,
 * swizzled as ldmatrix wants them, took 4 % longer.  Lanes read K and V 16 bytes
 * at a time, in orders that spread over the banks, see scores() and values().
 *
 * The ring is filled with keys of earlier steps before the wait for the kernel
 * that makes q and the step's own keys.
 *
 * Ranges that do not hold all keys of their sequence leave a partial result;
 * the warp that counts itself last merges them in the order of the parts.  So
 * results depend on the plan, never on timing.
 *
 * An fp8 cache (KV is __nv_fp8_storage_t) is multiplied in f16, see e4m3.cuh.
 *
 * NaN: keys past the item's are not read, and what their places in the ring hold
 * is, like keys before it, masked by index, and their V overwritten with zeros.
 *
 * A first version gave a block's four warps the tiles of one item in turn, fed
 * by a producer warp: at 1,024 keys as fast, but 1.4 times slower than the
 * kernel of attention_decode.cu with short or uneven sequences, where the
 * meeting of the warps at the end of each item costs several microseconds. */
#include "kernels/decode_warp_tile.cuh"

#define HALF_KEYS   16     /* of a tile: what a block of any size has in one piece */

#if SM90_CODE

/* ---- bringing tiles ---- */

/* Where the next tile comes from; row0, row1 are a lane's: of tile `batch` +
 * lane of the item. */
struct cursor {
    int  item, end_item;
    int  tile, tiles, batch;
    int  first, key_end, position;      /* first: the item's first tile's key */
    int  row0, row1;
};

/* Rows of 32 tiles at a time, one a lane, so that table reads overlap. */
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
    c.first = begin / KEYS * KEYS;
    c.key_end = item.key_end;
    c.position = item.position;
    if (key < item.key_end) {
        c.row0 = map_row(p, table, item.kv_head, key);
    }
    if (key + HALF_KEYS < item.key_end) {
        c.row1 = map_row(p, table, item.kv_head, key + HALF_KEYS);
    }
}

/* The cursor at a tile to bring; false: there is none any more. */
static __device__ __forceinline__ bool
cursor_at_tile(const struct attention_params &p, struct cursor &c)
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
    return true;
}

/* Starts the cursor's tile into a stage that all lanes have finished with; keys
 * past the item's are not read. */
template <typename S> static __device__ __forceinline__ void
bring(const struct attention_params &p, struct cursor &c, char *ring,
      uint64_t *full, struct stage_at<S::STAGES> &at)
{
    int     rows = c.key_end - c.first - c.tile * KEYS;
    size_t  row0 = static_cast<size_t>(
        __shfl_sync(0xffffffffu, c.row0, c.tile - c.batch));
    size_t  row1 = static_cast<size_t>(
        __shfl_sync(0xffffffffu, c.row1, c.tile - c.batch));
    if (elect_lane()) {
        const char   *k = static_cast<const char *>(p.kv.k);
        const char   *v = static_cast<const char *>(p.kv.v);
        char         *to = ring + at.stage * S::STAGE_BYTES;
        uint64_t     *barrier = &full[at.stage];
        int           piece = p.kv.block_shift < 5 ? HALF_KEYS : KEYS;
        unsigned int  bytes = min(rows, piece) * S::ROW_BYTES;
        barrier_arrive_expect(barrier, 2 * min(rows, KEYS) * S::ROW_BYTES);
        bulk_load(to, k + row0 * S::ROW_BYTES, bytes, barrier);
        bulk_load(to + S::SIDE_BYTES, v + row0 * S::ROW_BYTES, bytes, barrier);
        if (rows > piece) {
            bytes = (min(rows, KEYS) - piece) * S::ROW_BYTES;
            to += piece * S::ROW_BYTES;
            bulk_load(to, k + row1 * S::ROW_BYTES, bytes, barrier);
            bulk_load(to + S::SIDE_BYTES, v + row1 * S::ROW_BYTES, bytes,
                      barrier);
        }
    }
    __syncwarp();
    c.tile++;
    at.next();
}

/* ---- results ---- */

/* The item's result: to the output, or m, l and o to memory. */
template <typename S> static __device__ __forceinline__ void
leave(const struct attention_params &p, const struct decode_item &item,
      int group, struct warp_state<S> &t)
{
    using IO = typename S::IO;
    int     lane = threadIdx.x % WARP;
    size_t  slot = static_cast<size_t>(item.partial + item.part) * group;
    if (S::TWICE) {
        add_twice<S>(t);
    }
#pragma unroll
    for (int half = 0; half < S::HEADS; half++) {
        int    row = lane / 4 + 8 * half;
        float  l = t.l[half];
        l += __shfl_xor_sync(0xffffffffu, l, 1);
        l += __shfl_xor_sync(0xffffffffu, l, 2);
        if (row >= group) {
            continue;
        }
        float  scale = p.kv.v_scale / l;
        IO    *out = out_row<IO, S::HD>(p, item, group, row);
        float *part = p.partial_out + (slot + row) * S::HD;
#pragma unroll
        for (int i = 0; i < S::HD / 8; i += 4) {
#pragma unroll
            for (int c = 0; c < 2; c++) {
                int  n = i / S::PIECE_COLS, x = 2 * half + c;
                int  col = ((lane % 4 * 2 + c) * S::PIECES + n) * S::PIECE_COLS
                           + i % S::PIECE_COLS;
                if (item.num_parts > 1) {
                    *reinterpret_cast<float4 *>(part + col)
                        = make_float4(t.o[i][x], t.o[i + 1][x], t.o[i + 2][x],
                                      t.o[i + 3][x]);
                } else {
                    *reinterpret_cast<uint2 *>(out + col)
                        = make_uint2(pack<IO>(t.o[i][x] * scale,
                                              t.o[i + 1][x] * scale),
                                     pack<IO>(t.o[i + 2][x] * scale,
                                              t.o[i + 3][x] * scale));
                }
            }
        }
        if (item.num_parts > 1 && lane % 4 == 0) {
            p.partial_ml[(slot + row) * 2] = t.m[half];
            p.partial_ml[(slot + row) * 2 + 1] = l;
        }
    }
}

/* ---- shares ---- */

/* The first tiles come before the kernel that makes q and the step's own keys has
 * ended: all but the tile with the latter are older than the step. */
template <typename S> static __device__ __forceinline__ void
fill_ring(const struct attention_params &p, struct cursor &c, char *ring,
          uint64_t *full, struct stage_at<S::STAGES> &at)
{
    bool  waited = false;
    for (int i = 0; i < S::STAGES && cursor_at_tile(p, c); i++) {
        if (!waited && c.first + (c.tile + 1) * KEYS > c.position) {
            pdl_wait();
            waited = true;
        }
        bring<S>(p, c, ring, full, at);
    }
    if (!waited) {
        pdl_wait();
    }
}

template <typename S> static __device__ __forceinline__ void
run_share(const struct attention_params &p, int first, int end, char *ring,
          uint64_t *full)
{
    int    group = p.num_heads / p.kv.num_kv_heads;
    struct cursor               c = { first - 1, end, 0, 0, 0, 0, 0, 0, 0, 0 };
    struct stage_at<S::STAGES>  in = { 0, 0 }, out = { 0, 0 };
    struct warp_state<S>        t;
    fill_ring<S>(p, c, ring, full, in);
    for (int i = first; i < end; i++) {
        const struct decode_item  item = p.decode_items[i];
        int  begin = item_begin(p, item), key = begin / KEYS * KEYS;
        load_query<S>(p, item, group, t);
        for (; key < item.key_end; key += KEYS) {
            char  *k = ring + out.stage * S::STAGE_BYTES;
            char  *v = k + S::SIDE_BYTES;
            float  s[KEYS / 8][4] = { };
            barrier_wait(&full[out.stage], out.parity);
            scores<S>(t, k, s);
            if (key < begin || key + KEYS > item.key_end) {
                mask_tile<S>(v, begin - key, item.key_end - key, s);
            }
            softmax<S>(t, s);
            values<S>(t, v, s);
            __syncwarp();
            if (cursor_at_tile(p, c)) {
                bring<S>(p, c, ring, full, in);
            }
            out.next();
        }
        leave<S>(p, item, group, t);
        if (item.num_parts > 1 && is_last(p, item)) {
            merge_parts<typename S::IO, S::HD>(p, item, group);
        }
    }
}

#endif /* SM90_CODE */

template <typename S> static __global__ void
__launch_bounds__(S::THREADS, 1)
decode_sm90_kernel(struct attention_params p)
{
#if SM90_CODE
    /* multiples of 128 bytes: with pads of 64 between copies, to spread banks, the
     * kernel was no faster than with boxes */
    extern __shared__ __align__(128) char  rings[];
    __shared__ uint64_t     full[S::WARPS][S::STAGES];
    int     warp = threadIdx.x / WARP;
    int     share = warp * gridDim.x + blockIdx.x;
    if (threadIdx.x % WARP == 0) {
        for (int i = 0; i < S::STAGES; i++) {
            barrier_init(&full[warp][i], 1);
        }
        barrier_init_fence();
    }
    __syncwarp();
    if (share < p.decode_shares) {
        run_share<S>(p, p.decode_first[share], p.decode_first[share + 1],
                     rings + warp * S::RING_BYTES, full[warp]);
    } else {
        pdl_wait();
    }
    pdl_launch_next();
#else
    (void) p;
#endif
}

/* ---- host ---- */

template <typename S> static cudaError_t
run(const struct attention_params *p, cudaStream_t stream)
{
    return launch_kernel(decode_sm90_kernel<S>,
                         static_cast<unsigned int>(p->decode_blocks), S::THREADS,
                         S::SMEM_BYTES, stream, p->pdl, *p);
}

template <typename T, typename KV, int HD> static cudaError_t
run_group(const struct attention_params *p, cudaStream_t stream)
{
    return p->num_heads / p->kv.num_kv_heads <= TWICE_MAX
           ? run<decode_shape<T, KV, HD, true>>(p, stream)
           : run<decode_shape<T, KV, HD, false>>(p, stream);
}

template <typename T, typename KV> static cudaError_t
run_any(const struct attention_params *p, cudaStream_t stream)
{
    return p->kv.head_dim == 64 ? run_group<T, KV, 64>(p, stream)
                                : run_group<T, KV, 128>(p, stream);
}

template <typename T, typename KV, int HD, bool TWICE> static struct kernel_smem
smem_of(void)
{
    using S = decode_shape<T, KV, HD, TWICE>;
    return { (const void *) decode_sm90_kernel<S>, S::SMEM_BYTES };
}

#define SMEM_OF(T, KV)                                                        \
    smem_of<T, KV, 64, true>(), smem_of<T, KV, 64, false>(),                  \
    smem_of<T, KV, 128, true>(), smem_of<T, KV, 128, false>()

extern "C" cudaError_t
attention_decode_sm90_init(void)
{
    return allow_smem({
        SMEM_OF(__nv_bfloat16, __nv_bfloat16), SMEM_OF(__half, __half),
        SMEM_OF(__nv_bfloat16, __nv_fp8_storage_t),
        SMEM_OF(__half, __nv_fp8_storage_t) });
}

int
attention_decode_sm90_takes(const struct attention_params *p)
{
    return decode_shapes_fit(p)
           && (p->dtype == p->kv.dtype || p->kv.dtype == KERNEL_F8_E4M3);
}

cudaError_t
attention_decode_sm90_launch(const struct attention_params *p,
                             cudaStream_t stream)
{
    bool  fp8 = p->kv.dtype == KERNEL_F8_E4M3;
    if (p->dtype == KERNEL_BF16) {
        return fp8 ? run_any<__nv_bfloat16, __nv_fp8_storage_t>(p, stream)
                   : run_any<__nv_bfloat16, __nv_bfloat16>(p, stream);
    }
    return fp8 ? run_any<__half, __nv_fp8_storage_t>(p, stream)
               : run_any<__half, __half>(p, stream);
}
