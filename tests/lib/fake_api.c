/* fake_api.c - streams in a list, one token a step. */
#include "tests/lib/fake_api.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/chan.h"
#include "engine/base/check.h"
#include "engine/base/clock.h"

#define FAKE_EVENTS_MAX  65536

struct api { struct fake *fake; };
struct engine { struct fake *fake; };
struct api_worker { struct api *api; };

struct api_stream {
    struct fake *fake;
    struct api_stream *next;
    void    *user;
    uint64_t id;
    int      tokens, bytes, sent;
    bool     stream, refuse_submit, parked, head_sent, running;
    enum finish_reason cancelled;
    int64_t  deadline_ns;
};

struct fake {
    pthread_mutex_t lock;
    pthread_t  thread;
    struct api api;
    struct engine engine;
    struct chan *events;
    struct api_stream *running;      /* under lock */
    int      num_streams;            /* atomic */
    bool     stop, hold_steps, hold_begin;       /* atomic */
    int64_t  step_ns;
    uint64_t steps, next_id;         /* under lock */
};

/* ---- the engine's thread --------------------------------------------------------- */
static void
emit(struct fake *f, struct api_stream *s, enum gen_event_type type,
     enum finish_reason reason)
{
    struct gen_event  e = { .gen_id = s->id, .user = s, .type = type,
                            .num_tokens = type == GEN_TOKENS, .reason = reason };

    check(chan_push(f->events, &e) == OK);
}

/* Under lock: one token for everyone; ended streams leave the list. */
static void
step(struct fake *f)
{
    struct api_stream  **at = &f->running;

    f->steps++;
    while (*at != NULL) {
        struct api_stream   *s = *at;
        enum finish_reason   reason = s->cancelled;
        if (reason == FINISH_NONE
            && __atomic_load_n(&f->stop, __ATOMIC_ACQUIRE))
        {
            reason = FINISH_SHUTDOWN;
        }
        if (reason == FINISH_NONE && s->deadline_ns != 0
            && clock_now_ns() > s->deadline_ns)
        {
            reason = FINISH_DEADLINE;
        }
        if (reason == FINISH_NONE && !s->parked && s->sent < s->tokens) {
            s->sent++;
            emit(f, s, GEN_TOKENS, FINISH_NONE);
        }
        if (reason == FINISH_NONE && s->sent == s->tokens) {
            reason = FINISH_STOP;
        }
        if (reason != FINISH_NONE) {
            *at = s->next;
            s->running = false;
            emit(f, s, GEN_FINISHED, reason);
        } else {
            at = &s->next;
        }
    }
}

static void *
run(void *arg)
{
    struct fake      *f = arg;
    struct timespec   t = { 0, (long) f->step_ns };
    bool              stop;

    do {
        (void) nanosleep(&t, NULL);
        stop = __atomic_load_n(&f->stop, __ATOMIC_ACQUIRE);
        if (__atomic_load_n(&f->hold_steps, __ATOMIC_ACQUIRE) && !stop) {
            continue;
        }
        (void) pthread_mutex_lock(&f->lock);
        if (chan_len(f->events) < FAKE_EVENTS_MAX / 4) {
            step(f);
        }
        (void) pthread_mutex_unlock(&f->lock);
    } while (!stop);
    chan_close(f->events);
    return NULL;
}

struct fake *
fake_create(int64_t step_ns)
{
    struct fake  *f = calloc(1, sizeof *f);

    check(f != NULL);
    (void) pthread_mutex_init(&f->lock, NULL);
    f->api.fake = f;
    f->engine.fake = f;
    f->step_ns = step_ns;
    check(chan_create(&f->events, sizeof(struct gen_event), FAKE_EVENTS_MAX, NULL)
          == OK);
    check(pthread_create(&f->thread, NULL, run, f) == 0);
    return f;
}

void
fake_stop(struct fake *f)
{
    __atomic_store_n(&f->stop, true, __ATOMIC_RELEASE);
    (void) pthread_join(f->thread, NULL);
}

void
fake_destroy(struct fake *f)
{
    check_eq(fake_num_streams(f), 0);
    chan_destroy(f->events);
    (void) pthread_mutex_destroy(&f->lock);
    free(f);
}

struct api *
fake_api(struct fake *f)
{
    return &f->api;
}

struct engine *
fake_engine(struct fake *f)
{
    return &f->engine;
}

int
fake_num_streams(struct fake *f)
{
    return __atomic_load_n(&f->num_streams, __ATOMIC_ACQUIRE);
}

int
fake_num_unparked(struct fake *f)
{
    int  n = 0;

    (void) pthread_mutex_lock(&f->lock);
    for (struct api_stream *s = f->running; s != NULL; s = s->next) {
        n += !s->parked;
    }
    (void) pthread_mutex_unlock(&f->lock);
    return n;
}

void
fake_hold_steps(struct fake *f, bool hold)
{
    __atomic_store_n(&f->hold_steps, hold, __ATOMIC_RELEASE);
}

void
fake_hold_begin(struct fake *f, bool hold)
{
    __atomic_store_n(&f->hold_begin, hold, __ATOMIC_RELEASE);
}

/* ---- api.h ------------------------------------------------------------------------ */
int
api_worker_create(struct api_worker **out, struct api *api, struct err *err)
{
    (void) err;
    *out = calloc(1, sizeof **out);
    check(*out != NULL);
    (*out)->api = api;
    return OK;
}

void
api_worker_destroy(struct api_worker *w)
{
    free(w);
}

static int
word(const char *text, const char *name, int otherwise)
{
    const char  *p = strstr(text, name);

    return p == NULL ? otherwise : atoi(p + strlen(name));
}

