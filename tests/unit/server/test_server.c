/* test_server.c - the whole server over a real socket, with a double of the
 * protocol layer (tests/lib/fake_api.h) behind it.
 *
 * After each test every stream is gone, no request is live and the number of
 * open descriptors is what it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/server/listen.h"
#include "engine/server/server.h"
#include "tests/lib/fake_api.h"
#include "tests/lib/wire_client.h"

#define WAIT_MS  10000

struct world {
    struct listen   listening;
    struct fake    *fake;
    struct server  *srv;
    int             num_fds;
    char            path[64];
};

static int
count_fds(void)
{
    DIR  *d = opendir("/proc/self/fd");
    int   n = 0;

    while (readdir(d) != NULL) {
        n++;
    }
    (void) closedir(d);
    return n;
}

static void
sleep_ms(int ms)
{
    struct timespec  t = { ms / 1000, (long) (ms % 1000) * 1000000 };

    (void) nanosleep(&t, NULL);
}

/* Within WAIT_MS the condition becomes true. */
#define eventually(x)                                                         \
    do {                                                                      \
        for (int left_ = WAIT_MS; !(x); left_ -= 5) {                         \
            assert_true(left_ > 0);                                           \
            sleep_ms(5);                                                      \
        }                                                                     \
    } while (0)

static void
open_world_with(struct world *w, const struct server_options *options,
                bool ready)
{
    static int  num;             /* a test that failed has left its socket */
    struct err  err = { 0 };

    memset(w, 0, sizeof *w);
    w->num_fds = count_fds();
    (void) snprintf(w->path, sizeof w->path, "/tmp/llm-test-%d-%d.sock",
                    (int) getpid(), num++);
    assert_int_equal(listen_open(&w->listening, NULL, w->path, &err), OK);
    w->fake = fake_create(300000);
    assert_int_equal(server_create(&w->srv, w->listening.fd, options, &err), OK);
    if (ready) {
        assert_int_equal(server_set_api(w->srv, fake_api(w->fake),
                                        fake_engine(w->fake), &err), OK);
    }
}

static void
small_options(struct server_options *o)
{
    server_options_init(o);
    o->transport.session.cq_bytes = LLM_CQ_BYTES_MIN;
    o->transport.session.arena_bytes = LLM_ARENA_BYTES_MIN;
    o->transport.session.sq_entries = 64;
    o->transport.session.body_bytes_max = 1 << 20;
    o->transport.session.held_bytes_max = 4 << 20;
}

static void
open_world(struct world *w)
{
    struct server_options  o;

    small_options(&o);
    open_world_with(w, &o, true);
}

static void
close_world(struct world *w)
{
    eventually(server_num_live(w->srv) == 0);
    eventually(fake_num_streams(w->fake) == 0);
    fake_stop(w->fake);
    server_destroy(w->srv);
    fake_destroy(w->fake);
    listen_close(&w->listening);
    assert_int_equal(count_fds(), w->num_fds);
}

static void
connect_to(struct world *w, struct wire_client *c)
{
    struct err  err = { 0 };

    if (wire_client_open(c, w->path, NULL, &err) != OK) {
        fail_msg("%s", err.message);
    }
}

static uint64_t
chat(struct wire_client *c, const char *body, uint8_t flags)
{
    uint64_t  id = wire_client_submit(c, &(struct wire_call) {
        .route = LLM_ROUTE_CHAT_COMPLETIONS, .body = str_from(body),
        .flags = flags });

    assert_int_not_equal(id, 0);
    return id;
}

static struct wire_answer *
finish(struct wire_client *c, uint64_t id)
{
    struct wire_answer  *a;
    int                  rc = wire_client_wait(c, id, WAIT_MS, &a);

    if (rc != OK) {
        fail_msg("no END: rc %d, %s", rc, c->error == NULL ? "" : c->error);
    }
    assert_int_equal(a->num_ends, 1);
    return a;
}

static void
expect_served(struct wire_client *c)
{
    struct wire_answer  *a = finish(c, chat(c, "tokens=3 bytes=4", 0));

    assert_int_equal(a->head.status, 200);
    assert_int_equal(a->body.len, 15);
    assert_int_equal(a->end.reason, LLM_FINISH_STOP);
    wire_client_free(c, a);
}

