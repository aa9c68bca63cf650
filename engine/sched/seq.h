/* seq.h - one sequence as the scheduler sees it: counts, blocks and a state.
 *
 * No token ids and no text: the scheduler works on numbers of tokens.  num_
 * tokens is everything known (prompt and sampled), num_computed_tokens is how
 * many of them have their keys and values in the KV cache.  Both count a step
 * from its issue on, before anybody knows the token that it samples.
 *
 *     sched_add()                                        sched_finish
 *        |                                                     ^
 *        v            admit               sampled    last one  |
 *     WAITING ---------------> PREFILL ----------> DECODE --> ENDING
 *      ^ ^ |  \                 |    |              |  |       (from any)
 *      | | |   `- admit, KV kept and all but one    |  |
 *      | | |      token computed ------------------>|  |
 *      | |  `---- preempt <-----'----|--------------'  |
 *      | `- unpark - PARKED <- park -'-----------------'
 *      |               |
 *      any state ------+---- sched_finish() -------> FINISHED
 *
 * transition                      function          when
 * FREE -> WAITING                 sched_add         submitted
 * WAITING -> PREFILL or DECODE    sched_next        seat and blocks available
 * PREFILL -> DECODE               sched_issued      the prompt is computed and
 *                                                   a token is sampled
 * WAITING, PREFILL, DECODE, PARKED -> ENDING
 *                                 sched_issued      the last of max_tokens is
 *                                                   sampled: blocks let go
 * PREFILL, DECODE -> WAITING      sched_next        preempted: blocks freed,
 *                                                   everything recomputed
 * WAITING, PREFILL, DECODE -> PARKED   sched_park   its reader is too slow
 * PARKED -> WAITING               sched_park        may run again
 * any -> FINISHED                 sched_finish      ended or cancelled
 * FINISHED -> FREE                sched_finish, or sched_done of the last step
 *                                 that it is part of
 *
 * what holds between steps
 * WAITING   blocks only when it was parked before; they may be taken
 * PREFILL   num_computed_tokens < num_tokens; the blocks cover the whole
 *           prompt and the first sampled token
 * DECODE    num_computed_tokens == num_tokens - 1 > 0; the blocks cover
 *           num_computed_tokens, and num_tokens once it is in a plan
 * PARKED    keeps its blocks until somebody who can run needs them
 * ENDING    never planned again; no blocks; its owner waits for the token
 * FINISHED  a step in flight computes it for nothing; no blocks
 *
 * Every state lives in one list of the scheduler, ordered by age; seq_move()
 * is the one writer of `state`. */
#ifndef LLM_SCHED_SEQ_H
#define LLM_SCHED_SEQ_H

#include <stdint.h>

enum seq_state {
    SEQ_FREE,
    SEQ_WAITING,
    SEQ_PREFILL,
    SEQ_DECODE,
    SEQ_PARKED,
    SEQ_ENDING,
    SEQ_FINISHED
};

struct seq_list;

struct seq {
    uint64_t         id;                   /* the owner's; for reports */
    void            *user;                 /* the owner's, borrowed */
    uint64_t         order;                /* age: smaller is older */
    enum seq_state   state;
    uint64_t         step;                 /* the newest it is part of, 0:
                                              none */
    int32_t          num_prompt_tokens;
    int32_t          num_tokens;           /* prompt + sampled */
    int32_t          num_computed_tokens;  /* of them, in the KV cache */
    int32_t          num_tokens_max;       /* prompt + max_tokens */
    int32_t          num_preemptions;
    int32_t          num_blocks;           /* used entries of block_table */
    int32_t         *block_table;          /* [max_blocks_per_seq] */
    int64_t          deadline_ns;          /* 0: none */
    int64_t          added_ns;
    int64_t          scheduled_ns;         /* first admission; 0: not yet */
    struct seq_list *list;                 /* where it is linked, or NULL */
    struct seq      *prev, *next;
};

/* A list by age, oldest first. */
struct seq_list {
    struct seq *oldest, *youngest;
    int32_t     num_seqs;
};

/* Changes the state and moves the sequence to the list of that state (NULL:
 * to none).  The only function that writes seq->state; check() fails on a
 * transition that the table above does not have. */
void seq_move(struct seq *seq, enum seq_state state, struct seq_list *list);

const char *seq_state_name(enum seq_state state);

#endif
