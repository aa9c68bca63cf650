/* attention_tile.cuh - the attention of one block of four warps: tensor core
 * tiles (mma.sync m16n8k16) over K and V brought in by cp.async.
 *
 * Shared memory holds Q and two (fp8 decode: three) stages of 64 keys of K and
 * V, rows padded by 16 bytes so that the eight rows of an ldmatrix hit
 * different banks.  A warp owns 16 query rows and either all 64 keys of a tile
 * (prefill: four warps, 64 rows) or 16 of them (decode: four warps, the same 16
 * rows).  Scores live in the accumulator layout, which is also the layout of
 * the left operand, so P never leaves registers.  Scores are kept times
 * log2(e); m is a running maximum per row, l the lane's share of the row's sum.
 *
 * An fp8 cache (KV is __nv_fp8_storage_t) is multiplied in f16, see e4m3.cuh:
 * decode reads the codes as fragments; prefill, whose four warps need the same
 * ones, turns a tile into f16 in shared memory first.
 *
 * NaN: keys no row of the block sees are not read, their K and V are zeros;
 * a masked score is -inf and its p is 0.  A row without any key so far has
 * m == -inf, for which 0 is subtracted instead (-inf - -inf is NaN). */
#ifndef LLM_KERNELS_ATTENTION_TILE_CUH
#define LLM_KERNELS_ATTENTION_TILE_CUH

#include <type_traits>

#include "kernels/e4m3.cuh"
#include "kernels/mma.cuh"

#define TILE_WARPS    4
#define TILE_THREADS  (TILE_WARPS * WARP)
#define TILE_KEYS     64
#define TILE_PAD      8          /* elements: 16 bytes */

/* IO: of qkv and out; T: of the products.  HD: head_dim.  ROW_WARPS 4: prefill,
 * 1: decode. */
template <typename IO_, typename KV_, int HD_, int ROW_WARPS_>
struct tile_shape {
    using IO = IO_;
    using KV = KV_;
    static constexpr bool FP8 = sizeof(KV) == 1;
    using T = std::conditional_t<FP8, __half, IO_>;
    static constexpr int  HD = HD_;
    static constexpr int  ROW_WARPS = ROW_WARPS_;
    static constexpr int  KEY_WARPS = TILE_WARPS / ROW_WARPS;
    static constexpr int  ROWS = 16 * ROW_WARPS;
    static constexpr int  WARP_KEYS = TILE_KEYS / KEY_WARPS;
    static constexpr int  STRIDE = HD + TILE_PAD;
    static constexpr int  KV_WIDE = 16 / static_cast<int>(sizeof(KV));
    static constexpr bool CONVERTS = FP8 && ROW_WARPS == TILE_WARPS;
    static constexpr int  KV_STRIDE = HD + KV_WIDE;
    static constexpr int  STAGE = 2 * TILE_KEYS * KV_STRIDE;   /* K, then V */
    static constexpr int  STAGES = FP8 && !CONVERTS ? 3 : 2;
    static constexpr int  CONVERTED = CONVERTS ? 2 * TILE_KEYS * STRIDE : 0;
    /* codes of a lane's share of one key at once: fp8 decode */
    static constexpr int  CODES = HD % 64 == 0 ? 16 : 8;
    /* keep Q in registers: head_dim 256 needs them for its output */
    static constexpr bool Q_IN_REGISTERS = HD <= 128;
    static constexpr int  Q_FRAGMENTS = Q_IN_REGISTERS ? HD / 16 : 1;
    static constexpr int  SMEM_BYTES
        = static_cast<int>(sizeof(T)) * (ROWS * STRIDE + CONVERTED)
          + static_cast<int>(sizeof(KV)) * STAGES * STAGE;
};

/* One warp's results: rows lane / 4 and lane / 4 + 8, columns of a tile of 8
 * at 2 * (lane % 4). */
template <typename S> struct tile_state {
    float m[2], l[2];
    float o[S::HD / 8][4];
};

/* The block's queries: row r of the tile is at position pos0 + r * pos_step.
 * Only keys [begin, end) are read. */
struct tile_span {
    int pos0, pos_step, window, begin, end;
};

