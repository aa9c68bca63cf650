/* sample_select.cuh - top_k and top_p of one row in the shared memory of a
 * cluster: where the ranking is cut, by radix selection on rank keys. */
#ifndef LLM_KERNELS_SAMPLE_SELECT_CUH
#define LLM_KERNELS_SAMPLE_SELECT_CUH

#include "kernels/sample_row.cuh"

/* A range of keys in buckets of 1 << shift; or, scale > 0, in buckets of 1 / scale
 * of what the logits are below the row's best: they share few exponents, so wide
 * buckets of keys would be few, each with many tokens. */
struct range {
    uint32_t first, last;
    int      shift;
    float    scale;
};

#if SM90_CODE

/* ---- histograms ---- */

/* Lists the slice's tokens in the range, unless they are too many. */
static __device__ __forceinline__ void
list_tokens(struct row *r, const struct range &g)
{
    float  low = logit_of_key(g.last), high = logit_of_key(g.first);
    __syncthreads();
    if (threadIdx.x == 0) {
        r->smem->num_listed = 0;
    }
    __syncthreads();
    each_four(*r, low, [&](const float (&v)[4], int id) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (v[j] >= low && v[j] <= high) {
                unsigned int  i = atomicAdd(&r->smem->num_listed, 1u);
                if (i < LISTED_MAX) {
                    r->filter->listed[i]
                        = static_cast<uint32_t>(id + j - r->first_id);
                }
            }
        }
    });
    __syncthreads();
    r->listed = r->smem->num_listed <= LISTED_MAX;
}

template <bool MASS> static __device__ __forceinline__ void
clear_histogram(struct row *r)
{
    uint4  *x = reinterpret_cast<uint4 *>(r->filter->histogram.low);
    int     n = (MASS ? 2 : 1) * BUCKETS / 4;
    for (int i = threadIdx.x; i < n; i += THREADS) {
        x[i] = make_uint4(0, 0, 0, 0);
    }
    __syncthreads();
}

/* Adds x[i] to bucket[i] where in[i]; all at once, because each of two additions
 * waits for shared memory. */
template <bool MASS, int N> static __device__ __forceinline__ void
histogram_add(struct row *r, const uint32_t (&bucket)[N],
              const uint64_t (&x)[N], const bool (&in)[N])
{
    struct histogram  *h = &r->filter->histogram;
    uint32_t           old[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (in[i]) {
            old[i] = atomicAdd(&h->low[bucket[i]],
                               static_cast<uint32_t>(x[i]));
        }
    }
#pragma unroll
    for (int i = 0; MASS && i < N; i++) {
        uint32_t  low = static_cast<uint32_t>(x[i]);
        uint32_t  high = static_cast<uint32_t>(x[i] >> 32);
        high += old[i] + low < low;                       /* the carry */
        if (in[i] && high > 0) {
            atomicAdd(&h->high[bucket[i]], high);
        }
    }
}

/* A bucket's sum of all blocks. */
template <bool MASS> static __device__ __forceinline__ uint64_t
sum_bucket(const struct row &r, int bucket)
{
    const struct histogram  *h = &r.filter->histogram;
    unsigned int             x[BLOCKS_MAX];
    uint64_t                 sum = 0;
#pragma unroll
    for (int half = 0; half < (MASS ? 2 : 1); half++) {
#pragma unroll
        for (int i = 0; i < BLOCKS_MAX; i++) {      /* under way together */
            x[i] = i < r.blocks ? peer_load(half == 0 ? &h->low[bucket]
                                                      : &h->high[bucket], i)
                                : 0;
        }
#pragma unroll
        for (int i = 0; i < BLOCKS_MAX; i++) {
            sum += static_cast<uint64_t>(x[i]) << 32 * half;
        }
    }
    return sum;
}

/* The bucket in which the goal, above `before`, is reached, for all blocks: in
 * r->smem->place.
 * top_p > 0: the goal is that part of all sums and `rest`, before 0; else
 * *goal.  False: not reached. */
template <bool MASS> static __device__ __forceinline__ bool
find_place(struct row *r, uint64_t rest, float top_p, uint64_t before,
           uint64_t *goal)
{
    int       per = BUCKETS / r->blocks, t = threadIdx.x;
    int       bucket = r->rank * per + t;
    uint64_t  x = 0, sum, all = 0;
    if (MASS) {
        rest = warp_sum64(rest);
        if (t % WARP == 0) {
            r->smem->rest[t / WARP] = rest;
        }
    }
    __syncthreads();
    (void) exchange(r, 0, 0, 0);             /* all histograms are complete */
    if (t < per) {
        x = sum_bucket<MASS>(*r, bucket);
    }
    uint64_t  up_to = block_scan64(r->smem, x, &sum);
    rest = 0;
#pragma unroll
    for (int i = 0; MASS && i < WARPS; i++) {
        rest += r->smem->rest[i];
    }
    const struct letter  *inbox = exchange(r, sum, rest, 0);
    sum = before;
    for (int i = 0; i < r->blocks; i++) {
        up_to += i < r->rank ? inbox[i].a : 0;
        sum += inbox[i].a;
        all += inbox[i].a + inbox[i].b;
    }
    up_to += before;
    if (top_p > 0.0f) {
        *goal = sample_top_p_mass(top_p, all);
    }
    if (sum < *goal) {
        return false;
    }
    if (up_to >= *goal && up_to - x < *goal && t < per) {
        send_place(*r, { up_to - x, x, static_cast<uint64_t>(bucket), 0 });
    }
    (void) await_place(r);
    return true;
}

