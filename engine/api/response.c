/* response.c - JSON bodies and SSE chunks, field for field as vLLM sends them.
 *
 * Written by hand into a buffer rather than through a document tree: this runs
 * once a token and the shapes are fixed. */
#include "engine/api/stream.h"
#include "engine/base/json.h"

static const char *
response_finish(enum finish_reason reason)
{
    switch (reason) {
    case FINISH_LENGTH:
        return "\"length\"";
    case FINISH_TOOL_CALLS:
        return "\"tool_calls\"";
    default:
        return "\"stop\"";
    }
}

static void
response_prefix(const struct api_stream *s, const char *object,
                struct buf *out)
{
    buf_append_lit(out, "{\"id\":");
    json_write_string(out, s->id);
    buf_appendf(out, ",\"object\":\"%s\",\"created\":%lld,\"model\":", object,
                (long long) s->created_s);
    struct api_usage  usage;
    api_stream_usage(s, &usage);
    json_write_string(out, str_from(usage.model));
}

static void
response_usage(const struct api_stream *s, struct buf *out)
{
    struct api_usage  usage;

    api_stream_usage(s, &usage);
    buf_appendf(out, "\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%d,"
                "\"completion_tokens\":%d,\"prompt_tokens_details\":",
                usage.prompt_tokens,
                usage.prompt_tokens + usage.completion_tokens,
                usage.completion_tokens);
    if (usage.cached_tokens > 0) {
        buf_appendf(out, "{\"cached_tokens\":%d}}", usage.cached_tokens);
    } else {
        buf_append_lit(out, "null}");
    }
}

static void
response_ids(const int32_t *ids, int32_t num, struct buf *out)
{
    buf_append_c(out, '[');
    for (int32_t i = 0; i < num; i++) {
        if (i > 0) {
            buf_append_c(out, ',');
        }
        buf_append_i64(out, ids[i]);
    }
    buf_append_c(out, ']');
}

/* "finish_reason":..,"stop_reason":.. of a choice, null while it is open. */
static void
response_end_fields(const struct api_choice *c, struct buf *out)
{
    if (c->state == CHOICE_OPEN) {
        buf_append_lit(out, "\"finish_reason\":null");
        return;
    }
    buf_appendf(out, "\"finish_reason\":%s,\"stop_reason\":",
                response_finish(c->reason));
    if (c->stop_string >= 0) {
        json_write_string(out, c->stream->stop_texts[c->stop_string]);
    } else if (c->stop_id >= 0) {
        buf_append_i64(out, c->stop_id);
    } else {
        buf_append_lit(out, "null");
    }
}

static void
response_prompt_ids(const struct api_choice *c, struct buf *out)
{
    buf_append_lit(out, ",\"prompt_token_ids\":");
    response_ids(c->gen.token_ids, c->gen.num_prompt_tokens, out);
}

static void
response_chunk_begin(const struct api_choice *c, struct buf *out)
{
    const struct api_stream  *s = c->stream;

    buf_append_lit(out, "data: ");
    response_prefix(s, s->is_chat ? "chat.completion.chunk"
                                  : "text_completion", out);
    buf_append_lit(out, ",\"choices\":[{\"index\":");
    buf_append_i64(out, c->idx);
}

static void
response_chunk_end(const struct api_choice *c, struct buf *out)
{
    buf_append_lit(out, "}]");
    if (c->stream->continuous_usage) {
        buf_append_c(out, ',');
        response_usage(c->stream, out);
    }
}

/* The role chunk that opens each choice of a chat stream. */
void
response_first_chunk(struct api_choice *c, struct buf *out)
{
    response_chunk_begin(c, out);
    buf_append_lit(out, ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                   "\"logprobs\":null,\"finish_reason\":null");
    response_chunk_end(c, out);
    if (c->stream->return_token_ids) {
        response_prompt_ids(c, out);
    }
    buf_append_lit(out, "}\n\n");
}

/* A delta; the last one of a choice (state not OPEN) carries the reason. */
void
response_chunk(struct api_choice *c, struct str text, struct buf *out)
{
    struct api_stream  *s = c->stream;

    response_chunk_begin(c, out);
    if (s->is_chat) {
        buf_append_lit(out, ",\"delta\":{");
        if (text.len > 0 || c->state == CHOICE_OPEN) {
            buf_append_lit(out, "\"content\":");
            json_write_string(out, text);
        }
        buf_append_c(out, '}');
    } else {
        buf_append_lit(out, ",\"text\":");
        json_write_string(out, text);
    }
    buf_append_lit(out, ",\"logprobs\":null,");
    response_end_fields(c, out);
    if (s->return_token_ids) {
        buf_append_lit(out, ",\"token_ids\":");
        response_ids(c->gen.token_ids + c->gen.num_prompt_tokens
                     + c->num_sent_tokens, c->num_tokens - c->num_sent_tokens,
                     out);
    }
    response_chunk_end(c, out);
    if (s->return_token_ids && !s->is_chat && c->num_sent_tokens == 0) {
        response_prompt_ids(c, out);
    }
    c->num_sent_tokens = c->num_tokens;
    buf_append_lit(out, "}\n\n");
}

void
response_usage_chunk(struct api_stream *s, struct buf *out)
{
    buf_append_lit(out, "data: ");
    response_prefix(s, s->is_chat ? "chat.completion.chunk"
                                  : "text_completion", out);
    buf_append_lit(out, ",\"choices\":[],");
    response_usage(s, out);
    buf_append_lit(out, "}\n\n");
}

static void
response_choice(struct api_choice *c, struct buf *out)
{
    const struct api_stream  *s = c->stream;

    buf_append_lit(out, "{\"index\":");
    buf_append_i64(out, c->idx);
    if (s->is_chat) {
        buf_append_lit(out, ",\"message\":{\"role\":\"assistant\","
                       "\"content\":");
        json_write_string(out, buf_str(&c->text));
        buf_append_lit(out, ",\"refusal\":null,\"annotations\":null,"
                       "\"audio\":null,\"function_call\":null,"
                       "\"reasoning\":null}");
    } else {
        buf_append_lit(out, ",\"text\":");
        json_write_string(out, buf_str(&c->text));
    }
    buf_append_lit(out, ",\"logprobs\":null,");
    response_end_fields(c, out);
    if (s->return_token_ids) {
        buf_append_lit(out, ",\"token_ids\":");
        response_ids(c->gen.token_ids + c->gen.num_prompt_tokens,
                     c->num_tokens, out);
        if (!s->is_chat) {
            response_prompt_ids(c, out);
        }
    }
    buf_append_c(out, '}');
}

/* The whole answer of a request without "stream". */
void
response_body(struct api_stream *s, struct buf *out)
{
    response_prefix(s, s->is_chat ? "chat.completion" : "text_completion",
                    out);
    buf_append_lit(out, ",\"choices\":[");
    for (int32_t i = 0; i < s->num_choices; i++) {
        if (i > 0) {
            buf_append_c(out, ',');
        }
        response_choice(&s->choices[i], out);
    }
    buf_append_lit(out, "],\"service_tier\":null,\"system_fingerprint\":null,");
    response_usage(s, out);
    if (s->return_token_ids && s->is_chat) {
        response_prompt_ids(&s->choices[0], out);
    }
    buf_append_c(out, '}');
}
