/* gen.h - what the API layer hands to the engine, and what it gets back.
 *
 * A gen_request is one sequence to generate: a chat request with n = 3 is
 * three of them.  The API layer owns all memory of a request; the engine
 * borrows it from engine_submit() until the request's one GEN_FINISHED event
 * has been popped.  The engine appends the ids it samples to token_ids, so it
 * allocates nothing.
 *
 * Life of a request, seen from outside:
 *
 *     engine_submit -> GEN_TOKENS* -> GEN_FINISHED      exactly one FINISHED,
 *                                                       nothing after it
 * engine_cancel() at any time leads to GEN_FINISHED with the reason given,
 * unless the request ended by itself first.  Late cancels are no error. */
#ifndef LLM_CORE_GEN_H
#define LLM_CORE_GEN_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/sample/sampler.h"      /* struct sampling_params */

#define GEN_EVENT_TOKENS_MAX  8    /* speculation may accept several a step */
#define GEN_STOP_IDS_MAX      64   /* eos ids of the model + stop_token_ids */

/* The closed set of terminal events (architecture.md section 2, step 10). */
enum finish_reason {
    FINISH_NONE,
    FINISH_STOP,               /* eos, stop token or stop string */
    FINISH_LENGTH,             /* max_tokens or the context is full */
    FINISH_TOOL_CALLS,
    FINISH_CLIENT_ABORT,
    FINISH_DEADLINE,
    FINISH_SLOW_READER,
    FINISH_NUMERIC_ERROR,      /* NaN or all -inf logits */
    FINISH_GRAMMAR_DEAD_END,
    FINISH_ENGINE_LOST,
    FINISH_SHUTDOWN
};

#define FINISH_REASONS  (FINISH_SHUTDOWN + 1)

/* "stop", "client_abort" ...; FINISH_NONE is "none". */
const char *gen_reason_name(enum finish_reason reason);

struct gen_request {
    uint64_t  gen_id;          /* from engine_next_id(); unique for ever */
    void     *user;            /* handed back in every event */
    int32_t  *token_ids;       /* [token_cap]: prompt, then what is sampled */
    int32_t   num_prompt_tokens;   /* >= 1 */
    int32_t   token_cap;       /* >= num_prompt_tokens + max_tokens */
    int32_t   max_tokens;      /* >= 1; FINISH_LENGTH after this many */
    int32_t   min_tokens;      /* stop ids cannot be sampled before */
    int32_t   num_stop_ids;
    int32_t   stop_ids[GEN_STOP_IDS_MAX];  /* eos ids unless ignore_eos, and
                                              the request's own */
    struct sampling_params sampling;
    int32_t   priority;        /* 0; higher runs first */
    int64_t   arrival_ns;      /* when the front end saw it */
    int64_t   deadline_ns;     /* FINISH_DEADLINE after it; 0: none */
};

enum gen_event_type { GEN_TOKENS, GEN_FINISHED };

struct gen_event {
    uint64_t  gen_id;
    void     *user;
    enum gen_event_type type;
    int32_t   num_tokens;      /* GEN_TOKENS: 1..GEN_EVENT_TOKENS_MAX;
                                  GEN_FINISHED: 0 */
    int32_t   token_ids[GEN_EVENT_TOKENS_MAX];
                               /* more than one when the output thread lags
                                  behind, or by speculation.  A sampled stop
                                  id IS reported here, as the last token,
                                  followed by GEN_FINISHED */
    enum finish_reason reason; /* GEN_FINISHED */
    int32_t   stop_id;         /* the stop id that ended it, -1: none */
    int32_t   num_cached_tokens;   /* prompt tokens not computed again */
    int64_t   scheduled_ns;    /* first admission; 0: never */
    int64_t   first_token_ns;  /* 0: none yet */
    int64_t   now_ns;          /* when the event was made */
};

#endif
