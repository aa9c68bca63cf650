/* test_hash.c - SipHash-2-4 against the vectors of its reference code
 * (github.com/veorq/SipHash, vectors.h): key 00..0f, input 00..len-1. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "engine/base/hash.h"

static void
published_vectors_match(void **state)
{
    (void) state;
    static const uint64_t  want[] = {
        0x726fdb47dd0e0e31ULL, 0x74f839c593dc67fdULL, 0x0d6c8009d9a94f5aULL,
        0x85676696d7fb7e2dULL, 0xcf2794e0277187b7ULL, 0x18765564cd99a68dULL,
        0xcbc9466e58fee3ceULL, 0xab0200f58b01d137ULL, 0x93f5f5799a932462ULL,
        0x9e0082df0ba9e4b0ULL, 0x7a5dbbc594ddb9f3ULL, 0xf4b32f46226bada7ULL,
        0x751e8fbc860ee5fbULL, 0x14ea5627c0843d90ULL, 0xf723ca908e7af2eeULL,
        0xa129ca6149be45e5ULL,
    };
    const struct hash_key  key = {
        0x0706050403020100ULL, 0x0f0e0d0c0b0a0908ULL
    };
    unsigned char          in[16];

    for (size_t i = 0; i < 16; i++) {
        in[i] = (unsigned char) i;
        assert_int_equal(hash_keyed(&key, in, i), want[i]);
    }
}

static void
the_key_changes_the_hash(void **state)
{
    (void) state;
    const struct hash_key  a = { 1, 2 }, b = { 1, 3 };
    assert_int_not_equal(hash_keyed(&a, "x", 1), hash_keyed(&b, "x", 1));
    assert_int_equal(hash_keyed(&a, "x", 1), hash_keyed(&a, "xy", 1));
}

static void
the_mixer_spreads_small_numbers(void **state)
{
    (void) state;
    unsigned  buckets[64] = { 0 };
    for (uint64_t i = 0; i < 6400; i++) {
        buckets[hash_mix64(i) & 63]++;
    }
    for (int i = 0; i < 64; i++) {
        assert_in_range(buckets[i], 50, 160);
    }
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(published_vectors_match),
        cmocka_unit_test(the_key_changes_the_hash),
        cmocka_unit_test(the_mixer_spreads_small_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
