/* Forward pass of the MoE layer: gate, route, exchange, experts, exchange back. See layer.c. */
#include "moe/layer_internal.h"

#include "base/log.h"
#include <string.h>

static gln_status_t check(const gln_layer_t *layer, const gln_layer_step_t *step)
{
    if (step->keep && layer->options.forward_only)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "layer %d: opened forward_only, but forward is asked to keep for backward; "
                        "open it with forward_only = 0",
                        layer->index);
    if (step->capacity_factor > layer->capacity_factor_max)
        return gln_fail(
            GLN_ERR_ARGUMENT,
            "layer %d: capacity factor %g asked for, buffers are sized for %g; open with a "
            "larger capacity_factor_max",
            layer->index, step->capacity_factor, layer->capacity_factor_max);
    return GLN_OK;
}

/* Logits of all local tokens, then one plan per local domain. */
static gln_status_t route_domains(gln_layer_t *layer, const gln_layer_weights_t *weights,
                                  const gln_layer_step_t *step, const void *x)
{
    const gln_parallel_t *p = layer->parallel;
    gln_layer_workspace_t *w = layer->workspace;
    int64_t tokens = layer->options.tokens, hidden = layer->options.hidden;
    gln_gemm_mode_t mode = {.form = GLN_GEMM_NN, .c_acc = 1};
    gln_gemm_t item = {.m = p->local_domains * tokens,
                       .n = p->experts,
                       .k = hidden,
                       .a = x,
                       .lda = hidden,
                       .b = weights->gate,
                       .ldb = p->experts,
                       .c = w->logits,
                       .ldc = p->experts};
    gln_status_t status = layer->kernels->ops->gemm(layer->kernels, mode, &item, 1);

    for (int i = 0; i < p->local_domains && status == GLN_OK; ++i) {
        int domain = p->first_domain + i;
        gln_route_input_t input = {
            .logits = gln_at(w->logits, i * tokens * p->experts, layer->kernels->acc),
            .domain = domain,
            .first_local = domain % p->group_domains * p->per_domain,
            .expert_at = layer->options.expert_at,
            .seed = step->seed,
            .step = step->step,
            .layer = layer->index,
            .capacity_factor = step->capacity_factor,
            .skip_fill = step->skip_fill,
            .skip_rectify = step->skip_rectify};
        status = gln_router_route(layer->router, &input, layer->plans[i]);
    }
    return status;
}

static void copy_logits(const gln_layer_t *layer, float *out)
{
    const int64_t count =
        layer->parallel->local_domains * layer->options.tokens * layer->parallel->experts;
    for (int64_t i = 0; i < count; ++i)
        out[i] = (float)gln_load(layer->workspace->logits, i, layer->kernels->acc);
}

/* The load over all domains into every plan's balance loss. Integers: exact in any order. */
static gln_status_t balance_globally(gln_layer_t *layer)
{
    const gln_parallel_t *p = layer->parallel;
    gln_layer_workspace_t *w = layer->workspace;
    double choices = 0;
    memset(w->load, 0, (size_t)p->experts * sizeof *w->load);
    for (int i = 0; i < p->local_domains; ++i)
        for (int e = 0; e < p->experts; ++e)
            w->load[e] += layer->plans[i]->choice_count[e];
    gln_status_t status = gln_comm_sum_i64(p->comm, w->load, p->experts);
    for (int e = 0; e < p->experts; ++e)
        choices += (double)w->load[e];
    for (int e = 0; e < p->experts; ++e)
        w->fraction[e] = choices > 0 ? (double)w->load[e] / choices : 0;
    for (int i = 0; i < p->local_domains && status == GLN_OK; ++i)
        status = gln_plan_balance(layer->plans[i], w->fraction);
    return status;
}

/* x of the received rows to results of the expert rows, for a part of them. */
static gln_status_t run_experts(gln_layer_t *layer, const gln_layer_weights_t *weights,
                                gln_layer_part_t part, double *mark)
{
    gln_layer_workspace_t *w = layer->workspace;
    gln_layer_rows_t *rows = &layer->rows;
    int64_t hidden = layer->options.hidden, f = layer->options.expert_hidden;
    gln_layer_products_t gate_up = {.form = GLN_GEMM_NN,
                                    .n = 2 * f,
                                    .k = hidden,
                                    .a = rows->x,
                                    .b = weights->gate_up,
                                    .c = rows->hgu};
    gln_layer_products_t down = {.form = GLN_GEMM_NN,
                                 .n = hidden,
                                 .k = f,
                                 .a = w->rows_f,
                                 .b = weights->down,
                                 .c = w->rows_h};
    gln_status_t status = gln_layer_gather(layer, part, rows->x);

    gln_layer_lap(mark, &layer->times.move);
    if (status == GLN_OK) status = gln_layer_multiply(layer, part, &gate_up);
    gln_layer_lap(mark, &layer->times.gemm);
    if (status == GLN_OK) status = gln_layer_swiglu(layer, part);
    gln_layer_lap(mark, &layer->times.activation);
    if (status == GLN_OK) status = gln_layer_multiply(layer, part, &down);
    gln_layer_lap(mark, &layer->times.gemm);
    return status;
}

