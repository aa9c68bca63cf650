/* jinja_print.c - Python's str() and repr(), json.dumps(), HTML escaping.
 *
 * Containers are walked with an explicit stack; taint is carried byte by
 * byte, so in '{"name": "..."}' only what the client sent is untrusted. */
#include "engine/text/jinja_int.h"
#include "engine/base/dtoa.h"
#include "engine/base/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- numbers -------------------------------------------------------------- */

static void
jv_print_i64(struct jinja_run *r, struct jv_room *b, int64_t v)
{
    char  text[24];
    int   n = snprintf(text, sizeof text, "%lld", (long long) v);
    jv_room_bytes(r, b, text, (size_t) n, false);
}

/* Python's repr: exponent from 1e16 up and below 1e-4, always a point or an
 * exponent. */
void
jinja_format_float(struct jv_room *b, struct jinja_run *r, double f)
{
    char  digits[DTOA_DIGITS_MAX + 1], text[64];
    int   point;
    size_t  n = 0;

    if (!isfinite(f)) {
        const char  *name = isnan(f) ? "nan" : f < 0 ? "-inf" : "inf";
        jv_room_bytes(r, b, name, strlen(name), false);
        return;
    }
    int  len = dtoa_shortest(f, digits, &point);
    if (signbit(f)) {
        text[n++] = '-';
    }
    if (point > 16 || point < -3) {
        text[n++] = digits[0];
        if (len > 1) {
            text[n++] = '.';
            memcpy(text + n, digits + 1, (size_t) len - 1);
            n += (size_t) len - 1;
        }
        n += (size_t) snprintf(text + n, sizeof text - n, "e%c%02d",
                               point > 0 ? '+' : '-', abs(point - 1));
    } else if (point <= 0) {
        text[n++] = '0';
        text[n++] = '.';
        memset(text + n, '0', (size_t) -point);
        n += (size_t) -point;
        memcpy(text + n, digits, (size_t) len);
        n += (size_t) len;
    } else {
        for (int i = 0; i < (point > len ? point : len); i++) {
            if (i == point) {
                text[n++] = '.';
            }
            text[n++] = i < len ? digits[i] : '0';
        }
        if (point >= len) {
            text[n++] = '.';
            text[n++] = '0';
        }
    }
    jv_room_bytes(r, b, text, n, false);
}

/* ---- strings ------------------------------------------------------------- */

/* Whether byte i is untrusted; *span moves forward with i. */
static bool
jv_tainted_at(const struct jv_str *s, size_t i, size_t *span)
{
    while (*span < s->num_spans && s->spans[*span].end <= i) {
        (*span)++;
    }
    return *span < s->num_spans && s->spans[*span].begin <= i;
}

/* Writes to esc what replaces cp, "" to keep it. */
typedef void (*jv_escaper)(uint32_t cp, char esc[24], char quote);

static void
jv_print_escaped(struct jinja_run *r, struct jv_room *b, const struct jv_str *s,
                 jv_escaper escape, char quote)
{
    size_t  done = 0, span = 0;
    char    esc[24];

    if (!jinja_charge(r, s->len)) {
        return;
    }
    for (size_t i = 0; i < s->len; ) {
        uint32_t  cp;
        size_t    n = (size_t) utf8_decode(s->data + i, &cp);
        esc[0] = '\0';
        escape(cp, esc, quote);
        if (esc[0] != '\0') {
            jv_room_piece(r, b, s, done, i);
            jv_room_bytes(r, b, esc, strlen(esc), jv_tainted_at(s, i, &span));
            done = i + n;
        }
        i += n;
    }
    jv_room_piece(r, b, s, done, s->len);
}

