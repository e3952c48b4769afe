/* One MoE layer: gate, route, dispatch, experts, combine; forward and backward.
 *
 * A layer owns its routing state and the activations it keeps for backward; weights and gradients
 * are the caller's. Several layers may share one workspace (temporary buffers and the exchange),
 * because one layer runs at a time. */
#ifndef GLN_MOE_LAYER_H
#define GLN_MOE_LAYER_H

#include "comm/exchange.h"
#include "moe/parallel.h"
#include "router/router.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Type of the rows between ranks. It changes the bits, but not with the number of ranks: rows that
 * stay on their rank are rounded like the others. */
typedef enum gln_wire {
    GLN_WIRE_AUTO = 0, /* the layer's dtype */
    GLN_WIRE_F32,      /* of an f32 layer */
    GLN_WIRE_BF16      /* of an f32 layer: half the bytes. Tokens, weighted results, their partial
                          sums and the gradients of both are rounded once each on their way */
} gln_wire_t;

/* Rows of experts that are near (gln_exchange_near: this rank's, rectified ones among them, and the
 * node's) can be computed while others are under way. Changes no result. */
typedef enum gln_overlap {
    GLN_OVERLAP_AUTO = 0, /* where rows travel between nodes, and 64 near ones per expert or more */
    GLN_OVERLAP_ON,       /* where any rows travel by message */
    GLN_OVERLAP_OFF       /* never */
} gln_overlap_t;

/* Stages of far rows at most. */
enum { GLN_STAGES_MAX = 64 };

/* Shape of a layer, and how it works. */
typedef struct gln_layer_options {
    int64_t tokens;              /* T of one domain */
    int64_t hidden;              /* H */
    int64_t expert_hidden;       /* F */
    gln_router_options_t router; /* who gets which expert */
    double capacity_factor_max; /* largest factor that forward will be asked for; 0: the router's */
    int forward_only;           /* 1: keep nothing for backward */
    int balance_global; /* 1: the balance loss looks at the load over all domains (gln_plan_balance)
                         */
    gln_exchange_across_t across; /* form of the exchange between nodes */
    gln_wire_t wire;              /* type of rows between ranks */
    gln_exchange_path_t path;     /* of rows inside a node */
    gln_overlap_t overlap;        /* of the exchange with the experts' work */
    int stages; /* where it overlaps: far rows in this many stages by source rank, so that some are
                   computed while others travel; 0: 1, none; at most GLN_STAGES_MAX and the number
                   of far ranks, and none in the hierarchical form. Changes no result */
    const int32_t *expert_at; /* [E] the expert at every place: place p belongs to domain p / L of
                                 every group; a permutation, ascending within a domain, borrowed
                                 until close. NULL: expert e at place e. A workspace may serve
                                 layers of different placement */
} gln_layer_options_t;

/* Local parameters of one layer, borrowed. Expert i is the one at place first_expert + i. */
typedef struct gln_layer_weights {
    const void *gate; /* [H, E] dtype */
    const void
        *gate_up; /* [local_experts, H, 2F] dtype: per expert, columns 0..F-1 gate, F..2F-1 up */
    const void *down; /* [local_experts, F, H] dtype */
} gln_layer_weights_t;

/* Gradients, all of type acc and all += . The gate's are per local domain, the experts' per local
 * group: the caller sums them over domains and groups in the fixed tree (comm.h). */
typedef struct gln_layer_gradients {
    void *const *gate;    /* [local_domains] pointers to [H, E] */
    void *const *gate_up; /* [local_groups] pointers to [local_experts, H, 2F] */
    void *const *down;    /* [local_groups] pointers to [local_experts, F, H] */
} gln_layer_gradients_t;

typedef struct gln_layer_workspace gln_layer_workspace_t; /* shared by layers of equal options */
/* One layer. */
typedef struct gln_layer gln_layer_t;

/** Buffers of one pass and the exchange. Bounded by the capacity, see gln_layer_bytes. COLLECTIVE.
 */
gln_status_t gln_layer_workspace_open(const gln_parallel_t *parallel, gln_kernels_t *kernels,
                                      const gln_layer_options_t *options,
                                      gln_layer_workspace_t **out);
