/* attention_decode_block.cu - attention of one new token a sequence on Hopper,
 * with rope and append in it, for steps of some ten to thirty rows: every
 * multiprocessor reads an equal share of all keys.
 *
 * Block b, one a multiprocessor, runs the items decode_first[b] ..
 * decode_first[b + 1] - 1, each one (sequence, kv head, range of keys).  Two
 * producer warps bring their tiles of 32 keys of K and of V through one ring for
 * the block, without a pause between items; consumer warp w takes every WARPS-th
 * tile of the block, from the w-th on.  No warp waits for another at
 * an item's end: each leaves what it has of the item in shared memory, the one
 * that counts itself last merges, and the rest are in the next item by then.
 * An item that holds not all keys of its sequence leaves a partial result in
 * memory, merged likewise.  So results depend on the plan, never on timing.
 *
 * Products are turned round: keys are the 16 rows of mma.sync m16n8k16, and the
 * query heads of the kv head its 8 columns, S^T = K Q^T and O^T = V^T P^T.  Of
 * a group of 8 heads nothing is wasted, and P^T goes from the accumulators'
 * layout to a right operand's by movmatrix.  The maximum that p is relative to
 * may lag by SLACK: then neither the output nor the sum needs rescaling, and
 * lanes need not agree.
 *
 * With rope.cos_sin the query is normed and rotated as it is loaded, and the
 * step's own key and value go to the cache and into the tile that a warp has of
 * them; no other block needs them.  All other keys, the work list and the
 * tables are older than the step, so the ring is filled before the wait for the
 * kernel that makes q, k and v.
 *
 * NaN: rows of a block outside the item's keys are what the cache holds: their
 * scores are masked by index and their V overwritten with zeros.
 *
 * Larger steps and an fp8 cache are attention_decode_sm90.cu's: at 32 rows of
 * 1,024 keys both take the same time, at 256 this one 3 % more. */
#include "kernels/decode_share.cuh"
#include "kernels/rope.cuh"

#define SLACK       8.0f     /* p is at most 2^SLACK: log2 */
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

/* ---- the step's own row ---- */

/* Two pairs of elements of the new key and value: 2 lane, 2 lane + 1 and the
 * two HD / 2 further on, in lanes below PAIR_LANES. */
struct new_row {
    unsigned int k[2], v[2];
    bool         there;
};

template <typename T> static __device__ __forceinline__ float2
unpack(unsigned int bits)
{
    T  pair[2];
    memcpy(pair, &bits, sizeof pair);
    return make_float2(to_float(pair[0]), to_float(pair[1]));
}

static __device__ __forceinline__ unsigned int
load_word(const void *p)
{
    return *static_cast<const unsigned int *>(p);
}

/* Norms (where there is a weight) and rotates two pairs; inverse: of the root of
 * the mean square. */
template <typename T> static __device__ __forceinline__ void
norm_and_rotate(float2 &low, float2 &high, const float *norm, float inverse,
                const float *cos_sin, int half, int j)
{
    if (norm != NULL) {
        float2  a = *reinterpret_cast<const float2 *>(norm + j);
        float2  b = *reinterpret_cast<const float2 *>(norm + half + j);
        low.x = round_to<T>(low.x * inverse * a.x);
        low.y = round_to<T>(low.y * inverse * a.y);
        high.x = round_to<T>(high.x * inverse * b.x);
        high.y = round_to<T>(high.y * inverse * b.y);
    }
    float2  c = *reinterpret_cast<const float2 *>(cos_sin + j);
    float2  s = *reinterpret_cast<const float2 *>(cos_sin + half + j);
    rotate_pair(low.x, high.x, c.x, s.x);
    rotate_pair(low.y, high.y, c.y, s.y);
}

