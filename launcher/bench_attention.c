/* `gleaner bench attention`: causal attention, forward and backward, in f32 and bf16, against one
 * large product of the same type.
 *
 * One process. Queries, keys and values lie side by side in a row, as in the model. Operations by
 * formula, half of all pairs of a query and a key being causal: forward two products, backward five
 * of 2 dh for each pair and head, so 2 B S^2 heads dh and 5 B S^2 heads dh. A repetition is a
 * forward call, a backward call and one N x N x N product, in turn. */
#include "kernels/kernels.h"
#include "launcher/command.h"

#include "base/log.h"
#include "launcher/figures.h"
#include "launcher/machine.h"
#include "launcher/session.h"
#include "launcher/setup.h"
#include "moe/gleaner.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>

enum { WARM_UPS = 1, REPEAT_MAX = 200, SHAPES_MAX = 16, NUMBERS = 5, PASSES = 2 };

typedef struct shape {
    int64_t sequences, s, heads, kv_heads, dh;
} shape_t;

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
    void *qkv, *dqkv, *out, *dout, *lse, *plain_a, *plain_b, *plain_c;
    double seconds[PASSES + 1][REPEAT_MAX]; /* forward, backward, plain */
} bench_t;

static const char *const pass_names[PASSES] = {"forward", "backward"};

