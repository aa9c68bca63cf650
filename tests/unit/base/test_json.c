/* test_json.c - the reader refuses what RFC 8259 and our stricter rules refuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>
#include "engine/base/clock.h"
#include "engine/base/json.h"

struct fixture {
    struct arena  arena;
    struct buf    buf;
    struct err    err;
};

static int
setup(void **state)
{
    struct fixture  *f = calloc(1, sizeof *f);
    arena_init(&f->arena, 256u << 20);
    buf_init(&f->buf, 64u << 20);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fixture  *f = *state;
    arena_destroy(&f->arena);
    buf_destroy(&f->buf);
    free(f);
    return 0;
}

static struct json *
parse_str(struct fixture *f, struct str text)
{
    struct json  *root;
    memset(&f->err, 0, sizeof f->err);
    if (json_parse(&root, text, &f->arena, &json_limits_request, &f->err)
        != OK)
    {
        assert_null(root);
        assert_int_equal(f->err.http_status, 400);
        assert_true(f->err.message[0] != '\0');
        return NULL;
    }
    return root;
}

static struct json *
parse(struct fixture *f, const char *text)
{
    return parse_str(f, str_from(text));
}

static void
assert_refused(struct fixture *f, struct str text, const char *why)
{
    if (parse_str(f, text) != NULL) {
        fail_msg("accepted: %.*s", STR_ARG(text));
    }
    if (strstr(f->err.message, why) == NULL) {
        fail_msg("%.*s: \"%s\" does not say \"%s\"", STR_ARG(text),
                 f->err.message, why);
    }
}

#define refused(literal, why)  assert_refused(f, STR(literal), why)

static void
assert_text(struct str s, const char *want)
{
    assert_int_equal(s.len, strlen(want));
    assert_memory_equal(s.data, want, s.len);
}

/* ---- values -------------------------------------------------------------- */

static void
values_keep_type_order_and_number_text(void **state)
{
    struct fixture  *f = *state;
    struct json     *v = parse(f, " {\"b\":[1,1.0,true,null],\"a\":\"x\"}\n");

    assert_non_null(v);
    assert_int_equal(v->type, JSON_OBJECT);
    assert_int_equal(v->num_children, 2);
    assert_text(v->child->key, "b");
    assert_text(v->last->key, "a");
    const struct json  *i = v->child->child;
    assert_int_equal(i->type, JSON_INT);
    assert_int_equal(i->i, 1);
    assert_int_equal(i->next->type, JSON_FLOAT);
    assert_text(i->next->string, "1.0");
    assert_true(i->next->next->b);
    assert_int_equal(v->child->last->type, JSON_NULL);
}

static void
every_scalar_may_be_the_document(void **state)
{
    struct fixture  *f = *state;
    assert_int_equal(parse(f, "null")->type, JSON_NULL);
    assert_int_equal(parse(f, "false")->type, JSON_BOOL);
    assert_int_equal(parse(f, "\"\"")->type, JSON_STRING);
    assert_int_equal(parse(f, "\t7\r\n")->i, 7);
    assert_int_equal(parse(f, "[]")->num_children, 0);
    assert_int_equal(parse(f, "{ }")->num_children, 0);
}

static void
numbers_are_rfc_8259(void **state)
{
    struct fixture  *f = *state;
    struct json     *v = parse(f, "-0");
    assert_int_equal(v->type, JSON_INT);
    assert_int_equal(v->i, 0);
    assert_text(v->string, "-0");
    v = parse(f, "1E+2");
    assert_int_equal(v->type, JSON_FLOAT);
    assert_true(v->f == 100.0);
    assert_true(parse(f, "-0.0")->f == 0.0);
    assert_true(parse(f, "1e-400")->f == 0.0);
    v = parse(f, "9223372036854775807");
    assert_true(v->int_fits && v->i == INT64_MAX);
    v = parse(f, "-9223372036854775808");
    assert_true(v->int_fits && v->i == INT64_MIN);
    v = parse(f, "9223372036854775808");
    assert_false(v->int_fits);
    assert_true(v->f == 9223372036854775808.0);
    v = parse(f, "123456789012345678901234567890123456789012345678901234567890");
    assert_false(v->int_fits);
    assert_int_equal(v->string.len, 60);
    assert_true(v->f > 1.2e59 && v->f < 1.3e59);
}

