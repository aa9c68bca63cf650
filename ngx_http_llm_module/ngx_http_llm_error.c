
/*
 * ngx_http_llm_error.c - every refusal as {"error":{...}}, ours and nginx's.
 *
 * Whoever refuses a request returns a status and nginx does the rest:
 * error_page, keep-alive, the unread body.  Where nginx would then send its
 * HTML page, the filters here send JSON instead, with Retry-After and Allow.
 * On by default below llm_pass; "llm_json_errors on;" for anything else.
 */


#include "ngx_http_llm.h"


typedef struct {
    ngx_uint_t    status;
    const char   *code;
    const char   *message;
} ngx_http_llm_status_t;


static ngx_int_t ngx_http_llm_header_filter(ngx_http_request_t *r);
static ngx_int_t ngx_http_llm_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in);
static ngx_uint_t ngx_http_llm_error_page_is_ours(ngx_http_request_t *r);
static ngx_int_t ngx_http_llm_error_of_nginx(ngx_http_request_t *r,
    ngx_http_llm_error_t *error);
static ngx_int_t ngx_http_llm_error_retry_after(ngx_http_request_t *r,
    ngx_http_llm_error_t *error);
static ngx_uint_t ngx_http_llm_error_status(ngx_http_request_t *r);
static ngx_uint_t ngx_http_llm_has_header(ngx_http_request_t *r,
    const char *name);
