/* gpu_world.h - engines over small models for gpu_engine.c, and a judge.
 *
 * A world is a backend of its own (never timed, so that two runs take the same
 * algorithms), a model, an engine, and the requests that are sent to it.  With
 * --self the backend is the CPU behind tests/sim/late_backend.h, which samples
 * as a device does.
 *
 *     world_open(&w, &(struct world_options) { .dir = ... });
 *     struct life *l = world_life(&w, ids, num, max_tokens);
 *     l->gen.sampling.temperature = 1.0f;
 *     world_submit(&w, l);
 *     world_run(&w);                      until all have ended
 *     judge(...);
 *     world_close(&w);                    checks that the KV cache is free
 *
 * The judge lets the CPU backend compute the logits of a finished sequence: a
 * greedy token must be its first choice, or as good within what both may err. */
#ifndef LLM_TESTS_GPU_GPU_WORLD_H
#define LLM_TESTS_GPU_GPU_WORLD_H

#include "engine/core/engine.h"
#include "engine/model/model.h"
#include "tests/gpu/gpu_test.h"

#define LIVES_MAX     80
#define LIFE_TOKENS   256       /* the golden models' context */
#define STEPS_MAX     6000      /* no test needs more: it must drain */

struct life {
    struct gen_request  gen;
    int32_t             token_ids[LIFE_TOKENS];
    int32_t             num_output;      /* seen in events */
    int32_t             num_ends;
    enum finish_reason  reason;
};

struct world_options {
    const char *dir;
    bool        dummy;               /* random weights of its config */
    bool        batch_invariant;
    bool        async;
    int         num_blocks;          /* of 16 tokens; 0: plenty */
    int32_t     max_num_seqs;
    int32_t     max_num_batched_tokens;
};

struct world {
    struct world_options  o;
    struct backend       *be;        /* borrowed: world_backend() */
    struct model         *model;
    struct engine        *engine;
    struct life          *lives;     /* [LIVES_MAX] */
    int                   num_lives, num_ended;
    /* before every step; NULL: nothing */
    void                (*disturb)(struct world *w, int step);
};

/* The same one for all worlds of one kind, until world_backends_close(). */
struct backend *world_backend(bool batch_invariant);
void world_backends_close(void);

void world_open(struct world *w, const struct world_options *o);
struct life *world_life(struct world *w, const int32_t *ids, int num,
                        int max_tokens);
struct life *world_random_life(struct world *w, int num, int max_tokens);
void world_submit(struct world *w, struct life *l);
bool world_step(struct world *w);        /* with audit; false: it failed */
void world_events(struct world *w);
void world_run(struct world *w);
struct engine_stats world_close(struct world *w);

/* What transformers computed of a golden model. */
#define GOLDEN_DIR     "tests/model/golden"
#define GOLDEN_MODELS  13
#define GOLDEN_OUTPUT  16

struct golden {
    const char    *name;
    char           dir[128];
    int            num[2];           /* of the two prompts */
    int32_t        prompt[2][LIFE_TOKENS];
    int32_t        greedy[2][GOLDEN_OUTPUT];
    double         hf_error;         /* of transformers in 16 bits */
};

extern const char *const  golden_names[GOLDEN_MODELS];
void golden_open(struct golden *g, const char *name);

struct judge {
    struct model *model;             /* on the CPU */
    struct batch  batch;
    double        hf_error;
    int           num_tokens, num_ties;
};

/* hf_error: see struct golden; of no meaning for float32. */
void judge_open(struct judge *j, const char *dir, double hf_error);
/* complain()s about tokens of l that no greedy choice explains. */
void judge_greedy(struct judge *j, const struct life *l, const char *where);
void judge_close(struct judge *j);

#endif
