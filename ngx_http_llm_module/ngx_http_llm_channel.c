
/*
 * ngx_http_llm_channel.c - the session of this process with each engine:
 * connect, shake hands, map, watch, lose, connect again.
 *
 * A session is made when the process starts and for as long as it lives tries
 * to be up.  Losing it fails its requests and begins a new one; nothing is
 * ever repaired.  A connection that the engine has not accepted yet is kept:
 * it is served as soon as the engine comes back, and until then requests are
 * refused at once.
 *
 * Timers here are cancelable: they never keep a leaving worker.  Each request
 * has its own that does.
 */


#include "ngx_http_llm.h"
#include <sys/mman.h>


#define NGX_HTTP_LLM_SLOTS_MAX   65536

#define NGX_HTTP_LLM_SEALS       (F_SEAL_SHRINK|F_SEAL_GROW|F_SEAL_SEAL)


static ngx_http_llm_session_t *ngx_http_llm_session_want(ngx_str_t *path,
    ngx_http_llm_main_conf_t *mcf, ngx_log_t *log);
static ngx_http_llm_session_t *ngx_http_llm_session_get(ngx_str_t *path,
    ngx_log_t *log);
static ngx_connection_t *ngx_http_llm_session_watch(ngx_http_llm_session_t *s,
    ngx_fd_t fd, ngx_event_handler_pt handler);
static void ngx_http_llm_session_retry(ngx_http_llm_session_t *s);
static void ngx_http_llm_session_control_handler(ngx_event_t *rev);
static ssize_t ngx_http_llm_session_recv(ngx_http_llm_session_t *s,
    u_char *buf, size_t size, ngx_fd_t *fds);
static void ngx_http_llm_session_welcome(ngx_http_llm_session_t *s,
    u_char *data, size_t len, ngx_fd_t *fds);
static void ngx_http_llm_session_down(ngx_http_llm_session_t *s,
    struct llm_welcome *welcome);
static ngx_int_t ngx_http_llm_session_map(ngx_http_llm_session_t *s,
    struct llm_welcome *welcome, ngx_fd_t *fds, const char **why);
static void ngx_http_llm_session_kick_handler(ngx_event_t *rev);
static void ngx_http_llm_session_timer_handler(ngx_event_t *ev);
static void ngx_http_llm_session_failure_handler(ngx_event_t *ev);
static void ngx_http_llm_session_close(ngx_http_llm_session_t *s);
static void ngx_http_llm_session_free_slots(ngx_http_llm_session_t *s);
static void ngx_http_llm_session_dummy(ngx_event_t *ev);


static ngx_queue_t  ngx_http_llm_sessions;


/* makes the sessions of this process what the configuration says */

ngx_int_t
ngx_http_llm_channel_update(ngx_cycle_t *cycle)
{
    ngx_uint_t                  i;
    ngx_queue_t                *q, *next;
    ngx_http_llm_engine_t     **enginep;
    ngx_http_llm_session_t     *s, *before;
    ngx_http_llm_main_conf_t   *mcf;

    if (ngx_http_llm_sessions.next == NULL) {
        ngx_queue_init(&ngx_http_llm_sessions);
    }

    for (q = ngx_queue_head(&ngx_http_llm_sessions);
         q != ngx_queue_sentinel(&ngx_http_llm_sessions);
         q = ngx_queue_next(q))
    {
        s = ngx_queue_data(q, ngx_http_llm_session_t, queue);
        s->removed = 1;
        s->log = *cycle->log;
    }

    mcf = ngx_http_llm_cycle_conf(cycle);

    for (i = 0; mcf && i < mcf->engines.nelts; i++) {
        enginep = mcf->engines.elts;

        if (enginep[i]->path.len == 0) {
            continue;
        }

        s = ngx_http_llm_session_want(&enginep[i]->path, mcf, cycle->log);
        if (s == NULL) {
            return NGX_ERROR;
        }

        before = NULL;

        if (enginep[i]->previous.len) {
            before = ngx_http_llm_session_want(&enginep[i]->previous, mcf,
                                               cycle->log);
            if (before == NULL) {
                return NGX_ERROR;
            }
        }

        ngx_http_llm_handover_begin(s, before);

        enginep[i]->session = s;

        if (before
            && before->state == NGX_HTTP_LLM_DOWN
            && !before->timer.timer_set)
        {
            (void) ngx_http_llm_session_connect(before);
        }

        if (s->state == NGX_HTTP_LLM_DOWN && !s->timer.timer_set) {
            (void) ngx_http_llm_session_connect(s);
        }
    }

    for (q = ngx_queue_head(&ngx_http_llm_sessions);
         q != ngx_queue_sentinel(&ngx_http_llm_sessions);
         q = next)
    {
        next = ngx_queue_next(q);
        ngx_http_llm_session_release(ngx_queue_data(q, ngx_http_llm_session_t,
                                                    queue));
    }

    return NGX_OK;
}


