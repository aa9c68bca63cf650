/* jinja_eval.c - one function for each kind of expression, and calls. */
#include "engine/text/jinja_int.h"

/* ---- arguments ------------------------------------------------------------ */

static void
jinja_spread_positional(struct jinja_run *r, struct jv *list, struct jv v)
{
    struct jv_iter  it;
    struct jv       item;

    if (jv_iter_init(r, &it, v)) {
        while (jv_iter_next(r, &it, &item)) {
            (void) jv_list_push(r, list, item);
        }
    }
}

static void
jinja_spread_keywords(struct jinja_run *r, struct jv_dict *kw, struct jv v)
{
    if (v.type != JV_DICT) {
        (void) jinja_fail(r, "argument after ** must be a mapping, not %s",
                          jv_type_name(v));
        return;
    }
    for (size_t i = 0; i < v.dict->len; i++) {
        if (v.dict->keys[i].type != JV_STR) {
            (void) jinja_fail(r, "keywords must be strings");
            return;
        }
        (void) jv_dict_set(r, kw, v.dict->keys[i], v.dict->vals[i]);
    }
}

/* Evaluates a call's arguments; caller is MISSING or a call block's body. */
static void
jinja_eval_args(struct jinja_run *r, const struct jinja_node *n,
                struct jv caller, struct jv_args *a)
{
    *a = (struct jv_args) { .num = 0 };
    if (n->list == NULL && n->list2 == NULL && n->c == NULL && n->d == NULL
        && caller.type == JV_MISSING)
    {
        return;
    }
    struct jv  pos = jv_list_new(r, JV_LIST, 0);
    struct jv  kw = jv_dict_new(r, JV_DICT);
    for (const struct jinja_node *i = n->list; i != NULL && !r->failed;
         i = i->next)
    {
        (void) jv_list_push(r, &pos, jinja_eval(r, i));
    }
    if (n->c != NULL && !r->failed) {
        jinja_spread_positional(r, &pos, jinja_eval(r, n->c));
    }
    for (const struct jinja_node *i = n->list2; i != NULL && !r->failed;
         i = i->next)
    {
        struct jv  v = jinja_eval(r, i->a);
        (void) jv_dict_set(r, kw.dict, jv_str_ref(r, i->name, false), v);
    }
    if (n->d != NULL && !r->failed) {
        jinja_spread_keywords(r, kw.dict, jinja_eval(r, n->d));
    }
    if (caller.type != JV_MISSING && !r->failed) {
        (void) jv_dict_set(r, kw.dict, jv_str_ref(r, STR("caller"), false),
                           caller);
    }
    if (r->failed) {
        return;
    }
    a->pos = pos.list->items;
    a->num = pos.list->len;
    a->num_kw = kw.dict->len;
    a->kw = kw.dict->vals;
    if (a->num_kw > 0) {
        a->kw_names = arena_alloc(r->arena, a->num_kw * sizeof *a->kw_names);
        if (a->kw_names == NULL) {
            a->num_kw = 0;
            (void) jinja_fail_memory(r);
            return;
        }
        for (size_t i = 0; i < a->num_kw; i++) {
            a->kw_names[i] = jv_text(kw.dict->keys[i]);
        }
    }
}

/* Position of a name in "a,b,c", -1 if it is not there. */
static int
jinja_param_find(const char *params, struct str name)
{
    int  i = 0;
    for (const char *p = params; *p != '\0'; i++) {
        const char  *end = strchr(p, ',');
        size_t       len = end == NULL ? strlen(p) : (size_t) (end - p);
        if (str_eq((struct str) { p, len }, name)) {
            return i;
        }
        if (end == NULL) {
            break;
        }
        p = end + 1;
    }
    return -1;
}

static int
jinja_param_count(const char *params)
{
    int  n = *params == '\0' ? 0 : 1;
    for (const char *p = params; *p != '\0'; p++) {
        n += *p == ',';
    }
    return n;
}

