/* AdamW in one pass, an in-place sum, and the sum of squares, O(n) each, bound by memory. */
#ifndef FN
#include <math.h>

#include "base/clones.h"
#include "kernels/cpu/past.h"

#define SQUARES_BLOCK 32768 /* elements of one partial sum */
#define ADAMW_PIECE 2048

typedef struct adamw_factors {
    float lr, beta1, rest1, beta2, rest2, eps, decay, grad_scale, correct_m, correct_v;
} adamw_factors_t;

typedef struct adamw_run {
    const gln_adamw_t *args;
    adamw_factors_t factors;
    int past; /* the copy */
} adamw_run_t;

typedef struct elements_run {
    int64_t n, first;
    const void *x;
    void *y;
    double *squares;
    int past;
} elements_run_t;

GLN_CLONES static void adamw_range(const adamw_factors_t *factors, const float *restrict g,
                                   int64_t count, float *restrict w, float *restrict m,
                                   float *restrict v)
{
    const adamw_factors_t f = *factors;

    for (int64_t i = 0; i < count; ++i) {
        float gradient = f.grad_scale * g[i];
        float m_new = f.beta1 * m[i] + f.rest1 * gradient;
        float v_new = f.beta2 * v[i] + f.rest2 * gradient * gradient;
        float step = (m_new * f.correct_m) / (sqrtf(v_new * f.correct_v) + f.eps);

        w[i] -= f.lr * (step + f.decay * w[i]);
        m[i] = m_new;
        v[i] = v_new;
    }
}

GLN_CLONES static double squares_range(const float *x, int64_t count)
{
    double lanes[GLN_LANES] = {0}, sum = 0;
    int64_t i = 0;

    for (; i + GLN_LANES <= count; i += GLN_LANES)
        for (int lane = 0; lane < GLN_LANES; ++lane)
            lanes[lane] += (double)x[i + lane] * (double)x[i + lane];
    for (int lane = 0; i < count; ++i, ++lane)
        lanes[lane] += (double)x[i] * (double)x[i];
    for (int lane = 0; lane < GLN_LANES; ++lane)
        sum += lanes[lane];
    return sum;
}

static void squares_task(void *ctx, int task, int worker)
{
    const elements_run_t *run = ctx;
    int64_t first = run->first + (int64_t)task * SQUARES_BLOCK;

    (void)worker;
    run->squares[task] =
        squares_range((const float *)run->x + first, gln_cpu_min(SQUARES_BLOCK, run->n - first));
}

gln_status_t gln_cpu_sum_squares(gln_kernels_t *k, int64_t n, const void *x, double *out)
{
    gln_cpu_state_t *state = k->state;
    double total = 0;

    for (int64_t first = 0; first < n; first += (int64_t)GLN_CPU_PARTIALS_MAX * SQUARES_BLOCK) {
        elements_run_t run = {.n = n, .first = first, .x = x, .squares = state->squares};
        int tasks = (int)gln_cpu_min(GLN_CPU_PARTIALS_MAX, gln_cpu_tasks(n - first, SQUARES_BLOCK));

        gln_pool_run(k->pool, tasks, squares_task, &run);
        for (int task = 0; task < tasks; ++task)
            total += state->squares[task];
    }
    *out = total;
    return GLN_OK;
}

#define GLN_CPU_FILE "kernels/cpu/optimizer.c"
#include "kernels/cpu/both_types.inc"
#else

GLN_CLONES static void FN(round_range)(const float *restrict x, int64_t count, elem *restrict y)
{
    for (int64_t i = 0; i < count; ++i)
        y[i] = PUT(x[i]);
}

/* Past the caches where that is asked for and whole cache lines are written. */
static void FN(round_out)(const float *x, int64_t count, int past, elem *y)
{
    elem buffer[ADAMW_PIECE] __attribute__((aligned(64)));

    past = past && (size_t)count * sizeof *y % 64 == 0;
    FN(round_range)(x, count, past ? buffer : y);
    if (past) gln_cpu_store_past(buffer, (size_t)count * sizeof *buffer, y);
}

