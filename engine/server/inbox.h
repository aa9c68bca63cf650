/* inbox.h - what a worker submits, checked and put together.
 *
 * Turns descriptors into whole requests and control events.  Every id is looked
 * up in the session's own table; unknown ids are dropped, a slot that is in use
 * or a generation that does not grow is a violation (ERROR: close the session).
 * Transport thread only, except inbox_find(). */
#ifndef LLM_SERVER_INBOX_H
#define LLM_SERVER_INBOX_H

#include "engine/server/session.h"

enum inbox_type {
    INBOX_SUBMIT,      /* request: complete, QUEUED, yours */
    INBOX_TOO_LARGE,   /* request: without payload, yours; answer 413 */
    INBOX_BUSY,        /* request: without payload, yours; answer 503 */
    INBOX_CANCEL,      /* id; value: enum llm_finish, never NONE */
    INBOX_WINDOW,      /* id; value 0 park, 1 run */
    INBOX_GO,          /* id; value 1 go, 0 refuse */
    INBOX_GOODBYE
};

struct inbox_event {
    enum inbox_type type;
    struct request *request;
    uint64_t        id;
    uint64_t        value;
};

/* The next event.  Each descriptor read takes one from *budget; AGAIN when the
 * ring or the budget is empty.  ERROR: s->sqc.error or *err says why. */
int inbox_next(struct session *s, int *budget, struct inbox_event *event,
               struct err *err);

/* Gives descriptors back to the worker, kicking it if it waits.  true: the ring
 * is empty and the worker will kick; false: come back soon. */
bool inbox_rest(struct session *s);

/* Under lock.  NULL: unknown or already ended. */
struct request *inbox_find(struct session *s, uint64_t id);

#endif