static __device__ __forceinline__ struct range
range_of(uint32_t first, uint32_t last)
{
    int  bits = 32 - __clz(static_cast<int>(last - first));
    return { first, last, max(0, bits - BUCKET_BITS), 0.0f };
}

/* ---- cuts ---- */

/* The id of the tie after `before` others among equal logits. */
static __device__ __forceinline__ int
find_tie(struct row *r, float logit, uint64_t num_before)
{
    auto      is_tie = [&](const auto &x, int) -> uint64_t {
        uint64_t  n = 0;
#pragma unroll
        for (int j = 0; j < static_cast<int>(sizeof x / sizeof(float)); j++) {
            n += x[j] == logit;
        }
        return n;
    };
    uint64_t  before, total, sum = sum_of_thread(*r, logit, is_tie);
    place_sum<false>(r, sum, &before, &total);
    pick(*r, num_before, before, sum, is_tie, [&](int id) {
        send_place(*r, { static_cast<uint64_t>(id), 0, 0, 0 });
    });
    return static_cast<int>(await_place(r)->before);
}

/* Ascends with a falling logit, whatever is rounded. */
static __device__ __forceinline__ uint32_t
linear_bucket(const struct row &r, float scale, float logit)
{
    float  t = __fmul_rn(__fadd_rn(r.max, -logit), scale);
    float  shifted = __fadd_rz(fminf(t, BUCKETS - 1.0f), 8388608.0f);
    return __float_as_uint(shifted) - 0x4b000000u;
}

/* The first key from `first` on, not behind last, whose bucket is at least this;
 * else last + 1.  Whole warps call. */
static __device__ __forceinline__ uint32_t
first_of_bucket(const struct row &r, float scale, uint32_t first, uint32_t last,
                uint32_t bucket)
{
    uint32_t  lane = threadIdx.x % WARP, num = last - first + 1;
    while (num > 0) {                 /* it is one of num keys or behind them */
        uint32_t  step = (num + WARP - 1) / WARP;
        uint32_t  at = min((lane + 1) * step, num) - 1;
        bool      there = linear_bucket(r, scale, logit_of_key(first + at))
                          >= bucket;
        uint32_t  before = __popc(__ballot_sync(ALL, !there)) * step;
        if (before >= num) {
            return first + num;
        }
        first += before;
        num = min(step, num - before) - 1;
    }
    return first;
}

/* Adds N kept tokens in the range to the histogram; returns the weight of those
 * that are too light to be cut at. */
template <bool MASS, bool LINEAR, int N>
static __device__ __forceinline__ uint64_t
count_these(struct row *r, const struct range &g, const struct cut &cut,
            const float (&logit)[N], int id)
{
    float     low = logit_of_key(g.last), high = logit_of_key(g.first), w[N];
    uint32_t  bucket[N];
    uint64_t  x[N], rest = 0;
    bool      in[N];
    if (MASS) {
        weight_floats<N>(*r, logit, w);
    }
#pragma unroll
    for (int j = 0; j < N; j++) {
        x[j] = MASS ? __float2ull_rz(w[j]) : 1;
        in[j] = (logit[j] >= low) & (logit[j] <= high)
                & is_kept(cut, logit[j], id + j);
        if (MASS) {
            bool  light = x[j] < r->least_weight;
            rest += in[j] & light ? x[j] : 0;
            in[j] &= !light;
        }
        bucket[j] = LINEAR ? linear_bucket(*r, g.scale, logit[j])
                           : (sample_rank_key(logit[j]) - g.first) >> g.shift;
    }
    histogram_add<MASS, N>(r, bucket, x, in);
    return rest;
}

template <bool MASS, bool LINEAR> static __device__ __forceinline__ uint64_t
count_tokens(struct row *r, const struct range &g, const struct cut &cut)
{
    float     low = logit_of_key(g.last), high = logit_of_key(g.first);
    uint64_t  rest = 0;
    clear_histogram<MASS>(r);
    if (!LINEAR && r->listed) {
        each_listed(*r, [&](float logit, int id) {
            const float  at[1] = { logit };
            rest += count_these<MASS, false, 1>(r, g, cut, at, id);
        });
        return rest;
    }
    each_four(*r, low, [&](const float (&v)[4], int id) {
        bool  any = LINEAR;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            any |= (v[j] >= low) & (v[j] <= high);
        }
        if (any) {
            rest += count_these<MASS, LINEAR, 4>(r, g, cut, v, id);
        }
    });
    return rest;
}