static ngx_http_llm_session_t *
ngx_http_llm_session_want(ngx_str_t *path, ngx_http_llm_main_conf_t *mcf,
    ngx_log_t *log)
{
    ngx_http_llm_session_t  *s;

    s = ngx_http_llm_session_get(path, log);

    if (s) {
        s->removed = 0;
        s->connect_timeout = mcf->connect_timeout;
        s->engine_timeout = mcf->engine_timeout;
        s->queue_max = (ngx_uint_t) mcf->queue;
    }

    return s;
}


static ngx_http_llm_session_t *
ngx_http_llm_session_get(ngx_str_t *path, ngx_log_t *log)
{
    ngx_queue_t             *q;
    ngx_http_llm_session_t  *s;

    for (q = ngx_queue_head(&ngx_http_llm_sessions);
         q != ngx_queue_sentinel(&ngx_http_llm_sessions);
         q = ngx_queue_next(q))
    {
        s = ngx_queue_data(q, ngx_http_llm_session_t, queue);

        if (s->path.len == path->len
            && ngx_memcmp(s->path.data, path->data, path->len) == 0
            && !s->goodbye)
        {
            return s;
        }
    }

    s = ngx_calloc(sizeof(ngx_http_llm_session_t) + path->len + 1, log);
    if (s == NULL) {
        return NULL;
    }

    s->path.len = path->len;
    s->path.data = (u_char *) (s + 1);
    ngx_memcpy(s->path.data, path->data, path->len);

    s->log = *log;
    s->kick_engine = -1;
    s->retry = NGX_HTTP_LLM_RETRY_MIN;

    ngx_queue_init(&s->waiting);
    ngx_queue_init(&s->touched);

    s->timer.handler = ngx_http_llm_session_timer_handler;
    s->timer.data = s;
    s->timer.log = &s->log;
    s->timer.cancelable = 1;

    s->pulse.handler = ngx_http_llm_session_pulse_handler;
    s->pulse.data = s;
    s->pulse.log = &s->log;
    s->pulse.cancelable = 1;

    s->handover.handler = ngx_http_llm_handover_handler;
    s->handover.data = s;
    s->handover.log = &s->log;
    s->handover.cancelable = 1;

    s->failure.handler = ngx_http_llm_session_failure_handler;
    s->failure.data = s;
    s->failure.log = &s->log;

    ngx_queue_insert_tail(&ngx_http_llm_sessions, &s->queue);

    return s;
}


/* what the kernel and the heap hold for it; the session itself stays */

void
ngx_http_llm_session_shut(ngx_http_llm_session_t *s)
{
    ngx_http_llm_session_close(s);
    ngx_http_llm_session_free_slots(s);
}


/* in a leaving process: wrapped descriptors left open would be an [alert] */

void
ngx_http_llm_channel_exit(ngx_cycle_t *cycle)
{
    ngx_queue_t  *q;

    if (ngx_http_llm_sessions.next == NULL) {
        return;
    }

    for (q = ngx_queue_head(&ngx_http_llm_sessions);
         q != ngx_queue_sentinel(&ngx_http_llm_sessions);
         q = ngx_queue_next(q))
    {
        ngx_http_llm_session_close(ngx_queue_data(q, ngx_http_llm_session_t,
                                                  queue));
    }
}


