/* Where cores are and how near to each other. A core's NUMA node is the lowest of its node set, its
 * package and its L3 cache are its ancestors: O(depth) a question. NUMA latency is copied out of
 * hwloc's matrix once. */
#include "cluster/topology_internal.h"

#include "base/log.h"
#include <stdlib.h>

static int ancestor(const gln_topology_t *topology, int core, hwloc_obj_type_t type)
{
    hwloc_obj_t object = hwloc_get_ancestor_obj_by_type(topology->hwloc, type,
                                                        gln_topology_core_object(topology, core));
    return object ? (int)object->logical_index : -1;
}

int gln_topology_core_package(const gln_topology_t *topology, int core)
{
    int package = ancestor(topology, core, HWLOC_OBJ_PACKAGE);
    return package < 0 ? 0 : package;
}

int gln_topology_core_l3(const gln_topology_t *topology, int core)
{
    return ancestor(topology, core, HWLOC_OBJ_L3CACHE);
}

int gln_topology_core_numa(const gln_topology_t *topology, int core)
{
    hwloc_obj_t object = gln_topology_core_object(topology, core), node = NULL;
    while ((node = hwloc_get_next_obj_by_type(topology->hwloc, HWLOC_OBJ_NUMANODE, node)))
        if (hwloc_bitmap_isset(object->nodeset, node->os_index)) return (int)node->logical_index;
    return 0;
}

int gln_topology_numa_package(const gln_topology_t *topology, int numa_node)
{
    hwloc_obj_t node =
        hwloc_get_obj_by_type(topology->hwloc, HWLOC_OBJ_NUMANODE, (unsigned)numa_node);
    if (gln_topology_packages(topology) == 1) return 0;
    if (!node) return -1;
    hwloc_obj_t package = hwloc_get_ancestor_obj_by_type(topology->hwloc, HWLOC_OBJ_PACKAGE, node);
    return package ? (int)package->logical_index : -1;
}

int gln_topology_l3s(const gln_topology_t *topology)
{
    int count = hwloc_get_nbobjs_by_type(topology->hwloc, HWLOC_OBJ_L3CACHE);
    return count > 0 ? count : 0;
}

gln_distance_t gln_topology_core_distance(const gln_topology_t *topology, int a, int b)
{
    int l3 = gln_topology_core_l3(topology, a);
    if (a == b) return GLN_DISTANCE_SAME;
    if (l3 >= 0 && l3 == gln_topology_core_l3(topology, b)) return GLN_DISTANCE_CLOSE;
    if (gln_topology_core_numa(topology, a) == gln_topology_core_numa(topology, b))
        return GLN_DISTANCE_NUMA;
    if (gln_topology_core_package(topology, a) == gln_topology_core_package(topology, b))
        return GLN_DISTANCE_PACKAGE;
    return GLN_DISTANCE_MACHINE;
}

static bool is_matrix_of_nodes(const struct hwloc_distances_s *matrix, int nodes)
{
    if ((int)matrix->nbobjs != nodes) return false;
    for (int i = 0; i < nodes; i++)
        if (!matrix->objs[i] || matrix->objs[i]->type != HWLOC_OBJ_NUMANODE) return false;
    return true;
}

gln_status_t gln_topology_find_latency(gln_topology_t *topology)
{
    struct hwloc_distances_s *matrix = NULL;
    unsigned count = 1;
    int nodes = gln_topology_numa_nodes(topology);
    if (hwloc_distances_get_by_name(topology->hwloc, "NUMALatency", &count, &matrix, 0) < 0 ||
        count == 0)
        return GLN_OK;
    if (!is_matrix_of_nodes(matrix, nodes)) {
        hwloc_distances_release(topology->hwloc, matrix);
        return GLN_OK;
    }
    topology->latency = calloc((size_t)nodes * (size_t)nodes, sizeof *topology->latency);
    for (int i = 0; topology->latency && i < nodes; i++)
        for (int j = 0; j < nodes; j++)
            topology->latency[(int)matrix->objs[i]->logical_index * nodes +
                              (int)matrix->objs[j]->logical_index] =
                (int)matrix->values[i * nodes + j];
    hwloc_distances_release(topology->hwloc, matrix);
    return topology->latency
               ? GLN_OK
               : gln_fail(GLN_ERR_MEMORY, "topology: out of memory for %d NUMA nodes", nodes);
}

int gln_topology_numa_latency(const gln_topology_t *topology, int a, int b)
{
    int nodes = gln_topology_numa_nodes(topology);
    GLN_ASSERT(a >= 0 && a < nodes && b >= 0 && b < nodes);
    return topology->latency ? topology->latency[a * nodes + b] : 0;
}

const char *gln_topology_host(const gln_topology_t *topology)
{
    const char *name = hwloc_obj_get_info_by_name(hwloc_get_root_obj(topology->hwloc), "HostName");
    return name ? name : "";
}

const char *gln_topology_cpu(const gln_topology_t *topology, int package)
{
    hwloc_obj_t object =
        hwloc_get_obj_by_type(topology->hwloc, HWLOC_OBJ_PACKAGE, (unsigned)package);
    const char *name = object ? hwloc_obj_get_info_by_name(object, "CPUModel") : NULL;
    return name ? name : "";
}
