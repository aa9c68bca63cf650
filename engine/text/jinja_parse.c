/* jinja_parse.c - the statement half of the parser, and jinja_compile(). */
#include "engine/text/jinja_parse.h"
#include "engine/base/utf8.h"

#include <stdio.h>
#include <stdlib.h>

/* Nodes, tokens and strings of the largest source fit; see the limits. */
#define JINJA_COMPILE_BYTES_MAX  (64u << 20)

static struct jinja_node *jinja_parse_body(struct jinja_parser *p,
                                           const char *const *ends);

void
jinja_syntax(struct jinja_parser *p, uint32_t line, const char *fmt, ...)
{
    char     text[ERR_MESSAGE_BYTES];
    va_list  ap;

    if (p->failed) {
        return;
    }
    p->failed = true;
    va_start(ap, fmt);
    (void) vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    (void) err_set_http(p->err, 400, NULL, "chat template line %u: %s", line,
                        text);
}

/* A body that is a scope of its own: filters in it must exist. */
static struct jinja_node *
jinja_parse_scope(struct jinja_parser *p, const char *const *ends)
{
    bool  soft = p->soft;
    p->soft = false;
    struct jinja_node  *list = jinja_parse_body(p, ends);
    p->soft = soft;
    return list;
}

/* The body of a set or filter block: a loop around it cannot be left here. */
static struct jinja_node *
jinja_parse_caught(struct jinja_parser *p, const char *const *ends)
{
    int  num_loops = p->num_loops;
    p->num_loops = 0;
    struct jinja_node  *list = jinja_parse_scope(p, ends);
    p->num_loops = num_loops;
    return list;
}

static void
jinja_expect_name(struct jinja_parser *p, const char *name)
{
    if (!jinja_tok_skip_name(p, name)) {
        jinja_syntax(p, jinja_tok(p)->line, "expected '%s'", name);
    }
}

static bool
jinja_can_assign(const struct jinja_node *n)
{
    if (n->kind == JN_NAME || n->kind == JN_NSREF) {
        return true;
    }
    if (n->kind != JN_TUPLE || n->list == NULL) {
        return false;
    }
    for (const struct jinja_node *i = n->list; i != NULL; i = i->next) {
        if (i->kind != JN_NAME && i->kind != JN_NSREF
            && !(i->kind == JN_TUPLE && jinja_can_assign(i)))
        {
            return false;
        }
    }
    return true;
}

static struct jinja_node *
jinja_parse_target(struct jinja_parser *p, enum jinja_tuple_end end)
{
    struct jinja_node  *n = jinja_parse_tuple(p, true, true, end);
    if (!p->failed && !jinja_can_assign(n)) {
        jinja_syntax(p, n->line, "can't assign to this expression");
    }
    return n;
}

/* if: IF with a: test, list: then, list2: else; elif is an IF in list2. */
static struct jinja_node *
jinja_parse_if(struct jinja_parser *p)
{
    static const char *const  ends[] = { "elif", "else", "endif", NULL };
    static const char *const  end[] = { "endif", NULL };
    uint32_t                  line = jinja_tok(p)->line;
    struct jinja_node        *first = jinja_node_new(p, JN_IF, line);
    struct jinja_node        *n = first;
    bool                      soft = p->soft;

    p->soft = true;
    jinja_tok_next(p);
    while (!p->failed) {
        n->a = jinja_parse_tuple(p, false, false, JTUPLE_ANY);
        n->list = jinja_parse_body(p, ends);
        if (jinja_tok_skip_name(p, "elif")) {
            n->list2 = jinja_node_new(p, JN_IF, jinja_tok(p)->line);
            n = n->list2;
            continue;
        }
        if (jinja_tok_skip_name(p, "else")) {
            n->list2 = jinja_parse_body(p, end);
        }
        jinja_expect_name(p, "endif");
        break;
    }
    p->soft = soft;
    return first;
}

/* for: FOR with a: target, b: iterable, c: test or NULL, list: body, list2:
 * else, flag: recursive. */
static struct jinja_node *
jinja_parse_for(struct jinja_parser *p)
{
    static const char *const  ends[] = { "endfor", "else", NULL };
    static const char *const  end[] = { "endfor", NULL };
    struct jinja_node        *n = jinja_node_new(p, JN_FOR,
                                                 jinja_tok(p)->line);

    jinja_tok_next(p);
    n->a = jinja_parse_target(p, JTUPLE_IN);
    jinja_expect_name(p, "in");
    n->b = jinja_parse_tuple(p, false, false, JTUPLE_RECURSIVE);
    if (jinja_tok_skip_name(p, "if")) {
        bool  soft = p->soft;
        p->soft = false;
        n->c = jinja_parse_expr(p, true);
        p->soft = soft;
    }
    n->flag = jinja_tok_skip_name(p, "recursive");
    p->num_loops++;
    n->list = jinja_parse_scope(p, ends);
    p->num_loops--;
    if (jinja_tok_skip_name(p, "else")) {
        n->list2 = jinja_parse_scope(p, end);
    }
    jinja_expect_name(p, "endfor");
    return n;
}

