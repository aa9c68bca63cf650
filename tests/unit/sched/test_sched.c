/* test_sched.c - the scheduler's policy case by case, then thousands of
 * random schedules with a progress checker and an audit after every step,
 * half of them planned one step ahead.
 *
 *     test_sched [first_seed [num_seeds]] */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "engine/base/check.h"
#include "engine/base/hash.h"
#include "engine/sched/sched.h"

static uint64_t  first_seed = 1;
static int       num_seeds = 4000;

static struct sched *
make_sched(int32_t max_num_seqs, int32_t budget, int32_t block_size,
           int32_t num_usable_blocks)
{
    struct sched          *s;
    struct err             err = { 0 };
    struct sched_options   o = {
        .max_num_seqs = max_num_seqs, .max_num_batched_tokens = budget,
        .max_model_len = 64, .max_seqs = 32, .block_size = block_size,
        .num_blocks = num_usable_blocks + 1, .enable_chunked_prefill = true
    };
    if (sched_create(&s, &o, &err) != OK) {
        fail_msg("%s", err.message);
    }
    return s;
}

static struct seq *
add(struct sched *s, uint64_t id, int32_t prompt, int32_t max_tokens)
{
    return sched_add(s, &(struct seq_desc) {
        .id = id, .num_prompt_tokens = prompt, .max_tokens = max_tokens }, 1);
}

/* Waits for the oldest step in flight and ends what has all its tokens. */
static void
collect(struct sched *s, struct plan *plan)
{
    sched_done(s);
    for (int32_t i = 0; i < plan->num_seqs; i++) {
        struct plan_seq  *p = &plan->seqs[i];
        if (p->seq != NULL && p->sample
            && p->position + p->num_tokens + 1 == p->seq->num_tokens_max)
        {
            assert_int_equal(p->seq->state, SEQ_ENDING);
            sched_finish(s, p->seq);
        }
    }
    sched_audit(s);
}

/* Computes the plan, one token wherever it says so. */
static void
finish_step(struct sched *s, struct plan *plan)
{
    if (plan->num_seqs > 0) {
        sched_issued(s);
        collect(s, plan);
    }
}

static void
decodes_come_before_prompt_chunks_and_the_budget_is_kept(void **state)
{
    (void) state;
    struct sched  *s = make_sched(4, 8, 4, 40);
    struct seq    *a = add(s, 1, 3, 10), *b = add(s, 2, 20, 10);
    struct plan   *p = sched_next(s, 5);

    assert_int_equal(p->num_tokens, 8);
    assert_ptr_equal(p->seqs[0].seq, a);
    assert_int_equal(p->seqs[0].num_tokens, 3);
    assert_true(p->seqs[0].sample);
    assert_ptr_equal(p->seqs[1].seq, b);
    assert_int_equal(p->seqs[1].num_tokens, 5);
    assert_false(p->seqs[1].sample);
    assert_int_equal(a->scheduled_ns, 5);
    finish_step(s, p);
    assert_int_equal(a->state, SEQ_DECODE);
    assert_int_equal(b->state, SEQ_PREFILL);
    p = sched_next(s, 6);
    assert_true(p->seqs[0].decode);
    assert_ptr_equal(p->seqs[0].seq, a);
    assert_int_equal(p->seqs[1].position, 5);
    assert_int_equal(p->seqs[1].num_tokens, 7);
    assert_int_equal(p->num_decode_seqs, 1);
    assert_int_equal(p->num_prefill_tokens, 7);
    finish_step(s, p);
    sched_destroy(s);
}

static void
admission_is_first_come_first_served(void **state)
{
    (void) state;
    struct sched  *s = make_sched(4, 64, 4, 8);
    struct plan   *p;

    (void) add(s, 1, 20, 4);      /* 6 of 8 blocks */
    (void) add(s, 2, 20, 4);      /* does not fit beside it */
    (void) add(s, 3, 2, 2);       /* would, but came later */
    p = sched_next(s, 1);
    assert_int_equal(p->num_seqs, 1);
    assert_int_equal(p->seqs[0].seq->id, 1);
    finish_step(s, p);
    sched_destroy(s);
}

static void
the_block_of_the_first_decoded_token_is_reserved_at_admission(void **state)
{
    (void) state;
    struct sched  *s = make_sched(4, 64, 4, 3);
    struct seq    *a = add(s, 1, 8, 4);      /* fills two blocks exactly */
    struct plan   *p = sched_next(s, 1);

    assert_int_equal(a->num_blocks, 3);
    finish_step(s, p);
    (void) add(s, 2, 1, 1);
    p = sched_next(s, 2);                    /* nothing left for the second */
    assert_int_equal(p->num_seqs, 1);
    assert_int_equal(p->num_preempted, 0);
    finish_step(s, p);
    sched_destroy(s);
}

