/* test_llm_ring.c - both rings, both ends, in one thread: order, wrap, limits,
 * and every lie the peer can write. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "wire/llm_ring.h"
#include "wire/llm_route.h"

#define ENTRIES       16u
#define ARENA         65536u
#define CQ            65536u
#define REQUESTS      32u
#define RANDOM_STEPS  300000

struct pair {
    struct llm_geometry  g;
    void                *w, *e;
    uint64_t             marks[ENTRIES];
    struct llm_ring_sq   sq;
    struct llm_ring_sqc  sqc;
    struct llm_ring_cq   cq;
    struct llm_ring_cqc  cqc;
};

static void
open_pair(struct pair *p)
{
    const char  *why = NULL;

    memset(p, 0, sizeof *p);
    assert_int_equal(llm_wire_layout(&p->g, ENTRIES, ARENA, CQ, &why), LLM_OK);
    p->w = aligned_alloc(4096, p->g.w_bytes);
    p->e = aligned_alloc(4096, p->g.e_bytes);
    memset(p->w, 0, p->g.w_bytes);
    memset(p->e, 0, p->g.e_bytes);
    llm_ring_sq_init(&p->sq, &p->g, p->w, p->e, p->marks);
    llm_ring_sqc_init(&p->sqc, &p->g, p->w, p->e, REQUESTS);
    llm_ring_cq_init(&p->cq, &p->g, p->w, p->e);
    llm_ring_cqc_init(&p->cqc, &p->g, p->w, p->e);
}

static void
close_pair(struct pair *p)
{
    free(p->w);
    free(p->e);
}

static uint64_t
next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

static struct llm_sqe
submit_of(uint32_t slot, uint32_t len)
{
    return (struct llm_sqe) { .op = LLM_OP_SUBMIT,
                              .route = LLM_ROUTE_CHAT_COMPLETIONS,
                              .req_id = llm_req_id(slot, 1), .len = len,
                              .total_bytes = len };
}

static bool
try_submit(struct pair *p, uint32_t slot, uint32_t len, uint8_t fill)
{
    struct llm_sqe  d = submit_of(slot, len);
    void           *mem = llm_ring_sq_reserve(&p->sq, len);

    if (mem == NULL) {
        return false;
    }
    memset(mem, fill, len);
    assert_int_equal(llm_ring_sq_push(&p->sq, &d), LLM_OK);
    return true;
}

/* ---- SQ ------------------------------------------------------------------------ */
static void
test_what_is_submitted_arrives_after_publish(void **state)
{
    struct pair      p;
    struct llm_sqe   d;
    const uint8_t   *payload;

    (void) state;
    open_pair(&p);
    assert_true(try_submit(&p, 3, 100, 'a'));
    assert_int_equal(llm_ring_sqc_next(&p.sqc, &d, &payload), LLM_AGAIN);
    assert_false(llm_ring_sq_publish(&p.sq));
    assert_int_equal(llm_ring_sqc_next(&p.sqc, &d, &payload), LLM_OK);
    assert_int_equal(d.req_id, llm_req_id(3, 1));
    assert_int_equal(d.len, 100);
    assert_int_equal(payload[99], 'a');
    llm_ring_sqc_pop(&p.sqc);
    assert_int_equal(llm_ring_sqc_next(&p.sqc, &d, &payload), LLM_AGAIN);
    close_pair(&p);
}

static void
test_a_full_ring_and_a_full_arena_refuse(void **state)
{
    struct pair      p;
    struct llm_sqe   d, cancel = { .op = LLM_OP_CANCEL, .req_id = 5 };
    const uint8_t   *payload;
    uint32_t         n = 0;

    (void) state;
    open_pair(&p);
    assert_null(llm_ring_sq_reserve(&p.sq, ARENA / 4 + 1));
    while (try_submit(&p, 1, ARENA / 4, 0)) {
        n++;
    }
    assert_int_equal(n, 4);
    while (llm_ring_sq_push(&p.sq, &cancel) == LLM_OK) {
        n++;
    }
    assert_int_equal(n, ENTRIES);
    (void) llm_ring_sq_publish(&p.sq);
    assert_int_equal(llm_ring_sq_room(&p.sq), 0);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(llm_ring_sqc_next(&p.sqc, &d, &payload), LLM_OK);
        llm_ring_sqc_pop(&p.sqc);
    }
    (void) llm_ring_sqc_release(&p.sqc);
    assert_int_equal(llm_ring_sq_room(&p.sq), 2);
    assert_true(try_submit(&p, 1, ARENA / 4, 0));
    assert_true(try_submit(&p, 1, ARENA / 4, 0));
    assert_false(try_submit(&p, 1, 1, 0));
    close_pair(&p);
}

