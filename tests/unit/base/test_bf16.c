/* bf16: every number of the type, the ties between them, and what lies beside a tie. */
#include "base/bf16.h"

#include <criterion/criterion.h>

#include <math.h>

static float from_bits(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

Test(bf16, every_number_is_its_own_rounding)
{
    for (uint32_t half = 0; half < 0x10000u; ++half) {
        float value = gln_bf16_load((gln_bf16_t)half);

        if (isnan(value)) {
            cr_assert(isnan(gln_bf16_load(gln_bf16_round(value))), "NaN 0x%x", half);
            cr_assert(isnan(gln_bf16_load(gln_bf16_round_double((double)value))), "NaN 0x%x", half);
            continue;
        }
        cr_assert_eq(gln_bf16_round(value), half);
        cr_assert_eq(gln_bf16_round_double((double)value), half);
    }
}

/* Between `half` and the next number away from zero. */
Test(bf16, ties_go_to_even_and_their_neighbours_to_the_nearest)
{
    for (uint32_t half = 0; half < 0x10000u; ++half) {
        float tie = from_bits(half << 16 | 0x8000u);
        uint32_t even = half + (half & 1u);
        double away = nextafter((double)tie, tie > 0 ? INFINITY : -INFINITY);
        double back = nextafter((double)tie, 0);

        if ((half & 0x7fffu) >= 0x7f80u) continue; /* infinities and NaN */
        cr_assert_eq(gln_bf16_round(tie), even, "0x%x", half);
        cr_assert_eq(gln_bf16_round(from_bits(half << 16 | 0x8001u)), half + 1, "0x%x", half);
        cr_assert_eq(gln_bf16_round(from_bits(half << 16 | 0x7fffu)), half, "0x%x", half);
        cr_assert_eq(gln_bf16_round_double((double)tie), even, "0x%x", half);
        cr_assert_eq(gln_bf16_round_double(away), half + 1, "0x%x, beside a tie", half);
        cr_assert_eq(gln_bf16_round_double(back), half, "0x%x, beside a tie", half);
    }
}
