/* jinja_expr.c - the expression half of the parser; precedence as in jinja2. */
#include "engine/text/jinja_parse.h"

/* ---- tokens and nodes ---------------------------------------------------- */

static const struct jinja_token  jinja_tok_end = { .type = TK_EOF };

const struct jinja_token *
jinja_tok(struct jinja_parser *p)
{
    if (p->failed || p->pos >= p->num_toks) {
        return &jinja_tok_end;
    }
    return &p->toks[p->pos];
}

const struct jinja_token *
jinja_tok_ahead(struct jinja_parser *p)
{
    if (p->failed || p->pos + 1 >= p->num_toks) {
        return &jinja_tok_end;
    }
    return &p->toks[p->pos + 1];
}

void
jinja_tok_next(struct jinja_parser *p)
{
    if (p->pos < p->num_toks) {
        p->pos++;
    }
}

bool
jinja_tok_is(struct jinja_parser *p, enum jinja_tok type)
{
    return jinja_tok(p)->type == type;
}

bool
jinja_tok_is_name(struct jinja_parser *p, const char *name)
{
    const struct jinja_token  *k = jinja_tok(p);
    return k->type == TK_NAME && str_eq(k->text, str_from(name));
}

bool
jinja_tok_skip(struct jinja_parser *p, enum jinja_tok type)
{
    bool  is = jinja_tok_is(p, type);
    if (is) {
        jinja_tok_next(p);
    }
    return is;
}

bool
jinja_tok_skip_name(struct jinja_parser *p, const char *name)
{
    bool  is = jinja_tok_is_name(p, name);
    if (is) {
        jinja_tok_next(p);
    }
    return is;
}

static const char *
jinja_tok_describe(enum jinja_tok type)
{
    static const char *const  names[] = {
        [TK_EOF] = "end of template", [TK_DATA] = "template text",
        [TK_VAR_BEGIN] = "'{{'", [TK_VAR_END] = "'}}'",
        [TK_BLOCK_BEGIN] = "'{%'", [TK_BLOCK_END] = "'%}'",
        [TK_NAME] = "a name", [TK_STRING] = "a string",
        [TK_INT] = "an integer", [TK_FLOAT] = "a float", [TK_ADD] = "'+'",
        [TK_SUB] = "'-'", [TK_MUL] = "'*'", [TK_DIV] = "'/'",
        [TK_FLOORDIV] = "'//'", [TK_MOD] = "'%'", [TK_POW] = "'**'",
        [TK_TILDE] = "'~'", [TK_LPAREN] = "'('", [TK_RPAREN] = "')'",
        [TK_LBRACKET] = "'['", [TK_RBRACKET] = "']'", [TK_LBRACE] = "'{'",
        [TK_RBRACE] = "'}'", [TK_EQ] = "'=='", [TK_NE] = "'!='",
        [TK_GT] = "'>'", [TK_GE] = "'>='", [TK_LT] = "'<'", [TK_LE] = "'<='",
        [TK_ASSIGN] = "'='", [TK_DOT] = "'.'", [TK_COLON] = "':'",
        [TK_PIPE] = "'|'", [TK_COMMA] = "','", [TK_SEMICOLON] = "';'",
    };
    return names[type];
}

struct jinja_token
jinja_tok_expect(struct jinja_parser *p, enum jinja_tok type)
{
    struct jinja_token  k = *jinja_tok(p);
    if (k.type != type) {
        jinja_syntax(p, k.line, "expected %s, got %s", jinja_tok_describe(type),
                     jinja_tok_describe(k.type));
    }
    jinja_tok_next(p);
    return k;
}

/* Never NULL, so the parser needs no checks: after a failure all nodes are the
 * parser's sink, nothing is read from them and parsing ends. */
struct jinja_node *
jinja_node_new(struct jinja_parser *p, enum jinja_kind kind, uint32_t line)
{
    struct jinja_node  *n = NULL;

    if (!p->failed && ++p->t->num_nodes > JINJA_NODES_MAX) {
        jinja_syntax(p, line, "more than %u nodes", JINJA_NODES_MAX);
    }
    if (!p->failed) {
        n = arena_calloc(&p->t->arena, 1, sizeof *n);
        if (n == NULL) {
            jinja_syntax(p, line, "out of memory");
        }
    }
    if (n == NULL) {
        n = &p->sink;
        *n = (struct jinja_node) { .kind = kind };
    }
    n->kind = kind;
    n->line = line;
    return n;
}

