/* One MoE layer in a world of one rank, in double on the reference kernels, with its weights,
 * gradients and inputs; and an oracle of the forward pass that shares nothing with the layer but
 * the plan. */
#ifndef GLN_TESTS_TEST_LAYER_WORLD_H
#define GLN_TESTS_TEST_LAYER_WORLD_H

#include "base/log.h"
#include "base/rng.h"
#include "moe/layer.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct world_options {
    int domains, groups, experts;
    int64_t tokens, hidden, expert_hidden;
    gln_router_options_t router;
    double capacity_factor_max;
    double gate_scale; /* spread of the logits; 0: 1 */
    int forward_only;
} world_options_t;

typedef struct world {
    world_options_t o;
    gln_comm_t *comm;
    gln_parallel_t parallel;
    gln_pool_t *pool;
    gln_kernels_t *kernels;
    gln_layer_options_t options;
    gln_layer_workspace_t *workspace;
    gln_layer_t *layer;
    int64_t x_count, gate_count, gate_up_count, down_count;
    double *x, *y, *dy, *dx;                 /* [D * T, H] */
    double *gate, *gate_up, *down;           /* [H, E], [E, H, 2F], [E, F, H] */
    void *dgate[8], *dgate_up[8], *ddown[8]; /* per domain, per group, per group */
    gln_layer_weights_t weights;
    gln_layer_gradients_t gradients;
} world_t;

static inline double *world_draw(int64_t count, uint64_t stream, double scale)
{
    double *values = malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; ++i)
        values[i] = scale * gln_rng_normal(7, gln_rng_stream(GLN_RNG_TEST, stream, 0), (uint64_t)i);
    return values;
}

static inline void world_open_data(world_t *w)
{
    const world_options_t *o = &w->o;
    w->x_count = o->domains * o->tokens * o->hidden;
    w->gate_count = o->hidden * o->experts;
    w->gate_up_count = o->experts * o->hidden * 2 * o->expert_hidden;
    w->down_count = o->experts * o->expert_hidden * o->hidden;
    w->x = world_draw(w->x_count, 1, 1.0);
    w->dy = world_draw(w->x_count, 2, 1.0);
    w->gate = world_draw(w->gate_count, 3, o->gate_scale > 0 ? o->gate_scale : 1.0);
    w->gate_up = world_draw(w->gate_up_count, 4, 0.5);
    w->down = world_draw(w->down_count, 5, 0.5);
    w->y = calloc((size_t)w->x_count + 1, sizeof(double));
    w->dx = calloc((size_t)w->x_count + 1, sizeof(double));
    for (int d = 0; d < o->domains; ++d)
        w->dgate[d] = calloc((size_t)w->gate_count, sizeof(double));
    for (int g = 0; g < o->groups; ++g) {
        w->dgate_up[g] = calloc((size_t)w->gate_up_count, sizeof(double));
        w->ddown[g] = calloc((size_t)w->down_count, sizeof(double));
    }
    w->weights = (gln_layer_weights_t){w->gate, w->gate_up, w->down};
    w->gradients = (gln_layer_gradients_t){w->dgate, w->dgate_up, w->ddown};
}

static inline void world_open(const world_options_t *o, world_t *w)
{
    memset(w, 0, sizeof *w);
    w->o = *o;
    w->options = (gln_layer_options_t){.tokens = o->tokens,
                                       .hidden = o->hidden,
                                       .expert_hidden = o->expert_hidden,
                                       .router = o->router,
                                       .capacity_factor_max = o->capacity_factor_max,
                                       .forward_only = o->forward_only};
    cr_assert_eq(gln_comm_open_self(&w->comm), GLN_OK);
    cr_assert_eq(gln_parallel_open(w->comm, o->domains, o->groups, o->experts, &w->parallel),
                 GLN_OK, "%s", gln_last_error());
    cr_assert_eq(gln_pool_open(1, &w->pool), GLN_OK);
    cr_assert_eq(gln_kernels_open(GLN_BACKEND_REF, GLN_F64, w->pool, &w->kernels), GLN_OK);
    cr_assert_eq(gln_layer_workspace_open(&w->parallel, w->kernels, &w->options, &w->workspace),
                 GLN_OK, "%s", gln_last_error());
    cr_assert_eq(gln_layer_open(&w->parallel, w->kernels, w->workspace, &w->options, 3, &w->layer),
                 GLN_OK, "%s", gln_last_error());
    world_open_data(w);
}