/* A model of the arena: every payload keeps its bytes until it is popped. */
static void
test_random_payloads_survive_wrap_arounds(void **state)
{
    struct pair  p;
    uint64_t     seed = (uint64_t) time(NULL) | 1, x = seed, in = 0, out = 0;
    uint32_t     lens[ENTRIES];

    (void) state;
    print_message("seed %llu\n", (unsigned long long) seed);
    open_pair(&p);
    for (int i = 0; i < RANDOM_STEPS; i++) {
        struct llm_sqe  d;
        const uint8_t  *payload;
        uint32_t        len = (uint32_t) (next_random(&x) % (ARENA / 4)) + 1;
        if ((next_random(&x) & 1) != 0) {
            if (in - out < ENTRIES
                && try_submit(&p, (uint32_t) (in % REQUESTS), len, (uint8_t) in))
            {
                lens[in++ % ENTRIES] = len;
            }
            (void) llm_ring_sq_publish(&p.sq);
        } else if (llm_ring_sqc_next(&p.sqc, &d, &payload) == LLM_OK) {
            assert_int_equal(d.len, lens[out % ENTRIES]);
            assert_int_equal(payload[0], (uint8_t) out);
            assert_int_equal(payload[d.len - 1], (uint8_t) out);
            out++;
            llm_ring_sqc_pop(&p.sqc);
            if ((next_random(&x) & 3) == 0) {
                (void) llm_ring_sqc_release(&p.sqc);
            }
        } else {
            (void) llm_ring_sqc_release(&p.sqc);
        }
        assert_null(p.sq.error);
        assert_null(p.sqc.error);
    }
    assert_true(out > RANDOM_STEPS / 10);
    close_pair(&p);
}

static void
expect_violation(const struct llm_sqe *d)
{
    struct pair      p;
    struct llm_sqe   got;
    const uint8_t   *payload;

    open_pair(&p);
    memcpy((uint8_t *) p.w + p.g.sq_off, d, sizeof *d);
    ((struct llm_region_w *) p.w)->sq_tail = 1;
    assert_int_equal(llm_ring_sqc_next(&p.sqc, &got, &payload), LLM_ERROR);
    assert_non_null(p.sqc.error);
    /* It stays an error. */
    assert_int_equal(llm_ring_sqc_next(&p.sqc, &got, &payload), LLM_ERROR);
    close_pair(&p);
}

static void
test_every_bad_descriptor_is_a_violation(void **state)
{
    struct llm_sqe  good = submit_of(1, 100), d;

    (void) state;
#define BAD(change)  d = good, change, expect_violation(&d)
    BAD(d.op = LLM_OP_NONE);
    BAD(d.op = LLM_OP_COUNT);
    BAD(d.op = 255);
    BAD(d.flags = 0x80);
    BAD(d.route = LLM_ROUTE_NONE);
    BAD(d.route = LLM_ROUTE_COUNT);
    BAD(d.req_id = llm_req_id(REQUESTS, 1));
    BAD(d.arena_off = ARENA - 99);
    BAD(d.arena_off = UINT64_MAX);
    BAD((d.len = ARENA / 4 + 1, d.total_bytes = d.len));
    BAD(d.len = UINT32_MAX);
    BAD(d.meta_bytes = 101);
    BAD(d.total_bytes = 99);
    BAD(d.total_bytes = 101);
    BAD(d.flags = LLM_SQE_MORE);
    BAD((d.op = LLM_OP_CHUNK, d.len = 0));
    BAD((d.op = LLM_OP_CHUNK, d.flags = LLM_SQE_WANT_PROMPT));
    BAD(d.op = LLM_OP_CANCEL);
    BAD((d.op = LLM_OP_CANCEL, d.len = 0, d.value = LLM_FINISH_COUNT));
    BAD((d.op = LLM_OP_WINDOW, d.len = 0, d.value = 2));
    BAD((d.op = LLM_OP_GO, d.len = 0, d.value = 2));
    BAD(d.op = LLM_OP_GOODBYE);
#undef BAD
}

