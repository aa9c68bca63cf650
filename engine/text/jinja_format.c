/* jinja_format.c - "%s" % x and "{}".format(x).
 *
 * The printf form has Python's conversions d i u s r a c x X o e E f F g G %;
 * the brace form takes positions, names, attributes, subscripts, !r !s and
 * format specs of strings and numbers. */
#include "engine/text/jinja_int.h"
#include "engine/base/utf8.h"

#include <math.h>
#include <stdio.h>

#define JINJA_FORMAT_WIDTH_MAX  100000

struct jinja_spec {
    char     fill[4];
    int      fill_len;
    char     align;         /* '<' '>' '^' '=' or 0 */
    char     sign;          /* '+' ' ' or '-' */
    bool     alt, comma;
    int      width, precision;      /* -1: not given */
    char     type;          /* conversion, 0: none */
};

/* Pads `body` (with `head` characters of sign and prefix in front). */
static void
jinja_put_padded(struct jinja_run *r, struct jv_room *b,
                 const struct jinja_spec *s, const struct jv_str *body,
                 size_t head)
{
    size_t  chars = jv_str_num_chars(r, body);
    size_t  pad = s->width > 0 && (size_t) s->width > chars
                  ? (size_t) s->width - chars : 0;
    size_t  left = s->align == '<' ? 0 : s->align == '^' ? pad / 2 : pad;

    if (s->align == '=') {
        jv_room_piece(r, b, body, 0, head);
    } else {
        head = 0;
    }
    for (size_t i = 0; i < left; i++) {
        jv_room_bytes(r, b, s->fill, (size_t) s->fill_len, false);
    }
    jv_room_piece(r, b, body, head, body->len);
    for (size_t i = left; i < pad; i++) {
        jv_room_bytes(r, b, s->fill, (size_t) s->fill_len, false);
    }
}

static size_t
jinja_group_digits(char *text, size_t len, size_t cap)
{
    size_t  begin = len > 0 && (text[0] == '-' || text[0] == '+'
                                || text[0] == ' ') ? 1 : 0;
    size_t  end = begin;
    while (end < len && text[end] >= '0' && text[end] <= '9') {
        end++;
    }
    for (size_t i = end; i > begin + 3 && len + 1 < cap; ) {
        i -= 3;
        memmove(text + i + 1, text + i, len - i);
        text[i] = ',';
        len++;
    }
    return len;
}

/* A number as text in `out`; returns its length, 0 on failure. */
static size_t
jinja_number_text(struct jinja_run *r, const struct jinja_spec *s, struct jv v,
                  char *out, size_t cap)
{
    int  n = 0;

    if (s->type == 'd' || s->type == 'x' || s->type == 'X' || s->type == 'o'
        || s->type == 'b')
    {
        int64_t   i = v.type == JV_FLOAT ? (int64_t) v.f
                      : v.type == JV_BOOL ? v.b : v.i;
        uint64_t  u = i < 0 ? 0 - (uint64_t) i : (uint64_t) i;
        char      digits[72];
        size_t    k = sizeof digits;
        unsigned  base = s->type == 'd' ? 10 : s->type == 'o' ? 8
                         : s->type == 'b' ? 2 : 16;
        do {
            digits[--k] = (s->type == 'X' ? "0123456789ABCDEF"
                                          : "0123456789abcdef")[u % base];
            u /= base;
        } while (u != 0);
        n = snprintf(out, cap, "%s%s%.*s", i < 0 ? "-" : s->sign == '+' ? "+"
                     : s->sign == ' ' ? " " : "",
                     !s->alt || base == 10 ? "" : base == 8 ? "0o"
                     : base == 2 ? "0b" : s->type == 'X' ? "0X" : "0x",
                     (int) (sizeof digits - k), digits + k);
    } else {
        double  f = v.type == JV_FLOAT ? v.f : v.type == JV_BOOL ? v.b
                                                                 : (double) v.i;
        char    fmt[16];
        bool    percent = s->type == '%';
        (void) snprintf(fmt, sizeof fmt, "%%%s%s.*%c",
                        s->sign == '+' ? "+" : s->sign == ' ' ? " " : "",
                        s->alt ? "#" : "", percent ? 'f' : s->type);
        n = snprintf(out, cap, fmt, s->precision < 0 ? 6 : s->precision,
                     percent ? f * 100 : f);
        if (percent && n > 0 && (size_t) n + 1 < cap) {
            out[n++] = '%';
        }
    }
    if (n < 0 || (size_t) n >= cap) {
        (void) jinja_fail(r, "number too long to format");
        return 0;
    }
    return s->comma ? jinja_group_digits(out, (size_t) n, cap) : (size_t) n;
}

