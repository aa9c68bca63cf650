
/*
 * ngx_http_llm_output.c - from records to the client: header, recycled bufs,
 * slow readers, and how a broken stream ends.
 *
 * Bytes are copied into bufs that come back after they were sent, so a long
 * stream does not grow the pool.  While the client has not taken what it was
 * given, new bytes wait in ctx->pending; above llm_buffer_size the engine is
 * asked to park the sequence, below half of it to go on.
 */


#include "ngx_http_llm.h"


static ngx_chain_t *ngx_http_llm_output_buf(ngx_http_llm_ctx_t *ctx,
    size_t size);
static ngx_int_t ngx_http_llm_output_header(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_output_intercept(ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_output_no_head(ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_output_send(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_output_last(ngx_http_llm_ctx_t *ctx);
static ngx_chain_t *ngx_http_llm_output_take(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_output_pass(ngx_http_llm_ctx_t *ctx,
    ngx_chain_t *out);
static void ngx_http_llm_output_wait(ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_output_finalize(ngx_http_llm_ctx_t *ctx,
    ngx_uint_t finish, ngx_int_t rc);


/* first pass: only copies */

ngx_int_t
ngx_http_llm_output_append(ngx_http_llm_ctx_t *ctx, const u_char *data,
    size_t len)
{
    size_t        n;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    if (ctx->pending_bytes + len > NGX_HTTP_LLM_PENDING_MAX) {
        ngx_log_error(NGX_LOG_ERR, ctx->request->connection->log, 0,
                      "response has %uz bytes waiting, the limit is %d",
                      ctx->pending_bytes + len, NGX_HTTP_LLM_PENDING_MAX);
        return NGX_ERROR;
    }

    ctx->at_event = len < 2 ? 0 : (data[len - 1] == '\n'
                                   && data[len - 2] == '\n');
    ctx->pending_bytes += len;

    while (len) {
        b = ctx->tail;

        if (b == NULL || b->last == b->end) {

            cl = ngx_http_llm_output_buf(ctx, len);
            if (cl == NULL) {
                return NGX_ERROR;
            }

            *ctx->last_pending = cl;
            ctx->last_pending = &cl->next;
            ctx->tail = cl->buf;
            b = cl->buf;
        }

        n = ngx_min(len, (size_t) (b->end - b->last));

        b->last = ngx_cpymem(b->last, data, n);
        data += n;
        len -= n;
    }

    return NGX_OK;
}


static ngx_chain_t *
ngx_http_llm_output_buf(ngx_http_llm_ctx_t *ctx, size_t size)
{
    ngx_buf_t    *b;
    ngx_pool_t   *pool;
    ngx_chain_t  *cl;

    pool = ctx->request->pool;

    cl = ngx_chain_get_free_buf(pool, &ctx->free);
    if (cl == NULL) {
        return NULL;
    }

    b = cl->buf;

    if (b->start == NULL) {
        size = size > NGX_HTTP_LLM_BUF_SIZE ? NGX_HTTP_LLM_BIG_BUF_SIZE
                                            : NGX_HTTP_LLM_BUF_SIZE;

        b->start = ngx_palloc(pool, size);
        if (b->start == NULL) {
            return NULL;
        }

        b->end = b->start + size;
        b->temporary = 1;
        b->tag = (ngx_buf_tag_t) &ngx_http_llm_module;
    }

    b->pos = b->start;
    b->last = b->start;
    b->flush = 0;
    b->last_buf = 0;
    b->last_in_chain = 0;

    return cl;
}


/* what waits is not for the client any more */

void
ngx_http_llm_output_drop(ngx_http_llm_ctx_t *ctx)
{
    if (ctx->pending) {
        *ctx->last_pending = ctx->free;
        ctx->free = ctx->pending;
        ctx->pending = NULL;
    }

    ctx->last_pending = &ctx->pending;
    ctx->tail = NULL;
    ctx->pending_bytes = 0;
}


/* second pass: everything that has come for this request so far */

void
ngx_http_llm_output_records(ngx_http_llm_ctx_t *ctx)
{
    ngx_int_t                 rc;
    ngx_http_request_t       *r;
    ngx_http_llm_loc_conf_t  *llcf;

    r = ctx->request;

    if (ctx->lingering) {
        if (ctx->have_end) {
            ngx_http_llm_client_release(ctx);
        }

        return;
    }

    if (ctx->finalized) {
        return;
    }

    if (ctx->lost.status) {
        if (ctx->have_end) {
            ngx_http_llm_output_lost_now(ctx);
        }

        return;
    }

    if (ctx->failed) {
        ngx_http_llm_output_lost(ctx, NGX_HTTP_INTERNAL_SERVER_ERROR,
                                 "internal_error",
                                 "The response could not be kept.");
        return;
    }

    if (ctx->prompted) {
        ctx->prompted = 0;
        ngx_http_llm_limit_answer(ctx);
        return;
    }

    if (ctx->have_end) {

        if (ctx->timer.timer_set) {
            ngx_del_timer(&ctx->timer);
        }

        if (!ctx->have_head) {
            ngx_http_llm_output_no_head(ctx);
            return;
        }

    } else {
        llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);
        ngx_add_timer(&ctx->timer, llcf->read_timeout);

        /* what includes us must get one whole answer */

        if (r != r->main) {
            return;
        }
    }

    if (!r->header_sent) {

        if (ngx_http_llm_output_intercept(ctx) == NGX_OK) {
            return;
        }

        rc = ngx_http_llm_output_header(ctx);

        if (rc == NGX_ERROR || rc > NGX_OK) {
            ngx_http_llm_output_finalize(ctx, LLM_FINISH_CLIENT_ABORT, rc);
            return;
        }
    }

    ngx_http_llm_output_send(ctx);
}


static ngx_int_t
ngx_http_llm_output_header(ngx_http_llm_ctx_t *ctx)
{
    u_char              *p;
    ngx_str_t            value;
    const char          *type;
    struct llm_head     *head;
    ngx_http_request_t  *r;

    r = ctx->request;
    head = &ctx->head;

    r->headers_out.status = head->status;
    r->headers_out.content_length_n = (off_t) head->content_length;

    type = llm_wire_content_type(head->content);

    if (type) {
        r->headers_out.content_type.data = (u_char *) type;
        r->headers_out.content_type.len = ngx_strlen(type);
        r->headers_out.content_type_len = ngx_strlen(type);

        p = ngx_strlchr((u_char *) type,
                        (u_char *) type + r->headers_out.content_type.len, ';');
        if (p) {
            r->headers_out.content_type_len = p - (u_char *) type;
        }

        r->headers_out.content_type_lowcase = NULL;
    }

    if (head->content == LLM_CONTENT_SSE) {
        ngx_str_set(&value, "no-cache");

        if (ngx_http_llm_add_header(r, "Cache-Control", &value) != NGX_OK) {
            return NGX_ERROR;
        }

        ngx_str_set(&value, "no");

        if (ngx_http_llm_add_header(r, "X-Accel-Buffering", &value) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    if (head->retry_after_s) {
        p = ngx_pnalloc(r->pool, NGX_INT32_LEN);
        if (p == NULL) {
            return NGX_ERROR;
        }

        value.data = p;
        value.len = ngx_sprintf(p, "%uD", head->retry_after_s) - p;

        if (ngx_http_llm_add_header(r, "Retry-After", &value) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (ctx->have_end && (ctx->end.flags & LLM_END_NO_RETRY)) {
        ngx_str_set(&value, "false");

        if (ngx_http_llm_add_header(r, "X-Should-Retry", &value) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (ngx_http_llm_add_header(r, "X-Request-Id", &ctx->request_id)
        != NGX_OK
        || ngx_http_llm_limit_headers(ctx) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_send_header(r);
}


ngx_int_t
ngx_http_llm_add_header(ngx_http_request_t *r, const char *name,
    ngx_str_t *value)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    h->hash = 1;
#if (nginx_version >= 1023000)
    h->next = NULL;
#endif
    h->key.data = (u_char *) name;
    h->key.len = ngx_strlen(name);
    h->value = *value;

    return NGX_OK;
}


/* "error_page 503 = @fallback;" is meant for the engine's 503 as for ours */

static ngx_int_t
ngx_http_llm_output_intercept(ngx_http_llm_ctx_t *ctx)
{
    ngx_uint_t                 i, status;
    ngx_http_request_t        *r;
    ngx_http_err_page_t       *page;
    ngx_http_core_loc_conf_t  *clcf;

    r = ctx->request;
    status = ctx->head.status;

    if (status < 500 || r->error_page) {
        return NGX_DECLINED;
    }

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (clcf->error_pages == NULL) {
        return NGX_DECLINED;
    }

    page = clcf->error_pages->elts;

    for (i = 0; i < clcf->error_pages->nelts; i++) {

        if (page[i].status == (ngx_int_t) status) {

            /* END is right behind, with what this has cost */

            if (ctx->have_end) {
                ngx_http_llm_output_finalize(ctx, LLM_FINISH_NONE,
                                             (ngx_int_t) status);
            }

            return NGX_OK;
        }
    }

    return NGX_DECLINED;
}


/* END without HEAD: it was over before anything could be said */

static void
ngx_http_llm_output_no_head(ngx_http_llm_ctx_t *ctx)
{
    switch (ctx->end.reason) {

    case LLM_FINISH_SHUTDOWN:
    case LLM_FINISH_ENGINE_LOST:
        ngx_http_llm_output_lost(ctx, NGX_HTTP_SERVICE_UNAVAILABLE,
                                 "engine_unavailable",
                                 "The engine is shutting down.");
        return;

    case LLM_FINISH_DEADLINE:
        ngx_http_llm_output_lost(ctx, NGX_HTTP_GATEWAY_TIME_OUT, "timeout",
                                 "The deadline has passed.");
        return;

    default:
        ngx_http_llm_output_lost(ctx, NGX_HTTP_BAD_GATEWAY, "engine_error",
                                 "The engine ended the request without an "
                                 "answer.");
    }
}


static void
ngx_http_llm_output_send(ngx_http_llm_ctx_t *ctx)
{
    ngx_int_t                 rc;
    ngx_connection_t         *c;
    ngx_http_request_t       *r;
    ngx_http_llm_loc_conf_t  *llcf;

    r = ctx->request;
    c = r->connection;

    rc = NGX_OK;

    /* post_action: a body that was asked for, but for which nobody waits */

    if (r->header_only) {
        ngx_http_llm_output_drop(ctx);
    }

    if ((ctx->have_end || ctx->closing) && !ctx->last_sent) {

        rc = ngx_http_llm_output_last(ctx);

        if (rc == NGX_DONE) {
            return;
        }

    } else if (ctx->pending && ctx->busy == NULL) {

        if (ctx->head.flags & LLM_HEAD_STREAM) {
            ctx->tail->flush = 1;
        }

        rc = ngx_http_llm_output_pass(ctx, ngx_http_llm_output_take(ctx));

    } else if (ctx->busy || c->buffered || r->buffered) {

        rc = ngx_http_llm_output_pass(ctx, NULL);

        if (rc != NGX_ERROR && ctx->busy == NULL && ctx->pending) {
            ngx_http_llm_output_send(ctx);
            return;
        }
    }

    if (rc == NGX_ERROR || c->error) {
        ngx_http_llm_output_finalize(ctx, LLM_FINISH_CLIENT_ABORT, NGX_ERROR);
        return;
    }

    llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);

    if (ctx->pending_bytes > llcf->buffer_size) {
        ngx_http_llm_request_window(ctx, 0);

    } else if (ctx->pending_bytes <= llcf->buffer_size / 2) {
        ngx_http_llm_request_window(ctx, 1);
    }

    ngx_http_llm_output_wait(ctx);
}


/* what has come and was not sent: the caller's now */

static ngx_chain_t *
ngx_http_llm_output_take(ngx_http_llm_ctx_t *ctx)
{
    ngx_chain_t  *out;

    out = ctx->pending;

    ctx->pending = NULL;
    ctx->last_pending = &ctx->pending;
    ctx->tail = NULL;
    ctx->pending_bytes = 0;

    return out;
}


/* to nginx's filters, NULL: what they hold; the buffers sent are free again */

static ngx_int_t
ngx_http_llm_output_pass(ngx_http_llm_ctx_t *ctx, ngx_chain_t *out)
{
    ngx_int_t  rc;

    rc = ngx_http_output_filter(ctx->request, out);

    ngx_chain_update_chains(ctx->request->pool, &ctx->free, &ctx->busy, &out,
                            (ngx_buf_tag_t) &ngx_http_llm_module);

    return rc;
}


/* for the client to take what is left; when that was the end, it is over */

static void
ngx_http_llm_output_wait(ngx_http_llm_ctx_t *ctx)
{
    ngx_event_t               *wev;
    ngx_connection_t          *c;
    ngx_http_request_t        *r;
    ngx_http_llm_loc_conf_t   *llcf;
    ngx_http_core_loc_conf_t  *clcf;

    r = ctx->request;
    c = r->connection;
    wev = c->write;

    if (ctx->busy || c->buffered || r->buffered) {

        if (!wev->delayed && (!wev->timer_set || ctx->progress != c->sent)) {
            llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);
            ngx_add_timer(wev, llcf->send_timeout);
        }

        ctx->progress = c->sent;

        clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

        if (ngx_handle_write_event(wev, clcf->send_lowat) != NGX_OK) {
            ngx_http_llm_output_finalize(ctx, LLM_FINISH_CLIENT_ABORT,
                                         NGX_ERROR);
        }

        return;
    }

    if (wev->timer_set && !wev->delayed) {
        ngx_del_timer(wev);
    }

    if (ctx->last_sent) {
        ngx_http_llm_output_finalize(ctx, LLM_FINISH_NONE, NGX_OK);
    }
}


/*
 * The rest and the end.  NGX_DONE: the request is finalized; where others have
 * something to send behind it, nginx's own writer is in charge.
 */

static ngx_int_t
ngx_http_llm_output_last(ngx_http_llm_ctx_t *ctx)
{
    ngx_int_t            rc;
    ngx_http_request_t  *r;

    r = ctx->request;

    if (r->header_only) {
        ngx_http_llm_output_finalize(ctx, LLM_FINISH_NONE, NGX_OK);
        return NGX_DONE;
    }

    if (ctx->head.content_length >= 0
        && ctx->body_bytes < (uint64_t) ctx->head.content_length)
    {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "engine sent %uL bytes of %L",
                      ctx->body_bytes, ctx->head.content_length);
        ngx_http_llm_output_finalize(ctx, LLM_FINISH_NONE, NGX_ERROR);
        return NGX_DONE;
    }

    ctx->last_sent = 1;

    if (ctx->pending) {
        ctx->tail->last_buf = (r == r->main);
        ctx->tail->last_in_chain = 1;

        rc = ngx_http_llm_output_pass(ctx, ngx_http_llm_output_take(ctx));

    } else {
        rc = ngx_http_send_special(r, NGX_HTTP_LAST);
    }

    if (r != r->main || r->postponed) {
        ngx_http_llm_output_finalize(ctx, LLM_FINISH_NONE, rc);
        return NGX_DONE;
    }

    return rc;
}


static void
ngx_http_llm_output_finalize(ngx_http_llm_ctx_t *ctx, ngx_uint_t finish,
    ngx_int_t rc)
{
    ctx->finalized = 1;

    /* where nginx ends the request for this, the cleanup waits for END */

    (void) ngx_http_llm_request_cancel(ctx, finish);
    ngx_http_finalize_request(ctx->request, rc);
}


/* the client can take more, or has not taken anything for too long */

void
ngx_http_llm_write_handler(ngx_http_request_t *r)
{
    ngx_event_t               *wev;
    ngx_connection_t          *c;
    ngx_http_llm_ctx_t        *ctx;
    ngx_http_core_loc_conf_t  *clcf;

    c = r->connection;
    wev = c->write;

    ctx = ngx_http_get_module_ctx(r, ngx_http_llm_module);

    if (ctx == NULL || ctx->finalized) {
        return;
    }

    if (wev->timedout) {
        ngx_log_error(NGX_LOG_INFO, c->log, NGX_ETIMEDOUT,
                      "client timed out");
        c->timedout = 1;

        ngx_http_llm_output_finalize(ctx, LLM_FINISH_SLOW_READER,
                                     NGX_HTTP_REQUEST_TIME_OUT);
        return;
    }

    if (wev->delayed) {
        clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

        if (ngx_handle_write_event(wev, clcf->send_lowat) != NGX_OK) {
            ngx_http_llm_output_finalize(ctx, LLM_FINISH_CLIENT_ABORT,
                                         NGX_ERROR);
        }

        return;
    }

    if (!r->header_sent) {
        return;
    }

    ngx_http_llm_output_send(ctx);
}


/*
 * The engine is gone, hangs, is late, or could not be given the request.  An
 * engine that is well first ends the request, so that its numbers are known.
 */

void
ngx_http_llm_output_lost(ngx_http_llm_ctx_t *ctx, ngx_uint_t status,
    const char *code, const char *message)
{
    if (ctx->finalized || ctx->lost.status) {
        return;
    }

    ctx->lost.status = status;
    ctx->lost.code = code;
    ctx->lost.message = message;

    if (ngx_http_llm_request_cancel(ctx, LLM_FINISH_ENGINE_LOST) == NGX_AGAIN)
    {
        return;
    }

    ngx_http_llm_output_lost_now(ctx);
}


/*
 * Before the header the client gets the status; in a stream one error event
 * without [DONE], and the connection is closed; in any other answer only the
 * closed connection can tell.
 */

void
ngx_http_llm_output_lost_now(ngx_http_llm_ctx_t *ctx)
{
    u_char                buf[512], *p;
    ngx_http_request_t   *r;
    ngx_http_llm_lost_t  *lost;

    r = ctx->request;
    lost = &ctx->lost;

    ngx_http_llm_request_detach(ctx, LLM_FINISH_ENGINE_LOST);

    ctx->finalized = 1;

    if (!r->header_sent) {
        ngx_http_finalize_request(r, ngx_http_llm_error(ctx, lost->status,
                                                        lost->code,
                                                        lost->message));
        return;
    }

    r->keepalive = 0;

    if (ctx->head.content != LLM_CONTENT_SSE || r->header_only || ctx->failed)
    {
        ngx_http_finalize_request(r, NGX_ERROR);
        return;
    }

    p = ngx_slprintf(buf, buf + sizeof(buf), "%sdata: {\"error\":{"
                     "\"message\":\"%s\",\"type\":\"%s\",\"param\":null,"
                     "\"code\":\"%s\"}}\n\n", ctx->at_event ? "" : "\n\n",
                     lost->message, ngx_http_llm_error_type(lost->status),
                     lost->code);

    if (ngx_http_llm_output_append(ctx, buf, p - buf) != NGX_OK) {
        ngx_http_finalize_request(r, NGX_ERROR);
        return;
    }

    ctx->head.content_length = -1;
    ctx->finalized = 0;
    ctx->closing = 1;

    ngx_http_llm_output_send(ctx);
}
