/* Forward pass and loss. Rows are independent of each other but for attention (inside a sequence)
 * and the router (inside a domain), so all local domains run as one batch of N rows and no bit
 * depends on how many there are. */
#include "base/log.h"
#include "moe/model_internal.h"

#include <string.h>

typedef struct copy_run {
    const char *from; /* NULL: zeros */
    char *to;
    size_t bytes;
} copy_run_t;

enum { COPY_BYTES = 1 << 18 }; /* of a task */

static void copy_task(void *ctx, int task, int worker)
{
    const copy_run_t *run = ctx;
    const size_t first = (size_t)task * COPY_BYTES, rest = run->bytes - first;
    const size_t bytes = rest < COPY_BYTES ? rest : COPY_BYTES;
    (void)worker;
    if (run->from)
        memcpy(run->to + first, run->from + first, bytes);
    else
        memset(run->to + first, 0, bytes);
}

void gln_model_copy(gln_model_t *m, const void *from, void *to)
{
    copy_run_t run = {from, to, (size_t)(m->rows * m->o.hidden) * gln_dtype_bytes(m->k->dtype)};
    gln_pool_run(m->k->pool, (int)((run.bytes + COPY_BYTES - 1) / COPY_BYTES), copy_task, &run);
}

gln_status_t gln_model_project(gln_model_t *m, const void *a, int64_t in, int weight, int64_t out,
                               void *c, int accumulate)
{
    const gln_gemm_t item = {.m = m->rows,
                             .n = out,
                             .k = in,
                             .a = a,
                             .lda = in,
                             .b = gln_model_operand(m, weight),
                             .ldb = out,
                             .c = c,
                             .ldc = out};
    const gln_gemm_mode_t mode = {.form = GLN_GEMM_NN, .accumulate = accumulate};
    return m->k->ops->gemm(m->k, mode, &item, 1);
}

static gln_status_t norm(gln_model_t *m, const void *x, int weight, void *y, void *rstd)
{
    return m->k->ops->rmsnorm(m->k, &(gln_rmsnorm_t){.n = m->rows,
                                                     .h = m->o.hidden,
                                                     .x = x,
                                                     .w = gln_model_weight(m, weight),
                                                     .eps = m->o.norm_eps,
                                                     .y = y,
                                                     .rstd = rstd});
}

gln_attention_t gln_model_attention(const gln_model_t *m, const block_t *b)
{
    const int64_t dh = m->o.head_dim;
    return (gln_attention_t){
        .sequences = m->rows / m->o.sequence,
        .s = m->o.sequence,
        .heads = m->o.heads,
        .kv_heads = m->o.kv_heads,
        .dh = m->o.head_dim,
        .q = b->qkv_rows,
        .k = gln_at(b->qkv_rows, m->o.heads * dh, m->k->dtype),
        .v = gln_at(b->qkv_rows, (m->o.heads + m->o.kv_heads) * dh, m->k->dtype),
        .ldqkv = m->qkv_width,
        .out = b->attn_out,
        .lse = b->lse};
}

static gln_status_t attention(gln_model_t *m, block_t *b)
{
    const int64_t heads_width = (int64_t)m->o.heads * m->o.head_dim;
    gln_status_t status = norm(m, b->x, b->attn_norm, b->attn_in, b->attn_rstd);
    gln_step_lap(m->times, GLN_STEP_NORMS);
    if (status != GLN_OK) return status;
    status = gln_model_project(m, b->attn_in, m->o.hidden, b->qkv, m->qkv_width, b->qkv_rows, 0);
    gln_step_lap(m->times, GLN_STEP_PROJECTIONS);
    if (status != GLN_OK) return status;
    /* q and k lie side by side: one rotation over heads + kv_heads */
    status = m->k->ops->rope(m->k, &(gln_rope_t){.n = m->rows,
                                                 .s = m->o.sequence,
                                                 .heads = m->o.heads + m->o.kv_heads,
                                                 .dh = m->o.head_dim,
                                                 .x = b->qkv_rows,
                                                 .ldx = m->qkv_width,
                                                 .theta = m->o.rope_theta});
    gln_step_lap(m->times, GLN_STEP_ROPE);
    if (status != GLN_OK) return status;
    const gln_attention_t args = gln_model_attention(m, b);
    status = m->k->ops->attention(m->k, &args);
    gln_step_lap(m->times, GLN_STEP_ATTENTION);
    if (status != GLN_OK) return status;
    gln_model_copy(m, b->x, b->mid);
    gln_step_lap(m->times, GLN_STEP_RESIDUAL);
    status = gln_model_project(m, b->attn_out, heads_width, b->out, m->o.hidden, b->mid, 1);
    gln_step_lap(m->times, GLN_STEP_PROJECTIONS);
    return status;
}

/* next += down(swiglu(gate_up(ffn_in))) of the dense layer or the shared expert */
static gln_status_t dense(gln_model_t *m, block_t *b, void *next)
{
    const int64_t f = b->dense_hidden;
    gln_status_t status =
        gln_model_project(m, b->ffn_in, m->o.hidden, b->dense_gate_up, 2 * f, b->dense_hgu, 0);
    gln_step_lap(m->times, GLN_STEP_DENSE);
    if (status != GLN_OK) return status;
    status = m->k->ops->swiglu(
        m->k, &(gln_swiglu_t){.n = m->rows, .f = f, .hgu = b->dense_hgu, .act = m->dense_act});
    gln_step_lap(m->times, GLN_STEP_ACTIVATION);
    if (status != GLN_OK) return status;
    status = gln_model_project(m, m->dense_act, f, b->dense_down, m->o.hidden, next, 1);
    gln_step_lap(m->times, GLN_STEP_DENSE);
    return status;
}

