/* mock_reply.c - OpenAI-shaped documents made of "tok0 tok1 ...". */
#include "tools/mock_reply.h"

#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/json.h"
#include "wire/llm_route.h"

static void
append_text(struct buf *out, const struct mock_plan *plan, int64_t idx)
{
    size_t  start = out->len;

    buf_appendf(out, "tok%lld ", (long long) idx);
    while (plan->bytes != 0 && out->len - start < (size_t) plan->bytes
           && !out->failed)
    {
        buf_append_c(out, 'x');
    }
}

static void
append_id(struct buf *out, const struct mock_reply *m)
{
    struct llm_bytes  id = m->request->meta.request_id;

    buf_append_lit(out, "\"id\":");
    if (id.len != 0) {
        struct buf  text;
        buf_init(&text, 1024);
        buf_append_str(&text, m->chat ? STR("chatcmpl-") : STR("cmpl-"));
        buf_append(&text, id.data, id.len);
        json_write_string(out, buf_str(&text));
        buf_destroy(&text);
    } else {
        buf_appendf(out, "\"%s%llu\"", m->chat ? "chatcmpl-" : "cmpl-",
                    (unsigned long long) m->request->id);
    }
}

static void
open_chunk(struct buf *out, const struct mock_reply *m, const char *object)
{
    append_id(out, m);
    buf_appendf(out, ",\"object\":\"%s\",\"created\":%lld,\"model\":", object,
                (long long) m->created_s);
    json_write_string(out, str_from(m->plan->model));
}

static void
append_usage(struct buf *out, const struct mock_plan *p)
{
    buf_appendf(out, "\"usage\":{\"prompt_tokens\":%lld,"
                "\"completion_tokens\":%lld,\"total_tokens\":%lld}",
                (long long) p->prompt_tokens, (long long) p->tokens,
                (long long) (p->prompt_tokens + p->tokens));
}

static const char *
chunk_object(const struct mock_reply *m)
{
    return m->chat ? "chat.completion.chunk" : "text_completion";
}

void
mock_reply_role(struct buf *out, const struct mock_reply *m)
{
    if (!m->chat) {
        return;
    }
    buf_append_lit(out, "data: {");
    open_chunk(out, m, chunk_object(m));
    buf_append_lit(out, ",\"choices\":[{\"index\":0,\"delta\":{\"role\":"
                   "\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                   "\"finish_reason\":null}]}\n\n");
}

void
mock_reply_token(struct buf *out, const struct mock_reply *m, int64_t idx)
{
    buf_append_lit(out, "data: {");
    open_chunk(out, m, chunk_object(m));
    buf_append_str(out, m->chat
                   ? STR(",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"")
                   : STR(",\"choices\":[{\"index\":0,\"text\":\""));
    append_text(out, m->plan, idx);
    buf_append_str(out, m->chat ? STR("\"},\"logprobs\":null,\"finish_reason\":"
                                      "null}]}\n\n")
                                : STR("\",\"logprobs\":null,\"finish_reason\":"
                                      "null}]}\n\n"));
}

static const char *
finish_text(const struct mock_plan *p)
{
    return p->finish == LLM_FINISH_LENGTH ? "length" : "stop";
}

void
mock_reply_finish(struct buf *out, const struct mock_reply *m)
{
    if (m->plan->error_event) {
        buf_append_lit(out, "data: ");
        mock_reply_error(out, 500, "mock_error", "the mock fails on request");
        buf_append_lit(out, "\n\n");
        return;
    }
    buf_append_lit(out, "data: {");
    open_chunk(out, m, chunk_object(m));
    buf_appendf(out, ",\"choices\":[{\"index\":0,%s,\"logprobs\":null,"
                "\"finish_reason\":\"%s\"}]}\n\n",
                m->chat ? "\"delta\":{}" : "\"text\":\"\"",
                finish_text(m->plan));
    if (m->plan->include_usage) {
        buf_append_lit(out, "data: {");
        open_chunk(out, m, chunk_object(m));
        buf_append_lit(out, ",\"choices\":[],");
        append_usage(out, m->plan);
        buf_append_lit(out, "}\n\n");
    }
    if (!m->plan->no_done) {
        buf_append_lit(out, "data: [DONE]\n\n");
    }
}

void
mock_reply_whole(struct buf *out, const struct mock_reply *m)
{
    buf_append_c(out, '{');
    open_chunk(out, m, m->chat ? "chat.completion" : "text_completion");
    buf_append_str(out, m->chat
                   ? STR(",\"choices\":[{\"index\":0,\"message\":{\"role\":"
                         "\"assistant\",\"content\":\"")
                   : STR(",\"choices\":[{\"index\":0,\"text\":\""));
    for (int64_t i = 0; i < m->plan->tokens && !out->failed; i++) {
        append_text(out, m->plan, i);
    }
    buf_appendf(out, "\"%s,\"logprobs\":null,\"finish_reason\":\"%s\"}],",
                m->chat ? "}" : "", finish_text(m->plan));
    append_usage(out, m->plan);
    buf_append_c(out, '}');
}

static void
append_bytes(struct buf *out, const char *key, struct llm_bytes v)
{
    buf_appendf(out, ",\"%s\":", key);
    json_write_string(out, (struct str) { (const char *) v.data, v.len });
}

void
mock_reply_echo(struct buf *out, const struct mock_reply *m)
{
    const struct request   *r = m->request;
    const struct llm_meta  *meta = &r->meta;
    struct str              body = request_body(r);
    int64_t                 now_ns = clock_now_ns();

    buf_appendf(out, "{\"route\":\"%s\",\"flags\":%u,\"priority\":%d,"
                "\"max_tokens\":%u,\"deadline_ms\":%lld,\"age_ms\":%lld,"
                "\"worker\":%u,\"session\":%llu,\"body_bytes\":%zu",
                llm_route_name(r->route), (unsigned) r->flags, (int) r->priority,
                (unsigned) meta->max_tokens,
                r->deadline_ns == 0 ? 0LL
                : (long long) ((r->deadline_ns - now_ns) / NS_PER_MS),
                (long long) ((now_ns - r->arrival_ns) / NS_PER_MS),
                (unsigned) r->session->worker,
                (unsigned long long) r->session->id, body.len);
    append_bytes(out, "request_id", meta->request_id);
    append_bytes(out, "cache_salt", meta->cache_salt);
    append_bytes(out, "model_id", meta->model);
    append_bytes(out, "uri", meta->uri);
    append_bytes(out, "key_id", meta->key_id);
    buf_append_lit(out, ",\"body\":");
    buf_append_str(out, body.len != 0 ? body : STR("null"));
    buf_append_c(out, '}');
}

void
mock_reply_models(struct buf *out, struct str model_id)
{
    static const char  card[] = "{\"id\":\"mock\",\"object\":\"model\","
                                "\"created\":0,\"owned_by\":\"nginx-llm\"}";

    if (model_id.len != 0) {
        buf_append_str(out, str_from(card));
        return;
    }
    buf_appendf(out, "{\"object\":\"list\",\"data\":[%s]}", card);
}

void
mock_reply_error(struct buf *out, int status, const char *code,
                 const char *message)
{
    buf_append_lit(out, "{\"error\":{\"message\":");
    json_write_string(out, str_from(message));
    buf_appendf(out, ",\"type\":\"%s\",\"param\":null,\"code\":\"%s\"}}",
                status == 429 ? "rate_limit_error"
                : status < 500 ? "invalid_request_error" : "server_error", code);
}
