/* The schedule, clipping, and refusing a step that is not finite. */
#include "moe/optimizer.h"

#include <criterion/criterion.h>
#include <math.h>

typedef struct fixture {
    gln_comm_t *comm;
    gln_parallel_t parallel;
    gln_pool_t *pool;
    gln_kernels_t *kernels;
    gln_params_t *params;
    gln_optimizer_t *optimizer;
} fixture_t;

/* Two dense parameters (a matrix and a norm) and two experts, in double, on 2 domains of 1 rank. */
static void open_fixture(fixture_t *f, const gln_optimizer_options_t *options)
{
    cr_assert_eq(gln_comm_open_self(&f->comm), GLN_OK);
    cr_assert_eq(gln_parallel_open(f->comm, 2, 1, 2, &f->parallel), GLN_OK);
    cr_assert_eq(gln_pool_open(1, &f->pool), GLN_OK);
    cr_assert_eq(gln_kernels_open(GLN_BACKEND_REF, GLN_F64, f->pool, &f->kernels), GLN_OK);
    cr_assert_eq(gln_params_open(&f->parallel, GLN_F64, &f->params), GLN_OK);
    gln_params_add(f->params, "matrix", 2, 3, -1, 0.5);
    gln_params_add(f->params, "norm", 4, 0, -1, 0);
    gln_params_add(f->params, "experts.0", 3, 2, 0, 0.5);
    gln_params_add(f->params, "experts.1", 3, 2, 1, 0.5);
    cr_assert_eq(gln_params_commit(f->params, 1), GLN_OK);
    gln_params_init(f->params, 1);
    cr_assert_eq(gln_optimizer_open(f->params, f->kernels, options, &f->optimizer), GLN_OK);
}

static void close_fixture(fixture_t *f)
{
    gln_optimizer_close(f->optimizer);
    gln_params_close(f->params);
    gln_kernels_close(f->kernels);
    gln_pool_close(f->pool);
    gln_parallel_close(&f->parallel);
    gln_comm_close(f->comm);
}

static gln_optimizer_options_t options(void)
{
    return (gln_optimizer_options_t){.lr = 0.1,
                                     .lr_min = 0.01,
                                     .beta1 = 0.9,
                                     .beta2 = 0.99,
                                     .eps = 1e-8,
                                     .weight_decay = 0.5,
                                     .clip = 2.0,
                                     .warmup_steps = 4,
                                     .decay_steps = 12};
}

/* Every gradient element of both domains' buffers and of the experts. */
static void fill_gradients(gln_params_t *p, double dense, double expert)
{
    for (int d = 0; d < 2; d++)
        for (int64_t i = 0; i < p->dense_count; i++)
            ((double *)p->dense_grad[d])[i] = dense;
    for (int64_t i = 0; i < p->expert_count; i++)
        ((double *)p->expert_grad[0])[i] = expert;
}

Test(optimizer, schedule_warms_up_and_decays)
{
    const gln_optimizer_options_t o = options();
    cr_assert_float_eq(gln_optimizer_lr(&o, 1), 0.025, 1e-15);
    cr_assert_float_eq(gln_optimizer_lr(&o, 4), 0.1, 1e-15);
    cr_assert_float_eq(gln_optimizer_lr(&o, 8), 0.055, 1e-15); /* half way of the cosine */
    cr_assert_float_eq(gln_optimizer_lr(&o, 12), 0.01, 1e-15);
    cr_assert_float_eq(gln_optimizer_lr(&o, 1000), 0.01, 1e-15);
    gln_optimizer_options_t constant = o;
    constant.decay_steps = 0;
    cr_assert_float_eq(gln_optimizer_lr(&constant, 1000), 0.1, 1e-15);
}

Test(optimizer, norm_sums_domains_and_clips)
{
    fixture_t f;
    double norm = 0;
    const gln_optimizer_options_t o = options();
    open_fixture(&f, &o);
    fill_gradients(f.params, 0.5, 3.0);
    cr_assert_eq(gln_optimizer_step(f.optimizer, 1, &norm), GLN_OK);
    /* two domains of 0.5 make 1 for 10 dense elements; 12 expert elements of 3 */
    cr_assert_float_eq(norm, sqrt(10 * 1.0 + 12 * 9.0), 1e-12);
    const double clipped = 3.0 * o.clip / norm, first = ((double *)f.params->expert_m)[0];
    cr_assert_float_eq(first, (1 - o.beta1) * clipped, 1e-12,
                       "the clipped gradient enters the moments");
    close_fixture(&f);
}

