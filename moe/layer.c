/* The MoE layer: opening, closing and what it reports. The passes are in layer_forward.c and
 * layer_backward.c, who goes where in layer_rows.c, types on the wire in layer_wire.c, buffers in
 * layer_workspace.c.
 *
 * Method. GShard (arXiv 2006.16668) with the rectify-router (arXiv 2402.12399) and grouped products
 * over ragged experts (MegaBlocks, arXiv 2211.15841) in place of padded ones. A token travels once
 * to each domain that hosts one of its experts; there its weighted results are summed in expert
 * order, and the partial rows are summed over domains on the way back. Every sum hangs on domains
 * and on plan order, so the bits depend neither on ranks nor on threads; an expert's weight
 * gradient is one product over all its rows of a replica group in domain order.
 *
 * The exchange. Layers share one, in the workspace, as one layer runs at a time. Backward makes it
 * hold the layer's own plan again: the lists are rebuilt from the plans, which the layer keeps
 * anyway, and a metadata exchange is made; nothing of it when no other layer ran in between. That
 * costs well under a percent of a layer and saves an exchange with its row buffers for every layer.
 *
 * Cost per rank, rows = routes received: 18 rows H F multiply-adds for a step's products (6
 * forward, 12 backward), 4 received_rows H elements exchanged, O(rows (H + F)) for moving, O(rows)
 * for the lists.
 *
 * Memory, with C the capacity at capacity_factor_max, c = routes of a token at most (the router's
 * slot routes, K + fill for top-k, and one if it rectifies) and, between one source and one
 * destination domain, rows <= min(T, routes) and routes <=
 * min(L min(C, T) + rectified, T min(L, c)), rectified <= min(T, L ir_capacity) for the ir_scope
 * domains around the source, 0 elsewhere. A rank hosts n domains of each of its replica groups.
 * With the G sources of a group it receives, per group, routes <= min(sum of the pairs' bounds, G T
 * min(E, c)),  rows <= min(sum, G T min(n, c), routes). Workspace, elements:  rows H + routes (H +
 * F), and for training routes (3 F + 4) + D/P T H more, beside the exchange's own buffers; with a
 * narrower wire (layer_wire.c) the exchange's rows are that narrow, and D/P T H of them and rows H
 * of f32 come on top. In bf16 an element has 2 bytes, and what belongs to a route or a logit 4; D/P
 * T E of 2 bytes come on top. Layer:
 * routes (H + 2 F + 1) elements and 3 routes + rows int32 (in the workspace for forward_only), the
 * plans and the router's scratch. */
#include "moe/layer.h"

#include "base/log.h"
#include "moe/layer_internal.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

double gln_layer_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void gln_layer_lap(double *mark, double *sum)
{
    double now = gln_layer_now();
    *sum += now - *mark;
    *mark = now;
}

void gln_layer_count_traffic(gln_layer_t *layer)
{
    gln_traffic_t traffic = gln_exchange_traffic(layer->workspace->exchange);

    gln_traffic_add(&layer->traffic, &traffic);
}

void gln_layer_count_flight(gln_layer_t *layer, const gln_exchange_times_t *before)
{
    gln_exchange_times_t now = gln_exchange_times(layer->workspace->exchange);

    layer->times.flight += now.flight_s - before->flight_s;
    layer->times.hidden += now.hidden_s - before->hidden_s;
}

static void layout(gln_layer_t *layer, const gln_layer_bounds_t *bounds)
{
    layer->plans =
        gln_arena_take(&layer->arena, (size_t)bounds->local_domains * sizeof layer->plans[0]);
    if (!layer->options.forward_only)
        gln_layer_rows_layout(bounds, &layer->arena, &layer->rows);
    else
        layer->rows = layer->workspace->rows;
}

static gln_status_t open_plans(gln_layer_t *layer)
{
    for (int i = 0; i < layer->parallel->local_domains; ++i) {
        gln_status_t status = gln_plan_open(layer->router, &layer->plans[i]);
        if (status != GLN_OK) return status;
    }
    return GLN_OK;
}

