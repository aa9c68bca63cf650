/* detok.c - a byte buffer of what is not certain yet.
 *
 * DECODER_BYTES: held bytes go out, lossily decoded, unless that would end in
 * U+FFFD.  DECODER_SPM: text tokens go out at once, runs of byte tokens when
 * the run so far is UTF-8; a run that turns out not to be is U+FFFD per byte.
 * DECODER_CHAIN: the reference's window of ids, decoded again for each id. */
#include "engine/text/detok.h"

#include <string.h>
#include "engine/base/utf8.h"
#include "engine/text/tokenizer_int.h"

#define REPLACEMENT       "\xEF\xBF\xBD"
#define PROMPT_IDS        32      /* context that can matter: a run of bytes */

void
detok_init(struct detok *d, const struct tokenizer *tok,
           bool skip_special_tokens)
{
    *d = (struct detok) { .tok = tok, .skip_special = skip_special_tokens,
                          .num_strip = tok->decoder.strip_start };
}

static bool
ends_in_replacement(const char *p, size_t len)
{
    return len >= 3 && memcmp(p + len - 3, REPLACEMENT, 3) == 0;
}

/* Appends held bytes [0, n), lossily, unless a prompt is being replayed. */
static void
held_emit(struct detok *d, size_t n, struct buf *out)
{
    if (!d->discard) {
        decoder_append_lossy(out, d->held, n);
    }
    d->started = d->started || n > 0;
    memmove(d->held, d->held + n, d->held_len - n);
    d->held_len -= (uint32_t) n;
}

/* How many of the held bytes are not the start of an unfinished character. */
static size_t
held_complete(const struct detok *d)
{
    size_t  at = 0;

    while (at < d->held_len) {
        bool    incomplete;
        size_t  n = utf8_valid_len(d->held + at, d->held_len - at,
                                   &incomplete);
        at += n;
        if (at == d->held_len || incomplete) {
            break;
        }
        at++;
    }
    return at;
}

/* Whether the held bytes, lossily decoded, end in U+FFFD. */
static bool
held_uncertain(const struct detok *d)
{
    size_t  last = d->held_len;

    if (last == 0 || ends_in_replacement(d->held, last)) {
        return last > 0;
    }
    size_t  begin = last;
    while (begin > 0 && last - begin < 4) {
        begin--;
        if (((unsigned char) d->held[begin] & 0xC0) != 0x80) {
            break;
        }
    }
    return !utf8_is_valid(d->held + begin, last - begin);
}

/* Byte-level: takes bytes in pieces that fit the buffer. */
static void
push_bytes(struct detok *d, struct str bytes, struct buf *out)
{
    while (bytes.len > 0) {
        size_t  room = sizeof d->held - d->held_len;
        size_t  n = bytes.len < room ? bytes.len : room;
        memcpy(d->held + d->held_len, bytes.data, n);
        d->held_len += (uint32_t) n;
        bytes.data += n;
        bytes.len -= n;
        if (bytes.len > 0 || d->held_len > DETOK_HELD_BYTES_MAX) {
            held_emit(d, held_complete(d), out);
        }
    }
    if (!held_uncertain(d)) {
        held_emit(d, d->held_len, out);
    }
}

static void
emit_text(struct detok *d, struct str text, struct buf *out)
{
    struct str  strip = d->tok->decoder.strip_content;

    while (d->num_strip > 0 && !d->started && text.len > 0) {
        if (!str_starts_with(text, strip)) {
            d->num_strip = 0;
            break;
        }
        text.data += strip.len;
        text.len -= strip.len;
        d->num_strip--;
    }
    if (text.len > 0) {
        d->started = true;
    }
    if (!d->discard) {
        buf_append_str(out, text);
    }
}

/* The held bytes of a run are not text, or the run has ended so. */
static void
run_replace(struct detok *d, struct buf *out)
{
    for (uint32_t i = 0; i < d->held_len; i++) {
        emit_text(d, STR(REPLACEMENT), out);
    }
    d->held_len = 0;
}

/* SentencePiece style.  held: bytes of the present run that are not out. */
static void
push_spm_byte(struct detok *d, char byte, struct buf *out)
{
    bool  incomplete;

    d->held[d->held_len++] = byte;
    if (!d->bytes_invalid) {
        size_t  n = utf8_valid_len(d->held, d->held_len, &incomplete);
        if (n == d->held_len) {
            if (!ends_in_replacement(d->held, n)
                || d->held_len > DETOK_HELD_BYTES_MAX)
            {
                emit_text(d, (struct str) { d->held, n }, out);
                d->held_len = 0;
            }
            return;
        }
        d->bytes_invalid = !incomplete;
    }
    if (d->bytes_invalid && d->held_len > DETOK_HELD_BYTES_MAX) {
        run_replace(d, out);
    }
}

/* The run of byte tokens is over. */
static void
run_end(struct detok *d, struct buf *out)
{
    if (d->held_len > 0 && utf8_is_valid(d->held, d->held_len)) {
        emit_text(d, (struct str) { d->held, d->held_len }, out);
        d->held_len = 0;
    }
    run_replace(d, out);
    d->bytes_invalid = false;
}

