/* stream.c - tokens in, response bytes out, on the output thread.
 *
 * A stop string ends the text at once and cancels the sequence; tokens that
 * were already on their way are dropped.  The stream is done when the engine
 * has closed every choice, so no event can arrive for a freed stream. */
#include "engine/api/api_internal.h"
#include "engine/api/openai_error.h"
#include "engine/api/stream.h"
#include "engine/base/clock.h"
#include "engine/core/metrics.h"

#include <stdlib.h>

struct api_stream *
api_stream_of(const struct gen_event *event)
{
    const struct api_choice  *c = event->user;
    return c->stream;
}

void *
api_stream_user(const struct api_stream *s)
{
    return s->user;
}

void
api_stream_usage(const struct api_stream *s, struct api_usage *out)
{
    *out = (struct api_usage) {
        .prompt_tokens = s->num_prompt_tokens,
        .cached_tokens = s->num_cached_tokens,
        .stream = s->stream,
        .model = s->api->options.model_names[0],
    };
    for (int32_t i = 0; i < s->num_choices; i++) {
        out->completion_tokens += s->choices[i].num_tokens;
        out->max_completion_tokens += s->choices[i].gen.max_tokens;
    }
    if (s->scheduled_ns > 0) {
        out->queue_ns = s->scheduled_ns - s->arrival_ns;
    }
    if (s->first_token_ns > 0) {
        out->ttft_ns = s->first_token_ns - s->arrival_ns;
        out->decode_ns = s->last_ns - s->first_token_ns;
    }
}

void
api_stream_destroy(struct api_stream *s)
{
    if (s == NULL) {
        return;
    }
    for (int32_t i = 0; i < s->num_choices; i++) {
        buf_destroy(&s->choices[i].text);
    }
    buf_destroy(&s->piece);
    struct arena  arena = s->arena;    /* the stream lives in it */
    arena_destroy(&arena);
}

void
api_cancel(struct api_stream *s, enum finish_reason reason)
{
    for (int32_t i = 0; i < s->num_choices; i++) {
        engine_cancel(s->api->options.engine, s->choices[i].gen.gen_id,
                      reason);
    }
}

void
api_park(struct api_stream *s, bool parked)
{
    for (int32_t i = 0; i < s->num_choices; i++) {
        engine_park(s->api->options.engine, s->choices[i].gen.gen_id, parked);
    }
}

static void
stream_head(struct api_stream *s, struct api_reply *reply)
{
    if (!s->head_sent) {
        reply->head = true;
        reply->status = 200;
        reply->content = s->stream ? API_CONTENT_SSE : API_CONTENT_JSON;
        reply->stream = s->stream;
        s->head_sent = true;
    }
}

/* What a client reads when its request ends without an answer. */
static const struct stream_failure {
    enum finish_reason  reason;
    int                 status;
    const char         *code;
    const char         *message;
} stream_failures[] = {
    { FINISH_CLIENT_ABORT, 499, "client_abort", "the client went away" },
    { FINISH_DEADLINE, 504, "deadline",
      "the request did not finish before its deadline" },
    { FINISH_SLOW_READER, 408, "slow_reader",
      "the client read too slowly and the answer was ended" },
    { FINISH_NUMERIC_ERROR, 500, "numeric_error",
      "the model produced numbers that are not finite for this request" },
    { FINISH_GRAMMAR_DEAD_END, 500, "grammar_dead_end",
      "no token continues the required structure" },
    { FINISH_SHUTDOWN, 503, "shutdown", "the engine is shutting down" },
    { FINISH_ENGINE_LOST, 503, "engine_lost", "the engine was lost" },
};

static const struct stream_failure *
stream_failure_of(enum finish_reason reason)
{
    size_t  num = sizeof stream_failures / sizeof stream_failures[0];
    for (size_t i = 0; i < num; i++) {
        if (stream_failures[i].reason == reason) {
            return &stream_failures[i];
        }
    }
    return NULL;
}

