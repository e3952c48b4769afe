/* gln_router_backward against central differences, in F64, for every policy. The function is sum_t
 * <g_t, y_t> with the numbers a[t, e] = <g_t, E_e(x_t)> drawn and constant, plus both auxiliary
 * losses. It is written out in long double from the definition; the plan only says who is served.
 * Where the divisor is detached it keeps the value that it has at the point. */
#include "tests/unit/router/cases.h"

#define STEP 1e-6L

static gln_pool_t *pool;

static void setup(void)
{
    pool = pool_of(2);
}
static void teardown(void)
{
    gln_pool_close(pool);
}
TestSuite(gradient, .init = setup, .fini = teardown, .timeout = 300);

typedef struct problem {
    const test_case_t *c;
    const gln_router_options_t *o; /* with defaults */
    const gln_plan_t *plan;
    double *a; /* [T, E] */
    double aux_scale;
} problem_t;

static void softmax(const long double *x, int experts, long double *p, long double *lse)
{
    long double max = x[0], sum = 0;
    for (int e = 0; e < experts; e++)
        max = fmaxl(max, x[e]);
    for (int e = 0; e < experts; e++)
        sum += expl(x[e] - max);
    for (int e = 0; e < experts; e++)
        p[e] = expl(x[e] - max) / sum;
    *lse = max + logl(sum);
}

/* p and logsumexp: the softmax, or where the policy has it the sigmoid. */
static void scores(const problem_t *q, const long double *x, long double *p, long double *lse)
{
    int experts = q->plan->experts;
    softmax(x, experts, p, lse);
    for (int e = 0; e < experts && q->plan->scores != q->plan->softmax; e++)
        p[e] = 1 / (1 + expl(-x[e]));
}

/* How often expert e counts for token t: once as a slot route, m times as h. */
static int counts(const gln_plan_t *plan, int64_t t, int e)
{
    int count = plan->token_h[t] == e ? plan->token_m[t] : 0;
    for (int32_t i = plan->token_offset[t]; i < plan->token_offset[t + 1]; i++)
        count += plan->token_expert[i] == e && plan->token_route[i] >= 0;
    return count;
}

static long double divisor(const problem_t *q, int64_t t, const long double *p)
{
    const gln_plan_t *plan = q->plan;
    long double sum = 0;
    if (q->o->weight == GLN_WEIGHT_P) return 1;
    if (q->o->weight == GLN_WEIGHT_TOPK_SOFTMAX)
        for (int c = 0; c < plan->k; c++)
            sum += p[plan->token_expert[plan->token_offset[t] + c]];
    else
        for (int e = 0; e < plan->experts; e++)
            sum += counts(plan, t, e) * p[e];
    return sum;
}

/* This token's share of the function at logits x; the divisor from p_divisor. */
static long double value(const problem_t *q, int64_t t, const long double *x,
                         const long double *p_divisor)
{
    const gln_plan_t *plan = q->plan;
    int experts = plan->experts;
    long double *p = calloc((size_t)experts, sizeof *p), lse, y = 0, aux = 0, total = 0;
    long double tokens = plan->tokens;
    scores(q, x, p, &lse);
    long double by = divisor(q, t, q->o->attached > 0 ? p : p_divisor);
    for (int e = 0; e < experts; e++)
        total += p[e]; /* 1 for a softmax */
    for (int e = 0; e < experts; e++) {
        int count = counts(plan, t, e);
        if (count > 0) y += q->o->route_scale * count * p[e] / by * q->a[t * experts + e];
        aux += q->o->balance_coef * experts * plan->balance_fraction[e] * p[e] / total / tokens;
    }
    aux += q->o->z_coef * lse * lse / tokens;
    free(p);
    return y + q->aux_scale * aux;
}

