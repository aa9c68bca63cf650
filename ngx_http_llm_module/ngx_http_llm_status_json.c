
/*
 * ngx_http_llm_status_json.c - llm_status as one JSON document: what the page
 * reads each second, and what scripts may.
 *
 * Numbers are plain: seconds as decimals, everything else as integers.  A
 * histogram is {"counts":[..],"sum":S}, one count for each bound of "bounds"
 * and one for what is above, not added up.
 */


#include "ngx_http_llm_status.h"


static void ngx_http_llm_status_name(ngx_http_llm_status_out_t *out,
    const char *key, u_char *data, size_t len);
static void ngx_http_llm_status_json_workers(ngx_http_llm_status_out_t *out);
static void ngx_http_llm_status_json_engine(ngx_http_llm_status_out_t *out,
    ngx_http_llm_engine_t *engine);
static void ngx_http_llm_status_json_errors(ngx_http_llm_status_out_t *out,
    ngx_uint_t engine);
static void ngx_http_llm_status_json_series(ngx_http_llm_status_out_t *out,
    ngx_str_t *engine, ngx_http_llm_status_series_t *se);
static void ngx_http_llm_status_json_bounds(ngx_http_llm_status_out_t *out);


void
ngx_http_llm_status_json(ngx_http_llm_status_out_t *out)
{
    ngx_str_t                      none, *engine;
    ngx_uint_t                     i, k, n, first;
    ngx_time_t                    *tp;
    ngx_http_llm_engine_t        **enginep;
    ngx_http_llm_main_conf_t      *mcf;
    ngx_http_llm_status_series_t  *se;

    mcf = ngx_http_get_module_main_conf(out->request, ngx_http_llm_module);
    enginep = mcf->engines.elts;

    ngx_str_null(&none);
    tp = ngx_timeofday();

    ngx_http_llm_status_printf(out, "{\"time\":%T.%03M,\"start\":%T,"
                               "\"nginx\":\"%s\"", tp->sec, tp->msec,
                               out->sh->start, NGINX_VERSION);

    ngx_http_llm_status_json_workers(out);

    ngx_http_llm_status_printf(out, ",\n\"engines\":[");

    for (i = 0; i < mcf->engines.nelts; i++) {
        ngx_http_llm_status_printf(out, i ? ",\n" : "\n");
        ngx_http_llm_status_json_engine(out, enginep[i]);
    }

    ngx_http_llm_status_printf(out, "],\n\"errors\":{");
    ngx_http_llm_status_json_errors(out, 0);
    ngx_http_llm_status_printf(out, "},\n\"series\":[");

    first = 1;
    n = out->sh->nseries;

    for (i = 0; i < n; i++) {
        se = &out->sh->series[i];
        engine = (se->engine == 0) ? &none : NULL;

        for (k = 0; k < mcf->engines.nelts && engine == NULL; k++) {
            if (enginep[k]->status == se->engine) {
                engine = &enginep[k]->name;
            }
        }

        if (engine) {
            ngx_http_llm_status_printf(out, first ? "\n" : ",\n");
            ngx_http_llm_status_json_series(out, engine, se);
            first = 0;
        }
    }

    ngx_http_llm_status_printf(out, "],\n\"bounds\":{");
    ngx_http_llm_status_json_bounds(out);
    ngx_http_llm_status_printf(out, "},\n\"zones\":[");
    ngx_http_llm_status_zones_json(out);
    ngx_http_llm_status_printf(out, "]}\n");
}


/* "key":"name" */

static void
ngx_http_llm_status_name(ngx_http_llm_status_out_t *out, const char *key,
    u_char *data, size_t len)
{
    u_char     *p;
    ngx_str_t   text;

    if (ngx_http_llm_status_clean(out->request->pool, &text, data, len)
        != NGX_OK)
    {
        out->failed = 1;
        return;
    }

    p = ngx_pnalloc(out->request->pool, 6 * text.len + 1);
    if (p == NULL) {
        out->failed = 1;
        return;
    }

    len = (u_char *) ngx_escape_json(p, text.data, text.len) - p;

    ngx_http_llm_status_printf(out, "\"%s\":\"%*s\"", key, len, p);
}


static void
ngx_http_llm_status_json_workers(ngx_http_llm_status_out_t *out)
{
    ngx_uint_t                     i, first;
    ngx_http_llm_status_worker_t  *w;

    ngx_http_llm_status_printf(out, ",\n\"workers\":[");
    first = 1;

    for (i = 0; i < NGX_HTTP_LLM_STATUS_WORKERS; i++) {
        w = &out->sh->workers[i];

        if (ngx_http_llm_status_alive(w)) {
            ngx_http_llm_status_printf(out, "%s{\"worker\":%uD,\"pid\":%uA,"
                                       "\"in_flight\":%uD}",
                                       first ? "" : ",", w->worker, w->pid,
                                       w->in_flight);
            first = 0;
        }
    }

    ngx_http_llm_status_printf(out, "]");
}


