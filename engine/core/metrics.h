/* metrics.h - what /metrics says: vLLM's names, labels and buckets.
 *
 * Every value is a relaxed atomic: any thread may observe, any thread may
 * write the page.  The step thread observes steps; the API's output thread
 * observes what a client sees (times, tokens, ends).  Gauges and counters of
 * the scheduler come from struct engine_stats, so that they cannot drift.
 *
 * Source of the names: vLLM v1/metrics/loggers.py.  Names that vLLM has
 * renamed since and that dashboards still read are written as well. */
#ifndef LLM_CORE_METRICS_H
#define LLM_CORE_METRICS_H

#include <stdint.h>
#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/core/gen.h"

struct engine_stats;
struct metrics;

/* Facts of the start, written as vllm:cache_config_info. */
struct metrics_options {
    int32_t max_model_len;
    int32_t block_size;
    int32_t num_blocks;             /* that can hold tokens */
};

int metrics_create(struct metrics **out, const struct metrics_options *options,
                   struct err *err);
void metrics_destroy(struct metrics *m);         /* NULL is fine */

/* The step thread: tokens computed in one step. */
void metrics_observe_step(struct metrics *m, int32_t num_tokens);

/* One sequence's first token, from the request's arrival. */
void metrics_observe_ttft(struct metrics *m, int64_t ns);

/* From one event of a sequence's tokens to the next. */
void metrics_observe_itl(struct metrics *m, int64_t ns);

/* A sequence ended as the client sees it. */
void metrics_observe_finish(struct metrics *m, enum finish_reason reason);

/* A request (all its sequences) ended. */
struct metrics_request {
    int64_t prompt_tokens;
    int64_t generation_tokens;      /* of all sequences */
    int64_t max_generation_tokens;  /* of the longest sequence */
    int64_t max_tokens;             /* asked for, per sequence */
    int32_t n;
    int64_t e2e_ns;                 /* arrival -> last event */
    int64_t queue_ns;               /* arrival -> first scheduled */
    int64_t ttft_ns;                /* arrival -> first token; 0: none */
    int64_t decode_ns;              /* first -> last token */
};
void metrics_observe_request(struct metrics *m,
                             const struct metrics_request *request);

/* Appends the page in Prometheus' text format 0.0.4. */
void metrics_write(const struct metrics *m, const char *model_name,
                   const struct engine_stats *stats, struct buf *out);

#endif
