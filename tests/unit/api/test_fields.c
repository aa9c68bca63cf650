/* test_fields.c - fields.c and unsupported.c: types, ranges, and the name of
 * the offending field in every refusal. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "engine/api/fields.h"
#include "engine/api/openai_error.h"
#include "engine/api/unsupported.h"

static struct arena  arena;

static const struct json *
parse(const char *text)
{
    struct json  *v;
    struct err    err = { 0 };
    assert_int_equal(json_parse(&v, str_from(text), &arena,
                                &json_limits_request, &err), OK);
    return v;
}

static int
setup(void **state)
{
    (void) state;
    arena_init(&arena, 16u << 20);
    return 0;
}

static int
teardown(void **state)
{
    (void) state;
    arena_destroy(&arena);
    return 0;
}

static int
read_int(const char *text, int64_t *out, struct err *err)
{
    struct fields  f = { parse(text), "", err };
    return field_int(&f, "n", 1, 16, out);
}

static void
test_integers_take_whole_numbers_only(void **state)
{
    static const char *const  bad[] = {
        "{\"n\":0}", "{\"n\":-1}", "{\"n\":17}", "{\"n\":1.5}", "{\"n\":\"3\"}",
        "{\"n\":true}", "{\"n\":[]}", "{\"n\":1e18}", "{\"n\":1e300}",
        "{\"n\":99999999999999999999999}", "{\"n\":-0.5}"
    };
    struct err  err = { 0 };
    int64_t     n = 7;

    (void) state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(read_int(bad[i], &n, &err), ERROR);
        assert_int_equal(err.http_status, 400);
        assert_string_equal(err.param, "n");
        assert_int_equal(n, 7);
    }
    assert_int_equal(read_int("{}", &n, &err), OK);
    assert_int_equal(n, 7);
    assert_int_equal(read_int("{\"n\":null}", &n, &err), OK);
    assert_int_equal(n, 7);
    assert_int_equal(read_int("{\"n\":16}", &n, &err), OK);
    assert_int_equal(n, 16);
    assert_int_equal(read_int("{\"n\":2.0}", &n, &err), OK);
    assert_int_equal(n, 2);
}

/* As a double writes them; 2^63 is the first that is no int64_t. */
static void
test_integers_may_be_written_as_large_floats(void **state)
{
    static const struct { const char *text; int rc; int64_t want; }  cases[] = {
        { "{\"n\":9.1e15}", OK, 9100000000000000 },
        { "{\"n\":-9.1e15}", OK, -9100000000000000 },
        { "{\"n\":9.2233720368547748e18}", OK, 9223372036854774784 },
        { "{\"n\":-9.2233720368547758e18}", OK, INT64_MIN },
        { "{\"n\":9.2233720368547758e18}", ERROR, 7 },
        { "{\"n\":-9.2233720368547779e18}", ERROR, 7 },
    };

    (void) state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct err     err = { 0 };
        struct fields  f = { parse(cases[i].text), "", &err };
        int64_t        n = 7;
        assert_int_equal(field_int(&f, "n", INT64_MIN, INT64_MAX, &n),
                         cases[i].rc);
        assert_int_equal(n, cases[i].want);
    }
}

static void
test_negative_zero_does_not_pass_through(void **state)
{
    struct err     err = { 0 };
    struct fields  f = { parse("{\"t\":-0.0}"), "", &err };
    double         t = 5;

    (void) state;
    assert_int_equal(field_number(&f, "t", 0, 2, &t), OK);
    assert_true(t == 0 && 1 / t > 0);
}

static void
test_error_quotes_numbers_but_never_strings(void **state)
{
    struct err     err = { 0 };
    struct fields  f = { parse("{\"t\":\"secret\",\"u\":2.5}"),
                         "stream_options.", &err };
    double         t = 0;

    (void) state;
    assert_int_equal(field_number(&f, "t", 0, 2, &t), ERROR);
    assert_null(strstr(err.message, "secret"));
    assert_string_equal(err.param, "stream_options.t");
    assert_int_equal(field_number(&f, "u", 0, 2, &t), ERROR);
    assert_non_null(strstr(err.message, "2.5"));
}

static void
test_known_unsupported_fields_are_named(void **state)
{
    static const char *const  bad[][2] = {
        { "{\"tools\":[{}]}", "tools" }, { "{\"logprobs\":true}", "logprobs" },
        { "{\"guided_json\":{}}", "guided_json" },
        { "{\"presence_penalty\":0.1}", "presence_penalty" },
        { "{\"response_format\":{\"type\":\"json_object\"}}",
          "response_format" },
        { "{\"logit_bias\":{\"1\":1}}", "logit_bias" },
        { "{\"best_of\":2}", "best_of" },
    };
    static const char *const  good[] = {
        "{}", "{\"tools\":null}", "{\"logprobs\":false}", "{\"logit_bias\":{}}",
        "{\"response_format\":{\"type\":\"text\"}}", "{\"best_of\":1}",
        "{\"presence_penalty\":0}", "{\"never_heard_of\":1}",
        "{\"tool_choice\":\"none\"}"
    };
    struct err  err = { 0 };

    (void) state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(unsupported_check(parse(bad[i][0]), true, &err),
                         ERROR);
        assert_string_equal(err.param, bad[i][1]);
        assert_int_equal(err.http_status, 400);
    }
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_int_equal(unsupported_check(parse(good[i]), true, &err), OK);
    }
}

static void
test_error_document_is_openais_shape(void **state)
{
    struct buf  b;

    (void) state;
    buf_init(&b, 4096);
    openai_error_write(&b, 400, "n", NULL, "n: \"bad\"\n");
    buf_append_c(&b, '\0');
    assert_string_equal(b.data, "{\"error\":{\"message\":\"n: \\\"bad\\\"\\n\","
                        "\"type\":\"invalid_request_error\",\"param\":\"n\","
                        "\"code\":null}}");
    buf_reset(&b);
    openai_error_write(&b, 503, "", "loading", "x");
    buf_append_c(&b, '\0');
    assert_string_equal(b.data, "{\"error\":{\"message\":\"x\",\"type\":"
                        "\"server_error\",\"param\":null,\"code\":\"loading\""
                        "}}");
    buf_destroy(&b);
    assert_string_equal(openai_error_code(404, "model"), "model_not_found");
    assert_null(openai_error_code(400, "n"));
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_integers_take_whole_numbers_only),
        cmocka_unit_test(test_integers_may_be_written_as_large_floats),
        cmocka_unit_test(test_negative_zero_does_not_pass_through),
        cmocka_unit_test(test_error_quotes_numbers_but_never_strings),
        cmocka_unit_test(test_known_unsupported_fields_are_named),
        cmocka_unit_test(test_error_document_is_openais_shape),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
