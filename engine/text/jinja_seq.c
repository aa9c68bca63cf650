/* jinja_seq.c - filters of sequences: lists, dicts and generators. */
#include "engine/text/jinja_int.h"

#define GIVEN(v)  ((v).type != JV_MISSING && (v).type != JV_NONE)

static struct jv
f_list(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    (void) s;
    return jv_to_list(r, in);
}

/* The pairs of a mapping; undefined has none; the rest fails when used. */
static struct jv
f_items(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    struct jv_gen  g = { .kind = JV_GEN_ITER,
                         .need_mapping = in.type != JV_UNDEFINED };
    bool           unsafe;

    (void) s;
    if (in.type == JV_DICT) {
        in = jinja_method_find(JV_DICT, STR("items"), &unsafe)->fn(r, in, s);
    }
    g.it.src = in.type == JV_UNDEFINED || in.type == JV_VIEW ? in : jv_none();
    return jv_gen_new(r, &g);
}

static struct jv
f_join(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    struct jv_iter   it;
    struct jv        item;
    struct jv        sep = s->v[0].type == JV_MISSING ? jv_str_lit(r, "")
                                                      : jv_to_str(r, s->v[0]);
    struct jv_room  *b = jv_room_new(r, 64);
    bool             first = true;

    if (b == NULL || r->failed || !jv_iter_init(r, &it, in)) {
        return jv_undefined();
    }
    while (jv_iter_next(r, &it, &item)) {
        if (GIVEN(s->v[1])) {
            item = jinja_attr_path(r, item, s->v[1], jv_missing());
        }
        if (!first) {
            jv_room_piece(r, b, sep.str, 0, sep.str->len);
        }
        first = false;
        jv_print(r, b, item);
    }
    return r->failed ? jv_undefined() : jv_room_str(r, b, false);
}

static struct jv
f_first(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    struct jv_iter  it;
    struct jv       item;

    (void) s;
    if (in.type == JV_GEN) {
        if (jv_iter_next(r, &(struct jv_iter) { .src = in }, &item)) {
            return item;
        }
    } else if (jv_iter_init(r, &it, in) && jv_iter_next(r, &it, &item)) {
        return item;
    }
    return r->failed ? jv_undefined()
           : jinja_undef_hint(r, "No first item, sequence was empty.");
}

static bool
jinja_is_reversible(struct jv v)
{
    return v.type == JV_LIST || v.type == JV_TUPLE || v.type == JV_STR
           || v.type == JV_DICT || v.type == JV_VIEW || v.type == JV_RANGE
           || v.type == JV_UNDEFINED;
}

static struct jv
f_last(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    (void) s;
    if (!jinja_is_reversible(in)) {
        return jinja_fail(r, "'%s' object is not reversible",
                          jv_type_name(in));
    }
    if (in.type == JV_STR && in.str->len > 0) {
        return jinja_getitem(r, in, jv_int(-1));
    }
    struct jv  list = in.type == JV_LIST || in.type == JV_TUPLE
                      ? in : jv_to_list(r, in);
    if (r->failed) {
        return list;
    }
    return list.list->len == 0
           ? jinja_undef_hint(r, "No last item, sequence was empty.")
           : list.list->items[list.list->len - 1];
}

static struct jv
f_reverse(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    struct jv_gen  g = { .kind = JV_GEN_ITER,
                         .type_name = "list_reverseiterator" };

    (void) s;
    if (in.type == JV_STR) {
        const struct jv  bound[3] = { jv_none(), jv_none(), jv_int(-1) };
        return jinja_slice(r, in, bound);
    }
    struct jv  list = jv_to_list(r, in);
    if (r->failed) {
        return list;
    }
    struct jv  out = jv_list_new(r, JV_LIST, list.list->len);
    for (size_t i = list.list->len; i-- > 0; ) {
        (void) jv_list_push(r, &out, list.list->items[i]);
    }
    if (!jinja_is_reversible(in)) {
        return out;
    }
    g.it.src = out;
    return jv_gen_new(r, &g);
}

