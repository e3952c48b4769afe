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

/* One row of the gradient. */
typedef struct backward_row {
    const float *dact, *gate, *up;
    float w;
    float *dgate, *dup, *act_w;
} backward_row_t;

GLN_CLONES static void swiglu_row(const float *restrict gate, const float *restrict up, int64_t f,
                                  float *restrict act) {
    for (int64_t i = 0; i < f; ++i)
        act[i] = gate[i] / (1.0f + gln_expf(-gate[i])) * up[i];
}

static void swiglu_task(void *ctx, int task, int worker) {
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

gln_status_t gln_cpu_swiglu(gln_kernels_t *k, const gln_swiglu_t *args) {
    swiglu_run_t run = {args, gln_cpu_task_rows(3 * args->f)};

    gln_pool_run(k->pool, gln_cpu_tasks(args->n, run.task_rows), swiglu_task, &run);
    return GLN_OK;
}

GLN_CLONES static void backward_elements(const backward_row_t *row, int64_t f) {
    const float *restrict dact = row->dact, *restrict gate = row->gate, *restrict up = row->up;
    float *restrict dgate = row->dgate, *restrict dup = row->dup, *restrict act_w = row->act_w;
    float w = row->w;

    for (int64_t i = 0; i < f; ++i) {
        float g = gate[i], u = up[i], d = w * dact[i];
        float s = 1.0f / (1.0f + gln_expf(-g));
        float silu = g * s;

        act_w[i] = w * (silu * u);
        dgate[i] = d * u * (s * (1.0f + g * (1.0f - s)));
        dup[i] = d * silu;
    }
}

/* sum of dact silu(gate) up */
GLN_CLONES static float gate_gradient(const float *restrict dact, const float *restrict gate,
                                      const float *restrict up, int64_t f) {
    float lanes[GLN_LANES] = {0};
    int64_t i = 0;

    for (; i + GLN_LANES <= f; i += GLN_LANES)
        for (int lane = 0; lane < GLN_LANES; ++lane) {
            float g = gate[i + lane];

            lanes[lane] += dact[i + lane] * (g / (1.0f + gln_expf(-g)) * up[i + lane]);
        }
    for (int lane = 0; i < f; ++i, ++lane)
        lanes[lane] += dact[i] * (gate[i] / (1.0f + gln_expf(-gate[i])) * up[i]);
    return gln_lanes_sum(lanes);
}

static void backward_task(void *ctx, int task, int worker) {
    const backward_run_t *run = ctx;
    const gln_swiglu_backward_t *args = run->args;
    int64_t f = args->f, first = task * run->task_rows;
    int64_t last = gln_cpu_min(first + run->task_rows, args->n);

    (void)worker;
    for (int64_t n = first; n < last; ++n) {
        backward_row_t row = {.dact = (const float *)args->dact + n * f,
                              .gate = (const float *)args->hgu + n * 2 * f,
                              .w = args->w != NULL ? ((const float *)args->w)[n] : 1.0f,
                              .dgate = (float *)args->dhgu + n * 2 * f,
                              .act_w = (float *)args->act_w + n * f};

        row.up = row.gate + f;
        row.dup = row.dgate + f;
        if (args->a != NULL) ((float *)args->a)[n] = gate_gradient(row.dact, row.gate, row.up, f);
        backward_elements(&row, f);
    }
}

gln_status_t gln_cpu_swiglu_backward(gln_kernels_t *k, const gln_swiglu_backward_t *args) {
    backward_run_t run = {args, gln_cpu_task_rows(6 * args->f)};

    gln_pool_run(k->pool, gln_cpu_tasks(args->n, run.task_rows), backward_task, &run);
    return GLN_OK;
}
