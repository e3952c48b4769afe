/* Which math a layer computes with: a backend for one element type, opened on a pool of threads.
 * What it can do is in kernels/kernels.h. */
#ifndef GLN_KERNELS_BACKEND_H
#define GLN_KERNELS_BACKEND_H

#include "base/pool.h"
#include "base/status.h"
#include "base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Backends. */
typedef enum gln_backend {
    GLN_BACKEND_REF = 0, /* plain C that defines what is correct; slow */
    GLN_BACKEND_CPU = 1  /* oneDNN and vector loops */
} gln_backend_t;

/* An open backend. */
typedef struct gln_kernels gln_kernels_t;

/** Open a backend for one element type on a pool.
 *  @param backend GLN_BACKEND_REF takes F32, BF16 and F64; GLN_BACKEND_CPU takes F32 and BF16
 *  @param pool    borrowed until close
 *  @return GLN_OK; GLN_ERR_ARGUMENT for a type the backend does not have (the message names those
 * it has); GLN_ERR_BACKEND; GLN_ERR_MEMORY. */
gln_status_t gln_kernels_open(gln_backend_t backend, gln_dtype_t dtype, gln_pool_t *pool,
                              gln_kernels_t **out);

void gln_kernels_close(gln_kernels_t *k); /* takes NULL */

#ifdef __cplusplus
}
#endif
#endif
