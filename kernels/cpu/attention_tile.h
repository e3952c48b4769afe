/* What attention and its gradient share: square tiles of scores, dense copies of a head. Included
 * by kernels/cpu alone. */
#ifndef GLN_KERNELS_CPU_ATTENTION_TILE_H
#define GLN_KERNELS_CPU_ATTENTION_TILE_H

#include "kernels/cpu/cpu_internal.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GLN_TILE \
    64 /* queries and keys of a tile; sequences are filled up to whole tiles with zeros */

typedef struct gln_attention_run {
    gln_cpu_state_t *state;
    const gln_attention_t *forward;
    const gln_attention_backward_t *backward; /* NULL in the forward pass */
    int64_t tiles;
    float scale;                   /* 1 / sqrt(dh) */
    const gln_product_t *scores;   /* [TILE, TILE] = X [TILE, dh] Y [TILE, dh]^T */
    const gln_product_t *mix;      /* [TILE, dh] += X [TILE, TILE] Y [TILE, dh] */
    const gln_product_t *mix_back; /* [TILE, dh] += X [TILE, TILE]^T Y [TILE, dh] */
    size_t scratchpad_bytes, head_bytes, rows_bytes, tile_bytes; /* of scratch blocks */
} gln_attention_run_t;

/** Fill `run`, the products made. As gln_product_get. */
gln_status_t gln_attention_plan(gln_cpu_state_t *state, const gln_attention_t *forward,
                                gln_attention_run_t *run);

/** Dense [padded, dh] copy of `rows` rows, times `scale`, filled up with zeros. */
void gln_attention_load(const float *from, int64_t ld, int64_t rows, int64_t padded, int64_t dh,
                        float scale, float *to);

/** The inverse: `rows` dense rows, times `scale`, to row stride ld. */
void gln_attention_store(const float *from, int64_t rows, int64_t dh, float scale, int64_t ld,
                         float *to);

#ifdef __cplusplus
}
#endif
#endif
