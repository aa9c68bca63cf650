/* jinja_iter.c - for loops, list() and generators pull items one at a time.
 *
 * map, select and their like are lazy as in jinja2: their filter or test runs
 * when an item is asked for, once; a second pass finds nothing. */
#include "engine/text/jinja_int.h"
#include "engine/base/utf8.h"

bool
jv_is_iterable(struct jv v)
{
    switch (v.type) {
    case JV_UNDEFINED: case JV_STR: case JV_LIST: case JV_TUPLE: case JV_DICT:
    case JV_VIEW: case JV_RANGE: case JV_GEN: case JV_LOOP:
        return true;
    default:
        return false;
    }
}

bool
jv_iter_init(struct jinja_run *r, struct jv_iter *it, struct jv v)
{
    *it = (struct jv_iter) { .src = v };
    if (!jv_is_iterable(v)) {
        (void) jinja_fail(r, "'%s' object is not iterable", jv_type_name(v));
        it->src = jv_undefined();
        return false;
    }
    return !r->failed;
}

static bool
jv_iter_view(struct jinja_run *r, struct jv_iter *it, struct jv *out)
{
    const struct jv_view  *w = it->src.view;
    if (it->pos >= w->dict->len) {
        return false;
    }
    size_t  i = it->pos++;
    if (w->kind != JV_VIEW_ITEMS) {
        *out = w->kind == JV_VIEW_KEYS ? w->dict->keys[i] : w->dict->vals[i];
        return true;
    }
    *out = jv_list_new(r, JV_TUPLE, 2);
    return jv_list_push(r, out, w->dict->keys[i])
           && jv_list_push(r, out, w->dict->vals[i]);
}

static bool
jv_iter_str(struct jinja_run *r, struct jv_iter *it, struct jv *out)
{
    const struct jv_str  *s = it->src.str;
    uint32_t              cp;
    if (it->pos >= s->len) {
        return false;
    }
    size_t  n = (size_t) utf8_decode(s->data + it->pos, &cp);
    /* Iterating Markup yields plain strings. */
    *out = jv_str_as_markup(r, jv_str_piece(r, s, it->pos, it->pos + n), false);
    it->pos += n;
    return !r->failed;
}

static bool
jv_gen_map(struct jinja_run *r, struct jv_gen *g, struct jv *out)
{
    struct jv  item;
    if (!jv_iter_next(r, &g->it, &item)) {
        return false;
    }
    if (g->has_attr) {
        *out = jinja_attr_path(r, item, g->attr, g->fallback);
    } else {
        *out = jinja_apply_filter(r, g->filter, item, &g->args);
    }
    return !r->failed;
}

static bool
jv_gen_select(struct jinja_run *r, struct jv_gen *g, struct jv *out)
{
    while (jv_iter_next(r, &g->it, out)) {
        struct jv  v = *out;
        if (g->has_attr) {
            v = jinja_attr_path(r, v, g->attr, jv_missing());
        }
        bool  ok = g->test != NULL ? jinja_apply_test(r, g->test, v, &g->args)
                                   : jv_truth(r, v);
        if (r->failed) {
            return false;
        }
        if (ok != g->negate) {
            return true;
        }
    }
    return false;
}

static bool
jv_gen_unique(struct jinja_run *r, struct jv_gen *g, struct jv *out)
{
    while (jv_iter_next(r, &g->it, out)) {
        struct jv  key = *out;
        if (g->has_attr) {
            key = jinja_attr_path(r, key, g->attr, jv_missing());
        }
        if (!g->case_sensitive && key.type == JV_STR) {
            key = jinja_str_case(r, key.str, JCASE_LOWER);
        }
        bool  unhashable;
        if (jv_dict_find(r, g->seen, key, &unhashable) == NULL) {
            return jv_dict_set(r, g->seen, key, jv_none());
        }
    }
    return false;
}

/* What is wrong with a generator shows when its first item is asked for. */
static bool
jv_gen_check(struct jinja_run *r, const struct jv_gen *g)
{
    if (g->need_mapping && g->it.src.type != JV_VIEW) {
        (void) jinja_fail(r, "Can only get item pairs from a mapping.");
    } else if (g->name.type == JV_STR) {
        (void) jinja_fail(r, "No %s named '%.*s'.",
                          g->kind == JV_GEN_MAP ? "filter" : "test",
                          STR_ARG(jv_text(g->name)));
    } else if (!jv_is_iterable(g->it.src)) {
        (void) jinja_fail(r, "'%s' object is not iterable",
                          jv_type_name(g->it.src));
    }
    return !r->failed;
}