static void
ngx_http_llm_status_json_engine(ngx_http_llm_status_out_t *out,
    ngx_http_llm_engine_t *engine)
{
    struct llm_stats              *st;
    ngx_http_llm_status_view_t     view;
    ngx_http_llm_status_engine_t  *se;

    ngx_http_llm_status_view(out->sh, engine, &view);
    se = &out->sh->engines[engine->status];
    st = &view.stats;

    ngx_http_llm_status_printf(out, "{");
    ngx_http_llm_status_name(out, "name", engine->name.data, engine->name.len);

    ngx_http_llm_status_printf(out, ",\"state\":\"%s\",\"pid\":%i,"
                               "\"in_flight\":%ui,\"queued\":%ui,"
                               "\"connects\":%uA,\"losses\":%uA",
                               view.state, view.pid, view.in_flight,
                               view.waiting, se->connects, se->losses);

    ngx_http_llm_status_printf(out, ",\"running\":%uD,\"waiting\":%uD,"
                               "\"parked\":%uD,\"before_scheduler\":%uD,"
                               "\"sessions\":%uD,\"kv_blocks_used\":%uD,"
                               "\"kv_blocks\":%uD",
                               st->running, st->waiting, st->parked,
                               st->queued, st->sessions, st->kv_blocks_used,
                               st->kv_blocks_total);

    ngx_http_llm_status_printf(out, ",\"steps\":%uL,\"requests\":%uL,"
                               "\"prompt_tokens\":%uL,"
                               "\"generation_tokens\":%uL,"
                               "\"preemptions\":%uL,\"heartbeat_age\":",
                               st->steps, st->requests_total,
                               st->prompt_tokens_total,
                               st->generation_tokens_total,
                               st->preemptions_total);

    ngx_http_llm_status_seconds(out, view.heartbeat);
    ngx_http_llm_status_printf(out, ",\"progress_age\":");
    ngx_http_llm_status_seconds(out, view.progress);

    ngx_http_llm_status_printf(out, ",\"errors\":{");
    ngx_http_llm_status_json_errors(out, engine->status);
    ngx_http_llm_status_printf(out, "}}");
}


static void
ngx_http_llm_status_json_errors(ngx_http_llm_status_out_t *out,
    ngx_uint_t engine)
{
    ngx_uint_t                     i, first;
    ngx_http_llm_status_engine_t  *se;

    se = &out->sh->engines[engine];
    first = 1;

    for (i = 0; i < NGX_HTTP_LLM_STATUS_REASONS; i++) {

        if (se->refused[i]) {
            ngx_http_llm_status_printf(out, "%s\"%s\":%uA", first ? "" : ",",
                                       ngx_http_llm_status_reasons[i],
                                       se->refused[i]);
            first = 0;
        }
    }
}


static void
ngx_http_llm_status_json_series(ngx_http_llm_status_out_t *out,
    ngx_str_t *engine, ngx_http_llm_status_series_t *se)
{
    ngx_uint_t                           i, k, first;
    ngx_http_llm_status_hist_t          *h;
    const ngx_http_llm_status_family_t  *f;

    ngx_http_llm_status_printf(out, "{");
    ngx_http_llm_status_name(out, "engine", engine->data, engine->len);
    ngx_http_llm_status_printf(out, ",");
    ngx_http_llm_status_name(out, "model", se->model, se->model_len);
    ngx_http_llm_status_printf(out, ",\"prompt_tokens\":%uA,"
                               "\"cached_tokens\":%uA,"
                               "\"completion_tokens\":%uA,\"requests\":[",
                               se->prompt_tokens, se->cached_tokens,
                               se->completion_tokens);
    first = 1;

    for (i = 0; i < NGX_HTTP_LLM_STATUS_CODES; i++) {
        for (k = 0; k < LLM_FINISH_COUNT; k++) {

            if (se->ends[i][k]) {
                ngx_http_llm_status_printf(out, "%s{\"status\":%ui,"
                                           "\"finish_reason\":\"%s\","
                                           "\"count\":%uA}", first ? "" : ",",
                                           ngx_http_llm_status_codes[i],
                                           llm_wire_finish_name((uint32_t) k),
                                           se->ends[i][k]);
                first = 0;
            }
        }
    }

    ngx_http_llm_status_printf(out, "]");

    for (i = 0; i < NGX_HTTP_LLM_STATUS_HISTS && se->model_len; i++) {
        h = &se->hists[i];
        f = &ngx_http_llm_status_families[i];

        ngx_http_llm_status_printf(out, ",\"%s\":{\"counts\":[", f->key);

        for (k = 0; k <= f->nbounds; k++) {
            ngx_http_llm_status_printf(out, k ? ",%uA" : "%uA",
                                       h->buckets[k]);
        }

        ngx_http_llm_status_printf(out, "],\"sum\":");

        if (f->seconds) {
            ngx_http_llm_status_seconds(out, (int64_t) h->sum);

        } else {
            ngx_http_llm_status_printf(out, "%uA", h->sum);
        }

        ngx_http_llm_status_printf(out, "}");
    }

    ngx_http_llm_status_printf(out, "}");
}


static void
ngx_http_llm_status_json_bounds(ngx_http_llm_status_out_t *out)
{
    ngx_uint_t                           i, k;
    const ngx_http_llm_status_family_t  *f;

    for (i = 0; i < NGX_HTTP_LLM_STATUS_HISTS; i++) {
        f = &ngx_http_llm_status_families[i];

        ngx_http_llm_status_printf(out, "%s\"%s\":[", i ? ",\n" : "", f->key);

        for (k = 0; k < f->nbounds; k++) {
            ngx_http_llm_status_printf(out, k ? "," : "");

            if (f->seconds) {
                ngx_http_llm_status_seconds(out, f->bounds[k]);

            } else {
                ngx_http_llm_status_printf(out, "%L", f->bounds[k]);
            }
        }

        ngx_http_llm_status_printf(out, "]");
    }
}
