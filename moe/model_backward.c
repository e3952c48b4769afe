/* Backward pass. Gradients of inputs run over all N rows at once; gradients of dense weights are
 * kept per local domain (the caller sums them over the tree), so their sums run over one domain's
 * rows whatever the rank count. */
#include "moe/model_internal.h"

/* dW[domain] += X^T dY over that domain's rows, for every local domain. */
static gln_status_t weight_gradient(gln_model_t *m, int weight, const void *x, int64_t in,
                                    const void *dy, int64_t out)
{
    const int d_count = m->parallel->local_domains;
    for (int d = 0; d < d_count; d++) {
        const int64_t row = d * m->tokens;
        m->items[d] = (gln_gemm_t){.m = in,
                                   .n = out,
                                   .k = m->tokens,
                                   .a = gln_at(x, row * in, m->k->dtype),
                                   .lda = in,
                                   .b = gln_at(dy, row * out, m->k->dtype),
                                   .ldb = out,
                                   .c = gln_model_gradient(m, weight, d),
                                   .ldc = out};
    }
    return m->k->ops->gemm(m->k,
                           (gln_gemm_mode_t){.form = GLN_GEMM_TN, .accumulate = 1, .c_acc = 1},
                           m->items, d_count);
}

/* dX = dY W^T, or +=, over all rows. */
static gln_status_t input_gradient(gln_model_t *m, const void *dy, int64_t out, int weight,
                                   int64_t in, void *dx, int accumulate)
{
    const gln_gemm_t item = {.m = m->rows,
                             .n = in,
                             .k = out,
                             .a = dy,
                             .lda = out,
                             .b = gln_model_operand(m, weight),
                             .ldb = out,
                             .c = dx,
                             .ldc = in};
    const gln_gemm_mode_t mode = {.form = GLN_GEMM_NT, .accumulate = accumulate};
    return m->k->ops->gemm(m->k, mode, &item, 1);
}

/* dx += norm's gradient for dnorm; the weight's gradient per domain. */
static gln_status_t norm_backward(gln_model_t *m, int weight, const void *x, const void *rstd)
{
    const int64_t h = m->o.hidden;
    for (int d = 0; d < m->parallel->local_domains; d++) {
        const int64_t row = d * m->tokens;
        gln_status_t status = m->k->ops->rmsnorm_backward(
            m->k, &(gln_rmsnorm_backward_t){.n = m->tokens,
                                            .h = h,
                                            .dy = gln_at(m->dnorm, row * h, m->k->dtype),
                                            .x = gln_at(x, row * h, m->k->dtype),
                                            .w = gln_model_weight(m, weight),
                                            .rstd = gln_at(rstd, row, m->k->acc),
                                            .dx = gln_at(m->dx, row * h, m->k->dtype),
                                            .dw = gln_model_gradient(m, weight, d)});
        if (status != GLN_OK) return status;
    }
    return GLN_OK;
}

/* Dense layer or shared expert: dnorm += its input gradient for dx. */
static gln_status_t dense_backward(gln_model_t *m, block_t *b)
{
    const int64_t f = b->dense_hidden, h = m->o.hidden;
    gln_status_t status = input_gradient(m, m->dx, h, b->dense_down, f, m->dense_dact, 0);
    gln_step_lap(m->times, GLN_STEP_DENSE);
    if (status != GLN_OK) return status;
    status = m->k->ops->swiglu_backward(m->k, &(gln_swiglu_backward_t){.n = m->rows,
                                                                       .f = f,
                                                                       .dact = m->dense_dact,
                                                                       .hgu = b->dense_hgu,
                                                                       .dhgu = m->dense_dhgu,
                                                                       .act_w = m->dense_act_w});
    gln_step_lap(m->times, GLN_STEP_ACTIVATION);
    if (status != GLN_OK) return status;
    status = weight_gradient(m, b->dense_down, m->dense_act_w, f, m->dx, h);
    if (status != GLN_OK) return status;
    status = weight_gradient(m, b->dense_gate_up, b->ffn_in, h, m->dense_dhgu, 2 * f);
    if (status != GLN_OK) return status;
    status = input_gradient(m, m->dense_dhgu, 2 * f, b->dense_gate_up, h, m->dnorm, 1);
    gln_step_lap(m->times, GLN_STEP_DENSE);
    return status;
}