/* One failed choice ends the request: half an answer helps nobody. */
static void
stream_fail(struct api_stream *s, const struct stream_failure *failure,
            struct api_reply *reply)
{
    if (s->failed) {
        return;
    }
    s->failed = true;
    s->reason = failure->reason;
    for (int32_t i = 0; i < s->num_choices; i++) {
        if (s->choices[i].state == CHOICE_OPEN) {
            engine_cancel(s->api->options.engine, s->choices[i].gen.gen_id,
                          failure->reason);
        }
    }
    if (!s->head_sent) {
        s->head_sent = true;
        api_error(reply, failure->status, NULL, failure->code,
                  failure->message);
        reply->done = false;
        return;
    }
    if (s->stream) {
        buf_append_lit(&reply->body, "data: ");
        openai_error_write(&reply->body, failure->status, NULL, failure->code,
                           failure->message);
        buf_append_lit(&reply->body, "\n\n");
    }
}

/* Sends what the choice has collected since its last chunk. */
static void
stream_flush_choice(struct api_choice *c, struct api_reply *reply)
{
    struct api_stream  *s = c->stream;

    if (!s->stream || s->failed) {
        return;
    }
    bool  ended = c->state != CHOICE_OPEN;
    bool  ids_waiting = s->return_token_ids
                        && c->num_tokens > c->num_sent_tokens;
    if (c->text.len == 0 && !ended && !ids_waiting) {
        return;
    }
    stream_head(s, reply);
    if (s->is_chat && !c->role_sent) {
        response_first_chunk(c, &reply->body);
        c->role_sent = true;
    }
    response_chunk(c, buf_str(&c->text), &reply->body);
    buf_reset(&c->text);
}

static void
stream_end_choice(struct api_choice *c, enum finish_reason reason)
{
    c->state = CHOICE_ENDED;
    c->reason = reason;
    metrics_observe_finish(engine_metrics(c->stream->api->options.engine),
                           reason);
}

static bool
stream_is_stop_id(const struct api_choice *c, int32_t id)
{
    for (int32_t i = 0; i < c->gen.num_stop_ids; i++) {
        if (c->gen.stop_ids[i] == id) {
            return true;
        }
    }
    return false;
}

/* The request's own stop_token_ids are reported as stop_reason, eos is not. */
static int32_t
stream_reported_stop_id(const struct api_choice *c, int32_t id)
{
    int32_t  first = c->gen.num_stop_ids - c->stream->num_stop_token_ids;
    for (int32_t i = first; i < c->gen.num_stop_ids; i++) {
        if (c->gen.stop_ids[i] == id) {
            return id;
        }
    }
    return -1;
}

/* Text that may go out: past the stop matcher, which holds back what could
 * still become a stop string. */
static void
stream_text(struct api_choice *c, struct str text)
{
    struct api_stream  *s = c->stream;

    if (s->stops == NULL) {
        buf_append_str(&c->text, text);
        return;
    }
    /* As with stop ids, and as in vLLM: no end before min_tokens. */
    c->stop.passes = c->num_tokens <= c->gen.min_tokens;
    if (stop_push(&c->stop, text, &c->text)) {
        c->stop_string = c->stop.match_idx;
        stream_end_choice(c, FINISH_STOP);
        engine_cancel(s->api->options.engine, c->gen.gen_id, FINISH_STOP);
    }
}

static void
stream_token(struct api_choice *c, int32_t id)
{
    struct api_stream  *s = c->stream;

    if (c->state != CHOICE_OPEN) {
        return;    /* sampled before our cancel arrived */
    }
    c->num_tokens++;
    bool  is_stop = stream_is_stop_id(c, id);
    if (s->api->options.tokenizer == NULL
        || (is_stop && !(s->include_stop_str
                         && stream_reported_stop_id(c, id) >= 0)))
    {
        return;
    }
    struct buf  *piece = &s->piece;
    buf_reset(piece);
    detok_push(&c->detok, id, piece);
    stream_text(c, buf_str(piece));
}

