/* bench_client.c - the loop: start what is due, read what arrives. */
#include "tools/bench_client.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/utf8.h"
#include "tools/bench_sse.h"
#include "tools/load_parse.h"

#define READ_BYTES         131072
#define EVENTS_MAX         256
#define STARTS_A_TURN      64
#define REQUEST_BYTES_MAX  (256u << 20)
#define TEXT_BYTES_MAX     (16u << 20)
#define ERROR_BODY_BYTES   65536
#define SPARE_FILES        64
#define DEADLINE_CHECK_NS  (100 * NS_PER_MS)

enum conn_state { CONN_CLOSED, CONN_IDLE, CONN_CONNECTING, CONN_BUSY };

struct conn {
    struct client    *client;
    enum conn_state   state;
    struct conn      *next_free;     /* CLOSED, IDLE */
    int               fd, request;
    bool              reused;        /* has brought an answer before */
    bool              has_bytes;     /* of this answer */
    bool              wants_write;
    int64_t           start_ns, now_ns;
    int64_t           last_ns;       /* of the last token; 0: none yet */
    int64_t           end_ns;        /* of that, or of a finish_reason */
    int32_t           num_chunks;
    bool              finished, done, broken;
    char              said[BENCH_ERROR_BYTES];    /* an error event's text */
    struct buf        out, error_body, text;
    size_t            out_sent;
    struct load_parse parse;
    struct bench_sse  sse;
};

struct client {
    const struct bench_client_options *o;
    struct bench_result       *results;
    struct bench_client_stats *stats;
    struct conn              **conns;          /* [max_conns] */
    struct conn               *free_list;      /* idle ones first */
    int                        max_conns, num_conns;
    int                        epoll_fd, timer_fd;
    int                        signal_fd;       /* -1: not stoppable */
    sigset_t                   signals, old_signals;
    int64_t                    start_ns;
    int                        num_started, num_ended, num_active;
    char                       bytes[READ_BYTES];
};

/* ---- ends --------------------------------------------------------------- */
static void
count_kind(struct bench_client_stats *s, const char *kind)
{
    int  i = 0;

    while (i < s->num_kinds && strcmp(s->kinds[i].name, kind) != 0) {
        i++;
    }
    if (i == BENCH_KINDS_MAX) {
        i--;                     /* the last kind stands for all others */
        (void) snprintf(s->kinds[i].name, BENCH_KIND_BYTES, "other");
    } else if (i == s->num_kinds) {
        s->num_kinds++;
        (void) snprintf(s->kinds[i].name, BENCH_KIND_BYTES, "%s", kind);
    }
    s->kinds[i].num++;
}

static void
conn_free(struct conn *c, bool close_it)
{
    struct client  *cl = c->client;

    if (close_it && c->fd != -1) {
        (void) close(c->fd);
        c->fd = -1;
    }
    c->state = c->fd == -1 ? CONN_CLOSED : CONN_IDLE;
    c->reused = c->state == CONN_IDLE;
    c->request = -1;
    c->next_free = cl->free_list;
    cl->free_list = c;
}

static void
request_end(struct conn *c)
{
    c->client->num_ended++;
    c->client->num_active--;
}

/* Servers say anything, and texts are cut: only UTF-8 without control characters
 * goes to the terminal and into the result. */
static void
mend_text(char *text)
{
    utf8_mend(text, strlen(text));
    for (char *p = text; *p != '\0'; p++) {
        if ((unsigned char) *p < ' ' || *p == 0x7f) {
            *p = ' ';
        }
    }
}

/* kind: few different texts; detail: what this one said, or NULL. */
static void
request_fail(struct conn *c, const char *kind, const char *detail)
{
    struct bench_result  *r = &c->client->results[c->request];
    char                  text[BENCH_KIND_BYTES + BENCH_ERROR_BYTES + 4];

    (void) snprintf(text, sizeof text, "%s%s%s", kind,
                    detail == NULL ? "" : ": ", detail == NULL ? "" : detail);
    mend_text(text);
    count_kind(c->client->stats, kind);
    r->success = false;
    r->latency_ns = c->now_ns - c->start_ns;
    r->error = strdup(text);
    request_end(c);
    conn_free(c, true);
}

