/* The public layer: a pool, kernels, the spread over ranks, weights and gradients around one
 * moe/layer.h. */
#include "moe/gleaner.h"

#include "base/rng.h"

#include "kernels/kernels.h"
#include "moe/gleaner_internal.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct gln_moe {
    gln_moe_options_t o;
    gln_comm_t *comm;
    gln_pool_t *pool;
    gln_kernels_t *kernels;
    gln_parallel_t parallel;
    gln_layer_workspace_t *workspace;
    gln_layer_t *layer;
    int64_t gate_count, gate_up_count, down_count; /* elements held here */
    void *gate, *gate_up, *down;                   /* dtype */
    void *grad[3];                                 /* acc: gate, gate_up, down; accumulated sums */
    void **gate_parts, **gate_up_parts, **down_parts; /* acc: per local domain, group, group */
    int64_t calls;
    int forward_done; /* a backward may follow */
    int64_t *load;    /* [E] for the bias */
    gln_arena_t arena;
    struct gln_moe *next; /* in the list of open layers */
};

/* Open layers, so that a call on a closed one finds out without looking at it. */
static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
static gln_moe_t *open_layers;

static int is_open(const gln_moe_t *m)
{
    pthread_mutex_lock(&open_lock);
    const gln_moe_t *found = open_layers;
    while (found && found != m)
        found = found->next;
    pthread_mutex_unlock(&open_lock);
    return m && found;
}

static void list_add(gln_moe_t *m)
{
    pthread_mutex_lock(&open_lock);
    m->next = open_layers;
    open_layers = m;
    pthread_mutex_unlock(&open_lock);
}

static void list_remove(const gln_moe_t *m)
{
    pthread_mutex_lock(&open_lock);
    gln_moe_t **at = &open_layers;
    while (*at && *at != m)
        at = &(*at)->next;
    if (*at) *at = m->next;
    pthread_mutex_unlock(&open_lock);
}

gln_status_t gln_moe_check(const gln_moe_t *m, const char *function)
{
    if (!m) return gln_fail(GLN_ERR_ARGUMENT, "%s: expected a layer, found NULL", function);
    if (!is_open(m))
        return gln_fail(GLN_ERR_ARGUMENT, "%s: the layer is not open; was it closed before?",
                        function);
    return GLN_OK;
}

gln_status_t gln_moe_agree(gln_comm_t *comm, gln_status_t mine, const char *function)
{
    int rank = -1;
    gln_status_t status = gln_comm_agree(comm, mine, &rank);
    if (status == GLN_OK || mine != GLN_OK || rank < 0) return status;
    return gln_fail(status, "%s: rank %d has refused the call (%s); its own message says why",
                    function, rank, gln_status_name(status));
}

const char *gln_version(void)
{
    return "0.1.0";
}

static void layout(gln_moe_t *m, gln_arena_t *a)
{
    const size_t item = gln_dtype_bytes(m->kernels->dtype), acc = gln_dtype_bytes(m->kernels->acc);
    const int domains = m->parallel.local_domains, groups = m->parallel.local_groups;
    m->gate = gln_arena_take(a, (size_t)m->gate_count * item);
    m->gate_up = gln_arena_take(a, (size_t)m->gate_up_count * item);
    m->down = gln_arena_take(a, (size_t)m->down_count * item);
    m->grad[0] = gln_arena_take(a, (size_t)m->gate_count * acc);
    m->grad[1] = gln_arena_take(a, (size_t)m->gate_up_count * acc);
    m->grad[2] = gln_arena_take(a, (size_t)m->down_count * acc);
    m->gate_parts = gln_arena_take(a, (size_t)domains * sizeof(void *));
    m->gate_up_parts = gln_arena_take(a, (size_t)groups * sizeof(void *));
    m->down_parts = gln_arena_take(a, (size_t)groups * sizeof(void *));
    m->load = gln_arena_take(a, (size_t)m->o.experts * sizeof *m->load);
    for (int d = 0; d < domains; d++) {
        void *part = gln_arena_take(a, (size_t)m->gate_count * acc);
        if (m->gate_parts) m->gate_parts[d] = part;
    }
    for (int g = 0; g < groups; g++) {
        void *gate_up = gln_arena_take(a, (size_t)m->gate_up_count * acc);
        void *down = gln_arena_take(a, (size_t)m->down_count * acc);
        if (m->gate_up_parts) m->gate_up_parts[g] = gate_up, m->down_parts[g] = down;
    }
}

static void init_tensor(void *data, gln_dtype_t dtype, int64_t count, uint64_t seed,
                        uint64_t tensor, int64_t first)
{
    const uint64_t stream = gln_rng_stream(GLN_RNG_INIT, tensor, 0);
    for (int64_t i = 0; i < count; i++)
        gln_store(data, i, dtype, 0.02 * gln_rng_normal(seed, stream, (uint64_t)(first + i)));
}

