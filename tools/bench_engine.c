/* bench_engine.c - keeps an engine busy and times it. */
#include "tools/bench_engine.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/app.h"
#include "engine/base/clock.h"
#include "engine/base/json.h"
#include "engine/base/log.h"
#include "engine/core/engine.h"
#include "engine/text/detok.h"
#include "tools/bench_dataset.h"
#include "tools/bench_report.h"
#include "tools/bench_stats.h"

#define EVENTS_MAX       512
#define EVENTS_WAIT_NS   (100 * NS_PER_MS)
#define SUBMIT_MAX       64        /* sequences in one engine_submit() */
#define TEXT_BYTES_MAX   (64u << 20)
#define JSON_BYTES_MAX   (256u << 20)

struct bench_seq {
    const struct bench_prompt *prompt;
    int32_t           *token_ids;      /* [prompt + output] */
    struct detok      *detok;          /* NULL: no text is made */
    int32_t            num_output;
    enum finish_reason reason;
};

struct bench_run {
    struct app            app;
    struct bench_cli     *cli;
    struct bench_dataset  data;
    struct bench_seq     *seqs;        /* [data.num] */
    int32_t              *token_ids;   /* of all of them */
    struct detok         *detoks;
    struct buf            text;
    int                   num_submitted, num_ended;
    sigset_t              signals;     /* that end a round early */
    bool                  interrupted;
};

/* ---- set-up ------------------------------------------------------------- */
static int
run_load(struct bench_run *r, struct err *err)
{
    struct engine_cli  *cli = &r->cli->engine;
    char                path[4096];

    log_level = (enum log_level) log_level_parse(cli->log_level);
    (void) sigemptyset(&r->signals);
    (void) sigaddset(&r->signals, SIGINT);
    (void) sigaddset(&r->signals, SIGTERM);
    buf_init(&r->text, TEXT_BYTES_MAX);
    if (bench_dataset_check(r->cli, err) != OK
        || (r->cli->output_json != NULL
            && bench_check_file(r->cli->output_json, err) != OK))
    {
        return ERROR;
    }
    if (cli->model != NULL && !cli->skip_tokenizer_init) {
        (void) snprintf(path, sizeof path, "%s/tokenizer.json", cli->model);
        cli->skip_tokenizer_init = access(path, F_OK) != 0;
    }
    /* The engine's threads inherit it; until there is something to report a
     * signal ends the program. */
    (void) pthread_sigmask(SIG_BLOCK, &r->signals, NULL);
    int  rc = app_load(&r->app, cli, err);
    (void) pthread_sigmask(SIG_UNBLOCK, &r->signals, NULL);
    return rc;
}

static int
run_make_prompts(struct bench_run *r, struct err *err)
{
    struct bench_dataset_options  o = {
        .cli = r->cli, .tokenizer = r->app.tokenizer,
        .vocab_size = r->app.config->vocab_size,
        .seed = (uint64_t) r->cli->engine.seed,
    };
    return bench_dataset_make(&r->data, &o, err);
}

static int
run_make_seqs(struct bench_run *r, struct err *err)
{
    bool    detokenize = !r->cli->disable_detokenize && r->app.tokenizer != NULL;
    size_t  num = (size_t) r->data.num, num_ids = 0;

    for (size_t i = 0; i < num; i++) {
        num_ids += (size_t) r->data.prompts[i].num_ids
                   + (size_t) r->data.prompts[i].output_len;
    }
    r->seqs = calloc(num, sizeof *r->seqs);
    r->token_ids = calloc(num_ids, sizeof *r->token_ids);
    r->detoks = detokenize ? calloc(num, sizeof *r->detoks) : NULL;
    if (r->seqs == NULL || r->token_ids == NULL
        || (detokenize && r->detoks == NULL))
    {
        return err_set(err, "out of memory for %zu sequences of %zu tokens",
                       num, num_ids);
    }
    int32_t  *at = r->token_ids;
    for (size_t i = 0; i < num; i++) {
        const struct bench_prompt  *p = &r->data.prompts[i];
        r->seqs[i] = (struct bench_seq) {
            .prompt = p, .token_ids = at,
            .detok = detokenize ? &r->detoks[i] : NULL,
        };
        memcpy(at, p->ids, (size_t) p->num_ids * sizeof *at);
        at += p->num_ids + p->output_len;
    }
    return OK;
}

static void
run_destroy(struct bench_run *r)
{
    app_destroy(&r->app);
    bench_dataset_destroy(&r->data);
    buf_destroy(&r->text);
    free(r->detoks);
    free(r->token_ids);
    free(r->seqs);
}

