/* Moving rows: gather, weighted combine, embedding and its gradient. O(rows H) each. The sums are
 * done in `real` and in the order that kernels.h names: a backend that keeps to it gives the same
 * bits. */
#ifndef FN
#include <string.h>

#include "kernels/ref/ops.h"
#define GLN_REF_FILE "kernels/ref/rows.c"
#include "kernels/ref/every_type.inc"
#else

gln_status_t FN(gather)(gln_kernels_t *k, const gln_gather_t *args)
{
    (void)k;
    for (int64_t i = 0; i < args->n; ++i) {
        elem *out = (elem *)args->out + i * args->h;
        size_t bytes = (size_t)args->h * sizeof(elem);

        if (args->index[i] < 0)
            memset(out, 0, bytes);
        else
            memcpy(out, (const elem *)args->x + args->index[i] * args->h, bytes);
    }
    return GLN_OK;
}

gln_status_t FN(combine)(gln_kernels_t *k, const gln_combine_t *args)
{
    const real *weight = args->weight;

    (void)k;
    for (int64_t i = 0; i < args->n; ++i)
        for (int64_t h = 0; h < args->h; ++h) {
            real sum = 0;

            for (int32_t j = args->offset[i]; j < args->offset[i + 1]; ++j) {
                real x = (real)GET(((const elem *)args->rows)[args->index[j] * args->h + h]);

                sum += weight != NULL ? weight[j] * x : x;
            }
            ((elem *)args->out)[i * args->h + h] = PUT(sum);
        }
    return GLN_OK;
}

gln_status_t FN(embed)(gln_kernels_t *k, const gln_embed_t *args)
{
    (void)k;
    for (int64_t n = 0; n < args->n; ++n)
        memcpy((elem *)args->out + n * args->h, (const elem *)args->table + args->ids[n] * args->h,
               (size_t)args->h * sizeof(elem));
    return GLN_OK;
}

gln_status_t FN(embed_backward)(gln_kernels_t *k, const gln_embed_backward_t *args)
{
    (void)k;
    for (int64_t n = 0; n < args->n; ++n) {
        const elem *dout = (const elem *)args->dout + n * args->h;
        real *drow = (real *)args->dtable + args->ids[n] * args->h;

        for (int64_t h = 0; h < args->h; ++h)
            drow[h] += (real)GET(dout[h]);
    }
    return GLN_OK;
}
#endif
