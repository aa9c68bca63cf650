/* unicode.c - lookups in the generated tables, and the normal forms.
 *
 * Two-stage tables: X_first[cp >> 7] names a block of 128 in X_block.
 *   class: UNICODE_* bits      old: 1 punctuation, 2 numeric, 4 mark
 *   prop:  category (5 bits) | 0x20 space | 0x40 circled letter | 0x80 changed
 *   norm:  index into norm_ccc and norm_flags
 * Normalisation is Unicode Annex 15: decompose fully, sort marks by combining
 * class, compose.  Hangul is arithmetic. */
#include "engine/text/unicode.h"

#include <stdlib.h>
#include <string.h>
#include "engine/base/utf8.h"
#include "engine/text/unicode_tables.inc"

#define NORM_NFD_NO      1
#define NORM_NFKD_NO     2
#define NORM_NFC_CHECK   4
#define NORM_NFKC_CHECK  8

#define CAT_CN  0
#define CAT_LETTERS  (1u << 5 | 1u << 6 | 1u << 7 | 1u << 8 | 1u << 9)
#define CAT_WORD     (CAT_LETTERS | 1u << 10 | 1u << 11 | 1u << 12 /* M */    \
                      | 1u << 13 | 1u << 14 /* Nd Nl */ | 1u << 16 /* Pc */)

#define HANGUL_S  0xAC00u
#define HANGUL_L  0x1100u
#define HANGUL_V  0x1161u
#define HANGUL_T  0x11A7u
#define HANGUL_NUM_V  21u
#define HANGUL_NUM_T  28u
#define HANGUL_NUM_S  11172u

#define LOOKUP(t, cp)  t##_block[(size_t) t##_first[(cp) >> 7] << 7 | ((cp) & 127)]

bool
unicode_is_space(uint32_t cp)
{
    return (unicode_class_of(cp) & UNICODE_SPACE) != 0;
}

bool
unicode_is_word(uint32_t cp)
{
    uint8_t  p = LOOKUP(prop, cp);
    return (1u << (p & 31) & CAT_WORD) != 0 || (p & 0x40) != 0
           || cp == 0x200C || cp == 0x200D;
}

bool
unicode_is_numeric(uint32_t cp)
{
    return (LOOKUP(old, cp) & 2) != 0;
}

bool
unicode_is_punctuation(uint32_t cp)
{
    return (LOOKUP(old, cp) & 1) != 0;
}

bool
unicode_is_mark(uint32_t cp)
{
    return (LOOKUP(old, cp) & 4) != 0;
}

bool
unicode_is_changed(uint32_t cp)
{
    return (LOOKUP(prop, cp) & 0x80) != 0;
}

uint32_t
unicode_representative(uint32_t cp)
{
    uint32_t  len = cp < 0x80 ? 0 : cp < 0x800 ? 1 : cp < 0x10000 ? 2 : 3;
    uint32_t  rep = representative[len * 30 + (LOOKUP(prop, cp) & 31)];

    if (cp >= 0x20000 && cp < 0x30000 + 0x10000) {
        rep = 0x20000;          /* ideographs must stay in script Han */
    }
    return rep == 0 ? cp : rep;
}

