/* decoder.c - each step maps a list of tokens to a list of tokens, held as one
 * text with end offsets; two lists alternate. */
#include "engine/text/decoder.h"

#include <stdlib.h>
#include <string.h>
#include "engine/base/utf8.h"
#include "engine/text/byte_map.h"
#include "engine/text/unicode.h"

#define REPLACEMENT  "\xEF\xBF\xBD"

struct token_list {
    struct buf  text;
    size_t     *ends;        /* [num] */
    size_t      num;
    size_t      cap;
};

void
decoder_finish(struct decoder *d)
{
    size_t  i = 0;

    d->shape = DECODER_CHAIN;
    if (d->num_steps == 1 && d->steps[0].kind == DECODE_BYTE_LEVEL) {
        d->shape = DECODER_BYTES;
        return;
    }
    while (i < d->num_steps && d->steps[i].kind == DECODE_REPLACE) {
        i++;
    }
    d->num_replace = i;
    if (i < d->num_steps && d->steps[i].kind == DECODE_BYTE_FALLBACK) {
        d->byte_fallback = true;
        i++;
    }
    if (i < d->num_steps && d->steps[i].kind == DECODE_FUSE) {
        i++;
        if (i < d->num_steps && d->steps[i].kind == DECODE_STRIP
            && d->steps[i].stop == 0)
        {
            d->strip_start = d->steps[i].start;
            d->strip_content = d->steps[i].content;
            i++;
        }
    }
    if (i == d->num_steps && i > 0) {
        d->shape = DECODER_SPM;
    }
}

void
decoder_destroy(struct decoder *d)
{
    for (size_t i = 0; i < d->num_steps; i++) {
        regex_destroy(d->steps[i].regex);
    }
    d->num_steps = 0;
}

static int
hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int
decoder_byte_of(struct str t)
{
    if (t.len != 6 || memcmp(t.data, "<0x", 3) != 0 || t.data[5] != '>') {
        return -1;
    }
    int  hi = t.data[3] == '+' ? 0 : hex(t.data[3]), lo = hex(t.data[4]);
    return hi < 0 || lo < 0 ? -1 : hi << 4 | lo;
}

void
decoder_append_lossy(struct buf *out, const char *bytes, size_t len)
{
    while (len > 0) {
        bool    incomplete;
        size_t  n = utf8_valid_len(bytes, len, &incomplete);
        buf_append(out, bytes, n);
        bytes += n;
        len -= n;
        if (len == 0) {
            return;
        }
        buf_append_lit(out, REPLACEMENT);
        if (incomplete) {
            return;
        }
        /* The longest start of a character that is there, at least 1 byte. */
        for (n = 1; n < len; n++) {
            (void) utf8_valid_len(bytes, n + 1, &incomplete);
            if (!incomplete) {
                break;
            }
        }
        bool  first;
        (void) utf8_valid_len(bytes, 1, &first);
        n = first ? n : 1;
        bytes += n;
        len -= n;
    }
}

/* ---- steps over a list --------------------------------------------------- */

static struct str
list_at(const struct token_list *l, size_t i)
{
    size_t  begin = i == 0 ? 0 : l->ends[i - 1];
    if (l->text.data == NULL) {
        return STR("");    /* every token so far is empty */
    }
    return (struct str) { l->text.data + begin, l->ends[i] - begin };
}

/* Ends the token whose text was just appended. */
static void
list_end(struct token_list *l)
{
    if (l->num == l->cap) {
        size_t   cap = l->cap == 0 ? 64 : l->cap * 2;
        size_t  *ends = realloc(l->ends, cap * sizeof *ends);
        if (ends == NULL) {
            l->text.failed = true;
            return;
        }
        l->ends = ends;
        l->cap = cap;
    }
    l->ends[l->num++] = l->text.len;
}

