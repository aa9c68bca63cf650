/* random_steps.c - see random_steps.h. */
#include "tests/sim/cuda/random_steps.h"
#include "engine/base/check.h"
#include "tests/sim/cuda/fake_cuda.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#define MASKED_MAX    40
#define COPIES_MAX    5
#define UNSAMPLED_MAX 3
#define NEAR          40        /* positions that are near the longest */
#define SHORT         50

/* One that has been issued. */
struct flight {
    uint64_t  sample;           /* number of its launch */
    int       num_rows;
};

struct walk {
    struct model      *m;
    uint64_t           rng;
    struct batch       batch;
    int32_t           *tokens, *table, *ids;
    struct sample_row *rows;
    int32_t            masked[MASKED_MAX];
    int                num_sampled;      /* rows of the last sample() */
    struct flight      flights[SAMPLES_IN_FLIGHT];
    unsigned int       issued, collected;
};

/* ---- a batch ---------------------------------------------------------------------- */

enum lengths { NEAR_END, ANY, SHORT_ONES, ALL_ALIKE, FEW_LONG, LENGTHS };

static int
random_position(struct walk *w, enum lengths lengths)
{
    int  len = w->m->max_model_len, near = len < NEAR ? len : NEAR;
    int  few = len < SHORT ? len : SHORT;
    switch (lengths) {
    case NEAR_END:
        return len - 1 - fake_random(&w->rng, near);
    case ANY:
        return fake_random(&w->rng, len);
    case ALL_ALIKE:
        return (len - 1) / 2;
    case FEW_LONG:
        if (fake_random(&w->rng, 50) == 0) {
            return fake_random(&w->rng, len);
        }
        break;
    case SHORT_ONES:
    case LENGTHS:
        break;
    }
    return fake_random(&w->rng, few);
}

/* Blocks that no other sequence near it has. */
static void
random_table(struct walk *w, int seq, int len)
{
    int  block_size = w->m->block_size;
    int  most = w->m->kv.cache.num_blocks - 1;
    for (int i = 0; i * block_size < len; i++) {
        w->table[i] = 1 + (seq * 7919 + i) % most;
    }
}

static void
add_seq(struct walk *w, enum lengths lengths, int len_max, bool wants_logits)
{
    struct batch  *b = &w->batch;
    int  position = random_position(w, lengths);
    int  room = w->m->max_model_len - position;
    int  len = 1 + fake_random(&w->rng, len_max < room ? len_max : room);
    random_table(w, b->num_seqs, position + len);
    for (int i = 0; i < len; i++) {
        w->tokens[i] = w->num_sampled > 0 && fake_random(&w->rng, 3) == 0
                       ? INPUT_SAMPLED(fake_random(&w->rng, w->num_sampled))
                       : fake_random(&w->rng, w->m->config.vocab_size);
    }
    (void) batch_append(b, &(struct batch_seq) {
        .token_ids = w->tokens, .query_len = len, .position = position,
        .block_ids = w->table, .block_size = w->m->block_size,
        .num_logits = wants_logits
                      && b->num_logits < w->m->limits.max_num_logits });
}

static void
random_batch(struct walk *w)
{
    const struct batch_limits  *l = &w->m->limits;
    enum lengths  lengths = (enum lengths) fake_random(&w->rng, LENGTHS);
    bool          mixed = fake_random(&w->rng, 3) == 0;
    int           few = l->max_num_seqs < 8 ? l->max_num_seqs : 8, num;
    switch (fake_random(&w->rng, 4)) {
    case 0:
        num = l->max_num_seqs;
        break;
    case 1:
        num = 1 + fake_random(&w->rng, l->max_num_seqs);
        break;
    default:
        num = 1 + fake_random(&w->rng, few);
    }
    batch_reset(&w->batch);
    while (w->batch.num_seqs < num
           && w->batch.num_tokens < l->max_num_batched_tokens)
    {
        int   left = l->max_num_batched_tokens - w->batch.num_tokens;
        bool  prompt = mixed && fake_random(&w->rng, 4) == 0;
        add_seq(w, lengths, prompt ? left : 1,
                !mixed || fake_random(&w->rng, 2) == 0);
    }
}

/* ---- sampling ------------------------------------------------------------------------ */