static void
fail_with_status(struct conn *c)
{
    char          kind[BENCH_KIND_BYTES], detail[BENCH_ERROR_BYTES];
    struct arena  arena;

    arena_init(&arena, 16 * ERROR_BODY_BYTES);
    struct str  said = bench_error_message(buf_str(&c->error_body), &arena);
    if (said.data == NULL) {
        said = buf_str(&c->error_body);
    }
    (void) snprintf(kind, sizeof kind, "HTTP %d", c->parse.status);
    (void) snprintf(detail, sizeof detail, "%.*s",
                    said.len > sizeof detail ? (int) sizeof detail
                                             : (int) said.len, said.data);
    arena_destroy(&arena);
    request_fail(c, kind, detail);
}

/* The answer is complete; was it a good one? */
static void
request_complete(struct conn *c)
{
    struct bench_result  *r = &c->client->results[c->request];

    bench_sse_end(&c->sse);
    if (c->parse.status != 200) {
        fail_with_status(c);
    } else if (!c->parse.sse) {
        request_fail(c, "answer is no event stream", NULL);
    } else if (c->said[0] != '\0') {
        request_fail(c, "error event", c->said);
    } else if (c->broken) {
        request_fail(c, "event is not understood", NULL);
    } else if (!c->finished && !c->done) {
        request_fail(c, "stream cut", "neither finish_reason nor [DONE]");
    } else if (c->last_ns == 0) {
        request_fail(c, "no token", NULL);
    } else {
        r->success = true;
        r->latency_ns = c->end_ns - c->start_ns;
        if (r->output_tokens < 0) {
            r->output_tokens = c->num_chunks;
        }
        if (c->client->o->keep_text && !c->text.failed) {
            r->text = strndup(c->text.data == NULL ? "" : c->text.data,
                              c->text.len);
        }
        request_end(c);
        conn_free(c, !c->parse.keep_alive || c->out_sent < c->out.len);
    }
}

/* ---- what arrives ------------------------------------------------------- */
static void
add_gap(struct bench_result *r, int64_t ns)
{
    if (r->num_gaps == r->cap_gaps) {
        int32_t  cap = r->cap_gaps == 0 ? 64 : 2 * r->cap_gaps;
        float   *grown = realloc(r->gap_ms, (size_t) cap * sizeof *grown);
        if (grown == NULL) {
            return;
        }
        r->gap_ms = grown;
        r->cap_gaps = cap;
    }
    r->gap_ms[r->num_gaps++] = (float) ((double) ns * 1e-6);
}

static void
on_chunk(void *user, const struct bench_chunk *chunk)
{
    struct conn          *c = user;
    struct bench_result  *r = &c->client->results[c->request];

    c->client->stats->num_events++;
    c->done = c->done || chunk->done;
    c->finished = c->finished || chunk->finished;
    c->broken = c->broken || chunk->broken;
    if (chunk->error.data != NULL) {
        (void) snprintf(c->said, sizeof c->said, "%.*s", STR_ARG(chunk->error));
    }
    if (chunk->prompt_tokens >= 0) {
        r->prompt_tokens = (int32_t) chunk->prompt_tokens;
    }
    if (chunk->completion_tokens >= 0) {
        r->output_tokens = (int32_t) chunk->completion_tokens;
    }
    if (c->client->o->keep_text) {
        buf_append_str(&c->text, chunk->text);
    }
    if (chunk->is_token || chunk->finished) {
        c->end_ns = c->now_ns;
    }
    /* An answer may end before any text: its end is then its first token. */
    if (!chunk->is_token && !(chunk->finished && c->last_ns == 0)) {
        return;
    }
    if (c->last_ns == 0) {
        r->ttft_ns = c->now_ns - c->start_ns;
    } else {
        add_gap(r, c->now_ns - c->last_ns);
    }
    c->last_ns = c->now_ns;
    c->num_chunks++;
}

static void
on_body(void *user, const char *bytes, size_t len)
{
    struct conn  *c = user;

    if (c->parse.status == 200 && c->parse.sse) {
        bench_sse_feed(&c->sse, bytes, len);
        return;
    }
    size_t  room = ERROR_BODY_BYTES - c->error_body.len;
    buf_append(&c->error_body, bytes, len < room ? len : room);
}

static void conn_start(struct conn *c, int request, bool again);

static void
fail_to_connect(struct conn *c, int error)
{
    char  kind[BENCH_KIND_BYTES];

    (void) snprintf(kind, sizeof kind, "connect: %s", strerror(error));
    request_fail(c, kind, NULL);
}

