/* rope.h - rotary position embedding tables with every supported scaling.
 *
 * inv_freq_j = theta^(-2j / head_dim), j < head_dim / 2, then by rope_type:
 * linear divides by factor; llama3 divides the low frequencies and blends the
 * middle; yarn blends by a ramp over dimensions and multiplies cos and sin by
 * attention_factor.  Source: transformers, modeling_rope_utils.py. */
#ifndef LLM_MODEL_ROPE_H
#define LLM_MODEL_ROPE_H

#include "engine/model/model_config.h"

/* Writes inv_freq[head_dim / 2], each rounded to fp32 as the reference's. */
void rope_inv_freq(const struct rope_config *rope, int head_dim,
                   double *inv_freq);

/* Writes table[num_positions][2][head_dim / 2]: cos then sin of position *
 * inv_freq, times attention_factor. */
void rope_table(const struct rope_config *rope, int head_dim,
                int num_positions, float *table);

#endif
