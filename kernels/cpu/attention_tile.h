/* What attention and its gradient share: tiles of scores, dense copies of a head. Included by
 * kernels/cpu alone.
 *
 * Query heads that share a kv head are stacked: a tile has TILE queries of each of `stack` heads
 * against TILE keys, so that small heads still make products worth their call. Sequences are filled
 * up to whole tiles with zeros. */
#ifndef GLN_KERNELS_CPU_ATTENTION_TILE_H
#define GLN_KERNELS_CPU_ATTENTION_TILE_H

#include "kernels/cpu/cpu_internal.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GLN_TILE GLN_MAX_LANES /* 64 */

typedef struct gln_attention_run {
    gln_cpu_state_t *state;
    const gln_attention_t *forward;
    const gln_attention_backward_t *backward; /* NULL in the forward pass */
    int stack;                                /* heads of a tile; divides the group */
    int64_t tiles;                            /* of a sequence */
    int64_t rows;                             /* stack * TILE */
    int parts;                                /* forward: tasks of one kv head of one sequence */
    float scale;                              /* 1 / sqrt(dh) */
    /* Where it is applied: to queries as they are loaded, or where that would round them, to scores
     * and to gradients of keys. The other is 1. */
    float query_scale, score_scale;
    const gln_product_t *scores; /* forward [rows, TILE], backward [TILE, rows] = X Y */
    const gln_product_t *mix;    /* forward [rows, dh], backward [TILE, dh] += X Y */
    const gln_product_t *mix_q;  /* backward: [rows, dh] += X [TILE, rows]^T Y [TILE, dh] */
    /* scratch blocks: [tiles * TILE, dh], [rows, dh] and [rows, TILE] of elements and of floats,
     * [rows] of floats */
    size_t scratchpad_bytes, head_bytes, head_sum_bytes, rows_bytes, rows_sum_bytes, tile_bytes,
        tile_sum_bytes, row_bytes;
} gln_attention_run_t;

/** Fill all of `run` but products and parts.
 *  @param backward NULL for the forward pass */
void gln_attention_plan(gln_cpu_state_t *state, const gln_attention_t *forward,
                        const gln_attention_backward_t *backward, gln_attention_run_t *run);

/** Get a product and count its scratchpad. As gln_product_get. */
gln_status_t gln_attention_product(gln_attention_run_t *run, const gln_product_key_t *key,
                                   const gln_product_t **out);

/* A head's rows in a [N, ..] array: `rows` of them, dh wide, row stride ld. */
typedef struct gln_head_rows {
    const void *x;
    int64_t ld, rows, dh;
} gln_head_rows_t;

/* For each element type `elem`; see both_types.inc.
 * load:  dense [padded, dh] copy times `scale`, filled up with zeros;
 * load_transposed: likewise, element (row, i) goes to to[i * to_ld + row];
 * store: `rows` dense rows times `scale` to row stride ld. */
#define GLN_ATTENTION_DECLARE(type, elem)                                                          \
    void gln_cpu_##type##_attention_load(const gln_head_rows_t *from, int64_t padded, float scale, \
                                         elem *to);                                                \
    void gln_cpu_##type##_attention_load_transposed(const gln_head_rows_t *from, int64_t padded,   \
                                                    float scale, int64_t to_ld, elem *to);         \
    void gln_cpu_##type##_attention_store(const float *from, int64_t rows, int64_t dh,             \
                                          float scale, int64_t ld, elem *to);

GLN_ATTENTION_DECLARE(f32, float)
GLN_ATTENTION_DECLARE(bf16, gln_bf16_t)

#ifdef __cplusplus
}
#endif
#endif