/* Element j of expert e is number e * (size of an expert) + j of its tensor: no rank in it. */
static void init_weights(gln_moe_t *m)
{
    const gln_dtype_t dtype = m->kernels->dtype;
    const int64_t first = m->parallel.first_expert, held = m->parallel.local_experts;
    init_tensor(m->gate, dtype, m->gate_count, m->o.seed, 0, 0);
    init_tensor(m->gate_up, dtype, m->gate_up_count, m->o.seed, 1,
                first * (m->gate_up_count / held));
    init_tensor(m->down, dtype, m->down_count, m->o.seed, 2, first * (m->down_count / held));
}

static gln_status_t check_options(const gln_moe_options_t *o)
{
    if (!o) return gln_fail(GLN_ERR_ARGUMENT, "gln_moe_open: options and out must not be NULL");
    if (o->tokens < 0 || o->hidden < 1 || o->expert_hidden < 1 || o->experts < 1)
        return gln_fail(
            GLN_ERR_ARGUMENT,
            "tokens must be 0 or more and hidden, expert_hidden, experts positive: found "
            "%lld, %lld, %lld, %d",
            (long long)o->tokens, (long long)o->hidden, (long long)o->expert_hidden, o->experts);
    if (o->domains < 0 || o->expert_replicas < 0 || o->threads < 0 || o->timeout_ms < 0)
        return gln_fail(
            GLN_ERR_ARGUMENT,
            "domains, expert_replicas, threads and timeout_ms must be 0 (the default) or "
            "positive: found %d, %d, %d, %lld",
            o->domains, o->expert_replicas, o->threads, (long long)o->timeout_ms);
    return GLN_OK;
}

static gln_status_t open_layer(gln_moe_t *m)
{
    const gln_layer_options_t options = {.tokens = m->o.tokens,
                                         .hidden = m->o.hidden,
                                         .expert_hidden = m->o.expert_hidden,
                                         .router = m->o.router,
                                         .wire = m->o.wire,
                                         .across = m->o.across,
                                         .overlap = m->o.overlap,
                                         .stages = m->o.stages};
    gln_status_t status =
        gln_layer_workspace_open(&m->parallel, m->kernels, &options, &m->workspace);
    if (status != GLN_OK) return gln_moe_agree(m->comm, status, "gln_moe_open");
    status = gln_layer_open(&m->parallel, m->kernels, m->workspace, &options, 0, &m->layer);
    m->gate_count = m->o.hidden * m->o.experts;
    m->gate_up_count = (int64_t)m->parallel.local_experts * m->o.hidden * 2 * m->o.expert_hidden;
    m->down_count = (int64_t)m->parallel.local_experts * m->o.expert_hidden * m->o.hidden;
    layout(m, &m->arena);
    if (status == GLN_OK) status = gln_arena_commit(&m->arena, gln_device_cpu());
    status = gln_moe_agree(m->comm, status, "gln_moe_open");
    if (status != GLN_OK) return status;
    layout(m, &m->arena);
    init_weights(m);
    return GLN_OK;
}

/* @param checked what this rank found in its options: the others learn of it here */
static gln_status_t open_parts(gln_moe_t *m, gln_status_t checked)
{
    gln_status_t status = gln_moe_agree(m->comm, checked, "gln_moe_open");
    if (status == GLN_OK) status = gln_moe_compare_options(m->comm, &m->o);
    if (status != GLN_OK) return status;
    gln_comm_set_timeout(m->comm, m->o.timeout_ms);
    const int domains = m->o.domains > 0 ? m->o.domains : gln_comm_size(m->comm);
    const int groups = m->o.expert_replicas > 0 ? m->o.expert_replicas : 1;
    status = gln_parallel_open(m->comm, domains, groups, m->o.experts, &m->parallel);
    if (status != GLN_OK) return status;
    status = gln_pool_open(m->o.threads > 0 ? m->o.threads : 1, &m->pool);
    if (status == GLN_OK) status = gln_kernels_open(m->o.backend, m->o.dtype, m->pool, &m->kernels);
    status = gln_moe_agree(m->comm, status, "gln_moe_open");
    return status == GLN_OK ? open_layer(m) : status;
}

gln_status_t gln_moe_open(const gln_moe_options_t *options, const void *mpi_comm, gln_moe_t **out)
{
    gln_status_t checked = check_options(out ? options : NULL);
    gln_comm_t *comm = NULL;
    /* also with bad options: the others are in here already, and must learn of it */
    gln_status_t status = mpi_comm ? gln_comm_open_mpi(mpi_comm, &comm) : gln_comm_open_self(&comm);
    if (status != GLN_OK) return status;
    gln_moe_t *m = calloc(1, sizeof *m);
    if (!m) {
        status = gln_moe_agree(comm, gln_fail(GLN_ERR_MEMORY, "no memory for a layer"), "open");
        gln_comm_close(comm);
        return status;
    }
    if (options) m->o = *options;
    m->comm = comm;
    list_add(m);
    status = open_parts(m, checked);
    if (status != GLN_OK) {
        gln_moe_close(m);
        return status;
    }
    *out = m;
    return GLN_OK;
}

