/* The gradient of causal attention, O(sequences heads S^2 dh), FlashAttention (arXiv 2205.14135)
 * section B.4. With P = exp(s - lse), dP = dO V^T, D = rowsum(dO O):
 *   dS = P (dP - D);  dQ = dS K / sqrt(dh),  dK = dS^T Q / sqrt(dh),  dV = P^T dO.
 * A task is one kv head of one sequence: the tiles of its dK and dV are summed over the query heads
 * of the group and over the tiles of queries, both ascending. Five products a tile. */
#include <string.h>

#include "base/clones.h"
#include "base/gln_expf.h"
#include "kernels/cpu/attention_tile.h"

typedef struct group_scratch {
    char *scratchpad;
    float *k, *v, *dk, *dv; /* [tiles * TILE, dh] */
    float *q, *dout, *dq;   /* [TILE, dh]; q is scaled */
    float *p, *ds;          /* [TILE, TILE] */
    float *lse, *delta;     /* [TILE] */
} group_scratch_t;

static size_t take_scratch(const gln_attention_run_t *run, char *base, group_scratch_t *out)
{
    size_t at = run->scratchpad_bytes;

    out->scratchpad = base;
    out->k = (float *)(base + at), at += run->head_bytes;
    out->v = (float *)(base + at), at += run->head_bytes;
    out->dk = (float *)(base + at), at += run->head_bytes;
    out->dv = (float *)(base + at), at += run->head_bytes;
    out->q = (float *)(base + at), at += run->rows_bytes;
    out->dout = (float *)(base + at), at += run->rows_bytes;
    out->dq = (float *)(base + at), at += run->rows_bytes;
    out->p = (float *)(base + at), at += run->tile_bytes;
    out->ds = (float *)(base + at), at += run->tile_bytes;
    out->lse = (float *)(base + at), at += gln_cpu_bytes(GLN_TILE, sizeof(float));
    out->delta = (float *)(base + at), at += gln_cpu_bytes(GLN_TILE, sizeof(float));
    return at;
}

/* p: scores become probabilities; ds: dP becomes dS. */
GLN_CLONES static void gradient_tile(const group_scratch_t *scratch, int diagonal)
{
    for (int r = 0; r < GLN_TILE; ++r) {
        float *restrict p = scratch->p + r * GLN_TILE, *restrict ds = scratch->ds + r * GLN_TILE;
        float lse = scratch->lse[r], delta = scratch->delta[r];

        for (int c = 0; c < GLN_TILE; ++c)
            p[c] = gln_expf(p[c] - lse);
        if (diagonal)
            for (int c = 0; c < GLN_TILE; ++c)
                p[c] = c <= r ? p[c] : 0.0f;
        for (int c = 0; c < GLN_TILE; ++c)
            ds[c] = p[c] * (ds[c] - delta);
    }
}

GLN_CLONES static float dot(const float *restrict x, const float *restrict y, int64_t count)
{
    float lanes[GLN_LANES] = {0};
    int64_t i = 0;

    for (; i + GLN_LANES <= count; i += GLN_LANES)
        for (int lane = 0; lane < GLN_LANES; ++lane)
            lanes[lane] += x[i + lane] * y[i + lane];
    for (int lane = 0; i < count; ++i, ++lane)
        lanes[lane] += x[i] * y[i];
    return gln_lanes_sum(lanes);
}

