/* jinja_filters.c - filters of single values, and the table of all names.
 *
 * What a filter does to Markup follows jinja2 with autoescape off: most keep
 * it, join, replace, title and ~ drop it. */
#include "engine/text/jinja_int.h"
#include "engine/base/utf8.h"

#include <math.h>
#include <stdio.h>

#define GIVEN(v)  ((v).type != JV_MISSING && (v).type != JV_NONE)

static struct jv
f_length(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    size_t  len;
    (void) s;
    if (!jv_len(r, in, &len)) {
        return jinja_fail(r, "object of type '%s' has no len()",
                          jv_type_name(in));
    }
    return jv_int((int64_t) len);
}

#define CASE_FILTER(name, how)                                                \
    static struct jv                                                          \
    name(struct jinja_run *r, struct jv in, struct jv_slots *s)               \
    {                                                                         \
        (void) s;                                                             \
        in = jv_to_str(r, in);                                                \
        return r->failed ? in : jinja_str_case(r, in.str, how);               \
    }

CASE_FILTER(f_upper, JCASE_UPPER)
CASE_FILTER(f_lower, JCASE_LOWER)
CASE_FILTER(f_title, JCASE_WORDS)
CASE_FILTER(f_capitalize, JCASE_CAPITALIZE)

static struct jv
f_trim(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    in = jv_to_str(r, in);
    return r->failed ? in : jinja_str_strip(r, in.str, s->v[0], 3);
}

static struct jv
f_string(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    (void) s;
    return jv_to_str(r, in);
}

static struct jv
f_safe(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    (void) s;
    return jv_str_as_markup(r, jv_to_str(r, in), true);
}

static struct jv
f_escape(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    (void) s;
    return jinja_escape(r, in);
}

static struct jv
f_forceescape(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    (void) s;
    return jinja_escape(r, jv_to_plain(r, in));
}

static struct jv
f_default(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    bool  boolean = s->v[1].type != JV_MISSING && jv_truth(r, s->v[1]);
    if (in.type == JV_UNDEFINED || (boolean && !jv_truth(r, in))) {
        return s->v[0].type == JV_MISSING ? jv_str_lit(r, "") : s->v[0];
    }
    return in;
}

static struct jv
f_replace(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    int64_t    count = -1;
    struct jv  text = jv_to_plain(r, in);
    struct jv  old = jv_to_plain(r, s->v[0]);
    struct jv  with = jv_to_plain(r, s->v[1]);

    if (GIVEN(s->v[2]) && !jinja_arg_int(r, s->v[2], &count)) {
        return jv_undefined();
    }
    return r->failed ? jv_undefined()
                     : jinja_str_replace(r, text.str, jv_text(old), with.str,
                                         count);
}

static struct jv
f_indent(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    bool       first = s->v[1].type != JV_MISSING && jv_truth(r, s->v[1]);
    bool       blank = s->v[2].type != JV_MISSING && jv_truth(r, s->v[2]);
    int64_t    width = 4;
    struct jv  pad = s->v[0];

    if (in.type != JV_STR) {
        return jinja_binary(r, JN_ADD, in, jv_str_lit(r, "\n"));
    }
    if (pad.type != JV_STR) {
        if (pad.type != JV_MISSING && !jinja_arg_int(r, pad, &width)) {
            return jv_undefined();
        }
        pad = jinja_binary(r, JN_MUL, jv_str_lit(r, " "), jv_int(width));
    }
    if (in.str->markup) {
        pad = jv_str_as_markup(r, pad, true);
    }
    struct jv_room  *b = jv_room_new(r, in.str->len + 64);
    struct jv        text = jv_str_concat(r, in.str,
                                          &(struct jv_str) { .data = "\n",
                                                             .len = 1 });
    if (r->failed || b == NULL) {
        return jv_undefined();
    }
    struct jv  lines = jinja_str_lines(r, text.str, false);
    for (size_t i = 0; !r->failed && i < lines.list->len; i++) {
        struct jv  line = lines.list->items[i];
        bool       wants = i == 0 ? first : blank || line.str->len > 0;
        if (i > 0) {
            jv_room_lit(r, b, "\n");
        }
        if (wants) {
            jv_print(r, b, pad);
        }
        jv_print(r, b, line);
    }
    return r->failed ? jv_undefined() : jv_room_str(r, b, in.str->markup);
}

