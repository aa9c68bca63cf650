/* test_engine.c - the life of a request through the engine, step by step and
 * with real threads, on a forward pass that notices bookkeeping mistakes.
 *
 * What must not depend on the pace is run at each: step by step, one step
 * ahead, and one step ahead on a device that samples. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>
#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/hash.h"
#include "engine/base/log.h"
#include "engine/core/engine.h"
#include "tests/sim/fake_model.h"

#define TOKENS_MAX  128

static bool  ahead;              /* the pace of fixture_create() */
static bool  samples;

struct fixture {
    struct model   *model;
    struct engine  *e;
};

struct request {
    struct gen_request  gen;
    int32_t             token_ids[TOKENS_MAX];
    int32_t             num_events;
    enum finish_reason  reason;
};

static void
fixture_create(struct fixture *f, int num_blocks, const char *trace_path)
{
    struct err             err = { 0 };
    struct fake_options    m = { .max_num_seqs = 4, .block_size = 4,
                                 .max_num_batched_tokens = 16,
                                 .max_model_len = 100,
                                 .num_blocks = num_blocks,
                                 .samples = samples };
    struct engine_options  o = {
        .max_num_seqs = 4, .max_num_batched_tokens = 16, .max_model_len = 100,
        .max_waiting = 4, .enable_chunked_prefill = true,
        .async_scheduling = ahead,
        .trace_path = trace_path
    };

    f->model = fake_model_create(&m);
    if (engine_create(&f->e, &o, f->model, &err) != OK) {
        fail_msg("%s", err.message);
    }
}

static void
fixture_destroy(struct fixture *f)
{
    engine_destroy(f->e);
    fake_model_destroy(f->model);
}

static struct request *
make_request(struct engine *e, int32_t num_prompt_tokens, int32_t max_tokens)
{
    struct request  *r = calloc(1, sizeof *r);

    check(r != NULL);
    r->gen = (struct gen_request) {
        .gen_id = engine_next_id(e), .user = r, .token_ids = r->token_ids,
        .num_prompt_tokens = num_prompt_tokens, .token_cap = TOKENS_MAX,
        .max_tokens = max_tokens
    };
    for (int32_t i = 0; i < num_prompt_tokens; i++) {
        r->token_ids[i] = (int32_t) ((r->gen.gen_id * 31 + (uint64_t) i * 7)
                                     % FAKE_NAN_ID);
    }
    return r;
}

static void
on_event(const struct gen_event *ev)
{
    struct request  *r = ev->user;

    check_eq(r->reason, FINISH_NONE);
    r->num_events += ev->num_tokens;
    if (ev->type == GEN_FINISHED) {
        r->reason = ev->reason;
    }
}

static void
pop_events(struct engine *e)
{
    struct gen_event  events[16];
    int               num;

    while ((num = engine_events(e, events, 16, 0)) > 0) {
        for (int i = 0; i < num; i++) {
            on_event(&events[i]);
        }
    }
}

static void
submit(struct fixture *f, struct request *r)
{
    assert_int_equal(engine_submit(f->e, &r->gen, 1, NULL), OK);
}

static int
step(struct fixture *f)
{
    int  num_tokens = engine_step(f->e, NULL);

    engine_audit(f->e);
    pop_events(f->e);
    return num_tokens;
}

/* The outcome equals that of the request alone. */
static void
assert_complete(const struct request *r)
{
    int32_t             expected[TOKENS_MAX];
    enum finish_reason  reason;
    int32_t             num = fake_model_expect(&r->gen, expected, &reason);

    assert_int_equal(r->reason, reason);
    assert_int_equal(r->num_events, num);
    assert_memory_equal(r->token_ids + r->gen.num_prompt_tokens, expected,
                        (size_t) num * sizeof *expected);
}

static void
a_request_lives_from_prompt_chunks_to_its_length(void **state)
{
    (void) state;
    struct fixture  f;

    fixture_create(&f, 100, NULL);
    struct request  *r = make_request(f.e, 20, 3);
    submit(&f, r);
    assert_int_equal(step(&f), 16);
    assert_int_equal(r->num_events, 0);
    assert_int_equal(step(&f), 4);
    assert_int_equal(r->num_events, 1);
    assert_int_equal(step(&f), 1);
    assert_int_equal(step(&f), 1);
    assert_int_equal(r->reason, FINISH_LENGTH);
    assert_complete(r);
    assert_int_equal(step(&f), 0);
    free(r);
    fixture_destroy(&f);
}

