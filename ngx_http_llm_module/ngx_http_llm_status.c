
/*
 * ngx_http_llm_status.c - what llm_status counts: the zone, the workers'
 * records in it, and the account of each request, made once at its end.
 *
 * A context is counted when its cleanup runs, so each is counted exactly once
 * however it ends: answered, refused, redirected by error_page, aborted, or
 * part of a subrequest.  What nginx itself refuses in an llm_pass location
 * (401, 413, 429 ...) never gets a context; the log phase counts it.
 */


#include "ngx_http_llm_status.h"


#define NGX_HTTP_LLM_STATUS_PERIOD  500      /* ms, moment's values */


/* of this process; the zone of the current cycle */

typedef struct {
    ngx_http_llm_status_sh_t      *sh;
    ngx_slab_pool_t               *shpool;
    ngx_http_llm_status_worker_t  *me;
    ngx_uint_t                     in_flight;
    ngx_event_t                    timer;
} ngx_http_llm_status_t;


static ngx_int_t ngx_http_llm_status_init_zone(ngx_shm_zone_t *shm_zone,
    void *data);
static void ngx_http_llm_status_name_engines(ngx_http_llm_main_conf_t *mcf,
    ngx_http_llm_status_sh_t *sh, ngx_log_t *log);
static void ngx_http_llm_status_claim(ngx_http_llm_status_sh_t *sh);
static void ngx_http_llm_status_timer_handler(ngx_event_t *ev);
static ngx_int_t ngx_http_llm_status_log_handler(ngx_http_request_t *r);
static ngx_uint_t ngx_http_llm_status_code(ngx_uint_t status);
static ngx_uint_t ngx_http_llm_status_of(ngx_http_llm_ctx_t *ctx);
static void ngx_http_llm_status_refused(ngx_uint_t engine, const char *code);
static ngx_http_llm_status_series_t *ngx_http_llm_status_series(
    ngx_uint_t engine, const char *model, size_t len);
static ngx_http_llm_status_series_t *ngx_http_llm_status_find(
    ngx_uint_t engine, const char *model, size_t len, uint32_t hash);
static void ngx_http_llm_status_observe(ngx_http_llm_status_series_t *se,
    ngx_uint_t hist, int64_t value);


static ngx_http_llm_status_t  ngx_http_llm_status_here;


#define ms  * 1000000LL
#define s   * 1000000000LL

static const int64_t  ngx_http_llm_status_ttft[] = {
    1 ms, 5 ms, 10 ms, 20 ms, 40 ms, 60 ms, 80 ms, 100 ms, 250 ms, 500 ms,
    750 ms, 1 s, 2500 ms, 5 s, 7500 ms, 10 s, 20 s, 40 s, 80 s, 160 s, 640 s
};

static const int64_t  ngx_http_llm_status_tpot[] = {
    500000, 1 ms, 2 ms, 3 ms, 4 ms, 5 ms, 7500000, 10 ms, 15 ms, 20 ms, 25 ms,
    50 ms, 75 ms, 100 ms, 150 ms, 200 ms, 300 ms, 400 ms, 500 ms, 750 ms, 1 s,
    2500 ms, 5 s, 10 s
};

static const int64_t  ngx_http_llm_status_time[] = {
    5 ms, 10 ms, 20 ms, 50 ms, 100 ms, 200 ms, 300 ms, 500 ms, 800 ms, 1 s,
    1500 ms, 2 s, 2500 ms, 5 s, 10 s, 15 s, 20 s, 30 s, 40 s, 50 s, 60 s,
    120 s, 240 s, 480 s, 960 s, 1920 s
};

#undef ms
#undef s

static const int64_t  ngx_http_llm_status_tokens[] = {
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000,
    100000, 200000, 500000, 1000000
};

#define ngx_http_llm_status_bounds(b)  b, sizeof(b) / sizeof(b[0])

