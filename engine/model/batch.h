/* batch.h - the arrays of one step, as vLLM names them.
 *
 * core/batch_build.c fills a batch from the scheduler's plan; model_forward()
 * reads it.  All arrays are allocated by batch_init() at their capacity and
 * never grow.  Rows of a sequence are contiguous and in position order;
 * sequences may come in any order.
 *
 *     two sequences, prefill of 3 tokens and decode at position 40:
 *     num_tokens 4, num_seqs 2
 *     input_ids    [ 5  6  7 | 99 ]        positions     [ 0 1 2 | 40 ]
 *     cu_seqlens_q [ 0  3  4 ]             context_lens  [ 3  41 ]
 *     block_tables [ [9 ...] [4 2 ...] ]   block_size 32
 *     slot_mapping [ 288 289 290 | 72 ]    logits_idx    [ 2 3 ] */
#ifndef LLM_MODEL_BATCH_H
#define LLM_MODEL_BATCH_H

#include <stdint.h>
#include "engine/base/err.h"

struct batch_limits {
    int max_num_batched_tokens;
    int max_num_seqs;
    int max_num_logits;
    int max_blocks_per_seq;    /* div_ceil(max_model_len, block_size) */
};

struct batch {
    struct batch_limits  limits;

    int                  num_tokens;    /* rows used */
    int                  num_seqs;
    int                  num_logits;
    int32_t             *input_ids;     /* [max_num_batched_tokens] */
    int32_t             *positions;     /* [max_num_batched_tokens] */
    int32_t             *slot_mapping;  /* [max_num_batched_tokens], block_id *
                                           block_size + offset; -1: padding */
    int32_t             *cu_seqlens_q;  /* [max_num_seqs + 1] */
    int32_t             *context_lens;  /* [max_num_seqs], with this step's
                                           tokens */
    int32_t             *block_tables;  /* [max_num_seqs, max_blocks_per_seq] */
    int32_t             *logits_idx;    /* [max_num_logits], rows */
};

/* A batch of zero rows; batch_destroy() is safe on a zeroed batch. */
int batch_init(struct batch *b, const struct batch_limits *limits,
               struct err *err);
void batch_destroy(struct batch *b);
void batch_reset(struct batch *b);     /* zero rows again */

/* The block table of sequence seq_idx, to be written. */
static inline int32_t *
batch_block_table(struct batch *b, int seq_idx)
{
    return b->block_tables
           + (int64_t) seq_idx * b->limits.max_blocks_per_seq;
}

/* One sequence's share of a step. */
struct batch_seq {
    const int32_t *token_ids;    /* [query_len], what to compute */
    int            query_len;    /* >= 1 */
    int            position;     /* of token_ids[0]: tokens already in the KV */
    const int32_t *block_ids;    /* covers position + query_len tokens */
    int            block_size;
    int            num_logits;   /* logits of the last num_logits rows: 0 for
                                    an unfinished prompt chunk, 1 normally */
};

/* Appends a sequence and fills every array; check() fails when it does not
 * fit the capacities.  Returns the index of its first logits row. */
int batch_append(struct batch *b, const struct batch_seq *seq);

#endif