/*
 * connect() to a Unix socket is immediate, and succeeds before anybody
 * accepts; HELLO follows at once and waits in the socket.
 */

ngx_int_t
ngx_http_llm_session_connect(ngx_http_llm_session_t *s)
{
    ngx_fd_t             fd;
    ngx_err_t            err;
    ngx_uint_t           level;
    struct llm_hello     hello;
    struct sockaddr_un   sun;

    fd = socket(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);
    if (fd == -1) {
        ngx_log_error(NGX_LOG_ERR, &s->log, ngx_errno, "socket() failed");
        goto retry;
    }

    ngx_memzero(&sun, sizeof(struct sockaddr_un));
    sun.sun_family = AF_UNIX;
    ngx_memcpy(sun.sun_path, s->path.data, s->path.len);

    if (connect(fd, (struct sockaddr *) &sun, sizeof(sun)) == -1) {
        err = ngx_errno;
        level = s->after || (s->refused_logged && s->refused_err == err)
                ? NGX_LOG_INFO : NGX_LOG_WARN;
        s->refused_logged = 1;
        s->refused_err = err;

        ngx_log_error(level, &s->log, err, "engine at \"%V\" is not there, "
                      "connect() failed", &s->path);

        if (err == NGX_ENOENT || err == NGX_ECONNREFUSED) {
            ngx_http_llm_handover_gone(s);
        }

        goto failed;
    }

    llm_wire_init_hello(&hello);
    hello.pid = (uint32_t) ngx_pid;
    hello.worker = (uint32_t) ngx_worker;

    if (send(fd, &hello, sizeof(hello), MSG_NOSIGNAL) != sizeof(hello)) {
        ngx_log_error(NGX_LOG_INFO, &s->log, ngx_errno,
                      "engine at \"%V\": send() failed", &s->path);
        goto failed;
    }

    s->control = ngx_http_llm_session_watch(s, fd,
                                        ngx_http_llm_session_control_handler);
    if (s->control == NULL) {
        goto failed;
    }

    s->state = NGX_HTTP_LLM_CONNECTING;
    ngx_add_timer(&s->timer, s->connect_timeout);

    return NGX_OK;

failed:

    (void) close(fd);

retry:

    ngx_http_llm_session_retry(s);

    return NGX_ERROR;
}


static ngx_connection_t *
ngx_http_llm_session_watch(ngx_http_llm_session_t *s, ngx_fd_t fd,
    ngx_event_handler_pt handler)
{
    ngx_int_t          event;
    ngx_connection_t  *c;

    c = ngx_get_connection(fd, &s->log);
    if (c == NULL) {
        return NULL;
    }

    c->data = s;
    c->pool = NULL;
    c->log = &s->log;

    c->read->log = &s->log;
    c->write->log = &s->log;
    c->read->handler = handler;
    c->write->handler = ngx_http_llm_session_dummy;

    /* a worker that leaves in spite of us shall not complain about it */

    c->read->channel = 1;
    c->write->channel = 1;

    event = (ngx_event_flags & NGX_USE_CLEAR_EVENT) ? NGX_CLEAR_EVENT
                                                    : NGX_LEVEL_EVENT;

    if (ngx_add_event(c->read, NGX_READ_EVENT, event) != NGX_OK) {
        ngx_free_connection(c);
        return NULL;
    }

    return c;
}


static void
ngx_http_llm_session_dummy(ngx_event_t *ev)
{
    ngx_log_debug0(NGX_LOG_DEBUG_EVENT, ev->log, 0, "llm: dummy handler");
}


/* later and later, and not all workers at once */

static void
ngx_http_llm_session_retry(ngx_http_llm_session_t *s)
{
    ngx_msec_t  delay;

    if (s->removed) {
        return;
    }

    delay = s->retry / 2 + (ngx_msec_t) ngx_random() % (s->retry / 2 + 1);

    ngx_add_timer(&s->timer, delay);

    s->retry = ngx_min(s->retry * 2, NGX_HTTP_LLM_RETRY_MAX);
}


