/* cpu_pool.c - items are claimed from one atomic word.
 *
 * `ticket` holds the run's number in its high half and the items not yet
 * claimed in its low half; claiming is a compare-and-swap to one less.  A
 * worker that wakes late finds no items and sleeps again, so the caller never
 * waits for a sleeper, only for items.  fn and job are written by the caller
 * while no item is out and read by a worker only while it holds one. */
#include "engine/backend/cpu/cpu_pool.h"
#include "engine/base/check.h"

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* About 20-50 us: longer than the gap between two ops of a step, shorter than
 * anybody's idea of a busy idle engine. */
#define CPU_POOL_SPINS  1000

struct cpu_worker {
    struct cpu_pool *pool;
    pthread_t        thread;
    int              worker_idx;
};

struct cpu_pool {
    _Alignas(64) _Atomic uint64_t ticket;
    _Alignas(64) _Atomic uint32_t done;        /* items finished in this run */
    _Alignas(64) _Atomic uint32_t wakeups;     /* futex: workers */
    _Atomic uint32_t              sleepers;
    _Atomic bool                  caller_sleeps;
    _Atomic bool                  stop;
    cpu_pool_fn                  *fn;
    void                         *job;
    int                           num_threads;
    int                           num_started; /* workers, without the caller */
    struct cpu_worker             workers[];
};

static void
futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
    (void) syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL,
                   0);
}

static void
futex_wake(_Atomic uint32_t *word, int num)
{
    (void) syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, num, NULL, NULL, 0);
}

static void
cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Claims and runs items until there are none. */
static void
pool_work(struct cpu_pool *pool, int worker_idx)
{
    uint64_t  ticket = atomic_load(&pool->ticket);
    while ((uint32_t) ticket != 0) {
        if (!atomic_compare_exchange_weak(&pool->ticket, &ticket, ticket - 1)) {
            continue;
        }
        pool->fn(pool->job, (int) (uint32_t) ticket - 1, worker_idx);
        atomic_fetch_add(&pool->done, 1);
        if (atomic_load(&pool->caller_sleeps)) {
            futex_wake(&pool->done, 1);
        }
        ticket = atomic_load(&pool->ticket);
    }
}

static bool
pool_has_work(struct cpu_pool *pool)
{
    return (uint32_t) atomic_load(&pool->ticket) != 0;
}

static void *
pool_worker(void *data)
{
    struct cpu_worker  *w = data;
    struct cpu_pool    *pool = w->pool;
    char                name[16];
    (void) snprintf(name, sizeof name, "llm-cpu-%d", w->worker_idx);
    (void) pthread_setname_np(pthread_self(), name);

    while (!atomic_load(&pool->stop)) {
        pool_work(pool, w->worker_idx);
        for (int i = 0; i < CPU_POOL_SPINS && !pool_has_work(pool); i++) {
            cpu_relax();
        }
        uint32_t  wakeups = atomic_load(&pool->wakeups);
        atomic_fetch_add(&pool->sleepers, 1);
        if (!pool_has_work(pool) && !atomic_load(&pool->stop)) {
            futex_wait(&pool->wakeups, wakeups);
        }
        atomic_fetch_sub(&pool->sleepers, 1);
    }
    return NULL;
}

int
cpu_pool_create(struct cpu_pool **out, int num_threads, struct err *err)
{
    *out = NULL;
    check_lt(0, num_threads);
    size_t            bytes = sizeof(struct cpu_pool)
                              + (size_t) num_threads * sizeof(struct cpu_worker);
    struct cpu_pool  *pool = aligned_alloc(64, (bytes + 63) & ~(size_t) 63);
    if (pool == NULL) {
        return err_set(err, "cpu threads: out of memory");
    }
    atomic_init(&pool->ticket, 0);
    atomic_init(&pool->done, 0);
    atomic_init(&pool->wakeups, 0);
    atomic_init(&pool->sleepers, 0);
    atomic_init(&pool->caller_sleeps, false);
    atomic_init(&pool->stop, false);
    pool->num_threads = num_threads;
    pool->num_started = 0;

    /* Signals belong to the threads that expect them. */
    sigset_t  all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    for (int i = 1; i < num_threads; i++) {
        struct cpu_worker  *w = &pool->workers[i];
        w->pool = pool;
        w->worker_idx = i;
        if (pthread_create(&w->thread, NULL, pool_worker, w) != 0) {
            break;
        }
        pool->num_started++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (pool->num_started != num_threads - 1) {
        int  started = pool->num_started;
        cpu_pool_destroy(pool);
        return err_set(err, "cpu threads: only %d of %d could be started; "
                       "ask for fewer or raise the process limit", started + 1,
                       num_threads);
    }
    *out = pool;
    return OK;
}

void
cpu_pool_destroy(struct cpu_pool *pool)
{
    if (pool == NULL) {
        return;
    }
    atomic_store(&pool->stop, true);
    atomic_fetch_add(&pool->wakeups, 1);
    futex_wake(&pool->wakeups, INT32_MAX);
    for (int i = 1; i <= pool->num_started; i++) {
        pthread_join(pool->workers[i].thread, NULL);
    }
    free(pool);
}

int
cpu_pool_num_threads(const struct cpu_pool *pool)
{
    return pool->num_threads;
}

/* Until every item is done: spin, then sleep. */
static void
pool_wait_done(struct cpu_pool *pool, uint32_t num_items)
{
    for (int i = 0; i < CPU_POOL_SPINS; i++) {
        if (atomic_load(&pool->done) == num_items) {
            return;
        }
        cpu_relax();
    }
    atomic_store(&pool->caller_sleeps, true);
    for ( ;; ) {
        uint32_t  done = atomic_load(&pool->done);
        if (done == num_items) {
            break;
        }
        futex_wait(&pool->done, done);
    }
    atomic_store(&pool->caller_sleeps, false);
}

void
cpu_pool_run(struct cpu_pool *pool, cpu_pool_fn *fn, void *job, int num_items)
{
    if (num_items <= 1 || pool->num_threads == 1) {
        for (int i = 0; i < num_items; i++) {
            fn(job, i, 0);
        }
        return;
    }
    uint64_t  run = (atomic_load(&pool->ticket) >> 32) + 1;
    pool->fn = fn;
    pool->job = job;
    atomic_store(&pool->done, 0);
    atomic_store(&pool->ticket, run << 32 | (uint32_t) num_items);
    atomic_fetch_add(&pool->wakeups, 1);
    if (atomic_load(&pool->sleepers) != 0) {
        futex_wake(&pool->wakeups, num_items - 1);
    }
    pool_work(pool, 0);
    pool_wait_done(pool, (uint32_t) num_items);
}