/* The item's new key and value: to the cache, and to registers. */
template <typename S> static __device__ __forceinline__ void
load_new_row(const struct attention_params &p, const struct decode_item &item,
             const float *cos_sin, struct new_row &n)
{
    using T = typename S::T;
    int   lane = threadIdx.x % WARP, j = lane % S::PAIR_LANES * 2;
    int   slot = p.rope.slots[item.row];
    n.there = slot >= 0;
    if (!n.there) {
        return;
    }
    const T  *k = static_cast<const T *>(p.qkv)
                  + static_cast<size_t>(item.row) * p.qkv_stride
                  + static_cast<size_t>(p.num_heads + item.kv_head) * S::HD
                  + j;
    const T  *v = k + static_cast<size_t>(p.kv.num_kv_heads) * S::HD;
    float2    low = unpack<T>(load_word(k));
    float2    high = unpack<T>(load_word(k + S::HD / 2));
    float     inverse = 0.0f;
    n.v[0] = load_word(v);
    n.v[1] = load_word(v + S::HD / 2);
    if (p.rope.k_norm != NULL) {
        float  sum = low.x * low.x + low.y * low.y + high.x * high.x
                     + high.y * high.y;
        sum = warp_sum(lane < S::PAIR_LANES ? sum : 0.0f);
        inverse = __frsqrt_rn(sum / S::HD + p.rope.k_eps);
    }
    norm_and_rotate<T>(low, high, p.rope.k_norm, inverse, cos_sin, S::HD / 2,
                       j);
    n.k[0] = pack<T>(low.x, low.y);
    n.k[1] = pack<T>(high.x, high.y);
    if (lane < S::PAIR_LANES) {
        int     block = slot >> p.kv.block_shift;
        size_t  token = static_cast<size_t>(slot
                                            & ((1 << p.kv.block_shift) - 1));
        size_t  at = (((static_cast<size_t>(block) * p.kv.num_kv_heads
                        + item.kv_head) << p.kv.block_shift) + token) * S::HD
                     + j;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            size_t  to = at + i * (S::HD / 2);
            *reinterpret_cast<unsigned int *>(static_cast<T *>(p.kv.k) + to)
                = n.k[i];
            *reinterpret_cast<unsigned int *>(static_cast<T *>(p.kv.v) + to)
                = n.v[i];
        }
    }
}

/* Into a tile, which was read before the row was written. */
template <typename S> static __device__ __forceinline__ void
put_row(char *tile, int key, const unsigned int words[2])
{
    int  lane = threadIdx.x % WARP;
    if (lane < S::PAIR_LANES) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            *reinterpret_cast<unsigned int *>(
                tile + byte_of<S>(key, lane * 2 + i * (S::HD / 2))) = words[i];
        }
    }
    async_proxy_fence();        /* the next copy writes here */
    __syncwarp();
}

/* ---- computing ---- */

/* Of column tile n: heads 8 n + 2 (lane % 4) and the next of scores and output,
 * head 8 n + lane / 4 of q. */
template <typename S> struct warp_state {
    float        m[S::TILES][2], l[S::TILES][2];
    float        o[S::HD / 16][S::TILES][4];
    unsigned int q[S::HD / 16][S::TILES][2];
    float        scale;           /* of the scores, times log2(e) */
};

/* Norms and rotates the lane's share of one head, fragment i has elements 16 i
 * + 2 (lane % 4) + { 0, 1, 8, 9 }. */
