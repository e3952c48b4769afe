/* Expert placement by pairwise swaps.
 *
 * The tokens are the edges of a hypergraph over experts (tokens of one domain with the same experts
 * are merged into one with a weight) and what an edge costs hangs on which domains and nodes its
 * experts lie on: a partitioning problem with parts of equal size. Cost = 16 times the rows between
 * nodes, plus the rows inside nodes, plus 64 for every route of a domain beyond the aimed load.
 *
 * Starts: the placement to better, and a greedy one that places experts by falling load where each
 * adds least. From both, swaps of two experts as in Kernighan and Lin, "An efficient heuristic
 * procedure for partitioning graphs" (Bell System Technical Journal, 1970), each judged exactly on
 * the edges of its two experts as in Fiduccia and Mattheyses (DAC 1982); an expert takes its best
 * swap, pass after pass, until none helps. Instead of Kernighan and Lin's chains of losing swaps
 * the best placement is disturbed by a few drawn swaps and improved again (iterated local search,
 * Lourenço, Martin and Stützle, 2003). The draws are counter-based, so the result is a function of
 * the input alone.
 *
 * A pass costs O(E x routes x K) at most, merging spares much of it where E is small; rounds are
 * bounded by that number. Memory O(routes). */
#include "cluster/placement_internal.h"

#include "base/rng.h"
#include <stdlib.h>
#include <string.h>

enum { FAR_COST = 16, LOAD_COST = 64, PASSES_MAX = 64, ROUNDS_MAX = 64, DISTURB = 3 };
#define WORK_MAX 2e9 /* experts of edges looked at, about */

/* ---- cost ---------------------------------------------------------------------------------------
 */

/* Domains of the group that begins at `first` on a node. */
static int domains_on(const gln_placement_search_t *s, int first, int node)
{
    int from = node * s->node_domains, end = from + s->node_domains;
    if (from < first) from = first;
    if (end > first + s->group_domains) end = first + s->group_domains;
    return end - from;
}

/* Rows of one edge, its weight not counted, to one more domain; with any_source summed over the
 * domains of the group as sources. */
static void add_rows(const gln_placement_search_t *s, int source, int first, int domain,
                     int new_node, gln_placement_count_t *out)
{
    int node = domain / s->node_domains, home = source / s->node_domains;
    int on_node = s->any_source ? domains_on(s, first, node) : node == home;
    int off_node = s->any_source ? s->group_domains - on_node : node != home;
    int own = s->any_source || domain == source;
    out->own_rows += own;
    out->near_rows += on_node - own;
    out->far_domain_rows += off_node;
    if (new_node) out->far_node_rows += off_node;
}

/* Rows of one edge; experts that are not placed yet cost nothing. */
static void edge_rows(gln_placement_search_t *s, int64_t edge, gln_placement_count_t *out)
{
    int source = s->source[edge], first = source / s->group_domains * s->group_domains;
    int64_t mark = ++s->mark;
    for (int64_t j = s->offset[edge]; j < s->offset[edge + 1]; j++) {
        int domain = s->domain_of[s->expert[j]];
        if (domain < 0 || s->domain_mark[first + domain] == mark) continue;
        domain += first;
        s->domain_mark[domain] = mark;
        int64_t *node_mark = &s->node_mark[domain / s->node_domains];
        add_rows(s, source, first, domain, *node_mark != mark, out);
        *node_mark = mark;
    }
}

static int64_t edge_cost(gln_placement_search_t *s, int64_t edge)
{
    gln_placement_count_t rows = {0};
    edge_rows(s, edge, &rows);
    int64_t cost = s->shape.copies == GLN_COPIES_NODE
                       ? FAR_COST * rows.far_node_rows + rows.near_rows + rows.far_domain_rows
                       : FAR_COST * rows.far_domain_rows + rows.near_rows;
    return s->weight[edge] * cost;
}

static int64_t over(const gln_placement_search_t *s, int group, int64_t load)
{
    return load > s->limit[group] ? s->load_cost * (load - s->limit[group]) : 0;
}

/* Cost of load when expert a (of domain p) and b (of domain q) change places, less that of now. */
static int64_t load_change(const gln_placement_search_t *s, int a, int b)
{
    int p = s->domain_of[a], q = s->domain_of[b];
    int64_t change = 0;
    for (int g = 0; g < s->shape.groups; g++) {
        const int64_t *load = s->load + (int64_t)g * s->group_domains;
        const int64_t *expert = s->expert_load + (int64_t)g * s->shape.experts;
        int64_t moved = expert[b] - expert[a];
        change += over(s, g, load[p] + moved) - over(s, g, load[p]);
        change += over(s, g, load[q] - moved) - over(s, g, load[q]);
    }
    return change;
}

static int edge_has(const gln_placement_search_t *s, int64_t edge, int expert)
{
    for (int64_t j = s->offset[edge]; j < s->offset[edge + 1]; j++)
        if (s->expert[j] == expert) return 1;
    return 0;
}

