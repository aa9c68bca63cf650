/* test_bench_sse.c - streams of every server, cut anywhere, mean the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include "tools/bench_sse.h"

/* What was seen, one letter a chunk: t token, f finish, F both, u usage, D done,
 * e error, b broken, - none of these. */
struct seen {
    char       letters[64];
    int        num;
    char       text[256];
    char       error[128];
    long long  prompt, completion;
};

static void
note(void *user, const struct bench_chunk *c)
{
    struct seen  *s = user;
    char          letter = c->done ? 'D' : c->broken ? 'b'
                           : c->error.data != NULL ? 'e'
                           : c->is_token && c->finished ? 'F'
                           : c->is_token ? 't' : c->finished ? 'f'
                           : c->completion_tokens >= 0 ? 'u' : '-';

    s->letters[s->num++] = letter;
    (void) strncat(s->text, c->text.data == NULL ? "" : c->text.data,
                   c->text.len);
    if (c->error.data != NULL) {
        (void) snprintf(s->error, sizeof s->error, "%.*s", STR_ARG(c->error));
    }
    if (c->completion_tokens >= 0) {
        s->prompt = c->prompt_tokens;
        s->completion = c->completion_tokens;
    }
}

/* Feeds the stream in pieces of `step` bytes. */
static void
feed_to(struct seen *out, const char *stream, size_t step, bool end)
{
    struct bench_sse  s;
    size_t            len = strlen(stream);

    memset(out, 0, sizeof *out);
    bench_sse_init(&s, note, out);
    bench_sse_reset(&s);
    for (size_t i = 0; i < len; i += step) {
        bench_sse_feed(&s, stream + i, len - i < step ? len - i : step);
    }
    if (end) {
        bench_sse_end(&s);
    }
    bench_sse_destroy(&s);
}

static void
feed(struct seen *out, const char *stream, size_t step)
{
    feed_to(out, stream, step, false);
}

static const char  completions[] =
    "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"text\":\"Hel\","
    "\"finish_reason\":null}]}\n\n"
    ": a comment that keeps the connection\n\n"
    "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":null}]}\n\n"
    "data: {\"choices\":[{\"text\":\"l\\u00f6\",\"finish_reason\":\"length\"}]}"
    "\n\n"
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,"
    "\"completion_tokens\":5}}\n\n"
    "data: [DONE]\n\n";

static void
a_completion_means_the_same_however_it_is_cut(void **state)
{
    struct seen  s;
    (void) state;

    for (size_t step = 1; step <= sizeof completions; step++) {
        feed(&s, completions, step);
        assert_string_equal(s.letters, "ttFuD");
        assert_string_equal(s.text, "Hell\xc3\xb6");
        assert_int_equal(s.prompt, 7);
        assert_int_equal(s.completion, 5);
    }
}

static void
lines_may_end_with_crlf_and_data_without_a_space(void **state)
{
    struct seen  s;
    (void) state;

    for (size_t step = 1; step < 20; step++) {
        feed(&s, "event: x\r\nid: 3\r\ndata:{\"choices\":[{\"text\":\"a\"}]}"
             "\r\n\r\ndata: [DONE]\r\n\r\n", step);
        assert_string_equal(s.letters, "tD");
        assert_string_equal(s.text, "a");
    }
}

static void
an_event_of_several_data_lines_is_one(void **state)
{
    struct seen  s;
    (void) state;

    feed(&s, "data: {\"choices\":\ndata: [{\"text\":\"a\"}]}\n\n", 5);
    assert_string_equal(s.letters, "t");
}

/* The role that opens a chat and the end without text are no tokens; reasoning
 * and tool calls are. */
static void
of_a_chat_only_what_was_generated_counts(void **state)
{
    struct seen  s;
    (void) state;

    feed(&s,
         "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\","
         "\"content\":\"\"}}]}\n\n"
         "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n"
         "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n"
         "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0}]}}]}\n\n"
         "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
         "data: [DONE]\n\n", 11);
    assert_string_equal(s.letters, "-tttfD");
    assert_string_equal(s.text, "hmHi");
}