/* Is there one token in the bucket?  Two would weigh almost twice what its last
 * key does. */
static __device__ __forceinline__ bool
is_single(const struct row &r, const struct range &g, uint64_t sum)
{
    uint64_t  w = weight_of(r, logit_of_key(g.last));
    return sum < w + w / 2;
}

/* Cuts the kept tokens, of which those in front of the range weigh, or are,
 * `before`, to the goal: `goal` tokens, or MASS: that weight, or where top_p > 0
 * this part of their weight. */
template <bool MASS> static __device__ __forceinline__ void
cut_tokens(struct row *r, struct range g, uint64_t before, uint64_t goal,
           float top_p, struct cut *cut)
{
    struct cut  old = *cut;
    bool        listed = r->listed;
    for (;;) {
        uint64_t  rest = count_tokens<MASS, false>(r, g, old);
        if (!find_place<MASS>(r, rest, top_p, before, &goal)) {
            break;
        }
        struct place  at = r->smem->place;
        g.first += static_cast<uint32_t>(at.bucket) << g.shift;
        g.last = min(g.last, g.first + (1u << g.shift) - 1);
        before = at.before;
        top_p = 0.0f;
        uint64_t  ties = at.sum, keep = goal - before;
        if (g.shift == 0 && MASS) {
            uint64_t  w = weight_of(*r, logit_of_key(g.first));
            ties = at.sum / w;
            keep = (keep + w - 1) / w;
        } else if (MASS && is_single(*r, g, at.sum)) {
            keep = ties;
        }
        if (g.shift == 0 || keep == ties) {      /* all of the bucket, or */
            cut->logit = logit_of_key(g.last);
            cut->id = cut->logit == old.logit ? old.id : INT32_MAX;
            if (keep < ties) {                   /* the lower of equal ones */
                cut->id = find_tie(r, cut->logit, keep - 1);
            }
            break;
        }
        g.shift = max(0, g.shift - BUCKET_BITS);
        if (!r->listed) {
            list_tokens(r, g);
        }
    }
    r->listed = listed;              /* a list of one bucket is of no more use */
}

/* top_k threads have a token at least as good as the top_k-th best thread's
 * best, so no worse one is kept; the list gets the others. */
static __device__ __forceinline__ void
cut_top_k(struct row *r, uint32_t best, uint32_t worst, int top_k,
          struct cut *cut)
{
    struct range  g = range_of(best, worst);
    uint64_t      goal = static_cast<uint64_t>(top_k);
    if (top_k <= THREADS) {
        const uint32_t  key[1] = { sample_rank_key(r->thread_best) };
        const bool      in[1] = { key[0] - g.first <= g.last - g.first };
        const uint32_t  at[1] = { (key[0] - g.first) >> g.shift };
        const uint64_t  one[1] = { 1 };
        clear_histogram<false>(r);
        histogram_add<false, 1>(r, at, one, in);
        if (find_place<false>(r, 0, 0.0f, 0, &goal)) {
            uint32_t  bucket = static_cast<uint32_t>(r->smem->place.bucket);
            uint32_t  end = g.first + (bucket << g.shift);
            g = range_of(best, min(worst, end + (1u << g.shift) - 1));
            list_tokens(r, g);
        }
    }
    cut_tokens<false>(r, g, 0, goal, 0.0f, cut);
}

/* Were a token lighter than an n-th of the weight that is cut off kept, it and
 * those behind it would weigh less than that; half of it, because sample_exp()
 * is monotone up to its rounding only.  After top_k few tokens are left; else
 * the first histogram, of all tokens, has linear buckets. */
static __device__ __forceinline__ void
cut_top_p(struct row *r, uint32_t best, uint32_t worst, float top_p,
          bool after_top_k, struct cut *cut)
{
    struct range  g = range_of(best, worst);
    uint64_t      one = SAMPLE_WEIGHT_ONE, before = 0, goal = 0;
    r->least_weight = (one - sample_top_p_mass(top_p, one)) / 2
                      / static_cast<uint64_t>(r->vocab);
    if (!after_top_k) {
        float  least = static_cast<float>(r->least_weight) / SAMPLE_WEIGHT_ONE;
        float  width = fminf(r->max - logit_of_key(worst),
                             reach_of(least) * r->temperature);
        g.scale = BUCKETS / fmaxf(width, 1e-30f);
        uint64_t  rest = count_tokens<true, true>(r, g, *cut);
        if (!find_place<true>(r, rest, top_p, 0, &goal)) {
            return;
        }
        struct place  at = r->smem->place;
        uint32_t      bucket = static_cast<uint32_t>(at.bucket);
        uint32_t      first = first_of_bucket(*r, g.scale, best, worst, bucket);
        g = range_of(first, first_of_bucket(*r, g.scale, first, worst,
                                            bucket + 1) - 1);
        before = at.before;
        top_p = 0.0f;
        list_tokens(r, g);
    }
    cut_tokens<true>(r, g, before, goal, top_p, cut);
}

#endif

#endif
