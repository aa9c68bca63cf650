/* attention_decode.cu - attention of one new token a sequence, keys split.
 *
 * A block takes one (item, kv head) after the other; see attention_tile.cuh.
 * K and V are read once for the whole group of query heads, 16 bytes a thread.
 * The four warps take 16 of each 64 keys and are merged through shared memory.  A row whose
 * keys are split over several items leaves (m, l, o) of each in memory; the
 * block that counts itself last merges them in the order of the parts.
 *
 * Measured on an H200, bf16, head_dim 128, 32 query and 8 kv heads, 1,024 keys:
 * batch 256 316 us = 3.4 TB/s of 4.55, batch 1 14 us with
 * 256 keys a part, which leave 32 blocks for 132 multiprocessors; cuda_step.c
 * makes such parts shorter now. */
#include "kernels/attention_tile.cuh"

/* Exponent weights: e = 0 for a part that saw no key (its o is unwritten). */
static __device__ __forceinline__ float
part_weight(float m, float l, float m_all)
{
    return l == 0.0f ? 0.0f : exp2f(m - (m_all == -INFINITY ? 0.0f : m_all));
}

/* The warps' results through shared memory (over the K and V stages). */
template <typename S> struct warps_smem {
    float m[TILE_WARPS][16], l[TILE_WARPS][16];
    float o[TILE_WARPS][16][S::HD];
};

template <typename S> static __device__ __forceinline__ void
warps_store(const struct tile_state<S> &t, int group, struct warps_smem<S> *w)
{
    int  lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int  row = lane / 4 + 8 * half;
        if (row >= group) {
            continue;
        }
        if (lane % 4 == 0) {
            w->m[warp][row] = t.m[half];
            w->l[warp][row] = t.l[half];
        }
#pragma unroll
        for (int i = 0; i < S::HD / 8; i++) {
            float  *to = &w->o[warp][row][column_of<S::FP8>(i)];
            to[0] = t.o[i][2 * half];
            to[1] = t.o[i][2 * half + 1];
        }
    }
}

/* Merges the warps: one part means the output, several a partial result. */
template <typename S> static __device__ __forceinline__ void
warps_merge(const struct attention_params &p, const struct attention_item &item,
            int first_head, int group, const struct warps_smem<S> *w)
{
    using T = typename S::IO;
    for (int i = threadIdx.x; i < group * S::HD; i += TILE_THREADS) {
        int    row = i / S::HD, col = i % S::HD;
        float  m = -INFINITY, l = 0.0f, o = 0.0f;
        for (int k = 0; k < TILE_WARPS; k++) {
            m = fmaxf(m, w->m[k][row]);
        }
        for (int k = 0; k < TILE_WARPS; k++) {
            float  e = part_weight(w->m[k][row], w->l[k][row], m);
            l += e * w->l[k][row];
            o += e * w->o[k][row][col];
        }
        size_t  head = static_cast<size_t>(first_head + row);
        if (item.num_parts == 1) {
            static_cast<T *>(p.out)[(static_cast<size_t>(item.row)
                                     * p.num_heads + head) * S::HD + col]
                = from_float<T>(o / l * p.kv.v_scale);
            continue;
        }
        size_t  at = (static_cast<size_t>(item.partial) + item.part)
                     * p.num_heads + head;
        p.partial_out[at * S::HD + col] = o;
        if (col == 0) {
            p.partial_ml[2 * at] = m;
            p.partial_ml[2 * at + 1] = l;
        }
    }
}

/* True in every thread of the block that ends last of the item's parts. */
static __device__ __forceinline__ bool
is_last_part(const struct attention_params &p,
             const struct attention_item &item)
{
    __shared__ bool  last;
    __syncthreads();                    /* the block's partial results */
    if (threadIdx.x == 0) {
        __threadfence();
        unsigned int  *counter = p.counters
                                 + static_cast<size_t>(item.seq)
                                   * p.kv.num_kv_heads + blockIdx.y;
        unsigned int   limit = static_cast<unsigned int>(item.num_parts) - 1;
        last = atomicInc(counter, limit) == limit;    /* wraps to 0 */
        __threadfence();
    }
    __syncthreads();
    return last;
}

