/* hash.h - 64-bit keyed hash (SipHash-2-4) and a fast unkeyed mixer.
 *
 * hash_keyed() is for anything a client can influence (prefix cache, ids,
 * maps keyed by request text): without the key, collisions cannot be built.
 * hash_mix64() is for ids of our own.  Source: Aumasson and Bernstein,
 * "SipHash: a fast short-input PRF", 2012. */
#ifndef LLM_BASE_HASH_H
#define LLM_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct hash_key {
    uint64_t k0, k1;
};

uint64_t hash_keyed(const struct hash_key *key, const void *data, size_t len);

static inline uint64_t
hash_mix64(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93ULL;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93ULL;
    x ^= x >> 32;
    return x;
}

#endif
