/* Building a model: options, parameters in order, buffers; and one call from end to end.
 * Memory: a training model keeps per block and row about (5 H + 2 qkv + F) elements beside what the
 * MoE layers keep; a forward-only model keeps one block's worth. */
#include "moe/model_internal.h"

#include "base/log.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Vocabulary 32000, H 512, two threads, bf16: the head's products reach 0.34 of a large product's
 * rate in chunks of 32 rows, 0.69 at 256, 0.84 at 512, 0.98 at 1024. */
enum { HEAD_ROWS_MIN = 1024 };

static gln_status_t check_options(const gln_model_options_t *o, int64_t sequences)
{
    if (o->vocabulary < 2 || o->hidden < 1 || o->layers < 1 || o->heads < 1 || o->kv_heads < 1 ||
        o->experts < 1 || o->expert_hidden < 1 || o->sequence < 1 || sequences < 1)
        return gln_fail(
            GLN_ERR_ARGUMENT,
            "model sizes must be positive: vocabulary %d, hidden %lld, layers %d, heads %d, "
            "kv_heads %d, experts %d, expert_hidden %lld, sequence %lld, sequences %lld",
            o->vocabulary, (long long)o->hidden, o->layers, o->heads, o->kv_heads, o->experts,
            (long long)o->expert_hidden, (long long)o->sequence, (long long)sequences);
    if (o->heads % o->kv_heads != 0)
        return gln_fail(GLN_ERR_ARGUMENT, "kv_heads must divide heads = %d, found %d", o->heads,
                        o->kv_heads);
    int64_t dh = o->head_dim ? o->head_dim : o->hidden / o->heads;
    if (dh < 2 || dh % 2 != 0)
        return gln_fail(GLN_ERR_ARGUMENT, "head_dim must be even and positive, found %lld",
                        (long long)dh);
    return GLN_OK;
}

static void fill_defaults(gln_model_options_t *o)
{
    if (o->head_dim == 0) o->head_dim = (int)(o->hidden / o->heads);
    if (o->router.k == 0) o->router.k = 1;
    if (o->dense_hidden == 0) o->dense_hidden = o->router.k * o->expert_hidden;
    if (o->moe_every == 0) o->moe_every = 1;
    if (o->rope_theta == 0) o->rope_theta = 10000;
    if (o->norm_eps == 0) o->norm_eps = 1e-5;
    if (o->init_std == 0) o->init_std = 0.02;
    if (gln_policy_has_bias(o->router.policy)) o->bias = 1;
}

/* ---- parameters ---------------------------------------------------------------------------------
 */

static int add_block(gln_model_t *m, int layer, const char *suffix, int64_t dim0, int64_t dim1,
                     double std)
{
    char name[GLN_PARAM_NAME_MAX];
    snprintf(name, sizeof name, "layers.%d.%s", layer, suffix);
    return gln_params_add(m->params, name, dim0, dim1, -1, std);
}

static const int32_t *expert_at(const gln_model_t *m, int layer)
{
    return m->o.expert_at ? m->o.expert_at + (int64_t)layer * m->o.experts : NULL;
}

static int add_experts(gln_model_t *m, int layer, const char *suffix, int64_t dim0, int64_t dim1,
                       double std)
{
    char prefix[GLN_PARAM_NAME_MAX];
    snprintf(prefix, sizeof prefix, "layers.%d.moe.experts", layer);
    return gln_params_add_experts(m->params, prefix, suffix, dim0, dim1, expert_at(m, layer), std);
}

