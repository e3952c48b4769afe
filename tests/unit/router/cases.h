/* Random routing problems, each a function of its number, and running one. */
#ifndef GLN_TESTS_ROUTER_CASES_H
#define GLN_TESTS_ROUTER_CASES_H

#include "base/log.h"
#include "base/rng.h"
#include "router/router.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct test_case {
    uint64_t id, drawn;
    gln_router_options_t options;
    gln_router_shape_t shape;
    gln_route_input_t input;
    void *logits;
    float bias[32]; /* of the router before it routes, where its policy has one */
} test_case_t;

static inline double case_uniform(test_case_t *c)
{
    return gln_rng_uniform(c->id, gln_rng_stream(GLN_RNG_TEST, 7, 7), c->drawn++);
}
static inline int case_below(test_case_t *c, int count)
{
    return (int)(case_uniform(c) * count);
}
static inline double case_normal(test_case_t *c)
{
    return gln_rng_normal(c->id, gln_rng_stream(GLN_RNG_TEST, 8, 8), c->drawn++);
}

enum {
    LOGITS_NORMAL,
    LOGITS_ZIPF,
    LOGITS_ONE_EXPERT,
    LOGITS_QUANTISED,
    LOGITS_HUGE,
    LOGITS_EQUAL,
    LOGITS_TWINS,
    LOGITS_KINDS
};

static inline void case_logits(test_case_t *c, int kind)
{
    int experts = c->shape.experts, favourite = case_below(c, experts);
    int shift = case_below(c, experts);
    for (int64_t t = 0; t < c->shape.tokens; t++)
        for (int e = 0; e < experts; e++) {
            double x = case_normal(c);
            switch (kind) {
            case LOGITS_ZIPF:
                x = 0.5 * x - 1.5 * log(1 + (e + shift) % experts);
                break;
            case LOGITS_ONE_EXPERT:
                x += e == favourite ? 12 : 0;
                break;
            case LOGITS_QUANTISED:
                x = rint(x);
                break;
            case LOGITS_HUGE: /* scores that underflow in F32 */
                x = 80 * (case_below(c, 3) - 1) + (case_below(c, 2) ? x : 0);
                break;
            case LOGITS_EQUAL:
                x = 0;
                break;
            case LOGITS_TWINS: /* every token like its neighbour */
                if (t % 2) x = gln_load(c->logits, (t - 1) * experts + e, c->shape.acc);
                break;
            default:
                break;
            }
            gln_store(c->logits, t * experts + e, c->shape.acc, x);
        }
}

/* A divisor of n, any of them. */
static inline int case_divisor(test_case_t *c, int n)
{
    int d = 1 + case_below(c, n);
    while (n % d)
        d--;
    return d;
}

/* Whether the policy takes FR and IR. */
static inline int case_rectifies(const test_case_t *c)
{
    return c->options.policy != GLN_POLICY_EXPERT_CHOICE &&
           c->options.policy != GLN_POLICY_EXPANDED_DROP;
}

/* Whether its choices are the experts of largest p. */
static inline int case_by_score(const test_case_t *c)
{
    return case_rectifies(c) && c->options.policy != GLN_POLICY_SINKHORN &&
           c->options.policy != GLN_POLICY_DEEPSEEK_V3;
}

static inline gln_route_weight_t case_weight(test_case_t *c)
{
    static const gln_route_weight_t forms[] = {GLN_WEIGHT_AUTO, GLN_WEIGHT_P, GLN_WEIGHT_NORMALIZED,
                                               GLN_WEIGHT_TOPK_SOFTMAX};
    int any = case_by_score(c) || c->options.policy == GLN_POLICY_EXPANDED_DROP;
    return forms[case_below(c, any ? 4 : 3)];
}

