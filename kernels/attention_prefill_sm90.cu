/* attention_prefill_sm90.cu - causal attention of prompt chunks on Hopper:
 * wgmma over K and V that TMA brings in, block by block of the paged cache.
 *
 * One block a multiprocessor; it takes one unit of work after the other, an
 * (item of up to 128 rows, query head), from a counter, so that a unit ends while
 * the next one begins.  Warp 0 is the producer of K and V and says what comes
 * next; warps 1 and 2 bring Q for the two other warpgroups, which take 64 rows
 * each and all keys, tiles of 128 from the last key backwards, so that only the
 * first tiles need a mask.  The scores of the next tile, which may be the next
 * unit's first, are issued with the product of this tile's P and V; the softmax
 * of those scores runs under the other warpgroup's products.  Q and P are in
 * registers.  Three stages of K and of V.
 *
 * A cache block of a kv head is `block_size` rows of 256 (128) bytes: boxes of
 * 64 columns land in shared memory as the swizzled image that wgmma reads.
 *
 * NaN: tables are read for blocks that hold keys only.  Rows of the last block
 * past the last key are what the cache holds: their scores are masked by index,
 * their V is overwritten with zeros, as are blocks that were not read. */
#include "kernels/prefill_rows.cuh"

#if SM90_CODE

/* Where a consumer thread is. */
struct consumer {
    int                      group, first_row;  /* of the lane's two: + 8 */
    unsigned int             q_parity;
    struct stage_at<UNITS>   unit_at;
    struct stage_at<STAGES>  k_at, v_at;
};

/* The warp's 16 rows of Q as left operands: four registers for 16 columns. */
template <int HD> static __device__ __forceinline__ void
take_query(unsigned int (&q)[HD / 4], struct consumer &at,
           struct prefill_smem<HD> *smem)
{
    int  lane = threadIdx.x % WARP, c = lane / 16;
    int  row = at.group * 64 + threadIdx.x / WARP % 4 * 16 + lane % 16;
    barrier_wait(&smem->q_full[at.group], at.q_parity);
    at.q_parity ^= 1;
#pragma unroll
    for (int d = 0; d < HD / 16; d++) {
        load_matrix(q + d * 4, smem->q + (d / 4 * ROWS + row) * SWIZZLE_ELEMS
                               + ((d % 4 * 2 + c) ^ (row & 7)) * 8);
    }
    __syncwarp();
    release(&smem->q_empty[at.group]);
}

/* The two warpgroups take turns at issuing: one multiplies while the other is
 * in its softmax. */
static __device__ __forceinline__ void
turn_wait(int group)
{
    named_sync(BAR_TURN + group, CONSUMERS);
}

static __device__ __forceinline__ void
turn_pass(int group)
{
    named_arrive(BAR_TURN + (group ^ 1), CONSUMERS);
}

/* V rows past the last key: zeros.  Called by all consumers; nothing is done in
 * a whole tile. */
template <int HD> static __device__ __forceinline__ void
clear_tail(struct consumer &at, int num_valid, struct prefill_smem<HD> *smem)
{
    constexpr int   chunks = HD / 8;
    unsigned short *v = smem->v[at.v_at.stage];
    if (num_valid >= KEYS) {
        return;
    }
    barrier_wait(&smem->v_full[at.v_at.stage], at.v_at.parity);
    for (int i = num_valid * chunks + threadIdx.x - WARPGROUP; i < KEYS * chunks;
         i += CONSUMERS)
    {
        int  key = i / chunks, chunk = i % chunks;
        *reinterpret_cast<uint4 *>(v + ((chunk / 8) * KEYS + key)
                                       * SWIZZLE_ELEMS + chunk % 8 * 8)
            = make_uint4(0, 0, 0, 0);
    }
    async_proxy_fence();
    named_sync(BAR_CONSUMERS, CONSUMERS);
}

/* The first scores of a block. */
template <typename T, int HD> static __device__ __forceinline__ void
first_scores(struct consumer &at, struct rows<HD> &r,
             struct prefill_smem<HD> *smem)
{
    clear(r.s);
    if (at.group == 1) {
        turn_pass(1);
    }
    barrier_wait(&smem->k_full[0], 0);
    turn_wait(at.group);
    issue_scores<T, HD>(r.s, r.q, smem->k[0]);
    turn_pass(at.group);
    wgmma_wait<0>();
    pin(r.s);
    release(&smem->k_empty[0]);
    at.k_at.next();
}

