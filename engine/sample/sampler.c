/* sampler.c - from logits to one id in a few passes over the vocabulary.
 *
 * Kept tokens are a beginning of the ranking (logit descending, id ascending),
 * so a filter is a cut: sampler_cut() finds it by radix selection on the bits
 * of the logits, three rounds of 12, 10 and 10 bits.  Before that the great
 * majority that cannot be kept is left out: for top_k by the maxima of blocks
 * of 256 tokens, for top_p by a weight so small that all tokens below it
 * together weigh too little.  kernels/sample_math.h says what the result is,
 * to the bit; this file only gets there fast.  Rejected: a sort, 20 ms for
 * 256k tokens; a heap, good for a small top_k and bad for top_p on a flat
 * distribution. */
#include "engine/sample/sampler.h"
#include "engine/base/check.h"
#include "kernels/sample_math.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define LANES        8               /* of maxima */
#define BLOCK        256             /* tokens, a multiple of LANES and 4 */
#define RADIX_BITS   12
#define RADIX_SIZE   (1 << RADIX_BITS)

struct sampler {
    int32_t    vocab_size;
    float     *masked;               /* [vocab_size], logits with masked ids */
    int32_t    num_cands;            /* tokens still in the race */
    bool       all;                  /* ids[i] == i for all of them: ids is
                                        not filled in */
    int32_t   *ids;                  /* [vocab_size], ascending */
    uint64_t  *weights;              /* [vocab_size], of ids[i] */
    float     *block_max;            /* [div_ceil(vocab_size, BLOCK)] */
    uint32_t   counts[RADIX_SIZE];
    uint64_t   masses[RADIX_SIZE];
};

/* Four at a time by compiler extension: the baseline of every 64-bit CPU. */
typedef float   vec4 __attribute__((vector_size(16)));
typedef uint32_t vec4u __attribute__((vector_size(16)));

static int32_t
num_blocks_of(int32_t num_tokens)
{
    return (num_tokens + BLOCK - 1) / BLOCK;
}

static int32_t
block_len(int32_t num_tokens, int32_t block_idx)
{
    int32_t  len = num_tokens - block_idx * BLOCK;
    return len < BLOCK ? len : BLOCK;
}

int
sampler_create(struct sampler **out, int32_t vocab_size, struct err *err)
{
    struct sampler  *s;
    size_t           n = (size_t) vocab_size;

    *out = NULL;
    if (vocab_size < 1 || vocab_size > SAMPLER_VOCAB_MAX) {
        return err_set(err, "sampler: vocab_size %d, must be 1 to %d",
                       vocab_size, SAMPLER_VOCAB_MAX);
    }
    s = calloc(1, sizeof *s);
    if (s != NULL) {
        s->vocab_size = vocab_size;
        s->masked = calloc(n, sizeof *s->masked);
        s->ids = calloc(n, sizeof *s->ids);
        s->weights = calloc(n, sizeof *s->weights);
        s->block_max = calloc((size_t) num_blocks_of(vocab_size),
                              sizeof *s->block_max);
    }
    if (s == NULL || s->masked == NULL || s->ids == NULL || s->weights == NULL
        || s->block_max == NULL)
    {
        sampler_destroy(s);
        return err_set(err, "sampler: out of memory for a vocabulary of %d",
                       vocab_size);
    }
    *out = s;
    return OK;
}

void
sampler_destroy(struct sampler *s)
{
    if (s == NULL) {
        return;
    }
    free(s->masked);
    free(s->ids);
    free(s->weights);
    free(s->block_max);
    free(s);
}

/* sample_exp() four at a time, the same operations in the same order; without
 * its branch. */
static inline vec4
exp_negative(vec4 x)
{
    const float  shift = 12582912.0f;        /* 1.5 * 2^23: rounds to integer */
    vec4         t = x * 1.44269504088896341f + shift;
    vec4         n = t - shift;
    vec4         r = x - n * 0.693359375f - n * -2.12194440e-4f;
    vec4         p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    vec4u        bits;

    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    bits = ((vec4u) t << 23) + 0x3f800000u;  /* 2^n: n is in t's low bits */
    bits = (vec4u) (p * (vec4) bits) & (vec4u) (x >= -87.0f);
    return (vec4) bits;
}

/* The largest of a block; NAN when one is NaN.  Lanes, because a chain of
 * dependent compares costs more than the memory. */
static float
max_of(const float *logits, int32_t n)
{
    float    max[LANES];
    int32_t  nan[LANES] = { 0 };
    int32_t  i = 0, any_nan = 0;

    for (int lane = 0; lane < LANES; lane++) {
        max[lane] = -INFINITY;
    }
    for (; i + LANES <= n; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            float  x = logits[i + lane];
            max[lane] = x > max[lane] ? x : max[lane];
            nan[lane] |= x != x;
        }
    }
    for (; i < n; i++) {
        max[0] = logits[i] > max[0] ? logits[i] : max[0];
        nan[0] |= logits[i] != logits[i];
    }
    for (int lane = 0; lane < LANES; lane++) {
        max[0] = max[lane] > max[0] ? max[lane] : max[0];
        any_nan |= nan[lane];
    }
    return any_nan ? NAN : max[0];
}

