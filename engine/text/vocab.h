/* vocab.h - token strings, found by id and by text.
 *
 * Used for tokenizer.json's spelling of all tokens, and again for the bytes
 * that ignore_merges looks words up by.  Ids need not be dense.  Filled once
 * by vocab_add(), then only read; threads may share it.
 *
 * Memory: one blob for the text, 12 bytes a token, 8 a hash slot. */
#ifndef LLM_TEXT_VOCAB_H
#define LLM_TEXT_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/base/buf.h"
#include "engine/base/str.h"

#define VOCAB_BATCH_MAX  96

struct vocab_entry {
    uint32_t offset;     /* into text */
    uint32_t len;        /* bytes */
    int32_t  id;
};

struct vocab_slot {
    uint32_t tag;        /* high hash bits */
    uint32_t entry;      /* index + 1; 0: free */
};

struct vocab {
    struct buf          text;
    struct vocab_entry *entries;     /* [num_entries] in order of adding */
    uint32_t            num_entries;
    uint32_t            cap_entries;
    uint32_t           *by_id;       /* [num_ids] entry index + 1; 0: none */
    int32_t             num_ids;     /* largest id + 1 */
    int32_t             cap_ids;
    struct vocab_slot  *slots;       /* [num_slots], a power of two */
    uint32_t            num_slots;
};

/* Room for num tokens at once; false when out of memory. */
bool vocab_init(struct vocab *v, size_t num, size_t text_bytes_max);
void vocab_destroy(struct vocab *v);

/* Maps token to id.  The same token again: the later id wins.  The same id
 * again: vocab_token() gives the later text, both texts find the id.  False
 * when out of memory.  id >= 0 and below the caller's limit. */
bool vocab_add(struct vocab *v, struct str token, int32_t id);

/* vocab_add() of num <= VOCAB_BATCH_MAX tokens, in order. */
bool vocab_add_batch(struct vocab *v, const struct str *tokens, size_t num,
                     const int32_t *ids);

/* The ids of num <= VOCAB_BATCH_MAX tokens at once, -1 for those not there.
 * The memory accesses overlap: several times faster than one by one. */
void vocab_find_batch(const struct vocab *v, const struct str *tokens,
                      size_t num, int32_t *ids);

int32_t vocab_find(const struct vocab *v, const char *token, size_t len);

static inline struct str
vocab_token(const struct vocab *v, int32_t id)
{
    if (id < 0 || id >= v->num_ids || v->by_id[id] == 0) {
        return (struct str) { NULL, 0 };
    }
    const struct vocab_entry  *e = &v->entries[v->by_id[id] - 1];
    return (struct str) { v->text.data + e->offset, e->len };
}

#endif
