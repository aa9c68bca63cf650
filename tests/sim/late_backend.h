/* late_backend.h - the CPU backend with a sampler, for tests of what is issued
 * ahead: step_begin() takes INPUT_SAMPLED, sample() keeps its ids to itself
 * until sampled() is called.
 *
 *     late_backend_attach(&late, be);       be is a CPU backend, idle
 *     ... use be ...
 *     late_backend_detach(late, be);        it is what it was */
#ifndef LLM_SIM_LATE_BACKEND_H
#define LLM_SIM_LATE_BACKEND_H

#include "engine/backend/backend.h"

struct late_backend;

void late_backend_attach(struct late_backend **out, struct backend *be);
void late_backend_detach(struct late_backend *late, struct backend *be);

#endif