static void
stop_ids_end_a_request_and_min_tokens_hold_them_back(void **state)
{
    (void) state;
    struct fixture  f;

    fixture_create(&f, 100, NULL);
    struct request  *plain = make_request(f.e, 5, 30);
    submit(&f, plain);
    while (plain->reason == FINISH_NONE) {
        (void) step(&f);
    }
    int32_t          third = plain->token_ids[7];
    struct request  *stopped = make_request(f.e, 5, 30);
    struct request  *held = make_request(f.e, 5, 30);
    memcpy(stopped->token_ids, plain->token_ids, 5 * sizeof(int32_t));
    memcpy(held->token_ids, plain->token_ids, 5 * sizeof(int32_t));
    stopped->gen.stop_ids[0] = held->gen.stop_ids[0] = third;
    stopped->gen.num_stop_ids = held->gen.num_stop_ids = 1;
    held->gen.min_tokens = 3;
    submit(&f, stopped);
    submit(&f, held);
    while (stopped->reason == FINISH_NONE || held->reason == FINISH_NONE) {
        (void) step(&f);
    }
    assert_int_equal(stopped->reason, FINISH_STOP);
    assert_true(stopped->num_events <= 3);
    assert_true(held->num_events > 3);
    assert_true(held->token_ids[7] != third);
    assert_complete(stopped);
    assert_complete(held);
    free(plain);
    free(stopped);
    free(held);
    fixture_destroy(&f);
}

static void
a_cancel_is_honoured_in_every_state(void **state)
{
    (void) state;
    struct fixture       f;
    struct request      *r[6];
    struct engine_stats  stats;

    fixture_create(&f, 100, NULL);
    for (int i = 0; i < 6; i++) {
        r[i] = make_request(f.e, i == 1 ? 60 : 4, 30);
        submit(&f, r[i]);
    }
    engine_cancel(f.e, r[5]->gen.gen_id, FINISH_CLIENT_ABORT);  /* not taken */
    assert_true(step(&f) > 0);
    assert_int_equal(r[5]->reason, FINISH_CLIENT_ABORT);
    engine_park(f.e, r[2]->gen.gen_id, true);
    (void) step(&f);
    assert_int_equal(r[0]->reason, FINISH_NONE);
    engine_cancel(f.e, r[0]->gen.gen_id, FINISH_CLIENT_ABORT);  /* decode */
    engine_cancel(f.e, r[1]->gen.gen_id, FINISH_SLOW_READER);   /* prefill */
    engine_cancel(f.e, r[2]->gen.gen_id, FINISH_SLOW_READER);   /* parked */
    engine_cancel(f.e, r[4]->gen.gen_id, FINISH_STOP);
    engine_cancel(f.e, 123456, FINISH_STOP);                    /* nobody */
    (void) step(&f);
    assert_int_equal(r[0]->reason, FINISH_CLIENT_ABORT);
    assert_int_equal(r[1]->reason, FINISH_SLOW_READER);
    assert_int_equal(r[2]->reason, FINISH_SLOW_READER);
    assert_int_equal(r[4]->reason, FINISH_STOP);
    while (r[3]->reason == FINISH_NONE) {
        assert_true(step(&f) > 0);
    }
    assert_complete(r[3]);
    (void) step(&f);
    engine_stats(f.e, &stats);
    assert_int_equal(stats.kv_blocks_used, 0);
    engine_cancel(f.e, r[3]->gen.gen_id, FINISH_STOP);          /* late */
    assert_int_equal(step(&f), 0);
    for (int i = 0; i < 6; i++) {
        free(r[i]);
    }
    fixture_destroy(&f);
}

static void
deadlines_end_waiting_and_running_requests(void **state)
{
    (void) state;
    struct fixture  f;

    fixture_create(&f, 100, NULL);
    struct request  *late = make_request(f.e, 4, 30);
    struct request  *later = make_request(f.e, 4, 90);
    struct request  *never = make_request(f.e, 4, 3);
    late->gen.deadline_ns = clock_now_ns() - 1;
    later->gen.deadline_ns = clock_now_ns() + 30 * NS_PER_MS;
    submit(&f, late);
    submit(&f, later);
    submit(&f, never);
    (void) step(&f);
    assert_int_equal(late->reason, FINISH_DEADLINE);
    assert_int_equal(late->num_events, 0);
    assert_int_equal(later->num_events, 1);
    engine_park(f.e, later->gen.gen_id, true);
    while (clock_now_ns() < later->gen.deadline_ns) {
        (void) step(&f);
    }
    (void) step(&f);
    assert_int_equal(later->reason, FINISH_DEADLINE);
    assert_complete(never);
    free(late);
    free(later);
    free(never);
    fixture_destroy(&f);
}

