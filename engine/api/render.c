/* render.c - messages of a request to prompt text, through the chat template.
 */
#include "engine/api/api_internal.h"
#include "engine/api/fields.h"
#include "engine/text/chat.h"

static int
render_object(const struct fields *f, const char *name,
              const struct json **out)
{
    *out = field_find(f, name);
    if (*out != NULL && (*out)->type != JSON_OBJECT) {
        return field_error(f, name, "must be an object, not %s",
                           json_type_name((*out)->type));
    }
    return OK;
}

int
api_render_chat(struct api_worker *w, const struct json *root,
                struct text_span_list *untrusted, struct err *err)
{
    const struct chat_template  *chat = w->api->options.chat;
    struct fields                f = { root, "", err };
    struct chat_args             args = {
        .messages = field_find(&f, "messages"),
        .add_generation_prompt = true,
        .arena = &w->arena,
    };

    if (args.messages == NULL) {
        return field_error(&f, "messages", "is required");
    }
    if (args.messages->type != JSON_ARRAY
        || args.messages->num_children == 0)
    {
        return field_error(&f, "messages", "must be a non-empty array of "
                           "messages");
    }
    if (args.messages->num_children > API_MESSAGES_MAX) {
        return field_error(&f, "messages", "%u messages, the limit is %d",
                           args.messages->num_children, API_MESSAGES_MAX);
    }
    if (chat == NULL) {
        return err_set_http(err, 400, "messages", "the model has no chat "
                            "template; use /v1/completions, or start the "
                            "engine with --chat-template");
    }
    if (render_object(&f, "chat_template_kwargs", &args.kwargs) != OK
        || field_bool(&f, "add_generation_prompt",
                      &args.add_generation_prompt) != OK
        || field_bool(&f, "continue_final_message",
                      &args.continue_final_message) != OK)
    {
        return ERROR;
    }
    if (args.continue_final_message && args.add_generation_prompt) {
        if (field_find(&f, "add_generation_prompt") != NULL) {
            return field_error(&f, "continue_final_message", "cannot be true "
                               "together with add_generation_prompt");
        }
        args.add_generation_prompt = false;
    }
    time_t  now = time(NULL);
    (void) localtime_r(&now, &args.now);
    buf_reset(&w->prompt);
    if (chat_render(chat, &args, &w->prompt, untrusted, err) != OK) {
        return ERROR;
    }
    return w->prompt.failed
           ? err_set_http(err, 400, "messages", "the rendered prompt is "
                          "longer than %u bytes", API_PROMPT_BYTES_MAX)
           : OK;
}
