/* The plan. Cores are listed pool by pool (a pool is what some ranks share: a NUMA node, or the
 * machine), and n ranks of a pool of c cores get [j c / n, (j + 1) c / n). Without devices each
 * NUMA node gets one rank, and the i-th of n further ranks goes where the (i C / n)-th of all C
 * cores is that are left then, which puts no more ranks on a node than it has cores. O(cores x
 * ranks), once. */
#include "cluster/binding.h"

#include "base/log.h"
#include "cluster/devices.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct gln_binding_plan {
    int ranks, cores_count;
    bool near_devices;
    char reason[128];
    int *core_rank; /* [cores]: -1: nobody's */
    int *core_numa; /* [cores] */
    int *first;     /* [ranks + 1] into cores */
    int *cores;     /* [cores], by rank, then ascending */
    int *device;    /* [ranks] */
    int *pool;      /* [ranks]: NUMA node while the plan is made */
};

static int cores_of_numa(const gln_binding_plan_t *plan, int numa)
{
    int count = 0;
    for (int core = 0; core < plan->cores_count; core++)
        count += plan->core_numa[core] == numa;
    return count;
}

/* Deal the cores of a NUMA node out to the ranks whose pool it is. */
static void deal_numa(gln_binding_plan_t *plan, int numa)
{
    int ranks = 0, cores = cores_of_numa(plan, numa), at = 0;
    for (int rank = 0; rank < plan->ranks; rank++)
        ranks += plan->pool[rank] == numa;
    if (ranks == 0) return;
    if (ranks > cores) {
        snprintf(plan->reason, sizeof plan->reason, "%d ranks share %d core%s of NUMA node %d",
                 ranks, cores, cores == 1 ? "" : "s", numa);
        return;
    }
    for (int core = 0; core < plan->cores_count; core++) {
        if (plan->core_numa[core] != numa) continue;
        /* the j with j c / n <= at < (j + 1) c / n */
        int j = (int)(((long)(at + 1) * ranks - 1) / cores);
        for (int rank = 0, seen = 0; rank < plan->ranks; rank++)
            if (plan->pool[rank] == numa && seen++ == j) plan->core_rank[core] = rank;
        at++;
    }
}

/* Fewer ranks than NUMA nodes with cores: rank i gets nodes [i M / n, (i + 1) M / n) of the M. */
static void deal_whole_nodes(gln_binding_plan_t *plan, int nodes, int used)
{
    for (int numa = 0, at = 0; numa < nodes; numa++) {
        if (cores_of_numa(plan, numa) == 0) continue;
        int rank = (int)(((long)(at + 1) * plan->ranks - 1) / used);
        for (int core = 0; core < plan->cores_count; core++)
            if (plan->core_numa[core] == numa) plan->core_rank[core] = rank;
        at++;
    }
}

/* At least as many ranks as NUMA nodes with cores. */
static void choose_pools(gln_binding_plan_t *plan, int nodes, int used)
{
    long extra = plan->ranks - used, room = plan->cores_count - used;
    long extra_seen = 0, room_seen = 0;
    int rank = 0;
    for (int numa = 0; numa < nodes; numa++) {
        int cores = cores_of_numa(plan, numa);
        if (cores == 0) continue;
        plan->pool[rank++] = numa;
        room_seen += cores - 1;
        while (extra_seen < extra && extra_seen * room / extra < room_seen) {
            plan->pool[rank++] = numa;
            extra_seen++;
        }
    }
}

static void deal(const gln_topology_t *topology, gln_binding_plan_t *plan, bool near_devices)
{
    int nodes = gln_topology_numa_nodes(topology), used = 0;
    for (int numa = 0; numa < nodes; numa++)
        used += cores_of_numa(plan, numa) > 0;
    if (!near_devices && plan->ranks < used) {
        deal_whole_nodes(plan, nodes, used);
        return;
    }
    for (int rank = 0; near_devices && rank < plan->ranks; rank++)
        plan->pool[rank] = gln_topology_device(topology, plan->device[rank])->numa_node;
    if (!near_devices) choose_pools(plan, nodes, used);
    for (int numa = 0; numa < nodes && !plan->reason[0]; numa++)
        deal_numa(plan, numa);
}

