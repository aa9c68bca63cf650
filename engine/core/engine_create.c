/* engine_create.c - building the engine, and the entrances for other threads.
 *
 * Every array of the step loop gets its size here; engine_create() logs what
 * they take. */
#include "engine/base/check.h"
#include "engine/base/log.h"
#include "engine/core/engine_int.h"
#include "engine/model/model.h"

#include <stdlib.h>

static int
engine_check_options(const struct engine_options *o, const struct model *model,
                     struct err *err)
{
    const struct batch_limits  *l = &model->limits;

    if (o->max_waiting < 0 || o->max_num_seqs < 1
        || o->max_waiting > INT32_MAX - o->max_num_seqs)
    {
        return err_set(err, "max_num_seqs %d, max_num_queued_reqs %d: out of "
                       "range", o->max_num_seqs, o->max_waiting);
    }
    if (o->max_num_seqs > l->max_num_seqs
        || o->max_num_seqs > l->max_num_logits
        || o->max_num_batched_tokens > l->max_num_batched_tokens
        || o->max_model_len > model->max_model_len)
    {
        return err_set(err, "max_num_seqs %d, max_num_batched_tokens %d, "
                       "max_model_len %d exceed what the model was opened for: "
                       "%d, %d, %d", o->max_num_seqs,
                       o->max_num_batched_tokens, o->max_model_len,
                       l->max_num_seqs, l->max_num_batched_tokens,
                       model->max_model_len);
    }
    return OK;
}

static int
engine_create_parts(struct engine *e, struct err *err)
{
    const struct engine_options  *o = &e->options;
    const struct model           *m = e->model;
    struct sched_options          sched = {
        .max_num_seqs = o->max_num_seqs,
        .max_num_batched_tokens = o->max_num_batched_tokens,
        .max_model_len = o->max_model_len,
        .max_seqs = e->max_seqs,
        .block_size = m->block_size,
        .num_blocks = m->kv.cache.num_blocks,
        .max_num_mixed_tokens = o->max_num_mixed_tokens,
        .enable_chunked_prefill = o->enable_chunked_prefill
    };
    struct metrics_options        metrics = {
        .max_model_len = o->max_model_len,
        .block_size = m->block_size,
        .num_blocks = m->kv.cache.num_blocks - 1
    };

    if (sched_create(&e->sched, &sched, err) != OK
        || gen_table_create(&e->table, e->max_seqs, err) != OK
        || sampler_create(&e->sampler, m->config.vocab_size, err) != OK
        || metrics_create(&e->metrics, &metrics, err) != OK
        || batch_init(&e->batch, &m->limits, err) != OK)
    {
        return ERROR;
    }
    if (o->trace_path == NULL) {
        return OK;
    }
    model_time_steps(e->model);
    return trace_open(&e->trace, o->trace_path, e->max_seqs, err);
}

static bool
engine_create_arrays(struct engine *e)
{
    size_t  num_rows = (size_t) e->options.max_num_seqs;
    bool    ok;

    e->changes = calloc((size_t) e->max_seqs, sizeof *e->changes);
    e->touched = calloc((size_t) e->max_seqs, sizeof *e->touched);
    e->rows = calloc(num_rows, sizeof *e->rows);
    ok = e->changes != NULL && e->touched != NULL && e->rows != NULL;
    for (size_t i = 0; i < SCHED_STEPS_IN_FLIGHT; i++) {
        struct engine_flight  *f = &e->flights[i];
        f->sampled = calloc(num_rows, sizeof *f->sampled);
        ok = ok && f->sampled != NULL;
    }
    return ok;
}

/* Recursive: a check that fails while the step thread holds it prints the report,
 * which takes it again, and aborts. */
static void
engine_init_locks(struct engine *e)
{
    pthread_mutexattr_t  attr;

    (void) pthread_mutexattr_init(&attr);
    (void) pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    (void) pthread_mutex_init(&e->state_lock, &attr);
    (void) pthread_mutexattr_destroy(&attr);
    (void) pthread_mutex_init(&e->stats_lock, NULL);
}

int
engine_create(struct engine **out, const struct engine_options *options,
              struct model *model, struct err *err)
{
    struct engine  *e;

