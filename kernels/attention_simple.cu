/* attention_simple.cu - paged attention for any dtype and head size.
 *
 * One warp per (row, query head), lanes along head_dim.  Two passes over the
 * keys: the maximum, then the sums, so that p_j is rounded exactly as the CPU
 * backend rounds it.  For fp32 models and odd head sizes; a query of n keys
 * costs 3 n head_dim multiply-adds and reads K twice. */
#include "kernels/common.cuh"

#define WARPS      4
#define DIMS_MAX   (KERNEL_HEAD_DIM_MAX / WARP)

static __device__ __forceinline__ size_t
key_offset(const struct attention_params &p, const int32_t *table, int key,
           int kv_head)
{
    size_t  block = static_cast<size_t>(table[key >> p.kv.block_shift]);
    size_t  token = static_cast<size_t>(key
                                        & ((1 << p.kv.block_shift) - 1));
    return (((block * p.kv.num_kv_heads + kv_head) << p.kv.block_shift)
            + token) * p.kv.head_dim;
}

static __device__ __forceinline__ float
key_score(const struct attention_params &p, const float *q, size_t at)
{
    int    lane = threadIdx.x % WARP;
    float  sum = 0.0f;
#pragma unroll
    for (int i = 0; i < DIMS_MAX; i++) {
        int  d = lane + i * WARP;
        if (d < p.kv.head_dim) {
            sum = fmaf(q[i], load_as(p.kv.k, p.kv.dtype, at + d), sum);
        }
    }
    return warp_sum(sum) * p.scale;
}

template <typename T> static __global__ void
attention_simple_kernel(struct attention_params p)
{
    int     lane = threadIdx.x % WARP;
    int     head = blockIdx.y * WARPS + threadIdx.x / WARP;
    int     head_dim = p.kv.head_dim;
    size_t  row = blockIdx.x;
    float   q[DIMS_MAX], o[DIMS_MAX], max = -INFINITY, sum = 0.0f;
    pdl_wait();
    if (head >= p.num_heads || p.row_table[row] < 0) {
        return;
    }
    int             kv_head = head / (p.num_heads / p.kv.num_kv_heads);
    const T        *x = static_cast<const T *>(p.qkv) + row * p.qkv_stride
                        + static_cast<size_t>(head) * head_dim;
    const int32_t  *table = p.block_tables + p.row_table[row];
    int  end = p.positions[row] + 1;
    int  begin = p.window > 0 && end > p.window ? end - p.window : 0;
#pragma unroll
    for (int i = 0; i < DIMS_MAX; i++) {
        int  d = lane + i * WARP;
        q[i] = d < head_dim ? to_float(x[d]) : 0.0f;
        o[i] = 0.0f;
    }
    for (int key = begin; key < end; key++) {
        max = fmaxf(max, key_score(p, q, key_offset(p, table, key, kv_head)));
    }
    for (int key = begin; key < end; key++) {
        size_t  at = key_offset(p, table, key, kv_head);
        float   e = expf(key_score(p, q, at) - max), e_t = round_to<T>(e);
        sum += e;
#pragma unroll
        for (int i = 0; i < DIMS_MAX; i++) {
            int  d = lane + i * WARP;
            if (d < head_dim) {
                o[i] = fmaf(e_t, load_as(p.kv.v, p.kv.dtype, at + d), o[i]);
            }
        }
    }
    T  *out = static_cast<T *>(p.out)
              + (row * p.num_heads + head) * head_dim;
#pragma unroll
    for (int i = 0; i < DIMS_MAX; i++) {
        int  d = lane + i * WARP;
        if (d < head_dim) {
            out[d] = from_float<T>(o[i] / sum * p.kv.v_scale);
        }
    }
}

template <typename T> static cudaError_t
attention_simple_typed(const struct attention_params *p, cudaStream_t stream)
{
    dim3  grid(static_cast<unsigned int>(p->num),
               static_cast<unsigned int>((p->num_heads + WARPS - 1) / WARPS));
    return launch_kernel(attention_simple_kernel<T>, grid, WARPS * WARP, 0,
                         stream, p->pdl, *p);
}

cudaError_t
attention_simple_launch(const struct attention_params *p, cudaStream_t stream)
{
    return DISPATCH_DTYPE(p->dtype, attention_simple_typed, p, stream);
}
