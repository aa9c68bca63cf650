/* request.c - a request body becomes sequences to generate, or a 400.
 *
 * Validation first, then text, then ids: nothing is rendered or tokenised for
 * a request that a cheap check refuses. */
#include "engine/api/api_internal.h"
#include "engine/api/fields.h"
#include "engine/api/stream.h"
#include "engine/api/unsupported.h"
#include "engine/base/hash.h"

#include <stdio.h>

#define TEMPERATURE_MAX         2.0
#define TEMPERATURE_GREEDY      1e-5    /* below it vLLM samples greedily */
#define COMPLETION_MAX_TOKENS   16      /* OpenAI's default for completions */

/* What the body asks for, before prompts are known. */
struct request_params {
    struct sampling_params  sampling;
    bool                    has_seed;
    int64_t                 n, max_tokens, min_tokens;   /* max_tokens 0: not
                                                            given */
    bool                    add_special_tokens;
    int32_t                 num_stop_token_ids;
    int32_t                 stop_token_ids[GEN_STOP_IDS_MAX];
};

static int
request_read_sampling(const struct fields *f, const struct api_defaults *d,
                      struct request_params *p)
{
    double   temperature = d->temperature, top_p = d->top_p, min_p = d->min_p;
    int64_t  top_k = d->top_k, seed = 0;

    if (field_number(f, "temperature", 0, TEMPERATURE_MAX, &temperature) != OK
        || field_number(f, "top_p", 0, 1, &top_p) != OK
        || field_number(f, "min_p", 0, 1, &min_p) != OK
        || field_int(f, "top_k", -1, INT32_MAX, &top_k) != OK
        || field_int(f, "seed", INT64_MIN, INT64_MAX, &seed) != OK)
    {
        return ERROR;
    }
    if (top_p <= 0) {
        return field_error(f, "top_p", "must be above 0 and at most 1");
    }
    p->has_seed = field_find(f, "seed") != NULL;
    p->sampling.seed = (uint64_t) seed;
    p->sampling.temperature = temperature < TEMPERATURE_GREEDY
                              ? 0 : (float) temperature;
    p->sampling.top_p = (float) top_p;
    p->sampling.min_p = (float) min_p;
    p->sampling.top_k = top_k < 0 ? 0 : (int32_t) top_k;
    return OK;
}

/* max_completion_tokens wins over the older max_tokens, as in vLLM. */
static int
request_read_lengths(const struct fields *f, bool is_chat,
                     struct request_params *p)
{
    p->max_tokens = is_chat ? 0 : COMPLETION_MAX_TOKENS;
    p->min_tokens = 0;
    p->n = 1;
    if (field_int(f, "max_tokens", 1, INT32_MAX, &p->max_tokens) != OK
        || (is_chat && field_int(f, "max_completion_tokens", 1, INT32_MAX,
                                 &p->max_tokens) != OK)
        || field_int(f, "min_tokens", 0, INT32_MAX, &p->min_tokens) != OK
        || field_int(f, "n", 1, API_N_MAX, &p->n) != OK)
    {
        return ERROR;
    }
    if (p->max_tokens > 0 && p->min_tokens > p->max_tokens) {
        return field_error(f, "min_tokens", "%lld is more than max_tokens "
                           "%lld", (long long) p->min_tokens,
                           (long long) p->max_tokens);
    }
    if (p->n > 1 && p->sampling.temperature == 0) {
        return field_error(f, "n", "must be 1 when using greedy sampling, "
                           "got %lld", (long long) p->n);
    }
    return OK;
}

static int
request_read_stop_ids(const struct fields *f, const struct api *api,
                      struct request_params *p)
{
    const struct json  *v = field_find(f, "stop_token_ids");
    int32_t             room = GEN_STOP_IDS_MAX
                               - api->options.defaults.num_eos_ids;

