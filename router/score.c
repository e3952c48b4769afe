/* Scores: softmax over all experts, the experts of each token by rank, and how many candidates each
 * expert will see.
 *
 * One task per block of tokens; the blocks depend on T alone. Per token O(E) arithmetic for the
 * softmax and O(E) per rank for up to GLN_BEST_SCAN_MAX ranks, a sort of the E scores beyond. Ranks
 * go by the rounded scores, not by the logits: two logits whose scores round to one value are a
 * tie, and ties go to the lower expert. The exponential in F32 is base/gln_expf.h, so that all
 * machines agree on it. */
#include "base/clones.h"
#include "base/gln_expf.h"
#include "base/log.h"
#include "router/router_internal.h"
#include <math.h>

#define REAL float
#define BITS int32_t
#define EXP gln_expf
#define NAME(stem) stem##_f32
#include "router/score.inc"

#define REAL double
#define BITS int64_t
#define EXP exp
#define NAME(stem) stem##_f64
#include "router/score.inc"

/* Rank by sorting where so many experts are wanted that scanning would cost more. */
static void best_by_sort(const gln_router_t *router, const void *scores, int64_t first, int rows,
                         gln_item_t *items, int32_t *best)
{
    int experts = router->shape.experts, count = router->best_count;
    for (int64_t t = first; t < first + rows; t++, best += count) {
        for (int e = 0; e < experts; e++)
            items[e] = gln_item(0, gln_key(scores, t * experts + e, router->shape.acc), e);
        gln_items_sort(items, items + experts, experts);
        for (int c = 0; c < count; c++)
            best[c] = gln_item_token(items[c]);
    }
}

/* Keep a token's k choices and its fill-in candidate; count them for the buckets. */
static void keep_choices(gln_route_call_t *call, int64_t t, const int32_t *best,
                         int32_t *topk_count, int32_t *fill_count)
{
    const gln_router_t *router = call->router;
    gln_plan_t *plan = call->plan;
    int k = router->options.k;
    int32_t *expert = plan->token_expert + t * (k + 1);
    int32_t *route = plan->token_route + t * (k + 1);
    for (int c = 0; c < k; c++) {
        expert[c] = best[c];
        route[c] = -1;
        topk_count[best[c]]++;
    }
    route[k] = -1;
    expert[k] = -1;
    if (router->best_count > k) {
        expert[k] = best[router->best_count - 1];
        fill_count[expert[k]]++;
    }
    plan->token_rect[t] = -1;
    plan->token_h[t] = -1;
    plan->token_m[t] = 0;
}

/* Softmax, ranking and sums of `rows` tokens from `first` on; returns whether logits were finite.
 */
static int score_chunk(gln_route_call_t *call, int64_t first, int rows, int worker, double *sum,
                       int32_t *best)
{
    gln_router_t *router = call->router;
    gln_plan_t *plan = call->plan;
    gln_dtype_t acc = router->shape.acc;
    int experts = router->shape.experts, count = router->best_count;
    int64_t *bits = router->worker_bits + (int64_t)worker * experts;
    const void *logits = gln_at(call->input->logits, first * experts, acc);
    void *scores = gln_at(plan->scores, first * experts, acc);
    void *lse = gln_at(plan->lse, first, acc), *scale = gln_at(plan->token_scale, first, acc);
    int scan = count <= GLN_BEST_SCAN_MAX;
    if (acc == GLN_F64) {
        if (!softmax_f64(logits, rows, experts, scores, lse, scale)) return 0;
        score_sum_f64(scores, rows, experts, sum);
        if (scan) best_f64(scores, rows, experts, count, bits, best);
    } else {
        if (!softmax_f32(logits, rows, experts, scores, lse, scale)) return 0;
        score_sum_f32(scores, rows, experts, sum);
        if (scan) best_f32(scores, rows, experts, count, (int32_t *)bits, best);
    }
    if (!scan)
        best_by_sort(router, plan->scores, first, rows,
                     router->worker_items + (int64_t)worker * 2 * experts, best);
    return 1;
}

static void note_bad(gln_route_call_t *call, int block, int64_t first, int rows)
{
    gln_router_t *router = call->router;
    int experts = router->shape.experts;
    const void *logits = gln_at(call->input->logits, first * experts, router->shape.acc);
    int64_t count = (int64_t)rows * experts;
    int64_t at =
        router->shape.acc == GLN_F64 ? first_bad_f64(logits, count) : first_bad_f32(logits, count);
    router->bad_token[block] = first + at / experts;
    router->bad_expert[block] = (int32_t)(at % experts);
}

static void score_block(void *ctx, int block, int worker)
{
    gln_route_call_t *call = ctx;
    gln_router_t *router = call->router;
    gln_plan_t *plan = call->plan;
    int experts = router->shape.experts, count = router->best_count;
    int64_t first, end;
    gln_block_range(router, block, &first, &end);
    int32_t *topk_count = router->topk.place + (int64_t)block * experts;
    int32_t *fill_count = router->fill.place + (int64_t)block * experts;
    double *sum = router->score_sum + (int64_t)block * experts;
    int32_t *best = router->worker_best + (int64_t)worker * GLN_CHUNK_TOKENS * count;
    memset(topk_count, 0, (size_t)experts * sizeof *topk_count);
    memset(fill_count, 0, (size_t)experts * sizeof *fill_count);
    memset(sum, 0, (size_t)experts * sizeof *sum);
    router->bad_token[block] = -1;
    for (int64_t t = first; t < end; t += GLN_CHUNK_TOKENS) {
        int rows = (int)(end - t < GLN_CHUNK_TOKENS ? end - t : GLN_CHUNK_TOKENS);
        if (!score_chunk(call, t, rows, worker, sum, best)) {
            note_bad(call, block, t, rows);
            return;
        }
        for (int i = 0; i < rows; i++)
            keep_choices(call, t + i, best + (int64_t)i * count, topk_count, fill_count);
    }
    void *lse = gln_at(plan->lse, first, router->shape.acc);
    void *scale = gln_at(plan->token_scale, first, router->shape.acc);
    router->square_sum[block] = router->shape.acc == GLN_F64
                                    ? logsumexp_f64(end - first, lse, scale)
                                    : logsumexp_f32(end - first, lse, scale);
}

gln_status_t gln_route_score(gln_route_call_t *call)
{
    gln_router_t *router = call->router;
    gln_pool_run(router->pool, router->blocks_count, score_block, call);
    for (int block = 0; block < router->blocks_count; block++) {
        int64_t token = router->bad_token[block];
        if (token < 0) continue;
        int expert = router->bad_expert[block];
        double value = gln_load(call->input->logits, token * router->shape.experts + expert,
                                router->shape.acc);
        return gln_fail(GLN_ERR_NUMERIC,
                        "domain %d, layer %d, token %lld, expert %d: the router's logit is %f, "
                        "expected a finite number; the step before or the learning rate is suspect",
                        call->input->domain, call->input->layer, (long long)token, expert, value);
    }
    return GLN_OK;
}
