/* bench_serve_report.c - vLLM's table of results, and its JSON. */
#include "tools/bench_serve.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/base/json.h"
#include "tools/bench_report.h"

#define TABLE_WIDTH      50
#define JSON_BYTES_MAX   ((size_t) 4 << 30)
#define PATH_BYTES_MAX   8192
#define ERRORS_SHOWN     10
#define CPU_BUSY_PERCENT 70      /* above it the client may be what is slow */

struct metric_words {
    const char *title, *name;
};

static const struct metric_words  words[BENCH_METRICS] = {
    [BENCH_TTFT] = { "Time to First Token", "TTFT" },
    [BENCH_TPOT] = { "Time per Output Token (excl. 1st token)", "TPOT" },
    [BENCH_ITL] = { "Inter-token Latency", "ITL" },
    [BENCH_E2EL] = { "End-to-end Latency", "E2EL" },
};

/* ---- the table ---------------------------------------------------------- */
static void
title(const char *text, char fill)
{
    char    line[TABLE_WIDTH + 1];
    size_t  len = strlen(text);

    memset(line, fill, TABLE_WIDTH);
    line[TABLE_WIDTH] = '\0';
    memcpy(line + (TABLE_WIDTH - len) / 2, text, len);
    puts(line);
}

static void
row(const char *name, double v)
{
    printf("%-40s %-10.2f\n", name, v);
}

static void
row_int(const char *name, int64_t v)
{
    printf("%-40s %-10lld\n", name, (long long) v);
}

static void
print_metric(const struct bench_serve_run *r, enum bench_metric m)
{
    const struct bench_series  *s = &r->metrics.ms[m];
    const struct metric_words  *w = &words[m];
    char                        name[64];

    title(w->title, '-');
    (void) snprintf(name, sizeof name, "Mean %s (ms):", w->name);
    row(name, bench_series_mean(s));
    (void) snprintf(name, sizeof name, "Median %s (ms):", w->name);
    row(name, bench_series_percentile(s, 50));
    (void) snprintf(name, sizeof name, "Std %s (ms):", w->name);
    row(name, bench_series_std(s));
    for (int i = 0; i < r->num_percents; i++) {
        (void) snprintf(name, sizeof name, "P%g %s (ms):", r->percents[i],
                        w->name);
        row(name, bench_series_percentile(s, r->percents[i]));
    }
}

static void
print_errors(const struct bench_serve_run *r)
{
    int  shown = 0;

    if (r->metrics.failed == 0) {
        return;
    }
    printf("Failed requests during benchmark run detected (capping to %d):\n",
           ERRORS_SHOWN);
    for (int i = 0; i < r->num && shown < ERRORS_SHOWN; i++) {
        if (!r->results[i].success) {
            printf("Error %d: %s\n", shown++, r->results[i].error == NULL
                                              ? "" : r->results[i].error);
        }
    }
    for (int i = 0; i < r->stats->num_kinds; i++) {
        printf("%6d x %s\n", r->stats->kinds[i].num, r->stats->kinds[i].name);
    }
}

static double
cpu_percent(const struct bench_client_stats *s)
{
    return s->duration_ns == 0 ? 0
           : 100 * (double) s->cpu_ns / (double) s->duration_ns;
}

/* Above 1 the server joins tokens, and ITL is the time between such chunks. */
static double
tokens_a_chunk(const struct bench_metrics *m)
{
    size_t  num_chunks = m->ms[BENCH_ITL].len + (size_t) m->completed;

    return num_chunks == 0 ? 0 : (double) m->total_output / (double) num_chunks;
}

/* The measuring's own cost, so that nobody takes it for the server's. */
static void
print_client(const struct bench_serve_run *r)
{
    const struct bench_client_stats  *s = r->stats;
    double                            seconds = r->metrics.duration_s;

    printf("Load generator: %.1f %% of one CPU core, %.0f events/s, %.2f tokens "
           "a chunk, longest turn %.2f ms\n", cpu_percent(s),
           seconds > 0 ? (double) s->num_events / seconds : 0,
           tokens_a_chunk(&r->metrics), (double) s->longest_turn_ns * 1e-6);
    if (cpu_percent(s) > CPU_BUSY_PERCENT) {
        printf("WARNING: the load generator was busy; latencies may be its "
               "own\n");
    }
}

