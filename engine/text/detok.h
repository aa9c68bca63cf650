/* detok.h - token ids to text, one id at a time.
 *
 *     struct detok d;
 *     detok_init(&d, tok, skip_special_tokens);
 *     detok_prompt(&d, prompt_ids, num_prompt_ids);
 *     for (each sampled id) detok_push(&d, id, &out);   appends 0..n bytes
 *     detok_finish(&d, &out);                           the held rest
 *
 * Every push appends whole UTF-8 characters; bytes that cannot become one are
 * U+FFFD as in Rust's from_utf8_lossy.  The concatenation depends only on the
 * ids.  A chunk that would end in U+FFFD is held back until it is certain, as
 * Hugging Face's DecodeStream does, but never more than DETOK_HELD_BYTES_MAX.
 * With prompt ids the text continues the prompt: no leading space is
 * stripped, and a character begun in the prompt is completed.
 *
 * Memory: the caller's, fixed size; push allocates only in `out` (and for a
 * moment with decoders of shape DECODER_CHAIN, which no served model needs).  Threads:
 * one owner. */
#ifndef LLM_TEXT_DETOK_H
#define LLM_TEXT_DETOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/base/buf.h"
#include "engine/text/tokenizer.h"

#define DETOK_WINDOW_IDS      64
#define DETOK_HELD_BYTES_MAX  256   /* longest text held back; a code point needs 4 */

struct detok {
    const struct tokenizer *tok;         /* borrowed */
    bool     skip_special;
    bool     discard;                    /* replaying the prompt */
    bool     started;                    /* some text exists: strip no more */
    bool     bytes_invalid;              /* the run of byte tokens is not UTF-8 */
    uint32_t num_strip;                  /* leading chars still to strip */
    uint32_t held_len;
    char     held[DETOK_HELD_BYTES_MAX + 4];    /* bytes not emitted yet */

    /* Decoders that need the whole list only: the ids at hand, and how many
     * of them, and bytes of their text, are emitted already. */
    int32_t  window[DETOK_WINDOW_IDS];
    uint32_t window_len;
    uint32_t window_done;
    size_t   window_bytes;
};

void detok_init(struct detok *d, const struct tokenizer *tok,
                bool skip_special_tokens);

/* Context only, emits nothing.  Looks at the last ids that matter, not at the
 * whole prompt.  Call at most once, before the first push. */
void detok_prompt(struct detok *d, const int32_t *ids, size_t num_ids);

/* Appends the text that id made certain.  out->failed tells of a full
 * buffer. */
void detok_push(struct detok *d, int32_t id, struct buf *out);

/* Appends what is still held, incomplete characters as U+FFFD. */
void detok_finish(struct detok *d, struct buf *out);

#endif
