/* test_tokenizer_data.c - real tokenizers against recorded reference results.
 *
 * Eleven published tokenizer.json files x 101 texts (ids, ids with special
 * tokens, three decodes), the reference's token-by-token streams, and 47 texts
 * x 5 vocabularies of llama.cpp.  Skipped where the data is not at hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "engine/base/json.h"
#include "engine/text/detok.h"
#include "engine/text/tokenizer.h"

#define DATA       "build/shared-data/tokenizers/"
#define SHOWN_MAX  5

struct data {
    bool         there;
    struct arena arena;
    struct json *oracle;
    struct json *stream;
};

/* One tokenizer at work. */
struct under_test {
    const char               *name;
    struct tokenizer         *tok;
    struct tokenizer_scratch *scratch;
    struct id_buf             ids;
    struct buf                text;
    int                       num_bad;
};

static struct str
read_file(struct arena *arena, const char *path)
{
    FILE  *file = fopen(path, "rb");
    assert_non_null(file);
    (void) fseek(file, 0, SEEK_END);
    size_t  len = (size_t) ftell(file);
    char   *data = arena_alloc(arena, len + 1);
    rewind(file);
    assert_int_equal(fread(data, 1, len, file), len);
    (void) fclose(file);
    return (struct str) { data, len };
}

static struct json *
read_json(struct arena *arena, const char *path)
{
    struct json  *v;
    struct err    err = { 0 };
    if (json_parse(&v, read_file(arena, path), arena, &json_limits_file, &err)
        != OK)
    {
        fail_msg("%s: %s", path, err.message);
    }
    return v;
}

static int
set_up(void **state)
{
    static struct data  d;

    arena_init(&d.arena, 256u << 20);
    d.there = system("tools/shared_data.sh tokenizers") == 0;
    if (d.there) {
        d.oracle = read_json(&d.arena, DATA "pairs/oracle.json");
        d.stream = read_json(&d.arena, DATA "pairs/stream.json");
    }
    *state = &d;
    return 0;
}

static int
tear_down(void **state)
{
    struct data  *d = *state;
    arena_destroy(&d->arena);
    return 0;
}

static void
need_data(const struct data *d)
{
    if (!d->there) {
        print_message("skipped: no ../shared/data/tokenizers.tar.xz\n");
        skip();
    }
}

static void
under_test_open(struct under_test *u, const char *name)
{
    char        dir[256];
    struct err  err = { 0 };

    *u = (struct under_test) { .name = name };
    (void) snprintf(dir, sizeof dir, DATA "%s", name);
    if (tokenizer_open(&u->tok, dir, &err) != OK) {
        fail_msg("%s", err.message);
    }
    u->scratch = tokenizer_scratch_create(u->tok);
    assert_non_null(u->scratch);
    id_buf_init(&u->ids, TOKENIZER_IDS_MAX);
    buf_init(&u->text, 1u << 24);
}

static void
under_test_close(struct under_test *u)
{
    id_buf_destroy(&u->ids);
    buf_destroy(&u->text);
    tokenizer_scratch_destroy(u->scratch);
    tokenizer_destroy(u->tok);
    assert_int_equal(u->num_bad, 0);
}

static void
report(struct under_test *u, const char *what, struct str text)
{
    if (u->num_bad++ < SHOWN_MAX) {
        print_error("%s: %s of \"%.*s\" differs\n", u->name, what,
                    STR_ARG(text));
    }
}

static void
check_encode(struct under_test *u, struct str text, bool special,
             const struct json *want)
{
    struct encode_args  args = { .text = text, .add_special_tokens = special };
    struct err          err = { 0 };
    size_t              i = 0;

    id_buf_reset(&u->ids);
    assert_int_equal(tokenizer_encode(u->tok, u->scratch, &args, &u->ids,
                                      &err), OK);
    bool  same = u->ids.len == want->num_children;
    for (const struct json *v = want->child; same && v != NULL; v = v->next) {
        same = u->ids.ids[i++] == v->i;
    }
    if (!same) {
        report(u, special ? "encode with special tokens" : "encode", text);
    }
}

static void
check_decode(struct under_test *u, const struct json *ids, bool skip,
             struct str want)
{
    id_buf_reset(&u->ids);
    for (const struct json *v = ids->child; v != NULL; v = v->next) {
        id_buf_push(&u->ids, (int32_t) v->i);
    }
    buf_reset(&u->text);
    tokenizer_decode(u->tok, u->ids.ids, u->ids.len, skip, &u->text);
    assert_false(u->text.failed);
    if (!str_eq(buf_str(&u->text), want)) {
        report(u, skip ? "decode without special tokens" : "decode", want);
    }
}

static const struct json *
item(const struct json *list, int64_t i)
{
    const struct json  *v = list->child;
    while (i-- > 0 && v != NULL) {
        v = v->next;
    }
    assert_non_null(v);
    return v;
}

