/* The reference operations, once per type: gln_ref_f32_gemm, gln_ref_bf16_gemm, and so on.
 *
 * Every file of this folder includes itself for every type through every_type.inc, with `elem` the
 * element type, `real` the type acc, GET and PUT to read an element as a double and to round one to
 * an element, and FN(name) the name of an operation. Two rules hold in all of them:
 * - arithmetic is done in double and rounded once when stored, also for F32 and BF16, save where
 * kernels.h fixes the type and the order of a sum (combine, embed_backward, add): those are done in
 * `real`;
 * - sums run in ascending order, or in a fixed order that depends on the number of terms alone. */
#ifndef GLN_KERNELS_REF_OPS_H
#define GLN_KERNELS_REF_OPS_H

#include "base/bf16.h"
#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GLN_REF_DECLARE(type)                                                                 \
    gln_status_t gln_ref_##type##_gemm(gln_kernels_t *k, gln_gemm_mode_t mode,                \
                                       const gln_gemm_t *items, int count);                   \
    gln_status_t gln_ref_##type##_rmsnorm(gln_kernels_t *k, const gln_rmsnorm_t *args);       \
    gln_status_t gln_ref_##type##_rmsnorm_backward(gln_kernels_t *k,                          \
                                                   const gln_rmsnorm_backward_t *args);       \
    gln_status_t gln_ref_##type##_rope(gln_kernels_t *k, const gln_rope_t *args);             \
    gln_status_t gln_ref_##type##_attention(gln_kernels_t *k, const gln_attention_t *args);   \
    gln_status_t gln_ref_##type##_attention_backward(gln_kernels_t *k,                        \
                                                     const gln_attention_backward_t *args);   \
    gln_status_t gln_ref_##type##_swiglu(gln_kernels_t *k, const gln_swiglu_t *args);         \
    gln_status_t gln_ref_##type##_swiglu_backward(gln_kernels_t *k,                           \
                                                  const gln_swiglu_backward_t *args);         \
    gln_status_t gln_ref_##type##_gather(gln_kernels_t *k, const gln_gather_t *args);         \
    gln_status_t gln_ref_##type##_combine(gln_kernels_t *k, const gln_combine_t *args);       \
    gln_status_t gln_ref_##type##_embed(gln_kernels_t *k, const gln_embed_t *args);           \
    gln_status_t gln_ref_##type##_embed_backward(gln_kernels_t *k,                            \
                                                 const gln_embed_backward_t *args);           \
    gln_status_t gln_ref_##type##_cross_entropy(gln_kernels_t *k,                             \
                                                const gln_cross_entropy_t *args);             \
    gln_status_t gln_ref_##type##_adamw(gln_kernels_t *k, const gln_adamw_t *args);           \
    gln_status_t gln_ref_##type##_add(gln_kernels_t *k, int64_t n, const void *x, void *y);   \
    gln_status_t gln_ref_##type##_round(gln_kernels_t *k, int64_t n, const void *x, void *y); \
    gln_status_t gln_ref_##type##_sum_squares(gln_kernels_t *k, int64_t n, const void *x,     \
                                              double *out);

GLN_REF_DECLARE(f32)
GLN_REF_DECLARE(f64)
GLN_REF_DECLARE(bf16)

/* Columns that a row accumulator on the stack holds; wider rows are done in pieces. */
#define GLN_REF_COLUMNS 256

#ifdef __cplusplus
}
#endif
#endif