    if (v == NULL) {
        return OK;
    }
    if (v->type != JSON_ARRAY) {
        return field_error(f, "stop_token_ids", "must be an array of token "
                           "ids, not %s", json_type_name(v->type));
    }
    if ((int64_t) v->num_children > room) {
        return field_error(f, "stop_token_ids", "%u ids, the limit is %d",
                           v->num_children, room);
    }
    for (const struct json *id = v->child; id != NULL; id = id->next) {
        if (id->type != JSON_INT || !id->int_fits || id->i < 0
            || id->i >= api->options.vocab_size)
        {
            return field_error(f, "stop_token_ids", "every entry must be a "
                               "token id between 0 and %d",
                               api->options.vocab_size - 1);
        }
        p->stop_token_ids[p->num_stop_token_ids++] = (int32_t) id->i;
    }
    return OK;
}

static int
request_add_stop(struct api_stream *s, const struct fields *f,
                 const struct json *v, int32_t *num, size_t *bytes)
{
    if (v->type != JSON_STRING) {
        return field_error(f, "stop", "must be a string or an array of "
                           "strings, not %s", json_type_name(v->type));
    }
    if (v->string.len == 0) {
        return field_error(f, "stop", "an empty string cannot stop anything");
    }
    *bytes += v->string.len;
    if (*bytes > API_STOP_BYTES_MAX) {
        return field_error(f, "stop", "more than %d bytes of stop strings",
                           API_STOP_BYTES_MAX);
    }
    s->stop_texts[*num] = arena_str(&s->arena, v->string);
    if (s->stop_texts[*num].data == NULL) {
        return field_error(f, "stop", "out of memory");
    }
    (*num)++;
    return OK;
}

static int
request_read_stops(struct api_stream *s, const struct fields *f)
{
    const struct json  *v = field_find(f, "stop");
    int32_t             num = 0;
    size_t              bytes = 0;

    if (v == NULL || (v->type == JSON_ARRAY && v->num_children == 0)) {
        return OK;
    }
    if (v->type != JSON_ARRAY) {
        if (request_add_stop(s, f, v, &num, &bytes) != OK) {
            return ERROR;
        }
    } else if (v->num_children > API_STOP_STRINGS_MAX) {
        return field_error(f, "stop", "%u strings, the limit is %d",
                           v->num_children, API_STOP_STRINGS_MAX);
    } else {
        for (const struct json *c = v->child; c != NULL; c = c->next) {
            if (request_add_stop(s, f, c, &num, &bytes) != OK) {
                return ERROR;
            }
        }
    }
    if (s->api->options.tokenizer == NULL) {
        return field_error(f, "stop", "stop strings need a tokenizer, and the "
                           "server runs with --skip-tokenizer-init");
    }
    return stop_compile(&s->stops, s->stop_texts, (size_t) num, &s->arena,
                        f->err);
}

static int
request_read_stream_options(struct api_stream *s, const struct fields *f)
{
    const struct json  *v = field_find(f, "stream_options");

    if (v == NULL) {
        return OK;
    }
    if (v->type != JSON_OBJECT) {
        return field_error(f, "stream_options", "must be an object, not %s",
                           json_type_name(v->type));
    }
    if (!s->stream) {
        return field_error(f, "stream_options", "is only allowed when stream "
                           "is true");
    }
    struct fields  o = { v, "stream_options.", f->err };
    bool           continuous = false;
    if (field_bool(&o, "include_usage", &s->include_usage) != OK
        || field_bool(&o, "continuous_usage_stats", &continuous) != OK)
    {
        return ERROR;
    }
    s->continuous_usage = continuous && s->include_usage;
    return OK;
}

static int
request_read_flags(struct api_stream *s, const struct fields *f,
                   struct request_params *p)
{
    struct str  user;

