/* test_unicode.c - classes, normal forms and case of chosen characters; the
 * tables as a whole are compared with the reference by compare_hf.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "engine/base/utf8.h"
#include "engine/text/unicode.h"

static void
expect_form(enum unicode_form form, const char *text, const char *want)
{
    struct buf  out;
    buf_init(&out, 1u << 20);
    unicode_normalize(str_from(text), form, &out);
    assert_true(str_eq(buf_str(&out), str_from(want)));
    if (unicode_is_normal(str_from(text), form)) {
        assert_string_equal(text, want);
    }
    assert_true(unicode_is_normal(str_from("plain ASCII"), form));
    buf_destroy(&out);
}

static void
classes_are_unicode_16(void **state)
{
    (void) state;
    assert_int_equal(unicode_class_of('a'), UNICODE_L | UNICODE_LOWER);
    assert_int_equal(unicode_class_of('A'), UNICODE_L | UNICODE_UPPER);
    assert_int_equal(unicode_class_of('\n'), UNICODE_SPACE | UNICODE_NEWLINE);
    assert_int_equal(unicode_class_of(0x4E2D),
                     UNICODE_L | UNICODE_UPPER | UNICODE_LOWER);
    assert_int_equal(unicode_class_of(0x301),
                     UNICODE_M | UNICODE_UPPER | UNICODE_LOWER);
    assert_int_equal(unicode_class_of(0xBD), UNICODE_N);
    assert_int_equal(unicode_class_of(0x180E), 0);
    assert_int_equal(unicode_class_of(0x1C89), UNICODE_L | UNICODE_UPPER);
    assert_int_equal(unicode_class_of(0x10D40), UNICODE_N);
    assert_int_equal(unicode_class_of(0x10FFFF), 0);
    assert_true(unicode_is_changed(0x1C89));
    assert_false(unicode_is_changed('a'));
}

static void
a_representative_has_the_class_and_length_of_its_character(void **state)
{
    (void) state;
    for (uint32_t cp = 0x80; cp < 0x110000; cp++) {
        if (!unicode_is_changed(cp)) {
            continue;
        }
        uint32_t  rep = unicode_representative(cp);
        char      a[4], b[4];
        assert_int_equal(unicode_class_of(rep), unicode_class_of(cp));
        assert_int_equal(utf8_encode(rep, a), utf8_encode(cp, b));
        assert_false(unicode_is_changed(rep));
    }
}

static void
words_digits_and_punctuation_are_the_reference_s(void **state)
{
    (void) state;
    assert_true(unicode_is_word('_') && unicode_is_word(0x301)
                && unicode_is_word(0x24B6) && unicode_is_word(0x200D));
    assert_false(unicode_is_word('-') || unicode_is_word(0xB2));
    assert_true(unicode_is_numeric(0xBD) && unicode_is_numeric(0x11DE0));
    assert_true(unicode_is_punctuation('$') && unicode_is_punctuation('-')
                && unicode_is_punctuation(0x3002));
    assert_false(unicode_is_punctuation(0x2E52));    /* since Unicode 14 */
    assert_true(unicode_is_space(0x85) && unicode_is_space(0x3000));
    assert_false(unicode_is_space(0x180E) || unicode_is_space(0x200B));
}

static void
normal_forms_compose_decompose_and_reorder(void **state)
{
    (void) state;
    expect_form(UNICODE_NFC, "e\xCC\x81", "\xC3\xA9");
    expect_form(UNICODE_NFD, "\xC3\xA9", "e\xCC\x81");
    /* dot below (220) goes before acute (230) */
    expect_form(UNICODE_NFC, "q\xCC\x81\xCC\xA3", "q\xCC\xA3\xCC\x81");
    expect_form(UNICODE_NFC, "a\xCC\xA3\xCC\x88", "\xE1\xBA\xA1\xCC\x88");
    /* Hangul */
    expect_form(UNICODE_NFC, "\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB",
                "\xED\x95\x9C");
    expect_form(UNICODE_NFD, "\xED\x95\x9C",
                "\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB");
    /* compatibility: the fi ligature, circled one */
    expect_form(UNICODE_NFKC, "\xEF\xAC\x81\xE2\x91\xA0", "fi1");
    expect_form(UNICODE_NFC, "\xEF\xAC\x81", "\xEF\xAC\x81");
    /* U+212B is excluded from composition: it becomes U+00C5 */
    expect_form(UNICODE_NFC, "\xE2\x84\xAB", "\xC3\x85");
    /* newer than the reference's normaliser: U+32FF stays */
    expect_form(UNICODE_NFKC, "\xE3\x8B\xBF", "\xE3\x8B\xBF");
    expect_form(UNICODE_NFC, "", "");
}

static void
many_marks_take_linear_time(void **state)
{
    static char  text[600001];
    struct buf   out;

    (void) state;
    text[0] = 'e';
    for (size_t i = 1; i + 4 <= sizeof text; i += 4) {
        memcpy(text + i, i % 8 == 1 ? "\xCC\x81\xCC\xA3" : "\xCC\xA3\xCC\x81",
               4);
    }
    buf_init(&out, 1u << 22);
    unicode_normalize((struct str) { text, sizeof text }, UNICODE_NFC, &out);
    assert_true(out.len > sizeof text - 8);
    /* All dots below come first; one is taken into U+1EB9. */
    assert_memory_equal(out.data, "\xE1\xBA\xB9\xCC\xA3", 5);
    buf_destroy(&out);
}

static void
lower_case_is_per_character(void **state)
{
    uint32_t  out[2];

    (void) state;
    assert_int_equal(unicode_lower('A', out), 1);
    assert_int_equal(out[0], 'a');
    assert_int_equal(unicode_lower(0x3A3, out), 1);
    assert_int_equal(out[0], 0x3C3);
    assert_int_equal(unicode_lower(0x130, out), 2);
    assert_int_equal(out[1], 0x307);
    assert_int_equal(unicode_lower(0x16EA0, out), 1);
    assert_int_equal(out[0], 0x16EBB);
    assert_int_equal(unicode_lower('1', out), 1);
    assert_int_equal(out[0], '1');
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(classes_are_unicode_16),
        cmocka_unit_test(
            a_representative_has_the_class_and_length_of_its_character),
        cmocka_unit_test(words_digits_and_punctuation_are_the_reference_s),
        cmocka_unit_test(normal_forms_compose_decompose_and_reorder),
        cmocka_unit_test(many_marks_take_linear_time),
        cmocka_unit_test(lower_case_is_per_character),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