/* The largest logit, NAN when one is NaN; fills block_max. */
static float
sampler_max(struct sampler *s, const float *logits)
{
    int32_t  num_blocks = num_blocks_of(s->vocab_size);

    for (int32_t b = 0; b < num_blocks; b++) {
        s->block_max[b] = max_of(logits + b * BLOCK,
                                 block_len(s->vocab_size, b));
    }
    return max_of(s->block_max, num_blocks);
}

static uint64_t
sum_of(const uint64_t *weights, int32_t n)
{
    uint64_t  sum = 0;

    for (int32_t i = 0; i < n; i++) {
        sum += weights[i];
    }
    return sum;
}

static inline int32_t
cand_id(const struct sampler *s, int32_t i)
{
    return s->all ? i : s->ids[i];
}

static inline void
cand_keep(struct sampler *s, int32_t to, int32_t from)
{
    s->ids[to] = cand_id(s, from);
    s->weights[to] = s->weights[from];
}

/* Where a beginning of the ranking ends: before the token that has
 * count tokens or `mass` weight in front of it. */
struct cut {
    int64_t   count;          /* > 0 */
    uint64_t  mass;           /* > 0; UINT64_MAX: weights are not looked at */
    uint32_t  prefix;         /* key bits found so far */
    int64_t   count_before;   /* tokens with smaller bits */
    uint64_t  mass_before;
};

/* One round: histogram of the `bits` key bits above `shift` of the tokens
 * whose higher bits equal the prefix, then the bucket in which the cut lies.
 * False when it lies behind all of them. */
static bool
cut_round(struct sampler *s, const float *logits, struct cut *cut, int shift,
          int bits)
{
    uint32_t  num_buckets = 1u << bits;
    bool      weigh = cut->mass < UINT64_MAX;

    memset(s->counts, 0, num_buckets * sizeof *s->counts);
    memset(s->masses, 0, num_buckets * sizeof *s->masses);
    for (int32_t i = 0; i < s->num_cands; i++) {
        uint32_t  key = sample_rank_key(logits[cand_id(s, i)]) >> shift;
        if ((uint64_t) key >> bits == cut->prefix) {
            uint32_t  bucket = key & (num_buckets - 1);
            s->counts[bucket]++;
            if (weigh) {
                s->masses[bucket] += s->weights[i];
            }
        }
    }
    for (uint32_t b = 0; b < num_buckets; b++) {
        int64_t   count = cut->count_before + s->counts[b];
        uint64_t  mass = cut->mass_before + s->masses[b];
        if (count >= cut->count || mass >= cut->mass) {
            cut->prefix = cut->prefix << bits | b;
            return true;
        }
        cut->count_before = count;
        cut->mass_before = mass;
    }
    return false;
}

/* Drops the candidates behind the boundary bucket. */
static void
cut_drop(struct sampler *s, const float *logits, uint32_t prefix, int shift)
{
    int32_t  num = 0;

    for (int32_t i = 0; i < s->num_cands; i++) {
        if (sample_rank_key(logits[cand_id(s, i)]) >> shift <= prefix) {
            cand_keep(s, num++, i);
        }
    }
    s->num_cands = num;
    s->all = false;
}

/* Keeps the candidates that are ranked before the cut. */
static void
sampler_cut(struct sampler *s, const float *logits, int64_t count,
            uint64_t mass)
{
    static const int  shifts[] = { 20, 10, 0 };
    struct cut        cut = { .count = count, .mass = mass };
    int32_t           num = 0;

    for (size_t r = 0; r < sizeof shifts / sizeof *shifts; r++) {
        if (!cut_round(s, logits, &cut, shifts[r], r == 0 ? RADIX_BITS : 10)) {
            return;
        }
        cut_drop(s, logits, cut.prefix, shifts[r]);
    }
    /* Left in the boundary bucket are equal logits: lower ids first. */
    for (int32_t i = 0; i < s->num_cands; i++) {
        bool  tie = sample_rank_key(logits[s->ids[i]]) == cut.prefix;
        if (tie && (cut.count_before >= count || cut.mass_before >= mass)) {
            continue;
        }
        if (tie) {
            cut.count_before++;
            cut.mass_before += s->weights[i];
        }
        cand_keep(s, num++, i);
    }
    s->num_cands = num;
}

/* The k best: the k-th best block maximum is a bound for the k-th best logit,
 * because k blocks have a token at least as good. */
