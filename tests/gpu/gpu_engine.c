/* gpu_engine.c - the whole engine on the GPU: core/engine.h with small models.
 *
 * Against what transformers wrote, whatever happens around a prompt; and
 * against itself, bit for bit where the arithmetic is the same: the same steps
 * with and without a step ahead, a request with NaN and the same without,
 * seeds, and in the batch-invariant mode a prompt alone and among 63 others. */
#include "tests/gpu/gpu_world.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/model/model_file.h"

#define TIGHT_BLOCKS  10        /* the longest request has 4; 11 run */

/* ---- what transformers wrote ---------------------------------------------------- */

static const struct circumstance {
    const char *name;
    int32_t     max_num_seqs, max_num_batched_tokens;
    int         num_blocks, num_others;
    bool        park, preempts;
} circumstances[] = {
    { "alone", 1, 256, 0, 0, false, false },
    { "chunks of 1", 1, 1, 0, 0, false, false },
    { "chunks of 7", 1, 7, 0, 0, false, false },
    { "chunks of 32", 2, 32, 0, 0, false, false },
    { "chunks of 64 among 11", 12, 64, 0, 9, false, false },
    { "few blocks, parked", 12, 64, TIGHT_BLOCKS, 9, true, true },
};

/* The two golden prompts come last, so that they wait and are preempted. */
static void
park_the_golden(struct world *w, int step)
{
    engine_park(w->engine, w->lives[w->num_lives - 1].gen.gen_id,
                step % 8 >= 5);
}

static void
golden_circumstance(const struct golden *g, struct judge *j,
                    const struct circumstance *c, bool async)
{
    struct world  w;
    struct life  *golden[2];
    char          where[128];
    (void) snprintf(where, sizeof where, "%s, %s%s", g->name, c->name,
                    async ? ", a step ahead" : "");
    world_open(&w, &(struct world_options) {
        .dir = g->dir, .async = async, .num_blocks = c->num_blocks,
        .max_num_seqs = c->max_num_seqs,
        .max_num_batched_tokens = c->max_num_batched_tokens });
    for (int i = 0; i < c->num_others; i++) {
        world_submit(&w, world_random_life(&w, 1 + i * 7 % 30, 30));
    }
    for (int i = 0; i < 2; i++) {
        golden[i] = world_life(&w, g->prompt[i], g->num[i], GOLDEN_OUTPUT);
        world_submit(&w, golden[i]);
    }
    w.disturb = c->park ? park_the_golden : NULL;
    world_run(&w);
    for (int i = 0; i < 2; i++) {
        if (golden[i]->reason != FINISH_LENGTH
            || golden[i]->num_output != GOLDEN_OUTPUT)
        {
            complain("%s: prompt %d ended with %s after %d tokens", where, i,
                     gen_reason_name(golden[i]->reason),
                     golden[i]->num_output);
        }
        if (memcmp(golden[i]->token_ids + g->num[i], g->greedy[i],
                   sizeof g->greedy[i]) != 0)
        {
            judge_greedy(j, golden[i], where);    /* a tie, or wrong */
        }
    }
    for (int i = 0; i < c->num_others; i++) {
        judge_greedy(j, &w.lives[i], where);
    }
    struct engine_stats  stats = world_close(&w);
    if ((stats.num_preemptions > 0) != c->preempts) {
        complain("%s: %llu preemptions", where,
                 (unsigned long long) stats.num_preemptions);
    }
}

void
test_engine_writes_what_transformers_wrote(void)
{
    static struct golden  g;
    struct judge          j;
    int                   num_tokens = 0, num_ties = 0;
    for (int i = 0; i < GOLDEN_MODELS; i++) {
        golden_open(&g, golden_names[i]);
        judge_open(&j, g.dir, g.hf_error);
        for (size_t k = 0; k < sizeof circumstances / sizeof *circumstances;
             k++)
        {
            golden_circumstance(&g, &j, &circumstances[k], k % 2 != 0);
            if (!run.small) {
                golden_circumstance(&g, &j, &circumstances[k], k % 2 == 0);
            }
        }
        num_tokens += j.num_tokens;
        num_ties += j.num_ties;
        judge_close(&j);
    }
    world_backends_close();
    printf("#   %d tokens judged, %d of them ties within the error\n",
           num_tokens, num_ties);
}

