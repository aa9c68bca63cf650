/* sample_select.cuh - top_k and top_p of one row in the shared memory of a
 * cluster: where the ranking is cut, by radix selection on rank keys. */
#ifndef LLM_KERNELS_SAMPLE_SELECT_CUH
#define LLM_KERNELS_SAMPLE_SELECT_CUH

#include "kernels/sample_row.cuh"

/* A range of keys in buckets of 1 << shift. */
struct range {
    uint32_t first, last;
    int      shift;
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

/* Adds x[i] to the buckets of key[i] where in[i]; all at once, because each of
 * two additions waits for shared memory. */
template <bool MASS, int N> static __device__ __forceinline__ void
histogram_add(struct row *r, const struct range &g, const uint32_t (&key)[N],
              const uint64_t (&x)[N], const bool (&in)[N])
{
    struct histogram  *h = &r->filter->histogram;
    uint32_t           old[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (in[i]) {
            old[i] = atomicAdd(&h->low[(key[i] - g.first) >> g.shift],
                               static_cast<uint32_t>(x[i]));
        }
    }
#pragma unroll
    for (int i = 0; MASS && i < N; i++) {
        uint32_t  low = static_cast<uint32_t>(x[i]);
        uint32_t  high = static_cast<uint32_t>(x[i] >> 32);
        high += old[i] + low < low;                       /* the carry */
        if (in[i] && high > 0) {
            atomicAdd(&h->high[(key[i] - g.first) >> g.shift], high);
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

/* The bucket in which the goal is reached, for all blocks: in r->smem->place.
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
    cluster_sync();                          /* all histograms are complete */
    if (t < per) {
        x = sum_bucket<MASS>(*r, bucket);
    }
    uint64_t  up_to = block_scan64(r->smem, x, &sum);
    rest = 0;
#pragma unroll
    for (int i = 0; MASS && i < WARPS; i++) {
        rest += r->smem->rest[i];
    }
    const struct letter  *inbox = exchange(r, sum, rest);
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
    if (up_to >= *goal && up_to - x < *goal && t < per) {
        for (int i = 0; i < r->blocks; i++) {
            peer_store(&r->smem->place.before, i, up_to - x);
            peer_store(&r->smem->place.sum, i, x);
            peer_store(reinterpret_cast<uint64_t *>(&r->smem->place.bucket), i,
                       static_cast<uint64_t>(bucket));
        }
    }
    cluster_sync();
    return sum >= *goal;
}

static __device__ __forceinline__ struct range
range_of(uint32_t first, uint32_t last)
{
    int  bits = 32 - __clz(static_cast<int>(last - first));
    return { first, last, max(0, bits - BUCKET_BITS) };
}

/* ---- cuts ---- */

/* The id of the tie after `before` others among equal logits. */
static __device__ __forceinline__ int
find_tie(struct row *r, float logit, uint64_t num_before)
{
    auto      is_tie = [&](float x, int) -> uint64_t { return x == logit; };
    uint64_t  before, total;
    uint64_t  sum = sum_tokens<false>(r, logit, &before, &total, is_tie);
    pick(*r, num_before, before, sum, is_tie, [&](int id) {
        for (int i = 0; i < r->blocks; i++) {
            peer_store(&r->smem->place.before, i, static_cast<uint64_t>(id));
        }
    });
    cluster_sync();
    return static_cast<int>(r->smem->place.before);
}

/* Adds N kept tokens in the range to the histogram; returns the weight of those
 * that are too light to be cut at. */
template <bool MASS, int N> static __device__ __forceinline__ uint64_t
count_these(struct row *r, const struct range &g, const struct cut &cut,
            const float (&logit)[N], int id)
{
    uint32_t  key[N];
    uint64_t  x[N], rest = 0;
    bool      in[N];
#pragma unroll
    for (int j = 0; j < N; j++) {
        key[j] = sample_rank_key(logit[j]);
        x[j] = MASS ? weight_of(*r, logit[j]) : 1;
        in[j] = (key[j] - g.first <= g.last - g.first)
                & is_kept(cut, logit[j], id + j);
        if (MASS) {
            bool  light = x[j] < r->least_weight;
            rest += in[j] & light ? x[j] : 0;
            in[j] &= !light;
        }
    }
    histogram_add<MASS, N>(r, g, key, x, in);
    return rest;
}

template <bool MASS> static __device__ __forceinline__ uint64_t
count_tokens(struct row *r, const struct range &g, const struct cut &cut)
{
    float     low = logit_of_key(g.last), high = logit_of_key(g.first);
    uint64_t  rest = 0;
    clear_histogram<MASS>(r);
    if (r->listed) {
        each_listed(*r, [&](float logit, int id) {
            const float  at[1] = { logit };
            rest += count_these<MASS, 1>(r, g, cut, at, id);
        });
        return rest;
    }
    each_four(*r, low, [&](const float (&v)[4], int id) {
        bool  any = false;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            any |= (v[j] >= low) & (v[j] <= high);
        }
        if (any) {
            rest += count_these<MASS, 4>(r, g, cut, v, id);
        }
    });
    return rest;
}

/* Cuts the kept tokens, all of them in the range, to the goal: `goal` tokens,
 * or MASS: top_p of their weight. */
template <bool MASS> static __device__ __forceinline__ void
cut_tokens(struct row *r, struct range g, uint64_t goal, float top_p,
           struct cut *cut)
{
    struct cut  old = *cut;
    uint64_t    before = 0;
    bool        listed = r->listed;
    for (;;) {
        uint64_t  rest = count_tokens<MASS>(r, g, old);
        if (!find_place<MASS>(r, rest, top_p, before, &goal)) {
            break;
        }
        struct place  at = r->smem->place;
        g.first += at.bucket << g.shift;
        g.last = min(g.last, g.first + (1u << g.shift) - 1);
        before = at.before;
        top_p = 0.0f;
        uint64_t  ties = at.sum, keep = goal - before;
        if (g.shift == 0 && MASS) {
            uint64_t  w = weight_of(*r, logit_of_key(g.first));
            ties = at.sum / w;
            keep = (keep + w - 1) / w;
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
        const uint64_t  one[1] = { 1 };
        clear_histogram<false>(r);
        histogram_add<false, 1>(r, g, key, one, in);
        if (find_place<false>(r, 0, 0.0f, 0, &goal)) {
            uint32_t  end = g.first + (r->smem->place.bucket << g.shift);
            g = range_of(best, min(worst, end + (1u << g.shift) - 1));
            list_tokens(r, g);
        }
    }
    cut_tokens<false>(r, g, goal, 0.0f, cut);
}

#endif

#endif