void gln_moe_close(gln_moe_t *m)
{
    if (!m || gln_moe_check(m, "gln_moe_close") != GLN_OK) return;
    list_remove(m);
    gln_layer_close(m->layer);
    gln_layer_workspace_close(m->workspace);
    gln_arena_close(&m->arena);
    gln_kernels_close(m->kernels);
    gln_pool_close(m->pool);
    gln_parallel_close(&m->parallel);
    gln_comm_close(m->comm);
    free(m);
}

static gln_layer_weights_t weights_of(const gln_moe_t *m)
{
    return (gln_layer_weights_t){.gate = m->gate, .gate_up = m->gate_up, .down = m->down};
}

gln_status_t gln_moe_forward(gln_moe_t *m, const void *x, void *y)
{
    gln_status_t status = gln_moe_check(m, "gln_moe_forward");
    if (status != GLN_OK) return status;
    if ((!x || !y) && m->o.tokens > 0)
        status = gln_fail(GLN_ERR_ARGUMENT, "gln_moe_forward: x and y must not be NULL");
    else if (x == y && m->o.tokens > 0)
        status = gln_fail(GLN_ERR_ARGUMENT, "gln_moe_forward: x and y must not be the same memory");
    status = gln_moe_agree(m->comm, status, "gln_moe_forward");
    if (status != GLN_OK) return status;
    m->forward_done = 0;
    const gln_layer_weights_t weights = weights_of(m);
    const gln_layer_step_t step = {.seed = m->o.seed, .step = m->calls++, .keep = 1};
    status = gln_layer_forward(m->layer, &weights, &step, x, y);
    m->forward_done = status == GLN_OK;
    return status;
}

static gln_status_t add_sum(gln_moe_t *m, gln_comm_t *comm, void **parts, int local, int64_t count,
                            void *sum)
{
    gln_status_t status = gln_comm_tree_sum(comm, parts, local, count, m->kernels->acc);
    for (int64_t i = 0; i < count && status == GLN_OK; i++)
        gln_store(sum, i, m->kernels->acc,
                  gln_load(sum, i, m->kernels->acc) + gln_load(parts[0], i, m->kernels->acc));
    return status;
}

gln_status_t gln_moe_backward(gln_moe_t *m, const void *dy, void *dx)
{
    gln_status_t status = gln_moe_check(m, "gln_moe_backward");
    if (status != GLN_OK) return status;
    if ((!dy || !dx) && m->o.tokens > 0)
        status = gln_fail(GLN_ERR_ARGUMENT, "gln_moe_backward: dy and dx must not be NULL");
    else if (!m->forward_done)
        status =
            gln_fail(GLN_ERR_ARGUMENT, "gln_moe_backward: no forward since the last backward; call "
                                       "gln_moe_forward before each");
    status = gln_moe_agree(m->comm, status, "gln_moe_backward");
    if (status != GLN_OK) return status;
    m->forward_done = 0;
    const size_t acc = gln_dtype_bytes(m->kernels->acc);
    const int64_t rows = m->parallel.local_domains * m->o.tokens;
    if (rows > 0) memset(dx, 0, (size_t)(rows * m->o.hidden) * gln_dtype_bytes(m->kernels->dtype));
    for (int d = 0; d < m->parallel.local_domains; d++)
        memset(m->gate_parts[d], 0, (size_t)m->gate_count * acc);
    for (int g = 0; g < m->parallel.local_groups; g++) {
        memset(m->gate_up_parts[g], 0, (size_t)m->gate_up_count * acc);
        memset(m->down_parts[g], 0, (size_t)m->down_count * acc);
    }
    const gln_layer_weights_t weights = weights_of(m);
    const gln_layer_gradients_t gradients = {
        .gate = m->gate_parts, .gate_up = m->gate_up_parts, .down = m->down_parts};
    status = gln_layer_backward(m->layer, &weights, dy, 1.0 / m->parallel.domains, dx, &gradients);
    if (status == GLN_OK)
        status = add_sum(m, m->comm, m->gate_parts, m->parallel.local_domains, m->gate_count,
                         m->grad[0]);
    if (status == GLN_OK)
        status = add_sum(m, m->parallel.replicas, m->gate_up_parts, m->parallel.local_groups,
                         m->gate_up_count, m->grad[1]);
    if (status == GLN_OK)
        status = add_sum(m, m->parallel.replicas, m->down_parts, m->parallel.local_groups,
                         m->down_count, m->grad[2]);
    return status;
}

