/* sample_row.cuh - one row of logits in the shared memory of a cluster: what its
 * blocks tell each other, sums over threads and blocks, the weights of tokens,
 * the arrival of the logits, and the token at a running sum.  sample_sm90.cu
 * says how a row is sampled with it. */
#ifndef LLM_KERNELS_SAMPLE_ROW_CUH
#define LLM_KERNELS_SAMPLE_ROW_CUH

#include "kernels/sm90.cuh"
#include "kernels/sample_common.cuh"

#define THREADS        384
#define WARPS          (THREADS / WARP)
#define BLOCKS_MAX     16          /* the largest cluster */
#define BUCKET_BITS    11
#define BUCKETS        (1 << BUCKET_BITS)
#define LISTED_MAX     1024        /* tokens */

/* What a block tells the others of its row. */
struct alignas(16) letter {
    uint64_t a, b;
};

/* Where a beginning of the ranking ends: in which bucket, what is in front of
 * it and in it.  Two letters. */
struct alignas(16) place {
    uint64_t before, sum, bucket, none;
};

struct histogram {                  /* sums, in two halves */
    unsigned int low[BUCKETS], high[BUCKETS];
};

struct row_smem {
    struct letter        inbox[2][BLOCKS_MAX];
    struct sample_params params[2];     /* of rows in turns; two letters */
    struct place         place;     /* written by the block that found it */
    uint64_t             arrived;       /* mbarrier: the slice is there */
    uint64_t             told[2], placed;    /* mbarriers: letters are there */
    uint64_t             warps[WARPS], rest[WARPS];
    unsigned int         num_listed;
};

struct filter_smem {
    struct histogram     histogram;
    uint32_t             listed[LISTED_MAX];    /* tokens of the slice */
};

/* Kept tokens: logit above, or equal and the id not above. */
struct cut {
    float logit;
    int   id;
};

struct row {
    struct row_smem    *smem;
    struct filter_smem *filter;
    float4             *tokens;      /* [THREADS][fours], the slice */
    const float        *logits;      /* of the row */
    const float        *next;        /* of the row after it, or NULL */
    int                 fours;       /* of a thread */
    int                 rank, blocks;    /* this block's, the row's */
    int                 first_id, num;   /* the slice's tokens */
    int                 vocab;
    unsigned int        turn, places;    /* exchanges, places so far */
    bool                listed;      /* the list has all tokens that matter */
    float               max, temperature, inverse, inverse_low;
    float               thread_best;
    uint64_t            least_weight;
};

#if SM90_CODE

/* ---- the cluster ---- */

/* A letter, to p in block `rank`, where `told` counts its bytes.  It brings with
 * it what this block has written before a __syncthreads().  A barrier of the
 * cluster is a fence of the whole GPU: with them 54 us are 70 (256 rows, min_p). */
static __device__ __forceinline__ void
send(void *p, int rank, uint64_t a, uint64_t b, uint64_t *told)
{
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes"
                 ".v2.u64 [%0], {%1, %2}, [%3];\n"
                 :: "r"(cluster_address(p, rank)), "l"(a), "l"(b),
                    "r"(cluster_address(told, rank)) : "memory");
}

/* Until letters of so many bytes are here, and what they bring, all threads. */
static __device__ __forceinline__ void
await(uint64_t *told, unsigned int bytes, unsigned int parity)
{
    if (threadIdx.x == 0) {
        barrier_arrive_expect(told, bytes);
    }
    unsigned int  here;
    do {
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire"
                     ".cluster.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}\n" : "=r"(here)
                     : "r"(smem_u32(told)), "r"(parity) : "memory");
    } while (!here);
}

static __device__ __forceinline__ unsigned int
peer_load(const unsigned int *p, int rank)
{
    unsigned int  x;
    asm volatile("ld.shared::cluster.u32 %0, [%1];\n"
                 : "=r"(x) : "r"(cluster_address(p, rank)) : "memory");
    return x;
}

/* Gives two numbers to all blocks of the row, and waits for theirs and for so
 * many bytes of other letters.  Two inboxes in turns: a block that sends for the
 * one after next has letters of the next from all, who have read these, for
 * there is a __syncthreads() between any two. */
