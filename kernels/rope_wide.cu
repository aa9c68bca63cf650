/* rope_wide.cu - q and k norms, rotary embedding and append, 16 bytes a lane.
 *
 * The arithmetic is rope.cu's; this is for 16-bit activations, a cache of the
 * same dtype or fp8 and head_dim 64, 128 or 256.  A lane has eight elements of the
 * first half of a head and the eight that they are rotated with, so a head is
 * 4, 8 or 16 lanes and a warp has 8, 4 or 2 heads. */
#include "kernels/common.cuh"
#include "kernels/rope.cuh"

#define WARPS  4
#define WIDE   8        /* elements of 16 bytes */

template <typename T> struct alignas(16) wide {
    T  at[WIDE];
};

/* The sum over `lanes` neighbouring lanes, in each of them. */
static __device__ __forceinline__ float
head_sum(float x, int lanes)
{
    for (int step = lanes / 2; step > 0; step /= 2) {
        x += __shfl_xor_sync(0xffffffffu, x, step);
    }
    return x;
}

static __device__ __forceinline__ void
load_floats(float (&out)[WIDE], const float *p)
{
    *reinterpret_cast<float4 *>(out) = *reinterpret_cast<const float4 *>(p);
    *reinterpret_cast<float4 *>(out + 4)
        = *reinterpret_cast<const float4 *>(p + 4);
}

template <typename T> static __device__ __forceinline__ void
norm_head(float (&a)[WIDE], float (&b)[WIDE], const float *weight, float eps,
          int head_dim, int j)
{
    float  sum = 0.0f, low[WIDE], high[WIDE];
#pragma unroll
    for (int i = 0; i < WIDE; i++) {
        sum += a[i] * a[i] + b[i] * b[i];
    }
    sum = head_sum(sum, head_dim / (2 * WIDE));
    float  r = __frsqrt_rn(sum / static_cast<float>(head_dim) + eps);
    load_floats(low, weight + j);
    load_floats(high, weight + head_dim / 2 + j);
#pragma unroll
    for (int i = 0; i < WIDE; i++) {
        a[i] = round_to<T>(a[i] * r * low[i]);
        b[i] = round_to<T>(b[i] * r * high[i]);
    }
}

static __device__ __forceinline__ void
rotate(float (&a)[WIDE], float (&b)[WIDE], const float *cos_sin, int half,
       int j)
{
    float  c[WIDE], s[WIDE];
    load_floats(c, cos_sin + j);
    load_floats(s, cos_sin + half + j);
#pragma unroll
    for (int i = 0; i < WIDE; i++) {
        rotate_pair(a[i], b[i], c[i], s[i]);
    }
}

template <typename T> static __device__ __forceinline__ void
store_halves(T *p, int half, const float (&a)[WIDE], const float (&b)[WIDE])
{
    struct wide<T>  low, high;
#pragma unroll
    for (int i = 0; i < WIDE; i++) {
        low.at[i] = from_float<T>(a[i]);
        high.at[i] = from_float<T>(b[i]);
    }
    *reinterpret_cast<struct wide<T> *>(p) = low;
    *reinterpret_cast<struct wide<T> *>(p + half) = high;
}

/* The same to an fp8 cache. */
static __device__ __forceinline__ void
store_codes(void *p, int half, float scale, const float (&a)[WIDE],
            const float (&b)[WIDE])
{
    struct alignas(WIDE) {
        __nv_fp8_storage_t  at[WIDE];
    }  low, high;
#pragma unroll
    for (int i = 0; i < WIDE; i++) {
        low.at[i] = __nv_cvt_float_to_fp8(__fdiv_rn(a[i], scale),
                                          __NV_SATFINITE, __NV_E4M3);
        high.at[i] = __nv_cvt_float_to_fp8(__fdiv_rn(b[i], scale),
                                           __NV_SATFINITE, __NV_E4M3);
    }
    memcpy(__builtin_assume_aligned(p, WIDE), &low, WIDE);
    memcpy(__builtin_assume_aligned(static_cast<char *>(p) + half, WIDE),
           &high, WIDE);
}