void gln_moe_zero_grad(gln_moe_t *m)
{
    if (gln_moe_check(m, "gln_moe_zero_grad") != GLN_OK) return;
    const size_t acc = gln_dtype_bytes(m->kernels->acc);
    memset(m->grad[0], 0, (size_t)m->gate_count * acc);
    memset(m->grad[1], 0, (size_t)m->gate_up_count * acc);
    memset(m->grad[2], 0, (size_t)m->down_count * acc);
}

gln_ledger_t gln_moe_ledger(const gln_moe_t *m)
{
    if (gln_moe_check(m, "gln_moe_ledger") != GLN_OK) return (gln_ledger_t){0};
    return gln_layer_ledger(m->layer);
}

const gln_moe_options_t *gln_moe_options(const gln_moe_t *m)
{
    return gln_moe_check(m, "gln_moe_options") == GLN_OK ? &m->o : NULL;
}

const gln_parallel_t *gln_moe_parallel(const gln_moe_t *m)
{
    return gln_moe_check(m, "gln_moe_parallel") == GLN_OK ? &m->parallel : NULL;
}

int64_t gln_moe_calls(const gln_moe_t *m)
{
    return m->calls;
}

void gln_moe_set_calls(gln_moe_t *m, int64_t calls)
{
    m->calls = calls;
    m->forward_done = 0; /* its weights are others now */
}

gln_status_t gln_moe_bias(const gln_moe_t *m, float *out)
{
    gln_status_t status = gln_moe_check(m, "gln_moe_bias");
    if (status == GLN_OK && !out)
        status = gln_fail(GLN_ERR_ARGUMENT, "gln_moe_bias: expected an address, found NULL");
    return status == GLN_OK ? gln_layer_bias(m->layer, out) : status;
}

gln_status_t gln_moe_set_bias(gln_moe_t *m, const float *bias)
{
    gln_status_t status = gln_moe_check(m, "gln_moe_set_bias");
    if (status == GLN_OK && !bias)
        status = gln_fail(GLN_ERR_ARGUMENT, "gln_moe_set_bias: expected an address, found NULL");
    return status == GLN_OK ? gln_layer_set_bias(m->layer, bias) : status;
}

gln_status_t gln_moe_update_bias(gln_moe_t *m, double gamma)
{
    gln_status_t status = gln_moe_check(m, "gln_moe_update_bias");
    if (status != GLN_OK) return status;
    memset(m->load, 0, (size_t)m->o.experts * sizeof *m->load);
    if (m->calls == 0)
        status = gln_fail(GLN_ERR_ARGUMENT, "gln_moe_update_bias: no forward has run yet");
    for (int d = 0; d < m->parallel.local_domains && status == GLN_OK; d++)
        for (int e = 0; e < m->o.experts; e++)
            m->load[e] += gln_layer_plan(m->layer, d)->choice_count[e];
    status = gln_moe_agree(m->comm, status, "gln_moe_update_bias");
    if (status == GLN_OK) status = gln_comm_sum_i64(m->comm, m->load, m->o.experts);
    return status == GLN_OK ? gln_layer_update_bias(m->layer, m->load, gamma) : status;
}

gln_status_t gln_moe_parameter(gln_moe_t *m, const char *which, gln_tensor_t *weight,
                               gln_tensor_t *gradient)
{
    gln_status_t status = gln_moe_check(m, "gln_moe_parameter");
    if (status != GLN_OK) return status;
    if (!which) return gln_fail(GLN_ERR_ARGUMENT, "gln_moe_parameter: expected a name, found NULL");
    const int64_t h = m->o.hidden, f = m->o.expert_hidden, held = m->parallel.local_experts;
    gln_tensor_t w = {.dtype = m->kernels->dtype, .dims_count = 3, .dims = {held, 0, 0}};
    void *grad = NULL;
    if (strcmp(which, "gate") == 0) {
        w.data = m->gate, grad = m->grad[0];
        w.dims_count = 2, w.dims[0] = h, w.dims[1] = m->o.experts;
    } else if (strcmp(which, "gate_up") == 0) {
        w.data = m->gate_up, grad = m->grad[1];
        w.dims[1] = h, w.dims[2] = 2 * f;
    } else if (strcmp(which, "down") == 0) {
        w.data = m->down, grad = m->grad[2];
        w.dims[1] = f, w.dims[2] = h;
    } else {
        return gln_fail(GLN_ERR_ARGUMENT, "parameter must be gate, gate_up or down, found \"%s\"",
                        which);
    }
    if (weight) *weight = w;
    w.data = grad;
    w.dtype = m->kernels->acc;
    if (gradient) *gradient = w;
    return GLN_OK;
}
