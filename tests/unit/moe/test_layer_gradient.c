/* The layer's forward against the oracle, and its gradients of x, gate, gate_up and down against
 * central finite differences in double: of the oracle where the denominators are constants (the
 * default), of the layer itself where they are attached. The plan stays as it is under a
 * difference: the oracle keeps it, and for the layer it is compared. */
#include "test_layer_world.h"

static const double step_size = 1e-5, tolerance = 2e-7, aux_scale = 0.7;

/* Everything that decides who goes where. */
static uint64_t plan_hash(const world_t *w)
{
    uint64_t hash = 14695981039346656037u;
    for (int d = 0; d < w->o.domains; ++d) {
        const gln_plan_t *plan = gln_layer_plan(w->layer, d);
        for (int e = 0; e <= plan->experts; ++e)
            hash =
                (hash ^ (uint64_t)plan->expert_offset[e] ^ (uint64_t)plan->rect_offset[e] << 32) *
                1099511628211u;
        for (int64_t r = 0; r < plan->routes_count; ++r)
            hash = (hash ^ (uint64_t)plan->route_token[r]) * 1099511628211u;
        for (int64_t r = 0; r < plan->rect_count; ++r)
            hash = (hash ^ (uint64_t)plan->rect_token[r]) * 1099511628211u;
    }
    return hash;
}

/* The loss as the layer itself computes it. */
static double layer_loss(world_t *w, uint64_t plan)
{
    double loss = 0.0;
    world_forward(w, 0);
    cr_assert_eq(plan_hash(w), plan, "the plan changed under a difference of %g: pick other logits",
                 step_size);
    for (int64_t i = 0; i < w->x_count; ++i)
        loss += w->y[i] * w->dy[i];
    for (int d = 0; d < w->o.domains; ++d)
        loss += aux_scale * (w->o.router.balance_coef * gln_layer_balance_loss(w->layer, d) +
                             w->o.router.z_coef * gln_layer_z_loss(w->layer, d));
    return loss;
}

static void compare(world_t *w, const char *name, double *values, int64_t count,
                    const double *gradient, int attached, uint64_t plan)
{
    for (int64_t i = 0; i < count; ++i) {
        double kept = values[i], up, down;
        values[i] = kept + step_size;
        up = attached ? layer_loss(w, plan) : oracle_loss(w, aux_scale, NULL);
        values[i] = kept - step_size;
        down = attached ? layer_loss(w, plan) : oracle_loss(w, aux_scale, NULL);
        values[i] = kept;
        double wanted = (up - down) / (2 * step_size);
        cr_assert(
            fabs(gradient[i] - wanted) <= tolerance * fmax(1.0, fabs(wanted)),
            "D %d R %d k %d cf %g fill %d rectify %d: %s[%lld] is %.12g, differences say %.12g",
            w->o.domains, w->o.groups, w->o.router.k, w->o.router.capacity_factor, w->o.router.fill,
            w->o.router.rectify, name, (long long)i, gradient[i], wanted);
    }
}

static double *sum_parts(void *const *parts, int parts_count, int64_t count)
{
    double *sum = calloc((size_t)count, sizeof *sum);
    for (int p = 0; p < parts_count; ++p)
        for (int64_t i = 0; i < count; ++i)
            sum[i] += ((const double *)parts[p])[i];
    return sum;
}

static void check_forward(world_t *w)
{
    double *y = calloc((size_t)w->x_count, sizeof *y);
    double loss = oracle_loss(w, aux_scale, y);
    for (int64_t i = 0; i < w->x_count; ++i)
        cr_assert(fabs(y[i] - w->y[i]) <= 1e-12 * fmax(1.0, fabs(y[i])),
                  "y[%lld] is %.17g, the oracle says %.17g", (long long)i, w->y[i], y[i]);
    double own = layer_loss(w, plan_hash(w));
    cr_assert(fabs(own - loss) <= 1e-11 * fmax(1.0, fabs(loss)), "loss %.17g, oracle %.17g", own,
              loss);
    free(y);
}

static gln_ledger_t check_case(const world_options_t *options)
{
    world_t w;
    world_open(options, &w);
    world_forward(&w, 1);
    uint64_t plan = plan_hash(&w);
    gln_ledger_t ledger = gln_layer_ledger(w.layer);
    cr_assert_eq(gln_ledger_check(&ledger, "test"), GLN_OK, "%s", gln_last_error());
    world_backward(&w, aux_scale);
    const gln_plan_t *first = gln_layer_plan(w.layer, 0);
    if (first->scores == first->softmax) check_forward(&w); /* the oracle knows no sigmoid */

    int attached = options->router.attached;
    double *dgate = sum_parts(w.dgate, options->domains, w.gate_count);
    double *dgate_up = sum_parts(w.dgate_up, options->groups, w.gate_up_count);
    double *ddown = sum_parts(w.ddown, options->groups, w.down_count);
    compare(&w, "x", w.x, w.x_count, w.dx, attached, plan);
    compare(&w, "gate", w.gate, w.gate_count, dgate, attached, plan);
    compare(&w, "gate_up", w.gate_up, w.gate_up_count, dgate_up, attached, plan);
    compare(&w, "down", w.down, w.down_count, ddown, attached, plan);
    free(dgate), free(dgate_up), free(ddown);
    world_close(&w);
    return ledger;
}

