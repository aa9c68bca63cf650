/* sched.c - three lists by age and the rule that moves sequences between them.
 *
 * Pure bookkeeping.  Invariant: the KV blocks a plan needs are reserved before
 * the plan is returned, so executing a plan cannot fail for lack of memory. */
#include "engine/sched/sched.h"
#include "engine/base/check.h"
#include "engine/sched/kv_blocks.h"

#include <stdlib.h>

#define MIXED_LEAST  4     /* the prompts' part of max_num_mixed_tokens, if the
                              decodes leave less */

struct sched {
    struct sched_options  options;
    int32_t               max_blocks_per_seq;
    struct kv_blocks     *kv;
    struct seq           *seqs;          /* [max_seqs] */
    int32_t              *block_tables;  /* [max_seqs, max_blocks_per_seq] */
    struct seq          **free_seqs;     /* [max_seqs], a stack */
    int32_t               num_free_seqs;
    struct seq_list       running;       /* SEQ_PREFILL and SEQ_DECODE */
    struct seq_list       waiting;
    struct seq_list       parked;
    struct seq_list       ending;
    int32_t               num_finished;  /* SEQ_FINISHED, waiting for a step */
    struct plan           plans[SCHED_STEPS_IN_FLIGHT];  /* by step number
                                            modulo its size */
    struct plan          *plan;          /* the one being made */
    int32_t               num_awaited;   /* fenced blocks that sequences sit
                                            out for */
    /* Steps are numbered from 1; done <= issued <= planned. */
    uint64_t              planned, issued, done;
    uint64_t              next_order;
    int64_t               next_deadline_ns;   /* no deadline is earlier; 0:
                                                 there is none */
    struct sched_counts   counts;        /* the num_..s that only grow */
};

static int64_t
div_ceil(int64_t n, int64_t d)
{
    return (n + d - 1) / d;
}

/* Tokens of a sequence that ever need a slot: the last one sampled is never
 * computed. */
static int64_t
sched_kv_tokens_max(int64_t num_tokens_max)
{
    return num_tokens_max - 1;
}

static int
sched_check_options(const struct sched_options *o, struct err *err)
{
    if (o->max_num_seqs < 1) {
        return err_set(err, "max_num_seqs %d, must be at least 1",
                       o->max_num_seqs);
    }
    if (o->max_num_batched_tokens < o->max_num_seqs) {
        return err_set(err, "max_num_batched_tokens %d is less than "
                       "max_num_seqs %d: a step could not take one token of "
                       "each sequence", o->max_num_batched_tokens,
                       o->max_num_seqs);
    }
    if (!o->enable_chunked_prefill
        && o->max_num_batched_tokens < o->max_model_len)
    {
        return err_set(err, "max_num_batched_tokens %d is less than "
                       "max_model_len %d: enable chunked prefill or raise it",
                       o->max_num_batched_tokens, o->max_model_len);
    }
    if (o->max_seqs < o->max_num_seqs || o->block_size < 1
        || o->max_model_len < 1 || o->max_num_mixed_tokens < 0)
    {
        return err_set(err, "max_seqs %d, block_size %d, max_model_len %d, "
                       "max_num_mixed_tokens %d: out of range",
                       o->max_seqs, o->block_size, o->max_model_len,
                       o->max_num_mixed_tokens);
    }
    return OK;
}

static bool
sched_create_plans(struct sched *s)
{
    for (size_t i = 0; i < SCHED_STEPS_IN_FLIGHT; i++) {
        struct plan  *plan = &s->plans[i];
        plan->seqs = calloc((size_t) s->options.max_num_seqs,
                            sizeof *plan->seqs);
        plan->preempted_ids = calloc((size_t) s->options.max_seqs,
                                     sizeof *plan->preempted_ids);
        if (plan->seqs == NULL || plan->preempted_ids == NULL) {
            return false;
        }
    }
    return true;
}

int
sched_create(struct sched **out, const struct sched_options *options,
             struct err *err)
{
    struct sched  *s;
    size_t         num_seqs, table_len;

