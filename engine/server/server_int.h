/* server_int.h - what server.c, frontend.c, output.c and reply.c share. */
#ifndef LLM_SERVER_SERVER_INT_H
#define LLM_SERVER_SERVER_INT_H

#include <pthread.h>
#include "engine/base/chan.h"
#include "engine/server/outbox.h"
#include "engine/server/server.h"

#define REPLY_BYTES_MAX  API_STREAM_ARENA_BYTES

struct server {
    struct server_options  options;
    struct transport      *transport;
    struct chan           *jobs;         /* struct request *, state QUEUED */
    struct api            *api;          /* atomic; NULL while loading */
    struct engine         *engine;       /* set before api */
    struct api_worker     *workers[SERVER_FRONTENDS_MAX];  /* set before api */
    int32_t    num_live;                 /* atomic */
    int32_t    num_sessions;             /* atomic */
    int32_t    num_staying;              /* atomic; sessions without GOODBYE */
    bool       draining;                 /* atomic */
    bool       retiring;                 /* atomic */
    bool       cancel_all;               /* atomic; for the transport thread */
    bool       quit;                     /* atomic; ends the transport thread */
    bool       engine_gone;              /* at destroy: streams are ours */
    pthread_mutex_t idle_lock;
    pthread_cond_t  idle;                /* num_live became 0 */
    pthread_t  transport_thread, output_thread;
    pthread_t  frontend_threads[SERVER_FRONTENDS_MAX];
    int32_t    num_frontends;
    bool       transport_runs, output_runs;
    struct api_reply reply;              /* transport thread's own answers */
    struct llm_stats last;               /* transport thread: progress */
};

struct frontend_arg {
    struct server *srv;
    int32_t        idx;
};

/* frontend.c */
void *frontend_run(void *frontend_arg);  /* frees its argument */

/* output.c */
void *output_run(void *srv);

/* reply.c: all under the session's lock, by the request's owner. */

/* HEAD and DATA of what the reply holds; empties its body. */
void reply_send(struct request *r, struct api_reply *reply);

/* END with the stream's numbers (stream may be NULL), frees request and stream.
 * The request's reference on the session is left to the caller. */
void reply_end(struct server *srv, struct request *r,
               struct api_stream *stream, enum finish_reason reason);

/* An error document and END; also for a request that waited for GO. */
void reply_refuse(struct server *srv, struct request *r,
                  struct api_reply *reply, int status, const char *code,
                  const char *message);

/* Empties a reply for its next use. */
void reply_reset(struct api_reply *reply);

/* Stops or resumes all running requests of a session whose ring is full. */
void reply_park_session(struct session *s, bool parked);

#endif
