/* openai_error.c - OpenAI's error document; the type follows the status. */
#include "engine/api/openai_error.h"
#include "engine/base/json.h"
#include "engine/base/utf8.h"

#include <string.h>

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

/* Texts quote what clients sent, cut within a character, or an URI of any bytes. */
static void
openai_error_text(struct buf *out, const char *text)
{
    char    clean[ERR_MESSAGE_BYTES];
    size_t  len = strnlen(text, sizeof clean);

    memcpy(clean, text, len);
    utf8_mend(clean, len);
    json_write_string(out, (struct str) { clean, len });
}

static void
openai_error_member(struct buf *out, const char *value)
{
    if (value == NULL || value[0] == '\0') {
        buf_append_lit(out, "null");
    } else {
        openai_error_text(out, value);
    }
}

void
openai_error_write(struct buf *out, int status, const char *param,
                   const char *code, const char *message)
{
    buf_append_lit(out, "{\"error\":{\"message\":");
    openai_error_text(out, message);
    buf_append_lit(out, ",\"type\":");
    json_write_string(out, str_from(openai_error_type(status)));
    buf_append_lit(out, ",\"param\":");
    openai_error_member(out, param);
    buf_append_lit(out, ",\"code\":");
    openai_error_member(out, code);
    buf_append_lit(out, "}}");
}
