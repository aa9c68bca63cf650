/* fused_keys.cuh - keys and values of the fused step's attention, see
 * fused_attention.cuh: from the paged cache through the ring into operands of
 * mma.sync.
 *
 * A stage is keys_of_stage() keys and their values, half of it each, in boxes of
 * at most a block: [64s of head_dim][key][64], swizzled.  Four lanes and the next
 * four, which read together, have keys, or pieces of values, four apart, so that
 * the swizzle gives them all banks: column n of scores is key apart(n) of 8. */
#ifndef LLM_KERNELS_FUSED_KEYS_CUH
#define LLM_KERNELS_FUSED_KEYS_CUH

#include "kernels/fused_stream.cuh"

#define FUSED_KEYS  16       /* of a warp's turn */
#define FUSED_TURN  (FUSED_WARPS * FUSED_KEYS)     /* keys of all warps */

template <int HD> struct attention_smem {
    unsigned char  q[FUSED_GROUP_MAX][HD * 2 + 64];
    unsigned char  k[HD * 2], v[HD * 2];       /* of the row itself */
    float          m[FUSED_WARPS][FUSED_GROUP_MAX];
    float          l[FUSED_WARPS][FUSED_GROUP_MAX];
    alignas(16) float  o[4];       /* [FUSED_WARPS][group][HD] */
};

static __host__ __device__ constexpr int
keys_of_stage(int head_dim)
{
    return FUSED_STAGE_BYTES / (4 * head_dim);
}

static __host__ __device__ constexpr int
keys_of_box(int head_dim, int block_shift)
{
    return keys_of_stage(head_dim) < 1 << block_shift
           ? keys_of_stage(head_dim) : 1 << block_shift;
}

static_assert(FUSED_ITEM_KEYS % keys_of_stage(64) == 0, "stages of items");

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

/* Stages of a unit: of keys of earlier steps. */
template <int HD> static __device__ __forceinline__ int
unit_stages(const struct unit &u)
{
    return (max(u.end - u.item.key_begin, 0) + keys_of_stage(HD) - 1)
           / keys_of_stage(HD);
}

/* Row of 8, or piece of 8, that lane group n has. */
static __device__ __forceinline__ int
apart(int n)
{
    return n / 2 + n % 2 * 4;
}

/* From a stage: keys key .. key + 15 of it, of which `left` are there. */
template <int HD> static __device__ __forceinline__ void
keys_read(const char *stage, int key, int box, int left,
          struct keys16<HD> &keys)
{
    int  lane = threadIdx.x % WARP, g = apart(lane / 4), t = lane % 4;
    const char  *k = stage + (key / box * box * HD + key % box * SWIZZLE_ELEMS)
                             * 2;
    const char  *v = k + FUSED_BOX_BYTES;
    int          half = box * SWIZZLE_BYTES;
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int j = 0; j < HD / 32; j++) {
            keys.k[i][j] = *reinterpret_cast<const uint4 *>(
                k + j / 2 * half + (i * 8 + g) * SWIZZLE_BYTES
                + ((j % 2 * 4 + t) ^ g) * 16);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int  row = i % 2 * 4 + t;
#pragma unroll
        for (int j = 0; j < HD / 64; j++) {
            keys.v[i][j] = i / 2 * 8 + row < left
                           ? *reinterpret_cast<const uint4 *>(
                                 v + j * half + (i / 2 * 8 + row)
                                                * SWIZZLE_BYTES
                                 + (g ^ row) * 16)
                           : make_uint4(0, 0, 0, 0);
        }
    }
}

/* The row's own key and value where this turn has it. */
template <int HD> static __device__ __forceinline__ void
keys_patch(const struct attention_smem<HD> *s, const struct unit &u, int base,
           struct keys16<HD> &keys)
{
    int  lane = threadIdx.x % WARP, g = apart(lane / 4), t = lane % 4;
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
            if (i / 2 * 8 + i % 2 * 4 + t == own) {
                keys.v[i][j] = *reinterpret_cast<const uint4 *>(
                    s->v + (j * 64 + g * 8) * 2);
            }
        }
    }
}

/* The producer's part, one lane's work.  The last box may have rows past the
 * keys, of the same block. */
template <int HD> static __device__ __forceinline__ void
produce_keys(const struct fused_params &p, const struct fused_block &b,
             struct producer_place &place, const struct fused_op *op,
             uint64_t policy)
{
    int  units = __ldg(p.num_items) * p.num_kv_heads;
    int  box = keys_of_box(HD, p.block_shift);
#pragma unroll 1
    for (int i = static_cast<int>(blockIdx.x); i < units; i += p.num_blocks) {
        struct unit  u = unit_of(p, i);
#pragma unroll 1
        for (int base = u.item.key_begin; base < u.end;
             base += keys_of_stage(HD))
        {
            int    left = min(u.end - base, keys_of_stage(HD));
            int    boxes = (left + box - 1) / box;
            uint64_t  *full;
            char  *to = stage_begin(b, place, static_cast<unsigned int>(
                                    boxes * box * HD * 4), full);
#pragma unroll 1
            for (int n = 0; n < boxes; n++) {
                int  key = base + n * box;
                int  row = ((__ldg(&u.table[key >> p.block_shift])
                             * p.num_kv_heads + u.kv_head) << p.block_shift)
                           + (key & ((1 << p.block_shift) - 1));
                tma_load_3d(to + n * box * HD * 2, op->map, 0, row, 0, full,
                            policy);
                tma_load_3d(to + FUSED_BOX_BYTES + n * box * HD * 2,
                            op->v_map, 0, row, 0, full, policy);
            }
        }
    }
}

#endif /* SM90_CODE */

#endif
