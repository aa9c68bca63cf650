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
};

struct model *fake_model_create(const struct fake_options *options);
void fake_model_destroy(struct model *m);

/* The next model_forward() fails as a lost device does. */
void fake_model_lose(struct model *m);

/* What a request alone must produce: fills out[], returns how many tokens,
 * and how it ends. */
int32_t fake_model_expect(const struct gen_request *req, int32_t *out,
                          enum finish_reason *reason);

#endif