static void
the_youngest_is_preempted_and_starts_again(void **state)
{
    (void) state;
    struct sched        *s = make_sched(4, 64, 2, 4);
    struct seq          *a = add(s, 1, 2, 6), *b = add(s, 2, 2, 6);
    struct sched_counts  c;
    struct plan         *p;

    for (int64_t step = 1; step <= 3; step++) {   /* two blocks each */
        p = sched_next(s, step);
        assert_int_equal(p->num_seqs, 2);
        finish_step(s, p);
    }
    (void) add(s, 3, 1, 1);
    p = sched_next(s, 4);                    /* a needs its third */
    assert_int_equal(p->num_preempted, 1);
    assert_int_equal(p->preempted_ids[0], 2);
    assert_int_equal(b->state, SEQ_WAITING);
    assert_int_equal(b->num_blocks, 0);
    assert_int_equal(b->num_computed_tokens, 0);
    assert_int_equal(b->num_tokens, 5);      /* keeps what it has sampled */
    assert_int_equal(p->num_seqs, 1);        /* nobody admitted beside */
    finish_step(s, p);
    while (a->state != SEQ_FREE) {
        p = sched_next(s, 5);
        assert_ptr_equal(p->seqs[0].seq, a); /* b first in line, cannot fit */
        assert_int_equal(p->num_seqs, 1);
        finish_step(s, p);
    }
    p = sched_next(s, 7);
    assert_ptr_equal(p->seqs[0].seq, b);
    assert_int_equal(p->seqs[0].num_tokens, 5);
    assert_true(p->seqs[0].sample);
    assert_int_equal(p->seqs[1].seq->id, 3);
    finish_step(s, p);
    sched_counts(s, &c);
    assert_int_equal(c.num_preemptions, 1);
    assert_int_equal(c.num_recomputed_tokens, 4);
    sched_destroy(s);
}

static void
what_can_never_fit_is_refused_with_the_numbers(void **state)
{
    (void) state;
    struct sched  *s = make_sched(4, 64, 4, 3);
    struct err     err;

    assert_int_equal(sched_check_fits(s, 9, 4, &err), OK);    /* 12 slots */
    assert_int_equal(sched_check_fits(s, 10, 4, &err), ERROR);
    assert_int_equal(err.http_status, 400);
    assert_non_null(strstr(err.message, "12 tokens (3 blocks of 4)"));
    assert_int_equal(sched_check_fits(s, 60, 5, &err), ERROR);
    assert_non_null(strstr(err.message, "max_model_len 64"));
    assert_int_equal(sched_check_fits(s, INT64_MAX, INT64_MAX, &err), ERROR);
    assert_int_equal(sched_check_fits(s, 1, INT64_MAX, &err), ERROR);
    assert_int_equal(sched_check_fits(s, 0, 1, &err), ERROR);
    assert_int_equal(sched_check_fits(s, 1, 0, &err), ERROR);
    sched_destroy(s);
}

static void
a_cancel_in_flight_frees_after_the_step(void **state)
{
    (void) state;
    struct sched        *s = make_sched(4, 64, 4, 8);
    struct seq          *a = add(s, 1, 5, 5);
    struct plan         *p = sched_next(s, 1);
    struct sched_counts  c;

    sched_finish(s, a);
    sched_counts(s, &c);
    assert_int_equal(c.kv_blocks_used, 2);
    assert_int_equal(a->state, SEQ_FINISHED);
    sched_issued(s);
    sched_done(s);
    assert_null(p->seqs[0].seq);
    sched_counts(s, &c);
    assert_int_equal(c.kv_blocks_used, 0);
    sched_audit(s);
    sched_destroy(s);
}

static void
a_parked_sequence_keeps_its_kv_and_resumes_in_decode(void **state)
{
    (void) state;
    struct sched  *s = make_sched(4, 64, 4, 8);
    struct seq    *a = add(s, 1, 5, 5);
    struct plan   *p = sched_next(s, 1);

    sched_park(s, a, true);                  /* while in flight */
    sched_park(s, a, true);
    finish_step(s, p);
    assert_int_equal(a->num_tokens, 6);
    assert_int_equal(sched_next(s, 2)->num_seqs, 0);
    assert_int_equal(a->num_blocks, 2);
    sched_park(s, a, false);
    p = sched_next(s, 3);
    assert_int_equal(p->num_seqs, 1);
    assert_true(p->seqs[0].decode);
    assert_int_equal(p->seqs[0].position, 5);
    finish_step(s, p);
    sched_destroy(s);
}

