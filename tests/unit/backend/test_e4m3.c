/* test_e4m3.c - fp8 conversion: all 256 codes, nearest even by exhaustion, and
 * the same results as ml_dtypes' float8_e4m3fn (0.6) on every bfloat16
 * and float16 value. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "engine/backend/cpu/cpu_kernels.h"
#include "engine/backend/e4m3.h"

#define FNV_START  0xcbf29ce484222325ULL

static uint64_t
fnv(const uint8_t *p, size_t num)
{
    uint64_t  h = FNV_START;
    for (size_t i = 0; i < num; i++) {
        h = (h ^ p[i]) * 0x100000001b3ULL;
    }
    return h;
}

static void
test_every_code_has_the_value_of_the_definition(void **state)
{
    float  all[256];
    (void) state;
    for (int code = 0; code < 256; code++) {
        int     e = code >> 3 & 15, f = code & 7, sign = code & 0x80;
        float   x = e4m3_to_float((uint8_t) code);
        double  want = e == 0 ? ldexp(f, -9) : ldexp(8 + f, e - 10);
        all[code] = x;
        assert_int_equal(signbit(x) != 0, sign != 0);
        if ((code & 0x7f) == 0x7f) {
            assert_true(isnan(x));
            assert_int_equal(e4m3_from_float(x), 0x7f);
            all[code] = 0.0f;
            continue;
        }
        assert_true(fabs((double) x) == want);
        assert_int_equal(e4m3_from_float(x), code);
    }
    assert_true(e4m3_to_float(0x7e) == E4M3_MAX);
    /* by ml_dtypes, NaN as 0 */
    assert_true(fnv((const uint8_t *) all, sizeof all)
                == 0x854cabd1defe4645ULL);
}

static void
test_rounding_is_to_nearest_even_and_saturates(void **state)
{
    (void) state;
    for (int code = 0; code < 0x7e; code++) {
        float  low = e4m3_to_float((uint8_t) code);
        float  high = e4m3_to_float((uint8_t) (code + 1));
        float  middle = low + (high - low) / 2;      /* exact in fp32 */
        int    even = code % 2 == 0 ? code : code + 1;
        assert_int_equal(e4m3_from_float(middle), even);
        assert_int_equal(e4m3_from_float(-middle), even | 0x80);
        assert_int_equal(e4m3_from_float(nextafterf(middle, 0.0f)), code);
        assert_int_equal(e4m3_from_float(nextafterf(middle, 1e9f)), code + 1);
    }
    static const float  large[] = { 448.0f, 449.0f, 464.0f, 480.0f, 1e30f,
                                    INFINITY };
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
        assert_int_equal(e4m3_from_float(large[i]), 0x7e);
        assert_int_equal(e4m3_from_float(-large[i]), 0xfe);
    }
    assert_int_equal(e4m3_from_float(NAN), 0x7f);
    assert_int_equal(e4m3_from_float(-NAN), 0x7f);
    assert_int_equal(e4m3_from_float(0x1p-149f), 0);
    assert_int_equal(e4m3_from_float(-0x1p-30f), 0x80);
}

static void
test_all_16_bit_values_round_as_ml_dtypes_rounds_them(void **state)
{
    static const uint64_t  want[] = { 0xd8b2feb674a31125ULL,
                                      0x55456763debf12a5ULL };
    static uint8_t         codes[65536];
    (void) state;
    for (int t = 0; t < 2; t++) {
        for (int i = 0; i < 65536; i++) {
            uint16_t  bits = (uint16_t) i;
            float     x[CPU_LANES];
            cpu_kernels_plain.widen(x, &bits, t == 0 ? DTYPE_BF16 : DTYPE_F16,
                                    1);
            codes[i] = e4m3_from_float(x[0]);
        }
        assert_true(fnv(codes, sizeof codes) == want[t]);
    }
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_every_code_has_the_value_of_the_definition),
        cmocka_unit_test(test_rounding_is_to_nearest_even_and_saturates),
        cmocka_unit_test(test_all_16_bit_values_round_as_ml_dtypes_rounds_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