    *out = NULL;
    if (sched_check_options(options, err) != OK) {
        return ERROR;
    }
    s = calloc(1, sizeof *s);
    if (s == NULL) {
        return err_set(err, "scheduler: out of memory");
    }
    s->options = *options;
    /* Those that wait for a step only to be freed do not count. */
    num_seqs = (size_t) options->max_seqs
               + SCHED_STEPS_IN_FLIGHT * (size_t) options->max_num_seqs;
    table_len = (size_t) div_ceil(options->max_model_len, options->block_size);
    s->max_blocks_per_seq = (int32_t) table_len;
    if (kv_blocks_create(&s->kv, options->num_blocks, err) != OK) {
        sched_destroy(s);
        return ERROR;
    }
    s->seqs = calloc(num_seqs, sizeof *s->seqs);
    s->free_seqs = calloc(num_seqs, sizeof *s->free_seqs);
    s->block_tables = calloc(num_seqs, table_len * sizeof *s->block_tables);
    if (s->seqs == NULL || s->free_seqs == NULL || s->block_tables == NULL
        || !sched_create_plans(s))
    {
        sched_destroy(s);
        return err_set(err, "scheduler: out of memory for %d sequences of %zu "
                       "blocks", options->max_seqs, table_len);
    }
    for (size_t i = num_seqs; i-- > 0; ) {
        s->seqs[i].block_table = s->block_tables + i * table_len;
        s->free_seqs[s->num_free_seqs++] = &s->seqs[i];
    }
    *out = s;
    return OK;
}

void
sched_destroy(struct sched *s)
{
    if (s == NULL) {
        return;
    }
    kv_blocks_destroy(s->kv);
    free(s->seqs);
    free(s->free_seqs);
    free(s->block_tables);
    for (size_t i = 0; i < SCHED_STEPS_IN_FLIGHT; i++) {
        free(s->plans[i].seqs);
        free(s->plans[i].preempted_ids);
    }
    free(s);
}

int
sched_check_fits(const struct sched *s, int64_t num_prompt_tokens,
                 int64_t max_tokens, struct err *err)
{
    const struct sched_options  *o = &s->options;
    int64_t                      num_blocks = o->num_blocks - 1;

    if (num_prompt_tokens < 1 || max_tokens < 1) {
        return err_set_http(err, 400, "max_tokens", "%lld prompt tokens and "
                            "max_tokens %lld: both must be at least 1",
                            (long long) num_prompt_tokens,
                            (long long) max_tokens);
    }
    if (num_prompt_tokens >= o->max_model_len
        || max_tokens > o->max_model_len - num_prompt_tokens)
    {
        return err_set_http(err, 400, "max_tokens", "%lld prompt tokens and "
                            "max_tokens %lld exceed max_model_len %d; shorten "
                            "the prompt or lower max_tokens",
                            (long long) num_prompt_tokens,
                            (long long) max_tokens, o->max_model_len);
    }
    if (div_ceil(sched_kv_tokens_max(num_prompt_tokens + max_tokens),
                 o->block_size) > num_blocks)
    {
        return err_set_http(err, 400, "max_tokens", "%lld prompt tokens and "
                            "max_tokens %lld exceed the KV cache of %lld "
                            "tokens (%lld blocks of %d); shorten the prompt or "
                            "lower max_tokens", (long long) num_prompt_tokens,
                            (long long) max_tokens,
                            (long long) (num_blocks * o->block_size),
                            (long long) num_blocks, o->block_size);
    }
    return OK;
}

