/* test_arena.c - alignment, limits and reuse of the bump allocator. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "engine/base/arena.h"

static void
memory_is_aligned_and_disjoint(void **state)
{
    (void) state;
    struct arena    a;
    unsigned char  *p[100];

    arena_init(&a, 1 << 20);
    for (size_t i = 0; i < 100; i++) {
        p[i] = arena_alloc(&a, i * 7 + 1);
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t) p[i] % 16, 0);
        memset(p[i], (int) i, i * 7 + 1);
    }
    for (size_t i = 0; i < 100; i++) {
        assert_int_equal(p[i][0], i);
        assert_int_equal(p[i][i * 7], i);
    }
    arena_destroy(&a);
}

static void
the_limit_is_never_exceeded(void **state)
{
    (void) state;
    struct arena  a;

    arena_init(&a, 100000);
    while (arena_alloc(&a, 1000) != NULL) {
        assert_true(a.total_bytes <= 100000);
    }
    assert_true(a.exhausted);
    assert_null(arena_alloc(&a, SIZE_MAX));
    assert_null(arena_alloc(&a, SIZE_MAX - 20));
    assert_null(arena_calloc(&a, SIZE_MAX / 2, 3));
    arena_reset(&a);
    assert_false(a.exhausted);
    assert_non_null(arena_alloc(&a, 1000));
    arena_destroy(&a);
}

static void
strings_are_copied_with_a_terminator(void **state)
{
    (void) state;
    struct arena  a;

    arena_init(&a, 1 << 16);
    struct str    s = arena_str(&a, STR("a\0b"));
    assert_int_equal(s.len, 3);
    assert_memory_equal(s.data, "a\0b", 4);
    assert_string_equal(arena_strdup(&a, (struct str) { NULL, 0 }), "");
    char  *z = arena_calloc(&a, 10, 10);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(z[i], 0);
    }
    arena_destroy(&a);
}

static void
a_zeroed_arena_may_be_destroyed(void **state)
{
    (void) state;
    struct arena  a;
    memset(&a, 0, sizeof a);
    arena_destroy(&a);
    assert_null(arena_alloc(&a, 1));
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(memory_is_aligned_and_disjoint),
        cmocka_unit_test(the_limit_is_never_exceeded),
        cmocka_unit_test(strings_are_copied_with_a_terminator),
        cmocka_unit_test(a_zeroed_arena_may_be_destroyed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