/* two meanings by state: time to connect, or the engine does not answer */

static void
ngx_http_llm_session_timer_handler(ngx_event_t *ev)
{
    ngx_http_llm_session_t *s = ev->data;

    if (s->state == NGX_HTTP_LLM_DOWN) {
        (void) ngx_http_llm_session_connect(s);
        return;
    }

    if (s->state == NGX_HTTP_LLM_CONNECTING) {

        /* stay in its backlog, but let nobody wait for that */

        s->suspect = 1;

        ngx_log_error(NGX_LOG_WARN, &s->log, 0,
                      "engine at \"%V\" has not answered for %M ms",
                      &s->path, s->connect_timeout);

        ngx_http_llm_session_fail_requests(s);
    }
}


static void
ngx_http_llm_session_control_handler(ngx_event_t *rev)
{
    u_char                   buf[sizeof(struct llm_welcome) + 1];
    ssize_t                  n;
    ngx_fd_t                 fds[LLM_FD_COUNT];
    ngx_uint_t               i;
    ngx_connection_t        *c;
    ngx_http_llm_session_t  *s;

    c = rev->data;
    s = c->data;

    for ( ;; ) {

        n = ngx_http_llm_session_recv(s, buf, sizeof(buf), fds);

        if (n == NGX_AGAIN) {
            return;
        }

        if (n > 0 && s->state == NGX_HTTP_LLM_CONNECTING) {

            ngx_http_llm_session_welcome(s, buf, (size_t) n, fds);

            for (i = 0; i < LLM_FD_COUNT; i++) {
                if (fds[i] != -1) {
                    (void) close(fds[i]);
                }
            }

            if (s->state != NGX_HTTP_LLM_UP) {
                return;
            }

            continue;
        }

        for (i = 0; i < LLM_FD_COUNT; i++) {
            if (fds[i] != -1) {
                (void) close(fds[i]);
            }
        }

        ngx_http_llm_session_fail(s, n > 0 ? "bytes after WELCOME" : NULL);
        return;
    }
}


/* one message; fds are -1 where none came; NGX_AGAIN, 0 or -1: gone */

static ssize_t
ngx_http_llm_session_recv(ngx_http_llm_session_t *s, u_char *buf, size_t size,
    ngx_fd_t *fds)
{
    ssize_t          n;
    ngx_err_t        err;
    ngx_uint_t       i, nfds;
    struct iovec     iov[1];
    struct msghdr    msg;
    struct cmsghdr  *cmsg;

    union {
        struct cmsghdr  cm;
        char            space[CMSG_SPACE(LLM_FD_COUNT * sizeof(int))];
    } cmsgbuf;

    for (i = 0; i < LLM_FD_COUNT; i++) {
        fds[i] = -1;
    }

    iov[0].iov_base = (void *) buf;
    iov[0].iov_len = size;

    ngx_memzero(&msg, sizeof(struct msghdr));
    msg.msg_iov = iov;
    msg.msg_iovlen = 1;
    msg.msg_control = &cmsgbuf;
    msg.msg_controllen = sizeof(cmsgbuf);

    do {
        n = recvmsg(s->control->fd, &msg, MSG_CMSG_CLOEXEC);
        err = ngx_errno;
    } while (n == -1 && err == NGX_EINTR);

    if (n == -1 && err == NGX_EAGAIN) {
        return NGX_AGAIN;
    }

    if (n <= 0) {
        return n == -1 ? -1 : 0;
    }

    nfds = 0;

    for (cmsg = CMSG_FIRSTHDR(&msg); cmsg; cmsg = CMSG_NXTHDR(&msg, cmsg)) {

        if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS) {
            continue;
        }

        nfds = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        nfds = ngx_min(nfds, (ngx_uint_t) LLM_FD_COUNT);
        ngx_memcpy(fds, CMSG_DATA(cmsg), nfds * sizeof(int));
        break;
    }

    if (msg.msg_flags & (MSG_TRUNC|MSG_CTRUNC)) {
        return -1;
    }

    return n;
}


