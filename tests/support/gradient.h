/* Gradients by central finite differences, in double. */
#ifndef GLN_TESTS_SUPPORT_GRADIENT_H
#define GLN_TESTS_SUPPORT_GRADIENT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A scalar function of everything the caller holds in ctx. */
typedef double (*gln_scalar_fn)(void *ctx);

/** (f(x + step) - f(x - step)) / (2 step) at *x, an element that f reads. *x is restored. */
double gln_finite_difference(gln_scalar_fn f, void *ctx, double *x, double step);

/** Compare gradient[i] with the finite difference at x[i], all i < count (every stride-th, so that
 * large arrays take bounded time: at most 400 elements are tried).
 *  @return the largest |gradient - difference| / (|difference| + typical gradient size); NaN if one
 * is */
double gln_gradient_error(gln_scalar_fn f, void *ctx, double *x, const double *gradient,
                          int64_t count);

/* What gln_gradient_error must stay below: step^2 truncation and rounding of f over step. */
#define GLN_GRADIENT_TOLERANCE 2e-7

#ifdef __cplusplus
}
#endif
#endif