bool
jinja_bind_slots(struct jinja_run *r, const char *what, const char *params,
                 const struct jv_args *a, struct jv_slots *s)
{
    bool  no_keywords = *params == '/';

    s->args = a;
    for (int i = 0; i < JINJA_SLOTS_MAX; i++) {
        s->v[i] = jv_missing();
    }
    if (*params == '*') {
        return !r->failed;
    }
    params += no_keywords;
    size_t  max = (size_t) jinja_param_count(params);
    if (a->num > max) {
        (void) jinja_fail(r, "%s() takes at most %zu arguments (%zu given)",
                          what, max, a->num);
        return false;
    }
    for (size_t i = 0; i < a->num; i++) {
        s->v[i] = a->pos[i];
    }
    if (no_keywords && a->num_kw > 0) {
        (void) jinja_fail(r, "%s() takes no keyword arguments", what);
        return false;
    }
    for (size_t i = 0; i < a->num_kw; i++) {
        int  at = jinja_param_find(params, a->kw_names[i]);
        if (at < 0 || s->v[at].type != JV_MISSING) {
            (void) jinja_fail(r, at < 0 ? "%s() got an unexpected keyword "
                              "argument '%.*s'" : "%s() got multiple values "
                              "for argument '%.*s'", what,
                              STR_ARG(a->kw_names[i]));
            return false;
        }
        s->v[at] = a->kw[i];
    }
    return !r->failed;
}

static bool
jinja_has_required(struct jinja_run *r, const char *what, int num,
                   const struct jv_slots *s)
{
    for (int i = 0; i < num; i++) {
        if (s->v[i].type == JV_MISSING) {
            (void) jinja_fail(r, "%s() missing %d required argument%s", what,
                              num, num == 1 ? "" : "s");
            return false;
        }
    }
    return true;
}

/* ---- filters, tests, calls ------------------------------------------------ */

struct jv
jinja_apply_filter(struct jinja_run *r, const struct jinja_filter *f,
                   struct jv in, const struct jv_args *a)
{
    struct jv_slots  s;
    if (!jinja_bind_slots(r, f->name, f->params, a, &s)
        || !jinja_has_required(r, f->name, f->num_required, &s))
    {
        return jv_undefined();
    }
    return f->fn(r, in, &s);
}

bool
jinja_apply_test(struct jinja_run *r, const struct jinja_test *t,
                 struct jv in, const struct jv_args *a)
{
    if (a->num != t->num_args || a->num_kw > 0) {
        (void) jinja_fail(r, "test '%s' takes %zu arguments (%zu given)",
                          t->name, t->num_args, a->num + a->num_kw);
        return false;
    }
    return t->fn(r, in, a);
}

static struct jv
jinja_call_method(struct jinja_run *r, const struct jv_bound *b,
                  const struct jv_args *a)
{
    struct jv_slots  s;
    if (!jinja_bind_slots(r, b->method->name, b->method->params, a, &s)
        || !jinja_has_required(r, b->method->name, b->method->num_required,
                               &s))
    {
        return jv_undefined();
    }
    return b->method->fn(r, b->self, &s);
}

struct jv
jinja_call(struct jinja_run *r, struct jv f, const struct jv_args *a)
{
    if (r->failed) {
        return jv_undefined();
    }
    switch (f.type) {
    case JV_MACRO:
        return jinja_call_macro(r, f.macro, a);
    case JV_METHOD:
        return jinja_call_method(r, f.bound, a);
    case JV_GLOBAL:
        return f.global->fn(r, a);
    case JV_LOOP:
        return jinja_loop_recurse(r, f.loop, a);
    case JV_JOINER:
        if (!f.joiner->used) {
            f.joiner->used = true;
            return jv_str_lit(r, "");
        }
        return f.joiner->sep;
    case JV_UNDEFINED:
        return jinja_undef_fail(r, f);
    default:
        return jinja_fail(r, "'%s' object is not callable", jv_type_name(f));
    }
}

static struct jv
jinja_eval_call(struct jinja_run *r, const struct jinja_node *n,
                struct jv caller)
{
    struct jv_args  a;
    struct jv       f = jinja_eval(r, n->a);

