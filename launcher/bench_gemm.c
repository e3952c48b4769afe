/* `gleaner bench gemm`: the matrix products of a MoE layer's experts, forward and backward, in f32
 * and bf16, against one large product of the same type.
 *
 * One process. The T K routed rows of a shape are spread over its E experts unevenly (in proportion
 * to exp(z / 2), z normal), then each of the layer's six products runs as one grouped call:
 *   up    NN  [rows, H] [H, 2F]        up dx    NT  [rows, 2F] [H, 2F]^T    up dw    TN  [H, 2F]
 *   down  NN  [rows, F] [F, H]         down dx  NT  [rows, H] [F, H]^T      down dw  TN  [F, H]
 * 2 rows H 2F or 2 rows F H operations. A repetition is one such call and one N x N x N product, in
 * turn, so that a slow moment of the machine meets both; weight gradients are added to f32, as in a
 * step. */
#include "launcher/command.h"

#include "base/log.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "launcher/figures.h"
#include "launcher/machine.h"
#include "launcher/session.h"
#include "launcher/setup.h"
#include "moe/gleaner.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WARM_UPS = 1, REPEAT_MAX = 200, SHAPES_MAX = 16, NUMBERS = 5, PRODUCTS = 6 };

typedef struct shape {
    int64_t tokens, hidden, expert_hidden, experts, k;
} shape_t;

typedef struct product {
    const char *name;
    gln_gemm_form_t form;
    bool up; /* of [H, 2F]; else of [F, H] */
} product_t;

static const product_t products[PRODUCTS] = {
    {"up", GLN_GEMM_NN, true},    {"down", GLN_GEMM_NN, false},    {"down dx", GLN_GEMM_NT, false},
    {"up dx", GLN_GEMM_NT, true}, {"down dw", GLN_GEMM_TN, false}, {"up dw", GLN_GEMM_TN, true}};

typedef struct bench {
    gln_session_t session;
    gln_comm_t *self;
    gln_machine_t machine;
    shape_t shapes[SHAPES_MAX];
    int shapes_count;
    int64_t repeat, gemm_n;
    gln_pool_t *pool;
    gln_kernels_t *kernels; /* of the type at hand */
    gln_arena_t arena;
    void *a, *b, *c, *plain_a, *plain_b, *plain_c;
    int64_t *rows;     /* [E] of the shape at hand */
    gln_gemm_t *items; /* [E] */
    double seconds[REPEAT_MAX], plain_seconds[REPEAT_MAX];
} bench_t;

static gln_status_t read_shapes(const char *text, bench_t *b)
{
    const char *at = text;
    do {
        int64_t numbers[NUMBERS];
        int count = 0;
        char *end = NULL;
        bool good = b->shapes_count < SHAPES_MAX;
        for (; good && count < NUMBERS; count++) {
            errno = 0;
            numbers[count] = strtoll(at, &end, 10);
            good = end != at && !errno && numbers[count] >= 1 && numbers[count] <= 1 << 20 &&
                   (count == NUMBERS - 1 ? !*end || *end == ',' : *end == ':');
            at = end + 1;
        }
        if (!good)
            return gln_fail(GLN_ERR_ARGUMENT,
                            "--shapes: expected at most %d of T:H:F:E:K with commas between them, "
                            "numbers from 1 to %d, such as 2048:512:2048:8:2; found \"%.200s\"",
                            SHAPES_MAX, 1 << 20, text);
        b->shapes[b->shapes_count++] =
            (shape_t){numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]};
        at = *end ? end + 1 : NULL;
    } while (at);
    return GLN_OK;
}

static gln_status_t load(const gln_arguments_t *arguments, bench_t *b)
{
    const char *shapes = arguments->value[GLN_OPTION_SHAPES];
    int64_t threads;
    gln_status_t status = read_shapes(
        shapes ? shapes
               : "2048:512:2048:8:2,4096:1024:1024:64:8,4096:768:2048:16:1,64:512:512:256:8",
        b);
    if (status == GLN_OK)
        status = gln_arguments_int(arguments, GLN_OPTION_REPEAT, 5, 1, REPEAT_MAX, &b->repeat);
    if (status == GLN_OK)
        status = gln_arguments_int(arguments, GLN_OPTION_GEMM, 2048, 1, 1 << 15, &b->gemm_n);
    if (status == GLN_OK)
        status = gln_arguments_int(arguments, GLN_OPTION_THREADS, 0, 1, 1024, &threads);
    if (status == GLN_OK) status = gln_machine_look(b->self, (int)threads, &b->machine);
    return status;
}

