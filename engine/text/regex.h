/* regex.h - the regular expressions of tokenizer.json files.
 *
 * They are written for Oniguruma with Unicode 16; they run on PCRE2 (JIT where
 * available).  The pattern is translated: per-line ^ and $, {n,m}+ is not
 * possessive, [a&&[^b]], \h, \s and \w as Oniguruma's sets.  Characters whose
 * category changed after Unicode 14 are replaced, before matching, by one of
 * the same category and length, so the classes are Unicode 16's whatever
 * PCRE2 the system has.
 *
 *     struct regex_match m;
 *     regex_begin(&m, re, scratch, text);
 *     while ((rc = regex_next(&m, err)) == OK) { ... m.begin, m.end ... }
 *     AGAIN: no more.  ERROR: limits exceeded (err set, http_status 400).
 *
 * Threads: struct regex is immutable; a scratch belongs to one thread.
 * Limits: REGEX_*. */
#ifndef LLM_TEXT_REGEX_H
#define LLM_TEXT_REGEX_H

#include <stdbool.h>
#include <stddef.h>
#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/base/str.h"

#define REGEX_PATTERN_BYTES_MAX  65536
#define REGEX_NEST_MAX           64          /* groups; classes: 8 */
#define REGEX_MATCH_LIMIT        10000000    /* backtracking steps a match */
#define REGEX_JIT_STACK_BYTES    (1u << 20)

struct regex;
struct regex_scratch;

int regex_compile(struct regex **out, struct str pattern, struct err *err);
void regex_destroy(struct regex *re);

struct regex_scratch *regex_scratch_create(void);
void regex_scratch_destroy(struct regex_scratch *scratch);

struct regex_match {
    const struct regex   *re;
    struct regex_scratch *scratch;
    const char           *subject;      /* text, or its replacement in shadow */
    size_t                len;
    size_t                at;           /* where the next search starts */
    size_t                last_end;     /* of the last match; SIZE_MAX: none */
    size_t                begin, end;   /* the match found */
    struct buf           *shadow;       /* borrowed; must live while matching */
};

/* shadow is the caller's buffer for replaced characters; text must be valid
 * UTF-8 and stay in place. */
void regex_begin(struct regex_match *m, const struct regex *re,
                 struct regex_scratch *scratch, struct str text,
                 struct buf *shadow);

/* Finds the next match; empty ones too, but not right after the last match
 * (Oniguruma's find_iter). */
int regex_next(struct regex_match *m, struct err *err);

#endif
