/* The gated activation of an expert and its gradient, O(N F), one pass. With s = sigmoid(g):
 *   silu(g) = g s,  silu'(g) = s (1 + g (1 - s)). */
#ifndef FN
#include "base/clones.h"
#include "base/gln_expf.h"
#include "kernels/cpu/cpu_internal.h"

typedef struct swiglu_run {
    const gln_swiglu_t *args;
    int64_t task_rows;
} swiglu_run_t;

typedef struct backward_run {
    const gln_swiglu_backward_t *args;
    int64_t task_rows;
} backward_run_t;

#define GLN_CPU_FILE "kernels/cpu/swiglu.c"
#include "kernels/cpu/both_types.inc"
#else

GLN_CLONES static void FN(swiglu_row)(const elem *restrict gate, const elem *restrict up, int64_t f,
                                      elem *restrict act)
{
    for (int64_t i = 0; i < f; ++i)
        act[i] = PUT(GET(gate[i]) / (1.0f + gln_expf(-GET(gate[i]))) * GET(up[i]));
}

static void FN(swiglu_task)(void *ctx, int task, int worker)
{
    const swiglu_run_t *run = ctx;
    const gln_swiglu_t *args = run->args;
    int64_t f = args->f, first = task * run->task_rows;
    int64_t last = gln_cpu_min(first + run->task_rows, args->n);

    (void)worker;
    for (int64_t n = first; n < last; ++n) {
        const elem *gate = (const elem *)args->hgu + n * 2 * f;

        FN(swiglu_row)(gate, gate + f, f, (elem *)args->act + n * f);
    }
}

gln_status_t FN(swiglu)(gln_kernels_t *k, const gln_swiglu_t *args)
{
    swiglu_run_t run = {args, gln_cpu_task_rows(3 * args->f)};

    gln_pool_run(k->pool, gln_cpu_tasks(args->n, run.task_rows), FN(swiglu_task), &run);
    return GLN_OK;
}

/* Up to GLN_CHUNK columns of one row; gate_gradient[i] is dact silu(gate) up. */
GLN_INLINE void FN(backward_chunk)(const elem *restrict dact, const elem *restrict gate,
                                   const elem *restrict up, float w, int64_t count,
                                   elem *restrict dgate, elem *restrict dup, elem *restrict act_w,
                                   float *restrict gate_gradient)
{
    for (int64_t i = 0; i < count; ++i) {
        float g = GET(gate[i]), u = GET(up[i]), d = GET(dact[i]), wd = w * d;
        float s = 1.0f / (1.0f + gln_expf(-g));
        float silu = g * s, act = silu * u;

        gate_gradient[i] = d * act;
        act_w[i] = PUT(w * act);
        dgate[i] = PUT(wd * u * (s * (1.0f + g * (1.0f - s))));
        dup[i] = PUT(wd * silu);
    }
}

GLN_CLONES static void FN(backward_row)(const gln_swiglu_backward_t *args, int64_t n)
{
    int64_t f = args->f;
    const elem *dact = (const elem *)args->dact + n * f;
    const elem *gate = (const elem *)args->hgu + n * 2 * f;
    elem *dgate = (elem *)args->dhgu + n * 2 * f, *act_w = (elem *)args->act_w + n * f;
    float w = args->w != NULL ? ((const float *)args->w)[n] : 1.0f;
    float gate_gradient[GLN_CHUNK], lanes[GLN_LANES] = {0};

    for (int64_t first = 0; first < f; first += GLN_CHUNK) {
        int64_t count = gln_cpu_min(GLN_CHUNK, f - first);

        FN(backward_chunk)
        (dact + first, gate + first, gate + f + first, w, count, dgate + first, dgate + f + first,
         act_w + first, gate_gradient);
        gln_lanes_add(gate_gradient, count, lanes);
    }
    if (args->a != NULL) ((float *)args->a)[n] = gln_lanes_sum(lanes);
}

static void FN(backward_task)(void *ctx, int task, int worker)
{
    const backward_run_t *run = ctx;
    int64_t first = task * run->task_rows;
    int64_t last = gln_cpu_min(first + run->task_rows, run->args->n);

    (void)worker;
    for (int64_t n = first; n < last; ++n)
        FN(backward_row)(run->args, n);
}

gln_status_t FN(swiglu_backward)(gln_kernels_t *k, const gln_swiglu_backward_t *args)
{
    backward_run_t run = {args, gln_cpu_task_rows(6 * args->f)};

    gln_pool_run(k->pool, gln_cpu_tasks(args->n, run.task_rows), FN(backward_task), &run);
    return GLN_OK;
}
#endif
