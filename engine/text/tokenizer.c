/* tokenizer.c - encode: added tokens out, normalise, added tokens out again,
 * pre-tokenise, BPE, post-process.  Nothing is kept between the stages but
 * the piece at hand. */
#include "engine/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include "engine/base/utf8.h"
#include "engine/text/tokenizer_int.h"
#include "engine/text/unicode.h"

/* One encode call. */
struct encode {
    const struct tokenizer   *tok;
    struct tokenizer_scratch *scratch;
    const struct encode_args *args;
    struct id_buf            *out;
    size_t                    len_max;     /* of out->len */
    bool                      full;        /* len_max reached */
    struct pretok_run         run;
};

struct tokenizer_scratch *
tokenizer_scratch_create(const struct tokenizer *tok)
{
    struct tokenizer_scratch  *s = calloc(1, sizeof *s);

    (void) tok;
    if (s == NULL) {
        return NULL;
    }
    s->bpe = bpe_scratch_create();
    s->regex = regex_scratch_create();
    if (s->bpe == NULL || s->regex == NULL) {
        tokenizer_scratch_destroy(s);
        return NULL;
    }
    pretok_scratch_init(&s->pretok, TOKENIZER_WORK_BYTES_MAX, s->regex);
    buf_init(&s->norm[0], TOKENIZER_WORK_BYTES_MAX);
    buf_init(&s->norm[1], TOKENIZER_WORK_BYTES_MAX);
    buf_init(&s->norm_shadow, TOKENIZER_WORK_BYTES_MAX);
    return s;
}

void
tokenizer_scratch_destroy(struct tokenizer_scratch *s)
{
    if (s == NULL) {
        return;
    }
    bpe_scratch_destroy(s->bpe);
    regex_scratch_destroy(s->regex);
    pretok_scratch_destroy(&s->pretok);
    buf_destroy(&s->norm[0]);
    buf_destroy(&s->norm[1]);
    buf_destroy(&s->norm_shadow);
    free(s->spans);
    free(s);
}

/* Whether BPE made a special token among the ids from first on.  <unk> stands
 * for what has no token and is no forgery. */
static bool
has_forged(const struct encode *e, size_t first)
{
    for (size_t i = first; i < e->out->len; i++) {
        if (e->out->ids[i] != e->tok->bpe.unk_id
            && tokenizer_is_special(e->tok, e->out->ids[i]))
        {
            return true;
        }
    }
    return false;
}

/* At most num bytes of whole characters, but one character at least. */
static size_t
whole_characters(struct str text, size_t num)
{
    while (num > 0 && num < text.len
           && ((unsigned char) text.data[num] & 0xC0) == 0x80)
    {
        num--;
    }
    return num > 0 ? num : unicode_next(text.data, &(uint32_t) { 0 });
}

/* Some vocabularies hold special tokens as ordinary entries that BPE can make
 * of plain text.  In a text with untrusted ranges such a word goes in pieces: one
 * of which a special token is made is tried again at half its length, the next
 * one may be twice as long.  One character has no other spelling. */
static int
encode_unforged(struct encode *e, struct str word, struct err *err)
{
    bool    checks = e->tok->makes_specials && e->args->num_untrusted > 0;
    size_t  num = word.len;

    do {
        size_t  first = e->out->len;
        if (bpe_encode(&e->tok->bpe, e->scratch->bpe,
                       (struct str) { word.data, num }, e->out, err) != OK)
        {
            return ERROR;
        }
        if (checks && has_forged(e, first)) {
            size_t  half = whole_characters(word, num / 2);
            if (half < num) {
                e->out->len = first;
                num = half;
                continue;
            }
        }
        word = (struct str) { word.data + num, word.len - num };
        num = num < word.len / 2 ? whole_characters(word, 2 * num) : word.len;
    } while (word.len > 0);
    return OK;
}

/* The pre-tokenizer's sink. */
static int
encode_word(void *data, struct str word, struct err *err)
{
    struct encode  *e = data;

    if (encode_unforged(e, word, err) != OK) {
        return ERROR;
    }
    if (e->out->len > e->len_max || e->out->failed) {
        e->full = true;
        return ERROR;
    }
    return OK;
}

/* Text without added tokens. */
static int
encode_piece(struct encode *e, struct str piece, bool origin, struct err *err)
{
    bpe_scratch_readable(e->scratch->bpe, e->tok->pretok_rewrites
                                          ? NULL : piece.data + piece.len);
    return pretok_run_piece(&e->run, piece, origin, err);
}

/* Splits text on the added tokens of set; what lies between goes to between()
 * with its offset. */
static int
encode_split(struct encode *e, const struct added_set *set,
             struct added_search *s,
             int (*between)(struct encode *, struct added_search *, size_t,
                            size_t, struct err *), struct err *err)
{
    while (set->num_tokens > 0 && added_set_find(set, s)) {
        if (s->done < s->begin
            && between(e, s, s->done, s->begin, err) != OK)
        {
            return ERROR;
        }
        id_buf_push(e->out, s->token->id);
        if (e->out->len > e->len_max || e->out->failed) {
            e->full = true;
            return ERROR;
        }
        s->done = s->end;
    }
    if (s->done < s->text.len) {
        return between(e, s, s->done, s->text.len, err);
    }
    return OK;
}

/* Between tokens of the normalised text. */
static int
encode_normalized(struct encode *e, struct added_search *s, size_t begin,
                  size_t end, struct err *err)
{
    return encode_piece(e, (struct str) { s->text.data + begin, end - begin },
                        begin == 0 && s->at_origin, err);
}