static world_options_t base_options(int domains, int groups, int k)
{
    world_options_t o = {.domains = domains,
                         .groups = groups,
                         .experts = 8,
                         .tokens = 6,
                         .hidden = 4,
                         .expert_hidden = 3};
    o.router.k = k;
    o.router.capacity_factor = 1.0;
    o.router.balance_coef = 0.03;
    o.router.z_coef = 0.01;
    return o;
}

/* k, FR, IR and both capacities on one layout. */
static void check_layout(int domains, int groups)
{
    gln_ledger_t seen = {0};
    for (int k = 1; k <= 2; ++k)
        for (int mode = 0; mode < 4; ++mode)
            for (int low = 0; low < 2; ++low) {
                world_options_t o = base_options(domains, groups, k);
                o.router.fill = mode & 1;
                o.router.rectify = mode >> 1;
                o.router.capacity_factor = low ? 0.5 : 1.5;
                gln_ledger_t ledger = check_case(&o);
                gln_ledger_add(&seen, &ledger);
            }
    cr_expect(seen.filled > 0 && seen.rescued > 0 && seen.rectified > 0 && seen.dropped > 0 &&
                  seen.rect_rows > 0 && seen.unserved > 0,
              "D %d R %d: the cases do not reach every kind of route", domains, groups);
}

Test(layer_gradient, one_domain)
{
    check_layout(1, 1);
}

Test(layer_gradient, two_domains_of_one_group)
{
    check_layout(2, 1);
}

Test(layer_gradient, two_groups_of_one_domain)
{
    check_layout(2, 2);
}

Test(layer_gradient, four_domains_of_one_group)
{
    check_layout(4, 1);
}

Test(layer_gradient, two_groups_of_two_domains)
{
    check_layout(4, 2);
}

Test(layer_gradient, attached_denominators)
{
    for (int k = 1; k <= 2; ++k)
        for (int mode = 0; mode < 4; ++mode) {
            world_options_t o = base_options(2, 1, k);
            o.router.fill = mode & 1;
            o.router.rectify = mode >> 1;
            o.router.capacity_factor = 0.7;
            o.router.attached = 1;
            check_case(&o);
        }
}

/* Every policy in a layer: what it routes fits the buffers, and the gradient is right. */
Test(layer_gradient, every_policy)
{
    for (int policy = 0; policy < GLN_POLICIES_COUNT; ++policy)
        for (int low = 0; low < 2; ++low) {
            world_options_t o = base_options(2 + 2 * low, 1, 0);
            o.router.policy = (gln_policy_t)policy;
            o.router.capacity_factor = low ? 0.6 : 1.5;
            o.router.attached = 1; /* differences of the layer's own loss */
            check_case(&o);
        }
}

Test(layer_gradient, other_weights)
{
    static const gln_route_weight_t forms[] = {GLN_WEIGHT_P, GLN_WEIGHT_TOPK_SOFTMAX};
    for (int form = 0; form < 2; ++form)
        for (int attached = 0; attached < 2; ++attached) {
            world_options_t o = base_options(2, 1, 2);
            o.router.fill = o.router.rectify = 1;
            o.router.capacity_factor = 0.6;
            o.router.weight = forms[form];
            o.router.attached = attached;
            check_case(&o);
        }
}

Test(layer_gradient, options_of_rectification)
{
    for (int variant = 0; variant < 6; ++variant) {
        world_options_t o = base_options(4, 1, 2);
        o.router.fill = variant % 2;
        o.router.rectify = 1;
        o.router.capacity_factor = 0.5;
        if (variant == 0) o.router.ir_scope = 2;
        if (variant == 1) o.router.ir_scope = 4;
        if (variant == 2) o.router.ir_exclude = 1;
        if (variant == 3) o.router.ir_scale = GLN_IR_SCALE_K_GATE;
        if (variant == 4) o.router.ir_capacity = 1;
        if (variant == 5) o.router.ir_tokens = GLN_IR_TOKENS_NONE_LEFT;
        check_case(&o);
    }
}

Test(layer_gradient, dropless_and_without_losses)
{
    world_options_t o = base_options(4, 2, 2);
    o.router.capacity_factor = INFINITY;
    o.router.balance_coef = o.router.z_coef = 0.0;
    gln_ledger_t ledger = check_case(&o);
    cr_expect_eq(ledger.overflow, 0);
}

Test(layer_gradient, three_routes_of_an_odd_number_of_tokens)
{
    world_options_t o = base_options(2, 1, 3);
    o.tokens = 7;
    o.router.fill = o.router.rectify = 1;
    o.router.capacity_factor = 0.4;
    check_case(&o);
}