    jinja_eval_args(r, n, caller, &a);
    r->line = n->line;
    return jinja_call(r, f, &a);
}

static struct jv
jinja_eval_filter(struct jinja_run *r, const struct jinja_node *n)
{
    struct jv_args  a;
    /* Without an input the filter belongs to a block, whose text the caller
     * has left in r->out. */
    struct jv       in = n->a == NULL ? jv_room_str(r, r->out, false)
                                      : jinja_eval(r, n->a);
    if (n->filter == NULL) {
        return jinja_fail(r, "No filter named '%.*s' found.",
                          STR_ARG(n->name));
    }
    jinja_eval_args(r, n, jv_missing(), &a);
    r->line = n->line;
    return r->failed ? jv_undefined()
                     : jinja_apply_filter(r, n->filter, in, &a);
}

static struct jv
jinja_eval_test(struct jinja_run *r, const struct jinja_node *n)
{
    struct jv_args  a;
    struct jv       in = jinja_eval(r, n->a);

    if (n->test == NULL) {
        return jinja_fail(r, "No test named '%.*s' found.", STR_ARG(n->name));
    }
    jinja_eval_args(r, n, jv_missing(), &a);
    if (r->failed) {
        return jv_undefined();
    }
    return jv_bool(jinja_apply_test(r, n->test, in, &a) != n->flag);
}

/* ---- the rest ------------------------------------------------------------- */

static struct jv
jinja_eval_list(struct jinja_run *r, const struct jinja_node *n)
{
    struct jv  list = jv_list_new(r, n->kind == JN_LIST ? JV_LIST : JV_TUPLE,
                                  0);
    for (const struct jinja_node *i = n->list; i != NULL && !r->failed;
         i = i->next)
    {
        (void) jv_list_push(r, &list, jinja_eval(r, i));
    }
    return list;
}

static struct jv
jinja_eval_dict(struct jinja_run *r, const struct jinja_node *n)
{
    struct jv  d = jv_dict_new(r, JV_DICT);
    for (const struct jinja_node *i = n->list; i != NULL && !r->failed;
         i = i->next)
    {
        struct jv  key = jinja_eval(r, i->a);
        struct jv  val = jinja_eval(r, i->b);
        if (!r->failed) {
            (void) jv_dict_set(r, d.dict, key, val);
        }
    }
    return d;
}

static bool
jinja_compare_op(struct jinja_run *r, enum jinja_cmp cmp, struct jv a,
                 struct jv b)
{
    static const char *const  ops[] = {
        [JCMP_LT] = "<", [JCMP_LE] = "<=", [JCMP_GT] = ">", [JCMP_GE] = ">=",
    };
    switch (cmp) {
    case JCMP_EQ:
        return jv_eq(r, a, b);
    case JCMP_NE:
        return !jv_eq(r, a, b);
    case JCMP_IN:
        return jv_contains(r, a, b);
    case JCMP_NOTIN:
        return !jv_contains(r, a, b);
    default: {
        int  c = jv_compare(r, a, b, ops[cmp]);
        return cmp == JCMP_LT ? c < 0 : cmp == JCMP_LE ? c <= 0
               : cmp == JCMP_GT ? c > 0 : c >= 0;
    }
    }
}

static struct jv
jinja_eval_compare(struct jinja_run *r, const struct jinja_node *n)
{
    struct jv  left = jinja_eval(r, n->a);
    for (const struct jinja_node *o = n->list; o != NULL; o = o->next) {
        struct jv  right = jinja_eval(r, o->a);
        if (r->failed || !jinja_compare_op(r, o->cmp, left, right)) {
            return jv_bool(false);
        }
        left = right;
    }
    return jv_bool(true);
}

static struct jv
jinja_eval_concat(struct jinja_run *r, const struct jinja_node *n)
{
    struct jv  v = jinja_eval(r, n->list);

    v = jv_to_plain(r, v);
    for (const struct jinja_node *i = n->list->next; i != NULL && !r->failed;
         i = i->next)
    {
        struct jv  part = jv_to_plain(r, jinja_eval(r, i));
        if (!r->failed) {
            v = jv_str_concat(r, v.str, part.str);
        }
    }
    return v;
}

