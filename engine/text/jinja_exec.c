/* jinja_exec.c - statements, scopes, loops and macros.
 *
 * Scopes as jinja2 has them: the body of a for loop, macro, call, filter,
 * with or set block is a scope; if is not.  A name is looked for from the
 * inside out; set binds in the innermost scope only. */
#include "engine/text/jinja_int.h"

/* ---- names ---------------------------------------------------------------- */

struct jv
jinja_lookup(struct jinja_run *r, uint32_t sym)
{
    for (const struct jinja_scope *s = r->scope; s != NULL; s = s->parent) {
        for (size_t i = s->len; i-- > 0; ) {
            if (s->binds[i].sym == sym) {
                return s->binds[i].val;
            }
        }
    }
    if (r->root[sym].type != JV_MISSING) {
        return r->root[sym];
    }
    const struct jinja_sym  *name = &r->t->syms[sym];
    if (name->global != NULL) {
        return (struct jv) { .type = JV_GLOBAL, .global = name->global };
    }
    return jinja_undef_new(r, jv_missing(), jv_str_ref(r, name->name, false));
}

void
jinja_bind_name(struct jinja_run *r, uint32_t sym, struct jv v)
{
    struct jinja_scope  *s = r->scope;

    if (s == NULL) {
        r->root[sym] = v;
        return;
    }
    for (size_t i = 0; i < s->len; i++) {
        if (s->binds[i].sym == sym) {
            s->binds[i].val = v;
            return;
        }
    }
    if (s->len == s->cap) {
        size_t              cap = s->cap == 0 ? 4 : s->cap * 2;
        struct jinja_bind  *binds = arena_alloc(r->arena, cap * sizeof *binds);
        if (binds == NULL) {
            (void) jinja_fail_memory(r);
            return;
        }
        if (s->len > 0) {
            memcpy(binds, s->binds, s->len * sizeof *binds);
        }
        s->binds = binds;
        s->cap = cap;
    }
    s->binds[s->len++] = (struct jinja_bind) { sym, v };
}

static struct jinja_scope *
jinja_scope_new(struct jinja_run *r, struct jinja_scope *parent)
{
    struct jinja_scope  *s = arena_calloc(r->arena, 1, sizeof *s);
    if (s == NULL) {
        (void) jinja_fail_memory(r);
        return NULL;
    }
    s->parent = parent;
    return s;
}

/* Runs a body in a scope of its own, below `parent`. */
static enum jinja_flow
jinja_exec_scope(struct jinja_run *r, const struct jinja_node *body,
                 struct jinja_scope *scope)
{
    struct jinja_scope  *outer = r->scope;
    enum jinja_flow      flow = JFLOW_NEXT;

    if (scope != NULL) {
        r->scope = scope;
        flow = jinja_exec(r, body);
        r->scope = outer;
    }
    return flow;
}

/* Runs a body with its output caught in a string. */
static struct jv
jinja_capture(struct jinja_run *r, const struct jinja_node *body,
              struct jinja_scope *scope)
{
    struct jv_room  *outer = r->out;

    r->out = jv_room_new(r, 0);
    if (r->out != NULL) {
        (void) jinja_exec_scope(r, body, scope);
    }
    struct jv  v = r->failed ? jv_undefined() : jv_room_str(r, r->out, false);
    r->out = outer;
    return v;
}

/* ---- assignment ----------------------------------------------------------- */

static void
jinja_assign(struct jinja_run *r, const struct jinja_node *target,
             struct jv v);

static void
jinja_unpack(struct jinja_run *r, const struct jinja_node *tuple, struct jv v)
{
    struct jv_iter            it;
    struct jv                 item;
    const struct jinja_node  *t = tuple->list;
    size_t                    want = 0, got = 0;

    if (!jv_is_iterable(v)) {
        (void) jinja_fail(r, "cannot unpack non-iterable %s object",
                          jv_type_name(v));
        return;
    }
    for (const struct jinja_node *i = t; i != NULL; i = i->next) {
        want++;
    }
    struct jv  items = jv_list_new(r, JV_LIST, want);
    (void) jv_iter_init(r, &it, v);
    while (got <= want && jv_iter_next(r, &it, &item)) {
        (void) jv_list_push(r, &items, item);
        got++;
    }
    if (got > want) {
        (void) jinja_fail(r, "too many values to unpack (expected %zu)", want);
    } else if (got < want) {
        (void) jinja_fail(r, "not enough values to unpack (expected %zu, got "
                          "%zu)", want, got);
    }
    for (size_t i = 0; !r->failed && i < want; i++, t = t->next) {
        jinja_assign(r, t, items.list->items[i]);
    }
}