static struct jv
f_center(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    bool  unsafe;
    in = jv_to_str(r, in);
    if (s->v[0].type == JV_MISSING) {
        s->v[0] = jv_int(80);
    }
    return r->failed ? in
           : jinja_method_find(JV_STR, STR("center"), &unsafe)->fn(r, in, s);
}

static struct jv
f_truncate(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    int64_t    length = 255, leeway = 5;
    struct jv  end = s->v[2].type == JV_MISSING ? jv_str_lit(r, "...")
                                                : jv_to_str(r, s->v[2]);
    size_t     len;

    if (!jv_len(r, in, &len)) {
        return jinja_fail(r, "object of type '%s' has no len()",
                          jv_type_name(in));
    }
    if ((s->v[0].type != JV_MISSING && !jinja_arg_int(r, s->v[0], &length))
        || (GIVEN(s->v[3]) && !jinja_arg_int(r, s->v[3], &leeway))
        || r->failed)
    {
        return jv_undefined();
    }
    int64_t  end_len = (int64_t) jv_str_num_chars(r, end.str);
    if (length < end_len || leeway < 0) {
        return jinja_fail(r, "expected length >= %lld and leeway >= 0",
                          (long long) end_len);
    }
    if ((int64_t) len <= length + leeway) {
        return in;
    }
    if (in.type != JV_STR) {
        return jinja_fail(r, "truncate needs a string, not %s",
                          jv_type_name(in));
    }
    size_t  cut = jv_str_offset(r, in.str, (size_t) (length - end_len));
    if (s->v[1].type == JV_MISSING || !jv_truth(r, s->v[1])) {
        size_t  word = cut;
        while (word > 0 && in.str->data[word - 1] != ' ') {
            word--;
        }
        cut = word > 0 ? word - 1 : cut;
    }
    struct jv  head = jv_str_piece(r, in.str, 0, cut);
    return r->failed ? head : jinja_binary(r, JN_ADD, head, end);
}

static struct jv
f_wordcount(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    bool     in_word = false;
    int64_t  num = 0;

    (void) s;
    in = jv_to_str(r, in);
    for (size_t i = 0; !r->failed && i < in.str->len; ) {
        uint32_t  cp;
        i += (size_t) utf8_decode(in.str->data + i, &cp);
        bool  word = cp == '_' || jinja_is_alpha(cp) || jinja_is_numeric(cp);
        num += word && !in_word;
        in_word = word;
    }
    return jv_int(num);
}

static struct jv
f_urlencode(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    static const char  hex[] = "0123456789ABCDEF";
    struct jv_room    *b = jv_room_new(r, 64);

    (void) s;
    if (in.type == JV_DICT || jv_is(in, JV_LIST)) {
        return jinja_fail(r, "urlencode takes a string here, not %s",
                          jv_type_name(in));
    }
    in = jv_to_str(r, in);
    for (size_t i = 0; !r->failed && i < in.str->len; i++) {
        unsigned char  c = (unsigned char) in.str->data[i];
        bool  keep = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a'
                                                && (c | 0x20) <= 'z')
                     || c == '_' || c == '.' || c == '-' || c == '~'
                     || c == '/';
        char  esc[3] = { '%', hex[c >> 4], hex[c & 15] };
        if (keep) {
            jv_room_piece(r, b, in.str, i, i + 1);
        } else {
            jv_room_bytes(r, b, esc, 3, jv_str_untrusted(in.str));
        }
    }
    return r->failed ? jv_undefined() : jv_room_str(r, b, false);
}

/* ---- numbers ---------------------------------------------------------------- */

static struct jv
jinja_float_to_int(struct jv fallback, double f)
{
    if (!isfinite(f) || f >= 9.2e18 || f <= -9.2e18) {
        return fallback;
    }
    return jv_int((int64_t) f);
}

