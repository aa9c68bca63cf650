/* jinja_lex.c - source text to tokens, with jinja2's whitespace rules.
 *
 * trim_blocks: the first newline after a block or comment is dropped.
 * lstrip_blocks: blanks between a line's start and a block or comment are
 * dropped.  "-" strips all whitespace on its side, "+" switches both off.
 * One newline at the end of the source is dropped; \r\n and \r are \n. */
#include "engine/text/jinja_parse.h"
#include "engine/base/utf8.h"

#include <stdlib.h>

struct jinja_lexer {
    struct jinja_parser *p;
    const char          *s;
    size_t               len, pos;
    uint32_t             line;
    size_t               line_pos;      /* `line` holds for this offset */
    bool                 line_starting;
    char                 open[JINJA_PARSE_DEPTH_MAX];   /* brackets in a tag */
    size_t               num_open;
};

static uint32_t
jinja_lex_line(struct jinja_lexer *x, size_t pos)
{
    for (; x->line_pos < pos; x->line_pos++) {
        if (x->s[x->line_pos] == '\n') {
            x->line++;
        }
    }
    return x->line;
}

static struct jinja_token *
jinja_emit(struct jinja_lexer *x, enum jinja_tok type)
{
    struct jinja_parser        *p = x->p;
    static struct jinja_token   dropped;

    if (p->num_toks == p->cap_toks) {
        size_t               cap = p->cap_toks == 0 ? 256 : p->cap_toks * 2;
        struct jinja_token  *toks = arena_calloc(&p->t->arena, cap,
                                                 sizeof *toks);
        if (toks == NULL) {
            jinja_syntax(p, 0, "out of memory");
            return &dropped;
        }
        if (p->num_toks > 0) {
            memcpy(toks, p->toks, p->num_toks * sizeof *toks);
        }
        p->toks = toks;
        p->cap_toks = cap;
    }
    struct jinja_token  *k = &p->toks[p->num_toks++];
    *k = (struct jinja_token) { .type = type };
    k->line = jinja_lex_line(x, x->pos);
    return k;
}

static void
jinja_emit_data(struct jinja_lexer *x, size_t begin, size_t end)
{
    if (begin < end) {
        jinja_emit(x, TK_DATA)->text = (struct str) { x->s + begin,
                                                      end - begin };
    }
}

static bool
jinja_at(const struct jinja_lexer *x, size_t pos, const char *lit)
{
    size_t  n = strlen(lit);
    return pos <= x->len && x->len - pos >= n
           && memcmp(x->s + pos, lit, n) == 0;
}

/* Start of the code point that ends at `end`. */
static size_t
jinja_cp_before(const struct jinja_lexer *x, size_t end, uint32_t *cp)
{
    size_t  i = end - 1;
    while (i > 0 && ((unsigned char) x->s[i] & 0xC0) == 0x80) {
        i--;
    }
    (void) utf8_decode(x->s + i, cp);
    return i;
}

static size_t
jinja_skip_space(const struct jinja_lexer *x, size_t pos)
{
    uint32_t  cp;
    while (pos < x->len) {
        int  n = utf8_decode(x->s + pos, &cp);
        if (!jinja_is_space(cp)) {
            break;
        }
        pos += (size_t) n;
    }
    return pos;
}

static size_t
jinja_rstrip(const struct jinja_lexer *x, size_t begin, size_t end)
{
    while (end > begin) {
        uint32_t  cp;
        size_t    i = jinja_cp_before(x, end, &cp);
        if (!jinja_is_space(cp)) {
            break;
        }
        end = i;
    }
    return end;
}

/* Where the data before a tag ends, after stripping by the tag's sign. */
static size_t
jinja_strip_before(const struct jinja_lexer *x, size_t begin, size_t end,
                   char sign, bool lstrip)
{
    if (sign == '-') {
        return jinja_rstrip(x, begin, end);
    }
    if (sign == '+' || !lstrip) {
        return end;
    }
    size_t  line = end;
    while (line > begin && x->s[line - 1] != '\n') {
        line--;
    }
    if (line == begin && !x->line_starting) {
        return end;
    }
    return jinja_rstrip(x, line, end) == line ? line : end;
}

