/* A bf16 wire under an f32 layer: forward against an oracle in double that rounds where the wire
 * does, both passes against the layer in double without rounding, within what bf16 loses; bytes,
 * memory and refusals. */
#include "test_layer_world.h"
#include "tests/support/bf16.h"

typedef struct wired { /* the f32 layer beside a world in double */
    world_t w;
    gln_kernels_t *kernels;
    gln_layer_options_t options;
    gln_layer_workspace_t *workspace;
    gln_layer_t *layer;
    float *x, *y, *dy, *dx, *gate, *gate_up, *down;
    void *dgate[8], *dgate_up[8], *ddown[8];
} wired_t;

/* `values` become floats, in double too, so that both layers see the same. */
static float *floats_of(double *values, int64_t count)
{
    float *floats = malloc((size_t)(count + 1) * sizeof *floats);
    for (int64_t i = 0; i < count; ++i)
        values[i] = (double)(floats[i] = (float)values[i]);
    return floats;
}

static void wired_open(int domains, int groups, int k, gln_wire_t wire, wired_t *n)
{
    world_options_t o = {.domains = domains,
                         .groups = groups,
                         .experts = 8,
                         .tokens = 21,
                         .hidden = 19,
                         .expert_hidden = 12};
    o.router.k = k;
    o.router.capacity_factor = 0.8;
    o.router.fill = o.router.rectify = 1;
    memset(n, 0, sizeof *n);
    world_open(&o, &n->w);
    const world_t *w = &n->w;
    n->options = w->options;
    n->options.wire = wire;
    cr_assert_eq(gln_kernels_open(GLN_BACKEND_REF, GLN_F32, w->pool, &n->kernels), GLN_OK);
    cr_assert_eq(gln_layer_workspace_open(&w->parallel, n->kernels, &n->options, &n->workspace),
                 GLN_OK, "%s", gln_last_error());
    cr_assert_eq(gln_layer_open(&w->parallel, n->kernels, n->workspace, &n->options, 3, &n->layer),
                 GLN_OK, "%s", gln_last_error());
    n->x = floats_of(w->x, w->x_count), n->dy = floats_of(w->dy, w->x_count);
    n->gate = floats_of(w->gate, w->gate_count);
    n->gate_up = floats_of(w->gate_up, w->gate_up_count);
    n->down = floats_of(w->down, w->down_count);
    n->y = calloc((size_t)w->x_count, sizeof *n->y);
    n->dx = calloc((size_t)w->x_count, sizeof *n->dx);
    for (int d = 0; d < domains; ++d)
        n->dgate[d] = calloc((size_t)w->gate_count, sizeof(float));
    for (int g = 0; g < groups; ++g) {
        n->dgate_up[g] = calloc((size_t)w->gate_up_count, sizeof(float));
        n->ddown[g] = calloc((size_t)w->down_count, sizeof(float));
    }
}

static void wired_close(wired_t *n)
{
    gln_layer_close(n->layer);
    gln_layer_workspace_close(n->workspace);
    gln_kernels_close(n->kernels);
    free(n->x), free(n->y), free(n->dy), free(n->dx);
    free(n->gate), free(n->gate_up), free(n->down);
    for (int i = 0; i < 8; ++i)
        free(n->dgate[i]), free(n->dgate_up[i]), free(n->ddown[i]);
    world_close(&n->w);
}