/* ---- states ----------------------------------------------------------------------- */
static void
test_before_the_model_is_loaded_everything_is_503(void **state)
{
    struct world           w;
    struct wire_client     c;
    struct server_options  o;
    struct wire_answer    *a;
    struct llm_stats       stats;
    struct err             err = { 0 };

    (void) state;
    small_options(&o);
    open_world_with(&w, &o, false);
    connect_to(&w, &c);
    a = finish(&c, chat(&c, "tokens=3", 0));
    assert_int_equal(a->head.status, 503);
    assert_int_equal(a->head.retry_after_s, 5);
    assert_non_null(memmem(a->body.data, a->body.len, "\"loading\"", 9));
    wire_client_free(&c, a);
    for (int r = LLM_ROUTE_MODELS; r <= LLM_ROUTE_METRICS; r++) {
        a = finish(&c, wire_client_submit(&c, &(struct wire_call) {
                                              .route = (enum llm_route) r }));
        assert_int_equal(a->head.status, r == LLM_ROUTE_VERSION ? 200 : 503);
        wire_client_free(&c, a);
    }
    llm_ring_read_stats(c.e, &stats);
    assert_int_equal(stats.state, LLM_STATE_LOADING);
    assert_int_equal(server_set_api(w.srv, fake_api(w.fake),
                                    fake_engine(w.fake), &err), OK);
    expect_served(&c);
    eventually((llm_ring_read_stats(c.e, &stats), stats.state == LLM_STATE_READY));
    wire_client_close(&c);
    close_world(&w);
}

static void
test_draining_finishes_what_runs_and_refuses_the_rest(void **state)
{
    struct world         w;
    struct wire_client   c;
    struct wire_answer  *a;
    struct llm_stats     stats;
    uint64_t             quick, endless;

    (void) state;
    open_world(&w);
    connect_to(&w, &c);
    quick = chat(&c, "tokens=100 bytes=2", 0);
    endless = chat(&c, "tokens=100000000 bytes=1", 0);
    eventually(fake_num_streams(w.fake) == 2);
    server_stop(w.srv, 2000 * NS_PER_MS);    /* enough for quick anywhere */
    assert_int_equal(server_num_live(w.srv), 0);
    a = finish(&c, quick);
    assert_int_equal(a->end.reason, LLM_FINISH_STOP);
    assert_int_equal(a->body.len, 203);
    a = finish(&c, endless);
    assert_int_equal(a->end.reason, LLM_FINISH_SHUTDOWN);
    a = finish(&c, chat(&c, "tokens=1", 0));
    assert_int_equal(a->head.status, 503);
    assert_non_null(memmem(a->body.data, a->body.len, "shutting_down", 13));
    llm_ring_read_stats(c.e, &stats);
    assert_int_equal(stats.state, LLM_STATE_DRAINING);
    wire_client_close(&c);
    close_world(&w);
}

/* Another engine takes over: who still asks is served, and the engine is deserted
 * when everybody has said GOODBYE and has got everything. */
static void
test_a_retiring_engine_serves_until_it_is_deserted(void **state)
{
    struct world        w;
    struct wire_client  stays, leaves;
    struct llm_stats    stats;
    uint64_t            long_one;

    (void) state;
    open_world(&w);
    connect_to(&w, &stays);
    connect_to(&w, &leaves);
    long_one = chat(&leaves, "tokens=200 bytes=2", 0);
    server_retire(w.srv);
    eventually((llm_ring_read_stats(stays.e, &stats),
                stats.state == LLM_STATE_DRAINING));
    assert_int_equal(finish(&stays, chat(&stays, "tokens=2", 0))->head.status,
                     200);
    assert_false(server_is_deserted(w.srv));
    assert_int_equal(wire_client_control(&leaves, LLM_OP_GOODBYE, 0, 0), OK);
    assert_int_equal(finish(&leaves, long_one)->end.reason, LLM_FINISH_STOP);
    assert_false(server_is_deserted(w.srv));
    wire_client_close(&stays);
    eventually(server_is_deserted(w.srv));
    wire_client_close(&leaves);
    close_world(&w);
}

