/* test_cpu_pool.c - every item runs exactly once, and idle threads sleep. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/backend/cpu/cpu_pool.h"

#define ITEMS_MAX  300

struct count_job {
    atomic_int runs[ITEMS_MAX];
    atomic_int worst_worker;
};

static void
count_item(void *data, int item_idx, int worker_idx)
{
    struct count_job  *job = data;
    atomic_fetch_add(&job->runs[item_idx], 1);
    int  worst = atomic_load(&job->worst_worker);
    while (worker_idx > worst
           && !atomic_compare_exchange_weak(&job->worst_worker, &worst,
                                            worker_idx))
    {
    }
}

static void
test_each_item_runs_exactly_once(void **state)
{
    static const int  threads[] = { 1, 2, 3, 8 };
    (void) state;
    for (int t = 0; t < 4; t++) {
        struct cpu_pool  *pool;
        struct err        err = { 0 };
        assert_int_equal(cpu_pool_create(&pool, threads[t], &err), OK);
        assert_int_equal(cpu_pool_num_threads(pool), threads[t]);
        for (int round = 0; round < 2000; round++) {
            struct count_job  job = { .worst_worker = 0 };
            int               num = round * 37 % (ITEMS_MAX + 1);
            cpu_pool_run(pool, count_item, &job, num);
            for (int i = 0; i < ITEMS_MAX; i++) {
                assert_int_equal(atomic_load(&job.runs[i]), i < num);
            }
            assert_true(atomic_load(&job.worst_worker) < threads[t]);
        }
        cpu_pool_destroy(pool);
    }
}

static double
process_cpu_seconds(void)
{
    struct timespec  t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double) t.tv_sec + (double) t.tv_nsec * 1e-9;
}

static void
test_idle_workers_use_no_cpu(void **state)
{
    struct cpu_pool   *pool;
    struct err         err = { 0 };
    struct count_job   job = { .worst_worker = 0 };
    (void) state;
    assert_int_equal(cpu_pool_create(&pool, 4, &err), OK);
    cpu_pool_run(pool, count_item, &job, ITEMS_MAX);
    usleep(20000);
    double  before = process_cpu_seconds();
    usleep(300000);
    assert_true(process_cpu_seconds() - before < 0.03);
    cpu_pool_destroy(pool);
}

static void
test_a_pool_without_work_can_be_destroyed(void **state)
{
    (void) state;
    for (int i = 0; i < 50; i++) {
        struct cpu_pool  *pool;
        struct err        err = { 0 };
        assert_int_equal(cpu_pool_create(&pool, 1 + i % 5, &err), OK);
        cpu_pool_destroy(pool);
    }
    cpu_pool_destroy(NULL);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_each_item_runs_exactly_once),
        cmocka_unit_test(test_idle_workers_use_no_cpu),
        cmocka_unit_test(test_a_pool_without_work_can_be_destroyed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
