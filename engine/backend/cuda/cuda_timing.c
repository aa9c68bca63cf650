/* cuda_timing.c - events around steps, for the trace of an engine that has one.
 *
 * A step is known by the number of its sample().  When it is collected the next
 * one is on its way and the one after that may be; the end of the one before is
 * still needed: hence a ring of CUDA_STEPS_TIMED. */
#include "engine/backend/cuda/cuda_internal.h"

#include <limits.h>

static struct cuda_timing *
timing_of(struct cuda_backend *cb, unsigned int sample)
{
    return &cb->timings[sample % CUDA_STEPS_TIMED];
}

void
cuda_time_steps(struct backend *be)
{
    struct cuda_backend  *cb = (struct cuda_backend *) be;
    for (int i = 0; i < CUDA_STEPS_TIMED && !cb->timing; i++) {
        if (!cuda_keep(cb, cudaEventCreate(&cb->timings[i].begin), "timing")
            || !cuda_keep(cb, cudaEventCreate(&cb->timings[i].end), "timing"))
        {
            return;
        }
    }
    cb->timing = true;
    cb->timed_from = cb->samples_issued;
}

void
cuda_timing_begin(struct cuda_backend *cb)
{
    if (cb->timing) {
        (void) cuda_keep(cb, cudaEventRecord(
            timing_of(cb, cb->samples_issued)->begin, cb->stream), "timing");
    }
}

void
cuda_timing_end(struct cuda_backend *cb)
{
    if (cb->timing) {
        (void) cuda_keep(cb, cudaEventRecord(
            timing_of(cb, cb->samples_issued)->end, cb->stream), "timing");
    }
}

static int64_t
elapsed_ns(struct cuda_backend *cb, cudaEvent_t from, cudaEvent_t to)
{
    float  ms = 0.0f;
    (void) cuda_keep(cb, cudaEventElapsedTime(&ms, from, to), "timing");
    return (int64_t) (1e6 * (double) ms);
}

bool
cuda_step_time(struct backend *be, struct step_time *out)
{
    struct cuda_backend  *cb = (struct cuda_backend *) be;
    unsigned int          last = cb->samples_collected - 1;
    /* the first one timed has no end before it */
    if (!cb->timing || cb->failed || last - cb->timed_from < 1
        || last - cb->timed_from >= UINT_MAX / 2)
    {
        return false;
    }
    struct cuda_timing  *t = timing_of(cb, last);
    *out = (struct step_time) {
        .idle_ns = elapsed_ns(cb, timing_of(cb, last - 1)->end, t->begin),
        .run_ns = elapsed_ns(cb, t->begin, t->end) };
    return true;
}

void
cuda_timing_release(struct cuda_backend *cb)
{
    for (int i = 0; i < CUDA_STEPS_TIMED; i++) {
        if (cb->timings[i].begin != NULL) {
            (void) cudaEventDestroy(cb->timings[i].begin);
        }
        if (cb->timings[i].end != NULL) {
            (void) cudaEventDestroy(cb->timings[i].end);
        }
        cb->timings[i] = (struct cuda_timing) { NULL, NULL };
    }
    cb->timing = false;
}
