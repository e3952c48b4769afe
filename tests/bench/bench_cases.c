/* Sizes: "512 rows" cases are the grouped product of a mid-sized layer, the others those of the
 * quickstart model (H 256, F 512 to 1024, S 256, a few hundred rows an expert), and rows beyond the
 * last-level cache for what memory bounds. */
#include "tests/bench/bench_cases.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPERTS_MAX 64

/* ---- memory ------------------------------------------------------------------------------ */
/* One block handed out front to back; the first pass, without a base, only counts. */
typedef struct layout {
    char *base;
    size_t used;
} layout_t;

static void *take(layout_t *layout, int64_t count)
{
    size_t at = layout->used;

    layout->used += ((size_t)count * 4 + 63) / 64 * 64 + 64;
    return layout->base != NULL ? layout->base + at : NULL;
}

static float *take_random(layout_t *layout, int64_t count)
{
    float *x = take(layout, count);
    uint32_t state = 12345;

    for (int64_t i = 0; x != NULL && i < count; ++i) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(state >> 8) / 8388608.0f - 1.0f;
    }
    return x;
}

/* A permutation of 0 .. count-1, or repeated numbers below `limit`. */
static int32_t *take_index(layout_t *layout, int64_t count, int64_t limit)
{
    int32_t *index = take(layout, count);

    for (int64_t i = 0; index != NULL && i < count; ++i)
        index[i] = (int32_t)(i * 7919 % limit);
    return index;
}

/* ---- sizes ------------------------------------------------------------------------------- */
typedef enum rows_kind { EVEN, RAGGED, HOT } rows_kind_t;

typedef struct sizes {
    gln_gemm_form_t form;
    rows_kind_t kind;
    int64_t experts, rows; /* GEMM */
    int64_t n, h, f, v;
    int64_t sequences, s;
    int heads, kv_heads, dh;
} sizes_t;

typedef void (*setup_fn)(const sizes_t *sizes, layout_t *layout, gln_bench_case_t *out);

/* ---- products ---------------------------------------------------------------------------- */
typedef struct gemm_args {
    gln_gemm_mode_t mode;
    int count;
    gln_gemm_t items[EXPERTS_MAX];
} gemm_args_t;

static gln_status_t run_gemm(gln_kernels_t *k, void *ctx)
{
    gemm_args_t *args = ctx;

    return k->ops->gemm(k, args->mode, args->items, args->count);
}

static int64_t rows_of(const sizes_t *sizes, int64_t expert)
{
    static const int ragged[] = {100, 300, 187, 233, 129, 271, 150, 222};

    if (sizes->kind == RAGGED) return ragged[expert % 8];
    if (sizes->kind == HOT) return expert == 0 ? sizes->rows : sizes->rows / 20;
    return sizes->rows;
}

/* f is the width in, h the width out of the forward product. */
static void setup_gemm(const sizes_t *sizes, layout_t *layout, gln_bench_case_t *out)
{
    static const char *const forms[] = {"NN", "NT", "TN"};
    static const char *const kinds[] = {"", " ragged", " hot"};
    gemm_args_t *args = out->args;
    int64_t total = 0;

    args->mode = (gln_gemm_mode_t){sizes->form, sizes->form == GLN_GEMM_TN, 0};
    args->count = (int)sizes->experts;
    for (int i = 0; i < args->count; ++i) {
        int64_t rows = rows_of(sizes, i), in = sizes->f, width = sizes->h;
        float *x = take_random(layout, rows * in), *w = take_random(layout, in * width);
        float *y = take_random(layout, rows * width);
        gln_gemm_t *g = &args->items[i];

        total += rows;
        if (sizes->form == GLN_GEMM_NN)
            *g = (gln_gemm_t){rows, width, in, x, in, w, width, y, width};
        else if (sizes->form == GLN_GEMM_NT)
            *g = (gln_gemm_t){rows, in, width, y, width, w, width, x, in};
        else
            *g = (gln_gemm_t){in, width, rows, x, in, y, width, w, width};
    }
    out->bound = GLN_BENCH_GEMM;
    out->flops = 2.0 * (double)total * (double)sizes->h * (double)sizes->f;
    out->run = run_gemm;
    snprintf(out->shape, sizeof out->shape, "%s %lld x %lld rows%s, weight %lld x %lld",
             forms[sizes->form], (long long)sizes->experts, (long long)(total / sizes->experts),
             kinds[sizes->kind], (long long)sizes->f, (long long)sizes->h);
}

/* ---- attention --------------------------------------------------------------------------- */
static gln_status_t run_attention(gln_kernels_t *k, void *ctx)
{
    return k->ops->attention(k, &((gln_attention_backward_t *)ctx)->forward);
}

