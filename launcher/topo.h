/* What `gleaner topo` shows: the machines of a job, found or planned, with the ranks on them. */
#ifndef GLN_LAUNCHER_TOPO_H
#define GLN_LAUNCHER_TOPO_H

#include "cluster/devices.h"
#include "cluster/hierarchy.h"
#include "launcher/arguments.h"
#include "launcher/session.h"
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { GLN_TOPO_CORES_MAX = 2048, GLN_TOPO_HOST_MAX = 64 };

/* One rank. Plain data: travels between ranks as it is. */
typedef struct gln_topo_rank {
    gln_place_t place;                       /* its node's number is the job's */
    uint64_t cores[GLN_TOPO_CORES_MAX / 64]; /* cores it may run on, by bits */
    uint64_t shape;                          /* equal where machines are made alike */
    int cores_count;
    int bound;         /* 1: kept to some of its machine's cores */
    int device, nic;   /* numbers of its node's devices; -1: none */
    int machine_ranks; /* ranks whose nodes are one machine with this one's */
    char host[GLN_TOPO_HOST_MAX];
} gln_topo_rank_t;

typedef struct gln_topo {
    char source[256]; /* "this machine", "machine.xml" */
    char plan[192];   /* how ranks came to their cores; "" where they were found there */
    int ranks_count, nodes_count;
    gln_topo_rank_t *ranks;       /* [P] */
    const gln_topology_t **nodes; /* [nodes] borrowed from `opened`; alike nodes share one */
    gln_topology_t **opened;      /* [opened_count] */
    int opened_count;
    gln_hierarchy_t *hierarchy;
    int64_t domains, replicas, experts; /* of the run file; domains 0: none given */
} gln_topo_t;

void gln_topo_close(gln_topo_t *topo); /* what it holds; takes a zeroed one */

/** Look at the job's machines. @param devices  ranks have a GPU each where there are any
 *  @param out  zeroed; complete on rank 0, holds no nodes on others
 *  COLLECTIVE over the session. @return GLN_OK or why not, of this rank. */
gln_status_t gln_topo_look(gln_session_t *session, bool devices, gln_topo_t *out);

/** Plan ranks on one machine. @param topology  owned by *out from here on, also on error */
gln_status_t gln_topo_plan(gln_topology_t *topology, int ranks, bool devices, gln_topo_t *out);

/** A rank has a core of its node. */
bool gln_topo_has_core(const gln_topo_rank_t *rank, int core);
/** The rank of `node` that has the core; -1: none; -2: several. */
int gln_topo_rank_on(const gln_topo_t *topo, int node, int core);
/** "cores 0-7", "no core". */
void gln_topo_cores_text(const gln_topo_rank_t *rank, char *out, size_t size);
/** "domains 0-1, experts 0-7", "" without a run file. */
void gln_topo_share_text(const gln_topo_t *topo, int rank, char *out, size_t size);
/** First domain and expert of a rank and how many; several replica groups: experts_count is all.
 */
typedef struct gln_topo_share {
    int64_t domain, domains_count, expert, experts_count;
} gln_topo_share_t;
gln_topo_share_t gln_topo_share(const gln_topo_t *topo, int rank);

/** The picture for the terminal; the same as JSON objects, one a line; the same as SVG. */
gln_status_t gln_topo_print_text(const gln_topo_t *topo, FILE *out);
gln_status_t gln_topo_print_json(const gln_topo_t *topo, FILE *out);
gln_status_t gln_topo_write_svg(const gln_topo_t *topo, const char *path);

#ifdef __cplusplus
}
#endif
#endif