static void
random_rows(struct walk *w)
{
    for (int i = 0; i < MASKED_MAX; i++) {
        w->masked[i] = fake_random(&w->rng, w->m->config.vocab_size);
    }
    for (int i = 0; i < w->batch.num_logits; i++) {
        bool  hot = fake_random(&w->rng, 200) == 0;
        w->rows[i] = (struct sample_row) {
            .temperature = hot ? 1e31f : (float) fake_random(&w->rng, 2),
            .top_p = fake_random(&w->rng, 2) ? 1.0f : 0.9f,
            .top_k = fake_random(&w->rng, 2) * fake_random(&w->rng, 100),
            .seed = (uint64_t) i, .position = w->issued,
            .masked_ids = w->masked,
            .num_masked = fake_random(&w->rng, 3) == 0
                          ? fake_random(&w->rng, MASKED_MAX + 1) : 0 };
    }
}

static void
issue(struct walk *w)
{
    int  num = w->batch.num_logits;
    model_issue(w->m, &w->batch);
    model_sample(w->m, w->rows, num);
    w->flights[w->issued++ % SAMPLES_IN_FLIGHT] = (struct flight) {
        .sample = fake_cuda_samples() - 1, .num_rows = num };
    w->num_sampled = num;
}

static int
collect(struct walk *w, struct err *err)
{
    const struct flight  *f = &w->flights[w->collected++ % SAMPLES_IN_FLIGHT];
    struct step_time      time;
    while (fake_random(&w->rng, 2) == 0 && !model_sample_is_done(w->m)) {
    }
    if (model_sampled(w->m, w->ids, err) != OK) {
        return ERROR;
    }
    for (int i = 0; i < f->num_rows; i++) {
        assert_int_equal(w->ids[i],
                         fake_cuda_sampled_id(f->sample, i,
                                              w->m->config.vocab_size));
    }
    (void) model_step_time(w->m, &time);
    return OK;
}

static void
copy_some(struct walk *w)
{
    struct block_copy  copies[COPIES_MAX];
    int                most = (w->m->kv.cache.num_blocks - 1) / 2;
    for (int i = 0; i < COPIES_MAX; i++) {
        copies[i] = (struct block_copy) {
            1 + fake_random(&w->rng, most),
            1 + most + fake_random(&w->rng, most) };
    }
    w->m->be->ops->copy_blocks(w->m->be, &w->m->kv.cache, copies, COPIES_MAX);
}

/* ---- the walk -------------------------------------------------------------------------- */

/* Steps whose logits nobody wants; nothing waits for them. */
static void
issue_unsampled(struct walk *w)
{
    for (int i = 1 + fake_random(&w->rng, UNSAMPLED_MAX); i > 0; i--) {
        random_batch(w);
        model_issue(w->m, &w->batch);
    }
}

static int
take_steps(struct walk *w, int num_steps, struct err *err)
{
    while (w->issued < (unsigned int) num_steps) {
        if (fake_random(&w->rng, 10) == 0) {
            issue_unsampled(w);
        }
        random_batch(w);
        random_rows(w);
        issue(w);
        if (fake_random(&w->rng, 10) == 0) {
            copy_some(w);
        }
        int  ahead = fake_random(&w->rng, SAMPLES_IN_FLIGHT);
        while (w->issued - w->collected > (unsigned int) ahead) {
            if (collect(w, err) != OK) {
                return ERROR;
            }
        }
    }
    while (w->issued != w->collected) {
        if (collect(w, err) != OK) {
            return ERROR;
        }
    }
    return OK;
}

int
random_steps(struct model *m, int num_steps, uint64_t seed, struct err *err)
{
    const struct batch_limits  *l = &m->limits;
    struct walk  w = {
        .m = m, .rng = seed,
        .tokens = calloc((size_t) l->max_num_batched_tokens, sizeof *w.tokens),
        .table = calloc((size_t) l->max_blocks_per_seq, sizeof *w.table),
        .ids = calloc((size_t) l->max_num_logits, sizeof *w.ids),
        .rows = calloc((size_t) l->max_num_logits, sizeof *w.rows) };
    check(w.tokens != NULL && w.table != NULL && w.ids != NULL
          && w.rows != NULL);
    int  rc = batch_init(&w.batch, l, err);
    if (rc == OK) {
        rc = take_steps(&w, num_steps, err);
    }
    batch_destroy(&w.batch);
    free(w.tokens);
    free(w.table);
    free(w.ids);
    free(w.rows);
    return rc;
}
