/* sched.h - decides which sequences run in the next step, and for how many
 * tokens.
 *
 *     seq = sched_add(s, &desc, now_ns);
 *     while ((seq = sched_next_expired(s, now_ns)) != NULL) sched_finish(...)
 *     plan = sched_next(s, now_ns);
 *     ... issue the plan ...
 *     sched_issued(s);
 *     ... here the next one may be made and issued ...
 *     ... wait until the oldest is computed ...
 *     sched_done(s);
 *     for each of its entries with a seq and with sample: go on or
 *         sched_finish(s, seq)
 *
 * Pure bookkeeping: no device, no text, no clock.  One thread.
 *
 * STEPS IN FLIGHT.  A plan needs counts and no token ids, so the next one can
 * be made as soon as a step is issued: sched_issued() counts its tokens as
 * computed and one more as sampled where the plan says so.  What the caller
 * learns late (a stop token) it says with sched_finish(), and the row that a
 * step in flight computes for it is wasted.  Blocks let go while a step is in
 * flight are fenced until that step is done: whoever needs them sits out until
 * then, and nobody else is preempted for a need that they will meet.
 *
 * POLICY.  First come, first served.  A step takes one token of every
 * sequence in decode, oldest first, then prompt chunks, oldest first, up to
 * max_num_batched_tokens; then waiting sequences are admitted in order while
 * a seat (max_num_seqs) and blocks for the whole prompt and the first sampled
 * token are there.  An admitted prompt therefore never waits for a block.
 *
 * With decodes, a step's prompts take what these leave of max_num_mixed_tokens,
 * and no less than a quarter of it: a crowd of arrivals is spread over steps of
 * one length instead of making some long, which every decode would sit through,
 * and the others short, which use the device badly.  Sequences that come in one after
 * the other end so, too: fewer are at their longest at once, and fewer are
 * preempted.  A step without decodes has nobody who waits for it and takes all
 * that fits.
 * tests/sim/time_sched.c shows what it does to whom.
 *
 * When a decode needs a block and none is free, blocks are taken, whole
 * sequences at a time, from those that do not run (parked, then waiting after
 * a park), then from the youngest running sequence that is younger; what was
 * taken is computed again later.  If there is none, the sequence sits out the
 * step and keeps what it has.  In a step that preempted nobody is admitted.
 * Parked sequences lose their blocks to an admission only when nothing runs.
 *
 * PROGRESS.  The oldest running sequence can always take what it needs, since
 * sched_check_fits() refused what exceeds the pool; so while a sequence waits
 * or runs, some sequence's num_tokens grows within as many steps as
 * the longest sequence has tokens.  tests/unit/sched/test_sched.c checks it.
 *
 * INVARIANT.  The blocks a plan needs are reserved before it is returned:
 * executing a plan cannot fail for lack of memory.  No block that a step in
 * flight reads or writes is given to anybody else before its sched_done(). */
#ifndef LLM_SCHED_SCHED_H
#define LLM_SCHED_SCHED_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/base/err.h"
#include "engine/sched/seq.h"

#define SCHED_STEPS_IN_FLIGHT  2   /* issued and not done */

struct sched;

struct sched_options {
    int32_t max_num_seqs;            /* running sequences, 1 .. */
    int32_t max_num_batched_tokens;  /* of one step, >= max_num_seqs */
    int32_t max_model_len;           /* prompt + output of one sequence */
    int32_t max_seqs;                /* that exist at a time, >= max_num_seqs */
    int32_t block_size;              /* tokens */
    int32_t num_blocks;              /* with the null block */
    int32_t max_num_mixed_tokens;    /* of a step with decodes and prompts; 0,
                                        max_num_batched_tokens and more: no such
                                        bound, nor without chunks */
    bool    enable_chunked_prefill;  /* off: max_num_batched_tokens must be at
                                        least max_model_len */
};

/* One sequence's share of a step. */
struct plan_seq {
    struct seq *seq;                 /* NULL after sched_done() when it
                                        finished while the step was in
                                        flight */
    int32_t     position;            /* of the first token to compute */
    int32_t     num_tokens;          /* to compute */
    bool        decode;              /* else a prompt chunk */
    bool        sample;              /* its last token gets logits */
};

