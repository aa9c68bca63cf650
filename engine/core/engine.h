/* engine.h - the step loop: plan -> batch -> forward -> sample -> emit.
 *
 * One thread calls engine_run(); any thread may submit, cancel and park; one
 * output thread pops events.  Nothing is allocated after engine_create().
 *
 *     engine_create(&e, &options, model, err);
 *     pthread_create(..., engine_run, e);
 *     engine_submit(e, &req, 1, err);
 *     n = engine_events(e, events, 64, timeout_ns);
 *     engine_stop(e); join; engine_destroy(e);
 *
 * With async_scheduling step N + 1 is planned and issued while the device
 * computes step N, whose tokens are read after that; it changes when a token is
 * seen, never which.  What ended in between (stop, cancel, deadline) is
 * computed once more for nothing.
 *
 * engine_step() is public so that tests and the simulator drive the engine
 * without threads.
 *
 * Requests, cancels and events go through core/gen_table.h: nothing can be
 * lost, nothing can fill up but the number of requests itself, and a slow
 * output thread finds several tokens in one event instead of a longer queue.
 * A step ends with one lock and one wake-up for all its events. */
#ifndef LLM_CORE_ENGINE_H
#define LLM_CORE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/core/gen.h"

struct engine;
struct metrics;
struct model;

struct engine_options {
    int32_t  max_num_seqs;            /* sequences in one step */
    int32_t  max_num_batched_tokens;  /* tokens in one step */
    int32_t  max_model_len;           /* prompt + output tokens of a sequence */
    int32_t  max_waiting;             /* accepted beyond max_num_seqs; then
                                         engine_submit() answers AGAIN */
    int32_t  max_num_mixed_tokens;    /* in one step with decodes and prompts;
                                         0: no such bound */
    bool     enable_chunked_prefill;  /* on in all normal use */
    bool     async_scheduling;        /* for backends that sample; with others
                                         the step is computed at its issue and
                                         read one turn later */
    const char *trace_path;           /* one JSON line a step; NULL: off */
};

/* A consistent snapshot for heartbeats, /metrics and health. */
struct engine_stats {
    uint64_t num_steps;
    int32_t  num_running;
    int32_t  num_waiting;
    int32_t  num_parked;
    int32_t  kv_blocks_used;
    int32_t  kv_blocks_total;
    uint64_t num_preemptions;
    uint64_t prompt_tokens_total;     /* of admitted sequences */
    uint64_t recomputed_tokens_total; /* thrown away by preemptions */
    uint64_t generation_tokens_total;
    uint64_t requests_total;          /* sequences accepted */
    int64_t  last_step_ns;            /* end of the last step; 0: none yet.
                                         Old and nothing running or waiting:
                                         idle, not hung */
};

/* model is borrowed and must outlive the engine; the KV pool is the model's.
 * The engine's metrics object is made here and read through engine_metrics().
 * ERROR when the options exceed what the model was opened with. */
int engine_create(struct engine **out, const struct engine_options *options,
                  struct model *model, struct err *err);
void engine_destroy(struct engine *e);     /* NULL is fine */

uint64_t engine_next_id(struct engine *e);     /* any thread */

/* Any thread.  Queues all num requests or none of them (a chat request with
 * n = 3 is one call).  OK: each will get its one FINISHED; events may arrive
 * before this returns.  AGAIN: the queue is full, try later (503).  ERROR: one
 * can never fit (http_status 400, err names the numbers).  The structs are
 * copied, what they point to is borrowed. */
int engine_submit(struct engine *e, const struct gen_request *requests,
                  int num, struct err *err);

/* Any thread; idempotent, the first reason counts; unknown and ended ids are
 * ignored.  Takes effect before the next step, in every state. */
void engine_cancel(struct engine *e, uint64_t gen_id,
                   enum finish_reason reason);

/* Any thread.  A parked sequence keeps its KV and is not scheduled. */
void engine_park(struct engine *e, uint64_t gen_id, bool parked);

/* Output thread only.  Up to max events, waiting timeout_ns for the first
 * (-1: for ever).  ERROR after engine_stop() once all events are popped. */
int engine_events(struct engine *e, struct gen_event *events, int max,
                  int64_t timeout_ns);

/* The step thread, in pthread_create()'s form.  Sleeps while there is nothing
 * to compute.  Returns NULL after engine_stop(), or the struct err * (the
 * engine's) of a backend that failed: then the process must end; everything
 * unfinished got FINISH_ENGINE_LOST. */
void *engine_run(void *engine);

/* One turn with what is queued now: plans and issues a step, then collects it,
 * with async_scheduling the one before it.  Returns the number of tokens of
 * the step issued (if none, collected), 0 when there was nothing to do, ERROR
 * when the backend failed (the process must end).  After engine_stop() it ends
 * everything with FINISH_SHUTDOWN and issues nothing. */
int engine_step(struct engine *e, struct err *err);

/* Any thread.  Everything not finished gets FINISH_SHUTDOWN. */
void engine_stop(struct engine *e);

void engine_stats(struct engine *e, struct engine_stats *out);  /* any thread */
struct metrics *engine_metrics(struct engine *e);

/* check()s every conservation law of scheduler and KV blocks; call between
 * steps on the step thread, or when idle. */
void engine_audit(struct engine *e);

/* The state report of SIGUSR2: every sequence, its state, blocks, ages, and
 * the last steps.  Any thread; waits for the bookkeeping of a step, not for
 * its computation. */
void engine_report(struct engine *e, struct buf *out);

/* The same into the log, line by line after "title: ".  engine_run() does it
 * with "crash record" when the device is lost. */
void engine_log_report(struct engine *e, const char *title);

#endif
