/* bench_sse.c - lines to events, events to chunks. */
#include "tools/bench_sse.h"

#include <string.h>

#include "engine/base/json.h"

#define ARENA_BYTES_MAX  (64u << 20)

void
bench_sse_init(struct bench_sse *s, bench_chunk_fn *fn, void *user)
{
    *s = (struct bench_sse) { .fn = fn, .user = user };
    buf_init(&s->line, BENCH_EVENT_BYTES_MAX);
    buf_init(&s->data, BENCH_EVENT_BYTES_MAX);
    arena_init(&s->arena, ARENA_BYTES_MAX);
}

void
bench_sse_reset(struct bench_sse *s)
{
    buf_reset(&s->line);
    buf_reset(&s->data);
    s->has_data = s->too_long = false;
}

void
bench_sse_destroy(struct bench_sse *s)
{
    buf_destroy(&s->line);
    buf_destroy(&s->data);
    arena_destroy(&s->arena);
}

/* ---- what an event says ------------------------------------------------- */
static struct str
string_of(const struct json *object, const char *key)
{
    const struct json  *v = json_find(object, key);

    return v != NULL && v->type == JSON_STRING ? v->string
           : (struct str) { NULL, 0 };
}

static int64_t
count_of(const struct json *object, const char *key)
{
    const struct json  *v = json_find(object, key);

    return v != NULL && v->type == JSON_INT && v->int_fits && v->i >= 0
           ? v->i : -1;
}

static struct str
error_of(const struct json *root)
{
    const struct json  *error = json_find(root, "error");

    if (error != NULL && error->type == JSON_STRING) {
        return error->string;
    }
    if (error != NULL && error->type == JSON_OBJECT) {
        struct str  message = string_of(error, "message");
        return message.data != NULL ? message : STR("error without a message");
    }
    return (struct str) { NULL, 0 };
}

struct str
bench_error_message(struct str body, struct arena *arena)
{
    struct json  *root;

    if (json_parse(&root, body, arena, &json_limits_file, NULL) != OK) {
        return (struct str) { NULL, 0 };
    }
    struct str  message = error_of(root);
    return message.data != NULL ? message : string_of(root, "message");
}

/* The text of a choice: "text", or what its delta brings. */
static void
read_choice(const struct json *choice, struct bench_chunk *out)
{
    static const char *const  names[] = { "content", "reasoning_content",
                                          "reasoning", "refusal" };
    const struct json  *delta = json_find(choice, "delta");
    const struct json  *finish = json_find(choice, "finish_reason");
    const struct json  *calls = json_find(delta, "tool_calls");
    struct str          text = string_of(choice, "text");

    for (size_t i = 0; delta != NULL && text.len == 0
         && i < sizeof names / sizeof *names; i++)
    {
        text = string_of(delta, names[i]);
    }
    bool  has_calls = calls != NULL && calls->num_children > 0;
    bool  finished = finish != NULL && finish->type == JSON_STRING;
    bool  role_only = delta != NULL && json_find(delta, "role") != NULL;
    out->finished = out->finished || finished;
    out->is_token = out->is_token || text.len > 0 || has_calls
                    || (!finished && !role_only);
    if (text.len > 0) {
        out->text = text;
    }
}

static void
read_chunk(struct bench_sse *s, struct str data, struct bench_chunk *out)
{
    struct json  *root;

    *out = (struct bench_chunk) { .prompt_tokens = -1,
                                  .completion_tokens = -1 };
    if (str_eq(data, STR("[DONE]"))) {
        out->done = true;
        return;
    }
    if (json_parse(&root, data, &s->arena, &json_limits_file, NULL) != OK) {
        out->broken = true;
        return;
    }
    const struct json  *choices = json_find(root, "choices");
    const struct json  *usage = json_find(root, "usage");
    out->error = error_of(root);
    for (const struct json *c = choices == NULL ? NULL : choices->child;
         c != NULL; c = c->next)
    {
        read_choice(c, out);
    }
    if (choices == NULL && out->error.data == NULL) {
        out->error = string_of(root, "message");
    }
    if (usage != NULL && usage->type == JSON_OBJECT) {
        out->prompt_tokens = count_of(usage, "prompt_tokens");
        out->completion_tokens = count_of(usage, "completion_tokens");
    } else if (choices == NULL && out->error.data == NULL) {
        out->broken = true;
    }
}

/* ---- lines -------------------------------------------------------------- */
/* cut: its empty line never came, so what is not whole was not said. */
static void
end_event(struct bench_sse *s, bool cut)
{
    struct bench_chunk  chunk;

    if (!s->has_data) {
        return;
    }
    s->has_data = false;
    if (s->too_long || s->data.failed) {
        chunk = (struct bench_chunk) { .broken = true, .prompt_tokens = -1,
                                       .completion_tokens = -1 };
    } else {
        read_chunk(s, buf_str(&s->data), &chunk);
    }
    if (!cut || !chunk.broken) {
        s->fn(s->user, &chunk);
    }
    s->too_long = false;
    arena_reset(&s->arena);
    buf_reset(&s->data);
}

static void
take_line(struct bench_sse *s, struct str line)
{
    if (line.len > 0 && line.data[line.len - 1] == '\r') {
        line.len--;
    }
    if (line.len == 0) {
        end_event(s, false);
        return;
    }
    if (!str_starts_with(line, STR("data:"))) {
        return;                  /* a comment, or a field nobody asks for */
    }
    size_t  skip = line.len > 5 && line.data[5] == ' ' ? 6 : 5;
    if (s->has_data) {
        buf_append_c(&s->data, '\n');
    }
    s->has_data = true;
    buf_append(&s->data, line.data + skip, line.len - skip);
}

void
bench_sse_feed(struct bench_sse *s, const char *bytes, size_t len)
{
    while (len > 0) {
        const char  *nl = memchr(bytes, '\n', len);
        size_t       n = nl == NULL ? len : (size_t) (nl - bytes);
        if (nl == NULL || s->line.len > 0 || s->line.failed) {
            buf_append(&s->line, bytes, n);
        }
        if (nl == NULL) {
            return;
        }
        s->too_long = s->too_long || s->line.failed;
        take_line(s, s->line.len > 0 ? buf_str(&s->line)
                                     : (struct str) { bytes, n });
        buf_reset(&s->line);
        bytes += n + 1;
        len -= n + 1;
    }
}

void
bench_sse_end(struct bench_sse *s)
{
    if (s->line.len > 0) {
        take_line(s, buf_str(&s->line));
        buf_reset(&s->line);
    }
    end_event(s, true);
}
