/* Random calls: shapes from gln_odd_size, strides larger than the width, every mode in turn. */
#include "tests/support/op_cases.h"

#include <math.h>
#include <stddef.h>

#include "base/log.h"
#include "tests/support/fill.h"

/* Which number of the seed a size is. */
enum { ROWS, WIDTH, GAP, COUNT, KIND, ITEMS = 100 };

/* 0 rows, 1 row, then any number. */
static int64_t rows_of(const gln_record_t *record, int variant, int64_t max)
{
    return variant < 2 ? variant : gln_odd_size(record->seed, ROWS, max);
}

static int64_t width_of(const gln_record_t *record, int64_t max)
{
    return gln_odd_size(record->seed, WIDTH, max);
}

/* A stride that is often larger than the width. */
static int64_t stride_of(const gln_record_t *record, uint64_t index, int64_t width)
{
    int64_t gap = gln_random_int(record->seed, GAP + 16 * index, -4, 12);

    return width + (gap > 0 ? gap : 0);
}

/* ---- matrix products -------------------------------------------------------------------- */
#define GEMM_ITEMS_MAX 7
#define GEMM_ROWS_MAX 200
#define GEMM_WIDTH_MAX 130

/* A is rows_a x columns_a as stored, and so on; some items have no rows. */
static gln_gemm_t gemm_item(gln_record_t *record, gln_gemm_mode_t mode, gln_dtype_t dtype,
                            gln_dtype_t dtype_c, uint64_t item)
{
    uint64_t index = ITEMS + 8 * item;
    int64_t rows = gln_random_int(record->seed, index, 0, 4) == 0
                       ? gln_random_int(record->seed, index + 1, 0, 2)
                       : gln_odd_size(record->seed, index, GEMM_ROWS_MAX);
    int64_t in = gln_odd_size(record->seed, index + 1, GEMM_WIDTH_MAX);
    int64_t out = gln_odd_size(record->seed, index + 2, GEMM_WIDTH_MAX);
    int tn = mode.form == GLN_GEMM_TN;
    gln_gemm_t g = {.m = tn ? in : rows, .n = out, .k = tn ? rows : in};
    int64_t rows_b = mode.form == GLN_GEMM_NT ? g.n : g.k;
    int64_t columns_a = tn ? g.m : g.k, columns_b = mode.form == GLN_GEMM_NT ? g.k : g.n;

    g.lda = stride_of(record, index + 3, columns_a);
    g.ldb = stride_of(record, index + 4, columns_b);
    g.ldc = stride_of(record, index + 5, g.n);
    g.a = gln_record_in(record, "a", dtype, (tn ? g.k : g.m) * g.lda, 1);
    g.b = gln_record_in(record, "b", dtype, rows_b * g.ldb, 1);
    g.c = gln_record_out(record, "c", dtype_c, g.m * g.ldc, sqrt((double)g.k) + mode.accumulate);
    return g;
}

/* Variants: 3 forms x accumulate x c_acc. */
gln_status_t gln_case_gemm(gln_kernels_t *k, gln_kernels_t *ref, int variant, gln_record_t *record)
{
    gln_gemm_mode_t mode = {.form = (gln_gemm_form_t)(variant % 3),
                            .accumulate = variant / 3 % 2,
                            .c_acc = variant / 6 % 2};
    int count = (int)gln_random_int(record->seed, COUNT, 0, GEMM_ITEMS_MAX + 1);
    gln_gemm_t items[GEMM_ITEMS_MAX];

    (void)ref;
    for (int i = 0; i < count; ++i)
        items[i] = gemm_item(record, mode, k->dtype, mode.c_acc ? k->acc : k->dtype, (uint64_t)i);
    return k->ops->gemm(k, mode, items, count);
}

/* ---- row-wise operations ----------------------------------------------------------------- */
gln_status_t gln_case_rmsnorm(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                              gln_record_t *record)
{
    gln_rmsnorm_t args = {
        .n = rows_of(record, variant, 300), .h = width_of(record, 600), .eps = 1e-5};

    (void)ref;
    args.x = gln_record_in(record, "x", k->dtype, args.n * args.h, variant % 3 == 2 ? 1e-3 : 1);
    args.w = gln_record_in(record, "w", k->acc, args.h, 1);
    args.y = gln_record_out(record, "y", k->dtype, args.n * args.h, 0.1);
    args.rstd = gln_record_out(record, "rstd", k->acc, args.n, 1);
    return k->ops->rmsnorm(k, &args);
}

