/* expanded_drop: a token's candidates are its k experts of largest p and all experts of its own
 * domain; every expert keeps the C candidates of largest p (equal p: lower token) and drops the
 * others
 * ("Capacity-Aware Inference: Mitigating the Straggler Effect in Mixture of Experts", arXiv
 * 2503.05066, Expanded Drop). No rank goes before another, so a local candidate may displace a
 * token's choice. IR would send tokens where they are candidates already, and FR is what the
 * expansion does.
 *
 * In the plan a token has K + L entries: its k choices, then the local experts that are not among
 * them, ascending, then nothing (-1). The latter count as filled. O(T (K + L)) candidates, sorted
 * per expert; the fill buckets' counters count choices alone. */
#include "router/policy_internal.h"

static gln_status_t size(gln_router_t *router)
{
    router->best_count = router->options.k;
    router->width = router->options.k + router->shape.per_domain;
    router->wanted = router->width;
    router->token_routes =
        router->width < router->shape.experts ? router->width : router->shape.experts;
    return GLN_OK;
}

static void keep(gln_route_call_t *call, int64_t t, const int32_t *best, gln_rank_counts_t counts)
{
    const gln_router_t *router = call->router;
    int k = router->options.k, local = call->input->first_local, n = k;
    int32_t *expert = call->plan->token_expert + t * router->width;
    int32_t *route = call->plan->token_route + t * router->width;
    for (int c = 0; c < k; c++) {
        expert[c] = best[c];
        counts.topk[best[c]]++;
        counts.fill[best[c]]++;
    }
    for (int i = local; i < local + router->shape.per_domain; i++) {
        int e = gln_route_expert_at(call, i), chosen = 0;
        for (int c = 0; c < k; c++)
            chosen |= expert[c] == e;
        if (chosen) continue;
        expert[n++] = e;
        counts.topk[e]++;
    }
    while (n < router->width)
        expert[n++] = -1;
    for (int c = 0; c < router->width; c++)
        route[c] = GLN_ROUTE_NONE;
}

static void place_block(void *ctx, int block, int worker)
{
    (void)worker;
    gln_route_call_t *call = ctx;
    gln_router_t *router = call->router;
    const gln_plan_t *plan = call->plan;
    int32_t *place = router->topk.place + (int64_t)block * plan->experts;
    int64_t first, end;
    gln_block_range(router, block, &first, &end);
    for (int64_t t = first; t < end; t++)
        for (int32_t i = plan->token_offset[t]; i < plan->token_offset[t + 1]; i++) {
            int e = plan->token_expert[i];
            if (e < 0) continue;
            uint64_t key = gln_key(plan->scores, t * plan->experts + e, router->shape.acc);
            router->topk.items[place[e]++] = gln_item(0, key, (int32_t)t);
        }
}

static void serve_expert(void *ctx, int expert, int worker)
{
    (void)worker;
    gln_route_call_t *call = ctx;
    gln_router_t *router = call->router;
    gln_plan_t *plan = call->plan;
    int32_t bucket = router->topk.offset[expert];
    gln_item_t *items = router->topk.items + bucket;
    gln_items_sort_first(items, router->topk.spare + bucket,
                         router->topk.offset[expert + 1] - bucket,
                         plan->expert_offset[expert + 1] - plan->expert_offset[expert]);
    for (int32_t r = plan->expert_offset[expert]; r < plan->expert_offset[expert + 1]; r++) {
        int32_t token = gln_item_token(*items++);
        int32_t entry = plan->token_offset[token], choice = 0;
        while (plan->token_expert[entry + choice] != expert)
            choice++;
        plan->route_token[r] = token;
        plan->route_kind[r] = choice < plan->k ? GLN_ROUTE_TOPK : GLN_ROUTE_FILLED;
        plan->route_choice[r] = (uint16_t)choice;
        plan->token_route[entry + choice] = r;
    }
}

static void select_slots(gln_route_call_t *call)
{
    gln_router_t *router = call->router;
    gln_plan_t *plan = call->plan;
    gln_buckets_place(&router->topk, router->blocks_count, plan->experts);
    int64_t offset = 0;
    for (int e = 0; e < plan->experts; e++) {
        int64_t candidates = router->topk.offset[e + 1] - router->topk.offset[e];
        plan->choice_count[e] = 0;
        for (int b = 0; b < router->blocks_count; b++)
            plan->choice_count[e] += router->fill.place[(int64_t)b * plan->experts + e];
        plan->expert_offset[e] = (int32_t)offset;
        offset += candidates < plan->capacity ? candidates : plan->capacity;
    }
    plan->expert_offset[plan->experts] = (int32_t)offset;
    plan->routes_count = offset;
    gln_pool_run(router->pool, router->blocks_count, place_block, call);
    gln_pool_run(router->pool, plan->experts, serve_expert, call);
}

const gln_policy_ops_t gln_policy_expanded_drop = {
    .takes = 0,
    .weights = GLN_WEIGHTS_ALL,
    .k = 1,
    .capacity_factor = 1.0,
    .priority = GLN_PRIORITY_SCORE,
    .weight = GLN_WEIGHT_NORMALIZED,
    .attached = -1,
    .size = size,
    .state_bytes = gln_policy_no_state,
    .rank = gln_rank_by_score,
    .keep = keep,
    .select = select_slots,
};
