/* server.c - puts transport, front-end and output threads together, and decides
 * what a control message means to a request in each of its states. */
#include "engine/server/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/server/server_int.h"

#define STOP_NS_MAX  (2 * NS_PER_S)    /* from the last cancel to the last END */

void
server_options_init(struct server_options *out)
{
    struct session_options  *s = &out->transport.session;

    memset(out, 0, sizeof *out);
    s->sq_entries = 1024;
    s->arena_bytes = 8u << 20;
    s->cq_bytes = 4u << 20;
    s->max_requests = 4096;
    s->body_bytes_max = 16u << 20;
    s->held_bytes_max = 256u << 20;
    s->over_bytes_max = 64u << 20;
    s->epoch = (uint64_t) clock_now_ns();
    out->transport.max_sessions = 256;
    out->transport.full_ns_max = 10 * NS_PER_S;
    out->num_frontend_threads = 2;
    out->max_queued = 4096;
}

/* ---- what happens to a request --------------------------------------------- */
static void
refuse(struct server *srv, struct request *r, int status, const char *code,
       const char *message)
{
    struct session  *s = r->session;

    (void) pthread_mutex_lock(&s->lock);
    reply_refuse(srv, r, &srv->reply, status, code, message);
    outbox_publish(s);
    (void) pthread_mutex_unlock(&s->lock);
    session_unref(s);
}

static void
enqueue(struct server *srv, struct request *r)
{
    if (chan_push(srv->jobs, &r) != OK) {
        refuse(srv, r, 503, "overloaded", "too many requests are waiting; try "
               "again later");
    }
}

/* Under lock, transport thread, which holds a reference of its own. */
static void
cancel(struct server *srv, struct request *r, enum finish_reason reason)
{
    struct session  *s = r->session;

    switch (r->state) {
    case REQUEST_RECEIVING:
        /* Not complete, so not counted as live yet. */
        (void) __atomic_add_fetch(&srv->num_live, 1, __ATOMIC_RELAXED);
        reply_end(srv, r, NULL, reason);
        session_unref(s);
        break;
    case REQUEST_ASKED:
        reply_end(srv, r, r->stream, reason);
        session_unref(s);
        break;
    case REQUEST_QUEUED:
    case REQUEST_PREPARING:
        r->cancel_reason = (uint16_t) reason;
        break;
    case REQUEST_RUNNING:
        api_cancel(r->stream, reason);
        break;
    }
}

/* Under lock.  true: the request goes back to the queue. */
static bool
go(struct server *srv, struct request *r, bool yes)
{
    if (r->state != REQUEST_ASKED) {
        return false;
    }
    if (!yes) {
        cancel(srv, r, FINISH_NONE);
        return false;
    }
    r->state = REQUEST_QUEUED;
    return true;
}

/* CANCEL, WINDOW, GO. */
static void
control(struct server *srv, struct session *s, const struct inbox_event *event)
{
    struct request  *r;
    bool             queue = false;

    (void) pthread_mutex_lock(&s->lock);
    r = inbox_find(s, event->id);
    if (r != NULL) {
        switch (event->type) {
        case INBOX_CANCEL:
            cancel(srv, r, (enum finish_reason) event->value);
            break;
        case INBOX_WINDOW:
            r->window_closed = event->value == 0;
            if (r->state == REQUEST_RUNNING) {
                api_park(r->stream, r->window_closed || s->parked);
            }
            break;
        default:
            queue = go(srv, r, event->value != 0);
            break;
        }
        outbox_publish(s);
    }
    (void) pthread_mutex_unlock(&s->lock);
    if (queue) {
        enqueue(srv, r);
    }
}

static void
on_event(void *user, struct session *s, struct inbox_event *event)
{
    struct server  *srv = user;

    if (event->request != NULL) {
        (void) __atomic_add_fetch(&srv->num_live, 1, __ATOMIC_RELAXED);
    }
    switch (event->type) {
    case INBOX_SUBMIT:
        enqueue(srv, event->request);
        break;
    case INBOX_TOO_LARGE:
        refuse(srv, event->request, 413, "request_too_large",
               "the request body is larger than --max-body-bytes");
        break;
    case INBOX_BUSY:
        refuse(srv, event->request, 503, "overloaded",
               "too many request bodies are held; try again later");
        break;
    case INBOX_GOODBYE:
        break;
    default:
        control(srv, s, event);
        break;
    }
}

static void
on_room(void *user, struct session *s)
{
    (void) user;
    reply_park_session(s, false);
}

static void
cancel_session(struct server *srv, struct session *s, enum finish_reason reason)
{
    struct request  *r, *next;

    for (r = s->requests; r != NULL; r = next) {
        next = r->next;
        if (r->state == REQUEST_RUNNING && srv->engine_gone) {
            reply_end(srv, r, r->stream, FINISH_SHUTDOWN);
            session_unref(s);
        } else if (r->state != REQUEST_RECEIVING) {
            cancel(srv, r, reason);
        }
    }
}