template <typename S> static __device__ __forceinline__ void
rope_query(const struct attention_params &p, const float *cos_sin,
           unsigned int (&q)[S::HD / 16][S::TILES][2], int n)
{
    using T = typename S::T;
    constexpr int  HALF = S::HD / 32;        /* fragments of half a head */
    float          inverse = 0.0f;
    int            lane = threadIdx.x % WARP;
    if (p.rope.q_norm != NULL) {
        float  sum = 0.0f;
#pragma unroll
        for (int i = 0; i < S::HD / 16; i++) {
#pragma unroll
            for (int k = 0; k < 2; k++) {
                float2  x = unpack<T>(q[i][n][k]);
                sum += x.x * x.x + x.y * x.y;
            }
        }
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        inverse = __frsqrt_rn(sum / S::HD + p.rope.q_eps);
    }
#pragma unroll
    for (int i = 0; i < HALF; i++) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
            float2  low = unpack<T>(q[i][n][k]);
            float2  high = unpack<T>(q[i + HALF][n][k]);
            norm_and_rotate<T>(low, high, p.rope.q_norm, inverse, cos_sin,
                               S::HD / 2, i * 16 + k * 8 + lane % 4 * 2);
            q[i][n][k] = pack<T>(low.x, low.y);
            q[i + HALF][n][k] = pack<T>(high.x, high.y);
        }
    }
}

/* The query heads as right operands; columns past the group are zeros. */
template <typename S> static __device__ __forceinline__ void
load_query(const struct attention_params &p, const struct decode_item &item,
           int group, const float *cos_sin, struct warp_state<S> &t)
{
    using T = typename S::T;
    int  lane = threadIdx.x % WARP;
#pragma unroll
    for (int n = 0; n < S::TILES; n++) {
        int       head = n * HEADS + lane / 4;
        const T  *q = static_cast<const T *>(p.qkv)
                      + static_cast<size_t>(item.row) * p.qkv_stride
                      + static_cast<size_t>(item.kv_head * group + head)
                        * S::HD + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < S::HD / 16; i++) {
            t.q[i][n][0] = head < group ? load_word(q + i * 16) : 0;
            t.q[i][n][1] = head < group ? load_word(q + i * 16 + 8) : 0;
        }
        if (cos_sin != NULL) {
            rope_query<S>(p, cos_sin, t.q, n);
        }
        t.m[n][0] = t.m[n][1] = -INFINITY;
        t.l[n][0] = t.l[n][1] = 0.0f;
#pragma unroll
        for (int i = 0; i < S::HD / 16; i++) {
            t.o[i][n][0] = t.o[i][n][1] = t.o[i][n][2] = t.o[i][n][3] = 0.0f;
        }
    }
    t.scale = p.scale * LOG2_E;
}

/* Rows lane / 4 of product j are keys 4 (lane / 4) + 2 j, rows lane / 4 + 8 the
 * ones after them: eight rows that ldmatrix reads together are a PIECE apart
 * and so in different banks.  Two sums each, because products wait for those
 * they are added to. */
template <typename S> static __device__ __forceinline__ void
scores(const struct warp_state<S> &t, const char *k,
       float (&s)[KEYS / 16][S::TILES][4])
{
    int    lane = threadIdx.x % WARP;
    float  odd[KEYS / 16][S::TILES][4] = { };
    k += byte_of<S>(lane % 8 * PIECE + lane / 8 % 2, lane / 16 * 8);
#pragma unroll
    for (int d = 0; d < S::HD / 16; d++) {
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++) {
            unsigned int  a[4];
            load_matrix(a, k + 2 * j * S::ROW_BYTES + d * 32);
#pragma unroll
            for (int n = 0; n < S::TILES; n++) {
                multiply_add(d % 2 ? odd[j][n] : s[j][n], a, t.q[d][n],
                             typename S::T());
            }
        }
    }
#pragma unroll
    for (int j = 0; j < KEYS / 16; j++) {
#pragma unroll
        for (int n = 0; n < S::TILES; n++) {
#pragma unroll
            for (int c = 0; c < 4; c++) {
                s[j][n][c] += odd[j][n][c];
            }
        }
    }
}

/* Keys outside [begin, end), counted from the tile's first: -inf. */
template <typename S> static __device__ __forceinline__ void
mask_scores(int begin, int end, float (&s)[KEYS / 16][S::TILES][4])
{
    int  lane = threadIdx.x % WARP;
#pragma unroll
    for (int j = 0; j < KEYS / 16; j++) {
#pragma unroll
        for (int c = 0; c < 4; c++) {
            int  key = lane / 4 * PIECE + 2 * j + c / 2;
            for (int n = 0; n < S::TILES; n++) {
                s[j][n][c] = key < begin || key >= end ? -INFINITY
                                                       : s[j][n][c];
            }
        }
    }
}

