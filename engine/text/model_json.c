/* model_json.c - a skipper for values, and a strict reader for lists of
 * strings and integers. */
#include "engine/text/model_json.h"

#include <string.h>
#include "engine/base/utf8.h"

static int
fail(const struct json_pull *p, const char *what)
{
    return err_set(p->err, "invalid JSON in model.vocab or model.merges at its "
                   "byte %zu: %s", (size_t) (p->p - p->start), what);
}

static const char *
skip_space(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')) {
        p++;
    }
    return p;
}

/* p at the opening quote; returns what follows the closing one, NULL when
 * there is none. */
static inline const char *
skip_string(const char *p, const char *end)
{
    for (p++; p < end; p++) {
        if (*p == '"') {
            return p + 1;
        }
        p += *p == '\\';
    }
    return NULL;
}

/* Any value; NULL when it does not end.  Only brackets and strings matter. */
static const char *
skip_value(const char *p, const char *end)
{
    static const uint8_t  kind[256] = {
        ['"'] = 1, ['{'] = 2, ['['] = 2, ['}'] = 3, [']'] = 3, [','] = 4
    };
    int  depth = 0;

    while (p < end) {
        switch (kind[(uint8_t) *p]) {
        case 0:
            p++;
            continue;
        case 1:
            p = skip_string(p, end);
            if (p == NULL) {
                return NULL;
            }
            break;
        case 2:
            depth++;
            p++;
            continue;
        case 3:
            if (depth == 0) {
                return p;
            }
            depth--;
            p++;
            break;
        default:
            if (depth == 0) {
                return p;
            }
            p++;
            continue;
        }
        if (depth == 0) {
            return p;
        }
    }
    return NULL;
}

/* What to find, on the way through the file. */
struct finder {
    struct str vocab, merges;
    bool       in_model;
};

/* Walks the members of the object at p: the file, and inside it the model; of
 * several with one name the last is taken, as in Python.  Returns what follows
 * the object, NULL when it is not one: json_parse() says later what is wrong.
 * Calls itself once. */
static const char *
find_members(const char *p, const char *end, struct finder *f)
{
    if (p == end || *p != '{') {
        return NULL;
    }
    p = skip_space(p + 1, end);
    while (p < end && *p == '"') {
        struct str  key = { .data = p + 1 };
        p = skip_string(p, end);
        if (p == NULL) {
            return NULL;
        }
        key.len = (size_t) (p - 1 - key.data);
        p = skip_space(p, end);
        if (p == end || *p != ':') {
            return NULL;
        }
        struct str  value = { .data = skip_space(p + 1, end) };
        bool  model = !f->in_model && str_eq(key, STR("model"));
        if (model) {
            *f = (struct finder) { .in_model = true };
            p = find_members(value.data, end, f);
            f->in_model = false;
        }
        if (!model || p == NULL) {
            p = skip_value(value.data, end);
        }
        if (p == NULL) {
            return NULL;
        }
        value.len = (size_t) (p - value.data);
        if (f->in_model && str_eq(key, STR("vocab"))) {
            f->vocab = value;
        } else if (f->in_model && str_eq(key, STR("merges"))) {
            f->merges = value;
        }
        p = skip_space(p, end);
        if (p == end || *p != ',') {
            break;
        }
        p = skip_space(p + 1, end);
    }
    return p < end && *p == '}' ? p + 1 : NULL;
}

int
model_json_split(struct model_json *out, struct str text, struct err *err)
{
    const char     *end = text.data + text.len;
    struct str      none = { NULL, 0 };
    struct finder   f = { .in_model = false };

    *out = (struct model_json) { 0 };
    buf_init(&out->rest, text.len + 16);
    (void) find_members(skip_space(text.data, end), end, &f);
    out->vocab = f.vocab;
    out->merges = f.merges;
    if (out->vocab.len == 0 || out->vocab.data[0] != '{') {
        out->vocab = none;
    }
    if (out->merges.len == 0 || out->merges.data[0] != '[') {
        out->merges = none;
    }
    const char  *from = text.data;
    bool         vocab_first = out->vocab.data != NULL
                               && (out->merges.data == NULL
                                   || out->vocab.data < out->merges.data);
    for (int k = 0; k < 2; k++) {
        bool        is_vocab = (k == 0) == vocab_first;
        struct str  part = is_vocab ? out->vocab : out->merges;
        if (part.data == NULL) {
            continue;
        }
        buf_append(&out->rest, from, (size_t) (part.data - from));
        buf_append_str(&out->rest, is_vocab ? STR("{}") : STR("[]"));
        from = part.data + part.len;
    }
    buf_append(&out->rest, from, (size_t) (end - from));
    return out->rest.failed ? err_set(err, "out of memory") : OK;
}

/* ---- pulling ----------------------------------------------------------------- */