static void
a_numeric_error_ends_that_request_only(void **state)
{
    (void) state;
    struct fixture  f;

    fixture_create(&f, 100, NULL);
    struct request  *bad = make_request(f.e, 4, 5);
    struct request  *good = make_request(f.e, 4, 5);
    bad->token_ids[2] = FAKE_NAN_ID;
    submit(&f, bad);
    submit(&f, good);
    for (int i = 0; i < 5 + ahead; i++) {
        (void) step(&f);
    }
    assert_int_equal(bad->reason, FINISH_NUMERIC_ERROR);
    assert_int_equal(bad->num_events, 0);
    assert_complete(good);
    free(bad);
    free(good);
    fixture_destroy(&f);
}

static void
what_cannot_be_served_is_refused_at_submit(void **state)
{
    (void) state;
    struct fixture       f;
    struct err           err;
    struct gen_request   many[9];

    fixture_create(&f, 9, NULL);       /* 32 tokens of KV */
    struct request  *r = make_request(f.e, 30, 4);
    assert_int_equal(engine_submit(f.e, &r->gen, 1, &err), ERROR);
    assert_int_equal(err.http_status, 400);
    assert_non_null(strstr(err.message, "KV cache of 32 tokens"));
    r->gen.max_tokens = 3;             /* the last is never computed */
    r->token_ids[4] = FAKE_VOCAB;
    assert_int_equal(engine_submit(f.e, &r->gen, 1, &err), ERROR);
    assert_non_null(strstr(err.message, "token id 97"));
    r->token_ids[4] = 0;
    assert_int_equal(engine_submit(f.e, &r->gen, 1, &err), OK);
    for (int i = 0; i < 8; i++) {      /* 4 + 4 places, one is taken */
        many[i] = r->gen;
        many[i].gen_id = engine_next_id(f.e);
    }
    assert_int_equal(engine_submit(f.e, many, 8, &err), AGAIN);
    assert_int_equal(err.http_status, 503);
    engine_stop(f.e);
    (void) step(&f);
    assert_int_equal(r->reason, FINISH_SHUTDOWN);
    free(r);
    fixture_destroy(&f);
}

static void
a_lost_backend_ends_everything_and_says_why(void **state)
{
    (void) state;
    struct fixture    f;
    struct gen_event  ev;

    fixture_create(&f, 100, NULL);
    struct request  *r = make_request(f.e, 4, 30);
    submit(&f, r);
    fake_model_lose(f.model);
    struct err  *err = engine_run(f.e);
    assert_non_null(err);
    assert_string_equal(err->message, "the device is lost");
    assert_int_equal(engine_events(f.e, &ev, 1, -1), 1);
    assert_int_equal(ev.reason, FINISH_ENGINE_LOST);
    assert_int_equal(engine_events(f.e, &ev, 1, -1), ERROR);
    assert_int_equal(engine_submit(f.e, &r->gen, 1, NULL), ERROR);
    free(r);
    fixture_destroy(&f);
}

static void
options_beyond_the_model_are_refused(void **state)
{
    (void) state;
    struct fixture         f;
    struct engine         *e;
    struct err             err;
    struct engine_options  o = {
        .max_num_seqs = 5, .max_num_batched_tokens = 16, .max_model_len = 100,
        .enable_chunked_prefill = true
    };

    fixture_create(&f, 100, NULL);
    assert_int_equal(engine_create(&e, &o, f.model, &err), ERROR);
    assert_null(e);
    o.max_num_seqs = 4;
    o.trace_path = "/nonexistent/trace";
    assert_int_equal(engine_create(&e, &o, f.model, &err), ERROR);
    assert_non_null(strstr(err.message, "/nonexistent/trace"));
    fixture_destroy(&f);
}

