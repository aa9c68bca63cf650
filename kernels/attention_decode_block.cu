/* attention_decode_block.cu - attention of one new token a sequence on Hopper,
 * with rope and append in it, for steps of 5 rows and more whose keys are not
 * too many: every multiprocessor reads a share of them, whole rows where they
 * fit (decode_plan_rows()).
 *
 * Block b, one a multiprocessor, runs the items decode_first[b] ..
 * decode_first[b + 1] - 1, each one (sequence, kv head, range of keys).  Two
 * producer warps bring their tiles of 32 keys of K and of V through one ring for
 * the block, without a pause between items; consumer warp w takes every WARPS-th
 * tile of the block, from the w-th on.  No warp waits for another at
 * an item's end: each leaves what it has of the item in shared memory, the one
 * that counts itself last merges, and the rest are in the next item by then.
 * An item that holds not all keys of its sequence leaves a partial result in
 * memory, merged likewise.  So results depend on the plan, never on timing.
 *
 * Products are turned round: keys are the 16 rows of mma.sync m16n8k16, and the
 * query heads of the kv head its 8 columns, S^T = K Q^T and O^T = V^T P^T.  Of
 * a group of 8 heads nothing is wasted, and P^T goes from the accumulators'
 * layout to a right operand's by movmatrix.  The maximum that p is relative to
 * may lag by SLACK: then neither the output nor the sum needs rescaling, and
 * lanes need not agree.
 *
 * With rope.cos_sin the query is normed and rotated as it is loaded, and the
 * step's own key and value go to the cache and into the tile that a warp has of
 * them; no other block needs them.  All other keys, the work list and the
 * tables are older than the step, so the ring is filled before the wait for the
 * kernel that makes q, k and v.
 *
 * NaN: rows of a block outside the item's keys are what the cache holds: their
 * scores are masked by index and their V overwritten with zeros.
 *
 * Steps of more keys and an fp8 cache are attention_decode_sm90.cu's, and steps in
 * one launch have their own.  cuda_step.c has the limits, measured when the former
 * read by TMA's boxes: at 32 rows of 1,024 keys both took the same time. */
#include "kernels/decode_block_merge.cuh"

#if SM90_CODE

static __device__ __forceinline__ void
release(uint64_t *empty)
{
    __syncwarp();
    if (threadIdx.x % WARP == 0) {
        barrier_arrive(empty);
    }
}

/* The item's tile that begins at `key`. */
template <typename S> static __device__ __forceinline__ void
consume_tile(const struct decode_item &item, int key, int begin,
             const struct new_row &row, struct block_smem<S> &m,
             const struct stage_at<S::STAGES> &at, struct warp_state<S> &t)
{
    bool   whole = key >= begin && key + KEYS <= item.key_end;
    bool   newest = row.there && key + KEYS > item.position;
    char  *k = m.stages + at.stage * S::STAGE_BYTES, *v = k + S::STAGE_BYTES;
    float  s[KEYS / 16][S::TILES][4] = { };
    barrier_wait(&m.full[at.stage], at.parity);
    if (newest) {
        put_row<S>(k, item.position - key, row.k);
    }
    scores<S>(t, k, s);
    release(&m.empty[at.stage]);
    if (!whole) {
        mask_scores<S>(begin - key, item.key_end - key, s);
    }
    softmax<S>(t, s);
    barrier_wait(&m.full[at.stage + 1], at.parity);
    if (newest) {
        put_row<S>(v, item.position - key, row.v);
    }
    if (!whole) {
        mask_values<S>(v, begin - key, item.key_end - key);
    }
    values<S>(t, v, s);
    release(&m.empty[at.stage + 1]);
}

/* The warp's tiles of an item: tile first, first + WARPS .. of it. */
template <typename S> static __device__ __forceinline__ void
consume_item(const struct attention_params &p, const struct decode_item &item,
             int first, int tiles, struct block_smem<S> &m,
             struct stage_at<S::STAGES> &at, struct warp_state<S> &t)
{
    int             group = p.num_heads / p.kv.num_kv_heads;
    int             begin = item_begin(p, item);
    const float    *cos_sin = NULL;
    struct new_row  row;
    row.there = false;
    if (p.rope.cos_sin != NULL) {
        cos_sin = p.rope.cos_sin + static_cast<size_t>(item.position) * S::HD;
        if (item.key_end > item.position && (tiles - 1 - first) % S::WARPS == 0) {
            load_new_row<S>(p, item, cos_sin, row);
        }
    }
    load_query<S>(p, item, group, cos_sin, t);
    for (int i = first; i < tiles; i += S::WARPS) {
        consume_tile<S>(item, (begin / KEYS + i) * KEYS, begin, row, m, at, t);
        at.skip(2 * S::WARPS);
    }
}

