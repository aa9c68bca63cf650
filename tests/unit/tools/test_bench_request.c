/* test_bench_request.c - URLs, header fields and bodies, good and bad. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "tools/bench_request.h"

static void
urls_are_read_with_port_prefix_and_ipv6(void **state)
{
    static const struct { const char *url, *host, *authority, *path; }  good[] = {
        { "http://h:8000", "h", "h:8000", "/v1/completions" },
        { "http://h:8000/", "h", "h:8000", "/v1/completions" },
        { "http://h", "h", "h:80", "/v1/completions" },
        { "http://h/llm/a/", "h", "h:80", "/llm/a/v1/completions" },
        { "http://[::1]:81", "::1", "[::1]:81", "/v1/completions" },
    };
    struct bench_url  u;
    struct err        err;
    (void) state;

    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(bench_url_parse(&u, good[i].url, NULL, 0,
                                         "/v1/completions", &err), OK);
        assert_string_equal(u.host, good[i].host);
        assert_string_equal(u.authority, good[i].authority);
        assert_string_equal(u.path, good[i].path);
        assert_false(u.is_chat);
    }
    assert_int_equal(bench_url_parse(&u, NULL, "localhost", 81,
                                     "/v1/chat/completions", &err), OK);
    assert_string_equal(u.authority, "localhost:81");
    assert_true(u.is_chat);
}

static void
what_is_no_url_or_endpoint_is_refused_by_name(void **state)
{
    static const char *const  bad[] = { "https://h", "h:80", "http://",
                                        "http://:80", "http://h:0",
                                        "http://h:x", "http://h:99999",
                                        "http://[::1", "http://h:80x/" };
    struct bench_url  u;
    struct err        err;
    (void) state;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(bench_url_parse(&u, bad[i], NULL, 0,
                                         "/v1/completions", &err), ERROR);
        assert_non_null(strstr(err.message, "--base-url"));
    }
    assert_int_equal(bench_url_parse(&u, "http://h", NULL, 0, "/v1/embeddings",
                                     &err), ERROR);
    assert_non_null(strstr(err.message, "--endpoint"));
    assert_int_equal(bench_url_parse(&u, "http://h", NULL, 0, "completions",
                                     &err), ERROR);
}

struct fixture {
    struct bench_cli      cli;
    struct bench_url      url;
    struct bench_prompt   prompt;
    struct bench_dataset  data;
    struct bench_request  maker;
    struct buf            out;
};

static int
write_one(struct fixture *f, struct err *err)
{
    int  rc = bench_request_open(&f->maker, &f->cli, &f->url, &f->data, err);

    buf_reset(&f->out);
    if (rc == OK) {
        bench_request_write(&f->maker, 0, &f->out);
        buf_append_c(&f->out, '\0');
        assert_false(f->out.failed);
    }
    bench_request_close(&f->maker);
    return rc;
}

static void
open_fixture(struct fixture *f, const char *endpoint)
{
    static const int32_t  ids[] = { 3, 1, 2 };

    memset(f, 0, sizeof *f);
    buf_init(&f->out, 1 << 20);
    f->cli.engine.model = "m";
    f->cli.dataset_name = "random";
    f->cli.ignore_eos = "false";
    f->prompt = (struct bench_prompt) { .ids = ids, .num_ids = 3,
                                        .text = STR("a \"b\""),
                                        .prompt_len = 3, .output_len = 9 };
    f->data = (struct bench_dataset) { .prompts = &f->prompt, .num = 1 };
    assert_int_equal(bench_url_parse(&f->url, "http://h:1", NULL, 0, endpoint,
                                     NULL), OK);
}

static void
bodies_are_vllm_s(void **state)
{
    struct fixture  f;
    struct err      err = { 0 };
    (void) state;

    open_fixture(&f, "/v1/completions");
    assert_int_equal(write_one(&f, &err), OK);
    assert_string_equal(f.out.data,
        "POST /v1/completions HTTP/1.1\r\nHost: h:1\r\n"
        "Content-Type: application/json\r\nAccept: text/event-stream\r\n"
        "Content-Length: 101\r\n\r\n"
        "{\"model\":\"m\",\"prompt\":\"a \\\"b\\\"\",\"max_tokens\":9,"
        "\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    f.prompt.text.data = NULL;
    f.cli.ignore_eos = "true";
    f.cli.temperature = "0.5";
    f.cli.served_model_name = "other";
    assert_int_equal(write_one(&f, &err), OK);
    assert_non_null(strstr(f.out.data, "{\"model\":\"other\","
                           "\"prompt\":[3,1,2],"));
    assert_non_null(strstr(f.out.data, "\"ignore_eos\":true,"
                           "\"temperature\":0.5}"));
    buf_destroy(&f.out);
    open_fixture(&f, "/v1/chat/completions");
    assert_int_equal(write_one(&f, &err), OK);
    assert_non_null(strstr(f.out.data, "\"messages\":[{\"role\":\"user\","
                           "\"content\":\"a \\\"b\\\"\"}],"
                           "\"max_completion_tokens\":9,"));
    buf_destroy(&f.out);
}

static void
header_fields_are_given_in_both_forms(void **state)
{
    static const char *const  bad[] = { "Name", ": v", "=v", "a b: c",
                                        "a: b\r\nc: d" };
    struct fixture  f;
    struct err      err = { 0 };
    (void) state;

    open_fixture(&f, "/v1/completions");
    f.cli.header = (struct option_words) {
        .items = { "Authorization: Bearer a=b", "X=1:2, 3" }, .num = 2 };
    f.cli.request_id_prefix = "run-";
    assert_int_equal(write_one(&f, &err), OK);
    assert_non_null(strstr(f.out.data,
                           "\r\nAuthorization: Bearer a=b\r\nX: 1:2, 3\r\n"));
    assert_non_null(strstr(f.out.data, "\r\nX-Request-Id: run-0\r\n"));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        f.cli.header = (struct option_words) { .items = { bad[i] }, .num = 1 };
        assert_int_equal(write_one(&f, &err), ERROR);
        assert_non_null(strstr(err.message, "--header"));
    }
    buf_destroy(&f.out);
}

/* A strict server refuses a key that comes twice. */
static void
extra_members_take_the_place_of_ours(void **state)
{
    struct fixture  f;
    struct err      err = { 0 };
    (void) state;

    open_fixture(&f, "/v1/completions");
    f.cli.extra_body = "{\"max_tokens\": 3, \"mock\": {\"tokens\": 2.50}}";
    assert_int_equal(write_one(&f, &err), OK);
    assert_null(strstr(f.out.data, "\"max_tokens\":9"));
    assert_non_null(strstr(f.out.data, ",\"max_tokens\":3,"
                           "\"mock\":{\"tokens\":2.50}}"));
    f.cli.extra_body = "[1]";
    assert_int_equal(write_one(&f, &err), ERROR);
    f.cli.extra_body = "{";
    assert_int_equal(write_one(&f, &err), ERROR);
    assert_non_null(strstr(err.message, "--extra-body"));
    f.cli.extra_body = NULL;
    f.cli.top_p = "0x1";
    assert_int_equal(write_one(&f, &err), ERROR);
    assert_non_null(strstr(err.message, "--top-p"));
    buf_destroy(&f.out);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(urls_are_read_with_port_prefix_and_ipv6),
        cmocka_unit_test(what_is_no_url_or_endpoint_is_refused_by_name),
        cmocka_unit_test(bodies_are_vllm_s),
        cmocka_unit_test(header_fields_are_given_in_both_forms),
        cmocka_unit_test(extra_members_take_the_place_of_ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
