/* bench_client.h - many streaming requests over HTTP/1.1 on one thread.
 *
 * One epoll loop starts each request when it is due and a place is free, keeps
 * connections alive between requests, and notes when tokens arrive.  Time is
 * read once for each recv(), so chunks of one segment have one time.  Nothing
 * a server does is fatal: a failed request is counted under a short kind
 * ("HTTP 503", "connect: Connection refused", "stream cut") with its own text
 * in the result.  A kept connection that the server has closed before the first
 * byte of an answer is replaced once, without an error.
 *
 * SIGINT and SIGTERM end a run that is stoppable: requests that run fail as
 * "interrupted", those that have not begun are no results.
 *
 * A measurement is worth as much as its client is fast, so it measures itself:
 * CPU time of the thread, and the longest turn, in which a chunk may have
 * waited to be seen. */
#ifndef LLM_TOOLS_BENCH_CLIENT_H
#define LLM_TOOLS_BENCH_CLIENT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "tools/bench_report.h"
#include "tools/bench_stats.h"

#define BENCH_KINDS_MAX       32
#define BENCH_KIND_BYTES      64
#define BENCH_ERROR_BYTES     256

struct bench_client_options {
    struct sockaddr_storage addr;
    socklen_t       addr_len;
    int             num;
    int             max_concurrency;      /* 0: none */
    const int64_t  *at_ns;                /* [num], since the beginning */
    int64_t         timeout_ns;           /* of one request */
    bool            keep_text;
    bool            stoppable;
    struct bench_progress *progress;
    /* Appends head and body of request i; buf->failed fails the run. */
    void          (*write_request)(void *user, int i, struct buf *out);
    int32_t       (*prompt_tokens)(void *user, int i);   /* if none are told */
    void           *user;
};

struct bench_client_stats {
    int64_t   duration_ns, cpu_ns, longest_turn_ns;
    uint64_t  num_events, num_bytes;
    bool      interrupted;
    int       num_started;
    int       num_kinds;
    struct { char name[BENCH_KIND_BYTES]; int num; } kinds[BENCH_KINDS_MAX];
};

/* results: [num], zeroed; the caller destroys them.  ERROR: it could not run. */
int bench_client_run(const struct bench_client_options *o,
                     struct bench_result *results,
                     struct bench_client_stats *stats, struct err *err);

#endif