uint32_t
jinja_intern(struct jinja_parser *p, struct str name)
{
    struct jinja  *t = p->t;

    for (uint32_t i = 0; i < t->num_syms; i++) {
        if (str_eq(t->syms[i].name, name)) {
            return i;
        }
    }
    if (t->num_syms == t->cap_syms) {
        uint32_t           cap = t->cap_syms == 0 ? 64 : t->cap_syms * 2;
        struct jinja_sym  *syms = arena_calloc(&t->arena, cap, sizeof *syms);
        if (syms == NULL) {
            jinja_syntax(p, 0, "out of memory");
            return 0;
        }
        if (t->num_syms > 0) {
            memcpy(syms, t->syms, t->num_syms * sizeof *syms);
        }
        t->syms = syms;
        t->cap_syms = cap;
    }
    t->syms[t->num_syms].name = name;
    t->syms[t->num_syms].global = jinja_global_find(name);
    return t->num_syms++;
}

static bool
jinja_deeper(struct jinja_parser *p)
{
    if (++p->depth > JINJA_PARSE_DEPTH_MAX) {
        jinja_syntax(p, jinja_tok(p)->line, "nested more than %d deep",
                     JINJA_PARSE_DEPTH_MAX);
    }
    return !p->failed;
}

/* ---- primary expressions ------------------------------------------------- */

static struct jinja_node *
jinja_const(struct jinja_parser *p, uint32_t line, struct jv v)
{
    struct jinja_node  *n = jinja_node_new(p, JN_CONST, line);
    n->val = v;
    return n;
}

static struct jinja_node *
jinja_const_str(struct jinja_parser *p, uint32_t line, struct str s)
{
    struct jv_str  *v = arena_calloc(&p->t->arena, 1, sizeof *v);
    if (v == NULL) {
        jinja_syntax(p, line, "out of memory");
        return jinja_node_new(p, JN_CONST, line);
    }
    v->data = s.data;
    v->len = s.len;
    v->ascii = jv_str_is_ascii(v);
    return jinja_const(p, line, (struct jv) { .type = JV_STR, .str = v });
}

/* Adjacent literals are one string. */
static struct jinja_node *
jinja_parse_strings(struct jinja_parser *p)
{
    uint32_t    line = jinja_tok(p)->line;
    struct str  s = jinja_tok(p)->text;

    jinja_tok_next(p);
    while (jinja_tok_is(p, TK_STRING)) {
        struct str  more = jinja_tok(p)->text;
        char       *data = arena_alloc(&p->t->arena, s.len + more.len + 1);
        if (data == NULL) {
            jinja_syntax(p, line, "out of memory");
            break;
        }
        memcpy(data, s.data, s.len);
        memcpy(data + s.len, more.data, more.len);
        s = (struct str) { data, s.len + more.len };
        jinja_tok_next(p);
    }
    return jinja_const_str(p, line, s);
}

static struct jinja_node *
jinja_parse_name(struct jinja_parser *p)
{
    static const struct {
        const char  *name;
        struct jv    v;
    } consts[] = {
        { "true", { .type = JV_BOOL, .b = true } },
        { "True", { .type = JV_BOOL, .b = true } },
        { "false", { .type = JV_BOOL, .b = false } },
        { "False", { .type = JV_BOOL, .b = false } },
        { "none", { .type = JV_NONE } }, { "None", { .type = JV_NONE } },
    };
    struct jinja_token  k = *jinja_tok(p);

    jinja_tok_next(p);
    for (size_t i = 0; i < sizeof consts / sizeof consts[0]; i++) {
        if (str_eq(k.text, str_from(consts[i].name))) {
            return jinja_const(p, k.line, consts[i].v);
        }
    }
    struct jinja_node  *n = jinja_node_new(p, JN_NAME, k.line);
    n->sym = jinja_intern(p, k.text);
    n->name = k.text;
    if (p->macro != NULL) {
        p->macro->uses_caller |= n->sym == p->t->sym_caller;
        p->macro->uses_varargs |= n->sym == p->t->sym_varargs;
        p->macro->uses_kwargs |= n->sym == p->t->sym_kwargs;
    }
    return n;
}