static void
jinja_put_number(struct jinja_run *r, struct jv_room *b,
                 const struct jinja_spec *s, struct jv v)
{
    char  text[600];

    if (v.type == JV_BIG) {
        jinja_put_padded(r, b, s, v.str, v.str->data[0] == '-');
        return;
    }
    size_t  n = jinja_number_text(r, s, v, text, sizeof text);
    const struct jv_str  body = { .data = text, .len = n };
    size_t  head = n > 0 && (text[0] == '-' || text[0] == '+'
                             || text[0] == ' ');
    if (s->alt && n > head + 1 && text[head] == '0' && s->type != 'd'
        && (text[head + 1] < '0' || text[head + 1] > '9')
        && text[head + 1] != '.')
    {
        head += 2;
    }
    jinja_put_padded(r, b, s, &body, head);
}

static void
jinja_put_text(struct jinja_run *r, struct jv_room *b,
               const struct jinja_spec *s, struct jv v)
{
    if (s->precision >= 0 && !r->failed) {
        v = jv_str_piece(r, v.str, 0,
                         jv_str_offset(r, v.str, (size_t) s->precision));
    }
    if (!r->failed) {
        jinja_put_padded(r, b, s, v.str, 0);
    }
}

static struct jv
jinja_repr_of(struct jinja_run *r, struct jv v)
{
    struct jv_room  *b = jv_room_new(r, 0);
    if (b == NULL) {
        return jv_str_lit(r, "");
    }
    jv_print_repr(r, b, v);
    return jv_room_str(r, b, false);
}

static int
jinja_scan_int(const struct jv_str *f, size_t *i)
{
    int  v = -1;
    while (*i < f->len && f->data[*i] >= '0' && f->data[*i] <= '9') {
        v = (v < 0 ? 0 : v) * 10 + (f->data[*i] - '0');
        v = v > JINJA_FORMAT_WIDTH_MAX ? JINJA_FORMAT_WIDTH_MAX : v;
        (*i)++;
    }
    return v;
}

/* ---- % ---------------------------------------------------------------------- */

struct jinja_percent {
    struct jinja_run    *r;
    const struct jv_str *f;
    struct jv            args;
    size_t               next;      /* position in a tuple */
    bool                 markup;
};

static struct jv
jinja_percent_next(struct jinja_percent *p)
{
    size_t  num = p->args.type == JV_TUPLE ? p->args.list->len : 1;
    if (p->next >= num) {
        return jinja_fail(p->r, "not enough arguments for format string");
    }
    p->next++;
    return p->args.type == JV_TUPLE ? p->args.list->items[p->next - 1]
                                    : p->args;
}

/* "%(name)": the value under that key. */
static struct jv
jinja_percent_named(struct jinja_percent *p, size_t *i)
{
    size_t  begin = ++*i;
    while (*i < p->f->len && p->f->data[*i] != ')') {
        (*i)++;
    }
    if (*i == p->f->len || p->args.type != JV_DICT) {
        return jinja_fail(p->r, "format requires a mapping");
    }
    struct str  name = { p->f->data + begin, *i - begin };
    (*i)++;
    const struct jv  *v = jv_dict_find_str(p->r, p->args.dict, name);
    p->next = 1;
    return v != NULL ? *v : jinja_fail(p->r, "'%.*s'", STR_ARG(name));
}

static int
jinja_percent_width(struct jinja_percent *p, size_t *i)
{
    int64_t  v;
    if (*i < p->f->len && p->f->data[*i] == '*') {
        (*i)++;
        if (!jinja_arg_int(p->r, jinja_percent_next(p), &v)) {
            return -1;
        }
        return v > JINJA_FORMAT_WIDTH_MAX ? JINJA_FORMAT_WIDTH_MAX
               : v < 0 ? 0 : (int) v;
    }
    return jinja_scan_int(p->f, i);
}

