/* sample_blocks.cuh - one row of logits in memory, in blocks of 256 tokens: sums
 * over threads and blocks, and the token at a running sum.  sample.cu says how
 * a row is sampled with it. */
#ifndef LLM_KERNELS_SAMPLE_BLOCKS_CUH
#define LLM_KERNELS_SAMPLE_BLOCKS_CUH

#include "kernels/sample_common.cuh"

#define TOKENS  SAMPLE_BLOCK_TOKENS
#define ROUNDS  (TOKENS / WARP)

struct row_of {
    const float *logits;
    int          vocab, num_blocks;
    uint32_t    *keys;           /* [num_blocks] */
    uint64_t    *sums;           /* [num_blocks] */
    float        max, temperature;
};

/* Kept tokens: ranked up to (key, id), and not lighter than `weight`. */
struct cut {
    uint32_t key;
    int      id;
    uint64_t weight;
};

static __device__ __forceinline__ struct row_of
row_at(const struct sample_launch &p, int row)
{
    const struct sample_row_state  *s = &p.state.rows[row];
    int     num_blocks = (p.vocab_size + TOKENS - 1) / TOKENS;
    size_t  first = static_cast<size_t>(row) * num_blocks;
    return { p.logits + static_cast<size_t>(row) * p.vocab_size, p.vocab_size,
             num_blocks, p.state.keys + first, p.state.sums + first, s->max,
             s->params.temperature };
}

static __device__ __forceinline__ uint64_t
weight_of(const struct row_of &r, float logit)
{
    return sample_weight(logit, r.max, r.temperature);
}

/* ---- sums ---- */

struct scan_smem {
    uint64_t warps[WARP];
};

/* The sum up to and with this thread; *total of all threads. */
static __device__ __forceinline__ uint64_t
block_scan64(uint64_t x, struct scan_smem *smem, uint64_t *total)
{
    int       warp = threadIdx.x / WARP, num_warps = blockDim.x / WARP;
    uint64_t  sum = warp_scan64(x), before = 0;
    *total = 0;
    __syncthreads();                 /* the last use of smem is over */
    if (threadIdx.x % WARP == WARP - 1) {
        smem->warps[warp] = sum;
    }
    __syncthreads();
    for (int i = 0; i < num_warps; i++) {
        before += i < warp ? smem->warps[i] : 0;
        *total += smem->warps[i];
    }
    return before + sum;
}

/* True in all threads of the thread block of the row that is the last. */
static __device__ __forceinline__ bool
is_last_slice(unsigned int *counter)
{
    __shared__ bool  last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicInc(counter, gridDim.x - 1) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    return last;
}

/* ---- picking: the first token whose running sum passes a number ---- */

/* value(logit, id) of every token, summed a block at a time. */
template <typename F> static __device__ __forceinline__ void
sum_block(const struct row_of &r, int block, F value)
{
    int       lane = threadIdx.x % WARP;
    uint64_t  sum = 0;
#pragma unroll
    for (int j = 0; j < ROUNDS; j++) {
        int  id = block * TOKENS + j * WARP + lane;
        sum += id < r.vocab ? value(r.logits[id], id) : 0;
    }
    sum = warp_sum64(sum);
    if (lane == 0) {
        r.sums[block] = sum;
    }
}

static __device__ __forceinline__ uint64_t
sum_of_blocks(const struct row_of &r, struct scan_smem *smem)
{
    uint64_t  sum = 0, total;
    for (int i = threadIdx.x; i < r.num_blocks; i += blockDim.x) {
        sum += __ldcg(&r.sums[i]);
    }
    (void) block_scan64(sum, smem, &total);
    return total;
}

/* The lowest id whose sum of values over ids up to it exceeds target, which is
 * below the sum of all; r.sums holds the blocks' sums.  Same in all threads. */
template <typename F> static __device__ __forceinline__ int
pick(const struct row_of &r, uint64_t target, struct scan_smem *smem, F value)
{
    __shared__ int       found, picked;
    __shared__ uint64_t  found_before;
    uint64_t             before = 0, total;
    if (threadIdx.x == 0) {
        found = -1;
    }
    for (int first = 0; first < r.num_blocks; first += blockDim.x) {
        int       i = first + threadIdx.x;
        uint64_t  x = i < r.num_blocks ? __ldcg(&r.sums[i]) : 0;
        uint64_t  sum = before + block_scan64(x, smem, &total);
        if (sum > target && sum - x <= target) {
            found = i;
            found_before = sum - x;
        }
        before += total;
        __syncthreads();
        if (found >= 0) {
            break;
        }
    }
    if (threadIdx.x < WARP) {
        int       lane = threadIdx.x;
        bool      over = false;
        uint64_t  sum = found_before;
        for (int j = 0; j < ROUNDS && !over; j++) {
            int       id = found * TOKENS + j * WARP + lane;
            uint64_t  x = found >= 0 && id < r.vocab ? value(r.logits[id], id)
                                                     : 0;
            uint64_t  up_to = sum + warp_scan64(x);
            unsigned int  lanes = __ballot_sync(ALL, up_to > target);
            over = lanes != 0;
            if (over && lane == __ffs(static_cast<int>(lanes)) - 1) {
                picked = id;
            }
            sum = __shfl_sync(ALL, up_to, WARP - 1);
        }
    }
    __syncthreads();
    return picked;
}

static __device__ __forceinline__ bool
is_kept(const struct cut &c, float logit, int id)
{
    uint32_t  key = sample_rank_key(logit);
    return key < c.key || (key == c.key && id <= c.id);
}

static __device__ __forceinline__ uint64_t
kept_weight(const struct row_of &r, const struct cut &c, float logit, int id)
{
    uint64_t  w = is_kept(c, logit, id) ? weight_of(r, logit) : 0;
    return w >= c.weight ? w : 0;
}

/* Step 7, with r.sums of the kept weights in place. */
static __device__ __forceinline__ void
draw(const struct sample_launch &p, int row, const struct row_of &r,
     const struct cut &c, struct scan_smem *smem)
{
    const struct sample_params  *s = &p.state.rows[row].params;
    uint64_t  target = sample_target(s->seed,
                                     static_cast<uint64_t>(s->position),
                                     sum_of_blocks(r, smem));
    int  id = pick(r, target, smem, [&](float logit, int i) {
        return kept_weight(r, c, logit, i);
    });
    if (threadIdx.x == 0) {
        finish(p, row, id);
    }
}

#endif
