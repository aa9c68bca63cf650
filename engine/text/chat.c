/* chat.c - chooses the template, gathers its variables, cuts the result. */
#include "engine/text/chat_int.h"
#include "engine/text/jinja_int.h"
#include "engine/base/clock.h"
#include "engine/base/utf8.h"

#define CHAT_VARS_MAX  128

/* Ends the message to be continued while it is rendered; transformers' own. */
#define CHAT_MARK      STR("CONTINUE_FINAL_MESSAGE_TAG ")

struct chat_vars {
    struct jinja_var v[CHAT_VARS_MAX];
    size_t           num;
};

/* ---- variables ---------------------------------------------------------------- */

static int
chat_add_var(struct chat_vars *vars, const struct jinja_var *v,
             struct err *err)
{
    if (vars->num == CHAT_VARS_MAX) {
        return err_set_http(err, 400, "chat_template_kwargs",
                            "more than %d template variables", CHAT_VARS_MAX);
    }
    vars->v[vars->num++] = *v;
    return OK;
}

static void
chat_add_specials(struct chat_vars *vars, const struct chat_template *t)
{
    for (size_t i = 0; i < t->num_specials; i++) {
        vars->v[vars->num++] = (struct jinja_var) {
            .name = t->specials[i].name, .kind = JINJA_VAR_STR,
            .str = t->specials[i].text
        };
    }
}

/* messages, tools and documents: none when absent, so "is defined" holds. */
static void
chat_add_json_var(struct chat_vars *vars, const char *name,
                  const struct json *v)
{
    vars->v[vars->num++] = (struct jinja_var) {
        .name = str_from(name), .json = v, .untrusted = true
    };
}

static void
chat_add_bool_var(struct chat_vars *vars, const char *name, bool b)
{
    vars->v[vars->num++] = (struct jinja_var) {
        .name = str_from(name), .kind = JINJA_VAR_BOOL, .b = b
    };
}

static bool
chat_is_reserved(const struct chat_template *t, struct str name)
{
    static const char *const  names[] = {
        "messages", "tools", "documents", "chat_template", "tokenize",
        "continue_final_message",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (str_eq(name, str_from(names[i]))) {
            return true;
        }
    }
    for (size_t i = 0; i < t->num_specials; i++) {
        if (str_eq(name, t->specials[i].name)) {
            return true;
        }
    }
    return false;
}

static int
chat_add_kwargs(struct chat_vars *vars, const struct chat_template *t,
                const struct json *kwargs, struct err *err)
{
    if (kwargs == NULL || kwargs->type == JSON_NULL) {
        return OK;
    }
    if (kwargs->type != JSON_OBJECT) {
        return err_set_http(err, 400, "chat_template_kwargs",
                            "chat_template_kwargs: must be an object, not %s",
                            json_type_name(kwargs->type));
    }
    for (const struct json *k = kwargs->child; k != NULL; k = k->next) {
        if (chat_is_reserved(t, k->key)) {
            return err_set_http(err, 400, "chat_template_kwargs",
                                "chat_template_kwargs: \"%.*s\" cannot be set "
                                "here", STR_ARG(k->key));
        }
        const struct jinja_var  v = { .name = k->key, .json = k,
                                      .untrusted = true };
        if (chat_add_var(vars, &v, err) != OK) {
            return ERROR;
        }
    }
    return OK;
}

/* ---- continue_final_message ------------------------------------------------------ */

static struct str
chat_strip(struct str s, bool left, bool right)
{
    uint32_t  cp;

    while (left && s.len > 0) {
        size_t  n = (size_t) utf8_decode(s.data, &cp);
        if (!jinja_is_space(cp)) {
            break;
        }
        s.data += n;
        s.len -= n;
    }
    while (right && s.len > 0) {
        size_t  i = s.len - 1;
        while (i > 0 && ((unsigned char) s.data[i] & 0xC0) == 0x80) {
            i--;
        }
        (void) utf8_decode(s.data + i, &cp);
        if (!jinja_is_space(cp)) {
            break;
        }
        s.len = i;
    }
    return s;
}