static void
an_admission_takes_parked_blocks_only_when_nothing_runs(void **state)
{
    (void) state;
    struct sched  *s = make_sched(4, 64, 4, 4);
    struct seq    *a = add(s, 1, 5, 5), *b = add(s, 2, 5, 2), *c;
    struct plan   *p = sched_next(s, 1);

    finish_step(s, p);
    sched_park(s, a, true);
    c = add(s, 3, 5, 2);
    p = sched_next(s, 2);
    assert_int_equal(p->num_seqs, 1);        /* b runs, c waits */
    assert_ptr_equal(p->seqs[0].seq, b);
    finish_step(s, p);                       /* b ends */
    p = sched_next(s, 3);
    assert_ptr_equal(p->seqs[0].seq, c);
    assert_int_equal(a->num_blocks, 2);      /* room enough without a's */
    finish_step(s, p);
    sched_finish(s, c);
    c = add(s, 4, 12, 2);
    p = sched_next(s, 4);                    /* 4 blocks: takes a's */
    assert_int_equal(p->num_preempted, 1);
    assert_int_equal(a->num_blocks, 0);
    assert_int_equal(a->state, SEQ_PARKED);
    finish_step(s, p);
    sched_destroy(s);
}

static void
deadlines_expire_in_every_state_and_only_then(void **state)
{
    (void) state;
    struct sched  *s = make_sched(1, 64, 4, 8);
    struct seq    *q[3];
    int            num = 0;

    for (uint64_t i = 0; i < 3; i++) {
        q[i] = sched_add(s, &(struct seq_desc) {
            .id = i, .num_prompt_tokens = 2, .max_tokens = 9,
            .deadline_ns = 100 + (int64_t) i }, 1);
    }
    finish_step(s, sched_next(s, 1));        /* 0 runs, 1 and 2 wait */
    sched_park(s, q[2], true);
    assert_int_equal(sched_next_deadline_ns(s), 100);
    assert_null(sched_next_expired(s, 99));
    for (struct seq *e; (e = sched_next_expired(s, 101)) != NULL; num++) {
        assert_true(e == q[0] || e == q[1]);
        sched_finish(s, e);
    }
    assert_int_equal(num, 2);
    assert_int_equal(sched_next_deadline_ns(s), 102);
    assert_ptr_equal(sched_next_expired(s, 102), q[2]);
    sched_finish(s, q[2]);
    assert_null(sched_next_expired(s, 1000));
    assert_int_equal(sched_next_deadline_ns(s), 0);
    sched_destroy(s);
}

static void
without_chunks_a_prompt_is_computed_whole_or_not_at_all(void **state)
{
    (void) state;
    struct sched          *s;
    struct err             err;
    struct sched_options   o = {
        .max_num_seqs = 4, .max_num_batched_tokens = 16, .max_model_len = 17,
        .max_seqs = 8, .block_size = 4, .num_blocks = 20
    };
    struct plan           *p;

    assert_int_equal(sched_create(&s, &o, &err), ERROR);
    o.max_model_len = 16;
    assert_int_equal(sched_create(&s, &o, &err), OK);
    (void) add(s, 1, 10, 3);
    (void) add(s, 2, 10, 3);
    p = sched_next(s, 1);
    assert_int_equal(p->num_seqs, 1);
    finish_step(s, p);
    p = sched_next(s, 2);
    assert_int_equal(p->num_seqs, 2);
    assert_int_equal(p->seqs[1].num_tokens, 10);
    finish_step(s, p);
    sched_destroy(s);
}