static void
the_trace_has_one_line_a_step_and_the_report_every_sequence(void **state)
{
    (void) state;
    struct fixture  f;
    char            path[] = "/tmp/test_engine_trace.XXXXXX";
    char            text[4096];
    struct buf      report;
    int             fd = mkstemp(path);

    assert_true(fd >= 0);
    fixture_create(&f, 100, path);
    struct request  *a = make_request(f.e, 20, 2), *b = make_request(f.e, 3, 9);
    submit(&f, a);
    submit(&f, b);
    for (int i = 0; i < 3; i++) {
        (void) step(&f);
    }
    (void) step(&f);
    engine_cancel(f.e, b->gen.gen_id, FINISH_CLIENT_ABORT);
    buf_init(&report, 1 << 16);
    engine_report(f.e, &report);
    buf_append_c(&report, '\0');
    assert_non_null(strstr(report.data, "running=1 "));
    assert_non_null(strstr(report.data, "seq 2 decode prompt=3 output=3/9"));
    assert_non_null(strstr(report.data, "step 0 prefill_tokens=16"));
    buf_destroy(&report);
    (void) step(&f);
    assert_int_equal(step(&f), 0);         /* idle: no line */

    ssize_t  len = read(fd, text, sizeof text - 1);
    assert_true(len > 0);
    text[len] = '\0';
    int  num_lines = 0;
    for (char *c = text; *c != '\0'; c++) {
        num_lines += *c == '\n';
    }
    assert_int_equal(num_lines, 5);
    assert_non_null(strstr(text, "\"plan\":[[1,\"prefill\",16,0]],\"preempted\""
                                 ":[],\"finished\":[]"));
    assert_non_null(strstr(text, "[1,\"prefill\",4,16],[2,\"prefill\",3,0]"));
    assert_non_null(strstr(text, "\"finished\":[[1,\"length\"]]"));
    assert_non_null(strstr(text, "\"plan\":[],\"preempted\":[],\"finished\":"
                                 "[[2,\"client_abort\"]]"));
    (void) close(fd);
    (void) unlink(path);
    free(a);
    free(b);
    fixture_destroy(&f);
}

/* ---- one step ahead ---- */

static void
ahead_a_token_is_seen_one_turn_later(void **state)
{
    (void) state;
    struct fixture  f;

    fixture_create(&f, 100, NULL);
    struct request  *r = make_request(f.e, 20, 3);
    submit(&f, r);
    assert_int_equal(step(&f), 16);        /* issued */
    assert_int_equal(step(&f), 4);
    assert_int_equal(r->num_events, 0);
    assert_int_equal(step(&f), 1);         /* decode of a token not seen yet */
    assert_int_equal(r->num_events, 1);
    assert_int_equal(step(&f), 1);
    assert_int_equal(r->num_events, 2);
    assert_int_equal(step(&f), 1);         /* nothing to issue: collected */
    assert_int_equal(r->reason, FINISH_LENGTH);
    assert_complete(r);
    assert_int_equal(step(&f), 0);
    free(r);
    fixture_destroy(&f);
}

/* At every position, and with another request beside it. */
static void
ahead_a_stop_wastes_one_row_and_nothing_else(void **state)
{
    (void) state;
    for (int32_t at = 0; at < 12; at++) {
        struct fixture       f;
        struct engine_stats  stats;
        int32_t              expected[TOKENS_MAX];
        enum finish_reason   reason;

        fixture_create(&f, 100, NULL);
        struct request  *r = make_request(f.e, 3, 12);
        struct request  *other = make_request(f.e, 5, 20);
        (void) fake_model_expect(&r->gen, expected, &reason);
        r->gen.stop_ids[0] = expected[at];
        r->gen.num_stop_ids = 1;
        submit(&f, r);
        submit(&f, other);
        while (r->reason == FINISH_NONE) {
            (void) step(&f);
        }
        assert_complete(r);
        int32_t  num = r->num_events;
        engine_stats(f.e, &stats);
        assert_true(stats.generation_tokens_total
                    == (uint64_t) (num + other->num_events));
        while (other->reason == FINISH_NONE) {
            (void) step(&f);
        }
        assert_int_equal(r->num_events, num);
        assert_complete(other);
        engine_stats(f.e, &stats);
        assert_int_equal(stats.kv_blocks_used, 0);
        free(r);
        free(other);
        fixture_destroy(&f);
    }
}

