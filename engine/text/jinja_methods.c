/* jinja_methods.c - methods of str, dict, list, tuple, loop and cycler.
 *
 * Methods that change a list or dict are named as unsafe, as jinja2's
 * immutable sandbox does; so is every name that begins with an underscore. */
#include "engine/text/jinja_int.h"
#include "engine/base/utf8.h"

#define GIVEN(v)  ((v).type != JV_MISSING && (v).type != JV_NONE)

static bool
jinja_want_str(struct jinja_run *r, struct jv v, const char *what)
{
    if (v.type == JV_STR) {
        return true;
    }
    (void) jinja_fail(r, "%s must be str, not %s", what, jv_type_name(v));
    return false;
}

/* ---- split and join -------------------------------------------------------- */

static struct jv
jinja_split_space(struct jinja_run *r, const struct jv_str *s, int64_t max)
{
    struct jv  list = jv_list_new(r, JV_LIST, 0);
    size_t     i = 0;
    uint32_t   cp;

    while (i < s->len && !r->failed) {
        size_t  n = (size_t) utf8_decode(s->data + i, &cp);
        if (jinja_is_space(cp)) {
            i += n;
            continue;
        }
        size_t  begin = i;
        if (max >= 0 && (int64_t) list.list->len >= max) {
            (void) jv_list_push(r, &list, jv_str_piece(r, s, begin, s->len));
            break;
        }
        while (i < s->len) {
            n = (size_t) utf8_decode(s->data + i, &cp);
            if (jinja_is_space(cp)) {
                break;
            }
            i += n;
        }
        (void) jv_list_push(r, &list, jv_str_piece(r, s, begin, i));
    }
    return list;
}

static struct jv
jinja_split_sep(struct jinja_run *r, const struct jv_str *s, struct str sep,
                int64_t max)
{
    struct jv  list = jv_list_new(r, JV_LIST, 0);
    size_t     begin = 0;

    while (!r->failed && (max < 0 || (int64_t) list.list->len < max)) {
        const char  *q = s->len - begin < sep.len ? NULL
                         : memmem(s->data + begin, s->len - begin, sep.data,
                                  sep.len);
        if (q == NULL) {
            break;
        }
        size_t  at = (size_t) (q - s->data);
        (void) jv_list_push(r, &list, jv_str_piece(r, s, begin, at));
        begin = at + sep.len;
    }
    (void) jv_list_push(r, &list, jv_str_piece(r, s, begin, s->len));
    return list;
}

static struct jv
jinja_reversed_list(struct jinja_run *r, struct jv list)
{
    struct jv  out = jv_list_new(r, JV_LIST, list.list->len);
    for (size_t i = list.list->len; i-- > 0; ) {
        (void) jv_list_push(r, &out, list.list->items[i]);
    }
    return out;
}

static struct jv
jinja_rsplit_sep(struct jinja_run *r, const struct jv_str *s, struct str sep,
                 int64_t max)
{
    struct jv  list = jv_list_new(r, JV_LIST, 0);
    size_t     end = s->len, i = s->len;

    while (i >= sep.len && !r->failed
           && (max < 0 || (int64_t) list.list->len < max))
    {
        if (memcmp(s->data + i - sep.len, sep.data, sep.len) != 0) {
            if (i-- == 0) {
                break;
            }
            continue;
        }
        (void) jv_list_push(r, &list, jv_str_piece(r, s, i, end));
        i -= sep.len;
        end = i;
    }
    (void) jv_list_push(r, &list, jv_str_piece(r, s, 0, end));
    return r->failed ? list : jinja_reversed_list(r, list);
}

static struct jv
jinja_rsplit_space(struct jinja_run *r, const struct jv_str *s, int64_t max)
{
    struct jv  all = jinja_split_space(r, s, -1);
    if (r->failed || max < 0 || (int64_t) all.list->len <= max) {
        return all;
    }
    struct jv  out = jv_list_new(r, JV_LIST, 0);
    size_t     keep = all.list->len - (size_t) max;
    size_t     end = (size_t) (all.list->items[keep - 1].str->data
                               + all.list->items[keep - 1].str->len - s->data);
    (void) jv_list_push(r, &out, jv_str_piece(r, s, 0, end));
    for (size_t i = keep; i < all.list->len; i++) {
        (void) jv_list_push(r, &out, all.list->items[i]);
    }
    return out;
}

