/* Memory of a plan: one block, sized by the bounds of its router. */
#include "base/log.h"
#include "router/router_internal.h"
#include <stdlib.h>

static void layout(const gln_router_t *router, gln_plan_t *plan)
{
    gln_arena_t *arena = &plan->arena;
    size_t acc = gln_dtype_bytes(router->shape.acc);
    size_t tokens = (size_t)router->shape.tokens, experts = (size_t)router->shape.experts;
    size_t routes = (size_t)gln_router_routes_max(router);
    size_t choices = router->width > 0 ? tokens * (size_t)router->width : routes;
    size_t rows = (size_t)gln_router_rect_max(router);
    plan->expert_offset = gln_arena_take(arena, (experts + 1) * sizeof *plan->expert_offset);
    plan->route_token = gln_arena_take(arena, routes * sizeof *plan->route_token);
    plan->route_kind = gln_arena_take(arena, routes * sizeof *plan->route_kind);
    plan->route_choice = gln_arena_take(arena, routes * sizeof *plan->route_choice);
    plan->route_weight = gln_arena_take(arena, routes * acc);
    plan->rect_offset = gln_arena_take(arena, (experts + 1) * sizeof *plan->rect_offset);
    plan->rect_token = gln_arena_take(arena, rows * sizeof *plan->rect_token);
    plan->rect_weight = gln_arena_take(arena, rows * acc);
    plan->token_offset = gln_arena_take(arena, (tokens + 1) * sizeof *plan->token_offset);
    plan->token_route = gln_arena_take(arena, choices * sizeof *plan->token_route);
    plan->token_expert = gln_arena_take(arena, choices * sizeof *plan->token_expert);
    plan->token_rect = gln_arena_take(arena, tokens * sizeof *plan->token_rect);
    plan->token_h = gln_arena_take(arena, tokens * sizeof *plan->token_h);
    plan->token_m = gln_arena_take(arena, tokens * sizeof *plan->token_m);
    plan->scores = gln_arena_take(arena, tokens * experts * acc);
    plan->softmax = router->sigmoid ? gln_arena_take(arena, tokens * experts * acc) : plan->scores;
    plan->lse = gln_arena_take(arena, tokens * acc);
    plan->token_scale = gln_arena_take(arena, tokens * acc);
    plan->choice_count = gln_arena_take(arena, experts * sizeof *plan->choice_count);
    plan->score_mean = gln_arena_take(arena, experts * sizeof *plan->score_mean);
    plan->balance_fraction = gln_arena_take(arena, experts * sizeof *plan->balance_fraction);
}

gln_status_t gln_plan_open(const gln_router_t *router, gln_plan_t **out)
{
    if (!router || !out)
        return gln_fail(GLN_ERR_ARGUMENT, "plan open got NULL for %s", router ? "out" : "router");
    gln_plan_t *plan = calloc(1, sizeof *plan);
    if (!plan) return gln_fail(GLN_ERR_MEMORY, "no memory for a plan of %zu bytes", sizeof *plan);
    plan->arena.kind = GLN_MEMORY_ROUTER;
    layout(router, plan);
    gln_status_t status = gln_arena_commit(&plan->arena, gln_device_cpu());
    if (status != GLN_OK) {
        free(plan);
        return status;
    }
    layout(router, plan);
    plan->tokens = router->shape.tokens;
    plan->experts = router->shape.experts;
    plan->k = router->options.k;
    plan->policy = router->options.policy;
    for (int64_t t = 0; t <= plan->tokens; t++)
        plan->token_offset[t] = (int32_t)(t * router->width);
    *out = plan;
    return GLN_OK;
}

size_t gln_plan_bytes(const gln_plan_t *plan)
{
    return plan->arena.size_bytes;
}

void gln_plan_close(gln_plan_t *plan)
{
    if (!plan) return;
    gln_arena_close(&plan->arena);
    free(plan);
}

gln_status_t gln_plan_check(const gln_router_t *router, const gln_plan_t *plan)
{
    if (!router || !plan)
        return gln_fail(GLN_ERR_ARGUMENT, "router call got NULL for %s",
                        router ? "plan" : "router");
    if (plan->tokens == router->shape.tokens && plan->experts == router->shape.experts &&
        plan->k == router->options.k && plan->policy == router->options.policy)
        return GLN_OK;
    return gln_fail(
        GLN_ERR_ARGUMENT,
        "the plan is for policy %s, %lld tokens, %d experts and k %d, the router for %s, %lld, %d "
        "and %d; open the plan with this router",
        gln_policy_name(plan->policy), (long long)plan->tokens, plan->experts, plan->k,
        gln_policy_name(router->options.policy), (long long)router->shape.tokens,
        router->shape.experts, router->options.k);
}
