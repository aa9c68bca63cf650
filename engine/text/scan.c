/* scan.c - each function is one pattern's alternation, tried in its order.
 *
 * The comments quote the alternatives.  [^\s\p{L}\p{N}] is SYMBOL below.  Two
 * facts make every rule linear: greedy \s*[\r\n]+ ends at the last line break
 * of the white-space run, and \s+(?!\S) is the run less its last character
 * unless the text ends. */
#include "engine/text/scan.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include "engine/text/unicode.h"

enum scan_kind { SCAN_GPT2, SCAN_CL100K, SCAN_O200K };

struct scan_rule {
    const char     *pattern;
    enum scan_kind  kind;
    int             digits_max;      /* \p{N}{1,n} */
    uint8_t         letters;         /* class of a word's letters */
    bool            contractions;    /* 's 't 're 've 'm 'll 'd, any case */
    bool            slash_tail;      /* [\r\n/]* after symbols */
};

#define CONTRACTIONS  "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES        "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER         "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER         "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define BEFORE        "[^\\r\\n\\p{L}\\p{N}]?"
#define SYMBOLS       "| ?[^\\s\\p{L}\\p{N}]+"

static const struct scan_rule  scan_rules[] = {
    { "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+"
      "|\\s+(?!\\S)|\\s+", SCAN_GPT2, 0, UNICODE_L, true, false },
    /* Llama 3, Phi-4, cl100k */
    { CONTRACTIONS "|" BEFORE "\\p{L}+|\\p{N}{1,3}" SYMBOLS "[\\r\\n]*" SPACES,
      SCAN_CL100K, 3, UNICODE_L, true, false },
    { CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}"
      "| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+",
      SCAN_CL100K, 3, UNICODE_L, true, false },
    /* Qwen 2, 2.5, 3 */
    { CONTRACTIONS "|" BEFORE "\\p{L}+|\\p{N}" SYMBOLS "[\\r\\n]*" SPACES,
      SCAN_CL100K, 1, UNICODE_L, true, false },
    /* Qwen 3.5 */
    { CONTRACTIONS "|" BEFORE "[\\p{L}\\p{M}]+|\\p{N}"
      "| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" SPACES,
      SCAN_CL100K, 1, UNICODE_L | UNICODE_M, true, false },
    /* o200k: gpt-oss, Llama 4, Phi-4-mini */
    { BEFORE UPPER "*" LOWER "+" CONTRACTIONS "?|" BEFORE UPPER "+" LOWER "*"
      CONTRACTIONS "?|\\p{N}{1,3}" SYMBOLS "[\\r\\n/]*" SPACES,
      SCAN_O200K, 3, 0, true, true },
    /* tekken: Mistral Nemo and later */
    { BEFORE UPPER "*" LOWER "+|" BEFORE UPPER "+" LOWER "*|\\p{N}" SYMBOLS
      "[\\r\\n/]*" SPACES, SCAN_O200K, 1, 0, false, true },
};

const struct scan_rule *const  scan_gpt2 = &scan_rules[0];

const struct scan_rule *
scan_find(struct str pattern)
{
    for (size_t i = 0; i < sizeof scan_rules / sizeof scan_rules[0]; i++) {
        if (str_eq(pattern, str_from(scan_rules[i].pattern))) {
            return &scan_rules[i];
        }
    }
    return NULL;
}

/* What is scanned; rules look at class(i) and move i. */
struct scan_text {
    const char *s;
    size_t      len;
};

/* Class of the character at i, 0 at the end; *n is its length. */
static inline uint8_t
scan_class(struct scan_text t, size_t i, size_t *n)
{
    if (i >= t.len) {
        *n = 0;
        return 0;
    }
    unsigned char  c = (unsigned char) t.s[i];
    if (c < 0x80) {
        *n = 1;
        return unicode_class_block[c];     /* block 0 is ASCII */
    }
    uint32_t  cp;
    *n = unicode_next(t.s + i, &cp);
    return unicode_class_of(cp);
}

static inline size_t
scan_run(struct scan_text t, size_t i, uint8_t mask)
{
    size_t  n;
    while ((scan_class(t, i, &n) & mask) != 0) {
        i += n;
    }
    return i;
}

