/* Copies between strided heads and dense tiles, and the sizes of a call. */
#ifndef FN
#include "kernels/cpu/attention_tile.h"

#include <math.h>
#include <string.h>

#include "base/clones.h"

#define STACK_MAX 4

void gln_attention_plan(gln_cpu_state_t *state, const gln_attention_t *forward,
                        const gln_attention_backward_t *backward, gln_attention_run_t *run)
{
    int group = forward->heads / forward->kv_heads;
    size_t bytes = gln_dtype_bytes(state->dtype);

    memset(run, 0, sizeof *run);
    run->state = state;
    run->forward = forward;
    run->backward = backward;
    for (run->stack = STACK_MAX; group % run->stack != 0;)
        --run->stack;
    run->tiles = (forward->s + GLN_TILE - 1) / GLN_TILE;
    run->rows = (int64_t)run->stack * GLN_TILE;
    run->parts = 1;
    run->scale = (float)(1.0 / sqrt((double)forward->dh));
    run->query_scale = state->dtype == GLN_F32 ? run->scale : 1.0f;
    run->score_scale = state->dtype == GLN_F32 ? 1.0f : run->scale;
    run->head_bytes = gln_cpu_bytes(run->tiles * GLN_TILE * forward->dh, bytes);
    run->head_sum_bytes = gln_cpu_bytes(run->tiles * GLN_TILE * forward->dh, sizeof(float));
    run->rows_bytes = gln_cpu_bytes(run->rows * forward->dh, bytes);
    run->rows_sum_bytes = gln_cpu_bytes(run->rows * forward->dh, sizeof(float));
    run->tile_bytes = gln_cpu_bytes(run->rows * GLN_TILE, bytes);
    run->tile_sum_bytes = gln_cpu_bytes(run->rows * GLN_TILE, sizeof(float));
    run->row_bytes = gln_cpu_bytes(run->rows, sizeof(float));
}

gln_status_t gln_attention_product(gln_attention_run_t *run, const gln_product_key_t *key,
                                   const gln_product_t **out)
{
    gln_status_t status = gln_product_get(run->state, key, out);

    if (status == GLN_OK && (*out)->scratchpad_bytes > run->scratchpad_bytes)
        run->scratchpad_bytes = (*out)->scratchpad_bytes;
    return status;
}

#define GLN_CPU_FILE "kernels/cpu/attention_tile.c"
#include "kernels/cpu/both_types.inc"
#else

GLN_CLONES void FN(attention_load)(const gln_head_rows_t *from, int64_t padded, float scale,
                                   elem *to)
{
    int64_t dh = from->dh;

    for (int64_t row = 0; row < from->rows; ++row) {
        const elem *restrict x = (const elem *)from->x + row * from->ld;
        elem *restrict y = to + row * dh;

        for (int64_t i = 0; i < dh; ++i)
            y[i] = PUT(GET(x[i]) * scale);
    }
    if (from->rows < padded)
        memset(to + from->rows * dh, 0, (size_t)((padded - from->rows) * dh) * sizeof *to);
}

GLN_CLONES void FN(attention_load_transposed)(const gln_head_rows_t *from, int64_t padded,
                                              float scale, int64_t to_ld, elem *to)
{
    for (int64_t row = 0; row < from->rows; ++row)
        for (int64_t i = 0; i < from->dh; ++i)
            to[i * to_ld + row] = PUT(GET(((const elem *)from->x)[row * from->ld + i]) * scale);
    for (int64_t i = 0; from->rows < padded && i < from->dh; ++i)
        memset(to + i * to_ld + from->rows, 0, (size_t)(padded - from->rows) * sizeof *to);
}

GLN_CLONES void FN(attention_store)(const float *from, int64_t rows, int64_t dh, float scale,
                                    int64_t ld, elem *to)
{
    for (int64_t row = 0; row < rows; ++row) {
        const float *restrict x = from + row * dh;
        elem *restrict y = to + row * ld;

        for (int64_t i = 0; i < dh; ++i)
            y[i] = PUT(x[i] * scale);
    }
}
#endif
