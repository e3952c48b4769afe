/* What must hold for every plan, whatever the options: section by section of the definition. */
#include "tests/unit/router/cases.h"

#define CASES 3000

static gln_pool_t *pool;

static void setup(void)
{
    pool = pool_of(2);
}
static void teardown(void)
{
    gln_pool_close(pool);
}
TestSuite(properties, .init = setup, .fini = teardown, .timeout = 300);

#define ID(c) (unsigned long long)(c).id

/* Forward weights of token t, summed over what serves it; *served counts that. */
static double weight_sum(const gln_plan_t *plan, int64_t t, gln_dtype_t acc, int *served)
{
    double sum = 0;
    *served = plan->token_h[t] >= 0;
    for (int32_t i = plan->token_offset[t]; i < plan->token_offset[t + 1]; i++)
        if (plan->token_route[i] >= 0) {
            sum += gln_load(plan->route_weight, plan->token_route[i], acc);
            ++*served;
        }
    if (plan->token_rect[t] >= 0) sum += gln_load(plan->rect_weight, plan->token_rect[t], acc);
    return sum;
}

/* Every route is an entry of its token, every entry with a route is that route, and no token visits
 * an expert twice. */
static void check_both_views(const gln_plan_t *plan)
{
    int64_t entries = 0;
    char *visited = calloc((size_t)(plan->tokens * plan->experts) + 1, 1);
    for (int e = 0; e < plan->experts; e++) {
        for (int32_t r = plan->expert_offset[e]; r < plan->expert_offset[e + 1]; r++) {
            int32_t t = plan->route_token[r], i = plan->token_offset[t] + plan->route_choice[r];
            cr_assert_lt(i, plan->token_offset[t + 1]);
            cr_assert_eq(plan->token_route[i], r);
            cr_assert_eq(plan->token_expert[i], e);
            cr_assert_eq(plan->route_kind[r] == GLN_ROUTE_TOPK, plan->route_choice[r] < plan->k);
            cr_assert_eq(visited[(int64_t)t * plan->experts + e]++, 0);
        }
        for (int32_t r = plan->rect_offset[e]; r < plan->rect_offset[e + 1]; r++) {
            int32_t t = plan->rect_token[r];
            cr_assert_eq(plan->token_rect[t], r);
            cr_assert_eq(plan->token_h[t], e);
            cr_assert_eq(visited[(int64_t)t * plan->experts + e]++, 0);
        }
    }
    for (int32_t i = 0; i < plan->token_offset[plan->tokens]; i++)
        entries += plan->token_route[i] >= 0;
    cr_assert_eq(entries, plan->routes_count);
    free(visited);
}

Test(properties, conservation_capacity_and_weights_of_one)
{
    for (uint64_t id = 0; id < CASES; id++) {
        test_case_t c;
        case_open(&c, 20000 + id, id / 9 % 2 ? GLN_F32 : GLN_F64);
        test_run_t run = run_open(&c, pool);
        const gln_plan_t *plan = run.plan;
        const gln_router_options_t *o = gln_router_options(run.router);
        cr_assert_eq(gln_ledger_check(&plan->ledger, "test"), GLN_OK);
        cr_assert_eq(plan->ledger.choices, plan->tokens * plan->k);
        cr_assert_eq(plan->ledger.slots, plan->experts * plan->capacity);
        cr_assert_eq(plan->ledger.sent_rows, 0);
        check_both_views(plan);
        for (int e = 0; e < plan->experts; e++)
            cr_assert_leq(plan->expert_offset[e + 1] - plan->expert_offset[e], plan->capacity);
        for (int64_t t = 0; t < plan->tokens; t++) {
            int served;
            double sum = weight_sum(plan, t, c.shape.acc, &served);
            if (!served)
                cr_assert_eq(sum, 0);
            else if (o->weight == GLN_WEIGHT_NORMALIZED)
                cr_assert_float_eq(sum, o->route_scale, c.shape.acc == GLN_F64 ? 1e-12 : 2e-6,
                                   "case %llu", ID(c));
        }
        run_close(&run);
        case_close(&c);
    }
}

/* Rectified rows come on top of slots; slots of full experts are all taken where anyone wants them.
 */
