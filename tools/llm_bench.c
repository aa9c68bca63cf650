/* llm_bench.c - nginx-llm-bench: latency, throughput and serving figures.
 *
 *   nginx-llm-bench latency --model DIR --batch-size 8 --input-len 32 --output-len 128
 *   nginx-llm-bench throughput --model DIR --num-prompts 1000 \
 *       --random-input-len 1024 --random-output-len 128
 *   nginx-llm-bench serve --base-url http://127.0.0.1:8000 --model demo \
 *       --tokenizer models/demo --num-prompts 1000 --max-concurrency 256
 *
 * Modes, switches and figures are those of `vllm bench`.  latency and
 * throughput run the engine in this process (bench_engine.h); serve asks any
 * OpenAI server over HTTP (bench_serve.h).  MODE --help lists the switches.
 * Exit codes: 0; 1 nothing could be measured; 2 no such mode or switch. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/version.h"
#include "tools/bench_engine.h"
#include "tools/bench_options.h"
#include "tools/bench_serve.h"

#define PROGRAM  "nginx-llm-bench"

static const char *const  usages[BENCH_MODES] = {
    [BENCH_LATENCY] = PROGRAM " latency --model DIR [option ...]\n\n"
        "Time of one batch from start to end, again and again.  The engine "
        "runs in\nthis process; all options of nginx-llm-engine are taken.",
    [BENCH_THROUGHPUT] = PROGRAM " throughput --model DIR [option ...]\n\n"
        "All requests at once, as fast as possible.  The engine runs in this "
        "process;\nall options of nginx-llm-engine are taken.",
    [BENCH_SERVE] = PROGRAM " serve --base-url http://HOST:PORT --model NAME "
        "[option ...]\n\nStreaming requests to an OpenAI server.",
};

static int
usage(FILE *to)
{
    (void) fputs("usage: " PROGRAM " latency|throughput|serve [option ...]\n"
                 "\"" PROGRAM " MODE --help\" lists a mode's options.\n", to);
    return to == stdout ? 0 : 2;
}

static int
run_mode(enum bench_mode mode, struct bench_cli *cli, struct err *err)
{
    switch (mode) {
    case BENCH_LATENCY:
        return bench_latency(cli, err);
    case BENCH_THROUGHPUT:
        return bench_throughput(cli, err);
    default:
        return bench_serve(cli, err);
    }
}

int
main(int argc, char **argv)
{
    static struct bench_cli  cli;
    struct option            table[BENCH_OPTIONS_MAX];
    struct err               err = { 0 };
    int                      mode = 0;

    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        return usage(stdout);
    }
    while (mode < BENCH_MODES && (argc < 2
           || strcmp(argv[1], bench_mode_name((enum bench_mode) mode)) != 0))
    {
        mode++;
    }
    if (mode == BENCH_MODES) {
        if (argc > 1) {
            (void) fprintf(stderr, PROGRAM ": no mode \"%s\"\n", argv[1]);
        }
        return usage(stderr);
    }
    if (bench_options_table(table, (enum bench_mode) mode, &err) != OK
        || options_parse(table, &cli, argc - 1, argv + 1, &err) != OK)
    {
        (void) fprintf(stderr, PROGRAM " %s: %s\n", argv[1], err.message);
        return 2;
    }
    if (cli.engine.help) {
        options_help(table, usages[mode], stdout);
        return 0;
    }
    if (cli.engine.version) {
        (void) puts(PROGRAM " " LLM_VERSION);
        return 0;
    }
    (void) signal(SIGPIPE, SIG_IGN);
    if (run_mode((enum bench_mode) mode, &cli, &err) != OK) {
        (void) fflush(stdout);
        (void) fprintf(stderr, PROGRAM " %s: %s\n", argv[1], err.message);
        return 1;
    }
    return 0;
}
