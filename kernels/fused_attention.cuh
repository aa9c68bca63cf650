/* fused_attention.cuh - attention of the fused step, see decode_fused.cu.
 *
 * A block takes one (item, kv head) after the other; its warps take 16 keys in
 * turns, from the ring into operands of mma.sync: 16 bytes of a key's row are two
 * steps of the sum over head_dim, in the order that q has too; two keys' values
 * are paired with prmt, and the columns of the output are permuted.  The query
 * heads of the kv head are the first 8 of 16 rows.
 *
 * Keys of earlier steps are on their way as weights are, and the first turn has
 * left the ring before the blocks meet.  The key of the row itself is made by the
 * block that needs it, which also stores it.  Warps meet in shared memory, parts
 * of a row as in attention_decode.cu. */
#ifndef LLM_KERNELS_FUSED_ATTENTION_CUH
#define LLM_KERNELS_FUSED_ATTENTION_CUH

#include "kernels/fused_keys.cuh"

#if SM90_CODE

/* A head of the row: eight elements of each half. */
struct head_lane {
    float  cos[8], sin[8], low[8], high[8];    /* low, high: norm weights */
    int    j, head;                            /* head: past the last: none */
    bool   norm;
};

/* ---- q, and the row's own k and v ---- */

template <int HD> static __device__ __forceinline__ struct head_lane
head_begin(const struct fused_params &p, const struct fused_op &op,
           const struct unit &u)
{
    constexpr int     lanes = HD / 16;
    struct head_lane  h = {};
    h.head = static_cast<int>(threadIdx.x) / lanes;
    h.j = static_cast<int>(threadIdx.x) % lanes * 8;
    if (h.head <= u.group) {
        const float  *weight = h.head < u.group ? op.q_norm : op.k_norm;
        const float  *cos_sin = p.cos_sin
                                + static_cast<size_t>(u.item.position) * HD;
        load_8(h.cos, cos_sin + h.j);
        load_8(h.sin, cos_sin + HD / 2 + h.j);
        h.norm = weight != NULL;
        if (h.norm) {
            load_8(h.low, weight + h.j);
            load_8(h.high, weight + HD / 2 + h.j);
        }
    }
    return h;
}

/* As rope_wide.cu; all lanes of the warp come here. */
template <typename T, int HD> static __device__ __forceinline__ void
head_norm(const struct head_lane &h, float eps, float (&a)[8], float (&b)[8])
{
    float  sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        sum += a[i] * a[i] + b[i] * b[i];
    }
#pragma unroll
    for (int step = HD / 32; step > 0; step /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, step);
    }
    float  r = __frsqrt_rn(sum / static_cast<float>(HD) + eps);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        a[i] = h.norm ? round_to<T>(a[i] * r * h.low[i]) : a[i];
        b[i] = h.norm ? round_to<T>(b[i] * r * h.high[i]) : b[i];
    }
}

template <typename T, int HD> static __device__ __forceinline__ void
head_store(void *to, const float (&a)[8], const float (&b)[8])
{
    uint4  low = make_uint4(pack<T>(a[0], a[1]), pack<T>(a[2], a[3]),
                            pack<T>(a[4], a[5]), pack<T>(a[6], a[7]));
    uint4  high = make_uint4(pack<T>(b[0], b[1]), pack<T>(b[2], b[3]),
                             pack<T>(b[4], b[5]), pack<T>(b[6], b[7]));
    *static_cast<uint4 *>(to) = low;
    *reinterpret_cast<uint4 *>(static_cast<char *>(to) + HD) = high;
}

/* q of the group, and k and v where the unit has the row's own key, from qkv to
 * shared memory and the cache. */
