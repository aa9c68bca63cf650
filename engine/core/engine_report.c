/* engine_report.c - what can be seen of a running engine: the counters for
 * /metrics and heartbeats, the state report, the audit. */
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/core/engine_int.h"

#include <string.h>

#define REPORT_BYTES_MAX  ((size_t) 1 << 20)

void
engine_lock_state(struct engine *e)
{
    (void) pthread_mutex_lock(&e->state_lock);
}

void
engine_unlock_state(struct engine *e)
{
    (void) pthread_mutex_unlock(&e->state_lock);
}

void
engine_publish_stats(struct engine *e, int64_t last_step_ns)
{
    struct sched_counts   c;
    struct engine_stats  *s = &e->stats;

    sched_counts(e->sched, &c);
    (void) pthread_mutex_lock(&e->stats_lock);
    s->num_steps = e->num_steps;
    s->num_running = c.num_running;
    s->num_waiting = c.num_waiting;
    s->num_parked = c.num_parked;
    s->kv_blocks_used = c.kv_blocks_used;
    s->kv_blocks_total = c.kv_blocks_total;
    s->num_preemptions = c.num_preemptions;
    s->prompt_tokens_total = c.num_prompt_tokens;
    s->recomputed_tokens_total = c.num_recomputed_tokens;
    s->generation_tokens_total = e->generation_tokens_total;
    s->requests_total = e->requests_total;
    if (last_step_ns != 0) {
        s->last_step_ns = last_step_ns;
    }
    (void) pthread_mutex_unlock(&e->stats_lock);
}

void
engine_count(struct engine *e, const struct engine_flight *flight,
             int64_t now_ns)
{
    const struct plan  *plan = flight->plan;
    int64_t             begin_ns = flight->begin_ns;

    if (begin_ns < e->collected_ns) {      /* it began behind another one */
        begin_ns = e->collected_ns;
    }
    e->collected_ns = now_ns;
    engine_lock_state(e);
    e->records[e->num_steps % ENGINE_STEPS_KEPT] =
        (struct engine_step_record) {
            .step = e->num_steps, .begin_ns = begin_ns,
            .step_ns = now_ns - begin_ns, .wait_ns = e->wait_ns,
            .num_prefill_tokens = plan->num_prefill_tokens,
            .num_decode_seqs = plan->num_decode_seqs,
            .num_preempted = plan->num_preempted
        };
    e->num_steps++;
    engine_unlock_state(e);
    metrics_observe_step(e->metrics, plan->num_tokens);
    engine_publish_stats(e, now_ns);
}

void
engine_stats(struct engine *e, struct engine_stats *out)
{
    int32_t  num_new = gen_table_num_new(e->table);

    (void) pthread_mutex_lock(&e->stats_lock);
    *out = e->stats;
    (void) pthread_mutex_unlock(&e->stats_lock);
    out->num_waiting += num_new;
}

void
engine_audit(struct engine *e)
{
    sched_audit(e->sched);
}

struct report {
    struct buf         *out;
    const struct sched *sched;
    int64_t             now_ns;
};

static void
report_seq(void *data, const struct seq *q)
{
    const struct report    *r = data;
    const struct gen_slot  *slot = q->user;
    int64_t                 age_ms = (r->now_ns - q->added_ns) / NS_PER_MS;
    int64_t                 wait_ns = (q->scheduled_ns != 0
                                       ? q->scheduled_ns : r->now_ns)
                                      - q->added_ns;

    buf_appendf(r->out, "seq %llu %s%s prompt=%d output=%d/%d computed=%d "
                "blocks=%d preemptions=%d age_ms=%lld queue_ms=%lld",
                (unsigned long long) q->id, seq_state_name(q->state),
                sched_in_flight(r->sched, q) ? "*" : "", q->num_prompt_tokens, slot->num_output,
                slot->req.max_tokens, q->num_computed_tokens, q->num_blocks,
                q->num_preemptions, (long long) age_ms,
                (long long) (wait_ns / NS_PER_MS));
    if (q->deadline_ns != 0) {
        buf_appendf(r->out, " deadline_ms=%lld",
                    (long long) ((q->deadline_ns - r->now_ns) / NS_PER_MS));
    }
    buf_append_c(r->out, '\n');
}

static void
report_steps(const struct engine *e, const struct report *r)
{
    uint64_t  first = e->num_steps > ENGINE_STEPS_KEPT
                      ? e->num_steps - ENGINE_STEPS_KEPT : 0;

    for (uint64_t i = first; i < e->num_steps; i++) {
        const struct engine_step_record  *s =
            &e->records[i % ENGINE_STEPS_KEPT];
        buf_appendf(r->out, "step %llu prefill_tokens=%d decode_seqs=%d "
                    "preempted=%d took_us=%lld waited_us=%lld ago_ms=%lld\n",
                    (unsigned long long) s->step, s->num_prefill_tokens,
                    s->num_decode_seqs, s->num_preempted,
                    (long long) (s->step_ns / NS_PER_US),
                    (long long) (s->wait_ns / NS_PER_US),
                    (long long) ((r->now_ns - s->begin_ns) / NS_PER_MS));
    }
}

void
engine_report(struct engine *e, struct buf *out)
{
    struct sched_counts  c;
    struct report        r = { out, e->sched, clock_now_ns() };

    engine_lock_state(e);
    sched_counts(e->sched, &c);
    buf_appendf(out, "engine: steps=%llu running=%d waiting=%d parked=%d "
                "kv_blocks=%d/%d preemptions=%llu requests=%llu "
                "generated=%llu\n", (unsigned long long) e->num_steps,
                c.num_running, c.num_waiting, c.num_parked, c.kv_blocks_used,
                c.kv_blocks_total, (unsigned long long) c.num_preemptions,
                (unsigned long long) e->requests_total,
                (unsigned long long) e->generation_tokens_total);
    sched_visit(e->sched, report_seq, &r);
    report_steps(e, &r);
    engine_unlock_state(e);
}

void
engine_log_report(struct engine *e, const char *title)
{
    struct buf  b;

    buf_init(&b, REPORT_BYTES_MAX);
    engine_report(e, &b);
    const char  *p = b.data;
    for (size_t left = b.len; left > 0; ) {
        const char  *nl = memchr(p, '\n', left);
        size_t       len = nl == NULL ? left : (size_t) (nl - p);
        log_notice("%s: %.*s", title, (int) len, p);
        len += nl != NULL;
        p += len;
        left -= len;
    }
    buf_destroy(&b);
}
