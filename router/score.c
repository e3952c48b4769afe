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

/* How far from 1 the sum of a token's given softmax may be. */
#define SUM_SLACK 1e-3

#define REAL float
#define EXP gln_expf
#define NAME(stem) stem##_f32
#include "router/score.inc"

#define REAL double
#define EXP exp
#define NAME(stem) stem##_f64
#include "router/score.inc"

/* Scores of `rows` tokens from `first` on; returns whether logits were finite. */
static int score_rows(gln_route_call_t *call, int64_t first, int rows)
{
    const gln_router_t *router = call->router;
    gln_plan_t *plan = call->plan;
    gln_dtype_t acc = router->shape.acc;
    int experts = router->shape.experts, sigmoid = router->sigmoid;
    int64_t count = (int64_t)rows * experts;
    const void *logits = gln_at(call->input->logits, first * experts, acc);
    void *scores = gln_at(plan->scores, first * experts, acc);
    void *softmax = gln_at(plan->softmax, first * experts, acc);
    void *lse = gln_at(plan->lse, first, acc), *scale = gln_at(plan->token_scale, first, acc);
    if (call->input->scores_given) {
        void *share = sigmoid ? softmax : NULL;
        return acc == GLN_F64 ? copy_f64(logits, rows, experts, scores, share, lse, scale)
                              : copy_f32(logits, rows, experts, scores, share, lse, scale);
    }
    if (acc == GLN_F64) {
        if (!softmax_f64(logits, rows, experts, softmax, lse, scale)) return 0;
        if (sigmoid) sigmoid_f64(logits, count, scores);
    } else {
        if (!softmax_f32(logits, rows, experts, softmax, lse, scale)) return 0;
        if (sigmoid) sigmoid_f32(logits, count, scores);
    }
    return 1;
}

/* The same, and their sums. */
static int score_chunk(gln_route_call_t *call, int64_t first, int rows, double *sum)
{
    const gln_router_t *router = call->router;
    gln_plan_t *plan = call->plan;
    gln_dtype_t acc = router->shape.acc;
    int experts = router->shape.experts, sigmoid = router->sigmoid;
    const void *scores = gln_at(plan->scores, first * experts, acc);
    if (!score_rows(call, first, rows)) return 0;
    if (acc == GLN_F64)
        (sigmoid ? share_sum_f64 : score_sum_f64)(scores, rows, experts, sum);
    else
        (sigmoid ? share_sum_f32 : score_sum_f32)(scores, rows, experts, sum);
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
    int64_t count = (int64_t)rows * experts, at;
    int wide = router->shape.acc == GLN_F64;
    if (call->input->scores_given) {
        at = wide ? first_wrong_f64(logits, count) : first_wrong_f32(logits, count);
        if (at == count) { /* one by one they are probabilities, then it is a sum */
            at = wide ? first_sum_f64(logits, rows, experts) : first_sum_f32(logits, rows, experts);
            router->bad_token[block] = first + at;
            router->bad_expert[block] = -1;
            return;
        }
    } else {
        at = wide ? first_bad_f64(logits, count) : first_bad_f32(logits, count);
    }
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

static gln_status_t fail_given(const gln_route_call_t *call, int64_t token, int expert)
{
    const gln_router_t *router = call->router;
    const gln_route_input_t *in = call->input;
    gln_dtype_t acc = router->shape.acc;
    int experts = router->shape.experts;
    double sum = 0;
    if (expert >= 0)
        return gln_fail(GLN_ERR_NUMERIC,
                        "domain %d, layer %d, token %lld, expert %d: the score given is %g, "
                        "expected a probability, from 0 to 1; are these logits?",
                        in->domain, in->layer, (long long)token, expert,
                        gln_load(in->logits, token * experts + expert, acc));
    for (int e = 0; e < experts; e++)
        sum += gln_load(in->logits, token * experts + e, acc);
    return gln_fail(
        GLN_ERR_NUMERIC,
        "domain %d, layer %d, token %lld: the scores given sum to %.9g, expected 1 as of "
        "a softmax; are these logits?",
        in->domain, in->layer, (long long)token, sum);
}

gln_status_t gln_route_score(gln_route_call_t *call)
{
    gln_router_t *router = call->router;
    gln_pool_run(router->pool, router->blocks_count, score_block, call);
    for (int block = 0; block < router->blocks_count; block++) {
        int64_t token = router->bad_token[block];
        if (token < 0) continue;
        int expert = router->bad_expert[block];
        if (call->input->scores_given) return fail_given(call, token, expert);
        double value = gln_load(call->input->logits, token * router->shape.experts + expert,
                                router->shape.acc);
        return gln_fail(GLN_ERR_NUMERIC,
                        "domain %d, layer %d, token %lld, expert %d: the router's logit is %f, "
                        "expected a finite number; the step before or the learning rate is suspect",
                        call->input->domain, call->input->layer, (long long)token, expert, value);
    }
    return GLN_OK;
}