struct seq *
sched_add(struct sched *s, const struct seq_desc *desc, int64_t now_ns)
{
    struct seq  *seq;

    check_eq(sched_check_fits(s, desc->num_prompt_tokens, desc->max_tokens,
                              NULL), OK);
    check_lt(0, s->num_free_seqs);
    seq = s->free_seqs[--s->num_free_seqs];
    *seq = (struct seq) {
        .id = desc->id, .user = desc->user, .order = s->next_order++,
        .num_prompt_tokens = desc->num_prompt_tokens,
        .num_tokens = desc->num_prompt_tokens,
        .num_tokens_max = desc->num_prompt_tokens + desc->max_tokens,
        .deadline_ns = desc->deadline_ns, .added_ns = now_ns,
        .block_table = seq->block_table
    };
    if (desc->deadline_ns != 0 && (s->next_deadline_ns == 0
                                   || desc->deadline_ns < s->next_deadline_ns))
    {
        s->next_deadline_ns = desc->deadline_ns;
    }
    seq_move(seq, SEQ_WAITING, &s->waiting);
    return seq;
}

/* Every step in flight is waited for, not only those that the sequence is
 * part of: simpler, and the same in all but rare cases. */
static void
sched_release_blocks(struct sched *s, struct seq *seq)
{
    kv_blocks_release(s->kv, seq->block_table, &seq->num_blocks,
                      s->planned > s->done ? s->planned : 0);
}

static void
sched_free(struct sched *s, struct seq *seq)
{
    seq_move(seq, SEQ_FREE, NULL);
    s->free_seqs[s->num_free_seqs++] = seq;
}

bool
sched_in_flight(const struct sched *s, const struct seq *seq)
{
    return seq->step > s->done;
}

void
sched_finish(struct sched *s, struct seq *seq)
{
    sched_release_blocks(s, seq);
    seq_move(seq, SEQ_FINISHED, NULL);
    if (sched_in_flight(s, seq)) {
        s->num_finished++;
    } else {
        sched_free(s, seq);
    }
}

void
sched_park(struct sched *s, struct seq *seq, bool parked)
{
    if (parked == (seq->state == SEQ_PARKED) || seq->state == SEQ_ENDING) {
        return;
    }
    if (parked) {
        seq_move(seq, SEQ_PARKED, &s->parked);
    } else {
        seq_move(seq, SEQ_WAITING, &s->waiting);
    }
}

struct seq *
sched_next_expired(struct sched *s, int64_t now_ns)
{
    struct seq_list  *lists[] = { &s->ending, &s->running, &s->waiting,
                                  &s->parked };
    int64_t           next_ns = 0;

    if (s->next_deadline_ns == 0 || now_ns < s->next_deadline_ns) {
        return NULL;
    }
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        for (struct seq *q = lists[i]->oldest; q != NULL; q = q->next) {
            if (q->deadline_ns == 0) {
                continue;
            }
            if (now_ns >= q->deadline_ns) {
                return q;
            }
            if (next_ns == 0 || q->deadline_ns < next_ns) {
                next_ns = q->deadline_ns;
            }
        }
    }
    s->next_deadline_ns = next_ns;
    return NULL;
}

int64_t
sched_next_deadline_ns(const struct sched *s)
{
    return s->next_deadline_ns;
}

/* Takes the blocks of a sequence that is not part of the plan being made. */
static void
sched_preempt(struct sched *s, struct seq *seq)
{
    check_le(seq->step, s->planned);
    s->counts.num_preemptions++;
    s->counts.num_recomputed_tokens += (uint64_t) seq->num_computed_tokens;
    s->plan->preempted_ids[s->plan->num_preempted++] = seq->id;
    seq->num_preemptions++;
    seq->num_computed_tokens = 0;
    sched_release_blocks(s, seq);
    if (seq->list == &s->running) {
        seq_move(seq, SEQ_WAITING, &s->waiting);
    }
}

static struct seq *
sched_youngest_holder(const struct seq_list *list, const struct seq *except)
{
    struct seq  *seq = list->youngest;

    while (seq != NULL && (seq->num_blocks == 0 || seq == except)) {
        seq = seq->prev;
    }
    return seq;
}

