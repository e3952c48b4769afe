/* Plans written by hand, one for what is special about each policy. That plans are right in general
 * is held against a second implementation, see tests/oracle. */
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
TestSuite(plan, .init = setup, .fini = teardown, .timeout = 60);

/* A plan written by hand. Scores (rounded) of 5 tokens over 4 experts, C = 1, k = 1, experts 0 and
 * 1 local. Tokens 0, 1, 2 want expert 0 (token 2 most), token 3 wants 3, token 4 wants 0 least.
 * Next choices: 0 -> 1, 1 -> 2, 2 -> 3, 3 -> 1, 4 -> 2. */
Test(plan, example_by_hand)
{
    const double p[5][4] = {{.50, .30, .10, .10},
                            {.55, .15, .20, .10},
                            {.70, .05, .05, .20},
                            {.10, .35, .10, .45},
                            {.40, .05, .30, .25}};
    double logits[5][4];
    for (int t = 0; t < 5; t++)
        for (int e = 0; e < 4; e++)
            logits[t][e] = log(p[t][e]);
    test_case_t c = {.options = {.k = 1, .capacity_factor = 0.8, .fill = 1, .rectify = 1},
                     .shape = {5, 4, 2, 0, GLN_F64},
                     .input = {.logits = logits}};
    test_run_t run = run_open(&c, pool);
    const gln_plan_t *plan = run.plan;
    /* slots: 0 <- token 2; 1 <- token 3 (p .35 beats .30); 2 <- token 4 (.30 beats .20); 3 <- token
     * 3 */
    const int32_t token[] = {2, 3, 4, 3};
    const uint8_t kind[] = {GLN_ROUTE_TOPK, GLN_ROUTE_FILLED, GLN_ROUTE_FILLED, GLN_ROUTE_TOPK};
    cr_assert_eq(plan->routes_count, 4);
    cr_assert_arr_eq(plan->route_token, token, sizeof token);
    cr_assert_arr_eq(plan->route_kind, kind, sizeof kind);
    /* token 4 was rescued; 0 and 1 stay with local expert 0, their own lost choice */
    const int32_t h[] = {0, 0, -1, -1, -1};
    cr_assert_arr_eq(plan->token_h, h, sizeof h);
    cr_assert_eq(plan->rect_count, 2);
    const double *w = plan->route_weight, *r = plan->rect_weight;
    cr_assert_eq(w[0], 1.0);
    cr_assert_float_eq(w[1], .35 / .80, 1e-12);
    cr_assert_eq(w[2], 1.0);
    cr_assert_float_eq(w[3], .45 / .80, 1e-12);
    cr_assert_eq(r[0], 1.0);
    cr_assert_eq(r[1], 1.0);
    const gln_ledger_t want = {5, 5, 4, 2, 3, 2, 0, 1, 2, 0, 2, 2, 0, 0};
    cr_assert_arr_eq(&plan->ledger, &want, sizeof want);
    run_close(&run);
}

/* Routes `tokens` x 4 logits in double; 2 experts a domain. */
static test_run_t run_logits(gln_router_options_t options, int64_t tokens, const double *logits)
{
    test_case_t c = {
        .options = options, .shape = {tokens, 4, 2, 0, GLN_F64}, .input = {.logits = logits}};
    return run_open(&c, pool);
}

static void expect_routes(const gln_plan_t *plan, int32_t count, const int32_t *offset,
                          const int32_t *token)
{
    cr_assert_eq(plan->routes_count, count, "%lld routes", (long long)plan->routes_count);
    cr_assert_arr_eq(plan->expert_offset, offset, 5 * sizeof *offset);
    cr_assert_arr_eq(plan->route_token, token, (size_t)count * sizeof *token);
}

/* Three tokens want expert 0, the last one most; C = 1. */
static const double crowd[] = {2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 1, 0, 0};

Test(plan, switch_serves_in_order_and_weighs_by_p)
{
    test_run_t run = run_logits((gln_router_options_t){.policy = GLN_POLICY_SWITCH}, 4, crowd);
    const int32_t offset[] = {0, 1, 2, 2, 2}, token[] = {0, 3};
    expect_routes(run.plan, 2, offset, token);
    cr_assert_float_eq(*(double *)run.plan->route_weight, exp(2) / (exp(2) + 3), 1e-15);
    run_close(&run);
    run = run_logits((gln_router_options_t){0}, 4, crowd); /* topk: by score, weight 1 */
    const int32_t best[] = {2, 3};
    expect_routes(run.plan, 2, offset, best);
    cr_assert_eq(*(double *)run.plan->route_weight, 1);
    run_close(&run);
}