/* ---- map and select ---------------------------------------------------------- */

/* The arguments after the first `skip` ones. */
static struct jv_args
jinja_rest(const struct jv_args *a, size_t skip)
{
    struct jv_args  rest = *a;
    skip = skip > a->num ? a->num : skip;
    rest.pos = a->pos == NULL ? NULL : a->pos + skip;
    rest.num = a->num - skip;
    return rest;
}

static bool
jinja_map_attribute(struct jinja_run *r, const struct jv_args *a,
                    struct jv_gen *g)
{
    g->fallback = jv_missing();
    for (size_t i = 0; i < a->num_kw; i++) {
        if (str_eq(a->kw_names[i], STR("attribute"))) {
            g->has_attr = true;
            g->attr = a->kw[i];
        } else if (str_eq(a->kw_names[i], STR("default"))) {
            g->fallback = a->kw[i];
        } else {
            (void) jinja_fail(r, "Unexpected keyword argument '%.*s'",
                              STR_ARG(a->kw_names[i]));
            return false;
        }
    }
    return g->has_attr;
}

static bool
jinja_has_keyword(const struct jv_args *a, struct str name)
{
    for (size_t i = 0; i < a->num_kw; i++) {
        if (str_eq(a->kw_names[i], name)) {
            return true;
        }
    }
    return false;
}

/* Nothing runs before the first item is asked for, as in jinja2; only a call
 * that is wrong for every input fails at once. */
static struct jv
f_map(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    const struct jv_args  *a = s->args;
    struct jv_gen          g = { .kind = JV_GEN_MAP };

    if (!jv_truth(r, in)) {
        g.kind = JV_GEN_ITER;
        g.it.src = jv_undefined();
        return jv_gen_new(r, &g);
    }
    if (a->num == 0 && jinja_has_keyword(a, STR("attribute"))) {
        if (!jinja_map_attribute(r, a, &g)) {
            return jv_undefined();
        }
    } else if (a->num == 0) {
        return jinja_fail(r, "map requires a filter argument");
    } else {
        struct jv  name = jv_to_str(r, a->pos[0]);
        g.filter = r->failed ? NULL : jinja_filter_find(jv_text(name));
        g.name = g.filter == NULL ? name : jv_missing();
        g.args = jinja_rest(a, 1);
    }
    g.it.src = in;
    return jv_gen_new(r, &g);
}

static struct jv
jinja_select(struct jinja_run *r, struct jv in, const struct jv_args *a,
             bool attr, bool negate)
{
    struct jv_gen  g = { .kind = JV_GEN_SELECT, .negate = negate,
                         .has_attr = attr };
    size_t         skip = attr;

    if (!jv_truth(r, in)) {
        g.kind = JV_GEN_ITER;
        g.it.src = jv_undefined();
        return jv_gen_new(r, &g);
    }
    if (attr) {
        if (a->num == 0) {
            return jinja_fail(r, "Missing parameter for attribute name");
        }
        g.attr = a->pos[0];
    }
    if (a->num > skip) {
        struct jv  name = jv_to_str(r, a->pos[skip]);
        g.test = r->failed ? NULL : jinja_test_find(jv_text(name));
        g.name = g.test == NULL ? name : jv_missing();
        g.args = jinja_rest(a, skip + 1);
    }
    g.it.src = in;
    return jv_gen_new(r, &g);
}

static struct jv
f_select(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    return jinja_select(r, in, s->args, false, false);
}

static struct jv
f_reject(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    return jinja_select(r, in, s->args, false, true);
}

static struct jv
f_selectattr(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    return jinja_select(r, in, s->args, true, false);
}

static struct jv
f_rejectattr(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    return jinja_select(r, in, s->args, true, true);
}

