/* fake_model.c - tokens are a hash of the context found in the slots. */
#include "tests/sim/fake_model.h"
#include "engine/base/check.h"
#include "engine/base/hash.h"
#include "engine/sample/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NOT_SAMPLED  (-1)

struct fake_slot {
    int32_t  token_id, position;
};

/* A step that the device has been given. */
struct fake_step {
    struct batch       batch;      /* a copy */
    int                num_rows;   /* sample()d, or NOT_SAMPLED */
    struct sample_row *rows;       /* [max_num_seqs] */
    int32_t           *masked_ids; /* [max_num_seqs, GEN_STOP_IDS_MAX] */
    int32_t           *ids;        /* [max_num_seqs] */
};

struct fake_model {
    struct model       model;      /* first: a struct model * is one of these */
    bool               samples;
    uint64_t           rng;
    struct fake_step   steps[SAMPLES_IN_FLIGHT];
    uint64_t           num_issued, num_run, num_done;
    struct sampler    *sampler;
    int32_t           *users;      /* [num_blocks], of the step in flight: its
                                      sequence + 1, 0: none */
    struct fake_slot  *slots;      /* [num_blocks * block_size] */
    float             *rows;       /* [max_num_seqs, FAKE_VOCAB] */
    bool               lost;
    bool             (*is_done)(void *data);   /* NULL: chance */
    void              *is_done_data;
};

static void
fake_step_create(struct fake_step *step, const struct fake_model *f)
{
    const struct batch_limits  *l = &f->model.limits;

    check_eq(batch_init(&step->batch, l, NULL), OK);
    step->rows = calloc((size_t) l->max_num_seqs, sizeof *step->rows);
    step->ids = calloc((size_t) l->max_num_seqs, sizeof *step->ids);
    step->masked_ids = calloc((size_t) l->max_num_seqs,
                              GEN_STOP_IDS_MAX * sizeof *step->masked_ids);
    check(step->rows != NULL && step->ids != NULL && step->masked_ids != NULL);
}

struct model *
fake_model_create(const struct fake_options *o)
{
    struct fake_model  *f = calloc(1, sizeof *f);
    size_t              num_slots = (size_t) o->num_blocks
                                    * (size_t) o->block_size;

    check(f != NULL);
    f->slots = malloc(num_slots * sizeof *f->slots);
    f->rows = calloc((size_t) o->max_num_seqs, FAKE_VOCAB * sizeof *f->rows);
    check(f->slots != NULL && f->rows != NULL);
    memset(f->slots, 0xff, num_slots * sizeof *f->slots);
    f->model.config.vocab_size = FAKE_VOCAB;
    f->model.block_size = o->block_size;
    f->model.max_model_len = o->max_model_len;
    f->model.kv.cache.num_blocks = o->num_blocks;
    f->model.limits = (struct batch_limits) {
        .max_num_batched_tokens = o->max_num_batched_tokens,
        .max_num_seqs = o->max_num_seqs,
        .max_num_logits = o->max_num_seqs,
        .max_blocks_per_seq = (o->max_model_len + o->block_size - 1)
                              / o->block_size
    };
    f->samples = o->samples;
    f->rng = o->seed;
    f->users = calloc((size_t) o->num_blocks, sizeof *f->users);
    check(f->users != NULL);
    check_eq(sampler_create(&f->sampler, FAKE_VOCAB, NULL), OK);
    for (int i = 0; i < SAMPLES_IN_FLIGHT; i++) {
        fake_step_create(&f->steps[i], f);
    }
    return &f->model;
}

void
fake_model_destroy(struct model *m)
{
    struct fake_model  *f = (struct fake_model *) m;

    for (int i = 0; i < SAMPLES_IN_FLIGHT; i++) {
        batch_destroy(&f->steps[i].batch);
        free(f->steps[i].rows);
        free(f->steps[i].ids);
        free(f->steps[i].masked_ids);
    }
    sampler_destroy(f->sampler);
    free(f->users);
    free(f->slots);
    free(f->rows);
    free(f);
}

