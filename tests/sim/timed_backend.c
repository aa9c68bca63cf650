/* timed_backend.c - a device that computes nothing and takes the time that an
 * H200 takes for Llama-3-8B's shapes: what is between a client and the kernels
 * can be timed with the real programs where there is no GPU.
 *
 *     make timed-backend
 *     build/release/timed/nginx-llm-bench throughput --model DIR
 *         --load-format dummy --device cuda --max-model-len 4096 --trace FILE
 *     llm_engine chat { binary .../build/release/timed/nginx-llm-engine; ... }
 *
 * It is an nginx-llm-cuda.so of its own, beside links to the programs; DIR has
 * the model's config.json, and tokenizer.json.  The first word of the
 * --gemm-cache file, if there is one, is a factor for all times: 4 where few
 * cores do the work of many, 0.001 to see what the rest can do by itself.
 *
 * A step runs from its issue, or the end of the one before, for step_model.h's
 * time.  Ids are a count.  --trace says how long it was idle. */
#include "engine/backend/cuda/backend_cuda.h"
#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "tests/sim/step_model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#define MEMORY       ((size_t) 150 << 30)     /* of the device, bytes */
#define STEPS_KEPT   4
#define ALLOCS_MAX   4096
#define FIRST_ID     300                      /* an ordinary token of any
                                                 vocabulary */
#define NUM_IDS      50000
#define ISSUE_NS     (600 * NS_PER_US)        /* the host's, for a step that is
                                                 not replayed */

struct timed_step {
    int64_t  begin_ns, end_ns, idle_ns;
    int      num_rows;
};

struct timed_backend {
    struct backend      base;      /* first */
    struct backend_ops  ops;
    double              factor;
    size_t              used;
    size_t              sizes[ALLOCS_MAX];
    void               *addresses[ALLOCS_MAX];
    int64_t             free_ns;   /* the last step issued has ended */
    int64_t             step_ns;   /* of the one being issued */
    struct timed_step   steps[STEPS_KEPT];
    unsigned int        num_issued, num_collected;
    int32_t             id;
};

struct weight {
    int  nothing;
};

static struct timed_backend *
timed_of(struct backend *be)
{
    return (struct timed_backend *) be;
}

/* ---- memory that nobody touches ---- */

static int
timed_alloc(struct backend *be, size_t bytes, void **out, struct err *err)
{
    struct timed_backend  *tb = timed_of(be);
    int                    i = 0;

    while (i < ALLOCS_MAX && tb->addresses[i] != NULL) {
        i++;
    }
    *out = i == ALLOCS_MAX ? MAP_FAILED
           : mmap(NULL, bytes + 1, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (*out == MAP_FAILED) {
        *out = NULL;
        return err_set(err, "timed: %zu bytes: %s", bytes, strerror(errno));
    }
    tb->addresses[i] = *out;
    tb->sizes[i] = bytes + 1;
    tb->used += bytes;
    return OK;
}

static void
timed_free(struct backend *be, void *data)
{
    struct timed_backend  *tb = timed_of(be);

    for (int i = 0; i < ALLOCS_MAX && data != NULL; i++) {
        if (tb->addresses[i] == data) {
            (void) munmap(data, tb->sizes[i]);
            tb->used -= tb->sizes[i] - 1;
            tb->addresses[i] = NULL;
            return;
        }
    }
}

static int
timed_memory(struct backend *be, size_t *free_bytes, size_t *total_bytes,
             struct err *err)
{
    (void) err;
    *total_bytes = MEMORY;
    *free_bytes = MEMORY - timed_of(be)->used - ((size_t) 15 << 30);
    return OK;
}

static void
timed_fill(struct backend *be, void *data, int byte, size_t bytes)
{
    (void) be, (void) data, (void) byte, (void) bytes;
}

static void
timed_upload(struct backend *be, void *dst, const void *src, size_t bytes)
{
    (void) be, (void) dst, (void) src, (void) bytes;
}

static void
timed_download(struct backend *be, void *dst, const void *src, size_t bytes)
{
    (void) be, (void) src;
    memset(dst, 0, bytes);
}

static int
timed_weight_create(struct backend *be, const struct weight_desc *desc,
                    struct weight **out, struct err *err)
{
    (void) be, (void) desc;
    *out = calloc(1, sizeof **out);
    return *out == NULL ? err_set(err, "timed: out of memory") : OK;
}

static void
timed_weight_destroy(struct backend *be, struct weight *w)
{
    (void) be;
    free(w);
}

static int
timed_reserve(struct backend *be, const struct backend_limits *limits,
              struct err *err)
{
    (void) be, (void) limits, (void) err;
    return OK;
}

/* ---- steps ---- */

static int64_t
step_ns(const struct step_inputs *in)
{
    double  ms = step_model_products(in->num_tokens);

    if (in->slot_mapping[0] == SLOT_PADDING) {
        return 0;                    /* warming up */
    }
    for (int s = 0; s < in->num_seqs; s++) {
        ms += step_model_attention(in->cu_seqlens_q[s + 1]
                                   - in->cu_seqlens_q[s],
                                   in->context_lens[s]);
    }
    return (int64_t) (ms * NS_PER_MS);
}

static void
sleep_until(int64_t ns)
{
    const struct timespec  until = { ns / NS_PER_S, ns % NS_PER_S };

    while (clock_now_ns() < ns
           && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL)
              == EINTR)
    {
    }
}

