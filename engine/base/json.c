/* json.c - strict RFC 8259 reader: one pass, an explicit stack, an arena.
 *
 * The text is checked to be UTF-8 once, up front; after that a string needs
 * only its escapes undone.  Invariant of the loop: `p->open[0..depth)` are the
 * containers around the cursor, and each of them has all its earlier members
 * linked in. */
#include "engine/base/json.h"
#include "engine/base/check.h"
#include "engine/base/hash.h"
#include "engine/base/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <sys/random.h>

/* Below this many members a plain comparison of all pairs is cheaper than a
 * table. */
#define JSON_DUP_LINEAR_MAX  12

const struct json_limits  json_limits_request = {
    .depth_max = 64, .values_max = 1 << 18, .members_max = 1 << 14,
    .key_bytes_max = 4096, .number_bytes_max = 256,
};

const struct json_limits  json_limits_file = {
    .depth_max = 64, .values_max = 1 << 24, .members_max = 1 << 22,
    .key_bytes_max = 1 << 16, .number_bytes_max = 256,
    .allow_duplicate_keys = true,
};

struct json_parser {
    const char               *start, *pos, *end;
    struct arena             *arena;
    const struct json_limits *limits;
    struct err               *err;
    uint32_t                  num_values;
    uint32_t                  depth;
    struct json              *open[JSON_DEPTH_CAP];
    bool                      keyed;      /* key is drawn */
    struct hash_key           key;
};

static int
json_fail(const struct json_parser *p, const char *at, const char *what)
{
    return err_set_http(p->err, 400, NULL, "invalid JSON at byte %zu: %s",
                        (size_t) (at - p->start), what);
}

static int
json_fail_limit(const struct json_parser *p, const char *what, uint32_t limit)
{
    return err_set_http(p->err, 400, NULL,
                        "invalid JSON at byte %zu: %s, the limit is %u",
                        (size_t) (p->pos - p->start), what, limit);
}

static int
json_fail_memory(const struct json_parser *p)
{
    return err_set_http(p->err, 400, NULL,
                        "JSON needs more memory than its limit of %zu bytes",
                        p->arena->limit_bytes);
}

static void
json_skip_space(struct json_parser *p)
{
    while (p->pos < p->end && (*p->pos == ' ' || *p->pos == '\n'
                               || *p->pos == '\r' || *p->pos == '\t'))
    {
        p->pos++;
    }
}

static bool
json_is_digit(const struct json_parser *p)
{
    return p->pos < p->end && *p->pos >= '0' && *p->pos <= '9';
}

/* ---- strings ------------------------------------------------------------- */

static int
json_hex4(const char *s, uint32_t *out)
{
    uint32_t  v = 0;
    for (int i = 0; i < 4; i++) {
        unsigned char  c = (unsigned char) s[i];
        uint32_t       d;
        if (c >= '0' && c <= '9') {
            d = (uint32_t) c - '0';
        } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
            d = (uint32_t) (c | 0x20) - 'a' + 10;
        } else {
            return ERROR;
        }
        v = v << 4 | d;
    }
    *out = v;
    return OK;
}

/* Reads \uXXXX, or a surrogate pair, with p->pos at the 'u'. */
static int
json_unescape_u(struct json_parser *p, char **out)
{
    const char  *at = p->pos - 1;
    uint32_t     cp, low;

    if (p->end - p->pos < 5 || json_hex4(p->pos + 1, &cp) != OK) {
        return json_fail(p, at, "\\u needs four hexadecimal digits");
    }
    p->pos += 5;
    if (cp >= 0xDC00 && cp <= 0xDFFF) {
        return json_fail(p, at, "lone low surrogate");
    }
    if (cp >= 0xD800 && cp <= 0xDBFF) {
        if (p->end - p->pos < 6 || p->pos[0] != '\\' || p->pos[1] != 'u'
            || json_hex4(p->pos + 2, &low) != OK || low < 0xDC00
            || low > 0xDFFF)
        {
            return json_fail(p, at, "lone high surrogate");
        }
        p->pos += 6;
        cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
    }
    *out += utf8_encode(cp, *out);
    return OK;
}

static int
json_unescape(struct json_parser *p, char **out)
{
    static const char  from[] = "\"\\/bfnrt";
    static const char  to[] = "\"\\/\b\f\n\r\t";

    p->pos++;
    if (p->pos == p->end) {
        return json_fail(p, p->pos, "unterminated string");
    }
    if (*p->pos == 'u') {
        return json_unescape_u(p, out);
    }
    for (size_t i = 0; i < sizeof from - 1; i++) {
        if (*p->pos == from[i]) {
            *(*out)++ = to[i];
            p->pos++;
            return OK;
        }
    }
    return json_fail(p, p->pos - 1, "unknown escape");
}

