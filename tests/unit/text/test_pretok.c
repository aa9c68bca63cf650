/* test_pretok.c - the five split behaviours and the rewriting stages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "engine/text/pretok.h"
#include "engine/text/unicode.h"

static int
collect(void *data, struct str word, struct err *err)
{
    struct buf  *out = data;
    (void) err;
    if (out->len > 0) {
        buf_append_c(out, '|');
    }
    buf_append_str(out, word);
    return OK;
}

static void
expect(const struct pretok *p, const char *text, bool origin, const char *want)
{
    static struct pretok_scratch  scratch;
    struct buf                    out;
    struct err                    err = { 0 };

    pretok_scratch_init(&scratch, 1u << 20, NULL);
    buf_init(&out, 1u << 20);
    struct pretok_run  run = { .pretok = p, .scratch = &scratch,
                               .word = collect, .data = &out };
    assert_int_equal(pretok_run_piece(&run, str_from(text), origin, &err), OK);
    if (!str_eq(buf_str(&out), str_from(want))) {
        fail_msg("\"%.*s\" instead of \"%s\"", STR_ARG(buf_str(&out)), want);
    }
    buf_destroy(&out);
    pretok_scratch_destroy(&scratch);
}

static struct pretok
one(struct pretok_stage stage)
{
    struct pretok  p = { .num_stages = 1 };
    p.stages[0] = stage;
    return p;
}

static void
each_behaviour_joins_as_the_reference(void **state)
{
    static const struct { enum split_behavior b; bool inv; const char *want; }
    cases[] = {
        { SPLIT_REMOVED, false, "the|final|countdown" },
        { SPLIT_ISOLATED, false, "the|-|final|-|-|countdown" },
        { SPLIT_MERGED_WITH_PREVIOUS, false, "the-|final-|-|countdown" },
        { SPLIT_MERGED_WITH_NEXT, false, "the|-final|-|-countdown" },
        { SPLIT_CONTIGUOUS, false, "the|-|final|--|countdown" },
        { SPLIT_REMOVED, true, "-|-|-" },
    };
    (void) state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct pretok  p = one((struct pretok_stage) {
            .kind = PRETOK_SPLIT, .by = SPLIT_LITERAL, .content = STR("-"),
            .behavior = cases[i].b, .invert = cases[i].inv });
        expect(&p, "the-final--countdown", true, cases[i].want);
        expect(&p, "", true, "");
    }
}

static void
predicates_split_by_character(void **state)
{
    struct pretok  digits = one((struct pretok_stage) {
        .kind = PRETOK_SPLIT, .by = SPLIT_CHARS, .is_match = unicode_is_numeric,
        .behavior = SPLIT_ISOLATED });
    struct pretok  words = one((struct pretok_stage) {
        .kind = PRETOK_SPLIT, .by = SPLIT_WORDS, .behavior = SPLIT_REMOVED,
        .invert = true });

    (void) state;
    expect(&digits, "a12b\xC2\xBD", true, "a|1|2|b|\xC2\xBD");
    expect(&words, " it's 3.14 ", true, "it|'|s|3|.|14");
}

static void
metaspace_marks_and_prepends(void **state)
{
    struct pretok_stage  s = { .kind = PRETOK_METASPACE,
                               .content = STR("\xE2\x96\x81"),
                               .prepend = PREPEND_FIRST };
    struct pretok        p = one(s);

    (void) state;
    expect(&p, "a b", true, "\xE2\x96\x81" "a\xE2\x96\x81" "b");
    expect(&p, "a b", false, "a\xE2\x96\x81" "b");
    expect(&p, " b", true, "\xE2\x96\x81" "b");
    p.stages[0].prepend = PREPEND_ALWAYS;
    expect(&p, "a", false, "\xE2\x96\x81" "a");
    p.stages[0].prepend = PREPEND_NEVER;
    expect(&p, "a", true, "a");
}

static void
stages_run_one_inside_the_other(void **state)
{
    struct pretok  p = { .num_stages = 3 };

    (void) state;
    p.stages[0] = (struct pretok_stage) {
        .kind = PRETOK_SPLIT, .by = SPLIT_LITERAL, .content = STR(","),
        .behavior = SPLIT_REMOVED };
    p.stages[1] = (struct pretok_stage) { .kind = PRETOK_PREFIX_SPACE };
    p.stages[2] = (struct pretok_stage) { .kind = PRETOK_BYTE_LEVEL };
    expect(&p, "a, b,\xC3\xA9", true,
           "\xC4\xA0" "a|\xC4\xA0" "b|\xC4\xA0\xC3\x83\xC2\xA9");
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(each_behaviour_joins_as_the_reference),
        cmocka_unit_test(predicates_split_by_character),
        cmocka_unit_test(metaspace_marks_and_prepends),
        cmocka_unit_test(stages_run_one_inside_the_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
