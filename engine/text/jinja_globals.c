/* jinja_globals.c - functions every template sees. */
#include "engine/text/jinja_int.h"
#include "engine/base/utf8.h"

#include <stdio.h>

/* Keyword arguments into a dict or namespace. */
static void
jinja_set_keywords(struct jinja_run *r, struct jv d, const struct jv_args *a)
{
    for (size_t i = 0; i < a->num_kw && !r->failed; i++) {
        (void) jv_dict_set(r, d.dict, jv_str_ref(r, a->kw_names[i], false),
                           a->kw[i]);
    }
}

/* dict(mapping or pairs, **kw), and the same for namespace. */
static struct jv
jinja_make_mapping(struct jinja_run *r, const struct jv_args *a,
                   enum jv_type type)
{
    struct jv       d = jv_dict_new(r, type), pair;
    struct jv_iter  it;

    if (a->num > 1) {
        return jinja_fail(r, "dict expected at most 1 argument, got %zu",
                          a->num);
    }
    if (a->num == 1 && a->pos[0].type == JV_DICT) {
        const struct jv_dict  *from = a->pos[0].dict;
        for (size_t i = 0; i < from->len && jinja_charge(r, 8); i++) {
            (void) jv_dict_set(r, d.dict, from->keys[i], from->vals[i]);
        }
    } else if (a->num == 1 && jv_iter_init(r, &it, a->pos[0])) {
        while (jv_iter_next(r, &it, &pair)) {
            struct jv  two = jv_to_list(r, pair);
            if (r->failed || two.list->len != 2) {
                return jinja_fail(r, "dict update sequence element must have "
                                  "length 2");
            }
            (void) jv_dict_set(r, d.dict, two.list->items[0],
                               two.list->items[1]);
        }
    }
    jinja_set_keywords(r, d, a);
    return r->failed ? jv_undefined() : d;
}

static struct jv
g_namespace(struct jinja_run *r, const struct jv_args *a)
{
    return jinja_make_mapping(r, a, JV_NAMESPACE);
}

static struct jv
g_dict(struct jinja_run *r, const struct jv_args *a)
{
    return jinja_make_mapping(r, a, JV_DICT);
}

static struct jv
g_range(struct jinja_run *r, const struct jv_args *a)
{
    int64_t  v[3] = { 0, 0, 1 };

    if (a->num < 1 || a->num > 3 || a->num_kw > 0) {
        return jinja_fail(r, "range expected 1 to 3 arguments, got %zu",
                          a->num);
    }
    for (size_t i = 0; i < a->num; i++) {
        if (!jinja_arg_int(r, a->pos[i], &v[a->num == 1 ? 1 : i])) {
            return jv_undefined();
        }
        if (v[i] > INT32_MAX || v[i] < -INT32_MAX || v[1] > INT32_MAX
            || v[1] < -INT32_MAX)
        {
            return jinja_fail(r, "Range too big. The sandbox blocks ranges "
                              "larger than MAX_RANGE (%d).", JINJA_RANGE_MAX);
        }
    }
    if (v[2] == 0) {
        return jinja_fail(r, "range() arg 3 must not be zero");
    }
    int64_t  n = v[2] > 0 ? (v[1] - v[0] + v[2] - 1) / v[2]
                          : (v[0] - v[1] - v[2] - 1) / -v[2];
    n = n < 0 ? 0 : n;
    if (n > JINJA_RANGE_MAX) {
        return jinja_fail(r, "Range too big. The sandbox blocks ranges larger "
                          "than MAX_RANGE (%d).", JINJA_RANGE_MAX);
    }
    struct jv_range  *g = arena_calloc(r->arena, 1, sizeof *g);
    if (g == NULL) {
        return jinja_fail_memory(r);
    }
    *g = (struct jv_range) { v[0], v[1], v[2], (size_t) n };
    return (struct jv) { .type = JV_RANGE, .range = g };
}

