/* fake_stream.c - work runs late and at random times; events and graphs.
 *
 * A job is known by its number.  What the host waits for is that all jobs below
 * a number have run, so an event is a number. */
#include "tests/sim/cuda/fake_gpu.h"

#include <stdlib.h>
#include <string.h>

#define RUN_ONE_IN   16      /* calls: at one, the device runs */
#define RUN_JOBS     64      /* up to so many jobs */

struct fake_event {
    uint64_t  job;           /* all below */
    bool      timed, recorded;
};

/* ---- the queue ------------------------------------------------------------------- */

void
fake_run_until(uint64_t job)
{
    uint64_t  end = job < fake.tail ? job : fake.tail;
    while (fake.head < end) {
        struct fake_job  j = fake.queue[fake.head++ % FAKE_QUEUE];
        j.run(j.args);
        free(j.args);
    }
}

void
fake_queue_drop(void)
{
    while (fake.head < fake.tail) {
        free(fake.queue[fake.head++ % FAKE_QUEUE].args);
    }
}

static void
run_some(void)
{
    if (fake_random(&fake.rng, RUN_ONE_IN) == 0) {
        fake_run_until(fake.head
                       + (uint64_t) fake_random(&fake.rng, RUN_JOBS));
    }
}

static void
record_job(struct fake_graph *g, struct fake_job job)
{
    if (g->num == g->max) {
        g->max = g->max == 0 ? 64 : 2 * g->max;
        g->jobs = realloc(g->jobs, (size_t) g->max * sizeof *g->jobs);
        FAKE_CHECK(g->jobs != NULL);
    }
    g->jobs[g->num++] = job;
}

void
fake_push(void (*run)(void *args), const void *args, size_t bytes,
          const void *more, size_t more_bytes)
{
    struct fake_job  job = { run, malloc(bytes + more_bytes),
                             bytes + more_bytes };
    FAKE_CHECK(job.args != NULL);
    memcpy(job.args, args, bytes);
    if (more_bytes > 0) {
        memcpy((char *) job.args + bytes, more, more_bytes);
    }
    if (fake.recording != NULL) {
        record_job(fake.recording, job);
        return;
    }
    if (fake.tail - fake.head == FAKE_QUEUE) {
        fake_run_until(fake.head + 1);
    }
    fake.queue[fake.tail++ % FAKE_QUEUE] = job;
    run_some();
}

/* ---- streams and events -------------------------------------------------------------- */

cudaError_t
cudaStreamCreateWithFlags(cudaStream_t *out, unsigned int flags)
{
    (void) flags;
    if (fake_fails(FAKE_STREAM)) {
        return cudaErrorMemoryAllocation;
    }
    FAKE_CHECK(fake.stream == NULL);
    *out = fake.stream = (cudaStream_t) (void *) &fake;
    fake.live_streams++;
    return cudaSuccess;
}

cudaError_t
cudaStreamDestroy(cudaStream_t stream)
{
    FAKE_CHECK(stream == fake.stream);
    fake.stream = NULL;
    fake.live_streams--;
    return cudaSuccess;
}

cudaError_t
cudaStreamSynchronize(cudaStream_t stream)
{
    FAKE_CHECK(stream == fake.stream && fake.recording == NULL);
    fake_run_until(fake.tail);
    return cudaSuccess;
}

cudaError_t
cudaEventCreateWithFlags(cudaEvent_t *out, unsigned int flags)
{
    struct fake_event  *e;
    if (fake_fails(FAKE_EVENT)) {
        return cudaErrorMemoryAllocation;
    }
    e = calloc(1, sizeof *e);
    FAKE_CHECK(e != NULL);
    e->timed = (flags & cudaEventDisableTiming) == 0;
    *out = (cudaEvent_t) (void *) e;
    fake.live_events++;
    return cudaSuccess;
}

cudaError_t
cudaEventCreate(cudaEvent_t *out)
{
    return cudaEventCreateWithFlags(out, cudaEventDefault);
}

