/* test_scan.c - the hand scanners split as the regular expressions they stand
 * for, run through PCRE2, on random text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>
#include "engine/base/utf8.h"
#include "engine/text/regex.h"
#include "engine/text/scan.h"
#include "engine/text/unicode.h"

#define CONTRACTIONS  "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES        "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER         "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER         "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define BEFORE        "[^\\r\\n\\p{L}\\p{N}]?"

static const char *const  patterns[] = {
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+"
    "|\\s+(?!\\S)|\\s+",
    CONTRACTIONS "|" BEFORE "\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    SPACES,
    CONTRACTIONS "|" BEFORE "\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    SPACES,
    CONTRACTIONS "|" BEFORE "[\\p{L}\\p{M}]+|\\p{N}"
    "| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" SPACES,
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}"
    "| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+",
    BEFORE UPPER "*" LOWER "+" CONTRACTIONS "?|" BEFORE UPPER "+" LOWER "*"
    CONTRACTIONS "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" SPACES,
    BEFORE UPPER "*" LOWER "+|" BEFORE UPPER "+" LOWER "*|\\p{N}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" SPACES,
};

static uint32_t
random_cp(void)
{
    static const uint32_t  some[] = {
        'a', 'b', 'S', 'T', 's', 't', 'l', 'L', 'r', 'e', 'v', 'd', 'm', '\'',
        '\'', ' ', ' ', ' ', '\n', '\r', '\t', '1', '2', '/', '.', '-', 0x17F,
        0xA0, 0x85, 0x180E, 0x3000, 0x301, 0x323, 0x1C5, 0x2B0, 0x4E2D, 0x661,
        0xBD, 0x2160, 0x1F600, 0x1F3FD, 0x200D, 0x20AC, 0xAD, 0xFFFD, 0x905,
        0x93E, 0x1D400, 0x10D50, 0x10D70, 0x1E5EE, 0x105C0, 0x10D40, 0x2EBF0
    };
    if (rand() % 8 != 0) {
        return some[(size_t) rand() % (sizeof some / sizeof some[0])];
    }
    uint32_t  cp = (uint32_t) rand() % 0x30000;
    return cp >= 0xD800 && cp < 0xE000 ? 'x' : cp;
}

static void
check_text(const struct scan_rule *rule, const struct regex *re,
           struct regex_scratch *scratch, struct str text)
{
    struct regex_match  m;
    struct buf          shadow;
    size_t              at = 0;
    struct err          err = { 0 };

    buf_init(&shadow, 1u << 20);
    regex_begin(&m, re, scratch, text, &shadow);
    while (at < text.len) {
        size_t  end = scan_next(rule, text.data, text.len, at);
        assert_int_equal(regex_next(&m, &err), OK);
        if (m.begin != at || m.end != end) {
            fail_msg("at %zu to %zu, the expression says %zu to %zu in "
                     "\"%.*s\"", at, end, m.begin, m.end, STR_ARG(text));
        }
        at = end;
    }
    assert_int_equal(regex_next(&m, &err), AGAIN);
    buf_destroy(&shadow);
}

static void
scanners_split_as_their_expressions(void **state)
{
    unsigned               seed = (unsigned) time(NULL);
    struct regex_scratch  *scratch = regex_scratch_create();

    (void) state;
    print_message("seed %u\n", seed);
    srand(seed);
    assert_non_null(scratch);
    for (size_t k = 0; k < sizeof patterns / sizeof patterns[0]; k++) {
        const struct scan_rule  *rule = scan_find(str_from(patterns[k]));
        struct regex            *re;
        struct err               err = { 0 };
        assert_non_null(rule);
        if (regex_compile(&re, str_from(patterns[k]), &err) != OK) {
            fail_msg("%s", err.message);
        }
        for (int i = 0; i < 4000; i++) {
            char        text[256];
            struct str  t = { text, 0 };
            for (int n = rand() % 40; n > 0; n--) {
                t.len += (size_t) utf8_encode(random_cp(), text + t.len);
            }
            check_text(rule, re, scratch, t);
        }
        regex_destroy(re);
    }
    regex_scratch_destroy(scratch);
}

static void
other_patterns_are_not_recognised(void **state)
{
    (void) state;
    assert_null(scan_find(STR("\\p{L}+")));
    assert_null(scan_find(STR("")));
    assert_ptr_equal(scan_find(str_from(patterns[0])), scan_gpt2);
}

/* scan_class() reads the first block for ASCII without looking it up. */
static void
the_first_block_of_classes_is_ascii(void **state)
{
    (void) state;
    assert_int_equal(unicode_class_first[0], 0);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(scanners_split_as_their_expressions),
        cmocka_unit_test(other_patterns_are_not_recognised),
        cmocka_unit_test(the_first_block_of_classes_is_ascii),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
