/* test_sampler.c - the sampler against exact distributions.
 *
 * The oracle sorts: it ranks all tokens, applies Hugging Face's filters in
 * double precision and gives every token's probability.  Draws are compared
 * with it by chi-square, filters by the set of tokens that ever appear.
 *
 * A second oracle is the definition of kernels/sample_math.h written down as
 * it stands, with a sort: the sampler must agree with it in every draw, and
 * checksums pin both to fixed values, so that another compiler, CPU or device
 * that differs in one bit is found. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "engine/base/clock.h"
#include "engine/base/hash.h"
#include "engine/sample/sampler.h"
#include "kernels/sample_math.h"

static const float  *oracle_logits;

static int
oracle_compare(const void *a, const void *b)
{
    int32_t  i = *(const int32_t *) a, j = *(const int32_t *) b;
    float    x = oracle_logits[i], y = oracle_logits[j];

    return x > y ? -1 : x < y ? 1 : i < j ? -1 : 1;
}

/* Writes the exact probabilities; returns how many tokens are kept. */
static int
oracle(const float *logits, int n, const struct sampling_params *p,
       double *probs)
{
    int32_t  *rank = malloc((size_t) n * sizeof *rank);
    double    total = 0.0, kept = 0.0, before = 0.0;
    int       num = n;

    for (int i = 0; i < n; i++) {
        rank[i] = i;
        probs[i] = 0.0;
    }
    oracle_logits = logits;
    qsort(rank, (size_t) n, sizeof *rank, oracle_compare);
    if (p->top_k > 0 && p->top_k < n) {
        num = p->top_k;
    }
    double  best = (double) logits[rank[0]], t = (double) p->temperature;
    for (int i = 0; i < num; i++) {
        total += exp(((double) logits[rank[i]] - best) / t);
    }
    for (int i = 0; i < num; i++) {
        double  w = exp(((double) logits[rank[i]] - best) / t);
        if (i > 0 && (before >= (double) p->top_p * total
                      || w < (double) p->min_p))
        {
            num = i;
            break;
        }
        before += w;
        kept += w;
        probs[rank[i]] = w;
    }
    for (int i = 0; i < n; i++) {
        probs[i] /= kept;
    }
    free(rank);
    return num;
}

static struct sampler *
make_sampler(int32_t vocab_size)
{
    struct sampler  *s;

    assert_int_equal(sampler_create(&s, vocab_size, NULL), OK);
    return s;
}

static int32_t
sample(struct sampler *s, const float *logits, struct sampling_params p,
       int64_t position)
{
    return sampler_sample(s, logits, &(struct sampler_row) {
        .params = &p, .position = position });
}

static float
uniform_float(uint64_t *rng)
{
    *rng += 0x9e3779b97f4a7c15ULL;
    return (float) (hash_mix64(*rng) >> 40) * 0x1p-24f;
}

/* Sum of two uniforms scaled: many middling logits, few good ones. */
static void
random_logits(float *logits, int n, float scale, uint64_t seed)
{
    for (int i = 0; i < n; i++) {
        logits[i] = (uniform_float(&seed) + uniform_float(&seed)
                     + uniform_float(&seed) - 1.5f) * scale;
    }
}

/* Draws num_draws tokens; every drawn token must be possible, and chi-square
 * within mean + 6 standard deviations of its degrees of freedom. */
