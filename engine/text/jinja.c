/* jinja.c - a rendering from its variables to its text, within its limits. */
#include "engine/text/jinja_int.h"
#include "engine/base/clock.h"

#include <stdio.h>

#define JINJA_STEPS_MAX         10000000u
#define JINJA_OUTPUT_BYTES_MAX  (64u << 20)
#define JINJA_TIME_NS_MAX       (2 * NS_PER_S)
#define JINJA_STEPS_PER_LOOK    1024        /* between two looks at the clock */
#define JINJA_BYTES_PER_STEP    32          /* work on long strings */

/* ---- failing and limits --------------------------------------------------- */

struct jv
jinja_fail(struct jinja_run *r, const char *fmt, ...)
{
    char     text[ERR_MESSAGE_BYTES];
    va_list  ap;

    if (!r->failed) {
        r->failed = true;
        va_start(ap, fmt);
        (void) vsnprintf(text, sizeof text, fmt, ap);
        va_end(ap);
        (void) err_set_http(r->err, 400, NULL, "chat template line %u: %s",
                            r->line, text);
    }
    return jv_undefined();
}

struct jv
jinja_fail_memory(struct jinja_run *r)
{
    return jinja_fail(r, "rendering needs more than %zu bytes of memory",
                      r->arena->limit_bytes);
}

bool
jinja_charge(struct jinja_run *r, size_t bytes)
{
    r->steps += 1 + bytes / JINJA_BYTES_PER_STEP;
    if (r->steps < r->steps_check) {
        return !r->failed;
    }
    r->steps_check = r->steps + JINJA_STEPS_PER_LOOK;
    if (r->steps > r->steps_max) {
        (void) jinja_fail(r, "rendering takes more than %llu steps",
                          (unsigned long long) r->steps_max);
    } else if (r->now_ns() > r->deadline_ns) {
        (void) jinja_fail(r, "rendering takes too long");
    }
    return !r->failed;
}

bool
jinja_enter(struct jinja_run *r)
{
    if (r->depth >= JINJA_EVAL_DEPTH_MAX) {
        (void) jinja_fail(r, "evaluation nested more than %d deep",
                          JINJA_EVAL_DEPTH_MAX);
        return false;
    }
    if (!jinja_charge(r, 0)) {
        return false;
    }
    r->depth++;
    return true;
}

void
jinja_leave(struct jinja_run *r)
{
    r->depth--;
}

/* ---- JSON to values ------------------------------------------------------- */

static bool
jinja_is_known_role(struct str s)
{
    static const char *const  roles[] = {
        "system", "user", "assistant", "tool", "developer", "function",
    };
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        if (str_eq(s, str_from(roles[i]))) {
            return true;
        }
    }
    return false;
}

static struct jv
jinja_from_scalar(struct jinja_run *r, const struct json *j, bool untrusted)
{
    switch (j->type) {
    case JSON_NULL:
        return jv_none();
    case JSON_BOOL:
        return jv_bool(j->b);
    case JSON_FLOAT:
        return jv_float(j->f);
    case JSON_INT: {
        if (j->int_fits) {
            return jv_int(j->i);
        }
        struct jv  v = jv_str_ref(r, j->string, false);
        v.type = r->failed ? JV_UNDEFINED : JV_BIG;
        return v;
    }
    default:
        /* A role is one of a closed set, and templates write it between their
         * own markers. */
        if (str_eq(j->key, STR("role")) && jinja_is_known_role(j->string)) {
            untrusted = false;
        }
        return jv_str_ref(r, j->string, untrusted);
    }
}

static bool
jinja_json_is_container(const struct json *j)
{
    return j->type == JSON_ARRAY || j->type == JSON_OBJECT;
}

struct jinja_json_frame {
    const struct json *next;    /* child to convert next */
    struct jv          v;
};

static bool
jinja_json_open(struct jinja_run *r, struct jinja_json_frame *f,
                const struct json *j)
{
    f->next = j->child;
    f->v = j->type == JSON_OBJECT ? jv_dict_new(r, JV_DICT)
                                  : jv_list_new(r, JV_LIST, j->num_children);
    return !r->failed;
}