/* Who loses its blocks so that `seq` can go on; NULL: nobody may. */
static struct seq *
sched_victim(const struct sched *s, const struct seq *seq)
{
    struct seq  *victim = sched_youngest_holder(&s->parked, seq);

    if (victim == NULL) {
        victim = sched_youngest_holder(&s->waiting, seq);
    }
    if (victim == NULL && seq->list == &s->running
        && s->running.youngest != seq)
    {
        victim = s->running.youngest;
    }
    return victim;
}

/* Fenced blocks will do, and nobody else sits out for them. */
static bool
sched_await(struct sched *s, int32_t num_blocks)
{
    if (kv_blocks_num_fenced(s->kv) == 0
        || kv_blocks_num_free(s->kv) + kv_blocks_num_fenced(s->kv)
           < s->num_awaited + num_blocks)
    {
        return false;
    }
    s->num_awaited += num_blocks;
    return true;
}

/* Makes the block table cover num_tokens; false when it cannot now: what is
 * let go for it is fenced, or nobody can be made to give. */
static bool
sched_reserve(struct sched *s, struct seq *seq, int64_t num_tokens)
{
    int32_t  num_blocks = (int32_t) div_ceil(num_tokens, s->options.block_size);

    while (!kv_blocks_append(s->kv, seq->block_table, &seq->num_blocks,
                             num_blocks))
    {
        if (sched_await(s, num_blocks - seq->num_blocks)) {
            return false;
        }
        struct seq  *victim = sched_victim(s, seq);
        if (victim == NULL) {
            return false;
        }
        sched_preempt(s, victim);
    }
    return true;
}

/* Prompt tokens that the plan still has room for. */
static int32_t
sched_budget(const struct sched *s)
{
    const struct sched_options  *o = &s->options;
    const struct plan           *plan = s->plan;
    int32_t                      budget, room, least;

    budget = o->max_num_batched_tokens - plan->num_tokens;
    if (plan->num_decode_seqs == 0 || o->max_num_mixed_tokens == 0
        || !o->enable_chunked_prefill)
    {
        return budget;
    }
    room = o->max_num_mixed_tokens - plan->num_tokens;
    least = (o->max_num_mixed_tokens - 1) / MIXED_LEAST + 1    /* rounded up */
            - plan->num_prefill_tokens;
    room = room > least ? room : least;
    room = room > 0 ? room : 0;      /* a resumed decode came after prompts */
    return room < budget ? room : budget;
}

static void
plan_append(struct sched *s, struct seq *seq, int32_t num_tokens)
{
    struct plan  *plan = s->plan;
    bool          decode = seq->state == SEQ_DECODE;

    plan->seqs[plan->num_seqs++] = (struct plan_seq) {
        .seq = seq, .position = seq->num_computed_tokens,
        .num_tokens = num_tokens, .decode = decode,
        .sample = seq->num_computed_tokens + num_tokens == seq->num_tokens
    };
    plan->num_tokens += num_tokens;
    plan->num_decode_seqs += decode;
    plan->num_prefill_tokens += decode ? 0 : num_tokens;
    seq->step = s->planned + 1;
}

/* Those younger than the one at hand are not in the plan yet: they can be
 * preempted, and the walk then meets fewer of them. */
static void
plan_decodes(struct sched *s)
{
    for (struct seq *q = s->running.oldest; q != NULL; q = q->next) {
        if (q->state == SEQ_DECODE && sched_reserve(s, q, q->num_tokens)) {
            plan_append(s, q, 1);
        }
    }
}

/* Tokens of a prompt that the rest of the budget allows; 0: not now. */
static int32_t
sched_chunk_tokens(const struct sched *s, const struct seq *seq)
{
    int32_t  num_tokens = seq->num_tokens - seq->num_computed_tokens;
    int32_t  budget = sched_budget(s);

    if (num_tokens <= budget) {
        return num_tokens;
    }
    return s->options.enable_chunked_prefill ? budget : 0;
}

static void
plan_chunks(struct sched *s)
{
    for (struct seq *q = s->running.oldest; q != NULL; q = q->next) {
        if (q->state == SEQ_PREFILL) {
            int32_t  num_tokens = sched_chunk_tokens(s, q);
            if (num_tokens == 0) {
                return;
            }
            plan_append(s, q, num_tokens);
        }
    }
}

