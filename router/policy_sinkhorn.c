/* sinkhorn: top-k of the scores after Sinkhorn-Knopp has made all experts equally wanted. The
 * balanced assignment of BASE layers (arXiv 2103.16188) relaxed as in S-BASE ("Unified scaling laws
 * for routed language models", arXiv 2202.01169); the iteration and the weights (sigmoid of the
 * logit for k = 1, softmax for more, without a divisor) are those of the router of Megatron-LM.
 *
 *   c = softmax of the logits (a factor per token is absorbed by u), v = 1
 *   u_t = (1/T) / (sum_e v_e c_te + 1e-8);  v'_e = (1/E) / (sum_t u_t c_te + 1e-8)
 *   until mean |v' - v| <= tolerance, or `sinkhorn_iterations` times; ranked by v_e c_te.
 *
 * In double whatever the type; sums ascend over experts, over the tokens of a block, over blocks.
 * O(T E) per iteration, O(blocks E) memory. No gradient goes through the iteration. */
#include "router/policy_internal.h"
#include <math.h>

#define EPSILON 1e-8

/* router->state: v [E], then sums over tokens [blocks, E] */
static double *factors(const gln_router_t *router)
{
    return router->state;
}
static double *block_sums(const gln_router_t *router, int block)
{
    return factors(router) + (int64_t)(block + 1) * router->shape.experts;
}

static size_t state_bytes(const gln_router_t *router)
{
    return ((size_t)router->blocks_count + 1) * (size_t)router->shape.experts * sizeof(double);
}

static gln_status_t size(gln_router_t *router)
{
    router->sigmoid = router->options.k == 1;
    return gln_ranked_size(router);
}

static void sum_block(void *ctx, int block, int worker)
{
    (void)worker;
    const gln_route_call_t *call = ctx;
    const gln_router_t *router = call->router;
    gln_dtype_t acc = router->shape.acc;
    int experts = router->shape.experts;
    const double *v = factors(router);
    double *sums = block_sums(router, block);
    double share = 1.0 / (double)router->shape.tokens;
    int64_t first, end;
    gln_block_range(router, block, &first, &end);
    for (int e = 0; e < experts; e++)
        sums[e] = 0;
    for (int64_t t = first; t < end; t++) {
        const double *wide = gln_at(call->plan->softmax, t * experts, acc);
        const float *narrow = gln_at(call->plan->softmax, t * experts, acc);
        double sum = 0;
        for (int e = 0; e < experts; e++)
            sum += v[e] * (acc == GLN_F64 ? wide[e] : (double)narrow[e]);
        double u = share / (sum + EPSILON);
        for (int e = 0; e < experts; e++)
            sums[e] += u * (acc == GLN_F64 ? wide[e] : (double)narrow[e]);
    }
}

static void prepare(gln_route_call_t *call)
{
    const gln_router_t *router = call->router;
    int experts = router->shape.experts;
    double *v = factors(router), share = 1.0 / experts;
    for (int e = 0; e < experts; e++)
        v[e] = 1;
    if (router->shape.tokens == 0) return;
    for (int i = 0; i < router->options.sinkhorn_iterations; i++) {
        gln_pool_run(router->pool, router->blocks_count, sum_block, call);
        double change = 0;
        for (int e = 0; e < experts; e++) {
            double sum = 0;
            for (int block = 0; block < router->blocks_count; block++)
                sum += block_sums(router, block)[e];
            double next = share / (sum + EPSILON);
            change += fabs(next - v[e]);
            v[e] = next;
        }
        if (change / experts <= router->options.sinkhorn_tolerance) return;
    }
}

static void rank(gln_route_call_t *call, int64_t first, int rows, int worker, int32_t *best)
{
    const gln_router_t *router = call->router;
    int experts = router->shape.experts;
    const double *v = factors(router);
    uint64_t *keys = (uint64_t *)router->worker_bits + (int64_t)worker * experts;
    for (int i = 0; i < rows; i++, best += router->best_count) {
        for (int e = 0; e < experts; e++)
            keys[e] = gln_key_f64(v[e] * gln_score(call->plan->softmax, (first + i) * experts + e,
                                                   router->shape.acc));
        gln_rank_by_keys(router, keys, worker, best);
    }
}

const gln_policy_ops_t gln_policy_sinkhorn = {
    .takes = GLN_TAKES_PRIORITY | GLN_TAKES_RECTIFIER | GLN_TAKES_SINKHORN,
    .weights = GLN_WEIGHTS_OF_SERVED,
    .k = 1,
    .capacity_factor = 1.0,
    .priority = GLN_PRIORITY_SCORE,
    .weight = GLN_WEIGHT_P,
    .attached = -1,
    .size = size,
    .state_bytes = state_bytes,
    .prepare = prepare,
    .rank = rank,
    .keep = gln_ranked_keep,
    .select = gln_ranked_select,
};
