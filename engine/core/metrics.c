/* metrics.c - tables of names and buckets, arrays of relaxed atomics.
 *
 * Values are kept as integers (nanoseconds, tokens), so sums are exact; the
 * page converts to seconds.  Buckets are counted one by one and added up when
 * the page is written: a reader in between sees a page that is a few
 * observations old in some lines, never one that goes backwards. */
#include "engine/core/metrics.h"
#include "engine/base/clock.h"
#include "engine/core/engine.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS_MAX        32
#define NAME_BYTES_MAX     256     /* of an escaped model name */

enum histogram_id {
    H_TTFT, H_ITL, H_E2E, H_QUEUE, H_INFERENCE, H_PREFILL, H_DECODE,
    H_TPOT, H_PROMPT, H_GENERATION, H_MAX_GENERATION, H_MAX_TOKENS, H_N,
    H_STEP, NUM_HISTOGRAMS
};

/* vLLM's buckets; finer ones below 10 ms (tokens) and 300 ms (requests) are
 * added, because a small model on a fast device lives there. */
static const double  ttft_s[] = {
    .001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10,
    20, 40, 80, 160, 640, 2560, 0
};
static const double  itl_s[] = {
    .0005, .001, .002, .003, .004, .005, .0075, .01, .015, .02, .025, .05,
    .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 0
};
static const double  request_s[] = {
    .005, .01, .02, .05, .1, .2, .3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30,
    40, 50, 60, 120, 240, 480, 960, 1920, 7680, 0
};
static const double  choices[] = { 1, 2, 5, 10, 20, 0 };
static const double  step_tokens[] = {
    1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 0
};

struct family {
    const char   *name;         /* without the prefix "vllm:" */
    const char   *alias;        /* an older name for the same, or NULL */
    const char   *help;
    const double *bounds;       /* 0-terminated; NULL: 1-2-5 series of tokens */
    double        unit;         /* integers in one printed unit */
};

static const struct family  families[NUM_HISTOGRAMS] = {
    [H_TTFT] = { "time_to_first_token_seconds", NULL,
                 "Time from arrival to the first token.", ttft_s, 1e9 },
    [H_ITL] = { "inter_token_latency_seconds", "time_per_output_token_seconds",
                "Time between two events of tokens of a sequence.", itl_s,
                1e9 },
    [H_E2E] = { "e2e_request_latency_seconds", NULL,
                "Time from arrival to the end of a request.", request_s, 1e9 },
    [H_QUEUE] = { "request_queue_time_seconds", NULL,
                  "Time from arrival to the first scheduling.", request_s,
                  1e9 },
    [H_INFERENCE] = { "request_inference_time_seconds", NULL,
                      "Time from the first scheduling to the end.", request_s,
                      1e9 },
    [H_PREFILL] = { "request_prefill_time_seconds", NULL,
                    "Time from the first scheduling to the first token.",
                    request_s, 1e9 },
    [H_DECODE] = { "request_decode_time_seconds", NULL,
                   "Time from the first to the last token.", request_s, 1e9 },
    [H_TPOT] = { "request_time_per_output_token_seconds", NULL,
                 "Mean time per output token of a request after the first.",
                 itl_s, 1e9 },
    [H_PROMPT] = { "request_prompt_tokens", NULL,
                   "Prompt tokens of a request.", NULL, 1 },
    [H_GENERATION] = { "request_generation_tokens", NULL,
                       "Tokens generated for a request.", NULL, 1 },
    [H_MAX_GENERATION] = { "request_max_num_generation_tokens", NULL,
                           "Tokens of the longest sequence of a request.",
                           NULL, 1 },
    [H_MAX_TOKENS] = { "request_params_max_tokens", NULL,
                       "max_tokens of a request.", NULL, 1 },
    [H_N] = { "request_params_n", NULL, "n of a request.", choices, 1 },
    [H_STEP] = { "iteration_tokens_total", NULL,
                 "Tokens computed in one engine step.", step_tokens, 1 },
};

