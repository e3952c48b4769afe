/* Backward pass of the MoE layer: the plan walked the other way. See layer.c.
 *
 * With w the weight of a route, a = <dy, E(x)> its gate gradient and E(x) = act Wd, act = silu(x
 * Wg) (x Wu): d act = dy Wd^T unweighted, a = <d act, act>, d(x Wg | x Wu) = w times the gradient
 * of act, d Wd += (w act)^T dy, d Wgu += x^T d(x Wg | x Wu), dx = d(x Wg | x Wu) Wgu^T. The a of a
 * route returns to its source as one scalar and becomes the gradient of the logits there. */
#include "moe/layer_internal.h"

#include "base/log.h"
#include <string.h>

/* Gradients of one step from the rows, all parts of which run the same way. */
typedef struct expert_products {
    gln_layer_products_t dact, ddown, dgate_up, dx;
} expert_products_t;

static expert_products_t products_of(gln_layer_t *layer, const gln_layer_weights_t *weights,
                                     const gln_layer_gradients_t *gradients)
{
    gln_layer_workspace_t *w = layer->workspace;
    int64_t hidden = layer->options.hidden, f = layer->options.expert_hidden;

    return (expert_products_t){.dact = {.form = GLN_GEMM_NT,
                                        .n = f,
                                        .k = hidden,
                                        .a = w->rows_h,
                                        .b = weights->down,
                                        .c = w->rows_f},
                               .ddown = {.form = GLN_GEMM_TN,
                                         .n = hidden,
                                         .k = f,
                                         .a = w->act_w,
                                         .b = w->rows_h,
                                         .c_group = gradients->down},
                               .dgate_up = {.form = GLN_GEMM_TN,
                                            .n = 2 * f,
                                            .k = hidden,
                                            .a = layer->rows.x,
                                            .b = w->dhgu,
                                            .c_group = gradients->gate_up},
                               .dx = {.form = GLN_GEMM_NT,
                                      .n = hidden,
                                      .k = 2 * f,
                                      .a = w->dhgu,
                                      .b = weights->gate_up,
                                      .c = w->rows_h}}; /* over dy, no longer needed */
}

/* dy of the received rows to the gradient of what the activation takes, and a, for a part. */
static gln_status_t activation(gln_layer_t *layer, const expert_products_t *p,
                               gln_layer_part_t part, double *mark)
{
    gln_status_t status = gln_layer_gather(layer, part, layer->workspace->rows_h);

    gln_layer_lap(mark, &layer->times.move);
    if (status == GLN_OK) status = gln_layer_multiply(layer, part, &p->dact);
    gln_layer_lap(mark, &layer->times.gemm);
    if (status == GLN_OK) status = gln_layer_swiglu_backward(layer, part);
    gln_layer_lap(mark, &layer->times.activation);
    return status;
}

/* dx of the received rows of a part. */
static gln_status_t input_gradient(gln_layer_t *layer, const expert_products_t *p,
                                   gln_layer_part_t part, double *mark)
{
    gln_status_t status = gln_layer_multiply(layer, part, &p->dx);

    gln_layer_lap(mark, &layer->times.gemm);
    if (status == GLN_OK) status = gln_layer_combine(layer, part, NULL);
    gln_layer_lap(mark, &layer->times.move);
    return status;
}

/* a of expert rows into the order in which scalars were received. */
static void order_scalars(gln_layer_t *layer)
{
    gln_layer_workspace_t *w = layer->workspace;
    const int32_t *row = layer->rows.route_row;
    int64_t count = layer->rows.rows_count;

    if (w->bounds.acc_bytes == 8)
        for (int64_t q = 0; q < count; ++q)
            ((double *)w->scalars_in)[q] = ((const double *)w->row_a)[row[q]];
    else
        for (int64_t q = 0; q < count; ++q)
            ((float *)w->scalars_in)[q] = ((const float *)w->row_a)[row[q]];
}

/* dy to tokens_h, the gradient of x from the experts, and to the experts' weight gradients. */
static gln_status_t exchange_in_turn(gln_layer_t *layer, const expert_products_t *p, const void *dy,
                                     double *mark)
{
    gln_layer_workspace_t *w = layer->workspace;
    gln_layer_part_t all = gln_layer_part_of(layer, GLN_PART_ALL);
    gln_status_t status =
        gln_exchange_dispatch(w->exchange, gln_layer_wire_send(layer, dy), w->wire_rows);

    gln_layer_lap(mark, &layer->times.exchange);
    if (status != GLN_OK) return status;
    gln_layer_count_traffic(layer);
    gln_layer_receive(layer, all);
    status = activation(layer, p, all, mark);
    if (status == GLN_OK) status = gln_layer_multiply(layer, all, &p->ddown);
    if (status == GLN_OK) status = gln_layer_multiply(layer, all, &p->dgate_up);
    if (status == GLN_OK) status = input_gradient(layer, p, all, mark);
    if (status != GLN_OK) return status;
    order_scalars(layer);
    gln_layer_lap(mark, &layer->times.move);
    return gln_exchange_combine(w->exchange, w->wire_rows, gln_layer_wire_sums(layer, w->tokens_h));
}

/* Activation gradient of far rows, in stages. All have arrived then. @param status of what went
 * before */
