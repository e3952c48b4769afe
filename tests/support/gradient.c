/* Central differences: the error is O(step^2) from the third derivative and O(eps |f| / step) from
 * rounding; a step near eps^(1/3) balances the two at about 1e-10. */
#include "tests/support/gradient.h"

#include <math.h>

#define STEP 1e-5
#define ELEMENTS_MAX 400

double gln_finite_difference(gln_scalar_fn f, void *ctx, double *x, double step)
{
    double at = *x, high, low, above, below;

    *x = above = at + step;
    high = f(ctx);
    *x = below = at - step;
    low = f(ctx);
    *x = at;
    return (high - low) / (above - below);
}

double gln_gradient_error(gln_scalar_fn f, void *ctx, double *x, const double *gradient,
                          int64_t count)
{
    int64_t stride = count / ELEMENTS_MAX + 1;
    double squares = 0, typical, worst = 0;

    for (int64_t i = 0; i < count; ++i)
        squares += gradient[i] * gradient[i];
    typical = count > 0 ? sqrt(squares / (double)count) : 0;
    for (int64_t i = 0; i < count; i += stride) {
        double difference = gln_finite_difference(f, ctx, &x[i], STEP);
        double size = fabs(difference) + typical;
        double error = size == 0 ? 0 : fabs(gradient[i] - difference) / size;

        if (!(error <= worst)) worst = error;
        if (isnan(worst)) return worst;
    }
    return worst;
}
