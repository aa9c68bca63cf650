/* chat_messages.c - what a client sends to what templates expect.
 *
 * The result is a new tree that shares everything unchanged with the request.
 * Roles are checked here because templates put them between their own markers
 * and they are therefore trusted text. */
#include "engine/text/chat_int.h"

#include <stdio.h>

struct chat_reader {
    const struct chat_named *t;
    const struct chat_args  *args;
    struct err              *err;
    bool                     list;      /* the template wants lists of parts */
    bool                     wrap;      /* and even a string as one */
    size_t                   message;   /* index, for errors */
};

#define CHAT_FAIL(c, sub, ...)  chat_fail((c)->err, (c)->message, (sub), \
                                          __VA_ARGS__)

static int
chat_fail(struct err *err, size_t message, const char *sub, const char *fmt,
          ...) __attribute__((format(printf, 4, 5)));

static int
chat_fail(struct err *err, size_t message, const char *sub, const char *fmt,
          ...)
{
    char     text[ERR_MESSAGE_BYTES], param[ERR_PARAM_BYTES];
    va_list  ap;

    va_start(ap, fmt);
    (void) vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    (void) snprintf(param, sizeof param, "messages[%zu]%s", message, sub);
    return err_set_http(err, 400, param, "%s: %s", param, text);
}

static struct json *
chat_new(struct chat_reader *c, enum json_type type)
{
    struct json  *v = arena_calloc(c->args->arena, 1, sizeof *v);
    if (v == NULL) {
        (void) err_set_http(c->err, 400, "messages", "messages need more than "
                            "%zu bytes of memory",
                            c->args->arena->limit_bytes);
    } else {
        v->type = type;
    }
    return v;
}

/* A copy that can be a member of another parent; its children are shared. */
static struct json *
chat_copy(struct chat_reader *c, const struct json *v)
{
    struct json  *copy = chat_new(c, v->type);
    if (copy != NULL) {
        *copy = *v;
        copy->next = NULL;
    }
    return copy;
}

static int
chat_append_copy(struct chat_reader *c, struct json *parent,
                 const struct json *v)
{
    struct json  *copy = chat_copy(c, v);
    if (copy == NULL) {
        return ERROR;
    }
    json_append(parent, copy);
    return OK;
}

static int
chat_append_string(struct chat_reader *c, struct json *parent, struct str key,
                   struct str text)
{
    struct json  *v = chat_new(c, JSON_STRING);
    if (v == NULL) {
        return ERROR;
    }
    v->key = key;
    v->string = text;
    json_append(parent, v);
    return OK;
}

/* ---- content ---------------------------------------------------------------- */

/* The text of one part; anything but text is refused by name. */
static int
chat_part_text(struct chat_reader *c, const struct json *part, size_t idx,
               struct str *out)
{
    char                sub[48];
    const struct json  *type = json_find(part, "type"), *text;

    (void) snprintf(sub, sizeof sub, ".content[%zu]", idx);
    if (part->type == JSON_STRING) {
        *out = part->string;
        return OK;
    }
    if (part->type != JSON_OBJECT) {
        return CHAT_FAIL(c, sub, "a content part is an object or a string, "
                         "not %s", json_type_name(part->type));
    }
    if (type == NULL || type->type != JSON_STRING) {
        return CHAT_FAIL(c, sub, "a content part needs a \"type\"");
    }
    bool  refusal = str_eq(type->string, STR("refusal"));
    if (!refusal && !str_eq(type->string, STR("text"))
        && !str_eq(type->string, STR("input_text"))
        && !str_eq(type->string, STR("output_text")))
    {
        return CHAT_FAIL(c, sub, "parts of type \"%.*s\" are not supported, "
                         "only text",
                         (int) (type->string.len > 40 ? 40 : type->string.len),
                         type->string.data);
    }
    text = json_find(part, refusal ? "refusal" : "text");
    if (text == NULL || text->type != JSON_STRING) {
        return CHAT_FAIL(c, sub, "\"%s\" must be a string",
                         refusal ? "refusal" : "text");
    }
    *out = text->string;
    return OK;
}