/* x to y through the experts: every received row's results weighted and summed in expert order. */
static gln_status_t exchange_in_turn(gln_layer_t *layer, const gln_layer_weights_t *weights,
                                     const void *x, void *y, double *mark)
{
    gln_layer_workspace_t *w = layer->workspace;
    gln_status_t status =
        gln_exchange_dispatch(w->exchange, gln_layer_wire_send(layer, x), w->wire_rows);

    gln_layer_lap(mark, &layer->times.exchange);
    if (status != GLN_OK) return status;
    gln_layer_count_traffic(layer);
    gln_layer_place_rows(layer);
    gln_layer_part_t all = gln_layer_part_of(layer, GLN_PART_ALL);
    gln_layer_receive(layer, all);
    status = run_experts(layer, weights, all, mark);
    if (status == GLN_OK) status = gln_layer_combine(layer, all, w->combine_weight);
    gln_layer_lap(mark, &layer->times.move);
    if (status == GLN_OK)
        status = gln_exchange_combine(w->exchange, w->wire_rows, gln_layer_wire_sums(layer, y));
    gln_layer_lap(mark, &layer->times.exchange);
    return status;
}

/* Far rows, in stages: until they are there, through the experts, and on their way back. Combine is
 * under way then; nothing is after an error. @param status of what went before */
static gln_status_t run_far(gln_layer_t *layer, const gln_layer_weights_t *weights, void *sums,
                            gln_status_t status, double *mark)
{
    int stages = layer->workspace->stages;

    for (int turn = 0; turn < stages; ++turn) {
        gln_layer_part_t stage = gln_layer_stage(layer, turn);
        gln_status_t arrived = gln_layer_stage_await(layer, stage);
        gln_layer_lap(mark, &layer->times.exchange);
        if (status == GLN_OK) status = arrived;
        gln_layer_drive(layer, stages > 1);
        if (status == GLN_OK) gln_layer_receive(layer, stage);
        if (status == GLN_OK) status = run_experts(layer, weights, stage, mark);
        if (status == GLN_OK)
            status = gln_layer_combine(layer, stage, layer->workspace->combine_weight);
        gln_layer_drive(layer, 0);
        gln_layer_lap(mark, &layer->times.move);
        if (status != GLN_OK) {
            gln_layer_stage_give_up(layer, turn);
            return status;
        }
        status = gln_layer_stage_send(layer, turn, stage, sums);
        gln_layer_lap(mark, &layer->times.exchange);
        if (status != GLN_OK) return status;
    }
    return GLN_OK;
}

/* The same with near rows computed while far ones are under way: half of them under dispatch, half
 * under combine. */
static gln_status_t exchange_overlapped(gln_layer_t *layer, const gln_layer_weights_t *weights,
                                        const void *x, void *y, double *mark)
{
    gln_layer_workspace_t *w = layer->workspace;
    gln_layer_part_t halves[2], near = gln_layer_part_of(layer, GLN_PART_NEAR);
    gln_status_t status =
        gln_exchange_dispatch_start(w->exchange, gln_layer_wire_send(layer, x), w->wire_rows);

    gln_layer_lap(mark, &layer->times.exchange);
    if (status != GLN_OK) return status;
    gln_layer_count_traffic(layer);
    gln_layer_place_rows(layer);
    gln_layer_near_halves(layer, halves);
    gln_layer_lap(mark, &layer->times.move);
    gln_status_t arrived = gln_exchange_dispatch_near(w->exchange);
    gln_layer_lap(mark, &layer->times.exchange);
    gln_layer_drive(layer, 1);
    if (arrived == GLN_OK) gln_layer_receive(layer, near);
    if (arrived == GLN_OK) status = run_experts(layer, weights, halves[0], mark);
    gln_layer_drive(layer, 0);
    status = run_far(layer, weights, gln_layer_wire_sums(layer, y), status, mark);
    if (status != GLN_OK) return status;
    gln_layer_drive(layer, 1);
    status = run_experts(layer, weights, halves[1], mark);
    if (status == GLN_OK) status = gln_layer_combine(layer, near, w->combine_weight);
    gln_layer_drive(layer, 0);
    gln_layer_lap(mark, &layer->times.move);
    arrived = gln_exchange_combine_finish(w->exchange);
    gln_layer_lap(mark, &layer->times.exchange);
    return status == GLN_OK ? arrived : status;
}

gln_status_t gln_layer_forward(gln_layer_t *layer, const gln_layer_weights_t *weights,
                               const gln_layer_step_t *step, const void *x, void *y)
{
    gln_layer_workspace_t *w = layer->workspace;
    gln_status_t status = check(layer, step);
    double begin = gln_layer_now(), mark = begin;
    gln_exchange_times_t flight = gln_exchange_times(w->exchange);
    int rank;

    if (status != GLN_OK) return status;
    layer->x = NULL;
    layer->times = (gln_layer_times_t){0};
    layer->traffic = (gln_traffic_t){0};
    if (w->planned == layer) w->planned = NULL; /* the plan is about to change */
    gln_comm_set_place(layer->parallel->comm, NULL, layer->index);
    status = route_domains(layer, weights, step, x);
    gln_layer_lap(&mark, &layer->times.router);
    /* a rank that cannot go on says so before anyone waits for its rows */
    status = gln_comm_agree(layer->parallel->comm, status, &rank);
    if (status == GLN_OK && step->logits) copy_logits(layer, step->logits);
    if (status == GLN_OK && layer->options.balance_global) status = balance_globally(layer);
    if (status == GLN_OK) status = gln_layer_set_plan(layer);
    gln_layer_lap(&mark, &layer->times.exchange);
    if (status != GLN_OK) return status;
    status = gln_layer_overlaps(layer) ? exchange_overlapped(layer, weights, x, y, &mark)
                                       : exchange_in_turn(layer, weights, x, y, &mark);
    if (status != GLN_OK) return status;
    gln_layer_wire_returned(layer, y);
    gln_layer_lap(&mark, &layer->times.move);
    gln_layer_count_traffic(layer);
    gln_layer_count_flight(layer, &flight);
    if (step->keep) layer->x = x;
    layer->times.total = mark - begin;
    gln_comm_set_place(layer->parallel->comm, NULL, -1);
    return GLN_OK;
}