template <typename T, int HD> static __device__ __forceinline__ void
heads_prepare(const struct fused_params &p, const struct fused_op &op,
              const struct unit &u, const struct head_lane &h,
              struct attention_smem<HD> *s)
{
    bool    own = u.item.key_end > u.item.position;
    int     last = own ? u.group + 1 : u.group - 1;
    int     heads = p.num_heads + 2 * p.num_kv_heads;
    int     at = h.head < u.group ? u.kv_head * u.group + h.head
                 : p.num_heads + u.kv_head
                   + (h.head == u.group ? 0 : p.num_kv_heads);
    int     slot = own ? __ldg(&p.slots[u.item.row]) : -1;
    float   a[8], b[8];
    T       e[2][8] = {};
    if (h.head <= last) {
        const T  *x = static_cast<const T *>(op.x)
                      + (static_cast<size_t>(u.item.row) * heads + at) * HD
                      + h.j;
        uint4     low = load_16(x), high = load_16(x + HD / 2);
        memcpy(e[0], &low, sizeof low);
        memcpy(e[1], &high, sizeof high);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        a[i] = to_float(e[0][i]);
        b[i] = to_float(e[1][i]);
    }
    if (op.q_norm != NULL || op.k_norm != NULL) {
        head_norm<T, HD>(h, h.head < u.group ? op.q_eps : op.k_eps, a, b);
    }
    if (h.head <= u.group) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float  x = a[i];
            a[i] = x * h.cos[i] - b[i] * h.sin[i];
            b[i] = b[i] * h.cos[i] + x * h.sin[i];
        }
    }
    if (h.head < u.group) {
        head_store<T, HD>(s->q[h.head] + h.j * 2, a, b);
    } else if (h.head <= last) {
        bool   is_k = h.head == u.group;
        head_store<T, HD>((is_k ? s->k : s->v) + h.j * 2, a, b);
        if (slot >= 0) {
            size_t  block = static_cast<size_t>(slot >> p.block_shift);
            size_t  row = ((block * p.num_kv_heads + u.kv_head)
                           << p.block_shift)
                          + (slot & ((1 << p.block_shift) - 1));
            head_store<T, HD>(static_cast<T *>(is_k ? op.k_cache : op.v_cache)
                              + row * HD + h.j, a, b);
        }
    } else if (h.head >= u.group + 2 && h.head < FUSED_GROUP_MAX + 2) {
        float  zero[8] = {};          /* rows of the tile without a head */
        head_store<T, HD>(s->q[h.head - 2] + h.j * 2, zero, zero);
    }
}

/* ---- a warp's keys ---- */

template <int HD> struct warp_state {
    float  m, l;                      /* of head lane / 4; l of this lane */
    float  o[HD / 8][4];
};

template <typename T, int HD> static __device__ __forceinline__ void
scores(const struct attention_smem<HD> *s, const struct keys16<HD> &keys,
       float (&score)[2][4])
{
    int  lane = threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        score[i][0] = score[i][1] = score[i][2] = score[i][3] = 0.0f;
    }
#pragma unroll
    for (int j = 0; j < HD / 32; j++) {
        uint4  q = *reinterpret_cast<const uint4 *>(
            s->q[lane / 4] + (j * 32 + lane % 4 * 8) * 2);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint4   k = keys.k[i][j];
            unsigned int  a[4] = { q.x, 0, q.y, 0 }, b[2] = { k.x, k.y };
            multiply_add(score[i], a, b, T());
            unsigned int  a2[4] = { q.z, 0, q.w, 0 }, b2[2] = { k.z, k.w };
            multiply_add(score[i], a2, b2, T());
        }
    }
}

/* P, rounded, as left operand; m and l follow, o is scaled to the new m. */
template <typename T, int HD> static __device__ __forceinline__ void
softmax(struct warp_state<HD> &w, float (&score)[2][4], float scale, int keys,
        unsigned int (&prob)[4])
{
    int    t = threadIdx.x % 4;
    float  m = w.m;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        bool  seen = i / 2 * 8 + t + i % 2 * 4 < keys;
        score[i / 2][i % 2] = seen ? score[i / 2][i % 2] * scale : -INFINITY;
        m = fmaxf(m, score[i / 2][i % 2]);
    }
    m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1));
    m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 2));
    float  base = m == -INFINITY ? 0.0f : m, keep = exp2f(w.m - base);
    float  e[4];
    w.l *= keep;
    w.m = m;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        e[i] = exp2f(score[i / 2][i % 2] - base);
        w.l += e[i];
    }
    prob[0] = pack<T>(e[0], e[1]);
    prob[2] = pack<T>(e[2], e[3]);
    prob[1] = prob[3] = 0;
