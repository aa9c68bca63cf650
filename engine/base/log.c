/* log.c - formats one line and writes it with one call. */
#include "engine/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LOG_LINE_BYTES  2048

enum log_level  log_level = LOG_NOTICE;

static const char *const  log_names[] = {
    "alert", "error", "warn", "notice", "info", "debug"
};

int
log_level_parse(const char *name)
{
    for (int i = 0; i <= LOG_DEBUG; i++) {
        if (strcmp(name, log_names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

void
log_write(enum log_level level, const char *fmt, ...)
{
    char       text[LOG_LINE_BYTES], line[LOG_LINE_BYTES + 128];
    struct tm  tm;

    if (level > log_level) {
        return;
    }
    va_list  ap;
    va_start(ap, fmt);
    (void) vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (char *p = text; *p != '\0'; p++) {
        if ((unsigned char) *p < 0x20 || *p == 0x7F) {
            *p = '?';
        }
    }
    time_t  now = time(NULL);
    (void) localtime_r(&now, &tm);
    int  n = snprintf(line, sizeof line,
                      "%04d/%02d/%02d %02d:%02d:%02d [%s] %d#%ld: llm: %s\n",
                      tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour,
                      tm.tm_min, tm.tm_sec, log_names[level], (int) getpid(),
                      (long) syscall(SYS_gettid), text);
    if (n > 0) {
        /* A full or closed log must never stop the service. */
        ssize_t  written = write(STDERR_FILENO, line, (size_t) n);
        (void) written;
    }
}
