/* engine_int.h - the engine's inside, for engine*.c only. */
#ifndef LLM_CORE_ENGINE_INT_H
#define LLM_CORE_ENGINE_INT_H

#include <pthread.h>
#include <stdatomic.h>
#include "engine/backend/backend.h"
#include "engine/core/engine.h"
#include "engine/core/gen_table.h"
#include "engine/core/metrics.h"
#include "engine/core/trace.h"
#include "engine/model/batch.h"
#include "engine/sample/sampler.h"
#include "engine/sched/sched.h"

#define ENGINE_STEPS_KEPT  32      /* last steps in the report */

_Static_assert(SCHED_STEPS_IN_FLIGHT <= SAMPLES_IN_FLIGHT,
               "the backend keeps the ids of every step in flight");
_Static_assert(SAMPLE_NUMERIC_ERROR == SAMPLER_NUMERIC_ERROR,
               "the host's sampler and the device's agree");

struct engine_step_record {
    uint64_t step;
    int64_t  begin_ns, step_ns, wait_ns;
    int32_t  num_prefill_tokens, num_decode_seqs, num_preempted;
};

/* A step that is issued and not collected. */
struct engine_flight {
    struct plan *plan;                      /* the scheduler's */
    int64_t      begin_ns;
    int32_t      num_rows;                  /* that sample */
    int32_t     *sampled;                   /* [max_num_seqs] by logits row;
                                               filled at the issue when the
                                               host samples, else when it is
                                               collected */
};

struct engine {
    struct engine_options  options;
    int32_t                max_seqs;        /* max_num_seqs + max_waiting */
    struct model          *model;           /* borrowed */
    struct gen_table      *table;
    struct sched          *sched;
    struct sampler        *sampler;
    struct metrics        *metrics;
    struct trace          *trace;           /* NULL: off */
    struct batch           batch;
    struct gen_change     *changes;         /* [max_seqs] */
    struct gen_slot      **touched;         /* [max_seqs], with news for the
                                               output thread */
    int32_t                num_touched;
    struct sample_row     *rows;            /* [max_num_seqs] of the step at
                                               hand */
    struct engine_flight   flights[SCHED_STEPS_IN_FLIGHT];  /* by number
                                               modulo its size */
    uint64_t               num_issued;      /* steps; num_steps of them are
                                               collected */
    int64_t                collected_ns;    /* the last one */
    int64_t                wait_ns;         /* for the device, in this turn */
    int64_t                issued_ns;       /* from its begin to the issue; 0:
                                               nothing was issued */
    int32_t                num_ended;       /* sequences, in this turn */
    bool                   stopping;
    struct err             err;             /* of the backend */
    _Atomic uint64_t       next_id;

    /* The step thread holds it while it changes scheduler and slots, that is
     * not while it computes; the report holds it to read them. */
    pthread_mutex_t        state_lock;
    uint64_t               num_steps;       /* from here: the step thread's */
    uint64_t               requests_total;
    uint64_t               generation_tokens_total;
    struct engine_step_record  records[ENGINE_STEPS_KEPT];  /* by step number
                                               modulo its size */

    pthread_mutex_t        stats_lock;
    struct engine_stats    stats;
};

void engine_lock_state(struct engine *e);
void engine_unlock_state(struct engine *e);

/* Refreshes engine_stats(): before a step, which may take seconds, and after
 * it.  last_step_ns 0: as it was. */
void engine_publish_stats(struct engine *e, int64_t last_step_ns);

/* A step is collected: counters, histograms, record. */
void engine_count(struct engine *e, const struct engine_flight *flight,
                  int64_t now_ns);

#ifdef LLM_DEBUG
#define debug_audit(e)  engine_audit(e)
#else
#define debug_audit(e)  ((void) 0)
#endif

#endif
