/* fake_sample.c - the samplers' launch functions: ids that a test can predict. */
#include "tests/sim/cuda/fake_gpu.h"

#include <stdlib.h>
#include <string.h>

#define CLUSTER_BLOCKS  16
#define CLUSTER_VOCAB   400000    /* fits the shared memory of a cluster */
#define CLUSTERS        8         /* at once */

int32_t
fake_cuda_sampled_id(uint64_t n, int row, int vocab_size)
{
    return (int32_t) ((n * 7919 + (uint64_t) row * 31)
                      % (uint64_t) vocab_size);
}

uint64_t
fake_cuda_samples(void)
{
    return fake.num_samples;
}

struct sample {
    struct sample_launch  p;
    uint64_t              number;
    struct sample_params  params[];    /* as they were when launched */
};

static void
keep_ids(const int32_t *ids, int num)
{
    int32_t  *kept = realloc(fake.sampled, (size_t) num * sizeof *kept);
    FAKE_CHECK(kept != NULL);
    memcpy(kept, ids, (size_t) num * sizeof *kept);
    fake.sampled = kept;
    fake.num_sampled = num;
}

static void
run_sample(void *args)
{
    const struct sample         *s = args;
    const struct sample_launch  *p = &s->p;
    size_t    num = (size_t) p->num_rows;
    int32_t  *ids = fake_at(p->ids, num * sizeof *ids, "sample: ids");
    (void) fake_at(p->logits, num * (size_t) p->vocab_size * sizeof(float),
                   "sample: logits");
    if (!p->all_greedy
        && memcmp(s->params, p->params, num * sizeof *s->params) != 0)
    {
        fake_fault("pinned parameters of rows were written before the device "
                   "has read them");
    }
    for (int i = 0; i < p->num_rows; i++) {
        ids[i] = fake_cuda_sampled_id(s->number, i, p->vocab_size);
        p->host_ids[i] = ids[i];
    }
    keep_ids(ids, p->num_rows);
}

static void
push_sample(const struct sample_launch *p)
{
    size_t  num = (size_t) p->num_rows;
    FAKE_CHECK(fake.recording == NULL && p->num_rows >= 1);
    fake_in_pinned(p->params, num * sizeof *p->params, "sample: params");
    fake_in_pinned(p->host_ids, num * sizeof *p->host_ids, "sample: host ids");
    fake_push(run_sample, &(struct sample) { *p, fake.num_samples++ },
              sizeof(struct sample), p->params, num * sizeof *p->params);
}

cudaError_t
sample_launch_rows(const struct sample_launch *p, cudaStream_t stream)
{
    const struct sample_state  *s = &p->state;
    size_t  num = (size_t) p->num_rows;
    size_t  blocks = ((size_t) p->vocab_size + SAMPLE_BLOCK_TOKENS - 1)
                     / SAMPLE_BLOCK_TOKENS;
    (void) fake_at(s->keys, num * blocks * sizeof *s->keys, "sample: keys");
    (void) fake_at(s->sums, num * blocks * sizeof *s->sums, "sample: sums");
    (void) fake_at(s->parts, num * SAMPLE_SLICES_MAX * sizeof *s->parts,
                   "sample: parts");
    (void) fake_at(s->rows, num * sizeof *s->rows, "sample: rows");
    (void) fake_at(s->counters, num * sizeof *s->counters, "sample: counters");
    fake_launch(FAKE_SAMPLE, stream, 0);
    push_sample(p);
    return cudaSuccess;
}

cudaError_t
sample_sm90_init(int *cluster_max)
{
    *cluster_max = fake_is_hopper() ? CLUSTER_BLOCKS : 0;
    return cudaSuccess;
}

cudaError_t
sample_sm90_at_once(int vocab_size, int clusters_at_once[2])
{
    FAKE_CHECK(vocab_size >= 1);
    clusters_at_once[0] = clusters_at_once[1] = CLUSTERS;
    return cudaSuccess;
}

int
sample_sm90_takes(const struct sample_launch *p)
{
    return p->cluster_max > 0 && p->vocab_size <= CLUSTER_VOCAB;
}

cudaError_t
sample_sm90_launch(const struct sample_launch *p, cudaStream_t stream)
{
    FAKE_CHECK(sample_sm90_takes(p) && p->clusters_at_once[0] == CLUSTERS);
    for (int i = 0; i < p->num_rows; i++) {
        FAKE_CHECK(p->params[i].temperature <= SAMPLE_SM90_TEMPERATURE_MAX);
    }
    fake_launch(FAKE_SAMPLE_SM90, stream, p->pdl);
    push_sample(p);
    return cudaSuccess;
}

/* ---- masks ----------------------------------------------------------------------- */

struct masks {
    const float   *logits;
    const int32_t *pairs;
    int            vocab_size, num;
    int32_t        were[];
};

static void
run_masks(void *args)
{
    const struct masks  *m = args;
    if (memcmp(m->were, m->pairs, (size_t) m->num * 2 * sizeof *m->were)
        != 0)
    {
        fake_fault("pinned masks were written before the device has read them");
    }
    for (int i = 0; i < m->num; i++) {
        int  row = m->were[2 * i], id = m->were[2 * i + 1];
        FAKE_CHECK(row >= 0 && id >= 0 && id < m->vocab_size);
        (void) fake_at(m->logits + (size_t) row * (size_t) m->vocab_size + id,
                       sizeof *m->logits, "mask: logits");
    }
}

cudaError_t
sample_mask_launch(float *logits, int vocab_size, const int32_t *masks,
                   int num_masks, cudaStream_t stream)
{
    size_t  bytes = (size_t) num_masks * 2 * sizeof *masks;
    FAKE_CHECK(fake.recording == NULL && num_masks >= 1);
    fake_in_pinned(masks, bytes, "mask");
    fake_launch(FAKE_MASK, stream, 0);
    fake_push(run_masks, &(struct masks) { logits, masks, vocab_size,
                                           num_masks },
              sizeof(struct masks), masks, bytes);
    return cudaSuccess;
}