/* Targets nest no deeper than the parser allows. */
static void
jinja_assign(struct jinja_run *r, const struct jinja_node *target, struct jv v)
{
    if (r->failed) {
        return;
    }
    if (target->kind == JN_TUPLE) {
        jinja_unpack(r, target, v);
    } else if (target->kind == JN_NSREF) {
        struct jv  ns = jinja_lookup(r, target->sym);
        if (ns.type != JV_NAMESPACE) {
            (void) jinja_fail(r, "cannot assign attribute on non-namespace "
                              "object");
            return;
        }
        (void) jv_dict_set(r, ns.dict, jv_str_ref(r, target->name, false), v);
    } else {
        jinja_bind_name(r, target->sym, v);
    }
}

/* The innermost filter of a block takes its input from r->out. */
static struct jv
jinja_filter_text(struct jinja_run *r, const struct jinja_node *filters,
                  struct jv text)
{
    struct jv_room  *outer = r->out;
    struct jv_room   in = { 0 };

    if (filters == NULL || r->failed) {
        return text;
    }
    in.data = (char *) text.str->data;
    in.len = in.cap = text.str->len;
    in.spans = (struct text_span *) text.str->spans;
    in.num_spans = in.cap_spans = text.str->num_spans;
    struct jv_room  *copy = arena_alloc(r->arena, sizeof *copy);
    if (copy == NULL) {
        return jinja_fail_memory(r);
    }
    *copy = in;
    r->out = copy;
    struct jv  v = jinja_eval(r, filters);
    r->out = outer;
    return v;
}

/* ---- loops ---------------------------------------------------------------- */

/* The next item that passes the loop's test. */
static bool
jinja_loop_pull(struct jinja_run *r, struct jv_loop *l, struct jv *out)
{
    if (l->node->c == NULL || l->it.rest != NULL) {
        return jv_iter_next(r, &l->it, out);
    }
    struct jinja_scope  *outer = r->scope;
    bool                 ok = false;

    while (!ok && jv_iter_next(r, &l->it, out)) {
        l->test_scope->len = 0;
        r->scope = l->test_scope;
        jinja_assign(r, l->node->a, *out);
        ok = jv_truth(r, jinja_eval(r, l->node->c)) && !r->failed;
        r->scope = outer;
    }
    return ok;
}

static bool
jinja_loop_peek(struct jinja_run *r, struct jv_loop *l)
{
    if (l->after.type == JV_MISSING && !l->exhausted) {
        l->exhausted = !jinja_loop_pull(r, l, &l->after);
        if (l->exhausted) {
            l->after = jv_missing();
        }
    }
    return l->after.type != JV_MISSING;
}

static bool
jinja_loop_advance(struct jinja_run *r, struct jv_loop *l, bool first)
{
    struct jv  next = l->after;

    if (next.type == JV_MISSING
        && (l->exhausted || !jinja_loop_pull(r, l, &next)))
    {
        l->exhausted = true;
        return false;
    }
    l->after = jv_missing();
    l->before = l->current;
    l->current = next;
    l->index0 += first ? 0 : 1;
    return !r->failed;
}

static int64_t
jinja_loop_length(struct jinja_run *r, struct jv_loop *l)
{
    size_t  len;

    if (l->length >= 0) {
        return l->length;
    }
    if (l->node->c == NULL && jv_len(r, l->iterable, &len)) {
        return l->length = (int64_t) len;
    }
    /* Only a walk tells: keep what it yields for the loop to come. */
    struct jv  rest = jv_list_new(r, JV_LIST, 8), item;
    bool       ahead = l->after.type != JV_MISSING;
    while (!l->exhausted && jinja_loop_pull(r, l, &item)) {
        (void) jv_list_push(r, &rest, item);
    }
    if (r->failed) {
        return 0;
    }
    l->it.rest = rest.list->items;
    l->it.num_rest = rest.list->len;
    l->it.rest_pos = 0;
    return l->length = (int64_t) (l->index0 + 1 + ahead + rest.list->len);
}

