/* onig.c - one pass over the pattern, writing PCRE2 as it goes.
 *
 * The start of the last atom in the output is remembered, because an interval
 * that PCRE2 would read as possessive has to be wrapped in a group.  A class
 * becomes [..] where it can; nested ones and intersections become lookaheads,
 * which match the same single character. */
#include "engine/text/onig.h"

#include <string.h>
#include "engine/base/utf8.h"
#include "engine/text/regex.h"

#define CLASS_NEST_MAX  8       /* trusted files nest 2 */

/* White_Space; PCRE2's \s also has U+180E. */
#define SET_SPACE  "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}"   \
                   "\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
/* Letters, marks, Nd, Nl, Pc and circled letters; outside of classes also
 * Latin-1's superscripts and fractions.  Measured over all code points. */
#define SET_WORD_IN  "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}"                     \
                     "\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}"               \
                     "\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"
#define SET_WORD   SET_WORD_IN "\\xb2\\xb3\\xb9\\xbc-\\xbe"
#define SET_HEX    "0-9a-fA-F"

struct onig {
    const char       *p, *end;
    struct buf       *out;
    struct onig_info *info;
    struct err       *err;
    size_t            atom;                    /* output offset, SIZE_MAX: none */
    size_t            group[REGEX_NEST_MAX];   /* output offset of each '(' */
    size_t            num_groups;
};

static const struct { const char *name, *code; }  onig_names[] = {
    { "letter", "L" }, { "mark", "M" }, { "number", "N" },
    { "punctuation", "P" }, { "symbol", "S" }, { "separator", "Z" },
    { "other", "C" }, { "uppercaseletter", "Lu" }, { "lowercaseletter", "Ll" },
    { "titlecaseletter", "Lt" }, { "modifierletter", "Lm" },
    { "otherletter", "Lo" }, { "nonspacingmark", "Mn" },
    { "spacingmark", "Mc" }, { "enclosingmark", "Me" },
    { "decimalnumber", "Nd" }, { "letternumber", "Nl" },
    { "othernumber", "No" }, { "connectorpunctuation", "Pc" },
    { "dashpunctuation", "Pd" }, { "openpunctuation", "Ps" },
    { "closepunctuation", "Pe" }, { "initialpunctuation", "Pi" },
    { "finalpunctuation", "Pf" }, { "otherpunctuation", "Po" },
    { "mathsymbol", "Sm" }, { "currencysymbol", "Sc" },
    { "modifiersymbol", "Sk" }, { "othersymbol", "So" },
    { "spaceseparator", "Zs" }, { "lineseparator", "Zl" },
    { "paragraphseparator", "Zp" }, { "control", "Cc" }, { "format", "Cf" },
    { "unassigned", "Cn" }, { "privateuse", "Co" }, { "alpha", "Alphabetic" },
    { "digit", "Nd" }, { "upper", "Uppercase" }, { "lower", "Lowercase" },
    { "cntrl", "Cc" },
};

static void
note_range(struct onig *o, uint32_t lo, uint32_t hi)
{
    if (hi < 0x80) {
        return;
    }
    if (o->info->num_ranges < ONIG_RANGES_MAX) {
        o->info->ranges[o->info->num_ranges] = (struct onig_range) { lo, hi };
    }
    o->info->num_ranges++;
}

static int
bad(struct onig *o, const char *what)
{
    return err_set(o->err, "regular expression: %s is not supported (at byte "
                   "%zu from its end)", what, (size_t) (o->end - o->p));
}

/* \p{Name}, \p{^Name}, \P{Name}; p is after the p.  Writes PCRE2's form. */
static int
onig_property(struct onig *o, bool negated, struct buf *out)
{
    char    name[64];
    size_t  n = 0;

    if (o->p >= o->end || *o->p != '{') {
        return bad(o, "\\p without {");
    }
    o->p++;
    if (o->p < o->end && *o->p == '^') {
        negated = !negated;
        o->p++;
    }
    for (; o->p < o->end && *o->p != '}'; o->p++) {
        char  c = *o->p;
        if (c == ' ' || c == '_' || c == '-') {
            continue;
        }
        if (n + 1 >= sizeof name) {
            return bad(o, "a long property name");
        }
        name[n++] = c >= 'A' && c <= 'Z' ? (char) (c + 32) : c;
    }
    if (o->p >= o->end) {
        return bad(o, "\\p{ without }");
    }
    o->p++;
    name[n] = '\0';
    o->info->has_classes = true;
    const char  *code = name;
    char         two[3] = { 0 };
    if (n <= 2 && n > 0) {                  /* a category: Lu, N */
        two[0] = name[0] >= 'a' && name[0] <= 'z' ? (char) (name[0] - 32)
                                                  : name[0];
        two[1] = name[1];
        code = two;
    }
    for (size_t i = 0; i < sizeof onig_names / sizeof onig_names[0]; i++) {
        if (strcmp(name, onig_names[i].name) == 0) {
            code = onig_names[i].code;
        }
    }
    buf_appendf(out, "\\%c{%s}", negated ? 'P' : 'p', code);
    return OK;
}

