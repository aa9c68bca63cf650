/* bench_stats.c - sums over series and over requests. */
#include "tools/bench_stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/sample/rng.h"

#define MS(ns)         ((double) (ns) * 1e-6)
#define ARRIVAL_S_MAX  INT64_C(4000000000)     /* fits into at_ns */

/* ---- a series of numbers ------------------------------------------------ */
void
bench_series_add(struct bench_series *s, double v)
{
    if (s->len == s->cap) {
        size_t   cap = s->cap == 0 ? 256 : 2 * s->cap;
        double  *grown = realloc(s->v, cap * sizeof *grown);
        if (grown == NULL) {
            s->failed = true;
            return;
        }
        s->v = grown;
        s->cap = cap;
    }
    s->v[s->len++] = v;
}

void
bench_series_destroy(struct bench_series *s)
{
    free(s->v);
    *s = (struct bench_series) { 0 };
}

static int
compare_doubles(const void *a, const void *b)
{
    const double  *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

void
bench_series_sort(struct bench_series *s)
{
    if (s->len > 1) {
        qsort(s->v, s->len, sizeof *s->v, compare_doubles);
    }
}

double
bench_series_mean(const struct bench_series *s)
{
    double  sum = 0;
    for (size_t i = 0; i < s->len; i++) {
        sum += s->v[i];
    }
    return s->len == 0 ? 0 : sum / (double) s->len;
}

double
bench_series_std(const struct bench_series *s)
{
    double  mean = bench_series_mean(s), sum = 0;
    for (size_t i = 0; i < s->len; i++) {
        sum += (s->v[i] - mean) * (s->v[i] - mean);
    }
    return s->len == 0 ? 0 : sqrt(sum / (double) s->len);
}

double
bench_series_percentile(const struct bench_series *s, double percent)
{
    if (s->len == 0) {
        return 0;
    }
    double  at = percent / 100 * (double) (s->len - 1);
    size_t  low = (size_t) at;
    size_t  high = low + 1 < s->len ? low + 1 : low;
    return s->v[low] + (s->v[high] - s->v[low]) * (at - (double) low);
}

/* ---- when requests start ------------------------------------------------ */
struct random {
    uint64_t  seed, position;
};

static double                   /* in (0, 1) */
random_unit(struct random *r)
{
    return ((double) (rng_random(r->seed, r->position++) >> 11) + 0.5)
           * 0x1p-53;
}

static double
random_normal(struct random *r)
{
    double  u = random_unit(r);
    return sqrt(-2 * log(u)) * cos(2 * acos(-1.0) * random_unit(r));
}

/* Marsaglia and Tsang, "A simple method for generating gamma variables", 2000;
 * scale 1. */
static double
random_gamma(struct random *r, double shape)
{
    double  lift = 1;

    if (shape < 1) {
        lift = pow(random_unit(r), 1 / shape);
        shape += 1;
    }
    double  d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);
    for ( ;; ) {
        double  x = random_normal(r), v = 1 + c * x;
        if (v <= 0) {
            continue;
        }
        v = v * v * v;
        if (log(random_unit(r)) < 0.5 * x * x + d - d * v + d * log(v)) {
            return d * v * lift;
        }
    }
}

static double
rate_at(const struct bench_arrivals *a, int i, int num)
{
    double  progress = (double) i / (num > 1 ? num - 1 : 1);

    if (a->ramp_up == NULL) {
        return a->rate;
    }
    if (strcmp(a->ramp_up, "linear") == 0) {
        /* From 0 the first request would wait for ever. */
        double  rate = a->start_rps + (a->end_rps - a->start_rps) * progress;
        return rate > 0 ? rate : a->end_rps / num;
    }
    return a->start_rps * pow(a->end_rps / a->start_rps, progress);
}

