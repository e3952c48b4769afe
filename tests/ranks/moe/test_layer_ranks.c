/* The layer gives the same bits at any number of ranks and threads.
 * RANKS: 1 2 4
 *
 * Every rank first computes the whole of each case alone, as a world of one with one thread, then
 * its part of it in the world of all ranks, on one node and on several pretended ones, with and
 * without work on near rows while far ones are under way, these in stages or not, and compares
 * outputs, gradients of x, of the gate (per domain and summed in the tree), of the experts (per
 * group and summed), plans and ledgers, bit for bit. In f32, in f32 with a bf16 wire, and in bf16.
 */
#include "base/log.h"
#include "base/rng.h"
#include "comm/comm_internal.h"
#include "moe/layer.h"
#include "tests/support/bf16.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DOMAINS = 4, EXPERTS = 8, TOKENS = 33, HIDDEN = 48, EXPERT_HIDDEN = 40 };
enum { X_DOMAIN = TOKENS * HIDDEN, GATE = HIDDEN * EXPERTS };
enum { GATE_UP = HIDDEN * 2 * EXPERT_HIDDEN, DOWN = EXPERT_HIDDEN * HIDDEN };

#define CHECK(condition, ...)                                                    \
    do {                                                                         \
        if (!(condition)) {                                                      \
            fprintf(stderr, "%s:%d: rank %d: ", __FILE__, __LINE__, world_rank); \
            fprintf(stderr, __VA_ARGS__);                                        \
            fprintf(stderr, " (%s)\n", gln_last_error());                        \
            gln_comm_abort(world, 1);                                            \
        }                                                                        \
    } while (0)

static gln_comm_t *world, *self;
static int world_rank;
static int64_t hidden_ns; /* in all runs */

typedef struct layer_case {
    const char *name;
    gln_backend_t backend;
    int groups, k, threads;
    double capacity_factor;
    int ir_scope;
    int skew; /* 1: all tokens prefer expert 5; 2: experts 0 to 3 get nobody */
    gln_wire_t wire;
    gln_dtype_t dtype; /* of rows and weights: GLN_F32 (0) or GLN_BF16 */
} layer_case_t;

/* How rows travel and what is computed meanwhile. */
typedef struct way {
    int node_ranks; /* ranks of a pretended node */
    gln_exchange_across_t across;
    gln_overlap_t overlap;
    int stages; /* of far rows */
} way_t;

/* What a run leaves: everything of the local domains and experts. */
typedef struct run {
    gln_parallel_t parallel;
    float *y, *dx; /* [D/P * T, H] */
    float *gate[DOMAINS], *gate_up[DOMAINS], *down[DOMAINS];
    float *gate_sum, *gate_up_sum, *down_sum; /* after the trees */
    gln_ledger_t ledger[DOMAINS];
    gln_ledger_t sum;
    gln_traffic_t traffic; /* of all ranks */
} run_t;

static void *zeros(size_t count)
{
    void *memory = calloc(count, 4);
    CHECK(memory != NULL, "no memory");
    return memory;
}

static float *draw(uint64_t stream, int64_t count, double scale)
{
    float *values = zeros((size_t)count);
    for (int64_t i = 0; i < count; ++i)
        values[i] = (float)(scale * gln_rng_normal(3, gln_rng_stream(GLN_RNG_TEST, stream, 0),
                                                   (uint64_t)i));
    return values;
}

typedef struct data {
    float *x, *dy, *gate, *gate_up, *down; /* of the whole world */
} data_t;

static data_t draw_data(const layer_case_t *c)
{
    data_t d = {.x = draw(1, DOMAINS * X_DOMAIN, 1.0),
                .dy = draw(2, DOMAINS * X_DOMAIN, 1.0),
                .gate = draw(3, GATE, 0.3),
                .gate_up = draw(4, (int64_t)EXPERTS * GATE_UP, 0.2),
                .down = draw(5, (int64_t)EXPERTS * DOWN, 0.2)};
    if (c->skew == 0) return d;
    for (int i = 0; i < DOMAINS * X_DOMAIN; ++i)
        d.x[i] = fabsf(d.x[i]) + 0.1f;
    for (int i = 0; i < GATE; ++i) {
        int e = i % EXPERTS;
        if (c->skew == 1) d.gate[i] = e == 5 ? 0.5f : 0.01f * (float)e;
        if (c->skew == 2) d.gate[i] = e < 4 ? -1.0f : d.gate[i] * 0.1f;
    }
    return d;
}

