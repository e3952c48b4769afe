/* Where ranks are: found on the machines of a job, or planned on one. Found: every rank looks at
 * its own machine; one allgather tells of places and of how machines are made; the lowest rank of
 * each kind of machine sends its topology to rank 0 as XML. O(P) data, one topology per kind. */
#include "launcher/topo.h"

#include "base/log.h"
#include "cluster/binding.h"
#include "launcher/bind.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t mix(uint64_t hash, const void *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ ((const unsigned char *)data)[i]) * 1099511628211u; /* FNV-1a */
    return hash;
}

/* What the picture shows of a machine, but for its name. */
static uint64_t shape_of(const gln_topology_t *topology)
{
    uint64_t hash = 14695981039346656037u;
    int devices = gln_topology_devices(topology);
    for (int core = 0; core < gln_topology_cores(topology); core++) {
        int at[3] = {gln_topology_core_package(topology, core),
                     gln_topology_core_numa(topology, core), gln_topology_core_l3(topology, core)};
        hash = mix(hash, at, sizeof at);
    }
    for (int i = 0; i < devices; i++) {
        const gln_io_device_t *device = gln_topology_device(topology, i);
        hash = mix(hash, device->name, strlen(device->name));
        hash = mix(hash, &device->numa_node, sizeof device->numa_node);
        for (int j = 0; j < devices; j++) {
            unsigned long mbps = gln_topology_link_mbps(topology, i, j);
            hash = mix(hash, &mbps, sizeof mbps);
        }
    }
    const char *cpu = gln_topology_cpu(topology, 0);
    return mix(hash, cpu, strlen(cpu));
}

static void add_core(const gln_topology_t *topology, int core, gln_topo_rank_t *rank)
{
    int numa = gln_topology_core_numa(topology, core);
    int package = gln_topology_core_package(topology, core);
    bool is_first = rank->cores_count == 0;
    rank->cores[core / 64] |= (uint64_t)1 << (core % 64);
    rank->place.numa_node = is_first || rank->place.numa_node == numa ? numa : -1;
    rank->place.package = is_first || rank->place.package == package ? package : -1;
    rank->cores_count++;
}

static gln_status_t check_size(const gln_topology_t *topology)
{
    int cores = gln_topology_cores(topology);
    if (cores <= GLN_TOPO_CORES_MAX) return GLN_OK;
    return gln_fail(GLN_ERR_ARGUMENT, "topology: at most %d cores a node can be drawn, found %d",
                    GLN_TOPO_CORES_MAX, cores);
}

static void look_at_cores(const gln_topology_t *topology, gln_topo_rank_t *rank)
{
    int cores = gln_topology_cores(topology);
    for (int core = 0; core < cores; core++)
        if (gln_topology_core_allowed(topology, core)) add_core(topology, core, rank);
    rank->bound = gln_topology_is_bound(topology);
    rank->shape = shape_of(topology);
}

/* Slurm's switches above this node; 0 where it does not tell. */
static int switch_group(void)
{
    const char *address = getenv("SLURM_TOPOLOGY_ADDR");
    const char *node = address ? strrchr(address, '.') : NULL;
    return node ? (int)(mix(14695981039346656037u, address, (size_t)(node - address)) & 0x7fffffff)
                : 0;
}

static void give_devices(const gln_topology_t *topology, int local, int count,
                         gln_topo_rank_t *rank)
{
    gln_binding_plan_t *plan = NULL;
    gln_binding_options_t options = {.ranks = count, .devices = true};
    if (gln_binding_plan_open(topology, &options, &plan) != GLN_OK) return;
    rank->device = gln_binding_plan_device(plan, local);
    if (rank->device >= 0) rank->nic = gln_topology_nearest_nic(topology, rank->device);
    gln_binding_plan_close(plan);
}