void
bench_serve_print(const struct bench_serve_run *r)
{
    const struct bench_metrics  *m = &r->metrics;

    if (r->stats->interrupted) {
        printf("Interrupted: %d of %d requests had begun; the figures are of "
               "the time until then\n", r->num, r->num_wanted);
    }
    print_errors(r);
    title(" Serving Benchmark Result ", '=');
    row_int("Successful requests:", m->completed);
    row_int("Failed requests:", m->failed);
    if (r->cli->max_concurrency > 0) {
        row_int("Maximum request concurrency:", r->cli->max_concurrency);
    }
    if (!isinf(r->cli->request_rate)) {
        row("Request rate configured (RPS):", r->cli->request_rate);
    }
    row("Benchmark duration (s):", m->duration_s);
    row_int("Total input tokens:", m->total_input);
    row_int("Total generated tokens:", m->total_output);
    row("Request throughput (req/s):", m->request_throughput);
    if (r->goals.num > 0) {
        row("Request goodput (req/s):", m->request_goodput);
    }
    row("Output token throughput (tok/s):", m->output_throughput);
    row("Peak output token throughput (tok/s):", m->max_output_tokens_per_s);
    row("Peak concurrent requests:", m->max_concurrent_requests);
    row("Total token throughput (tok/s):", m->total_token_throughput);
    for (int i = 0; i < BENCH_METRICS; i++) {
        if (r->shown[i]) {
            print_metric(r, (enum bench_metric) i);
        }
    }
    title("", '=');
    print_client(r);
    (void) fflush(stdout);
}

/* ---- JSON --------------------------------------------------------------- */
static void
put_date(struct buf *b, const char *form, const char *name)
{
    time_t     now = (time_t) clock_wall_seconds();
    struct tm  tm;
    char       text[32];

    (void) localtime_r(&now, &tm);
    (void) strftime(text, sizeof text, form, &tm);
    if (name != NULL) {
        bench_json_text(b, name, text);
    } else {
        buf_append_str(b, str_from(text));
    }
}

static void
put_settings(const struct bench_serve_run *r, struct buf *b)
{
    const struct bench_cli  *cli = r->cli;

    put_date(b, "%Y%m%d-%H%M%S", "date");
    bench_json_text(b, "endpoint_type", cli->backend);
    bench_json_text(b, "backend", cli->backend);
    bench_json_text(b, "label", r->label);
    bench_json_text(b, "model_id", cli->engine.model);
    bench_json_text(b, "tokenizer_id", cli->tokenizer != NULL
                                       ? cli->tokenizer : cli->engine.model);
    bench_json_number(b, "num_prompts", (double) cli->num_prompts);
    for (int i = 0; i < cli->metadata.num; i++) {
        char         name[128];
        const char  *word = cli->metadata.items[i];
        size_t       len = strcspn(word, "=");
        (void) snprintf(name, sizeof name, "%.*s", (int) len, word);
        bench_json_text(b, name, word + len + 1);
    }
    if (isinf(cli->request_rate)) {
        bench_json_text(b, "request_rate", "inf");
    } else {
        bench_json_number(b, "request_rate", cli->request_rate);
    }
    if (isinf(cli->burstiness)) {
        bench_json_text(b, "burstiness", "inf");
    } else {
        bench_json_number(b, "burstiness", cli->burstiness);
    }
    if (cli->max_concurrency > 0) {
        bench_json_number(b, "max_concurrency", (double) cli->max_concurrency);
    } else {
        bench_json_text(b, "max_concurrency", NULL);
    }
    if (cli->ramp_up_strategy != NULL) {
        bench_json_text(b, "ramp_up_strategy", cli->ramp_up_strategy);
        bench_json_number(b, "ramp_up_start_rps",
                          (double) cli->ramp_up_start_rps);
        bench_json_number(b, "ramp_up_end_rps", (double) cli->ramp_up_end_rps);
    }
}

