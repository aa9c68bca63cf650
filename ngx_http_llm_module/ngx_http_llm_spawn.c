
/*
 * ngx_http_llm_spawn.c - starts one supervisor: two listening sockets, a
 * lifeline, a clean child.
 *
 *     fd 3 "llm"       PATH, workers connect to it
 *     fd 4 "owner"     PATH.owner, masters connect to it
 *     fd 5 "lifeline"  the other end stays with the master
 *     fd 6 "previous"  the lifeline of the engine it is to replace, if any
 *
 * The child is forked twice, so that it is nobody's child when nginx becomes a
 * daemon and nginx never reaps it; it has its own session, no signal handler,
 * no descriptor and no environment of nginx's.  The parent waits for exec()
 * only, never for the model.
 */


#include "ngx_http_llm.h"
#include <grp.h>
#include <poll.h>
#include <sys/syscall.h>


#define NGX_HTTP_LLM_SPAWN_FDS   4
#define NGX_HTTP_LLM_FIRST_FD    3


typedef struct {
    ngx_cycle_t            *cycle;
    ngx_http_llm_engine_t  *engine;
    ngx_fd_t                fds[NGX_HTTP_LLM_SPAWN_FDS];
    ngx_uint_t              nfds;
    ngx_str_t              *previous;     /* its path */
    ngx_fd_t                report;       /* closed by a successful exec */
    ngx_fd_t                output;       /* -1: /dev/null */
    char                  **argv;
    char                  **envp;
    char                   *listen_pid;   /* room for the number */
} ngx_http_llm_spawn_t;


/* what a failing child writes before it exits */

typedef struct {
    ngx_err_t               err;
    char                    what[28];
} ngx_http_llm_report_t;


static ngx_fd_t ngx_http_llm_spawn_listen(ngx_cycle_t *cycle,
    struct sockaddr_un *sun, ngx_uint_t workers);
static ngx_int_t ngx_http_llm_spawn_argv(ngx_http_llm_spawn_t *sp);
static ngx_int_t ngx_http_llm_spawn_env(ngx_http_llm_spawn_t *sp);
static ngx_uint_t ngx_http_llm_spawn_keeps(ngx_http_llm_engine_t *engine,
    char *var);
static ngx_int_t ngx_http_llm_spawn_fork(ngx_http_llm_spawn_t *sp);
static void ngx_http_llm_spawn_child(ngx_http_llm_spawn_t *sp);
static void ngx_http_llm_spawn_signals(void);
static void ngx_http_llm_spawn_close_from(int first);
static void ngx_http_llm_spawn_failed(ngx_http_llm_spawn_t *sp,
    const char *what);
static ngx_int_t ngx_http_llm_spawn_wait(ngx_http_llm_spawn_t *sp,
    ngx_fd_t report);


/*
 * The master's end of the lifeline, or -1; the reason has been logged.
 * previous, which stays the caller's, is the master's end of the lifeline of
 * the engine to be replaced, or -1.
 */

