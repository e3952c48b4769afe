/* A MoE language model of the Mixtral architecture ("Mixtral of Experts", arXiv 2401.04088):
 * embedding, N blocks of (RMSNorm, rotary grouped-query causal attention, RMSNorm, SwiGLU experts
 * or a dense SwiGLU), RMSNorm, output projection. Weights are stored [in, out]. Forward, loss and
 * backward over this rank's domains. */
#ifndef GLN_MOE_MODEL_H
#define GLN_MOE_MODEL_H

#include "moe/layer.h"
#include "moe/params.h"
#include "moe/step_times.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_model_options {
    int vocabulary;        /* V */
    int64_t hidden;        /* H */
    int layers;            /* N */
    int heads, kv_heads;   /* kv_heads divides heads */
    int head_dim;          /* dh, even; 0: H / heads */
    int experts;           /* E */
    int64_t expert_hidden; /* F of an expert */
    int64_t dense_hidden;  /* F of the layers without experts; 0: K * F of an expert */
    int64_t shared_hidden; /* F of the shared expert beside the routed ones; 0: none */
    int moe_every;         /* layer i has experts if (i + 1) % moe_every == 0; 0: 1 */
    int64_t sequence;      /* S */
    double rope_theta;     /* 0: 10000 */
    double norm_eps;       /* 0: 1e-5 */
    double init_std;       /* 0: 0.02 */
    gln_router_options_t router;
    double capacity_factor_max; /* largest factor that calls will ask for; 0: the router's */
    int balance_global;         /* 1: the balance loss looks at the load over all domains */
    const int32_t *expert_at;   /* [layers, E] the expert at every place of every layer, see
                                   gln_layer_options_t; borrowed until close. NULL: no placement */
    int bias; /* 1: MoE layers have a bias parameter; always so if the router's policy has one */
    gln_exchange_across_t across; /* form of the exchange between nodes; changes no result */
    gln_wire_t wire;              /* type of rows between ranks, see layer.h */
    gln_exchange_path_t path;     /* of rows inside a node; changes no result */
    gln_overlap_t overlap;        /* of the exchange with experts' work; changes no result */
    int stages;                   /* of far rows there, see layer.h; changes no result */
} gln_model_options_t;

typedef struct gln_model gln_model_t;

/** Build a model over this rank's domains. COLLECTIVE.
 *  @param sequences  sequences per domain and call; T = sequences * S
 *  @param training   1: gradients and activations for backward; 0: forward only
 *  @param weights    parameters to use, for instance another model's of equal shape (borrowed);
 * NULL: own ones
 *  @return GLN_OK; GLN_ERR_ARGUMENT names the option, what was found and what is allowed;
 * GLN_ERR_MEMORY. Weights are zero until gln_params_init or a checkpoint fills them. */
gln_status_t gln_model_open(const gln_parallel_t *parallel, gln_kernels_t *kernels,
                            const gln_model_options_t *options, int64_t sequences, int training,
                            gln_params_t *weights, gln_model_t **out);
void gln_model_close(gln_model_t *model); /* COLLECTIVE; takes NULL */

gln_params_t *gln_model_params(gln_model_t *model);
/** Bytes held by weights, gradients and moments; by activations; by exchange and temporary buffers.
 */
typedef struct gln_model_bytes {
    size_t parameters, activations, workspace;
} gln_model_bytes_t;
gln_model_bytes_t gln_model_bytes(const gln_model_t *model);

/** Form of the exchange between nodes, and why (gln_exchange_form); NULL without MoE layers. */
const char *gln_model_exchange_form(const gln_model_t *model, const char **reason);
/** Path of rows inside a node, "shared" or "messages", and why (gln_exchange_path); likewise. */
const char *gln_model_exchange_path(const gln_model_t *model, const char **reason);

typedef struct gln_model_call {
    const int32_t *ids;    /* [local_domains * sequences, S] */
    const int32_t *target; /* same shape; -1: not counted. NULL: forward alone */
    uint64_t seed;
    int64_t step;
    int backward;      /* 1: gradients += (needs training = 1) */
    int overwrite;     /* 1: the experts' gradients = instead: no need to zero them before */
    double loss_scale; /* factor on every token's loss gradient: 1 / tokens of the global batch */
    double aux_scale;  /* factor on the auxiliary losses: 1 / (domains * micro-batches) */
    double capacity_factor; /* 0: the router's */
    int skip_fill, skip_rectify;
    float *
        logits; /* [MoE layers, local_domains * T, E]: receives the gates' logits; NULL: unwanted */
} gln_model_call_t;

typedef struct gln_model_result {
    double loss_sum;     /* nats over all counted tokens of all domains, in the fixed tree */
    int64_t tokens;      /* counted tokens of all domains */
    double balance_loss; /* mean over domains and MoE layers, without coefficient */
    double z_loss;
    gln_ledger_t ledger;   /* all domains, all MoE layers */
    gln_traffic_t traffic; /* all ranks; depends on where ranks live, unlike the rest */
} gln_model_result_t;

/** COLLECTIVE. Allocates nothing. Same result on every rank and at any rank count. */
gln_status_t gln_model_run(gln_model_t *model, const gln_model_call_t *call,
                           gln_model_result_t *result);

/** Logits of one row of the last forward (row in [0, local_domains * T)), [V] acc. */
gln_status_t gln_model_logits(gln_model_t *model, int64_t row, void *logits);

/** Choices per expert and MoE layer are counted over all calls with backward = 1. Forget them. */
void gln_model_reset_load(gln_model_t *model);
/** Move the bias of every MoE layer by gamma against the load counted since the last reset, over
 * all domains; nothing where the policy has no bias. Also writes it to the parameters
 * "layers.N.moe.bias", from which every call takes it. COLLECTIVE. */
gln_status_t gln_model_update_bias(gln_model_t *model, double gamma);

/** Index in the model of MoE layer i (the N of its parameters' names). */
int gln_model_moe_layer_index(const gln_model_t *model, int moe_layer);
/** Number of MoE layers, and ledger of one of them over this rank's domains in the last call. */
int gln_model_moe_layers(const gln_model_t *model);
gln_ledger_t gln_model_layer_ledger(const gln_model_t *model, int moe_layer);
/** From now on calls add to a stopwatch, borrowed until close or until another is set; NULL: none.
 */
void gln_model_set_times(gln_model_t *model, gln_step_times_t *times);
/** Phase times of all MoE layers in the last call. */
gln_layer_times_t gln_model_times(const gln_model_t *model);

#ifdef __cplusplus
}
#endif
#endif
