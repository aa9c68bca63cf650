/* sampler.h - logits of one row -> one token id.
 *
 *     sampler_create(&s, vocab_size, err);
 *     id = sampler_sample(s, logits, &(struct sampler_row) {
 *         .params = &req->sampling, .position = num_tokens });
 *     if (id == SAMPLER_NUMERIC_ERROR) ...
 *
 * Order of operations, Hugging Face's: masked ids, temperature, top_k, top_p,
 * min_p, then one draw.  Tokens are ranked by logit, equal logits by lower id;
 * top_k keeps the first k of that ranking, top_p the shortest beginning whose
 * probability (after top_k) reaches top_p, min_p those at least min_p times
 * as probable as the first.  The best token is always kept.
 *
 * The draw is by inverse distribution function over the kept tokens in the
 * order of their ids, with a random number of (seed, position): nothing
 * depends on the row or on the other rows.  Weights are integers, so a sum has
 * no order and a device gives the same token: kernels/sample_math.h defines
 * the result to the bit.
 *
 * Costs a few passes over the vocabulary; ranks are found by radix selection,
 * never by a sort.  One thread per sampler; nothing is allocated after
 * create. */
#ifndef LLM_SAMPLE_SAMPLER_H
#define LLM_SAMPLE_SAMPLER_H

#include <stdint.h>
#include "engine/base/err.h"

#define SAMPLER_NUMERIC_ERROR    (-1)   /* NaN, +inf or nothing but -inf */
#define SAMPLER_VOCAB_MAX        (1 << 22)

struct sampling_params {
    float    temperature;      /* 0: greedy, the rest is ignored */
    float    top_p;            /* (0, 1]; 1: off */
    float    min_p;            /* [0, 1]; 0: off */
    int32_t  top_k;            /* 0: off */
    uint64_t seed;             /* always set; drawn at random if not given */
};

struct sampler_row {
    const struct sampling_params *params;
    int64_t        position;       /* of the token to be sampled */
    const int32_t *masked_ids;     /* [num_masked], never chosen */
    int32_t        num_masked;
};

struct sampler;

int sampler_create(struct sampler **out, int32_t vocab_size, struct err *err);
void sampler_destroy(struct sampler *s);        /* NULL is fine */

/* logits: [vocab_size].  A token id or SAMPLER_NUMERIC_ERROR. */
int32_t sampler_sample(struct sampler *s, const float *logits,
                       const struct sampler_row *row);

#endif
