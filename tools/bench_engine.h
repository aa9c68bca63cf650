/* bench_engine.h - `latency` and `throughput`: the engine inside this process.
 *
 * Model, backend and scheduler are put together by engine/app.c, as in
 * nginx-llm-engine and with its options; requests go in by engine_submit() and
 * come back by engine_events().  Nothing of HTTP, JSON or nginx is measured.
 * Sampling is vLLM's for these modes: --temperature 1, top_p 1, no end of
 * sequence.  A model directory needs no tokenizer: prompts are token ids.
 * SIGINT and SIGTERM end the run and leave the figures so far. */
#ifndef LLM_TOOLS_BENCH_ENGINE_H
#define LLM_TOOLS_BENCH_ENGINE_H

#include "engine/base/err.h"
#include "tools/bench_options.h"

/* Prints figures to standard output, writes --output-json.  ERROR: nothing
 * could be measured, or sequences did not end as they should. */
int bench_latency(struct bench_cli *cli, struct err *err);
int bench_throughput(struct bench_cli *cli, struct err *err);

#endif
