/* supervise.c - one poll loop: owners, a child, a standby, a few deadlines. */
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
#include "engine/supervise_int.h"

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

/* The value of "--supervise-NAME=VALUE", or NULL. */
static const char *
value_of(const char *arg, const char *name)
{
    static const char  prefix[] = "--supervise-";
    size_t             len = strlen(name);

    if (strncmp(arg, prefix, sizeof prefix - 1) != 0
        || strncmp(arg + sizeof prefix - 1, name, len) != 0
        || arg[sizeof prefix - 1 + len] != '=')
    {
        return NULL;
    }
    return arg + sizeof prefix + len;
}

static void
read_key(struct supervise *s, const char *hex)
{
    for (size_t i = 0; i < sizeof s->key && strlen(hex) == 32; i++) {
        int  hi = hex_digit(hex[2 * i]), lo = hex_digit(hex[2 * i + 1]);
        if (hi < 0 || lo < 0) {
            break;
        }
        s->key[i] = (uint8_t) (hi << 4 | lo);
    }
}

static void
read_ms(int64_t *out_ns, const char *text)
{
    char  *end;
    long   ms = strtol(text, &end, 10);
    if (*end == '\0' && ms >= 0 && ms <= INT32_MAX) {
        *out_ns = ms * NS_PER_MS;
    }
}

static bool
read_option(struct supervise *s, const char *arg)
{
    const char  *v;

    if ((v = value_of(arg, "key")) != NULL) {
        read_key(s, v);
    } else if ((v = value_of(arg, "name")) != NULL) {
        s->name = v;
    } else if ((v = value_of(arg, "socket")) != NULL) {
        s->socket_path = v;
    } else if ((v = value_of(arg, "grace")) != NULL) {
        read_ms(&s->grace_ns, v);
    } else if ((v = value_of(arg, "hang")) != NULL) {
        read_ms(&s->hang_ns, v);
    } else if ((v = value_of(arg, "previous")) != NULL) {
        s->previous_path = v;
    } else if (strcmp(arg, "--supervise-replace") == 0) {
        s->replace = true;
    } else {
        return strcmp(arg, "--supervise") == 0;
    }
    return true;
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

/* What is said anew for each engine. */
static bool
is_own_variable(const char *var)
{
    static const char *const  own[] = { "LISTEN_", "NOTIFY_SOCKET=",
                                        "WATCHDOG_" };

    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) {
        if (strncmp(var, own[i], strlen(own[i])) == 0) {
            return true;
        }
    }
    return false;
}