static ngx_int_t ngx_http_llm_error_headers(ngx_http_request_t *r,
    ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_error_body(ngx_http_request_t *r,
    ngx_http_llm_error_t *error);


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;
static ngx_http_output_body_filter_pt    ngx_http_next_body_filter;


/* what nginx itself refuses; messages without quotes or backslashes */

static ngx_http_llm_status_t  ngx_http_llm_statuses[] = {
    { 400, "bad_request", "The request could not be understood." },
    { 401, "invalid_api_key", "Authentication is required." },
    { 403, "forbidden", "Access is denied." },
    { 404, "not_found", "There is no such route." },
    { 405, "method_not_allowed", "This method is not allowed here." },
    { 408, "request_timeout", "The request has not arrived in time." },
    { 411, "length_required", "A Content-Length is required." },
    { 413, "request_too_large", "The request body is too large." },
    { 414, "uri_too_long", "The URI is too long." },
    { 415, "unsupported_media_type", "This Content-Type is not supported." },
    { 416, "range_not_satisfiable", "This range does not exist." },
    { 421, "misdirected_request", "This connection is for another host." },
    { 429, "rate_limit_exceeded", "Too many requests." },
    { 431, "headers_too_large", "The request headers are too large." },
    { 494, "headers_too_large", "The request headers are too large." },
    { 497, "https_required", "This port speaks HTTPS, not plain HTTP." },
    { 500, "internal_error", "Something went wrong in the server." },
    { 501, "not_implemented", "This is not supported." },
    { 502, "bad_gateway", "The upstream server gave no valid answer." },
    { 503, "unavailable", "The service is not available now." },
    { 504, "timeout", "The upstream server has not answered in time." },
    { 505, "http_version_not_supported", "This HTTP version is unknown." },
    { 507, "insufficient_storage", "The server has no room left." },
    { 0, NULL, NULL }
};


/* notes the details for the filter; returns status, as a handler does */

ngx_int_t
ngx_http_llm_error(ngx_http_llm_ctx_t *ctx, ngx_uint_t status,
    const char *code, const char *message)
{
    ctx->error.status = status;
    ctx->error.code = code;
    ctx->error.message.data = (u_char *) message;
    ctx->error.message.len = ngx_strlen(message);

    if (status == NGX_HTTP_SERVICE_UNAVAILABLE) {
        ctx->error.retry_after = ngx_http_llm_session_retry_after(
                                                               ctx->session);
    }

    return (ngx_int_t) status;
}


const char *
ngx_http_llm_error_type(ngx_uint_t status)
{
    switch (status) {

    case NGX_HTTP_UNAUTHORIZED:
        return "authentication_error";

    case NGX_HTTP_FORBIDDEN:
        return "permission_error";

    case NGX_HTTP_TOO_MANY_REQUESTS:
        return "rate_limit_error";

    default:
        return status >= 500 ? "server_error" : "invalid_request_error";
    }
}


/* the code of what nginx itself refuses; NULL: it has none */

const char *
ngx_http_llm_error_code(ngx_uint_t status)
{
    ngx_http_llm_status_t  *s;

    for (s = ngx_http_llm_statuses; s->status; s++) {

        if (s->status == status) {
            return s->code;
        }
    }

    return NULL;
}


static ngx_int_t
ngx_http_llm_header_filter(ngx_http_request_t *r)
{
    ngx_http_llm_ctx_t       *ctx;
    ngx_http_llm_error_t     *error;
    ngx_http_llm_loc_conf_t  *llcf;

    ctx = ngx_http_get_module_ctx(r, ngx_http_llm_module);

    if (ctx
        && ctx->error.status
        && ctx->error.status == r->headers_out.status
        && ngx_http_llm_error_headers(r, ctx) != NGX_OK)
    {
        return NGX_ERROR;
    }

    llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);

    if (llcf->json_errors != 1 || !ngx_http_llm_error_page_is_ours(r)) {
        return ngx_http_next_header_filter(r);
    }

    if (ctx == NULL) {
        ctx = ngx_pcalloc(r->pool, sizeof(ngx_http_llm_ctx_t));
        if (ctx == NULL) {
            return NGX_ERROR;
        }

        ctx->request = r;
        ctx->slot = NGX_HTTP_LLM_NO_SLOT;
        ctx->finalized = 1;

        ngx_http_set_ctx(r, ctx, ngx_http_llm_module);
    }

    /* a context that a variable has made has none either */

    if (ctx->request_id.len == 0
        && ngx_http_llm_set_request_id(ctx) != NGX_OK)
    {
        return NGX_ERROR;
    }

    error = &ctx->error;

    if (error->status != r->headers_out.status) {
        if (ngx_http_llm_error_of_nginx(r, error) != NGX_OK
            || ngx_http_llm_error_headers(r, ctx) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    if (ngx_http_llm_error_body(r, error) != NGX_OK) {
        return NGX_ERROR;
    }

    ctx->json_error = 1;

    ngx_str_set(&r->headers_out.content_type, "application/json");
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = NULL;
    r->headers_out.content_length_n = error->body.len;

    return ngx_http_next_header_filter(r);
}


/*
 * nginx's special page: ngx_http_special_response_handler() has set err_status,
 * expect_tested, and "text/html" or, where nginx has no page, nothing at all.
 * What a location answers for error_page has err_status too, but expect_tested
 * only if it was sent "Expect: 100-continue", and then its type lies elsewhere.
 */

static ngx_uint_t
ngx_http_llm_error_page_is_ours(ngx_http_request_t *r)
{
    ngx_str_t                 *type;
    ngx_http_upstream_t       *u;
    ngx_http_core_loc_conf_t  *clcf;

    if (r != r->main
        || r->headers_out.status < NGX_HTTP_BAD_REQUEST
        || r->err_status == 0
        || !r->expect_tested
        || r->headers_out.last_modified_time != -1
        || r->headers_out.content_type_lowcase != NULL)
    {
        return 0;
    }

    type = &r->headers_out.content_type;

    if (type->len == 0) {
        return r->headers_out.content_length_n == 0;
    }

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);
    u = r->upstream;

    if (type->data == clcf->default_type.data
        || (u && u->headers_in.content_type
            && type->data == u->headers_in.content_type->value.data))
    {
        return 0;
    }

    return type->len == sizeof("text/html") - 1
           && r->headers_out.content_length_n > 0
           && ngx_strncmp(type->data, "text/html", type->len) == 0;
}


static ngx_int_t
ngx_http_llm_error_of_nginx(ngx_http_request_t *r, ngx_http_llm_error_t *error)
{
    ngx_str_t               key;
    ngx_uint_t              status;
    ngx_http_llm_status_t  *s;

    ngx_memzero(error, sizeof(ngx_http_llm_error_t));

    error->status = r->headers_out.status;
    ngx_str_set(&error->message, "The request was refused.");

    status = ngx_http_llm_error_status(r);

    for (s = ngx_http_llm_statuses; s->status; s++) {

        if (s->status == status) {
            error->code = s->code;
            error->message.data = (u_char *) s->message;
            error->message.len = ngx_strlen(s->message);
            break;
        }
    }

    if (status == NGX_HTTP_UNAUTHORIZED
        && ngx_http_llm_key(r, &key) == NGX_OK)
    {
        ngx_str_set(&error->message, "The API key is not valid.");
    }

    if (status == NGX_HTTP_TOO_MANY_REQUESTS
        || status == NGX_HTTP_SERVICE_UNAVAILABLE)
    {
        return ngx_http_llm_error_retry_after(r, error);
    }

    return NGX_OK;
}


/* nginx's limits do not say when; an empty value and 0 are no header */

static ngx_int_t
ngx_http_llm_error_retry_after(ngx_http_request_t *r,
    ngx_http_llm_error_t *error)
{
    ngx_int_t                 n;
    ngx_str_t                 value;
    ngx_http_llm_loc_conf_t  *llcf;

    llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);

    if (llcf->retry_after == NULL) {
        error->retry_after = 1;
        return NGX_OK;
    }

    if (ngx_http_complex_value(r, llcf->retry_after, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    if (value.len == 0) {
        return NGX_OK;
    }

    n = ngx_parse_time(&value, 1);

    if (n == NGX_ERROR) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "invalid \"llm_retry_after\" value \"%V\"", &value);
        return NGX_OK;
    }

    error->retry_after = (ngx_uint_t) n;

    return NGX_OK;
}