/* Starts the copy of keys [tile, tile + 64) of one kv head into a stage. */
template <typename S> static __device__ __forceinline__ void
tile_load(const struct attention_params &p, const int32_t *table, int kv_head,
          const struct tile_span &span, int tile, typename S::KV *stage)
{
    using KV = typename S::KV;
    constexpr int  chunks = S::HD / S::KV_WIDE;
    constexpr int  copies = TILE_KEYS * chunks / TILE_THREADS;
    const KV      *k = static_cast<const KV *>(p.kv.k);
    const KV      *v = static_cast<const KV *>(p.kv.v);
    int64_t        at[copies];      /* -1: not read */
    /* all table entries first, so that their latencies overlap */
#pragma unroll
    for (int n = 0; n < copies; n++) {
        int  i = threadIdx.x + n * TILE_THREADS;
        int  col = i % chunks * S::KV_WIDE, key = tile + i / chunks;
        at[n] = -1;
        if (key >= span.begin && key < span.end) {
            int64_t  block = table[key >> p.kv.block_shift];
            int64_t  token = key & ((1 << p.kv.block_shift) - 1);
            at[n] = (((block * p.kv.num_kv_heads + kv_head)
                      << p.kv.block_shift) + token) * S::HD + col;
        }
    }
#pragma unroll
    for (int n = 0; n < copies; n++) {
        int   i = threadIdx.x + n * TILE_THREADS;
        bool  valid = at[n] >= 0;
        KV   *dst = stage + i / chunks * S::KV_STRIDE
                    + i % chunks * S::KV_WIDE;
        copy_async(dst, k + (valid ? at[n] : 0), valid);
        copy_async(dst + TILE_KEYS * S::KV_STRIDE, v + (valid ? at[n] : 0),
                   valid);
    }
}

/* A row of Q to f16, and the factor that its scores need; a warp. */
template <typename S> static __device__ __forceinline__ void
query_row_to_f16(const typename S::IO *q, bool valid, float scale,
                 typename S::T *row, float *row_scale)
{
    int    lane = threadIdx.x % WARP;
    float  x[S::HD / WARP], largest = 0.0f, inverse;
#pragma unroll
    for (int i = 0; i < S::HD / WARP; i++) {
        x[i] = valid ? to_float(q[lane + i * WARP]) : 0.0f;
        largest = fmaxf(largest, fabsf(x[i]));
    }
    for (int step = WARP / 2; step > 0; step /= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
    }
    float  factor = query_factor(largest, &inverse);
#pragma unroll
    for (int i = 0; i < S::HD / WARP; i++) {
        row[lane + i * WARP] = from_float<typename S::T>(x[i] * factor);
    }
    if (lane == 0) {
        *row_scale = scale * inverse;
    }
}

/* Starts bringing num_rows rows of Q, row_stride elements apart; the others are
 * zeros.  row_scale [S::ROWS] is written for fp8 only. */
template <typename S> static __device__ __forceinline__ void
tile_bring_query(const typename S::IO *q, int64_t row_stride, int num_rows,
                 float scale, typename S::T *smem, float *row_scale)
{
    if constexpr (S::FP8) {
        for (int row = threadIdx.x / WARP; row < S::ROWS; row += TILE_WARPS) {
            bool  valid = row < num_rows;
            query_row_to_f16<S>(q + (valid ? row : 0) * row_stride, valid,
                                scale, smem + row * S::STRIDE,
                                row_scale + row);
        }
    } else {
        for (int i = threadIdx.x; i < S::ROWS * (S::HD / 8);
             i += TILE_THREADS)
        {
            int   row = i / (S::HD / 8), col = i % (S::HD / 8) * 8;
            bool  valid = row < num_rows;
            copy_async(smem + row * S::STRIDE + col,
                       q + (valid ? row : 0) * row_stride + col, valid);
        }
    }
}

/* The whole stage as T, for CONVERTS. */
template <typename S> static __device__ __forceinline__ void
tile_convert(const typename S::KV *stage, typename S::T *tile)
{
    constexpr int  chunks = S::HD / 16;
    for (int i = threadIdx.x; i < 2 * TILE_KEYS * chunks; i += TILE_THREADS) {
        int    row = i / chunks, col = i % chunks * 16;
        uint4  codes = *reinterpret_cast<const uint4 *>(
            stage + row * S::KV_STRIDE + col);
        uint4 *to = reinterpret_cast<uint4 *>(tile + row * S::STRIDE + col);
        to[0] = make_uint4(e4m3_low(codes.x), e4m3_high(codes.x),
                           e4m3_low(codes.y), e4m3_high(codes.y));
        to[1] = make_uint4(e4m3_low(codes.z), e4m3_high(codes.z),
                           e4m3_low(codes.w), e4m3_high(codes.w));
    }
}

