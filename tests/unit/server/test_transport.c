/* test_transport.c - the loop's promises to the layer above, step by step: after
 * the hand-shake this test runs every turn of the loop itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/base/clock.h"
#include "engine/server/listen.h"
#include "engine/server/outbox.h"
#include "engine/server/transport.h"
#include "tests/lib/wire_client.h"

struct world {
    struct listen      listening;
    struct transport  *t;
    struct wire_client c;
    struct session    *s;
    bool               connected;      /* atomic */
    int                num_events, num_room, num_close, num_beats;
};

static void
on_event(void *user, struct session *s, struct inbox_event *event)
{
    (void) s;
    (void) event;
    ((struct world *) user)->num_events++;
}

static void
on_room(void *user, struct session *s)
{
    assert_false(outbox_is_over(s));
    ((struct world *) user)->num_room++;
}

static void
on_close(void *user, struct session *s)
{
    (void) s;
    ((struct world *) user)->num_close++;
}

static void
on_beat(void *user, struct llm_stats *out)
{
    (void) out;
    ((struct world *) user)->num_beats++;
}

static void *
greet(void *arg)
{
    struct world  *w = arg;

    while (!__atomic_load_n(&w->connected, __ATOMIC_ACQUIRE)) {
        transport_turn(w->t, NS_PER_MS);
    }
    return NULL;
}

static void
open_world(struct world *w)
{
    struct transport_options  o = {
        .session = { .any_uid = true, .sq_entries = 256,
                     .arena_bytes = LLM_ARENA_BYTES_MIN,
                     .cq_bytes = LLM_CQ_BYTES_MIN, .max_requests = 512,
                     .body_bytes_max = 1 << 20, .held_bytes_max = 1 << 20,
                     .over_bytes_max = 1 << 20, .epoch = 1 },
        .max_sessions = 4, .full_ns_max = 3600 * NS_PER_S,
    };
    struct transport_hooks    hooks = { w, on_event, on_room, on_close, on_beat };
    struct err                err = { 0 };
    char                      path[64];
    pthread_t                 thread;

    memset(w, 0, sizeof *w);
    (void) snprintf(path, sizeof path, "/tmp/llm-transport-%d.sock",
                    (int) getpid());
    assert_int_equal(listen_open(&w->listening, NULL, path, &err), OK);
    assert_int_equal(transport_create(&w->t, w->listening.fd, &o, &hooks, &err),
                     OK);
    assert_int_equal(pthread_create(&thread, NULL, greet, w), 0);
    assert_int_equal(wire_client_open(&w->c, path, NULL, &err), OK);
    __atomic_store_n(&w->connected, true, __ATOMIC_RELEASE);
    (void) pthread_join(thread, NULL);
    w->s = transport_sessions(w->t);
    assert_non_null(w->s);
}

static void
close_world(struct world *w)
{
    transport_destroy(w->t);
    assert_int_equal(w->num_close, 1);
    wire_client_close(&w->c);
    listen_close(&w->listening);
}

static void
fill_ring(struct world *w)
{
    static const char  data[1000];

    (void) pthread_mutex_lock(&w->s->lock);
    while (!outbox_is_over(w->s)) {
        outbox_data(w->s, llm_req_id(0, 1), data, sizeof data);
    }
    outbox_publish(w->s);
    assert_true(outbox_is_over(w->s));
    (void) pthread_mutex_unlock(&w->s->lock);
}

/* As the worker would, but without telling. */
static void
empty_ring(struct world *w)
{
    struct llm_ring_record  rec;

    while (llm_ring_cqc_next(&w->c.cq, &rec) == LLM_OK) {
        llm_ring_cqc_pop(&w->c.cq);
    }
    (void) llm_ring_cqc_release(&w->c.cq);
}

static void
test_room_is_reported_whoever_emptied_the_list(void **state)
{
    struct world  w;

    (void) state;
    open_world(&w);
    fill_ring(&w);
    transport_turn(w.t, 0);
    assert_int_equal(w.num_room, 0);
    empty_ring(&w);
    /* What the output thread does at the end of a round. */
    (void) pthread_mutex_lock(&w.s->lock);
    outbox_publish(w.s);
    assert_false(outbox_is_over(w.s));
    (void) pthread_mutex_unlock(&w.s->lock);
    transport_turn(w.t, 0);
    assert_int_equal(w.num_room, 1);
    transport_turn(w.t, 0);
    assert_int_equal(w.num_room, 1);
    close_world(&w);
}

static void
test_room_is_reported_when_the_worker_kicks(void **state)
{
    struct world  w;
    uint64_t      one = 1;

    (void) state;
    open_world(&w);
    fill_ring(&w);
    empty_ring(&w);
    assert_int_equal(write(w.c.kick_engine_fd, &one, sizeof one), sizeof one);
    transport_turn(w.t, 0);
    assert_int_equal(w.num_room, 1);
    close_world(&w);
}

static void
test_one_turn_reads_a_bounded_number_of_descriptors(void **state)
{
    struct world  w;
    uint64_t      one = 1;

    (void) state;
    open_world(&w);
    for (int i = 0; i < 200; i++) {
        struct llm_sqe  d = { .op = LLM_OP_WINDOW, .req_id = 3 };
        assert_int_equal(llm_ring_sq_push(&w.c.sq, &d), LLM_OK);
    }
    (void) llm_ring_sq_publish(&w.c.sq);
    assert_int_equal(write(w.c.kick_engine_fd, &one, sizeof one), sizeof one);
    transport_turn(w.t, 0);
    assert_in_range(w.num_events, 1, 2 * TRANSPORT_SQ_BUDGET);
    for (int i = 0; i < 10; i++) {
        transport_turn(w.t, 0);       /* it comes back without another kick */
    }
    assert_int_equal(w.num_events, 200);
    close_world(&w);
}

static void
test_a_lost_kick_costs_one_heartbeat(void **state)
{
    struct world    w;
    struct llm_sqe  d = { .op = LLM_OP_WINDOW, .req_id = 3 };
    int64_t         start_ns = clock_now_ns();

    (void) state;
    open_world(&w);
    assert_int_equal(llm_ring_sq_push(&w.c.sq, &d), LLM_OK);
    assert_true(llm_ring_sq_publish(&w.c.sq));     /* and no kick */
    while (w.num_events == 0 && clock_now_ns() - start_ns < 5 * NS_PER_S) {
        transport_turn(w.t, -1);
    }
    assert_int_equal(w.num_events, 1);
    assert_true(clock_now_ns() - start_ns < 4 * LLM_HEARTBEAT_MS * NS_PER_MS);
    close_world(&w);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_room_is_reported_whoever_emptied_the_list),
        cmocka_unit_test(test_room_is_reported_when_the_worker_kicks),
        cmocka_unit_test(test_one_turn_reads_a_bounded_number_of_descriptors),
        cmocka_unit_test(test_a_lost_kick_costs_one_heartbeat),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