cudaError_t
cudaEventDestroy(cudaEvent_t event)
{
    free(event);
    fake.live_events--;
    return cudaSuccess;
}

cudaError_t
cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    struct fake_event  *e = (void *) event;
    FAKE_CHECK(stream == fake.stream && fake.recording == NULL);
    e->job = fake.tail;
    e->recorded = true;
    return cudaSuccess;
}

cudaError_t
cudaEventSynchronize(cudaEvent_t event)
{
    fake_run_until(((struct fake_event *) (void *) event)->job);
    return cudaSuccess;
}

cudaError_t
cudaEventQuery(cudaEvent_t event)
{
    run_some();
    return fake.head >= ((struct fake_event *) (void *) event)->job
           ? cudaSuccess : cudaErrorNotReady;
}

/* Times are random: so is what is found to be the fastest. */
cudaError_t
cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    const struct fake_event  *a = (void *) from, *b = (void *) to;
    FAKE_CHECK(a->timed && b->timed && a->recorded && b->recorded);
    FAKE_CHECK(fake.head >= a->job && fake.head >= b->job);
    *ms = 0.001f * (float) (1 + fake_random(&fake.rng, 50));
    return cudaSuccess;
}

/* ---- graphs --------------------------------------------------------------------------- */

static void
graph_free(struct fake_graph *g)
{
    for (int i = 0; i < g->num; i++) {
        free(g->jobs[i].args);
    }
    free(g->jobs);
    free(g);
    fake.live_graphs--;
}

static struct fake_graph *
graph_create(void)
{
    struct fake_graph  *g = calloc(1, sizeof *g);
    FAKE_CHECK(g != NULL);
    fake.live_graphs++;
    return g;
}

cudaError_t
cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    (void) mode;
    FAKE_CHECK(stream == fake.stream && fake.recording == NULL);
    if (fake_fails(FAKE_GRAPH)) {
        return cudaErrorMemoryAllocation;
    }
    fake.recording = graph_create();
    fake.first = true;
    return cudaSuccess;
}

cudaError_t
cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out)
{
    struct fake_graph  *g = fake.recording;
    FAKE_CHECK(stream == fake.stream && g != NULL);
    fake.recording = NULL;
    if (fake_fails(FAKE_GRAPH)) {
        graph_free(g);
        *out = NULL;
        return cudaErrorMemoryAllocation;
    }
    *out = (cudaGraph_t) (void *) g;
    return cudaSuccess;
}

cudaError_t
cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph,
                     unsigned long long flags)
{
    const struct fake_graph  *from = (void *) graph;
    (void) flags;
    if (fake_fails(FAKE_GRAPH)) {
        return cudaErrorMemoryAllocation;
    }
    struct fake_graph  *g = graph_create();
    for (int i = 0; i < from->num; i++) {
        struct fake_job  job = from->jobs[i];
        job.args = malloc(job.bytes);
        FAKE_CHECK(job.args != NULL);
        memcpy(job.args, from->jobs[i].args, job.bytes);
        record_job(g, job);
    }
    *out = (cudaGraphExec_t) (void *) g;
    return cudaSuccess;
}

cudaError_t
cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    const struct fake_graph  *g = (void *) exec;
    FAKE_CHECK(stream == fake.stream && fake.recording == NULL);
    fake.first = false;
    if (fake_fails(FAKE_GRAPH)) {
        return cudaErrorMemoryAllocation;
    }
    for (int i = 0; i < g->num; i++) {
        fake_push(g->jobs[i].run, g->jobs[i].args, g->jobs[i].bytes, NULL, 0);
    }
    return cudaSuccess;
}

cudaError_t
cudaGraphDestroy(cudaGraph_t graph)
{
    graph_free((void *) graph);
    return cudaSuccess;
}

cudaError_t
cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    graph_free((void *) exec);
    return cudaSuccess;
}
