/* attention_decode_sm90.cu - attention of one new token a sequence on Hopper:
 * every warp with a share reads as many keys as the others (decode_plan()).
 *
 * A warp is on its own: it runs the items decode_first[w] .. decode_first[w +
 * 1] - 1, each one (sequence, kv head, range of keys), brings their tiles of 32
 * keys of K and V through a ring of its own by TMA, one ring ahead of what it
 * computes and without a pause between items, and never waits for another
 * warp.  The query heads of the kv head are the rows of one 16-row mma.sync
 * tile.  Shares lie across the multiprocessors: share s is warp s / blocks of
 * block s % blocks.
 *
 * Ranges that do not hold all keys of their sequence leave a partial result;
 * the warp that counts itself last merges them in the order of the parts.  So
 * results depend on the plan, never on timing.
 *
 * An fp8 cache (KV is __nv_fp8_storage_t) is multiplied in f16, see e4m3.cuh.
 *
 * NaN: rows of a block outside the item's keys are what the cache holds: their
 * scores are masked by index and their V overwritten with zeros.
 *
 * A first version gave a block's four warps the tiles of one item in turn, fed
 * by a producer warp: at 1,024 keys as fast, but 1.4 times slower than the
 * kernel of attention_decode.cu with short or uneven sequences, where the
 * meeting of the warps at the end of each item costs several microseconds. */
#include "kernels/decode_share.cuh"

/* IO: of qkv and out; T: of the products; HD: head_dim. */
template <typename IO_, typename KV_, int HD_> struct decode_shape {
    using IO = IO_;
    using KV = KV_;
    static constexpr bool FP8 = sizeof(KV) == 1;
    using T = std::conditional_t<FP8, __half, IO_>;
    static constexpr int  HD = HD_;
    static constexpr int  ROW_BYTES = HD * static_cast<int>(sizeof(KV));
    static constexpr int  HALF_BYTES = KEYS * ROW_BYTES;     /* K or V */
    static constexpr int  STAGE_BYTES = 2 * HALF_BYTES;      /* K, then V */
    /* of a block, one block an SM; turning codes into operands takes more */
    static constexpr int  WARPS = FP8 ? ATTENTION_DECODE_WARPS : 6;
    static constexpr int  THREADS = WARPS * WARP;
    static constexpr int  RING_BYTES = (FP8 ? 16 : 32) * 1024;  /* of a warp */
    static constexpr int  SMEM_BYTES = WARPS * RING_BYTES + 1024;
    static constexpr int  STAGES = RING_BYTES / STAGE_BYTES;
    /* rows of the ring: a box of TMA is so wide, swizzled within itself */
    static constexpr int  RING_ROW = ROW_BYTES < SWIZZLE_BYTES ? ROW_BYTES
                                                               : SWIZZLE_BYTES;
    static constexpr int  BOX = RING_ROW / static_cast<int>(sizeof(KV));
};

#if SM90_CODE

/* ---- bringing tiles ---- */

/* Where the next tile comes from; row0, row1 are a lane's: of tile `batch` +
 * lane of the item. */
struct cursor {
    int  item, end_item;
    int  tile, tiles, batch;
    int  row0, row1;
};

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

template <typename S> static __device__ __forceinline__ void
bring(const struct attention_params &p, const CUtensorMap *k_map,
      const CUtensorMap *v_map, int row0, int row1, char *k, uint64_t *full)
{
    int    box_rows = min(KEYS, 1 << p.kv.block_shift);
    char  *v = k + S::HALF_BYTES;
    barrier_arrive_expect(full, S::STAGE_BYTES);
#pragma unroll
    for (int half = 0; half < S::HD / S::BOX; half++) {
        int  at = half * KEYS * S::RING_ROW, col = half * S::BOX;
        tma_load_2d(k + at, k_map, col, row0, full);
        tma_load_2d(v + at, v_map, col, row0, full);
        if (box_rows < KEYS) {
            at += box_rows * S::RING_ROW;
            tma_load_2d(k + at, k_map, col, row1, full);
            tma_load_2d(v + at, v_map, col, row1, full);
        }
    }
}

