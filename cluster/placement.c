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
#include "cluster/placement.h"

#include "base/log.h"
#include "base/rng.h"
#include <stdlib.h>
#include <string.h>

enum { FAR_COST = 16, LOAD_COST = 64, PASSES_MAX = 64, ROUNDS_MAX = 64, DISTURB = 3 };
#define WORK_MAX 2e9 /* experts of edges looked at, about */

typedef struct search {
    gln_placement_shape_t shape;
    int group_domains, per_domain, node_domains; /* G, L, domains of a node */
    int64_t edges_count;
    int32_t *source;      /* [edges] */
    int64_t *offset;      /* [edges + 1] */
    int32_t *expert;      /* ascending within an edge */
    int64_t *weight;      /* [edges] tokens */
    int64_t *cost;        /* [edges] under domain_of */
    int64_t *edge_offset; /* [E + 1]: edges of an expert */
    int64_t *edge_of;
    int64_t *expert_load; /* [R, E] routes */
    int64_t *load;        /* [R, G] routes under domain_of */
    int64_t *limit;       /* [R] */
    int32_t *domain_of;   /* [E]; -1: not placed yet */
    int32_t *best;        /* [E] */
    int64_t *domain_mark; /* [D] */
    int64_t *node_mark;   /* [nodes] */
    int any_source;
    int64_t load_cost; /* of a route beyond the limit */
    int64_t mark, total, best_total, draws;
} search_t;

/* ---- checks -------------------------------------------------------------------------------------
 */

static gln_status_t check_shape(const gln_placement_shape_t *s)
{
    if (s->domains < 1 || s->groups < 1 || s->domains % s->groups != 0)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "placement: the replica groups must divide the domains, found %d groups "
                        "and %d domains",
                        s->groups, s->domains);
    int group = s->domains / s->groups;
    if (s->experts < 1 || s->experts % group != 0)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "placement: the number of experts must be a multiple of the %d domains of "
                        "a replica group, found %d",
                        group, s->experts);
    if (s->nodes < 1 || s->domains % s->nodes != 0)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "placement: the number of nodes must divide the %d domains, found %d",
                        s->domains, s->nodes);
    if (!(s->imbalance >= 1 && s->imbalance <= 1e6))
        return gln_fail(GLN_ERR_ARGUMENT,
                        "placement: the aimed imbalance must be at least 1, found %g",
                        s->imbalance);
    return GLN_OK;
}

static gln_status_t check_tokens(const gln_placement_shape_t *s, const gln_placement_tokens_t *t)
{
    for (int64_t i = 0; i < t->count; i++) {
        if (t->source[i] < 0 || t->source[i] >= s->domains)
            return gln_fail(GLN_ERR_ARGUMENT,
                            "placement: token %lld is of domain %d, expected 0 to %d", (long long)i,
                            t->source[i], s->domains - 1);
        for (int64_t j = t->offset[i]; j < t->offset[i + 1]; j++)
            if (t->expert[j] < 0 || t->expert[j] >= s->experts)
                return gln_fail(GLN_ERR_ARGUMENT,
                                "placement: token %lld has expert %d, expected 0 to %d",
                                (long long)i, t->expert[j], s->experts - 1);
    }
    return GLN_OK;
}

static gln_status_t check_placement(const search_t *s, const int32_t *domain_of)
{
    memset(s->load, 0, (size_t)s->group_domains * sizeof *s->load);
    for (int e = 0; e < s->shape.experts; e++) {
        if (domain_of[e] < 0 || domain_of[e] >= s->group_domains)
            return gln_fail(GLN_ERR_ARGUMENT,
                            "placement: expert %d is on domain %d, expected 0 to %d", e,
                            domain_of[e], s->group_domains - 1);
        s->load[domain_of[e]]++;
    }
    for (int d = 0; d < s->group_domains; d++)
        if (s->load[d] != s->per_domain)
            return gln_fail(GLN_ERR_ARGUMENT,
                            "placement: domain %d hosts %lld experts, expected %d", d,
                            (long long)s->load[d], s->per_domain);
    return GLN_OK;
}

