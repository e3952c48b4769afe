/* moe/layer.h: what the passes promise beside the right numbers: accumulation, sharing of a
 * workspace, the order of calls, errors, ledger, traffic, sizes. */
#include "kernels/kernels.h"
#include "test_layer_world.h"

static world_options_t options_of(int domains, int groups, int k)
{
    world_options_t o = {.domains = domains,
                         .groups = groups,
                         .experts = 8,
                         .tokens = 9,
                         .hidden = 5,
                         .expert_hidden = 4};
    o.router.k = k;
    o.router.capacity_factor = 0.8;
    o.router.fill = o.router.rectify = 1;
    return o;
}

static double *copy_of(const double *values, int64_t count)
{
    double *copy = malloc((size_t)count * sizeof *copy);
    memcpy(copy, values, (size_t)count * sizeof *copy);
    return copy;
}

static int same(const double *a, const double *b, int64_t count)
{
    return memcmp(a, b, (size_t)count * sizeof *a) == 0;
}

/* b = 2 a within rounding */
static int doubled(const double *a, const double *b, int64_t count)
{
    for (int64_t i = 0; i < count; ++i)
        if (fabs(b[i] - 2 * a[i]) > 1e-12 * fmax(1.0, fabs(b[i]))) return 0;
    return 1;
}

Test(layer, gradients_accumulate_and_outputs_overwrite)
{
    world_options_t o = options_of(4, 2, 2);
    world_t w;
    world_open(&o, &w);
    world_forward(&w, 1);
    world_backward(&w, 1.0);
    double *y = copy_of(w.y, w.x_count), *dx = copy_of(w.dx, w.x_count);
    double *gate = copy_of(w.dgate[3], w.gate_count);
    double *gate_up = copy_of(w.dgate_up[1], w.gate_up_count);
    double *down = copy_of(w.ddown[0], w.down_count);
    memset(w.y, 0x7f, (size_t)w.x_count * sizeof *w.y);
    world_forward(&w, 1);
    world_backward(&w, 1.0);
    cr_expect(same(y, w.y, w.x_count), "y is overwritten");
    cr_expect(doubled(dx, w.dx, w.x_count), "dx +=");
    cr_expect(doubled(gate, w.dgate[3], w.gate_count), "gate +=");
    cr_expect(doubled(gate_up, w.dgate_up[1], w.gate_up_count), "gate_up +=");
    cr_expect(doubled(down, w.ddown[0], w.down_count), "down +=");
    free(y), free(dx), free(gate), free(gate_up), free(down);
    world_close(&w);
}

/* A second layer on the same workspace, with other weights, runs between forward and backward. */
Test(layer, layers_share_a_workspace)
{
    world_options_t o = options_of(4, 1, 2);
    world_t w;
    gln_layer_t *other;
    world_open(&o, &w);
    world_forward(&w, 1);
    world_backward(&w, 1.0);
    double *y = copy_of(w.y, w.x_count), *dx = copy_of(w.dx, w.x_count);
    double *gate_up = copy_of(w.dgate_up[0], w.gate_up_count);
    double *gate = copy_of(w.dgate[2], w.gate_count);

    cr_assert_eq(gln_layer_open(&w.parallel, w.kernels, w.workspace, &w.options, 4, &other),
                 GLN_OK);
    double *x2 = world_draw(w.x_count, 77, 1.0), *y2 = world_draw(w.x_count, 78, 1.0);
    gln_layer_step_t step = {.keep = 1};
    memset(w.dx, 0, (size_t)w.x_count * sizeof *w.dx);
    memset(w.dgate_up[0], 0, (size_t)w.gate_up_count * sizeof(double));
    for (int d = 0; d < 4; ++d)
        memset(w.dgate[d], 0, (size_t)w.gate_count * sizeof(double));
    world_forward(&w, 1);
    cr_assert_eq(gln_layer_forward(other, &w.weights, &step, x2, y2), GLN_OK);
    cr_expect(same(y, w.y, w.x_count));
    world_backward(&w, 1.0);
    cr_expect(same(dx, w.dx, w.x_count), "dx");
    cr_expect(same(gate_up, w.dgate_up[0], w.gate_up_count), "gate_up");
    cr_expect(same(gate, w.dgate[2], w.gate_count), "gate");
    cr_expect_eq(gln_layer_backward(other, &w.weights, w.dy, 1.0, w.dx, &w.gradients), GLN_OK);
    gln_layer_close(other);
    double *alone = malloc((size_t)w.x_count * sizeof *alone);
    cr_assert_eq(gln_layer_open(&w.parallel, w.kernels, w.workspace, &w.options, 4, &other),
                 GLN_OK);
    cr_assert_eq(gln_layer_forward(other, &w.weights, &step, x2, alone), GLN_OK);
    cr_expect(same(alone, y2, w.x_count), "the other layer's y");
    gln_layer_close(other);
    free(alone);
    world_forward(&w, 0);
    cr_expect(same(y, w.y, w.x_count), "after the other is closed");
    free(y), free(dx), free(gate_up), free(gate), free(x2), free(y2);
    world_close(&w);
}