static void list_parameters(gln_model_t *m)
{
    const gln_model_options_t *o = &m->o;
    const int64_t h = o->hidden, f = o->expert_hidden;
    const double std = o->init_std, out_std = o->init_std / sqrt(2.0 * o->layers);
    m->embed = gln_params_add(m->params, "embed", o->vocabulary, h, -1, std);
    for (int i = 0; i < o->layers; i++) {
        block_t *b = &m->blocks[i];
        const int has_experts = (i + 1) % o->moe_every == 0;
        b->attn_norm = add_block(m, i, "attn_norm", h, 0, 0);
        b->qkv = add_block(m, i, "attn.qkv", h, m->qkv_width, std);
        b->out = add_block(m, i, "attn.out", (int64_t)o->heads * o->head_dim, h, out_std);
        b->ffn_norm = add_block(m, i, "ffn_norm", h, 0, 0);
        b->bias = b->gate = b->gate_up = b->down = b->dense_gate_up = b->dense_down = -1;
        if (has_experts) {
            b->gate = add_block(m, i, "moe.gate", h, o->experts, std);
            b->gate_up = add_experts(m, i, "gate_up", h, 2 * f, std);
            b->down = add_experts(m, i, "down", f, h, out_std);
            if (o->bias) {
                char name[GLN_PARAM_NAME_MAX];
                snprintf(name, sizeof name, "layers.%d.moe.bias", i);
                b->bias = gln_params_add_state(m->params, name, o->experts);
            }
            m->moe_layers++;
        }
        b->dense_hidden = has_experts ? o->shared_hidden : o->dense_hidden;
        if (b->dense_hidden > 0) {
            b->dense_gate_up = add_block(m, i, has_experts ? "moe.shared.gate_up" : "ffn.gate_up",
                                         h, 2 * b->dense_hidden, std);
            b->dense_down = add_block(m, i, has_experts ? "moe.shared.down" : "ffn.down",
                                      b->dense_hidden, h, out_std);
        }
    }
    m->norm = gln_params_add(m->params, "norm", h, 0, -1, 0);
    m->head = gln_params_add(m->params, "head", h, o->vocabulary, -1, std);
}

const gln_param_t *gln_model_param(const gln_model_t *m, int index)
{
    return &m->params->items[index];
}

void *gln_model_weight(const gln_model_t *m, int index)
{
    return gln_param_w(m->params, gln_model_param(m, index));
}

void *gln_model_operand(const gln_model_t *m, int index)
{
    return gln_param_operand(m->params, gln_model_param(m, index));
}

void *gln_model_gradient(const gln_model_t *m, int index, int d)
{
    const gln_param_t *p = gln_model_param(m, index);
    void *buffer = p->expert < 0 ? m->params->dense_grad[d] : m->params->expert_grad[d];
    return gln_at(buffer, p->offset, m->params->acc);
}

gln_layer_weights_t gln_model_layer_weights(const gln_model_t *m, const block_t *b)
{
    return (gln_layer_weights_t){.gate = gln_model_operand(m, b->gate),
                                 .gate_up = gln_model_operand(m, b->gate_up),
                                 .down = gln_model_operand(m, b->down)};
}

/* ---- buffers ------------------------------------------------------------------------------------
 */

static void layout_block(gln_model_t *m, block_t *b, gln_arena_t *a, size_t item, size_t acc)
{
    const size_t n = (size_t)m->rows, h = (size_t)m->o.hidden;
    const size_t heads_width = (size_t)m->o.heads * (size_t)m->o.head_dim;
    b->x = gln_arena_take(a, n * h * item);
    b->attn_in = gln_arena_take(a, n * h * item);
    b->attn_rstd = gln_arena_take(a, n * acc);
    b->qkv_rows = gln_arena_take(a, n * (size_t)m->qkv_width * item);
    b->attn_out = gln_arena_take(a, n * heads_width * item);
    b->lse = gln_arena_take(a, n * (size_t)m->o.heads * acc);
    b->mid = gln_arena_take(a, n * h * item);
    b->ffn_in = gln_arena_take(a, n * h * item);
    b->ffn_rstd = gln_arena_take(a, n * acc);
}

static int64_t dense_hidden_max(const gln_model_t *m)
{
    int64_t most = 0;
    for (int i = 0; i < m->o.layers; i++)
        if (m->blocks[i].dense_hidden > most) most = m->blocks[i].dense_hidden;
    return most;
}

static void share_block(block_t *b, const block_t *of)
{
    b->x = of->x, b->attn_in = of->attn_in, b->attn_rstd = of->attn_rstd;
    b->qkv_rows = of->qkv_rows, b->attn_out = of->attn_out, b->lse = of->lse;
    b->mid = of->mid, b->ffn_in = of->ffn_in, b->ffn_rstd = of->ffn_rstd;
    b->dense_hgu = of->dense_hgu;
}