/* Are rows between ranks of two bytes an element? */
static int narrow_rows(const layer_case_t *c)
{
    return c->wire == GLN_WIRE_BF16 || c->dtype == GLN_BF16;
}

/* Copies in the case's dtype, and back: a bf16 is an f32, so that bits may be compared either way.
 */
static void *copy_to(const layer_case_t *c, const float *from, int64_t count)
{
    void *copy = zeros((size_t)count);
    for (int64_t i = 0; i < count; ++i)
        gln_store(copy, i, c->dtype, (double)from[i]);
    return copy;
}

static void copy_back(const layer_case_t *c, const void *from, int64_t count, float *to)
{
    for (int64_t i = 0; i < count; ++i)
        to[i] = (float)gln_load(from, i, c->dtype);
}

static void free_data(data_t *d)
{
    free(d->x), free(d->dy), free(d->gate), free(d->gate_up), free(d->down);
}

static void open_run(gln_comm_t *comm, const layer_case_t *c, run_t *r)
{
    memset(r, 0, sizeof *r);
    CHECK(gln_parallel_open(comm, DOMAINS, c->groups, EXPERTS, &r->parallel) == GLN_OK, "parallel");
    r->y = zeros((size_t)r->parallel.local_domains * X_DOMAIN);
    r->dx = zeros((size_t)r->parallel.local_domains * X_DOMAIN);
    for (int i = 0; i < r->parallel.local_domains; ++i)
        r->gate[i] = zeros(GATE);
    for (int g = 0; g < r->parallel.local_groups; ++g) {
        r->gate_up[g] = zeros((size_t)r->parallel.local_experts * GATE_UP);
        r->down[g] = zeros((size_t)r->parallel.local_experts * DOWN);
    }
}

static void close_run(run_t *r)
{
    for (int i = 0; i < DOMAINS; ++i)
        free(r->gate[i]), free(r->gate_up[i]), free(r->down[i]);
    free(r->gate_sum), free(r->gate_up_sum), free(r->down_sum);
    free(r->y), free(r->dx);
    gln_parallel_close(&r->parallel);
}

/* The tree sum of parts, which are kept as they are. */
static float *tree_sum(gln_comm_t *comm, float *const *parts, int local, int64_t count)
{
    void *copies[DOMAINS];
    for (int i = 0; i < local; ++i) {
        copies[i] = zeros((size_t)count);
        memcpy(copies[i], parts[i], (size_t)count * 4);
    }
    CHECK(gln_comm_tree_sum(comm, copies, local, count, GLN_F32) == GLN_OK, "tree sum");
    for (int i = 1; i < local; ++i)
        free(copies[i]);
    return copies[0];
}

/* Nothing is hidden where nothing is under way, or nobody asked. */
static void check_times(const way_t *way, const gln_parallel_t *p, const gln_layer_t *layer)
{
    gln_layer_times_t times = gln_layer_times(layer);
    int far = p->local_domains < p->group_domains &&
              (p->group_domains / p->local_domains > way->node_ranks);
    CHECK(times.flight > 0 && times.hidden < times.flight, "%g of %g s were hidden", times.hidden,
          times.flight);
    if (!far || way->overlap != GLN_OVERLAP_ON) /* auto: these experts have too few rows */
        CHECK(times.hidden == 0, "%g s were hidden", times.hidden);
    hidden_ns += (int64_t)(1e9 * times.hidden);
}

