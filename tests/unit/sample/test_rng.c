/* test_rng.c - Philox against the known answers of its authors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "engine/sample/rng.h"

/* Source: Random123, tests/kat_vectors, philox4x32 10. */
static void
philox_equals_the_known_answers(void **state)
{
    (void) state;
    static const struct {
        uint32_t  counter[4], key[2], out[4];
    } answers[] = {
        { { 0, 0, 0, 0 }, { 0, 0 },
          { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff },
          { 0xffffffff, 0xffffffff },
          { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 },
          { 0xa4093822, 0x299f31d0 },
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };

    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        uint32_t  out[4];
        rng_philox(answers[i].key, answers[i].counter, out);
        assert_memory_equal(out, answers[i].out, sizeof out);
    }
}

static void
random_bits_are_even_over_positions_and_seeds(void **state)
{
    (void) state;
    int  by_position[16] = { 0 }, by_seed[16] = { 0 };

    for (uint64_t i = 0; i < 160000; i++) {
        by_position[rng_random(7, i) >> 60]++;
        by_seed[rng_random(i, 7) >> 60]++;
    }
    for (int b = 0; b < 16; b++) {      /* 10000 +- 5 sigma */
        assert_in_range(by_position[b], 9516, 10484);
        assert_in_range(by_seed[b], 9516, 10484);
    }
}

static void
all_64_bits_of_seed_and_position_count(void **state)
{
    (void) state;
    uint64_t  u = rng_random(5, 9);

    for (int bit = 0; bit < 64; bit++) {
        assert_true(rng_random(5 ^ (UINT64_C(1) << bit), 9) != u);
        assert_true(rng_random(5, 9 ^ (UINT64_C(1) << bit)) != u);
    }
    assert_true(rng_random(5, 9) == u);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_equals_the_known_answers),
        cmocka_unit_test(random_bits_are_even_over_positions_and_seeds),
        cmocka_unit_test(all_64_bits_of_seed_and_position_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
