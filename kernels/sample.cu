/* sample.cu - from logits to token ids; sample_math.h says what the result is.
 *
 * A row is cut into blocks of 256 tokens, one a warp at a time.
 *   mask    -inf for masked ids
 *   max     every block's best rank key and the row's best token; greedy rows
 *           end here
 *   sum     the weights of every block; rows without top_k and top_p end here:
 *           the block that holds the drawn number, then the token in it
 *   select  one thread block a row: the cuts of top_k and top_p by radix
 *           selection on the keys, 11, 11 and 10 bits, then the draw
 * max and sum spread a row over several thread blocks; the one that counts
 * itself last ends the row.  All sums are of integers, so nothing depends on
 * timing.  select passes over the blocks of tokens that can matter only: their
 * best keys say which.  Rejected: a sort of the vocabulary. */
#include "kernels/sample_blocks.cuh"

#define SLICE_THREADS   256
#define SELECT_THREADS  1024
#define MASK_THREADS    256
#define BUCKETS         2048

static __device__ __forceinline__ bool
has_filter(const struct sample_params &p, int vocab)
{
    return (p.top_k > 0 && p.top_k < vocab) || p.top_p < 1.0f;
}

/* ---- mask, max ---- */

static __global__ void
mask_kernel(float *logits, int vocab, const int32_t *masks, int num_masks)
{
    int  i = blockIdx.x * MASK_THREADS + threadIdx.x;
    if (i < num_masks) {
        int  row = masks[2 * i], id = masks[2 * i + 1];
        logits[static_cast<size_t>(row) * vocab + id] = -INFINITY;
    }
}

static __device__ __forceinline__ uint64_t
best_of_block(const struct row_of &r, int block)
{
    int       lane = threadIdx.x % WARP;
    uint32_t  best = ALL, best_id = ALL;
#pragma unroll
    for (int j = 0; j < ROUNDS; j++) {
        int  id = block * TOKENS + j * WARP + lane;
        if (id < r.vocab) {
            float     x = r.logits[id];
            uint32_t  key = x == x ? sample_rank_key(x) : 0;
            if (key < best) {           /* the lane's ids ascend */
                best = key;
                best_id = static_cast<uint32_t>(id);
            }
        }
    }
    uint32_t  key = __reduce_min_sync(ALL, best);
    uint32_t  id = __reduce_min_sync(ALL, best == key ? best_id : ALL);
    if (lane == 0) {
        r.keys[block] = key;
    }
    return static_cast<uint64_t>(key) << 32 | id;
}

static __device__ __forceinline__ uint64_t
block_min64(uint64_t x)
{
    __shared__ uint64_t  warps[SLICE_THREADS / WARP];
    for (int step = WARP / 2; step > 0; step /= 2) {
        uint64_t  y = __shfl_xor_sync(ALL, x, step);
        x = y < x ? y : x;
    }
    __syncthreads();
    if (threadIdx.x % WARP == 0) {
        warps[threadIdx.x / WARP] = x;
    }
    __syncthreads();
    for (int i = 0; i < SLICE_THREADS / WARP; i++) {
        x = warps[i] < x ? warps[i] : x;
    }
    return x;
}

/* The row's best token is known: ends the row, or leaves it to sum. */
static __device__ __forceinline__ void
row_best(const struct sample_launch &p, int row, uint64_t best)
{
    struct sample_row_state  *s = &p.state.rows[row];
    uint32_t  key = static_cast<uint32_t>(best >> 32);
    int       id = static_cast<int>(best & ALL);
    bool      error = is_error(best);
    s->done = 1;
    if (!error && !p.all_greedy) {
        s->params = p.params[row];           /* host memory */
        s->max = logit_of_key(key);
        s->done = s->params.temperature < SAMPLE_TEMPERATURE_MIN
                  || s->params.top_k == 1;
    }
    if (s->done) {
        finish(p, row, error ? -1 : id);
    }
}