#pragma unroll
    for (int i = 0; i < HD / 8; i++) {
        w.o[i][0] *= keep;
        w.o[i][1] *= keep;
    }
}

static __device__ __forceinline__ unsigned int
word_of(const uint4 &v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

template <typename T, int HD> static __device__ __forceinline__ void
values(struct warp_state<HD> &w, const struct keys16<HD> &keys,
       const unsigned int (&prob)[4])
{
#pragma unroll
    for (int j = 0; j < HD / 64; j++) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            unsigned int  how = i % 2 ? 0x7632 : 0x5410;
            unsigned int  b[2] = {
                __byte_perm(word_of(keys.v[0][j], i / 2),
                            word_of(keys.v[1][j], i / 2), how),
                __byte_perm(word_of(keys.v[2][j], i / 2),
                            word_of(keys.v[3][j], i / 2), how) };
            multiply_add(w.o[j * 8 + i], prob, b, T());
        }
    }
}

/* The warp's result to shared memory: its columns are 64 j + 16 t + i and 8
 * more. */
template <int HD> static __device__ __forceinline__ void
warp_store(struct attention_smem<HD> *s, const struct unit &u,
           struct warp_state<HD> &w)
{
    int  lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4;
    w.l += __shfl_xor_sync(0xffffffffu, w.l, 1);
    w.l += __shfl_xor_sync(0xffffffffu, w.l, 2);
    if (g >= u.group) {
        return;
    }
    if (lane % 4 == 0) {
        s->m[warp][g] = w.m;
        s->l[warp][g] = w.l;
    }
    float  *to = s->o + (warp * u.group + g) * HD + lane % 4 * 8;
#pragma unroll
    for (int j = 0; j < HD / 64; j++) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            to[j * 64 + i] = w.o[j * 8 + i][0];
            to[j * 64 + 32 + i] = w.o[j * 8 + i][1];
        }
    }
}

/* ---- results meet ---- */

static __device__ __forceinline__ float
part_weight(float m, float l, float m_all)
{
    return l == 0.0f ? 0.0f : exp2f(m - (m_all == -INFINITY ? 0.0f : m_all));
}

template <typename T> static __device__ __forceinline__ void
store_4(T *to, const float4 &o, float l)
{
    *reinterpret_cast<uint2 *>(to) = make_uint2(pack<T>(o.x / l, o.y / l),
                                                pack<T>(o.z / l, o.w / l));
}

/* Four columns a thread; warps without keys have l = 0 and o = 0. */
template <typename T, int HD> static __device__ __forceinline__ void
warps_merge(const struct fused_params &p, const struct fused_op &op,
            const struct unit &u, const struct attention_smem<HD> *s)
{
    for (int i = threadIdx.x; i < u.group * HD / 4; i += FUSED_CONSUMERS) {
        int     row = i / (HD / 4), col = i % (HD / 4) * 4;
        float   m = -INFINITY, l = 0.0f;
        float4  o = { 0.0f, 0.0f, 0.0f, 0.0f };
#pragma unroll
        for (int k = 0; k < FUSED_WARPS; k++) {
            m = fmaxf(m, s->m[k][row]);
        }
#pragma unroll
        for (int k = 0; k < FUSED_WARPS; k++) {
            float   e = part_weight(s->m[k][row], s->l[k][row], m);
            float4  part = *reinterpret_cast<const float4 *>(
                &s->o[(k * u.group + row) * HD + col]);
            l += e * s->l[k][row];
            o.x += e * part.x;
            o.y += e * part.y;
            o.z += e * part.z;
            o.w += e * part.w;
        }
        size_t  head = static_cast<size_t>(u.kv_head) * u.group + row;
        if (u.item.num_parts == 1) {
            store_4<T>(static_cast<T *>(op.y)
                       + (static_cast<size_t>(u.item.row) * p.num_heads + head)
                         * HD + col, o, l);
            continue;
        }
        size_t  at = (static_cast<size_t>(u.item.partial) + u.item.part)
                     * p.num_heads + head;
        *reinterpret_cast<float4 *>(p.partial_out + at * HD + col) = o;
        if (col == 0) {
            reinterpret_cast<float2 *>(p.partial_ml)[at] = make_float2(m, l);
        }
    }
}