/* Decimal digits beyond 64 bits: printed and compared, not computed with. */
static struct jv
jinja_big_int(struct jinja_run *r, struct str s)
{
    bool    negative = s.len > 0 && s.data[0] == '-';
    size_t  i = s.len > 0 && (negative || s.data[0] == '+');

    while (i + 1 < s.len && s.data[i] == '0') {
        i++;
    }
    for (size_t k = i; k < s.len; k++) {
        if (s.data[k] < '0' || s.data[k] > '9') {
            return jv_missing();
        }
    }
    struct jv  v = jv_str_lit(r, negative ? "-" : "");
    struct jv  digits = jv_str_ref(r, (struct str) { s.data + i, s.len - i },
                                   false);
    if (s.len - i < 19 || s.len > 400 || r->failed) {
        return jv_missing();
    }
    v = jv_str_concat(r, v.str, digits.str);
    v.type = r->failed ? JV_UNDEFINED : JV_BIG;
    return v;
}

static struct jv
f_int(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    struct jv  fallback = s->v[0].type == JV_MISSING ? jv_int(0) : s->v[0];
    int64_t    base = 10, i;
    double     f;

    if (s->v[1].type != JV_MISSING && !jinja_arg_int(r, s->v[1], &base)) {
        return jv_undefined();
    }
    switch (in.type) {
    case JV_UNDEFINED:
        return jinja_undef_fail(r, in);
    case JV_INT:
    case JV_BIG:
        return in;
    case JV_BOOL:
        return jv_int(in.b);
    case JV_FLOAT:
        return jinja_float_to_int(fallback, in.f);
    case JV_STR:
        if (base != 0 && (base < 2 || base > 36)) {
            return fallback;
        }
        if (jinja_parse_int(jv_text(in), (int) base, &i)) {
            return jv_int(i);
        }
        in = jinja_str_strip(r, in.str, jv_none(), 3);
        struct jv  big = base == 10 && !r->failed
                         ? jinja_big_int(r, jv_text(in)) : jv_missing();
        if (big.type != JV_MISSING || r->failed) {
            return big;
        }
        return jinja_parse_float(jv_text(in), &f)
               ? jinja_float_to_int(fallback, f) : fallback;
    default:
        return fallback;
    }
}

static struct jv
f_float(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    struct jv  fallback = s->v[0].type == JV_MISSING ? jv_float(0) : s->v[0];
    double     f;

    switch (in.type) {
    case JV_UNDEFINED:
        return jinja_undef_fail(r, in);
    case JV_INT:
        return jv_float((double) in.i);
    case JV_BOOL:
        return jv_float(in.b);
    case JV_FLOAT:
        return in;
    case JV_BIG:
    case JV_STR:
        return jinja_parse_float(jv_text(in), &f) ? jv_float(f) : fallback;
    default:
        return fallback;
    }
}

static struct jv
f_abs(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    (void) s;
    if (in.type == JV_UNDEFINED) {
        return jinja_undef_fail(r, in);
    }
    if (in.type == JV_FLOAT) {
        return jv_float(fabs(in.f));
    }
    if (in.type == JV_BOOL) {
        return jv_int(in.b);
    }
    if (in.type == JV_BIG) {
        struct jv  v = jv_str_piece(r, in.str, in.str->data[0] == '-',
                                    in.str->len);
        v.type = r->failed ? JV_UNDEFINED : JV_BIG;
        return v;
    }
    if (in.type != JV_INT) {
        return jinja_fail(r, "bad operand type for abs(): '%s'",
                          jv_type_name(in));
    }
    return in.i < 0 ? jinja_unary(r, JN_NEG, in) : in;
}

/* round() to the nearest even, exact on the decimal text like Python's. */
static double
jinja_round_digits(double f, int64_t digits)
{
    char  text[400];

    if (!isfinite(f) || digits > 300) {
        return f;
    }
    if (digits < 0) {
        double  scale = pow(10, (double) -digits);
        return digits < -300 ? 0 : nearbyint(f / scale) * scale;
    }
    (void) snprintf(text, sizeof text, "%.*f", (int) digits, f);
    (void) jinja_parse_float(str_from(text), &f);
    return f;
}