static void
jv_escape_repr(uint32_t cp, char esc[24], char quote)
{
    if (cp >= 0x20 && cp < 0x7F) {
        if (cp == '\\' || cp == (unsigned char) quote) {
            (void) snprintf(esc, 24, "\\%c", (char) cp);
        }
    } else if (cp == '\n' || cp == '\r' || cp == '\t') {
        (void) snprintf(esc, 24, "\\%c", cp == '\n' ? 'n' : cp == '\r' ? 'r'
                                                                       : 't');
    } else if (!jinja_is_printable(cp)) {
        (void) snprintf(esc, 24, cp < 0x100 ? "\\x%02x" : cp < 0x10000
                        ? "\\u%04x" : "\\U%08x", cp);
    }
}

static void
jv_escape_json(uint32_t cp, char esc[24], char ascii)
{
    static const char  from[] = "\"\\\n\r\t\f\b";
    static const char  to[] = "\"\\nrtfb";

    if (cp < 0x80) {
        const char  *q = cp == 0 ? NULL : strchr(from, (int) cp);
        if (q != NULL) {
            (void) snprintf(esc, 24, "\\%c", to[q - from]);
        } else if (cp < 0x20 || (ascii && cp == 0x7F)) {
            (void) snprintf(esc, 24, "\\u%04x", cp);
        }
    } else if (ascii && cp < 0x10000) {
        (void) snprintf(esc, 24, "\\u%04x", cp);
    } else if (ascii) {
        cp -= 0x10000;
        (void) snprintf(esc, 24, "\\u%04x\\u%04x", 0xD800 + (cp >> 10),
                        0xDC00 + (cp & 0x3FF));
    }
}

static void
jv_escape_html(uint32_t cp, char esc[24], char quote)
{
    const char  *to = cp == '&' ? "&amp;" : cp == '<' ? "&lt;"
                      : cp == '>' ? "&gt;" : cp == '"' ? "&#34;"
                      : cp == '\'' ? "&#39;" : "";
    (void) quote;
    (void) snprintf(esc, 24, "%s", to);
}

static void
jv_repr_str(struct jinja_run *r, struct jv_room *b, const struct jv_str *s)
{
    bool  single = s->len > 0 && memchr(s->data, '\'', s->len) != NULL;
    bool  twice = s->len > 0 && memchr(s->data, '"', s->len) != NULL;
    char  quote = single && !twice ? '"' : '\'';

    if (s->markup) {
        jv_room_lit(r, b, "Markup(");
    }
    jv_room_bytes(r, b, &quote, 1, false);
    jv_print_escaped(r, b, s, jv_escape_repr, quote);
    jv_room_bytes(r, b, &quote, 1, false);
    if (s->markup) {
        jv_room_lit(r, b, ")");
    }
}

struct jv
jinja_escape(struct jinja_run *r, struct jv v)
{
    v = jv_to_str(r, v);
    if (r->failed || v.str->markup) {
        return v;
    }
    struct jv_room  *b = jv_room_new(r, v.str->len);
    if (b == NULL) {
        return jv_undefined();
    }
    jv_print_escaped(r, b, v.str, jv_escape_html, 0);
    return jv_room_str(r, b, true);
}

/* ---- walking containers --------------------------------------------------- */

struct jv_frame {
    struct jv  v;
    size_t     i, num;      /* children done, children; a dict has 2 a member */
};

static bool
jv_is_container(struct jv v)
{
    return v.type == JV_LIST || v.type == JV_TUPLE || v.type == JV_DICT
           || v.type == JV_NAMESPACE || v.type == JV_VIEW;
}

static size_t
jv_num_children(struct jv v)
{
    switch (v.type) {
    case JV_LIST:
    case JV_TUPLE:
        return v.list->len;
    case JV_VIEW:
        return v.view->dict->len;
    default:
        return v.dict->len * 2;
    }
}

