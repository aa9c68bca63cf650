/* transport.c - one thread, one epoll, many workers.
 *
 * Sessions are closed only at the end of a turn (sweep), so no event of the
 * same batch can meet a freed one. */
#include "engine/server/transport.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/server/outbox.h"

#define EVENTS_MAX  64

/* What an epoll event belongs to: the session's address plus this. */
enum source { SOURCE_SOCKET, SOURCE_KICK, SOURCE_LISTEN, SOURCE_WAKE };
#define SOURCE_MASK  3u

struct transport {
    struct transport_options  options;
    struct transport_hooks    hooks;
    int               epoll_fd, wake_fd, listen_fd;
    bool              listening;     /* listen_fd is in the epoll set */
    bool              accepting;     /* and shall be */
    struct session   *sessions;
    int32_t           num_sessions;
    uint64_t          next_id;
    int64_t           beat_ns;       /* next one is due */
    struct llm_stats  stats;
    bool              busy;          /* a session has more: do not wait */
    pid_t             refused_pid;   /* the last hand-shake that failed */
};

static int
watch(struct transport *t, int fd, struct session *s, enum source source)
{
    struct epoll_event  ev = { .events = EPOLLIN };

    ev.data.u64 = (uint64_t) (uintptr_t) s | (uint64_t) source;
    return epoll_ctl(t->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0 ? OK : ERROR;
}

static void
unwatch(struct transport *t, int fd)
{
    if (fd != -1) {
        (void) epoll_ctl(t->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    }
}

static void
set_listening(struct transport *t, bool on)
{
    if (t->listening == on || t->listen_fd == -1) {
        return;
    }
    t->listening = on;
    if (on) {
        if (watch(t, t->listen_fd, NULL, SOURCE_LISTEN) != OK) {
            t->listening = false;
        }
    } else {
        unwatch(t, t->listen_fd);
    }
}

int
transport_create(struct transport **out, int listen_fd,
                 const struct transport_options *options,
                 const struct transport_hooks *hooks, struct err *err)
{
    struct transport  *t = calloc(1, sizeof *t);

    *out = NULL;
    if (t == NULL) {
        return err_set(err, "transport: out of memory");
    }
    t->options = *options;
    t->hooks = *hooks;
    t->listen_fd = listen_fd;
    t->next_id = 1;
    t->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    t->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (t->epoll_fd == -1 || t->wake_fd == -1
        || watch(t, t->wake_fd, NULL, SOURCE_WAKE) != OK)
    {
        (void) err_set(err, "transport: epoll: %s", strerror(errno));
        transport_destroy(t);
        return ERROR;
    }
    t->accepting = true;
    set_listening(t, true);
    *out = t;
    return OK;
}

/* ---- sessions come -------------------------------------------------------- */
static void
link_session(struct transport *t, struct session *s)
{
    s->next = t->sessions;
    if (t->sessions != NULL) {
        t->sessions->prev = s;
    }
    t->sessions = s;
    t->num_sessions++;
}

static void
unlink_session(struct transport *t, struct session *s)
{
    if (s->prev != NULL) {
        s->prev->next = s->next;
    } else {
        t->sessions = s->next;
    }
    if (s->next != NULL) {
        s->next->prev = s->prev;
    }
    s->prev = s->next = NULL;
    t->num_sessions--;
}

/* AGAIN: nobody else is waiting, or descriptors ran out. */
static int
accept_one(struct transport *t)
{
    struct session  *s;
    struct err       err = { 0 };

    errno = 0;
    int  rc = session_accept(&s, t->listen_fd, &t->options.session, t->next_id,
                             &err);
    bool  no_fds = errno == EMFILE || errno == ENFILE;

    if (rc == AGAIN) {
        return AGAIN;
    }
    if (rc == ERROR) {
        log_error("%s", err.message);
        /* Out of descriptors: the connection stays in the backlog and would be
         * reported at once again; the next heartbeat listens again. */
        set_listening(t, !no_fds && t->listening);
        return t->listening ? OK : AGAIN;
    }
    t->next_id++;
    if (t->num_sessions >= t->options.max_sessions) {
        log_error("session: %d are open, the limit is %d (--max-sessions)",
                  t->num_sessions, t->options.max_sessions);
        session_refuse(s, LLM_WELCOME_SESSIONS, "too many sessions");
        session_close(s);
        return OK;
    }
    if (watch(t, s->fd, s, SOURCE_SOCKET) != OK) {
        session_refuse(s, LLM_WELCOME_MEMORY, "epoll refused the socket");
        session_close(s);
        return OK;
    }
    link_session(t, s);
    return OK;
}

static void
doom(struct session *s, const char *why)
{
    (void) pthread_mutex_lock(&s->lock);
    session_doom(s, why);
    (void) pthread_mutex_unlock(&s->lock);
}

/* A worker that left in the hand-shake is no error; one that cannot be greeted
 * comes again every few seconds, and once is enough. */
static enum log_level
greeting_level(struct transport *t, const struct session *s)
{
    pid_t  refused = t->refused_pid;

    if (s->gone) {
        return LOG_INFO;
    }
    t->refused_pid = s->pid;
    return s->pid == refused ? LOG_INFO : LOG_ERR;
}

static void
on_socket(struct transport *t, struct session *s)
{
    struct err  err = { 0 };
    int         rc;

    if (s->state == SESSION_OPEN) {
        if (!session_is_alive(s)) {
            doom(s, "the worker closed it");
        }
        return;
    }
    rc = session_greet(s, &err);
    if (rc == AGAIN) {
        return;
    }
    if (rc == ERROR || watch(t, s->kick_engine_fd, s, SOURCE_KICK) != OK) {
        log_write(greeting_level(t, s), "%s", rc == ERROR ? err.message
                                            : "epoll refused an eventfd");
        doom(s, "hand-shake failed");
        return;
    }
    t->refused_pid = 0;
    t->stats.heartbeat_ns = clock_now_ns();
    t->stats.sessions = (uint32_t) t->num_sessions;
    llm_ring_write_stats(s->e, &t->stats);
    /* From here on the worker must kick, as nothing is in the ring yet. */
    t->busy |= !llm_ring_sqc_sleep(&s->sqc);
}

/* ---- sessions work -------------------------------------------------------- */
static void
serve_room(struct transport *t, struct session *s)
{
    (void) pthread_mutex_lock(&s->lock);
    if (outbox_is_over(s)) {
        outbox_publish(s);
    }
    /* Any thread's publish may have emptied the list. */
    if (s->starved && !outbox_is_over(s) && session_doomed(s) == NULL) {
        s->starved = false;
        t->hooks.on_room(t->hooks.user, s);
    }
    (void) pthread_mutex_unlock(&s->lock);
}

static void
serve(struct transport *t, struct session *s)
{
    struct inbox_event  event;
    struct err          err = { 0 };
    int                 budget = TRANSPORT_SQ_BUDGET, rc;

    if (s->state != SESSION_OPEN || session_doomed(s) != NULL) {
        return;
    }
    llm_ring_sqc_awake(&s->sqc);
    while ((rc = inbox_next(s, &budget, &event, &err)) == OK) {
        t->hooks.on_event(t->hooks.user, s, &event);
    }
    if (rc == ERROR) {
        log_alert("session %llu: worker %u (process %d) broke the protocol: %s",
                  (unsigned long long) s->id, (unsigned) s->worker,
                  (int) s->pid, err.message);
        doom(s, "protocol violation");
        return;
    }
    if (!inbox_rest(s)) {
        t->busy = true;
    }
    serve_room(t, s);
}

/* ---- sessions go ---------------------------------------------------------- */
static void
close_one(struct transport *t, struct session *s)
{
    log_info("session %llu: closed: %s", (unsigned long long) s->id,
             session_doomed(s) != NULL ? session_doomed(s) : "the engine stops");
    unlink_session(t, s);
    /* Closing is not enough: the worker holds the same eventfd, and epoll goes
     * on reporting it, with the address of a session that is gone. */
    unwatch(t, s->fd);
    unwatch(t, s->kick_engine_fd);
    if (s->state == SESSION_OPEN) {
        (void) pthread_mutex_lock(&s->lock);
        t->hooks.on_close(t->hooks.user, s);
        (void) pthread_mutex_unlock(&s->lock);
    }
    session_close(s);
}

static void
sweep(struct transport *t)
{
    struct session  *s, *next;

    for (s = t->sessions; s != NULL; s = next) {
        next = s->next;
        if (session_doomed(s) != NULL) {
            close_one(t, s);
        }
    }
}

static void
check_age(struct transport *t, struct session *s, int64_t now_ns)
{
    (void) pthread_mutex_lock(&s->lock);
    if (s->state == SESSION_GREETING
        && now_ns - s->since_ns > TRANSPORT_GREETING_NS_MAX)
    {
        session_doom(s, "no HELLO came");
    }
    if (s->state == SESSION_OPEN && s->over_since_ns != 0
        && now_ns - s->over_since_ns > t->options.full_ns_max)
    {
        log_error("session %llu: worker %u (process %d) does not empty its "
                  "completion ring: closed after %lld ms",
                  (unsigned long long) s->id, (unsigned) s->worker,
                  (int) s->pid,
                  (long long) ((now_ns - s->over_since_ns) / NS_PER_MS));
        session_doom(s, "its completion ring stayed full");
    }
    (void) pthread_mutex_unlock(&s->lock);
}

void
transport_beat(struct transport *t)
{
    int64_t  now_ns = clock_now_ns();

    t->beat_ns = now_ns + LLM_HEARTBEAT_MS * NS_PER_MS;
    if (t->accepting) {
        set_listening(t, true);
    }
    if (t->options.no_heartbeat) {
        return;
    }
    t->hooks.on_beat(t->hooks.user, &t->stats);
    t->stats.heartbeat_ns = now_ns;
    t->stats.sessions = (uint32_t) t->num_sessions;
    for (struct session *s = t->sessions; s != NULL; s = s->next) {
        check_age(t, s, now_ns);
        if (s->state == SESSION_OPEN) {
            llm_ring_write_stats(s->e, &t->stats);
            serve(t, s);     /* a lost kick costs one heartbeat, no more */
        }
    }
}

/* ---- the loop ------------------------------------------------------------- */
static void
drain_eventfd(int fd)
{
    uint64_t  count;

    (void) !read(fd, &count, sizeof count);
}

static void
dispatch(struct transport *t, const struct epoll_event *ev)
{
    struct session  *s = (struct session *) (uintptr_t)
                         (ev->data.u64 & ~(uint64_t) SOURCE_MASK);

    switch ((enum source) (ev->data.u64 & SOURCE_MASK)) {
    case SOURCE_SOCKET:
        on_socket(t, s);
        break;
    case SOURCE_KICK:
        drain_eventfd(s->kick_engine_fd);
        serve(t, s);
        break;
    case SOURCE_LISTEN:
        for (int i = 0; i < EVENTS_MAX && accept_one(t) == OK; i++) {
        }
        break;
    case SOURCE_WAKE:
        drain_eventfd(t->wake_fd);
        break;
    }
}

static int
wait_ms(const struct transport *t, int64_t timeout_ns)
{
    int64_t  until_beat = t->beat_ns - clock_now_ns();

    if (t->busy || until_beat <= 0) {
        return 0;
    }
    if (timeout_ns < 0 || timeout_ns > until_beat) {
        timeout_ns = until_beat;
    }
    return (int) ((timeout_ns + NS_PER_MS - 1) / NS_PER_MS);
}

void
transport_turn(struct transport *t, int64_t timeout_ns)
{
    struct epoll_event  events[EVENTS_MAX];
    bool                was_busy = t->busy;
    int                 n = epoll_wait(t->epoll_fd, events, EVENTS_MAX,
                                       wait_ms(t, timeout_ns));

    t->busy = false;
    for (int i = 0; i < n; i++) {
        dispatch(t, &events[i]);
    }
    for (struct session *s = t->sessions; was_busy && s != NULL; s = s->next) {
        serve(t, s);
    }
    if (clock_now_ns() >= t->beat_ns) {
        transport_beat(t);
    }
    sweep(t);
}

void
transport_wake(struct transport *t)
{
    uint64_t  one = 1;

    (void) !write(t->wake_fd, &one, sizeof one);
}

void
transport_stop_accepting(struct transport *t)
{
    t->accepting = false;
    set_listening(t, false);
}

int32_t
transport_num_sessions(const struct transport *t)
{
    return t->num_sessions;
}

int32_t
transport_num_staying(const struct transport *t)
{
    int32_t  n = 0;

    for (const struct session *s = t->sessions; s != NULL; s = s->next) {
        n += !s->leaving;
    }
    return n;
}

struct session *
transport_sessions(struct transport *t)
{
    return t->sessions;
}

void
transport_destroy(struct transport *t)
{
    if (t == NULL) {
        return;
    }
    while (t->sessions != NULL) {
        close_one(t, t->sessions);
    }
    if (t->epoll_fd != -1) {
        (void) close(t->epoll_fd);
    }
    if (t->wake_fd != -1) {
        (void) close(t->wake_fd);
    }
    free(t);
}
