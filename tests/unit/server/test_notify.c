/* test_notify.c - what the service manager hears, and when it hears nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/base/clock.h"
#include "engine/server/notify.h"

#define SECOND  1000000000LL

/* A socket in the abstract name space and the variable that names it. */
static int
open_manager(char *variable, size_t cap)
{
    struct sockaddr_un  addr = { .sun_family = AF_UNIX };
    socklen_t           len = sizeof(sa_family_t);
    int                 fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    assert_int_equal(bind(fd, (struct sockaddr *) &addr, len), 0);
    len = sizeof addr;
    assert_int_equal(getsockname(fd, (struct sockaddr *) &addr, &len), 0);
    (void) snprintf(variable, cap, "NOTIFY_SOCKET=@%.*s",
                    (int) (len - offsetof(struct sockaddr_un, sun_path) - 1),
                    addr.sun_path + 1);
    return fd;
}

/* The next message, or "" when there is none. */
static const char *
heard(int fd)
{
    static char  text[128];
    ssize_t      n = recv(fd, text, sizeof text - 1, MSG_DONTWAIT);

    text[n > 0 ? n : 0] = '\0';
    return text;
}

static void
test_ready_and_stopping_are_said_once(void **state)
{
    struct notify     n;
    struct llm_stats  stats = { .state = LLM_STATE_LOADING };
    char              variable[64], *envp[] = { variable, NULL };
    int               fd = open_manager(variable, sizeof variable);

    (void) state;
    notify_init(&n, envp);
    notify_beat(&n, &stats, SECOND);
    assert_string_equal(heard(fd), "");
    stats.state = LLM_STATE_READY;
    notify_beat(&n, &stats, 2 * SECOND);
    notify_beat(&n, &stats, 3 * SECOND);
    assert_string_equal(heard(fd), "READY=1");
    assert_string_equal(heard(fd), "");
    stats.state = LLM_STATE_DRAINING;
    notify_beat(&n, &stats, 4 * SECOND);
    notify_beat(&n, &stats, 5 * SECOND);
    assert_string_equal(heard(fd), "STOPPING=1");
    assert_string_equal(heard(fd), "");
    (void) close(n.fd);
    (void) close(fd);
}

static void
test_the_watchdog_is_fed_while_steps_are_done(void **state)
{
    struct notify     n;
    struct llm_stats  stats = { .state = LLM_STATE_LOADING };
    char              variable[64];
    char              usec[] = "WATCHDOG_USEC=1000000";
    char             *envp[] = { variable, usec, NULL };
    int               fd = open_manager(variable, sizeof variable);

    (void) state;
    notify_init(&n, envp);
    notify_beat(&n, &stats, 100 * SECOND);      /* loading needs no steps */
    assert_string_equal(heard(fd), "WATCHDOG=1");
    notify_beat(&n, &stats, 100 * SECOND + SECOND / 8);
    assert_string_equal(heard(fd), "");         /* four times in its time */
    notify_beat(&n, &stats, 100 * SECOND + SECOND / 4);
    assert_string_equal(heard(fd), "WATCHDOG=1");

    stats.state = LLM_STATE_READY;
    stats.progress_ns = 100 * SECOND;
    n.ready = true;
    notify_beat(&n, &stats, 105 * SECOND);
    assert_string_equal(heard(fd), "WATCHDOG=1");
    notify_beat(&n, &stats, (100 + NOTIFY_PROGRESS) * SECOND);
    assert_string_equal(heard(fd), "");         /* the step thread hangs */
    stats.progress_ns = 106 * SECOND;
    notify_beat(&n, &stats, 107 * SECOND);
    assert_string_equal(heard(fd), "WATCHDOG=1");
    (void) close(n.fd);
    (void) close(fd);
}

static void
test_nobody_listens_and_nothing_happens(void **state)
{
    struct llm_stats   stats = { .state = LLM_STATE_READY };
    char               relative[] = "NOTIFY_SOCKET=run/notify";
    char               missing[] = "NOTIFY_SOCKET=/nonexistent/notify";
    char               other[] = "WATCHDOG_PID=1";
    char               usec[] = "WATCHDOG_USEC=1000000";
    char              *envs[][4] = {
        { NULL }, { relative, NULL }, { missing, other, usec, NULL }
    };
    struct notify      n;

    (void) state;
    for (size_t i = 0; i < sizeof envs / sizeof envs[0]; i++) {
        notify_init(&n, envs[i]);
        notify_beat(&n, &stats, SECOND);
        assert_false(n.ready);
        assert_int_equal(n.watchdog_ns, 0);     /* meant for another process */
        if (n.fd != -1) {
            (void) close(n.fd);
        }
    }
    notify_beat(NULL, &stats, SECOND);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_ready_and_stopping_are_said_once),
        cmocka_unit_test(test_the_watchdog_is_fed_while_steps_are_done),
        cmocka_unit_test(test_nobody_listens_and_nothing_happens),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
