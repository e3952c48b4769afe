/* Moving rows: gather, weighted combine, embedding and its gradient, O(rows H), bound by memory.
 * Sums run in the order that kernels.h names. The gradient of the embedding is cut into columns, so
 * that every table element belongs to one task, whatever ids repeat. */
#include <string.h>

#include "base/clones.h"
#include "kernels/cpu/cpu_internal.h"

#define EMBED_COLUMNS 64

typedef struct rows_run {
    const void *args;
    int64_t task_rows;
} rows_run_t;

static void copy_row(const float *from, int64_t h, float *to)
{
    memcpy(to, from, (size_t)h * sizeof *to);
}

static void gather_task(void *ctx, int task, int worker)
{
    const rows_run_t *run = ctx;
    const gln_gather_t *args = run->args;
    int64_t first = task * run->task_rows, last = gln_cpu_min(first + run->task_rows, args->n);

    (void)worker;
    for (int64_t i = first; i < last; ++i) {
        float *out = (float *)args->out + i * args->h;

        if (args->index[i] < 0)
            memset(out, 0, (size_t)args->h * sizeof *out);
        else
            copy_row((const float *)args->x + args->index[i] * args->h, args->h, out);
    }
}

gln_status_t gln_cpu_gather(gln_kernels_t *k, const gln_gather_t *args)
{
    rows_run_t run = {args, gln_cpu_task_rows(2 * args->h)};

    gln_pool_run(k->pool, gln_cpu_tasks(args->n, run.task_rows), gather_task, &run);
    return GLN_OK;
}

/* out = 0 + a x */
GLN_CLONES static void first_row(float a, const float *restrict x, int64_t h, float *restrict out)
{
    for (int64_t i = 0; i < h; ++i)
        out[i] = 0.0f + a * x[i];
}

/* out = (0 + a x) + b y */
GLN_CLONES static void first_two_rows(float a, const float *restrict x, float b,
                                      const float *restrict y, int64_t h, float *restrict out)
{
    for (int64_t i = 0; i < h; ++i)
        out[i] = (0.0f + a * x[i]) + b * y[i];
}

/* out += a x */
GLN_CLONES static void add_scaled(float a, const float *restrict x, int64_t h, float *restrict out)
{
    for (int64_t i = 0; i < h; ++i)
        out[i] += a * x[i];
}

static void combine_task(void *ctx, int task, int worker)
{
    const rows_run_t *run = ctx;
    const gln_combine_t *args = run->args;
    const float *rows = args->rows, *weight = args->weight;
    int64_t first = task * run->task_rows, last = gln_cpu_min(first + run->task_rows, args->n);
    int64_t h = args->h;

    (void)worker;
    for (int64_t i = first; i < last; ++i) {
        float *out = (float *)args->out + i * h;
        int32_t j = args->offset[i], end = args->offset[i + 1];

        if (j + 1 < end) {
            first_two_rows(weight != NULL ? weight[j] : 1.0f, rows + args->index[j] * h,
                           weight != NULL ? weight[j + 1] : 1.0f, rows + args->index[j + 1] * h, h,
                           out);
            j += 2;
        } else if (j < end) {
            first_row(weight != NULL ? weight[j] : 1.0f, rows + args->index[j] * h, h, out);
            ++j;
        } else {
            memset(out, 0, (size_t)h * sizeof *out);
        }
        for (; j < end; ++j)
            add_scaled(weight != NULL ? weight[j] : 1.0f, rows + args->index[j] * h, h, out);
    }
}

gln_status_t gln_cpu_combine(gln_kernels_t *k, const gln_combine_t *args)
{
    rows_run_t run = {args, gln_cpu_task_rows(3 * args->h)};

    gln_pool_run(k->pool, gln_cpu_tasks(args->n, run.task_rows), combine_task, &run);
    return GLN_OK;
}

static void embed_task(void *ctx, int task, int worker)
{
    const rows_run_t *run = ctx;
    const gln_embed_t *args = run->args;
    int64_t first = task * run->task_rows, last = gln_cpu_min(first + run->task_rows, args->n);

    (void)worker;
    for (int64_t n = first; n < last; ++n)
        copy_row((const float *)args->table + args->ids[n] * args->h, args->h,
                 (float *)args->out + n * args->h);
}

gln_status_t gln_cpu_embed(gln_kernels_t *k, const gln_embed_t *args)
{
    rows_run_t run = {args, gln_cpu_task_rows(2 * args->h)};

    gln_pool_run(k->pool, gln_cpu_tasks(args->n, run.task_rows), embed_task, &run);
    return GLN_OK;
}

/* Columns [first, first + columns) of all rows. */
GLN_CLONES static void embed_backward_columns(const gln_embed_backward_t *args, int64_t first,
                                              int64_t columns)
{
    const float *dout = (const float *)args->dout + first;
    float *dtable = (float *)args->dtable + first;

    for (int64_t n = 0; n < args->n; ++n) {
        const float *restrict from = dout + n * args->h;
        float *restrict to = dtable + args->ids[n] * args->h;

        if (columns == EMBED_COLUMNS)
            for (int i = 0; i < EMBED_COLUMNS; ++i)
                to[i] += from[i];
        else
            for (int64_t i = 0; i < columns; ++i)
                to[i] += from[i];
    }
}

static void embed_backward_task(void *ctx, int task, int worker)
{
    const gln_embed_backward_t *args = ctx;
    int64_t first = (int64_t)task * EMBED_COLUMNS;

    (void)worker;
    embed_backward_columns(args, first, gln_cpu_min(EMBED_COLUMNS, args->h - first));
}

gln_status_t gln_cpu_embed_backward(gln_kernels_t *k, const gln_embed_backward_t *args)
{
    gln_embed_backward_t copy = *args;

    if (args->n > 0)
        gln_pool_run(k->pool, gln_cpu_tasks(args->h, EMBED_COLUMNS), embed_backward_task, &copy);
    return GLN_OK;
}
