/* jinja_cli.c - the judge's stand: templates in, results out, line by line.
 *
 * stdin: {"template": "...", "context": {...}} a line; stdout:
 * {"ok": "..."} or {"error": "..."}.  tests/text/compare_jinja.py builds it
 * and compares it with jinja2.  The clock stands at 2025-03-14 15:09:26. */
#include <stdio.h>
#include <stdlib.h>
#include "engine/text/jinja.h"

static void
render_line(struct str line, struct buf *out)
{
    struct arena       arena;
    struct json       *in;
    struct jinja      *t = NULL;
    struct jinja_text  text;
    struct err         err = { 0 };
    struct jinja_var   vars[64];
    size_t             num_vars = 0;

    arena_init(&arena, 512u << 20);
    int  rc = json_parse(&in, line, &arena, &json_limits_file, &err);
    if (rc == OK) {
        const struct json  *context = json_find(in, "context");
        for (const struct json *v = context == NULL ? NULL : context->child;
             v != NULL && num_vars < 64; v = v->next)
        {
            vars[num_vars++] = (struct jinja_var) { .name = v->key, .json = v,
                                                    .untrusted = true };
        }
        rc = jinja_compile(&t, json_find(in, "template")->string, &err);
    }
    if (rc == OK) {
        struct jinja_args  args = {
            .vars = vars, .num_vars = num_vars, .arena = &arena,
            .now = { .tm_sec = 26, .tm_min = 9, .tm_hour = 15, .tm_mday = 14,
                     .tm_mon = 2, .tm_year = 125, .tm_wday = 5, .tm_yday = 72 },
        };
        rc = jinja_render(t, &args, &text, &err);
    }
    if (rc == OK) {
        buf_append_lit(out, "{\"ok\":");
        json_write_string(out, text.data);
    } else {
        buf_append_lit(out, "{\"error\":");
        json_write_string(out, str_from(err.message));
    }
    buf_append_lit(out, "}\n");
    jinja_destroy(t);
    arena_destroy(&arena);
}

int
main(void)
{
    char    *line = NULL;
    size_t   cap = 0;
    ssize_t  len;

    while ((len = getline(&line, &cap, stdin)) > 0) {
        struct buf  out;
        buf_init(&out, 512u << 20);
        render_line((struct str) { line, (size_t) len }, &out);
        (void) fwrite(out.data, 1, out.len, stdout);
        (void) fflush(stdout);
        buf_destroy(&out);
    }
    free(line);
    return 0;
}