static int64_t larger(int64_t x, int64_t y)
{
    return x > y ? x : y;
}

/* Memory for the largest operands of any shape, in f32. Called twice: to count, and to place. */
static void lay_out(bench_t *b)
{
    int64_t activations = 0, weights = 0, experts = 0, square = b->gemm_n * b->gemm_n;
    for (int i = 0; i < b->shapes_count; i++) {
        const shape_t *s = &b->shapes[i];
        activations =
            larger(activations, s->tokens * s->k * larger(s->hidden, 2 * s->expert_hidden));
        weights = larger(weights, s->experts * s->hidden * 2 * s->expert_hidden);
        experts = larger(experts, s->experts);
    }
    int64_t counts[] = {
        activations, larger(activations, weights), larger(activations, weights), square, square,
        square};
    void **arrays[] = {&b->a, &b->b, &b->c, &b->plain_a, &b->plain_b, &b->plain_c};
    for (int i = 0; i < 6; i++)
        *arrays[i] = gln_arena_take(&b->arena, (size_t)counts[i] * sizeof(float));
    b->rows = gln_arena_take(&b->arena, (size_t)experts * sizeof *b->rows);
    b->items = gln_arena_take(&b->arena, (size_t)experts * sizeof *b->items);
}

static void spread_rows(bench_t *b, const shape_t *s)
{
    uint64_t id = gln_rng_stream(GLN_RNG_TEST, 7, 0);
    int64_t total = s->tokens * s->k, given = 0;
    double sum = 0;
    for (int64_t e = 0; e < s->experts; e++)
        sum += exp(gln_rng_normal(1, id, (uint64_t)e) / 2);
    for (int64_t e = 0; e < s->experts; e++) {
        double share = exp(gln_rng_normal(1, id, (uint64_t)e) / 2) / sum;
        b->rows[e] = (int64_t)(share * (double)total);
        given += b->rows[e];
    }
    for (int64_t e = 0; given < total; e = (e + 1) % s->experts, given++)
        b->rows[e]++;
}

static void fill(const bench_t *b, void *data, int64_t count)
{
    for (int64_t i = 0; i < count; i++) /* any numbers of size 1 */
        gln_store(data, i, b->kernels->dtype, (double)((i * 7919) % 2001 - 1000) * 1e-3);
}

/* @return operations */
static double set_items(bench_t *b, const shape_t *s, const product_t *p)
{
    gln_dtype_t dtype = b->kernels->dtype, dtype_c = p->form == GLN_GEMM_TN ? GLN_F32 : dtype;
    int64_t in = p->up ? s->hidden : s->expert_hidden;
    int64_t out = p->up ? 2 * s->expert_hidden : s->hidden;
    int64_t first = 0; /* row */
    for (int64_t e = 0; e < s->experts; first += b->rows[e++]) {
        gln_gemm_t *g = &b->items[e];
        int64_t rows = b->rows[e], weight = e * in * out;
        if (p->form == GLN_GEMM_TN)
            *g = (gln_gemm_t){in,   out,
                              rows, gln_at(b->a, first * in, dtype),
                              in,   gln_at(b->b, first * out, dtype),
                              out,  gln_at(b->c, weight, dtype_c),
                              out};
        else if (p->form == GLN_GEMM_NN)
            *g = (gln_gemm_t){rows, out,
                              in,   gln_at(b->a, first * in, dtype),
                              in,   gln_at(b->b, weight, dtype),
                              out,  gln_at(b->c, first * out, dtype_c),
                              out};
        else
            *g = (gln_gemm_t){rows, in,
                              out,  gln_at(b->a, first * out, dtype),
                              out,  gln_at(b->b, weight, dtype),
                              out,  gln_at(b->c, first * in, dtype_c),
                              in};
    }
    return 2 * (double)first * (double)in * (double)out;
}