static int
chat_append_text_part(struct chat_reader *c, struct json *list, struct str text)
{
    struct json  *part = chat_new(c, JSON_OBJECT);
    if (part == NULL
        || chat_append_string(c, part, STR("type"), STR("text")) != OK
        || chat_append_string(c, part, STR("text"), text) != OK)
    {
        return ERROR;
    }
    json_append(list, part);
    return OK;
}

/* All texts joined with "\n". */
static int
chat_join_parts(struct chat_reader *c, const struct json *parts,
                struct str *out)
{
    struct buf  b;
    struct str  text;
    size_t      idx = 0;

    buf_init(&b, c->args->arena->limit_bytes);
    for (const struct json *p = parts->child; p != NULL; p = p->next, idx++) {
        if (chat_part_text(c, p, idx, &text) != OK) {
            buf_destroy(&b);
            return ERROR;
        }
        if (idx > 0) {
            buf_append_c(&b, '\n');
        }
        buf_append_str(&b, text);
    }
    *out = b.failed ? (struct str) { NULL, 0 }
                    : arena_str(c->args->arena, buf_str(&b));
    buf_destroy(&b);
    return out->data != NULL ? OK
           : CHAT_FAIL(c, ".content", "needs more memory than its limit");
}

static int
chat_convert_parts(struct chat_reader *c, const struct json *parts,
                   struct json **out)
{
    struct str  text;
    size_t      idx = 0;

    *out = chat_new(c, JSON_ARRAY);
    if (*out == NULL) {
        return ERROR;
    }
    for (const struct json *p = parts->child; p != NULL; p = p->next, idx++) {
        if (chat_part_text(c, p, idx, &text) != OK
            || chat_append_text_part(c, *out, text) != OK)
        {
            return ERROR;
        }
    }
    return OK;
}

static int
chat_content(struct chat_reader *c, const struct json *v, struct json **out)
{
    if (v->type == JSON_NULL || (v->type == JSON_STRING && !c->wrap)) {
        *out = chat_copy(c, v);
        return *out == NULL ? ERROR : OK;
    }
    if (v->type == JSON_STRING) {
        *out = chat_new(c, JSON_ARRAY);
        return *out == NULL ? ERROR
               : chat_append_text_part(c, *out, v->string);
    }
    if (v->type != JSON_ARRAY) {
        return CHAT_FAIL(c, ".content", "must be a string, null or a list of "
                         "parts, not %s", json_type_name(v->type));
    }
    if (v->num_children > CHAT_PARTS_MAX) {
        return CHAT_FAIL(c, ".content", "%u parts, the limit is %d",
                         v->num_children, CHAT_PARTS_MAX);
    }
    if (c->list) {
        return chat_convert_parts(c, v, out);
    }
    *out = chat_new(c, JSON_STRING);
    return *out == NULL ? ERROR : chat_join_parts(c, v, &(*out)->string);
}

/* ---- tool calls --------------------------------------------------------------- */

/* "{\"a\": 1}" -> {"a": 1}; an empty string is an empty object. */
static int
chat_arguments(struct chat_reader *c, const struct json *v, size_t call,
               struct json **out)
{
    struct err  why = { 0 };
    char        sub[64];

