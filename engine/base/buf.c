/* buf.c - doubles until the limit; a failure is remembered, not returned. */
#include "engine/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void
buf_init(struct buf *b, size_t limit_bytes)
{
    *b = (struct buf) { .limit_bytes = limit_bytes };
}

void
buf_destroy(struct buf *b)
{
    free(b->data);
    b->data = NULL;
    b->len = 0;
    b->cap = 0;
    b->failed = false;
}

void
buf_reset(struct buf *b)
{
    b->len = 0;
    b->failed = false;
}

bool
buf_reserve(struct buf *b, size_t bytes)
{
    if (b->failed || bytes > b->limit_bytes
        || b->len > b->limit_bytes - bytes)
    {
        b->failed = true;
        return false;
    }
    size_t  need = b->len + bytes;
    if (need <= b->cap) {
        return true;
    }
    size_t  cap = b->cap < 256 ? 256 : b->cap;
    while (cap < need) {
        cap = cap > b->limit_bytes / 2 ? b->limit_bytes : cap * 2;
    }
    if (cap > b->limit_bytes) {
        cap = b->limit_bytes;
    }
    char  *data = realloc(b->data, cap);
    if (data == NULL) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->cap = cap;
    return true;
}

void
buf_append(struct buf *b, const void *data, size_t len)
{
    if (len == 0 || !buf_reserve(b, len)) {
        return;
    }
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

void
buf_append_str(struct buf *b, struct str s)
{
    buf_append(b, s.data, s.len);
}

void
buf_append_c(struct buf *b, char c)
{
    buf_append(b, &c, 1);
}

void
buf_append_i64(struct buf *b, int64_t v)
{
    char      tmp[24];
    char     *p = tmp + sizeof tmp;
    uint64_t  u = v < 0 ? 0 - (uint64_t) v : (uint64_t) v;
    do {
        *--p = (char) ('0' + u % 10);
        u /= 10;
    } while (u != 0);
    if (v < 0) {
        *--p = '-';
    }
    buf_append(b, p, (size_t) (tmp + sizeof tmp - p));
}

void
buf_appendf(struct buf *b, const char *fmt, ...)
{
    va_list  ap;

    va_start(ap, fmt);
    int  n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) {
        b->failed = true;
        return;
    }
    /* vsnprintf writes a terminator that is not part of the content. */
    if (!buf_reserve(b, (size_t) n + 1)) {
        return;
    }
    va_start(ap, fmt);
    (void) vsnprintf(b->data + b->len, (size_t) n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t) n;
}
