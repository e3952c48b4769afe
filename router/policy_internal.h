/* What a policy is: a row gln_policy_<name> of this table, in a file of its own, listed in
 * policies.h. Defaults and allowed options are data (options.c reads them); the rest are the stages
 * at which policies differ. Everything after selection (rectification, weights, losses, ledger,
 * backward) reads the plan alone and is the same for all. Not for other folders. */
#ifndef GLN_ROUTER_POLICY_INTERNAL_H
#define GLN_ROUTER_POLICY_INTERNAL_H

#include "router/router_internal.h"

/* Options that only some policies take; the others refuse them. */
enum {
    GLN_TAKES_PRIORITY = 1,
    GLN_TAKES_FILL = 2,
    GLN_TAKES_RECTIFY = 4,
    GLN_TAKES_GROUPS = 8, /* group_count, group_topk, route_scale */
    GLN_TAKES_SINKHORN = 16,
    GLN_TAKES_BIAS = 32
};
#define GLN_TAKES_RECTIFIER (GLN_TAKES_FILL | GLN_TAKES_RECTIFY)

#define GLN_WEIGHT_BIT(form) (1u << (form))
/* Where choices need not be the largest p, their sum may be arbitrarily small beside the p of a
 * filled or rectified route: no topk_softmax there. */
#define GLN_WEIGHTS_OF_SERVED (GLN_WEIGHT_BIT(GLN_WEIGHT_P) | GLN_WEIGHT_BIT(GLN_WEIGHT_NORMALIZED))
#define GLN_WEIGHTS_ALL (GLN_WEIGHTS_OF_SERVED | GLN_WEIGHT_BIT(GLN_WEIGHT_TOPK_SOFTMAX))

/* Counters of one block of tokens: how many candidates each expert will see. */
typedef struct gln_rank_counts {
    int32_t *topk, *fill; /* [E] */
} gln_rank_counts_t;

struct gln_policy_ops {
    unsigned takes;   /* GLN_TAKES_... */
    unsigned weights; /* allowed forms, GLN_WEIGHT_BIT */
    /* defaults */
    int k, k_fixed; /* at most E of them; k_fixed: no other k is allowed */
    double capacity_factor;
    gln_priority_t priority;
    gln_route_weight_t weight;
    int attached; /* 1 or -1 */

    /** Sizes of the router, from its resolved options and shape: best_count, width, wanted,
     *  token_routes, sigmoid.
     *  @return GLN_OK; GLN_ERR_ARGUMENT for what the tables above cannot say. */
    gln_status_t (*size)(gln_router_t *router);
    /** Bytes of router->state, scratch or state of the policy's own, zeroed at open. */
    size_t (*state_bytes)(const gln_router_t *router);
    /** Look at the scores of all tokens before any is ranked. NULL: no need, ranks follow at once.
     */
    void (*prepare)(gln_route_call_t *call);
    /** The best_count best experts of rows tokens from first on, best first, into best[rows,
     * best_count]; -1 where a token may use no more. NULL: experts choose, tokens are not ranked.
     */
    void (*rank)(gln_route_call_t *call, int64_t first, int rows, int worker, int32_t *best);
    /** Write the entries of token t and count them for the buckets. NULL with rank. */
    void (*keep)(gln_route_call_t *call, int64_t t, const int32_t *best, gln_rank_counts_t counts);
    /** Everything about slots in the plan, and choice_count. */
    void (*select)(gln_route_call_t *call);
};

#define GLN_POLICY_DECLARATION(upper, name) extern const gln_policy_ops_t gln_policy_##name;
GLN_POLICIES(GLN_POLICY_DECLARATION)

/* policy.c */
const gln_policy_ops_t *gln_policy_ops(gln_policy_t policy); /* NULL: there is none */
size_t gln_policy_no_state(const gln_router_t *router);

/* The family of top-k: tokens choose k experts by a ranking, strict priority under capacity, FR and
 * IR. */
/* rank.c */
gln_status_t gln_ranked_size(gln_router_t *router);
void gln_rank_by_score(gln_route_call_t *call, int64_t first, int rows, int worker, int32_t *best);
/** The best experts of one token by keys [E], larger first, equal ones by index; key 0: not
 * allowed. keys is used up. */
void gln_rank_by_keys(const gln_router_t *router, uint64_t *keys, int worker, int32_t *best);
void gln_ranked_keep(gln_route_call_t *call, int64_t t, const int32_t *best,
                     gln_rank_counts_t counts);
/* select.c */
void gln_ranked_select(gln_route_call_t *call);

#endif
