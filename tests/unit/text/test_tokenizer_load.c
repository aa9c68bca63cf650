/* test_tokenizer_load.c - what is refused, and that the message says why. */
#include "tests/unit/text/tokenizer_fixture.h"

static void
expect_refused(const char *json, const char *needle)
{
    struct fixture  f;
    struct err      err = { 0 };

    fixture_write(&f, json);
    assert_int_equal(tokenizer_open(&f.tok, f.dir, &err), ERROR);
    assert_null(f.tok);
    if (strstr(err.message, needle) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", err.message, needle);
    }
    fixture_close(&f);
}

#define MODEL(rest)  "{\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}," rest "}}"

static void
corrupt_models_are_refused_by_what_is_wrong(void **state)
{
    (void) state;
    expect_refused("{", "invalid JSON");
    expect_refused("[]", "not a JSON object");
    expect_refused("{\"model\":3}", "\"model\" is missing");
    expect_refused("{\"version\":\"1.0\"}", "\"model\" is missing");
    expect_refused("{\"model\":{\"type\":\"BPE\",\"merges\":[]}}",
                   "model.vocab is not an object");
    expect_refused("{\"model\":{\"vocab\":{},\"merges\":[]}}",
                   "model.vocab is empty");
    expect_refused(MODEL("\"type\":\"Unigram\",\"merges\":[]"),
                   "model type \"Unigram\" is not supported");
    expect_refused(MODEL("\"type\":\"BPE\""), "model.merges is missing");
    expect_refused(MODEL("\"merges\":[\"a b\",\"a x\"]"),
                   "model.merges[1]: the right side of \"a\" + \"x\" is not in "
                   "model.vocab");
    expect_refused(MODEL("\"merges\":[[\"b\",\"a\"]]"), "the result of");
    expect_refused(MODEL("\"merges\":[\"ab\"]"), "model.merges[0] is neither");
    expect_refused(MODEL("\"merges\":[[\"a\"]]"), "two sides");
    expect_refused(MODEL("\"merges\":[3]"), "a string is expected");
    expect_refused(MODEL("\"merges\":[\"a b\""), "invalid JSON");
    expect_refused(MODEL("\"merges\":[],\"dropout\":0.1"), "dropout");
    expect_refused(MODEL("\"merges\":[],\"unk_token\":\"<unk>\""),
                   "model.unk_token \"<unk>\" is not in model.vocab");
    expect_refused("{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}",
                   "a token id is expected");
    expect_refused("{\"model\":{\"vocab\":{\"a\":1.5},\"merges\":[]}}",
                   "',' or the closing bracket");
    expect_refused("{\"model\":{\"vocab\":{\"a\":99999999},\"merges\":[]}}",
                   "the largest supported");
    expect_refused("{\"model\":{\"vocab\":{\"\\ud800\":1},\"merges\":[]}}",
                   "a lone surrogate");
}

static void
parts_that_cannot_be_done_alike_are_refused_by_name(void **state)
{
    (void) state;
    expect_refused(fixture_json("[]", "{\"type\":\"Precompiled\"}", "null",
                                "null", "null"),
                   "normalizer type \"Precompiled\" is not supported");
    expect_refused(fixture_json("[]", "null", "{\"type\":\"UnicodeScripts\"}",
                                "null", "null"),
                   "pre_tokenizer type \"UnicodeScripts\"");
    expect_refused(fixture_json("[]", "null", "null", "{\"type\":\"X\"}",
                                "null"), "post_processor type \"X\"");
    expect_refused(fixture_json("[]", "null", "null", "null",
                                "{\"type\":\"CTC\"}"), "decoder type \"CTC\"");
    expect_refused(fixture_json("[{\"id\":1}]", "null", "null", "null",
                                "null"), "no \"content\"");
    expect_refused(fixture_json("[]", "null",
                                "{\"type\":\"Split\",\"pattern\":{\"Regex\":"
                                "\"(a\"},\"behavior\":\"Isolated\"}", "null",
                                "null"), "a ( without )");
    expect_refused(fixture_json("[]", "null",
                                "{\"type\":\"Split\",\"pattern\":{\"Regex\":"
                                "\"a\"},\"behavior\":\"Sideways\"}", "null",
                                "null"), "behavior");
    expect_refused(fixture_json("[]", "null", "null",
                                "{\"type\":\"TemplateProcessing\",\"single\":"
                                "[{\"SpecialToken\":{\"id\":\"<s>\"}}],"
                                "\"special_tokens\":{}}", "null"),
                   "special token \"<s>\" is not defined");
}

static void
a_directory_without_tokenizer_json_is_named(void **state)
{
    struct tokenizer  *tok;
    struct err         err = { 0 };

    (void) state;
    assert_int_equal(tokenizer_open(&tok, "/nonexistent", &err), ERROR);
    assert_non_null(strstr(err.message, "/nonexistent"));
}

static void
names_for_templates_are_strings_or_objects(void **state)
{
    struct fixture  f;
    struct err      err = { 0 };

    (void) state;
    fixture_write(&f, fixture_json("[]", "null", "null", "null", "null"));
    fixture_write_file(&f, "tokenizer_config.json",
                       "{\"bos_token\":{\"content\":\"abc\"},\"eos_token\":"
                       "\"nowhere\",\"pad_token\":null}");
    assert_int_equal(tokenizer_open(&f.tok, f.dir, &err), OK);
    assert_int_equal(tokenizer_special_id(f.tok, TOKENIZER_BOS), 11);
    assert_true(str_eq(tokenizer_special_text(f.tok, TOKENIZER_EOS),
                       STR("nowhere")));
    assert_int_equal(tokenizer_special_id(f.tok, TOKENIZER_EOS), -1);
    assert_null(tokenizer_special_text(f.tok, TOKENIZER_PAD).data);
    fixture_close(&f);
}

/* U+0000 in a vocabulary is a token like any other. */
static void
a_token_may_hold_nul_and_escapes(void **state)
{
    struct fixture  f;

    (void) state;
    fixture_open(&f, "{\"added_tokens\":[{\"content\":\"x\\u0000y\","
                 "\"special\":true,\"normalized\":false}],"
                 "\"model\":{\"vocab\":{\"\\u0000\":0,\"\\ud83d\\ude00\":1,"
                 "\"\\n\":2,\"\\\"\":3,\"a\\u0000\":4,\"a\":5},"
                 "\"merges\":[[\"a\",\"\\u0000\"]]}}");
    fixture_expect(&f, &(struct encode_args) {
                       .text = { "\xF0\x9F\x98\x80\0\n\"a\0ax\0y", 13 } },
                   "1 0 2 3 4 5 6");
    fixture_close(&f);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(corrupt_models_are_refused_by_what_is_wrong),
        cmocka_unit_test(parts_that_cannot_be_done_alike_are_refused_by_name),
        cmocka_unit_test(a_directory_without_tokenizer_json_is_named),
        cmocka_unit_test(names_for_templates_are_strings_or_objects),
        cmocka_unit_test(a_token_may_hold_nul_and_escapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
