
/*
 * ngx_http_llm_balance.c - llm_balance: which engine of a model serves next.
 *
 * Each engine publishes its load in shared memory every LLM_HEARTBEAT_MS, so
 * all workers see the same; what this worker has submitted or got back since
 * is added.  An engine that is loading, draining, hung or gone is not chosen
 * while another one can serve, be it one of a fallback model.
 */


#include "ngx_http_llm.h"


#define NGX_HTTP_LLM_WAITING_WEIGHT  4       /* as in vLLM's own balancer */


/* how well an engine can take a request; the lower the better */

#define NGX_HTTP_LLM_READY           0
#define NGX_HTTP_LLM_COMING          1       /* the session is being set up */
#define NGX_HTTP_LLM_REFUSES         2       /* loading, draining, too small */
#define NGX_HTTP_LLM_USELESS         3       /* hangs, is gone or was tried */


typedef struct {
    ngx_http_llm_engine_t   *engine;
    ngx_http_llm_session_t  *session;
    uint64_t                 load;
    uint64_t                 hash;
    uint32_t                 kv_used;
    uint32_t                 kv_total;
} ngx_http_llm_peer_t;


static ngx_int_t ngx_http_llm_choose_of(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_model_t *model, ngx_uint_t rank, ngx_uint_t *reasons);
static ngx_http_llm_peer_t *ngx_http_llm_choose_peer(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_peer_t *peers, ngx_uint_t n, ngx_uint_t turn);
static ngx_uint_t ngx_http_llm_engine_rank(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_engine_t *engine, ngx_http_llm_peer_t *peer,
    ngx_uint_t *reason);
static ngx_uint_t ngx_http_llm_was_tried(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_engine_t *engine, ngx_http_llm_session_t *s);
static uint64_t ngx_http_llm_load(ngx_http_llm_session_t *s,
    struct llm_stats *stats);
static ngx_http_llm_peer_t *ngx_http_llm_least_conn(
    ngx_http_llm_peer_t *peers, ngx_uint_t n, ngx_uint_t turn);
static ngx_http_llm_peer_t *ngx_http_llm_prefix_hash(
    ngx_http_llm_peer_t *peers, ngx_uint_t n, uint64_t hash);


/*
 * Before the body is read: which engine will serve may depend on it, so this
 * refuses only what none of those that can be chosen could take.
 */

ngx_int_t
ngx_http_llm_check_engines(ngx_http_llm_ctx_t *ctx)
{
    uint64_t                    body_max, max;
    ngx_uint_t                  i, n, up;
    const char                 *trouble;
    ngx_http_request_t         *r;
    ngx_http_llm_model_t       *model;
    ngx_http_llm_engine_t     **enginep;
    ngx_http_llm_session_t     *s;
    ngx_http_llm_loc_conf_t    *llcf;
    ngx_http_llm_main_conf_t   *mcf;

    r = ctx->request;
    llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);
    mcf = ngx_http_get_module_main_conf(r, ngx_http_llm_module);

    model = llcf->model;

    if (model && model->nfallbacks == 0) {
        enginep = model->engines;
        n = model->nengines;

    } else {
        enginep = mcf->engines.elts;
        n = mcf->engines.nelts;
    }

    up = 0;
    body_max = 0;
    trouble = "not defined";

    for (i = 0; i < n; i++) {
        s = ngx_http_llm_handover_choose(enginep[i]);
        trouble = ngx_http_llm_session_trouble(s);

        if (trouble == NULL) {
            up = 1;
            max = (s->state == NGX_HTTP_LLM_UP) ? s->body_max : UINT64_MAX;
            body_max = ngx_max(body_max, max);
        }
    }

    if (!up) {
        ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                      "engine \"%V\" is %s",
                      n ? &enginep[n - 1]->name : &llcf->pass_name, trouble);

        ctx->session = n ? ngx_http_llm_handover_choose(enginep[0]) : NULL;

        return ngx_http_llm_error(ctx, NGX_HTTP_SERVICE_UNAVAILABLE,
                                  "engine_unavailable",
                            ngx_http_llm_session_message(ctx->session));
    }

    if (r->headers_in.content_length_n > 0
        && (uint64_t) r->headers_in.content_length_n > body_max)
    {
        return ngx_http_llm_error(ctx, NGX_HTTP_REQUEST_ENTITY_TOO_LARGE,
                                  "request_too_large",
                                  "The request body is too large.");
    }

    return NGX_OK;
}


