/* `gleaner place`: from a recording of gate logits to a placement of experts, layer by layer, on
 * one process. Under mpirun the first rank does it and the others leave.
 *
 * The recorded logits are routed once by the policy, without intra-device rectification: its rows
 * stay local under any placement. A layer's placement is chosen on the first half of the recorded
 * steps and counted on both halves. O(steps layers D T E) for routing, then what
 * cluster/placement.c says; tokens of one layer are in memory at a time. */
#include "launcher/command.h"

#include "base/log.h"
#include "launcher/logits.h"
#include "launcher/machine.h"
#include "launcher/place.h"
#include "launcher/session.h"
#include "moe/placement_file.h"
#include "moe/recording.h"
#include "moe/run_options.h"
#include <stdlib.h>
#include <string.h>

/* Tokens with routes, growing. */
typedef struct token_list {
    int64_t count, routes, count_room, routes_room;
    int32_t *source, *expert;
    int64_t *offset;
} token_list_t;

typedef struct place {
    gln_recording_t *recording;
    gln_run_options_t run;
    gln_pool_t *pool;
    gln_router_t *router;
    gln_plan_t *plan;
    gln_place_head_t head;
    int64_t split; /* steps up to this one are chosen on */
    int layers_count;
    int *layers;         /* [layers_count] ascending */
    int32_t *before;     /* [layers_count, E] */
    int32_t *after;      /* [layers_count, E] */
    token_list_t set[2]; /* chosen on, held out */
    gln_place_figures_t sum[2];
} place_t;

/* ---- input --------------------------------------------------------------------------------------
 */

enum { OWN_MAX = 12 };

/* What the recording says comes first where there is no run file, so that overrides win. */
static gln_status_t load_run(const gln_arguments_t *arguments, place_t *p)
{
    const char *path = arguments->value[GLN_OPTION_CONFIG];
    const char *all[GLN_ARGUMENTS_SETS_MAX + OWN_MAX] = {"data.train=none", "run.dir=none"};
    gln_recording_info_t info = gln_recording_info(p->recording);
    gln_recorded_t first = gln_recording_get(p->recording, 0);
    char k[48], experts[48], domains[48], replicas[64], batch[48];
    int count = 2, fields_count;
    snprintf(k, sizeof k, "router.k=%d", info.k);
    snprintf(experts, sizeof experts, "model.experts=%d", first.experts);
    snprintf(domains, sizeof domains, "parallel.domains=%lld", (long long)first.domains);
    snprintf(replicas, sizeof replicas, "parallel.expert_replicas=%lld", (long long)info.replicas);
    if (!path) {
        const char *own[] = {
            k, experts, domains, replicas, "router.capacity_factor=inf", "router.fill=false"};
        memcpy(all + count, own, sizeof own);
        count += (int)(sizeof own / sizeof own[0]);
    }
    memcpy(all + count, arguments->sets, (size_t)arguments->sets_count * sizeof *all);
    count += arguments->sets_count;
    const gln_config_field_t *fields = gln_run_fields(&fields_count);
    gln_run_options_t look;
    memset(&look, 0, sizeof look);
    gln_status_t status =
        gln_config_load(fields, fields_count, path, all, count, &look, sizeof look, NULL);
    if (status != GLN_OK) return status;
    if (look.model.experts != first.experts)
        return gln_fail(GLN_ERR_CONFIG, "model.experts is %lld, but %s has %d experts",
                        (long long)look.model.experts, p->head.path, first.experts);
    int64_t tokens = first.domains * first.tokens;
    if (look.parallel.domains == 0) {
        all[count++] = domains;
        look.parallel.domains = first.domains;
    }
    if (tokens % look.parallel.domains != 0)
        return gln_fail(GLN_ERR_CONFIG,
                        "parallel.domains is %lld, which does not divide the %lld tokens of a step "
                        "in %s",
                        (long long)look.parallel.domains, (long long)tokens, p->head.path);
    snprintf(batch, sizeof batch, "train.batch=%lld", (long long)look.parallel.domains);
    all[count++] = batch;
    all[count++] = "train.accumulation=1";
    return gln_run_options_load(path, all, count, 1, &p->run);
}

/* One of two words; the first where none was given. */
static gln_status_t read_word(const gln_arguments_t *arguments, gln_option_t option,
                              const char *first, const char *second, int *out)
{
    const char *word = arguments->value[option];
    if (word && strcmp(word, first) != 0 && strcmp(word, second) != 0)
        return gln_fail(GLN_ERR_ARGUMENT, "%s: expected %s or %s, found \"%.40s\"",
                        gln_option_text(option)->name, first, second, word);
    *out = word && strcmp(word, second) == 0;
    return GLN_OK;
}

