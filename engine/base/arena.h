/* arena.h - bump allocator: a request's memory, freed in one go.
 *
 * Chunks come from malloc and grow geometrically up to a hard limit given at
 * creation, so that one request can never take more than its share.  All
 * memory is 16-byte aligned and NOT zeroed unless said.  Running out returns
 * NULL and sets `exhausted`: callers turn it into one clean error.
 *
 *     struct arena a;
 *     arena_init(&a, 64 << 20);
 *     p = arena_alloc(&a, n);
 *     arena_destroy(&a);
 *
 * Threads: one owner at a time; hand-over needs the caller's own fence. */
#ifndef LLM_BASE_ARENA_H
#define LLM_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include "engine/base/str.h"

struct arena_chunk;

struct arena {
    struct arena_chunk *chunk;        /* newest; older ones linked from it */
    size_t              total_bytes;  /* asked of malloc so far */
    size_t              limit_bytes;  /* total_bytes never exceeds it */
    bool                exhausted;    /* an allocation was refused */
};

void arena_init(struct arena *a, size_t limit_bytes);
void arena_destroy(struct arena *a);  /* safe on a zeroed arena; reusable after */
void arena_reset(struct arena *a);    /* frees all but keeps the limit */

void *arena_alloc(struct arena *a, size_t bytes);
void *arena_calloc(struct arena *a, size_t num, size_t bytes);  /* zeroed, overflow-checked */
char *arena_strdup(struct arena *a, struct str s);  /* NUL-terminated copy */
struct str arena_str(struct arena *a, struct str s);  /* copy; data NULL when exhausted */

#endif