void
fake_model_lose(struct model *m)
{
    ((struct fake_model *) m)->lost = true;
}

void
fake_model_ask(struct model *m, bool (*is_done)(void *data), void *data)
{
    struct fake_model  *f = (struct fake_model *) m;

    f->is_done = is_done;
    f->is_done_data = data;
}

/* Order matters, and so does every token. */
static uint64_t
context_add(uint64_t context, int32_t token_id, int32_t position)
{
    return hash_mix64(context ^ ((uint64_t) (uint32_t) token_id << 32
                                 | (uint32_t) position)) + 1;
}

static void
context_logits(uint64_t context, bool is_nan, float *logits)
{
    for (uint64_t i = 0; i < FAKE_VOCAB; i++) {
        uint64_t  bits = hash_mix64(context + i * 0x9e3779b97f4a7c15ULL);
        logits[i] = (float) (bits >> 40) * 0x1p-22f;
    }
    logits[FAKE_NAN_ID] = is_nan ? NAN : -INFINITY;
}

/* The logits of the last position of a sequence, read through its table. */
static void
fake_row(const struct fake_model *f, const struct batch *b, int seq_idx,
         float *logits)
{
    const int32_t  *table = b->block_tables
                            + (int64_t) seq_idx * b->limits.max_blocks_per_seq;
    int             block_size = f->model.block_size;
    uint64_t        context = 1;
    bool            is_nan = false;

    for (int p = 0; p < b->context_lens[seq_idx]; p++) {
        int32_t                  block_id = table[p / block_size];
        check_lt(0, block_id);
        check_lt(block_id, f->model.kv.cache.num_blocks);
        const struct fake_slot  *slot =
            &f->slots[block_id * block_size + p % block_size];
        check_eq(slot->position, p);
        context = context_add(context, slot->token_id, p);
        is_nan |= slot->token_id == FAKE_NAN_ID;
    }
    context_logits(context, is_nan, logits);
}

static void
fake_forward(struct fake_model *f, const struct batch *b)
{
    int  num_rows = 0;

    for (int row = 0; row < b->num_tokens; row++) {
        struct fake_slot  *slot = &f->slots[b->slot_mapping[row]];
        check_le(f->model.block_size, b->slot_mapping[row]);   /* not null */
        check_le(0, b->input_ids[row]);
        check_lt(b->input_ids[row], FAKE_VOCAB);
        *slot = (struct fake_slot) { b->input_ids[row], b->positions[row] };
    }
    for (int s = 0; s < b->num_seqs; s++) {
        int  last_row = b->cu_seqlens_q[s + 1] - 1;
        check_eq(b->positions[last_row], b->context_lens[s] - 1);
        if (num_rows < b->num_logits && b->logits_idx[num_rows] == last_row) {
            fake_row(f, b, s, f->rows + (size_t) num_rows * FAKE_VOCAB);
            num_rows++;
        }
    }
    check_eq(num_rows, b->num_logits);
}

int
model_forward(struct model *m, const struct batch *b, const float **logits,
              struct err *err)
{
    struct fake_model  *f = (struct fake_model *) m;

    if (f->lost) {
        return err_set(err, "the device is lost");
    }
    fake_forward(f, b);
    *logits = f->rows;
    return OK;
}

/* ---- the device ---- */

static struct fake_step *
fake_step(struct fake_model *f, uint64_t num)
{
    return &f->steps[num % SAMPLES_IN_FLIGHT];
}

static int
fake_num_blocks(const struct fake_model *f, const struct batch *b, int s)
{
    return (b->context_lens[s] + f->model.block_size - 1)
           / f->model.block_size;
}

/* Blocks that both steps use must stand at the same place of the tables of
 * one sequence, which goes on where the first step leaves it. */
