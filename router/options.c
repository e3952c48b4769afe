/* Checks every option of a router against its policy and its shape and fills in the defaults. */
#include "base/log.h"
#include "router/policy_internal.h"
#include <math.h>

/* route_choice is 16 bits wide and holds numbers of entries, at most one per expert and one more */
#define EXPERTS_MAX 65535

static gln_status_t check_range(const char *name, int64_t value, int64_t low, int64_t high)
{
    if (value >= low && value <= high) return GLN_OK;
    return gln_fail(GLN_ERR_ARGUMENT, "router option %s is %lld, allowed is %lld to %lld", name,
                    (long long)value, (long long)low, (long long)high);
}

static gln_status_t check_number(const char *name, double value, int infinite_allowed)
{
    if (value >= 0 && (infinite_allowed || isfinite(value))) return GLN_OK;
    return gln_fail(GLN_ERR_ARGUMENT, "router option %s is %g, allowed is 0 or a positive %snumber",
                    name, value, infinite_allowed ? "(also infinite) " : "finite ");
}

static gln_status_t check_shape(const gln_router_shape_t *shape)
{
    if (shape->acc != GLN_F32 && shape->acc != GLN_F64)
        return gln_fail(GLN_ERR_ARGUMENT, "router shape acc is %s, allowed is f32 or f64",
                        shape->acc == GLN_BF16 ? "bf16" : "unknown");
    if (shape->tokens < 0 || shape->experts < 1 || shape->experts > EXPERTS_MAX)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "router shape has %lld tokens and %d experts, expected at least 0, and 1 "
                        "to %d",
                        (long long)shape->tokens, shape->experts, EXPERTS_MAX);
    if (shape->per_domain < 1 || shape->experts % shape->per_domain != 0)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "router shape per_domain is %d, expected a divisor of the %d experts",
                        shape->per_domain, shape->experts);
    return check_number("capacity_factor_max", shape->capacity_factor_max, 1);
}

static gln_status_t check_flags(const gln_router_options_t *o)
{
    const struct {
        const char *name;
        int value, low, high;
    } rows[] = {
        {"priority", (int)o->priority, 0, GLN_PRIORITY_SCORE},
        {"fill", o->fill, 0, 1},
        {"fill_key", (int)o->fill_key, 0, GLN_FILL_KEY_MAX},
        {"rectify", o->rectify, 0, 1},
        {"ir_tokens", (int)o->ir_tokens, 0, GLN_IR_TOKENS_ANY_LOST},
        {"ir_exclude", o->ir_exclude, 0, 1},
        {"ir_scale", (int)o->ir_scale, 0, GLN_IR_SCALE_K_GATE},
        {"weight", (int)o->weight, 0, GLN_WEIGHT_NORMALIZED},
        {"attached", o->attached, -1, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        gln_status_t status = check_range(rows[i].name, rows[i].value, rows[i].low, rows[i].high);
        if (status != GLN_OK) return status;
    }
    return GLN_OK;
}

static gln_status_t check_numbers(const gln_router_options_t *o)
{
    gln_status_t status = check_number("capacity_factor", o->capacity_factor, 1);
    if (status == GLN_OK) status = check_range("min_capacity", o->min_capacity, 0, INT32_MAX);
    if (status == GLN_OK) status = check_number("balance_coef", o->balance_coef, 0);
    if (status == GLN_OK) status = check_number("z_coef", o->z_coef, 0);
    if (status == GLN_OK) status = check_number("route_scale", o->route_scale, 0);
    if (status == GLN_OK)
        status = check_range("sinkhorn_iterations", o->sinkhorn_iterations, 0, INT32_MAX);
    if (status == GLN_OK) status = check_number("sinkhorn_tolerance", o->sinkhorn_tolerance, 0);
    return status;
}

/* Options of other policies must be left at 0. */
static gln_status_t check_taken(const gln_policy_ops_t *ops, const gln_router_options_t *o)
{
    const struct {
        unsigned bit;
        const char *name;
        double value;
    } rows[] = {
        {GLN_TAKES_FILL, "fill", o->fill},
        {GLN_TAKES_RECTIFY, "rectify", o->rectify},
        {GLN_TAKES_GROUPS, "group_count", o->group_count},
        {GLN_TAKES_GROUPS, "group_topk", o->group_topk},
        {GLN_TAKES_GROUPS, "route_scale", o->route_scale},
        {GLN_TAKES_SINKHORN, "sinkhorn_iterations", o->sinkhorn_iterations},
        {GLN_TAKES_SINKHORN, "sinkhorn_tolerance", o->sinkhorn_tolerance},
    };
    const char *policy = gln_policy_name(o->policy);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (!(ops->takes & rows[i].bit) && rows[i].value != 0)
            return gln_fail(GLN_ERR_ARGUMENT,
                            "router option %s is %g, but policy %s does not take it; leave it 0",
                            rows[i].name, rows[i].value, policy);
    if (!(ops->takes & GLN_TAKES_PRIORITY) && o->priority != GLN_PRIORITY_AUTO &&
        o->priority != ops->priority)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "router option priority is %d, but policy %s has its own, %d; leave it 0",
                        (int)o->priority, policy, (int)ops->priority);
    if (o->weight != GLN_WEIGHT_AUTO && !(ops->weights & GLN_WEIGHT_BIT(o->weight)))
        return gln_fail(GLN_ERR_ARGUMENT,
                        "router option weight is %d, which policy %s does not have; leave it 0",
                        (int)o->weight, policy);
    return GLN_OK;
}

