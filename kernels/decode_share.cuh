/* decode_share.cuh - what the Hopper decode kernels have in common: the
 * shapes they take, the keys of an item, and partial results.
 *
 * Items that do not hold all keys of their sequence leave a partial result; the
 * warp that counts itself last merges them in the order of the parts.  So
 * results depend on the plan, never on timing. */
#ifndef LLM_KERNELS_DECODE_SHARE_CUH
#define LLM_KERNELS_DECODE_SHARE_CUH

#include "kernels/attention_tile.cuh"
#include "kernels/kv_map.cuh"

#define KEYS        ATTENTION_DECODE_KEYS      /* of a tile */

static_assert(KEYS == 32, "one table entry a lane, two 16-key products");

/* What both say of an attention that they take, besides the cache's dtype. */
static inline bool
decode_shapes_fit(const struct attention_params *p)
{
    return device_is_sm90() && p->dtype != KERNEL_F32
           && (p->kv.head_dim == 64 || p->kv.head_dim == 128)
           && p->num_heads / p->kv.num_kv_heads <= ATTENTION_GROUP_MAX
           && p->kv.block_shift >= 4 && p->kv.block_shift <= 6;
}

#if SM90_CODE

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

/* Row of the layer's K and V where a key lies. */
static __device__ __forceinline__ int
map_row(const struct attention_params &p, const int32_t *table, int kv_head,
        int key)
{
    int  block = table[key >> p.kv.block_shift];
    return ((block * p.kv.num_kv_heads + kv_head) << p.kv.block_shift)
           + (key & ((1 << p.kv.block_shift) - 1));
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
