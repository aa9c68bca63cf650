
/*
 * ngx_http_llm_record.c - what the engine says: records into requests, and
 * requests to clients.
 *
 * Two passes: copy the bytes of up to 256 records into their requests, then
 * flush every touched request once, so that a step of the engine is one write
 * for each client.
 */


#include "ngx_http_llm.h"


static const char *ngx_http_llm_record(ngx_http_llm_session_t *s,
    struct llm_ring_record *rec);
static const char *ngx_http_llm_record_head(ngx_http_llm_ctx_t *ctx,
    struct llm_ring_record *rec);
static const char *ngx_http_llm_record_prompt(ngx_http_llm_ctx_t *ctx,
    struct llm_ring_record *rec);
static const char *ngx_http_llm_record_data(ngx_http_llm_ctx_t *ctx,
    struct llm_ring_record *rec);
static const char *ngx_http_llm_record_end(ngx_http_llm_session_t *s,
    uint32_t slot, struct llm_ring_record *rec);
static void ngx_http_llm_request_touch(ngx_http_llm_ctx_t *ctx);


/* first pass: records into requests; second pass: requests to clients */

void
ngx_http_llm_session_drain(ngx_http_llm_session_t *s)
{
    int                     rc;
    ssize_t                 n;
    uint64_t                one;
    ngx_uint_t              records, asleep;
    const char             *why;
    struct llm_ring_record  rec;

    why = NULL;
    asleep = 0;
    records = 0;

    llm_ring_cqc_awake(&s->cq);

    while (why == NULL && !asleep && records < NGX_HTTP_LLM_RECORDS_PER_EVENT)
    {
        rc = LLM_OK;

        while (records < NGX_HTTP_LLM_RECORDS_PER_EVENT) {

            rc = llm_ring_cqc_next(&s->cq, &rec);
            if (rc != LLM_OK) {
                break;
            }

            why = ngx_http_llm_record(s, &rec);
            if (why) {
                break;
            }

            llm_ring_cqc_pop(&s->cq);
            records++;
        }

        if (rc == LLM_ERROR) {
            why = s->cq.error;
            break;
        }

        if (llm_ring_cqc_release(&s->cq)) {
            one = 1;
            n = write(s->kick_engine, &one, sizeof(one));
            (void) n;
        }

        if (rc == LLM_AGAIN) {
            asleep = llm_ring_cqc_sleep(&s->cq);
        }
    }

    if (why) {
        ngx_http_llm_session_flush(s);
        ngx_http_llm_session_fail(s, why);
        return;
    }

    if (!asleep) {
        ngx_post_event(s->kick->read, &ngx_posted_next_events);
    }

    ngx_http_llm_session_flush(s);

    if (s->state == NGX_HTTP_LLM_UP && (s->nwaiting || s->ncancels)) {
        ngx_http_llm_session_push_waiting(s);
    }
}


/* NULL, or how the engine broke the protocol */

static const char *
ngx_http_llm_record(ngx_http_llm_session_t *s, struct llm_ring_record *rec)
{
    uint32_t              slot;
    const char           *why;
    ngx_http_llm_ctx_t   *ctx;
    ngx_http_llm_slot_t  *sl;

    slot = llm_req_slot(rec->req_id);

    if (slot >= s->nslots) {
        return "record for a slot that does not exist";
    }

    sl = &s->slots[slot];

    if (!sl->busy || sl->generation != llm_req_generation(rec->req_id)) {

        /* an old one; nothing follows END, but ids are cheap to check */

        return NULL;
    }

    if (sl->probe) {
        return ngx_http_llm_probe_record(s, rec);
    }

    ctx = sl->ctx;

    if (rec->type == LLM_RECORD_END) {
        return ngx_http_llm_record_end(s, slot, rec);
    }

    if (ctx == NULL) {
        return NULL;
    }

    switch (rec->type) {

    case LLM_RECORD_HEAD:
        why = ngx_http_llm_record_head(ctx, rec);
        break;

    case LLM_RECORD_DATA:
        why = ngx_http_llm_record_data(ctx, rec);
        break;

    case LLM_RECORD_PROMPT:
        why = ngx_http_llm_record_prompt(ctx, rec);
        break;

    default:
        why = "record of a type nobody asked for";
        break;
    }

    if (why == NULL && sl->ctx == ctx) {
        ngx_http_llm_request_touch(ctx);
    }

    return why;
}


static const char *
ngx_http_llm_record_head(ngx_http_llm_ctx_t *ctx, struct llm_ring_record *rec)
{
    const char  *why;

    if (ctx->have_head) {
        return "second HEAD";
    }

    if (llm_wire_decode_head(&ctx->head, rec->data, rec->len, &why) != LLM_OK)
    {
        return why;
    }

    ctx->have_head = 1;

    return NULL;
}


