/* The gated activation of an expert and its gradient, O(N F). With s = sigmoid(g):
 *   silu(g) = g s,  silu'(g) = s (1 + g (1 - s)). */
#ifndef FN
#include <math.h>

#include "kernels/ref/ops.h"

static double sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

#define GLN_REF_FILE "kernels/ref/swiglu.c"
#include "kernels/ref/every_type.inc"
#else

gln_status_t FN(swiglu)(gln_kernels_t *k, const gln_swiglu_t *args)
{
    (void)k;
    for (int64_t n = 0; n < args->n; ++n) {
        const elem *gate = (const elem *)args->hgu + n * 2 * args->f;
        const elem *up = gate + args->f;
        elem *act = (elem *)args->act + n * args->f;

        for (int64_t f = 0; f < args->f; ++f)
            act[f] = PUT(GET(gate[f]) * sigmoid(GET(gate[f])) * GET(up[f]));
    }
    return GLN_OK;
}

gln_status_t FN(swiglu_backward)(gln_kernels_t *k, const gln_swiglu_backward_t *args)
{
    (void)k;
    for (int64_t n = 0; n < args->n; ++n) {
        const elem *gate = (const elem *)args->hgu + n * 2 * args->f;
        const elem *up = gate + args->f;
        const elem *dact = (const elem *)args->dact + n * args->f;
        elem *dgate = (elem *)args->dhgu + n * 2 * args->f;
        elem *dup = dgate + args->f;
        elem *act_w = (elem *)args->act_w + n * args->f;
        double w = args->w != NULL ? (double)((const real *)args->w)[n] : 1.0;
        double a = 0;

        for (int64_t f = 0; f < args->f; ++f) {
            double g = GET(gate[f]), u = GET(up[f]), d = GET(dact[f]);
            double s = sigmoid(g), silu = g * s;

            a += d * silu * u;
            act_w[f] = PUT(w * silu * u);
            dgate[f] = PUT(w * d * u * (s * (1.0 + g * (1.0 - s))));
            dup[f] = PUT(w * d * silu);
        }
        if (args->a != NULL) ((real *)args->a)[n] = (real)a;
    }
    return GLN_OK;
}
#endif