/* [a, b]: LIST with items in list. */
static struct jinja_node *
jinja_parse_list(struct jinja_parser *p)
{
    struct jinja_node   *n = jinja_node_new(p, JN_LIST, jinja_tok(p)->line);
    struct jinja_node  **tail = &n->list;

    jinja_tok_next(p);
    while (!p->failed && !jinja_tok_is(p, TK_RBRACKET)) {
        if (n->list != NULL) {
            jinja_tok_expect(p, TK_COMMA);
            if (jinja_tok_is(p, TK_RBRACKET)) {
                break;
            }
        }
        *tail = jinja_parse_expr(p, true);
        tail = &(*tail)->next;
    }
    jinja_tok_expect(p, TK_RBRACKET);
    return n;
}

/* {k: v}: DICT with PAIR nodes (a: key, b: value) in list. */
static struct jinja_node *
jinja_parse_dict(struct jinja_parser *p)
{
    struct jinja_node   *n = jinja_node_new(p, JN_DICT, jinja_tok(p)->line);
    struct jinja_node  **tail = &n->list;

    jinja_tok_next(p);
    while (!p->failed && !jinja_tok_is(p, TK_RBRACE)) {
        if (n->list != NULL) {
            jinja_tok_expect(p, TK_COMMA);
            if (jinja_tok_is(p, TK_RBRACE)) {
                break;
            }
        }
        struct jinja_node  *pair = jinja_node_new(p, JN_PAIR,
                                                  jinja_tok(p)->line);
        pair->a = jinja_parse_expr(p, true);
        jinja_tok_expect(p, TK_COLON);
        pair->b = jinja_parse_expr(p, true);
        *tail = pair;
        tail = &pair->next;
    }
    jinja_tok_expect(p, TK_RBRACE);
    return n;
}

static struct jinja_node *
jinja_parse_primary(struct jinja_parser *p)
{
    struct jinja_token   k = *jinja_tok(p);
    struct jinja_node   *n;

    switch (k.type) {
    case TK_NAME:
        return jinja_parse_name(p);
    case TK_STRING:
        return jinja_parse_strings(p);
    case TK_INT:
        jinja_tok_next(p);
        if (k.text.data != NULL) {
            n = jinja_const_str(p, k.line, k.text);
            n->val.type = JV_BIG;
            return n;
        }
        return jinja_const(p, k.line, jv_int(k.i));
    case TK_FLOAT:
        jinja_tok_next(p);
        return jinja_const(p, k.line, jv_float(k.f));
    case TK_LPAREN:
        jinja_tok_next(p);
        n = jinja_parse_tuple(p, false, true, JTUPLE_PAREN);
        jinja_tok_expect(p, TK_RPAREN);
        return n;
    case TK_LBRACKET:
        return jinja_parse_list(p);
    case TK_LBRACE:
        return jinja_parse_dict(p);
    default:
        jinja_syntax(p, k.line, "unexpected %s", jinja_tok_describe(k.type));
        return jinja_node_new(p, JN_CONST, k.line);
    }
}

static bool
jinja_tuple_ends(struct jinja_parser *p, enum jinja_tuple_end end)
{
    enum jinja_tok  type = jinja_tok(p)->type;

    if (type == TK_VAR_END || type == TK_BLOCK_END || type == TK_RPAREN
        || type == TK_EOF)
    {
        return true;
    }
    return (end == JTUPLE_IN && jinja_tok_is_name(p, "in"))
           || (end == JTUPLE_RECURSIVE && jinja_tok_is_name(p, "recursive"));
}

/* Assignment targets allow names, namespace attributes and parentheses. */
static struct jinja_node *
jinja_parse_simple(struct jinja_parser *p)
{
    if (jinja_tok_is(p, TK_NAME) && jinja_tok_ahead(p)->type == TK_DOT) {
        struct jinja_node  *n = jinja_node_new(p, JN_NSREF, jinja_tok(p)->line);
        n->sym = jinja_intern(p, jinja_tok(p)->text);
        jinja_tok_next(p);
        jinja_tok_next(p);
        n->name = jinja_tok_expect(p, TK_NAME).text;
        return n;
    }
    return jinja_parse_primary(p);
}

/* Several expressions with commas make a TUPLE (items in list), one is
 * itself. */
