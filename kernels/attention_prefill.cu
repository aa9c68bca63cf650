/* attention_prefill.cu - causal attention of prompt chunks on tensor cores.
 *
 * One block per (64 rows of an item, query head); see attention_tile.cuh.  K
 * and V of a kv head are read once per query head, from L2 mostly.  For what
 * attention_prefill_sm90.cu does not take. */
#include "kernels/attention_tile.cuh"

template <typename S> static __global__ void __launch_bounds__(TILE_THREADS)
prefill_kernel(struct attention_params p)
{
    using T = typename S::T;
    using IO = typename S::IO;
    extern __shared__ uint4      smem_bytes[];
    __shared__ float             row_scale[S::ROWS];
    T                           *smem = reinterpret_cast<T *>(smem_bytes);
    struct attention_item        item = p.items[blockIdx.x];
    int  skip = blockIdx.z * S::ROWS;
    if (skip >= item.num_rows) {
        return;
    }
    item.row += skip;
    item.position += skip;
    item.num_rows = min(item.num_rows - skip, S::ROWS);
    int  head = blockIdx.y, lane = threadIdx.x % WARP;
    int  kv_head = head / (p.num_heads / p.kv.num_kv_heads);
    int  pos0 = item.position;
    struct tile_span  span = { pos0, 1, p.window, 0, pos0 + item.num_rows };
    struct tile_state<S>  t;
    if (p.window > 0) {
        span.begin = max(0, pos0 + 1 - p.window);
    }
    tile_bring_query<S>(static_cast<const typename S::IO *>(p.qkv)
                        + static_cast<size_t>(item.row) * p.qkv_stride
                        + static_cast<size_t>(head) * S::HD, p.qkv_stride,
                        item.num_rows, p.scale * LOG2_E, smem, row_scale);
    tile_run<S>(p, p.block_tables + item.table, kv_head, span, smem, row_scale,
                t);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int  row = threadIdx.x / WARP * 16 + lane / 4 + 8 * half;
        if (row >= item.num_rows) {
            continue;
        }
        float  scale = p.kv.v_scale;
        IO    *out = static_cast<IO *>(p.out)
                  + (static_cast<size_t>(item.row + row) * p.num_heads + head)
                    * S::HD + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < S::HD / 8; i++) {
            *reinterpret_cast<unsigned int *>(out + i * 8)
                = pack<IO>(t.o[i][2 * half] / t.l[half] * scale,
                           t.o[i][2 * half + 1] / t.l[half] * scale);
        }
    }
}

template <typename S> static cudaError_t
prefill_run(const struct attention_params *p, cudaStream_t stream)
{
    dim3  grid(static_cast<unsigned int>(p->num),
               static_cast<unsigned int>(p->num_heads),
              (ATTENTION_ROWS + S::ROWS - 1) / S::ROWS);
    prefill_kernel<S><<<grid, TILE_THREADS, S::SMEM_BYTES, stream>>>(*p);
    return cudaGetLastError();
}

cudaError_t
attention_prefill_launch(const struct attention_params *p, cudaStream_t stream)
{
    return tile_of<TILE_WARPS>(p->dtype, p->kv.dtype, p->kv.head_dim,
                               [&](auto shape) {
        return prefill_run<decltype(shape)>(p, stream);
    });
}

extern "C" cudaError_t attention_decode_init(void);
extern "C" cudaError_t attention_prefill_sm90_init(void);
extern "C" cudaError_t attention_decode_sm90_init(void);
extern "C" cudaError_t attention_decode_block_init(void);

cudaError_t
attention_init(void)
{
    cudaError_t  e = tile_each<TILE_WARPS>([](auto shape) {
        using S = decltype(shape);
        return allow_smem({ { (const void *) prefill_kernel<S>,
                              S::SMEM_BYTES } });
    });
    for (cudaError_t (*init)(void) : { attention_decode_init,
                                       attention_prefill_sm90_init,
                                       attention_decode_sm90_init,
                                       attention_decode_block_init })
    {
        e = e == cudaSuccess ? init() : e;
    }
    return e;
}
