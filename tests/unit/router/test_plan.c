/* Plans against the oracle: thousands of random cases over all options, both types. */
#include "tests/unit/router/cases.h"
#include "tests/unit/router/oracle.h"

#define CASES 6000

static gln_pool_t *pool;

static void setup(void)
{
    pool = pool_of(2);
}
static void teardown(void)
{
    gln_pool_close(pool);
}
TestSuite(plan, .init = setup, .fini = teardown, .timeout = 300);

#define EXPECT(condition)                                                          \
    cr_assert(condition, "case %llu (%s): " #condition, (unsigned long long)c->id, \
              gln_dtype_name(c->shape.acc))

static int near(double got, double want, gln_dtype_t acc)
{
    double tolerance = acc == GLN_F64 ? 1e-12 : 1e-6;
    return fabs(got - want) <= tolerance * fmax(1, fabs(want));
}

/* Scores and logsumexp against long double. */
static void check_scores(const test_case_t *c, const gln_plan_t *plan)
{
    int experts = plan->experts;
    double z = 0;
    for (int64_t t = 0; t < plan->tokens; t++) {
        long double max = -INFINITY, sum = 0;
        for (int e = 0; e < experts; e++)
            max = fmaxl(max, gln_load(c->logits, t * experts + e, c->shape.acc));
        for (int e = 0; e < experts; e++)
            sum += expl(gln_load(c->logits, t * experts + e, c->shape.acc) - max);
        for (int e = 0; e < experts; e++) {
            double x = gln_load(c->logits, t * experts + e, c->shape.acc);
            double want = (double)(expl(x - max) / sum);
            EXPECT(near(gln_load(plan->scores, t * experts + e, c->shape.acc), want, c->shape.acc));
        }
        double lse = (double)(max + logl(sum));
        EXPECT(near(gln_load(plan->lse, t, c->shape.acc), lse, c->shape.acc));
        z += lse * lse / (double)plan->tokens;
    }
    EXPECT(fabs(plan->z_loss - z) <= (c->shape.acc == GLN_F64 ? 1e-11 : 1e-5) * fmax(1, z));
}

static void check_balance(const test_case_t *c, const gln_plan_t *plan, const oracle_t *o)
{
    double balance = 0, tokens = (double)plan->tokens;
    for (int e = 0; e < o->experts && plan->tokens > 0; e++) {
        double mean = 0;
        for (int64_t t = 0; t < o->tokens; t++)
            mean += o->p[t * o->experts + e] / tokens;
        balance += o->experts * mean * (double)o->asked[e] / (tokens * o->k);
    }
    EXPECT(fabs(plan->balance_loss - balance) <= 1e-12 * fmax(1, balance));
    for (int e = 0; e < o->experts; e++)
        EXPECT(plan->choice_count[e] == o->asked[e]);
}

static void check_slots(const test_case_t *c, const gln_plan_t *plan, const oracle_t *o)
{
    EXPECT(plan->capacity == o->capacity);
    int32_t offset = 0;
    for (int e = 0; e < o->experts; e++) {
        EXPECT(plan->expert_offset[e] == offset);
        offset += o->used[e];
    }
    EXPECT(plan->expert_offset[o->experts] == offset);
    EXPECT(plan->routes_count == offset);
    for (int64_t t = 0; t < o->tokens; t++)
        for (int choice = 0; choice <= o->k; choice++) {
            int top = choice < o->k;
            int expert = top ? o->choice[t * o->k + choice] : o->candidate[t];
            int slot = top ? o->choice_slot[t * o->k + choice] : o->fill_slot[t];
            double weight = top ? o->choice_weight[t * o->k + choice] : o->fill_weight[t];
            int32_t route = plan->token_route[t * (o->k + 1) + choice];
            EXPECT(plan->token_expert[t * (o->k + 1) + choice] == expert);
            EXPECT((route >= 0) == (slot != NOT_SERVED));
            if (route < 0) continue;
            EXPECT(route == plan->expert_offset[expert] + slot);
            EXPECT(plan->route_token[route] == t);
            EXPECT(plan->route_choice[route] == choice);
            EXPECT(plan->route_kind[route] == (top ? GLN_ROUTE_TOPK : GLN_ROUTE_FILLED));
            EXPECT(near(gln_load(plan->route_weight, route, c->shape.acc), weight, c->shape.acc));
        }
}

static void check_rows(const test_case_t *c, const gln_plan_t *plan, const oracle_t *o)
{
    int32_t rows = 0;
    for (int e = 0; e < o->experts; e++) {
        EXPECT(plan->rect_offset[e] == rows);
        for (int64_t t = 0; t < o->tokens; t++) {
            if (o->h[t] != e || !o->row[t]) continue;
            EXPECT(plan->rect_token[rows] == t);
            EXPECT(plan->token_rect[t] == rows);
            EXPECT(near(gln_load(plan->rect_weight, rows, c->shape.acc), o->row_weight[t],
                        c->shape.acc));
            rows++;
        }
    }
    EXPECT(plan->rect_offset[o->experts] == rows);
    EXPECT(plan->rect_count == rows);
    for (int64_t t = 0; t < o->tokens; t++) {
        EXPECT(plan->token_h[t] == o->h[t]);
        EXPECT(plan->token_m[t] == o->m[t]);
        EXPECT(o->row[t] || plan->token_rect[t] == -1);
        EXPECT(near(gln_load(plan->token_scale, t, c->shape.acc), o->scale[t], c->shape.acc));
    }
}