/* ---- answers ------------------------------------------------------------------------ */
static void
test_a_request_gets_one_head_its_bytes_and_one_end(void **state)
{
    struct world         w;
    struct wire_client   c;
    struct wire_answer  *a;

    (void) state;
    open_world(&w);
    connect_to(&w, &c);
    a = finish(&c, chat(&c, "tokens=20 bytes=30", 0));
    assert_int_equal(a->num_heads, 1);
    assert_int_equal(a->head.status, 200);
    assert_int_equal(a->head.content, LLM_CONTENT_SSE);
    assert_int_equal(a->head.flags, LLM_HEAD_STREAM);
    assert_int_equal(a->head.content_length, -1);
    assert_int_equal(a->body.len, 603);
    assert_int_equal(a->end.reason, LLM_FINISH_STOP);
    assert_int_equal(a->end.prompt_tokens, 7);
    assert_int_equal(a->end.completion_tokens, 20);
    assert_int_equal(a->end.model_len, 4);
    assert_memory_equal(a->end.model, "fake", 4);
    wire_client_free(&c, a);
    a = finish(&c, chat(&c, "error=1", 0));
    assert_int_equal(a->head.status, 400);
    assert_int_equal(a->head.content_length, a->body.len);
    assert_int_equal(a->end.reason, LLM_FINISH_NONE);
    wire_client_free(&c, a);
    a = finish(&c, chat(&c, "full=1", 0));
    assert_int_equal(a->head.status, 503);
    assert_int_equal(a->head.retry_after_s, 1);
    wire_client_free(&c, a);
    wire_client_close(&c);
    close_world(&w);
}

static void
test_a_body_in_many_chunks_arrives_whole(void **state)
{
    static const size_t  sizes[] = { 0, 1, 1000, 16384, 16385, 1 << 20 };
    struct world         w;
    struct wire_client   c;
    char                *body = malloc(1 << 20), want[64];

    (void) state;
    memset(body, 'b', 1 << 20);
    open_world(&w);
    connect_to(&w, &c);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct wire_answer  *a = finish(&c, wire_client_submit(&c,
            &(struct wire_call) { .route = LLM_ROUTE_TOKENIZE,
                                  .body = { body, sizes[i] },
                                  .request_id = STR("r-1"),
                                  .chunk_bytes = i % 2 == 0 ? 0 : 3001 }));
        (void) snprintf(want, sizeof want, "{\"plain\":%zu}", sizes[i]);
        assert_int_equal(a->body.len, strlen(want));
        assert_memory_equal(a->body.data, want, strlen(want));
        wire_client_free(&c, a);
    }
    free(body);
    wire_client_close(&c);
    close_world(&w);
}

static void
test_a_body_beyond_the_limit_is_413_and_the_next_is_served(void **state)
{
    struct world         w;
    struct wire_client   c;
    struct wire_answer  *a;
    char                *body = calloc(1, 3 << 20);

    (void) state;
    open_world(&w);
    connect_to(&w, &c);
    a = finish(&c, wire_client_submit(&c, &(struct wire_call) {
        .route = LLM_ROUTE_CHAT_COMPLETIONS, .body = { body, 3 << 20 } }));
    assert_int_equal(a->head.status, 413);
    wire_client_free(&c, a);
    expect_served(&c);
    assert_null(c.error);
    free(body);
    wire_client_close(&c);
    close_world(&w);
}

static void
test_many_sessions_and_requests_do_not_mix(void **state)
{
    enum { SESSIONS = 4, EACH = 40 };
    struct world        w;
    struct wire_client  c[SESSIONS];
    uint64_t            ids[SESSIONS][EACH];
    char                body[64];

    (void) state;
    open_world(&w);
    for (int s = 0; s < SESSIONS; s++) {
        connect_to(&w, &c[s]);
    }
    for (int i = 0; i < EACH; i++) {
        for (int s = 0; s < SESSIONS; s++) {
            (void) snprintf(body, sizeof body, "tokens=%d bytes=%d", i % 7 + 1,
                            s * 100 + i + 1);
            ids[s][i] = chat(&c[s], body, 0);
        }
    }
    for (int s = 0; s < SESSIONS; s++) {
        for (int i = 0; i < EACH; i++) {
            struct wire_answer  *a = finish(&c[s], ids[s][i]);
            assert_int_equal(a->body.len, (i % 7 + 1) * (s * 100 + i + 1) + 3);
        }
        assert_int_equal(c[s].num_unknown, 0);
        wire_client_close(&c[s]);
    }
    close_world(&w);
}

