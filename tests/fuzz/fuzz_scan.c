/* fuzz_scan.c - libFuzzer entry: the scanner against the engine's strict reader.
 *
 * Whatever the reader accepts as an object without a second "model", the scanner
 * accepts, with the same model; and pieces of any size change nothing. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/json.h"
#include "wire/llm_scan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int
scan(struct llm_scan *s, const uint8_t *data, size_t size, size_t piece)
{
    llm_scan_init(s, 256);
    for (size_t at = 0, n; at < size; at += n) {
        n = piece > size - at ? size - at : piece;
        uint8_t  *copy = malloc(n);
        memcpy(copy, data + at, n);
        (void) llm_scan_feed(s, copy, n);
        free(copy);
    }
    return llm_scan_end(s);
}

/* The scanner's wish for a name: short, and no control characters. */
static bool
is_name(struct str model)
{
    for (size_t i = 0; i < model.len; i++) {
        if ((uint8_t) model.data[i] < 0x20 || model.data[i] == 0x7f) {
            return false;
        }
    }
    return model.len != 0 && model.len <= LLM_MODEL_BYTES_MAX;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct llm_scan     whole, cut;
    struct arena        arena;
    struct json        *root;
    const struct json  *model;
    struct err          err = { 0 };
    int                 rc = scan(&whole, data, size, size);

    check_eq(scan(&cut, data, size, 1 + (size != 0 ? data[size / 2] % 9u : 0)), rc);
    check_eq(whole.has_model, cut.has_model);
    check_eq(whole.has_prefix, cut.has_prefix);
    check(!whole.has_model || (whole.model_len == cut.model_len
          && memcmp(whole.model, cut.model, whole.model_len) == 0));
    check(!whole.has_prefix || whole.hash == cut.hash);

    arena_init(&arena, 64u << 20);
    if (json_parse(&root, (struct str) { (const char *) data, size }, &arena,
                   &json_limits_request, &err) == OK
        && root->type == JSON_OBJECT)
    {
        model = json_find(root, "model");
        check_eq(rc, LLM_OK);
        check_eq(whole.has_model, model != NULL && model->type == JSON_STRING
                                  && is_name(model->string));
        check(!whole.has_model
              || str_eq(model->string, (struct str) { (const char *) whole.model,
                                                      whole.model_len }));
    }
    arena_destroy(&arena);
    return 0;
}
