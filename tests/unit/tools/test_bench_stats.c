/* test_bench_stats.c - figures against numpy's, arrivals against their law. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "engine/base/clock.h"
#include "tools/bench_stats.h"

#define NUM  20000

#define assert_near(a, b, tolerance)  assert_true(fabs((a) - (b)) <= (tolerance))

/* numpy: mean, std, percentile of [7, 1, 3, 10]. */
static void
a_series_has_numpy_s_mean_deviation_and_percentiles(void **state)
{
    struct bench_series  s = { 0 };
    const double         v[] = { 7, 1, 3, 10 };
    (void) state;

    for (int i = 0; i < 4; i++) {
        bench_series_add(&s, v[i]);
    }
    bench_series_sort(&s);
    assert_near(bench_series_mean(&s), 5.25, 1e-12);
    assert_near(bench_series_std(&s), 3.491060010942235, 1e-12);
    assert_near(bench_series_percentile(&s, 0), 1, 1e-12);
    assert_near(bench_series_percentile(&s, 50), 5, 1e-12);
    assert_near(bench_series_percentile(&s, 90), 9.1, 1e-12);
    assert_near(bench_series_percentile(&s, 99), 9.91, 1e-12);
    assert_near(bench_series_percentile(&s, 100), 10, 1e-12);
    bench_series_destroy(&s);
}

static void
an_empty_series_is_all_zero(void **state)
{
    struct bench_series  s = { 0 };
    (void) state;

    bench_series_sort(&s);
    assert_near(bench_series_mean(&s), 0, 0);
    assert_near(bench_series_std(&s), 0, 0);
    assert_near(bench_series_percentile(&s, 99), 0, 0);
}

static void
gaps(const int64_t *at_ns, double *mean, double *variation)
{
    struct bench_series  s = { 0 };

    for (int i = 1; i < NUM; i++) {
        assert_true(at_ns[i] >= at_ns[i - 1]);
        bench_series_add(&s, (double) (at_ns[i] - at_ns[i - 1]) * 1e-9);
    }
    *mean = bench_series_mean(&s);
    *variation = bench_series_std(&s) / *mean;
    bench_series_destroy(&s);
}

/* A gamma distribution of shape k has the coefficient of variation k^-0.5. */
static void
arrivals_keep_the_rate_and_burstiness_shapes_the_gaps(void **state)
{
    static int64_t  at_ns[NUM];
    static const double  shapes[] = { 0.25, 1, 4, INFINITY };
    (void) state;

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct bench_arrivals  a = { .rate = 50, .burstiness = shapes[i],
                                     .seed = 3 };
        double                 mean, variation;
        bench_arrivals_make(at_ns, NUM, &a);
        gaps(at_ns, &mean, &variation);
        assert_near(mean, 0.02, 0.0002);
        assert_near(variation, isinf(shapes[i]) ? 0 : 1 / sqrt(shapes[i]),
                    0.06);
        /* The end is exact: runs of different seeds last equally long. */
        assert_near((double) at_ns[NUM - 1] * 1e-9, NUM / 50.0, 1e-6);
    }
}

static void
without_a_rate_all_come_at_once(void **state)
{
    int64_t                at_ns[5] = { 1, 1, 1, 1, 1 };
    struct bench_arrivals  a = { .rate = INFINITY, .burstiness = 1 };
    (void) state;

    bench_arrivals_make(at_ns, 5, &a);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(at_ns[i], 0);
    }
}

static void
rates_out_of_all_reason_mean_what_they_say(void **state)
{
    int64_t                at_ns[4];
    struct bench_arrivals  a = { .rate = 1e-12, .burstiness = 1 };
    (void) state;

    bench_arrivals_make(at_ns, 4, &a);
    assert_true(at_ns[0] > 0 && at_ns[0] <= at_ns[1] && at_ns[2] <= at_ns[3]);
    assert_true(at_ns[3] > (int64_t) 1e18);
    a = (struct bench_arrivals) { .rate = 2, .burstiness = 1e308 };
    bench_arrivals_make(at_ns, 4, &a);
    for (int i = 0; i < 4; i++) {
        assert_near((double) at_ns[i] * 1e-9, (i + 1) / 2.0, 1e-3);
    }
    a.burstiness = 1e-320;
    bench_arrivals_make(at_ns, 4, &a);
    for (int i = 0; i < 4; i++) {
        assert_true(at_ns[i] >= 0);
    }
}

static void
a_ramp_gets_faster(void **state)
{
    static const char *const  kinds[] = { "linear", "exponential" };
    static int64_t            at_ns[NUM];
    (void) state;

    for (int i = 0; i < 2; i++) {
        struct bench_arrivals  a = { .rate = INFINITY, .burstiness = INFINITY,
                                     .ramp_up = kinds[i], .start_rps = 10,
                                     .end_rps = 1000 };
        bench_arrivals_make(at_ns, NUM, &a);
        assert_near((double) (at_ns[1] - at_ns[0]) * 1e-9, 0.1, 0.001);
        assert_near((double) (at_ns[NUM - 1] - at_ns[NUM - 2]) * 1e-9, 0.001,
                    0.00001);
    }
}

