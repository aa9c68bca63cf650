/* test_decoder.c - chains of decoders, and lossy UTF-8. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "engine/text/byte_map.h"
#include "engine/text/decoder.h"

#define FFFD  "\xEF\xBF\xBD"

static void
expect_lossy(const char *bytes, const char *want)
{
    struct buf  out;
    buf_init(&out, 1u << 16);
    decoder_append_lossy(&out, bytes, strlen(bytes));
    assert_true(str_eq(buf_str(&out), str_from(want)));
    buf_destroy(&out);
}

/* Unicode 3.9, table 3-8: one U+FFFD for each maximal part. */
static void
lossy_utf8_replaces_maximal_parts(void **state)
{
    (void) state;
    expect_lossy("ok \xE2\x82\xAC", "ok \xE2\x82\xAC");
    expect_lossy("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64",
                 "a" FFFD FFFD FFFD "b" FFFD "c" FFFD FFFD "d");
    expect_lossy("\xC0\xAF\xE0\x80\xBF", FFFD FFFD FFFD FFFD FFFD);
    expect_lossy("\xED\xA0\x80", FFFD FFFD FFFD);
    expect_lossy("x\xF0\x9F\x98", "x" FFFD);
    expect_lossy("\xF5\xE2", FFFD FFFD);
}

static void
expect_chain(struct decoder *d, const struct str *tokens, size_t num,
             const char *want)
{
    struct buf  out;
    buf_init(&out, 1u << 16);
    d->present = true;
    decoder_run_chain(d, tokens, num, &out);
    if (!str_eq(buf_str(&out), str_from(want))) {
        fail_msg("\"%.*s\" instead of \"%s\"", STR_ARG(buf_str(&out)), want);
    }
    buf_destroy(&out);
}

/* Found by fuzz_tokenizer: no byte of text was ever stored. */
static void
chains_take_tokens_that_are_all_empty(void **state)
{
    const struct str  tokens[] = { { "", 0 }, { "", 0 } };
    struct decoder    d = { .num_steps = 2 };

    (void) state;
    d.steps[0] = (struct decode_step) { .kind = DECODE_REPLACE,
                                        .pattern = STR("_"),
                                        .content = STR(" ") };
    d.steps[1] = (struct decode_step) { .kind = DECODE_REPLACE,
                                        .pattern = STR("a"),
                                        .content = STR("b") };
    expect_chain(&d, tokens, 2, "");
}

static void
chains_run_step_by_step(void **state)
{
    const struct str  tokens[] = { STR("_Hi"), STR("_<0x41>"), STR("<0xE2>"),
                                   STR("<0x82>"), STR("<0xAC>"), STR("!") };
    struct decoder    d = { .num_steps = 4 };

    (void) state;
    d.steps[0] = (struct decode_step) { .kind = DECODE_REPLACE,
                                        .pattern = STR("_"),
                                        .content = STR(" ") };
    d.steps[1] = (struct decode_step) { .kind = DECODE_BYTE_FALLBACK };
    d.steps[2] = (struct decode_step) { .kind = DECODE_FUSE };
    d.steps[3] = (struct decode_step) { .kind = DECODE_STRIP, .start = 1,
                                        .content = STR(" ") };
    decoder_finish(&d);
    assert_int_equal(d.shape, DECODER_SPM);
    assert_int_equal(d.strip_start, 1);
    expect_chain(&d, tokens, 6, "Hi <0x41>\xE2\x82\xAC!");
    d.steps[3].stop = 1;
    decoder_finish(&d);
    assert_int_equal(d.shape, DECODER_CHAIN);
}

static void
pieces_of_words_join(void **state)
{
    const struct str  tokens[] = { STR("it"), STR("##em"), STR("n't"),
                                   STR("x"), STR(".") };
    const struct str  ends[] = { STR("a</w>"), STR("b"), STR("c</w>") };
    struct decoder    d = { .num_steps = 1 };

    (void) state;
    d.steps[0] = (struct decode_step) { .kind = DECODE_WORDPIECE,
                                        .content = STR("##"),
                                        .cleanup = true };
    expect_chain(&d, tokens, 5, "itemn't x.");
    d.steps[0].cleanup = false;
    expect_chain(&d, tokens, 5, "item n't x .");
    d.steps[0] = (struct decode_step) { .kind = DECODE_SUFFIX,
                                        .content = STR("</w>") };
    expect_chain(&d, ends, 3, "a bc");
}

static void
byte_tokens_are_recognised_exactly(void **state)
{
    (void) state;
    assert_int_equal(decoder_byte_of(STR("<0x0A>")), 10);
    assert_int_equal(decoder_byte_of(STR("<0xff>")), 255);
    assert_int_equal(decoder_byte_of(STR("<0xG0>")), -1);
    assert_int_equal(decoder_byte_of(STR("<0x0A> ")), -1);
    assert_int_equal(decoder_byte_of(STR("")), -1);
}

static void
the_byte_map_is_one_to_one(void **state)
{
    (void) state;
    for (int b = 0; b < 256; b++) {
        assert_int_equal(byte_map_byte(byte_map_char((uint8_t) b)), b);
    }
    assert_int_equal(byte_map_char(' '), 0x120);
    assert_int_equal(byte_map_char('\n'), 0x10A);
    assert_int_equal(byte_map_byte(' '), -1);
    assert_int_equal(byte_map_byte(0x144), -1);
    assert_int_equal(byte_map_byte(0xFF5C), -1);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(lossy_utf8_replaces_maximal_parts),
        cmocka_unit_test(chains_take_tokens_that_are_all_empty),
        cmocka_unit_test(chains_run_step_by_step),
        cmocka_unit_test(pieces_of_words_join),
        cmocka_unit_test(byte_tokens_are_recognised_exactly),
        cmocka_unit_test(the_byte_map_is_one_to_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
