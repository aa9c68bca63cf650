/* test_llm_scan.c - "model" and the prompt's hash are found in any body, cut
 * into any pieces, and nothing is found in what is not one JSON object. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "wire/llm_scan.h"

#define PREFIX  128u

/* piece 0: all at once. */
static int
scan(struct llm_scan *s, const char *body, size_t len, size_t piece)
{
    llm_scan_init(s, PREFIX);
    for (size_t at = 0, n; at < len; at += n) {
        n = piece == 0 || piece > len - at ? len - at : piece;
        /* An exact copy, so that a read past the end is seen. */
        char  *copy = malloc(n);
        memcpy(copy, body + at, n);
        (void) llm_scan_feed(s, copy, n);
        free(copy);
    }
    return llm_scan_end(s);
}

struct row { const char *body, *model; };

static const struct row  found[] = {
    { "{\"model\":\"a\"}", "a" },
    { " \t\r\n{ \"model\" : \"a\" } \n", "a" },
    { "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"model\":\"b/c\"}", "b/c" },
    { "{\"x\":{\"model\":\"no\"},\"y\":[{\"model\":\"no\"}],\"model\":\"yes\"}", "yes" },
    { "{\"x\":\"\\\"model\\\":\\\"no\\\"\",\"model\":\"yes\"}", "yes" },
    { "{\"mod\\u0065l\":\"a\"}", "a" },
    { "{\"model\":\"a\\u0062\\/\\\"\\\\\"}", "ab/\"\\" },
    { "{\"model\":\"\\u00e9\\ud83d\\ude00\xc3\xa9\"}", "\xc3\xa9\xf0\x9f\x98\x80\xc3\xa9" },
    { "{\"a\":-1.5e+3,\"b\":true,\"c\":null,\"d\":[],\"e\":{},\"model\":\"m\"}", "m" },
    { "{\"a\":[1,[2,[3]],{\"b\":{}}],\"model\":\"m\"}", "m" },
    { "{\"a\":1 ,\"b\":[1 , 2 ],\"model\":\"m\"}", "m" },
    { "{\"models\":\"x\",\"Model\":\"x\",\"model \":\"x\",\"model\":\"m\"}", "m" },
};

static void
test_the_top_level_model_is_found(void **state)
{
    struct llm_scan  s;

    (void) state;
    for (size_t i = 0; i < sizeof found / sizeof found[0]; i++) {
        for (size_t piece = 0; piece < 10; piece++) {
            print_message("%s in pieces of %zu\n", found[i].body, piece);
            assert_int_equal(scan(&s, found[i].body, strlen(found[i].body),
                                  piece), LLM_OK);
            assert_true(s.has_model);
            assert_int_equal(s.model_len, strlen(found[i].model));
            assert_memory_equal(s.model, found[i].model, s.model_len);
        }
    }
}

/* Well-formed, and no model to be found. */
static const char *const  without[] = {
    "{}", "{\"a\":1}", "{\"model\":1}", "{\"model\":null}", "{\"model\":[\"a\"]}",
    "{\"model\":{\"model\":\"a\"}}", "{\"model\":\"\"}", "{\"model\":\"a\\u0000b\"}",
    "{\"model\":\"a\\nb\"}", "{\"model\":\"\\ud83d\"}", "{\"model\":\"\\ud83dx\"}",
    "{\"model\":\"\\ude00\"}", "{\"model\":\"\\ud83d\\ud83d\"}",
    "{\"model\":\"\xff\"}", "{\"model\":\"\xc0\xaf\"}", "{\"model\":\"\xed\xa0\x80\"}",
    "{\"model\":\"\xf4\x90\x80\x80\"}", "{\"model\":\"\xc3\"}",
};