gln_status_t gln_case_rmsnorm_backward(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                                       gln_record_t *record)
{
    int64_t n = rows_of(record, variant, 300), h = width_of(record, 600);
    gln_rmsnorm_t forward = {.n = n, .h = h, .eps = 1e-5};
    gln_rmsnorm_backward_t args = {.n = n, .h = h};
    gln_status_t status;

    forward.x = args.x = gln_record_in(record, "x", k->dtype, n * h, 1);
    forward.w = args.w = gln_record_in(record, "w", k->acc, h, 1);
    forward.y = gln_record_in(record, "forward y", k->dtype, n * h, 1);
    forward.rstd = gln_record_in(record, "rstd", k->acc, n, 1);
    args.rstd = forward.rstd;
    args.dy = gln_record_in(record, "dy", k->dtype, n * h, 1);
    args.dx = gln_record_out(record, "dx", k->dtype, n * h, 2);
    args.dw = gln_record_out(record, "dw", k->acc, h, 1 + sqrt((double)n));
    status = ref->ops->rmsnorm(ref, &forward);
    return status != GLN_OK ? status : k->ops->rmsnorm_backward(k, &args);
}

gln_status_t gln_case_rope(gln_kernels_t *k, gln_kernels_t *ref, int variant, gln_record_t *record)
{
    gln_rope_t args = {.n = rows_of(record, variant, 300),
                       .s = gln_odd_size(record->seed, COUNT, 300),
                       .heads = (int)gln_odd_size(record->seed, KIND, 5),
                       .dh = 2 * (int)width_of(record, 33),
                       .theta = variant % 2 ? 1e4 : 1e6,
                       .inverse = variant / 2 % 2};

    (void)ref;
    args.ldx = stride_of(record, 0, (int64_t)args.heads * args.dh);
    args.x = gln_record_out(record, "x", k->dtype, args.n * args.ldx, 1);
    return k->ops->rope(k, &args);
}

/* Variants 0 to 2: no sequence, empty sequences, one row each. */
static gln_attention_t attention_args(gln_kernels_t *k, int variant, gln_record_t *record,
                                      int is_output)
{
    int kv_heads = (int)gln_random_int(record->seed, COUNT, 1, 4);
    gln_attention_t args = {
        .sequences = variant == 0 ? 0 : gln_random_int(record->seed, ROWS, 1, 4),
        .s = variant < 3 ? variant - 1 : gln_odd_size(record->seed, ROWS + 16, 150),
        .heads = kv_heads * (int)gln_random_int(record->seed, KIND, 1, 4),
        .kv_heads = kv_heads,
        .dh = (int)gln_odd_size(record->seed, WIDTH, 70)};
    int64_t width = (int64_t)(args.heads + 2 * kv_heads) * args.dh, rows;
    char *qkv;

    if (args.s < 0) args.s = 5;
    rows = args.sequences * args.s;
    args.ldqkv = stride_of(record, 0, width);
    qkv = gln_record_in(record, "qkv", k->dtype, rows * args.ldqkv, 1);
    args.q = qkv;
    args.k = gln_at(qkv, (int64_t)args.heads * args.dh, k->dtype);
    args.v = gln_at(qkv, (int64_t)(args.heads + kv_heads) * args.dh, k->dtype);
    args.out = gln_record_out(record, "out", k->dtype, rows * args.heads * args.dh, !!is_output);
    args.lse = gln_record_out(record, "lse", k->acc, rows * args.heads, !!is_output);
    return args;
}

gln_status_t gln_case_attention(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                                gln_record_t *record)
{
    gln_attention_t args = attention_args(k, variant, record, 1);

    (void)ref;
    return k->ops->attention(k, &args);
}

gln_status_t gln_case_attention_backward(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                                         gln_record_t *record)
{
    gln_attention_backward_t args = {.forward = attention_args(k, variant, record, 0)};
    const gln_attention_t *forward = &args.forward;
    int64_t rows = forward->sequences * forward->s, heads = forward->heads, dh = forward->dh;
    char *dqkv = gln_record_out(record, "dqkv", k->dtype, rows * forward->ldqkv, 4);
    gln_status_t status = ref->ops->attention(ref, forward);

    args.dout = gln_record_in(record, "dout", k->dtype, rows * heads * dh, 1);
    args.dq = dqkv;
    args.dk = gln_at(dqkv, heads * dh, k->dtype);
    args.dv = gln_at(dqkv, (heads + forward->kv_heads) * dh, k->dtype);
    return status != GLN_OK ? status : k->ops->attention_backward(k, &args);
}