static __global__ void __launch_bounds__(SLICE_THREADS)
max_kernel(struct sample_launch p)
{
    int            row = blockIdx.y, slice = blockIdx.x;
    struct row_of  r = row_at(p, row);
    uint64_t       best = ~static_cast<uint64_t>(0);
    uint64_t      *parts = p.state.parts
                           + static_cast<size_t>(row) * SAMPLE_SLICES_MAX;
    for (int b = slice * (SLICE_THREADS / WARP) + threadIdx.x / WARP;
         b < r.num_blocks; b += gridDim.x * (SLICE_THREADS / WARP))
    {
        uint64_t  x = best_of_block(r, b);
        best = x < best ? x : best;
    }
    best = block_min64(best);
    if (threadIdx.x == 0) {
        parts[slice] = best;
    }
    if (is_last_slice(&p.state.counters[row])) {
        best = ~static_cast<uint64_t>(0);
        if (threadIdx.x < gridDim.x) {
            best = __ldcg(&parts[threadIdx.x]);
        }
        best = block_min64(best);
        if (threadIdx.x == 0) {
            row_best(p, row, best);
        }
    }
}

/* ---- sum ---- */

static __global__ void __launch_bounds__(SLICE_THREADS)
sum_kernel(struct sample_launch p)
{
    __shared__ struct scan_smem     scan;
    int                             row = blockIdx.y;
    const struct sample_row_state  *s = &p.state.rows[row];
    if (s->done || (s->params.top_k > 0 && s->params.top_k < p.vocab_size)) {
        return;                     /* all slices of the row */
    }
    struct row_of  r = row_at(p, row);
    bool           filter = has_filter(s->params, r.vocab);
    struct cut     c = { ALL, INT32_MAX, 0 };
    if (!filter && s->params.min_p > 0.0f) {
        c.weight = sample_min_p_weight(s->params.min_p);
    }
    for (int b = blockIdx.x * (SLICE_THREADS / WARP) + threadIdx.x / WARP;
         b < r.num_blocks; b += gridDim.x * (SLICE_THREADS / WARP))
    {
        sum_block(r, b, [&](float logit, int id) {
            return kept_weight(r, c, logit, id);
        });
    }
    if (!filter && is_last_slice(&p.state.counters[row])) {
        draw(p, row, r, c, &scan);
    }
}

/* ---- select ---- */

/* Blocks of tokens whose best key is larger, and tokens whose key is larger or
 * weight smaller, cannot be kept. */
struct bounds {
    uint32_t block_key, key;
    uint64_t weight;
};

struct select_smem {
    struct scan_smem scan;
    unsigned int     counts[BUCKETS];
    unsigned long long masses[BUCKETS];
    int              bucket;
    uint64_t         count_before, mass_before;
    uint32_t         max_key;
};

/* Where a beginning of the ranking ends: before the token that has `count`
 * tokens or `mass` weight in front of it. */
struct goal {
    uint64_t count, mass;
};

/* The first bucket in which the goal is reached; false when it is in none. */
static __device__ __forceinline__ bool
find_bucket(struct select_smem *smem, const struct goal &g,
            uint64_t *count_before, uint64_t *mass_before)
{
    int       first = threadIdx.x * (BUCKETS / SELECT_THREADS);
    uint64_t  count = 0, mass = 0, total;
    for (int i = 0; i < BUCKETS / SELECT_THREADS; i++) {
        count += smem->counts[first + i];
        mass += smem->masses[first + i];
    }
    uint64_t  counts = *count_before + block_scan64(count, &smem->scan, &total)
                       - count;
    uint64_t  masses = *mass_before + block_scan64(mass, &smem->scan, &total)
                       - mass;
    if (threadIdx.x == 0) {
        smem->bucket = -1;
    }
    __syncthreads();
    for (int i = 0; i < BUCKETS / SELECT_THREADS; i++) {
        uint64_t  next_count = counts + smem->counts[first + i];
        uint64_t  next_mass = masses + smem->masses[first + i];
        bool      before = counts < g.count && masses < g.mass;
        if (before && (next_count >= g.count || next_mass >= g.mass)) {
            smem->bucket = first + i;
            smem->count_before = counts;
            smem->mass_before = masses;
        }
        counts = next_count;
        masses = next_mass;
    }
    __syncthreads();
    *count_before = smem->count_before;
    *mass_before = smem->mass_before;
    return smem->bucket >= 0;
}

/* each(add) calls add(key, mass) for every candidate; the key of the goal and
 * what is in front of it, or false when all candidates are. */