static void
a_step_with_decodes_is_short_but_never_without_prompts(void **state)
{
    (void) state;
    struct sched          *s;
    struct sched_options   o = {
        .max_num_seqs = 8, .max_num_batched_tokens = 16, .max_model_len = 64,
        .max_seqs = 8, .block_size = 4, .num_blocks = 60,
        .max_num_mixed_tokens = 7, .enable_chunked_prefill = true
    };
    struct plan           *p;

    assert_int_equal(sched_create(&s, &o, NULL), OK);
    (void) add(s, 1, 10, 20);
    (void) add(s, 2, 20, 20);
    for (uint64_t id = 3; id <= 6; id++) {
        (void) add(s, id, 1, 20);
    }
    (void) add(s, 7, 40, 2);
    p = sched_next(s, 1);                    /* nobody waits: all that fits */
    assert_int_equal(p->num_prefill_tokens, 16);
    finish_step(s, p);
    for (int64_t step = 2; step <= 3; step++) {
        p = sched_next(s, step);
        assert_int_equal(p->num_decode_seqs, 1);
        assert_int_equal(p->num_prefill_tokens, 6);
        finish_step(s, p);
    }
    p = sched_next(s, 4);                    /* 2 ends, all the small ones */
    assert_int_equal(p->num_tokens, 7);
    assert_int_equal(p->num_seqs, 6);
    finish_step(s, p);
    p = sched_next(s, 5);
    assert_int_equal(p->num_decode_seqs, 6); /* leave 1, a quarter is 2 */
    assert_int_equal(p->num_prefill_tokens, 2);
    finish_step(s, p);
    sched_destroy(s);
}

static void
a_bound_beyond_the_step_is_none(void **state)
{
    (void) state;
    struct sched          *s;
    struct sched_options   o = {
        .max_num_seqs = 8, .max_num_batched_tokens = 16, .max_model_len = 64,
        .max_seqs = 8, .block_size = 4, .num_blocks = 60,
        .max_num_mixed_tokens = INT32_MAX, .enable_chunked_prefill = true
    };
    struct plan           *p;

    assert_int_equal(sched_create(&s, &o, NULL), OK);
    (void) add(s, 1, 3, 20);
    (void) add(s, 2, 40, 20);
    finish_step(s, sched_next(s, 1));
    p = sched_next(s, 2);
    assert_int_equal(p->num_decode_seqs, 1);
    assert_int_equal(p->num_tokens, 16);
    finish_step(s, p);
    sched_destroy(s);
    o.max_num_mixed_tokens = -1;
    assert_int_equal(sched_create(&s, &o, NULL), ERROR);
}

static void
the_next_step_is_planned_by_counts_alone(void **state)
{
    (void) state;
    struct sched  *s = make_sched(4, 64, 4, 8);
    struct seq    *a = add(s, 1, 5, 3);
    struct plan   *p1 = sched_next(s, 1), *p2;

    sched_issued(s);
    assert_true(sched_in_flight(s, a));
    p2 = sched_next(s, 2);
    assert_ptr_not_equal(p1, p2);
    assert_ptr_equal(p2->seqs[0].seq, a);
    assert_int_equal(p2->seqs[0].position, 5);
    assert_true(p2->seqs[0].decode && p2->seqs[0].sample);
    sched_issued(s);
    collect(s, p1);
    p1 = sched_next(s, 3);
    assert_int_equal(p1->seqs[0].position, 6);    /* its last: max_tokens 3 */
    sched_issued(s);
    assert_int_equal(a->state, SEQ_ENDING);
    assert_int_equal(a->num_blocks, 0);
    collect(s, p2);
    assert_int_equal(sched_next(s, 4)->num_seqs, 0);     /* never planned */
    collect(s, p1);
    assert_int_equal(a->state, SEQ_FREE);
    sched_destroy(s);
}

static void
an_ending_sequence_gives_up_its_seat_but_not_its_life(void **state)
{
    (void) state;
    struct sched        *s = make_sched(1, 64, 4, 8);
    struct seq          *a = add(s, 1, 5, 1), *b = add(s, 2, 5, 1);
    struct plan         *p1 = sched_next(s, 1), *p2;
    struct sched_counts  c;

    sched_issued(s);
    sched_park(s, a, true);
    assert_int_equal(a->state, SEQ_ENDING);
    sched_counts(s, &c);
    assert_int_equal(c.num_running, 1);
    p2 = sched_next(s, 2);
    assert_ptr_equal(p2->seqs[0].seq, b);
    sched_issued(s);
    collect(s, p1);
    collect(s, p2);
    sched_destroy(s);
}

static void
a_step_of_newcomers_alone_is_thin_until_they_are_many(void **state)
{
    (void) state;
    struct sched  *s = make_sched(4, 16, 4, 40);

    assert_true(sched_is_thin(s));           /* nobody is there */
    (void) add(s, 1, 3, 1);
    assert_true(sched_is_thin(s));
    (void) add(s, 2, 13, 1);                 /* 16 is a step */
    assert_false(sched_is_thin(s));
    struct plan  *p = sched_next(s, 1);
    sched_issued(s);                         /* both have their last token */
    assert_true(sched_is_thin(s));
    (void) add(s, 3, 3, 2);
    assert_true(sched_is_thin(s));
    struct plan  *q = sched_next(s, 2);
    sched_issued(s);
    assert_false(sched_is_thin(s));          /* 3 goes on */
    collect(s, p);
    collect(s, q);
    sched_destroy(s);
}

