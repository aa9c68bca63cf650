/* llm_load.c - nginx-llm-load: HTTP/1.1 load on one thread, streams understood.
 *
 *   nginx-llm-load --port 8000 --path /v1/chat/completions \
 *       --body '{"model":"demo","stream":true,"messages":[...]}' \
 *       --connections 32 --seconds 5
 *
 * Each connection sends the request, reads the answer to its end, and sends
 * again: a closed loop.  Counted are answers, bytes, SSE events, the gaps
 * between two events of one stream, time to the first event and, with
 * --count-tokens, the "completion_tokens" of the answers.  The first
 * --warmup-ms are not counted, for --requests neither.  It stops after --seconds
 * or --requests, whichever comes first; streams that still run are then cut.
 *
 *   --requests-per-connection 1   one answer each, then the connection idles
 *   --no-read                     ask and never read: a client that stands still
 *   --pause-us N                  wait so long before asking again
 *   --watch worker=PID            CPU time over the counted window and memory
 *                                 before the first connect and at the end
 *   --output-json                 one flat JSON object instead of lines
 *
 * Exit codes: 0; 1 nothing could be measured; 2 wrong options. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/base/clock.h"
#include "engine/base/options.h"
#include "tools/load_hist.h"
#include "tools/load_parse.h"
#include "tools/load_proc.h"

#define CONNECTIONS_MAX   20000
#define READ_BYTES        65536
#define EVENTS_MAX        256
#define REQUEST_BYTES_MAX (1u << 20)
#define STILL_RCVBUF      4096      /* of a client that does not read */

struct load_cli {
    const char *host, *path, *body, *method;
    int64_t  port, connections, warmup_ms, requests;
    int64_t  requests_per_connection, pause_us;
    double   seconds;
    bool     no_read, count_tokens, output_json, help;
    struct option_list watch;
};

struct conn {
    int      fd;
    bool     waiting;              /* an answer is due */
    int64_t  asked_ns, last_event_ns, ask_at_ns;
    int64_t  num_asked;
    struct load_parse parse;
};

struct counts {
    uint64_t requests, non_200, errors, reconnects, events, tokens, bytes;
    struct load_hist latency, first, gap;
};

struct load {
    struct load_cli  cli;
    struct sockaddr_in addr;
    struct buf       request;
    struct conn     *conns;        /* [cli.connections] */
    int              epoll_fd;
    bool             counting;
    int64_t          start_ns, count_ns, end_ns;
    uint64_t         num_asked;
    struct counts    n;
    struct load_proc before[OPTION_LIST_MAX], window[OPTION_LIST_MAX];
    struct load_proc after[OPTION_LIST_MAX];
    char             bytes[READ_BYTES];
};

static const struct option  options[] = {
    { "host", OPTION_STRING, offsetof(struct load_cli, host), "127.0.0.1",
      "IPV4", "where the server listens", 0, 0, NULL },
    { "port", OPTION_INT, offsetof(struct load_cli, port), "8000", "N",
      "its port", 1, 65535, NULL },
    { "path", OPTION_STRING, offsetof(struct load_cli, path), "/", "URI",
      "what is asked for", 0, 0, NULL },
    { "method", OPTION_STRING, offsetof(struct load_cli, method), "POST",
      "NAME", "GET sends no body", 0, 0, NULL },
    { "body", OPTION_STRING, offsetof(struct load_cli, body), "", "JSON",
      "the request's body", 0, 0, NULL },
    { "connections", OPTION_INT, offsetof(struct load_cli, connections), "1",
      "N", "clients", 1, CONNECTIONS_MAX, NULL },
    { "seconds", OPTION_NUMBER, offsetof(struct load_cli, seconds), "5", "S",
      "how long to count", 0.01, 3600, NULL },
    { "warmup-ms", OPTION_INT, offsetof(struct load_cli, warmup_ms), "500",
      "N", "how long not to count before", 0, 600000, NULL },
    { "requests", OPTION_INT, offsetof(struct load_cli, requests), "0", "N",
      "stop after so many answers, 0: no bound", 0, 1e12, NULL },
    { "requests-per-connection", OPTION_INT,
      offsetof(struct load_cli, requests_per_connection), "0", "N",
      "then the connection idles, 0: no bound", 0, 1e12, NULL },
    { "pause-us", OPTION_INT, offsetof(struct load_cli, pause_us), "0", "N",
      "between an answer and the next request", 0, 60000000, NULL },
    { "no-read", OPTION_BOOL, offsetof(struct load_cli, no_read), "false",
      NULL, "ask and never read", 0, 0, NULL },
    { "count-tokens", OPTION_BOOL, offsetof(struct load_cli, count_tokens),
      "false", NULL, "add up completion_tokens", 0, 0, NULL },
    { "watch", OPTION_LIST, offsetof(struct load_cli, watch), NULL,
      "NAME=PID", "a process to measure, repeatable", 0, 0, NULL },
    { "output-json", OPTION_BOOL, offsetof(struct load_cli, output_json),
      "false", NULL, "one JSON object", 0, 0, NULL },
    { "help", OPTION_BOOL, offsetof(struct load_cli, help), "false", NULL,
      "this list", 0, 0, NULL },
    { NULL, OPTION_BOOL, 0, NULL, NULL, NULL, 0, 0, NULL }
};

