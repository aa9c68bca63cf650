/* main.c - nginx-llm-engine: composition root and signals.
 *
 * The listening socket is served before the model is loaded (workers are told
 * "loading"), so loading runs in a thread of its own and this one waits for
 * signals: TERM, INT, QUIT end gracefully, SUPERVISE_SIGRETIRE ends when the workers
 * have left (another engine takes over), USR2 prints the state report.
 * Exit codes: 0 ended by a signal, 78 the configuration cannot work (the
 * supervisor does not retry), anything else is a crash, or a GPU without room
 * that others held. */
#include "engine/app.h"
#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/version.h"
#include "engine/core/engine.h"
#include "engine/server/listen.h"
#include "engine/server/server.h"
#include "engine/supervise.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXIT_CONFIG        78            /* EX_CONFIG of sysexits.h */
#define SIGNAL_LOADED      SIGUSR1       /* the loader is done */
#define RETIRE_POLL_MS     100
#define RETIRE_IDLE_NS     (10 * NS_PER_S)  /* workers that stay but ask nothing */

struct engine_main {
    struct engine_cli  cli;
    struct listen      listen;
    struct notify      notify;
    struct server     *server;
    struct app         app;
    pthread_t          loader;
    atomic_int         load_rc;          /* AGAIN while it runs */
    struct err         err;              /* of the loader */
};

static void
engine_dump_option(const char *text)
{
    log_info("option %s", text);
}

static void *
engine_load(void *data)
{
    struct engine_main  *m = data;
    int  rc = app_load(&m->app, &m->cli, &m->err);

    if (rc == OK) {
        rc = server_set_api(m->server, m->app.api, m->app.engine, &m->err);
    }
    atomic_store(&m->load_rc, rc);
    (void) kill(getpid(), SIGNAL_LOADED);
    return NULL;
}

/* Also runs when a check() fails: prints what it can. */
static void
engine_print_report(void *data)
{
    struct engine_main  *m = data;

    if (m->app.engine == NULL || atomic_load(&m->load_rc) != OK) {
        log_notice("state report: no engine yet");
        return;
    }
    engine_log_report(m->app.engine, "state");
}

/* Sessions are greeted only for these users; see transport.h. */
static int
engine_allow_uids(const struct engine_cli *cli, struct session_options *s,
                  struct err *err)
{
    if (cli->allow_uid.num == 0) {
        /* The socket's mode and owner decide, as for any Unix service. */
        s->any_uid = true;
        return OK;
    }
    s->uids[s->num_uids++] = 0;
    s->uids[s->num_uids++] = getuid();
    for (int i = 0; i < cli->allow_uid.num; i++) {
        char  *end;
        long   uid = strtol(cli->allow_uid.items[i], &end, 10);
        if (*end != '\0' || uid < 0 || s->num_uids == SESSION_UIDS_MAX) {
            return err_set(err, "--allow-uid: \"%s\" is not a user id, or "
                           "there are more than %d", cli->allow_uid.items[i],
                           SESSION_UIDS_MAX - 2);
        }
        s->uids[s->num_uids++] = (uid_t) uid;
    }
    return OK;
}

static int
engine_open(struct engine_main *m, char **envp, struct err *err)
{
    struct listen_env      env;
    struct server_options  o;

    listen_env_init(&env, envp);
    notify_init(&m->notify, envp);
    server_options_init(&o);
    o.notify = &m->notify;
    o.num_frontend_threads = (int32_t) m->cli.api_server_count;
    o.max_queued = (int32_t) m->cli.max_num_queued_reqs;
    o.transport.session.body_bytes_max = (uint64_t) m->cli.max_body_bytes;
    if (engine_allow_uids(&m->cli, &o.transport.session, err) != OK
        || listen_open(&m->listen, &env, m->cli.socket, err) != OK)
    {
        return ERROR;
    }
    /* Named users connect whatever their groups; others are sent away. */
    if (m->cli.allow_uid.num > 0 && m->listen.own
        && chmod(m->listen.path, 0666) == -1)
    {
        return err_set(err, "--socket %s: %s", m->listen.path, strerror(errno));
    }
    return server_create(&m->server, m->listen.fd, &o, err);
}

/* Serves until nobody wants anything, or a signal comes: 0 or the signal.  A
 * worker that leaves may keep its session for as long as it has a client of any
 * kind, so idleness counts as well. */
