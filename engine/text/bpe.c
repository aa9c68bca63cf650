/* bpe.c - the pair table and the merge loops; word splitting is not here.
 *
 * A stale queue entry is told by its rank: rank[i] is the current rank of
 * symbol i and its successor, and a rank belongs to one pair only. */
#include "engine/text/bpe.h"

#include <stdlib.h>
#include <string.h>
#include "engine/base/hash.h"
#include "engine/base/utf8.h"
#include "engine/text/bpe_rounds.h"
#include "engine/text/byte_map.h"
#include "engine/text/unicode.h"

#define NO_RANK          UINT32_MAX
#define SMALL_SYMBOLS    32      /* linear search wins up to about here */
#define ROUNDS_SYMBOLS   8192    /* above, sweeps beat the heap */
#define CACHE_SLOTS      32768   /* a power of two, 64 bytes each */
#define CACHE_KEY_BYTES  22
#define CACHE_IDS        10
#define KEY_MASK         0x00FFFFFFFFFFFFFFULL
#define CHAR_BLOCKS      (0x110000 >> 7)

/* One cache line.  key[2] holds 6 bytes of the word, its length, and in the
 * top byte num_ids. */
struct cache_slot {
    uint64_t key[3];
    int32_t  ids[CACHE_IDS];
};

struct bpe_scratch {
    struct cache_slot *cache;        /* [CACHE_SLOTS] */
    const char        *readable;     /* see bpe_scratch_readable() */
    int32_t           *ids;          /* [cap] symbols of the word */
    uint32_t          *rank;         /* [cap] */
    uint32_t          *next;         /* [cap] long words: index, cap: none */
    uint32_t          *prev;
    size_t             cap;
    uint64_t          *heap;         /* [heap_cap] rank << 32 | index */
    size_t             heap_len;
    size_t             heap_cap;
    struct buf         spelled;      /* a word in the vocabulary's characters */
};

static struct bpe_pair *
pairs_create(uint32_t slots)
{
    struct bpe_pair  *pairs = malloc(slots * sizeof *pairs);

    for (uint32_t i = 0; pairs != NULL && i < slots; i++) {
        pairs[i].key = UINT64_MAX;
    }
    return pairs;
}

bool
bpe_init(struct bpe *b, const struct vocab *vocab)
{
    uint32_t  slots = 64;

    *b = (struct bpe) { .vocab = vocab, .unk_id = -1 };
    /* Most files have a merge or two per token. */
    while (slots < vocab->num_entries * 2) {
        slots *= 2;
    }
    b->pairs = pairs_create(slots);
    b->pair_mask = slots - 1;
    for (int i = 0; i < 256; i++) {
        b->byte_ids[i] = -1;
    }
    return b->pairs != NULL;
}

void
bpe_destroy(struct bpe *b)
{
    free(b->pairs);
    free(b->char_first);
    free(b->char_ids);
    free(b->adjacent);
    free(b->min_use);
    *b = (struct bpe) { 0 };
}

static void
pair_put(struct bpe *b, const struct bpe_pair *pair)
{
    uint32_t  i = bpe_pair_home(b, pair->key);
    while (b->pairs[i].key != UINT64_MAX && b->pairs[i].key != pair->key) {
        i = (i + 1) & b->pair_mask;
    }
    b->num_pairs += b->pairs[i].key == UINT64_MAX;
    b->pairs[i] = *pair;
}

bool
bpe_add_pair(struct bpe *b, int32_t left, int32_t right, uint32_t rank,
             int32_t new_id)
{
    struct bpe_pair  pair = { bpe_pair_key(left, right), rank, new_id };

    if (rank >= BPE_MERGES_MAX) {
        return false;
    }
    if (b->num_pairs > b->pair_mask / 8 * 5) {
        struct bpe_pair  *old = b->pairs;
        uint32_t          slots = b->pair_mask + 1;
        struct bpe_pair  *pairs = pairs_create(slots * 2);
        if (pairs == NULL) {
            return false;
        }
        b->pairs = pairs;
        b->pair_mask = slots * 2 - 1;
        b->num_pairs = 0;
        for (uint32_t i = 0; i < slots; i++) {
            if (old[i].key != UINT64_MAX) {
                pair_put(b, &old[i]);
            }
        }
        free(old);
    }
    pair_put(b, &pair);
    b->num_ranks = rank >= b->num_ranks ? rank + 1 : b->num_ranks;
    return true;
}

