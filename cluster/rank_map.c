/* Nodes are numbered in the order in which the ranks name them. O(P x nodes), once. */
#include "cluster/rank_map.h"

#include "base/log.h"
#include <stdlib.h>

struct gln_rank_map {
    int ranks_count, nodes_count;
    int *node;          /* [P] */
    int *local_rank;    /* [P] */
    int *ranks_on_node; /* [nodes], room for P */
    int storage[];
};

gln_status_t gln_rank_map_open(const int *node_ids, int ranks_count, gln_rank_map_t **out)
{
    if (!node_ids || !out)
        return gln_fail(GLN_ERR_ARGUMENT, "rank map: expected node ids and a place, found NULL");
    if (ranks_count < 1)
        return gln_fail(GLN_ERR_ARGUMENT, "rank map: expected at least 1 rank, found %d",
                        ranks_count);
    size_t ranks = (size_t)ranks_count;
    gln_rank_map_t *map = calloc(1, sizeof *map + 4 * ranks * sizeof(int));
    if (!map) return gln_fail(GLN_ERR_MEMORY, "rank map: out of memory for %d ranks", ranks_count);
    map->ranks_count = ranks_count;
    map->node = map->storage;
    map->local_rank = map->storage + ranks;
    map->ranks_on_node = map->storage + 2 * ranks;
    int *id_of_node = map->storage + 3 * ranks; /* [nodes] */
    for (int rank = 0; rank < ranks_count; rank++) {
        int node = 0;
        while (node < map->nodes_count && id_of_node[node] != node_ids[rank])
            node++;
        if (node == map->nodes_count) id_of_node[map->nodes_count++] = node_ids[rank];
        map->node[rank] = node;
        map->local_rank[rank] = map->ranks_on_node[node]++;
    }
    *out = map;
    return GLN_OK;
}

void gln_rank_map_close(gln_rank_map_t *map)
{
    free(map);
}

int gln_rank_map_ranks(const gln_rank_map_t *map)
{
    return map->ranks_count;
}

int gln_rank_map_nodes(const gln_rank_map_t *map)
{
    return map->nodes_count;
}

int gln_rank_map_node(const gln_rank_map_t *map, int rank)
{
    GLN_ASSERT(rank >= 0 && rank < map->ranks_count);
    return map->node[rank];
}

int gln_rank_map_local_rank(const gln_rank_map_t *map, int rank)
{
    GLN_ASSERT(rank >= 0 && rank < map->ranks_count);
    return map->local_rank[rank];
}

int gln_rank_map_ranks_on_node(const gln_rank_map_t *map, int node)
{
    GLN_ASSERT(node >= 0 && node < map->nodes_count);
    return map->ranks_on_node[node];
}

bool gln_rank_map_same_node(const gln_rank_map_t *map, int a, int b)
{
    return gln_rank_map_node(map, a) == gln_rank_map_node(map, b);
}
