/* cuda_sample.c - token ids from logits, two steps' worth on their way.
 *
 * The kernels leave a row's id in device memory, where the next step's
 * INPUT_SAMPLED finds it, and in pinned host memory, where sampled() finds it
 * behind an event.  Parameters are read by the kernels from pinned memory. */
#include "engine/backend/cuda/cuda_internal.h"
#include "engine/base/check.h"

#include <string.h>

#include "kernels/sample_math.h"

#define MASKS_PER_ROW  32       /* room; more are masked in turns */

static int
masks_max(const struct cuda_backend *cb)
{
    return cb->limits.max_num_logits * MASKS_PER_ROW;
}

/* ---- room ---------------------------------------------------------------------- */

static void
release_sample(struct cuda_sample *s)
{
    void *const  pinned[] = { s->ids, s->rows, s->masks };
    for (size_t i = 0; i < sizeof pinned / sizeof *pinned; i++) {
        if (pinned[i] != NULL) {
            (void) cudaFreeHost(pinned[i]);
        }
    }
    if (s->done != NULL) {
        (void) cudaEventDestroy(s->done);
    }
    *s = (struct cuda_sample) { .ids = NULL };
}

static void
release_words(struct cuda_backend *cb)
{
    cuda_free(&cb->base, cb->sampling.keys);
    cuda_free(&cb->base, cb->sampling.sums);
    cb->sampling.keys = NULL;
    cb->sampling.sums = NULL;
    cb->sampling_words = 0;
}

void
cuda_sample_release(struct cuda_backend *cb)
{
    for (int i = 0; i < SAMPLES_IN_FLIGHT; i++) {
        release_sample(&cb->samples[i]);
    }
    release_words(cb);
    cuda_free(&cb->base, cb->sampling.parts);
    cuda_free(&cb->base, cb->sampling.rows);
    cuda_free(&cb->base, cb->sampling.counters);
    cuda_free(&cb->base, cb->sampled);
    cb->sampling = (struct sample_state) { .keys = NULL };
    cb->sampled = NULL;
    cb->samples_issued = cb->samples_collected = 0;
    cb->num_sampled = 0;
}

static int
reserve_sample(struct cuda_sample *s, size_t rows, struct err *err)
{
    void         *ids = NULL, *params = NULL, *masks = NULL;
    cudaError_t   e = cudaMallocHost(&ids, rows * sizeof *s->ids);
    s->ids = ids;
    if (e == cudaSuccess) {
        e = cudaMallocHost(&params, rows * sizeof *s->rows);
        s->rows = params;
    }
    if (e == cudaSuccess) {
        e = cudaMallocHost(&masks, rows * MASKS_PER_ROW * 2 * sizeof(int32_t));
        s->masks = masks;
    }
    if (e == cudaSuccess) {
        e = cudaEventCreateWithFlags(&s->done, cudaEventDisableTiming);
    }
    return e == cudaSuccess ? OK : err_set(err, "pinned memory for sampling "
                                           "%zu rows: %s; lower "
                                           "--max-num-seqs", rows,
                                           cudaGetErrorString(e));
}

int
cuda_sample_reserve(struct cuda_backend *cb, const struct backend_limits *l,
                    struct err *err)
{
    struct backend  *be = &cb->base;
    size_t           rows = (size_t) (l->max_num_logits > 0
                                      ? l->max_num_logits : 1);
    void            *parts, *states, *counters, *sampled;
    for (int i = 0; i < SAMPLES_IN_FLIGHT; i++) {
        if (reserve_sample(&cb->samples[i], rows, err) != OK) {
            return ERROR;
        }
    }
    if (cuda_alloc(be, rows * SAMPLE_SLICES_MAX * sizeof(uint64_t), &parts,
                   err) != OK)
    {
        return ERROR;
    }
    cb->sampling.parts = parts;
    if (cuda_alloc(be, rows * sizeof *cb->sampling.rows, &states, err) != OK) {
        return ERROR;
    }
    cb->sampling.rows = states;
    if (cuda_alloc(be, rows * sizeof(unsigned int), &counters, err) != OK) {
        return ERROR;
    }
    cb->sampling.counters = counters;
    if (cuda_alloc(be, rows * sizeof(int32_t), &sampled, err) != OK) {
        return ERROR;
    }
    cb->sampled = sampled;
    cb->ops.fill(be, counters, 0, rows * sizeof(unsigned int));
    cb->ops.fill(be, sampled, 0, rows * sizeof(int32_t));
    return OK;
}

/* Scratch of the slow kernels.  The vocabulary is known when the first row is
 * sampled; a second, larger one makes this wait once. */
static bool
reserve_words(struct cuda_backend *cb, int64_t vocab_size)
{
    struct err  err = { 0 };
    size_t      rows = (size_t) cb->limits.max_num_logits;
    size_t      words = (size_t) (vocab_size + SAMPLE_BLOCK_TOKENS - 1)
                        / SAMPLE_BLOCK_TOKENS;
    void       *keys = NULL, *sums = NULL;
    if (words <= cb->sampling_words) {
        return true;
    }
    (void) cuda_keep(cb, cudaStreamSynchronize(cb->stream), "sample");
    release_words(cb);
    if (cuda_alloc(&cb->base, rows * words * sizeof(uint32_t), &keys, &err)
        != OK
        || cuda_alloc(&cb->base, rows * words * sizeof(uint64_t), &sums, &err)
           != OK)
    {
        cuda_free(&cb->base, keys);
        return cuda_keep(cb, cudaErrorMemoryAllocation, "scratch of sample()");
    }
    cb->sampling.keys = keys;
    cb->sampling.sums = sums;
    cb->sampling_words = words;
    return true;
}

/* ---- sample --------------------------------------------------------------------- */