gln_status_t gln_case_swiglu(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                             gln_record_t *record)
{
    gln_swiglu_t args = {.n = rows_of(record, variant, 300), .f = width_of(record, 300)};

    (void)ref;
    args.hgu = gln_record_in(record, "hgu", k->dtype, 2 * args.n * args.f, variant % 3 ? 2 : 40);
    args.act = gln_record_out(record, "act", k->dtype, args.n * args.f, 1);
    return k->ops->swiglu(k, &args);
}

/* Odd variants have weights. */
gln_status_t gln_case_swiglu_backward(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                                      gln_record_t *record)
{
    gln_swiglu_backward_t args = {.n = rows_of(record, variant, 300), .f = width_of(record, 300)};
    int64_t count = args.n * args.f;

    (void)ref;
    args.dact = gln_record_in(record, "dact", k->dtype, count, 1);
    args.hgu = gln_record_in(record, "hgu", k->dtype, 2 * count, 2);
    args.dhgu = gln_record_out(record, "dhgu", k->dtype, 2 * count, 1);
    args.act_w = gln_record_out(record, "act_w", k->dtype, count, 1);
    if (variant % 2) {
        args.w = gln_record_in(record, "w", k->acc, args.n, 1);
        args.a = gln_record_out(record, "a", k->acc, args.n, 2 * sqrt((double)args.f));
    }
    return k->ops->swiglu_backward(k, &args);
}

/* ---- moving rows ------------------------------------------------------------------------- */
gln_status_t gln_case_gather(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                             gln_record_t *record)
{
    int64_t rows = gln_odd_size(record->seed, COUNT, 100);
    gln_gather_t args = {.n = rows_of(record, variant, 500), .h = width_of(record, 300)};

    (void)ref;
    args.x = gln_record_in(record, "x", k->dtype, rows * args.h, 1);
    args.index = gln_record_ints(record, "index", args.n, -3, (int32_t)rows);
    args.out = gln_record_out(record, "out", k->dtype, args.n * args.h, 0);
    return k->ops->gather(k, &args);
}

/* Odd variants have weights. A third of the ranges is empty. */
gln_status_t gln_case_combine(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                              gln_record_t *record)
{
    int64_t rows = gln_odd_size(record->seed, COUNT, 100);
    gln_combine_t args = {.n = rows_of(record, variant, 300), .h = width_of(record, 300)};
    int32_t *lengths = gln_record_ints(record, "offset", args.n + 1, -2, 5), end = 0;

    (void)ref;
    for (int64_t i = 0; i <= args.n; ++i) {
        int32_t length = lengths[i] > 0 ? lengths[i] : 0;

        lengths[i] = end;
        end += i < args.n ? length : 0;
    }
    args.offset = lengths;
    args.rows = gln_record_in(record, "rows", k->dtype, rows * args.h, 1);
    args.index = gln_record_ints(record, "index", end, 0, (int32_t)rows);
    args.weight = variant % 2 ? gln_record_in(record, "weight", k->acc, end, 1) : NULL;
    args.out = gln_record_out(record, "out", k->dtype, args.n * args.h, 0);
    return k->ops->combine(k, &args);
}

gln_status_t gln_case_embed(gln_kernels_t *k, gln_kernels_t *ref, int variant, gln_record_t *record)
{
    gln_embed_t args = {.n = rows_of(record, variant, 300),
                        .h = width_of(record, 300),
                        .v = gln_odd_size(record->seed, COUNT, 90)};

    (void)ref;
    args.table = gln_record_in(record, "table", k->dtype, args.v * args.h, 1);
    args.ids = gln_record_ints(record, "ids", args.n, 0, (int32_t)args.v);
    args.out = gln_record_out(record, "out", k->dtype, args.n * args.h, 0);
    return k->ops->embed(k, &args);
}

