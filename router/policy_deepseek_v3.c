/* deepseek_v3: scores are sigmoids, a bias that follows the load joins them for the selection
 * alone, and a token may use the experts of its `group_topk` best groups only ("DeepSeek-V3", arXiv
 * 2412.19437, section 2.1.2; the bias: "Auxiliary-loss-free load balancing", arXiv 2408.15664).
 *
 * A group's score is the sum of its two largest score + bias (one, where it has one expert), as in
 * the released model (the paper's K / group_topk is 2 there); equal groups: the lower one. Weights
 * are the unbiased scores over their sum over the routes served, which are the k choices as nothing
 * is dropped by default, times `route_scale`, with their whole gradient. O(T E) beside the ranking;
 * sums score + bias are rounded to acc. */
#include "base/log.h"
#include "router/policy_internal.h"
#include <math.h>

/* router->state: [threads, 2 E] biased scores of a token, scores of its groups */
static size_t state_bytes(const gln_router_t *router)
{
    return (size_t)gln_pool_threads(router->pool) * 2 * (size_t)router->shape.experts *
           sizeof(double);
}

static gln_status_t size(gln_router_t *router)
{
    const gln_router_options_t *o = &router->options;
    int allowed = router->shape.experts / o->group_count * o->group_topk;
    if (o->k > allowed)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "router option k is %d, but the %d of %d groups that a token may use hold "
                        "%d experts; use more groups or a smaller k",
                        o->k, o->group_topk, o->group_count, allowed);
    router->sigmoid = 1;
    return gln_ranked_size(router);
}

static double rounded(const gln_router_t *router, double value)
{
    return router->shape.acc == GLN_F64 ? value : (double)(float)value;
}

static double group_score(const gln_router_t *router, const double *biased, int count)
{
    double best = -INFINITY, next = -INFINITY;
    for (int i = 0; i < count; i++) {
        if (biased[i] > best) {
            next = best;
            best = biased[i];
        } else if (biased[i] > next) {
            next = biased[i];
        }
    }
    return count == 1 ? best : rounded(router, best + next);
}

/* Forbid all experts outside the best groups. */
static void limit_groups(const gln_router_t *router, const double *biased, double *group,
                         uint64_t *keys)
{
    const gln_router_options_t *o = &router->options;
    int size_of = router->shape.experts / o->group_count;
    for (int g = 0; g < o->group_count; g++)
        group[g] = group_score(router, biased + g * size_of, size_of);
    for (int chosen = 0; chosen < o->group_topk; chosen++) {
        int best = -1;
        for (int g = 0; g < o->group_count; g++)
            if (!isnan(group[g]) && (best < 0 || group[g] > group[best])) best = g;
        group[best] = NAN; /* taken */
    }
    for (int e = 0; e < router->shape.experts; e++)
        if (!isnan(group[e / size_of])) keys[e] = 0;
}

static void rank(gln_route_call_t *call, int64_t first, int rows, int worker, int32_t *best)
{
    const gln_router_t *router = call->router;
    int experts = router->shape.experts;
    double *biased = (double *)router->state + (int64_t)worker * 2 * experts;
    uint64_t *keys = (uint64_t *)router->worker_bits + (int64_t)worker * experts;
    for (int i = 0; i < rows; i++, best += router->best_count) {
        for (int e = 0; e < experts; e++) {
            double score =
                gln_score(call->plan->scores, (first + i) * experts + e, router->shape.acc);
            biased[e] = rounded(router, score + (double)router->bias[e]);
            keys[e] = gln_key_f64(biased[e]);
        }
        if (router->options.group_topk < router->options.group_count)
            limit_groups(router, biased, biased + experts, keys);
        gln_rank_by_keys(router, keys, worker, best);
    }
}

const gln_policy_ops_t gln_policy_deepseek_v3 = {
    .takes = GLN_TAKES_PRIORITY | GLN_TAKES_RECTIFIER | GLN_TAKES_GROUPS | GLN_TAKES_BIAS,
    .weights = GLN_WEIGHTS_OF_SERVED,
    .k = 8,
    .capacity_factor = INFINITY,
    .priority = GLN_PRIORITY_SCORE,
    .weight = GLN_WEIGHT_NORMALIZED,
    .attached = 1,
    .size = size,
    .state_bytes = state_bytes,
    .rank = rank,
    .keep = gln_ranked_keep,
    .select = gln_ranked_select,
};
