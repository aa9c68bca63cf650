/* output.c - engine events to records, one wake-up per worker and round. */
#include "engine/server/server_int.h"

#include <string.h>

#define ROUND_EVENTS  64

struct round {
    struct session *touched[ROUND_EVENTS];   /* a reference on each */
    int32_t         num_touched;
};

/* Under lock. */
static void
touch(struct round *round, struct session *s)
{
    if (!s->touched) {
        s->touched = true;
        session_ref(s);
        round->touched[round->num_touched++] = s;
    }
}

static void
on_event(struct server *srv, struct round *round,
         const struct gen_event *event, struct api_reply *reply)
{
    struct api_stream  *stream = api_stream_of(event);
    struct request     *r = api_stream_user(stream);
    struct session     *s = r->session;
    bool                done;

    (void) pthread_mutex_lock(&s->lock);
    reply_reset(reply);
    api_event(stream, event, reply);
    reply_send(r, reply);
    done = reply->done;
    if (done) {
        reply_end(srv, r, stream, reply->reason);
    }
    touch(round, s);
    (void) pthread_mutex_unlock(&s->lock);
    if (done) {
        session_unref(s);
    }
}

static void
publish(struct session *s)
{
    (void) pthread_mutex_lock(&s->lock);
    s->touched = false;
    outbox_publish(s);
    if (outbox_is_over(s)) {
        reply_park_session(s, true);
    }
    (void) pthread_mutex_unlock(&s->lock);
    session_unref(s);
}

void *
output_run(void *arg)
{
    struct server     *srv = arg;
    struct gen_event   events[ROUND_EVENTS];
    struct api_reply   reply;
    struct round       round = { .num_touched = 0 };
    int                n;

    memset(&reply, 0, sizeof reply);
    buf_init(&reply.body, REPLY_BYTES_MAX);
    while ((n = engine_events(srv->engine, events, ROUND_EVENTS, -1)) >= 0) {
        for (int i = 0; i < n; i++) {
            on_event(srv, &round, &events[i], &reply);
        }
        for (int32_t i = 0; i < round.num_touched; i++) {
            publish(round.touched[i]);
        }
        round.num_touched = 0;
    }
    buf_destroy(&reply.body);
    return NULL;
}
