/* A layer in bf16, of either backend, against the layer in double on the same rounded weights and
 * inputs: forward and every gradient within what bf16 loses; and the layer that the library offers,
 * against itself in f32. */
#include "moe/gleaner.h"
#include "test_layer_world.h"
#include "tests/support/bf16.h"
#include <stdio.h>

typedef struct narrow { /* the bf16 layer beside a world in double */
    world_t w;
    gln_kernels_t *kernels;
    gln_layer_options_t options;
    gln_layer_workspace_t *workspace;
    gln_layer_t *layer;
    void *x, *y, *dy, *dx, *gate, *gate_up, *down; /* bf16 */
    void *dgate[8], *dgate_up[8], *ddown[8];       /* f32 */
} narrow_t;

/* `values` become bf16, in double too, so that both layers see the same. */
static void *bf16_of(double *values, int64_t count)
{
    void *narrow = calloc((size_t)count + 1, 2);
    for (int64_t i = 0; i < count; ++i) {
        values[i] = nearest_bf16(values[i]);
        gln_store(narrow, i, GLN_BF16, values[i]);
    }
    return narrow;
}

static void narrow_open(gln_backend_t backend, int domains, int groups, int k, narrow_t *n)
{
    world_options_t o = {.domains = domains,
                         .groups = groups,
                         .experts = 8,
                         .tokens = 37,
                         .hidden = 24,
                         .expert_hidden = 19};
    o.router.k = k;
    o.router.capacity_factor = 0.8;
    o.router.fill = o.router.rectify = 1;
    o.router.balance_coef = 0.1;
    o.router.z_coef = 0.01;
    memset(n, 0, sizeof *n);
    world_open(&o, &n->w);
    const world_t *w = &n->w;
    n->options = w->options;
    cr_assert_eq(gln_kernels_open(backend, GLN_BF16, w->pool, &n->kernels), GLN_OK);
    cr_assert_eq(gln_layer_workspace_open(&w->parallel, n->kernels, &n->options, &n->workspace),
                 GLN_OK, "%s", gln_last_error());
    cr_assert_eq(gln_layer_open(&w->parallel, n->kernels, n->workspace, &n->options, 3, &n->layer),
                 GLN_OK, "%s", gln_last_error());
    n->x = bf16_of(w->x, w->x_count), n->dy = bf16_of(w->dy, w->x_count);
    n->gate = bf16_of(w->gate, w->gate_count);
    n->gate_up = bf16_of(w->gate_up, w->gate_up_count);
    n->down = bf16_of(w->down, w->down_count);
    n->y = calloc((size_t)w->x_count, 2);
    n->dx = calloc((size_t)w->x_count, 2);
    for (int d = 0; d < domains; ++d)
        n->dgate[d] = calloc((size_t)w->gate_count, sizeof(float));
    for (int g = 0; g < groups; ++g) {
        n->dgate_up[g] = calloc((size_t)w->gate_up_count, sizeof(float));
        n->ddown[g] = calloc((size_t)w->down_count, sizeof(float));
    }
}

static void narrow_close(narrow_t *n)
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

/* Both layers, forward and backward. Equal routes: the logits are sums of the same products. */
static void narrow_run(narrow_t *n)
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
static double distance(const void *found, gln_dtype_t dtype, const void *wanted, gln_dtype_t as,
                       int64_t count)
{
    double off = 0, all = 0;
    for (int64_t i = 0; i < count; ++i) {
        double want = gln_load(wanted, i, as), by = gln_load(found, i, dtype) - want;
        off += by * by;
        all += want * want;
    }
    return sqrt(off / all);
}

/* A rounding to bf16 loses 2^-9 at most and about 0.0016 on average; what comes here was rounded
 * three to eight times. */
