/* seq.c - the one writer of a sequence's state.
 *
 * The lists are ordered by age at insertion.  Whatever is inserted in the
 * middle is old (preempted, resumed), so the walk starts at the oldest. */
#include "engine/sched/seq.h"
#include "engine/base/check.h"

#include <stddef.h>

#define TO(state)  (1u << (state))

/* allowed[from] = set of states that may follow; the table of seq.h. */
static const unsigned  allowed[] = {
    [SEQ_FREE]     = TO(SEQ_WAITING),
    [SEQ_WAITING]  = TO(SEQ_PREFILL) | TO(SEQ_DECODE) | TO(SEQ_PARKED)
                     | TO(SEQ_ENDING) | TO(SEQ_FINISHED),
    [SEQ_PREFILL]  = TO(SEQ_DECODE) | TO(SEQ_WAITING) | TO(SEQ_PARKED)
                     | TO(SEQ_ENDING) | TO(SEQ_FINISHED),
    [SEQ_DECODE]   = TO(SEQ_WAITING) | TO(SEQ_PARKED) | TO(SEQ_ENDING)
                     | TO(SEQ_FINISHED),
    [SEQ_PARKED]   = TO(SEQ_WAITING) | TO(SEQ_ENDING) | TO(SEQ_FINISHED),
    [SEQ_ENDING]   = TO(SEQ_FINISHED),
    [SEQ_FINISHED] = TO(SEQ_FREE)
};

static void
seq_unlink(struct seq *seq)
{
    struct seq_list  *list = seq->list;

    if (list == NULL) {
        return;
    }
    if (seq->prev != NULL) {
        seq->prev->next = seq->next;
    } else {
        list->oldest = seq->next;
    }
    if (seq->next != NULL) {
        seq->next->prev = seq->prev;
    } else {
        list->youngest = seq->prev;
    }
    list->num_seqs--;
    seq->list = NULL;
    seq->prev = NULL;
    seq->next = NULL;
}

static void
seq_link(struct seq *seq, struct seq_list *list)
{
    struct seq  *next = NULL;

    if (list->youngest != NULL && list->youngest->order > seq->order) {
        next = list->oldest;
        while (next->order < seq->order) {
            next = next->next;
        }
    }
    seq->next = next;
    seq->prev = next != NULL ? next->prev : list->youngest;
    if (seq->prev != NULL) {
        seq->prev->next = seq;
    } else {
        list->oldest = seq;
    }
    if (next != NULL) {
        next->prev = seq;
    } else {
        list->youngest = seq;
    }
    seq->list = list;
    list->num_seqs++;
}

void
seq_move(struct seq *seq, enum seq_state state, struct seq_list *list)
{
    check((allowed[seq->state] & TO(state)) != 0);
    seq->state = state;
    if (seq->list != list) {
        seq_unlink(seq);
        if (list != NULL) {
            seq_link(seq, list);
        }
    }
}

const char *
seq_state_name(enum seq_state state)
{
    static const char *const  names[] = {
        "free", "waiting", "prefill", "decode", "parked", "ending",
        "finished"
    };
    return names[state];
}