static struct jv
f_round(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    int64_t      digits = 0;
    struct str   how = STR("common");

    if (in.type == JV_UNDEFINED) {
        return jinja_undef_fail(r, in);
    }
    if (s->v[0].type != JV_MISSING && !jinja_arg_int(r, s->v[0], &digits)) {
        return jv_undefined();
    }
    if (s->v[1].type == JV_STR) {
        how = jv_text(s->v[1]);
    }
    if (in.type == JV_BIG) {
        return in;
    }
    if (!jv_is_number(in)) {
        return jinja_fail(r, "type %s doesn't define __round__ method",
                          jv_type_name(in));
    }
    double  f = in.type == JV_FLOAT ? in.f : in.type == JV_BOOL ? in.b
                                                        : (double) in.i;
    if (str_eq(how, STR("common"))) {
        if (in.type != JV_FLOAT && digits >= 0) {
            return in.type == JV_BOOL ? jv_int(in.b) : in;
        }
        f = jinja_round_digits(f, digits);
        return in.type == JV_FLOAT ? jv_float(f) : jv_int((int64_t) f);
    }
    if (!str_eq(how, STR("ceil")) && !str_eq(how, STR("floor"))) {
        return jinja_fail(r, "method must be common, ceil or floor");
    }
    double  scale = pow(10, (double) digits);
    f *= scale;
    return jv_float((how.data[0] == 'c' ? ceil(f) : floor(f)) / scale);
}

/* ---- JSON and formatting ----------------------------------------------------- */

static bool
jinja_json_separators(struct jinja_run *r, struct jv v,
                      struct jinja_json_style *style)
{
    if ((v.type != JV_TUPLE && v.type != JV_LIST) || v.list->len != 2
        || v.list->items[0].type != JV_STR || v.list->items[1].type != JV_STR)
    {
        (void) jinja_fail(r, "tojson: separators must be two strings");
        return false;
    }
    style->item_sep = v.list->items[0];
    style->key_sep = v.list->items[1];
    return true;
}

/* Hugging Face's tojson: json.dumps with ensure_ascii off. */
static struct jv
f_tojson(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    struct jinja_json_style  style = { .pretty = GIVEN(s->v[1]) };

    style.ascii = s->v[0].type != JV_MISSING && jv_truth(r, s->v[0]);
    style.sort_keys = s->v[3].type != JV_MISSING && jv_truth(r, s->v[3]);
    style.item_sep = jv_str_lit(r, style.pretty ? "," : ", ");
    style.key_sep = jv_str_lit(r, ": ");
    style.indent = s->v[1];
    if (style.pretty && style.indent.type != JV_STR) {
        int64_t  width;
        if (!jinja_arg_int(r, style.indent, &width)) {
            return jv_undefined();
        }
        style.indent = jinja_binary(r, JN_MUL, jv_str_lit(r, " "),
                                    jv_int(width));
    }
    if (GIVEN(s->v[2]) && !jinja_json_separators(r, s->v[2], &style)) {
        return jv_undefined();
    }
    return r->failed ? jv_undefined() : jv_to_json(r, in, &style);
}

static struct jv
f_format(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    const struct jv_args  *a = s->args;

    in = jv_to_str(r, in);
    if (a->num > 0 && a->num_kw > 0) {
        return jinja_fail(r, "can't handle positional and keyword arguments "
                          "at the same time");
    }
    if (a->num_kw > 0) {
        struct jv  d = jv_dict_new(r, JV_DICT);
        for (size_t i = 0; i < a->num_kw && !r->failed; i++) {
            (void) jv_dict_set(r, d.dict, jv_str_ref(r, a->kw_names[i], false),
                               a->kw[i]);
        }
        return jinja_str_percent(r, in, d);
    }
    struct jv  t = jv_list_new(r, JV_TUPLE, a->num);
    for (size_t i = 0; i < a->num; i++) {
        (void) jv_list_push(r, &t, a->pos[i]);
    }
    return r->failed ? jv_undefined() : jinja_str_percent(r, in, t);
}