Test(layer, forward_only_gives_the_same_and_keeps_less)
{
    world_options_t o = options_of(4, 2, 2);
    world_t w, only;
    world_open(&o, &w);
    o.forward_only = 1;
    world_open(&o, &only);
    world_forward(&w, 1);
    world_forward(&only, 0);
    cr_expect(same(w.y, only.y, w.x_count));
    cr_expect_lt(gln_layer_bytes(only.layer), gln_layer_bytes(w.layer));
    cr_expect_lt(gln_layer_workspace_bytes(only.workspace) + gln_layer_bytes(only.layer),
                 gln_layer_workspace_bytes(w.workspace) + gln_layer_bytes(w.layer));
    gln_layer_step_t step = {.keep = 1};
    cr_expect_eq(gln_layer_forward(only.layer, &only.weights, &step, only.x, only.y),
                 GLN_ERR_ARGUMENT);
    cr_expect_neq(strstr(gln_last_error(), "forward_only"), NULL, "%s", gln_last_error());
    world_close(&w);
    world_close(&only);
}

Test(layer, backward_needs_a_forward_that_kept)
{
    world_options_t o = options_of(2, 1, 1);
    world_t w;
    world_open(&o, &w);
    const char *says = "backward without a forward that kept its activations";
    for (int turn = 0; turn < 3; ++turn) {
        if (turn == 1) world_forward(&w, 0);
        if (turn == 2) {
            world_forward(&w, 1);
            world_backward(&w, 1.0); /* once */
        }
        double *dx = copy_of(w.dx, w.x_count);
        cr_expect_eq(gln_layer_backward(w.layer, &w.weights, w.dy, 1.0, w.dx, &w.gradients),
                     GLN_ERR_ARGUMENT, "turn %d", turn);
        cr_expect_neq(strstr(gln_last_error(), says), NULL, "turn %d: %s", turn, gln_last_error());
        cr_expect(same(dx, w.dx, w.x_count), "turn %d: nothing is written", turn);
        free(dx);
    }
    world_close(&w);
}

Test(layer, capacity_factor_of_a_step)
{
    world_options_t o = options_of(2, 1, 2);
    o.capacity_factor_max = 2.0;
    world_t w;
    world_open(&o, &w);
    gln_layer_step_t step = {.keep = 1, .capacity_factor = 2.0};
    cr_assert_eq(gln_layer_forward(w.layer, &w.weights, &step, w.x, w.y), GLN_OK);
    gln_ledger_t wide = gln_layer_ledger(w.layer);
    world_backward(&w, 1.0);
    step.capacity_factor = 0; /* the options' 0.8 */
    cr_assert_eq(gln_layer_forward(w.layer, &w.weights, &step, w.x, w.y), GLN_OK);
    gln_ledger_t narrow = gln_layer_ledger(w.layer);
    cr_expect_gt(wide.slots, narrow.slots);
    cr_expect_eq(narrow.slots,
                 2 * 8 * 2); /* ceil(0.8 * 2 * 9 / 8) = 2 slots, 8 experts, 2 domains */
    cr_expect_eq(wide.slots, 2 * 8 * 5);
    step.capacity_factor = 2.5;
    cr_expect_eq(gln_layer_forward(w.layer, &w.weights, &step, w.x, w.y), GLN_ERR_ARGUMENT);
    cr_expect_neq(strstr(gln_last_error(), "layer 3: capacity factor 2.5"), NULL, "%s",
                  gln_last_error());
    world_close(&w);
}

Test(layer, a_logit_that_is_not_finite)
{
    world_options_t o = options_of(4, 1, 2);
    world_t w;
    world_open(&o, &w);
    world_forward(&w, 1);
    double *y = copy_of(w.y, w.x_count), kept = w.x[40];
    w.x[40] = NAN;
    gln_layer_step_t step = {.seed = 11, .step = 5, .keep = 1};
    cr_expect_eq(gln_layer_forward(w.layer, &w.weights, &step, w.x, w.y), GLN_ERR_NUMERIC);
    cr_expect_eq(gln_layer_backward(w.layer, &w.weights, w.dy, 1.0, w.dx, &w.gradients),
                 GLN_ERR_ARGUMENT, "nothing to go back over");
    w.x[40] = kept;
    world_forward(&w, 1);
    cr_expect(same(y, w.y, w.x_count), "the layer is good again");
    free(y);
    world_close(&w);
}

