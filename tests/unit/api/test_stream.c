/* test_stream.c - api.c, request.c, stream.c and response.c without an engine:
 * the test defines engine_*() itself, hands out events and reads the bytes.
 * Prompts are token ids; only stop strings need a tokenizer, the demo's. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/api/api.h"
#include "engine/base/json.h"
#include "engine/core/metrics.h"
#include "engine/text/tokenizer.h"

/* ---- the engine, as the API layer sees it ---- */

struct engine {
    struct gen_request  gens[64];
    int                 num_gens;
    int                 submit_rc;
    uint64_t            next_id;
    uint64_t            cancelled[64];
    enum finish_reason  cancel_reason[64];
    int                 num_cancelled;
    struct metrics     *metrics;
};

uint64_t
engine_next_id(struct engine *e)
{
    return ++e->next_id;
}

int
engine_submit(struct engine *e, const struct gen_request *requests, int num,
              struct err *err)
{
    if (e->submit_rc != OK) {
        return e->submit_rc == ERROR
               ? err_set_http(err, 400, "max_tokens", "can never fit")
               : e->submit_rc;
    }
    memcpy(e->gens, requests, (size_t) num * sizeof *requests);
    e->num_gens = num;
    return OK;
}

void
engine_cancel(struct engine *e, uint64_t gen_id, enum finish_reason reason)
{
    e->cancelled[e->num_cancelled] = gen_id;
    e->cancel_reason[e->num_cancelled++] = reason;
}

void
engine_park(struct engine *e, uint64_t gen_id, bool parked)
{
    (void) e;
    (void) gen_id;
    (void) parked;
}

void
engine_stats(struct engine *e, struct engine_stats *out)
{
    (void) e;
    memset(out, 0, sizeof *out);
}

struct metrics *
engine_metrics(struct engine *e)
{
    return e->metrics;
}

/* ---- fixture ---- */

struct fixture {
    struct engine       engine;
    struct api         *api;
    struct api_worker  *worker;
    struct api_reply    reply;
    struct api_stream  *stream;
};

static void
fixture_init_with(struct fixture *f, const struct tokenizer *tok)
{
    struct err          err = { 0 };
    struct api_options  o = {
        .model_names = { "demo", "alias" }, .num_model_names = 2,
        .model_root = "/models/demo", .max_model_len = 64, .vocab_size = 100,
        .defaults = { .temperature = 1, .top_p = 1, .num_eos_ids = 1,
                      .eos_ids = { 99 } },
        .tokenizer = tok, .seed = 5,
    };
    memset(f, 0, sizeof *f);
    assert_int_equal(metrics_create(&f->engine.metrics, &(struct metrics_options) {
        .max_model_len = 64, .block_size = 32, .num_blocks = 8 }, &err), OK);
    o.engine = &f->engine;
    assert_int_equal(api_create(&f->api, &o, &err), OK);
    assert_int_equal(api_worker_create(&f->worker, f->api, &err), OK);
    buf_init(&f->reply.body, 1u << 20);
}

static void
fixture_init(struct fixture *f)
{
    fixture_init_with(f, NULL);
}

static void
fixture_destroy(struct fixture *f)
{
    api_stream_destroy(f->stream);
    api_worker_destroy(f->worker);
    api_destroy(f->api);
    metrics_destroy(f->engine.metrics);
    buf_destroy(&f->reply.body);
}

/* model: what the module says instead of the body, NULL: nothing. */
static void
fixture_call_as(struct fixture *f, enum api_route route, const char *body,
                const char *model)
{
    struct api_call  call = { .route = route, .body = str_from(body),
                              .request_id = STR("r1"), .arrival_ns = 1000 };
    struct buf       b = f->reply.body;

    if (model != NULL) {
        call.model_override = true;
        call.model_id = str_from(model);
    }

    api_stream_destroy(f->stream);
    buf_reset(&b);
    f->reply = (struct api_reply) { .body = b };
    f->engine.num_gens = 0;
    f->engine.num_cancelled = 0;
    api_begin(f->api, f->worker, &call, &f->reply, &f->stream);
    if (f->stream != NULL) {
        api_submit(f->stream, &f->reply);
    }
}