/* Starts the next tile of the warp's share, if there is one, into a stage that
 * all lanes have finished with. */
template <typename S> static __device__ __forceinline__ void
bring_next(const struct attention_params &p, const CUtensorMap *k_map,
           const CUtensorMap *v_map, struct cursor &c, char *ring,
           uint64_t *full, struct stage_at<S::STAGES> &at)
{
    while (c.tile == c.tiles) {
        if (++c.item >= c.end_item) {
            c.tile = c.tiles = 0;
            c.item = c.end_item;
            return;
        }
        c.tile = 0;
        cursor_rows(p, p.decode_items[c.item], c);
    }
    if (c.tile == c.batch + WARP) {
        cursor_rows(p, p.decode_items[c.item], c);
    }
    int  row0 = __shfl_sync(0xffffffffu, c.row0, c.tile - c.batch);
    int  row1 = __shfl_sync(0xffffffffu, c.row1, c.tile - c.batch);
    if (threadIdx.x % WARP == 0) {
        bring<S>(p, k_map, v_map, row0, row1,
                 ring + at.stage * S::STAGE_BYTES, &full[at.stage]);
    }
    __syncwarp();
    c.tile++;
    at.next();
}

/* ---- computing ---- */

/* Byte of a 16-byte chunk in swizzled rows of 128 or 64 bytes. */
template <typename S> static __device__ __forceinline__ int
chunk_at(int row, int chunk)
{
    int  swizzle = S::RING_ROW == SWIZZLE_BYTES ? row & 7 : row >> 1 & 3;
    return row * S::RING_ROW + ((chunk ^ swizzle) << 4);
}

template <typename S> struct warp_state {
    float        m[2], l[2];
    float        o[S::HD / 8][4];
    unsigned int q[S::HD / 16][4];
    float        scale[2];        /* of the scores, times log2(e) */
};

/* The query heads as left operands, straight from memory; rows past the group
 * are zeros. */
template <typename S> static __device__ __forceinline__ void
load_query_as_it_is(const typename S::IO *q, int group,
                    struct warp_state<S> &t)
{
    int   lane = threadIdx.x % WARP, row = lane / 4;
    bool  low = row < group, high = row + 8 < group;
    q += row * S::HD + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < S::HD / 16; i++) {
        const typename S::IO  *at = q + i * 16;
        t.q[i][0] = low ? *reinterpret_cast<const unsigned int *>(at) : 0;
        t.q[i][1] = high ? *reinterpret_cast<const unsigned int *>(
                               at + 8 * S::HD) : 0;
        t.q[i][2] = low ? *reinterpret_cast<const unsigned int *>(at + 8) : 0;
        t.q[i][3] = high ? *reinterpret_cast<const unsigned int *>(
                               at + 8 * S::HD + 8) : 0;
    }
}

/* For fp8: f16, and the columns in the order of the codes: a lane's share of a
 * row is 16 neighbours of every 64. */
template <typename S> static __device__ __forceinline__ void
load_query_as_f16(const typename S::IO *q, int group, struct warp_state<S> &t)
{
    int  lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int    row = lane / 4 + 8 * half;
        float  x[S::HD / 4], largest = 0.0f, inverse;
#pragma unroll
        for (int i = 0; i < S::HD / 4; i += 2) {
            typename S::IO  pair[2] = { from_float<typename S::IO>(0.0f),
                                        from_float<typename S::IO>(0.0f) };
            if (row < group) {
                memcpy(pair, __builtin_assume_aligned(
                    q + row * S::HD + i / 16 * 64 + lane % 4 * 16 + i % 16, 4),
                    4);
            }
            x[i] = to_float(pair[0]);
            x[i + 1] = to_float(pair[1]);
            largest = fmaxf(largest, fmaxf(fabsf(x[i]), fabsf(x[i + 1])));
        }
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
        float  factor = query_factor(largest, &inverse);
        t.scale[half] *= inverse;
#pragma unroll
        for (int i = 0; i < S::HD / 4; i += 2) {
            t.q[i / 4][i % 4 + half] = pack<typename S::T>(x[i] * factor,
                                                           x[i + 1] * factor);
        }
    }
}

