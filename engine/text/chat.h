/* chat.h - a conversation to the prompt text the model was trained on.
 *
 *     struct chat_template *t;
 *     if (chat_open_dir(&t, "/models/qwen3", err) != OK) ...    once
 *     struct chat_args args = {
 *         .messages = json_find(body, "messages"), .arena = &arena,
 *         .add_generation_prompt = true, .now = now,
 *     };
 *     struct text_span_list untrusted;
 *     if (chat_render(t, &args, &prompt, &untrusted, err) != OK) ...
 *
 * Templates are found as Hugging Face finds them: chat_template.jinja and
 * additional_chat_templates/NAME.jinja, else chat_template.json, else
 * "chat_template" of tokenizer_config.json (a string or a list of name and
 * template).  With tools the one named "tool_use" is taken when there is one.
 *
 * Messages are brought into the form templates expect, as vLLM does: see
 * chat_render().  Everything a client sent is in `untrusted`, so the tokenizer
 * can refuse to read special tokens out of it; role names of the closed set
 * and the special tokens' texts are the template's own.
 *
 * Threads: a struct chat_template never changes after open.  Rendering needs
 * about a megabyte of stack at worst. */
#ifndef LLM_TEXT_CHAT_H
#define LLM_TEXT_CHAT_H

#include <time.h>
#include "engine/base/arena.h"
#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/base/json.h"
#include "engine/text/jinja.h"
#include "engine/text/text_span.h"

#define CHAT_MESSAGES_MAX   2048
#define CHAT_PARTS_MAX      4096    /* content parts of one message */
#define CHAT_TEMPLATES_MAX  16      /* named templates of one model */
#define CHAT_SPECIALS_MAX   16

struct chat_template;

/* Texts that templates read as bos_token, eos_token ...; data NULL: the model
 * has none and the variable is undefined. */
struct chat_specials {
    struct str bos, eos, unk, pad;
};

/* Reads the templates of a model directory, and the special tokens from its
 * tokenizer_config.json or special_tokens_map.json.  AGAIN when it has no
 * template; ERROR names the file and the line. */
int chat_open_dir(struct chat_template **out, const char *model_dir,
                  struct err *err);

/* One template from a file (--chat-template FILE); specials may be NULL. */
int chat_open_file(struct chat_template **out, const char *path,
                   const struct chat_specials *specials, struct err *err);
void chat_destroy(struct chat_template *t);     /* NULL is fine */

/* What content a template gets for a list of text parts. */
enum chat_content {
    CHAT_CONTENT_AUTO,      /* a list if the template walks over content */
    CHAT_CONTENT_STRING,    /* the texts joined with "\n" */
    CHAT_CONTENT_LIST       /* vLLM's "openai" */
};

struct chat_args {
    const struct json  *messages;       /* required, an array */
    const struct json  *tools;          /* array; NULL: none */
    const struct json  *documents;      /* array; NULL: none */
    const struct json  *kwargs;         /* chat_template_kwargs, an object;
                                           NULL: none */
    bool                add_generation_prompt;
    bool                continue_final_message;
    enum chat_content   content;
    struct tm           now;            /* for strftime_now; local time */
    struct jinja_limits limits;         /* zero: the defaults */
    struct arena       *arena;          /* spans and all that is between */
};

/* Appends the prompt to *out.  ERROR has http_status 400; param names the
 * field ("messages[2].content[0]"), or the message is the template's own.
 *
 * Before the template sees them: a role must be one of system, developer,
 * user, assistant, tool, function (developer becomes system where the template
 * does not know it); text parts are joined or kept as `content` says, images,
 * audio and files are refused; a tool call's arguments become an object when
 * they are a string; tool_calls: null is dropped, as SDKs send it; reasoning
 * and reasoning_content stand for each other.  All other keys stay as they
 * are: an absent key stays absent and null stays none.
 *
 * kwargs reach the template by name; messages, tools, documents,
 * chat_template, tokenize and the special tokens are refused in them. */
int chat_render(const struct chat_template *t, const struct chat_args *args,
                struct buf *out, struct text_span_list *untrusted,
                struct err *err);

/* Hugging Face's apply_chat_template(tokenize=False) of an object: messages,
 * tools, documents, add_generation_prompt, continue_final_message; its other
 * members are variables.  Nothing is changed or checked before the template
 * sees it. */
int chat_render_object(const struct chat_template *t, const struct json *in,
                       struct arena *arena, struct buf *out, struct err *err);

#endif
