/* llm_bare.c - nginx-llm-bare: the least a server can do, to compare with.
 *
 *   nginx-llm-bare --port 18183 [--answer-bytes 300]
 *   nginx-llm-bare --port 18183 --stream --event-bytes 200 --delay-ms 10
 *
 * One thread, one epoll loop, HTTP/1.1 with keep-alive, no parsing beyond the
 * end of the head and Content-Length.  Without --stream it answers each request
 * with a document of --answer-bytes.  With --stream it sends a head and then,
 * for ever, one chunk with one SSE event of --event-bytes each --delay-ms (0: as
 * fast as the socket takes them), one write() an event, like a server that
 * flushes every token.  Ends with SIGTERM.  What it costs is the price of the
 * sockets alone. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/base/clock.h"
#include "engine/base/options.h"

#define CONNECTIONS_MAX  4096
#define REQUEST_BYTES    65536
#define ANSWER_BYTES_MAX 65536
#define EVENTS_MAX       256

struct bare_cli {
    int64_t  port, answer_bytes, event_bytes, delay_ms;
    bool     stream, help;
};

struct client {
    int      fd;               /* -1: free */
    bool     streaming, full;  /* full: the socket took no more */
    int64_t  due_ns;
    size_t   used, event_sent; /* bytes of the request; of a cut event */
    char     request[REQUEST_BYTES];
};

struct bare {
    struct bare_cli  cli;
    int              listen_fd, epoll_fd;
    int32_t          num_clients;                /* slots used so far */
    struct client   *clients[CONNECTIONS_MAX];
    struct buf       answer, head, event;
};

static const struct option  options[] = {
    { "port", OPTION_INT, offsetof(struct bare_cli, port), "18183", "N",
      "on 127.0.0.1", 1, 65535, NULL },
    { "answer-bytes", OPTION_INT, offsetof(struct bare_cli, answer_bytes),
      "300", "N", "body of an answer", 1, ANSWER_BYTES_MAX, NULL },
    { "stream", OPTION_BOOL, offsetof(struct bare_cli, stream), "false", NULL,
      "answer with events", 0, 0, NULL },
    { "event-bytes", OPTION_INT, offsetof(struct bare_cli, event_bytes), "200",
      "N", "length of one event", 16, ANSWER_BYTES_MAX, NULL },
    { "delay-ms", OPTION_INT, offsetof(struct bare_cli, delay_ms), "0", "N",
      "between two events of one stream", 0, 60000, NULL },
    { "help", OPTION_BOOL, offsetof(struct bare_cli, help), "false", NULL,
      "this list", 0, 0, NULL },
    { NULL, OPTION_BOOL, 0, NULL, NULL, NULL, 0, 0, NULL }
};

static void
close_client(struct client *c)
{
    (void) close(c->fd);
    c->fd = -1;
}

