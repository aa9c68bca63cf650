/* scan.h - hand-written scanners for the pre-tokenizer patterns that nearly
 * all served models use (GPT-2, cl100k/Llama 3, Qwen, o200k, tekken).
 *
 * A pattern is recognised by its exact text; any other goes through regex.h.
 * Each scanner splits a text completely: pieces are adjacent and cover it.
 *
 *     const struct scan_rule *r = scan_find(pattern);
 *     if (r != NULL) {
 *         for (i = 0; i < len; i = end) { end = scan_next(r, text, len, i); }
 *     }
 *
 * Linear time.  Text must be valid UTF-8.  Pure. */
#ifndef LLM_TEXT_SCAN_H
#define LLM_TEXT_SCAN_H

#include <stddef.h>
#include "engine/base/str.h"

struct scan_rule;

extern const struct scan_rule *const scan_gpt2;   /* ByteLevel's own pattern */

/* NULL when the pattern is not one of those known. */
const struct scan_rule *scan_find(struct str pattern);

/* End of the piece that begins at byte i < len; always > i. */
size_t scan_next(const struct scan_rule *rule, const char *text, size_t len,
                 size_t i);

#endif