/* Moves over "-%}", "+%}" or "%}" and what they trim; false if not there. */
static bool
jinja_skip_tag_end(struct jinja_lexer *x, const char *close, bool trim)
{
    size_t  pos = x->pos;
    char    sign = pos < x->len ? x->s[pos] : '\0';

    if (sign == '-' && jinja_at(x, pos + 1, close)) {
        x->pos = jinja_skip_space(x, pos + 3);
    } else if (trim && sign == '+' && jinja_at(x, pos + 1, close)) {
        x->pos = pos + 3;
    } else if (jinja_at(x, pos, close)) {
        x->pos = pos + 2;
        if (trim && x->pos < x->len && x->s[x->pos] == '\n') {
            x->pos++;
        }
    } else {
        return false;
    }
    x->line_starting = x->s[x->pos - 1] == '\n';
    return true;
}

/* ---- inside a tag -------------------------------------------------------- */

static int
jinja_hex(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char) (c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One escape of a Python string literal; `i` is after the backslash.  Returns
 * how many bytes it took, 0 for an escape that is kept as it stands. */
static size_t
jinja_unescape(struct str s, size_t i, char **w)
{
    static const char  from[] = "\\'\"abfnrtv";
    static const char  to[] = "\\'\"\a\b\f\n\r\t\v";
    char               c = s.data[i];
    size_t             digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    uint32_t           cp = 0;

    if (c == '\n') {
        return 1;
    }
    for (size_t k = 0; k < sizeof from - 1; k++) {
        if (c == from[k]) {
            *(*w)++ = to[k];
            return 1;
        }
    }
    if (c >= '0' && c <= '7') {
        size_t  n = 0;
        while (n < 3 && i + n < s.len && s.data[i + n] >= '0'
               && s.data[i + n] <= '7')
        {
            cp = cp * 8 + (uint32_t) (s.data[i + n++] - '0');
        }
        *w += utf8_encode(cp, *w);
        return n;
    }
    if (digits == 0 || s.len - i <= digits) {
        return 0;
    }
    for (size_t k = 1; k <= digits; k++) {
        int  h = jinja_hex(s.data[i + k]);
        if (h < 0) {
            return 0;
        }
        cp = cp << 4 | (uint32_t) h;
    }
    if (cp > 0x10FFFF || (cp >= 0xD800 && cp <= 0xDFFF)) {
        cp = 0xFFFD;
    }
    *w += utf8_encode(cp, *w);
    return digits + 1;
}

static void
jinja_lex_string(struct jinja_lexer *x)
{
    char    quote = x->s[x->pos];
    size_t  begin = x->pos + 1, end = begin;

    while (end < x->len && x->s[end] != quote) {
        end += x->s[end] == '\\' ? 2 : 1;
    }
    if (end >= x->len) {
        jinja_syntax(x->p, jinja_lex_line(x, x->pos), "unterminated string");
        return;
    }
    struct str  raw = { x->s + begin, end - begin };
    /* \ooo may become two bytes out of four, \uXXXX three out of six: never
     * longer than the source. */
    char       *data = arena_alloc(&x->p->t->arena, raw.len + 1);
    if (data == NULL) {
        jinja_syntax(x->p, 0, "out of memory");
        return;
    }
    char  *w = data;
    for (size_t i = 0; i < raw.len; ) {
        if (raw.data[i] == '\\' && i + 1 < raw.len) {
            size_t  n = jinja_unescape(raw, i + 1, &w);
            if (n > 0) {
                i += 1 + n;
                continue;
            }
        }
        *w++ = raw.data[i++];
    }
    jinja_emit(x, TK_STRING)->text = (struct str) { data, (size_t) (w - data) };
    x->pos = end + 1;
}

static bool
jinja_digit_at(const struct jinja_lexer *x, size_t pos)
{
    return pos < x->len && x->s[pos] >= '0' && x->s[pos] <= '9';
}

/* Digits that may be joined by single underscores; returns the end. */
static size_t
jinja_scan_digits(const struct jinja_lexer *x, size_t pos)
{
    while (jinja_digit_at(x, pos)
           || (pos < x->len && x->s[pos] == '_' && jinja_digit_at(x, pos + 1)))
    {
        pos++;
    }
    return pos;
}

static size_t
jinja_scan_float(const struct jinja_lexer *x, size_t pos, bool *is_float)
{
    size_t  end = jinja_scan_digits(x, pos);
    *is_float = false;
    if (pos > 0 && x->s[pos - 1] == '.') {
        return end;     /* matrix.0.1 is two subscripts */
    }
    if (end < x->len && x->s[end] == '.' && jinja_digit_at(x, end + 1)) {
        end = jinja_scan_digits(x, end + 1);
        *is_float = true;
    }
    if (end < x->len && (x->s[end] | 0x20) == 'e') {
        size_t  e = end + 1;
        if (e < x->len && (x->s[e] == '+' || x->s[e] == '-')) {
            e++;
        }
        if (jinja_digit_at(x, e)) {
            end = jinja_scan_digits(x, e);
            *is_float = true;
        }
    }
    return end;
}

static void
jinja_lex_number(struct jinja_lexer *x)
{
    char      text[64];
    size_t    n = 0;
    int       base = 10;
    bool      is_float = false;
    size_t    end = x->pos;
    uint32_t  line = jinja_lex_line(x, x->pos);

    if (x->s[end] == '0' && end + 2 < x->len) {
        char  c = (char) (x->s[end + 1] | 0x20);
        base = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 10;
    }
    if (base != 10) {
        end += 2;
        while (end < x->len && (jinja_hex(x->s[end]) >= 0
                                || x->s[end] == '_'))
        {
            end++;
        }
    } else {
        end = jinja_scan_float(x, end, &is_float);
    }
    for (size_t i = x->pos + (base != 10 ? 2 : 0); i < end; i++) {
        if (n + 1 == sizeof text) {
            jinja_syntax(x->p, line, "number of more than 63 digits");
            return;
        }
        if (x->s[i] != '_') {
            text[n++] = x->s[i];
        }
    }
    text[n] = '\0';
    struct jinja_token  *k = jinja_emit(x, is_float ? TK_FLOAT : TK_INT);
    if (is_float) {
        k->f = strtod(text, NULL);
    } else if (!jinja_parse_int((struct str) { text, n }, base, &k->i)) {
        k->text = arena_str(&x->p->t->arena, (struct str) { text, n });
        if (base != 10 || k->text.data == NULL) {
            jinja_syntax(x->p, line, "'%s' is not a 64-bit integer", text);
        }
    }
    x->pos = end;
}

static bool
jinja_lex_name(struct jinja_lexer *x)
{
    uint32_t  cp;
    size_t    end = x->pos;
    int       n = utf8_decode(x->s + end, &cp);

    if (!jinja_is_id_start(cp)) {
        return false;
    }
    while (end < x->len) {
        end += (size_t) n;
        if (end >= x->len) {
            break;
        }
        n = utf8_decode(x->s + end, &cp);
        if (!jinja_is_id_continue(cp)) {
            break;
        }
    }
    jinja_emit(x, TK_NAME)->text = (struct str) { x->s + x->pos, end - x->pos };
    x->pos = end;
    return true;
}

static bool
jinja_lex_bracket(struct jinja_lexer *x, char c)
{
    if (c == '(' || c == '[' || c == '{') {
        if (x->num_open == sizeof x->open) {
            jinja_syntax(x->p, jinja_lex_line(x, x->pos),
                         "brackets nested more than %d deep",
                         JINJA_PARSE_DEPTH_MAX);
            return false;
        }
        x->open[x->num_open++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        if (x->num_open == 0) {
            jinja_syntax(x->p, jinja_lex_line(x, x->pos), "unexpected '%c'", c);
            return false;
        }
        if (x->open[--x->num_open] != c) {
            jinja_syntax(x->p, jinja_lex_line(x, x->pos),
                         "unexpected '%c', expected '%c'", c,
                         x->open[x->num_open]);
            return false;
        }
    }
    return true;
}

static void
jinja_lex_operator(struct jinja_lexer *x)
{
    static const struct {
        const char     *text;
        enum jinja_tok  type;
    } ops[] = {
        { "//", TK_FLOORDIV }, { "**", TK_POW }, { "==", TK_EQ },
        { "!=", TK_NE }, { ">=", TK_GE }, { "<=", TK_LE }, { "+", TK_ADD },
        { "-", TK_SUB }, { "*", TK_MUL }, { "/", TK_DIV }, { "%", TK_MOD },
        { "~", TK_TILDE }, { "(", TK_LPAREN }, { ")", TK_RPAREN },
        { "[", TK_LBRACKET }, { "]", TK_RBRACKET }, { "{", TK_LBRACE },
        { "}", TK_RBRACE }, { ">", TK_GT }, { "<", TK_LT }, { "=", TK_ASSIGN },
        { ".", TK_DOT }, { ":", TK_COLON }, { "|", TK_PIPE }, { ",", TK_COMMA },
        { ";", TK_SEMICOLON },
    };
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        if (jinja_at(x, x->pos, ops[i].text)) {
            if (jinja_lex_bracket(x, ops[i].text[0])) {
                jinja_emit(x, ops[i].type);
                x->pos += strlen(ops[i].text);
            }
            return;
        }
    }
    uint32_t  cp;
    int       n = utf8_decode(x->s + x->pos, &cp);
    jinja_syntax(x->p, jinja_lex_line(x, x->pos), "unexpected char '%.*s'", n,
                 x->s + x->pos);
}

/* From after the tag's opening to after its end. */
static void
jinja_lex_tag(struct jinja_lexer *x, bool block)
{
    x->num_open = 0;
    while (!x->p->failed) {
        x->pos = jinja_skip_space(x, x->pos);
        if (x->pos >= x->len) {
            return;     /* the parser reports the missing end */
        }
        size_t  at = x->pos;
        if (x->num_open == 0
            && jinja_skip_tag_end(x, block ? "%}" : "}}", block))
        {
            size_t  after = x->pos;
            x->pos = at;
            jinja_emit(x, block ? TK_BLOCK_END : TK_VAR_END);
            x->pos = after;
            return;
        }
        char  c = x->s[at];
        if (c == '"' || c == '\'') {
            jinja_lex_string(x);
        } else if (c >= '0' && c <= '9') {
            jinja_lex_number(x);
        } else if (!jinja_lex_name(x)) {
            jinja_lex_operator(x);
        }
    }
}

/* ---- outside ------------------------------------------------------------- */

static void
jinja_lex_comment(struct jinja_lexer *x, uint32_t line)
{
    for (; x->pos < x->len; x->pos++) {
        if (jinja_skip_tag_end(x, "#}", true)) {
            return;
        }
    }
    jinja_syntax(x->p, line, "Missing end of comment tag");
}

/* At "{%", after its sign: is this a raw tag?  Returns the offset after the
 * word, 0 if not. */
static size_t
jinja_match_word_tag(const struct jinja_lexer *x, size_t pos, const char *word)
{
    pos = jinja_skip_space(x, pos);
    if (!jinja_at(x, pos, word)) {
        return 0;
    }
    return jinja_skip_space(x, pos + strlen(word));
}

static char
jinja_sign_at(const struct jinja_lexer *x, size_t pos)
{
    return pos < x->len && (x->s[pos] == '-' || x->s[pos] == '+') ? x->s[pos]
                                                                  : '\0';
}

static bool
jinja_lex_raw(struct jinja_lexer *x, size_t tag)
{
    char    sign = jinja_sign_at(x, tag + 2);
    size_t  pos = jinja_match_word_tag(x, tag + 2 + (sign != '\0'), "raw");

    if (pos == 0 || !(jinja_at(x, pos, "%}") || jinja_at(x, pos, "-%}"))) {
        return false;
    }
    jinja_emit_data(x, x->pos, jinja_strip_before(x, x->pos, tag, sign, true));
    x->pos = x->s[pos] == '-' ? jinja_skip_space(x, pos + 3) : pos + 2;
    x->line_starting = x->s[x->pos - 1] == '\n';
    for (size_t i = x->pos; i + 2 <= x->len; i++) {
        if (!jinja_at(x, i, "{%")) {
            continue;
        }
        char    s = jinja_sign_at(x, i + 2);
        size_t  after = jinja_match_word_tag(x, i + 2 + (s != '\0'), "endraw");
        if (after == 0) {
            continue;
        }
        size_t  begin = x->pos;
        bool    starting = x->line_starting;
        x->pos = after;
        if (jinja_skip_tag_end(x, "%}", true)) {
            size_t  resume = x->pos;
            bool    resume_starting = x->line_starting;
            x->line_starting = starting;
            x->pos = begin;
            jinja_emit_data(x, begin, jinja_strip_before(x, begin, i, s, true));
            x->pos = resume;
            x->line_starting = resume_starting;
            return true;
        }
        x->pos = begin;
    }
    jinja_syntax(x->p, jinja_lex_line(x, tag), "Missing end of raw directive");
    return true;
}

static size_t
jinja_find_tag(const struct jinja_lexer *x)
{
    size_t  i = x->pos;
    while (i + 1 < x->len) {
        const char  *q = memchr(x->s + i, '{', x->len - i - 1);
        if (q == NULL) {
            break;
        }
        if (q[1] == '%' || q[1] == '{' || q[1] == '#') {
            return (size_t) (q - x->s);
        }
        i = (size_t) (q - x->s) + 1;
    }
    return x->len;
}

static void
jinja_lex_root(struct jinja_lexer *x)
{
    while (x->pos < x->len && !x->p->failed) {
        size_t  tag = jinja_find_tag(x);
        if (tag == x->len) {
            jinja_emit_data(x, x->pos, tag);
            x->pos = tag;
            return;
        }
        char  kind = x->s[tag + 1];
        char  sign = jinja_sign_at(x, tag + 2);
        if (kind == '%' && jinja_lex_raw(x, tag)) {
            continue;
        }
        jinja_emit_data(x, x->pos,
                        jinja_strip_before(x, x->pos, tag, sign, kind != '{'));
        x->pos = tag;
        if (kind != '#') {
            jinja_emit(x, kind == '%' ? TK_BLOCK_BEGIN : TK_VAR_BEGIN);
        }
        x->pos = tag + 2 + (sign != '\0');
        x->line_starting = false;
        if (kind == '#') {
            jinja_lex_comment(x, jinja_lex_line(x, tag));
        } else {
            jinja_lex_tag(x, kind == '%');
        }
    }
}

void
jinja_lex(struct jinja_parser *p, struct str source)
{
    struct jinja_lexer  x = { .p = p, .line = 1, .line_starting = true };
    char               *s = arena_alloc(&p->t->arena, source.len + 1);

    if (s == NULL) {
        jinja_syntax(p, 0, "out of memory");
        return;
    }
    size_t  len = 0;
    for (size_t i = 0; i < source.len; i++) {
        char  c = source.data[i];
        if (c == '\r') {
            c = '\n';
            if (i + 1 < source.len && source.data[i + 1] == '\n') {
                i++;
            }
        }
        s[len++] = c;
    }
    if (len > 0 && s[len - 1] == '\n') {
        len--;
    }
    s[len] = '\0';
    x.s = s;
    x.len = len;
    jinja_lex_root(&x);
    jinja_emit(&x, TK_EOF);
}
