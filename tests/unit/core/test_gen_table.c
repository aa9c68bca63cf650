/* test_gen_table.c - slots, marks and events between three kinds of thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "engine/base/clock.h"
#include "engine/base/hash.h"
#include "engine/core/gen_table.h"

static int32_t  tokens[64];

static struct gen_request
request(uint64_t id)
{
    return (struct gen_request) {
        .gen_id = id, .user = &tokens[id % 64], .token_ids = tokens,
        .num_prompt_tokens = 2, .token_cap = 64, .max_tokens = 62
    };
}

static int
submit(struct gen_table *t, uint64_t first_id, int num)
{
    struct gen_request  reqs[8];

    for (int i = 0; i < num; i++) {
        reqs[i] = request(first_id + (uint64_t) i);
    }
    return gen_table_submit(t, reqs, num, NULL);
}

static void
finish(struct gen_table *t, struct gen_slot *slot, enum finish_reason reason)
{
    slot->reason = reason;
    gen_table_publish(t, &slot, 1, 9);
}

static void
submit_takes_all_or_none(void **state)
{
    (void) state;
    struct gen_table   *t;
    struct gen_change   c[4];
    bool                stopping;

    assert_int_equal(gen_table_create(&t, 4, NULL), OK);
    assert_int_equal(submit(t, 1, 3), OK);
    assert_int_equal(submit(t, 4, 2), AGAIN);
    assert_int_equal(gen_table_num_new(t), 3);
    assert_int_equal(gen_table_take(t, c, &stopping), 3);
    assert_int_equal(gen_table_num_new(t), 0);
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(c[i].slot->req.gen_id, i + 1);
        assert_true(c[i].is_new);
    }
    assert_int_equal(submit(t, 4, 1), OK);
    assert_int_equal(submit(t, 5, 1), AGAIN);
    gen_table_destroy(t);
    gen_table_destroy(NULL);
}

static void
events_are_the_tokens_in_order_and_one_end(void **state)
{
    (void) state;
    struct gen_table   *t;
    struct gen_change   c[2];
    struct gen_event    e[8];
    bool                stopping;

    assert_int_equal(gen_table_create(&t, 2, NULL), OK);
    assert_int_equal(submit(t, 7, 1), OK);
    assert_int_equal(gen_table_events(t, e, 8, 0), 0);
    assert_int_equal(gen_table_take(t, c, &stopping), 1);
    struct gen_slot  *slot = c[0].slot;
    for (int i = 0; i < 11; i++) {
        tokens[2 + i] = 100 + i;
        slot->num_output++;
        gen_table_publish(t, &slot, 1, i);
    }
    assert_int_equal(gen_table_events(t, e, 1, 0), 1);  /* lagging: 8 in one */
    assert_int_equal(e[0].num_tokens, GEN_EVENT_TOKENS_MAX);
    assert_int_equal(e[0].token_ids[0], 100);
    slot->stop_id = 110;
    finish(t, slot, FINISH_STOP);
    assert_int_equal(gen_table_events(t, e, 8, 0), 2);
    assert_int_equal(e[0].num_tokens, 3);
    assert_int_equal(e[0].token_ids[2], 110);
    assert_int_equal(e[0].stop_id, -1);
    assert_int_equal(e[1].type, GEN_FINISHED);
    assert_int_equal(e[1].reason, FINISH_STOP);
    assert_int_equal(e[1].stop_id, 110);
    assert_int_equal(e[1].num_tokens, 0);
    assert_ptr_equal(e[1].user, &tokens[7]);
    assert_int_equal(gen_table_events(t, e, 8, 0), 0);
    gen_table_destroy(t);
}

static void
marks_merge_and_the_first_reason_counts(void **state)
{
    (void) state;
    struct gen_table   *t;
    struct gen_change   c[4];
    bool                stopping;

    assert_int_equal(gen_table_create(&t, 4, NULL), OK);
    assert_int_equal(submit(t, 1, 2), OK);
    gen_table_cancel(t, 1, FINISH_CLIENT_ABORT);
    gen_table_cancel(t, 1, FINISH_SLOW_READER);
    gen_table_cancel(t, 99, FINISH_CLIENT_ABORT);       /* nobody's */
    gen_table_park(t, 2, true);
    gen_table_park(t, 2, false);
    gen_table_park(t, 2, true);
    assert_int_equal(gen_table_take(t, c, &stopping), 2);
    assert_true(c[0].is_new);
    assert_int_equal(c[0].cancel, FINISH_CLIENT_ABORT);
    assert_true(c[1].parked);
    assert_int_equal(c[1].cancel, FINISH_NONE);
    assert_int_equal(gen_table_take(t, c, &stopping), 0);
    gen_table_park(t, 2, true);                         /* no news */
    assert_int_equal(gen_table_take(t, c, &stopping), 0);
    gen_table_destroy(t);
}