void
json_pull_open(struct json_pull *p, struct str value, struct err *err)
{
    /* The text is the loader's own writable copy of the file. */
    char  *data;
    memcpy(&data, &value.data, sizeof data);
    *p = (struct json_pull) { .p = data + 1, .end = data + value.len,
                              .start = value.data, .first = true, .err = err };
}

static void
pull_space(struct json_pull *p)
{
    while (p->p < p->end && (*p->p == ' ' || *p->p == '\n' || *p->p == '\r'
                             || *p->p == '\t'))
    {
        p->p++;
    }
}

static bool
pull_char(struct json_pull *p, char c)
{
    pull_space(p);
    if (p->p < p->end && *p->p == c) {
        p->p++;
        return true;
    }
    return false;
}

static int
hex4(const char *p, const char *end)
{
    int  v = 0;
    if (end - p < 4) {
        return -1;
    }
    for (int i = 0; i < 4; i++) {
        char  c = p[i];
        int   d = c >= '0' && c <= '9' ? c - '0'
                  : c >= 'a' && c <= 'f' ? c - 'a' + 10
                  : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0) {
            return -1;
        }
        v = v << 4 | d;
    }
    return v;
}

/* \uXXXX with p->p after the u; a pair of surrogates is one character. */
static int
pull_unicode(struct json_pull *p, char **w)
{
    int       hi = hex4(p->p, p->end), lo;
    uint32_t  cp = (uint32_t) hi;

    if (hi < 0) {
        return fail(p, "a bad \\u escape");
    }
    p->p += 4;
    if (hi >= 0xD800 && hi <= 0xDFFF) {
        if (hi >= 0xDC00 || p->end - p->p < 6 || p->p[0] != '\\'
            || p->p[1] != 'u' || (lo = hex4(p->p + 2, p->end)) < 0xDC00
            || lo > 0xDFFF)
        {
            return fail(p, "a lone surrogate");
        }
        p->p += 6;
        cp = 0x10000u + ((uint32_t) (hi - 0xD800) << 10)
             + (uint32_t) (lo - 0xDC00);
    }
    *w += utf8_encode(cp, *w);
    return OK;
}

static int
pull_escape(struct json_pull *p, char **w)
{
    static const char  from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";

    if (p->p >= p->end) {
        return fail(p, "a string that does not end");
    }
    char  c = *p->p++;
    if (c == 'u') {
        return pull_unicode(p, w);
    }
    const char  *k = c == '\0' ? NULL : strchr(from, c);
    if (k == NULL) {
        return fail(p, "an unknown escape");
    }
    *(*w)++ = to[k - from];
    return OK;
}

/* A string; escapes are undone in place, which never needs more room. */
static int
pull_string(struct json_pull *p, struct str *out)
{
    if (!pull_char(p, '"')) {
        return fail(p, "a string is expected");
    }
    char  *start = p->p, *w = p->p;
    while (p->p < p->end && *p->p != '"') {
        if ((unsigned char) *p->p < 0x20) {
            return fail(p, "a control character in a string");
        }
        if (*p->p == '\\') {
            p->p++;
            if (pull_escape(p, &w) != OK) {
                return ERROR;
            }
        } else if (w == p->p) {
            w = ++p->p;
        } else {
            *w++ = *p->p++;
        }
    }
    if (p->p >= p->end) {
        return fail(p, "a string that does not end");
    }
    p->p++;
    *out = (struct str) { start, (size_t) (w - start) };
    return OK;
}

/* Before a member: AGAIN at the closing bracket. */
static int
pull_next(struct json_pull *p, char close)
{
    if (pull_char(p, close)) {
        return AGAIN;
    }
    if (!p->first && !pull_char(p, ',')) {
        return fail(p, "',' or the closing bracket is expected");
    }
    p->first = false;
    return OK;
}

int
json_pull_token(struct json_pull *p, struct str *token, int64_t *id)
{
    int  rc = pull_next(p, '}');

    if (rc != OK) {
        return rc;
    }
    if (pull_string(p, token) != OK) {
        return ERROR;
    }
    if (!pull_char(p, ':')) {
        return fail(p, "':' is expected");
    }
    pull_space(p);
    bool  digits = false;
    *id = 0;
    while (p->p < p->end && *p->p >= '0' && *p->p <= '9' && *id < 1 << 30) {
        *id = *id * 10 + (*p->p++ - '0');
        digits = true;
    }
    return digits ? OK : fail(p, "a token id is expected, an integer from 0");
}

int
json_pull_merge(struct json_pull *p, struct str side[2])
{
    int  rc = pull_next(p, ']');

    if (rc != OK) {
        return rc;
    }
    side[1] = (struct str) { NULL, 0 };
    if (!pull_char(p, '[')) {
        return pull_string(p, &side[0]);
    }
    if (pull_string(p, &side[0]) != OK) {
        return ERROR;
    }
    if (!pull_char(p, ',')) {
        return fail(p, "a merge has two sides");
    }
    if (pull_string(p, &side[1]) != OK) {
        return ERROR;
    }
    return pull_char(p, ']') ? OK : fail(p, "a merge has two sides");
}