struct jinja_node *
jinja_parse_tuple(struct jinja_parser *p, bool simplified, bool with_cond,
                  enum jinja_tuple_end end)
{
    uint32_t             line = jinja_tok(p)->line;
    struct jinja_node   *first = NULL;
    struct jinja_node  **tail = &first;
    bool                 is_tuple = false;

    if (!jinja_deeper(p)) {
        return jinja_node_new(p, JN_CONST, line);
    }
    while (!p->failed) {
        if (first != NULL) {
            jinja_tok_expect(p, TK_COMMA);
        }
        if (jinja_tuple_ends(p, end)) {
            break;
        }
        *tail = simplified ? jinja_parse_simple(p)
                           : jinja_parse_expr(p, with_cond);
        tail = &(*tail)->next;
        if (!jinja_tok_is(p, TK_COMMA)) {
            break;
        }
        is_tuple = true;
    }
    p->depth--;
    if (!is_tuple && first != NULL) {
        return first;
    }
    if (first == NULL && end != JTUPLE_PAREN) {
        jinja_syntax(p, line, "Expected an expression, got %s",
                     jinja_tok_describe(jinja_tok(p)->type));
    }
    struct jinja_node  *n = jinja_node_new(p, JN_TUPLE, line);
    n->list = first;
    return n;
}

/* ---- postfix: attributes, subscripts, calls, filters, tests --------------- */

/* a[b], a[b:c:d]: GETITEM, or SLICE with bounds in b, c, d (NULL: absent). */
static struct jinja_node *
jinja_parse_subscript(struct jinja_parser *p, struct jinja_node *of)
{
    uint32_t             line = jinja_tok(p)->line;
    struct jinja_node   *n;
    struct jinja_node  **bounds[3];

    jinja_tok_next(p);
    if (!jinja_tok_is(p, TK_COLON)) {
        struct jinja_node  *key = jinja_parse_expr(p, true);
        if (!jinja_tok_is(p, TK_COLON)) {
            if (jinja_tok_is(p, TK_COMMA)) {
                struct jinja_node  *tuple = jinja_node_new(p, JN_TUPLE, line);
                tuple->list = key;
                for (struct jinja_node *last = key;
                     jinja_tok_skip(p, TK_COMMA); last = last->next)
                {
                    last->next = jinja_parse_expr(p, true);
                }
                key = tuple;
            }
            n = jinja_node_new(p, JN_GETITEM, line);
            n->a = of;
            n->b = key;
            jinja_tok_expect(p, TK_RBRACKET);
            return n;
        }
        n = jinja_node_new(p, JN_SLICE, line);
        n->b = key;
    } else {
        n = jinja_node_new(p, JN_SLICE, line);
    }
    n->a = of;
    bounds[0] = &n->b;
    bounds[1] = &n->c;
    bounds[2] = &n->d;
    for (int i = 1; i < 3 && jinja_tok_skip(p, TK_COLON); i++) {
        if (!jinja_tok_is(p, TK_COLON) && !jinja_tok_is(p, TK_RBRACKET)) {
            *bounds[i] = jinja_parse_expr(p, true);
        }
    }
    jinja_tok_expect(p, TK_RBRACKET);
    return n;
}

/* a.b: GETATTR with name and its string in val; a.0: GETITEM. */
static struct jinja_node *
jinja_parse_dot(struct jinja_parser *p, struct jinja_node *of)
{
    jinja_tok_next(p);
    struct jinja_token  k = *jinja_tok(p);
    jinja_tok_next(p);
    if (k.type == TK_INT) {
        struct jinja_node  *n = jinja_node_new(p, JN_GETITEM, k.line);
        n->a = of;
        n->b = jinja_const(p, k.line, jv_int(k.i));
        return n;
    }
    if (k.type != TK_NAME) {
        jinja_syntax(p, k.line, "expected name or number");
    }
    struct jinja_node  *n = jinja_node_new(p, JN_GETATTR, k.line);
    n->a = of;
    n->name = k.text;
    n->val = jinja_const_str(p, k.line, k.text)->val;
    return n;
}

/* Arguments into n: list positional, list2 KEYWORD nodes (name, a), c the
 * *args and d the **kwargs expression. */