/* ---- first and last tokens ------------------------------------------------------ */

void
test_engine_keeps_max_tokens_min_tokens_and_stop_ids(void)
{
    static struct golden  g;
    struct judge          j;
    struct world          w;
    struct life          *l[4];
    golden_open(&g, "llama-bf16-llama3");
    judge_open(&j, g.dir, g.hf_error);
    for (int async = 0; async < 2; async++) {
        world_open(&w, &(struct world_options) {
            .dir = g.dir, .async = async == 1, .max_num_seqs = 4,
            .max_num_batched_tokens = 64 });
        for (int i = 0; i < 4; i++) {
            l[i] = world_life(&w, g.prompt[0], g.num[0], i == 0 ? 1 : 12);
            l[i]->gen.num_stop_ids = i >= 2;
            l[i]->gen.stop_ids[0] = g.greedy[0][0];
            l[i]->gen.min_tokens = i == 3 ? 5 : 0;
            world_submit(&w, l[i]);
        }
        world_run(&w);
        if (l[0]->num_output != 1 || l[0]->reason != FINISH_LENGTH) {
            complain("max_tokens 1 gave %d tokens", l[0]->num_output);
        }
        if (l[1]->num_output != 12 || l[1]->reason != FINISH_LENGTH) {
            complain("max_tokens 12 gave %d tokens", l[1]->num_output);
        }
        if (l[2]->num_output != 1 || l[2]->reason != FINISH_STOP) {
            complain("the stop id came first, but %d tokens",
                     l[2]->num_output);
        }
        if (l[3]->num_output < 5) {
            complain("min_tokens 5 gave %d tokens", l[3]->num_output);
        }
        for (int i = 0; i < 4; i++) {
            judge_greedy(&j, l[i], "limits");
        }
        (void) world_close(&w);
    }
    judge_close(&j);
    world_backends_close();
}

/* ---- the same steps give the same bits ------------------------------------------- */

#define CROWD         12
#define CROWD_OUTPUT  40

/* CROWD requests, every second one by chance; their tokens in out[]. */
static void
crowd(const struct world_options *o, uint64_t seed,
      int32_t out[CROWD][CROWD_OUTPUT])
{
    struct world  w;
    uint64_t      rng = run.rng;
    world_open(&w, o);
    run.rng = SEED;                      /* the same prompts every time */
    for (int i = 0; i < CROWD; i++) {
        struct life  *l = world_random_life(&w, 1 + i * 17 % 60,
                                            CROWD_OUTPUT - i % 5);
        l->gen.sampling.temperature = i % 2 ? 0.9f : 0.0f;
        l->gen.sampling.top_p = i % 3 ? 1.0f : 0.95f;
        l->gen.sampling.seed = seed + (uint64_t) i;
        world_submit(&w, l);
    }
    world_run(&w);
    memset(out, 0, sizeof(int32_t) * CROWD * CROWD_OUTPUT);
    for (int i = 0; i < CROWD; i++) {
        memcpy(out[i], w.lives[i].token_ids + w.lives[i].gen.num_prompt_tokens,
               (size_t) w.lives[i].num_output * sizeof **out);
    }
    (void) world_close(&w);
    run.rng = rng;
}