static void
jinja_percent_put(struct jinja_percent *p, struct jv_room *b,
                  struct jinja_spec *s, struct jv v)
{
    struct jinja_run  *r = p->r;

    switch (s->type) {
    case 's':
    case 'r':
    case 'a':
        v = s->type == 's' ? jv_to_str(r, v) : jinja_repr_of(r, v);
        if (p->markup) {
            v = jinja_escape(r, v);
        }
        jinja_put_text(r, b, s, v);
        break;
    case 'c':
        if (v.type == JV_INT && v.i >= 0 && v.i <= 0x10FFFF
            && !(v.i >= 0xD800 && v.i <= 0xDFFF))
        {
            char  text[4];
            v = jv_str_copy(r, (struct str) { text, (size_t)
                            utf8_encode((uint32_t) v.i, text) }, false);
        }
        if (v.type != JV_STR || jv_str_num_chars(r, v.str) != 1) {
            (void) jinja_fail(r, "%%c requires int or char");
            return;
        }
        jinja_put_text(r, b, s, v);
        break;
    default:
        if (strchr("diuxXoeEfFgG", s->type) == NULL) {
            (void) jinja_fail(r, "unsupported format character '%c'", s->type);
            return;
        }
        if (s->type == 'i' || s->type == 'u') {
            s->type = 'd';
        }
        if (!jv_is_number(v)
            || (v.type == JV_FLOAT && strchr("xXo", s->type) != NULL))
        {
            (void) jinja_fail(r, "%%%c format: a number is required, not %s",
                              s->type, jv_type_name(v));
            return;
        }
        jinja_put_number(r, b, s, v);
    }
}

static void
jinja_percent_one(struct jinja_percent *p, struct jv_room *b, size_t *i)
{
    struct jinja_spec  s = { .fill = " ", .fill_len = 1, .align = '>',
                             .width = -1, .precision = -1 };
    struct jv          v = jv_missing();
    bool               left = false, zero = false;

    if (*i < p->f->len && p->f->data[*i] == '(') {
        v = jinja_percent_named(p, i);
    }
    for (; *i < p->f->len && p->f->data[*i] != '\0'
           && strchr("#0- +", p->f->data[*i]) != NULL; (*i)++)
    {
        char  c = p->f->data[*i];
        s.alt |= c == '#';
        zero |= c == '0';
        left |= c == '-';
        s.sign = c == '+' ? '+' : c == ' ' && s.sign != '+' ? ' ' : s.sign;
    }
    s.width = jinja_percent_width(p, i);
    if (*i < p->f->len && p->f->data[*i] == '.') {
        (*i)++;
        s.precision = jinja_percent_width(p, i);
        s.precision = s.precision < 0 ? 0 : s.precision;
    }
    while (*i < p->f->len && p->f->data[*i] != '\0'
           && strchr("hlL", p->f->data[*i]) != NULL)
    {
        (*i)++;
    }
    if (*i == p->f->len) {
        (void) jinja_fail(p->r, "incomplete format");
        return;
    }
    s.type = p->f->data[(*i)++];
    if (s.type == '%') {
        jv_room_lit(p->r, b, "%");
        return;
    }
    if (v.type == JV_MISSING) {
        v = jinja_percent_next(p);
    }
    s.align = left ? '<' : zero && strchr("sra", s.type) == NULL ? '=' : '>';
    s.fill[0] = s.align == '=' ? '0' : ' ';
    if (s.precision > 500) {
        s.precision = 500;
    }
    if (!p->r->failed && s.type != '\0') {
        jinja_percent_put(p, b, &s, v);
    }
}