struct jv
jinja_from_json(struct jinja_run *r, const struct json *j, bool untrusted)
{
    struct jinja_json_frame  stack[JSON_DEPTH_CAP];
    size_t                   depth = 0;

    if (j == NULL) {
        return jv_none();
    }
    if (!jinja_json_is_container(j)) {
        return jinja_from_scalar(r, j, untrusted);
    }
    if (!jinja_json_open(r, &stack[depth++], j)) {
        return jv_undefined();
    }
    for (;;) {
        struct jinja_json_frame  *f = &stack[depth - 1];
        const struct json        *child = f->next;
        if (r->failed) {
            return jv_undefined();
        }
        if (child == NULL) {
            if (--depth == 0) {
                return f->v;
            }
            continue;
        }
        f->next = child->next;
        struct jv  v;
        bool       container = jinja_json_is_container(child);
        if (!container) {
            v = jinja_from_scalar(r, child, untrusted);
        } else if (depth == JSON_DEPTH_CAP
                   || !jinja_json_open(r, &stack[depth], child))
        {
            return jinja_fail(r, "value nested more than %d deep",
                              JSON_DEPTH_CAP);
        } else {
            v = stack[depth].v;
        }
        if (f->v.type == JV_DICT) {
            (void) jv_dict_set(r, f->v.dict,
                               jv_str_ref(r, child->key, untrusted), v);
        } else {
            (void) jv_list_push(r, &f->v, v);
        }
        depth += container;
    }
}

/* ---- rendering ------------------------------------------------------------ */

static void
jinja_set_vars(struct jinja_run *r)
{
    const struct jinja  *t = r->t;

    for (size_t i = 0; i < r->args->num_vars; i++) {
        const struct jinja_var  *var = &r->args->vars[i];
        uint32_t                 sym = 0;
        while (sym < t->num_syms && !str_eq(t->syms[sym].name, var->name)) {
            sym++;
        }
        if (sym == t->num_syms) {
            continue;       /* the template never asks for it */
        }
        switch (var->kind) {
        case JINJA_VAR_JSON:
            r->root[sym] = jinja_from_json(r, var->json, var->untrusted);
            break;
        case JINJA_VAR_STR:
            r->root[sym] = jv_str_ref(r, var->str, var->untrusted);
            break;
        case JINJA_VAR_BOOL:
            r->root[sym] = jv_bool(var->b);
            break;
        }
    }
}

int
jinja_render(const struct jinja *t, const struct jinja_args *args,
             struct jinja_text *out, struct err *err)
{
    const struct jinja_limits  *lim = &args->limits;
    struct jinja_run            r = {
        .t = t, .args = args, .arena = args->arena, .err = err,
        .now_ns = lim->now_ns == NULL ? clock_now_ns : lim->now_ns,
        .steps_max = lim->steps_max == 0 ? JINJA_STEPS_MAX : lim->steps_max,
        .output_bytes_max = lim->output_bytes_max == 0
                            ? JINJA_OUTPUT_BYTES_MAX : lim->output_bytes_max,
    };

    memset(out, 0, sizeof *out);
    r.deadline_ns = r.now_ns() + (lim->time_ns_max == 0 ? JINJA_TIME_NS_MAX
                                                        : lim->time_ns_max);
    r.root = arena_calloc(r.arena, t->num_syms, sizeof *r.root);
    if (r.root == NULL) {
        (void) jinja_fail_memory(&r);
        return ERROR;
    }
    r.out = jv_room_new(&r, 4096);
    jinja_set_vars(&r);
    if (!r.failed) {
        (void) jinja_exec(&r, t->body);
    }
    if (r.failed) {
        return ERROR;
    }
    out->data = (struct str) { r.out->data, r.out->len };
    out->spans = r.out->spans;
    out->num_spans = r.out->num_spans;
    return OK;
}
