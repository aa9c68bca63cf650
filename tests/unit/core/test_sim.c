/* test_sim.c - whole engines with a forward pass that notices every mistake
 * of the bookkeeping, thousands of random lives.
 *
 * Each seed makes an engine of random shape (often with hardly any KV blocks)
 * and sends it random requests, which are cancelled, parked and given
 * deadlines at random.  Whatever happens to the others, a request that ends by
 * itself must have produced exactly the tokens it produces alone, and one that
 * was ended must have produced a beginning of them.
 * An engine plans step by step or one step ahead, on a device that samples or
 * one that does not.
 *
 *     test_sim [first_seed [num_seeds]] */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/hash.h"
#include "engine/base/log.h"
#include "engine/core/engine.h"
#include "tests/sim/fake_model.h"

#define REQUESTS_MAX  60
#define TOKENS_MAX    160

static uint64_t  first_seed = 1;
static int       num_seeds = 1500;

struct request {
    struct gen_request  gen;
    int32_t             token_ids[TOKENS_MAX];
    int32_t             num_events;      /* tokens seen in events */
    enum finish_reason  reason;          /* FINISH_NONE: alive */
    enum finish_reason  cancelled;       /* as asked for */
    bool                submitted;
};

struct sim {
    uint64_t         rng;
    struct model    *model;
    struct engine   *engine;
    struct engine_options options;
    struct request  *requests;           /* [REQUESTS_MAX] */
    int              num_requests;
    int              num_ended;
    int64_t          num_tokens;
};

static uint64_t
rnd(struct sim *s, uint64_t n)
{
    s->rng += 0x9e3779b97f4a7c15ULL;
    return hash_mix64(s->rng) % n;
}

static void
sim_create(struct sim *s)
{
    static const int     block_sizes[] = { 1, 2, 4, 16 };
    struct fake_options  f = { .block_size = block_sizes[rnd(s, 4)] };
    bool                 ahead = rnd(s, 3) != 0;

    f.max_num_seqs = 1 + (int) rnd(s, 8);
    f.max_model_len = 8 + (int) rnd(s, 90);
    f.num_blocks = 2 + (int) rnd(s, rnd(s, 2) == 0 ? 4 : 100);
    s->options = (struct engine_options) {
        .max_num_seqs = f.max_num_seqs,
        .max_num_batched_tokens = f.max_num_seqs + (int) rnd(s, 40),
        .max_model_len = f.max_model_len,
        .max_waiting = (int32_t) rnd(s, 20),
        .max_num_mixed_tokens = (int32_t) rnd(s, 12),
        .enable_chunked_prefill = rnd(s, 4) != 0,
        .async_scheduling = ahead,
    };
    f.samples = rnd(s, 3) != 0;
    f.seed = rnd(s, UINT64_MAX);
    if (!s->options.enable_chunked_prefill
        && s->options.max_num_batched_tokens < f.max_model_len)
    {
        s->options.max_num_batched_tokens = f.max_model_len;
    }
    f.max_num_batched_tokens = s->options.max_num_batched_tokens;
    s->model = fake_model_create(&f);
    check_eq(engine_create(&s->engine, &s->options, s->model, NULL), OK);
    s->requests = calloc(REQUESTS_MAX, sizeof *s->requests);
    check(s->requests != NULL);
}

