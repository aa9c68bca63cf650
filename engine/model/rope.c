/* rope.c - inverse frequencies per rope type, then cos and sin.
 *
 * Frequencies are rounded to fp32 where the reference rounds them; angles are
 * formed in double, so that a position of 100,000 does not lose its phase. */
#include "engine/model/rope.h"
#include "engine/base/check.h"

#include <math.h>

#define TWO_PI  6.283185307179586476925

static double
round_f32(double x)
{
    return (double) (float) x;
}

/* Wavelengths under original / high_freq_factor stay, those over original /
 * low_freq_factor are stretched by factor, the ones between are blended. */
static double
rope_llama3(const struct rope_config *r, double inv_freq)
{
    double  original = r->original_max_position_embeddings;
    double  wavelen = TWO_PI / inv_freq;
    if (wavelen < original / r->high_freq_factor) {
        return inv_freq;
    }
    if (wavelen > original / r->low_freq_factor) {
        return inv_freq / r->factor;
    }
    double  smooth = (original / wavelen - r->low_freq_factor)
                     / (r->high_freq_factor - r->low_freq_factor);
    return (1.0 - smooth) * inv_freq / r->factor + smooth * inv_freq;
}

/* The dimension whose frequency turns num_rotations times over the original
 * context. */
static double
rope_yarn_dim(const struct rope_config *r, int head_dim, double num_rotations)
{
    double  original = r->original_max_position_embeddings;
    return head_dim * log(original / (num_rotations * TWO_PI))
           / (2.0 * log(r->rope_theta));
}

static void
rope_yarn(const struct rope_config *r, int head_dim, double *inv_freq)
{
    double  low = rope_yarn_dim(r, head_dim, r->beta_fast);
    double  high = rope_yarn_dim(r, head_dim, r->beta_slow);
    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0.0);
    high = fmin(high, head_dim - 1);
    if (low == high) {
        high += 0.001;
    }
    for (int j = 0; j < head_dim / 2; j++) {
        double  ramp = fmin(fmax((j - low) / (high - low), 0.0), 1.0);
        inv_freq[j] = inv_freq[j] / r->factor * ramp
                      + inv_freq[j] * (1.0 - ramp);
    }
}

void
rope_inv_freq(const struct rope_config *r, int head_dim, double *inv_freq)
{
    for (int j = 0; j < head_dim / 2; j++) {
        inv_freq[j] = pow(r->rope_theta, -2.0 * j / head_dim);
    }
    switch (r->rope_type) {
    case ROPE_DEFAULT:
        break;
    case ROPE_LINEAR:
        for (int j = 0; j < head_dim / 2; j++) {
            inv_freq[j] /= r->factor;
        }
        break;
    case ROPE_LLAMA3:
        for (int j = 0; j < head_dim / 2; j++) {
            inv_freq[j] = rope_llama3(r, inv_freq[j]);
        }
        break;
    case ROPE_YARN:
        rope_yarn(r, head_dim, inv_freq);
        break;
    }
    for (int j = 0; j < head_dim / 2; j++) {
        inv_freq[j] = round_f32(inv_freq[j]);
    }
}

void
rope_table(const struct rope_config *r, int head_dim, int num_positions,
           float *table)
{
    double  inv_freq[MODEL_HEAD_DIM_MAX / 2];
    int     half = head_dim / 2;
    check_le(head_dim, MODEL_HEAD_DIM_MAX);
    rope_inv_freq(r, head_dim, inv_freq);
    for (int p = 0; p < num_positions; p++) {
        float  *row = table + (int64_t) p * head_dim;
        for (int j = 0; j < half; j++) {
            double  angle = p * inv_freq[j];
            row[j] = (float) (cos(angle) * r->attention_factor);
            row[half + j] = (float) (sin(angle) * r->attention_factor);
        }
    }
}
