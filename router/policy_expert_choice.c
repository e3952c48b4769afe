/* expert_choice: every expert takes the C tokens of largest p (equal p: lower token) and a token
 * has as many routes as experts took it ("Mixture-of-Experts with Expert Choice Routing", arXiv
 * 2202.09368, whose capacity k is our C, and whose capacity factor is our capacity_factor K).
 * Weights are p. C is at most T, so every slot is taken and there is nothing for FR to fill.
 *
 * In the plan a token's entries are its routes, largest p first (equal p: lower expert): the first
 * K count as routed, the others as filled, and what it lacks of K as overflow. O(T E) to find the C
 * best by quickselect, O(C log C) per expert to sort those; memory O(threads T). */
#include "base/log.h"
#include "router/policy_internal.h"

/* router->state: [threads, 2 T] items */
static size_t state_bytes(const gln_router_t *router)
{
    return (size_t)gln_pool_threads(router->pool) * 2 * (size_t)router->shape.tokens *
           sizeof(gln_item_t);
}

static gln_status_t size(gln_router_t *router)
{
    router->best_count = 0;
    router->width = 0;
    router->wanted = 0;
    router->token_routes = router->shape.experts;
    return GLN_OK;
}

static void choose_tokens(void *ctx, int expert, int worker)
{
    const gln_route_call_t *call = ctx;
    const gln_router_t *router = call->router;
    gln_plan_t *plan = call->plan;
    int64_t tokens = plan->tokens, experts = plan->experts;
    gln_item_t *items = (gln_item_t *)router->state + (int64_t)worker * 2 * tokens;
    int32_t first = plan->expert_offset[expert];
    for (int64_t t = 0; t < tokens; t++)
        items[t] =
            gln_item(0, gln_key(plan->scores, t * experts + expert, router->shape.acc), (int32_t)t);
    gln_items_sort_first(items, items + tokens, tokens, plan->capacity);
    for (int64_t i = 0; i < plan->capacity; i++)
        plan->route_token[first + i] = gln_item_token(items[i]);
}

/* Entries of every token in expert order; returns nothing that depends on threads: one pass. */
static void list_routes(gln_plan_t *plan)
{
    int32_t *offset = plan->token_offset;
    memset(offset, 0, (size_t)(plan->tokens + 1) * sizeof *offset);
    for (int64_t r = 0; r < plan->routes_count; r++)
        offset[plan->route_token[r] + 1]++;
    for (int64_t t = 0; t < plan->tokens; t++)
        offset[t + 1] += offset[t];
    for (int e = 0; e < plan->experts; e++)
        for (int32_t r = plan->expert_offset[e]; r < plan->expert_offset[e + 1]; r++) {
            int32_t entry = offset[plan->route_token[r]]++;
            plan->token_route[entry] = r;
            plan->token_expert[entry] = e;
        }
    for (int64_t t = plan->tokens; t > 0; t--)
        offset[t] = offset[t - 1];
    offset[0] = 0;
}

/* Entries of the tokens of a block by falling p; then each is what its place makes it. */
static void order_block(void *ctx, int block, int worker)
{
    (void)worker;
    const gln_route_call_t *call = ctx;
    gln_plan_t *plan = call->plan;
    gln_dtype_t acc = call->router->shape.acc;
    int64_t first, end;
    gln_block_range(call->router, block, &first, &end);
    for (int64_t t = first; t < end; t++) {
        int32_t *expert = plan->token_expert + plan->token_offset[t];
        int32_t *route = plan->token_route + plan->token_offset[t];
        int count = plan->token_offset[t + 1] - plan->token_offset[t];
        for (int i = 1; i < count; i++) {
            int32_t moved_expert = expert[i], moved_route = route[i];
            uint64_t key = gln_key(plan->scores, t * plan->experts + moved_expert, acc);
            int j = i;
            for (; j > 0 && gln_key(plan->scores, t * plan->experts + expert[j - 1], acc) < key;
                 j--) {
                expert[j] = expert[j - 1];
                route[j] = route[j - 1];
            }
            expert[j] = moved_expert;
            route[j] = moved_route;
        }
        for (int i = 0; i < count; i++) {
            plan->route_choice[route[i]] = (uint16_t)i;
            plan->route_kind[route[i]] = i < plan->k ? GLN_ROUTE_TOPK : GLN_ROUTE_FILLED;
        }
    }
}

static void select_slots(gln_route_call_t *call)
{
    const gln_router_t *router = call->router;
    gln_plan_t *plan = call->plan;
    for (int e = 0; e <= plan->experts; e++)
        plan->expert_offset[e] = (int32_t)(e * plan->capacity);
    for (int e = 0; e < plan->experts; e++)
        plan->choice_count[e] = plan->capacity;
    plan->routes_count = plan->expert_offset[plan->experts];
    gln_pool_run(router->pool, plan->experts, choose_tokens, call);
    list_routes(plan);
    gln_pool_run(router->pool, router->blocks_count, order_block, call);
}

const gln_policy_ops_t gln_policy_expert_choice = {
    .takes = 0,
    .weights = GLN_WEIGHTS_OF_SERVED,
    .k = 1,
    .capacity_factor = 1.0,
    .priority = GLN_PRIORITY_SCORE,
    .weight = GLN_WEIGHT_P,
    .attached = -1,
    .size = size,
    .state_bytes = state_bytes,
    .select = select_slots,
};
