/* cpu_pool.h - worker threads for one kind of work: independent items.
 *
 *     cpu_pool_run(pool, compute_rows, &job, num_items);
 *
 * calls compute_rows(&job, item_idx, worker_idx) once for every item, on the
 * caller (worker 0) and the workers, and returns when all are done.  Which
 * worker gets which item is left to chance, so items must not share results.
 * One caller at a time.  Waiting spins for some microseconds, then sleeps on
 * a futex: an idle engine uses no CPU. */
#ifndef LLM_BACKEND_CPU_CPU_POOL_H
#define LLM_BACKEND_CPU_CPU_POOL_H

#include "engine/base/err.h"

struct cpu_pool;

typedef void cpu_pool_fn(void *job, int item_idx, int worker_idx);

/* num_threads counts the caller; 1 starts no thread. */
int cpu_pool_create(struct cpu_pool **out, int num_threads, struct err *err);
void cpu_pool_destroy(struct cpu_pool *pool);    /* joins; NULL is fine */

int cpu_pool_num_threads(const struct cpu_pool *pool);
void cpu_pool_run(struct cpu_pool *pool, cpu_pool_fn *fn, void *job,
                  int num_items);

#endif
