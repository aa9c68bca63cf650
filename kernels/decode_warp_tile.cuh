/* decode_warp_tile.cuh - a warp's work on a tile of keys in
 * attention_decode_sm90.cu: its shapes, the query as left operands, S = Q K^T,
 * masks, the softmax, O = P V. */
#ifndef LLM_KERNELS_DECODE_WARP_TILE_CUH
#define LLM_KERNELS_DECODE_WARP_TILE_CUH

#include "kernels/decode_share.cuh"

#define TWICE_MAX   8      /* query heads that a tile of 16 rows has twice */

/* IO: of qkv and out; T: of the products; HD: head_dim; TWICE: rows 8 to 15 of
 * the left operands are the heads of rows 0 to 7 again, see scores(). */
template <typename IO_, typename KV_, int HD_, bool TWICE_> struct decode_shape {
    using IO = IO_;
    using KV = KV_;
    static constexpr bool FP8 = sizeof(KV) == 1;
    using T = std::conditional_t<FP8, __half, IO_>;
    static constexpr int  HD = HD_;
    static constexpr bool TWICE = TWICE_;
    static constexpr int  HEADS = TWICE ? 1 : 2;    /* of a lane */
    static constexpr int  ROW_BYTES = HD * static_cast<int>(sizeof(KV));
    static constexpr int  SIDE_BYTES = KEYS * ROW_BYTES;     /* K or V */
    static constexpr int  STAGE_BYTES = 2 * SIDE_BYTES;      /* K, then V */
    /* of a block, one block an SM; turning codes into operands takes more */
    static constexpr int  WARPS = FP8 ? ATTENTION_DECODE_WARPS : 4;
    static constexpr int  THREADS = WARPS * WARP;
    static constexpr int  RING_BYTES = (FP8 ? 24 : 32) * 1024;  /* of a warp */
    static constexpr int  SMEM_BYTES = WARPS * RING_BYTES;
    static constexpr int  STAGES = RING_BYTES / STAGE_BYTES;
    /* a lane's part of a row of V: PIECES times so many bytes, columns */
    static constexpr int  PIECE = ROW_BYTES < 128 ? ROW_BYTES / 8 : 16;
    static constexpr int  PIECE_COLS = PIECE / static_cast<int>(sizeof(KV));
    static constexpr int  PIECES = ROW_BYTES / (8 * PIECE);
    /* lanes take turns at the parts of K, the pieces of V */
    static constexpr int  K_TURN = TWICE && ROW_BYTES >= 128;
    static constexpr int  V_TURN = TWICE && PIECES > 1;
};

#if SM90_CODE

template <typename S> struct warp_state {
    float        m[S::HEADS], l[S::HEADS];
    float        o[S::HD / 8][4];
    unsigned int q[S::HD / 16][4];
    float        scale[S::HEADS];     /* of the scores, times log2(e) */
};

/* The query heads as left operands, straight from memory, columns in the order
 * of scores(): a lane's share of a row is 8 neighbours of every 32.  Rows past
 * the group are zeros. */
template <typename S> static __device__ __forceinline__ void
load_query_as_it_is(const typename S::IO *q, int group,
                    struct warp_state<S> &t)
{
    int  lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int  row = lane / 4 + (S::TWICE ? 0 : 8 * half);
        const uint4  *at = reinterpret_cast<const uint4 *>(q + row * S::HD)
                           + lane % 4;
#pragma unroll
        for (int i = 0; i < S::HD / 32; i++) {
            uint4  w = row < group ? at[(i ^ (half & S::K_TURN)) * 4]
                                   : make_uint4(0, 0, 0, 0);
            t.q[2 * i][half] = w.x;
            t.q[2 * i][half + 2] = w.y;
            t.q[2 * i + 1][half] = w.z;
            t.q[2 * i + 1][half + 2] = w.w;
        }
    }
}

/* For fp8: f16, and a lane's share of a row is 16 neighbours of every 64. */
template <typename S> static __device__ __forceinline__ void
load_query_as_f16(const typename S::IO *q, int group, struct warp_state<S> &t)
{
    int  lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int    row = lane / 4 + (S::TWICE ? 0 : 8 * half);
        float  x[S::HD / 4], largest = 0.0f, inverse;
#pragma unroll
        for (int i = 0; i < S::HD / 4; i += 2) {
            typename S::IO  pair[2] = { from_float<typename S::IO>(0.0f),
                                        from_float<typename S::IO>(0.0f) };
            if (row < group) {
                memcpy(pair, __builtin_assume_aligned(
                    q + row * S::HD + (i / 16 ^ (half & S::K_TURN)) * 64
                    + lane % 4 * 16 + i % 16, 4), 4);
            }
            x[i] = to_float(pair[0]);
            x[i + 1] = to_float(pair[1]);
            largest = fmaxf(largest, fmaxf(fabsf(x[i]), fabsf(x[i + 1])));
        }
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
        float  factor = query_factor(largest, &inverse);
        if (half < S::HEADS) {
            t.scale[half] *= inverse;
        }
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
#pragma unroll
    for (int i = 0; i < S::HEADS; i++) {
        t.scale[i] = p.scale * LOG2_E;
        t.m[i] = -INFINITY;
        t.l[i] = 0.0f;
    }
    if constexpr (S::FP8) {
        load_query_as_f16<S>(q, group, t);
    } else {
        load_query_as_it_is<S>(q, group, t);
    }
#pragma unroll
    for (int i = 0; i < S::HD / 8; i++) {
        t.o[i][0] = t.o[i][1] = t.o[i][2] = t.o[i][3] = 0.0f;
    }
}

