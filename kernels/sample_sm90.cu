/* sample_sm90.cu - from logits to token ids, a cluster of thread blocks a row;
 * sample_math.h says what the result is, sample.cu does the same without
 * clusters.
 *
 * The logits are read from memory once.  Each block of a row's cluster keeps a
 * slice of them in shared memory, where every thread has neighbouring tokens,
 * so that a scan over the threads is one over the ids.  What the blocks must
 * know of each other comes into their shared memory as letters, which they wait
 * for; there is a barrier of the cluster at the start only.  A cluster takes one
 * row after the other; the next one's logits arrive while the last sums of a row
 * are exchanged and its token is found.  Everything that decides which letters
 * come next is the same in all blocks of a row.
 *   best    the row's best token; greedy rows end
 *   top_k   radix selection on rank keys: histograms of 2048 buckets of the
 *           keys left, each block sums its share of the buckets, until the
 *           bucket that holds the cut is one key.  Before it, by the threads'
 *           best tokens alone, a bound that few tokens pass.
 *   top_p   the same with weights instead of ones.  The first histogram takes
 *           every token that could matter, by logits instead of keys, later
 *           ones those of one bucket, which are listed first, until that has
 *           one token.
 *   draw    sums of the threads' kept weights, then the token
 * Tokens further from the best one than 28 temperatures weigh nothing, so they
 * are not looked at; padding is -inf.  Rows that are all greedy are read by a
 * kernel of their own, which keeps nothing. */
#include "kernels/sample_select.cuh"

#define PLAIN_PER_SM   3           /* blocks, without and with filters */
#define FILTER_PER_SM  2
#define BLOCKS_MIN     8           /* of a row, but for all greedy ones */
#define SMEM_MAX       (220 * 1024)
#define REACH          28.0f       /* e^-28 is no weight: 2^-40 = e^-27.7 */

#if SM90_CODE

/* ---- the kernels ---- */

static __device__ __forceinline__ void
set_temperature(struct row *r, float max, float temperature)
{
    r->max = max;
    r->temperature = temperature;
    r->inverse = __frcp_rn(temperature);
    r->inverse_low = __fmul_rn(__fmaf_rn(-temperature, r->inverse, 1.0f),
                               r->inverse);
}

/* The rest of a row that is neither greedy nor an error. */
template <bool FILTER> static __device__ __forceinline__ void
sample_row(const struct sample_launch &p, struct row *r, int row,
           uint32_t best, const struct sample_params &s)
{
    struct cut  cut = { -INFINITY, INT32_MAX };
    float       reach = REACH;
    set_temperature(r, logit_of_key(best), s.temperature);
    r->listed = false;
    if (FILTER) {
        float     least = r->max - REACH * s.temperature;
        uint32_t  worst = sample_rank_key(least);
        if (s.top_k > 0 && s.top_k < r->vocab) {
            cut_top_k(r, best, worst, s.top_k, &cut);
            worst = min(worst, sample_rank_key(cut.logit));
        }
        if (s.top_p < 1.0f) {
            cut_top_p(r, best, worst, s.top_p,
                      s.top_k > 0 && s.top_k < r->vocab, &cut);
        }
    }
    float  min_weight = 0.0f;
    if (s.min_p > 0.0f) {
        min_weight = static_cast<float>(sample_min_p_weight(s.min_p));
        reach = fminf(reach, reach_of(s.min_p));
    }
    auto  value = [&](const auto &logit, int id) -> uint64_t {
        constexpr int  N = sizeof logit / sizeof(float);
        float          w[N];
        uint64_t       sum = 0;
        weight_floats<N>(*r, logit, w);
#pragma unroll
        for (int j = 0; j < N; j++) {
            bool  keep = w[j] >= min_weight;
            if (FILTER) {
                keep &= is_kept(cut, logit[j], id + j);
            }
            sum += __float2ull_rz(keep ? w[j] : 0.0f);
        }
        return sum;
    };
    auto  weight = [&](const float (&logit)[4], int) -> uint64_t {
        float  w[4];
        weight_floats<4>(*r, logit, w);
        return __float2ull_rz(w[0]) + __float2ull_rz(w[1])
               + __float2ull_rz(w[2]) + __float2ull_rz(w[3]);
    };
    float     least = fmaxf(cut.logit, r->max - reach * s.temperature);
    uint64_t  before, total;
    uint64_t  sum = FILTER || min_weight > 0.0f
                    ? sum_of_thread(*r, least, value)
                    : sum_of_thread(*r, least, weight);     /* all are kept */
    place_sum<true>(r, sum, &before, &total);
    uint64_t  target = sample_target(s.seed, static_cast<uint64_t>(s.position),
                                     total);
    pick(*r, target, before, sum, value, [&](int id) { finish(p, row, id); });
}

