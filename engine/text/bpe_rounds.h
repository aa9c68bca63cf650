/* bpe_rounds.h - byte-pair encoding of very long words, rank by rank.
 *
 * A merge that uses a token usually comes after those that make it.  Then
 * merging a pair makes no pair of lower or equal rank, and all places of one
 * rank can be merged in one sweep from left to right: a megabyte of one letter
 * is a dozen sweeps, where a heap would do a million pops.  Files converted
 * from other formats list further splits of a token before it can exist;
 * min_use tells where that is so, and such pairs are merged at once, before
 * the sweep goes on, which is the order the ranks demand.
 *
 *     num = bpe_rounds(b, ids, num);                      SIZE_MAX: no memory
 *
 * Time: linear in the symbols, plus sorting of each rank's places where they
 * were not found in order.  Memory: 36 bytes a symbol and 8 a rank, freed at
 * once. */
#ifndef LLM_TEXT_BPE_ROUNDS_H
#define LLM_TEXT_BPE_ROUNDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/text/bpe.h"

/* Merges ids[num] in place, num < 2^31; returns how many are left. */
size_t bpe_rounds(const struct bpe *b, int32_t *ids, size_t num);

#endif