static void
ngx_http_llm_session_welcome(ngx_http_llm_session_t *s, u_char *data,
    size_t len, ngx_fd_t *fds)
{
    ngx_uint_t           level;
    const char          *why;
    struct llm_welcome   welcome;

    why = "";
    level = s->refused_logged ? NGX_LOG_INFO : NGX_LOG_ERR;

    if (llm_wire_decode_welcome(&welcome, data, len, &why) != LLM_OK) {
        ngx_log_error(level, &s->log, 0,
                      "engine at \"%V\" and this module do not fit: %s",
                      &s->path, why);
        ngx_http_llm_session_set_reason(s, why, 0);
        goto failed;
    }

    if (welcome.status == LLM_WELCOME_DOWN) {
        ngx_http_llm_session_down(s, &welcome);
        return;
    }

    if (welcome.status != LLM_WELCOME_OK) {
        ngx_http_llm_session_set_reason(s, welcome.text, 0);
        ngx_log_error(level, &s->log, 0,
                      "engine at \"%V\" refuses this worker: %s",
                      &s->path, welcome.text);
        goto failed;
    }

    if (ngx_http_llm_session_map(s, &welcome, fds, &why) != NGX_OK) {
        ngx_log_error(level, &s->log, ngx_errno,
                      "engine at \"%V\": %s", &s->path, why);
        goto failed;
    }

    if (s->timer.timer_set) {
        ngx_del_timer(&s->timer);
    }

    s->state = NGX_HTTP_LLM_UP;
    s->epoch = welcome.epoch;
    s->engine_pid = (ngx_int_t) welcome.pid;
    s->body_max = welcome.body_bytes_max;
    s->retry = NGX_HTTP_LLM_RETRY_MIN;
    s->suspect = 0;
    s->refused_logged = 0;
    s->hung = 0;
    s->reason[0] = '\0';

    ngx_log_error(NGX_LOG_NOTICE, &s->log, 0,
                  "session %uL with engine %uD at \"%V\" is up",
                  welcome.session_id, welcome.pid, &s->path);

    ngx_http_llm_status_session(s, 1);

    /* after attaching: nothing may be waiting for a kick that never comes */

    s->unpublished = 1;
    ngx_http_llm_session_push_waiting(s);

    /* a request that could not be pushed may have ended a removed session */

    if (s->state == NGX_HTTP_LLM_UP) {
        ngx_post_event(s->kick->read, &ngx_posted_events);
    }

    return;

failed:

    s->refused_logged = 1;
    s->retry = NGX_HTTP_LLM_RETRY_MAX;

    ngx_http_llm_session_close(s);
    ngx_http_llm_session_fail_requests(s);
    ngx_http_llm_session_free_slots(s);
    ngx_http_llm_session_retry(s);
}


/*
 * The supervisor has no engine now.  It says why, and when to come again; a
 * request is as good a moment.
 */

static void
ngx_http_llm_session_down(ngx_http_llm_session_t *s,
    struct llm_welcome *welcome)
{
    ngx_uint_t  level;

    level = s->refused_logged ? NGX_LOG_INFO : NGX_LOG_WARN;

    ngx_log_error(level, &s->log, 0,
                  "engine at \"%V\" does not run: %s",
                  &s->path, welcome->text);

    s->refused_logged = 1;
    ngx_http_llm_session_set_reason(s, welcome->text, 1);

    ngx_http_llm_session_close(s);
    ngx_http_llm_session_fail_requests(s);
    ngx_http_llm_session_free_slots(s);

    s->retry = NGX_HTTP_LLM_RETRY_MIN;

    if (s->state == NGX_HTTP_LLM_DOWN && !s->removed && !s->timer.timer_set) {
        ngx_add_timer(&s->timer, welcome->retry_ms
                                 ? ngx_min(welcome->retry_ms,
                                           NGX_HTTP_LLM_RETRY_MAX)
                                 : NGX_HTTP_LLM_RETRY_MAX);
    }
}


