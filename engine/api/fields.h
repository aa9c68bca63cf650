/* fields.h - reads the fields of a request object, one rule per call.
 *
 * Every reader leaves *out alone when the field is absent or null (so the
 * caller's default stands) and otherwise checks type and range.  ERROR carries
 * http_status 400, the field's name in `param` and a message that says what
 * was wrong and what is allowed.
 *
 *     struct fields f = { .object = root, .err = err };
 *     if (field_number(&f, "temperature", 0, 2, &temperature) != OK) ...
 */
#ifndef LLM_API_FIELDS_H
#define LLM_API_FIELDS_H

#include "engine/base/json.h"

struct fields {
    const struct json *object;   /* JSON_OBJECT */
    const char        *prefix;   /* "" or e.g. "stream_options." for messages */
    struct err        *err;
};

/* The field's value, or NULL when absent or null. */
const struct json *field_find(const struct fields *f, const char *name);

/* An integer in [min, max]; 2.0 is taken as 2, 1.5 and "3" are refused. */
int field_int(const struct fields *f, const char *name, int64_t min,
              int64_t max, int64_t *out);

/* A finite number in [min, max]. */
int field_number(const struct fields *f, const char *name, double min,
                 double max, double *out);
int field_bool(const struct fields *f, const char *name, bool *out);
int field_string(const struct fields *f, const char *name, struct str *out);

/* ERROR "field: message", 400, param = prefix + name. */
int field_error(const struct fields *f, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