static gln_status_t run_attention_backward(gln_kernels_t *k, void *ctx)
{
    return k->ops->attention_backward(k, ctx);
}

static void setup_attention(const sizes_t *sizes, layout_t *layout, gln_bench_case_t *out)
{
    gln_attention_backward_t *args = out->args;
    int64_t n = sizes->sequences * sizes->s, width = (int64_t)sizes->heads * sizes->dh;
    int64_t kv_width = (int64_t)sizes->kv_heads * sizes->dh, ld = width + 2 * kv_width;
    float *qkv = take_random(layout, n * ld), *dqkv = take_random(layout, n * ld);
    float *lse = take_random(layout, n * sizes->heads);

    for (int64_t i = 0; lse != NULL && i < n * sizes->heads; ++i)
        lse[i] = 8.0f; /* for backward: any finite number takes the same time */
    if (qkv != NULL) {
        args->forward = (gln_attention_t){sizes->sequences,
                                          sizes->s,
                                          sizes->heads,
                                          sizes->kv_heads,
                                          sizes->dh,
                                          qkv,
                                          qkv + width,
                                          qkv + width + kv_width,
                                          ld,
                                          NULL,
                                          lse};
        args->dq = dqkv;
        args->dk = dqkv + width;
        args->dv = dqkv + width + kv_width;
    }
    args->forward.out = take_random(layout, n * width);
    args->dout = take_random(layout, n * width);
    out->bound = GLN_BENCH_GEMM;
    out->flops = 2.0 * (double)n * (double)sizes->s * (double)width;
    out->run = run_attention;
    snprintf(out->shape, sizeof out->shape, "%lld x S %lld, heads %d/%d dh %d",
             (long long)sizes->sequences, (long long)sizes->s, sizes->heads, sizes->kv_heads,
             sizes->dh);
}

static void setup_attention_backward(const sizes_t *sizes, layout_t *layout, gln_bench_case_t *out)
{
    setup_attention(sizes, layout, out);
    out->flops *= 2.5;
    out->run = run_attention_backward;
}

/* ---- rows -------------------------------------------------------------------------------- */
#define RUN(op, type)                                         \
    static gln_status_t run_##op(gln_kernels_t *k, void *ctx) \
    {                                                         \
        return k->ops->op(k, (const type *)ctx);              \
    }
RUN(rmsnorm, gln_rmsnorm_t)
RUN(rmsnorm_backward, gln_rmsnorm_backward_t)
RUN(rope, gln_rope_t)
RUN(swiglu, gln_swiglu_t)
RUN(swiglu_backward, gln_swiglu_backward_t)
RUN(gather, gln_gather_t)
RUN(combine, gln_combine_t)
RUN(embed, gln_embed_t)
RUN(embed_backward, gln_embed_backward_t)
RUN(cross_entropy, gln_cross_entropy_t)
RUN(adamw, gln_adamw_t)

static void finish(gln_bench_case_t *out, int64_t n, int64_t width, double arrays,
                   gln_status_t (*run)(gln_kernels_t *, void *))
{
    out->bound = GLN_BENCH_COPY;
    out->bytes = arrays * (double)n * (double)width * 4.0;
    out->run = run;
    snprintf(out->shape, sizeof out->shape, "[%lld, %lld]", (long long)n, (long long)width);
}

static void setup_rmsnorm(const sizes_t *sizes, layout_t *layout, gln_bench_case_t *out)
{
    int64_t n = sizes->n, h = sizes->h;

    *(gln_rmsnorm_t *)out->args = (gln_rmsnorm_t){n,
                                                  h,
                                                  take_random(layout, n * h),
                                                  take_random(layout, h),
                                                  1e-5,
                                                  take_random(layout, n * h),
                                                  take(layout, n)};
    finish(out, n, h, 2, run_rmsnorm);
}

static void setup_rmsnorm_backward(const sizes_t *sizes, layout_t *layout, gln_bench_case_t *out)
{
    int64_t n = sizes->n, h = sizes->h;

    *(gln_rmsnorm_backward_t *)out->args = (gln_rmsnorm_backward_t){n,
                                                                    h,
                                                                    take_random(layout, n * h),
                                                                    take_random(layout, n * h),
                                                                    take_random(layout, h),
                                                                    take_random(layout, n),
                                                                    take(layout, n * h),
                                                                    take(layout, h)};
    finish(out, n, h, 4, run_rmsnorm_backward);
}

