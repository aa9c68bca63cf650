/* session.c - accepting a worker, giving it its two regions, letting it go. */
#include "engine/server/session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE  0x0010      /* Linux 5.1 */
#endif

static bool
is_allowed(const struct session_options *o, uid_t uid)
{
    if (o->any_uid) {
        return true;
    }
    if (o->num_uids == 0) {
        return uid == 0 || uid == geteuid();
    }
    for (int32_t i = 0; i < o->num_uids; i++) {
        if (o->uids[i] == uid) {
            return true;
        }
    }
    return false;
}

static struct session *
session_alloc(int fd, const struct session_options *options, uint64_t id)
{
    struct session  *s = calloc(1, sizeof *s);

    if (s == NULL) {
        return NULL;
    }
    (void) pthread_mutex_init(&s->lock, NULL);
    s->state = SESSION_GREETING;
    s->num_refs = 1;
    s->options = options;
    s->id = id;
    s->fd = fd;
    s->kick_engine_fd = -1;
    s->kick_worker_fd = -1;
    s->since_ns = clock_now_ns();
    return s;
}

int
session_accept(struct session **out, int listen_fd,
               const struct session_options *options, uint64_t id,
               struct err *err)
{
    struct session  *s;
    struct ucred     cred = { 0, (uid_t) -1, (gid_t) -1 };
    socklen_t        len = sizeof cred;
    int              fd;

    *out = NULL;
    fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd == -1) {
        if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) {
            return AGAIN;
        }
        return err_set(err, "accept(): %s", strerror(errno));
    }
    s = session_alloc(fd, options, id);
    if (s == NULL) {
        (void) close(fd);
        return err_set(err, "session: out of memory");
    }
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == -1
        || !is_allowed(options, cred.uid))
    {
        (void) err_set(err, "session: process %d of user %d may not connect "
                       "(allowed users: --allow-uid)", (int) cred.pid,
                       (int) cred.uid);
        session_refuse(s, LLM_WELCOME_UID, "this user may not connect");
        session_close(s);
        return ERROR;
    }
    s->pid = cred.pid;
    *out = s;
    return OK;
}

/* ---- regions --------------------------------------------------------------- */
/* What the worker wishes, as far as the options allow. */
static int
choose_geometry(struct session *s, const struct llm_hello *hello,
                struct err *err)
{
    const struct session_options  *o = s->options;
    const char  *why = "";
    uint32_t     entries = o->sq_entries;
    uint64_t     arena = o->arena_bytes, cq = o->cq_bytes;

    if (hello->sq_entries != 0 && hello->sq_entries < entries) {
        entries = hello->sq_entries;
    }
    if (hello->arena_bytes != 0 && hello->arena_bytes < arena) {
        arena = hello->arena_bytes;
    }
    if (hello->cq_bytes != 0 && hello->cq_bytes < cq) {
        cq = hello->cq_bytes;
    }
    s->max_requests = o->max_requests;
    if (hello->max_requests != 0 && hello->max_requests < s->max_requests) {
        s->max_requests = hello->max_requests;
    }
    if (llm_wire_layout(&s->geometry, entries, arena, cq, &why) != LLM_OK) {
        return err_set(err, "session: %s", why);
    }
    return OK;
}

/* A memfd of fixed size; the engine's view of it in *map. */
static int
make_region(const char *name, uint64_t bytes, bool peer_writes, void **map)
{
    int    fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int    seals = F_SEAL_SHRINK | F_SEAL_GROW;
    void  *p;

    if (fd == -1) {
        return -1;
    }
    if (ftruncate(fd, (off_t) bytes) == -1) {
        goto fail;
    }
    p = mmap(NULL, bytes, peer_writes ? PROT_READ : PROT_READ | PROT_WRITE,
             MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        goto fail;
    }
    *map = p;
    /* The worker may map its own region only for writing; the engine's mapping
     * of E exists already, so no later one can write there. */
    if (!peer_writes) {
        (void) fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE);
    }
    if (fcntl(fd, F_ADD_SEALS, seals | F_SEAL_SEAL) == -1) {
        goto fail;
    }
    return fd;

fail:
    (void) close(fd);
    return -1;
}