static void
newcomers_in_every_seat_are_not_thin_however_short(void **state)
{
    (void) state;
    struct sched  *s = make_sched(4, 16, 4, 40);

    for (uint64_t id = 1; id <= 3; id++) {
        (void) add(s, id, 1, 1);
    }
    assert_true(sched_is_thin(s));
    (void) add(s, 4, 1, 1);                  /* a fifth would not get in */
    assert_false(sched_is_thin(s));
    sched_destroy(s);
}

static void
a_stop_seen_late_wastes_one_row_and_its_blocks_are_fenced(void **state)
{
    (void) state;
    struct sched        *s = make_sched(4, 64, 4, 2);
    struct seq          *a = add(s, 1, 4, 4), *b = add(s, 2, 4, 4);
    struct plan         *p1 = sched_next(s, 1), *p2, *p3;
    struct sched_counts  c;

    assert_int_equal(p1->num_seqs, 1);           /* a has both blocks */
    sched_issued(s);
    p2 = sched_next(s, 2);
    assert_int_equal(p2->num_seqs, 1);
    sched_issued(s);
    sched_done(s);
    sched_finish(s, a);                          /* its first was a stop */
    assert_int_equal(a->state, SEQ_FINISHED);
    sched_audit(s);
    p3 = sched_next(s, 3);
    assert_int_equal(p3->num_seqs, 0);           /* the second step uses them */
    assert_int_equal(p3->num_preempted, 0);
    sched_counts(s, &c);
    assert_int_equal(c.kv_blocks_used, 2);
    sched_done(s);
    assert_null(p2->seqs[0].seq);
    assert_int_equal(a->state, SEQ_FREE);
    p3 = sched_next(s, 4);
    assert_ptr_equal(p3->seqs[0].seq, b);
    finish_step(s, p3);
    sched_destroy(s);
}

/* Two blocks each of four; a needs its third while both are in flight. */
static void
a_preemption_in_flight_pays_one_step_later(void **state)
{
    (void) state;
    struct sched  *s = make_sched(4, 64, 2, 4);
    struct seq    *a = add(s, 1, 2, 6), *b = add(s, 2, 2, 6);
    struct plan   *p[2] = { sched_next(s, 1), NULL };

    sched_issued(s);
    for (int step = 1; step <= 2; step++) {
        p[step & 1] = sched_next(s, 1);
        assert_int_equal(p[step & 1]->num_seqs, 2);
        sched_issued(s);
        collect(s, p[~step & 1]);
    }
    p[1] = sched_next(s, 2);
    assert_int_equal(p[1]->num_preempted, 1);
    assert_int_equal(b->state, SEQ_WAITING);
    assert_int_equal(b->num_blocks, 0);
    assert_int_equal(p[1]->num_seqs, 0);         /* a sits out */
    collect(s, p[0]);                            /* b still gets its token */
    assert_int_equal(b->num_tokens, 5);
    p[1] = sched_next(s, 3);
    assert_int_equal(p[1]->num_seqs, 1);
    assert_ptr_equal(p[1]->seqs[0].seq, a);
    assert_int_equal(p[1]->num_preempted, 0);
    finish_step(s, p[1]);
    sched_destroy(s);
}

static void
a_lost_device_leaves_nothing_in_flight(void **state)
{
    (void) state;
    struct sched        *s = make_sched(4, 64, 4, 8);
    struct seq          *a = add(s, 1, 5, 3);
    struct sched_counts  c;

    (void) sched_next(s, 1);
    sched_issued(s);
    (void) sched_next(s, 2);
    sched_finish(s, a);
    sched_abandon(s);
    sched_audit(s);
    sched_counts(s, &c);
    assert_int_equal(c.kv_blocks_used, 0);
    sched_destroy(s);
}

static void
impossible_options_are_refused(void **state)
{
    (void) state;
    struct sched          *s;
    struct err             err = { 0 };
    struct sched_options   o = {
        .max_num_seqs = 8, .max_num_batched_tokens = 4, .max_model_len = 64,
        .max_seqs = 8, .block_size = 4, .num_blocks = 9,
        .enable_chunked_prefill = true
    };

    assert_int_equal(sched_create(&s, &o, &err), ERROR);
    assert_non_null(strstr(err.message, "max_num_batched_tokens 4"));
    o.max_num_batched_tokens = 8;
    o.num_blocks = 1;
    assert_int_equal(sched_create(&s, &o, &err), ERROR);
    assert_null(s);
}