static void
jinja_parse_args(struct jinja_parser *p, struct jinja_node *n)
{
    struct jinja_node  **pos = &n->list, **kw = &n->list2;
    bool                 first = true;

    jinja_tok_expect(p, TK_LPAREN);
    while (!p->failed && !jinja_tok_is(p, TK_RPAREN)) {
        if (!first) {
            jinja_tok_expect(p, TK_COMMA);
            if (jinja_tok_is(p, TK_RPAREN)) {
                break;
            }
        }
        first = false;
        bool      bad = false;
        uint32_t  line = jinja_tok(p)->line;
        if (jinja_tok_skip(p, TK_MUL)) {
            bad = n->c != NULL || n->d != NULL;
            n->c = jinja_parse_expr(p, true);
        } else if (jinja_tok_skip(p, TK_POW)) {
            bad = n->d != NULL;
            n->d = jinja_parse_expr(p, true);
        } else if (jinja_tok_is(p, TK_NAME)
                   && jinja_tok_ahead(p)->type == TK_ASSIGN)
        {
            bad = n->d != NULL;
            struct jinja_node  *k = jinja_node_new(p, JN_KEYWORD, line);
            k->name = jinja_tok(p)->text;
            jinja_tok_next(p);
            jinja_tok_next(p);
            k->a = jinja_parse_expr(p, true);
            *kw = k;
            kw = &k->next;
        } else {
            bad = n->c != NULL || n->d != NULL || n->list2 != NULL;
            *pos = jinja_parse_expr(p, true);
            pos = &(*pos)->next;
        }
        if (bad) {
            jinja_syntax(p, line, "invalid syntax for function call expression");
        }
    }
    jinja_tok_expect(p, TK_RPAREN);
}

/* f(args): CALL, a is f. */
static struct jinja_node *
jinja_parse_call(struct jinja_parser *p, struct jinja_node *f)
{
    struct jinja_node  *n = jinja_node_new(p, JN_CALL, jinja_tok(p)->line);
    n->a = f;
    jinja_parse_args(p, n);
    return n;
}

static struct jinja_node *
jinja_parse_postfix(struct jinja_parser *p, struct jinja_node *n)
{
    for (;;) {
        switch (jinja_tok(p)->type) {
        case TK_DOT:
            n = jinja_parse_dot(p, n);
            break;
        case TK_LBRACKET:
            n = jinja_parse_subscript(p, n);
            break;
        case TK_LPAREN:
            n = jinja_parse_call(p, n);
            break;
        default:
            return n;
        }
    }
}

/* "a.b": filters and tests may have dotted names. */
static struct str
jinja_parse_dotted(struct jinja_parser *p)
{
    struct str  name = jinja_tok_expect(p, TK_NAME).text;
    while (jinja_tok_skip(p, TK_DOT)) {
        struct str  part = jinja_tok_expect(p, TK_NAME).text;
        if (!p->failed) {
            name.len = (size_t) (part.data + part.len - name.data);
        }
    }
    return name;
}

/* An unknown filter or test fails the compilation, unless it stands in an `if`
 * statement or expression: then it fails when it is reached. */
static void
jinja_note_unknown(struct jinja_parser *p, struct jinja_node *n)
{
    if (!p->soft && p->unknown == NULL) {
        p->unknown = n;
        p->unknown_pos = p->pos;
    }
}

/* a|name(args): FILTER. */
static struct jinja_node *
jinja_parse_filter(struct jinja_parser *p, struct jinja_node *in)
{
    struct jinja_node  *n = jinja_node_new(p, JN_FILTER, jinja_tok(p)->line);

    n->a = in;
    n->name = jinja_parse_dotted(p);
    n->filter = jinja_filter_find(n->name);
    if (n->filter == NULL) {
        jinja_note_unknown(p, n);
    }
    if (jinja_tok_is(p, TK_LPAREN)) {
        jinja_parse_args(p, n);
    }
    return n;
}

struct jinja_node *
jinja_parse_filters(struct jinja_parser *p, struct jinja_node *in, bool bare)
{
    while (bare || jinja_tok_skip(p, TK_PIPE)) {
        in = jinja_parse_filter(p, in);
        bare = false;
    }
    return in;
}

/* A test's argument may stand without parentheses: `x is divisibleby 3`. */
static bool
jinja_starts_test_arg(struct jinja_parser *p)
{
    switch (jinja_tok(p)->type) {
    case TK_NAME:
        return !jinja_tok_is_name(p, "else") && !jinja_tok_is_name(p, "or")
               && !jinja_tok_is_name(p, "and");
    case TK_STRING: case TK_INT: case TK_FLOAT: case TK_LBRACKET: case TK_LBRACE:
        return true;
    default:
        return false;
    }
}