static void
ahead_an_end_from_outside_comes_at_once_with_what_was_seen(void **state)
{
    (void) state;
    struct fixture       f;
    struct engine_stats  stats;

    fixture_create(&f, 100, NULL);
    struct request  *gone = make_request(f.e, 3, 12);
    struct request  *late = make_request(f.e, 3, 12);
    struct request  *ending = make_request(f.e, 3, 3);
    submit(&f, gone);
    submit(&f, ending);
    late->gen.deadline_ns = clock_now_ns() + 20 * NS_PER_MS;
    submit(&f, late);
    for (int i = 0; i < 3; i++) {
        (void) step(&f);
    }
    assert_int_equal(gone->num_events, 2);         /* the third is in flight */
    engine_cancel(f.e, gone->gen.gen_id, FINISH_CLIENT_ABORT);
    engine_cancel(f.e, ending->gen.gen_id, FINISH_SLOW_READER);
    while (clock_now_ns() < late->gen.deadline_ns) {
    }
    engine_stats(f.e, &stats);
    assert_int_equal(stats.num_running, 3);
    (void) step(&f);
    assert_int_equal(gone->reason, FINISH_CLIENT_ABORT);
    assert_int_equal(gone->num_events, 2);
    assert_int_equal(ending->reason, FINISH_SLOW_READER);
    assert_int_equal(ending->num_events, 2);       /* its last was on its way */
    assert_int_equal(late->reason, FINISH_DEADLINE);
    assert_int_equal(late->num_events, 2);
    assert_int_equal(step(&f), 0);
    engine_stats(f.e, &stats);
    assert_int_equal(stats.kv_blocks_used, 0);
    assert_int_equal(stats.generation_tokens_total, 6);
    free(gone);
    free(late);
    free(ending);
    fixture_destroy(&f);
}

static void
ahead_a_device_lost_in_flight_ends_everything_once(void **state)
{
    (void) state;
    struct fixture  f;
    struct err      err;

    fixture_create(&f, 100, NULL);
    struct request  *r = make_request(f.e, 4, 30), *q = make_request(f.e, 4, 2);
    submit(&f, r);
    submit(&f, q);
    (void) step(&f);
    (void) step(&f);
    assert_int_equal(q->num_events, 1);            /* and one on its way */
    fake_model_lose(f.model);
    struct err  *lost = engine_run(f.e);
    assert_non_null(lost);
    assert_string_equal(lost->message, "the device is lost");
    pop_events(f.e);
    assert_int_equal(r->reason, FINISH_ENGINE_LOST);
    assert_int_equal(q->reason, FINISH_ENGINE_LOST);
    engine_audit(f.e);
    assert_int_equal(engine_submit(f.e, &r->gen, 1, &err), ERROR);
    free(r);
    free(q);
    fixture_destroy(&f);
}

static void
ahead_a_stop_of_the_engine_waits_for_the_device(void **state)
{
    (void) state;
    struct fixture       f;
    struct engine_stats  stats;

    fixture_create(&f, 100, NULL);
    struct request  *r = make_request(f.e, 4, 30);
    submit(&f, r);
    (void) step(&f);
    (void) step(&f);
    engine_stop(f.e);
    (void) step(&f);
    assert_int_equal(r->reason, FINISH_SHUTDOWN);
    engine_stats(f.e, &stats);
    assert_int_equal(stats.num_steps, 2);          /* both collected */
    assert_int_equal(stats.kv_blocks_used, 0);
    free(r);
    fixture_destroy(&f);
}

static void
ahead_the_trace_tells_ends_with_the_plan_made_before(void **state)
{
    (void) state;
    struct fixture  f;
    char            path[] = "/tmp/test_engine_trace.XXXXXX";
    char            text[4096];
    struct buf      report;
    int             fd = mkstemp(path), num_lines = 0;

    assert_true(fd >= 0);
    fixture_create(&f, 100, path);
    struct request  *a = make_request(f.e, 3, 2), *b = make_request(f.e, 3, 3);
    submit(&f, a);
    submit(&f, b);
    (void) step(&f);
    (void) step(&f);
    buf_init(&report, 1 << 16);
    engine_report(f.e, &report);
    buf_append_c(&report, '\0');
    assert_non_null(strstr(report.data, "seq 1 ending* prompt=3 output=1/2"));
    assert_non_null(strstr(report.data, "seq 2 decode* prompt=3 output=1/3"));
    assert_non_null(strstr(report.data, " waited_us="));
    buf_destroy(&report);
    while (step(&f) > 0) {
    }
    ssize_t  len = read(fd, text, sizeof text - 1);
    assert_true(len > 0);
    text[len] = '\0';
    for (char *c = text; *c != '\0'; c++) {
        num_lines += *c == '\n';
    }
    assert_int_equal(num_lines, 4);        /* the last has no plan */
    assert_non_null(strstr(text, "\"plan\":[[2,\"decode\",1,4]],\"preempted\""
                                 ":[],\"finished\":[[1,\"length\"]],"));
    assert_non_null(strstr(text, samples ? "\"device\":[[1,2,1000]],\"issued_ns\""
                                 : "\"device\":[],\"issued_ns\":"));
    assert_non_null(strstr(text, "\"wait_ns\":"));
    assert_non_null(strstr(text, "\"plan\":[],\"preempted\":[],\"finished\":"
                                 "[[2,\"length\"]]"));
    (void) close(fd);
    (void) unlink(path);
    free(a);
    free(b);
    fixture_destroy(&f);
}