static void layout(gln_model_t *m, gln_arena_t *a)
{
    const size_t item = gln_dtype_bytes(m->k->dtype), acc = gln_dtype_bytes(m->k->acc);
    const size_t n = (size_t)m->rows, h = (size_t)m->o.hidden,
                 d = (size_t)m->parallel->local_domains;
    const size_t groups = (size_t)m->parallel->local_groups, f = (size_t)dense_hidden_max(m);
    for (int i = 0; i < m->o.layers; i++) {
        block_t *b = &m->blocks[i];
        if (i > 0 && !m->training) {
            share_block(b, &m->blocks[0]);
            continue;
        }
        layout_block(m, b, a, item, acc);
        size_t hidden = m->training ? (size_t)b->dense_hidden : f;
        b->dense_hgu = gln_arena_take(a, n * 2 * hidden * item);
    }
    m->last = gln_arena_take(a, n * h * item);
    m->last_in = gln_arena_take(a, n * h * item);
    m->last_rstd = gln_arena_take(a, n * acc);
    m->logits = gln_arena_take(a, (size_t)m->chunk * (size_t)m->o.vocabulary * acc);
    m->loss = gln_arena_take(a, n * acc);
    m->dense_act = gln_arena_take(a, n * f * item);
    if (m->has_bias) {
        m->load = gln_arena_take(a, (size_t)m->moe_layers * (size_t)m->o.experts * sizeof *m->load);
        m->bias = gln_arena_take(a, (size_t)m->o.experts * sizeof *m->bias);
    }
    m->partial = gln_arena_take(a, d * 4 * sizeof(double));
    m->partial_rows = gln_arena_take(a, d * sizeof(void *));
    m->dlogits = m->logits;
    if (!m->training) return;
    if (item != acc)
        m->dlogits = gln_arena_take(a, (size_t)m->chunk * (size_t)m->o.vocabulary * item);
    m->dx = gln_arena_take(a, n * h * item);
    m->dnorm = gln_arena_take(a, n * h * item);
    m->dattn = gln_arena_take(a, n * (size_t)m->o.heads * (size_t)m->o.head_dim * item);
    m->dqkv = gln_arena_take(a, n * (size_t)m->qkv_width * item);
    m->dense_dact = gln_arena_take(a, n * f * item);
    m->dense_act_w = gln_arena_take(a, n * f * item);
    m->dense_dhgu = gln_arena_take(a, n * 2 * f * item);
    m->items = gln_arena_take(a, d * sizeof *m->items);
    m->gate_grad = gln_arena_take(a, d * sizeof(void *));
    m->gate_up_grad = gln_arena_take(a, groups * sizeof(void *));
    m->down_grad = gln_arena_take(a, groups * sizeof(void *));
}

/* ---- open and close -----------------------------------------------------------------------------
 */

static gln_status_t open_layers(gln_model_t *m)
{
    gln_layer_options_t options = {.tokens = m->tokens,
                                   .hidden = m->o.hidden,
                                   .expert_hidden = m->o.expert_hidden,
                                   .router = m->o.router,
                                   .capacity_factor_max = m->o.capacity_factor_max,
                                   .balance_global = m->o.balance_global,
                                   .forward_only = !m->training,
                                   .across = m->o.across,
                                   .wire = m->o.wire,
                                   .path = m->o.path,
                                   .overlap = m->o.overlap,
                                   .stages = m->o.stages};
    if (m->moe_layers == 0) return GLN_OK;
    gln_status_t status = gln_layer_workspace_open(m->parallel, m->k, &options, &m->workspace);
    for (int i = 0; i < m->o.layers && status == GLN_OK; i++) {
        if (m->blocks[i].gate < 0) continue;
        options.expert_at = expert_at(m, i);
        status = gln_layer_open(m->parallel, m->k, m->workspace, &options, i, &m->blocks[i].layer);
    }
    return status;
}

static gln_status_t open_parameters(gln_model_t *m, gln_params_t *weights)
{
    gln_status_t status = gln_params_open(m->parallel, m->k->acc, &m->params);
    if (status != GLN_OK) return status;
    m->owns_params = 1;
    gln_params_keep_copies(m->params, m->k->dtype);
    list_parameters(m);
    if (!weights) return gln_params_commit(m->params, m->training);
    /* the list gave the indices; the caller's buffers give the numbers */
    GLN_ASSERT(weights->count == m->params->count && weights->dtype == m->k->dtype);
    gln_params_close(m->params);
    m->params = weights;
    m->owns_params = 0;
    return GLN_OK;
}