static void
on_close(void *user, struct session *s)
{
    cancel_session(user, s, FINISH_CLIENT_ABORT);
}

/* ---- heartbeat --------------------------------------------------------------- */
static uint32_t
count(int32_t n)
{
    return n < 0 ? 0 : (uint32_t) n;
}

static void
fill_engine(struct server *srv, struct llm_stats *out)
{
    struct engine_stats  e;

    engine_stats(srv->engine, &e);
    /* Progress is a step done, or nothing to do. */
    if (e.num_steps != out->steps || e.num_running + e.num_waiting == 0) {
        out->progress_ns = clock_now_ns();
    }
    out->steps = e.num_steps;
    out->requests_total = e.requests_total;
    out->prompt_tokens_total = e.prompt_tokens_total;
    out->generation_tokens_total = e.generation_tokens_total;
    out->preemptions_total = e.num_preemptions;
    out->running = count(e.num_running);
    out->waiting = count(e.num_waiting);
    out->parked = count(e.num_parked);
    out->kv_blocks_used = count(e.kv_blocks_used);
    out->kv_blocks_total = count(e.kv_blocks_total);
}

static void
on_beat(void *user, struct llm_stats *out)
{
    struct server  *srv = user;
    bool            ready = __atomic_load_n(&srv->api, __ATOMIC_ACQUIRE) != NULL;

    out->queued = (uint32_t) chan_len(srv->jobs);
    out->retry_after_s = ready ? 1 : 5;
    if (__atomic_load_n(&srv->draining, __ATOMIC_ACQUIRE)
        || __atomic_load_n(&srv->retiring, __ATOMIC_ACQUIRE))
    {
        out->state = LLM_STATE_DRAINING;
    } else {
        out->state = ready ? LLM_STATE_READY : LLM_STATE_LOADING;
    }
    if (ready) {
        fill_engine(srv, out);
    } else {
        out->progress_ns = clock_now_ns();
    }
    __atomic_store_n(&srv->num_sessions,
                     transport_num_sessions(srv->transport), __ATOMIC_RELAXED);
    __atomic_store_n(&srv->num_staying,
                     transport_num_staying(srv->transport), __ATOMIC_RELAXED);
    notify_beat(srv->options.notify, out, clock_now_ns());
}

/* ---- threads -------------------------------------------------------------------- */
static void
cancel_everything(struct server *srv)
{
    for (struct session *s = transport_sessions(srv->transport); s != NULL;
         s = s->next)
    {
        (void) pthread_mutex_lock(&s->lock);
        if (s->state == SESSION_OPEN) {
            cancel_session(srv, s, FINISH_SHUTDOWN);
            outbox_publish(s);
        }
        (void) pthread_mutex_unlock(&s->lock);
    }
}

static void *
transport_run(void *arg)
{
    struct server  *srv = arg;
    int             state = -1;

    while (!__atomic_load_n(&srv->quit, __ATOMIC_ACQUIRE)) {
        bool  ready = __atomic_load_n(&srv->api, __ATOMIC_ACQUIRE) != NULL;
        bool  draining = __atomic_load_n(&srv->draining, __ATOMIC_ACQUIRE);
        bool  retiring = __atomic_load_n(&srv->retiring, __ATOMIC_ACQUIRE);
        int   now = draining ? 3 : retiring ? 2 : ready ? 1 : 0;

        if (now != state) {           /* workers shall know at once */
            state = now;
            if (draining) {
                transport_stop_accepting(srv->transport);
            }
            transport_beat(srv->transport);
        }
        if (__atomic_exchange_n(&srv->cancel_all, false, __ATOMIC_ACQ_REL)) {
            cancel_everything(srv);
        }
        transport_turn(srv->transport, -1);
    }
    return NULL;
}

static int
start_frontends(struct server *srv, struct err *err)
{
    for (int32_t i = 0; i < srv->options.num_frontend_threads; i++) {
        struct frontend_arg  *arg = malloc(sizeof *arg);
        int                   rc;
        if (arg == NULL) {
            return err_set(err, "server: out of memory");
        }
        *arg = (struct frontend_arg) { srv, i };
        rc = pthread_create(&srv->frontend_threads[i], NULL, frontend_run, arg);
        if (rc != 0) {
            free(arg);
            return err_set(err, "server: front-end thread: %s", strerror(rc));
        }
        srv->num_frontends++;
    }
    return OK;
}

