/* bench_options.h - every switch of nginx-llm-bench, by mode.
 *
 * Names, meanings and defaults are those of `vllm bench latency | throughput |
 * serve`.  A mode's table is put together from parts: its own switches, those
 * of the data sets, and for the two modes that run the engine in this process
 * the engine's whole table, so what nginx-llm-engine takes is taken here. */
#ifndef LLM_TOOLS_BENCH_OPTIONS_H
#define LLM_TOOLS_BENCH_OPTIONS_H

#include "engine/base/options.h"
#include "engine/engine_options.h"

#define BENCH_OPTIONS_MAX  256      /* rows of a mode's table */

enum bench_mode { BENCH_LATENCY, BENCH_THROUGHPUT, BENCH_SERVE, BENCH_MODES };

struct bench_cli {
    struct engine_cli  engine;      /* first: its table's offsets hold here.
                                       serve uses model, seed and help of it */
    /* data sets */
    const char  *dataset_name, *dataset_path;
    int64_t      num_prompts;
    int64_t      input_len, output_len;         /* 0: the data set's own */
    int64_t      random_input_len, random_output_len, random_prefix_len;
    double       random_range_ratio;
    int64_t      sharegpt_output_len;           /* 0: as in the file */
    int64_t      prefix_len, suffix_len, num_prefixes, prefix_output_len;
    /* latency and throughput */
    int64_t      batch_size, num_iters_warmup, num_iters;
    bool         disable_detokenize;
    double       engine_temperature;
    const char  *output_json;
    /* serve */
    const char  *backend, *label, *base_url, *host, *endpoint;
    int64_t      port;
    const char  *served_model_name, *tokenizer;
    bool         random_as_tokens, disable_tqdm;
    const char  *ignore_eos;                    /* OPTION_AUTO_BOOL */
    double       request_rate, burstiness;
    const char  *ramp_up_strategy;              /* NULL: none */
    int64_t      ramp_up_start_rps, ramp_up_end_rps;
    int64_t      max_concurrency;               /* 0: none */
    int64_t      num_warmups, ready_check_timeout_s;
    double       timeout_s;
    const char  *temperature, *top_p, *top_k, *min_p;    /* NULL: not sent */
    const char  *frequency_penalty, *presence_penalty, *repetition_penalty;
    const char  *extra_body, *request_id_prefix;
    struct option_words  header, goodput, metadata;
    struct option_list   percentile_metrics, metric_percentiles;
    bool         save_result, save_detailed;
    const char  *result_dir, *result_filename;
};

const char *bench_mode_name(enum bench_mode mode);

/* Fills table[BENCH_OPTIONS_MAX] with a mode's rows and the closing one.
 * Of two rows with one name the mode's own counts. */
int bench_options_table(struct option *table, enum bench_mode mode,
                        struct err *err);

#endif
