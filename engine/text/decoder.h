/* decoder.h - the "decoder" of tokenizer.json: token strings to text.
 *
 * Two shapes cover the served models and can be streamed token by token:
 * DECODER_BYTES (byte-level) and DECODER_SPM (Replace.., ByteFallback, Fuse,
 * Strip at the start).  Every other chain is DECODER_CHAIN and runs over the
 * whole list, as the reference does.
 *
 * Immutable once built. */
#ifndef LLM_TEXT_DECODER_H
#define LLM_TEXT_DECODER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/base/buf.h"
#include "engine/base/str.h"
#include "engine/text/regex.h"

#define DECODER_STEPS_MAX  16

enum decode_kind {
    DECODE_BYTE_LEVEL,
    DECODE_REPLACE,          /* pattern or regex -> content, in each token */
    DECODE_BYTE_FALLBACK,    /* <0xNN> runs */
    DECODE_FUSE,             /* one token from all */
    DECODE_STRIP,            /* up to start/stop times content, each token */
    DECODE_METASPACE,        /* content -> " ", none in the first token */
    DECODE_WORDPIECE,        /* content = "##" */
    DECODE_SUFFIX            /* content = "</w>" -> " ", last: "" */
};

struct decode_step {
    enum decode_kind kind;
    struct str       content;        /* borrowed from the tokenizer's arena */
    struct str       pattern;        /* literal; data NULL: regex */
    struct regex    *regex;          /* owned */
    uint32_t         start, stop;    /* DECODE_STRIP */
    bool             cleanup;        /* DECODE_WORDPIECE */
    bool             keep_first;     /* DECODE_METASPACE, prepend never */
};

enum decoder_shape { DECODER_BYTES, DECODER_SPM, DECODER_CHAIN };

struct decoder {
    struct decode_step steps[DECODER_STEPS_MAX];
    size_t             num_steps;
    bool               present;          /* false: tokens joined by " " */
    enum decoder_shape shape;            /* set by decoder_finish() */
    size_t             num_replace;      /* SPM: leading Replace steps */
    bool               byte_fallback;    /* SPM */
    uint32_t           strip_start;      /* SPM: characters */
    struct str         strip_content;    /* SPM: one character */
};

void decoder_finish(struct decoder *d);
void decoder_destroy(struct decoder *d);

/* <0x41> -> 0x41, -1 when token is not of that form. */
int decoder_byte_of(struct str token);

/* SPM: appends what the token stands for before ByteFallback. */
void decoder_replace_token(const struct decoder *d, struct str token,
                           struct buf *out);

/* Appends the text of a list of tokens.  out->failed on lack of memory. */
void decoder_run_chain(const struct decoder *d, const struct str *tokens,
                       size_t num_tokens, struct buf *out);

/* Appends bytes as valid UTF-8, each maximal invalid part as U+FFFD (Unicode
 * 3.9, Rust's from_utf8_lossy). */
void decoder_append_lossy(struct buf *out, const char *bytes, size_t len);

#endif