ngx_fd_t
ngx_http_llm_spawn(ngx_cycle_t *cycle, ngx_http_llm_engine_t *engine,
    ngx_fd_t previous, ngx_str_t *previous_path)
{
    int                   lifeline[2], report[2];
    ngx_uint_t            i;
    ngx_int_t             rc;
    struct sockaddr_un    sun;
    ngx_http_llm_spawn_t  sp;

    ngx_memzero(&sp, sizeof(ngx_http_llm_spawn_t));

    sp.cycle = cycle;
    sp.engine = engine;
    sp.nfds = previous == -1 ? 3 : 4;
    sp.fds[3] = previous;
    sp.previous = previous == -1 ? NULL : previous_path;

    if (ngx_http_llm_spawn_argv(&sp) != NGX_OK
        || ngx_http_llm_spawn_env(&sp) != NGX_OK)
    {
        return -1;
    }

    ngx_memzero(&sun, sizeof(struct sockaddr_un));
    sun.sun_family = AF_UNIX;
    ngx_memcpy(sun.sun_path, engine->path.data, engine->path.len);

    sp.fds[0] = ngx_http_llm_spawn_listen(cycle, &sun, 1);
    if (sp.fds[0] == -1) {
        return -1;
    }

    ngx_http_llm_owner_path(&sun, &engine->path);

    sp.fds[1] = ngx_http_llm_spawn_listen(cycle, &sun, 0);
    if (sp.fds[1] == -1) {
        (void) close(sp.fds[0]);
        (void) unlink((char *) engine->path.data);
        return -1;
    }

    if (socketpair(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC, 0, lifeline) == -1) {
        ngx_log_error(NGX_LOG_ERR, cycle->log, ngx_errno,
                      "socketpair() failed");
        (void) close(sp.fds[0]);
        (void) close(sp.fds[1]);
        (void) unlink((char *) engine->path.data);
        (void) unlink(sun.sun_path);
        return -1;
    }

    sp.fds[2] = lifeline[1];

    if (pipe2(report, O_CLOEXEC) == -1) {
        ngx_log_error(NGX_LOG_ERR, cycle->log, ngx_errno, "pipe2() failed");
        rc = NGX_ERROR;
        goto done;
    }

    sp.report = report[1];
    sp.output = ngx_http_llm_spawn_log(cycle);

    rc = ngx_http_llm_spawn_fork(&sp);

    (void) close(report[1]);

    if (rc == NGX_OK) {
        rc = ngx_http_llm_spawn_wait(&sp, report[0]);
    }

    (void) close(report[0]);

done:

    for (i = 0; i < 3; i++) {
        (void) close(sp.fds[i]);
    }

    if (rc != NGX_OK) {
        (void) close(lifeline[0]);
        (void) unlink((char *) engine->path.data);
        (void) unlink(sun.sun_path);
        return -1;
    }

    ngx_log_error(NGX_LOG_NOTICE, cycle->log, 0,
                  "engine \"%V\": started supervisor, socket \"%V\"",
                  &engine->name, &engine->path);

    return lifeline[0];
}


/*
 * Whoever listened there before is gone, leaving or runs something else; its
 * accepted connections are not touched by the new file.
 */

static ngx_fd_t
ngx_http_llm_spawn_listen(ngx_cycle_t *cycle, struct sockaddr_un *sun,
    ngx_uint_t workers)
{
    int               rc;
    mode_t            mask;
    ngx_fd_t          fd;
    struct stat       st;
    ngx_core_conf_t  *ccf;

    if (lstat(sun->sun_path, &st) == 0) {

        if (!S_ISSOCK(st.st_mode)) {
            ngx_log_error(NGX_LOG_ERR, cycle->log, 0,
                          "\"%s\" exists and is not a socket",
                          sun->sun_path);
            return -1;
        }

        (void) unlink(sun->sun_path);
    }

    fd = socket(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);
    if (fd == -1) {
        ngx_log_error(NGX_LOG_ERR, cycle->log, ngx_errno, "socket() failed");
        return -1;
    }

    mask = umask(0177);
    rc = bind(fd, (struct sockaddr *) sun, sizeof(struct sockaddr_un));
    (void) umask(mask);

    if (rc == -1) {
        ngx_log_error(NGX_LOG_ERR, cycle->log, ngx_errno,
                      "bind() to \"%s\" failed", sun->sun_path);
        goto failed;
    }

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

    if (workers
        && geteuid() == 0
        && chown(sun->sun_path, ccf->user, (gid_t) -1) == -1)
    {
        ngx_log_error(NGX_LOG_ERR, cycle->log, ngx_errno,
                      "chown(\"%s\") failed", sun->sun_path);
        goto failed;
    }

    if (listen(fd, NGX_LISTEN_BACKLOG) == -1) {
        ngx_log_error(NGX_LOG_ERR, cycle->log, ngx_errno,
                      "listen() on \"%s\" failed", sun->sun_path);
        goto failed;
    }

    return fd;

failed:

    (void) close(fd);

    return -1;
}


