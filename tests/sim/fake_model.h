/* fake_model.h - a model_forward() for tests that sees every mistake of the
 * bookkeeping.
 *
 * Each KV slot remembers the token and the position it was written for.  A
 * row's "attention" walks its context through the block table and checks that
 * every slot holds the position it must; the logits are a function of the
 * tokens found there and of nothing else.  So a wrong slot, a wrong order, a
 * block in two hands, a missed or repeated token all give other tokens than
 * fake_model_expect(), or abort.
 *
 * With `samples` it is a device: a step runs when its result is asked for, or
 * at random before that, but never before the step ahead of it; the ids go from
 * one step to the next without the host.  It aborts when more steps are in
 * flight than allowed, when a row refers to an id that no sample() made, when
 * results are read in another number than they were made, and when a step uses
 * a block of the step in flight for anything but the same sequence's next
 * tokens.
 *
 * Linked instead of engine/model/model.c: same prototype, no switch in the
 * product. */
#ifndef LLM_SIM_FAKE_MODEL_H
#define LLM_SIM_FAKE_MODEL_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/core/gen.h"
#include "engine/model/model.h"

#define FAKE_VOCAB   97
#define FAKE_NAN_ID  96       /* its row's logits are NaN from then on; never
                                 sampled */

struct fake_options {
    int max_num_seqs, max_num_batched_tokens, max_model_len;
    int block_size, num_blocks;
    bool samples;
    uint64_t seed;            /* of the moments at which steps run */
};

struct model *fake_model_create(const struct fake_options *options);
void fake_model_destroy(struct model *m);

/* The next wait for the device fails. */
void fake_model_lose(struct model *m);

/* model_sample_is_done() asks this instead of chance. */
void fake_model_ask(struct model *m, bool (*is_done)(void *data), void *data);

/* What a request alone must produce: fills out[], returns how many tokens,
 * and how it ends. */
int32_t fake_model_expect(const struct gen_request *req, int32_t *out,
                          enum finish_reason *reason);

#endif
