/* gshard: top-2 where the second choice is made with probability min(1, 2 p_2), tokens served in
 * order, weights over the two choices ("GShard", arXiv 2006.16668, algorithm 1). p is the softmax
 * over all experts, as everywhere here. One draw per token, from a stream that priorities do not
 * use. A choice that the draw decided against asks for no slot and counts as overflow. O(T) beside
 * top-k. */
#include "base/rng.h"
#include "router/policy_internal.h"

static void keep(gln_route_call_t *call, int64_t t, const int32_t *best, gln_rank_counts_t counts)
{
    gln_plan_t *plan = call->plan;
    gln_ranked_keep(call, t, best, counts);
    int64_t second = plan->token_offset[t] + 1;
    int expert = plan->token_expert[second];
    double p = gln_score(plan->scores, t * plan->experts + expert, call->router->shape.acc);
    double draw = gln_rng_uniform(call->input->seed, call->stream,
                                  UINT64_C(1) << 63 | gln_draw_index(call, t));
    if (draw < 2 * p) return;
    plan->token_route[second] = GLN_ROUTE_DECLINED;
    counts.topk[expert]--;
}

static void select_slots(gln_route_call_t *call)
{
    gln_plan_t *plan = call->plan;
    gln_ranked_select(call);
    for (int64_t t = 0; t < plan->tokens; t++) {
        int64_t second = plan->token_offset[t] + 1;
        if (plan->token_route[second] == GLN_ROUTE_DECLINED)
            plan->choice_count[plan->token_expert[second]]++;
    }
}

const gln_policy_ops_t gln_policy_gshard = {
    .takes = GLN_TAKES_PRIORITY | GLN_TAKES_RECTIFIER,
    .weights = GLN_WEIGHTS_ALL,
    .k = 2,
    .k_fixed = 1,
    .capacity_factor = 1.0,
    .priority = GLN_PRIORITY_POSITION,
    .weight = GLN_WEIGHT_TOPK_SOFTMAX,
    .attached = 1,
    .size = gln_ranked_size,
    .state_bytes = gln_policy_no_state,
    .rank = gln_rank_by_score,
    .keep = keep,
    .select = select_slots,
};