static ngx_int_t
ngx_http_llm_spawn_argv(ngx_http_llm_spawn_t *sp)
{
    char                  **argv;
    u_char                 *p;
    ngx_str_t              *s;
    ngx_uint_t              i;
    ngx_pool_t             *pool;
    ngx_http_llm_engine_t  *engine;

    engine = sp->engine;
    pool = sp->cycle->pool;

    argv = ngx_palloc(pool, (engine->options->nelts + 11) * sizeof(char *));

    p = ngx_pnalloc(pool, sizeof("--supervise-key=") + 32
                          + sizeof("--supervise-name=") + engine->name.len
                          + sizeof("--supervise-socket=") + engine->path.len
                          + sizeof("--supervise-grace=") + NGX_INT64_LEN
                          + sizeof("--supervise-hang=") + NGX_INT64_LEN
                          + sizeof("--supervise-previous=")
                          + (sp->previous ? sp->previous->len : 0));

    if (argv == NULL || p == NULL) {
        return NGX_ERROR;
    }

    sp->argv = argv;

    *argv++ = (char *) engine->binary.data;
    *argv++ = "--supervise";

    *argv++ = (char *) p;
    p = ngx_cpymem(p, "--supervise-key=", sizeof("--supervise-key=") - 1);
    p = ngx_hex_dump(p, engine->key, 16);
    *p++ = '\0';

    *argv++ = (char *) p;
    p = ngx_sprintf(p, "--supervise-name=%V%Z", &engine->name);

    *argv++ = (char *) p;
    p = ngx_sprintf(p, "--supervise-socket=%V%Z", &engine->path);

    *argv++ = (char *) p;
    p = ngx_sprintf(p, "--supervise-grace=%M%Z", engine->grace);

    *argv++ = (char *) p;
    p = ngx_sprintf(p, "--supervise-hang=%M%Z", engine->hang);

    if (sp->previous) {
        *argv++ = (char *) p;
        (void) ngx_sprintf(p, "--supervise-previous=%V%Z", sp->previous);

        if (engine->replace) {
            *argv++ = "--supervise-replace";
        }
    }

    *argv++ = "--";

    s = engine->options->elts;

    for (i = 0; i < engine->options->nelts; i++) {
        *argv++ = (char *) s[i].data;
    }

    *argv = NULL;

    return NGX_OK;
}


static ngx_int_t
ngx_http_llm_spawn_env(ngx_http_llm_spawn_t *sp)
{
    char        **env;
    u_char       *p;
    ngx_str_t    *s;
    ngx_uint_t    i, n;
    ngx_pool_t   *pool;

    pool = sp->cycle->pool;

    for (n = 0; environ[n]; n++) { /* void */ }

    env = ngx_palloc(pool, (n + sp->engine->env->nelts + 5) * sizeof(char *));

    p = ngx_pnalloc(pool, sizeof("LISTEN_PID=") + NGX_INT64_LEN);
    if (env == NULL || p == NULL) {
        return NGX_ERROR;
    }

    sp->envp = env;

    ngx_memcpy(p, "LISTEN_PID=", sizeof("LISTEN_PID="));
    sp->listen_pid = (char *) p + sizeof("LISTEN_PID=") - 1;

    *env++ = (char *) p;

    if (sp->nfds == 4) {
        *env++ = "LISTEN_FDS=4";
        *env++ = "LISTEN_FDNAMES=llm:owner:lifeline:previous";

    } else {
        *env++ = "LISTEN_FDS=3";
        *env++ = "LISTEN_FDNAMES=llm:owner:lifeline";
    }

    for (i = 0; i < n; i++) {
        if (ngx_http_llm_spawn_keeps(sp->engine, environ[i])) {
            *env++ = environ[i];
        }
    }

    s = sp->engine->env->elts;

    for (i = 0; i < sp->engine->env->nelts; i++) {
        if (ngx_strlchr(s[i].data, s[i].data + s[i].len, '=')) {
            *env++ = (char *) s[i].data;
        }
    }

    *env = NULL;

    return NGX_OK;
}