gln_status_t gln_layer_open(const gln_parallel_t *parallel, gln_kernels_t *kernels,
                            gln_layer_workspace_t *workspace, const gln_layer_options_t *options,
                            int index, gln_layer_t **out)
{
    gln_layer_bounds_t bounds;
    if (!parallel || !kernels || !workspace || !options || !out)
        return gln_fail(GLN_ERR_ARGUMENT, "gln_layer_open: expected five addresses, found NULL");
    gln_status_t status = gln_layer_check_options(parallel, options);

    if (status != GLN_OK) return status;
    gln_layer_t *layer = calloc(1, sizeof *layer);
    if (layer == NULL)
        return gln_fail(GLN_ERR_MEMORY, "layer %d: no memory for a handle of %zu bytes", index,
                        sizeof *layer);
    layer->parallel = parallel;
    layer->kernels = kernels;
    layer->workspace = workspace;
    layer->options = *options;
    layer->index = index;

    status = gln_layer_open_router(parallel, kernels, options, &layer->router);
    if (status != GLN_OK) goto fail;
    layer->capacity_factor_max = gln_router_capacity_factor_max(layer->router);
    status = gln_layer_bounds_set(parallel, kernels, options, layer->router, &bounds);
    if (status != GLN_OK) goto fail;
    if (memcmp(&bounds, &workspace->bounds, sizeof bounds) != 0) {
        status = gln_fail(
            GLN_ERR_ARGUMENT,
            "layer %d: its options are not those of the workspace (shapes, capacity, "
            "routes per token, wire and forward_only must be equal); open a workspace for it",
            index);
        goto fail;
    }
    layer->arena.kind = GLN_MEMORY_ACTIVATIONS;
    layout(layer, &bounds);
    status = gln_arena_commit(&layer->arena, gln_device_cpu());
    if (status != GLN_OK) goto fail;
    layout(layer, &bounds);
    status = open_plans(layer);
    if (status != GLN_OK) goto fail;
    *out = layer;
    return GLN_OK;
fail:
    gln_layer_close(layer);
    return status;
}

void gln_layer_close(gln_layer_t *layer)
{
    if (layer == NULL) return;
    if (layer->workspace->planned == layer) layer->workspace->planned = NULL;
    if (layer->arena.base != NULL)
        for (int i = layer->parallel->local_domains - 1; i >= 0; --i)
            gln_plan_close(layer->plans[i]);
    gln_arena_close(&layer->arena);
    gln_router_close(layer->router);
    free(layer);
}

size_t gln_layer_bytes(const gln_layer_t *layer)
{
    size_t bytes = layer->arena.size_bytes;

    for (int i = 0; i < layer->parallel->local_domains; ++i)
        bytes += layer->plans[i]->arena.size_bytes;
    return bytes;
}

const gln_plan_t *gln_layer_plan(const gln_layer_t *layer, int local_domain)
{
    GLN_ASSERT(local_domain >= 0 && local_domain < layer->parallel->local_domains);
    return layer->plans[local_domain];
}

gln_ledger_t gln_layer_ledger(const gln_layer_t *layer)
{
    gln_ledger_t sum = {0};

    for (int i = 0; i < layer->parallel->local_domains; ++i)
        gln_ledger_add(&sum, &layer->plans[i]->ledger);
    return sum;
}

gln_traffic_t gln_layer_traffic(const gln_layer_t *layer)
{
    return layer->traffic;
}

gln_status_t gln_layer_bias(const gln_layer_t *layer, float *out)
{
    return gln_router_bias(layer->router, out);
}

gln_status_t gln_layer_set_bias(gln_layer_t *layer, const float *bias)
{
    return gln_router_set_bias(layer->router, bias);
}

gln_status_t gln_layer_update_bias(gln_layer_t *layer, const int64_t *load, double gamma)
{
    return gln_router_update_bias(layer->router, load, gamma);
}

double gln_layer_balance_loss(const gln_layer_t *layer, int local_domain)
{
    return gln_layer_plan(layer, local_domain)->balance_loss;
}

double gln_layer_z_loss(const gln_layer_t *layer, int local_domain)
{
    return gln_layer_plan(layer, local_domain)->z_loss;
}

void gln_layer_set_overwrite(gln_layer_t *layer, int on)
{
    layer->overwrite = on;
}

gln_layer_times_t gln_layer_times(const gln_layer_t *layer)
{
    gln_layer_times_t times = layer->times;
    times.move += times.activation; /* laps of their own */
    return times;
}