Test(properties, no_slot_stays_empty_while_a_choice_overflows)
{
    for (uint64_t id = 0; id < CASES; id++) {
        test_case_t c;
        case_open(&c, 25000 + id, id / 9 % 2 ? GLN_F32 : GLN_F64);
        test_run_t run = run_open(&c, pool);
        const gln_plan_t *plan = run.plan;
        for (int32_t i = 0; i < plan->token_offset[plan->tokens]; i++) {
            int e = plan->token_expert[i];
            if (e >= 0 && plan->token_route[i] == GLN_ROUTE_NONE)
                cr_assert_eq(plan->expert_offset[e + 1] - plan->expert_offset[e], plan->capacity,
                             "case %llu", ID(c));
        }
        run_close(&run);
        case_close(&c);
    }
}

/* Options where nothing but what the caller sets differs from the case. */
static test_run_t run_with(const test_case_t *c, int fill, int rectify)
{
    test_case_t other = *c;
    other.options.fill = fill;
    other.options.rectify = rectify;
    if (!fill) other.options.ir_scale = GLN_IR_SCALE_K;
    return run_open(&other, pool);
}

Test(properties, ir_is_off_without_overflow_and_fr_without_padding)
{
    int no_overflow = 0, no_padding = 0;
    for (uint64_t id = 0; id < CASES; id++) {
        test_case_t c;
        case_open(&c, 30000 + id, id / 9 % 2 ? GLN_F32 : GLN_F64);
        if (!case_rectifies(&c)) {
            case_close(&c);
            continue;
        }
        c.options.ir_scale = GLN_IR_SCALE_K;
        c.options.fill_rank = 0;
        test_run_t plain = run_with(&c, c.options.fill, 0), ir = run_with(&c, c.options.fill, 1);
        if (c.shape.tokens > 0 && plain.plan->ledger.overflow == 0) {
            const char *difference = plan_difference(plain.plan, ir.plan, c.shape.acc);
            cr_assert_null(difference, "case %llu: %s", ID(c), difference);
            no_overflow++;
        }
        test_run_t base = run_with(&c, 0, c.options.rectify),
                   fr = run_with(&c, 1, c.options.rectify);
        if (base.plan->capacity > 0 && base.plan->ledger.padded == 0) {
            /* the fill-in candidate is named, nothing else may differ */
            for (int64_t t = 0; t < c.shape.tokens; t++)
                base.plan->token_expert[(t + 1) * (base.plan->k + 1) - 1] =
                    fr.plan->token_expert[(t + 1) * (base.plan->k + 1) - 1];
            const char *difference = plan_difference(base.plan, fr.plan, c.shape.acc);
            cr_assert_null(difference, "case %llu: %s", ID(c), difference);
            no_padding++;
        }
        run_close(&plain), run_close(&ir), run_close(&base), run_close(&fr);
        case_close(&c);
    }
    cr_assert_gt(no_overflow, 200);
    cr_assert_gt(no_padding, 100, "only %d cases without padding", no_padding);
}

Test(properties, fr_never_changes_a_topk_route)
{
    int64_t filled = 0;
    for (uint64_t id = 0; id < CASES; id++) {
        test_case_t c;
        case_open(&c, 40000 + id, id / 9 % 2 ? GLN_F32 : GLN_F64);
        if (!case_rectifies(&c)) {
            case_close(&c);
            continue;
        }
        test_run_t base = run_with(&c, 0, 0), fr = run_with(&c, 1, 0);
        const gln_plan_t *a = base.plan, *b = fr.plan;
        for (int e = 0; e < a->experts; e++) {
            int32_t count = a->expert_offset[e + 1] - a->expert_offset[e];
            const int32_t *from = a->expert_offset + e, *to = b->expert_offset + e;
            cr_assert_leq(count, to[1] - to[0]);
            for (int32_t i = 0; i < count; i++) {
                cr_assert_eq(a->route_token[*from + i], b->route_token[*to + i]);
                cr_assert_eq(a->route_choice[*from + i], b->route_choice[*to + i]);
                cr_assert_eq(b->route_kind[*to + i], GLN_ROUTE_TOPK);
            }
            for (int32_t i = to[0] + count; i < to[1]; i++)
                cr_assert_eq(b->route_kind[i], GLN_ROUTE_FILLED);
        }
        filled += b->ledger.filled;
        run_close(&base), run_close(&fr);
        case_close(&c);
    }
    cr_assert_gt(filled, 1000);
}

