/* attention_items.h - pieces of attention work, as the kernels take them; plain
 * C, so that plans can be made and tested without CUDA. */
#ifndef LLM_KERNELS_ATTENTION_ITEMS_H
#define LLM_KERNELS_ATTENTION_ITEMS_H

#include <stdint.h>

#define ATTENTION_ROWS         128   /* query rows of a prefill item */
#define ATTENTION_GROUP_MAX    16    /* query heads per kv head, decode */
#define ATTENTION_DECODE_KEYS  32    /* a decode_item begins at a multiple */
#define ATTENTION_DECODE_WARPS 8     /* most shares of a multiprocessor: with
                                        an fp8 cache; others: 4 */

/* Decode: one query row against the keys [key_begin, key_end), at most its
 * own, part `part` of num_parts; a row with several parts has room for its
 * partial results at partial .. partial + num_parts - 1.
 * Prefill: num_rows (at most ATTENTION_ROWS) rows of one sequence with
 * consecutive positions, against all their keys. */
struct attention_item {
    int32_t seq;           /* of the counters */
    int32_t table;         /* the sequence's first block in block_tables */
    int32_t row;           /* first row of q and out */
    int32_t num_rows;
    int32_t position;      /* of the first row */
    int32_t key_begin, key_end;
    int32_t partial;
    int32_t part, num_parts;
};

/* Decode on Hopper: the query heads of one kv head of one row against the keys
 * [key_begin, key_end) of its sequence.  Part `part` of num_parts of the same
 * row and kv head; parts keep partial results at partial .. partial +
 * num_parts - 1, counted per kv head. */
struct decode_item {
    int32_t seq, table, row, kv_head, position;
    int32_t key_begin, key_end;
    int32_t partial, part, num_parts;
};

#endif