static const char *const  malformed[] = {
    "", " ", "[]", "\"model\"", "null", "{", "}", "{]", "{\"model\":\"a\"",
    "{\"model\":\"a\"}}", "{\"model\":\"a\"}{}", "{\"model\":\"a\"} x",
    "{\"model\":\"a\",}", "{,}", "{\"a\":[1,]}", "{\"a\":[,1]}", "{\"a\" 1}",
    "{\"a\":}", "{\"a\"}", "{a:1}", "{'model':'a'}", "{\"a\":[1}}", "{\"a\":{]}",
    "{\"a\":\"\\x\"}", "{\"a\":\"\\u12g4\"}", "{\"a\":\"\n\"}", "{\"a\":+1}",
    "{\"a\":1 2}", "{\"a\":\"b\" \"c\"}", "{\"model\":\"a\",\"model\":\"a\"}",
    "{\"model\":\"a\",\"mod\\u0065l\":\"b\"}", "\xef\xbb\xbf{\"model\":\"a\"}",
    "--boundary\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nx",
};

static void
test_nothing_is_found_where_nothing_is(void **state)
{
    struct llm_scan  s;

    (void) state;
    for (size_t piece = 0; piece < 4; piece++) {
        for (size_t i = 0; i < sizeof without / sizeof without[0]; i++) {
            print_message("%s\n", without[i]);
            assert_int_equal(scan(&s, without[i], strlen(without[i]), piece),
                             LLM_OK);
            assert_false(s.has_model);
        }
        for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++) {
            print_message("%s\n", malformed[i]);
            assert_int_equal(scan(&s, malformed[i], strlen(malformed[i]),
                                  piece), LLM_ERROR);
            assert_false(s.has_model);
            assert_false(s.has_prefix);
        }
    }
}

static void
test_a_model_of_256_bytes_and_not_more(void **state)
{
    char             body[LLM_MODEL_BYTES_MAX + 64];
    struct llm_scan  s;
    int              n;
    const int        max = (int) LLM_MODEL_BYTES_MAX;

    (void) state;
    for (int len = max - 1; len <= max + 1; len++) {
        n = snprintf(body, sizeof body, "{\"model\":\"%0*d\"}", len, 7);
        for (size_t piece = 0; piece < 3; piece++) {
            assert_int_equal(scan(&s, body, (size_t) n, piece), LLM_OK);
            assert_int_equal(s.has_model, len <= max);
        }
    }
}

static void
test_64_levels_and_not_more(void **state)
{
    char             body[512];
    struct llm_scan  s;
    size_t           n;

    (void) state;
    for (size_t depth = LLM_SCAN_DEPTH_MAX - 1; depth <= LLM_SCAN_DEPTH_MAX + 1;
         depth++)
    {
        n = (size_t) snprintf(body, sizeof body, "{\"model\":\"m\",\"a\":");
        memset(body + n, '[', depth - 1);
        memset(body + n + depth - 1, ']', depth - 1);
        n += 2 * (depth - 1);
        body[n++] = '}';
        assert_int_equal(scan(&s, body, n, 0),
                         depth <= LLM_SCAN_DEPTH_MAX ? LLM_OK : LLM_ERROR);
    }
}

/* ---- the prompt's hash ---------------------------------------------------------- */
static uint64_t
hash_of(const char *body)
{
    struct llm_scan  s;
    uint64_t         hash = 0;

    for (size_t piece = 0; piece < 5; piece++) {
        assert_int_equal(scan(&s, body, strlen(body), piece), LLM_OK);
        assert_true(s.has_prefix);
        assert_true(s.hash != 0 && (hash == 0 || hash == s.hash));
        hash = s.hash;
    }
    return hash;
}

#define CHAT(rest)  "{\"model\":\"m\",\"messages\":[" rest "]}"
#define SYSTEM      "{\"role\":\"system\",\"content\":\"be good\"}"
#define USER(text)  "{\"role\":\"user\",\"content\":\"" text "\"}"
#define BOT(text)   "{\"role\":\"assistant\",\"content\":\"" text "\"}"

static void
test_all_turns_of_a_conversation_have_one_hash(void **state)
{
    (void) state;
    assert_true(hash_of(CHAT(USER("hi")))
                == hash_of(CHAT(USER("hi") "," BOT("hello") "," USER("more"))));
    assert_true(hash_of(CHAT(USER("hi"))) != hash_of(CHAT(USER("ho"))));
    assert_true(hash_of(CHAT(SYSTEM "," USER("hi"))) != hash_of(CHAT(USER("hi"))));
    assert_true(hash_of(CHAT(SYSTEM "," USER("hi")))
                != hash_of(CHAT(SYSTEM "," USER("ho"))));
}

