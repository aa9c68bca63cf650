/* bench_options.c - the rows of each mode, and how they become one table. */
#include "tools/bench_options.h"

#include <math.h>
#include <string.h>

#define F(field)  offsetof(struct bench_cli, field)
#define END       { NULL, OPTION_BOOL, 0, NULL, NULL, NULL, 0, 0, NULL }
#define COUNT_MAX 1e9
#define LEN_MAX   (1 << 24)

static const struct option  latency_rows[] = {
    { "batch-size", OPTION_INT, F(batch_size), "8", "N",
      "sequences that run together", 1, 4096, NULL },
    { "input-len", OPTION_INT, F(input_len), "32", "N",
      "tokens of each prompt", 1, LEN_MAX, NULL },
    { "output-len", OPTION_INT, F(output_len), "128", "N",
      "tokens generated for each", 1, LEN_MAX, NULL },
    { "num-iters-warmup", OPTION_INT, F(num_iters_warmup), "10", "N",
      "rounds before the counted ones", 0, COUNT_MAX, NULL },
    { "num-iters", OPTION_INT, F(num_iters), "30", "N", "rounds counted", 1,
      COUNT_MAX, NULL },
    { "output-json", OPTION_STRING, F(output_json), NULL, "FILE",
      "write the figures there", 0, 0, NULL },
    { "disable-detokenize", OPTION_BOOL, F(disable_detokenize), "true", NULL,
      "do not turn the output into text", 0, 0, NULL },
    { "temperature", OPTION_NUMBER, F(engine_temperature), "1", "X",
      "0: always the likeliest token", 0, 2, NULL },
    END
};

static const struct option  throughput_rows[] = {
    { "output-json", OPTION_STRING, F(output_json), NULL, "FILE",
      "write the figures there", 0, 0, NULL },
    { "disable-detokenize", OPTION_BOOL, F(disable_detokenize), "false", NULL,
      "do not turn the output into text, which is part of the time if there "
      "is a tokenizer", 0, 0, NULL },
    { "temperature", OPTION_NUMBER, F(engine_temperature), "1", "X",
      "0: always the likeliest token", 0, 2, NULL },
    { "disable-tqdm", OPTION_BOOL, F(disable_tqdm), "false", NULL,
      "no progress", 0, 0, NULL },
    END
};

static const struct option  dataset_rows[] = {
    { "dataset-name", OPTION_CHOICE, F(dataset_name), "random", NULL,
      "where prompts come from", 0, 0, "random|sharegpt|prefix_repetition" },
    { "dataset-path", OPTION_STRING, F(dataset_path), NULL, "FILE",
      "JSON file of sharegpt", 0, 0, NULL },
    { "num-prompts", OPTION_INT, F(num_prompts), "1000", "N", "requests", 1,
      10000000, NULL },
    { "input-len", OPTION_INT, F(input_len), "0", "N",
      "stands for the data set's own input length; 0: not given", 0, LEN_MAX,
      NULL },
    { "output-len", OPTION_INT, F(output_len), "0", "N",
      "stands for the data set's own output length; 0: not given", 0, LEN_MAX,
      NULL },
    { "random-input-len", OPTION_INT, F(random_input_len), "1024", "N",
      "tokens of a prompt", 1, LEN_MAX, NULL },
    { "random-output-len", OPTION_INT, F(random_output_len), "128", "N",
      "tokens to generate", 1, LEN_MAX, NULL },
    { "random-range-ratio", OPTION_NUMBER, F(random_range_ratio), "0", "R",
      "both lengths are drawn from len * (1 - R) .. len * (1 + R)", 0, 0.999999,
      NULL },
    { "random-prefix-len", OPTION_INT, F(random_prefix_len), "0", "N",
      "tokens that all prompts begin with, on top of the input length", 0,
      LEN_MAX, NULL },
    { "sharegpt-output-len", OPTION_INT, F(sharegpt_output_len), "0", "N",
      "tokens to generate; 0: as long as the file's answer", 0, LEN_MAX,
      NULL },
    { "prefix-repetition-prefix-len", OPTION_INT, F(prefix_len), "256", "N",
      "tokens of a shared beginning", 1, LEN_MAX, NULL },
    { "prefix-repetition-suffix-len", OPTION_INT, F(suffix_len), "256", "N",
      "tokens of a prompt's own end", 1, LEN_MAX, NULL },
    { "prefix-repetition-num-prefixes", OPTION_INT, F(num_prefixes), "10",
      "N", "different beginnings", 1, 1000000, NULL },
    { "prefix-repetition-output-len", OPTION_INT, F(prefix_output_len), "128",
      "N", "tokens to generate", 1, LEN_MAX, NULL },
    END
};

