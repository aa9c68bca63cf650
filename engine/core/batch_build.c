/* batch_build.c - where counts of the scheduler meet token ids. */
#include "engine/core/batch_build.h"
#include "engine/backend/backend.h"
#include "engine/base/check.h"
#include "engine/core/gen_table.h"

void
batch_build(struct batch *batch, const struct plan *plan, int32_t block_size)
{
    batch_reset(batch);
    for (int32_t i = 0; i < plan->num_seqs; i++) {
        const struct plan_seq  *p = &plan->seqs[i];
        const struct gen_slot  *slot = p->seq->user;
        (void) batch_append(batch, &(struct batch_seq) {
            .token_ids = slot->req.token_ids + p->position,
            .query_len = p->num_tokens,
            .position = p->position,
            .block_ids = p->seq->block_table,
            .block_size = block_size,
            .num_logits = p->sample ? 1 : 0
        });
        int32_t  num_known = slot->req.num_prompt_tokens + slot->num_output;
        if (p->position + p->num_tokens > num_known) {
            check_eq(p->position + p->num_tokens, num_known + 1);
            batch->input_ids[batch->num_tokens - 1] =
                INPUT_SAMPLED(slot->sampled_row);
        }
    }
}