static struct jv
jv_child(struct jinja_run *r, struct jv v, size_t i)
{
    if (v.type == JV_LIST || v.type == JV_TUPLE) {
        return v.list->items[i];
    }
    if (v.type != JV_VIEW) {
        return i % 2 == 0 ? v.dict->keys[i / 2] : v.dict->vals[i / 2];
    }
    const struct jv_dict  *d = v.view->dict;
    if (v.view->kind != JV_VIEW_ITEMS) {
        return v.view->kind == JV_VIEW_KEYS ? d->keys[i] : d->vals[i];
    }
    struct jv  pair = jv_list_new(r, JV_TUPLE, 2);
    (void) jv_list_push(r, &pair, d->keys[i]);
    (void) jv_list_push(r, &pair, d->vals[i]);
    return pair;
}

static bool
jv_push_frame(struct jinja_run *r, struct jv_frame *stack, size_t *depth,
              struct jv v)
{
    if (*depth == JINJA_DATA_DEPTH_MAX) {
        (void) jinja_fail(r, "value nested more than %d deep",
                          JINJA_DATA_DEPTH_MAX);
        return false;
    }
    stack[(*depth)++] = (struct jv_frame) { v, 0, jv_num_children(v) };
    return true;
}

static void
jv_put(struct jinja_run *r, struct jv_room *b, const char *s)
{
    jv_room_bytes(r, b, s, strlen(s), false);
}

/* ---- repr ---------------------------------------------------------------- */

static void
jv_repr_range(struct jinja_run *r, struct jv_room *b, const struct jv_range *g)
{
    jv_put(r, b, "range(");
    jv_print_i64(r, b, g->start);
    jv_put(r, b, ", ");
    jv_print_i64(r, b, g->stop);
    if (g->step != 1) {
        jv_put(r, b, ", ");
        jv_print_i64(r, b, g->step);
    }
    jv_put(r, b, ")");
}

static void
jv_repr_scalar(struct jinja_run *r, struct jv_room *b, struct jv v)
{
    switch (v.type) {
    case JV_NONE:
        jv_put(r, b, "None");
        break;
    case JV_BOOL:
        jv_put(r, b, v.b ? "True" : "False");
        break;
    case JV_INT:
        jv_print_i64(r, b, v.i);
        break;
    case JV_BIG:
        jv_room_piece(r, b, v.str, 0, v.str->len);
        break;
    case JV_FLOAT:
        jinja_format_float(b, r, v.f);
        break;
    case JV_STR:
        jv_repr_str(r, b, v.str);
        break;
    case JV_RANGE:
        jv_repr_range(r, b, v.range);
        break;
    case JV_MISSING:
    case JV_UNDEFINED:
        jv_put(r, b, "Undefined");
        break;
    case JV_MACRO:
        jv_put(r, b, "<Macro '");
        jv_room_bytes(r, b, v.macro->name.data, v.macro->name.len, false);
        jv_put(r, b, "'>");
        break;
    case JV_LOOP:
        jv_put(r, b, "<LoopContext ");
        jv_print_i64(r, b, (int64_t) v.loop->index0 + 1);
        jv_put(r, b, "/");
        jv_print_i64(r, b, jinja_loop_attr(r, v.loop, STR("length")).i);
        jv_put(r, b, ">");
        break;
    default:
        /* Python prints an address here, which nobody can rely on. */
        jv_put(r, b, "<");
        jv_put(r, b, jv_type_name(v));
        jv_put(r, b, " object>");
    }
}

static void
jv_repr_open(struct jinja_run *r, struct jv_room *b, struct jv v)
{
    if (v.type == JV_VIEW) {
        jv_put(r, b, jv_type_name(v));
        jv_put(r, b, "([");
    } else {
        jv_put(r, b, v.type == JV_LIST ? "[" : v.type == JV_TUPLE ? "("
                     : v.type == JV_DICT ? "{" : "<Namespace {");
    }
}

static void
jv_repr_close(struct jinja_run *r, struct jv_room *b, struct jv v)
{
    if (v.type == JV_TUPLE) {
        jv_put(r, b, v.list->len == 1 ? ",)" : ")");
    } else {
        jv_put(r, b, v.type == JV_LIST ? "]" : v.type == JV_VIEW ? "])"
                     : v.type == JV_DICT ? "}" : "}>");
    }
}