    *out = NULL;
    if (engine_check_options(options, model, err) != OK) {
        return ERROR;
    }
    e = calloc(1, sizeof *e);
    if (e == NULL) {
        return err_set(err, "engine: out of memory");
    }
    engine_init_locks(e);
    e->options = *options;
    e->model = model;
    e->max_seqs = options->max_num_seqs + options->max_waiting;
    if (!engine_create_arrays(e)) {
        (void) err_set(err, "engine: out of memory for %d sequences",
                       e->max_seqs);
        goto fail;
    }
    if (engine_create_parts(e, err) != OK) {
        goto fail;
    }
    e->stats.kv_blocks_total = model->kv.cache.num_blocks - 1;
    log_info("engine: %d sequences at a time, %d more may wait, %d tokens a "
             "step, %s; KV cache %d blocks of %d tokens, %zu bytes; request "
             "table %zu bytes", options->max_num_seqs, options->max_waiting,
             options->max_num_batched_tokens,
             options->async_scheduling ? "one step ahead" : "step by step",
             e->stats.kv_blocks_total,
             model->block_size, model->kv.bytes,
             (size_t) e->max_seqs * sizeof(struct gen_slot));
    *out = e;
    return OK;

fail:
    engine_destroy(e);           /* safe on a half-built engine */
    return ERROR;
}

void
engine_destroy(struct engine *e)
{
    if (e == NULL) {
        return;
    }
    trace_close(e->trace);
    batch_destroy(&e->batch);
    metrics_destroy(e->metrics);
    sampler_destroy(e->sampler);
    gen_table_destroy(e->table);
    sched_destroy(e->sched);
    free(e->changes);
    free(e->touched);
    free(e->rows);
    for (size_t i = 0; i < SCHED_STEPS_IN_FLIGHT; i++) {
        free(e->flights[i].sampled);
    }
    (void) pthread_mutex_destroy(&e->state_lock);
    (void) pthread_mutex_destroy(&e->stats_lock);
    free(e);
}

/* ---- any thread ---- */

uint64_t
engine_next_id(struct engine *e)
{
    return 1 + atomic_fetch_add_explicit(&e->next_id, 1, memory_order_relaxed);
}

static int
engine_check_request(const struct engine *e, const struct gen_request *req,
                     struct err *err)
{
    int32_t  vocab_size = e->model->config.vocab_size;

    check(req->num_stop_ids >= 0 && req->num_stop_ids <= GEN_STOP_IDS_MAX);
    if (sched_check_fits(e->sched, req->num_prompt_tokens, req->max_tokens,
                         err) != OK)
    {
        return ERROR;
    }
    check_le(req->num_prompt_tokens + req->max_tokens, req->token_cap);
    for (int32_t i = 0; i < req->num_prompt_tokens; i++) {
        if (req->token_ids[i] < 0 || req->token_ids[i] >= vocab_size) {
            return err_set_http(err, 400, "prompt", "prompt: token id %d is "
                                "not below the vocabulary size %d",
                                req->token_ids[i], vocab_size);
        }
    }
    return OK;
}

int
engine_submit(struct engine *e, const struct gen_request *requests, int num,
              struct err *err)
{
    for (int i = 0; i < num; i++) {
        if (engine_check_request(e, &requests[i], err) != OK) {
            return ERROR;
        }
    }
    return gen_table_submit(e->table, requests, num, err);
}

void
engine_cancel(struct engine *e, uint64_t gen_id, enum finish_reason reason)
{
    check(reason != FINISH_NONE);
    gen_table_cancel(e->table, gen_id, reason);
}

void
engine_park(struct engine *e, uint64_t gen_id, bool parked)
{
    gen_table_park(e->table, gen_id, parked);
}

int
engine_events(struct engine *e, struct gen_event *events, int max,
              int64_t timeout_ns)
{
    return gen_table_events(e->table, events, max, timeout_ns);
}

void
engine_stop(struct engine *e)
{
    gen_table_stop(e->table);
}

struct metrics *
engine_metrics(struct engine *e)
{
    return e->metrics;
}