static struct jv
jinja_any_split(struct jinja_run *r, struct jv self, struct jv_slots *a,
                bool right)
{
    int64_t  max = -1;

    if (a->v[1].type != JV_MISSING && !jinja_arg_int(r, a->v[1], &max)) {
        return jv_undefined();
    }
    (void) jinja_charge(r, self.str->len);
    if (!GIVEN(a->v[0])) {
        return right ? jinja_rsplit_space(r, self.str, max)
                     : jinja_split_space(r, self.str, max);
    }
    if (!jinja_want_str(r, a->v[0], "sep")) {
        return jv_undefined();
    }
    struct str  sep = jv_text(a->v[0]);
    if (sep.len == 0) {
        return jinja_fail(r, "empty separator");
    }
    return right ? jinja_rsplit_sep(r, self.str, sep, max)
                 : jinja_split_sep(r, self.str, sep, max);
}

static struct jv
m_split(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    return jinja_any_split(r, self, a, false);
}

static struct jv
m_rsplit(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    return jinja_any_split(r, self, a, true);
}

static struct jv
m_splitlines(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    return jinja_str_lines(r, self.str, jv_truth(r, a->v[0]));
}

static struct jv
m_join(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    struct jv_iter   it;
    struct jv        item;
    struct jv_room  *b = jv_room_new(r, 64);
    bool             first = true;

    if (b == NULL || !jv_iter_init(r, &it, a->v[0])) {
        return jv_undefined();
    }
    for (int i = 0; jv_iter_next(r, &it, &item); i++) {
        if (self.str->markup) {
            item = jinja_escape(r, item);
        }
        if (item.type != JV_STR) {
            return jinja_fail(r, "sequence item %d: expected str instance, %s "
                              "found", i, jv_type_name(item));
        }
        if (!first) {
            jv_room_piece(r, b, self.str, 0, self.str->len);
        }
        first = false;
        jv_room_piece(r, b, item.str, 0, item.str->len);
    }
    return r->failed ? jv_undefined() : jv_room_str(r, b, self.str->markup);
}

static struct jv
jinja_partition(struct jinja_run *r, struct jv self, struct jv sep, bool right)
{
    struct jv  out = jv_list_new(r, JV_TUPLE, 3);

    if (!jinja_want_str(r, sep, "sep")) {
        return jv_undefined();
    }
    if (sep.str->len == 0) {
        return jinja_fail(r, "empty separator");
    }
    struct jv  parts = right ? jinja_rsplit_sep(r, self.str, jv_text(sep), 1)
                             : jinja_split_sep(r, self.str, jv_text(sep), 1);
    if (r->failed) {
        return parts;
    }
    struct jv  none = jv_str_piece(r, self.str, 0, 0);
    bool       found = parts.list->len == 2;
    sep = jv_str_as_markup(r, sep, self.str->markup);
    (void) jv_list_push(r, &out, found || !right ? parts.list->items[0] : none);
    (void) jv_list_push(r, &out, found ? sep : none);
    (void) jv_list_push(r, &out, found ? parts.list->items[1]
                                 : right ? parts.list->items[0] : none);
    return out;
}

static struct jv
m_partition(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    return jinja_partition(r, self, a->v[0], false);
}

static struct jv
m_rpartition(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    return jinja_partition(r, self, a->v[0], true);
}

/* ---- strip, replace, case, padding ----------------------------------------- */

static struct jv
m_strip(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    return jinja_str_strip(r, self.str, a->v[0], 3);
}

static struct jv
m_lstrip(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    return jinja_str_strip(r, self.str, a->v[0], 1);
}

static struct jv
m_rstrip(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    return jinja_str_strip(r, self.str, a->v[0], 2);
}

