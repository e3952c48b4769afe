/* How products of one shape are cut into products of fixed size. Included by kernels/cpu alone. */
#ifndef GLN_KERNELS_CPU_GEMM_SHAPE_H
#define GLN_KERNELS_CPU_GEMM_SHAPE_H

#include "kernels/cpu/cpu_internal.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GLN_GEMM_SIZES_MAX 5
#define GLN_GEMM_TILE_MIN 32   /* TN: rows of C of a task, a power of two from here ... */
#define GLN_GEMM_TILE_MAX 256  /* ... to here */
#define GLN_GEMM_WIDTH_MAX 512 /* TN: columns of C of a task */

/* What stays the same while the number of rows varies. The cut dimension is m (NN, NT) or k (TN):
 * blocks of sizes[0] > sizes[1] > ... rows, the largest first, and a last block of sizes_count - 1
 * filled up with zeros. */
typedef struct gln_gemm_shape {
    gln_gemm_mode_t mode;
    int64_t n, inner;    /* inner: k (NN, NT) or m (TN) */
    int64_t tile_wanted; /* TN: see gln_gemm_shape_get; else 0 */
    int sizes_count;
    int sizes[GLN_GEMM_SIZES_MAX];
    int64_t tile, width; /* TN: rows and columns of C of one task */
    /* NN, NT: [0][0]. TN: [1] is for the last, smaller tile in that direction; NULL if there is
     * none */
    const gln_product_t *products[2][2][GLN_GEMM_SIZES_MAX];
    int rows_independent;    /* of every product */
    size_t scratchpad_bytes; /* the most that one of the products needs */
    struct gln_gemm_shape *next;
} gln_gemm_shape_t;

/* One product of a call, cut into tasks. */
typedef struct gln_gemm_item {
    gln_gemm_t args;
    const gln_gemm_shape_t *shape;
    int first_size; /* NN, NT: index of the largest block */
    int first_task, tasks_count;
    int a_dense, b_dense, c_dense;
    size_t a_at, b_at, c_at;           /* offsets of copies in scratch */
    int64_t block_rows, block_columns; /* gemm_panel.c: of C, of one task */
} gln_gemm_item_t;

/** Run up to GLN_CPU_ITEMS_MAX items on packed panels; state->panels must be set. */
gln_status_t gln_cpu_gemm_panels(gln_cpu_state_t *state, gln_gemm_mode_t mode,
                                 const gln_gemm_t *items, int count);

/** C of a product over nothing. */
void gln_gemm_zero(const gln_cpu_state_t *state, gln_gemm_mode_t mode, const gln_gemm_t *g);

/** Find or make the products of a shape. As gln_product_get.
 *  @param tile  TN: rows of C that a task should have, a power of two in [GLN_GEMM_TILE_MIN,
 *               GLN_GEMM_TILE_MAX], used where it does not change a bit; else 0
 */
gln_status_t gln_gemm_shape_get(gln_cpu_state_t *state, gln_gemm_mode_t mode,
                                const gln_gemm_t *args, int64_t tile, const gln_gemm_shape_t **out);

/** Where block number `block` of `rows` rows starts, how many of them it covers and which size runs
 *  it. Blocks larger than sizes[first_size] are not used. */
typedef struct gln_gemm_block {
    int64_t start, rows;
    int size; /* index */
} gln_gemm_block_t;

gln_gemm_block_t gln_gemm_block_at(const gln_gemm_shape_t *shape, int first_size, int64_t rows,
                                   int block);
int gln_gemm_blocks(const gln_gemm_shape_t *shape, int first_size, int64_t rows);

#ifdef __cplusplus
}
#endif
#endif