static void
odd_numbers_are_refused(void **state)
{
    struct fixture  *f = *state;
    refused("01", "leading zero");
    refused("-01", "leading zero");
    refused("+1", "value is expected");
    refused("-", "digit is missing");
    refused(".5", "value is expected");
    refused("1.", "after the point");
    refused("1e", "exponent");
    refused("1e+", "exponent");
    refused("0x10", "after the end");
    refused("1_000", "after the end");
    refused("NaN", "value is expected");
    refused("Infinity", "value is expected");
    refused("-Infinity", "digit is missing");
    refused("1e400", "range of a double");
    refused("-1e400", "range of a double");
    char  digits[400];
    memset(digits, '9', sizeof digits);
    assert_refused(f, (struct str) { digits, 257 }, "limit is 256");
    assert_refused(f, (struct str) { digits, 400 }, "limit is 256");
    assert_non_null(parse_str(f, (struct str) { digits, 256 }));
}

static void
grammar_errors_are_refused_with_the_byte(void **state)
{
    struct fixture  *f = *state;
    refused("", "byte 0");
    refused("   ", "byte 3");
    refused("[1,]", "byte 3");
    refused("{\"a\":1,}", "byte 7: a key");
    refused("[,1]", "byte 1");
    refused("[1 2]", "',' or ']'");
    refused("{\"a\" 1}", "':' is expected");
    refused("{\"a\"}", "':' is expected");
    refused("{a:1}", "key in double quotes");
    refused("{'a':1}", "key in double quotes");
    refused("{1:1}", "key in double quotes");
    refused("[1", "',' or ']'");
    refused("{\"a\":", "ends where a value");
    refused("{", "key in double quotes");
    refused("[", "ends where a value");
    refused("]", "value is expected");
    refused("[1]]", "byte 3: text after");
    refused("{} {}", "after the end");
    refused("{}x", "after the end");
    refused("[1}", "',' or ']'");
    refused("// c\n1", "value is expected");
    refused("/* c */1", "value is expected");
    refused("1 # c", "after the end");
    refused("tru", "value is expected");
    refused("True", "value is expected");
    refused("nul", "value is expected");
    refused("truex", "after the end");
    refused("\f1", "value is expected");
    refused("\xC2\xA0" "1", "value is expected");
}

/* ---- strings ------------------------------------------------------------- */

static void
strings_are_unescaped_and_counted(void **state)
{
    struct fixture  *f = *state;
    struct json     *v = parse(f, "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9"
                                  "\\ud83d\\ude80z\"");
    assert_text(v->string, "\"\\/\b\f\n\r\t\xC3\xA9\xF0\x9F\x9A\x80z");
    v = parse(f, "\"x\\u0000y\"");
    assert_int_equal(v->string.len, 3);
    assert_memory_equal(v->string.data, "x\0y", 3);
    v = parse(f, "\"\\uFFFF\\u007f\x7f\"");
    assert_text(v->string, "\xEF\xBF\xBF\x7F\x7F");
}

static void
plain_strings_point_into_the_source(void **state)
{
    struct fixture  *f = *state;
    static const char  text[] = "[\"abc\"]";
    struct json  *v = parse_str(f, STR(text));
    assert_ptr_equal(v->child->string.data, text + 2);
}

static void
bad_strings_are_refused(void **state)
{
    struct fixture  *f = *state;
    refused("\"a", "unterminated");
    refused("\"a\\", "unterminated");
    refused("\"a\\\"", "unterminated");
    refused("\"\\x41\"", "unknown escape");
    refused("\"\\'\"", "unknown escape");
    refused("\"\\u12\"", "four hex");
    refused("\"\\u12g4\"", "four hex");
    refused("\"\\u", "four hex");
    refused("\"a\nb\"", "control byte");
    refused("\"a\tb\"", "control byte");
    refused("\"a\0b\"", "control byte");
    refused("\"x\\n\0\"", "control byte");
    refused("\0", "value is expected");
    refused("{}\0", "after the end");
}

static void
surrogates_must_be_pairs(void **state)
{
    struct fixture  *f = *state;
    refused("\"\\ud800\"", "lone high surrogate");
    refused("\"\\ud800x\"", "lone high surrogate");
    refused("\"\\ud800\\n\"", "lone high surrogate");
    refused("\"\\ud800\\u0041\"", "lone high surrogate");
    refused("\"\\ud800\\ud800\"", "lone high surrogate");
    refused("\"\\udc00\"", "lone low surrogate");
    refused("\"\\ude80\\ud83d\"", "lone low surrogate");
    refused("{\"\\ud800\":1}", "lone high surrogate");
}