void gln_layer_workspace_close(gln_layer_workspace_t *workspace); /* takes NULL; COLLECTIVE */
/** Bytes it holds, the exchange included. */
size_t gln_layer_workspace_bytes(const gln_layer_workspace_t *workspace);
/** Form of the exchange between nodes, and why (gln_exchange_form). */
const char *gln_layer_workspace_form(const gln_layer_workspace_t *workspace, const char **reason);
/** Path of rows inside a node, and why (gln_exchange_path). */
gln_exchange_path_t gln_layer_workspace_path(const gln_layer_workspace_t *workspace,
                                             const char **reason);

/** @param index      number of this layer, keys the router's draws, named in errors
 *  @param parallel, kernels, workspace  borrowed until close
 *  @return GLN_OK; GLN_ERR_ARGUMENT; GLN_ERR_MEMORY. */
gln_status_t gln_layer_open(const gln_parallel_t *parallel, gln_kernels_t *kernels,
                            gln_layer_workspace_t *workspace, const gln_layer_options_t *options,
                            int index, gln_layer_t **out);
void gln_layer_close(gln_layer_t *layer); /* takes NULL */
/** Bytes it holds, its plans included. */
size_t gln_layer_bytes(const gln_layer_t *layer);

/* One pass: what keys its draws, and what it leaves out. */
typedef struct gln_layer_step {
    uint64_t seed;          /* of the run */
    int64_t step;           /* of the run */
    double capacity_factor; /* 0: the options' */
    int keep;               /* 1: backward will follow (needs forward_only = 0) */
    int skip_fill;          /* 1: this call goes without FR */
    int skip_rectify;       /* 1: this call goes without IR */
    float *logits;          /* [local_domains * T, E]: receives the gate's logits; NULL: unwanted */
} gln_layer_step_t;

/** y = MoE(x). COLLECTIVE. Allocates nothing.
 *  @param x [local_domains * T, H] dtype; kept by reference until backward
 *  @param y [local_domains * T, H] dtype, overwritten
 *  @return GLN_OK; GLN_ERR_NUMERIC (all ranks return it; the rank that found it reports it);
 * others. */
gln_status_t gln_layer_forward(gln_layer_t *layer, const gln_layer_weights_t *weights,
                               const gln_layer_step_t *step, const void *x, void *y);

/** dx += gradient of x; gradients += . COLLECTIVE. After a forward with keep = 1, once.
 *  @param aux_scale factor on the auxiliary losses' gradients (see gln_router_backward) */
gln_status_t gln_layer_backward(gln_layer_t *layer, const gln_layer_weights_t *weights,
                                const void *dy, double aux_scale, void *dx,
                                const gln_layer_gradients_t *gradients);

/** From now on backward overwrites the experts' gradients (of experts without rows too) instead of
 * adding to them, which saves setting them to zero first. The gate's are added to as ever. */
void gln_layer_set_overwrite(gln_layer_t *layer, int on);

/** The plan of local domain i after forward. Borrowed. */
const gln_plan_t *gln_layer_plan(const gln_layer_t *layer, int local_domain);
/** Ledger of this rank's domains in the last forward, sent_rows included. */
gln_ledger_t gln_layer_ledger(const gln_layer_t *layer);
/** Traffic of the last forward's dispatch and combine, and of the backward's if that ran too (this
 * rank). */
gln_traffic_t gln_layer_traffic(const gln_layer_t *layer);
/** The bias of the layer's router, see gln_router_bias: state that the caller keeps and saves. */
gln_status_t gln_layer_bias(const gln_layer_t *layer, float *out);
/** Replace it (gln_router_set_bias). */
gln_status_t gln_layer_set_bias(gln_layer_t *layer, const float *bias);
/** Move it towards balance (gln_router_update_bias). */
gln_status_t gln_layer_update_bias(gln_layer_t *layer, const int64_t *load, double gamma);
/** Auxiliary losses of local domain i in the last forward, without coefficients. */
double gln_layer_balance_loss(const gln_layer_t *layer, int local_domain);
/** Likewise the z-loss. */
double gln_layer_z_loss(const gln_layer_t *layer, int local_domain);
/** Seconds this rank spent in the last forward and backward per phase, for gleaner bench. What the
 * exchange does while experts compute counts there. */
typedef struct gln_layer_times {
    double router, exchange, gemm, move, total; /* phases, and from begin to end */
    double activation;                          /* SwiGLU, of move */
    double flight, hidden; /* rows under way; of it, while the rank computed (gln_exchange_times) */
} gln_layer_times_t;
/** The times of the last passes. */
gln_layer_times_t gln_layer_times(const gln_layer_t *layer);

#ifdef __cplusplus
}
#endif
#endif
