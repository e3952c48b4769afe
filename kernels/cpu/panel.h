/* Products on panels that stay in cache: packing and the inner loop, for AVX-512. Included by
 * kernels/cpu alone.
 *
 * A step is what one 32-bit lane adds at once: one f32 product, or two bf16 products. Everything
 * here counts in steps; an odd last bf16 is joined by a zero. */
#ifndef GLN_KERNELS_CPU_PANEL_H
#define GLN_KERNELS_CPU_PANEL_H

#include "kernels/cpu/cpu_internal.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GLN_PANEL_ROWS 14    /* of C at once: 28 registers of sums */
#define GLN_PANEL_COLUMNS 32 /* of C at once: two vectors */
#define GLN_PANEL_STEPS 512  /* of the summed dimension at once */
/* Distances in the packed A: a row's steps are neighbours (padded, so that 14 rows do not share a
 * set of the first-level cache), or a step's rows are (TN). */
#define GLN_PANEL_A_ROW (GLN_PANEL_STEPS + 16)
#define GLN_PANEL_A_STEP 16
#define GLN_PANEL_A_WORDS (GLN_PANEL_STEPS * GLN_PANEL_A_STEP)

typedef enum gln_panel_store {
    GLN_PANEL_PUT, /* C = sums, f32 */
    GLN_PANEL_ADD, /* C += sums, f32 */
    GLN_PANEL_PUT_BF16,
    GLN_PANEL_ADD_BF16
} gln_panel_store_t;

/* C[rows, columns] from a packed A and one packed panel of B. */
typedef struct gln_panel_tile {
    const uint32_t *a;
    const uint32_t *b; /* [steps][32] */
    int64_t steps;
    void *c;
    int64_t ldc;
    uint32_t mask; /* of the columns that exist */
    gln_panel_store_t store;
} gln_panel_tile_t;

typedef struct gln_panel_ops {
    /* [rows - 1], rows <= GLN_PANEL_ROWS */
    void (*by_row[GLN_PANEL_ROWS])(const gln_panel_tile_t *tile);
    void (*by_step[GLN_PANEL_ROWS])(const gln_panel_tile_t *tile);
    /* columns of a stored [k, n]: to panels [columns / 32 rounded up][steps][32] */
    void (*pack_b)(const void *b, int64_t ldb, int64_t k, int64_t columns, uint32_t *out);
    /* the same of a stored [n, k] */
    void (*pack_b_turned)(const void *b, int64_t ldb, int64_t k, int64_t columns, uint32_t *out);
    /* up to GLN_PANEL_ROWS columns of a stored [k, m]: to [steps][GLN_PANEL_A_STEP] */
    void (*pack_a_turned)(const void *a, int64_t lda, int64_t k, int64_t rows, uint32_t *out);
} gln_panel_ops_t;

/** @return NULL where this machine does not have the instructions, or the compiler does not. */
const gln_panel_ops_t *gln_panel_ops(gln_dtype_t dtype);

#ifdef __cplusplus
}
#endif
#endif
