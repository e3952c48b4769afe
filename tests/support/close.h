/* Comparing results: the one table of tolerances, by dtype. */
#ifndef GLN_TESTS_SUPPORT_CLOSE_H
#define GLN_TESTS_SUPPORT_CLOSE_H

#include <stdint.h>

#include "base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/** What results of `dtype` may differ by, relative to their size. */
double gln_tolerance(gln_dtype_t dtype);

/** 1 if |got - want| <= tolerance * (|want| + scale) for all elements, both of `dtype`. `scale` is
 * the usual size of the numbers that were summed, for results that cancel: sqrt(K) for a dot
 * product of K standard normals. NaN is close to nothing, infinity to itself. */
int gln_close_to(gln_dtype_t dtype, const void *got, const void *want, int64_t count, double scale);

/** After gln_close_to returned 0: index, both values and the difference of the worst element. */
const char *gln_close_message(void);

#ifdef __cplusplus
}
#endif
#endif