static void
fake_check_blocks(struct fake_model *f, const struct batch *before,
                  const struct batch *b)
{
    size_t  num_blocks = (size_t) f->model.kv.cache.num_blocks;

    memset(f->users, 0, num_blocks * sizeof *f->users);
    for (int s = 0; s < before->num_seqs; s++) {
        const int32_t  *table = batch_block_table((struct batch *) before, s);
        for (int i = 0; i < fake_num_blocks(f, before, s); i++) {
            check_eq(f->users[table[i]], 0);         /* two of one step */
            f->users[table[i]] = s + 1;
        }
    }
    for (int s = 0; s < b->num_seqs; s++) {
        const int32_t  *table = batch_block_table((struct batch *) b, s);
        for (int i = 0; i < fake_num_blocks(f, b, s); i++) {
            int  user = f->users[table[i]] - 1;
            if (user >= 0) {
                check_eq(batch_block_table((struct batch *) before, user)[i],
                         table[i]);
                check_eq(b->positions[b->cu_seqlens_q[s]],
                         before->context_lens[user]);
            }
        }
    }
}

static void
fake_copy(struct batch *to, const struct batch *b)
{
    size_t  tokens = (size_t) b->num_tokens, seqs = (size_t) b->num_seqs;

    to->num_tokens = b->num_tokens;
    to->num_seqs = b->num_seqs;
    to->num_logits = b->num_logits;
    memcpy(to->input_ids, b->input_ids, tokens * sizeof *to->input_ids);
    memcpy(to->positions, b->positions, tokens * sizeof *to->positions);
    memcpy(to->slot_mapping, b->slot_mapping,
           tokens * sizeof *to->slot_mapping);
    memcpy(to->cu_seqlens_q, b->cu_seqlens_q,
           (seqs + 1) * sizeof *to->cu_seqlens_q);
    memcpy(to->context_lens, b->context_lens, seqs * sizeof *to->context_lens);
    memcpy(to->logits_idx, b->logits_idx,
           (size_t) b->num_logits * sizeof *to->logits_idx);
    memcpy(to->block_tables, b->block_tables,
           seqs * (size_t) b->limits.max_blocks_per_seq
           * sizeof *to->block_tables);
}

/* What the device does when it comes to the step. */
static void
fake_run(struct fake_model *f, struct fake_step *step)
{
    for (int i = 0; i < step->batch.num_tokens; i++) {
        int32_t  *id = &step->batch.input_ids[i];
        if (*id < 0) {
            *id = fake_step(f, f->num_run - 1)->ids[INPUT_SAMPLED(*id)];
            *id = *id < 0 ? 0 : *id;
        }
    }
    fake_forward(f, &step->batch);
    for (int i = 0; i < step->num_rows; i++) {
        const struct sample_row  *row = &step->rows[i];
        struct sampling_params    params = {
            row->temperature, row->top_p, row->min_p, row->top_k, row->seed
        };
        step->ids[i] = sampler_sample(
            f->sampler, f->rows + (size_t) i * FAKE_VOCAB,
            &(struct sampler_row) { .params = &params,
                .position = row->position, .masked_ids = row->masked_ids,
                .num_masked = row->num_masked });
    }
}

static void
fake_run_until(struct fake_model *f, uint64_t num)
{
    while (f->num_run < num) {
        fake_run(f, fake_step(f, f->num_run));
        f->num_run++;
    }
}

/* Perhaps some of what it may run by now. */
static void
fake_run_some(struct fake_model *f, uint64_t num)
{
    f->rng += 0x9e3779b97f4a7c15ULL;
    if (f->num_run < num && hash_mix64(f->rng) % 3 == 0) {
        fake_run_until(f, f->num_run + 1);
    }
}

void
model_issue(struct model *m, const struct batch *b)
{
    struct fake_model  *f = (struct fake_model *) m;

    check_lt(f->num_issued - f->num_done, SAMPLES_IN_FLIGHT);
    if (f->num_issued > f->num_done) {
        struct fake_step  *before = fake_step(f, f->num_issued - 1);
        check_eq(before->num_rows, before->batch.num_logits);
        fake_check_blocks(f, &before->batch, b);
    }
    for (int i = 0; i < b->num_tokens; i++) {
        if (b->input_ids[i] < 0) {           /* not collected yet, and made */
            check_lt(f->num_done, f->num_issued);
            check_lt(INPUT_SAMPLED(b->input_ids[i]),
                     fake_step(f, f->num_issued - 1)->num_rows);
        }
    }
    struct fake_step  *step = fake_step(f, f->num_issued);
    fake_run_some(f, f->num_issued);
    fake_copy(&step->batch, b);
    step->num_rows = NOT_SAMPLED;
    f->num_issued++;
}