static struct jv
f_unique(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    struct jv_gen  g = { .kind = JV_GEN_UNIQUE };
    struct jv      seen = jv_dict_new(r, JV_DICT);

    g.case_sensitive = s->v[0].type != JV_MISSING && jv_truth(r, s->v[0]);
    g.has_attr = GIVEN(s->v[1]);
    g.attr = s->v[1];
    g.it.src = in;
    if (r->failed) {
        return jv_undefined();
    }
    g.seen = seen.dict;
    return jv_gen_new(r, &g);
}

/* ---- sorting ------------------------------------------------------------------ */

struct jinja_sort_item {
    struct jv key, val;
};

/* Stable merge sort from the bottom up, as many comparisons as Python's at
 * most; reverse keeps equal items in order, as sorted() does. */
static void
jinja_merge_sort(struct jinja_run *r, struct jinja_sort_item *a, size_t num,
                 bool reverse)
{
    struct jinja_sort_item  *tmp = arena_alloc(r->arena, num * sizeof *tmp);

    if (tmp == NULL) {
        (void) jinja_fail_memory(r);
        return;
    }
    for (size_t width = 1; width < num; width *= 2) {
        for (size_t lo = 0; lo < num && !r->failed; lo += 2 * width) {
            size_t  mid = lo + width < num ? lo + width : num;
            size_t  hi = lo + 2 * width < num ? lo + 2 * width : num;
            size_t  i = lo, k = mid;
            for (size_t out = lo; out < hi; out++) {
                bool  right = i >= mid;
                if (!right && k < hi) {
                    (void) jinja_charge(r, 32);
                    int  c = jv_compare(r, a[k].key, a[i].key, "<");
                    right = reverse ? c > 0 : c < 0;
                }
                tmp[out] = right ? a[k++] : a[i++];
            }
        }
        memcpy(a, tmp, num * sizeof *a);
    }
}

static struct jv
jinja_fold_key(struct jinja_run *r, struct jv key, bool case_sensitive)
{
    if (!case_sensitive && key.type == JV_STR) {
        return jinja_str_case(r, key.str, JCASE_LOWER);
    }
    return key;
}

/* "name,age": one key of several attributes. */
static struct jv
jinja_multi_key(struct jinja_run *r, struct jv item, struct jv attr,
                bool case_sensitive)
{
    struct jv  key = jv_list_new(r, JV_LIST, 1);

    if (attr.type != JV_STR) {
        item = jinja_attr_path(r, item, attr, jv_missing());
        (void) jv_list_push(r, &key, jinja_fold_key(r, item, case_sensitive));
        return key;
    }
    for (size_t begin = 0; begin <= attr.str->len && !r->failed; ) {
        size_t  end = begin;
        while (end < attr.str->len && attr.str->data[end] != ',') {
            end++;
        }
        struct jv  path = jv_str_piece(r, attr.str, begin, end);
        struct jv  part = jinja_attr_path(r, item, path, jv_missing());
        (void) jv_list_push(r, &key, jinja_fold_key(r, part, case_sensitive));
        begin = end + 1;
    }
    return key;
}

static struct jv
jinja_sorted(struct jinja_run *r, struct jinja_sort_item *items, size_t num,
             bool reverse)
{
    struct jv  out = jv_list_new(r, JV_LIST, num);

    if (num > 1 && !r->failed) {
        jinja_merge_sort(r, items, num, reverse);
    }
    for (size_t i = 0; i < num && !r->failed; i++) {
        (void) jv_list_push(r, &out, items[i].val);
    }
    return out;
}

static struct jv
f_sort(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    bool       reverse = s->v[0].type != JV_MISSING && jv_truth(r, s->v[0]);
    bool       exact = s->v[1].type != JV_MISSING && jv_truth(r, s->v[1]);
    struct jv  list = jv_to_list(r, in);

    if (r->failed) {
        return list;
    }
    size_t                   num = list.list->len;
    struct jinja_sort_item  *items = arena_calloc(r->arena, num + 1,
                                                  sizeof *items);
    if (items == NULL) {
        return jinja_fail_memory(r);
    }
    for (size_t i = 0; i < num && !r->failed; i++) {
        items[i].val = list.list->items[i];
        items[i].key = jinja_multi_key(r, items[i].val, s->v[2], exact);
    }
    return jinja_sorted(r, items, num, reverse);
}