static void
sim_request(struct sim *s, struct request *r)
{
    struct gen_request  *g = &r->gen;
    uint64_t             kind = rnd(s, 4);

    *r = (struct request) { .submitted = false };
    g->gen_id = engine_next_id(s->engine);
    g->user = r;
    g->token_ids = r->token_ids;
    g->token_cap = TOKENS_MAX;
    g->num_prompt_tokens = 1 + (int32_t) rnd(
        s, rnd(s, 3) == 0 ? (uint64_t) s->options.max_model_len : 12);
    g->max_tokens = 1 + (int32_t) rnd(s, 30);
    g->min_tokens = kind == 3 ? (int32_t) rnd(s, 10) : 0;
    g->num_stop_ids = kind >= 2 ? 1 + (int32_t) rnd(s, 5) : 0;
    for (int32_t i = 0; i < g->num_stop_ids; i++) {
        g->stop_ids[i] = (int32_t) rnd(s, FAKE_VOCAB);
    }
    g->sampling.temperature = kind == 0 ? 0.0f : 0.5f + (float) rnd(s, 3);
    g->sampling.top_p = kind == 1 ? 0.8f : 1.0f;
    g->sampling.top_k = kind == 2 ? 20 : 0;
    g->sampling.seed = rnd(s, 1000);
    for (int32_t i = 0; i < g->num_prompt_tokens; i++) {
        r->token_ids[i] = (int32_t) rnd(s, FAKE_VOCAB - 1);
    }
    for (int32_t i = g->num_prompt_tokens; i < TOKENS_MAX; i++) {
        r->token_ids[i] = INT32_MIN;         /* read too early */
    }
    if (rnd(s, 15) == 0) {
        r->token_ids[rnd(s, (uint64_t) g->num_prompt_tokens)] = FAKE_NAN_ID;
    }
    if (rnd(s, 12) == 0) {
        g->deadline_ns = clock_now_ns() + (int64_t) rnd(s, 300000);
    }
}

static void
sim_submit(struct sim *s)
{
    if (s->num_requests == REQUESTS_MAX) {
        return;
    }
    struct request  *r = &s->requests[s->num_requests];
    sim_request(s, r);
    int  rc = engine_submit(s->engine, &r->gen, 1, NULL);
    if (rc == OK) {
        r->submitted = true;
        s->num_requests++;
    }
}

static void
sim_disturb(struct sim *s)
{
    if (s->num_requests == 0) {
        return;
    }
    struct request  *r = &s->requests[rnd(s, (uint64_t) s->num_requests)];

    switch (rnd(s, 10)) {
    case 0:
        engine_cancel(s->engine, r->gen.gen_id, FINISH_CLIENT_ABORT);
        if (r->cancelled == FINISH_NONE) {
            r->cancelled = FINISH_CLIENT_ABORT;
        }
        break;
    case 1:
    case 2:
        engine_park(s->engine, r->gen.gen_id, true);
        break;
    case 3:
    case 4:
    case 5:
        engine_park(s->engine, r->gen.gen_id, false);
        break;
    default:
        break;
    }
}

static void
sim_finished(struct sim *s, struct request *r, const struct gen_event *ev)
{
    int32_t             expected[TOKENS_MAX];
    enum finish_reason  reason;
    struct gen_request  alone = r->gen;
    int32_t             num = fake_model_expect(&alone, expected, &reason);

    r->reason = ev->reason;
    s->num_ended++;
    s->num_tokens += r->num_events;
    check_le(r->num_events, num);
    check_eq(memcmp(expected, r->token_ids + r->gen.num_prompt_tokens,
                    (size_t) r->num_events * sizeof *expected), 0);
    switch (ev->reason) {
    case FINISH_STOP:
        check_eq(ev->stop_id, expected[num - 1]);
        break;
    case FINISH_LENGTH:
    case FINISH_NUMERIC_ERROR:
        check_eq(ev->stop_id, -1);
        break;
    case FINISH_CLIENT_ABORT:
        check_eq(r->cancelled, FINISH_CLIENT_ABORT);
        return;
    case FINISH_DEADLINE:
        check(r->gen.deadline_ns != 0);
        check_le(r->gen.deadline_ns, ev->now_ns);
        return;
    default:
        check_eq(ev->reason, FINISH_NONE);
        return;
    }
    check_eq(ev->reason, reason);
    check_eq(r->num_events, num);
}

