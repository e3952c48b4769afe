/* Gradient of the logits in closed form, O(T (E + K)), one task per block of tokens.
 *
 * With n_j = c_j p_j (c_j = 1 for a slot route, plus m where it is h), w_j = r n_j / S for a factor
 * r (route_scale), A = sum_j w_j a_j and u_i = p_i dL/dp_i through the weights: S constant or 1 u_i
 * = w_i a_i S = sum of n_j, with gradient       u_i = w_i (a_i - A / r) S = sum of the k choices'
 * p, with   u_i = w_i a_i - q_i A, q_i = p_i / S among the choices, else 0 No division by p:
 * underflowed scores learn too, and where all of S underflowed the same forms hold with the equal
 * shares that weights.c gave. Balance (f_e constant): g_i = coef E f_i / T is dL/dp_i. p softmax
 * dL/dlogit_i = u_i - p_i sum_j u_j + p_i (g_i - sum_j p_j g_j) p sigmoid   dL/dlogit_i = (1 - p_i)
 * (u_i + b_i (g_i - sum_j b_j g_j)), b = p / sum_j p_j z: adds softmax_i coef 2 lse / T. */
#include "base/clones.h"
#include "base/log.h"
#include "router/router_internal.h"

typedef struct gln_backward_call {
    gln_router_t *router;
    const gln_plan_t *plan;
    const void *route_a, *rect_a;
    void *dlogits;
    double balance_coef; /* scaled; 0: no balance gradient */
    double z_factor;     /* dL/dlogit_i = softmax_i * z_factor * lse */
} gln_backward_call_t;

#define REAL float
#define NAME(stem) stem##_f32
#include "router/backward.inc"

#define REAL double
#define NAME(stem) stem##_f64
#include "router/backward.inc"

static void backward_block(void *ctx, int block, int worker)
{
    (void)worker;
    const gln_backward_call_t *call = ctx;
    int64_t first, end;
    gln_block_range(call->router, block, &first, &end);
    for (int64_t t = first; t < end; t++) {
        if (call->router->shape.acc == GLN_F64)
            token_gradient_f64(call, t);
        else
            token_gradient_f32(call, t);
    }
}

gln_status_t gln_router_backward(gln_router_t *router, const gln_plan_t *plan, const void *route_a,
                                 const void *rect_a, double aux_scale, void *dlogits)
{
    gln_status_t status = gln_plan_check(router, plan);
    if (status != GLN_OK) return status;
    if ((!route_a && plan->routes_count > 0) || (!rect_a && plan->rect_count > 0) ||
        (!dlogits && plan->tokens > 0))
        return gln_fail(GLN_ERR_ARGUMENT,
                        "router backward got NULL for route_a, rect_a or dlogits; "
                        "each must hold one number per route, row or logit");
    if (plan->tokens == 0) return GLN_OK;
    double tokens = (double)plan->tokens;
    gln_backward_call_t call = {
        .router = router,
        .plan = plan,
        .route_a = route_a,
        .rect_a = rect_a,
        .dlogits = dlogits,
        .balance_coef = router->options.balance_coef * aux_scale,
        .z_factor = router->options.z_coef * aux_scale * 2 / tokens,
    };
    if (call.balance_coef != 0) gln_balance_gradient(router, plan, call.balance_coef);
    gln_pool_run(router->pool, router->blocks_count, backward_block, &call);
    return GLN_OK;
}
