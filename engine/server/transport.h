/* transport.h - the epoll loop over all workers.
 *
 * Accepts and greets sessions, reads their submissions a bounded number at a
 * time so that none can starve the others, publishes the heartbeat, and closes
 * sessions that died, broke the protocol or stayed full.  What a request means
 * is the hooks' business; the engine (server.c) and the mock engine share this
 * loop.
 *
 *     transport_create(&t, listen_fd, &options, &hooks, err);
 *     while (...) transport_turn(t, timeout_ns);
 *     transport_destroy(t);
 *
 * Threads: one owner; transport_wake() from any.  Hooks run in the owner's
 * thread, without the session's lock unless said. */
#ifndef LLM_SERVER_TRANSPORT_H
#define LLM_SERVER_TRANSPORT_H

#include "engine/server/inbox.h"
#include "engine/server/session.h"

#define TRANSPORT_SQ_BUDGET       64    /* descriptors of one session a turn */
#define TRANSPORT_GREETING_NS_MAX (2 * 1000000000LL)

struct transport;

struct transport_hooks {
    void *user;
    void (*on_event)(void *user, struct session *s, struct inbox_event *event);
    /* Under lock: everything that waited is in the ring again.  Comes after each
     * time outbox_is_over() was true. */
    void (*on_room)(void *user, struct session *s);
    /* Before session_close(): under lock, state still OPEN. */
    void (*on_close)(void *user, struct session *s);
    /* Every LLM_HEARTBEAT_MS: fill everything except heartbeat and sessions. */
    void (*on_beat)(void *user, struct llm_stats *out);
};

struct transport_options {
    struct session_options session;
    int32_t  max_sessions;
    int64_t  full_ns_max;       /* a CQ that does not move for so long ends the
                                   session */
    bool     no_heartbeat;      /* mock engine only: stands still */
};

int transport_create(struct transport **out, int listen_fd,
                     const struct transport_options *options,
                     const struct transport_hooks *hooks, struct err *err);
void transport_destroy(struct transport *t);    /* NULL is fine */

/* Waits at most timeout_ns (-1: for ever, but never longer than a heartbeat),
 * then handles what is there. */
void transport_turn(struct transport *t, int64_t timeout_ns);

void transport_wake(struct transport *t);       /* any thread */
void transport_beat(struct transport *t);       /* publish now */
void transport_stop_accepting(struct transport *t);
int32_t transport_num_sessions(const struct transport *t);

/* Owner thread: sessions whose worker has not said GOODBYE. */
int32_t transport_num_staying(const struct transport *t);

/* First of the list through s->next; owner thread. */
struct session *transport_sessions(struct transport *t);

#endif