const ngx_http_llm_status_family_t  ngx_http_llm_status_families[] = {

    { "time_to_first_token_seconds", "ttft",
      "Time from the arrival of a request to its first token.",
      ngx_http_llm_status_bounds(ngx_http_llm_status_ttft), 1 },

    { "time_per_output_token_seconds", "tpot",
      "Mean time of a request per output token after the first.",
      ngx_http_llm_status_bounds(ngx_http_llm_status_tpot), 1 },

    { "request_duration_seconds", "duration",
      "Time from the arrival of a request to the engine's end of it.",
      ngx_http_llm_status_bounds(ngx_http_llm_status_time), 1 },

    { "request_queue_seconds", "queue",
      "Time from the arrival of a request to its first step.",
      ngx_http_llm_status_bounds(ngx_http_llm_status_time), 1 },

    { "request_prompt_tokens", "prompt",
      "Prompt tokens of a request.",
      ngx_http_llm_status_bounds(ngx_http_llm_status_tokens), 0 },

    { "request_completion_tokens", "completion",
      "Tokens generated for a request.",
      ngx_http_llm_status_bounds(ngx_http_llm_status_tokens), 0 }
};


/* the last is for all others */

const ngx_uint_t  ngx_http_llm_status_codes[NGX_HTTP_LLM_STATUS_CODES] = {
    200, 301, 302, 304, 400, 401, 402, 403, 404, 405, 408, 409, 411, 413, 415,
    422, 429, 499, 500, 501, 502, 503, 504, 0
};


/* codes of errors; the last is for all others */

const char *const  ngx_http_llm_status_reasons[NGX_HTTP_LLM_STATUS_REASONS] = {
    "engine_unavailable", "engine_lost", "engine_error", "engine_not_found",
    "queue_full", "timeout", "internal_error", "not_found",
    "method_not_allowed", "model_not_found", "request_too_large",
    "unsupported_media_type", "unsupported_encoding", "invalid_api_key",
    "forbidden", "rate_limit_exceeded", "insufficient_quota", "bad_request",
    "invalid_request", "loading", "overloaded", "context_length_exceeded",
    "unavailable", "other"
};


const char *const  ngx_http_llm_status_states[] = {
    "not_running", "connecting", "no_answer", "hanging", "loading", "ready",
    "draining", "failed", "unknown", NULL
};


/* called when http{} has been parsed */

ngx_int_t
ngx_http_llm_status_init(ngx_conf_t *cf)
{
    size_t                      size;
    ngx_str_t                   name;
    ngx_http_handler_pt        *h;
    ngx_http_llm_main_conf_t   *mcf;
    ngx_http_core_main_conf_t  *cmcf;

    mcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_llm_module);

    if (!mcf->status_used) {
        return NGX_OK;
    }

    ngx_str_set(&name, "llm_status");

    size = mcf->status_size ? mcf->status_size
                            : (size_t) NGX_HTTP_LLM_STATUS_ZONE_SIZE;

    mcf->status = ngx_shared_memory_add(cf, &name, size, &ngx_http_llm_module);
    if (mcf->status == NULL) {
        return NGX_ERROR;
    }

    /* a limit may have the same name, and the same size */

    if (mcf->status->data) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "zone \"%V\" is already defined", &name);
        return NGX_ERROR;
    }

    mcf->status->init = ngx_http_llm_status_init_zone;
    mcf->status->data = mcf;

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_LOG_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_llm_status_log_handler;

    return NGX_OK;
}


/* in the master; what workers of the last cycle still count goes on */

static ngx_int_t
ngx_http_llm_status_init_zone(ngx_shm_zone_t *shm_zone, void *data)
{
    size_t                     size;
    ngx_uint_t                 n;
    ngx_slab_pool_t           *shpool;
    ngx_http_llm_main_conf_t  *mcf;
    ngx_http_llm_status_sh_t  *sh;

    mcf = shm_zone->data;
    shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;
    sh = (data || shm_zone->shm.exists) ? shpool->data : NULL;

    if (sh == NULL) {
        sh = ngx_slab_calloc(shpool, sizeof(ngx_http_llm_status_sh_t));
        if (sh == NULL) {
            goto small;
        }

        /* the rest, but for what the pool needs to say where it is */

        size = sizeof(ngx_http_llm_status_series_t) + sizeof(uint32_t);
        n = (ngx_uint_t) (shpool->pfree * ngx_pagesize / size);

        for (sh->series = NULL; n > 1 && sh->series == NULL; n--) {
            sh->series = ngx_slab_calloc(shpool, n * size);
            sh->max_series = n;
        }

        if (sh->series == NULL) {
            goto small;
        }

        sh->hashes = (uint32_t *) (sh->series + sh->max_series);
        sh->start = ngx_time();
        sh->nengines = 1;
        shpool->data = sh;
    }

    ngx_http_llm_status_name_engines(mcf, sh, shm_zone->shm.log);

    return NGX_OK;

small:

    ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                  "\"llm_status_zone\" is too small: %uz bytes",
                  shm_zone->shm.size);
    return NGX_ERROR;
}


