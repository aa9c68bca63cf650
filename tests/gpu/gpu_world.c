/* gpu_world.c - engines over small models, and a judge of what they wrote. */
#include "tests/gpu/gpu_world.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/backend_load.h"
#include "engine/backend/cpu/backend_cpu.h"
#include "engine/backend/cuda/backend_cuda.h"
#include "engine/model/model_file.h"
#include "tests/sim/late_backend.h"

#define BLOCK_SIZE     16
#define PLENTY_BLOCKS  1100      /* 64 sequences of LIFE_TOKENS */
#define EXPECTED_MAX   ((size_t) 1 << 20)

const char *const  golden_names[GOLDEN_MODELS] = {
    "llama-f32-tied", "llama-f32-bias-linear", "llama-bf16-llama3",
    "llama-f16-shards", "mistral-f32-window", "mistral-bf16-full",
    "mistral-bf16-window", "qwen2-f32-group7", "qwen2-f32-window",
    "qwen2-bf16-yarn", "qwen3-f32-tied", "qwen3-f32-yarn", "qwen3-bf16" };

/* ---- backends ------------------------------------------------------------------ */

static struct backend       *backends[2];
static struct late_backend  *lates[2];

struct backend *
world_backend(bool batch_invariant)
{
    struct err  err = { 0 };
    if (backends[batch_invariant] != NULL) {
        return backends[batch_invariant];
    }
    if (run.self) {
        require(backend_cpu_create(&backends[batch_invariant],
            &(struct backend_cpu_options) { .num_threads = 1,
                                            .isa = CPU_ISA_PLAIN }, &err),
            &err, "a backend more");
        late_backend_attach(&lates[batch_invariant],
                            backends[batch_invariant]);
    } else {
        require(backend_load_cuda(&backends[batch_invariant],
            &(struct backend_cuda_options) { .abi = BACKEND_CUDA_ABI,
                .simple_kernels = run.simple, .no_tuning = true,
                .batch_invariant = batch_invariant }, &err), &err,
            "a backend more");
    }
    return backends[batch_invariant];
}

void
world_backends_close(void)
{
    for (int i = 0; i < 2; i++) {
        if (lates[i] != NULL) {
            late_backend_detach(lates[i], backends[i]);
        }
        if (backends[i] != NULL) {
            backends[i]->ops->destroy(backends[i]);
        }
        lates[i] = NULL;
        backends[i] = NULL;
    }
}

/* ---- worlds -------------------------------------------------------------------- */

void
world_open(struct world *w, const struct world_options *o)
{
    struct err  err = { 0 };
    *w = (struct world) { .o = *o, .be = world_backend(o->batch_invariant) };
    w->lives = need(calloc(LIVES_MAX, sizeof *w->lives));
    require(model_open(&w->model, &(struct model_options) {
        .path = o->dir, .load_format = o->dummy ? LOAD_DUMMY : LOAD_AUTO,
        .dummy_seed = SEED, .max_model_len = LIFE_TOKENS,
        .block_size = BLOCK_SIZE,
        .num_blocks = o->num_blocks > 0 ? o->num_blocks : PLENTY_BLOCKS,
        .max_num_batched_tokens = o->max_num_batched_tokens,
        .max_num_seqs = o->max_num_seqs }, w->be, &err), &err, o->dir);
    require(engine_create(&w->engine, &(struct engine_options) {
        .max_num_seqs = o->max_num_seqs,
        .max_num_batched_tokens = o->max_num_batched_tokens,
        .max_model_len = LIFE_TOKENS, .max_waiting = LIVES_MAX,
        .enable_chunked_prefill = true, .async_scheduling = o->async },
        w->model, &err), &err, "engine_create");
}

struct life *
world_life(struct world *w, const int32_t *ids, int num, int max_tokens)
{
    struct life  *l = &w->lives[w->num_lives++];
    *l = (struct life) { .num_output = 0 };
    memcpy(l->token_ids, ids, (size_t) num * sizeof *ids);
    l->gen = (struct gen_request) {
        .gen_id = engine_next_id(w->engine), .user = l,
        .token_ids = l->token_ids, .num_prompt_tokens = num,
        .token_cap = LIFE_TOKENS, .max_tokens = max_tokens,
        .sampling = { .top_p = 1.0f } };
    return l;
}