static int
hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The number after \x or \u; p is after that letter. */
static int
onig_hex(struct onig *o, int digits_max, uint32_t *cp)
{
    bool  braces = o->p < o->end && *o->p == '{';
    int   n = 0;

    *cp = 0;
    o->p += braces;
    digits_max = braces ? 8 : digits_max;
    while (o->p < o->end && n < digits_max && hex_digit(*o->p) >= 0) {
        *cp = *cp << 4 | (uint32_t) hex_digit(*o->p++);
        n++;
    }
    if (braces && (o->p >= o->end || *o->p++ != '}')) {
        return bad(o, "\\x{ without }");
    }
    if (n == 0 || *cp > 0x10FFFF) {
        return bad(o, "a code point of this form");
    }
    return OK;
}

static void
put_cp(struct buf *out, uint32_t cp)
{
    buf_appendf(out, "\\x{%x}", (unsigned) cp);
}

/* What a set-like escape stands for: the body of a class; NULL when c is not
 * one.  Lower-case c only. */
static const char *
set_of(char c)
{
    switch (c) {
    case 's': return SET_SPACE;
    case 'w': return SET_WORD;
    case 'd': return "\\p{Nd}";
    case 'h': return SET_HEX;
    default:  return NULL;
    }
}

/* A single character by escape: \n, \x41, \., ...; p is after the backslash.
 */
static int
onig_char_escape(struct onig *o, uint32_t *cp)
{
    char  c = *o->p;

    if ((unsigned char) c >= 0x80) {
        o->p += utf8_decode(o->p, cp);
        return OK;
    }
    o->p++;
    switch (c) {
    case 'n': *cp = '\n'; return OK;
    case 'r': *cp = '\r'; return OK;
    case 't': *cp = '\t'; return OK;
    case 'f': *cp = '\f'; return OK;
    case 'v': *cp = 0x0B; return OK;
    case 'a': *cp = 0x07; return OK;
    case 'e': *cp = 0x1B; return OK;
    case 'x': return onig_hex(o, 2, cp);
    case 'u': return onig_hex(o, 4, cp);
    default:
        if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z')
            || (c >= 'A' && c <= 'Z'))
        {
            char  what[16] = { '\\', c, '\0' };
            return bad(o, what);
        }
        *cp = (unsigned char) c;
        return OK;
    }
}

/* One operand of a class (between '[', '&&' and ']'): what can stand inside
 * one PCRE2 class, and what needs an alternative of its own. */
struct operand {
    struct buf body;
    struct buf extra;       /* "[...]|(?:...)", joined by | */
};

static void
extra_sep(struct operand *op)
{
    if (op->extra.len > 0) {
        buf_append_c(&op->extra, '|');
    }
}

static int onig_class(struct onig *o, struct buf *out, int depth);

static int
onig_posix(struct onig *o, struct operand *op)
{
    static const struct { const char *name, *set; }  sets[] = {
        { "alpha:]", "\\p{Alphabetic}" }, { "digit:]", "\\p{Nd}" },
        { "alnum:]", "\\p{Alphabetic}\\p{Nd}" }, { "space:]", SET_SPACE },
        { "upper:]", "\\p{Uppercase}" }, { "lower:]", "\\p{Lowercase}" },
        { "cntrl:]", "\\p{Cc}" }, { "xdigit:]", SET_HEX },
        { "word:]", SET_WORD_IN }, { "blank:]", "\\p{Zs}\\x09" },
        { "ascii:]", "\\x00-\\x7f" },
        { "punct:]", "\\p{P}\\p{S}" },
    };
    bool  negated = o->p < o->end && *o->p == '^';

    o->p += negated;
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        size_t  n = strlen(sets[i].name);
        if ((size_t) (o->end - o->p) >= n && memcmp(o->p, sets[i].name, n) == 0)
        {
            o->p += n;
            o->info->has_classes = true;
            if (negated) {
                extra_sep(op);
                buf_appendf(&op->extra, "[^%s]", sets[i].set);
            } else {
                buf_append_str(&op->body, str_from(sets[i].set));
            }
            return OK;
        }
    }
    return bad(o, "this [: :] class");
}

