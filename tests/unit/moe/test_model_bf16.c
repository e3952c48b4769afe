/* A model without MoE layers in bf16: its copies of the weights follow the master weights, its
 * gradients are those of f32 within the type's rounding, and it learns as well. */
#include "moe/model.h"
#include "moe/optimizer.h"

#include "base/bf16.h"
#include "base/log.h"
#include "base/rng.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

enum { D = 2, SEQUENCES = 2, SEQUENCE = 24, V = 31, ROWS = D * SEQUENCES * SEQUENCE };

typedef struct fixture {
    gln_comm_t *comm;
    gln_parallel_t parallel;
    gln_pool_t *pool;
    gln_kernels_t *kernels;
    gln_model_t *model;
    gln_params_t *params;
    gln_optimizer_t *optimizer;
    int32_t ids[ROWS], target[ROWS];
} fixture_t;

static void open_fixture(fixture_t *f, gln_dtype_t dtype)
{
    const gln_model_options_t model = {.vocabulary = V,
                                       .hidden = 48,
                                       .layers = 2,
                                       .heads = 4,
                                       .kv_heads = 2,
                                       .experts = 2,
                                       .expert_hidden = 40,
                                       .dense_hidden = 80,
                                       .moe_every = 3, /* none */
                                       .sequence = SEQUENCE,
                                       .init_std = 0.2};
    const gln_optimizer_options_t options = {
        .lr = 3e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1};
    cr_assert_eq(gln_comm_open_self(&f->comm), GLN_OK);
    cr_assert_eq(gln_parallel_open(f->comm, D, 1, 2, &f->parallel), GLN_OK);
    cr_assert_eq(gln_pool_open(2, &f->pool), GLN_OK);
    cr_assert_eq(gln_kernels_open(GLN_BACKEND_CPU, dtype, f->pool, &f->kernels), GLN_OK);
    cr_assert_eq(gln_model_open(&f->parallel, f->kernels, &model, SEQUENCES, 1, NULL, &f->model),
                 GLN_OK, "%s", gln_last_error());
    f->params = gln_model_params(f->model);
    gln_params_init(f->params, 5);
    cr_assert_eq(gln_optimizer_open(f->params, f->kernels, &options, &f->optimizer), GLN_OK);
    for (int i = 0; i < ROWS; i++)
        f->ids[i] = (int32_t)(gln_rng_u64(7, 0, (uint64_t)(i / 3)) % V);
    for (int i = 0; i < ROWS; i++)
        f->target[i] = f->ids[(i + 1) % ROWS];
}

static void close_fixture(fixture_t *f)
{
    gln_optimizer_close(f->optimizer);
    gln_model_close(f->model);
    gln_kernels_close(f->kernels);
    gln_pool_close(f->pool);
    gln_parallel_close(&f->parallel);
    gln_comm_close(f->comm);
}

/* @return loss of a token */
static double run(fixture_t *f)
{
    const gln_model_call_t call = {
        .ids = f->ids, .target = f->target, .backward = 1, .loss_scale = 1.0 / ROWS};
    gln_model_result_t r;
    gln_params_zero_grad(f->params);
    cr_assert_eq(gln_model_run(f->model, &call, &r), GLN_OK, "%s", gln_last_error());
    return r.loss_sum / (double)r.tokens;
}

static void expect_copies(const fixture_t *f)
{
    for (int i = 0; i < f->params->count; i++) {
        const gln_param_t *item = &f->params->items[i];
        const float *w = gln_param_w(f->params, item);
        const gln_bf16_t *copy = gln_param_operand(f->params, item);
        for (int64_t j = 0; j < item->count; j++)
            cr_assert_eq(copy[j], gln_bf16_round(w[j]), "%s[%ld]", item->name, (long)j);
    }
}

Test(model_bf16, copies_follow_the_master_weights)
{
    fixture_t f;
    double norm;
    open_fixture(&f, GLN_BF16);
    expect_copies(&f);
    run(&f);
    const float before = ((float *)f.params->dense_w)[3];
    cr_assert_eq(gln_optimizer_step(f.optimizer, 1, &norm), GLN_OK);
    cr_assert_neq(((float *)f.params->dense_w)[3], before);
    expect_copies(&f);
    ((float *)f.params->dense_w)[3] = 0.7f;
    gln_params_round(f.params);
    expect_copies(&f);
    close_fixture(&f);
}

/* Every parameter's gradient, as a vector: within 4 % of f32's length, that is a few rounding
 * errors of bf16 (0.4 %) that mostly cancel. */
Test(model_bf16, gradients_are_those_of_f32)
{
    fixture_t f32, bf16;
    open_fixture(&f32, GLN_F32);
    open_fixture(&bf16, GLN_BF16);
    cr_assert_float_eq(run(&bf16), run(&f32), 0.01);
    for (int i = 0; i < f32.params->count; i++) {
        const gln_param_t *item = &f32.params->items[i];
        double error = 0, length = 0;
        if (item->expert >= 0) continue;
        for (int d = 0; d < D; d++)
            for (int64_t j = 0; j < item->count; j++) {
                const double want = ((float *)f32.params->dense_grad[d])[item->offset + j];
                const double got = ((float *)bf16.params->dense_grad[d])[item->offset + j];
                error += (got - want) * (got - want);
                length += want * want;
            }
        cr_expect_gt(length, 0, "%s", item->name);
        cr_expect_leq(sqrt(error), 0.04 * sqrt(length), "%s: off by %.3g of %.3g", item->name,
                      sqrt(error), sqrt(length));
    }
    close_fixture(&bf16);
    close_fixture(&f32);
}

Test(model_bf16, learns_as_f32_does)
{
    fixture_t f[2];
    double first[2], loss[2], norm;
    for (int i = 0; i < 2; i++) {
        open_fixture(&f[i], i == 0 ? GLN_F32 : GLN_BF16);
        first[i] = run(&f[i]);
        for (int64_t t = 1; t <= 60; t++) {
            run(&f[i]);
            cr_assert_eq(gln_optimizer_step(f[i].optimizer, t, &norm), GLN_OK);
        }
        loss[i] = run(&f[i]);
        close_fixture(&f[i]);
    }
    cr_assert_lt(loss[0], 0.8 * first[0], "f32: %g became %g", first[0], loss[0]);
    cr_assert_float_eq(loss[1], loss[0], 0.02 * first[0], "f32 %g, bf16 %g", loss[0], loss[1]);
}
