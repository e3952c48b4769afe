/* `gleaner bench growth`: how a layer's time, forward and backward, grows with experts, with
 * tokens, and with rectification.
 *
 * All points are open at once and take turns in every round, after one round that is not counted.
 * A ratio is the median over rounds of a time to the reference's in the same round, so that a slow
 * stretch of the machine meets both. Small layers are called several times in a round. Experts and
 * tokens grow with dropless top-k, whose rows are exactly T K; with experts the gate's product
 * grows too, and is counted. Rectification is compared with the same layer called without
 * fill-in and rectification. */
#include "launcher/bench_growth.h"

#include "base/log.h"
#include "launcher/bind.h"
#include "launcher/command.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DROPLESS "router.capacity_factor=inf", "router.fill=false", "router.rectify=false"
enum { BEFORE_MAX = 8 };

typedef struct kind {
    const char *name, *key;         /* key: what grows; NULL: the tokens */
    const char *before[BEFORE_MAX]; /* the usual shape, ended by NULL */
    int64_t tokens;
    const char *labels[GLN_GROWTH_POINTS_MAX + 1];
    int reference;
} kind_t;

static const kind_t kinds[GLN_GROWTH_KINDS] = {
    [GLN_GROWTH_EXPERTS] = {"experts",
                            "model.experts",
                            {"model.expert_hidden=512", DROPLESS, NULL},
                            4096,
                            {"8", "16", "32", "64", "128", "256", NULL},
                            0},
    [GLN_GROWTH_TOKENS] = {"tokens",
                           NULL,
                           {DROPLESS, NULL},
                           0,
                           {"256", "512", "1024", "2048", "4096", "8192", "16384", "32768"},
                           3},
    [GLN_GROWTH_RECTIFY] = {
        "rectify",
        "router.capacity_factor",
        {"model.hidden=768", "model.expert_hidden=2048", "model.experts=16", "router.k=1", NULL},
        4096,
        {"1.0", "1.0", "1.25", "1.25", NULL},
        0}};

const char *gln_growth_name(gln_growth_kind_t kind)
{
    return kinds[kind].name;
}

int gln_growth_reference(const gln_growth_t *g, int i)
{
    return g->kind == GLN_GROWTH_RECTIFY ? i - i % 2 : g->reference;
}

double gln_growth_expected(const gln_growth_t *g, int i)
{
    if (g->kind == GLN_GROWTH_EXPERTS) return 1;
    return g->points[i].flops / g->points[gln_growth_reference(g, i)].flops;
}

static gln_status_t open_point(const gln_arguments_t *arguments, gln_growth_t *g, int i,
                               gln_bench_layer_t *layer)
{
    const kind_t *kind = &kinds[g->kind];
    const char *label = kind->labels[i];
    char grows[64];
    const char *after[] = {grows};
    gln_arguments_t own = *arguments;
    int64_t tokens = kind->key ? kind->tokens : strtoll(label, NULL, 10);
    int before = 0;
    while (kind->before[before])
        before++;
    own.operands_count = 0; /* what grows is no run file */
    if (!kind->key) own.value[GLN_OPTION_TOKENS] = NULL;
    snprintf(grows, sizeof grows, "%s=%s", kind->key ? kind->key : "model.sequence", label);
    gln_status_t status =
        gln_bench_layer_load(layer, &own, kind->before, before, after, kind->key ? 1 : 0, tokens);
    status = gln_session_agree(layer->session, status);
    if (status == GLN_OK && i == 0) status = gln_bind_run(layer->session, &layer->run, NULL);
    return status == GLN_OK ? gln_bench_layer_open(layer) : status;
}

static gln_status_t open_points(const gln_arguments_t *arguments, gln_growth_t *g,
                                gln_bench_layer_t *layers)
{
    const kind_t *kind = &kinds[g->kind];
    g->reference = kind->reference;
    for (int i = 0; i < GLN_GROWTH_POINTS_MAX && kind->labels[i]; i++) {
        gln_growth_point_t *p = &g->points[i];
        int second = g->kind == GLN_GROWTH_RECTIFY && i % 2 == 1; /* the same layer once more */
        p->label = kind->labels[i];
        p->layer = second ? g->points[i - 1].layer : &layers[i];
        p->skip = g->kind == GLN_GROWTH_RECTIFY && !second;
        gln_status_t status = second ? GLN_OK : open_point(arguments, g, i, p->layer);
        if (status != GLN_OK) return status;
        int64_t tokens = p->layer->tokens;
        p->calls = tokens >= 2048 ? 1 : (int)(2048 / tokens);
        g->points_count++;
    }
    return GLN_OK;
}