/* One forward and one backward of two layers that share a workspace, in the order of a model. */
static void run_case(gln_comm_t *comm, const layer_case_t *c, const way_t *way, int threads,
                     const data_t *d, run_t *r)
{
    gln_layer_options_t o = {.tokens = TOKENS,
                             .hidden = HIDDEN,
                             .expert_hidden = EXPERT_HIDDEN,
                             .across = way->across,
                             .overlap = way->overlap,
                             .stages = way->stages,
                             .wire = c->wire};
    gln_layer_step_t step = {.seed = 5, .step = 2, .keep = 1};
    gln_pool_t *pool;
    gln_kernels_t *kernels;
    gln_layer_workspace_t *workspace;
    gln_layer_t *layers[2];
    void *gate[DOMAINS], *gate_up[DOMAINS], *down[DOMAINS];

    open_run(comm, c, r);
    const gln_parallel_t *p = &r->parallel;
    o.router = (gln_router_options_t){.k = c->k,
                                      .capacity_factor = c->capacity_factor,
                                      .fill = 1,
                                      .rectify = 1,
                                      .ir_scope = c->ir_scope,
                                      .priority = c->skew == 2 ? GLN_PRIORITY_RANDOM : 0,
                                      .balance_coef = 0.01,
                                      .z_coef = 0.001};
    void *w_gate = copy_to(c, d->gate, GATE);
    void *w_up = copy_to(c, d->gate_up + (int64_t)p->first_expert * GATE_UP,
                         (int64_t)p->local_experts * GATE_UP);
    void *w_down =
        copy_to(c, d->down + (int64_t)p->first_expert * DOWN, (int64_t)p->local_experts * DOWN);
    gln_layer_weights_t weights = {w_gate, w_up, w_down};
    for (int i = 0; i < DOMAINS; ++i)
        gate[i] = r->gate[i], gate_up[i] = r->gate_up[i], down[i] = r->down[i];
    gln_layer_gradients_t gradients = {gate, gate_up, down};
    int64_t first = (int64_t)p->first_domain * X_DOMAIN, count = p->local_domains * X_DOMAIN;
    void *between = zeros((size_t)count), *dbetween = zeros((size_t)count);
    void *x = copy_to(c, d->x + first, count), *dy = copy_to(c, d->dy + first, count);
    void *y = zeros((size_t)count), *dx = zeros((size_t)count);

    CHECK(gln_pool_open(threads, &pool) == GLN_OK, "pool");
    CHECK(gln_kernels_open(c->backend, c->dtype, pool, &kernels) == GLN_OK, "kernels");
    CHECK(gln_layer_workspace_open(p, kernels, &o, &workspace) == GLN_OK, "workspace");
    for (int i = 0; i < 2; ++i)
        CHECK(gln_layer_open(p, kernels, workspace, &o, i, &layers[i]) == GLN_OK, "layer");
    CHECK(gln_layer_forward(layers[0], &weights, &step, x, between) == GLN_OK, "forward");
    CHECK(gln_layer_forward(layers[1], &weights, &step, between, y) == GLN_OK, "forward");
    CHECK(gln_layer_backward(layers[1], &weights, dy, 0.25, dbetween, &gradients) == GLN_OK,
          "backward");
    CHECK(gln_layer_backward(layers[0], &weights, dbetween, 0.25, dx, &gradients) == GLN_OK,
          "backward");
    copy_back(c, y, count, r->y);
    copy_back(c, dx, count, r->dx);
    check_times(way, p, layers[0]);
    for (int i = 0; i < p->local_domains; ++i) {
        r->ledger[i] = gln_layer_plan(layers[0], i)->ledger;
        gln_ledger_add(&r->ledger[i], &gln_layer_plan(layers[1], i)->ledger);
        gln_ledger_add(&r->sum, &r->ledger[i]);
    }
    CHECK(gln_ledger_check(&r->sum, "both layers") == GLN_OK, "ledger");
    for (int i = 0; i < 2; ++i) {
        gln_traffic_t traffic = gln_layer_traffic(layers[i]);
        gln_traffic_add(&r->traffic, &traffic);
    }
    CHECK(gln_comm_sum_i64(comm, &r->traffic.rank_rows, 6) == GLN_OK, "traffic");
    r->gate_sum = tree_sum(comm, r->gate, p->local_domains, GATE);
    r->gate_up_sum =
        tree_sum(p->replicas, r->gate_up, p->local_groups, (int64_t)p->local_experts * GATE_UP);
    r->down_sum = tree_sum(p->replicas, r->down, p->local_groups, (int64_t)p->local_experts * DOWN);
    gln_layer_close(layers[1]);
    gln_layer_close(layers[0]);
    gln_layer_workspace_close(workspace);
    gln_kernels_close(kernels);
    gln_pool_close(pool);
    free(between), free(dbetween), free(x), free(dy), free(y), free(dx);
    free(w_gate), free(w_up), free(w_down);
}

static void compare(const layer_case_t *c, const char *what, const float *found,
                    const float *wanted, int64_t count)
{
    int64_t i = 0;
    if (memcmp(found, wanted, (size_t)count * 4) == 0) return;
    while (memcmp(found + i, wanted + i, 4) == 0)
        ++i;
    CHECK(0, "%s, %d groups, k %d, %d threads: %s[%lld] is %.9g, one rank says %.9g", c->name,
          c->groups, c->k, c->threads, what, (long long)i, (double)found[i], (double)wanted[i]);
}

