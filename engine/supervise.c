/* supervise.c - one poll loop: owners, a child, a standby, three deadlines. */
#include "engine/supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/server/listen.h"
#include "wire/llm_wire.h"

#define NEVER      INT64_MAX
#define POLL_FDS   (SUPERVISE_OWNERS_MAX + 2)

enum { FILES = 2 };                /* PATH and PATH.owner */

struct owner {
    int  fd;
    bool attached;                 /* false: ATTACH has not come yet */
};

struct supervise {
    /* fixed */
    uint8_t  key[16];
    const char *socket_path;       /* "" when unknown */
    int64_t  grace_ns;
    char   **argv;                 /* of the engine */
    char   **envp;
    char     listen_pid[32];       /* envp[0] */
    int      llm_fd, owner_fd;     /* -1: none */
    bool     owned;                /* there was a lifeline */
    dev_t    dev[FILES];
    ino_t    ino[FILES];

    struct owner owners[SUPERVISE_OWNERS_MAX];
    int      num_owners;

    pid_t    engine;               /* 0: none */
    int64_t  started_ns;
    int64_t  start_ns;             /* when to start it next, NEVER */
    int      backoff_s;
    bool     given_up;             /* exit code 78 */

    bool     leaving;
    bool     term_sent;
    int64_t  kill_ns;              /* when to send SIGKILL, NEVER */

    pid_t    standby;              /* 0: none */
    int      standby_fd;           /* its EOF is our death */
    int64_t  standby_ns;           /* when to fork the next, NEVER */
    int      signal_fd;
};

static int
hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "PATH" or "PATH.owner"; false when it does not fit. */
static bool
file_name(const struct supervise *s, int i, char *out, size_t cap)
{
    int  n = snprintf(out, cap, "%s%s", s->socket_path, i == 0 ? "" : ".owner");
    return s->socket_path[0] != '\0' && n > 0 && (size_t) n < cap;
}

static bool
read_option(struct supervise *s, const char *arg)
{
    static const char  key[] = "--supervise-key=";
    static const char  path[] = "--supervise-socket=";
    static const char  grace[] = "--supervise-grace=";

    if (strncmp(arg, key, sizeof key - 1) == 0) {
        const char  *hex = arg + sizeof key - 1;
        for (size_t i = 0; i < sizeof s->key && strlen(hex) == 32; i++) {
            int  hi = hex_digit(hex[2 * i]), lo = hex_digit(hex[2 * i + 1]);
            if (hi < 0 || lo < 0) {
                break;
            }
            s->key[i] = (uint8_t) (hi << 4 | lo);
        }
        return true;
    }
    if (strncmp(arg, path, sizeof path - 1) == 0) {
        s->socket_path = arg + sizeof path - 1;
        return true;
    }
    if (strncmp(arg, grace, sizeof grace - 1) == 0) {
        char  *end;
        long   ms = strtol(arg + sizeof grace - 1, &end, 10);
        if (*end == '\0' && ms >= 0 && ms <= INT32_MAX) {
            s->grace_ns = ms * NS_PER_MS;
        }
        return true;
    }
    return strcmp(arg, "--supervise") == 0;
}

/* The engine's arguments are what is left of ours. */
static bool
read_arguments(struct supervise *s, int argc, char **argv)
{
    s->argv = calloc((size_t) argc + 1, sizeof *s->argv);
    if (s->argv == NULL) {
        return false;
    }
    int   n = 0;
    bool  ours = true;
    s->argv[n++] = strchr(argv[0], '/') != NULL ? argv[0] : "/proc/self/exe";
    for (int i = 1; i < argc; i++) {
        if (ours && strcmp(argv[i], "--") == 0) {
            ours = false;
        } else if (!ours || !read_option(s, argv[i])) {
            s->argv[n++] = argv[i];
        }
    }
    return true;
}

/* Ours without LISTEN_*, which is said anew for each engine. */
static bool
read_environment(struct supervise *s)
{
    size_t  n = 0;
    while (environ[n] != NULL) {
        n++;
    }
    s->envp = calloc(n + 4, sizeof *s->envp);
    if (s->envp == NULL) {
        return false;
    }
    size_t  k = 0;
    if (s->llm_fd != -1) {
        s->envp[k++] = s->listen_pid;
        s->envp[k++] = "LISTEN_FDS=1";
        s->envp[k++] = "LISTEN_FDNAMES=llm";
    }
    for (size_t i = 0; i < n; i++) {
        if (strncmp(environ[i], "LISTEN_", 7) != 0) {
            s->envp[k++] = environ[i];
        }
    }
    return true;
}

