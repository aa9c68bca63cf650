/* decode_block_merge.cuh - what the warps of a block of attention_decode_block.cu
 * have of an item becomes one result: left in shared memory, merged by the warp
 * that counts itself last, to the output or to memory as a part. */
#ifndef LLM_KERNELS_DECODE_BLOCK_MERGE_CUH
#define LLM_KERNELS_DECODE_BLOCK_MERGE_CUH

#include "kernels/decode_block_tile.cuh"

#if SM90_CODE

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
            unsigned int  low = transpose_fragment(
                pack<T>(o[0] / l[0] * scale, o[1] / l[1] * scale));
            unsigned int  high = transpose_fragment(
                pack<T>(o[2] / l[0] * scale, o[3] / l[1] * scale));
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

/* ---- the warps of an item ---- */

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

#endif /* SM90_CODE */

#endif
