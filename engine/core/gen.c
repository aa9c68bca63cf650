/* gen.c - names of the ends. */
#include "engine/core/gen.h"

const char *
gen_reason_name(enum finish_reason reason)
{
    static const char *const  names[FINISH_REASONS] = {
        [FINISH_NONE] = "none",
        [FINISH_STOP] = "stop",
        [FINISH_LENGTH] = "length",
        [FINISH_TOOL_CALLS] = "tool_calls",
        [FINISH_CLIENT_ABORT] = "client_abort",
        [FINISH_DEADLINE] = "deadline",
        [FINISH_SLOW_READER] = "slow_reader",
        [FINISH_NUMERIC_ERROR] = "numeric_error",
        [FINISH_GRAMMAR_DEAD_END] = "grammar_dead_end",
        [FINISH_ENGINE_LOST] = "engine_lost",
        [FINISH_SHUTDOWN] = "shutdown",
    };
    return names[reason];
}