/* Index of key in sorted a[n], or -1. */
static int
find_u32(const uint32_t *a, size_t n, uint32_t key)
{
    size_t  lo = 0, hi = n;
    while (lo < hi) {
        size_t  mid = (lo + hi) / 2;
        if (a[mid] < key) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < n && a[lo] == key ? (int) lo : -1;
}

#define NUM(a)  (sizeof (a) / sizeof (a)[0])

int
unicode_lower(uint32_t cp, uint32_t out[2])
{
    if (cp == 0x130) {
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    int  i = find_u32(lower_cp, NUM(lower_cp), cp);
    out[0] = i < 0 ? cp : lower_to[i];
    return 1;
}

bool
unicode_is_normal(struct str text, enum unicode_form form)
{
    static const uint8_t  bits[] = {
        [UNICODE_NFC] = NORM_NFC_CHECK, [UNICODE_NFD] = NORM_NFD_NO,
        [UNICODE_NFKC] = NORM_NFKC_CHECK, [UNICODE_NFKD] = NORM_NFKD_NO
    };
    /* First byte below which a code point never matters. */
    unsigned char  safe = form == UNICODE_NFC ? 0xCC : 0xC2;
    bool           decomposed = form == UNICODE_NFD || form == UNICODE_NFKD;
    uint8_t        last_ccc = 0;

    for (size_t i = 0; i < text.len; ) {
        if ((unsigned char) text.data[i] < safe) {
            last_ccc = 0;
            i++;
            continue;
        }
        uint32_t  cp;
        i += unicode_next(text.data + i, &cp);
        uint8_t   r = LOOKUP(norm, cp);
        if ((norm_flags[r] & bits[form]) != 0) {
            return false;
        }
        if (decomposed) {
            uint8_t  ccc = norm_ccc[r];
            if (ccc != 0 && ccc < last_ccc) {
                return false;
            }
            last_ccc = ccc;
        }
    }
    return true;
}

/* One segment: a starter and what follows until the next starter, decomposed.
 * Grows on the heap, because a hostile text may have any number of marks. */
struct segment {
    uint32_t *cp;
    uint8_t  *ccc;
    size_t    len;
    size_t    cap;
    bool      failed;
};

static void
segment_push(struct segment *s, uint32_t cp)
{
    if (s->len == s->cap) {
        size_t     cap = s->cap == 0 ? 64 : s->cap * 2;
        uint32_t  *cps = realloc(s->cp, cap * sizeof *cps);
        if (cps == NULL) {
            s->failed = true;
            return;
        }
        s->cp = cps;
        uint8_t   *ccc = realloc(s->ccc, cap);
        if (ccc == NULL) {
            s->failed = true;
            return;
        }
        s->ccc = ccc;
        s->cap = cap;
    }
    s->cp[s->len] = cp;
    s->ccc[s->len++] = norm_ccc[LOOKUP(norm, cp)];
}

static void
segment_decompose(struct segment *s, uint32_t cp, bool compat)
{
    if (cp < 0xA0) {
        segment_push(s, cp);
        return;
    }
    if (cp - HANGUL_S < HANGUL_NUM_S) {
        uint32_t  i = cp - HANGUL_S;
        segment_push(s, HANGUL_L + i / (HANGUL_NUM_V * HANGUL_NUM_T));
        segment_push(s, HANGUL_V + i / HANGUL_NUM_T % HANGUL_NUM_V);
        if (i % HANGUL_NUM_T != 0) {
            segment_push(s, HANGUL_T + i % HANGUL_NUM_T);
        }
        return;
    }
    int              k = compat ? find_u32(compat_cp, NUM(compat_cp), cp) : -1;
    const uint16_t  *off = compat_off;
    const uint32_t  *map = compat_map;
    if (k < 0) {
        k = find_u32(canon_cp, NUM(canon_cp), cp);
        off = canon_off;
        map = canon_map;
    }
    if (k < 0) {
        segment_push(s, cp);
        return;
    }
    for (uint16_t i = off[k]; i < off[k + 1]; i++) {
        segment_push(s, map[i]);
    }
}

/* Stable counting sort of each run of marks by combining class: linear even
 * for a megabyte of marks. */
static void
segment_sort(struct segment *s, size_t begin, size_t end)
{
    bool  sorted = true;
    for (size_t i = begin + 1; i < end; i++) {
        sorted = sorted && s->ccc[i - 1] <= s->ccc[i];
    }
    if (sorted) {
        return;
    }
    size_t     n = end - begin, at[257] = { 0 };
    uint32_t  *cps = malloc(n * sizeof *cps);
    if (cps == NULL) {
        s->failed = true;
        return;
    }
    for (size_t i = begin; i < end; i++) {
        at[s->ccc[i] + 1]++;
    }
    for (size_t i = 1; i < 257; i++) {
        at[i] += at[i - 1];
    }
    for (size_t i = begin; i < end; i++) {
        cps[at[s->ccc[i]]++] = s->cp[i];
    }
    memcpy(s->cp + begin, cps, n * sizeof *cps);
    for (size_t i = begin; i < end; i++) {
        s->ccc[i] = norm_ccc[LOOKUP(norm, s->cp[i])];
    }
    free(cps);
}

static uint32_t
compose(uint32_t a, uint32_t b)
{
    if (a - HANGUL_L < 19 && b - HANGUL_V < HANGUL_NUM_V) {
        return HANGUL_S + ((a - HANGUL_L) * HANGUL_NUM_V + b - HANGUL_V)
                          * HANGUL_NUM_T;
    }
    if (a - HANGUL_S < HANGUL_NUM_S && (a - HANGUL_S) % HANGUL_NUM_T == 0
        && b > HANGUL_T && b < HANGUL_T + HANGUL_NUM_T)
    {
        return a + (b - HANGUL_T);
    }
    uint64_t  key = (uint64_t) a << 32 | b;
    size_t    lo = 0, hi = NUM(compose_key);
    while (lo < hi) {
        size_t  mid = (lo + hi) / 2;
        if (compose_key[mid] < key) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < NUM(compose_key) && compose_key[lo] == key ? compose_to[lo] : 0;
}

/* Composes in place; the segment holds sorted decomposed text. */
static void
segment_compose(struct segment *s)
{
    size_t   n = 0, starter = SIZE_MAX;
    uint8_t  last_ccc = 0;

    for (size_t i = 0; i < s->len; i++) {
        uint32_t  cp = s->cp[i], both;
        uint8_t   ccc = s->ccc[i];
        bool      adjacent = starter != SIZE_MAX && n == starter + 1;
        if (starter != SIZE_MAX && (adjacent || last_ccc < ccc)
            && (both = compose(s->cp[starter], cp)) != 0)
        {
            s->cp[starter] = both;
            continue;
        }
        if (ccc == 0) {
            starter = n;
        }
        last_ccc = ccc;
        s->cp[n] = cp;
        s->ccc[n++] = ccc;
    }
    s->len = n;
}

static void
segment_emit(struct segment *s, bool composed, struct buf *out)
{
    for (size_t i = 0; i < s->len; ) {
        size_t  j = i + 1;
        if (s->ccc[i] == 0) {
            i = j;
            continue;
        }
        while (j < s->len && s->ccc[j] != 0) {
            j++;
        }
        segment_sort(s, i, j);
        i = j;
    }
    if (composed) {
        segment_compose(s);
    }
    for (size_t i = 0; i < s->len; i++) {
        char  tmp[4];
        buf_append(out, tmp, (size_t) utf8_encode(s->cp[i], tmp));
    }
    s->len = 0;
}

void
unicode_normalize(struct str text, enum unicode_form form, struct buf *out)
{
    bool            composed = form == UNICODE_NFC || form == UNICODE_NFKC;
    bool            compat = form == UNICODE_NFKC || form == UNICODE_NFKD;
    uint8_t         bits = compat ? NORM_NFKC_CHECK : NORM_NFC_CHECK;
    struct segment  s = { 0 };
    size_t          i = 0;

    while (i < text.len && !s.failed && !out->failed) {
        uint32_t  cp;
        size_t    n = unicode_next(text.data + i, &cp);
        uint8_t   r = LOOKUP(norm, cp);
        /* Nothing before a starter that never combines backwards can change
         * any more. */
        if (s.len > 0 && norm_ccc[r] == 0 && (norm_flags[r] & bits) == 0) {
            segment_emit(&s, composed, out);
        }
        segment_decompose(&s, cp, compat);
        i += n;
    }
    segment_emit(&s, composed, out);
    out->failed = out->failed || s.failed;
    free(s.cp);
    free(s.ccc);
}
