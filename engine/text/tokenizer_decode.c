/* tokenizer_decode.c - a whole list of ids to text, as the reference's
 * decode(). */
#include <stdlib.h>
#include "engine/text/tokenizer_int.h"

static bool
is_decoded(const struct tokenizer *tok, int32_t id, bool skip_special)
{
    return id >= 0 && id < tok->num_ids
           && (tok->info[id].flags & TOKEN_PRESENT) != 0
           && !(skip_special && (tok->info[id].flags & TOKEN_SPECIAL) != 0);
}

static void
decode_bytes(const struct tokenizer *tok, const int32_t *ids, size_t num_ids,
             bool skip_special, struct buf *out)
{
    struct buf  bytes;

    buf_init(&bytes, out->limit_bytes);
    for (size_t i = 0; i < num_ids; i++) {
        if (is_decoded(tok, ids[i], skip_special)) {
            buf_append_str(&bytes, tokenizer_token_bytes(tok, ids[i]));
        }
    }
    decoder_append_lossy(out, bytes.data, bytes.len);
    out->failed = out->failed || bytes.failed;
    buf_destroy(&bytes);
}

void
tokenizer_decode(const struct tokenizer *tok, const int32_t *ids,
                 size_t num_ids, bool skip_special_tokens, struct buf *out)
{
    if (tok->decoder.shape == DECODER_BYTES) {
        decode_bytes(tok, ids, num_ids, skip_special_tokens, out);
        return;
    }
    struct str  *tokens = num_ids == 0 ? NULL : malloc(num_ids * sizeof *tokens);
    size_t       num = 0;
    if (tokens == NULL) {
        out->failed = out->failed || num_ids > 0;
        return;
    }
    for (size_t i = 0; i < num_ids; i++) {
        if (is_decoded(tok, ids[i], skip_special_tokens)) {
            tokens[num++] = tokenizer_token(tok, ids[i]);
        }
    }
    decoder_run_chain(&tok->decoder, tokens, num, out);
    free(tokens);
}
