/* Causal attention, O(sequences heads S^2 dh): "FlashAttention" (arXiv 2205.14135), algorithm 1. A
 * task is one kv head of one sequence, or every parts-th of its tiles of queries. Keys (transposed)
 * and values are copied dense, then every tile of queries walks over the tiles of keys up to its
 * own with a running maximum, sum and output per query. Both products of a tile are oneDNN products
 * of fixed shape, the softmax between them is one vectorised pass. A query's bits depend neither on
 * S nor on the other sequences. */
#ifndef FN
#include <math.h>
#include <string.h>

#include "base/clones.h"
#include "base/gln_expf.h"
#include "kernels/cpu/attention_tile.h"

#define TASKS_PER_THREAD 4

#define GLN_CPU_FILE "kernels/cpu/attention.c"
#include "kernels/cpu/both_types.inc"
#else

/* Scratch of one task. */
typedef struct FN(head_scratch) {
    char *scratchpad;
    elem *k;          /* [tiles, dh, TILE] */
    elem *v;          /* [tiles * TILE, dh] */
    elem *q;          /* [rows, dh] */
    float *o;         /* [rows, dh] */
    float *s;         /* [rows, TILE] */
    elem *p;          /* [rows, TILE]: s as an operand; s itself where the types are one */
    float *max, *sum; /* [rows] */
} FN(head_scratch_t);

static size_t FN(take_scratch)(const gln_attention_run_t *run, char *base, FN(head_scratch_t) * out)
{
    size_t at = run->scratchpad_bytes;

    out->scratchpad = base;
    out->k = (elem *)(base + at), at += run->head_bytes;
    out->v = (elem *)(base + at), at += run->head_bytes;
    out->q = (elem *)(base + at), at += run->rows_bytes;
    out->o = (float *)(base + at), at += run->rows_sum_bytes;
    out->p = (elem *)(base + at);
    at += sizeof(elem) == sizeof(float) ? 0 : run->tile_bytes;
    out->s = (float *)(base + at), at += run->tile_sum_bytes;
    out->max = (float *)(base + at), at += run->row_bytes;
    out->sum = (float *)(base + at), at += run->row_bytes;
    return at;
}

/* s becomes exp(s - max); max, sum and o move to the new maximum. On the diagonal, keys after the
 * query do not count. */
GLN_CLONES static void FN(softmax_tile)(const FN(head_scratch_t) * scratch, int64_t rows,
                                        int diagonal, float score_scale, int64_t dh)
{
    for (int64_t r = 0; r < rows; ++r) {
        float *row = scratch->s + r * GLN_TILE, *o = scratch->o + r * dh;
        float before = scratch->max[r], lanes[GLN_LANES] = {0}, max, fade;
        int query = (int)(r % GLN_TILE);

        for (int c = 0; c < GLN_TILE; ++c)
            row[c] *= score_scale;
        if (diagonal)
            for (int c = 0; c < GLN_TILE; ++c)
                row[c] = c <= query ? row[c] : -__builtin_inff();
        max = gln_lanes_max(row);
        max = max > before ? max : before;
        for (int c = 0; c < GLN_TILE; ++c)
            row[c] = gln_expf(row[c] - max);
        for (int c = 0; sizeof(elem) != sizeof(float) && c < GLN_TILE; ++c)
            scratch->p[r * GLN_TILE + c] = PUT(row[c]);
        if (max != before) {
            fade = gln_expf(before - max);
            scratch->max[r] = max;
            scratch->sum[r] *= fade;
            for (int64_t i = 0; i < dh; ++i)
                o[i] *= fade;
        }
        gln_lanes_add(row, GLN_TILE, lanes);
        scratch->sum[r] += gln_lanes_sum(lanes);
    }
}

static gln_head_rows_t FN(head_of)(const gln_attention_t *args, const void *x, int64_t row,
                                   int head, int64_t rows)
{
    return (gln_head_rows_t){(const elem *)x + row * args->ldqkv + (int64_t)head * args->dh,
                             args->ldqkv, rows, args->dh};
}

/* out and lse of one head's queries of a tile; `at` is their first row in scratch. */
GLN_CLONES static void FN(store_output)(const gln_attention_t *args,
                                        const FN(head_scratch_t) * scratch, int64_t at,
                                        int64_t first, int64_t rows, int head)
{
    int64_t dh = args->dh, width = args->heads * dh;

    for (int64_t r = 0; r < rows; ++r) {
        const float *restrict o = scratch->o + (at + r) * dh;
        elem *restrict out = (elem *)args->out + (first + r) * width + head * dh;
        float factor = 1.0f / scratch->sum[at + r];

        for (int64_t i = 0; i < dh; ++i)
            out[i] = PUT(o[i] * factor);
        ((float *)args->lse)[(first + r) * args->heads + head] =
            scratch->max[at + r] + logf(scratch->sum[at + r]);
    }
}