/* ---- random schedules ---- */

#define SEQS_MAX  40

/* One random run: the world outside the scheduler. */
struct run {
    uint64_t        rng, seed;
    struct sched_options options;
    struct sched   *s;
    struct seq     *live[SEQS_MAX];
    int             num_live;
    uint64_t        next_id;
    int64_t         now_ns;
    int             num_stuck;      /* steps without a new token */
    int64_t         num_ended;
    bool            ahead;          /* one step stays in flight */
    struct plan    *in_flight;
    uint64_t       *users;          /* [num_blocks] id + 1 of the sequence that
                                       the step in flight uses it for, 0 */
};

static uint64_t
rnd(struct run *r, uint64_t n)
{
    r->rng += 0x9e3779b97f4a7c15ULL;
    return hash_mix64(r->rng) % n;
}

static void
run_forget(struct run *r, int i)
{
    r->live[i] = r->live[--r->num_live];
    r->num_ended++;
}

static int
run_find(const struct run *r, const struct seq *q)
{
    for (int i = 0; i < r->num_live; i++) {
        if (r->live[i] == q) {
            return i;
        }
    }
    fail_msg("seed %llu: a sequence that is not live",
             (unsigned long long) r->seed);
    return -1;
}

static void
run_add(struct run *r)
{
    int64_t  prompt = 1 + (int64_t) rnd(r, (uint64_t) r->options.max_model_len);
    int64_t  max_tokens = 1 + (int64_t) rnd(r, 20);

    if (r->num_live == r->options.max_seqs
        || sched_check_fits(r->s, prompt, max_tokens, NULL) != OK)
    {
        return;
    }
    r->live[r->num_live++] = sched_add(r->s, &(struct seq_desc) {
        .id = r->next_id++, .num_prompt_tokens = (int32_t) prompt,
        .max_tokens = (int32_t) max_tokens,
        .deadline_ns = rnd(r, 10) == 0 ? r->now_ns + (int64_t) rnd(r, 50) + 1
                                       : 0 }, r->now_ns);
}

/* Cancels, parks, resumes; also while a step is in flight. */
static void
run_disturb(struct run *r)
{
    if (r->num_live == 0) {
        return;
    }
    int          i = (int) rnd(r, (uint64_t) r->num_live);
    struct seq  *q = r->live[i];

    switch (rnd(r, 12)) {
    case 0:
        sched_finish(r->s, q);
        run_forget(r, i);
        break;
    case 1:
    case 2:
        sched_park(r->s, q, true);
        r->num_stuck = 0;
        break;
    case 3:
    case 4:
    case 5:
        sched_park(r->s, q, false);
        r->num_stuck = 0;
        break;
    default:
        break;
    }
}

static uint64_t
run_oldest_running(const struct run *r)
{
    const struct seq  *oldest = NULL;

    for (int i = 0; i < r->num_live; i++) {
        const struct seq  *q = r->live[i];
        if ((q->state == SEQ_PREFILL || q->state == SEQ_DECODE)
            && (oldest == NULL || q->order < oldest->order))
        {
            oldest = q;
        }
    }
    return oldest != NULL ? oldest->id : UINT64_MAX;
}

/* A sequence that goes on with its decode may come after prompts of the step
 * that knew of none. */
static void
run_check_mixed(const struct run *r, const struct plan *p)
{
    int32_t  most = r->options.max_num_mixed_tokens;
    int32_t  least = (most + 3) / 4;

    if (most > 0 && r->options.enable_chunked_prefill && p->num_seqs > 0
        && p->seqs[0].decode && p->num_prefill_tokens > least)
    {
        check_le(p->num_tokens, most + p->num_decode_seqs - 1);
        check_le(p->num_prefill_tokens, most - 1);
    }
}

static void
run_check_plan(const struct run *r, const struct plan *p, uint64_t oldest_id)
{
    int32_t  num_tokens = 0;

    check_le(p->num_seqs, r->options.max_num_seqs);
    for (int32_t i = 0; i < p->num_preempted; i++) {
        check(p->preempted_ids[i] != oldest_id);
    }
    for (int32_t i = 0; i < p->num_seqs; i++) {
        const struct plan_seq  *e = &p->seqs[i];
        check_eq(e->position, e->seq->num_computed_tokens);
        check_lt(0, e->num_tokens);
        check_le(e->position + e->num_tokens, e->seq->num_tokens);
        check_le(e->position + e->num_tokens,
                 (int64_t) e->seq->num_blocks * r->options.block_size);
        check_eq(e->sample,
                 e->position + e->num_tokens == e->seq->num_tokens);
        for (int32_t j = 0; j < i; j++) {
            check(p->seqs[j].seq != e->seq);
        }
        num_tokens += e->num_tokens;
    }
    check_eq(num_tokens, p->num_tokens);
    check_le(num_tokens, r->options.max_num_batched_tokens);
    run_check_mixed(r, p);
}

