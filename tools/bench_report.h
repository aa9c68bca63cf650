/* bench_report.h - how a benchmark shows its progress and leaves its figures.
 *
 * Progress goes to standard error: one line that is written over on a
 * terminal, otherwise a plain line each PROGRESS_LINE_S seconds.  Figures go to
 * standard output and, as one JSON object with vLLM's names, to a file. */
#ifndef LLM_TOOLS_BENCH_REPORT_H
#define LLM_TOOLS_BENCH_REPORT_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/base/buf.h"
#include "engine/base/err.h"

struct bench_progress {
    bool        off, terminal, shown;
    const char *what;              /* is counted: "requests" */
    int         total;
    int64_t     start_ns, next_ns;
};

void bench_progress_start(struct bench_progress *p, const char *what, int total,
                          bool off);
/* Cheap when nothing is due; call as often as you like. */
void bench_progress_at(struct bench_progress *p, int done, int64_t now_ns);
void bench_progress_end(struct bench_progress *p, int done);

/* Appends ,"name": (without the comma after a '{' or '['); a value follows. */
void bench_json_name(struct buf *b, const char *name);
void bench_json_number(struct buf *b, const char *name, double v);
void bench_json_text(struct buf *b, const char *name, const char *v);
                                                  /* NULL: null */

int bench_write_file(const char *path, const struct buf *b, struct err *err);

/* Before a run: can that file be written?  It is left as it is. */
int bench_check_file(const char *path, struct err *err);

#endif
