/* Elementwise comparison with a tolerance that is relative to value and scale. */
#include "tests/support/close.h"

#include <math.h>
#include <stdio.h>

static _Thread_local char message[256];

double gln_tolerance(gln_dtype_t dtype)
{
    switch (dtype) {
    case GLN_F32:
        return 5e-6;
    case GLN_BF16:
        return 1.6e-2;
    case GLN_F64:
        return 1e-13;
    }
    return 0;
}

int gln_close_to(gln_dtype_t dtype, const void *got, const void *want, int64_t count, double scale)
{
    double tolerance = gln_tolerance(dtype), worst = 1.0;
    int close = 1;

    for (int64_t i = 0; i < count; ++i) {
        double g = gln_load(got, i, dtype), w = gln_load(want, i, dtype);
        double excess = fabs(g - w) / (tolerance * (fabs(w) + scale));

        if (g == w || excess <= worst) continue;
        close = 0;
        if (excess > worst) worst = excess;
        snprintf(message, sizeof message,
                 "element %lld: got %.17g, want %.17g, %.3g times what %s allows at scale %.3g",
                 (long long)i, g, w, excess, gln_dtype_name(dtype), scale);
        if (isnan(excess)) break;
    }
    return close;
}

const char *gln_close_message(void)
{
    return message;
}