/* One tile of queries of `stack` heads from `head` on. */
static void FN(query_tile)(const gln_attention_run_t *run, const FN(head_scratch_t) * scratch,
                           int64_t first, int64_t tile, int head, int worker)
{
    const gln_attention_t *args = run->forward;
    int64_t dh = args->dh, row = first + tile * GLN_TILE;
    int64_t rows = gln_cpu_min(GLN_TILE, args->s - tile * GLN_TILE);

    for (int i = 0; i < run->stack; ++i) {
        gln_head_rows_t q = FN(head_of)(args, args->q, row, head + i, rows);

        FN(attention_load)(&q, GLN_TILE, run->query_scale, scratch->q + i * GLN_TILE * dh);
    }
    memset(scratch->o, 0, run->rows_sum_bytes);
    memset(scratch->sum, 0, run->row_bytes);
    for (int64_t r = 0; r < run->rows; ++r)
        scratch->max[r] = -INFINITY;
    for (int64_t j = 0; j <= tile; ++j) {
        gln_product_run(run->state, run->scores, worker, scratch->q, scratch->k + j * GLN_TILE * dh,
                        scratch->s, scratch->scratchpad);
        FN(softmax_tile)(scratch, run->rows, j == tile, run->score_scale, dh);
        gln_product_run(run->state, run->mix, worker, scratch->p, scratch->v + j * GLN_TILE * dh,
                        scratch->o, scratch->scratchpad);
    }
    for (int i = 0; i < run->stack; ++i)
        FN(store_output)(args, scratch, (int64_t)i * GLN_TILE, row, rows, head + i);
}

static void FN(attention_task)(void *ctx, int task, int worker)
{
    const gln_attention_run_t *run = ctx;
    const gln_attention_t *args = run->forward;
    int part = task % run->parts, kv_head = task / run->parts % args->kv_heads;
    int group = args->heads / args->kv_heads;
    int64_t first = task / run->parts / args->kv_heads * args->s;
    /* the longest first: tasks are claimed in ascending order */
    int64_t last_tile = run->tiles - 1 - part;
    gln_head_rows_t v = FN(head_of)(args, args->v, first, kv_head,
                                    gln_cpu_min((last_tile + 1) * GLN_TILE, args->s));
    FN(head_scratch_t) scratch;

    FN(take_scratch)(run, run->state->scratch[worker], &scratch);
    FN(attention_load)(&v, (last_tile + 1) * GLN_TILE, 1.0f, scratch.v);
    for (int64_t tile = 0; tile <= last_tile; ++tile) {
        int64_t row = tile * GLN_TILE;
        gln_head_rows_t k =
            FN(head_of)(args, args->k, first + row, kv_head, gln_cpu_min(GLN_TILE, args->s - row));

        FN(attention_load_transposed)(&k, GLN_TILE, 1.0f, GLN_TILE, scratch.k + row * args->dh);
    }
    for (int64_t tile = last_tile; tile >= 0; tile -= run->parts)
        for (int head = kv_head * group; head < (kv_head + 1) * group; head += run->stack)
            FN(query_tile)(run, &scratch, first, tile, head, worker);
}

static gln_status_t FN(get_products)(gln_attention_run_t *run)
{
    int64_t dh = run->forward->dh;
    gln_dtype_t dtype = run->state->dtype;
    gln_product_key_t scores = {run->rows, GLN_TILE, dh, 0, 0, 0, dtype, dtype, GLN_F32};
    gln_product_key_t mix = {run->rows, dh, GLN_TILE, 0, 0, 1, dtype, dtype, GLN_F32};
    gln_status_t status = gln_attention_product(run, &scores, &run->scores);

    return status == GLN_OK ? gln_attention_product(run, &mix, &run->mix) : status;
}

gln_status_t FN(attention)(gln_kernels_t *k, const gln_attention_t *args)
{
    gln_cpu_state_t *state = k->state;
    int64_t heads = args->sequences * args->kv_heads;
    gln_attention_run_t run;
    FN(head_scratch_t) scratch;
    int entered = gln_cpu_library_enter(state);
    gln_status_t status = GLN_OK;

    if (heads > 0 && args->s > 0) {
        gln_attention_plan(state, args, NULL, &run);
        run.parts = (int)gln_cpu_min(run.tiles,
                                     (TASKS_PER_THREAD * state->workers_count + heads - 1) / heads);
        status = FN(get_products)(&run);
        if (status == GLN_OK)
            status = gln_cpu_scratch(state, FN(take_scratch)(&run, state->scratch[0], &scratch));
        if (status == GLN_OK)
            gln_pool_run(k->pool, (int)heads * run.parts, FN(attention_task), &run);
    }
    return gln_cpu_library_leave(state, entered, status);
}
#endif