/* Reserves what an admission needs: all known tokens and the next one. */
static bool
sched_reserve_admission(struct sched *s, struct seq *seq)
{
    int64_t  num_tokens = seq->num_tokens + 1;
    int64_t  limit = sched_kv_tokens_max(seq->num_tokens_max);

    if (num_tokens > limit) {
        num_tokens = limit;
    }
    if (s->running.num_seqs == 0) {
        return sched_reserve(s, seq, num_tokens);
    }
    return kv_blocks_append(s->kv, seq->block_table, &seq->num_blocks,
                            (int32_t) div_ceil(num_tokens,
                                               s->options.block_size));
}

static void
plan_admissions(struct sched *s, int64_t now_ns)
{
    struct seq  *seq;

    while ((seq = s->waiting.oldest) != NULL
           && s->running.num_seqs < s->options.max_num_seqs)
    {
        int32_t  num_tokens = sched_chunk_tokens(s, seq);
        if (num_tokens == 0 || !sched_reserve_admission(s, seq)) {
            return;
        }
        seq_move(seq, seq->num_computed_tokens > 0
                      && seq->num_computed_tokens == seq->num_tokens - 1
                      ? SEQ_DECODE : SEQ_PREFILL, &s->running);
        if (seq->scheduled_ns == 0) {
            seq->scheduled_ns = now_ns;
            s->counts.num_admitted++;
            s->counts.num_prompt_tokens += (uint64_t) seq->num_prompt_tokens;
        }
        plan_append(s, seq, num_tokens);
    }
}

struct plan *
sched_next(struct sched *s, int64_t now_ns)
{
    struct plan  *plan = &s->plans[(s->planned + 1) % SCHED_STEPS_IN_FLIGHT];

    check_eq(s->issued, s->planned);
    check_lt(s->planned - s->done, SCHED_STEPS_IN_FLIGHT);
    s->plan = plan;
    s->num_awaited = 0;
    plan->num_seqs = 0;
    plan->num_tokens = 0;
    plan->num_prefill_tokens = 0;
    plan->num_decode_seqs = 0;
    plan->num_preempted = 0;
    plan_decodes(s);
    plan_chunks(s);
    if (plan->num_preempted == 0 && s->num_awaited == 0) {
        plan_admissions(s, now_ns);
    }
    s->planned += plan->num_seqs > 0;
    return plan;
}

bool
sched_is_thin(const struct sched *s)
{
    int64_t  num_tokens = 0;

    if (s->running.num_seqs > 0
        || s->waiting.num_seqs >= s->options.max_num_seqs)
    {
        return false;
    }
    for (struct seq *q = s->waiting.oldest; q != NULL; q = q->next) {
        num_tokens += q->num_tokens - q->num_computed_tokens;
        if (num_tokens >= s->options.max_num_batched_tokens) {
            return false;
        }
    }
    return true;
}

/* A token is sampled for a sequence all of whose tokens are computed. */
static void
sched_append(struct sched *s, struct seq *seq)
{
    check_eq(seq->num_computed_tokens, seq->num_tokens);
    check_lt(seq->num_tokens, seq->num_tokens_max);
    seq->num_tokens++;
    if (seq->num_tokens == seq->num_tokens_max) {
        sched_release_blocks(s, seq);
        seq_move(seq, SEQ_ENDING, &s->ending);
    } else if (seq->state == SEQ_PREFILL) {
        seq_move(seq, SEQ_DECODE, &s->running);
    }
}

void
sched_issued(struct sched *s)
{
    check_lt(s->issued, s->planned);
    s->issued++;
    for (int32_t i = 0; i < s->plan->num_seqs; i++) {
        const struct plan_seq  *p = &s->plan->seqs[i];
        if (p->seq->state == SEQ_FINISHED) {
            continue;
        }
        p->seq->num_computed_tokens += p->num_tokens;
        if (p->sample) {
            sched_append(s, p->seq);
        }
    }
}