void
bpe_prefetch_pair(const struct bpe *b, int32_t left, int32_t right)
{
    __builtin_prefetch(&b->pairs[bpe_pair_home(b, bpe_pair_key(left, right))], 1);
}

/* ---- characters, and where a long text may be cut ---------------------- */

static inline int32_t
char_id(const struct bpe *b, uint32_t cp)
{
    return b->char_ids[(size_t) b->char_first[cp >> 7] << 7 | (cp & 127)];
}

static bool
char_table_build(struct bpe *b)
{
    uint32_t  num_blocks = 1;

    b->char_first = calloc(CHAR_BLOCKS, sizeof *b->char_first);
    if (b->char_first == NULL) {
        return false;
    }
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < b->vocab->num_entries; i++) {
            const struct vocab_entry  *e = &b->vocab->entries[i];
            const char                *p = b->vocab->text.data + e->offset;
            uint32_t                   cp;
            if (e->len == 0 || e->len > 4 || unicode_next(p, &cp) != e->len) {
                continue;
            }
            if (b->char_first[cp >> 7] == 0) {
                b->char_first[cp >> 7] = (uint16_t) num_blocks++;
            }
            if (pass == 1) {
                b->char_ids[(size_t) b->char_first[cp >> 7] << 7 | (cp & 127)]
                    = e->id;
            }
        }
        if (pass == 0) {
            size_t  n = (size_t) num_blocks * 128;
            b->char_ids = malloc(n * sizeof *b->char_ids);
            if (b->char_ids == NULL) {
                return false;
            }
            memset(b->char_ids, 0xFF, n * sizeof *b->char_ids);
        }
    }
    return true;
}

/* ASCII pairs have bits of their own, others share by hash: a collision only
 * costs a cut. */
static inline uint32_t
adjacent_bit(uint32_t a, uint32_t c)
{
    if ((a | c) < 128) {
        return a << 7 | c;
    }
    return 16384 + (uint32_t) ((uint64_t) ((a * 0x9E3779B1u ^ c) * 0x85EBCA6Bu)
                               * (BPE_ADJACENT_BITS - 16384) >> 32);
}

static bool
adjacent_build(struct bpe *b)
{
    b->adjacent = calloc(BPE_ADJACENT_BITS / 64, sizeof *b->adjacent);
    if (b->adjacent == NULL) {
        return false;
    }
    for (uint32_t i = 0; i <= b->pair_mask; i++) {
        if (b->pairs[i].key == UINT64_MAX) {
            continue;
        }
        struct str  t = vocab_token(b->vocab, b->pairs[i].new_id);
        uint32_t    last, cp;
        size_t      n = t.len == 0 ? 0 : unicode_next(t.data, &last);
        for (; n < t.len; last = cp) {
            n += unicode_next(t.data + n, &cp);
            uint32_t  bit = adjacent_bit(last, cp);
            b->adjacent[bit / 64] |= 1ULL << bit % 64;
        }
    }
    return true;
}

/* A merge with a byte token joins what the character pairs do not show. */
static bool
merges_use_bytes(const struct bpe *b)
{
    for (uint32_t i = 0; i <= b->pair_mask; i++) {
        if (b->pairs[i].key == UINT64_MAX) {
            continue;
        }
        int32_t  left = (int32_t) (b->pairs[i].key >> 32);
        int32_t  right = (int32_t) b->pairs[i].key;
        if (left == b->unk_id || right == b->unk_id) {
            return true;
        }
        for (int k = 0; k < 256; k++) {
            if (b->byte_ids[k] >= 0
                && (left == b->byte_ids[k] || right == b->byte_ids[k]))
            {
                return true;
            }
        }
    }
    return false;
}

