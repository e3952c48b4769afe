/* Cross entropy and its gradient, O(N V): the row's maximum, its exponentials and their sum, the
 * scaled difference. Exponentials are kept in dlogits, which may be the logits, where its type
 * is wide enough, and in scratch elsewhere. */
#ifndef FN
#include <math.h>
#include <string.h>

#include "base/clones.h"
#include "base/gln_expf.h"
#include "kernels/cpu/past.h"
#include "kernels/cpu/wide.h"

typedef struct entropy_run {
    const gln_cpu_state_t *state;
    const gln_cross_entropy_t *args;
    int64_t task_rows;
    int past;
} entropy_run_t;

GLN_CLONES static float row_max(const float *x, int64_t v)
{
    float lanes[GLN_MAX_LANES];
    int64_t i = 0;

    for (int lane = 0; lane < GLN_MAX_LANES; ++lane)
        lanes[lane] = x[0];
    for (; i + GLN_MAX_LANES <= v; i += GLN_MAX_LANES)
        for (int lane = 0; lane < GLN_MAX_LANES; ++lane)
            lanes[lane] = x[i + lane] > lanes[lane] ? x[i + lane] : lanes[lane];
    for (int lane = 0; i < v; ++i, ++lane)
        lanes[lane] = x[i] > lanes[lane] ? x[i] : lanes[lane];
    return gln_lanes_max(lanes);
}

/* The sum of e = exp(x - max). e may be x, or NULL where only the sum is wanted. Meanwhile the next
 * row is on its way. */
GLN_CLONES static float store_exp(const float *x, float max, int64_t v, float *e)
{
    float lanes[GLN_LANES] = {0}, chunk[GLN_CHUNK];

    for (int64_t first = 0; first < v; first += GLN_CHUNK) {
        int64_t count = gln_cpu_min(GLN_CHUNK, v - first);
        float *to = e != NULL ? e + first : chunk;

        gln_cpu_look_ahead(x + v + first, (size_t)count * sizeof *x);
#pragma GCC ivdep /* an element is read before it is written, also where x is e */
        for (int64_t i = 0; i < count; ++i)
            to[i] = gln_expf(x[first + i] - max);
        gln_lanes_add(to, count, lanes);
    }
    return gln_lanes_sum(lanes);
}

GLN_CLONES static void scale_row(float factor, int64_t v, float *x)
{
    for (int64_t i = 0; i < v; ++i)
        x[i] *= factor;
}

#define GLN_CPU_FILE "kernels/cpu/cross_entropy.c"
#include "kernels/cpu/both_types.inc"
#else

/* dlogits = factor e, where the exponentials are not kept in dlogits. */
GLN_INLINE void FN(gradient_piece)(const float *restrict e, float factor, int64_t count,
                                   elem *restrict dlogits)
{
    for (int64_t i = 0; i < count; ++i)
        dlogits[i] = PUT(e[i] * factor);
}

GLN_CLONES static void FN(store_gradient)(const float *e, float factor, int64_t v, int past,
                                          elem *dlogits)
{
    elem buffer[GLN_CHUNK] __attribute__((aligned(64)));

    for (int64_t first = 0; first < v; first += GLN_CHUNK) {
        int64_t count = gln_cpu_min(GLN_CHUNK, v - first);

        FN(gradient_piece)(e + first, factor, count, past ? buffer : dlogits + first);
        if (past) gln_cpu_store_past(buffer, (size_t)count * sizeof *buffer, dlogits + first);
    }
}