/* Four columns a thread; the loads of several parts are under way at once. */
template <typename S> static __device__ __forceinline__ void
parts_merge(const struct attention_params &p, const struct attention_item &item,
            int first_head, int group)
{
    using T = typename S::IO;
    float   scale = p.kv.v_scale;
    size_t  stride = static_cast<size_t>(p.num_heads);    /* part to part */
    for (int i = threadIdx.x; i < group * S::HD / 4; i += TILE_THREADS) {
        int     col = i % (S::HD / 4) * 4;
        size_t  head = static_cast<size_t>(first_head + i / (S::HD / 4));
        size_t  first = static_cast<size_t>(item.partial) * stride + head;
        float   m = -INFINITY, l = 0.0f;
        float4  o = { 0.0f, 0.0f, 0.0f, 0.0f };
        const float2  *ml = reinterpret_cast<const float2 *>(p.partial_ml);
#pragma unroll 4
        for (int k = 0; k < item.num_parts; k++) {
            m = fmaxf(m, __ldcg(&ml[first + k * stride]).x);
        }
#pragma unroll 4
        for (int k = 0; k < item.num_parts; k++) {
            size_t  at = first + k * stride;
            float2  part = __ldcg(&ml[at]);
            float4  o_k = __ldcg(reinterpret_cast<const float4 *>(
                p.partial_out + at * S::HD + col));
            float   e = part_weight(part.x, part.y, m);
            l += e * part.y;
            o.x += e * o_k.x;
            o.y += e * o_k.y;
            o.z += e * o_k.z;
            o.w += e * o_k.w;
        }
        uint2  *out = reinterpret_cast<uint2 *>(
            static_cast<T *>(p.out)
            + (static_cast<size_t>(item.row) * p.num_heads + head) * S::HD
            + col);
        *out = make_uint2(pack<T>(o.x / l * scale, o.y / l * scale),
                          pack<T>(o.z / l * scale, o.w / l * scale));
    }
}

template <typename S> static __device__ __forceinline__ void
decode_item(const struct attention_params &p, const struct attention_item &item,
            typename S::T *smem, bool wait)
{
    __shared__ float  row_scale[S::ROWS];
    int  kv_head = blockIdx.y, group = p.num_heads / p.kv.num_kv_heads;
    int  first_head = kv_head * group, pos = item.position;
    struct tile_span  span = { pos, 0, p.window, item.key_begin,
                               item.key_end };
    struct tile_state<S>  t;
    static_assert(sizeof(struct warps_smem<S>)
                  <= S::STAGES * S::STAGE * sizeof(typename S::KV), "merge fits over the stages");
    if (p.window > 0) {
        span.begin = max(span.begin, pos + 1 - p.window);
    }
    const int32_t  *table = p.block_tables + item.table;
    bool            begun = false;
    if (wait) {
        /* keys before the row's own are older than the step */
        begun = min(span.begin / TILE_KEYS * TILE_KEYS + TILE_KEYS, span.end)
                <= pos;
        if (begun) {
            tile_begin<S>(p, table, kv_head, span, smem);
        }
        pdl_wait();
    }
    tile_bring_query<S>(static_cast<const typename S::IO *>(p.qkv)
                        + static_cast<size_t>(item.row) * p.qkv_stride
                        + static_cast<size_t>(first_head) * S::HD, S::HD,
                        group, p.scale * LOG2_E, smem, row_scale);
    if (begun) {
        copy_commit();
    }
    tile_run<S>(p, table, kv_head, span, smem, row_scale, t, begun);
    struct warps_smem<S>  *w = reinterpret_cast<struct warps_smem<S> *>(
        smem + S::ROWS * S::STRIDE);
    copy_wait<0>();
    __syncthreads();
    warps_store<S>(t, group, w);
    __syncthreads();
    warps_merge<S>(p, item, first_head, group, w);
    if (item.num_parts > 1 && is_last_part(p, item)) {
        parts_merge<S>(p, item, first_head, group);
    }
}