/* ---- control ------------------------------------------------------------------------- */
static void
test_a_prompt_is_reported_and_waits_for_go(void **state)
{
    struct world         w;
    struct wire_client   c;
    struct wire_answer  *a;
    uint64_t             id;

    (void) state;
    open_world(&w);
    connect_to(&w, &c);
    id = chat(&c, "tokens=4 bytes=1", LLM_SQE_WANT_PROMPT);
    a = wire_client_find(&c, id);
    assert_int_equal(wire_client_turn(&c, WAIT_MS, &a->has_prompt), OK);
    assert_int_equal(a->prompt.prompt_tokens, 7);
    assert_int_equal(a->prompt.max_completion_tokens, 4);
    sleep_ms(30);
    (void) wire_client_turn(&c, 20, NULL);
    assert_false(a->has_head);
    (void) wire_client_control(&c, LLM_OP_GO, id, 1);
    a = finish(&c, id);
    assert_int_equal(a->end.reason, LLM_FINISH_STOP);
    assert_int_equal(a->body.len, 7);
    wire_client_free(&c, a);

    id = chat(&c, "tokens=4", LLM_SQE_WANT_PROMPT);       /* refused */
    a = wire_client_find(&c, id);
    assert_int_equal(wire_client_turn(&c, WAIT_MS, &a->has_prompt), OK);
    (void) wire_client_control(&c, LLM_OP_GO, id, 0);
    a = finish(&c, id);
    assert_false(a->has_head);
    assert_int_equal(a->end.reason, LLM_FINISH_NONE);
    wire_client_free(&c, a);

    id = chat(&c, "tokens=4", LLM_SQE_WANT_PROMPT);       /* cancelled */
    a = wire_client_find(&c, id);
    assert_int_equal(wire_client_turn(&c, WAIT_MS, &a->has_prompt), OK);
    (void) wire_client_control(&c, LLM_OP_CANCEL, id, 0);
    a = finish(&c, id);
    assert_int_equal(a->end.reason, LLM_FINISH_CLIENT_ABORT);
    wire_client_free(&c, a);

    id = chat(&c, "error=1", LLM_SQE_WANT_PROMPT);        /* never asked */
    a = finish(&c, id);
    assert_false(a->has_prompt);
    assert_int_equal(a->head.status, 400);
    wire_client_close(&c);
    close_world(&w);
}

static void
test_cancel_ends_a_request_in_every_state(void **state)
{
    struct world         w;
    struct wire_client   c;
    struct wire_answer  *a;
    uint64_t             ids[6];

    (void) state;
    open_world(&w);
    connect_to(&w, &c);
    ids[0] = chat(&c, "tokens=100000000", 0);             /* running */
    eventually(fake_num_streams(w.fake) == 1);
    fake_hold_begin(w.fake, true);
    for (int i = 1; i < 6; i++) {                         /* preparing, queued */
        ids[i] = chat(&c, "tokens=100000000", 0);
    }
    sleep_ms(20);
    for (int i = 0; i < 6; i++) {
        (void) wire_client_control(&c, LLM_OP_CANCEL, ids[i],
                                   i == 3 ? LLM_FINISH_SLOW_READER : 0);
        (void) wire_client_control(&c, LLM_OP_CANCEL, ids[i], 0);
    }
    sleep_ms(20);
    fake_hold_begin(w.fake, false);
    for (int i = 0; i < 6; i++) {
        a = finish(&c, ids[i]);
        if (i != 3) {
            assert_int_equal(a->end.reason, LLM_FINISH_CLIENT_ABORT);
        }
        wire_client_free(&c, a);
        /* Late and unknown ids are no violation. */
        (void) wire_client_control(&c, LLM_OP_CANCEL, ids[i], 0);
        (void) wire_client_control(&c, LLM_OP_WINDOW, ids[i], 0);
        (void) wire_client_control(&c, LLM_OP_GO, ids[i], 1);
    }
    expect_served(&c);
    wire_client_close(&c);
    close_world(&w);
}