/* sent_rows: (token, destination domain) pairs, counted here from the plan token by token. */
static int64_t count_pairs(const gln_plan_t *plan, int per_domain)
{
    int64_t pairs = 0;
    for (int64_t t = 0; t < plan->tokens; ++t)
        for (int first = 0; first < plan->experts; first += per_domain) {
            int found = 0;
            for (int e = first; e < first + per_domain; ++e) {
                for (int32_t r = plan->expert_offset[e]; r < plan->expert_offset[e + 1]; ++r)
                    found |= plan->route_token[r] == t;
                for (int32_t r = plan->rect_offset[e]; r < plan->rect_offset[e + 1]; ++r)
                    found |= plan->rect_token[r] == t;
            }
            pairs += found;
        }
    return pairs;
}

Test(layer, ledger_traffic_and_times)
{
    world_options_t o = options_of(4, 1, 3);
    world_t w;
    world_open(&o, &w);
    world_forward(&w, 1);
    int64_t pairs = 0;
    for (int d = 0; d < 4; ++d) {
        const gln_plan_t *plan = gln_layer_plan(w.layer, d);
        cr_expect_eq(plan->ledger.sent_rows, count_pairs(plan, 2), "domain %d", d);
        pairs += plan->ledger.sent_rows;
    }
    gln_ledger_t ledger = gln_layer_ledger(w.layer);
    cr_expect_eq(gln_ledger_check(&ledger, "test"), GLN_OK);
    cr_expect_eq(ledger.tokens, 36);
    cr_expect_eq(ledger.sent_rows, pairs);
    cr_expect_lt(pairs, ledger.routed + ledger.filled + ledger.rect_rows, "one copy per domain");
    gln_traffic_t traffic = gln_layer_traffic(w.layer);
    cr_expect_eq(traffic.rank_rows, 2 * pairs, "dispatch and combine");
    cr_expect_eq(traffic.rank_bytes, 2 * pairs * 5 * 8);
    cr_expect_eq(traffic.node_rows + traffic.remote_rows, 0);
    gln_layer_times_t t = gln_layer_times(w.layer);
    cr_expect(t.router > 0 && t.exchange > 0 && t.gemm > 0 && t.move > 0);
    cr_expect_lt(fabs(t.router + t.exchange + t.gemm + t.move - t.total), 0.05 * t.total + 1e-6);
    double forward = t.total;
    world_backward(&w, 1.0);
    cr_expect_gt(gln_layer_times(w.layer).total, forward);
    traffic = gln_layer_traffic(w.layer);
    cr_expect_eq(traffic.rank_rows, 4 * pairs, "dispatch and combine of the backward too");
    cr_expect_eq(traffic.rank_bytes, 4 * pairs * 5 * 8);
    world_close(&w);
}

/* Every token of every domain to one expert, or to few: the worst case the buffers are sized for.
 */
static void check_skew(int domains, int groups, int k, double factor, int64_t ir_capacity)
{
    world_options_t o = options_of(domains, groups, k);
    o.router.capacity_factor = factor;
    o.router.ir_capacity = ir_capacity;
    world_t w;
    world_open(&o, &w);
    for (int64_t i = 0; i < w.x_count; ++i)
        w.x[i] = fabs(w.x[i]) + 0.1;
    for (int64_t h = 0; h < o.hidden; ++h)
        for (int e = 0; e < o.experts; ++e)
            w.gate[h * o.experts + e] = e == 5 ? 2.0 : 0.01 * e;
    world_forward(&w, 1);
    world_backward(&w, 1.0);
    double *y = calloc((size_t)w.x_count, sizeof *y);
    oracle_loss(&w, 0.0, y);
    for (int64_t i = 0; i < w.x_count; ++i)
        cr_assert_lt(fabs(y[i] - w.y[i]), 1e-12 * fmax(1.0, fabs(y[i])), "D %d R %d k %d: y[%lld]",
                     domains, groups, k, (long long)i);
    const double *ddown = w.ddown[0];
    if (k == 1 && isinf(factor)) /* nobody went to expert 0: its gradients are untouched */
        for (int64_t i = 0; i < o.expert_hidden * o.hidden; ++i)
            cr_assert_eq(ddown[i], 0.0);
    free(y);
    world_close(&w);
}

