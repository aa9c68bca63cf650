
/*
 * ngx_http_llm_handover.c - an engine with new options takes over from the one
 * before: the worker's side.
 *
 * After such a reload a worker holds a session with both.  Requests go to the
 * old engine until the new one says READY in its statistics; then the worker
 * says GOODBYE to the old one, lets what it has there finish, and closes.  The
 * supervisors do their part without us (engine/supervise.h): the old engine
 * serves everybody who has not said GOODBYE.
 *
 * A session is never freed while its process lives, because a request may have
 * chosen it and still be reading its body; it is found again by its path.
 */


#include "ngx_http_llm.h"


#define NGX_HTTP_LLM_HANDOVER  100      /* ms, while there is something to do */


static void ngx_http_llm_handover_done(ngx_http_llm_session_t *s);
static void ngx_http_llm_handover_goodbye(ngx_http_llm_session_t *s);
static ngx_uint_t ngx_http_llm_handover_ready(ngx_http_llm_session_t *s);


/* s takes over from before, NULL: from nobody */

void
ngx_http_llm_handover_begin(ngx_http_llm_session_t *s,
    ngx_http_llm_session_t *before)
{
    if (s->before && s->before != before) {
        s->before->after = NULL;
    }

    s->before = before;

    if (before) {
        before->after = s;
        before->newer = s;

        ngx_http_llm_handover_watch(before);
    }
}


/* the session for a request that begins now; NULL: there is none */

ngx_http_llm_session_t *
ngx_http_llm_handover_choose(ngx_http_llm_engine_t *engine)
{
    ngx_http_llm_session_t  *s;

    s = engine->session;

    /* with master_process off a request may still have the old engine */

    while (s && s->removed && s->newer) {
        s = s->newer;
    }

    if (s == NULL || s->before == NULL) {
        return s;
    }

    if (ngx_http_llm_handover_ready(s)) {
        ngx_http_llm_handover_done(s);
        return s;
    }

    return s->before;
}


static ngx_uint_t
ngx_http_llm_handover_ready(ngx_http_llm_session_t *s)
{
    const char        *why;
    struct llm_stats   stats;

    if (s->state != NGX_HTTP_LLM_UP || ngx_http_llm_session_hung(s, &why)) {
        return 0;
    }

    llm_ring_read_stats(s->e, &stats);

    return stats.state == LLM_STATE_READY;
}


static void
ngx_http_llm_handover_done(ngx_http_llm_session_t *s)
{
    ngx_http_llm_session_t  *before;

    before = s->before;

    ngx_log_error(NGX_LOG_NOTICE, &s->log, 0,
                  "engine %i at \"%V\" takes over from %i at \"%V\"",
                  s->engine_pid, &s->path, before->engine_pid, &before->path);

    s->before = NULL;
    before->after = NULL;
    before->removed = 1;

    ngx_http_llm_session_release(before);
}


/* the old engine's socket is no more: there is nothing to wait for */

void
ngx_http_llm_handover_gone(ngx_http_llm_session_t *s)
{
    if (s->after) {
        s->after->before = NULL;
        s->after = NULL;
        s->removed = 1;
    }
}


void
ngx_http_llm_handover_watch(ngx_http_llm_session_t *s)
{
    if (!s->handover.timer_set) {
        ngx_add_timer(&s->handover, NGX_HTTP_LLM_HANDOVER);
    }
}


/* cancelable: a request has a timer of its own that keeps a leaving worker */

void
ngx_http_llm_handover_handler(ngx_event_t *ev)
{
    ngx_http_llm_session_t *s = ev->data;

    if (s->after) {

        if (ngx_http_llm_handover_ready(s->after)) {
            ngx_http_llm_handover_done(s->after);
            return;
        }

        ngx_http_llm_handover_watch(s);
        return;
    }

    ngx_http_llm_session_release(s);
}


/* closes a session that no configuration names, when its last request is gone */

void
ngx_http_llm_session_release(ngx_http_llm_session_t *s)
{
    if (!s->removed) {
        return;
    }

    if (s->state == NGX_HTTP_LLM_UP && s->nwaiting == 0 && !s->goodbye) {
        ngx_http_llm_handover_goodbye(s);
    }

    if (s->busy || s->nwaiting) {
        ngx_http_llm_handover_watch(s);
        return;
    }

    ngx_http_llm_session_shut(s);
}


static void
ngx_http_llm_handover_goodbye(ngx_http_llm_session_t *s)
{
    struct llm_sqe  sqe;

    ngx_memzero(&sqe, sizeof(struct llm_sqe));
    sqe.op = LLM_OP_GOODBYE;

    /* no room: the next round says it, or the socket's end does */

    if (llm_ring_sq_push(&s->sq, &sqe) == LLM_OK) {
        s->goodbye = 1;
        s->unpublished = 1;
        ngx_http_llm_request_publish(s);

    } else if (s->sq.error) {
        ngx_http_llm_session_fail_later(s, s->sq.error);
    }
}