static void
only_utf8_is_text(void **state)
{
    struct fixture  *f = *state;
    refused("\"\xC0\xAF\"", "byte 1: not valid UTF-8");
    refused("\"\xE0\x80\x80\"", "UTF-8");
    refused("\"\xED\xA0\x80\"", "UTF-8");
    refused("\"\xF4\x90\x80\x80\"", "UTF-8");
    refused("\"a\xC2", "byte 2: not valid UTF-8");
    refused("\"\xFF\"", "UTF-8");
    refused("\xEF\xBB\xBF{}", "byte order mark");
    refused("\xFF\xFE{\0}\0", "UTF-8");
    refused("\0{\0}", "value is expected");
    refused("{\0}\0", "key in double quotes");
}

/* ---- duplicates ---------------------------------------------------------- */

static void
duplicate_keys_are_refused_after_unescaping(void **state)
{
    struct fixture  *f = *state;
    refused("{\"model\":1,\"model\":2}", "duplicate key \"model\"");
    refused("{\"model\":1,\"mod\\u0065l\":2}", "duplicate key \"model\"");
    refused("[{\"x\":{\"a\":1,\"b\":1,\"a\":1}}]", "duplicate key \"a\"");
    refused("{\"\":1,\"\":2}", "duplicate key");
    assert_non_null(parse(f, "{\"a\":{\"a\":1},\"A\":1,\"a\\u0000\":1}"));
}

static void
duplicates_are_found_in_large_objects(void **state)
{
    struct fixture  *f = *state;
    for (int dup = 0; dup < 2; dup++) {
        buf_reset(&f->buf);
        buf_append_c(&f->buf, '{');
        for (int i = 0; i < 5000; i++) {
            buf_appendf(&f->buf, "\"k%d\":0,", i);
        }
        buf_appendf(&f->buf, "\"%s\":0}", dup ? "k\\u0031234" : "last");
        if (dup) {
            assert_refused(f, buf_str(&f->buf), "duplicate key \"k1234\"");
        } else {
            assert_non_null(parse_str(f, buf_str(&f->buf)));
        }
    }
}

static void
files_may_repeat_keys_and_the_last_wins(void **state)
{
    struct fixture  *f = *state;
    struct json     *v;
    assert_int_equal(json_parse(&v, STR("{\"a\":1,\"a\":2}"), &f->arena,
                                &json_limits_file, &f->err), OK);
    assert_int_equal(json_find(v, "a")->i, 2);
    assert_null(json_find(v, "b"));
    assert_null(json_find(v->child, "a"));
    assert_null(json_find(NULL, "a"));
}

/* ---- limits and time ----------------------------------------------------- */

static void
nesting_stops_at_64(void **state)
{
    struct fixture  *f = *state;
    for (int depth = 64; depth <= 65; depth++) {
        buf_reset(&f->buf);
        for (int i = 0; i < depth; i++) {
            buf_append_str(&f->buf, i % 2 ? STR("{\"a\":") : STR("["));
        }
        buf_append_lit(&f->buf, "1");
        for (int i = depth - 1; i >= 0; i--) {
            buf_append_c(&f->buf, i % 2 ? '}' : ']');
        }
        if (depth == 64) {
            struct json  *v = parse_str(f, buf_str(&f->buf));
            assert_non_null(v);
            struct buf  out;
            buf_init(&out, 1 << 20);
            json_write(&out, v);
            assert_int_equal(out.len, f->buf.len);
            assert_memory_equal(out.data, f->buf.data, out.len);
            buf_destroy(&out);
        } else {
            assert_refused(f, buf_str(&f->buf), "nested too deeply");
        }
    }
    static char  open[100000];
    memset(open, '[', sizeof open);
    assert_refused(f, (struct str) { open, sizeof open }, "the limit is 64");
}

static double
parse_ms(struct fixture *f, const struct json_limits *limits, int *rc)
{
    struct json  *v;
    arena_reset(&f->arena);
    int64_t       t = clock_now_ns();
    *rc = json_parse(&v, buf_str(&f->buf), &f->arena, limits, &f->err);
    return (double) (clock_now_ns() - t) / 1e6;
}