/* Edges of `expert` without `other`: their cost under domain_of less the cost noted. */
static int64_t edges_change(gln_placement_search_t *s, int expert, int other)
{
    int64_t change = 0;
    for (int64_t i = s->edge_offset[expert]; i < s->edge_offset[expert + 1]; i++)
        if (!edge_has(s, s->edge_of[i], other))
            change += edge_cost(s, s->edge_of[i]) - s->cost[s->edge_of[i]];
    return change;
}

static void exchange(gln_placement_search_t *s, int a, int b)
{
    int32_t domain = s->domain_of[a];
    s->domain_of[a] = s->domain_of[b];
    s->domain_of[b] = domain;
}

static int64_t swap_change(gln_placement_search_t *s, int a, int b)
{
    int64_t change = load_change(s, a, b);
    exchange(s, a, b);
    change += edges_change(s, a, b) + edges_change(s, b, a);
    exchange(s, a, b);
    return change;
}

/* Everything that follows from domain_of, anew. */
static void evaluate(gln_placement_search_t *s)
{
    memset(s->load, 0, (size_t)s->shape.domains * sizeof *s->load);
    s->total = 0;
    for (int64_t i = 0; i < s->edges_count; i++)
        s->total += s->cost[i] = edge_cost(s, i);
    for (int g = 0; g < s->shape.groups; g++) {
        int64_t *load = s->load + (int64_t)g * s->group_domains;
        for (int e = 0; e < s->shape.experts; e++)
            load[s->domain_of[e]] += s->expert_load[(int64_t)g * s->shape.experts + e];
        for (int d = 0; d < s->group_domains; d++)
            s->total += over(s, g, load[d]);
    }
}

static void swap(gln_placement_search_t *s, int a, int b)
{
    for (int g = 0; g < s->shape.groups; g++) {
        int64_t *load = s->load + (int64_t)g * s->group_domains;
        const int64_t *expert = s->expert_load + (int64_t)g * s->shape.experts;
        load[s->domain_of[a]] += expert[b] - expert[a];
        load[s->domain_of[b]] += expert[a] - expert[b];
    }
    exchange(s, a, b);
    for (int64_t i = s->edge_offset[a]; i < s->edge_offset[a + 1]; i++)
        s->cost[s->edge_of[i]] = edge_cost(s, s->edge_of[i]);
    for (int64_t i = s->edge_offset[b]; i < s->edge_offset[b + 1]; i++)
        s->cost[s->edge_of[i]] = edge_cost(s, s->edge_of[i]);
}

/* ---- search -------------------------------------------------------------------------------------
 */

static void improve(gln_placement_search_t *s)
{
    int improved = 1;
    for (int pass = 0; pass < PASSES_MAX && improved; pass++) {
        improved = 0;
        for (int a = 0; a < s->shape.experts; a++) {
            int64_t least = 0;
            int with = -1;
            for (int b = 0; b < s->shape.experts; b++) {
                if (s->domain_of[a] == s->domain_of[b]) continue;
                int64_t change = swap_change(s, a, b);
                if (change < least) {
                    least = change;
                    with = b;
                }
            }
            if (with < 0) continue;
            swap(s, a, with);
            s->total += least;
            improved = 1;
        }
    }
    if (s->total >= s->best_total) return;
    s->best_total = s->total;
    memcpy(s->best, s->domain_of, (size_t)s->shape.experts * sizeof *s->best);
}

/* Routes of an expert over all groups. */
static int64_t total_load(const gln_placement_search_t *s, int expert)
{
    int64_t sum = 0;
    for (int g = 0; g < s->shape.groups; g++)
        sum += s->expert_load[(int64_t)g * s->shape.experts + expert];
    return sum;
}

/* Cost of the edges of `expert`, and of the loads, with it on `domain`; the domain's old load is
 * not counted. */
static int64_t greedy_cost(gln_placement_search_t *s, int expert, int domain)
{
    int64_t cost = 0;
    s->domain_of[expert] = domain;
    for (int64_t i = s->edge_offset[expert]; i < s->edge_offset[expert + 1]; i++)
        cost += edge_cost(s, s->edge_of[i]);
    for (int g = 0; g < s->shape.groups; g++) {
        int64_t load = s->load[(int64_t)g * s->group_domains + domain];
        int64_t more = s->expert_load[(int64_t)g * s->shape.experts + expert];
        cost += over(s, g, load + more) - over(s, g, load);
    }
    s->domain_of[expert] = -1;
    return cost;
}

/* The expert not placed yet of most routes, on the domain where it costs least. */
static void greedy_place(gln_placement_search_t *s, int32_t *room)
{
    int expert = -1, domain = -1;
    int64_t least = 0;
    for (int e = 0; e < s->shape.experts; e++)
        if (s->domain_of[e] < 0 && (expert < 0 || total_load(s, e) > total_load(s, expert)))
            expert = e;
    for (int d = 0; d < s->group_domains; d++) {
        if (room[d] == 0) continue;
        int64_t cost = greedy_cost(s, expert, d);
        if (domain >= 0 && cost >= least) continue;
        least = cost;
        domain = d;
    }
    s->domain_of[expert] = domain;
    room[domain]--;
    for (int g = 0; g < s->shape.groups; g++)
        s->load[(int64_t)g * s->group_domains + domain] +=
            s->expert_load[(int64_t)g * s->shape.experts + expert];
}

