/* `gleaner route`: a policy alone on gate logits from a file, on one process and without MPI.
 * Under mpirun the first rank does it and the others leave.
 *
 * Every domain is routed twice: first to find what is wrong before anything is written and to
 * collect the scores, then to print. One plan is held at a time; O(D T E) work, and the scores of
 * all domains in memory. */
#include "launcher/command.h"

#include "base/log.h"
#include "launcher/figures.h"
#include "launcher/logits.h"
#include "launcher/machine.h"
#include "launcher/route_print.h"
#include "launcher/session.h"
#include "moe/run_options.h"
#include "moe/safetensors.h"
#include <stdlib.h>
#include <string.h>

typedef struct route {
    gln_logits_t logits;
    gln_run_options_t run;
    int64_t seed;
    gln_pool_t *pool;
    gln_router_t *router;
    gln_plan_t *plan;
    float *scores, *softmax; /* [D, T, E] */
    gln_ledger_t total;
} route_t;

static gln_status_t load(const gln_arguments_t *arguments, route_t *r)
{
    const char *path = arguments->value[GLN_OPTION_LOGITS];
    if (!path)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "route needs --logits FILE.safetensors; gleaner route --help explains");
    int scores = arguments->given[GLN_OPTION_SCORES];
    gln_status_t status =
        gln_logits_open(path, arguments->value[GLN_OPTION_TENSOR], scores, &r->logits);
    if (status == GLN_OK)
        status = gln_logits_run_options(&r->logits, arguments->value[GLN_OPTION_CONFIG],
                                        arguments->sets, arguments->sets_count, &r->run);
    if (status == GLN_OK)
        status = gln_arguments_int(arguments, GLN_OPTION_SEED, r->run.train.seed, 0, INT64_MAX,
                                   &r->seed);
    return status;
}

static gln_status_t open_router(gln_comm_t *self, route_t *r)
{
    const gln_logits_t *l = &r->logits;
    gln_machine_t machine;
    gln_router_options_t options = gln_run_model_options(&r->run).router;
    int64_t group = r->run.parallel.domains / r->run.parallel.expert_replicas;
    gln_router_shape_t shape = {.tokens = l->tokens,
                                .experts = (int)l->experts,
                                .per_domain = (int)(l->experts / group),
                                .acc = GLN_F32};
    gln_status_t status = gln_machine_look(self, (int)r->run.parallel.threads, &machine);
    if (status == GLN_OK) status = gln_pool_open(machine.threads, &r->pool);
    if (status == GLN_OK) status = gln_router_open(&options, &shape, r->pool, &r->router);
    if (status == GLN_OK) status = gln_plan_open(r->router, &r->plan);
    if (status == GLN_OK && l->bias) status = gln_router_set_bias(r->router, l->bias);
    if (status != GLN_OK) return status;
    size_t count = (size_t)(l->domains * l->tokens * l->experts);
    r->scores = malloc(count * sizeof *r->scores + 1);
    r->softmax = malloc(count * sizeof *r->softmax + 1);
    if (!r->scores || !r->softmax)
        return gln_fail(GLN_ERR_MEMORY, "route: out of memory for %zu scores", count);
    return GLN_OK;
}

static gln_status_t route_domain(route_t *r, const gln_arguments_t *arguments, int64_t d)
{
    const gln_logits_t *l = &r->logits;
    int64_t group = r->run.parallel.domains / r->run.parallel.expert_replicas;
    gln_route_input_t input = {.logits = l->data + d * l->tokens * l->experts,
                               .scores_given = arguments->given[GLN_OPTION_SCORES],
                               .domain = (int)d,
                               .first_local = (int)(d % group * (l->experts / group)),
                               .seed = (uint64_t)r->seed};
    gln_status_t status = gln_router_route(r->router, &input, r->plan);
    return status == GLN_ERR_NUMERIC ? GLN_ERR_DATA : status; /* it was the file's */
}

