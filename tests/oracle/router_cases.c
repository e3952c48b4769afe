/* Routes cases that another program made and writes everything the router decided: the C side of
 * test_router.py. Cases come on standard input, results go to standard output, one after the other,
 * as little-endian numbers of 8 bytes (int64 or double); the order of the numbers is that of
 * read_case and write_plan, and of pack_case and Result in test_router.py.
 * Usage: router_cases THREADS < cases > results;  router_cases --policies prints the names. */
#include "base/log.h"
#include "router/router.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct cases_case {
    gln_router_shape_t shape;
    gln_router_options_t options;
    gln_route_input_t input;
    int has_bias, has_fraction, has_load;
    double aux_scale, gamma;
    void *logits;
    double *a; /* [T, E]: <dL/dy, E_e(x_t)> */
    float *bias;
    double *fraction;
    int64_t *load;
} cases_case_t;

static void stop(const char *why)
{
    fprintf(stderr, "router_cases: %s\n", why);
    exit(1);
}

static int64_t get_int(void)
{
    int64_t value;
    if (fread(&value, sizeof value, 1, stdin) != 1) stop("the input ends inside a case");
    return value;
}

static double get_real(void)
{
    double value;
    if (fread(&value, sizeof value, 1, stdin) != 1) stop("the input ends inside a case");
    return value;
}

static void put_int(int64_t value)
{
    if (fwrite(&value, sizeof value, 1, stdout) != 1) stop("cannot write");
}

static void put_real(double value)
{
    if (fwrite(&value, sizeof value, 1, stdout) != 1) stop("cannot write");
}

static void *room(int64_t count)
{
    void *memory = calloc((size_t)count + 1, 8);
    if (!memory) stop("out of memory");
    return memory;
}

static void read_options(cases_case_t *c)
{
    gln_router_options_t *o = &c->options;
    gln_route_input_t *in = &c->input;
    c->shape.tokens = get_int();
    c->shape.experts = (int)get_int();
    c->shape.per_domain = (int)get_int();
    o->policy = (gln_policy_t)get_int();
    o->k = (int)get_int();
    o->min_capacity = (int)get_int();
    o->priority = (gln_priority_t)get_int();
    o->fill = (int)get_int();
    o->fill_key = (gln_fill_key_t)get_int();
    o->fill_rank = (int)get_int();
    o->rectify = (int)get_int();
    o->ir_tokens = (gln_ir_tokens_t)get_int();
    o->ir_exclude = (int)get_int();
    o->ir_capacity = get_int();
    o->ir_scope = (int)get_int();
    o->ir_scale = (gln_ir_scale_t)get_int();
    o->weight = (gln_route_weight_t)get_int();
    o->attached = (int)get_int();
    o->group_count = (int)get_int();
    o->group_topk = (int)get_int();
    o->sinkhorn_iterations = (int)get_int();
    in->domain = (int)get_int();
    in->first_local = (int)get_int();
    in->seed = (uint64_t)get_int();
    in->step = get_int();
    in->layer = (int)get_int();
    in->skip_fill = (int)get_int();
    in->skip_rectify = (int)get_int();
    c->has_bias = (int)get_int();
    c->has_fraction = (int)get_int();
    c->has_load = (int)get_int();
    o->capacity_factor = get_real();
    c->shape.capacity_factor_max = get_real();
    in->capacity_factor = get_real();
    o->balance_coef = get_real();
    o->z_coef = get_real();
    o->route_scale = get_real();
    o->sinkhorn_tolerance = get_real();
    c->aux_scale = get_real();
    c->gamma = get_real();
}

/* Whether there was one. The first number of a case is its type, 0 for f32 and 2 for f64. */
static int read_case(cases_case_t *c)
{
    int64_t acc;
    memset(c, 0, sizeof *c);
    if (fread(&acc, sizeof acc, 1, stdin) != 1) return 0;
    c->shape.acc = (gln_dtype_t)acc;
    read_options(c);
    int64_t experts = c->shape.experts, count = c->shape.tokens * experts;
    c->logits = room(count);
    c->a = room(count);
    c->bias = room(experts);
    c->fraction = room(experts);
    c->load = room(experts);
    for (int64_t i = 0; i < count; i++)
        gln_store(c->logits, i, c->shape.acc, get_real());
    for (int64_t i = 0; i < count; i++)
        c->a[i] = get_real();
    for (int64_t e = 0; e < experts; e++)
        c->bias[e] = (float)get_real();
    for (int64_t e = 0; e < experts; e++)
        c->fraction[e] = get_real();
    for (int64_t e = 0; e < experts; e++)
        c->load[e] = get_int();
    c->input.logits = c->logits;
    return 1;
}

static void free_case(cases_case_t *c)
{
    free(c->logits), free(c->a), free(c->bias), free(c->fraction), free(c->load);
}

static void put_ints(const int32_t *values, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        put_int(values[i]);
}

static void put_reals(const void *values, int64_t count, gln_dtype_t acc)
{
    for (int64_t i = 0; i < count; i++)
        put_real(gln_load(values, i, acc));
}

