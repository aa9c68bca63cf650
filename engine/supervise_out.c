/* supervise_out.c - the engine's words to the log, its signs of life to us, and a
 * word to the workers while there is no engine.
 *
 * The log is nginx's error log.  The engine writes into a socket pair and the
 * supervisor copies lines, so that only one process has to know that the file
 * was rotated: it compares the path its stderr had with what is there now, as
 * tail -F does, because SIGUSR1 reaches nginx alone. */
#include "engine/supervise_int.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/err.h"
#include "engine/base/log.h"

#define HELLO_WAIT_MS   50       /* a worker sends it before it can be accepted */
#define WAIT_RETRY_MS   1000
#define RELAY_READS_MAX 64
#define LOG_DENIED_NS   (5 * NS_PER_S)

/* ---- the log -------------------------------------------------------------------- */

static void
note_log_path(struct supervise *s)
{
    struct stat  st;
    ssize_t      n = readlink("/proc/self/fd/2", s->log_path,
                              sizeof s->log_path - 1);

    s->log_path[n > 0 ? n : 0] = '\0';
    if (n <= 0 || s->log_path[0] != '/' || fstat(STDERR_FILENO, &st) == -1
        || !S_ISREG(st.st_mode))
    {
        s->log_path[0] = '\0';       /* a terminal, a pipe, /dev/null */
    }
}

void
out_take_log(struct supervise *s, int fd)
{
    (void) dup2(fd, STDERR_FILENO);
    (void) dup2(fd, STDOUT_FILENO);
    (void) close(fd);
    note_log_path(s);
    s->log_denied_ns = 0;
    s->standby_ns = 0;
}

void
out_follow_log(struct supervise *s)
{
    struct stat  now, there;

    if (s->log_path[0] == '\0' || stat(s->log_path, &there) == -1
        || fstat(STDERR_FILENO, &now) == -1
        || (now.st_dev == there.st_dev && now.st_ino == there.st_ino))
    {
        return;                      /* moved away, not made anew yet: as nginx */
    }
    int  fd = open(s->log_path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW
                   | O_NOCTTY | O_NONBLOCK);
    if (fd != -1) {
        (void) dup2(fd, STDERR_FILENO);
        (void) dup2(fd, STDOUT_FILENO);
        (void) close(fd);
        s->log_denied_ns = 0;
        return;
    }
    /* nginx makes the file as root and gives it away a moment later. */
    if (s->log_denied_ns == 0) {
        s->log_denied_ns = clock_now_ns();
    } else if (s->log_denied_ns != NEVER
               && clock_now_ns() - s->log_denied_ns > LOG_DENIED_NS) {
        log_warn("cannot open the new \"%s\" (%s): the old file is written "
                 "until nginx is reloaded", s->log_path, strerror(errno));
        s->log_denied_ns = NEVER;
    }
}

static void
put(const char *data, size_t len)
{
    ssize_t  n = len == 0 ? 0 : write(STDERR_FILENO, data, len);
    (void) n;                        /* a full disk must not stop anything */
}

void
out_relay(struct supervise *s)
{
    for (int i = 0; i < RELAY_READS_MAX; i++) {
        ssize_t  n = read(s->relay_fds[0], s->line + s->line_len,
                          sizeof s->line - s->line_len);
        if (n <= 0) {
            return;
        }
        s->line_len += (size_t) n;
        const char  *nl = memrchr(s->line, '\n', s->line_len);
        size_t       len = nl != NULL ? (size_t) (nl - s->line) + 1
                           : s->line_len == sizeof s->line ? s->line_len : 0;
        put(s->line, len);
        s->line_len -= len;
        memmove(s->line, s->line + len, s->line_len);
    }
}

/* ---- signs of life ---------------------------------------------------------------- */