static void
inherit(struct supervise *s)
{
    struct listen_env  env;
    int                fd;

    s->llm_fd = s->owner_fd = -1;
    listen_env_init(&env, environ);
    if (listen_inherited(&fd, &env, "llm", NULL) == OK) {
        s->llm_fd = fd;
    }
    if (listen_inherited(&fd, &env, "owner", NULL) == OK) {
        s->owner_fd = fd;
    }
    if (listen_inherited(&fd, &env, "lifeline", NULL) == OK) {
        s->owners[0] = (struct owner) { .fd = fd, .attached = true };
        s->num_owners = 1;
        s->owned = true;
    }
    for (int i = 0; i < FILES; i++) {
        char         name[LISTEN_PATH_MAX + 1];
        struct stat  st;
        if (file_name(s, i, name, sizeof name) && lstat(name, &st) == 0) {
            s->dev[i] = st.st_dev;
            s->ino[i] = st.st_ino;
        }
    }
}

/* Signals arrive on a descriptor; the engine and the standby get them plain. */
static int
open_signals(sigset_t *old)
{
    sigset_t  set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGQUIT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGPIPE);
    (void) sigprocmask(SIG_BLOCK, &set, old);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void
unblock_signals(void)
{
    sigset_t  none;
    sigemptyset(&none);
    (void) sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Its owners may have other options, which they can then start anew. */
static void
tell_given_up(const struct owner *o)
{
    (void) send(o->fd, "g", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* ---- the engine ----------------------------------------------------------- */

/* In the child; the only way back is _exit(). */
static _Noreturn void
run_engine(struct supervise *s, pid_t parent)
{
    (void) setpgid(0, 0);
    (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) {
        _exit(1);
    }
    unblock_signals();
    if (s->llm_fd != -1) {
        (void) snprintf(s->listen_pid, sizeof s->listen_pid, "LISTEN_PID=%d",
                        (int) getpid());
        if (s->llm_fd == LISTEN_FD_FIRST) {
            (void) fcntl(s->llm_fd, F_SETFD, 0);
        } else {
            (void) dup2(s->llm_fd, LISTEN_FD_FIRST);
        }
    }
    (void) execve(s->argv[0], s->argv, s->envp);
    log_error("execve(\"%s\") failed (%d: %s)", s->argv[0], errno,
              strerror(errno));
    _exit(127);
}

static void
retry_later(struct supervise *s, int64_t now)
{
    s->start_ns = now + s->backoff_s * NS_PER_S;
    log_notice("the engine is started again in %d s", s->backoff_s);
    s->backoff_s = s->backoff_s * 2 < SUPERVISE_BACKOFF_MAX_S
                   ? s->backoff_s * 2 : SUPERVISE_BACKOFF_MAX_S;
}

static void
start_engine(struct supervise *s, int64_t now)
{
    pid_t  parent = getpid();
    pid_t  pid = fork();
    s->start_ns = NEVER;
    if (pid == 0) {
        run_engine(s, parent);
    }
    if (pid == -1) {
        log_error("fork() failed (%d: %s)", errno, strerror(errno));
        retry_later(s, now);
        return;
    }
    (void) setpgid(pid, pid);      /* both sides: whoever comes first */
    s->engine = pid;
    s->started_ns = now;
    log_notice("engine %d started", (int) pid);
}

static void
engine_ended(struct supervise *s, int status, int64_t now)
{
    pid_t  pid = s->engine;
    s->engine = 0;
    (void) kill(-pid, SIGKILL);    /* whatever it has left behind */

    if (WIFSIGNALED(status)) {
        log_write(s->leaving ? LOG_NOTICE : LOG_ERR,
                  "engine %d ended by signal %d", (int) pid, WTERMSIG(status));
    } else {
        log_write(s->leaving ? LOG_NOTICE : LOG_ERR,
                  "engine %d exited with code %d", (int) pid,
                  WEXITSTATUS(status));
    }
    if (s->leaving) {
        return;
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == SUPERVISE_EX_CONFIG) {
        log_error("the engine's configuration is wrong, see above; it is tried"
                  " again at the next reload of nginx");
        s->given_up = true;
        for (int i = 0; i < s->num_owners; i++) {
            if (s->owners[i].attached) {
                tell_given_up(&s->owners[i]);
            }
        }
        return;
    }
    if (now - s->started_ns >= SUPERVISE_HEALTHY_S * NS_PER_S) {
        s->backoff_s = 1;
    }
    retry_later(s, now);
}

/* ---- the standby ---------------------------------------------------------- */

static void
stop_standby(struct supervise *s)
{
    if (s->standby != 0) {
        (void) kill(s->standby, SIGKILL);
        (void) waitpid(s->standby, NULL, 0);
        s->standby = 0;
    }
    if (s->standby_fd != -1) {
        (void) close(s->standby_fd);
        s->standby_fd = -1;
    }
}

/* In the standby: returns when the supervisor has been killed. */
static void
wait_for_death(struct supervise *s, int fd)
{
    char  byte;

    (void) prctl(PR_SET_NAME, "llm-standby");
    (void) close(s->standby_fd);
    (void) close(s->signal_fd);
    unblock_signals();
    ssize_t  n;
    do {
        n = read(fd, &byte, 1);
    } while (n == -1 && errno == EINTR);
    (void) close(fd);
    if (n != 0) {
        _exit(1);
    }
    (void) prctl(PR_SET_NAME, "llm-supervisor");
    s->signal_fd = open_signals(NULL);
    s->standby = 0;
    s->standby_fd = -1;
    s->standby_ns = 0;
    s->engine = 0;                 /* died with its supervisor */
    s->given_up = false;
    s->backoff_s = 1;
    if (s->leaving) {
        _exit(1);
    }
    log_warn("supervisor was killed, its standby %d takes over",
             (int) getpid());
    retry_later(s, clock_now_ns());
}

/* Forked anew whenever the owners change, so that it holds what we hold. */
static void
start_standby(struct supervise *s, int64_t now)
{
    int  fds[2];

    stop_standby(s);
    s->standby_ns = NEVER;
    if (pipe2(fds, O_CLOEXEC) == -1) {
        s->standby_ns = now + NS_PER_S;
        return;
    }
    s->standby_fd = fds[1];
    pid_t  pid = fork();
    if (pid == 0) {
        wait_for_death(s, fds[0]);
        return;                    /* as the supervisor */
    }
    (void) close(fds[0]);
    if (pid == -1) {
        log_warn("fork() of the standby failed (%d: %s)", errno,
                 strerror(errno));
        s->standby_ns = now + NS_PER_S;
        return;
    }
    s->standby = pid;
}

/* ---- owners ---------------------------------------------------------------- */

static void
leave(struct supervise *s)
{
    if (!s->leaving) {
        s->leaving = true;
        s->standby_ns = NEVER;
        stop_standby(s);
        log_notice("supervisor leaves%s", s->engine == 0 ? ""
                   : ", the engine finishes what it has");
    }
}

static void
drop_owner(struct supervise *s, int i)
{
    bool  attached = s->owners[i].attached;

    (void) close(s->owners[i].fd);
    s->owners[i] = s->owners[--s->num_owners];
    if (!attached) {
        return;
    }
    for (i = 0; i < s->num_owners; i++) {
        if (s->owners[i].attached) {
            s->standby_ns = 0;
            return;
        }
    }
    if (s->owned) {
        leave(s);
    }
}

static void
accept_owner(struct supervise *s)
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
    if (send(o->fd, &r, sizeof r, MSG_NOSIGNAL) != (ssize_t) sizeof r
        || r.status != LLM_ATTACH_OK)
    {
        return false;
    }
    o->attached = true;
    s->owned = true;
    s->standby_ns = 0;
    log_notice("another nginx owns the engine too");
    if (s->given_up) {
        tell_given_up(o);
    }
    return true;
}

static int
count_attached(const struct supervise *s)
{
    int  n = 0;
    for (int i = 0; i < s->num_owners; i++) {
        n += s->owners[i].attached;
    }
    return n;
}

static void
hear_owner(struct supervise *s, int i)
{
    struct owner *o = &s->owners[i];
    uint8_t  buf[sizeof(struct llm_attach) + 1];
    ssize_t  n = recv(o->fd, buf, sizeof buf, MSG_DONTWAIT);

    if (n == -1 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        if (o->attached) {
            log_warn("an owner is gone without a word");
        }
        drop_owner(s, i);
        return;
    }
    if (!o->attached) {
        if (!attach_owner(s, o, buf, (size_t) n)) {
            drop_owner(s, i);
        }
        return;
    }
    if (n == 1 && buf[0] == 'r') {
        if (s->given_up) {
            s->given_up = false;
            s->backoff_s = 1;
            s->start_ns = 0;
        }
        return;
    }
    if (n == 1 && buf[0] == 'q') {
        (void) send(o->fd, count_attached(s) == 1 ? "l" : "s", 1, MSG_NOSIGNAL);
    }
    drop_owner(s, i);
}

/* ---- the loop --------------------------------------------------------------- */

static void
hear_signals(struct supervise *s, int64_t now)
{
    struct signalfd_siginfo  info;

    while (read(s->signal_fd, &info, sizeof info) == (ssize_t) sizeof info) {
        if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT
            || info.ssi_signo == SIGQUIT)
        {
            leave(s);
        }
    }
    for (;;) {
        int    status;
        pid_t  pid = waitpid(-1, &status, WNOHANG);
        if (pid <= 0) {
            return;
        }
        if (pid == s->engine) {
            engine_ended(s, status, now);
        } else if (pid == s->standby) {
            s->standby = 0;
            s->standby_ns = now + NS_PER_S / 10;
        }
    }
}

/* Whatever is due now.  false: everything is over. */
static bool
work(struct supervise *s, int64_t now)
{
    if (s->leaving) {
        if (s->engine == 0) {
            return false;
        }
        if (!s->term_sent) {
            s->term_sent = true;
            s->kill_ns = now + s->grace_ns;
            (void) kill(s->engine, SIGTERM);
        } else if (now >= s->kill_ns) {
            log_error("engine %d has not finished in time, killed",
                      (int) s->engine);
            (void) kill(-s->engine, SIGKILL);
            s->kill_ns = NEVER;
        }
        return true;
    }
    if (now >= s->standby_ns) {
        start_standby(s, now);
    }
    if (s->engine == 0 && now >= s->start_ns) {
        start_engine(s, now);
    }
    return true;
}

static int
time_left_ms(const struct supervise *s, int64_t now)
{
    int64_t  next = NEVER;
    int64_t  due[3] = { s->leaving ? NEVER : s->standby_ns,
                        s->leaving || s->engine != 0 ? NEVER : s->start_ns,
                        s->leaving ? s->kill_ns : NEVER };
    for (int i = 0; i < 3; i++) {
        next = due[i] < next ? due[i] : next;
    }
    if (next == NEVER) {
        return -1;
    }
    int64_t  ms = (next - now) / NS_PER_MS + 1;
    return ms < 0 ? 0 : ms > 60000 ? 60000 : (int) ms;
}

static void
run(struct supervise *s)
{
    for (;;) {
        int64_t  now = clock_now_ns();
        if (!work(s, now)) {
            return;
        }
        struct pollfd  fds[POLL_FDS] = {
            { .fd = s->signal_fd, .events = POLLIN },
            { .fd = s->owner_fd, .events = POLLIN },
        };
        int  n = s->num_owners;
        for (int i = 0; i < n; i++) {
            fds[i + 2] = (struct pollfd) { .fd = s->owners[i].fd,
                                           .events = POLLIN };
        }
        if (poll(fds, (nfds_t) n + 2, time_left_ms(s, now)) <= 0) {
            continue;
        }
        for (int i = n - 1; i >= 0; i--) {     /* hearing may drop owner i */
            if (fds[i + 2].revents != 0) {
                hear_owner(s, i);
            }
        }
        if (fds[1].revents != 0) {
            accept_owner(s);
        }
        if (fds[0].revents != 0) {
            hear_signals(s, clock_now_ns());
        }
    }
}

/* Only files that are still ours; nginx may have removed or replaced them. */
static void
remove_files(const struct supervise *s)
{
    for (int i = 0; i < FILES; i++) {
        char         name[LISTEN_PATH_MAX + 1];
        struct stat  st;
        if (s->owned && s->ino[i] != 0 && file_name(s, i, name, sizeof name)
            && lstat(name, &st) == 0 && st.st_dev == s->dev[i]
            && st.st_ino == s->ino[i])
        {
            (void) unlink(name);
        }
    }
}

bool
supervise_wanted(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--supervise") == 0) {
            return true;
        }
    }
    return false;
}

int
supervise_main(int argc, char **argv)
{
    struct supervise  s = {
        .socket_path = "", .grace_ns = SUPERVISE_GRACE_MS * NS_PER_MS,
        .kill_ns = NEVER, .backoff_s = 1, .standby_fd = -1,
    };

    if (!read_arguments(&s, argc, argv)) {
        log_error("no memory");
        return 1;
    }
    inherit(&s);
    if (!read_environment(&s)) {
        log_error("no memory");
        return 1;
    }
    s.signal_fd = open_signals(NULL);
    if (s.signal_fd == -1) {
        log_error("signalfd() failed (%d: %s)", errno, strerror(errno));
        return 1;
    }
    (void) prctl(PR_SET_NAME, "llm-supervisor");

    run(&s);

    remove_files(&s);
    log_notice("supervisor exits");
    free(s.envp);
    free(s.argv);
    return 0;
}