/* Makes the children of v copies of their own, so that they can be changed. */
static bool
chat_own_children(struct json *v, struct arena *arena)
{
    const struct json  *child = v->child;

    v->child = v->last = NULL;
    v->num_children = 0;
    for (; child != NULL; child = child->next) {
        struct json  *copy = arena_alloc(arena, sizeof *copy);
        if (copy == NULL) {
            return false;
        }
        *copy = *child;
        copy->next = NULL;
        json_append(v, copy);
    }
    return true;
}

static struct json *
chat_member_of(struct json *v, const char *key)
{
    return (struct json *) (uintptr_t) json_find(v, key);
}

/* The string that is the text of a message, which is then the caller's own:
 * its content, or that of the last part that has text.  NULL: there is none,
 * or no memory. */
static struct json *
chat_own_text(struct json *message, struct arena *arena)
{
    struct json  *content, *text = NULL;

    if (!chat_own_children(message, arena)) {
        return NULL;
    }
    content = chat_member_of(message, "content");
    if (content == NULL || content->type != JSON_ARRAY) {
        return content != NULL && content->type == JSON_STRING ? content
                                                               : NULL;
    }
    if (!chat_own_children(content, arena)) {
        return NULL;
    }
    for (struct json *p = content->child; p != NULL; p = p->next) {
        const struct json  *t = json_find(p, "text");
        if (t != NULL && t->type == JSON_STRING) {
            if (!chat_own_children(p, arena)) {
                return NULL;
            }
            text = chat_member_of(p, "text");
        }
    }
    return text;
}

/* *messages becomes a copy whose last text, *final, ends in CHAT_MARK: the text
 * alone may be anywhere, "e" also in the template's "<|im_end|>". */
static int
chat_mark_final(const struct json **messages, struct str *final,
                struct arena *arena, struct err *err)
{
    struct json  *list = arena_alloc(arena, sizeof *list), *text = NULL;

    if (list != NULL && *messages != NULL) {
        *list = **messages;
        if (chat_own_children(list, arena) && list->last != NULL) {
            text = chat_own_text(list->last, arena);
        }
    }
    if (text == NULL) {
        return err_set_http(err, 400, "messages", "continue_final_message is "
                            "set but the final message has no text to "
                            "continue");
    }
    *final = text->string;
    char  *marked = arena_alloc(arena, final->len + CHAT_MARK.len);
    if (marked == NULL) {
        return err_set_http(err, 400, "messages", "messages need more than "
                            "%zu bytes of memory", arena->limit_bytes);
    }
    if (final->len > 0) {
        memcpy(marked, final->data, final->len);
    }
    memcpy(marked + final->len, CHAT_MARK.data, CHAT_MARK.len);
    text->string = (struct str) { marked, final->len + CHAT_MARK.len };
    *messages = list;
    return OK;
}

/* Offset of the last occurrence, SIZE_MAX if there is none or no memory.
 * Knuth, Morris and Pratt from the end: linear whatever the client sends. */
static size_t
chat_find_last(struct str text, struct str needle, struct arena *arena)
{
    size_t     m = needle.len, k = 0;
    uint32_t  *fail = arena_alloc(arena, (m + 1) * sizeof *fail);

    if (fail == NULL || m > text.len || m > UINT32_MAX) {
        return SIZE_MAX;
    }
    if (m == 0) {
        return text.len;
    }
    const char  *n_end = needle.data + m - 1, *t_end = text.data + text.len - 1;
    fail[0] = 0;
    for (size_t i = 1; i < m; i++) {
        while (k > 0 && *(n_end - i) != *(n_end - k)) {
            k = fail[k - 1];
        }
        k += *(n_end - i) == *(n_end - k);
        fail[i] = (uint32_t) k;
    }
    k = 0;
    for (size_t i = 0; i < text.len; i++) {
        while (k > 0 && *(t_end - i) != *(n_end - k)) {
            k = fail[k - 1];
        }
        k += *(t_end - i) == *(n_end - k);
        if (k == m) {
            return text.len - 1 - i;
        }
    }
    return SIZE_MAX;
}

