
/*
 * ngx_http_llm_pulse.c - how an engine is: its heartbeat, its progress, and the
 * words for clients and operators.
 */


#include "ngx_http_llm.h"


#define NGX_HTTP_LLM_PULSE       1000
#define NGX_HTTP_LLM_PROGRESS    6       /* engine_timeouts without a step */


/*
 * Runs once a second while requests are in flight.  The requests of a hung
 * engine are ended; the session stays, for a stopped process may go on.
 */

void
ngx_http_llm_session_pulse_handler(ngx_event_t *ev)
{
    const char              *why;
    ngx_http_llm_session_t  *s;

    s = ev->data;

    if (s->state != NGX_HTTP_LLM_UP) {
        return;
    }

    if (ngx_http_llm_session_hung(s, &why)) {

        if (!s->hung) {
            ngx_log_error(NGX_LOG_ERR, &s->log, 0,
                          "engine %i at \"%V\" hangs: %s",
                          s->engine_pid, &s->path, why);
            s->hung = 1;
        }

        ngx_http_llm_session_fail_requests(s);

    } else if (s->hung) {
        ngx_log_error(NGX_LOG_NOTICE, &s->log, 0,
                      "engine %i at \"%V\" moves again",
                      s->engine_pid, &s->path);
        s->hung = 0;
    }

    if (s->busy || s->nwaiting) {
        ngx_add_timer(&s->pulse, NGX_HTTP_LLM_PULSE);
    }
}


/*
 * Why a session is not up, in the peer's words: for operators.  Clients are
 * told only what a supervisor says of an engine that does not run.
 */

void
ngx_http_llm_session_set_reason(ngx_http_llm_session_t *s, const char *text,
    ngx_uint_t down)
{
    u_char  *p;

    (void) ngx_cpystrn(s->reason, (u_char *) text, sizeof(s->reason));

    /* it goes into JSON documents */

    for (p = s->reason; *p; p++) {
        if (*p == '"' || *p == '\\' || *p < 0x20) {
            *p = '\'';
        }
    }

    s->message[0] = '\0';

    if (down) {
        (void) ngx_sprintf(s->message, "The engine does not run now: %s.%Z",
                           s->reason);
    }
}


/*
 * NULL: nothing is known.  A session that connects again keeps the reason it
 * was lost for, or an engine that dies at every start would have one only
 * between two starts.
 */

const char *
ngx_http_llm_session_reason(ngx_http_llm_session_t *s)
{
    if (s && s->state != NGX_HTTP_LLM_UP && s->reason[0]) {
        return (const char *) s->reason;
    }

    return NULL;
}


/* what a client is told instead of an answer */

const char *
ngx_http_llm_session_message(ngx_http_llm_session_t *s)
{
    if (s && s->state == NGX_HTTP_LLM_DOWN && s->message[0]) {
        return (const char *) s->message;
    }

    return "The engine is not available now.";
}


void
ngx_http_llm_session_watch_pulse(ngx_http_llm_session_t *s)
{
    if (!s->pulse.timer_set) {
        ngx_add_timer(&s->pulse, NGX_HTTP_LLM_PULSE);
    }
}


/* told by its pulse: 1 when the process or its step thread stands still */

ngx_uint_t
ngx_http_llm_session_hung(ngx_http_llm_session_t *s, const char **why)
{
    int64_t           now, limit;
    struct llm_stats  stats;

    llm_ring_read_stats(s->e, &stats);

    now = ngx_http_llm_now();
    limit = (int64_t) s->engine_timeout * 1000000;

    if (stats.heartbeat_ns != 0 && now - stats.heartbeat_ns > limit) {
        *why = "no heartbeat";
        return 1;
    }

    if (stats.state == LLM_STATE_READY
        && stats.progress_ns != 0
        && now - stats.progress_ns > limit * NGX_HTTP_LLM_PROGRESS)
    {
        *why = "no step finished";
        return 1;
    }

    return 0;
}


/* NULL: the engine can be asked; otherwise why not, as a word for clients */

const char *
ngx_http_llm_session_trouble(ngx_http_llm_session_t *s)
{
    const char  *why;

    if (s == NULL || s->removed) {
        return "not running";
    }

    /* a request is as good a moment as the timer, if nothing else is tried */

    if (s->state == NGX_HTTP_LLM_DOWN
        && !s->failure.posted
        && s->retry <= NGX_HTTP_LLM_RETRY_MIN * 2)
    {
        if (s->timer.timer_set) {
            ngx_del_timer(&s->timer);
        }

        (void) ngx_http_llm_session_connect(s);
    }

    switch (s->state) {

    case NGX_HTTP_LLM_DOWN:
        return "not running";

    case NGX_HTTP_LLM_CONNECTING:
        return s->suspect ? "not answering" : NULL;

    default:
        return ngx_http_llm_session_hung(s, &why) ? "hanging" : NULL;
    }
}


/* seconds for Retry-After; the engine knows best while it can say */

ngx_uint_t
ngx_http_llm_session_retry_after(ngx_http_llm_session_t *s)
{
    struct llm_stats  stats;

    if (s && s->state == NGX_HTTP_LLM_UP) {
        llm_ring_read_stats(s->e, &stats);

        if (stats.retry_after_s >= 1 && stats.retry_after_s <= 120) {
            return stats.retry_after_s;
        }
    }

    return 1 + (ngx_uint_t) ngx_random() % 3;
}
