/* batch_build.h - the scheduler's plan -> the arrays of a step. */
#ifndef LLM_CORE_BATCH_BUILD_H
#define LLM_CORE_BATCH_BUILD_H

#include "engine/model/batch.h"
#include "engine/sched/sched.h"

/* Fills *batch, emptying it first.  seq->user is the sequence's gen_slot.  A
 * token that the step in flight samples becomes INPUT_SAMPLED(sampled_row): at
 * most one of a sequence, and its last.  The logits rows are those of the
 * entries with `sample`, in their order. */
void batch_build(struct batch *batch, const struct plan *plan,
                 int32_t block_size);

#endif
