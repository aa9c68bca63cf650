/* bench_report.c - progress lines and JSON members. */
#include "tools/bench_report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/json.h"

#define PROGRESS_BAR_CHARS  30
#define PROGRESS_DRAW_NS    (200 * NS_PER_MS)
#define PROGRESS_LINE_S     10

void
bench_progress_start(struct bench_progress *p, const char *what, int total,
                     bool off)
{
    int64_t  now_ns = clock_now_ns();

    *p = (struct bench_progress) {
        .off = off, .terminal = isatty(STDERR_FILENO) == 1, .what = what,
        .total = total, .start_ns = now_ns,
    };
    p->next_ns = now_ns + (p->terminal ? PROGRESS_DRAW_NS
                                       : PROGRESS_LINE_S * NS_PER_S);
}

static void
progress_show(struct bench_progress *p, int done, int64_t now_ns)
{
    double  seconds = (double) (now_ns - p->start_ns) * 1e-9;
    double  rate = seconds > 0 ? done / seconds : 0;
    int     filled = p->total > 0
                     ? (int) ((int64_t) PROGRESS_BAR_CHARS * done / p->total) : 0;

    if (p->terminal) {
        (void) fprintf(stderr, "\r[%.*s%.*s] %d/%d  %.1f s  %.2f %s/s ",
                       filled, "##############################",
                       PROGRESS_BAR_CHARS - filled,
                       "..............................", done, p->total,
                       seconds, rate, p->what);
    } else {
        (void) fprintf(stderr, "%d of %d %s after %.1f s, %.2f %s/s\n", done,
                       p->total, p->what, seconds, rate, p->what);
    }
    p->shown = true;
}

void
bench_progress_at(struct bench_progress *p, int done, int64_t now_ns)
{
    if (p->off || now_ns < p->next_ns) {
        return;
    }
    p->next_ns = now_ns + (p->terminal ? PROGRESS_DRAW_NS
                                       : PROGRESS_LINE_S * NS_PER_S);
    progress_show(p, done, now_ns);
}

void
bench_progress_end(struct bench_progress *p, int done)
{
    if (!p->off && p->shown) {
        progress_show(p, done, clock_now_ns());
        (void) fputs(p->terminal ? "\n" : "", stderr);
    }
}

void
bench_json_name(struct buf *b, const char *name)
{
    if (b->len > 0 && b->data[b->len - 1] != '{' && b->data[b->len - 1] != '[')
    {
        buf_append_lit(b, ", ");
    }
    if (name != NULL) {
        json_write_string(b, str_from(name));
        buf_append_lit(b, ": ");
    }
}

void
bench_json_number(struct buf *b, const char *name, double v)
{
    bench_json_name(b, name);
    json_write_double(b, v);
}

void
bench_json_text(struct buf *b, const char *name, const char *v)
{
    bench_json_name(b, name);
    if (v == NULL) {
        buf_append_lit(b, "null");
    } else {
        json_write_string(b, str_from(v));
    }
}

int
bench_write_file(const char *path, const struct buf *b, struct err *err)
{
    FILE  *f = fopen(path, "w");

    if (b->failed) {
        (void) err_set(err, "%s: the result needs more than %zu bytes", path,
                       b->limit_bytes);
    } else if (f == NULL || fwrite(b->data, 1, b->len, f) != b->len
               || fputc('\n', f) == EOF || fflush(f) != 0)
    {
        (void) err_set(err, "%s: %s", path, strerror(errno));
    } else {
        return fclose(f) == 0 ? OK : err_set(err, "%s: %s", path,
                                             strerror(errno));
    }
    if (f != NULL) {
        (void) fclose(f);
    }
    return ERROR;
}

int
bench_check_file(const char *path, struct err *err)
{
    int  flags = O_WRONLY | O_NONBLOCK | O_CLOEXEC;
    int  fd = open(path, flags | O_CREAT | O_EXCL, 0666);

    if (fd != -1) {
        (void) unlink(path);     /* only to see that it can be made */
    } else if (errno == EEXIST) {
        fd = open(path, flags);
    }
    if (fd == -1 && errno != ENXIO) {    /* ENXIO: a FIFO that nobody reads */
        return err_set(err, "%s: %s", path, strerror(errno));
    }
    if (fd != -1) {
        (void) close(fd);
    }
    return OK;
}
