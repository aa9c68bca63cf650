/* load_parse.h - reads one HTTP/1.1 response as it arrives and counts in it.
 *
 *     struct load_parse p;
 *     load_parse_reset(&p, count_tokens);
 *     rc = load_parse_feed(&p, data, n);   OK: complete, AGAIN: more must come,
 *                                          ERROR: not a response
 *
 * Content-Length, chunked bodies, or a body up to the end of the connection:
 * then load_parse_end() says whether that was the end.  1xx answers, chunk
 * extensions and trailer fields are skipped,
 * HEAD answers do not occur here.  With body_fn set, which a reset keeps, every
 * body byte is handed on as it comes.  An SSE event is what ends with an empty
 * line.  With count_tokens the number after each "completion_tokens": is added
 * up. */
#ifndef LLM_TOOLS_LOAD_PARSE_H
#define LLM_TOOLS_LOAD_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/base/status.h"

#define LOAD_HEAD_BYTES_MAX  8192

enum load_state {
    LOAD_HEAD, LOAD_LENGTH, LOAD_TO_CLOSE, LOAD_CHUNK_SIZE,
    LOAD_CHUNK_EXTENSION, LOAD_CHUNK_DATA, LOAD_CHUNK_END, LOAD_TRAILER,
    LOAD_DONE
};

struct load_parse {
    enum load_state state;
    int       status;
    bool      sse, keep_alive, count_tokens;
    bool      line_empty;      /* SSE: nothing since the last newline */
    bool      frame_empty;     /* trailer: nothing since the last newline */
    bool      in_number;
    int       matched;         /* bytes of the token field's name seen */
    uint64_t  remaining;       /* of the body or the chunk */
    uint64_t  number, num_events, num_tokens, body_bytes;
    size_t    head_len;
    void    (*body_fn)(void *data, const char *bytes, size_t len);
    void     *body_data;
    char      head[LOAD_HEAD_BYTES_MAX];
};

void load_parse_reset(struct load_parse *p, bool count_tokens);
int load_parse_feed(struct load_parse *p, const char *data, size_t len);

/* The connection has ended: OK if that completes the response. */
int load_parse_end(struct load_parse *p);

#endif
