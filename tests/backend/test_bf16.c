/* bf16 in the fast backend: results are those of other types, rounded once. Row-wise operations
 * compute in f32 as the f32 backend does, so their bf16 results are its results on the same
 * numbers, rounded; products of small integers are exact before they are rounded; and all
 * operations agree with the reference in f64 on the same numbers within a few units in the last
 * place. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/log.h"
#include "tests/support/close.h"
#include "tests/support/fill.h"
#include "tests/support/op_cases.h"
#include "tests/support/subjects.h"

static const gln_subject_t cpu_bf16 = {"cpu bf16", GLN_BACKEND_CPU, GLN_BF16};
static const gln_subject_t cpu_f32 = {"cpu f32", GLN_BACKEND_CPU, GLN_F32};
static const gln_subject_t ref_bf16 = {"ref bf16", GLN_BACKEND_REF, GLN_BF16};
static const gln_subject_t ref_f32 = {"ref f32", GLN_BACKEND_REF, GLN_F32};
static const gln_subject_t ref_f64 = {"ref f64", GLN_BACKEND_REF, GLN_F64};

/* The call on both, on the same numbers; what prepares is each type's reference. */
typedef struct pair {
    gln_bench_t got, got_ref, want, want_ref;
} pair_t;

static void open_one(const gln_subject_t *subject, gln_bench_t *bench)
{
    cr_assert_eq(gln_bench_open(subject, 2, bench), GLN_OK, "%s: %s", subject->name,
                 gln_last_error());
}

static pair_t open_pair(const gln_subject_t *want, const gln_subject_t *want_ref)
{
    pair_t pair;

    open_one(&cpu_bf16, &pair.got);
    open_one(&ref_bf16, &pair.got_ref);
    open_one(want, &pair.want);
    open_one(want_ref, &pair.want_ref);
    return pair;
}

static void close_pair(pair_t *pair)
{
    gln_bench_close(&pair->want_ref);
    gln_bench_close(&pair->want);
    gln_bench_close(&pair->got_ref);
    gln_bench_close(&pair->got);
}

static int same_number(double a, double b)
{
    return a == b || (isnan(a) && isnan(b));
}

/* Is got = want, rounded to the type of got? What the reference prepares ("forward ..") it computes
 * in f64, whatever the type: that is not looked at. */
static void expect_rounded(const gln_record_t *got, const gln_record_t *want, int variant)
{
    cr_assert_eq(got->buffers_count, want->buffers_count);
    for (int i = 0; i < got->buffers_count; ++i) {
        const gln_record_buffer_t *g = &got->buffers[i], *w = &want->buffers[i];

        if (strncmp(g->name, "forward", 7) == 0) continue;
        for (int64_t j = 0; j < g->count && !g->is_int32; ++j) {
            double value = gln_load(w->data, j, w->dtype), rounded = value;

            gln_store(&rounded, 0, g->dtype, value);
            rounded = gln_load(&rounded, 0, g->dtype);
            cr_assert(same_number(gln_load(g->data, j, g->dtype), rounded),
                      "seed 0x%llx, variant %d, %s[%lld] is %.9g, not %.9g (%.9g rounded once)",
                      (unsigned long long)got->seed, variant, g->name, (long long)j,
                      gln_load(g->data, j, g->dtype), rounded, value);
        }
    }
}

static void expect_close(const gln_record_t *got, const gln_record_t *want, int variant)
{
    cr_assert_eq(got->buffers_count, want->buffers_count);
    for (int i = 0; i < got->buffers_count; ++i) {
        const gln_record_buffer_t *g = &got->buffers[i], *w = &want->buffers[i];
        double tolerance = gln_tolerance(g->dtype);

        for (int64_t j = 0; j < g->count && !g->is_int32; ++j) {
            double a = gln_load(g->data, j, g->dtype), b = gln_load(w->data, j, w->dtype);

            cr_assert(same_number(a, b) || fabs(a - b) <= tolerance * (fabs(b) + w->scale),
                      "seed 0x%llx, variant %d, %s[%lld] is %.9g, in f64 %.9g",
                      (unsigned long long)got->seed, variant, g->name, (long long)j, a, b);
        }
    }
}

/* @param step between variants */
static void check(pair_t *pair, gln_op_case_fn call, int variants, int step,
                  void (*expect)(const gln_record_t *, const gln_record_t *, int))
{
    uint64_t seeds[] = {1, 2, gln_test_seed()};

    for (size_t s = 0; s < sizeof seeds / sizeof seeds[0]; ++s)
        for (int variant = 0; variant < variants; variant += step) {
            gln_record_t got, want;

            gln_record_open(seeds[s] + 1000003 * (uint64_t)variant, &got);
            gln_record_open(got.seed, &want);
            got.round_bf16 = want.round_bf16 = 1;
            cr_assert_eq(call(pair->got.kernels, pair->got_ref.kernels, variant, &got), GLN_OK);
            cr_assert_eq(call(pair->want.kernels, pair->want_ref.kernels, variant, &want), GLN_OK);
            expect(&got, &want, variant);
            gln_record_close(&want);
            gln_record_close(&got);
        }
}

