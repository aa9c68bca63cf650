/* test_tokenizer.c - the pipeline on small files: order of the stages, limits,
 * untrusted ranges. */
#include "tests/unit/text/tokenizer_fixture.h"

#define TOKEN(id, text, flags)                                                \
    "{\"id\":" #id ",\"content\":\"" text "\"," flags "}"
#define PLAIN    "\"special\":false,\"normalized\":false"
#define SPECIAL  "\"special\":true,\"normalized\":false"
#define SPACES   "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},"         \
                 "\"content\":\"\\u2581\"}"
#define PREPEND  "{\"type\":\"Prepend\",\"prepend\":\"\\u2581\"}"

static void
merges_go_by_rank_and_unknown_characters_to_bytes_or_unk(void **state)
{
    struct fixture  f;

    (void) state;
    fixture_open(&f, fixture_json("[]", "null", "null", "null", "null"));
    fixture_expect_text(&f, "", "");
    fixture_expect_text(&f, "abcab", "11 10");
    fixture_expect_text(&f, "\xE2\x82\xAC", "15 16 17");         /* bytes */
    fixture_expect_text(&f, "xyzab", "9 10");                    /* fused */
    fixture_expect(&f, &(struct encode_args) { .text = { "a\0b", 3 } },
                   "0 14 1");
    fixture_close(&f);
}

static void
added_tokens_get_the_next_free_id_whatever_the_file_says(void **state)
{
    struct fixture  f;

    (void) state;
    fixture_open(&f, fixture_json("[" TOKEN(90, "<x>", SPECIAL) ","
                                  TOKEN(40, "<y>", PLAIN) ","
                                  TOKEN(1, "abc", PLAIN) "]",
                                  "null", "null", "null", "null"));
    fixture_expect_text(&f, "a<x><y>abcc", "0 18 19 11 2");
    assert_int_equal(tokenizer_vocab_size(f.tok), 20);
    assert_true(tokenizer_is_special(f.tok, 18));
    assert_false(tokenizer_is_special(f.tok, 19));
    assert_true(tokenizer_is_added(f.tok, 19));
    assert_int_equal(tokenizer_token_id(f.tok, STR("<y>")), 19);
    assert_int_equal(tokenizer_token_id(f.tok, STR("nope")), -1);
    assert_null(tokenizer_token(f.tok, 20).data);
    assert_null(tokenizer_token(f.tok, -1).data);
    fixture_close(&f);
}

static void
pieces_between_added_tokens_are_normalised_apart(void **state)
{
    struct fixture  f;

    (void) state;
    fixture_open(&f, fixture_json("[" TOKEN(18, "<x>", SPECIAL) "]",
                                  "{\"type\":\"Sequence\",\"normalizers\":["
                                  PREPEND "," SPACES "]}",
                                  "null", "null", "null"));
    fixture_expect_text(&f, "a<x>a a<x>", "13 18 13 13 18");
    fixture_close(&f);
}

static void
metaspace_first_prepends_only_where_the_text_starts(void **state)
{
    struct fixture  f;

    (void) state;
    fixture_open(&f, fixture_json("[" TOKEN(18, "<x>", SPECIAL) "]", "null",
                                  "{\"type\":\"Metaspace\",\"replacement\":"
                                  "\"\\u2581\",\"prepend_scheme\":\"first\","
                                  "\"split\":false}", "null", "null"));
    fixture_expect_text(&f, "a a<x>a", "13 13 18 0");
    fixture_expect_text(&f, "<x>a", "18 0");
    fixture_expect_text(&f, " a", "13");
    fixture_close(&f);
}

static void
special_tokens_are_text_inside_untrusted_ranges(void **state)
{
    struct fixture    f;
    struct str        text = STR("a<x>a<x><y>");
    struct text_span  middle[] = { { 4, 5 } }, second[] = { { 5, 8 } };
    struct text_span  edge[] = { { 0, 2 } }, all[] = { { 0, 11 } };

    (void) state;
    fixture_open(&f, fixture_json("[" TOKEN(18, "<x>", SPECIAL) ","
                                  TOKEN(19, "<y>", PLAIN) "]",
                                  "null", "null", "null", "null"));
    fixture_expect(&f, &(struct encode_args) { .text = text },
                   "0 18 0 18 19");
    fixture_expect(&f, &(struct encode_args) { .text = text,
                   .untrusted = middle, .num_untrusted = 1 }, "0 18 0 18 19");
    fixture_expect(&f, &(struct encode_args) { .text = text,
                   .untrusted = second, .num_untrusted = 1 }, "0 18 0 9 19");
    /* One byte is enough, and non-special tokens stay tokens. */
    fixture_expect(&f, &(struct encode_args) { .text = text,
                   .untrusted = edge, .num_untrusted = 1 }, "0 9 0 18 19");
    fixture_expect(&f, &(struct encode_args) { .text = text,
                   .untrusted = all, .num_untrusted = 1 }, "0 9 0 9 19");
    fixture_close(&f);
}

