/* api.c - life of the API layer, of its workers and of a stream until it is
 * in the engine. */
#include "engine/api/api_internal.h"
#include "engine/api/fields.h"
#include "engine/api/openai_error.h"
#include "engine/api/stream.h"
#include "engine/base/clock.h"
#include "engine/base/hash.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

int
api_create(struct api **out, const struct api_options *options,
           struct err *err)
{
    struct api  *api = calloc(1, sizeof *api);

    *out = NULL;
    if (api == NULL) {
        return err_set(err, "out of memory");
    }
    if (options->num_model_names < 1) {
        free(api);
        return err_set(err, "--served-model-name: at least one name is "
                       "needed");
    }
    api->options = *options;
    api->created_s = clock_wall_seconds();
    *out = api;
    return OK;
}

void
api_destroy(struct api *api)
{
    free(api);
}

int
api_worker_create(struct api_worker **out, struct api *api, struct err *err)
{
    struct api_worker  *w = calloc(1, sizeof *w);

    *out = NULL;
    if (w == NULL) {
        return err_set(err, "out of memory");
    }
    w->api = api;
    arena_init(&w->arena, API_WORKER_ARENA_BYTES);
    buf_init(&w->prompt, API_PROMPT_BYTES_MAX);
    id_buf_init(&w->ids, TOKENIZER_IDS_MAX);
    if (api->options.tokenizer != NULL) {
        w->tok = tokenizer_scratch_create(api->options.tokenizer);
        if (w->tok == NULL) {
            api_worker_destroy(w);
            return err_set(err, "out of memory");
        }
    }
    *out = w;
    return OK;
}

void
api_worker_destroy(struct api_worker *w)
{
    if (w == NULL) {
        return;
    }
    tokenizer_scratch_destroy(w->tok);
    id_buf_destroy(&w->ids);
    buf_destroy(&w->prompt);
    arena_destroy(&w->arena);
    free(w);
}

void
api_error(struct api_reply *reply, int status, const char *param,
          const char *code, const char *message)
{
    reply->head = true;
    reply->status = status;
    reply->content = API_CONTENT_JSON;
    reply->stream = false;
    reply->retry_after_s = status == 503 || status == 429 ? 1 : 0;
    reply->done = true;
    openai_error_write(&reply->body, status, param, code, message);
}

void
api_reply_err(struct api_reply *reply, const struct err *err)
{
    int  status = err->http_status == 0 ? 500 : err->http_status;
    api_error(reply, status, err->param, openai_error_code(status, err->param),
              err->message);
}

int
api_parse_body(struct api_worker *w, struct str body, const struct json **root,
               struct err *err)
{
    struct json  *v;

    if (body.len == 0) {
        return err_set_http(err, 400, NULL, "the request body is empty; a "
                            "JSON object is expected");
    }
    if (json_parse(&v, body, &w->arena, &json_limits_request, err) != OK) {
        err->http_status = 400;
        return ERROR;
    }
    if (v->type != JSON_OBJECT) {
        return err_set_http(err, 400, NULL, "the request body must be a JSON "
                            "object, not %s", json_type_name(v->type));
    }
    *root = v;
    return OK;
}

int
api_check_model(const struct api *api, const struct api_call *call,
                const struct json *root, struct err *err)
{
    struct fields  f = { root, "", err };
    struct str     name = { NULL, 0 };

    if (field_string(&f, "model", &name) != OK) {
        return ERROR;
    }
    if (call->model_override) {
        name = call->model_id;
    }
    if (name.len == 0) {
        return OK;    /* as in vLLM: absent means the base model */
    }
    for (int32_t i = 0; i < api->options.num_model_names; i++) {
        if (str_eq(name, str_from(api->options.model_names[i]))) {
            return OK;
        }
    }
    return err_set_http(err, 404, "model", "The model `%.*s` does not exist.",
                        (int) (name.len > 200 ? 200 : name.len), name.data);
}

/* Text within an untrusted span that would be a special token if it were
 * trusted: the ids differ when the spans are dropped. */
static int
api_reject_specials(struct api_worker *w, const struct encode_args *args,
                    struct err *err)
{
    struct encode_args  trusted = *args;
    size_t              num = w->ids.len;

    trusted.untrusted = NULL;
    trusted.num_untrusted = 0;
    int   rc = tokenizer_encode(w->api->options.tokenizer, w->tok, &trusted,
                                &w->ids, err);
    bool  same = rc == OK && w->ids.len == 2 * num
                 && memcmp(w->ids.ids, w->ids.ids + num,
                           num * sizeof w->ids.ids[0]) == 0;
    w->ids.len = num;
    if (rc != OK || same) {
        return rc;
    }
    return err_set_http(err, 400, "messages", "messages: the text contains a "
                        "special token of the model, which this server "
                        "refuses (--special-tokens-in-content reject)");
}