static void
assert_distribution(const float *logits, int n, struct sampling_params p,
                    int num_draws)
{
    struct sampler  *s = make_sampler(n);
    double          *probs = malloc((size_t) n * sizeof *probs);
    int             *seen = calloc((size_t) n, sizeof *seen);
    double           chi2 = 0.0, rest_expected = 0.0, rest_seen = 0.0;
    int              freedom = -1;

    (void) oracle(logits, n, &p, probs);
    for (int i = 0; i < num_draws; i++) {
        int32_t  id = sample(s, logits, p, i);
        assert_in_range(id, 0, n - 1);
        seen[id]++;
    }
    for (int i = 0; i < n; i++) {
        double  expected = probs[i] * num_draws;
        if (probs[i] == 0.0) {
            assert_int_equal(seen[i], 0);
        } else if (expected < 5.0) {        /* pooled */
            rest_expected += expected;
            rest_seen += seen[i];
        } else {
            chi2 += (seen[i] - expected) * (seen[i] - expected) / expected;
            freedom++;
        }
    }
    if (rest_expected >= 5.0) {
        chi2 += (rest_seen - rest_expected) * (rest_seen - rest_expected)
                / rest_expected;
        freedom++;
    }
    printf("T %.2g k %d p %.3g min_p %.3g: chi2 %.1f, %d degrees\n",
           (double) p.temperature, p.top_k, (double) p.top_p,
           (double) p.min_p, chi2, freedom);
    assert_true(chi2 <= freedom + 6.0 * sqrt(2.0 * freedom) + 6.0);
    free(probs);
    free(seen);
    sampler_destroy(s);
}

static void
draws_follow_the_exact_distribution(void **state)
{
    (void) state;
    static const struct sampling_params  cases[] = {
        { 1.0f, 1.0f, 0.0f, 0, 1 },    { 0.5f, 1.0f, 0.0f, 0, 2 },
        { 2.0f, 1.0f, 0.0f, 0, 3 },    { 1.0f, 0.9f, 0.0f, 0, 4 },
        { 1.0f, 1.0f, 0.0f, 7, 5 },    { 1.0f, 1.0f, 0.1f, 0, 6 },
        { 0.7f, 0.8f, 0.0f, 20, 7 },   { 1.5f, 0.95f, 0.05f, 50, 8 },
        { 1.0f, 0.001f, 0.0f, 0, 9 },  { 1.0f, 1.0f, 1.0f, 0, 10 },
        { 1.0f, 0.5f, 0.0f, 1000, 11 },
    };
    float  logits[211];

    random_logits(logits, 211, 6.0f, 42);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_distribution(logits, 211, cases[i], 200000);
    }
}

/* The kept set is read off by drawing many times from a flat distribution of
 * few tokens: each kept one appears. */
static void
ties_at_the_boundary_go_to_the_lower_ids(void **state)
{
    (void) state;
    const float      logits[8] = { 1, 2, 2, 0, 2, 1, 2, -INFINITY };
    struct sampler  *s = make_sampler(8);
    bool             seen[8];
    static const struct {
        struct sampling_params  p;
        const char             *kept;
    } cases[] = {
        { { 1, 1, 0, 3, 1 }, "01101000" },    /* k cuts the four 2s */
        { { 1, 1, 0, 5, 1 }, "11101010" },    /* and the two 1s */
        { { 1, 1, 0, 100, 1 }, "11111110" },
        { { 1, 0.25f, 0, 0, 1 }, "01100000" },  /* each 2 has p = 0.200 */
        { { 1, 0.5f, 0, 0, 1 }, "01101000" },
        { { 1, 1, 0.99f, 0, 1 }, "01101010" },
        { { 1, 1e-9f, 0, 0, 1 }, "01000000" },
    };

    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        memset(seen, 0, sizeof seen);
        for (int64_t i = 0; i < 3000; i++) {
            int32_t  id = sample(s, logits, cases[c].p, i);
            assert_in_range(id, 0, 7);
            seen[id] = true;
        }
        for (int i = 0; i < 8; i++) {
            assert_int_equal(seen[i], cases[c].kept[i] == '1');
        }
    }
    sampler_destroy(s);
}

static void
greedy_takes_the_best_and_the_lowest_id_of_equals(void **state)
{
    (void) state;
    float            logits[100];
    struct sampler  *s = make_sampler(100);

    for (int i = 0; i < 100; i++) {
        logits[i] = -5.0f;
    }
    assert_int_equal(sample(s, logits, (struct sampling_params) { 0 }, 3), 0);
    logits[97] = logits[41] = logits[42] = 3.0f;
    assert_int_equal(sample(s, logits, (struct sampling_params) { 0 }, 3), 41);
    assert_int_equal(sample(s, logits, (struct sampling_params) {
        .temperature = 5, .top_p = 1, .top_k = 1 }, 3), 41);
    logits[0] = -0.0f;
    logits[41] = logits[42] = logits[97] = logits[1] = 0.0f;
    assert_int_equal(sample(s, logits, (struct sampling_params) { 0 }, 3), 0);
    sampler_destroy(s);
}