typedef gln_status_t (*gemm_t)(gln_kernels_t *, gln_gemm_mode_t, const gln_gemm_t *, int);

static gln_status_t run(bench_t *b, gemm_t gemm, gln_gemm_mode_t mode, const gln_gemm_t *items,
                        int64_t count, double *seconds)
{
    double begin = gln_clock();
    gln_status_t status = gemm(b->kernels, mode, items, (int)count);
    *seconds = gln_clock() - begin;
    return status;
}

static int compare(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

typedef struct figures {
    const shape_t *shape;
    const product_t *product;
    double flops, median, min, plain_median, plain_min; /* seconds */
    double rate, plain_rate, ratio;                     /* of medians, GFLOP/s */
    int64_t rows_min, rows_max;                         /* of an expert */
} figures_t;

static gln_status_t measure(bench_t *b, const shape_t *s, const product_t *p, figures_t *r)
{
    int tn = p->form == GLN_GEMM_TN;
    int64_t n = b->gemm_n;
    gln_gemm_t plain = {n, n, n, b->plain_a, n, b->plain_b, n, b->plain_c, n};
    gln_status_t status = GLN_OK;
    *r = (figures_t){.shape = s, .product = p, .flops = set_items(b, s, p)};
    for (int64_t i = -WARM_UPS; status == GLN_OK && i < b->repeat; i++) {
        int64_t place = i < 0 ? 0 : i;
        gln_gemm_mode_t mode = {.form = p->form, .accumulate = tn, .c_acc = tn};
        status = run(b, b->kernels->ops->gemm, mode, b->items, s->experts, &b->seconds[place]);
        if (status == GLN_OK)
            status = run(b, b->kernels->ops->gemm_library, (gln_gemm_mode_t){.form = GLN_GEMM_NN},
                         &plain, 1, &b->plain_seconds[place]);
    }
    if (status != GLN_OK) return status;
    qsort(b->seconds, (size_t)b->repeat, sizeof(double), compare);
    qsort(b->plain_seconds, (size_t)b->repeat, sizeof(double), compare);
    r->median = b->seconds[b->repeat / 2];
    r->min = b->seconds[0];
    r->plain_median = b->plain_seconds[b->repeat / 2];
    r->plain_min = b->plain_seconds[0];
    r->rate = 1e-9 * r->flops / r->median;
    r->plain_rate = 2e-9 * pow((double)n, 3) / r->plain_median;
    r->ratio = r->rate / r->plain_rate;
    r->rows_min = r->rows_max = b->rows[0];
    for (int64_t e = 1; e < s->experts; e++) {
        r->rows_min = b->rows[e] < r->rows_min ? b->rows[e] : r->rows_min;
        r->rows_max = larger(r->rows_max, b->rows[e]);
    }
    return GLN_OK;
}

static gln_status_t print_json(const bench_t *b, const figures_t *r)
{
    static const char *const forms[] = {"NN", "NT", "TN"};
    const shape_t *s = r->shape;
    json_t *object = json_pack(
        "{s:s, s:s, s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "bench", "gemm",
        "dtype", gln_dtype_name(b->kernels->dtype), "product", r->product->name, "form",
        forms[r->product->form], "threads", b->machine.threads, "tokens", (json_int_t)s->tokens,
        "hidden", (json_int_t)s->hidden, "expert_hidden", (json_int_t)s->expert_hidden, "experts",
        (json_int_t)s->experts, "k", (json_int_t)s->k, "rows_min", (json_int_t)r->rows_min,
        "rows_max", (json_int_t)r->rows_max, "repeat", (json_int_t)b->repeat, "plain_n",
        (json_int_t)b->gemm_n);
    const struct {
        const char *key;
        double value;
    } reals[] = {{"flops", r->flops},
                 {"median_seconds", r->median},
                 {"min_seconds", r->min},
                 {"gflops_per_second", r->rate},
                 {"plain_median_seconds", r->plain_median},
                 {"plain_min_seconds", r->plain_min},
                 {"plain_gflops_per_second", r->plain_rate},
                 {"ratio", r->ratio}};
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++)
        json_object_set_new(object, reals[i].key, gln_figures_real(reals[i].value));
    return gln_figures_print(object, stdout, "standard output");
}