int
api_encode(struct api_worker *w, struct str text, bool add_special_tokens,
           const struct text_span_list *untrusted, struct err *err)
{
    const struct api_options  *o = &w->api->options;
    bool                       parse = untrusted == NULL
                                       || o->special_tokens_in_content
                                          == API_SPECIAL_PARSE;

    if (o->tokenizer == NULL) {
        return err_set_http(err, 400, "prompt", "the server runs with "
                            "--skip-tokenizer-init: give the prompt as token "
                            "ids");
    }
    struct encode_args  args = {
        .text = text, .add_special_tokens = add_special_tokens,
        .untrusted = parse ? NULL : untrusted->spans,
        .num_untrusted = parse ? 0 : untrusted->num_spans,
    };
    /* A token is at least one byte and at most token_bytes_max: a text too
     * long for the context is refused before it is tokenised. */
    size_t  bytes_max = (size_t) o->max_model_len
                        * tokenizer_token_bytes_max(o->tokenizer) * 4;
    if (text.len > bytes_max) {
        return err_set_http(err, 400, untrusted == NULL ? "prompt"
                            : "messages", "the prompt has %zu bytes; "
                            "this model's maximum context length is %d tokens",
                            text.len, o->max_model_len);
    }
    id_buf_reset(&w->ids);
    int  rc = tokenizer_encode(o->tokenizer, w->tok, &args, &w->ids, err);
    if (rc == OK && !parse
        && o->special_tokens_in_content == API_SPECIAL_REJECT)
    {
        rc = api_reject_specials(w, &args, err);
    }
    if (rc != OK && err->http_status == 0) {
        err->http_status = 400;
    }
    return rc == OK ? OK : ERROR;
}

/* "chatcmpl-" + the HTTP request's id, or a number of our own. */
static struct str
api_stream_id(struct api_stream *s, const struct api_call *call)
{
    char        text[160];
    const char *prefix = call->route == API_CHAT_COMPLETIONS ? "chatcmpl-"
                                                             : "cmpl-";
    if (call->request_id.len > 0 && call->request_id.len <= 128) {
        (void) snprintf(text, sizeof text, "%s%.*s", prefix,
                        STR_ARG(call->request_id));
    } else {
        uint64_t  nr = atomic_fetch_add_explicit(&s->api->num_requests, 1,
                                                 memory_order_relaxed);
        (void) snprintf(text, sizeof text, "%s%016" PRIx64, prefix,
                        hash_mix64(s->api->options.seed ^ (nr + 1)));
    }
    return arena_str(&s->arena, str_from(text));
}

static struct api_stream *
api_stream_create(struct api *api, const struct api_call *call)
{
    struct arena        arena;
    struct api_stream  *s;

    arena_init(&arena, API_STREAM_ARENA_BYTES);
    s = arena_calloc(&arena, 1, sizeof *s);
    if (s == NULL) {
        arena_destroy(&arena);
        return NULL;
    }
    s->arena = arena;
    s->api = api;
    s->user = call->user;
    s->arrival_ns = call->arrival_ns;
    s->created_s = clock_wall_seconds();
    s->reason = FINISH_NONE;
    buf_init(&s->piece, API_STREAM_ARENA_BYTES);
    s->id = api_stream_id(s, call);
    return s;
}

void
api_begin(struct api *api, struct api_worker *w, const struct api_call *call,
          struct api_reply *reply, struct api_stream **stream)
{
    struct err  err = { 0 };

    *stream = NULL;
    if (call->route != API_CHAT_COMPLETIONS
        && call->route != API_COMPLETIONS)
    {
        routes_answer(api, w, call, reply);
        arena_reset(&w->arena);
        return;
    }
    struct api_stream  *s = api_stream_create(api, call);
    if (s == NULL) {
        api_error(reply, 503, NULL, "overloaded", "out of memory");
        return;
    }
    int  rc = request_read(s, w, call, &err);
    arena_reset(&w->arena);
    buf_reset(&w->prompt);
    if (rc != OK) {
        api_reply_err(reply, &err);
        api_stream_destroy(s);
        return;
    }
    for (int32_t i = 0; i < s->num_choices; i++) {
        s->choices[i].gen.gen_id = engine_next_id(api->options.engine);
    }
    *stream = s;
}

void
api_submit(struct api_stream *s, struct api_reply *reply)
{
    struct gen_request  gens[API_CHOICES_MAX];
    struct err          err = { 0 };

    /* Copied first: events may arrive, and the last one free the stream,
     * before engine_submit() returns. */
    int32_t         num = s->num_choices;
    struct engine  *engine = s->api->options.engine;
    for (int32_t i = 0; i < num; i++) {
        gens[i] = s->choices[i].gen;
    }
    int  rc = engine_submit(engine, gens, num, &err);
    if (rc == AGAIN) {
        api_error(reply, 503, NULL, "overloaded", "the server's queue is "
                  "full; try again later");
    } else if (rc != OK) {
        if (err.http_status == 0) {
            err.http_status = 400;
        }
        api_reply_err(reply, &err);
    }
}