static void
fill_keys(struct fixture *f, int num_keys)
{
    buf_reset(&f->buf);
    buf_append_c(&f->buf, '{');
    for (int i = 0; i < num_keys; i++) {
        buf_appendf(&f->buf, "%s\"%d\":0", i == 0 ? "" : ",", i);
    }
    buf_append_c(&f->buf, '}');
}

static void
a_million_keys_are_refused_early(void **state)
{
    struct fixture  *f = *state;
    int              rc;
    fill_keys(f, 1000000);
    (void) parse_ms(f, &json_limits_request, &rc);
    assert_int_equal(rc, ERROR);
    assert_non_null(strstr(f->err.message, "the limit is 16384"));
}

static void
duplicate_detection_is_not_quadratic(void **state)
{
    struct fixture      *f = *state;
    struct json_limits   limits = json_limits_file;
    int                  rc;

    limits.allow_duplicate_keys = false;
    fill_keys(f, 500000);
    double  ms = parse_ms(f, &limits, &rc);
    assert_int_equal(rc, OK);
    /* All pairs would be 1.25e11 comparisons: minutes. */
    assert_true(ms < 10000);
}

static void
limits_name_themselves(void **state)
{
    struct fixture  *f = *state;
    char            *key = malloc(1 << 20);

    memset(key, 'k', 1 << 20);
    buf_append_lit(&f->buf, "{\"");
    buf_append(&f->buf, key, 1 << 20);
    buf_append_lit(&f->buf, "\":1}");
    free(key);
    assert_refused(f, buf_str(&f->buf), "key too long, the limit is 4096");

    buf_reset(&f->buf);
    buf_append_c(&f->buf, '[');
    for (int i = 0; i < 1 << 18; i++) {
        buf_append_lit(&f->buf, "0,");
    }
    buf_append_lit(&f->buf, "0]");
    assert_refused(f, buf_str(&f->buf), "too many values, the limit is 262144");

    struct arena  small;
    struct json  *v;
    arena_init(&small, 8192);
    assert_int_equal(json_parse(&v, buf_str(&f->buf), &small,
                                &json_limits_request, &f->err), ERROR);
    assert_non_null(strstr(f->err.message, "memory"));
    arena_destroy(&small);
}

static void
an_unterminated_megabyte_is_linear(void **state)
{
    struct fixture  *f = *state;
    int              rc;
    buf_append_c(&f->buf, '"');
    for (int i = 0; i < 1 << 20; i++) {
        buf_append_lit(&f->buf, "\\\"");
    }
    double  ms = parse_ms(f, &json_limits_request, &rc);
    assert_int_equal(rc, ERROR);
    assert_true(ms < 2000);
}

/* ---- writing ------------------------------------------------------------- */

static void
assert_double(struct fixture *f, double v, const char *want)
{
    buf_reset(&f->buf);
    json_write_double(&f->buf, v);
    assert_text(buf_str(&f->buf), want);
}

static void
doubles_are_written_as_ecmascript_does(void **state)
{
    struct fixture  *f = *state;
    assert_double(f, 0, "0");
    assert_double(f, -0.5, "-0.5");
    assert_double(f, 1, "1");
    assert_double(f, 0.1, "0.1");
    assert_double(f, 0.1 + 0.2, "0.30000000000000004");
    assert_double(f, 1e21, "1e+21");
    assert_double(f, 1e20, "100000000000000000000");
    assert_double(f, 123456.789, "123456.789");
    assert_double(f, 1e-6, "0.000001");
    assert_double(f, 1e-7, "1e-7");
    assert_double(f, 1.5e-9, "1.5e-9");
    assert_double(f, 5e-324, "5e-324");
    assert_double(f, 1.7976931348623157e308, "1.7976931348623157e+308");
    assert_double(f, 9007199254740993.0, "9007199254740992");
    assert_double(f, 1.0 / 0.0, "null");
}

