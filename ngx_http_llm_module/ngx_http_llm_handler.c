
/*
 * ngx_http_llm_handler.c - the content handler: decides what can be refused
 * without the engine, reads the body, hands the request over.
 *
 * nginx's access phases have run before.  Whatever is refused here returns a
 * status, so that error_page works; _error.c turns it into JSON.
 */


#include "ngx_http_llm.h"


static ngx_http_llm_ctx_t *ngx_http_llm_create_ctx(ngx_http_request_t *r);
static ngx_int_t ngx_http_llm_select_engine(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_select_route(ngx_http_llm_ctx_t *ctx,
    struct llm_route_match *match);
static ngx_int_t ngx_http_llm_check_body(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_check_type(ngx_str_t *type);
static void ngx_http_llm_body_handler(ngx_http_request_t *r);


ngx_int_t
ngx_http_llm_handler(ngx_http_request_t *r)
{
    ngx_int_t                rc;
    ngx_http_llm_ctx_t      *ctx;
    struct llm_route_match   match;

    ctx = ngx_http_llm_create_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_http_llm_select_route(ctx, &match);
    if (rc != NGX_OK) {
        return rc;
    }

    if (match.json_body) {
        rc = ngx_http_llm_check_body(ctx);
        if (rc != NGX_OK) {
            return rc;
        }
    }

    /* a list of models needs no engine, if it is ours */

    if (ctx->route != LLM_ROUTE_MODELS) {
        rc = ngx_http_llm_check_engines(ctx);
        if (rc != NGX_OK) {
            return rc;
        }
    }

    ctx->send_body = match.json_body;

    rc = ngx_http_read_client_request_body(r, ngx_http_llm_body_handler);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    return NGX_DONE;
}


static ngx_http_llm_ctx_t *
ngx_http_llm_create_ctx(ngx_http_request_t *r)
{
    ngx_http_cleanup_t  *cln;
    ngx_http_llm_ctx_t  *ctx;

    ctx = ngx_pcalloc(r->pool, sizeof(ngx_http_llm_ctx_t));
    if (ctx == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     ctx->session = NULL;  ctx->engine = NULL;
     *     ctx->in = NULL;  ctx->free = NULL;  ctx->busy = NULL;
     *     ctx->finish = LLM_FINISH_NONE;
     *     ctx->error.status = 0;
     *     all flags = 0;
     */

    ctx->request = r;
    ctx->slot = NGX_HTTP_LLM_NO_SLOT;
    ctx->last_pending = &ctx->pending;
    ctx->arrival = ngx_http_llm_now();

    ctx->timer.handler = ngx_http_llm_client_timeout_handler;
    ctx->timer.data = ctx;
    ctx->timer.log = r->connection->log;

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        return NULL;
    }

    cln->handler = ngx_http_llm_client_cleanup;
    cln->data = ctx;

    ngx_http_llm_status_begin(ctx);

    ngx_http_set_ctx(r, ctx, ngx_http_llm_module);

    if (ngx_http_llm_set_request_id(ctx) != NGX_OK) {
        return NULL;
    }

    return ctx;
}


/* when the body is there: its "model" may decide */

static ngx_int_t
ngx_http_llm_select_engine(ngx_http_llm_ctx_t *ctx)
{
    ngx_int_t  rc;

    if (ctx->route == LLM_ROUTE_MODELS) {
        rc = ngx_http_llm_list_models(ctx);
        if (rc != NGX_DECLINED) {
            return rc;
        }
    }

    rc = ngx_http_llm_select_model(ctx);
    if (rc != NGX_OK) {
        return rc;
    }

    if (ngx_http_llm_choose(ctx) != NGX_OK) {
        ngx_log_error(NGX_LOG_WARN, ctx->request->connection->log, 0,
                      "no engine of \"%V\" can be asked", &ctx->model->name);

        ctx->session = ngx_http_llm_handover_choose(ctx->model->engines[0]);

        return ngx_http_llm_error(ctx, NGX_HTTP_SERVICE_UNAVAILABLE,
                                  "engine_unavailable",
                            ngx_http_llm_session_message(ctx->session));
    }

    if (ctx->session->state == NGX_HTTP_LLM_UP
        && (uint64_t) ctx->body_size > ctx->session->body_max)
    {
        return ngx_http_llm_error(ctx, NGX_HTTP_REQUEST_ENTITY_TOO_LARGE,
                                  "request_too_large",
                                  "The request body is too large.");
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_select_route(ngx_http_llm_ctx_t *ctx,
    struct llm_route_match *match)
{
    uint32_t                  method;
    ngx_http_request_t       *r;
    ngx_http_llm_loc_conf_t  *llcf;

    r = ctx->request;
    llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);

    if (llcf->route) {
        ctx->route = llm_route_by_id(llcf->route, match);

    } else {
        ctx->route = llm_route_find((char *) r->uri.data, r->uri.len, match);
    }

    if (ctx->route == LLM_ROUTE_NONE) {
        return ngx_http_llm_error(ctx, NGX_HTTP_NOT_FOUND, "not_found",
                                  "There is no such route.");
    }

    switch (r->method) {

    case NGX_HTTP_GET:
    case NGX_HTTP_HEAD:
        method = LLM_METHOD_GET;
        break;

    case NGX_HTTP_POST:
        method = LLM_METHOD_POST;
        break;

    default:
        method = 0;
    }

    if ((match->methods & method) == 0) {
        ctx->error.allow.data = (u_char *) match->allow;
        ctx->error.allow.len = ngx_strlen(match->allow);

        return ngx_http_llm_error(ctx, NGX_HTTP_NOT_ALLOWED,
                                  "method_not_allowed",
                                  "This method is not allowed here.");
    }

    if (match->model_len > LLM_MODEL_BYTES_MAX) {
        ctx->error.param = "model";
        return ngx_http_llm_error(ctx, NGX_HTTP_NOT_FOUND, "model_not_found",
                                  "The name of the model is too long.");
    }

    if (!ngx_http_llm_is_name(match->model, match->model_len)) {
        ctx->error.param = "model";
        return ngx_http_llm_error(ctx, NGX_HTTP_NOT_FOUND, "model_not_found",
                                  "A model has no such name.");
    }

    ctx->model_id.data = (u_char *) match->model;
    ctx->model_id.len = match->model_len;

    return NGX_OK;
}


/* type and encoding, from the headers alone */

static ngx_int_t
ngx_http_llm_check_body(ngx_http_llm_ctx_t *ctx)
{
    ngx_table_elt_t     *h;
    ngx_http_request_t  *r;

    r = ctx->request;

    if (r->headers_in.content_type == NULL
        || ngx_http_llm_check_type(&r->headers_in.content_type->value)
           != NGX_OK)
    {
        return ngx_http_llm_error(ctx, NGX_HTTP_UNSUPPORTED_MEDIA_TYPE,
                                  "unsupported_media_type",
                                  "The Content-Type must be application/json "
                                  "in UTF-8.");
    }

    h = ngx_http_llm_find_header(r, "content-encoding",
                                 sizeof("content-encoding") - 1);

    if (h && h->value.len
        && (h->value.len != 8
            || ngx_strncasecmp(h->value.data, (u_char *) "identity", 8) != 0))
    {
        return ngx_http_llm_error(ctx, NGX_HTTP_UNSUPPORTED_MEDIA_TYPE,
                                  "unsupported_encoding",
                                  "The request body must not be compressed.");
    }

    return NGX_OK;
}


/*
 * application/json, and curl -d's default, whose body is looked at as JSON all
 * the same; the only charset is UTF-8.
 */

static ngx_int_t
ngx_http_llm_check_type(ngx_str_t *type)
{
    u_char     *p, *last, *end;
    size_t      len;
    ngx_uint_t  i;

    static ngx_str_t  types[] = {
        ngx_string("application/json"),
        ngx_string("application/x-www-form-urlencoded")
    };

    p = type->data;
    last = type->data + type->len;

    end = ngx_strlchr(p, last, ';');
    if (end == NULL) {
        end = last;
    }

    len = end - p;

    while (len && (p[len - 1] == ' ' || p[len - 1] == '\t')) {
        len--;
    }

    for (i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (len == types[i].len
            && ngx_strncasecmp(p, types[i].data, len) == 0)
        {
            break;
        }
    }

    if (i == sizeof(types) / sizeof(types[0])) {
        return NGX_DECLINED;
    }

    p = ngx_strlcasestrn(end, last, (u_char *) "charset=",
                         sizeof("charset=") - 2);
    if (p == NULL) {
        return NGX_OK;
    }

    p += sizeof("charset=") - 1;

    if (p < last && *p == '"') {
        p++;
    }

    if (last - p >= 5 && ngx_strncasecmp(p, (u_char *) "utf-8", 5) == 0
        && (last - p == 5 || ngx_strchr("\"; \t", p[5])))
    {
        return NGX_OK;
    }

    return NGX_DECLINED;
}


/* the client's X-Request-Id if it is harmless in logs and JSON, or our own */

ngx_int_t
ngx_http_llm_set_request_id(ngx_http_llm_ctx_t *ctx)
{
    u_char           *p, c;
    size_t            i;
    ngx_table_elt_t  *h;

    h = ngx_http_llm_find_header(ctx->request, "x-request-id",
                                 sizeof("x-request-id") - 1);

    if (h && h->value.len && h->value.len <= LLM_REQUEST_ID_BYTES_MAX) {

        for (i = 0; i < h->value.len; i++) {
            c = h->value.data[i];

            if ((c < '0' || c > '9') && (c < 'a' || c > 'z')
                && (c < 'A' || c > 'Z') && c != '-' && c != '_' && c != '.')
            {
                break;
            }
        }

        if (i == h->value.len) {
            ctx->request_id = h->value;
            return NGX_OK;
        }
    }

    p = ngx_pnalloc(ctx->request->pool, 32);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ctx->request_id.data = p;
    ctx->request_id.len = 32;

    (void) ngx_sprintf(p, "%08xD%08xD%08xD%08xD",
                       (uint32_t) ngx_random(), (uint32_t) ngx_random(),
                       (uint32_t) ngx_random(), (uint32_t) ngx_random());

    return NGX_OK;
}


ngx_table_elt_t *
ngx_http_llm_find_header(ngx_http_request_t *r, const char *name, size_t len)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    part = &r->headers_in.headers.part;
    h = part->elts;

    for (i = 0; /* void */; i++) {

        if (i >= part->nelts) {

            if (part->next == NULL) {
                return NULL;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        if (h[i].key.len == len
            && ngx_strncasecmp(h[i].key.data, (u_char *) name, len) == 0)
        {
            return &h[i];
        }
    }
}


/* the body is complete, or there is none; one reference is ours now */

static void
ngx_http_llm_body_handler(ngx_http_request_t *r)
{
    ngx_int_t                 rc;
    ngx_chain_t              *cl;
    ngx_http_llm_ctx_t       *ctx;
    ngx_http_llm_loc_conf_t  *llcf;

    ctx = ngx_http_get_module_ctx(r, ngx_http_llm_module);

    if (ctx->send_body && r->request_body) {

        ctx->in = r->request_body->bufs;

        for (cl = ctx->in; cl; cl = cl->next) {
            ctx->body_size += ngx_buf_size(cl->buf);
        }
    }

    rc = ngx_http_llm_select_engine(ctx);
    if (rc != NGX_OK || ctx->session == NULL) {
        ngx_http_finalize_request(r, rc);
        return;
    }

    rc = ngx_http_llm_options(ctx);

    if (rc == NGX_OK) {
        rc = ngx_http_llm_limit_check(ctx);
    }

    if (rc != NGX_OK) {
        ngx_http_finalize_request(r, rc);
        return;
    }

    if (ngx_http_llm_client_watch(ctx) != NGX_OK) {
        ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR);
        return;
    }

    /*
     * every request in flight holds a timer that is not cancelable: without
     * one a worker that is told to quit would cut it off
     */

    llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);
    ngx_add_timer(&ctx->timer, llcf->read_timeout);

    ngx_http_llm_request_submit(ctx);
}


/* a document of nginx's own, for which no engine is asked */

ngx_int_t
ngx_http_llm_send_json(ngx_http_request_t *r, ngx_uint_t status, ngx_buf_t *b)
{
    ngx_http_complex_value_t  document;

    static ngx_str_t          type = ngx_string("application/json");

    ngx_memzero(&document, sizeof(ngx_http_complex_value_t));
    document.value.data = b->pos;
    document.value.len = b->last - b->pos;

    return ngx_http_send_response(r, status, &type, &document);
}
