/* gleaner: the library's public face. One MoE layer with everything it needs, in five calls:
 *
 *     gln_moe_options_t o = {.tokens = 1024, .hidden = 512, .expert_hidden = 1024, .experts = 8,
 *                            .router = {.k = 2, .fill = 1, .rectify = 1}};
 *     gln_moe_open(&o, &my_mpi_comm, &moe);     // COLLECTIVE
 *     gln_moe_forward(moe, x, y);
 *     gln_moe_backward(moe, dy, dx);
 *     gln_moe_close(moe);
 *
 * All calls are COLLECTIVE and single-threaded per object. Errors: a status, and gln_last_error()
 * for the text. Parts for other needs: router/router.h (the router alone), comm/exchange.h (the
 * exchange alone), moe/layer.h (a layer over the caller's weights, pool and kernels), moe/trainer.h
 * (training a whole model). */
#ifndef GLN_GLEANER_H
#define GLN_GLEANER_H

#include "base/log.h"
#include "comm/exchange.h"
#include "moe/layer.h"
#include "router/router.h"

#ifdef __cplusplus
extern "C" {
#endif

/** "0.1.0" */
const char *gln_version(void);

typedef struct gln_moe_options {
    int64_t tokens;        /* T of one domain: rows of x per domain */
    int64_t hidden;        /* H */
    int64_t expert_hidden; /* F */
    int experts;           /* E */
    int domains;           /* D; 0: the number of ranks */
    int expert_replicas;   /* R; 0: 1 */
    int threads;           /* of this rank; 0: 1 */
    gln_backend_t backend; /* note: zero is the reference; set GLN_BACKEND_CPU for speed */
    gln_dtype_t dtype;     /* GLN_F32 (default); GLN_BF16: rows and weights in bf16, gradients of
                              weights in f32; GLN_F64 with the reference backend */
    uint64_t seed;         /* initial weights: normal(0, 0.02), the same at any rank count */
    gln_router_options_t router;
    gln_wire_t wire; /* type of rows between ranks: the layer's, or GLN_WIRE_BF16 with GLN_F32 */
    gln_exchange_across_t across; /* form of the exchange between nodes */
    gln_overlap_t overlap;        /* compute near rows while others travel (moe/layer.h) */
    int stages;                   /* of far rows there (moe/layer.h); 0: 1, none */
} gln_moe_options_t;

typedef struct gln_moe gln_moe_t;

/** @param mpi_comm address of the caller's MPI_Comm (duplicated); NULL: one rank without MPI */
gln_status_t gln_moe_open(const gln_moe_options_t *options, const void *mpi_comm, gln_moe_t **out);
void gln_moe_close(gln_moe_t *moe); /* takes NULL */

/** x, y: [local domains * T, H] dtype, the caller's. x must stay valid until backward. */
gln_status_t gln_moe_forward(gln_moe_t *moe, const void *x, void *y);
/** dx is overwritten; parameter gradients accumulate until gln_moe_zero_grad, summed over domains
 * and groups. */
gln_status_t gln_moe_backward(gln_moe_t *moe, const void *dy, void *dx);
void gln_moe_zero_grad(gln_moe_t *moe);
/** This rank's domains, last forward. */
gln_ledger_t gln_moe_ledger(const gln_moe_t *moe);

/** Weights and gradients of this rank, in place: which = "gate" [H, E], "gate_up" [local experts,
 * H, 2F], "down" [local experts, F, H]. Owned by the layer, valid until close. GLN_ERR_ARGUMENT on
 * another name.
 * Who trains in bf16 keeps master weights in f32 and writes them here, rounded, after each step. */
gln_status_t gln_moe_parameter(gln_moe_t *moe, const char *which, gln_tensor_t *weight,
                               gln_tensor_t *gradient);

#ifdef __cplusplus
}
#endif
#endif