int
server_create(struct server **out, int listen_fd,
              const struct server_options *options, struct err *err)
{
    struct transport_hooks  hooks = { NULL, on_event, on_room, on_close,
                                      on_beat };
    struct server          *srv;
    pthread_condattr_t      attr;
    int                     rc;

    *out = NULL;
    if (options->num_frontend_threads < 1
        || options->num_frontend_threads > SERVER_FRONTENDS_MAX
        || options->max_queued < 1)
    {
        return err_set(err, "server: %d front-end threads (1..%d) and a queue "
                       "of %d (at least 1)", options->num_frontend_threads,
                       SERVER_FRONTENDS_MAX, options->max_queued);
    }
    srv = calloc(1, sizeof *srv);
    if (srv == NULL) {
        return err_set(err, "server: out of memory");
    }
    srv->options = *options;
    (void) pthread_mutex_init(&srv->idle_lock, NULL);
    (void) pthread_condattr_init(&attr);
    (void) pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void) pthread_cond_init(&srv->idle, &attr);
    (void) pthread_condattr_destroy(&attr);
    buf_init(&srv->reply.body, REPLY_BYTES_MAX);
    hooks.user = srv;
    if (chan_create(&srv->jobs, sizeof(struct request *),
                    (size_t) options->max_queued, err) != OK
        || transport_create(&srv->transport, listen_fd, &options->transport,
                            &hooks, err) != OK
        || start_frontends(srv, err) != OK)
    {
        goto fail;
    }
    rc = pthread_create(&srv->transport_thread, NULL, transport_run, srv);
    if (rc != 0) {
        (void) err_set(err, "server: transport thread: %s", strerror(rc));
        goto fail;
    }
    srv->transport_runs = true;
    *out = srv;
    return OK;

fail:
    server_destroy(srv);
    return ERROR;
}

int
server_set_api(struct server *srv, struct api *api, struct engine *engine,
               struct err *err)
{
    int  rc;

    for (int32_t i = 0; i < srv->num_frontends; i++) {
        if (api_worker_create(&srv->workers[i], api, err) != OK) {
            return ERROR;
        }
    }
    srv->engine = engine;
    rc = pthread_create(&srv->output_thread, NULL, output_run, srv);
    if (rc != 0) {
        return err_set(err, "server: output thread: %s", strerror(rc));
    }
    srv->output_runs = true;
    __atomic_store_n(&srv->api, api, __ATOMIC_RELEASE);
    transport_wake(srv->transport);
    return OK;
}

/* ---- the end ----------------------------------------------------------------------- */
static bool
wait_idle(struct server *srv, int64_t ns)
{
    int64_t          until_ns = clock_now_ns() + ns;
    struct timespec  until = { (time_t) (until_ns / NS_PER_S),
                               (long) (until_ns % NS_PER_S) };
    int              rc = 0;
    bool             idle;

    (void) pthread_mutex_lock(&srv->idle_lock);
    while (!(idle = server_num_live(srv) == 0) && rc == 0) {
        rc = pthread_cond_timedwait(&srv->idle, &srv->idle_lock, &until);
    }
    (void) pthread_mutex_unlock(&srv->idle_lock);
    return idle;
}

void
server_retire(struct server *srv)
{
    __atomic_store_n(&srv->retiring, true, __ATOMIC_RELEASE);
    transport_wake(srv->transport);
}

bool
server_is_deserted(const struct server *srv)
{
    return __atomic_load_n(&srv->num_staying, __ATOMIC_RELAXED) == 0
           && server_num_live(srv) == 0;
}

void
server_stop(struct server *srv, int64_t grace_ns)
{
    __atomic_store_n(&srv->draining, true, __ATOMIC_RELEASE);
    transport_wake(srv->transport);
    if (wait_idle(srv, grace_ns)) {
        return;
    }
    log_warn("stop: %d requests are still running after %lld ms and are ended",
             server_num_live(srv), (long long) (grace_ns / NS_PER_MS));
    __atomic_store_n(&srv->cancel_all, true, __ATOMIC_RELEASE);
    transport_wake(srv->transport);
    (void) wait_idle(srv, STOP_NS_MAX);
}

void
server_destroy(struct server *srv)
{
    if (srv == NULL) {
        return;
    }
    if (srv->jobs != NULL) {
        chan_close(srv->jobs);
    }
    for (int32_t i = 0; i < srv->num_frontends; i++) {
        (void) pthread_join(srv->frontend_threads[i], NULL);
    }
    if (srv->output_runs) {
        (void) pthread_join(srv->output_thread, NULL);
    }
    if (srv->transport_runs) {
        __atomic_store_n(&srv->quit, true, __ATOMIC_RELEASE);
        transport_wake(srv->transport);
        (void) pthread_join(srv->transport_thread, NULL);
    }
    srv->engine_gone = true;
    transport_destroy(srv->transport);
    for (int32_t i = 0; i < srv->num_frontends; i++) {
        api_worker_destroy(srv->workers[i]);
    }
    chan_destroy(srv->jobs);
    buf_destroy(&srv->reply.body);
    (void) pthread_cond_destroy(&srv->idle);
    (void) pthread_mutex_destroy(&srv->idle_lock);
    free(srv);
}

int32_t
server_num_live(const struct server *srv)
{
    return __atomic_load_n(&srv->num_live, __ATOMIC_ACQUIRE);
}

int32_t
server_num_sessions(const struct server *srv)
{
    return __atomic_load_n(&srv->num_sessions, __ATOMIC_RELAXED);
}