static void
masked_ids_are_never_chosen(void **state)
{
    (void) state;
    float                   logits[20];
    const int32_t           masked[] = { 3, 7, 7, -1, 20 };
    struct sampling_params  p = { 1.0f, 1.0f, 0.0f, 0, 9 };
    struct sampler         *s = make_sampler(20);
    bool                    others = false;

    random_logits(logits, 20, 1.0f, 1);
    logits[3] = 30.0f;
    logits[7] = 29.0f;
    for (int64_t i = 0; i < 500; i++) {
        int32_t  id = sampler_sample(s, logits, &(struct sampler_row) {
            .params = &p, .position = i, .masked_ids = masked,
            .num_masked = 5 });
        assert_true(id != 3 && id != 7);
        others |= id != 0;
    }
    assert_true(others);
    assert_true(logits[3] == 30.0f);          /* the caller's are not touched */
    sampler_destroy(s);
}

static void
rows_that_are_no_distribution_are_numeric_errors(void **state)
{
    (void) state;
    float                   logits[37];
    struct sampling_params  p = { 1.0f, 0.9f, 0.0f, 5, 9 };
    const struct sampling_params  greedy = { 0 };
    struct sampler         *s = make_sampler(37);
    const int32_t           only = 36;

    for (int i = 0; i < 37; i++) {            /* in each lane and the tail */
        random_logits(logits, 37, 1.0f, 1);
        logits[i] = NAN;
        assert_int_equal(sample(s, logits, p, 0), SAMPLER_NUMERIC_ERROR);
        assert_int_equal(sample(s, logits, greedy, 0), SAMPLER_NUMERIC_ERROR);
        logits[i] = INFINITY;
        assert_int_equal(sample(s, logits, p, 0), SAMPLER_NUMERIC_ERROR);
        logits[i] = -INFINITY;
        assert_true(sample(s, logits, p, 0) >= 0);
    }
    for (int i = 0; i < 37; i++) {
        logits[i] = -INFINITY;
    }
    assert_int_equal(sample(s, logits, p, 0), SAMPLER_NUMERIC_ERROR);
    logits[36] = -3.0e38f;
    assert_int_equal(sample(s, logits, p, 0), 36);
    assert_int_equal(sampler_sample(s, logits, &(struct sampler_row) {
        .params = &p, .masked_ids = &only, .num_masked = 1 }),
        SAMPLER_NUMERIC_ERROR);
    sampler_destroy(s);
}

static void
extreme_logits_and_temperatures_stay_finite(void **state)
{
    (void) state;
    const float            logits[4] = { 3.0e38f, -3.0e38f, 3.0e38f, 0.0f };
    static const float     temperatures[] = { 1e-5f, 1e-3f, 2.0f, 3.0e38f };
    struct sampler        *s = make_sampler(4);

    for (size_t t = 0; t < 4; t++) {
        for (int64_t i = 0; i < 100; i++) {
            int32_t  id = sample(s, logits, (struct sampling_params) {
                temperatures[t], 0.99f, 0.0f, 3, 1 }, i);
            assert_in_range(id, 0, 3);
        }
    }
    sampler_destroy(s);
}

static void
a_token_depends_on_seed_and_position_and_on_nothing_before(void **state)
{
    (void) state;
    float                   logits[500], other[500];
    struct sampling_params  p = { 1.0f, 0.95f, 0.0f, 100, 77 };
    struct sampler         *a = make_sampler(500), *b = make_sampler(500);
    int32_t                 ids[200];
    int                     num_same_seed = 0, num_same_position = 0;

    random_logits(logits, 500, 4.0f, 5);
    random_logits(other, 500, 9.0f, 6);
    for (int i = 0; i < 200; i++) {
        ids[i] = sample(a, logits, p, i);
    }
    for (int i = 199; i >= 0; i--) {          /* other order, other rows */
        (void) sample(b, other, (struct sampling_params) { 1, 1, 0, 0, 3 }, i);
        assert_int_equal(sample(b, logits, p, i), ids[i]);
    }
    p.seed++;
    for (int i = 0; i < 200; i++) {
        num_same_seed += sample(a, logits, p, i) == ids[i];
        num_same_position += i > 0 && ids[i] == ids[i - 1];
    }
    assert_true(num_same_seed < 60 && num_same_position < 60);
    sampler_destroy(a);
    sampler_destroy(b);
}

