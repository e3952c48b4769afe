/* A thin layer over hwloc: counts, the binding as a set of cores, and words for both. I/O devices
 * are looked for too, which hwloc by itself leaves out. */
#include "cluster/topology_internal.h"

#include "base/log.h"
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every fallible call of hwloc goes through here; `what` completes "hwloc cannot ...". */
#define CHECK_HWLOC(call, what) ((call) < 0 ? gln_hwloc_failed(what) : GLN_OK)

gln_status_t gln_hwloc_failed(const char *what)
{
    int error = errno;
    return gln_fail(error == ENOMEM ? GLN_ERR_MEMORY : GLN_ERR_BACKEND, "hwloc cannot %s: %s", what,
                    strerror(error));
}

static void append(char *out, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void append(char *out, size_t size, const char *format, ...)
{
    size_t used = strlen(out);
    va_list args;
    va_start(args, format);
    vsnprintf(out + used, size - used, format, args);
    va_end(args);
}

typedef enum source_kind { LIVE, SYNTHETIC, XML_FILE, XML_TEXT } source_kind_t;

/* `source`: description, path or text. */
static gln_status_t set_source(hwloc_topology_t hwloc, source_kind_t kind, const char *source)
{
    if (kind == SYNTHETIC && hwloc_topology_set_synthetic(hwloc, source) < 0)
        return gln_fail(GLN_ERR_CONFIG,
                        "topology: expected a description such as \"package:2 numa:1 core:4 "
                        "pu:2\", found \"%s\"",
                        source);
    if (kind == XML_FILE) {
        FILE *file = fopen(source, "r");
        if (!file)
            return gln_fail(GLN_ERR_DATA, "topology: cannot read %s: %s", source, strerror(errno));
        fclose(file);
    }
    if ((kind == XML_FILE && hwloc_topology_set_xml(hwloc, source) < 0) ||
        (kind == XML_TEXT &&
         hwloc_topology_set_xmlbuffer(hwloc, source, (int)strlen(source) + 1) < 0))
        return gln_fail(GLN_ERR_DATA,
                        "topology: expected hwloc's XML, as `lstopo --of xml` writes it, found "
                        "something else in %s",
                        kind == XML_FILE ? source : "the text");
    return CHECK_HWLOC(hwloc_topology_set_io_types_filter(hwloc, HWLOC_TYPE_FILTER_KEEP_IMPORTANT),
                       "look for devices");
}

static gln_status_t load(gln_topology_t *topology, source_kind_t kind, const char *source)
{
    gln_status_t status = set_source(topology->hwloc, kind, source);
    if (status != GLN_OK) return status;
    if (hwloc_topology_load(topology->hwloc) < 0) {
        if (kind == XML_FILE || kind == XML_TEXT)
            return gln_fail(GLN_ERR_DATA, "topology: %s is not a whole machine in hwloc's XML",
                            kind == XML_FILE ? source : "the text");
        return gln_hwloc_failed("read the topology");
    }
    topology->is_live = kind == LIVE && hwloc_topology_is_thissystem(topology->hwloc);
    status = gln_topology_find_latency(topology);
    return status == GLN_OK ? gln_topology_find_devices(topology) : status;
}

static gln_status_t open_topology(source_kind_t kind, const char *source, gln_topology_t **out)
{
    if (!out || (kind != LIVE && !source))
        return gln_fail(GLN_ERR_ARGUMENT,
                        "topology: expected what to read and a place for it, found NULL");
    gln_topology_t *topology = calloc(1, sizeof *topology);
    if (!topology) return gln_fail(GLN_ERR_MEMORY, "topology: out of memory");
    gln_status_t status = CHECK_HWLOC(hwloc_topology_init(&topology->hwloc), "start");
    if (status == GLN_OK) status = load(topology, kind, source);
    if (status == GLN_OK)
        *out = topology;
    else
        gln_topology_close(topology);
    return status;
}

gln_status_t gln_topology_open(gln_topology_t **out)
{
    return open_topology(LIVE, NULL, out);
}

gln_status_t gln_topology_open_synthetic(const char *description, gln_topology_t **out)
{
    return open_topology(SYNTHETIC, description, out);
}

gln_status_t gln_topology_open_xml(const char *path, gln_topology_t **out)
{
    return open_topology(XML_FILE, path, out);
}

gln_status_t gln_topology_open_xml_text(const char *text, gln_topology_t **out)
{
    return open_topology(XML_TEXT, text, out);
}

gln_status_t gln_topology_write_xml(const gln_topology_t *topology, char **out)
{
    char *text = NULL;
    int size = 0;
    gln_status_t status =
        CHECK_HWLOC(hwloc_topology_export_xmlbuffer(topology->hwloc, &text, &size, 0), "write XML");
    if (status != GLN_OK) return status;
    char *copy = strndup(text, (size_t)size);
    hwloc_free_xmlbuffer(topology->hwloc, text);
    if (!copy) return gln_fail(GLN_ERR_MEMORY, "topology: out of memory for its XML");
    *out = copy;
    return GLN_OK;
}

void gln_topology_close(gln_topology_t *topology)
{
    if (!topology) return;
    free(topology->latency);
    free(topology->links_mbps);
    free(topology->devices);
    if (topology->hwloc) hwloc_topology_destroy(topology->hwloc);
    free(topology);
}

/* Some machines (virtual ones, mostly) do not tell of a level; it then counts as one part. */
static int count(const gln_topology_t *topology, hwloc_obj_type_t type)
{
    int parts = hwloc_get_nbobjs_by_type(topology->hwloc, type);
    return parts > 0 ? parts : 1;
}

static hwloc_obj_type_t core_type(const gln_topology_t *topology)
{
    bool has_cores = hwloc_get_nbobjs_by_type(topology->hwloc, HWLOC_OBJ_CORE) > 0;
    return has_cores ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
}

hwloc_obj_t gln_topology_core_object(const gln_topology_t *topology, int core)
{
    hwloc_obj_t object =
        hwloc_get_obj_by_type(topology->hwloc, core_type(topology), (unsigned)core);
    GLN_ASSERT(core >= 0 && object);
    return object;
}

int gln_topology_packages(const gln_topology_t *topology)
{
    return count(topology, HWLOC_OBJ_PACKAGE);
}

int gln_topology_numa_nodes(const gln_topology_t *topology)
{
    return count(topology, HWLOC_OBJ_NUMANODE);
}

int gln_topology_cores(const gln_topology_t *topology)
{
    return count(topology, core_type(topology));
}

int gln_topology_pus(const gln_topology_t *topology)
{
    return count(topology, HWLOC_OBJ_PU);
}

/* The hardware threads on which this thread may run; everything where the system does not say.
 * NULL without memory. Caller frees. */
static hwloc_bitmap_t allowed_pus(const gln_topology_t *topology)
{
    hwloc_const_bitmap_t all = hwloc_topology_get_topology_cpuset(topology->hwloc);
    hwloc_bitmap_t allowed = hwloc_bitmap_dup(all);
    if (!allowed || !topology->is_live) return allowed;
    if (hwloc_get_cpubind(topology->hwloc, allowed, HWLOC_CPUBIND_THREAD) < 0)
        hwloc_bitmap_copy(allowed, all);
    hwloc_bitmap_and(allowed, allowed, all);
    return allowed;
}

static bool is_core_allowed(const gln_topology_t *topology, int core, hwloc_const_bitmap_t allowed)
{
    hwloc_obj_t object = gln_topology_core_object(topology, core);
    return !allowed || hwloc_bitmap_intersects(object->cpuset, allowed);
}

bool gln_topology_core_allowed(const gln_topology_t *topology, int core)
{
    hwloc_bitmap_t allowed = allowed_pus(topology);
    bool is_allowed = is_core_allowed(topology, core, allowed);
    hwloc_bitmap_free(allowed);
    return is_allowed;
}

bool gln_topology_is_bound(const gln_topology_t *topology)
{
    hwloc_const_bitmap_t all = hwloc_topology_get_topology_cpuset(topology->hwloc);
    hwloc_bitmap_t allowed = allowed_pus(topology);
    bool is_bound = allowed && !hwloc_bitmap_isincluded(all, allowed);
    hwloc_bitmap_free(allowed);
    return is_bound;
}

int gln_topology_allowed_cores(const gln_topology_t *topology)
{
    hwloc_bitmap_t allowed = allowed_pus(topology);
    int cores = gln_topology_cores(topology), allowed_count = 0;
    for (int core = 0; core < cores; core++)
        allowed_count += is_core_allowed(topology, core, allowed);
    hwloc_bitmap_free(allowed);
    return allowed_count > 0 ? allowed_count : 1;
}

void gln_topology_summary(const gln_topology_t *topology, char *out, size_t size)
{
    const struct {
        const char *one, *many;
        int count;
    } parts[] = {
        {"package", "packages", gln_topology_packages(topology)},
        {"NUMA node", "NUMA nodes", gln_topology_numa_nodes(topology)},
        {"core", "cores", gln_topology_cores(topology)},
        {"PU", "PUs", gln_topology_pus(topology)},
    };
    out[0] = '\0';
    for (int i = 0; i < 4; i++)
        append(out, size, "%s%d %s", i ? ", " : "", parts[i].count,
               parts[i].count == 1 ? parts[i].one : parts[i].many);
    if (!topology->is_live) return;
    char features[128];
    gln_cpu_features(features, sizeof features);
    append(out, size, ", %s", features);
}

void gln_topology_binding(const gln_topology_t *topology, char *out, size_t size)
{
    hwloc_bitmap_t allowed = allowed_pus(topology);
    int cores = gln_topology_cores(topology);
    out[0] = '\0';
    append(out, size, "%s", gln_topology_allowed_cores(topology) == 1 ? "core" : "cores");
    const char *separator = " ";
    for (int first = 0; first < cores; first++) {
        if (!is_core_allowed(topology, first, allowed)) continue;
        int last = first;
        while (last + 1 < cores && is_core_allowed(topology, last + 1, allowed))
            last++;
        append(out, size, "%s%d", separator, first);
        if (last > first) append(out, size, "-%d", last);
        separator = ",";
        first = last;
    }
    if (!gln_topology_is_bound(topology)) append(out, size, " (not bound)");
    hwloc_bitmap_free(allowed);
}

void gln_cpu_features(char *out, size_t size)
{
    const char *vector = "no vector extensions known", *matrix = "";
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bf16"))
        vector = "AVX-512 bf16";
    else if (__builtin_cpu_supports("avx512f"))
        vector = "AVX-512";
    else if (__builtin_cpu_supports("avx2"))
        vector = "AVX2";
    else if (__builtin_cpu_supports("avx"))
        vector = "AVX";
    else
        vector = "SSE2"; /* every x86-64 has it */
#if !defined(__clang__)
    if (__builtin_cpu_supports("amx-bf16")) matrix = ", AMX bf16";
#endif
#elif defined(__aarch64__)
    vector = "NEON"; /* every aarch64 has it */
#endif
    snprintf(out, size, "%s%s", vector, matrix);
}