void
test_engine_a_step_ahead_and_again_writes_the_same(void)
{
    static const char *const  dirs[] = { GOLDEN_DIR "/llama-bf16-llama3",
        GOLDEN_DIR "/qwen3-f32-tied", GOLDEN_DIR "/mistral-bf16-window" };
    static int32_t            out[4][CROWD][CROWD_OUTPUT];
    int                       num_differ = 0;
    for (size_t d = 0; d < sizeof dirs / sizeof *dirs; d++) {
        struct world_options  o = { .dir = dirs[d], .max_num_seqs = CROWD,
                                    .max_num_batched_tokens = 64 };
        for (int i = 0; i < 4; i++) {
            o.async = i % 2 == 1;
            crowd(&o, i == 3 ? 1000 : 5, out[i]);
        }
        for (int i = 0; i < CROWD; i++) {
            if (memcmp(out[0][i], out[1][i], sizeof out[0][i]) != 0) {
                complain("%s: request %d differs a step ahead", dirs[d], i);
            }
            if (memcmp(out[0][i], out[2][i], sizeof out[0][i]) != 0) {
                complain("%s: request %d differs the second time", dirs[d], i);
            }
            num_differ += memcmp(out[0][i], out[3][i], sizeof out[0][i]) != 0;
        }
    }
    if (num_differ < 12) {       /* half of them are greedy */
        complain("another seed changed only %d requests", num_differ);
    }
    world_backends_close();
}

/* ---- NaN -------------------------------------------------------------------------- */

#define NAN_ID  7

static void
write_file(const char *dir, const char *name, const void *bytes, size_t num)
{
    char  path[256];
    (void) snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE  *out = need(fopen(path, "w"));
    if (fwrite(bytes, 1, num, out) != num || fclose(out) != 0) {
        complain("%s: cannot be written", path);
    }
}

/* A copy of a model whose token NAN_ID has NaN for an embedding; 16 bits. */
static void
write_poisoned(const char *dir, const char *from)
{
    struct err           err = { 0 };
    struct str           config, image;
    struct safetensors  *st;
    char                *bytes;
    require(model_file_read(&config, from, "config.json", 1 << 20, &err), &err,
            from);
    require(model_file_read(&image, from, "model.safetensors", 1 << 24, &err),
            &err, from);
    require(safetensors_create(&st, &err), &err, from);
    require(safetensors_append(st, "model", image.data, image.len, &err), &err,
            from);
    const struct safetensors_entry  *e = safetensors_find(st,
        str_from("model.embed_tokens.weight"));
    bytes = need(malloc(image.len));
    memcpy(bytes, image.data, image.len);
    if (e == NULL || dtype_bytes(e->tensor.dtype) != 2) {
        complain("%s has no embeddings of 16 bits", from);
    } else {
        size_t  row = (size_t) e->tensor.shape[1] * 2;
        memset(bytes + ((const char *) e->tensor.data - image.data)
               + NAN_ID * row, 0xff, row);
    }
    write_file(dir, "config.json", config.data, config.len);
    write_file(dir, "model.safetensors", bytes, image.len);
    free(bytes);
    safetensors_close(st);
    model_file_free(&image);
    model_file_free(&config);
}

/* A request with `id` in its prompt among others, then more requests for the
 * blocks that it had.  Healthy, it ends when numeric_error would end it. */
static void
poison_run(const char *dir, bool async, int32_t id,
           int32_t out[CROWD][CROWD_OUTPUT], enum finish_reason *reason)
{
    struct world  w;
    uint64_t      rng = run.rng;
    world_open(&w, &(struct world_options) {
        .dir = dir, .async = async, .num_blocks = 40, .max_num_seqs = 8,
        .max_num_batched_tokens = 64 });
    run.rng = SEED;
    for (int i = 0; i < CROWD; i++) {
        struct life  *l = world_random_life(&w, 12 + i, 20);
        for (int k = 0; k < 12 + i; k++) {
            l->token_ids[k] += l->token_ids[k] == NAN_ID;
        }
        if (i == 2) {
            l->token_ids[5] = id;
            l->gen.max_tokens = id == NAN_ID ? 20 : async ? 2 : 1;
        }
        l->gen.sampling.temperature = i % 2 ? 0.8f : 0.0f;
        /* nobody else may write the token */
        l->gen.min_tokens = 20;
        l->gen.num_stop_ids = 1;
        l->gen.stop_ids[0] = NAN_ID;
        world_submit(&w, l);
    }
    world_run(&w);
    *reason = w.lives[2].reason;
    memset(out, 0, sizeof(int32_t) * CROWD * CROWD_OUTPUT);
    for (int i = 0; i < CROWD; i++) {
        const struct life  *l = &w.lives[i];
        memcpy(out[i], l->token_ids + l->gen.num_prompt_tokens,
               (size_t) l->num_output * sizeof **out);
        if (i != 2 && l->reason != FINISH_LENGTH) {
            complain("request %d of %s ended with %s", i, dir,
                     gen_reason_name(l->reason));
        }
    }
    (void) world_close(&w);
    run.rng = rng;
}

