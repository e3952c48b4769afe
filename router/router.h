/* Who gets which expert: the rectify-router over one domain, and the policies it is compared with.
 *
 * Definition: "Turn Waste into Worth: Rectifying Top-k Router of MoE", arXiv 2402.12399, with the
 * choices written down in router/README.md, where every other policy has its source too. A plan is
 * a pure function of (logits, options, seed where a policy draws, bias where it has one); it
 * depends on no rank, thread or backend. This folder knows no communication. */
#ifndef GLN_ROUTER_ROUTER_H
#define GLN_ROUTER_ROUTER_H

#include "base/arena.h"
#include "base/pool.h"
#include "base/tensor.h"
#include "router/ledger.h"
#include "router/policies.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- options: zero is the default everywhere, namely that of the policy ------------------- */
/* Makes GLN_POLICY_TOPK and the like of the table. */
#define GLN_POLICY_ENUMERATOR(upper, name) GLN_POLICY_##upper,
/* How experts are chosen; router/README.md tells each one's source. */
typedef enum gln_policy { GLN_POLICIES(GLN_POLICY_ENUMERATOR) GLN_POLICIES_COUNT } gln_policy_t;

/* who is served first among choices of one rank */
typedef enum gln_priority {
    GLN_PRIORITY_AUTO = 0, /* the policy's: score, where it does not say otherwise */
    GLN_PRIORITY_MAX,      /* the token's largest p */
    GLN_PRIORITY_POSITION, /* token order (Switch, GShard); causal */
    GLN_PRIORITY_RANDOM,   /* drawn per (seed, step, layer, domain, token) */
    GLN_PRIORITY_SCORE     /* p of this very choice, largest first */
} gln_priority_t;

/* By what candidates for a free slot are ranked: the candidate's p, or the token's largest p. */
typedef enum gln_fill_key { GLN_FILL_KEY_NEXT = 0, GLN_FILL_KEY_MAX } gln_fill_key_t;

/* Which tokens intra-device rectification serves. */
typedef enum gln_ir_tokens {
    GLN_IR_TOKENS_AUTO = 0,  /* none_left for k = 1, any_lost for k > 1 */
    GLN_IR_TOKENS_NONE_LEFT, /* those without any route */
    GLN_IR_TOKENS_ANY_LOST   /* those that lost one */
} gln_ir_tokens_t;

/* The multiplicity m of p_h: k less the routes served, or k + 1 less them where FR is on. */
typedef enum gln_ir_scale { GLN_IR_SCALE_K = 0, GLN_IR_SCALE_K_GATE } gln_ir_scale_t;

/* Weights of a token's routes. */
typedef enum gln_route_weight {
    GLN_WEIGHT_AUTO = 0,     /* the policy's: normalized, where it does not say otherwise */
    GLN_WEIGHT_P,            /* Switch: w = p; a rectified route counts m p_h */
    GLN_WEIGHT_TOPK_SOFTMAX, /* Mixtral: p over the sum over the k choices, served or not */
    GLN_WEIGHT_NORMALIZED    /* over the routes served */
} gln_route_weight_t;

/* What a router does. */
typedef struct gln_router_options {
    gln_policy_t policy;       /* how experts are chosen */
    int k;                     /* routes per token, 1 .. E */
    double capacity_factor;    /* infinity: dropless (C = T) */
    int min_capacity;          /* slots per (domain, expert) at least */
    gln_priority_t priority;   /* who is served first */
    int fill;                  /* FR on */
    gln_fill_key_t fill_key;   /* who gets a free slot */
    int fill_rank;             /* the candidate is the token's r-th expert, r >= k+1; 0: k+1 */
    int rectify;               /* IR on */
    gln_ir_tokens_t ir_tokens; /* which tokens */
    int ir_exclude;            /* the best local expert not already serving the token */
    int64_t ir_capacity;       /* rectified rows per local expert and domain; 0: no limit */
    int ir_scope;              /* domains whose experts are "local", contains the own one; 0: 1 */
    gln_ir_scale_t ir_scale;   /* how much its p counts */
    gln_route_weight_t weight; /* of a token's routes */
    int attached;        /* 1: the denominator of the weights gets gradient too; -1: it does not */
    double balance_coef; /* Switch: balance_coef * E * sum_e f_e P_e, see gln_plan_balance */
    double z_coef;       /* z_coef * mean_t logsumexp(logits[t])^2 */
    int group_count;     /* deepseek_v3: groups of consecutive experts; divides E; 0: 1 */
    int group_topk;      /* deepseek_v3: groups that a token may use; 0: all */
    double route_scale;  /* deepseek_v3: factor on all weights; 0: 1.0 */
    int sinkhorn_iterations;   /* sinkhorn: at most; 0: 100 */
    double sinkhorn_tolerance; /* sinkhorn: stop when the mean change is at most this; 0: 1e-4 */
} gln_router_options_t;

