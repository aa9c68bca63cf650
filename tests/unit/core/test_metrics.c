/* test_metrics.c - the page's form and numbers.
 *
 * The form is checked by a small strict reader: HELP and TYPE once per family
 * and before its samples, no series twice, histogram buckets that only grow
 * and end in +Inf = count. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "engine/base/clock.h"
#include "engine/core/engine.h"
#include "engine/core/metrics.h"

#define LINES_MAX  1000

static struct metrics *
make_metrics(void)
{
    struct metrics  *m;

    assert_int_equal(metrics_create(&m, &(struct metrics_options) {
        .max_model_len = 4096, .block_size = 32, .num_blocks = 99 }, NULL),
        OK);
    return m;
}

static char *
page_of(const struct metrics *m, const char *model_name)
{
    struct engine_stats  stats = {
        .num_running = 3, .num_waiting = 2, .num_parked = 1,
        .kv_blocks_used = 25, .kv_blocks_total = 100, .num_preemptions = 7,
        .prompt_tokens_total = 1000, .generation_tokens_total = 555
    };
    struct buf           out;

    buf_init(&out, 1 << 20);
    metrics_write(m, model_name, &stats, &out);
    buf_append_c(&out, '\0');
    assert_false(out.failed);
    return out.data;
}

static void
assert_line(const char *page, const char *line)
{
    const char  *at = strstr(page, line);

    if (at == NULL || at[strlen(line)] != '\n') {
        fail_msg("missing: %s", line);
    }
}

static void
gauges_and_counters_carry_vllms_names_and_labels(void **state)
{
    (void) state;
    struct metrics  *m = make_metrics();

    metrics_observe_finish(m, FINISH_STOP);
    metrics_observe_finish(m, FINISH_TOOL_CALLS);
    metrics_observe_finish(m, FINISH_CLIENT_ABORT);
    metrics_observe_finish(m, FINISH_NUMERIC_ERROR);
    char  *page = page_of(m, "demo");
#define L  "{engine=\"0\",model_name=\"demo\""
    assert_line(page, "vllm:num_requests_running" L "} 3");
    assert_line(page, "vllm:num_requests_waiting" L "} 2");
    assert_line(page, "vllm:kv_cache_usage_perc" L "} 0.25");
    assert_line(page, "vllm:gpu_cache_usage_perc" L "} 0.25");
    assert_line(page, "vllm:num_preemptions_total" L "} 7");
    assert_line(page, "vllm:prompt_tokens_total" L "} 1000");
    assert_line(page, "vllm:generation_tokens_total" L "} 555");
    assert_line(page, "vllm:cache_config_info" L
                ",block_size=\"32\",num_gpu_blocks=\"99\"} 1");
    assert_line(page, "vllm:request_success_total" L
                ",finished_reason=\"stop\"} 2");
    assert_line(page, "vllm:request_success_total" L
                ",finished_reason=\"abort\"} 1");
    assert_line(page, "vllm:request_success_total" L
                ",finished_reason=\"error\"} 1");
    assert_line(page, "nginx_llm_sequences_finished_total" L
                ",reason=\"tool_calls\"} 1");
    free(page);
    metrics_destroy(m);
}

static void
histograms_count_in_the_bucket_whose_bound_includes_the_value(void **state)
{
    (void) state;
    struct metrics  *m = make_metrics();

    metrics_observe_ttft(m, 40 * NS_PER_MS);       /* le 0.04 includes it */
    metrics_observe_ttft(m, 40 * NS_PER_MS + 1);
    metrics_observe_ttft(m, 5000 * NS_PER_S);
    metrics_observe_itl(m, 3 * NS_PER_MS);
    metrics_observe_itl(m, -5);                    /* clocks: never negative */
    metrics_observe_step(m, 64);
    metrics_observe_request(m, &(struct metrics_request) {
        .prompt_tokens = 100, .generation_tokens = 22,
        .max_generation_tokens = 11, .max_tokens = 50, .n = 2,
        .e2e_ns = 2 * NS_PER_S, .queue_ns = NS_PER_S / 2,
        .ttft_ns = NS_PER_S, .decode_ns = NS_PER_S });
    metrics_observe_request(m, &(struct metrics_request) {
        .prompt_tokens = 100, .n = 1 });           /* cancelled in the queue */
    char  *page = page_of(m, "demo");
    assert_line(page, "vllm:time_to_first_token_seconds_bucket" L
                ",le=\"0.02\"} 0");
    assert_line(page, "vllm:time_to_first_token_seconds_bucket" L
                ",le=\"0.04\"} 1");
    assert_line(page, "vllm:time_to_first_token_seconds_bucket" L
                ",le=\"0.06\"} 2");
    assert_line(page, "vllm:time_to_first_token_seconds_bucket" L
                ",le=\"2560\"} 2");
    assert_line(page, "vllm:time_to_first_token_seconds_bucket" L
                ",le=\"+Inf\"} 3");
    assert_line(page, "vllm:time_to_first_token_seconds_count" L "} 3");
    assert_line(page, "vllm:inter_token_latency_seconds_bucket" L
                ",le=\"0.003\"} 2");
    assert_line(page, "vllm:time_per_output_token_seconds_bucket" L
                ",le=\"0.003\"} 2");
    assert_line(page, "vllm:iteration_tokens_total_sum" L "} 64");
    assert_line(page, "vllm:e2e_request_latency_seconds_count" L "} 2");
    assert_line(page, "vllm:e2e_request_latency_seconds_sum" L "} 2");
    assert_line(page, "vllm:request_prefill_time_seconds_sum" L "} 0.5");
    assert_line(page, "vllm:request_inference_time_seconds_sum" L "} 1.5");
    assert_line(page, "vllm:request_decode_time_seconds_count" L "} 1");
    assert_line(page, "vllm:request_time_per_output_token_seconds_bucket" L
                ",le=\"0.1\"} 1");
    assert_line(page, "vllm:request_time_per_output_token_seconds_bucket" L
                ",le=\"0.075\"} 0");
    assert_line(page, "vllm:request_prompt_tokens_bucket" L ",le=\"100\"} 2");
    assert_line(page, "vllm:request_prompt_tokens_bucket" L ",le=\"50\"} 0");
    assert_line(page, "vllm:request_prompt_tokens_total" L "} 200");
    assert_line(page, "vllm:request_generation_tokens_total" L "} 22");
    assert_null(strstr(page, "request_prompt_tokens_bucket" L ",le=\"5000\""));
    free(page);
    metrics_destroy(m);
}