/* The same keys' V: zeros. */
template <typename S> static __device__ __forceinline__ void
mask_values(char *v, int begin, int end)
{
    int  lane = threadIdx.x % WARP;
    if (lane < begin || lane >= end) {
#pragma unroll
        for (int i = 0; i < S::HD / 8; i++) {
            *reinterpret_cast<uint4 *>(v + byte_of<S>(lane, i * 8))
                = make_uint4(0, 0, 0, 0);
        }
    }
    async_proxy_fence();        /* the next copy writes here */
    __syncwarp();
}

static __device__ __forceinline__ float
exp2_fast(float x)
{
    float  y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

/* high: the lane's largest scores; makes m at least that of all lanes. */
template <typename S> static __device__ __forceinline__ void
raise_max(struct warp_state<S> &t, const float (&high)[S::TILES][2])
{
#pragma unroll
    for (int n = 0; n < S::TILES; n++) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
            float  m = fmaxf(t.m[n][c], high[n][c]);
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 4));
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 8));
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 16));
            float  keep = exp2f(t.m[n][c] - (m == -INFINITY ? 0.0f : m));
            t.m[n][c] = m;
            t.l[n][c] *= keep;
#pragma unroll
            for (int i = 0; i < S::HD / 16; i++) {
                t.o[i][n][c] *= keep;
                t.o[i][n][c + 2] *= keep;
            }
        }
    }
}

/* Lanes that differ in lane / 4 have other keys of the same heads. */
template <typename S> static __device__ __forceinline__ void
softmax(struct warp_state<S> &t, float (&s)[KEYS / 16][S::TILES][4])
{
    float  high[S::TILES][2];
    bool   grows = false;
#pragma unroll
    for (int n = 0; n < S::TILES; n++) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
            high[n][c] = fmaxf(fmaxf(s[0][n][c], s[0][n][c + 2]),
                               fmaxf(s[1][n][c], s[1][n][c + 2])) * t.scale;
            grows |= high[n][c] > t.m[n][c] + SLACK;
        }
    }
    if (__any_sync(0xffffffffu, grows)) {
        raise_max<S>(t, high);
    }
#pragma unroll
    for (int n = 0; n < S::TILES; n++) {
#pragma unroll
        for (int c = 0; c < 4; c++) {
            float  m = t.m[n][c % 2], base = m == -INFINITY ? 0.0f : m;
#pragma unroll
            for (int j = 0; j < KEYS / 16; j++) {
                s[j][n][c] = exp2_fast(fmaf(s[j][n][c], t.scale, -base));
                t.l[n][c % 2] += s[j][n][c];
            }
        }
    }
}

/* An 8 x 8 matrix of 16-bit elements, two neighbours of a row a lane. */
static __device__ __forceinline__ unsigned int
transpose(unsigned int x)
{
    unsigned int  y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n"
                 : "=r"(y) : "r"(x));
    return y;
}

template <typename S> static __device__ __forceinline__ void
values(struct warp_state<S> &t, const char *v,
       const float (&s)[KEYS / 16][S::TILES][4])
{
    using T = typename S::T;
    int           lane = threadIdx.x % WARP;
    unsigned int  b[KEYS / 16][S::TILES][2];
#pragma unroll
    for (int j = 0; j < KEYS / 16; j++) {
#pragma unroll
        for (int n = 0; n < S::TILES; n++) {
            b[j][n][0] = transpose(pack<T>(s[j][n][0], s[j][n][1]));
            b[j][n][1] = transpose(pack<T>(s[j][n][2], s[j][n][3]));
        }
    }
    v += byte_of<S>(lane % 8 * PIECE + lane / 16, lane / 8 % 2 * 8);
#pragma unroll
    for (int j = 0; j < KEYS / 16; j++) {
#pragma unroll
        for (int i = 0; i < S::HD / 16; i++) {
            unsigned int  a[4];
            load_matrix_transposed(a, v + 2 * j * S::ROW_BYTES + i * 32);
#pragma unroll
            for (int n = 0; n < S::TILES; n++) {
                multiply_add(t.o[i][n], a, b[j][n], T());
            }
        }
    }
}

