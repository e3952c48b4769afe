/* Moving rows: gather, weighted combine, embedding and its gradient, O(rows H), bound by memory.
 * Sums run in the order that kernels.h names. The gradient of the embedding is cut into columns, so
 * that every table element belongs to one task, whatever ids repeat. */
#ifndef FN
#include <string.h>

#include "base/clones.h"
#include "kernels/cpu/cpu_internal.h"

#define EMBED_COLUMNS 64

typedef struct rows_run {
    const void *args;
    int64_t task_rows;
} rows_run_t;

#define GLN_CPU_FILE "kernels/cpu/rows.c"
#include "kernels/cpu/both_types.inc"
#else

static void FN(copy_row)(const elem *from, int64_t h, elem *to)
{
    memcpy(to, from, (size_t)h * sizeof *to);
}

static void FN(gather_task)(void *ctx, int task, int worker)
{
    const rows_run_t *run = ctx;
    const gln_gather_t *args = run->args;
    int64_t first = task * run->task_rows, last = gln_cpu_min(first + run->task_rows, args->n);

    (void)worker;
    for (int64_t i = first; i < last; ++i) {
        elem *out = (elem *)args->out + i * args->h;

        if (args->index[i] < 0)
            memset(out, 0, (size_t)args->h * sizeof *out);
        else
            FN(copy_row)((const elem *)args->x + args->index[i] * args->h, args->h, out);
    }
}

gln_status_t FN(gather)(gln_kernels_t *k, const gln_gather_t *args)
{
    rows_run_t run = {args, gln_cpu_task_rows(2 * args->h)};

    gln_pool_run(k->pool, gln_cpu_tasks(args->n, run.task_rows), FN(gather_task), &run);
    return GLN_OK;
}

/* out = 0 + a x */
GLN_CLONES static void FN(one_row)(float a, const elem *restrict x, int64_t h, elem *restrict out)
{
    for (int64_t i = 0; i < h; ++i)
        out[i] = PUT(0.0f + a * GET(x[i]));
}

/* out = (0 + a x) + b y */
GLN_CLONES static void FN(two_rows)(float a, const elem *restrict x, float b,
                                    const elem *restrict y, int64_t h, elem *restrict out)
{
    for (int64_t i = 0; i < h; ++i)
        out[i] = PUT((0.0f + a * GET(x[i])) + b * GET(y[i]));
}

/* out = ((0 + a x) + b y) + ..., over the routes first .. end - 1: in pieces whose sum stays in
 * the first-level cache */
GLN_CLONES static void FN(many_rows)(const gln_combine_t *args, int32_t first, int32_t end,
                                     elem *restrict out)
{
    const float *weight = args->weight;
    float sum[GLN_CHUNK];

    for (int64_t column = 0; column < args->h; column += GLN_CHUNK) {
        int64_t count = gln_cpu_min(GLN_CHUNK, args->h - column);

        memset(sum, 0, sizeof sum);
        for (int32_t j = first; j < end; ++j) {
            const elem *restrict x = (const elem *)args->rows + args->index[j] * args->h + column;
            float a = weight != NULL ? weight[j] : 1.0f;

            for (int64_t i = 0; i < count; ++i)
                sum[i] += a * GET(x[i]);
        }
        for (int64_t i = 0; i < count; ++i)
            out[column + i] = PUT(sum[i]);
    }
}

static void FN(combine_task)(void *ctx, int task, int worker)
{
    const rows_run_t *run = ctx;
    const gln_combine_t *args = run->args;
    const elem *rows = args->rows;
    const float *weight = args->weight;
    int64_t first = task * run->task_rows, last = gln_cpu_min(first + run->task_rows, args->n);
    int64_t h = args->h;

    (void)worker;
    for (int64_t i = first; i < last; ++i) {
        elem *out = (elem *)args->out + i * h;
        int32_t j = args->offset[i], end = args->offset[i + 1];

        if (end - j > 2)
            FN(many_rows)(args, j, end, out);
        else if (end - j == 2)
            FN(two_rows)
        (weight != NULL ? weight[j] : 1.0f, rows + args->index[j] * h,
         weight != NULL ? weight[j + 1] : 1.0f, rows + args->index[j + 1] * h, h, out);
        else if (end - j == 1)
            FN(one_row)(weight != NULL ? weight[j] : 1.0f, rows + args->index[j] * h, h, out);
        else memset(out, 0, (size_t)h * sizeof *out);
    }
}

gln_status_t FN(combine)(gln_kernels_t *k, const gln_combine_t *args)
{
    rows_run_t run = {args, gln_cpu_task_rows(3 * args->h)};

    gln_pool_run(k->pool, gln_cpu_tasks(args->n, run.task_rows), FN(combine_task), &run);
    return GLN_OK;
}

static void FN(embed_task)(void *ctx, int task, int worker)
{
    const rows_run_t *run = ctx;
    const gln_embed_t *args = run->args;
    int64_t first = task * run->task_rows, last = gln_cpu_min(first + run->task_rows, args->n);

    (void)worker;
    for (int64_t n = first; n < last; ++n)
        FN(copy_row)
    ((const elem *)args->table + args->ids[n] * args->h, args->h, (elem *)args->out + n * args->h);
}

gln_status_t FN(embed)(gln_kernels_t *k, const gln_embed_t *args)
{
    rows_run_t run = {args, gln_cpu_task_rows(2 * args->h)};

    gln_pool_run(k->pool, gln_cpu_tasks(args->n, run.task_rows), FN(embed_task), &run);
    return GLN_OK;
}

/* Columns [first, first + columns) of all rows. */
GLN_CLONES static void FN(embed_backward_columns)(const gln_embed_backward_t *args, int64_t first,
                                                  int64_t columns)
{
    const elem *dout = (const elem *)args->dout + first;
    float *dtable = (float *)args->dtable + first;

    for (int64_t n = 0; n < args->n; ++n) {
        const elem *restrict from = dout + n * args->h;
        float *restrict to = dtable + args->ids[n] * args->h;

        if (columns == EMBED_COLUMNS)
            for (int i = 0; i < EMBED_COLUMNS; ++i)
                to[i] += GET(from[i]);
        else
            for (int64_t i = 0; i < columns; ++i)
                to[i] += GET(from[i]);
    }
}

static void FN(embed_backward_task)(void *ctx, int task, int worker)
{
    const gln_embed_backward_t *args = ctx;
    int64_t first = (int64_t)task * EMBED_COLUMNS;

    (void)worker;
    FN(embed_backward_columns)(args, first, gln_cpu_min(EMBED_COLUMNS, args->h - first));
}

gln_status_t FN(embed_backward)(gln_kernels_t *k, const gln_embed_backward_t *args)
{
    gln_embed_backward_t copy = *args;

    if (args->n > 0)
        gln_pool_run(k->pool, gln_cpu_tasks(args->h, EMBED_COLUMNS), FN(embed_backward_task),
                     &copy);
    return GLN_OK;
}
#endif