static struct jv
m_replace(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    int64_t    count = -1;
    struct jv  with = a->v[1];

    if (!jinja_want_str(r, a->v[0], "replace() argument 1")
        || !jinja_want_str(r, with, "replace() argument 2")
        || (a->v[2].type != JV_MISSING && !jinja_arg_int(r, a->v[2], &count)))
    {
        return jv_undefined();
    }
    if (self.str->markup) {
        with = jinja_escape(r, with);
    }
    return r->failed ? jv_undefined()
                     : jinja_str_replace(r, self.str, jv_text(a->v[0]),
                                         with.str, count);
}

static struct jv
m_removeprefix(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    if (!jinja_want_str(r, a->v[0], "removeprefix() argument")) {
        return jv_undefined();
    }
    size_t  n = str_starts_with(jv_text(self), jv_text(a->v[0]))
                ? a->v[0].str->len : 0;
    return jv_str_piece(r, self.str, n, self.str->len);
}

static struct jv
m_removesuffix(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    if (!jinja_want_str(r, a->v[0], "removesuffix() argument")) {
        return jv_undefined();
    }
    size_t  n = str_ends_with(jv_text(self), jv_text(a->v[0]))
                ? a->v[0].str->len : 0;
    return jv_str_piece(r, self.str, 0, self.str->len - n);
}

#define CASE_METHOD(name, how)                                                \
    static struct jv                                                          \
    name(struct jinja_run *r, struct jv self, struct jv_slots *a)             \
    {                                                                         \
        (void) a;                                                             \
        return jinja_str_case(r, self.str, how);                              \
    }

CASE_METHOD(m_upper, JCASE_UPPER)
CASE_METHOD(m_lower, JCASE_LOWER)
CASE_METHOD(m_title, JCASE_TITLE)
CASE_METHOD(m_capitalize, JCASE_CAPITALIZE)
CASE_METHOD(m_swapcase, JCASE_SWAP)
CASE_METHOD(m_casefold, JCASE_FOLD)

/* left and right: how many of the missing characters go to each side. */
static struct jv
jinja_pad(struct jinja_run *r, const struct jv_str *s, struct jv_slots *a,
          int side)
{
    int64_t    width;
    struct jv  fill = a->v[1];
    size_t     len = jv_str_num_chars(r, s);

    if (!jinja_arg_int(r, a->v[0], &width)) {
        return jv_undefined();
    }
    if (fill.type == JV_MISSING) {
        fill = jv_str_lit(r, " ");
    }
    if (!jinja_want_str(r, fill, "fill character")) {
        return jv_undefined();
    }
    if (jv_str_num_chars(r, fill.str) != 1) {
        return jinja_fail(r, "The fill character must be exactly one "
                          "character long");
    }
    if (width <= (int64_t) len) {
        return jv_str_piece(r, s, 0, s->len);
    }
    if (width > (int64_t) r->output_bytes_max
        || !jinja_charge(r, (size_t) width))
    {
        return jinja_fail(r, "text of more than %zu bytes",
                          r->output_bytes_max);
    }
    int64_t  pad = width - (int64_t) len;
    int64_t  left = side == 1 ? 0 : side == 2 ? pad
                    : pad / 2 + (pad & width & 1);
    struct jv_room  *b = jv_room_new(r, s->len + (size_t) pad);
    for (int64_t i = 0; i <= pad && b != NULL; i++) {
        if (i == left) {
            jv_room_piece(r, b, s, 0, s->len);
        }
        if (i < pad) {
            jv_room_piece(r, b, fill.str, 0, fill.str->len);
        }
    }
    return r->failed ? jv_undefined() : jv_room_str(r, b, s->markup);
}

static struct jv
m_ljust(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    return jinja_pad(r, self.str, a, 1);
}

static struct jv
m_rjust(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    return jinja_pad(r, self.str, a, 2);
}

static struct jv
m_center(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    return jinja_pad(r, self.str, a, 3);
}

static struct jv
m_zfill(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    const struct jv_str  *s = self.str;
    bool       sign = s->len > 0 && (s->data[0] == '-' || s->data[0] == '+');
    struct jv  body = jv_str_piece(r, s, sign, s->len);
    int64_t    width;

    if (!jinja_arg_int(r, a->v[0], &width) || r->failed) {
        return jv_undefined();
    }
    a->v[0] = jv_int(width - sign);
    a->v[1] = jv_str_lit(r, "0");
    struct jv  out = jinja_pad(r, body.str, a, 2);
    if (!sign || r->failed) {
        return out;
    }
    return jv_str_concat(r, jv_str_piece(r, s, 0, 1).str, out.str);
}