/* A long word of nothing else: 11 is "abc", 10 is "ab". */
static void
expect_many_unforged(struct fixture *f)
{
    enum { NUM = 20000 };
    static char         many[3 * NUM];
    struct text_span    all = { 0, sizeof many };
    struct encode_args  args = { .text = { many, sizeof many },
                                 .untrusted = &all, .num_untrusted = 1 };
    struct err          err = { 0 };
    size_t              len = 0;

    for (size_t i = 0; i < NUM; i++) {
        memcpy(many + 3 * i, "abc", 3);
    }
    id_buf_reset(&f->ids);
    assert_int_equal(tokenizer_encode(f->tok, f->scratch, &args, &f->ids, &err),
                     OK);
    for (size_t i = 0; i < f->ids.len; i++) {
        assert_in_range(f->ids.ids[i], 0, 10);
        len += f->ids.ids[i] == 10 ? 2 : 1;
    }
    assert_int_equal(len, sizeof many);
}

/* Where the vocabulary holds a special token as an ordinary entry, merges or
 * ignore_merges can make it of plain text. */
static void
untrusted_words_never_become_a_special_token(void **state)
{
    struct fixture    f;
    struct str        text = STR("abc<x>babcc");
    struct text_span  all[] = { { 0, 11 } }, one[] = { { 0, 3 } };
    struct str        word = STR("<a>");

    (void) state;
    fixture_open(&f, fixture_json("[" TOKEN(11, "abc", SPECIAL) ","
                                  TOKEN(18, "<x>", PLAIN) "]",
                                  "null", "null", "null", "null"));
    fixture_expect(&f, &(struct encode_args) { .text = text },
                   "11 18 1 11 2");
    fixture_expect(&f, &(struct encode_args) { .text = text,
                   .untrusted = all, .num_untrusted = 1 },
                   "0 1 2 18 1 0 1 2 2");
    fixture_expect(&f, &(struct encode_args) { .text = text,
                   .untrusted = one, .num_untrusted = 1 },
                   "0 1 2 18 1 11 2");
    expect_many_unforged(&f);
    fixture_close(&f);

    fixture_open(&f, "{\"added_tokens\":[" TOKEN(4, "<a>", SPECIAL) "],"
                 "\"model\":{\"type\":\"BPE\",\"ignore_merges\":true,"
                 "\"vocab\":{\"a\":0,\"b\":1,\"<\":2,\">\":3,\"<a>\":4},"
                 "\"merges\":[]}}");
    fixture_expect(&f, &(struct encode_args) { .text = word }, "4");
    fixture_expect(&f, &(struct encode_args) { .text = word,
                   .untrusted = one, .num_untrusted = 1 }, "2 0 3");
    fixture_close(&f);
}

/* normalized=true tokens are found after the text has changed; the ranges
 * must have moved with it. */
static void
untrusted_ranges_follow_the_normaliser(void **state)
{
    struct fixture    f;
    struct str        text = STR("a a a<x>b b<x>");
    struct text_span  first[] = { { 4, 6 } }, last[] = { { 10, 14 } };
    const char       *flags = "[" TOKEN(18, "<x>", "\"special\":true,"
                                        "\"normalized\":true") "]";

    (void) state;
    fixture_open(&f, fixture_json(flags, SPACES, "null", "null", "null"));
    fixture_expect(&f, &(struct encode_args) { .text = text },
                   "0 13 13 18 1 12 1 18");
    fixture_expect(&f, &(struct encode_args) { .text = text,
                   .untrusted = first, .num_untrusted = 1 },
                   "0 13 13 9 1 12 1 18");
    fixture_expect(&f, &(struct encode_args) { .text = text,
                   .untrusted = last, .num_untrusted = 1 },
                   "0 13 13 18 1 12 1 9");
    fixture_close(&f);
}