/*
 * nginx says 400 to the client where it means 494 or 497.  494 comes while the
 * header is being read, so no phase has begun to write, and it comes when the
 * buffers are full; no other 400 keeps lingering_close.
 */

static ngx_uint_t
ngx_http_llm_error_status(ngx_http_request_t *r)
{
    if (r->headers_out.status != NGX_HTTP_BAD_REQUEST) {
        return r->headers_out.status;
    }

#if (NGX_HTTP_SSL)

    if (r->http_connection->ssl && r->connection->ssl == NULL) {
        return NGX_HTTP_TO_HTTPS;
    }

#endif

    if (r->write_event_handler == NULL
        && (r->lingering_close
            || (r->header_in && r->header_in->pos == r->header_in->end)))
    {
        return NGX_HTTP_REQUEST_HEADER_TOO_LARGE;
    }

    return NGX_HTTP_BAD_REQUEST;
}


static ngx_int_t
ngx_http_llm_error_headers(ngx_http_request_t *r, ngx_http_llm_ctx_t *ctx)
{
    u_char     *p;
    ngx_str_t   value;

    if (ctx->error.retry_after && !ngx_http_llm_has_header(r, "Retry-After")) {
        p = ngx_pnalloc(r->pool, NGX_INT_T_LEN);
        if (p == NULL) {
            return NGX_ERROR;
        }

        value.data = p;
        value.len = ngx_sprintf(p, "%ui", ctx->error.retry_after) - p;

        if (ngx_http_llm_add_header(r, "Retry-After", &value) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (ctx->error.no_retry) {
        ngx_str_set(&value, "false");

        if (ngx_http_llm_add_header(r, "X-Should-Retry", &value) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (ngx_http_llm_limit_headers(ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ctx->error.allow.len
        && ngx_http_llm_add_header(r, "Allow", &ctx->error.allow) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ctx->request_id.len) {
        return ngx_http_llm_add_header(r, "X-Request-Id", &ctx->request_id);
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_llm_has_header(ngx_http_request_t *r, const char *name)
{
    size_t            len;
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    len = ngx_strlen(name);
    part = &r->headers_out.headers.part;
    h = part->elts;

    for (i = 0; /* void */; i++) {

        if (i >= part->nelts) {

            if (part->next == NULL) {
                return 0;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        if (h[i].hash
            && h[i].key.len == len
            && ngx_strncasecmp(h[i].key.data, (u_char *) name, len) == 0)
        {
            return 1;
        }
    }
}


static ngx_int_t
ngx_http_llm_error_body(ngx_http_request_t *r, ngx_http_llm_error_t *error)
{
    u_char      *p, *last;
    size_t       size;
    const char  *quote, *param, *code, *type;

    type = error->type ? error->type : ngx_http_llm_error_type(error->status);
    param = error->param ? error->param : "null";
    code = error->code ? error->code : "null";

    size = sizeof("{\"error\":{\"message\":\"\",\"type\":\"\",\"param\":\"\","
                  "\"code\":\"\"}}\n")
           + error->message.len
           + ngx_strlen(type)
           + ngx_strlen(param)
           + ngx_strlen(code);

    p = ngx_pnalloc(r->pool, size);
    if (p == NULL) {
        return NGX_ERROR;
    }

    error->body.data = p;
    last = p + size;

    p = ngx_slprintf(p, last, "{\"error\":{\"message\":\"%V\",\"type\":\"%s\"",
                     &error->message, type);

    quote = error->param ? "\"" : "";
    p = ngx_slprintf(p, last, ",\"param\":%s%s%s", quote, param, quote);

    quote = error->code ? "\"" : "";
    p = ngx_slprintf(p, last, ",\"code\":%s%s%s}}\n", quote, code, quote);

    error->body.len = p - error->body.data;

    return NGX_OK;
}


/* swallows the HTML and sends the document once */

static ngx_int_t
ngx_http_llm_body_filter(ngx_http_request_t *r, ngx_chain_t *in)
{
    ngx_buf_t           *b;
    ngx_chain_t         *cl, out;
    ngx_http_llm_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_llm_module);

    if (ctx == NULL || !ctx->json_error || in == NULL) {
        return ngx_http_next_body_filter(r, in);
    }

    for (cl = in; cl; cl = cl->next) {
        cl->buf->pos = cl->buf->last;
        cl->buf->file_pos = cl->buf->file_last;
    }

    if (ctx->json_error_sent) {
        return ngx_http_next_body_filter(r, NULL);
    }

    ctx->json_error_sent = 1;

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->memory = 1;
    b->pos = ctx->error.body.data;
    b->last = ctx->error.body.data + ctx->error.body.len;
    b->last_buf = (r == r->main);
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    return ngx_http_next_body_filter(r, &out);
}


ngx_int_t
ngx_http_llm_error_filter_init(ngx_conf_t *cf)
{
    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_llm_header_filter;

    ngx_http_next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = ngx_http_llm_body_filter;

    return NGX_OK;
}


char *
ngx_http_llm_retry_after(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_llm_loc_conf_t *llcf = conf;

    ngx_str_t                         *value;
    ngx_http_compile_complex_value_t   ccv;

    if (llcf->retry_after) {
        return "is duplicate";
    }

    value = cf->args->elts;

    llcf->retry_after = ngx_palloc(cf->pool, sizeof(ngx_http_complex_value_t));
    if (llcf->retry_after == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = &value[1];
    ccv.complex_value = llcf->retry_after;

    if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (llcf->retry_after->lengths == NULL
        && ngx_parse_time(&value[1], 1) == NGX_ERROR)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"llm_retry_after\" value \"%V\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}
