/* The gradient of causal attention, O(sequences heads S^2 dh), FlashAttention (arXiv 2205.14135)
 * section B.4. With P = exp(s - lse), dP = dO V^T, D = rowsum(dO O):
 *   dS = P (dP - D);  dQ = dS K / sqrt(dh),  dK = dS^T Q / sqrt(dh),  dV = P^T dO.
 * A task is one kv head of one sequence: the tiles of its dK and dV are summed over the query heads
 * of the group and over the tiles of queries, both ascending. Tiles are computed transposed (keys
 * by queries), so that four of the five products read their operands as they lie. */
#ifndef FN
#include <string.h>

#include "base/clones.h"
#include "base/gln_expf.h"
#include "kernels/cpu/attention_tile.h"

#define GLN_CPU_FILE "kernels/cpu/attention_backward.c"
#include "kernels/cpu/both_types.inc"
#else

typedef struct FN(group_scratch) {
    char *scratchpad;
    elem *k, *v;                  /* [tiles * TILE, dh] */
    float *dk, *dv;               /* [tiles * TILE, dh] */
    elem *q, *dout;               /* [rows, dh]; q times query_scale */
    float *dq;                    /* [rows, dh] */
    elem *q_turned, *dout_turned; /* [dh, rows] */
    float *p, *ds;                /* [TILE, rows] */
    elem *p_factor, *ds_factor;   /* p and ds as operands; themselves where the types are one */
    float *lse, *delta;           /* [rows] */
} FN(group_scratch_t);

static size_t FN(take_scratch)(const gln_attention_run_t *run, char *base,
                               FN(group_scratch_t) * out)
{
    size_t at = run->scratchpad_bytes;

    out->scratchpad = base;
    out->k = (elem *)(base + at), at += run->head_bytes;
    out->v = (elem *)(base + at), at += run->head_bytes;
    out->dk = (float *)(base + at), at += run->head_sum_bytes;
    out->dv = (float *)(base + at), at += run->head_sum_bytes;
    out->q = (elem *)(base + at), at += run->rows_bytes;
    out->dout = (elem *)(base + at), at += run->rows_bytes;
    out->dq = (float *)(base + at), at += run->rows_sum_bytes;
    out->q_turned = (elem *)(base + at), at += run->rows_bytes;
    out->dout_turned = (elem *)(base + at), at += run->rows_bytes;
    out->p_factor = (elem *)(base + at);
    at += sizeof(elem) == sizeof(float) ? 0 : run->tile_bytes;
    out->p = (float *)(base + at), at += run->tile_sum_bytes;
    out->ds_factor = (elem *)(base + at);
    at += sizeof(elem) == sizeof(float) ? 0 : run->tile_bytes;
    out->ds = (float *)(base + at), at += run->tile_sum_bytes;
    out->lse = (float *)(base + at), at += run->row_bytes;
    out->delta = (float *)(base + at), at += run->row_bytes;
    return at;
}

/* p: scores become probabilities; ds: dP becomes dS. A row is a key. */
GLN_CLONES static void FN(gradient_tile)(const FN(group_scratch_t) * scratch, int stack,
                                         int diagonal, float score_scale)
{
    for (int key = 0; key < GLN_TILE; ++key)
        for (int i = 0; i < stack; ++i) {
            int64_t at = (int64_t)(key * stack + i) * GLN_TILE;
            float *restrict p = scratch->p + at;
            float *restrict ds = scratch->ds + at;
            const float *restrict lse = scratch->lse + i * GLN_TILE;
            const float *restrict delta = scratch->delta + i * GLN_TILE;

            for (int c = 0; c < GLN_TILE; ++c)
                p[c] = gln_expf(p[c] * score_scale - lse[c]);
            if (diagonal)
                for (int c = 0; c < GLN_TILE; ++c)
                    p[c] = key <= c ? p[c] : 0.0f;
            for (int c = 0; c < GLN_TILE; ++c)
                ds[c] = p[c] * (ds[c] - delta[c]);
            for (int c = 0; sizeof(elem) != sizeof(float) && c < GLN_TILE; ++c) {
                scratch->p_factor[at + c] = PUT(p[c]);
                scratch->ds_factor[at + c] = PUT(ds[c]);
            }
        }
}

