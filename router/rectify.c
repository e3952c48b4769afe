/* Intra-device rectification: a token that is short of routes goes to the best expert h among those
 * that count as local, which needs no communication and no slot.
 *
 * First every token of a block picks its h alone (O(K + local experts) for a short token, O(K) for
 * others); then the rows wanted are bucketed by expert in token order; with ir_capacity an expert
 * that is wanted by more turns away the tokens of smallest p_h. A token whose h already serves it
 * wants no row, so the limit does not touch it. */
#include "router/router_internal.h"

static int serves(const gln_plan_t *plan, int64_t t, int expert)
{
    for (int32_t i = plan->token_offset[t]; i < plan->token_offset[t + 1]; i++)
        if (plan->token_expert[i] == expert && plan->token_route[i] >= 0) return 1;
    return 0;
}

static void mark_serving(const gln_plan_t *plan, int64_t t, unsigned char value,
                         unsigned char *serving)
{
    for (int32_t i = plan->token_offset[t]; i < plan->token_offset[t + 1]; i++)
        if (plan->token_route[i] >= 0) serving[plan->token_expert[i]] = value;
}

/* argmax of p over the local experts (those not serving, with ir_exclude); -1 if there is none. */
static int best_local(const gln_route_call_t *call, int64_t t, unsigned char *serving)
{
    const gln_router_t *router = call->router;
    const gln_plan_t *plan = call->plan;
    int exclude = router->options.ir_exclude;
    int64_t row = t * router->shape.experts;
    int best = -1;
    uint64_t best_key = 0;
    if (exclude) mark_serving(plan, t, 1, serving);
    for (int i = 0; i < call->count_scope; i++) {
        int e = gln_route_expert_at(call, call->first_scope + i);
        uint64_t key = gln_key(plan->scores, row + e, router->shape.acc);
        int better = best < 0 || key > best_key || (key == best_key && e < best);
        if (better && !(exclude && serving[e])) {
            best = e;
            best_key = key;
        }
    }
    if (exclude) mark_serving(plan, t, 0, serving);
    return best;
}

/* How many routes a token lacks that is short of them; 0 if it is not short. */
static int lacks(const gln_route_call_t *call, int64_t t)
{
    const gln_router_options_t *o = &call->router->options;
    const gln_plan_t *plan = call->plan;
    int served = 0;
    for (int32_t i = plan->token_offset[t]; i < plan->token_offset[t + 1]; i++)
        served += plan->token_route[i] >= 0;
    if (o->ir_tokens == GLN_IR_TOKENS_NONE_LEFT ? served > 0 : served >= o->k) return 0;
    return o->k - served + (o->ir_scale == GLN_IR_SCALE_K_GATE && call->fill);
}

static void pick_block(void *ctx, int block, int worker)
{
    gln_route_call_t *call = ctx;
    gln_router_t *router = call->router;
    gln_plan_t *plan = call->plan;
    int experts = router->shape.experts;
    unsigned char *serving = router->worker_in + (int64_t)worker * experts;
    int32_t *count = router->topk.place + (int64_t)block * experts;
    memset(count, 0, (size_t)experts * sizeof *count);
    int64_t first, end;
    gln_block_range(router, block, &first, &end);
    for (int64_t t = first; t < end; t++) {
        int multiplicity = lacks(call, t);
        if (multiplicity == 0) continue;
        int h = best_local(call, t, serving);
        if (h < 0) continue;
        plan->token_h[t] = h;
        plan->token_m[t] = multiplicity;
        if (!serves(plan, t, h)) {
            plan->token_rect[t] = 0; /* a row is wanted; its index follows */
            count[h]++;
        }
    }
}

static void place_rows_block(void *ctx, int block, int worker)
{
    (void)worker;
    gln_route_call_t *call = ctx;
    gln_router_t *router = call->router;
    const gln_plan_t *plan = call->plan;
    int experts = router->shape.experts;
    int32_t *place = router->topk.place + (int64_t)block * experts;
    int64_t first, end;
    gln_block_range(router, block, &first, &end);
    for (int64_t t = first; t < end; t++) {
        int h = plan->token_h[t];
        if (plan->token_rect[t] < 0) continue;
        uint64_t key = gln_key(plan->scores, t * experts + h, router->shape.acc);
        router->topk.items[place[h]++] = gln_item(0, key, (int32_t)t);
    }
}

/* Keep the `kept` items of largest key, in token order; the other tokens are turned away. */
static void turn_away(gln_plan_t *plan, gln_item_t *items, gln_item_t *spare, int32_t wanted,
                      int32_t kept)
{
    gln_items_sort_first(items, spare, wanted, kept);
    for (int32_t i = kept; i < wanted; i++) {
        int32_t token = gln_item_token(items[i]);
        plan->token_h[token] = -1;
        plan->token_m[token] = 0;
        plan->token_rect[token] = -1;
    }
    for (int32_t i = 0; i < kept; i++)
        items[i] = gln_item(0, 0, gln_item_token(items[i]));
    gln_items_sort(items, spare, kept);
}

static void rows_expert(void *ctx, int task, int worker)
{
    (void)worker;
    gln_route_call_t *call = ctx;
    gln_router_t *router = call->router;
    gln_plan_t *plan = call->plan;
    int expert = gln_route_expert_at(call, call->first_scope + task);
    int32_t bucket = router->topk.offset[expert];
    int32_t wanted = router->topk.offset[expert + 1] - bucket;
    int32_t first = plan->rect_offset[expert];
    int32_t kept = plan->rect_offset[expert + 1] - first;
    gln_item_t *items = router->topk.items + bucket;
    if (kept < wanted) turn_away(plan, items, router->topk.spare + bucket, wanted, kept);
    for (int32_t i = 0; i < kept; i++) {
        int32_t token = gln_item_token(items[i]);
        plan->rect_token[first + i] = token;
        plan->token_rect[token] = first + i;
    }
}

void gln_route_rectify(gln_route_call_t *call)
{
    gln_router_t *router = call->router;
    gln_plan_t *plan = call->plan;
    int experts = router->shape.experts;
    int64_t limit = router->options.ir_capacity;
    plan->rect_count = 0;
    memset(plan->rect_offset, 0, (size_t)(experts + 1) * sizeof *plan->rect_offset);
    if (!call->rectify) return;
    gln_pool_run(router->pool, router->blocks_count, pick_block, call);
    gln_buckets_place(&router->topk, router->blocks_count, experts);
    for (int e = 0; e < experts; e++) {
        int32_t wanted = router->topk.offset[e + 1] - router->topk.offset[e];
        int32_t kept = limit > 0 && wanted > limit ? (int32_t)limit : wanted;
        plan->rect_offset[e + 1] = plan->rect_offset[e] + kept;
    }
    plan->rect_count = plan->rect_offset[experts];
    if (router->topk.offset[experts] == 0) return;
    gln_pool_run(router->pool, router->blocks_count, place_rows_block, call);
    gln_pool_run(router->pool, call->count_scope, rows_expert, call);
}
