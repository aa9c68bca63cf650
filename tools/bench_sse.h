/* bench_sse.h - reads an OpenAI stream as it arrives: events, and what they say.
 *
 *     struct bench_sse s;
 *     bench_sse_init(&s, on_chunk, user);
 *     bench_sse_reset(&s);                     before each answer
 *     bench_sse_feed(&s, bytes, len);          calls on_chunk for each event
 *     bench_sse_end(&s);                       and for a last one that is whole
 *                                              but for its empty line, as in vLLM
 *     bench_sse_destroy(&s);
 *
 * Bytes may be cut anywhere, lines end with LF or CRLF, comments are skipped, an
 * event's data lines are joined.  An event counts as tokens when a choice
 * carries one: not the role alone that opens a chat, not a finish_reason
 * without text, not usage.  Empty text without a finish_reason does count: the
 * token that has no text of its own yet. */
#ifndef LLM_TOOLS_BENCH_SSE_H
#define LLM_TOOLS_BENCH_SSE_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/base/arena.h"
#include "engine/base/buf.h"

#define BENCH_EVENT_BYTES_MAX  (4u << 20)

/* What one event says; strings are valid during the call. */
struct bench_chunk {
    bool       done;               /* [DONE] */
    bool       is_token;           /* carries tokens */
    bool       finished;           /* a finish_reason */
    bool       broken;             /* not JSON of a known form */
    struct str text;
    struct str error;              /* message of an error event; data NULL */
    int64_t    prompt_tokens;      /* of usage; -1: not in this event */
    int64_t    completion_tokens;
};

typedef void bench_chunk_fn(void *user, const struct bench_chunk *chunk);

struct bench_sse {
    struct buf      line;          /* of a line that is cut */
    struct buf      data;          /* of the event at hand */
    bool            has_data, too_long;
    struct arena    arena;         /* of one event's JSON */
    bench_chunk_fn *fn;
    void           *user;
};

void bench_sse_init(struct bench_sse *s, bench_chunk_fn *fn, void *user);
void bench_sse_reset(struct bench_sse *s);
void bench_sse_feed(struct bench_sse *s, const char *bytes, size_t len);
void bench_sse_end(struct bench_sse *s);
void bench_sse_destroy(struct bench_sse *s);

/* The message of an error document {"error":{"message":...}}, {"error":"..."} or
 * {"message":...}, which an error event may be, too; data NULL: none.  Lives in the arena. */
struct str bench_error_message(struct str body, struct arena *arena);

#endif