static void compare_runs(const layer_case_t *c, const run_t *part, const run_t *whole)
{
    const gln_parallel_t *p = &part->parallel;
    int64_t e0 = p->first_expert, experts = p->local_experts;

    compare(c, "y", part->y, whole->y + (int64_t)p->first_domain * X_DOMAIN,
            p->local_domains * X_DOMAIN);
    compare(c, "dx", part->dx, whole->dx + (int64_t)p->first_domain * X_DOMAIN,
            p->local_domains * X_DOMAIN);
    for (int i = 0; i < p->local_domains; ++i) {
        compare(c, "gate", part->gate[i], whole->gate[p->first_domain + i], GATE);
        CHECK(memcmp(&part->ledger[i], &whole->ledger[p->first_domain + i], sizeof(gln_ledger_t)) ==
                  0,
              "%s: ledger of domain %d", c->name, p->first_domain + i);
    }
    for (int g = 0; g < p->local_groups; ++g) {
        compare(c, "gate_up", part->gate_up[g], whole->gate_up[p->first_group + g] + e0 * GATE_UP,
                experts * GATE_UP);
        compare(c, "down", part->down[g], whole->down[p->first_group + g] + e0 * DOWN,
                experts * DOWN);
    }
    const gln_traffic_t *a = &part->traffic;
    int64_t rows = a->rank_rows + a->node_rows + a->remote_rows;
    int64_t bytes = a->rank_bytes + a->node_bytes + a->remote_bytes;
    CHECK(bytes == rows * HIDDEN * (narrow_rows(c) ? 2 : 4), "%s: %lld bytes in %lld rows", c->name,
          (long long)bytes, (long long)rows);
    CHECK(p->ranks == 1 || c->groups >= p->ranks || rows > a->rank_rows, "%s: all rows stayed",
          c->name);
    compare(c, "sum of gate", part->gate_sum, whole->gate_sum, GATE);
    compare(c, "sum of gate_up", part->gate_up_sum, whole->gate_up_sum + e0 * GATE_UP,
            experts * GATE_UP);
    compare(c, "sum of down", part->down_sum, whole->down_sum + e0 * DOWN, experts * DOWN);
}

/* The case did what its name says. */
static void check_shape(const layer_case_t *c, const run_t *whole)
{
    int64_t nonzero = 0, row = HIDDEN * (narrow_rows(c) ? 2 : 4);
    CHECK(whole->traffic.rank_bytes == whole->traffic.rank_rows * row,
          "%s: %lld bytes in %lld rows", c->name, (long long)whole->traffic.rank_bytes,
          (long long)whole->traffic.rank_rows);
    for (int64_t i = 0; i < DOMAINS * X_DOMAIN && c->wire == GLN_WIRE_BF16; ++i)
        CHECK((double)whole->y[i] == nearest_bf16(whole->y[i]), "%s: y[%lld] was not rounded",
              c->name, (long long)i);
    CHECK(whole->sum.routed > 0 && whole->sum.sent_rows > 0, "%s: nothing was routed", c->name);
    if (c->capacity_factor < 1)
        CHECK(whole->sum.rectified > 0 && whole->sum.filled > 0, "%s: nothing rectified", c->name);
    for (int64_t i = 0; i < (int64_t)EXPERTS * DOWN; ++i)
        nonzero += whole->down_sum[i] != 0.0f;
    CHECK(nonzero > 0, "%s: no gradient", c->name);
    if (c->skew == 2 && c->groups == 1 && c->k == 1)
        CHECK(whole->sum.unserved > 0 || whole->sum.rectified > 0, "%s: no shortage", c->name);
}

