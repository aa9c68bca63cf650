/* err.h - what went wrong, written once, where it is known.
 *
 * The message names the thing, the value, the limit and the remedy, and is
 * fit for the user: "config.json: num_key_value_heads 6 does not divide
 * num_attention_heads 32".  `param` names the offending request field for
 * API errors ("messages[2].content") and is empty otherwise.
 *
 *     if (n > MAX) {
 *         return err_set(err, "stop: %d strings, the limit is %d", n, MAX);
 *     }
 *
 * Callers pass an err on unchanged and never log it twice.  `err` may be NULL
 * when the caller does not want the text. */
#ifndef LLM_BASE_ERR_H
#define LLM_BASE_ERR_H

#include <stdarg.h>
#include <stdbool.h>

#include "engine/base/status.h"

#define ERR_MESSAGE_BYTES  512
#define ERR_PARAM_BYTES    128

/* Stands for the HTTP status an API error becomes; start-up errors leave it 0.
 */
struct err {
    int  http_status;                 /* 400, 404, 413 ...; 0: not an API error */
    bool device_full;                 /* start-up: the device had no room, which
                                         may be others' doing and pass */
    char param[ERR_PARAM_BYTES];      /* request field, "" when none */
    char message[ERR_MESSAGE_BYTES];  /* UTF-8, cut at a code point */
};

/* Each fills *err (may be NULL) and returns ERROR, so it can be returned. */
int err_set(struct err *err, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
int err_set_http(struct err *err, int http_status, const char *param,
                 const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Marks the error that was just set; returns ERROR. */
int err_device_full(struct err *err);

/* Puts "prefix: " before the message already in *err; returns ERROR. */
int err_prefix(struct err *err, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#endif
