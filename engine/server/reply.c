/* reply.c - the protocol layer's replies as records. */
#include "engine/server/server_int.h"

#include <string.h>

#define SAME(ours, wires)                                                     \
    _Static_assert((int) (ours) == (int) (wires), #ours " is " #wires)

SAME(FINISH_NONE, LLM_FINISH_NONE);
SAME(FINISH_STOP, LLM_FINISH_STOP);
SAME(FINISH_LENGTH, LLM_FINISH_LENGTH);
SAME(FINISH_TOOL_CALLS, LLM_FINISH_TOOL_CALLS);
SAME(FINISH_CLIENT_ABORT, LLM_FINISH_CLIENT_ABORT);
SAME(FINISH_DEADLINE, LLM_FINISH_DEADLINE);
SAME(FINISH_SLOW_READER, LLM_FINISH_SLOW_READER);
SAME(FINISH_NUMERIC_ERROR, LLM_FINISH_NUMERIC_ERROR);
SAME(FINISH_GRAMMAR_DEAD_END, LLM_FINISH_GRAMMAR_DEAD_END);
SAME(FINISH_ENGINE_LOST, LLM_FINISH_ENGINE_LOST);
SAME(FINISH_SHUTDOWN, LLM_FINISH_SHUTDOWN);
SAME(API_CONTENT_NONE, LLM_CONTENT_NONE);
SAME(API_CONTENT_JSON, LLM_CONTENT_JSON);
SAME(API_CONTENT_SSE, LLM_CONTENT_SSE);
SAME(API_CONTENT_PROMETHEUS, LLM_CONTENT_PROMETHEUS);

void
reply_reset(struct api_reply *reply)
{
    struct buf  body = reply->body;

    memset(reply, 0, sizeof *reply);
    body.failed = false;
    buf_reset(&body);
    reply->body = body;
}

/* More than the session can hold for its worker: this answer is given up, so
 * that the others are not.  A whole one becomes an error; of a stream nothing
 * more is sent, and it ends as one that nobody could read. */
static void
reply_overrun(struct request *r, struct api_reply *reply)
{
    bool  never = reply->body.failed
                  || reply->body.len > outbox_answer_max(r->session);

    if (reply->done && reply->head && !r->head_sent) {
        reply_reset(reply);
        api_error(reply, never ? 413 : 503, NULL,
                  never ? "answer_too_large" : "overloaded",
                  never ? "the answer is larger than the server can hold"
                  : "too much waits to be sent; try again later");
        return;
    }
    r->overrun = true;
    buf_reset(&reply->body);
    if (!reply->done) {
        api_cancel(r->stream, FINISH_SLOW_READER);
    }
}

/* What is left of a stream that was given up: how it ended. */
static void
reply_rest(struct api_reply *reply)
{
    if (!reply->done || reply->reason != FINISH_SLOW_READER) {
        buf_reset(&reply->body);
    }
    if (reply->done) {
        reply->reason = FINISH_SLOW_READER;
    }
}

void
reply_send(struct request *r, struct api_reply *reply)
{
    struct session  *s = r->session;

    if (reply->body.failed || !outbox_fits(s, reply->body.len)) {
        reply_overrun(r, reply);
    }
    if (r->overrun) {
        reply_rest(reply);
    }
    if (reply->head && !r->head_sent) {
        struct llm_head  head = {
            .status = (uint16_t) reply->status,
            .content = (uint16_t) reply->content,
            .flags = reply->stream ? LLM_HEAD_STREAM : 0,
            .content_length = reply->done && !reply->stream
                              ? (int64_t) reply->body.len : -1,
            .retry_after_s = (uint32_t) reply->retry_after_s,
        };
        r->head_sent = true;
        outbox_head(s, r->id, &head);
    }
    if (reply->body.len != 0 && r->head_sent) {
        outbox_data(s, r->id, reply->body.data, reply->body.len);
    }
    buf_reset(&reply->body);
}

static uint32_t
count(int32_t n)
{
    return n < 0 ? 0 : (uint32_t) n;
}

static int64_t
duration(int64_t ns)
{
    return ns < 0 ? 0 : ns;
}

static void
fill_usage(struct llm_end *end, const struct api_stream *stream)
{
    struct api_usage  u;
    size_t            len;

    api_stream_usage(stream, &u);
    end->prompt_tokens = count(u.prompt_tokens);
    end->cached_tokens = count(u.cached_tokens);
    end->completion_tokens = count(u.completion_tokens);
    end->queue_ns = duration(u.queue_ns);
    end->ttft_ns = duration(u.ttft_ns);
    end->decode_ns = duration(u.decode_ns);
    len = u.model == NULL ? 0 : strlen(u.model);
    end->model_len = len < LLM_MODEL_BYTES_MAX ? (uint32_t) len
                                               : LLM_MODEL_BYTES_MAX;
    if (end->model_len != 0) {
        memcpy(end->model, u.model, end->model_len);
    }
}

void
reply_end(struct server *srv, struct request *r, struct api_stream *stream,
          enum finish_reason reason)
{
    struct llm_end  end = { .reason = (uint16_t) reason };

    if (stream != NULL) {
        fill_usage(&end, stream);
        api_stream_destroy(stream);
    }
    outbox_end(r->session, r->id, &end);
    request_free(r);
    if (__atomic_sub_fetch(&srv->num_live, 1, __ATOMIC_ACQ_REL) == 0) {
        (void) pthread_mutex_lock(&srv->idle_lock);
        (void) pthread_cond_broadcast(&srv->idle);
        (void) pthread_mutex_unlock(&srv->idle_lock);
    }
}

void
reply_refuse(struct server *srv, struct request *r, struct api_reply *reply,
             int status, const char *code, const char *message)
{
    reply_reset(reply);
    api_error(reply, status, NULL, code, message);
    reply_send(r, reply);
    reply_end(srv, r, r->stream, FINISH_NONE);
}

void
reply_park_session(struct session *s, bool parked)
{
    if (s->parked == parked) {
        return;
    }
    s->parked = parked;
    for (struct request *r = s->requests; r != NULL; r = r->next) {
        if (r->state == REQUEST_RUNNING) {
            api_park(r->stream, parked || r->window_closed);
        }
    }
}