/* ---- results ---- */

/* The sums of the lane's heads over all lanes. */
template <typename S> static __device__ __forceinline__ void
sum_lanes(struct warp_state<S> &t)
{
#pragma unroll
    for (int n = 0; n < S::TILES; n++) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
            t.l[n][c] += __shfl_xor_sync(0xffffffffu, t.l[n][c], 4);
            t.l[n][c] += __shfl_xor_sync(0xffffffffu, t.l[n][c], 8);
            t.l[n][c] += __shfl_xor_sync(0xffffffffu, t.l[n][c], 16);
        }
    }
}

/* m, l and o of the group's heads to ml[head][2] and o[head][stride]. */
template <typename S> static __device__ __forceinline__ void
leave_part(const struct warp_state<S> &t, int group, float *ml, float *o,
           int stride)
{
    int  lane = threadIdx.x % WARP;
#pragma unroll
    for (int n = 0; n < S::TILES; n++) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
            int  head = n * HEADS + lane % 4 * 2 + c;
            if (head >= group) {
                continue;
            }
            float  *to = o + head * stride + lane / 4;
#pragma unroll
            for (int i = 0; i < S::HD / 16; i++) {
                to[i * 16] = t.o[i][n][c];
                to[i * 16 + 8] = t.o[i][n][c + 2];
            }
            if (lane / 4 == 0) {
                ml[head * 2] = t.m[n][c];
                ml[head * 2 + 1] = t.l[n][c];
            }
        }
    }
}

/* Of an item that one warp has run alone. */
template <typename S> static __device__ __forceinline__ void
leave_output(const struct attention_params &p, const struct decode_item &item,
             int group, const struct warp_state<S> &t)
{
    using T = typename S::T;
    int    lane = threadIdx.x % WARP;
    float  scale = p.kv.v_scale;
#pragma unroll
    for (int n = 0; n < S::TILES; n++) {
        int  head = n * HEADS + lane / 4;
        T   *out = out_row<T, S::HD>(p, item, group, head) + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < S::HD / 16; i++) {
            const float  *o = t.o[i][n], *l = t.l[n];
            unsigned int  low = transpose(pack<T>(o[0] / l[0] * scale,
                                                  o[1] / l[1] * scale));
            unsigned int  high = transpose(pack<T>(o[2] / l[0] * scale,
                                                   o[3] / l[1] * scale));
            if (head < group) {
                *reinterpret_cast<unsigned int *>(out + i * 16) = low;
                *reinterpret_cast<unsigned int *>(out + i * 16 + 8) = high;
            }
        }
    }
}

/* The parts of `num` warps, four columns a lane, to the output, or to memory
 * where the item is a part itself. */
