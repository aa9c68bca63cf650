/* bench_request.h - where requests go, and what they look like on the wire.
 *
 *     bench_url_parse(&url, "http://127.0.0.1:8000", "/v1/completions", err)
 *     bench_request_open(&m, cli, &url, &data, err)
 *     bench_request_write(&m, i, &out)      head and body of prompt i
 *     bench_request_close(&m)
 *
 * The body is vLLM's: model, prompt or messages, max_tokens, stream with usage,
 * ignore_eos and the sampling switches that were given.  --extra-body's members
 * take the place of ours with the same name.  One thread. */
#ifndef LLM_TOOLS_BENCH_REQUEST_H
#define LLM_TOOLS_BENCH_REQUEST_H

#include <stdbool.h>
#include "engine/base/arena.h"
#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/base/json.h"
#include "tools/bench_dataset.h"
#include "tools/bench_options.h"

#define BENCH_HOST_BYTES  256
#define BENCH_PATH_BYTES  1024

struct bench_url {
    char  host[BENCH_HOST_BYTES];          /* without [] around IPv6 */
    char  port[8];
    char  authority[BENCH_HOST_BYTES + 16];    /* for the Host field */
    char  path[BENCH_PATH_BYTES];
    bool  is_chat;                         /* path ends in /chat/completions */
};

struct bench_request {
    const struct bench_cli     *cli;
    const struct bench_url     *url;
    const struct bench_dataset *data;
    const char                 *model;
    struct arena                arena;
    struct json                *extra;     /* NULL: none */
    struct buf                  head;      /* the fields that never change */
    struct buf                  body;
};

/* base_url NULL: host and port count. */
int bench_url_parse(struct bench_url *out, const char *base_url,
                    const char *host, int64_t port, const char *endpoint,
                    struct err *err);

/* url and data are borrowed; data may be filled in later.  Close in any
 * case. */
int bench_request_open(struct bench_request *m, const struct bench_cli *cli,
                       const struct bench_url *url,
                       const struct bench_dataset *data, struct err *err);
void bench_request_write(void *maker, int i, struct buf *out);
int32_t bench_request_prompt_tokens(void *maker, int i);
void bench_request_close(struct bench_request *m);

#endif
