/* time_sched.c - what the scheduler's policy does to whom, in virtual time.
 *
 *     make time-sched [A='NAME=VALUE ...']
 *
 * Crowds of requests go through sched.h the way the step loop does it, one step
 * ahead, on a GPU whose steps take step_model.h's times; prints what clients
 * would measure.  Takes a second, needs no GPU, gives the same every time. */
#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/hash.h"
#include "engine/sched/sched.h"
#include "tests/sim/step_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUESTS_MAX   16384
#define INTERVALS_MAX  (1 << 22)
#define BLOCK_SIZE     32
#define MODEL_LEN      32768
#define NEVER          INT64_MAX
#define HOST_NS        (150 * NS_PER_US)  /* from a step's end to the next plan */
#define ISSUE_NS       (100 * NS_PER_US)  /* from there to the first kernel */
#define FRONTEND_NS    (2 * NS_PER_US)    /* between requests that come at once */

struct settings {
    long batched, mixed, seqs, blocks, ahead;
    long client_us;           /* from an answer's end to the next request */
};

static const struct {
    const char *name;
    size_t      offset;
    const char *help;
} knobs[] = {
    { "batched", offsetof(struct settings, batched), "max_num_batched_tokens" },
    { "mixed", offsetof(struct settings, mixed),
      "max_num_mixed_tokens" },
    { "seqs", offsetof(struct settings, seqs), "max_num_seqs" },
    { "blocks", offsetof(struct settings, blocks), "KV blocks of 32 tokens" },
    { "ahead", offsetof(struct settings, ahead), "1: one step ahead" },
    { "client", offsetof(struct settings, client_us),
      "us from an answer to the client's next request" },
};

struct crowd {
    const char *name;
    int32_t     num;
    int32_t     concurrency;  /* 0: all at once, or at `rate` */
    double      rate;         /* requests a second, Poisson */
    int32_t     prompt, output;
    int32_t     long_prompt, long_every;   /* one in so many is so long */
};

static const struct crowd  crowds[] = {
    { "256 at a time, 1000/250", 1280, 256, 0, 1000, 250, 0, 0 },
    { "1000 at once, 1000/1000", 1000, 0, 0, 1000, 1000, 0, 0 },
    { "256 at a time, 16/1", 8192, 256, 0, 16, 1, 0, 0 },
    { "64 at a time, 1 in 16 8k", 640, 64, 0, 1000, 250, 8000, 16 },
    { "1 at a time, 512/128", 20, 1, 0, 512, 128, 0, 0 },
    { "1 at a time, 8000/16", 8, 1, 0, 8000, 16, 0, 0 },
    { "4 a second, 1000/250", 200, 0, 4, 1000, 250, 0, 0 },
    { "16 a second, 1000/250", 600, 0, 16, 1000, 250, 0, 0 },
    { "24 a second, 1000/250", 900, 0, 24, 1000, 250, 0, 0 },
    { "12 a second, 1 in 32 8k", 600, 0, 12, 1000, 250, 8000, 32 },
};

struct request {
    int64_t     arrival_ns, first_ns, last_ns;
    int32_t     prompt, output, num_output;
    struct seq *seq;
};

struct flight {
    struct plan *plan;
    int64_t      end_ns;
};

struct sim {
    struct settings  set;
    struct crowd     crowd;
    struct sched    *sched;
    struct request   requests[REQUESTS_MAX];
    int32_t          num_known, num_arrived, num_ended;
    struct flight    flights[SCHED_STEPS_IN_FLIGHT];   /* by number modulo its
                                                          size */
    int64_t          issued, done;
    int64_t          now_ns;              /* the step thread's */
    int64_t          gpu_ns, idle_ns;     /* the GPU is done then; was idle */
    int64_t          num_mixed, num_tokens, num_preempted;
    double           intervals[INTERVALS_MAX];   /* between tokens, ms */
    int32_t          num_intervals;
};

/* ---- clients ---- */

/* 0 to 1, the same for the same i. */
static double
chance(uint64_t i)
{
    return (double) (hash_mix64(i) >> 11) * 0x1p-53;
}

static void
ask(struct sim *s, int64_t at_ns)
{
    const struct crowd  *c = &s->crowd;
    struct request      *r = &s->requests[s->num_known];

    if (s->num_known == c->num) {
        return;
    }
    s->num_known++;
    *r = (struct request) { .arrival_ns = at_ns, .prompt = c->prompt,
                            .output = c->output };
    if (c->long_every > 0 && s->num_known % c->long_every == 0) {
        r->prompt = c->long_prompt;
    }
}

