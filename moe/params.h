/* All parameters of a model, named, in two flat buffers per kind: dense ones are replicated on
 * every rank, expert ones live on the ranks that host the expert. Flat, so that reductions,
 * clipping and the optimizer are a few long loops; named, so that checkpoints do not know about
 * ranks. */
#ifndef GLN_MOE_PARAMS_H
#define GLN_MOE_PARAMS_H

#include "base/arena.h"
#include "moe/parallel.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GLN_PARAM_NAME_MAX 80

typedef struct gln_param {
    char name[GLN_PARAM_NAME_MAX]; /* "layers.2.moe.experts.5.down" */
    int dims_count;
    int64_t dims[2];
    int64_t count;   /* product of dims */
    int expert;      /* global expert id, or -1 for a dense parameter */
    int place;       /* of that expert (gln_layer_options_t), or -1 */
    int64_t offset;  /* element offset in its flat buffer (dense or expert) */
    int local;       /* 1: this rank holds it (always for dense) */
    int decay;       /* 1: weight decay applies (matrices), 0: not (norms) */
    int state;       /* 1: no weight but state of a layer: the optimizer leaves it alone */
    double init_std; /* standard deviation of the initial normal; 0: initialised to ones */
} gln_param_t;

typedef struct gln_params {
    gln_param_t *items; /* all parameters of the model, in the same order on every rank; experts
                           that live elsewhere are listed with local = 0 and offset = -1 */
    int count, capacity;
    gln_dtype_t acc, dtype;            /* dtype: what products read; acc unless copies are kept */
    int64_t dense_count, expert_count; /* elements held here */
    void *dense_w, *dense_m, *dense_v; /* [dense_count] acc: master weights and AdamW moments */
    void *expert_w, *expert_m, *expert_v; /* [expert_count] acc */
    void *dense_copy, *expert_copy;       /* likewise in dtype: w, rounded; NULL: no copies */
    void **dense_grad;                    /* [local_domains] buffers of [dense_count] acc */
    void **expert_grad;                   /* [local_groups] buffers of [expert_count] acc */
    const gln_parallel_t *parallel;       /* borrowed until close */
    gln_status_t status;                  /* of the adds so far; commit reports it */
    gln_arena_t arena;
} gln_params_t;

/** Address of a held parameter's master weight / first / second moment. NULL if it lives elsewhere,
 * and for moments of parameters committed without training. */
void *gln_param_w(const gln_params_t *params, const gln_param_t *param);
void *gln_param_m(const gln_params_t *params, const gln_param_t *param);
void *gln_param_v(const gln_params_t *params, const gln_param_t *param);

/** Address of what products read: the copy in dtype, or the master weight where none is kept. */
void *gln_param_operand(const gln_params_t *params, const gln_param_t *param);

/** Start an empty list; add parameters in a fixed order; commit allocates the buffers.
 *  @param acc F32 or F64; @return GLN_OK; GLN_ERR_ARGUMENT; GLN_ERR_MEMORY. */
gln_status_t gln_params_open(const gln_parallel_t *parallel, gln_dtype_t acc, gln_params_t **out);
/** Held parameters lie in their flat buffer in the order of adding, without gaps.
 *  @param dim1   0: a vector of dim0 (no weight decay); otherwise a matrix [dim0, dim1]
 *  @param expert global expert id, in [0, E), or -1 for a dense parameter
 *  @return index of the parameter, the same on every rank; -1 when memory is out (commit reports
 * it). Dims out of range, long names and adding after commit are assertions. */
int gln_params_add(gln_params_t *params, const char *name, int64_t dim0, int64_t dim1, int expert,
                   double init_std);
/** Add "PREFIX.e.SUFFIX" [dim0, dim1] of all experts e, in expert order. Those held lie in the
 * order of their places: one [local_experts, dim0, dim1] array.
 *  @param expert_at  [E] the expert at every place; NULL: expert e at place e
 *  @return index of the expert at the first place held here; -1 when memory is out. */
int gln_params_add_experts(gln_params_t *params, const char *prefix, const char *suffix,
                           int64_t dim0, int64_t dim1, const int32_t *expert_at, double init_std);
/** A dense vector that no gradient reaches, zero at first: saved and restored with the rest. */
int gln_params_add_state(gln_params_t *params, const char *name, int64_t dim0);
/** Keep copies of all weights in `dtype` beside the master weights. Before commit. Whoever writes
 * master weights rounds them: gln_params_init and the optimizer do.
 *  @param dtype BF16 where acc is F32; acc itself: no copies */
void gln_params_keep_copies(gln_params_t *params, gln_dtype_t dtype);
/** Round all master weights into the copies, if there are any. */
void gln_params_round(gln_params_t *params);
/** @param training 1: moments and gradients too, all zero; 0: weights alone
 *  @return GLN_OK; GLN_ERR_MEMORY. */
gln_status_t gln_params_commit(gln_params_t *params, int training);
/** Normal(0, init_std) by counter: element j of parameter i is a function of (seed, i, j) alone. */
void gln_params_init(gln_params_t *params, uint64_t seed);
void gln_params_zero_grad(gln_params_t *params);
/** Of the dense ones alone: for a caller whose next backward overwrites the experts'. */
void gln_params_zero_dense_grad(gln_params_t *params);
size_t gln_params_bytes(const gln_params_t *params);
void gln_params_close(gln_params_t *params); /* takes NULL */

#ifdef __cplusplus
}
#endif
#endif