static gln_status_t load_shape(const gln_arguments_t *arguments, place_t *p)
{
    int by_node = 0, recorded = 0;
    gln_recorded_t first = gln_recording_get(p->recording, 0);
    gln_placement_shape_t *s = &p->head.shape;
    int64_t nodes, domains = p->run.parallel.domains;
    if (!arguments->given[GLN_OPTION_NODES])
        return gln_fail(GLN_ERR_ARGUMENT,
                        "place needs --nodes N, the nodes that the %lld domains are spread over",
                        (long long)domains);
    gln_status_t status = gln_arguments_int(arguments, GLN_OPTION_NODES, 1, 1, domains, &nodes);
    if (status == GLN_OK)
        status = gln_arguments_real(arguments, GLN_OPTION_IMBALANCE, 1.1, 1, 1e6, &s->imbalance);
    if (status != GLN_OK) return status;
    if (domains % nodes != 0)
        return gln_fail(GLN_ERR_ARGUMENT, "--nodes: must divide the %lld domains, found %lld",
                        (long long)domains, (long long)nodes);
    status = read_word(arguments, GLN_OPTION_COPIES, "domain", "node", &by_node);
    if (status == GLN_OK)
        status = read_word(arguments, GLN_OPTION_SOURCES, "any", "recorded", &recorded);
    if (status != GLN_OK) return status;
    s->any_source = !recorded;
    s->copies = by_node ? GLN_COPIES_NODE : GLN_COPIES_DOMAIN;
    s->domains = (int)domains;
    s->groups = (int)p->run.parallel.expert_replicas;
    s->experts = first.experts;
    s->nodes = (int)nodes;
    p->head.tokens = first.domains * first.tokens / domains;
    return GLN_OK;
}

static int has_layer(const place_t *p, int layer)
{
    for (int i = 0; i < p->layers_count; i++)
        if (p->layers[i] == layer) return 1;
    return 0;
}

/* Layers ascending, and where the steps are split: the first half, rounded up. Entries come by
 * step, and all steps have the same layers. */
static gln_status_t list_layers(place_t *p)
{
    int count = gln_recording_count(p->recording), steps = 0;
    int64_t last = -1;
    p->layers = malloc((size_t)count * sizeof *p->layers);
    if (!p->layers) return gln_fail(GLN_ERR_MEMORY, "place: no memory for %d layers", count);
    for (int i = 0; i < count; i++) {
        gln_recorded_t r = gln_recording_get(p->recording, i), first;
        first = gln_recording_get(p->recording, 0);
        if (r.domains != first.domains || r.tokens != first.tokens || r.experts != first.experts)
            return gln_fail(GLN_ERR_DATA, "%s: its tensors differ in shape", p->head.path);
        if (!has_layer(p, r.layer)) {
            int at = p->layers_count++;
            for (; at > 0 && p->layers[at - 1] > r.layer; at--)
                p->layers[at] = p->layers[at - 1];
            p->layers[at] = r.layer;
        }
        steps += r.step != last;
        last = r.step;
    }
    p->head.chosen_steps = (steps + 1) / 2;
    p->head.held_out = steps - p->head.chosen_steps;
    last = -1;
    for (int i = 0, seen = 0; i < count; i++) {
        gln_recorded_t r = gln_recording_get(p->recording, i);
        seen += r.step != last;
        last = r.step;
        if (seen <= p->head.chosen_steps) p->split = r.step;
    }
    return GLN_OK;
}

static gln_status_t open_router(gln_comm_t *self, place_t *p)
{
    const gln_placement_shape_t *s = &p->head.shape;
    gln_machine_t machine;
    gln_router_options_t options = gln_run_model_options(&p->run).router;
    gln_router_shape_t shape = {.tokens = p->head.tokens,
                                .experts = s->experts,
                                .per_domain = s->experts / (s->domains / s->groups),
                                .acc = GLN_F32};
    if (options.policy == GLN_POLICY_EXPANDED_DROP)
        return gln_fail(GLN_ERR_CONFIG,
                        "router.policy expanded_drop routes by where experts live, so no placement "
                        "can be judged by its routes; use another policy");
    options.rectify = 0;
    gln_status_t status = gln_machine_look(self, (int)p->run.parallel.threads, &machine);
    if (status == GLN_OK) status = gln_pool_open(machine.threads, &p->pool);
    if (status == GLN_OK) status = gln_router_open(&options, &shape, p->pool, &p->router);
    if (status == GLN_OK) status = gln_plan_open(p->router, &p->plan);
    if (status != GLN_OK) return status;
    p->head.router = gln_router_options(p->router);
    size_t rows = (size_t)p->layers_count * (size_t)s->experts;
    p->before = malloc(rows * sizeof *p->before);
    p->after = malloc(rows * sizeof *p->after);
    if (!p->before || !p->after)
        return gln_fail(GLN_ERR_MEMORY, "place: no memory for %d layers", p->layers_count);
    return GLN_OK;
}