/* A set escape inside a class.  Returns AGAIN when it is a character. */
static int
class_set_escape(struct onig *o, struct operand *op)
{
    char         c = *o->p;
    const char  *set = set_of(c >= 'A' && c <= 'Z' ? (char) (c + 32) : c);

    if (c == 'p' || c == 'P') {
        o->p++;
        return onig_property(o, c == 'P', &op->body);
    }
    if (set == NULL) {
        return AGAIN;
    }
    o->p++;
    set = c == 'w' || c == 'W' ? SET_WORD_IN : set;
    o->info->has_classes = o->info->has_classes || set[1] == 'p';
    if (c >= 'a') {
        buf_append_str(&op->body, str_from(set));
    } else {
        extra_sep(op);
        buf_appendf(&op->extra, "[^%s]", set);
    }
    return OK;
}

static int
class_char(struct onig *o, uint32_t *cp)
{
    if (*o->p == '\\') {
        o->p++;
        if (o->p >= o->end) {
            return bad(o, "a trailing \\");
        }
        if (*o->p == 'b') {
            o->p++;
            *cp = 8;
            return OK;
        }
        return onig_char_escape(o, cp);
    }
    o->p += utf8_decode(o->p, cp);
    return OK;
}

/* A character or range. */
static int
class_range(struct onig *o, struct operand *op)
{
    uint32_t  lo, hi;

    if (class_char(o, &lo) != OK) {
        return ERROR;
    }
    hi = lo;
    bool  range = o->end - o->p >= 2 && o->p[0] == '-' && o->p[1] != ']'
                  && o->p[1] != '[';
    if (range && o->p[1] == '\\' && o->end - o->p >= 3
        && strchr("pPsSwWdDhH", o->p[2]) != NULL)
    {
        range = false;
    }
    if (range) {
        o->p++;
        if (class_char(o, &hi) != OK) {
            return ERROR;
        }
    }
    if (hi < lo) {
        return bad(o, "an empty range in a class");
    }
    put_cp(&op->body, lo);
    if (range) {
        buf_append_c(&op->body, '-');
        put_cp(&op->body, hi);
    }
    note_range(o, lo, hi);
    return OK;
}

/* Parses up to '&&' or the closing ']'; does not consume either. */
static int
class_operand(struct onig *o, struct operand *op, int depth)
{
    bool  first = true;

    for (;; first = false) {
        if (o->p >= o->end) {
            return bad(o, "a class without ]");
        }
        if ((*o->p == ']' && !first)
            || (o->end - o->p >= 2 && o->p[0] == '&' && o->p[1] == '&'))
        {
            return OK;
        }
        int  rc = AGAIN;
        if (o->end - o->p >= 2 && o->p[0] == '[' && o->p[1] == ':') {
            o->p += 2;
            rc = onig_posix(o, op);
        } else if (*o->p == '[') {
            extra_sep(op);
            rc = onig_class(o, &op->extra, depth + 1);
        } else if (o->end - o->p >= 2 && *o->p == '\\') {
            o->p++;
            rc = class_set_escape(o, op);
            if (rc == AGAIN) {
                o->p--;
            }
        }
        if (rc == AGAIN) {
            rc = class_range(o, op);
        }
        if (rc != OK) {
            return rc;
        }
    }
}

/* One operand as an expression matching one character; false when empty. */
static bool
operand_write(const struct operand *op, bool negated, struct buf *out)
{
    if (op->body.len == 0 && op->extra.len == 0) {
        return false;
    }
    if (op->extra.len == 0) {
        buf_append_str(out, negated ? STR("[^") : STR("["));
        buf_append_str(out, buf_str(&op->body));
        buf_append_c(out, ']');
        return true;
    }
    buf_append_str(out, negated ? STR("(?:(?!") : STR("(?:"));
    buf_append_str(out, buf_str(&op->extra));
    if (op->body.len > 0) {
        buf_append_lit(out, "|[");
        buf_append_str(out, buf_str(&op->body));
        buf_append_c(out, ']');
    }
    buf_append_str(out, negated ? STR(")(?s:.))") : STR(")"));
    return true;
}

