/* The bias that some policies add to scores for the selection: state of a router, in float as
 * models keep it. Its step compares loads as integers, so every rank that is given the same loads
 * makes the same step. O(E). */
#include "base/log.h"
#include "router/policy_internal.h"
#include <math.h>

static gln_status_t check(const gln_router_t *router, const void *array)
{
    if (!router || !array)
        return gln_fail(GLN_ERR_ARGUMENT, "router bias call got NULL for %s",
                        router ? "its array" : "router");
    if (!(router->ops->takes & GLN_TAKES_BIAS))
        return gln_fail(GLN_ERR_ARGUMENT, "policy %s has no bias; deepseek_v3 has one",
                        gln_policy_name(router->options.policy));
    return GLN_OK;
}

gln_status_t gln_router_bias(const gln_router_t *router, float *out)
{
    gln_status_t status = check(router, out);
    if (status != GLN_OK) return status;
    memcpy(out, router->bias, (size_t)router->shape.experts * sizeof *out);
    return GLN_OK;
}

gln_status_t gln_router_set_bias(gln_router_t *router, const float *bias)
{
    gln_status_t status = check(router, bias);
    if (status != GLN_OK) return status;
    for (int e = 0; e < router->shape.experts; e++)
        if (!isfinite(bias[e]))
            return gln_fail(GLN_ERR_ARGUMENT,
                            "router bias of expert %d is %f, expected a finite number", e,
                            (double)bias[e]);
    memcpy(router->bias, bias, (size_t)router->shape.experts * sizeof *bias);
    return GLN_OK;
}

gln_status_t gln_router_update_bias(gln_router_t *router, const int64_t *load, double gamma)
{
    gln_status_t status = check(router, load);
    if (status != GLN_OK) return status;
    int64_t experts = router->shape.experts, sum = 0;
    if (!(gamma >= 0) || !isfinite(gamma))
        return gln_fail(GLN_ERR_ARGUMENT, "router bias step is %g, allowed is 0 or a finite number",
                        gamma);
    for (int e = 0; e < experts; e++) {
        if (load[e] < 0 || load[e] > INT64_MAX / experts)
            return gln_fail(GLN_ERR_ARGUMENT,
                            "router load of expert %d is %lld, allowed is 0 to %lld", e,
                            (long long)load[e], (long long)(INT64_MAX / experts));
        sum += load[e];
    }
    for (int e = 0; e < experts; e++) {
        if (load[e] * experts < sum) router->bias[e] += (float)gamma;
        if (load[e] * experts > sum) router->bias[e] -= (float)gamma;
    }
    return GLN_OK;
}