static bool
min_use_build(struct bpe *b)
{
    b->min_use = malloc(((size_t) b->vocab->num_ids + 1)
                        * sizeof *b->min_use);
    if (b->min_use == NULL) {
        return false;
    }
    memset(b->min_use, 0xFF, (size_t) b->vocab->num_ids * sizeof *b->min_use);
    for (uint32_t i = 0; i <= b->pair_mask; i++) {
        const struct bpe_pair  *p = &b->pairs[i];
        if (p->key == UINT64_MAX) {
            continue;
        }
        uint32_t  *left = &b->min_use[p->key >> 32];
        uint32_t  *right = &b->min_use[(uint32_t) p->key];
        *left = p->rank < *left ? p->rank : *left;
        *right = p->rank < *right ? p->rank : *right;
    }
    return true;
}

bool
bpe_finish(struct bpe *b)
{
    for (uint32_t i = 0; i < b->vocab->num_entries; i++) {
        uint32_t  len = b->vocab->entries[i].len;
        b->token_len_max = len > b->token_len_max ? len : b->token_len_max;
    }
    if (!min_use_build(b)) {
        return false;
    }
    if (b->bytes) {
        return true;
    }
    if (!char_table_build(b)) {
        return false;
    }
    bool  all_bytes = b->byte_fallback;
    for (int i = 0; i < 256 && b->byte_fallback; i++) {
        char  name[8] = "<0x00>";
        name[3] = "0123456789ABCDEF"[i >> 4];
        name[4] = "0123456789ABCDEF"[i & 15];
        b->byte_ids[i] = vocab_find(b->vocab, name, 6);
        all_bytes = all_bytes && b->byte_ids[i] >= 0;
    }
    /* A character that gives no symbol at all would bring its neighbours
     * together. */
    b->cuts = !b->ignore_merges && b->prefix.len == 0 && b->suffix.len == 0
              && (b->unk_id >= 0 || all_bytes) && !merges_use_bytes(b);
    return !b->cuts || adjacent_build(b);
}

/* ---- scratch ------------------------------------------------------------ */

struct bpe_scratch *
bpe_scratch_create(void)
{
    struct bpe_scratch  *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return NULL;
    }
    s->cache = aligned_alloc(64, CACHE_SLOTS * sizeof *s->cache);
    if (s->cache == NULL) {
        free(s);
        return NULL;
    }
    memset(s->cache, 0, CACHE_SLOTS * sizeof *s->cache);
    buf_init(&s->spelled, UINT32_MAX);
    return s;
}

static void
scratch_release(struct bpe_scratch *s)
{
    free(s->ids);
    free(s->rank);
    free(s->next);
    free(s->prev);
    free(s->heap);
    s->ids = NULL;
    s->rank = NULL;
    s->next = s->prev = NULL;
    s->heap = NULL;
    s->cap = s->heap_cap = 0;
}

void
bpe_scratch_destroy(struct bpe_scratch *s)
{
    if (s != NULL) {
        scratch_release(s);
        buf_destroy(&s->spelled);
        free(s->cache);
        free(s);
    }
}

void
bpe_scratch_readable(struct bpe_scratch *s, const char *end)
{
    s->readable = end;
}

static bool
scratch_reserve(struct bpe_scratch *s, size_t num)
{
    if (num <= s->cap) {
        return true;
    }
    size_t  cap = s->cap < 256 ? 256 : s->cap;
    while (cap < num) {
        cap *= 2;
    }
    scratch_release(s);
    s->ids = malloc(cap * sizeof *s->ids);
    s->rank = malloc(cap * sizeof *s->rank);
    s->next = malloc(cap * sizeof *s->next);
    s->prev = malloc(cap * sizeof *s->prev);
    s->heap = malloc(cap * 2 * sizeof *s->heap);
    if (s->ids == NULL || s->rank == NULL || s->next == NULL || s->prev == NULL
        || s->heap == NULL)
    {
        scratch_release(s);
        return false;
    }
    s->cap = cap;
    s->heap_cap = cap * 2;
    return true;
}

/* ---- a word's first symbols --------------------------------------------- */

/* id of the character p[0..n) as symbol, with the affixes that apply. */
static int32_t
symbol_id(const struct bpe *b, const char *p, size_t n, bool first, bool last)
{
    uint32_t  cp;

    if ((first || b->prefix.len == 0) && (!last || b->suffix.len == 0)) {
        (void) unicode_next(p, &cp);
        return char_id(b, cp);
    }
    char    key[2 * BPE_AFFIX_BYTES_MAX + 4];
    size_t  len = 0;
    if (!first) {
        memcpy(key, b->prefix.data, b->prefix.len);
        len = b->prefix.len;
    }
    memcpy(key + len, p, n);
    len += n;
    if (last) {
        memcpy(key + len, b->suffix.data, b->suffix.len);
        len += b->suffix.len;
    }
    return vocab_find(b->vocab, key, len);
}