/* [...] with p at the '['; appends an expression that matches one character.
 * Recursion is bounded by CLASS_NEST_MAX; patterns are the model's, not a
 * client's. */
static int
onig_class(struct onig *o, struct buf *out, int depth)
{
    struct buf  tests;                /* lookaheads of all but the last operand */
    bool        negated = false;
    int         rc = OK;

    if (depth > CLASS_NEST_MAX) {
        return bad(o, "so deeply nested a class");
    }
    buf_init(&tests, 4 * REGEX_PATTERN_BYTES_MAX);
    o->p++;
    if (o->p < o->end && *o->p == '^') {
        negated = true;
        o->p++;
    }
    for (;;) {
        struct operand  op;
        buf_init(&op.body, 4 * REGEX_PATTERN_BYTES_MAX);
        buf_init(&op.extra, 4 * REGEX_PATTERN_BYTES_MAX);
        rc = class_operand(o, &op, depth);
        bool  last = rc != OK || *o->p == ']';
        if (rc == OK) {
            bool  alone = last && tests.len == 0;
            o->p += last ? 1 : 2;
            if (!alone) {
                buf_append_str(&tests, last ? STR("") : STR("(?="));
            }
            if (!operand_write(&op, alone && negated, alone ? out : &tests)) {
                rc = bad(o, "an empty class");
            }
            if (!last) {
                buf_append_c(&tests, ')');
            } else if (!alone) {
                buf_appendf(out, negated ? "(?:(?!%.*s)(?s:.))" : "(?:%.*s)",
                            (int) tests.len, tests.data);
            }
        }
        out->failed = out->failed || op.body.failed || op.extra.failed;
        buf_destroy(&op.body);
        buf_destroy(&op.extra);
        if (last || rc != OK) {
            break;
        }
    }
    out->failed = out->failed || tests.failed;
    buf_destroy(&tests);
    return rc;
}

/* An escape outside classes; p is after the backslash. */
static int
onig_escape(struct onig *o)
{
    static const char  word_edge[] =
        "(?:(?<=[" SET_WORD "])(?![" SET_WORD "])"
        "|(?<![" SET_WORD "])(?=[" SET_WORD "]))";
    static const char  not_word_edge[] =
        "(?:(?<=[" SET_WORD "])(?=[" SET_WORD "])"
        "|(?<![" SET_WORD "])(?![" SET_WORD "]))";

    if (o->p >= o->end) {
        return bad(o, "a trailing \\");
    }
    char         c = *o->p;
    const char  *set = set_of(c >= 'A' && c <= 'Z' ? (char) (c + 32) : c);

    if (set != NULL) {
        o->p++;
        o->info->has_classes = o->info->has_classes || set[1] == 'p';
        buf_appendf(o->out, c >= 'a' ? "[%s]" : "[^%s]", set);
        return OK;
    }
    switch (c) {
    case 'p': case 'P':
        o->p++;
        return onig_property(o, c == 'P', o->out);
    case 'b': case 'B':
        o->p++;
        o->info->has_classes = true;
        buf_append_str(o->out, str_from(c == 'b' ? word_edge : not_word_edge));
        return OK;
    case 'A': case 'z': case 'Z': case 'G': case 'R': case 'X':
        o->p++;
        buf_append_c(o->out, '\\');
        buf_append_c(o->out, c);
        return OK;
    default: ;
        uint32_t  cp;
        if (onig_char_escape(o, &cp) != OK) {
            return ERROR;
        }
        put_cp(o->out, cp);
        note_range(o, cp, cp);
        return OK;
    }
}

/* '(' and what belongs to it; only the option letters differ. */
static int
onig_group(struct onig *o)
{
    if (o->num_groups == REGEX_NEST_MAX) {
        return bad(o, "so deeply nested a group");
    }
    o->group[o->num_groups++] = o->out->len;
    buf_append_c(o->out, *o->p++);
    if (o->end - o->p < 2 || *o->p != '?') {
        return OK;
    }
    if (strchr(":=!<>", o->p[1]) != NULL) {
        size_t  n = o->p[1] == '<' ? 3 : 2;
        if ((size_t) (o->end - o->p) < n) {
            return bad(o, "an unfinished group");
        }
        buf_append(o->out, o->p, n);
        o->p += n;
        return OK;
    }
    for (; o->p < o->end && *o->p != ':' && *o->p != ')'; o->p++) {
        if (strchr("?imx-", *o->p) == NULL) {
            return bad(o, "this group option");
        }
        buf_append_c(o->out, *o->p == 'm' ? 's' : *o->p);
    }
    if (o->p < o->end && *o->p == ':') {
        buf_append_c(o->out, *o->p++);
    }
    return OK;
}

