/* chat_int.h - what chat.c, chat_load.c and chat_messages.c share. */
#ifndef LLM_TEXT_CHAT_INT_H
#define LLM_TEXT_CHAT_INT_H

#include "engine/text/chat.h"

struct chat_named {
    struct str               name;      /* "default", "tool_use" ... */
    struct jinja            *jinja;
    struct jinja_content_use use;
    bool                     knows_developer;   /* the source says the word */
};

struct chat_special {
    struct str name;                    /* "bos_token" */
    struct str text;
};

struct chat_template {
    struct arena        arena;          /* names and special tokens */
    struct chat_named   named[CHAT_TEMPLATES_MAX];
    size_t              num_named;
    struct chat_special specials[CHAT_SPECIALS_MAX];
    size_t              num_specials;
};

/* chat_messages.c: messages as the template expects them, in the arena. */
int chat_normalize(const struct chat_named *t, const struct chat_args *args,
                   const struct json **out, struct err *err);

#endif
