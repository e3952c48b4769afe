/* Rotary position embedding in place, O(N heads dh). Cosines and sines are computed once per
 * (dh, theta), in double, for as many positions as were ever asked for. */
#ifndef FN
#include <math.h>
#include <stdlib.h>

#include "base/clones.h"
#include "base/log.h"
#include "kernels/cpu/wide.h"

typedef struct rope_run {
    const gln_wide_ops_t *wide;
    const gln_rope_t *args;
    const gln_rope_table_t *table;
    int64_t task_rows;
} rope_run_t;

static void close_table(gln_rope_table_t *table)
{
    free(table->cosine);
    free(table);
}

static gln_status_t make_table(const gln_rope_t *args, gln_rope_table_t **out)
{
    int64_t half = args->dh / 2;
    gln_rope_table_t *table = calloc(1, sizeof *table);

    if (table != NULL) table->cosine = malloc((size_t)(2 * args->s * half) * sizeof(float));
    if (table == NULL || table->cosine == NULL) {
        free(table);
        return gln_fail(GLN_ERR_MEMORY,
                        "cpu backend: no memory for the angles of %lld positions; use shorter "
                        "sequences",
                        (long long)args->s);
    }
    table->s = args->s;
    table->dh = args->dh;
    table->theta = args->theta;
    table->sine = table->cosine + args->s * half;
    for (int64_t i = 0; i < half; ++i) {
        double frequency = pow(args->theta, -2.0 * (double)i / args->dh);

        for (int64_t position = 0; position < args->s; ++position) {
            table->cosine[position * half + i] = (float)cos((double)position * frequency);
            table->sine[position * half + i] = (float)sin((double)position * frequency);
        }
    }
    *out = table;
    return GLN_OK;
}

static gln_status_t get_table(gln_cpu_state_t *state, const gln_rope_t *args,
                              const gln_rope_table_t **out)
{
    gln_rope_table_t **link = &state->rope_tables, *table = NULL;
    gln_status_t status;

    while (*link != NULL && ((*link)->dh != args->dh || (*link)->theta != args->theta))
        link = &(*link)->next;
    if (*link == NULL || (*link)->s < args->s) {
        status = make_table(args, &table);
        if (status != GLN_OK) return status;
        if (*link != NULL) { /* a longer one takes its place */
            table->next = (*link)->next;
            close_table(*link);
        }
        *link = table;
    }
    *out = *link;
    return GLN_OK;
}

void gln_cpu_rope_close(gln_cpu_state_t *state)
{
    while (state->rope_tables != NULL) {
        gln_rope_table_t *table = state->rope_tables;

        state->rope_tables = table->next;
        close_table(table);
    }
}

#define GLN_CPU_FILE "kernels/cpu/rope.c"
#include "kernels/cpu/both_types.inc"
#else

/* `sign` is 1, or -1 to turn back. */
GLN_INLINE void FN(turn_head)(const float *restrict cosine, const float *restrict sine, float sign,
                              int64_t half, elem *restrict low, elem *restrict high)
{
    for (int64_t i = 0; i < half; ++i) {
        float a = GET(low[i]), b = GET(high[i]), c = cosine[i], s = sine[i] * sign;

        low[i] = PUT(a * c - b * s);
        high[i] = PUT(b * c + a * s);
    }
}

GLN_CLONES static void FN(rope_rows)(const gln_rope_t *args, const gln_rope_table_t *table,
                                     int64_t first, int64_t last)
{
    int64_t half = args->dh / 2;
    float sign = args->inverse ? -1.0f : 1.0f;

    for (int64_t n = first; n < last; ++n) {
        elem *row = (elem *)args->x + n * args->ldx;
        int64_t at = n % args->s * half;

        for (int head = 0; head < args->heads; ++head, row += args->dh)
            FN(turn_head)(table->cosine + at, table->sine + at, sign, half, row, row + half);
    }
}

static void FN(rope_rows_wide)(const gln_wide_ops_t *wide, const gln_rope_t *args,
                               const gln_rope_table_t *table, int64_t first, int64_t last)
{
    int64_t half = args->dh / 2;

    for (int64_t n = first; n < last; ++n) {
        int64_t at = n % args->s * half;

        wide->rope(table->cosine + at, table->sine + at, args->inverse ? -1.0f : 1.0f, half,
                   args->heads, (elem *)args->x + n * args->ldx);
    }
}

static void FN(rope_task)(void *ctx, int task, int worker)
{
    const rope_run_t *run = ctx;
    int64_t first = task * run->task_rows;
    int64_t last = gln_cpu_min(first + run->task_rows, run->args->n);

    (void)worker;
    if (run->wide != NULL)
        FN(rope_rows_wide)(run->wide, run->args, run->table, first, last);
    else
        FN(rope_rows)(run->args, run->table, first, last);
}

gln_status_t FN(rope)(gln_kernels_t *k, const gln_rope_t *args)
{
    rope_run_t run = {((gln_cpu_state_t *)k->state)->wide, args, NULL,
                      gln_cpu_task_rows((int64_t)args->heads * args->dh)};
    gln_status_t status;

    if (args->n == 0 || args->heads == 0) return GLN_OK;
    status = get_table(k->state, args, &run.table);
    if (status == GLN_OK)
        gln_pool_run(k->pool, gln_cpu_tasks(args->n, run.task_rows), FN(rope_task), &run);
    return status;
}
#endif