/* The bytes of an unknown character, when all have a token.  (Together with
 * affixes the reference takes their bytes too: refused at load.) */
static bool
symbol_bytes(const struct bpe *b, struct bpe_scratch *s, struct str ch,
             size_t *num)
{
    for (size_t k = 0; k < ch.len; k++) {
        if (b->byte_ids[(uint8_t) ch.data[k]] < 0) {
            return false;
        }
    }
    for (size_t k = 0; k < ch.len; k++) {
        s->ids[(*num)++] = b->byte_ids[(uint8_t) ch.data[k]];
    }
    return true;
}

/* Fills s->ids; returns how many.  An unknown character becomes bytes, or
 * unk_token (one for a run when fused; it is added when the run ends, after
 * any byte tokens, as the reference does), or nothing. */
static size_t
symbols_fill(const struct bpe *b, struct bpe_scratch *s, struct str w)
{
    size_t  num = 0;
    bool    unk = false;

    if (b->bytes) {
        for (size_t i = 0; i < w.len; i++) {
            s->ids[num++] = b->byte_ids[(uint8_t) w.data[i]];
        }
        return num;
    }
    for (size_t i = 0, n; i < w.len; i += n) {
        uint32_t  cp;
        n = unicode_next(w.data + i, &cp);
        int32_t  id = symbol_id(b, w.data + i, n, i == 0, i + n == w.len);
        if (id >= 0) {
            if (unk) {
                s->ids[num++] = b->unk_id;
                unk = false;
            }
            s->ids[num++] = id;
            continue;
        }
        if (b->byte_fallback
            && symbol_bytes(b, s, (struct str) { w.data + i, n }, &num))
        {
            continue;
        }
        if (b->unk_id >= 0) {
            if (unk && !b->fuse_unk) {
                s->ids[num++] = b->unk_id;
            }
            unk = true;
        }
    }
    if (unk) {
        s->ids[num++] = b->unk_id;
    }
    return num;
}

/* ---- merging -------------------------------------------------------------- */

static inline uint32_t
rank_of(const struct bpe *b, int32_t left, int32_t right)
{
    const struct bpe_pair  *p = bpe_pair_find(b, left, right);
    return p == NULL ? NO_RANK : p->rank;
}

static size_t
merge_small(const struct bpe *b, struct bpe_scratch *s, size_t num)
{
    int32_t   *ids = s->ids;
    uint32_t  *rank = s->rank;

    for (size_t i = 0; i + 1 < num; i++) {
        rank[i] = rank_of(b, ids[i], ids[i + 1]);
    }
    while (num > 1) {
        size_t    at = 0;
        uint32_t  best = rank[0];
        for (size_t i = 1; i + 1 < num; i++) {
            if (rank[i] < best) {
                best = rank[i];
                at = i;
            }
        }
        if (best == NO_RANK) {
            break;
        }
        ids[at] = bpe_pair_find(b, ids[at], ids[at + 1])->new_id;
        memmove(ids + at + 1, ids + at + 2, (num - at - 2) * sizeof *ids);
        memmove(rank + at, rank + at + 1, (num - at - 2) * sizeof *rank);
        num--;
        if (at > 0) {
            rank[at - 1] = rank_of(b, ids[at - 1], ids[at]);
        }
        if (at + 1 < num) {
            rank[at] = rank_of(b, ids[at], ids[at + 1]);
        }
    }
    return num;
}

/* Four-way heap: a quarter of the cache misses of a two-way one. */
static void
heap_down(uint64_t *h, size_t len, size_t i)
{
    uint64_t  x = h[i];
    for (;;) {
        size_t  c = i * 4 + 1, end = c + 4 < len ? c + 4 : len, best = c;
        if (c >= len) {
            break;
        }
        for (size_t k = c + 1; k < end; k++) {
            best = h[k] < h[best] ? k : best;
        }
        if (h[best] >= x) {
            break;
        }
        h[i] = h[best];
        i = best;
    }
    h[i] = x;
}