static double *backward(const problem_t *q, gln_router_t *router)
{
    const gln_plan_t *plan = q->plan;
    size_t logits = (size_t)(plan->tokens * plan->experts);
    double *a = calloc((size_t)plan->routes_count + 1, sizeof *a);
    double *b = calloc((size_t)plan->rect_count + 1, sizeof *b);
    double *d = malloc((logits + 1) * sizeof *d);
    memset(d, 0x7f, logits * sizeof *d); /* it must be overwritten */
    for (int e = 0; e < plan->experts; e++) {
        for (int32_t r = plan->expert_offset[e]; r < plan->expert_offset[e + 1]; r++)
            a[r] = q->a[(int64_t)plan->route_token[r] * plan->experts + e];
        for (int32_t r = plan->rect_offset[e]; r < plan->rect_offset[e + 1]; r++)
            b[r] = q->a[(int64_t)plan->rect_token[r] * plan->experts + e];
    }
    cr_assert_eq(gln_router_backward(router, plan, a, b, q->aux_scale, d), GLN_OK);
    free(a), free(b);
    return d;
}

static void check_token(const problem_t *q, int64_t t, const double *gradient)
{
    int experts = q->plan->experts;
    long double *x = calloc((size_t)experts, sizeof *x), *p = calloc((size_t)experts, sizeof *p),
                lse;
    for (int e = 0; e < experts; e++)
        x[e] = ((const double *)q->c->logits)[t * experts + e];
    scores(q, x, p, &lse);
    for (int e = 0; e < experts; e++) {
        long double at = x[e];
        x[e] = at + STEP;
        long double up = value(q, t, x, p);
        x[e] = at - STEP;
        long double down = value(q, t, x, p);
        x[e] = at;
        double want = (double)((up - down) / (2 * STEP)), got = gradient[t * experts + e];
        cr_assert(fabs(got - want) <= 1e-9 * fmax(1, fabs(want)),
                  "case %llu, %s, weight %d, attached %d, token %lld, expert %d: %.15g, expected "
                  "%.15g",
                  (unsigned long long)q->c->id, gln_policy_name(q->o->policy), (int)q->o->weight,
                  q->o->attached, (long long)t, e, got, want);
    }
    free(x), free(p);
}

Test(gradient, equals_central_differences)
{
    int64_t rectified = 0, filled = 0, grown = 0;
    for (uint64_t id = 0; id < 3600; id++) {
        test_case_t c;
        case_open(&c, 70000 + id, GLN_F64);
        case_logits(&c, (int)(id % 2 ? LOGITS_NORMAL : LOGITS_ZIPF));
        test_run_t run = run_open(&c, pool);
        problem_t q = {&c, gln_router_options(run.router), run.plan, NULL, id % 5 ? 1.0 : 0.25};
        size_t logits = (size_t)(c.shape.tokens * c.shape.experts);
        q.a = calloc(logits + 1, sizeof *q.a);
        for (size_t i = 0; i < logits; i++)
            q.a[i] = case_normal(&c);
        double *gradient = backward(&q, run.router);
        for (int64_t t = 0; t < c.shape.tokens; t += 1 + c.shape.tokens / 16) {
            check_token(&q, t, gradient);
            rectified += run.plan->token_rect[t] >= 0;
            grown += run.plan->token_h[t] >= 0 && run.plan->token_rect[t] < 0;
        }
        filled += run.plan->ledger.filled;
        free(gradient), free(q.a);
        run_close(&run);
        case_close(&c);
    }
    cr_assert(rectified > 500 && filled > 500 && grown > 100);
}

