/* llm_scan.c - a push scanner: one state, one bit per open container. */
#include "wire/llm_scan.h"

#include <string.h>

/* Between tokens: START..SCALAR.  Inside of a string: the rest. */
enum state {
    STATE_START,           /* { */
    STATE_KEY_OR_END,      /* after { */
    STATE_KEY,             /* after , in an object */
    STATE_COLON,
    STATE_VALUE_OR_END,    /* after [ */
    STATE_VALUE,
    STATE_AFTER,           /* , or the end of the container */
    STATE_DONE,            /* white space */
    STATE_SCALAR,          /* in a number, true, false, null */
    STATE_STRING, STATE_ESCAPE, STATE_HEX,
    STATE_BAD
};

/* What the value after the colon is, if it is of interest. */
enum want { WANT_NOTHING, WANT_MODEL, WANT_MESSAGES, WANT_PROMPT, WANT_ROLE };

#define ONES    0x0101010101010101ull
#define HIGHS   0x8080808080808080ull
#define MESSAGE_DEPTH  3u          /* { "messages": [ { */

uint64_t
llm_hash(uint64_t hash, const void *data, size_t len)
{
    const uint8_t  *p = data;

    for (size_t i = 0; i < len; i++) {
        hash = (hash ^ p[i]) * 0x100000001b3ull;
    }
    return hash;
}

uint64_t
llm_hash_mix(uint64_t hash)
{
    hash = (hash ^ hash >> 30) * 0xbf58476d1ce4e5b9ull;
    hash = (hash ^ hash >> 27) * 0x94d049bb133111ebull;
    return hash ^ hash >> 31;
}

void
llm_scan_init(struct llm_scan *s, uint32_t prefix_bytes)
{
    memset(s, 0, sizeof *s);
    s->prefix_left = prefix_bytes;
    s->prefix_hash = LLM_HASH_INIT;
}

static void
hash_bytes(struct llm_scan *s, const uint8_t *p, size_t n)
{
    if (!s->in_prompt || s->prefix_left == 0) {
        return;
    }
    if (n > s->prefix_left) {
        n = s->prefix_left;
    }
    s->prefix_hash = llm_hash(s->prefix_hash, p, n);
    s->prefix_left -= (uint32_t) n;
    s->has_prefix = true;
}

/* ---- text of keys, "model" and "role" ------------------------------------- */
static void
text_append(struct llm_scan *s, const uint8_t *p, size_t n)
{
    if (!s->capture || n == 0) {
        return;
    }
    if (n > sizeof s->text - s->text_len || s->high != 0) {
        s->text_bad = true;
        return;
    }
    memcpy(s->text + s->text_len, p, n);
    s->text_len += (uint32_t) n;
}

/* One \uXXXX; two of them may be one character. */
static void
text_append_code(struct llm_scan *s, uint32_t code)
{
    uint8_t  b[4];
    size_t   n;

    if (s->high != 0 && code >= 0xdc00 && code <= 0xdfff) {
        code = 0x10000 + ((uint32_t) (s->high - 0xd800) << 10) + (code - 0xdc00);
        s->high = 0;
    } else if (s->high == 0 && code >= 0xd800 && code <= 0xdbff) {
        s->high = (uint16_t) code;
        return;
    } else if (code >= 0xd800 && code <= 0xdfff) {
        s->text_bad = true;
        return;
    }
    if (code < 0x80) {
        b[0] = (uint8_t) code;
        n = 1;
    } else if (code < 0x800) {
        b[0] = (uint8_t) (0xc0 | code >> 6);
        b[1] = (uint8_t) (0x80 | (code & 0x3f));
        n = 2;
    } else if (code < 0x10000) {
        b[0] = (uint8_t) (0xe0 | code >> 12);
        b[1] = (uint8_t) (0x80 | (code >> 6 & 0x3f));
        b[2] = (uint8_t) (0x80 | (code & 0x3f));
        n = 3;
    } else {
        b[0] = (uint8_t) (0xf0 | code >> 18);
        b[1] = (uint8_t) (0x80 | (code >> 12 & 0x3f));
        b[2] = (uint8_t) (0x80 | (code >> 6 & 0x3f));
        b[3] = (uint8_t) (0x80 | (code & 0x3f));
        n = 4;
    }
    text_append(s, b, n);
}

static bool
text_is(const struct llm_scan *s, const char *word)
{
    return !s->text_bad && s->text_len == strlen(word)
           && memcmp(s->text, word, s->text_len) == 0;
}

/* The length of the UTF-8 sequence at p, 0 when it is none or a control
 * character. */
static size_t
utf8_len(const uint8_t *p, size_t left)
{
    size_t  n = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2
                : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;

    if (n == 0 || n > left || p[0] < 0x20 || p[0] == 0x7f) {
        return 0;
    }
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f)
        || (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
    {
        return 0;
    }
    return n;
}