template <typename S> static __device__ __forceinline__ void
load_query(const struct attention_params &p, const struct decode_item &item,
           int group, struct warp_state<S> &t)
{
    const typename S::IO  *q = static_cast<const typename S::IO *>(p.qkv)
                               + static_cast<size_t>(item.row) * p.qkv_stride
                               + static_cast<size_t>(item.kv_head * group)
                                 * S::HD;
    t.scale[0] = t.scale[1] = p.scale * LOG2_E;
    if constexpr (S::FP8) {
        load_query_as_f16<S>(q, group, t);
    } else {
        load_query_as_it_is<S>(q, group, t);
    }
    t.m[0] = t.m[1] = -INFINITY;
    t.l[0] = t.l[1] = 0.0f;
#pragma unroll
    for (int i = 0; i < S::HD / 8; i++) {
        t.o[i][0] = t.o[i][1] = t.o[i][2] = t.o[i][3] = 0.0f;
    }
}

template <typename S> static __device__ __forceinline__ void
scores(const struct warp_state<S> &t, const char *k, float (&s)[KEYS / 8][4])
{
    using T = typename S::T;
    int  lane = threadIdx.x % WARP;
    int  key = lane / 16 * 8 + lane % 8, chunk = lane / 8 % 2;
#pragma unroll
    for (int d = 0; d < S::HD / 16; d++) {
        const char  *half = k + d / 4 * KEYS * S::RING_ROW;
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++) {
            unsigned int  b[4];
            load_matrix(b, half + chunk_at<S>(j * 16 + key, d % 4 * 2 + chunk));
            multiply_add(s[2 * j], t.q[d], b, T());
            multiply_add(s[2 * j + 1], t.q[d], b + 2, T());
        }
    }
}

/* The same from codes: a lane has 16 of every 64 of key lane / 4. */
template <typename S> static __device__ __forceinline__ void
scores_fp8(const struct warp_state<S> &t, const char *k,
           float (&s)[KEYS / 8][4])
{
    int  lane = threadIdx.x % WARP;
#pragma unroll
    for (int part = 0; part < S::HD / 64; part++) {
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
            uint4  codes = *reinterpret_cast<const uint4 *>(
                k + chunk_at<S>(j * 8 + lane / 4, part * 4 + lane % 4));
            unsigned int  word[4] = { codes.x, codes.y, codes.z, codes.w };
#pragma unroll
            for (int i = 0; i < 4; i++) {
                unsigned int  b[2];
                e4m3_key_fragment(word[i], b);
                multiply_add(s[j], t.q[part * 4 + i], b, typename S::T());
            }
        }
    }
}

/* Keys outside [begin, end), counted from the tile's first: their scores are
 * -inf and their V zero. */
template <typename S> static __device__ __forceinline__ void
mask_tile(char *v, int begin, int end, float (&s)[KEYS / 8][4])
{
    int  lane = threadIdx.x % WARP;
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++) {
#pragma unroll
        for (int c = 0; c < 4; c++) {
            int  key = j * 8 + lane % 4 * 2 + c % 2;
            if (key < begin || key >= end) {
                s[j][c] = -INFINITY;
            }
        }
    }
    if (lane < begin || lane >= end) {
#pragma unroll
        for (int i = 0; i < S::ROW_BYTES / 16; i++) {
            *reinterpret_cast<uint4 *>(v + (i / 8 * KEYS + lane)
                                           * S::RING_ROW + i % 8 * 16)
                = make_uint4(0, 0, 0, 0);
        }
    }
    async_proxy_fence();        /* TMA writes here next */
    __syncwarp();
}

