/* The router of one domain: opening it, its bounds, and the order of the stages of one call:
 *   score (softmax, ranking) - select (capacity, fill-in) - rectify - weights - losses - ledger.
 * Ranking and selection are the policy's (policy_internal.h). Every stage is a set of independent
 * tasks over blocks of tokens or over experts; blocks are cut by T alone, so the plan is the same
 * for any number of threads. O(T E + T K log T) work; beside the plan O(T K + E) memory (at most
 * BLOCKS_MAX counters per expert). */
#include "base/log.h"
#include "base/rng.h"
#include "router/policy_internal.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define BLOCK_TOKENS_MIN 128
#define BLOCKS_MAX 64

static void layout_buckets(gln_buckets_t *buckets, gln_arena_t *arena, size_t blocks,
                           size_t experts, size_t items)
{
    buckets->place = gln_arena_take(arena, blocks * experts * sizeof *buckets->place);
    buckets->offset = gln_arena_take(arena, (experts + 1) * sizeof *buckets->offset);
    buckets->items = gln_arena_take(arena, items * sizeof *buckets->items);
    buckets->spare = gln_arena_take(arena, items * sizeof *buckets->spare);
}

static void layout(gln_router_t *router)
{
    gln_arena_t *arena = &router->arena;
    size_t tokens = (size_t)router->shape.tokens, experts = (size_t)router->shape.experts;
    size_t blocks = (size_t)router->blocks_count, best = (size_t)router->best_count;
    size_t threads = (size_t)gln_pool_threads(router->pool);
    size_t ranked = router->best_count > GLN_BEST_SCAN_MAX ? 2 * experts : 0;
    size_t wanted = (size_t)router->wanted;
    layout_buckets(&router->topk, arena, blocks, experts, tokens * wanted);
    layout_buckets(&router->fill, arena, blocks, experts, router->options.fill ? tokens : 0);
    router->bad_token = gln_arena_take(arena, blocks * sizeof *router->bad_token);
    router->bad_expert = gln_arena_take(arena, blocks * sizeof *router->bad_expert);
    router->score_sum = gln_arena_take(arena, blocks * experts * sizeof *router->score_sum);
    router->square_sum = gln_arena_take(arena, blocks * sizeof *router->square_sum);
    router->ledgers = gln_arena_take(arena, blocks * sizeof *router->ledgers);
    router->worker_bits = gln_arena_take(arena, threads * experts * sizeof *router->worker_bits);
    router->worker_best =
        gln_arena_take(arena, threads * GLN_CHUNK_TOKENS * best * sizeof *router->worker_best);
    router->worker_items = gln_arena_take(arena, threads * ranked * sizeof *router->worker_items);
    router->worker_in = gln_arena_take(arena, threads * experts);
    router->balance_gradient = gln_arena_take(arena, experts * gln_dtype_bytes(router->shape.acc));
    router->bias = gln_arena_take(
        arena, router->ops->takes & GLN_TAKES_BIAS ? experts * sizeof *router->bias : 0);
    router->state = gln_arena_take(arena, router->ops->state_bytes(router));
}

static void cut_blocks(gln_router_t *router)
{
    int64_t tokens = router->shape.tokens;
    int64_t size = (tokens + BLOCKS_MAX - 1) / BLOCKS_MAX;
    size = (size + GLN_CHUNK_TOKENS - 1) / GLN_CHUNK_TOKENS * GLN_CHUNK_TOKENS;
    router->block_tokens = size < BLOCK_TOKENS_MIN ? BLOCK_TOKENS_MIN : size;
    router->blocks_count = (int)((tokens + router->block_tokens - 1) / router->block_tokens);
}

gln_status_t gln_router_open(const gln_router_options_t *options, const gln_router_shape_t *shape,
                             gln_pool_t *pool, gln_router_t **out)
{
    if (!options || !shape || !pool || !out)
        return gln_fail(GLN_ERR_ARGUMENT, "router open got NULL for %s",
                        !options ? "options"
                        : !shape ? "shape"
                        : !pool  ? "pool"
                                 : "out");
    gln_router_t *router = calloc(1, sizeof *router);
    if (!router)
        return gln_fail(GLN_ERR_MEMORY, "no memory for a router of %zu bytes", sizeof *router);
    gln_status_t status = gln_router_set_options(router, options, shape);
    if (status != GLN_OK) goto free_router;
    router->pool = pool;
    router->capacity_max = gln_router_capacity(router, router->shape.capacity_factor_max);
    cut_blocks(router);
    router->arena.kind = GLN_MEMORY_ROUTER;
    layout(router);
    status = gln_arena_commit(&router->arena, gln_device_cpu());
    if (status != GLN_OK) goto free_router;
    layout(router);
    *out = router;
    return GLN_OK;
free_router:
    free(router);
    return status;
}