/* set: SET with a: target, b: value; or SETBLOCK with a: target, list: body,
 * b: the filters around it (their innermost input is NULL) or NULL. */
static struct jinja_node *
jinja_parse_set(struct jinja_parser *p)
{
    static const char *const  end[] = { "endset", NULL };
    struct jinja_node        *n = jinja_node_new(p, JN_SET,
                                                 jinja_tok(p)->line);

    jinja_tok_next(p);
    n->a = jinja_parse_target(p, JTUPLE_ANY);
    if (jinja_tok_skip(p, TK_ASSIGN)) {
        n->b = jinja_parse_tuple(p, false, true, JTUPLE_ANY);
        return n;
    }
    n->kind = JN_SETBLOCK;
    n->b = jinja_parse_filters(p, NULL, false);
    n->list = jinja_parse_caught(p, end);
    jinja_expect_name(p, "endset");
    return n;
}

/* (a, b=1): NAME nodes (sym, a: default) into n->list. */
static void
jinja_parse_signature(struct jinja_parser *p, struct jinja_node *n)
{
    struct jinja_node  **tail = &n->list;
    bool                 defaults = false;

    jinja_tok_expect(p, TK_LPAREN);
    while (!p->failed && !jinja_tok_is(p, TK_RPAREN)) {
        if (n->list != NULL) {
            jinja_tok_expect(p, TK_COMMA);
        }
        struct jinja_token  k = jinja_tok_expect(p, TK_NAME);
        if (p->failed) {
            break;
        }
        struct jinja_node  *param = jinja_node_new(p, JN_NAME, k.line);
        param->sym = jinja_intern(p, k.text);
        param->name = k.text;
        if (jinja_tok_skip(p, TK_ASSIGN)) {
            param->a = jinja_parse_expr(p, true);
            defaults = true;
        } else if (defaults) {
            jinja_syntax(p, k.line,
                         "non-default argument follows default argument");
        }
        *tail = param;
        tail = &param->next;
    }
    jinja_tok_expect(p, TK_RPAREN);
}

/* The body of a macro or call block: a function of its own. */
static void
jinja_parse_function_body(struct jinja_parser *p, struct jinja_node *n,
                          const char *const *end)
{
    struct jinja_node  *outer = p->macro;
    int                 num_loops = p->num_loops;

    p->macro = n;
    p->num_loops = 0;
    n->list2 = jinja_parse_scope(p, end);
    p->num_loops = num_loops;
    p->macro = outer;
    if (outer != NULL) {
        outer->uses_caller |= n->uses_caller;
        outer->uses_varargs |= n->uses_varargs;
        outer->uses_kwargs |= n->uses_kwargs;
    }
    jinja_expect_name(p, end[0]);
}

/* macro: MACRO with sym and name, list: parameters, list2: body. */
static struct jinja_node *
jinja_parse_macro(struct jinja_parser *p)
{
    static const char *const  end[] = { "endmacro", NULL };
    struct jinja_node        *n = jinja_node_new(p, JN_MACRO,
                                                 jinja_tok(p)->line);

    jinja_tok_next(p);
    n->name = jinja_tok_expect(p, TK_NAME).text;
    n->sym = jinja_intern(p, n->name);
    jinja_parse_signature(p, n);
    jinja_parse_function_body(p, n, end);
    return n;
}

/* call: CALLBLOCK with a: the CALL, list: parameters, list2: body. */
static struct jinja_node *
jinja_parse_call_block(struct jinja_parser *p)
{
    static const char *const  end[] = { "endcall", NULL };
    struct jinja_node        *n = jinja_node_new(p, JN_CALLBLOCK,
                                                 jinja_tok(p)->line);

    jinja_tok_next(p);
    n->name = STR("caller");
    if (jinja_tok_is(p, TK_LPAREN)) {
        jinja_parse_signature(p, n);
    }
    n->a = jinja_parse_expr(p, true);
    if (!p->failed && n->a->kind != JN_CALL) {
        jinja_syntax(p, n->line, "expected call");
    }
    jinja_parse_function_body(p, n, end);
    return n;
}