/* @param scratch [V]; not used where exponentials are kept in dlogits, which is as wide */
static void FN(entropy_row)(const gln_cross_entropy_t *args, int64_t n, int past, float *scratch)
{
    const float *logits = (const float *)args->logits + n * args->v;
    elem *dlogits = args->dlogits != NULL ? (elem *)args->dlogits + n * args->v : NULL;
    float *e = sizeof(elem) == sizeof(float) ? (float *)(void *)dlogits : scratch;
    int32_t target = args->target[n];
    float max, sum, logit, factor;

    if (target < 0) {
        ((float *)args->loss)[n] = 0;
        if (dlogits != NULL) memset(dlogits, 0, (size_t)args->v * sizeof *dlogits);
        return;
    }
    max = row_max(logits, args->v);
    logit = logits[target];
    sum = store_exp(logits, max, args->v, dlogits != NULL ? e : NULL);
    ((float *)args->loss)[n] = (float)((double)max - (double)logit + log((double)sum));
    if (dlogits == NULL) return;
    factor = (float)(args->scale / (double)sum);
    if (sizeof(elem) == sizeof(float))
        scale_row(factor, args->v, e);
    else
        FN(store_gradient)(e, factor, args->v, past, dlogits);
    dlogits[target] = PUT(gln_expf(logit - max) * factor - (float)args->scale);
}

/* One pass over memory: each chunk is taken against the highest number up to its end, and scaled to
 * that of the row with the rest of the factor. */
static void FN(entropy_row_wide)(const gln_wide_ops_t *wide, const gln_cross_entropy_t *args,
                                 int64_t n, int past, float *scratch)
{
    int64_t v = args->v, chunk = 0;
    const float *logits = (const float *)args->logits + n * v;
    elem *dlogits = args->dlogits != NULL ? (elem *)args->dlogits + n * v : NULL;
    float *highest = scratch, *e = scratch + gln_cpu_bytes(v / GLN_CHUNK + 1, 1);
    float max = -INFINITY, lanes[GLN_LANES] = {0}, logit, factor;
    double sum;

    if (sizeof(elem) == sizeof(float) && dlogits != NULL) e = (float *)(void *)dlogits;
    logit = logits[args->target[n]];
    for (int64_t first = 0; first < v; first += GLN_CHUNK) {
        wide->exp_sum(logits + first, logits + v + first, gln_cpu_min(GLN_CHUNK, v - first), &max,
                      lanes, e + first);
        highest[chunk++] = max;
    }
    sum = gln_lanes_sum(lanes);
    ((float *)args->loss)[n] = (float)((double)max - (double)logit + log(sum));
    if (dlogits == NULL) return;
    factor = (float)(args->scale / sum);
    chunk = 0;
    for (int64_t first = 0; first < v; first += GLN_CHUNK)
        wide->scale(e + first, gln_expf(highest[chunk++] - max) * factor,
                    gln_cpu_min(GLN_CHUNK, v - first), past, dlogits + first);
    dlogits[args->target[n]] = PUT(gln_expf(logit - max) * factor - (float)args->scale);
}

static void FN(entropy_task)(void *ctx, int task, int worker)
{
    const entropy_run_t *run = ctx;
    int64_t first = task * run->task_rows;
    int64_t last = gln_cpu_min(first + run->task_rows, run->args->n);
    float *scratch = (float *)(void *)run->state->scratch[worker];

    for (int64_t n = first; n < last; ++n)
        if (run->state->wide != NULL && run->args->target[n] >= 0)
            FN(entropy_row_wide)(run->state->wide, run->args, n, run->past, scratch);
        else
            FN(entropy_row)(run->args, n, run->past, scratch);
    if (run->past) gln_cpu_past_done();
}

gln_status_t FN(cross_entropy)(gln_kernels_t *k, const gln_cross_entropy_t *args)
{
    int past = sizeof(elem) != sizeof(float) && args->dlogits != NULL &&
               gln_cpu_goes_past(args->dlogits, args->n, (size_t)args->v * sizeof(elem));
    entropy_run_t run = {k->state, args, gln_cpu_task_rows(args->v), past};
    gln_status_t status =
        gln_cpu_scratch(k->state, gln_cpu_bytes(args->v, sizeof(float)) +
                                      gln_cpu_bytes(args->v / GLN_CHUNK + 1, 1) * sizeof(float));

    if (status != GLN_OK) return status;
    gln_pool_run(k->pool, gln_cpu_tasks(args->n, run.task_rows), FN(entropy_task), &run);
    return GLN_OK;
}
#endif