template <typename EACH> static __device__ __forceinline__ bool
find_key(struct select_smem *smem, const struct goal &g, EACH each,
         uint32_t *key, uint64_t *count_before, uint64_t *mass_before)
{
    const int  shifts[] = { 21, 10, 0 }, bits[] = { 11, 11, 10 };
    uint32_t   prefix = 0;
    *count_before = *mass_before = 0;
#pragma unroll 1
    for (int round = 0; round < 3; round++) {
        int  shift = shifts[round], num_bits = bits[round];
        for (int i = threadIdx.x; i < BUCKETS; i += SELECT_THREADS) {
            smem->counts[i] = 0;
            smem->masses[i] = 0;
        }
        __syncthreads();
        each([&](uint32_t k, uint64_t mass) {
            if (static_cast<uint64_t>(k) >> (shift + num_bits) == prefix) {
                uint32_t  bucket = k >> shift & ((1u << num_bits) - 1);
                atomicAdd(&smem->counts[bucket], 1u);
                if (g.mass != UINT64_MAX) {
                    atomicAdd(&smem->masses[bucket],
                              static_cast<unsigned long long>(mass));
                }
            }
        });
        __syncthreads();
        if (!find_bucket(smem, g, count_before, mass_before)) {
            return false;
        }
        prefix = prefix << num_bits | static_cast<uint32_t>(smem->bucket);
    }
    *key = prefix;
    return true;
}

template <typename F> static __device__ __forceinline__ void
each_token(const struct row_of &r, const struct bounds &bounds, F f)
{
    int  lane = threadIdx.x % WARP;
    for (int b = threadIdx.x / WARP; b < r.num_blocks;
         b += SELECT_THREADS / WARP)
    {
        if (r.keys[b] > bounds.block_key) {
            continue;
        }
#pragma unroll 2
        for (int j = 0; j < ROUNDS; j++) {
            int  id = b * TOKENS + j * WARP + lane;
            if (id < r.vocab) {
                f(r.logits[id], id);
            }
        }
    }
}

/* r.sums = value() of the tokens; of blocks that cannot matter 0. */
template <typename F> static __device__ __forceinline__ void
sum_tokens(const struct row_of &r, const struct bounds &bounds, F value)
{
    __syncthreads();
    for (int b = threadIdx.x / WARP; b < r.num_blocks;
         b += SELECT_THREADS / WARP)
    {
        if (r.keys[b] > bounds.block_key) {
            if (threadIdx.x % WARP == 0) {
                r.sums[b] = 0;
            }
        } else {
            sum_block(r, b, value);
        }
    }
    __syncthreads();
}

/* Cuts the kept tokens to the goal. */
static __device__ __forceinline__ void
cut_tokens(const struct row_of &r, struct select_smem *smem,
           const struct goal &g, struct bounds *bounds, struct cut *cut)
{
    struct cut     old = *cut;
    struct bounds  b = *bounds;
    bool           weigh = g.mass != UINT64_MAX;
    uint32_t       key;
    uint64_t       count_before, mass_before;
    bool  found = find_key(smem, g, [&](auto add) {
        each_token(r, b, [&](float logit, int id) {
            uint32_t  k = sample_rank_key(logit);
            if (k <= b.key && is_kept(old, logit, id)) {
                uint64_t  w = weigh ? weight_of(r, logit) : 0;
                if (w >= b.weight) {
                    add(k, w);
                }
            }
        });
    }, &key, &count_before, &mass_before);
    if (!found) {
        return;
    }
    uint64_t  ties = smem->counts[smem->bucket];
    uint64_t  keep = g.count - count_before;
    if (weigh) {
        uint64_t  w = weight_of(r, logit_of_key(key));
        uint64_t  by_mass = w > 0 ? (g.mass - mass_before + w - 1) / w : ties;
        keep = by_mass < keep ? by_mass : keep;
    }
    bounds->block_key = min(b.block_key, key);
    bounds->key = min(b.key, key);
    cut->key = key;
    cut->id = INT32_MAX;
    if (keep < ties) {              /* the lower ids of equal logits */
        auto  is_tie = [&](float logit, int id) -> uint64_t {
            return sample_rank_key(logit) == key && is_kept(old, logit, id);
        };
        sum_tokens(r, *bounds, is_tie);
        cut->id = pick(r, keep - 1, &smem->scan, is_tie);
    } else if (key == old.key) {
        cut->id = old.id;
    }
    __syncthreads();
}

/* top_k blocks have a token at least as good as the top_k-th best block's
 * best, so no worse one is kept. */