struct histogram {
    int               num_bounds;
    int64_t           bounds[BUCKETS_MAX];       /* inclusive, ascending */
    _Atomic uint64_t  counts[BUCKETS_MAX + 1];   /* the last: above all */
    _Atomic uint64_t  sum;
};

struct metrics {
    struct metrics_options  options;
    struct histogram        histograms[NUM_HISTOGRAMS];
    _Atomic uint64_t        finished[FINISH_REASONS];
};

static void
histogram_init(struct histogram *h, const struct family *f, int32_t tokens_max)
{
    static const int64_t  steps[] = { 1, 2, 5 };

    if (f->bounds != NULL) {
        while (f->bounds[h->num_bounds] > 0) {
            h->bounds[h->num_bounds] =
                (int64_t) (f->bounds[h->num_bounds] * f->unit + 0.5);
            h->num_bounds++;
        }
        return;
    }
    for (int64_t scale = 1; h->num_bounds < BUCKETS_MAX; scale *= 10) {
        for (size_t i = 0; i < 3; i++) {
            if (steps[i] * scale > tokens_max) {
                return;
            }
            h->bounds[h->num_bounds++] = steps[i] * scale;
        }
    }
}

int
metrics_create(struct metrics **out, const struct metrics_options *options,
               struct err *err)
{
    struct metrics  *m = calloc(1, sizeof *m);

    *out = m;
    if (m == NULL) {
        return err_set(err, "metrics: out of memory");
    }
    m->options = *options;
    for (int i = 0; i < NUM_HISTOGRAMS; i++) {
        histogram_init(&m->histograms[i], &families[i],
                       options->max_model_len);
    }
    return OK;
}

void
metrics_destroy(struct metrics *m)
{
    free(m);
}

/* ---- observing ---- */