/*
 * Sets ctx->engine, ctx->session and ctx->model, the first time and for every
 * further try.  An engine that is ready is preferred, also that of a fallback
 * if llm_next_engine lets the request leave its model for what ails the others;
 * then one that is coming.  What would refuse is asked only when nothing has
 * been tried yet, for it knows best why and for how long.
 */

ngx_int_t
ngx_http_llm_choose(ngx_http_llm_ctx_t *ctx)
{
    ngx_uint_t                i, rank, worst, reasons;
    ngx_http_llm_model_t     *first, *model;
    ngx_http_llm_loc_conf_t  *llcf;

    llcf = ngx_http_get_module_loc_conf(ctx->request, ngx_http_llm_module);

    if (ctx->first_model == NULL) {
        ctx->first_model = ctx->model;
        ctx->first_try = ngx_current_msec;
    }

    first = ctx->first_model;
    worst = ctx->ntried ? NGX_HTTP_LLM_COMING : NGX_HTTP_LLM_REFUSES;

    for (rank = NGX_HTTP_LLM_READY; rank <= worst; rank++) {

        reasons = 0;

        for (i = 0; i <= first->nfallbacks; i++) {
            model = i ? first->fallbacks[i - 1] : first;

            if (ngx_http_llm_choose_of(ctx, model, rank, &reasons) == NGX_OK)
            {
                if (model != ctx->model) {
                    ngx_log_error(NGX_LOG_INFO, ctx->request->connection->log,
                                  0, "request %V for model \"%V\" goes to "
                                  "\"%V\"", &ctx->request_id, &first->name,
                                  &model->name);
                }

                ctx->model = model;

                return NGX_OK;
            }

            if ((llcf->next_engine & NGX_HTTP_LLM_NEXT_OFF)
                || (reasons & ~llcf->next_engine)
                || rank == NGX_HTTP_LLM_REFUSES)
            {
                break;
            }
        }
    }

    return NGX_DECLINED;
}


static ngx_int_t
ngx_http_llm_choose_of(ngx_http_llm_ctx_t *ctx, ngx_http_llm_model_t *model,
    ngx_uint_t rank, ngx_uint_t *reasons)
{
    ngx_uint_t            i, n, reason;
    ngx_http_llm_peer_t   peers[NGX_HTTP_LLM_MODEL_ENGINES], *peer;

    n = 0;

    for (i = 0; i < model->nengines; i++) {

        if (ngx_http_llm_engine_rank(ctx, model->engines[i], &peers[n],
                                     &reason)
            == rank)
        {
            n++;
            continue;
        }

        *reasons |= reason;
    }

    if (n == 0) {
        return NGX_DECLINED;
    }

    peer = (n == 1) ? &peers[0]
                    : ngx_http_llm_choose_peer(ctx, peers, n, model->turn++);

    ctx->engine = peer->engine;
    ctx->session = peer->session;

    return NGX_OK;
}


static ngx_http_llm_peer_t *
ngx_http_llm_choose_peer(ngx_http_llm_ctx_t *ctx, ngx_http_llm_peer_t *peers,
    ngx_uint_t n, ngx_uint_t turn)
{
    ngx_http_llm_loc_conf_t  *llcf;

    llcf = ngx_http_get_module_loc_conf(ctx->request, ngx_http_llm_module);

    switch (llcf->balance) {

    case NGX_HTTP_LLM_ROUND_ROBIN:
        return &peers[turn % n];

    case NGX_HTTP_LLM_PREFIX_HASH:

        if (ngx_http_llm_scan(ctx) == NGX_OK && ctx->prefix_hash) {
            return ngx_http_llm_prefix_hash(peers, n, ctx->prefix_hash);
        }

        /* a request without a prompt is at home anywhere */

        /* fall through */

    default: /* NGX_HTTP_LLM_LEAST_CONN */
        return ngx_http_llm_least_conn(peers, n, turn);
    }
}


/* fills the peer for engines of every rank but the last */