template <typename S> static __device__ __forceinline__ void
merge_warps(const struct attention_params &p, const struct decode_item &item,
            int group, const float *parts, int num)
{
    using T = typename S::T;
    constexpr int  HD = S::HD;
    float          scale = p.kv.v_scale;
    for (int i = threadIdx.x % WARP; i < group * (HD / 4); i += WARP) {
        int     row = i / (HD / 4), col = i % (HD / 4) * 4;
        const float  *ml = parts + row * 2;
        const float  *o_row = parts + S::GROUP * 2 + row * S::PART_STRIDE
                              + col;
        float   m = -INFINITY, l = 0.0f;
        float4  o = { 0.0f, 0.0f, 0.0f, 0.0f };
#pragma unroll
        for (int k = 0; k < S::WARPS; k++) {
            m = k < num ? fmaxf(m, ml[k * S::PART_FLOATS]) : m;
        }
#pragma unroll
        for (int k = 0; k < S::WARPS; k++) {
            if (k < num) {
                const float  *part = ml + k * S::PART_FLOATS;
                float   e = weight_of(part[0], part[1], m);
                float4  o_k = *reinterpret_cast<const float4 *>(
                    o_row + k * S::PART_FLOATS);
                l += e * part[1];
                o.x += e * o_k.x;
                o.y += e * o_k.y;
                o.z += e * o_k.z;
                o.w += e * o_k.w;
            }
        }
        if (item.num_parts == 1) {
            *reinterpret_cast<uint2 *>(
                out_row<T, HD>(p, item, group, row) + col)
                = make_uint2(pack<T>(o.x / l * scale, o.y / l * scale),
                             pack<T>(o.z / l * scale, o.w / l * scale));
            continue;
        }
        size_t  slot = static_cast<size_t>(item.partial + item.part) * group
                       + row;
        *reinterpret_cast<float4 *>(p.partial_out + slot * HD + col) = o;
        if (col == 0) {
            p.partial_ml[slot * 2] = m;
            p.partial_ml[slot * 2 + 1] = l;
        }
    }
}

/* ---- consumers ---- */

/* Which tile of the block is next, and how many items of several warps there
 * have been: the same in all warps. */
struct progress {
    int  warp;         /* whose turn the item's first tile is */
    int  shared;
};

/* True in all lanes of the warp that is the last of `num`. */
static __device__ __forceinline__ bool
count_arrival(unsigned int *arrived, int num)
{
    int  last = 0;
    __threadfence_block();
    __syncwarp();
    if (threadIdx.x % WARP == 0) {
        unsigned int  limit = static_cast<unsigned int>(num) - 1;
        last = atomicInc(arrived, limit) == limit;       /* wraps to 0 */
        __threadfence_block();
    }
    __syncwarp();
    return __shfl_sync(0xffffffffu, last, 0) != 0;
}

/* Until the place has been used and is free again so many times.  A count, not
 * an mbarrier: a warp that has no part in short items may be far ahead. */
static __device__ __forceinline__ void
wait_merged(unsigned int *merged, unsigned int times)
{
    unsigned int  now;
    do {
        asm volatile("ld.acquire.cta.shared.u32 %0, [%1];\n"
                     : "=r"(now) : "r"(smem_u32(merged)) : "memory");
    } while (now < times);
    __syncwarp();
}

static __device__ __forceinline__ void
count_merged(unsigned int *merged)
{
    __threadfence_block();
    __syncwarp();
    if (threadIdx.x % WARP == 0) {
        atomicAdd(merged, 1u);
    }
}

/* What this warp, `part` of `num`, has of the item. */
template <typename S> static __device__ __forceinline__ void
leave(const struct attention_params &p, const struct decode_item &item,
      struct block_smem<S> &m, const struct progress &at, int part, int num,
      struct warp_state<S> &t)
{
    int  group = p.num_heads / p.kv.num_kv_heads;
    sum_lanes<S>(t);
    if (num > 1) {
        int     place = at.shared % S::PLACES, use = at.shared / S::PLACES;
        float  *parts = m.parts + place * S::WARPS * S::PART_FLOATS;
        float  *mine = parts + part * S::PART_FLOATS;
        wait_merged(&m.merged[place], static_cast<unsigned int>(use));
        leave_part<S>(t, group, mine, mine + S::GROUP * 2, S::PART_STRIDE);
        if (!count_arrival(&m.arrived[place], num)) {
            return;
        }
        merge_warps<S>(p, item, group, parts, num);
        count_merged(&m.merged[place]);
    } else if (item.num_parts == 1) {
        leave_output<S>(p, item, group, t);
    } else {
        size_t  slot = static_cast<size_t>(item.partial + item.part) * group;
        leave_part<S>(t, group, p.partial_ml + slot * 2,
                      p.partial_out + slot * S::HD, S::HD);
    }
    if (item.num_parts > 1 && is_last(p, item)) {
        merge_parts<typename S::T, S::HD>(p, item, group);
    }
}

