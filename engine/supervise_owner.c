/* supervise_owner.c - who wants the engine, and what they order. */
#include "engine/supervise_int.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"

static int
count_owners(const struct supervise *s)
{
    int  n = 0;
    for (int i = 0; i < s->num_owners; i++) {
        n += s->owners[i].attached && !s->owners[i].retired;
    }
    return n;
}

static void
drop_owner(struct supervise *s, int i)
{
    bool  counted = s->owners[i].attached && !s->owners[i].retired;

    (void) close(s->owners[i].fd);
    s->owners[i] = s->owners[--s->num_owners];
    if (!counted || s->leaving) {
        return;
    }
    s->standby_ns = 0;
    if (s->owned && count_owners(s) == 0) {
        supervise_leave(s, 0);
    }
}

/* Workers that still have its sessions are served until they go. */
static void
retire(struct supervise *s, int i)
{
    s->owners[i].retired = true;
    if (!s->leaving && count_owners(s) == 0) {
        supervise_leave(s, s->ready ? NEVER : 0);
    }
}

void
owner_accept(struct supervise *s)
{
    int  fd = accept4(s->owner_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd == -1) {
        return;
    }
    if (s->num_owners == SUPERVISE_OWNERS_MAX) {
        log_error("more than %d owners, refused", SUPERVISE_OWNERS_MAX);
        (void) close(fd);
        return;
    }
    s->owners[s->num_owners++] = (struct owner) { .fd = fd };
}

/* A fork is made anew when the owners change, not when somebody only connects:
 * a copy of such a connection would stay. */
void
owner_forget_strangers(struct supervise *s)
{
    for (int i = s->num_owners - 1; i >= 0; i--) {
        if (!s->owners[i].attached) {
            (void) close(s->owners[i].fd);
            s->owners[i] = s->owners[--s->num_owners];
        }
    }
}

/* Only root and our own user may keep or end an engine. */
static bool
may_own(int fd)
{
    struct ucred  peer;
    socklen_t     len = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0
           && (peer.uid == 0 || peer.uid == geteuid());
}

/* false: refused, the caller drops it. */
static bool
attach_owner(struct supervise *s, struct owner *o, const void *data, size_t len)
{
    struct llm_attach    a = { 0 };
    struct llm_attached  r = {
        .magic = LLM_WIRE_MAGIC, .version = LLM_WIRE_VERSION,
        .attached_bytes = sizeof r, .status = LLM_ATTACH_OK,
        .supervisor_pid = (uint32_t) getpid(),
        .engine_pid = (uint32_t) s->engine,
    };

    if (len == sizeof a) {
        memcpy(&a, data, sizeof a);
    }
    if (len != sizeof a || a.magic != LLM_WIRE_MAGIC || !may_own(o->fd)) {
        r.status = LLM_ATTACH_BAD;
    } else if (a.version != LLM_WIRE_VERSION) {
        r.status = LLM_ATTACH_VERSION;
    } else if (s->leaving) {
        r.status = LLM_ATTACH_LEAVING;
    } else if (memcmp(a.key, s->key, sizeof s->key) != 0) {
        r.status = LLM_ATTACH_KEY;
    }
    if (send(o->fd, &r, sizeof r, MSG_NOSIGNAL | MSG_DONTWAIT)
        != (ssize_t) sizeof r || r.status != LLM_ATTACH_OK)
    {
        return false;
    }
    o->attached = true;
    s->owned = true;
    s->standby_ns = 0;
    log_notice("another nginx owns the engine too");
    return true;
}

/* ---- messages with at most one descriptor ------------------------------------ */

union control {
    struct cmsghdr  align;
    char            bytes[CMSG_SPACE(sizeof(int))];
};

static ssize_t
receive(int from, void *data, size_t cap, int *fd)
{
    union control   control;
    struct iovec    iov = { data, cap };
    struct msghdr   msg = { .msg_iov = &iov, .msg_iovlen = 1,
                            .msg_control = control.bytes,
                            .msg_controllen = sizeof control.bytes };

    *fd = -1;
    ssize_t  n = recvmsg(from, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n >= 0) {
        struct cmsghdr  *c = CMSG_FIRSTHDR(&msg);
        if (c != NULL && c->cmsg_level == SOL_SOCKET
            && c->cmsg_type == SCM_RIGHTS
            && c->cmsg_len == CMSG_LEN(sizeof(int)))
        {
            memcpy(fd, CMSG_DATA(c), sizeof *fd);
        }
    }
    return n;
}

