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
#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A machine. */
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

/** A machine out of the XML file that hwloc wrote on it (`lstopo machine.xml`, `lstopo --of xml`),
 * devices included. As with a description, nothing on it is ever bound.
 *  @return as gln_topology_open; GLN_ERR_DATA when the file cannot be read or is not hwloc's. */
gln_status_t gln_topology_open_xml(const char *path, gln_topology_t **out);

/** Likewise from text in memory, as gln_topology_write_xml makes it. @param text NUL-terminated */
gln_status_t gln_topology_open_xml_text(const char *text, gln_topology_t **out);

/** The machine as XML text. @param out  caller frees with free(); set on success only
 *  @return GLN_OK; GLN_ERR_MEMORY; GLN_ERR_BACKEND. */
gln_status_t gln_topology_write_xml(const gln_topology_t *topology, char **out);

void gln_topology_close(gln_topology_t *topology); /* takes NULL */

/** Counts of parts; each at least 1. */
int gln_topology_packages(const gln_topology_t *topology);
int gln_topology_numa_nodes(const gln_topology_t *topology); /* at least 1 */
int gln_topology_cores(const gln_topology_t *topology);      /* at least 1 */
int gln_topology_pus(const gln_topology_t *topology);        /* hardware threads */

/** Level-3 caches; 0 where the machine does not tell of them. */
int gln_topology_l3s(const gln_topology_t *topology);

/** Where a core is: number of its package, of its nearest NUMA node, of its L3 cache (-1: it has
 * none). Cores and all parts are numbered in hwloc's logical order: cores of one part have
 * consecutive numbers. */
int gln_topology_core_package(const gln_topology_t *topology, int core);
/** Its nearest NUMA node. */
int gln_topology_core_numa(const gln_topology_t *topology, int core);
/** Its L3 cache; -1: none. */
int gln_topology_core_l3(const gln_topology_t *topology, int core);
/** Package of a NUMA node; -1 where it belongs to none or to several. */
int gln_topology_numa_package(const gln_topology_t *topology, int numa_node);

/** The smallest part of the machine that holds both. */
typedef enum gln_distance {
    GLN_DISTANCE_SAME,    /* one core, one device */
    GLN_DISTANCE_CLOSE,   /* one L3 cache; for devices, one PCI switch */
    GLN_DISTANCE_NUMA,    /* one NUMA node */
    GLN_DISTANCE_PACKAGE, /* one package */
    GLN_DISTANCE_MACHINE, /* nothing smaller */
    GLN_DISTANCES         /* number of the above */
} gln_distance_t;
/** Between two cores. */
gln_distance_t gln_topology_core_distance(const gln_topology_t *topology, int a, int b);

/** Relative latency between two NUMA nodes as the firmware states it, 10 within one as a rule; 0
 * where nothing is stated. */
int gln_topology_numa_latency(const gln_topology_t *topology, int a, int b);

/** Name of a machine as its operating system or its XML file says, "" if neither does; and of the
 * CPU in a package ("AMD EPYC 9354"). Valid until close. */
const char *gln_topology_host(const gln_topology_t *topology);
/** Model of the CPU in a package. Valid until close. */
const char *gln_topology_cpu(const gln_topology_t *topology, int package);

/** True where the calling thread and the threads that it starts may run on this core. */
bool gln_topology_core_allowed(const gln_topology_t *topology, int core);

/** True where the calling thread is confined to some of the machine's cores. */
bool gln_topology_is_bound(const gln_topology_t *topology);

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