/* In pieces: the weights of one are still in the first-level cache when they are copied. */
static void FN(adamw_task)(void *ctx, int task, int worker)
{
    const adamw_run_t *run = ctx;
    const gln_adamw_t *args = run->args;
    int64_t first = (int64_t)task * GLN_CPU_TASK_ELEMENTS;
    int64_t last = gln_cpu_min(first + GLN_CPU_TASK_ELEMENTS, args->n);

    (void)worker;
    for (int64_t at = first; at < last; at += ADAMW_PIECE) {
        int64_t count = gln_cpu_min(ADAMW_PIECE, last - at);
        float *w = (float *)args->w + at;

        adamw_range(&run->factors, (const float *)args->g + at, count, w, (float *)args->m + at,
                    (float *)args->v + at);
        if (args->w_compute != NULL)
            FN(round_out)(w, count, run->past, (elem *)args->w_compute + at);
    }
    if (run->past) gln_cpu_past_done();
}

gln_status_t FN(adamw)(gln_kernels_t *k, const gln_adamw_t *args)
{
    adamw_run_t run = {args,
                       {.lr = (float)args->lr,
                        .beta1 = (float)args->beta1,
                        .rest1 = (float)(1.0 - args->beta1),
                        .beta2 = (float)args->beta2,
                        .rest2 = (float)(1.0 - args->beta2),
                        .eps = (float)args->eps,
                        .decay = (float)args->weight_decay,
                        .grad_scale = (float)args->grad_scale,
                        .correct_m = (float)(1.0 / (1.0 - pow(args->beta1, (double)args->t))),
                        .correct_v = (float)(1.0 / (1.0 - pow(args->beta2, (double)args->t)))},
                       args->w_compute != NULL &&
                           gln_cpu_goes_past(args->w_compute, args->n / 64, 64 * sizeof(elem))};

    gln_pool_run(k->pool, gln_cpu_tasks(args->n, GLN_CPU_TASK_ELEMENTS), FN(adamw_task), &run);
    return GLN_OK;
}

GLN_CLONES static void FN(add_range)(const elem *restrict x, int64_t count, elem *restrict y)
{
    for (int64_t i = 0; i < count; ++i)
        y[i] = PUT(GET(y[i]) + GET(x[i]));
}

static void FN(add_task)(void *ctx, int task, int worker)
{
    const elements_run_t *run = ctx;
    int64_t first = (int64_t)task * GLN_CPU_TASK_ELEMENTS;

    (void)worker;
    FN(add_range)
    ((const elem *)run->x + first, gln_cpu_min(GLN_CPU_TASK_ELEMENTS, run->n - first),
     (elem *)run->y + first);
}

gln_status_t FN(add)(gln_kernels_t *k, int64_t n, const void *x, void *y)
{
    elements_run_t run = {.n = n, .x = x, .y = y};

    gln_pool_run(k->pool, gln_cpu_tasks(n, GLN_CPU_TASK_ELEMENTS), FN(add_task), &run);
    return GLN_OK;
}

static void FN(round_task)(void *ctx, int task, int worker)
{
    const elements_run_t *run = ctx;
    int64_t first = (int64_t)task * GLN_CPU_TASK_ELEMENTS;
    int64_t last = gln_cpu_min(first + GLN_CPU_TASK_ELEMENTS, run->n);

    (void)worker;
    for (int64_t at = first; at < last; at += ADAMW_PIECE)
        FN(round_out)
    ((const float *)run->x + at, gln_cpu_min(ADAMW_PIECE, last - at), run->past,
     (elem *)run->y + at);
    if (run->past) gln_cpu_past_done();
}

gln_status_t FN(round)(gln_kernels_t *k, int64_t n, const void *x, void *y)
{
    elements_run_t run = {
        .n = n, .x = x, .y = y, .past = gln_cpu_goes_past(y, n / 64, 64 * sizeof(elem))};

    gln_pool_run(k->pool, gln_cpu_tasks(n, GLN_CPU_TASK_ELEMENTS), FN(round_task), &run);
    return GLN_OK;
}
#endif
