/* attention_prefill_sm90.cu - causal attention of prompt chunks on Hopper:
 * wgmma over K and V that TMA brings in, block by block of the paged cache.
 *
 * One block per (item of up to 128 rows, query head).  One warp of the first
 * warpgroup is the producer; the two other warpgroups take 64 rows each and
 * all keys, tiles of 128 from the last key backwards, so that only the first
 * tiles need a mask.  The scores of tile j - 1 are computed while P of tile j
 * is multiplied with V; P stays in registers.  Two stages of K and of V.
 *
 * A cache block of a kv head is `block_size` rows of 256 (128) bytes: boxes of
 * 64 columns land in shared memory as the swizzled image that wgmma reads.
 *
 * NaN: tables are read for blocks that hold keys only.  Rows of the last block
 * past the last key are what the cache holds: their scores are masked by index,
 * their V is overwritten with zeros, as are blocks that were not read. */
#include "kernels/kv_map.cuh"

#define ROWS           128      /* of an item */
#define KEYS           128      /* of a tile */
#define STAGES         2
#define THREADS        (3 * WARPGROUP)
#define CONSUMERS      (2 * WARPGROUP)
#define CONSUMER_WARPS 8
#define BAR_TURN       1        /* and 2: whose turn it is at the tensor core */
#define BAR_CONSUMERS  3

template <int HD> struct prefill_smem {
    alignas(1024) unsigned short  q[ROWS * HD];
    unsigned short  k[STAGES][KEYS * HD];
    unsigned short  v[STAGES][KEYS * HD];
    uint64_t        k_full[STAGES], k_empty[STAGES];
    uint64_t        v_full[STAGES], v_empty[STAGES];
};

#if SM90_CODE

/* One tile of K or V: each lane a block of the cache. */
template <int HD> static __device__ __forceinline__ void
load_tile(const struct attention_params &p, const CUtensorMap *map,
          const int32_t *table, int kv_head, int first_key, int num_keys,
          unsigned short *tile, uint64_t *full)
{
    int  lane = threadIdx.x % WARP, block_size = 1 << p.kv.block_shift;
    int  last = min(KEYS, num_keys - first_key);
    int  num_blocks = (last + block_size - 1) >> p.kv.block_shift;
    if (lane == 0) {
        barrier_arrive_expect(full, static_cast<unsigned int>(
                                        num_blocks * block_size * HD * 2));
    }
    __syncwarp();
    if (lane < num_blocks) {
        int  block = table[(first_key >> p.kv.block_shift) + lane];
        int  row = (block * p.kv.num_kv_heads + kv_head) << p.kv.block_shift;
#pragma unroll
        for (int half = 0; half < HD / SWIZZLE_ELEMS; half++) {
            tma_load_2d(tile + (half * KEYS + lane * block_size)
                               * SWIZZLE_ELEMS,
                        map, half * SWIZZLE_ELEMS, row, full);
        }
    }
}

template <int HD> static __device__ __forceinline__ void
produce(const struct attention_params &p, const CUtensorMap *k_map,
        const CUtensorMap *v_map, const int32_t *table, int kv_head,
        int num_keys, struct prefill_smem<HD> *smem)
{
    struct stage_at<STAGES>  at = { 0, 1 };
    for (int tile = (num_keys - 1) / KEYS; tile >= 0; tile--) {
        barrier_wait(&smem->k_empty[at.stage], at.parity);
        load_tile<HD>(p, k_map, table, kv_head, tile * KEYS, num_keys,
                      smem->k[at.stage], &smem->k_full[at.stage]);
        barrier_wait(&smem->v_empty[at.stage], at.parity);
        load_tile<HD>(p, v_map, table, kv_head, tile * KEYS, num_keys,
                      smem->v[at.stage], &smem->v_full[at.stage]);
        at.next();
    }
}