void
api_begin(struct api *api, struct api_worker *w, const struct api_call *call,
          struct api_reply *reply, struct api_stream **stream)
{
    struct timespec     pause = { 0, 1000000 };
    struct api_stream  *s;
    char                text[256];

    check(w != NULL && w->api == api);
    check_le(0, call->arrival_ns);
    check_le(call->arrival_ns, clock_now_ns());
    check_le(call->deadline_ns, INT64_MAX / 2);
    while (__atomic_load_n(&api->fake->hold_begin, __ATOMIC_ACQUIRE)) {
        (void) nanosleep(&pause, NULL);
    }
    (void) snprintf(text, sizeof text, "%.*s",
                    (int) (call->body.len < 200 ? call->body.len : 200),
                    call->body.data);
    *stream = NULL;
    if (call->route != API_CHAT_COMPLETIONS) {
        reply->head = reply->done = true;
        reply->status = 200;
        reply->content = API_CONTENT_JSON;
        buf_appendf(&reply->body, "{\"plain\":%zu}", call->body.len);
        return;
    }
    if (word(text, "error=", 0) != 0) {
        api_error(reply, 400, "messages", NULL, "as the test asked");
        return;
    }
    if (word(text, "answer=", 0) != 0) {
        reply->head = reply->done = true;
        reply->status = 200;
        reply->content = API_CONTENT_JSON;
        for (int i = word(text, "answer=", 0); i > 0; i--) {
            buf_append_c(&reply->body, 'x');
        }
        return;
    }
    s = calloc(1, sizeof *s);
    check(s != NULL);
    s->fake = api->fake;
    s->user = call->user;
    s->tokens = word(text, "tokens=", 5);
    s->bytes = word(text, "bytes=", 10);
    s->stream = word(text, "stream=", 1) != 0;
    s->refuse_submit = word(text, "full=", 0) != 0;
    s->deadline_ns = call->deadline_ns;
    (void) __atomic_add_fetch(&s->fake->num_streams, 1, __ATOMIC_ACQ_REL);
    *stream = s;
}

void
api_submit(struct api_stream *s, struct api_reply *reply)
{
    struct fake  *f = s->fake;

    if (s->refuse_submit) {
        api_error(reply, 503, NULL, "overloaded", "the queue is full");
        return;
    }
    (void) pthread_mutex_lock(&f->lock);
    s->id = ++f->next_id;
    s->running = true;
    s->next = f->running;
    f->running = s;
    (void) pthread_mutex_unlock(&f->lock);
}

void
api_event(struct api_stream *s, const struct gen_event *event,
          struct api_reply *reply)
{
    if (event->type == GEN_TOKENS) {
        reply->head = !s->head_sent;
        reply->status = 200;
        reply->content = s->stream ? API_CONTENT_SSE : API_CONTENT_JSON;
        reply->stream = s->stream;
        s->head_sent = true;
        for (int i = 0; i < s->bytes; i++) {
            buf_append_c(&reply->body, 'x');
        }
        return;
    }
    buf_append_lit(&reply->body, "end");
    reply->done = true;
    reply->reason = event->reason;
}

void
api_stream_destroy(struct api_stream *s)
{
    if (s == NULL) {
        return;
    }
    check(!s->running);
    (void) __atomic_sub_fetch(&s->fake->num_streams, 1, __ATOMIC_ACQ_REL);
    free(s);
}

struct api_stream *
api_stream_of(const struct gen_event *event)
{
    return event->user;
}

void *
api_stream_user(const struct api_stream *s)
{
    return s->user;
}

void
api_stream_usage(const struct api_stream *s, struct api_usage *out)
{
    memset(out, 0, sizeof *out);
    out->prompt_tokens = 7;
    out->completion_tokens = s->sent;
    out->max_completion_tokens = s->tokens;
    out->queue_ns = 1;
    out->model = "fake";
}

void
api_cancel(struct api_stream *s, enum finish_reason reason)
{
    (void) pthread_mutex_lock(&s->fake->lock);
    s->cancelled = reason;
    (void) pthread_mutex_unlock(&s->fake->lock);
}

void
api_park(struct api_stream *s, bool parked)
{
    (void) pthread_mutex_lock(&s->fake->lock);
    s->parked = parked;
    (void) pthread_mutex_unlock(&s->fake->lock);
}

void
api_error(struct api_reply *reply, int status, const char *param,
          const char *code, const char *message)
{
    reply->head = reply->done = true;
    reply->status = status;
    reply->content = API_CONTENT_JSON;
    reply->retry_after_s = status == 503 ? 1 : 0;
    buf_appendf(&reply->body, "{\"error\":{\"message\":\"%s\",\"param\":\"%s\","
                "\"code\":\"%s\"}}", message, param == NULL ? "" : param,
                code == NULL ? "" : code);
}

/* ---- engine.h ----------------------------------------------------------------------- */
int
engine_events(struct engine *e, struct gen_event *events, int max,
              int64_t timeout_ns)
{
    return chan_pop_many(e->fake->events, events, max, timeout_ns);
}

void
engine_stats(struct engine *e, struct engine_stats *out)
{
    memset(out, 0, sizeof *out);
    (void) pthread_mutex_lock(&e->fake->lock);
    out->num_steps = e->fake->steps;
    for (struct api_stream *s = e->fake->running; s != NULL; s = s->next) {
        out->num_running++;
    }
    (void) pthread_mutex_unlock(&e->fake->lock);
    if (__atomic_load_n(&e->fake->hold_steps, __ATOMIC_ACQUIRE)) {
        out->last_step_ns = 1;
    }
}