static struct jv
jinja_loop_neighbour(struct jinja_run *r, struct jv v, const char *hint)
{
    return v.type == JV_MISSING ? jinja_undef_hint(r, hint) : v;
}

struct jv
jinja_loop_attr(struct jinja_run *r, struct jv_loop *l, struct str name)
{
    int64_t  index0 = (int64_t) l->index0;

    if (str_eq(name, STR("index0"))) {
        return jv_int(index0);
    }
    if (str_eq(name, STR("index"))) {
        return jv_int(index0 + 1);
    }
    if (str_eq(name, STR("first"))) {
        return jv_bool(index0 == 0);
    }
    if (str_eq(name, STR("last"))) {
        return jv_bool(!jinja_loop_peek(r, l));
    }
    if (str_eq(name, STR("length"))) {
        return jv_int(jinja_loop_length(r, l));
    }
    if (str_eq(name, STR("revindex"))) {
        return jv_int(jinja_loop_length(r, l) - index0);
    }
    if (str_eq(name, STR("revindex0"))) {
        return jv_int(jinja_loop_length(r, l) - index0 - 1);
    }
    if (str_eq(name, STR("previtem"))) {
        return jinja_loop_neighbour(r, l->before, "there is no previous item");
    }
    if (str_eq(name, STR("nextitem"))) {
        (void) jinja_loop_peek(r, l);
        return jinja_loop_neighbour(r, l->after, "there is no next item");
    }
    if (str_eq(name, STR("depth0"))) {
        return jv_int(l->depth0);
    }
    if (str_eq(name, STR("depth"))) {
        return jv_int(l->depth0 + 1);
    }
    return jv_missing();    /* cycle and changed are methods */
}

static enum jinja_flow
jinja_loop_body(struct jinja_run *r, struct jv_loop *l,
                struct jinja_scope *scope)
{
    struct jinja_scope  *outer = r->scope;
    struct jv            loop = { .type = JV_LOOP, .loop = l };

    scope->len = 0;
    r->scope = scope;
    jinja_bind_name(r, r->t->sym_loop, loop);
    jinja_assign(r, l->node->a, l->current);
    enum jinja_flow  flow = r->failed ? JFLOW_BREAK
                                      : jinja_exec(r, l->node->list);
    r->scope = outer;
    return flow;
}

static void
jinja_run_loop(struct jinja_run *r, const struct jinja_node *n, struct jv v,
               int depth0)
{
    struct jv_loop      *l = arena_calloc(r->arena, 1, sizeof *l);
    struct jinja_scope  *scope = jinja_scope_new(r, r->scope);

    if (l == NULL || scope == NULL) {
        (void) jinja_fail_memory(r);
        return;
    }
    l->node = n;
    l->scope = r->scope;
    l->iterable = v;
    l->depth0 = depth0;
    l->length = -1;
    l->test_scope = n->c == NULL ? NULL : jinja_scope_new(r, r->scope);
    if (r->failed || !jv_iter_init(r, &l->it, v)) {
        return;
    }
    bool  any = false;
    while (jinja_loop_advance(r, l, !any)) {
        any = true;
        if (jinja_loop_body(r, l, scope) == JFLOW_BREAK || r->failed) {
            break;
        }
    }
    if (!any && !r->failed && n->list2 != NULL) {
        (void) jinja_exec_scope(r, n->list2, jinja_scope_new(r, r->scope));
    }
}

/* loop(children) in a recursive loop: the loop again, as text. */
struct jv
jinja_loop_recurse(struct jinja_run *r, struct jv_loop *l,
                   const struct jv_args *a)
{
    if (!l->node->flag) {
        return jinja_fail(r, "The loop must have the 'recursive' marker to be "
                          "called recursively.");
    }
    if (a->num != 1 || a->num_kw != 0) {
        return jinja_fail(r, "loop() takes one iterable");
    }
    if (r->call_depth >= JINJA_CALL_DEPTH_MAX) {
        return jinja_fail(r, "calls nested more than %d deep",
                          JINJA_CALL_DEPTH_MAX);
    }
    struct jinja_scope  *outer = r->scope;
    struct jv_room      *out = r->out;
    r->call_depth++;
    r->scope = l->scope;
    r->out = jv_room_new(r, 0);
    if (r->out != NULL) {
        jinja_run_loop(r, l->node, a->pos[0], l->depth0 + 1);
    }
    struct jv  v = r->failed ? jv_undefined() : jv_room_str(r, r->out, false);
    r->out = out;
    r->scope = outer;
    r->call_depth--;
    return v;
}