static void
stream_close_choice(struct api_choice *c, const struct gen_event *ev,
                    struct api_reply *reply)
{
    struct api_stream            *s = c->stream;
    const struct stream_failure  *failure = stream_failure_of(ev->reason);

    s->num_closed++;
    if (c->state == CHOICE_OPEN && failure == NULL) {
        if (s->api->options.tokenizer != NULL) {
            buf_reset(&s->piece);
            detok_finish(&c->detok, &s->piece);
            stream_text(c, buf_str(&s->piece));
        }
        if (c->state == CHOICE_OPEN) {
            if (s->stops != NULL) {
                stop_flush(&c->stop, &c->text);
            }
            c->stop_id = ev->stop_id < 0 ? -1
                         : stream_reported_stop_id(c, ev->stop_id);
            stream_end_choice(c, ev->reason);
        }
        if (!s->failed
            && (s->reason == FINISH_NONE || ev->reason == FINISH_LENGTH))
        {
            s->reason = c->reason;
        }
        stream_flush_choice(c, reply);
    } else if (c->state == CHOICE_OPEN) {
        stream_end_choice(c, ev->reason);
        stream_fail(s, failure, reply);
    } else if (s->reason == FINISH_NONE) {
        s->reason = c->reason;
    }
    c->state = CHOICE_CLOSED;
}

/* Tokens of the longest choice. */
static int32_t
stream_longest(const struct api_stream *s)
{
    int32_t  longest = 0;

    for (int32_t i = 0; i < s->num_choices; i++) {
        if (s->choices[i].num_tokens > longest) {
            longest = s->choices[i].num_tokens;
        }
    }
    return longest;
}

static void
stream_done(struct api_stream *s, struct api_reply *reply)
{
    struct api_usage  usage;

    if (!s->failed) {
        stream_head(s, reply);
        if (!s->stream) {
            response_body(s, &reply->body);
        } else {
            if (s->include_usage) {
                response_usage_chunk(s, &reply->body);
            }
            buf_append_lit(&reply->body, "data: [DONE]\n\n");
        }
    }
    reply->done = true;
    reply->reason = s->reason;
    api_stream_usage(s, &usage);
    metrics_observe_request(engine_metrics(s->api->options.engine),
                            &(struct metrics_request) {
        .prompt_tokens = usage.prompt_tokens,
        .generation_tokens = usage.completion_tokens,
        .max_generation_tokens = stream_longest(s),
        .max_tokens = s->choices[0].gen.max_tokens,
        .n = s->n,
        .e2e_ns = s->last_ns - s->arrival_ns,
        .queue_ns = usage.queue_ns,
        .ttft_ns = usage.ttft_ns,
        .decode_ns = usage.decode_ns,
    });
}

void
api_event(struct api_stream *s, const struct gen_event *ev,
          struct api_reply *reply)
{
    struct api_choice  *c = ev->user;
    struct metrics     *m = engine_metrics(s->api->options.engine);

    if (s->scheduled_ns == 0) {
        s->scheduled_ns = ev->scheduled_ns;
        s->num_cached_tokens += ev->num_cached_tokens;
    }
    if (ev->type == GEN_TOKENS) {
        if (s->first_token_ns == 0) {
            s->first_token_ns = ev->now_ns;
            metrics_observe_ttft(m, ev->now_ns - s->arrival_ns);
        } else if (c->num_tokens > 0) {
            metrics_observe_itl(m, ev->now_ns - c->last_token_ns);
        }
        c->last_token_ns = ev->now_ns;
        for (int32_t i = 0; i < ev->num_tokens; i++) {
            stream_token(c, ev->token_ids[i]);
        }
        s->last_ns = ev->now_ns;
        stream_flush_choice(c, reply);
        return;
    }
    s->last_ns = ev->now_ns;
    stream_close_choice(c, ev, reply);
    if (s->num_closed == s->num_choices) {
        stream_done(s, reply);
    }
}
