
/*
 * ngx_http_llm_scan.c - what a body says about where it wants to go: its
 * "model" and how its prompt begins.  Once for each request, when it is asked.
 *
 * nginx reads a body when the content handler asks for it, which is too late
 * for limit_req, auth_request and the variables of a proxy_pass URL;
 * "llm_read_body on;" has it read before them.
 *
 * The body is looked at where it lies, in buffers or in a temporary file, by
 * wire/llm_scan.c.  Until it has been read, and when it is no JSON object,
 * nothing is found.
 */


#include "ngx_http_llm.h"


#define NGX_HTTP_LLM_SCAN_PIECE  65536       /* read from a file at a time */


static ngx_int_t ngx_http_llm_scan_chain(ngx_http_request_t *r,
    struct llm_scan *scan);
static ngx_int_t ngx_http_llm_scan_file(ngx_http_request_t *r, ngx_buf_t *b,
    struct llm_scan *scan);
static ngx_http_llm_ctx_t *ngx_http_llm_scan_ctx(ngx_http_request_t *r);
static void ngx_http_llm_read_body_handler(ngx_http_request_t *r);


/* NGX_DECLINED: the body is not there yet */

ngx_int_t
ngx_http_llm_scan(ngx_http_llm_ctx_t *ctx)
{
    struct llm_scan           scan;
    ngx_http_request_t       *r;
    ngx_http_request_body_t  *rb;
    ngx_http_llm_loc_conf_t  *llcf;

    if (ctx->scanned) {
        return NGX_OK;
    }

    r = ctx->request;
    rb = r->request_body;

    if (rb == NULL || rb->rest != 0 || r->main->reading_body) {
        return NGX_DECLINED;
    }

    ctx->scanned = 1;

    if (rb->bufs == NULL) {
        return NGX_OK;
    }

    llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);

    llm_scan_init(&scan, (uint32_t) llcf->prefix_bytes);

    if (ngx_http_llm_scan_chain(r, &scan) != NGX_OK) {
        return NGX_ERROR;
    }

    if (llm_scan_end(&scan) != LLM_OK) {
        ngx_log_debug0(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                       "llm: the request body is no JSON object");
        return NGX_OK;
    }

    if (scan.has_model) {
        ctx->asked.data = ngx_pnalloc(r->pool, scan.model_len);
        if (ctx->asked.data == NULL) {
            return NGX_ERROR;
        }

        ctx->asked.len = scan.model_len;
        ngx_memcpy(ctx->asked.data, scan.model, scan.model_len);
    }

    if (scan.has_prefix) {
        ctx->prefix_hash = scan.hash;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_scan_chain(ngx_http_request_t *r, struct llm_scan *scan)
{
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    for (cl = r->request_body->bufs; cl; cl = cl->next) {
        b = cl->buf;

        if (ngx_buf_in_memory(b)) {

            if (llm_scan_feed(scan, b->pos, b->last - b->pos) != LLM_OK) {
                return NGX_OK;
            }

            continue;
        }

        if (b->in_file && ngx_http_llm_scan_file(r, b, scan) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_scan_file(ngx_http_request_t *r, ngx_buf_t *b,
    struct llm_scan *scan)
{
    off_t      offset;
    size_t     size;
    u_char    *buf;
    ssize_t    n;
    ngx_int_t  rc;

    buf = ngx_alloc(NGX_HTTP_LLM_SCAN_PIECE, r->connection->log);
    if (buf == NULL) {
        return NGX_ERROR;
    }

    rc = NGX_OK;

    for (offset = b->file_pos; offset < b->file_last; offset += n) {

        size = (size_t) ngx_min(b->file_last - offset,
                                (off_t) NGX_HTTP_LLM_SCAN_PIECE);

        n = ngx_read_file(b->file, buf, size, offset);

        if (n <= 0) {
            rc = NGX_ERROR;
            break;
        }

        if (llm_scan_feed(scan, buf, (size_t) n) != LLM_OK) {
            break;
        }
    }

    ngx_free(buf);

    return rc;
}


/* llm_read_body: in the preaccess phase, before nginx's own handlers */

ngx_int_t
ngx_http_llm_read_body(ngx_http_request_t *r)
{
    ngx_int_t                 rc;
    ngx_http_llm_ctx_t       *ctx;
    ngx_http_llm_loc_conf_t  *llcf;

    llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);

    if (!llcf->read_body || r != r->main) {
        return NGX_DECLINED;
    }

    ctx = ngx_http_llm_scan_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ctx->reading) {
        return NGX_DONE;
    }

    if (r->request_body || r->discard_body) {
        return NGX_DECLINED;
    }

    ctx->reading = 1;

    rc = ngx_http_read_client_request_body(r, ngx_http_llm_read_body_handler);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    ngx_http_finalize_request(r, NGX_DONE);

    return NGX_DONE;
}


static void
ngx_http_llm_read_body_handler(ngx_http_request_t *r)
{
    ngx_http_llm_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_llm_module);

    ctx->reading = 0;

    r->preserve_body = 1;
    r->write_event_handler = ngx_http_core_run_phases;

    ngx_http_core_run_phases(r);
}


/*
 * A URI is decoded, so the name of a model in it may hold anything.  As in a
 * body, control characters are no part of a name: $llm_model goes into headers.
 */

ngx_uint_t
ngx_http_llm_is_name(const char *name, size_t len)
{
    size_t  i;

    for (i = 0; i < len; i++) {
        if ((u_char) name[i] < 0x20 || name[i] == 0x7f) {
            return 0;
        }
    }

    return 1;
}


/* for the variables: a location with proxy_pass has no context of ours */

static ngx_http_llm_ctx_t *
ngx_http_llm_scan_ctx(ngx_http_request_t *r)
{
    size_t                   len;
    ngx_http_llm_ctx_t      *ctx;
    struct llm_route_match   match;

    ctx = ngx_http_get_module_ctx(r, ngx_http_llm_module);
    if (ctx) {
        return ctx;
    }

    ctx = ngx_pcalloc(r->pool, sizeof(ngx_http_llm_ctx_t));
    if (ctx == NULL) {
        return NULL;
    }

    ctx->request = r;
    ctx->slot = NGX_HTTP_LLM_NO_SLOT;
    ctx->finalized = 1;

    if (llm_route_find((char *) r->uri.data, r->uri.len, &match)
        == LLM_ROUTE_MODELS
        && ngx_http_llm_is_name(match.model, match.model_len))
    {
        len = ngx_min(match.model_len, LLM_MODEL_BYTES_MAX);

        ctx->model_id.data = (u_char *) match.model;
        ctx->model_id.len = len;
    }

    ngx_http_set_ctx(r, ctx, ngx_http_llm_module);

    return ctx;
}


/*
 * $llm_model: the model that has answered, and as long as none has, the one
 * that the request asks for.
 */

ngx_int_t
ngx_http_llm_model_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t            s;
    ngx_http_llm_ctx_t  *ctx;

    ctx = ngx_http_llm_scan_ctx(r);
    if (ctx == NULL) {
        return NGX_ERROR;
    }

    if (ctx->have_end && ctx->end.model_len) {
        s.data = (u_char *) ctx->end.model;
        s.len = ctx->end.model_len;

    } else if (ctx->model_id.len) {
        s = ctx->model_id;

    } else {

        if (ngx_http_llm_scan(ctx) == NGX_ERROR) {
            return NGX_ERROR;
        }

        s = ctx->asked;
    }

    return ngx_http_llm_set_variable(v, s.data, s.len);
}


/* $llm_prefix_hash: 16 hexadecimal digits, the key of "hash ... consistent" */

ngx_int_t
ngx_http_llm_prefix_hash_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    u_char              *p;
    ngx_http_llm_ctx_t  *ctx;

    ctx = ngx_http_llm_scan_ctx(r);

    if (ctx == NULL || ngx_http_llm_scan(ctx) == NGX_ERROR) {
        return NGX_ERROR;
    }

    if (ctx->prefix_hash == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, 16);
    if (p == NULL) {
        return NGX_ERROR;
    }

    (void) ngx_sprintf(p, "%016xL", (int64_t) ctx->prefix_hash);

    return ngx_http_llm_set_variable(v, p, 16);
}
