/* AdamW over a model's flat parameter buffers, with global-norm clipping and a warm-up / cosine
 * schedule. */
#ifndef GLN_MOE_OPTIMIZER_H
#define GLN_MOE_OPTIMIZER_H

#include "kernels/kernels.h"
#include "moe/params.h"
#include "moe/step_times.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_optimizer_options {
    double lr, lr_min, beta1, beta2, eps, weight_decay;
    double clip;                       /* bound on the global gradient norm; 0: none */
    int64_t warmup_steps, decay_steps; /* decay_steps 0: constant after warm-up */
} gln_optimizer_options_t;

/** Learning rate of step t (from 1): linear from lr/warmup to lr, then half a cosine down to lr_min
 * at decay_steps, lr_min after it. A function of t alone: the number of steps a run makes does not
 * enter. */
double gln_optimizer_lr(const gln_optimizer_options_t *options, int64_t t);

typedef struct gln_optimizer gln_optimizer_t;

/** @param params, kernels borrowed until close; params must have been committed for training. */
gln_status_t gln_optimizer_open(gln_params_t *params, gln_kernels_t *kernels,
                                const gln_optimizer_options_t *options, gln_optimizer_t **out);
void gln_optimizer_close(gln_optimizer_t *optimizer); /* takes NULL */

/** As gln_model_set_times. */
void gln_optimizer_set_times(gln_optimizer_t *optimizer, gln_step_times_t *times);

/** Sum gradients over domains and replica groups in the fixed tree, clip, and step. COLLECTIVE;
 * allocates nothing. The gradients are consumed: zero them before the next accumulation.
 *  @param t         number of this step, from 1
 *  @param grad_norm out: global norm before clipping, the same bits on every rank and at any rank
 * count
 *  @return GLN_OK; GLN_ERR_NUMERIC when the norm is not finite: no weight or moment was changed. */
gln_status_t gln_optimizer_step(gln_optimizer_t *optimizer, int64_t t, double *grad_norm);

#ifdef __cplusplus
}
#endif
#endif