    s->skip_special_tokens = true;
    p->add_special_tokens = !s->is_chat;
    if (field_bool(f, "stream", &s->stream) != OK
        || field_bool(f, "return_token_ids", &s->return_token_ids) != OK
        || field_bool(f, "skip_special_tokens", &s->skip_special_tokens) != OK
        || field_bool(f, "include_stop_str_in_output",
                      &s->include_stop_str) != OK
        || field_bool(f, "add_special_tokens", &p->add_special_tokens) != OK
        || field_bool(f, "ignore_eos", &s->ignore_eos) != OK
        || field_string(f, "user", &user) != OK)
    {
        return ERROR;
    }
    return request_read_stream_options(s, f);
}

/* The prompt must leave room for at least one token, and for max_tokens when
 * the client gave it; the text is vLLM's, which clients parse. */
static int
request_check_length(const struct api_stream *s, int64_t num_prompt,
                     int64_t *max_tokens, const char *param, struct err *err)
{
    int64_t  limit = s->api->options.max_model_len;

    if (num_prompt >= limit) {
        return err_set_http(err, 400, param, "This model's maximum context "
                            "length is %lld tokens. However, your request has "
                            "%lld input tokens. Please reduce the length of "
                            "the input.", (long long) limit,
                            (long long) num_prompt);
    }
    if (*max_tokens == 0) {
        *max_tokens = limit - num_prompt;
    }
    if (num_prompt + *max_tokens > limit) {
        return err_set_http(err, 400, "max_tokens", "This model's maximum "
                            "context length is %lld tokens. However, you "
                            "requested %lld output tokens and your prompt "
                            "contains %lld input tokens, for a total of %lld "
                            "tokens. Please reduce the length of the input or "
                            "the number of requested output tokens.",
                            (long long) limit, (long long) *max_tokens,
                            (long long) num_prompt,
                            (long long) (num_prompt + *max_tokens));
    }
    return OK;
}

static void
request_stop_ids(const struct api_stream *s, const struct request_params *p,
                 struct gen_request *gen)
{
    const struct api_defaults  *d = &s->api->options.defaults;

    gen->num_stop_ids = 0;
    for (int32_t i = 0; !s->ignore_eos && i < d->num_eos_ids; i++) {
        gen->stop_ids[gen->num_stop_ids++] = d->eos_ids[i];
    }
    for (int32_t i = 0; i < p->num_stop_token_ids; i++) {
        gen->stop_ids[gen->num_stop_ids++] = p->stop_token_ids[i];
    }
}

/* Answers continue the prompt: the detokeniser must know its last tokens so
 * that no leading space is stripped and no character is cut. */
static void
request_text_state(struct api_choice *c)
{
    const struct api_stream  *s = c->stream;

    if (s->api->options.tokenizer == NULL) {
        return;
    }
    detok_init(&c->detok, s->api->options.tokenizer, s->skip_special_tokens);
    detok_prompt(&c->detok, c->gen.token_ids,
                 (size_t) c->gen.num_prompt_tokens);
    stop_init(&c->stop, s->stops, s->include_stop_str);
}

/* Makes the n choices of one prompt, whose ids are copied for each. */
static int
request_add_prompt(struct api_stream *s, const struct request_params *p,
                   const struct api_call *call, const struct id_buf *ids,
                   struct err *err)
{
    const char  *param = s->is_chat ? "messages" : "prompt";
    int64_t      max_tokens = p->max_tokens;
    int32_t      prompt_idx = s->num_prompts++;