static bool
read_environment(struct supervise *s)
{
    size_t  n = 0;
    while (environ[n] != NULL) {
        n++;
    }
    s->envp = calloc(n + 6, sizeof *s->envp);
    if (s->envp == NULL) {
        return false;
    }
    size_t  k = 0;
    s->envp[k++] = s->notify_socket;
    s->envp[k++] = s->watchdog;
    if (s->llm_fd != -1) {
        s->envp[k++] = s->listen_pid;
        s->envp[k++] = "LISTEN_FDS=1";
        s->envp[k++] = "LISTEN_FDNAMES=llm";
    }
    for (size_t i = 0; i < n; i++) {
        if (!is_own_variable(environ[i])) {
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
    if (listen_inherited(&fd, &env, "previous", NULL) == OK) {
        s->previous_fd = fd;
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
    (void) dup2(s->relay_fds[1], STDOUT_FILENO);
    (void) dup2(s->relay_fds[1], STDERR_FILENO);
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
    int64_t  us = (s->hang_ns != 0 ? s->hang_ns
                   : SUPERVISE_HANG_MS * NS_PER_MS) / NS_PER_US;
    (void) snprintf(s->watchdog, sizeof s->watchdog, "WATCHDOG_USEC=%lld",
                    (long long) us);
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
    s->alive_ns = 0;
    s->ready = s->again = false;
    log_notice("engine %d started", (int) pid);
}

void
supervise_retry(struct supervise *s)
{
    if (s->replace && s->previous_fd != -1) {
        return;                    /* its turn has not come */
    }
    s->given_up = false;
    s->num_failures = 0;
    s->backoff_s = 1;
    s->start_ns = 0;
}

static void
give_up(struct supervise *s)
{
    s->given_up = true;
    if (s->previous_fd != -1) {
        log_error("engine \"%s\" cannot start with its new options, see above; "
                  "the one with the old options goes on serving: correct the "
                  "options and reload nginx, or, if both do not fit into "
                  "memory, write \"reload replace;\"", s->name);
    } else {
        log_error("the engine's configuration is wrong, see above; it is tried"
                  " again at the next reload of nginx");
    }
}

static void
engine_ended(struct supervise *s, int status, int64_t now)
{
    pid_t           pid = s->engine;
    bool            config = WIFEXITED(status)
                             && WEXITSTATUS(status) == SUPERVISE_EX_CONFIG;
    enum log_level  level = s->leaving ? LOG_NOTICE : LOG_ERR;

    s->engine = 0;
    s->num_failures = s->ready ? 0 : s->num_failures + 1;
    s->ready = false;
    (void) kill(-pid, SIGKILL);    /* whatever it has left behind */
    out_relay(s);                  /* its last words come first */

    if (WIFSIGNALED(status)) {
        log_write(level, "engine %d ended by signal %d", (int) pid,
                  WTERMSIG(status));
        (void) snprintf(s->reason, sizeof s->reason, "it was ended by signal %d",
                        WTERMSIG(status));
    } else {
        log_write(level, "engine %d exited with code %d", (int) pid,
                  WEXITSTATUS(status));
        (void) snprintf(s->reason, sizeof s->reason, "it exited with code %d%s",
                        WEXITSTATUS(status),
                        config ? " (configuration)" : "");
    }
    if (s->leaving) {
        return;
    }
    if (config && s->again) {
        log_notice("a reload came meanwhile: the engine is started once more");
        supervise_retry(s);
        return;
    }
    if ((config && !s->served)
        || (s->previous_fd != -1 && s->num_failures >= SUPERVISE_TRIES_BESIDE))
    {
        give_up(s);
        return;
    }
    if (now - s->started_ns >= SUPERVISE_HEALTHY_S * NS_PER_S) {
        s->backoff_s = 1;
    }
    retry_later(s, now);
}

/* READY=1 has come. */
static void
engine_is_ready(struct supervise *s)
{
    s->ready = true;
    s->again = false;
    s->num_failures = 0;
    if (!s->served) {
        s->served = true;
        s->standby_ns = 0;           /* which shall know it, too */
    }
    if (s->previous_fd != -1) {
        log_notice("engine \"%s\": %d is ready and takes over, the one before "
                   "finishes what it has", s->name, (int) s->engine);
        previous_order(s, LLM_ORDER_RETIRE);
        previous_close(s);
    }
}

/* Stopped together with us, by a debugger or a sleeping machine, it gets its
 * time anew: run() has seen to that. */
static void
check_pulse(struct supervise *s, int64_t now)
{
    if (s->engine == 0 || s->alive_ns == 0 || s->hang_ns == 0
        || now - s->alive_ns <= s->hang_ns)
    {
        return;
    }
    log_error("engine %d hangs: no sign of life for %lld ms, killed",
              (int) s->engine, (long long) ((now - s->alive_ns) / NS_PER_MS));
    s->alive_ns = 0;
    (void) kill(-s->engine, SIGKILL);
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
    owner_forget_strangers(s);
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
    s->given_up = s->ready = false;
    s->backoff_s = 1;
    (void) snprintf(s->reason, sizeof s->reason, "its supervisor was killed");
    if (s->leaving) {
        _exit(1);
    }
    log_warn("supervisor was killed, its standby %d takes over",
             (int) getpid());
    if (s->previous_fd == -1 || !s->replace) {
        retry_later(s, clock_now_ns());
    }
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

/* ---- the loop --------------------------------------------------------------- */

void
supervise_leave(struct supervise *s, int64_t term_ns)
{
    if (!s->leaving) {
        s->leaving = true;
        s->standby_ns = NEVER;
        stop_standby(s);
        log_notice("supervisor leaves%s", s->engine == 0 ? ""
                   : term_ns == NEVER ? ", the engine serves its workers until "
                   "they leave" : ", the engine finishes what it has");
        if (term_ns == NEVER && s->engine != 0) {
            (void) kill(s->engine, SUPERVISE_SIGRETIRE);
        }
        s->term_ns = term_ns;
    } else if (term_ns < s->term_ns) {
        s->term_ns = term_ns;
    }
}

static void
hear_signals(struct supervise *s, int64_t now)
{
    struct signalfd_siginfo  info;

    while (read(s->signal_fd, &info, sizeof info) == (ssize_t) sizeof info) {
        if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT
            || info.ssi_signo == SIGQUIT)
        {
            supervise_leave(s, 0);
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

static void
stop_engine(struct supervise *s, int64_t now)
{
    if (!s->term_sent && now >= s->term_ns) {
        s->term_sent = true;
        s->kill_ns = now + s->grace_ns;
        (void) kill(s->engine, SIGTERM);
    } else if (now >= s->kill_ns) {
        log_error("engine %d has not finished in time, killed",
                  (int) s->engine);
        (void) kill(-s->engine, SIGKILL);
        s->kill_ns = NEVER;
    }
}

/* Whatever is due now.  false: everything is over. */
static bool
work(struct supervise *s, int64_t now)
{
    check_pulse(s, now);
    if (s->leaving) {
        if (s->engine != 0) {
            stop_engine(s, now);
        }
        return s->engine != 0;
    }
    if (now >= s->previous_quit_ns) {
        s->previous_quit_ns = NEVER;
        previous_order(s, LLM_ORDER_QUIT);
    }
    if (now >= s->standby_ns) {
        start_standby(s, now);
    }
    if (s->engine == 0 && !s->given_up && now >= s->start_ns) {
        start_engine(s, now);
    }
    return true;
}

static int
time_left_ms(const struct supervise *s, int64_t now)
{
    int64_t  next = NEVER;
    int64_t  due[] = {
        s->leaving ? NEVER : s->standby_ns,
        s->leaving || s->engine != 0 || s->given_up ? NEVER : s->start_ns,
        !s->leaving || s->term_sent ? NEVER : s->term_ns,
        s->leaving ? s->kill_ns : s->previous_quit_ns,
        s->engine == 0 || s->alive_ns == 0 || s->hang_ns == 0 ? NEVER
        : s->alive_ns + s->hang_ns,
    };
    for (size_t i = 0; i < sizeof due / sizeof due[0]; i++) {
        next = due[i] < next ? due[i] : next;
    }
    if (next == NEVER) {
        return -1;
    }
    int64_t  ms = (next - now) / NS_PER_MS + 1;
    return ms < 0 ? 0 : ms > 60000 ? 60000 : (int) ms;
}

enum { FD_SIGNAL, FD_OWNER, FD_RELAY, FD_NOTIFY, FD_LLM, FD_PREVIOUS, FD_FIXED };

static void
hear(struct supervise *s, const struct pollfd *fds, int num_owners)
{
    int64_t  now = clock_now_ns();

    out_follow_log(s);
    if (fds[FD_RELAY].revents != 0) {
        out_relay(s);
    }
    if (fds[FD_NOTIFY].revents != 0 && out_hear(s, now) && !s->ready) {
        engine_is_ready(s);
    }
    if (fds[FD_PREVIOUS].revents != 0) {
        previous_hear(s);
    }
    for (int i = num_owners - 1; i >= 0; i--) {    /* hearing may drop owner i */
        if (fds[FD_FIXED + i].revents != 0) {
            owner_hear(s, i);
        }
    }
    if (fds[FD_OWNER].revents != 0) {
        owner_accept(s);
    }
    if (fds[FD_LLM].revents != 0) {
        out_refuse(s);
    }
    if (fds[FD_SIGNAL].revents != 0) {
        hear_signals(s, now);
    }
}

static void
run(struct supervise *s)
{
    for (;;) {
        int64_t  now = clock_now_ns();
        if (!work(s, now)) {
            return;
        }
        struct pollfd  fds[FD_FIXED + SUPERVISE_OWNERS_MAX] = {
            [FD_SIGNAL] = { .fd = s->signal_fd, .events = POLLIN },
            [FD_OWNER] = { .fd = s->owner_fd, .events = POLLIN },
            [FD_RELAY] = { .fd = s->relay_fds[0], .events = POLLIN },
            [FD_NOTIFY] = { .fd = s->notify_fd, .events = POLLIN },
            [FD_LLM] = { .fd = s->engine == 0 && !s->leaving ? s->llm_fd : -1,
                         .events = POLLIN },
            [FD_PREVIOUS] = { .fd = s->previous_fd, .events = POLLIN },
        };
        int  n = s->num_owners;
        for (int i = 0; i < n; i++) {
            fds[FD_FIXED + i] = (struct pollfd) { .fd = s->owners[i].fd,
                                                  .events = POLLIN };
        }
        int      ms = time_left_ms(s, now);
        int      num = poll(fds, (nfds_t) (FD_FIXED + n), ms);
        int64_t  late = clock_now_ns() - now - ms * NS_PER_MS;
        if (ms >= 0 && late > NS_PER_S && s->alive_ns != 0) {
            s->alive_ns = clock_now_ns();      /* we have not run either */
        }
        if (num > 0) {
            hear(s, fds, n);
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
        .name = "", .socket_path = "", .previous_path = "", .previous_fd = -1,
        .grace_ns = SUPERVISE_GRACE_MS * NS_PER_MS,
        .hang_ns = SUPERVISE_HANG_MS * NS_PER_MS,
        .previous_quit_ns = NEVER, .term_ns = NEVER, .kill_ns = NEVER,
        .backoff_s = 1, .standby_fd = -1,
    };

    if (!read_arguments(&s, argc, argv)) {
        log_error("no memory");
        return 1;
    }
    if (out_open(&s) != OK) {
        log_error("supervisor: a socket: %s", strerror(errno));
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
    if (s.replace && s.previous_fd != -1) {
        s.start_ns = NEVER;
        s.previous_quit_ns = clock_now_ns() + s.grace_ns;
        previous_order(&s, LLM_ORDER_RETIRE);
        log_notice("engine \"%s\" is started when the one before has ended",
                   s.name);
    }

    run(&s);

    out_relay(&s);
    remove_files(&s);
    log_notice("supervisor exits");
    free(s.envp);
    free(s.argv);
    return 0;
}
