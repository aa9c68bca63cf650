
/*
 * ngx_http_llm_limit.c - the limits of one request: reserve before it runs,
 * settle when it has ended.
 *
 *     body is read     keys are evaluated; a key that has nothing left is
 *                      refused here, without the engine
 *     SUBMIT           with WANT_PROMPT, if any limit applies
 *     PROMPT           the engine has counted: prompt + expected answer are
 *                      reserved in all zones at once or in none; GO 1, or GO 0
 *                      and the refusal
 *     END, or a loss   the difference is given back or charged
 *
 * The reservation belongs to the slot, not to the context, because a client
 * that leaves does not end what the engine does for it.  All zones of a
 * request are locked together, in the order of their names, which is the same
 * in every process.
 */


#include "ngx_http_llm_limit.h"


#define NGX_HTTP_LLM_LIMIT_MESSAGE  256


/* what a request has reserved; lives in the memory of its process */

struct ngx_http_llm_reservation_s {
    ngx_queue_t                       queue;
    uint32_t                          prompt;
    uint32_t                          events;     /* of a stream, so far */
    uint32_t                          empty;      /* the first names a role */
    unsigned                          newline:1;  /* the last byte was one */
    ngx_uint_t                        n;

    struct {
        ngx_http_llm_limit_zone_t    *zone;
        ngx_uint_t                    type;
        ngx_http_llm_limit_record_t  *record;
    } items[NGX_HTTP_LLM_LIMITS_MAX];
};