static __device__ __forceinline__ void
cut_top_k(const struct row_of &r, struct select_smem *smem, int top_k,
          struct bounds *bounds, struct cut *cut)
{
    struct goal  g = { static_cast<uint64_t>(top_k), UINT64_MAX };
    uint32_t     key;
    uint64_t     count_before, mass_before;
    if (top_k <= r.num_blocks) {
        bool  found = find_key(smem, g, [&](auto add) {
            for (int b = threadIdx.x; b < r.num_blocks; b += SELECT_THREADS) {
                add(r.keys[b], 0);
            }
        }, &key, &count_before, &mass_before);
        bounds->block_key = bounds->key = found ? key : ALL;
        __syncthreads();
    }
    cut_tokens(r, smem, g, bounds, cut);
}

/* The weight behind the cut is at most total - mass.  Were a token lighter than
 * an n-th of it kept, it and those ranked behind it would weigh less than that;
 * half of it, because sample_exp() is monotone up to its rounding only. */
static __device__ __forceinline__ void
bound_top_p(const struct row_of &r, struct select_smem *smem, uint64_t rest,
            struct bounds *bounds)
{
    bounds->weight = rest / 2 / static_cast<uint64_t>(r.vocab);
    __syncthreads();
    if (threadIdx.x == 0) {
        smem->max_key = 0;
    }
    __syncthreads();
    for (int b = threadIdx.x; b < r.num_blocks; b += SELECT_THREADS) {
        if (weight_of(r, logit_of_key(r.keys[b])) >= bounds->weight) {
            atomicMax(&smem->max_key, r.keys[b]);
        }
    }
    __syncthreads();
    bounds->block_key = smem->max_key;
}

static __global__ void __launch_bounds__(SELECT_THREADS)
select_kernel(struct sample_launch p)
{
    __shared__ struct select_smem   smem;
    int                             row = blockIdx.x;
    const struct sample_row_state  *state = &p.state.rows[row];
    if (state->done || !has_filter(state->params, p.vocab_size)) {
        return;
    }
    const struct sample_params  s = state->params;
    struct row_of               r = row_at(p, row);
    struct bounds               bounds = { ALL, ALL, 0 };
    struct cut                  cut = { ALL, INT32_MAX, 0 };
    bool  top_k = s.top_k > 0 && s.top_k < r.vocab;
    if (top_k) {
        cut_top_k(r, &smem, s.top_k, &bounds, &cut);
        sum_tokens(r, bounds, [&](float logit, int id) {
            return kept_weight(r, cut, logit, id);
        });
    }
    if (s.top_p < 1.0f) {
        uint64_t     total = sum_of_blocks(r, &smem.scan);
        struct goal  g = { UINT64_MAX, sample_top_p_mass(s.top_p, total) };
        if (!top_k) {
            bound_top_p(r, &smem, total - g.mass, &bounds);
        }
        cut_tokens(r, &smem, g, &bounds, &cut);
        bounds.weight = 0;
    }
    if (s.min_p > 0.0f) {
        cut.weight = sample_min_p_weight(s.min_p);
    }
    sum_tokens(r, bounds, [&](float logit, int id) {
        return kept_weight(r, cut, logit, id);
    });
    draw(p, row, r, cut, &smem.scan);
}

/* ---- host ---- */

cudaError_t
sample_mask_launch(float *logits, int vocab_size, const int32_t *masks,
                   int num_masks, cudaStream_t stream)
{
    unsigned int  blocks = static_cast<unsigned int>(
        (num_masks + MASK_THREADS - 1) / MASK_THREADS);
    mask_kernel<<<blocks, MASK_THREADS, 0, stream>>>(logits, vocab_size, masks,
                                                     num_masks);
    return cudaGetLastError();
}

cudaError_t
sample_launch_rows(const struct sample_launch *p, cudaStream_t stream)
{
    int   num_blocks = (p->vocab_size + TOKENS - 1) / TOKENS;
    int   slices = 4 * p->num_sms / p->num_rows;
    int   most = (num_blocks + SLICE_THREADS / WARP - 1)
                 / (SLICE_THREADS / WARP);
    slices = max(1, min(min(slices, most), SAMPLE_SLICES_MAX));
    dim3  grid(static_cast<unsigned int>(slices),
               static_cast<unsigned int>(p->num_rows));
    max_kernel<<<grid, SLICE_THREADS, 0, stream>>>(*p);
    if (!p->all_greedy) {
        sum_kernel<<<grid, SLICE_THREADS, 0, stream>>>(*p);
    }
    if (p->any_filter) {
        select_kernel<<<static_cast<unsigned int>(p->num_rows),
                        SELECT_THREADS, 0, stream>>>(*p);
    }
    return cudaGetLastError();
}