static void
every_text_encodes_and_decodes_as_the_reference(void **state)
{
    struct data  *d = *state;

    need_data(d);
    const struct json  *texts = json_find(d->oracle, "texts");
    const struct json  *t = json_find(d->oracle, "tokenizers")->child;
    for (; t != NULL; t = t->next) {
        struct under_test  u;
        char               name[64];
        (void) snprintf(name, sizeof name, "%.*s", STR_ARG(t->key));
        under_test_open(&u, name);
        const struct json  *r = json_find(t, "rows")->child;
        for (; r != NULL; r = r->next) {
            const struct json  *ids = json_find(r, "ids");
            const struct json  *with = json_find(r, "with_special");
            struct str          text = item(texts, json_find(r, "t")->i)->string;
            check_encode(&u, text, false, ids);
            if (with == NULL) {          /* left out where there are none */
                with = ids;
            }
            check_encode(&u, text, true, with);
            check_decode(&u, ids, false, json_find(r, "decode")->string);
            check_decode(&u, ids, true, json_find(r, "decode_skip")->string);
            const struct json  *plain = json_find(r, "decode_special_skip");
            if (plain != NULL) {
                check_decode(&u, with, true, plain->string);
            }
        }
        under_test_close(&u);
    }
}

/* All ids of row t of a tokenizer in the oracle. */
static const struct json *
oracle_ids(const struct data *d, struct str name, int64_t t)
{
    const struct json  *tok = json_find_str(json_find(d->oracle, "tokenizers"),
                                            name);
    const struct json  *r = json_find(tok, "rows")->child;
    while (json_find(r, "t")->i != t) {
        r = r->next;
        assert_non_null(r);
    }
    return json_find(r, "ids");
}

static void
every_stream_has_the_reference_chunks(void **state)
{
    struct data  *d = *state;

    need_data(d);
    for (const struct json *t = d->stream->child; t != NULL; t = t->next) {
        struct under_test  u;
        char               name[64];
        (void) snprintf(name, sizeof name, "%.*s", STR_ARG(t->key));
        under_test_open(&u, name);
        for (const struct json *r = t->child; r != NULL; r = r->next) {
            const struct json  *id = oracle_ids(d, t->key,
                                                json_find(r, "t")->i)->child;
            const struct json  *c = json_find(r, "chunks")->child;
            struct detok        detok;
            detok_init(&detok, u.tok, json_find(r, "skip")->b);
            for (; id != NULL && c != NULL; id = id->next, c = c->next) {
                buf_reset(&u.text);
                detok_push(&detok, (int32_t) id->i, &u.text);
                struct str  want = c->type == JSON_STRING ? c->string : STR("");
                if (!str_eq(buf_str(&u.text), want)) {
                    report(&u, "chunk", want);
                }
            }
            assert_true(id == NULL && c == NULL);
        }
        under_test_close(&u);
    }
}

/* The next text of an .inp file; false after the last. */
static bool
next_text(struct str *rest, struct str *text)
{
    static const struct str  mark = { "\n__ggml_vocab_test__\n", 21 };

    if (rest->data == NULL) {
        return false;
    }
    const char  *hit = memmem(rest->data, rest->len, mark.data, mark.len);
    if (hit == NULL) {
        return false;
    }
    *text = (struct str) { rest->data, (size_t) (hit - rest->data) };
    rest->len -= text->len + mark.len;
    rest->data = hit + mark.len;
    return true;
}

static void
check_ggml(struct data *d, const char *tokenizer, const char *pair)
{
    struct under_test  u;
    char               path[256];
    struct str         rest, out, text;
    int                num = 0;

    under_test_open(&u, tokenizer);
    (void) snprintf(path, sizeof path, DATA "pairs/ggml-vocab-%s.gguf.inp", pair);
    rest = read_file(&d->arena, path);
    (void) snprintf(path, sizeof path, DATA "pairs/ggml-vocab-%s.gguf.out", pair);
    out = read_file(&d->arena, path);
    char  *line = arena_strdup(&d->arena, out);
    for (; next_text(&rest, &text); num++) {
        struct encode_args  args = { .text = text };
        struct err          err = { 0 };
        char               *end = strchr(line, '\n');
        assert_non_null(end);
        *end = '\0';
        id_buf_reset(&u.ids);
        assert_int_equal(tokenizer_encode(u.tok, u.scratch, &args, &u.ids,
                                          &err), OK);
        bool  same = true;
        for (size_t i = 0; i < u.ids.len; i++) {
            char  *after;
            same = same && strtol(line, &after, 10) == u.ids.ids[i]
                   && after != line;
            line = after;
        }
        if (!same || line[strspn(line, " ")] != '\0') {
            report(&u, "encode", text);
        }
        line = end + 1;
    }
    assert_true(num >= 40);
    under_test_close(&u);
}

static void
llama_cpp_vocabulary_cases_agree(void **state)
{
    struct data  *d = *state;

    need_data(d);
    check_ggml(d, "gpt2", "gpt-2");
    check_ggml(d, "llama3", "llama-bpe");
    check_ggml(d, "phi-3", "phi-3");
    check_ggml(d, "qwen2.5", "qwen2");
    check_ggml(d, "deepseek-coder", "deepseek-coder");
}

static void
template_names_come_from_the_config(void **state)
{
    struct under_test  u;

    need_data(*state);
    under_test_open(&u, "phi-3");
    assert_true(str_eq(tokenizer_special_text(u.tok, TOKENIZER_BOS),
                       STR("<s>")));
    assert_int_equal(tokenizer_special_id(u.tok, TOKENIZER_BOS), 1);
    assert_int_equal(tokenizer_special_id(u.tok, TOKENIZER_EOS), 32000);
    under_test_close(&u);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(every_text_encodes_and_decodes_as_the_reference),
        cmocka_unit_test(every_stream_has_the_reference_chunks),
        cmocka_unit_test(llama_cpp_vocabulary_cases_agree),
        cmocka_unit_test(template_names_come_from_the_config),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
