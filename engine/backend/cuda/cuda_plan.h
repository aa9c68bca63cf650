/* cuda_plan.h - cuts the keys of a decode step into the items that the warps of
 * the Hopper attention kernel take.
 *
 * All (row, kv head) of a step in this order, each cut into ranges of whole tiles
 * of 32 keys.  A range is at most what is left of the step for each warp (and
 * half of that more, if it ends the row), so items get smaller towards the end
 * and warps, which take them as they get done, end together, whatever the
 * lengths and however unequal the memory serves them.  Rows that come early are
 * not cut at all.
 *
 * Plain C without CUDA; pure; any thread. */
#ifndef LLM_BACKEND_CUDA_CUDA_PLAN_H
#define LLM_BACKEND_CUDA_CUDA_PLAN_H

#include "kernels/attention_items.h"

#define DECODE_ITEM_MIN    4       /* tiles, unless its row has fewer */

struct decode_plan_args {
    int                 num_seqs;
    const int32_t      *rows;          /* [num_seqs] row of q and out; -1: not
                                          a decode row, left out */
    const int32_t      *tables;        /* [num_seqs] as decode_item.table */
    const int32_t      *context_lens;  /* [num_seqs] keys, >= 1 */
    int                 num_kv_heads;
    int                 num_warps;     /* >= 1 */
    struct decode_item *items;         /* [items_max] out */
    int                 items_max;
    int                 partials_max;  /* partial results there is room for */
};

/* Items that a step of at most num_seqs decode rows needs, of up to a million
 * keys each. */
int decode_plan_items_max(int num_seqs, int num_kv_heads, int num_warps);

/* The number of items, or -1 when items_max or partials_max would be passed. */
int decode_plan(const struct decode_plan_args *args);

#endif