bool
model_samples(const struct model *m)
{
    return ((const struct fake_model *) m)->samples;
}

void
model_sample(struct model *m, const struct sample_row *rows, int num_rows)
{
    struct fake_model  *f = (struct fake_model *) m;
    struct fake_step   *step = fake_step(f, f->num_issued - 1);

    check_eq(num_rows, step->batch.num_logits);
    check_eq(step->num_rows, NOT_SAMPLED);
    step->num_rows = num_rows;
    for (int i = 0; i < num_rows; i++) {
        int32_t  *masked = step->masked_ids + i * GEN_STOP_IDS_MAX;
        step->rows[i] = rows[i];
        memcpy(masked, rows[i].masked_ids,
               (size_t) rows[i].num_masked * sizeof *masked);
        step->rows[i].masked_ids = masked;
    }
    fake_run_some(f, f->num_issued);
}

int
model_sampled(struct model *m, int32_t *token_ids, struct err *err)
{
    struct fake_model  *f = (struct fake_model *) m;
    struct fake_step   *step = fake_step(f, f->num_done);

    check_lt(f->num_done, f->num_issued);
    check_le(0, step->num_rows);
    if (f->lost) {
        return err_set(err, "the device is lost");
    }
    fake_run_until(f, ++f->num_done);
    memcpy(token_ids, step->ids, (size_t) step->num_rows * sizeof *token_ids);
    return OK;
}

/* Time passes while one asks. */
bool
model_sample_is_done(const struct model *m)
{
    struct fake_model  *f = (struct fake_model *) (uintptr_t) m;

    if (f->is_done == NULL) {
        fake_run_some(f, f->num_issued);
    } else if (f->is_done(f->is_done_data)) {
        fake_run_until(f, f->num_done + 1);
    }
    return !f->samples || f->num_run > f->num_done;
}

void
model_time_steps(struct model *m)
{
    (void) m;
}

/* Numbers to find in a trace again. */
bool
model_step_time(struct model *m, struct step_time *out)
{
    const struct fake_model  *f = (const struct fake_model *) m;

    *out = (struct step_time) { (int64_t) f->num_done, 1000 };
    return f->samples;
}

int32_t
fake_model_expect(const struct gen_request *req, int32_t *out,
                  enum finish_reason *reason)
{
    struct sampler  *sampler;
    float            logits[FAKE_VOCAB];
    uint64_t         context = 1;
    bool             is_nan = false;
    int32_t          num = 0;

    check_eq(sampler_create(&sampler, FAKE_VOCAB, NULL), OK);
    for (int32_t p = 0; p < req->num_prompt_tokens; p++) {
        context = context_add(context, req->token_ids[p], p);
        is_nan |= req->token_ids[p] == FAKE_NAN_ID;
    }
    *reason = FINISH_NONE;
    while (*reason == FINISH_NONE) {
        int32_t  position = req->num_prompt_tokens + num;
        context_logits(context, is_nan, logits);
        int32_t  id = sampler_sample(sampler, logits, &(struct sampler_row) {
            .params = &req->sampling, .position = position,
            .masked_ids = req->stop_ids,
            .num_masked = num < req->min_tokens ? req->num_stop_ids : 0 });
        if (id == SAMPLER_NUMERIC_ERROR) {
            *reason = FINISH_NUMERIC_ERROR;
            break;
        }
        out[num++] = id;
        context = context_add(context, id, position);
        for (int32_t i = 0; i < req->num_stop_ids; i++) {
            if (id == req->stop_ids[i]) {
                *reason = FINISH_STOP;
            }
        }
        if (*reason == FINISH_NONE && num == req->max_tokens) {
            *reason = FINISH_LENGTH;
        }
    }
    sampler_destroy(sampler);
    return num;
}
