/* test_chan.c - order, back-pressure, time-outs and close of the channel. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "engine/base/chan.h"
#include "engine/base/clock.h"

static void
elements_come_out_in_order_and_full_refuses(void **state)
{
    (void) state;
    struct chan  *c;
    int           v;

    assert_int_equal(chan_create(&c, sizeof v, 3, NULL), OK);
    assert_int_equal(chan_pop(c, &v, 0), AGAIN);
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 3; i++) {
            assert_int_equal(chan_push(c, &i), OK);
        }
        assert_int_equal(chan_push(c, &v), AGAIN);
        assert_int_equal(chan_len(c), 3);
        assert_int_equal(chan_pop(c, &v, 0), OK);
        assert_int_equal(v, 0);
        int  many[8];
        assert_int_equal(chan_pop_many(c, many, 8, 0), 2);
        assert_int_equal(many[0], 1);
        assert_int_equal(many[1], 2);
    }
    chan_destroy(c);
    chan_destroy(NULL);
}

static void
close_lets_the_rest_out_and_then_ends(void **state)
{
    (void) state;
    struct chan  *c;
    int           v = 5;

    assert_int_equal(chan_create(&c, sizeof v, 3, NULL), OK);
    (void) chan_push(c, &v);
    chan_close(c);
    assert_int_equal(chan_push(c, &v), ERROR);
    v = 0;
    assert_int_equal(chan_pop(c, &v, -1), OK);
    assert_int_equal(v, 5);
    assert_int_equal(chan_pop(c, &v, -1), ERROR);
    int64_t  t = clock_now_ns();
    assert_int_equal(chan_pop_many(c, &v, 1, NS_PER_S), ERROR);
    assert_true(clock_now_ns() - t < NS_PER_S / 2);
    chan_destroy(c);
}

static void
a_wait_ends_at_its_timeout(void **state)
{
    (void) state;
    struct chan  *c;
    int           v;

    assert_int_equal(chan_create(&c, sizeof v, 1, NULL), OK);
    int64_t  t = clock_now_ns();
    assert_int_equal(chan_pop(c, &v, 20 * NS_PER_MS), AGAIN);
    assert_true(clock_now_ns() - t >= 20 * NS_PER_MS);
    chan_destroy(c);
}

#define PRODUCERS  3
#define PER_THREAD 5000

static void *
produce(void *data)
{
    struct chan  *c = data;
    for (int i = 1; i <= PER_THREAD; i++) {
        while (chan_push(c, &i) == AGAIN) {
            (void) sched_yield();
        }
    }
    return NULL;
}

static void
many_producers_lose_nothing(void **state)
{
    (void) state;
    struct chan  *c;
    pthread_t     threads[PRODUCERS];
    long          sum = 0;
    int           got[64], total = 0;

    assert_int_equal(chan_create(&c, sizeof(int), 100, NULL), OK);
    for (int i = 0; i < PRODUCERS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, produce, c), 0);
    }
    while (total < PRODUCERS * PER_THREAD) {
        int  n = chan_pop_many(c, got, 64, 10 * NS_PER_S);
        assert_true(n > 0);
        for (int i = 0; i < n; i++) {
            sum += got[i];
        }
        total += n;
    }
    for (int i = 0; i < PRODUCERS; i++) {
        (void) pthread_join(threads[i], NULL);
    }
    assert_int_equal(sum, (long) PRODUCERS * PER_THREAD * (PER_THREAD + 1) / 2);
    assert_int_equal(chan_len(c), 0);
    chan_destroy(c);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(elements_come_out_in_order_and_full_refuses),
        cmocka_unit_test(close_lets_the_rest_out_and_then_ends),
        cmocka_unit_test(a_wait_ends_at_its_timeout),
        cmocka_unit_test(many_producers_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
