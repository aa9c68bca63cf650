/* decode_block_tile.cuh - a warp's work on a tile of keys in
 * attention_decode_block.cu: the query as right operands, S^T = K Q^T, masks, the
 * lagging softmax, O^T = V^T P^T. */
#ifndef LLM_KERNELS_DECODE_BLOCK_TILE_CUH
#define LLM_KERNELS_DECODE_BLOCK_TILE_CUH

#include "kernels/decode_block_rope.cuh"

#define SLACK       8.0f     /* p is at most 2^SLACK: log2 */

#if SM90_CODE

/* Of column tile n: heads 8 n + 2 (lane % 4) and the next of scores and output,
 * head 8 n + lane / 4 of q. */
template <typename S> struct warp_state {
    float        m[S::TILES][2], l[S::TILES][2];
    float        o[S::HD / 16][S::TILES][4];
    unsigned int q[S::HD / 16][S::TILES][2];
    float        scale;           /* of the scores, times log2(e) */
};

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
            b[j][n][0] = transpose_fragment(pack<T>(s[j][n][0], s[j][n][1]));
            b[j][n][1] = transpose_fragment(pack<T>(s[j][n][2], s[j][n][3]));
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

#endif /* SM90_CODE */

#endif