/* ---- one round ---------------------------------------------------------- */
static struct gen_request
seq_request(struct bench_run *r, int i, int64_t now_ns)
{
    struct bench_seq           *s = &r->seqs[i];
    const struct bench_prompt  *p = s->prompt;

    return (struct gen_request) {
        .gen_id = engine_next_id(r->app.engine), .user = s,
        .token_ids = s->token_ids, .num_prompt_tokens = p->num_ids,
        .token_cap = p->num_ids + p->output_len, .max_tokens = p->output_len,
        .sampling = { .temperature = (float) r->cli->engine_temperature,
                      .top_p = 1,
                      .seed = (uint64_t) r->cli->engine.seed + (uint64_t) i },
        .arrival_ns = now_ns,
    };
}

/* Hands over what the engine takes now. */
static int
run_submit(struct bench_run *r, struct err *err)
{
    struct gen_request  requests[SUBMIT_MAX];

    while (r->num_submitted < r->data.num) {
        int      left = r->data.num - r->num_submitted;
        int      num = left < SUBMIT_MAX ? left : SUBMIT_MAX;
        int64_t  now_ns = clock_now_ns();
        for (int i = 0; i < num; i++) {
            requests[i] = seq_request(r, r->num_submitted + i, now_ns);
        }
        int  rc = engine_submit(r->app.engine, requests, num, err);
        if (rc == AGAIN && num > 1) {
            num = 1;             /* the queue's last places */
            rc = engine_submit(r->app.engine, requests, num, err);
        }
        if (rc != OK) {
            return rc;
        }
        r->num_submitted += num;
    }
    return OK;
}

static void
seq_event(struct bench_run *r, const struct gen_event *ev)
{
    struct bench_seq  *s = ev->user;

    s->num_output += ev->num_tokens;
    for (int32_t i = 0; s->detok != NULL && i < ev->num_tokens; i++) {
        buf_reset(&r->text);
        detok_push(s->detok, ev->token_ids[i], &r->text);
    }
    if (ev->type == GEN_FINISHED) {
        s->reason = ev->reason;
        r->num_ended++;
    }
}

static int
run_check(const struct bench_run *r, struct err *err)
{
    for (int i = 0; i < r->data.num; i++) {
        const struct bench_seq  *s = &r->seqs[i];
        if (s->reason != FINISH_LENGTH
            || s->num_output != s->prompt->output_len)
        {
            return err_set(err, "sequence %d ended with \"%s\" after %d of %d "
                           "tokens", i, gen_reason_name(s->reason),
                           s->num_output, s->prompt->output_len);
        }
    }
    return OK;
}

/* A signal leaves the figures that there are. */
static bool
run_is_interrupted(struct bench_run *r)
{
    const struct timespec  now = { 0, 0 };

    r->interrupted = r->interrupted
                     || sigtimedwait(&r->signals, NULL, &now) > 0;
    return r->interrupted;
}

/* Runs all sequences to their end, or until a signal comes; *seconds is what
 * that took. */
static int
run_round(struct bench_run *r, struct bench_progress *progress,
          double *seconds, struct err *err)
{
    struct gen_event  events[EVENTS_MAX];

    (void) pthread_sigmask(SIG_BLOCK, &r->signals, NULL);
    r->num_submitted = r->num_ended = 0;
    for (int i = 0; i < r->data.num; i++) {
        struct bench_seq  *s = &r->seqs[i];
        s->num_output = 0;
        s->reason = FINISH_NONE;
        if (s->detok != NULL) {
            detok_init(s->detok, r->app.tokenizer, true);
            detok_prompt(s->detok, s->token_ids, (size_t) s->prompt->num_ids);
        }
    }
    int64_t  start_ns = clock_now_ns();
    while (r->num_ended < r->data.num && !run_is_interrupted(r)) {
        if (run_submit(r, err) == ERROR) {
            return ERROR;
        }
        int  num = engine_events(r->app.engine, events, EVENTS_MAX,
                                 EVENTS_WAIT_NS);
        if (num < 0) {
            return err_set(err, "the engine has stopped");
        }
        for (int i = 0; i < num; i++) {
            seq_event(r, &events[i]);
        }
        if (progress != NULL) {
            bench_progress_at(progress, r->num_ended, clock_now_ns());
        }
    }
    *seconds = (double) (clock_now_ns() - start_ns) * 1e-9;
    return r->interrupted ? OK : run_check(r, err);
}

/* ---- latency ------------------------------------------------------------ */
static const double  latency_percents[] = { 10, 25, 50, 75, 90, 99 };

#define NUM_PERCENTS  (sizeof latency_percents / sizeof *latency_percents)

static int
latency_report(const struct bench_cli *cli, struct bench_series *latencies,
               struct err *err)
{
    struct buf  b;
    double      mean = bench_series_mean(latencies);
    int         rc = OK;