/* ---- edges --------------------------------------------------------------------------------------
 */

static int by_number(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static int by_edge(const void *a, const void *b, void *ctx)
{
    const search_t *s = ctx;
    int64_t i = *(const int64_t *)a, j = *(const int64_t *)b;
    int64_t n = s->offset[i + 1] - s->offset[i], m = s->offset[j + 1] - s->offset[j];
    if (s->source[i] != s->source[j]) return s->source[i] < s->source[j] ? -1 : 1;
    if (n != m) return n < m ? -1 : 1;
    for (int64_t k = 0; k < n; k++) {
        int32_t x = s->expert[s->offset[i] + k], y = s->expert[s->offset[j] + k];
        if (x != y) return x < y ? -1 : 1;
    }
    return 0;
}

static void *array(int64_t count, size_t bytes)
{
    return calloc((size_t)count + 1, bytes);
}

static void search_close(search_t *s)
{
    if (!s) return;
    free(s->node_mark);
    free(s->domain_mark);
    free(s->best);
    free(s->domain_of);
    free(s->limit);
    free(s->load);
    free(s->expert_load);
    free(s->edge_of);
    free(s->edge_offset);
    free(s->cost);
    free(s->weight);
    free(s->expert);
    free(s->offset);
    free(s->source);
    free(s);
}

static int search_allocate(search_t *s, const gln_placement_tokens_t *tokens)
{
    int64_t n = tokens->count, routes = n > 0 ? tokens->offset[n] : 0;
    int64_t experts = s->shape.experts, groups = s->shape.groups;
    s->source = array(n, sizeof *s->source);
    s->offset = array(n + 1, sizeof *s->offset);
    s->expert = array(routes, sizeof *s->expert);
    s->weight = array(n, sizeof *s->weight);
    s->cost = array(n, sizeof *s->cost);
    s->edge_offset = array(experts + 1, sizeof *s->edge_offset);
    s->edge_of = array(routes, sizeof *s->edge_of);
    s->expert_load = array(groups * experts, sizeof *s->expert_load);
    s->load = array(s->shape.domains, sizeof *s->load);
    s->limit = array(groups, sizeof *s->limit);
    s->domain_of = array(experts, sizeof *s->domain_of);
    s->best = array(experts, sizeof *s->best);
    s->domain_mark = array(s->shape.domains, sizeof *s->domain_mark);
    s->node_mark = array(s->shape.nodes, sizeof *s->node_mark);
    return s->source && s->offset && s->expert && s->weight && s->cost && s->edge_offset &&
           s->edge_of && s->expert_load && s->load && s->limit && s->domain_of && s->best &&
           s->domain_mark && s->node_mark;
}

/* Copy the tokens with their experts ascending. */
static void copy_tokens(search_t *s, const gln_placement_tokens_t *tokens)
{
    s->edges_count = tokens->count;
    for (int64_t i = 0; i < tokens->count; i++) {
        int64_t first = tokens->offset[i], n = tokens->offset[i + 1] - first;
        s->source[i] = tokens->source[i];
        if (s->any_source) s->source[i] -= s->source[i] % s->group_domains; /* one for the group */
        s->offset[i + 1] = s->offset[i] + n;
        s->weight[i] = 1;
        memcpy(s->expert + s->offset[i], tokens->expert + first, (size_t)n * sizeof *s->expert);
        qsort(s->expert + s->offset[i], (size_t)n, sizeof *s->expert, by_number);
    }
}

/* Equal tokens become one edge. @return 0: no memory */
static int merge_tokens(search_t *s)
{
    int64_t count = s->edges_count, routes = s->offset[count], edges = 0;
    int64_t *order = array(count, sizeof *order), *offset = array(count + 1, sizeof *offset);
    int32_t *source = array(count, sizeof *source), *expert = array(routes, sizeof *expert);
    int done = order && offset && source && expert;
    for (int64_t i = 0; done && i < count; i++)
        order[i] = i;
    if (done) qsort_r(order, (size_t)count, sizeof *order, by_edge, s);
    for (int64_t i = 0; done && i < count; i++) {
        int64_t n = s->offset[order[i] + 1] - s->offset[order[i]];
        if (i > 0 && by_edge(&order[i - 1], &order[i], s) == 0) {
            s->weight[edges - 1]++;
            continue;
        }
        s->weight[edges] = 1;
        source[edges] = s->source[order[i]];
        memcpy(expert + offset[edges], s->expert + s->offset[order[i]], (size_t)n * sizeof *expert);
        offset[edges + 1] = offset[edges] + n;
        edges++;
    }
    free(order);
    if (!done) {
        free(expert);
        free(source);
        free(offset);
        return 0;
    }
    free(s->offset);
    free(s->source);
    free(s->expert);
    s->offset = offset;
    s->source = source;
    s->expert = expert;
    s->edges_count = edges;
    return 1;
}

/* Edges of every expert, loads and their limits. */
static void index_edges(search_t *s)
{
    int experts = s->shape.experts;
    int64_t *next = s->edge_offset;
    for (int64_t i = 0; i < s->edges_count; i++)
        for (int64_t j = s->offset[i]; j < s->offset[i + 1]; j++) {
            int64_t group = s->source[i] / s->group_domains;
            next[s->expert[j] + 1]++;
            s->expert_load[group * experts + s->expert[j]] += s->weight[i];
        }
    for (int e = 0; e < experts; e++)
        next[e + 1] += next[e];
    for (int64_t i = s->edges_count - 1; i >= 0;
         i--) /* from behind: next[e + 1] moves to e's end */
        for (int64_t j = s->offset[i]; j < s->offset[i + 1]; j++)
            s->edge_of[--next[s->expert[j] + 1]] = i;
    /* now next[e + 1] is where e's edges begin */
    memmove(next, next + 1, (size_t)experts * sizeof *next);
    next[experts] = s->offset[s->edges_count];
    for (int g = 0; g < s->shape.groups; g++) {
        double sum = 0;
        for (int e = 0; e < experts; e++)
            sum += (double)s->expert_load[(int64_t)g * experts + e];
        s->limit[g] = (int64_t)(s->shape.imbalance * sum / s->group_domains);
    }
}

static gln_status_t search_open(const gln_placement_shape_t *shape,
                                const gln_placement_tokens_t *tokens, int merge, search_t **out)
{
    gln_placement_shape_t full = *shape;
    if (full.groups == 0) full.groups = 1;
    if (full.imbalance == 0) full.imbalance = 1.1;
    gln_status_t status = check_shape(&full);
    if (status == GLN_OK) status = check_tokens(&full, tokens);
    if (status != GLN_OK) return status;
    search_t *s = calloc(1, sizeof *s);
    int done = s != NULL;
    if (done) {
        s->shape = full;
        s->group_domains = full.domains / full.groups;
        s->per_domain = full.experts / s->group_domains;
        s->node_domains = full.domains / full.nodes;
        s->any_source = merge && full.any_source;
        s->load_cost = LOAD_COST * (s->any_source ? s->group_domains : 1);
        done = search_allocate(s, tokens);
        if (done) copy_tokens(s, tokens);
        if (done && merge) done = merge_tokens(s);
        if (done) index_edges(s);
    }
    if (!done) {
        search_close(s);
        return gln_fail(GLN_ERR_MEMORY, "placement: no memory for %lld tokens",
                        (long long)tokens->count);
    }
    *out = s;
    return GLN_OK;
}

/* ---- cost ---------------------------------------------------------------------------------------
 */

/* Domains of the group that begins at `first` on a node. */
static int domains_on(const search_t *s, int first, int node)
{
    int from = node * s->node_domains, end = from + s->node_domains;
    if (from < first) from = first;
    if (end > first + s->group_domains) end = first + s->group_domains;
    return end - from;
}

/* Rows of one edge, its weight not counted, to one more domain; with any_source summed over the
 * domains of the group as sources. */
static void add_rows(const search_t *s, int source, int first, int domain, int new_node,
                     gln_placement_count_t *out)
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
static void edge_rows(search_t *s, int64_t edge, gln_placement_count_t *out)
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

static int64_t edge_cost(search_t *s, int64_t edge)
{
    gln_placement_count_t rows = {0};
    edge_rows(s, edge, &rows);
    int64_t cost = s->shape.copies == GLN_COPIES_NODE
                       ? FAR_COST * rows.far_node_rows + rows.near_rows + rows.far_domain_rows
                       : FAR_COST * rows.far_domain_rows + rows.near_rows;
    return s->weight[edge] * cost;
}

static int64_t over(const search_t *s, int group, int64_t load)
{
    return load > s->limit[group] ? s->load_cost * (load - s->limit[group]) : 0;
}

/* Cost of load when expert a (of domain p) and b (of domain q) change places, less that of now. */
static int64_t load_change(const search_t *s, int a, int b)
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

static int edge_has(const search_t *s, int64_t edge, int expert)
{
    for (int64_t j = s->offset[edge]; j < s->offset[edge + 1]; j++)
        if (s->expert[j] == expert) return 1;
    return 0;
}

/* Edges of `expert` without `other`: their cost under domain_of less the cost noted. */
static int64_t edges_change(search_t *s, int expert, int other)
{
    int64_t change = 0;
    for (int64_t i = s->edge_offset[expert]; i < s->edge_offset[expert + 1]; i++)
        if (!edge_has(s, s->edge_of[i], other))
            change += edge_cost(s, s->edge_of[i]) - s->cost[s->edge_of[i]];
    return change;
}

static void exchange(search_t *s, int a, int b)
{
    int32_t domain = s->domain_of[a];
    s->domain_of[a] = s->domain_of[b];
    s->domain_of[b] = domain;
}

static int64_t swap_change(search_t *s, int a, int b)
{
    int64_t change = load_change(s, a, b);
    exchange(s, a, b);
    change += edges_change(s, a, b) + edges_change(s, b, a);
    exchange(s, a, b);
    return change;
}

/* Everything that follows from domain_of, anew. */
static void evaluate(search_t *s)
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

static void swap(search_t *s, int a, int b)
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

static void improve(search_t *s)
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
static int64_t total_load(const search_t *s, int expert)
{
    int64_t sum = 0;
    for (int g = 0; g < s->shape.groups; g++)
        sum += s->expert_load[(int64_t)g * s->shape.experts + expert];
    return sum;
}

/* Cost of the edges of `expert`, and of the loads, with it on `domain`; the domain's old load is
 * not counted. */
static int64_t greedy_cost(search_t *s, int expert, int domain)
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
static void greedy_place(search_t *s, int32_t *room)
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

static void greedy(search_t *s)
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
static void disturb(search_t *s)
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
    search_t *s = NULL;
    gln_status_t status = search_open(shape, tokens, 1, &s);
    if (status == GLN_OK && from) status = check_placement(s, from);
    if (status != GLN_OK) {
        search_close(s);
        return status;
    }
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
    search_close(s);
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
    int32_t d = domain_of[*(const int32_t *)a], e = domain_of[*(const int32_t *)b];
    return d != e ? (d > e) - (d < e) : by_number(a, b);
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
    search_t *s = NULL;
    gln_placement_count_t count = {0};
    gln_status_t status = search_open(shape, tokens, 0, &s);
    if (status != GLN_OK) return status;
    status = check_placement(s, domain_of);
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
    search_close(s);
    return status;
}