/* The template's own message, unchanged. */
static struct jv
g_raise_exception(struct jinja_run *r, const struct jv_args *a)
{
    struct jv  text = a->num == 1 ? jv_to_str(r, a->pos[0])
                    : a->num_kw == 1 ? jv_to_str(r, a->kw[0])
                    : jv_str_lit(r, "");
    if (!r->failed) {
        r->failed = true;
        /* A C string ends at NUL; the message may stop there. */
        (void) err_set_http(r->err, 400, NULL, "%.*s",
                            (int) (text.str->len > ERR_MESSAGE_BYTES
                                   ? ERR_MESSAGE_BYTES : text.str->len),
                            text.str->data);
    }
    return jv_undefined();
}

/* Python's datetime.strftime of a time without a zone: %z and %Z are empty,
 * %f is the microseconds; the rest is the C library's in the C locale. */
static struct jv
g_strftime_now(struct jinja_run *r, const struct jv_args *a)
{
    char    out[256], spec[8];
    bool    untrusted;

    if (a->num != 1 || a->pos[0].type != JV_STR) {
        return jinja_fail(r, "strftime_now() takes one format string");
    }
    const struct jv_str  *f = a->pos[0].str;
    struct jv_room       *b = jv_room_new(r, 64);
    untrusted = jv_str_untrusted(f);
    for (size_t i = 0; i < f->len && !r->failed; ) {
        size_t  n = 1;
        if (f->data[i] != '%' || i + 1 == f->len) {
            jv_room_piece(r, b, f, i, i + 1);
            i++;
            continue;
        }
        if (strchr("-_0^#EO", f->data[i + 1]) != NULL && i + 2 < f->len) {
            n = 2;
        }
        char  c = f->data[i + n];
        if (c == 'f') {
            jv_room_bytes(r, b, "000000", 6, untrusted);
        } else if (c != 'z' && c != 'Z' && c != '\0') {
            memcpy(spec, f->data + i, n + 1);
            spec[n + 1] = '\0';
            size_t  len = strftime(out, sizeof out, spec, &r->args->now);
            jv_room_bytes(r, b, out, len, untrusted);
        }
        i += n + 1;
    }
    if (b != NULL && !utf8_is_valid(b->data, b->len)) {
        return jinja_fail(r, "strftime_now(): bad format");
    }
    return r->failed ? jv_undefined() : jv_room_str(r, b, false);
}

static struct jv
g_cycler(struct jinja_run *r, const struct jv_args *a)
{
    struct jv  items = jv_list_new(r, JV_LIST, a->num);

    if (a->num == 0) {
        return jinja_fail(r, "at least one item has to be provided");
    }
    for (size_t i = 0; i < a->num; i++) {
        (void) jv_list_push(r, &items, a->pos[i]);
    }
    struct jv_cycler  *c = arena_calloc(r->arena, 1, sizeof *c);
    if (c == NULL || r->failed) {
        return jinja_fail_memory(r);
    }
    c->items = items.list;
    return (struct jv) { .type = JV_CYCLER, .cycler = c };
}

static struct jv
g_joiner(struct jinja_run *r, const struct jv_args *a)
{
    struct jv_joiner  *j = arena_calloc(r->arena, 1, sizeof *j);
    if (j == NULL) {
        return jinja_fail_memory(r);
    }
    j->sep = a->num > 0 ? a->pos[0] : a->num_kw > 0 ? a->kw[0]
                                                    : jv_str_lit(r, ", ");
    return (struct jv) { .type = JV_JOINER, .joiner = j };
}

static const struct jinja_global  jinja_globals[] = {
    { "namespace", g_namespace }, { "raise_exception", g_raise_exception },
    { "range", g_range }, { "strftime_now", g_strftime_now },
    { "dict", g_dict }, { "cycler", g_cycler }, { "joiner", g_joiner },
};

const struct jinja_global *
jinja_global_find(struct str name)
{
    for (size_t i = 0; i < sizeof jinja_globals / sizeof jinja_globals[0]; i++)
    {
        if (str_eq(name, str_from(jinja_globals[i].name))) {
            return &jinja_globals[i];
        }
    }
    return NULL;
}
