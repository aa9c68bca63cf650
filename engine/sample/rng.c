/* rng.c - the random numbers of kernels/sample_math.h, for callers in C. */
#include "engine/sample/rng.h"
#include "kernels/sample_math.h"

#include <string.h>

void
rng_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4])
{
    memcpy(out, counter, 4 * sizeof *out);
    sample_philox(key[0], key[1], out);
}

uint64_t
rng_random(uint64_t seed, uint64_t position)
{
    return sample_random(seed, position);
}
