/* Counts may be 0: such a call does nothing and looks at no pointer. */
#include <criterion/criterion.h>

#include "base/log.h"
#include "tests/support/subjects.h"

static void call_all(gln_kernels_t *k)
{
    const gln_kernel_ops_t *ops = k->ops;
    gln_attention_backward_t attention = {
        .forward = {.s = 4, .heads = 4, .kv_heads = 2, .dh = 8, .ldqkv = 64}};
    double sum = 3;

    for (int form = 0; form < 3; ++form) {
        gln_gemm_mode_t mode = {.form = (gln_gemm_form_t)form};
        gln_gemm_t none = {.n = 4, .k = form < 2 ? 4 : 0, .m = 0, .lda = 4, .ldb = 4, .ldc = 4};

        cr_expect_eq(ops->gemm(k, mode, NULL, 0), GLN_OK);
        cr_expect_eq(ops->gemm(k, mode, &none, 1), GLN_OK);
    }
    cr_expect_eq(ops->rmsnorm(k, &(gln_rmsnorm_t){.h = 8, .eps = 1e-5}), GLN_OK);
    cr_expect_eq(ops->rmsnorm_backward(k, &(gln_rmsnorm_backward_t){.h = 8}), GLN_OK);
    cr_expect_eq(ops->rope(k, &(gln_rope_t){.s = 4, .heads = 2, .dh = 8, .theta = 1e4}), GLN_OK);
    cr_expect_eq(ops->attention(k, &attention.forward), GLN_OK);
    cr_expect_eq(ops->attention_backward(k, &attention), GLN_OK);
    cr_expect_eq(ops->swiglu(k, &(gln_swiglu_t){.f = 8}), GLN_OK);
    cr_expect_eq(ops->swiglu_backward(k, &(gln_swiglu_backward_t){.f = 8}), GLN_OK);
    cr_expect_eq(ops->gather(k, &(gln_gather_t){.h = 8}), GLN_OK);
    cr_expect_eq(ops->combine(k, &(gln_combine_t){.h = 8}), GLN_OK);
    cr_expect_eq(ops->embed(k, &(gln_embed_t){.h = 8, .v = 3}), GLN_OK);
    cr_expect_eq(ops->embed_backward(k, &(gln_embed_backward_t){.h = 8, .v = 3}), GLN_OK);
    cr_expect_eq(ops->cross_entropy(k, &(gln_cross_entropy_t){.v = 8, .scale = 1}), GLN_OK);
    cr_expect_eq(ops->adamw(k, &(gln_adamw_t){.t = 1, .beta1 = 0.9, .beta2 = 0.9}), GLN_OK);
    cr_expect_eq(ops->add(k, 0, NULL, NULL), GLN_OK);
    cr_expect_eq(ops->round(k, 0, NULL, NULL), GLN_OK);
    cr_expect_eq(ops->sum_squares(k, 0, NULL, &sum), GLN_OK);
    cr_expect_eq(sum, 0);
}

Test(zero_counts, every_operation)
{
    for (int i = 0; i < gln_subjects_count; ++i) {
        gln_bench_t bench;

        cr_assert_eq(gln_bench_open(&gln_subjects[i], 2, &bench), GLN_OK, "%s: %s",
                     gln_subjects[i].name, gln_last_error());
        call_all(bench.kernels);
        gln_bench_close(&bench);
    }
}
