
/*
 * ngx_http_llm_next.c - llm_next_engine: a request whose engine was lost, is
 * late or has no room goes to the next engine of its model, then to those of
 * the fallbacks.
 *
 * Only as long as nothing has been sent to the client: it has seen nothing, so
 * doing the work again is safe, for POST too.  Never twice to one engine, never
 * after an answer of 4xx, which would be the same everywhere.
 */


#include "ngx_http_llm.h"


#define NGX_HTTP_LLM_TRIED_STEP  4


static const char *ngx_http_llm_next_reason(ngx_uint_t reason);
static ngx_int_t ngx_http_llm_next_note(ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_request_lost(ngx_http_llm_ctx_t *ctx);


/* NGX_OK: ctx has another engine and is to be submitted */

ngx_int_t
ngx_http_llm_next(ngx_http_llm_ctx_t *ctx, ngx_uint_t reason)
{
    ngx_uint_t                level;
    ngx_http_request_t       *r;
    ngx_http_llm_engine_t    *last;
    ngx_http_llm_session_t   *session, *next;
    ngx_http_llm_loc_conf_t  *llcf;

    r = ctx->request;
    llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);

    if (ctx->finalized
        || ctx->failed
        || ctx->lost.status
        || r->header_sent
        || r->connection->error
        || (llcf->next_engine & NGX_HTTP_LLM_NEXT_OFF)
        || (llcf->next_engine & reason) == 0
        || (llcf->next_tries && ctx->ntried + 1 >= llcf->next_tries)
        || (llcf->next_timeout
            && ngx_current_msec - ctx->first_try >= llcf->next_timeout))
    {
        return NGX_DECLINED;
    }

    last = ctx->engine;
    session = ctx->session;

    if (ngx_http_llm_next_note(ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_http_llm_choose(ctx) != NGX_OK) {
        ctx->ntried--;
        return NGX_DECLINED;
    }

    level = (reason == NGX_HTTP_LLM_NEXT_BUSY) ? NGX_LOG_INFO : NGX_LOG_WARN;

    ngx_log_error(level, r->connection->log, 0,
                  "engine \"%V\" %s, request %V goes to engine \"%V\"",
                  &last->name, ngx_http_llm_next_reason(reason),
                  &ctx->request_id, &ctx->engine->name);

    /* out of the last one's queues and tables first */

    next = ctx->session;
    ctx->session = session;

    ngx_http_llm_request_reset(ctx);

    ctx->session = next;

    ngx_add_timer(&ctx->timer, llcf->read_timeout);

    return NGX_OK;
}


static const char *
ngx_http_llm_next_reason(ngx_uint_t reason)
{
    switch (reason) {

    case NGX_HTTP_LLM_NEXT_ERROR:
        return "was lost";

    case NGX_HTTP_LLM_NEXT_TIMEOUT:
        return "has not answered in time";

    default:
        return "is busy";
    }
}


static ngx_int_t
ngx_http_llm_next_note(ngx_http_llm_ctx_t *ctx)
{
    ngx_http_llm_try_t  *tried;

    if (ctx->ntried % NGX_HTTP_LLM_TRIED_STEP == 0) {

        tried = ngx_palloc(ctx->request->pool,
                           (ctx->ntried + NGX_HTTP_LLM_TRIED_STEP)
                           * sizeof(ngx_http_llm_try_t));
        if (tried == NULL) {
            return NGX_ERROR;
        }

        if (ctx->ntried) {
            ngx_memcpy(tried, ctx->tried,
                       ctx->ntried * sizeof(ngx_http_llm_try_t));
        }

        ctx->tried = tried;
    }

    ctx->tried[ctx->ntried].engine = ctx->engine;
    ctx->tried[ctx->ntried].session = ctx->session;
    ctx->ntried++;

    return NGX_OK;
}


/*
 * Records have come.  1: they are not for the client, either because another
 * engine has the request now, or because a head alone says nothing yet and
 * sending it would rule out another engine.
 */

ngx_uint_t
ngx_http_llm_next_answer(ngx_http_llm_ctx_t *ctx)
{
    ngx_uint_t                reason;
    ngx_http_llm_loc_conf_t  *llcf;

    if (ctx->finalized
        || ctx->failed
        || ctx->cancelled
        || ctx->prompted
        || ctx->request->header_sent)
    {
        return 0;
    }

    llcf = ngx_http_get_module_loc_conf(ctx->request, ngx_http_llm_module);

    if (llcf->next_engine & NGX_HTTP_LLM_NEXT_OFF) {
        return 0;
    }

    if (ctx->have_head
        && ctx->head.status == NGX_HTTP_SERVICE_UNAVAILABLE)
    {
        reason = NGX_HTTP_LLM_NEXT_BUSY;

    } else if (ctx->have_end && !ctx->have_head) {

        if (ctx->end.reason == LLM_FINISH_CLIENT_ABORT
            || ctx->end.reason == LLM_FINISH_DEADLINE)
        {
            return 0;
        }

        reason = NGX_HTTP_LLM_NEXT_ERROR;

    } else {

        if (ctx->have_end
            || ctx->pending
            || ctx->first_model->nengines + ctx->first_model->nfallbacks == 1)
        {
            return 0;
        }

        ngx_add_timer(&ctx->timer, llcf->read_timeout);

        return 1;
    }

    if (ngx_http_llm_next(ctx, reason) != NGX_OK) {
        return 0;
    }

    ngx_http_llm_request_submit(ctx);

    return 1;
}


/* the one way for what has gone wrong before the end of an answer */

void
ngx_http_llm_request_fail(ngx_http_llm_ctx_t *ctx, ngx_uint_t reason,
    ngx_uint_t status, const char *code, const char *message)
{
    if (ngx_http_llm_next(ctx, reason) == NGX_OK) {
        ngx_http_llm_request_submit(ctx);
        return;
    }

    ngx_http_llm_output_lost(ctx, status, code, message);
}


/*
 * Ends every request of a session that is lost, hung or refused, or passes it
 * on.  One that is ended may take others along, so each step begins at the
 * table again.
 */

void
ngx_http_llm_session_fail_requests(ngx_http_llm_session_t *s)
{
    uint32_t             i;
    ngx_queue_t         *q;
    ngx_http_llm_ctx_t  *ctx;

    ngx_http_llm_probe_lost(s);

    for (i = 0; s->slots && i < s->nslots; i++) {

        ctx = s->slots[i].ctx;

        if (ctx) {
            ngx_http_llm_request_lost(ctx);
        }
    }

    while (!ngx_queue_empty(&s->waiting)) {
        q = ngx_queue_head(&s->waiting);
        ngx_http_llm_request_lost(ngx_queue_data(q, ngx_http_llm_ctx_t,
                                                 waiting));
    }
}


static void
ngx_http_llm_request_lost(ngx_http_llm_ctx_t *ctx)
{
    ngx_uint_t               reason;
    ngx_connection_t        *c;
    ngx_http_llm_session_t  *s;

    s = ctx->session;
    c = ctx->request->connection;

    ngx_http_set_log_request(c->log, ctx->request);

    if (ctx->lingering) {
        ngx_http_llm_client_release(ctx);
        goto done;
    }

    /* the slots go with the session; nobody may point into them */

    if (ngx_http_llm_client_taken(ctx)) {
        ngx_http_llm_request_detach(ctx, LLM_FINISH_CLIENT_ABORT);
        return;
    }

    if (ctx->lost.status) {
        ngx_http_llm_output_lost_now(ctx);
        goto done;
    }

    if (ctx->finalized) {
        ngx_http_llm_request_detach(ctx, ctx->finish);
        return;
    }

    reason = (s->hung || s->suspect) ? NGX_HTTP_LLM_NEXT_TIMEOUT
                                     : NGX_HTTP_LLM_NEXT_ERROR;

    ngx_http_llm_request_fail(ctx, reason, NGX_HTTP_SERVICE_UNAVAILABLE,
                              ctx->submitted ? "engine_lost"
                                             : "engine_unavailable",
                              ctx->submitted
                              ? "The engine was lost."
                              : ngx_http_llm_session_message(s));

done:

    ngx_http_run_posted_requests(c);
}


/* $llm_engine: all that were tried, as in $upstream_addr: "a, b" */

ngx_int_t
ngx_http_llm_engine_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    u_char              *p;
    size_t               len;
    ngx_uint_t           i;
    ngx_http_llm_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_llm_module);

    if (ctx == NULL || ctx->engine == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }

    len = ctx->engine->name.len;

    for (i = 0; i < ctx->ntried; i++) {
        len += ctx->tried[i].engine->name.len + 2;
    }

    p = ngx_pnalloc(r->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    v->data = p;

    for (i = 0; i < ctx->ntried; i++) {
        p = ngx_sprintf(p, "%V, ", &ctx->tried[i].engine->name);
    }

    p = ngx_cpymem(p, ctx->engine->name.data, ctx->engine->name.len);

    v->len = p - v->data;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}
