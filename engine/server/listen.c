/* listen.c - LISTEN_FDS or bind(); SOCK_SEQPACKET either way. */
#include "engine/server/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

void
listen_env_init(struct listen_env *out, char **envp)
{
    static const char *const  names[] = {
        "LISTEN_PID=", "LISTEN_FDS=", "LISTEN_FDNAMES="
    };
    const char  **fields[] = { &out->pid, &out->fds, &out->names };

    memset(out, 0, sizeof *out);
    for ( ; envp != NULL && *envp != NULL; envp++) {
        for (int i = 0; i < 3; i++) {
            size_t  len = strlen(names[i]);
            if (strncmp(*envp, names[i], len) == 0) {
                *fields[i] = *envp + len;
            }
        }
    }
}

/* Which of the colon-separated names it is; without names there must be one
 * descriptor only.  -1: none. */
static int
find_name(const char *names, const char *name, int num_fds)
{
    size_t  name_len = strlen(name);

    if (names == NULL || *names == '\0') {
        return num_fds == 1 ? 0 : -1;
    }
    for (int i = 0; i < num_fds; i++) {
        size_t  len = strcspn(names, ":");
        if (len == name_len && memcmp(names, name, len) == 0) {
            return i;
        }
        names += len;
        if (*names == ':') {
            names++;
        }
    }
    return -1;
}

static int
check_socket(int fd, struct err *err)
{
    int        type = 0;
    socklen_t  len = sizeof type;

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == -1) {
        return err_set(err, "LISTEN_FDS: descriptor %d: %s", fd,
                       strerror(errno));
    }
    if (type != SOCK_SEQPACKET) {
        return err_set(err, "LISTEN_FDS: descriptor %d is not a SOCK_SEQPACKET "
                       "socket (systemd: ListenSequentialPacket=)", fd);
    }
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) == -1
        || fcntl(fd, F_SETFL, O_NONBLOCK) == -1)
    {
        return err_set(err, "LISTEN_FDS: descriptor %d: %s", fd,
                       strerror(errno));
    }
    return OK;
}

int
listen_inherited(int *fd, const struct listen_env *env, const char *name,
                 struct err *err)
{
    long  num;
    int   idx;

    *fd = -1;
    if (env == NULL || env->pid == NULL || env->fds == NULL
        || strtol(env->pid, NULL, 10) != (long) getpid())
    {
        return AGAIN;
    }
    num = strtol(env->fds, NULL, 10);
    if (num < 1 || num > LISTEN_FDS_MAX) {
        return err_set(err, "LISTEN_FDS=%s is not in 1..%d", env->fds,
                       LISTEN_FDS_MAX);
    }
    idx = find_name(env->names, name, (int) num);
    if (idx < 0) {
        return err_set(err, "LISTEN_FDNAMES=%s names no \"%s\"",
                       env->names == NULL ? "" : env->names, name);
    }
    if (check_socket(LISTEN_FD_FIRST + idx, err) != OK) {
        return ERROR;
    }
    *fd = LISTEN_FD_FIRST + idx;
    return OK;
}

/* OK when nothing is at the path or a dead socket was removed. */
static int
remove_stale(const struct sockaddr_un *addr, struct err *err)
{
    struct stat  st;
    int          fd, rc, e;

    if (lstat(addr->sun_path, &st) == -1) {
        return errno == ENOENT ? OK
               : err_set(err, "--socket %s: %s", addr->sun_path,
                         strerror(errno));
    }
    if (!S_ISSOCK(st.st_mode)) {
        return err_set(err, "--socket %s: exists and is not a socket",
                       addr->sun_path);
    }
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd == -1) {
        return err_set(err, "socket(): %s", strerror(errno));
    }
    rc = connect(fd, (const struct sockaddr *) addr, sizeof *addr);
    e = errno;
    (void) close(fd);
    if (rc == 0 || e != ECONNREFUSED) {
        return err_set(err, "--socket %s: another process listens there (%s)",
                       addr->sun_path, rc == 0 ? "it answered" : strerror(e));
    }
    if (unlink(addr->sun_path) == -1) {
        return err_set(err, "--socket %s: cannot remove the stale socket: %s",
                       addr->sun_path, strerror(errno));
    }
    return OK;
}

static int
bind_path(struct listen *out, const char *path, struct err *err)
{
    struct sockaddr_un  addr = { .sun_family = AF_UNIX };
    size_t              len = strlen(path);

    if (len == 0 || len > LISTEN_PATH_MAX) {
        return err_set(err, "--socket: a path of %zu bytes, 1..%d are possible",
                       len, LISTEN_PATH_MAX);
    }
    memcpy(addr.sun_path, path, len + 1);
    memcpy(out->path, path, len + 1);
    if (remove_stale(&addr, err) != OK) {
        return ERROR;
    }
    out->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (out->fd == -1) {
        return err_set(err, "socket(): %s", strerror(errno));
    }
    /* bind() gives the file the socket's own mode: no moment with another. */
    if (fchmod(out->fd, 0660) == -1
        || bind(out->fd, (struct sockaddr *) &addr, sizeof addr) == -1)
    {
        (void) err_set(err, "--socket %s: %s", path, strerror(errno));
        goto fail;
    }
    out->own = true;
    if (listen(out->fd, LISTEN_BACKLOG) == -1) {
        (void) err_set(err, "--socket %s: %s", path, strerror(errno));
        goto fail;
    }
    return OK;

fail:
    listen_close(out);
    return ERROR;
}

int
listen_open(struct listen *out, const struct listen_env *env, const char *path,
            struct err *err)
{
    int  rc;

    memset(out, 0, sizeof *out);
    rc = listen_inherited(&out->fd, env, "llm", err);
    if (rc != AGAIN) {
        return rc;
    }
    if (path == NULL) {
        return err_set(err, "no socket: give --socket PATH or start through "
                       "nginx or systemd (LISTEN_FDS)");
    }
    return bind_path(out, path, err);
}

void
listen_close(struct listen *l)
{
    if (l->fd != -1) {
        (void) close(l->fd);
        l->fd = -1;
    }
    if (l->own) {
        (void) unlink(l->path);
        l->own = false;
    }
}
