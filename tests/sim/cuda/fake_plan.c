/* fake_plan.c - work lists of attention: every key of every row is in one item. */
#include "tests/sim/cuda/fake_gpu.h"

#include <stdlib.h>
#include <string.h>

/* ---- decode ---------------------------------------------------------------------- */

/* As items of one kv head that stands for all. */
struct decode_item *
fake_items_of(const struct attention_item *items, int num)
{
    struct decode_item  *out = calloc((size_t) num + 1, sizeof *out);
    FAKE_CHECK(out != NULL);
    for (int i = 0; i < num; i++) {
        const struct attention_item  *it = &items[i];
        FAKE_CHECK(it->num_rows == 1);
        out[i] = (struct decode_item) {
            .seq = it->seq, .table = it->table, .row = it->row,
            .position = it->position, .key_begin = it->key_begin,
            .key_end = it->key_end, .partial = it->partial, .part = it->part,
            .num_parts = it->num_parts };
    }
    return out;
}

static int
by_row_and_part(const void *a, const void *b)
{
    const struct decode_item  *x = a, *y = b;
    return x->seq != y->seq ? (x->seq < y->seq ? -1 : 1)
           : x->kv_head != y->kv_head ? (x->kv_head < y->kv_head ? -1 : 1)
           : (x->part > y->part) - (x->part < y->part);
}

/* A place that no other item of the launch has. */
static void
take_partial(const struct fake_work *w, int64_t place)
{
    FAKE_CHECK(place >= 0);
    size_t  at = (size_t) place, end = (at + 1) * (size_t) w->partial_heads;
    (void) fake_at(w->partial_out, end * (size_t) w->head_dim
                                   * sizeof *w->partial_out, "partial_out");
    (void) fake_at(w->partial_ml, end * 2 * sizeof *w->partial_ml,
                   "partial_ml");
    if (at >= fake.partials_max) {
        size_t          max = 2 * at + 64;
        unsigned char  *seen = realloc(fake.partial_seen, max);
        FAKE_CHECK(seen != NULL);
        memset(seen + fake.partials_max, 0, max - fake.partials_max);
        fake.partial_seen = seen;
        fake.partials_max = max;
    }
    if (fake.partial_seen[at]) {
        fake_fault("decode: two items have partial result %zu", at);
    }
    fake.partial_seen[at] = 1;
}

/* The parts of one row and kv head, from w->items[at] on; their number. */
static int
check_parts(const struct fake_work *w, int at)
{
    const struct fake_step    *s = fake_step_of();
    const struct decode_item  *first = &w->items[at];
    int                        key = 0;
    FAKE_CHECK(first->seq >= 0 && first->seq < s->num_seqs
               && first->kv_head >= 0 && first->kv_head < w->heads
               && first->num_parts >= 1
               && first->num_parts <= w->num - at);
    for (int i = 0; i < first->num_parts; i++) {
        const struct decode_item  *it = &first[i];
        if (it->seq != first->seq || it->kv_head != first->kv_head
            || it->part != i || it->num_parts != first->num_parts
            || it->row != first->row || it->table != first->table
            || it->position != first->position
            || it->partial != first->partial || it->key_begin != key
            || it->key_end <= key || it->key_begin % w->tile != 0)
        {
            fake_fault("decode: sequence %d, kv head %d: part %d of %d has "
                       "keys %d .. %d, after key %d", first->seq,
                       first->kv_head, it->part, first->num_parts,
                       it->key_begin, it->key_end, key);
        }
        key = it->key_end;
        if (w->all_partial || first->num_parts > 1) {
            take_partial(w, (int64_t) it->partial + i);
        }
    }
    if (key != s->context_lens[first->seq] || first->position != key - 1
        || first->row != s->cu_seqlens_q[first->seq])
    {
        fake_fault("decode: sequence %d, row %d of %d keys: row %d, position "
                   "%d, keys end with %d", first->seq,
                   s->cu_seqlens_q[first->seq], s->context_lens[first->seq],
                   first->row, first->position, key);
    }
    return first->num_parts;
}

static int
query_len(const struct fake_step *s, int seq)
{
    return s->cu_seqlens_q[seq + 1] - s->cu_seqlens_q[seq];
}

void
fake_check_decode(const struct fake_work *w)
{
    struct fake_step  *s = fake_step_of();
    qsort(w->items, (size_t) w->num, sizeof *w->items, by_row_and_part);
    memset(s->seen, 0, (size_t) s->num_tokens * (size_t) w->heads);
    if (fake.partials_max > 0) {
        memset(fake.partial_seen, 0, fake.partials_max);
    }
    for (int at = 0; at < w->num; ) {
        const struct decode_item  *it = &w->items[at];
        at += check_parts(w, at);
        fake_check_table(w->block_tables, it->seq, it->table);
        s->seen[it->row * w->heads + it->kv_head]++;
    }
    for (int seq = 0; seq < s->num_seqs; seq++) {
        int  row = s->cu_seqlens_q[seq], want = query_len(s, seq) == 1;
        for (int head = 0; head < w->heads; head++) {
            int  times = s->seen[row * w->heads + head];
            if (times != want) {
                fake_fault("decode: sequence %d of %d rows, kv head %d: %d "
                           "times in the work list", seq, query_len(s, seq),
                           head, times);
            }
        }
        if (want) {
            w->row(w->data, row);
        }
    }
}

/* ---- prefill --------------------------------------------------------------------------- */

static void
see_rows(struct fake_step *s, const struct attention_item *it)
{
    FAKE_CHECK(it->seq >= 0 && it->seq < s->num_seqs);
    int  begin = s->cu_seqlens_q[it->seq], end = s->cu_seqlens_q[it->seq + 1];
    FAKE_CHECK(it->num_rows >= 1 && it->num_rows <= ATTENTION_ROWS
               && it->row >= begin && it->row + it->num_rows <= end);
    FAKE_CHECK(it->position == s->positions[it->row]);
    for (int i = 0; i < it->num_rows; i++) {
        s->seen[it->row + i]++;
    }
}

void
fake_check_prefill(const struct attention_params *p)
{
    struct fake_step             *s = fake_step_of();
    const struct attention_item  *items = fake_at(
        p->items, (size_t) p->num * sizeof *items, "prefill: items");
    memset(s->seen, 0, (size_t) s->num_tokens);
    for (int i = 0; i < p->num; i++) {
        see_rows(s, &items[i]);
        fake_check_table(p->block_tables, items[i].seq, items[i].table);
    }
    for (int row = 0; row < s->num_tokens; row++) {
        int  want = query_len(s, s->seq_of[row]) > 1;
        if (s->seen[row] != want) {
            fake_fault("prefill: row %d of sequence %d: %d times in the work "
                       "list", row, s->seq_of[row], s->seen[row]);
        }
    }
}
