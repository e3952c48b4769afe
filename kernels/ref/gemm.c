/* Matrix products. Textbook loops, 2 m n k operations each, sums in double.
 * NN and TN walk a row of C held in double over the rows of B (i-k-j), so that the inner loop runs
 * along memory; a term's place in the sum depends on k alone. NT is a dot product per element,
 * summed in eight fixed lanes. Nothing depends on m in NN and NT: a row's result is its own. */
#ifndef FN
#include "base/clones.h"
#include "kernels/ref/ops.h"
#define GLN_REF_FILE "kernels/ref/gemm.c"
#include "kernels/ref/every_type.inc"
#else

/* C[at .. at + columns) from the double row that holds its sum. */
static void FN(gemm_store)(gln_gemm_mode_t mode, void *c, int64_t at, const double *sum,
                           int64_t columns)
{
    real *wide = (real *)c + at;
    elem *narrow = (elem *)c + at;

    if (mode.c_acc)
        for (int64_t j = 0; j < columns; ++j)
            wide[j] = (real)(mode.accumulate ? (double)wide[j] + sum[j] : sum[j]);
    else
        for (int64_t j = 0; j < columns; ++j)
            narrow[j] = PUT(mode.accumulate ? GET(narrow[j]) + sum[j] : sum[j]);
}

/* NN: step_i = lda, step_k = 1. TN: step_i = 1, step_k = lda. */
GLN_CLONES static void FN(gemm_rows)(const gln_gemm_t *g, int64_t step_i, int64_t step_k,
                                     gln_gemm_mode_t mode)
{
    for (int64_t first = 0; first < g->n; first += GLN_REF_COLUMNS) {
        int64_t columns = g->n - first < GLN_REF_COLUMNS ? g->n - first : GLN_REF_COLUMNS;

        for (int64_t i = 0; i < g->m; ++i) {
            const elem *a = (const elem *)g->a + i * step_i;
            double sum[GLN_REF_COLUMNS] = {0};

            for (int64_t k = 0; k < g->k; ++k) {
                const elem *b = (const elem *)g->b + k * g->ldb + first;
                double factor = GET(a[k * step_k]);

                for (int64_t j = 0; j < columns; ++j)
                    sum[j] += factor * GET(b[j]);
            }
            FN(gemm_store)(mode, g->c, i * g->ldc + first, sum, columns);
        }
    }
}

GLN_CLONES static double FN(gemm_dot)(const elem *a, const elem *b, int64_t count)
{
    double lanes[8] = {0};
    int64_t k = 0;

    for (; k + 8 <= count; k += 8)
        for (int lane = 0; lane < 8; ++lane)
            lanes[lane] += GET(a[k + lane]) * GET(b[k + lane]);
    for (int lane = 0; k < count; ++k, ++lane)
        lanes[lane] += GET(a[k]) * GET(b[k]);
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
           ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

static void FN(gemm_dots)(const gln_gemm_t *g, gln_gemm_mode_t mode)
{
    for (int64_t i = 0; i < g->m; ++i)
        for (int64_t j = 0; j < g->n; ++j) {
            double sum = FN(gemm_dot)((const elem *)g->a + i * g->lda,
                                      (const elem *)g->b + j * g->ldb, g->k);

            FN(gemm_store)(mode, g->c, i * g->ldc + j, &sum, 1);
        }
}

gln_status_t FN(gemm)(gln_kernels_t *k, gln_gemm_mode_t mode, const gln_gemm_t *items, int count)
{
    (void)k;
    for (int i = 0; i < count; ++i) {
        const gln_gemm_t *g = &items[i];

        switch (mode.form) {
        case GLN_GEMM_NN:
            FN(gemm_rows)(g, g->lda, 1, mode);
            break;
        case GLN_GEMM_TN:
            FN(gemm_rows)(g, 1, g->lda, mode);
            break;
        case GLN_GEMM_NT:
            FN(gemm_dots)(g, mode);
            break;
        }
    }
    return GLN_OK;
}
#endif
