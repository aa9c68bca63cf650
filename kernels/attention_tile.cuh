/* attention_tile.cuh - the attention of one block of four warps: tensor core
 * tiles (mma.sync m16n8k16) over K and V brought in by cp.async.
 *
 * Shared memory holds Q and two stages of 64 keys of K and V, rows padded by
 * 16 bytes so that the eight rows of an ldmatrix hit different banks.  A warp
 * owns 16 query rows and either all 64 keys of a tile (prefill: four warps,
 * 64 rows) or 16 of them (decode: four warps, the same 16 rows).  Scores live
 * in the accumulator layout, which is also the layout of the left operand, so
 * P never leaves registers.  Scores are kept times log2(e); m is a running
 * maximum per row, l the lane's share of the row's sum.
 *
 * NaN: keys no row of the block sees are not read, their K and V are zeros;
 * a masked score is -inf and its p is 0.  A row without any key so far has
 * m == -inf, for which 0 is subtracted instead (-inf - -inf is NaN). */
#ifndef LLM_KERNELS_ATTENTION_TILE_CUH
#define LLM_KERNELS_ATTENTION_TILE_CUH

#include "kernels/common.cuh"

#define TILE_WARPS    4
#define TILE_THREADS  (TILE_WARPS * WARP)
#define TILE_KEYS     64
#define TILE_PAD      8          /* elements: 16 bytes */
#define LOG2_E        1.4426950408889634f

/* HD: head_dim.  ROW_WARPS 4: prefill, 1: decode. */
template <typename T_, int HD_, int ROW_WARPS_> struct tile_shape {
    using T = T_;
    static constexpr int  HD = HD_;
    static constexpr int  ROW_WARPS = ROW_WARPS_;
    static constexpr int  KEY_WARPS = TILE_WARPS / ROW_WARPS;
    static constexpr int  ROWS = 16 * ROW_WARPS;
    static constexpr int  WARP_KEYS = TILE_KEYS / KEY_WARPS;
    static constexpr int  STRIDE = HD + TILE_PAD;
    static constexpr int  STAGE = 2 * TILE_KEYS * STRIDE;   /* K, then V */
    /* keep Q in registers: head_dim 256 needs them for its output */
    static constexpr bool Q_IN_REGISTERS = HD <= 128;
    static constexpr int  Q_FRAGMENTS = Q_IN_REGISTERS ? HD / 16 : 1;
    static constexpr int  SMEM_BYTES
        = static_cast<int>(sizeof(T)) * (ROWS * STRIDE + 2 * STAGE);
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

static __device__ __forceinline__ unsigned int
shared_address(const void *p)
{
    return static_cast<unsigned int>(__cvta_generic_to_shared(p));
}

/* 16 bytes to shared memory; zeros, and no read, when !valid. */
static __device__ __forceinline__ void
copy_async(void *dst, const void *src, bool valid)
{
    int  bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n"
                 :: "r"(shared_address(dst)), "l"(src), "r"(bytes) : "memory");
}

static __device__ __forceinline__ void
copy_commit(void)
{
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

/* Waits until at most `PENDING` of this thread's latest groups are under way. */
template <int PENDING> static __device__ __forceinline__ void
copy_wait(void)
{
    asm volatile("cp.async.wait_group %0;\n" :: "n"(PENDING) : "memory");
}

static __device__ __forceinline__ void
load_matrix(unsigned int r[4], const void *p)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 "
                 "{%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(p)) : "memory");
}

static __device__ __forceinline__ void
load_matrix_transposed(unsigned int r[4], const void *p)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 "
                 "{%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(p)) : "memory");
}

static __device__ __forceinline__ void
multiply_add(float c[4], const unsigned int a[4], const unsigned int *b,
             __nv_bfloat16)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]),
                   "r"(b[1]));
}

static __device__ __forceinline__ void
multiply_add(float c[4], const unsigned int a[4], const unsigned int *b,
             __half)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]),
                   "r"(b[1]));
}

/* Two values rounded to T in one register, the first in the low half. */
template <typename T> static __device__ __forceinline__ unsigned int
pack(float low, float high)
{
    T               pair[2] = { from_float<T>(low), from_float<T>(high) };
    unsigned short  bits[2];
    memcpy(bits, pair, sizeof bits);
    return bits[0] | static_cast<unsigned int>(bits[1]) << 16;
}

