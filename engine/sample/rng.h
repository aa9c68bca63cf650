/* rng.h - random numbers as a function: (seed, position) -> value.
 *
 * Counter-based, so there is no state to carry, to save or to get out of
 * order: a request's n-th token has the same randomness whatever the batch,
 * the row, a preemption or the device.  Philox4x32-10; source: Salmon et al.,
 * "Parallel random numbers: as easy as 1, 2, 3", 2011. */
#ifndef LLM_SAMPLE_RNG_H
#define LLM_SAMPLE_RNG_H

#include <stdint.h>

/* The block function; any thread. */
void rng_philox(const uint32_t key[2], const uint32_t counter[4],
                uint32_t out[4]);

/* 64 bits: key = seed, counter = (position, 0, 0). */
uint64_t rng_random(uint64_t seed, uint64_t position);

#endif