static __device__ __forceinline__ const struct letter *
exchange(struct row *r, uint64_t a, uint64_t b, unsigned int more)
{
    struct letter  *inbox = r->smem->inbox[r->turn % 2];
    uint64_t       *told = &r->smem->told[r->turn % 2];
    if (threadIdx.x < r->blocks) {
        send(&inbox[r->rank], threadIdx.x, a, b, told);
    }
    await(told, static_cast<unsigned int>(r->blocks) * sizeof *inbox + more,
          r->turn / 2 % 2);
    r->turn++;
    return inbox;
}

/* The same of one block, of one thread in it, to all.  There is an exchange()
 * between any two. */
static __device__ __forceinline__ void
send_place(const struct row &r, const struct place &x)
{
    struct place  *place = &r.smem->place;
#pragma unroll 1
    for (int i = 0; i < r.blocks; i++) {
        send(&place->before, i, x.before, x.sum, &r.smem->placed);
        send(&place->bucket, i, x.bucket, 0, &r.smem->placed);
    }
}

static __device__ __forceinline__ const struct place *
await_place(struct row *r)
{
    await(&r->smem->placed, sizeof r->smem->place, r->places % 2);
    r->places++;
    return &r->smem->place;
}

/* ---- sums ---- */

/* The sum up to and with this thread; *total of all threads. */
static __device__ __forceinline__ uint64_t
block_scan64(struct row_smem *smem, uint64_t x, uint64_t *total)
{
    int       warp = threadIdx.x / WARP;
    uint64_t  sum = warp_scan64(x), before = 0;
    *total = 0;
    __syncthreads();                 /* the last use of warps[] is over */
    if (threadIdx.x % WARP == WARP - 1) {
        smem->warps[warp] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < WARPS; i++) {
        uint64_t  y = smem->warps[i];
        before += i < warp ? y : 0;
        *total += y;
    }
    return before + sum;
}

static __device__ __forceinline__ uint64_t
block_min64(struct row_smem *smem, uint64_t x)
{
    uint32_t  high = static_cast<uint32_t>(x >> 32);
    uint32_t  key = __reduce_min_sync(ALL, high);
    uint32_t  id = __reduce_min_sync(ALL, high == key
                                          ? static_cast<uint32_t>(x) : ALL);
    __syncthreads();                 /* the last use of warps[] is over */
    if (threadIdx.x % WARP == 0) {
        smem->warps[threadIdx.x / WARP] = static_cast<uint64_t>(key) << 32 | id;
    }
    __syncthreads();
    x = smem->warps[0];
#pragma unroll
    for (int i = 1; i < WARPS; i++) {
        x = smem->warps[i] < x ? smem->warps[i] : x;
    }
    return x;
}

/* ---- tokens ---- */

/* sample_weight() before it is cut to an integer, the same operations but for
 * these, which give the same bits: the quotient from the reciprocal in two
 * parts and its own remainder (Markstein; temperatures up to
 * SAMPLE_SM90_TEMPERATURE_MAX), one product that is exact anyway fused with the
 * addition after it, n + 40 added to the exponent.  NaN and all that weighs
 * nothing become e^-60. */
template <int N> static __device__ __forceinline__ void
weight_floats(const struct row &r, const float (&logit)[N], float (&w)[N])
{
    const float  shift = 12582912.0f + 40.0f;
#pragma unroll
    for (int j = 0; j < N; j++) {
        w[j] = __fadd_rn(logit[j], -r.max);
    }
    if (r.temperature != 1.0f) {
#pragma unroll
        for (int j = 0; j < N; j++) {
            float  a = w[j];
            float  q = __fmaf_rn(a, r.inverse, __fmul_rn(a, r.inverse_low));
            w[j] = __fmaf_rn(__fmaf_rn(-r.temperature, q, a), r.inverse, q);
        }
    }
#pragma unroll
    for (int j = 0; j < N; j++) {
        float  x = fmaxf(w[j], -60.0f);
        float  t = __fadd_rn(__fmul_rn(x, 1.44269504088896341f), shift);
        float  n = __fadd_rn(t, -shift);
        float  e = __fmaf_rn(-n, 0.693359375f, x);
        e = __fadd_rn(e, -__fmul_rn(n, -2.12194440e-4f));
        float  p = __fadd_rn(__fmul_rn(1.9875691500e-4f, e), 1.3981999507e-3f);
        p = __fadd_rn(__fmul_rn(p, e), 8.3334519073e-3f);
        p = __fadd_rn(__fmul_rn(p, e), 4.1665795894e-2f);
        p = __fadd_rn(__fmul_rn(p, e), 1.6666665459e-1f);
        p = __fadd_rn(__fmul_rn(p, e), 5.0000001201e-1f);
        p = __fadd_rn(__fadd_rn(__fmul_rn(p, __fmul_rn(e, e)), e), 1.0f);
        w[j] = __uint_as_float((__float_as_uint(t) << 23) + __float_as_uint(p));
    }
}

