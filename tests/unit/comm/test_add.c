/* The addition under all sums: lower + upper, rounded once to the element's type, at any length and
 * alignment, also in place. */
#include "comm/comm_internal.h"
#include "tests/support/bf16.h"
#include <criterion/criterion.h>
#include <string.h>

enum { every = 1 << 16 };

static double value_of(uint16_t half)
{
    return gln_load(&half, 0, GLN_BF16);
}

/* Every bf16 plus `upper`. The sum of two bf16 in double is exact or so far from a tie of bf16 that
 * it makes no difference. */
static void every_plus(uint16_t upper)
{
    static uint16_t a[every], b[every], sum[every];
    for (int i = 0; i < every; i++)
        a[i] = (uint16_t)i, b[i] = upper;
    gln_comm_add(a, b, every, GLN_BF16, sum);
    for (int i = 0; i < every; i++) {
        double expected = nearest_bf16(value_of(a[i]) + value_of(upper)), found = value_of(sum[i]);
        if (isnan(expected))
            cr_assert(isnan(found) && (sum[i] & 0x40), "%a + %a is %a, not a quiet NaN",
                      value_of(a[i]), value_of(upper), found);
        else
            cr_assert(memcmp(&found, &expected, sizeof found) == 0, "%a + %a is %a, not %a",
                      value_of(a[i]), value_of(upper), found, expected);
    }
}

Test(add, bf16_is_rounded_to_nearest_even)
{
    static const uint16_t special[] = {0x0000, 0x8000, 0x0001, 0x8001, 0x007f, 0x0080, 0x8080,
                                       0x3f80, 0xbf80, 0x3f81, 0x3c00, 0xbb80, 0x4b00, 0x7f7f,
                                       0xff7f, 0x7f00, 0x7f80, 0xff80, 0x7f81, 0xffc1};
    for (size_t k = 0; k < sizeof special / sizeof *special; k++)
        every_plus(special[k]);
    for (unsigned k = 0; k < 64; k++)
        every_plus((uint16_t)(k * 40503u));
}

/* 256 + 1 lies between 256 and 258 and goes to the even 256; 258 + 1 to the even 260. */
Test(add, bf16_ties_by_hand)
{
    const float lower[4] = {256, 258, 256, -258}, upper[4] = {1, 1, 1.0078125f, -1};
    const float expected[4] = {256, 260, 258, -260};
    uint16_t a[4], b[4];
    for (int i = 0; i < 4; i++) {
        gln_store(a, i, GLN_BF16, lower[i]);
        gln_store(b, i, GLN_BF16, upper[i]);
    }
    gln_comm_add(a, b, 4, GLN_BF16, a);
    for (int i = 0; i < 4; i++)
        cr_expect_eq(gln_load(a, i, GLN_BF16), expected[i], "%d: %a", i, gln_load(a, i, GLN_BF16));
}

static void any_length(gln_dtype_t dtype)
{
    enum { room = 160 };
    double lower[room], upper[room], sum[room]; /* aligned for every type */
    for (int64_t n = 0; n < 70; n++)
        for (int shift = 0; shift < 3; shift++)
            for (int place = 0; place < 3; place++) { /* elsewhere, over lower, over upper */
                void *a = gln_at(lower, shift, dtype), *b = gln_at(upper, 2 * shift, dtype);
                void *to = place == 0 ? gln_at(sum, shift, dtype) : place == 1 ? a : b;
                for (int64_t i = 0; i < n; i++) {
                    gln_store(a, i, dtype, (double)(i + 1));
                    gln_store(b, i, dtype, -0.5);
                }
                gln_store(to, n, dtype, 77);
                gln_comm_add(a, b, n, dtype, to);
                for (int64_t i = 0; i < n; i++)
                    cr_assert_eq(gln_load(to, i, dtype), (double)i + 0.5, "n %lld, element %lld",
                                 (long long)n, (long long)i);
                cr_assert_eq(gln_load(to, n, dtype), 77, "wrote behind the end");
            }
}

Test(add, any_length_and_place)
{
    any_length(GLN_F32);
    any_length(GLN_BF16);
    any_length(GLN_F64);
}
