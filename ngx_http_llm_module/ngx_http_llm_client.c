
/*
 * ngx_http_llm_client.c - a client that leaves: seen, cancelled, and let go
 * when the engine has said what the request has cost.
 *
 * However a client is lost, nginx ends in ngx_http_terminate_request(), and
 * that runs the cleanups before anything is logged or freed: closed, half-
 * closed or reset connection, RST_STREAM, failed or timed out send, a parent
 * of this subrequest, worker_shutdown_timeout.  The cleanup sends CANCEL and
 * holds the request by r->main->blocked, as an operation of aio would, until
 * END is there: every phase of the log then sees exact numbers, and whoever
 * counts tokens settles them once.  c->error keeps nginx from sending anything.
 *
 * The wait is bounded by NGX_HTTP_LLM_END_TIMEOUT, and ends at once with the
 * session.  Its timer is not cancelable: a leaving worker waits for it.
 */


#include "ngx_http_llm.h"


/*
 * A client that half-closes or resets while its body is read has left an edge
 * behind that comes no second time, so the read event is run once.
 */

ngx_int_t
ngx_http_llm_client_watch(ngx_http_llm_ctx_t *ctx)
{
    ngx_event_t              *rev;
    ngx_http_request_t       *r;
    ngx_http_llm_loc_conf_t  *llcf;

    r = ctx->request;
    rev = r->connection->read;
    llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);

    r->write_event_handler = ngx_http_llm_write_handler;

    if (llcf->ignore_client_abort || r->post_action) {
        r->read_event_handler = ngx_http_block_reading;
        return NGX_OK;
    }

    r->read_event_handler = ngx_http_test_reading;

    if (rev->ready) {
        ngx_post_event(rev, &ngx_posted_events);
        return NGX_OK;
    }

    return ngx_handle_read_event(rev, 0);
}


/*
 * 1: nginx has taken the request elsewhere while the engine was at it, with
 * post_action for a client that has left or after a failed filter.  What comes
 * now belongs to nobody; only what it has cost is waited for.
 */

ngx_uint_t
ngx_http_llm_client_taken(ngx_http_llm_ctx_t *ctx)
{
    if (ctx->lingering
        || ngx_http_get_module_ctx(ctx->request, ngx_http_llm_module) == ctx)
    {
        return 0;
    }

    if (!ctx->finalized) {
        ctx->finalized = 1;

        if (ngx_http_llm_request_cancel(ctx, LLM_FINISH_CLIENT_ABORT)
            != NGX_AGAIN)
        {
            ngx_http_llm_request_detach(ctx, LLM_FINISH_CLIENT_ABORT);
        }
    }

    return 1;
}


/* the single place where a request that dies is cancelled */

void
ngx_http_llm_client_cleanup(void *data)
{
    ngx_http_llm_ctx_t *ctx = data;

    ngx_event_t         *wev;
    ngx_http_request_t  *mr;

    ctx->finalized = 1;

    if (ctx->session == NULL) {
        ngx_http_llm_status_end(ctx);
        return;
    }

    mr = ctx->request->main;

    /* nobody counts on it any more when nginx is about to free the request */

    if (mr->count == 0
        || ngx_http_llm_request_cancel(ctx, LLM_FINISH_CLIENT_ABORT)
           != NGX_AGAIN)
    {
        ngx_http_llm_request_detach(ctx, LLM_FINISH_CLIENT_ABORT);
        ngx_http_llm_status_end(ctx);
        return;
    }

    ctx->lingering = 1;

    mr->blocked++;
    mr->connection->error = 1;
    mr->read_event_handler = ngx_http_block_reading;

    wev = mr->connection->write;

    if (wev->timer_set) {
        ngx_del_timer(wev);
    }
}


/*
 * END is there, or will not come.  The request may be freed by the next
 * ngx_http_run_posted_requests(), which is left to the caller.
 */

void
ngx_http_llm_client_release(ngx_http_llm_ctx_t *ctx)
{
    ngx_http_request_t  *mr;

    mr = ctx->request->main;

    ctx->lingering = 0;
    ngx_http_llm_request_detach(ctx, ctx->finish);
    ngx_http_llm_status_end(ctx);

    mr->blocked--;

    /* the last of several that wait ends the request once more, for good */

    if (mr->blocked == 0) {
        ngx_http_finalize_request(mr, NGX_ERROR);
    }
}


/* llm_read_timeout: nothing has come; or the wait for END is over */

void
ngx_http_llm_client_timeout_handler(ngx_event_t *ev)
{
    ngx_connection_t         *c;
    ngx_http_llm_ctx_t       *ctx;
    ngx_http_llm_loc_conf_t  *llcf;

    ctx = ev->data;
    c = ctx->request->connection;

    ngx_http_set_log_request(c->log, ctx->request);

    if (ctx->lingering) {
        ngx_log_error(NGX_LOG_WARN, c->log, NGX_ETIMEDOUT,
                      "engine \"%V\" has not ended a cancelled request",
                      &ctx->engine->name);

        ngx_http_llm_client_release(ctx);
        goto done;
    }

    if (ngx_http_llm_client_taken(ctx)) {
        ngx_http_llm_request_detach(ctx, LLM_FINISH_CLIENT_ABORT);
        return;
    }

    if (ctx->lost.status) {
        ngx_http_llm_output_lost_now(ctx);
        goto done;
    }

    if (ctx->finalized) {
        return;
    }

    if (ctx->parked || ctx->busy) {

        /* it is the client who is slow, and send_timeout's business */

        llcf = ngx_http_get_module_loc_conf(ctx->request,
                                            ngx_http_llm_module);
        ngx_add_timer(&ctx->timer, llcf->read_timeout);
        return;
    }

    ngx_log_error(NGX_LOG_ERR, c->log, NGX_ETIMEDOUT,
                  "engine \"%V\" timed out", &ctx->engine->name);

    ngx_http_llm_request_fail(ctx, NGX_HTTP_LLM_NEXT_TIMEOUT,
                              NGX_HTTP_GATEWAY_TIME_OUT, "timeout",
                              "The engine has not answered in time.");

done:

    ngx_http_run_posted_requests(c);
}
