
/*
 * ngx_http_llm_probe.c - llm_health deep: really asks an engine for a token.
 *
 * The question goes the way of every request: descriptor, rings, front end,
 * tokenizer, scheduler, one step, and back; no client's limits apply to it.
 * A worker asks an engine once at a time, all health requests wait for the
 * same answer, and the answer is good for llm_health_interval, so whoever
 * probes cannot load the engine.  An engine that does not keep its time is
 * not asked again before it has ended the question.
 */


#include "ngx_http_llm.h"


#define NGX_HTTP_LLM_PROBE_URI   "/v1/completions"
#define NGX_HTTP_LLM_PROBE_BODY                                               \
    "{\"prompt\":\"1\",\"max_tokens\":1,\"temperature\":0}"


typedef struct {
    ngx_queue_t                queue;
    ngx_http_request_t        *request;
    ngx_http_llm_engine_t    **engines;
    ngx_http_llm_session_t   **sessions;     /* NULL: has its answer */
    const char               **states;
    ngx_uint_t                 n;
    ngx_uint_t                 pending;
    unsigned                   queued:1;
} ngx_http_llm_waiter_t;


static ngx_http_llm_waiter_t *ngx_http_llm_probe_waiter(
    ngx_http_request_t *r, ngx_http_llm_engine_t **engines,
    const char **states, ngx_uint_t n);
static void ngx_http_llm_probe_cleanup(void *data);
static ngx_int_t ngx_http_llm_probe_answer(ngx_http_llm_waiter_t *w,
    ngx_uint_t i, ngx_http_llm_session_t *s);
static void ngx_http_llm_probe_start(ngx_http_llm_session_t *s,
    ngx_msec_t timeout);
static const char *ngx_http_llm_probe_submit(ngx_http_llm_session_t *s);
static ngx_int_t ngx_http_llm_probe_meta(uint8_t *buf, uint32_t *len);
static void ngx_http_llm_probe_timeout_handler(ngx_event_t *ev);
static void ngx_http_llm_probe_done(ngx_http_llm_session_t *s,
    const char *result);


static ngx_queue_t  ngx_http_llm_probe_waiters;


/* states[] is how the engines seem to be; those that are ready are asked */

