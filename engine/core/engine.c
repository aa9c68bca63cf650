/* engine.c - the step loop, the heart: plan -> batch -> forward -> sample ->
 * advance -> emit.
 *
 * Everything here runs on the step thread except what engine.h marks "any
 * thread", and that only goes through gen_table, the counters under
 * stats_lock and the report under state_lock. */
#include "engine/core/engine.h"
#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/core/batch_build.h"
#include "engine/core/engine_int.h"
#include "engine/model/model.h"

/* ---- what happened outside since the last step ---- */

/* Ends a sequence; its blocks are free again, its event goes out with the
 * next engine_emit(). */
static void
engine_finish(struct engine *e, struct gen_slot *slot,
              enum finish_reason reason)
{
    slot->reason = reason;
    if (slot->seq != NULL) {
        if (slot->scheduled_ns == 0) {
            slot->scheduled_ns = slot->seq->scheduled_ns;
        }
        sched_finish(e->sched, slot->seq);
        slot->seq = NULL;
    }
    e->touched[e->num_touched++] = slot;
    if (e->trace != NULL) {
        trace_finished(e->trace, slot->req.gen_id, reason);
    }
}

static void
engine_admit(struct engine *e, struct gen_slot *slot, int64_t now_ns)
{
    slot->seq = sched_add(e->sched, &(struct seq_desc) {
        .id = slot->req.gen_id, .user = slot,
        .num_prompt_tokens = slot->req.num_prompt_tokens,
        .max_tokens = slot->req.max_tokens,
        .deadline_ns = slot->req.deadline_ns
    }, now_ns);
    e->requests_total++;
}

static void
engine_take(struct engine *e, int64_t now_ns)
{
    int32_t  num = gen_table_take(e->table, e->changes, &e->stopping);

    for (int32_t i = 0; i < num; i++) {
        struct gen_change  *c = &e->changes[i];
        if (c->is_new) {
            engine_admit(e, c->slot, now_ns);
        }
        if (c->cancel != FINISH_NONE) {
            engine_finish(e, c->slot, c->cancel);
        } else {
            sched_park(e->sched, c->slot->seq, c->parked);
        }
    }
}

static void
engine_expire(struct engine *e, int64_t now_ns)
{
    struct seq  *seq;

    while ((seq = sched_next_expired(e->sched, now_ns)) != NULL) {
        engine_finish(e, seq->user, FINISH_DEADLINE);
    }
}

static void
engine_finish_all(struct engine *e, enum finish_reason reason)
{
    for (int32_t i = 0; i < e->max_seqs; i++) {
        struct gen_slot  *slot = gen_table_slot(e->table, i);
        if (slot->seq != NULL) {
            engine_finish(e, slot, reason);
        }
    }
}

/* One lock and one wake-up for all events of a step. */
static void
engine_emit(struct engine *e, int64_t now_ns)
{
    gen_table_publish(e->table, e->touched, e->num_touched, now_ns);
    e->num_touched = 0;
}

/* ---- sampling ---- */

static int32_t
engine_sample_row(struct engine *e, const struct gen_slot *slot,
                  const float *logits)
{
    const struct gen_request  *req = &slot->req;
    bool                       early = slot->num_output < req->min_tokens;

    return sampler_sample(e->sampler, logits, &(struct sampler_row) {
        .params = &req->sampling,
        .position = req->num_prompt_tokens + slot->num_output,
        .masked_ids = req->stop_ids,
        .num_masked = early ? req->num_stop_ids : 0
    });
}

/* sampled[i] is the new token of the i-th logits row. */
static void
engine_sample(struct engine *e, const struct plan *plan, const float *logits)
{
    int32_t  num_rows = 0;

    for (int32_t i = 0; i < plan->num_seqs; i++) {
        if (plan->seqs[i].sample) {
            e->sampled[num_rows] = engine_sample_row(
                e, plan->seqs[i].seq->user,
                logits + (int64_t) num_rows * e->model->config.vocab_size);
            num_rows++;
        }
    }
}

/* ---- what a step has changed ---- */

/* Why the sequence ends after its newest token, FINISH_NONE: it goes on. */
static enum finish_reason
engine_end_of(struct gen_slot *slot, int32_t token_id)
{
    for (int32_t i = 0; i < slot->req.num_stop_ids; i++) {
        if (slot->req.stop_ids[i] == token_id) {
            slot->stop_id = token_id;
            return FINISH_STOP;
        }
    }
    return slot->num_output == slot->req.max_tokens ? FINISH_LENGTH
                                                    : FINISH_NONE;
}

