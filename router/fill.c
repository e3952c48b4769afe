/* Fill-in rectification: slots that the top-k choices left free go to the tokens that want that
 * expert next. A token's only candidate is its fill_rank-th expert (score.c keeps it as choice K);
 * per expert the candidates with the largest key take what is free. Nothing else in the plan
 * changes. O(n log n) per expert with n candidates and a free slot, nothing for experts that are
 * full. */
#include "router/router_internal.h"

uint64_t gln_fill_key_of(const gln_route_call_t *call, int64_t token)
{
    const gln_router_t *router = call->router;
    const int32_t *expert = call->plan->token_expert + token * (router->options.k + 1);
    int choice = router->options.fill_key == GLN_FILL_KEY_MAX ? 0 : router->options.k;
    return gln_key(call->plan->scores, token * router->shape.experts + expert[choice],
                   router->shape.acc);
}

void gln_fill_expert(gln_route_call_t *call, int expert, int32_t first, int32_t count)
{
    gln_router_t *router = call->router;
    gln_plan_t *plan = call->plan;
    int k = router->options.k;
    int32_t bucket = router->fill.offset[expert];
    gln_item_t *items = router->fill.items + bucket;
    gln_items_sort_first(items, router->fill.spare + bucket,
                         router->fill.offset[expert + 1] - bucket, count);
    for (int32_t i = 0; i < count; i++) {
        int32_t token = gln_item_token(items[i]);
        plan->route_token[first + i] = token;
        plan->route_kind[first + i] = GLN_ROUTE_FILLED;
        plan->route_choice[first + i] = (uint16_t)k;
        plan->token_route[(int64_t)token * (k + 1) + k] = first + i;
    }
}