/* What a reader of the text format holds against the page. */
struct reader {
    char *seen[LINES_MAX];        /* series and TYPE names */
    int   num_seen;
    char  family[128];            /* of the last TYPE line */
    long  last_bucket;
};

static void
reader_once(struct reader *r, char *what)
{
    for (int i = 0; i < r->num_seen; i++) {
        if (strcmp(r->seen[i], what) == 0) {
            fail_msg("twice: %s", what);
        }
    }
    assert_true(r->num_seen < LINES_MAX);
    r->seen[r->num_seen++] = what;
}

static void
reader_line(struct reader *r, char *line)
{
    char  *value = strrchr(line, ' ');

    if (strncmp(line, "# HELP ", 7) == 0) {
        return;
    }
    if (strncmp(line, "# TYPE ", 7) == 0) {
        *value = '\0';
        reader_once(r, line);
        (void) snprintf(r->family, sizeof r->family, "%s", line + 7);
        r->last_bucket = 0;
        return;
    }
    assert_non_null(value);
    *value++ = '\0';
    assert_int_equal(strncmp(line, r->family, strlen(r->family)), 0);
    assert_non_null(strchr(line, '{'));
    char  *end;
    (void) strtod(value, &end);
    assert_true(*end == '\0' && end != value);
    reader_once(r, line);
    if (strstr(line, "_bucket{") != NULL) {
        assert_true(atol(value) >= r->last_bucket);
        r->last_bucket = atol(value);
    } else if (strstr(line, "_count{") != NULL) {
        assert_int_equal(atol(value), r->last_bucket);
    }
}

static void
the_page_is_valid_text_format(void **state)
{
    (void) state;
    static struct reader  r;
    struct metrics       *m = make_metrics();
    char                 *rest;

    for (int i = 1; i < 3000; i += 7) {
        metrics_observe_itl(m, i * NS_PER_MS);
        metrics_observe_step(m, i);
        metrics_observe_request(m, &(struct metrics_request) {
            .prompt_tokens = i, .generation_tokens = i,
            .max_generation_tokens = i, .max_tokens = i, .n = 1 + i % 3,
            .e2e_ns = i * NS_PER_S, .ttft_ns = i });
    }
    char  *page = page_of(m, "a \"quoted\" \\ name\nof two lines");
    assert_non_null(strstr(page, "model_name=\"a \\\"quoted\\\" \\\\ name\\nof "
                                 "two lines\""));
    for (char *line = strtok_r(page, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest))
    {
        reader_line(&r, line);
    }
    assert_true(r.num_seen > 300);
    free(page);
    metrics_destroy(m);
}

static void
a_long_model_name_is_cut_between_characters(void **state)
{
    (void) state;
    struct metrics  *m = make_metrics();
    char             name[1000];

    memset(name, 'x', sizeof name);
    name[247] = '\xc3';
    name[248] = '\xa9';
    name[999] = '\0';
    char  *page = page_of(m, name);
    assert_non_null(strstr(page, "x\xc3\xa9\"}"));
    free(page);
    memset(name, '\xa9', sizeof name - 1);         /* not even UTF-8 */
    page = page_of(m, name);
    assert_true(strlen(page) > 1000);
    free(page);
    metrics_destroy(m);
    metrics_destroy(NULL);
}

static void *
observe_many(void *m)
{
    for (int i = 0; i < 20000; i++) {
        metrics_observe_itl(m, NS_PER_MS);
        metrics_observe_finish(m, FINISH_LENGTH);
    }
    return NULL;
}

static void
nothing_is_lost_between_threads(void **state)
{
    (void) state;
    struct metrics  *m = make_metrics();
    pthread_t        threads[3];

    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, observe_many, m),
                         0);
    }
    free(page_of(m, "demo"));
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    char  *page = page_of(m, "demo");
    assert_line(page, "vllm:inter_token_latency_seconds_count" L "} 60000");
    assert_line(page, "vllm:inter_token_latency_seconds_sum" L "} 60");
    assert_line(page, "vllm:request_success_total" L
                ",finished_reason=\"length\"} 60000");
    free(page);
    metrics_destroy(m);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gauges_and_counters_carry_vllms_names_and_labels),
        cmocka_unit_test(
            histograms_count_in_the_bucket_whose_bound_includes_the_value),
        cmocka_unit_test(the_page_is_valid_text_format),
        cmocka_unit_test(a_long_model_name_is_cut_between_characters),
        cmocka_unit_test(nothing_is_lost_between_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