    (void) snprintf(sub, sizeof sub, ".tool_calls[%zu].function.arguments",
                    call);
    if (v->type == JSON_OBJECT || v->type == JSON_ARRAY) {
        *out = chat_copy(c, v);
        return *out == NULL ? ERROR : OK;
    }
    if (v->type == JSON_NULL
        || (v->type == JSON_STRING && v->string.len == 0))
    {
        *out = chat_new(c, JSON_OBJECT);
    } else if (v->type != JSON_STRING) {
        return CHAT_FAIL(c, sub, "must be a string or an object, not %s",
                         json_type_name(v->type));
    } else if (json_parse(out, v->string, c->args->arena, &json_limits_request,
                          &why) != OK)
    {
        return CHAT_FAIL(c, sub, "%s", why.message);
    } else if ((*out)->type != JSON_OBJECT && (*out)->type != JSON_ARRAY) {
        return CHAT_FAIL(c, sub, "must hold a JSON object, not %s",
                         json_type_name((*out)->type));
    }
    if (*out == NULL) {
        return ERROR;
    }
    (*out)->key = v->key;
    return OK;
}

static int
chat_function(struct chat_reader *c, const struct json *f, size_t call,
              struct json **out)
{
    *out = chat_new(c, JSON_OBJECT);
    if (*out == NULL) {
        return ERROR;
    }
    (*out)->key = f->key;
    for (const struct json *m = f->child; m != NULL; m = m->next) {
        struct json  *v;
        if (!str_eq(m->key, STR("arguments"))) {
            if (chat_append_copy(c, *out, m) != OK) {
                return ERROR;
            }
            continue;
        }
        if (chat_arguments(c, m, call, &v) != OK) {
            return ERROR;
        }
        json_append(*out, v);
    }
    return OK;
}

static int
chat_tool_call(struct chat_reader *c, const struct json *call, size_t idx,
               struct json *list)
{
    char          sub[64];
    struct json  *out;

    (void) snprintf(sub, sizeof sub, ".tool_calls[%zu]", idx);
    const struct json  *f = json_find(call, "function");
    const struct json  *name = json_find(f, "name");
    if (f == NULL || f->type != JSON_OBJECT || name == NULL
        || name->type != JSON_STRING)
    {
        return CHAT_FAIL(c, sub, "needs a \"function\" with a \"name\"");
    }
    out = chat_new(c, JSON_OBJECT);
    if (out == NULL) {
        return ERROR;
    }
    for (const struct json *m = call->child; m != NULL; m = m->next) {
        struct json  *v;
        int           rc = m == f ? chat_function(c, m, idx, &v)
                           : (v = chat_copy(c, m)) == NULL ? ERROR : OK;
        if (rc != OK) {
            return ERROR;
        }
        json_append(out, v);
    }
    json_append(list, out);
    return OK;
}

static int
chat_tool_calls(struct chat_reader *c, const struct json *v, struct json **out)
{
    size_t  idx = 0;

    if (v->type != JSON_ARRAY) {
        return CHAT_FAIL(c, ".tool_calls", "must be a list, not %s",
                         json_type_name(v->type));
    }
    *out = chat_new(c, JSON_ARRAY);
    if (*out == NULL) {
        return ERROR;
    }
    for (const struct json *i = v->child; i != NULL; i = i->next, idx++) {
        if (chat_tool_call(c, i, idx, *out) != OK) {
            return ERROR;
        }
    }
    return OK;
}

/* ---- messages ------------------------------------------------------------------ */

static int
chat_role(struct chat_reader *c, const struct json *v, struct json **out)
{
    static const char *const  roles[] = {
        "system", "developer", "user", "assistant", "tool", "function",
    };
    bool  known = false;

    if (v == NULL || v->type != JSON_STRING) {
        return CHAT_FAIL(c, ".role", "must be a string");
    }
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        known |= str_eq(v->string, str_from(roles[i]));
    }
    if (!known) {
        return CHAT_FAIL(c, ".role", "\"%.*s\" is not one of system, "
                         "developer, user, assistant, tool, function",
                         (int) (v->string.len > 40 ? 40 : v->string.len),
                         v->string.data);
    }
    if (out == NULL) {
        return OK;
    }
    *out = chat_copy(c, v);
    if (*out != NULL && str_eq(v->string, STR("developer"))
        && !c->t->knows_developer)
    {
        (*out)->string = STR("system");
    }
    return *out == NULL ? ERROR : OK;
}