static void
fixture_call(struct fixture *f, enum api_route route, const char *body)
{
    fixture_call_as(f, route, body, NULL);
}

static void
fixture_tokens(struct fixture *f, int gen, int num, const int32_t *ids)
{
    struct gen_request  *g = &f->engine.gens[gen];
    struct gen_event     ev = { .gen_id = g->gen_id, .user = g->user,
                                .type = GEN_TOKENS, .num_tokens = num,
                                .scheduled_ns = 1500, .now_ns = 2000 };

    for (int i = 0; i < num; i++) {
        ev.token_ids[i] = ids[i];
    }
    assert_ptr_equal(api_stream_of(&ev), f->stream);
    api_event(f->stream, &ev, &f->reply);
}

static void
fixture_finish(struct fixture *f, int gen, enum finish_reason reason,
               int32_t stop_id)
{
    struct gen_request  *g = &f->engine.gens[gen];
    struct gen_event     ev = { .gen_id = g->gen_id, .user = g->user,
                                .type = GEN_FINISHED, .reason = reason,
                                .stop_id = stop_id, .scheduled_ns = 1500,
                                .first_token_ns = 2000, .now_ns = 3000 };
    api_event(f->stream, &ev, &f->reply);
}

static bool
body_has(const struct fixture *f, const char *text)
{
    return memmem(f->reply.body.data, f->reply.body.len, text, strlen(text))
           != NULL;
}

/* ---- the tests ---- */

static void
test_whole_answer_comes_with_the_last_event(void **state)
{
    struct fixture  f;

    (void) state;
    fixture_init(&f);
    fixture_call(&f, API_COMPLETIONS, "{\"prompt\":[1,2,3],\"max_tokens\":4,"
                 "\"return_token_ids\":true}");
    assert_false(f.reply.done);
    assert_int_equal(f.engine.num_gens, 1);
    assert_int_equal(f.engine.gens[0].num_prompt_tokens, 3);
    assert_int_equal(f.engine.gens[0].max_tokens, 4);
    assert_int_equal(f.engine.gens[0].num_stop_ids, 1);
    f.engine.gens[0].token_ids[3] = 7;
    f.engine.gens[0].token_ids[4] = 99;
    fixture_tokens(&f, 0, 1, (int32_t[]) { 7 });
    assert_int_equal(f.reply.body.len, 0);
    fixture_tokens(&f, 0, 1, (int32_t[]) { 99 });
    fixture_finish(&f, 0, FINISH_STOP, 99);
    assert_true(f.reply.head && f.reply.done);
    assert_int_equal(f.reply.status, 200);
    assert_int_equal(f.reply.reason, FINISH_STOP);
    assert_true(body_has(&f, "\"id\":\"cmpl-r1\""));
    assert_true(body_has(&f, "\"finish_reason\":\"stop\",\"stop_reason\":null"));
    assert_true(body_has(&f, "\"token_ids\":[7,99],\"prompt_token_ids\":"
                         "[1,2,3]"));
    assert_true(body_has(&f, "\"usage\":{\"prompt_tokens\":3,"
                         "\"total_tokens\":5,\"completion_tokens\":2"));
    fixture_destroy(&f);
}

static void
test_stream_sends_head_once_and_done_last(void **state)
{
    struct fixture  f;

    (void) state;
    fixture_init(&f);
    fixture_call(&f, API_COMPLETIONS, "{\"prompt\":[1],\"stream\":true,"
                 "\"stream_options\":{\"include_usage\":true},"
                 "\"return_token_ids\":true,\"max_tokens\":2}");
    fixture_tokens(&f, 0, 1, (int32_t[]) { 7 });
    assert_true(f.reply.head && f.reply.stream);
    assert_int_equal(f.reply.content, API_CONTENT_SSE);
    assert_true(body_has(&f, "data: {\"id\":\"cmpl-r1\""));
    f.reply.head = false;
    buf_reset(&f.reply.body);
    fixture_tokens(&f, 0, 1, (int32_t[]) { 8 });
    assert_false(f.reply.head);
    fixture_finish(&f, 0, FINISH_LENGTH, -1);
    assert_true(f.reply.done);
    assert_true(body_has(&f, "\"finish_reason\":\"length\""));
    assert_true(body_has(&f, "\"choices\":[],\"usage\":"));
    struct str  tail = STR("data: [DONE]\n\n");
    assert_true(str_ends_with(buf_str(&f.reply.body), tail));
    fixture_destroy(&f);
}

