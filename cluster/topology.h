/* What a machine is made of (packages, NUMA nodes, cores, hardware threads), what its CPUs can do
 * and where this process may run. Read once; thread-safe after that.
 *
 *     gln_topology_t *topology = NULL;
 *     gln_status_t status = gln_topology_open(&topology);
 *     ...
 *     gln_topology_summary(topology, line, sizeof line);
 *     gln_topology_close(topology);
 */
#ifndef GLN_CLUSTER_TOPOLOGY_H
#define GLN_CLUSTER_TOPOLOGY_H

#include "base/status.h"
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_topology gln_topology_t;

/** Look at this machine. Cores that the operating system forbids to this job (cgroups) are left
 * out.
 *  @param out  owned by the caller until close; set on success only
 *  @return GLN_OK; GLN_ERR_ARGUMENT; GLN_ERR_MEMORY; GLN_ERR_BACKEND when hwloc cannot look. */
gln_status_t gln_topology_open(gln_topology_t **out);

/** A machine out of a description, for tests and plans, such as "package:2 numa:1 core:4 pu:2"
 * (from the outside in, each number per part of the level outside it; hwloc(7), synthetic
 * topologies). No process runs on it: nothing on it is ever bound.
 *  @return as gln_topology_open; GLN_ERR_CONFIG when the description cannot be understood. */
gln_status_t gln_topology_open_synthetic(const char *description, gln_topology_t **out);

void gln_topology_close(gln_topology_t *topology); /* takes NULL */

/** Counts of parts; each at least 1. */
int gln_topology_packages(const gln_topology_t *topology);
int gln_topology_numa_nodes(const gln_topology_t *topology);
int gln_topology_cores(const gln_topology_t *topology);
int gln_topology_pus(const gln_topology_t *topology); /* hardware threads */

/** Cores on which the calling thread and the threads that it starts may run now, 1 to
 *  gln_topology_cores: how many threads a process can use that asks before it starts them. A core
 * counts when one of its hardware threads is allowed. Asks the system at each call. */
int gln_topology_allowed_cores(const gln_topology_t *topology);

/** One line: "1 package, 1 NUMA node, 2 cores, 2 PUs, AVX-512 bf16"; a synthetic machine has no
 *  features. Cut to `size` bytes, terminator included; size >= 1. */
void gln_topology_summary(const gln_topology_t *topology, char *out, size_t size);

/** Where the calling thread and the threads that it starts may run now, in logical core numbers:
 * "core 1", "cores 0-2,7", or "cores 0-7 (not bound)". Cut to `size` bytes, terminator included;
 * size >= 1. */
void gln_topology_binding(const gln_topology_t *topology, char *out, size_t size);

/** What the CPU under this thread can do, its widest arithmetic first: "AVX-512 bf16, AMX bf16",
 *  "AVX2", "NEON". Cut to `size` bytes, terminator included; size >= 1. */
void gln_cpu_features(char *out, size_t size);

#ifdef __cplusplus
}
#endif
#endif
