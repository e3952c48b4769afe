/* Selection under capacity with strict priority.
 *
 * An expert's candidates sorted by (rank of the choice, key descending, token) are in the order in
 * which strict priority over all tokens would serve them: choices of one expert never wait for
 * another expert, so serving all first choices before all second ones is the same as sorting each
 * expert's own by rank first. The first C of them get the slots, in that order. How many that will
 * be is known from counts alone, so offsets exist before anything is sorted and every expert is a
 * task of its own. Fill-in candidates are placed only with experts that have slots left (fill.c).
 *
 * O(T K) to place, O(n log n) per expert of n candidates to sort; O(T K) memory. */
#include "base/rng.h"
#include "router/policy_internal.h"

/* Key among candidates of one rank; larger is served first, equal keys by token. */
static uint64_t priority_key(const gln_route_call_t *call, int64_t t, int choice, uint64_t draw)
{
    const gln_router_t *router = call->router;
    const gln_plan_t *plan = call->plan;
    const int32_t *expert = plan->token_expert + t * (router->options.k + 1);
    int64_t row = t * router->shape.experts;
    switch (router->options.priority) {
    case GLN_PRIORITY_SCORE:
        return gln_key(plan->scores, row + expert[choice], router->shape.acc);
    case GLN_PRIORITY_MAX:
        return gln_key(plan->scores, row + expert[0], router->shape.acc);
    case GLN_PRIORITY_RANDOM:
        return draw;
    case GLN_PRIORITY_POSITION:
    default:
        return 0;
    }
}

/* Whether fill-in candidates of an expert get anything. */
static int has_free_slots(const gln_router_t *router, const gln_plan_t *plan, int expert)
{
    return plan->expert_offset[expert + 1] - plan->expert_offset[expert] >
           router->topk.offset[expert + 1] - router->topk.offset[expert];
}

static void place_block(void *ctx, int block, int worker)
{
    (void)worker;
    gln_route_call_t *call = ctx;
    gln_router_t *router = call->router;
    const gln_plan_t *plan = call->plan;
    int experts = router->shape.experts, k = router->options.k;
    int32_t *topk_place = router->topk.place + (int64_t)block * experts;
    int32_t *fill_place = router->fill.place + (int64_t)block * experts;
    int random = router->options.priority == GLN_PRIORITY_RANDOM;
    int64_t first, end;
    gln_block_range(router, block, &first, &end);
    for (int64_t t = first; t < end; t++) {
        const int32_t *expert = plan->token_expert + t * (k + 1);
        const int32_t *route = plan->token_route + t * (k + 1);
        uint64_t draw = 0;
        if (random) draw = gln_rng_u64(call->input->seed, call->stream, gln_draw_index(call, t));
        for (int c = 0; c < k; c++) {
            if (route[c] == GLN_ROUTE_DECLINED) continue;
            router->topk.items[topk_place[expert[c]]++] =
                gln_item(c, priority_key(call, t, c, draw), (int32_t)t);
        }
        if (expert[k] >= 0 && has_free_slots(router, plan, expert[k]))
            router->fill.items[fill_place[expert[k]]++] =
                gln_item(k, gln_fill_key_of(call, t), (int32_t)t);
    }
}

static void serve_expert(void *ctx, int expert, int worker)
{
    (void)worker;
    gln_route_call_t *call = ctx;
    gln_router_t *router = call->router;
    gln_plan_t *plan = call->plan;
    int k = router->options.k;
    int32_t bucket = router->topk.offset[expert];
    int32_t candidates = router->topk.offset[expert + 1] - bucket;
    int32_t first = plan->expert_offset[expert];
    int32_t given = plan->expert_offset[expert + 1] - first;
    int32_t topk = candidates < given ? candidates : given;
    gln_item_t *items = router->topk.items + bucket;
    gln_items_sort_first(items, router->topk.spare + bucket, candidates, topk);
    for (int32_t i = 0; i < topk; i++) {
        int32_t token = gln_item_token(items[i]);
        int rank = gln_item_rank(items[i]);
        plan->route_token[first + i] = token;
        plan->route_kind[first + i] = GLN_ROUTE_TOPK;
        plan->route_choice[first + i] = (uint16_t)rank;
        plan->token_route[(int64_t)token * (k + 1) + rank] = first + i;
    }
    if (given > topk) gln_fill_expert(call, expert, first + topk, given - topk);
}

void gln_ranked_select(gln_route_call_t *call)
{
    gln_router_t *router = call->router;
    gln_plan_t *plan = call->plan;
    int experts = router->shape.experts;
    gln_buckets_place(&router->topk, router->blocks_count, experts);
    gln_buckets_place(&router->fill, router->blocks_count, experts);
    int64_t offset = 0;
    for (int e = 0; e < experts; e++) {
        int64_t choices = router->topk.offset[e + 1] - router->topk.offset[e];
        int64_t fills = router->fill.offset[e + 1] - router->fill.offset[e];
        int64_t routed = choices < plan->capacity ? choices : plan->capacity;
        int64_t free_slots = plan->capacity - routed;
        plan->choice_count[e] = choices;
        plan->expert_offset[e] = (int32_t)offset;
        offset += routed + (fills < free_slots ? fills : free_slots);
    }
    plan->expert_offset[experts] = (int32_t)offset;
    plan->routes_count = offset;
    gln_pool_run(router->pool, router->blocks_count, place_block, call);
    gln_pool_run(router->pool, experts, serve_expert, call);
}
