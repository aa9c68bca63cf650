/* session.h - one nginx worker: its socket, its two regions, its requests.
 *
 * A session owns everything that one worker may use up: memory for the rings,
 * request slots, body bytes, bytes waiting for a full ring.  It knows wire/ and
 * nothing of the protocol above, so the engine and the mock engine share it.
 *
 *     session_accept(&s, listen_fd, &options, id, err)
 *     session_greet(s, err)              when s->fd is readable: HELLO, WELCOME
 *     session_is_alive(s)                when s->fd is readable later
 *     inbox_next(s, ...), outbox_*(s)    requests and answers
 *     session_close(s)                   unmaps, closes, drops the owner's hold
 *
 * Life of a session: GREETING -> OPEN [session_greet] -> CLOSED [session_close].
 * Threads: the transport thread accepts, greets, reads the SQ and closes.  Other
 * threads touch it only under s->lock and look at s->state first: regions and
 * descriptors exist in OPEN only.  Each request holds a reference, so the struct
 * outlives the worker until its last request has ended.
 *
 * Life of a request (struct request), `who` may touch it:
 *   RECEIVING  transport          body chunks are missing
 *   QUEUED     the queue          waits for a front-end thread
 *   PREPARING  that thread        api_begin(), api_submit()
 *   ASKED      nobody             PROMPT is out, waits for GO; the transport
 *                                 thread takes it on GO, CANCEL, end of session
 *   RUNNING    output thread      in the engine
 * CANCEL of a QUEUED or PREPARING request sets cancel_reason, which its owner
 * sees under the lock before the next step.  The owner ends a request with
 * outbox_end() and request_free(): the slot is free, the memory is gone. */
#ifndef LLM_SERVER_SESSION_H
#define LLM_SERVER_SESSION_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "wire/llm_ring.h"
#include "wire/llm_wire.h"

#define SESSION_UIDS_MAX  16

struct session_options {
    uid_t    uids[SESSION_UIDS_MAX];  /* may connect; none: own uid and root */
    int32_t  num_uids;
    bool     any_uid;                 /* the socket's file mode decides alone */
    uint32_t sq_entries;              /* when the worker has no wish; and the
                                         most it gets */
    uint64_t arena_bytes;
    uint64_t cq_bytes;
    uint32_t max_requests;            /* in flight of one worker */
    uint64_t body_bytes_max;          /* of one request; then 413 */
    uint64_t held_bytes_max;          /* bodies of one session; then 503 */
    uint64_t over_bytes_max;          /* waiting for a full CQ; then the
                                         session is closed */
    uint64_t epoch;                   /* of this process, not 0 */
};

enum session_state { SESSION_GREETING, SESSION_OPEN, SESSION_CLOSED };

enum request_state {
    REQUEST_RECEIVING, REQUEST_QUEUED, REQUEST_PREPARING, REQUEST_ASKED,
    REQUEST_RUNNING
};

struct session;

/* One SUBMIT.  Owned as the state says. */
struct request {
    struct session *session;       /* holds a reference */
    struct request *prev, *next;   /* session's list of live requests */
    uint64_t        id;
    enum request_state state;
    uint16_t        route;         /* enum llm_route */
    uint8_t         flags;         /* LLM_SQE_* */
    int32_t         priority;
    int64_t         arrival_ns, deadline_ns;
    uint8_t        *payload;       /* owned: TLVs, then the body */
    uint64_t        payload_len, total_bytes;
    uint32_t        meta_bytes;
    struct llm_meta meta;          /* borrows from payload */
    uint16_t        cancel_reason; /* enum llm_finish; NONE: not cancelled */
    bool            window_closed; /* WINDOW 0 */
    bool            head_sent;
    bool            overrun;       /* a part of the answer was too much */
    void           *stream;        /* the layer above */
};

struct inbox_slot {
    struct request *request;       /* NULL: free */
    uint64_t        generation;    /* last one used */
};

/* Bytes that did not fit the CQ, as encoded records. */
struct outbox_over {
    uint8_t  *data;
    uint64_t  head, len, cap;      /* [head, len) is waiting */
};

struct session {
    pthread_mutex_t lock;
    enum session_state state;
    uint32_t  num_refs;            /* atomic */
    const struct session_options *options;   /* borrowed */
    uint64_t  id;
    int       fd;                  /* life line */
    int       kick_engine_fd, kick_worker_fd;
    pid_t     pid;                 /* of the worker; from SO_PEERCRED */
    uint32_t  worker;
    int64_t   since_ns;            /* accepted */
    struct session *prev, *next;   /* the transport thread's list */

    struct llm_geometry geometry;
    void     *w, *e;               /* regions; NULL when not mapped */
    struct llm_ring_sqc sqc;       /* transport thread */
    struct llm_ring_cq  cq;        /* under lock */
    uint32_t  max_requests;
    struct inbox_slot  *slots;     /* [max_requests]; under lock */
    struct request     *requests;  /* live ones; under lock */
    uint32_t  num_requests;        /* under lock */
    uint64_t  held_bytes;          /* bodies; under lock */
    struct outbox_over  over;      /* under lock */
    int64_t   over_since_ns;       /* under lock; 0: the CQ takes all */
    bool      starved;             /* under lock; something waited in `over`
                                      since the last on_room */
    bool      parked;              /* the layer above stopped its sequences */
    bool      leaving;             /* GOODBYE was said */
    bool      gone;                /* the worker left in the hand-shake */
    bool      touched;             /* output thread: publish pending */
    const char *doom;              /* atomic; why it must be closed, NULL */
};

/* Accepts one connection and checks its user.  AGAIN: nobody is waiting. */
int session_accept(struct session **out, int listen_fd,
                   const struct session_options *options, uint64_t id,
                   struct err *err);

/* Reads HELLO, makes regions and eventfds, sends WELCOME.  OK: open; AGAIN: no
 * HELLO yet; ERROR: a refusal has been sent where one could be, close it. */
int session_greet(struct session *s, struct err *err);

/* Tells the waiting worker why not (status, text) before session_close(). */
void session_refuse(struct session *s, enum llm_welcome_status status,
                    const char *text);

/* false: the worker is gone, or it said something (doom tells). */
bool session_is_alive(struct session *s);

/* Transport thread: unmaps and closes and drops the first reference.  Requests
 * that are RECEIVING are freed; the caller deals with all others before. */
void session_close(struct session *s);

void session_ref(struct session *s);
void session_unref(struct session *s);

/* Under lock; any thread: asks the transport thread to close the session. */
void session_doom(struct session *s, const char *why);

static inline const char *
session_doomed(const struct session *s)
{
    return __atomic_load_n(&s->doom, __ATOMIC_ACQUIRE);
}

/* Under lock: the transport thread looks at this session soon, as if the worker
 * had kicked. */
void session_wake_transport(struct session *s);

/* Under lock; SESSION_OPEN.  Wakes the worker. */
void session_kick(struct session *s);

/* The body, behind the TLVs. */
struct str request_body(const struct request *r);

/* Owner of r, under lock: frees the slot and the memory.  The request's
 * reference stays: session_unref() after unlocking. */
void request_free(struct request *r);

#endif