static void
test_a_half_received_body_can_be_cancelled(void **state)
{
    struct world         w;
    struct wire_client   c;
    struct wire_answer  *a;
    struct llm_sqe       d = { .op = LLM_OP_SUBMIT, .flags = LLM_SQE_MORE,
                               .route = LLM_ROUTE_CHAT_COMPLETIONS, .len = 100,
                               .total_bytes = 300 };

    (void) state;
    open_world(&w);
    connect_to(&w, &c);
    d.req_id = llm_req_id(0, ++c.generations[0]);
    c.answers[0].used = true;
    c.answers[0].id = d.req_id;
    buf_init(&c.answers[0].body, 1000);
    assert_non_null(llm_ring_sq_reserve(&c.sq, 100));
    assert_int_equal(llm_ring_sq_push(&c.sq, &d), LLM_OK);
    (void) wire_client_control(&c, LLM_OP_CANCEL, d.req_id, 0);
    a = finish(&c, d.req_id);
    assert_int_equal(a->end.reason, LLM_FINISH_CLIENT_ABORT);
    /* The chunk that was under way is dropped. */
    d.op = LLM_OP_CHUNK;
    d.flags = 0;
    d.route = 0;
    d.len = 200;
    d.total_bytes = 0;
    assert_non_null(llm_ring_sq_reserve(&c.sq, 200));
    assert_int_equal(llm_ring_sq_push(&c.sq, &d), LLM_OK);
    wire_client_free(&c, a);
    expect_served(&c);
    wire_client_close(&c);
    close_world(&w);
}

static void
test_a_closed_window_parks_and_an_open_one_resumes(void **state)
{
    struct world         w;
    struct wire_client   c;
    struct wire_answer  *a;
    uint64_t             id;
    size_t               len;

    (void) state;
    open_world(&w);
    connect_to(&w, &c);
    id = chat(&c, "tokens=400 bytes=1", 0);
    a = wire_client_find(&c, id);
    assert_int_equal(wire_client_turn(&c, WAIT_MS, &a->has_head), OK);
    (void) wire_client_control(&c, LLM_OP_WINDOW, id, 0);
    eventually(fake_num_unparked(w.fake) == 0);
    (void) wire_client_turn(&c, 100, &a->has_end);
    len = a->body.len;
    (void) wire_client_turn(&c, 100, &a->has_end);
    assert_int_equal(a->body.len, len);
    assert_false(a->has_end);
    (void) wire_client_control(&c, LLM_OP_WINDOW, id, 1);
    a = finish(&c, id);
    assert_int_equal(a->body.len, 403);
    wire_client_close(&c);
    close_world(&w);
}

static void
test_a_deadline_in_the_queue_ends_the_request(void **state)
{
    struct world         w;
    struct wire_client   c;
    struct wire_answer  *a;
    uint64_t             id;

    (void) state;
    open_world(&w);
    connect_to(&w, &c);
    fake_hold_begin(w.fake, true);
    (void) chat(&c, "tokens=1", 0);
    (void) chat(&c, "tokens=1", 0);
    id = wire_client_submit(&c, &(struct wire_call) {
        .route = LLM_ROUTE_CHAT_COMPLETIONS, .body = STR("tokens=1"),
        .deadline_ns = clock_now_ns() + 20 * NS_PER_MS });
    sleep_ms(40);
    fake_hold_begin(w.fake, false);
    a = finish(&c, id);
    assert_int_equal(a->end.reason, LLM_FINISH_DEADLINE);
    assert_false(a->has_head);
    wire_client_close(&c);
    close_world(&w);
}

/* ---- workers that die or lie ------------------------------------------------------------ */
static void
test_a_killed_worker_leaves_nothing_running(void **state)
{
    struct world  w;
    pid_t         pid;
    int           status;

    (void) state;
    open_world(&w);
    pid = fork();
    if (pid == 0) {
        struct wire_client  c;
        if (wire_client_open(&c, w.path, NULL, NULL) != OK) {
            _exit(1);
        }
        for (int i = 0; i < 20; i++) {
            (void) wire_client_submit(&c, &(struct wire_call) {
                .route = LLM_ROUTE_CHAT_COMPLETIONS,
                .body = STR("tokens=100000000 bytes=50"),
                .flags = i % 4 == 0 ? LLM_SQE_WANT_PROMPT : 0 });
        }
        (void) wire_client_turn(&c, 60000, NULL);
        (void) pause();
        _exit(0);
    }
    eventually(fake_num_streams(w.fake) == 20);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    eventually(fake_num_streams(w.fake) == 0);
    eventually(server_num_sessions(w.srv) == 0);
    close_world(&w);
}

typedef void (*corruption)(struct wire_client *c);

static void
lie_tail(struct wire_client *c)
{
    __atomic_store_n(&((struct llm_region_w *) c->w)->sq_tail, c->sq.tail + 99999,
                     __ATOMIC_SEQ_CST);
}

static void
lie_cq_head(struct wire_client *c)
{
    __atomic_store_n(&((struct llm_region_w *) c->w)->cq_head, UINT64_MAX,
                     __ATOMIC_SEQ_CST);
}