static __device__ __forceinline__ float
weight_float(const struct row &r, float logit)
{
    const float  x[1] = { logit };
    float        w[1];
    weight_floats<1>(r, x, w);
    return w[0];
}

static __device__ __forceinline__ uint64_t
weight_of(const struct row &r, float logit)
{
    return __float2ull_rz(weight_float(r, logit));
}

/* Temperatures below the best token behind which tokens weigh less than this
 * part of it. */
static __device__ __forceinline__ float
reach_of(float part)
{
    return 0.01f - 1.001f * __logf(part);
}

static __device__ __forceinline__ bool
is_kept(const struct cut &c, float logit, int id)
{
    return (logit > c.logit) | ((logit == c.logit) & (id <= c.id));
}

/* f(four logits, id of the first) of the thread's fours that reach `least`. */
template <typename F> static __device__ __forceinline__ void
each_four(const struct row &r, float least, F f)
{
    const float4  *x = r.tokens + threadIdx.x * r.fours;
    int            id = r.first_id + threadIdx.x * r.fours * 4;
    for (int k = 0; k < r.fours; k++) {
        float4  v = x[k];
        if (fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)) >= least) {
            const float  at[4] = { v.x, v.y, v.z, v.w };
            f(at, id + 4 * k);
        }
    }
}

/* f(logit, id) of the listed tokens, which no thread owns. */
template <typename F> static __device__ __forceinline__ void
each_listed(const struct row &r, F f)
{
    const float  *x = reinterpret_cast<const float *>(r.tokens);
    for (unsigned int i = threadIdx.x; i < r.smem->num_listed; i += THREADS) {
        uint32_t  at = r.filter->listed[i];
        f(x[at], r.first_id + static_cast<int>(at));
    }
}

/* ---- arrival of the logits ---- */

/* The best of a thread's tokens, the first of equal ones; NaN is the best of
 * all and stays. */
struct best {
    float logit;
    int   id;
};

static __device__ __forceinline__ float
max_nan(float a, float b)
{
    asm("max.NaN.f32 %0, %0, %1;\n" : "+f"(a) : "f"(b));
    return a;
}

/* One of four tokens: `id` is theirs, if the best is among them. */
static __device__ __forceinline__ void
best_take(struct best *b, const float4 &v, int id)
{
    float  most = max_nan(max_nan(v.x, v.y), max_nan(v.z, v.w));
    b->id = most > b->logit ? id : b->id;
    b->logit = max_nan(b->logit, most);
}

/* Which of four it is. */
static __device__ __forceinline__ int
best_place(const struct best &b, const float4 &v)
{
    return v.x == b.logit ? 0 : v.y == b.logit ? 1 : v.z == b.logit ? 2 : 3;
}

static __device__ __forceinline__ uint64_t
best_packed(const struct best &b)
{
    uint32_t  key = b.logit == b.logit ? sample_rank_key(b.logit) : 0;
    return static_cast<uint64_t>(key) << 32 | static_cast<uint32_t>(b.id);
}

/* Tokens i .. i + 3 of the slice; -inf behind its end. */
template <bool WIDE> static __device__ __forceinline__ float4
load_four(const struct row &r, int i)
{
    const float  *x = r.logits + r.first_id + i;
    float4        v = make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    if (WIDE) {
        if (i < r.num) {
            asm volatile("ld.global.L1::no_allocate.v4.f32 {%0, %1, %2, %3}, "
                         "[%4];\n" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                         : "l"(x));
        }
        return v;
    }
    v.x = i < r.num ? __ldcg(x) : v.x;
    v.y = i + 1 < r.num ? __ldcg(x + 1) : v.y;
    v.z = i + 2 < r.num ? __ldcg(x + 2) : v.z;
    v.w = i + 3 < r.num ? __ldcg(x + 3) : v.w;
    return v;
}

