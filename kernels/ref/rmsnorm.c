/* Root mean square normalization and its gradient, O(N H).
 * With r = rstd and z = x r:  y = z w,  dw = sum_n dy z,  dx = r (dy w - z mean(dy w z)). */
#ifndef FN
#include <math.h>

#include "kernels/ref/ops.h"
#define GLN_REF_FILE "kernels/ref/rmsnorm.c"
#include "kernels/ref/every_type.inc"
#else

gln_status_t FN(rmsnorm)(gln_kernels_t *k, const gln_rmsnorm_t *args)
{
    const real *w = args->w;

    (void)k;
    for (int64_t n = 0; n < args->n; ++n) {
        const elem *x = (const elem *)args->x + n * args->h;
        elem *y = (elem *)args->y + n * args->h;
        double squares = 0, rstd;

        for (int64_t h = 0; h < args->h; ++h)
            squares += GET(x[h]) * GET(x[h]);
        rstd = 1.0 / sqrt(squares / (double)args->h + args->eps);
        for (int64_t h = 0; h < args->h; ++h)
            y[h] = PUT(GET(x[h]) * rstd * (double)w[h]);
        ((real *)args->rstd)[n] = (real)rstd;
    }
    return GLN_OK;
}

static void FN(rmsnorm_dx)(const gln_rmsnorm_backward_t *args)
{
    const real *w = args->w;

    for (int64_t n = 0; n < args->n; ++n) {
        const elem *x = (const elem *)args->x + n * args->h;
        const elem *dy = (const elem *)args->dy + n * args->h;
        elem *dx = (elem *)args->dx + n * args->h;
        double rstd = (double)((const real *)args->rstd)[n];
        double mean = 0;

        for (int64_t h = 0; h < args->h; ++h)
            mean += GET(dy[h]) * (double)w[h] * GET(x[h]) * rstd;
        mean /= (double)args->h;
        for (int64_t h = 0; h < args->h; ++h)
            dx[h] = PUT(GET(dx[h]) + rstd * (GET(dy[h]) * (double)w[h] - GET(x[h]) * rstd * mean));
    }
}

/* One sum over all rows per column: the block is the whole batch here. */
static void FN(rmsnorm_dw)(const gln_rmsnorm_backward_t *args)
{
    for (int64_t first = 0; first < args->h; first += GLN_REF_COLUMNS) {
        int64_t columns = args->h - first < GLN_REF_COLUMNS ? args->h - first : GLN_REF_COLUMNS;
        real *dw = (real *)args->dw + first;
        double sum[GLN_REF_COLUMNS] = {0};

        for (int64_t n = 0; n < args->n; ++n) {
            const elem *x = (const elem *)args->x + n * args->h + first;
            const elem *dy = (const elem *)args->dy + n * args->h + first;
            double rstd = (double)((const real *)args->rstd)[n];

            for (int64_t h = 0; h < columns; ++h)
                sum[h] += GET(dy[h]) * GET(x[h]) * rstd;
        }
        for (int64_t h = 0; h < columns; ++h)
            dw[h] = (real)((double)dw[h] + sum[h]);
    }
}

gln_status_t FN(rmsnorm_backward)(gln_kernels_t *k, const gln_rmsnorm_backward_t *args)
{
    (void)k;
    if (args->n == 0) return GLN_OK;
    FN(rmsnorm_dx)(args);
    FN(rmsnorm_dw)(args);
    return GLN_OK;
}
#endif
