/* What the loops for AVX-512 promise by themselves: their exp, and bf16 rounded by the CPU's own
 * instruction as in integers. Skipped where the CPU does not have them. */
#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

#include "kernels/cpu/wide.h"

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

static const gln_wide_ops_t *open_ops(gln_dtype_t dtype)
{
    const gln_wide_ops_t *ops = gln_wide_ops(dtype, 1);

    if (ops == NULL) cr_skip_test("this CPU has no AVX-512");
    return ops;
}

static float exp_of(const gln_wide_ops_t *ops, float x)
{
    float y;

    ops->exp(&x, 1, &y);
    return y;
}

static void check(const gln_wide_ops_t *ops, const float *x, int count)
{
    float y[64];

    ops->exp(x, count, y);
    for (int i = 0; i < count; ++i) {
        double truth = exp((double)x[i]);
        int exponent;

        frexp(truth, &exponent);
        cr_assert(fabs((double)y[i] - truth) < 1.5 * ldexp(1.0, exponent - 24), "exp(%a) is not %a",
                  (double)x[i], (double)y[i]);
    }
}

Test(wide, exp_is_within_one_and_a_half_ulp_wherever_the_result_is_normal)
{
    const gln_wide_ops_t *ops = open_ops(GLN_F32);
    float x[64];

    for (uint32_t bits = 0; bits <= bits_of(88.72283f) - 64 * 97; bits += 64 * 97) {
        for (uint32_t i = 0; i < 64; ++i)
            x[i] = float_of(bits + i * 97);
        check(ops, x, 64);
    }
    for (uint32_t bits = 0; bits <= bits_of(87.3364f) - 64 * 97; bits += 64 * 97) {
        for (uint32_t i = 0; i < 64; ++i)
            x[i] = -float_of(bits + i * 97);
        check(ops, x, 63);
    }
}

Test(wide, exp_at_the_ends_of_the_range)
{
    const gln_wide_ops_t *ops = open_ops(GLN_F32);

    cr_expect_eq(exp_of(ops, 0.0f), 1.0f);
    cr_expect_eq(exp_of(ops, -0.0f), 1.0f);
    cr_expect_eq(exp_of(ops, -INFINITY), 0.0f);
    cr_expect_eq(exp_of(ops, INFINITY), INFINITY);
    cr_expect(isnan(exp_of(ops, NAN)) && isnan(exp_of(ops, -NAN)));
    cr_expect(isfinite(exp_of(ops, 88.72283f)));
    cr_expect_eq(exp_of(ops, 88.72284f), INFINITY);
    cr_expect(exp_of(ops, -87.3364f) > 0x1p-126f);
    cr_expect_eq(exp_of(ops, -87.34f), 0.0f);
    cr_expect_eq(exp_of(ops, -3e38f), 0.0f);
    cr_expect_eq(exp_of(ops, 3e38f), INFINITY);
}

/* silu of what is far out is 0 or the number itself; an infinity is not a number there only where
 * it is multiplied by zero. */
Test(wide, swiglu_of_large_numbers)
{
    const gln_wide_ops_t *ops = open_ops(GLN_F32);
    const float gate[5] = {-3e38f, -100.0f, 100.0f, 3e38f, NAN}, up[5] = {1, 1, 1, 1, 1};
    float act[5];

    ops->swiglu(gate, up, gate, up, 5, 0, act);
    cr_expect_eq(act[0], 0.0f);
    cr_expect_eq(act[1], 0.0f);
    cr_expect_eq(act[2], 100.0f);
    cr_expect_eq(act[3], 3e38f);
    cr_expect(isnan(act[4]));
}

/* Subnormal numbers among them, which the instruction takes for zero, ties, infinities, NaN. */
Test(wide, bf16_is_rounded_as_in_integers)
{
    const gln_wide_ops_t *ops = open_ops(GLN_BF16);
    uint32_t state = 1;

    for (int repeat = 0; repeat < 20000; ++repeat) {
        float x[37];
        gln_bf16_t y[38] = {0};

        for (int i = 0; i < 37; ++i) {
            state = state * 1664525u + 1013904223u;
            x[i] = float_of(repeat % 3 == 0    ? state
                            : repeat % 3 == 1  ? (state & 0xffff8000u)
                            : i == repeat % 37 ? (state & 0x807fffffu)
                                               : state);
        }
        y[37] = 0x1234;
        ops->scale(x, 1.0f, 37, 0, y);
        for (int i = 0; i < 37; ++i)
            cr_assert_eq(y[i], gln_bf16_round(x[i] * 1.0f), "%a: %x", (double)x[i], y[i]);
        cr_assert_eq(y[37], 0x1234, "beyond the end");
    }
}
