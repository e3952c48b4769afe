/* Results so large that they go past the caches have the bits of smaller ones: a call over all rows
 * against two calls over half of them each. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "tests/support/subjects.h"

#define H 1024
#define RESULT_BYTES (34 << 20) /* beyond GLN_CPU_PAST_BYTES; half of it is not */

typedef struct arrays {
    int64_t n;        /* rows in all */
    size_t row_bytes; /* of a result */
    char *in;         /* [2 N, H] of 4 bytes */
    char *in_place;   /* [3 N, H] of 4 bytes */
    char *out;        /* [3 N, H] */
    float *vector;    /* [larger of N and H] */
    int32_t *index, *offset;
} arrays_t;

/* The operation on rows first .. first + n - 1. */
typedef gln_status_t (*part_fn)(gln_kernels_t *k, const arrays_t *x, int64_t first, int64_t n);

static char *in_at(gln_kernels_t *k, const arrays_t *x, int64_t row)
{
    return x->in + row * H * (int64_t)gln_dtype_bytes(k->dtype);
}

static gln_status_t rmsnorm(gln_kernels_t *k, const arrays_t *x, int64_t first, int64_t n)
{
    return k->ops->rmsnorm(k, &(gln_rmsnorm_t){.n = n,
                                               .h = H,
                                               .x = in_at(k, x, first),
                                               .w = x->vector,
                                               .eps = 1e-5,
                                               .y = x->out + first * (int64_t)x->row_bytes,
                                               .rstd = x->in_place});
}

static gln_status_t swiglu(gln_kernels_t *k, const arrays_t *x, int64_t first, int64_t n)
{
    return k->ops->swiglu(k, &(gln_swiglu_t){.n = n,
                                             .f = H,
                                             .hgu = in_at(k, x, 2 * first),
                                             .act = x->out + first * (int64_t)x->row_bytes});
}

static gln_status_t swiglu_backward(gln_kernels_t *k, const arrays_t *x, int64_t first, int64_t n)
{
    const int64_t row = (int64_t)x->row_bytes;

    return k->ops->swiglu_backward(
        k, &(gln_swiglu_backward_t){.n = n,
                                    .f = H,
                                    .dact = in_at(k, x, first),
                                    .hgu = in_at(k, x, 2 * first),
                                    .w = x->vector + first,
                                    .dhgu = x->out + 2 * first * row,
                                    .act_w = x->out + (2 * x->n + first) * row,
                                    .a = x->in_place});
}

static gln_status_t gather(gln_kernels_t *k, const arrays_t *x, int64_t first, int64_t n)
{
    return k->ops->gather(k, &(gln_gather_t){.n = n,
                                             .h = H,
                                             .x = x->in,
                                             .index = x->index + first,
                                             .out = x->out + first * (int64_t)x->row_bytes});
}

static gln_status_t combine(gln_kernels_t *k, const arrays_t *x, int64_t first, int64_t n)
{
    return k->ops->combine(k, &(gln_combine_t){.n = n,
                                               .h = H,
                                               .rows = x->in,
                                               .offset = x->offset + first,
                                               .index = x->index,
                                               .weight = x->vector,
                                               .out = x->out + first * (int64_t)x->row_bytes});
}

static gln_status_t cross_entropy(gln_kernels_t *k, const arrays_t *x, int64_t first, int64_t n)
{
    return k->ops->cross_entropy(
        k, &(gln_cross_entropy_t){.n = n,
                                  .v = H,
                                  .logits = x->in + first * H * 4,
                                  .target = x->index + first,
                                  .scale = 0.5,
                                  .loss = x->in_place,
                                  .dlogits = x->out + first * (int64_t)x->row_bytes});
}

static gln_status_t round_rows(gln_kernels_t *k, const arrays_t *x, int64_t first, int64_t n)
{
    return k->ops->round(k, n * H, x->in + first * H * 4, x->out + first * (int64_t)x->row_bytes);
}

static gln_status_t adamw(gln_kernels_t *k, const arrays_t *x, int64_t first, int64_t n)
{
    const int64_t at = first * H * 4, all = x->n * H * 4;

    return k->ops->adamw(k, &(gln_adamw_t){.n = n * H,
                                           .w = x->in_place + at,
                                           .m = x->in_place + all + at,
                                           .v = x->in_place + 2 * all + at,
                                           .g = x->in + at,
                                           .w_compute = x->out + first * (int64_t)x->row_bytes,
                                           .lr = 0.1,
                                           .beta1 = 0.9,
                                           .beta2 = 0.95,
                                           .eps = 1e-8,
                                           .weight_decay = 0.1,
                                           .grad_scale = 0.5,
                                           .t = 3});
}