static void
ask_first(struct sim *s)
{
    const struct crowd  *c = &s->crowd;
    int32_t              num = c->concurrency > 0 ? c->concurrency : c->num;
    double               at_ns = 0;

    for (int32_t i = 0; i < num; i++) {
        at_ns += c->rate > 0 ? -log(1 - chance((uint64_t) i)) / c->rate * 1e9
                             : FRONTEND_NS;
        ask(s, (int64_t) at_ns);
    }
}

static int64_t
next_arrival_ns(const struct sim *s)
{
    return s->num_arrived < s->num_known
           ? s->requests[s->num_arrived].arrival_ns : NEVER;
}

static void
take_arrivals(struct sim *s)
{
    while (next_arrival_ns(s) <= s->now_ns) {
        struct request  *r = &s->requests[s->num_arrived++];
        r->seq = sched_add(s->sched, &(struct seq_desc) {
            .id = (uint64_t) s->num_arrived, .user = r,
            .num_prompt_tokens = r->prompt, .max_tokens = r->output },
            s->now_ns);
    }
}

static void
take_token(struct sim *s, struct request *r)
{
    if (r->num_output++ == 0) {
        r->first_ns = s->now_ns;
    } else {
        check_lt(s->num_intervals, INTERVALS_MAX);
        s->intervals[s->num_intervals++] =
            (double) (s->now_ns - r->last_ns) / NS_PER_MS;
    }
    r->last_ns = s->now_ns;
    s->num_tokens++;
    if (r->num_output == r->output) {
        double  pause = chance((uint64_t) s->num_ended + 7919) + 0.5;
        sched_finish(s->sched, r->seq);
        s->num_ended++;
        if (s->crowd.concurrency > 0) {
            ask(s, s->now_ns + (int64_t) (pause * (double) s->set.client_us
                                          * NS_PER_US));
        }
    }
}

/* ---- the step loop ---- */

static int64_t
plan_ns(const struct plan *plan)
{
    double  ms = step_model_products(plan->num_tokens);

    for (int32_t i = 0; i < plan->num_seqs; i++) {
        const struct plan_seq  *p = &plan->seqs[i];
        ms += step_model_attention(p->num_tokens, p->position + p->num_tokens);
    }
    return (int64_t) (ms * NS_PER_MS);
}

static struct flight *
flight_of(struct sim *s, int64_t number)
{
    return &s->flights[number % SCHED_STEPS_IN_FLIGHT];
}

static void
collect(struct sim *s)
{
    struct flight  *f = flight_of(s, s->done++);

    s->now_ns = f->end_ns > s->now_ns ? f->end_ns : s->now_ns;
    s->now_ns += HOST_NS;
    sched_done(s->sched);
    for (int32_t i = 0; i < f->plan->num_seqs; i++) {
        const struct plan_seq  *p = &f->plan->seqs[i];
        if (p->sample && p->seq != NULL) {
            take_token(s, p->seq->user);
        }
    }
}

static void
issue(struct sim *s, struct plan *plan)
{
    s->now_ns += ISSUE_NS;
    if (s->now_ns > s->gpu_ns) {
        s->idle_ns += s->issued > 0 ? s->now_ns - s->gpu_ns : 0;
        s->gpu_ns = s->now_ns;
    }
    s->gpu_ns += plan_ns(plan);
    s->num_mixed += plan->num_prefill_tokens > 0 && plan->num_decode_seqs > 0;
    s->num_preempted += plan->num_preempted;
    *flight_of(s, s->issued++) = (struct flight) { plan, s->gpu_ns };
    sched_issued(s->sched);
}

/* As engine_gather() does it. */
static void
gather(struct sim *s)
{
    take_arrivals(s);
    while (s->issued > s->done && sched_is_thin(s->sched)
           && s->now_ns < flight_of(s, s->done)->end_ns)
    {
        int64_t  end_ns = flight_of(s, s->done)->end_ns;
        s->now_ns = next_arrival_ns(s) < end_ns ? next_arrival_ns(s) : end_ns;
        take_arrivals(s);
    }
}

static void
turn(struct sim *s)
{
    gather(s);
    struct plan  *plan = sched_next(s->sched, s->now_ns);
    if (plan->num_seqs > 0) {
        issue(s, plan);
    }
    while (s->issued - s->done > (plan->num_seqs > 0 && s->set.ahead ? 1 : 0)) {
        collect(s);
    }
    if (s->issued == s->done && next_arrival_ns(s) != NEVER
        && next_arrival_ns(s) > s->now_ns)
    {
        s->now_ns = next_arrival_ns(s);
        s->gpu_ns = s->now_ns;        /* nothing to do is not idle */
    }
}