/* ---- macros --------------------------------------------------------------- */

static int
jinja_find_keyword(const struct jv_args *a, struct str name)
{
    for (size_t i = 0; i < a->num_kw; i++) {
        if (str_eq(a->kw_names[i], name)) {
            return (int) i;
        }
    }
    return -1;
}

static bool
jinja_is_param(const struct jinja_node *n, struct str name)
{
    for (const struct jinja_node *p = n->list; p != NULL; p = p->next) {
        if (str_eq(p->name, name)) {
            return true;
        }
    }
    return false;
}

/* varargs, kwargs and caller exist where the body mentions them; what nobody
 * takes is an error. */
static void
jinja_bind_extra(struct jinja_run *r, const struct jv_macro *m,
                 const struct jv_args *a, size_t num_params)
{
    const struct jinja_node  *n = m->node;
    struct jv                 rest = jv_list_new(r, JV_TUPLE, 0);
    struct jv                 kwargs = jv_dict_new(r, JV_DICT);
    bool                      has_caller = false;

    for (size_t i = num_params; i < a->num; i++) {
        (void) jv_list_push(r, &rest, a->pos[i]);
    }
    for (size_t i = 0; i < a->num_kw && !r->failed; i++) {
        struct str  name = a->kw_names[i];
        if (jinja_is_param(n, name)) {
            continue;
        }
        if (n->uses_caller && str_eq(name, STR("caller"))) {
            has_caller = true;
            jinja_bind_name(r, r->t->sym_caller, a->kw[i]);
        } else if (n->uses_kwargs) {
            (void) jv_dict_set(r, kwargs.dict, jv_str_ref(r, name, false),
                               a->kw[i]);
        } else {
            (void) jinja_fail(r, "macro '%.*s' takes no keyword argument "
                              "'%.*s'", STR_ARG(m->name), STR_ARG(name));
        }
    }
    if (n->uses_caller && !has_caller && !jinja_is_param(n, STR("caller"))) {
        jinja_bind_name(r, r->t->sym_caller,
                        jinja_undef_hint(r, "No caller defined"));
    }
    if (n->uses_kwargs) {
        jinja_bind_name(r, r->t->sym_kwargs, kwargs);
    }
    if (n->uses_varargs) {
        jinja_bind_name(r, r->t->sym_varargs, rest);
    } else if (a->num > num_params) {
        (void) jinja_fail(r, "macro '%.*s' takes not more than %zu "
                          "argument(s)", STR_ARG(m->name), num_params);
    }
}

static struct jv
jinja_missing_param(struct jinja_run *r, struct str name)
{
    struct jv_room  *b = jv_room_new(r, 64);
    if (b == NULL) {
        return jv_undefined();
    }
    jv_room_lit(r, b, "parameter '");
    jv_room_bytes(r, b, name.data, name.len, false);
    jv_room_bytes(r, b, "' was not provided", 19, false);   /* with the NUL */
    return r->failed ? jv_undefined() : jinja_undef_hint(r, b->data);
}

static void
jinja_bind_params(struct jinja_run *r, const struct jv_macro *m,
                  const struct jv_args *a)
{
    size_t  i = 0;

    for (const struct jinja_node *p = m->node->list; p != NULL && !r->failed;
         p = p->next, i++)
    {
        int  kw = jinja_find_keyword(a, p->name);
        if (i < a->num) {
            if (kw >= 0) {
                (void) jinja_fail(r, "macro '%.*s' takes no keyword argument "
                                  "'%.*s'", STR_ARG(m->name),
                                  STR_ARG(p->name));
            }
            jinja_bind_name(r, p->sym, a->pos[i]);
        } else if (kw >= 0) {
            jinja_bind_name(r, p->sym, a->kw[kw]);
        } else if (p->a != NULL) {
            jinja_bind_name(r, p->sym, jinja_eval(r, p->a));
        } else {
            jinja_bind_name(r, p->sym, jinja_missing_param(r, p->name));
        }
    }
    if (!r->failed) {
        jinja_bind_extra(r, m, a, i);
    }
}

