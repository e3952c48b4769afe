/* The share of a rank: its allowed cores over the ranks of its node whose allowed hardware threads
 * meet its own. Bound ranks do not meet, so each takes all it was given; unbound ranks split the
 * node. */
#include "launcher/machine.h"

#include "base/log.h"
#include "cluster/topology.h"
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static bool meet(const cpu_set_t *a, const cpu_set_t *b)
{
    cpu_set_t both;
    CPU_AND(&both, a, b);
    return CPU_COUNT(&both) > 0;
}

static gln_status_t count_sharing(gln_comm_t *comm, int *sharing)
{
    int ranks = gln_comm_size(comm), rank = gln_comm_rank(comm);
    cpu_set_t mine;
    cpu_set_t *all = calloc((size_t)ranks, sizeof *all);
    if (!all) return gln_fail(GLN_ERR_MEMORY, "binding: out of memory for %d ranks", ranks);
    CPU_ZERO(&mine);
    if (sched_getaffinity(0, sizeof mine, &mine) != 0) /* more CPUs than a cpu_set_t has */
        memset(&mine, 0xff, sizeof mine);
    gln_status_t status = gln_comm_allgather(comm, &mine, sizeof mine, all);
    if (status == GLN_OK) {
        *sharing = 0;
        int node = gln_comm_node_of(comm, rank);
        for (int r = 0; r < ranks; r++)
            *sharing += gln_comm_node_of(comm, r) == node && meet(&mine, &all[r]);
    }
    free(all);
    return status;
}

gln_status_t gln_machine_look(gln_comm_t *comm, int threads_asked, gln_machine_t *out)
{
    gln_topology_t *topology = NULL;
    gln_machine_t machine = {.ranks = gln_comm_size(comm), .nodes = gln_comm_nodes_count(comm)};
    gln_status_t looked = gln_topology_open(&topology);
    gln_status_t status = count_sharing(comm, &machine.sharing);
    if (looked == GLN_OK) {
        gln_topology_summary(topology, machine.summary, sizeof machine.summary);
        gln_topology_binding(topology, machine.binding, sizeof machine.binding);
        machine.cores_allowed = gln_topology_allowed_cores(topology);
        gln_topology_close(topology);
    }
    if (looked != GLN_OK) return looked;
    if (status != GLN_OK) return status;
    gln_cpu_features(machine.features, sizeof machine.features);
    int share = machine.cores_allowed / machine.sharing;
    machine.threads = threads_asked > 0 ? threads_asked : share > 1 ? share : 1;
    *out = machine;
    return GLN_OK;
}
