/* Weights of all routes, and each block's share of the ledger. O(T K), one task per block.
 *
 * normalized   w = p / S with S the sum of what serves the token (m p_h included)
 * p            w = p, m p_h for the rectified part
 * topk_softmax w = p / S, m p_h / S, with S the sum over the token's k choices, served or not
 * A normalized token whose S is 0, because every p of its routes underflowed, gets equal shares
 * 1 / (|R| + m), m of them to h; token_scale is 0 there. All of it times route_scale. */
#include "router/router_internal.h"

#define REAL float
#define NAME(stem) stem##_f32
#include "router/weights.inc"

#define REAL double
#define NAME(stem) stem##_f64
#include "router/weights.inc"

static void count_token(const gln_plan_t *plan, int64_t t, int topk, int filled,
                        gln_ledger_t *ledger)
{
    int lost = plan->k - topk;
    int rescued = lost < filled ? lost : filled;
    int rectified = plan->token_h[t] >= 0;
    ledger->routed += topk;
    ledger->overflow += lost;
    ledger->filled += filled;
    ledger->rescued += rescued;
    ledger->rectified += rectified ? lost - rescued : 0;
    ledger->dropped += rectified ? 0 : lost - rescued;
    ledger->rect_tokens += rectified;
    ledger->unserved += topk + filled + rectified == 0;
}

static void weigh_block(void *ctx, int block, int worker)
{
    (void)worker;
    gln_route_call_t *call = ctx;
    const gln_router_t *router = call->router;
    gln_plan_t *plan = call->plan;
    gln_ledger_t ledger = {0};
    int64_t first, end;
    gln_block_range(router, block, &first, &end);
    for (int64_t t = first; t < end; t++) {
        const int32_t *route = plan->token_route + plan->token_offset[t];
        int count = plan->token_offset[t + 1] - plan->token_offset[t], topk = 0, filled = 0;
        for (int c = 0; c < count; c++)
            *(c < plan->k ? &topk : &filled) += route[c] >= 0;
        count_token(plan, t, topk, filled, &ledger);
        if (router->shape.acc == GLN_F64)
            weigh_token_f64(&router->options, plan, t, topk + filled);
        else
            weigh_token_f32(&router->options, plan, t, topk + filled);
    }
    router->ledgers[block] = ledger;
}

void gln_route_weights(gln_route_call_t *call)
{
    gln_router_t *router = call->router;
    gln_plan_t *plan = call->plan;
    gln_pool_run(router->pool, router->blocks_count, weigh_block, call);
    gln_ledger_t sum = {0};
    for (int block = 0; block < router->blocks_count; block++)
        gln_ledger_add(&sum, &router->ledgers[block]);
    sum.tokens = plan->tokens;
    sum.choices = plan->tokens * plan->k;
    sum.slots = plan->experts * plan->capacity;
    sum.padded = sum.slots - sum.routed - sum.filled;
    sum.rect_rows = plan->rect_count;
    plan->ledger = sum;
}