static gln_status_t resolve_choices(const gln_policy_ops_t *ops, int experts,
                                    gln_router_options_t *o)
{
    gln_status_t status = check_range("k", o->k, 0, experts);
    if (status != GLN_OK) return status;
    if (o->k == 0) o->k = ops->k_fixed || ops->k < experts ? ops->k : experts;
    if (ops->k_fixed && (o->k != ops->k || o->k > experts))
        return gln_fail(GLN_ERR_ARGUMENT,
                        "router option k is %d with %d experts, policy %s has k = %d", o->k,
                        experts, gln_policy_name(o->policy), ops->k);
    if (o->fill_rank == 0) o->fill_rank = o->k + 1;
    return check_range("fill_rank", o->fill_rank, o->k + 1,
                       experts > o->k ? experts : (int64_t)o->k + 1);
}

static gln_status_t resolve_rectify(const gln_router_shape_t *shape, gln_router_options_t *o)
{
    int domains = shape->experts / shape->per_domain; /* of one replica group */
    gln_status_t status = check_range("ir_capacity", o->ir_capacity, 0, INT64_MAX);
    if (status == GLN_OK) status = check_range("ir_scope", o->ir_scope, 0, domains);
    if (status != GLN_OK) return status;
    if (o->ir_scope == 0) o->ir_scope = 1;
    if (domains % o->ir_scope != 0)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "router option ir_scope is %d, allowed is a divisor of the %d domains that "
                        "host the experts",
                        o->ir_scope, domains);
    if (o->ir_tokens == GLN_IR_TOKENS_AUTO)
        o->ir_tokens = o->k == 1 ? GLN_IR_TOKENS_NONE_LEFT : GLN_IR_TOKENS_ANY_LOST;
    return GLN_OK;
}

static gln_status_t resolve_groups(int experts, gln_router_options_t *o)
{
    gln_status_t status = check_range("group_count", o->group_count, 0, experts);
    if (status != GLN_OK) return status;
    if (o->group_count == 0) o->group_count = 1;
    if (experts % o->group_count != 0)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "router option group_count is %d, allowed is a divisor of the %d experts",
                        o->group_count, experts);
    status = check_range("group_topk", o->group_topk, 0, o->group_count);
    if (status == GLN_OK && o->group_topk == 0) o->group_topk = o->group_count;
    return status;
}

static gln_status_t resolve(const gln_router_options_t *options, const gln_router_shape_t *shape,
                            gln_router_options_t *out)
{
    gln_router_options_t o = *options;
    const gln_policy_ops_t *ops = gln_policy_ops(o.policy);
    gln_status_t status =
        check_range("policy", (int64_t)o.policy, 0, (int64_t)GLN_POLICIES_COUNT - 1);
    if (status == GLN_OK) status = check_shape(shape);
    if (status == GLN_OK) status = check_flags(&o);
    if (status == GLN_OK) status = check_numbers(&o);
    if (status == GLN_OK) status = check_taken(ops, &o);
    if (status == GLN_OK) status = resolve_choices(ops, shape->experts, &o);
    if (status == GLN_OK) status = resolve_rectify(shape, &o);
    if (status == GLN_OK) status = resolve_groups(shape->experts, &o);
    if (status != GLN_OK) return status;
    if (o.capacity_factor == 0) o.capacity_factor = ops->capacity_factor;
    if (o.priority == GLN_PRIORITY_AUTO) o.priority = ops->priority;
    if (o.weight == GLN_WEIGHT_AUTO) o.weight = ops->weight;
    if (o.attached == 0) o.attached = ops->attached;
    if (o.route_scale == 0) o.route_scale = 1;
    if (o.sinkhorn_iterations == 0) o.sinkhorn_iterations = 100;
    if (o.sinkhorn_tolerance == 0) o.sinkhorn_tolerance = 1e-4;
    *out = o;
    return GLN_OK;
}

/* Entries, routes and expert offsets are numbered with 32 bits. */
static gln_status_t check_entries(const gln_router_t *router)
{
    int most = router->width > router->token_routes ? router->width : router->token_routes;
    if (router->shape.tokens <= INT32_MAX / most) return GLN_OK;
    return gln_fail(GLN_ERR_ARGUMENT,
                    "router shape has %lld tokens: with %d choices of each at most %d are "
                    "possible; use more domains",
                    (long long)router->shape.tokens, most, INT32_MAX / most);
}

gln_status_t gln_router_set_options(gln_router_t *router, const gln_router_options_t *options,
                                    const gln_router_shape_t *shape)
{
    gln_status_t status = resolve(options, shape, &router->options);
    if (status != GLN_OK) return status;
    router->shape = *shape;
    if (router->shape.capacity_factor_max < router->options.capacity_factor)
        router->shape.capacity_factor_max = router->options.capacity_factor;
    router->ops = gln_policy_ops(router->options.policy);
    status = router->ops->size(router);
    return status == GLN_OK ? check_entries(router) : status;
}

gln_status_t gln_router_resolve(const gln_router_options_t *options,
                                const gln_router_shape_t *shape, gln_router_options_t *out)
{
    if (!options || !shape || !out)
        return gln_fail(GLN_ERR_ARGUMENT, "router resolve got NULL for %s",
                        !options ? "options"
                        : !shape ? "shape"
                                 : "out");
    gln_router_t router = {0};
    gln_status_t status = gln_router_set_options(&router, options, shape);
    if (status == GLN_OK) *out = router.options;
    return status;
}
