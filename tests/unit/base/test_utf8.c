/* test_utf8.c - every code point round-trips, every malformed form is found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "engine/base/utf8.h"

static void
every_scalar_value_round_trips(void **state)
{
    (void) state;
    for (uint32_t cp = 0; cp <= 0x10FFFF; cp++) {
        if (cp >= 0xD800 && cp <= 0xDFFF) {
            continue;
        }
        char      s[4];
        uint32_t  back;
        int       n = utf8_encode(cp, s);
        assert_true(utf8_is_valid(s, (size_t) n));
        assert_int_equal(utf8_decode(s, &back), n);
        assert_int_equal(back, cp);
    }
}

static void
malformed_text_is_found_at_its_byte(void **state)
{
    (void) state;
    static const struct {
        const char  *s;
        size_t       len, valid;
        bool         incomplete;
    } cases[] = {
        { "abc\x80", 4, 3, false },
        { "\xC0\x80", 2, 0, false },
        { "\xC1\xBF", 2, 0, false },
        { "\xE0\x9F\xBF", 3, 0, false },
        { "\xED\xA0\x80", 3, 0, false },
        { "\xED\xBF\xBF", 3, 0, false },
        { "\xF0\x8F\xBF\xBF", 4, 0, false },
        { "\xF4\x90\x80\x80", 4, 0, false },
        { "\xF5\x80\x80\x80", 4, 0, false },
        { "\xFE", 1, 0, false },
        { "12345678\xC3\xA9\xC3", 11, 10, true },
        { "\xE2\x82", 2, 0, true },
        { "\xF0\x9F\x9A", 3, 0, true },
        { "\xE2\x28\xA1", 3, 0, false },
        { "12345678abcdefg\xFF", 16, 15, false },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bool  incomplete;
        assert_int_equal(utf8_valid_len(cases[i].s, cases[i].len, &incomplete),
                         cases[i].valid);
        assert_int_equal(incomplete, cases[i].incomplete);
    }
}

static void
mending_keeps_characters_and_length(void **state)
{
    static const struct { const char *in, *out; }  cases[] = {
        { "", "" }, { "plain", "plain" }, { "\xE2\x82\xAC", "\xE2\x82\xAC" },
        { "a\xFF" "b", "a?b" }, { "\xE2\x82", "??" },
        { "\xE2\x82\xE2\x82\xAC\x80", "??\xE2\x82\xAC?" },
        { "\xED\xA0\x80", "???" }, { "\xC0\xAF" "x", "??x" },
    };
    (void) state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char    text[16];
        size_t  len = strlen(cases[i].in);
        memcpy(text, cases[i].in, len + 1);
        utf8_mend(text, len);
        assert_string_equal(text, cases[i].out);
    }
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(every_scalar_value_round_trips),
        cmocka_unit_test(malformed_text_is_found_at_its_byte),
        cmocka_unit_test(mending_keeps_characters_and_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
