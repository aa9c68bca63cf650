/* test_session.c - the hand-shake, and what a worker can do to its memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/server/listen.h"
#include "engine/server/server.h"
#include "tests/lib/wire_client.h"

struct world {
    struct listen   listening;
    struct server  *srv;
    char            path[64];
};

static void
open_world(struct world *w, const struct server_options *o)
{
    struct err  err = { 0 };

    log_level = LOG_ALERT;
    (void) snprintf(w->path, sizeof w->path, "/tmp/llm-session-%d.sock",
                    (int) getpid());
    assert_int_equal(listen_open(&w->listening, NULL, w->path, &err), OK);
    assert_int_equal(server_create(&w->srv, w->listening.fd, o, &err), OK);
}

static void
close_world(struct world *w)
{
    server_destroy(w->srv);
    listen_close(&w->listening);
}

static int
raw_connect(const struct world *w)
{
    struct sockaddr_un  addr = { .sun_family = AF_UNIX };
    int                 fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

    memcpy(addr.sun_path, w->path, strlen(w->path) + 1);
    assert_int_equal(connect(fd, (struct sockaddr *) &addr, sizeof addr), 0);
    return fd;
}

/* Sends len bytes; returns the status of the refusal that must come, followed
 * by the end. */
static uint32_t
refusal(const struct world *w, const void *hello, size_t len)
{
    struct llm_welcome  raw, welcome;
    struct pollfd       p = { raw_connect(w), POLLIN, 0 };
    const char         *why = "";

    if (len != 0) {
        assert_int_equal(send(p.fd, hello, len, 0), len);
    }
    assert_int_equal(poll(&p, 1, 5000), 1);
    ssize_t  n = recv(p.fd, &raw, sizeof raw, 0);
    assert_int_equal(n, sizeof raw);
    assert_int_equal(llm_wire_decode_welcome(&welcome, &raw, (size_t) n, &why),
                     LLM_OK);
    assert_int_not_equal(welcome.text[0], '\0');
    assert_int_equal(poll(&p, 1, 5000), 1);
    assert_int_equal(recv(p.fd, &raw, sizeof raw, 0), 0);
    (void) close(p.fd);
    return welcome.status;
}

static void
test_bad_hellos_are_refused_with_a_reason(void **state)
{
    struct world           w;
    struct server_options  o;
    struct llm_hello       h;

    (void) state;
    server_options_init(&o);
    open_world(&w, &o);
    assert_int_equal(refusal(&w, "GET / HTTP/1.1\r\n\r\n", 18),
                     LLM_WELCOME_BAD_HELLO);
    llm_wire_init_hello(&h);
    h.version++;
    assert_int_equal(refusal(&w, &h, sizeof h), LLM_WELCOME_VERSION);
    llm_wire_init_hello(&h);
    h.sq_entries = 17;
    assert_int_equal(refusal(&w, &h, sizeof h), LLM_WELCOME_BAD_HELLO);
    llm_wire_init_hello(&h);
    assert_int_equal(refusal(&w, &h, sizeof h - 1), LLM_WELCOME_BAD_HELLO);
    close_world(&w);
}

static void
test_strange_users_and_too_many_sessions_are_refused(void **state)
{
    struct world           w;
    struct server_options  o;
    struct wire_client     c;
    struct llm_hello       h;
    struct err             err = { 0 };

    (void) state;
    llm_wire_init_hello(&h);
    server_options_init(&o);
    o.transport.session.num_uids = 1;
    o.transport.session.uids[0] = geteuid() + 1;
    open_world(&w, &o);
    assert_int_equal(refusal(&w, NULL, 0), LLM_WELCOME_UID);
    close_world(&w);

    server_options_init(&o);
    o.transport.max_sessions = 1;
    open_world(&w, &o);
    assert_int_equal(wire_client_open(&c, w.path, NULL, &err), OK);
    assert_int_equal(refusal(&w, NULL, 0), LLM_WELCOME_SESSIONS);
    wire_client_close(&c);
    for (int i = 0; wire_client_open(&c, w.path, NULL, &err) != OK; i++) {
        assert_true(i < 1000);         /* the place is free again */
    }
    wire_client_close(&c);
    close_world(&w);
}

