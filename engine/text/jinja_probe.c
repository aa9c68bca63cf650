/* jinja_probe.c - finds out what a template does with message content.
 *
 * A small flow analysis: which names hold the list of messages, one message,
 * or a message's content, through for, set, with and macro parameters, until
 * nothing new is found.  Scopes are ignored: a name that ever holds content
 * counts as content.  vLLM's detection is the part of this without macros. */
#include "engine/text/jinja_int.h"

#include <stdlib.h>

#define JINJA_PROBE_DEPTH_MAX  2000
#define JINJA_PROBE_ROUNDS     8

enum jinja_holds { JHOLDS_NONE, JHOLDS_MESSAGES, JHOLDS_MESSAGE,
                   JHOLDS_CONTENT, JHOLDS_PART };

struct jinja_probe {
    const struct jinja        *t;
    enum jinja_holds          *holds;       /* [num_syms] */
    const struct jinja_node  **macros;      /* [num_syms], or NULL */
    struct jinja_content_use   use;
    bool                       changed;
};

static bool
jinja_key_is(const struct jinja_node *n, const char *key)
{
    if (n->kind == JN_GETATTR) {
        return str_eq(n->name, str_from(key));
    }
    return n->kind == JN_GETITEM && n->b->kind == JN_CONST
           && n->b->val.type == JV_STR
           && str_eq(jv_text(n->b->val), str_from(key));
}

static enum jinja_holds
jinja_holds_either(enum jinja_holds a, enum jinja_holds b)
{
    return a != JHOLDS_NONE ? a : b;
}

static enum jinja_holds
jinja_probe_expr(const struct jinja_probe *p, const struct jinja_node *n,
                 int depth)
{
    enum jinja_holds  of;

    if (n == NULL || depth > JINJA_PROBE_DEPTH_MAX) {
        return JHOLDS_NONE;
    }
    depth++;
    switch (n->kind) {
    case JN_NAME:
        return p->holds[n->sym];
    case JN_FILTER:
    case JN_SLICE:
        return jinja_probe_expr(p, n->a, depth);
    case JN_AND:
    case JN_OR:
        return jinja_holds_either(jinja_probe_expr(p, n->a, depth),
                                  jinja_probe_expr(p, n->b, depth));
    case JN_COND:
        return jinja_holds_either(jinja_probe_expr(p, n->a, depth),
                                  jinja_probe_expr(p, n->c, depth));
    case JN_GETATTR:
    case JN_GETITEM:
        of = jinja_probe_expr(p, n->a, depth);
        if (of == JHOLDS_MESSAGE) {
            return jinja_key_is(n, "content") ? JHOLDS_CONTENT : JHOLDS_NONE;
        }
        return of == JHOLDS_MESSAGES ? JHOLDS_MESSAGE
               : of == JHOLDS_CONTENT ? JHOLDS_PART : JHOLDS_NONE;
    default:
        return JHOLDS_NONE;
    }
}

static void
jinja_probe_learn(struct jinja_probe *p, const struct jinja_node *target,
                  enum jinja_holds holds)
{
    if (target->kind == JN_NAME && holds != JHOLDS_NONE
        && p->holds[target->sym] == JHOLDS_NONE)
    {
        p->holds[target->sym] = holds;
        p->changed = true;
    }
}

/* f(message.content): the macro's parameter holds content. */
static void
jinja_probe_call(struct jinja_probe *p, const struct jinja_node *n)
{
    if (n->a->kind != JN_NAME || p->macros[n->a->sym] == NULL) {
        return;
    }
    const struct jinja_node  *param = p->macros[n->a->sym]->list;
    for (const struct jinja_node *i = n->list; i != NULL && param != NULL;
         i = i->next, param = param->next)
    {
        jinja_probe_learn(p, param, jinja_probe_expr(p, i, 0));
    }
    for (const struct jinja_node *kw = n->list2; kw != NULL; kw = kw->next) {
        for (param = p->macros[n->a->sym]->list; param != NULL;
             param = param->next)
        {
            if (str_eq(param->name, kw->name)) {
                jinja_probe_learn(p, param, jinja_probe_expr(p, kw->a, 0));
            }
        }
    }
}

static bool
jinja_filter_walks(struct str name)
{
    return str_eq(name, STR("selectattr")) || str_eq(name, STR("rejectattr"))
           || str_eq(name, STR("map"));
}

static bool
jinja_test_asks_type(struct str name)
{
    return str_eq(name, STR("string")) || str_eq(name, STR("iterable"))
           || str_eq(name, STR("sequence")) || str_eq(name, STR("mapping"));
}

static void
jinja_probe_node(struct jinja_probe *p, const struct jinja_node *n)
{
    enum jinja_holds  of;

    switch (n->kind) {
    case JN_FOR:
        of = jinja_probe_expr(p, n->b, 0);
        p->use.iterated |= of == JHOLDS_CONTENT;
        jinja_probe_learn(p, n->a, of == JHOLDS_MESSAGES ? JHOLDS_MESSAGE
                                   : JHOLDS_NONE);
        break;
    case JN_SET:
        jinja_probe_learn(p, n->a, jinja_probe_expr(p, n->b, 0));
        break;
    case JN_MACRO:
        if (p->macros[n->sym] == NULL) {
            p->macros[n->sym] = n;
            p->changed = true;
        }
        break;
    case JN_CALL:
        jinja_probe_call(p, n);
        break;
    case JN_FILTER:
        p->use.iterated |= n->a != NULL && jinja_filter_walks(n->name)
                           && jinja_probe_expr(p, n->a, 0) == JHOLDS_CONTENT;
        break;
    case JN_TEST:
        p->use.string_tested |= jinja_test_asks_type(n->name);
        break;
    case JN_GETATTR:
    case JN_GETITEM:
        /* content[0].text */
        p->use.iterated |= (jinja_key_is(n, "text") || jinja_key_is(n, "type"))
                           && jinja_probe_expr(p, n->a, 0) == JHOLDS_PART;
        break;
    default:
        break;
    }
}

static void
jinja_probe_list(struct jinja_probe *p, const struct jinja_node *n, int depth)
{
    if (depth > JINJA_PROBE_DEPTH_MAX) {
        return;
    }
    for (; n != NULL; n = n->next) {
        jinja_probe_node(p, n);
        const struct jinja_node  *kids[] = { n->a, n->b, n->c, n->d, n->list,
                                             n->list2 };
        for (size_t i = 0; i < sizeof kids / sizeof kids[0]; i++) {
            if (kids[i] != NULL) {
                jinja_probe_list(p, kids[i], depth + 1);
            }
        }
    }
}

struct jinja_content_use
jinja_probe_content(const struct jinja *t)
{
    struct jinja_probe  p = { .t = t };

    p.holds = calloc(t->num_syms, sizeof *p.holds);
    p.macros = calloc(t->num_syms, sizeof *p.macros);
    if (p.holds != NULL && p.macros != NULL) {
        for (uint32_t i = 0; i < t->num_syms; i++) {
            if (str_eq(t->syms[i].name, STR("messages"))) {
                p.holds[i] = JHOLDS_MESSAGES;
            }
        }
        p.changed = true;
        for (int round = 0; p.changed && round < JINJA_PROBE_ROUNDS; round++) {
            p.changed = false;
            jinja_probe_list(&p, t->body, 0);
        }
    }
    free(p.holds);
    free(p.macros);
    return p.use;
}
