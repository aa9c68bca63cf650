/* normalize.c - each step copies the text with its change, or leaves it alone
 * when there is nothing to change, and moves the untrusted ranges with it.
 *
 * A range's begin moves to where the output stood before the first changed
 * byte, its end to after the last one: it may grow by a character, never
 * shrink. */
#include "engine/text/normalize.h"

#include <string.h>
#include "engine/base/utf8.h"
#include "engine/text/byte_map.h"

/* One step at work. */
struct norm_work {
    const struct norm_args *args;
    struct str              in;
    struct buf             *out;
    bool                    origin;      /* the first character is still the
                                            input's first */
    size_t                  span_idx;    /* borders before it are moved */
    bool                    span_end;    /* next border is an end */
};

void
normalizer_destroy(struct normalizer *n)
{
    for (size_t i = 0; i < n->num_steps; i++) {
        regex_destroy(n->steps[i].regex);
    }
    n->num_steps = 0;
}

/* Call before writing what stems from input [.., upto): borders at or before
 * `at` get the output's present length; with `after`, called once the output
 * is written, ends up to upto get its length then. */
static void
borders_move(struct norm_work *w, size_t upto, size_t pos, bool after)
{
    while (w->span_idx < w->args->num_spans) {
        struct text_span  *s = &w->args->spans[w->span_idx];
        if (!w->span_end) {
            if (after || s->begin >= upto) {
                return;
            }
            s->begin = pos;
            w->span_end = true;
        } else {
            if (!after || s->end > upto) {
                return;
            }
            s->end = pos;
            w->span_end = false;
            w->span_idx++;
        }
    }
}

/* Writes data in place of input bytes [begin, end). */
static void
work_put(struct norm_work *w, size_t end, const void *data, size_t len)
{
    /* Ranges of one replaced stretch: begin and end may both lie inside. */
    size_t  pos = w->out->len;
    borders_move(w, end, pos, false);
    buf_append(w->out, data, len);
    while (w->span_idx < w->args->num_spans && w->span_end
           && w->args->spans[w->span_idx].end <= end)
    {
        borders_move(w, end, w->out->len, true);
        borders_move(w, end, pos, false);
    }
}

/* Copies input [begin, end) unchanged: borders keep their distance. */
static void
work_copy(struct norm_work *w, size_t begin, size_t end)
{
    size_t  pos = w->out->len;

    while (w->span_idx < w->args->num_spans) {
        struct text_span  *s = &w->args->spans[w->span_idx];
        if (!w->span_end && s->begin < end) {
            s->begin = pos + (s->begin > begin ? s->begin - begin : 0);
            w->span_end = true;
        } else if (w->span_end && s->end <= end) {
            s->end = pos + (s->end > begin ? s->end - begin : 0);
            w->span_end = false;
            w->span_idx++;
        } else {
            break;
        }
    }
    buf_append(w->out, w->in.data + begin, end - begin);
}

static void
step_form(struct norm_work *w, enum unicode_form form)
{
    /* Stretches between borders are not independent, so with ranges the text
     * is cut only where a character certainly starts anew. */
    size_t  begin = 0;

    if (w->args->num_spans == 0) {
        unicode_normalize(w->in, form, w->out);
        return;
    }
    for (size_t i = 0, n; i <= w->in.len; i += n) {
        uint32_t  cp = 0;
        n = i < w->in.len ? unicode_next(w->in.data + i, &cp) : 1;
        if (i == w->in.len || (cp < 0x300 && i > begin)) {
            struct str  part = { w->in.data + begin, i - begin };
            size_t      pos = w->out->len;
            borders_move(w, i, pos, false);
            unicode_normalize(part, form, w->out);
            while (w->span_idx < w->args->num_spans && w->span_end
                   && w->args->spans[w->span_idx].end <= i)
            {
                borders_move(w, i, w->out->len, true);
                borders_move(w, i, pos, false);
            }
            begin = i;
        }
    }
}

static void
step_lowercase(struct norm_work *w)
{
    for (size_t i = 0, n; i < w->in.len; i += n) {
        uint32_t  cp, lower[2];
        char      tmp[8];
        size_t    len = 0;
        n = unicode_next(w->in.data + i, &cp);
        int  num = unicode_lower(cp, lower);
        for (int k = 0; k < num; k++) {
            len += (size_t) utf8_encode(lower[k], tmp + len);
        }
        work_put(w, i + n, tmp, len);
    }
}

static void
step_strip_accents(struct norm_work *w)
{
    for (size_t i = 0, n; i < w->in.len; i += n) {
        uint32_t  cp;
        n = unicode_next(w->in.data + i, &cp);
        work_put(w, i + n, w->in.data + i, unicode_is_mark(cp) ? 0 : n);
    }
}