/* checks everything before it is believed; takes what it needs out of fds */

static ngx_int_t
ngx_http_llm_session_map(ngx_http_llm_session_t *s,
    struct llm_welcome *welcome, ngx_fd_t *fds, const char **why)
{
    int                   i, seals;
    void                 *p;
    uint32_t              n;
    uint64_t              size[2];
    struct stat           st;
    struct llm_geometry  *g;

    g = &s->geometry;
    *g = welcome->geometry;

    size[LLM_FD_W] = g->w_bytes;
    size[LLM_FD_E] = g->e_bytes;

    ngx_set_errno(0);

    for (i = 0; i < LLM_FD_COUNT; i++) {
        if (fds[i] == -1) {
            *why = "WELCOME without descriptors";
            return NGX_ERROR;
        }
    }

    for (i = LLM_FD_W; i <= LLM_FD_E; i++) {

        /* -1, all bits set, where a file has no seals at all */

        seals = fcntl(fds[i], F_GET_SEALS);

        if (seals == -1 || (seals & NGX_HTTP_LLM_SEALS) != NGX_HTTP_LLM_SEALS) {
            *why = "memory is not sealed";
            return NGX_ERROR;
        }

        if (fstat(fds[i], &st) == -1 || (uint64_t) st.st_size != size[i]) {
            *why = "memory is not as large as announced";
            return NGX_ERROR;
        }
    }

    p = mmap(NULL, g->w_bytes, PROT_READ|PROT_WRITE, MAP_SHARED,
             fds[LLM_FD_W], 0);
    if (p == MAP_FAILED) {
        *why = "mmap() failed";
        return NGX_ERROR;
    }

    s->w = p;

    p = mmap(NULL, g->e_bytes, PROT_READ, MAP_SHARED, fds[LLM_FD_E], 0);
    if (p == MAP_FAILED) {
        *why = "mmap() failed";
        return NGX_ERROR;
    }

    s->e = p;

    if (llm_ring_check_region(s->e, welcome, why) != LLM_OK) {
        return NGX_ERROR;
    }

    n = ngx_min(welcome->max_requests, NGX_HTTP_LLM_SLOTS_MAX);

    s->marks = ngx_calloc(g->sq_entries * sizeof(uint64_t), &s->log);
    s->slots = ngx_calloc((n + 1) * sizeof(ngx_http_llm_slot_t), &s->log);

    if (s->marks == NULL || s->slots == NULL || n == 0) {
        *why = "no memory for requests";
        return NGX_ERROR;
    }

    s->kick = ngx_http_llm_session_watch(s, fds[LLM_FD_KICK_WORKER],
                                         ngx_http_llm_session_kick_handler);
    if (s->kick == NULL) {
        *why = "no free connection";
        return NGX_ERROR;
    }

    s->kick_engine = fds[LLM_FD_KICK_ENGINE];
    fds[LLM_FD_KICK_WORKER] = -1;
    fds[LLM_FD_KICK_ENGINE] = -1;

    s->nslots = n;
    s->free_slot = 0;
    s->busy = 0;

    for (n = 0; n < s->nslots; n++) {
        s->slots[n].next = n + 1;
    }

    s->slots[s->nslots - 1].next = NGX_HTTP_LLM_NO_SLOT;

    llm_ring_sq_init(&s->sq, g, s->w, s->e, s->marks);
    llm_ring_cqc_init(&s->cq, g, s->w, s->e);

    return NGX_OK;
}


/* the engine has published records, or has room again */

static void
ngx_http_llm_session_kick_handler(ngx_event_t *rev)
{
    ssize_t                  n;
    uint64_t                 count;
    ngx_connection_t        *c;
    ngx_http_llm_session_t  *s;

    c = rev->data;
    s = c->data;

    /* an edge comes with every write, read or unread */

    if ((ngx_event_flags & NGX_USE_CLEAR_EVENT) == 0) {
        n = read(c->fd, &count, sizeof(count));
        (void) n;
    }

    ngx_http_llm_session_drain(s);
}