void
jv_print_repr(struct jinja_run *r, struct jv_room *b, struct jv v)
{
    struct jv_frame  stack[JINJA_DATA_DEPTH_MAX];
    size_t           depth = 0;

    if (!jv_is_container(v)) {
        jv_repr_scalar(r, b, v);
        return;
    }
    jv_repr_open(r, b, v);
    (void) jv_push_frame(r, stack, &depth, v);
    while (depth > 0 && jinja_charge(r, 8)) {
        struct jv_frame  *f = &stack[depth - 1];
        if (f->i == f->num) {
            jv_repr_close(r, b, f->v);
            depth--;
            continue;
        }
        bool  map = f->v.type == JV_DICT || f->v.type == JV_NAMESPACE;
        if (f->i > 0) {
            jv_put(r, b, map && f->i % 2 == 1 ? ": " : ", ");
        }
        struct jv  child = jv_child(r, f->v, f->i++);
        if (jv_is_container(child)) {
            jv_repr_open(r, b, child);
            (void) jv_push_frame(r, stack, &depth, child);
        } else {
            jv_repr_scalar(r, b, child);
        }
    }
}

void
jv_print(struct jinja_run *r, struct jv_room *b, struct jv v)
{
    if (v.type == JV_STR) {
        jv_room_piece(r, b, v.str, 0, v.str->len);
    } else if (v.type != JV_UNDEFINED && v.type != JV_MISSING) {
        jv_print_repr(r, b, v);
    }
}

struct jv
jv_to_str(struct jinja_run *r, struct jv v)
{
    if (v.type == JV_STR) {
        return v;
    }
    struct jv_room  *b = jv_room_new(r, 0);
    if (b == NULL) {
        return jv_str_lit(r, "");
    }
    jv_print(r, b, v);
    return jv_room_str(r, b, false);
}

struct jv
jv_to_plain(struct jinja_run *r, struct jv v)
{
    return jv_str_as_markup(r, jv_to_str(r, v), false);
}

/* ---- JSON ---------------------------------------------------------------- */

static void
jv_json_str(struct jinja_run *r, struct jv_room *b, const struct jv_str *s,
            bool ascii)
{
    jv_put(r, b, "\"");
    jv_print_escaped(r, b, s, jv_escape_json, ascii);
    jv_put(r, b, "\"");
}

static void
jv_json_scalar(struct jinja_run *r, struct jv_room *b, struct jv v, bool ascii)
{
    switch (v.type) {
    case JV_NONE:
        jv_put(r, b, "null");
        break;
    case JV_BOOL:
        jv_put(r, b, v.b ? "true" : "false");
        break;
    case JV_FLOAT:
        if (!isfinite(v.f)) {
            jv_put(r, b, isnan(v.f) ? "NaN" : v.f < 0 ? "-Infinity"
                                                      : "Infinity");
            break;
        }
        jv_repr_scalar(r, b, v);
        break;
    case JV_INT:
    case JV_BIG:
        jv_repr_scalar(r, b, v);
        break;
    case JV_STR:
        jv_json_str(r, b, v.str, ascii);
        break;
    default:
        (void) jinja_fail(r, "Object of type %s is not JSON serializable",
                          jv_type_name(v));
    }
}

/* Keys that are no strings become strings, as in Python. */
static void
jv_json_key(struct jinja_run *r, struct jv_room *b, struct jv v, bool ascii)
{
    if (v.type == JV_STR) {
        jv_json_str(r, b, v.str, ascii);
    } else if (jv_is_number(v) || v.type == JV_NONE) {
        jv_put(r, b, "\"");
        jv_json_scalar(r, b, v, ascii);
        jv_put(r, b, "\"");
    } else {
        (void) jinja_fail(r, "keys must be str, int, float, bool or None, not "
                          "%s", jv_type_name(v));
    }
}

