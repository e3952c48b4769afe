/* What the files of cluster/ that speak to hwloc share. */
#ifndef GLN_CLUSTER_TOPOLOGY_INTERNAL_H
#define GLN_CLUSTER_TOPOLOGY_INTERNAL_H

#include "cluster/devices.h"
#include "cluster/topology.h"
#include <hwloc.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_found_device {
    gln_io_device_t device;
    hwloc_obj_t object; /* PCI function, or OS device where there is none */
    long order;         /* among devices of its kind */
} gln_found_device_t;

struct gln_topology {
    hwloc_topology_t hwloc;
    bool is_live;
    gln_found_device_t *devices; /* GPUs, then NICs */
    int devices_count, gpus_count;
    unsigned long *links_mbps; /* [devices, devices]; 0: none known */
    int *latency;              /* [numa, numa]; NULL: not told */
};

/** Objects that stand for cores: hardware threads where the machine does not tell of cores. */
hwloc_obj_t gln_topology_core_object(const gln_topology_t *topology, int core);

/** Report that hwloc cannot do `what`, with errno. */
gln_status_t gln_hwloc_failed(const char *what);

/** Fill devices and links; the topology is loaded. Freed by gln_topology_close. */
gln_status_t gln_topology_find_devices(gln_topology_t *topology);
/** Fill `latency`. */
gln_status_t gln_topology_find_latency(gln_topology_t *topology);

#ifdef __cplusplus
}
#endif
#endif
