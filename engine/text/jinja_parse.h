/* jinja_parse.h - tokens, and the parser's state shared by its files.
 *
 * Errors are sticky here too: after the first jinja_syntax() every token reads
 * as the end of the source, so all loops of the parser end. */
#ifndef LLM_TEXT_JINJA_PARSE_H
#define LLM_TEXT_JINJA_PARSE_H

#include "engine/text/jinja_int.h"

enum jinja_tok {
    TK_EOF, TK_DATA, TK_VAR_BEGIN, TK_VAR_END, TK_BLOCK_BEGIN, TK_BLOCK_END,
    TK_NAME, TK_STRING, TK_INT, TK_FLOAT,
    TK_ADD, TK_SUB, TK_MUL, TK_DIV, TK_FLOORDIV, TK_MOD, TK_POW, TK_TILDE,
    TK_LPAREN, TK_RPAREN, TK_LBRACKET, TK_RBRACKET, TK_LBRACE, TK_RBRACE,
    TK_EQ, TK_NE, TK_GT, TK_GE, TK_LT, TK_LE, TK_ASSIGN, TK_DOT, TK_COLON,
    TK_PIPE, TK_COMMA, TK_SEMICOLON
};

struct jinja_token {
    enum jinja_tok type;
    uint32_t       line;
    struct str     text;    /* NAME, DATA; STRING unescaped; an INT beyond 64
                               bits has its digits here */
    int64_t        i;
    double         f;
};

struct jinja_parser {
    struct jinja       *t;
    struct err         *err;
    bool                failed;
    struct jinja_token *toks;
    size_t              num_toks, cap_toks, pos;
    int                 depth;
    bool                soft;       /* an unknown filter is a runtime error */
    int                 num_loops;  /* open for loops of this function body */
    struct jinja_node  *macro;      /* innermost macro, for caller/varargs */
    struct jinja_node  *unknown;    /* first filter or test without a function */
    size_t              unknown_pos;
    struct jinja_node   sink;       /* stands for every node after a failure */
};

/* Reports the first error only. */
void jinja_syntax(struct jinja_parser *p, uint32_t line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* jinja_lex.c: fills p->toks from the source. */
void jinja_lex(struct jinja_parser *p, struct str source);

/* jinja_expr.c */
const struct jinja_token *jinja_tok(struct jinja_parser *p);
const struct jinja_token *jinja_tok_ahead(struct jinja_parser *p);
void jinja_tok_next(struct jinja_parser *p);
bool jinja_tok_is(struct jinja_parser *p, enum jinja_tok type);
bool jinja_tok_is_name(struct jinja_parser *p, const char *name);
bool jinja_tok_skip(struct jinja_parser *p, enum jinja_tok type);
bool jinja_tok_skip_name(struct jinja_parser *p, const char *name);
struct jinja_token jinja_tok_expect(struct jinja_parser *p,
                                    enum jinja_tok type);
struct jinja_node *jinja_node_new(struct jinja_parser *p, enum jinja_kind kind,
                                  uint32_t line);
uint32_t jinja_intern(struct jinja_parser *p, struct str name);
struct jinja_node *jinja_parse_expr(struct jinja_parser *p, bool with_cond);
enum jinja_tuple_end { JTUPLE_ANY, JTUPLE_IN, JTUPLE_RECURSIVE, JTUPLE_PAREN };
struct jinja_node *jinja_parse_tuple(struct jinja_parser *p, bool simplified,
                                     bool with_cond, enum jinja_tuple_end end);
/* A chain of filters after `in`; with in NULL the first one has no pipe. */
struct jinja_node *jinja_parse_filters(struct jinja_parser *p,
                                       struct jinja_node *in, bool bare);

/* jinja_parse.c */
struct jinja_node *jinja_parse_template(struct jinja_parser *p);

#endif
