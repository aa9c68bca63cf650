/* step_model.h - how long an H200 takes for a step of Llama-3-8B's shapes in
 * bf16, for programs that have none.
 *
 * From docs/performance.md: decode steps at 1,024 keys less their attention,
 * prompts less theirs; a decoding sequence reads 1,024 keys in 33 us, a pair of
 * a prompt's token and a key before it takes 0.5 ns. */
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
        { 1, 4.10 }, { 8, 4.40 }, { 32, 4.83 }, { 64, 4.93 }, { 128, 5.45 },
        { 256, 7.65 }, { 512, 11.0 }, { 2048, 45.5 }
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
