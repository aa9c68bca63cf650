/* jinja_str.c - string algorithms behind filters and methods; taint follows
 * the bytes except where case mapping changes their number. */
#include "engine/text/jinja_int.h"
#include "engine/base/utf8.h"

#include <stdlib.h>

/* ---- numbers out of text --------------------------------------------------- */

static struct str
jinja_trim_ascii(struct str s)
{
    while (s.len > 0 && (s.data[0] == ' ' || (s.data[0] >= 9
                                              && s.data[0] <= 13)))
    {
        s.data++;
        s.len--;
    }
    while (s.len > 0 && (s.data[s.len - 1] == ' '
                         || (s.data[s.len - 1] >= 9
                             && s.data[s.len - 1] <= 13)))
    {
        s.len--;
    }
    return s;
}

static int
jinja_digit_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char) (c | 0x20);
    return c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
}

/* Python's int(text, base) for results of 64 bits. */
bool
jinja_parse_int(struct str s, int base, int64_t *out)
{
    bool      negative = false, underscore = true;
    uint64_t  v = 0;

    s = jinja_trim_ascii(s);
    if (s.len > 0 && (s.data[0] == '-' || s.data[0] == '+')) {
        negative = s.data[0] == '-';
        s.data++;
        s.len--;
    }
    if (s.len > 2 && s.data[0] == '0' && base != 10) {
        char  c = (char) (s.data[1] | 0x20);
        int   prefix = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
        if (prefix != 0 && (prefix == base || base == 0)) {
            base = prefix;
            s.data += 2;
            s.len -= 2;
        }
    }
    base = base == 0 ? 10 : base;
    if (s.len == 0) {
        return false;
    }
    for (size_t i = 0; i < s.len; i++) {
        if (s.data[i] == '_' && !underscore) {
            underscore = true;
            continue;
        }
        int  d = jinja_digit_value(s.data[i]);
        if (d >= base || __builtin_mul_overflow(v, (uint64_t) base, &v)
            || __builtin_add_overflow(v, (uint64_t) d, &v))
        {
            return false;
        }
        underscore = false;
    }
    if (underscore || v > (uint64_t) INT64_MAX + negative) {
        return false;
    }
    *out = negative ? (int64_t) (0 - v) : (int64_t) v;
    return true;
}

/* Python's float(text): decimal, inf, nan; no hexadecimal. */
bool
jinja_parse_float(struct str s, double *out)
{
    char    text[400];
    size_t  n = 0;

    s = jinja_trim_ascii(s);
    if (s.len == 0 || s.len >= sizeof text) {
        return false;
    }
    for (size_t i = 0; i < s.len; i++) {
        char  c = s.data[i];
        if (c == '_' && i > 0 && i + 1 < s.len
            && jinja_digit_value(s.data[i - 1]) < 10
            && jinja_digit_value(s.data[i + 1]) < 10)
        {
            continue;
        }
        if (c == '\0' || c == '(' || (c | 0x20) == 'x') {
            return false;
        }
        text[n++] = c;
    }
    text[n] = '\0';
    char  *end;
    *out = strtod(text, &end);
    return *end == '\0';
}

bool
jinja_arg_int(struct jinja_run *r, struct jv v, int64_t *out)
{
    if (v.type == JV_INT || v.type == JV_BOOL) {
        *out = v.type == JV_BOOL ? v.b : v.i;
        return true;
    }
    if (v.type == JV_UNDEFINED) {
        (void) jinja_undef_fail(r, v);
    } else {
        (void) jinja_fail(r, "'%s' object cannot be interpreted as an integer",
                          jv_type_name(v));
    }
    return false;
}

/* ---- strip, replace, lines ------------------------------------------------- */

static bool
jinja_in_set(uint32_t cp, const struct jv_str *set)
{
    if (set == NULL) {
        return jinja_is_space(cp);
    }
    for (size_t i = 0; i < set->len; ) {
        uint32_t  c;
        i += (size_t) utf8_decode(set->data + i, &c);
        if (c == cp) {
            return true;
        }
    }
    return false;
}

