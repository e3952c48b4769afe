/* The helpers of tests/support can fail: what they must see, they see. */
#include <criterion/criterion.h>

#include <math.h>

#include "tests/support/close.h"
#include "tests/support/fill.h"
#include "tests/support/record.h"

Test(support, close_to_uses_value_and_scale)
{
    float want[3] = {1, -2, 0}, got[3] = {1, -2, 0};

    cr_expect(gln_close_to(GLN_F32, got, want, 3, 0));
    got[1] = -2.000001f;
    cr_expect(gln_close_to(GLN_F32, got, want, 3, 0));
    got[1] = -2.001f;
    cr_expect_not(gln_close_to(GLN_F32, got, want, 3, 1));
    got[1] = -2;
    got[2] = 1e-7f;
    cr_expect_not(gln_close_to(GLN_F32, got, want, 3, 0));
    cr_expect(gln_close_to(GLN_F32, got, want, 3, 1));
    cr_expect(gln_close_to(GLN_F32, got, want, 0, 0));
}

Test(support, close_to_knows_nan_and_infinity)
{
    double one = 1, nan = NAN, infinity = INFINITY, minus = -INFINITY;

    cr_expect_not(gln_close_to(GLN_F64, &nan, &one, 1, 1));
    cr_expect_not(gln_close_to(GLN_F64, &one, &nan, 1, 1));
    cr_expect_not(gln_close_to(GLN_F64, &nan, &nan, 1, 1));
    cr_expect(gln_close_to(GLN_F64, &infinity, &infinity, 1, 1));
    cr_expect_not(gln_close_to(GLN_F64, &infinity, &minus, 1, 1));
    cr_expect_not(gln_close_to(GLN_F64, &infinity, &one, 1, 1));
    cr_expect_not(gln_close_to(GLN_F64, &one, &infinity, 1, 1));
}

/* Two records of the same calls, then one word changed: in the array, behind it, in an input. */
Test(support, record_sees_every_difference)
{
    for (int change = 0; change < 5; ++change) {
        gln_record_t a, b;
        float *out, *in;
        int32_t *ints;

        gln_record_open(3, &a);
        gln_record_open(3, &b);
        gln_record_in(&a, "in", GLN_F32, 5, 1);
        gln_record_out(&a, "out", GLN_F32, 7, 1);
        gln_record_ints(&a, "ints", 4, 0, 9);
        in = gln_record_in(&b, "in", GLN_F32, 5, 1);
        out = gln_record_out(&b, "out", GLN_F32, 7, 1);
        ints = gln_record_ints(&b, "ints", 4, 0, 9);
        cr_expect_null(gln_record_differs(&a, &b));
        cr_expect_null(gln_record_differs_in_bits(&a, &b));
        if (change == 0) out[3] += 0.01f;
        if (change == 1) out[7] += 0.01f; /* the guard */
        if (change == 2) in[0] = nextafterf(in[0], 9);
        if (change == 3) ints[1] += 1;
        if (change == 4) out[3] = nextafterf(out[3], 9);
        if (change < 4) cr_expect_not_null(gln_record_differs(&a, &b), "change %d", change);
        if (change == 4) cr_expect_null(gln_record_differs(&a, &b));
        cr_expect_not_null(gln_record_differs_in_bits(&a, &b), "change %d", change);
        gln_record_close(&a);
        gln_record_close(&b);
    }
}

Test(support, odd_size_stays_in_range_and_varies)
{
    int ones = 0, tops = 0;

    for (uint64_t i = 0; i < 2000; ++i) {
        int64_t size = gln_odd_size(7, i, 50);

        cr_assert(size >= 1 && size <= 50, "%lld", (long long)size);
        ones += size == 1;
        tops += size > 32;
        cr_expect_eq(gln_odd_size(7, i, 1), 1);
    }
    cr_expect(ones > 0 && tops > 100);
}
