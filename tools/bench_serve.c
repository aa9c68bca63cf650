/* bench_serve.c - from the options to the report, step by step. */
#include "tools/bench_serve.h"

#include <errno.h>
#include <math.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/model/model_config.h"
#include "tools/bench_dataset.h"
#include "tools/bench_request.h"

#define READY_PAUSE_NS  NS_PER_S
#define CONNECT_WAIT_MS 1000

struct serve {
    struct bench_cli          *cli;
    struct bench_serve_run     run;
    struct bench_url           url;
    struct bench_request       maker;
    struct tokenizer          *tokenizer;
    int32_t                    vocab_size;
    struct bench_dataset       data;
    struct bench_result       *results;        /* [data.num] */
    int64_t                   *at_ns;          /* [data.num] */
    struct bench_client_options  client;
    struct bench_client_stats    stats;
};

/* ---- options ------------------------------------------------------------ */
static int
read_percentiles(struct serve *s, struct err *err)
{
    const struct option_list  *metrics = &s->cli->percentile_metrics;
    const struct option_list  *percents = &s->cli->metric_percentiles;
    struct bench_serve_run    *r = &s->run;

    r->shown[BENCH_TTFT] = r->shown[BENCH_TPOT] = r->shown[BENCH_ITL] =
        metrics->num == 0;
    for (int i = 0; i < metrics->num; i++) {
        enum bench_metric  m = bench_metric_find(metrics->items[i]);
        if (m == BENCH_METRICS) {
            return err_set(err, "--percentile-metrics: \"%s\" is not one of "
                           "ttft, tpot, itl, e2el", metrics->items[i]);
        }
        r->shown[m] = true;
    }
    for (int i = 0; i < percents->num; i++) {
        char    *end;
        double   p = strtod(percents->items[i], &end);
        if (*end != '\0' || !(p >= 0 && p <= 100)) {
            return err_set(err, "--metric-percentiles: \"%s\" is not a number "
                           "from 0 to 100", percents->items[i]);
        }
        r->percents[r->num_percents++] = p;
    }
    if (percents->num == 0) {
        r->percents[r->num_percents++] = 99;
    }
    return OK;
}

static int
check_rates(const struct bench_cli *cli, struct err *err)
{
    if (!(cli->request_rate > 0)) {
        return err_set(err, "--request-rate must be above 0, or inf");
    }
    if (!(cli->burstiness > 0)) {
        return err_set(err, "--burstiness must be above 0");
    }
    if (cli->ramp_up_strategy == NULL) {
        return OK;
    }
    if (!isinf(cli->request_rate)) {
        return err_set(err, "--ramp-up-strategy and --request-rate exclude "
                       "each other");
    }
    if (cli->ramp_up_end_rps < 1
        || cli->ramp_up_start_rps > cli->ramp_up_end_rps
        || (cli->ramp_up_start_rps == 0
            && strcmp(cli->ramp_up_strategy, "exponential") == 0))
    {
        return err_set(err, "--ramp-up-start-rps %lld and --ramp-up-end-rps "
                       "%lld: the end must be above 0 and the start not above "
                       "the end; exponential begins above 0",
                       (long long) cli->ramp_up_start_rps,
                       (long long) cli->ramp_up_end_rps);
    }
    return OK;
}

static int
check_options(struct serve *s, struct err *err)
{
    struct bench_cli  *cli = s->cli;
    bool               chat = strcmp(cli->backend, "openai-chat") == 0;

    if (cli->engine.model == NULL) {
        return err_set(err, "--model NAME is required: the model's name at the "
                       "server");
    }
    if (cli->endpoint == NULL) {
        cli->endpoint = chat ? "/v1/chat/completions" : "/v1/completions";
    }
    s->run.cli = cli;
    s->run.label = cli->label != NULL ? cli->label : cli->backend;
    for (int i = 0; i < cli->metadata.num; i++) {
        if (strchr(cli->metadata.items[i], '=') == NULL) {
            return err_set(err, "--metadata \"%s\" is not KEY=VALUE",
                           cli->metadata.items[i]);
        }
    }
    if (bench_url_parse(&s->url, cli->base_url, cli->host, cli->port,
                        cli->endpoint, err) != OK
        || bench_dataset_check(cli, err) != OK
        || check_rates(cli, err) != OK || read_percentiles(s, err) != OK
        || bench_goals_parse(&s->run.goals, &cli->goodput, err) != OK)
    {
        return ERROR;
    }
    if (s->url.is_chat && cli->random_as_tokens) {
        return err_set(err, "--random-as-tokens: chats have no token ids; use "
                       "--endpoint /v1/completions");
    }
    return bench_request_open(&s->maker, cli, &s->url, &s->data, err) != OK
           ? ERROR : bench_serve_check_save(&s->run, err);
}