/* What happens while the device computes the only step in flight. */
struct gathering {
    struct fixture  *f;
    struct request  *r[4];         /* come one by one */
    int              num, num_asked;
};

static bool
newcomers(void *data)
{
    struct gathering    *g = data;
    struct engine_stats  stats;

    engine_stats(g->f->e, &stats);
    if (g->num_asked < g->num) {
        assert_int_equal(stats.num_waiting, g->num_asked);
    }
    if (g->num_asked++ < g->num) {
        submit(g->f, g->r[g->num_asked - 1]);
    }
    return g->num_asked > 100;
}

/* A request of one token is on its way, and `num` more come meanwhile.  Returns
 * how often the device was asked before they were issued. */
static int
gather(struct fixture *f, struct gathering *g, int num)
{
    struct request  *first = make_request(f->e, 2, 1);

    *g = (struct gathering) { .f = f, .num = num };
    for (int i = 0; i < num; i++) {
        g->r[i] = make_request(f->e, 2, 1);
    }
    submit(f, first);
    (void) step(f);
    fake_model_ask(f->model, newcomers, g);
    (void) step(f);
    assert_complete(first);
    int  num_asked = g->num_asked;
    (void) step(f);
    for (int i = 0; i < num; i++) {
        assert_complete(g->r[i]);
        free(g->r[i]);
    }
    free(first);
    return num_asked;
}

static void
ahead_newcomers_gather_until_the_device_is_done_or_seats_are_taken(void **state)
{
    (void) state;
    struct fixture       f;
    struct gathering     g;
    struct engine_stats  stats;

    if (!samples) {
        return;
    }
    for (int num = 2; num <= 4; num += 2) {
        fixture_create(&f, 100, NULL);
        assert_int_equal(gather(&f, &g, num), num < 4 ? 101 : 4);
        engine_stats(f.e, &stats);
        assert_int_equal(stats.num_steps, 2);
        fixture_destroy(&f);
    }
}

static bool
comers_and_goers(void *data)
{
    struct gathering  *g = data;
    struct request    *r = make_request(g->f->e, 2, 1);

    pop_events(g->f->e);
    submit(g->f, r);
    engine_cancel(g->f->e, r->gen.gen_id, FINISH_CLIENT_ABORT);
    free(g->r[3]);
    g->r[3] = g->r[2];
    g->r[2] = r;
    return ++g->num_asked > 200;
}

static int
num_matches(const char *text, const char *word)
{
    int  num = 0;

    for (; (text = strstr(text, word)) != NULL; text += strlen(word)) {
        num++;
    }
    return num;
}

/* A line has room for one end of each sequence that can be there. */
static void
ahead_the_trace_has_room_for_all_that_come_and_go_in_a_turn(void **state)
{
    (void) state;
    static char       text[1 << 20];
    char              path[] = "/tmp/test_engine_trace.XXXXXX";
    int               fd = mkstemp(path);
    struct fixture    f;
    struct gathering  g = { .f = &f };

    assert_true(fd >= 0);
    fixture_create(&f, 100, path);
    struct request  *first = make_request(f.e, 2, 1);
    submit(&f, first);
    (void) step(&f);
    fake_model_ask(f.model, comers_and_goers, &g);
    while (step(&f) > 0) {
    }
    assert_complete(first);
    ssize_t  len = read(fd, text, sizeof text - 1);
    assert_true(len > 0);
    text[len] = '\0';
    assert_int_equal(num_matches(text, "\"client_abort\""), g.num_asked);
    assert_int_equal(num_matches(text, "\"step_ns\""),
                     num_matches(text, "}\n"));
    (void) close(fd);
    (void) unlink(path);
    free(first);
    free(g.r[2]);
    free(g.r[3]);
    fixture_destroy(&f);
}