static void setup_rope(const sizes_t *sizes, layout_t *layout, gln_bench_case_t *out)
{
    int64_t n = sizes->n, h = sizes->h;

    *(gln_rope_t *)out->args = (gln_rope_t){
        n, sizes->s, (int)(h / sizes->dh), sizes->dh, take_random(layout, n * h), h, 10000, 0};
    finish(out, n, h, 2, run_rope);
}

static void setup_swiglu(const sizes_t *sizes, layout_t *layout, gln_bench_case_t *out)
{
    int64_t n = sizes->n, f = sizes->f;

    *(gln_swiglu_t *)out->args =
        (gln_swiglu_t){n, f, take_random(layout, 2 * n * f), take_random(layout, n * f)};
    finish(out, n, f, 3, run_swiglu);
}

static void setup_swiglu_backward(const sizes_t *sizes, layout_t *layout, gln_bench_case_t *out)
{
    int64_t n = sizes->n, f = sizes->f;

    *(gln_swiglu_backward_t *)out->args = (gln_swiglu_backward_t){n,
                                                                  f,
                                                                  take_random(layout, n * f),
                                                                  take_random(layout, 2 * n * f),
                                                                  take_random(layout, n),
                                                                  take_random(layout, 2 * n * f),
                                                                  take_random(layout, n * f),
                                                                  take(layout, n)};
    finish(out, n, f, 6, run_swiglu_backward);
}

static void setup_gather(const sizes_t *sizes, layout_t *layout, gln_bench_case_t *out)
{
    int64_t n = sizes->n, h = sizes->h;

    *(gln_gather_t *)out->args = (gln_gather_t){
        n, h, take_random(layout, n * h), take_index(layout, n, n), take_random(layout, n * h)};
    finish(out, n, h, 2, run_gather);
}

/* Two routes a token. */
static void setup_combine(const sizes_t *sizes, layout_t *layout, gln_bench_case_t *out)
{
    int64_t n = sizes->n, h = sizes->h;
    int32_t *offset = take(layout, n + 1);

    for (int64_t i = 0; offset != NULL && i <= n; ++i)
        offset[i] = (int32_t)(2 * i);
    *(gln_combine_t *)out->args = (gln_combine_t){n,
                                                  h,
                                                  take_random(layout, 2 * n * h),
                                                  offset,
                                                  take_index(layout, 2 * n, 2 * n),
                                                  take_random(layout, 2 * n),
                                                  take_random(layout, n * h)};
    finish(out, n, h, 3, run_combine);
}

static void setup_embed(const sizes_t *sizes, layout_t *layout, gln_bench_case_t *out)
{
    int64_t n = sizes->n, h = sizes->h, v = sizes->v;

    *(gln_embed_t *)out->args = (gln_embed_t){
        n, h, v, take_random(layout, v * h), take_index(layout, n, v), take_random(layout, n * h)};
    finish(out, n, h, 2, run_embed);
}

static void setup_embed_backward(const sizes_t *sizes, layout_t *layout, gln_bench_case_t *out)
{
    int64_t n = sizes->n, h = sizes->h, v = sizes->v;

    *(gln_embed_backward_t *)out->args = (gln_embed_backward_t){
        n, h, v, take_random(layout, n * h), take_index(layout, n, v), take_random(layout, v * h)};
    finish(out, n, h, 3, run_embed_backward);
}

static void setup_cross_entropy(const sizes_t *sizes, layout_t *layout, gln_bench_case_t *out)
{
    int64_t n = sizes->n, v = sizes->v;

    *(gln_cross_entropy_t *)out->args = (gln_cross_entropy_t){n,
                                                              v,
                                                              take_random(layout, n * v),
                                                              take_index(layout, n, v),
                                                              1.0 / 2048,
                                                              take(layout, n),
                                                              take_random(layout, n * v)};
    finish(out, n, v, 2, run_cross_entropy);
}

static void setup_adamw(const sizes_t *sizes, layout_t *layout, gln_bench_case_t *out)
{
    int64_t n = sizes->n * sizes->h;
    float *w = take_random(layout, n), *m = take(layout, n), *v = take(layout, n);

    *(gln_adamw_t *)out->args = (gln_adamw_t){
        n, w, m, v, take_random(layout, n), NULL, 1e-3, 0.9, 0.95, 1e-8, 0.1, 1.0, 10};
    finish(out, n, 1, 7, run_adamw);
}

typedef struct add_args {
    int64_t n;
    void *x, *y;
} add_args_t;

static gln_status_t run_add(gln_kernels_t *k, void *ctx)
{
    add_args_t *args = ctx;

    return k->ops->add(k, args->n, args->x, args->y);
}

static gln_status_t run_sum_squares(gln_kernels_t *k, void *ctx)
{
    add_args_t *args = ctx;
    double sum;

    return k->ops->sum_squares(k, args->n, args->x, &sum);
}

