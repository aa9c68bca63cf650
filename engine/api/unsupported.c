/* unsupported.c - the table of fields other servers honour and we refuse. */
#include "engine/api/unsupported.h"

#include <stddef.h>

enum accept {
    ACCEPT_NULL,        /* nothing but null */
    ACCEPT_FALSE,       /* null, false */
    ACCEPT_TRUE,        /* null, true */
    ACCEPT_ZERO,        /* null, 0 */
    ACCEPT_ONE,         /* null, 1 */
    ACCEPT_EMPTY,       /* null, "", [], {} */
    ACCEPT_TYPE_TEXT,   /* null, {"type":"text"} */
    ACCEPT_NONE_AUTO    /* null, "none", "auto" (service tier and the like) */
};

static const struct unsupported {
    const char  *name;
    enum accept  accept;
} unsupported_fields[] = {
    /* OpenAI */
    { "audio", ACCEPT_NULL },
    { "best_of", ACCEPT_ONE },
    { "frequency_penalty", ACCEPT_ZERO },
    { "function_call", ACCEPT_NONE_AUTO },
    { "functions", ACCEPT_EMPTY },
    { "logit_bias", ACCEPT_EMPTY },
    { "logprobs", ACCEPT_FALSE },
    { "modalities", ACCEPT_NULL },
    { "prediction", ACCEPT_NULL },
    { "presence_penalty", ACCEPT_ZERO },
    { "reasoning_effort", ACCEPT_NULL },
    { "response_format", ACCEPT_TYPE_TEXT },
    { "suffix", ACCEPT_EMPTY },
    { "tool_choice", ACCEPT_NONE_AUTO },
    { "tools", ACCEPT_NULL },
    { "top_logprobs", ACCEPT_ZERO },
    { "web_search_options", ACCEPT_NULL },
    { "echo", ACCEPT_FALSE },
    /* vLLM */
    { "allowed_token_ids", ACCEPT_NULL },
    { "bad_words", ACCEPT_EMPTY },
    { "cache_salt", ACCEPT_NULL },
    { "chat_template", ACCEPT_NULL },
    { "documents", ACCEPT_NULL },
    { "guided_choice", ACCEPT_NULL },
    { "guided_grammar", ACCEPT_NULL },
    { "guided_json", ACCEPT_NULL },
    { "guided_regex", ACCEPT_NULL },
    { "kv_transfer_params", ACCEPT_NULL },
    { "length_penalty", ACCEPT_ONE },
    { "logits_processors", ACCEPT_EMPTY },
    { "logprob_token_ids", ACCEPT_NULL },
    { "mm_processor_kwargs", ACCEPT_NULL },
    { "priority", ACCEPT_ZERO },
    { "prompt_embeds", ACCEPT_NULL },
    { "prompt_logprobs", ACCEPT_NULL },
    { "repetition_detection", ACCEPT_NULL },
    { "repetition_penalty", ACCEPT_ONE },
    { "return_token_offsets", ACCEPT_FALSE },
    { "return_tokens_as_token_ids", ACCEPT_FALSE },
    { "spaces_between_special_tokens", ACCEPT_TRUE },
    { "structured_outputs", ACCEPT_NULL },
    { "thinking_token_budget", ACCEPT_NULL },
    { "truncate_prompt_tokens", ACCEPT_NULL },
    { "use_beam_search", ACCEPT_FALSE },
    { "vllm_xargs", ACCEPT_EMPTY },
};

static bool
unsupported_is_number(const struct json *v, double x)
{
    return (v->type == JSON_INT || v->type == JSON_FLOAT) && v->f == x;
}

static bool
unsupported_accepts(const struct json *v, enum accept accept)
{
    switch (accept) {
    case ACCEPT_NULL:
        return false;
    case ACCEPT_FALSE:
        return v->type == JSON_BOOL && !v->b;
    case ACCEPT_TRUE:
        return v->type == JSON_BOOL && v->b;
    case ACCEPT_ZERO:
        return unsupported_is_number(v, 0);
    case ACCEPT_ONE:
        return unsupported_is_number(v, 1);
    case ACCEPT_EMPTY:
        return (v->type == JSON_STRING && v->string.len == 0)
               || ((v->type == JSON_ARRAY || v->type == JSON_OBJECT)
                   && v->num_children == 0);
    case ACCEPT_NONE_AUTO:
        return v->type == JSON_STRING
               && (str_eq(v->string, STR("none"))
                   || str_eq(v->string, STR("auto")));
    case ACCEPT_TYPE_TEXT: {
        const struct json  *type = v->type == JSON_OBJECT
                                   ? json_find(v, "type") : NULL;
        return type != NULL && type->type == JSON_STRING
               && str_eq(type->string, STR("text"));
    }
    }
    return false;
}

int
unsupported_check(const struct json *request, bool is_chat, struct err *err)
{
    size_t  num = sizeof unsupported_fields / sizeof unsupported_fields[0];

    for (size_t i = 0; i < num; i++) {
        const struct unsupported  *u = &unsupported_fields[i];
        const struct json         *v = json_find(request, u->name);
        if (v == NULL || v->type == JSON_NULL
            || unsupported_accepts(v, u->accept))
        {
            continue;
        }
        /* In /v1/completions logprobs is a count: 0 still asks for them. */
        return err_set_http(err, 400, u->name,
                            "%s: this server does not support this field%s",
                            u->name,
                            u->accept == ACCEPT_NULL || !is_chat ? " yet"
                            : " yet, only its neutral value");
    }
    return OK;
}
