/* Root mean square normalization and its gradient, O(N H), two passes over a row that stays in the
 * first-level cache. The gradient of w is summed in blocks of BLOCK_ROWS rows, and the blocks are
 * added in ascending order. */
#ifndef FN
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clones.h"
#include "base/log.h"
#include "kernels/cpu/past.h"
#include "kernels/cpu/wide.h"

#define BLOCK_ROWS 64

typedef struct rmsnorm_run {
    const gln_wide_ops_t *wide;
    const gln_rmsnorm_t *args;
    int64_t task_rows;
    int past;
} rmsnorm_run_t;

typedef struct backward_run {
    gln_cpu_state_t *state;
    const gln_rmsnorm_backward_t *args;
    int64_t first_block; /* of this run of the pool */
} backward_run_t;

GLN_CLONES static void add_row(const float *restrict x, int64_t h, float *restrict y)
{
    for (int64_t i = 0; i < h; ++i)
        y[i] += x[i];
}

static gln_status_t reserve_partials(gln_cpu_state_t *state, int64_t h)
{
    if (h <= state->partials_width) return GLN_OK;
    free(state->partials);
    state->partials_width = 0;
    state->partials = malloc((size_t)h * GLN_CPU_PARTIALS_MAX * sizeof *state->partials);
    if (state->partials == NULL)
        return gln_fail(GLN_ERR_MEMORY,
                        "cpu backend: no memory for %d partial sums of %lld columns; use smaller "
                        "models",
                        GLN_CPU_PARTIALS_MAX, (long long)h);
    state->partials_width = h;
    return GLN_OK;
}

#define GLN_CPU_FILE "kernels/cpu/rmsnorm.c"
#include "kernels/cpu/both_types.inc"
#else

GLN_INLINE float FN(sum_of_squares)(const elem *x, int64_t h)
{
    float lanes[GLN_LANES] = {0};
    int64_t i = 0;

    for (; i + GLN_LANES <= h; i += GLN_LANES)
        for (int lane = 0; lane < GLN_LANES; ++lane)
            lanes[lane] += GET(x[i + lane]) * GET(x[i + lane]);
    for (int lane = 0; i < h; ++i, ++lane)
        lanes[lane] += GET(x[i]) * GET(x[i]);
    return gln_lanes_sum(lanes);
}

GLN_INLINE void FN(scale_piece)(const elem *restrict x, const float *restrict w, float rstd,
                                int64_t count, elem *restrict y)
{
    for (int64_t i = 0; i < count; ++i)
        y[i] = PUT(GET(x[i]) * rstd * w[i]);
}

/* Meanwhile the next row is on its way. */
GLN_INLINE void FN(scale_row)(const elem *x, const float *w, float rstd, int64_t h, int past,
                              elem *y)
{
    elem buffer[GLN_CHUNK] __attribute__((aligned(64)));

    for (int64_t first = 0; first < h; first += GLN_CHUNK) {
        int64_t count = gln_cpu_min(GLN_CHUNK, h - first);
        elem *to = past ? buffer : y + first;

        for (int64_t i = 0; i < count; i += GLN_CPU_PIECE) {
            int64_t at = first + i;

            gln_cpu_look_ahead(x + h + at, GLN_CPU_PIECE * sizeof *x);
            FN(scale_piece)(x + at, w + at, rstd, gln_cpu_min(GLN_CPU_PIECE, count - i), to + i);
        }
        if (past) gln_cpu_store_past(buffer, (size_t)count * sizeof *buffer, y + first);
    }
}

GLN_CLONES static void FN(rmsnorm_rows)(const gln_rmsnorm_t *args, int64_t first, int64_t last,
                                        int past)
{
    for (int64_t n = first; n < last; ++n) {
        const elem *x = (const elem *)args->x + n * args->h;
        float mean = FN(sum_of_squares)(x, args->h) / (float)args->h;
        float rstd = 1.0f / sqrtf(mean + (float)args->eps);

        FN(scale_row)(x, args->w, rstd, args->h, past, (elem *)args->y + n * args->h);
        ((float *)args->rstd)[n] = rstd;
    }
}

static void FN(rmsnorm_rows_wide)(const gln_wide_ops_t *wide, const gln_rmsnorm_t *args,
                                  int64_t first, int64_t last, int past)
{
    for (int64_t n = first; n < last; ++n) {
        const elem *x = (const elem *)args->x + n * args->h;
        float mean = wide->sum_squares(x, args->h) / (float)args->h;
        float rstd = 1.0f / sqrtf(mean + (float)args->eps);

        wide->rmsnorm(x, args->w, rstd, args->h, past, (elem *)args->y + n * args->h);
        ((float *)args->rstd)[n] = rstd;
    }
}

static void FN(rmsnorm_task)(void *ctx, int task, int worker)
{
    const rmsnorm_run_t *run = ctx;
    int64_t first = task * run->task_rows;
    int64_t last = gln_cpu_min(first + run->task_rows, run->args->n);

    (void)worker;
    if (run->wide != NULL)
        FN(rmsnorm_rows_wide)(run->wide, run->args, first, last, run->past);
    else
        FN(rmsnorm_rows)(run->args, first, last, run->past);
    if (run->past) gln_cpu_past_done();
}