/* ---- connections ------------------------------------------------------------ */
static int
conn_open(struct load *l, struct conn *c)
{
    int                 one = 1, still = STILL_RCVBUF;
    struct epoll_event  e = { .events = EPOLLIN, .data.ptr = c };

    c->waiting = false;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd == -1) {
        return ERROR;
    }
    (void) setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (l->cli.no_read) {
        (void) setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &still, sizeof still);
        e.events = EPOLLRDHUP;
    }
    if (connect(c->fd, (struct sockaddr *) &l->addr, sizeof l->addr) == -1
        || epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, c->fd, &e) == -1)
    {
        (void) close(c->fd);
        c->fd = -1;
        return ERROR;
    }
    return OK;
}

static void
conn_close(struct conn *c)
{
    if (c->fd != -1) {
        (void) close(c->fd);
        c->fd = -1;
    }
}

static void
conn_fail(struct load *l, struct conn *c)
{
    l->n.errors++;
    conn_close(c);
}

/* The request goes out whole: it is small and the socket is empty. */
static void
conn_ask(struct load *l, struct conn *c, int64_t now_ns)
{
    const struct load_cli  *cli = &l->cli;

    if ((cli->requests_per_connection != 0
         && c->num_asked >= cli->requests_per_connection)
        || (cli->requests != 0 && l->counting
            && l->num_asked >= (uint64_t) cli->requests))
    {
        return;
    }
    load_parse_reset(&c->parse, cli->count_tokens);
    c->asked_ns = now_ns;
    c->last_event_ns = 0;
    c->ask_at_ns = 0;
    c->waiting = true;
    c->num_asked++;
    l->num_asked++;
    if (send(c->fd, l->request.data, l->request.len, MSG_NOSIGNAL)
        != (ssize_t) l->request.len)
    {
        conn_fail(l, c);
    }
}

static void
count_events(struct load *l, struct conn *c, uint64_t num, int64_t now_ns)
{
    for (uint64_t i = 0; i < num; i++) {
        if (c->last_event_ns == 0) {
            load_hist_add(&l->n.first, now_ns - c->asked_ns);
        } else {
            load_hist_add(&l->n.gap, now_ns - c->last_event_ns);
        }
        c->last_event_ns = now_ns;
    }
    l->n.events += num;
}

static void
conn_answered(struct load *l, struct conn *c, int64_t now_ns)
{
    c->waiting = false;
    l->n.requests++;
    l->n.non_200 += c->parse.status != 200;
    l->n.tokens += c->parse.num_tokens;
    load_hist_add(&l->n.latency, now_ns - c->asked_ns);
    if (!c->parse.keep_alive) {
        conn_close(c);
        l->n.reconnects++;
        if (conn_open(l, c) != OK) {
            conn_fail(l, c);
            return;
        }
    }
    c->ask_at_ns = now_ns + l->cli.pause_us * NS_PER_US;
    if (l->cli.pause_us == 0) {
        conn_ask(l, c, now_ns);
    }
}

static void
conn_read(struct load *l, struct conn *c)
{
    ssize_t   n = recv(c->fd, l->bytes, sizeof l->bytes, MSG_DONTWAIT);
    uint64_t  before = c->parse.num_events;
    int64_t   now_ns;
    int       rc;

    if (n == -1 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n == 0 && c->waiting && load_parse_end(&c->parse) == OK) {
        conn_answered(l, c, clock_now_ns());
        return;
    }
    if (n <= 0 || !c->waiting) {
        conn_fail(l, c);
        return;
    }
    rc = load_parse_feed(&c->parse, l->bytes, (size_t) n);
    now_ns = clock_now_ns();
    l->n.bytes += (uint64_t) n;
    if (c->parse.num_events != before) {
        count_events(l, c, c->parse.num_events - before, now_ns);
    }
    if (rc == OK) {
        conn_answered(l, c, now_ns);
    } else if (rc == ERROR) {
        conn_fail(l, c);
    }
}