/* The best token of the slice as it passes by; KEEP: to shared memory. */
template <bool KEEP, bool WIDE> static __device__ __forceinline__ struct best
read_slice(const struct row &r)
{
    struct best  b = { -INFINITY, 0 };
#pragma unroll 4
    for (int k = 0; k < r.fours; k++) {
        int          i = k * THREADS + threadIdx.x;
        float4       v = load_four<WIDE>(r, 4 * i);
        struct best  c = { -INFINITY, 0 };
        best_take(&c, v, r.first_id + 4 * i);
        c.id += best_place(c, v);
        b.id = c.logit > b.logit ? c.id : b.id;
        b.logit = max_nan(b.logit, c.logit);
        if (KEEP) {
            r.tokens[i] = v;
        }
    }
    return b;
}

/* Has the next row's slice copied, when nobody reads this one's any more. */
static __device__ __forceinline__ void
begin_copy(const struct row &r)
{
    if (threadIdx.x == 0 && r.next != NULL && r.num > 0) {
        unsigned int  bytes = static_cast<unsigned int>(r.num) * 4;
        barrier_arrive_expect(&r.smem->arrived, bytes);
        bulk_load(r.tokens, r.next + r.first_id, bytes, &r.smem->arrived);
    }
}

static __device__ __forceinline__ struct best
scan_slice(const struct row &r, unsigned int parity)
{
    struct best    b = { -INFINITY, 0 };
    const float4  *x = r.tokens + threadIdx.x * r.fours;
    if (r.num > 0) {
        barrier_wait(&r.smem->arrived, parity);
    }
    for (int k = 0; k < r.fours; k++) {
        best_take(&b, x[k], k);
    }
    b.id = r.first_id + (static_cast<int>(threadIdx.x) * r.fours + b.id) * 4
           + best_place(b, x[b.id]);
    return b;
}

/* ---- sums in the order of ids ---- */

/* value() of this thread's tokens that reach `least`. */
template <typename F> static __device__ __forceinline__ uint64_t
sum_of_thread(const struct row &r, float least, F value)
{
    uint64_t  sum = 0;
    each_four(r, least, [&](const float (&v)[4], int id) {
        sum += value(v, id);
    });
    return sum;
}

/* Of the threads' sums, *before of all lower ids, *total of the row.  LAST: the
 * slice is not needed afterwards. */
template <bool LAST> static __device__ __forceinline__ void
place_sum(struct row *r, uint64_t sum, uint64_t *before, uint64_t *total)
{
    uint64_t  block_sum;
    *before = block_scan64(r->smem, sum, &block_sum) - sum;
    if (LAST) {
        begin_copy(*r);
    }
    const struct letter  *inbox = exchange(r, block_sum, 0, 0);
    *total = 0;
    for (int i = 0; i < r->blocks; i++) {
        *before += i < r->rank ? inbox[i].a : 0;
        *total += inbox[i].a;
    }
}

/* found(id) in one thread of the row: the lowest id whose running sum exceeds
 * target, given what place_sum() gave.  Whole warps call.  Reads the logits
 * from memory, for shared memory may be getting the next row's. */
template <typename F, typename G> static __device__ __forceinline__ void
pick(const struct row &r, uint64_t target, uint64_t before, uint64_t sum,
     F value, G found)
{
    bool          mine = before <= target && target - before < sum;
    unsigned int  lanes = __ballot_sync(ALL, mine);
    if (lanes == 0) {
        return;
    }
    int  owner_lane = __ffs(static_cast<int>(lanes)) - 1;
    int  lane = threadIdx.x % WARP;
    int  owner = static_cast<int>(threadIdx.x) - lane + owner_lane;
    int  id = r.first_id + owner * r.fours * 4 + lane;
    int  end = min(id - lane + r.fours * 4, r.first_id + r.num);
    before = __shfl_sync(ALL, before, owner_lane);
    for (; id - lane < end; id += WARP) {
        const float  x[1] = { id < end ? __ldcg(r.logits + id) : -INFINITY };
        uint64_t     w = id < end ? value(x, id) : 0;
        uint64_t  up_to = before + warp_scan64(w);
        lanes = __ballot_sync(ALL, up_to > target);
        if (lanes != 0) {
            if (lane == __ffs(static_cast<int>(lanes)) - 1) {
                found(id);
            }
            return;
        }
        before = __shfl_sync(ALL, up_to, WARP - 1);
    }
}

#endif

#endif
