/* Rotary position embedding, O(N heads dh): the pair (i, i + dh/2) of a row at position p turns by
 * the angle p theta^(-2i/dh), or back by it. */
#ifndef FN
#include <math.h>

#include "kernels/ref/ops.h"
#define GLN_REF_FILE "kernels/ref/rope.c"
#include "kernels/ref/every_type.inc"
#else

gln_status_t FN(rope)(gln_kernels_t *k, const gln_rope_t *args)
{
    int half = args->dh / 2;

    (void)k;
    for (int64_t n = 0; n < args->n; ++n)
        for (int i = 0; i < half; ++i) {
            double angle = (double)(n % args->s) * pow(args->theta, -2.0 * i / args->dh);
            double cosine = cos(angle);
            double sine = args->inverse ? -sin(angle) : sin(angle);

            for (int head = 0; head < args->heads; ++head) {
                elem *x = (elem *)args->x + n * args->ldx + (int64_t)head * args->dh + i;
                double low = GET(x[0]), high = GET(x[half]);

                x[0] = PUT(low * cosine - high * sine);
                x[half] = PUT(high * cosine + low * sine);
            }
        }
    return GLN_OK;
}
#endif
