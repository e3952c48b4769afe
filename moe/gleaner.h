/* gleaner: the library's public face. One MoE layer with everything it needs, in five calls:
 *
 *     gln_moe_options_t o = {.tokens = 1024, .hidden = 512, .expert_hidden = 1024, .experts = 8,
 *                            .router = {.k = 2, .fill = 1, .rectify = 1}};
 *     gln_moe_open(&o, &my_mpi_comm, &moe);     // COLLECTIVE
 *     gln_moe_forward(moe, x, y);
 *     gln_moe_backward(moe, dy, dx);
 *     gln_moe_close(moe);
 *
 * Calls are COLLECTIVE (every rank of the communicator makes them, in the same order) unless LOCAL
 * is said, and single-threaded per object. Errors: a status, and gln_last_error()
 * for the text. Parts for other needs: router/router.h (the router alone), comm/exchange.h (the
 * exchange alone), cluster/topology.h and cluster/placement.h, moe/layer.h (a layer over the
 * caller's weights, pool and kernels). docs/library.md tells how to link, and who owns what. */
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

/* Shape of a layer, and how it works. Zero is the default. */
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
    gln_router_options_t router; /* who gets which expert; k has no default */
    gln_wire_t wire; /* type of rows between ranks: the layer's, or GLN_WIRE_BF16 with GLN_F32 */
    gln_exchange_across_t across; /* form of the exchange between nodes */
    gln_overlap_t overlap;        /* compute near rows while others travel (moe/layer.h) */
    int stages;                   /* of far rows there (moe/layer.h); 0: 1, none */
    int64_t timeout_ms;           /* a wait for another rank ends after this with GLN_ERR_PEER, its
                                     name in the message (gln_comm_set_timeout); 0: never */
} gln_moe_options_t;

/* A layer with everything it needs. */
typedef struct gln_moe gln_moe_t;

/** Open a layer. COLLECTIVE, with equal options on every rank but for threads; what one rank finds
 * wrong is returned on all.
 *  @param mpi_comm address of the caller's MPI_Comm (duplicated); NULL: one rank without MPI
 *  @return GLN_OK; GLN_ERR_ARGUMENT: NULL, options out of range, or not those of the other ranks;
 *          GLN_ERR_CONFIG: ranks, domains, replicas and experts do not fit (which must divide
 * which); GLN_ERR_MEMORY; GLN_ERR_PEER. Nothing is left open on error. */
gln_status_t gln_moe_open(const gln_moe_options_t *options, const void *mpi_comm, gln_moe_t **out);
/** Close a layer. COLLECTIVE; before MPI_Finalize. Takes NULL. All calls on a closed layer, this
 * one too, report GLN_ERR_ARGUMENT as long as no layer opened later has its address. */
void gln_moe_close(gln_moe_t *moe);

/** y = MoE(x). COLLECTIVE; a bad call of one rank is returned on all, and changes nothing.
 *  @param x [local domains * T, H] dtype, the caller's; must stay valid until backward
 *  @param y [local domains * T, H] dtype, the caller's; not x
 *  @return GLN_OK; GLN_ERR_ARGUMENT; GLN_ERR_NUMERIC: a gate logit is not finite (the rank that
 *          found it has the message); GLN_ERR_PEER. */
gln_status_t gln_moe_forward(gln_moe_t *moe, const void *x, void *y);
/** Gradients of the last forward, once. COLLECTIVE, as forward. dx is overwritten; parameter
 * gradients accumulate until gln_moe_zero_grad, summed over domains and groups.
 *  @param dy, dx [local domains * T, H] dtype, the caller's
 *  @return as forward; GLN_ERR_ARGUMENT without a forward before it. */
gln_status_t gln_moe_backward(gln_moe_t *moe, const void *dy, void *dx);
/** Parameter gradients become 0. LOCAL. */
void gln_moe_zero_grad(gln_moe_t *moe);
/** This rank's domains, last forward. LOCAL; all 0 on a layer that is not open. */
gln_ledger_t gln_moe_ledger(const gln_moe_t *moe);
/** The options it was opened with. LOCAL; borrowed until close; NULL on a layer that is not open.
 */
const gln_moe_options_t *gln_moe_options(const gln_moe_t *moe);
/** Which domains and experts this rank holds. LOCAL; borrowed until close; NULL as above. */
const gln_parallel_t *gln_moe_parallel(const gln_moe_t *moe);

/** Weights and gradients of this rank, in place: which = "gate" [H, E], "gate_up" [local experts,
 * H, 2F], "down" [local experts, F, H]. Owned by the layer, valid until close. LOCAL.
 *  @param weight, gradient out; NULL where not wanted
 *  @return GLN_OK; GLN_ERR_ARGUMENT on another name.
 * Who trains in bf16 keeps master weights in f32 and writes them here, rounded, after each step. */
gln_status_t gln_moe_parameter(gln_moe_t *moe, const char *which, gln_tensor_t *weight,
                               gln_tensor_t *gradient);

/* The bias of policies that have one (deepseek_v3; GLN_ERR_ARGUMENT on others), the same on every
 * rank. */
/** Copy it out. LOCAL. @param out [E] */
gln_status_t gln_moe_bias(const gln_moe_t *moe, float *out);
/** Replace it, on every rank alike. LOCAL. @param bias [E], finite, copied */
gln_status_t gln_moe_set_bias(gln_moe_t *moe, const float *bias);
/** bias_e += gamma sign(mean load - load_e) with the load of the last forward over all domains,
 * once per step. COLLECTIVE. @param gamma finite, >= 0 */
gln_status_t gln_moe_update_bias(gln_moe_t *moe, double gamma);

/* State in and out: weights, bias, and the number of forward calls, which keys the router's draws.
 * It is written into the caller's memory, a piece per rank. A layer on any number of ranks with the
 * same hidden, expert_hidden, experts and dtype takes it back from the pieces and goes on with the
 * same bits. Gradients and what an optimizer keeps are not in it. */
/** Bytes of this rank's piece; 0 on a layer that is not open. LOCAL. */
size_t gln_moe_state_bytes(const gln_moe_t *moe);
/** Write this rank's piece. LOCAL.
 *  @param state [bytes], the caller's, aligned to 8; bytes as gln_moe_state_bytes says
 *  @return GLN_OK; GLN_ERR_ARGUMENT. */
gln_status_t gln_moe_state_out(const gln_moe_t *moe, void *state, size_t bytes);
/** Take the state from pieces that hold this rank's experts between them; others are passed over.
 * COLLECTIVE: all ranks take theirs, or none.
 *  @param pieces, bytes [count] pieces, aligned to 8, and their lengths; borrowed during the call
 *  @return GLN_OK; GLN_ERR_ARGUMENT: NULL; GLN_ERR_CHECKPOINT: a piece is damaged or of another
 *          shape, of another step than the rest, or an expert is in none of them. */
gln_status_t gln_moe_state_in(gln_moe_t *moe, const void *const *pieces, const size_t *bytes,
                              int count);

#ifdef __cplusplus
}
#endif
#endif