static inline void world_close(world_t *w)
{
    gln_layer_close(w->layer);
    gln_layer_workspace_close(w->workspace);
    gln_kernels_close(w->kernels);
    gln_pool_close(w->pool);
    gln_parallel_close(&w->parallel);
    gln_comm_close(w->comm);
    free(w->x), free(w->y), free(w->dy), free(w->dx);
    free(w->gate), free(w->gate_up), free(w->down);
    for (int i = 0; i < 8; ++i)
        free(w->dgate[i]), free(w->dgate_up[i]), free(w->ddown[i]);
}

static inline void world_forward(world_t *w, int keep)
{
    gln_layer_step_t step = {.seed = 11, .step = 5, .keep = keep};
    cr_assert_eq(gln_layer_forward(w->layer, &w->weights, &step, w->x, w->y), GLN_OK, "%s",
                 gln_last_error());
}

static inline void world_backward(world_t *w, double aux_scale)
{
    cr_assert_eq(gln_layer_backward(w->layer, &w->weights, w->dy, aux_scale, w->dx, &w->gradients),
                 GLN_OK, "%s", gln_last_error());
}

/* ---- oracle ---------------------------------------------------------------------------------- */

static inline void oracle_softmax(const double *logits, int experts, double *p, double *lse)
{
    double max = -INFINITY, sum = 0.0;
    for (int e = 0; e < experts; ++e)
        max = fmax(max, logits[e]);
    for (int e = 0; e < experts; ++e)
        sum += exp(logits[e] - max);
    *lse = max + log(sum);
    for (int e = 0; e < experts; ++e)
        p[e] = exp(logits[e] - *lse);
}

/* How often p of each expert counts in a token's sum, from the plan. */
static inline void oracle_multiplicity(const gln_plan_t *plan, int64_t t, double *times)
{
    for (int e = 0; e < plan->experts; ++e) {
        times[e] = 0.0;
        for (int32_t r = plan->expert_offset[e]; r < plan->expert_offset[e + 1]; ++r)
            if (plan->route_token[r] == t) times[e] += 1.0;
    }
    if (plan->token_h[t] >= 0) times[plan->token_h[t]] += plan->token_m[t];
}

/* y[h] += weight * E_e(x). */
static inline void oracle_expert(const world_t *w, int e, const double *x, double weight, double *y)
{
    int64_t hidden = w->o.hidden, f = w->o.expert_hidden;
    const double *gate_up = w->gate_up + e * hidden * 2 * f, *down = w->down + e * f * hidden;
    for (int64_t i = 0; i < f; ++i) {
        double a = 0.0, b = 0.0;
        for (int64_t h = 0; h < hidden; ++h) {
            a += x[h] * gate_up[h * 2 * f + i];
            b += x[h] * gate_up[h * 2 * f + f + i];
        }
        double act = a / (1.0 + exp(-a)) * b;
        for (int64_t h = 0; h < hidden; ++h)
            y[h] += weight * act * down[i * hidden + h];
    }
}

/* Loss <y, dy> + aux_scale (auxiliary losses) with the plans and the denominators held constant. y
 * may be NULL. */
static inline double oracle_loss(const world_t *w, double aux_scale, double *y_out)
{
    const world_options_t *o = &w->o;
    double loss = 0.0, logits[64], p[64], times[64], y[64], lse;

    for (int d = 0; d < o->domains; ++d) {
        const gln_plan_t *plan = gln_layer_plan(w->layer, d);
        double z = 0.0, balance = 0.0;
        for (int64_t t = 0; t < o->tokens; ++t) {
            const double *x = w->x + (d * o->tokens + t) * o->hidden;
            const double *dy = w->dy + (d * o->tokens + t) * o->hidden;
            for (int e = 0; e < o->experts; ++e) {
                logits[e] = 0.0;
                for (int64_t h = 0; h < o->hidden; ++h)
                    logits[e] += x[h] * w->gate[h * o->experts + e];
            }
            oracle_softmax(logits, o->experts, p, &lse);
            oracle_multiplicity(plan, t, times);
            memset(y, 0, sizeof y);
            for (int e = 0; e < o->experts; ++e)
                if (times[e] > 0)
                    oracle_expert(w, e, x, times[e] * p[e] / ((double *)plan->token_scale)[t], y);
            for (int64_t h = 0; h < o->hidden; ++h)
                loss += y[h] * dy[h];
            if (y_out != NULL)
                memcpy(y_out + (d * o->tokens + t) * o->hidden, y, (size_t)o->hidden * sizeof *y);
            z += lse * lse / (double)o->tokens;
            for (int e = 0; e < o->experts; ++e)
                balance += plan->balance_fraction[e] * p[e] * o->experts / (double)o->tokens;
        }
        loss += aux_scale * (o->router.balance_coef * balance + o->router.z_coef * z);
    }
    return loss;
}

#endif