/* Where the marked prompt is to be cut, SIZE_MAX when the template leaves the
 * final message out: at the mark, or before the white space in front of it
 * where the template trims the message: the mark has lost its space (all that
 * transformers looks at), or the template put one there and `plain`, rendered
 * without the mark, goes on differently. */
static size_t
chat_find_cut(struct str marked, struct str plain, struct str final,
              struct arena *arena)
{
    size_t  at = chat_find_last(marked, chat_strip(CHAT_MARK, false, true),
                                arena);

    if (at == SIZE_MAX
        || chat_find_last(marked, chat_strip(final, true, true), arena)
           == SIZE_MAX)
    {
        return SIZE_MAX;
    }
    struct str  kept = { marked.data, at };
    struct str  rest = { marked.data + at, marked.len - at };
    return str_starts_with(rest, CHAT_MARK) && str_starts_with(plain, kept)
           ? at : chat_strip(kept, false, true).len;
}

/* Renders again with the final message marked and cuts the prompt after it, so
 * that the model goes on with it; *text is what was rendered without. */
static int
chat_cut_final(const struct jinja *t, const struct jinja_args *args,
               struct jinja_var *messages, struct jinja_text *text,
               struct err *err)
{
    struct jinja_text  marked;
    struct str         final;

    if (chat_mark_final(&messages->json, &final, args->arena, err) != OK
        || jinja_render(t, args, &marked, err) != OK)
    {
        return ERROR;
    }
    size_t  at = chat_find_cut(marked.data, text->data, final, args->arena);
    if (at == SIZE_MAX) {
        return err_set_http(err, 400, "messages", "continue_final_message is "
                            "set but the final message does not appear in the "
                            "chat after applying the chat template!");
    }
    *text = marked;
    text->data.len = at;
    return OK;
}

/* ---- rendering --------------------------------------------------------------------- */

static const struct chat_named *
chat_choose(const struct chat_template *t, bool has_tools)
{
    const struct chat_named  *chosen = &t->named[0];
    for (size_t i = 0; i < t->num_named; i++) {
        if (str_eq(t->named[i].name, STR("default"))) {
            chosen = &t->named[i];
        }
    }
    for (size_t i = 0; has_tools && i < t->num_named; i++) {
        if (str_eq(t->named[i].name, STR("tool_use"))) {
            chosen = &t->named[i];
        }
    }
    return chosen;
}

static bool
chat_is_given(const struct json *v)
{
    return v != NULL && v->type != JSON_NULL;
}

static int
chat_check_array(const struct json *v, const char *name, struct err *err)
{
    if (chat_is_given(v) && v->type != JSON_ARRAY) {
        return err_set_http(err, 400, name, "%s: must be a list, not %s", name,
                            json_type_name(v->type));
    }
    return OK;
}

static int
chat_check_continue(bool continue_final, bool generation, struct err *err)
{
    if (continue_final && generation) {
        return err_set_http(err, 400, "continue_final_message",
                            "continue_final_message and add_generation_prompt "
                            "are not compatible. Use continue_final_message "
                            "when you want the model to continue the final "
                            "message, and add_generation_prompt when you want "
                            "to add a header that will prompt it to start a "
                            "new assistant message instead.");
    }
    return OK;
}

/* Appends the text; spans that lie beyond a cut are dropped or shortened. */
static int
chat_deliver(const struct jinja_text *text, struct buf *out,
             struct text_span_list *untrusted, struct arena *arena,
             struct err *err)
{
    size_t  base = out->len;

    buf_append_str(out, text->data);
    if (out->failed) {
        return err_set_http(err, 400, "messages", "the prompt has %zu bytes, "
                            "the limit is %zu", text->data.len,
                            out->limit_bytes);
    }
    if (untrusted == NULL) {
        return OK;
    }
    untrusted->num_spans = 0;
    untrusted->spans = arena_alloc(arena, (text->num_spans + 1)
                                          * sizeof *untrusted->spans);
    if (untrusted->spans == NULL) {
        return err_set_http(err, 400, "messages", "messages need more than "
                            "%zu bytes of memory", arena->limit_bytes);
    }
    for (size_t i = 0; i < text->num_spans
                       && text->spans[i].begin < text->data.len; i++)
    {
        size_t  end = text->spans[i].end;
        end = end > text->data.len ? text->data.len : end;
        untrusted->spans[untrusted->num_spans++] = (struct text_span) {
            base + text->spans[i].begin, base + end
        };
    }
    return OK;
}