static void setup_add(const sizes_t *sizes, layout_t *layout, gln_bench_case_t *out)
{
    int64_t n = sizes->n * sizes->h;

    *(add_args_t *)out->args = (add_args_t){n, take_random(layout, n), take(layout, n)};
    finish(out, n, 1, 3, run_add);
}

static void setup_sum_squares(const sizes_t *sizes, layout_t *layout, gln_bench_case_t *out)
{
    setup_add(sizes, layout, out);
    finish(out, sizes->n * sizes->h, 1, 1, run_sum_squares);
}

/* ---- the list ---------------------------------------------------------------------------- */
#define SMALL                                                        \
    {                                                                \
        .n = 2048, .h = 256, .f = 512, .v = 2048, .s = 256, .dh = 32 \
    }
#define LARGE                                                            \
    {                                                                    \
        .n = 16384, .h = 1024, .f = 1024, .v = 8192, .s = 1024, .dh = 64 \
    }
#define GEMM(gemm_form, kind_, e, r, in, out)                                        \
    {                                                                                \
        .form = gemm_form, .kind = kind_, .experts = e, .rows = r, .f = in, .h = out \
    }
#define FORMS(kind, e, r, in, out)                                    \
    {"gemm", setup_gemm, GEMM(GLN_GEMM_NN, kind, e, r, in, out)},     \
        {"gemm", setup_gemm, GEMM(GLN_GEMM_NT, kind, e, r, in, out)}, \
    {                                                                 \
        "gemm", setup_gemm, GEMM(GLN_GEMM_TN, kind, e, r, in, out)    \
    }
#define HEADS(q, s_, h_, kv, d)                                       \
    {                                                                 \
        .sequences = q, .s = s_, .heads = h_, .kv_heads = kv, .dh = d \
    }
#define BOTH(op)               \
    {#op, setup_##op, SMALL},  \
    {                          \
#op, setup_##op, LARGE \
    }

static const struct {
    const char *name;
    setup_fn setup;
    sizes_t sizes;
} cases[] = {
    FORMS(EVEN, 8, 512, 512, 2048),
    FORMS(RAGGED, 8, 0, 256, 1024),
    FORMS(RAGGED, 8, 0, 512, 256),
    FORMS(HOT, 8, 2000, 256, 1024),
    FORMS(EVEN, 64, 16, 256, 512),
    FORMS(EVEN, 1, 2048, 256, 512),
    FORMS(EVEN, 1, 2048, 256, 8),
    FORMS(EVEN, 1, 2048, 256, 8192),
    {"attention", setup_attention, HEADS(8, 256, 8, 4, 32)},
    {"attention", setup_attention, HEADS(8, 256, 4, 2, 64)},
    {"attention", setup_attention, HEADS(2, 1024, 8, 2, 64)},
    {"attention_backward", setup_attention_backward, HEADS(8, 256, 8, 4, 32)},
    {"attention_backward", setup_attention_backward, HEADS(8, 256, 4, 2, 64)},
    {"attention_backward", setup_attention_backward, HEADS(2, 1024, 8, 2, 64)},
    BOTH(rmsnorm),
    BOTH(rmsnorm_backward),
    BOTH(rope),
    BOTH(swiglu),
    BOTH(swiglu_backward),
    BOTH(gather),
    BOTH(combine),
    BOTH(embed),
    BOTH(embed_backward),
    BOTH(cross_entropy),
    BOTH(adamw),
    BOTH(add),
    BOTH(sum_squares),
};

int gln_bench_case_open(int index, const char *only, gln_bench_case_t *out)
{
    layout_t layout = {NULL, 0};

    memset(out, 0, sizeof *out);
    if (index >= (int)(sizeof cases / sizeof cases[0])) return 0;
    if (strstr(cases[index].name, only) == NULL) return 1;
    out->name = cases[index].name;
    out->args = calloc(1, sizeof(gemm_args_t)); /* the largest of all arguments */
    if (out->args == NULL) return 0;
    cases[index].setup(&cases[index].sizes, &layout, out);
    out->memory = aligned_alloc(64, (layout.used + 63) / 64 * 64);
    if (out->memory == NULL) {
        gln_bench_case_close(out);
        return 0;
    }
    memset(out->memory, 0, layout.used);
    layout = (layout_t){out->memory, 0};
    cases[index].setup(&cases[index].sizes, &layout, out);
    return 1;
}

void gln_bench_case_close(gln_bench_case_t *bench)
{
    free(bench->memory);
    free(bench->args);
    bench->memory = bench->args = NULL;
}