gln_status_t gln_model_open(const gln_parallel_t *parallel, gln_kernels_t *kernels,
                            const gln_model_options_t *options, int64_t sequences, int training,
                            gln_params_t *weights, gln_model_t **out)
{
    gln_status_t status = check_options(options, sequences);
    if (status != GLN_OK) return status;
    gln_model_t *m = calloc(1, sizeof *m);
    block_t *blocks = calloc((size_t)options->layers, sizeof *blocks);
    if (!m || !blocks) {
        free(m);
        free(blocks);
        return gln_fail(GLN_ERR_MEMORY, "no memory for a model of %d layers", options->layers);
    }
    m->parallel = parallel;
    m->k = kernels;
    m->o = *options;
    fill_defaults(&m->o);
    m->has_bias = gln_policy_has_bias(m->o.router.policy);
    m->training = training;
    m->blocks = blocks;
    m->tokens = sequences * m->o.sequence;
    m->rows = m->tokens * parallel->local_domains;
    m->qkv_width = ((int64_t)m->o.heads + 2 * m->o.kv_heads) * m->o.head_dim;
    /* rows of logits at a time: about 4 MiB of them, but at least so many rows that reading the
     * weight and adding to its gradient once per chunk stays a small part of the products. By the
     * sizes of a domain alone: the order of sums hangs on it */
    m->chunk = (1 << 20) / m->o.vocabulary;
    if (m->chunk < HEAD_ROWS_MIN) m->chunk = HEAD_ROWS_MIN;
    if (m->chunk > m->tokens) m->chunk = m->tokens;
    status = open_parameters(m, weights);
    if (status != GLN_OK) goto close_model;
    m->arena.kind = GLN_MEMORY_ACTIVATIONS;
    layout(m, &m->arena);
    status = gln_arena_commit(&m->arena, gln_device_cpu());
    if (status != GLN_OK) goto close_model;
    layout(m, &m->arena);
    status = open_layers(m);
    if (status != GLN_OK) goto close_model;
    *out = m;
    return GLN_OK;
close_model:
    gln_model_close(m);
    return status;
}

void gln_model_close(gln_model_t *m)
{
    if (!m) return;
    for (int i = m->o.layers - 1; i >= 0; i--)
        gln_layer_close(m->blocks[i].layer);
    gln_layer_workspace_close(m->workspace);
    gln_arena_close(&m->arena);
    if (m->owns_params) gln_params_close(m->params);
    free(m->blocks);
    free(m);
}

gln_params_t *gln_model_params(gln_model_t *m)
{
    return m->params;
}

gln_model_bytes_t gln_model_bytes(const gln_model_t *m)
{
    gln_model_bytes_t bytes = {.parameters = m->owns_params ? gln_params_bytes(m->params) : 0,
                               .activations = m->arena.size_bytes,
                               .workspace = 0};
    if (m->workspace) bytes.workspace = gln_layer_workspace_bytes(m->workspace);
    for (int i = 0; i < m->o.layers; i++)
        if (m->blocks[i].layer) bytes.activations += gln_layer_bytes(m->blocks[i].layer);
    return bytes;
}

const char *gln_model_exchange_form(const gln_model_t *m, const char **reason)
{
    *reason = NULL;
    return m->workspace ? gln_layer_workspace_form(m->workspace, reason) : NULL;
}

const char *gln_model_exchange_path(const gln_model_t *m, const char **reason)
{
    *reason = NULL;
    if (!m->workspace) return NULL;
    return gln_layer_workspace_path(m->workspace, reason) == GLN_PATH_SHARED ? "shared"
                                                                             : "messages";
}

/* ---- the routers' bias --------------------------------------------------------------------------
 */

void gln_model_reset_load(gln_model_t *m)
{
    if (m->has_bias)
        memset(m->load, 0, (size_t)m->moe_layers * (size_t)m->o.experts * sizeof *m->load);
}

