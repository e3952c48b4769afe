/* The router's part of a run: keys left to the policy are asked of the router itself
 * (gln_router_resolve), so that no default of a policy stands here. A schedule is a text
 * "step:factor,step:factor", read anew at each use: O(its length), nothing is allocated. */
#include "moe/run_router.h"

#include "base/log.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OFF = 0, ON = 1, AUTO = 2 };

/* 0 means "default" to the library; here it was said: the smallest factor gives no slot */
static double factor_of(double factor)
{
    return factor == 0 ? 1e-300 : factor;
}

/* ---- schedules ---------------------------------------------------------------------------------
 */

/* One "step:factor" at *text, which moves behind it and its comma. 0 if there is none. */
static int read_pair(const char **text, int64_t *step, double *factor)
{
    char *end;
    if ((*text)[0] < '0' || (*text)[0] > '9') return 0;
    errno = 0;
    *step = strtoll(*text, &end, 10);
    if (errno || *end != ':') return 0;
    const char *number = end + 1;
    if ((*number < '0' || *number > '9') && strncmp(number, "inf", 3) != 0) return 0;
    *factor = strtod(number, &end);
    if (end == number || (*end != ',' && *end != 0)) return 0;
    if (*end == ',' && end[1] == 0) return 0;
    *text = *end == ',' ? end + 1 : end;
    return 1;
}

static gln_status_t check_schedule(const gln_config_t *config, const gln_run_options_t *run)
{
    const char *text = run->router.capacity_schedule;
    int64_t step, last = -1;
    double factor;
    while (*text) {
        const char *at = text;
        if (!read_pair(&text, &step, &factor))
            return gln_config_fail(config, "router.capacity_schedule",
                                   "expected pairs \"step:factor\" with commas between them, such "
                                   "as \"0:2.0,100:1.25\", found \"%.80s\"",
                                   at);
        if (last < 0 ? step != 0 : step <= last)
            return gln_config_fail(
                config, "router.capacity_schedule",
                "steps begin at 0 and grow, found %lld after %lld; write 0:FACTOR first",
                (long long)step, (long long)last);
        last = step;
    }
    return GLN_OK;
}

double gln_run_capacity_factor(const gln_run_options_t *run, int64_t done)
{
    const char *text = run->router.capacity_schedule;
    double factor = run->router.capacity_factor, next;
    int64_t step;
    while (*text && read_pair(&text, &step, &next) && step <= done)
        factor = next;
    return factor_of(factor);
}

double gln_run_capacity_max(const gln_run_options_t *run)
{
    const char *text = run->router.capacity_schedule;
    double most = run->router.capacity_schedule[0] ? 0 : run->router.capacity_factor, factor;
    int64_t step;
    while (*text && read_pair(&text, &step, &factor))
        if (factor > most) most = factor;
    return factor_of(most);
}

/* ---- options -----------------------------------------------------------------------------------
 */

gln_router_options_t gln_run_router_options(const gln_run_options_t *run)
{
    static const int attached[] = {[OFF] = 1, [ON] = -1, [AUTO] = 0}; /* by detach */
    const int is_topk = run->router.policy == GLN_POLICY_TOPK;
    return (gln_router_options_t){
        .policy = (gln_policy_t)run->router.policy,
        .k = (int)run->router.k,
        .capacity_factor = run->router.capacity_factor < 0 && !run->router.capacity_schedule[0]
                               ? 0
                               : gln_run_capacity_factor(run, 0),
        .min_capacity = (int)run->router.min_capacity,
        .priority = (gln_priority_t)run->router.priority,
        .fill = run->router.fill == AUTO ? is_topk : run->router.fill,
        .fill_key = (gln_fill_key_t)run->router.fill_key,
        .fill_rank = (int)run->router.fill_rank,
        .rectify = run->router.rectify == AUTO ? is_topk : run->router.rectify,
        .ir_tokens = (gln_ir_tokens_t)run->router.ir_tokens,
        .ir_exclude = run->router.ir_exclude,
        .ir_capacity = isinf(run->router.ir_capacity) ? 0 : (int64_t)run->router.ir_capacity,
        .ir_scope = (int)run->router.ir_scope,
        .ir_scale = (gln_ir_scale_t)run->router.ir_scale,
        .weight = (gln_route_weight_t)run->router.weight,
        .attached = attached[run->router.detach],
        .balance_coef = run->router.balance_coef < 0 ? 0 : run->router.balance_coef,
        .z_coef = run->router.z_coef,
        .group_count = (int)run->router.group_count,
        .group_topk = (int)run->router.group_topk,
        .route_scale = run->router.route_scale,
        .sinkhorn_iterations = (int)run->router.sinkhorn_iterations,
        .sinkhorn_tolerance = run->router.sinkhorn_tolerance,
    };
}

int gln_run_eval_is_train(const gln_run_options_t *run)
{
    return run->eval.routing == 1 && run->eval.policy == 0 && run->eval.capacity_factor < 0 &&
           run->eval.fill == AUTO && run->eval.rectify == AUTO;
}