/* ---- the report ---- */

static int
compare(const void *a, const void *b)
{
    double  x = *(const double *) a, y = *(const double *) b;
    return x < y ? -1 : x > y;
}

static double
percentile(const double *sorted, int32_t num, double percent)
{
    return num == 0 ? 0 : sorted[(int32_t) ((num - 1) * percent / 100)];
}

static void
report(struct sim *s)
{
    static double  ttft[REQUESTS_MAX];
    int32_t        num = s->crowd.num, num_itl = s->num_intervals;
    double         seconds = (double) s->now_ns / NS_PER_S;

    for (int32_t i = 0; i < num; i++) {
        const struct request  *r = &s->requests[i];
        ttft[i] = (double) (r->first_ns - r->arrival_ns) / NS_PER_MS;
    }
    qsort(ttft, (size_t) num, sizeof *ttft, compare);
    qsort(s->intervals, (size_t) num_itl, sizeof *s->intervals, compare);
    printf("%-26s %7.0f %7.1f  %7.1f %8.1f  %5.1f %5.1f %6.1f  %5lld %5lld "
           "%5.0f %4lld %5.2f\n", s->crowd.name,
           (double) s->num_tokens / seconds, num / seconds,
           percentile(ttft, num, 50), percentile(ttft, num, 99),
           percentile(s->intervals, num_itl, 50),
           percentile(s->intervals, num_itl, 99),
           percentile(s->intervals, num_itl, 100), (long long) s->issued,
           (long long) s->num_mixed,
           (double) s->num_tokens / (double) s->issued,
           (long long) s->num_preempted,
           100.0 * (double) s->idle_ns / (double) s->now_ns);
}

static void
run(const struct settings *set, const struct crowd *crowd)
{
    struct sim           *s = calloc(1, sizeof *s);
    struct err            err = { 0 };
    struct sched_options  o = {
        .max_num_seqs = (int32_t) set->seqs,
        .max_num_batched_tokens = (int32_t) set->batched,
        .max_num_mixed_tokens = (int32_t) set->mixed,
        .max_model_len = MODEL_LEN, .max_seqs = REQUESTS_MAX,
        .block_size = BLOCK_SIZE, .num_blocks = (int32_t) set->blocks,
        .enable_chunked_prefill = true };

    check(s != NULL);
    s->set = *set;
    s->crowd = *crowd;
    if (sched_create(&s->sched, &o, &err) != OK) {
        fprintf(stderr, "time-sched: %s\n", err.message);
        exit(2);
    }
    ask_first(s);
    while (s->num_ended < crowd->num) {
        turn(s);
    }
    report(s);
    sched_destroy(s->sched);
    free(s);
}

static void
usage(void)
{
    fprintf(stderr, "usage: time-sched [NAME=VALUE]... [part of a crowd's "
            "name]\n");
    for (size_t i = 0; i < sizeof knobs / sizeof *knobs; i++) {
        fprintf(stderr, "  %-8s %s\n", knobs[i].name, knobs[i].help);
    }
    exit(2);
}

static void
set_knob(struct settings *set, const char *word)
{
    size_t  len = strcspn(word, "=");

    for (size_t i = 0; i < sizeof knobs / sizeof *knobs; i++) {
        if (strlen(knobs[i].name) == len
            && memcmp(knobs[i].name, word, len) == 0)
        {
            long  value = strtol(word + len + 1, NULL, 10);
            memcpy((char *) set + knobs[i].offset, &value, sizeof value);
            return;
        }
    }
    usage();
}

int
main(int argc, char **argv)
{
    struct settings  set = { .batched = 2048, .mixed = 1024, .seqs = 512,
                             .blocks = 27700, .ahead = 1, .client_us = 1000 };
    const char      *only = "";

    for (int i = 1; i < argc; i++) {
        if (strchr(argv[i], '=') != NULL) {
            set_knob(&set, argv[i]);
        } else {
            only = argv[i];
        }
    }
    printf("%-26s %7s %7s  %16s  %18s  %5s %5s %5s %4s %5s\n", "", "output",
           "req/s", "TTFT p50, p99", "ITL p50, p99, max", "steps", "mixed",
           "t/st.", "pre.", "idle%");
    for (size_t i = 0; i < sizeof crowds / sizeof *crowds; i++) {
        if (strstr(crowds[i].name, only) != NULL) {
            run(&set, &crowds[i]);
        }
    }
    return 0;
}