/* The seven steps of kernels/sample_math.h. */
static int32_t
defined_result(const float *logits, int n, const struct sampling_params *p,
               int64_t position)
{
    int32_t   *rank = malloc((size_t) n * sizeof *rank);
    uint64_t  *w = calloc((size_t) n, sizeof *w);      /* 0: not kept */
    uint64_t   total = 0, before = 0, kept_total = 0, sum = 0;
    int        num = p->top_k > 0 && p->top_k < n ? p->top_k : n, num_kept;
    int32_t    id = -1;

    for (int i = 0; i < n; i++) {
        rank[i] = i;
    }
    oracle_logits = logits;
    qsort(rank, (size_t) n, sizeof *rank, oracle_compare);
    if (p->temperature < SAMPLE_TEMPERATURE_MIN || p->top_k == 1) {
        id = rank[0];
        goto done;
    }
    for (int i = 0; i < num; i++) {
        w[rank[i]] = sample_weight(logits[rank[i]], logits[rank[0]],
                                   p->temperature);
        total += w[rank[i]];
    }
    assert_true(w[rank[0]] == SAMPLE_WEIGHT_ONE);
    for (num_kept = 0; num_kept < num && p->top_p < 1.0f; num_kept++) {
        if (before >= sample_top_p_mass(p->top_p, total)) {
            break;
        }
        before += w[rank[num_kept]];
    }
    for (int i = num_kept; i < num && p->top_p < 1.0f; i++) {
        w[rank[i]] = 0;
    }
    for (int i = 0; i < n; i++) {
        w[i] = w[i] < sample_min_p_weight(p->min_p) ? 0 : w[i];
        kept_total += w[i];
    }
    uint64_t  r = sample_target(p->seed, (uint64_t) position, kept_total);
    for (id = 0; (sum += w[id]) <= r; id++) {
    }
done:
    free(rank);
    free(w);
    return id;
}

static struct sampling_params
random_params(uint64_t *rng, int n, uint64_t seed)
{
    float  u = uniform_float(rng), v = uniform_float(rng);

    return (struct sampling_params) {
        .temperature = u < 0.05f ? 0.0f : u < 0.1f ? 1e-4f : u < 0.15f ? 50.0f
                       : 0.05f + 2.0f * uniform_float(rng),
        .top_p = v < 0.4f ? 1.0f : v < 0.45f ? 1e-30f : v < 0.5f ? 0.99999994f
                 : 0.01f + uniform_float(rng) * 0.98f,
        .min_p = uniform_float(rng) < 0.7f ? 0.0f : uniform_float(rng),
        .top_k = uniform_float(rng) < 0.5f
                 ? 0 : 1 + (int) (uniform_float(rng) * (float) n * 1.1f),
        .seed = hash_mix64(seed)
    };
}

