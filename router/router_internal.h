/* What the files of router/ share. Not for other folders. */
#ifndef GLN_ROUTER_INTERNAL_H
#define GLN_ROUTER_INTERNAL_H

#include "router/router.h"
#include <string.h>

/* A candidate for a place with one expert: ascending order is serving order.
 * From the top: rank of the choice (8 bits), complement of the key (64), token (32). Tokens differ,
 * so no two items are equal and every sort gives the same result. */
typedef unsigned __int128 gln_item_t;

static inline gln_item_t gln_item(int rank, uint64_t key, int32_t token)
{
    return ((gln_item_t)(unsigned)rank << 96) | ((gln_item_t)~key << 32) | (uint32_t)token;
}
static inline int32_t gln_item_token(gln_item_t item)
{
    return (int32_t)(uint32_t)item;
}
static inline int gln_item_rank(gln_item_t item)
{
    return (int)(item >> 96);
}

/* Order-preserving integer of a score: scores are >= +0, where IEEE bits ascend with the value.
 * This is what makes selection one code for both types. */
static inline uint64_t gln_key(const void *scores, int64_t index, gln_dtype_t acc)
{
    if (acc == GLN_F64) {
        uint64_t bits;
        memcpy(&bits, (const double *)scores + index, sizeof bits);
        return bits;
    }
    uint32_t bits;
    memcpy(&bits, (const float *)scores + index, sizeof bits);
    return bits;
}

/* The same for any finite double, 0 for none. Floats keep their order when widened. */
static inline uint64_t gln_key_f64(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits >> 63 ? ~bits : bits | UINT64_C(1) << 63;
}

/* One score, widened. */
static inline double gln_score(const void *scores, int64_t index, gln_dtype_t acc)
{
    return acc == GLN_F64 ? ((const double *)scores)[index]
                          : (double)((const float *)scores)[index];
}

/* Items sorted into one bucket per expert: counted per (block of tokens, expert), prefix-summed
 * into places, put there block by block. Within a bucket items lie in token order until sorted. */
typedef struct gln_buckets {
    int32_t *place;  /* [blocks, E] counts, then the next free place of each block */
    int32_t *offset; /* [E+1] */
    gln_item_t *items, *spare;
} gln_buckets_t;

typedef struct gln_policy_ops gln_policy_ops_t; /* router/policy_internal.h */

/* Tokens that score.c takes through its steps at once, so that their scores stay in the cache. */
#define GLN_CHUNK_TOKENS 32
/* Up to so many best experts are found by repeated maximum, more by sorting. */
#define GLN_BEST_SCAN_MAX 16

struct gln_router {
    gln_router_options_t options; /* defaults filled in */
    gln_router_shape_t shape;
    const gln_policy_ops_t *ops;
    gln_pool_t *pool;
    int64_t capacity_max;
    int best_count;   /* how many best experts are found per token: k, or fill_rank; 0: none */
    int width;        /* entries of a token in the plan; 0: as many as it has routes */
    int wanted;       /* experts that a token competes for at once, at least 1 for rectified rows */
    int token_routes; /* slot routes of a token at most */
    int sigmoid;      /* p is the sigmoid of the logits, not their softmax */
    int64_t block_tokens; /* tokens per task: a function of T alone */
    int blocks_count;
    /* scratch */
    gln_buckets_t topk, fill;
    int64_t *bad_token;       /* [blocks] first token with a logit that is not finite; -1 none */
    int32_t *bad_expert;      /* [blocks] */
    double *score_sum;        /* [blocks, E] sum of p */
    double *square_sum;       /* [blocks] sum of lse^2 */
    gln_ledger_t *ledgers;    /* [blocks] */
    int64_t *worker_bits;     /* [threads, E] scores of a token as integers */
    int32_t *worker_best;     /* [threads, GLN_CHUNK_TOKENS, best_count] */
    gln_item_t *worker_items; /* [threads, 2 E] where many experts are ranked */
    unsigned char *worker_in; /* [threads, E] whether an expert serves the token at hand */
    void *balance_gradient;   /* [E] acc */
    float *bias;              /* [E] where the policy takes one */
    void *state;              /* the policy's own */
    gln_arena_t arena;
};

/* One call of gln_router_route, as its stages see it. */
typedef struct gln_route_call {
    gln_router_t *router;
    const gln_route_input_t *input;
    gln_plan_t *plan;
    int first_scope, count_scope; /* places of the experts that count as local */
    int fill, rectify;            /* whether FR and IR run in this call */
    uint64_t stream;              /* of the draws */
} gln_route_call_t;

/* The expert at a place (gln_route_input_t). */
static inline int gln_route_expert_at(const gln_route_call_t *call, int place)
{
    return call->input->expert_at ? call->input->expert_at[place] : place;
}

/* Tokens [*first, *end) of block `block`. */
static inline void gln_block_range(const gln_router_t *router, int block, int64_t *first,
                                   int64_t *end)
{
    *first = block * router->block_tokens;
    *end = *first + router->block_tokens;
    if (*end > router->shape.tokens) *end = router->shape.tokens;
}

/* Number of token t in the stream of draws; below 2^63. */
static inline uint64_t gln_draw_index(const gln_route_call_t *call, int64_t t)
{
    return (uint64_t)call->input->domain << 32 | (uint64_t)t;
}

/* options.c */
/** Check options and shape; options with defaults, shape, ops and the policy's sizes of the router.
 */
gln_status_t gln_router_set_options(gln_router_t *router, const gln_router_options_t *options,
                                    const gln_router_shape_t *shape);

/* bucket.c */
/** Turn counts into places; offset[E] is the number of items. */
void gln_buckets_place(gln_buckets_t *buckets, int blocks_count, int experts);
/** Sort items[0, count) ascending; spare has room for as many. O(n log n). */
void gln_items_sort(gln_item_t *items, gln_item_t *spare, int64_t count);
/** The same for the `kept` smallest alone, at the front; the others follow in any order. */
void gln_items_sort_first(gln_item_t *items, gln_item_t *spare, int64_t count, int64_t kept);

/* score.c */
/** Scores, logsumexp; ranking of experts where it needs no more than a token's own scores.
 *  @return GLN_OK; GLN_ERR_NUMERIC. */
gln_status_t gln_route_score(gln_route_call_t *call);

/* rank.c */
/** Rank experts for all tokens, after the policy has prepared itself. */
void gln_route_rank(gln_route_call_t *call);
/** Rank and keep for `rows` tokens of a block; its counters were zeroed by gln_rank_begin. */
void gln_rank_begin(gln_router_t *router, int block);
void gln_rank_rows(gln_route_call_t *call, int block, int64_t first, int rows, int worker);

/* fill.c */
uint64_t gln_fill_key_of(const gln_route_call_t *call, int64_t token);
/** Give the free slots of an expert: writes its fill-in routes from route index `first` on. */
void gln_fill_expert(gln_route_call_t *call, int expert, int32_t first, int32_t count);

/* rectify.c: token_h, token_m, rectified rows. */
void gln_route_rectify(gln_route_call_t *call);

/* weights.c: weights of all routes; ledger partials per block. */
void gln_route_weights(gln_route_call_t *call);

/* losses.c */
void gln_route_losses(gln_route_call_t *call);
/** [E] acc of router->balance_gradient: dL/dp of the balance loss times coefficient. */
void gln_balance_gradient(gln_router_t *router, const gln_plan_t *plan, double coefficient);

/* plan.c */
gln_status_t gln_plan_check(const gln_router_t *router, const gln_plan_t *plan);

#endif
