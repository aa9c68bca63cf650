/* utf8.h - strict UTF-8 (RFC 3629): no overlong forms, no surrogates, <= U+10FFFF. */
#ifndef LLM_BASE_UTF8_H
#define LLM_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Length of the longest valid prefix of data[0..len), in bytes.  When it is
 * shorter than len, *incomplete (may be NULL) tells whether the rest could
 * still become valid with more bytes (true) or never (false). */
size_t utf8_valid_len(const char *data, size_t len, bool *incomplete);

static inline bool
utf8_is_valid(const char *data, size_t len)
{
    return utf8_valid_len(data, len, NULL) == len;
}

/* Makes data[0..len) valid in place: each byte that is no part of a character
 * becomes a question mark. */
void utf8_mend(char *data, size_t len);

/* Decodes one code point of VALID UTF-8 at data; writes it to *cp and returns
 * its length, 1..4. */
static inline int
utf8_decode(const char *data, uint32_t *cp)
{
    const unsigned char  *s = (const unsigned char *) data;

    if (s[0] < 0x80) {
        *cp = s[0];
        return 1;
    }
    if (s[0] < 0xE0) {
        *cp = (uint32_t) (s[0] & 0x1F) << 6 | (s[1] & 0x3F);
        return 2;
    }
    if (s[0] < 0xF0) {
        *cp = (uint32_t) (s[0] & 0x0F) << 12 | (uint32_t) (s[1] & 0x3F) << 6
              | (s[2] & 0x3F);
        return 3;
    }
    *cp = (uint32_t) (s[0] & 0x07) << 18 | (uint32_t) (s[1] & 0x3F) << 12
          | (uint32_t) (s[2] & 0x3F) << 6 | (s[3] & 0x3F);
    return 4;
}

/* Writes the UTF-8 form of cp (a valid scalar value) to out[4]; returns 1..4. */
int utf8_encode(uint32_t cp, char *out);

#endif