static int
make_resources(struct session *s, int fds[LLM_FD_COUNT])
{
    struct llm_region_e  *e;

    fds[LLM_FD_W] = make_region("nginx-llm-w", s->geometry.w_bytes, true, &s->w);
    fds[LLM_FD_E] = make_region("nginx-llm-e", s->geometry.e_bytes, false,
                                &s->e);
    s->kick_engine_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->kick_worker_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    fds[LLM_FD_KICK_ENGINE] = s->kick_engine_fd;
    fds[LLM_FD_KICK_WORKER] = s->kick_worker_fd;
    s->slots = calloc(s->max_requests, sizeof *s->slots);
    if (fds[LLM_FD_W] == -1 || fds[LLM_FD_E] == -1 || s->kick_engine_fd == -1
        || s->kick_worker_fd == -1 || s->slots == NULL)
    {
        return ERROR;
    }
    e = s->e;
    e->magic = LLM_WIRE_MAGIC;
    e->version = LLM_WIRE_VERSION;
    e->epoch = s->options->epoch;
    e->session_id = s->id;
    llm_ring_sqc_init(&s->sqc, &s->geometry, s->w, s->e, s->max_requests);
    llm_ring_cq_init(&s->cq, &s->geometry, s->w, s->e);
    return OK;
}

/* ---- hand-shake -------------------------------------------------------------- */
static int
send_welcome(struct session *s, const struct llm_welcome *welcome,
             const int *fds)
{
    union {
        struct cmsghdr  align;
        char            bytes[CMSG_SPACE(sizeof(int) * LLM_FD_COUNT)];
    } control;
    struct llm_welcome  copy = *welcome;
    struct iovec        iov = { &copy, sizeof copy };
    struct msghdr       msg = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (fds != NULL) {
        struct cmsghdr  *c;
        memset(&control, 0, sizeof control);
        msg.msg_control = control.bytes;
        msg.msg_controllen = sizeof control.bytes;
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * LLM_FD_COUNT);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * LLM_FD_COUNT);
    }
    return sendmsg(s->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT)
           == (ssize_t) sizeof copy ? OK : ERROR;
}

void
session_refuse(struct session *s, enum llm_welcome_status status,
               const char *text)
{
    struct llm_welcome  welcome;

    llm_wire_init_welcome(&welcome, (uint32_t) status, text);
    welcome.pid = (uint32_t) getpid();
    (void) send_welcome(s, &welcome, NULL);
}

static int
open_session(struct session *s, const struct llm_hello *hello, struct err *err)
{
    struct llm_welcome  welcome;
    int                 fds[LLM_FD_COUNT] = { -1, -1, -1, -1 };
    int                 rc = ERROR;

    if (choose_geometry(s, hello, err) != OK) {
        session_refuse(s, LLM_WELCOME_BAD_HELLO, "impossible ring sizes");
        return ERROR;
    }
    if (make_resources(s, fds) != OK) {
        (void) err_set(err, "session %llu: %llu bytes of shared memory: %s",
                       (unsigned long long) s->id,
                       (unsigned long long) (s->geometry.w_bytes
                                             + s->geometry.e_bytes),
                       strerror(errno));
        session_refuse(s, LLM_WELCOME_MEMORY, "out of memory or descriptors");
        goto done;
    }
    llm_wire_init_welcome(&welcome, LLM_WELCOME_OK, "");
    welcome.max_requests = s->max_requests;
    welcome.session_id = s->id;
    welcome.epoch = s->options->epoch;
    welcome.geometry = s->geometry;
    welcome.body_bytes_max = s->options->body_bytes_max;
    welcome.pid = (uint32_t) getpid();
    rc = send_welcome(s, &welcome, fds);
    if (rc != OK) {
        s->gone = errno == EPIPE || errno == ECONNRESET;
        (void) err_set(err, "session %llu: cannot send WELCOME: %s",
                       (unsigned long long) s->id, strerror(errno));
    }

done:
    /* The mappings keep the memory; the worker has its own descriptors. */
    for (int i = LLM_FD_W; i <= LLM_FD_E; i++) {
        if (fds[i] != -1) {
            (void) close(fds[i]);
        }
    }
    return rc;
}