static gln_status_t open_hierarchy(gln_topo_t *topo)
{
    gln_place_t *places = calloc((size_t)topo->ranks_count, sizeof *places);
    if (!places) return gln_fail(GLN_ERR_MEMORY, "topology: out of memory");
    for (int rank = 0; rank < topo->ranks_count; rank++)
        places[rank] = topo->ranks[rank].place;
    gln_status_t status = gln_hierarchy_open(places, topo->ranks_count, &topo->hierarchy);
    free(places);
    if (status == GLN_OK) topo->nodes_count = gln_hierarchy_nodes(topo->hierarchy);
    return status;
}

/* Lowest rank whose machine is made like that of `rank`. */
static int first_alike(const gln_topo_t *topo, int rank)
{
    int first = 0;
    while (topo->ranks[first].shape != topo->ranks[rank].shape)
        first++;
    return first;
}

/* Rank 0: a topology for every node, out of the XML texts that came in rank order. */
static gln_status_t place_nodes(gln_topo_t *topo, const size_t *bytes, const char *texts)
{
    size_t ranks = (size_t)topo->ranks_count;
    int *opened_at = calloc(ranks, sizeof *opened_at);
    topo->nodes = calloc((size_t)topo->nodes_count, sizeof *topo->nodes);
    gln_status_t status =
        opened_at && topo->nodes ? GLN_OK : gln_fail(GLN_ERR_MEMORY, "topology: out of memory");
    for (int rank = 0; status == GLN_OK && rank < topo->ranks_count; rank++) {
        if (bytes[rank] == 0) continue;
        status = gln_topology_open_xml_text(texts, &topo->opened[topo->opened_count]);
        texts += bytes[rank];
        if (status == GLN_OK) opened_at[rank] = topo->opened_count++;
    }
    for (int node = 0; status == GLN_OK && node < topo->nodes_count; node++) {
        int leader = gln_hierarchy_rank_on_node(topo->hierarchy, node, 0);
        topo->nodes[node] = topo->opened[opened_at[first_alike(topo, leader)]];
    }
    free(opened_at);
    return status;
}

/* Topologies to rank 0, which keeps its own as opened[0]: *topology is NULL there then. */
static gln_status_t collect(gln_session_t *session, gln_topology_t **topology, gln_topo_t *topo)
{
    size_t ranks = (size_t)session->ranks, mine = 0, total = 0;
    char *text = NULL, *texts = NULL;
    size_t *sent = calloc(3 * ranks, sizeof *sent);
    if (!sent) return gln_fail(GLN_ERR_MEMORY, "topology: out of memory");
    size_t *received = sent + ranks, *all = received + ranks;
    gln_status_t status = GLN_OK;
    if (session->rank != 0 && first_alike(topo, session->rank) == session->rank)
        status = gln_topology_write_xml(*topology, &text);
    if (text) mine = strlen(text) + 1;
    gln_status_t gathered = gln_comm_allgather(session->comm, &mine, sizeof mine, all);
    for (size_t r = 0; gathered == GLN_OK && r < ranks; r++)
        total += all[r];
    if (session->rank == 0) {
        memcpy(received, all, ranks * sizeof *all);
        texts = malloc(total + 1);
        topo->opened = calloc(ranks, sizeof *topo->opened);
    }
    sent[0] = mine;
    if (session->rank == 0 && (!texts || !topo->opened))
        status = gln_fail(GLN_ERR_MEMORY, "topology: out of memory for %zu bytes", total);
    if (gathered == GLN_OK) gathered = gln_session_agree(session, status);
    if (gathered == GLN_OK)
        gathered = gln_comm_alltoallv(session->comm, text, sent, texts, received);
    if (gathered == GLN_OK && session->rank == 0) {
        topo->opened[topo->opened_count++] = *topology;
        *topology = NULL;
        gathered = place_nodes(topo, received, texts);
    }
    free(texts);
    free(text);
    free(sent);
    return gathered;
}