static void
step_strip(struct norm_work *w, bool left, bool right)
{
    size_t    begin = 0, end = w->in.len;
    uint32_t  cp;

    while (left && begin < end) {
        size_t  n = unicode_next(w->in.data + begin, &cp);
        if (!unicode_is_space(cp)) {
            break;
        }
        begin += n;
    }
    while (right && end > begin) {
        size_t  prev = end - 1;
        while (((unsigned char) w->in.data[prev] & 0xC0) == 0x80) {
            prev--;
        }
        (void) unicode_next(w->in.data + prev, &cp);
        if (!unicode_is_space(cp)) {
            break;
        }
        end = prev;
    }
    work_put(w, begin, "", 0);
    work_copy(w, begin, end);
    work_put(w, w->in.len, "", 0);
}

/* A replacement takes the place of the last character of what it replaces, as
 * in the reference: of several at the start, the first is then gone. */
static void
replace_origin(struct norm_work *w, size_t begin, size_t end, size_t len)
{
    uint32_t  cp;

    if (begin == 0 && end > 0
        && (len == 0 || unicode_next(w->in.data, &cp) < end))
    {
        w->origin = false;
    }
}

static int
step_replace(struct norm_work *w, const struct norm_step *step,
             struct err *err)
{
    size_t  done = 0;

    if (step->pattern.data != NULL) {
        const char  *p = w->in.data, *end = w->in.data + w->in.len, *hit;
        while ((hit = memmem(p, (size_t) (end - p), step->pattern.data,
                             step->pattern.len)) != NULL)
        {
            size_t  at = (size_t) (hit - w->in.data);
            work_copy(w, done, at);
            done = at + step->pattern.len;
            replace_origin(w, at, done, step->content.len);
            work_put(w, done, step->content.data, step->content.len);
            p = hit + step->pattern.len;
        }
        work_copy(w, done, w->in.len);
        return OK;
    }
    struct regex_match  m;
    int                 rc;
    regex_begin(&m, step->regex, w->args->regex, w->in, w->args->shadow);
    while ((rc = regex_next(&m, err)) == OK) {
        work_copy(w, done, m.begin);
        done = m.end;
        replace_origin(w, m.begin, m.end, step->content.len);
        work_put(w, done, step->content.data, step->content.len);
    }
    work_copy(w, done, w->in.len);
    return rc == AGAIN ? OK : rc;
}

/* True when the step would leave the text as it is. */
static bool
is_noop(const struct norm_step *step, struct str in)
{
    switch (step->kind) {
    case NORM_FORM:
        return unicode_is_normal(in, step->form);
    case NORM_REPLACE:
        return step->pattern.data != NULL
               && memmem(in.data, in.len, step->pattern.data,
                         step->pattern.len) == NULL;
    default:
        return in.len == 0;
    }
}

static int
step_run(struct norm_work *w, const struct norm_step *step, struct err *err)
{
    switch (step->kind) {
    case NORM_FORM:
        step_form(w, step->form);
        return OK;
    case NORM_LOWERCASE:
        step_lowercase(w);
        return OK;
    case NORM_STRIP:
        step_strip(w, step->left, step->right);
        return OK;
    case NORM_STRIP_ACCENTS:
        step_strip_accents(w);
        return OK;
    case NORM_PREPEND:
        work_put(w, 0, step->content.data, step->content.len);
        work_copy(w, 0, w->in.len);
        return OK;
    case NORM_REPLACE:
        return step_replace(w, step, err);
    case NORM_BYTE_LEVEL:
        for (size_t i = 0; i < w->in.len; i++) {
            char  tmp[4];
            int   n = utf8_encode(byte_map_char((uint8_t) w->in.data[i]), tmp);
            work_put(w, i + 1, tmp, (size_t) n);
        }
        return OK;
    }
    return OK;
}

/* Whether the step takes away the first character. */
static bool
loses_origin(const struct norm_step *step, struct str in)
{
    uint32_t  cp;
    if (in.len == 0) {
        return false;
    }
    (void) unicode_next(in.data, &cp);
    return (step->kind == NORM_STRIP && step->left && unicode_is_space(cp))
           || (step->kind == NORM_STRIP_ACCENTS && unicode_is_mark(cp));
}

int
normalizer_run(const struct normalizer *n, const struct norm_args *args,
               struct norm_result *result, struct err *err)
{
    struct str  text = args->text;
    size_t      which = 0;

    result->origin = true;
    for (size_t i = 0; i < n->num_steps; i++) {
        const struct norm_step  *step = &n->steps[i];
        if (is_noop(step, text)) {
            continue;
        }
        struct norm_work  w = { .args = args, .in = text,
                                .out = args->bufs[which],
                                .origin = !loses_origin(step, text) };
        buf_reset(w.out);
        if (!buf_reserve(w.out, text.len + 32)) {
            return err_set(err, "out of memory for %zu bytes of text",
                           text.len);
        }
        if (step_run(&w, step, err) != OK) {
            return ERROR;
        }
        if (w.out->failed || args->shadow->failed) {
            return err_set(err, "the normalised text is larger than %zu bytes",
                           w.out->limit_bytes);
        }
        result->origin = result->origin && w.origin;
        text = buf_str(w.out);
        which ^= 1;
    }
    result->text = text;
    return OK;
}