    buf_init(&b, JSON_BYTES_MAX);
    buf_append_lit(&b, "{");
    bench_json_number(&b, "avg_latency", mean);
    bench_json_name(&b, "latencies");
    buf_append_lit(&b, "[");
    for (size_t i = 0; i < latencies->len; i++) {
        bench_json_number(&b, NULL, latencies->v[i]);
    }
    buf_append_lit(&b, "], \"percentiles\": {");
    bench_series_sort(latencies);
    printf("Avg latency: %.6f seconds\n", mean);
    for (size_t i = 0; i < NUM_PERCENTS; i++) {
        char    name[32];
        double  v = bench_series_percentile(latencies, latency_percents[i]);
        (void) snprintf(name, sizeof name, "%g", latency_percents[i]);
        printf("%s%% percentile latency: %.6f seconds\n", name, v);
        bench_json_number(&b, name, v);
    }
    buf_append_lit(&b, "}}");
    printf("%lld sequences of %lld + %lld tokens: %.2f output tokens/s, "
           "%.3f ms a token\n", (long long) cli->batch_size,
           (long long) cli->input_len, (long long) cli->output_len,
           (double) (cli->batch_size * cli->output_len) / mean,
           mean * 1e3 / (double) cli->output_len);
    if (cli->output_json != NULL) {
        rc = bench_write_file(cli->output_json, &b, err);
    }
    buf_destroy(&b);
    return rc;
}

int
bench_latency(struct bench_cli *cli, struct err *err)
{
    struct bench_run       r = { .cli = cli };
    struct bench_series    latencies = { 0 };
    struct bench_progress  progress;
    int64_t                num_rounds = cli->num_iters_warmup + cli->num_iters;
    int                    num_done = 0;

    cli->dataset_name = "random";
    cli->num_prompts = cli->batch_size;
    int  rc = run_load(&r, err);
    if (rc == OK) {
        rc = run_make_prompts(&r, err);
    }
    if (rc == OK) {
        rc = run_make_seqs(&r, err);
    }
    bench_progress_start(&progress, "rounds", (int) num_rounds, rc != OK);
    for (int64_t i = -cli->num_iters_warmup; i < cli->num_iters && rc == OK
         && !r.interrupted; i++)
    {
        double  seconds = 0;
        rc = run_round(&r, NULL, &seconds, err);
        if (i >= 0 && !r.interrupted) {
            bench_series_add(&latencies, seconds);
        }
        num_done += rc == OK && !r.interrupted;
        bench_progress_at(&progress, num_done, clock_now_ns());
    }
    bench_progress_end(&progress, num_done);
    if (rc == OK && latencies.len == 0) {
        rc = err_set(err, "interrupted before the first counted round ended");
    }
    if (rc == OK) {
        rc = latency_report(cli, &latencies, err);
    }
    bench_series_destroy(&latencies);
    run_destroy(&r);
    return rc;
}

/* ---- throughput --------------------------------------------------------- */
static int
throughput_report(const struct bench_run *r, double seconds, struct err *err)
{
    int64_t     prompt = 0, output = 0;
    struct buf  b;
    int         rc = OK;

    for (int i = 0; i < r->data.num; i++) {
        /* What has no output yet was not computed, or only in part. */
        prompt += r->seqs[i].num_output > 0 ? r->data.prompts[i].num_ids : 0;
        output += r->seqs[i].num_output;
    }
    double  total = (double) (prompt + output);
    if (r->interrupted) {
        printf("Interrupted: %d of %d requests had ended; the figures are of "
               "the time until then\n", r->num_ended, r->data.num);
    }
    printf("Throughput: %.2f requests/s, %.2f total tokens/s, %.2f output "
           "tokens/s\n", r->num_ended / seconds, total / seconds,
           (double) output / seconds);
    printf("Total num prompt tokens:  %lld\nTotal num output tokens:  %lld\n",
           (long long) prompt, (long long) output);
    printf("Elapsed time (s):  %.2f\n", seconds);
    if (r->cli->output_json == NULL) {
        return OK;
    }
    buf_init(&b, JSON_BYTES_MAX);
    buf_append_lit(&b, "{");
    bench_json_number(&b, "elapsed_time", seconds);
    bench_json_number(&b, "num_requests", r->num_ended);
    bench_json_number(&b, "total_num_tokens", total);
    bench_json_number(&b, "requests_per_second", r->num_ended / seconds);
    bench_json_number(&b, "tokens_per_second", total / seconds);
    bench_json_number(&b, "output_tokens_per_second",
                      (double) output / seconds);
    buf_append_lit(&b, "}");
    rc = bench_write_file(r->cli->output_json, &b, err);
    buf_destroy(&b);
    return rc;
}

int
bench_throughput(struct bench_cli *cli, struct err *err)
{
    struct bench_run       r = { .cli = cli };
    struct bench_progress  progress;
    double                 seconds = 0;

    int  rc = run_load(&r, err);
    if (rc == OK) {
        rc = run_make_prompts(&r, err);
    }
    if (rc == OK) {
        rc = run_make_seqs(&r, err);
    }
    if (rc == OK) {
        bench_progress_start(&progress, "requests", r.data.num,
                             cli->disable_tqdm);
        rc = run_round(&r, &progress, &seconds, err);
        bench_progress_end(&progress, r.num_ended);
    }
    if (rc == OK) {
        rc = throughput_report(&r, seconds, err);
    }
    run_destroy(&r);
    return rc;
}