static void
test_indices_out_of_range_are_violations(void **state)
{
    static const uint64_t  tails[] = { ENTRIES + 1, UINT64_MAX, 1ull << 63 };
    struct pair            p;
    struct llm_sqe         d;
    const uint8_t         *payload;

    (void) state;
    for (size_t i = 0; i < sizeof tails / sizeof tails[0]; i++) {
        open_pair(&p);
        ((struct llm_region_w *) p.w)->sq_tail = tails[i];
        assert_int_equal(llm_ring_sqc_next(&p.sqc, &d, &payload), LLM_ERROR);
        close_pair(&p);

        open_pair(&p);
        assert_true(try_submit(&p, 1, 10, 0));
        ((struct llm_region_e *) p.e)->sq_head = tails[i];
        assert_int_equal(llm_ring_sq_room(&p.sq), 0);
        assert_non_null(p.sq.error);
        assert_null(llm_ring_sq_reserve(&p.sq, 10));
        close_pair(&p);

        open_pair(&p);
        ((struct llm_region_e *) p.e)->cq_tail = (uint64_t) CQ + 16 + (tails[i] & ~15ull);
        struct llm_ring_record  rec;
        assert_int_equal(llm_ring_cqc_next(&p.cqc, &rec), LLM_ERROR);
        close_pair(&p);

        open_pair(&p);
        while (llm_ring_cq_push(&p.cq, LLM_RECORD_DATA, 1, "x", 1) == LLM_OK) {
        }
        (void) llm_ring_cq_publish(&p.cq);
        ((struct llm_region_w *) p.w)->cq_head = tails[i];
        assert_int_equal(llm_ring_cq_push(&p.cq, LLM_RECORD_DATA, 1, "x", 1),
                         LLM_ERROR);
        assert_non_null(p.cq.error);
        close_pair(&p);
    }
}

/* ---- CQ ------------------------------------------------------------------------- */
static void
test_records_come_out_whole_and_in_order(void **state)
{
    struct pair   p;
    uint64_t      seed = (uint64_t) time(NULL) | 1, x = seed, in = 0, out = 0;
    uint32_t     *lens = calloc(CQ, sizeof *lens);
    uint8_t      *data = malloc(LLM_PAYLOAD_BYTES_MAX);

    (void) state;
    print_message("seed %llu\n", (unsigned long long) seed);
    open_pair(&p);
    for (int i = 0; i < RANDOM_STEPS; i++) {
        uint64_t                r = next_random(&x);
        uint32_t                len = (uint32_t) (r >> 8)
                                      % ((r & 6) != 0 ? 200 : LLM_PAYLOAD_BYTES_MAX + 1);
        struct llm_ring_record  rec;
        if ((r & 1) != 0) {
            memset(data, (int) (in & 0xff), len);
            if (llm_ring_cq_push(&p.cq, LLM_RECORD_DATA, in, data, len) == LLM_OK) {
                lens[in++ % CQ] = len;
            }
            (void) llm_ring_cq_publish(&p.cq);
        } else if (llm_ring_cqc_next(&p.cqc, &rec) == LLM_OK) {
            assert_int_equal(rec.req_id, out);
            assert_int_equal(rec.len, lens[out % CQ]);
            if (rec.len != 0) {
                assert_int_equal(rec.data[0], (uint8_t) out);
                assert_int_equal(rec.data[rec.len - 1], (uint8_t) out);
            }
            out++;
            llm_ring_cqc_pop(&p.cqc);
        } else {
            (void) llm_ring_cqc_release(&p.cqc);
        }
        assert_null(p.cq.error);
        assert_null(p.cqc.error);
    }
    assert_true(out > RANDOM_STEPS / 10);
    free(lens);
    free(data);
    close_pair(&p);
}

