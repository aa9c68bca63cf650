/* test_detok.c - chunks are whole characters and join to the decode. */
#include <time.h>
#include "engine/base/utf8.h"
#include "engine/text/detok.h"
#include "tests/unit/text/tokenizer_fixture.h"

#define SPM_DECODER                                                           \
    "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":"      \
    "{\"String\":\"\\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},"     \
    "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,"       \
    "\"stop\":0}]}"
#define FFFD  "\xEF\xBF\xBD"

/* A byte-level vocabulary of all 256 bytes, then "Ġa" and a special token. */
static void
open_bytes(struct fixture *f)
{
    static char  json[16384];
    size_t       n = 0;

    n += (size_t) snprintf(json, sizeof json, "{\"added_tokens\":[{\"content\":"
                           "\"<x>\",\"special\":true,\"normalized\":false}],"
                           "\"pre_tokenizer\":{\"type\":\"ByteLevel\"},"
                           "\"decoder\":{\"type\":\"ByteLevel\"},"
                           "\"model\":{\"merges\":[],\"vocab\":{");
    for (int b = 0, extra = 0; b < 256; b++) {
        bool  printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
        n += (size_t) snprintf(json + n, sizeof json - n, "\"\\u%04x\":%d,",
                               printable ? b : 0x100 + extra++, b);
    }
    (void) snprintf(json + n, sizeof json - n, "\"\\u0120a\":256}}}");
    fixture_open(f, json);
}

static void
push(struct fixture *f, struct detok *d, int32_t id, const char *want)
{
    buf_reset(&f->text);
    detok_push(d, id, &f->text);
    if (!str_eq(buf_str(&f->text), str_from(want))) {
        fail_msg("\"%.*s\" instead of \"%s\"", STR_ARG(buf_str(&f->text)),
                 want);
    }
}

static void
finish(struct fixture *f, struct detok *d, const char *want)
{
    buf_reset(&f->text);
    detok_finish(d, &f->text);
    assert_true(str_eq(buf_str(&f->text), str_from(want)));
}

static void
bytes_wait_until_the_character_is_whole(void **state)
{
    struct fixture  f;
    struct detok    d;

    (void) state;
    open_bytes(&f);
    detok_init(&d, f.tok, true);
    push(&f, &d, 'h', "h");
    push(&f, &d, 0xE2, "");
    push(&f, &d, 0x82, "");
    push(&f, &d, 0xAC, "\xE2\x82\xAC");
    push(&f, &d, 257, "");                      /* special, skipped */
    push(&f, &d, 9999, "");
    push(&f, &d, 256, " a");
    push(&f, &d, 0xE2, "");
    push(&f, &d, 'x', FFFD "x");                /* it never became whole */
    push(&f, &d, 0xF0, "");
    finish(&f, &d, FFFD);
    fixture_close(&f);
}

static void
held_text_is_bounded(void **state)
{
    struct fixture  f;
    struct detok    d;
    size_t          total = 0;

    (void) state;
    open_bytes(&f);
    detok_init(&d, f.tok, false);
    buf_reset(&f.text);
    for (int i = 0; i < 5000; i++) {
        detok_push(&d, 0xFF, &f.text);
        total += 3;
        assert_true(total - f.text.len <= 3 * (DETOK_HELD_BYTES_MAX + 4));
    }
    detok_finish(&d, &f.text);
    assert_int_equal(f.text.len, total);
    fixture_close(&f);
}

static void
the_leading_space_goes_only_at_the_very_start(void **state)
{
    struct fixture  f;
    struct detok    d;
    const int32_t   prompt[] = { 0 }, special[] = { 18 };

    (void) state;
    fixture_open(&f, fixture_json("[{\"content\":\"<x>\",\"special\":true,"
                                  "\"normalized\":false}]", "null", "null",
                                  "null", SPM_DECODER));
    detok_init(&d, f.tok, true);
    push(&f, &d, 13, "a");
    push(&f, &d, 13, " a");
    detok_init(&d, f.tok, true);
    detok_prompt(&d, prompt, 1);
    push(&f, &d, 13, " a");
    /* A prompt of skipped tokens is no text. */
    detok_init(&d, f.tok, true);
    detok_prompt(&d, special, 1);
    push(&f, &d, 13, "a");
    fixture_close(&f);
}

static void
a_character_begun_in_the_prompt_is_completed(void **state)
{
    struct fixture  f;
    struct detok    d;
    const int32_t   prompt[] = { 'a', 0xE2, 0x82 };

    (void) state;
    open_bytes(&f);
    detok_init(&d, f.tok, true);
    detok_prompt(&d, prompt, 3);
    push(&f, &d, 0xAC, "\xE2\x82\xAC");
    finish(&f, &d, "");
    fixture_close(&f);
}

static void
a_run_of_byte_tokens_is_text_or_u_fffd_each(void **state)
{
    struct fixture  f;
    struct detok    d;

    (void) state;
    fixture_open(&f, fixture_json("[]", "null", "null", "null", SPM_DECODER));
    detok_init(&d, f.tok, true);
    push(&f, &d, 15, "");
    push(&f, &d, 16, "");
    push(&f, &d, 17, "\xE2\x82\xAC");
    push(&f, &d, 15, "");
    push(&f, &d, 16, "");
    push(&f, &d, 0, FFFD FFFD "a");
    push(&f, &d, 17, "");
    finish(&f, &d, FFFD);
    fixture_close(&f);
}

/* Any decoder: what a stream gives joins to the decode of all ids, as far as
 * the reference's own stream does, and each chunk is UTF-8. */
static void
random_streams_join_to_the_decode(void **state)
{
    struct fixture  f;
    unsigned        seed = (unsigned) time(NULL);

    (void) state;
    print_message("seed %u\n", seed);
    srand(seed);
    open_bytes(&f);
    for (int k = 0; k < 2000; k++) {
        struct detok   d;
        struct buf     chunk, whole;
        int32_t        ids[40];
        size_t         num = (size_t) rand() % 40;
        static const int  bytes[] = { 'a', 0x20, 0xE2, 0x82, 0xAC, 0xF0, 0x9F,
                                      0x98, 0x80, 0xC3, 0xA9, 0xEF, 0xBF, 0xBD,
                                      0xED, 0xA0, 256, 257 };
        buf_init(&chunk, 1u << 20);
        buf_init(&whole, 1u << 20);
        detok_init(&d, f.tok, k % 2 == 0);
        for (size_t i = 0; i < num; i++) {
            ids[i] = bytes[rand() % 18];
            size_t  before = whole.len;
            detok_push(&d, ids[i], &whole);
            assert_true(utf8_is_valid(whole.data + before,
                                      whole.len - before));
        }
        detok_finish(&d, &whole);
        tokenizer_decode(f.tok, ids, num, k % 2 == 0, &chunk);
        assert_true(str_eq(buf_str(&whole), buf_str(&chunk)));
        buf_destroy(&chunk);
        buf_destroy(&whole);
    }
    fixture_close(&f);
}

/* Metaspace strips the first token, so it has to see the whole list. */
static void
other_decoders_stream_through_a_window(void **state)
{
    struct fixture  f;
    struct detok    d;

    (void) state;
    fixture_open(&f, fixture_json("[]", "null", "null", "null",
                                  "{\"type\":\"Metaspace\",\"replacement\":"
                                  "\"\\u2581\",\"prepend_scheme\":\"always\"}"));
    detok_init(&d, f.tok, true);
    push(&f, &d, 13, "a");
    push(&f, &d, 13, " a");
    push(&f, &d, 12, " ");
    push(&f, &d, 0, "a");
    finish(&f, &d, "");
    const int32_t  prompt[] = { 13 };
    detok_init(&d, f.tok, true);
    detok_prompt(&d, prompt, 1);
    push(&f, &d, 13, " a");
    fixture_close(&f);
}

/* The suffix is nothing in the last token and a space in others: what is out
 * already gets another length. */
static void
a_window_that_changes_still_gives_whole_characters(void **state)
{
    struct fixture  f;
    struct detok    d;

    (void) state;
    fixture_open(&f, "{\"decoder\":{\"type\":\"BPEDecoder\",\"suffix\":\"a\"},"
                 "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\\u20ac\":0,"
                 "\"b\":1},\"merges\":[]}}");
    detok_init(&d, f.tok, true);
    push(&f, &d, 0, "\xE2\x82\xAC");
    push(&f, &d, 1, "b");
    finish(&f, &d, "");
    fixture_close(&f);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(bytes_wait_until_the_character_is_whole),
        cmocka_unit_test(held_text_is_bounded),
        cmocka_unit_test(the_leading_space_goes_only_at_the_very_start),
        cmocka_unit_test(a_character_begun_in_the_prompt_is_completed),
        cmocka_unit_test(a_run_of_byte_tokens_is_text_or_u_fffd_each),
        cmocka_unit_test(random_streams_join_to_the_decode),
        cmocka_unit_test(other_decoders_stream_through_a_window),
        cmocka_unit_test(
            a_window_that_changes_still_gives_whole_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