/* 16 rows and columns of Q as a left operand. */
template <typename S> static __device__ __forceinline__ void
tile_query(const typename S::T *q, int d, unsigned int a[4])
{
    int  lane = threadIdx.x % WARP;
    if constexpr (S::FP8 && !S::CONVERTS) {
        /* the columns whose codes the lane has, see e4m3.cuh */
        constexpr int  steps = S::CODES / 4;
        int  at = d / 16 / steps * (4 * S::CODES) + lane % 4 * S::CODES
                  + d / 16 % steps * 4;
        uint2  low = *reinterpret_cast<const uint2 *>(
            q + lane / 4 * S::STRIDE + at);
        uint2  high = *reinterpret_cast<const uint2 *>(
            q + (lane / 4 + 8) * S::STRIDE + at);
        a[0] = low.x;
        a[1] = high.x;
        a[2] = low.y;
        a[3] = high.y;
    } else {
        load_matrix(a, q + (lane % 16) * S::STRIDE + lane / 16 * 8 + d);
    }
}

/* s = the warp's 16 rows of Q times its keys of K, unscaled. */
template <typename S> static __device__ __forceinline__ void
tile_scores(const typename S::T *q, unsigned int q_kept[S::Q_FRAGMENTS][4],
            const typename S::T *k, float s[S::WARP_KEYS / 8][4])
{
    int  lane = threadIdx.x % WARP;
    const typename S::T  *k_at = k + (lane / 16 * 8 + lane % 8) * S::STRIDE
                                 + lane / 8 % 2 * 8;
#pragma unroll
    for (int j = 0; j < S::WARP_KEYS / 8; j++) {
        s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0f;
    }
#pragma unroll
    for (int d = 0; d < S::HD; d += 16) {
        unsigned int  *a = q_kept[S::Q_IN_REGISTERS ? d / 16 : 0];
        if (!S::Q_IN_REGISTERS) {
            tile_query<S>(q, d, a);
        }
#pragma unroll
        for (int j = 0; j < S::WARP_KEYS / 16; j++) {
            unsigned int  b[4];
            load_matrix(b, k_at + j * 16 * S::STRIDE + d);
            multiply_add(s[2 * j], a, b, typename S::T());
            multiply_add(s[2 * j + 1], a, b + 2, typename S::T());
        }
    }
}

/* The same from fp8 keys. */
template <typename S> static __device__ __forceinline__ void
tile_scores_fp8(const typename S::T *q,
                unsigned int q_kept[S::Q_FRAGMENTS][4],
                const typename S::KV *k, float s[S::WARP_KEYS / 8][4])
{
    constexpr int             steps = S::CODES / 4;
    int                       lane = threadIdx.x % WARP;
    const typename S::KV     *k_at = k + lane / 4 * S::KV_STRIDE
                                     + lane % 4 * S::CODES;
#pragma unroll
    for (int j = 0; j < S::WARP_KEYS / 8; j++) {
        s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0f;
    }
#pragma unroll
    for (int part = 0; part < S::HD / (4 * S::CODES); part++) {
        unsigned int  codes[S::WARP_KEYS / 8][steps];
#pragma unroll
        for (int j = 0; j < S::WARP_KEYS / 8; j++) {
            memcpy(codes[j], __builtin_assume_aligned(
                k_at + j * 8 * S::KV_STRIDE + part * 4 * S::CODES, S::CODES),
                S::CODES);
        }
#pragma unroll
        for (int i = 0; i < steps; i++) {
            int            d = part * steps + i;
            unsigned int  *a = q_kept[S::Q_IN_REGISTERS ? d : 0];
            if (!S::Q_IN_REGISTERS) {
                tile_query<S>(q, d * 16, a);
            }
#pragma unroll
            for (int j = 0; j < S::WARP_KEYS / 8; j++) {
                unsigned int  b[2];
                e4m3_key_fragment(codes[j][i], b);
                multiply_add(s[j], a, b, typename S::T());
            }
        }
    }
}

