/* buf.h - growable byte buffer with a hard limit and a sticky failure flag.
 *
 * Writers append without checking each call and test `failed` once at the
 * end: after a failed append the buffer keeps its earlier content and ignores
 * further appends.  Zero-filled is a valid empty buffer once `limit_bytes` is
 * set; buf_destroy() frees. */
#ifndef LLM_BASE_BUF_H
#define LLM_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/base/str.h"

struct buf {
    char   *data;         /* owned */
    size_t  len;          /* bytes used */
    size_t  cap;          /* bytes allocated */
    size_t  limit_bytes;  /* cap never exceeds it */
    bool    failed;       /* limit reached or out of memory */
};

void buf_init(struct buf *b, size_t limit_bytes);
void buf_destroy(struct buf *b);
void buf_reset(struct buf *b);      /* len = 0, keeps the memory */

bool buf_reserve(struct buf *b, size_t bytes);   /* room for `bytes` more */
void buf_append(struct buf *b, const void *data, size_t len);
void buf_append_str(struct buf *b, struct str s);
void buf_append_c(struct buf *b, char c);
void buf_append_i64(struct buf *b, int64_t v);   /* decimal */
void buf_appendf(struct buf *b, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
#define buf_append_lit(b, literal)  buf_append((b), (literal), sizeof(literal) - 1)

static inline struct str
buf_str(const struct buf *b)
{
    return (struct str) { b->data, b->len };
}

#endif
