/* mixtral: the k experts of largest p, weighted by the softmax over their logits alone, which is p
 * over the sum of their p, with its whole gradient; nothing is dropped ("Mixtral of Experts", arXiv
 * 2401.04088). */
#include "router/policy_internal.h"
#include <math.h>

const gln_policy_ops_t gln_policy_mixtral = {
    .takes = GLN_TAKES_PRIORITY | GLN_TAKES_RECTIFIER,
    .weights = GLN_WEIGHTS_ALL,
    .k = 2,
    .capacity_factor = INFINITY,
    .priority = GLN_PRIORITY_SCORE,
    .weight = GLN_WEIGHT_TOPK_SOFTMAX,
    .attached = 1,
    .size = gln_ranked_size,
    .state_bytes = gln_policy_no_state,
    .rank = gln_rank_by_score,
    .keep = gln_ranked_keep,
    .select = gln_ranked_select,
};
