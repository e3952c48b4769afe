/* What `gleaner bench growth` measured, as JSON and as text. */
#include "launcher/bench_growth.h"

#include "launcher/figures.h"
#include <stdio.h>

static double tokens(const gln_growth_point_t *p)
{
    return (double)p->ledger.tokens;
}

/* Ratio to the reference, per token where the tokens grow, over what is expected. */
static double cost(const gln_growth_t *g, int i)
{
    return g->points[i].ratio_median / gln_growth_expected(g, i);
}

static gln_status_t print_json(const gln_growth_t *g)
{
    for (int i = 0; i < g->points_count; i++) {
        const gln_growth_point_t *p = &g->points[i];
        const gln_bench_layer_t *b = p->layer;
        json_t *object = json_pack(
            "{s:s, s:s, s:s, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:f, s:I}", "bench",
            "growth", "growth", gln_growth_name(g->kind), "dtype",
            gln_dtype_name(gln_bench_layer_dtype(b)), "ranks", b->session->ranks, "threads",
            b->machine.threads, "tokens", (json_int_t)tokens(p), "hidden",
            (json_int_t)b->options.hidden, "expert_hidden", (json_int_t)b->options.expert_hidden,
            "experts", (json_int_t)b->run.model.experts, "k", (json_int_t)b->run.router.k, "rows",
            (json_int_t)p->rows, "rectified", g->kind == GLN_GROWTH_RECTIFY && !p->skip, "flops",
            p->flops, "repeat", (json_int_t)g->repeat);
        const struct {
            const char *key;
            double value;
        } reals[] = {{"capacity_factor", b->run.router.capacity_factor},
                     {"median_seconds", p->median},
                     {"min_seconds", p->min},
                     {"gflops_per_second", 1e-9 * p->flops / p->median},
                     {"gemm_share", p->times.gemm / p->times.total},
                     {"router_share", p->times.router / p->times.total},
                     {"ratio", p->ratio_median},
                     {"expected_ratio", gln_growth_expected(g, i)},
                     {"cost", cost(g, i)}};
        for (size_t j = 0; j < sizeof reals / sizeof reals[0]; j++)
            json_object_set_new(object, reals[j].key, gln_figures_real(reals[j].value));
        gln_status_t status = gln_figures_print(object, stdout, "standard output");
        if (status != GLN_OK) return status;
    }
    return GLN_OK;
}

static void print_head(const gln_growth_t *g)
{
    static const char *const heads[GLN_GROWTH_KINDS] = {
        [GLN_GROWTH_EXPERTS] = "experts grow, rows stay: time / that of the first",
        [GLN_GROWTH_TOKENS] = "tokens grow: time per token / that of 2048",
        [GLN_GROWTH_RECTIFY] = "fill-in and rectification: time / that of plain top-k, over the "
                               "operations / its own"};
    const gln_bench_layer_t *b = g->points[0].layer;
    printf("%s\nH %lld, F %lld", heads[g->kind], (long long)b->options.hidden,
           (long long)b->options.expert_hidden);
    if (g->kind != GLN_GROWTH_EXPERTS) printf(", E %lld", (long long)b->run.model.experts);
    printf(", K %lld", (long long)b->run.router.k);
    if (g->kind != GLN_GROWTH_TOKENS) printf(", %.0f tokens", tokens(&g->points[0]));
    printf("; %s; %d rank%s of %d thread%s; %lld rounds\n\n",
           gln_dtype_name(gln_bench_layer_dtype(b)), b->session->ranks,
           b->session->ranks == 1 ? "" : "s", b->machine.threads,
           b->machine.threads == 1 ? "" : "s", (long long)g->repeat);
}

static void print(const gln_growth_t *g)
{
    static const char *const columns[GLN_GROWTH_KINDS] = {"experts", "tokens", "capacity factor"};
    print_head(g);
    printf("%-24s %8s %11s %11s %10s %10s %10s %8s\n", columns[g->kind], "rows", "median ms",
           "minimum ms", "GFLOP/s", "products", "operations", "cost");
    for (int i = 0; i < g->points_count; i++) {
        const gln_growth_point_t *p = &g->points[i];
        char name[32];
        snprintf(name, sizeof name, "%s%s", p->label,
                 g->kind != GLN_GROWTH_RECTIFY ? ""
                 : p->skip                     ? ", top-k"
                                               : ", rectified");
        printf("%-24s %8.0f %11.2f %11.2f %10.1f %9.1f%% %9.3fx %7.3fx\n", name, p->rows,
               1e3 * p->median, 1e3 * p->min, 1e-9 * p->flops / p->median,
               100 * p->times.gemm / p->times.total,
               p->flops / g->points[gln_growth_reference(g, i)].flops, cost(g, i));
    }
    printf("\n");
}

gln_status_t gln_growth_print(const gln_growth_t *growth, int json)
{
    if (json) return print_json(growth);
    print(growth);
    return GLN_OK;
}