static void write_plan(const gln_plan_t *plan, gln_dtype_t acc)
{
    int64_t t = plan->tokens, e = plan->experts, entries = plan->token_offset[t];
    put_int(plan->k);
    put_int(plan->capacity);
    put_int(plan->routes_count);
    put_int(plan->rect_count);
    put_int(entries);
    put_ints(plan->expert_offset, e + 1);
    put_ints(plan->route_token, plan->routes_count);
    for (int64_t r = 0; r < plan->routes_count; r++)
        put_int(plan->route_kind[r]);
    for (int64_t r = 0; r < plan->routes_count; r++)
        put_int(plan->route_choice[r]);
    put_ints(plan->rect_offset, e + 1);
    put_ints(plan->rect_token, plan->rect_count);
    put_ints(plan->token_offset, t + 1);
    put_ints(plan->token_expert, entries);
    put_ints(plan->token_route, entries);
    put_ints(plan->token_rect, t);
    put_ints(plan->token_h, t);
    put_ints(plan->token_m, t);
    for (int64_t i = 0; i < e; i++)
        put_int(plan->choice_count[i]);
    for (int i = 0; i < GLN_LEDGER_FIELDS; i++)
        put_int((&plan->ledger.tokens)[i]);
    put_reals(plan->route_weight, plan->routes_count, acc);
    put_reals(plan->rect_weight, plan->rect_count, acc);
    put_reals(plan->scores, t * e, acc);
    put_reals(plan->softmax, t * e, acc);
    put_reals(plan->lse, t, acc);
    put_reals(plan->token_scale, t, acc);
    put_reals(plan->score_mean, e, GLN_F64);
    put_reals(plan->balance_fraction, e, GLN_F64);
    put_real(plan->balance_loss);
    put_real(plan->z_loss);
}

/* a of every route in plan order, then the gradient. */
static gln_status_t write_gradient(const cases_case_t *c, gln_router_t *router,
                                   const gln_plan_t *plan)
{
    gln_dtype_t acc = c->shape.acc;
    int64_t count = plan->tokens * plan->experts;
    void *route_a = room(plan->routes_count), *rect_a = room(plan->rect_count), *d = room(count);
    memset(d, 0x7f, (size_t)count * 8); /* it must be overwritten */
    for (int e = 0; e < plan->experts; e++) {
        for (int32_t r = plan->expert_offset[e]; r < plan->expert_offset[e + 1]; r++)
            gln_store(route_a, r, acc, c->a[(int64_t)plan->route_token[r] * plan->experts + e]);
        for (int32_t r = plan->rect_offset[e]; r < plan->rect_offset[e + 1]; r++)
            gln_store(rect_a, r, acc, c->a[(int64_t)plan->rect_token[r] * plan->experts + e]);
    }
    gln_status_t status = gln_router_backward(router, plan, route_a, rect_a, c->aux_scale, d);
    put_int(status);
    put_reals(d, count, acc);
    free(route_a), free(rect_a), free(d);
    return status;
}

/* The bias after its step; zeros where there is none. */
static gln_status_t write_bias(const cases_case_t *c, gln_router_t *router)
{
    gln_status_t status = c->has_load ? gln_router_update_bias(router, c->load, c->gamma) : GLN_OK;
    float *bias = room(c->shape.experts);
    if (c->has_load && status == GLN_OK) status = gln_router_bias(router, bias);
    put_int(status);
    put_reals(bias, c->shape.experts, GLN_F32);
    free(bias);
    return status;
}

static gln_status_t route(const cases_case_t *c, gln_router_t *router, gln_plan_t *plan)
{
    gln_status_t status = GLN_OK;
    if (c->has_bias) status = gln_router_set_bias(router, c->bias);
    if (status == GLN_OK) status = gln_router_route(router, &c->input, plan);
    if (status == GLN_OK && c->has_fraction) status = gln_plan_balance(plan, c->fraction);
    return status;
}

static void run_case(const cases_case_t *c, gln_pool_t *pool)
{
    gln_router_t *router = NULL;
    gln_plan_t *plan = NULL;
    gln_status_t status = gln_router_open(&c->options, &c->shape, pool, &router);
    if (status == GLN_OK) status = gln_plan_open(router, &plan);
    if (status == GLN_OK) status = route(c, router, plan);
    put_int(status);
    if (status == GLN_OK) {
        write_plan(plan, c->shape.acc);
        write_gradient(c, router, plan);
        write_bias(c, router);
        put_int(gln_router_routes_max(router));
        put_int(gln_router_rect_max(router));
        put_int(gln_router_token_routes_max(router));
    } else {
        const char *message = gln_last_error();
        int64_t length = (int64_t)strlen(message);
        put_int(length);
        if (fwrite(message, 1, (size_t)length, stdout) != (size_t)length) stop("cannot write");
    }
    gln_plan_close(plan);
    gln_router_close(router);
}

int main(int argc, char **argv)
{
    gln_pool_t *pool = NULL;
    cases_case_t c;
    if (argc == 2 && strcmp(argv[1], "--policies") == 0) {
        for (const char *const *name = gln_policy_names(); *name; name++)
            puts(*name);
        return 0;
    }
    int threads = argc == 2 ? atoi(argv[1]) : 0;
    if (threads < 1) stop("usage: router_cases THREADS < cases > results");
    if (gln_pool_open(threads, &pool) != GLN_OK) stop(gln_last_error());
    while (read_case(&c)) {
        run_case(&c, pool);
        free_case(&c);
    }
    gln_pool_close(pool);
    return 0;
}