static void
sampler_top_k(struct sampler *s, const float *logits, int32_t k)
{
    int32_t  num_blocks = num_blocks_of(s->vocab_size), num = 0;
    float    bound = INFINITY;

    if (k <= num_blocks) {
        s->num_cands = num_blocks;
        sampler_cut(s, s->block_max, k, UINT64_MAX);
        for (int32_t i = 0; i < s->num_cands; i++) {
            float  max = s->block_max[cand_id(s, i)];
            bound = max < bound ? max : bound;
        }
        for (int32_t b = 0; b < num_blocks; b++) {
            int32_t  end = b * BLOCK + block_len(s->vocab_size, b);
            for (int32_t i = b * BLOCK; s->block_max[b] >= bound && i < end;
                 i++)
            {
                s->ids[num] = i;
                num += logits[i] >= bound;
            }
        }
        s->num_cands = num;
        s->all = false;
    }
    sampler_cut(s, logits, k, UINT64_MAX);
}

/* sample_weight() of all candidates. */
static void
sampler_weigh(struct sampler *s, const float *logits, float max,
              float temperature)
{
    for (int32_t i = 0; i < s->num_cands; i += 4) {
        int32_t  num = s->num_cands - i < 4 ? s->num_cands - i : 4;
        vec4     x = { max, max, max, max };
        if (s->all && num == 4) {
            memcpy(&x, logits + i, sizeof x);
        } else {
            for (int32_t lane = 0; lane < num; lane++) {
                x[lane] = logits[cand_id(s, i + lane)];
            }
        }
        x = exp_negative((x - max) / temperature);
        for (int32_t lane = 0; lane < num; lane++) {
            s->weights[i + lane] = sample_fixed(x[lane]);
        }
    }
}

static void
sampler_keep_heavier(struct sampler *s, uint64_t weight)
{
    int32_t  num = 0;

    for (int32_t i = 0; i < s->num_cands; i++) {
        uint64_t  w = s->weights[i];
        s->ids[num] = cand_id(s, i);
        s->weights[num] = w;
        num += w >= weight;
    }
    s->num_cands = num;
    s->all = false;
}

/* The weight behind the cut is at most total - mass.  Were a token lighter
 * than an n-th of it kept, it and the tokens ranked behind it, none of them
 * heavier, would weigh less than that; half of it, because sample_exp() is
 * monotone up to its rounding only. */
static void
sampler_top_p(struct sampler *s, const float *logits, float top_p)
{
    uint64_t  total = sum_of(s->weights, s->num_cands);
    uint64_t  mass = sample_top_p_mass(top_p, total);

    sampler_keep_heavier(s, (total - mass) / 2 / (uint64_t) s->num_cands);
    sampler_cut(s, logits, INT64_MAX, mass);
}

/* Inverse distribution function: first the block, then the token. */
static int32_t
sampler_draw(const struct sampler *s, const struct sampler_row *row)
{
    uint64_t  target = sample_target(row->params->seed,
                                     (uint64_t) row->position,
                                     sum_of(s->weights, s->num_cands));
    uint64_t  sum = 0, block_sum;
    int32_t   i = 0;

    while ((block_sum = sum_of(s->weights + i, i + BLOCK < s->num_cands
                               ? BLOCK : s->num_cands - i)) <= target - sum)
    {
        sum += block_sum;
        i += BLOCK;
        check_lt(i, s->num_cands);
    }
    while (s->weights[i] <= target - sum) {
        sum += s->weights[i++];
    }
    return cand_id(s, i);
}

static const float *
sampler_mask(struct sampler *s, const float *logits,
             const struct sampler_row *row)
{
    if (row->num_masked == 0) {
        return logits;
    }
    memcpy(s->masked, logits, (size_t) s->vocab_size * sizeof *s->masked);
    for (int32_t i = 0; i < row->num_masked; i++) {
        int32_t  id = row->masked_ids[i];
        if (id >= 0 && id < s->vocab_size) {
            s->masked[id] = -INFINITY;
        }
    }
    return s->masked;
}

/* The lowest id that has the largest logit. */
static int32_t
sampler_first(const struct sampler *s, const float *logits, float max)
{
    int32_t  block_idx = 0, id;

    while (s->block_max[block_idx] != max) {
        block_idx++;
    }
    for (id = block_idx * BLOCK; logits[id] != max; id++) {
    }
    return id;
}

int32_t
sampler_sample(struct sampler *s, const float *logits,
               const struct sampler_row *row)
{
    const struct sampling_params  *p = row->params;

    logits = sampler_mask(s, logits, row);
    float  max = sampler_max(s, logits);
    if (!isfinite(max)) {
        return SAMPLER_NUMERIC_ERROR;
    }
    if (p->temperature < SAMPLE_TEMPERATURE_MIN || p->top_k == 1) {
        return sampler_first(s, logits, max);
    }
    s->num_cands = s->vocab_size;
    s->all = true;
    if (p->top_k > 0 && p->top_k < s->vocab_size) {
        sampler_top_k(s, logits, p->top_k);
    }
    sampler_weigh(s, logits, max, p->temperature);
    if (p->top_p < 1.0f) {
        sampler_top_p(s, logits, p->top_p);
    }
    if (p->min_p > 0.0f) {
        sampler_keep_heavier(s, sample_min_p_weight(p->min_p));
    }
    return sampler_draw(s, row);
}