/* This thread's 16 bytes of the row's parameters, for a block of the row.  The
 * first block reads them from host memory for all. */
static __device__ __forceinline__ uint4
load_params(const struct sample_launch &p, const struct row &r, int row)
{
    static_assert(sizeof(struct sample_params) == 2 * sizeof(uint4), "halves");
    if (r.rank > 0 || static_cast<int>(threadIdx.x) >= 2 * r.blocks
        || row >= p.num_rows)
    {
        return make_uint4(0, 0, 0, 0);
    }
    return __ldcv(reinterpret_cast<const uint4 *>(p.params + row)
                  + threadIdx.x % 2);
}

static __device__ __forceinline__ void
send_params(const struct row &r, struct sample_params *to, const uint4 &half)
{
    int  block = threadIdx.x / 2;
    if (r.rank == 0 && block < r.blocks) {
        send(reinterpret_cast<uint4 *>(to) + threadIdx.x % 2, block,
             static_cast<uint64_t>(half.y) << 32 | half.x,
             static_cast<uint64_t>(half.w) << 32 | half.z,
             &r.smem->told[r.turn % 2]);
    }
}

/* The row's best token from the blocks' best ones; waits for so many bytes of
 * letters besides. */
static __device__ __forceinline__ uint64_t
best_of_row(struct row *r, const struct best &b, unsigned int more)
{
    uint64_t              best = block_min64(r->smem, best_packed(b));
    const struct letter  *inbox = exchange(r, best, 0, more);
    for (int i = 0; i < r->blocks; i++) {
        best = inbox[i].a < best ? inbox[i].a : best;
    }
    return best;
}

/* Others may send when they have waited for this block's arrival. */
static __device__ __forceinline__ void
prepare_letters(const struct row &r)
{
    if (threadIdx.x == 0) {
        barrier_init(&r.smem->arrived, 1);
        barrier_init(&r.smem->told[0], 1);
        barrier_init(&r.smem->told[1], 1);
        barrier_init(&r.smem->placed, 1);
        barrier_init_fence();
    }
    __syncwarp();
    cluster_arrive();
}

static __device__ __forceinline__ struct row
row_of_block(const struct sample_launch &p, struct row_smem *smem, int blocks,
             int fours)
{
    struct row  r = {};
    r.smem = smem;
    r.rank = static_cast<int>(blockIdx.x) % blocks;
    r.blocks = blocks;
    r.fours = fours;
    r.vocab = p.vocab_size;
    r.first_id = r.rank * fours * 4 * THREADS;
    r.num = min(fours * 4 * THREADS, r.vocab - r.first_id);
    return r;
}

#endif

template <bool WIDE> static __global__ void __launch_bounds__(THREADS, 4)
greedy_kernel(struct sample_launch p, int blocks, int fours)
{
#if SM90_CODE
    __shared__ struct row_smem  smem;
    struct row  r = row_of_block(p, &smem, blocks, fours);
    int         row = blockIdx.x / blocks;
    prepare_letters(r);
    r.logits = p.logits + static_cast<size_t>(row) * r.vocab;
    pdl_wait();
    struct best  b = read_slice<false, WIDE>(r);
    pdl_launch_next();
    cluster_wait();                  /* the row's other blocks are there */
    uint64_t  best = best_of_row(&r, b, 0);
    if (r.rank == 0 && threadIdx.x == 0) {
        finish(p, row, is_error(best) ? -1 : static_cast<int>(best & ALL));
    }
#endif
}

