/* Row-wise loops written out for AVX-512, of one chunk or one row each; the loops beside them in
 * each operation's file serve every other CPU level. SwiGLU and cross-entropy have an exp with
 * fused multiply-add and a reciprocal without division, so their last bits differ from those of
 * other levels; all else gives the same bits at every level. An element's bits do not depend on
 * where in a call it lies. Included by kernels/cpu alone.
 *
 * Arrays are of the table's element type where they are void. `past`: whole cache lines, written
 * past the caches. `ahead`: what the loop asks for meanwhile, need not be there. */
#ifndef GLN_KERNELS_CPU_WIDE_H
#define GLN_KERNELS_CPU_WIDE_H

#include "kernels/cpu/cpu_internal.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_wide_backward {
    const void *dact, *gate, *up, *ahead[3]; /* of the same three */
    void *dgate, *dup, *act_w;
    float w;
    int past;
} gln_wide_backward_t;

typedef struct gln_wide_ops {
    /* y = exp(x): at most 1.5 ulp; 0 below -87.33 (no subnormal result), +inf above 88.7228 */
    void (*exp)(const float *x, int64_t count, float *y);
    /* act = gate sigmoid(gate) up */
    void (*swiglu)(const void *gate, const void *up, const void *ahead_gate, const void *ahead_up,
                   int64_t count, int past, void *act);
    /* lanes += dact silu(gate) up, element i to lane i % 16; count at most GLN_CHUNK */
    void (*swiglu_backward)(const gln_wide_backward_t *args, int64_t count, float lanes[GLN_LANES]);
    /* max = the higher of max and all x; lanes = lanes exp(old max - max) + e with
     * e = exp(x - max). e may be x. */
    void (*exp_sum)(const float *x, const float *ahead, int64_t count, float *max,
                    float lanes[GLN_LANES], float *e);
    /* y = factor x; y may be x where y is float */
    void (*scale)(const float *x, float factor, int64_t count, int past, void *y);
    float (*sum_squares)(const void *x, int64_t h);
    /* y = x rstd w, and the next row is asked for */
    void (*rmsnorm)(const void *x, const float *w, float rstd, int64_t h, int past, void *y);
    /* sum of dy w x */
    float (*dot3)(const void *dy, const float *w, const void *x, int64_t h);
    /* dx += rstd (dy w - z mean), dw += dy z with z = x rstd, and the next row is asked for */
    void (*rmsnorm_backward)(const void *dy, const void *x, const float *w, float rstd, float mean,
                             int64_t h, void *dx, float *dw);
    /* all heads of a row, half * 2 wide each */
    void (*rope)(const float *cosine, const float *sine, float sign, int64_t half, int heads,
                 void *row);
    /* y = ((0 + weight[0] x[0]) + weight[1] x[1]) + ...; weight NULL: ones. x[i] is row index[i] of
     * `rows`, h apart. */
    void (*combine)(const void *rows, int64_t h, const int32_t *index, const float *weight,
                    int routes, int64_t count, int past, void *y);
} gln_wide_ops_t;

/** @param bf16_unit whether the instructions for bf16 may be used: the bits are the same
 *  @return NULL where this machine does not have the instructions, or the compiler does not. */
const gln_wide_ops_t *gln_wide_ops(gln_dtype_t dtype, int bf16_unit);

#ifdef __cplusplus
}
#endif
#endif