static void
engine_append(struct engine *e, struct gen_slot *slot, int32_t token_id,
              int64_t now_ns)
{
    struct gen_request  *req = &slot->req;

    if (token_id == SAMPLER_NUMERIC_ERROR) {
        log_error("request %llu: the logits of token %d are no numbers",
                  (unsigned long long) req->gen_id, slot->num_output);
        engine_finish(e, slot, FINISH_NUMERIC_ERROR);
        return;
    }
    if (slot->num_output == 0) {
        slot->scheduled_ns = slot->seq->scheduled_ns;
        slot->first_token_ns = now_ns;
    }
    req->token_ids[req->num_prompt_tokens + slot->num_output++] = token_id;
    sched_append(e->sched, slot->seq);
    e->generation_tokens_total++;

    enum finish_reason  reason = engine_end_of(slot, token_id);
    if (reason != FINISH_NONE) {
        engine_finish(e, slot, reason);
    } else {
        e->touched[e->num_touched++] = slot;
    }
}

static void
engine_advance(struct engine *e, const struct plan *plan, int64_t now_ns)
{
    int32_t  num_rows = 0;

    sched_done(e->sched);
    for (int32_t i = 0; i < plan->num_seqs; i++) {
        const struct plan_seq  *p = &plan->seqs[i];
        if (p->sample) {
            int32_t  token_id = e->sampled[num_rows++];
            if (p->seq != NULL) {
                engine_append(e, p->seq->user, token_id, now_ns);
            }
        }
    }
}

/* ---- the loop ---- */

/* Nothing planned although something could run would be a standstill with a
 * healthy face; sched.h says why it cannot happen. */
static void
engine_check_progress(struct engine *e, const struct plan *plan)
{
    struct sched_counts  counts;

    sched_counts(e->sched, &counts);
    if (plan->num_seqs == 0) {
        check_eq(counts.num_running + counts.num_waiting, 0);
    }
    if (e->trace != NULL) {
        trace_plan(e->trace, plan, &counts);
    }
}

static struct plan *
engine_plan(struct engine *e, int64_t now_ns)
{
    if (e->trace != NULL) {
        trace_begin(e->trace, e->num_steps, now_ns);
    }
    engine_lock_state(e);
    engine_take(e, now_ns);
    engine_expire(e, now_ns);
    if (e->stopping) {
        engine_finish_all(e, FINISH_SHUTDOWN);
    }
    struct plan  *plan = sched_next(e->sched, now_ns);
    engine_check_progress(e, plan);
    batch_build(&e->batch, plan, e->model->block_size);
    engine_unlock_state(e);
    engine_emit(e, now_ns);       /* what ended without a step */
    engine_publish_stats(e, 0);
    return plan;
}

int
engine_step(struct engine *e, struct err *err)
{
    int64_t       begin_ns = clock_now_ns();
    struct plan  *plan = engine_plan(e, begin_ns);
    const float  *logits;

    if (plan->num_seqs > 0) {
        if (model_forward(e->model, &e->batch, &logits, err) != OK) {
            return ERROR;
        }
        engine_sample(e, plan, logits);

        int64_t  now_ns = clock_now_ns();
        engine_lock_state(e);
        engine_advance(e, plan, now_ns);
        debug_audit(e);
        engine_unlock_state(e);
        engine_emit(e, now_ns);
    }
    engine_count(e, plan, begin_ns);
    if (e->stopping) {
        gen_table_end(e->table);
    }
    return plan->num_tokens;
}

/* Until the next deadline of a sequence that cannot run, or for ever. */
static void
engine_sleep(struct engine *e)
{
    int64_t  deadline_ns = sched_next_deadline_ns(e->sched);
    int64_t  timeout_ns = -1;

    if (deadline_ns != 0) {
        timeout_ns = deadline_ns - clock_now_ns();
        timeout_ns = timeout_ns > 0 ? timeout_ns : 0;
    }
    gen_table_wait(e->table, timeout_ns);
}

/* The backend is gone in the middle of a step. */
static void
engine_lose(struct engine *e)
{
    gen_table_stop(e->table);
    engine_lock_state(e);
    engine_take(e, clock_now_ns());
    engine_finish_all(e, FINISH_ENGINE_LOST);
    sched_done(e->sched);
    engine_unlock_state(e);
    engine_emit(e, clock_now_ns());
    gen_table_end(e->table);
}

void *
engine_run(void *engine)
{
    struct engine  *e = engine;

    while (!e->stopping) {
        int  num_tokens = engine_step(e, &e->err);
        if (num_tokens == ERROR) {
            log_alert("step %llu: %s", (unsigned long long) e->num_steps,
                      e->err.message);
            engine_lose(e);
            return &e->err;
        }
        if (num_tokens == 0 && !e->stopping) {
            engine_sleep(e);
        }
    }
    return NULL;
}
