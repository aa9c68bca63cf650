/* wire_client.h - a worker's end of a session, for tests and benchmarks.
 *
 * One connection, blocking calls with a time limit, no nginx.  A client is used
 * by one thread.
 *
 *     struct wire_client c;
 *     wire_client_open(&c, path, NULL, err);
 *     id = wire_client_submit(&c, &(struct wire_call) { .route = ..., .body = ... });
 *     wire_client_wait(&c, id, 5000, &answer);        until END
 *     wire_client_close(&c);
 *
 * Answers of other requests that arrive meanwhile are kept.  Failures that are
 * the test's own (no memory, a slot too many) abort. */
#ifndef LLM_TESTS_WIRE_CLIENT_H
#define LLM_TESTS_WIRE_CLIENT_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/base/str.h"
#include "wire/llm_ring.h"
#include "wire/llm_route.h"
#include "wire/llm_wire.h"

struct wire_call {
    enum llm_route route;
    struct str     body, request_id, model, cache_salt;
    uint8_t        flags;          /* LLM_SQE_WANT_PROMPT ... */
    uint32_t       max_tokens;
    int32_t        priority;
    int64_t        deadline_ns;
    int64_t        arrival_ns;     /* 0: now */
    uint32_t       chunk_bytes;    /* largest payload; 0: a quarter arena */
};

/* What one request got so far. */
struct wire_answer {
    bool     used;                 /* the slot is taken */
    uint64_t id;
    bool     has_head, has_prompt, has_end;
    int      num_heads, num_ends, num_data;
    struct llm_head   head;
    struct llm_prompt prompt;
    struct llm_end    end;
    struct buf        body;
};

struct wire_client {
    int      fds[LLM_FD_COUNT];    /* of WELCOME, all kept open */
    int      fd, kick_engine_fd, kick_worker_fd;   /* socket; two of fds */
    struct llm_welcome welcome;
    void    *w, *e;
    struct llm_ring_sq  sq;
    struct llm_ring_cqc cq;
    uint64_t *marks;
    struct wire_answer *answers;   /* [max_requests] */
    uint64_t *generations;         /* [max_requests] */
    uint64_t  num_records, num_kicks_sent, num_wakeups;
    uint64_t  num_unknown;         /* records of ids that are not alive */
    const char *error;             /* the engine broke the protocol */
    bool      closed;              /* EOF on the socket */
};

/* hello may be NULL (defaults).  A refusal is an ERROR with its text. */
int wire_client_open(struct wire_client *c, const char *path,
                     const struct llm_hello *hello, struct err *err);
void wire_client_close(struct wire_client *c);

/* Waits for room; 0 when the engine went or nothing moved for 10 s. */
uint64_t wire_client_submit(struct wire_client *c, const struct wire_call *call);

/* CANCEL, WINDOW, GO, GOODBYE. */
int wire_client_control(struct wire_client *c, enum llm_op op, uint64_t id,
                        uint64_t value);

/* Handles what arrives within timeout_ms until *done becomes true, or, when done
 * is NULL, until anything came.  OK: done; AGAIN: time is over, or something
 * came; ERROR: closed or c->error. */
int wire_client_turn(struct wire_client *c, int timeout_ms, const bool *done);

/* Until END of id; the answer stays the client's until _free. */
int wire_client_wait(struct wire_client *c, uint64_t id, int timeout_ms,
                     struct wire_answer **out);
struct wire_answer *wire_client_find(struct wire_client *c, uint64_t id);
void wire_client_free(struct wire_client *c, struct wire_answer *a);

#endif
