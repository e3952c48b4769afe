/* Scores that are given instead of logits: the router uses exactly those. */
#include "tests/unit/router/cases.h"

static gln_pool_t *pool;

static void setup(void)
{
    pool = pool_of(2);
}
static void teardown(void)
{
    gln_pool_close(pool);
}
TestSuite(given, .init = setup, .fini = teardown, .timeout = 120);

static int takes_scores(const test_case_t *c)
{
    return c->options.policy != GLN_POLICY_SINKHORN || c->options.k > 1;
}

static void expect_same(gln_dtype_t acc)
{
    int routed = 0;
    for (uint64_t id = 0; id < 450; id++) {
        test_case_t c;
        case_open(&c, id, acc);
        if (takes_scores(&c)) {
            routed++;
            test_run_t first = run_open(&c, pool);
            c.input.logits = first.plan->scores;
            c.input.scores_given = 1;
            test_run_t again = run_open(&c, pool);
            size_t t = (size_t)c.shape.tokens, real = gln_dtype_bytes(acc);
            /* what is of the logits alone */
            for (size_t i = 0; i < t; i++)
                cr_assert_eq(gln_load(again.plan->lse, (int64_t)i, acc), 0.0);
            cr_assert_eq(again.plan->z_loss, 0.0);
            if (t > 0) memcpy(again.plan->lse, first.plan->lse, t * real);
            again.plan->z_loss = first.plan->z_loss;
            if (t > 0 && c.options.policy == GLN_POLICY_DEEPSEEK_V3)
                memcpy(again.plan->softmax, first.plan->softmax,
                       t * (size_t)c.shape.experts * real);
            const char *difference = plan_difference(first.plan, again.plan, acc);
            cr_assert_null(difference, "case %llu: %s", (unsigned long long)id, difference);
            run_close(&first);
            run_close(&again);
        }
        case_close(&c);
    }
    cr_assert_gt(routed, 400);
}

Test(given, the_plan_of_its_own_scores_f32)
{
    expect_same(GLN_F32);
}
Test(given, the_plan_of_its_own_scores_f64)
{
    expect_same(GLN_F64);
}

static void refuse(gln_router_options_t options, const double *scores, gln_status_t want,
                   const char *words)
{
    gln_router_shape_t shape = {2, 4, 2, 0, GLN_F64};
    gln_route_input_t input = {.logits = scores, .scores_given = 1};
    gln_router_t *router = NULL;
    gln_plan_t *plan = NULL;
    cr_assert_eq(gln_router_open(&options, &shape, pool, &router), GLN_OK);
    cr_assert_eq(gln_plan_open(router, &plan), GLN_OK);
    cr_assert_eq(gln_router_route(router, &input, plan), want);
    cr_assert_neq(strstr(gln_last_error(), words), NULL, "%s", gln_last_error());
    gln_plan_close(plan);
    gln_router_close(router);
}

Test(given, what_is_no_probability_is_named)
{
    gln_router_options_t topk = {.k = 1};
    refuse(topk, (double[]){.25, .25, .25, .25, .5, .6, -.1, 0}, GLN_ERR_NUMERIC,
           "token 1, expert 2");
    refuse(topk, (double[]){.25, .25, .25, .25, 1.5, 0, 0, 0}, GLN_ERR_NUMERIC,
           "token 1, expert 0");
    refuse(topk, (double[]){.25, .25, NAN, .25, 1, 0, 0, 0}, GLN_ERR_NUMERIC, "token 0, expert 2");
    refuse(topk, (double[]){.25, .25, .25, .25, .5, .4, 0, 0}, GLN_ERR_NUMERIC,
           "token 1: the scores given sum to 0.9");
    refuse((gln_router_options_t){.policy = GLN_POLICY_SINKHORN, .k = 1},
           (double[]){1, 0, 0, 0, 1, 0, 0, 0}, GLN_ERR_ARGUMENT, "sinkhorn with k = 1");
}

Test(given, negative_zero_is_zero)
{
    gln_router_options_t options = {.k = 1, .capacity_factor = INFINITY};
    gln_router_shape_t shape = {1, 4, 2, 0, GLN_F64};
    gln_route_input_t input = {.logits = (double[]){-0.0, 1, -0.0, 0}, .scores_given = 1};
    gln_router_t *router = NULL;
    gln_plan_t *plan = NULL;
    cr_assert_eq(gln_router_open(&options, &shape, pool, &router), GLN_OK);
    cr_assert_eq(gln_plan_open(router, &plan), GLN_OK);
    cr_assert_eq(gln_router_route(router, &input, plan), GLN_OK, "%s", gln_last_error());
    cr_assert_eq(plan->token_expert[0], 1);
    gln_plan_close(plan);
    gln_router_close(router);
}
