/* test_buf.c - growth, the limit and the sticky failure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "engine/base/buf.h"

static void
appends_accumulate(void **state)
{
    (void) state;
    struct buf  b;

    buf_init(&b, 1 << 16);
    buf_append_lit(&b, "ab");
    buf_append_c(&b, 'c');
    buf_append_i64(&b, INT64_MIN);
    buf_append_i64(&b, 0);
    buf_appendf(&b, "[%s %d]", "x", 7);
    buf_append_str(&b, STR("\0z"));
    static const char  want[] = "abc-92233720368547758080[x 7]\0z";
    assert_int_equal(b.len, sizeof want - 1);
    assert_memory_equal(b.data, want, b.len);
    assert_false(b.failed);
    buf_destroy(&b);
}

static void
reaching_the_limit_keeps_what_is_there(void **state)
{
    (void) state;
    struct buf  b;

    buf_init(&b, 1000);
    for (int i = 0; i < 1000; i++) {
        buf_append_c(&b, 'x');
    }
    assert_false(b.failed);
    assert_int_equal(b.len, 1000);
    buf_append_c(&b, 'y');
    assert_true(b.failed);
    assert_int_equal(b.len, 1000);
    buf_append_lit(&b, "z");
    assert_int_equal(b.len, 1000);
    assert_true(b.cap <= 1000);
    buf_reset(&b);
    buf_append_c(&b, 'z');
    assert_false(b.failed);
    assert_int_equal(b.len, 1);
    assert_false(buf_reserve(&b, SIZE_MAX));
    buf_destroy(&b);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(appends_accumulate),
        cmocka_unit_test(reaching_the_limit_keeps_what_is_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