/* F32 is the same formula: against F64 of the same plan. */
Test(gradient, f32_agrees_with_f64)
{
    for (uint64_t id = 0; id < 300; id++) {
        test_case_t c, wide;
        case_open(&c, 80000 + id, GLN_F32);
        case_logits(&c, LOGITS_NORMAL);
        wide = c;
        wide.shape.acc = GLN_F64;
        int64_t logits = c.shape.tokens * c.shape.experts;
        double *x = calloc((size_t)logits + 1, sizeof *x);
        float *d = calloc((size_t)logits + 1, sizeof *d);
        for (int64_t i = 0; i < logits; i++)
            x[i] = ((const float *)c.logits)[i];
        wide.logits = x;
        wide.input.logits = x;
        test_run_t narrow = run_open(&c, pool), run = run_open(&wide, pool);
        if (logits > 0 && narrow.plan->routes_count == run.plan->routes_count &&
            memcmp(narrow.plan->token_offset, run.plan->token_offset,
                   (size_t)c.shape.tokens * 4 + 4) == 0 &&
            narrow.plan->rect_count == run.plan->rect_count &&
            (run.plan->routes_count == 0 ||
             memcmp(narrow.plan->token_route, run.plan->token_route,
                    (size_t)run.plan->token_offset[c.shape.tokens] * 4) == 0)) {
            problem_t q = {&wide, gln_router_options(run.router), run.plan,
                           calloc((size_t)logits + 1, 8), 1};
            float *a = calloc((size_t)run.plan->routes_count + 1, sizeof *a);
            float *b = calloc((size_t)run.plan->rect_count + 1, sizeof *b);
            for (int64_t i = 0; i < logits; i++)
                q.a[i] = (float)case_normal(&c);
            for (int e = 0; e < run.plan->experts; e++) {
                for (int32_t r = run.plan->expert_offset[e]; r < run.plan->expert_offset[e + 1];
                     r++)
                    a[r] = (float)q.a[(int64_t)run.plan->route_token[r] * run.plan->experts + e];
                for (int32_t r = run.plan->rect_offset[e]; r < run.plan->rect_offset[e + 1]; r++)
                    b[r] = (float)q.a[(int64_t)run.plan->rect_token[r] * run.plan->experts + e];
            }
            double *want = backward(&q, run.router);
            cr_assert_eq(gln_router_backward(narrow.router, narrow.plan, a, b, 1, d), GLN_OK);
            for (int64_t i = 0; i < logits; i++)
                cr_assert_float_eq(d[i], want[i], 2e-5, "case %llu: %g, expected %g",
                                   (unsigned long long)id, (double)d[i], want[i]);
            free(a), free(b), free(want), free(q.a);
        }
        run_close(&narrow), run_close(&run);
        free(x), free(d);
        case_close(&c);
    }
}

/* A token with nothing but an underflowed h still teaches the gate: a (delta_h - p). */
Test(gradient, lives_when_the_score_underflows)
{
    const double logits[4] = {0, 1, -2000, -2001};
    test_case_t c = {.options = {.k = 1, .capacity_factor = 1e-9, .rectify = 1},
                     .shape = {1, 4, 2, 0, GLN_F64},
                     .input = {.logits = logits, .first_local = 2}};
    test_run_t run = run_open(&c, pool);
    double a = 3, d[4], p0 = gln_load(run.plan->scores, 0, GLN_F64);
    cr_assert_eq(gln_router_backward(run.router, run.plan, NULL, &a, 1, d), GLN_OK);
    cr_assert_float_eq(d[0], -3 * p0, 1e-14);
    cr_assert_eq(d[2], 3);
    cr_assert_eq(d[3], 0);
    run_close(&run);
}

/* Balance over two domains: with the shares of both, their losses' mean is the loss of all tokens
 * in one domain, and so is its gradient. */
