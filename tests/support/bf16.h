/* bf16 rounding written down a second time, by arithmetic on doubles alone, as an oracle for the
 * integer operations that the project uses. */
#ifndef GLN_TESTS_SUPPORT_BF16_H
#define GLN_TESTS_SUPPORT_BF16_H

#include <math.h>

/* The bf16 nearest to `value`, ties to even: 8 significant bits, none below 2^-133. */
static inline double nearest_bf16(double value)
{
    int exponent;
    if (value == 0 || !isfinite(value)) return value;
    frexp(value, &exponent);
    double quantum = ldexp(1, exponent - 8 < -133 ? -133 : exponent - 8);
    double rounded = nearbyint(value / quantum) * quantum;
    return fabs(rounded) < 0x1p128 ? rounded : copysign(INFINITY, value);
}

#endif
