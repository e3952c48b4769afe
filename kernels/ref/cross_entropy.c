/* Cross entropy and its gradient, three passes over a row of logits, O(N V), with the row's maximum
 * taken out of the exponentials. dlogits may be the logits: an element is read for the last time
 * before it is written. */
#ifndef FN
#include <math.h>

#include "kernels/ref/ops.h"
#define GLN_REF_FILE "kernels/ref/cross_entropy.c"
#include "kernels/ref/every_type.inc"
#else

/* log of the sum of exp(x[0..count)), count >= 1 */
static double FN(log_sum_exp)(const real *x, int64_t count)
{
    double max = (double)x[0], sum = 0;

    for (int64_t i = 1; i < count; ++i)
        max = (double)x[i] > max ? (double)x[i] : max;
    for (int64_t i = 0; i < count; ++i)
        sum += exp((double)x[i] - max);
    return max + log(sum);
}

gln_status_t FN(cross_entropy)(gln_kernels_t *k, const gln_cross_entropy_t *args)
{
    (void)k;
    for (int64_t n = 0; n < args->n; ++n) {
        const real *logits = (const real *)args->logits + n * args->v;
        elem *dlogits = args->dlogits != NULL ? (elem *)args->dlogits + n * args->v : NULL;
        int32_t target = args->target[n];
        double lse = target >= 0 ? FN(log_sum_exp)(logits, args->v) : 0;

        ((real *)args->loss)[n] = (real)(target >= 0 ? lse - (double)logits[target] : 0);
        for (int64_t v = 0; dlogits != NULL && v < args->v; ++v) {
            double p = target >= 0 ? exp((double)logits[v] - lse) - (v == target ? 1.0 : 0.0) : 0;

            dlogits[v] = PUT(args->scale * p);
        }
    }
    return GLN_OK;
}
#endif
