
/*
 * ngx_http_llm_status_text.c - llm_status in Prometheus' text format 0.0.4.
 *
 * Each family is written once, with all of its series below it.  A counter of
 * a request's end appears with its first request; all others are always there.
 */


#include "ngx_http_llm_status.h"


typedef struct {
    const char  *name;
    const char  *type;
    const char  *help;
    ngx_uint_t   offset;                     /* in struct llm_stats */
    unsigned     wide:1;                     /* 64 bits */
} ngx_http_llm_status_stat_t;


typedef struct {
    ngx_http_llm_status_view_t  view;
    ngx_http_llm_engine_t      *engine;
    ngx_str_t                   label;       /* engine="..." */
} ngx_http_llm_status_row_t;


static ngx_http_llm_status_row_t *ngx_http_llm_status_rows(
    ngx_http_llm_status_out_t *out, ngx_uint_t *n);
static ngx_int_t ngx_http_llm_status_label(ngx_http_llm_status_out_t *out,
    ngx_str_t *label, const char *name, u_char *data, size_t len);
static void ngx_http_llm_status_family(ngx_http_llm_status_out_t *out,
    const char *name, const char *type, const char *help);
static void ngx_http_llm_status_workers(ngx_http_llm_status_out_t *out);
static void ngx_http_llm_status_engines(ngx_http_llm_status_out_t *out,
    ngx_http_llm_status_row_t *rows, ngx_uint_t n);
static void ngx_http_llm_status_ages(ngx_http_llm_status_out_t *out,
    ngx_http_llm_status_row_t *rows, ngx_uint_t n);
static void ngx_http_llm_status_events(ngx_http_llm_status_out_t *out,
    ngx_http_llm_status_row_t *rows, ngx_uint_t n);
static void ngx_http_llm_status_requests(ngx_http_llm_status_out_t *out,
    ngx_str_t *labels, ngx_uint_t n);
static void ngx_http_llm_status_counts(ngx_http_llm_status_out_t *out,
    ngx_str_t *labels, ngx_uint_t n);
static void ngx_http_llm_status_hist(ngx_http_llm_status_out_t *out,
    ngx_uint_t hist, ngx_str_t *labels, ngx_uint_t n);
static ngx_str_t *ngx_http_llm_status_labels(ngx_http_llm_status_out_t *out,
    ngx_http_llm_status_row_t *rows, ngx_uint_t nrows, ngx_uint_t n);


/* what the engine itself says, for the life of its process */

static const ngx_http_llm_status_stat_t  ngx_http_llm_status_stats[] = {

    { "engine_running", "gauge", "Sequences in the running batch.",
      offsetof(struct llm_stats, running), 0 },

    { "engine_waiting", "gauge", "Sequences waiting to be scheduled.",
      offsetof(struct llm_stats, waiting), 0 },

    { "engine_parked", "gauge", "Sequences held back for a slow reader.",
      offsetof(struct llm_stats, parked), 0 },

    { "engine_queued", "gauge", "Requests before the scheduler.",
      offsetof(struct llm_stats, queued), 0 },

    { "engine_sessions", "gauge", "Workers connected to the engine.",
      offsetof(struct llm_stats, sessions), 0 },

    { "engine_kv_blocks_used", "gauge", "KV cache blocks in use.",
      offsetof(struct llm_stats, kv_blocks_used), 0 },

    { "engine_kv_blocks", "gauge", "KV cache blocks there are.",
      offsetof(struct llm_stats, kv_blocks_total), 0 },

    { "engine_steps_total", "counter", "Steps of the engine.",
      offsetof(struct llm_stats, steps), 1 },

    { "engine_requests_total", "counter", "Sequences the engine accepted.",
      offsetof(struct llm_stats, requests_total), 1 },

    { "engine_prompt_tokens_total", "counter",
      "Prompt tokens of sequences the engine admitted.",
      offsetof(struct llm_stats, prompt_tokens_total), 1 },

    { "engine_generation_tokens_total", "counter",
      "Tokens the engine generated.",
      offsetof(struct llm_stats, generation_tokens_total), 1 },

    { "engine_preemptions_total", "counter",
      "Sequences whose KV cache was taken and recomputed.",
      offsetof(struct llm_stats, preemptions_total), 1 }
};


