/* llm_bench_wire.c - nginx-llm-bench_wire: a request's time without nginx.
 *
 *   nginx-llm-bench_wire SOCKET BODY [REQUESTS [PAUSE_US]]
 *
 * Sends BODY as a chat completion REQUESTS times, one after the other, to the
 * mock engine at SOCKET over wire/, and does what the mock engine does with it
 * (read the plan, write the document) by a direct call as often.  PAUSE_US
 * between two requests lets both sides fall asleep.  Beside them: a token sent
 * to a process on another core and back over two eventfds, the wake-ups alone.
 * Prints one flat JSON object: wire_, direct_ and wake_ p50_us and p99_us. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "tests/lib/wire_client.h"
#include "tools/load_hist.h"
#include "tools/mock_reply.h"

#define REQUESTS_DEFAULT  1000
#define PAUSE_US_DEFAULT  1000
#define WAIT_MS           5000
#define ANSWER_BYTES_MAX  (1u << 20)

static int
bench_direct(struct load_hist *h, struct str body, int num, useconds_t pause_us)
{
    struct request  request = { 0 };
    struct buf      out;
    struct err      err = { 0 };

    buf_init(&out, ANSWER_BYTES_MAX);
    for (int i = 0; i < num; i++) {
        struct mock_plan   plan;
        (void) usleep(pause_us);
        int64_t  start_ns = clock_now_ns();
        mock_plan_init(&plan);
        if (mock_plan_read(&plan, body, &err) != OK) {
            fprintf(stderr, "nginx-llm-bench_wire: %s\n", err.message);
            return ERROR;
        }
        struct mock_reply  reply = { .plan = &plan, .request = &request,
                                     .chat = true };
        buf_reset(&out);
        mock_reply_whole(&out, &reply);
        load_hist_add(h, clock_now_ns() - start_ns);
    }
    buf_destroy(&out);
    return OK;
}

static int
bench_wire(struct load_hist *h, const char *socket, struct str body, int num,
           useconds_t pause_us)
{
    struct wire_client   c;
    struct wire_answer  *answer;
    struct err           err = { 0 };
    int                  rc = OK;

    if (wire_client_open(&c, socket, NULL, &err) != OK) {
        fprintf(stderr, "nginx-llm-bench_wire: %s: %s\n", socket, err.message);
        return ERROR;
    }
    for (int i = 0; i < num && rc == OK; i++) {
        (void) usleep(pause_us);
        int64_t   start_ns = clock_now_ns();
        uint64_t  id = wire_client_submit(&c, &(struct wire_call) {
            .route = LLM_ROUTE_CHAT_COMPLETIONS, .body = body });
        rc = wire_client_wait(&c, id, WAIT_MS, &answer);
        if (rc == OK) {
            load_hist_add(h, clock_now_ns() - start_ns);
            rc = answer->head.status == 200 ? OK : ERROR;
            wire_client_free(&c, answer);
        }
    }
    if (rc != OK) {
        fprintf(stderr, "nginx-llm-bench_wire: no answer with status 200\n");
    }
    wire_client_close(&c);
    return rc;
}

/* The last core is the mock engine's in bench.sh. */
static _Noreturn void
echo_wakes(int in, int out, int num)
{
    cpu_set_t  set;
    uint64_t   one;

    CPU_ZERO(&set);
    CPU_SET((size_t) sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 1 : 0, &set);
    (void) sched_setaffinity(0, sizeof set, &set);
    for (int i = 0; i < num; i++) {
        if (read(in, &one, sizeof one) != sizeof one
            || write(out, &one, sizeof one) != sizeof one)
        {
            _exit(1);
        }
    }
    _exit(0);
}

static int
bench_wakes(struct load_hist *h, int num, useconds_t pause_us)
{
    int       to = eventfd(0, EFD_CLOEXEC), from = eventfd(0, EFD_CLOEXEC);
    pid_t     pid = to == -1 || from == -1 ? -1 : fork();
    uint64_t  one = 1;
    int       status = 0, rc = OK;

    if (pid == -1) {
        return ERROR;
    }
    if (pid == 0) {
        echo_wakes(to, from, num);
    }
    for (int i = 0; i < num && rc == OK; i++) {
        (void) usleep(pause_us);
        int64_t  start_ns = clock_now_ns();
        if (write(to, &one, sizeof one) != sizeof one
            || read(from, &one, sizeof one) != sizeof one)
        {
            rc = ERROR;
        }
        load_hist_add(h, clock_now_ns() - start_ns);
    }
    (void) waitpid(pid, &status, 0);
    (void) close(to);
    (void) close(from);
    return rc;
}

static void
print_quantiles(const char *name, const struct load_hist *h, const char *end)
{
    printf("\"%s_p50_us\":%.2f,\"%s_p99_us\":%.2f%s", name,
           (double) load_hist_quantile(h, 0.5) * 1e-3, name,
           (double) load_hist_quantile(h, 0.99) * 1e-3, end);
}

int
main(int argc, char **argv)
{
    struct load_hist  *h = calloc(3, sizeof *h);
    int                num = argc > 3 ? atoi(argv[3]) : REQUESTS_DEFAULT;
    useconds_t         pause_us = argc > 4 ? (useconds_t) atoi(argv[4])
                                           : PAUSE_US_DEFAULT;

    if (argc < 3 || num < 1 || h == NULL) {
        fprintf(stderr, "usage: %s SOCKET BODY [REQUESTS [PAUSE_US]]\n", argv[0]);
        free(h);
        return 2;
    }
    int  rc = bench_wire(&h[0], argv[1], str_from(argv[2]), num, pause_us);
    if (rc == OK) {
        rc = bench_direct(&h[1], str_from(argv[2]), num, pause_us);
    }
    if (rc == OK) {
        rc = bench_wakes(&h[2], num, pause_us);
    }
    if (rc == OK) {
        printf("{");
        print_quantiles("wire", &h[0], ",");
        print_quantiles("direct", &h[1], ",");
        print_quantiles("wake", &h[2], "}\n");
    }
    free(h);
    return rc == OK ? 0 : 1;
}
