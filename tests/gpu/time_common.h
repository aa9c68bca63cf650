/* time_common.h - what time-steps and time-backend-cuda share: a model with
 * random weights on CUDA, and the clock around its steps.
 *
 * Contexts are of random keys once they were computed; sequences of more than
 * 1,024 tokens go around in the cache. */
#ifndef LLM_TESTS_GPU_TIME_COMMON_H
#define LLM_TESTS_GPU_TIME_COMMON_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/backend/cuda/backend_cuda.h"
#include "engine/model/batch.h"
#include "engine/model/model.h"

#define TIME_CONTEXT     1024
#define TIME_SEQS_MAX    256
#define TIME_TOKENS_MAX  8192       /* of a step */
#define TIME_LEN_MAX     32768      /* of a sequence */

struct timed {
    struct backend *be;
    struct model   *m;
    struct batch    b;
    double          opened_s;       /* model_open() */
};

/* Ends the program, with "# message". */
void stop_on(int rc, const struct err *err);

double ms_since(int64_t t0_ns);

/* False, with a line, where there is no CUDA device.  kv_dtype: DTYPE_NONE for
 * the model's. */
bool timed_open(struct timed *t, struct backend_cuda_options options,
                const char *dir, int max_model_len, enum dtype kv_dtype);
void timed_close(struct timed *t);

/* To the batch: `len` tokens of a sequence from `position` on. */
void timed_append(struct timed *t, int seq, int len, int position,
                  int num_logits);

/* The first TIME_CONTEXT keys of all sequences; the batch is empty before and
 * after. */
void timed_fill(struct timed *t);

/* ---- of the batch's step; it stays as it is but for the ids ---- */

/* From a step's issue to its end, nothing under way before it. */
double step_ms(struct timed *t);

/* A step of `steps`, each issued before the last one's ids are known, greedy,
 * with logits of all its rows, as the engine does. */
double ahead_ms(struct timed *t, int steps);

/* issue(layer, data) for all layers, without the rest of a step; the best of
 * some.  Each kind of ops has a model_id of its own, m->id + 2, + 4 and so on:
 * the backend knows them after the first step, and shares the keys among its
 * warps then. */
double layers_ms(struct timed *t, uint64_t model_id,
                 void (*issue)(struct timed *t, int layer, int data), int data);

void issue_attention(struct timed *t, int layer, int data);

struct step_inputs step_inputs_of(const struct timed *t, uint64_t model_id);

#endif
