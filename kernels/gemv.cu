/* gemv.cu - matrix products of 1 to 8 rows, bound by reading the weights.
 *
 * One block an output tile: 16 weight rows, or 8 of gate and the 8 of up that
 * belong to them.  Weights are the left operand of mma.sync m16n8k16, the rows
 * of x its 8 columns, so 1 row costs what 8 do.  Eight warps share K in turns
 * of 64; a lane loads 16 bytes of consecutive k of two weight rows and gives
 * them to two products: the order of k inside a product is free as long as x
 * has the same, so no shuffle and no shared memory is needed for weights.
 *
 * The sum of an output: each warp its k ascending, then the warps in order.  So
 * it depends on K alone, not on the number of rows.
 *
 * Launched with p->overlap a block may begin while the kernel before it runs
 * (programmatic dependent launch): it then has its first weights under way
 * before it waits for x. */
#include "kernels/mma.cuh"

#define WARPS    8
#define THREADS  (WARPS * WARP)
#define TILE     16       /* weight rows of a block */
#define CHUNK    64       /* k of a warp's turn: 128 bytes of a row */
#define UNROLL   2        /* turns under way at once */
#define DEEP_BLOCKS_PER_SM  2   /* with no more blocks than these every block
                                   has the next turns under way as well: too
                                   few others fill the memory's latency */

struct gemv_smem {
    float  sum[WARPS][TILE][GEMV_ROWS_MAX];
};

/* Two 16-byte pieces, 32 elements apart, of two weight rows. */
struct weight_chunk {
    uint4  low[2], high[2];
};

/* Not .nc, though nobody writes weights: such loads are moved behind the wait for
 * the kernel before, which costs 2 to 3 % of a step. */
static __device__ __forceinline__ uint4
load_stream(const void *p)
{
    uint4  v;
    asm volatile("ld.global.L1::no_allocate.L2::128B.v4.u32 "
                 "{%0, %1, %2, %3}, [%4];\n"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

template <typename T> static __device__ __forceinline__ void
load_weights(const T *low, const T *high, int warp, int turn, int turns,
             struct weight_chunk (&w)[UNROLL])
{
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
        int  chunk = (turn + u) * WARPS + warp;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            w[u].low[i] = w[u].high[i] = make_uint4(0, 0, 0, 0);
            if (chunk < turns) {
                w[u].low[i] = load_stream(low + chunk * CHUNK + i * 32);
                w[u].high[i] = load_stream(high + chunk * CHUNK + i * 32);
            }
        }
    }
}

template <typename T> static __device__ __forceinline__ void
multiply_chunk(float (&sum)[4], const struct weight_chunk &w, const uint4 (&x)[2])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        unsigned int  a[4] = { w.low[i].x, w.high[i].x, w.low[i].y,
                               w.high[i].y };
        unsigned int  b[2] = { x[i].x, x[i].y };
        multiply_add(sum, a, b, T());
        unsigned int  a2[4] = { w.low[i].z, w.high[i].z, w.low[i].w,
                                w.high[i].w };
        unsigned int  b2[2] = { x[i].z, x[i].w };
        multiply_add(sum, a2, b2, T());
    }
}

/* Warps meet; thread by thread an output gets what follows the product. */
template <typename T> static __device__ __forceinline__ void
finish(const struct gemv_params &p, const float (&sum)[4],
       struct gemv_smem *smem)
{
    int  lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int  outs = p.silu_mul ? TILE / 2 : TILE;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        smem->sum[warp][lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = sum[i];
    }
    __syncthreads();
    int  row = static_cast<int>(threadIdx.x) % outs;
    int  m = static_cast<int>(threadIdx.x) / outs;
    int  col = blockIdx.x * outs + row;
    if (m >= p.num) {
        return;
    }
    float  a = 0.0f, up = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        a += smem->sum[w][row][m];
        up += smem->sum[w][(row + TILE / 2) % TILE][m];
    }
    if (p.bias != NULL) {
        a += p.bias[col];
        up += p.silu_mul ? p.bias[p.n + col] : 0.0f;
    }
    size_t  at = static_cast<size_t>(m) * p.n + col;
    if (p.y_f32) {
        static_cast<float *>(p.y)[at] = a;
        return;
    }
    T  *y = static_cast<T *>(p.y) + at;
    a = round_to<T>(a);
    if (p.silu_mul) {
        a = a / (1.0f + expf(-a)) * round_to<T>(up);
    } else if (p.add) {
        a += to_float(*y);
    }
    *y = from_float<T>(a);
}

