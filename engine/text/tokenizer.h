/* tokenizer.h - text <-> token ids, exactly as Hugging Face's tokenizer.json
 * says, for the BPE families (byte-level and SentencePiece style).
 *
 *     struct tokenizer         *tok;
 *     struct tokenizer_scratch *scratch;
 *     struct id_buf             ids;
 *
 *     if (tokenizer_open(&tok, "/models/qwen3", err) != OK) { return ERROR; }
 *     scratch = tokenizer_scratch_create(tok);            one per thread
 *     id_buf_init(&ids, TOKENIZER_IDS_MAX);
 *     rc = tokenizer_encode(tok, scratch, &(struct encode_args) {
 *         .text = text, .add_special_tokens = true }, &ids, err);
 *     rc = tokenizer_decode(tok, ids.ids, ids.len, true, &out);
 *
 * Pipeline: added tokens with normalized=false -> normalizer -> added tokens
 * with normalized=true -> pre-tokenizer -> BPE per word -> post-processor.
 * The reference is the Rust library `tokenizers`; a file that asks for
 * something this cannot do identically is refused at open by naming it.
 *
 * Threads: struct tokenizer is immutable after open and shared; a scratch
 * belongs to one thread at a time.  Limits: see TOKENIZER_*_MAX. */
#ifndef LLM_TEXT_TOKENIZER_H
#define LLM_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/base/str.h"
#include "engine/text/id_buf.h"
#include "engine/text/text_span.h"

#define TOKENIZER_FILE_BYTES_MAX   (256u << 20)  /* tokenizer.json; gemma-3's is 33 MB */
#define TOKENIZER_VOCAB_MAX        (1 << 22)     /* largest id + 1; served models stay under 300k */
#define TOKENIZER_TEXT_BYTES_MAX   (64u << 20)   /* one encode; 16 M tokens of context */
#define TOKENIZER_IDS_MAX          ((size_t) TOKENIZER_TEXT_BYTES_MAX * 2)

struct tokenizer;
struct tokenizer_scratch;

struct encode_args {
    struct str  text;                /* valid UTF-8, may hold NUL */
    bool        add_special_tokens;  /* run the post-processor (BOS ...); false
                                        for rendered chat templates */
    size_t      max_tokens;          /* 0: no limit of the caller's */

    /* Untrusted ranges of text, ascending, not overlapping: a special=true
     * added token that overlaps one stays ordinary text there, so a user
     * cannot forge <|im_end|>; nor does BPE make one, anywhere in a text that
     * has such ranges.  NULL, 0: everything is trusted, as in vLLM. */
    const struct text_span *untrusted;   /* [num_untrusted] */
    size_t                  num_untrusted;
};

/* The four names a chat template sees; the text comes from
 * tokenizer_config.json (or special_tokens_map.json). */
enum tokenizer_special {
    TOKENIZER_BOS, TOKENIZER_EOS, TOKENIZER_UNK, TOKENIZER_PAD,
    TOKENIZER_NUM_SPECIALS
};

/* Reads model_dir/tokenizer.json, and tokenizer_config.json when present.
 * ERROR names the file and what in it is wrong or not supported. */
int tokenizer_open(struct tokenizer **out, const char *model_dir,
                   struct err *err);
void tokenizer_destroy(struct tokenizer *tok);      /* NULL is fine */

/* Match data, merge queues and a bounded word cache of about 4 MB.  NULL when
 * out of memory. */
struct tokenizer_scratch *tokenizer_scratch_create(const struct tokenizer *tok);
void tokenizer_scratch_destroy(struct tokenizer_scratch *scratch);

/* Appends the ids of args->text to *out.  AGAIN when there would be more than
 * max_tokens ids (out then holds what fitted, never to be used as a prompt);
 * ERROR for text that is not UTF-8, is too long, or out of memory. */
int tokenizer_encode(const struct tokenizer *tok,
                     struct tokenizer_scratch *scratch,
                     const struct encode_args *args, struct id_buf *out,
                     struct err *err);

/* Appends the text of ids to *out, always valid UTF-8; ids without a token
 * give nothing (models pad their vocabulary).  out->failed tells of a full
 * buffer.  skip_special_tokens drops special=true added tokens only. */
void tokenizer_decode(const struct tokenizer *tok, const int32_t *ids,
                      size_t num_ids, bool skip_special_tokens,
                      struct buf *out);

/* Largest id + 1, added tokens included.  The model's own vocab_size may be
 * larger or smaller. */
int32_t tokenizer_vocab_size(const struct tokenizer *tok);

/* The token as tokenizer.json spells it ("Ġthe", "▁the", "<0x0A>"); data NULL
 * for an id without a token. */
struct str tokenizer_token(const struct tokenizer *tok, int32_t id);

/* The raw bytes the token stands for inside a text (" the", "\n"), possibly
 * not whole UTF-8 characters; empty for an id without a token.  For grammars
 * and the logprobs `bytes` field. */
struct str tokenizer_token_bytes(const struct tokenizer *tok, int32_t id);

/* Id of a token in tokenizer.json's spelling, -1 when there is none. */
int32_t tokenizer_token_id(const struct tokenizer *tok, struct str token);

bool tokenizer_is_special(const struct tokenizer *tok, int32_t id);
bool tokenizer_is_added(const struct tokenizer *tok, int32_t id);

/* Text of bos_token, eos_token ... for templates; data NULL when the model has
 * none.  The id is -1 when absent or not in the vocabulary. */
struct str tokenizer_special_text(const struct tokenizer *tok,
                                  enum tokenizer_special which);
int32_t tokenizer_special_id(const struct tokenizer *tok,
                             enum tokenizer_special which);

/* Longest token in bytes: bounds how much text n tokens can be. */
size_t tokenizer_token_bytes_max(const struct tokenizer *tok);

#endif