static struct jv
jinja_eval_slice(struct jinja_run *r, const struct jinja_node *n)
{
    struct jv                 obj = jinja_eval(r, n->a), bound[3];
    const struct jinja_node  *nodes[3] = { n->b, n->c, n->d };

    for (int i = 0; i < 3; i++) {
        bound[i] = nodes[i] == NULL ? jv_missing() : jinja_eval(r, nodes[i]);
    }
    return r->failed ? jv_undefined() : jinja_slice(r, obj, bound);
}

static struct jv
jinja_eval_cond(struct jinja_run *r, const struct jinja_node *n)
{
    if (jv_truth(r, jinja_eval(r, n->b))) {
        return jinja_eval(r, n->a);
    }
    if (n->c != NULL) {
        return jinja_eval(r, n->c);
    }
    return jinja_undef_hint(r, "the inline if-expression evaluated to false "
                            "and no else section was defined.");
}

static struct jv
jinja_eval_kind(struct jinja_run *r, const struct jinja_node *n)
{
    struct jv  v;

    switch (n->kind) {
    case JN_CONST:
        return n->val;
    case JN_NAME:
        return jinja_lookup(r, n->sym);
    case JN_LIST:
    case JN_TUPLE:
        return jinja_eval_list(r, n);
    case JN_DICT:
        return jinja_eval_dict(r, n);
    case JN_GETATTR:
        v = jinja_eval(r, n->a);
        r->line = n->line;
        return r->failed ? jv_undefined() : jinja_getattr(r, v, n->val);
    case JN_GETITEM: {
        v = jinja_eval(r, n->a);
        struct jv  key = jinja_eval(r, n->b);
        r->line = n->line;
        return r->failed ? jv_undefined() : jinja_getitem(r, v, key);
    }
    case JN_SLICE:
        return jinja_eval_slice(r, n);
    case JN_CALL:
        return jinja_eval_call(r, n, jv_missing());
    case JN_FILTER:
        return jinja_eval_filter(r, n);
    case JN_TEST:
        return jinja_eval_test(r, n);
    case JN_NEG:
    case JN_POS:
    case JN_NOT:
        v = jinja_eval(r, n->a);
        return r->failed ? jv_undefined() : jinja_unary(r, n->kind, v);
    case JN_CONCAT:
        return jinja_eval_concat(r, n);
    case JN_AND:
        v = jinja_eval(r, n->a);
        return r->failed || !jv_truth(r, v) ? v : jinja_eval(r, n->b);
    case JN_OR:
        v = jinja_eval(r, n->a);
        return r->failed || jv_truth(r, v) ? v : jinja_eval(r, n->b);
    case JN_COMPARE:
        return jinja_eval_compare(r, n);
    case JN_COND:
        return jinja_eval_cond(r, n);
    case JN_CALLBLOCK: {
        struct jv_macro  *m = arena_alloc(r->arena, sizeof *m);
        if (m == NULL) {
            return jinja_fail_memory(r);
        }
        *m = (struct jv_macro) { n, n->name, r->scope };
        return jinja_eval_call(r, n->a, (struct jv) { .type = JV_MACRO,
                                                      .macro = m });
    }
    default: {
        v = jinja_eval(r, n->a);
        struct jv  b = jinja_eval(r, n->b);
        r->line = n->line;
        return jinja_binary(r, n->kind, v, b);
    }
    }
}

struct jv
jinja_eval(struct jinja_run *r, const struct jinja_node *n)
{
    if (n->kind == JN_CONST) {
        return n->val;
    }
    if (!jinja_enter(r)) {
        return jv_undefined();
    }
    r->line = n->line;
    struct jv  v = jinja_eval_kind(r, n);
    jinja_leave(r);
    return r->failed ? jv_undefined() : v;
}
