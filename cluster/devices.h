/* GPUs and network cards of a machine: where they sit, and the links between GPUs that do not lead
 * over PCI. All of it is what hwloc found or what the XML file says, read once at open:
 *
 * - GPUs are known by their PCI function, so they are found without any driver. Names such as cuda0
 *   or nvml0 need an hwloc that was built with CUDA or NVML, on the live machine or on the one that
 *   wrote the XML file (Debian: libhwloc-contrib-plugins); otherwise the name is the PCI address.
 * - GPU-GPU links (NVLink, XGMI) come from hwloc's matrices NVLinkBandwidth and XGMIBandwidth,
 * which it has under the same condition (NVML, ROCm SMI). No link known is not no link.
 *
 * Devices are numbered from 0, GPUs first. GPUs are in the order of the numbers in their names
 * where all have one, otherwise in PCI order; NICs in PCI order. Thread-safe after open. */
#ifndef GLN_CLUSTER_DEVICES_H
#define GLN_CLUSTER_DEVICES_H

#include "cluster/topology.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum gln_io_kind { GLN_IO_GPU, GLN_IO_NIC } gln_io_kind_t;

typedef struct gln_io_device {
    gln_io_kind_t kind;
    char name[32];   /* "cuda0", "mlx5_0", "eth0", or the PCI address */
    char model[64];  /* "NVIDIA A100-SXM4-40GB", "" if unknown */
    char bus_id[16]; /* "0000:07:00.0", "" without PCI */
    int numa_node;   /* -1: the machine does not tell, or it is as near to several */
    int package;     /* likewise */
} gln_io_device_t;

/** GPUs and NICs. */
int gln_topology_devices(const gln_topology_t *topology);
/** GPUs alone: devices 0 to this - 1. */
int gln_topology_gpus(const gln_topology_t *topology);

/** Borrowed until close. */
const gln_io_device_t *gln_topology_device(const gln_topology_t *topology, int device);

/** How near two devices are: SAME is one device, CLOSE is below one PCI switch (one root port), the
 * rest as for cores. Where a side's place is unknown, MACHINE. */
gln_distance_t gln_topology_device_distance(const gln_topology_t *topology, int a, int b);

/** NUMA, PACKAGE or MACHINE. */
gln_distance_t gln_topology_core_to_device(const gln_topology_t *topology, int core, int device);

/** The NIC nearest to a device, the lowest number among equals; -1 if there is none. GPUs that are
 * as near to the same NICs as others take turns, in their order. */
int gln_topology_nearest_nic(const gln_topology_t *topology, int device);

/** Bandwidth of the direct link from GPU a to GPU b (or over their switch), 10^6 bytes per second;
 * 0 where none is known. */
unsigned long gln_topology_link_mbps(const gln_topology_t *topology, int a, int b);

#ifdef __cplusplus
}
#endif
#endif