static void
store_model(struct llm_scan *s)
{
    size_t  n;

    for (size_t i = 0; i < s->text_len; i += n) {
        n = utf8_len(s->text + i, s->text_len - i);
        if (n == 0) {
            return;
        }
    }
    if (s->text_bad || s->text_len == 0) {
        return;
    }
    memcpy(s->model, s->text, s->text_len);
    s->model_len = s->text_len;
    s->has_model = true;
}

/* ---- structure -------------------------------------------------------------- */
static void
begin_string(struct llm_scan *s, bool is_key)
{
    s->is_key = is_key;
    s->capture = is_key
                 ? s->depth == 1 || (s->in_messages && s->depth == MESSAGE_DEPTH)
                 : s->want == WANT_MODEL || s->want == WANT_ROLE;
    s->text_len = 0;
    s->text_bad = false;
    s->high = 0;
    s->state = STATE_STRING;
}

/* What comes after "model" and so on. */
static void
end_key(struct llm_scan *s)
{
    s->state = STATE_COLON;
    s->want = WANT_NOTHING;
    if (!s->capture) {
        return;
    }
    if (s->depth != 1) {
        s->want = text_is(s, "role") ? WANT_ROLE : WANT_NOTHING;
    } else if (text_is(s, "model")) {
        if (s->seen_model) {
            s->state = STATE_BAD;
        }
        s->seen_model = true;
        s->want = WANT_MODEL;
    } else if (s->has_prefix || s->prefix_left == 0) {
        return;
    } else if (text_is(s, "messages")) {
        s->want = WANT_MESSAGES;
    } else if (text_is(s, "prompt") || text_is(s, "input")) {
        s->want = WANT_PROMPT;
    }
}

static void
end_value(struct llm_scan *s)
{
    s->state = STATE_AFTER;
    s->want = WANT_NOTHING;
    if (s->depth == 1) {
        s->in_prompt = false;
        s->in_messages = false;
    }
}

static void
end_string(struct llm_scan *s)
{
    s->text_bad |= s->high != 0;
    if (s->is_key) {
        end_key(s);
        return;
    }
    if (s->capture && s->want == WANT_MODEL) {
        store_model(s);
    } else if (s->capture && text_is(s, "user")) {
        s->user_message = true;
    }
    end_value(s);
}

static void
open_container(struct llm_scan *s, bool array)
{
    if (s->depth == LLM_SCAN_DEPTH_MAX) {
        s->state = STATE_BAD;
        return;
    }
    if (array) {
        s->arrays |= 1ull << s->depth;
    } else {
        s->arrays &= ~(1ull << s->depth);
    }
    s->depth++;
    if (s->depth == MESSAGE_DEPTH) {
        s->user_message = false;
    }
    s->want = WANT_NOTHING;
    s->state = array ? STATE_VALUE_OR_END : STATE_KEY_OR_END;
}

static bool
in_array(const struct llm_scan *s)
{
    return (s->arrays >> (s->depth - 1) & 1) != 0;
}

static void
close_container(struct llm_scan *s, bool array)
{
    if (in_array(s) != array) {
        s->state = STATE_BAD;
        return;
    }
    if (s->in_messages && s->depth == MESSAGE_DEPTH && s->user_message) {
        s->prefix_left = 0;
    }
    s->depth--;
    if (s->depth == 0) {
        s->state = STATE_DONE;
        return;
    }
    end_value(s);
}

static void
begin_value(struct llm_scan *s, uint8_t c)
{
    if (s->want == WANT_MESSAGES || s->want == WANT_PROMPT) {
        s->in_messages = s->want == WANT_MESSAGES;
        s->in_prompt = true;
        hash_bytes(s, &c, 1);
    }
    if (c == '"') {
        begin_string(s, false);
    } else if (c == '{' || c == '[') {
        open_container(s, c == '[');
    } else if (c == '-' || (c >= '0' && c <= '9') || c == 't' || c == 'f'
               || c == 'n')
    {
        s->state = STATE_SCALAR;
    } else {
        s->state = STATE_BAD;
    }
}

static bool
is_scalar(uint8_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || c == 'E'
           || c == '+' || c == '-' || c == '.';
}

