/* test_step_cost.c - what a step of 256 sequences costs the CPU: plan, batch,
 * sampling parameters, bookkeeping and events, on a device that takes no time.
 *
 * Prints figures; fails only when they are many times what they should be,
 * because the machine may be busy.  Also that nothing is allocated. */
#include <malloc.h>
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
#include "engine/core/engine.h"
#include "engine/model/model.h"

#define SEQS         256
#define WAITING      1024
#define PROMPT_LEN   1024
#define MODEL_LEN    2048
#define BLOCK_SIZE   32
#define STEPS        400
#ifdef LLM_DEBUG
#define COST_MAX_NS  (5 * NS_PER_MS)       /* audits and sanitizers */
#else
#define COST_MAX_NS  (300 * NS_PER_US)
#endif

/* ---- a device that takes no time; linked instead of engine/model/model.c */

static int  num_rows[SAMPLES_IN_FLIGHT];
static int  num_sampled, num_collected;

void
model_issue(struct model *m, const struct batch *b)
{
    (void) m;
    check_le(b->num_seqs, SEQS);
}

bool
model_samples(const struct model *m)
{
    (void) m;
    return true;
}

void
model_sample(struct model *m, const struct sample_row *rows, int num)
{
    (void) m;
    (void) rows;
    num_rows[num_sampled++ % SAMPLES_IN_FLIGHT] = num;
}

int
model_sampled(struct model *m, int32_t *token_ids, struct err *err)
{
    (void) m;
    (void) err;
    int  num = num_rows[num_collected++ % SAMPLES_IN_FLIGHT];
    for (int i = 0; i < num; i++) {
        token_ids[i] = 7;
    }
    return OK;
}

bool
model_sample_is_done(const struct model *m)
{
    (void) m;
    return true;
}

void
model_time_steps(struct model *m)
{
    (void) m;
}

bool
model_step_time(struct model *m, struct step_time *out)
{
    (void) m;
    (void) out;
    return false;
}

int
model_forward(struct model *m, const struct batch *b, const float **logits,
              struct err *err)
{
    (void) m;
    (void) b;
    *logits = NULL;
    return err_set(err, "not here");
}

/* ---- */

static int32_t  token_ids[SEQS + WAITING][MODEL_LEN];

static void
submit_all(struct engine *e)
{
    for (int i = 0; i < SEQS + WAITING; i++) {
        struct gen_request  req = {
            .gen_id = engine_next_id(e), .token_ids = token_ids[i],
            .num_prompt_tokens = PROMPT_LEN, .token_cap = MODEL_LEN,
            .max_tokens = MODEL_LEN - PROMPT_LEN, .num_stop_ids = 2,
            .stop_ids = { 1, 2 },
            .sampling = { .temperature = 1.0f, .top_p = 0.9f }
        };
        assert_int_equal(engine_submit(e, &req, 1, NULL), OK);
    }
}

static void
pop_events(struct engine *e)
{
    static struct gen_event  events[SEQS];

    while (engine_events(e, events, SEQS, 0) > 0) {
    }
}

static int
compare(const void *a, const void *b)
{
    int64_t  x = *(const int64_t *) a, y = *(const int64_t *) b;

    return x < y ? -1 : x > y;
}

static void
measure(bool ahead)
{
    static int64_t  ns[STEPS];
    struct engine  *e;
    struct err      err = { 0 };
    int64_t         total_ns = 0;
    struct model    m = {
        .config.vocab_size = 128256, .block_size = BLOCK_SIZE,
        .max_model_len = MODEL_LEN,
        .kv.cache.num_blocks = 1 + SEQS * MODEL_LEN / BLOCK_SIZE,
        .limits = { .max_num_batched_tokens = 8192, .max_num_seqs = SEQS,
                    .max_num_logits = SEQS,
                    .max_blocks_per_seq = MODEL_LEN / BLOCK_SIZE }
    };

    if (engine_create(&e, &(struct engine_options) {
            .max_num_seqs = SEQS, .max_num_batched_tokens = 8192,
            .max_model_len = MODEL_LEN, .max_waiting = WAITING,
            .enable_chunked_prefill = true, .async_scheduling = ahead },
            &m, &err) != OK)
    {
        fail_msg("%s", err.message);
    }
    submit_all(e);
    int  num_tokens = engine_step(e, NULL);
    while (num_tokens != SEQS) {           /* until all are in decode */
        num_tokens = engine_step(e, NULL);
        assert_true(num_tokens > 0);
        pop_events(e);
    }
    size_t  allocated = mallinfo2().uordblks;
    for (int i = 0; i < STEPS; i++) {
        int64_t  begin_ns = clock_now_ns();
        assert_int_equal(engine_step(e, NULL), SEQS);
        ns[i] = clock_now_ns() - begin_ns;
        total_ns += ns[i];
        pop_events(e);
    }
    assert_true(mallinfo2().uordblks == allocated);
    qsort(ns, STEPS, sizeof *ns, compare);
    printf("%s: best %.1f us, median %.1f us, mean %.1f us\n",
           ahead ? "one step ahead" : "step by step", (double) ns[0] / 1e3,
           (double) ns[STEPS / 2] / 1e3, (double) total_ns / STEPS / 1e3);
    assert_true(ns[STEPS / 2] < COST_MAX_NS);
    engine_stop(e);
    (void) engine_step(e, NULL);
    pop_events(e);
    engine_destroy(e);
}

static void
a_step_of_256_sequences_costs_microseconds(void **state)
{
    (void) state;
    measure(false);
    measure(true);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_of_256_sequences_costs_microseconds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
