/* tokenizer_fixture.h - small tokenizers for the tests of engine/text.
 *
 * fixture_write() makes a model directory of one tokenizer.json under /tmp;
 * fixture_open() opens it and fails the test when that does not work. */
#ifndef LLM_TESTS_TOKENIZER_FIXTURE_H
#define LLM_TESTS_TOKENIZER_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "engine/text/tokenizer.h"

struct fixture {
    char                      dir[64];
    struct tokenizer         *tok;
    struct tokenizer_scratch *scratch;
    struct id_buf             ids;
    struct buf                text;
};

static void
fixture_write_file(struct fixture *f, const char *name, const char *content)
{
    char   path[160];
    (void) snprintf(path, sizeof path, "%s/%s", f->dir, name);
    FILE  *file = fopen(path, "wb");
    assert_non_null(file);
    assert_true(fputs(content, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void
fixture_write(struct fixture *f, const char *tokenizer_json)
{
    *f = (struct fixture) { .dir = "/tmp/llm-tokenizer-XXXXXX" };
    assert_non_null(mkdtemp(f->dir));
    fixture_write_file(f, "tokenizer.json", tokenizer_json);
    id_buf_init(&f->ids, 1u << 24);
    buf_init(&f->text, 1u << 26);
}

static void
fixture_close(struct fixture *f)
{
    char  path[160];
    tokenizer_scratch_destroy(f->scratch);
    tokenizer_destroy(f->tok);
    id_buf_destroy(&f->ids);
    buf_destroy(&f->text);
    (void) snprintf(path, sizeof path, "%s/tokenizer.json", f->dir);
    (void) unlink(path);
    (void) snprintf(path, sizeof path, "%s/tokenizer_config.json", f->dir);
    (void) unlink(path);
    (void) rmdir(f->dir);
}

static void
fixture_open(struct fixture *f, const char *tokenizer_json)
{
    struct err  err = { 0 };
    fixture_write(f, tokenizer_json);
    if (tokenizer_open(&f->tok, f->dir, &err) != OK) {
        fail_msg("%s", err.message);
    }
    f->scratch = tokenizer_scratch_create(f->tok);
    assert_non_null(f->scratch);
}

/* A file with the vocabulary a..h=0..7, " "=8, "<unk>"=9, "ab"=10, "abc"=11,
 * "▁"=12, "▁a"=13, <0x00>=14, <0xE2>=15, <0x82>=16, <0xAC>=17, and merges a+b,
 * ab+c, ▁+a; the other parts as given ("null" for none). */
static const char *
fixture_json(const char *added, const char *normalizer, const char *pretok,
             const char *post, const char *decoder)
{
    static char  text[8192];
    int  n = snprintf(text, sizeof text,
        "{\"added_tokens\":%s,\"normalizer\":%s,\"pre_tokenizer\":%s,"
        "\"post_processor\":%s,\"decoder\":%s,\"model\":{\"type\":\"BPE\","
        "\"unk_token\":\"<unk>\",\"byte_fallback\":true,\"fuse_unk\":true,"
        "\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"d\":3,\"e\":4,\"f\":5,\"g\":6,"
        "\"h\":7,\" \":8,\"<unk>\":9,\"ab\":10,\"abc\":11,\"\\u2581\":12,"
        "\"\\u2581a\":13,\"<0x00>\":14,\"<0xE2>\":15,\"<0x82>\":16,"
        "\"<0xAC>\":17},\"merges\":[\"a b\",[\"ab\",\"c\"],\"\\u2581 a\"]}}",
        added, normalizer, pretok, post, decoder);
    assert_true(n > 0 && (size_t) n < sizeof text);
    return text;
}

/* Encodes and compares with ids given as "1 2 3". */
static void
fixture_expect(struct fixture *f, const struct encode_args *args,
               const char *want)
{
    struct err  err = { 0 };
    char        got[4096] = "";
    size_t      n = 0;

    id_buf_reset(&f->ids);
    if (tokenizer_encode(f->tok, f->scratch, args, &f->ids, &err) != OK) {
        fail_msg("%s", err.message);
    }
    for (size_t i = 0; i < f->ids.len; i++) {
        n += (size_t) snprintf(got + n, sizeof got - n, "%s%d",
                               i == 0 ? "" : " ", f->ids.ids[i]);
        assert_true(n < sizeof got);
    }
    assert_string_equal(got, want);
}

static __attribute__((unused)) void
fixture_expect_text(struct fixture *f, const char *text, const char *want)
{
    fixture_expect(f, &(struct encode_args) { .text = str_from(text) }, want);
}

#endif