static void
a_role_that_comes_with_text_is_a_token(void **state)
{
    struct seen  s;
    (void) state;

    feed(&s, "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\","
         "\"content\":\"x\"}}]}\n\n", 64);
    assert_string_equal(s.letters, "t");
}

static void
errors_are_told_with_their_message(void **state)
{
    struct seen  s;
    (void) state;

    feed(&s, "data: {\"error\":{\"message\":\"engine lost\"}}\n\n", 9);
    assert_string_equal(s.letters, "e");
    assert_string_equal(s.error, "engine lost");
    feed(&s, "data: {\"error\":\"plain\"}\n\n", 9);
    assert_string_equal(s.error, "plain");
    feed(&s, "event: error\ndata: {\"object\":\"error\",\"message\":\"old "
         "vLLM\"}\n\n", 9);
    assert_string_equal(s.letters, "e");
    assert_string_equal(s.error, "old vLLM");
}

static void
what_is_no_chunk_is_broken_and_not_fatal(void **state)
{
    struct seen  s;
    (void) state;

    feed(&s, "data: {\"choices\":[{\"te\n\ndata: 17\n\ndata: {}\n\n"
         "data: {\"choices\":[{\"text\":\"a\"}]}\n\n", 7);
    assert_string_equal(s.letters, "bbbt");
}

static void
an_event_without_its_empty_line_is_not_seen(void **state)
{
    struct seen  s;
    (void) state;

    feed(&s, "data: {\"choices\":[{\"text\":\"a\"}]}\n", 7);
    assert_int_equal(s.num, 0);
}

static void
at_the_end_of_the_answer_it_is_if_it_is_whole(void **state)
{
    static const struct { const char *stream, *letters; }  ends[] = {
        { "data: {\"choices\":[{\"text\":\"a\"}]}\n", "t" },
        { "data: {\"choices\":[{\"text\":\"a\"}]}", "t" },
        { "data: {\"choices\":[{\"text\":\"a\"}]}\r", "t" },
        { "data: {\"choices\":[{\"text\":\"a\"}]}\n\ndata: [DONE]", "tD" },
        { "data: {\"choices\":[{\"text\":\"a\"}]}\n\ndata: {\"cho", "t" },
        { "data: {\"choices\":[{\"text\":\"a\"}]}\n\n: ping", "t" },
        { "", "" },
    };
    struct seen  s;
    (void) state;

    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        for (size_t step = 1; step < 20; step++) {
            feed_to(&s, ends[i].stream, step, true);
            assert_string_equal(s.letters, ends[i].letters);
        }
    }
}

static void
error_documents_of_other_servers_are_read(void **state)
{
    struct arena  arena;
    (void) state;

    arena_init(&arena, 1 << 20);
    assert_true(str_eq(bench_error_message(
        STR("{\"error\":{\"message\":\"m\",\"code\":null}}"), &arena),
        STR("m")));
    assert_true(str_eq(bench_error_message(STR("{\"message\":\"old vLLM\"}"),
                                           &arena), STR("old vLLM")));
    assert_null(bench_error_message(STR("<html>"), &arena).data);
    arena_destroy(&arena);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(a_completion_means_the_same_however_it_is_cut),
        cmocka_unit_test(lines_may_end_with_crlf_and_data_without_a_space),
        cmocka_unit_test(an_event_of_several_data_lines_is_one),
        cmocka_unit_test(of_a_chat_only_what_was_generated_counts),
        cmocka_unit_test(a_role_that_comes_with_text_is_a_token),
        cmocka_unit_test(errors_are_told_with_their_message),
        cmocka_unit_test(what_is_no_chunk_is_broken_and_not_fatal),
        cmocka_unit_test(an_event_without_its_empty_line_is_not_seen),
        cmocka_unit_test(at_the_end_of_the_answer_it_is_if_it_is_whole),
        cmocka_unit_test(error_documents_of_other_servers_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
