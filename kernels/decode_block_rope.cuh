/* decode_block_rope.cuh - q/k norm, rotary embedding and append as parts of
 * attention_decode_block.cu: the query as it is loaded, the step's own key and
 * value on their way to the cache and into the tile that has their place. */
#ifndef LLM_KERNELS_DECODE_BLOCK_ROPE_CUH
#define LLM_KERNELS_DECODE_BLOCK_ROPE_CUH

#include "kernels/decode_block.cuh"
#include "kernels/rope.cuh"

#if SM90_CODE

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

/* ---- the step's own row ---- */

/* Two pairs of elements of the new key and value: 2 lane, 2 lane + 1 and the
 * two HD / 2 further on, in lanes below PAIR_LANES. */
struct new_row {
    unsigned int k[2], v[2];
    bool         there;
};

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

#endif /* SM90_CODE */

#endif