/* ---- questions -------------------------------------------------------------- */

/* Byte range of s[start:end]; false when start lies beyond the end. */
static bool
jinja_sub_range(struct jinja_run *r, const struct jv_str *s,
                const struct jv_slots *a, size_t *begin, size_t *end)
{
    int64_t  len = (int64_t) jv_str_num_chars(r, s), from = 0, to = len;

    if ((GIVEN(a->v[1]) && !jinja_arg_int(r, a->v[1], &from))
        || (GIVEN(a->v[2]) && !jinja_arg_int(r, a->v[2], &to)))
    {
        return false;
    }
    from += from < 0 ? len : 0;
    to += to < 0 ? len : 0;
    from = from < 0 ? 0 : from;
    to = to < 0 ? 0 : to > len ? len : to;
    if (from > to) {
        return false;
    }
    *begin = jv_str_offset(r, s, (size_t) from);
    *end = jv_str_offset(r, s, (size_t) to);
    return !r->failed;
}

static struct jv
jinja_affix(struct jinja_run *r, struct jv self, struct jv_slots *a, bool start)
{
    size_t      begin, end;
    struct jv   affix = a->v[0];
    struct jv  *items = &affix;
    size_t      num = 1;

    if (affix.type == JV_TUPLE) {
        items = affix.list->items;
        num = affix.list->len;
    }
    bool  in_range = jinja_sub_range(r, self.str, a, &begin, &end);
    for (size_t i = 0; i < num && !r->failed; i++) {
        if (items[i].type != JV_STR) {
            return jinja_fail(r, "%s first arg must be str or a tuple of str, "
                              "not %s", start ? "startswith" : "endswith",
                              jv_type_name(items[i]));
        }
        struct str  s = { self.str->data + begin, in_range ? end - begin : 0 };
        if (in_range && (start ? str_starts_with(s, jv_text(items[i]))
                               : str_ends_with(s, jv_text(items[i]))))
        {
            return jv_bool(true);
        }
    }
    return jv_bool(false);
}

static struct jv
m_startswith(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    return jinja_affix(r, self, a, true);
}

static struct jv
m_endswith(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    return jinja_affix(r, self, a, false);
}

/* Character index of the first or last match, -1 if there is none. */
static int64_t
jinja_find(struct jinja_run *r, struct jv self, struct jv_slots *a, bool last)
{
    size_t  begin, end, at = SIZE_MAX;

    if (!jinja_want_str(r, a->v[0], "find() argument 1")
        || !jinja_sub_range(r, self.str, a, &begin, &end))
    {
        return -1;
    }
    struct str  n = jv_text(a->v[0]);
    for (size_t i = begin; n.len <= end - begin && i <= end - n.len; ) {
        const char  *q = n.len == 0 ? self.str->data + (last ? end : i)
                         : memmem(self.str->data + i, end - i, n.data, n.len);
        if (q == NULL) {
            break;
        }
        at = (size_t) (q - self.str->data);
        if (!last || n.len == 0) {
            break;
        }
        i = at + 1;
    }
    if (at == SIZE_MAX) {
        return -1;
    }
    struct jv  head = jv_str_piece(r, self.str, 0, at);
    return r->failed ? -1 : (int64_t) jv_str_num_chars(r, head.str);
}

static struct jv
m_find(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    return jv_int(jinja_find(r, self, a, false));
}

static struct jv
m_rfind(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    return jv_int(jinja_find(r, self, a, true));
}

static struct jv
m_index(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    int64_t  i = jinja_find(r, self, a, false);
    return i < 0 ? jinja_fail(r, "substring not found") : jv_int(i);
}

static struct jv
m_rindex(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    int64_t  i = jinja_find(r, self, a, true);
    return i < 0 ? jinja_fail(r, "substring not found") : jv_int(i);
}