static void check_case(uint64_t id, gln_dtype_t acc, gln_ledger_t *seen)
{
    test_case_t made, *c = &made;
    case_open(c, id, acc);
    test_run_t run = run_open(c, pool);
    const gln_plan_t *plan = run.plan;
    oracle_t *o = oracle_open(&c->options, &c->shape, &c->input, plan->scores);
    check_scores(c, plan);
    check_balance(c, plan, o);
    check_slots(c, plan, o);
    check_rows(c, plan, o);
    EXPECT(memcmp(&plan->ledger, &o->ledger, sizeof o->ledger) == 0);
    EXPECT(plan->routes_count <= gln_router_routes_max(run.router));
    EXPECT(plan->rect_count <= gln_router_rect_max(run.router));
    gln_ledger_add(seen, &plan->ledger);
    oracle_close(o);
    run_close(&run);
    case_close(c);
}

/* The cases must reach every count of the ledger often, or they prove little. */
static void check_reach(const gln_ledger_t *seen)
{
    const int64_t *count = &seen->tokens;
    for (int i = 0; i < GLN_LEDGER_FIELDS - 1; i++)
        cr_assert_gt(count[i], 1000, "%s seen only %lld times", gln_ledger_names()[i],
                     (long long)count[i]);
}

Test(plan, equals_the_oracle_f32)
{
    gln_ledger_t seen = {0};
    for (uint64_t id = 0; id < CASES; id++)
        check_case(id, GLN_F32, &seen);
    check_reach(&seen);
}

Test(plan, equals_the_oracle_f64)
{
    gln_ledger_t seen = {0};
    for (uint64_t id = CASES; id < 2 * CASES; id++)
        check_case(id, GLN_F64, &seen);
    check_reach(&seen);
}

/* Several blocks of tokens, more than 16 ranks, experts that do not fill a vector. */
Test(plan, equals_the_oracle_when_large)
{
    gln_ledger_t seen = {0};
    for (uint64_t id = 0; id < 12; id++) {
        test_case_t made, *c = &made;
        case_open(c, 1000000 + id, id % 2 ? GLN_F64 : GLN_F32);
        case_close(c);
        c->shape = (gln_router_shape_t){700, id % 3 ? 37 : 40, 1, INFINITY, c->shape.acc};
        c->options.k = id % 4 ? 3 : 17;
        c->options.fill_rank = c->options.fill ? (id % 3 ? 0 : 30) : 0;
        c->options.ir_scope = c->shape.experts == 40 ? 4 : 37;
        c->input.first_local = 19;
        c->logits = calloc(700 * 40, sizeof(double));
        c->input.logits = c->logits;
        case_logits(c, (int)(id % LOGITS_KINDS));
        test_run_t run = run_open(c, pool);
        oracle_t *o = oracle_open(&c->options, &c->shape, &c->input, run.plan->scores);
        check_scores(c, run.plan);
        check_balance(c, run.plan, o);
        check_slots(c, run.plan, o);
        check_rows(c, run.plan, o);
        EXPECT(memcmp(&run.plan->ledger, &o->ledger, sizeof o->ledger) == 0);
        gln_ledger_add(&seen, &run.plan->ledger);
        oracle_close(o);
        run_close(&run);
        case_close(c);
    }
    cr_assert_gt(seen.rectified, 0);
    cr_assert_gt(seen.rescued, 0);
}

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

/* A plan can be used step after step, also after a larger step left more in it. */
Test(plan, is_reusable)
{
    test_case_t a, b;
    case_open(&a, 77, GLN_F32);
    case_close(&a);
    a.shape = (gln_router_shape_t){60, 8, 4, 2.0, GLN_F32};
    a.options = (gln_router_options_t){.k = 2, .fill = 1, .rectify = 1, .capacity_factor = 0.5};
    a.input = (gln_route_input_t){.capacity_factor = 2.0};
    a.logits = calloc(60 * 8, sizeof(float));
    a.input.logits = a.logits;
    case_logits(&a, LOGITS_ZIPF);
    b = a;
    b.logits = calloc(60 * 8, sizeof(float));
    b.input.logits = b.logits;
    b.input.capacity_factor = 0;
    case_logits(&b, LOGITS_NORMAL);
    test_run_t fresh = run_open(&b, pool), used = run_open(&a, pool);
    cr_assert_eq(gln_router_route(used.router, &b.input, used.plan), GLN_OK);
    const char *difference = plan_difference(fresh.plan, used.plan, GLN_F32);
    cr_assert_null(difference, "differs in %s", difference);
    run_close(&fresh);
    run_close(&used);
    case_close(&a);
    case_close(&b);
}
