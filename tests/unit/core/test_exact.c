/* test_exact.c - a prompt gives the same tokens whatever happens around it.
 *
 * Real models on the CPU backend in exact mode: alone, in a batch of 32, in
 * prompt chunks of 1, 7, 32 and 64, preempted and computed again, parked and
 * resumed; step by step, one step ahead, and with the sampler in the backend
 * (tests/sim/late_backend.h).  Greedy and seeded.  Any difference is a fault of scheduler, batch
 * or KV cache; there is no tolerance. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "engine/backend/cpu/backend_cpu.h"
#include "engine/base/check.h"
#include "engine/base/hash.h"
#include "engine/core/engine.h"
#include "engine/model/model.h"
#include "tests/sim/late_backend.h"

#define PROMPT_LEN   70
#define OUTPUT_LEN   40
#define TOKENS_MAX   256
#define BATCH        32
#define BLOCK_SIZE   16

/* How the world around the one prompt looks. */
struct scenario {
    const char *name;
    int32_t     max_num_seqs, max_num_batched_tokens;
    int         num_blocks;
    int         num_others;          /* submitted before it */
    int32_t     other_len;           /* their prompts: 1 .. other_len */
    bool        park;                /* park it for some steps now and then */
    bool        preempts;            /* must happen */
};

static const struct scenario  scenarios[] = {
    { "alone", 1, 256, 40, 0, 1, false, false },
    { "batch of 32", BATCH, 256, 400, BATCH - 1, 90, false, false },
    { "chunks of 1", 1, 1, 40, 0, 1, false, false },
    { "chunks of 7", 1, 7, 40, 0, 1, false, false },
    { "chunks of 32", 1, 32, 40, 0, 1, false, false },
    { "chunks of 64", 1, 64, 40, 0, 1, false, false },
    { "chunks of what decodes leave", 8, 11, 100, 7, 30, false, false },
    { "preempted", 4, 64, 14, 3, 20, false, true },
    { "parked", 4, 64, 100, 3, 20, true, false },
    { "parked and preempted", 4, 64, 14, 3, 20, true, true },
};

struct request {
    struct gen_request  gen;
    int32_t             token_ids[TOKENS_MAX];
    int                 num_ends;
    enum finish_reason  reason;
    int32_t             num_events;
};

/* How steps follow each other. */
struct pace {
    const char *name;
    bool        async_scheduling;
    bool        late;                /* the backend samples */
};

static const struct pace  paces[] = {
    { "step by step", false, false },
    { "one step ahead", true, false },
    { "one step ahead, sampled by the backend", true, true },
};

static struct backend  *be;

static int
setup(void **state)
{
    (void) state;
    return backend_cpu_create(&be, &(struct backend_cpu_options) {
               .num_threads = 2 }, NULL);
}

static int
teardown(void **state)
{
    (void) state;
    be->ops->destroy(be);
    return 0;
}

static void
make_request(struct request *r, struct engine *e, int32_t len, uint64_t salt,
             const struct sampling_params *sampling, int32_t vocab_size)
{
    *r = (struct request) { .num_ends = 0 };
    r->gen = (struct gen_request) {
        .gen_id = engine_next_id(e), .user = r, .token_ids = r->token_ids,
        .num_prompt_tokens = len, .token_cap = TOKENS_MAX,
        .max_tokens = OUTPUT_LEN, .sampling = *sampling
    };
    for (int32_t i = 0; i < len; i++) {
        uint64_t  bits = hash_mix64(salt * 1000 + (uint64_t) i + 1);
        r->token_ids[i] = (int32_t) (bits % (uint64_t) vocab_size);
    }
}

static void
pop_events(struct engine *e)
{
    struct gen_event  events[8];
    int               num;

    while ((num = engine_events(e, events, 8, 0)) > 0) {
        for (int i = 0; i < num; i++) {
            struct request  *r = events[i].user;
            r->num_events += events[i].num_tokens;
            if (events[i].type == GEN_FINISHED) {
                r->num_ends++;
                r->reason = events[i].reason;
            }
        }
    }
}

