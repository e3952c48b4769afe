/* Opening a backend: the reference fills every slot, the backend overlays those it has. */
#include "kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "kernels/cpu/cpu.h"
#include "kernels/kernels_internal.h"
#include "kernels/ref/ref.h"

static const gln_backend_entry_t backends[] = {
    {GLN_BACKEND_REF, "ref", 3, {GLN_F32, GLN_BF16, GLN_F64}, NULL, NULL},
    {GLN_BACKEND_CPU, "cpu", 2, {GLN_F32, GLN_BF16}, gln_cpu_overlay, gln_cpu_close},
};

/* A handle and its table in one block. */
typedef struct kernels_block {
    gln_kernels_t kernels; /* first: the public handle */
    gln_kernel_ops_t ops;
    const gln_backend_entry_t *entry;
} kernels_block_t;

static const gln_backend_entry_t *find_backend(gln_backend_t backend)
{
    for (size_t i = 0; i < sizeof backends / sizeof backends[0]; ++i)
        if (backends[i].backend == backend) return &backends[i];
    return NULL;
}

static gln_status_t check_dtype(const gln_backend_entry_t *entry, gln_dtype_t dtype)
{
    char has[64] = "";
    size_t used = 0;

    for (int i = 0; i < entry->dtypes_count; ++i) {
        if (entry->dtypes[i] == dtype) return GLN_OK;
        used += (size_t)snprintf(has + used, sizeof has - used, "%s%s", i > 0 ? ", " : "",
                                 gln_dtype_name(entry->dtypes[i]));
    }
    return gln_fail(GLN_ERR_ARGUMENT,
                    "backend %s computes in %s, not in %s; open it with one of those", entry->name,
                    has, gln_dtype_name(dtype));
}

gln_status_t gln_kernels_open(gln_backend_t backend, gln_dtype_t dtype, gln_pool_t *pool,
                              gln_kernels_t **out)
{
    const gln_backend_entry_t *entry = find_backend(backend);
    kernels_block_t *block;
    gln_status_t status;

    if (entry == NULL)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "backend number %d is not known; use ref (%d) or cpu (%d)", (int)backend,
                        GLN_BACKEND_REF, GLN_BACKEND_CPU);
    if (out == NULL || pool == NULL)
        return gln_fail(GLN_ERR_ARGUMENT, "backend %s: %s is NULL; pass one", entry->name,
                        out == NULL ? "out" : "pool");
    status = check_dtype(entry, dtype);
    if (status != GLN_OK) return status;

    block = calloc(1, sizeof *block);
    if (block == NULL)
        return gln_fail(GLN_ERR_MEMORY, "backend %s: no memory for a handle of %zu bytes",
                        entry->name, sizeof *block);
    block->entry = entry;
    block->kernels.ops = &block->ops;
    block->kernels.dtype = dtype;
    block->kernels.acc = gln_dtype_acc(dtype);
    block->kernels.backend = backend;
    block->kernels.pool = pool;
    gln_ref_fill(dtype, &block->ops);
    if (entry->overlay != NULL) {
        status = entry->overlay(&block->kernels, &block->ops);
        if (status != GLN_OK) goto free_block;
    }
    block->ops.name = entry->name;
    *out = &block->kernels;
    return GLN_OK;
free_block:
    free(block);
    return status;
}

void gln_kernels_close(gln_kernels_t *k)
{
    kernels_block_t *block = (kernels_block_t *)k;

    if (block == NULL) return;
    if (block->entry->close != NULL) block->entry->close(k);
    free(block);
}