/* ---- the loop ----------------------------------------------------------------- */
/* The first process that cannot be measured; -1: all can. */
static int
watch(const struct load *l, struct load_proc *out)
{
    int  bad = -1;

    for (int i = 0; i < l->cli.watch.num; i++) {
        const char  *at = strchr(l->cli.watch.items[i], '=');
        if (load_proc_read(&out[i], at == NULL ? 0 : atoll(at + 1)) != OK
            && bad < 0)
        {
            bad = i;
        }
    }
    return bad;
}

/* Answers that are due by now count for --requests. */
static void
start_counting(struct load *l, int64_t now_ns)
{
    memset(&l->n, 0, sizeof l->n);
    l->counting = true;
    l->num_asked = 0;
    for (int64_t i = 0; i < l->cli.connections; i++) {
        l->num_asked += l->conns[i].waiting && l->conns[i].fd != -1;
    }
    l->count_ns = now_ns;
    l->end_ns = now_ns + (int64_t) (l->cli.seconds * (double) NS_PER_S);
    (void) watch(l, l->window);
}

/* Asks where the pause is over; milliseconds until the next such moment. */
static int
ask_due(struct load *l, int64_t now_ns)
{
    int64_t  next_ns = now_ns + 20 * NS_PER_MS;

    for (int64_t i = 0; l->cli.pause_us != 0 && i < l->cli.connections; i++) {
        struct conn  *c = &l->conns[i];
        if (c->fd != -1 && !c->waiting && c->ask_at_ns != 0) {
            if (c->ask_at_ns <= now_ns) {
                conn_ask(l, c, now_ns);
            } else if (c->ask_at_ns < next_ns) {
                next_ns = c->ask_at_ns;
            }
        }
    }
    return (int) ((next_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS);
}

static void
loop(struct load *l)
{
    struct epoll_event  events[EVENTS_MAX];
    int64_t             now_ns = clock_now_ns();

    l->start_ns = now_ns;
    if (l->cli.warmup_ms == 0) {
        start_counting(l, now_ns);
    }
    while (!l->counting || now_ns < l->end_ns) {
        int  timeout_ms = ask_due(l, now_ns);
        int  num = epoll_wait(l->epoll_fd, events, EVENTS_MAX, timeout_ms);
        for (int i = 0; i < num; i++) {
            struct conn  *c = events[i].data.ptr;
            if (c->fd == -1) {
                continue;
            }
            if (l->cli.no_read) {
                conn_fail(l, c);
            } else {
                conn_read(l, c);
            }
        }
        now_ns = clock_now_ns();
        if (!l->counting && now_ns - l->start_ns >= l->cli.warmup_ms * NS_PER_MS) {
            start_counting(l, now_ns);
        }
        if (l->cli.requests != 0 && l->counting
            && l->n.requests + l->n.errors >= (uint64_t) l->cli.requests)
        {
            break;
        }
    }
    l->end_ns = now_ns;
    (void) watch(l, l->after);
}

/* ---- results -------------------------------------------------------------------- */
static void
put(const struct load *l, const char *name, double value)
{
    printf(l->cli.output_json ? "\"%s\":%.10g," : "%-24s %.10g\n", name, value);
}

static void
put_hist(const struct load *l, const char *name, const struct load_hist *h)
{
    static const struct { const char *suffix; double q; }  at[] = {
        { "p50", 0.5 }, { "p99", 0.99 }, { "max", 1.0 } };
    char  key[64];

    for (size_t i = 0; i < sizeof at / sizeof *at && h->count != 0; i++) {
        (void) snprintf(key, sizeof key, "%s_%s_us", name, at[i].suffix);
        put(l, key, (double) load_hist_quantile(h, at[i].q) * 1e-3);
    }
}

static void
put_watched(const struct load *l)
{
    for (int i = 0; i < l->cli.watch.num; i++) {
        const char  *name = l->cli.watch.items[i];
        int          len = (int) strcspn(name, "=");
        char         key[128];
        const struct { const char *suffix; double value; }  v[] = {
            { "cpu_s", (double) (l->after[i].cpu_ns - l->window[i].cpu_ns) * 1e-9 },
            { "rss_before_kb", (double) l->before[i].rss_kb },
            { "rss_kb", (double) l->after[i].rss_kb },
            { "anon_before_kb", (double) l->before[i].anon_kb },
            { "anon_kb", (double) l->after[i].anon_kb },
        };
        for (size_t k = 0; k < sizeof v / sizeof *v; k++) {
            (void) snprintf(key, sizeof key, "%.*s_%s", len, name, v[k].suffix);
            put(l, key, v[k].value);
        }
    }
}

static void
report(const struct load *l)
{
    double   seconds = (double) (l->end_ns - l->count_ns) * 1e-9;
    int64_t  open = 0;

    for (int64_t i = 0; i < l->cli.connections; i++) {
        open += l->conns[i].fd != -1;
    }
    printf("%s", l->cli.output_json ? "{" : "");
    put(l, "requests", (double) l->n.requests);
    put(l, "requests_per_s", (double) l->n.requests / seconds);
    put(l, "non_200", (double) l->n.non_200);
    put(l, "errors", (double) l->n.errors);
    put(l, "reconnects", (double) l->n.reconnects);
    put(l, "connections_open", (double) open);
    put(l, "bytes", (double) l->n.bytes);
    put(l, "events", (double) l->n.events);
    put(l, "events_per_s", (double) l->n.events / seconds);
    put(l, "tokens", (double) l->n.tokens);
    put(l, "tokens_per_s", (double) l->n.tokens / seconds);
    put_hist(l, "latency", &l->n.latency);
    put_hist(l, "first_event", &l->n.first);
    put_hist(l, "gap", &l->n.gap);
    put_watched(l);
    printf(l->cli.output_json ? "\"seconds\":%.6f}\n" : "seconds %24.6f\n",
           seconds);
}

/* ---- start ------------------------------------------------------------------------ */
static void
raise_files(int64_t wanted)
{
    struct rlimit  r;

    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < (rlim_t) wanted) {
        r.rlim_cur = r.rlim_max < (rlim_t) wanted ? r.rlim_max : (rlim_t) wanted;
        (void) setrlimit(RLIMIT_NOFILE, &r);
    }
}