/* Moves to the next quote, backslash or control byte. */
static void
json_scan_plain(struct json_parser *p)
{
    while (p->pos < p->end && *p->pos != '"' && *p->pos != '\\'
           && (unsigned char) *p->pos >= 0x20)
    {
        p->pos++;
    }
}

/* The raw length up to the closing quote bounds the unescaped one. */
static size_t
json_raw_len(const struct json_parser *p, const char *s)
{
    const char  *q = s;
    while (q < p->end && *q != '"') {
        q += *q == '\\' && p->end - q > 1 ? 2 : 1;
    }
    return (size_t) (q - s);
}

static int
json_parse_string(struct json_parser *p, struct str *out)
{
    const char  *begin = ++p->pos;
    char        *data = NULL, *w = NULL;

    for (;;) {
        const char  *run = p->pos;
        json_scan_plain(p);
        if (p->pos == p->end) {
            return json_fail(p, begin - 1, "unterminated string");
        }
        size_t  run_len = (size_t) (p->pos - run);
        if (*p->pos == '"' && data == NULL) {
            *out = (struct str) { run, run_len };
            p->pos++;
            return OK;
        }
        if ((unsigned char) *p->pos < 0x20) {
            return json_fail(p, p->pos, "raw control byte in a string");
        }
        if (data == NULL) {
            data = w = arena_alloc(p->arena, json_raw_len(p, begin) + 1);
            if (data == NULL) {
                return json_fail_memory(p);
            }
        }
        if (run_len > 0) {
            memcpy(w, run, run_len);
            w += run_len;
        }
        if (*p->pos == '"') {
            *out = (struct str) { data, (size_t) (w - data) };
            p->pos++;
            return OK;
        }
        if (json_unescape(p, &w) != OK) {
            return ERROR;
        }
    }
}

/* ---- numbers ------------------------------------------------------------- */

static bool
json_scan_digits(struct json_parser *p)
{
    if (!json_is_digit(p)) {
        return false;
    }
    while (json_is_digit(p)) {
        p->pos++;
    }
    return true;
}

/* Moves over the number; *is_float tells whether it has '.', 'e' or 'E'. */
static int
json_scan_number(struct json_parser *p, bool *is_float)
{
    *is_float = false;
    if (*p->pos == '-') {
        p->pos++;
    }
    if (p->pos < p->end && *p->pos == '0') {
        p->pos++;
        if (json_is_digit(p)) {
            return json_fail(p, p->pos - 1, "number with a leading zero");
        }
    } else if (!json_scan_digits(p)) {
        return json_fail(p, p->pos, "a digit is missing");
    }
    if (p->pos < p->end && *p->pos == '.') {
        *is_float = true;
        p->pos++;
        if (!json_scan_digits(p)) {
            return json_fail(p, p->pos, "a digit is missing after the point");
        }
    }
    if (p->pos < p->end && (*p->pos == 'e' || *p->pos == 'E')) {
        *is_float = true;
        p->pos++;
        if (p->pos < p->end && (*p->pos == '+' || *p->pos == '-')) {
            p->pos++;
        }
        if (!json_scan_digits(p)) {
            return json_fail(p, p->pos, "a digit is missing in the exponent");
        }
    }
    return OK;
}

/* The exact value of an integer's text when it fits in an int64_t. */
static bool
json_int_fits(struct str text, int64_t *out)
{
    bool      negative = text.data[0] == '-';
    uint64_t  limit = (uint64_t) INT64_MAX + (negative ? 1 : 0);
    uint64_t  v = 0;

    for (size_t i = negative ? 1 : 0; i < text.len; i++) {
        uint64_t  d = (uint64_t) (text.data[i] - '0');
        if (v > (limit - d) / 10) {
            return false;
        }
        v = v * 10 + d;
    }
    *out = negative ? (int64_t) (0 - v) : (int64_t) v;
    return true;
}

static int
json_parse_number(struct json_parser *p, struct json *v)
{
    const char  *begin = p->pos;
    bool         is_float;
    char         text[JSON_NUMBER_BYTES_CAP + 1];

    if (json_scan_number(p, &is_float) != OK) {
        return ERROR;
    }
    v->string = (struct str) { begin, (size_t) (p->pos - begin) };
    v->type = is_float ? JSON_FLOAT : JSON_INT;
    if (v->string.len > p->limits->number_bytes_max) {
        return json_fail_limit(p, "number with too many digits",
                               p->limits->number_bytes_max);
    }
    if (!is_float && json_int_fits(v->string, &v->i)) {
        v->int_fits = true;
        v->f = (double) v->i;
        return OK;
    }
    memcpy(text, begin, v->string.len);
    text[v->string.len] = '\0';
    v->f = strtod(text, NULL);
    if (!isfinite(v->f)) {
        return json_fail(p, begin, "number beyond the range of a double");
    }
    return OK;
}