static void
every_draw_is_the_defined_one(void **state)
{
    (void) state;
    enum { N = 1500 };
    float            logits[N];
    uint64_t         rng = 4711, checksum = 0;

    printf("seed 4711\n");
    for (int round = 0; round < 4000; round++) {
        int              n = 1 + (int) (uniform_float(&rng) * (N - 1));
        struct sampler  *s = make_sampler(n);
        random_logits(logits, n, 40.0f * uniform_float(&rng)
                      * uniform_float(&rng), (uint64_t) round);
        for (int i = 0; i < n; i++) {
            if (round % 3 == 0) {
                logits[i] = floorf(logits[i]);           /* many ties */
            } else if (round % 3 == 1 && i % 7 == 0 && i > 0) {
                logits[i] = -INFINITY;
            }
        }
        struct sampling_params  p = random_params(&rng, n, (uint64_t) round);
        for (int64_t i = 0; i < 5; i++) {
            int32_t  id = sample(s, logits, p, i);
            if (id != defined_result(logits, n, &p, i)) {
                fail_msg("round %d draw %d: %d is not the defined %d", round,
                         (int) i, id, defined_result(logits, n, &p, i));
            }
            checksum = hash_mix64(checksum ^ (uint64_t) id);
        }
        sampler_destroy(s);
    }
    printf("checksum %016llx\n", (unsigned long long) checksum);
    assert_true(checksum == UINT64_C(0xfe2b84daf78c5142));
}

/* Fixed for ever: a device computes the same. */
static void
weights_are_pinned_to_the_bit(void **state)
{
    (void) state;
    uint64_t  checksum = 0;

    for (uint32_t i = 0; i < 1u << 20; i++) {
        float     x = -(float) i * 0x1.1p-15f;
        uint64_t  w = sample_weight(x + 3.0f, 3.0f, 0.7f);
        checksum = hash_mix64(checksum ^ w);
    }
    printf("checksum %016llx\n", (unsigned long long) checksum);
    assert_true(checksum == UINT64_C(0x85d80e870cd9e369));
    assert_true(sample_weight(2.0f, 2.0f, 0.3f) == SAMPLE_WEIGHT_ONE);
    assert_true(sample_weight(-INFINITY, 2.0f, 0.3f) == 0);
    assert_true(sample_weight(-30.0f, 0.0f, 1.0f) == 0);
    assert_true(sample_weight(-INFINITY, 0.0f, INFINITY) == 0);    /* NaN */
}

static void
integer_limits_are_exact(void **state)
{
    (void) state;
    uint64_t  largest = SAMPLE_WEIGHT_ONE * SAMPLER_VOCAB_MAX;

    assert_true(sample_top_p_mass(0.5f, 10) == 5);
    assert_true(sample_top_p_mass(0.5f, 11) == 6);           /* ceil */
    assert_true(sample_top_p_mass(1e-38f, largest) == 1);
    assert_true(sample_top_p_mass(0x1p-149f, 1) == 1);
    assert_true(sample_top_p_mass(0.5f, largest) == largest / 2);
    assert_true(sample_top_p_mass(0x1.fffffep-1f, largest)
                == largest - (largest >> 24));
    assert_true(sample_min_p_weight(1.0f) == SAMPLE_WEIGHT_ONE);
    assert_true(sample_min_p_weight(0.0f) == 0);
    for (uint64_t i = 0; i < 1000; i++) {
        assert_true(sample_target(1, i, 1) == 0);
        assert_true(sample_target(1, i, largest) < largest);
    }
}

/* Random logits (with ties, flat, peaked) and parameters: what is drawn is in
 * the oracle's kept set.  Where the sum of weights meets top_p within a
 * rounding, one token more may be kept: one draw of 20 is forgiven. */
static void
random_rows_agree_with_the_sorting_oracle(void **state)
{
    (void) state;
    enum { N = 400 };
    float            logits[N];
    double           probs[N];
    struct sampler  *s = make_sampler(N);
    uint64_t         rng = 2024;

    printf("seed 2024\n");
    for (int round = 0; round < 3000; round++) {
        int  num_seen = 0;
        random_logits(logits, N, 0.1f + 20.0f * uniform_float(&rng),
                      (uint64_t) round);
        for (int i = 0; round % 3 == 0 && i < N; i++) {
            logits[i] = floorf(logits[i]);    /* many ties */
        }
        struct sampling_params  p = {
            0.05f + 2.0f * uniform_float(&rng),
            uniform_float(&rng) < 0.5f ? 1.0f : 0.01f + uniform_float(&rng)
                                                * 0.98f,
            uniform_float(&rng) < 0.7f ? 0.0f : uniform_float(&rng),
            uniform_float(&rng) < 0.5f ? 0
                                       : 1 + (int) (uniform_float(&rng) * 450),
            (uint64_t) round
        };
        (void) oracle(logits, N, &p, probs);
        for (int64_t i = 0; i < 20; i++) {
            int32_t  id = sample(s, logits, p, i);
            assert_in_range(id, 0, N - 1);
            num_seen += probs[id] > 0.0;
        }
        if (num_seen < 19) {      /* one may sit on the border of top_p */
            fail_msg("round %d: %d of 20 draws outside the kept set", round,
                     20 - num_seen);
        }
    }
    sampler_destroy(s);
}