static gln_status_t describe(gln_session_t *session, const gln_topology_t *topology, bool devices,
                             gln_topo_rank_t *me)
{
    int machine_local;
    bool alike;
    gln_status_t status =
        gln_bind_machine(session->comm, &machine_local, &me->machine_ranks, &alike);
    if (status != GLN_OK) return status;
    int node = gln_comm_node_of(session->comm, session->rank), local = 0, count = 0;
    for (int r = 0; r < session->ranks; r++) {
        if (gln_comm_node_of(session->comm, r) != node) continue;
        local += r < session->rank;
        count++;
    }
    me->place = (gln_place_t){.node = node, .numa_node = -1, .package = -1};
    me->place.group = switch_group();
    me->device = me->nic = -1;
    gethostname(me->host, sizeof me->host - 1);
    look_at_cores(topology, me);
    if (devices) give_devices(topology, local, count, me);
    return GLN_OK;
}

gln_status_t gln_topo_look(gln_session_t *session, bool devices, gln_topo_t *out)
{
    gln_topology_t *topology = NULL;
    gln_topo_rank_t me = {0};
    out->ranks_count = session->ranks;
    out->ranks = calloc((size_t)session->ranks, sizeof *out->ranks);
    gln_status_t status = gln_topology_open(&topology);
    if (status == GLN_OK) status = check_size(topology);
    if (!out->ranks) status = gln_fail(GLN_ERR_MEMORY, "topology: out of memory");
    status = gln_session_agree(session, status);
    if (status != GLN_OK) goto close_topology;
    snprintf(out->source, sizeof out->source, "%s",
             session->ranks > 1 ? "this job" : "this machine");
    status = describe(session, topology, devices, &me);
    if (status == GLN_OK) status = gln_comm_allgather(session->comm, &me, sizeof me, out->ranks);
    if (status == GLN_OK) status = open_hierarchy(out);
    status = gln_session_agree(session, status);
    if (status == GLN_OK) status = collect(session, &topology, out);
    status = gln_session_agree(session, status);
close_topology:
    gln_topology_close(topology);
    return status;
}

gln_status_t gln_topo_plan(gln_topology_t *topology, int ranks, bool devices, gln_topo_t *out)
{
    gln_binding_plan_t *plan = NULL;
    gln_binding_options_t options = {.ranks = ranks, .devices = devices};
    out->opened = calloc(1, sizeof *out->opened);
    out->nodes = calloc(1, sizeof *out->nodes);
    out->ranks = calloc((size_t)ranks, sizeof *out->ranks);
    if (!out->opened || !out->nodes || !out->ranks) {
        gln_topology_close(topology);
        return gln_fail(GLN_ERR_MEMORY, "topology: out of memory for %d ranks", ranks);
    }
    out->opened[out->opened_count++] = topology;
    out->nodes[0] = topology;
    out->ranks_count = ranks;
    gln_status_t status = check_size(topology);
    if (status == GLN_OK) status = gln_binding_plan_open(topology, &options, &plan);
    if (status != GLN_OK) return status;
    for (int r = 0; r < ranks; r++) {
        gln_topo_rank_t *rank = &out->ranks[r];
        int count;
        const int *cores = gln_binding_plan_cores(plan, r, &count);
        rank->place = (gln_place_t){.numa_node = -1, .package = -1};
        for (int i = 0; i < count; i++)
            add_core(topology, cores[i], rank);
        rank->bound = count > 0 && count < gln_topology_cores(topology);
        rank->machine_ranks = ranks;
        rank->device = gln_binding_plan_device(plan, r);
        rank->nic = rank->device >= 0 ? gln_topology_nearest_nic(topology, rank->device) : -1;
        snprintf(rank->host, sizeof rank->host, "%.63s", gln_topology_host(topology));
    }
    const char *reason = gln_binding_plan_reason(plan);
    bool near_devices = gln_binding_plan_near_devices(plan);
    snprintf(out->plan, sizeof out->plan, "%s%s", reason[0] ? "not bound: " : "",
             reason[0]      ? reason
             : near_devices ? "each rank near its GPU"
                            : "even shares of the cores");
    gln_binding_plan_close(plan);
    return open_hierarchy(out);
}
