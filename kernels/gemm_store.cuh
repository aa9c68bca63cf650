/* gemm_store.cuh - from the sums that a warp of gemm_sm90.cu has in registers
 * to rows of y: bias, rounding, silu * up, the residual.
 *
 * wgmma leaves weights along the rows of a fragment, so a lane has two rows of y
 * of one feature; fragments are turned over and gathered among four lanes until
 * each has 16 bytes of one row. */
#ifndef LLM_KERNELS_GEMM_STORE_CUH
#define LLM_KERNELS_GEMM_STORE_CUH

#include "kernels/wgmma.cuh"

#define GROUP_ROWS  16                   /* weight rows of a warp */

struct gemm_args {
    void          *y;
    const float   *bias;
    int            num, n;               /* rows and columns of y */
    int            tiles, groups;        /* of a tile, GROUP_ROWS each */
    int            units;                /* k / STAGE_K */
    int            splits;
    int            stages, stage_bytes;
    int            add, silu_mul, y_f32;
};

#if SM90_CODE

template <typename T> static __device__ __forceinline__ unsigned int
pack(float low, float high)
{
    T             v[2] = { from_float<T>(low), from_float<T>(high) };
    unsigned int  u;
    memcpy(&u, v, sizeof u);
    return u;
}

template <typename T> static __device__ __forceinline__ uint4
add_rounded(uint4 y, const unsigned int (&a)[4])
{
    T  x[8], b[8];
    memcpy(x, &y, sizeof x);
    memcpy(b, a, sizeof b);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        x[i] = from_float<T>(to_float(x[i]) + to_float(b[i]));
    }
    memcpy(&y, x, sizeof y);
    return y;
}

template <typename T> static __device__ __forceinline__ float
silu_mul(float gate, float up)
{
    gate = round_to<T>(gate);
    return __fdividef(gate, 1.0f + __expf(-gate)) * round_to<T>(up);
}

/* Four words a lane, gathered from N / 8 fragments of 8 features by 8 rows and
 * turned over: word w of lane l are then features 2 w, 2 w + 1 of one row. */
template <typename T, int N, bool SILU> static __device__ __forceinline__ void
gather_words(const float (&acc)[N / 2], int j, const float (&bias)[2],
             unsigned int (&w)[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int  at = SILU ? 4 * (j + i) : 4 * (j + i / 2) + i % 2 * 2;
        w[i] = 0;
        if (at >= N / 2) {
            continue;
        }
        if (SILU) {
            w[i] = pack<T>(silu_mul<T>(acc[at] + bias[0],
                                       acc[at + 2] + bias[1]),
                           silu_mul<T>(acc[at + 1] + bias[0],
                                       acc[at + 3] + bias[1]));
        } else {
            w[i] = pack<T>(acc[at] + bias[i % 2], acc[at + 1] + bias[i % 2]);
        }
        w[i] = transpose_fragment(w[i]);
    }
    transpose_quad(w);
}

/* A warp's 16 features (8 with SILU) of all rows. */
template <typename T, int N, bool SILU> static __device__ __forceinline__ void
store_rows(const struct gemm_args &a, const float (&acc)[N / 2], int col,
           const float (&bias)[2])
{
    constexpr int  fragments = SILU ? 4 : 2;      /* a turn */
    constexpr int  step = fragments * 8, turns = (N + step - 1) / step;
    constexpr int  batch = turns < 2 ? turns : 2; /* loads of y under way */
    int   lane = threadIdx.x % WARP, quad = lane % 4;
    int   row = SILU ? quad * 8 + lane / 4 : quad / 2 * 8 + lane / 4;
    bool  mine = !SILU || N >= 32 || quad < N / 8;
    T    *y = static_cast<T *>(a.y) + static_cast<size_t>(row) * a.n + col
              + (SILU ? 0 : quad % 2 * 8);
#pragma unroll
    for (int turn = 0; turn < turns; turn += batch) {
        uint4  old[batch];
        if (turn * step >= a.num) {
            break;
        }
#pragma unroll
        for (int i = 0; i < batch; i++) {
            int  down = (turn + i) * step;
            if (!SILU && a.add && row + down < a.num) {
                old[i] = *reinterpret_cast<const uint4 *>(
                    y + static_cast<size_t>(down) * a.n);
            }
        }
#pragma unroll
        for (int i = 0; i < batch; i++) {
            int           down = (turn + i) * step;
            unsigned int  w[4];
            gather_words<T, N, SILU>(acc, (turn + i) * fragments, bias, w);
            if (mine && row + down < a.num) {
                *reinterpret_cast<uint4 *>(y + static_cast<size_t>(down) * a.n)
                    = !SILU && a.add ? add_rounded<T>(old[i], w)
                                     : make_uint4(w[0], w[1], w[2], w[3]);
            }
        }
    }
}

template <int N> static __device__ __forceinline__ void
store_f32(const struct gemm_args &a, const float (&acc)[N / 2], int col,
          const float (&bias)[2])
{
    int     lane = threadIdx.x % WARP;
    float  *y = static_cast<float *>(a.y) + col + lane / 4;
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        int  row = i / 4 * 8 + lane % 4 * 2 + i % 2, half = i / 2 % 2;
        if (row < a.num) {
            y[static_cast<size_t>(row) * a.n + half * 8] = acc[i] + bias[half];
        }
    }
}

template <typename T, int N> static __device__ __forceinline__ void
finish(const struct gemm_args &a, const float (&acc)[N / 2], int tile)
{
    int    warp = threadIdx.x / WARP, in = threadIdx.x % WARP / 4;
    int    cols = a.silu_mul ? 8 : 16;
    int    col = (tile * a.groups + warp) * cols;
    float  bias[2] = { 0.0f, 0.0f };
    if (warp >= a.groups || col >= a.n) {
        return;
    }
    if (a.bias != NULL) {
        bias[0] = a.bias[col + in];
        bias[1] = a.bias[col + in + (a.silu_mul ? a.n : 8)];
    }
    if (a.y_f32) {
        store_f32<N>(a, acc, col, bias);
    } else if (a.silu_mul) {
        store_rows<T, N, true>(a, acc, col, bias);
    } else {
        store_rows<T, N, false>(a, acc, col, bias);
    }
}

#endif /* SM90_CODE */

#endif
