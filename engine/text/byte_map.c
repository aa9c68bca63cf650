/* byte_map.c - bytes that are printable Latin-1 map to themselves, the other
 * 68 in order to U+0100 and up. */
#include "engine/text/byte_map.h"

#include "engine/base/utf8.h"

/* How many of the bytes below b are not printable. */
static uint32_t
unprintable_below(uint32_t b)
{
    uint32_t  n = b < 0x21 ? b : 0x21;
    n += b <= 0x7F ? 0 : b < 0xA1 ? b - 0x7F : 0xA1 - 0x7F;
    return n + (b > 0xAD);
}

uint32_t
byte_map_char(uint8_t byte)
{
    bool  printable = (byte >= 0x21 && byte <= 0x7E)
                      || (byte >= 0xA1 && byte != 0xAD);
    return printable ? byte : 0x100 + unprintable_below(byte);
}

int
byte_map_byte(uint32_t cp)
{
    if (cp < 0x100) {
        return byte_map_char((uint8_t) cp) == cp ? (int) cp : -1;
    }
    if (cp > 0x143) {
        return -1;
    }
    uint32_t  n = cp - 0x100;
    return n < 0x21 ? (int) n
           : n < 0x21 + 0x22 ? (int) (0x7F + n - 0x21) : 0xAD;
}

void
byte_map_encode(struct str text, struct buf *out)
{
    if (!buf_reserve(out, text.len * 2)) {
        return;
    }
    for (size_t i = 0; i < text.len; i++) {
        out->len += (size_t) utf8_encode(byte_map_char((uint8_t) text.data[i]),
                                         out->data + out->len);
    }
}

bool
byte_map_decode(struct str token, struct buf *out)
{
    if (token.len == 0) {
        return true;    /* out may have no memory yet */
    }
    if (!buf_reserve(out, token.len)) {
        return false;
    }
    char  *w = out->data + out->len;
    for (size_t i = 0; i < token.len; ) {
        unsigned char  c = (unsigned char) token.data[i];
        if (c >= 0x21 && c <= 0x7E) {
            *w++ = (char) c;
            i++;
            continue;
        }
        uint32_t  cp;
        i += (size_t) utf8_decode(token.data + i, &cp);
        int  b = byte_map_byte(cp);
        if (b < 0) {
            buf_append_str(out, token);
            return false;
        }
        *w++ = (char) b;
    }
    out->len = (size_t) (w - out->data);
    return true;
}