static enum step_action
timed_step_begin(struct backend *be, const struct step_inputs *in)
{
    struct timed_backend  *tb = timed_of(be);

    /* whoever steps: the timers of its thread shall be exact */
    (void) prctl(PR_SET_TIMERSLACK, 1L, 0L, 0L, 0L);
    tb->step_ns = (int64_t) ((double) step_ns(in) * tb->factor);
    if (in->num_tokens != in->num_seqs) {
        sleep_until(clock_now_ns() + ISSUE_NS);
    }
    return STEP_REPLAY;
}

static void
timed_step_end(struct backend *be)
{
    (void) be;
}

static void
timed_sample(struct backend *be, const struct sample_args *args)
{
    struct timed_backend  *tb = timed_of(be);
    struct timed_step     *step = &tb->steps[tb->num_issued % STEPS_KEPT];
    int64_t                now_ns = clock_now_ns();

    check_lt(tb->num_issued - tb->num_collected, SAMPLES_IN_FLIGHT);
    step->begin_ns = now_ns > tb->free_ns ? now_ns : tb->free_ns;
    step->idle_ns = step->begin_ns - tb->free_ns;
    step->end_ns = step->begin_ns + tb->step_ns;
    step->num_rows = args->num_rows;
    tb->free_ns = step->end_ns;
    tb->num_issued++;
}

static int
timed_sampled(struct backend *be, int32_t *token_ids, struct err *err)
{
    struct timed_backend  *tb = timed_of(be);
    struct timed_step     *step = &tb->steps[tb->num_collected % STEPS_KEPT];

    (void) err;
    check(tb->num_collected != tb->num_issued);
    sleep_until(step->end_ns);
    tb->num_collected++;
    for (int i = 0; i < step->num_rows; i++) {
        token_ids[i] = FIRST_ID + tb->id++ % NUM_IDS;
    }
    return OK;
}

static bool
timed_sample_is_done(struct backend *be)
{
    const struct timed_backend  *tb = timed_of(be);

    return clock_now_ns() >= tb->steps[tb->num_collected % STEPS_KEPT].end_ns;
}

static void
timed_time_steps(struct backend *be)
{
    (void) be;
}

static bool
timed_step_time(struct backend *be, struct step_time *out)
{
    struct timed_backend     *tb = timed_of(be);
    const struct timed_step  *step =
        &tb->steps[(tb->num_collected - 1) % STEPS_KEPT];

    *out = (struct step_time) { step->idle_ns, step->end_ns - step->begin_ns };
    return true;
}

static int
timed_sync(struct backend *be, struct err *err)
{
    (void) err;
    sleep_until(timed_of(be)->free_ns);
    return OK;
}

static void
timed_destroy(struct backend *be)
{
    free(be);
}

static double
read_factor(const char *path)
{
    FILE    *f = path == NULL ? NULL : fopen(path, "r");
    double   factor = 1;

    if (f != NULL) {
        if (fscanf(f, "%lf", &factor) != 1) {
            factor = 1;
        }
        (void) fclose(f);
    }
    return factor;
}

int
backend_cuda_create(struct backend **out, const struct backend_cuda_options *o,
                    struct err *err)
{
    struct timed_backend  *tb = calloc(1, sizeof *tb);

    *out = NULL;
    if (tb == NULL || o->abi != BACKEND_CUDA_ABI) {
        free(tb);
        return err_set(err, "timed: another version, or out of memory");
    }
    tb->factor = read_factor(o->gemm_cache);
    tb->ops = (struct backend_ops) {
        .name = "a timed device", .makes_random = true,
        .destroy = timed_destroy, .alloc = timed_alloc, .free = timed_free,
        .memory = timed_memory, .fill = timed_fill, .upload = timed_upload,
        .download = timed_download, .weight_create = timed_weight_create,
        .weight_destroy = timed_weight_destroy, .reserve = timed_reserve,
        .step_begin = timed_step_begin, .step_end = timed_step_end,
        .sample = timed_sample, .sampled = timed_sampled,
        .sample_is_done = timed_sample_is_done,
        .time_steps = timed_time_steps, .step_time = timed_step_time,
        .sync = timed_sync
    };
    tb->base.ops = &tb->ops;
    *out = &tb->base;
    return OK;
}
