/* The gated activation of an expert and its gradient, O(N F), one pass. With s = sigmoid(g):
 *   silu(g) = g s,  silu'(g) = s (1 + g (1 - s)). */
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

GLN_CLONES static void swiglu_row(const float *restrict gate, const float *restrict up, int64_t f,
                                  float *restrict act)
{
    for (int64_t i = 0; i < f; ++i)
        act[i] = gate[i] / (1.0f + gln_expf(-gate[i])) * up[i];
}

static void swiglu_task(void *ctx, int task, int worker)
{
    const swiglu_run_t *run = ctx;
    const gln_swiglu_t *args = run->args;
    int64_t f = args->f, first = task * run->task_rows;
    int64_t last = gln_cpu_min(first + run->task_rows, args->n);

    (void)worker;
    for (int64_t n = first; n < last; ++n) {
        const float *gate = (const float *)args->hgu + n * 2 * f;

        swiglu_row(gate, gate + f, f, (float *)args->act + n * f);
    }
}

gln_status_t gln_cpu_swiglu(gln_kernels_t *k, const gln_swiglu_t *args)
{
    swiglu_run_t run = {args, gln_cpu_task_rows(3 * args->f)};

    gln_pool_run(k->pool, gln_cpu_tasks(args->n, run.task_rows), swiglu_task, &run);
    return GLN_OK;
}

/* Up to GLN_CHUNK columns of one row; gate_gradient[i] is dact silu(gate) up. */
GLN_INLINE void backward_chunk(const float *restrict dact, const float *restrict gate,
                               const float *restrict up, float w, int64_t count,
                               float *restrict dgate, float *restrict dup, float *restrict act_w,
                               float *restrict gate_gradient)
{
    for (int64_t i = 0; i < count; ++i) {
        float g = gate[i], u = up[i], d = dact[i], wd = w * d;
        float s = 1.0f / (1.0f + gln_expf(-g));
        float silu = g * s, act = silu * u;

        gate_gradient[i] = d * act;
        act_w[i] = w * act;
        dgate[i] = wd * u * (s * (1.0f + g * (1.0f - s)));
        dup[i] = wd * silu;
    }
}

GLN_CLONES static void backward_row(const gln_swiglu_backward_t *args, int64_t n)
{
    int64_t f = args->f;
    const float *dact = (const float *)args->dact + n * f;
    const float *gate = (const float *)args->hgu + n * 2 * f;
    float *dgate = (float *)args->dhgu + n * 2 * f, *act_w = (float *)args->act_w + n * f;
    float w = args->w != NULL ? ((const float *)args->w)[n] : 1.0f;
    float gate_gradient[GLN_CHUNK], lanes[GLN_LANES] = {0};

    for (int64_t first = 0; first < f; first += GLN_CHUNK) {
        int64_t count = gln_cpu_min(GLN_CHUNK, f - first);

        backward_chunk(dact + first, gate + first, gate + f + first, w, count, dgate + first,
                       dgate + f + first, act_w + first, gate_gradient);
        gln_lanes_add(gate_gradient, count, lanes);
    }
    if (args->a != NULL) ((float *)args->a)[n] = gln_lanes_sum(lanes);
}

static void backward_task(void *ctx, int task, int worker)
{
    const backward_run_t *run = ctx;
    int64_t first = task * run->task_rows;
    int64_t last = gln_cpu_min(first + run->task_rows, run->args->n);

    (void)worker;
    for (int64_t n = first; n < last; ++n)
        backward_row(run->args, n);
}

gln_status_t gln_cpu_swiglu_backward(gln_kernels_t *k, const gln_swiglu_backward_t *args)
{
    backward_run_t run = {args, gln_cpu_task_rows(6 * args->f)};

    gln_pool_run(k->pool, gln_cpu_tasks(args->n, run.task_rows), backward_task, &run);
    return GLN_OK;
}