/* the engine inherits PATH, CUDA_*, NVIDIA_* and what "env NAME;" names */

static ngx_uint_t
ngx_http_llm_spawn_keeps(ngx_http_llm_engine_t *engine, char *var)
{
    ngx_str_t   *s;
    ngx_uint_t   i;

    if (ngx_strncmp(var, "PATH=", 5) == 0
        || ngx_strncmp(var, "CUDA_", 5) == 0
        || ngx_strncmp(var, "NVIDIA_", 7) == 0)
    {
        return 1;
    }

    s = engine->env->elts;

    for (i = 0; i < engine->env->nelts; i++) {
        if (ngx_strncmp(var, s[i].data, s[i].len) == 0 && var[s[i].len] == '=')
        {
            return 1;
        }
    }

    return 0;
}


/*
 * The engine's words go to the error log.  The standard error of a daemon is
 * somebody's pipe, which must not stay open for the engine's life.
 */

ngx_fd_t
ngx_http_llm_spawn_log(ngx_cycle_t *cycle)
{
    ngx_log_t        *log;
    ngx_core_conf_t  *ccf;

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

    log = ngx_log_get_file_log(&cycle->new_log);

    if (log == NULL || log->file == NULL || log->file->fd == NGX_INVALID_FILE) {
        return -1;
    }

    if (log->file->fd == ngx_stderr && ccf->daemon != 0) {
        return -1;
    }

    return log->file->fd;
}


static ngx_int_t
ngx_http_llm_spawn_fork(ngx_http_llm_spawn_t *sp)
{
    pid_t      pid;
    sigset_t   set, old;
    ngx_int_t  rc;

    /* with master_process off SIGCHLD is not blocked and nginx would reap it */

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    (void) sigprocmask(SIG_BLOCK, &set, &old);

    rc = NGX_OK;

    pid = fork();

    switch (pid) {

    case -1:
        ngx_log_error(NGX_LOG_ERR, sp->cycle->log, ngx_errno,
                      "fork() failed");
        rc = NGX_ERROR;
        break;

    case 0:
        ngx_http_llm_spawn_signals();
        (void) setsid();

        switch (fork()) {

        case -1:
            ngx_http_llm_spawn_failed(sp, "fork()");
            break;

        case 0:
            ngx_http_llm_spawn_child(sp);
            break;

        default:
            break;
        }

        _exit(0);

    default:
        while (waitpid(pid, NULL, 0) == -1 && ngx_errno == NGX_EINTR) {
            /* void */
        }

        break;
    }

    (void) sigprocmask(SIG_SETMASK, &old, NULL);

    return rc;
}


/* in the grandchild; returns never */

static void
ngx_http_llm_spawn_child(ngx_http_llm_spawn_t *sp)
{
    int          fd, out;
    ngx_uint_t   i;

    (void) ngx_sprintf((u_char *) sp->listen_pid, "%P%Z", getpid());

    /* move everything out of the way, then into its place */

    sp->report = fcntl(sp->report, F_DUPFD_CLOEXEC, 16);
    out = sp->output;

    if (out != -1) {
        out = fcntl(out, F_DUPFD_CLOEXEC, 16);
    }

    for (i = 0; i < sp->nfds; i++) {
        sp->fds[i] = fcntl(sp->fds[i], F_DUPFD_CLOEXEC, 16);
    }

    for (i = 0; i < sp->nfds; i++) {
        if (dup2(sp->fds[i], NGX_HTTP_LLM_FIRST_FD + i) == -1) {
            ngx_http_llm_spawn_failed(sp, "dup2()");
        }
    }

    fd = open("/dev/null", O_RDWR);
    if (fd == -1) {
        ngx_http_llm_spawn_failed(sp, "open(\"/dev/null\")");
    }

    if (out == -1) {
        out = fd;
    }

    if (dup2(fd, STDIN_FILENO) == -1
        || dup2(out, STDOUT_FILENO) == -1
        || dup2(out, STDERR_FILENO) == -1)
    {
        ngx_http_llm_spawn_failed(sp, "dup2()");
    }

    /* the report must lie right above, everything else goes */

    fd = NGX_HTTP_LLM_FIRST_FD + sp->nfds;

    if (dup3(sp->report, fd, O_CLOEXEC) == -1) {
        ngx_http_llm_spawn_failed(sp, "dup3()");
    }

    sp->report = fd;

    ngx_http_llm_spawn_close_from(fd + 1);

    (void) umask(022);

    if (sp->engine->drop) {

        if (setgid(sp->engine->gid) == -1) {
            ngx_http_llm_spawn_failed(sp, "setgid()");
        }

        if (sp->engine->user.len
            && initgroups((char *) sp->engine->user.data, sp->engine->gid)
               == -1)
        {
            ngx_http_llm_spawn_failed(sp, "initgroups()");
        }

        if (setuid(sp->engine->uid) == -1) {
            ngx_http_llm_spawn_failed(sp, "setuid()");
        }
    }

    (void) execve(sp->argv[0], sp->argv, sp->envp);

    ngx_http_llm_spawn_failed(sp, "execve()");
}