/* The other side has closed, or the socket failed. */
static void
conn_ended(struct conn *c, int error)
{
    if (load_parse_end(&c->parse) == OK) {
        request_complete(c);
    } else if (c->reused && !c->has_bytes) {
        (void) close(c->fd);     /* closed while it was idle: ask again */
        c->fd = -1;
        c->reused = false;
        conn_start(c, c->request, true);
    } else if (!c->has_bytes) {
        request_fail(c, "closed without an answer",
                     error != 0 ? strerror(error) : NULL);
    } else {
        request_fail(c, "stream cut", error != 0 ? strerror(error) : NULL);
    }
}

static void
conn_read(struct conn *c)
{
    struct client  *cl = c->client;
    ssize_t         n = recv(c->fd, cl->bytes, sizeof cl->bytes, 0);

    if (n == -1 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    c->now_ns = clock_now_ns();
    if (n <= 0) {
        conn_ended(c, n == 0 ? 0 : errno);
        return;
    }
    c->has_bytes = true;
    cl->stats->num_bytes += (uint64_t) n;
    switch (load_parse_feed(&c->parse, cl->bytes, (size_t) n)) {
    case OK:
        request_complete(c);
        break;
    case ERROR:
        request_fail(c, "not an HTTP answer", NULL);
        break;
    default:
        break;
    }
}

/* ---- what goes out ------------------------------------------------------ */
static void
conn_watch(struct conn *c, bool write)
{
    struct epoll_event  e = { .events = write ? EPOLLIN | EPOLLOUT : EPOLLIN,
                              .data.ptr = c };

    if (c->wants_write != write) {
        c->wants_write = write;
        (void) epoll_ctl(c->client->epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
    }
}

static void
conn_send(struct conn *c)
{
    while (c->out_sent < c->out.len) {
        ssize_t  n = send(c->fd, c->out.data + c->out_sent,
                          c->out.len - c->out_sent, MSG_NOSIGNAL);
        if (n == -1 && errno == EAGAIN) {
            conn_watch(c, true);
            return;
        }
        if (n == -1) {
            /* What the server said before it closed can still be read. */
            conn_watch(c, false);
            return;
        }
        c->out_sent += (size_t) n;
    }
    conn_watch(c, false);
}

static int
conn_connect(struct conn *c)
{
    const struct bench_client_options  *o = c->client->o;
    struct epoll_event  e = { .events = EPOLLIN | EPOLLOUT, .data.ptr = c };
    int                 one = 1;

    c->fd = socket(o->addr.ss_family,
                   SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd == -1) {
        return ERROR;
    }
    (void) setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if ((connect(c->fd, (const struct sockaddr *) &o->addr, o->addr_len) == -1
         && errno != EINPROGRESS)
        || epoll_ctl(c->client->epoll_fd, EPOLL_CTL_ADD, c->fd, &e) == -1)
    {
        return ERROR;
    }
    c->wants_write = true;
    c->state = CONN_CONNECTING;
    return OK;
}

/* again: the same request on a fresh connection, its time goes on. */
static void
conn_start(struct conn *c, int request, bool again)
{
    struct client        *cl = c->client;
    struct bench_result  *r = &cl->results[request];

    c->request = request;
    c->has_bytes = c->finished = c->done = c->broken = false;
    c->said[0] = '\0';
    c->last_ns = c->end_ns = 0;
    c->num_chunks = 0;
    c->out_sent = 0;
    load_parse_reset(&c->parse, false);
    bench_sse_reset(&c->sse);
    buf_reset(&c->error_body);
    buf_reset(&c->text);
    if (!again) {
        buf_reset(&c->out);
        cl->o->write_request(cl->o->user, request, &c->out);
        c->start_ns = clock_now_ns();
        r->start_ns = c->start_ns - cl->start_ns;
        r->prompt_tokens = cl->o->prompt_tokens(cl->o->user, request);
        r->output_tokens = -1;
    }
    c->now_ns = c->start_ns;
    if (c->out.failed) {
        request_fail(c, "request is too large", NULL);
    } else if (c->fd == -1) {
        if (conn_connect(c) != OK) {
            fail_to_connect(c, errno);
        }
    } else {
        c->state = CONN_BUSY;
        conn_send(c);
    }
}

static void
conn_connected(struct conn *c)
{
    int        error = 0;
    socklen_t  len = sizeof error;

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) == -1) {
        error = errno;
    }
    c->now_ns = clock_now_ns();
    if (error != 0) {
        fail_to_connect(c, error);
        return;
    }
    c->state = CONN_BUSY;
    conn_send(c);
}