template <typename S> static __device__ __forceinline__ void
softmax(struct warp_state<S> &t, float (&s)[KEYS / 8][4])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float  high = s[0][2 * half];
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
            high = fmaxf(high, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
        }
        high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
        high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
        float  scale = t.scale[half];
        high = fmaxf(t.m[half], high * scale);
        float  base = high == -INFINITY ? 0.0f : high, sum = 0.0f;
        float  keep = exp2f(t.m[half] - base);
        t.m[half] = high;
        base -= S::FP8 ? P_SHIFT : 0.0f;
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
#pragma unroll
            for (int c = 0; c < 2; c++) {
                float  *x = &s[j][2 * half + c];
                *x = exp2f(fmaf(*x, scale, -base));
                sum += *x;
            }
        }
        t.l[half] = t.l[half] * keep + sum;
        /* also where keep is 1: asking first costs 6 % */
#pragma unroll
        for (int i = 0; i < S::HD / 8; i++) {
            t.o[i][2 * half] *= keep;
            t.o[i][2 * half + 1] *= keep;
        }
    }
}

template <typename S> static __device__ __forceinline__ void
values(struct warp_state<S> &t, const char *v, const float (&s)[KEYS / 8][4])
{
    using T = typename S::T;
    int  lane = threadIdx.x % WARP;
#pragma unroll
    for (int j = 0; j < KEYS / 16; j++) {
        const float  *lo = s[2 * j], *hi = s[2 * j + 1];
        unsigned int  a[4] = { pack<T>(lo[0], lo[1]), pack<T>(lo[2], lo[3]),
                               pack<T>(hi[0], hi[1]), pack<T>(hi[2], hi[3]) };
        int           key = j * 16 + lane % 16;
#pragma unroll
        for (int i = 0; i < S::ROW_BYTES / 32; i++) {
            unsigned int  b[4];
            load_matrix_transposed(b, v + i / 4 * KEYS * S::RING_ROW
                                      + chunk_at<S>(key, i % 4 * 2 + lane / 16));
            if constexpr (S::FP8) {
#pragma unroll
                for (int n = 0; n < 2; n++) {
                    unsigned int  even[2], odd[2];
                    e4m3_value_fragments(b[2 * n], b[2 * n + 1], even, odd);
                    multiply_add(t.o[4 * i + 2 * n], a, even, T());
                    multiply_add(t.o[4 * i + 2 * n + 1], a, odd, T());
                }
            } else {
                multiply_add(t.o[2 * i], a, b, T());
                multiply_add(t.o[2 * i + 1], a, b + 2, T());
            }
        }
    }
}

/* The item's result: to the output, or m, l and o to memory. */
template <typename S> static __device__ __forceinline__ void
leave(const struct attention_params &p, const struct decode_item &item,
      int group, struct warp_state<S> &t)
{
    if constexpr (S::FP8) {
        columns_in_order(t.o);
    }
    int     lane = threadIdx.x % WARP;
    size_t  slot = static_cast<size_t>(item.partial + item.part) * group;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int    row = lane / 4 + 8 * half;
        float  l = t.l[half];
        l += __shfl_xor_sync(0xffffffffu, l, 1);
        l += __shfl_xor_sync(0xffffffffu, l, 2);
        if (row >= group) {
            continue;
        }
        if (item.num_parts == 1) {
            using IO = typename S::IO;
            IO    *out = out_row<IO, S::HD>(p, item, group, row);
            float  scale = p.kv.v_scale;
#pragma unroll
            for (int i = 0; i < S::HD / 8; i++) {
                *reinterpret_cast<unsigned int *>(out + column_of<S::FP8>(i))
                    = pack<IO>(t.o[i][2 * half] / l * scale,
                               t.o[i][2 * half + 1] / l * scale);
            }
            continue;
        }
        float  *o = p.partial_out + (slot + row) * S::HD;
#pragma unroll
        for (int i = 0; i < S::HD / 8; i++) {
            *reinterpret_cast<float2 *>(o + column_of<S::FP8>(i))
                = make_float2(t.o[i][2 * half], t.o[i][2 * half + 1]);
        }
        if (lane % 4 == 0) {
            p.partial_ml[(slot + row) * 2] = t.m[half];
            p.partial_ml[(slot + row) * 2 + 1] = l;
        }
    }
}