/* a name keeps its place for ever: its counters go on when it comes back */

static void
ngx_http_llm_status_name_engines(ngx_http_llm_main_conf_t *mcf,
    ngx_http_llm_status_sh_t *sh, ngx_log_t *log)
{
    size_t                         len;
    ngx_uint_t                     i, k;
    ngx_http_llm_engine_t        **enginep;
    ngx_http_llm_status_engine_t  *se;

    enginep = mcf->engines.elts;

    for (i = 0; i < mcf->engines.nelts; i++) {

        len = ngx_min(enginep[i]->name.len, NGX_HTTP_LLM_STATUS_NAME);

        for (k = 1; k < sh->nengines; k++) {
            se = &sh->engines[k];

            if (se->len == len
                && ngx_memcmp(se->name, enginep[i]->name.data, len) == 0)
            {
                break;
            }
        }

        if (k == NGX_HTTP_LLM_STATUS_ENGINES) {
            ngx_log_error(NGX_LOG_WARN, log, 0,
                          "\"llm_status\" knows %d names of engines since "
                          "the start, \"%V\" is counted without a name",
                          NGX_HTTP_LLM_STATUS_ENGINES - 1, &enginep[i]->name);
            continue;
        }

        if (k == sh->nengines) {
            se = &sh->engines[k];
            ngx_memcpy(se->name, enginep[i]->name.data, len);
            se->len = len;
            sh->nengines++;
        }

        enginep[i]->status = k;
    }
}


/* a process begins, or with master_process off a cycle */

void
ngx_http_llm_status_init_process(ngx_cycle_t *cycle)
{
    ngx_http_llm_status_t     *st;
    ngx_http_llm_main_conf_t  *mcf;

    st = &ngx_http_llm_status_here;
    mcf = ngx_http_llm_cycle_conf(cycle);

    st->sh = NULL;
    st->me = NULL;

    st->timer.handler = ngx_http_llm_status_timer_handler;
    st->timer.data = st;
    st->timer.log = cycle->log;
    st->timer.cancelable = 1;

    if (mcf == NULL || mcf->status == NULL) {
        return;
    }

    st->shpool = (ngx_slab_pool_t *) mcf->status->shm.addr;
    st->sh = st->shpool->data;

    ngx_http_llm_status_claim(st->sh);

    if (st->me == NULL) {
        ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                      "\"llm_status\" has room for %d workers, this one is "
                      "not shown", NGX_HTTP_LLM_STATUS_WORKERS);
    }
}


/* records of dead processes are free at once, before a pid can come back */

static void
ngx_http_llm_status_claim(ngx_http_llm_status_sh_t *sh)
{
    ngx_uint_t                     i;
    ngx_atomic_uint_t              pid;
    ngx_http_llm_status_worker_t  *w;

    for (i = 0; i < NGX_HTTP_LLM_STATUS_WORKERS; i++) {
        w = &sh->workers[i];
        pid = w->pid;

        if (pid && pid != (ngx_atomic_uint_t) ngx_pid
            && !ngx_http_llm_status_alive(w))
        {
            (void) ngx_atomic_cmp_set(&w->pid, pid, 0);
        }
    }

    for (i = 0; i < NGX_HTTP_LLM_STATUS_WORKERS; i++) {
        w = &sh->workers[i];

        if (w->pid == (ngx_atomic_uint_t) ngx_pid
            || ngx_atomic_cmp_set(&w->pid, 0, (ngx_atomic_uint_t) ngx_pid))
        {
            w->worker = (uint32_t) ngx_worker;
            w->in_flight = (uint32_t) ngx_http_llm_status_here.in_flight;
            ngx_memzero(w->engines, sizeof(w->engines));

            ngx_http_llm_status_here.me = w;
            return;
        }
    }
}


ngx_uint_t
ngx_http_llm_status_alive(ngx_http_llm_status_worker_t *w)
{
    return w->pid && (kill((pid_t) w->pid, 0) == 0 || ngx_errno != ESRCH);
}