void
ngx_http_llm_status_text(ngx_http_llm_status_out_t *out)
{
    ngx_str_t                  *labels;
    ngx_uint_t                  i, n, nseries;
    ngx_http_llm_status_row_t  *rows;

    rows = ngx_http_llm_status_rows(out, &n);
    nseries = out->sh->nseries;
    labels = ngx_http_llm_status_labels(out, rows, n, nseries);

    if (rows == NULL || labels == NULL) {
        out->failed = 1;
        return;
    }

    ngx_http_llm_status_family(out, "build_info", "gauge",
                               "Version of nginx.");
    ngx_http_llm_status_printf(out, "nginx_llm_build_info{nginx=\"%s\"} 1\n",
                               NGINX_VERSION);

    ngx_http_llm_status_family(out, "start_time_seconds", "gauge",
                               "When these counters began, Unix time.");
    ngx_http_llm_status_printf(out, "nginx_llm_start_time_seconds %T\n",
                               out->sh->start);

    ngx_http_llm_status_workers(out);

    if (n) {
        ngx_http_llm_status_engines(out, rows, n);
        ngx_http_llm_status_ages(out, rows, n);
    }

    ngx_http_llm_status_events(out, rows, n);
    ngx_http_llm_status_requests(out, labels, nseries);
    ngx_http_llm_status_counts(out, labels, nseries);

    for (i = 0; i < NGX_HTTP_LLM_STATUS_HISTS; i++) {
        ngx_http_llm_status_hist(out, i, labels, nseries);
    }

    ngx_http_llm_status_zones_text(out);
}


/* rows[n] is the one for what has no engine */

static ngx_http_llm_status_row_t *
ngx_http_llm_status_rows(ngx_http_llm_status_out_t *out, ngx_uint_t *n)
{
    ngx_uint_t                   i;
    ngx_http_llm_engine_t      **enginep;
    ngx_http_llm_main_conf_t    *mcf;
    ngx_http_llm_status_row_t   *rows;

    mcf = ngx_http_get_module_main_conf(out->request, ngx_http_llm_module);
    enginep = mcf->engines.elts;
    *n = mcf->engines.nelts;

    rows = ngx_pcalloc(out->request->pool,
                       (*n + 1) * sizeof(ngx_http_llm_status_row_t));
    if (rows == NULL) {
        return NULL;
    }

    for (i = 0; i < *n; i++) {
        rows[i].engine = enginep[i];
        ngx_http_llm_status_view(out->sh, enginep[i], &rows[i].view);

        if (ngx_http_llm_status_label(out, &rows[i].label, "engine",
                                      enginep[i]->name.data,
                                      enginep[i]->name.len)
            != NGX_OK)
        {
            return NULL;
        }
    }

    if (ngx_http_llm_status_label(out, &rows[*n].label, "engine", NULL, 0)
        != NGX_OK)
    {
        return NULL;
    }

    return rows;
}


/* name="value", in UTF-8 and escaped as Prometheus wants it */

