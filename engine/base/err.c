/* err.c - formats error messages and keeps them valid UTF-8 when cut. */
#include "engine/base/err.h"

#include <stdio.h>
#include <string.h>

/* vsnprintf cuts at a byte; drop a code point that was cut in half, because
 * the message goes into JSON. */
static void
err_trim_utf8(char *s, size_t cap)
{
    size_t  len = strlen(s);
    if (len + 1 < cap) {
        return;
    }
    size_t  start = len;
    while (start > 0 && ((unsigned char) s[start - 1] & 0xC0) == 0x80) {
        start--;
    }
    if (start == 0) {
        return;
    }
    unsigned char  lead = (unsigned char) s[start - 1];
    size_t         need = lead < 0x80 ? 1 : lead < 0xE0 ? 2
                          : lead < 0xF0 ? 3 : 4;
    if (len - (start - 1) < need) {
        s[start - 1] = '\0';
    }
}

int
err_set(struct err *err, const char *fmt, ...)
{
    if (err == NULL) {
        return ERROR;
    }
    va_list  ap;
    va_start(ap, fmt);
    (void) vsnprintf(err->message, sizeof err->message, fmt, ap);
    va_end(ap);
    err_trim_utf8(err->message, sizeof err->message);
    err->http_status = 0;
    err->device_full = false;
    err->param[0] = '\0';
    return ERROR;
}

int
err_set_http(struct err *err, int http_status, const char *param,
             const char *fmt, ...)
{
    if (err == NULL) {
        return ERROR;
    }
    va_list  ap;
    va_start(ap, fmt);
    (void) vsnprintf(err->message, sizeof err->message, fmt, ap);
    va_end(ap);
    err_trim_utf8(err->message, sizeof err->message);
    err->http_status = http_status;
    err->device_full = false;
    (void) snprintf(err->param, sizeof err->param, "%s",
                    param == NULL ? "" : param);
    err_trim_utf8(err->param, sizeof err->param);
    return ERROR;
}

int
err_device_full(struct err *err)
{
    if (err != NULL) {
        err->device_full = true;
    }
    return ERROR;
}

int
err_prefix(struct err *err, const char *fmt, ...)
{
    if (err == NULL) {
        return ERROR;
    }
    char     tail[ERR_MESSAGE_BYTES];
    memcpy(tail, err->message, sizeof tail);
    va_list  ap;
    va_start(ap, fmt);
    int      n = vsnprintf(err->message, sizeof err->message, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t) n < sizeof err->message) {
        size_t  room = sizeof err->message - (size_t) n;
        (void) snprintf(err->message + n, room, ": %.*s",
                        (int) (room > 3 ? room - 3 : 0), tail);
    }
    err_trim_utf8(err->message, sizeof err->message);
    return ERROR;
}