void
ngx_http_llm_status_exit_process(void)
{
    if (ngx_http_llm_status_here.me) {
        ngx_http_llm_status_here.me->pid = 0;
        ngx_http_llm_status_here.me = NULL;
    }
}


ngx_http_llm_status_sh_t *
ngx_http_llm_status_shared(void)
{
    return ngx_http_llm_status_here.sh;
}


/* writes the record of this process */

void
ngx_http_llm_status_publish(void)
{
    ngx_uint_t                     i, k;
    ngx_http_llm_engine_t        **enginep;
    ngx_http_llm_session_t        *s;
    ngx_http_llm_main_conf_t      *mcf;
    ngx_http_llm_status_load_t     load;
    ngx_http_llm_status_worker_t  *me;

    me = ngx_http_llm_status_here.me;
    mcf = ngx_http_llm_cycle_conf((ngx_cycle_t *) ngx_cycle);

    if (me == NULL || mcf == NULL) {
        return;
    }

    me->in_flight = (uint32_t) ngx_http_llm_status_here.in_flight;
    enginep = mcf->engines.elts;

    for (i = 0; i < mcf->engines.nelts; i++) {
        load.in_flight = 0;
        load.waiting = 0;

        /* with the session of an engine that is being replaced */

        for (s = enginep[i]->session; s; s = s->before) {
            load.in_flight += (uint32_t) s->busy;
            load.waiting += (uint32_t) s->nwaiting;
        }

        k = enginep[i]->status;
        me->engines[k] = load;
    }
}


static void
ngx_http_llm_status_timer_handler(ngx_event_t *ev)
{
    ngx_http_llm_status_publish();

    if (ngx_http_llm_status_here.in_flight) {
        ngx_add_timer(ev, NGX_HTTP_LLM_STATUS_PERIOD);
    }
}


void
ngx_http_llm_status_begin(ngx_http_llm_ctx_t *ctx)
{
    ngx_http_llm_status_t *st = &ngx_http_llm_status_here;

    if (st->sh == NULL) {
        return;
    }

    ctx->status_open = 1;
    ctx->status_seen = 1;

    st->in_flight++;

    if (st->me) {
        st->me->in_flight = (uint32_t) st->in_flight;
    }

    if (!st->timer.timer_set) {
        ngx_add_timer(&st->timer, NGX_HTTP_LLM_STATUS_PERIOD);
    }
}


/* the context is done with, and END has come if it ever will */

void
ngx_http_llm_status_end(ngx_http_llm_ctx_t *ctx)
{
    ngx_uint_t                     engine;
    struct llm_end                *end;
    ngx_http_llm_status_t         *st;
    ngx_http_llm_status_series_t  *se;

    if (!ctx->status_open) {
        return;
    }

    ctx->status_open = 0;

    st = &ngx_http_llm_status_here;
    st->in_flight--;

    if (st->me) {
        st->me->in_flight = (uint32_t) st->in_flight;
    }

    if (st->sh == NULL) {
        return;
    }

    end = &ctx->end;
    engine = ctx->engine ? ctx->engine->status : 0;

    if (ctx->error.status) {
        ngx_http_llm_status_refused(engine, ctx->error.code);

    } else if (ctx->lost.status) {
        ngx_http_llm_status_refused(engine, ctx->lost.code);
    }

    se = ngx_http_llm_status_series(engine, end->model,
                                    ctx->have_end ? end->model_len : 0);
    if (se == NULL) {
        return;
    }

    (void) ngx_atomic_fetch_add(
               &se->ends[ngx_http_llm_status_code(ngx_http_llm_status_of(ctx))]
                        [ngx_min(ctx->finish, LLM_FINISH_COUNT - 1)], 1);

    if (!ctx->have_end || end->model_len == 0) {
        return;
    }

    (void) ngx_atomic_fetch_add(&se->prompt_tokens, end->prompt_tokens);
    (void) ngx_atomic_fetch_add(&se->cached_tokens, end->cached_tokens);
    (void) ngx_atomic_fetch_add(&se->completion_tokens,
                                end->completion_tokens);

    ngx_http_llm_status_observe(se, NGX_HTTP_LLM_STATUS_PROMPT,
                                end->prompt_tokens);
    ngx_http_llm_status_observe(se, NGX_HTTP_LLM_STATUS_COMPLETION,
                                end->completion_tokens);
    ngx_http_llm_status_observe(se, NGX_HTTP_LLM_STATUS_DURATION,
                                ctx->ended - ctx->arrival);
    ngx_http_llm_status_observe(se, NGX_HTTP_LLM_STATUS_QUEUE, end->queue_ns);

    if (end->ttft_ns > 0) {
        ngx_http_llm_status_observe(se, NGX_HTTP_LLM_STATUS_TTFT,
                                    end->ttft_ns);
    }

    if (end->completion_tokens > 1 && end->decode_ns > 0) {
        ngx_http_llm_status_observe(se, NGX_HTTP_LLM_STATUS_TPOT,
                                    end->decode_ns
                                    / (int64_t) (end->completion_tokens - 1));
    }
}