static void
the_post_processor_runs_only_when_asked(void **state)
{
    struct fixture      f;
    struct encode_args  args = { .text = STR("a"),
                                 .add_special_tokens = true };

    (void) state;
    fixture_open(&f, fixture_json("[]", "null", "null",
        "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},"
        "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{"
        "\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\","
        "\"type_id\":0}},{\"SpecialToken\":{\"id\":\"</s>\",\"type_id\":0}}],"
        "\"special_tokens\":{\"<s>\":{\"ids\":[3,4]},\"</s>\":{\"ids\":[5]}}}]}",
        "null"));
    fixture_expect(&f, &args, "3 4 0 5");
    args.text = STR("");
    fixture_expect(&f, &args, "3 4 5");
    args.add_special_tokens = false;
    fixture_expect(&f, &args, "");
    fixture_close(&f);
}

static void
too_many_tokens_is_again_and_bad_text_is_an_error(void **state)
{
    struct fixture      f;
    struct err          err = { 0 };
    struct encode_args  args = { .text = STR("ababab"), .max_tokens = 3 };

    (void) state;
    fixture_open(&f, fixture_json("[" TOKEN(18, "<x>", SPECIAL) "]", "null",
                                  "null", "null", "null"));
    fixture_expect(&f, &args, "10 10 10");
    args.max_tokens = 2;
    id_buf_reset(&f.ids);
    assert_int_equal(tokenizer_encode(f.tok, f.scratch, &args, &f.ids, &err),
                     AGAIN);
    args.text = STR("<x><x><x><x>");
    id_buf_reset(&f.ids);
    assert_int_equal(tokenizer_encode(f.tok, f.scratch, &args, &f.ids, &err),
                     AGAIN);
    args = (struct encode_args) { .text = STR("a\xC3") };
    assert_int_equal(tokenizer_encode(f.tok, f.scratch, &args, &f.ids, &err),
                     ERROR);
    assert_int_equal(err.http_status, 400);
    fixture_close(&f);
}

static void
decode_skips_special_tokens_and_unknown_ids(void **state)
{
    struct fixture  f;
    const int32_t   ids[] = { 18, 12, 0, 99, -1, 15, 16, 17, 15, 0 };

    (void) state;
    fixture_open(&f, fixture_json("[" TOKEN(18, "<x>", SPECIAL) "]", "null",
        "null", "null", "{\"type\":\"Sequence\",\"decoders\":[{\"type\":"
        "\"Replace\",\"pattern\":{\"String\":\"\\u2581\"},\"content\":\" \"},"
        "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\","
        "\"content\":\" \",\"start\":1,\"stop\":0}]}"));
    tokenizer_decode(f.tok, ids, 8, true, &f.text);
    assert_true(str_eq(buf_str(&f.text), STR("a\xE2\x82\xAC")));
    buf_reset(&f.text);
    /* A run of bytes is text as a whole or U+FFFD for each of them. */
    tokenizer_decode(f.tok, ids, 10, false, &f.text);
    assert_true(str_eq(buf_str(&f.text),
                       STR("<x> a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
                           "\xEF\xBF\xBD" "a")));
    assert_true(str_eq(tokenizer_token_bytes(f.tok, 15), STR("\xE2")));
    assert_true(str_eq(tokenizer_token_bytes(f.tok, 13), STR(" a")));
    assert_true(str_eq(tokenizer_token(f.tok, 13), STR("\xE2\x96\x81" "a")));
    fixture_close(&f);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(
            merges_go_by_rank_and_unknown_characters_to_bytes_or_unk),
        cmocka_unit_test(
            added_tokens_get_the_next_free_id_whatever_the_file_says),
        cmocka_unit_test(pieces_between_added_tokens_are_normalised_apart),
        cmocka_unit_test(metaspace_first_prepends_only_where_the_text_starts),
        cmocka_unit_test(special_tokens_are_text_inside_untrusted_ranges),
        cmocka_unit_test(untrusted_words_never_become_a_special_token),
        cmocka_unit_test(untrusted_ranges_follow_the_normaliser),
        cmocka_unit_test(the_post_processor_runs_only_when_asked),
        cmocka_unit_test(too_many_tokens_is_again_and_bad_text_is_an_error),
        cmocka_unit_test(decode_skips_special_tokens_and_unknown_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