static ngx_int_t ngx_http_llm_limit_uses(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_limit_key(ngx_http_request_t *r,
    ngx_http_llm_limit_use_t *use);
static ngx_int_t ngx_http_llm_limit_capacity(ngx_http_request_t *r,
    ngx_http_llm_limit_use_t *use);
static ngx_int_t ngx_http_llm_limit_admit(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_reservation_t **res);
static void ngx_http_llm_limit_expect(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_limit_reserve(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_reservation_t *res, ngx_http_llm_limit_use_t **refusing,
    ngx_http_llm_limit_view_t *view);
static ngx_uint_t ngx_http_llm_limit_sweep(ngx_http_llm_ctx_t *ctx);
static ngx_int_t ngx_http_llm_limit_take_locked(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_limit_use_t **refusing, ngx_http_llm_limit_view_t *view);
static ngx_uint_t ngx_http_llm_limit_look_locked(ngx_http_llm_ctx_t *ctx,
    ngx_uint_t reserve, ngx_http_llm_limit_use_t **refusing,
    ngx_http_llm_limit_view_t *view);
static void ngx_http_llm_limit_show(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_limit_use_t *use, ngx_http_llm_limit_view_t *view);
static ngx_int_t ngx_http_llm_limit_refuse(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_limit_use_t *use, ngx_http_llm_limit_view_t *view);
static u_char *ngx_http_llm_limit_message(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_limit_use_t *use, ngx_http_llm_limit_view_t *view);
static u_char *ngx_http_llm_limit_duration(u_char *p, u_char *last,
    ngx_msec_t ms);
static void ngx_http_llm_limit_release(ngx_http_llm_reservation_t *res,
    struct llm_end *end);


static ngx_queue_t  ngx_http_llm_reservations;

static const char  *ngx_http_llm_limit_types[] = {
    "tokens", "prompt tokens", "completion tokens"
};


/*
 * Before the engine is asked.  NGX_OK, or the status of a refusal: a key
 * without a token left need not be counted for.
 */

ngx_int_t
ngx_http_llm_limit_check(ngx_http_llm_ctx_t *ctx)
{
    ngx_int_t                   rc;
    ngx_uint_t                  i, refused;
    ngx_http_llm_limit_use_t   *refusing;
    ngx_http_llm_limit_view_t   view;

    rc = ngx_http_llm_limit_uses(ctx);

    if (rc != NGX_OK || ctx->nlimits == 0) {
        return rc;
    }

    for (i = 0; i < ctx->nlimits; i++) {
        ctx->limits[i].cost = 1;
        ngx_http_llm_limit_lock(ctx->limits[i].zone);
    }

    refused = ngx_http_llm_limit_look_locked(ctx, 0, &refusing, &view);

    if (refused && ngx_http_llm_limit_sweep(ctx)) {
        refused = ngx_http_llm_limit_look_locked(ctx, 0, &refusing, &view);
    }

    while (i--) {
        ngx_http_llm_limit_unlock(ctx->limits[i].zone);
    }

    if (refused) {
        return ngx_http_llm_limit_refuse(ctx, refusing, &view);
    }

    ctx->want_prompt = 1;

    return NGX_OK;
}


/* the limits of the location that have a key for this request */

static ngx_int_t
ngx_http_llm_limit_uses(ngx_http_llm_ctx_t *ctx)
{
    ngx_int_t                  rc;
    ngx_uint_t                 i;
    ngx_http_request_t        *r;
    ngx_http_llm_limit_t     **limits;
    ngx_http_llm_loc_conf_t   *llcf;
    ngx_http_llm_limit_use_t  *use;

    r = ctx->request;
    llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);

    ctx->nlimits = 0;
    ctx->want_prompt = 0;

    if (llcf->all_limits == NULL
        || (ctx->route != LLM_ROUTE_CHAT_COMPLETIONS
            && ctx->route != LLM_ROUTE_COMPLETIONS))
    {
        return NGX_OK;
    }

    limits = llcf->all_limits->elts;

    ctx->limits = ngx_pcalloc(r->pool, llcf->all_limits->nelts
                                       * sizeof(ngx_http_llm_limit_use_t));
    if (ctx->limits == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    for (i = 0; i < llcf->all_limits->nelts; i++) {
        use = &ctx->limits[ctx->nlimits];

        use->limit = limits[i];
        use->zone = limits[i]->shm_zone->data;

        rc = ngx_http_llm_limit_key(r, use);

        if (rc == NGX_OK) {
            rc = ngx_http_llm_limit_capacity(r, use);
        }

        if (rc == NGX_OK) {
            ctx->nlimits++;

        } else if (rc != NGX_DECLINED) {
            ctx->nlimits = 0;
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    return NGX_OK;
}


/* NGX_DECLINED: an empty key is not limited */

static ngx_int_t
ngx_http_llm_limit_key(ngx_http_request_t *r, ngx_http_llm_limit_use_t *use)
{
    if (ngx_http_complex_value(r, &use->zone->key, &use->key) != NGX_OK) {
        return NGX_ERROR;
    }

    if (use->key.len == 0) {
        return NGX_DECLINED;
    }

    /* a token of an identity provider may be long; none goes unlimited */

    if (ngx_http_llm_shorten(r, &use->key, NGX_HTTP_LLM_LIMIT_KEY) != NGX_OK) {
        return NGX_ERROR;
    }

    use->hash = ngx_crc32_short(use->key.data, use->key.len);

    return NGX_OK;
}


/* NGX_DECLINED: an empty limit is none */

static ngx_int_t
ngx_http_llm_limit_capacity(ngx_http_request_t *r,
    ngx_http_llm_limit_use_t *use)
{
    off_t      n;
    ngx_str_t  value;

    if (!use->zone->quota) {
        use->capacity = use->limit->burst ? use->limit->burst
                                          : use->zone->rate;
        return NGX_OK;
    }

    if (ngx_http_complex_value(r, use->limit->value, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    if (value.len == 0) {
        return NGX_DECLINED;
    }

    n = ngx_atoof(value.data, value.len);

    if (n == NGX_ERROR || n > NGX_HTTP_LLM_LIMIT_BURST) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "invalid quota \"%V\" of zone \"%V\"",
                      &value, &use->zone->shm_zone->shm.name);
        return NGX_ERROR;
    }

    use->capacity = n;

    return NGX_OK;
}


/* PROMPT has come */

void
ngx_http_llm_limit_answer(ngx_http_llm_ctx_t *ctx)
{
    ngx_int_t  rc;

    if (ctx->slot == NGX_HTTP_LLM_NO_SLOT) {
        return;
    }

    rc = ngx_http_llm_limit_admit(ctx,
                           &ctx->session->slots[ctx->slot].reservation);

    if (rc == NGX_OK) {
        ngx_http_llm_request_go(ctx, 1);
        return;
    }

    ngx_http_llm_request_go(ctx, 0);

    ctx->finalized = 1;

    ngx_http_finalize_request(ctx->request, rc);
}


/*
 * NGX_OK: GO; *res is to be kept with the slot and may be NULL.  Otherwise the
 * status of the refusal.
 */

static ngx_int_t
ngx_http_llm_limit_admit(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_reservation_t **res)
{
    ngx_int_t                    rc;
    ngx_http_llm_limit_use_t    *refusing;
    ngx_http_llm_limit_view_t    view;
    ngx_http_llm_reservation_t  *p;

    *res = NULL;

    p = ngx_calloc(sizeof(ngx_http_llm_reservation_t), ngx_cycle->log);
    if (p == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_http_llm_limit_expect(ctx);

    rc = ngx_http_llm_limit_reserve(ctx, p, &refusing, &view);

    if (rc == NGX_OK) {
        ctx->limit_status = NGX_HTTP_LLM_LIMIT_PASSED;

        p->prompt = ctx->prompt.prompt_tokens;
        p->empty = (ctx->route == LLM_ROUTE_CHAT_COMPLETIONS);

        if (ngx_http_llm_reservations.next == NULL) {
            ngx_queue_init(&ngx_http_llm_reservations);
        }

        ngx_queue_insert_tail(&ngx_http_llm_reservations, &p->queue);
        *res = p;

        return NGX_OK;
    }

    ngx_free(p);

    if (rc == NGX_ERROR) {
        ngx_log_error(NGX_LOG_ERR, ctx->request->connection->log, 0,
                      "no room for another key in zone \"%V\"",
                      &refusing->zone->shm_zone->shm.name);

        return ngx_http_llm_error(ctx, NGX_HTTP_SERVICE_UNAVAILABLE,
                                  "overloaded",
                                  "Usage cannot be counted now.");
    }

    return ngx_http_llm_limit_refuse(ctx, refusing, &view);
}


/*
 * What to reserve.  A limit on the answer above llm_limit_expect is taken for
 * "no limit in particular": then that much is reserved, or whatever the key
 * can hold at all, so that clients which never say max_tokens can pass.
 */

static void
ngx_http_llm_limit_expect(ngx_http_llm_ctx_t *ctx)
{
    int64_t                    prompt, completion;
    ngx_uint_t                 i, bounded;
    ngx_http_llm_loc_conf_t   *llcf;
    ngx_http_llm_limit_use_t  *use;

    llcf = ngx_http_get_module_loc_conf(ctx->request, ngx_http_llm_module);

    prompt = ctx->prompt.prompt_tokens;
    completion = ctx->prompt.max_completion_tokens;
    bounded = 0;

    if (llcf->limit_expect != NGX_HTTP_LLM_LIMIT_EXPECT_MAX
        && completion > (int64_t) llcf->limit_expect)
    {
        completion = llcf->limit_expect;
        bounded = 1;
    }

    ctx->reserved_tokens = 0;

    for (i = 0; i < ctx->nlimits; i++) {
        use = &ctx->limits[i];

        use->cost = ngx_http_llm_limit_cost(use->limit->type, prompt,
                                            completion);

        if (bounded
            && use->cost > use->capacity
            && ngx_http_llm_limit_cost(use->limit->type, prompt, 0)
               < use->capacity)
        {
            use->cost = use->capacity;
        }

        ctx->reserved_tokens = ngx_max(ctx->reserved_tokens, use->cost);
    }
}


/* all or nothing; NGX_DECLINED: refused, NGX_ERROR: a zone is full */

static ngx_int_t
ngx_http_llm_limit_reserve(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_reservation_t *res, ngx_http_llm_limit_use_t **refusing,
    ngx_http_llm_limit_view_t *view)
{
    ngx_int_t                  rc;
    ngx_uint_t                 i;
    ngx_http_llm_limit_use_t  *use;

    for (i = 0; i < ctx->nlimits; i++) {
        ngx_http_llm_limit_lock(ctx->limits[i].zone);
    }

    rc = ngx_http_llm_limit_take_locked(ctx, refusing, view);

    if (rc != NGX_OK && ngx_http_llm_limit_sweep(ctx)) {
        rc = ngx_http_llm_limit_take_locked(ctx, refusing, view);
    }

    if (rc == NGX_OK) {

        for (i = 0; i < ctx->nlimits; i++) {
            use = &ctx->limits[i];

            res->items[i].zone = use->zone;
            res->items[i].type = use->limit->type;
            res->items[i].record = use->record;
        }

        res->n = i;
    }

    for (i = ctx->nlimits; i--; /* void */) {
        ngx_http_llm_limit_unlock(ctx->limits[i].zone);
    }

    return rc;
}


/* before a refusal: perhaps it is the dead who hold the tokens */

static ngx_uint_t
ngx_http_llm_limit_sweep(ngx_http_llm_ctx_t *ctx)
{
    ngx_uint_t  i, n;

    n = 0;

    for (i = 0; i < ctx->nlimits; i++) {
        n += ngx_http_llm_limit_sweep_locked(ctx->limits[i].zone);
    }

    return n;
}


static ngx_int_t
ngx_http_llm_limit_take_locked(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_limit_use_t **refusing, ngx_http_llm_limit_view_t *view)
{
    ngx_int_t                  rc;
    ngx_uint_t                 i;
    ngx_http_llm_limit_use_t  *use;

    rc = NGX_OK;

    /* whatever can fail comes before anything is charged */

    for (i = 0; i < ctx->nlimits; i++) {
        use = &ctx->limits[i];

        use->record = NULL;
        use->node = ngx_http_llm_limit_get_locked(use->zone, &use->key,
                                                  use->hash);
        if (use->node) {
            use->record = ngx_http_llm_limit_record_alloc_locked(use->zone,
                                                                 use->node);
        }

        if (use->record == NULL) {
            *refusing = use;
            rc = NGX_ERROR;
            break;
        }
    }

    if (rc == NGX_OK
        && ngx_http_llm_limit_look_locked(ctx, 1, refusing, view))
    {
        rc = NGX_DECLINED;
    }

    if (rc == NGX_OK) {
        return NGX_OK;
    }

    while (i--) {
        use = &ctx->limits[i];
        ngx_http_llm_limit_record_free_locked(use->zone, use->record);
    }

    return rc;
}


/*
 * 1: at least one limit refuses; *refusing is the one that takes longest.  With
 * "reserve" and no refusal the costs are charged.  Shows the tightest one.
 */

static ngx_uint_t
ngx_http_llm_limit_look_locked(ngx_http_llm_ctx_t *ctx, ngx_uint_t reserve,
    ngx_http_llm_limit_use_t **refusing, ngx_http_llm_limit_view_t *view)
{
    ngx_uint_t                  i;
    ngx_http_llm_limit_use_t   *use;
    ngx_http_llm_limit_view_t   v;

    *refusing = NULL;

    for (i = 0; i < ctx->nlimits; i++) {
        use = &ctx->limits[i];

        if (!reserve) {
            use->node = ngx_http_llm_limit_find_locked(use->zone, &use->key,
                                                       use->hash);
        }

        if (use->node) {
            ngx_http_llm_limit_update_locked(use->zone, use->node);
        }

        ngx_http_llm_limit_view_locked(use->zone, use->node, use->capacity,
                                       use->cost, &v);

        if (v.fits) {
            continue;
        }

        if (*refusing == NULL || v.too_large > view->too_large
            || (v.too_large == view->too_large && v.wait > view->wait))
        {
            *refusing = use;
            *view = v;
        }
    }

    if (*refusing) {
        return 1;
    }

    for (i = 0; reserve && i < ctx->nlimits; i++) {
        use = &ctx->limits[i];

        ngx_http_llm_limit_record_charge_locked(use->zone, use->record,
                                                use->cost);

        ngx_http_llm_limit_view_locked(use->zone, use->node, use->capacity, 0,
                                       &v);

        if (i == 0 || v.remaining < ctx->limit_remaining) {
            ngx_http_llm_limit_show(ctx, use, &v);
        }
    }

    return 0;
}


/* for the variables and headers */

static void
ngx_http_llm_limit_show(ngx_http_llm_ctx_t *ctx, ngx_http_llm_limit_use_t *use,
    ngx_http_llm_limit_view_t *view)
{
    ctx->limit_tokens = use->capacity;
    ctx->limit_remaining = view->remaining;
    ctx->limit_reset = view->reset;
    ctx->limit_shown = 1;
}


/* the status; or NGX_OK with llm_limit_dry_run */

static ngx_int_t
ngx_http_llm_limit_refuse(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_limit_use_t *use, ngx_http_llm_limit_view_t *view)
{
    u_char                   *message;
    ngx_uint_t                status;
    ngx_http_request_t       *r;
    ngx_http_llm_loc_conf_t  *llcf;

    r = ctx->request;
    llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);

    ngx_log_error(llcf->limit_log_level, r->connection->log, 0,
                  "limiting %s%s, limit: %L, used: %L, requested: %L, by zone "
                  "\"%V\"", ngx_http_llm_limit_types[use->limit->type],
                  llcf->limit_dry_run ? ", dry run" : "",
                  use->capacity, view->used, use->cost,
                  &use->zone->shm_zone->shm.name);

    ngx_http_llm_limit_show(ctx, use, view);

    ctx->reserved_tokens = 0;

    if (llcf->limit_dry_run) {
        ctx->limit_status = NGX_HTTP_LLM_LIMIT_REJECTED_DRY_RUN;
        return NGX_OK;
    }

    ctx->limit_status = NGX_HTTP_LLM_LIMIT_REJECTED;

    message = ngx_http_llm_limit_message(ctx, use, view);
    if (message == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    status = use->zone->quota ? use->limit->status : llcf->limit_status;

    (void) ngx_http_llm_error(ctx, status,
                              use->zone->quota ? "insufficient_quota"
                                               : "rate_limit_exceeded",
                              (const char *) message);

    ctx->error.type = use->zone->quota ? "insufficient_quota" : "tokens";
    ctx->error.retry_after = view->too_large ? 0 : (view->wait + 999) / 1000;

    /* what takes longer than a client's patience */

    ctx->error.no_retry = view->too_large || use->zone->quota;

    return (ngx_int_t) status;
}


/* in OpenAI's words, with the numbers that led to it; without quotes */

static u_char *
ngx_http_llm_limit_message(ngx_http_llm_ctx_t *ctx,
    ngx_http_llm_limit_use_t *use, ngx_http_llm_limit_view_t *view)
{
    u_char      *p, *last, *message;
    ngx_tm_t     tm;
    const char  *type;

    message = ngx_pnalloc(ctx->request->pool, NGX_HTTP_LLM_LIMIT_MESSAGE);
    if (message == NULL) {
        return NULL;
    }

    type = ngx_http_llm_limit_types[use->limit->type];
    last = message + NGX_HTTP_LLM_LIMIT_MESSAGE - 1;

    if (view->too_large) {
        p = ngx_slprintf(message, last, "Request too large on %s: Limit %L, "
                         "Requested %L. The input or output tokens must be "
                         "reduced in order to run successfully.",
                         type, use->capacity, use->cost);

    } else if (use->zone->quota) {
        ngx_gmtime(ngx_time() + view->wait / 1000, &tm);

        p = ngx_slprintf(message, last, "You exceeded your quota of %s per "
                         "%V: Limit %L, Used %L, Requested %L. It resets at "
                         "%4d-%02d-%02dT%02d:%02d:%02dZ.", type,
                         &use->zone->period_text, use->capacity, view->used,
                         use->cost, tm.ngx_tm_year, tm.ngx_tm_mon,
                         tm.ngx_tm_mday, tm.ngx_tm_hour, tm.ngx_tm_min,
                         tm.ngx_tm_sec);

    } else {
        p = ngx_slprintf(message, last, "Rate limit reached on %s per %s: "
                         "Limit %L, Used %L, Requested %L. Please try again "
                         "in ", type, use->zone->unit, use->capacity,
                         view->used, use->cost);
        p = ngx_http_llm_limit_duration(p, last, view->wait);
        p = ngx_slprintf(p, last, ".");
    }

    *p = '\0';

    return message;
}


/* as OpenAI writes it: 20ms, 1.5s, 6m0s, 1h0m0s */

static u_char *
ngx_http_llm_limit_duration(u_char *p, u_char *last, ngx_msec_t ms)
{
    ngx_uint_t  s;

    if (ms < 1000) {
        return ngx_slprintf(p, last, "%Mms", ms);
    }

    s = (ngx_uint_t) (ms / 1000);

    if (s >= 3600) {
        p = ngx_slprintf(p, last, "%uih", s / 3600);
    }

    if (s >= 60) {
        return ngx_slprintf(p, last, "%uim%uis", s % 3600 / 60, s % 60);
    }

    return (ms % 1000) ? ngx_slprintf(p, last, "%ui.%03Ms", s, ms % 1000)
                       : ngx_slprintf(p, last, "%uis", s);
}


/* x-ratelimit-*: the tightest limit, as it was after the reservation */

ngx_int_t
ngx_http_llm_limit_headers(ngx_http_llm_ctx_t *ctx)
{
    u_char                   *p, *last;
    ngx_str_t                 value;
    ngx_uint_t                i;
    ngx_http_request_t       *r;
    ngx_http_llm_loc_conf_t  *llcf;

    static const char  *names[] = {
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens"
    };

    r = ctx->request;
    llcf = ngx_http_get_module_loc_conf(r, ngx_http_llm_module);

    if (!ctx->limit_shown || ctx->limit_headers || llcf->limit_headers == 0) {
        return NGX_OK;
    }

    ctx->limit_headers = 1;

    for (i = 0; i < 3; i++) {
        p = ngx_pnalloc(r->pool, NGX_INT64_LEN + 16);
        if (p == NULL) {
            return NGX_ERROR;
        }

        last = p + NGX_INT64_LEN + 16;
        value.data = p;

        switch (i) {

        case 0:
            p = ngx_slprintf(p, last, "%L", ctx->limit_tokens);
            break;

        case 1:
            p = ngx_slprintf(p, last, "%L", ctx->limit_remaining);
            break;

        default:
            p = ngx_http_llm_limit_duration(p, last, ctx->limit_reset);
        }

        value.len = p - value.data;

        if (ngx_http_llm_add_header(r, names[i], &value) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/*
 * Bytes of a stream on their way to the client.  How many tokens they are is
 * known from END only; until then an event counts as one, so that a request
 * that is lost is charged what it has delivered.
 */

void
ngx_http_llm_limit_data(ngx_http_llm_reservation_t *res, const u_char *data,
    size_t len)
{
    int64_t        lost;
    ngx_uint_t     i;
    const u_char  *last;

    for (last = data + len; data < last; data++) {

        if (*data == '\n' && res->newline) {
            res->events++;
            res->newline = 0;

        } else {
            res->newline = (*data == '\n');
        }
    }

    if (res->events <= res->empty) {
        return;
    }

    for (i = 0; i < res->n; i++) {
        lost = ngx_http_llm_limit_cost(res->items[i].type, res->prompt,
                                       res->events - res->empty);

        __atomic_store_n(&res->items[i].record->lost, lost, __ATOMIC_RELAXED);
    }
}


/*
 * The request has ended; end is NULL when the engine was lost.  What failed
 * without a token is free, unless it was the client who did not wait for it.
 */

void
ngx_http_llm_limit_settle(ngx_http_llm_reservation_t *res,
    struct llm_end *end)
{
    if (res == NULL) {
        return;
    }

    ngx_http_llm_limit_release(res, end);

    ngx_queue_remove(&res->queue);
    ngx_free(res);
}


static void
ngx_http_llm_limit_release(ngx_http_llm_reservation_t *res,
    struct llm_end *end)
{
    int64_t                       cost;
    ngx_uint_t                    i, is_free;
    ngx_http_llm_limit_zone_t    *zone;
    ngx_http_llm_limit_record_t  *rec;

    is_free = 0;

    if (end && end->completion_tokens == 0) {

        switch (end->reason) {

        case LLM_FINISH_STOP:
        case LLM_FINISH_LENGTH:
        case LLM_FINISH_TOOL_CALLS:
        case LLM_FINISH_CLIENT_ABORT:
        case LLM_FINISH_SLOW_READER:
            break;

        default:
            is_free = 1;
        }
    }

    for (i = 0; i < res->n; i++) {
        zone = res->items[i].zone;
        rec = res->items[i].record;

        if (end == NULL) {
            cost = rec->lost;

        } else if (is_free) {
            cost = 0;

        } else {
            cost = ngx_http_llm_limit_cost(res->items[i].type,
                                           end->prompt_tokens,
                                           end->completion_tokens);
        }

        ngx_http_llm_limit_lock(zone);
        ngx_http_llm_limit_record_settle_locked(zone, rec, cost);
        ngx_http_llm_limit_unlock(zone);
    }

    res->n = 0;
}


/* the reservations of processes that were killed come back */

void
ngx_http_llm_limit_init_process(ngx_cycle_t *cycle)
{
    ngx_uint_t                   i;
    ngx_http_llm_main_conf_t    *mcf;
    ngx_http_llm_limit_zone_t  **zones;

    mcf = ngx_http_llm_cycle_conf(cycle);

    if (mcf == NULL) {
        return;
    }

    zones = mcf->limit_zones.elts;

    for (i = 0; i < mcf->limit_zones.nelts; i++) {
        ngx_http_llm_limit_lock(zones[i]);

        zones[i]->sh->swept = 0;
        (void) ngx_http_llm_limit_sweep_locked(zones[i]);

        ngx_http_llm_limit_unlock(zones[i]);

        ngx_http_llm_quota_init_process(zones[i], cycle);
    }
}


/* whatever still runs is cut off now: settled like a lost engine's */

void
ngx_http_llm_limit_exit_process(ngx_cycle_t *cycle)
{
    ngx_uint_t                   i;
    ngx_queue_t                 *q;
    ngx_http_llm_main_conf_t    *mcf;
    ngx_http_llm_limit_zone_t  **zones;

    if (ngx_http_llm_reservations.next) {

        for (q = ngx_queue_head(&ngx_http_llm_reservations);
             q != ngx_queue_sentinel(&ngx_http_llm_reservations);
             q = ngx_queue_next(q))
        {
            ngx_http_llm_limit_release(ngx_queue_data(q,
                                       ngx_http_llm_reservation_t, queue),
                                       NULL);
        }
    }

    mcf = ngx_http_llm_cycle_conf(cycle);

    if (mcf == NULL) {
        return;
    }

    zones = mcf->limit_zones.elts;

    for (i = 0; i < mcf->limit_zones.nelts; i++) {
        ngx_http_llm_limit_lock(zones[i]);
        ngx_http_llm_limit_leave_locked(zones[i]);
        ngx_http_llm_limit_unlock(zones[i]);

        ngx_http_llm_quota_exit(zones[i], cycle->log);
    }
}