/* A turn that only collects, and in which nothing ends. */
static void
ahead_the_trace_tells_the_device_time_of_every_step(void **state)
{
    (void) state;
    char            path[] = "/tmp/test_engine_trace.XXXXXX";
    char            text[4096];
    int             fd = mkstemp(path);
    struct fixture  f;

    assert_true(fd >= 0);
    fixture_create(&f, 100, path);
    struct request  *r = make_request(f.e, 3, 9);
    submit(&f, r);
    (void) step(&f);
    engine_park(f.e, r->gen.gen_id, true);
    (void) step(&f);
    ssize_t  len = read(fd, text, sizeof text - 1);
    assert_true(len > 0);
    text[len] = '\0';
    assert_int_equal(num_matches(text, "\"device\":[[0,1,1000]]"), samples);
    assert_int_equal(num_matches(text, "\n"), samples ? 2 : 1);
    engine_park(f.e, r->gen.gen_id, false);
    while (step(&f) > 0) {
    }
    assert_complete(r);
    (void) close(fd);
    (void) unlink(path);
    free(r);
    fixture_destroy(&f);
}

/* ---- with threads ---- */

static int64_t
thread_cpu_ns(pthread_t thread)
{
    clockid_t        clock;
    struct timespec  t;

    assert_int_equal(pthread_getcpuclockid(thread, &clock), 0);
    assert_int_equal(clock_gettime(clock, &t), 0);
    return t.tv_sec * NS_PER_S + t.tv_nsec;
}

static void
an_idle_engine_sleeps_and_wakes_for_a_parked_deadline(void **state)
{
    (void) state;
    struct fixture     f;
    struct gen_event   ev;
    pthread_t          thread;
    struct timespec    pause = { 0, 100000000 };

    fixture_create(&f, 100, NULL);
    struct request  *r = make_request(f.e, 4, 30);
    r->gen.deadline_ns = clock_now_ns() + 200 * NS_PER_MS;
    submit(&f, r);
    engine_park(f.e, r->gen.gen_id, true);
    assert_int_equal(pthread_create(&thread, NULL, engine_run, f.e), 0);
    int64_t  cpu_ns = thread_cpu_ns(thread);
    (void) nanosleep(&pause, NULL);
    cpu_ns = thread_cpu_ns(thread) - cpu_ns;
    assert_true(cpu_ns < 10 * NS_PER_MS);
    assert_int_equal(engine_events(f.e, &ev, 1, 5 * NS_PER_S), 1);
    assert_int_equal(ev.type, GEN_FINISHED);
    assert_int_equal(ev.reason, FINISH_DEADLINE);
    engine_stop(f.e);
    assert_int_equal(pthread_join(thread, NULL), 0);
    free(r);
    fixture_destroy(&f);
}

#define SUBMITTERS     3
#define PER_SUBMITTER  150

struct crowd {
    struct fixture   f;
    struct request  *requests[SUBMITTERS][PER_SUBMITTER];
    int              num_ended;
};

struct submitter {
    struct crowd *crowd;
    int           idx;
};

static void *
submitter_run(void *data)
{
    struct submitter  *me = data;
    struct engine     *e = me->crowd->f.e;

    for (int i = 0; i < PER_SUBMITTER; i++) {
        struct request  *r = me->crowd->requests[me->idx][i];
        uint64_t         luck = hash_mix64(r->gen.gen_id * 17) % 8;
        while (engine_submit(e, &r->gen, 1, NULL) == AGAIN) {
            (void) sched_yield();
        }
        if (luck < 2) {
            engine_park(e, r->gen.gen_id, true);
            engine_park(e, r->gen.gen_id, false);
        } else if (luck == 2) {
            engine_cancel(e, r->gen.gen_id, FINISH_CLIENT_ABORT);
        }
    }
    return NULL;
}

static void *
output_run(void *data)
{
    struct crowd      *crowd = data;
    struct gen_event   events[7];
    int                num;

    while ((num = engine_events(crowd->f.e, events, 7, -1)) >= 0) {
        for (int i = 0; i < num; i++) {
            on_event(&events[i]);
            crowd->num_ended += events[i].type == GEN_FINISHED;
        }
    }
    return NULL;
}

