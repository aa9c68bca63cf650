
/*
 * ngx_http_llm_status_handler.c - llm_status: which format, the bufs it is
 * written into, and the answer.
 */


#include "ngx_http_llm_status.h"
#include "ngx_http_llm_status_page.inc"


#define NGX_HTTP_LLM_STATUS_BUF  16384


static ngx_uint_t ngx_http_llm_status_format(ngx_http_request_t *r,
    ngx_uint_t format);
static ngx_uint_t ngx_http_llm_status_accepts(ngx_http_request_t *r,
    const char *type);
static void ngx_http_llm_status_page(ngx_http_llm_status_out_t *out);
static ngx_int_t ngx_http_llm_status_buf(ngx_http_llm_status_out_t *out,
    size_t size);
static ngx_int_t ngx_http_llm_status_send(ngx_http_request_t *r,
    ngx_http_llm_status_out_t *out, ngx_uint_t format);


ngx_int_t
ngx_http_llm_status_handler(ngx_http_request_t *r)
{
    ngx_int_t                   rc;
    ngx_uint_t                  format;
    ngx_http_llm_loc_conf_t    *llcf;
    ngx_http_llm_status_out_t   out;

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return NGX_HTTP_NOT_ALLOWED;
    }

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);

    format = ngx_http_llm_status_format(r, llcf->status);
    if (format == NGX_HTTP_LLM_STATUS_OFF) {
        return NGX_HTTP_BAD_REQUEST;
    }

    ngx_memzero(&out, sizeof(ngx_http_llm_status_out_t));

    out.request = r;
    out.last = &out.out;
    out.sh = ngx_http_llm_status_shared();

    if (out.sh == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    switch (format) {

    case NGX_HTTP_LLM_STATUS_HTML:
        ngx_http_llm_status_page(&out);
        break;

    case NGX_HTTP_LLM_STATUS_JSON:
        ngx_http_llm_status_publish();
        ngx_http_llm_status_json(&out);
        break;

    default: /* NGX_HTTP_LLM_STATUS_PROMETHEUS */
        ngx_http_llm_status_publish();
        ngx_http_llm_status_text(&out);
    }

    if (out.failed) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_llm_status_send(r, &out, format);
}


/*
 * The argument of the directive decides; the page may be asked for its JSON.
 * Without one it is ?format=, then Accept: a browser names text/html first of
 * all, Prometheus and curl do not name it.  OFF: no such format.
 */

static ngx_uint_t
ngx_http_llm_status_format(ngx_http_request_t *r, ngx_uint_t format)
{
    ngx_str_t   value;
    ngx_uint_t  i;

    static ngx_str_t  names[] = {
        ngx_string("prometheus"), ngx_string("json"), ngx_string("html")
    };

    if (format == NGX_HTTP_LLM_STATUS_PROMETHEUS
        || format == NGX_HTTP_LLM_STATUS_JSON)
    {
        return format;
    }

    if (ngx_http_arg(r, (u_char *) "format", 6, &value) == NGX_OK) {

        for (i = 0; i < 3; i++) {

            if (value.len != names[i].len
                || ngx_strncmp(value.data, names[i].data, value.len) != 0)
            {
                continue;
            }

            i += NGX_HTTP_LLM_STATUS_PROMETHEUS;

            if (format == NGX_HTTP_LLM_STATUS_HTML
                && i == NGX_HTTP_LLM_STATUS_PROMETHEUS)
            {
                break;
            }

            return i;
        }

        return NGX_HTTP_LLM_STATUS_OFF;
    }

    if (format == NGX_HTTP_LLM_STATUS_HTML) {
        return format;
    }

    if (ngx_http_llm_status_accepts(r, "text/html")) {
        return NGX_HTTP_LLM_STATUS_HTML;
    }

    if (ngx_http_llm_status_accepts(r, "application/json")) {
        return NGX_HTTP_LLM_STATUS_JSON;
    }

    return NGX_HTTP_LLM_STATUS_PROMETHEUS;
}


