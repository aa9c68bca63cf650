/* cuda_plan.h - shares the keys of a decode step among the blocks or the warps
 * of the Hopper attention kernels.
 *
 * decode_plan_rows(), for decode_block: a share is a block's, of whole (row, kv
 * head) where possible, dealt out one a share in turn, so that the kv heads
 * of a sequence, which lie side by side, are read at about the same time.  What
 * would make a share PLAN_SLACK tiles longer than the average is cut to fill up
 * the shares; those parts come first in their shares, because merging them takes
 * time that is hidden while others run.
 *
 * decode_plan(), for decode_sm90: a share is a warp's, of one kv head.  The kv
 * heads of a sequence lie side by side and are read at the same time: by
 * num_kv_heads shares, of the same keys.  All (row, tile of 32 keys) of a step,
 * in this order, are cut for such groups of shares, which differ by one tile at
 * most: no warp waits for another, whatever the lengths.  A share is never below
 * DECODE_SHARE_MIN tiles, so small steps use fewer warps, and what num_shares is
 * more than a multiple of num_kv_heads is not used.  With `chunk_keys` set the
 * cuts are at its multiples in every sequence instead, and warps get whole
 * chunks: then a row's result does not depend on the other rows (batch
 * invariance).
 *
 * Plain C without CUDA; pure; any thread. */
#ifndef LLM_BACKEND_CUDA_CUDA_PLAN_H
#define LLM_BACKEND_CUDA_CUDA_PLAN_H

#include "kernels/attention_items.h"

#define DECODE_SHARE_MIN   2       /* tiles */
#define PLAN_SHARE_MIN     8       /* tiles of a block's share: one a warp */
#define PLAN_SLACK         20      /* tiles that cost about as much as a cut */
#define PLAN_BLOCKS_MAX    512     /* shares of decode_plan_rows() */

/* Room for an item that has its share, but not its place yet. */
struct decode_draft {
    struct decode_item item;
    int32_t            share;      /* -1: a row to be cut */
};

struct decode_plan_args {
    int                 num_seqs;
    const int32_t      *rows;          /* [num_seqs] row of q and out; -1: not
                                          a decode row, left out */
    const int32_t      *tables;        /* [num_seqs] as decode_item.table */
    const int32_t      *context_lens;  /* [num_seqs] keys, >= 1 */
    int                 num_kv_heads;
    int                 num_shares;    /* >= 1; decode_plan(): num_kv_heads */
    int                 chunk_keys;    /* 0: equal shares; else a multiple of
                                          ATTENTION_DECODE_KEYS */
    struct decode_item *items;         /* [items_max] out */
    int                 items_max;
    int32_t            *first;         /* [num_shares + 1] out */
    int                 partials_max;  /* partial results there is room for */
    struct decode_draft *drafts;       /* [drafts_max], decode_plan_rows() */
    int                 drafts_max;
};

/* Items that any step of at most num_seqs decode rows needs without chunk_keys. */
int decode_plan_items_max(int num_seqs, int num_kv_heads, int num_shares);

/* The number of items, or -1 when items_max or partials_max would be passed
 * (possible with chunk_keys only: plan again with larger chunks). */
int decode_plan(const struct decode_plan_args *args);

/* The same for shares of blocks; chunk_keys unused.  decode_plan_items_max() is
 * enough for items, twice that for drafts. */
int decode_plan_rows(const struct decode_plan_args *args);

#endif