static void
accept_clients(struct bare *b)
{
    int  fd, one = 1;

    while ((fd = accept4(b->listen_fd, NULL, NULL,
                         SOCK_NONBLOCK | SOCK_CLOEXEC)) != -1)
    {
        int32_t  i = 0;
        while (i < b->num_clients && b->clients[i]->fd != -1) {
            i++;
        }
        if (i == CONNECTIONS_MAX
            || (i == b->num_clients
                && (b->clients[i] = malloc(sizeof **b->clients)) == NULL))
        {
            (void) close(fd);
            return;
        }
        b->num_clients += i == b->num_clients;
        struct client       *c = b->clients[i];
        struct epoll_event   e = { .events = EPOLLIN | EPOLLOUT | EPOLLET,
                                   .data.ptr = c };
        c->fd = fd;
        c->streaming = c->full = false;
        c->used = c->event_sent = 0;
        (void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (epoll_ctl(b->epoll_fd, EPOLL_CTL_ADD, fd, &e) == -1) {
            close_client(c);
        }
    }
}

/* Is all of a request there? */
static bool
request_complete(const struct client *c)
{
    const char  *end = memmem(c->request, c->used, "\r\n\r\n", 4);
    const char  *length = memmem(c->request, c->used, "Content-Length:", 15);
    size_t       body = 0;

    if (end == NULL) {
        return false;
    }
    if (length != NULL && length < end) {
        body = strtoull(length + 15, NULL, 10);
    }
    return c->used >= (size_t) (end + 4 - c->request) + body;
}

static void
read_client(struct bare *b, struct client *c)
{
    for ( ;; ) {
        ssize_t  n = recv(c->fd, c->request + c->used,
                          REQUEST_BYTES - 1 - c->used, 0);
        if (n == -1 && errno == EAGAIN) {
            return;
        }
        if (n <= 0) {
            close_client(c);
            return;
        }
        c->used += (size_t) n;
        c->request[c->used] = '\0';
        if (!request_complete(c)) {
            continue;
        }
        const struct buf  *out = b->cli.stream ? &b->head : &b->answer;
        c->used = 0;
        c->streaming = b->cli.stream;
        c->due_ns = clock_now_ns();
        if (send(c->fd, out->data, out->len, MSG_NOSIGNAL) != (ssize_t) out->len) {
            close_client(c);
            return;
        }
        if (c->streaming) {
            return;
        }
    }
}

static void
send_event(struct bare *b, struct client *c)
{
    ssize_t  n = send(c->fd, b->event.data + c->event_sent,
                      b->event.len - c->event_sent, MSG_NOSIGNAL);

    if (n == -1) {
        c->full = errno == EAGAIN;
        if (!c->full) {
            close_client(c);
        }
        return;
    }
    c->event_sent += (size_t) n;
    if (c->event_sent == b->event.len) {
        c->event_sent = 0;
        c->due_ns += b->cli.delay_ms * NS_PER_MS;
    } else {
        c->full = true;
    }
}

/* One event for each stream that is due; milliseconds until the next. */
static int
send_due(struct bare *b)
{
    int64_t  now_ns = clock_now_ns(), next_ns = now_ns + NS_PER_S;

    for (int32_t i = 0; i < b->num_clients; i++) {
        struct client  *c = b->clients[i];
        if (c->fd == -1 || !c->streaming || c->full) {
            continue;
        }
        if (c->due_ns <= now_ns) {
            send_event(b, c);
        }
        next_ns = c->due_ns < next_ns ? c->due_ns : next_ns;
    }
    return next_ns <= now_ns ? 0
           : (int) ((next_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS);
}

static void
serve(struct bare *b)
{
    struct epoll_event  events[EVENTS_MAX];

    for ( ;; ) {
        int  timeout_ms = b->cli.stream ? send_due(b) : -1;
        int  num = epoll_wait(b->epoll_fd, events, EVENTS_MAX, timeout_ms);
        for (int i = 0; i < num; i++) {
            struct client  *c = events[i].data.ptr;
            if (c == NULL) {
                accept_clients(b);
                continue;
            }
            if (c->fd == -1) {
                continue;
            }
            c->full = c->full && (events[i].events & EPOLLOUT) == 0;
            if (events[i].events & (EPOLLHUP | EPOLLERR)) {
                close_client(c);
            } else if (events[i].events & EPOLLIN) {
                read_client(b, c);
            }
        }
    }
}

static int
start(struct bare *b, struct err *err)
{
    struct sockaddr_in  a = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t) b->cli.port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct epoll_event  e = { .events = EPOLLIN };
    int                 one = 1;

    buf_init(&b->answer, 2 * ANSWER_BYTES_MAX);
    buf_init(&b->head, ANSWER_BYTES_MAX);
    buf_init(&b->event, 2 * ANSWER_BYTES_MAX);
    buf_appendf(&b->answer, "HTTP/1.1 200 OK\r\nContent-Type: application/json"
                "\r\nContent-Length: %lld\r\nConnection: keep-alive\r\n\r\n",
                (long long) b->cli.answer_bytes);
    for (int64_t i = 0; i < b->cli.answer_bytes; i++) {
        buf_append_c(&b->answer, 'x');
    }
    buf_append_lit(&b->head, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream"
                   "\r\nTransfer-Encoding: chunked\r\n\r\n");
    buf_appendf(&b->event, "%llx\r\ndata: ", (unsigned long long) b->cli.event_bytes);
    for (int64_t i = 8; i < b->cli.event_bytes; i++) {
        buf_append_c(&b->event, 'x');
    }
    buf_append_lit(&b->event, "\n\n\r\n");
    b->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    b->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (b->answer.failed || b->head.failed || b->event.failed
        || b->epoll_fd == -1 || b->listen_fd == -1
        || setsockopt(b->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one)
           == -1
        || bind(b->listen_fd, (struct sockaddr *) &a, sizeof a) == -1
        || listen(b->listen_fd, 511) == -1
        || epoll_ctl(b->epoll_fd, EPOLL_CTL_ADD, b->listen_fd, &e) == -1)
    {
        return err_set(err, "--port %lld: %s", (long long) b->cli.port,
                       strerror(errno));
    }
    return OK;
}

int
main(int argc, char **argv)
{
    struct bare  *b = calloc(1, sizeof *b);
    struct err    err = { 0 };

    if (b == NULL || options_parse(options, &b->cli, argc, argv, &err) != OK) {
        fprintf(stderr, "nginx-llm-bare: %s\n", err.message);
        free(b);
        return 2;
    }
    if (b->cli.help) {
        options_help(options, "nginx-llm-bare [options]", stdout);
        free(b);
        return 0;
    }
    if (start(b, &err) != OK) {
        fprintf(stderr, "nginx-llm-bare: %s\n", err.message);
        free(b);
        return 1;
    }
    serve(b);
}
