/* jinja.h - Jinja templates with jinja2's results, in bounded time and memory.
 *
 * The language is what Hugging Face gives chat templates: jinja2's immutable
 * sandbox with trim_blocks and lstrip_blocks, break/continue, the generation
 * tag, raise_exception, strftime_now and json.dumps as tojson.  Values print
 * as Python prints them, undefined behaves as jinja2's Undefined, `safe` makes
 * Markup, filters such as selectattr give generators.
 *
 *     struct jinja *t;
 *     if (jinja_compile(&t, source, err) != OK) ...        once
 *     struct jinja_var vars[] = {
 *         { .name = STR("messages"), .json = messages, .untrusted = true },
 *         { .name = STR("bos_token"), .kind = JINJA_VAR_STR, .str = bos },
 *     };
 *     struct jinja_args args = { .vars = vars, .num_vars = 2, .arena = &a };
 *     struct jinja_text text;
 *     if (jinja_render(t, &args, &text, err) != OK) ...     any thread
 *     jinja_destroy(t);
 *
 * A compiled template never changes and may be rendered by many threads.
 * Everything of one rendering lives in the caller's arena; its limit bounds
 * the memory.  Steps, depth, output and time have limits of their own; none
 * of them can crash the process.
 *
 * Taint: text out of a variable marked untrusted stays marked through every
 * operator, filter and method; jinja_text.spans are those bytes of the output.
 * Where an operation mixes trusted and untrusted text in a way that cannot be
 * followed byte by byte, the whole result is untrusted.
 *
 * Differences from jinja2: integers beyond 64 bits can be printed and compared
 * but not computed with; include, import, extends, block and autoescape and
 * the filters groupby, pprint, random, striptags, urlize, wordwrap, xmlattr
 * do not exist.  Source: github.com/pallets/jinja 3.1, markupsafe 3.0. */
#ifndef LLM_TEXT_JINJA_H
#define LLM_TEXT_JINJA_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>
#include "engine/base/arena.h"
#include "engine/base/err.h"
#include "engine/base/json.h"
#include "engine/text/text_span.h"

#define JINJA_SOURCE_BYTES_MAX  (256u << 10)
#define JINJA_NODES_MAX         50000u
#define JINJA_PARSE_DEPTH_MAX   200
#define JINJA_CALL_DEPTH_MAX    64       /* macros in macros */
#define JINJA_EVAL_DEPTH_MAX    1500     /* nested evaluation steps, all kinds */
#define JINJA_DATA_DEPTH_MAX    128      /* nesting of a printed value */
#define JINJA_RANGE_MAX         100000   /* items of range(), as in jinja2 */

struct jinja;

enum jinja_var_kind {
    JINJA_VAR_JSON,   /* json; NULL is none */
    JINJA_VAR_STR,
    JINJA_VAR_BOOL
};

/* A top-level variable.  Later entries of the same name win. */
struct jinja_var {
    struct str           name;
    enum jinja_var_kind  kind;
    const struct json   *json;      /* borrowed for the rendering */
    struct str           str;       /* borrowed, valid UTF-8 */
    bool                 b;
    bool                 untrusted; /* its strings carry taint */
};

/* Zero means the default. */
struct jinja_limits {
    uint64_t  steps_max;            /* 10 million; long strings cost extra */
    size_t    output_bytes_max;     /* 64 MB */
    int64_t   time_ns_max;          /* 2 s */
    int64_t (*now_ns)(void);        /* clock_now_ns() */
};

struct jinja_args {
    const struct jinja_var *vars;
    size_t                  num_vars;
    struct jinja_limits     limits;
    struct tm               now;    /* what strftime_now() prints */
    struct arena           *arena;
};

struct jinja_text {
    struct str              data;       /* UTF-8, in the arena */
    const struct text_span *spans;      /* untrusted bytes, in the arena */
    size_t                  num_spans;
};

/* Syntax errors name the line.  source must be valid UTF-8 and may go away. */
int jinja_compile(struct jinja **out, struct str source, struct err *err);
void jinja_destroy(struct jinja *t);            /* NULL is fine */

/* ERROR with http_status 400.  The text of raise_exception() is the message
 * itself; other errors read "chat template line 7: 'x' is undefined". */
int jinja_render(const struct jinja *t, const struct jinja_args *args,
                 struct jinja_text *out, struct err *err);

/* Whether the template mentions the variable at all. */
bool jinja_uses(const struct jinja *t, const char *name);

/* How the template treats messages[i].content: whether a for loop walks over
 * it (so a list of parts must stay a list), and whether it ever asks if
 * something is a string (so a plain string is expected too). */
struct jinja_content_use {
    bool iterated;
    bool string_tested;
};
struct jinja_content_use jinja_probe_content(const struct jinja *t);

#endif
