/* supervise.h - the role --supervise: keeps one engine running for its owners.
 *
 *   nginx-llm-engine --supervise [--supervise-key=HEX] [--supervise-name=NAME]
 *                    [--supervise-socket=PATH] [--supervise-grace=MS]
 *                    [--supervise-hang=MS] [--supervise-previous=PATH]
 *                    [--supervise-replace] [--] ENGINE-OPTIONS...
 *
 * Starts the same program again without --supervise, with ENGINE-OPTIONS and
 * the inherited socket "llm" (LISTEN_FDS), and starts it again when it dies:
 * after 1, 2, 4 .. 60 s, from 1 s again once it has lived for 60 s.  Exit code
 * 78 (EX_CONFIG) is not retried, unless these options have been ready before (a
 * device that is not back yet); the supervisor stays, so that nginx does not
 * start another one, and tries again at a CLAIM.  A CLAIM that comes while the
 * engine loads gives it one more try, too: it may have read the old files.
 *
 * Owners: the other ends of the inherited descriptor "lifeline" and of each
 * connection to the inherited socket "owner" that sent ATTACH with the right
 * key.  Their orders: wire/llm_wire.h.  When the last one has quit or died, or
 * at SIGTERM, SIGINT and SIGQUIT, the engine gets SIGTERM, after the grace time
 * its process group gets SIGKILL.  When the last one has retired, the engine
 * gets SUPERVISE_SIGRETIRE and ends when its workers have left.  Without a lifeline
 * (started by hand) only signals end it.
 *
 * The inherited descriptor "previous" is the lifeline of an engine with other
 * options that ours is to replace: it is retired when ours is ready, or, with
 * --supervise-replace, before ours is started.  While it serves, three failed
 * starts in a row are enough to give ours up.
 *
 * The engine tells by NOTIFY_SOCKET that it is ready and alive (sd_notify(3)).
 * Without a sign of life for the hang time it is killed and started again.
 * While there is no engine, the supervisor answers the workers: WELCOME with
 * LLM_WELCOME_DOWN and the reason.
 *
 * A standby, a fork that only waits for this process to die, takes over when
 * the supervisor is killed: it has the same sockets and owners.  The engine
 * dies with its supervisor (PR_SET_PDEATHSIG) and is started anew.
 *
 * No CUDA, no threads, no model; about a megabyte. */
#ifndef LLM_SUPERVISE_H
#define LLM_SUPERVISE_H

#include <signal.h>
#include <stdbool.h>

#define SUPERVISE_OWNERS_MAX    16
#define SUPERVISE_GRACE_MS      60000
#define SUPERVISE_HANG_MS       30000
#define SUPERVISE_BACKOFF_MAX_S 60
#define SUPERVISE_HEALTHY_S     60    /* a life this long resets the back-off */
#define SUPERVISE_TRIES_BESIDE  3     /* while the previous engine serves */
#define SUPERVISE_EX_CONFIG     78

/* To an engine that another one replaces: serve the workers until they leave.
 * Neither SIGWINCH, which a terminal sends, nor SIGUSR1, which people send. */
#define SUPERVISE_SIGRETIRE     SIGRTMIN

/* argv has "--supervise" anywhere before "--". */
bool supervise_wanted(int argc, char **argv);

/* Returns the exit status of the process. */
int supervise_main(int argc, char **argv);

#endif