static bool
jv_gen_next(struct jinja_run *r, struct jv_gen *g, struct jv *out)
{
    bool  got = false;

    if (!jv_gen_check(r, g) || !jinja_enter(r)) {
        return false;
    }
    if (g->kind == JV_GEN_BATCH || g->kind == JV_GEN_SLICE) {
        g->it.src = g->kind == JV_GEN_BATCH ? jinja_batch(r, g)
                                            : jinja_slices(r, g);
        g->it.pos = 0;
        g->kind = JV_GEN_ITER;
    }
    switch (g->kind) {
    default:
        got = jv_iter_next(r, &g->it, out);
        break;
    case JV_GEN_MAP:
        got = jv_gen_map(r, g, out);
        break;
    case JV_GEN_SELECT:
        got = jv_gen_select(r, g, out);
        break;
    case JV_GEN_UNIQUE:
        got = jv_gen_unique(r, g, out);
        break;
    }
    jinja_leave(r);
    return got;
}

/* LoopContext is its own iterator; only its remaining items come out. */
static bool
jv_iter_loop(struct jinja_run *r, struct jv_iter *it, struct jv *out)
{
    (void) it;
    (void) out;
    (void) jinja_fail(r, "a loop cannot be iterated over");
    return false;
}

bool
jv_iter_next(struct jinja_run *r, struct jv_iter *it, struct jv *out)
{
    if (r->failed || !jinja_charge(r, 8)) {
        return false;
    }
    if (it->rest != NULL) {
        if (it->rest_pos >= it->num_rest) {
            return false;
        }
        *out = it->rest[it->rest_pos++];
        return true;
    }
    switch (it->src.type) {
    case JV_LIST:
    case JV_TUPLE:
        if (it->pos >= it->src.list->len) {
            return false;
        }
        *out = it->src.list->items[it->pos++];
        return true;
    case JV_DICT:
        if (it->pos >= it->src.dict->len) {
            return false;
        }
        *out = it->src.dict->keys[it->pos++];
        return true;
    case JV_RANGE:
        if (it->pos >= it->src.range->len) {
            return false;
        }
        *out = jv_int(it->src.range->start
                      + (int64_t) it->pos++ * it->src.range->step);
        return true;
    case JV_VIEW:
        return jv_iter_view(r, it, out);
    case JV_STR:
        return jv_iter_str(r, it, out);
    case JV_GEN:
        return jv_gen_next(r, it->src.gen, out);
    case JV_LOOP:
        return jv_iter_loop(r, it, out);
    default:
        return false;
    }
}

struct jv
jv_to_list(struct jinja_run *r, struct jv v)
{
    struct jv_iter  it;
    struct jv       item, list = jv_list_new(r, JV_LIST, 0);

    if (!jv_iter_init(r, &it, v)) {
        return list;
    }
    while (jv_iter_next(r, &it, &item)) {
        (void) jv_list_push(r, &list, item);
    }
    return list;
}

struct jv
jv_gen_new(struct jinja_run *r, const struct jv_gen *g)
{
    struct jv_gen  *copy = arena_alloc(r->arena, sizeof *copy);
    if (copy == NULL) {
        return jinja_fail_memory(r);
    }
    *copy = *g;
    if (copy->type_name == NULL) {
        copy->type_name = "generator";
    }
    return (struct jv) { .type = JV_GEN, .gen = copy };
}

/* One step of "a.b.0": digits are an index. */
static struct jv
jinja_attr_step(struct jinja_run *r, struct jv item, const struct jv_str *s,
                size_t begin, size_t end)
{
    int64_t     i;
    struct str  part = { s->data + begin, end - begin };
    bool        digits = part.len > 0;

    for (size_t k = 0; k < part.len; k++) {
        digits = digits && part.data[k] >= '0' && part.data[k] <= '9';
    }
    if (digits && jinja_parse_int(part, 10, &i)) {
        return jinja_getitem(r, item, jv_int(i));
    }
    return jinja_getitem(r, item, jv_str_ref(r, part, false));
}

/* What make_attrgetter does: path is a dotted string, an int or none. */
struct jv
jinja_attr_path(struct jinja_run *r, struct jv item, struct jv path,
                struct jv fallback)
{
    if (path.type == JV_NONE || path.type == JV_MISSING) {
        return item;
    }
    bool  has_fallback = fallback.type != JV_MISSING
                         && fallback.type != JV_NONE;
    if (path.type != JV_STR) {
        item = jinja_getitem(r, item, path);
        return has_fallback && item.type == JV_UNDEFINED ? fallback : item;
    }
    const struct jv_str  *s = path.str;
    for (size_t begin = 0; begin <= s->len && !r->failed; ) {
        size_t  end = begin;
        while (end < s->len && s->data[end] != '.') {
            end++;
        }
        item = jinja_attr_step(r, item, s, begin, end);
        if (has_fallback && item.type == JV_UNDEFINED) {
            item = fallback;
        }
        begin = end + 1;
    }
    return item;
}