static void
replace_in(const struct decode_step *step, struct str t, struct buf *out)
{
    struct str  rest = t;

    if (step->pattern.data != NULL) {
        const char  *hit;
        while ((hit = memmem(rest.data, rest.len, step->pattern.data,
                             step->pattern.len)) != NULL)
        {
            size_t  n = (size_t) (hit - rest.data);
            buf_append(out, rest.data, n);
            buf_append_str(out, step->content);
            rest.data += n + step->pattern.len;
            rest.len -= n + step->pattern.len;
        }
        buf_append_str(out, rest);
        return;
    }
    struct regex_scratch  *scratch = regex_scratch_create();
    struct regex_match     m;
    struct buf             shadow;
    size_t                 done = 0;
    if (scratch == NULL) {
        out->failed = true;
        return;
    }
    buf_init(&shadow, out->limit_bytes);
    regex_begin(&m, step->regex, scratch, t, &shadow);
    while (regex_next(&m, NULL) == OK) {
        buf_append(out, t.data + done, m.begin - done);
        buf_append_str(out, step->content);
        done = m.end;
    }
    buf_append(out, t.data + done, t.len - done);
    buf_destroy(&shadow);
    regex_scratch_destroy(scratch);
}

void
decoder_replace_token(const struct decoder *d, struct str token,
                      struct buf *out)
{
    struct buf  tmp;

    buf_init(&tmp, out->limit_bytes);
    for (size_t i = 0; i < d->num_replace; i++) {
        struct buf  next;
        buf_init(&next, out->limit_bytes);
        replace_in(&d->steps[i], token, &next);
        out->failed = out->failed || next.failed;
        buf_destroy(&tmp);
        tmp = next;
        token = buf_str(&tmp);
    }
    buf_append_str(out, token);
    buf_destroy(&tmp);
}

/* A run of byte tokens is text as a whole or U+FFFD for each. */
static void
byte_run_end(struct token_list *out, struct buf *run)
{
    if (run->len == 0) {
        return;
    }
    if (utf8_is_valid(run->data, run->len)) {
        buf_append_str(&out->text, buf_str(run));
        list_end(out);
    } else {
        for (size_t i = 0; i < run->len; i++) {
            buf_append_lit(&out->text, REPLACEMENT);
            list_end(out);
        }
    }
    out->text.failed = out->text.failed || run->failed;
    buf_reset(run);
}

static void
step_byte_fallback(const struct token_list *in, struct token_list *out)
{
    struct buf  run;

    buf_init(&run, in->text.limit_bytes);
    for (size_t i = 0; i < in->num; i++) {
        struct str  t = list_at(in, i);
        int         byte = decoder_byte_of(t);
        if (byte >= 0) {
            buf_append_c(&run, (char) byte);
            continue;
        }
        byte_run_end(out, &run);
        buf_append_str(&out->text, t);
        list_end(out);
    }
    byte_run_end(out, &run);
    buf_destroy(&run);
}

static void
strip_in(const struct decode_step *step, struct str t, struct buf *out)
{
    for (uint32_t k = 0; k < step->start
         && str_starts_with(t, step->content); k++)
    {
        t.data += step->content.len;
        t.len -= step->content.len;
    }
    for (uint32_t k = 0; k < step->stop && str_ends_with(t, step->content);
         k++)
    {
        t.len -= step->content.len;
    }
    buf_append_str(out, t);
}

static void
replace_all(struct buf *b, struct str from, struct str to)
{
    struct decode_step  step = { .pattern = from, .content = to };
    struct buf          out;

    buf_init(&out, b->limit_bytes);
    replace_in(&step, buf_str(b), &out);
    out.failed = out.failed || b->failed;
    buf_destroy(b);
    *b = out;
}

static void
step_wordpiece(const struct decode_step *step, const struct token_list *in,
               struct token_list *out)
{
    static const char *const  from[] = { " .", " ?", " !", " ,", " ' ", " n't",
                                         " 'm", " do not", " 's", " 've",
                                         " 're" };
    static const char *const  to[] = { ".", "?", "!", ",", "'", "n't", "'m",
                                       " don't", "'s", "'ve", "'re" };