static int
engine_retire(struct engine_main *m, const sigset_t *signals)
{
    const struct timespec  pause = { 0, RETIRE_POLL_MS * NS_PER_MS };
    int64_t                busy_ns = clock_now_ns();

    log_notice("another engine takes over: serving %d workers until they leave",
               server_num_sessions(m->server));
    server_retire(m->server);
    for ( ;; ) {
        int      sig = sigtimedwait(signals, NULL, &pause);
        int64_t  now_ns = clock_now_ns();
        if (sig == SIGTERM || sig == SIGINT || sig == SIGQUIT) {
            return sig;
        }
        if (sig == SIGUSR2) {
            engine_print_report(m);
        }
        if (server_num_live(m->server) != 0) {
            busy_ns = now_ns;
        }
        if (now_ns - busy_ns > RETIRE_IDLE_NS
            || (now_ns - busy_ns > NS_PER_S && server_is_deserted(m->server)))
        {
            return 0;
        }
    }
}

/* Waits for the end; returns the exit code. */
static int
engine_wait(struct engine_main *m, const sigset_t *signals)
{
    for ( ;; ) {
        int  sig = 0;
        if (sigwait(signals, &sig) != 0) {
            continue;
        }
        int  load_rc = atomic_load(&m->load_rc);
        if (sig == SIGNAL_LOADED) {
            if (load_rc == ERROR) {
                log_alert("%s", m->err.message);
                return app_may_load_later(&m->app, &m->err) ? EXIT_FAILURE
                                                            : EXIT_CONFIG;
            }
        } else if (sig == SIGUSR2) {
            engine_print_report(m);
        } else if (load_rc == OK) {
            if (sig == SUPERVISE_SIGRETIRE) {
                sig = engine_retire(m, signals);
            }
            log_notice("signal %d: finishing what runs, at most %lld s", sig,
                       (long long) m->cli.shutdown_timeout_s);
            server_stop(m->server, m->cli.shutdown_timeout_s * NS_PER_S);
            app_stop(&m->app);
            return EXIT_SUCCESS;
        } else {
            log_notice("signal %d while loading", sig);
            listen_close(&m->listen);
            _exit(EXIT_SUCCESS);    /* the loader cannot be interrupted */
        }
    }
}

static int
engine_serve(struct engine_main *m, char **envp)
{
    struct err  err = { 0 };
    sigset_t    signals;

    (void) sigemptyset(&signals);
    (void) sigaddset(&signals, SIGTERM);
    (void) sigaddset(&signals, SIGINT);
    (void) sigaddset(&signals, SIGQUIT);
    (void) sigaddset(&signals, SIGUSR2);
    (void) sigaddset(&signals, SUPERVISE_SIGRETIRE);
    (void) sigaddset(&signals, SIGNAL_LOADED);
    /* Before the first thread: all of them inherit the mask. */
    (void) pthread_sigmask(SIG_BLOCK, &signals, NULL);
    (void) signal(SIGPIPE, SIG_IGN);
    (void) signal(SIGHUP, SIG_IGN);

    atomic_init(&m->load_rc, AGAIN);
    if (engine_open(m, envp, &err) != OK
        || pthread_create(&m->loader, NULL, engine_load, m) != 0)
    {
        log_alert("%s", err.message[0] == '\0' ? "cannot start a thread"
                                               : err.message);
        listen_close(&m->listen);
        return EXIT_CONFIG;
    }
    int  code = engine_wait(m, &signals);
    (void) pthread_join(m->loader, NULL);
    server_destroy(m->server);
    app_destroy(&m->app);
    listen_close(&m->listen);
    return code;
}

int
main(int argc, char **argv, char **envp)
{
    static struct engine_main  m;      /* large; its life is the process's */
    struct err                 err = { 0 };

    if (supervise_wanted(argc, argv)) {
        return supervise_main(argc, argv);
    }
    if (options_parse(engine_options_table, &m.cli, argc, argv, &err) != OK) {
        (void) fprintf(stderr, "nginx-llm-engine: %s\n", err.message);
        return EXIT_CONFIG;
    }
    if (m.cli.help) {
        options_help(engine_options_table, "nginx-llm-engine --model DIR "
                     "[--socket PATH] [option ...]", stdout);
        return EXIT_SUCCESS;
    }
    if (m.cli.version) {
        (void) puts("nginx-llm-engine " LLM_VERSION);
        return EXIT_SUCCESS;
    }
    log_level = (enum log_level) log_level_parse(m.cli.log_level);
    options_dump(engine_options_table, &m.cli, engine_dump_option);
    check_set_report(engine_print_report, &m);
    return engine_serve(&m, envp);
}