static void
send_with(int to, const void *data, size_t len, int fd)
{
    union control   control = { 0 };
    struct iovec    iov = { (void *) (uintptr_t) data, len };
    struct msghdr   msg = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (fd != -1) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = sizeof control.bytes;
        struct cmsghdr  *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    (void) sendmsg(to, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* ---- orders ------------------------------------------------------------------- */

static void
answer(const struct supervise *s, const struct owner *o,
       const struct llm_order *order, int fd)
{
    struct llm_answer  a = {
        .magic = LLM_WIRE_MAGIC, .version = LLM_WIRE_VERSION,
        .answer_bytes = sizeof a, .serial = order->serial,
        .state = s->leaving ? LLM_SUPERVISED_LEAVING
                 : s->given_up ? LLM_SUPERVISED_FAILED
                 : s->ready ? LLM_SUPERVISED_READY : LLM_SUPERVISED_LOADING,
        .supervisor_pid = (uint32_t) getpid(),
        .engine_pid = (uint32_t) s->engine,
        .last = count_owners(s) == 1,
    };

    if (s->previous_fd != -1 && !s->replace
        && strlen(s->previous_path) < sizeof a.previous)
    {
        memcpy(a.previous, s->previous_path, strlen(s->previous_path));
    }
    send_with(o->fd, &a, sizeof a, fd);
}

/* What could not start may be able to now: its files may have changed. */
static void
claim(struct supervise *s, const struct llm_order *order)
{
    s->grace_ns = (int64_t) order->grace_ms * NS_PER_MS;
    s->hang_ns = (int64_t) order->hang_ms * NS_PER_MS;
    if (s->leaving) {
        return;
    }
    if (s->engine == 0) {
        supervise_retry(s);
    } else if (!s->ready) {
        s->again = true;
    }
}

static void
obey(struct supervise *s, int i, const struct llm_order *order, int fd)
{
    const struct owner  *o = &s->owners[i];

    if (fd != -1) {
        if (order->op == LLM_ORDER_CLAIM) {
            out_take_log(s, fd);
        } else {
            (void) close(fd);
        }
    }
    switch ((enum llm_order_op) order->op) {
    case LLM_ORDER_CLAIM:
        claim(s, order);
        answer(s, o, order, -1);
        break;
    case LLM_ORDER_RETIRE:
        retire(s, i);
        break;
    case LLM_ORDER_YIELD:
        answer(s, o, order, s->previous_fd);
        previous_close(s);
        break;
    case LLM_ORDER_QUIT:
        if (o->retired) {
            supervise_leave(s, 0);     /* it cannot wait any longer */
            break;
        }
        answer(s, o, order, -1);
        drop_owner(s, i);
        break;
    case LLM_ORDER_STATE:
    case LLM_ORDER_COUNT:
    default:
        answer(s, o, order, -1);
        break;
    }
}

void
owner_hear(struct supervise *s, int i)
{
    struct owner  *o = &s->owners[i];
    uint8_t        buf[64];
    int            fd;
    ssize_t        n = receive(o->fd, buf, sizeof buf, &fd);

    if (n == -1 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        if (o->attached && !o->retired) {
            log_warn("an owner is gone without a word");
        }
        drop_owner(s, i);
        return;
    }
    if (!o->attached) {
        if (fd != -1) {
            (void) close(fd);
        }
        if (!attach_owner(s, o, buf, (size_t) n)) {
            drop_owner(s, i);
        }
        return;
    }
    struct llm_order  order = { 0 };
    if ((size_t) n == sizeof order) {
        memcpy(&order, buf, sizeof order);
    }
    if (order.magic != LLM_WIRE_MAGIC || order.version != LLM_WIRE_VERSION) {
        log_error("an owner speaks another protocol version, dropped");
        if (fd != -1) {
            (void) close(fd);
        }
        drop_owner(s, i);
        return;
    }
    obey(s, i, &order, fd);
}

/* ---- the engine that ours replaces -------------------------------------------- */

void
previous_order(struct supervise *s, enum llm_order_op op)
{
    struct llm_order  order = {
        .magic = LLM_WIRE_MAGIC, .version = LLM_WIRE_VERSION,
        .order_bytes = sizeof order, .op = op,
    };
    if (s->previous_fd != -1) {
        send_with(s->previous_fd, &order, sizeof order, -1);
    }
}

void
previous_close(struct supervise *s)
{
    if (s->previous_fd != -1) {
        (void) close(s->previous_fd);
        s->previous_fd = -1;
        s->previous_quit_ns = NEVER;
        s->standby_ns = 0;
    }
}

/* Its end: nobody serves now but us. */
void
previous_hear(struct supervise *s)
{
    char     byte;
    ssize_t  n = recv(s->previous_fd, &byte, 1, MSG_DONTWAIT);

    if (n > 0 || (n == -1 && (errno == EAGAIN || errno == EINTR))) {
        return;
    }
    previous_close(s);
    if (s->engine == 0 && !s->leaving) {
        log_notice("engine \"%s\": the one before has ended", s->name);
        supervise_retry(s);
    }
}