static struct jv
m_count(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    size_t   begin, end;
    int64_t  num = 0;

    if (!jinja_want_str(r, a->v[0], "count() argument 1")) {
        return jv_undefined();
    }
    if (!jinja_sub_range(r, self.str, a, &begin, &end)) {
        return jv_int(0);
    }
    struct str  n = jv_text(a->v[0]);
    if (n.len == 0) {
        struct jv  part = jv_str_piece(r, self.str, begin, end);
        return r->failed ? part
                         : jv_int((int64_t) jv_str_num_chars(r, part.str) + 1);
    }
    while (end - begin >= n.len) {
        const char  *q = memmem(self.str->data + begin, end - begin, n.data,
                                n.len);
        if (q == NULL) {
            break;
        }
        num++;
        begin = (size_t) (q - self.str->data) + n.len;
    }
    return jv_int(num);
}

/* All characters pass, and there is at least one. */
static struct jv
jinja_all(struct jv self, bool (*test)(uint32_t cp))
{
    for (size_t i = 0; i < self.str->len; ) {
        uint32_t  cp;
        i += (size_t) utf8_decode(self.str->data + i, &cp);
        if (!test(cp)) {
            return jv_bool(false);
        }
    }
    return jv_bool(self.str->len > 0);
}

static bool
jinja_is_alnum(uint32_t cp)
{
    return jinja_is_alpha(cp) || jinja_is_numeric(cp);
}

#define ALL_METHOD(name, test)                                                \
    static struct jv                                                          \
    name(struct jinja_run *r, struct jv self, struct jv_slots *a)             \
    {                                                                         \
        (void) a;                                                             \
        (void) jinja_charge(r, self.str->len);                                \
        return jinja_all(self, test);                                         \
    }

ALL_METHOD(m_isspace, jinja_is_space)
ALL_METHOD(m_isalpha, jinja_is_alpha)
ALL_METHOD(m_isalnum, jinja_is_alnum)
ALL_METHOD(m_isdigit, jinja_is_digit)
ALL_METHOD(m_isdecimal, jinja_is_decimal)
ALL_METHOD(m_isnumeric, jinja_is_numeric)

static struct jv
m_isascii(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    (void) r;
    (void) a;
    return jv_bool(jv_str_is_ascii(self.str));
}

static struct jv
m_isprintable(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    (void) r;
    (void) a;
    return self.str->len == 0 ? jv_bool(true)
                              : jinja_all(self, jinja_is_printable);
}

static struct jv
m_isidentifier(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    uint32_t  cp;

    (void) r;
    (void) a;
    if (self.str->len == 0) {
        return jv_bool(false);
    }
    (void) utf8_decode(self.str->data, &cp);
    return jv_bool(jinja_is_id_start(cp)
                   && jinja_all(self, jinja_is_id_continue).b);
}

/* Cased characters exist and none is of the other case. */
static struct jv
jinja_all_cased(struct jv self, bool upper)
{
    bool  any = false;
    for (size_t i = 0; i < self.str->len; ) {
        uint32_t  cp;
        i += (size_t) utf8_decode(self.str->data + i, &cp);
        if (jinja_is_cased(cp)) {
            if (!(upper ? jinja_is_upper(cp) : jinja_is_lower(cp))) {
                return jv_bool(false);
            }
            any = true;
        }
    }
    return jv_bool(any);
}

static struct jv
m_isupper(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    (void) r;
    (void) a;
    return jinja_all_cased(self, true);
}

static struct jv
m_islower(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    (void) r;
    (void) a;
    return jinja_all_cased(self, false);
}

static struct jv
m_istitle(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    bool  in_word = false, any = false;

    (void) r;
    (void) a;
    for (size_t i = 0; i < self.str->len; ) {
        uint32_t  cp;
        i += (size_t) utf8_decode(self.str->data + i, &cp);
        bool  cased = jinja_is_cased(cp);
        if (cased && jinja_is_lower(cp) != in_word) {
            return jv_bool(false);
        }
        any = any || cased;
        in_word = cased;
    }
    return jv_bool(any);
}

static struct jv
m_format(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    return jinja_str_format(r, self, a->args);
}

/* ---- dict, list, loop, cycler ----------------------------------------------- */

