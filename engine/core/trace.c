/* trace.c - builds the line in one buffer, writes it with one write(2).
 *
 * What finished is collected beside the line, because sequences end before
 * the plan is made (cancels) and after it (stops). */
#include "engine/core/trace.h"
#include "engine/base/buf.h"
#include "engine/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ENTRY_BYTES   80      /* [20 digits,"prefill",10 digits,10 digits], */
#define LINE_BYTES   512      /* everything else */

struct trace {
    int         fd;
    bool        idle;         /* nothing planned in this step */
    struct buf  line;
    struct buf  finished;     /* of this step, "[id,"reason"]," each; at most
                                 2 * max_seqs */
    struct buf  device;       /* of this step, "[step,idle,run]," each */
};

int
trace_open(struct trace **out, const char *path, int32_t max_seqs,
           struct err *err)
{
    size_t         entries_bytes = (size_t) max_seqs * ENTRY_BYTES;
    struct trace  *t = calloc(1, sizeof *t);

    *out = NULL;
    if (t == NULL) {
        return err_set(err, "trace %s: out of memory", path);
    }
    buf_init(&t->line, LINE_BYTES + 4 * entries_bytes);
    buf_init(&t->finished, 2 * entries_bytes);
    buf_init(&t->device, LINE_BYTES);
    t->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (t->fd < 0) {
        int  rc = err_set(err, "trace %s: %s", path, strerror(errno));
        trace_close(t);
        return rc;
    }
    if (!buf_reserve(&t->line, t->line.limit_bytes)
        || !buf_reserve(&t->finished, t->finished.limit_bytes)
        || !buf_reserve(&t->device, t->device.limit_bytes))
    {
        trace_close(t);
        return err_set(err, "trace %s: out of memory", path);
    }
    *out = t;
    return OK;
}

void
trace_close(struct trace *t)
{
    if (t == NULL) {
        return;
    }
    if (t->fd >= 0) {
        (void) close(t->fd);
    }
    buf_destroy(&t->line);
    buf_destroy(&t->finished);
    buf_destroy(&t->device);
    free(t);
}

static void
trace_number(struct trace *t, const char *name, int64_t value)
{
    buf_append_c(&t->line, ',');
    buf_append_c(&t->line, '"');
    buf_append(&t->line, name, strlen(name));
    buf_append_lit(&t->line, "\":");
    buf_append_i64(&t->line, value);
}

void
trace_begin(struct trace *t, uint64_t step, int64_t now_ns)
{
    buf_reset(&t->line);
    buf_reset(&t->finished);
    buf_reset(&t->device);
    buf_append_lit(&t->line, "{\"step\":");
    buf_append_i64(&t->line, (int64_t) step);
    trace_number(t, "t_ns", now_ns);
}

void
trace_plan(struct trace *t, const struct plan *plan,
           const struct sched_counts *counts)
{
    struct buf  *b = &t->line;

    t->idle = plan->num_seqs == 0;
    trace_number(t, "prefill_tokens", plan->num_prefill_tokens);
    trace_number(t, "decode_seqs", plan->num_decode_seqs);
    trace_number(t, "running", counts->num_running);
    trace_number(t, "waiting", counts->num_waiting);
    trace_number(t, "parked", counts->num_parked);
    trace_number(t, "free_blocks",
                 counts->kv_blocks_total - counts->kv_blocks_used);
    buf_append_lit(b, ",\"plan\":[");
    for (int32_t i = 0; i < plan->num_seqs; i++) {
        const struct plan_seq  *p = &plan->seqs[i];
        if (i > 0) {
            buf_append_c(b, ',');
        }
        buf_append_c(b, '[');
        buf_append_i64(b, (int64_t) p->seq->id);
        if (p->decode) {
            buf_append_lit(b, ",\"decode\",");
        } else {
            buf_append_lit(b, ",\"prefill\",");
        }
        buf_append_i64(b, p->num_tokens);
        buf_append_c(b, ',');
        buf_append_i64(b, p->position);
        buf_append_c(b, ']');
    }
    buf_append_lit(b, "],\"preempted\":[");
    for (int32_t i = 0; i < plan->num_preempted; i++) {
        if (i > 0) {
            buf_append_c(b, ',');
        }
        buf_append_i64(b, (int64_t) plan->preempted_ids[i]);
    }
    buf_append_c(b, ']');
}

void
trace_finished(struct trace *t, uint64_t gen_id, enum finish_reason reason)
{
    const char  *name = gen_reason_name(reason);

    if (t->finished.len > 0) {
        buf_append_c(&t->finished, ',');
    }
    buf_append_c(&t->finished, '[');
    buf_append_i64(&t->finished, (int64_t) gen_id);
    buf_append_lit(&t->finished, ",\"");
    buf_append(&t->finished, name, strlen(name));
    buf_append_lit(&t->finished, "\"]");
}

void
trace_device(struct trace *t, uint64_t step, const struct step_time *time)
{
    if (t->device.len > 0) {
        buf_append_c(&t->device, ',');
    }
    buf_append_c(&t->device, '[');
    buf_append_i64(&t->device, (int64_t) step);
    buf_append_c(&t->device, ',');
    buf_append_i64(&t->device, time->idle_ns);
    buf_append_c(&t->device, ',');
    buf_append_i64(&t->device, time->run_ns);
    buf_append_c(&t->device, ']');
}

void
trace_end(struct trace *t, const struct trace_times *times)
{
    if (t->idle && t->finished.len == 0 && t->device.len == 0) {
        return;
    }
    buf_append_lit(&t->line, ",\"finished\":[");
    buf_append_str(&t->line, buf_str(&t->finished));
    buf_append_lit(&t->line, "],\"device\":[");
    buf_append_str(&t->line, buf_str(&t->device));
    buf_append_c(&t->line, ']');
    trace_number(t, "issued_ns", times->issued_ns);
    trace_number(t, "wait_ns", times->wait_ns);
    trace_number(t, "step_ns", times->step_ns);
    buf_append_lit(&t->line, "}\n");
    if (t->fd >= 0
        && write(t->fd, t->line.data, t->line.len) != (ssize_t) t->line.len)
    {
        log_error("trace: %s; no more steps are traced", strerror(errno));
        (void) close(t->fd);
        t->fd = -1;
    }
}
