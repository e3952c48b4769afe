/* The operations and sizes that bench_kernels measures. */
#ifndef GLN_TESTS_BENCH_BENCH_CASES_H
#define GLN_TESTS_BENCH_BENCH_CASES_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum gln_bench_bound { GLN_BENCH_GEMM, GLN_BENCH_COPY } gln_bench_bound_t;

typedef struct gln_bench_case {
    const char *name;
    char shape[64];
    gln_bench_bound_t bound;
    double flops, bytes; /* of one call */
    gln_status_t (*run)(gln_kernels_t *k, void *args);
    void *args;   /* one block with all arguments */
    void *memory; /* one block with all arrays */
} gln_bench_case_t;

/** Set up case number `index`, or leave run NULL where its name does not contain `only`.
 *  @return 0 after the last one, or when memory is short. */
int gln_bench_case_open(int index, const char *only, gln_bench_case_t *out);

void gln_bench_case_close(gln_bench_case_t *bench);

#ifdef __cplusplus
}
#endif
#endif