static const layer_case_t cases[] = {
    {"ordinary", GLN_BACKEND_CPU, 1, 2, 1, 0.8, 0, 0, GLN_WIRE_AUTO, GLN_F32},
    {"ordinary", GLN_BACKEND_CPU, 1, 2, 2, 0.8, 0, 0, GLN_WIRE_AUTO, GLN_F32},
    {"ordinary", GLN_BACKEND_CPU, 2, 2, 2, 0.8, 0, 0, GLN_WIRE_AUTO, GLN_F32},
    {"ordinary", GLN_BACKEND_CPU, 4, 2, 2, 0.8, 0, 0, GLN_WIRE_AUTO, GLN_F32},
    {"top-1", GLN_BACKEND_CPU, 1, 1, 2, 0.7, 0, 0, GLN_WIRE_AUTO, GLN_F32},
    {"top-1", GLN_BACKEND_CPU, 2, 1, 1, 0.7, 2, 0, GLN_WIRE_AUTO, GLN_F32},
    {"dropless", GLN_BACKEND_CPU, 1, 2, 2, INFINITY, 0, 0, GLN_WIRE_AUTO, GLN_F32},
    {"one expert", GLN_BACKEND_CPU, 1, 1, 2, INFINITY, 0, 1, GLN_WIRE_AUTO, GLN_F32},
    {"one expert", GLN_BACKEND_CPU, 2, 2, 2, 0.5, 0, 1, GLN_WIRE_AUTO, GLN_F32},
    {"empty experts", GLN_BACKEND_CPU, 1, 1, 2, 0.5, 0, 2, GLN_WIRE_AUTO, GLN_F32},
    {"empty experts", GLN_BACKEND_CPU, 2, 2, 2, 4.0, 0, 2, GLN_WIRE_AUTO, GLN_F32},
    {"reference", GLN_BACKEND_REF, 1, 2, 1, 0.8, 4, 0, GLN_WIRE_AUTO, GLN_F32},
    {"reference", GLN_BACKEND_REF, 2, 2, 2, 0.8, 0, 0, GLN_WIRE_AUTO, GLN_F32},
    {"f32 wire", GLN_BACKEND_CPU, 1, 2, 1, 0.8, 0, 0, GLN_WIRE_F32, GLN_F32},
    {"bf16 wire", GLN_BACKEND_CPU, 1, 2, 1, 0.8, 0, 0, GLN_WIRE_BF16, GLN_F32},
    {"bf16 wire", GLN_BACKEND_CPU, 2, 2, 2, 0.8, 0, 0, GLN_WIRE_BF16, GLN_F32},
    {"bf16 wire", GLN_BACKEND_CPU, 4, 2, 2, 0.8, 0, 0, GLN_WIRE_BF16, GLN_F32},
    {"bf16 wire, top-4", GLN_BACKEND_REF, 1, 4, 2, INFINITY, 0, 0, GLN_WIRE_BF16, GLN_F32},
    {"bf16 wire, one expert", GLN_BACKEND_CPU, 1, 1, 2, 0.5, 0, 1, GLN_WIRE_BF16, GLN_F32},
    {"bf16", GLN_BACKEND_CPU, 1, 2, 1, 0.8, 0, 0, GLN_WIRE_AUTO, GLN_BF16},
    {"bf16", GLN_BACKEND_CPU, 2, 2, 2, 0.8, 0, 0, GLN_WIRE_AUTO, GLN_BF16},
    {"bf16", GLN_BACKEND_CPU, 4, 2, 2, 0.8, 0, 0, GLN_WIRE_BF16, GLN_BF16},
    {"bf16, top-1", GLN_BACKEND_CPU, 1, 1, 2, 0.7, 2, 0, GLN_WIRE_AUTO, GLN_BF16},
    {"bf16, top-4", GLN_BACKEND_REF, 1, 4, 2, INFINITY, 0, 0, GLN_WIRE_AUTO, GLN_BF16},
    {"bf16, one expert", GLN_BACKEND_CPU, 1, 1, 2, 0.5, 0, 1, GLN_WIRE_AUTO, GLN_BF16},
};