/* Both layers, forward and backward. */
static void wired_run(wired_t *n)
{
    gln_layer_weights_t weights = {n->gate, n->gate_up, n->down};
    gln_layer_gradients_t gradients = {n->dgate, n->dgate_up, n->ddown};
    gln_layer_step_t step = {.seed = 11, .step = 5, .keep = 1};
    world_forward(&n->w, 1);
    world_backward(&n->w, 1.0);
    cr_assert_eq(gln_layer_forward(n->layer, &weights, &step, n->x, n->y), GLN_OK, "%s",
                 gln_last_error());
    cr_assert_eq(gln_layer_backward(n->layer, &weights, n->dy, 1.0, n->dx, &gradients), GLN_OK,
                 "%s", gln_last_error());
    for (int d = 0; d < n->w.o.domains; ++d) {
        const gln_plan_t *a = gln_layer_plan(n->w.layer, d), *b = gln_layer_plan(n->layer, d);
        cr_assert_arr_eq(a->expert_offset, b->expert_offset, 9 * sizeof *a->expert_offset);
        cr_assert_arr_eq(a->route_token, b->route_token,
                         (size_t)a->expert_offset[8] * sizeof *a->route_token);
    }
}

/* |found - wanted| / |wanted| over all elements */
static double distance(const float *found, const double *wanted, int64_t count)
{
    double off = 0, all = 0;
    for (int64_t i = 0; i < count; ++i) {
        off += ((double)found[i] - wanted[i]) * ((double)found[i] - wanted[i]);
        all += wanted[i] * wanted[i];
    }
    return sqrt(off / all);
}

/* Distances of everything that the passes give, each between low and high. */
static void distances_check(const wired_t *n, double low, double high)
{
    const world_t *w = &n->w;
    double found[] = {distance(n->y, w->y, w->x_count), distance(n->dx, w->dx, w->x_count),
                      distance(n->dgate[0], w->dgate[0], w->gate_count),
                      distance(n->dgate_up[0], w->dgate_up[0], w->gate_up_count),
                      distance(n->ddown[0], w->ddown[0], w->down_count)};
    const char *names[] = {"y", "dx", "gate", "gate_up", "down"};
    for (int i = 0; i < 5; ++i)
        cr_expect(found[i] > low && found[i] < high, "%s is off by %g, expected %g to %g", names[i],
                  found[i], low, high);
}

/* A rounding to bf16 loses 2^-9 at most and about 0.0016 on average; rows are rounded twice on each
 * way, and once more at each of log2 G nodes. */
Test(layer_wire, bf16_loses_what_bf16_loses)
{
    const int shapes[][3] = {{4, 1, 2}, {4, 2, 2}, {2, 1, 1}, {1, 1, 2}, {8, 1, 4}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; ++s) {
        wired_t n;
        wired_open(shapes[s][0], shapes[s][1], shapes[s][2], GLN_WIRE_BF16, &n);
        wired_run(&n);
        distances_check(&n, 5e-4, 8e-3);
        wired_close(&n);
        wired_open(shapes[s][0], shapes[s][1], shapes[s][2], GLN_WIRE_AUTO, &n);
        wired_run(&n);
        distances_check(&n, 0, 5e-6);
        wired_close(&n);
    }
}

/* Sum over destination domains [first, first + width), rounded at every node. @return any rows? */
static int tree(const double *part, const int *has, int group, int first, int width, double *sum)
{
    double lower = 0, upper = 0;
    if (first >= group) return 0;
    if (width == 1) {
        *sum = nearest_bf16(part[first]);
        return has[first];
    }
    int left = tree(part, has, group, first, width / 2, &lower);
    int right = tree(part, has, group, first + width / 2, width / 2, &upper);
    *sum = left && right ? nearest_bf16(lower + upper) : left ? lower : upper;
    return left || right;
}