/* The next tile's scores and this one's product with V, issued in one turn.
 * Waiting for both before the softmax gives V's stage back early; ptxas does so
 * too where the wait for the product is written after the softmax. */
template <typename T, int HD> static __device__ __forceinline__ void
multiply(struct consumer &at, struct rows<HD> &r, struct prefill_smem<HD> *smem)
{
    barrier_wait(&smem->k_full[at.k_at.stage], at.k_at.parity);
    turn_wait(at.group);
    issue_scores<T, HD>(r.s, r.q, smem->k[at.k_at.stage]);
    barrier_wait(&smem->v_full[at.v_at.stage], at.v_at.parity);
    issue_values<T, HD>(r.o, r.prob, smem->v[at.v_at.stage]);
    turn_pass(at.group);
    wgmma_wait<1>();
    pin(r.s);
    release(&smem->k_empty[at.k_at.stage]);
    at.k_at.next();
    wgmma_wait<0>();
    pin(r.o);
    pin(r.prob);
    release(&smem->v_empty[at.v_at.stage]);
    at.v_at.next();
}

/* Scores to P, for the first tile of a unit. */
template <typename T, int HD> static __device__ __forceinline__ void
begin_unit(const struct unit &u, int tile, float scale, struct consumer &at,
           struct rows<HD> &r, struct prefill_smem<HD> *smem)
{
    clear(r.o);
    r.m[0] = r.m[1] = -INFINITY;
    r.l[0] = r.l[1] = 0.0f;
    mask_scores(r.s, tile * KEYS, u.position + at.first_row);
    softmax_tile(r.s, scale, r.m, r.l, r.keep);
    pack_scores<T>(r.s, r.prob);
    clear_tail<HD>(at, num_keys_of(u) - tile * KEYS, smem);
}

/* The tiles after a unit's first. */
template <typename T, int HD> static __device__ __forceinline__ void
run_unit(const struct unit &u, int tile, float scale, struct consumer &at,
         struct rows<HD> &r, struct prefill_smem<HD> *smem)
{
    for (tile--; tile >= 0; tile--) {
        multiply<T, HD>(at, r, smem);
        if (tile * KEYS + KEYS - 1 > u.position + at.group * 64) {
            mask_scores(r.s, tile * KEYS, u.position + at.first_row);
        }
        softmax_tile(r.s, scale, r.m, r.l, r.keep);
        rescale<HD>(r.o, r.keep);
        pack_scores<T>(r.s, r.prob);
    }
}

template <typename T, int HD> static __device__ __forceinline__ void
consume(const struct attention_params &p, struct prefill_smem<HD> *smem)
{
    struct consumer  at = {};
    struct rows<HD>  r;
    float            scale = p.scale * LOG2_E;
    struct unit      u = hear_unit<HD>(at.unit_at, smem);
    at.group = static_cast<int>(threadIdx.x / WARPGROUP) - 1;
    at.first_row = at.group * 64 + threadIdx.x / WARP % 4 * 16
                   + threadIdx.x % WARP / 4;
    take_query<HD>(r.q, at, smem);
    first_scores<T, HD>(at, r, smem);
    begin_unit<T, HD>(u, last_tile_of(u), scale, at, r, smem);
    for (;;) {
        run_unit<T, HD>(u, last_tile_of(u), scale, at, r, smem);
        struct unit  next = hear_unit<HD>(at.unit_at, smem);
        if (next.num_rows == 0) {
            break;
        }
        take_query<HD>(r.q, at, smem);
        multiply<T, HD>(at, r, smem);
        store_rows<T, HD>(p, u, at.first_row, r.o, r.l);
        u = next;
        begin_unit<T, HD>(u, last_tile_of(u), scale, at, r, smem);
    }
    barrier_wait(&smem->v_full[at.v_at.stage], at.v_at.parity);
    issue_values<T, HD>(r.o, r.prob, smem->v[at.v_at.stage]);
    wgmma_wait<0>();
    pin(r.o);
    if (at.group == 0) {
        turn_wait(0);       /* takes the turn that group 1 passed last */
    }
    store_rows<T, HD>(p, u, at.first_row, r.o, r.l);
}

