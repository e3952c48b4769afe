/* Auxiliary losses of one domain, without their coefficients; both are 0 for no tokens.
 * balance: E * sum_e f_e P_e, f_e the share of choices before capacity, P_e the mean score ("Switch
 * Transformers", arXiv 2101.03961, with f over all choices). Sigmoid scores count by their share of
 * the token's sum, as in DeepSeek-V3 (arXiv 2412.19437, equations 17 to 20). f over the global
 * batch (arXiv 2501.11873) is handed in. z: mean of logsumexp^2 ("ST-MoE", arXiv 2202.08906). Sums
 * run block by block in double: O(blocks E) here. */
#include "base/log.h"
#include "router/router_internal.h"
#include <math.h>

static void weigh_balance(gln_plan_t *plan)
{
    plan->balance_loss = 0;
    for (int e = 0; e < plan->experts; e++)
        plan->balance_loss += plan->balance_fraction[e] * plan->score_mean[e];
    plan->balance_loss *= plan->experts;
}

gln_status_t gln_plan_balance(gln_plan_t *plan, const double *fraction)
{
    if (!plan || !fraction)
        return gln_fail(GLN_ERR_ARGUMENT, "plan balance got NULL for %s",
                        plan ? "fraction" : "plan");
    for (int e = 0; e < plan->experts; e++)
        if (!(fraction[e] >= 0) || !isfinite(fraction[e]))
            return gln_fail(GLN_ERR_ARGUMENT,
                            "balance fraction of expert %d is %g, allowed is 0 or a finite number",
                            e, fraction[e]);
    memcpy(plan->balance_fraction, fraction, (size_t)plan->experts * sizeof *fraction);
    weigh_balance(plan);
    return GLN_OK;
}

void gln_route_losses(gln_route_call_t *call)
{
    const gln_router_t *router = call->router;
    gln_plan_t *plan = call->plan;
    int experts = plan->experts;
    double tokens = (double)plan->tokens, choices = 0;
    for (int e = 0; e < experts; e++)
        choices += (double)plan->choice_count[e];
    for (int e = 0; e < experts; e++) {
        double score = 0;
        for (int block = 0; block < router->blocks_count; block++)
            score += router->score_sum[(int64_t)block * experts + e];
        plan->score_mean[e] = plan->tokens > 0 ? score / tokens : 0;
        plan->balance_fraction[e] = choices > 0 ? (double)plan->choice_count[e] / choices : 0;
    }
    weigh_balance(plan);
    plan->z_loss = 0;
    for (int block = 0; block < router->blocks_count; block++)
        plan->z_loss += router->square_sum[block];
    if (plan->tokens > 0) plan->z_loss /= tokens;
}

void gln_balance_gradient(gln_router_t *router, const gln_plan_t *plan, double coefficient)
{
    for (int e = 0; e < plan->experts; e++)
        gln_store(router->balance_gradient, e, router->shape.acc,
                  coefficient * plan->experts * plan->balance_fraction[e] / (double)plan->tokens);
}