template <bool FILTER, bool WIDE> static __global__ void
__launch_bounds__(THREADS, FILTER ? FILTER_PER_SM : PLAIN_PER_SM)
sample_kernel(struct sample_launch p, int blocks, int fours)
{
#if SM90_CODE
    extern __shared__ float4    dynamic[];
    __shared__ struct row_smem  smem;
    struct row  r = row_of_block(p, &smem, blocks, fours);
    int         row = blockIdx.x / blocks, rows_apart = gridDim.x / blocks;
    prepare_letters(r);
    uint4  half = load_params(p, r, row);
    r.tokens = dynamic;
    r.filter = reinterpret_cast<struct filter_smem *>(dynamic
                                                      + THREADS * fours);
    for (int i = max(r.num, 0) / 4 + threadIdx.x; WIDE && i < THREADS * fours;
         i += THREADS)
    {
        r.tokens[i] = make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    }
    __syncthreads();
    cluster_wait();                  /* the row's other blocks are there */
    pdl_wait();
    r.next = p.logits + static_cast<size_t>(row) * r.vocab;
    if (WIDE) {
        begin_copy(r);
    }
    for (unsigned int n = 0; row < p.num_rows; row += rows_apart, n++) {
        struct sample_params  *params = &smem.params[n % 2];
        r.logits = r.next;
        r.next = WIDE && row + rows_apart < p.num_rows
                 ? r.logits + static_cast<size_t>(rows_apart) * r.vocab : NULL;
        struct best  b = WIDE ? scan_slice(r, n % 2)
                              : read_slice<true, WIDE>(r);
        r.thread_best = b.logit;
        send_params(r, params, half);
        uint64_t  best = best_of_row(&r, b, sizeof *params);
        const struct sample_params  s = *params;
        if (row + rows_apart >= p.num_rows) {
            pdl_launch_next();
        }
        half = load_params(p, r, row + rows_apart);
        if (!is_error(best) && s.temperature >= SAMPLE_TEMPERATURE_MIN
            && s.top_k != 1)
        {
            sample_row<FILTER>(p, &r, row, static_cast<uint32_t>(best >> 32),
                               s);
        } else {
            begin_copy(r);
            if (r.rank == 0 && threadIdx.x == 0) {
                finish(p, row, is_error(best) ? -1
                               : static_cast<int>(best & ALL));
            }
        }
        if (!WIDE) {
            r.next = r.logits + static_cast<size_t>(rows_apart) * r.vocab;
        }
    }
#endif
}

/* ---- host ---- */

/* 16-byte words of a thread, not a multiple of 4: neighbours would share banks. */
static int
fours_of(int vocab, int blocks)
{
    int  tokens = blocks * THREADS * 4, fours = (vocab + tokens - 1) / tokens;
    return fours % 4 == 0 ? fours + 1 : fours;
}

static size_t
smem_bytes(int filter, int fours)
{
    return static_cast<size_t>(fours) * THREADS * sizeof(float4)
           + (filter ? sizeof(struct filter_smem) : 0);
}

static int
greedy_blocks(const struct sample_launch *p)
{
    int  blocks = p->num_rows > 96 ? 2 : p->num_rows > 16 ? 4 : 8;
    return p->num_rows <= 4 ? min(2 * blocks, p->cluster_max) : blocks;
}

static int
sample_blocks(const struct sample_launch *p)
{
    return p->num_rows <= 4 ? min(BLOCKS_MAX, p->cluster_max) : BLOCKS_MIN;
}

int
sample_sm90_takes(const struct sample_launch *p)
{
    return p->cluster_max >= BLOCKS_MIN
           && smem_bytes(1, fours_of(p->vocab_size, BLOCKS_MIN)) <= SMEM_MAX;
}

