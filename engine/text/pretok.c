/* pretok.c - the split behaviours as a state machine over a stream of
 * (range, is_match) events, so that no list of matches is kept.
 *
 * Every event covers the text from where the last ended.  A pending range is
 * held back while a later event may still join it; `joins` in split_event()
 * is the whole difference between the behaviours. */
#include "engine/text/pretok.h"

#include <string.h>
#include "engine/base/utf8.h"
#include "engine/text/byte_map.h"
#include "engine/text/unicode.h"

static int stage_run(const struct pretok_run *run, size_t k, struct str piece,
                     bool origin, struct err *err);

void
pretok_destroy(struct pretok *p)
{
    for (size_t i = 0; i < p->num_stages; i++) {
        regex_destroy(p->stages[i].regex);
    }
    p->num_stages = 0;
}

void
pretok_scratch_init(struct pretok_scratch *s, size_t text_bytes_max,
                    struct regex_scratch *regex)
{
    for (size_t i = 0; i < PRETOK_STAGES_MAX; i++) {
        buf_init(&s->text[i], text_bytes_max);
        buf_init(&s->shadow[i], text_bytes_max);
    }
    s->regex = regex;
}

void
pretok_scratch_destroy(struct pretok_scratch *s)
{
    for (size_t i = 0; i < PRETOK_STAGES_MAX; i++) {
        buf_destroy(&s->text[i]);
        buf_destroy(&s->shadow[i]);
    }
}

/* ---- splitting ----------------------------------------------------------- */

struct splitter {
    const struct pretok_run   *run;
    const struct pretok_stage *stage;
    size_t                     k;          /* index of the stage */
    struct str                 piece;
    bool                       origin;
    bool                       pending;    /* [begin, end) waits */
    bool                       last_match; /* of the last event */
    size_t                     begin, end;
    struct err                *err;
};

static int
split_emit(struct splitter *s, size_t begin, size_t end)
{
    if (begin == end) {
        return OK;
    }
    return stage_run(s->run, s->k + 1,
                     (struct str) { s->piece.data + begin, end - begin },
                     s->origin && begin == 0, s->err);
}

static int
split_flush(struct splitter *s)
{
    bool  pending = s->pending;
    s->pending = false;
    return pending ? split_emit(s, s->begin, s->end) : OK;
}

/* The next range of the piece and whether it matched. */
static int
split_event(struct splitter *s, size_t begin, size_t end, bool is_match)
{
    bool  joins = false;

    is_match ^= s->stage->invert;
    switch (s->stage->behavior) {
    case SPLIT_REMOVED:
        return is_match ? OK : split_emit(s, begin, end);
    case SPLIT_ISOLATED:
        return split_emit(s, begin, end);
    case SPLIT_MERGED_WITH_PREVIOUS:
        joins = is_match && !s->last_match;
        break;
    case SPLIT_MERGED_WITH_NEXT:
        joins = !is_match && s->last_match;
        break;
    case SPLIT_CONTIGUOUS:
        joins = is_match == s->last_match;
        break;
    }
    s->last_match = is_match;
    if (joins && s->pending) {
        s->end = end;
        return OK;
    }
    if (split_flush(s) != OK) {
        return ERROR;
    }
    s->begin = begin;
    s->end = end;
    s->pending = true;
    return OK;
}

/* A match at [begin, end) after what ended at *done: reports the gap too. */
static int
split_match(struct splitter *s, size_t *done, size_t begin, size_t end)
{
    size_t  from = *done;
    *done = end;
    if (begin > from && split_event(s, from, begin, false) != OK) {
        return ERROR;
    }
    return split_event(s, begin, end, true);
}

static int
split_by_regex(struct splitter *s, size_t *done)
{
    struct regex_match  m;
    int                 rc;

    regex_begin(&m, s->stage->regex, s->run->scratch->regex, s->piece,
                &s->run->scratch->shadow[s->k]);
    while ((rc = regex_next(&m, s->err)) == OK) {
        if (split_match(s, done, m.begin, m.end) != OK) {
            return ERROR;
        }
    }
    return rc == AGAIN ? OK : rc;
}

static int
split_by_literal(struct splitter *s, size_t *done)
{
    const char  *p = s->piece.data, *end = p + s->piece.len, *hit;
    struct str   lit = s->stage->content;

    while ((hit = memmem(p, (size_t) (end - p), lit.data, lit.len)) != NULL) {
        size_t  at = (size_t) (hit - s->piece.data);
        if (split_match(s, done, at, at + lit.len) != OK) {
            return ERROR;
        }
        p = hit + lit.len;
    }
    return OK;
}

