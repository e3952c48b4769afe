/* Auxiliary losses of one domain, without their coefficients; both are 0 for no tokens.
 * balance: E * sum_e f_e P_e, f_e the share of choices before capacity, P_e the mean score ("Switch
 * Transformers", arXiv 2101.03961, with f over all k choices). z: mean of logsumexp^2 ("ST-MoE",
 * arXiv 2202.08906). Sums run block by block in double: O(blocks E) here. */
#include "router/router_internal.h"

void gln_route_losses(gln_route_call_t *call)
{
    const gln_router_t *router = call->router;
    gln_plan_t *plan = call->plan;
    int experts = plan->experts;
    double tokens = (double)plan->tokens;
    plan->balance_loss = 0;
    plan->z_loss = 0;
    if (plan->tokens == 0) return;
    for (int e = 0; e < experts; e++) {
        double score = 0;
        for (int block = 0; block < router->blocks_count; block++)
            score += router->score_sum[(int64_t)block * experts + e];
        plan->balance_loss += (double)plan->choice_count[e] / (tokens * plan->k) * (score / tokens);
    }
    plan->balance_loss *= experts;
    for (int block = 0; block < router->blocks_count; block++)
        plan->z_loss += router->square_sum[block];
    plan->z_loss /= tokens;
}