/* Starts the copy of keys [tile, tile + 64) of one kv head into a stage. */
template <typename S> static __device__ __forceinline__ void
tile_load(const struct attention_params &p, const int32_t *table, int kv_head,
          const struct tile_span &span, int tile, typename S::T *stage)
{
    using T = typename S::T;
    constexpr int  chunks = S::HD / 8;
    constexpr int  copies = TILE_KEYS * chunks / TILE_THREADS;
    const T       *k = static_cast<const T *>(p.kv.k);
    const T       *v = static_cast<const T *>(p.kv.v);
    int64_t        at[copies];      /* -1: not read */
    /* all table entries first, so that their latencies overlap */
#pragma unroll
    for (int n = 0; n < copies; n++) {
        int  i = threadIdx.x + n * TILE_THREADS;
        int  col = i % chunks * 8, key = tile + i / chunks;
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
        T    *dst = stage + i / chunks * S::STRIDE + i % chunks * 8;
        copy_async(dst, k + (valid ? at[n] : 0), valid);
        copy_async(dst + TILE_KEYS * S::STRIDE, v + (valid ? at[n] : 0),
                   valid);
    }
}

/* 16 rows and columns of Q as a left operand. */
template <typename S> static __device__ __forceinline__ void
tile_query(const typename S::T *q, int d, unsigned int a[4])
{
    int  lane = threadIdx.x % WARP;
    load_matrix(a, q + (lane % 16) * S::STRIDE + lane / 16 * 8 + d);
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

/* Scales the scores and sets those outside each row's keys to -inf; most
 * tiles have none. */
template <typename S> static __device__ __forceinline__ void
tile_mask(const struct tile_span &span, float scale, int first_key,
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
                s[j][c] *= scale;
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
                *x = key >= begin && key < end ? *x * scale : -INFINITY;
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

/* Starts the copy of the first tile: then tile_run() with `begun`, and the
 * copies of Q in a group of their own. */
template <typename S> static __device__ __forceinline__ void
tile_begin(const struct attention_params &p, const int32_t *table, int kv_head,
           const struct tile_span &span, typename S::T *smem)
{
    int  first = span.begin / TILE_KEYS * TILE_KEYS;
    if (first < span.end) {
        tile_load<S>(p, table, kv_head, span, first,
                     smem + S::ROWS * S::STRIDE);
    }
    copy_commit();
}

/* Attention of the rows whose Q is in shared memory over the keys of span. */
template <typename S> static __device__ __forceinline__ void
tile_run(const struct attention_params &p, const int32_t *table, int kv_head,
         const struct tile_span &span, typename S::T *smem,
         struct tile_state<S> &t, bool begun = false)
{
    using T = typename S::T;
    int    warp = threadIdx.x / WARP;
    int    first_row = warp / S::KEY_WARPS * 16;
    int    key_offset = warp % S::KEY_WARPS * S::WARP_KEYS;
    int    first = span.begin / TILE_KEYS * TILE_KEYS;
    T     *q = smem + first_row * S::STRIDE;
    T     *stages = smem + S::ROWS * S::STRIDE;
    float  scale = p.scale * LOG2_E;
    unsigned int  q_kept[S::Q_FRAGMENTS][4];

    t.m[0] = t.m[1] = -INFINITY;
    t.l[0] = t.l[1] = 0.0f;
#pragma unroll
    for (int i = 0; i < S::HD / 8; i++) {
        t.o[i][0] = t.o[i][1] = t.o[i][2] = t.o[i][3] = 0.0f;
    }
    if (!begun) {
        tile_begin<S>(p, table, kv_head, span, smem);
    }
    for (int tile = first, i = 0; tile < span.end; tile += TILE_KEYS, i ^= 1) {
        T      *k = stages + i * S::STAGE;
        float   s[S::WARP_KEYS / 8][4];
        if (tile + TILE_KEYS < span.end) {
            tile_load<S>(p, table, kv_head, span, tile + TILE_KEYS,
                         stages + (i ^ 1) * S::STAGE);
        }
        copy_commit();
        copy_wait<1>();
        __syncthreads();
        if (S::Q_IN_REGISTERS && tile == first) {
#pragma unroll
            for (int d = 0; d < S::Q_FRAGMENTS; d++) {
                tile_query<S>(q, d * 16, q_kept[d]);
            }
        }
        tile_scores<S>(q, q_kept, k + key_offset * S::STRIDE, s);
        tile_mask<S>(span, scale, tile + key_offset, first_row, s);
        tile_softmax<S>(t, s);
        tile_values<S>(t, k + (TILE_KEYS + key_offset) * S::STRIDE, s);
        __syncthreads();
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        t.l[half] += __shfl_xor_sync(0xffffffffu, t.l[half], 1);
        t.l[half] += __shfl_xor_sync(0xffffffffu, t.l[half], 2);
    }
}

#endif
