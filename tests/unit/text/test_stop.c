/* test_stop.c - stop strings, cut into chunks in every way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>
#include "engine/text/stop.h"

struct run {
    struct arena     arena;
    struct stop_set *set;
    struct buf       out;
};

static void
run_open(struct run *r, const struct str *strings, size_t num)
{
    struct err  err = { 0 };
    arena_init(&r->arena, 4u << 20);
    buf_init(&r->out, 1u << 20);
    assert_int_equal(stop_compile(&r->set, strings, num, &r->arena, &err), OK);
}

static void
run_close(struct run *r)
{
    buf_destroy(&r->out);
    arena_destroy(&r->arena);
}

/* Feeds text in chunks of `step` bytes; returns the index of the stop. */
static int
feed(struct run *r, struct str text, size_t step, bool include)
{
    struct stop  s;

    buf_reset(&r->out);
    stop_init(&s, r->set, include);
    for (size_t i = 0; i < text.len; i += step) {
        size_t  n = text.len - i < step ? text.len - i : step;
        if (stop_push(&s, (struct str) { text.data + i, n }, &r->out)) {
            stop_flush(&s, &r->out);
            return s.match_idx;
        }
    }
    stop_flush(&s, &r->out);
    return s.match_idx;
}

static void
expect(struct run *r, const char *text, int match, const char *want)
{
    for (size_t step = 1; step <= 7; step++) {
        assert_int_equal(feed(r, str_from(text), step, false), match);
        assert_true(str_eq(buf_str(&r->out), str_from(want)));
    }
}

static void
text_is_cut_before_the_stop_string(void **state)
{
    const struct str  stops[] = { STR("\n\nUser:"), STR("END") };
    struct run        r;

    (void) state;
    run_open(&r, stops, 2);
    expect(&r, "hello\n\nUser: more", 0, "hello");
    expect(&r, "hello END", 1, "hello ");
    expect(&r, "hello\n\nUse nothing", -1, "hello\n\nUse nothing");
    expect(&r, "hello\n\nUser", -1, "hello\n\nUser");
    expect(&r, "\n\n\nUser:", 0, "\n");
    expect(&r, "", -1, "");
    run_close(&r);
}

static void
the_stop_that_completes_first_wins_then_the_first_of_the_list(void **state)
{
    const struct str  stops[] = { STR("b"), STR("ab"), STR("abcd") };
    const struct str  other[] = { STR("xab"), STR("ab"), STR("b") };
    struct run        r;

    (void) state;
    run_open(&r, stops, 3);
    expect(&r, "zzabcd", 0, "zza");
    run_close(&r);
    run_open(&r, other, 3);
    expect(&r, "zab", 1, "z");
    expect(&r, "zxab", 0, "z");
    expect(&r, "zcb", 2, "zc");
    run_close(&r);
}

static void
include_sends_the_stop_string_too(void **state)
{
    const struct str  stops[] = { STR("END") };
    struct run        r;

    (void) state;
    run_open(&r, stops, 1);
    assert_int_equal(feed(&r, STR("to the END of"), 3, true), 0);
    assert_true(str_eq(buf_str(&r.out), STR("to the END")));
    assert_int_equal(feed(&r, STR("to the EN"), 2, true), -1);
    assert_true(str_eq(buf_str(&r.out), STR("to the EN")));
    run_close(&r);
}

/* A stop string that ends while it passes is text; one that ends later stops,
 * wherever it began. */
static void
what_passes_is_no_stop(void **state)
{
    const struct str  stops[] = { STR("aa"), STR("is") };
    struct run        r;
    struct stop       s;

    (void) state;
    run_open(&r, stops, 2);
    for (int include = 0; include < 2; include++) {
        buf_reset(&r.out);
        stop_init(&s, r.set, include != 0);
        s.passes = true;
        assert_false(stop_push(&s, STR("this aa"), &r.out));
        s.passes = false;
        assert_true(stop_push(&s, STR("ab"), &r.out));
        assert_int_equal(s.match_idx, 0);
        assert_true(str_eq(buf_str(&r.out), include != 0 ? STR("this aaa")
                                                         : STR("this a")));
    }
    buf_reset(&r.out);
    stop_init(&s, r.set, false);
    s.passes = true;
    assert_false(stop_push(&s, STR("this"), &r.out));
    stop_flush(&s, &r.out);
    assert_true(str_eq(buf_str(&r.out), STR("this")));
    run_close(&r);
}

