/* rng.c - ten rounds of Philox4x32. */
#include "engine/sample/rng.h"

#define PHILOX_ROUNDS  10
#define PHILOX_M0      0xD2511F53u
#define PHILOX_M1      0xCD9E8D57u
#define PHILOX_W0      0x9E3779B9u    /* golden ratio */
#define PHILOX_W1      0xBB67AE85u    /* sqrt(3) - 1 */

void
rng_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4])
{
    uint32_t  k0 = key[0], k1 = key[1];
    uint32_t  c0 = counter[0], c1 = counter[1];
    uint32_t  c2 = counter[2], c3 = counter[3];

    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        uint64_t  p0 = (uint64_t) PHILOX_M0 * c0;
        uint64_t  p1 = (uint64_t) PHILOX_M1 * c2;
        c0 = (uint32_t) (p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t) p1;
        c2 = (uint32_t) (p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t) p0;
        k0 += PHILOX_W0;
        k1 += PHILOX_W1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

double
rng_uniform(uint64_t seed, uint64_t position)
{
    uint32_t  key[2] = { (uint32_t) seed, (uint32_t) (seed >> 32) };
    uint32_t  counter[4] = {
        (uint32_t) position, (uint32_t) (position >> 32), 0, 0
    };
    uint32_t  out[4];

    rng_philox(key, counter, out);
    uint64_t  bits = ((uint64_t) out[1] << 32 | out[0]) >> 11;
    return (double) bits * 0x1p-53;
}
