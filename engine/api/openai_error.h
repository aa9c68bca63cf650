/* openai_error.h - writes {"error":{"message","type","param","code"}}. */
#ifndef LLM_API_OPENAI_ERROR_H
#define LLM_API_OPENAI_ERROR_H

#include "engine/base/buf.h"
#include "engine/base/err.h"

/* param and code may be NULL or "": written as null. */
void openai_error_write(struct buf *out, int status, const char *param,
                        const char *code, const char *message);

/* The code string clients switch on, or NULL: from status and field. */
const char *openai_error_code(int status, const char *param);

#endif
