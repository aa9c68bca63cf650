
/*
 * ngx_http_llm_owner.c - what a master says to a supervisor, and how it becomes
 * one more owner of one that another master started.
 *
 * Layouts and orders: wire/llm_wire.h.  The master waits for an answer, but
 * never for long: a supervisor does nothing that takes time.
 */


#include "ngx_http_llm.h"
#include <poll.h>


static ngx_int_t ngx_http_llm_owner_send(ngx_fd_t s, struct llm_order *order,
    ngx_fd_t fd);
static ssize_t ngx_http_llm_owner_recv(ngx_fd_t s, struct llm_answer *answer,
    ngx_fd_t *fd);
static ngx_uint_t ngx_http_llm_owner_is_dead(const char *path);


void
ngx_http_llm_owner_path(struct sockaddr_un *sun, ngx_str_t *path)
{
    u_char  *p;

    ngx_memzero(sun, sizeof(struct sockaddr_un));
    sun->sun_family = AF_UNIX;

    p = ngx_cpymem(sun->sun_path, path->data, path->len);
    ngx_memcpy(p, ".owner", sizeof(".owner"));
}


/*
 * Becomes one more owner of a supervisor that another master started.  -1:
 * there is none, or it runs something else, or it is leaving.
 */

ngx_fd_t
ngx_http_llm_owner_attach(ngx_cycle_t *cycle, ngx_http_llm_engine_t *engine)
{
    ngx_fd_t             fd;
    struct pollfd        pfd;
    struct llm_attach    attach;
    struct sockaddr_un   sun;
    struct llm_attached  attached;

    ngx_http_llm_owner_path(&sun, &engine->path);

    fd = socket(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);
    if (fd == -1) {
        return -1;
    }

    if (connect(fd, (struct sockaddr *) &sun, sizeof(sun)) == -1) {
        goto failed;
    }

    ngx_memzero(&attach, sizeof(attach));
    attach.magic = LLM_WIRE_MAGIC;
    attach.version = LLM_WIRE_VERSION;
    attach.attach_bytes = sizeof(attach);
    attach.conf_generation = (uint64_t) ngx_pid;
    ngx_memcpy(attach.key, engine->key, 16);

    if (send(fd, &attach, sizeof(attach), MSG_NOSIGNAL) != sizeof(attach)) {
        goto failed;
    }

    pfd.fd = fd;
    pfd.events = POLLIN;

    if (poll(&pfd, 1, NGX_HTTP_LLM_OWNER_TIMEOUT) != 1
        || recv(fd, &attached, sizeof(attached), 0) != sizeof(attached)
        || attached.magic != LLM_WIRE_MAGIC
        || attached.version != LLM_WIRE_VERSION)
    {
        ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                      "no answer from the supervisor at \"%s\", starting "
                      "another", sun.sun_path);
        goto failed;
    }

    if (attached.status != LLM_ATTACH_OK) {
        ngx_log_error(NGX_LOG_NOTICE, cycle->log, 0,
                      "supervisor %uD of engine \"%V\" %s, starting another",
                      attached.supervisor_pid, &engine->name,
                      attached.status == LLM_ATTACH_LEAVING
                      ? "is leaving" : "has other options");
        goto failed;
    }

    ngx_log_error(NGX_LOG_NOTICE, cycle->log, 0,
                  "engine \"%V\": attached to supervisor %uD, engine %uD",
                  &engine->name, attached.supervisor_pid, attached.engine_pid);

    return fd;

failed:

    (void) close(fd);

    return -1;
}


/*
 * Gives an order.  answer may be NULL: nobody waits for one.  fd: the
 * descriptor that may come with it, or NULL.  NGX_DECLINED: the supervisor is
 * gone; NGX_AGAIN: it does not answer.
 */

ngx_int_t
ngx_http_llm_owner_ask(ngx_fd_t s, ngx_uint_t op,
    ngx_http_llm_engine_t *engine, ngx_cycle_t *cycle,
    struct llm_answer *answer, ngx_fd_t *fd)
{
    ssize_t           n;
    ngx_fd_t          received;
    struct pollfd     pfd;
    struct llm_order  order;

    static uint32_t  serial;

    if (fd) {
        *fd = -1;
    }

    ngx_memzero(&order, sizeof(struct llm_order));
    order.magic = LLM_WIRE_MAGIC;
    order.version = LLM_WIRE_VERSION;
    order.order_bytes = sizeof(struct llm_order);
    order.op = (uint32_t) op;
    order.serial = ++serial;

    if (engine) {
        order.grace_ms = (uint32_t) engine->grace;
        order.hang_ms = (uint32_t) engine->hang;
    }

    if (ngx_http_llm_owner_send(s, &order,
                                op == LLM_ORDER_CLAIM
                                ? ngx_http_llm_spawn_log(cycle) : -1)
        != NGX_OK)
    {
        return NGX_DECLINED;
    }

    if (answer == NULL) {
        return NGX_OK;
    }

    for ( ;; ) {

        pfd.fd = s;
        pfd.events = POLLIN;

        n = poll(&pfd, 1, NGX_HTTP_LLM_OWNER_TIMEOUT);

        if (n == -1 && ngx_errno == NGX_EINTR) {
            continue;
        }

        if (n != 1) {
            return NGX_AGAIN;
        }

        n = ngx_http_llm_owner_recv(s, answer, &received);

        if (n <= 0) {
            return NGX_DECLINED;
        }

        if (n == sizeof(struct llm_answer)
            && answer->magic == LLM_WIRE_MAGIC
            && answer->version == LLM_WIRE_VERSION
            && answer->serial == order.serial)
        {
            answer->previous[LLM_SOCKET_PATH_BYTES - 1] = '\0';

            if (fd) {
                *fd = received;

            } else if (received != -1) {
                (void) close(received);
            }

            return NGX_OK;
        }

        /* the answer to an earlier one, for which nobody has waited */

        if (received != -1) {
            (void) close(received);
        }
    }
}