void
test_engine_nan_ends_its_own_request_only(void)
{
    static const char *const  models[] = { "llama-bf16-llama3", "qwen3-bf16",
                                           "mistral-bf16-full" };
    static int32_t      out[2][CROWD][CROWD_OUTPUT];
    enum finish_reason  reasons[2];
    enum log_level      level = log_level;
    char                dir[] = "/tmp/test-backend-cuda-XXXXXX", file[300];
    require(mkdtemp(dir) == NULL ? ERROR : OK, &(struct err) { 0 }, "mkdtemp");
    log_level = LOG_ALERT;            /* numeric errors are meant */
    for (size_t i = 0; i < 2 * sizeof models / sizeof *models; i++) {
        char  from[128];
        (void) snprintf(from, sizeof from, GOLDEN_DIR "/%s", models[i / 2]);
        write_poisoned(dir, from);
        poison_run(dir, i % 2 == 1, NAN_ID, out[0], &reasons[0]);
        poison_run(dir, i % 2 == 1, NAN_ID + 1, out[1], &reasons[1]);
        if (reasons[0] != FINISH_NUMERIC_ERROR || reasons[1] != FINISH_LENGTH) {
            complain("%s: with NaN %s, without %s", models[i / 2],
                     gen_reason_name(reasons[0]), gen_reason_name(reasons[1]));
        }
        for (int k = 0; k < CROWD; k++) {
            if (k != 2 && memcmp(out[0][k], out[1][k], sizeof out[0][k]) != 0) {
                complain("%s%s: request %d is another beside NaN",
                         models[i / 2], i % 2 ? ", a step ahead" : "", k);
            }
        }
    }
    log_level = level;
    (void) snprintf(file, sizeof file, "%s/config.json", dir);
    (void) remove(file);
    (void) snprintf(file, sizeof file, "%s/model.safetensors", dir);
    (void) remove(file);
    (void) remove(dir);
    world_backends_close();
}

/* ---- many random lives ------------------------------------------------------------ */

#define MANY  64

static struct life *
random_request(struct world *w)
{
    struct life  *l = world_random_life(w, 1 + random_below(100),
                                        1 + random_below(50));
    int           kind = random_below(3);
    l->gen.sampling.temperature = kind == 0 ? 0.0f : 0.7f;
    l->gen.sampling.top_k = kind == 2 ? 20 : 0;
    l->gen.sampling.seed = random_bits();
    l->gen.num_stop_ids = random_below(3);
    for (int32_t i = 0; i < l->gen.num_stop_ids; i++) {
        l->gen.stop_ids[i] = random_below(130);
    }
    l->gen.min_tokens = random_below(2) * random_below(l->gen.max_tokens);
    if (random_below(20) == 0) {
        l->gen.deadline_ns = clock_now_ns() + random_below(5000000);
    }
    return l;
}