void
bench_arrivals_make(int64_t *at_ns, int num, const struct bench_arrivals *a)
{
    struct random  r = { a->seed, 0 };
    double         at = 0;
    double        *seconds = calloc((size_t) num, sizeof *seconds);

    memset(at_ns, 0, (size_t) num * sizeof *at_ns);
    if (seconds == NULL || (a->ramp_up == NULL && isinf(a->rate))) {
        free(seconds);
        return;
    }
    for (int i = 0; i < num; i++) {
        double  rate = rate_at(a, i, num);
        at += isinf(a->burstiness) ? 1 / rate
              : random_gamma(&r, a->burstiness) / a->burstiness / rate;
        seconds[i] = at;
    }
    double  factor = a->ramp_up != NULL || at <= 0 ? 1
                     : (double) num / a->rate / at;
    for (int i = 0; i < num; i++) {
        double  s = seconds[i] * factor;
        at_ns[i] = !(s > 0) ? 0 : s < ARRIVAL_S_MAX
                   ? (int64_t) (s * (double) NS_PER_S)
                   : ARRIVAL_S_MAX * NS_PER_S;
    }
    free(seconds);
}

/* ---- goals -------------------------------------------------------------- */
const char *
bench_metric_name(enum bench_metric m)
{
    static const char *const  names[BENCH_METRICS] = { "ttft", "tpot", "itl",
                                                       "e2el" };
    return names[m];
}

enum bench_metric
bench_metric_find(const char *name)
{
    enum bench_metric  m = BENCH_TTFT;
    while (m < BENCH_METRICS && strcmp(bench_metric_name(m), name) != 0) {
        m++;
    }
    return m;
}

int
bench_goals_parse(struct bench_goals *out, const struct option_words *words,
                  struct err *err)
{
    *out = (struct bench_goals) { 0 };
    for (int i = 0; i < words->num; i++) {
        const char        *word = words->items[i], *colon = strchr(word, ':');
        char               name[8] = "", *end = NULL;
        enum bench_metric  m = BENCH_METRICS;
        double             ms = 0;
        if (colon != NULL && colon - word < (int) sizeof name) {
            memcpy(name, word, (size_t) (colon - word));
            m = bench_metric_find(name);
            ms = strtod(colon + 1, &end);
        }
        if (m == BENCH_METRICS || m == BENCH_ITL || end == colon + 1
            || *end != '\0' || !(ms > 0) || isinf(ms))
        {
            return err_set(err, "--goodput: \"%s\" is not ttft:MS, tpot:MS or "
                           "e2el:MS", word);
        }
        out->ms[m] = ms;
        out->num++;
    }
    return OK;
}

/* ---- all requests ------------------------------------------------------- */
void
bench_result_destroy(struct bench_result *r)
{
    free(r->gap_ms);
    free(r->text);
    free(r->error);
    *r = (struct bench_result) { 0 };
}

static double
request_tpot_ms(const struct bench_result *r)
{
    return r->output_tokens < 2 ? 0
           : MS(r->latency_ns - r->ttft_ns) / (r->output_tokens - 1);
}

static void
add_request(struct bench_metrics *m, const struct bench_result *r,
            const struct bench_goals *goals)
{
    double  ms[BENCH_METRICS] = { [BENCH_TTFT] = MS(r->ttft_ns),
                                  [BENCH_TPOT] = request_tpot_ms(r),
                                  [BENCH_E2EL] = MS(r->latency_ns) };
    bool    good = goals->num > 0;

    m->completed++;
    m->total_input += r->prompt_tokens;
    m->total_output += r->output_tokens;
    bench_series_add(&m->ms[BENCH_TTFT], ms[BENCH_TTFT]);
    bench_series_add(&m->ms[BENCH_E2EL], ms[BENCH_E2EL]);
    if (r->output_tokens > 1) {
        bench_series_add(&m->ms[BENCH_TPOT], ms[BENCH_TPOT]);
    }
    for (int32_t i = 0; i < r->num_gaps; i++) {
        bench_series_add(&m->ms[BENCH_ITL], (double) r->gap_ms[i]);
    }
    for (int i = 0; i < BENCH_METRICS; i++) {
        good = good && (goals->ms[i] <= 0 || ms[i] <= goals->ms[i]);
    }
    m->good += good;
}

