/* utf8.c - validation by the table of RFC 3629 section 4, ASCII eight at a time. */
#include "engine/base/utf8.h"

#include <string.h>

/* Range of the second byte for a lead byte; the rest are 80..BF.  Returns the
 * sequence length, 0 for an impossible lead. */
static int
utf8_lead(unsigned char c, unsigned char *lo, unsigned char *hi)
{
    *lo = 0x80;
    *hi = 0xBF;
    if (c < 0xC2) {
        return 0;
    }
    if (c < 0xE0) {
        return 2;
    }
    if (c < 0xF0) {
        *lo = c == 0xE0 ? 0xA0 : 0x80;
        *hi = c == 0xED ? 0x9F : 0xBF;
        return 3;
    }
    if (c < 0xF5) {
        *lo = c == 0xF0 ? 0x90 : 0x80;
        *hi = c == 0xF4 ? 0x8F : 0xBF;
        return 4;
    }
    return 0;
}

size_t
utf8_valid_len(const char *data, size_t len, bool *incomplete)
{
    const unsigned char  *s = (const unsigned char *) data;
    size_t                i = 0;

    if (incomplete != NULL) {
        *incomplete = false;
    }
    while (i < len) {
        if (s[i] < 0x80) {
            uint64_t  w;
            while (i + 8 <= len
                   && (memcpy(&w, s + i, 8), (w & 0x8080808080808080ULL) == 0))
            {
                i += 8;
            }
            while (i < len && s[i] < 0x80) {
                i++;
            }
            continue;
        }
        unsigned char  lo, hi;
        int            n = utf8_lead(s[i], &lo, &hi);
        if (n == 0) {
            return i;
        }
        for (int k = 1; k < n; k++) {
            if (i + (size_t) k >= len) {
                if (incomplete != NULL) {
                    *incomplete = true;
                }
                return i;
            }
            unsigned char  c = s[i + (size_t) k];
            if (c < (k == 1 ? lo : 0x80) || c > (k == 1 ? hi : 0xBF)) {
                return i;
            }
        }
        i += (size_t) n;
    }
    return i;
}

void
utf8_mend(char *data, size_t len)
{
    for (size_t n; (n = utf8_valid_len(data, len, NULL)) < len; ) {
        data[n] = '?';
        data += n + 1;
        len -= n + 1;
    }
}

int
utf8_encode(uint32_t cp, char *out)
{
    if (cp < 0x80) {
        out[0] = (char) cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char) (0xC0 | cp >> 6);
        out[1] = (char) (0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char) (0xE0 | cp >> 12);
        out[1] = (char) (0x80 | (cp >> 6 & 0x3F));
        out[2] = (char) (0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char) (0xF0 | cp >> 18);
    out[1] = (char) (0x80 | (cp >> 12 & 0x3F));
    out[2] = (char) (0x80 | (cp >> 6 & 0x3F));
    out[3] = (char) (0x80 | (cp & 0x3F));
    return 4;
}
