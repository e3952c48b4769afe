/* Checks every option of a router against its shape and fills in the defaults. */
#include "base/log.h"
#include "router/router_internal.h"
#include <math.h>

/* route_choice is 8 bits wide and holds 0 .. k */
#define CHOICES_MAX 255

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
    if (shape->tokens < 0 || shape->experts < 1)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "router shape has %lld tokens and %d experts, expected at least 0 and 1",
                        (long long)shape->tokens, shape->experts);
    if (shape->per_domain < 1 || shape->experts % shape->per_domain != 0)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "router shape per_domain is %d, expected a divisor of the %d experts",
                        shape->per_domain, shape->experts);
    return check_number("capacity_factor_max", shape->capacity_factor_max, 1);
}

static gln_status_t check_choices(gln_router_options_t *o, const gln_router_shape_t *shape)
{
    int experts = shape->experts;
    int k_max = experts < CHOICES_MAX ? experts : CHOICES_MAX;
    gln_status_t status = check_range("k", o->k, 0, k_max);
    if (status != GLN_OK) return status;
    if (o->k == 0) o->k = 1;
    if (shape->tokens > INT32_MAX / (o->k + 1))
        return gln_fail(GLN_ERR_ARGUMENT,
                        "router shape has %lld tokens: with k %d at most %d are possible; use more "
                        "domains",
                        (long long)shape->tokens, o->k, INT32_MAX / (o->k + 1));
    if (o->fill_rank == 0) o->fill_rank = o->k + 1;
    return check_range("fill_rank", o->fill_rank, o->k + 1,
                       experts > o->k ? experts : (int64_t)o->k + 1);
}

static gln_status_t check_flags(const gln_router_options_t *o)
{
    const struct {
        const char *name;
        int value, high;
    } rows[] = {
        {"priority", (int)o->priority, GLN_PRIORITY_RANDOM},
        {"fill", o->fill, 1},
        {"fill_key", (int)o->fill_key, GLN_FILL_KEY_MAX},
        {"rectify", o->rectify, 1},
        {"ir_tokens", (int)o->ir_tokens, GLN_IR_TOKENS_ANY_LOST},
        {"ir_exclude", o->ir_exclude, 1},
        {"ir_scale", (int)o->ir_scale, GLN_IR_SCALE_K_GATE},
        {"weight", (int)o->weight, GLN_WEIGHT_TOPK_SOFTMAX},
        {"attached", o->attached, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        gln_status_t status = check_range(rows[i].name, rows[i].value, 0, rows[i].high);
        if (status != GLN_OK) return status;
    }
    return GLN_OK;
}

static gln_status_t check_rectify(gln_router_options_t *o, const gln_router_shape_t *shape)
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

gln_status_t gln_router_options_resolve(const gln_router_options_t *options,
                                        const gln_router_shape_t *shape, gln_router_t *router)
{
    gln_router_options_t o = *options;
    gln_status_t status = check_shape(shape);
    if (status == GLN_OK) status = check_choices(&o, shape);
    if (status == GLN_OK) status = check_flags(&o);
    if (status == GLN_OK) status = check_rectify(&o, shape);
    if (status == GLN_OK) status = check_number("capacity_factor", o.capacity_factor, 1);
    if (status == GLN_OK) status = check_range("min_capacity", o.min_capacity, 0, INT32_MAX);
    if (status == GLN_OK) status = check_number("balance_coef", o.balance_coef, 0);
    if (status == GLN_OK) status = check_number("z_coef", o.z_coef, 0);
    if (status != GLN_OK) return status;
    if (o.capacity_factor == 0) o.capacity_factor = 1.0;
    router->options = o;
    router->shape = *shape;
    if (router->shape.capacity_factor_max < o.capacity_factor)
        router->shape.capacity_factor_max = o.capacity_factor;
    router->best_count = o.fill && o.fill_rank <= shape->experts ? o.fill_rank : o.k;
    return GLN_OK;
}