static void
lie_op(struct wire_client *c)
{
    struct llm_sqe  d = { .op = 99 };
    (void) llm_ring_sq_push(&c->sq, &d);
}

static void
lie_slot_in_use(struct wire_client *c)
{
    struct llm_sqe  d = { .op = LLM_OP_SUBMIT, .route = LLM_ROUTE_CHAT_COMPLETIONS,
                          .req_id = llm_req_id(0, 77) };
    (void) llm_ring_sq_push(&c->sq, &d);
}

static void
lie_old_generation(struct wire_client *c)
{
    struct llm_sqe  d = { .op = LLM_OP_SUBMIT, .route = LLM_ROUTE_CHAT_COMPLETIONS,
                          .req_id = llm_req_id(9, 0) };
    (void) llm_ring_sq_push(&c->sq, &d);
}

static void
lie_meta(struct wire_client *c)
{
    struct llm_sqe  d = { .op = LLM_OP_SUBMIT, .route = LLM_ROUTE_CHAT_COMPLETIONS,
                          .req_id = llm_req_id(9, 1), .len = 3, .meta_bytes = 3,
                          .total_bytes = 3 };
    assert_non_null(llm_ring_sq_reserve(&c->sq, 3));
    (void) llm_ring_sq_push(&c->sq, &d);
}

static void
lie_chunks(struct wire_client *c)
{
    struct llm_sqe  d = { .op = LLM_OP_SUBMIT, .route = LLM_ROUTE_CHAT_COMPLETIONS,
                          .req_id = llm_req_id(9, 1), .len = 10,
                          .flags = LLM_SQE_MORE, .total_bytes = 20 };
    assert_non_null(llm_ring_sq_reserve(&c->sq, 100));
    (void) llm_ring_sq_push(&c->sq, &d);
    d = (struct llm_sqe) { .op = LLM_OP_CHUNK, .req_id = d.req_id, .len = 11 };
    assert_non_null(llm_ring_sq_reserve(&c->sq, 100));
    (void) llm_ring_sq_push(&c->sq, &d);
}

static void
lie_socket(struct wire_client *c)
{
    assert_int_equal(write(c->fd, "x", 1), 1);
}

static void
test_a_lying_worker_loses_its_session_and_nobody_else(void **state)
{
    static const corruption  lies[] = {
        lie_tail, lie_cq_head, lie_op, lie_slot_in_use, lie_old_generation,
        lie_meta, lie_chunks, lie_socket
    };
    struct world        w;
    struct wire_client  honest, liar;
    uint64_t            one = 1;

    (void) state;
    log_level = LOG_ALERT;
    open_world(&w);
    connect_to(&w, &honest);
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        connect_to(&w, &liar);
        (void) chat(&liar, "tokens=100000000 bytes=500", 0);  /* on slot 0 */
        eventually(fake_num_streams(w.fake) == 1);
        lies[i](&liar);
        if (lies[i] != lie_tail) {
            (void) llm_ring_sq_publish(&liar.sq);
        }
        assert_int_equal(write(liar.kick_engine_fd, &one, sizeof one),
                         sizeof one);
        /* Reading nothing, so that its own indices stay as wrong as they are. */
        struct pollfd  p = { liar.fd, POLLIN, 0 };
        assert_int_equal(poll(&p, 1, WAIT_MS), 1);
        assert_int_equal(recv(liar.fd, &one, sizeof one, 0), 0);
        eventually(fake_num_streams(w.fake) == 0);
        wire_client_close(&liar);
        expect_served(&honest);
    }
    wire_client_close(&honest);
    close_world(&w);
    log_level = LOG_NOTICE;
}

/* The protocol layer subtracts them; the fake one checks them. */
static void
test_impossible_times_do_not_reach_the_protocol(void **state)
{
    static const int64_t  times[] = { INT64_MIN, -1, INT64_MAX };
    struct world          w;
    struct wire_client    c;

    (void) state;
    open_world(&w);
    connect_to(&w, &c);
    for (int i = 0; i < 3; i++) {
        struct wire_answer  *a = finish(&c, wire_client_submit(&c,
            &(struct wire_call) { .route = LLM_ROUTE_CHAT_COMPLETIONS,
                .body = STR("tokens=1"), .arrival_ns = times[i],
                .deadline_ns = i == 2 ? INT64_MAX : 0 }));
        assert_int_equal(a->end.reason, LLM_FINISH_STOP);
        wire_client_free(&c, a);
    }
    wire_client_close(&c);
    close_world(&w);
}

