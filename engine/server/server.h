/* server.h - the engine's front door: sessions in, answers out.
 *
 *     listen_open(&l, &env, path, err);
 *     server_create(&srv, l.fd, &options, err);      serves at once: LOADING
 *     ... load the model, engine_create(), start engine_run() ...
 *     server_set_api(srv, api, engine, err);         READY
 *     ... wait for a signal ...
 *     server_stop(srv, grace_ns);                    DRAINING, then empty
 *     engine_stop(engine); join its thread;
 *     server_destroy(srv);                           then api, then engine
 *
 * Threads made here: one transport thread (transport.h), num_frontend_threads
 * that parse and tokenise, and, from server_set_api() on, one output thread
 * that turns engine events into records.  Who owns a request when: session.h.
 *
 * Before server_set_api() every request is answered 503 with code "loading" and
 * Retry-After, but /version.  While draining new ones are answered 503 with
 * code "shutting_down".  Each accepted SUBMIT gets exactly one END. */
#ifndef LLM_SERVER_SERVER_H
#define LLM_SERVER_SERVER_H

#include "engine/api/api.h"
#include "engine/core/engine.h"
#include "engine/server/notify.h"
#include "engine/server/transport.h"

#define SERVER_FRONTENDS_MAX  64

struct server;

struct server_options {
    struct transport_options transport;
    int32_t num_frontend_threads;
    int32_t max_queued;           /* requests before the front-end threads; then
                                     503 */
    struct notify *notify;        /* told of every heartbeat; NULL: nobody */
};

/* Sensible values for everything; epoch from the clock. */
void server_options_init(struct server_options *out);

/* listen_fd stays the caller's, and open until server_destroy(). */
int server_create(struct server **out, int listen_fd,
                  const struct server_options *options, struct err *err);

/* Once.  Both are borrowed until server_destroy(). */
int server_set_api(struct server *srv, struct api *api, struct engine *engine,
                   struct err *err);

/* Another engine takes over: says DRAINING, so that workers move there, but
 * serves whatever those that have not moved yet still send. */
void server_retire(struct server *srv);

/* After server_retire(): every worker has left or said GOODBYE and no request
 * runs.  As of the last heartbeat. */
bool server_is_deserted(const struct server *srv);

/* Refuses new requests and new sessions, lets the running ones finish for
 * grace_ns, then ends the rest with FINISH_SHUTDOWN.  Returns when none is
 * left, or 2 s after the last cancel.  The engine must be running. */
void server_stop(struct server *srv, int64_t grace_ns);

/* After engine_stop() and the end of the step thread (or without an engine).
 * NULL is fine. */
void server_destroy(struct server *srv);

/* Any thread: requests accepted and not ended; open sessions as of the last
 * heartbeat. */
int32_t server_num_live(const struct server *srv);
int32_t server_num_sessions(const struct server *srv);

#endif