static const struct option  serve_rows[] = {
    { "backend", OPTION_CHOICE, F(backend), "openai", NULL,
      "openai-chat changes the default endpoint only", 0, 0,
      "openai|openai-chat|vllm" },
    { "label", OPTION_STRING, F(label), NULL, "TEXT",
      "name of the run in the result; default: the backend", 0, 0, NULL },
    { "base-url", OPTION_STRING, F(base_url), NULL, "URL",
      "http://HOST:PORT; instead of host and port", 0, 0, NULL },
    { "host", OPTION_STRING, F(host), "127.0.0.1", "NAME", "server", 0, 0,
      NULL },
    { "port", OPTION_INT, F(port), "8000", "N", "its port", 1, 65535, NULL },
    { "endpoint", OPTION_STRING, F(endpoint), NULL, "PATH",
      "/v1/completions (default) or /v1/chat/completions", 0, 0, NULL },
    { "header", OPTION_WORDS, F(header), NULL, "'K: V'",
      "request header fields; also K=V", 0, 0, NULL },
    { "model", OPTION_STRING, F(engine.model), NULL, "NAME",
      "model in the requests", 0, 0, NULL },
    { "served-model-name", OPTION_STRING, F(served_model_name), NULL, "NAME",
      "the name in requests if it is not --model", 0, 0, NULL },
    { "tokenizer", OPTION_STRING, F(tokenizer), NULL, "DIR",
      "model directory whose tokenizer makes the prompts; default: --model",
      0, 0, NULL },
    { "random-as-tokens", OPTION_BOOL, F(random_as_tokens), "false", NULL,
      "send prompts as token ids; then config.json is enough in --tokenizer",
      0, 0, NULL },
    { "request-rate", OPTION_NUMBER, F(request_rate), "inf", "R",
      "requests a second; inf: all at once", 0, INFINITY, NULL },
    { "burstiness", OPTION_NUMBER, F(burstiness), "1", "B",
      "shape of the gamma distribution of the gaps: 1 Poisson, inf even", 0,
      INFINITY, NULL },
    { "ramp-up-strategy", OPTION_CHOICE, F(ramp_up_strategy), NULL, NULL,
      "the rate grows during the run", 0, 0, "linear|exponential" },
    { "ramp-up-start-rps", OPTION_INT, F(ramp_up_start_rps), "0", "N",
      "from so many requests a second", 0, COUNT_MAX, NULL },
    { "ramp-up-end-rps", OPTION_INT, F(ramp_up_end_rps), "0", "N",
      "to so many", 0, COUNT_MAX, NULL },
    { "max-concurrency", OPTION_INT, F(max_concurrency), "0", "N",
      "requests at the same time; 0: no limit", 0, 1000000, NULL },
    { "ignore-eos", OPTION_CHOICE, F(ignore_eos), "auto", NULL,
      "ask for the full output length; auto: with random prompts, as vLLM does",
      0, 0, OPTION_AUTO_BOOL },
    { "seed", OPTION_INT, F(engine.seed), "0", "N",
      "of prompts and arrivals", 0, 1e15, NULL },
    { "num-warmups", OPTION_INT, F(num_warmups), "0", "N",
      "requests before the counted ones", 0, COUNT_MAX, NULL },
    { "ready-check-timeout-sec", OPTION_INT, F(ready_check_timeout_s), "0",
      "S", "wait so long for a first good answer; 0: do not ask", 0, 86400,
      NULL },
    { "timeout", OPTION_NUMBER, F(timeout_s), "21600", "S",
      "a request without an end after it has failed", 0.01, 1e6, NULL },
    { "percentile-metrics", OPTION_LIST, F(percentile_metrics),
      NULL, "LIST", "what is shown of ttft, tpot, itl, e2el; default: "
      "ttft,tpot,itl", 0, 0, NULL },
    { "metric-percentiles", OPTION_LIST, F(metric_percentiles), NULL, "LIST",
      "percentiles of them, 0 to 100; default: 99", 0, 0, NULL },
    { "goodput", OPTION_WORDS, F(goodput), NULL, "K:MS ...",
      "count requests that keep all of ttft:MS tpot:MS e2el:MS", 0, 0, NULL },
    { "temperature", OPTION_STRING, F(temperature), NULL, "X", "sampling", 0,
      0, NULL },
    { "top-p", OPTION_STRING, F(top_p), NULL, "X", "sampling", 0, 0, NULL },
    { "top-k", OPTION_STRING, F(top_k), NULL, "N", "sampling", 0, 0, NULL },
    { "min-p", OPTION_STRING, F(min_p), NULL, "X", "sampling", 0, 0, NULL },
    { "frequency-penalty", OPTION_STRING, F(frequency_penalty), NULL, "X",
      "sampling", 0, 0, NULL },
    { "presence-penalty", OPTION_STRING, F(presence_penalty), NULL, "X",
      "sampling", 0, 0, NULL },
    { "repetition-penalty", OPTION_STRING, F(repetition_penalty), NULL, "X",
      "sampling", 0, 0, NULL },
    { "extra-body", OPTION_STRING, F(extra_body), NULL, "JSON",
      "object whose members go into each request", 0, 0, NULL },
    { "request-id-prefix", OPTION_STRING, F(request_id_prefix), NULL, "TEXT",
      "X-Request-Id is this and a number; default: none is sent", 0, 0,
      NULL },
    { "save-result", OPTION_BOOL, F(save_result), "false", NULL,
      "write the figures as JSON", 0, 0, NULL },
    { "save-detailed", OPTION_BOOL, F(save_detailed), "false", NULL,
      "with lengths, times, text and error of each request", 0, 0, NULL },
    { "result-dir", OPTION_STRING, F(result_dir), NULL, "DIR",
      "where --save-result writes", 0, 0, NULL },
    { "result-filename", OPTION_STRING, F(result_filename), NULL, "FILE",
      "instead of LABEL-RATEqps-MODEL-TIME.json", 0, 0, NULL },
    { "output-json", OPTION_STRING, F(output_json), NULL, "FILE",
      "--save-result and this file", 0, 0, NULL },
    { "metadata", OPTION_WORDS, F(metadata), NULL, "K=V ...",
      "members of the JSON result", 0, 0, NULL },
    { "disable-tqdm", OPTION_BOOL, F(disable_tqdm), "false", NULL,
      "no progress", 0, 0, NULL },
    { "help", OPTION_BOOL, F(engine.help), "false", NULL,
      "print this and exit", 0, 0, NULL },
    END
};

