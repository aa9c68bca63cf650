/* warm_up.c - steps without content before the first request: the longest
 * prompt and every number of rows below, then every number of decoding
 * sequences, that a backend may treat in a way of its own.
 *
 * Nothing is written to the cache (SLOT_PADDING); every table names block 1,
 * whose content is undefined, so the results are too, and are thrown away. */
#include "engine/model/batch.h"
#include "engine/model/model.h"

#define TIMES      3      /* choose, record, run */
#define FINE_STEP  8      /* all multiples of it are run up to FINE_MAX */
#define FINE_MAX   256
#define WIDE_STEP  64     /* and of this from there */

struct warm_up {
    struct model      *m;
    struct batch       batch;
    struct sample_row  greedy;
    int32_t           *ids;       /* [max_num_logits] */
};

static void
add_seq(struct warm_up *w, int num_tokens)
{
    struct batch  *b = &w->batch;
    int            s = b->num_seqs, first = b->num_tokens;
    int            block_size = w->m->block_size;

    for (int i = 0; i < num_tokens; i++) {
        b->input_ids[first + i] = 0;
        b->positions[first + i] = i;
        b->slot_mapping[first + i] = SLOT_PADDING;
    }
    for (int i = 0; i * block_size < num_tokens; i++) {
        batch_block_table(b, s)[i] = 1;
    }
    b->context_lens[s] = num_tokens;
    b->logits_idx[b->num_logits++] = first + num_tokens - 1;
    b->num_tokens += num_tokens;
    b->num_seqs++;
    b->cu_seqlens_q[b->num_seqs] = b->num_tokens;
}

static int
run(struct warm_up *w, struct err *err)
{
    struct model      *m = w->m;
    struct sample_row  rows[FINE_MAX];
    int                num = w->batch.num_logits;

    model_issue(m, &w->batch);
    if (!model_samples(m)) {
        return model_sync(m, err);
    }
    num = num < FINE_MAX ? num : FINE_MAX;
    for (int i = 0; i < num; i++) {
        rows[i] = w->greedy;
    }
    model_sample(m, rows, num);
    return model_sampled(m, w->ids, err);
}

static int
run_decode(struct warm_up *w, int num_seqs, struct err *err)
{
    batch_reset(&w->batch);
    for (int i = 0; i < num_seqs; i++) {
        add_seq(w, 1);
    }
    for (int i = 0; i < TIMES; i++) {
        if (run(w, err) != OK) {
            return ERROR;
        }
    }
    return OK;
}

static int
next_size(int num_seqs, int max)
{
    int  next = num_seqs < FINE_STEP ? num_seqs * 2
                : num_seqs < FINE_MAX ? num_seqs + FINE_STEP
                                      : num_seqs + WIDE_STEP;
    return next > max && num_seqs < max ? max : next;
}

static int
run_prompt(struct warm_up *w, int num_tokens, struct err *err)
{
    batch_reset(&w->batch);
    add_seq(w, num_tokens);
    return run(w, err);
}

/* 3 * 2^n and 2^n: products of more rows than decode steps have are chosen for
 * those, and the first mixed steps shall not wait for it. */
static int
run_prompts(struct warm_up *w, int longest, struct err *err)
{
    if (run_prompt(w, longest, err) != OK) {
        return ERROR;
    }
    for (int n = FINE_MAX; n + n / 2 < longest; n *= 2) {
        if (run_prompt(w, n + n / 2, err) != OK
            || (2 * n < longest && run_prompt(w, 2 * n, err) != OK))
        {
            return ERROR;
        }
    }
    return OK;
}

static int
run_all(struct warm_up *w, struct err *err)
{
    const struct batch_limits  *l = &w->m->limits;
    int  prompt = l->max_num_batched_tokens;
    int  seqs = l->max_num_seqs < l->max_num_logits ? l->max_num_seqs
                                                    : l->max_num_logits;
    prompt = prompt < w->m->max_model_len ? prompt : w->m->max_model_len;
    seqs = seqs < l->max_num_batched_tokens ? seqs : l->max_num_batched_tokens;
    if (run_prompts(w, prompt, err) != OK) {
        return ERROR;
    }
    for (int n = 1; n <= seqs; n = next_size(n, seqs)) {
        if (run_decode(w, n, err) != OK) {
            return ERROR;
        }
    }
    return OK;
}

int
model_warm_up(struct model *m, struct err *err)
{
    struct warm_up  w = { .m = m, .greedy = { .top_p = 1 } };

    if (m->be->ops->host_memory) {
        return OK;
    }
    if (batch_init(&w.batch, &m->limits, err) != OK) {
        return ERROR;
    }
    int32_t  ids[FINE_MAX];
    w.ids = ids;
    int  rc = run_all(&w, err);
    batch_destroy(&w.batch);
    return rc;
}
