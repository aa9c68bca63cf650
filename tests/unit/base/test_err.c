/* test_err.c - messages are cut at a code point and keep their parameter. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "engine/base/err.h"
#include "engine/base/utf8.h"

static void
an_error_carries_status_param_and_message(void **state)
{
    (void) state;
    struct err  err;

    assert_int_equal(err_set_http(&err, 400, "n", "n is %d, the limit is %d",
                                  17, 16), ERROR);
    assert_int_equal(err.http_status, 400);
    assert_string_equal(err.param, "n");
    assert_string_equal(err.message, "n is 17, the limit is 16");
    assert_int_equal(err_prefix(&err, "request %d", 3), ERROR);
    assert_string_equal(err.message, "request 3: n is 17, the limit is 16");
    assert_int_equal(err.http_status, 400);
    assert_int_equal(err_set(&err, "plain"), ERROR);
    assert_int_equal(err.http_status, 0);
    assert_string_equal(err.param, "");
}

static void
a_full_device_is_marked_until_the_next_error(void **state)
{
    (void) state;
    struct err  err = { 0 };

    (void) err_set(&err, "no room");
    assert_false(err.device_full);
    assert_int_equal(err_device_full(&err), ERROR);
    assert_int_equal(err_prefix(&err, "weights"), ERROR);
    assert_string_equal(err.message, "weights: no room");
    assert_true(err.device_full);
    (void) err_set(&err, "another");
    assert_false(err.device_full);
    (void) err_device_full(&err);
    (void) err_set_http(&err, 400, "n", "one more");
    assert_false(err.device_full);
    assert_int_equal(err_device_full(NULL), ERROR);
}

static void
a_null_error_is_allowed(void **state)
{
    (void) state;
    assert_int_equal(err_set(NULL, "x"), ERROR);
    assert_int_equal(err_set_http(NULL, 400, "p", "x"), ERROR);
    assert_int_equal(err_prefix(NULL, "x"), ERROR);
}

static void
long_messages_stay_valid_utf8(void **state)
{
    (void) state;
    char        text[1200];
    struct err  err;

    for (size_t shift = 0; shift < 4; shift++) {
        memset(text, 'a', shift);
        for (size_t i = shift; i + 5 < sizeof text; i += 4) {
            memcpy(text + i, "\xF0\x9F\x9A\x80", 5);
        }
        (void) err_set_http(&err, 400, text, "%s", text);
        assert_true(strlen(err.message) >= ERR_MESSAGE_BYTES - 5);
        assert_true(utf8_is_valid(err.message, strlen(err.message)));
        assert_true(utf8_is_valid(err.param, strlen(err.param)));
        (void) err_prefix(&err, "%s", "prefix");
        assert_true(utf8_is_valid(err.message, strlen(err.message)));
    }
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(an_error_carries_status_param_and_message),
        cmocka_unit_test(a_full_device_is_marked_until_the_next_error),
        cmocka_unit_test(a_null_error_is_allowed),
        cmocka_unit_test(long_messages_stay_valid_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
