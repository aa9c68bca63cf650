/* late_backend.c - another table of ops in front of the CPU's: the table is
 * the first member of the state, so that the ops find it through be->ops. */
#include "tests/sim/late_backend.h"
#include "engine/base/check.h"
#include "engine/sample/sampler.h"

#include <stdlib.h>
#include <string.h>

#define ROWS_MAX    256
#define TOKENS_MAX  4096

struct late_backend {
    struct backend_ops         ops;            /* first */
    const struct backend_ops  *cpu;
    struct sampler            *sampler;
    int64_t                    vocab_size;     /* that it is made for */
    int32_t                    input_ids[TOKENS_MAX];
    int32_t                    ids[SAMPLES_IN_FLIGHT][ROWS_MAX];
    int                        num_rows[SAMPLES_IN_FLIGHT];
    uint64_t                   num_sampled, num_collected;
};

static struct late_backend *
late_of(struct backend *be)
{
    return (struct late_backend *) (uintptr_t) be->ops;
}

static enum step_action
late_step_begin(struct backend *be, const struct step_inputs *in)
{
    struct late_backend  *late = late_of(be);
    struct step_inputs    resolved = *in;
    uint64_t              last = (late->num_sampled + SAMPLES_IN_FLIGHT - 1)
                                 % SAMPLES_IN_FLIGHT;

    check(in->model_id != 0);
    check_le(in->num_tokens, TOKENS_MAX);
    for (int i = 0; i < in->num_tokens; i++) {
        int32_t  id = in->input_ids[i];
        if (id < 0) {
            check_lt(late->num_collected, late->num_sampled);
            check_lt(INPUT_SAMPLED(id), late->num_rows[last]);
            id = late->ids[last][INPUT_SAMPLED(id)];
            id = id == SAMPLE_NUMERIC_ERROR ? 0 : id;
        }
        late->input_ids[i] = id;
    }
    resolved.input_ids = late->input_ids;
    return late->cpu->step_begin(be, &resolved);
}

static void
late_sample(struct backend *be, const struct sample_args *args)
{
    struct late_backend  *late = late_of(be);
    uint64_t              slot = late->num_sampled % SAMPLES_IN_FLIGHT;
    int64_t               vocab_size = args->logits.shape[1];

    check_lt(late->num_sampled - late->num_collected, SAMPLES_IN_FLIGHT);
    check(args->num_rows >= 0 && args->num_rows <= ROWS_MAX);
    if (late->vocab_size != vocab_size) {
        sampler_destroy(late->sampler);
        check_eq(sampler_create(&late->sampler, (int32_t) vocab_size, NULL),
                 OK);
        late->vocab_size = vocab_size;
    }
    for (int i = 0; i < args->num_rows; i++) {
        const struct sample_row  *row = &args->rows[i];
        struct sampling_params    params = {
            row->temperature, row->top_p, row->min_p, row->top_k, row->seed
        };
        late->ids[slot][i] = sampler_sample(
            late->sampler, (const float *) args->logits.data + i * vocab_size,
            &(struct sampler_row) { .params = &params,
                .position = row->position, .masked_ids = row->masked_ids,
                .num_masked = row->num_masked });
    }
    late->num_rows[slot] = args->num_rows;
    late->num_sampled++;
}

static int
late_sampled(struct backend *be, int32_t *token_ids, struct err *err)
{
    struct late_backend  *late = late_of(be);
    uint64_t              slot = late->num_collected % SAMPLES_IN_FLIGHT;

    (void) err;
    check_lt(late->num_collected, late->num_sampled);
    memcpy(token_ids, late->ids[slot],
           (size_t) late->num_rows[slot] * sizeof *token_ids);
    late->num_collected++;
    return OK;
}

void
late_backend_attach(struct late_backend **out, struct backend *be)
{
    struct late_backend  *late = calloc(1, sizeof *late);

    check(late != NULL);
    late->cpu = be->ops;
    late->ops = *be->ops;
    late->ops.step_begin = late_step_begin;
    late->ops.sample = late_sample;
    late->ops.sampled = late_sampled;
    be->ops = &late->ops;
    *out = late;
}

void
late_backend_detach(struct late_backend *late, struct backend *be)
{
    check_eq(late->num_collected, late->num_sampled);
    be->ops = late->cpu;
    sampler_destroy(late->sampler);
    free(late);
}
