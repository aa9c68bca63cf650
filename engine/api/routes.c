/* routes.c - the routes without generation: models, health, version, metrics,
 * tokenize, detokenize.  Shapes are vLLM's. */
#include "engine/api/api_internal.h"
#include "engine/api/fields.h"
#include "engine/api/unsupported.h"
#include "engine/base/clock.h"
#include "engine/base/version.h"
#include "engine/core/metrics.h"

#define DETOKENIZE_IDS_MAX  (1u << 20)

static void
routes_ok(struct api_reply *reply, enum api_content content)
{
    reply->head = true;
    reply->status = 200;
    reply->content = content;
    reply->done = true;
}

static void
routes_model_card(const struct api *api, const char *name, struct buf *out)
{
    buf_append_lit(out, "{\"id\":");
    json_write_string(out, str_from(name));
    buf_appendf(out, ",\"object\":\"model\",\"created\":%lld,"
                "\"owned_by\":\"nginx-llm\",\"root\":",
                (long long) api->created_s);
    json_write_string(out, str_from(api->options.model_root));
    buf_appendf(out, ",\"parent\":null,\"max_model_len\":%d,\"permission\":[]}",
                api->options.max_model_len);
}

static void
routes_models(const struct api *api, const struct api_call *call,
              struct api_reply *reply)
{
    const struct api_options  *o = &api->options;

    if (call->model_id.len > 0) {
        for (int32_t i = 0; i < o->num_model_names; i++) {
            if (str_eq(call->model_id, str_from(o->model_names[i]))) {
                routes_ok(reply, API_CONTENT_JSON);
                routes_model_card(api, o->model_names[i], &reply->body);
                return;
            }
        }
        struct err  err;
        (void) err_set_http(&err, 404, "model", "The model `%.*s` does not "
                            "exist.", STR_ARG(call->model_id));
        api_reply_err(reply, &err);
        return;
    }
    routes_ok(reply, API_CONTENT_JSON);
    buf_append_lit(&reply->body, "{\"object\":\"list\",\"data\":[");
    for (int32_t i = 0; i < o->num_model_names; i++) {
        if (i > 0) {
            buf_append_c(&reply->body, ',');
        }
        routes_model_card(api, o->model_names[i], &reply->body);
    }
    buf_append_lit(&reply->body, "]}");
}

static void
routes_metrics(const struct api *api, struct api_reply *reply)
{
    struct engine_stats  stats;

    engine_stats(api->options.engine, &stats);
    routes_ok(reply, API_CONTENT_PROMETHEUS);
    metrics_write(engine_metrics(api->options.engine),
                  api->options.model_names[0], &stats, &reply->body);
}

/* prompt or messages -> ids in w->ids. */
static int
routes_tokenize_ids(struct api_worker *w, const struct json *root,
                    struct err *err)
{
    struct fields          f = { root, "", err };
    struct text_span_list  untrusted = { NULL, 0 };
    struct str             prompt = { NULL, 0 };
    bool                   is_chat = field_find(&f, "messages") != NULL;
    bool                   add_special_tokens = !is_chat;

    if (field_bool(&f, "add_special_tokens", &add_special_tokens) != OK) {
        return ERROR;
    }
    if (is_chat) {
        if (field_find(&f, "prompt") != NULL) {
            return field_error(&f, "prompt", "give prompt or messages, not "
                               "both");
        }
        return api_render_chat(w, root, &untrusted, err) != OK ? ERROR
               : api_encode(w, buf_str(&w->prompt), add_special_tokens,
                            &untrusted, err);
    }
    if (field_find(&f, "prompt") == NULL) {
        return field_error(&f, "prompt", "is required");
    }
    if (field_string(&f, "prompt", &prompt) != OK) {
        return ERROR;
    }
    return api_encode(w, prompt, add_special_tokens, NULL, err);
}

static void
routes_write_token_strs(const struct api_worker *w, struct buf *out)
{
    for (size_t i = 0; i < w->ids.len; i++) {
        struct str  t = tokenizer_token(w->api->options.tokenizer,
                                        w->ids.ids[i]);
        if (i > 0) {
            buf_append_c(out, ',');
        }
        json_write_string(out, t);
    }
}