static void
put_totals(const struct bench_serve_run *r, struct buf *b)
{
    const struct bench_metrics  *m = &r->metrics;

    bench_json_number(b, "duration", m->duration_s);
    bench_json_number(b, "completed", m->completed);
    bench_json_number(b, "failed", m->failed);
    bench_json_number(b, "total_input_tokens", (double) m->total_input);
    bench_json_number(b, "total_output_tokens", (double) m->total_output);
    bench_json_number(b, "request_throughput", m->request_throughput);
    if (r->goals.num > 0) {
        bench_json_number(b, "request_goodput", m->request_goodput);
    } else {
        bench_json_text(b, "request_goodput", NULL);
    }
    bench_json_number(b, "output_throughput", m->output_throughput);
    bench_json_number(b, "total_token_throughput", m->total_token_throughput);
    bench_json_number(b, "max_output_tokens_per_s", m->max_output_tokens_per_s);
    bench_json_number(b, "max_concurrent_requests", m->max_concurrent_requests);
}

static void
put_metric(const struct bench_serve_run *r, enum bench_metric m, struct buf *b)
{
    const struct bench_series  *s = &r->metrics.ms[m];
    const char                 *metric = bench_metric_name(m);
    char                        name[64];

    (void) snprintf(name, sizeof name, "mean_%s_ms", metric);
    bench_json_number(b, name, bench_series_mean(s));
    (void) snprintf(name, sizeof name, "median_%s_ms", metric);
    bench_json_number(b, name, bench_series_percentile(s, 50));
    (void) snprintf(name, sizeof name, "std_%s_ms", metric);
    bench_json_number(b, name, bench_series_std(s));
    for (int i = 0; i < r->num_percents; i++) {
        (void) snprintf(name, sizeof name, "p%g_%s_ms", r->percents[i], metric);
        bench_json_number(b, name, bench_series_percentile(s, r->percents[i]));
    }
}

static void
put_client(const struct bench_serve_run *r, struct buf *b)
{
    const struct bench_client_stats  *s = r->stats;

    bench_json_number(b, "client_cpu_percent", cpu_percent(s));
    bench_json_number(b, "client_longest_turn_ms",
                      (double) s->longest_turn_ns * 1e-6);
    bench_json_number(b, "client_events", (double) s->num_events);
    bench_json_number(b, "tokens_per_chunk", tokens_a_chunk(&r->metrics));
    bench_json_name(b, "errors_by_kind");
    buf_append_lit(b, "{");
    for (int i = 0; i < s->num_kinds; i++) {
        bench_json_number(b, s->kinds[i].name, s->kinds[i].num);
    }
    buf_append_lit(b, "}");
}

/* One array over the requests; failed ones are 0, as in vLLM. */
enum detail { DETAIL_INPUT, DETAIL_OUTPUT, DETAIL_TTFT, DETAIL_ITLS,
              DETAIL_START, DETAIL_TEXT, DETAIL_ERROR, DETAILS };

static void
put_detail(const struct bench_result *r, enum detail what, struct buf *b)
{
    switch (what) {
    case DETAIL_INPUT:
        bench_json_number(b, NULL, r->prompt_tokens);
        break;
    case DETAIL_OUTPUT:
        bench_json_number(b, NULL, r->success ? r->output_tokens : 0);
        break;
    case DETAIL_TTFT:
        bench_json_number(b, NULL, (double) r->ttft_ns * 1e-9);
        break;
    case DETAIL_ITLS:
        bench_json_name(b, NULL);
        buf_append_lit(b, "[");
        for (int32_t i = 0; i < r->num_gaps; i++) {
            bench_json_number(b, NULL, (double) r->gap_ms[i] * 1e-3);
        }
        buf_append_lit(b, "]");
        break;
    case DETAIL_START:
        bench_json_number(b, NULL, (double) r->start_ns * 1e-9);
        break;
    case DETAIL_TEXT:
        bench_json_text(b, NULL, r->text == NULL ? "" : r->text);
        break;
    default:
        bench_json_text(b, NULL, r->error == NULL ? "" : r->error);
        break;
    }
}

