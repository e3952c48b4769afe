#include "base/clones.h"
#include "base/gln_expf.h"
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Distance from the true value in units of the last place of the true value. */
static double ulps(float x)
{
    double truth = exp((double)x);
    int exponent;
    frexp(truth, &exponent);
    return fabs((double)gln_expf(x) - truth) / ldexp(1.0, exponent - 24);
}

static void check(float x, double *worst)
{
    double error = ulps(x);
    if (error > *worst) *worst = error;
    cr_assert(error < 1.5, "exp(%a): %g ulp", (double)x, error);
}

Test(expf, is_within_one_and_a_half_ulp_wherever_the_result_is_normal)
{
    double worst = 0;
    for (uint32_t bits = 0; bits <= bits_of(88.72283f); bits += 997)
        check(float_of(bits), &worst);
    for (uint32_t bits = 0; bits <= bits_of(87.3364f); bits += 997)
        check(-float_of(bits), &worst);
    for (int n = -125; n <= 127; n++) /* where the rounding to n changes over */
        for (int i = -50; i <= 50; i++)
            check(float_of(bits_of((float)((n + 0.5) * 0.6931471805599453)) + (uint32_t)i), &worst);
    cr_log_info("worst error %g ulp", worst);
}

Test(expf, the_ends_of_the_range)
{
    cr_assert_eq(gln_expf(0.0f), 1.0f);
    cr_assert_eq(gln_expf(-0.0f), 1.0f);
    cr_assert_eq(gln_expf(-INFINITY), 0.0f);
    cr_assert(!signbit(gln_expf(-INFINITY)));
    cr_assert_eq(gln_expf(INFINITY), INFINITY);
    cr_assert(isnan(gln_expf(NAN)));
    cr_assert(isnan(gln_expf(-NAN)));
    cr_assert(isfinite(gln_expf(88.72283f)));
    cr_assert_eq(gln_expf(88.72284f), INFINITY);
    cr_assert(gln_expf(-87.3364f) > 0x1p-126f);
    cr_assert_eq(gln_expf(-87.34f), 0.0f);
    cr_assert(ulps(88.0f) < 1.5 && ulps(-87.0f) < 1.5);
    cr_assert_eq(gln_expf(-88.0f), 0.0f);
}

Test(expf, far_outside_it_saturates)
{
    for (uint32_t bits = bits_of(88.72284f); bits < bits_of(INFINITY); bits += 99991) {
        cr_assert_eq(gln_expf(float_of(bits)), INFINITY, "%a", (double)float_of(bits));
        cr_assert_eq(gln_expf(-float_of(bits)), 0.0f, "-%a", (double)float_of(bits));
    }
}

GLN_CLONES static void exp_wide(const float *x, float *y, int count)
{
    for (int i = 0; i < count; i++)
        y[i] = gln_expf(x[i]);
}

__attribute__((noinline, optimize("no-tree-vectorize"))) static float exp_one(float x)
{
    return gln_expf(x);
}

Test(expf, a_vectorised_loop_gives_the_same_bits)
{
    enum { COUNT = 4099 };
    static float x[COUNT], y[COUNT];
    uint32_t state = 1;
    for (int repeat = 0; repeat < 50; repeat++) {
        for (int i = 0; i < COUNT; i++) {
            state = state * 1664525u + 1013904223u;
            x[i] = repeat == 0 ? float_of(state) : (float)(int32_t)state * 0x1p-31f * 90.0f;
        }
        exp_wide(x, y, COUNT);
        for (int i = 0; i < COUNT; i++) {
            float one = exp_one(x[i]);
            cr_assert(bits_of(one) == bits_of(y[i]) || (isnan(one) && isnan(y[i])));
        }
    }
}