static void
sim_events(struct sim *s)
{
    struct gen_event  events[5];
    int               num;

    while ((num = engine_events(s->engine, events, 5, 0)) > 0) {
        for (int i = 0; i < num; i++) {
            const struct gen_event  *ev = &events[i];
            struct request          *r = ev->user;
            check_eq(ev->gen_id, r->gen.gen_id);
            check_eq(r->reason, FINISH_NONE);        /* nothing after the end */
            if (ev->type == GEN_FINISHED) {
                sim_finished(s, r, ev);
                continue;
            }
            check(ev->num_tokens >= 1
                  && ev->num_tokens <= GEN_EVENT_TOKENS_MAX);
            check(ev->scheduled_ns != 0 && ev->first_token_ns != 0);
            for (int32_t k = 0; k < ev->num_tokens; k++) {
                check_eq(ev->token_ids[k],
                         r->token_ids[r->gen.num_prompt_tokens
                                      + r->num_events]);
                r->num_events++;
            }
        }
    }
    check_eq(num, 0);
}

static void
sim_step(struct sim *s)
{
    check(engine_step(s->engine, NULL) >= 0);
    engine_audit(s->engine);
    if (rnd(s, 3) == 0) {
        sim_events(s);
    }
}

static struct engine_stats
sim_seed(uint64_t seed)
{
    struct sim           s = { .rng = seed * 7919 };
    struct engine_stats  stats;
    int                  num_steps = 30 + (int) rnd(&s, 120);

    sim_create(&s);
    for (int i = 0; i < num_steps; i++) {
        for (uint64_t n = rnd(&s, 3); n > 0; n--) {
            sim_submit(&s);
        }
        sim_disturb(&s);
        sim_step(&s);
    }
    for (int i = 0; i < s.num_requests; i++) {
        engine_park(s.engine, s.requests[i].gen.gen_id, false);
    }
    for (int i = 0; s.num_ended < s.num_requests; i++) {
        check_lt(i, REQUESTS_MAX * TOKENS_MAX);      /* it must drain */
        sim_step(&s);
        sim_events(&s);
    }
    (void) engine_step(s.engine, NULL);
    engine_stats(s.engine, &stats);
    check_eq(stats.kv_blocks_used, 0);
    check_eq(stats.num_running + stats.num_waiting + stats.num_parked, 0);
    check_eq(stats.requests_total, s.num_requests);
    check_eq(stats.generation_tokens_total, s.num_tokens);
    engine_destroy(s.engine);
    fake_model_destroy(s.model);
    free(s.requests);
    return stats;
}

static void
report_seed(void *data)
{
    fprintf(stderr, "failing seed: %llu (run: test_sim %llu 1)\n",
            *(unsigned long long *) data, *(unsigned long long *) data);
}

static void
every_request_gets_the_tokens_it_gets_alone(void **state)
{
    (void) state;
    unsigned long long  seed;
    uint64_t            num_requests = 0, num_tokens = 0, num_preemptions = 0;

    printf("seeds %llu .. %llu\n", (unsigned long long) first_seed,
           (unsigned long long) first_seed + (unsigned) num_seeds - 1);
    check_set_report(report_seed, &seed);
    for (int i = 0; i < num_seeds; i++) {
        seed = first_seed + (uint64_t) i;
        struct engine_stats  stats = sim_seed(seed);
        num_requests += stats.requests_total;
        num_tokens += stats.generation_tokens_total;
        num_preemptions += stats.num_preemptions;
    }
    check_set_report(NULL, NULL);
    printf("%llu requests, %llu tokens, %llu preemptions\n",
           (unsigned long long) num_requests, (unsigned long long) num_tokens,
           (unsigned long long) num_preemptions);
    assert_true(num_seeds < 100 || num_preemptions > (unsigned) num_seeds / 2);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_request_gets_the_tokens_it_gets_alone),
    };
    log_level = LOG_ALERT;      /* numeric errors are meant */
    if (argc > 1) {
        first_seed = strtoull(argv[1], NULL, 10);
    }
    if (argc > 2) {
        num_seeds = atoi(argv[2]);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
