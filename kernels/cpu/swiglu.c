/* The gated activation of an expert and its gradient, O(N F), one pass. With s = sigmoid(g):
 *   silu(g) = g s,  silu'(g) = s (1 + g (1 - s)). */
#ifndef FN
#include "base/clones.h"
#include "base/gln_expf.h"
#include "kernels/cpu/past.h"
#include "kernels/cpu/wide.h"

typedef struct swiglu_run {
    const gln_wide_ops_t *wide;
    const gln_swiglu_t *args;
    int64_t task_rows;
    int past;
} swiglu_run_t;

typedef struct backward_run {
    const gln_wide_ops_t *wide;
    const gln_swiglu_backward_t *args;
    int64_t task_rows;
    int past;
} backward_run_t;

#define GLN_CPU_FILE "kernels/cpu/swiglu.c"
#include "kernels/cpu/both_types.inc"
#else

GLN_INLINE void FN(swiglu_piece)(const elem *restrict gate, const elem *restrict up, int64_t count,
                                 elem *restrict act)
{
    for (int64_t i = 0; i < count; ++i)
        act[i] = PUT(GET(gate[i]) / (1.0f + gln_expf(-GET(gate[i]))) * GET(up[i]));
}

GLN_CLONES static void FN(swiglu_row)(const elem *hgu, int64_t f, int past, elem *act)
{
    elem buffer[GLN_CHUNK] __attribute__((aligned(64)));

    for (int64_t first = 0; first < f; first += GLN_CHUNK) {
        int64_t count = gln_cpu_min(GLN_CHUNK, f - first);
        elem *to = past ? buffer : act + first;

        for (int64_t i = 0; i < count; i += GLN_CPU_PIECE) {
            int64_t at = first + i, ahead = at + GLN_CPU_AHEAD;

            if (ahead >= f) ahead += f; /* in the next row */
            gln_cpu_look_ahead(hgu + ahead, GLN_CPU_PIECE * sizeof *hgu);
            gln_cpu_look_ahead(hgu + ahead + f, GLN_CPU_PIECE * sizeof *hgu);
            FN(swiglu_piece)(hgu + at, hgu + f + at, gln_cpu_min(GLN_CPU_PIECE, count - i), to + i);
        }
        if (past) gln_cpu_store_past(buffer, (size_t)count * sizeof *buffer, act + first);
    }
}

/* The next chunk, of this row or the next, is on its way meanwhile. */
static void FN(swiglu_row_wide)(const gln_wide_ops_t *wide, const elem *hgu, int64_t f, int past,
                                elem *act)
{
    for (int64_t first = 0; first < f; first += GLN_CHUNK) {
        int64_t ahead = first + GLN_CPU_AHEAD;

        if (ahead >= f) ahead += f;
        wide->swiglu(hgu + first, hgu + f + first, hgu + ahead, hgu + ahead + f,
                     gln_cpu_min(GLN_CHUNK, f - first), past, act + first);
    }
}

static void FN(swiglu_task)(void *ctx, int task, int worker)
{
    const swiglu_run_t *run = ctx;
    const gln_swiglu_t *args = run->args;
    int64_t f = args->f, first = task * run->task_rows;
    int64_t last = gln_cpu_min(first + run->task_rows, args->n);

    (void)worker;
    for (int64_t n = first; n < last; ++n) {
        const elem *hgu = (const elem *)args->hgu + n * 2 * f;
        elem *act = (elem *)args->act + n * f;

        if (run->wide != NULL)
            FN(swiglu_row_wide)(run->wide, hgu, f, run->past, act);
        else
            FN(swiglu_row)(hgu, f, run->past, act);
    }
    if (run->past) gln_cpu_past_done();
}

gln_status_t FN(swiglu)(gln_kernels_t *k, const gln_swiglu_t *args)
{
    swiglu_run_t run = {((gln_cpu_state_t *)k->state)->wide, args, gln_cpu_task_rows(3 * args->f),
                        gln_cpu_goes_past(args->act, args->n, (size_t)args->f * sizeof(elem))};

    gln_pool_run(k->pool, gln_cpu_tasks(args->n, run.task_rows), FN(swiglu_task), &run);
    return GLN_OK;
}