static void
test_done_waits_for_every_choice(void **state)
{
    struct fixture  f;

    (void) state;
    fixture_init(&f);
    fixture_call(&f, API_COMPLETIONS, "{\"prompt\":[[1],[2,3]],\"n\":2,"
                 "\"seed\":11,\"max_tokens\":1}");
    assert_int_equal(f.engine.num_gens, 4);
    assert_int_equal(f.engine.gens[0].sampling.seed, 11);
    assert_int_equal(f.engine.gens[1].sampling.seed, 12);
    assert_int_equal(f.engine.gens[3].num_prompt_tokens, 2);
    for (int i = 3; i >= 0; i--) {
        assert_false(f.reply.done);
        fixture_tokens(&f, i, 1, (int32_t[]) { 5 });
        fixture_finish(&f, i, FINISH_LENGTH, -1);
    }
    assert_true(f.reply.done);
    assert_true(body_has(&f, "{\"index\":3,"));
    assert_true(body_has(&f, "\"prompt_tokens\":3,\"total_tokens\":7"));
    fixture_destroy(&f);
}

static void
test_one_failed_choice_fails_the_request_and_cancels_the_rest(void **state)
{
    struct fixture  f;

    (void) state;
    fixture_init(&f);
    fixture_call(&f, API_COMPLETIONS, "{\"prompt\":[1],\"n\":2}");
    fixture_finish(&f, 0, FINISH_NUMERIC_ERROR, -1);
    assert_int_equal(f.engine.num_cancelled, 1);
    assert_int_equal(f.engine.cancelled[0], f.engine.gens[1].gen_id);
    assert_int_equal(f.reply.status, 500);
    assert_false(f.reply.done);
    fixture_finish(&f, 1, FINISH_NUMERIC_ERROR, -1);
    assert_true(f.reply.done);
    assert_int_equal(f.reply.reason, FINISH_NUMERIC_ERROR);
    assert_true(body_has(&f, "\"code\":\"numeric_error\""));
    fixture_destroy(&f);
}

/* A choice that ends well behind the failed one does not change why. */
static void
test_the_first_failure_is_the_reason(void **state)
{
    struct fixture  f;

    (void) state;
    fixture_init(&f);
    fixture_call(&f, API_COMPLETIONS, "{\"prompt\":[1],\"n\":2}");
    fixture_finish(&f, 0, FINISH_NUMERIC_ERROR, -1);
    fixture_finish(&f, 1, FINISH_LENGTH, -1);
    assert_true(f.reply.done);
    assert_int_equal(f.reply.reason, FINISH_NUMERIC_ERROR);
    fixture_destroy(&f);
}

static void
test_a_stop_string_waits_for_min_tokens(void **state)
{
    struct tokenizer  *tok;
    struct err         err = { 0 };
    struct fixture     f;

    (void) state;
    assert_int_equal(tokenizer_open(&tok, "models/demo", &err), OK);
    fixture_init_with(&f, tok);
    int32_t  x = tokenizer_token_id(tok, STR("x"));
    int32_t  y = tokenizer_token_id(tok, STR("y"));
    fixture_call(&f, API_COMPLETIONS, "{\"prompt\":[1],\"min_tokens\":3,"
                 "\"stop\":\"xy\"}");
    fixture_tokens(&f, 0, 3, (int32_t[]) { x, y, x });
    assert_int_equal(f.engine.num_cancelled, 0);
    fixture_tokens(&f, 0, 1, (int32_t[]) { y });
    assert_int_equal(f.engine.num_cancelled, 1);
    fixture_finish(&f, 0, FINISH_STOP, -1);
    assert_true(f.reply.done && body_has(&f, "\"text\":\"xy\""));
    assert_true(body_has(&f, "\"completion_tokens\":4"));
    fixture_destroy(&f);
    tokenizer_destroy(tok);
}

