/* Sizes and shared buffers of MoE layers. The bounds are derived at the top of layer.c; O(1). */
#include "moe/layer_internal.h"

#include "base/log.h"
#include <stdlib.h>
#include <string.h>

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

gln_status_t gln_layer_check_options(const gln_parallel_t *parallel,
                                     const gln_layer_options_t *options)
{
    if (parallel->comm == NULL)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "layer: the layout has no communicator; make it with gln_parallel_open");
    if (options->tokens < 1 || options->hidden < 1 || options->expert_hidden < 1)
        return gln_fail(
            GLN_ERR_ARGUMENT,
            "layer: tokens, hidden and expert_hidden must be at least 1; found %lld, %lld, "
            "%lld",
            (long long)options->tokens, (long long)options->hidden,
            (long long)options->expert_hidden);
    if (options->stages < 0 || options->stages > GLN_STAGES_MAX)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "layer: expected 1 to %d stages of far rows (0: 1), found %d",
                        (int)GLN_STAGES_MAX, options->stages);
    return GLN_OK;
}

gln_status_t gln_layer_open_router(const gln_parallel_t *parallel, const gln_kernels_t *kernels,
                                   const gln_layer_options_t *options, gln_router_t **out)
{
    gln_router_shape_t shape = {.tokens = options->tokens,
                                .experts = parallel->experts,
                                .per_domain = parallel->per_domain,
                                .capacity_factor_max = options->capacity_factor_max,
                                .acc = kernels->acc};
    return gln_router_open(&options->router, &shape, kernels->pool, out);
}

/* Routes of one (source, destination) pair at most; near: the destination is in the source's
 * ir_scope. */
static int64_t pair_routes(const gln_layer_bounds_t *b, const gln_router_t *router, int near)
{
    const gln_router_options_t *o = gln_router_options(router);
    int64_t capacity = gln_router_capacity(router, gln_router_capacity_factor_max(router));
    int64_t rect = o->rectify && near ? b->tokens : 0;
    int64_t token_routes = gln_router_token_routes_max(router) + (rect > 0 ? 1 : 0);

    if (o->ir_capacity > 0 && o->ir_capacity < b->tokens)
        rect = least(rect, b->per_domain * o->ir_capacity);
    return least(b->per_domain * least(capacity, b->tokens) + rect,
                 b->tokens * least(b->per_domain, token_routes));
}

static int64_t round_to_8(int64_t bytes)
{
    return (bytes + 7) / 8 * 8;
}

static void set_received(const gln_parallel_t *parallel, const gln_router_t *router,
                         int64_t token_routes, gln_layer_bounds_t *b)
{
    int64_t groups = parallel->local_groups, sources = b->group_domains;
    int64_t here =
        least(b->local_domains, b->group_domains); /* n: domains of a group on this rank */
    int64_t scope = gln_router_options(router)->ir_scope;
    int64_t near = pair_routes(b, router, 1), far = pair_routes(b, router, 0);
    int64_t group_routes = here * (scope * near + (sources - scope) * far);
    int64_t group_rows =
        here * (scope * least(b->tokens, near) + (sources - scope) * least(b->tokens, far));

    group_routes = least(group_routes, sources * b->tokens * least(b->experts, token_routes));
    group_rows = least(group_rows, sources * b->tokens * least(here, token_routes));
    b->received_routes = groups * group_routes;
    b->received_rows = groups * least(group_rows, group_routes);
}

gln_status_t gln_layer_bounds_set(const gln_parallel_t *parallel, const gln_kernels_t *kernels,
                                  const gln_layer_options_t *options, const gln_router_t *router,
                                  gln_layer_bounds_t *out)
{
    int64_t token_routes =
        gln_router_token_routes_max(router) + (gln_router_options(router)->rectify ? 1 : 0);
    int64_t acc = (int64_t)gln_dtype_bytes(kernels->acc), pairs;
    gln_layer_bounds_t b;
    gln_dtype_t wire;
    gln_status_t status = gln_layer_wire_dtype(kernels, options->wire, &wire);

    if (status != GLN_OK) return status;
    memset(&b, 0, sizeof b);
    b.tokens = options->tokens;
    b.hidden = options->hidden;
    b.expert_hidden = options->expert_hidden;
    b.experts = parallel->experts;
    b.per_domain = parallel->per_domain;
    b.local_domains = parallel->local_domains;
    b.group_domains = parallel->group_domains;
    b.forward_only = options->forward_only != 0;
    b.element_bytes = (int64_t)gln_dtype_bytes(kernels->dtype);
    b.acc_bytes = acc;
    b.wire_dtype = wire;
    b.stages = most(options->stages, 1);
    b.plan_routes = gln_router_routes_max(router);
    b.plan_rects = gln_router_rect_max(router);
    pairs = b.local_domains * b.group_domains;
    b.pair_routes = pair_routes(&b, router, 1);
    b.pair_rows = least(b.tokens, b.pair_routes);
    b.pair_meta_bytes =
        round_to_8(4 * (b.per_domain + b.pair_routes)) + round_to_8(acc * b.pair_routes);
    b.sent_routes = b.local_domains *
                    least(b.tokens * least(b.experts, token_routes), b.plan_routes + b.plan_rects);
    b.sent_rows = least(pairs * b.pair_rows,
                        b.local_domains * b.tokens * least(b.group_domains, token_routes));
    b.sent_meta_bytes = pairs * (4 * b.per_domain + 16) + b.sent_routes * (4 + acc);
    set_received(parallel, router, token_routes, &b);
    if (most(b.received_routes, b.sent_routes) > INT32_MAX || b.pair_meta_bytes > INT32_MAX)
        return gln_fail(
            GLN_ERR_ARGUMENT,
            "layer: %lld routes received or %lld sent by one rank at most, more than an "
            "index of 32 bits holds; use more ranks or fewer tokens per domain",
            (long long)b.received_routes, (long long)b.sent_routes);
    *out = b;
    return GLN_OK;
}

