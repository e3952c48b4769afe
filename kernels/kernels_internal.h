/* What a backend is to kernels.c. Included by kernels/ alone. */
#ifndef GLN_KERNELS_KERNELS_INTERNAL_H
#define GLN_KERNELS_KERNELS_INTERNAL_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GLN_BACKEND_DTYPES_MAX 3

/* One backend. A new one is a further row of the table in kernels.c. */
typedef struct gln_backend_entry {
    gln_backend_t backend;
    const char *name;
    int dtypes_count;
    gln_dtype_t dtypes[GLN_BACKEND_DTYPES_MAX];
    /* Replace the slots of `ops` this backend is faster at; all are filled by the reference. `k`
     * has its types and its pool, k->state is the backend's to set. On error it has undone what it
     * did. NULL: the reference itself. */
    gln_status_t (*overlay)(gln_kernels_t *k, gln_kernel_ops_t *ops);
    void (*close)(gln_kernels_t *k); /* gives k->state back; NULL with overlay NULL */
} gln_backend_entry_t;

#ifdef __cplusplus
}
#endif
#endif
