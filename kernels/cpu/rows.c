/* Moving rows: gather, weighted combine, embedding and its gradient, O(rows H), bound by memory.
 * Sums run in the order that kernels.h names. The gradient of the embedding is cut into columns, so
 * that every table element belongs to one task, whatever ids repeat. */
#ifndef FN
#include <string.h>

#include "base/clones.h"
#include "kernels/cpu/past.h"
#include "kernels/cpu/wide.h"

#define EMBED_COLUMNS 64

typedef struct rows_run {
    const gln_wide_ops_t *wide; /* combine */
    const void *args;
    int64_t task_rows;
    int past;
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
    size_t bytes = (size_t)args->h * sizeof(elem);

    (void)worker;
    for (int64_t i = first; i < last; ++i) {
        elem *out = (elem *)args->out + i * args->h;
        const elem *x = (const elem *)args->x + args->index[i] * args->h;

        if (i + 1 < last && args->index[i + 1] >= 0)
            gln_cpu_look_ahead((const elem *)args->x + args->index[i + 1] * args->h, bytes);
        if (args->index[i] < 0)
            memset(out, 0, bytes);
        else if (run->past)
            gln_cpu_store_past(x, bytes, out);
        else
            FN(copy_row)(x, args->h, out);
    }
    if (run->past) gln_cpu_past_done();
}

gln_status_t FN(gather)(gln_kernels_t *k, const gln_gather_t *args)
{
    rows_run_t run = {NULL, args, gln_cpu_task_rows(2 * args->h),
                      gln_cpu_goes_past(args->out, args->n, (size_t)args->h * sizeof(elem))};

    gln_pool_run(k->pool, gln_cpu_tasks(args->n, run.task_rows), FN(gather_task), &run);
    return GLN_OK;
}

/* out = 0 + a x */
GLN_INLINE void FN(one_piece)(float a, const elem *restrict x, int64_t count, elem *restrict out)
{
    for (int64_t i = 0; i < count; ++i)
        out[i] = PUT(0.0f + a * GET(x[i]));
}

/* out = (0 + a x) + b y */
GLN_INLINE void FN(two_pieces)(float a, const elem *restrict x, float b, const elem *restrict y,
                               int64_t count, elem *restrict out)
{
    for (int64_t i = 0; i < count; ++i)
        out[i] = PUT((0.0f + a * GET(x[i])) + b * GET(y[i]));
}

/* out = ((0 + a x) + b y) + ..., over the routes first .. end - 1, `count` columns from `column`:
 * their sum stays in the first-level cache */
GLN_INLINE void FN(many_pieces)(const gln_combine_t *args, int32_t first, int32_t end,
                                int64_t column, int64_t count, elem *restrict out)
{
    const float *weight = args->weight;
    float sum[GLN_CHUNK];

    memset(sum, 0, sizeof sum);
    for (int32_t j = first; j < end; ++j) {
        const elem *restrict x = (const elem *)args->rows + args->index[j] * args->h + column;
        float a = weight != NULL ? weight[j] : 1.0f;

        for (int64_t i = 0; i < count; ++i)
            sum[i] += a * GET(x[i]);
    }
    for (int64_t i = 0; i < count; ++i)
        out[i] = PUT(sum[i]);
}

/* Row i of out, in pieces of columns; meanwhile the rows of the next one are on their way. */
GLN_CLONES static void FN(combine_row)(const gln_combine_t *args, int64_t i, int64_t last, int past)
{
    const elem *rows = args->rows;
    const float *weight = args->weight;
    int32_t j = args->offset[i], end = args->offset[i + 1];
    int32_t next = i + 1 < last ? args->offset[i + 2] : end;
    elem buffer[GLN_CHUNK] __attribute__((aligned(64)));

    for (int64_t column = 0; column < args->h; column += GLN_CHUNK) {
        int64_t count = gln_cpu_min(GLN_CHUNK, args->h - column);
        elem *out = (elem *)args->out + i * args->h + column, *to = past ? buffer : out;

        for (int32_t route = end; route < next; ++route)
            gln_cpu_look_ahead(rows + args->index[route] * args->h + column,
                               (size_t)count * sizeof *rows);
        if (end - j > 2)
            FN(many_pieces)(args, j, end, column, count, to);
        else if (end - j == 2)
            FN(two_pieces)
        (weight != NULL ? weight[j] : 1.0f, rows + args->index[j] * args->h + column,
         weight != NULL ? weight[j + 1] : 1.0f, rows + args->index[j + 1] * args->h + column, count,
         to);
        else if (end - j == 1) FN(one_piece)(weight != NULL ? weight[j] : 1.0f,
                                             rows + args->index[j] * args->h + column, count, to);
        else memset(to, 0, (size_t)count * sizeof *to);
        if (past) gln_cpu_store_past(buffer, (size_t)count * sizeof *buffer, out);
    }
}

static void FN(combine_row_wide)(const gln_wide_ops_t *wide, const gln_combine_t *args, int64_t i,
                                 int64_t last, int past)
{
    const float *weight = args->weight;
    int32_t j = args->offset[i], end = args->offset[i + 1];
    int32_t next = i + 1 < last ? args->offset[i + 2] : end;

    for (int64_t column = 0; column < args->h; column += GLN_CHUNK) {
        const elem *rows = (const elem *)args->rows + column;
        int64_t count = gln_cpu_min(GLN_CHUNK, args->h - column);

        for (int32_t route = end; route < next; ++route)
            gln_cpu_look_ahead(rows + args->index[route] * args->h, (size_t)count * sizeof *rows);
        wide->combine(rows, args->h, args->index + j, weight != NULL ? weight + j : NULL, end - j,
                      count, past, (elem *)args->out + i * args->h + column);
    }
}

static void FN(combine_task)(void *ctx, int task, int worker)
{
    const rows_run_t *run = ctx;
    const gln_combine_t *args = run->args;
    int64_t first = task * run->task_rows, last = gln_cpu_min(first + run->task_rows, args->n);

    (void)worker;
    for (int64_t i = first; i < last; ++i)
        if (run->wide != NULL)
            FN(combine_row_wide)(run->wide, args, i, last, run->past);
        else
            FN(combine_row)(args, i, last, run->past);
    if (run->past) gln_cpu_past_done();
}

gln_status_t FN(combine)(gln_kernels_t *k, const gln_combine_t *args)
{
    rows_run_t run = {((gln_cpu_state_t *)k->state)->wide, args, gln_cpu_task_rows(3 * args->h),
                      gln_cpu_goes_past(args->out, args->n, (size_t)args->h * sizeof(elem))};

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
    rows_run_t run = {NULL, args, gln_cpu_task_rows(2 * args->h), 0};

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
