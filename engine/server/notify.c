/* notify.c - sd_notify(3) without libsystemd. */
#include "engine/server/notify.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"

#define NS_PER_USEC  1000
#define BEAT_NS_MAX  (NS_PER_S / 2)   /* the supervisor may become impatient */

static const char *
find(char **envp, const char *name)
{
    size_t  len = strlen(name);

    for ( ; envp != NULL && *envp != NULL; envp++) {
        if (strncmp(*envp, name, len) == 0 && (*envp)[len] == '=') {
            return *envp + len + 1;
        }
    }
    return NULL;
}

void
notify_init(struct notify *n, char **envp)
{
    const char  *path = find(envp, "NOTIFY_SOCKET");
    const char  *usec = find(envp, "WATCHDOG_USEC");
    const char  *pid = find(envp, "WATCHDOG_PID");
    size_t       len = path == NULL ? 0 : strlen(path);

    memset(n, 0, sizeof *n);
    n->fd = -1;
    if (len < 2 || len >= sizeof n->addr.sun_path
        || (path[0] != '/' && path[0] != '@'))
    {
        return;
    }
    n->addr.sun_family = AF_UNIX;
    memcpy(n->addr.sun_path, path, len);
    n->addr_len = (socklen_t) (offsetof(struct sockaddr_un, sun_path) + len);
    if (path[0] == '@') {
        n->addr.sun_path[0] = '\0';     /* the abstract name space */
    }
    n->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (usec != NULL
        && (pid == NULL || strtol(pid, NULL, 10) == (long) getpid()))
    {
        long long  us = strtoll(usec, NULL, 10);
        n->watchdog_ns = us > 0 && us < INT64_MAX / NS_PER_USEC / NOTIFY_PROGRESS
                         ? us * NS_PER_USEC : 0;
    }
}

static bool
say(const struct notify *n, const char *text)
{
    size_t  len = strlen(text);

    return sendto(n->fd, text, len, MSG_NOSIGNAL,
                  (const struct sockaddr *) &n->addr, n->addr_len)
           == (ssize_t) len;
}

void
notify_beat(struct notify *n, const struct llm_stats *stats, int64_t now_ns)
{
    if (n == NULL || n->fd == -1) {
        return;
    }
    if (!n->ready && stats->state == LLM_STATE_READY) {
        n->ready = say(n, "READY=1");
    }
    if (!n->stopping && stats->state == LLM_STATE_DRAINING) {
        n->stopping = say(n, "STOPPING=1");
    }
    if (n->watchdog_ns == 0 || now_ns < n->next_ns) {
        return;
    }
    if (stats->state != LLM_STATE_READY
        || now_ns - stats->progress_ns < n->watchdog_ns * NOTIFY_PROGRESS)
    {
        (void) say(n, "WATCHDOG=1");
        n->next_ns = now_ns + (n->watchdog_ns < 4 * BEAT_NS_MAX
                               ? n->watchdog_ns / 4 : BEAT_NS_MAX);
    }
}
