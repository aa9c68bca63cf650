/* listen.h - the one listening socket, wherever it comes from.
 *
 * Either the service manager (nginx's supervisor, systemd) hands it over with
 * LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES, or the engine binds a path itself.
 * An inherited socket is never unlinked; an own one is, when it closes. */
#ifndef LLM_SERVER_LISTEN_H
#define LLM_SERVER_LISTEN_H

#include <stdbool.h>
#include "engine/base/err.h"

#define LISTEN_FD_FIRST   3      /* sd_listen_fds(3) */
#define LISTEN_FDS_MAX    16
#define LISTEN_BACKLOG    128
#define LISTEN_PATH_MAX   107    /* sockaddr_un.sun_path less its NUL */

struct listen_env {
    const char *pid, *fds, *names;   /* NULL when unset; borrowed */
};

struct listen {
    int   fd;                        /* -1: none */
    bool  own;                       /* bound here: unlink at close */
    char  path[LISTEN_PATH_MAX + 1];
};

/* Picks the three variables out of main()'s envp. */
void listen_env_init(struct listen_env *out, char **envp);

/* The inherited descriptor called `name`, or the only one when the names are
 * unset.  OK with *fd, AGAIN when nothing was handed to this process, ERROR
 * when something was, but not this.  The descriptor is made non-blocking and
 * close-on-exec. */
int listen_inherited(int *fd, const struct listen_env *env, const char *name,
                     struct err *err);

/* The inherited "llm" socket, else a new one at `path`, mode 0660.  A socket
 * file nobody answers at is replaced; a live one or another kind of file is an
 * ERROR. */
int listen_open(struct listen *out, const struct listen_env *env,
                const char *path, struct err *err);
void listen_close(struct listen *l);      /* safe on a closed one */

#endif
