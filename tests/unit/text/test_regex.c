/* test_regex.c - Oniguruma's dialect with Unicode 16, on this system's PCRE2.
 *
 * Expected matches are what the reference's regex engine gives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "engine/text/regex.h"

/* All matches, joined by "|". */
static void
expect(const char *pattern, const char *text, const char *want)
{
    struct regex          *re;
    struct regex_scratch  *scratch = regex_scratch_create();
    struct regex_match     m;
    struct buf             shadow, got;
    struct err             err = { 0 };

    buf_init(&shadow, 1u << 20);
    buf_init(&got, 1u << 20);
    if (regex_compile(&re, str_from(pattern), &err) != OK) {
        fail_msg("%s", err.message);
    }
    regex_begin(&m, re, scratch, str_from(text), &shadow);
    for (int n = 0; regex_next(&m, &err) == OK; n++) {
        if (n > 0) {
            buf_append_c(&got, '|');
        }
        buf_append(&got, text + m.begin, m.end - m.begin);
    }
    if (!str_eq(buf_str(&got), str_from(want))) {
        fail_msg("%s on \"%s\": \"%.*s\" instead of \"%s\"", pattern, text,
                 STR_ARG(buf_str(&got)), want);
    }
    buf_destroy(&shadow);
    buf_destroy(&got);
    regex_destroy(re);
    regex_scratch_destroy(scratch);
}

static void
expect_refused(const char *pattern, const char *needle)
{
    struct regex  *re;
    struct err     err = { 0 };
    assert_int_equal(regex_compile(&re, str_from(pattern), &err), ERROR);
    assert_null(re);
    if (strstr(err.message, needle) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", err.message, needle);
    }
}

static void
anchors_are_per_line(void **state)
{
    (void) state;
    expect("^.", "ab\ncd\n", "a|c");
    expect(".$", "ab\ncd", "b|d");
}

static void
intervals_are_greedy_not_possessive(void **state)
{
    (void) state;
    expect("[0-9]{1,3}+", "12345678", "12345678");
    expect("[0-9]{1,3}+8", "12345678", "12345678");
    expect("a{2}?", "aaaaa", "aa|aa|");
    expect("(?:ab){2}+", "ababababab", "abababab");
    expect("a{,2}b", "aaab", "aab");
    expect("a{x", "a{x", "a{x");
    expect("[a-c]++c", "abc", "");
}

static void
sets_are_onigurumas(void **state)
{
    (void) state;
    expect("\\h+", "xAf9g", "Af9");
    expect("\\s+", "a\xE1\xA0\x8E" "b\xC2\x85", "\xC2\x85");  /* not U+180E */
    expect("\\w+", "e\xCC\x81-\xC2\xB2", "e\xCC\x81|\xC2\xB2");
    expect("[\\w]+", "a\xC2\xB2", "a");         /* superscript: only outside */
    expect("[\\W\\d]+", "a1-b", "1-");
    expect("[^\\S\\n]+", " \t\n ", " \t| ");
    expect("\\p{Letter}+|\\p{^L}", "ab1", "ab|1");
    expect("\\p{Lu}\\P{Lu}", "AbC", "Ab");
    expect("[[:alpha:]]+", "ab1", "ab");
    expect("\\bab\\b", "ab abc", "ab");
}

static void
classes_nest_and_intersect(void **state)
{
    (void) state;
    expect("[a-z&&[^aeiou]]+", "hello", "h|ll");
    expect("[a-c[x-z]]+", "abmxyz", "ab|xyz");
    expect("[^a-c[x-z]]+", "abmxyz", "m");
    expect("[^a-z&&[^b]]+", "abc1", "b|1");
    expect("[]a]+", "a]b", "a]");
    expect("[a\\-z]+", "a-bz", "a-|z");
    expect("[a-]+", "a-b", "a-");
}

/* U+1C89, U+A7DA: letters since Unicode 16; U+10D40: a digit; U+1B4E:
 * punctuation; U+2EBF0: an ideograph since 15.1. */
static void
new_characters_have_their_unicode_16_classes(void **state)
{
    (void) state;
    expect("\\p{Lu}+", "\xE1\xB2\x89\xEA\x9F\x9A", "\xE1\xB2\x89\xEA\x9F\x9A");
    expect("\\p{N}", "a\xF0\x90\xB5\x80", "\xF0\x90\xB5\x80");
    expect("[^\\p{P}]+", "a\xE1\xAD\x8E" "b", "a|b");
    expect("\\p{Han}+", "\xF0\xAE\xAF\xB0", "\xF0\xAE\xAF\xB0");
    /* A range that names it takes it, assigned or not. */
    expect("[\\x{2EBF0}-\\x{2EBFF}\\p{Nd}]", "\xF0\xAE\xAF\xB0",
           "\xF0\xAE\xAF\xB0");
}

static void
empty_matches_split_between_characters(void **state)
{
    (void) state;
    expect("b*", "abba", "|bb|");
    expect("", "\xC3\xA9x", "||");
}

static void
what_cannot_be_translated_is_refused(void **state)
{
    (void) state;
    expect_refused("(?~abc)", "group option");
    expect_refused("[a", "a class without ]");
    expect_refused("(a", "a ( without )");
    expect_refused("a)", "a ) without (");
    expect_refused("\\", "a trailing");
    expect_refused("\\y", "\\y");
    expect_refused("\\p{Nonsense}", "Nonsense");
    expect_refused("[z-a]", "empty range");
    expect_refused("\\x{110000}", "code point");
    expect_refused("[[[[[[[[[[a]]]]]]]]]]", "so deeply nested a class");
}

/* Catastrophic patterns end at a limit, as an error and not as a hang. */
static void
backtracking_is_limited(void **state)
{
    struct regex          *re;
    struct regex_scratch  *scratch = regex_scratch_create();
    struct regex_match     m;
    struct buf             shadow;
    struct err             err = { 0 };
    char                   text[64];

    (void) state;
    memset(text, 'a', sizeof text);
    buf_init(&shadow, 1u << 20);
    assert_int_equal(regex_compile(&re, STR("(?:a+)+b|(?:a|aa)+c"), &err), OK);
    regex_begin(&m, re, scratch, (struct str) { text, sizeof text }, &shadow);
    int  rc = regex_next(&m, &err);
    assert_true(rc == ERROR || rc == AGAIN);
    assert_true(rc == AGAIN || err.http_status == 400);
    buf_destroy(&shadow);
    regex_destroy(re);
    regex_scratch_destroy(scratch);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(anchors_are_per_line),
        cmocka_unit_test(intervals_are_greedy_not_possessive),
        cmocka_unit_test(sets_are_onigurumas),
        cmocka_unit_test(classes_nest_and_intersect),
        cmocka_unit_test(new_characters_have_their_unicode_16_classes),
        cmocka_unit_test(empty_matches_split_between_characters),
        cmocka_unit_test(what_cannot_be_translated_is_refused),
        cmocka_unit_test(backtracking_is_limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