/* A lane has the same 16 bytes of every 64 of its keys: which elements of
 * head_dim a product calls k is free as long as the query's fragments agree.
 * Rows of 128 bytes and more all begin at the same bank, so of two keys that are
 * read together the odd one's part of 64 bytes is the other one of a pair, and
 * the query's row for odd keys is the one 8 further down, which has its parts in
 * that order: s[j][0] is of key 8 j + 2 (lane % 4), s[j][3] of the next, and
 * s[j][1] becomes the latter. */
template <typename S> static __device__ __forceinline__ void
scores(const struct warp_state<S> &t, const char *k, float (&s)[KEYS / 8][4])
{
    int  lane = threadIdx.x % WARP, turn = lane / 4 & S::K_TURN;
    k += lane / 4 * S::ROW_BYTES + lane % 4 * 16;
#pragma unroll
    for (int part = 0; part < S::ROW_BYTES / 64; part++) {
        const char  *at = k + (part ^ turn) * 64;
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
            uint4  w = *reinterpret_cast<const uint4 *>(
                at + j * 8 * S::ROW_BYTES);
            unsigned int  word[4] = { w.x, w.y, w.z, w.w };
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if constexpr (S::FP8) {
                    unsigned int  b[2];
                    e4m3_key_fragment(word[i], b);
                    multiply_add(s[j], t.q[part * 4 + i], b, typename S::T());
                } else if (i % 2 == 0) {
                    multiply_add(s[j], t.q[part * 2 + i / 2], word + i,
                                 typename S::T());
                }
            }
        }
    }
#pragma unroll
    for (int j = 0; S::TWICE && j < KEYS / 8; j++) {
        s[j][1] = s[j][3];
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
            *reinterpret_cast<uint4 *>(v + lane * S::ROW_BYTES + i * 16)
                = make_uint4(0, 0, 0, 0);
        }
    }
    async_proxy_fence();        /* the next copy writes here */
    __syncwarp();
}

template <typename S> static __device__ __forceinline__ void
softmax(struct warp_state<S> &t, float (&s)[KEYS / 8][4])
{
#pragma unroll
    for (int half = 0; half < S::HEADS; half++) {
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
#pragma unroll
            for (int c = 0; c < 4; c++) {
                if (S::TWICE || c / 2 == half) {
                    t.o[i][c] *= keep;
                }
            }
        }
    }
}

/* 16 neighbouring bits of two keys, the first key's in the low half. */
template <int N> static __device__ __forceinline__ void
pair_keys(const unsigned int (&first)[N], const unsigned int (&second)[N],
          unsigned int (&out)[2 * N])
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        out[2 * i] = __byte_perm(first[i], second[i], 0x5410);
        out[2 * i + 1] = __byte_perm(first[i], second[i], 0x7632);
    }
}

/* Column g of product (n, i) is column i of piece PIECES * g + n of a row, so a
 * lane reads whole pieces.  Where a row has two of each lane, lanes of odd lane %
 * 4 begin with the second, for other banks; what they have goes to rows 8 to 15
 * of the products, so that pieces do not mix, and add_twice() adds it. */
template <typename S> static __device__ __forceinline__ void
values(struct warp_state<S> &t, const char *v, const float (&s)[KEYS / 8][4])
{
    using T = typename S::T;
    constexpr int  words = S::PIECE / 4;
    int            lane = threadIdx.x % WARP, turn = lane & S::V_TURN;
    v += lane % 4 * 2 * S::ROW_BYTES + lane / 4 * (S::PIECES * S::PIECE);
#pragma unroll
    for (int j = 0; j < KEYS / 8; j += 2) {
        unsigned int  a[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float  *x = &s[j + i / 2][S::TWICE ? 0 : i % 2 * 2];
            a[i] = pack<T>(x[0], x[1]);
            if (S::TWICE && (lane ^ i) % 2 != 0) {
                a[i] = 0;
            }
        }
#pragma unroll
        for (int n = 0; n < S::PIECES; n++) {
            const char   *at = v + (n ^ turn) * S::PIECE;
            unsigned int  part[4][words], b[2][2 * words];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                memcpy(part[i], __builtin_assume_aligned(
                    at + ((j + i / 2) * 8 + i % 2) * S::ROW_BYTES, S::PIECE),
                    S::PIECE);
            }
            pair_keys(part[0], part[1], b[0]);
            pair_keys(part[2], part[3], b[1]);
#pragma unroll
            for (int i = 0; i < 2 * words; i++) {
                if constexpr (S::FP8) {
                    unsigned int  even[2], odd[2];
                    float  (*o)[4] = &t.o[n * S::PIECE_COLS + 2 * i];
                    e4m3_value_fragments(b[0][i], b[1][i], even, odd);
                    multiply_add(o[0], a, even, T());
                    multiply_add(o[1], a, odd, T());
                } else {
                    unsigned int  pair[2] = { b[0][i], b[1][i] };
                    multiply_add(t.o[n * S::PIECE_COLS + i], a, pair, T());
                }
            }
        }
    }
}

/* Rows 8 to 15 of values()' sums to rows 0 to 7. */
template <typename S> static __device__ __forceinline__ void
add_twice(struct warp_state<S> &t)
{
#pragma unroll
    for (int i = 0; i < S::HD / 8; i++) {
        int  from = S::V_TURN ? i ^ S::PIECE_COLS : i;
        t.o[i][0] += t.o[from][2];
        t.o[i][1] += t.o[from][3];
    }
}

#endif /* SM90_CODE */

#endif
