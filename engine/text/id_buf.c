/* id_buf.c - doubles until the limit; a failure is remembered, not returned. */
#include "engine/text/id_buf.h"

#include <stdlib.h>
#include <string.h>

void
id_buf_init(struct id_buf *b, size_t limit_ids)
{
    *b = (struct id_buf) { .limit = limit_ids };
}

void
id_buf_destroy(struct id_buf *b)
{
    free(b->ids);
    *b = (struct id_buf) { .limit = b->limit };
}

void
id_buf_reset(struct id_buf *b)
{
    b->len = 0;
    b->failed = false;
}

bool
id_buf_reserve(struct id_buf *b, size_t num)
{
    if (b->failed || num > b->limit || b->len > b->limit - num
        || b->limit > SIZE_MAX / sizeof *b->ids)
    {
        b->failed = true;
        return false;
    }
    size_t  need = b->len + num;
    if (need <= b->cap) {
        return true;
    }
    size_t  cap = b->cap < 64 ? 64 : b->cap;
    while (cap < need) {
        cap = cap > b->limit / 2 ? b->limit : cap * 2;
    }
    cap = cap > b->limit ? b->limit : cap;
    int32_t  *ids = realloc(b->ids, cap * sizeof *ids);
    if (ids == NULL) {
        b->failed = true;
        return false;
    }
    b->ids = ids;
    b->cap = cap;
    return true;
}

void
id_buf_append(struct id_buf *b, const int32_t *ids, size_t num)
{
    if (num == 0 || !id_buf_reserve(b, num)) {
        return;
    }
    memcpy(b->ids + b->len, ids, num * sizeof *ids);
    b->len += num;
}