/* a broken ring is noticed deep in a request; the session ends later */

void
ngx_http_llm_session_fail_later(ngx_http_llm_session_t *s, const char *why)
{
    if (s->why == NULL) {
        s->why = why;
    }

    ngx_post_event(&s->failure, &ngx_posted_events);
}


static void
ngx_http_llm_session_failure_handler(ngx_event_t *ev)
{
    ngx_http_llm_session_t *s = ev->data;

    ngx_http_llm_session_fail(s, s->why ? s->why : "unknown");
}


/*
 * The end of a session, from the top of the stack only.  why: what the peer
 * did to the protocol, or NULL when it is simply gone.
 */

void
ngx_http_llm_session_fail(ngx_http_llm_session_t *s, const char *why)
{
    ngx_uint_t        level;
    struct llm_stats  stats;

    if (s->state == NGX_HTTP_LLM_DOWN) {
        return;
    }

    if (why) {
        ngx_log_error(NGX_LOG_ALERT, &s->log, 0,
                      "engine %i at \"%V\" broke the protocol: %s",
                      s->engine_pid, &s->path, why);

    } else if (s->state == NGX_HTTP_LLM_UP) {
        llm_ring_read_stats(s->e, &stats);

        level = (s->busy == 0 || stats.state == LLM_STATE_DRAINING)
                ? NGX_LOG_NOTICE : NGX_LOG_ERR;

        ngx_log_error(level, &s->log, 0,
                      "engine %i at \"%V\" is gone, %ui requests in flight",
                      s->engine_pid, &s->path, s->busy);
    }

    if (s->state == NGX_HTTP_LLM_UP) {
        ngx_http_llm_status_session(s, 0);
    }

    ngx_http_llm_session_close(s);

    s->why = NULL;

    ngx_http_llm_session_fail_requests(s);
    ngx_http_llm_session_free_slots(s);

    if (s->state == NGX_HTTP_LLM_DOWN && !s->timer.timer_set) {
        ngx_http_llm_session_retry(s);
    }

    ngx_http_llm_session_release(s);
}


/* gives back what the kernel holds; the slots stay for fail_requests() */

static void
ngx_http_llm_session_close(ngx_http_llm_session_t *s)
{
    s->state = NGX_HTTP_LLM_DOWN;
    s->suspect = 0;
    s->goodbye = 0;
    s->unpublished = 0;

    if (s->timer.timer_set) {
        ngx_del_timer(&s->timer);
    }

    if (s->pulse.timer_set) {
        ngx_del_timer(&s->pulse);
    }

    if (s->removed && s->handover.timer_set) {
        ngx_del_timer(&s->handover);
    }

    if (s->failure.posted) {
        ngx_delete_posted_event(&s->failure);
    }

    if (s->control) {
        ngx_close_connection(s->control);
        s->control = NULL;
    }

    if (s->kick) {
        ngx_close_connection(s->kick);
        s->kick = NULL;
    }

    if (s->kick_engine != -1) {
        (void) close(s->kick_engine);
        s->kick_engine = -1;
    }

    if (s->w) {
        (void) munmap(s->w, s->geometry.w_bytes);
        s->w = NULL;
    }

    if (s->e) {
        (void) munmap((void *) (uintptr_t) s->e, s->geometry.e_bytes);
        s->e = NULL;
    }

    if (s->marks) {
        ngx_free(s->marks);
        s->marks = NULL;
    }
}


static void
ngx_http_llm_session_free_slots(ngx_http_llm_session_t *s)
{
    uint32_t  i;

    if (s->slots) {

        for (i = 0; i < s->nslots; i++) {
            ngx_http_llm_limit_settle(s->slots[i].reservation, NULL);
        }

        ngx_free(s->slots);
        s->slots = NULL;
    }

    s->nslots = 0;
    s->busy = 0;
    s->ncancels = 0;
}


int64_t
ngx_http_llm_now(void)
{
    struct timespec  ts;

    (void) clock_gettime(CLOCK_MONOTONIC, &ts);

    return (int64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}