/* Steps leave out variants that differ between the types: in place, without a second copy. */
Test(bf16, row_wise_results_are_those_of_f32_rounded_once)
{
    pair_t pair = open_pair(&cpu_f32, &ref_f32);

    check(&pair, gln_case_rmsnorm, 9, 1, expect_rounded);
    check(&pair, gln_case_rmsnorm_backward, 9, 1, expect_rounded);
    check(&pair, gln_case_rope, 9, 1, expect_rounded);
    check(&pair, gln_case_swiglu, 9, 1, expect_rounded);
    check(&pair, gln_case_swiglu_backward, 10, 1, expect_rounded);
    check(&pair, gln_case_gather, 8, 1, expect_rounded);
    check(&pair, gln_case_combine, 10, 1, expect_rounded);
    check(&pair, gln_case_embed, 8, 1, expect_rounded);
    check(&pair, gln_case_embed_backward, 8, 1, expect_rounded);
    check(&pair, gln_case_cross_entropy, 12, 3, expect_rounded);
    check(&pair, gln_case_adamw, 8, 2, expect_rounded);
    check(&pair, gln_case_add, 6, 1, expect_rounded);
    check(&pair, gln_case_sum_squares, 6, 1, expect_rounded);
    close_pair(&pair);
}

Test(bf16, every_operation_agrees_with_f64)
{
    pair_t pair = open_pair(&ref_f64, &ref_f64);

    check(&pair, gln_case_gemm, 24, 1, expect_close);
    check(&pair, gln_case_rmsnorm, 9, 1, expect_close);
    check(&pair, gln_case_rmsnorm_backward, 9, 1, expect_close);
    check(&pair, gln_case_rope, 9, 1, expect_close);
    check(&pair, gln_case_attention, 9, 1, expect_close);
    check(&pair, gln_case_attention_backward, 9, 1, expect_close);
    check(&pair, gln_case_swiglu, 9, 1, expect_close);
    check(&pair, gln_case_swiglu_backward, 10, 1, expect_close);
    check(&pair, gln_case_combine, 10, 1, expect_close);
    check(&pair, gln_case_cross_entropy, 12, 3, expect_close);
    check(&pair, gln_case_adamw, 8, 2, expect_close);
    check(&pair, gln_case_add, 6, 1, expect_close);
    close_pair(&pair);
}

/* ---- products ---------------------------------------------------------------------------- */
enum { M = 70, N = 90, K = 300, ELEMENTS = K * N };

static void fill_integers(uint64_t stream, int count, int size, gln_dtype_t dtype, void *out)
{
    static int32_t integers[ELEMENTS];

    gln_fill_int32(7, stream, -size, size + 1, count, integers);
    for (int i = 0; i < count; ++i)
        gln_store(out, i, dtype, (double)integers[i]);
}

/* Sums of up to K * 9 are exact in f32, and most have more bits than bf16 holds. */
static void check_integers(gln_kernels_t *k, gln_gemm_mode_t mode, int64_t inner)
{
    static gln_bf16_t a[ELEMENTS], b[ELEMENTS];
    static float c[M * N], before[M * N];
    gln_dtype_t dtype_c = mode.c_acc ? GLN_F32 : GLN_BF16;
    int tn = mode.form == GLN_GEMM_TN, nt = mode.form == GLN_GEMM_NT;
    gln_gemm_t g = {M, N, inner, a, tn ? M : inner, b, nt ? inner : N, c, N};

    fill_integers(1, (int)(M * inner), 3, GLN_BF16, a);
    fill_integers(2, (int)(N * inner), 3, GLN_BF16, b);
    fill_integers(3, M * N, 200, dtype_c, c);
    memcpy(before, c, sizeof c);
    cr_assert_eq(k->ops->gemm(k, mode, &g, 1), GLN_OK, "%s", gln_last_error());
    for (int64_t i = 0; i < M; ++i)
        for (int64_t j = 0; j < N; ++j) {
            double sum = mode.accumulate ? gln_load(before, i * N + j, dtype_c) : 0, want;

            for (int64_t x = 0; x < inner; ++x)
                sum += gln_load(a, tn ? x * M + i : i * inner + x, GLN_BF16) *
                       gln_load(b, nt ? j * inner + x : x * N + j, GLN_BF16);
            gln_store(&want, 0, dtype_c, sum);
            cr_assert_eq(gln_load(c, i * N + j, dtype_c), gln_load(&want, 0, dtype_c),
                         "form %d, accumulate %d, c_acc %d, k %lld: C[%lld,%lld] is %g, not %g, "
                         "which is %g rounded once",
                         (int)mode.form, mode.accumulate, mode.c_acc, (long long)inner,
                         (long long)i, (long long)j, gln_load(c, i * N + j, dtype_c),
                         gln_load(&want, 0, dtype_c), sum);
        }
}

Test(bf16, products_are_summed_in_f32_and_rounded_once)
{
    gln_bench_t bench;

    open_one(&cpu_bf16, &bench);
    for (int variant = 0; variant < 12; ++variant) {
        gln_gemm_mode_t mode = {(gln_gemm_form_t)(variant % 3), variant / 3 % 2, variant / 6};

        check_integers(bench.kernels, mode, 17);
        check_integers(bench.kernels, mode, K);
    }
    gln_bench_close(&bench);
}