/* Copies the untrusted ranges that fall into [begin, end), made relative. */
static int
spans_slice(struct encode *e, size_t begin, size_t end, size_t *num,
            struct err *err)
{
    struct tokenizer_scratch  *s = e->scratch;
    size_t                     lo = 0, hi = e->args->num_untrusted;

    while (lo < hi) {                    /* first that ends after begin */
        size_t  mid = (lo + hi) / 2;
        if (e->args->untrusted[mid].end <= begin) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    *num = 0;
    for (size_t i = lo; i < e->args->num_untrusted
         && e->args->untrusted[i].begin < end; i++)
    {
        if (*num == s->cap_spans) {
            size_t             cap = s->cap_spans == 0 ? 64 : *num * 2;
            struct text_span  *spans = realloc(s->spans, cap * sizeof *spans);
            if (spans == NULL) {
                return err_set(err, "out of memory");
            }
            s->spans = spans;
            s->cap_spans = cap;
        }
        struct text_span  t = e->args->untrusted[i];
        t.begin = t.begin < begin ? 0 : t.begin - begin;
        t.end = t.end > end ? end - begin : t.end - begin;
        s->spans[(*num)++] = t;
    }
    return OK;
}

/* Between tokens of the raw text. */
static int
encode_raw(struct encode *e, struct added_search *s, size_t begin, size_t end,
           struct err *err)
{
    struct norm_args  args = {
        .text = { s->text.data + begin, end - begin },
        .bufs = { &e->scratch->norm[0], &e->scratch->norm[1] },
        .shadow = &e->scratch->norm_shadow, .regex = e->scratch->regex
    };
    struct norm_result  r;

    if (e->tok->normalized.num_tokens > 0) {
        if (spans_slice(e, begin, end, &args.num_spans, err) != OK) {
            return ERROR;
        }
        args.spans = e->scratch->spans;
    }
    if (normalizer_run(&e->tok->normalizer, &args, &r, err) != OK) {
        return ERROR;
    }
    struct added_search  inner = {
        .text = r.text, .spans = args.spans, .num_spans = args.num_spans,
        .at_origin = r.origin && begin == 0
    };
    return encode_split(e, &e->tok->normalized, &inner, encode_normalized,
                        err);
}

int
tokenizer_encode(const struct tokenizer *tok,
                 struct tokenizer_scratch *scratch,
                 const struct encode_args *args, struct id_buf *out,
                 struct err *err)
{
    struct encode  e = { .tok = tok, .scratch = scratch, .args = args,
                         .out = out };

    if (args->text.len > TOKENIZER_TEXT_BYTES_MAX) {
        return err_set_http(err, 400, "", "the text has %zu bytes, the limit "
                            "is %u", args->text.len, TOKENIZER_TEXT_BYTES_MAX);
    }
    if (!utf8_is_valid(args->text.data, args->text.len)) {
        return err_set_http(err, 400, "", "the text is not valid UTF-8");
    }
    e.len_max = args->max_tokens == 0 || args->max_tokens > SIZE_MAX - out->len
                ? SIZE_MAX : out->len + args->max_tokens;
    e.run = (struct pretok_run) {
        .pretok = &tok->pretok, .scratch = &scratch->pretok,
        .word = encode_word, .data = &e
    };
    if (args->add_special_tokens) {
        id_buf_append(out, tok->before, tok->num_before);
    }
    struct added_search  s = { .text = args->text, .spans = args->untrusted,
                               .num_spans = args->num_untrusted };
    int  rc = encode_split(&e, &tok->raw, &s, encode_raw, err);
    if (rc == OK && args->add_special_tokens) {
        id_buf_append(out, tok->after, tok->num_after);
    }
    if (e.full || out->failed || (rc == OK && out->len > e.len_max)) {
        if (out->len > e.len_max || out->len >= out->limit) {
            return AGAIN;
        }
        return err_set(err, "out of memory for %zu token ids", out->len);
    }
    return rc;
}

int32_t
tokenizer_vocab_size(const struct tokenizer *tok)
{
    return tok->num_ids;
}

struct str
tokenizer_token(const struct tokenizer *tok, int32_t id)
{
    struct str  t = vocab_token(&tok->added, id);
    return t.data != NULL ? t : vocab_token(&tok->model, id);
}

int32_t
tokenizer_token_id(const struct tokenizer *tok, struct str token)
{
    int32_t  id = vocab_find(&tok->added, token.data, token.len);
    return id >= 0 ? id : vocab_find(&tok->model, token.data, token.len);
}

struct str
tokenizer_token_bytes(const struct tokenizer *tok, int32_t id)
{
    if (id < 0 || id >= tok->num_ids) {
        return (struct str) { NULL, 0 };
    }
    return (struct str) { tok->bytes_text.data + tok->info[id].offset,
                          tok->info[id].len };
}

static bool
has_flag(const struct tokenizer *tok, int32_t id, uint8_t flag)
{
    return id >= 0 && id < tok->num_ids && (tok->info[id].flags & flag) != 0;
}

bool
tokenizer_is_special(const struct tokenizer *tok, int32_t id)
{
    return has_flag(tok, id, TOKEN_SPECIAL);
}

bool
tokenizer_is_added(const struct tokenizer *tok, int32_t id)
{
    return has_flag(tok, id, TOKEN_ADDED);
}

struct str
tokenizer_special_text(const struct tokenizer *tok,
                       enum tokenizer_special which)
{
    return tok->special_text[which];
}

int32_t
tokenizer_special_id(const struct tokenizer *tok, enum tokenizer_special which)
{
    return tok->special_id[which];
}

size_t
tokenizer_token_bytes_max(const struct tokenizer *tok)
{
    return tok->token_bytes_max;
}