/* Options that only some policies take. */
static inline void case_policy_options(test_case_t *c)
{
    gln_router_options_t *o = &c->options;
    int e = c->shape.experts, k = o->k ? o->k : 1;
    if (case_rectifies(c)) {
        o->fill = case_below(c, 3) > 0;
        o->rectify = case_below(c, 3) > 0;
        if (o->policy != GLN_POLICY_RANDOM) o->priority = (gln_priority_t)case_below(c, 5);
    }
    if (o->policy == GLN_POLICY_SINKHORN) o->sinkhorn_iterations = case_below(c, 6);
    if (o->policy == GLN_POLICY_DEEPSEEK_V3) {
        int groups = case_divisor(c, e), least = (k + e / groups - 1) / (e / groups);
        o->group_count = groups;
        o->group_topk = least + case_below(c, groups - least + 1);
        o->route_scale = case_below(c, 2) ? 0 : 2.5;
        for (int i = 0; i < e; i++)
            c->bias[i] = (float)(0.2 * case_normal(c));
    }
}

static inline void case_options(test_case_t *c)
{
    static const double factors[] = {1e-9, 0.25, 0.5, 0.5, 0.75, 1, 1, 1.25, 1.5, 2, INFINITY};
    gln_router_options_t *o = &c->options;
    int e = c->shape.experts, few = e < 4 ? e : 4;
    o->k = case_below(c, 8) ? 1 + case_below(c, few) : case_below(c, 2) ? e : 1 + case_below(c, e);
    if (o->policy == GLN_POLICY_SWITCH) o->k = 1;
    if (o->policy == GLN_POLICY_GSHARD) o->k = 2;
    int k = o->k;
    o->capacity_factor = factors[case_below(c, 11)];
    o->min_capacity = case_below(c, 6) ? 0 : case_below(c, 9);
    o->fill_key = (gln_fill_key_t)case_below(c, 2);
    o->fill_rank = case_below(c, 2) || k == e ? 0 : k + 1 + case_below(c, e - k);
    o->ir_tokens = (gln_ir_tokens_t)case_below(c, 3);
    o->ir_exclude = case_below(c, 2);
    o->ir_capacity = case_below(c, 3) ? 0 : 1 + case_below(c, 6);
    o->ir_scope = case_below(c, 2) ? 0 : case_divisor(c, e / c->shape.per_domain);
    o->ir_scale = (gln_ir_scale_t)case_below(c, 2);
    o->weight = case_weight(c);
    o->attached = case_below(c, 3) - 1;
    o->balance_coef = case_below(c, 2) * 0.3;
    o->z_coef = case_below(c, 2) * 0.1;
    case_policy_options(c);
}

/* One policy after the other; a function of id and type. */
static inline void case_open(test_case_t *c, uint64_t id, gln_dtype_t acc)
{
    static const int tokens[] = {0, 1, 2, 3, 5, 8, 13, 24, 40, 60, 60, 150};
    static const int experts[] = {1, 2, 3, 4, 6, 8, 8, 12, 16, 24};
    memset(c, 0, sizeof *c);
    c->id = id;
    c->options.policy = (gln_policy_t)(id % GLN_POLICIES_COUNT);
    c->shape.acc = acc;
    c->shape.tokens = tokens[case_below(c, 12)];
    c->shape.experts = experts[case_below(c, 10)];
    if (c->options.policy == GLN_POLICY_GSHARD && c->shape.experts == 1) c->shape.experts = 2;
    c->shape.per_domain = case_divisor(c, c->shape.experts);
    c->shape.capacity_factor_max = case_below(c, 4) ? 0 : INFINITY;
    case_options(c);
    int e = c->shape.experts;
    c->input.domain = case_below(c, 100);
    c->input.first_local = c->shape.per_domain * case_below(c, e / c->shape.per_domain);
    c->input.seed = id;
    c->input.step = case_below(c, 1000);
    c->input.layer = case_below(c, 5);
    if (c->shape.capacity_factor_max > 0)
        c->input.capacity_factor = case_below(c, 2) ? 0 : 0.1 + 3 * case_uniform(c);
    c->logits = calloc((size_t)c->shape.tokens * (size_t)e + 1, gln_dtype_bytes(acc));
    c->input.logits = c->logits;
    case_logits(c, case_below(c, LOGITS_KINDS));
}