void
sched_done(struct sched *s)
{
    check_lt(s->done, s->issued);
    s->done++;
    struct plan  *plan = &s->plans[s->done % SCHED_STEPS_IN_FLIGHT];
    for (int32_t i = 0; i < plan->num_seqs; i++) {
        struct seq  *seq = plan->seqs[i].seq;
        if (seq->state != SEQ_FINISHED) {
            continue;
        }
        plan->seqs[i].seq = NULL;
        if (!sched_in_flight(s, seq)) {
            sched_free(s, seq);
            s->num_finished--;
        }
    }
    kv_blocks_step_done(s->kv, s->done);
}

void
sched_abandon(struct sched *s)
{
    s->issued = s->planned;
    while (s->done < s->issued) {
        sched_done(s);
    }
}

void
sched_counts(const struct sched *s, struct sched_counts *out)
{
    *out = s->counts;
    out->num_running = s->running.num_seqs + s->ending.num_seqs;
    out->num_waiting = s->waiting.num_seqs;
    out->num_parked = s->parked.num_seqs;
    out->kv_blocks_total = kv_blocks_num_total(s->kv);
    out->kv_blocks_used = out->kv_blocks_total - kv_blocks_num_free(s->kv);
}

void
sched_visit(const struct sched *s,
            void (*visit)(void *data, const struct seq *seq), void *data)
{
    const struct seq_list  *lists[] = { &s->ending, &s->running, &s->waiting,
                                        &s->parked };

    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        for (struct seq *q = lists[i]->oldest; q != NULL; q = q->next) {
            visit(data, q);
        }
    }
}

static void
sched_audit_seq(const struct sched *s, const struct seq *q)
{
    int64_t  num_covered = (int64_t) q->num_blocks * s->options.block_size;

    check_le(q->step, s->issued);
    check_le(0, q->num_computed_tokens);
    check_lt(q->num_computed_tokens, q->num_tokens);
    if (q->list == &s->ending) {
        check_eq(q->state, SEQ_ENDING);
        check_eq(q->num_tokens, q->num_tokens_max);
        check_eq(q->num_blocks, 0);
        return;
    }
    check_lt(q->num_tokens, q->num_tokens_max);
    check_le(q->num_computed_tokens, num_covered);
    check_le(q->num_blocks, s->max_blocks_per_seq);
    if (q->list == &s->running) {
        check(q->state == SEQ_PREFILL || q->state == SEQ_DECODE);
        check(q->scheduled_ns != 0);
    }
    if (q->state == SEQ_PREFILL) {
        check_le(q->num_tokens, num_covered);
    } else if (q->state == SEQ_DECODE) {
        check_eq(q->num_computed_tokens, q->num_tokens - 1);
    } else {
        check_eq(q->state, q->list == &s->parked ? SEQ_PARKED : SEQ_WAITING);
    }
}

void
sched_audit(struct sched *s)
{
    const struct seq_list  *lists[] = { &s->ending, &s->running, &s->waiting,
                                        &s->parked };
    int32_t                 num_seqs = 0;

    check_eq(s->issued, s->planned);
    check_le(s->running.num_seqs, s->options.max_num_seqs);
    kv_blocks_audit_begin(s->kv);
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        int32_t  num_linked = 0;
        for (struct seq *q = lists[i]->oldest; q != NULL; q = q->next) {
            check(q->list == lists[i]);
            check(q->next == NULL || q->next->order > q->order);
            sched_audit_seq(s, q);
            kv_blocks_audit_table(s->kv, q->block_table, q->num_blocks);
            num_linked++;
        }
        check_eq(num_linked, lists[i]->num_seqs);
        num_seqs += num_linked;
    }
    check_eq(num_seqs + s->num_finished + s->num_free_seqs,
             s->options.max_seqs
             + SCHED_STEPS_IN_FLIGHT * s->options.max_num_seqs);
    kv_blocks_audit_end(s->kv);
}
