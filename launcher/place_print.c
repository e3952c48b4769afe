/* A placement's figures as text and as JSON. */
#include "launcher/place.h"

#include "launcher/figures.h"
#include <stdio.h>

static int64_t rows_between(const gln_place_head_t *head, const gln_placement_count_t *count)
{
    return head->shape.copies == GLN_COPIES_NODE ? count->far_node_rows : count->far_domain_rows;
}

static double saved(const gln_place_head_t *head, const gln_place_figures_t *f)
{
    int64_t before = rows_between(head, &f->before), after = rows_between(head, &f->after);
    return before == 0 ? 0 : 100.0 * (double)(before - after) / (double)before;
}

void gln_place_print_head(const gln_place_head_t *head)
{
    const gln_placement_shape_t *s = &head->shape;
    printf(
        "%s: %d domains of %lld tokens on %d nodes, %d replica groups, %d experts, %s, k = %d\n"
        "chosen on %d recorded steps%s, held out: %d; between nodes one row per (token, other %s), "
        "one way\n",
        head->path, s->domains, (long long)head->tokens, s->nodes, s->groups, s->experts,
        gln_policy_name(head->router->policy), head->router->k, head->chosen_steps,
        s->any_source ? " as if from any domain" : "", head->held_out,
        s->copies == GLN_COPIES_NODE ? "node" : "node's domain");
    printf("%-6s %-9s %25s %8s %23s %17s\n", "layer", "steps", "rows between nodes", "saved",
           "inside nodes", "load max / mean");
}

void gln_place_print_text(const gln_place_head_t *head, const gln_place_figures_t *f)
{
    char layer[16] = "all";
    if (f->layer >= 0) snprintf(layer, sizeof layer, "%d", f->layer);
    printf("%-6s %-9s %11lld -> %10lld %6.1f %% %9lld -> %10lld %7.2f -> %5.2f\n", layer,
           f->held_out ? "held out" : "chosen", (long long)rows_between(head, &f->before),
           (long long)rows_between(head, &f->after), saved(head, f), (long long)f->before.near_rows,
           (long long)f->after.near_rows, f->before.imbalance, f->after.imbalance);
}

static json_t *count_object(const gln_placement_count_t *c)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:o}", "own_rows", (json_int_t)c->own_rows,
                     "near_rows", (json_int_t)c->near_rows, "far_domain_rows",
                     (json_int_t)c->far_domain_rows, "far_node_rows", (json_int_t)c->far_node_rows,
                     "expert_rows", (json_int_t)c->routes, "imbalance",
                     gln_figures_real(c->imbalance));
}

gln_status_t gln_place_print_json(const gln_place_head_t *head, const gln_place_figures_t *f)
{
    const gln_placement_shape_t *s = &head->shape;
    json_t *object = json_object();
    json_object_set_new(object, "layer", f->layer < 0 ? json_null() : json_integer(f->layer));
    json_object_set_new(object, "steps", json_string(f->held_out ? "held_out" : "chosen"));
    json_object_set_new(object, "steps_count",
                        json_integer(f->held_out ? head->held_out : head->chosen_steps));
    json_object_set_new(object, "nodes", json_integer(s->nodes));
    json_object_set_new(object, "domains", json_integer(s->domains));
    json_object_set_new(object, "expert_replicas", json_integer(s->groups));
    json_object_set_new(object, "experts", json_integer(s->experts));
    json_object_set_new(object, "policy", json_string(gln_policy_name(head->router->policy)));
    json_object_set_new(object, "k", json_integer(head->router->k));
    json_object_set_new(object, "copies",
                        json_string(s->copies == GLN_COPIES_NODE ? "node" : "domain"));
    json_object_set_new(object, "sources", json_string(s->any_source ? "any" : "recorded"));
    json_object_set_new(object, "before", count_object(&f->before));
    json_object_set_new(object, "after", count_object(&f->after));
    json_object_set_new(object, "saved_per_cent", gln_figures_real(saved(head, f)));
    if (f->domain_of) {
        json_t *list = json_array();
        for (int e = 0; e < s->experts; e++)
            json_array_append_new(list, json_integer(f->domain_of[e]));
        json_object_set_new(object, "domain_of", list);
    }
    return gln_figures_print(object, stdout, "standard output");
}