static void
jv_json_newline(struct jinja_run *r, struct jv_room *b,
                const struct jinja_json_style *style, size_t depth)
{
    if (style->pretty) {
        jv_put(r, b, "\n");
        for (size_t i = 0; i < depth; i++) {
            jv_print(r, b, style->indent);
        }
    }
}

/* Insertion sort is enough: keys are few and mostly sorted; a long object
 * costs steps. */
static struct jv
jv_json_sorted(struct jinja_run *r, struct jv v)
{
    struct jv  out = jv_dict_new(r, JV_DICT);

    for (size_t i = 0; i < v.dict->len; i++) {
        (void) jv_dict_set(r, out.dict, v.dict->keys[i], v.dict->vals[i]);
    }
    for (size_t i = 1; !r->failed && i < out.dict->len; i++) {
        struct jv  key = out.dict->keys[i], val = out.dict->vals[i];
        size_t     k = i;
        while (k > 0 && jinja_charge(r, 32)
               && jv_compare(r, key, out.dict->keys[k - 1], "<") < 0)
        {
            out.dict->keys[k] = out.dict->keys[k - 1];
            out.dict->vals[k] = out.dict->vals[k - 1];
            k--;
        }
        out.dict->keys[k] = key;
        out.dict->vals[k] = val;
    }
    return r->failed ? jv_undefined() : out;
}

static void
jv_json_open(struct jinja_run *r, struct jv_room *b, struct jv_frame *stack,
             size_t *depth, const struct jinja_json_style *style)
{
    struct jv_frame  *f = &stack[*depth - 1];

    if (f->v.type == JV_VIEW || f->v.type == JV_NAMESPACE) {
        (void) jinja_fail(r, "Object of type %s is not JSON serializable",
                          jv_type_name(f->v));
        return;
    }
    if (f->num == 0) {
        jv_put(r, b, f->v.type == JV_DICT ? "{}" : "[]");
        (*depth)--;
        return;
    }
    if (style->sort_keys && f->v.type == JV_DICT) {
        f->v = jv_json_sorted(r, f->v);
    }
    jv_put(r, b, f->v.type == JV_DICT ? "{" : "[");
}

struct jv
jv_to_json(struct jinja_run *r, struct jv v,
           const struct jinja_json_style *style)
{
    struct jv_frame  stack[JINJA_DATA_DEPTH_MAX];
    size_t           depth = 0;
    struct jv_room  *b = jv_room_new(r, 64);

    if (b == NULL) {
        return jv_undefined();
    }
    if (jv_is_container(v)) {
        (void) jv_push_frame(r, stack, &depth, v);
        jv_json_open(r, b, stack, &depth, style);
    } else {
        jv_json_scalar(r, b, v, style->ascii);
    }
    while (depth > 0 && jinja_charge(r, 8)) {
        struct jv_frame  *f = &stack[depth - 1];
        bool              dict = f->v.type == JV_DICT;
        if (f->i == f->num) {
            jv_json_newline(r, b, style, depth - 1);
            jv_put(r, b, dict ? "}" : "]");
            depth--;
            continue;
        }
        if (f->i > 0) {
            jv_print(r, b, style->item_sep);
        }
        jv_json_newline(r, b, style, depth);
        if (dict) {
            jv_json_key(r, b, jv_child(r, f->v, f->i++), style->ascii);
            jv_print(r, b, style->key_sep);
        }
        struct jv  child = jv_child(r, f->v, f->i++);
        if (!jv_is_container(child)) {
            jv_json_scalar(r, b, child, style->ascii);
        } else if (jv_push_frame(r, stack, &depth, child)) {
            jv_json_open(r, b, stack, &depth, style);
        }
    }
    return r->failed ? jv_undefined() : jv_room_str(r, b, false);
}
