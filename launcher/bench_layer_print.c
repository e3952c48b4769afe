/* What `gleaner bench layer` measured, as JSON and as text. */
#include "launcher/bench_layer_figures.h"

#include "launcher/figures.h"
#include "launcher/text.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Figures of the finished measurement. */
typedef struct figures {
    double layer_median, layer_min, gemm_median, gemm_min; /* seconds */
    double layer_flops, gemm_flops;                        /* of one repetition, all ranks */
    double tokens, rows;                                   /* all ranks */
    double calls;       /* of the layer: repetitions of all ranks */
    double ratio;       /* of median rates: layer / plain product */
    double whole;       /* seconds of the ranks in all repetitions */
    double unaccounted; /* of these, in no phase: other ranks' slower ones included */
} figures_t;

static figures_t reckon(gln_bench_layer_run_t *run)
{
    const gln_bench_layer_t *b = &run->layer;
    const gln_layer_times_t *t = &run->times;
    figures_t r = {0};
    qsort(run->layer_seconds, (size_t)run->repeat, sizeof(double), compare);
    qsort(run->gemm_seconds, (size_t)run->repeat, sizeof(double), compare);
    r.layer_median = run->layer_seconds[run->repeat / 2];
    r.layer_min = run->layer_seconds[0];
    r.gemm_median = run->gemm_seconds[run->repeat / 2];
    r.gemm_min = run->gemm_seconds[0];
    r.tokens = (double)run->ledger.tokens;
    r.calls = (double)run->repeat * b->session->ranks;
    r.rows = gln_bench_layer_rows(&run->ledger);
    r.layer_flops = gln_bench_layer_flops(b, &run->ledger);
    r.gemm_flops = 2 * pow((double)b->gemm_n, 3) * b->session->ranks;
    r.ratio = r.layer_flops / r.layer_median / (r.gemm_flops / r.gemm_median);
    r.whole = run->whole * b->session->ranks;
    r.unaccounted =
        r.whole - t->gemm - t->router - t->exchange - t->move; /* activation is part of move */
    return r;
}

static gln_status_t print_json(gln_bench_layer_run_t *run, const figures_t *r)
{
    const gln_bench_layer_t *b = &run->layer;
    const gln_layer_times_t *t = &run->times;
    json_t *object = json_pack(
        "{s:s, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "bench", "layer", "ranks",
        b->session->ranks, "threads", b->machine.threads, "domains",
        (json_int_t)b->run.parallel.domains, "hidden", (json_int_t)b->options.hidden,
        "expert_hidden", (json_int_t)b->options.expert_hidden, "experts",
        (json_int_t)b->run.model.experts, "k", (json_int_t)b->run.router.k, "tokens",
        (json_int_t)r->tokens, "rows", (json_int_t)r->rows, "repeat", (json_int_t)run->repeat);
    const struct {
        const char *key;
        double value;
    } reals[] = {{"median_seconds", r->layer_median},
                 {"min_seconds", r->layer_min},
                 {"tokens_per_second", r->tokens / r->layer_median},
                 {"flops", r->layer_flops},
                 {"gflops_per_second", 1e-9 * r->layer_flops / r->layer_median},
                 {"gemm_share", t->gemm / r->whole},
                 {"router_share", t->router / r->whole},
                 {"exchange_share", t->exchange / r->whole},
                 {"activation_share", t->activation / r->whole},
                 {"move_share", (t->move - t->activation) / r->whole},
                 {"unaccounted_share", r->unaccounted / r->whole},
                 {"flight_seconds", t->flight / r->calls},
                 {"hidden_seconds", t->hidden / r->calls},
                 {"hidden_share", t->hidden / t->flight},
                 {"plain_median_seconds", r->gemm_median},
                 {"plain_min_seconds", r->gemm_min},
                 {"plain_gflops_per_second", 1e-9 * r->gemm_flops / r->gemm_median},
                 {"ratio", r->ratio}};
    json_object_set_new(object, "dtype", json_string(gln_dtype_name(gln_bench_layer_dtype(b))));
    json_object_set_new(object, "logits",
                        b->recorded.data
                            ? json_sprintf("%s: %s", b->recorded.path, b->recorded.name)
                            : json_null());
    json_object_set_new(object, "plain_n", json_integer(b->gemm_n));
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++)
        json_object_set_new(object, reals[i].key, gln_figures_real(reals[i].value));
    if (run->torch)
        json_object_set_new(
            object, "torch",
            gln_bench_torch_json(run->torch, r->layer_flops, r->layer_median, r->layer_min));
    json_object_set_new(object, "ledger", gln_figures_ledger(&run->ledger));
    return gln_figures_print(object, stdout, "standard output");
}

