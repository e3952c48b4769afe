/* Where the ranks of a job live: NUMA node, node, switch group; and which of these two ranks share.
 * Everything that chooses a path or counts what a path costs asks here. Built from one record a
 * rank; how the records come about (gathered over a communicator, or planned) is the caller's.
 * Immutable after open, so thread-safe.
 *
 *     gln_hierarchy_t *h = NULL;
 *     gln_hierarchy_open(places, ranks, &h);
 *     if (gln_hierarchy_link(h, me, peer) <= GLN_LINK_NODE) ...they share memory
 *     gln_hierarchy_close(h);
 */
#ifndef GLN_CLUSTER_HIERARCHY_H
#define GLN_CLUSTER_HIERARCHY_H

#include "base/status.h"
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where one rank lives. Any numbers: equal ones mean the same part. */
typedef struct gln_place {
    int node;
    int numa_node; /* within the node; -1: not kept to one NUMA node */
    int package;   /* within the node; -1: not kept to one package */
    int group;     /* switch group of the node; all ranks of a node must agree. All 0: one group */
} gln_place_t;

/* What the way between two ranks stays inside of, the nearest first. */
typedef enum gln_link {
    GLN_LINK_RANK, /* a rank and itself */
    GLN_LINK_NUMA,
    GLN_LINK_NODE,
    GLN_LINK_GROUP,
    GLN_LINK_BEYOND, /* from one switch group to another */
    GLN_LINKS
} gln_link_t;

/** "rank", "NUMA node", "node", "switch group", "beyond". Static storage. */
const char *gln_link_name(gln_link_t link);

typedef struct gln_hierarchy gln_hierarchy_t;

/** @param places       [P]; copied
 *  @param ranks_count  P >= 1
 *  @param out          owned by the caller until close; set on success only
 *  @return GLN_OK; GLN_ERR_ARGUMENT, also where ranks of one node name different groups;
 *          GLN_ERR_MEMORY. O(P log P) time, O(P) memory. */
gln_status_t gln_hierarchy_open(const gln_place_t *places, int ranks_count, gln_hierarchy_t **out);

void gln_hierarchy_close(gln_hierarchy_t *hierarchy); /* takes NULL */

int gln_hierarchy_ranks(const gln_hierarchy_t *hierarchy);
int gln_hierarchy_nodes(const gln_hierarchy_t *hierarchy);
int gln_hierarchy_numa_nodes(const gln_hierarchy_t *hierarchy); /* that ranks are kept to */
int gln_hierarchy_groups(const gln_hierarchy_t *hierarchy);

/** Parts of a rank, numbered from 0 over the whole job by their lowest rank. NUMA node -1: the rank
 * is not kept to one. */
int gln_hierarchy_node(const gln_hierarchy_t *hierarchy, int rank);
int gln_hierarchy_numa_node(const gln_hierarchy_t *hierarchy, int rank);
int gln_hierarchy_group(const gln_hierarchy_t *hierarchy, int rank);
/** Switch group of a node. */
int gln_hierarchy_node_group(const gln_hierarchy_t *hierarchy, int node);

/** The record a rank came with. */
gln_place_t gln_hierarchy_place(const gln_hierarchy_t *hierarchy, int rank);

/** Ranks of a node in ascending order: how many, at least 1; the i-th; and a rank's place among
 * those of its node. */
int gln_hierarchy_ranks_on_node(const gln_hierarchy_t *hierarchy, int node);
int gln_hierarchy_rank_on_node(const gln_hierarchy_t *hierarchy, int node, int i);
int gln_hierarchy_local_rank(const gln_hierarchy_t *hierarchy, int rank);

/** Nodes of a switch group, at least 1. */
int gln_hierarchy_nodes_in_group(const gln_hierarchy_t *hierarchy, int group);

/** The level of the link between two ranks. O(1). */
gln_link_t gln_hierarchy_link(const gln_hierarchy_t *hierarchy, int a, int b);

/** True where both share memory: the same node. */
bool gln_hierarchy_same_node(const gln_hierarchy_t *hierarchy, int a, int b);

#ifdef __cplusplus
}
#endif
#endif