static void
threads_submit_cancel_and_read_at_once(void **state)
{
    (void) state;
    static struct crowd  crowd;
    struct submitter     submitters[SUBMITTERS];
    pthread_t            step_thread, output_thread, threads[SUBMITTERS];
    struct engine_stats  stats;
    struct buf           report;

    crowd.num_ended = 0;
    fixture_create(&crowd.f, 20, NULL);
    buf_init(&report, 1 << 20);
    for (int i = 0; i < SUBMITTERS; i++) {
        for (int k = 0; k < PER_SUBMITTER; k++) {
            crowd.requests[i][k] = make_request(crowd.f.e, 1 + k % 30,
                                                1 + k % 13);
        }
    }
    assert_int_equal(pthread_create(&step_thread, NULL, engine_run,
                                    crowd.f.e), 0);
    assert_int_equal(pthread_create(&output_thread, NULL, output_run, &crowd),
                     0);
    for (int i = 0; i < SUBMITTERS; i++) {
        submitters[i] = (struct submitter) { &crowd, i };
        assert_int_equal(pthread_create(&threads[i], NULL, submitter_run,
                                        &submitters[i]), 0);
    }
    for (int i = 0; i < 50; i++) {             /* looked at from outside */
        buf_reset(&report);
        engine_report(crowd.f.e, &report);
        engine_stats(crowd.f.e, &stats);
        assert_true(stats.kv_blocks_used <= stats.kv_blocks_total);
    }
    for (int i = 0; i < SUBMITTERS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    do {
        engine_stats(crowd.f.e, &stats);
    } while (stats.requests_total < SUBMITTERS * PER_SUBMITTER
             || stats.num_running + stats.num_waiting + stats.num_parked > 0);
    engine_stop(crowd.f.e);
    assert_int_equal(pthread_join(step_thread, NULL), 0);
    assert_int_equal(pthread_join(output_thread, NULL), 0);
    assert_int_equal(crowd.num_ended, SUBMITTERS * PER_SUBMITTER);
    for (int i = 0; i < SUBMITTERS; i++) {
        for (int k = 0; k < PER_SUBMITTER; k++) {
            struct request  *r = crowd.requests[i][k];
            if (r->reason != FINISH_CLIENT_ABORT) {
                assert_complete(r);
            }
            free(r);
        }
    }
    buf_destroy(&report);
    fixture_destroy(&crowd.f);
}

int
main(void)
{
    const struct CMUnitTest step_by_step[] = {
        cmocka_unit_test(a_request_lives_from_prompt_chunks_to_its_length),
        cmocka_unit_test(deadlines_end_waiting_and_running_requests),
        cmocka_unit_test(options_beyond_the_model_are_refused),
        cmocka_unit_test(
            the_trace_has_one_line_a_step_and_the_report_every_sequence),
    };
    const struct CMUnitTest one_ahead[] = {
        cmocka_unit_test(ahead_a_token_is_seen_one_turn_later),
        cmocka_unit_test(ahead_a_stop_wastes_one_row_and_nothing_else),
        cmocka_unit_test(
            ahead_an_end_from_outside_comes_at_once_with_what_was_seen),
        cmocka_unit_test(ahead_a_device_lost_in_flight_ends_everything_once),
        cmocka_unit_test(ahead_a_stop_of_the_engine_waits_for_the_device),
        cmocka_unit_test(ahead_the_trace_tells_ends_with_the_plan_made_before),
        cmocka_unit_test(
            ahead_newcomers_gather_until_the_device_is_done_or_seats_are_taken),
        cmocka_unit_test(
            ahead_the_trace_has_room_for_all_that_come_and_go_in_a_turn),
        cmocka_unit_test(ahead_the_trace_tells_the_device_time_of_every_step),
    };
    const struct CMUnitTest at_every_pace[] = {
        cmocka_unit_test(stop_ids_end_a_request_and_min_tokens_hold_them_back),
        cmocka_unit_test(a_cancel_is_honoured_in_every_state),
        cmocka_unit_test(a_numeric_error_ends_that_request_only),
        cmocka_unit_test(what_cannot_be_served_is_refused_at_submit),
        cmocka_unit_test(a_lost_backend_ends_everything_and_says_why),
        cmocka_unit_test(an_idle_engine_sleeps_and_wakes_for_a_parked_deadline),
        cmocka_unit_test(threads_submit_cancel_and_read_at_once),
    };
    log_level = LOG_ALERT;
    int  num_failed = cmocka_run_group_tests(step_by_step, NULL, NULL);

    for (int pace = 0; pace < 4; pace++) {
        ahead = pace % 2 != 0;
        samples = pace / 2 != 0;
        printf("%s, %s\n", ahead ? "one step ahead" : "step by step",
               samples ? "the device samples" : "the host samples");
        num_failed += cmocka_run_group_tests(at_every_pace, NULL, NULL);
        if (ahead) {
            num_failed += cmocka_run_group_tests(one_ahead, NULL, NULL);
        }
    }
    return num_failed;
}