/* what never had a context: refused by nginx itself in an llm_pass location */

static ngx_int_t
ngx_http_llm_status_log_handler(ngx_http_request_t *r)
{
    ngx_uint_t                     status;
    const char                    *code;
    ngx_http_llm_ctx_t            *ctx;
    ngx_http_llm_loc_conf_t       *llcf;
    ngx_http_llm_status_series_t  *se;

    llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);
    ctx = ngx_http_get_module_ctx(r, ngx_http_llm_module);

    if ((llcf->pass_name.len == 0 && llcf->pass == NULL)
        || (ctx && ctx->status_seen)
        || ngx_http_llm_status_here.sh == NULL)
    {
        return NGX_OK;
    }

    status = r->err_status ? r->err_status : r->headers_out.status;

    /* a redirect of error_page has taken the context away, not the request */

    if (status < NGX_HTTP_BAD_REQUEST) {
        return NGX_OK;
    }

    code = (ctx && ctx->error.code) ? ctx->error.code
                                    : ngx_http_llm_error_code(status);

    ngx_http_llm_status_refused(0, code);

    se = ngx_http_llm_status_series(0, NULL, 0);

    if (se) {
        (void) ngx_atomic_fetch_add(
                     &se->ends[ngx_http_llm_status_code(status)]
                              [LLM_FINISH_NONE], 1);
    }

    return NGX_OK;
}


/*
 * As $status, but what a request was told before error_page sent it elsewhere
 * counts here, and the answer from there does not.
 */

static ngx_uint_t
ngx_http_llm_status_of(ngx_http_llm_ctx_t *ctx)
{
    ngx_uint_t           status;
    ngx_http_request_t  *r;

    r = ctx->request;

    if (ngx_http_get_module_ctx(r, ngx_http_llm_module) == ctx) {
        status = r->err_status ? r->err_status : r->headers_out.status;

    } else if (ctx->error.status) {
        status = ctx->error.status;

    } else {
        status = ctx->have_head ? ctx->head.status : 0;
    }

    return status ? status : NGX_HTTP_CLIENT_CLOSED_REQUEST;
}


static ngx_uint_t
ngx_http_llm_status_code(ngx_uint_t status)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_LLM_STATUS_CODES - 1; i++) {
        if (ngx_http_llm_status_codes[i] == status) {
            break;
        }
    }

    return i;
}


static void
ngx_http_llm_status_refused(ngx_uint_t engine, const char *code)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_LLM_STATUS_REASONS - 1; i++) {
        if (code && ngx_strcmp(code, ngx_http_llm_status_reasons[i]) == 0) {
            break;
        }
    }

    (void) ngx_atomic_fetch_add(
                   &ngx_http_llm_status_here.sh->engines[engine].refused[i], 1);
}


/* a session of this process with an engine is up, or was lost */

void
ngx_http_llm_status_session(ngx_http_llm_session_t *s, ngx_uint_t up)
{
    ngx_uint_t                     i;
    ngx_http_llm_engine_t        **enginep;
    ngx_http_llm_main_conf_t      *mcf;
    ngx_http_llm_status_engine_t  *se;

    mcf = ngx_http_llm_cycle_conf((ngx_cycle_t *) ngx_cycle);

    if (ngx_http_llm_status_here.sh == NULL || mcf == NULL) {
        return;
    }

    enginep = mcf->engines.elts;

    for (i = 0; i < mcf->engines.nelts; i++) {

        if (enginep[i]->session == NULL
            || (enginep[i]->session != s && enginep[i]->session->before != s))
        {
            continue;
        }

        se = &ngx_http_llm_status_here.sh->engines[enginep[i]->status];

        (void) ngx_atomic_fetch_add(up ? &se->connects : &se->losses, 1);
    }
}