static ngx_uint_t
ngx_http_llm_status_accepts(ngx_http_request_t *r, const char *type)
{
    ngx_table_elt_t  *h;

    h = ngx_http_llm_find_header(r, "accept", sizeof("accept") - 1);

    return h && ngx_strcasestrn(h->value.data, (char *) type,
                                ngx_strlen(type) - 1)
                != NULL;
}


static void
ngx_http_llm_status_page(ngx_http_llm_status_out_t *out)
{
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    cl = ngx_alloc_chain_link(out->request->pool);
    b = ngx_calloc_buf(out->request->pool);

    if (cl == NULL || b == NULL) {
        out->failed = 1;
        return;
    }

    b->memory = 1;
    b->pos = (u_char *) ngx_http_llm_status_page_text;
    b->last = b->pos + sizeof(ngx_http_llm_status_page_text) - 1;

    cl->buf = b;
    cl->next = NULL;

    out->b = b;
    out->size = b->last - b->pos;
    *out->last = cl;
    out->last = &cl->next;
}


static ngx_int_t
ngx_http_llm_status_buf(ngx_http_llm_status_out_t *out, size_t size)
{
    ngx_chain_t  *cl;

    cl = ngx_alloc_chain_link(out->request->pool);
    if (cl == NULL) {
        return NGX_ERROR;
    }

    out->b = ngx_create_temp_buf(out->request->pool, size);
    if (out->b == NULL) {
        return NGX_ERROR;
    }

    cl->buf = out->b;
    cl->next = NULL;

    *out->last = cl;
    out->last = &cl->next;

    return NGX_OK;
}


/* at most NGX_HTTP_LLM_STATUS_ROOM bytes; what is longer is cut */

void
ngx_http_llm_status_printf(ngx_http_llm_status_out_t *out, const char *fmt,
    ...)
{
    u_char   *p;
    va_list   args;

    if (out->failed) {
        return;
    }

    if (out->b == NULL
        || out->b->end - out->b->last < NGX_HTTP_LLM_STATUS_ROOM)
    {
        if (ngx_http_llm_status_buf(out, NGX_HTTP_LLM_STATUS_BUF) != NGX_OK) {
            out->failed = 1;
            return;
        }
    }

    p = out->b->last;

    va_start(args, fmt);
    out->b->last = ngx_vslprintf(p, p + NGX_HTTP_LLM_STATUS_ROOM, fmt, args);
    va_end(args);

    out->size += out->b->last - p;
}


/* "0.005", "2.5", "10": no zeros that say nothing */

void
ngx_http_llm_status_seconds(ngx_http_llm_status_out_t *out, int64_t ns)
{
    u_char  buf[NGX_INT64_LEN + sizeof(".000000000")], *p;

    p = ngx_sprintf(buf, "%L.%09L", ns / 1000000000, ns % 1000000000);

    while (p[-1] == '0') {
        p--;
    }

    if (p[-1] == '.') {
        p--;
    }

    ngx_http_llm_status_printf(out, "%*s", (size_t) (p - buf), buf);
}


static ngx_int_t
ngx_http_llm_status_send(ngx_http_request_t *r,
    ngx_http_llm_status_out_t *out, ngx_uint_t format)
{
    ngx_int_t   rc;
    ngx_str_t   value;
    ngx_str_t  *type;

    static ngx_str_t  types[] = {
        ngx_string("text/plain; version=0.0.4; charset=utf-8"),
        ngx_string("application/json"),
        ngx_string("text/html; charset=utf-8")
    };

    static size_t  lens[] = {
        sizeof("text/plain") - 1, sizeof("application/json") - 1,
        sizeof("text/html") - 1
    };

    type = &types[format - NGX_HTTP_LLM_STATUS_PROMETHEUS];

    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_length_n = out->size;
    r->headers_out.content_type = *type;
    r->headers_out.content_type_len =
                             lens[format - NGX_HTTP_LLM_STATUS_PROMETHEUS];
    r->headers_out.content_type_lowcase = NULL;

    ngx_str_set(&value, "no-store");

    if (ngx_http_llm_add_header(r, "Cache-Control", &value) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_str_set(&value, "Accept");

    if (ngx_http_llm_add_header(r, "Vary", &value) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    out->b->last_buf = (r == r->main);
    out->b->last_in_chain = 1;

    return ngx_http_output_filter(r, out->out);
}
