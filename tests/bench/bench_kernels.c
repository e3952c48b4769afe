/* Speed of the operations of a backend.
 *
 *     bench_kernels [--json] [--ref] [--threads N] [--seconds S] [--only TEXT] [--cpu-time]
 *
 * One line per operation and size: median and minimum time, the rate they give, and the ratio of
 * the minimum to a bound measured in the same run. The bound of products and attention is a oneDNN
 * GEMM of 2048^3 with as many threads; that of all others is memcpy of as many bytes, shared by the
 * same pool. Attention counts 2 S^2 dh operations per head forward (half of all pairs, two products
 * of 2 dh) and 5 S^2 dh backward. */
#include <dnnl.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "kernels/kernels.h"
#include "tests/bench/bench_cases.h"

#define TIMES_MAX 2000
#define GEMM_BOUND_SIZE 2048
#define COPY_TASK_BYTES 131072

typedef struct options {
    int json, threads_count;
    gln_backend_t backend;
    double seconds;
    const char *only;
} options_t;

typedef struct timing {
    double median_s, minimum_s;
} timing_t;

typedef struct copy_run {
    const char *from;
    char *to;
    size_t bytes;
} copy_run_t;

static clockid_t clock_kind = CLOCK_MONOTONIC;

static double now_s(void)
{
    struct timespec now;

    clock_gettime(clock_kind, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int compare(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;

    return (a > b) - (a < b);
}

/* Call until `seconds` are spent, 5 times at least; the first call is not counted. */
static timing_t measure(void (*call)(void *), void *ctx, double seconds)
{
    static double times[TIMES_MAX];
    double total = 0;
    int count = 0;

    call(ctx);
    while (count < TIMES_MAX && (count < 5 || total < seconds)) {
        double start = now_s();

        call(ctx);
        times[count] = now_s() - start;
        total += times[count++];
    }
    qsort(times, (size_t)count, sizeof *times, compare);
    return (timing_t){times[count / 2], times[0]};
}

static void copy_task(void *ctx, int task, int worker)
{
    const copy_run_t *run = ctx;
    size_t first = (size_t)task * COPY_TASK_BYTES, bytes = run->bytes - first;

    (void)worker;
    memcpy(run->to + first, run->from + first, bytes < COPY_TASK_BYTES ? bytes : COPY_TASK_BYTES);
}

typedef struct copy_call {
    gln_pool_t *pool;
    copy_run_t run;
} copy_call_t;

static void call_copy(void *ctx)
{
    copy_call_t *copy = ctx;

    gln_pool_run(copy->pool, (int)((copy->run.bytes + COPY_TASK_BYTES - 1) / COPY_TASK_BYTES),
                 copy_task, &copy->run);
}

/* Bytes per second of memcpy, reads and writes counted, over `bytes` of them. */
static double copy_rate(gln_pool_t *pool, double bytes, double seconds)
{
    copy_call_t copy = {pool, {NULL, NULL, (size_t)bytes / 2}};
    char *memory = aligned_alloc(64, (copy.run.bytes + 63) / 64 * 128);
    double rate;

    if (memory == NULL) return 0;
    memset(memory, 1, (copy.run.bytes + 63) / 64 * 128);
    copy.run.from = memory;
    copy.run.to = memory + (copy.run.bytes + 63) / 64 * 64;
    rate = bytes / measure(call_copy, &copy, seconds).minimum_s;
    free(memory);
    return rate;
}

typedef struct gemm_call {
    float *a, *b, *c;
} gemm_call_t;

static void call_library(void *ctx)
{
    gemm_call_t *call = ctx;

    dnnl_sgemm('N', 'N', GEMM_BOUND_SIZE, GEMM_BOUND_SIZE, GEMM_BOUND_SIZE, 1.0f, call->a,
               GEMM_BOUND_SIZE, call->b, GEMM_BOUND_SIZE, 0.0f, call->c, GEMM_BOUND_SIZE);
}

/* Operations per second of one large GEMM of the library with threads of its own. */
static double gemm_rate(int threads_count, double seconds)
{
    size_t count = (size_t)GEMM_BOUND_SIZE * GEMM_BOUND_SIZE;
    float *memory = malloc(3 * count * sizeof *memory);
    gemm_call_t call = {memory, memory + count, memory + 2 * count};
    struct timespec settle = {0, 100000000}; /* for the library's threads to stop spinning */
    double rate;

    if (memory == NULL) return 0;
    for (size_t i = 0; i < 3 * count; ++i)
        memory[i] = (float)(i % 13) * 0.1f - 0.6f;
    omp_set_num_threads(threads_count);
    rate = 2.0 * GEMM_BOUND_SIZE * (double)count / measure(call_library, &call, seconds).minimum_s;
    omp_set_num_threads(1);
    nanosleep(&settle, NULL);
    free(memory);
    return rate;
}

static void print_case(const options_t *options, const gln_bench_case_t *bench, timing_t timing,
                       double bound)
{
    double work = bench->bound == GLN_BENCH_GEMM ? bench->flops : bench->bytes;
    double rate = work / timing.minimum_s;
    const char *unit = bench->bound == GLN_BENCH_GEMM ? "GFLOP/s" : "GB/s";

    if (options->json)
        printf("{\"name\":\"%s\",\"shape\":\"%s\",\"threads\":%d,\"median_us\":%.2f,"
               "\"minimum_us\":%.2f,\"rate\":%.3f,\"median_rate\":%.3f,\"bound\":%.3f,"
               "\"unit\":\"%s\",\"ratio\":%.4f}\n",
               bench->name, bench->shape, options->threads_count, timing.median_s * 1e6,
               timing.minimum_s * 1e6, rate / 1e9, work / timing.median_s / 1e9, bound / 1e9, unit,
               rate / bound);
    else
        printf("%-20s %-42s %10.1f %10.1f us %8.1f of %6.1f %-7s %5.2f\n", bench->name,
               bench->shape, timing.median_s * 1e6, timing.minimum_s * 1e6, rate / 1e9, bound / 1e9,
               unit, rate / bound);
    fflush(stdout);
}

static int read_options(int argc, char **argv, options_t *options)
{
    for (int i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "--json") == 0)
            options->json = 1;
        else if (strcmp(argv[i], "--ref") == 0)
            options->backend = GLN_BACKEND_REF;
        else if (strcmp(argv[i], "--cpu-time") == 0)
            clock_kind = CLOCK_PROCESS_CPUTIME_ID;
        else if (strcmp(argv[i], "--threads") == 0 && i + 1 < argc)
            options->threads_count = atoi(argv[++i]);
        else if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc)
            options->seconds = atof(argv[++i]);
        else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc)
            options->only = argv[++i];
        else
            return 0;
    }
    if (clock_kind != CLOCK_MONOTONIC) options->threads_count = 1;
    return options->threads_count >= 1;
}

