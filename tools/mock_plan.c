/* mock_plan.c - reads {"mock": {...}} strictly: a misspelt fault is an error,
 * or a test would pass without its fault. */
#include "tools/mock_plan.h"

#include <string.h>

#include "engine/base/arena.h"
#include "engine/base/json.h"
#include "wire/llm_wire.h"

#define PLAN_ARENA_BYTES  (64u << 20)

struct number { const char *key; int64_t max; size_t off; };
struct flag   { const char *key; size_t off; };
struct word   { const char *key; const char *const *names; size_t off; };

#define AT(field) offsetof(struct mock_plan, field)

static const struct number  numbers[] = {
    { "tokens", MOCK_TOKENS_MAX, AT(tokens) },
    { "bytes", MOCK_TOKEN_BYTES_MAX, AT(bytes) },
    { "first_ms", 3600000, AT(first_ms) },
    { "delay_ms", 3600000, AT(delay_ms) },
    { "hang_ms", 3600000, AT(hang_ms) },
    { "status", 599, AT(status) },
    { "retry_after", 86400, AT(retry_after_s) },
    { "prompt_tokens", 1000000, AT(prompt_tokens) },
    { "cached_tokens", 1000000, AT(cached_tokens) },
    { "exit_code", 255, AT(exit_code) },
};

static const struct flag  flags[] = {
    { "refuse", AT(refuse) }, { "echo", AT(echo) }, { "close", AT(close) },
    { "no_end", AT(no_end) }, { "ignore_cancel", AT(ignore_cancel) },
    { "error_event", AT(error_event) }, { "no_done", AT(no_done) },
};

/* In the order of the enums; [0] is "none". */
static const char *const  crash_names[] = { "none", "before", "head", "mid",
                                            NULL };
static const char *const  hang_names[] = { "none", "request", "steps",
                                           "process", NULL };
static const char *const  corrupt_names[] = {
    "none", "cq", "id", "len", "tail", "head", "end", "no_head", "two_heads",
    "two_ends", "sq_head", NULL
};

static int
bad(struct err *err, struct str key, const char *want)
{
    return err_set_http(err, 400, "mock", "mock.%.*s: %s", STR_ARG(key), want);
}

static int
find_word(const char *const *names, const struct json *v)
{
    for (int i = 0; v->type == JSON_STRING && names[i] != NULL; i++) {
        if (str_eq(v->string, str_from(names[i]))) {
            return i;
        }
    }
    return -1;
}

static int
read_word(struct mock_plan *out, const struct json *v, struct err *err)
{
    int  i;

    if (str_eq(v->key, STR("at"))) {
        i = v->type == JSON_STRING && v->string.len < sizeof out->at ? 0 : -1;
        if (i == 0) {
            memcpy(out->at, v->string.data, v->string.len);
        }
    } else if (str_eq(v->key, STR("crash"))) {
        i = find_word(crash_names, v);
        out->crash = (enum mock_crash) i;
    } else if (str_eq(v->key, STR("corrupt"))) {
        i = find_word(corrupt_names, v);
        out->corrupt = (enum mock_corrupt) i;
    } else if (str_eq(v->key, STR("hang"))) {
        i = v->type == JSON_BOOL ? (int) v->b : find_word(hang_names, v);
        out->hang = (enum mock_hang) i;
    } else if (str_eq(v->key, STR("finish"))) {
        for (i = LLM_FINISH_COUNT - 1; i >= 0; i--) {
            if (v->type == JSON_STRING
                && str_eq(v->string,
                          str_from(llm_wire_finish_name((uint32_t) i))))
            {
                break;
            }
        }
        out->finish = (uint16_t) i;
    } else {
        return bad(err, v->key, "no such behaviour");
    }
    return i < 0 ? bad(err, v->key, "no such value") : OK;
}

static int
read_member(struct mock_plan *out, const struct json *v, struct err *err)
{
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (str_eq(v->key, str_from(numbers[i].key))) {
            if (v->type != JSON_INT || !v->int_fits || v->i < 0
                || v->i > numbers[i].max)
            {
                return bad(err, v->key, "number out of range");
            }
            memcpy((char *) out + numbers[i].off, &v->i, sizeof v->i);
            return OK;
        }
    }
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        if (str_eq(v->key, str_from(flags[i].key))) {
            if (v->type != JSON_BOOL) {
                return bad(err, v->key, "true or false");
            }
            memcpy((char *) out + flags[i].off, &v->b, sizeof v->b);
            return OK;
        }
    }
    return read_word(out, v, err);
}

static bool
is_true(const struct json *v)
{
    return v != NULL && v->type == JSON_BOOL && v->b;
}

static int
read_body(struct mock_plan *out, const struct json *root, struct err *err)
{
    const struct json  *mock = json_find(root, "mock");
    const struct json  *model = json_find(root, "model");
    const struct json  *usage = json_find(root, "stream_options");
    const struct json  *max = json_find(root, "max_tokens");

    out->stream = is_true(json_find(root, "stream"));
    out->include_usage = is_true(json_find(usage, "include_usage"));
    if (model != NULL && model->type == JSON_STRING
        && model->string.len < sizeof out->model)
    {
        memcpy(out->model, model->string.data, model->string.len);
        out->model[model->string.len] = '\0';
    }
    if (max != NULL && max->type == JSON_INT && max->int_fits && max->i > 0
        && max->i <= INT32_MAX)
    {
        out->max_tokens = max->i;
        if (max->i < out->tokens) {
            out->tokens = max->i;
            out->finish = LLM_FINISH_LENGTH;
        }
    }
    if (mock == NULL) {
        return OK;
    }
    if (mock->type != JSON_OBJECT) {
        return err_set_http(err, 400, "mock", "mock: an object is expected");
    }
    for (const struct json *v = mock->child; v != NULL; v = v->next) {
        if (read_member(out, v, err) != OK) {
            return ERROR;
        }
    }
    return OK;
}

void
mock_plan_init(struct mock_plan *out)
{
    memset(out, 0, sizeof *out);
    out->tokens = 5;
    out->status = 200;
    out->prompt_tokens = 3;
    out->finish = LLM_FINISH_STOP;
    memcpy(out->model, "mock", sizeof "mock");
}

void
mock_plan_forget_faults(struct mock_plan *plan)
{
    plan->crash = MOCK_CRASH_NONE;
    plan->hang = MOCK_HANG_NONE;
    plan->corrupt = MOCK_CORRUPT_NONE;
    plan->status = 200;
    plan->first_ms = 0;
    plan->refuse = plan->close = plan->no_end = plan->ignore_cancel = false;
    plan->error_event = plan->no_done = false;
}

int
mock_plan_read(struct mock_plan *out, struct str body, struct err *err)
{
    struct arena   arena;
    struct json   *root;
    int            rc;

    mock_plan_init(out);
    out->model[0] = '\0';
    arena_init(&arena, PLAN_ARENA_BYTES);
    rc = json_parse(&root, body, &arena, &json_limits_request, err);
    if (rc == OK && root->type != JSON_OBJECT) {
        rc = err_set_http(err, 400, "", "the body must be a JSON object");
    }
    if (rc == OK) {
        rc = read_body(out, root, err);
    }
    arena_destroy(&arena);
    return rc;
}

void
mock_plan_cap(struct mock_plan *plan, uint32_t cap)
{
    if (cap == 0) {
        return;
    }
    if (plan->max_tokens == 0 || plan->max_tokens > (int64_t) cap) {
        plan->max_tokens = cap;
    }
    if (plan->tokens > (int64_t) cap) {
        plan->tokens = cap;
        plan->finish = LLM_FINISH_LENGTH;
    }
}