/* One round's calls of a point. @param round below 0: not counted */
static gln_status_t call(gln_growth_point_t *p, int64_t round)
{
    double sum = 0;
    gln_status_t status = GLN_OK;
    p->layer->step.skip_fill = p->layer->step.skip_rectify = p->skip;
    for (int i = 0; status == GLN_OK && i < p->calls; i++) {
        double seconds;
        status = gln_bench_layer_measure(p->layer, gln_bench_layer_run, &seconds);
        gln_layer_times_t times = gln_layer_times(p->layer->layer);
        sum += seconds;
        if (round >= 0) gln_bench_times_add(&p->times, &times);
    }
    if (round < 0) return status;
    p->seconds[round] = sum / p->calls;
    p->ledger = gln_layer_ledger(p->layer->layer);
    return status;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int64_t count)
{
    qsort(values, (size_t)count, sizeof *values, compare);
    return values[count / 2];
}

static gln_status_t reckon(gln_growth_t *g)
{
    for (int i = 0; i < g->points_count; i++) {
        gln_growth_point_t *p = &g->points[i], *reference = &g->points[gln_growth_reference(g, i)];
        for (int64_t round = 0; round < g->repeat; round++)
            p->ratio[round] = p->seconds[round] / reference->seconds[round];
    }
    for (int i = 0; i < g->points_count; i++) {
        gln_growth_point_t *p = &g->points[i];
        gln_status_t status = gln_bench_layer_gather(p->layer, &p->times, &p->ledger);
        if (status != GLN_OK) return status;
        p->ratio_median = median(p->ratio, g->repeat);
        p->median = median(p->seconds, g->repeat);
        p->min = p->seconds[0];
        p->rows = gln_bench_layer_rows(&p->ledger);
        p->flops = gln_bench_layer_flops(p->layer, &p->ledger);
    }
    return GLN_OK;
}

static gln_status_t grow(const gln_arguments_t *arguments, gln_session_t *session, gln_growth_t *g,
                         gln_bench_layer_t *layers)
{
    gln_status_t status =
        gln_session_agree(session, gln_arguments_int(arguments, GLN_OPTION_REPEAT, 5, 1,
                                                     GLN_BENCH_REPEAT_MAX, &g->repeat));
    if (status == GLN_OK) status = open_points(arguments, g, layers);
    if (status != GLN_OK) return status;
    session->working = true;
    for (int64_t round = -1; status == GLN_OK && round < g->repeat; round++)
        for (int i = 0; status == GLN_OK && i < g->points_count; i++)
            status = call(&g->points[i], round);
    if (status == GLN_OK) status = reckon(g);
    if (status == GLN_OK && session->rank == 0)
        status = gln_growth_print(g, arguments->given[GLN_OPTION_JSON]);
    return gln_session_agree(session, status);
}

static gln_status_t choose(const gln_arguments_t *arguments, bool *wanted)
{
    for (int i = 0; i < GLN_GROWTH_KINDS; i++)
        wanted[i] = arguments->operands_count == 0;
    for (int i = 0; i < arguments->operands_count; i++) {
        int kind = 0;
        while (kind < GLN_GROWTH_KINDS && strcmp(arguments->operands[i], kinds[kind].name) != 0)
            kind++;
        if (kind == GLN_GROWTH_KINDS)
            return gln_fail(GLN_ERR_ARGUMENT,
                            "expected experts, tokens or rectify, found \"%.200s\"",
                            arguments->operands[i]);
        wanted[kind] = true;
    }
    return GLN_OK;
}

int gln_command_bench_growth(const gln_arguments_t *arguments)
{
    static gln_growth_t growth;
    static gln_bench_layer_t layers[GLN_GROWTH_POINTS_MAX];
    gln_session_t session;
    bool wanted[GLN_GROWTH_KINDS];
    gln_session_start(&session);
    gln_status_t status = choose(arguments, wanted);
    gln_status_t joined = gln_session_join(&session);
    status = joined == GLN_OK ? gln_session_agree(&session, status) : joined;
    for (int kind = 0; status == GLN_OK && kind < GLN_GROWTH_KINDS; kind++) {
        if (!wanted[kind]) continue;
        memset(&growth, 0, sizeof growth);
        memset(layers, 0, sizeof layers);
        growth.kind = (gln_growth_kind_t)kind;
        for (int i = 0; i < GLN_GROWTH_POINTS_MAX; i++)
            layers[i].session = &session;
        status = grow(arguments, &session, &growth, layers);
        for (int i = GLN_GROWTH_POINTS_MAX - 1; i >= 0; i--)
            gln_bench_layer_close(&layers[i]);
    }
    return gln_session_leave(&session, status);
}