static void
test_a_slow_worker_is_parked_and_loses_nothing(void **state)
{
    struct world         w;
    struct wire_client   slow, quick;
    struct wire_answer  *a;
    uint64_t             ids[8];

    (void) state;
    open_world(&w);
    connect_to(&w, &slow);
    connect_to(&w, &quick);
    for (int i = 0; i < 8; i++) {
        ids[i] = chat(&slow, "tokens=200 bytes=1000", 0);  /* 1.6 MB, ring 64 K */
    }
    eventually(fake_num_streams(w.fake) == 8 && fake_num_unparked(w.fake) == 0);
    for (int i = 0; i < 20; i++) {
        expect_served(&quick);
    }
    for (int i = 0; i < 8; i++) {
        a = finish(&slow, ids[i]);
        assert_int_equal(a->body.len, 200003);
        assert_int_equal(a->end.reason, LLM_FINISH_STOP);
    }
    wire_client_close(&slow);
    wire_client_close(&quick);
    close_world(&w);
}

/* The list behind the ring empties at any moment, in any thread. */
static void
test_a_worker_that_reads_by_fits_and_starts_gets_everything(void **state)
{
    struct world         w;
    struct wire_client   c;
    struct wire_answer  *a;
    uint64_t             ids[16];
    unsigned             seed = (unsigned) time(NULL);

    (void) state;
    print_message("seed %u\n", seed);
    open_world(&w);
    connect_to(&w, &c);
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 16; i++) {
            ids[i] = chat(&c, "tokens=150 bytes=900", 0);
        }
        for (int i = 0; i < 16; i++) {
            a = wire_client_find(&c, ids[i]);
            for (int n = 0; !a->has_end && n < 20000; n++) {
                struct timespec  t = { 0, rand_r(&seed) % 2000000 };
                if (wire_client_turn(&c, 1, NULL) == ERROR) {
                    fail_msg("%s", c.error == NULL ? "closed" : c.error);
                }
                (void) nanosleep(&t, NULL);
            }
            assert_true(a->has_end);
            assert_int_equal(a->body.len, 135003);
            wire_client_free(&c, a);
        }
    }
    wire_client_close(&c);
    close_world(&w);
}

static void
test_a_worker_that_never_reads_is_closed_in_the_end(void **state)
{
    struct world           w;
    struct wire_client     c, other;
    struct server_options  o;

    (void) state;
    log_level = LOG_ALERT;
    small_options(&o);
    o.transport.full_ns_max = 600 * NS_PER_MS;
    open_world_with(&w, &o, true);
    connect_to(&w, &c);
    connect_to(&w, &other);
    for (int i = 0; i < 8; i++) {
        (void) chat(&c, "tokens=100000000 bytes=1000", 0);
    }
    eventually(fake_num_streams(w.fake) == 8 && fake_num_unparked(w.fake) == 0);
    eventually(fake_num_streams(w.fake) == 0);
    expect_served(&other);
    wire_client_close(&c);
    wire_client_close(&other);
    close_world(&w);
    log_level = LOG_NOTICE;
}

static void
test_a_thousand_aborts_leave_nothing(void **state)
{
    struct world        w;
    struct wire_client  c;
    unsigned            seed = (unsigned) time(NULL);
    uint64_t            ids[50];

    (void) state;
    print_message("seed %u\n", seed);
    open_world(&w);
    connect_to(&w, &c);
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 50; i++) {
            ids[i] = chat(&c, rand_r(&seed) % 3 == 0 ? "tokens=3 bytes=100"
                          : "tokens=100000 bytes=100",
                          rand_r(&seed) % 5 == 0 ? LLM_SQE_WANT_PROMPT : 0);
            if (rand_r(&seed) % 4 == 0) {
                (void) wire_client_turn(&c, rand_r(&seed) % 3, NULL);
            }
            if (rand_r(&seed) % 2 == 0) {
                (void) wire_client_control(&c, LLM_OP_CANCEL, ids[i], 0);
            }
        }
        for (int i = 0; i < 50; i++) {
            struct wire_answer  *a = wire_client_find(&c, ids[i]);
            if (!a->has_end) {
                (void) wire_client_control(&c, LLM_OP_CANCEL, ids[i], 0);
            }
        }
        for (int i = 0; i < 50; i++) {
            wire_client_free(&c, finish(&c, ids[i]));
        }
    }
    assert_int_equal(c.num_unknown, 0);
    assert_int_equal(server_num_live(w.srv), 0);
    wire_client_close(&c);
    close_world(&w);
}