template <typename S> static __device__ __forceinline__ void
consume(const struct attention_params &p, struct block_smem<S> &m)
{
    int  warp = threadIdx.x / WARP, end = p.decode_first[blockIdx.x + 1];
    struct progress             next = { 0, 0 };
    struct stage_at<S::STAGES>  at = { 2 * warp, 0 };
    for (int i = p.decode_first[blockIdx.x]; i < end; i++) {
        const struct decode_item  item = p.decode_items[i];
        int  tiles = item_tiles(item_begin(p, item), item.key_end);
        int  first = (warp + S::WARPS - next.warp) % S::WARPS;
        int  num = min(max(tiles, 1), S::WARPS);
        if (first < num) {
            struct warp_state<S>  t;
            consume_item<S>(p, item, first, tiles, m, at, t);
            leave<S>(p, item, m, next, first, num, t);
        }
        next.warp = (next.warp + tiles) % S::WARPS;
        next.shared += num > 1;
    }
}

#endif /* SM90_CODE */

template <typename S> static __global__ void
__launch_bounds__(S::THREADS, 1)
decode_block_kernel(struct attention_params p)
{
#if SM90_CODE
    extern __shared__ __align__(16) char  smem_bytes[];
    __shared__ struct block_smem<S>       m;
    bool  fused = p.rope.cos_sin != NULL;
    if (threadIdx.x == 0) {
        m.stages = smem_bytes;
        m.parts = reinterpret_cast<float *>(m.stages
                                            + S::STAGES * S::STAGE_BYTES);
        for (int i = 0; i < S::STAGES; i++) {
            barrier_init(&m.full[i], 1);
            barrier_init(&m.empty[i], 1);
        }
        for (int i = 0; i < S::PLACES; i++) {
            m.arrived[i] = m.merged[i] = 0;
        }
        barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x / WARP >= S::WARPS) {
        if (!fused) {
            pdl_wait();         /* keys of this step are in the cache */
        }
        produce<S>(p, static_cast<int>(threadIdx.x) / WARP - S::WARPS, m);
        pdl_wait();
        pdl_launch_next();
    } else {
        pdl_wait();
        consume<S>(p, m);
    }
#else
    (void) p;
#endif
}

/* ---- host ---- */

template <typename S> static cudaError_t
run(const struct attention_params *p, cudaStream_t stream)
{
    return launch_kernel(decode_block_kernel<S>,
                         static_cast<unsigned int>(p->decode_blocks), S::THREADS,
                         S::SMEM_BYTES, stream, p->pdl, *p);
}

template <typename T, int HD> static cudaError_t
run_group(const struct attention_params *p, cudaStream_t stream)
{
    int  group = p->num_heads / p->kv.num_kv_heads;
    return group <= 4 ? run<block_shape<T, HD, 4>>(p, stream)
           : group <= 8 ? run<block_shape<T, HD, 8>>(p, stream)
                        : run<block_shape<T, HD, 16>>(p, stream);
}

template <typename T> static cudaError_t
run_any(const struct attention_params *p, cudaStream_t stream)
{
    return p->kv.head_dim == 64 ? run_group<T, 64>(p, stream)
                                : run_group<T, 128>(p, stream);
}

template <typename T, int HD, int GROUP> static struct kernel_smem
smem_of(void)
{
    using S = block_shape<T, HD, GROUP>;
    return { (const void *) decode_block_kernel<S>, S::SMEM_BYTES };
}

#define SMEM_OF(T, HD)                                                        \
    smem_of<T, HD, 4>(), smem_of<T, HD, 8>(), smem_of<T, HD, 16>()

extern "C" cudaError_t
attention_decode_block_init(void)
{
    return allow_smem({ SMEM_OF(__nv_bfloat16, 64), SMEM_OF(__nv_bfloat16, 128),
                        SMEM_OF(__half, 64), SMEM_OF(__half, 128) });
}

int
attention_decode_block_takes(const struct attention_params *p)
{
    return decode_shapes_fit(p) && p->dtype == p->kv.dtype;
}

cudaError_t
attention_decode_block_launch(const struct attention_params *p,
                             cudaStream_t stream)
{
    return p->dtype == KERNEL_BF16 ? run_any<__nv_bfloat16>(p, stream)
                                   : run_any<__half>(p, stream);
}
