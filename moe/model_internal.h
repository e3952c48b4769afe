/* Inside of a model: what forward and backward share. Rows N = local_domains * T. */
#ifndef GLN_MOE_MODEL_INTERNAL_H
#define GLN_MOE_MODEL_INTERNAL_H

#include "kernels/kernels.h"
#include "moe/model.h"

/* One block: indices of its parameters and the activations it keeps. */
typedef struct block {
    int attn_norm, qkv, out, ffn_norm; /* parameters */
    int bias;                          /* MoE, the router's; -1: none */
    int gate, gate_up, down;           /* MoE; gate_up and down are expert 0's, the others follow */
    int dense_gate_up, dense_down;     /* dense layer, or shared expert; -1: none */
    int64_t dense_hidden;
    gln_layer_t *layer;         /* NULL: a dense layer */
    void *x;                    /* [N, H] input; block i + 1's is block i's output */
    void *attn_in, *ffn_in;     /* [N, H] after the norms */
    void *attn_rstd, *ffn_rstd; /* [N] acc */
    void *qkv_rows;             /* [N, (heads + 2 kv_heads) dh] rotated */
    void *attn_out;             /* [N, heads dh] */
    void *lse;                  /* [N, heads] acc */
    void *mid;                  /* [N, H] after attention */
    void *dense_hgu;            /* [N, 2F] */
} block_t;

struct gln_model {
    const gln_parallel_t *parallel;
    gln_kernels_t *k;
    gln_model_options_t o;
    int training;
    int64_t tokens, rows; /* T of a domain, N of this rank */
    int64_t qkv_width;    /* (heads + 2 kv_heads) dh */
    int64_t chunk; /* rows of the output projection at a time; divides work inside a domain */
    gln_params_t *params;
    int owns_params;
    int embed, norm, head; /* parameters */
    block_t *blocks;
    int moe_layers;
    gln_layer_workspace_t *workspace;
    void *last;      /* [N, H] output of the last block */
    void *last_in;   /* [N, H] after the last norm */
    void *last_rstd; /* [N] acc */
    void *logits;    /* [chunk, V] acc */
    void *dlogits;   /* [chunk, V]; logits itself where dtype equals acc */
    void *loss;      /* [N] acc */
    void *dense_act; /* [N, F_max] */
    /* backward */
    void *dx, *dnorm;               /* [N, H] */
    void *dattn;                    /* [N, heads dh] */
    void *dqkv;                     /* [N, qkv_width] */
    void *dense_dact, *dense_act_w; /* [N, F_max] */
    void *dense_dhgu;               /* [N, 2 F_max] */
    gln_gemm_t *items;              /* [local_domains] products of one weight's gradient */
    void **gate_grad, **gate_up_grad, **down_grad; /* pointers handed to a layer */
    double *partial;                               /* [local_domains, 4] sums per domain */
    void **partial_rows;                           /* [local_domains] */
    int has_bias;            /* the router of this model uses the bias parameters */
    int64_t *load;           /* [moe_layers, E] choices since the last reset; with has_bias */
    float *bias;             /* [E] scratch */
    gln_step_times_t *times; /* NULL: not measured */
    gln_arena_t arena;
};

const gln_param_t *gln_model_param(const gln_model_t *m, int index);
/* Weight of parameter `index`; for an expert parameter, the first expert held here. */
void *gln_model_weight(const gln_model_t *m, int index);
/* The same in the type that products and the embedding read. */
void *gln_model_operand(const gln_model_t *m, int index);
/* Gradient of a dense parameter in local domain d, or of an expert one in local group d. */
void *gln_model_gradient(const gln_model_t *m, int index, int d);
gln_layer_weights_t gln_model_layer_weights(const gln_model_t *m, const block_t *b);
/* C = A W, or C += A W, over all rows: [N, in] x [in, out]. */
gln_status_t gln_model_project(gln_model_t *m, const void *a, int64_t in, int weight, int64_t out,
                               void *c, int accumulate);

/* [N, H] on all threads. @param from NULL: zeros */
void gln_model_copy(gln_model_t *m, const void *from, void *to);

/* Arguments of a block's attention, over its kept activations. */
gln_attention_t gln_model_attention(const gln_model_t *m, const block_t *b);

/* The bias parameter of a block into its layer's router. */
gln_status_t gln_model_load_bias(gln_model_t *m, const block_t *b);

/* Time of a MoE layer since the last lap, by its own laps. @param before its times then */
void gln_model_lap_layer(gln_model_t *m, const gln_layer_t *layer, const gln_layer_times_t *before);

gln_status_t gln_model_forward(gln_model_t *m, const gln_model_call_t *call);
gln_status_t gln_model_backward(gln_model_t *m, const gln_model_call_t *call);
/* Output projection and cross-entropy, chunk by chunk; with backward also their gradients (into
 * dnorm). */
gln_status_t gln_model_loss(gln_model_t *m, const gln_model_call_t *call);

#endif