static struct jv
f_dictsort(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    bool        exact = s->v[0].type != JV_MISSING && jv_truth(r, s->v[0]);
    bool        reverse = s->v[2].type != JV_MISSING && jv_truth(r, s->v[2]);
    struct str  by = s->v[1].type == JV_STR ? jv_text(s->v[1]) : STR("key");
    bool        unsafe;

    if (in.type == JV_UNDEFINED) {
        return jinja_undef_fail(r, in);
    }
    if (in.type != JV_DICT) {
        return jinja_fail(r, "'%s' object has no attribute 'items'",
                          jv_type_name(in));
    }
    if (!str_eq(by, STR("key")) && !str_eq(by, STR("value"))) {
        return jinja_fail(r, "You can only sort by either \"key\" or "
                          "\"value\"");
    }
    struct jv  pairs = jinja_method_find(JV_DICT, STR("items"), &unsafe)
                           ->fn(r, in, s);
    pairs = jv_to_list(r, pairs);
    size_t                   num = in.dict->len;
    struct jinja_sort_item  *items = arena_calloc(r->arena, num + 1,
                                                  sizeof *items);
    if (r->failed || items == NULL) {
        return jinja_fail_memory(r);
    }
    for (size_t i = 0; i < num && !r->failed; i++) {
        items[i].val = pairs.list->items[i];
        items[i].key = jinja_fold_key(r, by.data[0] == 'k' ? in.dict->keys[i]
                                                           : in.dict->vals[i],
                                      exact);
    }
    return jinja_sorted(r, items, num, reverse);
}

/* ---- sums and pieces ----------------------------------------------------------- */

static struct jv
jinja_extreme(struct jinja_run *r, struct jv in, struct jv_slots *s, bool max)
{
    struct jv_iter  it;
    struct jv       item, best = jv_missing(), best_key = jv_missing();
    bool  exact = s->v[0].type != JV_MISSING && jv_truth(r, s->v[0]);

    if (!jv_iter_init(r, &it, in)) {
        return jv_undefined();
    }
    while (jv_iter_next(r, &it, &item)) {
        struct jv  key = jinja_attr_path(r, item, s->v[1], jv_missing());
        key = jinja_fold_key(r, key, exact);
        int  c = best.type == JV_MISSING ? 1
                 : max ? jv_compare(r, key, best_key, ">")
                 : -jv_compare(r, key, best_key, "<");
        if (c > 0) {
            best = item;
            best_key = key;
        }
    }
    return best.type != JV_MISSING ? best : r->failed ? jv_undefined()
           : jinja_undef_hint(r, "No aggregated item, sequence was empty.");
}

static struct jv
f_min(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    return jinja_extreme(r, in, s, false);
}

static struct jv
f_max(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    return jinja_extreme(r, in, s, true);
}

static struct jv
f_sum(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    struct jv_iter  it;
    struct jv       item;
    struct jv       sum = s->v[1].type == JV_MISSING ? jv_int(0) : s->v[1];

    if (sum.type == JV_STR) {
        return jinja_fail(r, "sum() can't sum strings [use ''.join(seq) "
                          "instead]");
    }
    if (!jv_iter_init(r, &it, in)) {
        return jv_undefined();
    }
    while (jv_iter_next(r, &it, &item)) {
        if (GIVEN(s->v[0])) {
            item = jinja_attr_path(r, item, s->v[0], jv_missing());
        }
        sum = jinja_binary(r, JN_ADD, sum, item);
    }
    return sum;
}

