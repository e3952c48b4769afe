#include "base/tensor.h"
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

Test(tensor, sizes_names_and_accumulators)
{
    cr_assert_eq(gln_dtype_bytes(GLN_F32), 4);
    cr_assert_eq(gln_dtype_bytes(GLN_BF16), 2);
    cr_assert_eq(gln_dtype_bytes(GLN_F64), 8);
    cr_assert_str_eq(gln_dtype_name(GLN_F32), "f32");
    cr_assert_str_eq(gln_dtype_name(GLN_BF16), "bf16");
    cr_assert_str_eq(gln_dtype_name(GLN_F64), "f64");
    cr_assert_eq(gln_dtype_acc(GLN_F32), GLN_F32);
    cr_assert_eq(gln_dtype_acc(GLN_BF16), GLN_F32);
    cr_assert_eq(gln_dtype_acc(GLN_F64), GLN_F64);
}

Test(tensor, addresses_step_by_the_element)
{
    char data[64];
    cr_assert_eq((char *)gln_at(data, 3, GLN_F32) - data, 12);
    cr_assert_eq((char *)gln_at(data, 3, GLN_BF16) - data, 6);
    cr_assert_eq((char *)gln_at(data, 3, GLN_F64) - data, 24);
}

Test(tensor, loads_give_back_what_was_stored)
{
    const gln_dtype_t dtypes[] = {GLN_F32, GLN_BF16, GLN_F64};
    const double values[] = {0.0, -1.5, 384.0, -0x1p-100, INFINITY};
    for (int d = 0; d < 3; d++) {
        double data[5] = {0};
        for (int i = 0; i < 5; i++)
            gln_store(data, i, dtypes[d], values[i]);
        for (int i = 0; i < 5; i++)
            cr_assert_eq(gln_load(data, i, dtypes[d]), values[i]);
    }
}

static uint16_t bf16_of(double value)
{
    uint16_t half = 0;
    gln_store(&half, 0, GLN_BF16, value);
    return half;
}

Test(tensor, bf16_rounds_to_nearest_even)
{
    cr_assert_eq(bf16_of(1.0), 0x3f80);
    cr_assert_eq(bf16_of(1.0 + 0x1p-8), 0x3f80);           /* a tie: down to even */
    cr_assert_eq(bf16_of(1.0 + 3 * 0x1p-8), 0x3f82);       /* a tie: up to even */
    cr_assert_eq(bf16_of(1.0 + 0x1p-8 + 0x1p-20), 0x3f81); /* above the tie */
    cr_assert_eq(bf16_of(-1.0 - 0x1p-8 - 0x1p-20), 0xbf81);
    cr_assert_eq(bf16_of(3.4e38), 0x7f80); /* beyond the largest: infinity */
    cr_assert_eq(bf16_of(1e300), 0x7f80);
}

Test(tensor, bf16_rounds_a_double_once)
{
    /* as a float these lie on the tie; as a double they do not */
    cr_assert_eq(bf16_of(1.0 + 0x1p-8 + 0x1p-40), 0x3f81);
    cr_assert_eq(bf16_of(1.0 + 3 * 0x1p-8 - 0x1p-40), 0x3f81);
    cr_assert_eq(bf16_of(-1.0 - 0x1p-8 - 0x1p-40), 0xbf81);
}

Test(tensor, nan_stays_nan)
{
    const gln_dtype_t dtypes[] = {GLN_F32, GLN_BF16, GLN_F64};
    for (int d = 0; d < 3; d++) {
        double data = 0;
        gln_store(&data, 0, dtypes[d], NAN);
        cr_assert(isnan(gln_load(&data, 0, dtypes[d])));
    }
    uint64_t low = 0x7ff0000000000001; /* a NaN whose payload a plain cut would lose */
    double value;
    memcpy(&value, &low, sizeof value);
    uint16_t half = bf16_of(value);
    cr_assert(isnan(gln_load(&half, 0, GLN_BF16)));
}
