/* topk: the k experts of largest p, with FR and IR as "Turn Waste into Worth", arXiv 2402.12399,
 * defines them. The other policies of this family change defaults or the ranking. */
#include "router/policy_internal.h"

const gln_policy_ops_t gln_policy_topk = {
    .takes = GLN_TAKES_PRIORITY | GLN_TAKES_RECTIFIER,
    .weights = GLN_WEIGHTS_ALL,
    .k = 1,
    .capacity_factor = 1.0,
    .priority = GLN_PRIORITY_SCORE,
    .weight = GLN_WEIGHT_NORMALIZED,
    .attached = -1,
    .size = gln_ranked_size,
    .state_bytes = gln_policy_no_state,
    .rank = gln_rank_by_score,
    .keep = gln_ranked_keep,
    .select = gln_ranked_select,
};
