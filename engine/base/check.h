/* check.h - assertions that stay on in release builds.
 *
 * check() is for programmer errors only, one fact each; bad input is never a
 * check.  A failed check prints both sides and a backtrace and aborts: the
 * supervisor restarts the engine, because KV state that broke an invariant
 * would otherwise give wrong text silently.  The cost is a compare against a
 * step of milliseconds.  debug_check() is compiled out of release builds. */
#ifndef LLM_BASE_CHECK_H
#define LLM_BASE_CHECK_H

#include <stdint.h>

_Noreturn void check_fail(const char *file, int line, const char *what,
                          int64_t left, int64_t right);

/* Installs a function that prints the state report before the abort; it must
 * be async-signal-safe enough to run in a broken process.  NULL removes it. */
void check_set_report(void (*report)(void *data), void *data);

#define check(x)                                                              \
    do { if (!(x)) { check_fail(__FILE__, __LINE__, #x, 0, 0); } } while (0)

#define check_op(a, op, b)                                                    \
    do {                                                                      \
        int64_t check_a_ = (int64_t) (a), check_b_ = (int64_t) (b);           \
        if (!(check_a_ op check_b_)) {                                        \
            check_fail(__FILE__, __LINE__, #a " " #op " " #b, check_a_,       \
                       check_b_);                                             \
        }                                                                     \
    } while (0)

#define check_eq(a, b)  check_op(a, ==, b)
#define check_lt(a, b)  check_op(a, <, b)
#define check_le(a, b)  check_op(a, <=, b)

#ifdef LLM_DEBUG
#define debug_check(x)  check(x)
#else
#define debug_check(x)  ((void) 0)
#endif

#endif