static void
put_details(const struct bench_serve_run *r, struct buf *b)
{
    static const char *const  names[DETAILS] = {
        [DETAIL_INPUT] = "input_lens", [DETAIL_OUTPUT] = "output_lens",
        [DETAIL_TTFT] = "ttfts", [DETAIL_ITLS] = "itls",
        [DETAIL_START] = "start_times", [DETAIL_TEXT] = "generated_texts",
        [DETAIL_ERROR] = "errors" };

    for (int d = 0; d < DETAILS; d++) {
        bench_json_name(b, names[d]);
        buf_append_lit(b, "[");
        for (int i = 0; i < r->num; i++) {
            put_detail(&r->results[i], (enum detail) d, b);
        }
        buf_append_lit(b, "]");
    }
}

/* --output-json, else DIR/LABEL-RATEqps-MODEL-TIME.json as in vLLM. */
static void
put_path(const struct bench_serve_run *r, struct buf *path)
{
    const struct bench_cli  *cli = r->cli;
    const char              *slash = strrchr(cli->engine.model, '/');

    if (cli->output_json != NULL) {
        buf_append_str(path, str_from(cli->output_json));
        buf_append_c(path, '\0');
        return;
    }
    if (cli->result_dir != NULL) {
        buf_appendf(path, "%s/", cli->result_dir);
    }
    if (cli->result_filename != NULL) {
        buf_append_str(path, str_from(cli->result_filename));
    } else {
        if (cli->ramp_up_strategy != NULL) {
            buf_appendf(path, "%s-ramp-up-%s-%lldqps-%lldqps-", r->label,
                        cli->ramp_up_strategy,
                        (long long) cli->ramp_up_start_rps,
                        (long long) cli->ramp_up_end_rps);
        } else {
            buf_appendf(path, "%s-%gqps-", r->label, cli->request_rate);
        }
        if (cli->max_concurrency > 0) {
            buf_appendf(path, "concurrency%lld-",
                        (long long) cli->max_concurrency);
        }
        buf_appendf(path, "%s-", slash == NULL ? cli->engine.model : slash + 1);
        put_date(path, "%Y%m%d-%H%M%S.json", NULL);
    }
    buf_append_c(path, '\0');
}

static bool
is_saved(const struct bench_cli *cli)
{
    return cli->save_result || cli->save_detailed || cli->output_json != NULL;
}

/* Makes --result-dir, as vLLM does. */
int
bench_serve_check_save(const struct bench_serve_run *r, struct err *err)
{
    const char  *dir = r->cli->output_json == NULL ? r->cli->result_dir : NULL;
    struct buf   path;

    if (!is_saved(r->cli)) {
        return OK;
    }
    if (dir != NULL && mkdir(dir, 0777) != 0 && errno != EEXIST) {
        return err_set(err, "--result-dir %s: %s", dir, strerror(errno));
    }
    buf_init(&path, PATH_BYTES_MAX);
    put_path(r, &path);
    int  rc = path.failed ? err_set(err, "the result's path is too long")
              : bench_check_file(path.data, err);
    buf_destroy(&path);
    return rc;
}

int
bench_serve_save(const struct bench_serve_run *r, struct err *err)
{
    struct buf  b, path;

    if (!is_saved(r->cli)) {
        return OK;
    }
    buf_init(&b, JSON_BYTES_MAX);
    buf_init(&path, PATH_BYTES_MAX);
    buf_append_lit(&b, "{");
    put_settings(r, &b);
    put_totals(r, &b);
    for (int i = 0; i < BENCH_METRICS; i++) {
        put_metric(r, (enum bench_metric) i, &b);
    }
    put_client(r, &b);
    if (r->cli->save_detailed) {
        put_details(r, &b);
    }
    buf_append_lit(&b, "}");
    put_path(r, &path);
    int  rc = path.failed ? err_set(err, "the result's path is too long")
              : bench_write_file(path.data, &b, err);
    buf_destroy(&b);
    buf_destroy(&path);
    return rc;
}