static void
conn_event(struct conn *c, uint32_t events)
{
    switch (c->state) {
    case CONN_CONNECTING:
        conn_connected(c);
        break;
    case CONN_BUSY:
        if (events & EPOLLOUT) {
            conn_send(c);
        }
        if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
            conn_read(c);
        }
        break;
    case CONN_IDLE:              /* closed by the server, or nonsense */
        (void) close(c->fd);
        c->fd = -1;
        c->reused = false;
        c->state = CONN_CLOSED;  /* it stays in the free list */
        break;
    case CONN_CLOSED:
        break;
    }
}

/* ---- the loop ----------------------------------------------------------- */
static struct conn *
conn_take(struct client *cl)
{
    struct conn  *c = cl->free_list;

    if (c != NULL) {
        cl->free_list = c->next_free;
        return c;
    }
    if (cl->num_conns == cl->max_conns || (c = calloc(1, sizeof *c)) == NULL) {
        return NULL;
    }
    c->client = cl;
    c->fd = -1;
    buf_init(&c->out, REQUEST_BYTES_MAX);
    buf_init(&c->error_body, ERROR_BODY_BYTES);
    buf_init(&c->text, TEXT_BYTES_MAX);
    bench_sse_init(&c->sse, on_chunk, c);
    c->parse.body_fn = on_body;
    c->parse.body_data = c;
    cl->conns[cl->num_conns++] = c;
    return c;
}

/* When the next request is due; -1: none is waiting for its time. */
static int64_t
start_due(struct client *cl)
{
    const struct bench_client_options  *o = cl->o;

    for (int i = 0; cl->num_started < o->num
         && cl->num_active < cl->max_conns; i++)
    {
        int64_t  due_ns = cl->start_ns + o->at_ns[cl->num_started];
        if (due_ns > clock_now_ns() || i == STARTS_A_TURN) {
            return due_ns;
        }
        struct conn  *c = conn_take(cl);
        if (c == NULL) {
            return -1;
        }
        cl->num_active++;
        conn_start(c, cl->num_started++, false);
    }
    return -1;
}

static void
set_timer(struct client *cl, int64_t due_ns)
{
    struct itimerspec  t = { 0 };

    if (due_ns >= 0) {
        t.it_value.tv_sec = due_ns / NS_PER_S;
        t.it_value.tv_nsec = due_ns % NS_PER_S;
    }
    (void) timerfd_settime(cl->timer_fd, TFD_TIMER_ABSTIME, &t, NULL);
}

/* Fails what began before since_ns. */
static void
fail_running(struct client *cl, int64_t now_ns, int64_t since_ns,
             const char *kind)
{
    for (int i = 0; i < cl->num_conns; i++) {
        struct conn  *c = cl->conns[i];
        if (c->request >= 0 && (c->state == CONN_BUSY
                                || c->state == CONN_CONNECTING)
            && c->start_ns < since_ns)
        {
            c->now_ns = now_ns;
            request_fail(c, kind, NULL);
        }
    }
}

/* The timer's and the signals' descriptors have no connection. */
static void
other_event(struct client *cl)
{
    struct signalfd_siginfo  signal;
    uint64_t                 expired;

    (void) !read(cl->timer_fd, &expired, sizeof expired);
    if (cl->signal_fd != -1
        && read(cl->signal_fd, &signal, sizeof signal) > 0)
    {
        cl->stats->interrupted = true;
    }
}

static void
loop(struct client *cl)
{
    struct epoll_event  events[EVENTS_MAX];
    int64_t             check_ns = cl->start_ns + DEADLINE_CHECK_NS;

    while (cl->num_ended < cl->o->num && !cl->stats->interrupted) {
        int64_t  woke_ns = clock_now_ns();
        set_timer(cl, start_due(cl));
        int64_t  now_ns = clock_now_ns();
        int64_t  turn_ns = now_ns - woke_ns;
        if (cl->num_ended == cl->o->num) {
            break;
        }
        int  num = epoll_wait(cl->epoll_fd, events, EVENTS_MAX,
                              (int) (DEADLINE_CHECK_NS / NS_PER_MS));
        woke_ns = clock_now_ns();
        for (int i = 0; i < num; i++) {
            if (events[i].data.ptr == NULL) {
                other_event(cl);
            } else {
                conn_event(events[i].data.ptr, events[i].events);
            }
        }
        now_ns = clock_now_ns();
        turn_ns += now_ns - woke_ns;
        if (turn_ns > cl->stats->longest_turn_ns) {
            cl->stats->longest_turn_ns = turn_ns;
        }
        if (now_ns >= check_ns) {
            check_ns = now_ns + DEADLINE_CHECK_NS;
            fail_running(cl, now_ns, now_ns - cl->o->timeout_ns, "timeout");
        }
        if (cl->o->progress != NULL) {
            bench_progress_at(cl->o->progress, cl->num_ended, now_ns);
        }
    }
    fail_running(cl, clock_now_ns(), INT64_MAX, "interrupted");
    cl->stats->num_started = cl->num_started;
}