/* ---- duplicate keys ------------------------------------------------------ */

static int
json_fail_duplicate(const struct json_parser *p, const struct json *member)
{
    int  show = member->key.len > 64 ? 64 : (int) member->key.len;
    while (show > 0 && show < (int) member->key.len
           && ((unsigned char) member->key.data[show] & 0xC0) == 0x80)
    {
        show--;
    }
    return err_set_http(p->err, 400, NULL,
                        "invalid JSON at byte %zu: duplicate key \"%.*s\"",
                        (size_t) (p->pos - p->start), show, member->key.data);
}

/* Small objects: all pairs. */
static const struct json *
json_duplicate_linear(const struct json *object)
{
    for (const struct json *a = object->child; a != NULL; a = a->next) {
        for (const struct json *b = a->next; b != NULL; b = b->next) {
            if (str_eq(a->key, b->key)) {
                return b;
            }
        }
    }
    return NULL;
}

/* Large objects: open addressing at half load.  The key is random for each
 * document, so keys that collide cannot be prepared. */
static int
json_duplicate_hashed(struct json_parser *p, const struct json *object)
{
    size_t  cap = 32;

    if (!p->keyed) {
        if (getrandom(&p->key, sizeof p->key, 0) != (ssize_t) sizeof p->key) {
            return err_set_http(p->err, 500, NULL, "getrandom failed");
        }
        p->keyed = true;
    }
    while (cap < (size_t) object->num_children * 2) {
        cap *= 2;
    }
    /* malloc, not the arena: the table is gone again before the next value. */
    const struct json  **slots = calloc(cap, sizeof *slots);
    if (slots == NULL) {
        return json_fail_memory(p);
    }
    int  rc = OK;
    for (const struct json *m = object->child; m != NULL && rc == OK;
         m = m->next)
    {
        size_t  i = hash_keyed(&p->key, m->key.data, m->key.len) & (cap - 1);
        while (slots[i] != NULL && rc == OK) {
            if (str_eq(slots[i]->key, m->key)) {
                rc = json_fail_duplicate(p, m);
            }
            i = (i + 1) & (cap - 1);
        }
        slots[i] = m;
    }
    free(slots);
    return rc;
}

static int
json_check_duplicates(struct json_parser *p, const struct json *object)
{
    if (p->limits->allow_duplicate_keys || object->num_children < 2) {
        return OK;
    }
    if (object->num_children > JSON_DUP_LINEAR_MAX) {
        return json_duplicate_hashed(p, object);
    }
    const struct json  *twice = json_duplicate_linear(object);
    return twice == NULL ? OK : json_fail_duplicate(p, twice);
}

/* ---- values -------------------------------------------------------------- */

static struct json *
json_new_value(struct json_parser *p)
{
    if (p->num_values >= p->limits->values_max) {
        (void) json_fail_limit(p, "too many values", p->limits->values_max);
        return NULL;
    }
    p->num_values++;
    struct json  *v = arena_calloc(p->arena, 1, sizeof *v);
    if (v == NULL) {
        (void) json_fail_memory(p);
    }
    return v;
}

static int
json_parse_literal(struct json_parser *p, struct json *v)
{
    static const struct {
        struct str      text;
        enum json_type  type;
        bool            b;
    } literals[] = {
        { { "null", 4 }, JSON_NULL, false },
        { { "true", 4 }, JSON_BOOL, true },
        { { "false", 5 }, JSON_BOOL, false },
    };
    struct str  rest = { p->pos, (size_t) (p->end - p->pos) };

    for (size_t i = 0; i < sizeof literals / sizeof literals[0]; i++) {
        if (str_starts_with(rest, literals[i].text)) {
            v->type = literals[i].type;
            v->b = literals[i].b;
            p->pos += literals[i].text.len;
            return OK;
        }
    }
    return json_fail(p, p->pos, "a value is expected");
}

static int
json_parse_value(struct json_parser *p, struct json *v)
{
    if (p->pos == p->end) {
        return json_fail(p, p->pos, "the text ends where a value is expected");
    }
    switch (*p->pos) {
    case '{':
    case '[':
        if (p->depth >= p->limits->depth_max) {
            return json_fail_limit(p, "nested too deeply",
                                   p->limits->depth_max);
        }
        v->type = *p->pos == '{' ? JSON_OBJECT : JSON_ARRAY;
        p->open[p->depth++] = v;
        p->pos++;
        return OK;
    case '"':
        v->type = JSON_STRING;
        return json_parse_string(p, &v->string);
    case '-': case '0': case '1': case '2': case '3': case '4':
    case '5': case '6': case '7': case '8': case '9':
        return json_parse_number(p, v);
    default:
        return json_parse_literal(p, v);
    }
}