/* One member of a message; *out NULL drops it. */
static int
chat_member(struct chat_reader *c, const struct json *m, struct json **out)
{
    int  rc = OK;

    *out = NULL;
    if (str_eq(m->key, STR("role"))) {
        rc = chat_role(c, m, out);
    } else if (str_eq(m->key, STR("content"))) {
        rc = chat_content(c, m, out);
    } else if (str_eq(m->key, STR("tool_calls"))) {
        if (m->type == JSON_NULL) {
            return OK;
        }
        rc = chat_tool_calls(c, m, out);
    } else {
        *out = chat_copy(c, m);
        rc = *out == NULL ? ERROR : OK;
    }
    if (rc == OK) {
        (*out)->key = m->key;
    }
    return rc;
}

/* reasoning, reasoning_content and thinking (gpt-oss) stand for each other:
 * whichever the client sent, the template may read any. */
static int
chat_alias_reasoning(struct chat_reader *c, struct json *message)
{
    static const char *const  names[] = { "reasoning_content", "reasoning",
                                          "thinking" };
    const struct json        *given = NULL;

    for (size_t i = 0; i < 3 && given == NULL; i++) {
        given = json_find(message, names[i]);
        if (given != NULL && given->type != JSON_STRING) {
            given = NULL;
        }
    }
    for (size_t i = 0; i < 3 && given != NULL; i++) {
        struct json  *v = (struct json *) json_find(message, names[i]);
        if (v == NULL) {
            if (chat_append_string(c, message, str_from(names[i]),
                                   given->string) != OK)
            {
                return ERROR;
            }
        } else if (v->type == JSON_NULL) {
            v->type = JSON_STRING;      /* v is our own copy */
            v->string = given->string;
        }
    }
    return OK;
}

static int
chat_message(struct chat_reader *c, const struct json *m, struct json *list)
{
    if (m->type != JSON_OBJECT) {
        return CHAT_FAIL(c, "", "must be an object, not %s",
                         json_type_name(m->type));
    }
    if (chat_role(c, json_find(m, "role"), NULL) != OK) {
        return ERROR;
    }
    struct json  *out = chat_new(c, JSON_OBJECT);
    if (out == NULL) {
        return ERROR;
    }
    for (const struct json *i = m->child; i != NULL; i = i->next) {
        struct json  *v;
        if (chat_member(c, i, &v) != OK) {
            return ERROR;
        }
        if (v != NULL) {
            json_append(out, v);
        }
    }
    if (chat_alias_reasoning(c, out) != OK) {
        return ERROR;
    }
    json_append(list, out);
    return OK;
}

int
chat_normalize(const struct chat_named *t, const struct chat_args *args,
               const struct json **out, struct err *err)
{
    const struct json   *in = args->messages;
    struct chat_reader   c = { .t = t, .args = args, .err = err };

    c.list = args->content == CHAT_CONTENT_AUTO
             ? t->use.iterated : args->content == CHAT_CONTENT_LIST;
    c.wrap = c.list && !t->use.string_tested;
    if (in == NULL || in->type != JSON_ARRAY || in->num_children == 0) {
        return err_set_http(err, 400, "messages", "messages: a list of at "
                            "least one message is required");
    }
    if (in->num_children > CHAT_MESSAGES_MAX) {
        return err_set_http(err, 400, "messages", "messages: %u of them, the "
                            "limit is %d", in->num_children,
                            CHAT_MESSAGES_MAX);
    }
    struct json  *list = chat_new(&c, JSON_ARRAY);
    if (list == NULL) {
        return ERROR;
    }
    for (const struct json *m = in->child; m != NULL; m = m->next) {
        if (chat_message(&c, m, list) != OK) {
            return ERROR;
        }
        c.message++;
    }
    *out = list;
    return OK;
}