static void
issue_masks(struct cuda_backend *cb, struct cuda_sample *s,
            const struct sample_args *args)
{
    int  vocab = (int) args->logits.shape[1], num = 0;
    for (int row = 0; row < args->num_rows; row++) {
        const struct sample_row  *r = &args->rows[row];
        for (int i = 0; i < r->num_masked; i++) {
            int32_t  id = r->masked_ids[i];
            if (id < 0 || id >= vocab) {
                continue;
            }
            if (num == masks_max(cb)) {        /* room for the rest */
                (void) cuda_keep(cb, sample_mask_launch(
                    args->logits.data, vocab, s->masks, num, cb->stream),
                    "mask");
                (void) cuda_keep(cb, cudaStreamSynchronize(cb->stream),
                                 "mask");
                num = 0;
            }
            s->masks[2 * num] = row;
            s->masks[2 * num + 1] = id;
            num++;
        }
    }
    if (num > 0) {
        (void) cuda_keep(cb, sample_mask_launch(args->logits.data, vocab,
                                                s->masks, num, cb->stream),
                         "mask");
    }
}

/* The rows' parameters to pinned memory, and what they have in common to the
 * launch; false: one is not for the fast kernel. */
static bool
pack_rows(struct cuda_sample *s, const struct sample_args *args,
          struct sample_launch *p)
{
    bool  fast = true;
    for (int i = 0; i < args->num_rows; i++) {
        const struct sample_row  *r = &args->rows[i];
        bool  greedy = r->temperature < SAMPLE_TEMPERATURE_MIN
                       || r->top_k == 1;
        s->rows[i] = (struct sample_params) {
            .temperature = r->temperature, .top_p = r->top_p,
            .min_p = r->min_p, .top_k = r->top_k, .seed = r->seed,
            .position = r->position };
        fast = fast && r->temperature <= SAMPLE_SM90_TEMPERATURE_MAX;
        p->all_greedy = p->all_greedy && greedy;
        p->any_filter = p->any_filter
                        || (!greedy
                            && ((r->top_k > 0 && r->top_k < p->vocab_size)
                                || r->top_p < 1.0f));
    }
    return fast;
}

static void
issue_sample(struct cuda_backend *cb, struct sample_launch *p, bool fast)
{
    if (fast && !cb->simple_kernels && sample_sm90_takes(p)) {
        if (cb->sample_vocab != p->vocab_size) {
            (void) cuda_keep(cb, sample_sm90_at_once(p->vocab_size,
                                                     cb->sample_at_once),
                             "sample");
            cb->sample_vocab = p->vocab_size;
        }
        memcpy(p->clusters_at_once, cb->sample_at_once,
               sizeof p->clusters_at_once);
        (void) cuda_keep(cb, sample_sm90_launch(p, cb->stream), "sample");
    } else if (reserve_words(cb, p->vocab_size)) {
        p->state = cb->sampling;
        (void) cuda_keep(cb, sample_launch_rows(p, cb->stream), "sample");
    }
}

void
cuda_sample(struct backend *be, const struct sample_args *args)
{
    struct cuda_backend   *cb = (struct cuda_backend *) be;
    struct cuda_sample    *s = &cb->samples[cb->samples_issued
                                            % SAMPLES_IN_FLIGHT];
    int64_t                vocab = args->logits.shape[1];
    struct sample_launch   p = {
        .logits = args->logits.data, .vocab_size = (int) vocab,
        .num_rows = args->num_rows, .num_sms = cb->num_sms, .all_greedy = 1,
        .cluster_max = cb->sample_cluster_max, .pdl = cb->pdl,
        .params = s->rows, .ids = cb->sampled, .host_ids = s->ids };
    check(!cb->in_step);
    check_lt(cb->samples_issued - cb->samples_collected, SAMPLES_IN_FLIGHT);
    check(args->logits.dtype == DTYPE_F32 && args->logits.ndim == 2);
    check(args->num_rows >= 0 && args->num_rows <= cb->limits.max_num_logits);
    check(args->num_rows <= args->logits.shape[0]);
    check(vocab >= 1 && vocab <= 1 << 22);
    (void) cuda_keep(cb, cudaSetDevice(cb->device_idx), "cudaSetDevice");
    bool  fast = pack_rows(s, args, &p);
    s->num_rows = args->num_rows;
    if (args->num_rows > 0) {
        issue_masks(cb, s, args);
        issue_sample(cb, &p, fast);
    }
    cuda_timing_end(cb);
    (void) cuda_keep(cb, cudaEventRecord(s->done, cb->stream), "sample");
    cb->num_sampled = args->num_rows;
    cb->samples_issued++;
}

int
cuda_sampled(struct backend *be, int32_t *token_ids, struct err *err)
{
    struct cuda_backend  *cb = (struct cuda_backend *) be;
    struct cuda_sample   *s = &cb->samples[cb->samples_collected
                                           % SAMPLES_IN_FLIGHT];
    check(cb->samples_collected != cb->samples_issued);
    (void) cuda_keep(cb, cudaEventSynchronize(s->done), "a step");
    cb->samples_collected++;
    if (cb->failed) {
        return err_set(err, "%s", cb->failure.message);
    }
    memcpy(token_ids, s->ids, (size_t) s->num_rows * sizeof *token_ids);
    return OK;
}

/* An error is told by sampled(). */
bool
cuda_sample_is_done(struct backend *be)
{
    struct cuda_backend  *cb = (struct cuda_backend *) be;
    struct cuda_sample   *s = &cb->samples[cb->samples_collected
                                           % SAMPLES_IN_FLIGHT];
    check(cb->samples_collected != cb->samples_issued);
    return cudaEventQuery(s->done) != cudaErrorNotReady;
}