/* Columns of one row; gate_gradient[i] is dact silu(gate) up. */
GLN_INLINE void FN(backward_piece)(const elem *restrict dact, const elem *restrict gate,
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

GLN_CLONES static void FN(backward_row)(const gln_swiglu_backward_t *args, int64_t n, int past)
{
    int64_t f = args->f;
    const elem *dact = (const elem *)args->dact + n * f;
    const elem *gate = (const elem *)args->hgu + n * 2 * f;
    elem *dhgu = (elem *)args->dhgu + n * 2 * f, *act_w = (elem *)args->act_w + n * f;
    float w = args->w != NULL ? ((const float *)args->w)[n] : 1.0f;
    float gate_gradient[GLN_CHUNK], lanes[GLN_LANES] = {0};
    elem buffer[3][GLN_CHUNK] __attribute__((aligned(64)));

    for (int64_t first = 0; first < f; first += GLN_CHUNK) {
        int64_t count = gln_cpu_min(GLN_CHUNK, f - first);
        elem *to[3] = {dhgu + first, dhgu + f + first, act_w + first};
        size_t bytes = (size_t)count * sizeof(elem);

        for (int part = 0; past && part < 3; ++part)
            to[part] = buffer[part];
        for (int64_t i = 0; i < count; i += GLN_CPU_PIECE) {
            int64_t at = first + i, ahead = at + GLN_CPU_AHEAD;

            gln_cpu_look_ahead(dact + ahead, GLN_CPU_PIECE * sizeof *dact);
            if (ahead >= f) ahead += f; /* in the next row */
            gln_cpu_look_ahead(gate + ahead, GLN_CPU_PIECE * sizeof *gate);
            gln_cpu_look_ahead(gate + ahead + f, GLN_CPU_PIECE * sizeof *gate);
            FN(backward_piece)
            (dact + at, gate + at, gate + f + at, w, gln_cpu_min(GLN_CPU_PIECE, count - i),
             to[0] + i, to[1] + i, to[2] + i, gate_gradient + i);
        }
        if (past) {
            gln_cpu_store_past(buffer[0], bytes, dhgu + first);
            gln_cpu_store_past(buffer[1], bytes, dhgu + f + first);
            gln_cpu_store_past(buffer[2], bytes, act_w + first);
        }
        gln_lanes_add(gate_gradient, count, lanes);
    }
    if (args->a != NULL) ((float *)args->a)[n] = gln_lanes_sum(lanes);
}

static void FN(backward_row_wide)(const gln_wide_ops_t *wide, const gln_swiglu_backward_t *args,
                                  int64_t n, int past)
{
    int64_t f = args->f;
    const elem *dact = (const elem *)args->dact + n * f;
    const elem *gate = (const elem *)args->hgu + n * 2 * f;
    elem *dhgu = (elem *)args->dhgu + n * 2 * f, *act_w = (elem *)args->act_w + n * f;
    float lanes[GLN_LANES] = {0};

    for (int64_t first = 0; first < f; first += GLN_CHUNK) {
        int64_t ahead = first + GLN_CPU_AHEAD, ahead_gate = ahead < f ? ahead : ahead + f;

        wide->swiglu_backward(
            &(gln_wide_backward_t){
                .dact = dact + first,
                .gate = gate + first,
                .up = gate + f + first,
                .ahead = {dact + ahead, gate + ahead_gate, gate + ahead_gate + f},
                .dgate = dhgu + first,
                .dup = dhgu + f + first,
                .act_w = act_w + first,
                .w = args->w != NULL ? ((const float *)args->w)[n] : 1.0f,
                .past = past},
            gln_cpu_min(GLN_CHUNK, f - first), lanes);
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
        if (run->wide != NULL)
            FN(backward_row_wide)(run->wide, run->args, n, run->past);
        else
            FN(backward_row)(run->args, n, run->past);
    if (run->past) gln_cpu_past_done();
}

gln_status_t FN(swiglu_backward)(gln_kernels_t *k, const gln_swiglu_backward_t *args)
{
    size_t row_bytes = (size_t)args->f * sizeof(elem);
    backward_run_t run = {((gln_cpu_state_t *)k->state)->wide, args, gln_cpu_task_rows(6 * args->f),
                          gln_cpu_goes_past(args->dhgu, args->n, 2 * row_bytes) &&
                              gln_cpu_goes_past(args->act_w, args->n, row_bytes)};

    gln_pool_run(k->pool, gln_cpu_tasks(args->n, run.task_rows), FN(backward_task), &run);
    return GLN_OK;
}
#endif