/* A logit that is not finite on one rank ends the forward of all ranks, and the layer lives on. */
static void check_numeric(void)
{
    layer_case_t c = cases[0];
    data_t d = draw_data(&c);
    run_t r;
    gln_pool_t *pool;
    gln_kernels_t *kernels;
    gln_layer_workspace_t *workspace;
    gln_layer_t *layer;
    gln_layer_options_t o = {.tokens = TOKENS, .hidden = HIDDEN, .expert_hidden = EXPERT_HIDDEN};
    gln_layer_step_t step = {0};

    open_run(world, &c, &r);
    gln_layer_weights_t weights = {d.gate, d.gate_up, d.down};
    CHECK(gln_pool_open(1, &pool) == GLN_OK, "pool");
    CHECK(gln_kernels_open(GLN_BACKEND_REF, GLN_F32, pool, &kernels) == GLN_OK, "kernels");
    for (int stages = -1; stages <= GLN_STAGES_MAX + 1; stages += GLN_STAGES_MAX + 2) {
        o.stages = stages;
        CHECK(gln_layer_workspace_open(&r.parallel, kernels, &o, &workspace) == GLN_ERR_ARGUMENT &&
                  strstr(gln_last_error(), "expected 1 to 64 stages"),
              "%d stages", stages);
    }
    o.stages = 0;
    CHECK(gln_layer_workspace_open(&r.parallel, kernels, &o, &workspace) == GLN_OK, "workspace");
    CHECK(gln_layer_open(&r.parallel, kernels, workspace, &o, 0, &layer) == GLN_OK, "layer");
    float *x = d.x + (int64_t)r.parallel.first_domain * X_DOMAIN, kept = x[7];
    if (world_rank == r.parallel.ranks - 1) x[7] = NAN;
    CHECK(gln_layer_forward(layer, &weights, &step, x, r.y) == GLN_ERR_NUMERIC,
          "all ranks return it");
    x[7] = kept;
    CHECK(gln_layer_forward(layer, &weights, &step, x, r.y) == GLN_OK, "good again");
    gln_layer_close(layer);
    gln_layer_workspace_close(workspace);
    gln_kernels_close(kernels);
    gln_pool_close(pool);
    close_run(&r);
    free_data(&d);
}

static const way_t ways[] = {
    {8, GLN_ACROSS_AUTO, GLN_OVERLAP_AUTO, 0},
    {8, GLN_ACROSS_AUTO, GLN_OVERLAP_ON, 2},
    {1, GLN_ACROSS_FLAT, GLN_OVERLAP_ON, 1},
    {1, GLN_ACROSS_FLAT, GLN_OVERLAP_OFF, 2},
    {1, GLN_ACROSS_FLAT, GLN_OVERLAP_ON, 2},
    {1, GLN_ACROSS_FLAT, GLN_OVERLAP_ON, 3},
    {1, GLN_ACROSS_AUTO, GLN_OVERLAP_AUTO, 0},
    {2, GLN_ACROSS_FLAT, GLN_OVERLAP_ON, 2},
    {2, GLN_ACROSS_AUTO, GLN_OVERLAP_ON, 3},
    {2, GLN_ACROSS_AUTO, GLN_OVERLAP_OFF, 1},
    {1, GLN_ACROSS_HIERARCHICAL, GLN_OVERLAP_OFF, 1},
    {2, GLN_ACROSS_HIERARCHICAL, GLN_OVERLAP_ON, 2},
};

/* The hierarchical form needs a group over several nodes. */
static int is_possible(const way_t *way, const layer_case_t *c)
{
    return way->across != GLN_ACROSS_HIERARCHICAL ||
           (c->groups == 1 && gln_comm_size(world) > way->node_ranks);
}

static void set_nodes(int node_ranks)
{
    int nodes[DOMAINS], ranks = gln_comm_size(world);
    for (int r = 0; r < ranks; ++r)
        nodes[r] = r / node_ranks;
    gln_comm_set_nodes(world, nodes, (ranks + node_ranks - 1) / node_ranks);
}

int main(void)
{
    const way_t alone = {8, GLN_ACROSS_AUTO, GLN_OVERLAP_OFF, 0};
    if (gln_comm_open_world(&world) != GLN_OK || gln_comm_open_self(&self) != GLN_OK) return 1;
    world_rank = gln_comm_rank(world);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
        data_t d = draw_data(&cases[i]);
        run_t whole, part;
        run_case(self, &cases[i], &alone, 1, &d, &whole);
        check_shape(&cases[i], &whole);
        for (size_t k = 0; k < sizeof ways / sizeof ways[0]; ++k) {
            if (!is_possible(&ways[k], &cases[i])) continue;
            set_nodes(ways[k].node_ranks);
            run_case(world, &cases[i], &ways[k], cases[i].threads, &d, &part);
            compare_runs(&cases[i], &part, &whole);
            close_run(&part);
        }
        close_run(&whole);
        free_data(&d);
    }
    CHECK(gln_comm_sum_i64(world, &hidden_ns, 1) == GLN_OK, "sum");
    CHECK(hidden_ns > 0 || gln_comm_size(world) == 1, "nobody computed while rows were under way");
    set_nodes(8);
    check_numeric();
    if (world_rank == 0) printf("ok\n");
    gln_comm_close(self);
    gln_comm_close(world);
    return 0;
}