/* @return true where each rank has a GPU whose NUMA node is known */
static bool deal_devices(const gln_topology_t *topology, const gln_binding_options_t *options,
                         gln_binding_plan_t *plan)
{
    int gpus = gln_topology_gpus(topology);
    bool are_placed = options->devices && gpus > 0;
    for (int rank = 0; rank < plan->ranks; rank++) {
        bool is_shared = plan->ranks > gpus;
        plan->device[rank] = !options->devices || gpus == 0 ? -1
                             : is_shared                    ? (int)((long)rank * gpus / plan->ranks)
                                                            : rank;
        are_placed =
            are_placed && gln_topology_device(topology, plan->device[rank])->numa_node >= 0;
    }
    return are_placed;
}

/* Cores by rank, out of the rank of each core. */
static void list_cores(gln_binding_plan_t *plan)
{
    int at = 0;
    for (int rank = 0; rank < plan->ranks; rank++) {
        plan->first[rank] = at;
        for (int core = 0; core < plan->cores_count; core++)
            if (plan->core_rank[core] == rank) plan->cores[at++] = core;
    }
    plan->first[plan->ranks] = at;
}

gln_status_t gln_binding_plan_open(const gln_topology_t *topology,
                                   const gln_binding_options_t *options, gln_binding_plan_t **out)
{
    if (!topology || !options || !out || options->ranks < 1)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "binding: expected a topology, at least 1 rank and a place for the plan");
    size_t ranks = (size_t)options->ranks, cores = (size_t)gln_topology_cores(topology);
    gln_binding_plan_t *plan = calloc(1, sizeof *plan + (3 * cores + 3 * ranks + 1) * sizeof(int));
    if (!plan)
        return gln_fail(GLN_ERR_MEMORY, "binding: out of memory for %d ranks", options->ranks);
    plan->ranks = options->ranks;
    plan->cores_count = (int)cores;
    plan->core_rank = (int *)(plan + 1);
    plan->core_numa = plan->core_rank + cores;
    plan->cores = plan->core_numa + cores;
    plan->device = plan->cores + cores;
    plan->pool = plan->device + ranks;
    plan->first = plan->pool + ranks;
    for (int core = 0; core < plan->cores_count; core++) {
        plan->core_rank[core] = -1;
        plan->core_numa[core] = gln_topology_core_numa(topology, core);
    }
    plan->near_devices = deal_devices(topology, options, plan);
    if (plan->ranks > plan->cores_count)
        snprintf(plan->reason, sizeof plan->reason, "%d ranks share %d core%s", plan->ranks,
                 plan->cores_count, plan->cores_count == 1 ? "" : "s");
    else
        deal(topology, plan, plan->near_devices);
    for (int core = 0; plan->reason[0] && core < plan->cores_count; core++)
        plan->core_rank[core] = -1;
    list_cores(plan);
    *out = plan;
    return GLN_OK;
}

void gln_binding_plan_close(gln_binding_plan_t *plan)
{
    free(plan);
}

const char *gln_binding_plan_reason(const gln_binding_plan_t *plan)
{
    return plan->reason;
}

bool gln_binding_plan_near_devices(const gln_binding_plan_t *plan)
{
    return plan->near_devices;
}

const int *gln_binding_plan_cores(const gln_binding_plan_t *plan, int rank, int *count)
{
    GLN_ASSERT(rank >= 0 && rank < plan->ranks);
    *count = plan->first[rank + 1] - plan->first[rank];
    return plan->cores + plan->first[rank];
}

int gln_binding_plan_rank_of(const gln_binding_plan_t *plan, int core)
{
    GLN_ASSERT(core >= 0 && core < plan->cores_count);
    return plan->core_rank[core];
}

int gln_binding_plan_numa(const gln_binding_plan_t *plan, int rank)
{
    int count;
    const int *cores = gln_binding_plan_cores(plan, rank, &count);
    for (int i = 1; i < count; i++)
        if (plan->core_numa[cores[i]] != plan->core_numa[cores[0]]) return -1;
    return count > 0 ? plan->core_numa[cores[0]] : -1;
}

int gln_binding_plan_device(const gln_binding_plan_t *plan, int rank)
{
    GLN_ASSERT(rank >= 0 && rank < plan->ranks);
    return plan->device[rank];
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

void gln_binding_cores_text(const int *cores, int count, char *out, size_t size)
{
    out[0] = '\0';
    append(out, size, count == 0 ? "no core" : count == 1 ? "core" : "cores");
    for (int i = 0; i < count; i++) {
        int first = i;
        while (i + 1 < count && cores[i + 1] == cores[i] + 1)
            i++;
        append(out, size, "%s%d", first ? "," : " ", cores[first]);
        if (i > first) append(out, size, "-%d", cores[i]);
    }
}