static gln_status_t read_shapes(const char *text, bench_t *b)
{
    const char *at = text;
    do {
        int64_t numbers[NUMBERS] = {0};
        int count = 0;
        char *end = NULL;
        bool good = b->shapes_count < SHAPES_MAX;
        for (; good && count < NUMBERS; count++) {
            errno = 0;
            numbers[count] = strtoll(at, &end, 10);
            good = end != at && !errno && numbers[count] >= 1 && numbers[count] <= 1 << 16 &&
                   (count == NUMBERS - 1 ? !*end || *end == ',' : *end == ':');
            at = end + 1;
        }
        if (!good || numbers[2] % numbers[3] != 0)
            return gln_fail(GLN_ERR_ARGUMENT,
                            "--shapes: expected at most %d of B:S:HEADS:KV:DH with commas between "
                            "them, numbers from 1 to %d, HEADS a multiple of KV, such as "
                            "4:1024:8:2:64; found \"%.200s\"",
                            SHAPES_MAX, 1 << 16, text);
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
        shapes ? shapes : "16:256:8:2:64,4:1024:8:2:64,1:4096:8:2:64,4:1024:16:4:128,4:1024:8:8:32",
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

static int64_t row_width(const shape_t *s)
{
    return (s->heads + 2 * s->kv_heads) * s->dh;
}

/* Memory for the largest shape, in f32. Called twice: to count, and to place. */
static void lay_out(bench_t *b)
{
    int64_t rows = 0, heads = 0, sums = 0, square = b->gemm_n * b->gemm_n;
    for (int i = 0; i < b->shapes_count; i++) {
        const shape_t *s = &b->shapes[i];
        const int64_t n = s->sequences * s->s;
        rows = larger(rows, n * row_width(s));
        heads = larger(heads, n * s->heads * s->dh);
        sums = larger(sums, n * s->heads);
    }
    const int64_t counts[] = {rows, rows, heads, heads, sums, square, square, square};
    void **arrays[] = {&b->qkv, &b->dqkv,    &b->out,     &b->dout,
                       &b->lse, &b->plain_a, &b->plain_b, &b->plain_c};
    for (int i = 0; i < 8; i++)
        *arrays[i] = gln_arena_take(&b->arena, (size_t)counts[i] * sizeof(float));
}

static void fill(const bench_t *b, void *data, int64_t count)
{
    for (int64_t i = 0; i < count; i++) /* any numbers of size 1 */
        gln_store(data, i, b->kernels->dtype, (double)((i * 7919) % 2001 - 1000) * 1e-3);
}

static gln_attention_backward_t arguments_of(const bench_t *b, const shape_t *s)
{
    const gln_dtype_t dtype = b->kernels->dtype;
    const int64_t k = s->heads * s->dh, v = k + s->kv_heads * s->dh;
    return (gln_attention_backward_t){.forward = {.sequences = s->sequences,
                                                  .s = s->s,
                                                  .heads = (int)s->heads,
                                                  .kv_heads = (int)s->kv_heads,
                                                  .dh = (int)s->dh,
                                                  .q = b->qkv,
                                                  .k = gln_at(b->qkv, k, dtype),
                                                  .v = gln_at(b->qkv, v, dtype),
                                                  .ldqkv = row_width(s),
                                                  .out = b->out,
                                                  .lse = b->lse},
                                      .dout = b->dout,
                                      .dq = b->dqkv,
                                      .dk = gln_at(b->dqkv, k, dtype),
                                      .dv = gln_at(b->dqkv, v, dtype)};
}

static int compare(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

static gln_status_t measure(bench_t *b, const shape_t *s)
{
    const gln_attention_backward_t args = arguments_of(b, s);
    const int64_t n = b->gemm_n;
    const gln_gemm_t plain = {n, n, n, b->plain_a, n, b->plain_b, n, b->plain_c, n};
    const gln_gemm_mode_t mode = {.form = GLN_GEMM_NN};
    for (int64_t i = -WARM_UPS; i < b->repeat; i++) {
        const int64_t at = i < 0 ? 0 : i;
        double times[PASSES + 2] = {gln_clock()};
        gln_status_t status = b->kernels->ops->attention(b->kernels, &args.forward);
        times[1] = gln_clock();
        if (status == GLN_OK) status = b->kernels->ops->attention_backward(b->kernels, &args);
        times[2] = gln_clock();
        if (status == GLN_OK) status = b->kernels->ops->gemm_library(b->kernels, mode, &plain, 1);
        times[3] = gln_clock();
        if (status != GLN_OK) return status;
        for (int pass = 0; pass <= PASSES; pass++)
            b->seconds[pass][at] = times[pass + 1] - times[pass];
    }
    for (int pass = 0; pass <= PASSES; pass++)
        qsort(b->seconds[pass], (size_t)b->repeat, sizeof(double), compare);
    return GLN_OK;
}

typedef struct figures {
    const shape_t *shape;
    int pass;
    double flops, median, min, plain_median, plain_min; /* seconds */
    double rate, plain_rate, ratio;                     /* of medians, GFLOP/s */
} figures_t;

static figures_t figures_of(const bench_t *b, const shape_t *s, int pass)
{
    figures_t r = {.shape = s,
                   .pass = pass,
                   .flops = (pass ? 5.0 : 2.0) * (double)s->sequences * (double)s->s *
                            (double)s->s * (double)s->heads * (double)s->dh,
                   .median = b->seconds[pass][b->repeat / 2],
                   .min = b->seconds[pass][0],
                   .plain_median = b->seconds[PASSES][b->repeat / 2],
                   .plain_min = b->seconds[PASSES][0]};
    r.rate = 1e-9 * r.flops / r.median;
    r.plain_rate = 2e-9 * pow((double)b->gemm_n, 3) / r.plain_median;
    r.ratio = r.rate / r.plain_rate;
    return r;
}

static gln_status_t print_json(const bench_t *b, const figures_t *r)
{
    const shape_t *s = r->shape;
    json_t *object = json_pack(
        "{s:s, s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "bench", "attention", "dtype",
        gln_dtype_name(b->kernels->dtype), "pass", pass_names[r->pass], "threads",
        b->machine.threads, "sequences", (json_int_t)s->sequences, "sequence", (json_int_t)s->s,
        "heads", (json_int_t)s->heads, "kv_heads", (json_int_t)s->kv_heads, "head_dim",
        (json_int_t)s->dh, "repeat", (json_int_t)b->repeat, "plain_n", (json_int_t)b->gemm_n);
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
    printf("causal attention against a plain %lld^3 product\n%s; %d thread%s; %lld repetitions\n",
           (long long)b->gemm_n, b->machine.summary, b->machine.threads,
           b->machine.threads == 1 ? "" : "s", (long long)b->repeat);
    printf("\n%4s %6s %5s %4s %4s %-5s %-9s %10s %10s %9s %9s %6s\n", "B", "S", "heads", "kv", "dh",
           "", "", "median ms", "minimum ms", "GFLOP/s", "plain", "ratio");
}

static void print(const bench_t *b, const figures_t *r)
{
    const shape_t *s = r->shape;
    printf("%4lld %6lld %5lld %4lld %4lld %-5s %-9s %10.2f %10.2f %9.1f %9.1f %6.2f\n",
           (long long)s->sequences, (long long)s->s, (long long)s->heads, (long long)s->kv_heads,
           (long long)s->dh, gln_dtype_name(b->kernels->dtype), pass_names[r->pass],
           1e3 * r->median, 1e3 * r->min, r->rate, r->plain_rate, r->ratio);
    fflush(stdout);
}

/* All shapes in one type. */
static gln_status_t bench_dtype(const gln_arguments_t *arguments, bench_t *b, gln_dtype_t dtype)
{
    gln_status_t status = gln_kernels_open(GLN_BACKEND_CPU, dtype, b->pool, &b->kernels);
    if (status != GLN_OK) return status;
    fill(b, b->plain_a, b->gemm_n * b->gemm_n);
    fill(b, b->plain_b, b->gemm_n * b->gemm_n);
    for (int i = 0; status == GLN_OK && i < b->shapes_count; i++) {
        const shape_t *s = &b->shapes[i];
        const int64_t n = s->sequences * s->s;
        fill(b, b->qkv, n * row_width(s));
        fill(b, b->dout, n * s->heads * s->dh);
        status = measure(b, s);
        for (int pass = 0; status == GLN_OK && pass < PASSES; pass++) {
            const figures_t figures = figures_of(b, s, pass);
            if (arguments->given[GLN_OPTION_JSON])
                status = print_json(b, &figures);
            else
                print(b, &figures);
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

int gln_command_bench_attention(const gln_arguments_t *arguments)
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