static void
test_a_silent_connection_is_closed(void **state)
{
    struct world           w;
    struct server_options  o;
    struct pollfd          p = { .events = POLLIN };
    int64_t                start_ns = clock_now_ns();
    char                   byte;

    (void) state;
    server_options_init(&o);
    open_world(&w, &o);
    p.fd = raw_connect(&w);
    assert_int_equal(poll(&p, 1, 5000), 1);
    assert_int_equal(recv(p.fd, &byte, 1, 0), 0);
    assert_true(clock_now_ns() - start_ns >= TRANSPORT_GREETING_NS_MAX);
    (void) close(p.fd);
    close_world(&w);
}

static void
test_wishes_make_a_session_smaller_never_larger(void **state)
{
    struct world           w;
    struct server_options  o;
    struct wire_client     c;
    struct llm_hello       h;

    (void) state;
    server_options_init(&o);
    open_world(&w, &o);
    llm_wire_init_hello(&h);
    h.sq_entries = 32;
    h.arena_bytes = 128 << 10;
    h.cq_bytes = 128 << 10;
    h.max_requests = 5;
    assert_int_equal(wire_client_open(&c, w.path, &h, NULL), OK);
    assert_int_equal(c.welcome.geometry.sq_entries, 32);
    assert_int_equal(c.welcome.geometry.arena_bytes, 128 << 10);
    assert_int_equal(c.welcome.geometry.cq_bytes, 128 << 10);
    assert_int_equal(c.welcome.max_requests, 5);
    wire_client_close(&c);
    h.sq_entries = LLM_SQ_ENTRIES_MAX;
    h.arena_bytes = LLM_ARENA_BYTES_MAX;
    h.cq_bytes = LLM_CQ_BYTES_MAX;
    h.max_requests = LLM_REQUESTS_MAX;
    assert_int_equal(wire_client_open(&c, w.path, &h, NULL), OK);
    assert_int_equal(c.welcome.geometry.sq_entries, o.transport.session.sq_entries);
    assert_int_equal(c.welcome.geometry.arena_bytes,
                     o.transport.session.arena_bytes);
    assert_int_equal(c.welcome.max_requests, o.transport.session.max_requests);
    wire_client_close(&c);
    close_world(&w);
}

static void
test_regions_cannot_be_resized_and_e_cannot_be_written(void **state)
{
    struct world           w;
    struct server_options  o;
    struct wire_client     c;
    size_t                 e_bytes;

    (void) state;
    server_options_init(&o);
    open_world(&w, &o);
    assert_int_equal(wire_client_open(&c, w.path, NULL, NULL), OK);
    for (int i = LLM_FD_W; i <= LLM_FD_E; i++) {
        assert_int_equal(ftruncate(c.fds[i], 0), -1);
        assert_int_equal(errno, EPERM);
        assert_int_equal(ftruncate(c.fds[i], 1 << 30), -1);
        assert_int_equal(errno, EPERM);
        assert_int_equal(fcntl(c.fds[i], F_ADD_SEALS, F_SEAL_WRITE), -1);
    }
    e_bytes = c.welcome.geometry.e_bytes;
    assert_ptr_equal(mmap(NULL, e_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                          c.fds[LLM_FD_E], 0), MAP_FAILED);
    assert_int_equal(pwrite(c.fds[LLM_FD_E], "x", 1, 0), -1);
    assert_int_not_equal(mprotect(c.e, e_bytes, PROT_READ | PROT_WRITE), 0);
    wire_client_close(&c);
    close_world(&w);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_bad_hellos_are_refused_with_a_reason),
        cmocka_unit_test(test_strange_users_and_too_many_sessions_are_refused),
        cmocka_unit_test(test_a_silent_connection_is_closed),
        cmocka_unit_test(test_wishes_make_a_session_smaller_never_larger),
        cmocka_unit_test(test_regions_cannot_be_resized_and_e_cannot_be_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