static void
test_the_largest_record_fits_an_empty_ring_anywhere(void **state)
{
    struct pair   p;
    uint8_t      *data = calloc(1, LLM_PAYLOAD_BYTES_MAX);

    (void) state;
    for (uint64_t at = 0; at < CQ; at += 16) {
        struct llm_ring_record  rec;
        open_pair(&p);
        p.cq.tail = p.cq.head = p.cq.published = at;
        p.cqc.tail = p.cqc.head = at;
        ((struct llm_region_w *) p.w)->cq_head = at;
        assert_int_equal(llm_ring_cq_push(&p.cq, LLM_RECORD_DATA, 9, data,
                                          LLM_PAYLOAD_BYTES_MAX), LLM_OK);
        (void) llm_ring_cq_publish(&p.cq);
        assert_int_equal(llm_ring_cqc_next(&p.cqc, &rec), LLM_OK);
        assert_int_equal(rec.len, LLM_PAYLOAD_BYTES_MAX);
        close_pair(&p);
    }
    free(data);
}

static void
expect_bad_record(struct llm_cqe h, uint64_t tail)
{
    struct pair             p;
    struct llm_ring_record  rec;

    open_pair(&p);
    memcpy((uint8_t *) p.e + p.g.cq_off, &h, sizeof h);
    ((struct llm_region_e *) p.e)->cq_tail = tail;
    assert_int_equal(llm_ring_cqc_next(&p.cqc, &rec), LLM_ERROR);
    assert_non_null(p.cqc.error);
    close_pair(&p);
}

static void
test_every_bad_record_is_a_violation(void **state)
{
    (void) state;
    expect_bad_record((struct llm_cqe) { 16, LLM_RECORD_COUNT, 0, 1 }, 32);
    expect_bad_record((struct llm_cqe) { 16, 0xffff, 0, 1 }, 32);
    expect_bad_record((struct llm_cqe) { 16, LLM_RECORD_DATA, 1, 1 }, 32);
    expect_bad_record((struct llm_cqe) { 17, LLM_RECORD_DATA, 0, 1 }, 32);
    expect_bad_record((struct llm_cqe) { UINT32_MAX, LLM_RECORD_DATA, 0, 1 }, 32);
    expect_bad_record((struct llm_cqe) { LLM_PAYLOAD_BYTES_MAX + 1,
                                         LLM_RECORD_DATA, 0, 1 }, CQ);
    expect_bad_record((struct llm_cqe) { 16, LLM_RECORD_PAD, 0, 0 }, 32);
    expect_bad_record((struct llm_cqe) { CQ - 16, LLM_RECORD_PAD, 0, 0 }, CQ - 16);
    expect_bad_record((struct llm_cqe) { 16, LLM_RECORD_DATA, 0, 1 }, 33);
}

static void
test_a_full_completion_ring_takes_what_fits(void **state)
{
    struct pair             p;
    struct llm_ring_record  rec;
    uint8_t                *data = calloc(1, 2 * CQ);
    int64_t                 taken;

    (void) state;
    open_pair(&p);
    taken = llm_ring_cq_push_data(&p.cq, 4, data, 2 * CQ);
    assert_true(taken > 0 && taken < CQ);
    assert_int_equal(llm_ring_cq_push_data(&p.cq, 4, data,
                                           LLM_PAYLOAD_BYTES_MAX), 0);
    (void) llm_ring_cq_publish(&p.cq);
    while (llm_ring_cqc_next(&p.cqc, &rec) == LLM_OK) {
        taken -= rec.len;
        llm_ring_cqc_pop(&p.cqc);
    }
    assert_int_equal(taken, 0);
    free(data);
    close_pair(&p);
}

