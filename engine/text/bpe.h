/* bpe.h - byte-pair encoding of one pre-token.
 *
 * Merges are applied lowest rank first, leftmost on ties, as the reference
 * does.  Four sizes of word, same result: a cache of recent short words; an
 * array with linear minimum search; a linked list with a heap, O(n log n);
 * and for very long words sweeps, one per rank, near-linear (bpe_rounds.h).
 *
 * Words are either raw bytes (byte-level vocabularies whose alphabet is
 * complete: `bytes` below) or UTF-8 text.  SentencePiece-style text comes as
 * one long word; it is cut where no token of the vocabulary spans the two
 * characters, which cannot change the result (`cuts` below).
 *
 * Threads: struct bpe is immutable after bpe_finish(); bpe_scratch is one
 * thread's.  Memory of a scratch: 2 MB of cache, plus 24 bytes a symbol of
 * the longest word seen, released when above BPE_KEEP_SYMBOLS. */
#ifndef LLM_TEXT_BPE_H
#define LLM_TEXT_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/base/err.h"
#include "engine/base/str.h"
#include "engine/text/id_buf.h"
#include "engine/text/vocab.h"

#define BPE_MERGES_MAX    (1u << 23)
#define BPE_KEEP_SYMBOLS  65536
#define BPE_ADJACENT_BITS (1u << 20)
#define BPE_AFFIX_BYTES_MAX  64       /* subword prefix, word suffix */

struct bpe_pair {
    uint64_t key;         /* left id << 32 | right id; UINT64_MAX: free */
    uint32_t rank;
    int32_t  new_id;
};

struct bpe {
    const struct vocab *vocab;       /* borrowed: tokenizer.json's spelling */
    struct bpe_pair    *pairs;       /* [pair_mask + 1] */
    uint32_t            pair_mask;
    uint32_t            num_pairs;
    uint32_t            num_ranks;   /* largest rank + 1 */
    uint32_t           *min_use;     /* [num_ids] lowest rank of a merge that
                                        has the id as a side */

    bool     bytes;                  /* words are raw bytes */
    bool     ignore_merges;
    bool     byte_fallback;
    bool     fuse_unk;
    bool     cuts;                   /* adjacent[] may be used */
    int32_t  unk_id;                 /* -1: none */
    uint32_t token_len_max;          /* longest token in vocab */
    int32_t  byte_ids[256];          /* bytes: id of the byte; text: <0xNN> */
    uint16_t *char_first;            /* text: [8704] block of cp >> 7 */
    int32_t  *char_ids;              /* text: [blocks * 128] id or -1 */
    struct str prefix, suffix;       /* borrowed; continuing_subword_prefix,
                                        end_of_word_suffix; empty: none */
    uint64_t *adjacent;              /* [BPE_ADJACENT_BITS / 64] a bit per hash
                                        of two characters that some token
                                        holds side by side */
};

struct bpe_scratch;

static inline uint64_t
bpe_pair_key(int32_t left, int32_t right)
{
    return (uint64_t) (uint32_t) left << 32 | (uint32_t) right;
}

static inline uint32_t
bpe_pair_home(const struct bpe *b, uint64_t key)
{
    return (uint32_t) ((key ^ key >> 29) * 0x9E3779B97F4A7C15ULL >> 36)
           & b->pair_mask;
}

/* The merge of two ids, NULL when there is none. */
static inline const struct bpe_pair *
bpe_pair_find(const struct bpe *b, int32_t left, int32_t right)
{
    uint64_t  key = bpe_pair_key(left, right);
    for (uint32_t i = bpe_pair_home(b, key); ; i = (i + 1) & b->pair_mask) {
        if (b->pairs[i].key == key) {
            return &b->pairs[i];
        }
        if (b->pairs[i].key == UINT64_MAX) {
            return NULL;
        }
    }
}

/* init; then the flags, unk_id, prefix and suffix (and, with bytes, byte_ids);
 * then the pairs; then finish.  False when out of memory. */
bool bpe_init(struct bpe *b, const struct vocab *vocab);
/* A later pair with the same ids replaces the earlier, as in the reference.
 * False when out of memory or above BPE_MERGES_MAX. */
bool bpe_add_pair(struct bpe *b, int32_t left, int32_t right, uint32_t rank,
                  int32_t new_id);
/* Hint that a pair will be added soon. */
void bpe_prefetch_pair(const struct bpe *b, int32_t left, int32_t right);
bool bpe_finish(struct bpe *b);
void bpe_destroy(struct bpe *b);

struct bpe_scratch *bpe_scratch_create(void);
void bpe_scratch_destroy(struct bpe_scratch *s);

/* Bytes behind every word that may be read (never used); lets short words be
 * loaded without a bounds check each. */
void bpe_scratch_readable(struct bpe_scratch *s, const char *end);

/* Appends the ids of word.  ERROR only when out of memory. */
int bpe_encode(const struct bpe *b, struct bpe_scratch *s, struct str word,
               struct id_buf *out, struct err *err);

#endif
