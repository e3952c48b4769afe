/* Random fills and sizes over the counter-based generator. */
#include "tests/support/fill.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/rng.h"

enum { USE_FILL, USE_INTS, USE_SIZE, USE_RANDOM };

uint64_t gln_test_seed(void)
{
    static uint64_t seed;
    static int known;

    if (!known) {
        const char *text = getenv("GLN_TEST_SEED");
        struct timespec now;

        clock_gettime(CLOCK_REALTIME, &now);
        seed = text != NULL ? strtoull(text, NULL, 0)
                            : ((uint64_t)now.tv_nsec << 20) ^ (uint64_t)now.tv_sec ^
                                  ((uint64_t)getpid() << 40);
        known = 1;
        fprintf(stderr, "random seed 0x%llx (repeat with GLN_TEST_SEED)\n",
                (unsigned long long)seed);
    }
    return seed;
}

void gln_fill_normal(gln_dtype_t dtype, uint64_t seed, uint64_t stream, double mean,
                     double deviation, int64_t count, void *out)
{
    uint64_t id = gln_rng_stream(GLN_RNG_TEST, USE_FILL, stream);

    for (int64_t i = 0; i < count; ++i)
        gln_store(out, i, dtype, mean + deviation * gln_rng_normal(seed, id, (uint64_t)i));
}

void gln_fill_int32(uint64_t seed, uint64_t stream, int32_t low, int32_t high, int64_t count,
                    int32_t *out)
{
    uint64_t id = gln_rng_stream(GLN_RNG_TEST, USE_INTS, stream);

    for (int64_t i = 0; i < count; ++i)
        out[i] =
            (int32_t)(low + (int64_t)(gln_rng_u64(seed, id, (uint64_t)i) % (uint64_t)(high - low)));
}

int64_t gln_odd_size(uint64_t seed, uint64_t index, int64_t max)
{
    uint64_t id = gln_rng_stream(GLN_RNG_TEST, USE_SIZE, index);
    uint64_t kind = gln_rng_u64(seed, id, 0) % 4, bits = gln_rng_u64(seed, id, 1);
    int64_t size, power = 1;

    while (power * 2 <= max && bits % 8 != 0) {
        power *= 2;
        bits /= 2;
    }
    if (kind == 0)
        size = 1 + (int64_t)(bits % 16);
    else if (kind == 1)
        size = power;
    else if (kind == 2)
        size = power + (bits % 2 ? 1 : -1);
    else
        size = 1 + (int64_t)(bits % (uint64_t)max);
    return size < 1 ? 1 : size > max ? max : size;
}

int64_t gln_random_int(uint64_t seed, uint64_t index, int64_t low, int64_t high)
{
    uint64_t id = gln_rng_stream(GLN_RNG_TEST, USE_RANDOM, index);

    return low + (int64_t)(gln_rng_u64(seed, id, 0) % (uint64_t)(high - low));
}