/* ---- wake-up --------------------------------------------------------------------- */
static void
test_a_sleeper_is_kicked_and_a_waking_one_is_not(void **state)
{
    struct pair             p;
    struct llm_ring_record  rec;

    (void) state;
    open_pair(&p);
    assert_true(llm_ring_sqc_sleep(&p.sqc));
    assert_true(try_submit(&p, 1, 10, 0));
    assert_true(llm_ring_sq_publish(&p.sq));
    llm_ring_sqc_awake(&p.sqc);
    assert_true(try_submit(&p, 2, 10, 0));
    assert_false(llm_ring_sq_publish(&p.sq));
    /* Something is there: it may not sleep. */
    assert_false(llm_ring_sqc_sleep(&p.sqc));

    assert_true(llm_ring_cqc_sleep(&p.cqc));
    assert_false(llm_ring_cq_publish(&p.cq));      /* nothing pushed */
    (void) llm_ring_cq_push(&p.cq, LLM_RECORD_DATA, 1, "x", 1);
    assert_true(llm_ring_cq_publish(&p.cq));
    llm_ring_cqc_awake(&p.cqc);
    assert_false(llm_ring_cqc_sleep(&p.cqc));
    assert_int_equal(llm_ring_cqc_next(&p.cqc, &rec), LLM_OK);
    llm_ring_cqc_pop(&p.cqc);
    assert_true(llm_ring_cqc_sleep(&p.cqc));
    close_pair(&p);
}

static void
test_waiting_for_room_is_answered_by_release(void **state)
{
    struct pair             p;
    struct llm_sqe          d;
    struct llm_ring_record  rec;
    const uint8_t          *payload;

    (void) state;
    open_pair(&p);
    while (try_submit(&p, 1, ARENA / 4, 0)) {
    }
    (void) llm_ring_sq_publish(&p.sq);
    assert_true(llm_ring_sq_wait(&p.sq));
    (void) llm_ring_sqc_next(&p.sqc, &d, &payload);
    llm_ring_sqc_pop(&p.sqc);
    assert_true(llm_ring_sqc_release(&p.sqc));
    llm_ring_sq_unwait(&p.sq);
    assert_false(llm_ring_sqc_release(&p.sqc));
    assert_false(llm_ring_sq_wait(&p.sq));         /* moved since: try again */

    while (llm_ring_cq_push(&p.cq, LLM_RECORD_DATA, 1, "x", 1) == LLM_OK) {
    }
    (void) llm_ring_cq_publish(&p.cq);
    assert_true(llm_ring_cq_wait(&p.cq));
    (void) llm_ring_cqc_next(&p.cqc, &rec);
    llm_ring_cqc_pop(&p.cqc);
    assert_true(llm_ring_cqc_release(&p.cqc));
    assert_false(llm_ring_cq_wait(&p.cq));
    close_pair(&p);
}

/* ---- statistics and the region's head ---------------------------------------------- */
static void
test_statistics_and_epoch_are_read_back(void **state)
{
    struct pair          p;
    struct llm_stats     in = { .heartbeat_ns = 5, .steps = 6, .running = 7,
                                .state = LLM_STATE_READY, .retry_after_s = 8 };
    struct llm_stats     out;
    struct llm_welcome   w = { .epoch = 11, .session_id = 12 };
    struct llm_region_e *e;
    const char          *why = NULL;

    (void) state;
    open_pair(&p);
    e = p.e;
    llm_ring_write_stats(e, &in);
    llm_ring_read_stats(e, &out);
    assert_memory_equal(&in, &out, sizeof in);
    assert_int_equal(llm_ring_check_region(e, &w, &why), LLM_ERROR);
    e->magic = LLM_WIRE_MAGIC;
    e->version = LLM_WIRE_VERSION;
    e->epoch = 11;
    assert_int_equal(llm_ring_check_region(e, &w, &why), LLM_ERROR);
    e->session_id = 12;
    assert_int_equal(llm_ring_check_region(e, &w, &why), LLM_OK);
    close_pair(&p);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_what_is_submitted_arrives_after_publish),
        cmocka_unit_test(test_a_full_ring_and_a_full_arena_refuse),
        cmocka_unit_test(test_random_payloads_survive_wrap_arounds),
        cmocka_unit_test(test_every_bad_descriptor_is_a_violation),
        cmocka_unit_test(test_indices_out_of_range_are_violations),
        cmocka_unit_test(test_records_come_out_whole_and_in_order),
        cmocka_unit_test(test_the_largest_record_fits_an_empty_ring_anywhere),
        cmocka_unit_test(test_every_bad_record_is_a_violation),
        cmocka_unit_test(test_a_full_completion_ring_takes_what_fits),
        cmocka_unit_test(test_a_sleeper_is_kicked_and_a_waking_one_is_not),
        cmocka_unit_test(test_waiting_for_room_is_answered_by_release),
        cmocka_unit_test(test_statistics_and_epoch_are_read_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