/* delta[r] = sum of dout out, of `rows` rows */
GLN_CLONES static void FN(row_dots)(const elem *dout, const elem *out, int64_t ld, int64_t rows,
                                    int64_t dh, float *delta)
{
    for (int64_t r = 0; r < rows; ++r) {
        const elem *x = dout + r * dh, *y = out + r * ld;
        float lanes[GLN_LANES] = {0};
        int64_t i = 0;

        for (; i + GLN_LANES <= dh; i += GLN_LANES)
            for (int lane = 0; lane < GLN_LANES; ++lane)
                lanes[lane] += GET(x[i + lane]) * GET(y[i + lane]);
        for (int lane = 0; i < dh; ++i, ++lane)
            lanes[lane] += GET(x[i]) * GET(y[i]);
        delta[r] = gln_lanes_sum(lanes);
    }
}

/* Queries of one head as part `at` of the stack. */
static void FN(load_queries)(const gln_attention_run_t *run, const FN(group_scratch_t) * scratch,
                             int64_t row, int64_t rows, int head, int at)
{
    const gln_attention_t *args = run->forward;
    int64_t dh = args->dh, width = args->heads * dh, first = (int64_t)at * GLN_TILE;
    gln_head_rows_t q = {(const elem *)args->q + row * args->ldqkv + head * dh, args->ldqkv, rows,
                         dh};
    gln_head_rows_t dout = {(const elem *)run->backward->dout + row * width + head * dh, width,
                            rows, dh};
    const float *lse = (const float *)args->lse + row * args->heads + head;

    FN(attention_load)(&q, GLN_TILE, run->query_scale, scratch->q + first * dh);
    FN(attention_load)(&dout, GLN_TILE, 1.0f, scratch->dout + first * dh);
    FN(attention_load_transposed)
    (&q, GLN_TILE, run->query_scale, run->rows, scratch->q_turned + first);
    FN(attention_load_transposed)(&dout, GLN_TILE, 1.0f, run->rows, scratch->dout_turned + first);
    FN(row_dots)
    (scratch->dout + first * dh, (const elem *)args->out + row * width + head * dh, width, rows, dh,
     scratch->delta + first);
    for (int64_t r = 0; r < rows; ++r)
        scratch->lse[first + r] = lse[r * args->heads];
    for (int64_t r = rows; r < GLN_TILE; ++r) { /* beyond the sequence: probability 0 */
        scratch->lse[first + r] = __builtin_inff();
        scratch->delta[first + r] = 0;
    }
}

/* One tile of queries of `stack` heads from `head` on, against the tiles of keys up to its own. */
static void FN(query_tile)(const gln_attention_run_t *run, const FN(group_scratch_t) * scratch,
                           int64_t first, int64_t tile, int head, int worker)
{
    const gln_attention_t *args = run->forward;
    int64_t dh = args->dh, row = first + tile * GLN_TILE;
    int64_t rows = gln_cpu_min(GLN_TILE, args->s - tile * GLN_TILE);
    gln_cpu_state_t *state = run->state;
    char *scratchpad = scratch->scratchpad;

    for (int i = 0; i < run->stack; ++i)
        FN(load_queries)(run, scratch, row, rows, head + i, i);
    memset(scratch->dq, 0, run->rows_sum_bytes);
    for (int64_t j = 0; j <= tile; ++j) {
        int64_t at = j * GLN_TILE * dh;

        gln_product_run(state, run->scores, worker, scratch->k + at, scratch->q_turned, scratch->p,
                        scratchpad);
        gln_product_run(state, run->scores, worker, scratch->v + at, scratch->dout_turned,
                        scratch->ds, scratchpad);
        FN(gradient_tile)(scratch, run->stack, j == tile, run->score_scale);
        gln_product_run(state, run->mix, worker, scratch->p_factor, scratch->dout, scratch->dv + at,
                        scratchpad);
        gln_product_run(state, run->mix, worker, scratch->ds_factor, scratch->q, scratch->dk + at,
                        scratchpad);
        gln_product_run(state, run->mix_q, worker, scratch->ds_factor, scratch->k + at, scratch->dq,
                        scratchpad);
    }
    for (int i = 0; i < run->stack; ++i)
        FN(attention_store)
    (scratch->dq + i * GLN_TILE * dh, rows, dh, run->scale, args->ldqkv,
     (elem *)run->backward->dq + row * args->ldqkv + (head + i) * dh);
}