    if (ids->len == 0) {
        return err_set_http(err, 400, param, "%s: the prompt is empty", param);
    }
    /* A tokenizer may know more tokens than the model has rows. */
    for (size_t i = 0; i < ids->len; i++) {
        if (ids->ids[i] >= s->api->options.vocab_size) {
            return err_set_http(err, 400, param, "%s: token id %d is not in "
                                "the model's vocabulary of %d", param,
                                ids->ids[i], s->api->options.vocab_size);
        }
    }
    if (call->max_tokens_cap > 0
        && (max_tokens == 0 || max_tokens > call->max_tokens_cap))
    {
        max_tokens = call->max_tokens_cap;
        if ((int64_t) ids->len < s->api->options.max_model_len
            && (int64_t) ids->len + max_tokens > s->api->options.max_model_len)
        {
            max_tokens = s->api->options.max_model_len - (int64_t) ids->len;
        }
    }
    if (request_check_length(s, (int64_t) ids->len, &max_tokens, param, err)
        != OK)
    {
        return ERROR;
    }
    s->num_prompt_tokens += (int32_t) ids->len;
    for (int32_t i = 0; i < s->n; i++) {
        struct api_choice   *c = &s->choices[s->num_choices];
        size_t               cap = ids->len + (size_t) max_tokens;
        struct gen_request  *gen = &c->gen;
        *gen = (struct gen_request) {
            .user = c, .num_prompt_tokens = (int32_t) ids->len,
            .token_cap = (int32_t) cap, .max_tokens = (int32_t) max_tokens,
            .min_tokens = (int32_t) p->min_tokens, .sampling = p->sampling,
            .priority = call->priority, .arrival_ns = call->arrival_ns,
            .deadline_ns = call->deadline_ns,
        };
        gen->token_ids = arena_alloc(&s->arena, cap * sizeof(int32_t));
        if (gen->token_ids == NULL) {
            return err_set_http(err, 413, param, "the request needs more than "
                                "%u bytes of memory", API_STREAM_ARENA_BYTES);
        }
        memcpy(gen->token_ids, ids->ids, ids->len * sizeof(int32_t));
        gen->sampling.seed = p->sampling.seed + (uint64_t) s->num_choices;
        request_stop_ids(s, p, gen);
        c->stream = s;
        c->idx = s->num_choices;
        c->prompt_idx = prompt_idx;
        c->stop_id = -1;
        c->stop_string = -1;
        buf_init(&c->text, API_STREAM_ARENA_BYTES);
        request_text_state(c);
        s->num_choices++;
    }
    return OK;
}

static int
request_alloc_choices(struct api_stream *s, const struct request_params *p,
                      uint32_t num_prompts, struct err *err)
{
    s->n = (int32_t) p->n;
    if ((int64_t) num_prompts * p->n > API_CHOICES_MAX) {
        return err_set_http(err, 400, "n", "n: %u prompts x %lld choices, the "
                            "limit is %d", num_prompts, (long long) p->n,
                            API_CHOICES_MAX);
    }
    s->choices = arena_calloc(&s->arena, num_prompts * (size_t) p->n,
                              sizeof *s->choices);
    if (s->choices == NULL) {
        return err_set_http(err, 503, NULL, "out of memory");
    }
    return OK;
}

/* A prompt given as token ids. */
static int
request_ids_prompt(struct api_worker *w, const struct json *list,
                   struct err *err)
{
    int32_t  vocab_size = w->api->options.vocab_size;

    id_buf_reset(&w->ids);
    if ((int64_t) list->num_children > w->api->options.max_model_len) {
        return err_set_http(err, 400, "prompt", "This model's maximum context "
                            "length is %d tokens. However, your request has "
                            "%u input tokens. Please reduce the length of the "
                            "input.", w->api->options.max_model_len,
                            list->num_children);
    }
    uint32_t  i = 0;
    for (const struct json *v = list->child; v != NULL; v = v->next, i++) {
        if (v->type != JSON_INT || !v->int_fits || v->i < 0
            || v->i >= vocab_size)
        {
            return err_set_http(err, 400, "prompt", "prompt[%u]: must be a "
                                "token id between 0 and %d", i,
                                vocab_size - 1);
        }
        id_buf_push(&w->ids, (int32_t) v->i);
    }
    return w->ids.failed ? err_set_http(err, 503, NULL, "out of memory") : OK;
}