static struct jv
f_attr(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    if (in.type == JV_UNDEFINED) {
        return jinja_undef_fail(r, in);
    }
    if (s->v[0].type != JV_STR) {
        return jinja_fail(r, "attribute name must be string, not '%s'",
                          jv_type_name(s->v[0]));
    }
    /* Attributes only: a dict's keys are not looked at. */
    if (in.type == JV_DICT) {
        bool  unsafe;
        if (jinja_method_find(JV_DICT, jv_text(s->v[0]), &unsafe) == NULL
            && !unsafe)
        {
            return jinja_undef_new(r, in, s->v[0]);
        }
    }
    return jinja_getattr(r, in, s->v[0]);
}

static struct jv
f_filesizeformat(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    static const char *const  dec[] = { "kB", "MB", "GB", "TB", "PB", "EB",
                                        "ZB", "YB" };
    static const char *const  bin[] = { "KiB", "MiB", "GiB", "TiB", "PiB",
                                        "EiB", "ZiB", "YiB" };
    bool    binary = s->v[0].type != JV_MISSING && jv_truth(r, s->v[0]);
    double  base = binary ? 1024 : 1000, bytes, unit = base;
    char    text[64];
    int     i = 0;

    if (in.type == JV_STR && !jinja_parse_float(jv_text(in), &bytes)) {
        return jinja_fail(r, "could not convert string to float");
    }
    if (in.type != JV_STR) {
        struct jv_slots  none = { .v = { jv_missing() } };
        struct jv        f = f_float(r, in, &none);
        if (r->failed || !jv_is_number(in)) {
            return jinja_fail(r, "float() argument must be a string or a real "
                              "number, not '%s'", jv_type_name(in));
        }
        bytes = f.f;
    }
    if (bytes == 1) {
        return jv_str_lit(r, "1 Byte");
    }
    if (bytes < base) {
        (void) snprintf(text, sizeof text, "%lld Bytes", (long long) bytes);
        return jv_str_copy(r, str_from(text), false);
    }
    while (i < 7 && bytes >= unit * base) {
        unit *= base;
        i++;
    }
    (void) snprintf(text, sizeof text, "%.1f %s", bytes / unit,
                    binary ? bin[i] : dec[i]);
    return jv_str_copy(r, str_from(text), false);
}

/* ---- table ------------------------------------------------------------------- */

static const struct jinja_filter  jinja_filters[] = {
    { "length", f_length, "", 0 }, { "count", f_length, "", 0 },
    { "trim", f_trim, "chars", 0 }, { "upper", f_upper, "", 0 },
    { "lower", f_lower, "", 0 }, { "title", f_title, "", 0 },
    { "capitalize", f_capitalize, "", 0 }, { "string", f_string, "", 0 },
    { "safe", f_safe, "", 0 }, { "e", f_escape, "", 0 },
    { "escape", f_escape, "", 0 }, { "forceescape", f_forceescape, "", 0 },
    { "default", f_default, "default_value,boolean", 0 },
    { "d", f_default, "default_value,boolean", 0 },
    { "replace", f_replace, "old,new,count", 2 },
    { "indent", f_indent, "width,first,blank", 0 },
    { "center", f_center, "width", 0 },
    { "truncate", f_truncate, "length,killwords,end,leeway", 0 },
    { "wordcount", f_wordcount, "", 0 }, { "urlencode", f_urlencode, "", 0 },
    { "int", f_int, "default,base", 0 }, { "float", f_float, "default", 0 },
    { "abs", f_abs, "", 0 }, { "round", f_round, "precision,method", 0 },
    { "tojson", f_tojson, "ensure_ascii,indent,separators,sort_keys", 0 },
    { "format", f_format, "*", 0 }, { "attr", f_attr, "name", 1 },
    { "filesizeformat", f_filesizeformat, "binary", 0 },
};

const struct jinja_filter *
jinja_filter_find(struct str name)
{
    for (size_t i = 0; i < sizeof jinja_filters / sizeof jinja_filters[0]; i++)
    {
        if (str_eq(name, str_from(jinja_filters[i].name))) {
            return &jinja_filters[i];
        }
    }
    for (const struct jinja_filter *f = jinja_seq_filters; f->name != NULL;
         f++)
    {
        if (str_eq(name, str_from(f->name))) {
            return f;
        }
    }
    return NULL;
}