/* {n,m}: AGAIN when the brace is a literal. */
static int
onig_interval(struct onig *o)
{
    const char  *q = o->p + 1;
    unsigned     lo = 0, hi = 0;
    bool         has_lo = false, has_hi = false, comma = false;

    for (; q < o->end && *q >= '0' && *q <= '9' && lo < 100000; q++) {
        lo = lo * 10 + (unsigned) (*q - '0');
        has_lo = true;
    }
    if (q < o->end && *q == ',') {
        comma = true;
        q++;
        for (; q < o->end && *q >= '0' && *q <= '9' && hi < 100000; q++) {
            hi = hi * 10 + (unsigned) (*q - '0');
            has_hi = true;
        }
    }
    if (q >= o->end || *q != '}' || (!has_lo && !has_hi)) {
        return AGAIN;
    }
    o->p = q + 1;
    char  tail = o->p < o->end ? *o->p : '\0';
    bool  wrap = tail == '+' || (tail == '?' && !comma);
    if (wrap) {
        if (o->atom == SIZE_MAX || !buf_reserve(o->out, 3)) {
            return bad(o, "a quantifier without a target");
        }
        memmove(o->out->data + o->atom + 3, o->out->data + o->atom,
                o->out->len - o->atom);
        memcpy(o->out->data + o->atom, "(?:", 3);
        o->out->len += 3;
    }
    if (!comma) {
        buf_appendf(o->out, "{%u}", lo);
    } else if (has_hi) {
        buf_appendf(o->out, "{%u,%u}", lo, hi);
    } else {
        buf_appendf(o->out, "{%u,}", lo);
    }
    if (wrap) {
        buf_append_c(o->out, ')');
    }
    return OK;
}

static int
onig_step(struct onig *o)
{
    size_t  start = o->out->len;
    int     rc = OK;

    switch (*o->p) {
    case '\\':
        o->p++;
        o->atom = start;
        return onig_escape(o);
    case '[':
        o->atom = start;
        return onig_class(o, o->out, 1);
    case '(':
        o->atom = SIZE_MAX;
        return onig_group(o);
    case ')':
        if (o->num_groups == 0) {
            return bad(o, "a ) without (");
        }
        o->atom = o->group[--o->num_groups];
        buf_append_c(o->out, *o->p++);
        return OK;
    case '{':
        rc = onig_interval(o);
        if (rc != AGAIN) {
            return rc;
        }
        o->atom = start;
        o->p++;
        buf_append_lit(o->out, "\\{");
        return OK;
    case '|': case '^': case '$': case '*': case '+': case '?':
        buf_append_c(o->out, *o->p++);
        return OK;
    default: ;
        uint32_t  cp;
        int       n = utf8_decode(o->p, &cp);
        o->atom = start;
        if (cp >= 0x80) {
            put_cp(o->out, cp);
            note_range(o, cp, cp);
        } else {
            buf_append_c(o->out, (char) cp);
        }
        o->p += n;
        return OK;
    }
}

int
onig_translate(struct str pattern, struct buf *out, struct onig_info *info,
               struct err *err)
{
    struct onig  o = { .p = pattern.data, .end = pattern.data + pattern.len,
                       .out = out, .info = info, .err = err,
                       .atom = SIZE_MAX };

    *info = (struct onig_info) { 0 };
    if (pattern.len > REGEX_PATTERN_BYTES_MAX) {
        return err_set(err, "regular expression: %zu bytes, the limit is %d",
                       pattern.len, REGEX_PATTERN_BYTES_MAX);
    }
    if (!utf8_is_valid(pattern.data, pattern.len)) {
        return err_set(err, "regular expression: not UTF-8");
    }
    while (o.p < o.end) {
        if (onig_step(&o) != OK) {
            return ERROR;
        }
    }
    if (o.num_groups != 0) {
        return bad(&o, "a ( without )");
    }
    if (info->num_ranges > ONIG_RANGES_MAX) {
        return err_set(err, "regular expression: %zu non-ASCII ranges, the "
                       "limit is %d", info->num_ranges, ONIG_RANGES_MAX);
    }
    return out->failed ? err_set(err, "regular expression: too long") : OK;
}
