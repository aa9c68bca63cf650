/* test_load_parse.c - HTTP/1 answers in every framing, cut at every byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "tools/load_parse.h"

struct body {
    char    bytes[256];
    size_t  len;
};

static void
collect(void *data, const char *bytes, size_t len)
{
    struct body  *b = data;

    assert_true(b->len + len < sizeof b->bytes);
    memcpy(b->bytes + b->len, bytes, len);
    b->len += len;
    b->bytes[b->len] = '\0';
}

/* The last answer of feed; closes the connection at the end if asked to. */
static int
parse(struct load_parse *p, struct body *b, const char *answer, size_t step,
      bool close)
{
    size_t  len = strlen(answer);
    int     rc = AGAIN;

    memset(b, 0, sizeof *b);
    p->body_fn = collect;
    p->body_data = b;
    load_parse_reset(p, false);
    for (size_t i = 0; i < len && rc == AGAIN; i += step) {
        rc = load_parse_feed(p, answer + i, len - i < step ? len - i : step);
    }
    return rc == AGAIN && close ? load_parse_end(p) : rc;
}

static void
bodies_come_out_whole_in_every_framing(void **state)
{
    static const struct { const char *answer; int rc; bool close, keep; }
    answers[] = {
        { "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", OK, false, true },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
          "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", OK, false, true },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
          "5;a=b;c=\"d\"\r\nhello\r\n0;last\r\n\r\n", OK, false, true },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
          "5  \r\nhello\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n", OK, false, true },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
          "5\r\nhello\r\n0\r\nX-A: 1\r\n", ERROR, true, true },
        { "HTTP/1.1 100 Continue\r\n\r\n"
          "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
          "hello", OK, false, false },
        { "HTTP/1.1 200 OK\r\n\r\nhello", OK, true, false },
        { "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", OK, false,
          false },
        { "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", ERROR, true,
          true },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",
          ERROR, true, true },
    };
    static struct load_parse  p;
    struct body               b;
    (void) state;

    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        for (size_t step = 1; step < 100; step++) {
            assert_int_equal(parse(&p, &b, answers[i].answer, step,
                                   answers[i].close), answers[i].rc);
            assert_string_equal(b.bytes, "hello");
            assert_int_equal(p.status, 200);
            assert_int_equal(p.keep_alive, answers[i].keep);
        }
    }
}

static void
what_is_not_http_is_an_error(void **state)
{
    static const char *const  answers[] = {
        "SSH-2.0-OpenSSH\r\n\r\n", "HTTP/2 200\r\n\r\n", "HTTP/1.\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
        /* without the end of a head, which may never come */
        "SSH-2.0-OpenSSH\r\n", "\x15\x03\x01",
    };
    static struct load_parse  p;
    struct body               b;
    (void) state;

    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        assert_int_equal(parse(&p, &b, answers[i], 1000, false), ERROR);
    }
}

static void
answers_without_a_body_end_with_their_head(void **state)
{
    static const char *const  answers[] = {
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    };
    static struct load_parse  p;
    struct body               b;
    (void) state;

    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        assert_int_equal(parse(&p, &b, answers[i], 7, false), OK);
        assert_true(p.keep_alive);
    }
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(bodies_come_out_whole_in_every_framing),
        cmocka_unit_test(what_is_not_http_is_an_error),
        cmocka_unit_test(answers_without_a_body_end_with_their_head),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
