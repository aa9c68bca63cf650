/* test_listen.c - inherited sockets by name, own ones by path. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/server/listen.h"

static char  path[64];

static int
set_up(void **state)
{
    (void) state;
    (void) snprintf(path, sizeof path, "/tmp/llm-listen-%d.sock", (int) getpid());
    (void) unlink(path);
    return 0;
}

static int
connect_to(const char *at)
{
    struct sockaddr_un  addr = { .sun_family = AF_UNIX };
    int                 fd = socket(AF_UNIX, SOCK_SEQPACKET, 0), rc;

    memcpy(addr.sun_path, at, strlen(at) + 1);
    rc = connect(fd, (struct sockaddr *) &addr, sizeof addr);
    (void) close(fd);
    return rc;
}

static void
test_an_own_socket_has_its_mode_and_goes_with_close(void **state)
{
    struct listen  l;
    struct stat    st;
    struct err     err = { 0 };
    mode_t         old = umask(0);

    (void) state;
    assert_int_equal(listen_open(&l, NULL, path, &err), OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0660);
    assert_int_equal(connect_to(path), 0);
    listen_close(&l);
    assert_int_equal(stat(path, &st), -1);
    listen_close(&l);
    (void) umask(old);
}

static void
test_a_stale_socket_is_replaced_a_live_one_is_not(void **state)
{
    struct listen  l, second;
    struct err     err = { 0 };
    pid_t          pid = fork();
    int            status;

    (void) state;
    if (pid == 0) {
        _exit(listen_open(&l, NULL, path, &err) != OK);    /* leaves its file */
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(listen_open(&l, NULL, path, &err), OK);
    assert_int_equal(listen_open(&second, NULL, path, &err), ERROR);
    assert_non_null(strstr(err.message, "another process listens"));
    assert_int_equal(connect_to(path), 0);
    listen_close(&l);
}

static void
test_other_files_and_impossible_paths_are_refused(void **state)
{
    struct listen  l;
    struct err     err = { 0 };
    char           too_long[200];
    int            fd = open(path, O_CREAT | O_WRONLY, 0600);

    (void) state;
    assert_int_equal(listen_open(&l, NULL, path, &err), ERROR);
    assert_non_null(strstr(err.message, "not a socket"));
    (void) close(fd);
    assert_int_equal(unlink(path), 0);
    memset(too_long, 'a', sizeof too_long - 1);
    too_long[sizeof too_long - 1] = '\0';
    assert_int_equal(listen_open(&l, NULL, too_long, &err), ERROR);
    assert_int_equal(listen_open(&l, NULL, "/nowhere/at/all", &err), ERROR);
    assert_int_equal(listen_open(&l, NULL, NULL, &err), ERROR);
}

/* In a child, as LISTEN_FDS are the descriptors from 3 on. */
static int
inherit(const char *fds, const char *names, int type, bool other_pid)
{
    pid_t  pid = fork();
    int    status;

    if (pid == 0) {
        struct listen_env   env;
        struct err          err = { 0 };
        char                text[64], number[64], fdnames[128];
        char               *envp[] = { text, number, fdnames, NULL };
        int                 fd = socket(AF_UNIX, type, 0), got;
        for (int i = 0; i < 3; i++) {
            (void) dup2(fd, LISTEN_FD_FIRST + i);
        }
        (void) snprintf(text, sizeof text, "LISTEN_PID=%d",
                        (int) getpid() + other_pid);
        (void) snprintf(number, sizeof number, "LISTEN_FDS=%s", fds);
        (void) snprintf(fdnames, sizeof fdnames, "LISTEN_FDNAMES=%s", names);
        listen_env_init(&env, envp);
        switch (listen_inherited(&got, &env, "llm", &err)) {
        case OK:
            _exit((fcntl(got, F_GETFD) & FD_CLOEXEC) != 0 ? got : 99);
        case AGAIN:
            _exit(100);
        default:
            _exit(err.message[0] != '\0' ? 101 : 99);
        }
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WEXITSTATUS(status);
}

static void
test_inherited_sockets_are_found_by_name(void **state)
{
    (void) state;
    assert_int_equal(inherit("1", "llm", SOCK_SEQPACKET, false), 3);
    assert_int_equal(inherit("3", "lifeline:owner:llm", SOCK_SEQPACKET, false), 5);
    assert_int_equal(inherit("1", "", SOCK_SEQPACKET, false), 3);
    assert_int_equal(inherit("2", "", SOCK_SEQPACKET, false), 101);
    assert_int_equal(inherit("2", "a:b", SOCK_SEQPACKET, false), 101);
    assert_int_equal(inherit("2", "llmx:xllm", SOCK_SEQPACKET, false), 101);
    assert_int_equal(inherit("1", "llm", SOCK_STREAM, false), 101);
    assert_int_equal(inherit("0", "llm", SOCK_SEQPACKET, false), 101);
    assert_int_equal(inherit("99", "llm", SOCK_SEQPACKET, false), 101);
    assert_int_equal(inherit("1", "llm", SOCK_SEQPACKET, true), 100);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test_setup(test_an_own_socket_has_its_mode_and_goes_with_close,
                               set_up),
        cmocka_unit_test_setup(test_a_stale_socket_is_replaced_a_live_one_is_not,
                               set_up),
        cmocka_unit_test_setup(test_other_files_and_impossible_paths_are_refused,
                               set_up),
        cmocka_unit_test_setup(test_inherited_sockets_are_found_by_name, set_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