template <int HD> static __device__ __forceinline__ void
init_barriers(struct prefill_smem<HD> *smem)
{
    for (int i = 0; i < STAGES; i++) {
        barrier_init(&smem->k_full[i], 1);
        barrier_init(&smem->v_full[i], 1);
        barrier_init(&smem->k_empty[i], CONSUMER_WARPS);
        barrier_init(&smem->v_empty[i], CONSUMER_WARPS);
    }
    for (int i = 0; i < 2; i++) {
        barrier_init(&smem->q_full[i], WARP);
        barrier_init(&smem->q_empty[i], CONSUMER_WARPS / 2);
    }
    for (int i = 0; i < UNITS; i++) {
        barrier_init(&smem->unit_full[i], 1);
        barrier_init(&smem->unit_empty[i], CONSUMER_WARPS + 2);
    }
    barrier_init_fence();
}

#endif /* SM90_CODE */

template <typename T, int HD> static __global__ void
__launch_bounds__(THREADS, 1)
prefill_sm90_kernel(struct attention_params p,
                    const __grid_constant__ CUtensorMap k_map,
                    const __grid_constant__ CUtensorMap v_map)
{
#if SM90_CODE
    extern __shared__ char       smem_bytes[];
    struct prefill_smem<HD>     *smem
        = reinterpret_cast<struct prefill_smem<HD> *>(
            (reinterpret_cast<uintptr_t>(smem_bytes) + 1023)
            & ~static_cast<uintptr_t>(1023));
    int  warp = threadIdx.x / WARP;
    if (threadIdx.x == 0) {
        tma_prefetch_map(&k_map);
        tma_prefetch_map(&v_map);
        init_barriers<HD>(smem);
    }
    __syncthreads();
    pdl_wait();
    pdl_launch_next();
    if (threadIdx.x < WARPGROUP) {
        registers_give<40>();
        if (warp == 0) {
            produce<HD>(p, &k_map, &v_map, smem);
        } else if (warp < 3) {
            produce_query<HD>(p, warp - 1, smem);
        }
    } else {
        registers_take<232>();
        consume<T, HD>(p, smem);
    }
#else
    (void) p;
#endif
}

/* ---- host ---- */

template <int HD> static constexpr int
smem_bytes(void)
{
    return static_cast<int>(sizeof(struct prefill_smem<HD>)) + 1024;
}

template <typename T, int HD> static cudaError_t
run(const struct attention_params *p, cudaStream_t stream)
{
    CUtensorMap  k_map, v_map;
    cudaError_t  e = kv_maps_init(&k_map, &v_map, &p->kv, KEYS);
    if (e != cudaSuccess) {
        return e;
    }
    int64_t  units = static_cast<int64_t>(p->num_heads) * p->num;
    int64_t  blocks = units < p->decode_blocks ? units : p->decode_blocks;
    return launch_kernel(prefill_sm90_kernel<T, HD>,
                         static_cast<unsigned int>(blocks), THREADS,
                         smem_bytes<HD>(), stream, p->pdl, *p, k_map, v_map);
}

template <typename T, int HD> static struct kernel_smem
smem_of(void)
{
    return { (const void *) prefill_sm90_kernel<T, HD>, smem_bytes<HD>() };
}

extern "C" cudaError_t attention_prefill_sm90_init(void);

cudaError_t
attention_prefill_sm90_init(void)
{
    return allow_smem({ smem_of<__nv_bfloat16, 64>(),
                        smem_of<__nv_bfloat16, 128>(),
                        smem_of<__half, 64>(), smem_of<__half, 128>() });
}

int
attention_prefill_sm90_takes(const struct attention_params *p)
{
    return device_is_sm90() && p->window == 0 && p->kv.dtype == p->dtype
           && (p->kv.head_dim == 64 || p->kv.head_dim == 128)
           && p->kv.block_shift <= 6 && p->num_heads <= 65535
           && p->num <= 65535;
}

cudaError_t
attention_prefill_sm90_launch(const struct attention_params *p,
                              cudaStream_t stream)
{
    if (p->dtype == KERNEL_BF16) {
        return p->kv.head_dim == 64 ? run<__nv_bfloat16, 64>(p, stream)
                                    : run<__nv_bfloat16, 128>(p, stream);
    }
    return p->kv.head_dim == 64 ? run<__half, 64>(p, stream)
                                : run<__half, 128>(p, stream);
}