/* p_2 is just below 1/2 in token 0 (its second choice is made), 0 in token 1 (it never is). */
Test(plan, gshard_declines_seconds_that_do_not_matter)
{
    const double logits[] = {0, -1e-12, -900, -900, 900, 0, 0, 0};
    int made = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        test_case_t c = {.options = {.policy = GLN_POLICY_GSHARD, .capacity_factor = INFINITY},
                         .shape = {2, 4, 2, 0, GLN_F64},
                         .input = {.logits = logits, .seed = seed}};
        test_run_t run = run_open(&c, pool);
        made += run.plan->token_route[1] >= 0;
        cr_assert_eq(run.plan->token_route[4], GLN_ROUTE_DECLINED);
        cr_assert_eq(run.plan->token_expert[4], 1);
        cr_assert_eq(run.plan->choice_count[1], 2);
        cr_assert_eq(run.plan->ledger.dropped, 1 + (run.plan->token_route[1] < 0));
        run_close(&run);
    }
    cr_assert_eq(made, 200);
}

Test(plan, gshard_draws_with_probability_2_p)
{
    static double logits[4000 * 4]; /* p_2 = 0.2 */
    for (int t = 0; t < 4000; t++) {
        logits[4 * t + t % 4] = log(0.8);
        logits[4 * t + (t + 1) % 4] = log(0.2);
        logits[4 * t + (t + 2) % 4] = logits[4 * t + (t + 3) % 4] = -900;
    }
    gln_router_options_t o = {.policy = GLN_POLICY_GSHARD, .capacity_factor = INFINITY};
    test_run_t run = run_logits(o, 4000, logits);
    double rate = (double)(run.plan->routes_count - 4000) / 4000;
    cr_assert_float_eq(rate, 0.4, 4 * sqrt(0.4 * 0.6 / 4000), "%g", rate);
    run_close(&run);
}

/* Every expert takes its best token; token 2 is best for two, token 0 for none. */
Test(plan, expert_choice_lets_experts_take_tokens)
{
    const double logits[] = {0, 0, 0, 0, 3, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 5};
    gln_router_options_t o = {.policy = GLN_POLICY_EXPERT_CHOICE, .k = 1};
    test_run_t run = run_logits(o, 4, logits);
    const int32_t offset[] = {0, 1, 2, 3, 4}, token[] = {1, 2, 2, 3}, entry[] = {0, 0, 1, 3, 4};
    const uint8_t kind[] = {0, 0, GLN_ROUTE_FILLED, 0};
    const gln_ledger_t want = {4, 4, 4, 3, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0};
    expect_routes(run.plan, 4, offset, token);
    cr_assert_arr_eq(run.plan->token_offset, entry, sizeof entry);
    cr_assert_arr_eq(run.plan->route_kind, kind, sizeof kind);
    cr_assert_arr_eq(&run.plan->ledger, &want, sizeof want);
    run_close(&run);
}

/* All tokens prefer expert 0, token t by 1 + t; Sinkhorn gives everyone who minds less another one.
 */
Test(plan, sinkhorn_spreads_what_top_k_would_crowd)
{
    const double logits[] = {1, .9, 0, 0, 1, 0, .9, 0, 1, 0, 0, .9, 3, 0, 0, 0};
    test_run_t run = run_logits((gln_router_options_t){.policy = GLN_POLICY_SINKHORN}, 4, logits);
    const int32_t offset[] = {0, 1, 2, 3, 4}, token[] = {3, 0, 1, 2};
    expect_routes(run.plan, 4, offset, token);
    cr_assert_float_eq(*(double *)run.plan->route_weight, 1 / (1 + exp(-3)), 1e-15); /* sigmoid */
    run_close(&run);
    gln_router_options_t two = {.policy = GLN_POLICY_SINKHORN, .k = 2};
    run = run_logits(two, 4, logits); /* more than one: softmax */
    cr_assert_eq(run.plan->scores, run.plan->softmax);
    run_close(&run);
}

/* Groups {0, 1} and {2, 3}. Token 0's best expert is 0, but the second group is better together. A
 * bias moves the choice and not the weight. */
