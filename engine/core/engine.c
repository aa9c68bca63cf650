/* engine.c - the step loop, the heart: plan -> batch -> issue -> collect ->
 * emit.
 *
 * A step is issued, and from then on in flight, and collected: its tokens are
 * read, what they end is ended, events go out.  Step by step that is one turn;
 * with async_scheduling the next step is issued in between, so the device finds
 * it when it is ready.  Planning needs counts only; the token ids that the host
 * does not know yet are INPUT_SAMPLED in the batch.
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

#include <sys/prctl.h>

#define GATHER_NS  (20 * NS_PER_US)    /* between two looks at the device */
#define SLACK_NS   1000ul              /* of the step thread's timers; 50,000
                                          else */

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
    e->num_ended++;
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

/* ---- issuing a step ---- */

/* How the last token of a plan's entry is sampled; all of it is known before
 * the tokens in flight are. */
static struct sample_row
engine_row(const struct plan_seq *p)
{
    const struct gen_slot     *slot = p->seq->user;
    const struct gen_request  *req = &slot->req;
    int32_t                    position = p->position + p->num_tokens;
    bool                       early = position - req->num_prompt_tokens
                                       < req->min_tokens;

    return (struct sample_row) {
        .temperature = req->sampling.temperature,
        .top_p = req->sampling.top_p,
        .min_p = req->sampling.min_p,
        .top_k = req->sampling.top_k,
        .seed = req->sampling.seed,
        .position = position,
        .masked_ids = req->stop_ids,
        .num_masked = early ? req->num_stop_ids : 0
    };
}

/* Fills rows[] by logits row, and tells each sequence which one is its. */
static int32_t
engine_rows(struct engine *e, const struct plan *plan)
{
    int32_t  num_rows = 0;

    for (int32_t i = 0; i < plan->num_seqs; i++) {
        const struct plan_seq  *p = &plan->seqs[i];
        if (p->sample) {
            struct gen_slot  *slot = p->seq->user;
            slot->sampled_row = num_rows;
            e->rows[num_rows++] = engine_row(p);
        }
    }
    return num_rows;
}

static int32_t
engine_sample_row(struct engine *e, const struct sample_row *row,
                  const float *logits)
{
    struct sampling_params  params = {
        row->temperature, row->top_p, row->min_p, row->top_k, row->seed
    };

    return sampler_sample(e->sampler, logits, &(struct sampler_row) {
        .params = &params, .position = row->position,
        .masked_ids = row->masked_ids, .num_masked = row->num_masked
    });
}

/* What a device does by itself: INPUT_SAMPLED becomes the id, 0 for none. */
static void
engine_resolve(struct engine *e, const int32_t *sampled)
{
    for (int i = 0; i < e->batch.num_tokens; i++) {
        int32_t  id = e->batch.input_ids[i];
        if (id < 0) {
            id = sampled[INPUT_SAMPLED(id)];
            e->batch.input_ids[i] = id == SAMPLE_NUMERIC_ERROR ? 0 : id;
        }
    }
}

/* The backend has no sampler: everything is done now, the tokens are kept
 * until they are collected. */
static int
engine_compute(struct engine *e, struct engine_flight *f, struct err *err)
{
    const float  *logits;

    engine_resolve(e, e->flights[(e->num_issued + 1)
                                 % SCHED_STEPS_IN_FLIGHT].sampled);
    if (model_forward(e->model, &e->batch, &logits, err) != OK) {
        return ERROR;
    }
    for (int32_t i = 0; i < f->num_rows; i++) {
        f->sampled[i] = engine_sample_row(
            e, &e->rows[i], logits + (int64_t) i * e->model->config.vocab_size);
    }
    return OK;
}

static int
engine_issue(struct engine *e, struct plan *plan, int64_t begin_ns,
             struct err *err)
{
    struct engine_flight  *f =
        &e->flights[e->num_issued % SCHED_STEPS_IN_FLIGHT];

    f->plan = plan;
    f->begin_ns = begin_ns;
    f->num_rows = engine_rows(e, plan);
    if (!model_samples(e->model)) {
        if (engine_compute(e, f, err) != OK) {
            return ERROR;
        }
    } else {
        model_issue(e->model, &e->batch);
        model_sample(e->model, e->rows, f->num_rows);
    }
    engine_lock_state(e);
    sched_issued(e->sched);
    engine_unlock_state(e);
    e->num_issued++;
    e->issued_ns = clock_now_ns() - begin_ns;
    return OK;
}

/* ---- collecting a step ---- */

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
    e->generation_tokens_total++;

    enum finish_reason  reason = engine_end_of(slot, token_id);
    if (reason != FINISH_NONE) {
        engine_finish(e, slot, reason);
    } else {
        e->touched[e->num_touched++] = slot;
    }
}

/* Gives the step's tokens to their sequences.  What has finished while it was
 * in flight has no seq any more, and gets none. */
static void
engine_deliver(struct engine *e, const struct engine_flight *f, int64_t now_ns)
{
    int32_t  num_rows = 0;

    for (int32_t i = 0; i < f->plan->num_seqs; i++) {
        const struct plan_seq  *p = &f->plan->seqs[i];
        if (p->sample) {
            int32_t  token_id = f->sampled[num_rows++];
            if (p->seq != NULL) {
                engine_append(e, p->seq->user, token_id, now_ns);
            }
        }
    }
}

static uint64_t
engine_num_in_flight(const struct engine *e)
{
    return e->num_issued - e->num_steps;
}

static struct engine_flight *
engine_oldest(struct engine *e)
{
    return &e->flights[e->num_steps % SCHED_STEPS_IN_FLIGHT];
}

