/* Every option that must be refused, with a message that names it; defaults; capacity and bounds.
 */
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
TestSuite(options, .init = setup, .fini = teardown, .timeout = 60);

/* 10 tokens, 8 experts, 2 a domain */
static const gln_router_shape_t shape = {10, 8, 2, 0, GLN_F32};

static void refuse(gln_router_options_t options, gln_router_shape_t at, const char *named)
{
    gln_router_t *router = NULL;
    cr_assert_eq(gln_router_open(&options, &at, pool, &router), GLN_ERR_ARGUMENT, "%s", named);
    cr_assert_null(router);
    cr_assert_not_null(strstr(gln_last_error(), named), "expected \"%s\" in \"%s\"", named,
                       gln_last_error());
}

Test(options, wrong_ones_are_refused_by_name)
{
    const struct {
        gln_router_options_t options;
        const char *named;
    } wrong[] = {
        {{.k = 9}, "k is 9, allowed is 0 to 8"},
        {{.k = -1}, "k is -1"},
        {{.capacity_factor = -1}, "capacity_factor is -1"},
        {{.capacity_factor = NAN}, "capacity_factor is"},
        {{.min_capacity = -2}, "min_capacity is -2"},
        {{.policy = GLN_POLICIES_COUNT}, "policy is 9, allowed is 0 to 8"},
        {{.priority = (gln_priority_t)5}, "priority is 5, allowed is 0 to 4"},
        {{.fill = 2}, "fill is 2"},
        {{.fill_key = (gln_fill_key_t)2}, "fill_key is 2"},
        {{.k = 2, .fill_rank = 2}, "fill_rank is 2, allowed is 3 to 8"},
        {{.k = 2, .fill_rank = 9}, "fill_rank is 9"},
        {{.k = 8, .fill_rank = 10}, "fill_rank is 10, allowed is 9 to 9"},
        {{.rectify = -1}, "rectify is -1"},
        {{.ir_tokens = (gln_ir_tokens_t)3}, "ir_tokens is 3"},
        {{.ir_exclude = 7}, "ir_exclude is 7"},
        {{.ir_capacity = -1}, "ir_capacity is -1"},
        {{.ir_scope = 3}, "ir_scope is 3, allowed is a divisor of the 4"},
        {{.ir_scope = 5}, "ir_scope is 5, allowed is 0 to 4"},
        {{.ir_scope = -1}, "ir_scope is -1"},
        {{.ir_scale = (gln_ir_scale_t)2}, "ir_scale is 2"},
        {{.weight = (gln_route_weight_t)4}, "weight is 4"},
        {{.attached = 2}, "attached is 2, allowed is -1 to 1"},
        {{.policy = GLN_POLICY_DEEPSEEK_V3, .group_count = 3}, "group_count is 3"},
        {{.policy = GLN_POLICY_DEEPSEEK_V3, .group_count = 2, .group_topk = 3}, "group_topk is 3"},
        {{.policy = GLN_POLICY_DEEPSEEK_V3, .route_scale = -1}, "route_scale is -1"},
        {{.policy = GLN_POLICY_DEEPSEEK_V3, .k = 3, .group_count = 4, .group_topk = 1},
         "k is 3, but the 1 of 4 groups that a token may use hold 2 experts"},
        {{.policy = GLN_POLICY_SINKHORN, .sinkhorn_iterations = -1}, "sinkhorn_iterations is -1"},
        {{.policy = GLN_POLICY_SINKHORN, .sinkhorn_tolerance = NAN}, "sinkhorn_tolerance is"},
        {{.balance_coef = -0.1}, "balance_coef is -0.1"},
        {{.balance_coef = INFINITY}, "balance_coef is inf"},
        {{.z_coef = NAN}, "z_coef is"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        refuse(wrong[i].options, shape, wrong[i].named);
}

/* What one policy takes and another does not. */
Test(options, options_of_other_policies_are_refused_by_name)
{
    const struct {
        gln_router_options_t options;
        const char *named;
    } wrong[] = {
        {{.policy = GLN_POLICY_EXPERT_CHOICE, .fill = 1},
         "fill is 1, but policy expert_choice does not take it"},
        {{.policy = GLN_POLICY_EXPERT_CHOICE, .rectify = 1},
         "rectify is 1, but policy expert_choice"},
        {{.policy = GLN_POLICY_EXPANDED_DROP, .fill = 1}, "fill is 1, but policy expanded_drop"},
        {{.policy = GLN_POLICY_EXPANDED_DROP, .rectify = 1}, "rectify is 1"},
        {{.policy = GLN_POLICY_EXPANDED_DROP, .priority = GLN_PRIORITY_MAX},
         "priority is 1, but policy expanded_drop has its own, 4"},
        {{.policy = GLN_POLICY_RANDOM, .priority = GLN_PRIORITY_SCORE}, "priority is 4"},
        {{.policy = GLN_POLICY_EXPERT_CHOICE, .weight = GLN_WEIGHT_TOPK_SOFTMAX},
         "weight is 2, which policy expert_choice does not have"},
        {{.policy = GLN_POLICY_DEEPSEEK_V3, .weight = GLN_WEIGHT_TOPK_SOFTMAX}, "weight is 2"},
        {{.policy = GLN_POLICY_SINKHORN, .weight = GLN_WEIGHT_TOPK_SOFTMAX}, "weight is 2"},
        {{.policy = GLN_POLICY_SWITCH, .k = 2}, "k is 2 with 8 experts, policy switch has k = 1"},
        {{.policy = GLN_POLICY_GSHARD, .k = 1}, "k is 1 with 8 experts, policy gshard has k = 2"},
        {{.group_count = 2}, "group_count is 2, but policy topk does not take it"},
        {{.group_topk = 2}, "group_topk is 2"},
        {{.route_scale = 2}, "route_scale is 2"},
        {{.policy = GLN_POLICY_MIXTRAL, .sinkhorn_iterations = 2}, "sinkhorn_iterations is 2"},
        {{.sinkhorn_tolerance = 0.5}, "sinkhorn_tolerance is 0.5, but policy topk"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        refuse(wrong[i].options, shape, wrong[i].named);
    refuse((gln_router_options_t){.policy = GLN_POLICY_GSHARD},
           (gln_router_shape_t){1, 1, 1, 0, GLN_F32}, "k is 2 with 1 experts");
}

Test(options, defaults_are_those_of_the_policy)
{
    const struct {
        gln_policy_t policy;
        const char *name;
        int k;
        double factor;
        gln_priority_t priority;
        gln_route_weight_t weight;
        int attached;
    } rows[GLN_POLICIES_COUNT] = {
        {GLN_POLICY_TOPK, "topk", 1, 1, GLN_PRIORITY_SCORE, GLN_WEIGHT_NORMALIZED, -1},
        {GLN_POLICY_SWITCH, "switch", 1, 1, GLN_PRIORITY_POSITION, GLN_WEIGHT_P, -1},
        {GLN_POLICY_GSHARD, "gshard", 2, 1, GLN_PRIORITY_POSITION, GLN_WEIGHT_TOPK_SOFTMAX, 1},
        {GLN_POLICY_MIXTRAL, "mixtral", 2, INFINITY, GLN_PRIORITY_SCORE, GLN_WEIGHT_TOPK_SOFTMAX,
         1},
        {GLN_POLICY_EXPERT_CHOICE, "expert_choice", 1, 1, GLN_PRIORITY_SCORE, GLN_WEIGHT_P, -1},
        {GLN_POLICY_SINKHORN, "sinkhorn", 1, 1, GLN_PRIORITY_SCORE, GLN_WEIGHT_P, -1},
        {GLN_POLICY_DEEPSEEK_V3, "deepseek_v3", 8, INFINITY, GLN_PRIORITY_SCORE,
         GLN_WEIGHT_NORMALIZED, 1},
        {GLN_POLICY_EXPANDED_DROP, "expanded_drop", 1, 1, GLN_PRIORITY_SCORE, GLN_WEIGHT_NORMALIZED,
         -1},
        {GLN_POLICY_RANDOM, "random", 1, 1, GLN_PRIORITY_RANDOM, GLN_WEIGHT_NORMALIZED, -1},
    };
    for (int i = 0; i < GLN_POLICIES_COUNT; i++) {
        gln_router_options_t o, in = {.policy = rows[i].policy};
        cr_assert_eq((int)rows[i].policy, i);
        cr_assert_str_eq(gln_policy_name(rows[i].policy), rows[i].name);
        cr_assert_str_eq(gln_policy_names()[i], rows[i].name);
        cr_assert_eq(gln_router_resolve(&in, &shape, &o), GLN_OK);
        cr_assert(o.k == rows[i].k && o.capacity_factor == rows[i].factor, "%s", rows[i].name);
        cr_assert(o.priority == rows[i].priority && o.weight == rows[i].weight, "%s", rows[i].name);
        cr_assert(o.attached == rows[i].attached && o.route_scale == 1, "%s", rows[i].name);
        cr_assert(o.group_count == 1 && o.group_topk == 1 && o.fill_rank == o.k + 1);
        cr_assert(o.sinkhorn_iterations == 100 && o.sinkhorn_tolerance == 1e-4);
        /* what was resolved says the same once more, and a router says it too */
        gln_router_t *router = NULL;
        in = (gln_router_options_t){.policy = rows[i].policy};
        cr_assert_eq(gln_router_open(&in, &shape, pool, &router), GLN_OK);
        cr_assert_eq(gln_router_options(router)->k, o.k);
        cr_assert_eq(gln_router_options(router)->weight, o.weight);
        cr_assert_eq(gln_router_capacity_factor_max(router), o.capacity_factor);
        gln_router_close(router);
    }
    cr_assert_null(gln_policy_names()[GLN_POLICIES_COUNT]);
    cr_assert_null(gln_policy_name(GLN_POLICIES_COUNT));
    gln_router_shape_t few = {10, 3, 1, 0, GLN_F32};
    gln_router_options_t o = {.policy = GLN_POLICY_DEEPSEEK_V3};
    cr_assert_eq(gln_router_resolve(&o, &few, &o), GLN_OK);
    cr_assert_eq(o.k, 3, "a default k is at most E");
}

Test(options, wrong_shapes_are_refused_by_name)
{
    const struct {
        gln_router_shape_t shape;
        const char *named;
    } wrong[] = {
        {{-1, 8, 2, 0, GLN_F32}, "-1 tokens"},
        {{10, 0, 2, 0, GLN_F32}, "0 experts"},
        {{10, 8, 3, 0, GLN_F32}, "per_domain is 3"},
        {{10, 8, 0, 0, GLN_F32}, "per_domain is 0"},
        {{10, 8, 2, -1, GLN_F32}, "capacity_factor_max is -1"},
        {{10, 8, 2, 0, GLN_BF16}, "acc is bf16"},
        {{INT32_MAX, 8, 2, 0, GLN_F32}, "2147483647 tokens"},
        {{INT64_MAX, 8, 2, 0, GLN_F32}, "tokens"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        refuse((gln_router_options_t){0}, wrong[i].shape, wrong[i].named);
    refuse((gln_router_options_t){0}, (gln_router_shape_t){1, 65536, 1, 0, GLN_F32},
           "65536 experts, expected at least 0, and 1 to 65535");
    refuse((gln_router_options_t){.policy = GLN_POLICY_EXPERT_CHOICE},
           (gln_router_shape_t){INT32_MAX / 8 + 1, 8, 1, 0, GLN_F32}, "with 8 choices of each");
}

Test(options, null_arguments_are_refused)
{
    gln_router_options_t o = {0};
    gln_router_t *router = NULL;
    gln_plan_t *plan = NULL;
    cr_assert_eq(gln_router_open(NULL, &shape, pool, &router), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_router_open(&o, NULL, pool, &router), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_router_open(&o, &shape, NULL, &router), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_router_open(&o, &shape, pool, NULL), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_plan_open(NULL, &plan), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_router_resolve(NULL, &shape, &o), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_router_resolve(&o, NULL, &o), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_router_resolve(&o, &shape, NULL), GLN_ERR_ARGUMENT);
    gln_router_close(NULL);
    gln_plan_close(NULL);
    cr_assert_eq(gln_router_open(&o, &shape, pool, &router), GLN_OK);
    cr_assert_eq(gln_plan_open(router, NULL), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_plan_open(router, &plan), GLN_OK);
    gln_route_input_t in = {0};
    cr_assert_eq(gln_router_route(router, &in, plan), GLN_ERR_ARGUMENT, "logits are NULL");
    cr_assert_eq(gln_router_route(router, NULL, plan), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_router_route(router, &in, NULL), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_router_route(NULL, &in, plan), GLN_ERR_ARGUMENT);
    gln_plan_close(plan);
    gln_router_close(router);
}

Test(options, wrong_inputs_are_refused_by_name)
{
    float logits[80] = {0};
    const struct {
        gln_route_input_t input;
        const char *named;
    } wrong[] = {
        {{.logits = logits, .domain = -1}, "domain -1"},
        {{.logits = logits, .layer = -1}, "layer -1"},
        {{.logits = logits, .first_local = 1}, "expert 1: expected 0 or more, and a multiple of 2"},
        {{.logits = logits, .first_local = 8}, "expert 8"},
        {{.logits = logits, .first_local = -2}, "expert -2"},
        {{.logits = logits, .capacity_factor = 1.6}, "capacity factor 1.6, allowed is 0 to 1.5"},
        {{.logits = logits, .capacity_factor = -1}, "capacity factor -1"},
        {{.logits = logits, .capacity_factor = NAN}, "capacity factor"},
    };
    gln_router_options_t o = {.capacity_factor = 1.25};
    gln_router_shape_t at = shape;
    at.capacity_factor_max = 1.5;
    gln_router_t *router;
    gln_plan_t *plan;
    cr_assert_eq(gln_router_open(&o, &at, pool, &router), GLN_OK);
    cr_assert_eq(gln_plan_open(router, &plan), GLN_OK);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        cr_assert_eq(gln_router_route(router, &wrong[i].input, plan), GLN_ERR_ARGUMENT);
        cr_assert_not_null(strstr(gln_last_error(), wrong[i].named), "expected \"%s\" in \"%s\"",
                           wrong[i].named, gln_last_error());
    }
    gln_route_input_t in = {.logits = logits, .capacity_factor = 1.5};
    cr_assert_eq(gln_router_route(router, &in, plan), GLN_OK);
    gln_plan_close(plan);
    gln_router_close(router);
}

Test(options, a_logit_that_is_not_finite_is_named_at_any_thread_count)
{
    static float logits[400 * 8];
    static double wide[400 * 8];
    const float bad[3] = {NAN, INFINITY, -INFINITY};
    for (int threads = 1; threads <= 3; threads++)
        for (int type = 0; type <= 2; type += 2)
            for (int b = 0; b < 3; b++) {
                memset(logits, 0, sizeof logits);
                logits[317 * 8 + 2] = logits[317 * 8 + 4] = bad[b];
                logits[318 * 8] = logits[399 * 8] = bad[b];
                for (int i = 0; i < 400 * 8; i++)
                    wide[i] = logits[i];
                gln_pool_t *own = pool_of(threads);
                gln_router_options_t o = {.fill = 1, .rectify = 1};
                gln_router_shape_t at = {400, 8, 2, 0, (gln_dtype_t)type};
                gln_route_input_t in = {.logits = type == GLN_F64 ? (void *)wide : (void *)logits,
                                        .domain = 3,
                                        .layer = 5,
                                        .first_local = 6};
                gln_router_t *router;
                gln_plan_t *plan;
                cr_assert_eq(gln_router_open(&o, &at, own, &router), GLN_OK);
                cr_assert_eq(gln_plan_open(router, &plan), GLN_OK);
                cr_assert_eq(gln_router_route(router, &in, plan), GLN_ERR_NUMERIC);
                cr_assert_not_null(
                    strstr(gln_last_error(), "domain 3, layer 5, token 317, expert 2"),
                    "got \"%s\"", gln_last_error());
                gln_plan_close(plan);
                gln_router_close(router);
                gln_pool_close(own);
            }
}

Test(options, capacity_follows_the_formula)
{
    const struct {
        int64_t tokens;
        int experts, k, min_capacity;
        double factor;
        int64_t want;
    } rows[] = {
        {1024, 8, 1, 0, 1.0, 128}, {1024, 8, 2, 0, 1.25, 320},  {1000, 3, 1, 0, 1.0, 334},
        {10, 8, 1, 0, 1.0, 2},     {10, 8, 1, 4, 1.0, 4},       {10, 8, 1, 40, 1.0, 10},
        {10, 8, 1, 0, 1e9, 10},    {10, 8, 1, 0, INFINITY, 10}, {0, 8, 1, 3, INFINITY, 0},
        {10, 8, 1, 0, 1e-9, 0},    {100, 10, 1, 0, 1.1, 11}, /* 11.000000000000002 in double */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        gln_router_options_t o = {.k = rows[i].k, .min_capacity = rows[i].min_capacity};
        gln_router_shape_t at = {rows[i].tokens, rows[i].experts, 1, 0, GLN_F32};
        gln_router_t *router;
        cr_assert_eq(gln_router_open(&o, &at, pool, &router), GLN_OK);
        cr_assert_eq(gln_router_capacity(router, rows[i].factor), rows[i].want, "row %zu: %lld", i,
                     (long long)gln_router_capacity(router, rows[i].factor));
        gln_router_close(router);
    }
    gln_router_options_t o = {.k = 2, .capacity_factor = 1.25};
    gln_router_t *router;
    cr_assert_eq(gln_router_open(&o, &shape, pool, &router), GLN_OK);
    cr_assert_eq(gln_router_capacity(router, 0), 4, "0 means the options' factor");
    gln_router_close(router);
}

Test(options, bounds_follow_the_largest_capacity_factor)
{
    const struct {
        gln_router_options_t options;
        double factor_max;
        int64_t routes, rows, token_routes;
    } rows[] = {
        {{.k = 1}, 0, 10, 0, 1},
        {{.k = 2, .fill = 1}, 0, 24, 0, 3},
        {{.k = 2, .fill = 1}, INFINITY, 30, 0, 3},
        {{.k = 2}, 0.25, 20, 0, 2}, /* the options' own 1.0 counts */
        {{.k = 1, .capacity_factor = 1e-9, .rectify = 1}, 0, 0, 10, 1},
        {{.k = 1, .rectify = 1, .ir_capacity = 3}, 0, 10, 6, 1},
        {{.k = 1, .rectify = 1, .ir_capacity = 3, .ir_scope = 2}, 0, 10, 10, 1},
        {{.k = 1, .rectify = 1, .ir_capacity = INT64_MAX}, 0, 10, 10, 1},
        {{.policy = GLN_POLICY_EXPERT_CHOICE, .k = 1}, 0, 16, 0, 8},
        {{.policy = GLN_POLICY_EXPANDED_DROP, .k = 1}, 0, 16, 0, 3},
        {{.policy = GLN_POLICY_EXPANDED_DROP, .k = 8}, 0, 80, 0, 8},
        {{.policy = GLN_POLICY_MIXTRAL}, 0, 20, 0, 2},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        gln_router_shape_t at = shape;
        at.capacity_factor_max = rows[i].factor_max;
        gln_router_t *router;
        cr_assert_eq(gln_router_open(&rows[i].options, &at, pool, &router), GLN_OK);
        cr_assert_eq(gln_router_routes_max(router), rows[i].routes, "row %zu", i);
        cr_assert_eq(gln_router_rect_max(router), rows[i].rows, "row %zu", i);
        cr_assert_eq(gln_router_token_routes_max(router), rows[i].token_routes, "row %zu", i);
        gln_router_close(router);
    }
}
