/* A row's result depends neither on the other rows of a call nor on how many there are, bit for
 * bit: every backend computes the same rows in one call and in many, and the records must be
 * identical. Matrix products are cut at every size from 1 to 300 rows. */
#include <criterion/criterion.h>

#include <string.h>

#include "base/log.h"
#include "tests/support/fill.h"
#include "tests/support/record.h"
#include "tests/support/subjects.h"

#define ROWS 300

static gln_bench_t open_bench(int subject)
{
    gln_bench_t bench;

    cr_assert_eq(gln_bench_open(&gln_subjects[subject], 2, &bench), GLN_OK, "%s: %s",
                 gln_subjects[subject].name, gln_last_error());
    return bench;
}

/* ---- row-wise operations, in pieces ------------------------------------------------------ */

/* Piece `i` of rows [0, rows): all of them, or 1, 2, 3, 5, 7, 16, 33, 1, ... Returns 0 at the end.
 */
static int next_piece(int whole, int64_t rows, int i, int64_t *start, int64_t *count)
{
    static const int64_t sizes[] = {1, 2, 3, 5, 7, 16, 33};

    *start = i == 0 ? 0 : *start + *count;
    *count = whole ? rows : sizes[i % 7];
    if (*start + *count > rows) *count = rows - *start;
    return *count > 0;
}

#define FOR_PIECES(whole, rows)                   \
    for (int64_t piece = 0, start = 0, count = 0; \
         next_piece(whole, rows, (int)piece, &start, &count); ++piece)

typedef void (*pieces_fn)(gln_kernels_t *k, int whole, int64_t width, gln_record_t *record);

static void check_pieces(pieces_fn call)
{
    static const int64_t widths[] = {1, 7, 70, 512};

    for (int i = 0; i < gln_subjects_count; ++i) {
        gln_bench_t bench = open_bench(i);

        for (int w = 0; w < 4; ++w) {
            gln_record_t whole, pieces;
            const char *difference;

            gln_record_open(11, &whole);
            gln_record_open(11, &pieces);
            call(bench.kernels, 1, widths[w], &whole);
            call(bench.kernels, 0, widths[w], &pieces);
            difference = gln_record_differs_in_bits(&pieces, &whole);
            cr_expect_null(difference, "%s, width %lld: %s", bench.subject->name,
                           (long long)widths[w], difference);
            gln_record_close(&whole);
            gln_record_close(&pieces);
        }
        gln_bench_close(&bench);
    }
}

static void rmsnorm_pieces(gln_kernels_t *k, int whole, int64_t h, gln_record_t *record)
{
    char *x = gln_record_in(record, "x", k->dtype, ROWS * h, 1);
    char *w = gln_record_in(record, "w", k->acc, h, 1);
    char *y = gln_record_out(record, "y", k->dtype, ROWS * h, 0);
    char *rstd = gln_record_out(record, "rstd", k->acc, ROWS, 0);

    FOR_PIECES(whole, ROWS)
    {
        gln_rmsnorm_t args = {.n = count,
                              .h = h,
                              .x = gln_at(x, start * h, k->dtype),
                              .w = w,
                              .eps = 1e-5,
                              .y = gln_at(y, start * h, k->dtype),
                              .rstd = gln_at(rstd, start, k->acc)};

        cr_assert_eq(k->ops->rmsnorm(k, &args), GLN_OK);
    }
}

Test(row_independence, rmsnorm)
{
    check_pieces(rmsnorm_pieces);
}

/* dw sums over rows and is left out. */
static void rmsnorm_backward_pieces(gln_kernels_t *k, int whole, int64_t h, gln_record_t *record)
{
    char *x = gln_record_in(record, "x", k->dtype, ROWS * h, 1);
    char *dy = gln_record_in(record, "dy", k->dtype, ROWS * h, 1);
    char *w = gln_record_in(record, "w", k->acc, h, 1);
    char *rstd = gln_record_in(record, "rstd", k->acc, ROWS, 1);
    char *dx = gln_record_out(record, "dx", k->dtype, ROWS * h, 0);
    gln_record_t scratch = {.seed = 1};
    char *dw = gln_record_out(&scratch, "dw", k->acc, h, 0);

    FOR_PIECES(whole, ROWS)
    {
        gln_rmsnorm_backward_t args = {.n = count,
                                       .h = h,
                                       .dy = gln_at(dy, start * h, k->dtype),
                                       .x = gln_at(x, start * h, k->dtype),
                                       .w = w,
                                       .rstd = gln_at(rstd, start, k->acc),
                                       .dx = gln_at(dx, start * h, k->dtype),
                                       .dw = dw};

        cr_assert_eq(k->ops->rmsnorm_backward(k, &args), GLN_OK);
    }
    gln_record_close(&scratch);
}