/* Scales the scores and sets those outside each row's keys to -inf; most
 * tiles have none. */
template <typename S> static __device__ __forceinline__ void
tile_mask(const struct tile_span &span, const float scale[2], int first_key,
          int first_row, float s[S::WARP_KEYS / 8][4])
{
    int  lane = threadIdx.x % WARP;
    int  first_pos = span.pos0 + first_row * span.pos_step;
    int  last_pos = first_pos + 15 * span.pos_step;
    int  last_key = first_key + S::WARP_KEYS - 1;
    if (first_key >= span.begin && last_key < span.end
        && last_key <= first_pos
        && (span.window == 0 || first_key > last_pos - span.window))
    {
#pragma unroll
        for (int j = 0; j < S::WARP_KEYS / 8; j++) {
#pragma unroll
            for (int c = 0; c < 4; c++) {
                s[j][c] *= scale[c / 2];
            }
        }
        return;
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int  row = first_row + lane / 4 + 8 * half;
        int  end = min(span.pos0 + row * span.pos_step + 1, span.end);
        int  begin = span.begin;
        if (span.window > 0) {
            begin = max(begin, span.pos0 + row * span.pos_step + 1
                               - span.window);
        }
#pragma unroll
        for (int j = 0; j < S::WARP_KEYS / 8; j++) {
#pragma unroll
            for (int c = 0; c < 2; c++) {
                int     key = first_key + j * 8 + lane % 4 * 2 + c;
                float  *x = &s[j][2 * half + c];
                *x = key >= begin && key < end ? *x * scale[half]
                                                   : -INFINITY;
            }
        }
    }
}

/* s -> p = exp2(s - m) in place, with m, l and o brought up to date. */
template <typename S> static __device__ __forceinline__ void
tile_softmax(struct tile_state<S> &t, float s[S::WARP_KEYS / 8][4])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float  m = t.m[half];
#pragma unroll
        for (int j = 0; j < S::WARP_KEYS / 8; j++) {
            m = fmaxf(m, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
        }
        m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1));
        m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 2));
        float  base = m == -INFINITY ? 0.0f : m;
        float  keep = exp2f(t.m[half] - base), sum = 0.0f;
        t.m[half] = m;
        base -= S::FP8 ? P_SHIFT : 0.0f;
#pragma unroll
        for (int j = 0; j < S::WARP_KEYS / 8; j++) {
#pragma unroll
            for (int c = 0; c < 2; c++) {
                float  *x = &s[j][2 * half + c];
                *x = exp2f(*x - base);
                sum += *x;
            }
        }
        t.l[half] = t.l[half] * keep + sum;
#pragma unroll
        for (int i = 0; i < S::HD / 8; i++) {
            t.o[i][2 * half] *= keep;
            t.o[i][2 * half + 1] *= keep;
        }
    }
}

/* o += round(p) V for the warp's keys. */
template <typename S> static __device__ __forceinline__ void
tile_values(struct tile_state<S> &t, const typename S::T *v,
            const float p[S::WARP_KEYS / 8][4])
{
    using T = typename S::T;
    int       lane = threadIdx.x % WARP;
    const T  *v_at = v + (lane % 16) * S::STRIDE + lane / 16 * 8;
#pragma unroll
    for (int j = 0; j < S::WARP_KEYS / 16; j++) {
        const float   *lo = p[2 * j], *hi = p[2 * j + 1];
        unsigned int   a[4] = { pack<T>(lo[0], lo[1]), pack<T>(lo[2], lo[3]),
                                pack<T>(hi[0], hi[1]), pack<T>(hi[2], hi[3]) };
#pragma unroll
        for (int i = 0; i < S::HD / 16; i++) {
            unsigned int  b[4];
            load_matrix_transposed(b, v_at + j * 16 * S::STRIDE + i * 16);
            multiply_add(t.o[2 * i], a, b, T());
            multiply_add(t.o[2 * i + 1], a, b + 2, T());
        }
    }
}

