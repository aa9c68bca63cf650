/* fused_keys.cuh - keys and values of the fused step's attention, see
 * fused_attention.cuh: from the paged cache into operands of mma.sync. */
#ifndef LLM_KERNELS_FUSED_KEYS_CUH
#define LLM_KERNELS_FUSED_KEYS_CUH

#include "kernels/fused_common.cuh"

#define FUSED_KEYS  16       /* of a warp's turn */
#define FUSED_PREFETCH  (192 << 10)    /* bytes of keys and values a block */

template <int HD> struct attention_smem {
    unsigned char  q[FUSED_GROUP_MAX][HD * 2 + 64];
    unsigned char  k[HD * 2], v[HD * 2];       /* of the row itself */
    float          m[FUSED_WARPS][FUSED_GROUP_MAX];
    float          l[FUSED_WARPS][FUSED_GROUP_MAX];
    alignas(16) float  o[4];       /* [FUSED_WARPS][group][HD] */
};

#if SM90_CODE

/* Operands of a warp's turn. */
template <int HD> struct keys16 {
    uint4  k[2][HD / 32];
    uint4  v[4][HD / 64];
};

static __device__ __forceinline__ struct unit
unit_of(const struct fused_params &p, int index)
{
    struct unit  u;
    u.item = p.items[index / p.num_kv_heads];
    u.kv_head = index % p.num_kv_heads;
    u.group = p.num_heads / p.num_kv_heads;
    u.table = p.block_tables + u.item.table;
    u.end = min(u.item.key_end, u.item.position);
    return u;
}

/* Row of the cache where a turn's keys begin; 0 where all are past the end. */
template <int HD> static __device__ __forceinline__ size_t
keys_row(const struct fused_params &p, const struct unit &u, int base)
{
    if (base >= u.end) {
        return 0;
    }
    size_t  block = static_cast<size_t>(__ldg(&u.table[base
                                                       >> p.block_shift]));
    return (((block * p.num_kv_heads + u.kv_head) << p.block_shift)
            + (base & ((1 << p.block_shift) - 1))) * HD;
}

template <typename T, int HD> static __device__ __forceinline__ void
keys_load(const struct fused_op &op, const struct unit &u, int base,
          size_t row, struct keys16<HD> &keys)
{
    int       lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const T  *k = static_cast<const T *>(op.k_cache) + row;
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int j = 0; j < HD / 32; j++) {
            int  key = i * 8 + g;
            keys.k[i][j] = base + key < u.end
                           ? load_16(k + key * HD + j * 32 + t * 8)
                           : make_uint4(0, 0, 0, 0);
        }
    }
}

template <typename T, int HD> static __device__ __forceinline__ void
values_load(const struct fused_op &op, const struct unit &u, int base,
            size_t row, struct keys16<HD> &keys)
{
    int       lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const T  *v = static_cast<const T *>(op.v_cache) + row;
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < HD / 64; j++) {
            int  key = i / 2 * 8 + t * 2 + i % 2;
            keys.v[i][j] = base + key < u.end
                           ? load_16(v + key * HD + j * 64 + g * 8)
                           : make_uint4(0, 0, 0, 0);
        }
    }
}

/* The row's own key and value where this turn has it. */
template <int HD> static __device__ __forceinline__ void
keys_patch(const struct attention_smem<HD> *s, const struct unit &u, int base,
           struct keys16<HD> &keys)
{
    int  lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    int  own = u.item.position - base;
    if (u.item.key_end <= u.item.position || own < 0 || own >= FUSED_KEYS) {
        return;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int j = 0; j < HD / 32; j++) {
            if (i * 8 + g == own) {
                keys.k[i][j] = *reinterpret_cast<const uint4 *>(
                    s->k + (j * 32 + t * 8) * 2);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < HD / 64; j++) {
            if (i / 2 * 8 + t * 2 + i % 2 == own) {
                keys.v[i][j] = *reinterpret_cast<const uint4 *>(
                    s->v + (j * 64 + g * 8) * 2);
            }
        }
    }
}

/* The producer's part: the block's keys and values on the way to L2, while the
 * blocks compute what comes before. */
template <typename T, int HD> static __device__ __forceinline__ void
keys_prefetch(const struct fused_params &p, const struct fused_op *op)
{
    const T  *k = reinterpret_cast<const T *>(__ldg(
        reinterpret_cast<const unsigned long long *>(&op->k_cache)));
    const T  *v = reinterpret_cast<const T *>(__ldg(
        reinterpret_cast<const unsigned long long *>(&op->v_cache)));
    int       units = __ldg(p.num_items) * p.num_kv_heads;
    int       left = FUSED_PREFETCH / (4 * HD * FUSED_KEYS);
    for (int i = static_cast<int>(blockIdx.x); i < units && left > 0;
         i += p.num_blocks)
    {
        struct unit  u = unit_of(p, i);
        int  turns = min(left, (u.end - u.item.key_begin + FUSED_KEYS - 1)
                               / FUSED_KEYS);
        for (int t = threadIdx.x % WARP; t < turns; t += WARP) {
            int           base = u.item.key_begin + t * FUSED_KEYS;
            size_t        row = keys_row<HD>(p, u, base);
            unsigned int  bytes = static_cast<unsigned int>(
                min(FUSED_KEYS, u.end - base) * HD * 2);
            bulk_prefetch(k + row, bytes);
            bulk_prefetch(v + row, bytes);
        }
        left -= turns;
    }
}

#endif /* SM90_CODE */

#endif
