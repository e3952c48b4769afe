/* GPUs, network cards, CUDA and NCCL of one machine. CUDA is looked for as a program would load it,
 * without being linked to it, so that the same program runs where there is none. */
#include "launcher/doctor.h"

#include "cluster/devices.h"
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *const distances[GLN_DISTANCES] = {
    [GLN_DISTANCE_SAME] = "the same",
    [GLN_DISTANCE_CLOSE] = "one PCI switch",
    [GLN_DISTANCE_NUMA] = "one NUMA node",
    [GLN_DISTANCE_PACKAGE] = "one package",
    [GLN_DISTANCE_MACHINE] = "across the machine",
};

static void *load(const char *const *names)
{
    void *library = NULL;
    for (; *names && !library; names++)
        library = dlopen(*names, RTLD_LAZY | RTLD_LOCAL);
    return library;
}

typedef int (*version_t)(int *);

/* Version by a function such as cudaRuntimeGetVersion; 0: the library was not found. */
static int version_of(const char *const *names, const char *function)
{
    int version = 0;
    void *library = load(names);
    if (!library) return 0;
    void *symbol = dlsym(library, function);
    version_t ask;
    memcpy(&ask, &symbol, sizeof ask);
    if (!symbol || ask(&version) != 0) version = 0;
    return version; /* stays loaded: some of these do not survive a dlclose */
}

static void look_cuda(const char *host, int gpus, gln_findings_t *out)
{
    static const char *const driver_names[] = {"libcuda.so.1", NULL};
    static const char *const runtime_names[] = {"libcudart.so.13", "libcudart.so.12",
                                                "libcudart.so.11.0", "libcudart.so", NULL};
    static const char *const nccl_names[] = {"libnccl.so.2", "libnccl.so", NULL};
    int driver = version_of(driver_names, "cuDriverGetVersion");
    int runtime = version_of(runtime_names, "cudaRuntimeGetVersion");
    int nccl = version_of(nccl_names, "ncclGetVersion");
    char text[32] = "none";
    if (runtime) snprintf(text, sizeof text, "%d.%d", runtime / 1000, runtime % 1000 / 10);
    if (!driver)
        gln_findings_add(out, "cuda", host, gpus ? GLN_FINDING_WARNING : GLN_FINDING_OK,
                         gpus ? "install NVIDIA's driver, or start the container with --gpus all; "
                                "until then gleaner computes on CPUs"
                              : "",
                         "no driver (libcuda.so.1)%s; runtime: %s",
                         access("/dev/nvidia0", F_OK) == 0 ? ", though there is /dev/nvidia0" : "",
                         text);
    else if (runtime / 1000 > driver / 1000)
        gln_findings_add(out, "cuda", host, GLN_FINDING_WARNING,
                         "update the driver, or use a runtime of its major version",
                         "the driver is for CUDA %d.%d, older than the runtime %s", driver / 1000,
                         driver % 1000 / 10, text);
    else
        gln_findings_add(out, "cuda", host, GLN_FINDING_OK, "",
                         "driver for CUDA %d.%d; runtime: %s", driver / 1000, driver % 1000 / 10,
                         text);
    if (nccl)
        gln_findings_add(out, "nccl", host, GLN_FINDING_OK, "", "%d.%d.%d", nccl / 10000,
                         nccl % 10000 / 100, nccl % 100);
    else
        gln_findings_add(
            out, "nccl", host, gpus > 1 && driver ? GLN_FINDING_WARNING : GLN_FINDING_OK,
            gpus > 1 && driver ? "install libnccl2 for GPUs that talk to each other" : "",
            "not found (libnccl.so.2)");
}

static void look_gpus(const char *host, const gln_topology_t *topology, gln_findings_t *out)
{
    int gpus = gln_topology_gpus(topology);
    for (int g = 0; g < gpus; g++) {
        const gln_io_device_t *gpu = gln_topology_device(topology, g);
        int nic = gln_topology_nearest_nic(topology, g), links = 0;
        char text[160] = "no network card";
        for (int other = 0; other < gpus; other++)
            links += other != g && gln_topology_link_mbps(topology, g, other) > 0;
        if (nic >= 0)
            snprintf(text, sizeof text, "nearest card %s, %s",
                     gln_topology_device(topology, nic)->name,
                     distances[gln_topology_device_distance(topology, g, nic)]);
        gln_findings_add(out, "gpu", host, GLN_FINDING_OK, "",
                         "%s %s, NUMA node %d; %s; direct links to %d of %d other GPUs", gpu->name,
                         gpu->model, gpu->numa_node, text, links, gpus - 1);
    }
    if (gpus == 0) gln_findings_add(out, "gpu", host, GLN_FINDING_OK, "", "none");
}

static void look_cards(const char *host, const gln_topology_t *topology, gln_findings_t *out)
{
    int gpus = gln_topology_gpus(topology), all = gln_topology_devices(topology);
    char text[256] = "";
    for (int d = gpus; d < all; d++) {
        const gln_io_device_t *card = gln_topology_device(topology, d);
        size_t at = strlen(text);
        snprintf(text + at, sizeof text - at, "%s%s (NUMA node %d)", at ? ", " : "", card->name,
                 card->numa_node);
    }
    gln_findings_add(out, "network", host, GLN_FINDING_OK, "", "%s",
                     text[0] ? text : "no network card that hwloc knows: virtual ones at most");
}

void gln_doctor_devices(const char *host, gln_findings_t *out)
{
    gln_topology_t *topology = NULL;
    int gpus = 0;
    if (gln_topology_open(&topology) == GLN_OK) {
        gpus = gln_topology_gpus(topology);
        look_gpus(host, topology, out);
        look_cards(host, topology, out);
        gln_topology_close(topology);
    }
    look_cuda(host, gpus, out);
}