/* Sizes of what is routed. */
typedef struct gln_router_shape {
    int64_t tokens; /* T of one domain; >= 0 */
    int experts;    /* E >= 1 */
    int per_domain; /* L: experts hosted by one domain; divides E; ir_scope divides E / L */
    double capacity_factor_max; /* the largest that gln_route_input_t will ask for; 0: that of
                                   options */
    gln_dtype_t acc;            /* F32, or F64 for proofs: type of logits, scores, weights */
} gln_router_shape_t;

/* ---- the plan ------------------------------------------------------------------------------ */
/* How a route came about. */
typedef enum gln_route_kind {
    GLN_ROUTE_TOPK = 0,     /* a choice that found a slot */
    GLN_ROUTE_FILLED = 1,   /* FR */
    GLN_ROUTE_RECTIFIED = 2 /* IR */
} gln_route_kind_t;

/* Values of token_route below 0: no route. */
enum { GLN_ROUTE_NONE = -1, GLN_ROUTE_DECLINED = -2 /* a draw decided against it (gshard) */ };

/* All routes of one domain. Slot routes lie expert by expert, in slot order (slot = position behind
 * expert_offset[e]); rectified rows lie expert by expert, in token order.
 * A token's choices are the entries [token_offset[t], token_offset[t+1]) of token_expert and
 * token_route, best first: its k choices, then what the policy may give it beyond (the fill-in
 * candidate; expanded_drop: its local experts). With expert_choice only routes are entries.
 * Arrays are owned by the plan; sizes are bounds fixed at open. */
typedef struct gln_plan {
    gln_policy_t policy;    /* of the router */
    int64_t tokens;         /* T */
    int experts, k;         /* E, K */
    int64_t capacity;       /* C of this step */
    int64_t routes_count;   /* slot routes: routed + filled */
    int32_t *expert_offset; /* [E+1] into the route arrays */
    int32_t *route_token;   /* [routes_count] */
    uint8_t *route_kind;    /* [routes_count] GLN_ROUTE_TOPK or GLN_ROUTE_FILLED */
    uint16_t *route_choice; /* [routes_count] which of its token's entries this is, from 0 */
    void *route_weight;     /* [routes_count] acc */
    int64_t rect_count;     /* rectified rows */
    int32_t *rect_offset;   /* [E+1] into the rect arrays */
    int32_t *rect_token;    /* [rect_count] */
    void *rect_weight;      /* [rect_count] acc */
    int32_t *token_offset;  /* [T+1]; steps of K+1 (expanded_drop: K+L, expert_choice: any) */
    int32_t *token_route;   /* [entries] slot route of a choice; below 0: none */
    int32_t *token_expert; /* [entries] expert of a choice, served or not; -1 where there is none */
    int32_t *token_rect;   /* [T] index of the token's rectified row; -1 none */
    int32_t *token_h;      /* [T] expert h that rectification chose; -1 not rectified. If h already
                              serves the token there is no row: the weight of that route grew */
    int32_t *token_m;      /* [T] multiplicity of p_h */
    void *scores;          /* [T, E] acc: p, by which policies select and weigh */
    void *softmax;         /* [T, E] acc: softmax of the logits; the same array where p is that */
    void *lse;             /* [T] acc: logsumexp of the logits */
    void *token_scale;     /* [T] acc: what numerators were divided by (the denominator) */
    int64_t *choice_count; /* [E] choices per expert before capacity */
    double *score_mean;    /* [E] P_e: mean of p (sigmoid: of its share of the token's sum) */
    double
        *balance_fraction; /* [E] f_e: share of all choices, or what gln_plan_balance was given */
    double balance_loss;   /* E * sum_e f_e P_e, without its coefficient; 1 at perfect balance */
    double z_loss;         /* mean_t lse^2, without its coefficient */
    gln_ledger_t ledger;   /* sent_rows is left 0: moe/ fills it */
    gln_arena_t arena;     /* memory of all of it */
} gln_plan_t;

/* A router: options, scratch, and the bias of policies that have one. */
typedef struct gln_router gln_router_t;

/* One domain, one step. */
typedef struct gln_route_input {
    const void *logits; /* [T, E] acc, borrowed during the call */
    int scores_given;   /* 1: logits holds p itself, which is used as it is: the softmax (each in
                           [0, 1], a token's sum within 1e-3 of 1), or the sigmoids of deepseek_v3
                           (each in [0, 1]), whose softmax then is their share of the sum. There
                           are no logits: lse is 0, gradients are those of ln p. Sinkhorn with
                           k = 1 needs both and refuses: GLN_ERR_ARGUMENT. */
    int domain;         /* index d of the domain in [0, D): keys the draws, named in errors */
    int first_local;    /* place of the first expert that lives on this domain: (d mod D/R) * L */
    const int32_t *expert_at; /* [E] the expert at every place, domain by domain, ascending within
                                 one; a permutation, borrowed during the call. NULL: expert i at
                                 place i. Says who is local; nothing else hangs on it */
    uint64_t seed;            /* keys the draws */
    int64_t step;             /* keys the draws */
    int layer;                /* keys the draws */
    double capacity_factor;   /* 0: that of the options */
    int skip_fill;            /* 1: this call goes without FR (schedules) */
    int skip_rectify;         /* 1: this call goes without IR */
} gln_route_input_t;

