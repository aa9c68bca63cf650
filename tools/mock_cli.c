/* mock_cli.c - options of the mock engine, forgiving towards the real one's. */
#include "tools/mock_cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/base/status.h"

#define FAIL_FILE_BYTES  32

static bool
read_number(int64_t *out, const char *text)
{
    char  *end;

    errno = 0;
    *out = strtoll(text, &end, 10);
    return errno == 0 && *text != '\0' && *end == '\0' && *out >= 0;
}

/* Exactly one of the three is set. */
struct mock_option {
    const char  *name;
    const char **text;
    int64_t     *number;
    bool        *flag;
};

#define OPTIONS_MAX  21

static const struct mock_option *
find_option(const struct mock_option *table, const char *name, size_t len)
{
    for (size_t i = 0; i < OPTIONS_MAX; i++) {
        if (strlen(table[i].name) == len && memcmp(table[i].name, name, len) == 0)
        {
            return &table[i];
        }
    }
    return NULL;
}

static int
store(const struct mock_option *o, const char *value)
{
    if (o->flag != NULL) {
        *o->flag = true;
        return OK;
    }
    if (value == NULL || (o->number != NULL && !read_number(o->number, value))) {
        (void) fprintf(stderr, "--%s: bad value\n", o->name);
        return ERROR;
    }
    if (o->text != NULL) {
        *o->text = value;
    }
    return OK;
}

int
mock_cli_read(struct mock_cli *cli, int argc, char **argv)
{
    const char                *level = NULL;
    const struct mock_option   table[OPTIONS_MAX] = {
        { "socket", &cli->socket, NULL, NULL },
        { "fail-file", &cli->fail_file, NULL, NULL },
        { "handshake", &cli->handshake, NULL, NULL },
        { "log-level", &level, NULL, NULL },
        { "served-model-name", &cli->model, NULL, NULL },
        { "name", &cli->name, NULL, NULL },
        { "load", NULL, &cli->load, NULL },
        { "waiting", NULL, &cli->waiting, NULL },
        { "kv-used", NULL, &cli->kv_used, NULL },
        { "start-delay", NULL, &cli->start_delay_ms, NULL },
        { "exit-after", NULL, &cli->exit_after_ms, NULL },
        { "exit-code", NULL, &cli->exit_code, NULL },
        { "fail-start", NULL, &cli->fail_start, NULL },
        { "fail-delay", NULL, &cli->fail_delay_ms, NULL },
        { "shutdown-timeout", NULL, &cli->shutdown_timeout_s, NULL },
        { "max-body-bytes", NULL, &cli->max_body_bytes, NULL },
        { "cq-bytes", NULL, &cli->cq_bytes, NULL },
        { "full-ms", NULL, &cli->full_ms, NULL },
        { "burst", NULL, &cli->burst, NULL },
        { "no-heartbeat", NULL, NULL, &cli->no_heartbeat },
        { "ignore-term", NULL, NULL, &cli->ignore_term },
    };

    *cli = (struct mock_cli) {
        .model = "mock", .name = "",
        .exit_code = 3, .shutdown_timeout_s = 30, .max_body_bytes = 16 << 20,
        .cq_bytes = 1 << 20, .full_ms = 5000, .burst = 1,
    };
    for (int i = 1; i < argc; i++) {
        const char                *name, *value = NULL;
        const struct mock_option  *o;
        size_t                     len;

        if (strncmp(argv[i], "--", 2) != 0) {
            continue;
        }
        name = argv[i] + 2;
        len = strcspn(name, "=");
        o = find_option(table, name, len);
        if (name[len] == '=') {
            value = name + len + 1;
        } else if (i + 1 < argc && strncmp(argv[i + 1], "--", 2) != 0
                   && (o == NULL || o->flag == NULL))
        {
            value = argv[++i];
        }
        if (o != NULL && store(o, value) != OK) {
            return ERROR;
        }
    }
    if (level != NULL && log_level_parse(level) >= 0) {
        log_level = (enum log_level) log_level_parse(level);
    }
    return OK;
}

bool
mock_cli_shall_fail(const struct mock_cli *cli)
{
    char     text[FAIL_FILE_BYTES] = "";
    int64_t  count = 0;
    FILE    *f;

    if (cli->fail_start == 0 || cli->fail_file == NULL) {
        return cli->fail_start != 0;
    }
    f = fopen(cli->fail_file, "r");
    if (f != NULL) {
        if (fgets(text, sizeof text, f) != NULL) {
            count = strtoll(text, NULL, 10);
        }
        (void) fclose(f);
    }
    f = fopen(cli->fail_file, "w");
    if (f != NULL) {
        (void) fprintf(f, "%lld\n", (long long) count + 1);
        (void) fclose(f);
    }
    return count < cli->fail_start;
}
