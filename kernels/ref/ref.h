/* The reference backend: plain serial C that defines what is correct, for every type. */
#ifndef GLN_KERNELS_REF_REF_H
#define GLN_KERNELS_REF_REF_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Fill every slot of `ops` for `dtype`. The functions use neither pool nor state. */
void gln_ref_fill(gln_dtype_t dtype, gln_kernel_ops_t *ops);

#ifdef __cplusplus
}
#endif
#endif
