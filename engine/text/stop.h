/* stop.h - finds stop strings in generated text, across chunk borders.
 *
 *     struct stop_set *set;                      per request, in its arena
 *     struct stop      st;
 *     if (stop_compile(&set, strings, num, &arena, err) != OK) ...
 *     stop_init(&st, set, include_stop_str_in_output);
 *     for (each chunk of text) {
 *         if (stop_push(&st, chunk, &out)) { finish: "stop"; st.match_idx }
 *     }
 *     stop_flush(&st, &out);                     ended without a stop
 *
 * The stop that completes first wins; of several that end at the same byte,
 * the first in the list (as in vLLM).  Text is cut before the stop string, or
 * after it with include.  Only a live partial match is held back, so text
 * streams as early as it can.  Result and text do not depend on how the text
 * was cut into chunks.  Linear time: an Aho-Corasick automaton over bytes.
 *
 * Memory: the set lives in the arena; struct stop is the caller's. */
#ifndef LLM_TEXT_STOP_H
#define LLM_TEXT_STOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/base/arena.h"
#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/base/str.h"

#define STOP_STRINGS_MAX      128      /* OpenAI allows 4; agents send dozens */
#define STOP_STRING_BYTES_MAX 4096     /* one string */
#define STOP_TOTAL_BYTES_MAX  16384    /* all together: 16385 states, 400 KB */

struct stop_set;

struct stop {
    const struct stop_set *set;      /* borrowed; NULL: nothing ever stops */
    uint32_t  state;                 /* its depth = bytes held back */
    int32_t   match_idx;             /* index of the stop found, -1: none */
    bool      include;
    bool      flushed;
    bool      passes;                /* what ends now is text, no stop; the
                                        caller sets it before each push */
};

/* ERROR (http_status 400, param "stop") for an empty string, too many, or too
 * long.  num 0 gives a set that never matches. */
int stop_compile(struct stop_set **out, const struct str *strings, size_t num,
                 struct arena *arena, struct err *err);

void stop_init(struct stop *s, const struct stop_set *set,
               bool include_stop_str_in_output);

/* Appends what may be sent to *out.  Returns true when a stop string was
 * completed; the rest of text is dropped and later pushes do nothing. */
bool stop_push(struct stop *s, struct str text, struct buf *out);

/* Appends the held partial match: the text has ended without a stop. */
void stop_flush(struct stop *s, struct buf *out);

#endif