/* the zone is full: counted under the engine's name without a model */

static ngx_http_llm_status_series_t *
ngx_http_llm_status_series(ngx_uint_t engine, const char *model, size_t len)
{
    uint32_t                       hash;
    ngx_uint_t                     n;
    ngx_http_llm_status_sh_t      *sh;
    ngx_http_llm_status_series_t  *se;

    sh = ngx_http_llm_status_here.sh;

    hash = ngx_murmur_hash2((u_char *) model, len) ^ (uint32_t) engine;

    se = ngx_http_llm_status_find(engine, model, len, hash);
    if (se) {
        return se;
    }

    ngx_shmtx_lock(&ngx_http_llm_status_here.shpool->mutex);

    se = ngx_http_llm_status_find(engine, model, len, hash);

    if (se == NULL && sh->nseries < sh->max_series) {
        n = sh->nseries;
        se = &sh->series[n];

        se->engine = engine;
        se->model_len = len;

        if (len) {
            ngx_memcpy(se->model, model, len);
        }

        sh->hashes[n] = hash;

        ngx_memory_barrier();

        sh->nseries = n + 1;
    }

    ngx_shmtx_unlock(&ngx_http_llm_status_here.shpool->mutex);

    if (se == NULL) {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "\"llm_status_zone\" is full, a model is counted "
                      "without its name");

        return len ? ngx_http_llm_status_series(engine, NULL, 0) : NULL;
    }

    return se;
}


static ngx_http_llm_status_series_t *
ngx_http_llm_status_find(ngx_uint_t engine, const char *model, size_t len,
    uint32_t hash)
{
    ngx_uint_t                     i, n;
    ngx_http_llm_status_sh_t      *sh;
    ngx_http_llm_status_series_t  *se;

    sh = ngx_http_llm_status_here.sh;
    n = sh->nseries;

    for (i = 0; i < n; i++) {

        if (sh->hashes[i] != hash) {
            continue;
        }

        se = &sh->series[i];

        if (se->engine == engine
            && se->model_len == len
            && (len == 0 || ngx_memcmp(se->model, model, len) == 0))
        {
            return se;
        }
    }

    return NULL;
}


static void
ngx_http_llm_status_observe(ngx_http_llm_status_series_t *se, ngx_uint_t hist,
    int64_t value)
{
    ngx_uint_t                           i;
    const ngx_http_llm_status_family_t  *f;

    f = &ngx_http_llm_status_families[hist];

    value = ngx_max(value, 0);

    for (i = 0; i < f->nbounds; i++) {
        if (value <= f->bounds[i]) {
            break;
        }
    }

    (void) ngx_atomic_fetch_add(&se->hists[hist].buckets[i], 1);
    (void) ngx_atomic_fetch_add(&se->hists[hist].sum, value);
}


/* an engine from here: its own statistics, and the load of all workers */

void
ngx_http_llm_status_view(ngx_http_llm_status_sh_t *sh,
    ngx_http_llm_engine_t *engine, ngx_http_llm_status_view_t *view)
{
    int64_t                        now;
    ngx_uint_t                     i;
    ngx_http_llm_session_t        *s;
    ngx_http_llm_status_worker_t  *w;

    ngx_memzero(view, sizeof(ngx_http_llm_status_view_t));

    view->state = ngx_http_llm_health_state(engine);
    s = ngx_http_llm_handover_choose(engine);

    if (s && s->state == NGX_HTTP_LLM_UP) {
        llm_ring_read_stats(s->e, &view->stats);

        now = ngx_http_llm_now();

        view->up = 1;
        view->pid = s->engine_pid;
        view->heartbeat = ngx_max(now - view->stats.heartbeat_ns, 0);
        view->progress = ngx_max(now - view->stats.progress_ns, 0);

        if (view->stats.progress_ns == 0) {
            view->progress = 0;
        }
    }

    for (i = 0; i < NGX_HTTP_LLM_STATUS_WORKERS; i++) {
        w = &sh->workers[i];

        if (ngx_http_llm_status_alive(w)) {
            view->in_flight += w->engines[engine->status].in_flight;
            view->waiting += w->engines[engine->status].waiting;
        }
    }
}
