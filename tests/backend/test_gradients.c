/* The backward of every operation is the gradient of its forward: on the reference in F64 it agrees
 * with central finite differences of L = sum(output * weight), weight random. Linear operations are
 * checked as adjoints: <A x, y> = <x, A^T y>. */
#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "kernels/kernels.h"
#include "tests/support/fill.h"
#include "tests/support/gradient.h"
#include "tests/support/record.h"

static gln_pool_t *pool;
static gln_kernels_t *k;
static gln_record_t record; /* holds the buffers of the test */

static void open_ref(void)
{
    cr_assert_eq(gln_pool_open(1, &pool), GLN_OK);
    cr_assert_eq(gln_kernels_open(GLN_BACKEND_REF, GLN_F64, pool, &k), GLN_OK);
    gln_record_open(17, &record);
}

static void close_ref(void)
{
    gln_record_close(&record);
    gln_kernels_close(k);
    gln_pool_close(pool);
}

TestSuite(gradients, .init = open_ref, .fini = close_ref);

/* `count` normal numbers. */
static double *normal(int64_t count)
{
    return gln_record_in(&record, "", GLN_F64, count, 1);
}

static double *zeros(int64_t count)
{
    return memset(normal(count), 0, (size_t)count * sizeof(double));
}

static double dot(const double *a, const double *b, int64_t count)
{
    double sum = 0;

    for (int64_t i = 0; i < count; ++i)
        sum += a[i] * b[i];
    return sum;
}