static cudaLaunchConfig_t
cluster_config(int clusters, int blocks, size_t smem, int pdl,
               cudaLaunchAttribute (&attrs)[2], cudaStream_t stream)
{
    cudaLaunchConfig_t  config = {};
    attrs[0].id = cudaLaunchAttributeClusterDimension;
    attrs[0].val.clusterDim.x = static_cast<unsigned int>(blocks);
    attrs[0].val.clusterDim.y = attrs[0].val.clusterDim.z = 1;
    attrs[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attrs[1].val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = dim3(static_cast<unsigned int>(clusters * blocks));
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = smem;
    config.stream = stream;
    config.attrs = attrs;
    config.numAttrs = pdl ? 2 : 1;
    return config;
}

typedef void (*row_kernel)(struct sample_launch, int, int);

static row_kernel
kernel_of(int filter, bool wide)
{
    if (filter) {
        return wide ? sample_kernel<true, true> : sample_kernel<true, false>;
    }
    return wide ? sample_kernel<false, true> : sample_kernel<false, false>;
}

cudaError_t
sample_sm90_init(int *cluster_max)
{
    const row_kernel     kernels[] = {
        greedy_kernel<false>, greedy_kernel<true>, kernel_of(0, false),
        kernel_of(0, true), kernel_of(1, false), kernel_of(1, true) };
    cudaLaunchAttribute  attrs[2] = {};
    int                  device = 0, major = 0, num = 0;
    *cluster_max = 0;
    cudaError_t  e = cudaGetDevice(&device);
    if (e == cudaSuccess) {
        e = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor,
                                   device);
    }
    if (e != cudaSuccess || major != 9) {
        return e;
    }
    for (int i = 0; i < 6 && e == cudaSuccess; i++) {
        e = cudaFuncSetAttribute(
            kernels[i], cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
        if (e == cudaSuccess && i >= 2) {
            e = cudaFuncSetAttribute(
                kernels[i], cudaFuncAttributeMaxDynamicSharedMemorySize,
                SMEM_MAX);
        }
    }
    for (int blocks = BLOCKS_MAX; e == cudaSuccess && num == 0
                                  && blocks >= BLOCKS_MIN; blocks /= 2)
    {
        cudaLaunchConfig_t  config = cluster_config(1, blocks, SMEM_MAX, 0,
                                                    attrs, NULL);
        e = cudaOccupancyMaxActiveClusters(&num, kernels[5], &config);
        *cluster_max = num > 0 ? blocks : 0;
    }
    return e;
}

cudaError_t
sample_sm90_at_once(int vocab_size, int clusters_at_once[2])
{
    cudaLaunchAttribute  attrs[2] = {};
    cudaError_t          e = cudaSuccess;
    int                  fours = fours_of(vocab_size, BLOCKS_MIN);
    for (int filter = 0; filter < 2 && e == cudaSuccess; filter++) {
        cudaLaunchConfig_t  config = cluster_config(
            1, BLOCKS_MIN, smem_bytes(filter, fours), 0, attrs, NULL);
        e = cudaOccupancyMaxActiveClusters(
            &clusters_at_once[filter], kernel_of(filter, vocab_size % 4 == 0),
            &config);
    }
    return e;
}

cudaError_t
sample_sm90_launch(const struct sample_launch *p, cudaStream_t stream)
{
    cudaLaunchAttribute  attrs[2] = {};
    bool  wide = p->vocab_size % 4 == 0
                 && reinterpret_cast<uintptr_t>(p->logits) % 16 == 0;
    if (p->all_greedy) {
        int                 blocks = greedy_blocks(p);
        cudaLaunchConfig_t  config = cluster_config(p->num_rows, blocks, 0,
                                                    p->pdl, attrs, stream);
        return cudaLaunchKernelEx(&config, wide ? greedy_kernel<true>
                                                : greedy_kernel<false>,
                                  *p, blocks, fours_of(p->vocab_size, blocks));
    }
    int     blocks = sample_blocks(p), fours = fours_of(p->vocab_size, blocks);
    int     at_once = p->clusters_at_once[p->any_filter];
    cudaLaunchConfig_t  config = cluster_config(
        blocks == BLOCKS_MIN && at_once > 0 ? min(p->num_rows, at_once)
                                            : p->num_rows,
        blocks, smem_bytes(p->any_filter, fours), p->pdl, attrs, stream);
    return cudaLaunchKernelEx(&config, kernel_of(p->any_filter, wide), *p,
                              blocks, fours);
}