/* New ones, and cancels and parks of any. */
static void
disturb_many(struct world *w, int step)
{
    if (step == 0 || w->num_lives < MANY) {
        for (int n = random_below(4); n > 0 && w->num_lives < MANY; n--) {
            world_submit(w, random_request(w));
        }
    }
    if (w->num_lives == 0) {
        world_submit(w, random_request(w));
    }
    uint64_t  id = w->lives[random_below(w->num_lives)].gen.gen_id;
    switch (random_below(10)) {
    case 0:
        engine_cancel(w->engine, id, FINISH_CLIENT_ABORT);
        break;
    case 1:
        engine_park(w->engine, id, true);
        break;
    default:
        for (int i = 0; i < w->num_lives && step % 7 == 0; i++) {
            engine_park(w->engine, w->lives[i].gen.gen_id, false);
        }
        break;
    }
}

static void
check_many(struct world *w, struct judge *j, const char *where)
{
    for (int i = 0; i < w->num_lives; i++) {
        const struct life  *l = &w->lives[i];
        bool                whole = l->num_output == l->gen.max_tokens;
        if (l->gen.sampling.temperature == 0.0f) {
            judge_greedy(j, l, where);
        }
        if ((l->reason == FINISH_LENGTH && !whole)
            || (l->reason == FINISH_STOP
                && l->num_output < l->gen.min_tokens)
            || (l->reason != FINISH_LENGTH && l->reason != FINISH_STOP
                && l->reason != FINISH_CLIENT_ABORT
                && l->reason != FINISH_DEADLINE))
        {
            complain("%s: request %d ended with %s after %d tokens", where, i,
                     gen_reason_name(l->reason), l->num_output);
        }
    }
}

void
test_engine_many_random_requests_end_and_leave_nothing(void)
{
    static const char *const  names[] = { "qwen2-f32-group7", "qwen3-bf16",
        "mistral-bf16-window", "llama-f16-shards" };
    static struct golden      g;
    struct judge              j;
    struct world              w;
    uint64_t                  preemptions = 0;
    for (int i = 0; i < (run.small ? 2 : 8); i++) {
        golden_open(&g, names[i % 4]);
        judge_open(&j, g.dir, g.hf_error);
        world_open(&w, &(struct world_options) {
            .dir = g.dir, .async = i % 2 == 0 || i >= 4,
            .num_blocks = 25 + 20 * (i % 3), .max_num_seqs = 16,
            .max_num_batched_tokens = 16 + 40 * (i % 2) });
        w.disturb = disturb_many;
        while (w.num_lives < MANY && !run.bad) {
            disturb_many(&w, 0);       /* all have ended: it goes on */
            world_run(&w);
        }
        check_many(&w, &j, g.name);
        preemptions += world_close(&w).num_preemptions;
        judge_close(&j);
    }
    if (preemptions == 0) {
        complain("nobody was preempted");
    }
    world_backends_close();
}

/* The engine's own thread, and requests, cancels and parks at any moment. */
void
test_engine_threads_submit_cancel_and_park_at_any_moment(void)
{
    static struct golden  g;
    struct judge          j;
    struct world          w;
    pthread_t             thread;
    void                 *failure = NULL;
    struct timespec       nap = { 0, 200000 };
    golden_open(&g, "mistral-bf16-full");
    judge_open(&j, g.dir, g.hf_error);
    world_open(&w, &(struct world_options) {
        .dir = g.dir, .async = true, .num_blocks = 60, .max_num_seqs = 16,
        .max_num_batched_tokens = 48 });
    require(pthread_create(&thread, NULL, engine_run, w.engine) == 0 ? OK
            : ERROR, &(struct err) { 0 }, "pthread_create");
    int64_t  end_ns = clock_now_ns() + 20 * NS_PER_S;
    for (int step = 0; (w.num_lives < MANY || w.num_ended < MANY)
         && clock_now_ns() < end_ns; step++)
    {
        disturb_many(&w, step);
        world_events(&w);
        (void) clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL);
    }
    /* engine_stop() before the join, as in a process that ends */
    struct engine_stats  stats;
    while (engine_stats(w.engine, &stats), stats.kv_blocks_used > 0
           && clock_now_ns() < end_ns)
    {
        (void) clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL);
    }
    engine_stop(w.engine);
    (void) pthread_join(thread, &failure);
    if (failure != NULL) {
        complain("engine_run: %s", ((struct err *) failure)->message);
    }
    world_events(&w);
    check_many(&w, &j, "threads");
    (void) world_close(&w);
    judge_close(&j);
    world_backends_close();
}

