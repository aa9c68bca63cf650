/* mock_plan.h - what a request asks the mock engine to do to it.
 *
 * The body's "mock" object, see the manual in llm_mock_engine.c, and the few
 * OpenAI fields that decide the answer's shape. */
#ifndef LLM_TOOLS_MOCK_PLAN_H
#define LLM_TOOLS_MOCK_PLAN_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/base/err.h"
#include "engine/base/str.h"

#define MOCK_TOKENS_MAX      1000000
#define MOCK_TOKEN_BYTES_MAX 65536
#define MOCK_NAME_BYTES      128

enum mock_crash { MOCK_CRASH_NONE, MOCK_CRASH_BEFORE, MOCK_CRASH_HEAD,
                  MOCK_CRASH_MID };
enum mock_hang { MOCK_HANG_NONE, MOCK_HANG_REQUEST, MOCK_HANG_STEPS,
                 MOCK_HANG_PROCESS };
enum mock_corrupt { MOCK_CORRUPT_NONE, MOCK_CORRUPT_CQ, MOCK_CORRUPT_ID,
                    MOCK_CORRUPT_LEN, MOCK_CORRUPT_TAIL, MOCK_CORRUPT_HEAD,
                    MOCK_CORRUPT_END, MOCK_CORRUPT_NO_HEAD,
                    MOCK_CORRUPT_TWO_HEADS, MOCK_CORRUPT_TWO_ENDS,
                    MOCK_CORRUPT_SQ_HEAD };

struct mock_plan {
    int64_t  max_tokens;               /* of the body, 0: absent */
    int64_t  tokens, bytes;            /* bytes 0: "tokN " */
    int64_t  first_ms, delay_ms, hang_ms;
    int64_t  status;                   /* 200 or an error to answer */
    int64_t  retry_after_s;
    int64_t  prompt_tokens, cached_tokens, exit_code;
    enum mock_crash   crash;
    enum mock_hang    hang;
    enum mock_corrupt corrupt;
    uint16_t finish;                   /* enum llm_finish */
    bool     refuse, echo, close, no_end, ignore_cancel, error_event, no_done;
    bool     stream, include_usage;
    char     model[MOCK_NAME_BYTES];   /* empty: the body names none */
    char     at[MOCK_NAME_BYTES];      /* whose faults these are; empty: all */
};

/* ERROR: err with http_status 400, as the real engine would say. */
int mock_plan_read(struct mock_plan *out, struct str body, struct err *err);
void mock_plan_init(struct mock_plan *out);

/* As the engine does: a cap, 0 for none, counts where max_tokens is absent or
 * greater. */
void mock_plan_cap(struct mock_plan *plan, uint32_t cap);

/* The faults are meant for another engine: behaves well instead. */
void mock_plan_forget_faults(struct mock_plan *plan);

#endif