static void
test_failure_after_the_head_is_one_sse_error_without_done(void **state)
{
    struct fixture  f;

    (void) state;
    fixture_init(&f);
    fixture_call(&f, API_COMPLETIONS, "{\"prompt\":[1],\"stream\":true,"
                 "\"return_token_ids\":true}");
    fixture_tokens(&f, 0, 1, (int32_t[]) { 7 });
    buf_reset(&f.reply.body);
    fixture_finish(&f, 0, FINISH_DEADLINE, -1);
    assert_true(f.reply.done);
    assert_true(str_starts_with(buf_str(&f.reply.body),
                                STR("data: {\"error\":")));
    assert_false(body_has(&f, "[DONE]"));
    fixture_destroy(&f);
}

static void
test_full_queue_is_503_with_retry_after(void **state)
{
    struct fixture  f;

    (void) state;
    fixture_init(&f);
    f.engine.submit_rc = AGAIN;
    fixture_call(&f, API_COMPLETIONS, "{\"prompt\":[1]}");
    assert_true(f.reply.done);
    assert_int_equal(f.reply.status, 503);
    assert_true(f.reply.retry_after_s > 0);
    assert_true(body_has(&f, "\"code\":\"overloaded\""));
    f.engine.submit_rc = ERROR;
    fixture_call(&f, API_COMPLETIONS, "{\"prompt\":[1]}");
    assert_int_equal(f.reply.status, 400);
    fixture_destroy(&f);
}

static void
test_context_length_is_checked_with_the_numbers(void **state)
{
    struct fixture  f;

    (void) state;
    fixture_init(&f);
    fixture_call(&f, API_COMPLETIONS, "{\"prompt\":[1,2,3],\"max_tokens\":62}");
    assert_int_equal(f.reply.status, 400);
    assert_true(body_has(&f, "64") && body_has(&f, "65"));
    fixture_call(&f, API_COMPLETIONS, "{\"prompt\":[1,2,3],\"max_tokens\":61}");
    assert_false(f.reply.done);
    fixture_call(&f, API_COMPLETIONS, "{\"prompt\":[1],"
                 "\"max_tokens\":2147483647}");
    assert_int_equal(f.reply.status, 400);
    assert_true(body_has(&f, "\"param\":\"max_tokens\""));
    fixture_destroy(&f);
}

static void
test_bad_requests_never_reach_the_engine(void **state)
{
    static const char *const  bad[] = {
        "", "[]", "{}", "{\"prompt\":[]}", "{\"prompt\":[[]]}",
        "{\"prompt\":[100]}", "{\"prompt\":[-1]}", "{\"prompt\":[1.5]}",
        "{\"prompt\":[1,\"a\"]}", "{\"prompt\":[[1],\"a\",5]}",
        "{\"prompt\":[1],\"n\":17}", "{\"prompt\":[1],\"temperature\":3}",
        "{\"prompt\":[1],\"n\":2,\"temperature\":0}",
        "{\"prompt\":[1],\"min_tokens\":20}",
        "{\"prompt\":[1],\"stream_options\":{}}",
        "{\"prompt\":[1],\"stop\":\"x\"}", "{\"prompt\":\"text\"}",
        "{\"prompt\":[1],\"stop_token_ids\":[100]}",
        "{\"prompt\":[1],\"echo\":true}", "{\"prompt\":[1],\"prompt\":[2]}",
    };
    struct fixture  f;

    (void) state;
    fixture_init(&f);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fixture_call(&f, API_COMPLETIONS, bad[i]);
        assert_true(f.reply.done && f.reply.head);
        assert_int_equal(f.reply.status, 400);
        assert_int_equal(f.engine.num_gens, 0);
        assert_null(f.stream);
    }
    fixture_call(&f, API_COMPLETIONS, "{\"prompt\":[1],\"model\":\"no\"}");
    assert_int_equal(f.reply.status, 404);
    fixture_call(&f, API_COMPLETIONS, "{\"prompt\":[1],\"model\":\"alias\"}");
    assert_false(f.reply.done);
    fixture_destroy(&f);
}