static void
observe(struct metrics *m, enum histogram_id id, int64_t value)
{
    struct histogram  *h = &m->histograms[id];
    int                i = 0;

    value = value < 0 ? 0 : value;
    while (i < h->num_bounds && value > h->bounds[i]) {
        i++;
    }
    atomic_fetch_add_explicit(&h->counts[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum, (uint64_t) value, memory_order_relaxed);
}

void
metrics_observe_step(struct metrics *m, int32_t num_tokens)
{
    observe(m, H_STEP, num_tokens);
}

void
metrics_observe_ttft(struct metrics *m, int64_t ns)
{
    observe(m, H_TTFT, ns);
}

void
metrics_observe_itl(struct metrics *m, int64_t ns)
{
    observe(m, H_ITL, ns);
}

void
metrics_observe_finish(struct metrics *m, enum finish_reason reason)
{
    atomic_fetch_add_explicit(&m->finished[reason], 1, memory_order_relaxed);
}

void
metrics_observe_request(struct metrics *m, const struct metrics_request *r)
{
    observe(m, H_E2E, r->e2e_ns);
    observe(m, H_PROMPT, r->prompt_tokens);
    observe(m, H_GENERATION, r->generation_tokens);
    observe(m, H_MAX_GENERATION, r->max_generation_tokens);
    observe(m, H_MAX_TOKENS, r->max_tokens);
    observe(m, H_N, r->n);
    observe(m, H_QUEUE, r->queue_ns);
    if (r->ttft_ns == 0) {
        return;                  /* no token: no phases */
    }
    observe(m, H_INFERENCE, r->e2e_ns - r->queue_ns);
    observe(m, H_PREFILL, r->ttft_ns - r->queue_ns);
    observe(m, H_DECODE, r->decode_ns);
    if (r->max_generation_tokens > 1) {
        observe(m, H_TPOT, r->decode_ns / (r->max_generation_tokens - 1));
    }
}

/* ---- the page ---- */

struct page {
    struct buf *out;
    char        labels[NAME_BYTES_MAX + 64];   /* engine="0",model_name="x" */
};

/* Escapes \, " and line feed; cuts a name that is too long at a character. */
static void
page_labels(struct page *page, const char *model_name)
{
    char    name[NAME_BYTES_MAX];
    size_t  len = 0;

    for (const char *c = model_name; *c != '\0'; c++) {
        bool  escape = *c == '\\' || *c == '"' || *c == '\n';
        bool  begins = ((unsigned char) *c & 0xc0) != 0x80;
        if (len + 8 > sizeof name && (begins || len + 3 > sizeof name)) {
            break;
        }
        if (escape) {
            name[len++] = '\\';
        }
        name[len++] = *c == '\n' ? 'n' : *c;
    }
    name[len] = '\0';
    (void) snprintf(page->labels, sizeof page->labels,
                    "engine=\"0\",model_name=\"%s\"", name);
}

static void
page_family(struct page *page, const char *name, const char *type,
            const char *help)
{
    buf_appendf(page->out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name,
                type);
}

static void
page_value(struct page *page, const char *name, const char *more_labels,
           double value)
{
    buf_appendf(page->out, "%s{%s%s} %.17g\n", name, page->labels, more_labels,
                value);
}

static void
page_single(struct page *page, const char *name, const char *type,
            const char *help, double value)
{
    page_family(page, name, type, help);
    page_value(page, name, "", value);
}

static void
page_histogram(struct page *page, const char *name, const struct family *f,
               const struct histogram *h)
{
    uint64_t  total = 0;

    buf_appendf(page->out, "# HELP vllm:%s %s\n# TYPE vllm:%s histogram\n",
                name, f->help, name);
    for (int i = 0; i <= h->num_bounds; i++) {
        total += atomic_load_explicit(&h->counts[i], memory_order_relaxed);
        buf_appendf(page->out, "vllm:%s_bucket{%s,le=\"", name, page->labels);
        if (i == h->num_bounds) {
            buf_append_lit(page->out, "+Inf");
        } else {
            buf_appendf(page->out, "%.10g", (double) h->bounds[i] / f->unit);
        }
        buf_appendf(page->out, "\"} %llu\n", (unsigned long long) total);
    }
    uint64_t  sum = atomic_load_explicit(&h->sum, memory_order_relaxed);
    buf_appendf(page->out, "vllm:%s_sum{%s} %.17g\nvllm:%s_count{%s} %llu\n",
                name, page->labels, (double) sum / f->unit, name, page->labels,
                (unsigned long long) total);
}

static void
page_gauges(struct page *page, const struct metrics *m,
            const struct engine_stats *s)
{
    double  usage = s->kv_blocks_total > 0
                    ? (double) s->kv_blocks_used / s->kv_blocks_total : 0.0;
    char    config[128];

    page_single(page, "vllm:num_requests_running", "gauge",
                "Sequences in the running batch.", s->num_running);
    page_single(page, "vllm:num_requests_waiting", "gauge",
                "Sequences waiting to be scheduled.", s->num_waiting);
    page_single(page, "vllm:num_requests_swapped", "gauge",
                "Sequences held back for a slow reader.", s->num_parked);
    page_single(page, "vllm:kv_cache_usage_perc", "gauge",
                "KV cache in use, 0 to 1.", usage);
    page_single(page, "vllm:gpu_cache_usage_perc", "gauge",
                "Older name of vllm:kv_cache_usage_perc.", usage);
    (void) snprintf(config, sizeof config,
                    ",block_size=\"%d\",num_gpu_blocks=\"%d\"",
                    m->options.block_size, m->options.num_blocks);
    page_family(page, "vllm:cache_config_info", "gauge",
                "Shape of the KV cache.");
    page_value(page, "vllm:cache_config_info", config, 1);
}

/* vLLM knows four ends; ours are counted in full beside them. */
static void
page_ends(struct page *page, const struct metrics *m)
{
    enum { STOP, LENGTH, ABORT, FAILED, NUM_ENDS };
    static const char *const  names[NUM_ENDS] = {
        "stop", "length", "abort", "error"
    };
    static const unsigned char  end_of[FINISH_REASONS] = {
        [FINISH_STOP] = STOP, [FINISH_TOOL_CALLS] = STOP,
        [FINISH_LENGTH] = LENGTH, [FINISH_CLIENT_ABORT] = ABORT,
        [FINISH_DEADLINE] = ABORT, [FINISH_SLOW_READER] = ABORT,
        [FINISH_NUMERIC_ERROR] = FAILED, [FINISH_GRAMMAR_DEAD_END] = FAILED,
        [FINISH_ENGINE_LOST] = FAILED, [FINISH_SHUTDOWN] = ABORT,
    };
    uint64_t  counts[FINISH_REASONS], ends[NUM_ENDS] = { 0 };
    char      label[64];

    for (int r = FINISH_NONE + 1; r < FINISH_REASONS; r++) {
        counts[r] = atomic_load_explicit(&m->finished[r],
                                         memory_order_relaxed);
        ends[end_of[r]] += counts[r];
    }
    page_family(page, "vllm:request_success_total", "counter",
                "Sequences that ended, by vLLM's reasons.");
    for (int i = 0; i < NUM_ENDS; i++) {
        (void) snprintf(label, sizeof label, ",finished_reason=\"%s\"",
                        names[i]);
        page_value(page, "vllm:request_success_total", label,
                   (double) ends[i]);
    }
    page_family(page, "nginx_llm_sequences_finished_total", "counter",
                "Sequences that ended, by terminal event.");
    for (int r = FINISH_NONE + 1; r < FINISH_REASONS; r++) {
        (void) snprintf(label, sizeof label, ",reason=\"%s\"",
                        gen_reason_name((enum finish_reason) r));
        page_value(page, "nginx_llm_sequences_finished_total", label,
                   (double) counts[r]);
    }
}

static void
page_counters(struct page *page, const struct metrics *m,
              const struct engine_stats *s)
{
    uint64_t  prompt = atomic_load_explicit(&m->histograms[H_PROMPT].sum,
                                            memory_order_relaxed);
    uint64_t  generation = atomic_load_explicit(
        &m->histograms[H_GENERATION].sum, memory_order_relaxed);

    page_single(page, "vllm:num_preemptions_total", "counter",
                "Sequences whose KV cache was taken and recomputed.",
                (double) s->num_preemptions);
    page_single(page, "vllm:prompt_tokens_total", "counter",
                "Prompt tokens of admitted sequences.",
                (double) s->prompt_tokens_total);
    page_single(page, "vllm:prompt_tokens_recomputed_total", "counter",
                "Tokens computed again after preemptions.",
                (double) s->recomputed_tokens_total);
    page_single(page, "vllm:generation_tokens_total", "counter",
                "Tokens generated.", (double) s->generation_tokens_total);
    page_single(page, "vllm:request_prompt_tokens_total", "counter",
                "Prompt tokens of ended requests.", (double) prompt);
    page_single(page, "vllm:request_generation_tokens_total", "counter",
                "Tokens generated for ended requests.", (double) generation);
    page_single(page, "nginx_llm_sequences_total", "counter",
                "Sequences accepted.", (double) s->requests_total);
    page_single(page, "nginx_llm_steps_total", "counter",
                "Engine steps computed.", (double) s->num_steps);
    page_ends(page, m);
}

void
metrics_write(const struct metrics *m, const char *model_name,
              const struct engine_stats *stats, struct buf *out)
{
    struct page  page = { .out = out };

    page_labels(&page, model_name);
    page_gauges(&page, m, stats);
    page_counters(&page, m, stats);
    for (int i = 0; i < NUM_HISTOGRAMS; i++) {
        const struct family  *f = &families[i];
        page_histogram(&page, f->name, f, &m->histograms[i]);
        if (f->alias != NULL) {
            page_histogram(&page, f->alias, f, &m->histograms[i]);
        }
    }
}