struct jv
jinja_str_strip(struct jinja_run *r, const struct jv_str *s, struct jv chars,
                int sides)
{
    size_t    begin = 0, end = s->len;
    uint32_t  cp;

    if (chars.type != JV_STR && chars.type != JV_NONE
        && chars.type != JV_MISSING)
    {
        return jinja_fail(r, "strip arg must be None or str");
    }
    const struct jv_str  *set = chars.type == JV_STR ? chars.str : NULL;
    while ((sides & 1) != 0 && begin < end) {
        int  n = utf8_decode(s->data + begin, &cp);
        if (!jinja_in_set(cp, set)) {
            break;
        }
        begin += (size_t) n;
    }
    while ((sides & 2) != 0 && end > begin) {
        size_t  i = end - 1;
        while (i > begin && ((unsigned char) s->data[i] & 0xC0) == 0x80) {
            i--;
        }
        (void) utf8_decode(s->data + i, &cp);
        if (!jinja_in_set(cp, set)) {
            break;
        }
        end = i;
    }
    (void) jinja_charge(r, (s->len - (end - begin))
                           * (set == NULL ? 1 : set->len + 1));
    return jv_str_piece(r, s, begin, end);
}

struct jv
jinja_str_replace(struct jinja_run *r, const struct jv_str *s, struct str old,
                  const struct jv_str *with, int64_t count)
{
    struct jv_room  *b = jv_room_new(r, s->len);
    size_t           done = 0, pos = 0;

    if (b == NULL || !jinja_charge(r, s->len)) {
        return jv_undefined();
    }
    while (count != 0 && pos <= s->len && !r->failed) {
        size_t  at = pos;
        if (old.len > 0) {
            const char  *q = s->len - pos < old.len ? NULL
                             : memmem(s->data + pos, s->len - pos, old.data,
                                      old.len);
            if (q == NULL) {
                break;
            }
            at = (size_t) (q - s->data);
        }
        jv_room_piece(r, b, s, done, at);
        jv_room_piece(r, b, with, 0, with->len);
        (void) jinja_charge(r, with->len);
        done = at + old.len;
        pos = done;
        if (old.len == 0) {
            /* Between every two characters. */
            pos++;
            while (pos < s->len
                   && ((unsigned char) s->data[pos] & 0xC0) == 0x80)
            {
                pos++;
            }
        }
        count--;
    }
    if (done < s->len) {
        jv_room_piece(r, b, s, done, s->len);
    }
    return r->failed ? jv_undefined() : jv_room_str(r, b, s->markup);
}

/* str.splitlines: \n \r \r\n \v \f \x1c-\x1e \x85 U+2028 U+2029. */
static size_t
jinja_line_break(const struct jv_str *s, size_t i)
{
    const unsigned char  *d = (const unsigned char *) s->data;

    if (d[i] == '\r' && i + 1 < s->len && d[i + 1] == '\n') {
        return 2;
    }
    if ((d[i] >= 10 && d[i] <= 13) || (d[i] >= 0x1C && d[i] <= 0x1E)) {
        return 1;
    }
    if (d[i] == 0xC2 && d[i + 1] == 0x85) {
        return 2;
    }
    if (d[i] == 0xE2 && d[i + 1] == 0x80
        && (d[i + 2] == 0xA8 || d[i + 2] == 0xA9))
    {
        return 3;
    }
    return 0;
}

struct jv
jinja_str_lines(struct jinja_run *r, const struct jv_str *s, bool keep_ends)
{
    struct jv  list = jv_list_new(r, JV_LIST, 0);
    size_t     begin = 0;

    (void) jinja_charge(r, s->len);
    for (size_t i = 0; i < s->len && !r->failed; ) {
        size_t  n = jinja_line_break(s, i);
        if (n == 0) {
            i++;
            continue;
        }
        (void) jv_list_push(r, &list, jv_str_piece(r, s, begin,
                                                   keep_ends ? i + n : i));
        i += n;
        begin = i;
    }
    if (begin < s->len) {
        (void) jv_list_push(r, &list, jv_str_piece(r, s, begin, s->len));
    }
    return list;
}

/* ---- case ------------------------------------------------------------------ */

/* Python's rule for a final capital sigma, within bytes [begin, end). */
static bool
jinja_final_sigma(const struct jv_str *s, size_t at, size_t begin, size_t end)
{
    uint32_t  cp;
    bool      before = false;
    size_t    i = at;

    while (i > begin) {
        do {
            i--;
        } while (i > begin && ((unsigned char) s->data[i] & 0xC0) == 0x80);
        (void) utf8_decode(s->data + i, &cp);
        if (!jinja_is_case_ignorable(cp)) {
            before = jinja_is_cased(cp);
            break;
        }
    }
    if (!before) {
        return false;
    }
    for (i = at + 2; i < end; ) {
        i += (size_t) utf8_decode(s->data + i, &cp);
        if (!jinja_is_case_ignorable(cp)) {
            return !jinja_is_cased(cp);
        }
    }
    return true;
}