static int
prepare(struct load *l, struct err *err)
{
    const struct load_cli  *cli = &l->cli;
    bool                    get = strcmp(cli->method, "GET") == 0;

    l->addr.sin_family = AF_INET;
    l->addr.sin_port = htons((uint16_t) cli->port);
    if (inet_pton(AF_INET, cli->host, &l->addr.sin_addr) != 1) {
        return err_set(err, "--host: \"%s\" is no IPv4 address", cli->host);
    }
    buf_init(&l->request, REQUEST_BYTES_MAX);
    buf_appendf(&l->request, "%s %s HTTP/1.1\r\nHost: %s\r\n", cli->method,
                cli->path, cli->host);
    if (!get) {
        buf_appendf(&l->request, "Content-Type: application/json\r\n"
                    "Content-Length: %zu\r\n", strlen(cli->body));
    }
    buf_append_lit(&l->request, "\r\n");
    buf_append_str(&l->request, str_from(get ? "" : cli->body));
    if (l->request.failed) {
        return err_set(err, "--body: the request is above %u bytes",
                       REQUEST_BYTES_MAX);
    }
    raise_files(cli->connections + 64);
    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    l->conns = calloc((size_t) cli->connections, sizeof *l->conns);
    if (l->epoll_fd == -1 || l->conns == NULL) {
        return err_set(err, "no memory or no descriptor for %lld connections",
                       (long long) cli->connections);
    }
    int  bad = watch(l, l->before);
    if (bad >= 0) {
        return err_set(err, "--watch: \"%s\" is not NAME=PID of a running "
                       "process", cli->watch.items[bad]);
    }
    for (int64_t i = 0; i < cli->connections; i++) {
        if (conn_open(l, &l->conns[i]) != OK) {
            return err_set(err, "connection %lld to %s:%lld: %s", (long long) i,
                           cli->host, (long long) cli->port, strerror(errno));
        }
        conn_ask(l, &l->conns[i], clock_now_ns());
    }
    return OK;
}

int
main(int argc, char **argv)
{
    struct load  *l = calloc(1, sizeof *l);
    struct err    err = { 0 };

    if (l == NULL || options_parse(options, &l->cli, argc, argv, &err) != OK) {
        fprintf(stderr, "nginx-llm-load: %s\n", err.message);
        free(l);
        return 2;
    }
    if (l->cli.help) {
        options_help(options, "nginx-llm-load [options]", stdout);
        free(l);
        return 0;
    }
    if (prepare(l, &err) != OK) {
        fprintf(stderr, "nginx-llm-load: %s\n", err.message);
        return 1;
    }
    loop(l);
    report(l);
    for (int64_t i = 0; i < l->cli.connections; i++) {
        conn_close(&l->conns[i]);
    }
    buf_destroy(&l->request);
    free(l->conns);
    (void) close(l->epoll_fd);
    free(l);
    return 0;
}