static int
routes_tokenize(struct api_worker *w, const struct api_call *call,
                struct api_reply *reply, struct err *err)
{
    const struct json  *root;
    bool                strs = false;
    struct buf         *out = &reply->body;

    /* What a chat request is refused for would be a wrong answer here. */
    if (api_parse_body(w, call->body, &root, err) != OK
        || api_check_model(w->api, call, root, err) != OK
        || unsupported_check(root, json_find(root, "messages") != NULL, err)
           != OK)
    {
        return ERROR;
    }
    struct fields  f = { root, "", err };
    if (field_bool(&f, "return_token_strs", &strs) != OK
        || routes_tokenize_ids(w, root, err) != OK)
    {
        return ERROR;
    }
    routes_ok(reply, API_CONTENT_JSON);
    buf_appendf(out, "{\"count\":%zu,\"max_model_len\":%d,\"tokens\":[",
                w->ids.len, w->api->options.max_model_len);
    for (size_t i = 0; i < w->ids.len; i++) {
        if (i > 0) {
            buf_append_c(out, ',');
        }
        buf_append_i64(out, w->ids.ids[i]);
    }
    if (strs) {
        buf_append_lit(out, "],\"token_strs\":[");
        routes_write_token_strs(w, out);
        buf_append_lit(out, "]}");
    } else {
        buf_append_lit(out, "],\"token_strs\":null}");
    }
    return OK;
}

static int
routes_detokenize(struct api_worker *w, const struct api_call *call,
                  struct api_reply *reply, struct err *err)
{
    const struct json  *root;

    if (api_parse_body(w, call->body, &root, err) != OK
        || api_check_model(w->api, call, root, err) != OK)
    {
        return ERROR;
    }
    struct fields       f = { root, "", err };
    const struct json  *list = field_find(&f, "tokens");
    if (list == NULL || list->type != JSON_ARRAY) {
        return field_error(&f, "tokens", "an array of token ids is required");
    }
    if (list->num_children > DETOKENIZE_IDS_MAX) {
        return field_error(&f, "tokens", "%u ids, the limit is %u",
                           list->num_children, DETOKENIZE_IDS_MAX);
    }
    if (w->api->options.tokenizer == NULL) {
        return field_error(&f, "tokens", "the server runs with "
                           "--skip-tokenizer-init");
    }
    id_buf_reset(&w->ids);
    for (const struct json *v = list->child; v != NULL; v = v->next) {
        if (v->type != JSON_INT || !v->int_fits || v->i < 0
            || v->i >= w->api->options.vocab_size)
        {
            return field_error(&f, "tokens", "every entry must be a token id "
                               "between 0 and %d",
                               w->api->options.vocab_size - 1);
        }
        id_buf_push(&w->ids, (int32_t) v->i);
    }
    buf_reset(&w->prompt);
    tokenizer_decode(w->api->options.tokenizer, w->ids.ids, w->ids.len, false,
                     &w->prompt);
    if (w->ids.failed || w->prompt.failed) {
        return err_set_http(err, 413, "tokens", "the text is too long");
    }
    routes_ok(reply, API_CONTENT_JSON);
    buf_append_lit(&reply->body, "{\"prompt\":");
    json_write_string(&reply->body, buf_str(&w->prompt));
    buf_append_c(&reply->body, '}');
    return OK;
}

void
routes_answer(struct api *api, struct api_worker *w,
              const struct api_call *call, struct api_reply *reply)
{
    struct err  err = { 0 };
    int         rc = OK;

    switch (call->route) {
    case API_MODELS:
        routes_models(api, call, reply);
        break;
    case API_HEALTH:
    case API_PING:
        routes_ok(reply, API_CONTENT_NONE);
        break;
    case API_VERSION:
        routes_ok(reply, API_CONTENT_JSON);
        buf_append_lit(&reply->body, "{\"version\":\"" LLM_VERSION "\"}");
        break;
    case API_METRICS:
        routes_metrics(api, reply);
        break;
    case API_TOKENIZE:
        rc = routes_tokenize(w, call, reply, &err);
        break;
    case API_DETOKENIZE:
        rc = routes_detokenize(w, call, reply, &err);
        break;
    case API_CHAT_COMPLETIONS:
    case API_COMPLETIONS:
        break;
    }
    if (rc != OK) {
        api_reply_err(reply, &err);
    }
}