static int
jinja_lower_at(const struct jv_str *s, size_t i, uint32_t cp, uint32_t out[3])
{
    if (cp == 0x3A3) {
        out[0] = jinja_final_sigma(s, i, 0, s->len) ? 0x3C2 : 0x3C3;
        return 1;
    }
    return jinja_to_lower(cp, out);
}

/* jinja2's title filter starts a word after these and after white space. */
static bool
jinja_word_border(uint32_t cp)
{
    return cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<'
           || jinja_is_space(cp);
}

/* The title filter lowers each word without its first character, so a sigma
 * sees no further than that. */
static int
jinja_lower_in_word(const struct jv_str *s, size_t i, uint32_t cp,
                    uint32_t out[3])
{
    size_t    begin = i, first = i, end = i + 2;
    uint32_t  c;

    if (cp != 0x3A3) {
        return jinja_to_lower(cp, out);
    }
    while (begin > 0) {
        size_t  k = begin - 1;
        while (k > 0 && ((unsigned char) s->data[k] & 0xC0) == 0x80) {
            k--;
        }
        (void) utf8_decode(s->data + k, &c);
        if (jinja_word_border(c)) {
            break;
        }
        first = begin;
        begin = k;
    }
    while (end < s->len) {
        int  n = utf8_decode(s->data + end, &c);
        if (jinja_word_border(c)) {
            break;
        }
        end += (size_t) n;
    }
    out[0] = jinja_final_sigma(s, i, first, end) ? 0x3C2 : 0x3C3;
    return 1;
}

/* What one character becomes; *start tells whether a word begins here. */
static int
jinja_case_one(const struct jv_str *s, size_t i, uint32_t cp,
               enum jinja_case how, bool start, uint32_t out[3])
{
    switch (how) {
    case JCASE_UPPER:
        return jinja_to_upper(cp, out);
    case JCASE_LOWER:
        return jinja_lower_at(s, i, cp, out);
    case JCASE_FOLD:
        return jinja_to_fold(cp, out);
    case JCASE_SWAP:
        return jinja_is_upper(cp) ? jinja_lower_at(s, i, cp, out)
               : jinja_is_lower(cp) ? jinja_to_upper(cp, out)
               : (out[0] = cp, 1);
    case JCASE_WORDS:
        return start ? jinja_to_upper(cp, out)
                     : jinja_lower_in_word(s, i, cp, out);
    default:
        return start ? jinja_to_title(cp, out) : jinja_lower_at(s, i, cp, out);
    }
}

static bool
jinja_next_starts(enum jinja_case how, uint32_t cp)
{
    switch (how) {
    case JCASE_TITLE:
        return !jinja_is_cased(cp);
    case JCASE_WORDS:
        return jinja_word_border(cp);
    default:
        return false;
    }
}

struct jv
jinja_str_case(struct jinja_run *r, const struct jv_str *s,
               enum jinja_case how)
{
    struct jv_room  *b = jv_room_new(r, s->len);
    bool             start = true;
    size_t           span = 0;

    if (b == NULL || !jinja_charge(r, s->len * 4)) {
        return jv_undefined();
    }
    for (size_t i = 0; i < s->len && !r->failed; ) {
        uint32_t  cp, out[3];
        char      text[12];
        size_t    len = 0;
        size_t    n = (size_t) utf8_decode(s->data + i, &cp);
        int       num = jinja_case_one(s, i, cp, how, start, out);
        for (int k = 0; k < num; k++) {
            len += (size_t) utf8_encode(out[k], text + len);
        }
        while (span < s->num_spans && s->spans[span].end <= i) {
            span++;
        }
        jv_room_bytes(r, b, text, len, span < s->num_spans
                                       && s->spans[span].begin <= i);
        start = jinja_next_starts(how, cp);
        i += n;
    }
    return r->failed ? jv_undefined()
                     : jv_room_str(r, b, s->markup && how != JCASE_WORDS);
}