/* No block of the step in flight may be another sequence's in the next. */
static void
run_check_users(struct run *r, const struct plan *p)
{
    size_t  bytes = (size_t) r->options.num_blocks * sizeof *r->users;

    for (int pass = 0; pass < 2; pass++) {
        for (int32_t i = 0; i < p->num_seqs; i++) {
            const struct seq  *q = p->seqs[i].seq;
            for (int32_t k = 0; k < q->num_blocks; k++) {
                uint64_t  *user = &r->users[q->block_table[k]];
                check(*user == 0 || *user == q->id + 1);
                *user = pass == 1 ? q->id + 1 : *user;
            }
        }
        if (pass == 0) {
            memset(r->users, 0, bytes);
        }
    }
}

/* The oldest step is computed: its tokens are known.  True: there were any. */
static bool
run_collect(struct run *r, struct plan *p, bool disturb)
{
    bool  grew = false;

    sched_done(r->s);
    for (int32_t i = 0; i < p->num_seqs; i++) {
        struct plan_seq  *e = &p->seqs[i];
        if (e->seq == NULL || !e->sample) {
            continue;
        }
        bool  numeric_error = disturb && rnd(r, 200) == 0;
        grew |= !numeric_error;
        if (numeric_error || (disturb && rnd(r, 30) == 0)
            || e->position + e->num_tokens + 1 == e->seq->num_tokens_max)
        {
            run_forget(r, run_find(r, e->seq));
            sched_finish(r->s, e->seq);
        }
    }
    return grew;
}

static void
run_step(struct run *r, bool disturb)
{
    struct sched_counts  c;
    struct seq          *q;
    uint64_t             oldest_id;
    bool                 grew = false;

    r->now_ns++;
    while ((q = sched_next_expired(r->s, r->now_ns)) != NULL) {
        check_le(q->deadline_ns, r->now_ns);
        run_forget(r, run_find(r, q));
        sched_finish(r->s, q);
    }
    oldest_id = run_oldest_running(r);
    struct plan  *p = sched_next(r->s, r->now_ns);
    run_check_plan(r, p, oldest_id);
    run_check_users(r, p);
    for (int i = 0; disturb && i < 2; i++) {
        run_disturb(r);
    }
    if (p->num_seqs > 0) {
        sched_issued(r->s);
    }
    if (r->in_flight != NULL) {
        grew = run_collect(r, r->in_flight, disturb);
        r->in_flight = NULL;
    }
    if (p->num_seqs > 0 && r->ahead) {
        r->in_flight = p;
    } else if (p->num_seqs > 0) {
        grew = run_collect(r, p, disturb);
        memset(r->users, 0, (size_t) r->options.num_blocks
                            * sizeof *r->users);
    }
    sched_audit(r->s);
    sched_counts(r->s, &c);
    check_eq(c.num_running + c.num_waiting + c.num_parked, r->num_live);
    r->num_stuck = grew || c.num_running + c.num_waiting == 0
                   ? 0 : r->num_stuck + 1;
    check_le(r->num_stuck, (r->options.max_model_len + 2) * (1 + r->ahead));
}

static void
run_options(struct run *r)
{
    static const int32_t  block_sizes[] = { 1, 2, 4, 16 };
    struct sched_options *o = &r->options;

    o->max_num_seqs = 1 + (int32_t) rnd(r, 8);
    o->max_num_batched_tokens = o->max_num_seqs + (int32_t) rnd(r, 24);
    o->max_model_len = 2 + (int32_t) rnd(r, 60);
    o->max_seqs = o->max_num_seqs + (int32_t) rnd(r, SEQS_MAX - 8);
    o->block_size = block_sizes[rnd(r, 4)];
    o->num_blocks = 2 + (int32_t) rnd(r, rnd(r, 2) == 0 ? 3 : 40);
    o->enable_chunked_prefill = rnd(r, 4) != 0;
    o->max_num_mixed_tokens = (int32_t) rnd(r, 3) * (int32_t) rnd(r, 9);
    if (!o->enable_chunked_prefill
        && o->max_num_batched_tokens < o->max_model_len)
    {
        o->max_num_batched_tokens = o->max_model_len;
    }
}

