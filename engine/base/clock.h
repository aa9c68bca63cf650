/* clock.h - monotonic time in nanoseconds, the engine's only time unit. */
#ifndef LLM_BASE_CLOCK_H
#define LLM_BASE_CLOCK_H

#include <stdint.h>

#define NS_PER_US  1000LL
#define NS_PER_MS  1000000LL
#define NS_PER_S   1000000000LL

int64_t clock_now_ns(void);        /* CLOCK_MONOTONIC */
int64_t clock_wall_seconds(void);  /* Unix time, for "created" fields only */

#endif
