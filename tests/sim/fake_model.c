/* fake_model.c - tokens are a hash of the context found in the slots. */
#include "tests/sim/fake_model.h"
#include "engine/base/check.h"
#include "engine/base/hash.h"
#include "engine/sample/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct fake_slot {
    int32_t  token_id, position;
};

struct fake_model {
    struct model       model;      /* first: a struct model * is one of these */
    struct fake_slot  *slots;      /* [num_blocks * block_size] */
    float             *rows;       /* [max_num_seqs, FAKE_VOCAB] */
    bool               lost;
};

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
    return &f->model;
}

void
fake_model_destroy(struct model *m)
{
    struct fake_model  *f = (struct fake_model *) m;

    free(f->slots);
    free(f->rows);
    free(f);
}

void
fake_model_lose(struct model *m)
{
    ((struct fake_model *) m)->lost = true;
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

int
model_forward(struct model *m, const struct batch *b, const float **logits,
              struct err *err)
{
    struct fake_model  *f = (struct fake_model *) m;
    int                 num_rows = 0;

    if (f->lost) {
        return err_set(err, "the device is lost");
    }
    for (int row = 0; row < b->num_tokens; row++) {
        struct fake_slot  *slot = &f->slots[b->slot_mapping[row]];
        check_le(f->model.block_size, b->slot_mapping[row]);   /* not null */
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
    *logits = f->rows;
    return OK;
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