struct jv
jinja_str_percent(struct jinja_run *r, struct jv fmt, struct jv args)
{
    struct jinja_percent   p = { r, fmt.str, args, 0, fmt.str->markup };
    struct jv_room        *b = jv_room_new(r, fmt.str->len + 32);
    size_t                 done = 0;

    for (size_t i = 0; i < fmt.str->len && !r->failed && b != NULL; ) {
        if (fmt.str->data[i] != '%') {
            i++;
            continue;
        }
        jv_room_piece(r, b, fmt.str, done, i);
        i++;
        jinja_percent_one(&p, b, &i);
        done = i;
    }
    if (r->failed) {
        return jv_undefined();
    }
    jv_room_piece(r, b, fmt.str, done, fmt.str->len);
    /* What has subscripts counts as a mapping, of which not all need be used. */
    bool  mapping = args.type == JV_DICT || args.type == JV_LIST
                    || args.type == JV_RANGE || args.type == JV_UNDEFINED;
    if (!mapping
        && p.next < (args.type == JV_TUPLE ? args.list->len : 1))
    {
        return jinja_fail(r, "not all arguments converted during string "
                          "formatting");
    }
    return jv_room_str(r, b, fmt.str->markup);
}

/* ---- {} ---------------------------------------------------------------------- */

/* [[fill]align][sign][#][0][width][,][.precision][type] */
static bool
jinja_parse_spec(struct jinja_run *r, const struct jv_str *f,
                 struct jinja_spec *s)
{
    size_t    i = 0, n = 0;
    uint32_t  cp;

    *s = (struct jinja_spec) { .fill = " ", .fill_len = 1, .width = -1,
                               .precision = -1 };
    if (f->len > 0) {
        n = (size_t) utf8_decode(f->data, &cp);
    }
    if (n > 0 && n < f->len && f->data[n] != '\0'
        && strchr("<>^=", f->data[n]) != NULL)
    {
        memcpy(s->fill, f->data, n);
        s->fill_len = (int) n;
        s->align = f->data[n];
        i = n + 1;
    } else if (f->len > 0 && f->data[0] != '\0'
               && strchr("<>^=", f->data[0]) != NULL)
    {
        s->align = f->data[i++];
    }
    if (i < f->len && (f->data[i] == '+' || f->data[i] == '-'
                       || f->data[i] == ' '))
    {
        s->sign = f->data[i++];
    }
    if (i < f->len && f->data[i] == '#') {
        s->alt = true;
        i++;
    }
    if (i < f->len && f->data[i] == '0' && s->align == 0) {
        s->fill[0] = '0';
        s->align = '=';
        i++;
    }
    s->width = jinja_scan_int(f, &i);
    if (i < f->len && f->data[i] == ',') {
        s->comma = true;
        i++;
    }
    if (i < f->len && f->data[i] == '.') {
        i++;
        s->precision = jinja_scan_int(f, &i);
        s->precision = s->precision > 500 ? 500 : s->precision;
    }
    if (i < f->len) {
        s->type = f->data[i++];
    }
    if (i != f->len) {
        (void) jinja_fail(r, "Invalid format specifier");
    }
    return !r->failed;
}

static void
jinja_put_spec(struct jinja_run *r, struct jv_room *b, struct jv v,
               const struct jv_str *spec)
{
    struct jinja_spec  s;

    if (spec->len == 0) {
        jv_print(r, b, v);
        return;
    }
    if (!jinja_parse_spec(r, spec, &s)) {
        return;
    }
    bool  number = jv_is_number(v) && !(v.type == JV_BOOL && s.type == 0);
    if (number) {
        if (s.type == 0) {
            s.type = v.type != JV_FLOAT ? 'd' : s.precision >= 0 ? 'g' : 0;
        }
        s.align = s.align == 0 ? '>' : s.align;
        if (s.type == 'n') {
            s.type = v.type == JV_FLOAT ? 'g' : 'd';
        }
        if (s.type == 0) {
            jinja_put_text(r, b, &s, jv_to_str(r, v));
        } else if (strchr("dxXobeEfFgG%", s.type) == NULL
                   || (v.type == JV_FLOAT
                       && strchr("dxXob", s.type) != NULL))
        {
            (void) jinja_fail(r, "Unknown format code '%c' for object of type "
                              "'%s'", s.type, jv_type_name(v));
        } else {
            jinja_put_number(r, b, &s, v);
        }
        return;
    }
    if (v.type != JV_STR && v.type != JV_BOOL) {
        (void) jinja_fail(r, "unsupported format string passed to "
                          "%s.__format__", jv_type_name(v));
        return;
    }
    if (s.type != 0 && s.type != 's') {
        (void) jinja_fail(r, "Unknown format code '%c' for object of type "
                          "'str'", s.type);
        return;
    }
    s.align = s.align == 0 ? '<' : s.align;
    jinja_put_text(r, b, &s, jv_to_str(r, v));
}

