/* arena.c - chunks in a list, newest first; big requests get their own. */
#include "engine/base/arena.h"

#include <stdint.h>
#include <stdlib.h>

#define ARENA_CHUNK_BYTES_MIN  4096
#define ARENA_CHUNK_BYTES_MAX  (1 << 20)
#define ARENA_ALIGN            16

struct arena_chunk {
    struct arena_chunk *older;
    size_t              cap;    /* usable bytes */
    size_t              used;
    _Alignas(ARENA_ALIGN) unsigned char data[];
};

void
arena_init(struct arena *a, size_t limit_bytes)
{
    *a = (struct arena) { .limit_bytes = limit_bytes };
}

void
arena_reset(struct arena *a)
{
    struct arena_chunk  *c = a->chunk;
    while (c != NULL) {
        struct arena_chunk  *older = c->older;
        free(c);
        c = older;
    }
    a->chunk = NULL;
    a->total_bytes = 0;
    a->exhausted = false;
}

void
arena_destroy(struct arena *a)
{
    arena_reset(a);
}

static struct arena_chunk *
arena_grow(struct arena *a, size_t bytes)
{
    size_t  cap = a->chunk == NULL ? ARENA_CHUNK_BYTES_MIN : a->chunk->cap * 2;
    if (cap > ARENA_CHUNK_BYTES_MAX) {
        cap = ARENA_CHUNK_BYTES_MAX;
    }
    if (cap < bytes) {
        cap = bytes;
    }
    size_t  room = a->limit_bytes - a->total_bytes;
    if (cap > room) {
        cap = bytes;    /* the last chunks are cut to what is left */
    }
    if (bytes > room || cap > SIZE_MAX - sizeof(struct arena_chunk)) {
        a->exhausted = true;
        return NULL;
    }
    struct arena_chunk  *c = malloc(sizeof *c + cap);
    if (c == NULL) {
        a->exhausted = true;
        return NULL;
    }
    c->older = a->chunk;
    c->cap = cap;
    c->used = 0;
    a->chunk = c;
    a->total_bytes += cap;
    return c;
}

void *
arena_alloc(struct arena *a, size_t bytes)
{
    if (bytes > SIZE_MAX - ARENA_ALIGN) {
        a->exhausted = true;
        return NULL;
    }
    bytes = (bytes + ARENA_ALIGN - 1) & ~(size_t) (ARENA_ALIGN - 1);
    struct arena_chunk  *c = a->chunk;
    if (c == NULL || c->cap - c->used < bytes) {
        c = arena_grow(a, bytes);
        if (c == NULL) {
            return NULL;
        }
    }
    void  *p = c->data + c->used;
    c->used += bytes;
    return p;
}

void *
arena_calloc(struct arena *a, size_t num, size_t bytes)
{
    if (bytes != 0 && num > SIZE_MAX / bytes) {
        a->exhausted = true;
        return NULL;
    }
    void  *p = arena_alloc(a, num * bytes);
    if (p != NULL) {
        memset(p, 0, num * bytes);
    }
    return p;
}

char *
arena_strdup(struct arena *a, struct str s)
{
    if (s.len == SIZE_MAX) {
        a->exhausted = true;
        return NULL;
    }
    char  *p = arena_alloc(a, s.len + 1);
    if (p != NULL) {
        if (s.len > 0) {
            memcpy(p, s.data, s.len);
        }
        p[s.len] = '\0';
    }
    return p;
}

struct str
arena_str(struct arena *a, struct str s)
{
    char  *p = arena_strdup(a, s);
    return (struct str) { p, p == NULL ? 0 : s.len };
}
