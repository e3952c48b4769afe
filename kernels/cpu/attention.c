/* Causal attention, O(sequences heads S^2 dh): "FlashAttention" (arXiv 2205.14135), algorithm 1. A
 * task is one head of one sequence. Its keys and values are copied dense, then every tile of
 * queries walks over the tiles of keys up to its own with a running maximum m, sum l and output o
 * per query. Both products of a tile are oneDNN products of fixed shape, the softmax between them
 * is one vectorised pass. A query's bits depend neither on S nor on the other sequences. */
#include <math.h>
#include <string.h>

#include "base/clones.h"
#include "base/gln_expf.h"
#include "kernels/cpu/attention_tile.h"

gln_status_t gln_attention_plan(gln_cpu_state_t *state, const gln_attention_t *forward,
                                gln_attention_run_t *run)
{
    int64_t dh = forward->dh;
    gln_product_key_t scores = {GLN_TILE, GLN_TILE, dh, 0, 1, 0, GLN_F32, GLN_F32, GLN_F32};
    gln_product_key_t mix = {GLN_TILE, dh, GLN_TILE, 0, 0, 1, GLN_F32, GLN_F32, GLN_F32};
    gln_product_key_t mix_back = {GLN_TILE, dh, GLN_TILE, 1, 0, 1, GLN_F32, GLN_F32, GLN_F32};
    gln_status_t status;

    memset(run, 0, sizeof *run);
    run->state = state;
    run->forward = forward;
    run->tiles = (forward->s + GLN_TILE - 1) / GLN_TILE;
    run->scale = (float)(1.0 / sqrt((double)dh));
    status = gln_product_get(state, &scores, &run->scores);
    if (status == GLN_OK) status = gln_product_get(state, &mix, &run->mix);
    if (status == GLN_OK) status = gln_product_get(state, &mix_back, &run->mix_back);
    if (status != GLN_OK) return status;
    run->scratchpad_bytes = run->scores->scratchpad_bytes;
    if (run->mix->scratchpad_bytes > run->scratchpad_bytes)
        run->scratchpad_bytes = run->mix->scratchpad_bytes;
    if (run->mix_back->scratchpad_bytes > run->scratchpad_bytes)
        run->scratchpad_bytes = run->mix_back->scratchpad_bytes;
    run->head_bytes = gln_cpu_bytes(run->tiles * GLN_TILE * dh, sizeof(float));
    run->rows_bytes = gln_cpu_bytes(GLN_TILE * dh, sizeof(float));
    run->tile_bytes = gln_cpu_bytes(GLN_TILE * GLN_TILE, sizeof(float));
    return GLN_OK;
}

GLN_CLONES static void scaled_row(const float *restrict from, float scale, int64_t count,
                                  float *restrict to)
{
    for (int64_t i = 0; i < count; ++i)
        to[i] = from[i] * scale;
}

void gln_attention_load(const float *from, int64_t ld, int64_t rows, int64_t padded, int64_t dh,
                        float scale, float *to)
{
    for (int64_t i = 0; i < rows; ++i)
        scaled_row(from + i * ld, scale, dh, to + i * dh);
    if (rows < padded) memset(to + rows * dh, 0, (size_t)((padded - rows) * dh) * sizeof *to);
}

void gln_attention_store(const float *from, int64_t rows, int64_t dh, float scale, int64_t ld,
                         float *to)
{
    for (int64_t i = 0; i < rows; ++i)
        scaled_row(from + i * dh, scale, dh, to + i * ld);
}

/* Scratch of one task. */
typedef struct head_scratch {
    char *scratchpad;
    float *k, *v;     /* [tiles * TILE, dh] */
    float *q, *o;     /* [TILE, dh] */
    float *s;         /* [TILE, TILE] */
    float *max, *sum; /* [TILE] */
} head_scratch_t;

static size_t take_scratch(const gln_attention_run_t *run, char *base, head_scratch_t *out)
{
    size_t at = run->scratchpad_bytes;

    out->scratchpad = base;
    out->k = (float *)(base + at), at += run->head_bytes;
    out->v = (float *)(base + at), at += run->head_bytes;
    out->q = (float *)(base + at), at += run->rows_bytes;
    out->o = (float *)(base + at), at += run->rows_bytes;
    out->s = (float *)(base + at), at += run->tile_bytes;
    out->max = (float *)(base + at), at += gln_cpu_bytes(GLN_TILE, sizeof(float));
    out->sum = (float *)(base + at), at += gln_cpu_bytes(GLN_TILE, sizeof(float));
    return at;
}