gln_router_options_t gln_run_eval_router_options(const gln_run_options_t *run)
{
    gln_router_options_t o = gln_run_router_options(run);
    const int dropless = run->eval.routing == 0;
    gln_policy_t policy = o.policy;
    if (run->eval.policy > 0)
        policy = (gln_policy_t)(run->eval.policy - 1);
    else if (dropless && policy == GLN_POLICY_EXPERT_CHOICE)
        policy = GLN_POLICY_TOPK;
    if (policy != o.policy) {
        /* how routes are weighed belongs to the weights that were trained; the rest to the policy
         */
        o.policy = policy;
        o.priority = GLN_PRIORITY_AUTO;
        o.attached = 0;
        o.fill = o.rectify = 0;
        o.group_count = o.group_topk = o.sinkhorn_iterations = 0;
        o.route_scale = o.sinkhorn_tolerance = 0;
    }
    if (dropless) {
        o.capacity_factor = INFINITY;
        o.fill = o.rectify = 0;
        return o;
    }
    if (run->eval.capacity_factor >= 0) o.capacity_factor = factor_of(run->eval.capacity_factor);
    if (run->eval.fill != AUTO) o.fill = run->eval.fill;
    if (run->eval.rectify != AUTO) o.rectify = run->eval.rectify;
    return o;
}

/* ---- resolving ---------------------------------------------------------------------------------
 */

/* What the router refused, in terms of the run file. */
static gln_status_t refuse(const gln_config_t *config, const gln_run_options_t *run, int is_eval,
                           const gln_router_options_t *o)
{
    const char *message = gln_last_error();
    char name[32] = "", key[64];
    static const char *const at_eval[] = {"capacity_factor", "fill", "rectify", NULL};
    int eval_key = 0;
    sscanf(message, "router option %31s is", name);
    for (int i = 0; at_eval[i]; i++)
        eval_key |= is_eval && !strcmp(name, at_eval[i]);
    if (is_eval && !eval_key)
        snprintf(key, sizeof key, "eval.policy");
    else
        snprintf(key, sizeof key, "%s.%s", is_eval ? "eval" : "router", name[0] ? name : "policy");
    /* the router speaks of numbers; these have names in the file */
    if (!strcmp(name, "fill") || !strcmp(name, "rectify"))
        return gln_config_fail(config, key, "policy %s cannot have it; leave it out, or set false",
                               gln_policy_name(o->policy));
    if (!strcmp(name, "weight") || !strcmp(name, "priority"))
        return gln_config_fail(config, key,
                               "policy %s does not take this %s; leave router.%s at auto",
                               gln_policy_name(o->policy), name, name);
    (void)run;
    return gln_config_fail(config, key, "%s", message);
}

static gln_status_t ask_router(const gln_config_t *config, const gln_run_options_t *run,
                               int is_eval, gln_router_options_t *o)
{
    const int64_t group = run->parallel.domains / run->parallel.expert_replicas;
    const gln_router_shape_t shape = {.tokens = run->train.batch /
                                                (run->parallel.domains * run->train.accumulation) *
                                                run->model.sequence,
                                      .experts = (int)run->model.experts,
                                      .per_domain = (int)(run->model.experts / group),
                                      .acc = gln_dtype_acc(gln_run_dtype(run))};
    gln_log_hold(1); /* what is wrong is said with file and line below */
    gln_status_t status = gln_router_resolve(o, &shape, o);
    gln_log_hold(0);
    if (status == GLN_OK) return GLN_OK;
    if (status != GLN_ERR_ARGUMENT) return gln_fail(status, "%s", gln_last_error());
    return refuse(config, run, is_eval, o);
}

static gln_status_t check_numbers(const gln_config_t *config, const gln_run_options_t *run)
{
    const struct {
        const char *key;
        double value;
    } rows[] = {{"router.capacity_factor", run->router.capacity_factor},
                {"eval.capacity_factor", run->eval.capacity_factor},
                {"router.balance_coef", run->router.balance_coef}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].value < 0 && rows[i].value != -1)
            return gln_config_fail(config, rows[i].key, "-1 or a number of at least 0, found %g",
                                   rows[i].value);
    if (run->router.capacity_schedule[0] && run->router.capacity_factor >= 0)
        return gln_config_fail(config, "router.capacity_schedule",
                               "router.capacity_factor is set too (%g); set one of them",
                               run->router.capacity_factor);
    if (run->eval.routing == 0 && run->eval.capacity_factor >= 0)
        return gln_config_fail(config, "eval.capacity_factor", "needs eval.routing: train");
    if (run->eval.routing == 0 && run->eval.fill == ON)
        return gln_config_fail(config, "eval.fill", "needs eval.routing: train");
    if (run->eval.routing == 0 && run->eval.rectify == ON)
        return gln_config_fail(config, "eval.rectify", "needs eval.routing: train");
    return check_schedule(config, run);
}

/* Policies that need no loss for balance. */
static int balances_itself(gln_policy_t policy)
{
    return policy == GLN_POLICY_EXPERT_CHOICE || policy == GLN_POLICY_SINKHORN ||
           gln_policy_has_bias(policy);
}

gln_status_t gln_run_router_resolve(const gln_config_t *config, gln_run_options_t *run)
{
    gln_status_t status = check_numbers(config, run);
    if (status != GLN_OK) return status;
    gln_router_options_t o = gln_run_router_options(run);
    status = ask_router(config, run, 0, &o);
    if (status != GLN_OK) return status;
    run->router.k = o.k;
    /* beside a schedule the key stays out of use, so that config.yaml loads again */
    if (!run->router.capacity_schedule[0] && run->router.capacity_factor < 0)
        run->router.capacity_factor = o.capacity_factor;
    run->router.fill = o.fill;
    run->router.rectify = o.rectify;
    run->router.priority = (int)o.priority;
    run->router.weight = (int)o.weight;
    run->router.detach = o.attached == 1 ? OFF : ON;
    if (run->router.balance_coef < 0)
        run->router.balance_coef = balances_itself(o.policy) ? 0 : 0.01;
    o = gln_run_eval_router_options(run);
    return ask_router(config, run, 1, &o);
}