static inline void case_close(test_case_t *c)
{
    free(c->logits);
}

/* A router and a plan for one case, routed. */
typedef struct test_run {
    gln_router_t *router;
    gln_plan_t *plan;
} test_run_t;

static inline test_run_t run_open(const test_case_t *c, gln_pool_t *pool)
{
    test_run_t run = {0};
    cr_assert_eq(gln_router_open(&c->options, &c->shape, pool, &run.router), GLN_OK,
                 "case %llu: %s", (unsigned long long)c->id, gln_last_error());
    if (c->options.policy == GLN_POLICY_DEEPSEEK_V3)
        cr_assert_eq(gln_router_set_bias(run.router, c->bias), GLN_OK);
    cr_assert_eq(gln_plan_open(run.router, &run.plan), GLN_OK);
    cr_assert_eq(gln_router_route(run.router, &c->input, run.plan), GLN_OK, "case %llu: %s",
                 (unsigned long long)c->id, gln_last_error());
    return run;
}

static inline void run_close(test_run_t *run)
{
    gln_plan_close(run->plan);
    gln_router_close(run->router);
}

static inline gln_pool_t *pool_of(int threads)
{
    gln_pool_t *pool = NULL;
    cr_assert_eq(gln_pool_open(threads, &pool), GLN_OK);
    return pool;
}

/* The first difference between two plans of one shape, bit by bit; NULL if there is none. */
static inline const char *plan_difference(const gln_plan_t *a, const gln_plan_t *b, gln_dtype_t acc)
{
    size_t real = gln_dtype_bytes(acc), t = (size_t)a->tokens, e = (size_t)a->experts;
    size_t choices = (size_t)a->token_offset[t], routes = (size_t)a->routes_count;
    size_t rows = (size_t)a->rect_count;
#define DIFFERS(field, bytes) \
    if ((bytes) > 0 && memcmp(a->field, b->field, bytes) != 0) return #field
    if (a->tokens != b->tokens || a->experts != b->experts || a->k != b->k ||
        a->capacity != b->capacity)
        return "shape";
    if (a->routes_count != b->routes_count) return "routes_count";
    if (a->rect_count != b->rect_count) return "rect_count";
    DIFFERS(expert_offset, (e + 1) * 4);
    DIFFERS(route_token, routes * 4);
    DIFFERS(route_kind, routes);
    DIFFERS(route_choice, routes * 2);
    DIFFERS(route_weight, routes * real);
    DIFFERS(rect_offset, (e + 1) * 4);
    DIFFERS(rect_token, rows * 4);
    DIFFERS(rect_weight, rows * real);
    DIFFERS(token_offset, (t + 1) * 4);
    DIFFERS(token_route, choices * 4);
    DIFFERS(token_expert, choices * 4);
    DIFFERS(token_rect, t * 4);
    DIFFERS(token_h, t * 4);
    DIFFERS(token_m, t * 4);
    DIFFERS(scores, t * e * real);
    DIFFERS(softmax, t * e * real);
    DIFFERS(lse, t * real);
    DIFFERS(token_scale, t * real);
    DIFFERS(choice_count, e * 8);
    DIFFERS(score_mean, e * 8);
    DIFFERS(balance_fraction, e * 8);
#undef DIFFERS
    if (memcmp(&a->balance_loss, &b->balance_loss, sizeof(double)) != 0) return "balance_loss";
    if (memcmp(&a->z_loss, &b->z_loss, sizeof(double)) != 0) return "z_loss";
    if (memcmp(&a->ledger, &b->ledger, sizeof a->ledger) != 0) return "ledger";
    return NULL;
}

#endif
