/* The bias of deepseek_v3: read, set, stepped, and the errors of each. */
#include "tests/unit/router/cases.h"

static gln_pool_t *pool;
static gln_router_t *router, *other;

static void setup(void)
{
    const gln_router_shape_t shape = {8, 4, 2, 0, GLN_F32};
    const gln_router_options_t with = {.policy = GLN_POLICY_DEEPSEEK_V3, .k = 1}, without = {0};
    pool = pool_of(1);
    cr_assert_eq(gln_router_open(&with, &shape, pool, &router), GLN_OK);
    cr_assert_eq(gln_router_open(&without, &shape, pool, &other), GLN_OK);
}
static void teardown(void)
{
    gln_router_close(router);
    gln_router_close(other);
    gln_pool_close(pool);
}
TestSuite(bias, .init = setup, .fini = teardown, .timeout = 60);

static void expect(float a, float b, float c, float d)
{
    const float want[4] = {a, b, c, d};
    float bias[4];
    cr_assert_eq(gln_router_bias(router, bias), GLN_OK);
    cr_assert_arr_eq(bias, want, sizeof want, "%g %g %g %g", bias[0], bias[1], bias[2], bias[3]);
}

Test(bias, starts_at_zero_and_keeps_what_was_set)
{
    const float bias[4] = {1, -2, 0.5f, 0};
    expect(0, 0, 0, 0);
    cr_assert_eq(gln_router_set_bias(router, bias), GLN_OK);
    expect(1, -2, 0.5f, 0);
}

Test(bias, steps_towards_the_mean_load)
{
    const int64_t load[4] = {10, 2, 0, 4}, huge[4] = {INT64_MAX / 4, INT64_MAX / 4, 0, 0};
    cr_assert_eq(gln_router_update_bias(router, load, 0.25), GLN_OK); /* mean 4 */
    expect(-0.25f, 0.25f, 0.25f, 0);
    cr_assert_eq(gln_router_update_bias(router, load, 0), GLN_OK);
    expect(-0.25f, 0.25f, 0.25f, 0);
    cr_assert_eq(gln_router_update_bias(router, huge, 0.25), GLN_OK);
    expect(-0.5f, 0, 0.5f, 0.25f);
}

/* All tokens alike: the bias leads them from expert to expert, which no loss would. */
Test(bias, balances_equal_tokens_over_steps)
{
    float logits[32];
    for (int i = 0; i < 32; i++)
        logits[i] = i % 4 == 2 ? 1.0f : 0.0f;
    gln_route_input_t input = {.logits = logits};
    gln_plan_t *plan;
    int64_t load[4] = {0};
    cr_assert_eq(gln_plan_open(router, &plan), GLN_OK);
    for (int step = 0; step < 400; step++) {
        cr_assert_eq(gln_router_route(router, &input, plan), GLN_OK);
        cr_assert_eq(gln_router_update_bias(router, plan->choice_count, 0.01), GLN_OK);
        for (int e = 0; e < 4 && step >= 100; e++)
            load[e] += plan->choice_count[e];
    }
    for (int e = 0; e < 4; e++)
        cr_assert(load[e] > 400 && load[e] < 800, "expert %d: %lld of 2400", e, (long long)load[e]);
    gln_plan_close(plan);
}

static void refuse(gln_status_t status, const char *named)
{
    cr_assert_eq(status, GLN_ERR_ARGUMENT, "%s", named);
    cr_assert_not_null(strstr(gln_last_error(), named), "expected \"%s\" in \"%s\"", named,
                       gln_last_error());
}

Test(bias, wrong_calls_are_refused)
{
    float bias[4] = {0, 0, NAN, 0};
    int64_t load[4] = {0, -1, 0, 0}, large[4] = {INT64_MAX, 0, 0, 0}, good[4] = {0};
    refuse(gln_router_bias(other, bias), "policy topk has no bias");
    refuse(gln_router_set_bias(other, bias), "policy topk has no bias");
    refuse(gln_router_update_bias(other, good, 1), "policy topk has no bias");
    refuse(gln_router_bias(NULL, bias), "router");
    refuse(gln_router_bias(router, NULL), "array");
    refuse(gln_router_set_bias(router, NULL), "array");
    refuse(gln_router_update_bias(router, NULL, 1), "array");
    refuse(gln_router_set_bias(router, bias), "expert 2 is nan");
    refuse(gln_router_update_bias(router, good, -1), "step is -1");
    refuse(gln_router_update_bias(router, good, INFINITY), "step is inf");
    refuse(gln_router_update_bias(router, load, 1), "expert 1 is -1");
    refuse(gln_router_update_bias(router, large, 1), "expert 0 is 9223372036854775807");
    expect(0, 0, 0, 0);
}