static struct jv
jinja_view(struct jinja_run *r, struct jv dict, enum jv_view_kind kind)
{
    struct jv_view  *v = arena_alloc(r->arena, sizeof *v);
    if (v == NULL) {
        return jinja_fail_memory(r);
    }
    *v = (struct jv_view) { dict.dict, kind };
    return (struct jv) { .type = JV_VIEW, .view = v };
}

static struct jv
m_keys(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    (void) a;
    return jinja_view(r, self, JV_VIEW_KEYS);
}

static struct jv
m_values(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    (void) a;
    return jinja_view(r, self, JV_VIEW_VALUES);
}

static struct jv
m_items(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    (void) a;
    return jinja_view(r, self, JV_VIEW_ITEMS);
}

static struct jv
m_get(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    bool              unhashable;
    const struct jv  *v = jv_dict_find(r, self.dict, a->v[0], &unhashable);
    if (unhashable) {
        return jinja_fail(r, "unhashable type: '%s'", jv_type_name(a->v[0]));
    }
    return v != NULL ? *v : a->v[1].type == JV_MISSING ? jv_none() : a->v[1];
}

static struct jv
m_copy(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    (void) r;
    (void) a;
    return self;    /* nothing can change either of them */
}

static struct jv
m_list_count(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    int64_t  num = 0;

    self = self.type == JV_RANGE ? jv_to_list(r, self) : self;
    if (r->failed) {
        return self;
    }
    for (size_t i = 0; i < self.list->len && jinja_charge(r, 8); i++) {
        num += jv_eq(r, self.list->items[i], a->v[0]);
    }
    return jv_int(num);
}

static struct jv
m_list_index(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    self = self.type == JV_RANGE ? jv_to_list(r, self) : self;
    if (r->failed) {
        return self;
    }
    for (size_t i = 0; i < self.list->len && jinja_charge(r, 8); i++) {
        if (jv_eq(r, self.list->items[i], a->v[0])) {
            return jv_int((int64_t) i);
        }
    }
    return jinja_fail(r, "value is not in list");
}

static struct jv
m_loop_cycle(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    if (a->args->num == 0) {
        return jinja_fail(r, "no items for cycling given");
    }
    return a->args->pos[self.loop->index0 % a->args->num];
}

static struct jv
m_loop_changed(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    struct jv  now = jv_list_new(r, JV_TUPLE, a->args->num);

    for (size_t i = 0; i < a->args->num; i++) {
        (void) jv_list_push(r, &now, a->args->pos[i]);
    }
    if (r->failed) {
        return now;
    }
    struct jv  last = { .type = JV_TUPLE, .list = self.loop->changed };
    if (self.loop->changed != NULL && jv_eq(r, last, now)) {
        return jv_bool(false);
    }
    self.loop->changed = now.list;
    return jv_bool(true);
}

static struct jv
m_cycler_next(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    struct jv_cycler  *c = self.cycler;
    struct jv          v = c->items->items[c->pos];
    (void) r;
    (void) a;
    c->pos = (c->pos + 1) % c->items->len;
    return v;
}

static struct jv
m_cycler_reset(struct jinja_run *r, struct jv self, struct jv_slots *a)
{
    (void) r;
    (void) a;
    self.cycler->pos = 0;
    return jv_none();
}

/* ---- tables ------------------------------------------------------------------ */

