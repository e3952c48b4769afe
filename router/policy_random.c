/* random: top-k where chance decides who is served, so that the end of a sequence is not dropped
 * more often than its beginning ("Random token selection" of DeepSpeed-MoE, arXiv 2201.05596, and
 * of its training recipe, arXiv 2109.10465). */
#include "router/policy_internal.h"

const gln_policy_ops_t gln_policy_random = {
    .takes = GLN_TAKES_RECTIFIER,
    .weights = GLN_WEIGHTS_ALL,
    .k = 1,
    .capacity_factor = 1.0,
    .priority = GLN_PRIORITY_RANDOM,
    .weight = GLN_WEIGHT_NORMALIZED,
    .attached = -1,
    .size = gln_ranked_size,
    .state_bytes = gln_policy_no_state,
    .rank = gln_rank_by_score,
    .keep = gln_ranked_keep,
    .select = gln_ranked_select,
};
