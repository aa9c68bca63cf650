
/*
 * ngx_http_llm_variables.c - $llm_*: who asks, what one request was and what
 * it cost.  Numbers come with the engine's END; until then, and for what a
 * request never reached, a variable is not found ("-" in a log).
 */


#include "ngx_http_llm.h"


#define NGX_HTTP_LLM_VAR_KEY         0
#define NGX_HTTP_LLM_VAR_KEY_ID      1

#define NGX_HTTP_LLM_VAR_PROMPT      0
#define NGX_HTTP_LLM_VAR_CACHED      1
#define NGX_HTTP_LLM_VAR_COMPLETION  2

#define NGX_HTTP_LLM_VAR_TTFT        0
#define NGX_HTTP_LLM_VAR_TPOT        1
#define NGX_HTTP_LLM_VAR_QUEUE       2

#define NGX_HTTP_LLM_VAR_STATUS      0
#define NGX_HTTP_LLM_VAR_RESERVED    1
#define NGX_HTTP_LLM_VAR_REMAINING   2

#define NGX_HTTP_LLM_VAR_REQUEST_ID  0
#define NGX_HTTP_LLM_VAR_FINISH      1
#define NGX_HTTP_LLM_VAR_STREAM      2


static ngx_int_t ngx_http_llm_key_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_llm_text_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_llm_tokens_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_llm_time_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_llm_limit_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);


static const ngx_str_t  ngx_http_llm_limit_statuses[] = {
    ngx_string("PASSED"),
    ngx_string("REJECTED"),
    ngx_string("REJECTED_DRY_RUN")
};


static ngx_http_variable_t  ngx_http_llm_vars[] = {

    { ngx_string("llm_key"), NULL, ngx_http_llm_key_variable,
      NGX_HTTP_LLM_VAR_KEY, 0, 0 },

    { ngx_string("llm_key_id"), NULL, ngx_http_llm_key_variable,
      NGX_HTTP_LLM_VAR_KEY_ID, 0, 0 },

    { ngx_string("llm_engine"), NULL, ngx_http_llm_engine_variable,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("llm_model"), NULL, ngx_http_llm_model_variable,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("llm_prefix_hash"), NULL, ngx_http_llm_prefix_hash_variable,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("llm_request_id"), NULL, ngx_http_llm_text_variable,
      NGX_HTTP_LLM_VAR_REQUEST_ID, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("llm_finish_reason"), NULL, ngx_http_llm_text_variable,
      NGX_HTTP_LLM_VAR_FINISH, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("llm_stream"), NULL, ngx_http_llm_text_variable,
      NGX_HTTP_LLM_VAR_STREAM, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("llm_prompt_tokens"), NULL, ngx_http_llm_tokens_variable,
      NGX_HTTP_LLM_VAR_PROMPT, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("llm_cached_tokens"), NULL, ngx_http_llm_tokens_variable,
      NGX_HTTP_LLM_VAR_CACHED, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("llm_completion_tokens"), NULL, ngx_http_llm_tokens_variable,
      NGX_HTTP_LLM_VAR_COMPLETION, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("llm_ttft"), NULL, ngx_http_llm_time_variable,
      NGX_HTTP_LLM_VAR_TTFT, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("llm_tpot"), NULL, ngx_http_llm_time_variable,
      NGX_HTTP_LLM_VAR_TPOT, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("llm_queue_time"), NULL, ngx_http_llm_time_variable,
      NGX_HTTP_LLM_VAR_QUEUE, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("llm_limit_status"), NULL, ngx_http_llm_limit_variable,
      NGX_HTTP_LLM_VAR_STATUS, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("llm_reserved_tokens"), NULL, ngx_http_llm_limit_variable,
      NGX_HTTP_LLM_VAR_RESERVED, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("llm_tokens_remaining"), NULL, ngx_http_llm_limit_variable,
      NGX_HTTP_LLM_VAR_REMAINING, NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


/* from the headers alone: good in every phase and location, and cacheable */

static ngx_int_t
ngx_http_llm_key_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_int_t  rc;
    ngx_str_t  s;

    if (data == NGX_HTTP_LLM_VAR_KEY) {
        rc = ngx_http_llm_key(r, &s);

    } else {
        s.len = NGX_HTTP_LLM_KEY_ID_LEN;
        s.data = ngx_pnalloc(r->pool, s.len);
        if (s.data == NULL) {
            return NGX_ERROR;
        }

        rc = ngx_http_llm_key_id(r, s.data);
    }

    if (rc != NGX_OK) {
        v->not_found = 1;
        return NGX_OK;
    }

    return ngx_http_llm_set_variable(v, s.data, s.len);
}


static ngx_int_t
ngx_http_llm_text_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t            s;
    ngx_http_llm_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_llm_module);

    ngx_str_null(&s);

    if (ctx) {

        switch (data) {

        case NGX_HTTP_LLM_VAR_REQUEST_ID:
            s = ctx->request_id;
            break;

        case NGX_HTTP_LLM_VAR_FINISH:
            if (ctx->finish != LLM_FINISH_NONE) {
                s.data = (u_char *) llm_wire_finish_name(ctx->finish);
                s.len = ngx_strlen(s.data);
            }

            break;

        default: /* NGX_HTTP_LLM_VAR_STREAM */
            if (ctx->have_head) {
                s.data = (u_char *) ((ctx->head.flags & LLM_HEAD_STREAM)
                                     ? "1" : "0");
                s.len = 1;
            }
        }
    }

    return ngx_http_llm_set_variable(v, s.data, s.len);
}


