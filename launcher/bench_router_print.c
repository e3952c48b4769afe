/* Figures of `gleaner bench router`. docs/json.md documents the keys. */
#include "launcher/bench_router.h"

#include "launcher/figures.h"
#include <stdio.h>

static double share(const gln_router_figures_t *r)
{
    return r->full.median / r->layer.median;
}

static double cost(const gln_router_figures_t *r)
{
    return r->full.median / r->plain.median - 1;
}

gln_status_t gln_bench_router_json(const gln_router_figures_t *r)
{
    const struct {
        const char *key;
        int64_t value;
    } integers[] = {{"threads", r->threads},
                    {"domains", r->domains},
                    {"hidden", r->hidden},
                    {"expert_hidden", r->expert_hidden},
                    {"experts", r->experts},
                    {"k", r->k},
                    {"tokens", r->tokens},
                    {"repeat", r->repeat},
                    {"rounds", r->rounds},
                    {"scratch_bytes", (int64_t)r->scratch_bytes},
                    {"plan_bytes", (int64_t)r->plan_bytes},
                    {"scores_bytes", (int64_t)r->scores_bytes}};
    const struct {
        const char *key;
        double value;
    } reals[] = {{"gate_median_seconds", r->gate.median},
                 {"gate_min_seconds", r->gate.min},
                 {"plain_median_seconds", r->plain.median},
                 {"plain_min_seconds", r->plain.min},
                 {"router_median_seconds", r->full.median},
                 {"router_min_seconds", r->full.min},
                 {"layer_median_seconds", r->layer.median},
                 {"layer_min_seconds", r->layer.min},
                 {"router_share", share(r)},
                 {"rectify_cost", cost(r)}};
    json_t *object = json_pack("{s:s, s:s}", "bench", "router", "policy", r->policy);
    json_object_set_new(object, "logits", r->source ? json_string(r->source) : json_null());
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++)
        json_object_set_new(object, integers[i].key, json_integer(integers[i].value));
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++)
        json_object_set_new(object, reals[i].key, gln_figures_real(reals[i].value));
    json_object_set_new(object, "ledger", gln_figures_ledger(&r->ledger));
    return gln_figures_print(object, stdout, "standard output");
}

static void print_line(const char *name, gln_timing_t t)
{
    printf("%-30s %12.3f %12.3f\n", name, 1e3 * t.median, 1e3 * t.min);
}

void gln_bench_router_text(const gln_router_figures_t *r, int first)
{
    char ledger[160];
    gln_figures_ledger_text(&r->ledger, ledger, sizeof ledger);
    if (first)
        printf("router, policy %s: %lld tokens, H %lld, F %lld, E %d, D %d; logits %s\n%s; %d "
               "thread%s; %lld repetitions of %d rounds\n",
               r->policy, (long long)r->tokens, (long long)r->hidden, (long long)r->expert_hidden,
               r->experts, r->domains, r->source ? r->source : "random", r->machine, r->threads,
               r->threads == 1 ? "" : "s", (long long)r->repeat, r->rounds);
    char name[40];
    snprintf(name, sizeof name, "K %d", r->k);
    printf("\n%-30s %12s %12s\n", name, "median ms", "minimum ms");
    print_line("gate product", r->gate);
    print_line("router, plain", r->plain);
    print_line("router, rectified", r->full);
    print_line("layer, forward", r->layer);
    printf("router %.2f %% of the forward pass; rectification adds %.1f %% to the router (minima: "
           "%.2f, "
           "%.1f)\n",
           100 * share(r), 100 * cost(r), 100 * r->full.min / r->layer.min,
           100 * (r->full.min / r->plain.min - 1));
    printf("memory: router %.2f MB, plan %.2f MB beside scores of %.2f MB\n",
           1e-6 * (double)r->scratch_bytes, 1e-6 * (double)r->plan_bytes,
           1e-6 * (double)r->scores_bytes);
    printf("ledger, per cent: %s\n", ledger);
}