/* [^not]+ */
static inline size_t
scan_run_not(struct scan_text t, size_t i, uint8_t mask)
{
    size_t  n;
    while (i < t.len && (scan_class(t, i, &n) & mask) == 0) {
        i += n;
    }
    return i;
}

/* 's 't 're 've 'm 'll 'd at i; returns the end, i when there is none.  With
 * any_case, U+017F (long s) folds to s. */
static size_t
scan_contraction(struct scan_text t, size_t i, bool any_case)
{
    if (i + 1 >= t.len || t.s[i] != '\'') {
        return i;
    }
    unsigned char  a = (unsigned char) t.s[i + 1];
    unsigned char  b = i + 2 < t.len ? (unsigned char) t.s[i + 2] : 0;
    if (any_case) {
        if (a == 0xC5 && b == 0xBF) {
            return i + 3;
        }
        a = a >= 'A' && a <= 'Z' ? (unsigned char) (a + 32) : a;
        b = b >= 'A' && b <= 'Z' ? (unsigned char) (b + 32) : b;
    }
    switch (a) {
    case 's': case 't': case 'm': case 'd':
        return i + 2;
    case 'r': case 'v':
        return b == 'e' ? i + 3 : i;
    case 'l':
        return b == 'l' ? i + 3 : i;
    default:
        return i;
    }
}