/* A prompt without the last token of the vocabulary, which may be special. */
struct life *
world_random_life(struct world *w, int num, int max_tokens)
{
    int32_t  ids[LIFE_TOKENS];
    for (int i = 0; i < num; i++) {
        ids[i] = random_below(w->model->config.vocab_size - 1);
    }
    return world_life(w, ids, num, max_tokens);
}

void
world_submit(struct world *w, struct life *l)
{
    struct err  err = { 0 };
    if (engine_submit(w->engine, &l->gen, 1, &err) != OK) {
        complain("submit: %s", err.message);
        l->num_ends = 1;
        w->num_ended++;
    }
}

void
world_events(struct world *w)
{
    struct gen_event  events[16];
    int               num;
    while ((num = engine_events(w->engine, events, 16, 0)) > 0) {
        for (int i = 0; i < num; i++) {
            struct life  *l = events[i].user;
            if (l->num_ends > 0) {
                complain("an event after the end of a request");
            }
            for (int32_t k = 0; k < events[i].num_tokens; k++) {
                if (events[i].token_ids[k]
                    != l->token_ids[l->gen.num_prompt_tokens + l->num_output++])
                {
                    complain("event and token_ids differ");
                }
            }
            if (events[i].type == GEN_FINISHED) {
                l->num_ends++;
                l->reason = events[i].reason;
                w->num_ended++;
            }
        }
    }
}

bool
world_step(struct world *w)
{
    struct err  err = { 0 };
    if (engine_step(w->engine, &err) < 0) {
        complain("engine_step: %s", err.message);
        return false;
    }
    engine_audit(w->engine);
    world_events(w);
    return true;
}

void
world_run(struct world *w)
{
    for (int step = 0; w->num_ended < w->num_lives; step++) {
        if (step == STEPS_MAX) {
            complain("%d of %d requests have ended after %d steps",
                     w->num_ended, w->num_lives, step);
            return;
        }
        if (w->disturb != NULL) {
            w->disturb(w, step);
        }
        if (!world_step(w)) {
            return;
        }
    }
}

struct engine_stats
world_close(struct world *w)
{
    struct engine_stats  stats;
    (void) world_step(w);        /* what is in flight */
    (void) world_step(w);
    engine_stats(w->engine, &stats);
    if (stats.kv_blocks_used != 0 || stats.num_running != 0
        || stats.num_waiting != 0 || stats.num_parked != 0)
    {
        complain("at the end %d KV blocks are used, %d sequences run, %d wait, "
                 "%d are parked", stats.kv_blocks_used, stats.num_running,
                 stats.num_waiting, stats.num_parked);
    }
    for (int i = 0; i < w->num_lives; i++) {
        if (w->lives[i].num_ends != 1) {
            complain("request %d has ended %d times", i,
                     w->lives[i].num_ends);
        }
    }
    engine_stop(w->engine);
    (void) engine_step(w->engine, NULL);
    world_events(w);
    engine_destroy(w->engine);
    model_close(w->model);
    free(w->lives);
    return stats;
}

/* ---- what transformers computed ------------------------------------------------ */

static const void *
golden_find(struct safetensors *st, const char *name, int prompt, int64_t *num)
{
    char  full[32];
    (void) snprintf(full, sizeof full, "%s.%d", name, prompt);
    const struct safetensors_entry  *e = safetensors_find(st, str_from(full));
    if (e == NULL) {
        printf("%s is missing from expected.st\n", full);
        exit(1);
    }
    *num = e->tensor.shape[0];
    return e->tensor.data;
}

