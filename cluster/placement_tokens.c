/* The tokens of a placement as a hypergraph: every token is an edge over its experts; tokens of one
 * domain with the same experts are merged into one with a weight. Time O(routes log routes), memory
 * O(routes). */
#include "cluster/placement_internal.h"

#include "base/log.h"
#include <stdlib.h>
#include <string.h>

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

gln_status_t gln_placement_check(const gln_placement_search_t *s, const int32_t *domain_of)
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
    const gln_placement_search_t *s = ctx;
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

void gln_placement_search_close(gln_placement_search_t *s)
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

static int search_allocate(gln_placement_search_t *s, const gln_placement_tokens_t *tokens)
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
static void copy_tokens(gln_placement_search_t *s, const gln_placement_tokens_t *tokens)
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
static int merge_tokens(gln_placement_search_t *s)
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
static void index_edges(gln_placement_search_t *s)
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

gln_status_t gln_placement_search_open(const gln_placement_shape_t *shape,
                                       const gln_placement_tokens_t *tokens, int merge,
                                       gln_placement_search_t **out)
{
    gln_placement_shape_t full = *shape;
    if (full.groups == 0) full.groups = 1;
    if (full.imbalance == 0) full.imbalance = 1.1;
    gln_status_t status = check_shape(&full);
    if (status == GLN_OK) status = check_tokens(&full, tokens);
    if (status != GLN_OK) return status;
    gln_placement_search_t *s = calloc(1, sizeof *s);
    int done = s != NULL;
    if (done) {
        s->shape = full;
        s->group_domains = full.domains / full.groups;
        s->per_domain = full.experts / s->group_domains;
        s->node_domains = full.domains / full.nodes;
        s->any_source = merge && full.any_source;
        done = search_allocate(s, tokens);
        if (done) copy_tokens(s, tokens);
        if (done && merge) done = merge_tokens(s);
        if (done) index_edges(s);
    }
    if (!done) {
        gln_placement_search_close(s);
        return gln_fail(GLN_ERR_MEMORY, "placement: no memory for %lld tokens",
                        (long long)tokens->count);
    }
    *out = s;
    return GLN_OK;
}
