/* One step: tree-sum the dense gradients over domains and the experts' over replica groups; squares
 * summed per parameter by its holder, shared, and added in parameter order; one AdamW pass per run
 * of parameters with equal decay. Moves each gradient, weight and moment once: 7 accesses of acc
 * per parameter, and one of the rounded copy where it is kept. */
#include "moe/optimizer.h"

#include "base/log.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct gln_optimizer {
    gln_params_t *params;
    gln_kernels_t *k;
    gln_optimizer_options_t o;
    double *squares;         /* [params->count] */
    gln_step_times_t *times; /* NULL: not measured */
};

double gln_optimizer_lr(const gln_optimizer_options_t *o, int64_t t)
{
    if (t <= o->warmup_steps) return o->lr * (double)t / (double)o->warmup_steps;
    if (o->decay_steps <= 0) return o->lr;
    if (t >= o->decay_steps) return o->lr_min;
    const double part = (double)(t - o->warmup_steps) / (double)(o->decay_steps - o->warmup_steps);
    return o->lr_min + 0.5 * (o->lr - o->lr_min) * (1.0 + cos(3.14159265358979323846 * part));
}

gln_status_t gln_optimizer_open(gln_params_t *params, gln_kernels_t *kernels,
                                const gln_optimizer_options_t *options, gln_optimizer_t **out)
{
    if (!params->dense_m)
        return gln_fail(GLN_ERR_ARGUMENT, "the optimizer needs parameters committed for training");
    gln_optimizer_t *x = calloc(1, sizeof *x);
    double *squares = calloc((size_t)params->count, sizeof *squares);
    if (!x || !squares) {
        free(x);
        free(squares);
        return gln_fail(GLN_ERR_MEMORY, "no memory for an optimizer of %d parameters",
                        params->count);
    }
    *x = (gln_optimizer_t){.params = params, .k = kernels, .o = *options, .squares = squares};
    *out = x;
    return GLN_OK;
}

void gln_optimizer_close(gln_optimizer_t *x)
{
    if (!x) return;
    free(x->squares);
    free(x);
}

void gln_optimizer_set_times(gln_optimizer_t *x, gln_step_times_t *times)
{
    x->times = times;
}

static gln_status_t reduce(gln_params_t *p)
{
    gln_comm_set_place(p->parallel->comm, "gradient sum", -1);
    gln_status_t status = gln_comm_tree_sum(p->parallel->comm, p->dense_grad,
                                            p->parallel->local_domains, p->dense_count, p->acc);
    if (status != GLN_OK) return status;
    status = gln_comm_tree_sum(p->parallel->replicas, p->expert_grad, p->parallel->local_groups,
                               p->expert_count, p->acc);
    gln_comm_set_place(p->parallel->comm, NULL, -1);
    return status;
}

static void *gradient(const gln_params_t *p, const gln_param_t *item)
{
    void *buffer = item->expert < 0 ? p->dense_grad[0] : p->expert_grad[0];
    return gln_at(buffer, item->offset, p->acc);
}

/* Exactly one rank speaks for each parameter; the others add zeros, which change no bit. */
static int speaks_for(const gln_params_t *p, const gln_param_t *item)
{
    if (item->expert < 0) return p->parallel->rank == 0;
    return item->local && p->parallel->first_group == 0;
}

static gln_status_t global_norm(gln_optimizer_t *x, double *norm)
{
    gln_params_t *p = x->params;
    for (int i = 0; i < p->count; i++) {
        const gln_param_t *item = &p->items[i];
        x->squares[i] = 0;
        if (!speaks_for(p, item)) continue;
        gln_status_t status =
            x->k->ops->sum_squares(x->k, item->count, gradient(p, item), &x->squares[i]);
        if (status != GLN_OK) return status;
    }
    void *part = x->squares;
    gln_status_t status = gln_comm_tree_sum(p->parallel->comm, &part, 1, p->count, GLN_F64);
    if (status != GLN_OK) return status;
    double sum = 0;
    for (int i = 0; i < p->count; i++)
        sum += x->squares[i];
    *norm = sqrt(sum);
    return GLN_OK;
}

static gln_status_t update(gln_optimizer_t *x, const gln_param_t *first, int64_t count, int64_t t,
                           double scale)
{
    gln_params_t *p = x->params;
    const gln_adamw_t args = {.n = count,
                              .w = gln_param_w(p, first),
                              .m = gln_param_m(p, first),
                              .v = gln_param_v(p, first),
                              .g = gradient(p, first),
                              .w_compute = p->dtype != p->acc ? gln_param_operand(p, first) : NULL,
                              .lr = gln_optimizer_lr(&x->o, t),
                              .beta1 = x->o.beta1,
                              .beta2 = x->o.beta2,
                              .eps = x->o.eps,
                              .weight_decay = first->decay ? x->o.weight_decay : 0,
                              .grad_scale = scale,
                              .t = t};
    return x->k->ops->adamw(x->k, &args);
}

gln_status_t gln_optimizer_step(gln_optimizer_t *x, int64_t t, double *grad_norm)
{
    gln_params_t *p = x->params;
    double norm = 0;
    gln_status_t status = reduce(p);
    gln_step_lap(x->times, GLN_STEP_SUM);
    if (status == GLN_OK) status = global_norm(x, &norm);
    gln_step_lap(x->times, GLN_STEP_NORM);
    if (status != GLN_OK) return status;
    if (!isfinite(norm))
        return gln_fail(
            GLN_ERR_NUMERIC,
            "step %lld: the gradient norm is %g; nothing was updated: lower train.lr, or "
            "resume from the last checkpoint",
            (long long)t, norm);
    const double scale = x->o.clip > 0 && norm > x->o.clip ? x->o.clip / norm : 1.0;
    for (int i = 0; i < p->count && status == GLN_OK;) {
        /* neighbours in memory with equal decay go in one pass */
        const gln_param_t *first = &p->items[i];
        int64_t count = first->count;
        int j = i + 1;
        while (j < p->count && first->local && p->items[j].local &&
               (p->items[j].expert < 0) == (first->expert < 0) &&
               p->items[j].decay == first->decay && p->items[j].state == first->state &&
               p->items[j].offset == first->offset + count)
            count += p->items[j++].count;
        if (first->local && !first->state) status = update(x, first, count, t, scale);
        i = j;
    }
    gln_step_lap(x->times, GLN_STEP_ADAMW);
    if (status == GLN_OK) *grad_norm = norm;
    return status;
}