static bool
takes_connections(const struct addrinfo *a)
{
    int            fd = socket(a->ai_family,
                               SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct pollfd  p = { .fd = fd, .events = POLLOUT };
    int            error = 0;
    socklen_t      len = sizeof error;

    if (fd == -1) {
        return false;
    }
    bool  yes = connect(fd, a->ai_addr, a->ai_addrlen) == 0
                || (errno == EINPROGRESS && poll(&p, 1, CONNECT_WAIT_MS) == 1
                    && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0
                    && error == 0);
    (void) close(fd);
    return yes;
}

/* Of several addresses the first that is served: "localhost" is often ::1 as
 * well, and most servers listen on 127.0.0.1 only. */
static int
resolve(struct serve *s, struct err *err)
{
    struct addrinfo   hints = { .ai_socktype = SOCK_STREAM,
                                .ai_flags = AI_NUMERICSERV };
    struct addrinfo  *found = NULL;
    int               rc = getaddrinfo(s->url.host, s->url.port, &hints,
                                       &found);

    if (rc != 0) {
        return err_set(err, "%s: %s", s->url.host, gai_strerror(rc));
    }
    const struct addrinfo  *best = found->ai_next == NULL ? found : NULL;
    for (const struct addrinfo *a = found; a != NULL && best == NULL;
         a = a->ai_next)
    {
        best = takes_connections(a) ? a : NULL;
    }
    best = best == NULL ? found : best;
    memcpy(&s->client.addr, best->ai_addr, best->ai_addrlen);
    s->client.addr_len = best->ai_addrlen;
    freeaddrinfo(found);
    return OK;
}

/* ---- prompts ------------------------------------------------------------ */
static int
read_vocab_size(struct serve *s, const char *dir, struct err *err)
{
    struct model_config  *config = calloc(1, sizeof *config);

    if (config == NULL) {
        return err_set(err, "out of memory");
    }
    int  rc = model_config_load(config, dir, err);
    s->vocab_size = config->vocab_size;
    free(config);
    return rc;
}

static int
open_tokenizer(struct serve *s, struct err *err)
{
    const struct bench_cli  *cli = s->cli;
    const char              *dir = cli->tokenizer != NULL ? cli->tokenizer
                                                          : cli->engine.model;
    char                     path[4096];

    (void) snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    if (access(path, R_OK) == 0) {
        if (tokenizer_open(&s->tokenizer, dir, err) != OK) {
            return ERROR;
        }
        s->vocab_size = tokenizer_vocab_size(s->tokenizer);
        (void) snprintf(path, sizeof path, "%s/config.json", dir);
        /* Models may have fewer ids than their tokenizer. */
        return access(path, R_OK) == 0 && cli->random_as_tokens
               ? read_vocab_size(s, dir, err) : OK;
    }
    if (cli->random_as_tokens) {
        return read_vocab_size(s, dir, err);
    }
    return err_set(err, "--tokenizer DIR is required, with the tokenizer.json "
                   "that the server uses (there is no %s), or "
                   "--random-as-tokens", path);
}

static int
make_prompts(struct serve *s, struct err *err)
{
    struct bench_dataset_options  o = {
        .cli = s->cli, .vocab_size = s->vocab_size,
        .tokenizer = s->tokenizer, .want_text = !s->cli->random_as_tokens,
        .seed = (uint64_t) s->cli->engine.seed,
    };
    if (bench_dataset_make(&s->data, &o, err) != OK) {
        return ERROR;
    }
    if (s->data.num_inexact > 0) {
        printf("WARNING: %d of %d prompts have another length than asked for\n",
               s->data.num_inexact, s->data.num);
    }
    size_t  num = (size_t) s->data.num;
    s->results = calloc(num, sizeof *s->results);
    s->at_ns = calloc(num, sizeof *s->at_ns);
    return s->results == NULL || s->at_ns == NULL
           ? err_set(err, "out of memory for %zu results", num) : OK;
}

/* ---- runs --------------------------------------------------------------- */
static void
write_first(void *user, int i, struct buf *out)
{
    (void) i;
    bench_request_write(user, 0, out);
}

static int32_t
first_tokens(void *user, int i)
{
    (void) i;
    return bench_request_prompt_tokens(user, 0);
}

/* The first prompt num times, not counted; *succeeded of them did. */
static int
run_uncounted(struct serve *s, int num, int64_t timeout_ns, int *succeeded,
              struct err *err)
{
    struct bench_client_options  o = s->client;
    struct bench_client_stats    stats;
    struct bench_result         *results = calloc((size_t) num,
                                                  sizeof *results);
    int64_t                     *at_ns = calloc((size_t) num, sizeof *at_ns);
    int                          rc = ERROR;

    *succeeded = 0;
    o.num = num;
    o.timeout_ns = timeout_ns;
    o.at_ns = at_ns;
    o.write_request = write_first;
    o.prompt_tokens = first_tokens;
    if (results == NULL || at_ns == NULL) {
        (void) err_set(err, "out of memory for %d warm-up requests", num);
    } else {
        rc = bench_client_run(&o, results, &stats, err);
    }
    for (int i = 0; rc == OK && i < num; i++) {
        *succeeded += results[i].success;
        if (!results[i].success) {
            (void) err_set(err, "%s", results[i].error == NULL
                                      ? "no answer" : results[i].error);
        }
        bench_result_destroy(&results[i]);
    }
    free(results);
    free(at_ns);
    return rc;
}

static int
wait_ready(struct serve *s, struct err *err)
{
    const struct timespec  pause = { READY_PAUSE_NS / NS_PER_S, 0 };
    int64_t  end_ns = clock_now_ns()
                      + s->cli->ready_check_timeout_s * NS_PER_S;
    int      succeeded = 0;

    if (s->cli->ready_check_timeout_s == 0) {
        return OK;
    }
    puts("Starting initial single prompt test run...");
    for ( ;; ) {
        int64_t  left_ns = end_ns - clock_now_ns();
        left_ns = left_ns < READY_PAUSE_NS ? READY_PAUSE_NS : left_ns;
        if (resolve(s, err) != OK
            || run_uncounted(s, 1, left_ns < s->client.timeout_ns
                                   ? left_ns : s->client.timeout_ns,
                             &succeeded, err) != OK)
        {
            return ERROR;
        }
        if (succeeded == 1) {
            puts("Initial test run completed.");
            return OK;
        }
        if (clock_now_ns() >= end_ns) {
            return err_prefix(err, "Initial test run failed - Please make sure "
                              "benchmark arguments are correctly specified");
        }
        (void) nanosleep(&pause, NULL);
    }
}

static int
warm_up(struct serve *s, struct err *err)
{
    int  succeeded = 0, num = (int) s->cli->num_warmups;

    if (num == 0) {
        return OK;
    }
    printf("Warming up with %d requests...\n", num);
    if (run_uncounted(s, num, s->client.timeout_ns, &succeeded, err) != OK) {
        return ERROR;
    }
    if (succeeded < num) {
        printf("WARNING: %d of %d warm-up requests failed: %s\n",
               num - succeeded, num, err->message);
    }
    puts("Warmup run completed.");
    return OK;
}

static void
say_what_comes(const struct bench_cli *cli)
{
    puts("Starting main benchmark run...");
    if (cli->ramp_up_strategy != NULL) {
        printf("Traffic ramp-up strategy: %s.\nWill increase RPS from %lld to "
               "%lld RPS over the duration of the benchmark.\n",
               cli->ramp_up_strategy, (long long) cli->ramp_up_start_rps,
               (long long) cli->ramp_up_end_rps);
    } else {
        printf("Traffic request rate: %g\n", cli->request_rate);
    }
    printf("Burstiness factor: %g (%s)\n", cli->burstiness,
           cli->burstiness == 1 ? "Poisson process" : "Gamma distribution");
    if (cli->max_concurrency > 0) {
        printf("Maximum request concurrency: %lld\n",
               (long long) cli->max_concurrency);
    } else {
        puts("Maximum request concurrency: None");
    }
    (void) fflush(stdout);
}

static int
run_counted(struct serve *s, struct err *err)
{
    const struct bench_cli  *cli = s->cli;
    struct bench_progress    progress;
    struct bench_arrivals    arrivals = {
        .rate = cli->request_rate, .burstiness = cli->burstiness,
        .ramp_up = cli->ramp_up_strategy,
        .start_rps = (double) cli->ramp_up_start_rps,
        .end_rps = (double) cli->ramp_up_end_rps,
        .seed = (uint64_t) cli->engine.seed + 1,
    };

    bench_arrivals_make(s->at_ns, s->data.num, &arrivals);
    say_what_comes(cli);
    bench_progress_start(&progress, "requests", s->data.num,
                         cli->disable_tqdm);
    s->client.progress = &progress;
    s->client.stoppable = true;
    int  rc = bench_client_run(&s->client, s->results, &s->stats, err);
    bench_progress_end(&progress, s->stats.num_started);
    return rc;
}

static int
report(struct serve *s, struct err *err)
{
    struct bench_serve_run  *r = &s->run;

    r->results = s->results;
    r->num = s->stats.num_started;
    r->num_wanted = s->data.num;
    r->stats = &s->stats;
    int  rc = bench_metrics_make(&r->metrics, s->results, r->num,
                                 (double) s->stats.duration_ns * 1e-9,
                                 &r->goals);
    if (rc != OK) {
        (void) err_set(err, "out of memory for the figures");
    } else {
        bench_serve_print(r);
        rc = bench_serve_save(r, err);
    }
    if (rc == OK && r->metrics.completed == 0) {
        rc = r->stats->interrupted
             ? err_set(err, "interrupted before the first answer was complete")
             : err_set(err, "All requests failed. This is likely due to a "
                     "misconfiguration on the benchmark arguments.");
    }
    bench_metrics_destroy(&r->metrics);
    return rc;
}

static void
serve_destroy(struct serve *s)
{
    for (int i = 0; s->results != NULL && i < s->data.num; i++) {
        bench_result_destroy(&s->results[i]);
    }
    free(s->results);
    free(s->at_ns);
    bench_request_close(&s->maker);
    bench_dataset_destroy(&s->data);
    tokenizer_destroy(s->tokenizer);
}

int
bench_serve(struct bench_cli *cli, struct err *err)
{
    struct serve  s = { .cli = cli };

    log_level = LOG_WARN;
    int  rc = check_options(&s, err) == OK && resolve(&s, err) == OK
              && open_tokenizer(&s, err) == OK && make_prompts(&s, err) == OK
              ? OK : ERROR;
    if (rc == OK) {
        s.client.num = s.data.num;
        s.client.max_concurrency = (int) cli->max_concurrency;
        s.client.at_ns = s.at_ns;
        s.client.timeout_ns = (int64_t) (cli->timeout_s * (double) NS_PER_S);
        s.client.keep_text = cli->save_detailed;
        s.client.write_request = bench_request_write;
        s.client.prompt_tokens = bench_request_prompt_tokens;
        s.client.user = &s.maker;
        rc = wait_ready(&s, err) == OK && warm_up(&s, err) == OK
             && run_counted(&s, err) == OK ? report(&s, err) : ERROR;
    }
    serve_destroy(&s);
    return rc;
}