static void
test_workers_that_come_and_go_leave_nothing(void **state)
{
    struct world  w;

    (void) state;
    open_world(&w);
    for (int i = 0; i < 100; i++) {
        struct wire_client  c;
        connect_to(&w, &c);
        for (int k = 0; k < 5; k++) {
            (void) chat(&c, "tokens=1000 bytes=2000",
                        k == 0 ? LLM_SQE_WANT_PROMPT : 0);
        }
        if (i % 3 == 0) {
            sleep_ms(1);
        }
        wire_client_close(&c);
    }
    eventually(fake_num_streams(w.fake) == 0);
    eventually(server_num_sessions(w.srv) == 0);
    eventually(server_num_live(w.srv) == 0);
    close_world(&w);
}

/* ---- heartbeat ---------------------------------------------------------------------------- */
static void
test_a_hung_step_thread_is_told_from_an_idle_one(void **state)
{
    struct world        w;
    struct wire_client  c;
    struct llm_stats    a, b;
    uint64_t            id;

    (void) state;
    open_world(&w);
    connect_to(&w, &c);
    fake_hold_steps(w.fake, true);
    sleep_ms(2 * LLM_HEARTBEAT_MS);
    llm_ring_read_stats(c.e, &a);
    sleep_ms(2 * LLM_HEARTBEAT_MS);
    llm_ring_read_stats(c.e, &b);
    assert_true(b.heartbeat_ns > a.heartbeat_ns);      /* idle: progress */
    assert_true(b.progress_ns > a.progress_ns);
    id = chat(&c, "tokens=5", 0);
    sleep_ms(2 * LLM_HEARTBEAT_MS);
    llm_ring_read_stats(c.e, &a);
    sleep_ms(2 * LLM_HEARTBEAT_MS);
    llm_ring_read_stats(c.e, &b);
    assert_int_equal(b.running, 1);
    assert_true(b.heartbeat_ns > a.heartbeat_ns);      /* alive, and hung */
    assert_true(b.progress_ns == a.progress_ns);
    fake_hold_steps(w.fake, false);
    (void) finish(&c, id);
    eventually((llm_ring_read_stats(c.e, &b), b.progress_ns > a.progress_ns));
    wire_client_close(&c);
    close_world(&w);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_before_the_model_is_loaded_everything_is_503),
        cmocka_unit_test(test_draining_finishes_what_runs_and_refuses_the_rest),
        cmocka_unit_test(test_a_retiring_engine_serves_until_it_is_deserted),
        cmocka_unit_test(test_a_request_gets_one_head_its_bytes_and_one_end),
        cmocka_unit_test(test_a_body_in_many_chunks_arrives_whole),
        cmocka_unit_test(test_a_body_beyond_the_limit_is_413_and_the_next_is_served),
        cmocka_unit_test(test_many_sessions_and_requests_do_not_mix),
        cmocka_unit_test(test_a_prompt_is_reported_and_waits_for_go),
        cmocka_unit_test(test_cancel_ends_a_request_in_every_state),
        cmocka_unit_test(test_a_half_received_body_can_be_cancelled),
        cmocka_unit_test(test_a_closed_window_parks_and_an_open_one_resumes),
        cmocka_unit_test(test_a_deadline_in_the_queue_ends_the_request),
        cmocka_unit_test(test_a_killed_worker_leaves_nothing_running),
        cmocka_unit_test(test_a_lying_worker_loses_its_session_and_nobody_else),
        cmocka_unit_test(test_impossible_times_do_not_reach_the_protocol),
        cmocka_unit_test(test_a_slow_worker_is_parked_and_loses_nothing),
        cmocka_unit_test(test_a_worker_that_reads_by_fits_and_starts_gets_everything),
        cmocka_unit_test(test_a_worker_that_never_reads_is_closed_in_the_end),
        cmocka_unit_test(test_a_thousand_aborts_leave_nothing),
        cmocka_unit_test(test_workers_that_come_and_go_leave_nothing),
        cmocka_unit_test(test_a_hung_step_thread_is_told_from_an_idle_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