static void
test_stop_token_ids_are_reported_and_eos_is_not(void **state)
{
    struct fixture  f;

    (void) state;
    fixture_init(&f);
    fixture_call(&f, API_COMPLETIONS,
                 "{\"prompt\":[1],\"stop_token_ids\":[42]}");
    assert_int_equal(f.engine.gens[0].num_stop_ids, 2);
    fixture_tokens(&f, 0, 1, (int32_t[]) { 42 });
    fixture_finish(&f, 0, FINISH_STOP, 42);
    assert_true(body_has(&f, "\"stop_reason\":42"));
    fixture_call(&f, API_COMPLETIONS, "{\"prompt\":[1],\"ignore_eos\":true}");
    assert_int_equal(f.engine.gens[0].num_stop_ids, 0);
    fixture_destroy(&f);
}

static void
test_small_routes(void **state)
{
    struct fixture  f;

    (void) state;
    fixture_init(&f);
    fixture_call(&f, API_MODELS, "");
    assert_int_equal(f.reply.status, 200);
    assert_true(body_has(&f, "\"id\":\"demo\"") && body_has(&f, "\"alias\""));
    fixture_call(&f, API_HEALTH, "");
    assert_true(f.reply.done && f.reply.status == 200);
    assert_int_equal(f.reply.body.len, 0);
    fixture_call(&f, API_VERSION, "");
    assert_true(body_has(&f, "{\"version\":\""));
    fixture_call(&f, API_METRICS, "");
    assert_int_equal(f.reply.content, API_CONTENT_PROMETHEUS);
    assert_true(body_has(&f, "vllm:num_requests_running"));
    fixture_call(&f, API_DETOKENIZE, "{\"tokens\":\"x\"}");
    assert_int_equal(f.reply.status, 400);
    fixture_call(&f, API_TOKENIZE, "{\"messages\":[{\"role\":\"user\","
                 "\"content\":\"hi\"}],\"tools\":[{\"type\":\"function\"}]}");
    assert_int_equal(f.reply.status, 400);
    assert_true(body_has(&f, "\"param\":\"tools\""));
    fixture_destroy(&f);
}

static void
test_an_override_counts_instead_of_the_bodys_model(void **state)
{
    static const struct { const char *body, *model; int status; }  rows[] = {
        { "{\"prompt\":[1],\"model\":\"demo\"}", NULL, 200 },
        { "{\"prompt\":[1],\"model\":\"smart\"}", NULL, 404 },
        { "{\"prompt\":[1],\"model\":\"smart\"}", "", 200 },
        { "{\"prompt\":[1],\"model\":\"smart\"}", "alias", 200 },
        { "{\"prompt\":[1],\"model\":\"demo\"}", "other", 404 },
        { "{\"prompt\":[1]}", "other", 404 },
        { "{\"prompt\":[1],\"model\":7}", "demo", 400 },
    };
    struct fixture  f;

    (void) state;
    fixture_init(&f);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fixture_call_as(&f, API_COMPLETIONS, rows[i].body, rows[i].model);
        assert_int_equal(f.engine.num_gens, rows[i].status == 200);
        assert_int_equal(f.reply.done ? f.reply.status : 200, rows[i].status);
    }
    fixture_call_as(&f, API_COMPLETIONS, "{\"prompt\":[1]}", "other");
    assert_true(body_has(&f, "The model `other` does not exist."));
    fixture_call_as(&f, API_COMPLETIONS, "{\"prompt\":[1]}", "a\xff\xc3\xa9");
    assert_true(body_has(&f, "The model `a?\xc3\xa9` does not exist."));
    fixture_destroy(&f);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_whole_answer_comes_with_the_last_event),
        cmocka_unit_test(test_stream_sends_head_once_and_done_last),
        cmocka_unit_test(test_done_waits_for_every_choice),
        cmocka_unit_test(
            test_one_failed_choice_fails_the_request_and_cancels_the_rest),
        cmocka_unit_test(test_the_first_failure_is_the_reason),
        cmocka_unit_test(test_a_stop_string_waits_for_min_tokens),
        cmocka_unit_test(
            test_failure_after_the_head_is_one_sse_error_without_done),
        cmocka_unit_test(test_full_queue_is_503_with_retry_after),
        cmocka_unit_test(test_context_length_is_checked_with_the_numbers),
        cmocka_unit_test(test_bad_requests_never_reach_the_engine),
        cmocka_unit_test(test_stop_token_ids_are_reported_and_eos_is_not),
        cmocka_unit_test(test_small_routes),
        cmocka_unit_test(test_an_override_counts_instead_of_the_bodys_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
