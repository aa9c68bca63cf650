/* gen_table.h - the requests between the API's threads, the step thread and
 * the output thread.
 *
 * One slot per accepted sequence, from submit until its GEN_FINISHED is
 * popped.  A cancel or a park is a mark in the slot, an event is the distance
 * between what the step thread published and what the output thread popped.
 * So no queue can overflow: each slot is at most once in the list of changes
 * and at most once in the list of ready slots, and a full table is the one
 * limit, answered with AGAIN at submit.
 *
 *     any thread          gen_table_submit, _cancel, _park, _stop
 *        | changes
 *        v
 *     step thread         gen_table_wait, _take ... _publish, _end
 *        | ready
 *        v
 *     output thread       gen_table_events
 *
 * Lock: one mutex, held for copying only.  Ownership: a slot's first part
 * belongs to the step thread from _take() until it publishes a reason, the
 * second part to the lock.  Nothing is allocated after create. */
#ifndef LLM_CORE_GEN_TABLE_H
#define LLM_CORE_GEN_TABLE_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/base/err.h"
#include "engine/core/gen.h"

struct gen_table;
struct seq;

struct gen_slot {
    /* the step thread's */
    struct gen_request  req;           /* copied at submit, then constant */
    struct seq         *seq;           /* NULL before and after its life in
                                          the scheduler */
    int32_t             num_output;    /* tokens sampled and known */
    int32_t             sampled_row;   /* of the step in flight that samples
                                          the next one */
    int32_t             stop_id;       /* that ended it, -1: none */
    int64_t             scheduled_ns;  /* 0: never */
    int64_t             first_token_ns;
    enum finish_reason  reason;        /* FINISH_NONE: not yet */

    /* under the table's lock */
    struct gen_slot    *next_change, *next_ready;
    bool                is_new;        /* not taken yet */
    bool                changed;       /* in the list of changes */
    bool                ready;         /* in the list of ready slots */
    bool                parked;        /* as asked for last */
    enum finish_reason  cancel;        /* as asked for first */
    int32_t             num_published, num_popped;    /* output tokens */
    enum finish_reason  published_reason;
    int64_t             published_ns;
};

/* What happened to a slot since it was last taken. */
struct gen_change {
    struct gen_slot    *slot;
    bool                is_new;
    bool                parked;
    enum finish_reason  cancel;        /* FINISH_NONE: not cancelled */
};

int gen_table_create(struct gen_table **out, int32_t max_slots,
                     struct err *err);
void gen_table_destroy(struct gen_table *t);      /* NULL is fine */

/* All or none.  OK; AGAIN when they do not fit; ERROR after _stop(). */
int gen_table_submit(struct gen_table *t, const struct gen_request *requests,
                     int num, struct err *err);
void gen_table_cancel(struct gen_table *t, uint64_t gen_id,
                      enum finish_reason reason);
void gen_table_park(struct gen_table *t, uint64_t gen_id, bool parked);
void gen_table_stop(struct gen_table *t);
int32_t gen_table_num_new(struct gen_table *t);   /* submitted, not taken */

/* Step thread.  Sleeps until there is a change, _stop() or timeout_ns (-1:
 * for ever). */
void gen_table_wait(struct gen_table *t, int64_t timeout_ns);

/* Step thread.  Fills changes[max_slots] in order, returns how many.  Sets
 * *stopping once _stop() was called; nothing new comes after that. */
int32_t gen_table_take(struct gen_table *t, struct gen_change *changes,
                       bool *stopping);

/* Step thread.  Makes num_output and reason of these slots visible; those with
 * a reason are not touched again. */
void gen_table_publish(struct gen_table *t, struct gen_slot *const *slots,
                       int32_t num, int64_t now_ns);

/* Step thread.  Nothing will be published any more. */
void gen_table_end(struct gen_table *t);

/* The slot of an index below max_slots; the step thread's, for walking all. */
struct gen_slot *gen_table_slot(struct gen_table *t, int32_t idx);

/* Output thread; as engine_events(). */
int gen_table_events(struct gen_table *t, struct gen_event *events, int max,
                     int64_t timeout_ns);

#endif
