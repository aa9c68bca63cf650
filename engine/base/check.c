/* check.c - the end of a process whose invariants no longer hold. */
#include "engine/base/check.h"

#include <execinfo.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Process-wide by nature, like the log level: there is one way to die. */
static void  (*check_report)(void *data);
static void   *check_report_data;

void
check_set_report(void (*report)(void *data), void *data)
{
    check_report = report;
    check_report_data = data;
}

_Noreturn void
check_fail(const char *file, int line, const char *what, int64_t left,
           int64_t right)
{
    void  *frames[64];

    (void) fprintf(stderr, "BUG: %s:%d: check failed: %s (%lld, %lld)\n",
                   file, line, what, (long long) left, (long long) right);
    int  n = backtrace(frames, 64);
    backtrace_symbols_fd(frames, n, STDERR_FILENO);
    if (check_report != NULL) {
        check_report(check_report_data);
    }
    abort();
}
