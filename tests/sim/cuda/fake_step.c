/* fake_step.c - a step as the backend was given it, and what the device has.
 *
 * step_begin() is watched; steps wait here until unpack runs, and the running
 * one is what kernels are checked against. */
#include "tests/sim/cuda/fake_gpu.h"

#include <stdlib.h>
#include <string.h>

/* ---- watching -------------------------------------------------------------------- */

static int32_t *
copy_of(const int32_t *src, int num)
{
    int32_t  *out = malloc(((size_t) num + 1) * sizeof *out);
    FAKE_CHECK(out != NULL);
    memcpy(out, src, (size_t) num * sizeof *out);
    return out;
}

static void
copy_tables(struct fake_step *s, const struct step_inputs *in)
{
    s->blocks = calloc((size_t) s->num_seqs, sizeof *s->blocks);
    s->tables = malloc((size_t) s->num_seqs * sizeof *s->tables);
    s->seq_of = malloc((size_t) s->num_tokens * sizeof *s->seq_of);
    FAKE_CHECK(s->blocks != NULL && s->tables != NULL && s->seq_of != NULL);
    for (int i = 0; i < s->num_seqs; i++) {
        int  num = (in->context_lens[i] + fake.kv.block_size - 1)
                   / fake.kv.block_size;
        s->blocks[i] = copy_of(in->block_tables
                               + (size_t) i * (size_t) in->max_blocks_per_seq,
                               num);
        s->tables[i] = -1;
        for (int row = in->cu_seqlens_q[i]; row < in->cu_seqlens_q[i + 1];
             row++)
        {
            s->seq_of[row] = i;
        }
    }
}

static enum step_action
watch_step_begin(struct backend *be, const struct step_inputs *in)
{
    struct fake_step  *s = calloc(1, sizeof *s);
    FAKE_CHECK(s != NULL);
    s->num_tokens = in->num_tokens;
    s->num_seqs = in->num_seqs;
    s->num_logits = in->num_logits;
    s->ids = copy_of(in->input_ids, in->num_tokens);
    s->positions = copy_of(in->positions, in->num_tokens);
    s->slots = copy_of(in->slot_mapping, in->num_tokens);
    s->cu_seqlens_q = copy_of(in->cu_seqlens_q, in->num_seqs + 1);
    s->context_lens = copy_of(in->context_lens, in->num_seqs);
    s->logits_idx = copy_of(in->logits_idx, in->num_logits);
    s->seen = malloc((size_t) in->num_tokens
                     * (size_t) fake.kv.num_kv_heads);
    FAKE_CHECK(s->seen != NULL);
    copy_tables(s, in);
    if (fake.last != NULL) {
        fake.last->next = s;
    } else {
        fake.steps = s;
    }
    fake.last = s;
    return fake.watched->step_begin(be, in);
}

void
fake_cuda_watch(struct backend *be, const struct kv_cache *kv)
{
    fake.watched = be->ops;
    fake.ops = *be->ops;
    fake.ops.step_begin = watch_step_begin;
    fake.kv = *kv;
    be->ops = &fake.ops;
}

/* ---- one after the other --------------------------------------------------------------- */

static void
step_free(struct fake_step *s)
{
    int32_t *const  all[] = { s->ids, s->positions, s->slots, s->seq_of,
                              s->cu_seqlens_q, s->context_lens, s->logits_idx,
                              s->tables };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i]);
    }
    for (int i = 0; i < s->num_seqs; i++) {
        free(s->blocks[i]);
    }
    free(s->blocks);
    free(s->seen);
    free(s);
}

static void
drop_first(void)
{
    struct fake_step  *s = fake.steps;
    fake.steps = s->next;
    fake.last = fake.steps == NULL ? NULL : fake.last;
    fake.running = false;
    step_free(s);
}

/* All rows have been through the attention of all layers, unless a call that was
 * to fail has. */
void
fake_step_finish(void)
{
    const struct fake_step  *s = fake.steps;
    int64_t                  rows;
    if (!fake.running) {
        return;
    }
    rows = (int64_t) s->num_tokens * fake.kv.num_layers;
    if (!fake.failed && (s->attended != rows || s->roped != rows))
    {
        fake_fault("a step of %d rows and %d layers: %lld rows had rope, %lld "
                   "attention", s->num_tokens, fake.kv.num_layers,
                   (long long) s->roped, (long long) s->attended);
    }
    drop_first();
}

struct fake_step *
fake_step_of(void)
{
    FAKE_CHECK(fake.running);
    return fake.steps;
}

void
fake_step_run(const int32_t *ids)
{
    fake_step_finish();
    FAKE_CHECK(fake.steps != NULL);
    fake.running = true;
    for (int row = 0; row < fake.steps->num_tokens; row++) {
        int32_t  *id = &fake.steps->ids[row];
        if (*id < 0) {
            FAKE_CHECK(-1 - *id < fake.num_sampled);
            *id = fake.sampled[-1 - *id];
        }
    }
    fake_check_ids(ids, fake.steps->num_tokens);
}

void
fake_steps_drop(void)
{
    while (fake.steps != NULL) {
        drop_first();
    }
    free(fake.sampled);
    free(fake.partial_seen);
    fake.sampled = NULL;
    fake.partial_seen = NULL;
    fake.num_sampled = 0;
    fake.partials_max = 0;
}

/* ---- what kernels read --------------------------------------------------------------- */

static void
check_rows(const char *what, const int32_t *have, const int32_t *want, int num,
           int want_num)
{
    FAKE_CHECK(num >= want_num);
    for (int i = 0; i < want_num; i++) {
        if (have[i] != want[i]) {
            fake_fault("%s[%d] is %d on the device, the step's is %d", what, i,
                       have[i], want[i]);
        }
    }
}

void
fake_check_ids(const int32_t *ids, int num)
{
    const struct fake_step  *s = fake_step_of();
    check_rows("input_ids", ids, s->ids, num, s->num_tokens);
}

void
fake_check_positions(const int32_t *positions, int num)
{
    const struct fake_step  *s = fake_step_of();
    check_rows("positions", positions, s->positions, num, s->num_tokens);
}

void
fake_check_slots(const int32_t *slots, int num)
{
    const struct fake_step  *s = fake_step_of();
    check_rows("slot_mapping", slots, s->slots, num, s->num_tokens);
    for (int i = s->num_tokens; i < num; i++) {
        if (slots[i] != SLOT_PADDING) {
            fake_fault("padded row %d has slot %d", i, slots[i]);
        }
    }
}

void
fake_check_logits(const int32_t *rows, int num)
{
    const struct fake_step  *s = fake_step_of();
    check_rows("logits_idx", rows, s->logits_idx, num, s->num_logits);
}

/* The first time in a step: block for block. */
void
fake_check_table(const int32_t *block_tables, int seq, int32_t table)
{
    struct fake_step  *s = fake_step_of();
    int                num = (s->context_lens[seq] + fake.kv.block_size - 1)
                             / fake.kv.block_size;
    if (s->tables[seq] >= 0) {
        FAKE_CHECK(table == s->tables[seq]);
        return;
    }
    FAKE_CHECK(table >= 0);
    check_rows("block_tables", fake_at(block_tables + table, (size_t) num
                                       * sizeof *block_tables, "block_tables"),
               s->blocks[seq], num, num);
    s->tables[seq] = table;
}