Test(layer, all_tokens_to_one_expert)
{
    static const int layouts[][2] = {{1, 1}, {2, 1}, {2, 2}, {4, 1}, {4, 2}, {8, 1}, {8, 4}};
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; ++i)
        for (int k = 1; k <= 3; ++k) {
            check_skew(layouts[i][0], layouts[i][1], k, INFINITY, 0);
            check_skew(layouts[i][0], layouts[i][1], k, 1.0, 0);
            check_skew(layouts[i][0], layouts[i][1], k, 0.3, 0);
            check_skew(layouts[i][0], layouts[i][1], k, 0.3, 2);
        }
}

/* Nearly all tokens to one expert, so that some experts have no rows: theirs are overwritten too.
 */
Test(layer, overwrites_experts_gradients_where_told)
{
    world_options_t o = options_of(4, 2, 1);
    o.router.capacity_factor = INFINITY;
    world_t w;
    world_open(&o, &w);
    for (int64_t i = 0; i < w.x_count; ++i)
        w.x[i] = fabs(w.x[i]) + 0.1;
    for (int64_t h = 0; h < o.hidden; ++h)
        for (int e = 0; e < o.experts; ++e)
            w.gate[h * o.experts + e] = e == 5 ? 2.0 : 0.01 * e;
    world_forward(&w, 1);
    world_backward(&w, 1.0);
    double *gate = copy_of(w.dgate[3], w.gate_count);
    double *gate_up = copy_of(w.dgate_up[1], w.gate_up_count);
    double *down = copy_of(w.ddown[0], w.down_count);
    for (int g = 0; g < 2; ++g) {
        memset(w.dgate_up[g], 0x41, (size_t)w.gate_up_count * sizeof(double));
        memset(w.ddown[g], 0x41, (size_t)w.down_count * sizeof(double));
    }
    gln_layer_set_overwrite(w.layer, 1);
    world_forward(&w, 1);
    world_backward(&w, 1.0);
    cr_expect_eq(down[0], 0.0, "expert 0 has rows");
    cr_expect(same(gate_up, w.dgate_up[1], w.gate_up_count), "gate_up =");
    cr_expect(same(down, w.ddown[0], w.down_count), "down =");
    cr_expect(doubled(gate, w.dgate[3], w.gate_count), "gate +=");
    gln_layer_set_overwrite(w.layer, 0);
    world_forward(&w, 1);
    world_backward(&w, 1.0);
    cr_expect(doubled(gate_up, w.dgate_up[1], w.gate_up_count), "gate_up += again");
    cr_expect(doubled(down, w.ddown[0], w.down_count), "down += again");
    free(gate), free(gate_up), free(down);
    world_close(&w);
}

/* Two layers with the same weights and input draw differently: who is served first hangs on the
 * index. */
Test(layer, draws_hang_on_the_index_and_the_step)
{
    world_options_t o = options_of(2, 1, 1);
    o.tokens = 40;
    o.router.priority = GLN_PRIORITY_RANDOM;
    o.router.fill = o.router.rectify = 0;
    o.router.capacity_factor = 0.5;
    world_t w;
    gln_layer_t *other;
    world_open(&o, &w);
    cr_assert_eq(gln_layer_open(&w.parallel, w.kernels, w.workspace, &w.options, 4, &other),
                 GLN_OK);
    double *y = copy_of(w.y, w.x_count), *z = copy_of(w.y, w.x_count);
    gln_layer_step_t step = {.seed = 1, .step = 1};
    cr_assert_eq(gln_layer_forward(w.layer, &w.weights, &step, w.x, y), GLN_OK);
    cr_assert_eq(gln_layer_forward(other, &w.weights, &step, w.x, z), GLN_OK);
    cr_expect(!same(y, z, w.x_count), "index");
    cr_assert_eq(gln_layer_forward(w.layer, &w.weights, &step, w.x, z), GLN_OK);
    cr_expect(same(y, z, w.x_count), "the same again");
    step.step = 2;
    cr_assert_eq(gln_layer_forward(w.layer, &w.weights, &step, w.x, z), GLN_OK);
    cr_expect(!same(y, z, w.x_count), "step");
    step = (gln_layer_step_t){.seed = 2, .step = 1};
    cr_assert_eq(gln_layer_forward(w.layer, &w.weights, &step, w.x, z), GLN_OK);
    cr_expect(!same(y, z, w.x_count), "seed");
    free(y), free(z);
    gln_layer_close(other);
    world_close(&w);
}

/* An expert's weight gradient is one product over all its rows of a group in domain order: with all
 * tokens on one expert, in token order, the same product over all tokens gives the same bits. */