/* sent only to those who ask, once, and before anything else */

static const char *
ngx_http_llm_record_prompt(ngx_http_llm_ctx_t *ctx,
    struct llm_ring_record *rec)
{
    const char           *why;
    ngx_http_llm_slot_t  *sl;

    sl = &ctx->session->slots[ctx->slot];

    if (!ctx->want_prompt || sl->asked || ctx->have_head || ctx->is_waiting) {
        return "PROMPT that nobody asked for";
    }

    if (llm_wire_decode_prompt(&ctx->prompt, rec->data, rec->len, &why)
        != LLM_OK)
    {
        return why;
    }

    sl->asked = 1;
    ctx->prompted = !ctx->cancelled;

    return NULL;
}


static const char *
ngx_http_llm_record_data(ngx_http_llm_ctx_t *ctx, struct llm_ring_record *rec)
{
    ngx_http_llm_reservation_t  *res;

    if (!ctx->have_head) {
        return "DATA before HEAD";
    }

    if (rec->len == 0 || ctx->cancelled) {
        return NULL;
    }

    ctx->body_bytes += rec->len;

    if (ctx->head.content_length >= 0
        && ctx->body_bytes > (uint64_t) ctx->head.content_length)
    {
        return "more DATA than HEAD announced";
    }

    if (ctx->first_data == 0) {
        ctx->first_data = ngx_http_llm_now();
    }

    res = ctx->session->slots[ctx->slot].reservation;

    if (res && (ctx->head.flags & LLM_HEAD_STREAM)) {
        ngx_http_llm_limit_data(res, rec->data, rec->len);
    }

    if (ngx_http_llm_output_append(ctx, rec->data, rec->len) != NGX_OK) {

        /* out of memory, or out of patience with a client that never reads */

        ctx->failed = 1;
    }

    return NULL;
}


static const char *
ngx_http_llm_record_end(ngx_http_llm_session_t *s, uint32_t slot,
    struct llm_ring_record *rec)
{
    const char          *why;
    struct llm_end       end;
    ngx_http_llm_ctx_t  *ctx;

    if (llm_wire_decode_end(&end, rec->data, rec->len, &why) != LLM_OK) {
        return why;
    }

    ctx = s->slots[slot].ctx;

    ngx_http_llm_limit_settle(s->slots[slot].reservation, &end);
    s->slots[slot].reservation = NULL;

    ngx_http_llm_slot_free(s, slot);

    if (ctx == NULL) {
        return NULL;
    }

    ctx->slot = NGX_HTTP_LLM_NO_SLOT;
    ctx->end = end;
    ctx->have_end = 1;
    ctx->prompted = 0;
    ctx->ended = ngx_http_llm_now();

    if (!ctx->cancelled) {
        ctx->finish = end.reason;
    }

    if (ctx->is_waiting) {

        /* the engine knows its answer before it has seen the whole body */

        ngx_queue_remove(&ctx->waiting);
        ctx->is_waiting = 0;
        s->nwaiting--;
    }

    ngx_log_debug4(NGX_LOG_DEBUG_HTTP, ctx->request->connection->log, 0,
                   "llm: end of request %V: %s, prompt:%uD completion:%uD",
                   &ctx->request_id, llm_wire_finish_name(end.reason),
                   end.prompt_tokens, end.completion_tokens);

    ngx_http_llm_request_touch(ctx);

    return NULL;
}


static void
ngx_http_llm_request_touch(ngx_http_llm_ctx_t *ctx)
{
    if (!ctx->is_touched) {
        ngx_queue_insert_tail(&ctx->session->touched, &ctx->touched);
        ctx->is_touched = 1;
    }
}


/* a flush may end its request, and others of the same client with it */

void
ngx_http_llm_session_flush(ngx_http_llm_session_t *s)
{
    ngx_queue_t         *q;
    ngx_connection_t    *c;
    ngx_http_llm_ctx_t  *ctx;

    while (!ngx_queue_empty(&s->touched)) {

        q = ngx_queue_head(&s->touched);
        ctx = ngx_queue_data(q, ngx_http_llm_ctx_t, touched);

        ngx_queue_remove(q);
        ctx->is_touched = 0;

        if (ngx_http_llm_client_taken(ctx)) {
            continue;
        }

        c = ctx->request->connection;

        ngx_http_set_log_request(c->log, ctx->request);

        if (!ngx_http_llm_next_answer(ctx)) {
            ngx_http_llm_output_records(ctx);
        }

        ngx_http_run_posted_requests(c);
    }
}
