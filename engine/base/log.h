/* log.h - one line per event on stderr: "2026/11/23 12:00:00 [notice] 123#7: text".
 *
 * The form is nginx's, because a managed engine's stderr is nginx's error log.
 * Control bytes of the message are escaped, so a client cannot forge lines.
 * Threads: any; one write(2) per line.  The level is process-wide. */
#ifndef LLM_BASE_LOG_H
#define LLM_BASE_LOG_H

enum log_level { LOG_ALERT, LOG_ERR, LOG_WARN, LOG_NOTICE, LOG_INFO, LOG_DEBUG };

extern enum log_level log_level;    /* messages above it are dropped */

void log_write(enum log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Reads "alert", "error", "warn", "notice", "info" or "debug"; -1 if none. */
int log_level_parse(const char *name);

#define log_alert(...)   log_write(LOG_ALERT, __VA_ARGS__)
#define log_error(...)   log_write(LOG_ERR, __VA_ARGS__)
#define log_warn(...)    log_write(LOG_WARN, __VA_ARGS__)
#define log_notice(...)  log_write(LOG_NOTICE, __VA_ARGS__)
#define log_info(...)    log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...)                                                        \
    do { if (log_level >= LOG_DEBUG) { log_write(LOG_DEBUG, __VA_ARGS__); } }  \
    while (0)

#endif