ngx_int_t
ngx_http_llm_probe_handler(ngx_http_request_t *r,
    ngx_http_llm_engine_t **engines, const char **states, ngx_uint_t n)
{
    ngx_uint_t                i;
    ngx_http_llm_waiter_t    *w;
    ngx_http_llm_session_t   *s;
    ngx_http_llm_loc_conf_t  *llcf;

    if (ngx_http_llm_probe_waiters.next == NULL) {
        ngx_queue_init(&ngx_http_llm_probe_waiters);
    }

    w = ngx_http_llm_probe_waiter(r, engines, states, n);
    if (w == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);

    for (i = 0; i < n; i++) {

        if (ngx_strcmp(states[i], "ready") != 0) {
            continue;
        }

        s = ngx_http_llm_handover_choose(engines[i]);

        if (s->probing && s->probe_late) {
            states[i] = "timeout";
            continue;
        }

        if (!s->probing
            && (!s->probed
                || ngx_current_msec - s->probe_time >= llcf->health_interval))
        {
            ngx_http_llm_probe_start(s, llcf->health_timeout);
        }

        if (s->probing) {
            w->sessions[i] = s;
            w->pending++;
            continue;
        }

        if (ngx_http_llm_probe_answer(w, i, s) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    if (w->pending == 0) {
        return ngx_http_llm_health_answer(r, engines, states, n);
    }

    ngx_queue_insert_tail(&ngx_http_llm_probe_waiters, &w->queue);
    w->queued = 1;

    r->main->count++;
    r->read_event_handler = ngx_http_test_reading;

    return NGX_DONE;
}


static ngx_http_llm_waiter_t *
ngx_http_llm_probe_waiter(ngx_http_request_t *r,
    ngx_http_llm_engine_t **engines, const char **states, ngx_uint_t n)
{
    ngx_http_cleanup_t     *cln;
    ngx_http_llm_waiter_t  *w;

    w = ngx_pcalloc(r->pool, sizeof(ngx_http_llm_waiter_t));
    if (w == NULL) {
        return NULL;
    }

    w->request = r;
    w->engines = engines;
    w->states = states;
    w->n = n;

    w->sessions = ngx_pcalloc(r->pool,
                              (n + 1) * sizeof(ngx_http_llm_session_t *));
    if (w->sessions == NULL) {
        return NULL;
    }

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        return NULL;
    }

    cln->handler = ngx_http_llm_probe_cleanup;
    cln->data = w;

    return w;
}


/* who asked does not wait any more; the probe goes on for the others */

static void
ngx_http_llm_probe_cleanup(void *data)
{
    ngx_http_llm_waiter_t *w = data;

    if (w->queued) {
        ngx_queue_remove(&w->queue);
        w->queued = 0;
    }
}


/* the text of a session may change before the answer is written */

static ngx_int_t
ngx_http_llm_probe_answer(ngx_http_llm_waiter_t *w, ngx_uint_t i,
    ngx_http_llm_session_t *s)
{
    char  *p;

    p = ngx_pnalloc(w->request->pool, NGX_HTTP_LLM_PROBE_TEXT);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(p, s->probe_text, NGX_HTTP_LLM_PROBE_TEXT);
    w->states[i] = p;

    return NGX_OK;
}


/* afterwards the session is probing, or there is a result */

static void
ngx_http_llm_probe_start(ngx_http_llm_session_t *s, ngx_msec_t timeout)
{
    const char  *trouble;

    trouble = ngx_http_llm_probe_submit(s);

    if (trouble) {
        ngx_http_llm_probe_done(s, trouble);
        return;
    }

    s->probing = 1;
    s->probe_late = 0;
    s->probe_status = 0;

    s->probe_timer.handler = ngx_http_llm_probe_timeout_handler;
    s->probe_timer.data = s;
    s->probe_timer.log = &s->log;

    ngx_add_timer(&s->probe_timer, timeout);

    ngx_http_llm_request_publish(s);
    ngx_http_llm_session_watch_pulse(s);
}


/* NULL, or why it cannot be asked */

static const char *
ngx_http_llm_probe_submit(ngx_http_llm_session_t *s)
{
    u_char               *p;
    uint8_t               meta[LLM_META_BYTES_MAX];
    uint32_t              len, n;
    struct llm_sqe        sqe;
    ngx_http_llm_slot_t  *slot;

    n = s->free_slot;

    /* whoever waits was here before */

    if (s->nwaiting || n == NGX_HTTP_LLM_NO_SLOT) {
        return "busy";
    }

    if (ngx_http_llm_probe_meta(meta, &len) != NGX_OK) {
        return "internal_error";
    }

    p = llm_ring_sq_reserve(&s->sq,
                            len + sizeof(NGX_HTTP_LLM_PROBE_BODY) - 1);

    if (p == NULL || llm_ring_sq_room(&s->sq) == 0) {
        return "busy";
    }

    p = ngx_cpymem(p, meta, len);
    ngx_memcpy(p, NGX_HTTP_LLM_PROBE_BODY,
               sizeof(NGX_HTTP_LLM_PROBE_BODY) - 1);

    slot = &s->slots[n];

    s->free_slot = slot->next;
    s->busy++;

    ngx_http_llm_session_count(s, 1);

    slot->busy = 1;
    slot->probe = 1;
    slot->cancel = 0;
    slot->go = 0;
    slot->asked = 0;
    slot->reservation = NULL;
    slot->ctx = NULL;
    slot->generation = ++s->serial;

    ngx_memzero(&sqe, sizeof(struct llm_sqe));

    sqe.op = LLM_OP_SUBMIT;
    sqe.route = LLM_ROUTE_COMPLETIONS;
    sqe.meta_bytes = len;
    sqe.req_id = llm_req_id(n, slot->generation);
    sqe.len = len + sizeof(NGX_HTTP_LLM_PROBE_BODY) - 1;
    sqe.total_bytes = sqe.len;
    sqe.arrival_ns = ngx_http_llm_now();

    if (llm_ring_sq_push(&s->sq, &sqe) != LLM_OK) {
        ngx_http_llm_slot_free(s, n);

        if (s->sq.error) {
            ngx_http_llm_session_fail_later(s, s->sq.error);
        }

        return "busy";
    }

    s->probe_slot = n;
    s->unpublished = 1;

    return NULL;
}


static ngx_int_t
ngx_http_llm_probe_meta(uint8_t *buf, uint32_t *len)
{
    u_char            id[sizeof("llm_health-") + NGX_INT64_LEN];
    struct llm_bytes  value;

    *len = 0;

    value.data = id;
    value.len = (uint32_t) (ngx_sprintf(id, "llm_health-%P", ngx_pid) - id);

    if (llm_wire_encode_meta(buf, LLM_META_BYTES_MAX, len,
                             LLM_META_REQUEST_ID, value)
        != LLM_OK)
    {
        return NGX_ERROR;
    }

    value.data = (const uint8_t *) NGX_HTTP_LLM_PROBE_URI;
    value.len = sizeof(NGX_HTTP_LLM_PROBE_URI) - 1;

    if (llm_wire_encode_meta(buf, LLM_META_BYTES_MAX, len, LLM_META_URI, value)
        != LLM_OK)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* what the engine says to the question; NULL, or how it broke the protocol */

const char *
ngx_http_llm_probe_record(ngx_http_llm_session_t *s,
    struct llm_ring_record *rec)
{
    u_char            text[NGX_HTTP_LLM_PROBE_TEXT];
    const char       *why;
    struct llm_end    end;
    struct llm_head   head;

    if (rec->type == LLM_RECORD_HEAD) {

        if (llm_wire_decode_head(&head, rec->data, rec->len, &why) != LLM_OK) {
            return why;
        }

        s->probe_status = head.status;
        return NULL;
    }

    if (rec->type != LLM_RECORD_END) {
        return NULL;
    }

    if (llm_wire_decode_end(&end, rec->data, rec->len, &why) != LLM_OK) {
        return why;
    }

    ngx_http_llm_slot_free(s, s->probe_slot);
    s->probing = 0;

    if (s->probe_late) {

        /* "timeout" was said, and the next one may ask again */

        s->probe_late = 0;
        return NULL;
    }

    if (s->probe_status != 0 && s->probe_status != NGX_HTTP_OK) {
        (void) ngx_sprintf(text, "answered_%uD%Z",
                           (uint32_t) s->probe_status);
        ngx_http_llm_probe_done(s, (char *) text);
        return NULL;
    }

    if (s->probe_status == NGX_HTTP_OK
        && (end.reason == LLM_FINISH_STOP || end.reason == LLM_FINISH_LENGTH))
    {
        ngx_http_llm_probe_done(s, "ready");
        return NULL;
    }

    ngx_http_llm_probe_done(s, llm_wire_finish_name(end.reason));

    return NULL;
}


/* the session fails; its slots go with it */

void
ngx_http_llm_probe_lost(ngx_http_llm_session_t *s)
{
    ngx_uint_t  asked;

    if (!s->probing) {
        return;
    }

    asked = !s->probe_late;

    /* a session that is merely hung is up, and keeps the slot until END */

    if (s->state == NGX_HTTP_LLM_UP) {
        s->probe_late = 1;

    } else {
        s->probing = 0;
        s->probe_late = 0;
    }

    if (asked) {
        ngx_http_llm_probe_done(s, s->state == NGX_HTTP_LLM_UP
                                   ? "hanging" : "engine_lost");
    }

    s->probed = 0;
}


/* a request's timer keeps a leaving worker, and so does this one */

static void
ngx_http_llm_probe_timeout_handler(ngx_event_t *ev)
{
    ngx_http_llm_session_t *s = ev->data;

    ngx_log_error(NGX_LOG_WARN, &s->log, 0,
                  "engine %i at \"%V\" has not answered a health request",
                  s->engine_pid, &s->path);

    s->probe_late = 1;

    ngx_http_llm_slot_cancel(s, s->probe_slot, LLM_FINISH_CLIENT_ABORT);
    ngx_http_llm_request_publish(s);

    ngx_http_llm_probe_done(s, "timeout");
}


/* ending a waiter may take others along, so each step begins at the queue */

static void
ngx_http_llm_probe_done(ngx_http_llm_session_t *s, const char *result)
{
    ngx_uint_t              i;
    ngx_queue_t            *q;
    ngx_connection_t       *c;
    ngx_http_request_t     *r;
    ngx_http_llm_waiter_t  *w;

    if (s->probe_timer.timer_set) {
        ngx_del_timer(&s->probe_timer);
    }

    (void) ngx_cpystrn((u_char *) s->probe_text, (u_char *) result,
                       sizeof(s->probe_text));
    s->probe_time = ngx_current_msec;
    s->probed = 1;

again:

    for (q = ngx_queue_head(&ngx_http_llm_probe_waiters);
         q != ngx_queue_sentinel(&ngx_http_llm_probe_waiters);
         q = ngx_queue_next(q))
    {
        w = ngx_queue_data(q, ngx_http_llm_waiter_t, queue);

        for (i = 0; i < w->n; i++) {

            if (w->sessions[i] == s) {
                w->sessions[i] = NULL;
                w->pending--;

                if (ngx_http_llm_probe_answer(w, i, s) != NGX_OK) {
                    w->states[i] = "internal_error";
                }
            }
        }

        if (w->pending) {
            continue;
        }

        ngx_queue_remove(&w->queue);
        w->queued = 0;

        r = w->request;
        c = r->connection;

        ngx_http_set_log_request(c->log, r);

        ngx_http_finalize_request(r, ngx_http_llm_health_answer(r, w->engines,
                                                                w->states,
                                                                w->n));
        ngx_http_run_posted_requests(c);
        goto again;
    }
}