/* a is [not] name args: TEST, flag when negated. */
static struct jinja_node *
jinja_parse_test(struct jinja_parser *p, struct jinja_node *in)
{
    struct jinja_node  *n = jinja_node_new(p, JN_TEST, jinja_tok(p)->line);

    jinja_tok_next(p);
    n->a = in;
    n->flag = jinja_tok_skip_name(p, "not");
    n->name = jinja_parse_dotted(p);
    n->test = jinja_test_find(n->name);
    if (n->test == NULL) {
        jinja_note_unknown(p, n);
    }
    if (jinja_tok_is(p, TK_LPAREN)) {
        jinja_parse_args(p, n);
    } else if (jinja_starts_test_arg(p)) {
        if (jinja_tok_is_name(p, "is")) {
            jinja_syntax(p, n->line, "You cannot chain multiple tests with is");
        }
        n->list = jinja_parse_postfix(p, jinja_parse_primary(p));
    }
    return n;
}

/* -a, +a: NEG, POS of a. */
static struct jinja_node *
jinja_parse_unary(struct jinja_parser *p, bool with_filter)
{
    struct jinja_token   k = *jinja_tok(p);
    struct jinja_node   *n;

    if (!jinja_deeper(p)) {
        return jinja_node_new(p, JN_CONST, k.line);
    }
    if (k.type == TK_SUB || k.type == TK_ADD) {
        jinja_tok_next(p);
        n = jinja_node_new(p, k.type == TK_SUB ? JN_NEG : JN_POS, k.line);
        n->a = jinja_parse_unary(p, false);
    } else {
        n = jinja_parse_primary(p);
    }
    n = jinja_parse_postfix(p, n);
    while (with_filter) {
        if (jinja_tok_skip(p, TK_PIPE)) {
            n = jinja_parse_filter(p, n);
        } else if (jinja_tok_is_name(p, "is")) {
            n = jinja_parse_test(p, n);
        } else if (jinja_tok_is(p, TK_LPAREN)) {
            n = jinja_parse_call(p, n);
        } else {
            break;
        }
    }
    p->depth--;
    return n;
}

/* ---- operators ----------------------------------------------------------- */

static struct jinja_node *
jinja_binary_node(struct jinja_parser *p, enum jinja_kind kind,
                  struct jinja_node *a, struct jinja_node *b)
{
    struct jinja_node  *n = jinja_node_new(p, kind, a->line);
    n->a = a;
    n->b = b;
    return n;
}

static struct jinja_node *
jinja_parse_pow(struct jinja_parser *p)
{
    struct jinja_node  *n = jinja_parse_unary(p, true);
    while (jinja_tok_skip(p, TK_POW)) {
        n = jinja_binary_node(p, JN_POW, n, jinja_parse_unary(p, true));
    }
    return n;
}

static struct jinja_node *
jinja_parse_product(struct jinja_parser *p)
{
    struct jinja_node  *n = jinja_parse_pow(p);
    for (;;) {
        enum jinja_kind  kind;
        switch (jinja_tok(p)->type) {
        case TK_MUL: kind = JN_MUL; break;
        case TK_DIV: kind = JN_DIV; break;
        case TK_FLOORDIV: kind = JN_FLOORDIV; break;
        case TK_MOD: kind = JN_MOD; break;
        default: return n;
        }
        jinja_tok_next(p);
        n = jinja_binary_node(p, kind, n, jinja_parse_pow(p));
    }
}

/* a ~ b ~ c: CONCAT with parts in list. */
static struct jinja_node *
jinja_parse_concat(struct jinja_parser *p)
{
    struct jinja_node  *first = jinja_parse_product(p);
    if (!jinja_tok_is(p, TK_TILDE)) {
        return first;
    }
    struct jinja_node  *n = jinja_node_new(p, JN_CONCAT, first->line);
    struct jinja_node  *last = n->list = first;
    while (jinja_tok_skip(p, TK_TILDE)) {
        last->next = jinja_parse_product(p);
        last = last->next;
    }
    return n;
}