/* What the counter was; wraps to 0.  With two __threadfence() around it, which
 * order more, a step takes 0.5 % longer. */
static __device__ __forceinline__ unsigned int
count_part(unsigned int *counter, unsigned int limit)
{
    unsigned int  old;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;\n"
                 : "=r"(old) : "l"(counter), "r"(limit) : "memory");
    return old;
}

/* True in the block that ends last of the row's parts. */
static __device__ __forceinline__ bool
is_last_part(const struct fused_params &p, const struct unit &u,
             struct fused_smem *s)
{
    consumers_sync();
    if (threadIdx.x == 0) {
        unsigned int  *counter = p.counters
                                 + static_cast<size_t>(u.item.seq)
                                   * p.num_kv_heads + u.kv_head;
        unsigned int   limit = static_cast<unsigned int>(u.item.num_parts) - 1;
        s->last = count_part(counter, limit) == limit;
    }
    consumers_sync();
    return s->last != 0;
}

#define PARTS_AT_ONCE  8

template <typename T, int HD> static __device__ __forceinline__ void
parts_merge(const struct fused_params &p, const struct fused_op &op,
            const struct unit &u)
{
    size_t  stride = static_cast<size_t>(p.num_heads);
    for (int i = threadIdx.x; i < u.group * HD / 4; i += FUSED_CONSUMERS) {
        int     col = i % (HD / 4) * 4, num = u.item.num_parts;
        size_t  head = static_cast<size_t>(u.kv_head) * u.group + i / (HD / 4);
        size_t  first = static_cast<size_t>(u.item.partial) * stride + head;
        float   m = -INFINITY, l = 0.0f;
        float4  o = { 0.0f, 0.0f, 0.0f, 0.0f };
        for (int begin = 0; begin < num; begin += PARTS_AT_ONCE) {
            float2  ml[PARTS_AT_ONCE];
            float4  part[PARTS_AT_ONCE];
            float   m_new = m;
#pragma unroll
            for (int k = 0; k < PARTS_AT_ONCE; k++) {
                size_t  at = first + static_cast<size_t>(begin + k) * stride;
                ml[k] = make_float2(-INFINITY, 0.0f);
                part[k] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                if (begin + k < num) {
                    ml[k] = __ldcg(reinterpret_cast<const float2 *>(
                        p.partial_ml) + at);
                    part[k] = __ldcg(reinterpret_cast<const float4 *>(
                        p.partial_out + at * HD + col));
                }
            }
#pragma unroll
            for (int k = 0; k < PARTS_AT_ONCE; k++) {
                m_new = fmaxf(m_new, ml[k].x);
            }
            float  keep = part_weight(m, l, m_new);
            l *= keep;
            o.x *= keep;
            o.y *= keep;
            o.z *= keep;
            o.w *= keep;
            m = m_new;
#pragma unroll
            for (int k = 0; k < PARTS_AT_ONCE; k++) {
                float  e = part_weight(ml[k].x, ml[k].y, m);
                l += e * ml[k].y;
                o.x += e * part[k].x;
                o.y += e * part[k].y;
                o.z += e * part[k].z;
                o.w += e * part[k].w;
            }
        }
        store_4<T>(static_cast<T *>(op.y)
                   + (static_cast<size_t>(u.item.row) * p.num_heads + head)
                     * HD + col, o, l);
    }
}

/* ---- the op ---- */

/* Once: what is the same in all layers. */
static __device__ __forceinline__ void
attention_begin(const struct fused_params &p, const struct fused_block &b)
{
    int  units = __ldg(p.num_items) * p.num_kv_heads;
    if (threadIdx.x == 0) {
        b.s->units = units;
    }
    if (threadIdx.x == 0 && static_cast<int>(blockIdx.x) < units) {
        b.s->unit[0] = unit_of(p, static_cast<int>(blockIdx.x));
    }
}