int
session_greet(struct session *s, struct err *err)
{
    struct llm_hello  hello;
    char              bytes[512];
    const char       *why = "";
    uint32_t          status;
    ssize_t           n = recv(s->fd, bytes, sizeof bytes, MSG_DONTWAIT);

    if (n == -1 && (errno == EAGAIN || errno == EINTR)) {
        return AGAIN;
    }
    if (n <= 0) {
        s->gone = true;
        return err_set(err, "session %llu: process %d went before HELLO",
                       (unsigned long long) s->id, (int) s->pid);
    }
    if (llm_wire_decode_hello(&hello, bytes, (size_t) n, &status, &why)
        != LLM_OK)
    {
        session_refuse(s, (enum llm_welcome_status) status, why);
        return err_set(err, "session %llu: process %d: %s",
                       (unsigned long long) s->id, (int) s->pid, why);
    }
    s->worker = hello.worker;
    if (open_session(s, &hello, err) != OK) {
        return ERROR;
    }
    (void) pthread_mutex_lock(&s->lock);
    s->state = SESSION_OPEN;
    (void) pthread_mutex_unlock(&s->lock);
    log_info("session %llu: worker %u, process %d, %u requests, rings of %u "
             "and %llu bytes", (unsigned long long) s->id, (unsigned) s->worker,
             (int) s->pid, (unsigned) s->max_requests,
             (unsigned) s->geometry.sq_entries,
             (unsigned long long) s->geometry.cq_bytes);
    return OK;
}

bool
session_is_alive(struct session *s)
{
    char     byte;
    ssize_t  n = recv(s->fd, &byte, sizeof byte, MSG_DONTWAIT);

    if (n == -1 && (errno == EAGAIN || errno == EINTR)) {
        return true;
    }
    if (n > 0) {
        (void) pthread_mutex_lock(&s->lock);
        session_doom(s, "the worker sent a second message");
        (void) pthread_mutex_unlock(&s->lock);
    }
    return false;
}

/* ---- the end ------------------------------------------------------------------ */
static void
close_fd(int *fd)
{
    if (*fd != -1) {
        (void) close(*fd);
        *fd = -1;
    }
}

static void
free_received(struct session *s)
{
    struct request  *r = s->requests, *next;

    for ( ; r != NULL; r = next) {
        next = r->next;
        if (r->state == REQUEST_RECEIVING) {
            request_free(r);
            /* Not the last one: the caller holds its own. */
            (void) __atomic_sub_fetch(&s->num_refs, 1, __ATOMIC_ACQ_REL);
        }
    }
}

void
session_close(struct session *s)
{
    (void) pthread_mutex_lock(&s->lock);
    s->state = SESSION_CLOSED;
    free_received(s);
    if (s->w != NULL) {
        (void) munmap(s->w, s->geometry.w_bytes);
        s->w = NULL;
    }
    if (s->e != NULL) {
        (void) munmap(s->e, s->geometry.e_bytes);
        s->e = NULL;
    }
    free(s->over.data);
    memset(&s->over, 0, sizeof s->over);
    close_fd(&s->fd);
    close_fd(&s->kick_engine_fd);
    close_fd(&s->kick_worker_fd);
    (void) pthread_mutex_unlock(&s->lock);
    session_unref(s);
}

void
session_ref(struct session *s)
{
    (void) __atomic_add_fetch(&s->num_refs, 1, __ATOMIC_RELAXED);
}

void
session_unref(struct session *s)
{
    if (__atomic_sub_fetch(&s->num_refs, 1, __ATOMIC_ACQ_REL) == 0) {
        (void) pthread_mutex_destroy(&s->lock);
        free(s->slots);
        free(s);
    }
}

void
session_doom(struct session *s, const char *why)
{
    if (s->state == SESSION_CLOSED || session_doomed(s) != NULL) {
        return;
    }
    __atomic_store_n(&s->doom, why, __ATOMIC_RELEASE);
    session_wake_transport(s);
}

void
session_wake_transport(struct session *s)
{
    uint64_t  one = 1;

    if (s->kick_engine_fd != -1) {
        (void) !write(s->kick_engine_fd, &one, sizeof one);
    }
}

void
session_kick(struct session *s)
{
    uint64_t  one = 1;

    /* EAGAIN means 2^64-2 kicks are pending: it is awake. */
    (void) !write(s->kick_worker_fd, &one, sizeof one);
}

struct str
request_body(const struct request *r)
{
    if (r->payload == NULL) {
        return (struct str) { "", 0 };
    }
    return (struct str) { (const char *) r->payload + r->meta_bytes,
                          r->payload_len - r->meta_bytes };
}

void
request_free(struct request *r)
{
    struct session      *s = r->session;
    struct inbox_slot   *slot = &s->slots[llm_req_slot(r->id)];

    if (slot->request == r) {
        slot->request = NULL;
    }
    if (r->prev != NULL) {
        r->prev->next = r->next;
    } else {
        s->requests = r->next;
    }
    if (r->next != NULL) {
        r->next->prev = r->prev;
    }
    s->num_requests--;
    if (r->payload != NULL) {
        s->held_bytes -= r->total_bytes;
        free(r->payload);
    }
    free(r);
}
