/* trace.h - one JSON line a step: enough to answer "why was my request slow"
 * without a debugger.
 *
 *     {"step":412,"t_ns":81234,"prefill_tokens":512,"decode_seqs":31,
 *      "running":32,"waiting":4,"parked":0,"free_blocks":902,
 *      "plan":[[17,"decode",1,1873],[18,"prefill",511,0]],
 *      "preempted":[16],"finished":[[17,"stop"]],
 *      "device":[[411,1800,2150000]],"issued_ns":98000,"wait_ns":2100000,
 *      "step_ns":2210000}
 *
 * plan entries are [gen_id, kind, tokens to compute, position of the first].
 * t_ns is the monotonic clock at the begin.  issued_ns is from there to the
 * issue of the step, 0 when none was; wait_ns what of the turn was spent
 * waiting for the device: near 0 with a device that samples, it had nothing to
 * do meanwhile.  "device" has the steps collected, [step, idle_ns, run_ns] by
 * the device's own clock, where it tells: idle_ns is how long it had nothing to
 * do before the step; some microseconds are its own, between one step and the
 * next.  With async scheduling a line has the plan of one step and the ends of
 * the step before.  Where nothing runs and nothing ends there is no line, unless
 * it has a "device".  The step thread writes; nothing is allocated after open,
 * and a line has room for 2 * max_seqs ends.  A file that cannot be written any
 * more is reported once and ends the trace, not the engine. */
#ifndef LLM_CORE_TRACE_H
#define LLM_CORE_TRACE_H

#include <stdint.h>
#include "engine/backend/backend.h"
#include "engine/base/err.h"
#include "engine/core/gen.h"
#include "engine/sched/sched.h"

struct trace;

/* Appends to `path`, mode 0600.  max_seqs bounds the length of a line. */
int trace_open(struct trace **out, const char *path, int32_t max_seqs,
               struct err *err);
void trace_close(struct trace *t);                /* NULL is fine */

/* In this order, once a step; `finished` and `device` as often as needed in
 * between. */
void trace_begin(struct trace *t, uint64_t step, int64_t now_ns);
void trace_plan(struct trace *t, const struct plan *plan,
                const struct sched_counts *counts);
void trace_finished(struct trace *t, uint64_t gen_id,
                    enum finish_reason reason);
void trace_device(struct trace *t, uint64_t step,
                  const struct step_time *time);

struct trace_times {
    int64_t  issued_ns, wait_ns, step_ns;
};

void trace_end(struct trace *t, const struct trace_times *times);

#endif
