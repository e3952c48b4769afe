/* Parts are found by sorting ranks by (key, rank): a run of equal keys is one part, whose first
 * rank is its lowest; a pass in rank order then numbers parts by that rank. O(P log P), once. Ranks
 * of a node stand one after another in a table of P. */
#include "cluster/hierarchy.h"

#include "base/log.h"
#include <stdlib.h>
#include <string.h>

struct gln_hierarchy {
    int ranks_count, nodes_count, numa_count, groups_count;
    gln_place_t *places;                      /* [P] */
    int *node, *numa, *group, *local, *order; /* [P]; order: ranks by node */
    int *node_first;                          /* [nodes + 1], room for P + 1: into order */
    int *group_nodes;                         /* [groups], room for P */
};

typedef struct keyed {
    int high, low, rank;
} keyed_t;

static int compare(const void *a, const void *b)
{
    const keyed_t *x = a, *y = b;
    if (x->high != y->high) return x->high < y->high ? -1 : 1;
    if (x->low != y->low) return x->low < y->low ? -1 : 1;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

/* Number the parts that equal keys (high, low) make, by their lowest rank. Overwrites keys.
 * @return their count; part [count] by the rank in keys */
static int number_parts(keyed_t *keys, int count, int *part, int *lowest)
{
    int parts = 0;
    qsort(keys, (size_t)count, sizeof *keys, compare);
    for (int i = 0; i < count; i++) {
        bool is_first =
            i == 0 || keys[i].high != keys[i - 1].high || keys[i].low != keys[i - 1].low;
        lowest[keys[i].rank] = is_first ? keys[i].rank : lowest[keys[i - 1].rank];
    }
    for (int i = 0; i < count; i++)
        keys[i].high = keys[i].low = 0;
    qsort(keys, (size_t)count, sizeof *keys, compare); /* by rank */
    for (int i = 0; i < count; i++) {
        int rank = keys[i].rank;
        part[rank] = lowest[rank] == rank ? parts++ : part[lowest[rank]];
    }
    return parts;
}

static void number_all(gln_hierarchy_t *h, keyed_t *keys, int *lowest)
{
    int ranks = h->ranks_count, kept = 0;
    for (int r = 0; r < ranks; r++)
        keys[r] = (keyed_t){h->places[r].node, 0, r};
    h->nodes_count = number_parts(keys, ranks, h->node, lowest);
    for (int r = 0; r < ranks; r++)
        keys[r] = (keyed_t){h->places[r].group, 0, r};
    h->groups_count = number_parts(keys, ranks, h->group, lowest);
    for (int r = 0; r < ranks; r++) {
        h->numa[r] = -1;
        if (h->places[r].numa_node >= 0)
            keys[kept++] = (keyed_t){h->places[r].node, h->places[r].numa_node, r};
    }
    h->numa_count = number_parts(keys, kept, h->numa, lowest);
}

/* Ranks by node: count, sum up, fill. @param filled  [nodes] zeros */
static gln_status_t list_nodes(gln_hierarchy_t *h, int *filled)
{
    for (int r = 0; r < h->ranks_count; r++)
        h->node_first[h->node[r] + 1]++;
    for (int node = 0; node < h->nodes_count; node++)
        h->node_first[node + 1] += h->node_first[node];
    for (int r = 0; r < h->ranks_count; r++) {
        int node = h->node[r], first = h->node_first[node];
        h->local[r] = filled[node]++;
        h->order[first + h->local[r]] = r;
        int leader = h->order[first];
        if (h->group[r] != h->group[leader])
            return gln_fail(GLN_ERR_ARGUMENT,
                            "hierarchy: expected one switch group a node, found %d at rank %d and "
                            "%d at rank %d of node %d",
                            h->places[leader].group, leader, h->places[r].group, r,
                            h->places[r].node);
        if (leader == r) h->group_nodes[h->group[r]]++;
    }
    return GLN_OK;
}

gln_status_t gln_hierarchy_open(const gln_place_t *places, int ranks_count, gln_hierarchy_t **out)
{
    if (!places || !out)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "hierarchy: expected a place a rank and somewhere to put it, found NULL");
    if (ranks_count < 1)
        return gln_fail(GLN_ERR_ARGUMENT, "hierarchy: expected at least 1 rank, found %d",
                        ranks_count);
    size_t ranks = (size_t)ranks_count;
    gln_hierarchy_t *h =
        calloc(1, sizeof *h + ranks * sizeof *places + (7 * ranks + 1) * sizeof(int));
    keyed_t *keys = calloc(ranks, sizeof *keys + sizeof(int));
    gln_status_t status = GLN_ERR_MEMORY;
    if (!h || !keys) {
        gln_fail(status, "hierarchy: out of memory for %d ranks", ranks_count);
        goto fail;
    }
    h->ranks_count = ranks_count;
    h->places = (gln_place_t *)(h + 1);
    memcpy(h->places, places, ranks * sizeof *places);
    h->node = (int *)(h->places + ranks);
    h->numa = h->node + ranks;
    h->group = h->numa + ranks;
    h->local = h->group + ranks;
    h->order = h->local + ranks;
    h->group_nodes = h->order + ranks;
    h->node_first = h->group_nodes + ranks;
    int *scratch = (int *)(keys + ranks); /* [P] */
    number_all(h, keys, scratch);
    memset(scratch, 0, ranks * sizeof *scratch);
    status = list_nodes(h, scratch);
    if (status != GLN_OK) goto fail;
    free(keys);
    *out = h;
    return GLN_OK;
fail:
    free(keys);
    free(h);
    return status;
}