static ngx_int_t
ngx_http_llm_status_label(ngx_http_llm_status_out_t *out, ngx_str_t *label,
    const char *name, u_char *data, size_t len)
{
    u_char     *p;
    size_t      i;
    ngx_str_t   text;

    if (ngx_http_llm_status_clean(out->request->pool, &text, data, len)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    p = ngx_pnalloc(out->request->pool,
                    ngx_strlen(name) + sizeof("=\"\"") + 2 * text.len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    label->data = p;
    p = ngx_sprintf(p, "%s=\"", name);

    for (i = 0; i < text.len; i++) {

        if (text.data[i] == '"' || text.data[i] == '\\') {
            *p++ = '\\';
        }

        *p++ = text.data[i];
    }

    *p++ = '"';
    label->len = p - label->data;

    return NGX_OK;
}


/* engine="...",model="..." of each series; empty: its engine is gone */

static ngx_str_t *
ngx_http_llm_status_labels(ngx_http_llm_status_out_t *out,
    ngx_http_llm_status_row_t *rows, ngx_uint_t nrows, ngx_uint_t n)
{
    u_char                        *p;
    ngx_str_t                     *labels, model, *engine;
    ngx_uint_t                     i, k;
    ngx_http_llm_status_series_t  *se;

    labels = ngx_pcalloc(out->request->pool, (n + 1) * sizeof(ngx_str_t));

    if (labels == NULL || rows == NULL) {
        return NULL;
    }

    for (i = 0; i < n; i++) {
        se = &out->sh->series[i];
        engine = (se->engine == 0) ? &rows[nrows].label : NULL;

        for (k = 0; k < nrows && engine == NULL; k++) {
            if (rows[k].engine->status == se->engine) {
                engine = &rows[k].label;
            }
        }

        if (engine == NULL) {
            continue;
        }

        if (ngx_http_llm_status_label(out, &model, "model", se->model,
                                      se->model_len)
            != NGX_OK)
        {
            return NULL;
        }

        p = ngx_pnalloc(out->request->pool, engine->len + 1 + model.len);
        if (p == NULL) {
            return NULL;
        }

        labels[i].data = p;
        labels[i].len = ngx_sprintf(p, "%V,%V", engine, &model) - p;
    }

    return labels;
}


static void
ngx_http_llm_status_family(ngx_http_llm_status_out_t *out, const char *name,
    const char *type, const char *help)
{
    ngx_http_llm_status_printf(out, "# HELP nginx_llm_%s %s\n"
                               "# TYPE nginx_llm_%s %s\n",
                               name, help, name, type);
}


/* by the number of the worker: a process that leaves and its successor are one */

static void
ngx_http_llm_status_workers(ngx_http_llm_status_out_t *out)
{
    ngx_uint_t                     i, k, n, in_flight;
    ngx_http_llm_status_worker_t  *w;

    n = 0;

    for (i = 0; i < NGX_HTTP_LLM_STATUS_WORKERS; i++) {
        n += ngx_http_llm_status_alive(&out->sh->workers[i]);
    }

    ngx_http_llm_status_family(out, "workers", "gauge",
                               "Worker processes, with those that leave.");
    ngx_http_llm_status_printf(out, "nginx_llm_workers %ui\n", n);

    ngx_http_llm_status_family(out, "worker_requests_in_flight", "gauge",
                               "Requests in hand, by worker.");

    for (n = 0; n < NGX_HTTP_LLM_STATUS_WORKERS; n++) {
        in_flight = 0;
        k = 0;

        for (i = 0; i < NGX_HTTP_LLM_STATUS_WORKERS; i++) {
            w = &out->sh->workers[i];

            if (w->worker == n && ngx_http_llm_status_alive(w)) {
                in_flight += w->in_flight;
                k++;
            }
        }

        if (k) {
            ngx_http_llm_status_printf(out,
                                       "nginx_llm_worker_requests_in_flight"
                                       "{worker=\"%ui\"} %ui\n", n, in_flight);
        }
    }
}


static void
ngx_http_llm_status_engines(ngx_http_llm_status_out_t *out,
    ngx_http_llm_status_row_t *rows, ngx_uint_t n)
{
    u_char                            *p;
    uint64_t                           value;
    ngx_uint_t                         i, k;
    const ngx_http_llm_status_stat_t  *stat;

    ngx_http_llm_status_family(out, "engine_up", "gauge",
                               "1: the engine is ready.");

    for (i = 0; i < n; i++) {
        ngx_http_llm_status_printf(out, "nginx_llm_engine_up{%V} %d\n",
                                   &rows[i].label,
                                   ngx_strcmp(rows[i].view.state, "ready")
                                   == 0);
    }

    ngx_http_llm_status_family(out, "engine_state", "gauge",
                               "1 for the state the engine is in.");

    for (i = 0; i < n; i++) {
        for (k = 0; ngx_http_llm_status_states[k]; k++) {
            ngx_http_llm_status_printf(out, "nginx_llm_engine_state{%V,"
                                       "state=\"%s\"} %d\n",
                                       &rows[i].label,
                                       ngx_http_llm_status_states[k],
                                       ngx_strcmp(rows[i].view.state,
                                              ngx_http_llm_status_states[k])
                                       == 0);
        }
    }

    ngx_http_llm_status_family(out, "requests_in_flight", "gauge",
                               "Requests that the engine has, of all "
                               "workers.");

    for (i = 0; i < n; i++) {
        ngx_http_llm_status_printf(out, "nginx_llm_requests_in_flight{%V} "
                                   "%ui\n", &rows[i].label,
                                   rows[i].view.in_flight);
    }

    ngx_http_llm_status_family(out, "requests_queued", "gauge",
                               "Requests that wait in nginx for room.");

    for (i = 0; i < n; i++) {
        ngx_http_llm_status_printf(out, "nginx_llm_requests_queued{%V} %ui\n",
                                   &rows[i].label, rows[i].view.waiting);
    }

    /* an engine that is not there says nothing, not even 0 */

    for (k = 0; k < sizeof(ngx_http_llm_status_stats)
                    / sizeof(ngx_http_llm_status_stat_t); k++)
    {
        stat = &ngx_http_llm_status_stats[k];

        ngx_http_llm_status_family(out, stat->name, stat->type, stat->help);

        for (i = 0; i < n; i++) {
            p = (u_char *) &rows[i].view.stats + stat->offset;
            value = stat->wide ? *(uint64_t *) p : *(uint32_t *) p;

            if (rows[i].view.up) {
                ngx_http_llm_status_printf(out, "nginx_llm_%s{%V} %uL\n",
                                           stat->name, &rows[i].label, value);
            }
        }
    }
}


static void
ngx_http_llm_status_ages(ngx_http_llm_status_out_t *out,
    ngx_http_llm_status_row_t *rows, ngx_uint_t n)
{
    ngx_uint_t  i;

    ngx_http_llm_status_family(out, "engine_heartbeat_age_seconds", "gauge",
                               "Time since the engine's last heartbeat.");

    for (i = 0; i < n; i++) {
        if (rows[i].view.up) {
            ngx_http_llm_status_printf(out, "nginx_llm_engine_heartbeat_age_"
                                       "seconds{%V} ", &rows[i].label);
            ngx_http_llm_status_seconds(out, rows[i].view.heartbeat);
            ngx_http_llm_status_printf(out, "\n");
        }
    }

    ngx_http_llm_status_family(out, "engine_progress_age_seconds", "gauge",
                               "Time since the engine's last step, or since "
                               "it had nothing to do.");

    for (i = 0; i < n; i++) {
        if (rows[i].view.up) {
            ngx_http_llm_status_printf(out, "nginx_llm_engine_progress_age_"
                                       "seconds{%V} ", &rows[i].label);
            ngx_http_llm_status_seconds(out, rows[i].view.progress);
            ngx_http_llm_status_printf(out, "\n");
        }
    }
}


static void
ngx_http_llm_status_events(ngx_http_llm_status_out_t *out,
    ngx_http_llm_status_row_t *rows, ngx_uint_t n)
{
    ngx_uint_t                     i, k;
    ngx_http_llm_status_engine_t  *se;

    ngx_http_llm_status_family(out, "session_connects_total", "counter",
                               "Sessions of workers that came up.");

    for (i = 0; i < n; i++) {
        se = &out->sh->engines[rows[i].engine->status];
        ngx_http_llm_status_printf(out, "nginx_llm_session_connects_total"
                                   "{%V} %uA\n", &rows[i].label,
                                   se->connects);
    }

    ngx_http_llm_status_family(out, "session_losses_total", "counter",
                               "Sessions of workers that were lost.");

    for (i = 0; i < n; i++) {
        se = &out->sh->engines[rows[i].engine->status];
        ngx_http_llm_status_printf(out, "nginx_llm_session_losses_total{%V} "
                                   "%uA\n", &rows[i].label, se->losses);
    }

    ngx_http_llm_status_family(out, "request_errors_total", "counter",
                               "Requests that nginx has refused or ended, "
                               "by reason.");

    for (i = 0; i <= n; i++) {
        se = &out->sh->engines[i < n ? rows[i].engine->status : 0];

        for (k = 0; k < NGX_HTTP_LLM_STATUS_REASONS; k++) {
            if (se->refused[k]) {
                ngx_http_llm_status_printf(out,
                                     "nginx_llm_request_errors_total{%V,"
                                     "reason=\"%s\"} %uA\n", &rows[i].label,
                                     ngx_http_llm_status_reasons[k],
                                     se->refused[k]);
            }
        }
    }
}


static void
ngx_http_llm_status_requests(ngx_http_llm_status_out_t *out,
    ngx_str_t *labels, ngx_uint_t n)
{
    u_char                         status[NGX_INT_T_LEN];
    ngx_uint_t                     i, k, f;
    ngx_http_llm_status_series_t  *se;

    ngx_http_llm_status_family(out, "requests_total", "counter",
                               "Requests that ended, by status and finish "
                               "reason.");

    for (i = 0; i < n; i++) {
        se = &out->sh->series[i];

        if (labels[i].len == 0) {
            continue;
        }

        for (k = 0; k < NGX_HTTP_LLM_STATUS_CODES; k++) {

            if (ngx_http_llm_status_codes[k]) {
                (void) ngx_sprintf(status, "%ui%Z",
                                   ngx_http_llm_status_codes[k]);
            } else {
                (void) ngx_sprintf(status, "other%Z");
            }

            for (f = 0; f < LLM_FINISH_COUNT; f++) {

                if (se->ends[k][f] == 0) {
                    continue;
                }

                ngx_http_llm_status_printf(out, "nginx_llm_requests_total{%V,"
                                           "status=\"%s\",finish_reason="
                                           "\"%s\"} %uA\n", &labels[i], status,
                                           llm_wire_finish_name((uint32_t) f),
                                           se->ends[k][f]);
            }
        }
    }
}


static void
ngx_http_llm_status_counts(ngx_http_llm_status_out_t *out, ngx_str_t *labels,
    ngx_uint_t n)
{
    ngx_uint_t                     i, k;
    ngx_atomic_t                  *value;
    ngx_http_llm_status_series_t  *se;

    static const struct {
        const char  *name;
        const char  *help;
        size_t       offset;
    } counts[] = {
        { "prompt_tokens_total", "Prompt tokens of requests that ended.",
          offsetof(ngx_http_llm_status_series_t, prompt_tokens) },
        { "cached_tokens_total", "Prompt tokens found in the prefix cache.",
          offsetof(ngx_http_llm_status_series_t, cached_tokens) },
        { "completion_tokens_total", "Tokens generated for requests that "
          "ended.", offsetof(ngx_http_llm_status_series_t, completion_tokens) }
    };

    for (k = 0; k < sizeof(counts) / sizeof(counts[0]); k++) {

        ngx_http_llm_status_family(out, counts[k].name, "counter",
                                   counts[k].help);

        for (i = 0; i < n; i++) {
            se = &out->sh->series[i];
            value = (ngx_atomic_t *) ((u_char *) se + counts[k].offset);

            if (labels[i].len && se->model_len) {
                ngx_http_llm_status_printf(out, "nginx_llm_%s{%V} %uA\n",
                                           counts[k].name, &labels[i], *value);
            }
        }
    }
}


/* the count is the sum of what was read, so it fits the buckets */

static void
ngx_http_llm_status_hist(ngx_http_llm_status_out_t *out, ngx_uint_t hist,
    ngx_str_t *labels, ngx_uint_t n)
{
    ngx_uint_t                           i, k, count;
    ngx_http_llm_status_hist_t          *h;
    const ngx_http_llm_status_family_t  *f;

    f = &ngx_http_llm_status_families[hist];

    ngx_http_llm_status_family(out, f->name, "histogram", f->help);

    for (i = 0; i < n; i++) {

        if (labels[i].len == 0 || out->sh->series[i].model_len == 0) {
            continue;
        }

        h = &out->sh->series[i].hists[hist];
        count = 0;

        for (k = 0; k <= f->nbounds; k++) {
            count += h->buckets[k];

            ngx_http_llm_status_printf(out, "nginx_llm_%s_bucket{%V,le=\"",
                                       f->name, &labels[i]);

            if (k == f->nbounds) {
                ngx_http_llm_status_printf(out, "+Inf");

            } else if (f->seconds) {
                ngx_http_llm_status_seconds(out, f->bounds[k]);

            } else {
                ngx_http_llm_status_printf(out, "%L", f->bounds[k]);
            }

            ngx_http_llm_status_printf(out, "\"} %ui\n", count);
        }

        ngx_http_llm_status_printf(out, "nginx_llm_%s_sum{%V} ", f->name,
                                   &labels[i]);

        if (f->seconds) {
            ngx_http_llm_status_seconds(out, (int64_t) h->sum);

        } else {
            ngx_http_llm_status_printf(out, "%uA", h->sum);
        }

        ngx_http_llm_status_printf(out, "\nnginx_llm_%s_count{%V} %ui\n",
                                   f->name, &labels[i], count);
    }
}