enum { GRADIENTS = 3 };
static void distances_check(const narrow_t *n, const char *where)
{
    const world_t *w = &n->w;
    const double low = 5e-4, high = 1.2e-2;
    double y = distance(n->y, GLN_BF16, w->y, GLN_F64, w->x_count);
    double dx = distance(n->dx, GLN_BF16, w->dx, GLN_F64, w->x_count);
    cr_expect(y > low && y < high, "%s: y is off by %g", where, y);
    cr_expect(dx > low && dx < high, "%s: dx is off by %g", where, dx);
    for (int i = 0; i < 8; ++i) {
        const void *found[] = {n->dgate[i], n->dgate_up[i], n->ddown[i]};
        const void *wanted[] = {w->dgate[i], w->dgate_up[i], w->ddown[i]};
        const int64_t counts[GRADIENTS] = {w->gate_count, w->gate_up_count, w->down_count};
        const char *const names[GRADIENTS] = {"gate", "gate_up", "down"};
        for (int g = 0; g < GRADIENTS; ++g) {
            if (found[g] == NULL) continue;
            double off = distance(found[g], GLN_F32, wanted[g], GLN_F64, counts[g]);
            cr_expect(off > low && off < high, "%s: gradient %d of %s is off by %g", where, i,
                      names[g], off);
        }
    }
}

Test(layer_bf16, loses_what_bf16_loses)
{
    const int shapes[][3] = {{4, 1, 2}, {4, 2, 2}, {2, 1, 1}, {1, 1, 2}, {8, 1, 4}};
    const gln_backend_t backends[] = {GLN_BACKEND_REF, GLN_BACKEND_CPU};
    for (int b = 0; b < 2; ++b)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; ++s) {
            narrow_t n;
            char where[64];
            const int *shape = shapes[s];
            snprintf(where, sizeof where, "%s, D %d, R %d, K %d", b ? "cpu" : "ref", shape[0],
                     shape[1], shape[2]);
            narrow_open(backends[b], shape[0], shape[1], shape[2], &n);
            narrow_run(&n);
            distances_check(&n, where);
            gln_traffic_t traffic = gln_layer_traffic(n.layer);
            cr_expect_eq(traffic.rank_bytes, 2 * n.w.o.hidden * traffic.rank_rows);
            narrow_close(&n);
        }
}

/* Gradients add to what is there, dx too. */
Test(layer_bf16, gradients_accumulate)
{
    narrow_t once, twice;
    narrow_open(GLN_BACKEND_CPU, 2, 1, 2, &once);
    narrow_open(GLN_BACKEND_CPU, 2, 1, 2, &twice);
    narrow_run(&once);
    narrow_run(&twice);
    narrow_run(&twice);
    const world_t *w = &once.w;
    for (int64_t i = 0; i < w->gate_up_count; ++i)
        ((float *)once.dgate_up[0])[i] *= 2;
    for (int64_t i = 0; i < w->gate_count; ++i)
        ((float *)once.dgate[0])[i] *= 2;
    for (int64_t i = 0; i < w->x_count; ++i)
        gln_store(once.dx, i, GLN_BF16, 2 * gln_load(once.dx, i, GLN_BF16));
    cr_expect_lt(distance(twice.dgate_up[0], GLN_F32, once.dgate_up[0], GLN_F32, w->gate_up_count),
                 1e-6);
    cr_expect_lt(distance(twice.dgate[0], GLN_F32, once.dgate[0], GLN_F32, w->gate_count), 1e-6);
    cr_expect_lt(distance(twice.dx, GLN_BF16, once.dx, GLN_BF16, w->x_count), 5e-3);
    narrow_close(&twice);
    narrow_close(&once);
}

/* Row buffers are half as long as those of f32. */
Test(layer_bf16, takes_less_memory)
{
    narrow_t n;
    gln_kernels_t *wide;
    gln_layer_workspace_t *workspace = NULL;
    gln_layer_t *layer = NULL;
    narrow_open(GLN_BACKEND_CPU, 4, 1, 2, &n);
    cr_assert_eq(gln_kernels_open(GLN_BACKEND_CPU, GLN_F32, n.w.pool, &wide), GLN_OK);
    cr_assert_eq(gln_layer_workspace_open(&n.w.parallel, wide, &n.options, &workspace), GLN_OK);
    cr_expect_lt((double)gln_layer_workspace_bytes(n.workspace),
                 0.7 * (double)gln_layer_workspace_bytes(workspace));
    cr_expect_eq(gln_layer_open(&n.w.parallel, n.kernels, workspace, &n.options, 6, &layer),
                 GLN_ERR_ARGUMENT, "the workspace is one of f32");
    cr_expect(strstr(gln_last_error(), "not those of the workspace"), "%s", gln_last_error());
    n.options.wire = GLN_WIRE_F32;
    gln_layer_workspace_close(workspace);
    workspace = NULL;
    cr_expect_eq(gln_layer_workspace_open(&n.w.parallel, n.kernels, &n.options, &workspace),
                 GLN_ERR_ARGUMENT, "rows of bf16 do not travel as f32");
    cr_expect_null(workspace);
    gln_kernels_close(wide);
    narrow_close(&n);
}