gln_status_t FN(rmsnorm)(gln_kernels_t *k, const gln_rmsnorm_t *args)
{
    rmsnorm_run_t run = {((gln_cpu_state_t *)k->state)->wide, args, gln_cpu_task_rows(args->h),
                         gln_cpu_goes_past(args->y, args->n, (size_t)args->h * sizeof(elem))};

    gln_pool_run(k->pool, gln_cpu_tasks(args->n, run.task_rows), FN(rmsnorm_task), &run);
    return GLN_OK;
}

/* sum of dy w x */
GLN_INLINE float FN(dot3)(const elem *restrict dy, const float *restrict w, const elem *restrict x,
                          int64_t h)
{
    float lanes[GLN_LANES] = {0};
    int64_t i = 0;

    for (; i + GLN_LANES <= h; i += GLN_LANES)
        for (int lane = 0; lane < GLN_LANES; ++lane)
            lanes[lane] += GET(dy[i + lane]) * w[i + lane] * GET(x[i + lane]);
    for (int lane = 0; i < h; ++i, ++lane)
        lanes[lane] += GET(dy[i]) * w[i] * GET(x[i]);
    return gln_lanes_sum(lanes);
}

/* dx += rstd (dy w - z mean) and dw += dy z with z = x rstd. */
GLN_INLINE void FN(backward_piece)(const elem *restrict dy, const elem *restrict x,
                                   const float *restrict w, float rstd, float mean, int64_t count,
                                   elem *restrict dx, float *restrict dw)
{
    for (int64_t i = 0; i < count; ++i) {
        float z = GET(x[i]) * rstd, g = GET(dy[i]);

        dx[i] = PUT(GET(dx[i]) + rstd * (g * w[i] - z * mean));
        dw[i] += g * z;
    }
}

/* Meanwhile the next row is on its way. */
GLN_INLINE void FN(backward_row)(const elem *dy, const elem *x, const float *w, float rstd,
                                 float mean, int64_t h, elem *dx, float *dw)
{
    for (int64_t at = 0; at < h; at += GLN_CPU_PIECE) {
        gln_cpu_look_ahead(dy + h + at, GLN_CPU_PIECE * sizeof *dy);
        gln_cpu_look_ahead(x + h + at, GLN_CPU_PIECE * sizeof *x);
        gln_cpu_look_ahead(dx + h + at, GLN_CPU_PIECE * sizeof *dx);
        FN(backward_piece)
        (dy + at, x + at, w + at, rstd, mean, gln_cpu_min(GLN_CPU_PIECE, h - at), dx + at, dw + at);
    }
}

GLN_CLONES static void FN(backward_rows)(const gln_rmsnorm_backward_t *args, int64_t first,
                                         int64_t last, float *dw)
{
    for (int64_t n = first; n < last; ++n) {
        const elem *dy = (const elem *)args->dy + n * args->h;
        const elem *x = (const elem *)args->x + n * args->h;
        float rstd = ((const float *)args->rstd)[n];
        float mean = FN(dot3)(dy, args->w, x, args->h) * rstd / (float)args->h;

        FN(backward_row)(dy, x, args->w, rstd, mean, args->h, (elem *)args->dx + n * args->h, dw);
    }
}

static void FN(backward_rows_wide)(const gln_wide_ops_t *wide, const gln_rmsnorm_backward_t *args,
                                   int64_t first, int64_t last, float *dw)
{
    for (int64_t n = first; n < last; ++n) {
        const elem *dy = (const elem *)args->dy + n * args->h;
        const elem *x = (const elem *)args->x + n * args->h;
        float rstd = ((const float *)args->rstd)[n];
        float mean = wide->dot3(dy, args->w, x, args->h) * rstd / (float)args->h;

        wide->rmsnorm_backward(dy, x, args->w, rstd, mean, args->h, (elem *)args->dx + n * args->h,
                               dw);
    }
}

static void FN(backward_task)(void *ctx, int task, int worker)
{
    const backward_run_t *run = ctx;
    const gln_rmsnorm_backward_t *args = run->args;
    const gln_wide_ops_t *wide = run->state->wide;
    int64_t first = (run->first_block + task) * BLOCK_ROWS;
    int64_t last = gln_cpu_min(first + BLOCK_ROWS, args->n);
    float *dw = run->state->partials + task * args->h;

    (void)worker;
    memset(dw, 0, (size_t)args->h * sizeof *dw);
    if (wide != NULL)
        FN(backward_rows_wide)(wide, args, first, last, dw);
    else
        FN(backward_rows)(args, first, last, dw);
}

gln_status_t FN(rmsnorm_backward)(gln_kernels_t *k, const gln_rmsnorm_backward_t *args)
{
    gln_cpu_state_t *state = k->state;
    int64_t blocks = gln_cpu_tasks(args->n, BLOCK_ROWS);
    gln_status_t status = reserve_partials(state, args->h);

    if (status != GLN_OK) return status;
    for (int64_t first = 0; first < blocks; first += GLN_CPU_PARTIALS_MAX) {
        backward_run_t run = {state, args, first};
        int tasks = (int)gln_cpu_min(GLN_CPU_PARTIALS_MAX, blocks - first);

        gln_pool_run(k->pool, tasks, FN(backward_task), &run);
        for (int task = 0; task < tasks; ++task)
            add_row(state->partials + task * args->h, args->h, args->dw);
    }
    return GLN_OK;
}
#endif
