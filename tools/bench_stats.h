/* bench_stats.h - the arithmetic of a benchmark: percentiles, arrivals, peaks.
 *
 * Definitions are those of `vllm bench serve` and numpy: percentiles
 * interpolate linearly, the standard deviation is that of the population, a
 * request's TPOT is (latency - TTFT) / (output tokens - 1), and one second's
 * tokens are counted where their chunks arrived.  Pure functions, one thread. */
#ifndef LLM_TOOLS_BENCH_STATS_H
#define LLM_TOOLS_BENCH_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/base/err.h"
#include "engine/base/options.h"

/* ---- a series of numbers ---------------------------------------------------- */
struct bench_series {
    double *v;             /* owned, [len] */
    size_t  len, cap;
    bool    failed;        /* out of memory */
};

void bench_series_add(struct bench_series *s, double v);
void bench_series_destroy(struct bench_series *s);
void bench_series_sort(struct bench_series *s);
double bench_series_mean(const struct bench_series *s);     /* 0: empty */
double bench_series_std(const struct bench_series *s);
/* s is sorted; percent 0 .. 100. */
double bench_series_percentile(const struct bench_series *s, double percent);

/* ---- when requests start ------------------------------------------------------ */
struct bench_arrivals {
    double   rate;             /* requests a second; INFINITY: all at once */
    double   burstiness;       /* INFINITY: even */
    const char *ramp_up;       /* NULL, "linear" or "exponential" */
    double   start_rps, end_rps;
    uint64_t seed;
};

/* at_ns[num]: since the beginning, ascending.  Without ramp-up the last one
 * comes at num / rate, so that runs with different seeds compare. */
void bench_arrivals_make(int64_t *at_ns, int num,
                         const struct bench_arrivals *a);

/* ---- one request's outcome ------------------------------------------------------ */
struct bench_result {
    bool     success;
    int64_t  start_ns;         /* since the beginning of the run */
    int64_t  ttft_ns;          /* start to the first token */
    int64_t  latency_ns;       /* start to the last token or the end */
    float   *gap_ms;           /* owned, [num_gaps]: between two chunks */
    int32_t  num_gaps, cap_gaps;
    int32_t  prompt_tokens;    /* as the server counts, else as asked */
    int32_t  output_tokens;    /* as the server counts, else chunks */
    char    *text;             /* owned; NULL unless it is kept */
    char    *error;            /* owned; NULL: none */
};

void bench_result_destroy(struct bench_result *r);

/* ---- all of them ------------------------------------------------------------------ */
enum bench_metric { BENCH_TTFT, BENCH_TPOT, BENCH_ITL, BENCH_E2EL,
                    BENCH_METRICS };

#define BENCH_PERCENTILES_MAX  OPTION_LIST_MAX

struct bench_goals {
    double  ms[BENCH_METRICS];   /* 0: none; BENCH_ITL is not a goal */
    int     num;
};

struct bench_metrics {
    int      completed, failed, good;
    int64_t  total_input, total_output;
    double   duration_s;
    double   request_throughput, request_goodput;
    double   output_throughput, total_token_throughput;
    double   max_output_tokens_per_s;
    int      max_concurrent_requests;
    struct bench_series ms[BENCH_METRICS];     /* sorted */
};

/* "ttft" ...; BENCH_METRICS: no such name. */
const char *bench_metric_name(enum bench_metric m);
enum bench_metric bench_metric_find(const char *name);

/* Words "ttft:200". */
int bench_goals_parse(struct bench_goals *out, const struct option_words *words,
                      struct err *err);

/* ERROR: out of memory.  bench_metrics_destroy() in any case. */
int bench_metrics_make(struct bench_metrics *out,
                       const struct bench_result *results, int num,
                       double duration_s, const struct bench_goals *goals);
void bench_metrics_destroy(struct bench_metrics *m);

#endif