/* filter: FILTERBLOCK with b: filters (innermost input NULL), list: body. */
static struct jinja_node *
jinja_parse_filter_block(struct jinja_parser *p)
{
    static const char *const  end[] = { "endfilter", NULL };
    struct jinja_node        *n = jinja_node_new(p, JN_FILTERBLOCK,
                                                 jinja_tok(p)->line);

    jinja_tok_next(p);
    n->b = jinja_parse_filters(p, NULL, true);
    n->list = jinja_parse_caught(p, end);
    jinja_expect_name(p, "endfilter");
    return n;
}

/* with: WITH with list: SET nodes, list2: body. */
static struct jinja_node *
jinja_parse_with(struct jinja_parser *p)
{
    static const char *const  end[] = { "endwith", NULL };
    struct jinja_node        *n = jinja_node_new(p, JN_WITH,
                                                 jinja_tok(p)->line);
    struct jinja_node       **tail = &n->list;

    jinja_tok_next(p);
    while (!p->failed && !jinja_tok_is(p, TK_BLOCK_END)) {
        if (n->list != NULL) {
            jinja_tok_expect(p, TK_COMMA);
        }
        struct jinja_node  *set = jinja_node_new(p, JN_SET,
                                                 jinja_tok(p)->line);
        struct jinja_token  k = jinja_tok_expect(p, TK_NAME);
        set->a = jinja_node_new(p, JN_NAME, k.line);
        if (!p->failed) {
            set->a->sym = jinja_intern(p, k.text);
            set->a->name = k.text;
        }
        jinja_tok_expect(p, TK_ASSIGN);
        set->b = jinja_parse_expr(p, true);
        *tail = set;
        tail = &set->next;
    }
    n->list2 = jinja_parse_scope(p, end);
    jinja_expect_name(p, "endwith");
    return n;
}

/* generation: marks what the assistant said; GENERATION with list2: body. */
static struct jinja_node *
jinja_parse_generation(struct jinja_parser *p)
{
    static const char *const  end[] = { "endgeneration", NULL };
    struct jinja_node        *n = jinja_node_new(p, JN_GENERATION,
                                                 jinja_tok(p)->line);

    jinja_tok_next(p);
    jinja_parse_function_body(p, n, end);
    return n;
}

static struct jinja_node *
jinja_parse_break(struct jinja_parser *p)
{
    struct jinja_token  k = *jinja_tok(p);
    bool                is_break = str_eq(k.text, STR("break"));

    jinja_tok_next(p);
    if (p->num_loops == 0) {
        jinja_syntax(p, k.line, "'%.*s' outside loop", STR_ARG(k.text));
    }
    return jinja_node_new(p, is_break ? JN_BREAK : JN_CONTINUE, k.line);
}

/* {{ a }}: OUTPUT with a: the expression. */
static struct jinja_node *
jinja_parse_output(struct jinja_parser *p)
{
    struct jinja_node  *n = jinja_node_new(p, JN_OUTPUT, jinja_tok(p)->line);
    jinja_tok_next(p);
    n->a = jinja_parse_tuple(p, false, true, JTUPLE_ANY);
    return n;
}

/* print a, b: OUTPUT with a: the expressions as one CONCAT. */
static struct jinja_node *
jinja_parse_print(struct jinja_parser *p)
{
    struct jinja_node   *n = jinja_node_new(p, JN_OUTPUT, jinja_tok(p)->line);
    struct jinja_node  **tail;

    jinja_tok_next(p);
    n->a = jinja_node_new(p, JN_CONCAT, n->line);
    tail = &n->a->list;
    do {
        *tail = jinja_parse_expr(p, true);
        tail = &(*tail)->next;
    } while (jinja_tok_skip(p, TK_COMMA));
    return n;
}

static struct jinja_node *
jinja_parse_statement(struct jinja_parser *p)
{
    static const struct {
        const char  *tag;
        struct jinja_node *(*parse)(struct jinja_parser *p);
    } tags[] = {
        { "if", jinja_parse_if }, { "for", jinja_parse_for },
        { "set", jinja_parse_set }, { "macro", jinja_parse_macro },
        { "call", jinja_parse_call_block }, { "with", jinja_parse_with },
        { "filter", jinja_parse_filter_block }, { "print", jinja_parse_print },
        { "generation", jinja_parse_generation },
        { "break", jinja_parse_break }, { "continue", jinja_parse_break },
    };
    const struct jinja_token  *k = jinja_tok(p);

    if (k->type != TK_NAME) {
        jinja_syntax(p, k->line, "tag name expected");
        return jinja_node_new(p, JN_DATA, k->line);
    }
    for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++) {
        if (str_eq(k->text, str_from(tags[i].tag))) {
            return tags[i].parse(p);
        }
    }
    jinja_syntax(p, k->line, "Encountered unknown tag '%.*s'.",
                 STR_ARG(k->text));
    return jinja_node_new(p, JN_DATA, k->line);
}

