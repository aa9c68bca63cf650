/* batch.c - one allocation for all step arrays, filled sequence by sequence. */
#include "engine/model/batch.h"
#include "engine/backend/backend.h"
#include "engine/base/check.h"

#include <stdlib.h>
#include <string.h>

int
batch_init(struct batch *b, const struct batch_limits *l, struct err *err)
{
    *b = (struct batch) { .limits = *l };
    check(l->max_num_batched_tokens >= 1 && l->max_num_seqs >= 1);
    check(l->max_num_logits >= 1 && l->max_blocks_per_seq >= 1);
    size_t  tokens = (size_t) l->max_num_batched_tokens;
    size_t  seqs = (size_t) l->max_num_seqs;
    size_t  num = 3 * tokens + 2 * seqs + 1
                  + seqs * (size_t) l->max_blocks_per_seq
                  + (size_t) l->max_num_logits;
    b->input_ids = calloc(num, sizeof *b->input_ids);
    if (b->input_ids == NULL) {
        return err_set(err, "out of memory: %zu bytes of step arrays",
                       num * sizeof *b->input_ids);
    }
    b->positions = b->input_ids + tokens;
    b->slot_mapping = b->positions + tokens;
    b->cu_seqlens_q = b->slot_mapping + tokens;
    b->context_lens = b->cu_seqlens_q + seqs + 1;
    b->logits_idx = b->context_lens + seqs;
    b->block_tables = b->logits_idx + l->max_num_logits;
    return OK;
}

void
batch_destroy(struct batch *b)
{
    free(b->input_ids);
    *b = (struct batch) { .num_tokens = 0 };
}

void
batch_reset(struct batch *b)
{
    b->num_tokens = 0;
    b->num_seqs = 0;
    b->num_logits = 0;
}

int
batch_append(struct batch *b, const struct batch_seq *seq)
{
    const struct batch_limits  *l = &b->limits;
    int  context_len = seq->position + seq->query_len;
    int  num_blocks = (context_len + seq->block_size - 1) / seq->block_size;
    int  first_logits = b->num_logits;

    check(seq->query_len >= 1 && seq->position >= 0);
    check(seq->num_logits >= 0 && seq->num_logits <= seq->query_len);
    check_le(b->num_tokens + seq->query_len, l->max_num_batched_tokens);
    check_lt(b->num_seqs, l->max_num_seqs);
    check_le(b->num_logits + seq->num_logits, l->max_num_logits);
    check_le(num_blocks, l->max_blocks_per_seq);

    memcpy(batch_block_table(b, b->num_seqs), seq->block_ids,
           (size_t) num_blocks * sizeof *seq->block_ids);
    for (int i = 0; i < seq->query_len; i++) {
        int  row = b->num_tokens + i, position = seq->position + i;
        b->input_ids[row] = seq->token_ids[i];
        b->positions[row] = position;
        b->slot_mapping[row] = seq->block_ids[position / seq->block_size]
                               * seq->block_size + position % seq->block_size;
    }
    b->cu_seqlens_q[b->num_seqs] = b->num_tokens;
    b->context_lens[b->num_seqs] = context_len;
    b->num_tokens += seq->query_len;
    b->num_seqs++;
    b->cu_seqlens_q[b->num_seqs] = b->num_tokens;
    for (int i = seq->num_logits; i > 0; i--) {
        b->logits_idx[b->num_logits++] = b->num_tokens - i;
    }
    return first_logits;
}