int
chat_render(const struct chat_template *t, const struct chat_args *args,
            struct buf *out, struct text_span_list *untrusted, struct err *err)
{
    const struct chat_named  *named = chat_choose(t,
                                                  chat_is_given(args->tools));
    const struct json        *messages;
    struct chat_vars          vars = { .num = 0 };
    struct jinja_text         text;

    if (chat_check_array(args->tools, "tools", err) != OK
        || chat_check_array(args->documents, "documents", err) != OK
        || chat_check_continue(args->continue_final_message,
                               args->add_generation_prompt, err) != OK
        || chat_normalize(named, args, &messages, err) != OK)
    {
        return ERROR;
    }
    chat_add_specials(&vars, t);
    struct jinja_var  *var = &vars.v[vars.num];
    chat_add_json_var(&vars, "messages", messages);
    chat_add_json_var(&vars, "tools", args->tools);
    chat_add_json_var(&vars, "documents", args->documents);
    chat_add_bool_var(&vars, "add_generation_prompt",
                      args->add_generation_prompt);
    if (chat_add_kwargs(&vars, t, args->kwargs, err) != OK) {
        return ERROR;
    }
    const struct jinja_args  j = {
        .vars = vars.v, .num_vars = vars.num, .limits = args->limits,
        .now = args->now, .arena = args->arena,
    };
    if (jinja_render(named->jinja, &j, &text, err) != OK
        || (args->continue_final_message
            && chat_cut_final(named->jinja, &j, var, &text, err) != OK))
    {
        return ERROR;
    }
    return chat_deliver(&text, out, untrusted, args->arena, err);
}

static bool
chat_flag(const struct json *in, const char *name)
{
    const struct json  *v = json_find(in, name);
    return v != NULL && v->type == JSON_BOOL && v->b;
}

int
chat_render_object(const struct chat_template *t, const struct json *in,
                   struct arena *arena, struct buf *out, struct err *err)
{
    const struct json  *messages = json_find(in, "messages");
    const struct json  *tools = json_find(in, "tools");
    bool                continue_final = chat_flag(in,
                                                   "continue_final_message");
    bool                generation = chat_flag(in, "add_generation_prompt");
    struct chat_vars    vars = { .num = 0 };
    struct jinja_args   j = { .arena = arena };
    struct jinja_var   *var = NULL;
    struct jinja_text   text;
    time_t              now = (time_t) clock_wall_seconds();

    if (messages == NULL || messages->type != JSON_ARRAY) {
        return err_set_http(err, 400, "messages", "messages: a list is "
                            "required");
    }
    if (chat_check_continue(continue_final, generation, err) != OK) {
        return ERROR;
    }
    (void) localtime_r(&now, &j.now);
    chat_add_specials(&vars, t);
    chat_add_json_var(&vars, "tools", NULL);
    chat_add_json_var(&vars, "documents", NULL);
    chat_add_bool_var(&vars, "add_generation_prompt", false);
    for (const struct json *k = in->child; k != NULL; k = k->next) {
        const struct jinja_var  v = { .name = k->key, .json = k,
                                      .untrusted = true };
        var = k == messages ? &vars.v[vars.num] : var;
        if (!str_eq(k->key, STR("continue_final_message"))
            && chat_add_var(&vars, &v, err) != OK)
        {
            return ERROR;
        }
    }
    j.vars = vars.v;
    j.num_vars = vars.num;
    const struct jinja  *jinja = chat_choose(t, chat_is_given(tools))->jinja;
    if (jinja_render(jinja, &j, &text, err) != OK
        || (continue_final
            && chat_cut_final(jinja, &j, var, &text, err) != OK))
    {
        return ERROR;
    }
    return chat_deliver(&text, out, NULL, arena, err);
}
