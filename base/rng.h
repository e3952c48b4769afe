/* Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011). A number is a pure function of (seed, stream, index): it depends neither on
 * the rank that asks, nor on how many ranks there are, nor on the order of asking. No state,
 * thread-safe. */
#ifndef GLN_BASE_RNG_H
#define GLN_BASE_RNG_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Streams: one per use, so that no two uses share numbers. Combine with gln_rng_stream. */
typedef enum gln_rng_use {
    GLN_RNG_INIT = 1, /* initial weights */
    GLN_RNG_DATA = 2, /* order of the training windows */
    GLN_RNG_ROUTER = 3,
    GLN_RNG_SAMPLE = 4, /* generated text */
    GLN_RNG_TEST = 5,
    GLN_RNG_PLACE = 6 /* search for a placement of experts */
} gln_rng_use_t;

/** The raw generator: 128-bit counter, 64-bit key, 128 random bits. */
void gln_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/** A 64-bit stream id out of a use and two sub-indices (for instance tensor id, or step and layer).
 */
uint64_t gln_rng_stream(gln_rng_use_t use, uint64_t a, uint64_t b);

/** 64 random bits number `index` of `stream`. */
uint64_t gln_rng_u64(uint64_t seed, uint64_t stream, uint64_t index);

/** Uniform in [0, 1) with 53 bits. */
double gln_rng_uniform(uint64_t seed, uint64_t stream, uint64_t index);

/** Standard normal (Box-Muller in double). */
double gln_rng_normal(uint64_t seed, uint64_t stream, uint64_t index);

/** Position of `index` under a random permutation of [0, count): a Feistel network over Philox with
 *  cycle walking. A bijection for every (seed, stream); count >= 1, index < count. */
uint64_t gln_rng_permute(uint64_t seed, uint64_t stream, uint64_t count, uint64_t index);

#ifdef __cplusplus
}
#endif
#endif