template <typename S> static __global__ void __launch_bounds__(TILE_THREADS)
decode_kernel(struct attention_params p)
{
    extern __shared__ uint4  smem_bytes[];
    int  num_items = *p.num_items;      /* as old as the step: no wait */
    if (static_cast<int>(blockIdx.x) >= num_items) {
        pdl_wait();
    }
    for (int i = blockIdx.x; i < num_items; i += gridDim.x) {
        const struct attention_item  item = p.items[i];
        decode_item<S>(p, item, reinterpret_cast<typename S::T *>(smem_bytes),
                       i == static_cast<int>(blockIdx.x));
        __syncthreads();                /* shared memory is free again */
    }
    pdl_launch_next();
}

/* Columns of blocks that fill the GPU once: no more than there can be items. */
template <typename S> static cudaError_t
decode_columns(const struct attention_params *p, unsigned int *columns)
{
    int  device = 0, num_sms = 0, per_sm = 0, heads = p->kv.num_kv_heads;
    cudaError_t  e = cudaGetDevice(&device);
    if (e == cudaSuccess) {
        e = cudaDeviceGetAttribute(&num_sms, cudaDevAttrMultiProcessorCount,
                                   device);
    }
    if (e == cudaSuccess) {
        e = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
            &per_sm, decode_kernel<S>, TILE_THREADS, S::SMEM_BYTES);
    }
    int  fill = (num_sms * per_sm + heads - 1) / heads;
    *columns = static_cast<unsigned int>(max(1, min(p->num, fill)));
    return e;
}

template <typename S> static cudaError_t
decode_run(const struct attention_params *p, cudaStream_t stream)
{
    unsigned int  columns;
    cudaError_t   e = decode_columns<S>(p, &columns);
    if (e != cudaSuccess) {
        return e;
    }
    return launch_kernel(decode_kernel<S>,
                         dim3(columns, static_cast<unsigned int>(
                             p->kv.num_kv_heads)),
                         TILE_THREADS, S::SMEM_BYTES, stream, p->pdl, *p);
}

cudaError_t
attention_decode_launch(const struct attention_params *p, cudaStream_t stream)
{
    return tile_of<1>(p->dtype, p->kv.dtype, p->kv.head_dim, [&](auto shape) {
        return decode_run<decltype(shape)>(p, stream);
    });
}

extern "C" cudaError_t
attention_decode_init(void)
{
    return tile_each<1>([](auto shape) {
        using S = decltype(shape);
        return allow_smem({ { (const void *) decode_kernel<S>,
                              S::SMEM_BYTES } });
    });
}

/* Whether a block may have what the prefill kernel needs, the larger of both:
 * with head_dim 256 it is Hopper's.  Asked of the device only then. */
static bool
tile_fits(const struct attention_params *p)
{
    int  bytes = 0, most = 0;
    (void) tile_of<TILE_WARPS>(p->dtype, p->kv.dtype, p->kv.head_dim,
                               [&](auto shape) {
        bytes = decltype(shape)::SMEM_BYTES;
        return cudaSuccess;
    });
    return bytes <= SMEM_BYTES_EVERYWHERE
           || (smem_max_of_device(&most) == cudaSuccess && bytes <= most);
}

int
attention_tile_takes(const struct attention_params *p)
{
    int  hd = p->kv.head_dim;
    return p->dtype != KERNEL_F32
           && (p->dtype == p->kv.dtype || p->kv.dtype == KERNEL_F8_E4M3)
           && (hd == 64 || hd == 96 || hd == 128 || hd == 256)
           && p->num_heads / p->kv.num_kv_heads <= ATTENTION_GROUP_MAX
           && tile_fits(p);
}