#define CHECK_GRADIENT(f, ctx, x, gradient, count)                                                 \
    do {                                                                                           \
        double error = gln_gradient_error(f, ctx, x, gradient, count);                             \
        cr_expect(error < GLN_GRADIENT_TOLERANCE, "gradient of %s: relative error %g", #x, error); \
    } while (0)

#define CHECK_ADJOINT(left, right, count) \
    cr_expect(fabs((left) - (right)) < 1e-12 * (double)(count), "%.17g is not %.17g", left, right)

/* ---- matrix products -------------------------------------------------------------------- */
typedef struct product {
    gln_gemm_t g;
    double *a, *b, *c, *weight;
} product_t;

/* With strides, for NN: lda = K + 2 and so on. */
static double product_loss(void *ctx)
{
    product_t *p = ctx;
    gln_gemm_mode_t mode = {.form = GLN_GEMM_NN};

    cr_assert_eq(k->ops->gemm(k, mode, &p->g, 1), GLN_OK);
    return dot(p->c, p->weight, p->g.m * p->g.n);
}

Test(gradients, gemm)
{
    enum { M = 7, N = 5, K = 11 };
    product_t p = {.a = normal(M * K), .b = normal(K * N), .c = normal(M * N)};
    double *da = normal(M * K), *db = zeros(K * N);
    gln_gemm_t input, weights;
    gln_gemm_mode_t nt = {.form = GLN_GEMM_NT};
    gln_gemm_mode_t tn = {.form = GLN_GEMM_TN, .accumulate = 1, .c_acc = 1};

    p.weight = normal(M * N);
    p.g = (gln_gemm_t){
        .m = M, .n = N, .k = K, .a = p.a, .lda = K, .b = p.b, .ldb = N, .c = p.c, .ldc = N};
    input = (gln_gemm_t){
        .m = M, .n = K, .k = N, .a = p.weight, .lda = N, .b = p.b, .ldb = N, .c = da, .ldc = K};
    weights = (gln_gemm_t){
        .m = K, .n = N, .k = M, .a = p.a, .lda = K, .b = p.weight, .ldb = N, .c = db, .ldc = N};
    cr_assert_eq(k->ops->gemm(k, nt, &input, 1), GLN_OK);
    cr_assert_eq(k->ops->gemm(k, tn, &weights, 1), GLN_OK);
    CHECK_GRADIENT(product_loss, &p, p.a, da, M * K);
    CHECK_GRADIENT(product_loss, &p, p.b, db, K * N);
}

/* All forms against the textbook sum, wider than a row accumulator of the reference, two items. */
Test(gradients, gemm_is_the_textbook_sum)
{
    enum { M = 5, N = 300, K = 19, LDA = 25, LDB = 310, LDC = 305, SIDE = 310 };

    for (int variant = 0; variant < 6; ++variant) {
        gln_gemm_mode_t mode = {(gln_gemm_form_t)(variant % 3), variant / 3, 0};
        int nt = mode.form == GLN_GEMM_NT, tn = mode.form == GLN_GEMM_TN;
        double *a = normal(LDA * SIDE), *b = normal(LDB * SIDE), *c = normal(M * LDC);
        double *before = normal(M * LDC);
        gln_gemm_t items[2] = {
            {.m = 0, .n = N, .k = K, .a = a, .lda = LDA, .b = b, .ldb = LDB, .c = c, .ldc = LDC},
            {.m = M, .n = N, .k = K, .a = a, .lda = LDA, .b = b, .ldb = LDB, .c = c, .ldc = LDC}};

        memcpy(before, c, M * LDC * sizeof *c);
        cr_assert_eq(k->ops->gemm(k, mode, items, 2), GLN_OK);
        for (int i = 0; i < M; ++i)
            for (int j = 0; j < LDC; ++j) {
                double sum = mode.accumulate || j >= N ? before[i * LDC + j] : 0;

                for (int e = 0; j < N && e < K; ++e)
                    sum += (tn ? a[e * LDA + i] : a[i * LDA + e]) *
                           (nt ? b[j * LDB + e] : b[e * LDB + j]);
                cr_assert_float_eq(c[i * LDC + j], sum, 1e-12, "variant %d, C[%d, %d]", variant, i,
                                   j);
            }
    }
}

/* ---- row-wise operations ----------------------------------------------------------------- */
typedef struct norm {
    gln_rmsnorm_t args;
    const double *weight;
} norm_t;

static double norm_loss(void *ctx)
{
    norm_t *norm = ctx;

    cr_assert_eq(k->ops->rmsnorm(k, &norm->args), GLN_OK);
    return dot(norm->args.y, norm->weight, norm->args.n * norm->args.h);
}

Test(gradients, rmsnorm)
{
    enum { N = 6, H = 300 }; /* wider than a row accumulator of the reference */
    double *x = normal(N * H), *w = normal(H), *y = normal(N * H), *rstd = normal(N);
    double *weight = normal(N * H), *dx = normal(N * H), *dw = normal(H);
    norm_t norm = {{.n = N, .h = H, .x = x, .w = w, .eps = 1e-3, .y = y, .rstd = rstd}, weight};
    gln_rmsnorm_backward_t args = {
        .n = N, .h = H, .dy = weight, .x = x, .w = w, .rstd = rstd, .dx = dx, .dw = dw};
    double *dx_before = normal(N * H), *dw_before = normal(H);

    memcpy(dx_before, dx, N * H * sizeof *dx); /* both accumulate */
    memcpy(dw_before, dw, H * sizeof *dw);
    norm_loss(&norm);
    cr_assert_eq(k->ops->rmsnorm_backward(k, &args), GLN_OK);
    for (int i = 0; i < N * H; ++i)
        dx[i] -= dx_before[i];
    for (int i = 0; i < H; ++i)
        dw[i] -= dw_before[i];
    CHECK_GRADIENT(norm_loss, &norm, x, dx, N * H);
    CHECK_GRADIENT(norm_loss, &norm, w, dw, H);
}

Test(gradients, rope_inverse_is_adjoint)
{
    enum { N = 10, S = 5, HEADS = 3, DH = 8, LD = HEADS * DH + 3 };
    double *x = normal(N * LD), *y = normal(N * LD), *ax = normal(N * LD), *aty = normal(N * LD);
    gln_rope_t args = {.n = N, .s = S, .heads = HEADS, .dh = DH, .x = ax, .ldx = LD, .theta = 100};

    memcpy(ax, x, N * LD * sizeof *x);
    memcpy(aty, y, N * LD * sizeof *y);
    cr_assert_eq(k->ops->rope(k, &args), GLN_OK);
    cr_expect_neq(memcmp(ax, x, N * LD * sizeof *x), 0, "nothing was rotated");
    CHECK_ADJOINT(dot(ax, ax, N * LD), dot(x, x, N * LD), N * LD); /* a rotation */
    args.x = aty;
    args.inverse = 1;
    cr_assert_eq(k->ops->rope(k, &args), GLN_OK);
    CHECK_ADJOINT(dot(ax, y, N * LD), dot(x, aty, N * LD), N * LD);
    args.x = ax; /* and back */
    cr_assert_eq(k->ops->rope(k, &args), GLN_OK);
    for (int i = 0; i < N * LD; ++i)
        cr_expect_float_eq(ax[i], x[i], 1e-13);
}

/* Row n at position n mod S; element i turns with i + dh/2 by p theta^(-2i/dh). */
Test(gradients, rope_angles)
{
    enum { N = 7, S = 4, DH = 6 };
    double *x = zeros(N * DH);
    gln_rope_t args = {.n = N, .s = S, .heads = 1, .dh = DH, .x = x, .ldx = DH, .theta = 50};

    for (int n = 0; n < N; ++n)
        for (int i = 0; i < DH / 2; ++i)
            x[n * DH + i] = 1;
    cr_assert_eq(k->ops->rope(k, &args), GLN_OK);
    for (int n = 0; n < N; ++n)
        for (int i = 0; i < DH / 2; ++i) {
            double angle = n % S * pow(50, -i / 3.0);

            cr_expect_float_eq(x[n * DH + i], cos(angle), 1e-14);
            cr_expect_float_eq(x[n * DH + i + DH / 2], sin(angle), 1e-14);
        }
}

typedef struct attention {
    gln_attention_t args;
    const double *weight;
} attention_t;

static double attention_loss(void *ctx)
{
    attention_t *attention = ctx;
    const gln_attention_t *args = &attention->args;

    cr_assert_eq(k->ops->attention(k, args), GLN_OK);
    return dot(args->out, attention->weight, args->sequences * args->s * args->heads * args->dh);
}

/* Gradients of q, k and v lie in one array like q, k and v do. */
static void check_attention(int64_t sequences, int64_t s, int heads, int kv_heads, int dh)
{
    int64_t rows = sequences * s, width = (int64_t)(heads + 2 * kv_heads) * dh, ld = width + 3;
    double *qkv = normal(rows * ld), *dqkv = zeros(rows * ld), *out = normal(rows * heads * dh);
    double *weight = normal(rows * heads * dh);
    attention_t attention = {{.sequences = sequences,
                              .s = s,
                              .heads = heads,
                              .kv_heads = kv_heads,
                              .dh = dh,
                              .q = qkv,
                              .k = qkv + heads * dh,
                              .v = qkv + (heads + kv_heads) * dh,
                              .ldqkv = ld,
                              .out = out,
                              .lse = normal(rows * heads)},
                             weight};
    gln_attention_backward_t args = {.forward = attention.args,
                                     .dout = weight,
                                     .dq = dqkv,
                                     .dk = dqkv + heads * dh,
                                     .dv = dqkv + (heads + kv_heads) * dh};

    attention_loss(&attention);
    cr_assert_eq(k->ops->attention_backward(k, &args), GLN_OK);
    CHECK_GRADIENT(attention_loss, &attention, qkv, dqkv, rows * ld); /* 0 between the rows */
}

Test(gradients, attention)
{
    check_attention(2, 5, 4, 2, 6);
    check_attention(1, 9, 6, 2, 3);
    check_attention(3, 4, 2, 2, 5);
    check_attention(1, 1, 3, 1, 4);
    check_attention(1, 2, 1, 1, 300); /* wider than a row accumulator of the reference */
}

/* Against the formula written out with an S x S matrix. */
Test(gradients, attention_is_causal_softmax)
{
    enum { S = 6, HEADS = 4, KV = 2, DH = 3, LD = (HEADS + 2 * KV) * DH };
    double *qkv = normal(S * LD), *out = normal(S * HEADS * DH), *lse = normal(S * HEADS);
    gln_attention_t args = {.sequences = 1,
                            .s = S,
                            .heads = HEADS,
                            .kv_heads = KV,
                            .dh = DH,
                            .q = qkv,
                            .k = qkv + HEADS * DH,
                            .v = qkv + (HEADS + KV) * DH,
                            .ldqkv = LD,
                            .out = out,
                            .lse = lse};

    cr_assert_eq(k->ops->attention(k, &args), GLN_OK);
    for (int i = 0; i < S; ++i)
        for (int head = 0; head < HEADS; ++head) {
            double weights[S], sum = 0, mix[DH] = {0};

            for (int j = 0; j <= i; ++j) {
                const double *key = qkv + j * LD + (HEADS + head / 2) * DH;

                weights[j] = exp(dot(qkv + i * LD + head * DH, key, DH) / sqrt(DH));
                sum += weights[j];
            }
            for (int j = 0; j <= i; ++j)
                for (int e = 0; e < DH; ++e)
                    mix[e] += weights[j] / sum * qkv[j * LD + (HEADS + KV + head / 2) * DH + e];
            for (int e = 0; e < DH; ++e)
                cr_expect_float_eq(out[(i * HEADS + head) * DH + e], mix[e], 1e-13);
            cr_expect_float_eq(lse[i * HEADS + head], log(sum), 1e-13);
        }
}

/* L = sum over rows of w[n] <act[n], weight[n]>: a row of the expert, weighted by its route. */
typedef struct gated {
    gln_swiglu_t args;
    const double *w, *weight;
} gated_t;

static double gated_loss(void *ctx)
{
    gated_t *gated = ctx;
    int64_t f = gated->args.f;
    double loss = 0;

    cr_assert_eq(k->ops->swiglu(k, &gated->args), GLN_OK);
    for (int64_t n = 0; n < gated->args.n; ++n)
        loss += (gated->w != NULL ? gated->w[n] : 1) *
                dot((double *)gated->args.act + n * f, gated->weight + n * f, f);
    return loss;
}

static void check_swiglu(int weighted)
{
    enum { N = 7, F = 9 };
    double *hgu = normal(N * 2 * F), *act = normal(N * F), *weight = normal(N * F);
    double *w = weighted ? normal(N) : NULL, *dhgu = normal(N * 2 * F), *act_w = normal(N * F);
    double *a = weighted ? normal(N) : NULL;
    gated_t gated = {{.n = N, .f = F, .hgu = hgu, .act = act}, w, weight};
    gln_swiglu_backward_t args = {
        .n = N, .f = F, .dact = weight, .hgu = hgu, .w = w, .dhgu = dhgu, .act_w = act_w, .a = a};

    gated_loss(&gated);
    cr_assert_eq(k->ops->swiglu_backward(k, &args), GLN_OK);
    for (int i = 0; i < N * F; ++i)
        cr_expect_float_eq(act_w[i], (weighted ? w[i / F] : 1) * act[i], 1e-13);
    CHECK_GRADIENT(gated_loss, &gated, hgu, dhgu, N * 2 * F);
    if (weighted) CHECK_GRADIENT(gated_loss, &gated, w, a, N);
}

Test(gradients, swiglu)
{
    check_swiglu(0);
}

Test(gradients, swiglu_with_route_weights)
{
    check_swiglu(1);
}

/* ---- moving rows ------------------------------------------------------------------------- */

/* Routes j carry token token[j] with weight[j]: gather by token and weight, against combine. */
Test(gradients, combine_is_adjoint_of_gather)
{
    enum { TOKENS = 9, ROUTES = 20, H = 6 };
    double *x = normal(TOKENS * H), *y = normal(ROUTES * H), *weight = normal(ROUTES);
    double *ax = normal(ROUTES * H), *aty = normal(TOKENS * H);
    int32_t *token = gln_record_ints(&record, "", ROUTES, 0, TOKENS - 1); /* the last has none */
    int32_t offset[TOKENS + 1], index[ROUTES], end = 0;
    gln_gather_t gather = {.n = ROUTES, .h = H, .x = x, .index = token, .out = ax};
    gln_combine_t combine = {.n = TOKENS,
                             .h = H,
                             .rows = y,
                             .offset = offset,
                             .index = index,
                             .weight = weight,
                             .out = aty};
    double sorted[ROUTES];

    for (int t = 0; t < TOKENS; ++t) {
        offset[t] = end;
        for (int j = 0; j < ROUTES; ++j)
            if (token[j] == t) {
                sorted[end] = weight[j];
                index[end++] = j;
            }
    }
    offset[TOKENS] = end;
    combine.weight = sorted;
    cr_assert_eq(k->ops->gather(k, &gather), GLN_OK);
    cr_assert_eq(k->ops->combine(k, &combine), GLN_OK);
    for (int j = 0; j < ROUTES * H; ++j)
        ax[j] *= weight[j / H];
    CHECK_ADJOINT(dot(ax, y, ROUTES * H), dot(x, aty, TOKENS * H), ROUTES * H);
    for (int h = 0; h < H; ++h)
        cr_expect_eq(aty[(TOKENS - 1) * H + h], 0);

    combine.weight = NULL; /* 1 */
    cr_assert_eq(k->ops->gather(k, &gather), GLN_OK);
    cr_assert_eq(k->ops->combine(k, &combine), GLN_OK);
    CHECK_ADJOINT(dot(ax, y, ROUTES * H), dot(x, aty, TOKENS * H), ROUTES * H);
}

Test(gradients, gather_of_no_row_is_zeros)
{
    double x[4] = {1, 2, 3, 4}, out[6] = {9, 9, 9, 9, 9, 9};
    int32_t index[3] = {1, -1, 0};
    gln_gather_t args = {.n = 3, .h = 2, .x = x, .index = index, .out = out};
    static const double want[6] = {3, 4, 0, 0, 1, 2};

    cr_assert_eq(k->ops->gather(k, &args), GLN_OK);
    cr_expect_arr_eq(out, want, sizeof want);
}

Test(gradients, embed)
{
    enum { N = 12, H = 5, V = 6 };
    double *table = normal(V * H), *dout = normal(N * H), *out = normal(N * H);
    double *dtable = normal(V * H), *before = normal(V * H);
    int32_t *ids = gln_record_ints(&record, "", N, 0, V);
    gln_embed_t args = {.n = N, .h = H, .v = V, .table = table, .ids = ids, .out = out};
    gln_embed_backward_t backward = {
        .n = N, .h = H, .v = V, .dout = dout, .ids = ids, .dtable = dtable};

    memcpy(before, dtable, V * H * sizeof *before);
    cr_assert_eq(k->ops->embed(k, &args), GLN_OK);
    cr_assert_eq(k->ops->embed_backward(k, &backward), GLN_OK);
    for (int n = 0; n < N; ++n)
        cr_expect_arr_eq(out + n * H, table + ids[n] * H, H * sizeof *out);
    for (int i = 0; i < V * H; ++i)
        dtable[i] -= before[i];
    CHECK_ADJOINT(dot(out, dout, N * H), dot(table, dtable, V * H), N * H);
}

/* ---- loss, optimizer --------------------------------------------------------------------- */
typedef struct entropy {
    gln_cross_entropy_t args;
} entropy_t;

static double entropy_loss(void *ctx)
{
    gln_cross_entropy_t args = ((entropy_t *)ctx)->args;
    double sum = 0;

    args.dlogits = NULL;
    cr_assert_eq(k->ops->cross_entropy(k, &args), GLN_OK);
    for (int64_t n = 0; n < args.n; ++n)
        sum += ((double *)args.loss)[n];
    return args.scale * sum;
}

Test(gradients, cross_entropy)
{
    enum { N = 8, V = 13 };
    double *logits = normal(N * V), *dlogits = normal(N * V), *loss = normal(N);
    int32_t *target = gln_record_ints(&record, "", N, 0, V);
    entropy_t entropy = {{.n = N,
                          .v = V,
                          .logits = logits,
                          .target = target,
                          .scale = 0.3,
                          .loss = loss,
                          .dlogits = dlogits}};

    target[2] = target[5] = -1;
    cr_assert_eq(k->ops->cross_entropy(k, &entropy.args), GLN_OK);
    CHECK_GRADIENT(entropy_loss, &entropy, logits, dlogits, N * V);
    entropy_loss(&entropy); /* the losses of the logits as they are */
    cr_expect_eq(loss[2], 0);
    for (int v = 0; v < V; ++v)
        cr_expect_eq(dlogits[5 * V + v], 0);
    for (int n = 0; n < N; ++n) { /* the formula itself */
        double sum = 0;

        for (int v = 0; v < V; ++v)
            sum += exp(logits[n * V + v]);
        if (target[n] >= 0)
            cr_expect_float_eq(loss[n], log(sum) - logits[n * V + target[n]], 1e-13);
    }
}

/* Logits of any size: no overflow, and the loss stays exact. */
Test(gradients, cross_entropy_of_large_logits)
{
    double logits[3] = {5000, 4000, 5000}, loss, dlogits[3];
    int32_t target = 1;
    gln_cross_entropy_t args = {.n = 1,
                                .v = 3,
                                .logits = logits,
                                .target = &target,
                                .scale = 1,
                                .loss = &loss,
                                .dlogits = dlogits};

    cr_assert_eq(k->ops->cross_entropy(k, &args), GLN_OK);
    cr_expect_float_eq(loss, 1000 + log(2), 1e-9);
    cr_expect_float_eq(dlogits[0], 0.5, 1e-12);
    cr_expect_float_eq(dlogits[1], -1, 1e-12);
}

/* Six steps of one parameter at a time, as the paper writes algorithm 2, with the decay coupled to
 * the learning rate; moments are sums over all past gradients here, not recurrences. */
Test(gradients, adamw)
{
    enum { N = 5, STEPS = 6 };
    const double lr = 0.02, b1 = 0.9, b2 = 0.99, eps = 1e-6, decay = 0.1, scale = 0.5;
    double *w = normal(N), *m = zeros(N), *v = zeros(N), *g = normal(N * STEPS);
    double *copy = normal(N), want[N];

    memcpy(want, w, sizeof want);
    for (int t = 1; t <= STEPS; ++t) {
        gln_adamw_t args = {.n = N,
                            .w = w,
                            .m = m,
                            .v = v,
                            .g = g + (t - 1) * N,
                            .w_compute = t % 2 ? copy : NULL,
                            .lr = lr,
                            .beta1 = b1,
                            .beta2 = b2,
                            .eps = eps,
                            .weight_decay = decay,
                            .grad_scale = scale,
                            .t = t};

        cr_assert_eq(k->ops->adamw(k, &args), GLN_OK);
        for (int i = 0; i < N; ++i) {
            double mean = 0, square = 0, weights1 = 0, weights2 = 0;

            for (int u = 1; u <= t; ++u) { /* weighted means of what was seen so far */
                double seen = scale * g[(u - 1) * N + i];

                mean += pow(b1, t - u) * seen;
                square += pow(b2, t - u) * seen * seen;
                weights1 += pow(b1, t - u);
                weights2 += pow(b2, t - u);
            }
            want[i] -= lr * (mean / weights1 / (sqrt(square / weights2) + eps) + decay * want[i]);
            cr_expect_float_eq(w[i], want[i], 1e-13, "step %d, element %d", t, i);
            if (args.w_compute != NULL) cr_expect_eq(copy[i], w[i]);
        }
    }
}

Test(gradients, sum_squares)
{
    enum { N = 10001 };
    double *x = normal(N), sum;

    cr_assert_eq(k->ops->sum_squares(k, N, x, &sum), GLN_OK);
    cr_expect_float_eq(sum, dot(x, x, N), 1e-9);
}

/* The checker itself: a wrong gradient is seen. */
static double cube(void *ctx)
{
    double x = *(double *)ctx;

    return x * x * x;
}

Test(gradients, checker_sees_a_wrong_gradient)
{
    double x = 1.5, right = 3 * x * x, wrong = right * 1.0001, nothing = NAN;

    cr_expect(gln_gradient_error(cube, &x, &x, &right, 1) < GLN_GRADIENT_TOLERANCE);
    cr_expect_not(gln_gradient_error(cube, &x, &x, &wrong, 1) < GLN_GRADIENT_TOLERANCE);
    cr_expect_not(gln_gradient_error(cube, &x, &x, &nothing, 1) < GLN_GRADIENT_TOLERANCE);
    cr_expect_eq(x, 1.5);
}