static void
heap_push(struct bpe_scratch *s, uint32_t rank, size_t at)
{
    uint64_t  x = (uint64_t) rank << 32 | at;
    size_t    i = s->heap_len++;
    while (i > 0 && s->heap[(i - 1) / 4] > x) {
        s->heap[i] = s->heap[(i - 1) / 4];
        i = (i - 1) / 4;
    }
    s->heap[i] = x;
}

/* Joins symbol i with its successor. */
static void
merge_at(const struct bpe *b, struct bpe_scratch *s, size_t i, uint32_t none)
{
    uint32_t  right = s->next[i], after = s->next[right];

    s->ids[i] = bpe_pair_find(b, s->ids[i], s->ids[right])->new_id;
    s->rank[right] = NO_RANK;
    s->ids[right] = -1;
    s->next[i] = after;
    s->rank[i] = NO_RANK;
    if (after != none) {
        s->prev[after] = (uint32_t) i;
        s->rank[i] = rank_of(b, s->ids[i], s->ids[after]);
        if (s->rank[i] != NO_RANK) {
            heap_push(s, s->rank[i], i);
        }
    }
    uint32_t  before = s->prev[i];
    if (before != none) {
        s->rank[before] = rank_of(b, s->ids[before], s->ids[i]);
        if (s->rank[before] != NO_RANK) {
            heap_push(s, s->rank[before], before);
        }
    }
}

/* At most one entry leaves and two enter per merge, and merges take at most
 * num - 1: 2 * num entries are enough. */
static size_t
merge_large(const struct bpe *b, struct bpe_scratch *s, size_t num)
{
    uint32_t  none = UINT32_MAX;

    s->heap_len = 0;
    for (size_t i = 0; i < num; i++) {
        s->prev[i] = i == 0 ? none : (uint32_t) i - 1;
        s->next[i] = i + 1 == num ? none : (uint32_t) i + 1;
        s->rank[i] = i + 1 == num ? NO_RANK
                                  : rank_of(b, s->ids[i], s->ids[i + 1]);
        if (s->rank[i] != NO_RANK) {
            s->heap[s->heap_len++] = (uint64_t) s->rank[i] << 32 | i;
        }
    }
    for (size_t i = s->heap_len / 4 + 1; i-- > 0; ) {
        if (i < s->heap_len) {
            heap_down(s->heap, s->heap_len, i);
        }
    }
    while (s->heap_len > 0) {
        uint64_t  top = s->heap[0];
        s->heap[0] = s->heap[--s->heap_len];
        if (s->heap_len > 0) {
            heap_down(s->heap, s->heap_len, 0);
        }
        size_t  i = (uint32_t) top;
        if (s->rank[i] == (uint32_t) (top >> 32)) {
            merge_at(b, s, i, none);
        }
    }
    size_t  len = 0;
    for (uint32_t i = 0; i != none; i = s->next[i]) {
        s->ids[len++] = s->ids[i];
    }
    return len;
}

/* The token that is the whole word, -1 when there is none. */
static int32_t
whole_word(const struct bpe *b, struct bpe_scratch *s, struct str w)
{
    if (w.len > b->token_len_max) {
        return -1;
    }
    if (!b->bytes) {
        return vocab_find(b->vocab, w.data, w.len);
    }
    buf_reset(&s->spelled);
    byte_map_encode(w, &s->spelled);
    return s->spelled.failed ? -1
           : vocab_find(b->vocab, s->spelled.data, s->spelled.len);
}

/* Appends the ids of w; its ids are then at the end of out. */
static int
encode_uncached(const struct bpe *b, struct bpe_scratch *s, struct str w,
                struct id_buf *out, struct err *err)
{
    if (b->ignore_merges) {
        int32_t  id = whole_word(b, s, w);
        if (id >= 0) {
            id_buf_push(out, id);
            return OK;
        }
    }
    if (!scratch_reserve(s, w.len + 1)) {
        return err_set(err, "out of memory for a word of %zu bytes", w.len);
    }
    size_t  num = symbols_fill(b, s, w);
    if (num > ROUNDS_SYMBOLS) {
        num = bpe_rounds(b, s->ids, num);
        if (num == SIZE_MAX) {
            return err_set(err, "out of memory for a word of %zu bytes", w.len);
        }
    } else {
        num = num <= SMALL_SYMBOLS ? merge_small(b, s, num)
                                   : merge_large(b, s, num);
    }
    id_buf_append(out, s->ids, num);
    if (s->cap > BPE_KEEP_SYMBOLS) {
        scratch_release(s);
    }
    return OK;
}

