/* fake_api.h - a double of engine/api and engine_events() for server tests.
 *
 * It defines the functions of api.h and engine.h that engine/server calls, so a
 * test that links it gets no model.  A thread plays the engine: every step each
 * running stream gets one token.  The request body is words: "tokens=5 bytes=10
 * stream=1 error=1 full=1"; the answer is letters.  "answer=100" is answered at
 * once with so many. */
#ifndef LLM_TESTS_FAKE_API_H
#define LLM_TESTS_FAKE_API_H

#include <stdint.h>
#include "engine/api/api.h"

struct fake;

struct fake *fake_create(int64_t step_ns);
void fake_stop(struct fake *f);          /* engine_stop() and join */
void fake_destroy(struct fake *f);
struct api *fake_api(struct fake *f);
struct engine *fake_engine(struct fake *f);

/* Streams made and not destroyed; running ones that are not parked; steps. */
int fake_num_streams(struct fake *f);
int fake_num_unparked(struct fake *f);
void fake_hold_steps(struct fake *f, bool hold);
void fake_hold_begin(struct fake *f, bool hold);   /* api_begin() waits */

#endif
