/* unsupported.h - fields that are known and not supported yet.
 *
 * A field we know and cannot honour is a 400 that names it, never silently
 * ignored; the values that ask for nothing (null, false, 0, [], {"type":
 * "text"}) pass, because SDKs send them.  Unknown fields are ignored, as
 * OpenAI and vLLM do. */
#ifndef LLM_API_UNSUPPORTED_H
#define LLM_API_UNSUPPORTED_H

#include "engine/base/json.h"

/* ERROR with http_status 400 and the field's name when the request asks for
 * something this version does not do. */
int unsupported_check(const struct json *request, bool is_chat,
                      struct err *err);

#endif