/* Rows of Q into the swizzled image; rows past the item repeat its first. */
template <int HD> static __device__ __forceinline__ void
load_query(const struct attention_params &p, const struct attention_item &item,
           int head, unsigned short *q)
{
    constexpr int  chunks = HD / 8;
    const char    *qkv = static_cast<const char *>(p.qkv);
    for (int i = threadIdx.x - WARPGROUP; i < ROWS * chunks; i += CONSUMERS) {
        int     row = i / chunks, chunk = i % chunks;
        int     half = chunk / 8, c = chunk % 8;
        size_t  from = static_cast<size_t>(item.row
                                           + (row < item.num_rows ? row : 0))
                       * p.qkv_stride + static_cast<size_t>(head) * HD
                       + chunk * 8;
        uint4   data = *reinterpret_cast<const uint4 *>(qkv + from * 2);
        *reinterpret_cast<uint4 *>(q + (half * ROWS + row) * SWIZZLE_ELEMS
                                   + (c ^ (row & 7)) * 8) = data;
    }
    async_proxy_fence();
}

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
issue_scores(float (&s)[KEYS / 2], const unsigned short *q,
             const unsigned short *k)
{
    pin(s);
    wgmma_fence();
#pragma unroll
    for (int d = 0; d < HD; d += 16) {
        int  half = d / SWIZZLE_ELEMS, col = d % SWIZZLE_ELEMS;
        wgmma_ss(s, matrix_descriptor(q + half * ROWS * SWIZZLE_ELEMS + col,
                                      16, 8 * SWIZZLE_BYTES),
                 matrix_descriptor(k + half * KEYS * SWIZZLE_ELEMS + col, 16,
                                   8 * SWIZZLE_BYTES), d > 0, T());
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
    int  lane = threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++) {
        int  key = first_key + i / 4 * 8 + lane % 4 * 2 + i % 2;
        if (key > position + i / 2 % 2 * 8) {
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

template <typename T> static __device__ __forceinline__ unsigned int
pack2(float low, float high)
{
    T               pair[2] = { from_float<T>(low), from_float<T>(high) };
    unsigned short  bits[2];
    memcpy(bits, pair, sizeof bits);
    return bits[0] | static_cast<unsigned int>(bits[1]) << 16;
}

/* Accumulators of scores as left operands: four registers for 16 keys. */
template <typename T> static __device__ __forceinline__ void
pack_scores(const float (&s)[KEYS / 2], unsigned int (&prob)[KEYS / 4])
{
#pragma unroll
    for (int i = 0; i < KEYS / 4; i++) {
        prob[i] = pack2<T>(s[2 * i], s[2 * i + 1]);
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

/* V rows past the last key: zeros.  Called by all consumers. */
template <int HD> static __device__ __forceinline__ void
clear_tail(unsigned short *v, int num_valid)
{
    constexpr int  chunks = HD / 8;
    int  first = num_valid * chunks;
    for (int i = first + threadIdx.x - WARPGROUP; i < KEYS * chunks;
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

static __device__ __forceinline__ void
release(uint64_t *empty)
{
    if (threadIdx.x % WARP == 0) {
        barrier_arrive(empty);
    }
}

template <typename T, int HD> static __device__ __forceinline__ void
store_rows(const struct attention_params &p, const struct attention_item &item,
           int head, int first_row, const float (&o)[HD / 2],
           const float (&l)[2])
{
    int  lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int    row = first_row + 8 * half;
        float  sum = l[half];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (row >= item.num_rows) {
            continue;
        }
        T  *out = static_cast<T *>(p.out)
                  + (static_cast<size_t>(item.row + row) * p.num_heads + head)
                    * HD + lane % 4 * 2;
        float  by = 1.0f / sum;
#pragma unroll
        for (int i = 0; i < HD / 8; i++) {
            *reinterpret_cast<unsigned int *>(out + i * 8)
                = pack2<T>(o[i * 4 + 2 * half] * by,
                           o[i * 4 + 2 * half + 1] * by);
        }
    }
}

template <typename T, int HD> static __device__ __forceinline__ void
consume(const struct attention_params &p, const struct attention_item &item,
        int head, int num_keys, struct prefill_smem<HD> *smem)
{
    int           group = threadIdx.x / WARPGROUP - 1;
    int           lane = threadIdx.x % WARP;
    int           warp = threadIdx.x / WARP % 4;
    int           first_row = group * 64 + warp * 16 + lane / 4;
    int           position = item.position + first_row;
    int           tile = (num_keys - 1) / KEYS;
    const unsigned short *q = smem->q + group * 64 * SWIZZLE_ELEMS;
    float         scale = p.scale * LOG2_E;
    float         m[2] = { -INFINITY, -INFINITY }, l[2] = { 0.0f, 0.0f };
    float         keep[2], o[HD / 2], s[KEYS / 2];
    unsigned int  prob[KEYS / 4];
    struct stage_at<STAGES>  k_at = { 0, 0 }, v_at = { 0, 0 };

    clear(o);
    clear(s);
    load_query<HD>(p, item, head, smem->q);
    named_sync(BAR_CONSUMERS, CONSUMERS);
    if (group == 1) {
        turn_pass(1);
    }
    barrier_wait(&smem->k_full[0], 0);
    turn_wait(group);
    issue_scores<T, HD>(s, q, smem->k[0]);
    turn_pass(group);
    wgmma_wait<0>();
    pin(s);
    release(&smem->k_empty[0]);
    k_at.next();
    mask_scores(s, tile * KEYS, position);
    softmax_tile(s, scale, m, l, keep);
    pack_scores<T>(s, prob);
    barrier_wait(&smem->v_full[0], 0);
    if (num_keys < (tile + 1) * KEYS) {
        clear_tail<HD>(smem->v[0], num_keys - tile * KEYS);
    }
    for (tile--; tile >= 0; tile--) {
        barrier_wait(&smem->k_full[k_at.stage], k_at.parity);
        turn_wait(group);
        issue_scores<T, HD>(s, q, smem->k[k_at.stage]);
        barrier_wait(&smem->v_full[v_at.stage], v_at.parity);
        issue_values<T, HD>(o, prob, smem->v[v_at.stage]);
        turn_pass(group);
        wgmma_wait<1>();
        pin(s);
        release(&smem->k_empty[k_at.stage]);
        if (tile * KEYS + KEYS - 1 > item.position + group * 64) {
            mask_scores(s, tile * KEYS, position);
        }
        softmax_tile(s, scale, m, l, keep);
        wgmma_wait<0>();
        pin(o);
        pin(prob);
        release(&smem->v_empty[v_at.stage]);
        rescale<HD>(o, keep);
        pack_scores<T>(s, prob);
        k_at.next();
        v_at.next();
    }
    barrier_wait(&smem->v_full[v_at.stage], v_at.parity);
    issue_values<T, HD>(o, prob, smem->v[v_at.stage]);
    wgmma_wait<0>();
    pin(o);
    if (group == 0) {
        turn_wait(0);       /* takes the turn that group 1 passed last */
    }
    store_rows<T, HD>(p, item, head, first_row, o, l);
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
    const struct attention_item  item = p.items[blockIdx.y];
    int  head = blockIdx.x;
    int  kv_head = head / (p.num_heads / p.kv.num_kv_heads);
    int  num_keys = item.position + item.num_rows;
    if (threadIdx.x == 0) {
        tma_prefetch_map(&k_map);
        tma_prefetch_map(&v_map);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&smem->k_full[i], 1);
            barrier_init(&smem->v_full[i], 1);
            barrier_init(&smem->k_empty[i], CONSUMER_WARPS);
            barrier_init(&smem->v_empty[i], CONSUMER_WARPS);
        }
        barrier_init_fence();
    }
    __syncthreads();
    pdl_wait();
    pdl_launch_next();
    if (threadIdx.x < WARPGROUP) {
        registers_give<24>();
        if (threadIdx.x < WARP) {
            produce<HD>(p, &k_map, &v_map,
                        p.block_tables + item.table,
                        kv_head, num_keys, smem);
        }
    } else {
        registers_take<240>();
        consume<T, HD>(p, item, head, num_keys, smem);
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
    dim3  grid(static_cast<unsigned int>(p->num_heads),
               static_cast<unsigned int>(p->num));
    return launch_kernel(prefill_sm90_kernel<T, HD>, grid, THREADS,
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