/* One byte outside of strings that is no white space. */
static void
feed_token(struct llm_scan *s, uint8_t c)
{
    if (s->state == STATE_SCALAR && !is_scalar(c)) {
        end_value(s);
    }
    hash_bytes(s, &c, 1);
    switch (s->state) {
    case STATE_START:
        s->state = STATE_BAD;
        if (c == '{') {
            open_container(s, false);
        }
        return;
    case STATE_KEY_OR_END:
    case STATE_KEY:
        if (c == '"') {
            begin_string(s, true);
        } else if (c == '}' && s->state == STATE_KEY_OR_END) {
            close_container(s, false);
        } else {
            s->state = STATE_BAD;
        }
        return;
    case STATE_COLON:
        s->state = c == ':' ? STATE_VALUE : STATE_BAD;
        return;
    case STATE_VALUE_OR_END:
        if (c == ']') {
            close_container(s, true);
            return;
        }
        begin_value(s, c);
        return;
    case STATE_VALUE:
        begin_value(s, c);
        return;
    case STATE_AFTER:
        if (c == ',') {
            s->state = in_array(s) ? STATE_VALUE : STATE_KEY;
        } else if (c == '}' || c == ']') {
            close_container(s, c == ']');
        } else {
            s->state = STATE_BAD;
        }
        return;
    case STATE_SCALAR:
        return;
    default:                     /* DONE: nothing may follow */
        s->state = STATE_BAD;
    }
}

/* ---- strings ------------------------------------------------------------------ */
/* The first quote, backslash or control character; eight bytes at a time. */
static const uint8_t *
find_special(const uint8_t *p, const uint8_t *end)
{
    while (end - p >= 8) {
        uint64_t  v, quote, slash;

        memcpy(&v, p, 8);
        quote = v ^ ONES * '"';
        slash = v ^ ONES * '\\';
        quote = (quote - ONES) & ~quote;
        slash = (slash - ONES) & ~slash;
        if (((quote | slash | ((v - ONES * 0x20) & ~v)) & HIGHS) != 0) {
            break;
        }
        p += 8;
    }
    while (p < end && *p != '"' && *p != '\\' && *p >= 0x20) {
        p++;
    }
    return p;
}

static const uint8_t *
feed_string(struct llm_scan *s, const uint8_t *p, const uint8_t *end)
{
    const uint8_t  *q = find_special(p, end);

    hash_bytes(s, p, (size_t) (q - p));
    text_append(s, p, (size_t) (q - p));
    if (q == end) {
        return q;
    }
    hash_bytes(s, q, 1);
    if (*q == '"') {
        end_string(s);
    } else {
        s->state = *q == '\\' ? STATE_ESCAPE : STATE_BAD;
    }
    return q + 1;
}

static void
feed_escape(struct llm_scan *s, uint8_t c)
{
    static const char  names[] = "\"\\/bfnrt";
    static const char  codes[] = "\"\\/\b\f\n\r\t";
    const char        *at = c != 0 ? strchr(names, c) : NULL;

    if (c == 'u') {
        s->state = STATE_HEX;
        s->hex_left = 4;
        s->code = 0;
        return;
    }
    if (at == NULL) {
        s->state = STATE_BAD;
        return;
    }
    text_append(s, (const uint8_t *) codes + (at - names), 1);
    s->state = STATE_STRING;
}

static void
feed_hex(struct llm_scan *s, uint8_t c)
{
    uint32_t  digit;

    if (c >= '0' && c <= '9') {
        digit = (uint32_t) c - '0';
    } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
        digit = (uint32_t) (c | 0x20) - 'a' + 10;
    } else {
        s->state = STATE_BAD;
        return;
    }
    s->code = s->code << 4 | digit;
    if (--s->hex_left == 0) {
        s->state = STATE_STRING;
        if (s->capture) {
            text_append_code(s, s->code);
        }
    }
}

int
llm_scan_feed(struct llm_scan *s, const void *data, size_t len)
{
    const uint8_t  *p = data, *end = p + len;

    while (p < end && s->state != STATE_BAD) {
        uint8_t  c = *p;

        switch (s->state) {
        case STATE_STRING:
            p = feed_string(s, p, end);
            continue;
        case STATE_ESCAPE:
            hash_bytes(s, p, 1);
            feed_escape(s, c);
            break;
        case STATE_HEX:
            hash_bytes(s, p, 1);
            feed_hex(s, c);
            break;
        default:
            if (c != ' ' && c != '\n' && c != '\r' && c != '\t') {
                feed_token(s, c);
            } else if (s->state == STATE_SCALAR) {
                end_value(s);
            }
        }
        p++;
    }
    return s->state == STATE_BAD ? LLM_ERROR : LLM_OK;
}

int
llm_scan_end(struct llm_scan *s)
{
    if (s->state != STATE_DONE) {
        s->has_model = false;
        s->has_prefix = false;
        return LLM_ERROR;
    }
    if (s->has_prefix) {
        s->hash = llm_hash(LLM_HASH_INIT, s->model, s->model_len);
        s->hash = llm_hash_mix(s->prefix_hash + llm_hash_mix(s->hash));
        s->hash += s->hash == 0;
    }
    return LLM_OK;
}