void gln_router_close(gln_router_t *router)
{
    if (!router) return;
    gln_arena_close(&router->arena);
    free(router);
}

int64_t gln_router_capacity(const gln_router_t *router, double capacity_factor)
{
    int64_t tokens = router->shape.tokens;
    if (capacity_factor == 0) capacity_factor = router->options.capacity_factor;
    if (tokens == 0) return 0;
    double slots =
        ceil(capacity_factor * router->options.k * (double)tokens / router->shape.experts - 1e-6);
    if (slots < router->options.min_capacity) slots = router->options.min_capacity;
    return slots < (double)tokens ? (int64_t)slots : tokens;
}

int64_t gln_router_routes_max(const gln_router_t *router)
{
    int64_t slots = router->shape.experts * router->capacity_max;
    int64_t asked = router->shape.tokens * router->token_routes;
    return slots < asked ? slots : asked;
}

int64_t gln_router_rect_max(const gln_router_t *router)
{
    const gln_router_options_t *o = &router->options;
    int64_t tokens = router->shape.tokens;
    int64_t local = (int64_t)o->ir_scope * router->shape.per_domain;
    if (!o->rectify) return 0;
    if (o->ir_capacity == 0 || o->ir_capacity >= tokens) return tokens;
    return o->ir_capacity * local < tokens ? o->ir_capacity * local : tokens;
}

int64_t gln_router_token_routes_max(const gln_router_t *router)
{
    return router->token_routes;
}

size_t gln_router_bytes(const gln_router_t *router)
{
    return router->arena.size_bytes;
}

double gln_router_capacity_factor_max(const gln_router_t *router)
{
    return router->shape.capacity_factor_max;
}

const gln_router_options_t *gln_router_options(const gln_router_t *router)
{
    return &router->options;
}

static gln_status_t check_input(const gln_router_t *router, const gln_route_input_t *input,
                                const gln_plan_t *plan)
{
    if (!input) return gln_fail(GLN_ERR_ARGUMENT, "router call got NULL for input");
    gln_status_t status = gln_plan_check(router, plan);
    if (status != GLN_OK) return status;
    if (!input->logits && router->shape.tokens > 0)
        return gln_fail(GLN_ERR_ARGUMENT, "router call got NULL for logits");
    if (input->scores_given && router->sigmoid && router->ops->prepare)
        return gln_fail(
            GLN_ERR_ARGUMENT,
            "scores given to policy %s with k = %d: it selects by the softmax and weighs "
            "by the sigmoid of the logits; give logits",
            gln_policy_name(router->options.policy), router->options.k);
    if (input->domain < 0 || input->first_local < 0 || input->layer < 0 ||
        input->first_local >= router->shape.experts ||
        input->first_local % router->shape.per_domain != 0)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "router call for domain %d, layer %d, first local expert %d: expected 0 or "
                        "more, and a multiple of %d below %d",
                        input->domain, input->layer, input->first_local, router->shape.per_domain,
                        router->shape.experts);
    if (!(input->capacity_factor >= 0) ||
        input->capacity_factor > router->shape.capacity_factor_max)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "router call with capacity factor %g, allowed is 0 to %g (the largest that "
                        "the router was opened for)",
                        input->capacity_factor, router->shape.capacity_factor_max);
    return GLN_OK;
}

gln_status_t gln_router_route(gln_router_t *router, const gln_route_input_t *input,
                              gln_plan_t *plan)
{
    gln_status_t status = check_input(router, input, plan);
    if (status != GLN_OK) return status;
    int local = router->options.ir_scope * router->shape.per_domain;
    gln_route_call_t call = {
        .router = router,
        .input = input,
        .plan = plan,
        .first_scope = input->first_local / local * local,
        .count_scope = local,
        .fill = router->options.fill && !input->skip_fill,
        .rectify = router->options.rectify && !input->skip_rectify,
        .stream = gln_rng_stream(GLN_RNG_ROUTER, (uint64_t)input->step, (uint64_t)input->layer),
    };
    plan->capacity = gln_router_capacity(router, input->capacity_factor);
    status = gln_route_score(&call);
    if (status != GLN_OK) return status;
    if (router->ops->prepare) {
        router->ops->prepare(&call);
        gln_route_rank(&call);
    }
    router->ops->select(&call);
    gln_route_rectify(&call);
    gln_route_weights(&call);
    gln_route_losses(&call);
    char where[96];
    snprintf(where, sizeof where, "step %lld, layer %d, domain %d", (long long)input->step,
             input->layer, input->domain);
    return gln_ledger_check(&plan->ledger, where);
}