static ngx_int_t
ngx_http_llm_tokens_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    u_char              *p;
    uint32_t             n;
    ngx_http_llm_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_llm_module);

    /* a plain answer has no model and has cost nothing */

    if (ctx == NULL || !ctx->have_end || ctx->end.model_len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    switch (data) {

    case NGX_HTTP_LLM_VAR_PROMPT:
        n = ctx->end.prompt_tokens;
        break;

    case NGX_HTTP_LLM_VAR_CACHED:
        n = ctx->end.cached_tokens;
        break;

    default: /* NGX_HTTP_LLM_VAR_COMPLETION */
        n = ctx->end.completion_tokens;
    }

    p = ngx_pnalloc(r->pool, NGX_INT32_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    v->len = ngx_sprintf(p, "%uD", n) - p;
    v->data = p;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


/* seconds with microseconds: a token may take less than a millisecond */

static ngx_int_t
ngx_http_llm_time_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    u_char              *p;
    int64_t              ns;
    ngx_http_llm_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_llm_module);

    ns = 0;

    if (ctx) {

        switch (data) {

        case NGX_HTTP_LLM_VAR_TTFT:
            ns = ctx->end.ttft_ns;

            /* the client has left: as seen from here */

            if (!ctx->have_end
                && ctx->first_data
                && (ctx->head.flags & LLM_HEAD_STREAM))
            {
                ns = ctx->first_data - ctx->arrival;
            }

            break;

        case NGX_HTTP_LLM_VAR_TPOT:
            if (ctx->end.completion_tokens > 1) {
                ns = ctx->end.decode_ns
                     / (int64_t) (ctx->end.completion_tokens - 1);
            }

            break;

        default: /* NGX_HTTP_LLM_VAR_QUEUE */
            ns = ctx->end.queue_ns;
        }
    }

    if (ns <= 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, NGX_INT64_LEN + sizeof(".000000"));
    if (p == NULL) {
        return NGX_ERROR;
    }

    v->len = ngx_sprintf(p, "%L.%06L", ns / 1000000000,
                         ns % 1000000000 / 1000)
             - p;
    v->data = p;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


/* what the limits said to this request, if it has come to any */

static ngx_int_t
ngx_http_llm_limit_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    u_char              *p;
    ngx_str_t            s;
    ngx_http_llm_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_llm_module);

    if (ctx == NULL || ctx->limit_status == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    if (data == NGX_HTTP_LLM_VAR_STATUS) {
        s = ngx_http_llm_limit_statuses[ctx->limit_status - 1];

    } else {
        p = ngx_pnalloc(r->pool, NGX_INT64_LEN);
        if (p == NULL) {
            return NGX_ERROR;
        }

        s.data = p;
        s.len = ngx_sprintf(p, "%L", data == NGX_HTTP_LLM_VAR_RESERVED
                                     ? ctx->reserved_tokens
                                     : ctx->limit_remaining)
                - p;
    }

    return ngx_http_llm_set_variable(v, s.data, s.len);
}


/* empty is not found: "-" in a log, the default of a map */

ngx_int_t
ngx_http_llm_set_variable(ngx_http_variable_value_t *v, u_char *data,
    size_t len)
{
    if (len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->data = data;
    v->len = len;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


ngx_int_t
ngx_http_llm_add_variables(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_http_llm_vars; v->name.len; v++) {
        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    return NGX_OK;
}