/* \s+(?!\S)|\s+ from i, where a white-space run begins. */
static size_t
scan_spaces(struct scan_text t, size_t i)
{
    size_t  n, end = i, last = i;
    while ((scan_class(t, end, &n) & UNICODE_SPACE) != 0) {
        last = end;
        end += n;
    }
    return end < t.len && last > i ? last : end;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t
scan_lines(struct scan_text t, size_t i)
{
    size_t   n, end = i, last = i, newline = 0;
    uint8_t  c;
    while (((c = scan_class(t, end, &n)) & UNICODE_SPACE) != 0) {
        last = end;
        end += n;
        if ((c & UNICODE_NEWLINE) != 0) {
            newline = end;
        }
    }
    if (newline != 0) {
        return newline;
    }
    return end < t.len && last > i ? last : end;
}

static size_t
scan_digits(struct scan_text t, size_t i, int max)
{
    size_t  n;
    for (int k = 0; k < max && (scan_class(t, i, &n) & UNICODE_N) != 0; k++) {
        i += n;
    }
    return i;
}

/* [^\s\p{L}\p{N}]+ then [\r\n]* or [\r\n/]*; word is \p{L}\p{N} and what
 * else the pattern excludes. */
static size_t
scan_symbols(struct scan_text t, size_t i, uint8_t word, bool slash_tail)
{
    i = scan_run_not(t, i, word | UNICODE_SPACE);
    while (i < t.len && (t.s[i] == '\r' || t.s[i] == '\n'
                         || (slash_tail && t.s[i] == '/')))
    {
        i++;
    }
    return i;
}

static size_t
scan_next_gpt2(struct scan_text t, size_t i)
{
    size_t   n, m, end = scan_contraction(t, i, false);
    uint8_t  c = scan_class(t, i, &n);
    size_t   at = i;

    if (end > i) {
        return end;
    }
    if (t.s[i] == ' ' && i + 1 < t.len) {
        uint8_t  next = scan_class(t, i + 1, &m);
        if ((next & UNICODE_SPACE) == 0) {
            c = next;
            at = i + 1;
            n = m;
        }
    }
    if ((c & UNICODE_L) != 0) {
        return scan_run(t, at + n, UNICODE_L);
    }
    if ((c & UNICODE_N) != 0) {
        return scan_run(t, at + n, UNICODE_N);
    }
    if ((c & UNICODE_SPACE) == 0) {
        return scan_run_not(t, at + n, UNICODE_L | UNICODE_N | UNICODE_SPACE);
    }
    return scan_spaces(t, i);
}

/* contraction|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,n}| ?SYMBOL+[\r\n]*|spaces */
static size_t
scan_next_cl100k(const struct scan_rule *r, struct scan_text t, size_t i)
{
    size_t   n, m;
    uint8_t  c = scan_class(t, i, &n);
    uint8_t  word = r->letters | UNICODE_L | UNICODE_N;

    if (t.s[i] == '\'') {
        size_t  end = scan_contraction(t, i, true);
        if (end > i) {
            return end;
        }
    }
    if ((c & UNICODE_L) != 0) {
        return scan_run(t, i + n, r->letters);
    }
    if ((c & UNICODE_N) != 0) {
        return scan_digits(t, i, r->digits_max);
    }
    uint8_t  next = scan_class(t, i + n, &m);
    if ((c & UNICODE_NEWLINE) == 0 && (next & r->letters) != 0) {
        return scan_run(t, i + n + m, r->letters);
    }
    if ((c & r->letters) != 0) {               /* a mark, no letter follows */
        return i + n;
    }
    if ((c & UNICODE_SPACE) == 0) {
        return scan_symbols(t, i, word, r->slash_tail);
    }
    if (t.s[i] == ' ' && i + 1 < t.len
        && (next & (word | UNICODE_SPACE)) == 0)
    {
        return scan_symbols(t, i + 1, word, r->slash_tail);
    }
    return scan_lines(t, i);
}

/* UPPER*LOWER+ from i: the greedy upper run gives back up to its last
 * character that is also LOWER.  Returns i when it cannot match. */
static size_t
scan_upper_lower(struct scan_text t, size_t i)
{
    size_t   n, end = i, both_end = i;
    uint8_t  c;
    while (((c = scan_class(t, end, &n)) & UNICODE_UPPER) != 0) {
        end += n;
        if ((c & UNICODE_LOWER) != 0) {
            both_end = end;
        }
    }
    if ((c & UNICODE_LOWER) != 0) {
        return scan_run(t, end + n, UNICODE_LOWER);
    }
    return both_end;
}

/* UPPER+LOWER* from i; i when it cannot match. */
static size_t
scan_upper(struct scan_text t, size_t i)
{
    size_t  end = scan_run(t, i, UNICODE_UPPER);
    return end == i ? i : scan_run(t, end, UNICODE_LOWER);
}

/* The two word alternatives, each first with, then without the leading
 * character; i when there is no word. */
static size_t
scan_word_o200k(const struct scan_rule *r, struct scan_text t, size_t i)
{
    size_t   n, end;
    uint8_t  c = scan_class(t, i, &n);
    bool     before = (c & (UNICODE_L | UNICODE_N | UNICODE_NEWLINE)) == 0;

    if (before && (end = scan_upper_lower(t, i + n)) > i + n) {
        goto found;
    }
    if ((end = scan_upper_lower(t, i)) > i) {
        goto found;
    }
    if (before && (end = scan_upper(t, i + n)) > i + n) {
        goto found;
    }
    if ((end = scan_upper(t, i)) > i) {
        goto found;
    }
    return i;

found:
    return r->contractions ? scan_contraction(t, end, true) : end;
}

static size_t
scan_next_o200k(const struct scan_rule *r, struct scan_text t, size_t i)
{
    size_t   n, m, end;
    uint8_t  c = scan_class(t, i, &n);

    if ((c & UNICODE_N) == 0 && (end = scan_word_o200k(r, t, i)) > i) {
        return end;
    }
    if ((c & UNICODE_N) != 0) {
        return scan_digits(t, i, r->digits_max);
    }
    if ((c & UNICODE_SPACE) == 0) {
        return scan_symbols(t, i, UNICODE_L | UNICODE_N, r->slash_tail);
    }
    if (t.s[i] == ' ' && i + 1 < t.len
        && (scan_class(t, i + 1, &m)
            & (UNICODE_L | UNICODE_N | UNICODE_SPACE)) == 0)
    {
        return scan_symbols(t, i + 1, UNICODE_L | UNICODE_N, r->slash_tail);
    }
    return scan_lines(t, i);
}

size_t
scan_next(const struct scan_rule *rule, const char *text, size_t len, size_t i)
{
    struct scan_text  t = { text, len };

    switch (rule->kind) {
    case SCAN_GPT2:
        return scan_next_gpt2(t, i);
    case SCAN_CL100K:
        return scan_next_cl100k(rule, t, i);
    default:
        return scan_next_o200k(rule, t, i);
    }
}