/* The run's placement, or none. */
static gln_status_t load_before(place_t *p)
{
    const gln_placement_shape_t *s = &p->head.shape;
    const char *path = p->run.parallel.placement;
    int layers = (int)p->run.model.layers, last = p->layers[p->layers_count - 1];
    if (layers <= last) layers = last + 1;
    size_t row = (size_t)s->experts;
    int32_t *all = malloc((size_t)layers * row * sizeof *all);
    if (!all) return gln_fail(GLN_ERR_MEMORY, "place: no memory for %d layers", layers);
    gln_status_t status = GLN_OK;
    for (int i = 0; i < layers; i++)
        gln_placement_default(s, all + (size_t)i * row);
    if (path[0])
        status = gln_placement_file_read(path, s->experts, s->domains / s->groups, layers, all);
    for (int i = 0; i < p->layers_count && status == GLN_OK; i++)
        memcpy(p->before + (size_t)i * row, all + (size_t)p->layers[i] * row, row * sizeof *all);
    free(all);
    return status;
}

/* ---- tokens -------------------------------------------------------------------------------------
 */

static int grow(void **data, int64_t *room, int64_t need, size_t bytes)
{
    if (need <= *room) return 1;
    int64_t wanted = need > 2 * *room ? need : 2 * *room;
    void *more = realloc(*data, (size_t)wanted * bytes);
    if (!more) return 0;
    *data = more;
    *room = wanted;
    return 1;
}

/* @return 0: no memory */
static int reserve(token_list_t *l, int64_t tokens, int64_t routes)
{
    int64_t room = l->count_room, offsets = l->offset ? room + 1 : 0;
    if (!grow((void **)&l->source, &room, l->count + tokens, sizeof *l->source)) return 0;
    if (!grow((void **)&l->offset, &offsets, room + 1, sizeof *l->offset)) return 0;
    l->count_room = room;
    return grow((void **)&l->expert, &l->routes_room, l->routes + routes, sizeof *l->expert);
}

static gln_status_t add_plan(const gln_plan_t *plan, int domain, token_list_t *l)
{
    if (!reserve(l, plan->tokens, plan->routes_count))
        return gln_fail(GLN_ERR_MEMORY, "place: no memory for %lld tokens",
                        (long long)(l->count + plan->tokens));
    for (int64_t t = 0; t < plan->tokens; t++) {
        l->offset[l->count] = l->routes;
        l->source[l->count++] = domain;
        for (int32_t i = plan->token_offset[t]; i < plan->token_offset[t + 1]; i++)
            if (plan->token_route[i] >= 0) l->expert[l->routes++] = plan->token_expert[i];
    }
    l->offset[l->count] = l->routes;
    return GLN_OK;
}

static gln_status_t route_entry(place_t *p, const gln_recorded_t *r)
{
    const gln_placement_shape_t *s = &p->head.shape;
    int group = s->domains / s->groups;
    gln_status_t status = GLN_OK;
    for (int d = 0; d < s->domains && status == GLN_OK; d++) {
        gln_route_input_t input = {.logits = r->logits + d * p->head.tokens * s->experts,
                                   .domain = d,
                                   .first_local = d % group * (s->experts / group),
                                   .seed = (uint64_t)p->run.train.seed,
                                   .step = r->step - 1,
                                   .layer = r->layer};
        status = gln_router_route(p->router, &input, p->plan);
        if (status == GLN_OK) status = add_plan(p->plan, d, &p->set[r->step > p->split]);
    }
    return status;
}

static gln_status_t route_layer(place_t *p, int layer)
{
    p->set[0].count = p->set[0].routes = p->set[1].count = p->set[1].routes = 0;
    for (int i = 0; i < gln_recording_count(p->recording); i++) {
        gln_recorded_t r = gln_recording_get(p->recording, i);
        gln_status_t status = r.layer == layer ? route_entry(p, &r) : GLN_OK;
        if (status != GLN_OK) return status;
    }
    return GLN_OK;
}

