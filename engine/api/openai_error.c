/* openai_error.c - OpenAI's error document; the type follows the status. */
#include "engine/api/openai_error.h"
#include "engine/base/json.h"

static const char *
openai_error_type(int status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 429:
        return "rate_limit_error";
    default:
        return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

const char *
openai_error_code(int status, const char *param)
{
    if (status == 404 && param != NULL
        && str_eq(str_from(param), STR("model")))
    {
        return "model_not_found";
    }
    return NULL;
}

static void
openai_error_member(struct buf *out, const char *value)
{
    if (value == NULL || value[0] == '\0') {
        buf_append_lit(out, "null");
    } else {
        json_write_string(out, str_from(value));
    }
}

void
openai_error_write(struct buf *out, int status, const char *param,
                   const char *code, const char *message)
{
    buf_append_lit(out, "{\"error\":{\"message\":");
    json_write_string(out, str_from(message));
    buf_append_lit(out, ",\"type\":");
    json_write_string(out, str_from(openai_error_type(status)));
    buf_append_lit(out, ",\"param\":");
    openai_error_member(out, param);
    buf_append_lit(out, ",\"code\":");
    openai_error_member(out, code);
    buf_append_lit(out, "}}");
}