typedef struct case_call {
    gln_kernels_t *kernels;
    const gln_bench_case_t *bench;
} case_call_t;

static void call_case(void *ctx)
{
    case_call_t *call = ctx;

    if (call->bench->run(call->kernels, call->bench->args) != GLN_OK) {
        fprintf(stderr, "%s: %s\n", call->bench->name, gln_last_error());
        exit(1);
    }
}

int main(int argc, char **argv)
{
    options_t options = {0, 2, GLN_BACKEND_CPU, 0.5, ""};
    gln_pool_t *pool;
    gln_kernels_t *kernels;
    gln_bench_case_t bench;
    double gemm_bound = 0;

    if (!read_options(argc, argv, &options)) {
        fprintf(stderr, "usage: bench_kernels [--json] [--ref] [--threads N] [--seconds S] "
                        "[--only TEXT] [--cpu-time]\n");
        return 2;
    }
    if (gln_pool_open(options.threads_count, &pool) != GLN_OK ||
        gln_kernels_open(options.backend, GLN_F32, pool, &kernels) != GLN_OK) {
        fprintf(stderr, "%s\n", gln_last_error());
        return 1;
    }
    for (int i = 0; gln_bench_case_open(i, options.only, &bench); ++i) {
        case_call_t call = {kernels, &bench};
        timing_t timing;

        if (bench.run == NULL) continue;     /* not asked for */
        if (bench.bound == GLN_BENCH_GEMM) { /* again for each: other programs come and go */
            double rate = gemm_rate(options.threads_count, options.seconds / 2);

            gemm_bound = rate > gemm_bound ? rate : gemm_bound;
        }
        timing = measure(call_case, &call, options.seconds);
        print_case(&options, &bench, timing,
                   bench.bound == GLN_BENCH_GEMM
                       ? gemm_bound
                       : copy_rate(pool, bench.bytes, options.seconds / 2));
        gln_bench_case_close(&bench);
    }
    gln_kernels_close(kernels);
    gln_pool_close(pool);
    return 0;
}