Test(plan, deepseek_v3_limits_groups_and_selects_by_bias)
{
    const double logits[] = {2, -5, 1, 1.5};
    gln_router_options_t o = {
        .policy = GLN_POLICY_DEEPSEEK_V3, .k = 1, .group_count = 2, .group_topk = 1};
    test_case_t c = {.options = o, .shape = {1, 4, 2, 0, GLN_F64}, .input = {.logits = logits}};
    test_run_t run = run_open(&c, pool);
    cr_assert_eq(run.plan->token_expert[0], 3);
    cr_assert_eq(*(double *)run.plan->route_weight, 1);
    run_close(&run);
    c.options.k = 2;
    c.options.route_scale = 2.5;
    c.bias[2] = 0.5f;
    run = run_open(&c, pool);
    double s2 = 1 / (1 + exp(-1)), s3 = 1 / (1 + exp(-1.5));
    cr_assert_eq(run.plan->token_expert[0], 2);
    cr_assert_eq(run.plan->token_expert[1], 3);
    cr_assert_float_eq(*(double *)run.plan->route_weight, 2.5 * s2 / (s2 + s3), 1e-15);
    run_close(&run);
}

/* k = 1, experts 0 and 1 local, C = 1: expert 1 takes its best candidate although nobody chose it,
 * and expert 0 drops a choice for a local candidate that wants it more. */
Test(plan, expanded_drop_offers_the_local_experts)
{
    const double p[2][4] = {{.4, .3, .2, .1}, {.45, .05, .5, 0}};
    double logits[8];
    for (int i = 0; i < 8; i++)
        logits[i] = log(p[i / 4][i % 4] + 1e-12);
    gln_router_options_t o = {.policy = GLN_POLICY_EXPANDED_DROP, .capacity_factor = 2};
    test_run_t run = run_logits(o, 2, logits);
    const int32_t offset[] = {0, 1, 2, 3, 3}, token[] = {1, 0, 1};
    const uint8_t kind[] = {GLN_ROUTE_FILLED, GLN_ROUTE_FILLED, GLN_ROUTE_TOPK};
    const gln_ledger_t want = {2, 2, 4, 1, 1, 2, 1, 1, 0, 0, 0, 0, 0, 0};
    expect_routes(run.plan, 3, offset, token);
    cr_assert_arr_eq(run.plan->route_kind, kind, sizeof kind);
    cr_assert_arr_eq(&run.plan->ledger, &want, sizeof want);
    cr_assert_eq(run.plan->choice_count[0], 1);
    run_close(&run);
}

/* A schedule may leave FR and IR out of a step: the plan is that of a router without them. */
Test(plan, a_call_may_skip_fr_and_ir)
{
    for (uint64_t id = 0; id < 400; id++) {
        test_case_t c, plain;
        case_open(&c, 900 + id, GLN_F64);
        plain = c;
        plain.options.fill = plain.options.rectify = 0;
        c.input.skip_fill = c.input.skip_rectify = 1;
        test_run_t a = run_open(&c, pool), b = run_open(&plain, pool);
        const char *difference = plan_difference(a.plan, b.plan, GLN_F64);
        cr_assert_null(difference, "case %llu: %s", (unsigned long long)c.id, difference);
        run_close(&a), run_close(&b);
        case_close(&c);
    }
}

/* A plan can be used step after step, also after a larger step left more in it. */
Test(plan, is_reusable)
{
    for (int policy = 0; policy < GLN_POLICIES_COUNT; policy++) {
        test_case_t a = {.shape = {60, 8, 4, 2.0, GLN_F32}, .input = {.capacity_factor = 2.0}};
        a.options = (gln_router_options_t){.policy = (gln_policy_t)policy, .capacity_factor = 0.5};
        a.options.fill = a.options.rectify = case_rectifies(&a);
        if (policy != GLN_POLICY_SWITCH) a.options.k = 2;
        a.logits = calloc(60 * 8, sizeof(float));
        a.input.logits = a.logits;
        case_logits(&a, LOGITS_ZIPF);
        test_case_t b = a;
        b.logits = calloc(60 * 8, sizeof(float));
        b.input.logits = b.logits;
        b.input.capacity_factor = 0;
        case_logits(&b, LOGITS_NORMAL);
        test_run_t fresh = run_open(&b, pool), used = run_open(&a, pool);
        cr_assert_eq(gln_router_route(used.router, &b.input, used.plan), GLN_OK);
        const char *difference = plan_difference(fresh.plan, used.plan, GLN_F32);
        cr_assert_null(difference, "%s differs in %s", gln_policy_name((gln_policy_t)policy),
                       difference);
        run_close(&fresh);
        run_close(&used);
        case_close(&a);
        case_close(&b);
    }
}