Test(row_independence, rmsnorm_backward)
{
    check_pieces(rmsnorm_backward_pieces);
}

/* A piece must start at position 0: pieces of whole sequences of 6 rows. */
static void rope_pieces(gln_kernels_t *k, int whole, int64_t width, gln_record_t *record)
{
    enum { S = 6, HEADS = 3 };
    int64_t ldx = HEADS * 2 * width + 5;
    char *x = gln_record_out(record, "x", k->dtype, ROWS * ldx, 0);

    FOR_PIECES(whole, ROWS / S)
    {
        gln_rope_t args = {.n = S * count,
                           .s = S,
                           .heads = HEADS,
                           .dh = 2 * (int)width,
                           .x = gln_at(x, start * S * ldx, k->dtype),
                           .ldx = ldx,
                           .theta = 1e4};

        cr_assert_eq(k->ops->rope(k, &args), GLN_OK);
    }
}

Test(row_independence, rope)
{
    check_pieces(rope_pieces);
}

/* Attention sums over a sequence: a sequence's result is its own. */
static void attention_pieces(gln_kernels_t *k, int whole, int64_t width, gln_record_t *record)
{
    enum { S = 25, SEQUENCES = 8, HEADS = 4, KV_HEADS = 2 };
    int64_t dh = width < 64 ? width : 64, ld = (HEADS + 2 * KV_HEADS) * dh, out_ld = HEADS * dh;
    char *qkv = gln_record_in(record, "qkv", k->dtype, S * SEQUENCES * ld, 1);
    char *dout = gln_record_in(record, "dout", k->dtype, S * SEQUENCES * out_ld, 1);
    char *out = gln_record_out(record, "out", k->dtype, S * SEQUENCES * out_ld, 0);
    char *lse = gln_record_out(record, "lse", k->acc, S * SEQUENCES * HEADS, 0);
    char *dqkv = gln_record_out(record, "dqkv", k->dtype, S * SEQUENCES * ld, 0);

    FOR_PIECES(whole, SEQUENCES)
    {
        int64_t row = start * S;
        char *q = gln_at(qkv, row * ld, k->dtype), *dq = gln_at(dqkv, row * ld, k->dtype);
        gln_attention_backward_t args = {
            .forward = {.sequences = count,
                        .s = S,
                        .heads = HEADS,
                        .kv_heads = KV_HEADS,
                        .dh = (int)dh,
                        .q = q,
                        .k = gln_at(q, HEADS * dh, k->dtype),
                        .v = gln_at(q, (HEADS + KV_HEADS) * dh, k->dtype),
                        .ldqkv = ld,
                        .out = gln_at(out, row * out_ld, k->dtype),
                        .lse = gln_at(lse, row * HEADS, k->acc)},
            .dout = gln_at(dout, row * out_ld, k->dtype),
            .dq = dq,
            .dk = gln_at(dq, HEADS * dh, k->dtype),
            .dv = gln_at(dq, (HEADS + KV_HEADS) * dh, k->dtype)};

        cr_assert_eq(k->ops->attention(k, &args.forward), GLN_OK);
        cr_assert_eq(k->ops->attention_backward(k, &args), GLN_OK);
    }
}

Test(row_independence, attention_by_sequence)
{
    check_pieces(attention_pieces);
}

static void swiglu_pieces(gln_kernels_t *k, int whole, int64_t f, gln_record_t *record)
{
    char *hgu = gln_record_in(record, "hgu", k->dtype, ROWS * 2 * f, 2);
    char *dact = gln_record_in(record, "dact", k->dtype, ROWS * f, 1);
    char *w = gln_record_in(record, "w", k->acc, ROWS, 1);
    char *act = gln_record_out(record, "act", k->dtype, ROWS * f, 0);
    char *dhgu = gln_record_out(record, "dhgu", k->dtype, ROWS * 2 * f, 0);
    char *act_w = gln_record_out(record, "act_w", k->dtype, ROWS * f, 0);
    char *a = gln_record_out(record, "a", k->acc, ROWS, 0);

    FOR_PIECES(whole, ROWS)
    {
        gln_swiglu_t args = {.n = count,
                             .f = f,
                             .hgu = gln_at(hgu, start * 2 * f, k->dtype),
                             .act = gln_at(act, start * f, k->dtype)};
        gln_swiglu_backward_t backward = {.n = count,
                                          .f = f,
                                          .dact = gln_at(dact, start * f, k->dtype),
                                          .hgu = args.hgu,
                                          .w = gln_at(w, start, k->acc),
                                          .dhgu = gln_at(dhgu, start * 2 * f, k->dtype),
                                          .act_w = gln_at(act_w, start * f, k->dtype),
                                          .a = gln_at(a, start, k->acc)};

        cr_assert_eq(k->ops->swiglu(k, &args), GLN_OK);
        cr_assert_eq(k->ops->swiglu_backward(k, &backward), GLN_OK);
    }
}

