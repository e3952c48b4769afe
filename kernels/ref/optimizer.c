/* AdamW, elementwise, and what the optimizer step needs beside it: an in-place sum and the squares
 * of a norm. O(n) each. */
#ifndef FN
#include <math.h>

#include "kernels/ref/ops.h"

#define SQUARES_BLOCK 4096 /* elements summed before their sum joins the total */

#define GLN_REF_FILE "kernels/ref/optimizer.c"
#include "kernels/ref/every_type.inc"
#else

gln_status_t FN(adamw)(gln_kernels_t *k, const gln_adamw_t *args)
{
    double correct_m = 1.0 - pow(args->beta1, (double)args->t);
    double correct_v = 1.0 - pow(args->beta2, (double)args->t);
    real *w = args->w, *m = args->m, *v = args->v;
    const real *gradient = args->g;

    (void)k;
    for (int64_t i = 0; i < args->n; ++i) {
        double g = args->grad_scale * (double)gradient[i];
        double m_new = args->beta1 * (double)m[i] + (1.0 - args->beta1) * g;
        double v_new = args->beta2 * (double)v[i] + (1.0 - args->beta2) * g * g;
        double step = (m_new / correct_m) / (sqrt(v_new / correct_v) + args->eps);

        w[i] = (real)((double)w[i] - args->lr * (step + args->weight_decay * (double)w[i]));
        m[i] = (real)m_new;
        v[i] = (real)v_new;
        if (args->w_compute != NULL) ((elem *)args->w_compute)[i] = PUT(w[i]);
    }
    return GLN_OK;
}

gln_status_t FN(add)(gln_kernels_t *k, int64_t n, const void *x, void *y)
{
    (void)k;
    for (int64_t i = 0; i < n; ++i)
        ((elem *)y)[i] = PUT((real)GET(((const elem *)y)[i]) + (real)GET(((const elem *)x)[i]));
    return GLN_OK;
}

gln_status_t FN(round)(gln_kernels_t *k, int64_t n, const void *x, void *y)
{
    (void)k;
    for (int64_t i = 0; i < n; ++i)
        ((elem *)y)[i] = PUT(((const real *)x)[i]);
    return GLN_OK;
}

gln_status_t FN(sum_squares)(gln_kernels_t *k, int64_t n, const void *x, double *out)
{
    double total = 0;

    (void)k;
    for (int64_t first = 0; first < n; first += SQUARES_BLOCK) {
        int64_t last = first + SQUARES_BLOCK < n ? first + SQUARES_BLOCK : n;
        double sum = 0;

        for (int64_t i = first; i < last; ++i) {
            double value = (double)((const real *)x)[i];

            sum += value * value;
        }
        total += sum;
    }
    *out = total;
    return GLN_OK;
}
#endif
