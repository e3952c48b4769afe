/* Devices out of hwloc's PCI functions and OS devices; one PCI function is one device, however many
 * OS devices it has. A GPU is a PCI function with a coprocessor or a management handle of NVIDIA or
 * AMD, or one of their display or accelerator functions without any (no driver loaded); screens of
 * a service processor are not. Links: hwloc's bandwidth matrices, with GPUs behind one switch
 * joined by hwloc's own transforms. O(devices^2), once. */
#include "cluster/topology_internal.h"

#include "base/log.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    VENDOR_NVIDIA = 0x10de,
    VENDOR_AMD = 0x1002,
    CLASS_DISPLAY = 0x03,
    CLASS_ACCELERATOR = 0x12
};

/* Names of GPUs, best first. */
static const char *const gpu_names[] = {"cuda", "nvml", "rsmi", "opencl", "ze", NULL};

static int name_rank(const char *name)
{
    int rank = 0;
    while (gpu_names[rank] && strncmp(name, gpu_names[rank], strlen(gpu_names[rank])) != 0)
        rank++;
    return rank;
}

static bool is_network(hwloc_obj_t os)
{
    return os->attr->osdev.type == HWLOC_OBJ_OSDEV_NETWORK ||
           os->attr->osdev.type == HWLOC_OBJ_OSDEV_OPENFABRICS;
}

/* The device that an OS device makes of what holds it; false: none of ours. */
static bool take_os_device(hwloc_obj_t os, gln_io_device_t *device)
{
    const char *name = os->name ? os->name : "";
    bool is_first = device->name[0] == 0;
    if (is_network(os)) {
        bool is_better = os->attr->osdev.type == HWLOC_OBJ_OSDEV_OPENFABRICS;
        device->kind = GLN_IO_NIC;
        if (is_first || is_better) snprintf(device->name, sizeof device->name, "%.31s", name);
        return true;
    }
    if (!gpu_names[name_rank(name)]) return false;
    device->kind = GLN_IO_GPU;
    if (is_first || name_rank(name) < name_rank(device->name)) {
        const char *model = hwloc_obj_get_info_by_name(os, "GPUModel");
        snprintf(device->name, sizeof device->name, "%.31s", name);
        if (model) snprintf(device->model, sizeof device->model, "%.63s", model);
    }
    return true;
}

static bool take_pci(hwloc_obj_t pci, gln_io_device_t *device)
{
    const struct hwloc_pcidev_attr_s *attr = &pci->attr->pcidev;
    int class = attr->class_id >> 8;
    bool is_ours = false;
    for (hwloc_obj_t os = pci->io_first_child; os; os = os->next_sibling)
        if (os->type == HWLOC_OBJ_OS_DEVICE) is_ours = take_os_device(os, device) || is_ours;
    snprintf(device->bus_id, sizeof device->bus_id, "%04x:%02x:%02x.%x", attr->domain & 0xffffu,
             attr->bus, attr->dev & 0x1fu, attr->func & 7u);
    if (!is_ours && ((attr->vendor_id == VENDOR_NVIDIA &&
                      (class == CLASS_DISPLAY || class == CLASS_ACCELERATOR)) ||
                     (attr->vendor_id == VENDOR_AMD &&
                      (attr->class_id == 0x0380 || class == CLASS_ACCELERATOR)))) {
        device->kind = GLN_IO_GPU;
        snprintf(device->name, sizeof device->name, "%s", device->bus_id);
        is_ours = true;
    }
    const char *model = hwloc_obj_get_info_by_name(pci, "PCIDevice");
    if (model && !device->model[0]) snprintf(device->model, sizeof device->model, "%.63s", model);
    return is_ours;
}

static void place(const gln_topology_t *topology, hwloc_obj_t object, gln_io_device_t *device)
{
    hwloc_obj_t near = hwloc_get_non_io_ancestor_obj(topology->hwloc, object);
    hwloc_obj_t package = near, node = NULL, found = NULL;
    int nodes = 0;
    while (package && package->type != HWLOC_OBJ_PACKAGE)
        package = package->parent;
    device->package = package                                ? (int)package->logical_index
                      : gln_topology_packages(topology) == 1 ? 0
                                                             : -1;
    while (near && (node = hwloc_get_next_obj_by_type(topology->hwloc, HWLOC_OBJ_NUMANODE, node)))
        if (hwloc_bitmap_isset(near->nodeset, node->os_index)) {
            found = node;
            nodes++;
        }
    device->numa_node = nodes == 1 ? (int)found->logical_index : -1;
    if (device->package < 0 && nodes == 1)
        device->package = gln_topology_numa_package(topology, device->numa_node);
}