    for (size_t i = 0; i < in->num; i++) {
        struct str  t = list_at(in, i);
        struct buf  b;
        buf_init(&b, in->text.limit_bytes);
        if (i > 0 && str_starts_with(t, step->content)) {
            t.data += step->content.len;
            t.len -= step->content.len;
        } else if (i > 0) {
            buf_append_c(&b, ' ');
        }
        buf_append_str(&b, t);
        for (size_t k = 0; step->cleanup && k < sizeof from / sizeof from[0];
             k++)
        {
            replace_all(&b, str_from(from[k]), str_from(to[k]));
        }
        buf_append_str(&out->text, buf_str(&b));
        out->text.failed = out->text.failed || b.failed;
        buf_destroy(&b);
        list_end(out);
    }
}

static void
step_byte_level(const struct token_list *in, struct token_list *out)
{
    struct buf  bytes;

    buf_init(&bytes, in->text.limit_bytes);
    for (size_t i = 0; i < in->num; i++) {
        (void) byte_map_decode(list_at(in, i), &bytes);
    }
    decoder_append_lossy(&out->text, bytes.data, bytes.len);
    out->text.failed = out->text.failed || bytes.failed;
    buf_destroy(&bytes);
    list_end(out);
}

/* A step that looks at one token at a time; i is its place. */
static void
step_token(const struct decode_step *step, const struct token_list *in,
           size_t i, struct buf *out)
{
    struct str          t = list_at(in, i);
    struct decode_step  replace = { .pattern = step->content,
                                    .content = STR(" ") };

    switch (step->kind) {
    case DECODE_REPLACE:
        replace_in(step, t, out);
        break;
    case DECODE_STRIP:
        strip_in(step, t, out);
        break;
    case DECODE_METASPACE:
        if (i == 0 && !step->keep_first) {
            replace.content = STR("");
        }
        replace_in(&replace, t, out);
        break;
    case DECODE_SUFFIX:
        if (i + 1 == in->num) {
            replace.content = STR("");
        }
        replace_in(&replace, t, out);
        break;
    default:                                   /* DECODE_FUSE */
        buf_append_str(out, t);
        break;
    }
}

static void
step_decode(const struct decode_step *step, const struct token_list *in,
            struct token_list *out)
{
    switch (step->kind) {
    case DECODE_BYTE_LEVEL:
        step_byte_level(in, out);
        return;
    case DECODE_BYTE_FALLBACK:
        step_byte_fallback(in, out);
        return;
    case DECODE_WORDPIECE:
        step_wordpiece(step, in, out);
        return;
    default:
        break;
    }
    for (size_t i = 0; i < in->num; i++) {
        step_token(step, in, i, &out->text);
        if (step->kind != DECODE_FUSE) {
            list_end(out);
        }
    }
    if (step->kind == DECODE_FUSE) {
        list_end(out);
    }
}

void
decoder_run_chain(const struct decoder *d, const struct str *tokens,
                  size_t num_tokens, struct buf *out)
{
    struct token_list  list[2] = { 0 };
    size_t             cur = 0;

    buf_init(&list[0].text, out->limit_bytes);
    buf_init(&list[1].text, out->limit_bytes);
    for (size_t i = 0; i < num_tokens; i++) {
        if (!d->present && i > 0) {
            buf_append_c(&list[0].text, ' ');
        }
        buf_append_str(&list[0].text, tokens[i]);
        list_end(&list[0]);
    }
    for (size_t i = 0; i < d->num_steps && num_tokens > 0; i++) {
        struct token_list  *to = &list[cur ^ 1];
        buf_reset(&to->text);
        to->num = 0;
        to->text.failed = list[cur].text.failed;
        step_decode(&d->steps[i], &list[cur], to);
        cur ^= 1;
    }
    out->failed = out->failed || list[cur].text.failed;
    buf_append_str(out, buf_str(&list[cur].text));
    for (int i = 0; i < 2; i++) {
        buf_destroy(&list[i].text);
        free(list[i].ends);
    }
}
