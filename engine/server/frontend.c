/* frontend.c - turns a complete request into a running one, or into an answer.
 *
 * A thread owns its request in state PREPARING.  What a client wants meanwhile
 * (CANCEL) is noted in the request and looked at under the lock before each
 * step that cannot be undone: asking, submitting. */
#include "engine/server/server_int.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/json.h"
#include "engine/base/version.h"
#include "wire/llm_route.h"

static enum api_route
route_of(uint16_t route)
{
    switch ((enum llm_route) route) {
    case LLM_ROUTE_CHAT_COMPLETIONS:
        return API_CHAT_COMPLETIONS;
    case LLM_ROUTE_COMPLETIONS:
        return API_COMPLETIONS;
    case LLM_ROUTE_MODELS:
        return API_MODELS;
    case LLM_ROUTE_HEALTH:
        return API_HEALTH;
    case LLM_ROUTE_PING:
        return API_PING;
    case LLM_ROUTE_VERSION:
        return API_VERSION;
    case LLM_ROUTE_METRICS:
        return API_METRICS;
    case LLM_ROUTE_TOKENIZE:
        return API_TOKENIZE;
    case LLM_ROUTE_DETOKENIZE:
        return API_DETOKENIZE;
    case LLM_ROUTE_NONE:
    case LLM_ROUTE_COUNT:
        break;
    }
    check(!"the ring lets only known routes pass");
    return API_VERSION;
}

static struct str
text_of(struct llm_bytes b)
{
    return (struct str) { (const char *) b.data, b.len };
}

static int32_t
cap_of(uint32_t max_tokens)
{
    return max_tokens > INT32_MAX ? INT32_MAX : (int32_t) max_tokens;
}

/* true: this request is answered without the protocol layer. */
static bool
answer_unready(struct server *srv, struct request *r, struct api_reply *reply)
{
    struct api  *api = __atomic_load_n(&srv->api, __ATOMIC_ACQUIRE);

    if (r->route == LLM_ROUTE_VERSION && api == NULL) {
        reply->head = true;
        reply->status = 200;
        reply->content = API_CONTENT_JSON;
        reply->done = true;
        buf_append_lit(&reply->body, "{\"version\":");
        json_write_string(&reply->body, str_from(LLM_VERSION));
        buf_append_c(&reply->body, '}');
        return true;
    }
    if (api == NULL) {
        api_error(reply, 503, NULL, "loading",
                  "the model is being loaded; try again later");
        reply->retry_after_s = 5;
        return true;
    }
    if (__atomic_load_n(&srv->draining, __ATOMIC_ACQUIRE)
        && r->route != LLM_ROUTE_VERSION && r->route != LLM_ROUTE_METRICS)
    {
        api_error(reply, 503, NULL, "shutting_down",
                  "the server is shutting down; try again later");
        return true;
    }
    return false;
}

static void
begin(struct server *srv, int32_t idx, struct request *r,
      struct api_reply *reply, struct api_stream **stream)
{
    struct api_call  call = {
        .route = route_of(r->route),
        .body = request_body(r),
        .model_id = text_of(r->meta.model),
        .model_override = r->route != LLM_ROUTE_MODELS
                          && r->meta.model.data != NULL,
        .request_id = text_of(r->meta.request_id),
        .arrival_ns = r->arrival_ns,
        .deadline_ns = r->deadline_ns,
        .priority = r->priority,
        .max_tokens_cap = cap_of(r->meta.max_tokens),
        .user = r,
    };

    *stream = NULL;
    if (!answer_unready(srv, r, reply)) {
        api_begin(srv->api, srv->workers[idx], &call, reply, stream);
    }
}

/* Under lock; the request leaves PREPARING. */
static void
ask(struct request *r, struct api_stream *stream)
{
    struct api_usage   u;
    struct llm_prompt  prompt;

    api_stream_usage(stream, &u);
    prompt.prompt_tokens = (uint32_t) u.prompt_tokens;
    prompt.max_completion_tokens = (uint32_t) u.max_completion_tokens;
    r->stream = stream;
    r->state = REQUEST_ASKED;
    outbox_prompt(r->session, r->id, &prompt);
}

/* Under lock.  true: the request is over. */
static bool
submit(struct server *srv, struct request *r, struct api_stream *stream,
       struct api_reply *reply)
{
    struct session  *s = r->session;

    /* The output thread needs the lock for its first event, so the stream
     * cannot end before it is known as running here. */
    r->stream = stream;
    r->state = REQUEST_RUNNING;
    api_submit(stream, reply);
    if (reply->done) {
        reply_send(r, reply);
        reply_end(srv, r, stream, reply->reason);
        return true;
    }
    if (r->window_closed || s->parked) {
        api_park(stream, true);
    }
    return false;
}

static enum finish_reason
ended_early(const struct request *r)
{
    if (r->cancel_reason != LLM_FINISH_NONE) {
        return (enum finish_reason) r->cancel_reason;
    }
    return r->deadline_ns != 0 && clock_now_ns() >= r->deadline_ns
           ? FINISH_DEADLINE : FINISH_NONE;
}

static void
handle(struct server *srv, int32_t idx, struct request *r,
       struct api_reply *reply)
{
    struct session      *s = r->session;
    struct api_stream   *stream;
    enum finish_reason   early;
    bool                 asked, over = true;

    (void) pthread_mutex_lock(&s->lock);
    r->state = REQUEST_PREPARING;
    stream = r->stream;            /* it was asked and GO has come */
    asked = stream != NULL;
    early = ended_early(r);
    (void) pthread_mutex_unlock(&s->lock);

    reply_reset(reply);
    if (!asked && early == FINISH_NONE) {
        begin(srv, idx, r, reply, &stream);
    }

    (void) pthread_mutex_lock(&s->lock);
    early = ended_early(r);
    if (early != FINISH_NONE) {
        reply_end(srv, r, stream, early);
    } else if (reply->done) {
        reply_send(r, reply);
        reply_end(srv, r, stream, reply->reason);
    } else if (!asked && (r->flags & LLM_SQE_WANT_PROMPT) != 0) {
        ask(r, stream);
        over = false;
    } else {
        over = submit(srv, r, stream, reply);
    }
    outbox_publish(s);
    /* A running request may have ended by now and taken its reference along,
     * but not before this lock is free. */
    (void) pthread_mutex_unlock(&s->lock);
    if (over) {
        session_unref(s);
    }
}

void *
frontend_run(void *frontend_arg)
{
    struct frontend_arg  arg = *(struct frontend_arg *) frontend_arg;
    struct api_reply     reply;
    struct request      *r;

    free(frontend_arg);
    memset(&reply, 0, sizeof reply);
    buf_init(&reply.body, REPLY_BYTES_MAX);
    while (chan_pop(arg.srv->jobs, &r, -1) == OK) {
        handle(arg.srv, arg.idx, r, &reply);
    }
    buf_destroy(&reply.body);
    return NULL;
}