/* The same from fp8 values; columns in e4m3.cuh's order. */
template <typename S> static __device__ __forceinline__ void
tile_values_fp8(struct tile_state<S> &t, const typename S::KV *v,
                const float p[S::WARP_KEYS / 8][4])
{
    using T = typename S::T;
    int                    lane = threadIdx.x % WARP;
    const typename S::KV  *v_at = v + (lane % 16) * S::KV_STRIDE
                                  + lane / 16 * 16;
#pragma unroll
    for (int j = 0; j < S::WARP_KEYS / 16; j++) {
        const float   *lo = p[2 * j], *hi = p[2 * j + 1];
        unsigned int   a[4] = { pack<T>(lo[0], lo[1]), pack<T>(lo[2], lo[3]),
                                pack<T>(hi[0], hi[1]), pack<T>(hi[2], hi[3]) };
#pragma unroll
        for (int i = 0; i < S::HD / 32; i++) {
            unsigned int  r[4], even[2], odd[2];
            load_matrix_transposed(r, v_at + j * 16 * S::KV_STRIDE + i * 32);
#pragma unroll
            for (int n = 0; n < 2; n++) {
                e4m3_value_fragments(r[2 * n], r[2 * n + 1], even, odd);
                multiply_add(t.o[4 * i + 2 * n], a, even, T());
                multiply_add(t.o[4 * i + 2 * n + 1], a, odd, T());
            }
        }
    }
}

template <typename S> static __device__ __forceinline__ typename S::KV *
tile_stages(typename S::T *smem)
{
    return reinterpret_cast<typename S::KV *>(smem + S::ROWS * S::STRIDE
                                              + S::CONVERTED);
}

/* Starts the copy of the first tile: then tile_run() with `begun`, and what is
 * brought of Q in a group of its own. */
template <typename S> static __device__ __forceinline__ void
tile_begin(const struct attention_params &p, const int32_t *table, int kv_head,
           const struct tile_span &span, typename S::T *smem)
{
    int  first = span.begin / TILE_KEYS * TILE_KEYS;
    if (first < span.end) {
        tile_load<S>(p, table, kv_head, span, first, tile_stages<S>(smem));
    }
    copy_commit();
}

/* One tile in `stage`, of which the warp takes keys from key_offset on. */
template <typename S> static __device__ __forceinline__ void
tile_step(const struct tile_span &span, const float scale[2], int tile,
          const typename S::T *q, unsigned int q_kept[S::Q_FRAGMENTS][4],
          const typename S::KV *stage, typename S::T *converted,
          struct tile_state<S> &t)
{
    int    warp = threadIdx.x / WARP;
    int    first_row = warp / S::KEY_WARPS * 16;
    int    key = warp % S::KEY_WARPS * S::WARP_KEYS;
    float  s[S::WARP_KEYS / 8][4];
    if constexpr (S::CONVERTS) {
        tile_convert<S>(stage, converted);
        __syncthreads();
        tile_scores<S>(q, q_kept, converted + key * S::STRIDE, s);
    } else if constexpr (S::FP8) {
        tile_scores_fp8<S>(q, q_kept, stage + key * S::KV_STRIDE, s);
    } else {
        tile_scores<S>(q, q_kept, stage + key * S::STRIDE, s);
    }
    tile_mask<S>(span, scale, tile + key, first_row, s);
    tile_softmax<S>(t, s);
    if constexpr (S::CONVERTS) {
        tile_values<S>(t, converted + (TILE_KEYS + key) * S::STRIDE, s);
    } else if constexpr (S::FP8) {
        tile_values_fp8<S>(t, stage + (TILE_KEYS + key) * S::KV_STRIDE, s);
    } else {
        tile_values<S>(t, stage + (TILE_KEYS + key) * S::STRIDE, s);
    }
}

