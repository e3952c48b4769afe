/* A whole model of two blocks, in double on the reference kernels: every parameter's gradient
 * against central finite differences of the loss (cross-entropy, balance and z). The normalized
 * weights hold their denominator constant in backward, which no difference of the loss can see, so
 * they are tested with `attached`; the form p has none. */
#include "moe/model.h"

#include "base/log.h"
#include "base/rng.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

typedef struct fixture {
    gln_comm_t *comm;
    gln_parallel_t parallel;
    gln_pool_t *pool;
    gln_kernels_t *kernels;
    gln_model_t *model;
    int32_t *ids, *target;
    gln_model_call_t call;
    double balance_coef, z_coef;
} fixture_t;

enum { SEQUENCES = 2, SEQUENCE = 7, VOCABULARY = 11 };

static void open_fixture(fixture_t *f, const gln_model_options_t *options, int domains, int groups)
{
    cr_assert_eq(gln_comm_open_self(&f->comm), GLN_OK);
    cr_assert_eq(gln_parallel_open(f->comm, domains, groups, options->experts, &f->parallel),
                 GLN_OK);
    cr_assert_eq(gln_pool_open(1, &f->pool), GLN_OK);
    cr_assert_eq(gln_kernels_open(GLN_BACKEND_REF, GLN_F64, f->pool, &f->kernels), GLN_OK);
    cr_assert_eq(gln_model_open(&f->parallel, f->kernels, options, SEQUENCES, 1, NULL, &f->model),
                 GLN_OK, "%s", gln_last_error());
    gln_params_init(gln_model_params(f->model), 5);
    const int64_t n = (int64_t)domains * SEQUENCES * SEQUENCE;
    f->ids = calloc((size_t)n, sizeof *f->ids);
    f->target = calloc((size_t)n, sizeof *f->target);
    for (int64_t i = 0; i < n; i++) {
        f->ids[i] = (int32_t)(gln_rng_u64(7, 0, (uint64_t)i) % VOCABULARY);
        f->target[i] = i % 9 == 4 ? -1 : (int32_t)(gln_rng_u64(8, 0, (uint64_t)i) % VOCABULARY);
    }
    f->call = (gln_model_call_t){.ids = f->ids,
                                 .target = f->target,
                                 .seed = 3,
                                 .backward = 1,
                                 .loss_scale = 1.0 / (double)n,
                                 .aux_scale = 1.0 / domains};
    f->balance_coef = options->router.balance_coef;
    f->z_coef = options->router.z_coef;
}

static void close_fixture(fixture_t *f)
{
    free(f->target);
    free(f->ids);
    gln_model_close(f->model);
    gln_kernels_close(f->kernels);
    gln_pool_close(f->pool);
    gln_parallel_close(&f->parallel);
    gln_comm_close(f->comm);
}

/* What the gradients are the gradient of. */
static double objective(fixture_t *f)
{
    gln_model_call_t call = f->call;
    gln_model_result_t r;
    call.backward = 0;
    cr_assert_eq(gln_model_run(f->model, &call, &r), GLN_OK);
    const double layers = gln_model_moe_layers(f->model);
    return call.loss_scale * r.loss_sum +
           call.aux_scale * f->parallel.domains * layers *
               (f->balance_coef * r.balance_loss + f->z_coef * r.z_loss);
}

static double summed_gradient(const gln_params_t *p, const gln_param_t *item, int64_t j)
{
    double sum = 0;
    const int parts = item->expert < 0 ? p->parallel->local_domains : p->parallel->local_groups;
    for (int d = 0; d < parts; d++)
        sum +=
            ((double *)(item->expert < 0 ? p->dense_grad[d] : p->expert_grad[d]))[item->offset + j];
    return sum;
}

static void check(const gln_model_options_t *options, int domains, int groups)
{
    fixture_t f;
    gln_model_result_t r;
    int nonzero = 0, checked = 0;
    open_fixture(&f, options, domains, groups);
    gln_params_t *p = gln_model_params(f.model);
    gln_params_zero_grad(p);
    cr_assert_eq(gln_model_run(f.model, &f.call, &r), GLN_OK);
    cr_assert_eq(r.ledger.tokens,
                 (int64_t)domains * SEQUENCES * SEQUENCE * gln_model_moe_layers(f.model));
    for (int i = 0; i < p->count; i++) {
        const gln_param_t *item = &p->items[i];
        const int64_t stride = item->count / 5 + 1;
        for (int64_t j = i % stride; j < item->count; j += stride) {
            double *w = (double *)gln_param_w(p, item) + j;
            const double kept = *w, eps = 1e-5;
            *w = kept + eps;
            const double up = objective(&f);
            *w = kept - eps;
            const double down = objective(&f);
            *w = kept;
            const double want = (up - down) / (2 * eps), got = summed_gradient(p, item, j);
            cr_assert(fabs(got - want) <= 1e-6 * fabs(want) + 2e-9,
                      "%s[%ld]: gradient %.12g, difference %.12g", item->name, (long)j, got, want);
            nonzero += fabs(want) > 1e-7;
            checked++;
        }
    }
    cr_assert_gt(nonzero, checked / 2, "the test must not compare zeros: %d of %d", nonzero,
                 checked);
    close_fixture(&f);
}

static gln_model_options_t small(void)
{
    return (gln_model_options_t){.vocabulary = VOCABULARY,
                                 .hidden = 8,
                                 .layers = 2,
                                 .heads = 4,
                                 .kv_heads = 2,
                                 .head_dim = 4,
                                 .experts = 4,
                                 .expert_hidden = 6,
                                 .sequence = SEQUENCE,
                                 .init_std = 0.4,
                                 .router = {.k = 1,
                                            .capacity_factor = 0.75,
                                            .weight = GLN_WEIGHT_P,
                                            .balance_coef = 0.05,
                                            .z_coef = 0.02}};
}

Test(model_gradient, top1_plain)
{
    gln_model_options_t o = small();
    check(&o, 1, 1);
}

Test(model_gradient, top1_fill_and_rectify)
{
    gln_model_options_t o = small();
    o.router.fill = o.router.rectify = 1;
    check(&o, 2, 1);
}

Test(model_gradient, top2_fill_and_rectify_attached)
{
    gln_model_options_t o = small();
    o.router = (gln_router_options_t){.k = 2,
                                      .capacity_factor = 0.8,
                                      .fill = 1,
                                      .rectify = 1,
                                      .attached = 1,
                                      .balance_coef = 0.05,
                                      .z_coef = 0.02};
    check(&o, 2, 1);
}

Test(model_gradient, two_replica_groups)
{
    gln_model_options_t o = small();
    o.router.rectify = 1;
    check(&o, 4, 2);
}

Test(model_gradient, dense_layer_and_shared_expert)
{
    gln_model_options_t o = small();
    o.moe_every = 2;
    o.shared_hidden = 5;
    o.dense_hidden = 7;
    o.router.fill = 1;
    check(&o, 2, 1);
}

Test(model_gradient, balance_over_all_domains)
{
    gln_model_options_t o = small();
    o.balance_global = 1;
    o.router.balance_coef = 0.5;
    check(&o, 4, 2);
}

/* The bias parameter is among those checked: it has no gradient. */
Test(model_gradient, deepseek_v3_with_its_bias)
{
    gln_model_options_t o = small();
    o.router = (gln_router_options_t){.policy = GLN_POLICY_DEEPSEEK_V3,
                                      .k = 2,
                                      .attached = 1,
                                      .balance_coef = 0.05,
                                      .z_coef = 0.02};
    check(&o, 2, 1);
}
