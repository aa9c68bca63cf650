/* test_rope.c - inverse frequencies of each rope type.  The golden models check
 * them against transformers; here the formulas' own landmarks. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/model/rope.h"

#define DIM   64
#define HALF  (DIM / 2)

static struct rope_config
base(enum rope_type type)
{
    return (struct rope_config) {
        .rope_type = type, .rope_theta = 10000.0, .factor = 8.0,
        .low_freq_factor = 1.0, .high_freq_factor = 4.0,
        .original_max_position_embeddings = 2048, .beta_fast = 32.0,
        .beta_slow = 1.0, .attention_factor = 1.0, .truncate = true
    };
}

static void
assert_near(double got, double want)
{
    assert_true(fabs(got - want) <= 1e-6 * fabs(want));
}

static void
test_default_frequencies_are_powers_of_theta(void **state)
{
    struct rope_config  r = base(ROPE_DEFAULT);
    double              f[HALF];
    (void) state;
    rope_inv_freq(&r, DIM, f);
    for (int j = 0; j < HALF; j++) {
        assert_near(f[j], exp(-2.0 * j / DIM * log(10000.0)));
        assert_true(f[j] == (double) (float) f[j]);
    }
}

static void
test_linear_divides_every_frequency(void **state)
{
    struct rope_config  plain = base(ROPE_DEFAULT), r = base(ROPE_LINEAR);
    double              f[HALF], g[HALF];
    (void) state;
    rope_inv_freq(&plain, DIM, f);
    rope_inv_freq(&r, DIM, g);
    for (int j = 0; j < HALF; j++) {
        assert_near(g[j], f[j] / 8.0);
    }
}

static void
test_llama3_keeps_high_and_divides_low_frequencies(void **state)
{
    struct rope_config  plain = base(ROPE_DEFAULT), r = base(ROPE_LLAMA3);
    double              f[HALF], g[HALF];
    int                 kept = 0, divided = 0, blended = 0;
    (void) state;
    rope_inv_freq(&plain, DIM, f);
    rope_inv_freq(&r, DIM, g);
    for (int j = 0; j < HALF; j++) {
        double  wavelen = 2.0 * acos(-1.0) / f[j];
        if (wavelen < 2048.0 / 4.0) {
            assert_near(g[j], f[j]);
            kept++;
        } else if (wavelen > 2048.0) {
            assert_near(g[j], f[j] / 8.0);
            divided++;
        } else {
            assert_true(g[j] > f[j] / 8.0 && g[j] < f[j]);
            blended++;
        }
    }
    assert_true(kept > 0 && divided > 0 && blended > 0);
}

static void
test_yarn_ramps_from_kept_to_divided(void **state)
{
    struct rope_config  plain = base(ROPE_DEFAULT), r = base(ROPE_YARN);
    double              f[HALF], g[HALF], last = 1.0;
    (void) state;
    rope_inv_freq(&plain, DIM, f);
    rope_inv_freq(&r, DIM, g);
    assert_near(g[0], f[0]);
    assert_near(g[HALF - 1], f[HALF - 1] / 8.0);
    for (int j = 0; j < HALF; j++) {
        assert_true(g[j] / f[j] <= last + 1e-6);
        last = g[j] / f[j];
    }
}

static void
test_the_table_holds_cos_then_sin_times_the_attention_factor(void **state)
{
    struct rope_config  r = base(ROPE_DEFAULT);
    float               table[20 * DIM];
    double              f[HALF];
    (void) state;
    r.attention_factor = 1.25;
    rope_inv_freq(&r, DIM, f);
    rope_table(&r, DIM, 20, table);
    for (int p = 0; p < 20; p++) {
        for (int j = 0; j < HALF; j++) {
            double  c = (double) table[p * DIM + j];
            double  s = (double) table[p * DIM + HALF + j];
            assert_true(fabs(c - 1.25 * cos(p * f[j])) < 2e-7);
            assert_true(fabs(s - 1.25 * sin(p * f[j])) < 2e-7);
        }
    }
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_default_frequencies_are_powers_of_theta),
        cmocka_unit_test(test_linear_divides_every_frequency),
        cmocka_unit_test(test_llama3_keeps_high_and_divides_low_frequencies),
        cmocka_unit_test(test_yarn_ramps_from_kept_to_divided),
        cmocka_unit_test(test_the_table_holds_cos_then_sin_times_the_attention_factor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
