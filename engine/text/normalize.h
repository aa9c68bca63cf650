/* normalize.h - the "normalizer" of tokenizer.json.
 *
 * A list of steps, run one after the other on each piece of text between
 * added tokens.  Immutable once built; buffers are the caller's.
 *
 *     rc = normalizer_run(&n, &args, &result, err);
 *
 * result points into the input when nothing changed. */
#ifndef LLM_TEXT_NORMALIZE_H
#define LLM_TEXT_NORMALIZE_H

#include <stdbool.h>
#include <stddef.h>
#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/base/str.h"
#include "engine/text/regex.h"
#include "engine/text/text_span.h"
#include "engine/text/unicode.h"

#define NORMALIZER_STEPS_MAX  32

enum norm_kind {
    NORM_FORM,           /* form */
    NORM_LOWERCASE,
    NORM_STRIP,          /* left, right */
    NORM_STRIP_ACCENTS,
    NORM_PREPEND,        /* content, unless the text is empty */
    NORM_REPLACE,        /* pattern or regex -> content */
    NORM_BYTE_LEVEL
};

struct norm_step {
    enum norm_kind     kind;
    enum unicode_form  form;
    bool               left, right;
    struct str         content;      /* borrowed from the tokenizer's arena */
    struct str         pattern;      /* literal; data NULL: regex is used */
    struct regex      *regex;        /* owned */
};

struct normalizer {
    struct norm_step steps[NORMALIZER_STEPS_MAX];
    size_t           num_steps;
};

struct norm_args {
    struct str            text;          /* valid UTF-8 */
    struct buf           *bufs[2];       /* results alternate between them */
    struct buf           *shadow;        /* for regex.h */
    struct regex_scratch *regex;
    struct text_span     *spans;         /* moved along with the text */
    size_t                num_spans;
};

struct norm_result {
    struct str text;
    bool       origin;     /* its first character stems from the input's first
                              (for Metaspace's prepend_scheme "first") */
};

void normalizer_destroy(struct normalizer *n);

int normalizer_run(const struct normalizer *n, const struct norm_args *args,
                   struct norm_result *result, struct err *err);

#endif
