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
typedef struct bench {
    gln_pool_t *pools[THREADS_MAX];
    gln_kernels_t *kernels[THREADS_MAX];
    gln_kernels_t *ref;
} bench_t;

static void open_bench(const gln_subject_t *subject, bench_t *bench) {
    for (int i = 0; i < THREADS_MAX; ++i) {
        cr_assert_eq(gln_pool_open(i + 1, &bench->pools[i]), GLN_OK);
        cr_assert_eq(
            gln_kernels_open(subject->backend, subject->dtype, bench->pools[i], &bench->kernels[i]),
            GLN_OK, "%s: %s", subject->name, gln_last_error());
    }
    cr_assert_eq(gln_kernels_open(GLN_BACKEND_REF, subject->dtype, bench->pools[0], &bench->ref),
                 GLN_OK);
}

static void close_bench(bench_t *bench) {
    gln_kernels_close(bench->ref);
    for (int i = 0; i < THREADS_MAX; ++i) {
        gln_kernels_close(bench->kernels[i]);
        gln_pool_close(bench->pools[i]);
    }
}

static void check_call(gln_op_case_fn call, const gln_subject_t *subject, bench_t *bench,
                       uint64_t seed, int variant) {
    gln_record_t want, got[THREADS_MAX];
    const char *difference;

    gln_record_open(seed + 1000003 * (uint64_t)variant, &want);
    cr_assert_eq(call(bench->ref, bench->ref, variant, &want), GLN_OK);
    for (int i = 0; i < THREADS_MAX; ++i) {
        gln_record_open(want.seed, &got[i]);
        cr_assert_eq(call(bench->kernels[i], bench->ref, variant, &got[i]), GLN_OK, "%s: %s",
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

static void check(gln_op_case_fn call, int variants) {
    uint64_t seeds[] = {1, 2, gln_test_seed()};

    for (int i = 0; i < gln_subjects_count; ++i) {
        bench_t bench;

        open_bench(&gln_subjects[i], &bench);
        for (size_t s = 0; s < sizeof seeds / sizeof seeds[0]; ++s)
            for (int variant = 0; variant < variants; ++variant)
                check_call(call, &gln_subjects[i], &bench, seeds[s], variant);
        close_bench(&bench);
    }
}

Test(against_ref, gemm) {
    check(gln_case_gemm, 24);
}

Test(against_ref, rmsnorm) {
    check(gln_case_rmsnorm, 9);
}

Test(against_ref, rmsnorm_backward) {
    check(gln_case_rmsnorm_backward, 9);
}

Test(against_ref, rope) {
    check(gln_case_rope, 9);
}

Test(against_ref, attention) {
    check(gln_case_attention, 9);
}

Test(against_ref, attention_backward) {
    check(gln_case_attention_backward, 9);
}

Test(against_ref, swiglu) {
    check(gln_case_swiglu, 9);
}

Test(against_ref, swiglu_backward) {
    check(gln_case_swiglu_backward, 10);
}

Test(against_ref, gather) {
    check(gln_case_gather, 8);
}

Test(against_ref, combine) {
    check(gln_case_combine, 10);
}

Test(against_ref, embed) {
    check(gln_case_embed, 8);
}

Test(against_ref, embed_backward) {
    check(gln_case_embed_backward, 8);
}

Test(against_ref, cross_entropy) {
    check(gln_case_cross_entropy, 12);
}

Test(against_ref, adamw) {
    check(gln_case_adamw, 8);
}

Test(against_ref, add) {
    check(gln_case_add, 6);
}

Test(against_ref, sum_squares) {
    check(gln_case_sum_squares, 6);
}
