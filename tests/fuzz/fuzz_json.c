/* fuzz_json.c - libFuzzer entry: any bytes are refused or survive a round trip. */
#include <stdint.h>
#include <stdlib.h>
#include "engine/base/check.h"
#include "engine/base/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena  arena;
    struct json  *root, *again;
    struct err    err = { 0 };
    struct buf    first, second;

    /* An exact copy, so that a read past the end is seen. */
    char  *copy = malloc(size == 0 ? 1 : size);
    memcpy(copy, data, size);
    arena_init(&arena, 64u << 20);
    buf_init(&first, 64u << 20);
    buf_init(&second, 64u << 20);
    if (json_parse(&root, (struct str) { copy, size }, &arena,
                   &json_limits_request, &err) == OK)
    {
        json_write(&first, root);
        check(!first.failed);
        check_eq(json_parse(&again, buf_str(&first), &arena,
                            &json_limits_request, &err), OK);
        json_write(&second, again);
        check(str_eq(buf_str(&first), buf_str(&second)));
    } else {
        check_eq(err.http_status, 400);
    }
    buf_destroy(&first);
    buf_destroy(&second);
    arena_destroy(&arena);
    free(copy);
    return 0;
}