template <typename S> static __device__ __forceinline__ void
run_share(const struct attention_params &p, const CUtensorMap *k_map,
          const CUtensorMap *v_map, int first, int end, char *ring,
          uint64_t *full)
{
    int    group = p.num_heads / p.kv.num_kv_heads;
    struct cursor               c = { first - 1, end, 0, 0, 0, 0, 0 };
    struct stage_at<S::STAGES>  in = { 0, 0 }, out = { 0, 0 };
    struct warp_state<S>        t;
    for (int i = 0; i < S::STAGES; i++) {
        bring_next<S>(p, k_map, v_map, c, ring, full, in);
    }
    for (int i = first; i < end; i++) {
        const struct decode_item  item = p.decode_items[i];
        int  begin = item_begin(p, item), key = begin / KEYS * KEYS;
        load_query<S>(p, item, group, t);
        for (; key < item.key_end; key += KEYS) {
            char  *k = ring + out.stage * S::STAGE_BYTES;
            char  *v = k + S::HALF_BYTES;
            float  s[KEYS / 8][4] = { };
            barrier_wait(&full[out.stage], out.parity);
            if constexpr (S::FP8) {
                scores_fp8<S>(t, k, s);
            } else {
                scores<S>(t, k, s);
            }
            if (key < begin || key + KEYS > item.key_end) {
                mask_tile<S>(v, begin - key, item.key_end - key, s);
            }
            softmax<S>(t, s);
            values<S>(t, v, s);
            __syncwarp();
            bring_next<S>(p, k_map, v_map, c, ring, full, in);
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
decode_sm90_kernel(struct attention_params p,
                   const __grid_constant__ CUtensorMap k_map,
                   const __grid_constant__ CUtensorMap v_map)
{
#if SM90_CODE
    extern __shared__ char  smem_bytes[];
    __shared__ uint64_t     full[S::WARPS][S::STAGES];
    int     warp = threadIdx.x / WARP;
    int     share = warp * gridDim.x + blockIdx.x;
    char   *rings = smem_bytes + ((1024 - (smem_u32(smem_bytes) & 1023))
                                  & 1023);
    if (threadIdx.x % WARP == 0) {
        tma_prefetch_map(&k_map);
        tma_prefetch_map(&v_map);
        for (int i = 0; i < S::STAGES; i++) {
            barrier_init(&full[warp][i], 1);
        }
        barrier_init_fence();
    }
    __syncwarp();
    pdl_wait();
    if (share >= p.decode_shares) {
        return;
    }
    run_share<S>(p, &k_map, &v_map, p.decode_first[share],
                 p.decode_first[share + 1], rings + warp * S::RING_BYTES,
                 full[warp]);
#else
    (void) p;
#endif
}

/* ---- host ---- */

template <typename S> static cudaError_t
run(const struct attention_params *p, cudaStream_t stream)
{
    CUtensorMap  k_map, v_map;
    cudaError_t  e = kv_maps_init(&k_map, &v_map, &p->kv, KEYS);
    if (e != cudaSuccess) {
        return e;
    }
    return launch_kernel(decode_sm90_kernel<S>,
                         static_cast<unsigned int>(p->decode_blocks), S::THREADS,
                         S::SMEM_BYTES, stream, p->pdl, *p, k_map, v_map);
}

template <typename T, typename KV> static cudaError_t
run_any(const struct attention_params *p, cudaStream_t stream)
{
    return p->kv.head_dim == 64 ? run<decode_shape<T, KV, 64>>(p, stream)
                                : run<decode_shape<T, KV, 128>>(p, stream);
}

template <typename T, typename KV, int HD> static struct kernel_smem
smem_of(void)
{
    using S = decode_shape<T, KV, HD>;
    return { (const void *) decode_sm90_kernel<S>, S::SMEM_BYTES };
}

#define SMEM_OF(T, KV)  smem_of<T, KV, 64>(), smem_of<T, KV, 128>()

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