static struct jinja_node *
jinja_parse_sum(struct jinja_parser *p)
{
    struct jinja_node  *n = jinja_parse_concat(p);
    for (;;) {
        if (jinja_tok_skip(p, TK_ADD)) {
            n = jinja_binary_node(p, JN_ADD, n, jinja_parse_concat(p));
        } else if (jinja_tok_skip(p, TK_SUB)) {
            n = jinja_binary_node(p, JN_SUB, n, jinja_parse_concat(p));
        } else {
            return n;
        }
    }
}

static bool
jinja_tok_compare(struct jinja_parser *p, enum jinja_cmp *cmp)
{
    static const struct {
        enum jinja_tok  type;
        enum jinja_cmp  cmp;
    } ops[] = {
        { TK_EQ, JCMP_EQ }, { TK_NE, JCMP_NE }, { TK_LT, JCMP_LT },
        { TK_LE, JCMP_LE }, { TK_GT, JCMP_GT }, { TK_GE, JCMP_GE },
    };
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        if (jinja_tok_skip(p, ops[i].type)) {
            *cmp = ops[i].cmp;
            return true;
        }
    }
    if (jinja_tok_skip_name(p, "in")) {
        *cmp = JCMP_IN;
        return true;
    }
    if (jinja_tok_is_name(p, "not") && jinja_tok_ahead(p)->type == TK_NAME
        && str_eq(jinja_tok_ahead(p)->text, STR("in")))
    {
        jinja_tok_next(p);
        jinja_tok_next(p);
        *cmp = JCMP_NOTIN;
        return true;
    }
    return false;
}

/* a < b < c: COMPARE of a, OPERAND nodes (cmp, a) in list. */
static struct jinja_node *
jinja_parse_compare(struct jinja_parser *p)
{
    struct jinja_node   *first = jinja_parse_sum(p), *n = NULL;
    struct jinja_node  **tail = NULL;
    enum jinja_cmp       cmp;

    while (jinja_tok_compare(p, &cmp)) {
        if (n == NULL) {
            n = jinja_node_new(p, JN_COMPARE, first->line);
            n->a = first;
            tail = &n->list;
        }
        struct jinja_node  *o = jinja_node_new(p, JN_OPERAND, first->line);
        o->cmp = cmp;
        o->a = jinja_parse_sum(p);
        *tail = o;
        tail = &o->next;
    }
    return n == NULL ? first : n;
}

static struct jinja_node *
jinja_parse_not(struct jinja_parser *p)
{
    uint32_t  line = jinja_tok(p)->line;
    if (!jinja_tok_skip_name(p, "not")) {
        return jinja_parse_compare(p);
    }
    struct jinja_node  *n = jinja_node_new(p, JN_NOT, line);
    if (jinja_deeper(p)) {
        n->a = jinja_parse_not(p);
        p->depth--;
    }
    return n;
}

static struct jinja_node *
jinja_parse_and(struct jinja_parser *p)
{
    struct jinja_node  *n = jinja_parse_not(p);
    while (jinja_tok_skip_name(p, "and")) {
        n = jinja_binary_node(p, JN_AND, n, jinja_parse_not(p));
    }
    return n;
}

static struct jinja_node *
jinja_parse_or(struct jinja_parser *p)
{
    struct jinja_node  *n = jinja_parse_and(p);
    while (jinja_tok_skip_name(p, "or")) {
        n = jinja_binary_node(p, JN_OR, n, jinja_parse_and(p));
    }
    return n;
}

/* a if b else c: COND of b (test), a (then), c (else or NULL). */
struct jinja_node *
jinja_parse_expr(struct jinja_parser *p, bool with_cond)
{
    uint32_t  line = jinja_tok(p)->line;
    if (!jinja_deeper(p)) {
        return jinja_node_new(p, JN_CONST, line);
    }
    bool                soft = p->soft;
    size_t              start = p->pos;
    struct jinja_node  *n = jinja_parse_or(p);
    while (with_cond && jinja_tok_skip_name(p, "if")) {
        p->soft = true;
        if (p->unknown != NULL && p->unknown_pos >= start) {
            p->unknown = NULL;
        }
        struct jinja_node  *cond = jinja_node_new(p, JN_COND, line);
        cond->a = n;
        cond->b = jinja_parse_or(p);
        if (jinja_tok_skip_name(p, "else")) {
            cond->c = jinja_parse_expr(p, true);
        }
        n = cond;
    }
    p->soft = soft;
    p->depth--;
    return n;
}