static gln_status_t feed_forward(gln_model_t *m, block_t *b, const gln_model_call_t *call,
                                 float *logits, void *next)
{
    const int64_t elements = m->rows * m->o.hidden;
    gln_status_t status = norm(m, b->mid, b->ffn_norm, b->ffn_in, b->ffn_rstd);
    gln_step_lap(m->times, GLN_STEP_NORMS);
    if (status != GLN_OK) return status;
    if (b->layer) {
        const gln_layer_weights_t weights = gln_model_layer_weights(m, b);
        const gln_layer_step_t step = {.seed = call->seed,
                                       .step = call->step,
                                       .keep = call->backward,
                                       .capacity_factor = call->capacity_factor,
                                       .skip_fill = call->skip_fill,
                                       .skip_rectify = call->skip_rectify,
                                       .logits = logits};
        if (m->has_bias) status = gln_model_load_bias(m, b);
        if (status == GLN_OK)
            status = gln_layer_forward(b->layer, &weights, &step, b->ffn_in, next);
        gln_model_lap_layer(m, b->layer, &(gln_layer_times_t){0});
        if (status != GLN_OK) return status;
        status = m->k->ops->add(m->k, elements, b->mid, next);
    } else {
        gln_model_copy(m, b->mid, next);
    }
    gln_step_lap(m->times, GLN_STEP_RESIDUAL);
    if (status == GLN_OK && b->dense_gate_up >= 0) status = dense(m, b, next);
    return status;
}

gln_status_t gln_model_forward(gln_model_t *m, const gln_model_call_t *call)
{
    gln_status_t status =
        m->k->ops->embed(m->k, &(gln_embed_t){.n = m->rows,
                                              .h = m->o.hidden,
                                              .v = m->o.vocabulary,
                                              .table = gln_model_operand(m, m->embed),
                                              .ids = call->ids,
                                              .out = m->blocks[0].x});
    gln_step_lap(m->times, GLN_STEP_EMBEDDING);
    float *logits = call->logits;
    for (int i = 0; i < m->o.layers && status == GLN_OK; i++) {
        block_t *b = &m->blocks[i];
        void *next = i + 1 < m->o.layers ? m->blocks[i + 1].x : m->last;
        status = attention(m, b);
        if (status == GLN_OK) status = feed_forward(m, b, call, logits, next);
        if (b->layer && logits) logits += m->rows * m->o.experts;
    }
    if (status != GLN_OK) return status;
    status = norm(m, m->last, m->norm, m->last_in, m->last_rstd);
    gln_step_lap(m->times, GLN_STEP_NORMS);
    return status;
}

/* Gradients of the output projection for one chunk of one domain's rows: dW += X^T dlogits, dX =
 * dlogits W^T. */
static gln_status_t head_backward(gln_model_t *m, int domain, int64_t row, int64_t n)
{
    const int64_t h = m->o.hidden, v = m->o.vocabulary;
    const gln_gemm_t weight = {.m = h,
                               .n = v,
                               .k = n,
                               .a = gln_at(m->last_in, row * h, m->k->dtype),
                               .lda = h,
                               .b = m->dlogits,
                               .ldb = v,
                               .c = gln_model_gradient(m, m->head, domain),
                               .ldc = v};
    const gln_gemm_t input = {.m = n,
                              .n = h,
                              .k = v,
                              .a = m->dlogits,
                              .lda = v,
                              .b = gln_model_operand(m, m->head),
                              .ldb = v,
                              .c = gln_at(m->dnorm, row * h, m->k->dtype),
                              .ldc = h};
    gln_status_t status = m->k->ops->gemm(
        m->k, (gln_gemm_mode_t){.form = GLN_GEMM_TN, .accumulate = 1, .c_acc = 1}, &weight, 1);
    if (status != GLN_OK) return status;
    return m->k->ops->gemm(m->k, (gln_gemm_mode_t){.form = GLN_GEMM_NT}, &input, 1);
}

gln_status_t gln_model_loss(gln_model_t *m, const gln_model_call_t *call)
{
    const int64_t h = m->o.hidden, v = m->o.vocabulary;
    for (int d = 0; d < m->parallel->local_domains; d++) {
        const int64_t end = (d + 1) * m->tokens;
        for (int64_t row = d * m->tokens; row < end; row += m->chunk) {
            const int64_t n = end - row < m->chunk ? end - row : m->chunk;
            const gln_gemm_t item = {.m = n,
                                     .n = v,
                                     .k = h,
                                     .a = gln_at(m->last_in, row * h, m->k->dtype),
                                     .lda = h,
                                     .b = gln_model_operand(m, m->head),
                                     .ldb = v,
                                     .c = m->logits,
                                     .ldc = v};
            gln_status_t status =
                m->k->ops->gemm(m->k, (gln_gemm_mode_t){.form = GLN_GEMM_NN, .c_acc = 1}, &item, 1);
            gln_step_lap(m->times, GLN_STEP_HEAD);
            if (status != GLN_OK) return status;
            status = m->k->ops->cross_entropy(
                m->k, &(gln_cross_entropy_t){.n = n,
                                             .v = v,
                                             .logits = m->logits,
                                             .target = call->target + row,
                                             .scale = call->loss_scale,
                                             .loss = gln_at(m->loss, row, m->k->acc),
                                             .dlogits = call->backward ? m->dlogits : NULL});
            gln_step_lap(m->times, GLN_STEP_LOSS);
            if (status == GLN_OK && call->backward) status = head_backward(m, d, row, n);
            gln_step_lap(m->times, GLN_STEP_HEAD);
            if (status != GLN_OK) return status;
        }
    }
    return GLN_OK;
}
