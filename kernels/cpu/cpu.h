/* The fast CPU backend: what kernels.c calls. */
#ifndef GLN_KERNELS_CPU_CPU_H
#define GLN_KERNELS_CPU_CPU_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Replace the slots of `ops` that this backend has, and set k->state. k->dtype, k->acc and k->pool
 * are set, all slots are filled by the reference.
 *  @return GLN_OK; GLN_ERR_BACKEND; GLN_ERR_MEMORY (nothing is left open). */
gln_status_t gln_cpu_overlay(gln_kernels_t *k, gln_kernel_ops_t *ops);

/** Give back what gln_cpu_overlay took. */
void gln_cpu_close(gln_kernels_t *k);

#ifdef __cplusplus
}
#endif
#endif