static int
engine_wait(struct engine *e, struct engine_flight *f, struct err *err)
{
    int64_t           begin_ns = clock_now_ns();
    struct step_time  time;

    if (model_samples(e->model)
        && model_sampled(e->model, f->sampled, err) != OK)
    {
        return ERROR;
    }
    e->wait_ns += clock_now_ns() - begin_ns;
    if (e->trace != NULL && model_step_time(e->model, &time)) {
        trace_device(e->trace, e->num_steps, &time);
    }
    return OK;
}

/* Waits for the oldest step in flight; its number of tokens or ERROR. */
static int
engine_collect(struct engine *e, struct err *err)
{
    struct engine_flight  *f = engine_oldest(e);

    if (engine_wait(e, f, err) != OK) {
        return ERROR;
    }
    int64_t  now_ns = clock_now_ns();
    engine_lock_state(e);
    sched_done(e->sched);
    engine_deliver(e, f, now_ns);
    engine_unlock_state(e);
    engine_emit(e, now_ns);
    engine_count(e, f, now_ns);
    return f->plan->num_tokens;
}

/* ---- the loop ---- */

/* Nothing planned although something could run and nothing in flight would be
 * a standstill with a healthy face; sched.h says why it cannot happen. */
static void
engine_check_progress(struct engine *e, const struct plan *plan)
{
    struct sched_counts  counts;

    sched_counts(e->sched, &counts);
    if (plan->num_seqs == 0 && engine_num_in_flight(e) == 0) {
        check_eq(counts.num_running + counts.num_waiting, 0);
    }
    if (e->trace != NULL) {
        trace_plan(e->trace, plan, &counts);
    }
}

static struct plan *
engine_plan(struct engine *e, int64_t now_ns)
{
    engine_lock_state(e);
    struct plan  *plan = sched_next(e->sched, now_ns);
    engine_check_progress(e, plan);
    batch_build(&e->batch, plan, e->model->block_size);
    engine_unlock_state(e);
    engine_publish_stats(e, 0);
    return plan;
}

static int
engine_turn(struct engine *e, struct plan *plan, int64_t begin_ns,
            struct err *err)
{
    bool  ahead = e->options.async_scheduling && plan->num_seqs > 0;
    int   num_tokens = 0;

    if (plan->num_seqs > 0 && engine_issue(e, plan, begin_ns, err) != OK) {
        return ERROR;
    }
    while (engine_num_in_flight(e) > (ahead ? 1 : 0)) {
        num_tokens = engine_collect(e, err);
        if (num_tokens == ERROR) {
            return ERROR;
        }
    }
    return plan->num_seqs > 0 ? plan->num_tokens : num_tokens;
}

/* What happened outside; whether it would make a thin step. */
static bool
engine_hear(struct engine *e)
{
    int64_t  now_ns = clock_now_ns();

    engine_lock_state(e);
    engine_take(e, now_ns);
    engine_expire(e, now_ns);
    if (e->stopping) {
        engine_finish_all(e, FINISH_SHUTDOWN);
    }
    bool  is_thin = sched_is_thin(e->sched);
    engine_unlock_state(e);
    engine_emit(e, now_ns);       /* what ended without a step */
    if (is_thin) {                /* else the plan is next, and does it */
        engine_publish_stats(e, 0);
    }
    return is_thin && !e->stopping;
}

/* When nobody goes on from the step in flight, who comes now gets company before
 * the device is done: requests of one token that are answered together are
 * followed by others together.  Those that come and go again meanwhile are all
 * told of in one line of the trace, which has room for max_seqs of them. */
static void
engine_gather(struct engine *e)
{
    while (engine_hear(e) && e->num_ended < e->max_seqs
           && engine_num_in_flight(e) > 0 && !model_sample_is_done(e->model))
    {
        int64_t  begin_ns = clock_now_ns();
        gen_table_wait(e->table, GATHER_NS);
        e->wait_ns += clock_now_ns() - begin_ns;
    }
}

int
engine_step(struct engine *e, struct err *err)
{
    int64_t  begin_ns = clock_now_ns();

    if (e->trace != NULL) {
        trace_begin(e->trace, e->num_issued, begin_ns);
    }
    e->wait_ns = 0;
    e->issued_ns = 0;
    e->num_ended = 0;
    engine_gather(e);
    struct plan  *plan = engine_plan(e, clock_now_ns());
    int  num_tokens = engine_turn(e, plan, begin_ns, err);
    if (num_tokens == ERROR) {
        return ERROR;
    }
    if (e->trace != NULL) {
        trace_end(e->trace, &(struct trace_times) {
            .issued_ns = e->issued_ns, .wait_ns = e->wait_ns,
            .step_ns = clock_now_ns() - begin_ns });
    }
    debug_audit(e);
    engine_publish_stats(e, 0);
    if (e->stopping) {
        gen_table_end(e->table);
    }
    return num_tokens;
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
    sched_abandon(e->sched);
    engine_unlock_state(e);
    engine_emit(e, clock_now_ns());
    gen_table_end(e->table);
}

void *
engine_run(void *engine)
{
    struct engine  *e = engine;

    (void) prctl(PR_SET_TIMERSLACK, SLACK_NS, 0ul, 0ul, 0ul);
    while (!e->stopping) {
        int  num_tokens = engine_step(e, &e->err);
        if (num_tokens == ERROR) {
            log_alert("step %llu: %s", (unsigned long long) e->num_steps,
                      e->err.message);
            engine_log_report(e, "crash record");
            engine_lose(e);
            return &e->err;
        }
        if (num_tokens == 0 && !e->stopping) {
            engine_sleep(e);
        }
    }
    return NULL;
}