static gln_status_t far_activation(gln_layer_t *layer, const expert_products_t *p,
                                   gln_status_t status, double *mark)
{
    int stages = layer->workspace->stages;

    for (int turn = 0; turn < stages; ++turn) {
        gln_layer_part_t stage = gln_layer_stage(layer, turn);
        gln_status_t arrived = gln_layer_stage_await(layer, stage);
        gln_layer_lap(mark, &layer->times.exchange);
        if (status == GLN_OK) status = arrived;
        gln_layer_drive(layer, turn + 1 < stages);
        if (status == GLN_OK) gln_layer_receive(layer, stage);
        if (status == GLN_OK) status = activation(layer, p, stage, mark);
        gln_layer_drive(layer, 0);
    }
    return status;
}

/* dx of far rows, in stages, and on its way back. Combine is under way then; nothing is after an
 * error. @param status of what went before */
static gln_status_t far_gradient(gln_layer_t *layer, const expert_products_t *p,
                                 gln_status_t status, double *mark)
{
    gln_layer_workspace_t *w = layer->workspace;
    void *sums = gln_layer_wire_sums(layer, w->tokens_h);

    for (int turn = 0; turn < w->stages; ++turn) {
        gln_layer_part_t stage = gln_layer_stage(layer, turn);
        gln_layer_drive(layer, turn > 0);
        if (status == GLN_OK) status = input_gradient(layer, p, stage, mark);
        gln_layer_drive(layer, 0);
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

/* The same with work on near rows while far ones come, and with half of the weight gradients and
 * the rest of the near rows while results return. A weight gradient is one sum over all rows. */
static gln_status_t exchange_overlapped(gln_layer_t *layer, const expert_products_t *p,
                                        const void *dy, double *mark)
{
    gln_layer_workspace_t *w = layer->workspace;
    gln_layer_part_t all = gln_layer_part_of(layer, GLN_PART_ALL);
    gln_layer_part_t near = gln_layer_part_of(layer, GLN_PART_NEAR);
    gln_status_t status =
        gln_exchange_dispatch_start(w->exchange, gln_layer_wire_send(layer, dy), w->wire_rows);

    if (status != GLN_OK) return status;
    gln_layer_count_traffic(layer);
    gln_status_t arrived = gln_exchange_dispatch_near(w->exchange);
    gln_layer_lap(mark, &layer->times.exchange);
    gln_layer_drive(layer, 1);
    if (arrived == GLN_OK) gln_layer_receive(layer, near);
    if (arrived == GLN_OK) status = activation(layer, p, near, mark);
    gln_layer_drive(layer, 0);
    status = far_activation(layer, p, status, mark);
    if (status == GLN_OK)
        status = gln_layer_multiply(layer, all, &p->ddown); /* the last use of dy */
    gln_layer_lap(mark, &layer->times.gemm);
    status = far_gradient(layer, p, status, mark);
    if (status != GLN_OK) return status;
    gln_layer_drive(layer, 1);
    status = gln_layer_multiply(layer, all, &p->dgate_up);
    if (status == GLN_OK) status = input_gradient(layer, p, near, mark);
    gln_layer_drive(layer, 0);
    order_scalars(layer);
    gln_layer_lap(mark, &layer->times.move);
    arrived = gln_exchange_combine_finish(w->exchange);
    return status == GLN_OK ? arrived : status;
}

/* Scalars of one domain, expert by expert by place, slot routes then rectified rows, into plan
 * order. Returns where the next domain's begin. */
static const char *plan_scalars(const gln_layer_t *layer, const gln_plan_t *plan,
                                const char *scalars)
{
    gln_layer_workspace_t *w = layer->workspace;
    int64_t element = w->bounds.acc_bytes;

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
                         .a = w->dlogits,
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
                                   .b = gln_at(w->dlogits, i * tokens * experts, k->dtype),
                                   .ldb = experts,
                                   .c = gradients->gate[i],
                                   .ldc = experts};
    }
    status = w->dlogits == w->logits
                 ? GLN_OK
                 : k->ops->round(k, p->local_domains * tokens * experts, w->logits, w->dlogits);
    gln_layer_lap(mark, &layer->times.router);
    if (status == GLN_OK) status = k->ops->gemm(k, gate_mode, w->items, p->local_domains);
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
    gln_exchange_times_t flight = gln_exchange_times(w->exchange);
    expert_products_t products = products_of(layer, weights, gradients);
    gln_status_t status;

    if (layer->x == NULL)
        return gln_fail(
            GLN_ERR_ARGUMENT,
            "layer %d: backward without a forward that kept its activations; call forward "
            "with keep = 1 before each backward",
            layer->index);
    gln_comm_set_place(layer->parallel->comm, NULL, layer->index);
    status = gln_layer_set_plan(layer);
    gln_layer_lap(&mark, &layer->times.exchange);
    if (status != GLN_OK) return status;
    status = gln_layer_overlaps(layer) ? exchange_overlapped(layer, &products, dy, &mark)
                                       : exchange_in_turn(layer, &products, dy, &mark);
    if (status == GLN_OK) gln_layer_count_traffic(layer);
    if (status == GLN_OK) status = gln_exchange_scalars(w->exchange, w->scalars_in, w->scalars_out);
    gln_layer_lap(&mark, &layer->times.exchange);
    if (status != GLN_OK) return status;
    gln_layer_count_flight(layer, &flight);
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