/* Attention of the rows that tile_bring_query() brings over the keys of span. */
template <typename S> static __device__ __forceinline__ void
tile_run(const struct attention_params &p, const int32_t *table, int kv_head,
         const struct tile_span &span, typename S::T *smem,
         const float *row_scale, struct tile_state<S> &t, bool begun = false)
{
    using T = typename S::T;
    using KV = typename S::KV;
    int    lane = threadIdx.x % WARP;
    int    first_row = static_cast<int>(threadIdx.x) / WARP / S::KEY_WARPS * 16;
    int    first = span.begin / TILE_KEYS * TILE_KEYS, i = 0;
    T     *q = smem + first_row * S::STRIDE;
    T     *converted = smem + S::ROWS * S::STRIDE;
    KV    *stages = tile_stages<S>(smem);
    float  scale[2] = { p.scale * LOG2_E, p.scale * LOG2_E };
    unsigned int  q_kept[S::Q_FRAGMENTS][4];

    t.m[0] = t.m[1] = -INFINITY;
    t.l[0] = t.l[1] = 0.0f;
#pragma unroll
    for (int d = 0; d < S::HD / 8; d++) {
        t.o[d][0] = t.o[d][1] = t.o[d][2] = t.o[d][3] = 0.0f;
    }
    if (!begun) {
        tile_begin<S>(p, table, kv_head, span, smem);
    }
#pragma unroll
    for (int n = 1; n < S::STAGES - 1; n++) {
        if (first + n * TILE_KEYS < span.end) {
            tile_load<S>(p, table, kv_head, span, first + n * TILE_KEYS,
                         stages + n * S::STAGE);
        }
        copy_commit();
    }
    for (int tile = first; tile < span.end; tile += TILE_KEYS) {
        int  ahead = tile + (S::STAGES - 1) * TILE_KEYS;
        int  free = i == 0 ? S::STAGES - 1 : i - 1;
        if (ahead < span.end) {
            tile_load<S>(p, table, kv_head, span, ahead,
                         stages + free * S::STAGE);
        }
        copy_commit();
        copy_wait<S::STAGES - 1>();
        __syncthreads();
        if (tile == first) {
#pragma unroll
            for (int d = 0; S::Q_IN_REGISTERS && d < S::Q_FRAGMENTS; d++) {
                tile_query<S>(q, d * 16, q_kept[d]);
            }
            for (int half = 0; S::FP8 && half < 2; half++) {
                scale[half] = row_scale[first_row + lane / 4 + 8 * half];
            }
        }
        tile_step<S>(span, scale, tile, q, q_kept, stages + i * S::STAGE,
                     converted, t);
        __syncthreads();
        i = i == S::STAGES - 1 ? 0 : i + 1;
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        t.l[half] += __shfl_xor_sync(0xffffffffu, t.l[half], 1);
        t.l[half] += __shfl_xor_sync(0xffffffffu, t.l[half], 2);
    }
    if constexpr (S::FP8 && !S::CONVERTS) {
        columns_in_order(t.o);
    }
}

/* ---- host ---- */

template <typename IO, typename KV, int ROW_WARPS, typename F>
static cudaError_t
tile_of_head_dim(int head_dim, F f)
{
    switch (head_dim) {
    case 64:
        return f(tile_shape<IO, KV, 64, ROW_WARPS>());
    case 96:
        return f(tile_shape<IO, KV, 96, ROW_WARPS>());
    case 128:
        return f(tile_shape<IO, KV, 128, ROW_WARPS>());
    case 256:
        return f(tile_shape<IO, KV, 256, ROW_WARPS>());
    default:
        return cudaErrorInvalidValue;
    }
}

/* f(shape) of these dtypes and head_dim. */
template <int ROW_WARPS, typename F> static cudaError_t
tile_of(enum kernel_dtype dtype, enum kernel_dtype kv_dtype, int head_dim, F f)
{
    using bf16 = __nv_bfloat16;
    using fp8 = __nv_fp8_storage_t;
    bool  codes = kv_dtype == KERNEL_F8_E4M3;
    if (dtype == KERNEL_BF16) {
        return codes ? tile_of_head_dim<bf16, fp8, ROW_WARPS>(head_dim, f)
                     : tile_of_head_dim<bf16, bf16, ROW_WARPS>(head_dim, f);
    }
    return codes ? tile_of_head_dim<__half, fp8, ROW_WARPS>(head_dim, f)
                 : tile_of_head_dim<__half, __half, ROW_WARPS>(head_dim, f);
}

/* f(shape) of every shape, until one fails. */
template <int ROW_WARPS, typename F> static cudaError_t
tile_each(F f)
{
    cudaError_t  e = cudaSuccess;
    for (enum kernel_dtype dtype : { KERNEL_BF16, KERNEL_F16 }) {
        for (enum kernel_dtype kv : { dtype, KERNEL_F8_E4M3 }) {
            for (int head_dim : { 64, 96, 128, 256 }) {
                e = e == cudaSuccess ? tile_of<ROW_WARPS>(dtype, kv, head_dim,
                                                          f) : e;
            }
        }
    }
    return e;
}

#endif
