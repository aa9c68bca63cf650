
/*
 * ngx_http_llm_health.c - llm_health: is this worker alive, are its engines
 * ready.  Reads the statistics in shared memory; "deep" goes to _probe.c.
 */


#include "ngx_http_llm.h"


static u_char *ngx_http_llm_health_name(u_char *p, ngx_str_t *name);
static ngx_int_t ngx_http_llm_health_send(ngx_http_request_t *r,
    ngx_uint_t status, ngx_buf_t *b);


ngx_int_t
ngx_http_llm_health_handler(ngx_http_request_t *r)
{
    ngx_int_t                   rc;
    ngx_buf_t                  *b;
    ngx_uint_t                  i, n;
    const char                **states;
    ngx_http_llm_engine_t     **enginep;
    ngx_http_llm_loc_conf_t    *llcf;
    ngx_http_llm_main_conf_t   *mcf;

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return NGX_HTTP_NOT_ALLOWED;
    }

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);
    mcf = ngx_http_get_module_main_conf(r, ngx_http_llm_module);

    if (llcf->health == NGX_HTTP_LLM_HEALTH_LIVE) {

        b = ngx_create_temp_buf(r->pool, sizeof("{\"status\":\"live\"}\n"));
        if (b == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        b->last = ngx_cpymem(b->last, "{\"status\":\"live\"}\n",
                             sizeof("{\"status\":\"live\"}\n") - 1);

        return ngx_http_llm_health_send(r, NGX_HTTP_OK, b);
    }

    enginep = mcf->engines.elts;
    n = mcf->engines.nelts;

    if (llcf->engine) {
        enginep = &llcf->engine;
        n = 1;
    }

    states = ngx_palloc(r->pool, (n + 1) * sizeof(const char *));
    if (states == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    for (i = 0; i < n; i++) {
        states[i] = ngx_http_llm_health_state(enginep[i]);
    }

    if (llcf->health == NGX_HTTP_LLM_HEALTH_DEEP) {
        return ngx_http_llm_probe_handler(r, enginep, states, n);
    }

    return ngx_http_llm_health_answer(r, enginep, states, n);
}


/*
 * 200 {"status":"ready","engines":{"chat":"ready"}}
 * 503 {"status":"not_ready","engines":{"chat":"loading"}}
 * 503 {"status":"not_ready","engines":{"chat":"failed"},"reasons":{"chat":"..."}}
 * "connecting" has the reason of the last failure, until the engine is there
 */

ngx_int_t
ngx_http_llm_health_answer(ngx_http_request_t *r,
    ngx_http_llm_engine_t **enginep, const char **states, ngx_uint_t n)
{
    size_t       size;
    ngx_buf_t   *b;
    ngx_uint_t   i, ready, first;
    const char  *reason;

    size = sizeof("{\"status\":\"not_ready\",\"engines\":{},\"reasons\":{}}\n");

    for (i = 0; i < n; i++) {
        size += 2 * enginep[i]->name.len * 6
                + ngx_strlen(states[i]) + sizeof("\"\":\"\",\"\":\"\",")
                + LLM_WELCOME_TEXT_BYTES;
    }

    b = ngx_create_temp_buf(r->pool, size);
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    first = 1;
    ready = 1;

    for (i = 0; i < n; i++) {
        if (ngx_strcmp(states[i], "ready") != 0) {
            ready = 0;
        }
    }

    b->last = ngx_sprintf(b->last, "{\"status\":\"%s\",\"engines\":{",
                          ready ? "ready" : "not_ready");

    for (i = 0; i < n; i++) {

        if (i) {
            *b->last++ = ',';
        }

        b->last = ngx_http_llm_health_name(b->last, &enginep[i]->name);
        b->last = ngx_sprintf(b->last, ":\"%s\"", states[i]);
    }

    for (i = 0; i < n; i++) {
        reason = ngx_http_llm_session_reason(
                                   ngx_http_llm_handover_choose(enginep[i]));

        if (reason == NULL) {
            continue;
        }

        b->last = ngx_cpymem(b->last, first ? "},\"reasons\":{" : ",",
                             first ? 13 : 1);
        first = 0;

        b->last = ngx_http_llm_health_name(b->last, &enginep[i]->name);
        b->last = ngx_sprintf(b->last, ":\"%s\"", reason);
    }

    b->last = ngx_cpymem(b->last, "}}\n", 3);

    return ngx_http_llm_health_send(r, ready ? NGX_HTTP_OK
                                             : NGX_HTTP_SERVICE_UNAVAILABLE,
                                    b);
}


/* the name in quotes; there is room for six times its bytes */

static u_char *
ngx_http_llm_health_name(u_char *p, ngx_str_t *name)
{
    *p++ = '"';

    if (ngx_escape_json(NULL, name->data, name->len)) {
        p = (u_char *) ngx_escape_json(p, name->data, name->len);

    } else {
        p = ngx_cpymem(p, name->data, name->len);
    }

    *p++ = '"';

    return p;
}


/* what llm_status shows too: keep ngx_http_llm_status_states[] the same */

const char *
ngx_http_llm_health_state(ngx_http_llm_engine_t *engine)
{
    const char              *why;
    struct llm_stats         stats;
    ngx_http_llm_session_t  *s;

    s = ngx_http_llm_handover_choose(engine);

    if (s == NULL || s->state == NGX_HTTP_LLM_DOWN) {
        return ngx_http_llm_session_reason(s) ? "failed" : "not_running";
    }

    if (s->state == NGX_HTTP_LLM_CONNECTING) {
        return s->suspect ? "no_answer" : "connecting";
    }

    if (ngx_http_llm_session_hung(s, &why)) {
        return "hanging";
    }

    llm_ring_read_stats(s->e, &stats);

    switch (stats.state) {

    case LLM_STATE_LOADING:
        return "loading";

    case LLM_STATE_READY:
        return "ready";

    case LLM_STATE_DRAINING:
        return "draining";

    default:
        return "unknown";
    }
}


static ngx_int_t
ngx_http_llm_health_send(ngx_http_request_t *r, ngx_uint_t status,
    ngx_buf_t *b)
{
    ngx_str_t  value;

    ngx_str_set(&value, "no-store");

    if (ngx_http_llm_add_header(r, "Cache-Control", &value) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (status == NGX_HTTP_SERVICE_UNAVAILABLE) {
        ngx_str_set(&value, "1");

        if (ngx_http_llm_add_header(r, "Retry-After", &value) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    return ngx_http_llm_send_json(r, status, b);
}