void
golden_open(struct golden *g, const char *name)
{
    struct err           err = { 0 };
    struct str           image;
    struct safetensors  *st;
    int64_t              num;
    *g = (struct golden) { .name = name };
    (void) snprintf(g->dir, sizeof g->dir, GOLDEN_DIR "/%s", name);
    require(model_file_read(&image, g->dir, "expected.st", EXPECTED_MAX, &err),
            &err, g->dir);
    require(safetensors_create(&st, &err), &err, g->dir);
    require(safetensors_append(st, "expected.st", image.data, image.len, &err),
            &err, g->dir);
    for (int i = 0; i < 2; i++) {
        const void  *ids = golden_find(st, "prompt", i, &num);
        g->num[i] = (int) num;
        memcpy(g->prompt[i], ids, (size_t) num * sizeof(int32_t));
        memcpy(g->greedy[i], golden_find(st, "greedy", i, &num),
               sizeof g->greedy[i]);
        const float  *e = golden_find(st, "hf_error", i, &num);
        g->hf_error = fmax(g->hf_error, (double) *e);
    }
    safetensors_close(st);
    model_file_free(&image);
}

/* ---- the judge ------------------------------------------------------------------ */

void
judge_open(struct judge *j, const char *dir, double hf_error)
{
    struct err  err = { 0 };
    *j = (struct judge) { .hf_error = hf_error };
    require(model_open(&j->model, &(struct model_options) {
        .path = dir, .max_model_len = LIFE_TOKENS, .block_size = BLOCK_SIZE,
        .num_blocks = LIFE_TOKENS / BLOCK_SIZE + 1,
        .max_num_batched_tokens = LIFE_TOKENS, .max_num_seqs = 1,
        .max_num_logits = LIFE_TOKENS }, run.cpu, &err), &err, dir);
    require(batch_init(&j->batch, &j->model->limits, &err), &err, "batch");
}

void
judge_close(struct judge *j)
{
    batch_destroy(&j->batch);
    model_close(j->model);
}

static bool
is_masked(const struct gen_request *g, int output, int32_t id)
{
    for (int32_t i = 0; i < g->num_stop_ids && output < g->min_tokens; i++) {
        if (g->stop_ids[i] == id) {
            return true;
        }
    }
    return false;
}

/* Two roundings on each side: 4 times the error of one against the truth. */
void
judge_greedy(struct judge *j, const struct life *l, const char *where)
{
    const struct gen_request  *g = &l->gen;
    int32_t       blocks[LIFE_TOKENS / BLOCK_SIZE];
    int           vocab = j->model->config.vocab_size;
    const float  *logits;
    struct err    err = { 0 };
    if (l->num_output == 0) {
        return;
    }
    for (int i = 0; i < LIFE_TOKENS / BLOCK_SIZE; i++) {
        blocks[i] = 1 + i;
    }
    batch_reset(&j->batch);
    (void) batch_append(&j->batch, &(struct batch_seq) {
        .token_ids = l->token_ids,
        .query_len = g->num_prompt_tokens + l->num_output - 1,
        .position = 0, .block_ids = blocks, .block_size = BLOCK_SIZE,
        .num_logits = l->num_output });
    require(model_forward(j->model, &j->batch, &logits, &err), &err, "judge");
    for (int i = 0; i < l->num_output; i++, logits += vocab) {
        int32_t  id = l->token_ids[g->num_prompt_tokens + i], best = -1;
        double   size = 0.0;
        for (int32_t v = 0; v < vocab; v++) {
            size = fmax(size, fabs((double) logits[v]));
            if (!is_masked(g, i, v)
                && (best < 0 || logits[v] > logits[best]))
            {
                best = v;
            }
        }
        double  bound = 4.0 * (j->model->dtype == DTYPE_F32
                               ? 64.0 * 0x1p-23 * size : 2.0 * j->hf_error);
        j->num_tokens++;
        j->num_ties += id != best;
        if (id < 0 || id >= vocab || is_masked(g, i, id)) {
            complain("%s: token %d is %d", where, i, id);
            return;
        }
        double  lead = (double) logits[best] - (double) logits[id];
        run.worst = fmax(run.worst, lead / bound);
        if (!(lead <= bound)) {
            complain("%s: token %d is %d, not %d, whose logit leads by %g, "
                     "bound %g", where, i, id, best, lead, bound);
            return;
        }
    }
}
