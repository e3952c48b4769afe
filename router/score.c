/* Scores: the softmax over all experts and, for policies that want it, the sigmoid of each logit.
 *
 * One task per block of tokens; the blocks depend on T alone. Per token O(E) arithmetic. Tokens are
 * ranked (rank.c) while their scores are in the cache, unless the policy looks at all scores first.
 * The exponential in F32 is base/gln_expf.h, so that all machines agree on it. */
#include "base/clones.h"
#include "base/gln_expf.h"
#include "base/log.h"
#include "router/policy_internal.h"
#include <math.h>

#define REAL float
#define EXP gln_expf
#define NAME(stem) stem##_f32
#include "router/score.inc"

#define REAL double
#define EXP exp
#define NAME(stem) stem##_f64
#include "router/score.inc"

/* Scores and sums of `rows` tokens from `first` on; returns whether logits were finite. */
static int score_chunk(gln_route_call_t *call, int64_t first, int rows, double *sum)
{
    const gln_router_t *router = call->router;
    gln_plan_t *plan = call->plan;
    gln_dtype_t acc = router->shape.acc;
    int experts = router->shape.experts;
    int64_t count = (int64_t)rows * experts;
    const void *logits = gln_at(call->input->logits, first * experts, acc);
    void *scores = gln_at(plan->scores, first * experts, acc);
    void *softmax = gln_at(plan->softmax, first * experts, acc);
    void *lse = gln_at(plan->lse, first, acc), *scale = gln_at(plan->token_scale, first, acc);
    if (acc == GLN_F64) {
        if (!softmax_f64(logits, rows, experts, softmax, lse, scale)) return 0;
        if (router->sigmoid) {
            sigmoid_f64(logits, count, scores);
            share_sum_f64(scores, rows, experts, sum);
        } else {
            score_sum_f64(scores, rows, experts, sum);
        }
    } else {
        if (!softmax_f32(logits, rows, experts, softmax, lse, scale)) return 0;
        if (router->sigmoid) {
            sigmoid_f32(logits, count, scores);
            share_sum_f32(scores, rows, experts, sum);
        } else {
            score_sum_f32(scores, rows, experts, sum);
        }
    }
    for (int64_t t = first; t < first + rows; t++) {
        plan->token_rect[t] = -1;
        plan->token_h[t] = -1;
        plan->token_m[t] = 0;
    }
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
    int experts = router->shape.experts, rank = router->ops->rank && !router->ops->prepare;
    int64_t first, end;
    gln_block_range(router, block, &first, &end);
    double *sum = router->score_sum + (int64_t)block * experts;
    memset(sum, 0, (size_t)experts * sizeof *sum);
    if (rank) gln_rank_begin(router, block);
    router->bad_token[block] = -1;
    for (int64_t t = first; t < end; t += GLN_CHUNK_TOKENS) {
        int rows = (int)(end - t < GLN_CHUNK_TOKENS ? end - t : GLN_CHUNK_TOKENS);
        if (!score_chunk(call, t, rows, sum)) {
            note_bad(call, block, t, rows);
            return;
        }
        if (rank) gln_rank_rows(call, block, t, rows, worker);
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
