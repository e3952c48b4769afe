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
        {{.priority = (gln_priority_t)4}, "priority is 4, allowed is 0 to 3"},
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
        {{.weight = (gln_route_weight_t)3}, "weight is 3"},
        {{.attached = 2}, "attached is 2"},
        {{.balance_coef = -0.1}, "balance_coef is -0.1"},
        {{.balance_coef = INFINITY}, "balance_coef is inf"},
        {{.z_coef = NAN}, "z_coef is"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        refuse(wrong[i].options, shape, wrong[i].named);
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
    refuse((gln_router_options_t){.k = 256}, (gln_router_shape_t){1, 300, 1, 0, GLN_F32},
           "k is 256, allowed is 0 to 255");
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
        int64_t routes, rows;
    } rows[] = {
        {{.k = 1}, 0, 10, 0},
        {{.k = 2, .fill = 1}, 0, 24, 0},
        {{.k = 2, .fill = 1}, INFINITY, 30, 0},
        {{.k = 2}, 0.25, 20, 0}, /* the options' own 1.0 counts */
        {{.k = 1, .capacity_factor = 1e-9, .rectify = 1}, 0, 0, 10},
        {{.k = 1, .rectify = 1, .ir_capacity = 3}, 0, 10, 6},
        {{.k = 1, .rectify = 1, .ir_capacity = 3, .ir_scope = 2}, 0, 10, 10},
        {{.k = 1, .rectify = 1, .ir_capacity = INT64_MAX}, 0, 10, 10},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        gln_router_shape_t at = shape;
        at.capacity_factor_max = rows[i].factor_max;
        gln_router_t *router;
        cr_assert_eq(gln_router_open(&rows[i].options, &at, pool, &router), GLN_OK);
        cr_assert_eq(gln_router_routes_max(router), rows[i].routes, "row %zu", i);
        cr_assert_eq(gln_router_rect_max(router), rows[i].rows, "row %zu", i);
        gln_router_close(router);
    }
}