/* s becomes exp(s - max); max, sum and o move to the new maximum. On the diagonal, keys after the
 * query do not count. */
GLN_CLONES static void softmax_tile(const head_scratch_t *scratch, int diagonal, int64_t dh)
{
    for (int r = 0; r < GLN_TILE; ++r) {
        float *row = scratch->s + r * GLN_TILE, *o = scratch->o + r * dh;
        float before = scratch->max[r], lanes[GLN_LANES] = {0}, max, fade;

        if (diagonal)
            for (int c = 0; c < GLN_TILE; ++c)
                row[c] = c <= r ? row[c] : -__builtin_inff();
        max = gln_lanes_max(row);
        max = max > before ? max : before;
        for (int c = 0; c < GLN_TILE; ++c)
            row[c] = gln_expf(row[c] - max);
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

static void store_output(const gln_attention_t *args, const head_scratch_t *scratch, int64_t first,
                         int64_t rows, int head)
{
    int64_t width = (int64_t)args->heads * args->dh;
    float *out = (float *)args->out + first * width + (int64_t)head * args->dh;
    float *lse = (float *)args->lse + first * args->heads + head;

    for (int64_t r = 0; r < rows; ++r) {
        scaled_row(scratch->o + r * args->dh, 1.0f / scratch->sum[r], args->dh, out + r * width);
        lse[r * args->heads] = scratch->max[r] + logf(scratch->sum[r]);
    }
}

static void attention_task(void *ctx, int task, int worker)
{
    const gln_attention_run_t *run = ctx;
    const gln_attention_t *args = run->forward;
    int head = task % args->heads, kv_head = head / (args->heads / args->kv_heads);
    int64_t first = task / args->heads * args->s, dh = args->dh;
    int64_t kv_at = first * args->ldqkv + kv_head * dh;
    head_scratch_t scratch;

    take_scratch(run, run->state->scratch[worker], &scratch);
    gln_attention_load((const float *)args->k + kv_at, args->ldqkv, args->s, run->tiles * GLN_TILE,
                       dh, 1.0f, scratch.k);
    gln_attention_load((const float *)args->v + kv_at, args->ldqkv, args->s, run->tiles * GLN_TILE,
                       dh, 1.0f, scratch.v);
    for (int64_t i = 0; i < run->tiles; ++i) {
        int64_t row = i * GLN_TILE, rows = gln_cpu_min(GLN_TILE, args->s - row);

        gln_attention_load((const float *)args->q + (first + row) * args->ldqkv + head * dh,
                           args->ldqkv, rows, GLN_TILE, dh, run->scale, scratch.q);
        memset(scratch.o, 0, run->rows_bytes);
        for (int r = 0; r < GLN_TILE; ++r) {
            scratch.max[r] = -INFINITY;
            scratch.sum[r] = 0;
        }
        for (int64_t j = 0; j <= i; ++j) {
            gln_product_run(run->state, run->scores, worker, scratch.q,
                            scratch.k + j * GLN_TILE * dh, scratch.s, scratch.scratchpad);
            softmax_tile(&scratch, j == i, dh);
            gln_product_run(run->state, run->mix, worker, scratch.s, scratch.v + j * GLN_TILE * dh,
                            scratch.o, scratch.scratchpad);
        }
        store_output(args, &scratch, first + row, rows, head);
    }
}

gln_status_t gln_cpu_attention(gln_kernels_t *k, const gln_attention_t *args)
{
    gln_cpu_state_t *state = k->state;
    gln_attention_run_t run;
    head_scratch_t scratch;
    int entered = gln_cpu_library_enter(state);
    gln_status_t status = GLN_OK;

    if (args->sequences > 0 && args->s > 0) {
        status = gln_attention_plan(state, args, &run);
        if (status == GLN_OK)
            status = gln_cpu_scratch(state, take_scratch(&run, state->scratch[0], &scratch));
        if (status == GLN_OK)
            gln_pool_run(k->pool, (int)args->sequences * args->heads, attention_task, &run);
    }
    return gln_cpu_library_leave(state, entered, status);
}