static void print_head(const bench_t *b)
{
    printf("products of a layer's experts against a plain %lld^3 product\n%s; %d thread%s; %lld "
           "repetitions\n",
           (long long)b->gemm_n, b->machine.summary, b->machine.threads,
           b->machine.threads == 1 ? "" : "s", (long long)b->repeat);
}

static void print(const bench_t *b, const figures_t *r, bool first)
{
    const shape_t *s = r->shape;
    if (first) {
        printf("\nT %lld, H %lld, F %lld, E %lld, K %lld: %lld rows, %lld to %lld an expert; %s\n",
               (long long)s->tokens, (long long)s->hidden, (long long)s->expert_hidden,
               (long long)s->experts, (long long)s->k, (long long)(s->tokens * s->k),
               (long long)r->rows_min, (long long)r->rows_max, gln_dtype_name(b->kernels->dtype));
        printf("%-10s %10s %10s %10s %10s %8s\n", "", "median ms", "minimum ms", "GFLOP/s", "plain",
               "ratio");
    }
    printf("%-10s %10.2f %10.2f %10.1f %10.1f %8.2f\n", r->product->name, 1e3 * r->median,
           1e3 * r->min, r->rate, r->plain_rate, r->ratio);
    fflush(stdout);
}

/* All products of all shapes in one type. */
static gln_status_t bench_dtype(const gln_arguments_t *arguments, bench_t *b, gln_dtype_t dtype)
{
    gln_status_t status = gln_kernels_open(GLN_BACKEND_CPU, dtype, b->pool, &b->kernels);
    if (status != GLN_OK) return status;
    fill(b, b->plain_a, b->gemm_n * b->gemm_n);
    fill(b, b->plain_b, b->gemm_n * b->gemm_n);
    for (int i = 0; status == GLN_OK && i < b->shapes_count; i++) {
        const shape_t *s = &b->shapes[i];
        int64_t rows = s->tokens * s->k, wide = larger(s->hidden, 2 * s->expert_hidden);
        fill(b, b->a, rows * wide);
        fill(b, b->b, larger(rows * wide, s->experts * s->hidden * 2 * s->expert_hidden));
        spread_rows(b, s);
        for (int p = 0; status == GLN_OK && p < PRODUCTS; p++) {
            figures_t figures;
            status = measure(b, s, &products[p], &figures);
            if (status != GLN_OK) break;
            if (arguments->given[GLN_OPTION_JSON])
                status = print_json(b, &figures);
            else
                print(b, &figures, p == 0);
        }
    }
    gln_kernels_close(b->kernels);
    b->kernels = NULL;
    return status;
}

static gln_status_t bench(const gln_arguments_t *arguments, bench_t *b)
{
    gln_status_t status = load(arguments, b);
    if (status == GLN_OK) status = gln_pool_open(b->machine.threads, &b->pool);
    if (status != GLN_OK) return status;
    lay_out(b);
    status = gln_arena_commit(&b->arena, gln_device_cpu());
    if (status != GLN_OK) return status;
    lay_out(b);
    b->session.working = true;
    if (!arguments->given[GLN_OPTION_JSON]) print_head(b);
    status = bench_dtype(arguments, b, GLN_F32);
    if (status == GLN_OK) status = bench_dtype(arguments, b, GLN_BF16);
    return status;
}

int gln_command_bench_gemm(const gln_arguments_t *arguments)
{
    static bench_t state;
    bench_t *b = &state;
    if (gln_session_environment_rank() != 0) return GLN_EXIT_OK;
    *b = (bench_t){0};
    gln_session_start(&b->session);
    gln_status_t status = gln_comm_open_self(&b->self);
    if (status == GLN_OK) status = bench(arguments, b);
    status = gln_session_agree(&b->session, status);
    gln_arena_close(&b->arena);
    gln_pool_close(b->pool);
    gln_comm_close(b->self);
    return gln_session_leave(&b->session, status);
}