static ngx_uint_t
ngx_http_llm_engine_rank(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_engine_t *engine, ngx_http_llm_peer_t *peer,
    ngx_uint_t *reason)
{
    struct llm_stats         stats;
    ngx_http_llm_session_t  *s;

    s = ngx_http_llm_handover_choose(engine);

    *reason = 0;

    if (ngx_http_llm_was_tried(ctx, engine, s)) {
        return NGX_HTTP_LLM_USELESS;
    }

    *reason = NGX_HTTP_LLM_NEXT_ERROR;

    if (ngx_http_llm_session_trouble(s) != NULL) {

        if (s && s->state != NGX_HTTP_LLM_DOWN) {
            *reason = NGX_HTTP_LLM_NEXT_TIMEOUT;
        }

        return NGX_HTTP_LLM_USELESS;
    }

    ngx_memzero(peer, sizeof(ngx_http_llm_peer_t));
    peer->engine = engine;
    peer->session = s;
    peer->hash = llm_hash(LLM_HASH_INIT, engine->name.data, engine->name.len);
    peer->load = s->busy + s->nwaiting;

    if (s->state != NGX_HTTP_LLM_UP) {
        return NGX_HTTP_LLM_COMING;
    }

    llm_ring_read_stats(s->e, &stats);

    peer->load = ngx_http_llm_load(s, &stats);
    peer->kv_used = stats.kv_blocks_used;
    peer->kv_total = stats.kv_blocks_total;

    *reason = NGX_HTTP_LLM_NEXT_BUSY;

    if (stats.state != LLM_STATE_READY
        || (uint64_t) ctx->body_size > s->body_max)
    {
        return NGX_HTTP_LLM_REFUSES;
    }

    return NGX_HTTP_LLM_READY;
}


/* two engines may be one process, if their "server" is the same */

static ngx_uint_t
ngx_http_llm_was_tried(ngx_http_llm_ctx_t *ctx, ngx_http_llm_engine_t *engine,
    ngx_http_llm_session_t *s)
{
    ngx_uint_t  i;

    for (i = 0; i < ctx->ntried; i++) {
        if (ctx->tried[i].engine == engine || ctx->tried[i].session == s) {
            return 1;
        }
    }

    return 0;
}


/*
 * Requests that the engine runs or has before it.  One that waits weighs more
 * than one that runs: it says that the engine has all it can take.
 */

static uint64_t
ngx_http_llm_load(ngx_http_llm_session_t *s, struct llm_stats *stats)
{
    int64_t  n, own;

    n = (int64_t) stats->running + stats->waiting + stats->queued;

    if (s->beat == stats->heartbeat_ns) {
        n += s->since;
    }

    /* whatever is published, what this worker has there is there */

    own = (int64_t) (s->busy + s->nwaiting);
    n = ngx_max(n, own);

    return (uint64_t) n
           + (uint64_t) stats->waiting * (NGX_HTTP_LLM_WAITING_WEIGHT - 1);
}


/* a request has begun (1) or has ended (-1) that the statistics do not show */

void
ngx_http_llm_session_count(ngx_http_llm_session_t *s, ngx_int_t change)
{
    struct llm_stats  stats;

    if (s->e == NULL) {
        return;
    }

    llm_ring_read_stats(s->e, &stats);

    if (s->beat != stats.heartbeat_ns) {
        s->beat = stats.heartbeat_ns;
        s->since = 0;
    }

    s->since += change;
}


/* the least loaded; of equals the one with the emptier cache, then in turn */

static ngx_http_llm_peer_t *
ngx_http_llm_least_conn(ngx_http_llm_peer_t *peers, ngx_uint_t n,
    ngx_uint_t turn)
{
    uint64_t              used, best_used;
    ngx_uint_t            i;
    ngx_http_llm_peer_t  *peer, *best;

    best = &peers[turn % n];

    for (i = 1; i < n; i++) {
        peer = &peers[(turn + i) % n];

        /* kv_used / kv_total, without a division by nothing */

        used = (uint64_t) peer->kv_used * best->kv_total;
        best_used = (uint64_t) best->kv_used * peer->kv_total;

        if (peer->load < best->load
            || (peer->load == best->load && used < best_used))
        {
            best = peer;
        }
    }

    return best;
}


/*
 * Rendezvous hashing: the highest weight of (prompt, engine) wins, so that an
 * engine that comes or goes moves only its own prompts.  One with more than
 * 1.25 times its share of all requests, and two more, is passed over.
 */

static ngx_http_llm_peer_t *
ngx_http_llm_prefix_hash(ngx_http_llm_peer_t *peers, ngx_uint_t n,
    uint64_t hash)
{
    uint64_t              total, weight, best_weight;
    ngx_uint_t            i;
    ngx_http_llm_peer_t  *best;

    total = 1;

    for (i = 0; i < n; i++) {
        total += peers[i].load;
    }

    best = NULL;
    best_weight = 0;

    for (i = 0; i < n; i++) {

        if (peers[i].load + 1 > total * 5 / (4 * n) + 2) {
            continue;
        }

        weight = llm_hash_mix(hash + llm_hash_mix(peers[i].hash));

        if (best == NULL || weight > best_weight) {
            best = &peers[i];
            best_weight = weight;
        }
    }

    return best ? best : ngx_http_llm_least_conn(peers, n, 0);
}