/* Rows of g->num items; the last is filled up when a filler is given. */
struct jv
jinja_batch(struct jinja_run *r, const struct jv_gen *g)
{
    struct jv_iter  it;
    struct jv       item, out = jv_list_new(r, JV_LIST, 0);
    struct jv       row = jv_list_new(r, JV_LIST, 0);

    if (!jv_iter_init(r, &it, g->it.src)) {
        return jv_undefined();
    }
    while (jv_iter_next(r, &it, &item)) {
        if ((int64_t) row.list->len == g->num) {
            (void) jv_list_push(r, &out, row);
            row = jv_list_new(r, JV_LIST, 0);
        }
        (void) jv_list_push(r, &row, item);
    }
    if (!r->failed && row.list->len > 0) {
        while (GIVEN(g->fallback) && (int64_t) row.list->len < g->num
               && jinja_charge(r, 8))
        {
            (void) jv_list_push(r, &row, g->fallback);
        }
        (void) jv_list_push(r, &out, row);
    }
    return r->failed ? jv_undefined() : out;
}

/* g->num columns of nearly equal length. */
struct jv
jinja_slices(struct jinja_run *r, const struct jv_gen *g)
{
    struct jv  list = jv_to_list(r, g->it.src);
    struct jv  out = jv_list_new(r, JV_LIST, 0);

    if (r->failed || g->num <= 0) {
        return g->num == 0 ? jinja_fail(r, "integer division or modulo by "
                                        "zero") : out;
    }
    int64_t  len = (int64_t) list.list->len, each = len / g->num;
    int64_t  extra = len % g->num, begin = 0;
    for (int64_t i = 0; i < g->num && jinja_charge(r, 8); i++) {
        int64_t    end = begin + each + (i < extra);
        struct jv  part = jv_list_slice(r, list, (size_t) begin, (size_t) end);
        if (GIVEN(g->fallback) && i >= extra && !r->failed) {
            struct jv  one = jv_list_new(r, JV_LIST, 1);
            (void) jv_list_push(r, &one, g->fallback);
            part = r->failed ? one : jv_list_concat(r, part, one);
        }
        (void) jv_list_push(r, &out, part);
        begin = end;
    }
    return r->failed ? jv_undefined() : out;
}

static struct jv
jinja_rows(struct jinja_run *r, struct jv in, struct jv_slots *s,
           enum jv_gen_kind kind)
{
    struct jv_gen  g = { .kind = kind };

    g.it.src = in;
    g.fallback = s->v[1];
    return jinja_arg_int(r, s->v[0], &g.num) ? jv_gen_new(r, &g)
                                             : jv_undefined();
}

static struct jv
f_batch(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    return jinja_rows(r, in, s, JV_GEN_BATCH);
}

static struct jv
f_slice(struct jinja_run *r, struct jv in, struct jv_slots *s)
{
    return jinja_rows(r, in, s, JV_GEN_SLICE);
}

const struct jinja_filter  jinja_seq_filters[] = {
    { "list", f_list, "", 0 }, { "items", f_items, "", 0 },
    { "join", f_join, "d,attribute", 0 }, { "first", f_first, "", 0 },
    { "last", f_last, "", 0 }, { "reverse", f_reverse, "", 0 },
    { "map", f_map, "*", 0 }, { "select", f_select, "*", 0 },
    { "reject", f_reject, "*", 0 }, { "selectattr", f_selectattr, "*", 0 },
    { "rejectattr", f_rejectattr, "*", 0 },
    { "unique", f_unique, "case_sensitive,attribute", 0 },
    { "sort", f_sort, "reverse,case_sensitive,attribute", 0 },
    { "dictsort", f_dictsort, "case_sensitive,by,reverse", 0 },
    { "min", f_min, "case_sensitive,attribute", 0 },
    { "max", f_max, "case_sensitive,attribute", 0 },
    { "sum", f_sum, "attribute,start", 0 },
    { "batch", f_batch, "linecount,fill_with", 1 },
    { "slice", f_slice, "slices,fill_with", 1 },
    { NULL, NULL, NULL, 0 },
};
