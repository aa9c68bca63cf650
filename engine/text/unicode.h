/* unicode.h - character classes, normal forms and case, as the reference
 * tokenizer library has them, whatever the system's own libraries know.
 *
 * Tables come from tools/gen_unicode.py (Unicode 16; see there where the
 * reference differs).  All functions are pure; threads may share them. */
#ifndef LLM_TEXT_UNICODE_H
#define LLM_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/base/buf.h"
#include "engine/base/str.h"
#include "engine/base/utf8.h"

/* Bits of unicode_class_of(): what the pre-tokenizers' patterns ask. */
#define UNICODE_L        1    /* \p{L} */
#define UNICODE_N        2    /* \p{N} */
#define UNICODE_SPACE    4    /* \s = White_Space */
#define UNICODE_M        8    /* \p{M} */
#define UNICODE_UPPER    16   /* [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}] */
#define UNICODE_LOWER    32   /* [\p{Ll}\p{Lm}\p{Lo}\p{M}] */
#define UNICODE_NEWLINE  64   /* \r \n */

extern const uint16_t unicode_class_first[];
extern const uint8_t unicode_class_block[];

/* cp below 0x110000. */
static inline uint8_t
unicode_class_of(uint32_t cp)
{
    return unicode_class_block[(size_t) unicode_class_first[cp >> 7] << 7
                               | (cp & 127)];
}

/* Decodes one code point of valid UTF-8; returns its length. */
static inline size_t
unicode_next(const char *data, uint32_t *cp)
{
    return (size_t) utf8_decode(data, cp);
}

bool unicode_is_space(uint32_t cp);       /* White_Space */
bool unicode_is_word(uint32_t cp);        /* \w of Rust's regex */
bool unicode_is_numeric(uint32_t cp);     /* Rust's char::is_numeric */
bool unicode_is_punctuation(uint32_t cp); /* ASCII punctuation or Unicode 8's P */
bool unicode_is_mark(uint32_t cp);        /* what StripAccents removes */

/* Lower case of one code point: writes 1 or 2 code points, returns how many. */
int unicode_lower(uint32_t cp, uint32_t out[2]);

enum unicode_form { UNICODE_NFC, UNICODE_NFD, UNICODE_NFKC, UNICODE_NFKD };

/* True when text is certainly in the form already (the usual case; linear,
 * and a few bytes a cycle for Latin-1 text). */
bool unicode_is_normal(struct str text, enum unicode_form form);

/* Appends the normal form of valid UTF-8 text to *out.  Linear but for runs
 * of combining marks, which are sorted. */
void unicode_normalize(struct str text, enum unicode_form form,
                       struct buf *out);

/* The general category of cp is not what Unicode 14 says (PCRE2 10.40..10.42
 * have 14, later ones 15, 16 ...). */
bool unicode_is_changed(uint32_t cp);

/* A code point of the same general category and UTF-8 length that every
 * PCRE2 since 10.40 classifies alike, so that a regex can be run on it in
 * place of cp; cp itself when there is none. */
uint32_t unicode_representative(uint32_t cp);

#endif