/* ---- work ---------------------------------------------------------------------------------------
 */

static void add_count(gln_placement_count_t *sum, const gln_placement_count_t *one)
{
    sum->own_rows += one->own_rows;
    sum->near_rows += one->near_rows;
    sum->far_domain_rows += one->far_domain_rows;
    sum->far_node_rows += one->far_node_rows;
    sum->routes += one->routes;
    if (one->imbalance > sum->imbalance) sum->imbalance = one->imbalance;
}

static gln_status_t print_one(const place_t *p, int json, const gln_place_figures_t *figures)
{
    if (json) return gln_place_print_json(&p->head, figures);
    gln_place_print_text(&p->head, figures);
    return GLN_OK;
}

static gln_status_t place_layer(place_t *p, int i, int json)
{
    const gln_placement_shape_t *s = &p->head.shape;
    int32_t *before = p->before + (int64_t)i * s->experts;
    int32_t *after = p->after + (int64_t)i * s->experts;
    gln_status_t status = route_layer(p, p->layers[i]);
    for (int held_out = 0; held_out < 2 && status == GLN_OK; held_out++) {
        const token_list_t *l = &p->set[held_out];
        gln_placement_tokens_t tokens = {l->count, l->source, l->offset, l->expert};
        gln_place_figures_t f = {.layer = p->layers[i], .held_out = held_out, .domain_of = after};
        if (held_out && p->head.held_out == 0) break;
        if (!held_out) status = gln_placement_choose(s, &tokens, before, after);
        if (status == GLN_OK) status = gln_placement_count(s, &tokens, before, &f.before);
        if (status == GLN_OK) status = gln_placement_count(s, &tokens, after, &f.after);
        if (status != GLN_OK) break;
        add_count(&p->sum[held_out].before, &f.before);
        add_count(&p->sum[held_out].after, &f.after);
        status = print_one(p, json, &f);
    }
    return status;
}

static gln_status_t place(gln_session_t *session, gln_comm_t *self,
                          const gln_arguments_t *arguments, place_t *p)
{
    const char *out = arguments->value[GLN_OPTION_PLACEMENT];
    int json = arguments->given[GLN_OPTION_JSON];
    p->head.path = arguments->operands[0];
    gln_status_t status = gln_recording_open(p->head.path, &p->recording);
    if (status == GLN_OK && gln_recording_count(p->recording) == 0)
        status = gln_fail(GLN_ERR_DATA, "%s: no step is recorded in it", p->head.path);
    if (status == GLN_OK) status = load_run(arguments, p);
    if (status == GLN_OK) status = load_shape(arguments, p);
    if (status == GLN_OK) status = list_layers(p);
    if (status == GLN_OK) status = open_router(self, p);
    if (status == GLN_OK) status = load_before(p);
    if (status != GLN_OK) return status;
    session->working = true;
    if (!json) gln_place_print_head(&p->head);
    for (int i = 0; i < p->layers_count && status == GLN_OK; i++)
        status = place_layer(p, i, json);
    for (int i = 0; i < 2 && status == GLN_OK; i++) {
        p->sum[i].layer = -1;
        p->sum[i].held_out = i;
        if (i == 0 || p->head.held_out > 0) status = print_one(p, json, &p->sum[i]);
    }
    if (status == GLN_OK && out)
        status = gln_placement_file_write(out, p->head.shape.experts,
                                          p->head.shape.domains / p->head.shape.groups, p->layers,
                                          p->layers_count, p->after);
    return status;
}

int gln_command_place(const gln_arguments_t *arguments)
{
    gln_session_t session;
    gln_comm_t *self = NULL;
    static place_t state;
    place_t *p = &state;
    if (gln_session_environment_rank() != 0) return GLN_EXIT_OK;
    *p = (place_t){0};
    gln_session_start(&session);
    gln_status_t status = gln_comm_open_self(&self);
    if (status == GLN_OK) status = place(&session, self, arguments, p);
    status = gln_session_agree(&session, status);
    for (int i = 0; i < 2; i++) {
        free(p->set[i].expert);
        free(p->set[i].offset);
        free(p->set[i].source);
    }
    free(p->after);
    free(p->before);
    free(p->layers);
    gln_plan_close(p->plan);
    gln_router_close(p->router);
    gln_pool_close(p->pool);
    gln_recording_close(p->recording);
    gln_comm_close(self);
    return gln_session_leave(&session, status);
}