static void
sample_exp_is_within_two_ulp(void **state)
{
    (void) state;
    double  worst = 0.0;

    for (float x = -86.9f; x <= 0.0f; x += 1.0e-4f) {
        double  exact = exp((double) x);
        double  error = fabs((double) sample_exp(x) - exact) / exact;
        worst = error > worst ? error : worst;
    }
    printf("largest relative error %.3g\n", worst);
    assert_true(worst < 2e-7);
    assert_true(sample_exp(0.0f) == 1.0f);
    assert_true(sample_exp(-100.0f) == 0.0f);
    assert_true(sample_exp(-INFINITY) == 0.0f);
}

static void
a_large_vocabulary_takes_a_few_passes_not_a_sort(void **state)
{
    (void) state;
    enum { N = 262144 };
    static const struct sampling_params  cases[] = {
        { 0.0f, 1.0f, 0.0f, 0, 1 }, { 1.0f, 1.0f, 0.0f, 0, 1 },
        { 0.7f, 0.8f, 0.0f, 20, 1 }, { 1.0f, 0.95f, 0.0f, 0, 1 },
        { 1.0f, 1.0f, 0.05f, 0, 1 },
    };
    float           *logits = malloc(N * sizeof *logits);
    struct sampler  *s = make_sampler(N);

    for (int flat = 0; flat < 2; flat++) {
        random_logits(logits, N, flat ? 0.0f : 12.0f, 3);
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            int64_t  best_ns = INT64_MAX;
            for (int64_t i = 0; i < 5; i++) {
                int64_t  t = clock_now_ns();
                assert_true(sample(s, logits, cases[c], i) >= 0);
                t = clock_now_ns() - t;
                best_ns = t < best_ns ? t : best_ns;
            }
            printf("%s T %.1f k %d p %.2f min_p %.2f: %lld us\n",
                   flat ? "flat  " : "peaked", (double) cases[c].temperature,
                   cases[c].top_k, (double) cases[c].top_p,
                   (double) cases[c].min_p, (long long) best_ns / 1000);
        }
    }
    free(logits);
    sampler_destroy(s);
}

static void
impossible_vocabularies_are_refused(void **state)
{
    (void) state;
    struct sampler  *s;

    assert_int_equal(sampler_create(&s, 0, NULL), ERROR);
    assert_int_equal(sampler_create(&s, SAMPLER_VOCAB_MAX + 1, NULL), ERROR);
    sampler_destroy(NULL);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_follow_the_exact_distribution),
        cmocka_unit_test(ties_at_the_boundary_go_to_the_lower_ids),
        cmocka_unit_test(greedy_takes_the_best_and_the_lowest_id_of_equals),
        cmocka_unit_test(masked_ids_are_never_chosen),
        cmocka_unit_test(rows_that_are_no_distribution_are_numeric_errors),
        cmocka_unit_test(extreme_logits_and_temperatures_stay_finite),
        cmocka_unit_test(
            a_token_depends_on_seed_and_position_and_on_nothing_before),
        cmocka_unit_test(random_rows_agree_with_the_sorting_oracle),
        cmocka_unit_test(every_draw_is_the_defined_one),
        cmocka_unit_test(weights_are_pinned_to_the_bit),
        cmocka_unit_test(integer_limits_are_exact),
        cmocka_unit_test(sample_exp_is_within_two_ulp),
        cmocka_unit_test(a_large_vocabulary_takes_a_few_passes_not_a_sort),
        cmocka_unit_test(impossible_vocabularies_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