static int
split_by_chars(struct splitter *s, size_t *done)
{
    for (size_t i = 0, n; i < s->piece.len; i += n) {
        uint32_t  cp;
        n = unicode_next(s->piece.data + i, &cp);
        if (s->stage->is_match(cp) && split_match(s, done, i, i + n) != OK) {
            return ERROR;
        }
    }
    return OK;
}

/* 0 white space, 1 \w, 2 the rest */
static int
word_class(const char *p, size_t *n)
{
    uint32_t  cp;
    *n = unicode_next(p, &cp);
    return unicode_is_word(cp) ? 1 : unicode_is_space(cp) ? 0 : 2;
}

static int
split_by_words(struct splitter *s, size_t *done)
{
    size_t  n;

    for (size_t i = 0; i < s->piece.len; ) {
        size_t  begin = i;
        int     c = word_class(s->piece.data + i, &n);
        do {
            i += n;
        } while (i < s->piece.len && word_class(s->piece.data + i, &n) == c);
        if (c != 0 && split_match(s, done, begin, i) != OK) {
            return ERROR;
        }
    }
    return OK;
}

static int
split_run(struct splitter *s)
{
    size_t  done = 0;
    int     rc = OK;

    switch (s->stage->by) {
    case SPLIT_SCAN:
        while (done < s->piece.len && rc == OK) {
            size_t  end = scan_next(s->stage->scan, s->piece.data,
                                    s->piece.len, done);
            rc = split_match(s, &done, done, end);
        }
        break;
    case SPLIT_REGEX:
        rc = split_by_regex(s, &done);
        break;
    case SPLIT_LITERAL:
        rc = split_by_literal(s, &done);
        break;
    case SPLIT_CHARS:
        rc = split_by_chars(s, &done);
        break;
    case SPLIT_WORDS:
        rc = split_by_words(s, &done);
        break;
    }
    if (rc == OK && done < s->piece.len) {
        rc = split_event(s, done, s->piece.len, false);
    }
    return rc == OK ? split_flush(s) : rc;
}

/* ---- rewriting ------------------------------------------------------------ */

static void
metaspace_write(const struct pretok_stage *stage, struct str piece,
                bool origin, struct buf *out)
{
    struct str  mark = stage->content;

    if (!buf_reserve(out, piece.len + mark.len)) {
        return;
    }
    bool  has = str_starts_with(piece, mark)
                || (piece.len > 0 && piece.data[0] == ' ');
    if (!has && (stage->prepend == PREPEND_ALWAYS
                 || (stage->prepend == PREPEND_FIRST && origin)))
    {
        buf_append_str(out, mark);
    }
    size_t  begin = 0;
    for (size_t i = 0; i < piece.len; i++) {
        if (piece.data[i] == ' ') {
            buf_append(out, piece.data + begin, i - begin);
            buf_append_str(out, mark);
            begin = i + 1;
        }
    }
    buf_append(out, piece.data + begin, piece.len - begin);
}

static int
stage_rewrite(const struct pretok_run *run, size_t k, struct str piece,
              bool origin, struct err *err)
{
    const struct pretok_stage  *stage = &run->pretok->stages[k];
    struct buf                 *out = &run->scratch->text[k];

    buf_reset(out);
    switch (stage->kind) {
    case PRETOK_PREFIX_SPACE:
        if (piece.len > 0 && piece.data[0] == ' ') {
            return stage_run(run, k + 1, piece, origin, err);
        }
        buf_append_c(out, ' ');
        buf_append_str(out, piece);
        break;
    case PRETOK_BYTE_LEVEL:
        byte_map_encode(piece, out);
        break;
    default:
        metaspace_write(stage, piece, origin, out);
        break;
    }
    if (out->failed) {
        return err_set(err, "the text to tokenise is larger than %zu bytes",
                       out->limit_bytes);
    }
    return stage_run(run, k + 1, buf_str(out), origin, err);
}

static int
stage_run(const struct pretok_run *run, size_t k, struct str piece,
          bool origin, struct err *err)
{
    if (k == run->pretok->num_stages) {
        return run->word(run->data, piece, err);
    }
    if (run->pretok->stages[k].kind != PRETOK_SPLIT) {
        return stage_rewrite(run, k, piece, origin, err);
    }
    struct splitter  s = {
        .run = run, .stage = &run->pretok->stages[k], .k = k, .piece = piece,
        .origin = origin, .err = err
    };
    return split_run(&s);
}

int
pretok_run_piece(const struct pretok_run *run, struct str piece, bool origin,
                 struct err *err)
{
    return stage_run(run, 0, piece, origin, err);
}