/* The value of a field name: "", "0", "name", then .attr and [key]. */
static struct jv
jinja_field_value(struct jinja_run *r, const struct jv_args *a,
                  const struct jv_str *name, size_t *automatic)
{
    size_t     i = 0;
    int64_t    idx = -1;
    struct jv  v = jv_missing();

    while (i < name->len && name->data[i] != '.' && name->data[i] != '[') {
        i++;
    }
    struct str  head = { name->data, i };
    if (head.len == 0) {
        idx = (int64_t) (*automatic)++;
    } else if (!jinja_parse_int(head, 10, &idx)) {
        for (size_t k = 0; k < a->num_kw; k++) {
            if (str_eq(a->kw_names[k], head)) {
                v = a->kw[k];
            }
        }
    }
    if (idx >= 0 && (size_t) idx < a->num) {
        v = a->pos[idx];
    }
    if (v.type == JV_MISSING) {
        return jinja_fail(r, "format(): no argument for field '%.*s'",
                          STR_ARG(head));
    }
    while (i < name->len && !r->failed) {
        bool    item = name->data[i] == '[';
        size_t  begin = ++i;
        while (i < name->len && (item ? name->data[i] != ']'
                                      : name->data[i] != '.'
                                        && name->data[i] != '['))
        {
            i++;
        }
        struct str  part = { name->data + begin, i - begin };
        struct jv   key = item && jinja_parse_int(part, 10, &idx)
                          ? jv_int(idx) : jv_str_ref(r, part, false);
        v = item ? jinja_getitem(r, v, key) : jinja_getattr(r, v, key);
        i += item;
    }
    return v;
}

struct jinja_braces {
    const struct jv_str  *f;
    const struct jv_args *args;
    size_t                automatic;    /* next "{}" */
};

/* One "{name!conversion:spec}", from after the brace; returns its end. */
static size_t
jinja_format_field(struct jinja_run *r, struct jv_room *b,
                   struct jinja_braces *s, size_t i)
{
    const struct jv_str  *f = s->f;
    size_t                end = i, bang, colon;

    while (end < f->len && f->data[end] != '}' && f->data[end] != '{') {
        end++;
    }
    if (end == f->len || f->data[end] == '{') {
        (void) jinja_fail(r, "expected '}' before end of string");
        return f->len;
    }
    colon = i;
    while (colon < end && f->data[colon] != ':') {
        colon++;
    }
    bang = i;
    while (bang < colon && f->data[bang] != '!') {
        bang++;
    }
    const struct jv_str  name = { .data = f->data + i, .len = bang - i };
    const struct jv_str  spec = {
        .data = f->data + (colon < end ? colon + 1 : end),
        .len = colon < end ? end - colon - 1 : 0
    };
    struct jv  v = jinja_field_value(r, s->args, &name, &s->automatic);
    if (bang < colon && !r->failed) {
        v = f->data[bang + 1] == 'r' ? jinja_repr_of(r, v) : jv_to_str(r, v);
    }
    if (f->markup && !r->failed) {
        v = jinja_escape(r, v);
    }
    if (!r->failed) {
        jinja_put_spec(r, b, v, &spec);
    }
    return end + 1;
}

struct jv
jinja_str_format(struct jinja_run *r, struct jv self, const struct jv_args *a)
{
    struct jinja_braces   s = { self.str, a, 0 };
    struct jv_room       *b = jv_room_new(r, self.str->len + 32);
    const struct jv_str  *f = self.str;

    for (size_t i = 0; i < f->len && !r->failed && b != NULL; ) {
        char  c = f->data[i];
        if (c != '{' && c != '}') {
            jv_room_piece(r, b, f, i, i + 1);
            i++;
        } else if (i + 1 < f->len && f->data[i + 1] == c) {
            jv_room_piece(r, b, f, i, i + 1);
            i += 2;
        } else if (c == '}') {
            return jinja_fail(r, "Single '}' encountered in format string");
        } else {
            i = jinja_format_field(r, b, &s, i + 1);
        }
    }
    return r->failed ? jv_undefined() : jv_room_str(r, b, f->markup);
}