/* ---- gleaner.h --------------------------------------------------------------------------- */
enum { T = 48, H = 32, F = 40, E = 4, DOMAINS = 2 };

static gln_moe_t *library_open(gln_dtype_t dtype)
{
    const gln_moe_options_t o = {.tokens = T,
                                 .hidden = H,
                                 .expert_hidden = F,
                                 .experts = E,
                                 .domains = DOMAINS,
                                 .threads = 2,
                                 .backend = GLN_BACKEND_CPU,
                                 .dtype = dtype,
                                 .seed = 3,
                                 .router = {.k = 2, .fill = 1, .rectify = 1}};
    gln_moe_t *moe = NULL;
    cr_assert_eq(gln_moe_open(&o, NULL, &moe), GLN_OK, "%s", gln_last_error());
    return moe;
}

Test(layer_bf16, the_library_keeps_weights_in_bf16_and_gradients_in_f32)
{
    static const char *const names[] = {"gate", "gate_up", "down"};
    enum { COUNT = DOMAINS * T * H };
    static float x[COUNT], dy[COUNT], y[COUNT], dx[COUNT];
    static uint16_t x16[COUNT], dy16[COUNT], y16[COUNT], dx16[COUNT];
    gln_moe_t *wide = library_open(GLN_F32), *narrow = library_open(GLN_BF16);
    for (int i = 0; i < COUNT; ++i) {
        uint64_t stream = gln_rng_stream(GLN_RNG_TEST, 1, 0);
        x[i] = (float)nearest_bf16(10 * gln_rng_normal(7, stream, (uint64_t)i));
        dy[i] = (float)nearest_bf16(gln_rng_normal(8, stream, (uint64_t)i));
        gln_store(x16, i, GLN_BF16, (double)x[i]);
        gln_store(dy16, i, GLN_BF16, (double)dy[i]);
    }
    for (int i = 0; i < 3; ++i) { /* the same weights: f32 takes the rounded ones */
        gln_tensor_t a, b, gradient;
        cr_assert_eq(gln_moe_parameter(wide, names[i], &a, NULL), GLN_OK);
        cr_assert_eq(gln_moe_parameter(narrow, names[i], &b, &gradient), GLN_OK);
        cr_assert(b.dtype == GLN_BF16 && gradient.dtype == GLN_F32);
        int64_t count = a.dims[0] * a.dims[1] * (a.dims_count == 3 ? a.dims[2] : 1);
        for (int64_t j = 0; j < count; ++j) {
            double value = gln_load(a.data, j, GLN_F32);
            cr_assert_float_eq(gln_load(b.data, j, GLN_BF16), value, 4e-3 * fabs(value));
            gln_store(a.data, j, GLN_F32, gln_load(b.data, j, GLN_BF16));
        }
    }
    cr_assert_eq(gln_moe_forward(wide, x, y), GLN_OK);
    cr_assert_eq(gln_moe_forward(narrow, x16, y16), GLN_OK, "%s", gln_last_error());
    cr_assert_eq(gln_moe_backward(wide, dy, dx), GLN_OK);
    cr_assert_eq(gln_moe_backward(narrow, dy16, dx16), GLN_OK, "%s", gln_last_error());
    cr_expect_lt(distance(y16, GLN_BF16, y, GLN_F32, COUNT), 1.2e-2);
    cr_expect_lt(distance(dx16, GLN_BF16, dx, GLN_F32, COUNT), 1.2e-2);
    for (int i = 0; i < 3; ++i) {
        gln_tensor_t weight, a, b;
        cr_assert_eq(gln_moe_parameter(wide, names[i], &weight, &a), GLN_OK);
        cr_assert_eq(gln_moe_parameter(narrow, names[i], &weight, &b), GLN_OK);
        int64_t count = a.dims[0] * a.dims[1] * (a.dims_count == 3 ? a.dims[2] : 1);
        double off = distance(b.data, GLN_F32, a.data, GLN_F32, count);
        cr_expect(off > 0 && off < 1.2e-2, "gradient of %s is off by %g", names[i], off);
    }
    gln_moe_close(narrow);
    gln_moe_close(wide);
}