static void open_arrays(gln_kernels_t *k, arrays_t *x)
{
    uint32_t state = 1;

    x->row_bytes = H * gln_dtype_bytes(k->dtype);
    x->n = RESULT_BYTES / (int64_t)x->row_bytes / 2 * 2;
    x->in = aligned_alloc(64, (size_t)x->n * 2 * H * 4);
    x->in_place = aligned_alloc(64, (size_t)x->n * 3 * H * 4);
    x->out = aligned_alloc(64, (size_t)x->n * 3 * x->row_bytes);
    x->vector = malloc((size_t)x->n * 2 * sizeof(float));
    x->index = malloc((size_t)x->n * 2 * sizeof(int32_t));
    x->offset = malloc((size_t)(x->n + 1) * sizeof(int32_t));
    cr_assert(x->in && x->in_place && x->out && x->vector && x->index && x->offset);
    for (int64_t i = 0; i < 2 * x->n * H; ++i) { /* a number as f32 and as two of bf16 */
        float value;
        uint32_t bits;

        state = state * 1664525u + 1013904223u;
        value = (float)(state >> 8) / 4194304.0f - 2.0f;
        memcpy(&bits, &value, sizeof bits);
        bits = (bits & 0xffff0000u) | bits >> 16;
        memcpy(x->in + 4 * i, &bits, sizeof bits);
    }
    for (int64_t i = 0; i < 2 * x->n; ++i) {
        x->vector[i] = 0.5f + (float)(i % 7);
        x->index[i] = (int32_t)(i * 7919 % H) - (i % 5 == 0);
    }
    x->offset[0] = 0;
    for (int64_t i = 0; i < x->n; ++i) /* none to three routes */
        x->offset[i + 1] = x->offset[i] + (int32_t)(i % 4);
}

static void check(gln_kernels_t *k, const char *name, part_fn part, arrays_t *x)
{
    size_t bytes = (size_t)x->n * 3 * x->row_bytes;
    char *whole = aligned_alloc(64, bytes), *out = x->out;
    int64_t half = x->n / 2;

    cr_assert_not_null(whole);
    memset(whole, 1, bytes);
    memset(out, 1, bytes);
    memset(x->in_place, 0, (size_t)x->n * 3 * H * 4);
    x->out = whole;
    cr_assert_eq(part(k, x, 0, x->n), GLN_OK, "%s: %s", name, gln_last_error());
    x->out = out;
    memset(x->in_place, 0, (size_t)x->n * 3 * H * 4);
    cr_assert_eq(part(k, x, 0, half), GLN_OK, "%s: %s", name, gln_last_error());
    cr_assert_eq(part(k, x, half, half), GLN_OK, "%s: %s", name, gln_last_error());
    cr_expect_eq(memcmp(whole, out, bytes), 0, "%s %s: other bits", gln_dtype_name(k->dtype), name);
    free(whole);
}

static void check_all(gln_dtype_t dtype)
{
    const gln_subject_t subject = {"cpu", GLN_BACKEND_CPU, dtype};
    arrays_t x = {0};
    gln_bench_t bench;

    cr_assert_eq(gln_bench_open(&subject, 2, &bench), GLN_OK, "%s", gln_last_error());
    open_arrays(bench.kernels, &x);
    check(bench.kernels, "rmsnorm", rmsnorm, &x);
    check(bench.kernels, "swiglu", swiglu, &x);
    check(bench.kernels, "swiglu backward", swiglu_backward, &x);
    check(bench.kernels, "gather", gather, &x);
    for (int64_t i = 0; i < 2 * x.n; ++i)
        x.index[i] = x.index[i] < 0 ? 0 : x.index[i];
    check(bench.kernels, "combine", combine, &x);
    check(bench.kernels, "cross-entropy", cross_entropy, &x);
    check(bench.kernels, "round", round_rows, &x);
    check(bench.kernels, "adamw", adamw, &x);
    free(x.in);
    free(x.in_place);
    free(x.out);
    free(x.vector);
    free(x.index);
    free(x.offset);
    gln_bench_close(&bench);
}

Test(past, large_results_have_the_bits_of_small_ones_in_f32)
{
    check_all(GLN_F32);
}

Test(past, large_results_have_the_bits_of_small_ones_in_bf16)
{
    check_all(GLN_BF16);
}