template <typename T, bool DEEP> static __global__ void
__launch_bounds__(THREADS, DEEP ? DEEP_BLOCKS_PER_SM : 3)
gemv_kernel(struct gemv_params p)
{
    __shared__ struct gemv_smem  smem;
    int       lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int       turns = p.k / CHUNK, m = lane / 4, in = lane % 4 * 8;
    size_t    first = p.silu_mul ? static_cast<size_t>(blockIdx.x) * (TILE / 2)
                                 : static_cast<size_t>(blockIdx.x) * TILE;
    size_t    apart = p.silu_mul ? p.n : TILE / 2;
    const T  *low = static_cast<const T *>(p.w) + (first + lane / 4) * p.k + in;
    const T  *high = low + apart * p.k;
    const T  *x = static_cast<const T *>(p.x);
    float     sum[4] = { 0.0f, 0.0f, 0.0f, 0.0f };
    struct weight_chunk  w[UNROLL], next[UNROLL];

    /* at once: its blocks take the places that this kernel's last wave frees,
     * and wait for the end of the whole kernel before they read its results */
    pdl_launch_next();
    load_weights<T>(low, high, warp, 0, turns, w);
    if (DEEP) {
        load_weights<T>(low, high, warp, UNROLL, turns, next);
    }
    pdl_wait();
    x += static_cast<size_t>(m) * p.k + in;
    for (int turn = 0; turn * WARPS + warp < turns; turn += UNROLL) {
        uint4  b[UNROLL][2];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            int  chunk = (turn + u) * WARPS + warp;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                b[u][i] = m < p.num && chunk < turns
                          ? *reinterpret_cast<const uint4 *>(
                                x + chunk * CHUNK + i * 32)
                          : make_uint4(0, 0, 0, 0);
            }
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            multiply_chunk<T>(sum, w[u], b[u]);
            if (DEEP) {
                w[u] = next[u];
            }
        }
        if (DEEP) {
            load_weights<T>(low, high, warp, turn + 2 * UNROLL, turns, next);
        } else if ((turn + UNROLL) * WARPS + warp < turns) {
            load_weights<T>(low, high, warp, turn + UNROLL, turns, w);
        }
    }
    finish<T>(p, sum, &smem);
}

int
gemv_takes(const struct gemv_params *p)
{
    uintptr_t  bits = reinterpret_cast<uintptr_t>(p->x)
                      | reinterpret_cast<uintptr_t>(p->w);
    return p->dtype != KERNEL_F32 && p->num <= GEMV_ROWS_MAX
           && p->k % CHUNK == 0 && p->n % (p->silu_mul ? TILE / 2 : TILE) == 0
           && bits % 16 == 0;
}

template <typename T> static cudaError_t
gemv_run(const struct gemv_params *p, cudaStream_t stream)
{
    int          device = 0, num_sms = 0;
    int          blocks = p->n / (p->silu_mul ? TILE / 2 : TILE);
    cudaError_t  e = cudaGetDevice(&device);
    if (e == cudaSuccess) {
        e = cudaDeviceGetAttribute(&num_sms, cudaDevAttrMultiProcessorCount,
                                   device);
    }
    if (e != cudaSuccess) {
        return e;
    }
    bool  deep = blocks <= num_sms * DEEP_BLOCKS_PER_SM;
    return launch_kernel(deep ? gemv_kernel<T, true> : gemv_kernel<T, false>,
                         static_cast<unsigned int>(blocks), THREADS, 0,
                         stream, p->overlap, *p);
}

cudaError_t
gemv_launch(const struct gemv_params *p, cudaStream_t stream)
{
    return p->dtype == KERNEL_BF16 ? gemv_run<__nv_bfloat16>(p, stream)
                                   : gemv_run<__half>(p, stream);
}
