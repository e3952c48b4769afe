/* Every operation of every backend agrees with the reference within the tolerance of its dtype, and
 * gives the same bits on 1, 2 and 3 threads. The reference is among the backends: a check of the
 * test. */
#include <criterion/criterion.h>

#include "base/log.h"
#include "tests/support/fill.h"
#include "tests/support/op_cases.h"
#include "tests/support/subjects.h"

#define THREADS_MAX 3

/* One backend on pools of 1, 2 and 3 threads, and the reference in the same dtype. */
typedef struct benches {
    gln_bench_t by_threads[THREADS_MAX];
    gln_bench_t ref;
} benches_t;

static void open_benches(const gln_subject_t *subject, benches_t *benches)
{
    static gln_subject_t ref = {"ref", GLN_BACKEND_REF, GLN_F32};

    for (int i = 0; i < THREADS_MAX; ++i)
        cr_assert_eq(gln_bench_open(subject, i + 1, &benches->by_threads[i]), GLN_OK, "%s: %s",
                     subject->name, gln_last_error());
    ref.dtype = subject->dtype;
    cr_assert_eq(gln_bench_open(&ref, 1, &benches->ref), GLN_OK);
}

static void close_benches(benches_t *benches)
{
    gln_bench_close(&benches->ref);
    for (int i = 0; i < THREADS_MAX; ++i)
        gln_bench_close(&benches->by_threads[i]);
}

static void check_call(gln_op_case_fn call, const gln_subject_t *subject, benches_t *benches,
                       uint64_t seed, int variant)
{
    gln_kernels_t *ref = benches->ref.kernels;
    gln_record_t want, got[THREADS_MAX];
    const char *difference;

    gln_record_open(seed + 1000003 * (uint64_t)variant, &want);
    cr_assert_eq(call(ref, ref, variant, &want), GLN_OK);
    for (int i = 0; i < THREADS_MAX; ++i) {
        gln_record_open(want.seed, &got[i]);
        cr_assert_eq(call(benches->by_threads[i].kernels, ref, variant, &got[i]), GLN_OK, "%s: %s",
                     subject->name, gln_last_error());
    }
    difference = gln_record_differs(&got[0], &want);
    cr_expect_null(difference, "%s, seed 0x%llx, variant %d: %s", subject->name,
                   (unsigned long long)seed, variant, difference);
    for (int i = 1; i < THREADS_MAX; ++i) {
        difference = gln_record_differs_in_bits(&got[i], &got[0]);
        cr_expect_null(difference, "%s, seed 0x%llx, variant %d, %d threads against 1: %s",
                       subject->name, (unsigned long long)seed, variant, i + 1, difference);
    }
    for (int i = 0; i < THREADS_MAX; ++i)
        gln_record_close(&got[i]);
    gln_record_close(&want);
}

static void check(gln_op_case_fn call, int variants)
{
    uint64_t seeds[] = {1, 2, gln_test_seed()};

    for (int i = 0; i < gln_subjects_count; ++i) {
        benches_t benches;

        open_benches(&gln_subjects[i], &benches);
        for (size_t s = 0; s < sizeof seeds / sizeof seeds[0]; ++s)
            for (int variant = 0; variant < variants; ++variant)
                check_call(call, &gln_subjects[i], &benches, seeds[s], variant);
        close_benches(&benches);
    }
}

Test(against_ref, gemm)
{
    check(gln_case_gemm, 24);
}

Test(against_ref, rmsnorm)
{
    check(gln_case_rmsnorm, 9);
}

Test(against_ref, rmsnorm_backward)
{
    check(gln_case_rmsnorm_backward, 9);
}

Test(against_ref, rope)
{
    check(gln_case_rope, 9);
}

Test(against_ref, attention)
{
    check(gln_case_attention, 9);
}

Test(against_ref, attention_backward)
{
    check(gln_case_attention_backward, 9);
}

Test(against_ref, swiglu)
{
    check(gln_case_swiglu, 9);
}

Test(against_ref, swiglu_backward)
{
    check(gln_case_swiglu_backward, 10);
}

Test(against_ref, gather)
{
    check(gln_case_gather, 8);
}

Test(against_ref, combine)
{
    check(gln_case_combine, 10);
}

Test(against_ref, embed)
{
    check(gln_case_embed, 8);
}

Test(against_ref, embed_backward)
{
    check(gln_case_embed_backward, 8);
}

Test(against_ref, cross_entropy)
{
    check(gln_case_cross_entropy, 12);
}

Test(against_ref, adamw)
{
    check(gln_case_adamw, 8);
}

Test(against_ref, add)
{
    check(gln_case_add, 6);
}

Test(against_ref, round)
{
    check(gln_case_round, 6);
}

Test(against_ref, sum_squares)
{
    check(gln_case_sum_squares, 6);
}
