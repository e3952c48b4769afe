/* Which ranks share a node. Built from one number per rank that is equal for ranks of one node; how
 * the numbers come about (a communicator split, a host list, a planned cluster) is the caller's.
 * Immutable after open, so thread-safe. */
#ifndef GLN_CLUSTER_RANK_MAP_H
#define GLN_CLUSTER_RANK_MAP_H

#include "base/status.h"
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_rank_map gln_rank_map_t;

/** @param node_ids     [P], any numbers; copied
 *  @param ranks_count  P >= 1
 *  @param out          owned by the caller until close; set on success only
 *  @return GLN_OK; GLN_ERR_ARGUMENT; GLN_ERR_MEMORY. */
gln_status_t gln_rank_map_open(const int *node_ids, int ranks_count, gln_rank_map_t **out);

void gln_rank_map_close(gln_rank_map_t *map); /* takes NULL */

int gln_rank_map_ranks(const gln_rank_map_t *map);
int gln_rank_map_nodes(const gln_rank_map_t *map);

/** Node of a rank, in [0, nodes): nodes are numbered by their lowest rank. */
int gln_rank_map_node(const gln_rank_map_t *map, int rank);

/** Place of a rank among the ranks of its node, in ascending order of rank; the lowest is 0. */
int gln_rank_map_local_rank(const gln_rank_map_t *map, int rank);

/** Ranks on a node, at least 1. */
int gln_rank_map_ranks_on_node(const gln_rank_map_t *map, int node);

bool gln_rank_map_same_node(const gln_rank_map_t *map, int a, int b);

#ifdef __cplusplus
}
#endif
#endif
