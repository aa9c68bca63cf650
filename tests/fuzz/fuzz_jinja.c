/* fuzz_jinja.c - libFuzzer entry: a template, a NUL byte, and its context.
 *
 * Whatever comes in, rendering ends within its limits, the output is valid
 * UTF-8 and the spans lie inside it, in order. */
#include <stdint.h>
#include <stdlib.h>
#include "engine/base/check.h"
#include "engine/base/utf8.h"
#include "engine/text/jinja.h"

#define FUZZ_VARS_MAX  16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char  fuzz_context[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi <b>\\u00e9\"},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":"
    "{\"name\":\"f\",\"arguments\":{\"a\":[1,2.5,\"x\"]}}}]}],"
    "\"tools\":[{\"type\":\"function\"}],\"s\":\"text \\ud83d\\ude80\","
    "\"n\":5,\"l\":[3,1,2],\"add_generation_prompt\":true}";

static void
fuzz_check_text(const struct jinja_text *text)
{
    size_t  last = 0;

    check(utf8_is_valid(text->data.data, text->data.len));
    for (size_t i = 0; i < text->num_spans; i++) {
        check(i == 0 || text->spans[i].begin > last);
        check_lt(text->spans[i].begin, text->spans[i].end);
        check_le(text->spans[i].end, text->data.len);
        last = text->spans[i].end;
    }
}

static void
fuzz_render(const struct jinja *t, struct str context, struct arena *arena)
{
    struct json       *in;
    struct jinja_var   vars[FUZZ_VARS_MAX];
    size_t             num = 0;
    struct err         err = { 0 };
    struct jinja_text  text;

    if (json_parse(&in, context, arena, &json_limits_request, &err) != OK) {
        return;
    }
    for (const struct json *v = in->child; v != NULL && num < FUZZ_VARS_MAX;
         v = v->next)
    {
        vars[num++] = (struct jinja_var) { .name = v->key, .json = v,
                                           .untrusted = true };
    }
    struct jinja_args  args = {
        .vars = vars, .num_vars = num, .arena = arena,
        .limits = { .steps_max = 200000, .output_bytes_max = 1 << 20 },
        .now = { .tm_year = 125, .tm_mday = 1 },
    };
    if (jinja_render(t, &args, &text, &err) == OK) {
        fuzz_check_text(&text);
    } else {
        check_eq(err.http_status, 400);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t  *cut = size == 0 ? NULL : memchr(data, 0, size);
    size_t          len = cut == NULL ? size : (size_t) (cut - data);
    struct jinja   *t;
    struct arena    arena;
    char           *source = malloc(len + 1);

    if (len > 0) {
        memcpy(source, data, len);
    }
    arena_init(&arena, 64u << 20);
    if (jinja_compile(&t, (struct str) { source, len }, NULL) == OK) {
        /* The template does not borrow its source. */
        memset(source, 'x', len);
        fuzz_render(t, cut == NULL ? STR(fuzz_context)
                    : (struct str) { (const char *) cut + 1, size - len - 1 },
                    &arena);
        jinja_destroy(t);
    }
    arena_destroy(&arena);
    free(source);
    return 0;
}