/* ---- set-up ------------------------------------------------------------- */
static int
raise_files(int num, struct err *err)
{
    struct rlimit  r;
    rlim_t         wanted = (rlim_t) num + SPARE_FILES;

    if (getrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur >= wanted) {
        return OK;
    }
    if (r.rlim_max < wanted) {
        return err_set(err, "%d connections need %llu open files, the limit is "
                       "%llu; give --max-concurrency or raise ulimit -n", num,
                       (unsigned long long) wanted,
                       (unsigned long long) r.rlim_max);
    }
    r.rlim_cur = wanted;
    (void) setrlimit(RLIMIT_NOFILE, &r);
    return OK;
}

static int
take_signals(struct client *cl, struct err *err)
{
    struct epoll_event  e = { .events = EPOLLIN };

    (void) sigemptyset(&cl->signals);
    (void) sigaddset(&cl->signals, SIGINT);
    (void) sigaddset(&cl->signals, SIGTERM);
    cl->signal_fd = signalfd(-1, &cl->signals, SFD_NONBLOCK | SFD_CLOEXEC);
    if (cl->signal_fd == -1
        || epoll_ctl(cl->epoll_fd, EPOLL_CTL_ADD, cl->signal_fd, &e) == -1)
    {
        return err_set(err, "signalfd: %s", strerror(errno));
    }
    (void) sigprocmask(SIG_BLOCK, &cl->signals, &cl->old_signals);
    return OK;
}

static int
client_open(struct client *cl, struct err *err)
{
    const struct bench_client_options  *o = cl->o;
    struct epoll_event                  e = { .events = EPOLLIN };

    cl->epoll_fd = cl->timer_fd = cl->signal_fd = -1;
    cl->max_conns = o->max_concurrency > 0 && o->max_concurrency < o->num
                    ? o->max_concurrency : o->num;
    cl->conns = calloc((size_t) cl->max_conns, sizeof *cl->conns);
    if (cl->conns == NULL) {
        return err_set(err, "out of memory for %d connections", cl->max_conns);
    }
    if (raise_files(cl->max_conns, err) != OK) {
        return ERROR;
    }
    cl->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    cl->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (cl->epoll_fd == -1 || cl->timer_fd == -1
        || epoll_ctl(cl->epoll_fd, EPOLL_CTL_ADD, cl->timer_fd, &e) == -1)
    {
        return err_set(err, "epoll: %s", strerror(errno));
    }
    return o->stoppable ? take_signals(cl, err) : OK;
}

static void
client_close(struct client *cl)
{
    for (int i = 0; i < cl->num_conns; i++) {
        struct conn  *c = cl->conns[i];
        if (c->fd != -1) {
            (void) close(c->fd);
        }
        buf_destroy(&c->out);
        buf_destroy(&c->error_body);
        buf_destroy(&c->text);
        bench_sse_destroy(&c->sse);
        free(c);
    }
    free(cl->conns);
    if (cl->epoll_fd != -1) {
        (void) close(cl->epoll_fd);
    }
    if (cl->timer_fd != -1) {
        (void) close(cl->timer_fd);
    }
    if (cl->signal_fd != -1) {
        (void) close(cl->signal_fd);
        (void) sigprocmask(SIG_SETMASK, &cl->old_signals, NULL);
    }
    free(cl);
}

static int64_t
thread_cpu_ns(void)
{
    struct timespec  t;

    (void) clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * NS_PER_S + t.tv_nsec;
}

int
bench_client_run(const struct bench_client_options *o,
                 struct bench_result *results,
                 struct bench_client_stats *stats, struct err *err)
{
    struct client  *cl = calloc(1, sizeof *cl);

    *stats = (struct bench_client_stats) { 0 };
    if (cl == NULL) {
        return err_set(err, "out of memory");
    }
    cl->o = o;
    cl->results = results;
    cl->stats = stats;
    if (client_open(cl, err) != OK) {
        client_close(cl);
        return ERROR;
    }
    int64_t  cpu_ns = thread_cpu_ns();
    cl->start_ns = clock_now_ns();
    loop(cl);
    stats->duration_ns = clock_now_ns() - cl->start_ns;
    stats->cpu_ns = thread_cpu_ns() - cpu_ns;
    client_close(cl);
    return OK;
}