/* Tokens of each second since the first start; a chunk carries its share of
 * the request's tokens. */
static int
find_token_peak(struct bench_metrics *m, const struct bench_result *results,
                int num, int64_t first_ns, int64_t last_ns)
{
    size_t   num_seconds = (size_t) ((last_ns - first_ns) / NS_PER_S) + 2;
    double  *tokens = calloc(num_seconds, sizeof *tokens);

    if (tokens == NULL) {
        return ERROR;
    }
    for (int i = 0; i < num; i++) {
        const struct bench_result  *r = &results[i];
        if (!r->success) {
            continue;
        }
        double  share = (double) r->output_tokens / (r->num_gaps + 1);
        double  at = (double) (r->start_ns + r->ttft_ns - first_ns) * 1e-9;
        for (int32_t k = 0; k <= r->num_gaps; k++) {
            size_t  second = (size_t) at;
            tokens[second < num_seconds ? second : num_seconds - 1] += share;
            at += k < r->num_gaps ? (double) r->gap_ms[k] * 1e-3 : 0;
        }
    }
    for (size_t i = 0; i < num_seconds; i++) {
        if (tokens[i] > m->max_output_tokens_per_s) {
            m->max_output_tokens_per_s = tokens[i];
        }
    }
    free(tokens);
    return OK;
}

/* Intervals are half open, so an end at the time of a start comes first. */
static int
find_request_peak(struct bench_metrics *m, const struct bench_result *results,
                  int num)
{
    struct bench_series  starts = { 0 }, ends = { 0 };
    size_t               s = 0, e = 0;

    for (int i = 0; i < num; i++) {
        if (results[i].success) {
            bench_series_add(&starts, (double) results[i].start_ns);
            bench_series_add(&ends, (double) (results[i].start_ns
                                              + results[i].latency_ns));
        }
    }
    bool  failed = starts.failed || ends.failed;
    bench_series_sort(&starts);
    bench_series_sort(&ends);
    for (; !failed && s < starts.len; s++) {
        while (e < ends.len && ends.v[e] <= starts.v[s]) {
            e++;
        }
        int  now = (int) (s + 1 - e);
        m->max_concurrent_requests = now > m->max_concurrent_requests
                                     ? now : m->max_concurrent_requests;
    }
    bench_series_destroy(&starts);
    bench_series_destroy(&ends);
    return failed ? ERROR : OK;
}

int
bench_metrics_make(struct bench_metrics *out,
                   const struct bench_result *results, int num,
                   double duration_s, const struct bench_goals *goals)
{
    int64_t  first_ns = INT64_MAX, last_ns = 0;
    bool     failed = false;

    *out = (struct bench_metrics) { .duration_s = duration_s };
    for (int i = 0; i < num; i++) {
        const struct bench_result  *r = &results[i];
        if (!r->success) {
            out->failed++;
            continue;
        }
        add_request(out, r, goals);
        int64_t  end_ns = r->start_ns + r->latency_ns;
        first_ns = r->start_ns < first_ns ? r->start_ns : first_ns;
        last_ns = end_ns > last_ns ? end_ns : last_ns;
    }
    for (int i = 0; i < BENCH_METRICS; i++) {
        failed = failed || out->ms[i].failed;
        bench_series_sort(&out->ms[i]);
    }
    if (out->completed > 0
        && (find_token_peak(out, results, num, first_ns, last_ns) != OK
            || find_request_peak(out, results, num) != OK))
    {
        failed = true;
    }
    if (duration_s > 0) {
        double  tokens = (double) out->total_output;
        out->request_throughput = out->completed / duration_s;
        out->request_goodput = out->good / duration_s;
        out->output_throughput = tokens / duration_s;
        out->total_token_throughput = (tokens + (double) out->total_input)
                                      / duration_s;
    }
    return failed ? ERROR : OK;
}

void
bench_metrics_destroy(struct bench_metrics *m)
{
    for (int i = 0; i < BENCH_METRICS; i++) {
        bench_series_destroy(&m->ms[i]);
    }
}