#define TEN   "0123456789"
#define LONG  TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN

static void
test_only_the_beginning_counts(void **state)
{
    (void) state;
    assert_true(hash_of("{\"prompt\":\"" LONG " one\"}")
                == hash_of("{\"prompt\":\"" LONG " two\"}"));
    assert_true(hash_of("{\"prompt\":\"0123456789 one\"}")
                != hash_of("{\"prompt\":\"0123456789 two\"}"));
}

static void
test_white_space_and_other_fields_do_not_count(void **state)
{
    uint64_t  hash = hash_of(CHAT(USER("a b")));

    (void) state;
    assert_true(hash == hash_of("{ \"messages\" : [ { \"role\" : \"user\" ,\n"
                                "\"content\" : \"a b\" } ] ,\"model\":\"m\"}"));
    assert_true(hash == hash_of("{\"stream\":true,\"model\":\"m\",\"messages\":["
                                USER("a b") "],\"temperature\":0.5}"));
    assert_true(hash != hash_of(CHAT(USER("ab"))));
    assert_true(hash != hash_of("{\"model\":\"n\",\"messages\":[" USER("a b") "]}"));
}

static void
test_prompts_of_every_kind_are_hashed(void **state)
{
    struct llm_scan  s;

    (void) state;
    assert_true(hash_of("{\"prompt\":\"x\"}") != hash_of("{\"prompt\":\"y\"}"));
    assert_true(hash_of("{\"prompt\":[1,2]}") != hash_of("{\"prompt\":[1,3]}"));
    assert_true(hash_of("{\"input\":[\"x\"]}") != hash_of("{\"input\":[\"y\"]}"));
    assert_int_equal(scan(&s, "{\"model\":\"m\"}", 13, 0), LLM_OK);
    assert_false(s.has_prefix);
    llm_scan_init(&s, 0);
    assert_int_equal(llm_scan_feed(&s, "{\"prompt\":\"x\"}", 14), LLM_OK);
    assert_int_equal(llm_scan_end(&s), LLM_OK);
    assert_false(s.has_prefix);
}

/* Cut at random places, the result is the same as in one piece. */
static void
test_pieces_do_not_matter(void **state)
{
    static const char  body[] =
        "{\"a\":[1,-2.5,\"\\u00e9\\n\"],\"messages\":[" SYSTEM "," USER("\\ud83d\\ude00")
        "," BOT("x") "],\"stream\":true,\"model\":\"caf\\u00e9 \xf0\x9f\x98\x80\"}";
    unsigned         seed = (unsigned) time(NULL);
    struct llm_scan  whole, s;

    (void) state;
    print_message("seed %u\n", seed);
    srand(seed);
    assert_int_equal(scan(&whole, body, sizeof body - 1, 0), LLM_OK);
    assert_int_equal(whole.model_len, 10);
    for (int round = 0; round < 2000; round++) {
        llm_scan_init(&s, PREFIX);
        for (size_t at = 0, n; at < sizeof body - 1; at += n) {
            n = 1 + (size_t) rand() % 24;
            n = n > sizeof body - 1 - at ? sizeof body - 1 - at : n;
            assert_int_equal(llm_scan_feed(&s, body + at, n), LLM_OK);
        }
        assert_int_equal(llm_scan_end(&s), LLM_OK);
        assert_true(s.hash == whole.hash && s.model_len == whole.model_len);
        assert_memory_equal(s.model, whole.model, s.model_len);
    }
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_the_top_level_model_is_found),
        cmocka_unit_test(test_nothing_is_found_where_nothing_is),
        cmocka_unit_test(test_a_model_of_256_bytes_and_not_more),
        cmocka_unit_test(test_64_levels_and_not_more),
        cmocka_unit_test(test_all_turns_of_a_conversation_have_one_hash),
        cmocka_unit_test(test_only_the_beginning_counts),
        cmocka_unit_test(test_white_space_and_other_fields_do_not_count),
        cmocka_unit_test(test_prompts_of_every_kind_are_hashed),
        cmocka_unit_test(test_pieces_do_not_matter),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
