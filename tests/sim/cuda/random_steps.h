/* random_steps.h - steps that a scheduler could plan, and some it would not, put
 * through a model on the fake GPU.
 *
 * One to all sequences of one to all keys, single rows or prompts among them,
 * ids from the host or from the sampler, up to two sampled steps issued ahead,
 * some not sampled, blocks copied between them.  What the sampler was told to
 * give must be what arrives. */
#ifndef LLM_SIM_RANDOM_STEPS_H
#define LLM_SIM_RANDOM_STEPS_H

#include "engine/model/model.h"

/* ERROR: a step failed.  The model can be closed then. */
int random_steps(struct model *m, int num_steps, uint64_t seed,
                 struct err *err);

#endif