static void
random_doubles_read_back_equal(void **state)
{
    struct fixture  *f = *state;
    unsigned         seed = (unsigned) time(NULL);
    printf("seed %u\n", seed);
    srand(seed);
    for (int i = 0; i < 20000; i++) {
        union { uint64_t u; double d; } x = { 0 };
        for (int k = 0; k < 4; k++) {
            x.u = x.u << 16 | ((unsigned) rand() & 0xFFFF);
        }
        if ((x.u >> 52 & 0x7FF) == 0x7FF) {
            continue;
        }
        buf_reset(&f->buf);
        json_write_double(&f->buf, x.d);
        buf_append_c(&f->buf, '\0');
        assert_true(strtod(f->buf.data, NULL) == x.d);
    }
}

static void
strings_are_escaped(void **state)
{
    struct fixture  *f = *state;
    json_write_string(&f->buf, STR("a\"b\\c\n\r\t\b\f\x01\x1f\0/\x7f\xC3\xA9"));
    assert_text(buf_str(&f->buf),
                "\"a\\\"b\\\\c\\n\\r\\t\\b\\f\\u0001\\u001f\\u0000/\x7f\xC3\xA9\"");
    buf_reset(&f->buf);
    json_write_string(&f->buf, (struct str) { NULL, 0 });
    assert_text(buf_str(&f->buf), "\"\"");
}

static void
a_tree_is_written_as_it_was_read(void **state)
{
    struct fixture  *f = *state;
    static const char  *const docs[] = {
        "null", "[]", "{}", "[[],[[]],{}]", "{\"a\":{\"b\":[1,{\"c\":null}]},\"d\":-0}",
        "[1.0,1E+2,12345678901234567890,\"\\u0000\",true,false]",
    };
    for (size_t i = 0; i < sizeof docs / sizeof docs[0]; i++) {
        buf_reset(&f->buf);
        json_write(&f->buf, parse(f, docs[i]));
        assert_text(buf_str(&f->buf), docs[i]);
    }
}

/* Mutates valid documents; whatever is accepted must survive a round trip. */
static void
accepted_mutants_round_trip(void **state)
{
    struct fixture    *f = *state;
    static const char  seed_doc[] =
        "{\"m\":[1,2.5e3,\"\\u00e9\\n\",{\"x\":null}],\"t\":[true,false,-0]}";
    static const char  alphabet[] = "{}[]\",:\\u01e+-. \ntfn\x80\xC3";
    unsigned           seed = (unsigned) time(NULL);
    int                accepted = 0;

    printf("seed %u\n", seed);
    srand(seed);
    for (int round = 0; round < 30000; round++) {
        char  doc[sizeof seed_doc];
        memcpy(doc, seed_doc, sizeof doc);
        int   edits = 1 + rand() % 3;
        for (int e = 0; e < edits; e++) {
            doc[(size_t) rand() % (sizeof doc - 1)] =
                alphabet[(size_t) rand() % (sizeof alphabet - 1)];
        }
        arena_reset(&f->arena);
        struct json  *v = parse_str(f, (struct str) { doc, sizeof doc - 1 });
        if (v == NULL) {
            continue;
        }
        accepted++;
        buf_reset(&f->buf);
        json_write(&f->buf, v);
        struct json  *again = parse_str(f, buf_str(&f->buf));
        assert_non_null(again);
        struct buf  second;
        buf_init(&second, 1 << 20);
        json_write(&second, again);
        assert_int_equal(second.len, f->buf.len);
        assert_memory_equal(second.data, f->buf.data, second.len);
        buf_destroy(&second);
    }
    assert_true(accepted > 100);
}

#define T(name)  cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        T(values_keep_type_order_and_number_text),
        T(every_scalar_may_be_the_document),
        T(numbers_are_rfc_8259),
        T(odd_numbers_are_refused),
        T(grammar_errors_are_refused_with_the_byte),
        T(strings_are_unescaped_and_counted),
        T(plain_strings_point_into_the_source),
        T(bad_strings_are_refused),
        T(surrogates_must_be_pairs),
        T(only_utf8_is_text),
        T(duplicate_keys_are_refused_after_unescaping),
        T(duplicates_are_found_in_large_objects),
        T(files_may_repeat_keys_and_the_last_wins),
        T(nesting_stops_at_64),
        T(a_million_keys_are_refused_early),
        T(duplicate_detection_is_not_quadratic),
        T(limits_name_themselves),
        T(an_unterminated_megabyte_is_linear),
        T(doubles_are_written_as_ecmascript_does),
        T(random_doubles_read_back_equal),
        T(strings_are_escaped),
        T(a_tree_is_written_as_it_was_read),
        T(accepted_mutants_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