static __device__ __forceinline__ void
release(uint64_t *empty)
{
    __syncwarp();
    if (threadIdx.x % WARP == 0) {
        barrier_arrive(empty);
    }
}

/* The item's tile that begins at `key`. */
template <typename S> static __device__ __forceinline__ void
consume_tile(const struct decode_item &item, int key, int begin,
             const struct new_row &row, struct block_smem<S> &m,
             const struct stage_at<S::STAGES> &at, struct warp_state<S> &t)
{
    bool   whole = key >= begin && key + KEYS <= item.key_end;
    bool   newest = row.there && key + KEYS > item.position;
    char  *k = m.stages + at.stage * S::STAGE_BYTES, *v = k + S::STAGE_BYTES;
    float  s[KEYS / 16][S::TILES][4] = { };
    barrier_wait(&m.full[at.stage], at.parity);
    if (newest) {
        put_row<S>(k, item.position - key, row.k);
    }
    scores<S>(t, k, s);
    release(&m.empty[at.stage]);
    if (!whole) {
        mask_scores<S>(begin - key, item.key_end - key, s);
    }
    softmax<S>(t, s);
    barrier_wait(&m.full[at.stage + 1], at.parity);
    if (newest) {
        put_row<S>(v, item.position - key, row.v);
    }
    if (!whole) {
        mask_values<S>(v, begin - key, item.key_end - key);
    }
    values<S>(t, v, s);
    release(&m.empty[at.stage + 1]);
}

/* The warp's tiles of an item: tile first, first + WARPS .. of it. */
template <typename S> static __device__ __forceinline__ void
consume_item(const struct attention_params &p, const struct decode_item &item,
             int first, int tiles, struct block_smem<S> &m,
             struct stage_at<S::STAGES> &at, struct warp_state<S> &t)
{
    int             group = p.num_heads / p.kv.num_kv_heads;
    int             begin = item_begin(p, item);
    const float    *cos_sin = NULL;
    struct new_row  row;
    row.there = false;
    if (p.rope.cos_sin != NULL) {
        cos_sin = p.rope.cos_sin + static_cast<size_t>(item.position) * S::HD;
        if (item.key_end > item.position && (tiles - 1 - first) % S::WARPS == 0) {
            load_new_row<S>(p, item, cos_sin, row);
        }
    }
    load_query<S>(p, item, group, cos_sin, t);
    for (int i = first; i < tiles; i += S::WARPS) {
        consume_tile<S>(item, (begin / KEYS + i) * KEYS, begin, row, m, at, t);
        at.skip(2 * S::WARPS);
    }
}

template <typename S> static __device__ __forceinline__ void
consume(const struct attention_params &p, struct block_smem<S> &m)
{
    int  warp = threadIdx.x / WARP, end = p.decode_first[blockIdx.x + 1];
    struct progress             next = { 0, 0 };
    struct stage_at<S::STAGES>  at = { 2 * warp, 0 };
    for (int i = p.decode_first[blockIdx.x]; i < end; i++) {
        const struct decode_item  item = p.decode_items[i];
        int  tiles = item_tiles(item_begin(p, item), item.key_end);
        int  first = (warp + S::WARPS - next.warp) % S::WARPS;
        int  num = min(max(tiles, 1), S::WARPS);
        if (first < num) {
            struct warp_state<S>  t;
            consume_item<S>(p, item, first, tiles, m, at, t);
            leave<S>(p, item, m, next, first, num, t);
        }
        next.warp = (next.warp + tiles) % S::WARPS;
        next.shared += num > 1;
    }
}