Test(gradient, balance_over_the_global_batch)
{
    enum { TOKENS = 12, EXPERTS = 4 };
    for (int policy = 0; policy < GLN_POLICIES_COUNT; policy++) {
        gln_router_options_t o = {
            .policy = (gln_policy_t)policy, .capacity_factor = INFINITY, .balance_coef = 0.7};
        if (policy == GLN_POLICY_EXPERT_CHOICE || policy == GLN_POLICY_SINKHORN)
            continue; /* their choices depend on the domain */
        test_case_t whole = {.options = o, .shape = {2 * TOKENS, EXPERTS, 2, 0, GLN_F64}};
        whole.logits = calloc(2 * TOKENS * EXPERTS, sizeof(double));
        whole.input.logits = whole.logits;
        case_logits(&whole, LOGITS_ZIPF);
        test_run_t all = run_open(&whole, pool), half[2];
        double want[2 * TOKENS * EXPERTS], got[TOKENS * EXPERTS], fraction[EXPERTS];
        double none[2 * TOKENS * (EXPERTS + 1)] = {0}, loss = 0;
        cr_assert_eq(gln_router_backward(all.router, all.plan, none, none, 1, want), GLN_OK);
        for (int d = 0; d < 2; d++) {
            test_case_t part = whole;
            part.shape.tokens = TOKENS;
            part.input.logits = (double *)whole.logits + d * TOKENS * EXPERTS;
            half[d] = run_open(&part, pool);
        }
        for (int e = 0; e < EXPERTS; e++) {
            fraction[e] = 0;
            for (int d = 0; d < 2; d++)
                fraction[e] +=
                    (double)half[d].plan->choice_count[e] / (2.0 * TOKENS * half[d].plan->k);
        }
        for (int d = 0; d < 2; d++) {
            cr_assert_eq(gln_plan_balance(half[d].plan, fraction), GLN_OK);
            loss += half[d].plan->balance_loss / 2;
            cr_assert_eq(gln_router_backward(half[d].router, half[d].plan, none, none, 0.5, got),
                         GLN_OK);
            for (int i = 0; i < TOKENS * EXPERTS; i++)
                cr_assert_float_eq(got[i], want[d * TOKENS * EXPERTS + i], 1e-15);
            run_close(&half[d]);
        }
        cr_assert_float_eq(loss, all.plan->balance_loss, 1e-14);
        run_close(&all);
        case_close(&whole);
    }
}

Test(gradient, refuses_wrong_fractions)
{
    float logits[8] = {0};
    test_case_t c = {.shape = {4, 2, 1, 0, GLN_F32}, .input = {.logits = logits}};
    test_run_t run = run_open(&c, pool);
    double good[2] = {0.25, 0.75}, negative[2] = {0.5, -1}, nan[2] = {NAN, 1};
    cr_assert_eq(gln_plan_balance(run.plan, NULL), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_plan_balance(NULL, good), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_plan_balance(run.plan, good), GLN_OK);
    cr_assert_eq(run.plan->balance_loss, 1);
    cr_assert_eq(gln_plan_balance(run.plan, negative), GLN_ERR_ARGUMENT);
    cr_assert_not_null(strstr(gln_last_error(), "expert 1 is -1"));
    cr_assert_eq(gln_plan_balance(run.plan, nan), GLN_ERR_ARGUMENT);
    cr_assert_eq(run.plan->balance_fraction[0], 0.25, "nothing is changed");
    run_close(&run);
}

Test(gradient, refuses_null_and_foreign_plans)
{
    float logits[8] = {1, 0, 0, 1, 1, 0, 0, 1}, a[8] = {0};
    test_case_t c = {.shape = {4, 2, 1, 0, GLN_F32}, .input = {.logits = logits}};
    test_run_t run = run_open(&c, pool);
    cr_assert_eq(gln_router_backward(run.router, run.plan, NULL, a, 1, a), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_router_backward(run.router, run.plan, a, NULL, 1, NULL), GLN_ERR_ARGUMENT);
    cr_assert_eq(gln_router_backward(run.router, NULL, a, a, 1, a), GLN_ERR_ARGUMENT);
    c.shape.tokens = 3;
    test_run_t other = run_open(&c, pool);
    cr_assert_eq(gln_router_backward(run.router, other.plan, a, a, 1, a), GLN_ERR_ARGUMENT);
    run_close(&run), run_close(&other);
}