static bool
jinja_at_end_tag(struct jinja_parser *p, const char *const *ends)
{
    for (size_t i = 0; ends != NULL && ends[i] != NULL; i++) {
        if (jinja_tok_is_name(p, ends[i])) {
            return true;
        }
    }
    return false;
}

static struct jinja_node *
jinja_parse_data(struct jinja_parser *p)
{
    const struct jinja_token  *k = jinja_tok(p);
    struct jinja_node         *n = jinja_node_new(p, JN_DATA, k->line);
    struct jv_str             *s = arena_calloc(&p->t->arena, 1, sizeof *s);

    if (s == NULL) {
        jinja_syntax(p, k->line, "out of memory");
        return n;
    }
    s->data = k->text.data;
    s->len = k->text.len;
    n->val = (struct jv) { .type = JV_STR, .str = s };
    jinja_tok_next(p);
    return n;
}

/* Statements until one of the end tags, which is left as the next token; with
 * ends NULL until the end of the template. */
static struct jinja_node *
jinja_parse_body(struct jinja_parser *p, const char *const *ends)
{
    struct jinja_node   *first = NULL;
    struct jinja_node  **tail = &first;

    if (++p->depth > JINJA_PARSE_DEPTH_MAX) {
        jinja_syntax(p, jinja_tok(p)->line, "nested more than %d deep",
                     JINJA_PARSE_DEPTH_MAX);
    }
    if (ends != NULL) {
        (void) jinja_tok_skip(p, TK_COLON);
        jinja_tok_expect(p, TK_BLOCK_END);
    }
    while (!p->failed) {
        struct jinja_node  *n;
        uint32_t            line = jinja_tok(p)->line;
        if (jinja_tok_is(p, TK_DATA)) {
            n = jinja_parse_data(p);
        } else if (jinja_tok_is(p, TK_VAR_BEGIN)) {
            n = jinja_parse_output(p);
            jinja_tok_expect(p, TK_VAR_END);
        } else if (jinja_tok_skip(p, TK_BLOCK_BEGIN)) {
            if (jinja_at_end_tag(p, ends)) {
                break;
            }
            n = jinja_parse_statement(p);
            jinja_tok_expect(p, TK_BLOCK_END);
        } else {
            if (ends != NULL) {
                jinja_syntax(p, line, "Unexpected end of template. Jinja was "
                             "looking for '%s'.", ends[0]);
            }
            break;
        }
        *tail = n;
        tail = &n->next;
    }
    p->depth--;
    return first;
}

struct jinja_node *
jinja_parse_template(struct jinja_parser *p)
{
    struct jinja_node  *body = jinja_parse_body(p, NULL);
    if (!p->failed && !jinja_tok_is(p, TK_EOF)) {
        jinja_syntax(p, jinja_tok(p)->line, "text after the template's end");
    }
    if (!p->failed && p->unknown != NULL) {
        jinja_syntax(p, p->unknown->line, "No %s named '%.*s'.",
                     p->unknown->kind == JN_FILTER ? "filter" : "test",
                     STR_ARG(p->unknown->name));
    }
    return body;
}

int
jinja_compile(struct jinja **out, struct str source, struct err *err)
{
    *out = NULL;
    if (source.len > JINJA_SOURCE_BYTES_MAX) {
        return err_set_http(err, 400, NULL, "chat template of %zu bytes, the "
                            "limit is %u", source.len, JINJA_SOURCE_BYTES_MAX);
    }
    if (!utf8_is_valid(source.data, source.len)) {
        return err_set_http(err, 400, NULL, "chat template is not valid UTF-8");
    }
    struct jinja  *t = calloc(1, sizeof *t);
    if (t == NULL) {
        return err_set(err, "chat template: out of memory");
    }
    arena_init(&t->arena, JINJA_COMPILE_BYTES_MAX);
    struct jinja_parser  p = { .t = t, .err = err };
    t->sym_loop = jinja_intern(&p, STR("loop"));
    t->sym_caller = jinja_intern(&p, STR("caller"));
    t->sym_varargs = jinja_intern(&p, STR("varargs"));
    t->sym_kwargs = jinja_intern(&p, STR("kwargs"));
    jinja_lex(&p, source);
    t->body = jinja_parse_template(&p);
    if (p.failed) {
        jinja_destroy(t);
        return ERROR;
    }
    *out = t;
    return OK;
}

void
jinja_destroy(struct jinja *t)
{
    if (t != NULL) {
        arena_destroy(&t->arena);
        free(t);
    }
}

bool
jinja_uses(const struct jinja *t, const char *name)
{
    for (uint32_t i = 0; i < t->num_syms; i++) {
        if (str_eq(t->syms[i].name, str_from(name))) {
            return true;
        }
    }
    return false;
}
