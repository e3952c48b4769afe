/* Backward pass of the MoE layer: the plan walked the other way. See layer.c.
 *
 * With w the weight of a route, a = <dy, E(x)> its gate gradient and E(x) = act Wd, act = silu(x
 * Wg) (x Wu): d act = dy Wd^T unweighted, a = <d act, act>, d(x Wg | x Wu) = w times the gradient
 * of act, d Wd += (w act)^T dy, d Wgu += x^T d(x Wg | x Wu), dx = d(x Wg | x Wu) Wgu^T. The a of a
 * route returns to its source as one scalar and becomes the gradient of the logits there. */
#include "moe/layer_internal.h"

#include "base/log.h"
#include <string.h>

/* dy of the received rows to the experts' weight gradients, a of every expert row, and dx of the
 * received rows. */
static gln_status_t run_experts(gln_layer_t *layer, const gln_layer_weights_t *weights,
                                const gln_layer_gradients_t *gradients, double *mark)
{
    gln_kernels_t *k = layer->kernels;
    gln_layer_workspace_t *w = layer->workspace;
    gln_layer_rows_t *rows = &layer->rows;
    int64_t hidden = layer->options.hidden, f = layer->options.expert_hidden;
    gln_gather_t gather = {.n = rows->rows_count,
                           .h = hidden,
                           .x = w->received_x,
                           .index = rows->gather_index,
                           .out = w->rows_h};
    gln_layer_products_t dact = {.form = GLN_GEMM_NT,
                                 .n = f,
                                 .k = hidden,
                                 .a = w->rows_h,
                                 .b = weights->down,
                                 .c = w->rows_f};
    gln_swiglu_backward_t swiglu = {.n = rows->rows_count,
                                    .f = f,
                                    .dact = w->rows_f,
                                    .hgu = rows->hgu,
                                    .w = rows->row_weight,
                                    .dhgu = w->dhgu,
                                    .act_w = w->act_w,
                                    .a = w->row_a};
    gln_layer_products_t ddown = {.form = GLN_GEMM_TN,
                                  .n = hidden,
                                  .k = f,
                                  .a = w->act_w,
                                  .b = w->rows_h,
                                  .c_group = gradients->down};
    gln_layer_products_t dgate_up = {.form = GLN_GEMM_TN,
                                     .n = 2 * f,
                                     .k = hidden,
                                     .a = rows->x,
                                     .b = w->dhgu,
                                     .c_group = gradients->gate_up};
    gln_layer_products_t dx = {.form = GLN_GEMM_NT,
                               .n = hidden,
                               .k = 2 * f,
                               .a = w->dhgu,
                               .b = weights->gate_up,
                               .c = w->rows_h}; /* over dy, no longer needed */
    gln_combine_t combine = {.n = rows->received_count,
                             .h = hidden,
                             .rows = w->rows_h,
                             .offset = rows->combine_offset,
                             .index = rows->combine_index,
                             .out = w->received_x};
    gln_status_t status = k->ops->gather(k, &gather);

    gln_layer_lap(mark, &layer->times.move);
    if (status == GLN_OK) status = gln_layer_multiply(layer, &dact);
    gln_layer_lap(mark, &layer->times.gemm);
    if (status == GLN_OK) status = k->ops->swiglu_backward(k, &swiglu);
    gln_layer_lap(mark, &layer->times.move);
    if (status == GLN_OK) status = gln_layer_multiply(layer, &ddown);
    if (status == GLN_OK) status = gln_layer_multiply(layer, &dgate_up);
    if (status == GLN_OK) status = gln_layer_multiply(layer, &dx);
    gln_layer_lap(mark, &layer->times.gemm);
    if (status == GLN_OK) status = k->ops->combine(k, &combine);
    gln_layer_lap(mark, &layer->times.move);
    return status;
}

/* a of expert rows into the order in which scalars were received. */
static void order_scalars(gln_layer_t *layer)
{
    gln_layer_workspace_t *w = layer->workspace;
    const int32_t *row = layer->rows.route_row;
    int64_t count = layer->rows.rows_count;

    if (w->bounds.element_bytes == 8)
        for (int64_t q = 0; q < count; ++q)
            ((double *)w->scalars_in)[q] = ((const double *)w->row_a)[row[q]];
    else
        for (int64_t q = 0; q < count; ++q)
            ((float *)w->scalars_in)[q] = ((const float *)w->row_a)[row[q]];
}

/* Scalars of one domain, expert by expert by place, slot routes then rectified rows, into plan
 * order. Returns where the next domain's begin. */
static const char *plan_scalars(const gln_layer_t *layer, const gln_plan_t *plan,
                                const char *scalars)
{
    gln_layer_workspace_t *w = layer->workspace;
    int64_t element = w->bounds.element_bytes;

    for (int place = 0; place < plan->experts; ++place) {
        int e = gln_layer_expert_at(layer, place);
        int64_t slot = plan->expert_offset[e], slots = plan->expert_offset[e + 1] - slot;
        int64_t rect = plan->rect_offset[e], rects = plan->rect_offset[e + 1] - rect;
        if (slots > 0)
            memcpy((char *)w->route_a + slot * element, scalars, (size_t)(slots * element));
        scalars += slots * element;
        if (rects > 0)
            memcpy((char *)w->rect_a + rect * element, scalars, (size_t)(rects * element));
        scalars += rects * element;
    }
    return scalars;
}

