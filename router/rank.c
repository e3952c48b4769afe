/* The experts of each token by rank, what a token of the top-k family keeps of them, and how many
 * candidates each expert will see.
 *
 * By score: O(E) per rank for up to GLN_BEST_SCAN_MAX ranks, a sort of the E scores beyond. Ranks
 * go by the rounded scores, not by the logits: two logits whose scores round to one value are a
 * tie, and ties go to the lower expert. By keys: the same for policies with a ranking of their own.
 */
#include "base/clones.h"
#include "router/policy_internal.h"

#define REAL float
#define BITS int32_t
#define NAME(stem) stem##_f32
#include "router/rank.inc"

#define REAL double
#define BITS int64_t
#define NAME(stem) stem##_f64
#include "router/rank.inc"

gln_status_t gln_ranked_size(gln_router_t *router)
{
    const gln_router_options_t *o = &router->options;
    router->best_count = o->fill && o->fill_rank <= router->shape.experts ? o->fill_rank : o->k;
    router->width = o->k + 1;
    router->wanted = o->k;
    router->token_routes = o->k + (o->fill ? 1 : 0);
    return GLN_OK;
}

/* Sorts, and keeps the first; key 0 sorts last. */
static void best_by_sort(const gln_router_t *router, gln_item_t *items, int32_t *best)
{
    int experts = router->shape.experts;
    gln_items_sort(items, items + experts, experts);
    for (int c = 0; c < router->best_count; c++)
        best[c] = gln_item_token(items[c]);
}

static gln_item_t *worker_items(const gln_router_t *router, int worker)
{
    return router->worker_items + (int64_t)worker * 2 * router->shape.experts;
}

void gln_rank_by_score(gln_route_call_t *call, int64_t first, int rows, int worker, int32_t *best)
{
    const gln_router_t *router = call->router;
    gln_dtype_t acc = router->shape.acc;
    int experts = router->shape.experts, count = router->best_count;
    int64_t *bits = router->worker_bits + (int64_t)worker * experts;
    const void *scores = gln_at(call->plan->scores, first * experts, acc);
    if (count <= GLN_BEST_SCAN_MAX) {
        if (acc == GLN_F64)
            best_f64(scores, rows, experts, count, bits, best);
        else
            best_f32(scores, rows, experts, count, (int32_t *)bits, best);
        return;
    }
    gln_item_t *items = worker_items(router, worker);
    for (int i = 0; i < rows; i++, best += count) {
        for (int e = 0; e < experts; e++)
            items[e] = gln_item(0, gln_key(scores, (int64_t)i * experts + e, acc), e);
        best_by_sort(router, items, best);
    }
}

void gln_rank_by_keys(const gln_router_t *router, uint64_t *keys, int worker, int32_t *best)
{
    int experts = router->shape.experts, count = router->best_count, allowed = 0;
    for (int e = 0; e < experts; e++)
        allowed += keys[e] != 0;
    if (count > GLN_BEST_SCAN_MAX) {
        gln_item_t *items = worker_items(router, worker);
        for (int e = 0; e < experts; e++)
            items[e] = gln_item(0, keys[e], e);
        best_by_sort(router, items, best);
    } else {
        for (int c = 0; c < count; c++) {
            int first = 0;
            for (int e = 1; e < experts; e++)
                if (keys[e] > keys[first]) first = e;
            best[c] = first;
            keys[first] = 0;
        }
    }
    for (int c = allowed; c < count; c++)
        best[c] = -1;
}

void gln_ranked_keep(gln_route_call_t *call, int64_t t, const int32_t *best,
                     gln_rank_counts_t counts)
{
    const gln_router_t *router = call->router;
    int k = router->options.k;
    int32_t *expert = call->plan->token_expert + t * (k + 1);
    int32_t *route = call->plan->token_route + t * (k + 1);
    for (int c = 0; c < k; c++) {
        expert[c] = best[c];
        route[c] = GLN_ROUTE_NONE;
        counts.topk[best[c]]++;
    }
    route[k] = GLN_ROUTE_NONE;
    expert[k] = -1;
    if (call->fill && router->best_count > k) expert[k] = best[router->best_count - 1];
    if (expert[k] >= 0) counts.fill[expert[k]]++;
}

void gln_rank_begin(gln_router_t *router, int block)
{
    size_t experts = (size_t)router->shape.experts;
    memset(router->topk.place + (size_t)block * experts, 0, experts * sizeof(int32_t));
    memset(router->fill.place + (size_t)block * experts, 0, experts * sizeof(int32_t));
}

void gln_rank_rows(gln_route_call_t *call, int block, int64_t first, int rows, int worker)
{
    gln_router_t *router = call->router;
    int64_t experts = router->shape.experts, count = router->best_count;
    int32_t *best = router->worker_best + worker * GLN_CHUNK_TOKENS * count;
    gln_rank_counts_t counts = {router->topk.place + block * experts,
                                router->fill.place + block * experts};
    router->ops->rank(call, first, rows, worker, best);
    for (int i = 0; i < rows; i++)
        router->ops->keep(call, first + i, best + i * count, counts);
}

static void rank_block(void *ctx, int block, int worker)
{
    gln_route_call_t *call = ctx;
    int64_t first, end;
    gln_block_range(call->router, block, &first, &end);
    gln_rank_begin(call->router, block);
    for (int64_t t = first; t < end; t += GLN_CHUNK_TOKENS) {
        int rows = (int)(end - t < GLN_CHUNK_TOKENS ? end - t : GLN_CHUNK_TOKENS);
        gln_rank_rows(call, block, t, rows, worker);
    }
}

void gln_route_rank(gln_route_call_t *call)
{
    gln_pool_run(call->router->pool, call->router->blocks_count, rank_block, call);
}