static struct bench_result
result(double start_s, double ttft_s, double gap_s, int num_gaps, int tokens)
{
    struct bench_result  r = {
        .success = true, .start_ns = (int64_t) (start_s * 1e9),
        .ttft_ns = (int64_t) (ttft_s * 1e9),
        .latency_ns = (int64_t) ((ttft_s + num_gaps * gap_s) * 1e9),
        .num_gaps = num_gaps, .prompt_tokens = 10, .output_tokens = tokens,
    };
    r.gap_ms = calloc((size_t) num_gaps + 1, sizeof *r.gap_ms);
    for (int i = 0; i < num_gaps; i++) {
        r.gap_ms[i] = (float) (gap_s * 1e3);
    }
    return r;
}

static void
metrics_add_up_what_succeeded(void **state)
{
    struct bench_result   r[4] = {
        result(0.0, 0.5, 0.25, 4, 5),      /* tpot 250 ms, ends at 1.5 s */
        result(0.1, 0.2, 0.10, 2, 6),      /* tokens come in threes: 40 ms */
        result(3.0, 1.0, 0, 0, 1),         /* a single token has no TPOT */
        { .start_ns = 1, .prompt_tokens = 99, .error = NULL },
    };
    struct bench_metrics  m;
    struct bench_goals    goals = { .ms = { [BENCH_TTFT] = 600,
                                            [BENCH_TPOT] = 100 }, .num = 2 };
    (void) state;

    assert_int_equal(bench_metrics_make(&m, r, 4, 4.0, &goals), OK);
    assert_int_equal(m.completed, 3);
    assert_int_equal(m.failed, 1);
    assert_int_equal(m.total_input, 30);
    assert_int_equal(m.total_output, 12);
    assert_near(m.request_throughput, 0.75, 1e-9);
    assert_near(m.total_token_throughput, 10.5, 1e-9);
    assert_int_equal(m.ms[BENCH_TPOT].len, 2);
    assert_int_equal(m.ms[BENCH_ITL].len, 6);
    assert_near(bench_series_percentile(&m.ms[BENCH_TPOT], 0), 40, 1e-3);
    assert_near(bench_series_percentile(&m.ms[BENCH_TPOT], 100), 250, 1e-3);
    assert_near(bench_series_mean(&m.ms[BENCH_TTFT]), 1700.0 / 3, 1e-3);
    assert_int_equal(m.good, 1);           /* the second only */
    assert_int_equal(m.max_concurrent_requests, 2);
    /* First second: 2 chunks of 1 token, 3 chunks of 2 tokens. */
    assert_near(m.max_output_tokens_per_s, 8, 1e-6);
    bench_metrics_destroy(&m);
    for (int i = 0; i < 4; i++) {
        bench_result_destroy(&r[i]);
    }
}

/* Also a request of no length must not upset the sweep. */
static void
one_after_the_other_is_never_two_at_once(void **state)
{
    struct bench_result   r[3] = { result(0, 1, 0, 0, 1), result(1, 1, 0, 0, 1),
                                   result(2, 0, 0, 0, 1) };
    struct bench_metrics  m;
    struct bench_goals    goals = { .num = 0 };
    (void) state;

    assert_int_equal(bench_metrics_make(&m, r, 3, 2.0, &goals), OK);
    assert_int_equal(m.max_concurrent_requests, 1);
    assert_int_equal(m.good, 0);
    bench_metrics_destroy(&m);
    for (int i = 0; i < 3; i++) {
        bench_result_destroy(&r[i]);
    }
}

static void
nothing_succeeded_is_no_division_by_zero(void **state)
{
    struct bench_result   r[1] = { { .success = false } };
    struct bench_metrics  m;
    struct bench_goals    goals = { .num = 0 };
    (void) state;

    assert_int_equal(bench_metrics_make(&m, r, 1, 0, &goals), OK);
    assert_int_equal(m.failed, 1);
    assert_near(m.request_throughput, 0, 0);
    bench_metrics_destroy(&m);
}

static void
goals_are_read_or_refused_by_name(void **state)
{
    static const char *const  bad[] = { "ttft", "ttft:", "itl:5", "ttft:x",
                                        "ttft:-1", "ttft:0", "tpot:5ms",
                                        "latencylatency:5", ":5" };
    struct bench_goals   g;
    struct err           err;
    struct option_words  w = { .items = { "ttft:200", "e2el:1500.5" },
                               .num = 2 };
    (void) state;

    assert_int_equal(bench_goals_parse(&g, &w, &err), OK);
    assert_int_equal(g.num, 2);
    assert_near(g.ms[BENCH_TTFT], 200, 0);
    assert_near(g.ms[BENCH_E2EL], 1500.5, 0);
    assert_near(g.ms[BENCH_TPOT], 0, 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        w = (struct option_words) { .items = { bad[i] }, .num = 1 };
        assert_int_equal(bench_goals_parse(&g, &w, &err), ERROR);
        assert_non_null(strstr(err.message, bad[i]));
    }
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(a_series_has_numpy_s_mean_deviation_and_percentiles),
        cmocka_unit_test(an_empty_series_is_all_zero),
        cmocka_unit_test(arrivals_keep_the_rate_and_burstiness_shapes_the_gaps),
        cmocka_unit_test(without_a_rate_all_come_at_once),
        cmocka_unit_test(rates_out_of_all_reason_mean_what_they_say),
        cmocka_unit_test(a_ramp_gets_faster),
        cmocka_unit_test(metrics_add_up_what_succeeded),
        cmocka_unit_test(one_after_the_other_is_never_two_at_once),
        cmocka_unit_test(nothing_succeeded_is_no_division_by_zero),
        cmocka_unit_test(goals_are_read_or_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
