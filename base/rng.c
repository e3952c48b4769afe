/* Philox4x32-10: ten rounds of two 32x32 -> 64 bit products over a 128-bit counter (Salmon, Moraes,
 * Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011; constants and known answers
 * from the Random123 distribution). The counter holds (index, stream), the key holds the seed.
 *
 * Permutations: a balanced Feistel network with Philox as its round function over the smallest even
 * number of bits that holds `count`, walked until it lands inside (Black, Rogaway: "Ciphers with
 * arbitrary finite domains", CT-RSA 2002): less than 4 walks on average, 8 rounds each. */
#include "base/rng.h"

#include "base/log.h"
#include <math.h>

enum { PHILOX_ROUNDS = 10, FEISTEL_ROUNDS = 8 };

void gln_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* Two 64-bit words out of a 128-bit counter and a 64-bit key. */
static void philox64(uint64_t key, uint64_t low, uint64_t high, uint64_t out[2])
{
    uint32_t counter[4] = {(uint32_t)low, (uint32_t)(low >> 32), (uint32_t)high,
                           (uint32_t)(high >> 32)};
    uint32_t halves[2] = {(uint32_t)key, (uint32_t)(key >> 32)};
    uint32_t bits[4];
    gln_philox(counter, halves, bits);
    out[0] = bits[0] | (uint64_t)bits[1] << 32;
    out[1] = bits[2] | (uint64_t)bits[3] << 32;
}

static double unit(uint64_t bits)
{
    return (double)(bits >> 11) * 0x1p-53;
}

uint64_t gln_rng_stream(gln_rng_use_t use, uint64_t a, uint64_t b)
{
    uint64_t bits[2];
    philox64(UINT64_C(0x676c65616e657200) | (uint64_t)use, a, b, bits); /* "gleaner" and the use */
    return bits[0];
}

uint64_t gln_rng_u64(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint64_t bits[2];
    philox64(seed, index, stream, bits);
    return bits[0];
}

double gln_rng_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    return unit(gln_rng_u64(seed, stream, index));
}

double gln_rng_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint64_t bits[2];
    philox64(seed, index, stream, bits);
    double radius = sqrt(-2.0 * log(1.0 - unit(bits[0]))); /* 1 - u is in (0, 1] */
    return radius * cos(6.283185307179586476925 * unit(bits[1]));
}

static uint64_t feistel(uint64_t seed, uint64_t stream, int half_bits, uint64_t value)
{
    uint64_t mask = (UINT64_C(1) << half_bits) - 1;
    uint64_t left = value >> half_bits, right = value & mask;
    for (int round = 0; round < FEISTEL_ROUNDS; round++) {
        uint64_t bits[2];
        philox64(seed, right | (uint64_t)round << 56, stream, bits);
        uint64_t mixed = left ^ (bits[0] & mask);
        left = right;
        right = mixed;
    }
    return left << half_bits | right;
}

uint64_t gln_rng_permute(uint64_t seed, uint64_t stream, uint64_t count, uint64_t index)
{
    GLN_ASSERT(count >= 1 && index < count);
    if (count == 1) return 0;
    int half_bits = 1;
    while (half_bits < 32 && (count - 1) >> (2 * half_bits))
        half_bits++;
    do /* a bijection of the larger set restricted by walking its cycles: ends, stays a bijection */
        index = feistel(seed, stream, half_bits, index);
    while (index >= count);
    return index;
}