static int compare(const void *a, const void *b)
{
    const gln_found_device_t *x = a, *y = b;
    if (x->device.kind != y->device.kind) return x->device.kind < y->device.kind ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

/* PCI order; GPUs by the number at the end of their name where all names are of one kind. */
static void sort_devices(gln_topology_t *topology)
{
    bool has_numbers = true;
    int first_rank = -1;
    for (int i = 0; i < topology->devices_count; i++) {
        gln_found_device_t *found = &topology->devices[i];
        found->order = i;
        if (found->device.kind != GLN_IO_GPU) continue;
        int rank = name_rank(found->device.name);
        if (first_rank < 0) first_rank = rank;
        has_numbers = has_numbers && rank == first_rank && rank < 3;
        topology->gpus_count++;
    }
    for (int i = 0; has_numbers && i < topology->devices_count; i++) {
        gln_found_device_t *found = &topology->devices[i];
        if (found->device.kind != GLN_IO_GPU) continue;
        found->order = strtol(found->device.name + strlen(gpu_names[first_rank]), NULL, 10);
    }
    qsort(topology->devices, (size_t)topology->devices_count, sizeof *topology->devices, compare);
}

/* The device of a PCI function or of an OS device; -1: none. */
static int device_of(const gln_topology_t *topology, hwloc_obj_t object)
{
    for (hwloc_obj_t at = object; at; at = at->parent)
        for (int i = 0; i < topology->devices_count; i++)
            if (topology->devices[i].object == at) return i;
    return -1;
}

static void read_links(gln_topology_t *topology, const char *name)
{
    struct hwloc_distances_s *matrix = NULL;
    unsigned count = 1;
    int devices = topology->devices_count;
    if (hwloc_distances_get_by_name(topology->hwloc, name, &count, &matrix, 0) < 0 || count == 0)
        return;
    /* fails where there is no switch: the matrix tells of direct links then, and stays as it is */
    if (hwloc_distances_transform(topology->hwloc, matrix,
                                  HWLOC_DISTANCES_TRANSFORM_MERGE_SWITCH_PORTS, NULL, 0) == 0)
        hwloc_distances_transform(topology->hwloc, matrix,
                                  HWLOC_DISTANCES_TRANSFORM_TRANSITIVE_CLOSURE, NULL, 0);
    for (unsigned i = 0; i < matrix->nbobjs; i++)
        for (unsigned j = 0; j < matrix->nbobjs; j++) {
            int a = matrix->objs[i] ? device_of(topology, matrix->objs[i]) : -1;
            int b = matrix->objs[j] ? device_of(topology, matrix->objs[j]) : -1;
            if (a < 0 || b < 0 || a == b) continue;
            topology->links_mbps[a * devices + b] =
                (unsigned long)matrix->values[i * matrix->nbobjs + j];
        }
    hwloc_distances_release(topology->hwloc, matrix);
}

/* Room for every PCI function and OS device. */
static int count_candidates(const gln_topology_t *topology)
{
    int pci = hwloc_get_nbobjs_by_type(topology->hwloc, HWLOC_OBJ_PCI_DEVICE);
    int os = hwloc_get_nbobjs_by_type(topology->hwloc, HWLOC_OBJ_OS_DEVICE);
    return (pci > 0 ? pci : 0) + (os > 0 ? os : 0);
}

gln_status_t gln_topology_find_devices(gln_topology_t *topology)
{
    size_t room = (size_t)count_candidates(topology);
    if (room == 0) return GLN_OK;
    topology->devices = calloc(room, sizeof *topology->devices);
    if (!topology->devices)
        return gln_fail(GLN_ERR_MEMORY, "topology: out of memory for %zu devices", room);
    for (hwloc_obj_t pci = NULL; (pci = hwloc_get_next_pcidev(topology->hwloc, pci));) {
        gln_found_device_t found = {.object = pci};
        if (!take_pci(pci, &found.device)) continue;
        place(topology, pci, &found.device);
        topology->devices[topology->devices_count++] = found;
    }
    for (hwloc_obj_t os = NULL; (os = hwloc_get_next_osdev(topology->hwloc, os));) {
        gln_found_device_t found = {.object = os};
        bool is_alone = os->parent->type != HWLOC_OBJ_PCI_DEVICE;
        if (!is_alone || !is_network(os) || !take_os_device(os, &found.device)) continue;
        place(topology, os, &found.device);
        topology->devices[topology->devices_count++] = found;
    }
    sort_devices(topology);
    size_t devices = (size_t)topology->devices_count;
    topology->links_mbps = calloc(devices * devices + 1, sizeof *topology->links_mbps);
    if (!topology->links_mbps)
        return gln_fail(GLN_ERR_MEMORY, "topology: out of memory for links of %zu devices",
                        devices);
    read_links(topology, "NVLinkBandwidth");
    read_links(topology, "XGMIBandwidth");
    return GLN_OK;
}

int gln_topology_devices(const gln_topology_t *topology)
{
    return topology->devices_count;
}

int gln_topology_gpus(const gln_topology_t *topology)
{
    return topology->gpus_count;
}

const gln_io_device_t *gln_topology_device(const gln_topology_t *topology, int device)
{
    GLN_ASSERT(device >= 0 && device < topology->devices_count);
    return &topology->devices[device].device;
}

/* The outermost PCI bridge above a device that is not the host's: its switch or root port. */
static hwloc_obj_t root_port(hwloc_obj_t object)
{
    hwloc_obj_t port = NULL;
    for (hwloc_obj_t at = object->parent; at && at->type == HWLOC_OBJ_BRIDGE; at = at->parent)
        if (at->attr->bridge.upstream_type == HWLOC_OBJ_BRIDGE_PCI) port = at;
    return port;
}

gln_distance_t gln_topology_device_distance(const gln_topology_t *topology, int a, int b)
{
    const gln_io_device_t *x = gln_topology_device(topology, a),
                          *y = gln_topology_device(topology, b);
    if (a == b) return GLN_DISTANCE_SAME;
    hwloc_obj_t port = root_port(topology->devices[a].object);
    if (port && port == root_port(topology->devices[b].object)) return GLN_DISTANCE_CLOSE;
    if (x->numa_node >= 0 && x->numa_node == y->numa_node) return GLN_DISTANCE_NUMA;
    if (x->package >= 0 && x->package == y->package) return GLN_DISTANCE_PACKAGE;
    return GLN_DISTANCE_MACHINE;
}

gln_distance_t gln_topology_core_to_device(const gln_topology_t *topology, int core, int device)
{
    const gln_io_device_t *d = gln_topology_device(topology, device);
    if (d->numa_node >= 0 && d->numa_node == gln_topology_core_numa(topology, core))
        return GLN_DISTANCE_NUMA;
    if (d->package >= 0 && d->package == gln_topology_core_package(topology, core))
        return GLN_DISTANCE_PACKAGE;
    return GLN_DISTANCE_MACHINE;
}

/* Among NICs at the smallest distance, the (number of earlier GPUs with that distance to the same
 * first NIC)-th, in turn. */
int gln_topology_nearest_nic(const gln_topology_t *topology, int device)
{
    gln_distance_t best = GLN_DISTANCES;
    int first = -1, equal = 0, turn = 0;
    for (int nic = topology->gpus_count; nic < topology->devices_count; nic++) {
        gln_distance_t distance = gln_topology_device_distance(topology, device, nic);
        if (distance < best) {
            best = distance;
            first = nic;
            equal = 0;
        }
        equal += distance == best;
    }
    if (first < 0) return -1;
    for (int gpu = 0; gpu < device && gpu < topology->gpus_count; gpu++)
        turn += gln_topology_device_distance(topology, gpu, first) == best;
    for (int nic = first, at = 0; nic < topology->devices_count; nic++)
        if (gln_topology_device_distance(topology, device, nic) == best && at++ == turn % equal)
            return nic;
    return first;
}

unsigned long gln_topology_link_mbps(const gln_topology_t *topology, int a, int b)
{
    int devices = topology->devices_count;
    GLN_ASSERT(a >= 0 && a < devices && b >= 0 && b < devices);
    return topology->links_mbps ? topology->links_mbps[a * devices + b] : 0;
}