/* Choices of a call that trains. */
static void count_load(gln_model_t *m)
{
    int64_t *load = m->load;
    for (int i = 0; i < m->o.layers; i++) {
        if (!m->blocks[i].layer) continue;
        for (int d = 0; d < m->parallel->local_domains; d++) {
            const gln_plan_t *plan = gln_layer_plan(m->blocks[i].layer, d);
            for (int e = 0; e < m->o.experts; e++)
                load[e] += plan->choice_count[e];
        }
        load += m->o.experts;
    }
}

gln_status_t gln_model_load_bias(gln_model_t *m, const block_t *b)
{
    const void *w = gln_model_weight(m, b->bias);
    for (int e = 0; e < m->o.experts; e++)
        m->bias[e] = (float)gln_load(w, e, m->params->acc);
    return gln_layer_set_bias(b->layer, m->bias);
}

gln_status_t gln_model_update_bias(gln_model_t *m, double gamma)
{
    if (!m->has_bias) return GLN_OK;
    int64_t *load = m->load;
    gln_status_t status = gln_comm_sum_i64(m->parallel->comm, load, m->moe_layers * m->o.experts);
    for (int i = 0; i < m->o.layers && status == GLN_OK; i++) {
        const block_t *b = &m->blocks[i];
        if (!b->layer) continue;
        status = gln_layer_update_bias(b->layer, load, gamma);
        if (status == GLN_OK) status = gln_layer_bias(b->layer, m->bias);
        for (int e = 0; e < m->o.experts && status == GLN_OK; e++)
            gln_store(gln_model_weight(m, b->bias), e, m->params->acc, m->bias[e]);
        load += m->o.experts;
    }
    gln_model_reset_load(m);
    return status;
}

/* ---- one call -----------------------------------------------------------------------------------
 */

/* Per-domain sums in double, then the tree over domains: the same numbers at any rank count. */
static gln_status_t reduce_losses(gln_model_t *m, const gln_model_call_t *call,
                                  gln_model_result_t *r)
{
    const int d_count = m->parallel->local_domains;
    for (int d = 0; d < d_count; d++) {
        double *sum = m->partial + 4 * d;
        memset(sum, 0, 4 * sizeof *sum);
        m->partial_rows[d] = sum;
        for (int64_t i = d * m->tokens; call->target && i < (d + 1) * m->tokens; i++) {
            if (call->target[i] < 0) continue;
            sum[0] += gln_load(m->loss, i, m->k->acc);
            sum[1] += 1;
        }
        for (int i = 0; i < m->o.layers; i++) {
            if (!m->blocks[i].layer) continue;
            sum[2] += gln_layer_balance_loss(m->blocks[i].layer, d);
            sum[3] += gln_layer_z_loss(m->blocks[i].layer, d);
        }
    }
    gln_status_t status =
        gln_comm_tree_sum(m->parallel->comm, m->partial_rows, d_count, 4, GLN_F64);
    if (status != GLN_OK) return status;
    const double parts = (double)m->parallel->domains * (m->moe_layers ? m->moe_layers : 1);
    r->loss_sum = m->partial[0];
    r->tokens = (int64_t)m->partial[1];
    r->balance_loss = m->partial[2] / parts;
    r->z_loss = m->partial[3] / parts;
    return GLN_OK;
}

static gln_status_t reduce_ledgers(gln_model_t *m, gln_model_result_t *r)
{
    struct {
        gln_ledger_t ledger;
        gln_traffic_t traffic;
    } sum;
    memset(&sum, 0, sizeof sum);
    for (int i = 0; i < m->o.layers; i++) {
        if (!m->blocks[i].layer) continue;
        gln_ledger_t ledger = gln_layer_ledger(m->blocks[i].layer);
        gln_traffic_t t = gln_layer_traffic(m->blocks[i].layer);
        gln_ledger_add(&sum.ledger, &ledger);
        gln_traffic_add(&sum.traffic, &t);
    }
    _Static_assert(sizeof sum % sizeof(int64_t) == 0, "ledgers are arrays of int64_t");
    gln_status_t status = gln_comm_sum_i64(m->parallel->comm, (int64_t *)(void *)&sum,
                                           (int)(sizeof sum / sizeof(int64_t)));
    if (status != GLN_OK) return status;
    r->ledger = sum.ledger;
    r->traffic = sum.traffic;
    return gln_ledger_check(&sum.ledger, "all domains and layers");
}

