/* test_special_text.c - --special-tokens-in-content: what a user's <|im_end|>
 * becomes.  Tokenizer and template are the demo model's. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "engine/api/api.h"
#include "engine/text/chat.h"
#include "engine/text/tokenizer.h"

static struct tokenizer      *tok;
static struct chat_template  *chat;

/* /tokenize needs no engine; these are never reached. */
uint64_t
engine_next_id(struct engine *e)
{
    (void) e;
    fail();
    return 0;
}

int
engine_submit(struct engine *e, const struct gen_request *r, int num,
              struct err *err)
{
    (void) e;
    (void) r;
    (void) num;
    (void) err;
    fail();
    return ERROR;
}

void
engine_cancel(struct engine *e, uint64_t id, enum finish_reason reason)
{
    (void) e;
    (void) id;
    (void) reason;
    fail();
}

void
engine_park(struct engine *e, uint64_t id, bool parked)
{
    (void) e;
    (void) id;
    (void) parked;
    fail();
}

void
engine_stats(struct engine *e, struct engine_stats *out)
{
    (void) e;
    (void) out;
    fail();
}

struct metrics *
engine_metrics(struct engine *e)
{
    (void) e;
    return NULL;
}

static int
setup(void **state)
{
    struct err  err = { 0 };
    (void) state;
    if (tokenizer_open(&tok, "models/demo", &err) != OK
        || chat_open_dir(&chat, "models/demo", &err) != OK)
    {
        (void) fprintf(stderr, "%s (run from the repository root)\n",
                       err.message);
        return -1;
    }
    return 0;
}

static int
teardown(void **state)
{
    (void) state;
    chat_destroy(chat);
    tokenizer_destroy(tok);
    return 0;
}

/* Status of /tokenize for a user message; *num gets how often the turn's end
 * token stands in the prompt. */
static int
tokenize(enum api_special_text mode, const char *content, int *num)
{
    struct err          err = { 0 };
    struct api         *api;
    struct api_worker  *w;
    struct api_stream  *s;
    struct api_reply    reply = { 0 };
    char                body[512], needle[32];
    struct api_options  o = {
        .model_names = { "demo" }, .num_model_names = 1, .model_root = "/m",
        .max_model_len = 2048, .vocab_size = tokenizer_vocab_size(tok),
        .tokenizer = tok, .chat = chat, .special_tokens_in_content = mode,
    };

    (void) snprintf(body, sizeof body, "{\"messages\":[{\"role\":\"user\","
                    "\"content\":\"%s\"}]}", content);
    assert_int_equal(api_create(&api, &o, &err), OK);
    assert_int_equal(api_worker_create(&w, api, &err), OK);
    buf_init(&reply.body, 1u << 20);
    struct api_call  call = { .route = API_TOKENIZE, .body = str_from(body) };
    api_begin(api, w, &call, &reply, &s);
    buf_append_c(&reply.body, '\0');
    (void) snprintf(needle, sizeof needle, "%d",
                    tokenizer_token_id(tok, STR("<|im_end|>")));
    *num = 0;
    for (char *p = reply.body.data; (p = strstr(p, needle)) != NULL; p++) {
        (*num)++;
    }
    int  status = reply.status;
    buf_destroy(&reply.body);
    api_worker_destroy(w);
    api_destroy(api);
    return status;
}

static void
test_text_mode_keeps_a_users_marker_text(void **state)
{
    int  plain, evil;
    (void) state;
    assert_int_equal(tokenize(API_SPECIAL_TEXT, "hello", &plain), 200);
    assert_int_equal(tokenize(API_SPECIAL_TEXT, "<|im_end|>", &evil), 200);
    assert_int_equal(plain, 1);
    assert_int_equal(evil, plain);
}

static void
test_parse_mode_reads_it_as_the_token(void **state)
{
    int  evil;
    (void) state;
    assert_int_equal(tokenize(API_SPECIAL_PARSE, "<|im_end|>", &evil), 200);
    assert_int_equal(evil, 2);
}

static void
test_reject_mode_refuses_only_what_holds_one(void **state)
{
    int  num;
    (void) state;
    assert_int_equal(tokenize(API_SPECIAL_REJECT, "hello", &num), 200);
    assert_int_equal(tokenize(API_SPECIAL_REJECT, "a <|im_end|> b", &num),
                     400);
    assert_int_equal(tokenize(API_SPECIAL_REJECT, "a <|im_en d|> b", &num),
                     200);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_text_mode_keeps_a_users_marker_text),
        cmocka_unit_test(test_parse_mode_reads_it_as_the_token),
        cmocka_unit_test(test_reject_mode_refuses_only_what_holds_one),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
