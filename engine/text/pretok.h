/* pretok.h - the "pre_tokenizer" of tokenizer.json: cuts a piece of text into
 * the words that BPE encodes one by one.
 *
 * A list of stages.  A stage splits, or rewrites, what it gets and hands each
 * part on to the next stage at once (depth first), so memory is bounded by the
 * text, not by the number of words.
 *
 *     run = (struct pretok_run) { .pretok = p, .scratch = s, .word = f,
 *                                 .data = d };
 *     rc = pretok_run_piece(&run, text, origin, err);     f() once per word
 *
 * The number of stages is limited by PRETOK_STAGES_MAX, and so is the depth of
 * calls.  struct pretok is immutable once built. */
#ifndef LLM_TEXT_PRETOK_H
#define LLM_TEXT_PRETOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/base/str.h"
#include "engine/text/regex.h"
#include "engine/text/scan.h"

#define PRETOK_STAGES_MAX  24

enum pretok_kind {
    PRETOK_SPLIT,
    PRETOK_PREFIX_SPACE,     /* " " before a piece that has none */
    PRETOK_BYTE_LEVEL,       /* write bytes as the map's characters */
    PRETOK_METASPACE         /* " " -> content, and prepend it */
};

enum split_by {
    SPLIT_SCAN,              /* scan */
    SPLIT_REGEX,             /* regex */
    SPLIT_LITERAL,           /* content */
    SPLIT_CHARS,             /* is_match */
    SPLIT_WORDS              /* \w+|[^\w\s]+ */
};

enum split_behavior {
    SPLIT_REMOVED, SPLIT_ISOLATED, SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT, SPLIT_CONTIGUOUS
};

enum prepend_scheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };

struct pretok_stage {
    enum pretok_kind         kind;
    enum split_by            by;
    enum split_behavior      behavior;
    bool                     invert;
    enum prepend_scheme      prepend;
    struct str               content;      /* borrowed; the literal, or ▁ */
    const struct scan_rule  *scan;
    struct regex            *regex;        /* owned */
    bool                   (*is_match)(uint32_t cp);
};

struct pretok {
    struct pretok_stage stages[PRETOK_STAGES_MAX];
    size_t              num_stages;
};

struct pretok_scratch {
    struct buf            text[PRETOK_STAGES_MAX];
    struct buf            shadow[PRETOK_STAGES_MAX];
    struct regex_scratch *regex;           /* borrowed */
};

struct pretok_run {
    const struct pretok   *pretok;
    struct pretok_scratch *scratch;
    int                  (*word)(void *data, struct str word, struct err *err);
    void                  *data;
};

void pretok_destroy(struct pretok *p);

void pretok_scratch_init(struct pretok_scratch *s, size_t text_bytes_max,
                         struct regex_scratch *regex);
void pretok_scratch_destroy(struct pretok_scratch *s);

/* origin: the piece starts where the whole text starts.  Returns OK, or what
 * word() or a regex returned. */
int pretok_run_piece(const struct pretok_run *run, struct str piece,
                     bool origin, struct err *err);

#endif