static void print(gln_bench_layer_run_t *run, const figures_t *r)
{
    const gln_bench_layer_t *b = &run->layer;
    const gln_layer_times_t *t = &run->times;
    char pace[16], ledger[160];
    gln_text_count(r->tokens / r->layer_median, pace, sizeof pace);
    gln_figures_ledger_text(&run->ledger, ledger, sizeof ledger);
    printf(
        "one MoE layer in %s, forward and backward: H %lld, F %lld, E %lld, K %lld, D %lld; %.0f "
        "tokens, %.0f rows\n",
        gln_dtype_name(gln_bench_layer_dtype(b)), (long long)b->options.hidden,
        (long long)b->options.expert_hidden, (long long)b->run.model.experts,
        (long long)b->run.router.k, (long long)b->run.parallel.domains, r->tokens, r->rows);
    if (b->recorded.data) printf("routing replayed: %s: %s\n", b->recorded.path, b->recorded.name);
    printf("%s; %d rank%s of %d thread%s; %lld repetitions\n\n", b->machine.summary,
           b->session->ranks, b->session->ranks == 1 ? "" : "s", b->machine.threads,
           b->machine.threads == 1 ? "" : "s", (long long)run->repeat);
    printf("%-22s %12s %12s %12s\n", "", "median ms", "minimum ms", "GFLOP/s");
    printf("%-22s %12.2f %12.2f %12.1f\n", "layer", 1e3 * r->layer_median, 1e3 * r->layer_min,
           1e-9 * r->layer_flops / r->layer_median);
    char name[32];
    snprintf(name, sizeof name, "plain %lld^3 product", (long long)b->gemm_n);
    printf("%-22s %12.2f %12.2f %12.1f\n\n", name, 1e3 * r->gemm_median, 1e3 * r->gemm_min,
           1e-9 * r->gemm_flops / r->gemm_median);
    printf("tokens/s %s; ratio to the plain product %.2f\n", pace, r->ratio);
    printf("share of the layer's time, per cent: products %.1f, router %.1f, exchange %.1f, "
           "activation %.1f, moving rows %.1f, unaccounted %.1f\n",
           100 * t->gemm / r->whole, 100 * t->router / r->whole, 100 * t->exchange / r->whole,
           100 * t->activation / r->whole, 100 * (t->move - t->activation) / r->whole,
           100 * r->unaccounted / r->whole);
    if (b->session->ranks > 1)
        printf(
            "rows under way: %.2f ms of a repetition; %.2f ms of it (%.0f %%) hidden behind work\n",
            1e3 * t->flight / r->calls, 1e3 * t->hidden / r->calls, 100 * t->hidden / t->flight);
    printf("ledger, per cent: %s\n", ledger);
    if (!run->torch) return;
    printf("\n");
    gln_bench_torch_text(run->torch, r->layer_flops, r->layer_median, r->layer_min);
}

gln_status_t gln_bench_layer_print(gln_bench_layer_run_t *run, int json)
{
    figures_t figures = reckon(run);
    if (json) return print_json(run, &figures);
    print(run, &figures);
    return GLN_OK;
}
