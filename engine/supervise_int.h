/* supervise_int.h - what supervise*.c share: one struct, one thread.
 *
 *   supervise.c        the loop, the engine's life, the standby
 *   supervise_owner.c  owners and their orders, the engine that is replaced
 *   supervise_out.c    what others see: the log, refusals, signs of life */
#ifndef LLM_SUPERVISE_INT_H
#define LLM_SUPERVISE_INT_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "engine/server/listen.h"
#include "engine/supervise.h"
#include "wire/llm_wire.h"

#define NEVER       INT64_MAX
#define LINE_BYTES  4096

enum { FILES = 2 };                /* PATH and PATH.owner */

struct owner {
    int  fd;
    bool attached;                 /* false: ATTACH has not come yet */
    bool retired;                  /* needs us no more; kept so that it sees our
                                      end */
};

struct supervise {
    /* fixed */
    uint8_t  key[16];
    const char *name;              /* of the engine, for logs */
    const char *socket_path;       /* "" when unknown */
    char   **argv;                 /* of the engine */
    char   **envp;
    char     listen_pid[32];       /* in envp */
    char     notify_socket[64], watchdog[48];
    int      llm_fd, owner_fd;     /* -1: none */
    bool     owned;                /* there was a lifeline */
    dev_t    dev[FILES];
    ino_t    ino[FILES];

    struct owner owners[SUPERVISE_OWNERS_MAX];
    int      num_owners;
    int64_t  grace_ns;             /* the last CLAIM counts */
    int64_t  hang_ns;              /* 0: never */

    /* the engine that ours is going to replace */
    int      previous_fd;          /* its lifeline; -1: none */
    const char *previous_path;     /* its socket */
    bool     replace;              /* it has to end first */
    int64_t  previous_quit_ns;     /* when to hurry it, NEVER */

    pid_t    engine;               /* 0: none */
    int64_t  started_ns;
    int64_t  start_ns;             /* when to start it next, NEVER */
    int64_t  alive_ns;             /* its last sign of life, 0: none yet */
    int      backoff_s;
    int      num_failures;         /* starts in a row that did not get ready */
    bool     ready;
    bool     served;               /* it has been ready once: the options are
                                      not what is wrong */
    bool     again;                /* CLAIM came while it was loading */
    bool     given_up;
    char     reason[48];           /* why there is no engine, for everybody */

    bool     leaving;
    bool     term_sent;
    int64_t  term_ns, kill_ns;     /* when to send which, NEVER */

    pid_t    standby;              /* 0: none */
    int      standby_fd;           /* its EOF is our death */
    int64_t  standby_ns;           /* when to fork the next, NEVER */
    int      signal_fd, notify_fd;

    int      relay_fds[2];         /* we read 0, the engine's stderr is 1 */
    char     line[LINE_BYTES];     /* of the engine, not complete yet */
    size_t   line_len;
    char     log_path[PATH_MAX];   /* of our stderr; "": not followed */
    int64_t  log_denied_ns;        /* since when we may not open it, 0 */
};

/* supervise.c */

/* Tries an engine that does not run, now. */
void supervise_retry(struct supervise *s);

/* The end has come: SIGTERM to the engine at term_ns. */
void supervise_leave(struct supervise *s, int64_t term_ns);

/* supervise_owner.c */
void owner_accept(struct supervise *s);
void owner_hear(struct supervise *s, int i);     /* may drop owner i */
void owner_forget_strangers(struct supervise *s);   /* in the standby */
void previous_hear(struct supervise *s);
void previous_order(struct supervise *s, enum llm_order_op op);
void previous_close(struct supervise *s);

/* supervise_out.c */
int  out_open(struct supervise *s);              /* before inherit(); or ERROR */
void out_relay(struct supervise *s);             /* the engine's words */
void out_take_log(struct supervise *s, int fd);  /* closes fd */
void out_follow_log(struct supervise *s);        /* was it rotated? */
void out_refuse(struct supervise *s);            /* one worker, no engine */
bool out_hear(struct supervise *s, int64_t now); /* true: it is ready now */

#endif