static void FN(backward_task)(void *ctx, int task, int worker)
{
    const gln_attention_run_t *run = ctx;
    const gln_attention_t *args = run->forward;
    int kv_head = task % args->kv_heads, group = args->heads / args->kv_heads;
    int64_t first = task / args->kv_heads * args->s, dh = args->dh, ld = args->ldqkv;
    int64_t at = first * ld + kv_head * dh, padded = run->tiles * GLN_TILE;
    gln_head_rows_t k = {(const elem *)args->k + at, ld, args->s, dh};
    gln_head_rows_t v = {(const elem *)args->v + at, ld, args->s, dh};
    FN(group_scratch_t) scratch;

    FN(take_scratch)(run, run->state->scratch[worker], &scratch);
    FN(attention_load)(&k, padded, 1.0f, scratch.k);
    FN(attention_load)(&v, padded, 1.0f, scratch.v);
    memset(scratch.dk, 0, run->head_sum_bytes);
    memset(scratch.dv, 0, run->head_sum_bytes);
    for (int head = kv_head * group; head < (kv_head + 1) * group; head += run->stack)
        for (int64_t tile = 0; tile < run->tiles; ++tile)
            FN(query_tile)(run, &scratch, first, tile, head, worker);
    FN(attention_store)
    (scratch.dk, args->s, dh, run->score_scale, ld, (elem *)run->backward->dk + at);
    FN(attention_store)(scratch.dv, args->s, dh, 1.0f, ld, (elem *)run->backward->dv + at);
}

static gln_status_t FN(get_products)(gln_attention_run_t *run)
{
    int64_t dh = run->forward->dh, rows = run->rows;
    gln_dtype_t dtype = run->state->dtype;
    gln_product_key_t scores = {GLN_TILE, rows, dh, 0, 0, 0, dtype, dtype, GLN_F32};
    gln_product_key_t mix = {GLN_TILE, dh, rows, 0, 0, 1, dtype, dtype, GLN_F32};
    gln_product_key_t mix_q = {rows, dh, GLN_TILE, 1, 0, 1, dtype, dtype, GLN_F32};
    gln_status_t status = gln_attention_product(run, &scores, &run->scores);

    if (status == GLN_OK) status = gln_attention_product(run, &mix, &run->mix);
    return status == GLN_OK ? gln_attention_product(run, &mix_q, &run->mix_q) : status;
}

gln_status_t FN(attention_backward)(gln_kernels_t *k, const gln_attention_backward_t *args)
{
    const gln_attention_t *forward = &args->forward;
    gln_cpu_state_t *state = k->state;
    int64_t heads = forward->sequences * forward->kv_heads;
    gln_attention_run_t run;
    FN(group_scratch_t) scratch;
    int entered = gln_cpu_library_enter(state);
    gln_status_t status = GLN_OK;

    if (heads > 0 && forward->s > 0) {
        gln_attention_plan(state, forward, args, &run);
        status = FN(get_products)(&run);
        if (status == GLN_OK)
            status = gln_cpu_scratch(state, FN(take_scratch)(&run, state->scratch[0], &scratch));
        if (status == GLN_OK) gln_pool_run(k->pool, (int)heads, FN(backward_task), &run);
    }
    return gln_cpu_library_leave(state, entered, status);
}
#endif