static void greedy(gln_placement_search_t *s)
{
    int32_t *room = s->best; /* not needed now: a copy was evaluated */
    memset(s->load, 0, (size_t)s->shape.domains * sizeof *s->load);
    for (int e = 0; e < s->shape.experts; e++)
        s->domain_of[e] = -1;
    for (int d = 0; d < s->group_domains; d++)
        room[d] = s->per_domain;
    for (int i = 0; i < s->shape.experts; i++)
        greedy_place(s, room);
}

/* A few drawn swaps of the best placement. */
static void disturb(gln_placement_search_t *s)
{
    uint64_t stream = gln_rng_stream(GLN_RNG_PLACE, 0, 0), experts = (uint64_t)s->shape.experts;
    memcpy(s->domain_of, s->best, (size_t)experts * sizeof *s->best);
    for (int i = 0; i < DISTURB; i++) {
        int a = (int)(gln_rng_u64(1, stream, (uint64_t)s->draws++) % experts);
        int b = (int)(gln_rng_u64(1, stream, (uint64_t)s->draws++) % experts);
        exchange(s, a, b);
    }
}

gln_status_t gln_placement_choose(const gln_placement_shape_t *shape,
                                  const gln_placement_tokens_t *tokens, const int32_t *from,
                                  int32_t *domain_of)
{
    gln_placement_search_t *s = NULL;
    gln_status_t status = gln_placement_search_open(shape, tokens, 1, &s);
    if (status == GLN_OK && from) status = gln_placement_check(s, from);
    if (status != GLN_OK) {
        gln_placement_search_close(s);
        return status;
    }
    s->load_cost = LOAD_COST * (s->any_source ? s->group_domains : 1);
    greedy(s);
    s->best_total = INT64_MAX;
    evaluate(s);
    improve(s);
    if (from)
        memcpy(s->domain_of, from, (size_t)s->shape.experts * sizeof *from);
    else
        gln_placement_default(&s->shape, s->domain_of);
    evaluate(s);
    improve(s);
    int64_t routes = s->offset[s->edges_count];
    double width = s->edges_count > 0 ? (double)routes / (double)s->edges_count : 1;
    double work = 3.0 * s->shape.experts * (double)routes * width + 1; /* about three passes */
    for (int i = 0; i < ROUNDS_MAX && work * (i + 1) < WORK_MAX; i++) {
        disturb(s);
        evaluate(s);
        improve(s);
    }
    memcpy(domain_of, s->best, (size_t)s->shape.experts * sizeof *domain_of);
    gln_placement_search_close(s);
    return GLN_OK;
}

/* ---- counting -----------------------------------------------------------------------------------
 */

void gln_placement_default(const gln_placement_shape_t *shape, int32_t *domain_of)
{
    int per_domain = shape->experts / (shape->domains / (shape->groups ? shape->groups : 1));
    for (int e = 0; e < shape->experts; e++)
        domain_of[e] = e / per_domain;
}

static int by_domain(const void *a, const void *b, void *ctx)
{
    const int32_t *domain_of = ctx;
    int32_t e = *(const int32_t *)a, f = *(const int32_t *)b;
    return domain_of[e] != domain_of[f] ? domain_of[e] - domain_of[f] : e - f;
}

void gln_placement_order(int experts, const int32_t *domain_of, int32_t *expert_at)
{
    for (int e = 0; e < experts; e++)
        expert_at[e] = e;
    qsort_r(expert_at, (size_t)experts, sizeof *expert_at, by_domain, (void *)(uintptr_t)domain_of);
}

gln_status_t gln_placement_count(const gln_placement_shape_t *shape,
                                 const gln_placement_tokens_t *tokens, const int32_t *domain_of,
                                 gln_placement_count_t *out)
{
    gln_placement_search_t *s = NULL;
    gln_placement_count_t count = {0};
    gln_status_t status = gln_placement_search_open(shape, tokens, 0, &s);
    if (status != GLN_OK) return status;
    status = gln_placement_check(s, domain_of);
    if (status != GLN_OK) goto close;
    memcpy(s->domain_of, domain_of, (size_t)s->shape.experts * sizeof *domain_of);
    evaluate(s);
    for (int64_t i = 0; i < s->edges_count; i++)
        edge_rows(s, i, &count);
    count.routes = s->offset[s->edges_count];
    for (int d = 0; d < s->shape.domains; d++)
        if (s->load[d] > count.load_max) count.load_max = s->load[d];
    count.imbalance =
        count.routes == 0 ? 1 : (double)count.load_max * s->shape.domains / (double)count.routes;
    *out = count;
close:
    gln_placement_search_close(s);
    return status;
}