static gln_status_t feed_forward_backward(gln_model_t *m, block_t *b, const gln_model_call_t *call)
{
    gln_status_t status = GLN_OK;
    gln_model_copy(m, NULL, m->dnorm);
    gln_step_lap(m->times, GLN_STEP_RESIDUAL);
    if (b->layer) {
        const gln_layer_weights_t weights = gln_model_layer_weights(m, b);
        for (int d = 0; d < m->parallel->local_domains; d++)
            m->gate_grad[d] = gln_model_gradient(m, b->gate, d);
        for (int g = 0; g < m->parallel->local_groups; g++) {
            m->gate_up_grad[g] = gln_model_gradient(m, b->gate_up, g);
            m->down_grad[g] = gln_model_gradient(m, b->down, g);
        }
        const gln_layer_gradients_t gradients = {
            .gate = m->gate_grad, .gate_up = m->gate_up_grad, .down = m->down_grad};
        gln_layer_set_overwrite(b->layer, call->overwrite);
        const gln_layer_times_t before = gln_layer_times(b->layer);
        status =
            gln_layer_backward(b->layer, &weights, m->dx, call->aux_scale, m->dnorm, &gradients);
        gln_model_lap_layer(m, b->layer, &before);
    }
    if (status == GLN_OK && b->dense_gate_up >= 0) status = dense_backward(m, b);
    if (status != GLN_OK) return status;
    status = norm_backward(m, b->ffn_norm, b->mid, b->ffn_rstd);
    gln_step_lap(m->times, GLN_STEP_NORMS);
    return status;
}

static gln_status_t attention_backward(gln_model_t *m, block_t *b)
{
    const int64_t h = m->o.hidden, dh = m->o.head_dim, width = m->o.heads * dh;
    void *dk = gln_at(m->dqkv, width, m->k->dtype);
    void *dv = gln_at(m->dqkv, width + m->o.kv_heads * dh, m->k->dtype);
    gln_status_t status = weight_gradient(m, b->out, b->attn_out, width, m->dx, h);
    if (status != GLN_OK) return status;
    status = input_gradient(m, m->dx, h, b->out, width, m->dattn, 0);
    gln_step_lap(m->times, GLN_STEP_PROJECTIONS);
    if (status != GLN_OK) return status;
    const gln_attention_backward_t args = {
        .forward = gln_model_attention(m, b), .dout = m->dattn, .dq = m->dqkv, .dk = dk, .dv = dv};
    status = m->k->ops->attention_backward(m->k, &args);
    gln_step_lap(m->times, GLN_STEP_ATTENTION);
    if (status != GLN_OK) return status;
    status = m->k->ops->rope(m->k, &(gln_rope_t){.n = m->rows,
                                                 .s = m->o.sequence,
                                                 .heads = m->o.heads + m->o.kv_heads,
                                                 .dh = m->o.head_dim,
                                                 .x = m->dqkv,
                                                 .ldx = m->qkv_width,
                                                 .theta = m->o.rope_theta,
                                                 .inverse = 1});
    gln_step_lap(m->times, GLN_STEP_ROPE);
    if (status != GLN_OK) return status;
    status = weight_gradient(m, b->qkv, b->attn_in, h, m->dqkv, m->qkv_width);
    if (status != GLN_OK) return status;
    status = input_gradient(m, m->dqkv, m->qkv_width, b->qkv, h, m->dnorm, 0);
    gln_step_lap(m->times, GLN_STEP_PROJECTIONS);
    if (status != GLN_OK) return status;
    status = norm_backward(m, b->attn_norm, b->x, b->attn_rstd);
    gln_step_lap(m->times, GLN_STEP_NORMS);
    return status;
}

gln_status_t gln_model_backward(gln_model_t *m, const gln_model_call_t *call)
{
    const int64_t h = m->o.hidden;
    /* gln_model_loss left the gradient of the last norm's output in dnorm */
    gln_model_copy(m, NULL, m->dx);
    gln_step_lap(m->times, GLN_STEP_RESIDUAL);
    gln_status_t status = norm_backward(m, m->norm, m->last, m->last_rstd);
    gln_step_lap(m->times, GLN_STEP_NORMS);
    for (int i = m->o.layers - 1; i >= 0 && status == GLN_OK; i--) {
        status = feed_forward_backward(m, &m->blocks[i], call);
        if (status == GLN_OK) status = attention_backward(m, &m->blocks[i]);
    }
    for (int d = 0; d < m->parallel->local_domains && status == GLN_OK; d++) {
        const int64_t row = d * m->tokens;
        status = m->k->ops->embed_backward(
            m->k, &(gln_embed_backward_t){.n = m->tokens,
                                          .h = h,
                                          .v = m->o.vocabulary,
                                          .dout = gln_at(m->dx, row * h, m->k->dtype),
                                          .ids = call->ids + row,
                                          .dtable = gln_model_gradient(m, m->embed, d)});
    }
    gln_step_lap(m->times, GLN_STEP_EMBEDDING);
    return status;
}
