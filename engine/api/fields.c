/* fields.c - one place where types and ranges of request fields are judged. */
#include "engine/api/fields.h"

#include <math.h>
#include <stdio.h>

const struct json *
field_find(const struct fields *f, const char *name)
{
    const struct json  *v = json_find(f->object, name);
    return v == NULL || v->type == JSON_NULL ? NULL : v;
}

int
field_error(const struct fields *f, const char *name, const char *fmt, ...)
{
    char     text[ERR_MESSAGE_BYTES - ERR_PARAM_BYTES];
    char     param[ERR_PARAM_BYTES];
    va_list  ap;

    va_start(ap, fmt);
    (void) vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    (void) snprintf(param, sizeof param, "%s%s",
                    f->prefix == NULL ? "" : f->prefix, name);
    return err_set_http(f->err, 400, param, "%s: %s", param, text);
}

/* How a wrong value is quoted back: numbers by their own text, cut short;
 * everything else by its type, because strings are the client's secrets. */
static const char *
field_quote(const struct json *v, char *buf, size_t cap)
{
    if (v->type == JSON_INT || v->type == JSON_FLOAT) {
        (void) snprintf(buf, cap, "%.*s",
                        (int) (v->string.len > 40 ? 40 : v->string.len),
                        v->string.data);
        return buf;
    }
    (void) snprintf(buf, cap, "%s", json_type_name(v->type));
    return buf;
}

int
field_int(const struct fields *f, const char *name, int64_t min, int64_t max,
          int64_t *out)
{
    const struct json  *v = field_find(f, name);
    char                q[48];

    if (v == NULL) {
        return OK;
    }
    bool     whole = v->type == JSON_INT
                     || (v->type == JSON_FLOAT && v->f == floor(v->f));
    if (!whole) {
        return field_error(f, name, "must be an integer, not %s",
                           field_quote(v, q, sizeof q));
    }
    bool     in_int64 = v->type == JSON_INT ? v->int_fits
                                            : v->f >= -0x1p63 && v->f < 0x1p63;
    int64_t  i = !in_int64 ? 0 : v->type == JSON_INT ? v->i : (int64_t) v->f;
    if (!in_int64 || i < min || i > max) {
        return field_error(f, name, "must be between %lld and %lld, got %s",
                           (long long) min, (long long) max,
                           field_quote(v, q, sizeof q));
    }
    *out = i;
    return OK;
}

int
field_number(const struct fields *f, const char *name, double min, double max,
             double *out)
{
    const struct json  *v = field_find(f, name);
    char                q[48];

    if (v == NULL) {
        return OK;
    }
    if (v->type != JSON_INT && v->type != JSON_FLOAT) {
        return field_error(f, name, "must be a number, not %s",
                           field_quote(v, q, sizeof q));
    }
    if (!isfinite(v->f) || v->f < min || v->f > max) {
        return field_error(f, name, "must be between %g and %g, got %s", min,
                           max, field_quote(v, q, sizeof q));
    }
    *out = v->f == 0 ? 0 : v->f;    /* -0.0 must not reach the sampler */
    return OK;
}

int
field_bool(const struct fields *f, const char *name, bool *out)
{
    const struct json  *v = field_find(f, name);
    char                q[48];

    if (v == NULL) {
        return OK;
    }
    if (v->type != JSON_BOOL) {
        return field_error(f, name, "must be true or false, not %s",
                           field_quote(v, q, sizeof q));
    }
    *out = v->b;
    return OK;
}

int
field_string(const struct fields *f, const char *name, struct str *out)
{
    const struct json  *v = field_find(f, name);
    char                q[48];

    if (v == NULL) {
        return OK;
    }
    if (v->type != JSON_STRING) {
        return field_error(f, name, "must be a string, not %s",
                           field_quote(v, q, sizeof q));
    }
    *out = v->string;
    return OK;
}