static int
json_parse_key(struct json_parser *p, struct str *key)
{
    if (p->pos == p->end || *p->pos != '"') {
        return json_fail(p, p->pos, "a key in double quotes is expected");
    }
    if (json_parse_string(p, key) != OK) {
        return ERROR;
    }
    if (key->len > p->limits->key_bytes_max) {
        return json_fail_limit(p, "key too long", p->limits->key_bytes_max);
    }
    json_skip_space(p);
    if (p->pos == p->end || *p->pos != ':') {
        return json_fail(p, p->pos, "':' is expected after a key");
    }
    p->pos++;
    json_skip_space(p);
    return OK;
}

void
json_append(struct json *parent, struct json *v)
{
    v->next = NULL;
    if (parent->last == NULL) {
        parent->child = v;
    } else {
        parent->last->next = v;
    }
    parent->last = v;
    parent->num_children++;
}

/* Inside the innermost open container: closes it, or reads one more child. */
static int
json_parse_member(struct json_parser *p)
{
    struct json  *parent = p->open[p->depth - 1];
    bool          object = parent->type == JSON_OBJECT;

    json_skip_space(p);
    if (p->pos < p->end && *p->pos == (object ? '}' : ']')) {
        p->pos++;
        p->depth--;
        return object ? json_check_duplicates(p, parent) : OK;
    }
    if (parent->num_children > 0) {
        if (p->pos == p->end || *p->pos != ',') {
            return json_fail(p, p->pos, object ? "',' or '}' is expected"
                                               : "',' or ']' is expected");
        }
        p->pos++;
        json_skip_space(p);
    }
    if (object && parent->num_children >= p->limits->members_max) {
        return json_fail_limit(p, "too many keys in one object",
                               p->limits->members_max);
    }
    struct str  key = { NULL, 0 };
    if (object && json_parse_key(p, &key) != OK) {
        return ERROR;
    }
    struct json  *v = json_new_value(p);
    if (v == NULL) {
        return ERROR;
    }
    v->key = key;
    json_append(parent, v);
    return json_parse_value(p, v);
}

static int
json_check_encoding(const struct json_parser *p)
{
    size_t  len = (size_t) (p->end - p->start);
    if (str_starts_with((struct str) { p->start, len }, STR("\xEF\xBB\xBF"))) {
        return json_fail(p, p->start, "byte order mark");
    }
    size_t  valid = utf8_valid_len(p->start, len, NULL);
    if (valid != len) {
        return json_fail(p, p->start + valid, "not valid UTF-8");
    }
    return OK;
}

int
json_parse(struct json **out, struct str text, struct arena *arena,
           const struct json_limits *limits, struct err *err)
{
    check_le(limits->depth_max, JSON_DEPTH_CAP);
    check_le(limits->number_bytes_max, JSON_NUMBER_BYTES_CAP);

    struct json_parser  p;
    p.start = p.pos = text.len == 0 ? "" : text.data;
    p.end = p.start + text.len;
    p.arena = arena;
    p.limits = limits;
    p.err = err;
    p.num_values = p.depth = 0;
    p.keyed = false;

    *out = NULL;
    if (json_check_encoding(&p) != OK) {
        return ERROR;
    }
    json_skip_space(&p);
    struct json  *root = json_new_value(&p);
    if (root == NULL || json_parse_value(&p, root) != OK) {
        return ERROR;
    }
    while (p.depth > 0) {
        if (json_parse_member(&p) != OK) {
            return ERROR;
        }
    }
    json_skip_space(&p);
    if (p.pos != p.end) {
        return json_fail(&p, p.pos, "text after the end of the value");
    }
    *out = root;
    return OK;
}

const struct json *
json_find_str(const struct json *object, struct str key)
{
    const struct json  *found = NULL;

    if (object == NULL || object->type != JSON_OBJECT) {
        return NULL;
    }
    for (const struct json *m = object->child; m != NULL; m = m->next) {
        if (str_eq(m->key, key)) {
            found = m;     /* go on: the last one wins */
        }
    }
    return found;
}

const struct json *
json_find(const struct json *object, const char *key)
{
    return json_find_str(object, str_from(key));
}

const char *
json_type_name(enum json_type type)
{
    static const char *const  names[] = {
        [JSON_NULL] = "null", [JSON_BOOL] = "boolean", [JSON_INT] = "integer",
        [JSON_FLOAT] = "number", [JSON_STRING] = "string",
        [JSON_ARRAY] = "array", [JSON_OBJECT] = "object",
    };
    return names[type];
}