static int
request_one_prompt(struct api_stream *s, struct api_worker *w,
                   const struct request_params *p,
                   const struct api_call *call, const struct json *v,
                   struct err *err)
{
    if (v->type == JSON_STRING) {
        if (v->string.len == 0) {
            return err_set_http(err, 400, "prompt", "prompt: must not be "
                                "empty");
        }
        if (api_encode(w, v->string, p->add_special_tokens, NULL, err) != OK) {
            return ERROR;
        }
    } else if (v->type == JSON_ARRAY) {
        if (request_ids_prompt(w, v, err) != OK) {
            return ERROR;
        }
    } else {
        return err_set_http(err, 400, "prompt", "prompt: must be a string, an "
                            "array of strings or token ids, not %s",
                            json_type_name(v->type));
    }
    return request_add_prompt(s, p, call, &w->ids, err);
}

/* prompt: string | [string] | [ids] | [[ids]] */
static int
request_read_prompts(struct api_stream *s, struct api_worker *w,
                     const struct request_params *p,
                     const struct api_call *call, const struct fields *f)
{
    const struct json  *v = field_find(f, "prompt");
    struct err         *err = f->err;

    if (v == NULL) {
        return field_error(f, "prompt", "is required");
    }
    bool  is_list = v->type == JSON_ARRAY && v->child != NULL
                    && v->child->type != JSON_INT;
    if (v->type == JSON_ARRAY && v->child == NULL) {
        return field_error(f, "prompt", "must not be empty");
    }
    if (!is_list) {
        return request_alloc_choices(s, p, 1, err) != OK ? ERROR
               : request_one_prompt(s, w, p, call, v, err);
    }
    if (v->num_children > API_PROMPTS_MAX) {
        return field_error(f, "prompt", "%u prompts, the limit is %d",
                           v->num_children, API_PROMPTS_MAX);
    }
    if (request_alloc_choices(s, p, v->num_children, err) != OK) {
        return ERROR;
    }
    for (const struct json *c = v->child; c != NULL; c = c->next) {
        if (request_one_prompt(s, w, p, call, c, err) != OK) {
            return ERROR;
        }
    }
    return OK;
}

static int
request_read_chat(struct api_stream *s, struct api_worker *w,
                  const struct request_params *p, const struct api_call *call,
                  const struct fields *f)
{
    struct text_span_list  untrusted = { NULL, 0 };

    if (api_render_chat(w, f->object, &untrusted, f->err) != OK
        || api_encode(w, buf_str(&w->prompt), p->add_special_tokens,
                      &untrusted, f->err) != OK
        || request_alloc_choices(s, p, 1, f->err) != OK)
    {
        return ERROR;
    }
    return request_add_prompt(s, p, call, &w->ids, f->err);
}

int
request_read(struct api_stream *s, struct api_worker *w,
             const struct api_call *call, struct err *err)
{
    struct request_params  p = { .n = 1 };
    const struct json     *root;

    s->is_chat = call->route == API_CHAT_COMPLETIONS;
    if (api_parse_body(w, call->body, &root, err) != OK
        || api_check_model(s->api, call, root, err) != OK
        || unsupported_check(root, s->is_chat, err) != OK)
    {
        return ERROR;
    }
    struct fields  f = { root, "", err };
    if (request_read_flags(s, &f, &p) != OK
        || request_read_sampling(&f, &s->api->options.defaults, &p) != OK
        || request_read_lengths(&f, s->is_chat, &p) != OK
        || request_read_stop_ids(&f, s->api, &p) != OK
        || request_read_stops(s, &f) != OK)
    {
        return ERROR;
    }
    if (!p.has_seed) {
        uint64_t  nr = atomic_fetch_add_explicit(&s->api->num_requests, 1,
                                                 memory_order_relaxed);
        p.sampling.seed = hash_mix64(s->api->options.seed + nr);
    }
    s->num_stop_token_ids = p.num_stop_token_ids;
    return s->is_chat ? request_read_chat(s, w, &p, call, &f)
                      : request_read_prompts(s, w, &p, call, &f);
}
