/* vocab.c - open addressing; half full at most; the text is compared only when
 * 32 bits of the hash agree.  The hash is unkeyed: vocabularies are the
 * model's own, and a lookup of client text walks a table built from them. */
#include "engine/text/vocab.h"

#include <stdlib.h>
#include <string.h>
#include "engine/base/check.h"
#include "engine/base/hash.h"

static uint64_t
vocab_hash(const char *p, size_t len)
{
    uint64_t  h = len * 0x9E3779B97F4A7C15ULL, w;
    for (; len >= 8; p += 8, len -= 8) {
        memcpy(&w, p, 8);
        h = (h ^ w) * 0xd6e8feb86659fd93ULL;
        h ^= h >> 32;
    }
    if (len >= 4) {                  /* two overlapping halves */
        uint32_t  a, b;
        memcpy(&a, p, 4);
        memcpy(&b, p + len - 4, 4);
        w = (uint64_t) a << 32 | b;
    } else if (len > 0) {
        w = (uint64_t) (unsigned char) p[0] << 16
            | (uint64_t) (unsigned char) p[len / 2] << 8
            | (unsigned char) p[len - 1];
    } else {
        w = 0;
    }
    return hash_mix64(h ^ w);
}

bool
vocab_init(struct vocab *v, size_t num, size_t text_bytes_max)
{
    *v = (struct vocab) { 0 };
    buf_init(&v->text, text_bytes_max < UINT32_MAX ? text_bytes_max
                                                   : UINT32_MAX);
    if (num > UINT32_MAX / 4) {
        return false;
    }
    uint32_t  slots = 64;
    while (slots < num * 2) {
        slots *= 2;
    }
    v->slots = calloc(slots, sizeof *v->slots);
    v->num_slots = slots;
    return v->slots != NULL;
}

void
vocab_destroy(struct vocab *v)
{
    buf_destroy(&v->text);
    free(v->entries);
    free(v->by_id);
    free(v->slots);
    *v = (struct vocab) { 0 };
}

/* The slot that holds token, whose hash is h, or the free one where it
 * belongs. */
static struct vocab_slot *
vocab_slot(const struct vocab *v, const char *token, size_t len, uint64_t h,
           uint32_t *tag)
{
    uint32_t  mask = v->num_slots - 1;

    *tag = (uint32_t) (h >> 32);
    for (uint32_t i = (uint32_t) h & mask; ; i = (i + 1) & mask) {
        struct vocab_slot  *s = &v->slots[i];
        if (s->entry == 0) {
            return s;
        }
        const struct vocab_entry  *e = &v->entries[s->entry - 1];
        if (s->tag == *tag && e->len == len
            && memcmp(v->text.data + e->offset, token, len) == 0)
        {
            return s;
        }
    }
}

static bool
vocab_grow_slots(struct vocab *v)
{
    struct vocab_slot  *old = v->slots;
    uint32_t            num = v->num_slots;

    v->slots = calloc((size_t) num * 2, sizeof *v->slots);
    if (v->slots == NULL) {
        v->slots = old;
        return false;
    }
    v->num_slots = num * 2;
    for (uint32_t i = 0; i < num; i++) {
        if (old[i].entry != 0) {
            const struct vocab_entry  *e = &v->entries[old[i].entry - 1];
            uint32_t                   tag;
            const char                *p = v->text.data + e->offset;
            *vocab_slot(v, p, e->len, vocab_hash(p, e->len), &tag) = old[i];
        }
    }
    free(old);
    return true;
}