/* FR on top-k is top-(k+1) whose capacity factor is scaled by k / (k+1). */
Test(properties, fr_on_topk_is_top_k_plus_one_at_equal_capacity)
{
    int compared = 0;
    for (uint64_t id = 0; id < CASES; id++) {
        test_case_t c;
        case_open(&c, 54000 + id * GLN_POLICIES_COUNT, id % 2 ? GLN_F32 : GLN_F64);
        int k = c.options.k ? c.options.k : 1, max = (int)(id / 2 % 2);
        if (k < c.shape.experts && isfinite(c.options.capacity_factor)) {
            c.options.fill_rank = 0;
            c.options.rectify = 0;
            c.options.weight = GLN_WEIGHT_NORMALIZED;
            c.input.capacity_factor = 0;
            c.options.priority = max ? GLN_PRIORITY_MAX : GLN_PRIORITY_SCORE;
            c.options.fill_key = max ? GLN_FILL_KEY_MAX : GLN_FILL_KEY_NEXT;
            test_run_t fr = run_with(&c, 1, 0);
            c.options.k = k + 1;
            c.options.capacity_factor *= (double)k / (k + 1);
            test_run_t more = run_with(&c, 0, 0);
            const gln_plan_t *a = fr.plan, *b = more.plan;
            size_t routes = (size_t)a->routes_count, e = (size_t)a->experts;
            cr_assert_eq(a->capacity, b->capacity, "case %llu", ID(c));
            cr_assert_eq(a->routes_count, b->routes_count);
            cr_assert_eq(memcmp(a->expert_offset, b->expert_offset, (e + 1) * 4), 0);
            if (routes > 0) {
                cr_assert_eq(memcmp(a->route_token, b->route_token, routes * 4), 0);
                cr_assert_eq(memcmp(a->route_choice, b->route_choice, routes * 2), 0);
                cr_assert_eq(
                    memcmp(a->route_weight, b->route_weight, routes * gln_dtype_bytes(c.shape.acc)),
                    0);
            }
            run_close(&fr), run_close(&more);
            compared++;
        }
        case_close(&c);
    }
    cr_assert_gt(compared, 1000);
}

Test(properties, plan_and_gradient_do_not_depend_on_threads)
{
    gln_pool_t *pools[3] = {pool_of(1), pool_of(2), pool_of(3)};
    for (uint64_t id = 0; id < 10 * GLN_POLICIES_COUNT; id++) {
        test_case_t c;
        case_open(&c, 60000 + id, id % 2 ? GLN_F32 : GLN_F64);
        case_close(&c);
        c.shape.tokens = 300 + 97 * (int64_t)(id % 7);
        c.shape.capacity_factor_max = INFINITY;
        size_t logits = (size_t)(c.shape.tokens * c.shape.experts);
        c.logits = calloc(logits, gln_dtype_bytes(c.shape.acc));
        c.input.logits = c.logits;
        case_logits(&c, (int)(id % LOGITS_KINDS));
        test_run_t run[3];
        void *gradient[3];
        for (int i = 0; i < 3; i++) {
            run[i] = run_open(&c, pools[i]);
            gradient[i] = calloc(logits, 8);
            size_t routes = (size_t)run[i].plan->routes_count,
                   rows = (size_t)run[i].plan->rect_count;
            void *a = calloc(routes + 1, 8), *b = calloc(rows + 1, 8);
            for (size_t r = 0; r < routes; r++)
                gln_store(a, (int64_t)r, c.shape.acc, sin((double)r));
            for (size_t r = 0; r < rows; r++)
                gln_store(b, (int64_t)r, c.shape.acc, cos((double)r));
            cr_assert_eq(gln_router_backward(run[i].router, run[i].plan, a, b, 1, gradient[i]),
                         GLN_OK);
            free(a), free(b);
            const char *difference = plan_difference(run[0].plan, run[i].plan, c.shape.acc);
            cr_assert_null(difference, "case %llu, %d threads: %s", ID(c), i + 1, difference);
            cr_assert_eq(memcmp(gradient[0], gradient[i], logits * gln_dtype_bytes(c.shape.acc)),
                         0);
        }
        for (int i = 0; i < 3; i++)
            run_close(&run[i]), free(gradient[i]);
        case_close(&c);
    }
    for (int i = 0; i < 3; i++)
        gln_pool_close(pools[i]);
}