gln_status_t gln_model_run(gln_model_t *m, const gln_model_call_t *call, gln_model_result_t *result)
{
    gln_model_result_t r;
    memset(&r, 0, sizeof r);
    if (call->backward && (!m->training || !call->target))
        return gln_fail(GLN_ERR_ARGUMENT, "backward needs a training model and targets");
    gln_status_t status = gln_model_forward(m, call);
    if (status == GLN_OK && call->target) status = gln_model_loss(m, call);
    if (status == GLN_OK && call->backward && m->has_bias) count_load(m);
    if (status == GLN_OK && call->backward) status = gln_model_backward(m, call);
    if (status == GLN_OK) status = reduce_losses(m, call, &r);
    if (status == GLN_OK) status = reduce_ledgers(m, &r);
    gln_step_lap(m->times, GLN_STEP_LOSS);
    if (status != GLN_OK) return status;
    *result = r;
    return GLN_OK;
}

gln_status_t gln_model_logits(gln_model_t *m, int64_t row, void *logits)
{
    if (row < 0 || row >= m->rows)
        return gln_fail(GLN_ERR_ARGUMENT, "row must be in [0, %lld), found %lld",
                        (long long)m->rows, (long long)row);
    const gln_gemm_t item = {.m = 1,
                             .n = m->o.vocabulary,
                             .k = m->o.hidden,
                             .a = gln_at(m->last_in, row * m->o.hidden, m->k->dtype),
                             .lda = m->o.hidden,
                             .b = gln_model_operand(m, m->head),
                             .ldb = m->o.vocabulary,
                             .c = logits,
                             .ldc = m->o.vocabulary};
    return m->k->ops->gemm(m->k, (gln_gemm_mode_t){.form = GLN_GEMM_NN, .c_acc = 1}, &item, 1);
}

int gln_model_moe_layers(const gln_model_t *m)
{
    return m->moe_layers;
}

static const gln_layer_t *moe_layer(const gln_model_t *m, int index)
{
    for (int i = 0; i < m->o.layers; i++)
        if (m->blocks[i].layer && index-- == 0) return m->blocks[i].layer;
    return NULL;
}

int gln_model_moe_layer_index(const gln_model_t *m, int index)
{
    for (int i = 0; i < m->o.layers; i++)
        if (m->blocks[i].layer && index-- == 0) return i;
    return -1;
}

gln_ledger_t gln_model_layer_ledger(const gln_model_t *m, int index)
{
    const gln_layer_t *layer = moe_layer(m, index);
    GLN_ASSERT(layer != NULL);
    return gln_layer_ledger(layer);
}

void gln_model_set_times(gln_model_t *m, gln_step_times_t *times)
{
    m->times = times;
}

void gln_model_lap_layer(gln_model_t *m, const gln_layer_t *layer, const gln_layer_times_t *before)
{
    if (!m->times) return;
    const gln_layer_times_t t = gln_layer_times(layer);
    double *seconds = m->times->seconds;
    seconds[GLN_STEP_ROUTER] += t.router - before->router;
    seconds[GLN_STEP_EXCHANGE] += t.exchange - before->exchange;
    seconds[GLN_STEP_EXPERTS] += t.gemm - before->gemm;
    seconds[GLN_STEP_ACTIVATION] += t.activation - before->activation;
    seconds[GLN_STEP_MOVE] += t.move - t.activation - (before->move - before->activation);
    gln_step_skip(m->times);
}

gln_layer_times_t gln_model_times(const gln_model_t *m)
{
    gln_layer_times_t sum = {0};
    for (int i = 0; i < m->moe_layers; i++) {
        gln_layer_times_t t = gln_layer_times(moe_layer(m, i));
        sum.router += t.router, sum.exchange += t.exchange, sum.gemm += t.gemm;
        sum.move += t.move, sum.activation += t.activation, sum.total += t.total;
        sum.flight += t.flight, sum.hidden += t.hidden;
    }
    return sum;
}
