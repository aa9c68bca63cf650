/* step_model.h - how long an H200 takes for a step of Llama-3-8B's shapes in
 * bf16, for programs that have none.
 *
 * Measured with random weights: decode steps at 1,024 keys less their attention,
 * prompts less theirs, with the jumps where another row of tiles begins; a
 * decoding sequence reads 1,024 keys in 33 us, a pair of a prompt's token and a
 * key before it takes 0.5 ns. */
#ifndef LLM_SIM_STEP_MODEL_H
#define LLM_SIM_STEP_MODEL_H

#include <stddef.h>

/* Everything but attention, ms. */
static inline double
step_model_products(int num_tokens)
{
    static const struct {
        double  num_tokens, ms;
    } points[] = {
        { 1, 4.17 }, { 8, 4.46 }, { 32, 5.00 }, { 64, 5.00 }, { 128, 5.28 },
        { 256, 7.13 }, { 320, 9.65 }, { 384, 9.74 }, { 512, 11.9 },
        { 520, 17.6 }, { 768, 18.9 }, { 832, 22.1 }, { 896, 22.2 },
        { 1024, 24.8 }, { 1032, 30.5 }, { 1152, 30.7 }, { 1280, 33.6 },
        { 1408, 35.9 }, { 1536, 37.2 }, { 1600, 41.1 }, { 1792, 43.1 },
        { 1856, 46.5 }, { 2048, 48.0 }
    };
    size_t  i = 1, last = sizeof points / sizeof *points - 1;

    while (i < last && num_tokens > points[i].num_tokens) {
        i++;
    }
    return points[i - 1].ms
           + (num_tokens - points[i - 1].num_tokens)
             * (points[i].ms - points[i - 1].ms)
             / (points[i].num_tokens - points[i - 1].num_tokens);
}

/* Attention of num_tokens tokens of one sequence, the last at position
 * context_len - 1, ms. */
static inline double
step_model_attention(int num_tokens, int context_len)
{
    double  keys = context_len - num_tokens / 2.0;

    return num_tokens == 1 ? keys * 33e-3 / 1024 : keys * num_tokens * 0.5e-6;
}

#endif
