#include "base/rng.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct known {
    uint32_t counter[4], key[2], out[4];
} known_t;

/* kat_vectors of the Random123 distribution, philox 4x32 10 */
static const known_t known[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

Test(rng, philox_gives_the_known_answers)
{
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        gln_philox(known[i].counter, known[i].key, out);
        cr_assert_eq(memcmp(out, known[i].out, sizeof out), 0, "vector %d", i);
    }
}

/* Fixed for good: initial weights and data order of every checkpoint depend on these. */
Test(rng, numbers_never_change)
{
    uint64_t stream = gln_rng_stream(GLN_RNG_TEST, 7, 9);
    cr_assert_eq(stream, UINT64_C(0xae3a6059c3654b88));
    cr_assert_eq(gln_rng_u64(1234, stream, 5), UINT64_C(0x880e328bf558897b));
    cr_assert_eq(gln_rng_permute(1234, stream, 1000, 5), 488);
}

Test(rng, a_u64_is_the_first_half_of_philox_at_index_stream_seed)
{
    uint64_t seed = 0x299f31d0a4093822, stream = 0x0370734413198a2e, index = 0x85a308d3243f6a88;
    cr_assert_eq(gln_rng_u64(seed, stream, index), UINT64_C(0x94fdccebd16cfe09));
    cr_assert_eq(gln_rng_uniform(seed, stream, index),
                 (double)(0x94fdccebd16cfe09 >> 11) * 0x1p-53);
}

Test(rng, streams_differ_by_use_and_by_both_indices)
{
    uint64_t seen[5 * 8 * 8];
    int count = 0;
    for (int use = GLN_RNG_INIT; use <= GLN_RNG_TEST; use++)
        for (uint64_t a = 0; a < 8; a++)
            for (uint64_t b = 0; b < 8; b++)
                seen[count++] = gln_rng_stream((gln_rng_use_t)use, a, b);
    for (int i = 0; i < count; i++)
        for (int j = 0; j < i; j++)
            cr_assert_neq(seen[i], seen[j]);
}

Test(rng, seed_stream_and_index_each_change_the_number)
{
    uint64_t base = gln_rng_u64(1, 2, 3);
    cr_assert_eq(gln_rng_u64(1, 2, 3), base);
    cr_assert_neq(gln_rng_u64(2, 2, 3), base);
    cr_assert_neq(gln_rng_u64(1, 3, 3), base);
    cr_assert_neq(gln_rng_u64(1, 2, 4), base);
    cr_assert_neq(gln_rng_u64((uint64_t)1 << 32 | 1, 2, 3), base);
    cr_assert_neq(gln_rng_u64(1, (uint64_t)1 << 32 | 2, 3), base);
    cr_assert_neq(gln_rng_u64(1, 2, (uint64_t)1 << 32 | 3), base);
}

Test(rng, uniforms_fill_the_unit_interval)
{
    enum { COUNT = 200000, BINS = 20 };
    int bins[BINS] = {0};
    double sum = 0;
    for (uint64_t i = 0; i < COUNT; i++) {
        double u = gln_rng_uniform(42, 7, i);
        cr_assert(u >= 0 && u < 1);
        bins[(int)(u * BINS)]++;
        sum += u;
    }
    cr_assert_float_eq(sum / COUNT, 0.5, 5 * sqrt(1.0 / 12 / COUNT));
    double chi2 = 0, expected = (double)COUNT / BINS;
    for (int i = 0; i < BINS; i++)
        chi2 += (bins[i] - expected) * (bins[i] - expected) / expected;
    cr_assert(chi2 < 45, "chi2 %g of 19 degrees of freedom", chi2); /* p = 0.0007 */
}

Test(rng, normals_have_the_moments_of_a_normal)
{
    enum { COUNT = 200000 };
    double m[5] = {0};
    for (uint64_t i = 0; i < COUNT; i++) {
        double z = gln_rng_normal(42, 8, i), power = 1;
        cr_assert(isfinite(z));
        for (int k = 0; k < 5; k++, power *= z)
            m[k] += power / COUNT;
    }
    double s = 5 / sqrt(COUNT);
    cr_assert_float_eq(m[1], 0, s);
    cr_assert_float_eq(m[2], 1, s * sqrt(2));
    cr_assert_float_eq(m[3], 0, s * sqrt(15));
    cr_assert_float_eq(m[4], 3, s * sqrt(96));
}

Test(rng, permute_is_a_bijection)
{
    const uint64_t counts[] = {1, 2, 3, 4, 5, 7, 8, 16, 17, 100, 1000, 1024, 65536, 65537};
    for (int c = 0; c < 14; c++) {
        for (uint64_t seed = 0; seed < (counts[c] > 1000 ? 1u : 20u); seed++) {
            char *hit = calloc(counts[c], 1);
            for (uint64_t i = 0; i < counts[c]; i++) {
                uint64_t to = gln_rng_permute(seed, 5, counts[c], i);
                cr_assert(to < counts[c]);
                cr_assert(!hit[to], "count %d: two indices go to %d", (int)counts[c], (int)to);
                hit[to] = 1;
            }
            free(hit);
        }
    }
}

Test(rng, permute_works_at_huge_counts)
{
    for (uint64_t i = 0; i < 1000; i++)
        cr_assert(gln_rng_permute(1, 2, UINT64_MAX, UINT64_MAX - 1 - i) < UINT64_MAX);
    cr_assert(gln_rng_permute(1, 2, (UINT64_C(1) << 40) + 1, UINT64_C(1) << 40) <= UINT64_C(1)
                                                                                       << 40);
}

/* Every order of 4 should come up about equally often over seeds. */
Test(rng, permutations_are_spread_over_all_orders)
{
    enum { SEEDS = 24000 };
    int orders[256] = {0}, kinds = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        int order = 0;
        for (uint64_t i = 0; i < 4; i++)
            order = order * 4 + (int)gln_rng_permute(seed, 3, 4, i);
        orders[order]++;
    }
    for (int i = 0; i < 256; i++) {
        if (!orders[i]) continue;
        kinds++;
        cr_assert(orders[i] > 800 && orders[i] < 1200, "order %d came %d times", i, orders[i]);
    }
    cr_assert_eq(kinds, 24);
}