/* One tile of queries of one head against the tiles of keys up to its own. */
static void query_tile(const gln_attention_run_t *run, const group_scratch_t *scratch,
                       int64_t first, int64_t tile, int head, int worker)
{
    const gln_attention_t *args = run->forward;
    int64_t dh = args->dh, row = first + tile * GLN_TILE, width = args->heads * dh;
    int64_t rows = gln_cpu_min(GLN_TILE, args->s - tile * GLN_TILE);
    const float *out = (const float *)args->out + row * width + head * dh;
    const float *lse = (const float *)args->lse + row * args->heads + head;
    gln_cpu_state_t *state = run->state;

    gln_attention_load((const float *)args->q + row * args->ldqkv + head * dh, args->ldqkv, rows,
                       GLN_TILE, dh, run->scale, scratch->q);
    gln_attention_load((const float *)run->backward->dout + row * width + head * dh, width, rows,
                       GLN_TILE, dh, 1.0f, scratch->dout);
    for (int64_t r = 0; r < GLN_TILE; ++r) { /* a row beyond the sequence has probabilities 0 */
        scratch->lse[r] = r < rows ? lse[r * args->heads] : __builtin_inff();
        scratch->delta[r] = r < rows ? dot(scratch->dout + r * dh, out + r * width, dh) : 0.0f;
    }
    memset(scratch->dq, 0, run->rows_bytes);
    for (int64_t j = 0; j <= tile; ++j) {
        int64_t at = j * GLN_TILE * dh;

        gln_product_run(state, run->scores, worker, scratch->q, scratch->k + at, scratch->p,
                        scratch->scratchpad);
        gln_product_run(state, run->scores, worker, scratch->dout, scratch->v + at, scratch->ds,
                        scratch->scratchpad);
        gradient_tile(scratch, j == tile);
        gln_product_run(state, run->mix_back, worker, scratch->p, scratch->dout, scratch->dv + at,
                        scratch->scratchpad);
        gln_product_run(state, run->mix_back, worker, scratch->ds, scratch->q, scratch->dk + at,
                        scratch->scratchpad);
        gln_product_run(state, run->mix, worker, scratch->ds, scratch->k + at, scratch->dq,
                        scratch->scratchpad);
    }
    gln_attention_store(scratch->dq, rows, dh, run->scale, args->ldqkv,
                        (float *)run->backward->dq + row * args->ldqkv + head * dh);
}

static void backward_task(void *ctx, int task, int worker)
{
    const gln_attention_run_t *run = ctx;
    const gln_attention_t *args = run->forward;
    int kv_head = task % args->kv_heads, group = args->heads / args->kv_heads;
    int64_t first = task / args->kv_heads * args->s, dh = args->dh;
    int64_t at = first * args->ldqkv + kv_head * dh, padded = run->tiles * GLN_TILE;
    group_scratch_t scratch;

    take_scratch(run, run->state->scratch[worker], &scratch);
    gln_attention_load((const float *)args->k + at, args->ldqkv, args->s, padded, dh, 1.0f,
                       scratch.k);
    gln_attention_load((const float *)args->v + at, args->ldqkv, args->s, padded, dh, 1.0f,
                       scratch.v);
    memset(scratch.dk, 0, run->head_bytes);
    memset(scratch.dv, 0, run->head_bytes);
    for (int head = kv_head * group; head < (kv_head + 1) * group; ++head)
        for (int64_t tile = 0; tile < run->tiles; ++tile)
            query_tile(run, &scratch, first, tile, head, worker);
    gln_attention_store(scratch.dk, args->s, dh, 1.0f, args->ldqkv,
                        (float *)run->backward->dk + at);
    gln_attention_store(scratch.dv, args->s, dh, 1.0f, args->ldqkv,
                        (float *)run->backward->dv + at);
}

gln_status_t gln_cpu_attention_backward(gln_kernels_t *k, const gln_attention_backward_t *args)
{
    const gln_attention_t *forward = &args->forward;
    gln_cpu_state_t *state = k->state;
    gln_attention_run_t run;
    group_scratch_t scratch;
    int entered = gln_cpu_library_enter(state);
    gln_status_t status = GLN_OK;

    if (forward->sequences > 0 && forward->s > 0) {
        status = gln_attention_plan(state, forward, &run);
        run.backward = args;
        if (status == GLN_OK)
            status = gln_cpu_scratch(state, take_scratch(&run, state->scratch[0], &scratch));
        if (status == GLN_OK)
            gln_pool_run(k->pool, (int)forward->sequences * forward->kv_heads, backward_task, &run);
    }
    return gln_cpu_library_leave(state, entered, status);
}
