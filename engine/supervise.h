/* supervise.h - the role --supervise: keeps one engine running for its owners.
 *
 *   nginx-llm-engine --supervise [--supervise-key=HEX] [--supervise-socket=PATH]
 *                    [--supervise-grace=MS] [--] ENGINE-OPTIONS...
 *
 * Starts the same program again without --supervise, with ENGINE-OPTIONS and
 * the inherited socket "llm" (LISTEN_FDS), and starts it again when it dies:
 * after 1, 2, 4 .. 60 s, from 1 s again once it has lived for 60 s.  Exit code
 * 78 (EX_CONFIG) is not retried; the supervisor stays, so that nginx does not
 * start another one, and tries again at a reload ('r').
 *
 * Owners: the other ends of the inherited descriptor "lifeline" and of each
 * connection to the inherited socket "owner" that sent ATTACH with the right
 * key (layouts: wire/llm_wire.h).  One byte from an owner:
 *   'q'  gives its ownership up; answered 'l' (it was the last, leaving) or 's'
 *   'r'  a configuration was loaded; an engine that was given up is tried again
 * and one to each owner when an engine is given up, or to a new owner of such:
 *   'g'  an owner with other options may give us up and start another
 * EOF is an owner that died.  When the last one is gone, or at SIGTERM, SIGINT
 * and SIGQUIT, the engine gets SIGTERM, after the grace time its process group
 * gets SIGKILL.  Without a lifeline (started by hand) only signals end it.
 *
 * A standby, a fork that only waits for this process to die, takes over when
 * the supervisor is killed: it has the same sockets and owners.  The engine
 * dies with its supervisor (PR_SET_PDEATHSIG) and is started anew.
 *
 * No CUDA, no threads, no model; about a megabyte. */
#ifndef LLM_SUPERVISE_H
#define LLM_SUPERVISE_H

#include <stdbool.h>

#define SUPERVISE_OWNERS_MAX    16
#define SUPERVISE_GRACE_MS      60000
#define SUPERVISE_BACKOFF_MAX_S 60
#define SUPERVISE_HEALTHY_S     60    /* a life this long resets the back-off */
#define SUPERVISE_EX_CONFIG     78

/* argv has "--supervise" anywhere before "--". */
bool supervise_wanted(int argc, char **argv);

/* Returns the exit status of the process. */
int supervise_main(int argc, char **argv);

#endif