/* first of all: a blocked SIGCHLD would run nginx's handler in the child */

static void
ngx_http_llm_spawn_signals(void)
{
    int               sig;
    sigset_t          set;
    struct sigaction  sa;

    ngx_memzero(&sa, sizeof(struct sigaction));
    sa.sa_handler = SIG_DFL;
    sigemptyset(&sa.sa_mask);

    for (sig = 1; sig < NSIG; sig++) {
        (void) sigaction(sig, &sa, NULL);
    }

    sigemptyset(&set);
    (void) sigprocmask(SIG_SETMASK, &set, NULL);
}


static void
ngx_http_llm_spawn_close_from(int first)
{
    int   fd;
    long  max;

#ifdef SYS_close_range
    if (syscall(SYS_close_range, (unsigned) first, ~0U, 0) == 0) {
        return;
    }
#endif

    max = sysconf(_SC_OPEN_MAX);

    if (max < 0 || max > 1048576) {
        max = 1048576;
    }

    for (fd = first; fd < max; fd++) {
        (void) close(fd);
    }
}


static void
ngx_http_llm_spawn_failed(ngx_http_llm_spawn_t *sp, const char *what)
{
    ssize_t                n;
    ngx_http_llm_report_t  report;

    ngx_memzero(&report, sizeof(ngx_http_llm_report_t));

    report.err = ngx_errno;
    (void) ngx_cpystrn((u_char *) report.what, (u_char *) what,
                       sizeof(report.what));

    n = write(sp->report, &report, sizeof(ngx_http_llm_report_t));
    (void) n;

    _exit(1);
}


static ngx_int_t
ngx_http_llm_spawn_wait(ngx_http_llm_spawn_t *sp, ngx_fd_t fd)
{
    int                    rc;
    ssize_t                n;
    struct pollfd          pfd;
    ngx_http_llm_report_t  report;

    pfd.fd = fd;
    pfd.events = POLLIN;

    do {
        rc = poll(&pfd, 1, NGX_HTTP_LLM_EXEC_TIMEOUT);
    } while (rc == -1 && ngx_errno == NGX_EINTR);

    if (rc == 0) {
        ngx_log_error(NGX_LOG_WARN, sp->cycle->log, 0,
                      "engine \"%V\": supervisor is slow to start",
                      &sp->engine->name);
        return NGX_OK;
    }

    n = read(fd, &report, sizeof(ngx_http_llm_report_t));

    if (n == 0) {
        return NGX_OK;
    }

    if (n == sizeof(ngx_http_llm_report_t)) {
        report.what[sizeof(report.what) - 1] = '\0';
        ngx_log_error(NGX_LOG_ERR, sp->cycle->log, report.err,
                      "engine \"%V\": %s of \"%V\" failed",
                      &sp->engine->name, report.what, &sp->engine->binary);
    }

    return NGX_ERROR;
}