static ngx_int_t
ngx_http_llm_owner_send(ngx_fd_t s, struct llm_order *order, ngx_fd_t fd)
{
    struct iovec     iov[1];
    struct msghdr    msg;

    union {
        struct cmsghdr  cm;
        char            space[CMSG_SPACE(sizeof(int))];
    } cmsgbuf;

    iov[0].iov_base = (void *) order;
    iov[0].iov_len = sizeof(struct llm_order);

    ngx_memzero(&msg, sizeof(struct msghdr));
    msg.msg_iov = iov;
    msg.msg_iovlen = 1;

    if (fd != -1) {
        ngx_memzero(&cmsgbuf, sizeof(cmsgbuf));
        cmsgbuf.cm.cmsg_len = CMSG_LEN(sizeof(int));
        cmsgbuf.cm.cmsg_level = SOL_SOCKET;
        cmsgbuf.cm.cmsg_type = SCM_RIGHTS;
        ngx_memcpy(CMSG_DATA(&cmsgbuf.cm), &fd, sizeof(int));

        msg.msg_control = &cmsgbuf;
        msg.msg_controllen = sizeof(cmsgbuf);
    }

    if (sendmsg(s, &msg, MSG_NOSIGNAL|MSG_DONTWAIT)
        != sizeof(struct llm_order))
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ssize_t
ngx_http_llm_owner_recv(ngx_fd_t s, struct llm_answer *answer, ngx_fd_t *fd)
{
    ssize_t          n;
    struct iovec     iov[1];
    struct msghdr    msg;

    union {
        struct cmsghdr  cm;
        char            space[CMSG_SPACE(sizeof(int))];
    } cmsgbuf;

    *fd = -1;

    iov[0].iov_base = (void *) answer;
    iov[0].iov_len = sizeof(struct llm_answer);

    ngx_memzero(&msg, sizeof(struct msghdr));
    msg.msg_iov = iov;
    msg.msg_iovlen = 1;
    msg.msg_control = &cmsgbuf;
    msg.msg_controllen = sizeof(cmsgbuf);

    n = recvmsg(s, &msg, MSG_DONTWAIT|MSG_CMSG_CLOEXEC);

    if (n > 0
        && msg.msg_controllen >= CMSG_LEN(sizeof(int))
        && cmsgbuf.cm.cmsg_level == SOL_SOCKET
        && cmsgbuf.cm.cmsg_type == SCM_RIGHTS)
    {
        ngx_memcpy(fd, CMSG_DATA(&cmsgbuf.cm), sizeof(int));
    }

    return n;
}


/* after RETIRE of an engine that does not serve: it ends at once, or soon */

void
ngx_http_llm_owner_wait(ngx_fd_t s)
{
    struct pollfd  pfd;

    pfd.fd = s;
    pfd.events = POLLIN;

    (void) poll(&pfd, 1, NGX_HTTP_LLM_OWNER_TIMEOUT);
}


/*
 * Removes what supervisors of this engine have left: one that was killed, or
 * one that may not write in the directory.  Only the master can do it later.
 */

void
ngx_http_llm_owner_sweep(ngx_str_t *socket)
{
    u_char       path[sizeof(((struct sockaddr_un *) 0)->sun_path)];
    u_char      *p, *name;
    size_t       dir, base, len, suffix;
    ngx_dir_t    d;
    ngx_str_t    folder;

    for (dir = socket->len; dir && socket->data[dir - 1] != '/'; dir--) {
        /* void */
    }

    if (dir == 0 || socket->len + NGX_HTTP_LLM_PATH_SUFFIX > sizeof(path)) {
        return;
    }

    base = socket->len - dir;
    suffix = sizeof(".01234567") - 1;

    ngx_memcpy(path, socket->data, dir);
    path[dir] = '\0';
    folder.data = path;
    folder.len = dir;

    if (ngx_open_dir(&folder, &d) == NGX_ERROR) {
        return;
    }

    while (ngx_read_dir(&d) == NGX_OK) {
        name = ngx_de_name(&d);
        len = ngx_strlen(name);

        if (len != base + NGX_HTTP_LLM_PATH_SUFFIX - 1
            || ngx_memcmp(name, socket->data + dir, base) != 0
            || name[base] != '.'
            || ngx_strcmp(name + base + suffix, ".owner") != 0)
        {
            continue;
        }

        p = ngx_cpymem(path + dir, name, len);
        *p = '\0';

        if (ngx_http_llm_owner_is_dead((char *) path)) {
            (void) unlink((char *) path);
            path[socket->len + suffix] = '\0';
            (void) unlink((char *) path);
        }
    }

    (void) ngx_close_dir(&d);
}


static ngx_uint_t
ngx_http_llm_owner_is_dead(const char *path)
{
    int                 rc;
    ngx_fd_t            fd;
    ngx_err_t           err;
    struct stat         st;
    struct sockaddr_un  sun;

    if (lstat(path, &st) == -1 || !S_ISSOCK(st.st_mode)) {
        return 0;
    }

    fd = socket(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);
    if (fd == -1) {
        return 0;
    }

    ngx_memzero(&sun, sizeof(struct sockaddr_un));
    sun.sun_family = AF_UNIX;
    (void) ngx_cpystrn((u_char *) sun.sun_path, (u_char *) path,
                       sizeof(sun.sun_path));

    rc = connect(fd, (struct sockaddr *) &sun, sizeof(sun));
    err = ngx_errno;

    (void) close(fd);

    return rc == -1 && err == NGX_ECONNREFUSED;
}