/* y of one token, as the wire makes it. */
static void oracle_token(const world_t *w, int d, int64_t t, double *y)
{
    const world_options_t *o = &w->o;
    const gln_plan_t *plan = gln_layer_plan(w->layer, d);
    const double *x = w->x + (d * o->tokens + t) * o->hidden;
    int group = o->domains / o->groups, per_domain = o->experts / group, has[8] = {0};
    double logits[8] = {0}, p[8], times[8], lse, sent[64], part[8][64] = {{0}}, column[8];
    for (int64_t h = 0; h < o->hidden; ++h) {
        for (int e = 0; e < o->experts; ++e)
            logits[e] += x[h] * w->gate[h * o->experts + e];
        sent[h] = nearest_bf16(x[h]);
    }
    oracle_softmax(logits, o->experts, p, &lse);
    oracle_multiplicity(plan, t, times);
    for (int e = 0; e < o->experts; ++e) {
        if (times[e] == 0) continue;
        double weight = times[e] * p[e] / ((double *)plan->token_scale)[t];
        oracle_expert(w, e, sent, weight, part[e / per_domain]);
        has[e / per_domain] = 1;
    }
    for (int64_t h = 0; h < o->hidden; ++h) {
        for (int j = 0; j < group; ++j)
            column[j] = part[j][h];
        if (!tree(column, has, group, 0, 8, &y[h])) y[h] = 0;
    }
}

/* f32 beside double may fall on the other side of a tie, but rarely. */
Test(layer_wire, forward_rounds_where_the_header_says)
{
    const int shapes[][3] = {{4, 1, 2}, {4, 2, 2}, {1, 1, 2}, {8, 1, 4}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; ++s) {
        wired_t n;
        int64_t equal = 0;
        wired_open(shapes[s][0], shapes[s][1], shapes[s][2], GLN_WIRE_BF16, &n);
        wired_run(&n);
        const world_options_t *o = &n.w.o;
        for (int64_t t = 0; t < o->domains * o->tokens; ++t) {
            double y[64];
            oracle_token(&n.w, (int)(t / o->tokens), t % o->tokens, y);
            for (int64_t h = 0; h < o->hidden; ++h) {
                double found = (double)n.y[t * o->hidden + h];
                cr_assert_eq(found, nearest_bf16(found), "y is a bf16");
                equal += found == y[h];
            }
        }
        double share = (double)equal / (double)n.w.x_count;
        cr_expect_gt(share, 0.995, "D %d: %g of y is the oracle's", o->domains, share);
        wired_close(&n);
    }
}

Test(layer_wire, half_the_bytes)
{
    wired_t narrow, wide;
    wired_open(4, 1, 2, GLN_WIRE_BF16, &narrow);
    wired_open(4, 1, 2, GLN_WIRE_F32, &wide);
    wired_run(&narrow);
    wired_run(&wide);
    gln_traffic_t a = gln_layer_traffic(narrow.layer), b = gln_layer_traffic(wide.layer);
    cr_expect(a.rank_rows > 0 && a.rank_rows == b.rank_rows);
    cr_expect_eq(2 * a.rank_bytes, b.rank_bytes);
    wired_close(&narrow);
    wired_close(&wide);
}

Test(layer_wire, refusals)
{
    wired_t n;
    gln_layer_workspace_t *workspace = NULL;
    gln_layer_t *layer = NULL;
    wired_open(2, 1, 1, GLN_WIRE_BF16, &n);
    gln_layer_options_t o = n.options;
    const char *text = "expected auto, the layer's own type, or bf16 with f32";
    for (int wire = GLN_WIRE_F32; wire <= GLN_WIRE_BF16 + 1; ++wire) { /* the world is in f64 */
        o.wire = (gln_wire_t)wire;
        cr_expect_eq(gln_layer_workspace_open(&n.w.parallel, n.w.kernels, &o, &workspace),
                     GLN_ERR_ARGUMENT);
        cr_expect(strstr(gln_last_error(), text), "%s", gln_last_error());
    }
    cr_expect_eq(gln_layer_workspace_open(&n.w.parallel, n.kernels, &o, &workspace),
                 GLN_ERR_ARGUMENT, "no such wire");
    o.wire = GLN_WIRE_F32; /* another one than the workspace's */
    cr_expect_eq(gln_layer_open(&n.w.parallel, n.kernels, n.workspace, &o, 6, &layer),
                 GLN_ERR_ARGUMENT);
    cr_expect(strstr(gln_last_error(), "not those of the workspace"), "%s", gln_last_error());
    cr_expect(workspace == NULL && layer == NULL);
    wired_close(&n);
}