Test(layer, weight_gradient_runs_over_domains_in_order)
{
    world_options_t o = options_of(4, 1, 1);
    int64_t n = o.domains * o.tokens, hidden = o.hidden, f = o.expert_hidden;
    o.router.capacity_factor = INFINITY;
    o.router.fill = o.router.rectify = 0;
    o.router.priority = GLN_PRIORITY_POSITION;
    world_t w;
    world_open(&o, &w);
    for (int64_t i = 0; i < w.x_count; ++i)
        w.x[i] = fabs(w.x[i]) + 0.1;
    for (int64_t i = 0; i < w.gate_count; ++i)
        w.gate[i] = i % o.experts == 5 ? 3.0 : 0.0;
    world_forward(&w, 1);
    world_backward(&w, 0.0);

    const gln_kernel_ops_t *ops = w.kernels->ops;
    double *hgu = world_draw(n * 2 * f, 90, 1.0), *act = world_draw(n * f, 91, 1.0);
    double *down = calloc((size_t)(f * hidden), sizeof *down);
    gln_gemm_t product = {.m = n,
                          .n = 2 * f,
                          .k = hidden,
                          .a = w.x,
                          .lda = hidden,
                          .b = w.gate_up + 5 * hidden * 2 * f,
                          .ldb = 2 * f,
                          .c = hgu,
                          .ldc = 2 * f};
    gln_swiglu_t swiglu = {.n = n, .f = f, .hgu = hgu, .act = act}; /* the route's weight is 1 */
    gln_gemm_t sum = {.m = f,
                      .n = hidden,
                      .k = n,
                      .a = act,
                      .lda = f,
                      .b = w.dy,
                      .ldb = hidden,
                      .c = down,
                      .ldc = hidden};
    cr_assert_eq(ops->gemm(w.kernels, (gln_gemm_mode_t){.form = GLN_GEMM_NN}, &product, 1), GLN_OK);
    cr_assert_eq(ops->swiglu(w.kernels, &swiglu), GLN_OK);
    cr_assert_eq(ops->gemm(w.kernels, (gln_gemm_mode_t){GLN_GEMM_TN, 1, 1}, &sum, 1), GLN_OK);
    cr_expect(same(down, (double *)w.ddown[0] + 5 * f * hidden, f * hidden));
    free(hgu), free(act), free(down);
    world_close(&w);
}

Test(layer, refusals)
{
    world_options_t o = options_of(4, 2, 2);
    world_t w;
    world_open(&o, &w);
    gln_layer_options_t bad = w.options;
    gln_layer_workspace_t *workspace = NULL;
    gln_layer_t *layer = NULL;

    bad.hidden = 0;
    cr_expect_eq(gln_layer_workspace_open(&w.parallel, w.kernels, &bad, &workspace),
                 GLN_ERR_ARGUMENT);
    cr_expect_eq(gln_layer_open(&w.parallel, w.kernels, w.workspace, &bad, 0, &layer),
                 GLN_ERR_ARGUMENT);
    cr_expect_neq(strstr(gln_last_error(), "hidden"), NULL, "%s", gln_last_error());
    bad = w.options;
    bad.tokens = 0;
    cr_expect_eq(gln_layer_workspace_open(&w.parallel, w.kernels, &bad, &workspace),
                 GLN_ERR_ARGUMENT);
    bad = w.options;
    bad.router.k = 9; /* of 8 experts: the router refuses */
    cr_expect_eq(gln_layer_workspace_open(&w.parallel, w.kernels, &bad, &workspace),
                 GLN_ERR_ARGUMENT);
    bad = w.options;
    bad.router.k = 1; /* another size than the workspace's */
    cr_expect_eq(gln_layer_open(&w.parallel, w.kernels, w.workspace, &bad, 6, &layer),
                 GLN_ERR_ARGUMENT);
    cr_expect_neq(strstr(gln_last_error(), "layer 6: its options are not those of the workspace"),
                  NULL, "%s", gln_last_error());
    bad = w.options;
    bad.tokens = (int64_t)1 << 31;
    cr_expect_neq(gln_layer_workspace_open(&w.parallel, w.kernels, &bad, &workspace), GLN_OK);

    gln_parallel_t no_comm = w.parallel;
    no_comm.comm = NULL;
    cr_expect_eq(gln_layer_workspace_open(&no_comm, w.kernels, &w.options, &workspace),
                 GLN_ERR_ARGUMENT);
    cr_expect(workspace == NULL && layer == NULL, "outputs on success only");
    gln_layer_close(NULL);
    gln_layer_workspace_close(NULL);
    world_close(&w);
}