const char *
bench_mode_name(enum bench_mode mode)
{
    static const char *const  names[BENCH_MODES] = {
        [BENCH_LATENCY] = "latency", [BENCH_THROUGHPUT] = "throughput",
        [BENCH_SERVE] = "serve" };

    return names[mode];
}

static bool
has_row(const struct option *table, int num, const char *name)
{
    for (int i = 0; i < num; i++) {
        if (strcmp(table[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

static int
add_rows(struct option *table, int *num, const struct option *rows,
         struct err *err)
{
    for (const struct option *o = rows; o->name != NULL; o++) {
        if (has_row(table, *num, o->name)) {
            continue;
        }
        if (*num + 1 >= BENCH_OPTIONS_MAX) {
            return err_set(err, "the option table has more than %d rows",
                           BENCH_OPTIONS_MAX - 1);
        }
        table[(*num)++] = *o;
    }
    return OK;
}

int
bench_options_table(struct option *table, enum bench_mode mode,
                    struct err *err)
{
    static const struct option  none[] = { END };
    const struct option *const  parts[BENCH_MODES][3] = {
        [BENCH_LATENCY] = { latency_rows, none, engine_options_table },
        [BENCH_THROUGHPUT] = { throughput_rows, dataset_rows,
                               engine_options_table },
        [BENCH_SERVE] = { serve_rows, dataset_rows, none },
    };
    int  num = 0;

    for (int i = 0; i < 3; i++) {
        if (add_rows(table, &num, parts[mode][i], err) != OK) {
            return ERROR;
        }
    }
    table[num] = none[0];
    /* As in vLLM: equal prompts in each round would be found in the cache. */
    for (int i = 0; i < num && mode == BENCH_LATENCY; i++) {
        if (strcmp(table[i].name, "enable-prefix-caching") == 0) {
            table[i].def = "false";
        }
    }
    return OK;
}
