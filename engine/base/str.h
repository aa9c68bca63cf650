/* str.h - a borrowed string: pointer and length, no terminator assumed.
 *
 * Text from requests may hold NUL bytes, so no C string function ever touches
 * it.  A str never owns its bytes; the comment at the declaration says who
 * does. */
#ifndef LLM_BASE_STR_H
#define LLM_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct str {
    const char *data;   /* not NUL-terminated; may be NULL when len is 0 */
    size_t      len;    /* bytes */
};

#define STR(literal)      ((struct str) { (literal), sizeof(literal) - 1 })
#define STR_ARG(s)        (int) (s).len, (s).data      /* for "%.*s" */

static inline struct str
str_from(const char *c_string)
{
    return (struct str) { c_string, c_string == NULL ? 0 : strlen(c_string) };
}

static inline bool
str_eq(struct str a, struct str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static inline bool
str_starts_with(struct str s, struct str prefix)
{
    return s.len >= prefix.len
           && (prefix.len == 0 || memcmp(s.data, prefix.data, prefix.len) == 0);
}

static inline bool
str_ends_with(struct str s, struct str suffix)
{
    return s.len >= suffix.len
           && (suffix.len == 0
               || memcmp(s.data + s.len - suffix.len, suffix.data, suffix.len)
                  == 0);
}

#endif