Test(row_independence, swiglu)
{
    check_pieces(swiglu_pieces);
}

static void combine_pieces(gln_kernels_t *k, int whole, int64_t h, gln_record_t *record)
{
    enum { SOURCES = 50, TERMS = 3 };
    char *rows = gln_record_in(record, "rows", k->dtype, SOURCES * h, 1);
    char *weight = gln_record_in(record, "weight", k->acc, ROWS * TERMS, 1);
    int32_t *index = gln_record_ints(record, "index", ROWS * TERMS, 0, SOURCES);
    int32_t *offset = gln_record_ints(record, "offset", ROWS + 1, 0, 1);
    char *out = gln_record_out(record, "out", k->dtype, ROWS * h, 0);
    char *gathered = gln_record_out(record, "gathered", k->dtype, ROWS * h, 0);

    for (int32_t i = 0; i <= ROWS; ++i)
        offset[i] = i * TERMS;
    FOR_PIECES(whole, ROWS)
    {
        gln_combine_t args = {.n = count,
                              .h = h,
                              .rows = rows,
                              .offset = offset + start,
                              .index = index,
                              .weight = weight,
                              .out = gln_at(out, start * h, k->dtype)};
        gln_gather_t gather = {.n = count,
                               .h = h,
                               .x = rows,
                               .index = index + start,
                               .out = gln_at(gathered, start * h, k->dtype)};

        cr_assert_eq(k->ops->combine(k, &args), GLN_OK);
        cr_assert_eq(k->ops->gather(k, &gather), GLN_OK);
    }
}

Test(row_independence, combine_and_gather)
{
    check_pieces(combine_pieces);
}

static void cross_entropy_pieces(gln_kernels_t *k, int whole, int64_t v, gln_record_t *record)
{
    char *logits = gln_record_in(record, "logits", k->acc, ROWS * v, 3);
    int32_t *target = gln_record_ints(record, "target", ROWS, -1, (int32_t)v);
    char *loss = gln_record_out(record, "loss", k->acc, ROWS, 0);
    char *dlogits = gln_record_out(record, "dlogits", k->dtype, ROWS * v, 0);

    FOR_PIECES(whole, ROWS)
    {
        gln_cross_entropy_t args = {.n = count,
                                    .v = v,
                                    .logits = gln_at(logits, start * v, k->acc),
                                    .target = target + start,
                                    .scale = 0.125,
                                    .loss = gln_at(loss, start, k->acc),
                                    .dlogits = gln_at(dlogits, start * v, k->dtype)};

        cr_assert_eq(k->ops->cross_entropy(k, &args), GLN_OK);
    }
}

Test(row_independence, cross_entropy)
{
    check_pieces(cross_entropy_pieces);
}

/* A shard of the optimizer's state computes what the whole would. */
static void adamw_pieces(gln_kernels_t *k, int whole, int64_t width, gln_record_t *record)
{
    int64_t total = ROWS * width;
    char *w = gln_record_out(record, "w", k->acc, total, 0);
    char *m = gln_record_out(record, "m", k->acc, total, 0);
    char *v = gln_record_in(record, "v", k->acc, 2 * total, 1);
    char *g = gln_record_in(record, "g", k->acc, total, 1);
    char *w_compute = gln_record_out(record, "w_compute", k->dtype, total, 0);
    char *y = gln_record_out(record, "y", k->dtype, total, 0);

    for (int64_t i = 0; i < total; ++i) {
        double value = gln_load(v, i, k->acc);

        gln_store(v, i, k->acc, value * value);
    }
    FOR_PIECES(whole, total)
    {
        gln_adamw_t args = {.n = count,
                            .w = gln_at(w, start, k->acc),
                            .m = gln_at(m, start, k->acc),
                            .v = gln_at(v, start, k->acc),
                            .g = gln_at(g, start, k->acc),
                            .w_compute = gln_at(w_compute, start, k->dtype),
                            .lr = 1e-3,
                            .beta1 = 0.9,
                            .beta2 = 0.95,
                            .eps = 1e-8,
                            .weight_decay = 0.1,
                            .grad_scale = 0.5,
                            .t = 7};

        cr_assert_eq(k->ops->adamw(k, &args), GLN_OK);
        cr_assert_eq(k->ops->add(k, count, args.w_compute, gln_at(y, start, k->dtype)), GLN_OK);
    }
}

Test(row_independence, adamw_and_add)
{
    check_pieces(adamw_pieces);
}
