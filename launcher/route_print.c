/* Routes are many and simple, so their lines are printed directly; 9 digits name a float. */
#include "launcher/route_print.h"

#include "base/log.h"
#include "launcher/figures.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

static gln_status_t written(void)
{
    if (!ferror(stdout)) return GLN_OK;
    return gln_fail(GLN_ERR_IO, "standard output: cannot write: %s", strerror(errno));
}

gln_status_t gln_route_print_scores(const gln_plan_t *plan, int64_t domain)
{
    const float *p = plan->scores;
    for (int64_t t = 0; t < plan->tokens; t++, p += plan->experts) {
        printf("{\"event\":\"scores\",\"domain\":%lld,\"token\":%lld,\"scores\":[",
               (long long)domain, (long long)t);
        for (int e = 0; e < plan->experts; e++)
            printf("%s%.9g", e ? "," : "", (double)p[e]);
        printf("]}\n");
    }
    return written();
}

/* How often the expert counts for the token by rectification. */
static int multiplicity(const gln_plan_t *plan, int32_t token, int expert)
{
    return plan->token_h[token] == expert ? plan->token_m[token] : 0;
}

static void print_route(const gln_plan_t *plan, int64_t domain, int32_t token, int expert,
                        const char *rest, double weight)
{
    printf("{\"event\":\"route\",\"domain\":%lld,\"token\":%d,\"expert\":%d,%s,\"multiplicity\":%d,"
           "\"weight\":%.9g}\n",
           (long long)domain, token, expert, rest, multiplicity(plan, token, expert), weight);
}

gln_status_t gln_route_print_routes(const gln_plan_t *plan, int64_t domain)
{
    const float *slot_weight = plan->route_weight, *rect_weight = plan->rect_weight;
    for (int e = 0; e < plan->experts; e++)
        for (int32_t i = plan->expert_offset[e]; i < plan->expert_offset[e + 1]; i++) {
            char rest[96];
            snprintf(rest, sizeof rest, "\"slot\":%d,\"kind\":\"%s\",\"choice\":%d",
                     i - plan->expert_offset[e],
                     plan->route_kind[i] == GLN_ROUTE_FILLED ? "filled" : "topk",
                     plan->route_choice[i]);
            print_route(plan, domain, plan->route_token[i], e, rest, (double)slot_weight[i]);
        }
    for (int e = 0; e < plan->experts; e++)
        for (int32_t i = plan->rect_offset[e]; i < plan->rect_offset[e + 1]; i++)
            print_route(plan, domain, plan->rect_token[i], e,
                        "\"slot\":null,\"kind\":\"rectified\",\"choice\":null",
                        (double)rect_weight[i]);
    return written();
}

/* Nothing was sent: no sent_rows. */
static json_t *ledger_object(const gln_ledger_t *ledger)
{
    json_t *object = gln_figures_ledger(ledger);
    if (object) json_object_del(object, "sent_rows");
    return object;
}

gln_status_t gln_route_print_domain(const gln_plan_t *plan, int64_t domain)
{
    json_t *object = json_object();
    json_object_set_new(object, "event", json_string("domain"));
    json_object_set_new(object, "domain", json_integer(domain));
    json_object_set_new(object, "capacity", json_integer(plan->capacity));
    json_object_set_new(object, "balance_loss", gln_figures_real(plan->balance_loss));
    json_object_set_new(object, "z_loss", gln_figures_real(plan->z_loss));
    json_object_set_new(object, "ledger", ledger_object(&plan->ledger));
    return gln_figures_print(object, stdout, "standard output");
}

gln_status_t gln_route_print_total(const gln_ledger_t *total, const gln_logits_t *logits,
                                   const gln_router_t *router)
{
    const gln_router_options_t *o = gln_router_options(router);
    json_t *object = json_object();
    json_object_set_new(object, "event", json_string("total"));
    json_object_set_new(object, "policy", json_string(gln_policy_name(o->policy)));
    json_object_set_new(object, "domains", json_integer(logits->domains));
    json_object_set_new(object, "tokens", json_integer(logits->tokens));
    json_object_set_new(object, "experts", json_integer(logits->experts));
    json_object_set_new(object, "k", json_integer(o->k));
    json_object_set_new(object, "ledger", ledger_object(total));
    return gln_figures_print(object, stdout, "standard output");
}

void gln_route_print_head(const gln_logits_t *logits, const gln_router_t *router)
{
    const gln_router_options_t *o = gln_router_options(router);
    printf("%s of %s: D %lld, T %lld, E %lld; policy %s, K %d, capacity %lld\n", logits->name,
           logits->path, (long long)logits->domains, (long long)logits->tokens,
           (long long)logits->experts, gln_policy_name(o->policy), o->k,
           (long long)gln_router_capacity(router, 0));
}

void gln_route_print_text(const gln_plan_t *plan, int64_t domain)
{
    char ledger[160];
    gln_figures_ledger_text(&plan->ledger, ledger, sizeof ledger);
    printf("domain %lld, per cent: %s\n", (long long)domain, ledger);
}

void gln_route_print_text_total(const gln_ledger_t *total, const char *scores_path)
{
    char ledger[160];
    gln_figures_ledger_text(total, ledger, sizeof ledger);
    printf("all, per cent: %s\n", ledger);
    if (scores_path) printf("scores: %s\n", scores_path);
}