/* Every lane of a warp stays to the end: norms shuffle. */
template <typename T> static __global__ void
rope_wide_kernel(struct rope_params p)
{
    int     head_dim = p.kv.head_dim, half = head_dim / 2;
    int     lanes = half / WIDE, num_kv = p.kv.num_kv_heads;
    int     num_heads = p.num_heads + 2 * num_kv;
    int     index = (blockIdx.y * WARPS * WARP + threadIdx.x) / lanes;
    int     j = static_cast<int>(threadIdx.x) % lanes * WIDE;
    size_t  row = blockIdx.x;
    bool    valid = index < num_heads;
    int     head = valid ? index : 0;
    bool    is_q = head < p.num_heads, is_v = head >= p.num_heads + num_kv;
    float   a[WIDE], b[WIDE];
    pdl_wait();
    int     slot = p.slots[row];
    T      *x = static_cast<T *>(p.qkv) + (row * num_heads + head) * head_dim
                + j;
    struct wide<T>  low = *reinterpret_cast<const struct wide<T> *>(x);
    struct wide<T>  high = *reinterpret_cast<const struct wide<T> *>(x + half);
    const float    *cos_sin = p.cos_sin
                              + static_cast<size_t>(p.positions[row])
                                * head_dim;
#pragma unroll
    for (int i = 0; i < WIDE; i++) {
        a[i] = to_float(low.at[i]);
        b[i] = to_float(high.at[i]);
    }
    if (p.q_norm != NULL || p.k_norm != NULL) {
        /* one call for all lanes: v and unnormed heads throw theirs away */
        const float  *weight = is_q ? p.q_norm : p.k_norm;
        float         u[WIDE], v[WIDE];
#pragma unroll
        for (int i = 0; i < WIDE; i++) {
            u[i] = a[i];
            v[i] = b[i];
        }
        norm_head<T>(u, v, weight != NULL ? weight
                           : p.q_norm != NULL ? p.q_norm : p.k_norm,
                     is_q ? p.q_eps : p.k_eps, head_dim, j);
#pragma unroll
        for (int i = 0; i < WIDE; i++) {
            a[i] = weight != NULL && !is_v ? u[i] : a[i];
            b[i] = weight != NULL && !is_v ? v[i] : b[i];
        }
    }
    pdl_launch_next();
    if (!valid || (!is_q && slot < 0)) {
        return;
    }
    if (!is_v) {
        rotate(a, b, cos_sin, half, j);
    }
    if (is_q) {
        store_halves<T>(x, half, a, b);
        return;
    }
    int     kv_head = is_v ? head - p.num_heads - num_kv : head - p.num_heads;
    size_t  block = static_cast<size_t>(slot >> p.kv.block_shift);
    size_t  token = static_cast<size_t>(slot & ((1 << p.kv.block_shift) - 1));
    size_t  at = (((block * num_kv + kv_head) << p.kv.block_shift) + token)
                 * head_dim + j;
    void   *cache = is_v ? p.kv.v : p.kv.k;
    if (p.kv.dtype == KERNEL_F8_E4M3) {
        store_codes(static_cast<char *>(cache) + at, half,
                    is_v ? p.kv.v_scale : p.kv.k_scale, a, b);
        return;
    }
    store_halves<T>(static_cast<T *>(cache) + at, half, a, b);
}

int
rope_wide_takes(const struct rope_params *p)
{
    int        hd = p->kv.head_dim;
    uintptr_t  bits = reinterpret_cast<uintptr_t>(p->qkv)
                      | reinterpret_cast<uintptr_t>(p->cos_sin)
                      | reinterpret_cast<uintptr_t>(p->q_norm)
                      | reinterpret_cast<uintptr_t>(p->k_norm)
                      | reinterpret_cast<uintptr_t>(p->kv.k)
                      | reinterpret_cast<uintptr_t>(p->kv.v);
    return p->dtype != KERNEL_F32
           && (p->kv.dtype == p->dtype || p->kv.dtype == KERNEL_F8_E4M3)
           && (hd == 64 || hd == 128 || hd == 256) && bits % 16 == 0;
}

template <typename T> static cudaError_t
rope_wide_typed(const struct rope_params *p, cudaStream_t stream)
{
    int   lanes = (p->num_heads + 2 * p->kv.num_kv_heads)
                  * (p->kv.head_dim / (2 * WIDE));
    dim3  grid(static_cast<unsigned int>(p->num),
               static_cast<unsigned int>((lanes + WARPS * WARP - 1)
                                         / (WARPS * WARP)));
    return launch_kernel(rope_wide_kernel<T>, grid, WARPS * WARP, 0, stream,
                         p->pdl, *p);
}

cudaError_t
rope_wide_launch(const struct rope_params *p, cudaStream_t stream)
{
    return p->dtype == KERNEL_BF16 ? rope_wide_typed<__nv_bfloat16>(p, stream)
                                   : rope_wide_typed<__half>(p, stream);
}
