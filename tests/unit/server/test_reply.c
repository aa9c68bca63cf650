/* test_reply.c - answers that the session cannot hold for its worker: they are
 * given up, the others are not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>
#include "engine/base/clock.h"
#include "engine/server/listen.h"
#include "engine/server/server.h"
#include "tests/lib/fake_api.h"
#include "tests/lib/wire_client.h"

#define WAIT_MS     20000
#define OVER_BYTES  400000             /* of the list behind a ring of 64 K */

struct world {
    struct listen   listening;
    struct fake    *fake;
    struct server  *srv;
    char            path[64];
};

static void
wait_live(struct world *w, int32_t num)
{
    struct timespec  t = { 0, 5 * NS_PER_MS };

    for (int left = WAIT_MS; server_num_live(w->srv) != num; left -= 5) {
        assert_true(left > 0);
        (void) nanosleep(&t, NULL);
    }
}

static void
open_world(struct world *w, struct wire_client *c)
{
    struct server_options  o;
    struct err             err = { 0 };

    server_options_init(&o);
    o.transport.session.cq_bytes = LLM_CQ_BYTES_MIN;
    o.transport.session.over_bytes_max = OVER_BYTES;
    (void) snprintf(w->path, sizeof w->path, "/tmp/llm-reply-%d.sock",
                    (int) getpid());
    assert_int_equal(listen_open(&w->listening, NULL, w->path, &err), OK);
    w->fake = fake_create(300000);
    assert_int_equal(server_create(&w->srv, w->listening.fd, &o, &err), OK);
    assert_int_equal(server_set_api(w->srv, fake_api(w->fake),
                                    fake_engine(w->fake), &err), OK);
    assert_int_equal(wire_client_open(c, w->path, NULL, &err), OK);
}

static void
close_world(struct world *w, struct wire_client *c)
{
    assert_null(c->error);
    wire_client_close(c);
    wait_live(w, 0);
    fake_stop(w->fake);
    server_destroy(w->srv);
    fake_destroy(w->fake);
    listen_close(&w->listening);
}

static uint64_t
chat(struct wire_client *c, const char *body)
{
    return wire_client_submit(c, &(struct wire_call) {
        .route = LLM_ROUTE_CHAT_COMPLETIONS, .body = str_from(body) });
}

static struct wire_answer *
finish(struct wire_client *c, uint64_t id)
{
    struct wire_answer  *a;

    assert_int_equal(wire_client_wait(c, id, WAIT_MS, &a), OK);
    assert_int_equal(a->num_ends, 1);
    return a;
}

static void
test_an_answer_too_large_to_hold_harms_no_other(void **state)
{
    struct world         w;
    struct wire_client   c;
    struct wire_answer  *a;

    (void) state;
    open_world(&w, &c);
    uint64_t  other = chat(&c, "tokens=300 bytes=100");
    a = finish(&c, chat(&c, "answer=250000"));
    assert_int_equal(a->head.status, 200);
    assert_int_equal(a->body.len, 250000);
    a = finish(&c, chat(&c, "answer=500000"));
    assert_int_equal(a->head.status, 413);
    a = finish(&c, chat(&c, "tokens=100000000 bytes=500000"));
    assert_int_equal(a->end.reason, LLM_FINISH_SLOW_READER);
    assert_true(a->body.len < 500000);
    a = finish(&c, other);
    assert_int_equal(a->body.len, 30003);
    assert_int_equal(a->end.reason, LLM_FINISH_STOP);
    close_world(&w, &c);
}

/* Together they are too much: each is answered, if only with 503. */
static void
test_large_answers_together_harm_nobody(void **state)
{
    struct world        w;
    struct wire_client  c;
    uint64_t            ids[8];
    int                 num_full = 0;

    (void) state;
    open_world(&w, &c);
    fake_hold_begin(w.fake, true);
    for (int i = 0; i < 8; i++) {
        ids[i] = chat(&c, "answer=200000");
    }
    wait_live(&w, 8);
    fake_hold_begin(w.fake, false);
    wait_live(&w, 0);    /* nothing is read meanwhile */
    for (int i = 0; i < 8; i++) {
        struct wire_answer  *a = finish(&c, ids[i]);
        assert_int_equal(a->head.status, a->body.len == 200000 ? 200 : 503);
        num_full += a->head.status == 200;
    }
    assert_true(num_full > 0 && num_full < 8);
    close_world(&w, &c);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_an_answer_too_large_to_hold_harms_no_other),
        cmocka_unit_test(test_large_answers_together_harm_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