static void
a_mark_on_a_slot_that_ends_meanwhile_goes_away_with_it(void **state)
{
    (void) state;
    struct gen_table   *t;
    struct gen_change   c[4];
    struct gen_event    e[4];
    bool                stopping;

    assert_int_equal(gen_table_create(&t, 3, NULL), OK);
    assert_int_equal(submit(t, 1, 3), OK);
    assert_int_equal(gen_table_take(t, c, &stopping), 3);
    for (uint64_t id = 1; id <= 3; id++) {
        gen_table_park(t, id, true);
    }
    finish(t, c[1].slot, FINISH_LENGTH);
    assert_int_equal(gen_table_events(t, e, 4, 0), 1);  /* freed */
    assert_int_equal(submit(t, 4, 1), OK);              /* the slot again */
    gen_table_cancel(t, 2, FINISH_CLIENT_ABORT);        /* late: ignored */
    assert_int_equal(gen_table_take(t, c, &stopping), 3);
    assert_int_equal(c[0].slot->req.gen_id, 1);
    assert_int_equal(c[1].slot->req.gen_id, 3);
    assert_int_equal(c[2].slot->req.gen_id, 4);
    assert_true(c[2].is_new && !c[2].parked);
    gen_table_destroy(t);
}

static void
stop_refuses_and_end_ends(void **state)
{
    (void) state;
    struct gen_table   *t;
    struct gen_change   c[4];
    struct gen_event    e[4];
    struct err          err;
    bool                stopping;

    assert_int_equal(gen_table_create(&t, 2, NULL), OK);
    assert_int_equal(submit(t, 1, 1), OK);
    gen_table_stop(t);
    struct gen_request  req = request(2);
    assert_int_equal(gen_table_submit(t, &req, 1, &err), ERROR);
    assert_int_equal(err.http_status, 503);
    gen_table_wait(t, -1);                              /* does not block */
    assert_int_equal(gen_table_take(t, c, &stopping), 1);
    assert_true(stopping);
    finish(t, c[0].slot, FINISH_SHUTDOWN);
    gen_table_end(t);
    assert_int_equal(gen_table_events(t, e, 4, -1), 1);
    assert_int_equal(e[0].reason, FINISH_SHUTDOWN);
    assert_int_equal(gen_table_events(t, e, 4, -1), ERROR);
    gen_table_destroy(t);
}

static void
waits_end_at_their_timeout(void **state)
{
    (void) state;
    struct gen_table  *t;
    struct gen_event   e[4];
    int64_t            begin_ns = clock_now_ns();

    assert_int_equal(gen_table_create(&t, 2, NULL), OK);
    gen_table_wait(t, 20 * NS_PER_MS);
    assert_int_equal(gen_table_events(t, e, 4, 20 * NS_PER_MS), 0);
    int64_t  took_ns = clock_now_ns() - begin_ns;
    assert_true(took_ns >= 40 * NS_PER_MS && took_ns < 10 * NS_PER_S);
    gen_table_destroy(t);
}

/* Ids come and go in random order in a full table: every live one is found,
 * no other is. */
static void
the_index_survives_any_order_of_ends(void **state)
{
    (void) state;
    enum { SLOTS = 13 };
    struct gen_table   *t;
    struct gen_change   c[SLOTS];
    struct gen_event    e[4];
    struct gen_slot    *live[SLOTS];
    int                 num_live = 0;
    uint64_t            next_id = 1, rng = 5;
    bool                stopping;

    assert_int_equal(gen_table_create(&t, SLOTS, NULL), OK);
    for (int i = 0; i < 20000; i++) {
        rng = hash_mix64(rng + 0x9e3779b97f4a7c15ULL);
        if (num_live < SLOTS && rng % 2 == 0) {
            assert_int_equal(submit(t, next_id, 1), OK);
            next_id += 1 + rng / 16 % 5;
            assert_int_equal(gen_table_take(t, c, &stopping), 1);
            live[num_live++] = c[0].slot;
        } else if (num_live > 0) {
            int               k = (int) (rng / 16 % (uint64_t) num_live);
            uint64_t          id = live[k]->req.gen_id;
            struct gen_slot  *slot = live[k];
            gen_table_cancel(t, id, FINISH_CLIENT_ABORT);
            assert_int_equal(gen_table_take(t, c, &stopping), 1);
            assert_ptr_equal(c[0].slot, slot);
            finish(t, slot, FINISH_CLIENT_ABORT);
            assert_int_equal(gen_table_events(t, e, 4, 0), 1);
            assert_int_equal(e[0].gen_id, id);
            gen_table_cancel(t, id, FINISH_CLIENT_ABORT);
            assert_int_equal(gen_table_take(t, c, &stopping), 0);
            live[k] = live[--num_live];
        }
    }
    gen_table_destroy(t);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(submit_takes_all_or_none),
        cmocka_unit_test(events_are_the_tokens_in_order_and_one_end),
        cmocka_unit_test(marks_merge_and_the_first_reason_counts),
        cmocka_unit_test(
            a_mark_on_a_slot_that_ends_meanwhile_goes_away_with_it),
        cmocka_unit_test(stop_refuses_and_end_ends),
        cmocka_unit_test(waits_end_at_their_timeout),
        cmocka_unit_test(the_index_survives_any_order_of_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