/* Scalars at their source to gradients of logits, gate weights and x. */
static gln_status_t run_gate(gln_layer_t *layer, const gln_layer_weights_t *weights,
                             double aux_scale, void *dx, const gln_layer_gradients_t *gradients,
                             double *mark)
{
    const gln_parallel_t *p = layer->parallel;
    gln_layer_workspace_t *w = layer->workspace;
    gln_kernels_t *k = layer->kernels;
    int64_t tokens = layer->options.tokens, hidden = layer->options.hidden, experts = p->experts;
    const char *scalars = w->scalars_out;
    gln_gemm_mode_t gate_mode = {.form = GLN_GEMM_TN, .accumulate = 1, .c_acc = 1};
    gln_gemm_mode_t x_mode = {.form = GLN_GEMM_NT, .accumulate = 1};
    gln_gemm_t x_item = {.m = p->local_domains * tokens,
                         .n = hidden,
                         .k = experts,
                         .a = w->logits,
                         .lda = experts,
                         .b = weights->gate,
                         .ldb = experts,
                         .c = dx,
                         .ldc = hidden};
    gln_status_t status;

    for (int i = 0; i < p->local_domains; ++i) {
        void *dlogits = gln_at(w->logits, i * tokens * experts, k->acc);
        scalars = plan_scalars(layer, layer->plans[i], scalars);
        status = gln_router_backward(layer->router, layer->plans[i], w->route_a, w->rect_a,
                                     aux_scale, dlogits);
        if (status != GLN_OK) return status;
        w->items[i] = (gln_gemm_t){.m = hidden,
                                   .n = experts,
                                   .k = tokens,
                                   .a = gln_at(layer->x, i * tokens * hidden, k->dtype),
                                   .lda = hidden,
                                   .b = dlogits,
                                   .ldb = experts,
                                   .c = gradients->gate[i],
                                   .ldc = experts};
    }
    gln_layer_lap(mark, &layer->times.router);
    status = k->ops->gemm(k, gate_mode, w->items, p->local_domains);
    if (status == GLN_OK) status = k->ops->gemm(k, x_mode, &x_item, 1);
    gln_layer_lap(mark, &layer->times.gemm);
    return status;
}

gln_status_t gln_layer_backward(gln_layer_t *layer, const gln_layer_weights_t *weights,
                                const void *dy, double aux_scale, void *dx,
                                const gln_layer_gradients_t *gradients)
{
    gln_layer_workspace_t *w = layer->workspace;
    gln_kernels_t *k = layer->kernels;
    double begin = gln_layer_now(), mark = begin;
    gln_traffic_t traffic;
    gln_status_t status;

    if (layer->x == NULL)
        return gln_fail(
            GLN_ERR_ARGUMENT,
            "layer %d: backward without a forward that kept its activations; call forward "
            "with keep = 1 before each backward",
            layer->index);
    gln_comm_set_place(layer->parallel->comm, NULL, layer->index);
    status = gln_layer_set_plan(layer);
    if (status == GLN_OK)
        status = gln_exchange_dispatch(w->exchange, gln_layer_wire_send(layer, dy), w->wire_rows);
    gln_layer_lap(&mark, &layer->times.exchange);
    if (status != GLN_OK) return status;
    traffic = gln_exchange_traffic(w->exchange);
    gln_traffic_add(&layer->traffic, &traffic);
    gln_layer_wire_received(layer, 0, w->received.rows_count);
    status = run_experts(layer, weights, gradients, &mark);
    if (status != GLN_OK) return status;
    gln_layer_wire_return(layer, 0, w->received.rows_count);
    order_scalars(layer);
    gln_layer_lap(&mark, &layer->times.move);
    status =
        gln_exchange_combine(w->exchange, w->wire_rows, gln_layer_wire_sums(layer, w->tokens_h));
    traffic = gln_exchange_traffic(w->exchange);
    if (status == GLN_OK) status = gln_exchange_scalars(w->exchange, w->scalars_in, w->scalars_out);
    gln_layer_lap(&mark, &layer->times.exchange);
    if (status != GLN_OK) return status;
    gln_traffic_add(&layer->traffic, &traffic);
    gln_layer_wire_returned(layer, w->tokens_h);
    status = k->ops->add(k, w->bounds.local_domains * w->bounds.tokens * w->bounds.hidden,
                         w->tokens_h, dx);
    gln_layer_lap(&mark, &layer->times.move);
    if (status == GLN_OK) status = run_gate(layer, weights, aux_scale, dx, gradients, &mark);
    if (status != GLN_OK) return status;
    layer->x = NULL;
    layer->times.total += mark - begin;
    gln_comm_set_place(layer->parallel->comm, NULL, -1);
    return GLN_OK;
}