#endif /* SM90_CODE */

template <typename S> static __global__ void
__launch_bounds__(S::THREADS, 1)
decode_block_kernel(struct attention_params p)
{
#if SM90_CODE
    extern __shared__ __align__(16) char  smem_bytes[];
    __shared__ struct block_smem<S>       m;
    bool  fused = p.rope.cos_sin != NULL;
    if (threadIdx.x == 0) {
        m.stages = smem_bytes;
        m.parts = reinterpret_cast<float *>(m.stages
                                            + S::STAGES * S::STAGE_BYTES);
        for (int i = 0; i < S::STAGES; i++) {
            barrier_init(&m.full[i], 1);
            barrier_init(&m.empty[i], 1);
        }
        for (int i = 0; i < S::PLACES; i++) {
            m.arrived[i] = m.merged[i] = 0;
        }
        barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x / WARP >= S::WARPS) {
        if (!fused) {
            pdl_wait();         /* keys of this step are in the cache */
        }
        produce<S>(p, static_cast<int>(threadIdx.x) / WARP - S::WARPS, m);
        pdl_wait();
        pdl_launch_next();
    } else {
        pdl_wait();
        consume<S>(p, m);
    }
#else
    (void) p;
#endif
}

/* ---- host ---- */

template <typename S> static cudaError_t
run(const struct attention_params *p, cudaStream_t stream)
{
    return launch_kernel(decode_block_kernel<S>,
                         static_cast<unsigned int>(p->decode_blocks), S::THREADS,
                         S::SMEM_BYTES, stream, p->pdl, *p);
}

template <typename T, int HD> static cudaError_t
run_group(const struct attention_params *p, cudaStream_t stream)
{
    int  group = p->num_heads / p->kv.num_kv_heads;
    return group <= 4 ? run<block_shape<T, HD, 4>>(p, stream)
           : group <= 8 ? run<block_shape<T, HD, 8>>(p, stream)
                        : run<block_shape<T, HD, 16>>(p, stream);
}

template <typename T> static cudaError_t
run_any(const struct attention_params *p, cudaStream_t stream)
{
    return p->kv.head_dim == 64 ? run_group<T, 64>(p, stream)
                                : run_group<T, 128>(p, stream);
}

template <typename S> static cudaError_t
allow_smem(void)
{
    return cudaFuncSetAttribute(decode_block_kernel<S>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize,
                                S::SMEM_BYTES);
}

#define ALLOW(T, HD)                                                          \
    allow_smem<block_shape<T, HD, 4>>, allow_smem<block_shape<T, HD, 8>>,   \
    allow_smem<block_shape<T, HD, 16>>

extern "C" cudaError_t
attention_decode_block_init(void)
{
    cudaError_t (*const  all[])(void) = {
        ALLOW(__nv_bfloat16, 64), ALLOW(__nv_bfloat16, 128),
        ALLOW(__half, 64), ALLOW(__half, 128) };
    for (cudaError_t (*init)(void) : all) {
        cudaError_t  e = init();
        if (e != cudaSuccess) {
            return e;
        }
    }
    return cudaSuccess;
}

int
attention_decode_block_takes(const struct attention_params *p)
{
    int  hd = p->kv.head_dim;
    return device_is_sm90() && p->dtype != KERNEL_F32
           && p->dtype == p->kv.dtype
           && (hd == 64 || hd == 128)
           && p->num_heads / p->kv.num_kv_heads <= ATTENTION_GROUP_MAX
           && p->kv.block_shift >= 4 && p->kv.block_shift <= 6;
}

cudaError_t
attention_decode_block_launch(const struct attention_params *p,
                             cudaStream_t stream)
{
    return p->dtype == KERNEL_BF16 ? run_any<__nv_bfloat16>(p, stream)
                                   : run_any<__half>(p, stream);
}