static int
open_notify(struct supervise *s)
{
    struct sockaddr_un  addr = { .sun_family = AF_UNIX };
    socklen_t           len = sizeof(sa_family_t);  /* the kernel finds a name */
    int                 on = 1;

    s->notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->notify_fd == -1
        || setsockopt(s->notify_fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on)
           == -1
        || bind(s->notify_fd, (struct sockaddr *) &addr, len) == -1)
    {
        return ERROR;
    }
    len = sizeof addr;
    if (getsockname(s->notify_fd, (struct sockaddr *) &addr, &len) == -1) {
        return ERROR;
    }
    int  n = (int) len - (int) offsetof(struct sockaddr_un, sun_path) - 1;
    (void) snprintf(s->notify_socket, sizeof s->notify_socket,
                    "NOTIFY_SOCKET=@%.*s", n, addr.sun_path + 1);
    return OK;
}

int
out_open(struct supervise *s)
{
    note_log_path(s);
    if (open_notify(s) != OK
        || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
                      s->relay_fds) == -1)
    {
        return ERROR;
    }
    return OK;
}

/* The sender's process, 0 when the kernel did not say. */
static pid_t
sender(struct msghdr *msg)
{
    struct cmsghdr  *c = CMSG_FIRSTHDR(msg);
    struct ucred     cred = { 0 };

    if (c != NULL && c->cmsg_level == SOL_SOCKET
        && c->cmsg_type == SCM_CREDENTIALS)
    {
        memcpy(&cred, CMSG_DATA(c), sizeof cred);
    }
    return cred.pid;
}

bool
out_hear(struct supervise *s, int64_t now)
{
    bool  ready = false;

    for ( ;; ) {
        union {
            struct cmsghdr  align;
            char            bytes[CMSG_SPACE(sizeof(struct ucred))];
        } control;
        char           text[256];
        struct iovec   iov = { text, sizeof text - 1 };
        struct msghdr  msg = { .msg_iov = &iov, .msg_iovlen = 1,
                               .msg_control = control.bytes,
                               .msg_controllen = sizeof control.bytes };
        ssize_t  n = recvmsg(s->notify_fd, &msg, MSG_DONTWAIT);
        if (n < 0) {
            return ready;
        }
        text[n] = '\0';
        if (s->engine == 0 || sender(&msg) != s->engine) {
            continue;
        }
        ready |= strstr(text, "READY=1") != NULL;
        if (strstr(text, "WATCHDOG=1") != NULL) {
            s->alive_ns = now;
        }
    }
}

/* ---- workers, while there is no engine ---------------------------------------------- */

static void
fill_refusal(const struct supervise *s, struct llm_welcome *w)
{
    char     text[LLM_WELCOME_TEXT_BYTES];
    int64_t  left_ms = (s->start_ns - clock_now_ns()) / NS_PER_MS + 50;

    if (s->given_up) {
        (void) snprintf(text, sizeof text, "%s, it is tried again at the next "
                        "reload", s->reason);
        left_ms = 0;
    } else if (s->start_ns == NEVER) {
        (void) snprintf(text, sizeof text, "it waits for the end of the one "
                        "it replaces");
        left_ms = WAIT_RETRY_MS;
    } else {
        left_ms = left_ms < 50 ? 50 : left_ms;
        (void) snprintf(text, sizeof text, "%s, it is started again in %d s",
                        s->reason, (int) ((left_ms + 999) / 1000));
    }
    llm_wire_init_welcome(w, LLM_WELCOME_DOWN, text);
    w->pid = (uint32_t) getpid();
    w->retry_ms = (uint32_t) left_ms;
}

void
out_refuse(struct supervise *s)
{
    struct llm_welcome  w;
    char                hello[256];
    int                 fd = accept4(s->llm_fd, NULL, NULL,
                                     SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd == -1) {
        return;
    }
    /* Closing with HELLO unread would cost the worker our answer. */
    struct pollfd  pfd = { .fd = fd, .events = POLLIN };
    (void) poll(&pfd, 1, HELLO_WAIT_MS);
    (void) !recv(fd, hello, sizeof hello, MSG_DONTWAIT);
    fill_refusal(s, &w);
    (void) send(fd, &w, sizeof w, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void) close(fd);
}
