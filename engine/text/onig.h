/* onig.h - translates an Oniguruma pattern into PCRE2's dialect.
 *
 * What cannot be said identically is an error naming it.  The differences
 * handled: ^ $ per line (compile with MULTILINE); {n,m}+ repeats, {n}? is
 * optional, {,m} starts at 0; \h \v; \s \w \d \b as Oniguruma's sets; nested
 * classes and && in them; (?m) is dot-all; long property names.  Pure. */
#ifndef LLM_TEXT_ONIG_H
#define LLM_TEXT_ONIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/base/str.h"

#define ONIG_RANGES_MAX  128    /* non-ASCII literals and ranges in a pattern */

struct onig_range {
    uint32_t lo, hi;            /* inclusive */
};

struct onig_info {
    bool              has_classes;      /* \p, \w ...: Unicode version matters */
    size_t            num_ranges;
    struct onig_range ranges[ONIG_RANGES_MAX];  /* named one by one */
};

/* Appends the PCRE2 pattern to *out. */
int onig_translate(struct str pattern, struct buf *out, struct onig_info *info,
                   struct err *err);

#endif