/* 1 token, 4 experts, 2 a domain; local ones are `first` and the next. Nothing has a slot. */
static test_run_t run_one(gln_dtype_t acc, const double *logits, int first,
                          gln_router_options_t options)
{
    float narrow[4] = {(float)logits[0], (float)logits[1], (float)logits[2], (float)logits[3]};
    options.capacity_factor = 1e-9;
    options.rectify = 1;
    test_case_t c = {.options = options, .shape = {1, 4, 2, 0, acc}};
    c.input.logits = acc == GLN_F64 ? (const void *)logits : (const void *)narrow;
    c.input.first_local = first;
    return run_open(&c, pool);
}

Test(properties, a_token_without_routes_weighs_one_also_when_its_score_underflows)
{
    const double logits[4] = {0, 1, -2000, -2001};
    for (int acc = 0; acc < 3; acc += 2) {
        gln_dtype_t type = (gln_dtype_t)acc;
        for (int k = 1; k <= 4; k++) {
            test_run_t run = run_one(type, logits, 2, (gln_router_options_t){.k = k});
            cr_assert_eq(gln_load(run.plan->scores, 2, type), 0);
            cr_assert_eq(run.plan->token_h[0], 2); /* a tie at 0: the lower expert */
            cr_assert_eq(gln_load(run.plan->rect_weight, 0, type), 1.0);
            cr_assert_eq(gln_load(run.plan->token_scale, 0, type), 0);
            run_close(&run);
            run = run_one(type, logits, 0, (gln_router_options_t){.k = k});
            cr_assert_eq(run.plan->token_h[0], 1);
            cr_assert_eq(gln_load(run.plan->rect_weight, 0, type), 1.0);
            run_close(&run);
        }
    }
}

/* Token 0 takes the only slots of experts 0, 1 and 2. Token 1 is filled with expert 3 and rectified
 * with expert 2 at multiplicity 3 - 1, both with p = 0: equal shares, h with its multiplicity. */
Test(properties, underflow_of_everything_gives_equal_shares)
{
    const double logits[2][4] = {{5, 4, -6, -5}, {2000, 0, 0, 0}}; /* fourth experts: 2 and 3 */
    test_case_t c = {.options = {.k = 2,
                                 .capacity_factor = 1,
                                 .priority = GLN_PRIORITY_POSITION,
                                 .fill = 1,
                                 .fill_rank = 4,
                                 .rectify = 1,
                                 .ir_exclude = 1,
                                 .ir_scale = GLN_IR_SCALE_K_GATE},
                     .shape = {2, 4, 2, 0, GLN_F64},
                     .input = {.logits = logits, .first_local = 2}};
    test_run_t run = run_open(&c, pool);
    const gln_plan_t *plan = run.plan;
    const int32_t token[] = {0, 0, 0, 1};
    cr_assert_eq(plan->routes_count, 4);
    cr_assert_arr_eq(plan->route_token, token, sizeof token);
    cr_assert_eq(plan->token_h[1], 2);
    cr_assert_eq(plan->token_m[1], 2);
    cr_assert_eq(gln_load(plan->token_scale, 1, GLN_F64), 0);
    cr_assert_float_eq(gln_load(plan->route_weight, 3, GLN_F64), 1.0 / 3, 1e-15);
    cr_assert_float_eq(gln_load(plan->rect_weight, 0, GLN_F64), 2.0 / 3, 1e-15);
    run_close(&run);
}

Test(properties, random_priority_draws_per_seed_step_layer_and_domain)
{
    float logits[64] = {0}; /* 64 tokens, 1 expert */
    test_case_t c = {.options = {.priority = GLN_PRIORITY_RANDOM, .capacity_factor = 0.5},
                     .shape = {64, 1, 1, 0, GLN_F32},
                     .input = {.logits = logits, .seed = 1, .step = 1, .layer = 1, .domain = 1}};
    test_run_t base = run_open(&c, pool), again = run_open(&c, pool);
    cr_assert_null(plan_difference(base.plan, again.plan, GLN_F32));
    run_close(&again);
    for (int what = 0; what < 4; what++) {
        test_case_t other = c;
        other.input.seed += what == 0;
        other.input.step += what == 1;
        other.input.layer += what == 2;
        other.input.domain += what == 3;
        test_run_t run = run_open(&other, pool);
        cr_assert_neq(memcmp(run.plan->route_token, base.plan->route_token, 32 * 4), 0);
        run_close(&run);
    }
    run_close(&base);
}