struct jv
jinja_call_macro(struct jinja_run *r, const struct jv_macro *m,
                 const struct jv_args *a)
{
    struct jinja_scope  *outer = r->scope;
    struct jinja_scope  *scope = jinja_scope_new(r, m->scope);

    if (scope == NULL) {
        return jv_undefined();
    }
    if (r->call_depth >= JINJA_CALL_DEPTH_MAX) {
        return jinja_fail(r, "calls nested more than %d deep",
                          JINJA_CALL_DEPTH_MAX);
    }
    r->call_depth++;
    r->scope = scope;
    jinja_bind_params(r, m, a);
    r->scope = outer;
    struct jv  v = r->failed ? jv_undefined()
                             : jinja_capture(r, m->node->list2, scope);
    r->call_depth--;
    return v;
}

static void
jinja_exec_macro(struct jinja_run *r, const struct jinja_node *n)
{
    struct jv_macro  *m = arena_alloc(r->arena, sizeof *m);
    if (m == NULL) {
        (void) jinja_fail_memory(r);
        return;
    }
    *m = (struct jv_macro) { n, n->name, r->scope };
    jinja_bind_name(r, n->sym, (struct jv) { .type = JV_MACRO, .macro = m });
}

/* ---- statements ----------------------------------------------------------- */

static enum jinja_flow
jinja_exec_with(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_scope  *outer = r->scope;
    struct jinja_scope  *scope = jinja_scope_new(r, outer);

    if (scope == NULL) {
        return JFLOW_BREAK;
    }
    for (const struct jinja_node *set = n->list; set != NULL && !r->failed;
         set = set->next)
    {
        struct jv  v = jinja_eval(r, set->b);
        r->scope = scope;
        jinja_bind_name(r, set->a->sym, v);
        r->scope = outer;
    }
    return r->failed ? JFLOW_BREAK : jinja_exec_scope(r, n->list2, scope);
}

static void
jinja_exec_simple(struct jinja_run *r, const struct jinja_node *n)
{
    struct jv  v;

    switch (n->kind) {
    case JN_DATA:
        jv_room_bytes(r, r->out, n->val.str->data, n->val.str->len, false);
        break;
    case JN_OUTPUT:
        v = jinja_eval(r, n->a);
        if (!r->failed) {
            jv_print(r, r->out, v);
        }
        break;
    case JN_FOR:
        v = jinja_eval(r, n->b);
        if (!r->failed) {
            jinja_run_loop(r, n, v, 0);
        }
        break;
    case JN_SET:
        v = jinja_eval(r, n->b);
        jinja_assign(r, n->a, v);
        break;
    case JN_SETBLOCK:
        v = jinja_capture(r, n->list, jinja_scope_new(r, r->scope));
        jinja_assign(r, n->a, jinja_filter_text(r, n->b, v));
        break;
    case JN_FILTERBLOCK:
        v = jinja_capture(r, n->list, jinja_scope_new(r, r->scope));
        v = jinja_filter_text(r, n->b, v);
        if (!r->failed) {
            jv_print(r, r->out, v);
        }
        break;
    case JN_MACRO:
        jinja_exec_macro(r, n);
        break;
    case JN_CALLBLOCK:
        v = jinja_eval(r, n);
        if (!r->failed) {
            jv_print(r, r->out, v);
        }
        break;
    default:
        (void) jinja_exec_scope(r, n->list2, jinja_scope_new(r, r->scope));
    }
}

enum jinja_flow
jinja_exec(struct jinja_run *r, const struct jinja_node *list)
{
    enum jinja_flow  flow = JFLOW_NEXT;

    if (!jinja_enter(r)) {
        return JFLOW_BREAK;
    }
    for (const struct jinja_node *n = list; n != NULL && flow == JFLOW_NEXT;
         n = n->next)
    {
        r->line = n->line;
        if (!jinja_charge(r, 8)) {
            break;
        }
        if (n->kind == JN_IF) {
            bool  yes = jv_truth(r, jinja_eval(r, n->a));
            flow = r->failed ? JFLOW_BREAK
                             : jinja_exec(r, yes ? n->list : n->list2);
        } else if (n->kind == JN_WITH) {
            flow = jinja_exec_with(r, n);
        } else if (n->kind == JN_BREAK) {
            flow = JFLOW_BREAK;
        } else if (n->kind == JN_CONTINUE) {
            flow = JFLOW_CONTINUE;
        } else {
            jinja_exec_simple(r, n);
        }
    }
    jinja_leave(r);
    return r->failed ? JFLOW_BREAK : flow;
}