/* ---- the cache ------------------------------------------------------------ */

static inline void
load_key(const struct bpe_scratch *s, struct str w, uint64_t key[3])
{
    static const uint64_t  mask[9] = {
        0, 0xFF, 0xFFFF, 0xFFFFFF, 0xFFFFFFFF, 0xFFFFFFFFFF, 0xFFFFFFFFFFFF,
        0xFFFFFFFFFFFFFF, UINT64_MAX
    };
    key[0] = key[1] = key[2] = 0;
    if (s->readable != NULL && w.data + 24 <= s->readable) {
        memcpy(key, w.data, 24);
        if (w.len <= 8) {
            key[0] &= mask[w.len];
            key[1] = key[2] = 0;
        } else if (w.len <= 16) {
            key[1] &= mask[w.len - 8];
            key[2] = 0;
        } else {
            key[2] &= mask[w.len - 16];
        }
    } else {
        memcpy(key, w.data, w.len);
    }
    key[2] |= (uint64_t) w.len << 48;
}

static int
encode_word(const struct bpe *b, struct bpe_scratch *s, struct str w,
            struct id_buf *out, struct err *err)
{
    uint64_t  key[3];

    if (w.len > CACHE_KEY_BYTES) {
        return encode_uncached(b, s, w, out, err);
    }
    load_key(s, w, key);
    uint64_t  h = key[0] * 0x9E3779B97F4A7C15ULL
                  ^ (key[1] + 0x7F4A7C15) * 0xd6e8feb86659fd93ULL
                  ^ key[2] * 0xff51afd7ed558ccdULL;
    h ^= h >> 32;
    struct cache_slot  *c = &s->cache[h * 0x9E3779B97F4A7C15ULL >> 49];
    _Static_assert(CACHE_SLOTS == 1 << (64 - 49), "hash bits");
    if (c->key[0] == key[0] && c->key[1] == key[1]
        && (c->key[2] & KEY_MASK) == key[2])
    {
        size_t  n = c->key[2] >> 56;
        if (out->cap - out->len >= CACHE_IDS) {
            memcpy(out->ids + out->len, c->ids, sizeof c->ids);
            out->len += n;
        } else {
            id_buf_append(out, c->ids, n);
        }
        return OK;
    }
    size_t  len = out->len;
    if (encode_uncached(b, s, w, out, err) != OK) {
        return ERROR;
    }
    size_t  n = out->len - len;
    if (n <= CACHE_IDS && !out->failed) {
        c->key[0] = key[0];
        c->key[1] = key[1];
        c->key[2] = key[2] | (uint64_t) n << 56;
        if (n > 0) {
            memcpy(c->ids, out->ids + len, n * sizeof *out->ids);
        }
    }
    return OK;
}

int
bpe_encode(const struct bpe *b, struct bpe_scratch *s, struct str word,
           struct id_buf *out, struct err *err)
{
    if (word.len == 0) {
        return OK;
    }
    if (!b->cuts) {
        return encode_word(b, s, word, out, err);
    }
    uint32_t  last, cp;
    size_t    begin = 0, i = unicode_next(word.data, &last);
    s->readable = word.data + word.len;
    for (size_t n; i < word.len; i += n, last = cp) {
        n = unicode_next(word.data + i, &cp);
        uint32_t  bit = adjacent_bit(last, cp);
        if ((b->adjacent[bit / 64] >> bit % 64 & 1) != 0
            || char_id(b, cp) < 0)
        {
            continue;
        }
        struct str  w = { word.data + begin, i - begin };
        if (encode_word(b, s, w, out, err) != OK) {
            return ERROR;
        }
        begin = i;
    }
    return encode_word(b, s, (struct str) { word.data + begin,
                                            word.len - begin }, out, err);
}