gln_status_t gln_case_embed_backward(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                                     gln_record_t *record)
{
    gln_embed_backward_t args = {.n = rows_of(record, variant, 600),
                                 .h = width_of(record, 300),
                                 .v = gln_odd_size(record->seed, COUNT, 90)};

    (void)ref;
    args.dout = gln_record_in(record, "dout", k->dtype, args.n * args.h, 1);
    args.ids = gln_record_ints(record, "ids", args.n, 0, (int32_t)args.v);
    args.dtable = gln_record_out(record, "dtable", k->acc, args.v * args.h, 0);
    return k->ops->embed_backward(k, &args);
}

/* ---- loss, optimizer, elementwise -------------------------------------------------------- */
/* Variants: dlogits apart, none, and where dtype equals acc in place. */
gln_status_t gln_case_cross_entropy(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                                    gln_record_t *record)
{
    gln_cross_entropy_t args = {.n = rows_of(record, variant, 200),
                                .v = width_of(record, 700),
                                .scale = variant % 2 ? 1 : 1.0 / 64};
    int64_t count = args.n * args.v;
    double size = args.scale / (double)args.v;

    (void)ref;
    args.target = gln_record_ints(record, "target", args.n, -1, (int32_t)args.v);
    args.loss = gln_record_out(record, "loss", k->acc, args.n, 1);
    if (variant % 3 == 2 && k->dtype == k->acc) {
        args.dlogits = gln_record_out(record, "logits in place", k->dtype, count, size);
        args.logits = args.dlogits;
        return k->ops->cross_entropy(k, &args);
    }
    args.logits = gln_record_in(record, "logits", k->acc, count, 3);
    args.dlogits =
        variant % 3 == 1 ? NULL : gln_record_out(record, "dlogits", k->dtype, count, size);
    return k->ops->cross_entropy(k, &args);
}

gln_status_t gln_case_adamw(gln_kernels_t *k, gln_kernels_t *ref, int variant, gln_record_t *record)
{
    int64_t n = rows_of(record, variant, 70000);
    gln_adamw_t args = {.n = n,
                        .lr = 1e-2,
                        .beta1 = 0.9,
                        .beta2 = variant % 3 ? 0.95 : 0.999,
                        .eps = 1e-8,
                        .weight_decay = variant % 2 ? 0.1 : 0,
                        .grad_scale = variant % 4 ? 0.25 : 1,
                        .t = variant < 4 ? 1 : gln_random_int(record->seed, COUNT, 1, 10000)};

    (void)ref;
    args.w = gln_record_out(record, "w", k->acc, n, 0.1);
    args.m = gln_record_out(record, "m", k->acc, n, 0.1);
    args.v = gln_record_out(record, "v", k->acc, n, 0.1);
    args.g = gln_record_in(record, "g", k->acc, n, 1);
    args.w_compute = k->dtype == k->acc && variant % 2
                         ? NULL
                         : gln_record_out(record, "w_compute", k->dtype, n, 0.1);
    for (int64_t i = 0; i < n; ++i) { /* a mean of squares, as gradients of size 1 leave it */
        double v = gln_load(args.v, i, k->acc);

        gln_store(args.v, i, k->acc, 0.05 + v * v);
    }
    return k->ops->adamw(k, &args);
}

gln_status_t gln_case_add(gln_kernels_t *k, gln_kernels_t *ref, int variant, gln_record_t *record)
{
    int64_t n = rows_of(record, variant, 70000);
    const void *x = gln_record_in(record, "x", k->dtype, n, 1);
    void *y = gln_record_out(record, "y", k->dtype, n, 0);

    (void)ref;
    return k->ops->add(k, n, x, y);
}

gln_status_t gln_case_round(gln_kernels_t *k, gln_kernels_t *ref, int variant, gln_record_t *record)
{
    int64_t n = rows_of(record, variant, 70000);
    const void *x = gln_record_in(record, "x", k->acc, n, 1);
    void *y = gln_record_out(record, "y", k->dtype, n, 0);

    (void)ref;
    return k->ops->round(k, n, x, y);
}

gln_status_t gln_case_sum_squares(gln_kernels_t *k, gln_kernels_t *ref, int variant,
                                  gln_record_t *record)
{
    int64_t n = rows_of(record, variant, 70000);
    const void *x = gln_record_in(record, "x", k->acc, n, 1);
    double *out = gln_record_out(record, "sum", GLN_F64, 1, 1);

    (void)ref;
    return k->ops->sum_squares(k, n, x, out);
}
