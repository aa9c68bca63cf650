/* notify.h - tells whoever started this process how it is: sd_notify(3).
 *
 * Datagrams to $NOTIFY_SOCKET, the same for nginx's supervisor and for systemd
 * (Type=notify, WatchdogSec=): READY=1 once the model serves, STOPPING=1, and
 * WATCHDOG=1 four times in $WATCHDOG_USEC, at least twice a second, as long as
 * the process and its step thread move.  Without the variables every function
 * does nothing.
 *
 * Threads: one at a time.  Nothing blocks; a datagram that cannot be sent now
 * is sent at the next beat. */
#ifndef LLM_SERVER_NOTIFY_H
#define LLM_SERVER_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "wire/llm_wire.h"

/* A step is the longest honest pause of the step thread; a process that has not
 * finished one for so many watchdog times hangs.  The module's rule, too. */
#define NOTIFY_PROGRESS  6

struct notify {
    int                 fd;            /* -1: nobody wants to know */
    struct sockaddr_un  addr;
    socklen_t           addr_len;
    int64_t             watchdog_ns;   /* 0: no watchdog */
    int64_t             next_ns;       /* when the next WATCHDOG=1 is due */
    bool                ready, stopping;  /* has been said */
};

/* From main()'s envp.  The descriptor is the process's for good. */
void notify_init(struct notify *n, char **envp);

/* Says what is new in the statistics about to be published.  n may be NULL. */
void notify_beat(struct notify *n, const struct llm_stats *stats,
                 int64_t now_ns);

#endif
