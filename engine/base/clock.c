/* clock.c - deadlines use the monotonic clock: wall time may jump. */
#include "engine/base/clock.h"

#include <time.h>

int64_t
clock_now_ns(void)
{
    struct timespec  ts;
    (void) clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t) ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

int64_t
clock_wall_seconds(void)
{
    return (int64_t) time(NULL);
}