static const struct jinja_method  str_methods[] = {
    { "strip", m_strip, "/a", 0 }, { "split", m_split, "sep,maxsplit", 0 },
    { "startswith", m_startswith, "/a,b,c", 1 },
    { "endswith", m_endswith, "/a,b,c", 1 },
    { "lstrip", m_lstrip, "/a", 0 }, { "rstrip", m_rstrip, "/a", 0 },
    { "replace", m_replace, "/a,b,c", 2 }, { "upper", m_upper, "", 0 },
    { "lower", m_lower, "", 0 }, { "title", m_title, "", 0 },
    { "capitalize", m_capitalize, "", 0 }, { "join", m_join, "/a", 1 },
    { "rsplit", m_rsplit, "sep,maxsplit", 0 }, { "find", m_find, "/a,b,c", 1 },
    { "count", m_count, "/a,b,c", 1 }, { "rfind", m_rfind, "/a,b,c", 1 },
    { "index", m_index, "/a,b,c", 1 }, { "rindex", m_rindex, "/a,b,c", 1 },
    { "splitlines", m_splitlines, "keepends", 0 },
    { "partition", m_partition, "/a", 1 },
    { "rpartition", m_rpartition, "/a", 1 },
    { "removeprefix", m_removeprefix, "/a", 1 },
    { "removesuffix", m_removesuffix, "/a", 1 },
    { "swapcase", m_swapcase, "", 0 }, { "casefold", m_casefold, "", 0 },
    { "ljust", m_ljust, "/a,b", 1 }, { "rjust", m_rjust, "/a,b", 1 },
    { "center", m_center, "/a,b", 1 }, { "zfill", m_zfill, "/a,b", 1 },
    { "isspace", m_isspace, "", 0 }, { "isalpha", m_isalpha, "", 0 },
    { "isalnum", m_isalnum, "", 0 }, { "isdigit", m_isdigit, "", 0 },
    { "isdecimal", m_isdecimal, "", 0 }, { "isnumeric", m_isnumeric, "", 0 },
    { "isascii", m_isascii, "", 0 }, { "isupper", m_isupper, "", 0 },
    { "islower", m_islower, "", 0 }, { "istitle", m_istitle, "", 0 },
    { "isprintable", m_isprintable, "", 0 },
    { "isidentifier", m_isidentifier, "", 0 }, { "format", m_format, "*", 0 },
    { NULL, NULL, NULL, 0 },
};

static const struct jinja_method  dict_methods[] = {
    { "get", m_get, "/a,b", 1 }, { "items", m_items, "", 0 },
    { "keys", m_keys, "", 0 }, { "values", m_values, "", 0 },
    { "copy", m_copy, "", 0 }, { NULL, NULL, NULL, 0 },
};

static const struct jinja_method  list_methods[] = {
    { "index", m_list_index, "/a", 1 }, { "count", m_list_count, "/a", 1 },
    { "copy", m_copy, "", 0 }, { NULL, NULL, NULL, 0 },
};

static const struct jinja_method  tuple_methods[] = {
    { "index", m_list_index, "/a", 1 }, { "count", m_list_count, "/a", 1 },
    { NULL, NULL, NULL, 0 },
};

static const struct jinja_method  loop_methods[] = {
    { "cycle", m_loop_cycle, "*", 0 }, { "changed", m_loop_changed, "*", 0 },
    { NULL, NULL, NULL, 0 },
};

static const struct jinja_method  cycler_methods[] = {
    { "next", m_cycler_next, "", 0 }, { "reset", m_cycler_reset, "", 0 },
    { NULL, NULL, NULL, 0 },
};

static const char *const  list_unsafe[] = {
    "append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove",
    NULL
};

static const char *const  dict_unsafe[] = {
    "clear", "pop", "popitem", "setdefault", "update", NULL
};

const struct jinja_method *
jinja_method_find(enum jv_type type, struct str name, bool *unsafe)
{
    const struct jinja_method  *m = NULL;
    const char *const          *bad = NULL;

    *unsafe = false;
    switch (type) {
    case JV_STR: m = str_methods; break;
    case JV_DICT: m = dict_methods; bad = dict_unsafe; break;
    case JV_LIST: m = list_methods; bad = list_unsafe; break;
    case JV_TUPLE:
    case JV_RANGE: m = tuple_methods; break;
    case JV_LOOP: m = loop_methods; break;
    case JV_CYCLER: m = cycler_methods; break;
    default: break;
    }
    for (; m != NULL && m->name != NULL; m++) {
        if (str_eq(name, str_from(m->name))) {
            return m;
        }
    }
    for (; bad != NULL && *bad != NULL; bad++) {
        if (str_eq(name, str_from(*bad))) {
            *unsafe = true;
        }
    }
    /* Every Python object has these, and none may be touched. */
    if (str_eq(name, STR("__class__")) || str_eq(name, STR("__init__"))
        || str_eq(name, STR("__dict__")))
    {
        *unsafe = true;
    }
    return NULL;
}
