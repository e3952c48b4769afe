/* One random call of every operation of kernels/kernels.h, for tests that compare backends. */
#ifndef GLN_TESTS_SUPPORT_OP_CASES_H
#define GLN_TESTS_SUPPORT_OP_CASES_H

#include "kernels/kernels.h"
#include "tests/support/record.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Make shapes and arguments out of record->seed, call the operation once on k, record everything
 * it reads and writes. What must be there first (an attention's output, say) is computed on `ref`,
 * which has the dtype of k.
 *  @param variant counts up from 0 and walks through modes and edge sizes: 0 rows, 1 row, any */
typedef gln_status_t (*gln_op_case_fn)(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                                       gln_record_t *record);

gln_status_t gln_case_gemm(gln_kernels_t *k, gln_kernels_t *ref, int variant, gln_record_t *record);
gln_status_t gln_case_rmsnorm(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                              gln_record_t *record);
gln_status_t gln_case_rmsnorm_backward(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                                       gln_record_t *record);
gln_status_t gln_case_rope(gln_kernels_t *k, gln_kernels_t *ref, int variant, gln_record_t *record);
gln_status_t gln_case_attention(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                                gln_record_t *record);
gln_status_t gln_case_attention_backward(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                                         gln_record_t *record);
gln_status_t gln_case_swiglu(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                             gln_record_t *record);
gln_status_t gln_case_swiglu_backward(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                                      gln_record_t *record);
gln_status_t gln_case_gather(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                             gln_record_t *record);
gln_status_t gln_case_combine(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                              gln_record_t *record);
gln_status_t gln_case_embed(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                            gln_record_t *record);
gln_status_t gln_case_embed_backward(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                                     gln_record_t *record);
gln_status_t gln_case_cross_entropy(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                                    gln_record_t *record);
gln_status_t gln_case_adamw(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                            gln_record_t *record);
gln_status_t gln_case_add(gln_kernels_t *k, gln_kernels_t *ref, int variant, gln_record_t *record);
gln_status_t gln_case_round(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                            gln_record_t *record);
gln_status_t gln_case_sum_squares(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                                  gln_record_t *record);

#ifdef __cplusplus
}
#endif
#endif