/** "topk", "switch", ...; NULL if policy is none. Static storage. */
const char *gln_policy_name(gln_policy_t policy);
/** The names in the order of the enum, NULL at the end: a list of choices. Static storage. */
const char *const *gln_policy_names(void);
/** 1: this policy adds a bias to its scores, which gln_router_update_bias moves. */
int gln_policy_has_bias(gln_policy_t policy);

/** Check options against shape and fill in the defaults of the policy, without opening anything.
 *  @return GLN_OK; GLN_ERR_ARGUMENT names the option, its value and what is allowed. */
gln_status_t gln_router_resolve(const gln_router_options_t *options,
                                const gln_router_shape_t *shape, gln_router_options_t *out);

/** Check options as gln_router_resolve does and size the scratch. The pool is borrowed until close.
 *  @return GLN_OK; GLN_ERR_ARGUMENT; GLN_ERR_MEMORY. */
gln_status_t gln_router_open(const gln_router_options_t *options, const gln_router_shape_t *shape,
                             gln_pool_t *pool, gln_router_t **out);
void gln_router_close(gln_router_t *router); /* takes NULL */

/** The options with defaults filled in. Borrowed. */
const gln_router_options_t *gln_router_options(const gln_router_t *router);

/** Slots per (domain, expert): C = min(T, max(min_capacity, ceil(factor * K * T / E - 1e-6))). */
int64_t gln_router_capacity(const gln_router_t *router, double capacity_factor);

/** Bounds of a plan of this router at its largest capacity factor, for buffers. */
int64_t gln_router_routes_max(const gln_router_t *router);       /* slot routes of a domain */
int64_t gln_router_rect_max(const gln_router_t *router);         /* rectified rows of a domain */
int64_t gln_router_token_routes_max(const gln_router_t *router); /* slot routes of one token */
/** The largest capacity factor it may be asked for. */
double gln_router_capacity_factor_max(const gln_router_t *router);

/** Bytes that a router holds beside the struct itself. */
size_t gln_router_bytes(const gln_router_t *router);

/** A plan sized for this router; reusable step after step. */
gln_status_t gln_plan_open(const gln_router_t *router, gln_plan_t **out);
void gln_plan_close(gln_plan_t *plan); /* takes NULL */

/** Bytes that a plan holds, scores included. */
size_t gln_plan_bytes(const gln_plan_t *plan);

/** Route one domain: scores, selection, capacity, fill-in, rectification, weights, losses, ledger
 * (which is checked). Uses the pool; one caller per router at a time. Nothing is allocated.
 *  @return GLN_OK; GLN_ERR_NUMERIC when a logit is NaN or infinite, or a given score no
 *          probability (token and expert are named); GLN_ERR_ARGUMENT;
 *          GLN_ERR_LEDGER. On error the plan is undefined. */
gln_status_t gln_router_route(gln_router_t *router, const gln_route_input_t *input,
                              gln_plan_t *plan);

/** Balance over more than this domain: use these f_e in the plan's balance loss and in its
 * gradient. Call it between route and backward, with the shares of all choices over the global
 * batch (sums of choice_count over its domains). The mean of balance_loss over those domains is
 * then the loss of the global batch.
 *  @param fraction [E], copied
 *  @return GLN_OK; GLN_ERR_ARGUMENT when one is negative or not finite (nothing is changed). */
gln_status_t gln_plan_balance(gln_plan_t *plan, const double *fraction);

/* The bias of deepseek_v3 on selection: state of the router, all 0 when opened, used from the next
 * gln_router_route on. Other policies have none: GLN_ERR_ARGUMENT. */
/** @param out [E], copied out */
gln_status_t gln_router_bias(const gln_router_t *router, float *out);
/** @param bias [E], copied; GLN_ERR_ARGUMENT if one is not finite */
gln_status_t gln_router_set_bias(gln_router_t *router, const float *bias);
/** bias_e += gamma sign(mean load - load_e), once per step.
 *  @param load [E] choices of every expert over the global batch (choice_count, summed)
 *  @param gamma finite, >= 0 */
gln_status_t gln_router_update_bias(gln_router_t *router, const int64_t *load, double gamma);

/** Gradient of the logits of one domain.
 *  With w the forward weights and a_j = <dL/dy, E_j(x)>: dL/dlogit_i = w_i a_i - p_i sum_j w_j a_j
 *  (p a softmax, normalized weights, denominator constant; the other forms by their own
 * derivative), plus the balance loss (f_e constant) and the z-loss.
 *  @param plan          of the forward call
 *  @param route_a       [routes_count] acc, a of every slot route, in plan order
 *  @param rect_a        [rect_count] acc, a of every rectified row
 *  @param aux_scale     factor on both auxiliary losses (1 / domains / micro-batches, say)
 *  @param dlogits       [T, E] acc, out, overwritten */
gln_status_t gln_router_backward(gln_router_t *router, const gln_plan_t *plan, const void *route_a,
                                 const void *rect_a, double aux_scale, void *dlogits);

#ifdef __cplusplus
}
#endif
#endif
