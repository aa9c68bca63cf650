/* id_buf.h - growable array of token ids with a hard limit and a sticky
 * failure flag, the twin of buf.h for int32.
 *
 *     struct id_buf ids;
 *     id_buf_init(&ids, max_tokens);
 *     ...append...
 *     if (ids.failed) ...            once, at the end
 *     id_buf_destroy(&ids);
 */
#ifndef LLM_TEXT_ID_BUF_H
#define LLM_TEXT_ID_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct id_buf {
    int32_t *ids;      /* owned, [len] */
    size_t   len;      /* ids used */
    size_t   cap;      /* ids allocated */
    size_t   limit;    /* len never exceeds it */
    bool     failed;   /* limit reached or out of memory */
};

void id_buf_init(struct id_buf *b, size_t limit_ids);
void id_buf_destroy(struct id_buf *b);
void id_buf_reset(struct id_buf *b);               /* len = 0, keeps memory */
bool id_buf_reserve(struct id_buf *b, size_t num); /* room for num more */
void id_buf_append(struct id_buf *b, const int32_t *ids, size_t num);

static inline void
id_buf_push(struct id_buf *b, int32_t id)
{
    if (b->len < b->cap || id_buf_reserve(b, 1)) {
        b->ids[b->len++] = id;
    }
}

#endif