struct plan {
    int32_t          num_seqs;       /* 0: nothing to do */
    int32_t          num_tokens;
    int32_t          num_prefill_tokens;
    int32_t          num_decode_seqs;
    int32_t          num_preempted;
    struct plan_seq *seqs;           /* [max_num_seqs] */
    uint64_t        *preempted_ids;  /* [max_seqs], seq->id */
};

struct sched_counts {
    int32_t  num_running;            /* prefill, decode and ending */
    int32_t  num_waiting;
    int32_t  num_parked;
    int32_t  kv_blocks_used;         /* held or fenced */
    int32_t  kv_blocks_total;
    uint64_t num_preemptions;
    uint64_t num_admitted;           /* sequences, first admission */
    uint64_t num_prompt_tokens;      /* of them */
    uint64_t num_recomputed_tokens;  /* thrown away by preemptions */
};

struct seq_desc {
    uint64_t id;
    void    *user;
    int32_t  num_prompt_tokens;
    int32_t  max_tokens;
    int64_t  deadline_ns;            /* 0: none */
};

int sched_create(struct sched **out, const struct sched_options *options,
                 struct err *err);
void sched_destroy(struct sched *s);            /* NULL is fine */

/* ERROR, http_status 400 with the numbers, when such a sequence could never
 * run to its end.  Reads only what is fixed at create: any thread. */
int sched_check_fits(const struct sched *s, int64_t num_prompt_tokens,
                     int64_t max_tokens, struct err *err);

/* check()s that it fits and that fewer than max_seqs exist.  The sequence is
 * the scheduler's; the pointer is good until it is finished. */
struct seq *sched_add(struct sched *s, const struct seq_desc *desc,
                      int64_t now_ns);

/* Ends a sequence in any state; its blocks are free at once, or once all
 * steps in flight are done.  The caller forgets the pointer. */
void sched_finish(struct sched *s, struct seq *seq);

/* Parks or resumes; doing it twice is fine, and so is one that is ending.  A
 * sequence of a step in flight still gets its token from it. */
void sched_park(struct sched *s, struct seq *seq, bool parked);

/* A sequence whose deadline has passed, NULL when none has. */
struct seq *sched_next_expired(struct sched *s, int64_t now_ns);

/* The earliest deadline of all sequences, 0 when none has one; it may be that
 * of a sequence that has ended since. */
int64_t sched_next_deadline_ns(const struct sched *s);

/* Makes the plan of the next step: the scheduler's, valid until
 * the next but one, or the next when it is empty.  Fewer than
 * SCHED_STEPS_IN_FLIGHT steps may be in flight.  While one is, a plan may be
 * empty although sequences could run. */
struct plan *sched_next(struct sched *s, int64_t now_ns);

/* Whether a step planned now would be thin: no sequence of the steps in flight
 * goes on, and those that wait fill neither its tokens nor its seats.  While
 * the device is busy it is better to wait for more. */
bool sched_is_thin(const struct sched *s);

/* The newest plan, which is not empty, is on its way: its tokens count as
 * computed, and a token as sampled for each entry with `sample`.  An entry's
 * sequence that gets its last token is ENDING from now on. */
void sched_issued(struct sched *s);

/* The oldest step issued is computed. */
void sched_done(struct sched *s);

/* The device is lost, and no step is in flight any more.  Every sequence must
 * have been finished. */
void sched_abandon(struct sched *s);

/* The sequence is part of a step that is planned or issued, and not done. */
bool sched_in_flight(const struct sched *s, const struct seq *seq);

void sched_counts(const struct sched *s, struct sched_counts *out);

/* Calls visit for every sequence: ending, running, waiting, parked, oldest
 * first. */
void sched_visit(const struct sched *s,
                 void (*visit)(void *data, const struct seq *seq), void *data);

/* check()s every invariant of seq.h and kv_blocks.h; not between sched_next()
 * and sched_issued(). */
void sched_audit(struct sched *s);

#endif