/* A text token.  Text that ends in U+FFFD is not held as the reference does:
 * it cannot change any more. */
static void
push_spm(struct detok *d, const struct token_info *info, struct str bytes,
         struct buf *out)
{
    if ((info->flags & TOKEN_BYTE) != 0) {
        push_spm_byte(d, bytes.data[0], out);
        return;
    }
    run_end(d, out);
    emit_text(d, bytes, out);
}

/* How much of a decoded window is news behind the `done` bytes that are out.
 * Those may have become others by now, where the reference gives up; the news
 * begin with a whole character. */
static size_t
window_news(const char *p, size_t len, size_t done)
{
    while (done < len && ((unsigned char) p[done] & 0xC0) == 0x80) {
        done++;
    }
    return len > done ? len - done : 0;
}

/* The reference's DecodeStream on a window of ids. */
static void
push_window(struct detok *d, int32_t id, struct buf *out)
{
    size_t  base = out->len;

    d->window[d->window_len++] = id;
    tokenizer_decode(d->tok, d->window, d->window_len, d->skip_special, out);
    if (out->failed) {
        return;
    }
    size_t  len = out->len - base;
    bool    full = d->window_len == DETOK_WINDOW_IDS;
    if (!full && (len <= d->window_bytes
                  || ends_in_replacement(out->data + base, len)))
    {
        out->len = base;
        return;
    }
    size_t  news = window_news(out->data + base, len, d->window_bytes);
    memmove(out->data + base, out->data + base + (len - news), news);
    out->len = base + news;
    uint32_t  done = d->window_done;
    if (full && done == 0) {
        done = d->window_len - 1;
    }
    memmove(d->window, d->window + done,
            (d->window_len - done) * sizeof d->window[0]);
    d->window_len -= done;
    d->window_done = d->window_len;
    size_t  end = out->len;
    tokenizer_decode(d->tok, d->window, d->window_len, d->skip_special, out);
    d->window_bytes = out->failed ? 0 : out->len - end;
    out->len = out->failed ? out->len : end;
    if (d->discard) {
        out->len = base;
    }
}

void
detok_push(struct detok *d, int32_t id, struct buf *out)
{
    const struct tokenizer  *t = d->tok;

    if (id < 0 || id >= t->num_ids
        || (t->info[id].flags & TOKEN_PRESENT) == 0
        || (d->skip_special && (t->info[id].flags & TOKEN_SPECIAL) != 0))
    {
        return;
    }
    switch (t->decoder.shape) {
    case DECODER_BYTES:
        push_bytes(d, tokenizer_token_bytes(t, id), out);
        return;
    case DECODER_SPM:
        push_spm(d, &t->info[id], tokenizer_token_bytes(t, id), out);
        return;
    case DECODER_CHAIN:
        push_window(d, id, out);
        return;
    }
}

/* Whether any of ids decodes to text, the last ones looked at first. */
static bool
has_text(const struct detok *d, const int32_t *ids, size_t num_ids)
{
    while (num_ids-- > 0) {
        int32_t  id = ids[num_ids];
        if (tokenizer_token_bytes(d->tok, id).len > 0
            && !(d->skip_special && tokenizer_is_special(d->tok, id)))
        {
            return true;
        }
    }
    return false;
}

void
detok_prompt(struct detok *d, const int32_t *ids, size_t num_ids)
{
    char        nothing[1];
    struct buf  out = { .data = nothing, .cap = 0, .limit_bytes = 0 };
    size_t      from = num_ids > PROMPT_IDS ? num_ids - PROMPT_IDS : 0;

    if (d->tok->decoder.shape == DECODER_CHAIN) {
        buf_init(&out, SIZE_MAX / 2);
        for (size_t i = from; i < num_ids; i++) {
            d->window[d->window_len++] = ids[i];
        }
        d->window_done = d->window_len;
        tokenizer_decode(d->tok, d->window, d->window_len, d->skip_special,
                         &out);
        d->window_bytes = out.len;
        buf_destroy(&out);
        return;
    }
    d->discard = true;
    for (size_t i = from; i < num_ids; i++) {
        detok_push(d, ids[i], &out);
    }
    d->discard = false;
    d->started = d->started || has_text(d, ids, from);
}

void
detok_finish(struct detok *d, struct buf *out)
{
    switch (d->tok->decoder.shape) {
    case DECODER_BYTES:
        held_emit(d, d->held_len, out);
        return;
    case DECODER_SPM:
        run_end(d, out);
        return;
    case DECODER_CHAIN: ;
        size_t  base = out->len;
        tokenizer_decode(d->tok, d->window, d->window_len, d->skip_special,
                         out);
        if (!out->failed) {
            size_t  len = out->len - base;
            size_t  news = window_news(out->data + base, len,
                                       d->window_bytes);
            memmove(out->data + base, out->data + base + (len - news), news);
            out->len = base + news;
        }
        d->window_bytes += out->len - base;
        return;
    }
}
