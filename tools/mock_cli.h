/* mock_cli.h - the mock engine's options; their manual is in llm_mock_engine.c. */
#ifndef LLM_TOOLS_MOCK_CLI_H
#define LLM_TOOLS_MOCK_CLI_H

#include <stdbool.h>
#include <stdint.h>

struct mock_cli {
    const char *socket, *fail_file, *handshake, *model, *name;
    int64_t  start_delay_ms, exit_after_ms, exit_code, fail_start, fail_delay_ms;
    int64_t  shutdown_timeout_s, max_body_bytes, cq_bytes, full_ms, burst;
    int64_t  load, waiting, kv_used;
    bool     no_heartbeat, ignore_term;
};

/* Defaults, then --name value and --name=value; unknown ones are skipped with
 * their value.  ERROR: a known one has a bad value, said on stderr. */
int mock_cli_read(struct mock_cli *cli, int argc, char **argv);

/* true: this is one of the starts that shall fail; counts it. */
bool mock_cli_shall_fail(const struct mock_cli *cli);

#endif