static void *take(gln_arena_t *arena, int64_t count, int64_t bytes)
{
    return gln_arena_take(arena, (size_t)count * (size_t)bytes);
}

void gln_layer_rows_layout(const gln_layer_bounds_t *b, gln_arena_t *arena, gln_layer_rows_t *rows)
{
    int64_t routes = b->received_routes, e = b->element_bytes;

    rows->instance_offset = take(arena, b->local_domains * b->per_domain + 1, 8);
    rows->near_begin = take(arena, b->local_domains * b->per_domain, 8);
    rows->near_end = take(arena, b->local_domains * b->per_domain, 8);
    rows->stage_row = take(arena, (b->stages + 1) * b->local_domains * b->per_domain, 8);
    rows->gather_index = take(arena, routes, 4);
    rows->route_row = take(arena, routes, 4);
    rows->combine_offset = take(arena, b->received_rows + 1, 4);
    rows->combine_index = take(arena, routes, 4);
    rows->row_weight = take(arena, routes, b->acc_bytes);
    rows->x = take(arena, routes * b->hidden, e);
    rows->hgu = take(arena, routes * 2 * b->expert_hidden, e);
}

static void layout(gln_layer_workspace_t *w, const gln_kernels_t *kernels)
{
    const gln_layer_bounds_t *b = &w->bounds;
    gln_arena_t *arena = &w->arena;
    int64_t pairs = b->local_domains * b->group_domains, tokens = b->local_domains * b->tokens;
    int64_t routes = b->received_routes, e = b->element_bytes, acc = b->acc_bytes;

    w->items = take(arena, 2 * b->local_domains * b->per_domain, sizeof w->items[0]);
    w->ranges = take(arena, 2 * b->local_domains * b->per_domain + 1, sizeof w->ranges[0]);
    w->pair_rows = take(arena, pairs, 4);
    w->pair_routes = take(arena, pairs, 4);
    w->pair_meta = take(arena, pairs, 4);
    w->row_token = take(arena, b->sent_rows, 4);
    w->meta = take(arena, b->sent_meta_bytes, 1);
    w->token_bits = take(arena, (b->tokens + 63) / 64, 8);
    w->token_row = take(arena, b->tokens, 4);
    w->instance_next = take(arena, b->local_domains * b->per_domain, 8);
    w->load = take(arena, b->experts, sizeof *w->load);
    w->fraction = take(arena, b->experts, sizeof *w->fraction);
    w->received_next = take(arena, b->received_rows, 4);
    w->combine_weight = take(arena, routes, acc);
    w->logits = take(arena, tokens * b->experts, acc);
    w->rows_h = take(arena, routes * b->hidden, e);
    w->rows_f = take(arena, routes * b->expert_hidden, e);
    if (b->wire_dtype != (int64_t)kernels->dtype) {
        w->wire_tokens =
            take(arena, tokens * b->hidden, (int64_t)gln_dtype_bytes((gln_dtype_t)b->wire_dtype));
        w->received_x = take(arena, b->received_rows * b->hidden, e);
    }
    if (b->forward_only) {
        gln_layer_rows_layout(b, arena, &w->rows);
        return;
    }
    w->dhgu = take(arena, routes * 2 * b->expert_hidden, e);
    w->act_w = take(arena, routes * b->expert_hidden, e);
    w->tokens_h = take(arena, tokens * b->hidden, e);
    w->dlogits = kernels->dtype == kernels->acc ? w->logits : take(arena, tokens * b->experts, e);
    w->row_a = take(arena, routes, acc);
    w->scalars_in = take(arena, routes, acc);
    w->scalars_out = take(arena, b->sent_routes, acc);
    w->route_a = take(arena, b->plan_routes, acc);
    w->rect_a = take(arena, b->plan_rects, acc);
}

