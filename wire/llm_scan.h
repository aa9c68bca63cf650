/* llm_scan.h - finds two things in a request body without building anything:
 * the top-level "model", and a number that says how the prompt begins.
 *
 *     struct llm_scan  s;
 *     llm_scan_init(&s, 1024);
 *     while (there is more) { llm_scan_feed(&s, piece, piece_bytes); }
 *     if (llm_scan_end(&s) == LLM_OK && s.has_model) { s.model, s.model_len }
 *
 * The body comes in pieces of any size, down to one byte; memory is this struct,
 * time is linear, nothing recurses.  The structure of the whole document is
 * checked (nesting, commas, strings; not the spelling of numbers), because half
 * a document must not decide where a request goes.  What is malformed, deeper
 * than LLM_SCAN_DEPTH_MAX, or says "model" twice is LLM_ERROR, and nothing was
 * found: the engine will say what is wrong, in its own words.
 *
 * The model is found when it is a non-empty string of at most
 * LLM_MODEL_BYTES_MAX bytes after its escapes are decoded, valid UTF-8 without
 * control characters.
 *
 * The hash is over the model and the prompt's beginning: the value of the first
 * of "messages", "prompt", "input", without white space between the tokens of
 * JSON, up to prefix_bytes bytes and, in "messages", not beyond the first
 * message of role "user".  So all turns of a conversation have one hash, and so
 * have all conversations with the same long system prompt.  Escapes are hashed
 * as they are written.  It is no secret and no protection: clients choose it. */
#ifndef LLM_SCAN_H
#define LLM_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire/llm_wire.h"

#define LLM_SCAN_DEPTH_MAX   64      /* the engine's own limit */
#define LLM_SCAN_TEXT_BYTES  LLM_MODEL_BYTES_MAX

struct llm_scan {
    /* results, after llm_scan_end() has said LLM_OK */
    bool      has_model, has_prefix;
    uint32_t  model_len;
    uint8_t   model[LLM_MODEL_BYTES_MAX];   /* not terminated */
    uint64_t  hash;                         /* with has_prefix, never 0 */

    /* private */
    uint64_t  arrays;            /* bit d: the container at depth d + 1 is one */
    uint64_t  prefix_hash;
    uint32_t  prefix_left;       /* bytes that may still be hashed */
    uint32_t  depth, code, text_len;
    uint16_t  high;              /* first half of a surrogate pair */
    uint8_t   state, hex_left, want, capture;
    bool      text_bad;          /* too long, or half a pair */
    bool      is_key, in_prompt, in_messages, user_message, seen_model;
    uint8_t   text[LLM_SCAN_TEXT_BYTES];
};

/* prefix_bytes 0: no hash is made. */
void llm_scan_init(struct llm_scan *s, uint32_t prefix_bytes);

/* LLM_ERROR: nothing will be found; feeding may stop. */
int llm_scan_feed(struct llm_scan *s, const void *data, size_t len);

/* No more pieces.  LLM_OK: one whole object was seen. */
int llm_scan_end(struct llm_scan *s);

/* FNV-1a, to hash names beside a prompt; start with LLM_HASH_INIT. */
#define LLM_HASH_INIT  0xcbf29ce484222325ull
uint64_t llm_hash(uint64_t hash, const void *data, size_t len);

/* Spreads a hash over all its bits (splitmix64's finalizer). */
uint64_t llm_hash_mix(uint64_t hash);

#endif