/* The warp's turn from the ring, `at` being where the turn of warp 0 is; turns
 * that no stage has: zeros. */
template <int HD> static __device__ __forceinline__ void
turn_read(const struct fused_params &p, const struct fused_block &b,
          const struct unit &u, int begin, int stages, struct ring_place at,
          struct keys16<HD> &keys)
{
    constexpr int  TURNS = keys_of_stage(HD) / FUSED_KEYS;   /* of a stage */
    int  box = keys_of_box(HD, p.block_shift);
    int  base = begin + b.warp * FUSED_KEYS;
    if (b.warp / TURNS >= stages) {
        keys = {};
        return;
    }
    ring_step(at, b.warp / TURNS, b.stages);
    ring_wait(&b.s->full[at.slot], at.parity);
    keys_read<HD>(b.ring + at.slot * FUSED_STAGE_BYTES,
                  b.warp % TURNS * FUSED_KEYS, box, u.end - base, keys);
    __syncwarp();
    if (b.lane < FUSED_WARPS / FUSED_GROUPS / TURNS) {
        barrier_arrive(&b.s->empty[at.slot]);
    }
}

/* All turns of a warp, the first of which it has read; `at` is left where what
 * follows the unit is. */
template <typename T, int HD> static __device__ __forceinline__ void
turns_run(const struct fused_params &p, const struct fused_op &op,
          const struct fused_block &b, const struct unit &u,
          const struct attention_smem<HD> *s, struct ring_place &at,
          struct keys16<HD> &keys, struct warp_state<HD> &w)
{
    constexpr int  ROUND = FUSED_TURN / keys_of_stage(HD);   /* stages */
    int  stages = unit_stages<HD>(u), begin = u.item.key_begin;
#pragma unroll 1
    for (;;) {
        int           base = begin + b.warp * FUSED_KEYS;
        float         score[2][4];
        unsigned int  prob[4];
        if (base < u.item.key_end) {
            keys_patch<HD>(s, u, base, keys);
            scores<T, HD>(s, keys, score);
            softmax<T, HD>(w, score, op.scale * LOG2_E,
                           u.item.key_end - base, prob);
            values<T, HD>(w, keys, prob);
        }
        ring_step(at, min(stages, ROUND), b.stages);
        stages -= min(stages, ROUND);
        begin += FUSED_TURN;
        if (begin >= u.item.key_end) {
            break;
        }
        turn_read<HD>(p, b, u, begin, stages, at, keys);
    }
}

template <typename T, int HD> static __device__ __forceinline__ void
attention_op(const struct fused_params &p, const struct fused_op &op,
             const struct fused_block &b, struct ring_place &at,
             unsigned int target)
{
    struct attention_smem<HD>  *s = reinterpret_cast<struct attention_smem<HD> *>(
        b.x);
    int   first = static_cast<int>(blockIdx.x), units = b.s->units;
    bool  met = false;
    for (int i = first; i < units; i += p.num_blocks) {
        const struct unit     &u = b.s->unit[i != first];
        if (i != first) {
            if (threadIdx.x == 0) {
                b.s->unit[1] = unit_of(p, i);
            }
            consumers_sync();
        }
        struct keys16<HD>      keys;
        struct warp_state<HD>  w = {};
        struct head_lane       h = head_begin<HD>(p, op, u);
        turn_read<HD>(p, b, u, u.item.key_begin, unit_stages<HD>(u), at, keys);
        w.m = -INFINITY;
        if (!met) {
            meet_wait(p.barrier, target);
            met = true;
        }
        heads_prepare<T, HD>(p, op, u, h, s);
        consumers_sync();
        turns_run<T, HD>(p, op, b, u, s, at, keys, w);
        warp_store<HD>(s, u, w);
        consumers_sync();
        warps_merge<T, HD>(p, op, u, s);
        if (u.item.num_parts > 1 && is_last_part(p, u, b.s)) {
            parts_merge<T, HD>(p, op, u);
        }
        if (i + p.num_blocks < units) {
            consumers_sync();              /* shared memory is free again */
        }
    }
    if (!met) {
        meet_wait(p.barrier, target);
    }
}

#endif /* SM90_CODE */

#endif
