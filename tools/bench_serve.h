/* bench_serve.h - `serve`: streaming requests to any OpenAI server.
 *
 * What `vllm bench serve` does, with its figures, table and JSON names, on one
 * thread.  Differences: a chat's opening role and a closing finish_reason
 * without text are not tokens (bench_sse.h), the peak of output tokens counts
 * tokens and not chunks, and what the measuring itself cost is reported.
 * SIGINT and SIGTERM end the run and leave the figures so far. */
#ifndef LLM_TOOLS_BENCH_SERVE_H
#define LLM_TOOLS_BENCH_SERVE_H

#include "engine/base/err.h"
#include "tools/bench_client.h"
#include "tools/bench_options.h"
#include "tools/bench_stats.h"

/* ERROR: wrong options, or not one request succeeded. */
int bench_serve(struct bench_cli *cli, struct err *err);

/* What the report is made of. */
struct bench_serve_run {
    const struct bench_cli          *cli;
    const char                      *label;
    const struct bench_result       *results;      /* [num] */
    int                              num;          /* that began */
    int                              num_wanted;
    struct bench_goals               goals;
    double                           percents[BENCH_PERCENTILES_MAX];
    int                              num_percents;
    bool                             shown[BENCH_METRICS];
    struct bench_metrics             metrics;
    const struct bench_client_stats *stats;
};

/* Before the run: OK if the result can be saved, or is not asked for. */
int bench_serve_check_save(const struct bench_serve_run *r, struct err *err);
void bench_serve_print(const struct bench_serve_run *r);
/* Where the switches say; OK if they say nothing. */
int bench_serve_save(const struct bench_serve_run *r, struct err *err);

#endif