/* ---- batch invariance --------------------------------------------------------------- */

#define COMPANY         63
#define INVARIANT_LEN   37
#define INVARIANT_OUT   60

/* The one prompt's tokens; the others come first and go at various times. */
static void
invariant_run(const char *dir, bool dummy, int num_others, float temperature,
              int32_t out[INVARIANT_OUT])
{
    struct world  w;
    uint64_t      rng = run.rng;
    int32_t       ids[INVARIANT_LEN];
    world_open(&w, &(struct world_options) {
        .dir = dir, .dummy = dummy, .batch_invariant = true, .async = true,
        .max_num_seqs = COMPANY + 1, .max_num_batched_tokens = 4096 });
    for (int i = 0; i < num_others; i++) {
        struct life  *l = world_random_life(&w, 2 + random_below(120),
                                            1 + random_below(2 * INVARIANT_OUT));
        l->gen.sampling.temperature = 1.0f;
        world_submit(&w, l);
    }
    for (int i = 0; i < INVARIANT_LEN; i++) {
        ids[i] = (i * 37 + 5) % 130;
    }
    struct life  *one = world_life(&w, ids, INVARIANT_LEN, INVARIANT_OUT);
    one->gen.sampling.temperature = temperature;
    one->gen.sampling.seed = 9;
    world_submit(&w, one);
    world_run(&w);
    memcpy(out, one->token_ids + INVARIANT_LEN, INVARIANT_OUT * sizeof *out);
    (void) world_close(&w);
    run.rng = rng;
}

void
test_engine_batch_invariant_writes_the_same_alone_and_among_63(void)
{
    static const char  config[] =
        "{\"architectures\": [\"LlamaForCausalLM\"], \"dtype\": \"bfloat16\", "
        "\"hidden_size\": 512, \"intermediate_size\": 1024, "
        "\"num_hidden_layers\": 3, \"num_attention_heads\": 8, "
        "\"num_key_value_heads\": 2, \"head_dim\": 128, \"vocab_size\": 1000, "
        "\"max_position_embeddings\": 512, \"rms_norm_eps\": 1e-5, "
        "\"rope_theta\": 10000.0, \"hidden_act\": \"silu\", "
        "\"tie_word_embeddings\": false}";
    char         dir[] = "/tmp/test-backend-cuda-XXXXXX", file[64];
    const char  *dirs[] = { dir, GOLDEN_DIR "/llama-bf16-llama3",
                            GOLDEN_DIR "/qwen3-bf16" };
    int32_t      alone[INVARIANT_OUT], among[INVARIANT_OUT];
    require(mkdtemp(dir) == NULL ? ERROR : OK, &(struct err) { 0 }, "mkdtemp");
    write_file(dir, "config.json", config, sizeof config - 1);
    /* --self: a slow CPU for a model that is not tiny */
    for (int i = run.small || run.self; i < 3; i++) {
        for (int k = 0; k < 2; k++) {
            float  temperature = k == 0 ? 0.0f : 0.9f;
            invariant_run(dirs[i], i == 0, 0, temperature, alone);
            for (int n = 1; n <= COMPANY; n = n == COMPANY ? n + 1
                 : n * 4 < COMPANY ? n * 4 : COMPANY)
            {
                invariant_run(dirs[i], i == 0, n, temperature, among);
                for (int t = 0; t < INVARIANT_OUT; t++) {
                    if (alone[t] != among[t]) {
                        complain("%s, temperature %g: token %d differs among "
                                 "%d", dirs[i], (double) temperature, t,
                                 n + 1);
                        break;
                    }
                }
            }
        }
    }
    (void) snprintf(file, sizeof file, "%s/config.json", dir);
    (void) remove(file);
    (void) remove(dir);
    world_backends_close();
}
