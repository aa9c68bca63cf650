/* test_engine_report.c - the report of a process that is about to end. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "engine/base/check.h"
#include "engine/core/engine_int.h"
#include "tests/sim/fake_model.h"

static void
report(void *data)
{
    engine_log_report(data, "state");
}

/* Most invariants are the scheduler's, checked under the lock that the report
 * wants. */
static _Noreturn void
fail_under_the_lock(int fd)
{
    struct fake_options    m = { .max_num_seqs = 4, .block_size = 4,
                                 .max_num_batched_tokens = 16,
                                 .max_model_len = 100, .num_blocks = 30 };
    struct engine_options  o = {
        .max_num_seqs = 4, .max_num_batched_tokens = 16, .max_model_len = 100,
        .max_waiting = 4, .enable_chunked_prefill = true
    };
    struct engine         *e;

    (void) dup2(fd, STDERR_FILENO);
    if (engine_create(&e, &o, fake_model_create(&m), NULL) != OK) {
        _exit(1);
    }
    check_set_report(report, e);
    (void) alarm(5);
    engine_lock_state(e);
    check_eq(1, 2);
    _exit(1);
}

static void
a_check_that_fails_under_the_lock_reports_and_aborts(void **state)
{
    char    text[16384];
    size_t  len = 0;
    int     fds[2], status;

    (void) state;
    assert_int_equal(pipe(fds), 0);
    pid_t  pid = fork();
    if (pid == 0) {
        fail_under_the_lock(fds[1]);
    }
    (void) close(fds[1]);
    for (ssize_t n = 1; n > 0 && len < sizeof text - 1; len += (size_t) n) {
        n = read(fds[0], text + len, sizeof text - 1 - len);
        n = n < 0 ? 0 : n;
    }
    text[len] = '\0';
    (void) close(fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_non_null(strstr(text, "BUG: "));
    assert_non_null(strstr(text, "state: engine: steps=0"));
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(a_check_that_fails_under_the_lock_reports_and_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
