/* switch: one expert per token, weight p, tokens served in order ("Switch Transformers", arXiv
 * 2101.03961). */
#include "router/policy_internal.h"

const gln_policy_ops_t gln_policy_switch = {
    .takes = GLN_TAKES_PRIORITY | GLN_TAKES_RECTIFIER,
    .weights = GLN_WEIGHTS_ALL,
    .k = 1,
    .k_fixed = 1,
    .capacity_factor = 1.0,
    .priority = GLN_PRIORITY_POSITION,
    .weight = GLN_WEIGHT_P,
    .attached = -1,
    .size = gln_ranked_size,
    .state_bytes = gln_policy_no_state,
    .rank = gln_rank_by_score,
    .keep = gln_ranked_keep,
    .select = gln_ranked_select,
};