static bool
vocab_reserve(struct vocab *v, int32_t id)
{
    if (v->num_entries == v->cap_entries) {
        uint32_t             cap = v->cap_entries == 0 ? 1024
                                                       : v->cap_entries * 2;
        struct vocab_entry  *e = realloc(v->entries, cap * sizeof *e);
        if (e == NULL) {
            return false;
        }
        v->entries = e;
        v->cap_entries = cap;
    }
    if (id >= v->cap_ids) {
        int32_t  cap = v->cap_ids == 0 ? 1024 : v->cap_ids;
        while (cap <= id) {
            cap *= 2;
        }
        uint32_t  *by_id = realloc(v->by_id, (size_t) cap * sizeof *by_id);
        if (by_id == NULL) {
            return false;
        }
        memset(by_id + v->cap_ids, 0,
               (size_t) (cap - v->cap_ids) * sizeof *by_id);
        v->by_id = by_id;
        v->cap_ids = cap;
    }
    return v->num_entries * 2 < v->num_slots || vocab_grow_slots(v);
}

static bool
vocab_add_hashed(struct vocab *v, struct str token, uint64_t hash, int32_t id)
{
    uint32_t  tag;

    if (!vocab_reserve(v, id)) {
        return false;
    }
    struct vocab_slot  *s = vocab_slot(v, token.data, token.len, hash, &tag);
    if (s->entry == 0) {
        size_t  offset = v->text.len;
        buf_append_str(&v->text, token);
        if (v->text.failed) {
            return false;
        }
        v->entries[v->num_entries] = (struct vocab_entry) {
            .offset = (uint32_t) offset, .len = (uint32_t) token.len, .id = id
        };
        *s = (struct vocab_slot) { tag, ++v->num_entries };
    } else {
        v->entries[s->entry - 1].id = id;
    }
    v->by_id[id] = s->entry;
    if (id >= v->num_ids) {
        v->num_ids = id + 1;
    }
    return true;
}

bool
vocab_add(struct vocab *v, struct str token, int32_t id)
{
    return vocab_add_hashed(v, token, vocab_hash(token.data, token.len), id);
}

bool
vocab_add_batch(struct vocab *v, const struct str *tokens, size_t num,
                const int32_t *ids)
{
    uint64_t  hash[VOCAB_BATCH_MAX];

    check_le(num, VOCAB_BATCH_MAX);
    for (size_t i = 0; i < num; i++) {
        hash[i] = vocab_hash(tokens[i].data, tokens[i].len);
        __builtin_prefetch(&v->slots[(uint32_t) hash[i] & (v->num_slots - 1)],
                           1);
    }
    for (size_t i = 0; i < num; i++) {
        if (!vocab_add_hashed(v, tokens[i], hash[i], ids[i])) {
            return false;
        }
    }
    return true;
}

int32_t
vocab_find(const struct vocab *v, const char *token, size_t len)
{
    uint32_t                  tag;
    const struct vocab_slot  *s;

    if (v->num_slots == 0) {
        return -1;
    }
    s = vocab_slot(v, token, len, vocab_hash(token, len), &tag);
    return s->entry == 0 ? -1 : v->entries[s->entry - 1].id;
}

void
vocab_find_batch(const struct vocab *v, const struct str *tokens, size_t num,
                 int32_t *ids)
{
    uint64_t  hash[VOCAB_BATCH_MAX];
    uint32_t  mask = v->num_slots - 1, tag;

    check_le(num, VOCAB_BATCH_MAX);
    for (size_t i = 0; i < num; i++) {
        hash[i] = vocab_hash(tokens[i].data, tokens[i].len);
        __builtin_prefetch(&v->slots[(uint32_t) hash[i] & mask]);
    }
    for (size_t i = 0; i < num; i++) {
        uint32_t  e = v->slots[(uint32_t) hash[i] & mask].entry;
        __builtin_prefetch(&v->entries[e == 0 ? 0 : e - 1]);
    }
    for (size_t i = 0; i < num; i++) {
        uint32_t  e = v->slots[(uint32_t) hash[i] & mask].entry;
        __builtin_prefetch(v->text.data + (e == 0 ? 0
                                           : v->entries[e - 1].offset));
    }
    for (size_t i = 0; i < num; i++) {
        const struct vocab_slot  *s = vocab_slot(v, tokens[i].data,
                                                 tokens[i].len, hash[i], &tag);
        ids[i] = s->entry == 0 ? -1 : v->entries[s->entry - 1].id;
    }
}
