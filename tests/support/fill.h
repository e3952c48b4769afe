/* Numbers for tests: a pure function of (seed, stream), from base/rng.h. */
#ifndef GLN_TESTS_SUPPORT_FILL_H
#define GLN_TESTS_SUPPORT_FILL_H

#include <stdint.h>

#include "base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/** A seed that differs from run to run, printed to stderr once per process. The environment
 * variable GLN_TEST_SEED (decimal or 0x..) sets it, to repeat a run. */
uint64_t gln_test_seed(void);

/** out[0..count) = mean + deviation * standard normal, rounded to dtype. */
void gln_fill_normal(gln_dtype_t dtype, uint64_t seed, uint64_t stream, double mean,
                     double deviation, int64_t count, void *out);

/** out[0..count) uniform in [low, high). */
void gln_fill_int32(uint64_t seed, uint64_t stream, int32_t low, int32_t high, int64_t count,
                    int32_t *out);

/** A size in [1, max] of the kind that breaks kernels: small, a power of two, one beside it, any.
 *  max >= 1. */
int64_t gln_odd_size(uint64_t seed, uint64_t index, int64_t max);

/** Uniform in [low, high). */
int64_t gln_random_int(uint64_t seed, uint64_t index, int64_t low, int64_t high);

#ifdef __cplusplus
}
#endif
#endif