static gln_status_t route_all(route_t *r, const gln_arguments_t *arguments)
{
    size_t count = (size_t)(r->logits.tokens * r->logits.experts);
    for (int64_t d = 0; d < r->logits.domains; d++) {
        gln_status_t status = route_domain(r, arguments, d);
        if (status != GLN_OK) return status;
        gln_ledger_add(&r->total, &r->plan->ledger);
        if (count == 0) continue;
        memcpy(r->scores + (size_t)d * count, r->plan->scores, count * sizeof *r->scores);
        memcpy(r->softmax + (size_t)d * count, r->plan->softmax, count * sizeof *r->softmax);
    }
    return GLN_OK;
}

/* `scores`, and `softmax` where it is something else. */
static gln_status_t write_scores(const route_t *r, const char *path)
{
    const gln_logits_t *l = &r->logits;
    gln_tensor_entry_t entries[2] = {{.name = "scores"}, {.name = "softmax"}};
    float *data[2] = {r->scores, r->softmax};
    size_t bytes = (size_t)(l->domains * l->tokens * l->experts) * sizeof(float);
    int count = memcmp(r->scores, r->softmax, bytes) ? 2 : 1;
    for (int i = 0; i < count; i++)
        entries[i].tensor = (gln_tensor_t){.data = data[i],
                                           .dtype = GLN_F32,
                                           .dims_count = 3,
                                           .dims = {l->domains, l->tokens, l->experts}};
    return gln_safetensors_write(path, entries, count, NULL, NULL);
}

static gln_status_t print_all(route_t *r, const gln_arguments_t *arguments, const char *out)
{
    int json = arguments->given[GLN_OPTION_JSON];
    if (!json) gln_route_print_head(&r->logits, r->router);
    for (int64_t d = 0; d < r->logits.domains; d++) {
        gln_status_t status = route_domain(r, arguments, d);
        if (status == GLN_OK && json && !out) status = gln_route_print_scores(r->plan, d);
        if (status == GLN_OK && json) status = gln_route_print_routes(r->plan, d);
        if (status != GLN_OK) return status;
        if (!json) gln_route_print_text(r->plan, d);
    }
    if (!json) {
        gln_route_print_text_total(&r->total, out);
        return GLN_OK;
    }
    for (int64_t d = 0; d < r->logits.domains; d++) {
        gln_status_t status = route_domain(r, arguments, d);
        if (status == GLN_OK) status = gln_route_print_domain(r->plan, d);
        if (status != GLN_OK) return status;
    }
    return gln_route_print_total(&r->total, &r->logits, r->router);
}

static gln_status_t route(gln_session_t *session, gln_comm_t *self,
                          const gln_arguments_t *arguments, route_t *r)
{
    const char *out = arguments->value[GLN_OPTION_OUT];
    gln_status_t status = load(arguments, r);
    if (status == GLN_OK) status = open_router(self, r);
    if (status == GLN_OK) status = route_all(r, arguments);
    if (status == GLN_OK && out) status = write_scores(r, out);
    if (status != GLN_OK) return status;
    session->working = true;
    return print_all(r, arguments, out);
}

int gln_command_route(const gln_arguments_t *arguments)
{
    gln_session_t session;
    gln_comm_t *self = NULL;
    static route_t state;
    route_t *r = &state;
    if (gln_session_environment_rank() != 0) return GLN_EXIT_OK;
    *r = (route_t){0};
    gln_session_start(&session);
    gln_status_t status = gln_comm_open_self(&self);
    if (status == GLN_OK) status = route(&session, self, arguments, r);
    status = gln_session_agree(&session, status);
    free(r->scores);
    free(r->softmax);
    gln_plan_close(r->plan);
    gln_router_close(r->router);
    gln_pool_close(r->pool);
    gln_logits_close(&r->logits);
    gln_comm_close(self);
    return gln_session_leave(&session, status);
}