Test(optimizer, below_the_bound_nothing_is_clipped)
{
    fixture_t f;
    double norm = 0;
    const gln_optimizer_options_t o = options();
    open_fixture(&f, &o);
    fill_gradients(f.params, 0.01, 0.02);
    cr_assert_eq(gln_optimizer_step(f.optimizer, 1, &norm), GLN_OK);
    cr_assert_float_eq(((double *)f.params->expert_m)[0], (1 - o.beta1) * 0.02, 1e-15);
    close_fixture(&f);
}

Test(optimizer, decay_spares_norms)
{
    fixture_t f;
    double norm = 0;
    gln_optimizer_options_t o = options();
    o.warmup_steps = o.decay_steps = 0;
    open_fixture(&f, &o);
    fill_gradients(f.params, 0, 0);
    const double *matrix = gln_param_w(f.params, &f.params->items[0]);
    const double *vector = gln_param_w(f.params, &f.params->items[1]);
    const double before = matrix[2];
    cr_assert_eq(gln_optimizer_step(f.optimizer, 1, &norm), GLN_OK);
    cr_assert_float_eq(matrix[2], before * (1 - o.lr * o.weight_decay), 1e-15);
    cr_assert_eq(vector[2], 1.0, "a norm starts at one and does not decay");
    close_fixture(&f);
}

Test(optimizer, refuses_what_is_not_finite)
{
    fixture_t f;
    double norm = -1;
    const gln_optimizer_options_t o = options();
    open_fixture(&f, &o);
    fill_gradients(f.params, 0.5, 3.0);
    ((double *)f.params->expert_grad[0])[5] = NAN;
    const double before = ((double *)f.params->dense_w)[1];
    cr_assert_eq(gln_optimizer_step(f.optimizer, 1, &norm), GLN_ERR_NUMERIC);
    cr_assert_eq(norm, -1);
    cr_assert_eq(((double *)f.params->dense_w)[1], before);
    cr_assert_eq(((double *)f.params->dense_m)[1], 0);
    close_fixture(&f);
}

Test(optimizer, needs_moments)
{
    fixture_t f;
    gln_params_t *weights = NULL;
    gln_optimizer_t *none = NULL;
    const gln_optimizer_options_t o = options();
    open_fixture(&f, &o);
    cr_assert_eq(gln_params_open(&f.parallel, GLN_F64, &weights), GLN_OK);
    gln_params_add(weights, "matrix", 2, 3, -1, 0.5);
    cr_assert_eq(gln_params_commit(weights, 0), GLN_OK);
    cr_assert_eq(gln_optimizer_open(weights, f.kernels, &o, &none), GLN_ERR_ARGUMENT);
    cr_assert_null(none);
    gln_params_close(weights);
    close_fixture(&f);
}

/* State among the weights: no update, no decay, and none of the 0 / 0 that eps = 0 would make of
 * it. */
Test(optimizer, leaves_state_alone)
{
    fixture_t f;
    gln_optimizer_options_t o = options();
    double norm = 0;
    o.eps = 0;
    open_fixture(&f, &o);
    gln_optimizer_close(f.optimizer);
    gln_params_close(f.params);
    cr_assert_eq(gln_params_open(&f.parallel, GLN_F64, &f.params), GLN_OK);
    gln_params_add(f.params, "before", 4, 0, -1, 0);
    const int bias = gln_params_add_state(f.params, "bias", 3);
    gln_params_add(f.params, "after", 4, 0, -1, 0);
    cr_assert_eq(gln_params_commit(f.params, 1), GLN_OK);
    gln_params_init(f.params, 1);
    double *w = gln_param_w(f.params, &f.params->items[bias]);
    cr_assert(w[0] == 0 && w[1] == 0 && w[2] == 0, "state begins at zero");
    w[1] = 0.5;
    cr_assert_eq(gln_optimizer_open(f.params, f.kernels, &o, &f.optimizer), GLN_OK);
    double *gradient = f.params->dense_grad[0];
    for (int i = 0; i < 4; i++)
        gradient[i] = gradient[7 + i] = 1;
    cr_assert_eq(gln_optimizer_step(f.optimizer, 1, &norm), GLN_OK);
    cr_assert(w[0] == 0 && w[1] == 0.5 && w[2] == 0);
    const double *all = f.params->dense_w;
    cr_assert(all[0] < 1 && all[10] < 1, "its neighbours are updated");
    close_fixture(&f);
}