static void
only_a_live_partial_match_is_held_back(void **state)
{
    const struct str  stops[] = { STR("aaab") };
    struct run        r;
    struct stop       s;

    (void) state;
    run_open(&r, stops, 1);
    stop_init(&s, r.set, false);
    assert_false(stop_push(&s, STR("xyaaaa"), &r.out));
    assert_true(str_eq(buf_str(&r.out), STR("xya")));
    assert_false(stop_push(&s, STR("c"), &r.out));
    assert_true(str_eq(buf_str(&r.out), STR("xyaaaac")));
    run_close(&r);
}

static void
no_stop_strings_pass_everything(void **state)
{
    struct run   r;
    struct stop  s;

    (void) state;
    run_open(&r, NULL, 0);
    expect(&r, "anything", -1, "anything");
    stop_init(&s, NULL, false);
    assert_false(stop_push(&s, STR("x"), &r.out));
    stop_flush(&s, &r.out);
    run_close(&r);
}

static void
bad_stop_strings_are_400_on_stop(void **state)
{
    static char   big[STOP_STRING_BYTES_MAX + 1];
    struct str    many[STOP_STRINGS_MAX + 1], bad;
    struct arena  arena;
    struct err    err = { 0 };
    struct stop_set *set;

    (void) state;
    arena_init(&arena, 4u << 20);
    bad = STR("");
    assert_int_equal(stop_compile(&set, &bad, 1, &arena, &err), ERROR);
    assert_int_equal(err.http_status, 400);
    assert_string_equal(err.param, "stop");
    bad = (struct str) { big, sizeof big };
    assert_int_equal(stop_compile(&set, &bad, 1, &arena, &err), ERROR);
    for (size_t i = 0; i <= STOP_STRINGS_MAX; i++) {
        many[i] = STR("x");
    }
    assert_int_equal(stop_compile(&set, many, STOP_STRINGS_MAX + 1, &arena,
                                  &err), ERROR);
    for (size_t i = 0; i < 5; i++) {
        many[i] = (struct str) { big, STOP_STRING_BYTES_MAX };
    }
    assert_int_equal(stop_compile(&set, many, 5, &arena, &err), ERROR);
    arena_destroy(&arena);
}

/* The definition: the first position where any string has ended. */
static int
plain_find(struct str text, const struct str *stops, size_t num, size_t *cut)
{
    for (size_t end = 1; end <= text.len; end++) {
        for (size_t k = 0; k < num; k++) {
            if (str_ends_with((struct str) { text.data, end }, stops[k])) {
                *cut = end - stops[k].len;
                return (int) k;
            }
        }
    }
    *cut = text.len;
    return -1;
}

static void
random_texts_agree_with_the_definition(void **state)
{
    unsigned  seed = (unsigned) time(NULL);

    (void) state;
    print_message("seed %u\n", seed);
    srand(seed);
    for (int k = 0; k < 3000; k++) {
        char        text[40], body[6][6];
        struct str  stops[6];
        size_t      num = 1 + (size_t) rand() % 6, cut;
        struct str  t = { text, (size_t) rand() % sizeof text };
        struct run  r;
        for (size_t i = 0; i < t.len; i++) {
            text[i] = (char) ('a' + rand() % 3);
        }
        for (size_t i = 0; i < num; i++) {
            stops[i] = (struct str) { body[i], 1 + (size_t) rand() % 6 };
            for (size_t j = 0; j < stops[i].len; j++) {
                body[i][j] = (char) ('a' + rand() % 3);
            }
        }
        run_open(&r, stops, num);
        int  want = plain_find(t, stops, num, &cut);
        for (size_t step = 1; step < 5; step++) {
            assert_int_equal(feed(&r, t, step, false), want);
            assert_true(str_eq(buf_str(&r.out), (struct str) { text, cut }));
        }
        run_close(&r);
    }
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(text_is_cut_before_the_stop_string),
        cmocka_unit_test(
            the_stop_that_completes_first_wins_then_the_first_of_the_list),
        cmocka_unit_test(include_sends_the_stop_string_too),
        cmocka_unit_test(what_passes_is_no_stop),
        cmocka_unit_test(only_a_live_partial_match_is_held_back),
        cmocka_unit_test(no_stop_strings_pass_everything),
        cmocka_unit_test(bad_stop_strings_are_400_on_stop),
        cmocka_unit_test(random_texts_agree_with_the_definition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