/* Runs the scenario; out[OUTPUT_LEN] are the tokens of the one prompt. */
static void
run_scenario(const char *dir, enum dtype kv_dtype, const struct scenario *sc,
             const struct pace *pace, const struct sampling_params *sampling,
             int32_t *out)
{
    struct late_backend   *late = NULL;
    static struct request  others[BATCH], one;
    struct model          *m;
    struct engine         *e;
    struct engine_stats    stats;
    struct err             err = { 0 };

    if (pace->late) {
        late_backend_attach(&late, be);
    }
    if (model_open(&m, &(struct model_options) {
            .path = dir, .block_size = BLOCK_SIZE, .kv_cache_dtype = kv_dtype,
            .num_blocks = sc->num_blocks, .max_model_len = TOKENS_MAX,
            .max_num_batched_tokens = sc->max_num_batched_tokens,
            .max_num_seqs = sc->max_num_seqs }, be, &err) != OK
        || engine_create(&e, &(struct engine_options) {
               .max_num_seqs = sc->max_num_seqs,
               .max_num_batched_tokens = sc->max_num_batched_tokens,
               .max_model_len = TOKENS_MAX, .max_waiting = BATCH,
               .async_scheduling = pace->async_scheduling,
               .enable_chunked_prefill = true }, m, &err) != OK)
    {
        fail_msg("%s", err.message);
    }
    for (int i = 0; i < sc->num_others; i++) {
        struct sampling_params  theirs = { 1.0f, 1.0f, 0.0f, 0, 5 };
        make_request(&others[i], e, 1 + (i * 37 + sc->other_len - 1)
                                        % sc->other_len,
                     77 + (uint64_t) i, &theirs, m->config.vocab_size);
        assert_int_equal(engine_submit(e, &others[i].gen, 1, &err), OK);
    }
    make_request(&one, e, PROMPT_LEN, 1, sampling, m->config.vocab_size);
    assert_int_equal(engine_submit(e, &one.gen, 1, &err), OK);
    for (int step = 0; one.num_ends == 0; step++) {
        if (sc->park) {
            engine_park(e, one.gen.gen_id, step % 8 >= 5);
        }
        assert_true(engine_step(e, &err) >= 0);
        engine_audit(e);
        pop_events(e);
        assert_true(step < 2000);
    }
    engine_stats(e, &stats);
    assert_int_equal(one.reason, FINISH_LENGTH);
    assert_int_equal(one.num_events, OUTPUT_LEN);
    assert_int_equal(stats.num_preemptions > 0, sc->preempts);
    memcpy(out, one.token_ids + PROMPT_LEN, OUTPUT_LEN * sizeof *out);
    engine_stop(e);
    (void) engine_step(e, &err);
    pop_events(e);
    engine_destroy(e);
    model_close(m);
    if (late != NULL) {
        late_backend_detach(late, be);
    }
}

static void
assert_same_everywhere(const char *dir, enum dtype kv_dtype,
                       const struct sampling_params *sampling, int32_t *alone)
{
    int32_t  tokens[OUTPUT_LEN];
    int      num_distinct = 0;

    run_scenario(dir, kv_dtype, &scenarios[0], &paces[0], sampling, alone);
    for (int i = 1; i < OUTPUT_LEN; i++) {
        num_distinct += alone[i] != alone[i - 1];
    }
    /* Random weights may greedily repeat one token for ever. */
    assert_true(num_distinct > 3 || sampling->temperature == 0.0f);
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
        for (size_t j = 0; j < sizeof paces / sizeof *paces; j++) {
            run_scenario(dir, kv_dtype, &scenarios[i], &paces[j], sampling,
                         tokens);
            for (int k = 0; k < OUTPUT_LEN; k++) {
                if (tokens[k] != alone[k]) {
                    fail_msg("%s, cache %s, %s, %s, temperature %g: token %d "
                             "is %d, alone %d", dir, dtype_name(kv_dtype),
                             scenarios[i].name,
                             paces[j].name, (double) sampling->temperature, k,
                             tokens[k], alone[k]);
                }
            }
        }
    }
}

static void
tokens_are_the_same_alone_batched_chunked_preempted_and_parked(void **state)
{
    (void) state;
    static const char *const  dirs[] = {
        "tests/model/golden/llama-bf16-llama3",
        "tests/model/golden/qwen2-f32-group7",
        "tests/model/golden/qwen3-bf16",
        "tests/model/golden/mistral-bf16-window",
        "models/demo-draft",
    };
    static const struct sampling_params  greedy = { .top_p = 1.0f };
    static const struct sampling_params  seeded = { 0.9f, 0.9f, 0.01f, 50, 4 };

    int32_t  tokens[OUTPUT_LEN];
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        assert_same_everywhere(dirs[i], DTYPE_NONE, &greedy, tokens);
        assert_same_everywhere(dirs[i], DTYPE_NONE, &seeded, tokens);
    }
}

/* An fp8 cache rounds harder, but as blindly. */
static void
tokens_are_the_same_everywhere_with_an_fp8_cache(void **state)
{
    (void) state;
    static const char *const  dirs[] = {
        "tests/model/golden/qwen2-f32-group7",
        "tests/model/golden/qwen3-bf16",
        "tests/model/golden/mistral-bf16-window",
    };
    static const struct sampling_params  seeded = { 0.9f, 0.9f, 0.01f, 50, 4 };
    int32_t  fp8[OUTPUT_LEN], wide[OUTPUT_LEN];
    int      num_differ = 0;

    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        assert_same_everywhere(dirs[i], DTYPE_F8_E4M3, &seeded, fp8);
        run_scenario(dirs[i], DTYPE_NONE, &scenarios[0], &paces[0], &seeded,
                     wide);
        num_differ += memcmp(fp8, wide, sizeof fp8) != 0;
    }
    assert_true(num_differ > 0);           /* it was used */
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            tokens_are_the_same_alone_batched_chunked_preempted_and_parked),
        cmocka_unit_test(tokens_are_the_same_everywhere_with_an_fp8_cache),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