/* Rows of one pair of domains on average under uniform routing: each token takes k of the E experts
 * without replacement, and goes to a domain that holds any of them. */
static double rows_expected(const gln_layer_bounds_t *b, int64_t k)
{
    double missed = 1, experts = (double)b->experts, elsewhere = experts - (double)b->per_domain;
    for (int64_t i = 0; i < k && missed > 0; i++)
        missed *= elsewhere > (double)i ? (elsewhere - (double)i) / (experts - (double)i) : 0;
    double rows = (double)b->tokens * (1 - missed), most_rows = (double)b->pair_rows;
    return rows < most_rows ? rows : most_rows;
}

static gln_status_t open_exchange(const gln_parallel_t *parallel, const gln_layer_options_t *layer,
                                  gln_layer_workspace_t *w)
{
    gln_exchange_options_t options = {.domains = parallel->domains,
                                      .groups = parallel->groups,
                                      .tokens = w->bounds.tokens,
                                      .hidden = w->bounds.hidden,
                                      .dtype = (gln_dtype_t)w->bounds.wire_dtype,
                                      .rows_max = w->bounds.pair_rows,
                                      .scalars_max = w->bounds.pair_routes,
                                      .meta_bytes_max = (size_t)w->bounds.pair_meta_bytes,
                                      .path = layer->path,
                                      .across = layer->across,
                                      .rows_expected = rows_expected(&w->bounds, layer->router.k),
                                      .received_rows_max = w->bounds.received_rows};
    gln_status_t status = gln_exchange_open(parallel->comm, &options, &w->exchange);
    if (status != GLN_OK) return status;
    w->wire_rows = gln_exchange_receive_buffer(w->exchange);
    if (w->wire_tokens == NULL) w->received_x = w->wire_rows;
    gln_exchange_near(w->exchange, &w->near_first, &w->near_count);
    gln_layer_stages_set(w);
    int group = parallel->first_domain / parallel->group_domains * parallel->group_domains;
    for (int j = 0; j < parallel->group_domains;
         ++j) /* all groups of a rank with several are here */
        w->far_nodes |= parallel->local_domains < parallel->group_domains &&
                        gln_comm_node_of(parallel->comm, (group + j) / parallel->local_domains) !=
                            gln_comm_node_of(parallel->comm, gln_comm_rank(parallel->comm));
    return GLN_OK;
}

gln_status_t gln_layer_workspace_open(const gln_parallel_t *parallel, gln_kernels_t *kernels,
                                      const gln_layer_options_t *options,
                                      gln_layer_workspace_t **out)
{
    gln_router_t *router = NULL; /* for its bounds */
    int rank;
    if (!parallel || !kernels || !options || !out)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "gln_layer_workspace_open: expected four addresses, found NULL");
    gln_status_t status = gln_layer_check_options(parallel, options);

    if (status != GLN_OK) return status;
    gln_layer_workspace_t *w = calloc(1, sizeof *w);
    if (w == NULL)
        return gln_fail(GLN_ERR_MEMORY, "layer workspace: no memory for a handle of %zu bytes",
                        sizeof *w);
    status = gln_layer_open_router(parallel, kernels, options, &router);
    if (status == GLN_OK)
        status = gln_layer_bounds_set(parallel, kernels, options, router, &w->bounds);
    gln_router_close(router);
    if (status == GLN_OK) {
        w->arena.kind = GLN_MEMORY_ACTIVATIONS;
        layout(w, kernels);
        status = gln_arena_commit(&w->arena, gln_device_cpu());
    }
    /* memory may be short on one rank alone: nobody may wait for it in the exchange */
    status = gln_comm_agree(parallel->comm, status, &rank);
    if (status != GLN_OK) goto fail;
    layout(w, kernels);
    status = open_exchange(parallel, options, w);
    if (status != GLN_OK) goto fail;
    *out = w;
    return GLN_OK;
fail:
    gln_layer_workspace_close(w);
    return status;
}

void gln_layer_workspace_close(gln_layer_workspace_t *workspace)
{
    if (workspace == NULL) return;
    gln_exchange_close(workspace->exchange);
    gln_arena_close(&workspace->arena);
    free(workspace);
}

size_t gln_layer_workspace_bytes(const gln_layer_workspace_t *workspace)
{
    return workspace->arena.size_bytes + gln_exchange_bytes(workspace->exchange);
}

const char *gln_layer_workspace_form(const gln_layer_workspace_t *workspace, const char **reason)
{
    *reason = gln_exchange_form_reason(workspace->exchange);
    return gln_exchange_form(workspace->exchange);
}

gln_exchange_path_t gln_layer_workspace_path(const gln_layer_workspace_t *workspace,
                                             const char **reason)
{
    *reason = gln_exchange_path_reason(workspace->exchange);
    return gln_exchange_path(workspace->exchange);
}
