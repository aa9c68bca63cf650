
/*
 * ngx_http_llm_request.c - a request's way into the engine: a slot, its
 * descriptors, CANCEL, and what becomes of it when the engine is lost.
 *
 * What does not fit now waits in a bounded queue, in order, and goes on when
 * the engine moves sq_head or a slot comes back.  What is cancelled keeps its
 * slot until the engine's END; only who does not wait for END leaves the slot
 * behind without a context.
 */


#include "ngx_http_llm.h"


static ngx_int_t ngx_http_llm_request_enter(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_request_push(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_request_push_first(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_request_push_chunk(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_request_meta(ngx_http_llm_ctx_t *ctx,
    uint8_t *buf, uint32_t *len);
static ngx_int_t ngx_http_llm_request_copy_body(ngx_http_llm_ctx_t *ctx,
    u_char *dst, size_t size);
static ngx_int_t ngx_http_llm_slot_get(ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_slot_go(ngx_http_llm_session_t *s, uint32_t slot,
    ngx_uint_t go);
static void ngx_http_llm_slot_control(ngx_http_llm_session_t *s, uint32_t slot,
    ngx_uint_t op, ngx_uint_t value, uint8_t *later, ngx_uint_t kept);
static void ngx_http_llm_session_push_cancels(ngx_http_llm_session_t *s);


/*
 * Sends the request or puts it into the queue, here or of another engine that
 * has room.  What goes wrong is told to the client from here, so the context
 * may be gone afterwards.
 */

void
ngx_http_llm_request_submit(ngx_http_llm_ctx_t *ctx)
{
    ngx_int_t  rc;

    do {
        rc = ngx_http_llm_request_enter(ctx);

    } while (rc == NGX_BUSY
             && ngx_http_llm_next(ctx, NGX_HTTP_LLM_NEXT_BUSY) == NGX_OK);

    if (rc == NGX_BUSY) {
        ngx_http_llm_output_lost(ctx, NGX_HTTP_SERVICE_UNAVAILABLE,
                                 "queue_full",
                                 "Too many requests are waiting.");

    } else if (rc == NGX_ERROR) {
        ngx_http_llm_output_lost(ctx, NGX_HTTP_INTERNAL_SERVER_ERROR,
                                 "internal_error",
                                 "The request could not be passed on.");
    }
}


/* NGX_OK: it is in the ring or in the queue, or even over; NGX_BUSY: neither */

static ngx_int_t
ngx_http_llm_request_enter(ngx_http_llm_ctx_t *ctx)
{
    ngx_int_t                rc;
    ngx_http_llm_session_t  *s;

    s = ctx->session;

    if (s->state == NGX_HTTP_LLM_UP && s->nwaiting == 0) {

        rc = ngx_http_llm_request_push(ctx);

        if (rc == NGX_OK) {
            ngx_http_llm_request_publish(s);
            ngx_http_llm_session_watch_pulse(s);
            return NGX_OK;
        }

        if (rc == NGX_ERROR) {
            return NGX_ERROR;
        }
    }

    if (s->nwaiting >= s->queue_max) {
        return NGX_BUSY;
    }

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, ctx->request->connection->log, 0,
                   "llm: request waits, %ui before it", s->nwaiting);

    ngx_queue_insert_tail(&s->waiting, &ctx->waiting);
    ctx->is_waiting = 1;
    s->nwaiting++;

    if (s->state == NGX_HTTP_LLM_UP) {
        ngx_http_llm_session_watch_pulse(s);
        ngx_http_llm_session_push_waiting(s);
    }

    return NGX_OK;
}


/* NGX_AGAIN: no slot or no room; what was pushed stays pushed */

static ngx_int_t
ngx_http_llm_request_push(ngx_http_llm_ctx_t *ctx)
{
    ngx_int_t                rc;
    ngx_http_llm_session_t  *s;

    s = ctx->session;

    if (!ctx->submitted) {

        rc = ngx_http_llm_request_push_first(ctx);
        if (rc != NGX_OK) {
            goto done;
        }
    }

    while (ctx->body_sent < ctx->body_size) {

        rc = ngx_http_llm_request_push_chunk(ctx);
        if (rc != NGX_OK) {
            goto done;
        }
    }

    rc = NGX_OK;

done:

    if (s->sq.error) {
        ngx_http_llm_session_fail_later(s, s->sq.error);
        return NGX_AGAIN;
    }

    return rc;
}


static ngx_int_t
ngx_http_llm_request_push_first(ngx_http_llm_ctx_t *ctx)
{
    u_char                  *p;
    uint8_t                  meta[LLM_META_BYTES_MAX];
    uint32_t                 meta_len, body_len;
    uint64_t                 total;
    struct llm_sqe           sqe;
    ngx_http_llm_session_t  *s;

    s = ctx->session;

    if (ngx_http_llm_request_meta(ctx, meta, &meta_len) != NGX_OK) {
        return NGX_ERROR;
    }

    total = meta_len + (uint64_t) ctx->body_size;
    body_len = (uint32_t) (ngx_min(total, llm_ring_sq_chunk_max(&s->sq))
                           - meta_len);

    p = llm_ring_sq_reserve(&s->sq, meta_len + body_len);
    if (p == NULL) {
        return NGX_AGAIN;
    }

    p = ngx_cpymem(p, meta, meta_len);

    if (ngx_http_llm_request_copy_body(ctx, p, body_len) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_http_llm_slot_get(ctx) != NGX_OK) {
        ctx->in = ctx->request->request_body
                  ? ctx->request->request_body->bufs : NULL;
        ctx->in_off = 0;
        return NGX_AGAIN;
    }

    ngx_memzero(&sqe, sizeof(struct llm_sqe));

    sqe.op = LLM_OP_SUBMIT;
    sqe.route = (uint16_t) ctx->route;
    sqe.meta_bytes = meta_len;
    sqe.req_id = ctx->req_id;
    sqe.len = meta_len + body_len;
    sqe.total_bytes = total;
    sqe.arrival_ns = ctx->arrival;
    sqe.deadline_ns = ctx->deadline;
    sqe.priority = ctx->priority;

    if ((off_t) body_len < ctx->body_size) {
        sqe.flags |= LLM_SQE_MORE;
    }

    if (ctx->want_prompt) {
        sqe.flags |= LLM_SQE_WANT_PROMPT;
    }

    if (ctx->request->method == NGX_HTTP_HEAD) {
        sqe.flags |= LLM_SQE_HEAD;
    }

    if (llm_ring_sq_push(&s->sq, &sqe) != LLM_OK) {
        ngx_http_llm_slot_free(s, ctx->slot);
        ctx->slot = NGX_HTTP_LLM_NO_SLOT;
        ctx->in = ctx->request->request_body
                  ? ctx->request->request_body->bufs : NULL;
        ctx->in_off = 0;
        return NGX_AGAIN;
    }

    s->unpublished = 1;
    ctx->submitted = 1;
    ctx->body_sent = body_len;

    ngx_log_debug4(NGX_LOG_DEBUG_HTTP, ctx->request->connection->log, 0,
                   "llm: submit %V id:%uL route:%ui bytes:%O",
                   &ctx->request_id, ctx->req_id, ctx->route, ctx->body_size);

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_request_push_chunk(ngx_http_llm_ctx_t *ctx)
{
    u_char                  *p;
    off_t                    left;
    uint32_t                 len;
    struct llm_sqe           sqe;
    ngx_http_llm_session_t  *s;

    s = ctx->session;

    left = ctx->body_size - ctx->body_sent;
    len = (uint32_t) ngx_min(left, (off_t) llm_ring_sq_chunk_max(&s->sq));

    if (llm_ring_sq_room(&s->sq) == 0) {
        return NGX_AGAIN;
    }

    p = llm_ring_sq_reserve(&s->sq, len);
    if (p == NULL) {
        return NGX_AGAIN;
    }

    if (ngx_http_llm_request_copy_body(ctx, p, len) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_memzero(&sqe, sizeof(struct llm_sqe));

    sqe.op = LLM_OP_CHUNK;
    sqe.req_id = ctx->req_id;
    sqe.len = len;

    if (left > (off_t) len) {
        sqe.flags |= LLM_SQE_MORE;
    }

    if (llm_ring_sq_push(&s->sq, &sqe) != LLM_OK) {
        return NGX_ERROR;
    }

    s->unpublished = 1;
    ctx->body_sent += len;

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_request_meta(ngx_http_llm_ctx_t *ctx, uint8_t *buf, uint32_t *len)
{
    u_char               key_id[NGX_HTTP_LLM_KEY_ID_LEN];
    ngx_str_t           *model;
    struct llm_bytes     value;
    ngx_http_request_t  *r;

    r = ctx->request;
    *len = 0;

    value.data = ctx->request_id.data;
    value.len = (uint32_t) ctx->request_id.len;

    if (llm_wire_encode_meta(buf, LLM_META_BYTES_MAX, len,
                             LLM_META_REQUEST_ID, value)
        != LLM_OK)
    {
        return NGX_ERROR;
    }

    /* an llm_model overrides the body; an empty name is the engine's default */

    model = ctx->model->is_engine ? &ctx->model_id : &ctx->model->sent;

    if (model->len || !ctx->model->is_engine) {
        value.data = model->len ? model->data : (u_char *) "";
        value.len = (uint32_t) model->len;

        if (llm_wire_encode_meta(buf, LLM_META_BYTES_MAX, len,
                                 LLM_META_MODEL, value)
            != LLM_OK)
        {
            return NGX_ERROR;
        }
    }

    if (ngx_http_llm_key_id(r, key_id) == NGX_OK) {
        value.data = key_id;
        value.len = NGX_HTTP_LLM_KEY_ID_LEN;

        if (llm_wire_encode_meta(buf, LLM_META_BYTES_MAX, len,
                                 LLM_META_KEY_ID, value)
            != LLM_OK)
        {
            return NGX_ERROR;
        }
    }

    if (ctx->max_tokens
        && llm_wire_encode_meta_u32(buf, LLM_META_BYTES_MAX, len,
                                    LLM_META_MAX_TOKENS, ctx->max_tokens)
           != LLM_OK)
    {
        return NGX_ERROR;
    }

    if (ctx->cache_salt.len) {
        value.data = ctx->cache_salt.data;
        value.len = (uint32_t) ctx->cache_salt.len;

        if (llm_wire_encode_meta(buf, LLM_META_BYTES_MAX, len,
                                 LLM_META_CACHE_SALT, value)
            != LLM_OK)
        {
            return NGX_ERROR;
        }
    }

    value.data = r->uri.data;
    value.len = (uint32_t) ngx_min(r->uri.len, LLM_URI_BYTES_MAX);

    if (llm_wire_encode_meta(buf, LLM_META_BYTES_MAX, len, LLM_META_URI, value)
        != LLM_OK)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* the body lies in memory, in a temporary file, or in both */

static ngx_int_t
ngx_http_llm_request_copy_body(ngx_http_llm_ctx_t *ctx, u_char *dst,
    size_t size)
{
    off_t       left;
    size_t      n;
    ssize_t     rc;
    ngx_buf_t  *b;

    while (size) {

        if (ctx->in == NULL) {
            return NGX_ERROR;
        }

        b = ctx->in->buf;
        left = ngx_buf_size(b) - ctx->in_off;

        if (left <= 0) {
            ctx->in = ctx->in->next;
            ctx->in_off = 0;
            continue;
        }

        n = (size_t) ngx_min((off_t) size, left);

        if (ngx_buf_in_memory(b)) {
            ngx_memcpy(dst, b->pos + ctx->in_off, n);

        } else {
            rc = ngx_read_file(b->file, dst, n, b->file_pos + ctx->in_off);

            if (rc <= 0) {
                if (rc == 0) {
                    ngx_log_error(NGX_LOG_ERR, ctx->request->connection->log,
                                  0, "request body file \"%V\" is cut short",
                                  &b->file->name);
                }

                return NGX_ERROR;
            }

            n = (size_t) rc;
        }

        dst += n;
        size -= n;
        ctx->in_off += n;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_slot_get(ngx_http_llm_ctx_t *ctx)
{
    ngx_http_llm_slot_t     *slot;
    ngx_http_llm_session_t  *s;

    s = ctx->session;

    if (s->free_slot == NGX_HTTP_LLM_NO_SLOT) {
        return NGX_AGAIN;
    }

    ctx->slot = s->free_slot;
    slot = &s->slots[ctx->slot];

    s->free_slot = slot->next;
    s->busy++;

    ngx_http_llm_session_count(s, 1);

    slot->busy = 1;
    slot->cancel = 0;
    slot->go = 0;
    slot->asked = 0;
    slot->reservation = NULL;
    slot->ctx = ctx;
    slot->generation = ++s->serial;

    ctx->req_id = llm_req_id(ctx->slot, slot->generation);

    return NGX_OK;
}


void
ngx_http_llm_slot_free(ngx_http_llm_session_t *s, uint32_t slot)
{
    if (s->slots[slot].cancel) {
        s->slots[slot].cancel = 0;
        s->ncancels--;
    }

    if (s->slots[slot].go) {
        s->slots[slot].go = 0;
        s->ncancels--;
    }

    s->slots[slot].busy = 0;
    s->slots[slot].probe = 0;
    s->slots[slot].ctx = NULL;
    s->slots[slot].next = s->free_slot;

    s->free_slot = slot;
    s->busy--;

    ngx_http_llm_session_count(s, -1);
}


void
ngx_http_llm_slot_cancel(ngx_http_llm_session_t *s, uint32_t slot,
    ngx_uint_t finish)
{
    ngx_http_llm_slot_control(s, slot, LLM_OP_CANCEL, finish,
                              &s->slots[slot].cancel, finish);
}


/*
 * CANCEL or GO.  One that finds no room is kept with the slot, because it must
 * not be lost: *later is what it is kept as.
 */

static void
ngx_http_llm_slot_control(ngx_http_llm_session_t *s, uint32_t slot,
    ngx_uint_t op, ngx_uint_t value, uint8_t *later, ngx_uint_t kept)
{
    struct llm_sqe  sqe;

    ngx_memzero(&sqe, sizeof(struct llm_sqe));

    sqe.op = (uint8_t) op;
    sqe.req_id = llm_req_id(slot, s->slots[slot].generation);
    sqe.value = value;

    if (llm_ring_sq_push(&s->sq, &sqe) == LLM_OK) {

        if (*later) {
            *later = 0;
            s->ncancels--;
        }

        s->unpublished = 1;
        return;
    }

    if (*later == 0) {
        *later = (uint8_t) kept;
        s->ncancels++;
    }

    if (s->sq.error) {
        ngx_http_llm_session_fail_later(s, s->sq.error);
        return;
    }

    /* asks for a kick at the next move of the ring */

    if (!llm_ring_sq_wait(&s->sq)) {
        ngx_post_event(s->kick->read, &ngx_posted_events);
    }
}


static void
ngx_http_llm_slot_go(ngx_http_llm_session_t *s, uint32_t slot, ngx_uint_t go)
{
    ngx_http_llm_slot_control(s, slot, LLM_OP_GO, go, &s->slots[slot].go,
                              go + 1);
}


static void
ngx_http_llm_session_push_cancels(ngx_http_llm_session_t *s)
{
    uint32_t  i;

    for (i = 0; i < s->nslots && s->ncancels; i++) {

        if (s->slots[i].go) {

            if (llm_ring_sq_room(&s->sq) == 0) {
                return;
            }

            ngx_http_llm_slot_go(s, i, s->slots[i].go - 1);
        }

        if (s->slots[i].cancel == 0) {
            continue;
        }

        if (llm_ring_sq_room(&s->sq) == 0) {
            return;
        }

        ngx_http_llm_slot_cancel(s, i, s->slots[i].cancel);
    }
}


/* one kick for all that was pushed since the last one */

void
ngx_http_llm_request_publish(ngx_http_llm_session_t *s)
{
    ssize_t   n;
    uint64_t  one;

    if (s->state != NGX_HTTP_LLM_UP || !s->unpublished) {
        return;
    }

    s->unpublished = 0;

    if (llm_ring_sq_publish(&s->sq)) {
        one = 1;
        n = write(s->kick_engine, &one, sizeof(one));
        (void) n;
    }
}


/* whatever has waited for the ring or for a slot, in order */

void
ngx_http_llm_session_push_waiting(ngx_http_llm_session_t *s)
{
    ngx_int_t            rc;
    ngx_uint_t           tries;
    ngx_queue_t         *q;
    ngx_connection_t    *c;
    ngx_http_llm_ctx_t  *ctx;

    for (tries = 0; tries < 4; tries++) {

        if (s->ncancels) {
            ngx_http_llm_session_push_cancels(s);
        }

        while (!ngx_queue_empty(&s->waiting)) {

            q = ngx_queue_head(&s->waiting);
            ctx = ngx_queue_data(q, ngx_http_llm_ctx_t, waiting);

            if (ngx_http_llm_client_taken(ctx)) {
                ngx_http_llm_request_detach(ctx, LLM_FINISH_CLIENT_ABORT);
                continue;
            }

            rc = ngx_http_llm_request_push(ctx);

            if (rc == NGX_AGAIN) {
                break;
            }

            ngx_queue_remove(&ctx->waiting);
            ctx->is_waiting = 0;
            s->nwaiting--;

            if (rc == NGX_ERROR) {
                c = ctx->request->connection;
                ngx_http_llm_output_lost(ctx, NGX_HTTP_INTERNAL_SERVER_ERROR,
                                         "internal_error", "The request "
                                         "could not be passed on.");
                ngx_http_run_posted_requests(c);
            }

            if (s->state != NGX_HTTP_LLM_UP) {
                return;
            }
        }

        s->unpublished = 1;
        ngx_http_llm_request_publish(s);

        if (ngx_queue_empty(&s->waiting) && s->ncancels == 0) {
            llm_ring_sq_unwait(&s->sq);
            return;
        }

        if (s->sq.error
            || s->free_slot == NGX_HTTP_LLM_NO_SLOT
            || llm_ring_sq_wait(&s->sq))
        {
            return;
        }
    }

    ngx_post_event(s->kick->read, &ngx_posted_next_events);
}


/* parks a request whose client reads slowly, or lets it run again */

void
ngx_http_llm_request_window(ngx_http_llm_ctx_t *ctx, ngx_uint_t open)
{
    struct llm_sqe           sqe;
    ngx_http_llm_session_t  *s;

    s = ctx->session;

    if (ctx->slot == NGX_HTTP_LLM_NO_SLOT
        || !ctx->submitted
        || ctx->parked == !open
        || s->state != NGX_HTTP_LLM_UP)
    {
        return;
    }

    ngx_memzero(&sqe, sizeof(struct llm_sqe));

    sqe.op = LLM_OP_WINDOW;
    sqe.req_id = ctx->req_id;
    sqe.value = open;

    /* no room now: asked for again at the next flush */

    if (llm_ring_sq_push(&s->sq, &sqe) == LLM_OK) {
        ctx->parked = !open;
        s->unpublished = 1;
        ngx_http_llm_request_publish(s);

        ngx_log_debug2(NGX_LOG_DEBUG_HTTP, ctx->request->connection->log, 0,
                       "llm: %s request id:%uL", open ? "resume" : "park",
                       ctx->req_id);

    } else if (s->sq.error) {
        ngx_http_llm_session_fail_later(s, s->sq.error);
    }
}


/* the answer to PROMPT; without "go" the slot stays behind until END */

void
ngx_http_llm_request_go(ngx_http_llm_ctx_t *ctx, ngx_uint_t go)
{
    ngx_http_llm_session_t  *s;

    s = ctx->session;

    if (s->state == NGX_HTTP_LLM_UP) {
        ngx_http_llm_slot_go(s, ctx->slot, go);
        ngx_http_llm_request_publish(s);
    }

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, ctx->request->connection->log, 0,
                   "llm: go:%ui id:%uL", go, ctx->req_id);

    if (!go) {
        ctx->cancelled = 1;
        ngx_http_llm_request_detach(ctx, LLM_FINISH_NONE);
    }
}


/*
 * The request shall end: out of all queues, CANCEL to the engine, once.
 * NGX_AGAIN: the engine is well and END will come, or else ctx->timer; until
 * then the slot keeps the context, and DATA is dropped.  NGX_DECLINED: there
 * is nothing to wait for.
 */

ngx_int_t
ngx_http_llm_request_cancel(ngx_http_llm_ctx_t *ctx, ngx_uint_t finish)
{
    ngx_http_llm_session_t  *s;

    s = ctx->session;

    if (ctx->slot == NGX_HTTP_LLM_NO_SLOT && !ctx->is_waiting) {
        return NGX_DECLINED;
    }

    if (!ctx->cancelled) {
        ctx->finish = finish;
    }

    if (ctx->is_waiting) {
        ngx_queue_remove(&ctx->waiting);
        ctx->is_waiting = 0;
        s->nwaiting--;
    }

    if (ctx->slot == NGX_HTTP_LLM_NO_SLOT || s->state != NGX_HTTP_LLM_UP) {
        return NGX_DECLINED;
    }

    if (!ctx->cancelled) {
        ctx->cancelled = 1;

        ngx_log_error(NGX_LOG_INFO, ctx->request->connection->log, 0,
                      "llm: cancel request %V: %s", &ctx->request_id,
                      llm_wire_finish_name((uint32_t) finish));

        ngx_add_timer(&ctx->timer, NGX_HTTP_LLM_END_TIMEOUT);

        ngx_http_llm_slot_cancel(s, ctx->slot, finish);
        ngx_http_llm_request_publish(s);
    }

    return s->hung ? NGX_DECLINED : NGX_AGAIN;
}


/*
 * The one way out for a request whose END has not come and is not waited for:
 * the slot stays behind without it.  May be called any number of times.
 */

void
ngx_http_llm_request_detach(ngx_http_llm_ctx_t *ctx, ngx_uint_t finish)
{
    (void) ngx_http_llm_request_cancel(ctx, finish);

    if (ctx->timer.timer_set) {
        ngx_del_timer(&ctx->timer);
    }

    if (ctx->is_touched) {
        ngx_queue_remove(&ctx->touched);
        ctx->is_touched = 0;
    }

    if (ctx->slot != NGX_HTTP_LLM_NO_SLOT) {
        ctx->session->slots[ctx->slot].ctx = NULL;
        ctx->slot = NGX_HTTP_LLM_NO_SLOT;
    }
}


/* as before the first submission: out of the engine, nothing received */

void
ngx_http_llm_request_reset(ngx_http_llm_ctx_t *ctx)
{
    ngx_http_llm_request_detach(ctx, LLM_FINISH_ENGINE_LOST);

    ngx_http_llm_output_drop(ctx);

    ctx->body_bytes = 0;
    ctx->first_data = 0;

    ctx->in = (ctx->send_body && ctx->request->request_body)
              ? ctx->request->request_body->bufs : NULL;
    ctx->in_off = 0;
    ctx->body_sent = 0;

    ngx_memzero(&ctx->head, sizeof(struct llm_head));
    ngx_memzero(&ctx->end, sizeof(struct llm_end));

    ctx->finish = LLM_FINISH_NONE;
    ctx->submitted = 0;
    ctx->cancelled = 0;
    ctx->have_head = 0;
    ctx->have_end = 0;
    ctx->prompted = 0;
    ctx->parked = 0;
    ctx->at_event = 0;
}
