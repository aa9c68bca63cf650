/* prefill_rows.cuh - what a warpgroup of attention_prefill_sm90.cu does with 64
 * rows of a unit and a tile of keys, in registers: scores, mask, softmax, the
 * product with V, and the rows that come of it. */
#ifndef LLM_KERNELS_PREFILL_ROWS_CUH
#define LLM_KERNELS_PREFILL_ROWS_CUH

#include "kernels/prefill_units.cuh"

#if SM90_CODE

/* Of a consumer thread: two rows, columns or keys 8 i + 2 (lane mod 4) and the
 * next one. */
template <int HD> struct rows {
    unsigned int  q[HD / 4], prob[KEYS / 4];    /* left operands */
    float         s[KEYS / 2], o[HD / 2];
    float         m[2], l[2], keep[2];
};

template <int N> static __device__ __forceinline__ void
clear(float (&r)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        r[i] = 0.0f;
    }
}

/* s = Q K^T of one warpgroup's 64 rows; issued, not waited for. */
template <typename T, int HD> static __device__ __forceinline__ void
issue_scores(float (&s)[KEYS / 2], unsigned int (&q)[HD / 4],
             const unsigned short *k)
{
    pin(s);
    wgmma_fence();
#pragma unroll
    for (int d = 0; d < HD; d += 16) {
        int  half = d / SWIZZLE_ELEMS, col = d % SWIZZLE_ELEMS;
        wgmma_rs_rows(s, q + d / 4,
                      matrix_descriptor(k + half * KEYS * SWIZZLE_ELEMS + col,
                                        16, 8 * SWIZZLE_BYTES), d > 0, T());
    }
    wgmma_commit();
    pin(s);
}

/* o += P V; issued, not waited for. */
template <typename T, int HD> static __device__ __forceinline__ void
issue_values(float (&o)[HD / 2], unsigned int (&prob)[KEYS / 4],
             const unsigned short *v)
{
    pin(o);
    pin(prob);
    wgmma_fence();
#pragma unroll
    for (int key = 0; key < KEYS; key += 16) {
        wgmma_rs(o, prob + key / 4,
                 matrix_descriptor(v + key * SWIZZLE_ELEMS,
                                   KEYS * SWIZZLE_BYTES, 8 * SWIZZLE_BYTES),
                 T());
    }
    wgmma_commit();
    pin(o);
}

/* Sets the scores of keys after a row's position to -inf. */
static __device__ __forceinline__ void
mask_scores(float (&s)[KEYS / 2], int first_key, int position)
{
    int  last = position - first_key - threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++) {
        if (i / 4 * 8 + i % 2 > last + i / 2 % 2 * 8) {
            s[i] = -INFINITY;
        }
    }
}


/* s -> exp2(scale * s - m); keep: what o and l so far are multiplied with. */
static __device__ __forceinline__ void
softmax_tile(float (&s)[KEYS / 2], float scale, float (&m)[2], float (&l)[2],
             float (&keep)[2])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float  high = s[2 * half];
#pragma unroll
        for (int i = 0; i < KEYS / 2; i += 4) {
            high = fmaxf(high, fmaxf(s[i + 2 * half], s[i + 2 * half + 1]));
        }
        high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
        high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
        high = fmaxf(m[half], high * scale);
        float  base = high == -INFINITY ? 0.0f : high, sum = 0.0f;
        keep[half] = exp2_fast(m[half] - base);
        m[half] = high;
#pragma unroll
        for (int i = 0; i < KEYS / 2; i += 4) {
#pragma unroll
            for (int c = 0; c < 2; c++) {
                float  *x = &s[i + 2 * half + c];
                *x = exp2_fast(fmaf(*x, scale, -base));
                sum += *x;
            }
        }
        l[half] = l[half] * keep[half] + sum;
    }
}

/* Accumulators of scores as left operands: four registers for 16 keys. */
template <typename T> static __device__ __forceinline__ void
pack_scores(const float (&s)[KEYS / 2], unsigned int (&prob)[KEYS / 4])
{
#pragma unroll
    for (int i = 0; i < KEYS / 4; i++) {
        prob[i] = pack<T>(s[2 * i], s[2 * i + 1]);
    }
}

template <int HD> static __device__ __forceinline__ void
rescale(float (&o)[HD / 2], const float (&keep)[2])
{
#pragma unroll
    for (int i = 0; i < HD / 2; i++) {
        o[i] *= keep[i / 2 % 2];
    }
}

/* Four lanes have 64 bytes of a row at once. */
template <typename T, int HD> static __device__ __forceinline__ void
store_rows(const struct attention_params &p, const struct unit &u,
           int first_row, const float (&o)[HD / 2], const float (&l)[2])
{
    int  lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int    row = first_row + 8 * half;
        float  sum = l[half];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        T  *out = static_cast<T *>(p.out)
                  + (static_cast<size_t>(u.row + row) * p.num_heads + u.head)
                    * HD + lane % 4 * 8;
        float  by = 1.0f / sum;
#pragma unroll
        for (int i = 0; i < HD / 8; i += 4) {
            unsigned int  w[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float  *x = &o[(i + j) * 4 + 2 * half];
                w[j] = pack<T>(x[0] * by, x[1] * by);
            }
            transpose_quad(w);
            if (row < u.num_rows) {
                *reinterpret_cast<uint4 *>(out + i * 8)
                    = make_uint4(w[0], w[1], w[2], w[3]);
            }
        }
    }
}

#endif /* SM90_CODE */

#endif