void gln_hierarchy_close(gln_hierarchy_t *hierarchy)
{
    free(hierarchy);
}

const char *gln_link_name(gln_link_t link)
{
    static const char *const names[GLN_LINKS] = {"rank", "NUMA node", "node", "switch group",
                                                 "beyond"};
    return link >= 0 && link < GLN_LINKS ? names[link] : "unknown";
}

int gln_hierarchy_ranks(const gln_hierarchy_t *h)
{
    return h->ranks_count;
}

int gln_hierarchy_nodes(const gln_hierarchy_t *h)
{
    return h->nodes_count;
}

int gln_hierarchy_numa_nodes(const gln_hierarchy_t *h)
{
    return h->numa_count;
}

int gln_hierarchy_groups(const gln_hierarchy_t *h)
{
    return h->groups_count;
}

static int checked(const gln_hierarchy_t *h, int rank)
{
    GLN_ASSERT(rank >= 0 && rank < h->ranks_count);
    return rank;
}

int gln_hierarchy_node(const gln_hierarchy_t *h, int rank)
{
    return h->node[checked(h, rank)];
}

int gln_hierarchy_numa_node(const gln_hierarchy_t *h, int rank)
{
    return h->numa[checked(h, rank)];
}

int gln_hierarchy_group(const gln_hierarchy_t *h, int rank)
{
    return h->group[checked(h, rank)];
}

int gln_hierarchy_node_group(const gln_hierarchy_t *h, int node)
{
    return h->group[gln_hierarchy_rank_on_node(h, node, 0)];
}

gln_place_t gln_hierarchy_place(const gln_hierarchy_t *h, int rank)
{
    return h->places[checked(h, rank)];
}

int gln_hierarchy_ranks_on_node(const gln_hierarchy_t *h, int node)
{
    GLN_ASSERT(node >= 0 && node < h->nodes_count);
    return h->node_first[node + 1] - h->node_first[node];
}

int gln_hierarchy_rank_on_node(const gln_hierarchy_t *h, int node, int i)
{
    GLN_ASSERT(i >= 0 && i < gln_hierarchy_ranks_on_node(h, node));
    return h->order[h->node_first[node] + i];
}

int gln_hierarchy_local_rank(const gln_hierarchy_t *h, int rank)
{
    return h->local[checked(h, rank)];
}

int gln_hierarchy_nodes_in_group(const gln_hierarchy_t *h, int group)
{
    GLN_ASSERT(group >= 0 && group < h->groups_count);
    return h->group_nodes[group];
}

gln_link_t gln_hierarchy_link(const gln_hierarchy_t *h, int a, int b)
{
    checked(h, a);
    checked(h, b);
    if (a == b) return GLN_LINK_RANK;
    if (h->numa[a] >= 0 && h->numa[a] == h->numa[b]) return GLN_LINK_NUMA;
    if (h->node[a] == h->node[b]) return GLN_LINK_NODE;
    return h->group[a] == h->group[b] ? GLN_LINK_GROUP : GLN_LINK_BEYOND;
}

bool gln_hierarchy_same_node(const gln_hierarchy_t *h, int a, int b)
{
    return gln_hierarchy_node(h, a) == gln_hierarchy_node(h, b);
}