/* Safety: anything may happen for some steps.  Then liveness: no more
 * disturbance, and everything must end within a bound. */
static int64_t
run_seed(uint64_t seed)
{
    struct run           r = { .seed = seed, .rng = seed * 1000003 };
    struct sched_counts  c;
    int                  num_steps = 60 + (int) rnd(&r, 100), num_drain = 0;

    run_options(&r);
    r.ahead = rnd(&r, 2) == 0;
    r.users = calloc((size_t) r.options.num_blocks, sizeof *r.users);
    check(r.users != NULL);
    check_eq(sched_create(&r.s, &r.options, NULL), OK);
    for (int i = 0; i < num_steps; i++) {
        for (uint64_t n = rnd(&r, 3); n > 0; n--) {
            run_add(&r);
        }
        run_disturb(&r);
        run_step(&r, true);
    }
    for (int i = 0; i < r.num_live; i++) {
        sched_park(r.s, r.live[i], false);
    }
    r.num_stuck = 0;
    while (r.num_live > 0) {
        run_step(&r, false);
        check_le(++num_drain, SEQS_MAX * 200);
    }
    if (r.in_flight != NULL) {
        (void) run_collect(&r, r.in_flight, false);
    }
    sched_audit(r.s);
    sched_counts(r.s, &c);
    check_eq(c.kv_blocks_used, 0);
    sched_destroy(r.s);
    free(r.users);
    return (int64_t) c.num_preemptions;
}

static void
report_seed(void *data)
{
    fprintf(stderr, "failing seed: %llu (run: test_sched %llu 1)\n",
            *(unsigned long long *) data, *(unsigned long long *) data);
}

static void
random_schedules_keep_every_invariant_and_make_progress(void **state)
{
    (void) state;
    unsigned long long  seed;
    int64_t             num_preemptions = 0;

    printf("seeds %llu .. %llu\n", (unsigned long long) first_seed,
           (unsigned long long) first_seed + (unsigned) num_seeds - 1);
    check_set_report(report_seed, &seed);
    for (int i = 0; i < num_seeds; i++) {
        seed = first_seed + (uint64_t) i;
        num_preemptions += run_seed(seed);
    }
    check_set_report(NULL, NULL);
    printf("%lld preemptions\n", (long long) num_preemptions);
    if (num_seeds >= 1000) {
        assert_true(num_preemptions > num_seeds);   /* it does get tight */
    }
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            decodes_come_before_prompt_chunks_and_the_budget_is_kept),
        cmocka_unit_test(admission_is_first_come_first_served),
        cmocka_unit_test(
            the_block_of_the_first_decoded_token_is_reserved_at_admission),
        cmocka_unit_test(the_youngest_is_preempted_and_starts_again),
        cmocka_unit_test(what_can_never_fit_is_refused_with_the_numbers),
        cmocka_unit_test(a_cancel_in_flight_frees_after_the_step),
        cmocka_unit_test(a_parked_sequence_keeps_its_kv_and_resumes_in_decode),
        cmocka_unit_test(
            an_admission_takes_parked_blocks_only_when_nothing_runs),
        cmocka_unit_test(deadlines_expire_in_every_state_and_only_then),
        cmocka_unit_test(
            without_chunks_a_prompt_is_computed_whole_or_not_at_all),
        cmocka_unit_test(
            a_step_with_decodes_is_short_but_never_without_prompts),
        cmocka_unit_test(a_bound_beyond_the_step_is_none),
        cmocka_unit_test(the_next_step_is_planned_by_counts_alone),
        cmocka_unit_test(an_ending_sequence_gives_up_its_seat_but_not_its_life),
        cmocka_unit_test(a_step_of_newcomers_alone_is_thin_until_they_are_many),
        cmocka_unit_test(newcomers_in_every_seat_are_not_thin_however_short),
        cmocka_unit_test(
            a_stop_seen_late_wastes_one_row_and_its_blocks_are_fenced),
        cmocka_unit_test(a_preemption_in_flight_pays_one_step_later),
        cmocka_unit_test(a_lost_device_leaves_nothing_in_flight),
        cmocka_unit_test(impossible_options_are_refused),
        cmocka_unit_test(
            random_schedules_keep_every_invariant_and_make_progress),
    };
    if (argc > 1) {
        first_seed = strtoull(argv[1], NULL, 10);
    }
    if (argc > 2) {
        num_seeds = atoi(argv[2]);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
